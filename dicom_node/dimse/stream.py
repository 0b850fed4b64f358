"""Data sets straight from the socket to the spool: the one file that knows how pynetdicom reads.

pynetdicom moves each PDU through three threads' queues and copies each byte six times. Here the
thread that reads an association's socket takes C-STORE requests itself: their data sets go from one
reused buffer to the spool file, and the answer goes out when the Instance is durable. What is not
the plain case (PS3.7 9.3.1: one whole command, an image class that was accepted) is left unread
for pynetdicom, and so is everything else: negotiation, other messages, release, abort, timers.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import pynetdicom
from pynetdicom.association import Association

from dicom_node.dimse import Accepted, patches
from dicom_node.dimse.reception import MAX_COMMAND, DataSet, Inlet, Reception, uid_fault
from dicom_node.standard.unreadable import UNREADABLE

logger = logging.getLogger(__name__)

NEXT_WITHIN_S = 0.02
"""Time that the next request may take to come, before pynetdicom looks after the association."""

_P_DATA_TF = 0x04
_COMMAND, _LAST = 0x01, 0x02
_C_STORE_RQ, _C_STORE_RSP, _NO_DATA_SET = 0x0001, 0x8001, 0x0101

_pdu_head = struct.Struct(">BxL").unpack_from
_pdv_head = struct.Struct(">LBB").unpack_from
_element_head = struct.Struct("<HHL").unpack_from


class Malformed(Exception):
    """What a peer sent is not a data set of the request that it began."""


@dataclass(frozen=True, slots=True)
class Request:
    """A C-STORE request: what the command set says, and the data set's presentation context."""

    context_id: int
    message_id: int
    priority: int
    accepted: Accepted
    fault: str = ""
    """Why it cannot be taken, whatever its data set holds; it is answered nevertheless."""


Answer = Callable[[Association, Request, DataSet], tuple[int, str]]
"""Keeps a data set that is complete; returns Status and Error Comment (PS3.7 9.3.1.2)."""


def is_known() -> bool:
    """Return whether images can be received this way; say so where they cannot."""
    if patches.is_known():
        return True
    logger.warning(
        "pynetdicom %s is not one of %s: images are received the standard way, which is slower",
        pynetdicom.__version__,
        ", ".join(patches.KNOWN),
    )
    return False


class Stream:
    """Takes the C-STORE requests of one association off its socket.

    Parameters
    ----------
    assoc : Association
        Its socket is an `Inlet`, its DIMSE provider a `Reception`.
    sop_classes : frozenset of str
        Those of images; what belongs to others is pynetdicom's.
    answer : callable
        Keeps what has come.
    """

    def __init__(self, assoc: Association, sop_classes: frozenset[str], answer: Answer) -> None:
        self._assoc = assoc
        self._sop_classes = sop_classes
        self._answer = answer
        self._inlet = cast("Inlet", assoc.dul.socket)
        self._reception = cast("Reception", assoc.dimse)
        self._fragments = Fragments(self._inlet)
        self._standard = patches.replace_read(assoc, self._read_pdu)

    def _read_pdu(self) -> None:
        """Take the place of pynetdicom's read of one PDU, which is called when one can be read."""
        dul = self._assoc.dul
        try:
            if self._is_ours() and self._serve_requests():
                return
        except OSError:
            dul.event_queue.put("Evt17")  # PS3.8 9.2.2: the transport connection is closed
            return
        except (Malformed, *UNREADABLE) as exc:
            self._reception.abort(f"it sent a malformed message ({exc or type(exc).__name__})")
            return
        # nothing was taken off the inlet: pynetdicom reads the same bytes from their beginning
        self._standard()

    def _is_ours(self) -> bool:
        """Return whether an association is established and no other message is on its way."""
        dul = self._assoc.dul
        # Sta6 (PS3.8 Table 9-3): data transfer; with an event queued or a message begun, the order
        # would be lost
        is_established = dul.state_machine.current_state == "Sta6"
        return is_established and dul.event_queue.empty() and not self._reception.is_receiving

    def _is_called(self) -> bool:
        """Return whether this node wants to send something, an A-ABORT as a rule."""
        # the deque itself: `empty()` would take the queue's lock for each fragment
        return bool(self._assoc.dul.to_provider_queue.queue)

    def _serve_requests(self) -> bool:
        """Answer the requests that follow one another; False when something else comes first."""
        request = self._take_request()
        if request is None:
            return False
        # A modality sends a study in one go: what follows within moments is taken here as well,
        # without waking pynetdicom's threads in between.
        with self._reactor_waits():
            while request and self._store_data_set(request) and self._is_more_to_come():
                request = self._take_request()
        return True

    @contextmanager
    def _reactor_waits(self) -> Iterator[None]:
        """Let the association's own thread, which else looks around each millisecond, wait."""
        self._assoc._reactor_checkpoint.clear()
        try:
            yield
        finally:
            # what was taken here passed pynetdicom by: its timer believes that nothing came
            self._assoc.dul._idle_timer.restart()
            self._assoc._reactor_checkpoint.set()

    def _is_more_to_come(self) -> bool:
        return not self._is_called() and self._inlet.is_next_within(NEXT_WITHIN_S)

    def _take_request(self) -> Request | None:
        """Take the request that begins here, if it is a plain one; else take nothing."""
        begun = self._fragments.peek()
        request = begun and self._plain_request(*begun)
        if not (begun and request):
            return None
        self._fragments.begin(*begun)
        return request

    def _plain_request(self, context_id: int, command: bytes) -> Request | None:
        context = self._assoc._accepted_cx.get(context_id)
        elements = _read_elements(command)
        sop_class, instance = (elements.get(n, b"").rstrip(b"\0 ") for n in (0x0002, 0x1000))
        kind, message_id, data_set = (_read_number(elements, n) for n in (0x0100, 0x0110, 0x0800))
        if context is None or not context.as_scp or kind != _C_STORE_RQ or message_id is None:
            return None
        if data_set in (None, _NO_DATA_SET):
            return None
        abstract = str(context.abstract_syntax)
        # an object of another class than its context's is refused with a status, by the standard
        # way
        if abstract not in self._sop_classes or sop_class not in (b"", abstract.encode()):
            return None
        # pynetdicom would leave a request without its UIDs unanswered, and abort one whose UID is
        # too long: then a sender waits for a minute and does not learn why.
        fault = "" if sop_class else "no Affected SOP Class UID"
        fault = fault or uid_fault(instance)
        uid = "" if fault else instance.decode()
        accepted = Accepted(abstract, uid, str(context.transfer_syntax[0]))
        return Request(context_id, message_id, _read_number(elements, 0x0700) or 0, accepted, fault)

    def _store_data_set(self, request: Request) -> bool:
        """Receive one data set and answer; False when something else came before its end."""
        data_set = self._reception.open(request.accepted, request.fault)
        with self._reception.serving(data_set):
            try:
                is_whole = self._receive_data_set(data_set)
            except OSError:
                self._reception.note_loss()
                raise
            if not is_whole:
                self._reception.note_loss()
                return False
            status, comment = self._answer(self._assoc, request, data_set)
        self._inlet.answer(response(request, status, comment))
        return True

    def _receive_data_set(self, data_set: DataSet) -> bool:
        """Pass the data set on; False when something else comes before its end."""
        fragments = self._fragments
        try:
            while True:
                data_set.add(fragments.come())
                self._limit_size(data_set.size)  # before more is read: a peer may never end
                if fragments.is_whole:
                    return True
                # an abort or a release came in the middle, or this node ends: pynetdicom knows what
                # follows
                if fragments.is_foreign or self._is_called():
                    break
                self._inlet.fill()
        except Malformed:
            # pynetdicom sends the abort, and has to find the beginning of a PDU for that.
            fragments.skip_pdu()
            raise
        fragments.skip_pdu()
        return False

    def _limit_size(self, size: int) -> None:
        if size > self._reception.max_instance:
            raise Malformed(f"its data set is larger than {self._reception.max_instance} bytes")


class Fragments:
    """The fragments of a data set in P-DATA-TF PDUs (PS3.8 9.3.5), as they lie in an inlet.

    A PDU holds one or more PDVs: length, context id, message control header, fragment.
    """

    def __init__(self, inlet: Inlet) -> None:
        self._inlet = inlet
        self._context_id = 0
        self._in_pdv = 0
        self._after_pdv = 0
        self._is_last = False
        self.is_whole = False
        self.is_foreign = False

    def peek(self) -> tuple[int, bytes] | None:
        """Return context id and command set with which a PDU begins, if they are whole."""
        inlet = self._inlet
        # the time of the PDU begins, whose length is not known yet
        inlet.begin(0)
        self._await_bytes(6)
        kind, size = _pdu_head(inlet.unread)
        # Nothing is taken yet: what is returned as None is read again, by pynetdicom.
        if kind != _P_DATA_TF or not 6 <= size <= inlet.largest:
            return None
        # six bytes of the PDU's head and six of its first PDV (PS3.8 9.3.5)
        self._await_bytes(12)
        length, context_id, control = _pdv_head(inlet.unread, 6)
        # a command set in several fragments is legal and rare: pynetdicom gathers it
        is_command = control & (_COMMAND | _LAST) == _COMMAND | _LAST
        if not is_command or not 2 < length <= min(size - 4, MAX_COMMAND):
            return None
        self._await_bytes(10 + length)
        return context_id, bytes(inlet.unread[12 : 10 + length])

    def _await_bytes(self, count: int) -> None:
        while len(self._inlet.unread) < count:
            self._inlet.fill()

    def begin(self, context_id: int, command: bytes) -> None:
        """Take the command set that was peeked at; its data set is what comes next."""
        _, size = _pdu_head(self._inlet.unread)
        self._inlet.take(12 + len(command))
        self._context_id = context_id
        self._in_pdv, self._after_pdv = 0, size - 6 - len(command)
        self._is_last = self.is_whole = self.is_foreign = False

    def come(self) -> list[memoryview]:
        """Take what has come of the data set; it is void after the inlet's next `fill`.

        Raises
        ------
        Malformed
            What has come is not a fragment of it.
        """
        parts = []
        while not self.is_whole and (self._in_pdv or self._next_pdv()):
            part = self._inlet.take(self._in_pdv)
            parts.append(part)
            self._in_pdv -= len(part)
            # the rest of this fragment has not come yet
            if self._in_pdv:
                break
            self.is_whole = self._is_last
        if self.is_whole and self._after_pdv:
            raise Malformed("more follows in the PDU that ends its data set")
        return parts

    def skip_pdu(self) -> None:
        """Drop the rest of the PDU, so that pynetdicom finds the next PDU."""
        rest, self._in_pdv, self._after_pdv = self._in_pdv + self._after_pdv, 0, 0
        self._inlet.recv(rest)

    def _next_pdv(self) -> bool:
        if not self._after_pdv and not self._next_pdu():
            return False
        if self._after_pdv < 6:
            raise Malformed("a PDU has no room for a PDV")
        if len(self._inlet.unread) < 6:
            return False
        length, context_id, control = _pdv_head(self._inlet.take(6))
        self._after_pdv -= 6
        # The length counts context id and control header (PS3.8 Table 9-23), which are taken.
        if not 2 <= length <= self._after_pdv + 2:
            raise Malformed("a PDV is longer than its PDU")
        if context_id != self._context_id or control & _COMMAND:
            raise Malformed("another message comes before the end of its data set")
        self._in_pdv, self._after_pdv = length - 2, self._after_pdv + 2 - length
        self._is_last = bool(control & _LAST)
        return True

    def _next_pdu(self) -> bool:
        if len(self._inlet.unread) < 6:
            return False
        kind, size = _pdu_head(self._inlet.unread)
        self.is_foreign = kind != _P_DATA_TF
        if self.is_foreign:
            return False
        self._inlet.begin(size)
        self._inlet.take(6)
        self._after_pdv = size
        return True


def response(request: Request, status: int, comment: str) -> bytes:
    """Return the PDU that answers `request` (PS3.7 9.3.1.2, PS3.8 9.3.5)."""
    elements = {
        0x0002: _even_bytes(request.accepted.sop_class_uid, b"\0"),
        0x0100: struct.pack("<H", _C_STORE_RSP),
        0x0120: struct.pack("<H", request.message_id),
        0x0800: struct.pack("<H", _NO_DATA_SET),
        0x0900: struct.pack("<H", status),
        0x0902: _even_bytes(comment, b" "),
        0x1000: _even_bytes(request.accepted.sop_instance_uid, b"\0"),
    }
    command = b"".join(
        _command_element(number, value) for number, value in elements.items() if value
    )
    command = _command_element(0x0000, struct.pack("<L", len(command))) + command
    pdv = struct.pack(">LBB", len(command) + 2, request.context_id, _COMMAND | _LAST) + command
    return struct.pack(">BxL", _P_DATA_TF, len(pdv)) + pdv


def _command_element(number: int, value: bytes) -> bytes:
    """Return an element of group 0000, which is Implicit VR Little Endian (PS3.7 6.3.1)."""
    return struct.pack("<HHL", 0, number, len(value)) + value


def _even_bytes(text: str, pad: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + pad * (len(value) % 2)


def _read_elements(command: bytes) -> dict[int, bytes]:
    """Return values by element number; nothing where an element does not end."""
    elements, at = {}, 0
    while at + 8 <= len(command):
        group, number, length = _element_head(command, at)
        at += 8 + length
        if group or at > len(command):
            return {}
        elements[number] = command[at - length : at]
    return elements


def _read_number(elements: dict[int, bytes], number: int) -> int | None:
    value = elements.get(number, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None
