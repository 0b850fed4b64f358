"""The audit trail: who used the node and what was transferred (DICOM PS3.15 A.5).

Transfers and queries are read from the ledger's events, so none is missed while the repository is
away. A message bears what A.5.3 asks for: patient ids and UIDs, never findings, and a name only
where somebody has asked for it, within the query.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import socket
import ssl
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from dicom_node.base.errors import ChexFractError, Unreachable
from dicom_node.dimse import security
from dicom_node.settings import Audit, Peer, Settings
from dicom_node.store import uses
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.events import Event
from dicom_node.store.uses import Use

logger = logging.getLogger(__name__)

LOOK_S = 2.0
ANSWER_S = 3.0
_PAGE = 200
_STAGES = ("received", "sent", uses.RESULT_REFUSED, *uses.STAGES)
_PRIORITY = 10 * 8 + 5
"""Facility security/authorization (10), severity notice (5): PS3.15 A.6 by RFC 5424."""


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
LOGIN = Code("110122", "Login")
APPLICATION = Code("110150", "Application")
SOURCE = Code("110153", "Source Role ID")
DESTINATION = Code("110152", "Destination Role ID")
STUDY = Code("110180", "Study Instance UID")
SOP_CLASS = Code("110181", "SOP Class UID")
URI = Code("12", "URI", "RFC-3881")
PATIENT = Code("2", "Patient Number", "RFC-3881")

SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE = 0, 4, 8


@dataclass(frozen=True, slots=True)
class Participant:
    """One who took part: a person, or an application entity."""

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
    root = ET.Element("AuditMessage")
    told = {
        "EventActionCode": action,
        "EventDateTime": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        "EventOutcomeIndicator": str(outcome),
    }
    identification = ET.SubElement(root, "EventIdentification", told)
    _coded(identification, "EventID", event)
    if kind is not None:
        _coded(identification, "EventTypeCode", kind)
    for one in participants:
        _participant(root, one)
    ET.SubElement(root, "AuditSourceIdentification", {"AuditSourceID": _clean(source)})
    for thing in things:
        _thing(root, thing)
    return ET.tostring(root, encoding="unicode")


def _coded(parent: ET.Element, name: str, code: Code) -> None:
    attributes = {
        "csd-code": code.value,
        "codeSystemName": code.scheme,
        "originalText": code.meaning,
    }
    ET.SubElement(parent, name, attributes)


def _is_number(address: str) -> bool:
    """Return whether this is an IP address and not a name."""
    try:
        ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return True


def _participant(root: ET.Element, one: Participant) -> None:
    attributes = {
        "UserID": _clean(one.user) or "unknown",
        "UserIsRequestor": str(one.is_requestor).lower(),
    }
    if one.ae_title:
        attributes["AlternativeUserID"] = f"AETITLES={_clean(one.ae_title)}"
    if one.address:
        is_number = _is_number(one.address)
        attributes["NetworkAccessPointID"] = _clean(one.address)
        attributes["NetworkAccessPointTypeCode"] = "2" if is_number else "1"
    element = ET.SubElement(root, "ActiveParticipant", attributes)
    if one.role is not None:
        _coded(element, "RoleIDCode", one.role)


def _thing(root: ET.Element, thing: Thing) -> None:
    attributes = {
        "ParticipantObjectID": _clean(thing.ident),
        "ParticipantObjectTypeCode": str(thing.type_code),
        "ParticipantObjectTypeCodeRole": str(thing.role),
    }
    element = ET.SubElement(root, "ParticipantObjectIdentification", attributes)
    _coded(element, "ParticipantObjectIDTypeCode", thing.kind)
    if thing.query:
        ET.SubElement(element, "ParticipantObjectQuery").text = thing.query
    if thing.transfer_syntax:
        told = base64.b64encode(thing.transfer_syntax.encode()).decode()
        detail = {"type": "TransferSyntax", "value": told}
        ET.SubElement(element, "ParticipantObjectDetail", detail)
    if thing.alert:
        told = base64.b64encode(thing.alert.encode()).decode()
        detail = {"type": "Alert Description", "value": told}
        ET.SubElement(element, "ParticipantObjectDetail", detail)
    for uid, count in thing.classes:
        counted = {"UID": _clean(uid), "NumberOfInstances": str(count)}
        ET.SubElement(element, "SOPClass", counted)


def _clean(text: str) -> str:
    """Return text that XML may hold, in one line."""
    return "".join(c if c.isprintable() and c not in "\ufffe\uffff" else " " for c in text)[:256]


class Trail:
    """Writes messages to the file and the syslog that ``[audit]`` names.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._source = settings.audit.source or settings.node.ae_title
        self._file = Path(settings.audit.file) if settings.audit.file else None
        self._syslog = urlsplit(settings.audit.syslog) if settings.audit.syslog else None
        self.is_kept = bool(self._file or self._syslog)

    def activity(self, at: float, *, starts: bool) -> None:
        """Note that the node starts or stops."""
        us = Participant(str(os.getpid()), APPLICATION, self._settings.node.ae_title)
        kind = START if starts else STOP
        self._write(message(self._source, ACTIVITY, "E", SUCCESS, [us], kind=kind, at=at))

    def signed_in(self, name: str, address: str, is_right: bool, at: float) -> None:
        """Note an attempt to sign in; a failing trail lets people work and is logged."""
        who = Participant(name, None, "", address, is_requestor=True)
        us = Participant(str(os.getpid()), APPLICATION, self._settings.node.ae_title)
        outcome = SUCCESS if is_right else MINOR_FAILURE
        text = message(self._source, AUTHENTICATION, "E", outcome, [who, us], kind=LOGIN, at=at)
        try:
            self._write(text)
        except Unreachable as exc:
            logger.warning("a sign-in is missing in the audit trail: %s", exc)

    def transferred(self, event: Event) -> None:
        """Note an event ``received`` or ``sent`` of the ledger."""
        node = self._settings.node
        us = Participant(str(os.getpid()), None, node.ae_title, _host(node.host))
        other = _other(event, self._settings.peers)
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
        self._write(
            message(
                self._source,
                TRANSFERRED,
                action,
                SUCCESS,
                participants,
                things=things,
                at=event.at,
            )
        )

    def used(self, use: Use, at: float) -> None:
        """Note a query, a retrieval or a look at reports."""
        node = self._settings.node
        us = Participant(str(os.getpid()), None, node.ae_title, _host(node.host))
        outcome = SUCCESS if use.is_served else MINOR_FAILURE
        event = {"queried": QUERY, "retrieved": TRANSFERRED, "accessed": ACCESSED}[use.what]
        action = "E" if use.what == "queried" else "R"
        text = message(
            self._source,
            event,
            action,
            outcome,
            _participants(use, us),
            things=_things(use),
            at=at,
        )
        self._write(text)

    def refused(self, told: dict[str, str], at: float) -> None:
        """Note that a worker posted a result about something else than its job (A.5.3.11)."""
        us = Participant(str(os.getpid()), APPLICATION, self._settings.node.ae_title)
        worker = Participant(f"worker {told['worker']}", is_requestor=True)
        job = Thing(f"/jobs/{told['job']}/result", URI, 2, 13, alert=told["why"])
        text = message(
            self._source,
            ALERT,
            "E",
            SERIOUS_FAILURE,
            [us, worker],
            kind=MISUSE,
            things=[job],
            at=at,
        )
        self._write(text)

    def _write(self, text: str) -> None:
        try:
            if self._syslog is not None:
                self._send(text)
            if self._file is not None:
                self._append(text)
        except OSError as exc:
            raise Unreachable(f"the audit trail cannot be written: {exc.strerror or exc}") from exc

    def _append(self, text: str) -> None:
        assert self._file is not None  # noqa: S101 - for the reader: _write has looked
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        descriptor = os.open(self._file, flags, 0o600)
        try:
            # One write: several processes append to one file.
            os.write(descriptor, f"{text}\n".encode())
        finally:
            os.close(descriptor)

    def _send(self, text: str) -> None:
        assert self._syslog is not None  # noqa: S101 - for the reader: _write has looked
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        head = f"<{_PRIORITY}>1 {stamp} {_host('')} chexfract-node {os.getpid()} DICOM+RFC3881 - "
        content = head.encode() + b"\xef\xbb\xbf" + text.encode()
        where = (self._syslog.hostname or "", self._syslog.port or 514)
        framed = f"{len(content)} ".encode() + content  # RFC 6587 3.4.1, RFC 5425 4.3
        if self._syslog.scheme == "tls":
            with secured(self._settings.audit, where) as tls:
                tls.sendall(framed)
                # Closed with something unread, the connection could be reset before all is there.
                tls.unwrap()
            return
        if self._syslog.scheme == "tcp":
            with socket.create_connection(where, ANSWER_S) as line:
                line.sendall(framed)
            return
        family, kind, protocol, _, address = socket.getaddrinfo(*where, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as line:
            line.sendto(content, address)


def secured(audit: Audit, where: tuple[str, int]) -> ssl.SSLSocket:
    """Return a TLS connection to the repository (RFC 5425).

    Raises
    ------
    OSError
        There is no connection, or its certificate is not trusted.
    ConfigurationError
        A file of ``[audit] tls`` is missing or is no certificate or key.
    """
    context = security.requestor(audit.tls) or ssl.create_default_context()
    with ExitStack() as opened:
        line = opened.enter_context(socket.create_connection(where, ANSWER_S))
        secure = context.wrap_socket(line, server_hostname=where[0])
        opened.pop_all()  # it is the caller's now
        return secure


class Auditor:
    """Follows the ledger and keeps the trail of transfers.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._trail = Trail(settings)
        self._ledger = ledger
        self._place = settings.node.data_dir / "audit.place"

    def take(self, settings: Settings) -> None:
        """Know other peers from the next message on."""
        self._trail = Trail(settings)

    def run(self, stop: threading.Event) -> None:
        """Follow until `stop` is set."""
        if not self._trail.is_kept:
            stop.wait()
            return
        self._guarded(lambda: self._trail.activity(time.time(), starts=True))
        while not stop.wait(LOOK_S):
            self._guarded(self.step)
        self._guarded(self.step)
        self._guarded(lambda: self._trail.activity(time.time(), starts=False))

    def step(self) -> int:
        """Note what was transferred since the last step; return how much that was.

        Raises
        ------
        Unreachable
            The trail cannot be written; the same events are noted in the next step.
        """
        place = self._read()
        if place is None:
            self._keep(self._ledger.history.newest_event())
            return 0
        noted = 0
        while events := self._ledger.history.events_after(place, _PAGE, stages=_STAGES):
            for event in events:
                if event.stage == uses.RESULT_REFUSED:
                    self._trail.refused(json.loads(event.detail), event.at)
                elif event.stage in uses.STAGES:
                    self._trail.used(Use.read(event.detail), event.at)
                else:
                    self._trail.transferred(event)
                place = int(event.id)
                self._keep(place)
                noted += 1
        return noted

    def _guarded(self, act: Any) -> None:
        try:
            act()
        except (ChexFractError, OSError) as exc:
            logger.warning("the audit trail waits: %s", exc)

    def _read(self) -> int | None:
        try:
            return int(self._place.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _keep(self, place: int) -> None:
        temporary = self._place.with_suffix(".new")
        temporary.write_text(str(place))
        temporary.replace(self._place)


def _other(event: Event, peers: dict[str, Peer]) -> Participant:
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


def _participants(use: Use, us: Participant) -> list[Participant]:
    """Return who gave, who got, and who asked when that is a third one (A.5.3.7, A.5.3.10)."""
    user = Participant(use.user, None, use.ae_title, use.address, is_requestor=True)
    if use.what == "accessed":
        return [user, us]
    if use.what == "queried":
        return [_as(SOURCE, user), _as(DESTINATION, us)]
    if not use.receiver:
        return [_as(SOURCE, us), _as(DESTINATION, user)]
    receiver = Participant(use.receiver, None, use.receiver, use.receiver_address)
    return [_as(SOURCE, us), _as(DESTINATION, receiver), user]


def _as(role: Code, one: Participant) -> Participant:
    return replace(one, role=role)


def _things(use: Use) -> list[Thing]:
    """Return what was asked, or the studies and patients that were used."""
    if use.what == "queried":
        is_web = use.service.startswith("/")
        kind, role = (URI, 24) if is_web else (SOP_CLASS, 3)
        query = Thing(use.service, kind, 2, role, (), use.query, use.transfer_syntax)
        return [query]
    found = [Thing(study, STUDY, 2, 3, classes) for study, _, classes in use.studies]
    return found + [Thing(patient, PATIENT, 1, 1) for patient in uses.patients_of(use.studies)]


def _host(host: str) -> str:
    return host if host not in ("", "0.0.0.0", "::") else socket.gethostname()  # noqa: S104
