"""Audit messages as XML (DICOM PS3.15 A.5): one place makes those of every use and every event.

A message bears what A.5.3 asks for: patient ids and UIDs, never findings, and a name only where
somebody has asked for it, within the query.
"""

from __future__ import annotations

import base64
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from dicom_node.settings import Peer, Settings
from dicom_node.store.ledger.events import Event, Stage

if TYPE_CHECKING:
    from dicom_node.store.uses import Use

Study = tuple[str, str, tuple[tuple[str, int], ...]]
"""Study Instance UID, patient id, and how many objects of which SOP class."""

ACTS = frozenset(
    (
        Stage.RETRY, Stage.RESEND, Stage.REPLAY, Stage.RELEASE, Stage.SETTLED, Stage.GIVEN_UP,
        Stage.ADOPTED, Stage.AGREE, Stage.DISAGREE,
    )
)  # fmt: skip
"""Events that a person caused; a delivery that was given up by itself is none of them."""


class Code(NamedTuple):
    """A coded value of DICOM PS3.16 Annex D."""

    value: str
    meaning: str
    scheme: str = "DCM"


ACTIVITY = Code("110100", "Application Activity")
QUERY = Code("110112", "Query")
ACCESSED = Code("110103", "DICOM Instances Accessed")
START = Code("110120", "Application Start")
STOP = Code("110121", "Application Stop")
TRANSFERRED = Code("110104", "DICOM Instances Transferred")
AUTHENTICATION = Code("110114", "User Authentication")
ALERT = Code("110113", "Security Alert")
MISUSE = Code("110132", "Use of Restricted Function")
EXPORT = Code("110106", "Export")
CONFIGURATION = Code("110131", "Software Configuration")
USERS = Code("110137", "User Security Attributes Changed")
LOGIN = Code("110122", "Login")
LOGOUT = Code("110123", "Logout")
APPLICATION = Code("110150", "Application")
SOURCE = Code("110153", "Source Role ID")
DESTINATION = Code("110152", "Destination Role ID")
STUDY = Code("110180", "Study Instance UID")
SOP_CLASS = Code("110181", "SOP Class UID")
URI = Code("12", "URI", "RFC-3881")
PATIENT = Code("2", "Patient Number", "RFC-3881")

LONGEST = 256
"""Characters of a value."""

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})

SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = 0, 4, 8


@dataclass(frozen=True, slots=True)
class Participant:
    """Who took part: a person, or an application entity."""

    user: str
    role: Code | None = None
    ae_title: str = ""
    address: str = ""
    is_requestor: bool = False


@dataclass(frozen=True, slots=True)
class Thing:
    """What it was about: a study, a patient or a question.

    ``classes`` are the SOP classes of what was used and how many objects of each; ``query`` is
    what was asked, in base64, and ``transfer_syntax`` how that is encoded.
    """

    ident: str
    kind: Code
    type_code: int
    role: int
    classes: tuple[tuple[str, int], ...] = ()
    query: str = ""
    transfer_syntax: str = ""
    alert: str = ""


def message(
    source: str,
    event: Code,
    action: str,
    outcome: int,
    participants: Sequence[Participant],
    *,
    kind: Code | None = None,
    things: Sequence[Thing] = (),
    at: float,
) -> str:
    """Return one audit message as XML in one line (DICOM PS3.15 A.5.1).

    Parameters
    ----------
    source : str
        Name of the system whose trail this is.
    action : str
        C(reate), R(ead), U(pdate), D(elete) or E(xecute).
    at : float
        When it happened, in seconds since the epoch.
    """
    when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    codes = _coded_element("EventID", event)
    if kind is not None:
        codes += _coded_element("EventTypeCode", kind)
    identification = {
        "EventActionCode": action,
        "EventDateTime": when,
        "EventOutcomeIndicator": str(outcome),
    }
    return "".join(
        (
            "<AuditMessage>",
            _xml_element("EventIdentification", identification, codes),
            *map(_participant_xml, participants),
            _xml_element("AuditSourceIdentification", {"AuditSourceID": source}),
            *map(_object_xml, things),
            "</AuditMessage>",
        )
    )


# Made as text: ElementTree takes three times as long, and there are two messages for each image.


def _xml_element(name: str, attributes: Mapping[str, str], content: str = "") -> str:
    written = "".join(f' {key}="{_escape_value(value)}"' for key, value in attributes.items())
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written} />"


def _escape_value(value: str) -> str:
    if value.isalnum():
        return value[:LONGEST]
    return _clean_text(value).translate(_ESCAPES)


@lru_cache(maxsize=256)
def _coded_element(name: str, code: Code) -> str:
    attributes = {
        "csd-code": code.value,
        "codeSystemName": code.scheme,
        "originalText": code.meaning,
    }
    return _xml_element(name, attributes)


@lru_cache(maxsize=256)
def _is_number(address: str) -> bool:
    """Return whether this is an IP address and not a name."""
    try:
        ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return True


@lru_cache(maxsize=256)
def _participant_xml(participant: Participant) -> str:
    attributes = {
        "UserID": _clean_text(participant.user) or "unknown",
        "UserIsRequestor": str(participant.is_requestor).lower(),
    }
    if participant.ae_title:
        attributes["AlternativeUserID"] = f"AETITLES={participant.ae_title}"
    if participant.address:
        attributes["NetworkAccessPointID"] = participant.address
        attributes["NetworkAccessPointTypeCode"] = "2" if _is_number(participant.address) else "1"
    content = _coded_element("RoleIDCode", participant.role) if participant.role is not None else ""
    return _xml_element("ActiveParticipant", attributes, content)


def _object_xml(thing: Thing) -> str:
    attributes = {
        "ParticipantObjectID": thing.ident,
        "ParticipantObjectTypeCode": str(thing.type_code),
        "ParticipantObjectTypeCodeRole": str(thing.role),
    }
    content = _coded_element("ParticipantObjectIDTypeCode", thing.kind)
    if thing.query:
        content += f"<ParticipantObjectQuery>{thing.query}</ParticipantObjectQuery>"
    if thing.transfer_syntax:
        content += _detail_xml("TransferSyntax", thing.transfer_syntax)
    if thing.alert:
        content += _detail_xml("Alert Description", thing.alert)
    for uid, count in thing.classes:
        content += _xml_element("SOPClass", {"UID": uid, "NumberOfInstances": str(count)})
    return _xml_element("ParticipantObjectIdentification", attributes, content)


def _detail_xml(name: str, text: str) -> str:
    # In base64 by the schema: longer than an attribute of ours, and of safe characters.
    value = base64.b64encode(text[:LONGEST].encode("utf-8", "replace")).decode()
    return f'<ParticipantObjectDetail type="{name}" value="{value}" />'


def _clean_text(text: str) -> str:
    """Return text that XML may hold, in one line."""
    text = text[:LONGEST]
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() and c not in "\ufffe\uffff" else " " for c in text)


def application(settings: Settings, *, starts: bool, at: float) -> str:
    """Return the message that the node starts or stops (A.5.3.1)."""
    kind = START if starts else STOP
    return message(
        _source_name(settings),
        ACTIVITY,
        "E",
        SUCCESS,
        [_own_application(settings)],
        kind=kind,
        at=at,
    )


def of_event(settings: Settings, event: Event) -> str:
    """Return the message of an event of the ledger; empty for what the trail does not have."""
    if event.stage in ("received", "sent"):
        return _transfer_message(settings, event)
    if event.stage in ACTS and event.details.by:
        return _act_message(settings, event)
    return ""


def _transfer_message(settings: Settings, event: Event) -> str:
    """Return that Instances came in or went out (A.5.3.7)."""
    node = settings.node
    us = Participant(str(os.getpid()), None, node.ae_title, _host_name(node.host))
    other = _other_side(event, settings.peers)
    is_received = event.stage == "received"
    source, destination = (other, us) if is_received else (us, other)
    participants = [
        Participant(source.user, SOURCE, source.ae_title, source.address, is_requestor=True),
        Participant(destination.user, DESTINATION, destination.ae_title, destination.address),
    ]
    is_image = is_received and event.sop_class_uid
    of_image = ((event.sop_class_uid, 1),) if is_image else ()
    things = [Thing(event.study_instance_uid or "", STUDY, 2, 3, of_image)]
    things += [Thing(event.patient_id or "", PATIENT, 1, 1)]
    action = "C" if is_received else "R"
    return message(
        _source_name(settings),
        TRANSFERRED,
        action,
        SUCCESS,
        participants,
        things=things,
        at=event.at,
    )


def _act_message(settings: Settings, event: Event) -> str:
    """Return that a person changed what becomes of an Instance, or judged a report (A.5.3.2)."""
    details = event.details
    who = Participant(details.by, None, "", details.address, is_requestor=True)
    verb = str(event.stage)
    about = " ".join(part for part in (details.kind, details.destination) if part)
    detail = f"{verb} {event.sop_instance_uid} {about}".strip()
    things = [
        Thing(event.study_instance_uid or "", STUDY, 2, 3, ((event.sop_class_uid, 1),),
              alert=detail),
        Thing(event.patient_id or "", PATIENT, 1, 1),
    ]  # fmt: skip
    return message(
        _source_name(settings), ACCESSED, "U", SUCCESS, [who, _own_application(settings)],
        kind=Code(verb.replace(" ", "-"), verb, "99CHEXFRACT"), things=things, at=event.at,
    )  # fmt: skip


class _Shape(NamedTuple):
    """What the message of a use is: event, its type, action, and outcome when it was not served."""

    event: Code
    kind: Code | None
    action: str
    failure: int = MINOR_FAILURE


_SHAPES = {
    "queried": _Shape(QUERY, None, "E"),
    "retrieved": _Shape(TRANSFERRED, None, "R"),
    "accessed": _Shape(ACCESSED, None, "R"),
    "exported": _Shape(EXPORT, None, "R"),
    "signed-in": _Shape(AUTHENTICATION, LOGIN, "E"),
    "signed-out": _Shape(AUTHENTICATION, LOGOUT, "E"),
    "configured": _Shape(ALERT, CONFIGURATION, "E"),
    "users-changed": _Shape(ALERT, USERS, "E"),
    "result-refused": _Shape(ALERT, MISUSE, "E", SERIOUS_FAILURE),
}


def of_use(settings: Settings, use: Use, at: float) -> str:
    """Return the message of a use."""
    shape = _SHAPES[use.what]
    is_good = use.is_served and use.what != "result-refused"
    return message(
        _source_name(settings),
        shape.event,
        shape.action,
        SUCCESS if is_good else shape.failure,
        _participants_of_use(use, settings),
        kind=shape.kind,
        things=_objects_of_use(use),
        at=at,
    )


def _source_name(settings: Settings) -> str:
    return settings.audit.source or settings.node.ae_title


def _own_application(settings: Settings) -> Participant:
    return Participant(str(os.getpid()), APPLICATION, settings.node.ae_title)


def _other_side(event: Event, peers: dict[str, Peer]) -> Participant:
    """Return who sent the Instance, or to whom its report was sent."""
    if event.stage == "received":
        ae_title, host = event.calling_ae or "", event.calling_host or ""
        return Participant(f"{ae_title}@{host}", None, ae_title, host)
    name = event.details.destination
    if event.is_old:  # a sentence of a version before 0.2.0, for one version more
        found = re.match(r"\S+ to (\S+): 0x", event.detail)
        name = found[1] if found else "unknown"
    peer = peers.get(name)
    if peer is None:
        return Participant(name)
    return Participant(name, None, peer.ae_title, peer.host)


def _participants_of_use(use: Use, settings: Settings) -> list[Participant]:
    """Return who gave, who got, and who asked when that is a third one (A.5.3.7, A.5.3.10)."""
    node = settings.node
    us = Participant(str(os.getpid()), None, node.ae_title, _host_name(node.host))
    user = Participant(use.user, None, use.ae_title, use.address, is_requestor=True)
    if use.what == "accessed":
        return [user, us]
    if use.what not in ("queried", "retrieved", "exported"):
        return [user, _own_application(settings)]
    if use.what == "queried":
        return [_with_role(SOURCE, user), _with_role(DESTINATION, us)]
    if not use.receiver:
        return [_with_role(SOURCE, us), _with_role(DESTINATION, user)]
    receiver = Participant(use.receiver, None, use.receiver, use.receiver_address)
    return [_with_role(SOURCE, us), _with_role(DESTINATION, receiver), user]


def _with_role(role: Code, participant: Participant) -> Participant:
    return replace(participant, role=role)


def _objects_of_use(use: Use) -> list[Thing]:
    """Return what was asked, or the studies and patients that were used."""
    if use.what == "queried":
        is_web = use.service.startswith("/")
        kind, role = (URI, 24) if is_web else (SOP_CLASS, 3)
        query = Thing(use.service, kind, 2, role, (), use.query, use.transfer_syntax)
        return [query]
    if use.alert:
        return [Thing(use.service, URI, 2, 13, alert=use.alert)]
    found = [Thing(study, STUDY, 2, 3, classes) for study, _, classes in use.studies]
    return found + [Thing(patient, PATIENT, 1, 1) for patient in patients_of(use.studies)]


def patients_of(studies: Sequence[Study]) -> list[str]:
    """Return the patient ids of some studies, each once."""
    return list(dict.fromkeys(patient for _, patient, _ in studies if patient))


def _host_name(host: str) -> str:
    return host if host not in ("", "0.0.0.0", "::") else socket.gethostname()  # noqa: S104
