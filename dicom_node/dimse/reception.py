"""The standard way of a data set: through pynetdicom, with bounds, and to the spool as it arrives.

Each PDU has a largest size and a latest moment; what a C-STORE request brings is not gathered in
memory. `dimse.stream` is the faster way for the same.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import Any, Protocol, cast

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_FIND_RQ, C_GET_RQ, C_MOVE_RQ, C_STORE_RQ
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket

from dicom_node.base.errors import ChexFractError, NotUnderstood, OutOfResources
from dicom_node.base.plurals import counted
from dicom_node.base.rims import OneOfMany
from dicom_node.dimse import Accepted, patches
from dicom_node.dimse.acceptor import FIRST_PDU_S, MAX_OTHER_PDU, host, is_readable
from dicom_node.dimse.refusals import Refusal, Refusals
from dicom_node.peers import bare_title
from dicom_node.standard.unreadable import UNREADABLE

logger = logging.getLogger(__name__)

ESTABLISHED_S = 8.0
"""Time from connecting to an established association."""
MAX_COMMAND = 1 << 16
"""Largest command set; the largest of PS3.7 that is in use has a few hundred bytes."""
MAX_IDENTIFIER = 1 << 20
"""Largest data set of a request that is not a C-STORE: it is held in memory."""

_is_uid = re.compile(rb"[0-9.]{1,64}").fullmatch
_NO_UID = "0.0"

_READ_AHEAD = 1 << 19
_LOOK_EVERY_S = 1.0


class IncomingInstance(Protocol):
    """An Instance that is being received (`store.spool`)."""

    def write(self, *chunks: bytes | memoryview) -> object:
        """Append bytes of the data set."""

    def discard(self) -> object:
        """Leave nothing on disk."""


class Inlet(AssociationSocket):
    """pynetdicom's socket, where each PDU has a largest size and a deadline.

    What `fill` has read ahead is `unread`; pynetdicom's own reads begin with it.
    """

    def __init__(
        self, taken: AssociationSocket, max_pdu: int, idle_timeout: float, refusals: Refusals
    ) -> None:
        # the connection is open, and pynetdicom's: what it knows of it is taken over as it is
        vars(self).update(vars(taken))
        self._refusals = refusals
        self._connection = cast("socket.socket", taken.socket)
        # answers are small PDUs: Nagle's algorithm and delayed ACK would cost 40 ms for each
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.settimeout(FIRST_PDU_S)
        self.largest = max(max_pdu, MAX_OTHER_PDU)
        self._idle_timeout = idle_timeout
        self._establish_by = time.monotonic() + ESTABLISHED_S
        self._begun_at = time.monotonic()
        self._space = memoryview(b"")
        # what was read under TLS before it was known that an association is asked for
        self.unread = memoryview(getattr(self._connection, "first", b""))

    @property
    def ready(self) -> bool:
        """Whether something can be read at once."""
        return bool(self.unread) or super().ready

    @property
    def silent_for(self) -> float:
        """Seconds since the last PDU began."""
        return time.monotonic() - self._begun_at

    def begin(self, size: int) -> None:
        """Begin with a PDU of `size` bytes; raise `OSError` when it is too long.

        pynetdicom closes the connection then.
        """
        if size > self.largest:
            self._note_refusal(f"it announces a PDU of {counted(size, 'byte')}")
            raise ConnectionAbortedError
        self._begun_at = time.monotonic()

    def recv(self, count: int) -> bytearray:
        """Read `count` bytes of one PDU; what is missing at the end of the stream is not made up.

        Raises
        ------
        OSError
            The PDU is too long or came too slowly.
        """
        self.begin(count)
        # `begin` has bounded it: a length that a peer makes up costs the largest PDU at most
        content = bytearray(count)
        ahead = self.take(count)
        content[: len(ahead)] = ahead
        rest = memoryview(content)[len(ahead) :]
        while rest:
            read = self._read_into(rest)
            if not read:
                return content[: count - len(rest)]
            rest = rest[read:]
        self._connection.settimeout(FIRST_PDU_S)
        return content

    def fill(self) -> None:
        """Add what has come to `unread`, and wait for it; slices of the former are void.

        Raises
        ------
        OSError
            Nothing came in time, or nothing will come any more.
        """
        if not self._space:
            self._space = memoryview(bytearray(_READ_AHEAD))
        kept = len(self.unread)
        # a copy first: both lie in the same buffer and may overlap
        self._space[:kept] = bytes(self.unread)
        read = self._read_into(self._space[kept:])
        if not read:
            raise ConnectionResetError
        self.unread = self._space[: kept + read]

    def take(self, count: int) -> memoryview:
        """Return up to `count` bytes of what is unread; they are read then."""
        taken, self.unread = self.unread[:count], self.unread[count:]
        return taken

    def give_back(self) -> None:
        """Drop what was read ahead: nothing more will be read.

        An association is a circle of objects, which the collector finds later; until then the
        buffers of those that have ended would be most of what a listener holds.
        """
        self.unread = self._space = memoryview(b"")

    def answer(self, pdu: bytes) -> None:
        """Send a PDU at once; raise `OSError` when it cannot be sent."""
        self._connection.settimeout(FIRST_PDU_S)
        self._connection.sendall(pdu)

    def is_next_within(self, seconds: float) -> bool:
        """Return whether more comes soon."""
        return self.ready or is_readable(self._connection, seconds)

    def _read_into(self, space: memoryview) -> int:
        while (left := self._read_deadline() - time.monotonic()) > 0:
            # in steps, since the deadline moves when the association is established or ends
            self._connection.settimeout(min(left, _LOOK_EVERY_S))
            with suppress(TimeoutError):
                return self._connection.recv_into(space)
        self._note_refusal("it stopped in the middle of a PDU")
        raise TimeoutError

    def _note_refusal(self, reason: str) -> None:
        self._refusals.note("closing", refusal(self.assoc, reason), self.assoc)

    def _read_deadline(self) -> float:
        assoc = self.assoc
        if assoc.is_established:
            return self._begun_at + self._idle_timeout
        if assoc.is_aborted or assoc.is_released or assoc.is_rejected:
            # what still comes is nothing that anybody waits for
            return self._begun_at + _LOOK_EVERY_S
        return self._establish_by


_NO_TITLE = "NO DESTINATION"
"""In place of a Move Destination that is missing: nobody's title."""


def uid_fault(value: bytes) -> str:
    """Return what is wrong with an Affected SOP Instance UID; empty for a UID that may be right."""
    if not value:
        return "no Affected SOP Instance UID"
    if len(value) > 64:
        return f"the Affected SOP Instance UID has {len(value)} characters, more than 64"
    return "" if _is_uid(value) else "the Affected SOP Instance UID is not a UID"


def refusal(assoc: Association, reason: str) -> Refusal:
    """Return who is refused on an association, as far as it has said so, and why."""
    request = cast("Any", assoc.requestor.primitive)
    calling, called = (
        ascii(bare_title(title))[1:-1]
        for title in ((request.calling_ae_title, request.called_ae_title) if request else ("", ""))
    )
    return Refusal(calling, host((assoc.requestor.address,)), called, reason)


class DataSet(BytesIO):
    """The data set of one C-STORE request, on its way to the spool.

    A fault is kept for the answer; the rest of the data set is then read and dropped, because
    DICOM has no way to stop a sender but to abort the association.
    """

    def __init__(
        self, incoming: IncomingInstance | None, fault: ChexFractError | None = None
    ) -> None:
        super().__init__()
        self.incoming = incoming
        self.fault = fault
        self.size = 0

    def write(self, chunk: Any) -> int:
        """Pass `chunk` on; never raises."""
        self.add([chunk])
        return len(chunk)

    def add(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Pass `chunks` on; never raises."""
        self.size += sum(map(len, chunks))
        if self.incoming is not None and self.fault is None:
            try:
                self.incoming.write(*chunks)
            except ChexFractError as exc:
                self._set_fault(exc)
            except OSError as exc:
                self._set_fault(OutOfResources(f"the spool takes no more: {exc.strerror or exc}"))

    def _set_fault(self, fault: ChexFractError) -> None:
        self.fault = fault
        self.discard()

    def discard(self) -> None:
        """Leave nothing on disk, unless the Instance has been kept."""
        if self.incoming is not None:
            self.incoming.discard()


class Reception(DIMSEServiceProvider):
    """pynetdicom's DIMSE provider with bounds, and with a spool instead of memory.

    Parameters
    ----------
    assoc : Association
    begin : callable
        Returns an `IncomingInstance` for what a C-STORE request says of its data set.
    max_instance : int
        Bytes of a data set above which the association is aborted.
    refusals : Refusals
        Take note of what ends an association.
    """

    def __init__(
        self,
        assoc: Association,
        begin: Callable[[Accepted], IncomingInstance],
        max_instance: int,
        refusals: Refusals,
    ) -> None:
        super().__init__(assoc)
        self._begin = begin
        self.max_instance = max_instance
        self._refusals = refusals
        self._lock = threading.Lock()
        self._open: set[DataSet] = set()
        self._is_closed = False
        self._serving = 0
        patches.run_within(assoc, self._run_thread)

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun and is not yet answered."""
        return bool(self.message or self._open or self._serving or self.msg_queue.qsize())

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the next fragments; a malformed message aborts the association."""
        try:
            # One by one: the command set is looked at before its data set, also within one PDU.
            for value in primitive.presentation_data_value_list:
                part = P_DATA()
                part._presentation_data_value_list = [value]  # of views, too
                if self.message is not None:
                    self._direct_data_set()
                super().receive_primitive(part)
                self._limit_message()
        except UNREADABLE as exc:
            self.abort(f"it sent a malformed message ({type(exc).__name__})")

    @contextmanager
    def serving(self, data_set: DataSet) -> Iterator[bool]:
        """Answer for `data_set` from here on; False when the association closed before.

        Afterwards it is discarded, unless it was kept.
        """
        with self._lock:
            # from here on this thread discards it: `close`, which another thread may call, passes
            # it by
            is_open = data_set in self._open
            self._open.discard(data_set)
            self._serving += 1
        try:
            yield is_open
        finally:
            data_set.discard()
            with self._lock:
                self._serving -= 1

    def close(self) -> None:
        """Leave nothing of data sets that nobody will answer for."""
        with self._lock:
            unfinished, self._open = self._open, set()
            self._is_closed = True
        if unfinished:
            self.note_loss()
        for data_set in unfinished:
            data_set.discard()

    def note_loss(self) -> None:
        """Write down that an association ended in the middle of an Instance: nothing of it is kept.

        Where this side ended it, that has its own line.
        """
        reason = "its association ended before the data set did"
        note = self._refusals.note
        note("lost an Instance of", refusal(self.assoc, reason), self.assoc, is_counted=False)

    def _run_thread(self, run: Callable[[], None]) -> None:
        """Run one of pynetdicom's threads; one that gives up neither closes its socket nor says so.

        The association's own thread ends first; the reactor still sends what it has left behind.
        """
        has_failed = False

        def note(exc: Exception) -> None:
            nonlocal has_failed
            has_failed = True
            # In Sta13 (PS3.8 9.2.1) the association is closing, and its line is written.
            if self.assoc.dul.state_machine.current_state != "Sta13":
                reason = ascii(str(exc))[1:-1][:200] or type(exc).__name__
                self._refusals.note("closing", refusal(self.assoc, reason), self.assoc)

        try:
            with OneOfMany(note):  # it would be a traceback per peer
                run()
        finally:
            if has_failed or threading.current_thread() is self.assoc.dul:
                self.close()
                self.assoc.dul.kill_dul()
                stream = self.assoc.dul.socket
                if stream is not None and stream.socket is not None:
                    stream.socket.close()

    def opened(self, request: Any, context_id: int, fault: str = "") -> DataSet:
        """Return the way into the spool for one request; a fault is kept in it for the answer.

        `request` is the command set or the primitive.
        """
        context = self.assoc._accepted_cx.get(context_id)
        if context is None:
            return DataSet(None, NotUnderstood("no such presentation context"))
        sop_class = str(getattr(request, "AffectedSOPClassUID", None) or "")
        instance = str(getattr(request, "AffectedSOPInstanceUID", None) or "")
        return self.open(Accepted(sop_class, instance, str(context.transfer_syntax[0])), fault)

    def open(self, accepted: Accepted, fault: str = "") -> DataSet:
        """Return the way into the spool for what an association has said of a data set.

        With a `fault` it leads nowhere: what comes is dropped, and the answer names the fault.
        """
        try:
            data_set = (
                DataSet(None, NotUnderstood(fault)) if fault else DataSet(self._begin(accepted))
            )
        except ChexFractError as exc:
            data_set = DataSet(None, exc)
        except OSError as exc:
            data_set = DataSet(None, OutOfResources(f"the spool is closed: {exc.strerror or exc}"))
        with self._lock:
            if not self._is_closed:
                self._open.add(data_set)
                return data_set
        # The connection was lost while what came before was still being read.
        data_set.discard()
        return data_set

    def _direct_data_set(self) -> None:
        """Point the data set of a C-STORE request, whose command is complete, at the spool."""
        message = self.message
        if isinstance(message, (C_FIND_RQ, C_GET_RQ, C_MOVE_RQ)):
            self._mend_query(message)
        if not isinstance(message, C_STORE_RQ) or isinstance(message.data_set, DataSet):
            return
        fault = self._mend_request(message)
        data_set = self.opened(message.command_set, cast("int", message.context_id), fault)
        data_set.write(cast("BytesIO", message.data_set).getvalue())
        message.data_set = data_set

    def _mend_request(self, message: C_STORE_RQ) -> str:
        """Return what is wrong with a request's UIDs, and put some there that are let through.

        pynetdicom would leave a request without a UID unanswered, and abort one whose UID is long.
        """
        command = message.command_set
        value = str(command.get("AffectedSOPInstanceUID") or "").strip(" \0")
        fault = uid_fault(value.encode("ascii", "replace"))
        if fault:
            command.AffectedSOPInstanceUID = _NO_UID
        context = self.assoc._accepted_cx.get(cast("int", message.context_id))
        if context is not None and not command.get("AffectedSOPClassUID"):
            command.AffectedSOPClassUID = context.abstract_syntax
            fault = "no Affected SOP Class UID"
        return fault

    def _mend_query(self, message: C_FIND_RQ | C_GET_RQ | C_MOVE_RQ) -> None:
        """Put right what pynetdicom would abort for, or leave without an answer."""
        command = message.command_set
        if not command:
            return  # it has not come yet
        if command.get("Priority") not in (0, 1, 2):
            command.Priority = 0
        context = self.assoc._accepted_cx.get(cast("int", message.context_id))
        if context is not None and not command.get("AffectedSOPClassUID"):
            command.AffectedSOPClassUID = context.abstract_syntax
        if isinstance(message, C_MOVE_RQ):
            # Padded with NUL, as some write AE titles; without a title there is nobody to move to.
            title = bare_title(str(command.get("MoveDestination") or ""))
            command.MoveDestination = title[:16] or _NO_TITLE

    def _limit_message(self) -> None:
        message = self.message
        if message is None:
            return
        if message.encoded_command_set.tell() > MAX_COMMAND:
            self.abort("its command set does not end")
        held = message.data_set
        size = held.size if isinstance(held, DataSet) else cast("BytesIO", held).tell()
        largest = self.max_instance
        if not isinstance(message, C_STORE_RQ):
            largest = min(largest, MAX_IDENTIFIER)
        if size > largest:
            self.abort(f"its data set is larger than {largest} bytes")

    def abort(self, reason: str) -> None:
        """End the association for a fault of its peer."""
        self._refusals.note("aborting", refusal(self.assoc, reason), self.assoc)
        self.close()
        self.message = None
        # PS3.8 9.2.2: an invalid PDU parameter ends in A-ABORT and a closed connection.
        self.dul.event_queue.put("Evt19")
