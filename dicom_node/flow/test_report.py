"""A test send: whether an archive takes each kind of object that this node will send to it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dicom_node.base.errors import Unreachable
from dicom_node.base.local_time import local_time
from dicom_node.dimse.contexts import REPORTS, SECOND_OBJECTS
from dicom_node.flow.test_objects import PATIENT_ID, PATIENT_NAME, build
from dicom_node.settings import Peer
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.status import StatusKind, fault, meaning, read_status

if TYPE_CHECKING:
    from dicom_node.dimse.scu import Destination

__all__ = ["PATIENT_ID", "PATIENT_NAME", "Taken", "is_fine", "send"]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a peer did with one kind of object."""

    kind: str
    """As in ``objects`` of node.toml."""
    name: str
    """Its SOP class in words."""
    state: Literal["taken", "taken with warning", "refused", "no context", "no answer"]
    status: int | None
    """Of the answer; None where there was none."""
    meaning: str
    """Why it was not taken; empty where it was."""
    remark: str
    """With which warning it was taken."""
    ms: float


def send(ae_title: str, peer: Peer) -> list[Taken]:
    """Store a test object of each kind in the peer's ``objects``; each is about nobody.

    The report goes in the first of its ``sop_classes`` that the peer accepts, as real ones do.

    Raises
    ------
    Unreachable
        The peer accepts no association.
    """
    # Imported when an operator asks: the pages show the test's name without pynetdicom.
    from dicom_node.dimse.scu import Destination

    with tempfile.TemporaryDirectory() as folder, Destination(ae_title, peer) as destination:
        destination.connect([uid for choice in _sop_class_choices(peer).values() for uid in choice])
        return list(_try_kinds(destination, Path(folder), ae_title, peer, local_time()))


def _sop_class_choices(peer: Peer) -> dict[str, list[str]]:
    """Return the SOP classes in which each kind can be sent, the preferred one first."""
    reports = [SR_CLASSES[name] for name in peer.sop_classes]
    return {kind: reports if kind == "sr" else [SECOND_OBJECTS[kind]] for kind in peer.objects}


def _try_kinds(
    destination: Destination, folder: Path, ae_title: str, peer: Peer, now: datetime
) -> Iterator[Taken]:
    choices = _sop_class_choices(peer)
    wanted = [uid for choice in choices.values() for uid in choice]
    for kind, classes in choices.items():
        try:
            destination.connect(wanted)  # again, where the last object ended the association
        except Unreachable as exc:
            yield Taken(kind, _class_names(classes), "no answer", None, str(exc), "", 0.0)
            continue
        accepted = [uid for uid in classes if destination.accepts(uid)][:1]
        if accepted:
            yield _store_object(destination, folder, kind, ae_title, accepted[0], now)
        else:
            why = "it accepts no presentation context for this SOP class"
            yield Taken(kind, _class_names(classes), "no context", None, why, "", 0.0)


def _store_object(
    destination: Destination, folder: Path, kind: str, ae_title: str, uid: str, now: datetime
) -> Taken:
    path = folder / "test.dcm"
    build(ae_title, uid, now).save_as(path, enforce_file_format=True)
    name, started = _class_names([uid]), time.perf_counter()
    try:
        status = destination.store(path)
    except Unreachable as exc:
        ms = (time.perf_counter() - started) * 1000
        return Taken(kind, name, "no answer", None, str(exc), "", ms)
    ms = (time.perf_counter() - started) * 1000
    if why := fault(status):
        return Taken(kind, name, "refused", status, why, "", ms)
    if read_status(status).kind is StatusKind.WARNING:
        return Taken(kind, name, "taken with warning", status, "", meaning(status), ms)
    return Taken(kind, name, "taken", status, "", "", ms)


def _class_names(classes: Sequence[str]) -> str:
    return " or ".join(REPORTS[uid].removesuffix(" Storage") for uid in classes)


def is_fine(taken: Sequence[Taken]) -> bool:
    """Return whether everything was taken."""
    return all(not answer.meaning for answer in taken)
