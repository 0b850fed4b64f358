"""Asks an archive whether the object that it has under a UID is the report that it was sent.

Two nodes that get one image make one report, under one UID. The archive that takes it from the
first answers the second with 0x0111 (duplicate SOP Instance), which does not say whose it has.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pynetdicom.presentation import build_context

from dicom_node.base.errors import NotUnderstood, Refused, Transient
from dicom_node.dimse.contexts import EXPLICIT_LITTLE, IMPLICIT_LITTLE, VERIFICATION
from dicom_node.dimse.pull import FIND, find, query
from dicom_node.dimse.scu import Destination
from dicom_node.settings import Peer
from dicom_node.standard.unreadable import UNREADABLE


def why_not_there(ae_title: str, peer: Peer, report: Path | bytes) -> str:
    """Return why a peer that calls this report a duplicate may not have it; empty where it has.

    The UID tells image, model and generation; so a report under it in the same study, of the same
    class and patient, says the same. The peer is asked by C-FIND (Study Root) on an association of
    its own.

    Raises
    ------
    NotUnderstood
        The report cannot be read.
    """
    try:
        ours = dcmread(BytesIO(report) if isinstance(report, bytes) else report)
    except UNREADABLE as exc:
        raise NotUnderstood(f"the report cannot be read: {type(exc).__name__}") from exc
    try:
        with Destination(ae_title, peer) as archive:
            return _archive_difference(archive, ours)
    except (Transient, Refused) as exc:
        return f"cannot be asked for it: {exc}"


def _archive_difference(archive: Destination, ours: Dataset) -> str:
    little = [EXPLICIT_LITTLE, IMPLICIT_LITTLE]
    archive.connect_as([build_context(uid, little) for uid in (VERIFICATION, FIND)], [])
    if not archive.accepts(FIND):
        return "takes no C-FIND (Study Root) from here that could tell whether it is this report"
    study, uid = str(ours.StudyInstanceUID), str(ours.SOPInstanceUID)
    asked = query(
        "IMAGE",
        StudyInstanceUID=study,
        SeriesInstanceUID=str(ours.SeriesInstanceUID),
        SOPInstanceUID=uid,
        SOPClassUID="",
    )
    found = [match for match in find(archive, asked) if str(match.get("SOPInstanceUID", "")) == uid]
    if not found:
        return "does not find it in its study and series"
    if str(found[0].get("SOPClassUID", "")) not in ("", str(ours.SOPClassUID)):
        return "has an object of another SOP class under its UID"
    for match in find(archive, query("STUDY", StudyInstanceUID=study, PatientID="")):
        theirs = str(match.get("PatientID", "")).strip()
        if theirs and theirs != str(ours.get("PatientID", "")).strip():
            return "has this study under another Patient ID"
    return ""
