"""Whether a result belongs to its job: every object is about the Instance that was handed out.

A worker holds a secret that opens every job, so its word is not enough: an object of another
patient or study, or under another object's UID, would be sent to the archive in this node's name.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dicom_node.base.errors import NotUnderstood
from dicom_node.base.job import ReportObject, ReportOrder, Result
from dicom_node.standard import header
from dicom_node.standard.elements import EXPLICIT, text_of, walk
from dicom_node.standard.legal import legal_text
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.uids import (
    derived_uid,
    object_series_uid,
    object_uid,
    rejection_note_uid,
)

SOP_CLASSES: Final[Mapping[str, Collection[str]]] = {
    "sr": tuple(SR_CLASSES.values()),
    "basic-text": ("1.2.840.10008.5.1.4.1.1.88.11",),
    "sc": ("1.2.840.10008.5.1.4.1.1.7",),
    "gsps": ("1.2.840.10008.5.1.4.1.1.11.1",),
    "ko": ("1.2.840.10008.5.1.4.1.1.88.59",),
    "pdf": ("1.2.840.10008.5.1.4.1.1.104.1",),
    "rejection-note": ("1.2.840.10008.5.1.4.1.1.88.59",),
}
"""Kind of an object -> the SOP classes that it may be of."""

EVIDENCE: Final = frozenset(("sr", "basic-text", "ko", "gsps"))
"""Kinds that must refer to the image; a page (SC, PDF) may be about what is not an image."""

_CHARACTER_SET, _PATIENT_ID, _ISSUER = 0x00080005, 0x00100020, 0x00100021
_OWN = {
    0x00020002: "media SOP class",
    0x00020003: "media SOP instance",
    0x00020010: "transfer syntax",
    _CHARACTER_SET: "character set",
    0x00080016: "SOP class",
    0x00080018: "SOP Instance UID",
    _PATIENT_ID: "Patient ID",
    _ISSUER: "issuer",
    0x0020000D: "Study Instance UID",
    0x0020000E: "Series Instance UID",
}
_REFERENCED, _STUDY, _SERIES = 0x00081155, 0x0020000D, 0x0020000E
_PREDECESSORS = 0x0040A360
_EVIDENCE_SEQUENCES = frozenset((0x0040A375, 0x0040A385))
"""Current Requested Procedure Evidence and Pertinent Other Evidence (PS3.3 C.17.2)."""
_READ = frozenset((*_OWN, _REFERENCED, _STUDY))
"""What is read of an object; all of it is walked through."""


@dataclass(frozen=True, slots=True)
class ResultSource:
    """What a result must be about."""

    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    issuer: str
    order: ReportOrder
    written: tuple[str, str] = ("", "")
    """Patient ID and issuer as the worker's objects hold them."""


@dataclass(slots=True)
class _Found:
    """What an object says of itself and refers to."""

    own: dict[str, str] = field(default_factory=dict)
    references: set[str] = field(default_factory=set)
    studies: set[str] = field(default_factory=set)
    predecessors: set[str] = field(default_factory=set)


def read_source(file: Path, transfer_syntax_uid: str, order: ReportOrder) -> ResultSource:
    """Return what a result must be about, from the Instance as it was received.

    Raises
    ------
    NotUnderstood
        The file is not a data set.
    OSError
        It cannot be read.
    """
    wanted = {**header.TAGS, _ISSUER: "issuer"}
    identifiers = {_PATIENT_ID: "patient_id", _ISSUER: "issuer"}
    with file.open("rb") as content:
        facts = header.read_header(content, transfer_syntax_uid, wanted)
        content.seek(0)
        written = header.read_header(
            content, transfer_syntax_uid, identifiers, decode=header.text_for_reports
        )
    return ResultSource(
        facts["sop_instance_uid"],
        facts["study_instance_uid"],
        facts["series_instance_uid"],
        facts["patient_id"],
        facts["issuer"],
        order,
        (legal_text("LO", written["patient_id"]), legal_text("LO", written["issuer"])),
    )


def find_mismatch(source: ResultSource, result: Result, contents: Mapping[str, bytes]) -> str:
    """Return why a result does not belong to its job, in words without patient data; else "".

    Parameters
    ----------
    contents : mapping
        Part 10 bytes of each object by its part.
    """
    allowed = {source.sop_instance_uid, *(item.sop_instance_uid for item in result.objects)}
    if len(allowed) != len(result.objects) + 1:
        return "two objects have one SOP Instance UID"
    judgement = source.order.judgement
    if judgement is not None and result.device_uid != judgement.report.device_uid:
        return "a judgement's report names another device than the report that was judged"
    for item in result.objects:
        if problem := _object_mismatch(source, result, item, contents[item.part], allowed):
            return f"{item.part} ({item.kind}): {problem}"
    return ""


def _object_mismatch(
    source: ResultSource, result: Result, item: ReportObject, content: bytes, allowed: set[str]
) -> str:
    if item.kind == "rejection-note":
        if item.sop_instance_uid not in _ordered_notes(source):
            return "this rejection note was not ordered"
    elif item.kind != "sr" and item.kind not in source.order.objects:
        return "this kind was not ordered"
    if item.sop_class_uid not in SOP_CLASSES[item.kind]:
        return "its SOP class is not one of this kind"
    if problem := _own_uids(source, result, item):
        return problem
    try:
        found = _read_object(content)
    except NotUnderstood as exc:
        return str(exc)
    expected = {
        "transfer syntax": EXPLICIT,
        "character set": "ISO_IR 192",
        "media SOP class": item.sop_class_uid,
        "media SOP instance": item.sop_instance_uid,
        "SOP class": item.sop_class_uid,
        "SOP Instance UID": item.sop_instance_uid,
        "Series Instance UID": item.series_instance_uid,
        "Study Instance UID": source.study_instance_uid,
    }
    for name, value in expected.items():
        if found.own.get(name, "") != value:
            return f"its {name} is another than the job's"
    patient_id, issuer = found.own.get("Patient ID", ""), found.own.get("issuer", "")
    if not _is_same(patient_id, source.patient_id, source.written[0]):
        return "its Patient ID is another than the image's"
    if not _is_same_issuer(issuer, source.issuer, source.written[1]):
        return "its Issuer of Patient ID is another than the image's"
    return _wrong_reference(source, item, found, allowed)


def _ordered_notes(source: ResultSource) -> dict[str, set[str]]:
    """Return what each rejection note of the job hides, by the note's SOP Instance UID."""
    hidden = [{o.sop_instance_uid for o in note.objects} for note in source.order.rejection_notes]
    generation = source.order.generation
    return {rejection_note_uid(source.sop_instance_uid, generation, uids): uids for uids in hidden}


def _wrong_reference(
    source: ResultSource, item: ReportObject, found: _Found, allowed: set[str]
) -> str:
    if item.kind == "rejection-note":
        is_whole = found.references == _ordered_notes(source)[item.sop_instance_uid]
        is_here = found.studies <= {source.study_instance_uid}
        return "" if is_whole and is_here else "it does not hide what the job's note names"
    before = source.order.predecessor
    if found.predecessors - ({before.sop_instance_uid} if before else set()):
        return "it names a predecessor that is not the job's"
    if found.references - allowed:
        return "it refers to an object that is not the job's"
    if found.studies - {source.study_instance_uid}:
        return "its evidence is of another study"
    if item.kind in EVIDENCE and source.sop_instance_uid not in found.references:
        return "it does not refer to the image"
    return ""


def _own_uids(source: ResultSource, result: Result, item: ReportObject) -> str:
    """Return what is wrong with the UIDs of an object itself."""
    if item.kind == "rejection-note":
        pass  # its UID was looked up among the job's notes
    elif result.options:
        derived = object_uid(
            item.kind,
            item.sop_class_uid,
            source.sop_instance_uid,
            result.device_uid,
            result.options,
            source.order.generation,
        )
        if item.sop_instance_uid != derived:
            return "its SOP Instance UID is not the one derived for the job"
    elif not _is_derived(item.sop_instance_uid):
        # Workers of 0.1.0 do not say with which options a UID was made.
        return "its SOP Instance UID is not a derived one"
    series = {object_series_uid(item.kind, source.study_instance_uid, result.device_uid)}
    if item.kind == "basic-text":
        series.add(derived_uid("bt-series", item.sop_instance_uid))
    if item.series_instance_uid not in series:
        return "its Series Instance UID is not the one derived for the job"
    return ""


def _is_derived(uid: str) -> bool:
    """Return whether a UID has the form of `standard.uids`: a name-based UUID (PS3.5 B.2)."""
    number = uid.removeprefix("2.25.")
    if number == uid or not number.isdecimal() or int(number[:40]) >= 1 << 128:
        return False
    return uuid.UUID(int=int(number[:40])).version == 5


def _read_object(content: bytes) -> _Found:
    found = _Found()
    for element in walk(content, _READ):
        if not element.path:
            if name := _OWN.get(element.tag):
                found.own[name] = text_of(element)
        elif element.tag == _REFERENCED:
            is_before = _PREDECESSORS in element.path
            (found.predecessors if is_before else found.references).add(text_of(element))
        elif element.tag == _STUDY and _EVIDENCE_SEQUENCES.intersection(element.path):
            found.studies.add(text_of(element))
    return found


def _is_same(written: str, received: str, expected: str) -> bool:
    # An identifier that is not legal stands in its report as `standard.legal` makes it.
    same = (received, legal_text("LO", received), expected)
    return _plain_text(written) in map(_plain_text, same)


def _is_same_issuer(written: str, received: str, expected: str) -> bool:
    # Workers of 0.1.0 leave out a value that is not a legal LO, as an empty value is.
    is_legal = 0 < len(received) <= 64 and "\\" not in received
    return _is_same(written, received, expected) or (not written and not is_legal)


def _plain_text(text: str) -> str:
    """Return text as both programs keep it: without padding of values or unprintable characters."""
    return "\\".join(header.clean(part) for part in text.split("\\"))
