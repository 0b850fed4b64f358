"""Storage and Verification SCU: one reused association per destination.

DICOM PS3.4 A and B. Each failure is one line that says what to do about it.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info, read_partial
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.base.errors import MismatchedAnswer, NotUnderstood, Refused, Unreachable
from dicom_node.dimse import patches
from dicom_node.dimse.acceptor import MAX_OTHER_PDU
from dicom_node.dimse.contexts import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    MAX_CONTEXTS,
    VERIFICATION,
)
from dicom_node.dimse.entity import entity
from dicom_node.dimse.security import handshake_fault, requestor
from dicom_node.settings import Peer
from dicom_node.standard.header import check_file
from dicom_node.standard.status import fault, is_stored
from dicom_node.standard.unreadable import UNREADABLE

logger = logging.getLogger(__name__)

IDLE_S = 10.0
"""An association that carries nothing for this long is released."""

SLOWEST = 1_000_000
"""Bytes per second below which a peer counts as silent, beside its timeout."""

_RELEASE_S = 2.0

_REASONS = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not know the DICOM application context",
    (1, 3): "it does not know the calling AE title {own!r}; register it there",
    (1, 7): "it is not called {called!r}; correct ae_title of this peer",
    (2, 1): "it gives no reason",
    (2, 2): "it speaks another version of the protocol",
    (3, 1): "it is congested; it will be tried again",
    (3, 2): "it has too many associations open; it will be tried again",
}
"""A-ASSOCIATE-RJ source and reason (DICOM PS3.8 Table 9-21) as advice."""


class Destination:
    """A reused association to one peer; used by one thread at a time.

    Parameters
    ----------
    ae_title : str
        The calling AE title.
    peer : Peer
    handlers : sequence, optional
        Of events of the association, as pynetdicom takes them.
    """

    def __init__(self, ae_title: str, peer: Peer, handlers: Sequence[Any] = ()) -> None:
        self.name = f"{peer.ae_title}@{peer.host}:{peer.port}"
        self._ae_title = ae_title
        self._peer = peer
        self._handlers = list(handlers)
        self._assoc: Association | None = None
        self._offered: frozenset[tuple[str, str]] = frozenset()
        self._used = 0.0
        self._message_id = 0
        self._response: Any = None

    @property
    def is_open(self) -> bool:
        """Whether the association stands and is fresh enough not to be released just now."""
        fresh = time.monotonic() - self._used < IDLE_S / 2
        return bool(self._assoc and self._assoc.is_established and fresh)

    @property
    def association(self) -> Association:
        """The association; `Unreachable` where there is none."""
        if not self._assoc or not self._assoc.is_established:
            raise Unreachable(f"{self.name} closed the association")
        return self._assoc

    def connect(self, sop_classes: Sequence[str]) -> None:
        """Associate, unless an open association has offered all of `sop_classes` already.

        Raises
        ------
        Unreachable
            No connection, no answer within the peer's timeout, or a rejected association.
        """
        little = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
        self._connect_contexts([(uid, syntax) for uid in sop_classes for syntax in little])

    def connect_as(
        self,
        contexts: Sequence[PresentationContext],
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation],
    ) -> None:
        """Associate with contexts of the caller, in some of which this node is the SCP.

        Raises
        ------
        Unreachable
            As `connect`.
        """
        self.close()
        self._assoc = self._open_association(list(contexts), list(roles))
        self._used = time.monotonic()

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str | None = None) -> bool:
        """Return whether the peer accepted a presentation context for this SOP class."""
        return any(
            context.abstract_syntax == sop_class_uid
            and transfer_syntax_uid in (None, context.transfer_syntax[0])
            for context in (self._assoc.accepted_contexts if self._assoc else ())
        )

    def store(self, content: Path | bytes) -> int:
        """Send one Part 10 file, or its bytes, and return the status of the answer.

        The bytes of its data set go out as they are where the peer accepted their transfer syntax;
        otherwise they are encoded again in the syntax that it accepted.

        Raises
        ------
        NotUnderstood
            The file is not a Part 10 file, or is cut off.
        Refused
            The peer accepted no presentation context for it.
        MismatchedAnswer
            The peer says that it has stored another object.
        Unreachable
            The association broke, or the peer fell silent.
        """
        sop_class, syntax, instance = _read_meta(content)
        if not self._assoc or not self._assoc.is_established:
            raise Unreachable(f"{self.name} closed the association; it will be tried again")
        if not self.accepts(sop_class):
            raise Refused(f"{self.name} takes no objects of SOP class {sop_class}")
        with content.open("rb") if isinstance(content, Path) else BytesIO(content) as file:
            check_file(file, syntax)
        # A slow line is not a silent peer: a large object may take its time.
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        self._assoc.dimse_timeout = self._peer.timeout + size / SLOWEST
        is_as_it_is = isinstance(content, Path) and self.accepts(sop_class, syntax)
        sent: Any = content if is_as_it_is else _read_object(content)
        instance = instance if is_as_it_is else str(sent.get("SOPInstanceUID", ""))
        answer = self._send_object(sent)
        self._used = time.monotonic()
        if "Status" not in answer:
            self.close()
            raise Unreachable(f"{self.name} broke the association or gave no answer in time")
        status = int(answer.Status)
        self._check_response(instance, status)
        return status

    def echo(self) -> float:
        """Verify the association (C-ECHO) and return how long the answer took, in ms.

        Raises
        ------
        Refused
            The peer answered with a failure, or does not verify.
        Unreachable
            There is no association, or the peer fell silent.
        """
        if not self._assoc or not self._assoc.is_established:
            raise Unreachable(f"{self.name} closed the association")
        if not self.accepts(VERIFICATION):
            raise Refused(f"{self.name} associates but does not verify (C-ECHO)")
        started = time.perf_counter()
        answer = self._assoc.send_c_echo()
        if "Status" not in answer:
            raise Unreachable(f"{self.name} gives no answer to C-ECHO")
        if answer.Status != 0:
            raise Refused(f"{self.name} answers C-ECHO with 0x{answer.Status:04X}")
        return (time.perf_counter() - started) * 1000

    def _check_response(self, instance: str, status: int) -> None:
        """Raise unless the response is to the last request (PS3.7 9.1.1.1)."""
        response = self._response
        # a C-ECHO's answer has a status, too, and says nothing of what was sent
        is_for_it = isinstance(response, C_STORE)
        if not is_for_it or response.MessageIDBeingRespondedTo != self._message_id:
            self.close()
            raise Unreachable(f"{self.name} answers another message than the last")
        named = str(response.AffectedSOPInstanceUID or "").strip(" \0")
        # many leave it out, and a failure is a failure whatever else it says
        if named and named != instance and is_stored(status):
            raise MismatchedAnswer(
                f"{self.name} says that it stored another object than it was sent"
            )

    def close(self) -> None:
        """Release the association, or abort it when the peer does not answer."""
        assoc, self._assoc, self._offered = self._assoc, None, frozenset()
        if assoc is None:
            return
        if assoc.is_established:
            assoc.acse_timeout = _RELEASE_S
            assoc.release()
        if assoc.is_alive():
            assoc.abort()

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _connect_contexts(self, wanted: Sequence[tuple[str, str]]) -> None:
        if self.is_open and self._offered.issuperset(wanted):
            return
        self.close()
        contexts = [build_context(VERIFICATION, [EXPLICIT_LITTLE, IMPLICIT_LITTLE])]
        # one context for each pair: of several syntaxes in one the peer picks one (PS3.8 9.3.3.2)
        contexts += [build_context(uid, [syntax]) for uid, syntax in wanted]
        self._assoc = self._open_association(contexts)
        self._offered = frozenset(wanted)
        self._used = time.monotonic()

    def _open_association(
        self,
        contexts: list[PresentationContext],
        roles: list[SCP_SCU_RoleSelectionNegotiation] | None = None,
    ) -> Association:
        peer = self._peer
        ae = entity(self._ae_title, peer.max_pdu)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = peer.timeout
        ae.network_timeout = IDLE_S
        tls = requestor(peer.tls)
        connected = threading.Event()
        started = time.monotonic()
        assoc = None
        try:
            assoc = ae.associate(
                peer.host,
                peer.port,
                contexts=contexts,
                ext_neg=cast("Any", roles),
                ae_title=peer.ae_title,
                max_pdu=peer.max_pdu,
                tls_args=cast("Any", (tls, peer.host) if tls else None),
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, _on_open, [connected, peer]),
                    *self._handlers,
                ],
            )
        except OSError as exc:
            raise Unreachable(f"{self.name}: the host name cannot be resolved ({exc})") from exc
        finally:
            if assoc is None:  # interrupted, by Ctrl-C as a rule
                patches.forsake(ae)
        patches.note_responses(assoc, self._take_response)
        # pynetdicom would abort what is idle, which the peer has to take for a fault
        assoc.network_timeout_response = "A-RELEASE"
        if assoc.is_established:
            return assoc
        patches.note_late_rejection(assoc)
        if assoc.is_rejected:
            raise Unreachable(self._why_rejected(assoc))
        if not connected.is_set():
            raise Unreachable(self._why_no_connection(tls, time.monotonic() - started))
        if assoc.rejected_contexts:
            return assoc  # it stands for "accepts nothing": `accepts` says so
        if time.monotonic() - started >= peer.timeout:
            raise Unreachable(
                f"{self.name} accepts connections but gives no answer within {peer.timeout:g} s"
            )
        advice = "is it a DICOM port, and does it want TLS?"
        raise Unreachable(f"{self.name} closed the connection during negotiation; {advice}")

    def _take_response(self, response: Any) -> None:
        self._response = response

    def _why_rejected(self, assoc: Association) -> str:
        answer = cast("Any", assoc.acceptor.primitive)
        reason = _REASONS.get(
            (answer.result_source, answer.diagnostic), f"reason {answer.diagnostic}"
        ).format(own=self._ae_title, called=self._peer.ae_title)
        kind = "permanently" if answer.result == 1 else "for now"
        return f"{self.name} rejected the association {kind}: {reason}"

    def _why_no_connection(self, tls: ssl.SSLContext | None, waited: float) -> str:
        """Knock once more to learn what pynetdicom only logs."""
        peer = self._peer
        if waited >= peer.timeout:
            return f"{self.name} gives no answer within {peer.timeout:g} s; check host and firewall"
        try:
            with socket.create_connection((peer.host, peer.port), timeout=2) as knock:
                if tls:
                    tls.wrap_socket(knock, server_hostname=peer.host).close()
        except ssl.SSLCertVerificationError as exc:
            return f"{self.name}: {handshake_fault(exc)}"
        except ssl.SSLError as exc:
            return f"{self.name}: TLS handshake failed: {handshake_fault(exc)}"
        except ConnectionRefusedError:
            return f"{self.name} refuses connections; is it running, and is the port right?"
        except OSError as exc:
            return f"{self.name} cannot be reached: {exc.strerror or exc}"
        return f"{self.name} could not be reached a moment ago; try again"

    def _send_object(self, content: Any) -> Any:
        # 16 bits (PS3.7 E.1), and different from what is outstanding
        self._message_id = self._message_id % 65535 + 1
        try:
            return cast("Association", self._assoc).send_c_store(content, self._message_id)
        except RuntimeError as exc:
            raise Unreachable(f"{self.name} closed the association") from exc
        except (ValueError, AttributeError) as exc:
            # by its kind alone: what pydicom says of a value prints the value
            what = type(exc).__name__
            raise NotUnderstood(f"the object cannot be encoded for {self.name} ({what})") from exc
        except OSError:
            # the half of a message may have gone: nothing else can follow it
            cast("Association", self._assoc).abort()
            raise


def echo(ae_title: str, peer: Peer) -> float:
    """Verify `peer` and return how long its answer to C-ECHO took, in ms.

    Raises
    ------
    Unreachable, Refused
        As `Destination.connect` and `Destination.echo`.
    """
    with Destination(ae_title, peer) as destination:
        destination.connect(())
        return destination.echo()


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of the files of one `send`."""

    stored: int
    failed: int


def send(
    ae_title: str,
    peer: Peer,
    paths: Sequence[Path],
    on_result: Callable[[Path, int | None, str], None] = lambda path, status, reason: None,
) -> SendResult:
    """Store files at `peer`, each in its own transfer syntax.

    Parameters
    ----------
    on_result : callable
        Takes each file, the status of its answer (None: it was not sent) and, unless it was
        stored, one sentence.

    Raises
    ------
    Unreachable
        The peer cannot be associated with, or went away; what it stored has been reported.
    """
    stored = 0
    with Destination(ae_title, peer) as destination:
        for batch, kinds in _association_batches(paths, on_result):
            destination._connect_contexts(kinds)
            for path in batch:
                status, reason = _store_file(destination, path)
                on_result(path, status, reason)
                stored += not reason
    return SendResult(stored, len(paths) - stored)


def _store_file(destination: Destination, path: Path) -> tuple[int | None, str]:
    sop_class, syntax, _ = _read_meta(path)
    if not destination.accepts(sop_class, syntax):
        return None, f"{destination.name} does not take SOP class {sop_class} in {syntax}"
    try:
        status = destination.store(path)
    except MismatchedAnswer as exc:
        return None, str(exc)
    except NotUnderstood as exc:
        return None, f"{path}: {exc}"
    return status, fault(status)


def _association_batches(
    paths: Sequence[Path], on_result: Callable[[Path, int | None, str], None]
) -> Iterator[tuple[list[Path], list[tuple[str, str]]]]:
    """Yield files whose kinds fit one association; tell which are not DICOM files."""
    batch: list[Path] = []
    kinds: dict[tuple[str, str], None] = {}
    for path in paths:
        try:
            kind = _read_meta(path)[:2]
        except NotUnderstood as exc:
            on_result(path, None, str(exc))
            continue
        if kind not in kinds and len(kinds) == MAX_CONTEXTS - 1:
            yield batch, list(kinds)
            batch, kinds = [], {}
        kinds[kind] = None
        batch.append(path)
    if batch:
        yield batch, list(kinds)


def _read_object(content: Path | bytes) -> Dataset:
    """Return an object to be encoded in another transfer syntax."""
    name = content if isinstance(content, Path) else "the object"
    try:
        read = dcmread(content if isinstance(content, Path) else BytesIO(content))
    except UNREADABLE as exc:
        raise NotUnderstood(f"{name} cannot be read ({type(exc).__name__})") from exc
    if not read:
        raise NotUnderstood(f"{name} holds no object")
    return read


def _read_meta(content: Path | bytes) -> tuple[str, str, str]:
    """Return SOP class, transfer syntax and SOP Instance UID of a Part 10 file."""
    name = content if isinstance(content, Path) else "the object"
    try:
        if isinstance(content, Path):
            meta = read_file_meta_info(content)
        else:
            meta = read_partial(BytesIO(content), stop_when=lambda *_: True).file_meta
        return (
            str(meta.MediaStorageSOPClassUID),
            str(meta.TransferSyntaxUID),
            str(meta.get("MediaStorageSOPInstanceUID", "")),
        )
    except OSError as exc:
        raise NotUnderstood(f"{name} cannot be read: {exc.strerror or exc}") from exc
    except UNREADABLE as exc:
        raise NotUnderstood(f"{name} is not a DICOM file") from exc


def _on_open(event: evt.Event, connected: threading.Event, peer: Peer) -> None:
    patches.set_no_delay(event.assoc)
    patches.bound_reads(event.assoc, peer.timeout, max(peer.max_pdu, MAX_OTHER_PDU))
    connected.set()
