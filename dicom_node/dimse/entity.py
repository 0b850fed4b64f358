"""The node's own application entity, and the presentation contexts that it takes and proposes."""

from __future__ import annotations

from collections.abc import Collection

from pynetdicom import AE
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.base.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.dimse import patches
from dicom_node.dimse.contexts import (
    EXPLICIT_LITTLE,
    IMAGES,
    IMPLICIT_LITTLE,
    PUSH_MODEL,
    QUERIES,
    REPORTS,
    TRANSFER_SYNTAXES,
    VERIFICATION,
)


def entity(ae_title: str, max_pdu: int, *, moves: bool = False) -> AE:
    """Return an application entity that bears this software's own implementation identity."""
    patches.apply()
    ae = patches.Entity(ae_title) if moves else AE(ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = max_pdu
    return ae


def accepted() -> list[PresentationContext]:
    """Return the presentation contexts that the listener supports."""
    little = [EXPLICIT_LITTLE, IMPLICIT_LITTLE]
    return [
        build_context(VERIFICATION, little),
        *(build_context(uid, list(TRANSFER_SYNTAXES)) for uid in IMAGES),
        *(build_context(uid, little) for uid in QUERIES),
    ]


def commitment() -> PresentationContext:
    """Return the context in which an archive, as the requestor, reports what it commits to."""
    context = build_context(PUSH_MODEL, [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
    # We are the SCU whoever asks for the association: nobody commits anything here.
    context.scu_role, context.scp_role = False, True
    return context


def sent_back(sop_classes: Collection[str]) -> list[PresentationContext]:
    """Return contexts for the reports that a C-GET brings to a requestor that is their SCP."""
    contexts = []
    for uid in REPORTS:
        if uid not in sop_classes:
            continue
        syntaxes = list(TRANSFER_SYNTAXES) if uid in IMAGES else [EXPLICIT_LITTLE, IMPLICIT_LITTLE]
        context = build_context(uid, syntaxes)
        context.scu_role, context.scp_role = uid in IMAGES, True
        contexts.append(context)
    return contexts
