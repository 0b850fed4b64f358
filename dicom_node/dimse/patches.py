"""All that is changed inside pynetdicom, each with its why; applied by calls, never at import.

Written for the versions in `KNOWN`; `tests/unit/test_patches.py` has a test for each, which fails
when a newer pynetdicom does not need it any more or has moved what it touches.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import Any, cast

import pynetdicom
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_items import PDU_ITEM_TYPES
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AssociationSocket

from dicom_node.dimse import association_rq, news
from dicom_node.standard.unreadable import UNREADABLE

KNOWN = ("3.0.4",)
"""Versions of pynetdicom whose inside is known here."""

_TALKATIVE = ("acse", "association", "dimse", "dul", "fsm", "service_class", "transport")

_SERVED = frozenset(("C-ECHO", "C-STORE", "C-FIND", "C-GET", "C-MOVE", "N-EVENT-REPORT"))

_lock = threading.Lock()


def is_known() -> bool:
    """Return whether the reading of this pynetdicom may be replaced."""
    return pynetdicom.__version__ in KNOWN


def apply() -> None:
    """Change pynetdicom for this whole process; a second call changes nothing.

    Its own handlers format every PDU and data set for a debug log that nobody may keep; so does it
    decode and format each query and each match, before anything has looked whether a query has
    40,000 elements. A file is
    sent as the bytes that it has: decoding and encoding again could change them. A peer's
    misbehaviour is one line of ours, with its name (`dimse.refusals`); pynetdicom would log a
    traceback for each socket, and the peer's own text as it came.
    """
    with _lock:
        _config.LOG_HANDLER_LEVEL = "none"
        _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
        _config.STORE_SEND_CHUNKED_DATASET = True
        for name in ("pynetdicom", *(f"pynetdicom.{module}" for module in _TALKATIVE)):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        AssociationSocket._shutdown_socket = _close_socket  # type: ignore[assignment, method-assign]
        AssociationSocket.ready = property(_is_ready)  # type: ignore[assignment, method-assign]
        if is_known():
            news.use_news()


def _close_socket(stream: AssociationSocket) -> None:
    """Close a socket whether or not it was ever connected; pynetdicom leaks a refused one.

    Its ``_shutdown_socket`` asks for the peer's address first, and leaves a socket without one
    open. The reactor and the thread that asked for the association may both end it.
    """
    connection = stream.socket
    if connection is not None:
        # the other side may have shut it down a moment before: ENOTCONN says nothing new
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


def _is_ready(stream: AssociationSocket) -> bool:
    """Return whether something can be read at once, whatever the descriptor's number.

    pynetdicom asks select(2), which knows none above 1023: while more files are open, each
    association would end as it begins.
    """
    connection = stream.socket
    if connection is None or not stream._is_connected:
        return False
    try:
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        is_readable = bool(poll.poll(0))
        # what TLS has decrypted already no longer waits in the socket
        return is_readable or (isinstance(connection, ssl.SSLSocket) and connection.pending() > 0)
    except (OSError, ValueError):
        stream.event_queue.put("Evt17")  # the transport connection is closed
        return False


class _Closed(AssociationSocket):
    """The socket of an association that came to nothing."""

    def __init__(self) -> None:
        self.socket = None

    def close(self) -> None:
        """Do nothing more."""


class _NothingAccepted:
    """An association whose other end took none of the contexts, so that nothing can be sent."""

    is_established = True

    def send_c_store(self, *args: Any, **kwargs: Any) -> None:
        """Fail, as each sub-operation does."""
        raise ValueError("no presentation context was accepted")

    def release(self) -> None:
        """Do nothing: it was aborted at once, as PS3.8 has no other end for it."""


class Entity(AE):
    """An AE whose C-MOVE survives a destination that rejects it or takes nothing of it.

    pynetdicom's C-MOVE closes a rejected association's socket a second time, when it is None, and
    answers 0xA801 (destination unknown) where the destination is there and accepted no context.
    """

    def associate(self, *args: Any, **kwargs: Any) -> Association:
        """Associate; a socket is there to be closed whatever came of it."""
        assoc = super().associate(*args, **kwargs)
        if assoc.is_established:
            return assoc
        # C-MOVE looks at `is_established` alone: so each sub-operation fails and is counted, and
        # the answer is not 0xA801
        if assoc.rejected_contexts and not assoc.accepted_contexts:
            return cast("Association", _NothingAccepted())
        # C-MOVE closes the socket of what is not established, whether or not there is a socket
        if assoc.dul.socket is None:
            assoc.dul.socket = _Closed()
        return assoc


def serve_in_full(assoc: Association, on_unexpected: Callable[[str], None]) -> None:
    """Let an association be released when what was asked before is answered, and not meanwhile.

    pynetdicom takes the request to release off its queue between two matches of a query, answers
    the query with success and no more matches, and the request never: the peer waits, and holds its
    place until the association is idle for too long. Answers may go out meanwhile (PS3.8 9.2.3,
    Sta8). A message that is not a whole request it drops without a word, and what nobody serves it
    answers so: ``on_unexpected`` is given what came.
    """
    inside, service = cast("Any", assoc), cast("Any", assoc.acse)
    serve, is_asked = inside._serve_request, service.is_release_requested

    def serve_whole(message: Any, context_id: int) -> None:
        kind = str(message.msg_type)
        if not message.is_valid_request:
            on_unexpected(f"a {kind} that is not a whole request")
            return
        if kind not in _SERVED:
            on_unexpected(f"an {kind}, which nobody serves here")
        # the question takes the A-RELEASE off the queue: it is put when all answers are out
        service.is_release_requested = lambda: False
        try:
            serve(message, context_id)
        finally:
            service.is_release_requested = is_asked

    inside._serve_request = serve_whole


def note_late_rejection(assoc: Association) -> None:
    """Take note of a rejection whose connection was closed as soon as it stood.

    pynetdicom looks whether the connection stands after the other end may have answered and closed
    it, takes it for one that never stood, and leaves the answer unread.
    """
    with suppress(Empty):
        while not (assoc.is_established or assoc.is_rejected):
            answer: Any = assoc.dul.to_user_queue.get_nowait()
            if isinstance(answer, A_ASSOCIATE) and answer.result in (1, 2):
                assoc.acceptor.primitive = answer
                assoc.is_rejected = True


def replace_socket(assoc: Association, stream: AssociationSocket) -> None:
    """Let an association read from `stream`: pynetdicom's own reads have no deadline."""
    assoc.dul.socket = stream


def bound_reads(assoc: Association, within_s: float, largest: int) -> None:
    """Let each read of an association that was asked for end in time, and within a size.

    pynetdicom reads a PDU until all of it has come, however long the peer announces it to be and
    however slowly it comes, and waits for that read before an association can be aborted: a peer
    that sends a byte a second would hold its sender for as long as it likes.
    """
    stream = cast("AssociationSocket", assoc.dul.socket)
    connection = cast("socket.socket", stream.socket)
    connection.settimeout(within_s)

    def read(count: int) -> bytearray:
        if count > largest:
            raise ConnectionAbortedError("the announced PDU is too long")
        content = bytearray(count)
        rest = memoryview(content)
        ends = time.monotonic() + within_s
        try:
            while rest and (left := ends - time.monotonic()) > 0:
                connection.settimeout(left)
                read = connection.recv_into(rest)
                if not read:
                    return content[: count - len(rest)]
                rest = rest[read:]
        finally:
            # what is sent has its own time; on a closed socket there is nothing to be set
            with suppress(OSError):
                connection.settimeout(within_s)
        if rest:
            raise TimeoutError
        return content

    stream.recv = read  # type: ignore[method-assign, assignment]


def replace_provider(assoc: Association, provider: DIMSEServiceProvider) -> None:
    """Let `provider` gather messages: pynetdicom's own has no bound and uses memory."""
    assoc.dimse = provider
    # the new provider has a queue of its own: what is put there has to wake the thread, too
    if wakes := getattr(assoc, "_news", None):
        wakes.follow(provider.msg_queue)


def replace_read(assoc: Association, read: Callable[[], None]) -> Callable[[], None]:
    """Let `read` take the place of reading one PDU; return pynetdicom's own.

    pynetdicom moves each PDU through three threads' queues and copies each byte six times.
    """
    standard = assoc.dul._read_pdu_data
    assoc.dul._read_pdu_data = read  # type: ignore[method-assign]
    return standard


def run_within(assoc: Association, around: Callable[[Callable[[], None]], None]) -> None:
    """Let `around` run both threads of an association: a thread that gives up closes no socket."""
    assoc.run = partial(around, assoc.run)  # type: ignore[method-assign]
    assoc.dul.run = partial(around, assoc.dul.run)  # type: ignore[method-assign]


def read_requests(
    assoc: Association,
    on_titles: Callable[[association_rq.Titles], None],
    on_fault: Callable[[str], None],
) -> None:
    """Let association requests be read as PS3.8 wants, and tell of those that cannot be.

    pynetdicom aborts without a word where a title is padded with NUL, an item is unknown or a
    further bit of the protocol version is set.
    """
    standard = assoc.dul._decode_pdu

    def decode(pdu: bytearray) -> Any:
        if not pdu or pdu[0] != association_rq.A_ASSOCIATE_RQ:
            return standard(pdu)
        try:
            plain, titles = association_rq.normalise(bytes(pdu), _can_be_read)
            # before pynetdicom reads it: who called can be named even where that fails
            on_titles(titles)
            return standard(bytearray(plain))
        except association_rq.MalformedRequest as exc:
            on_fault(str(exc))
            raise
        except UNREADABLE as exc:
            on_fault(f"it cannot be read ({type(exc).__name__})")
            raise

    assoc.dul._decode_pdu = decode  # type: ignore[method-assign, assignment]


def _can_be_read(kind: int, item: bytes) -> bool:
    made: Any = PDU_ITEM_TYPES[kind]()
    try:
        made.decode(item)
        # some faults show only here, where pynetdicom itself would abort
        made.to_primitive()
    except UNREADABLE:
        return False
    return True


def note_responses(assoc: Association, on_response: Callable[[Any], None]) -> None:
    """Let each response that is waited for be looked at: pynetdicom gives its status alone."""
    get = assoc.dimse.get_msg

    def noted(block: bool = False) -> tuple[Any, Any]:
        context_id, message = get(block)
        if block and message is not None:
            on_response(message)
        return context_id, message

    assoc.dimse.get_msg = noted  # type: ignore[method-assign]


def answer_reports_first(assoc: Association) -> None:
    """Let reports that come before an awaited response be answered.

    pynetdicom would take an N-EVENT-REPORT that overtakes the response for the response.
    """
    assoc.dimse.get_msg = partial(_next_response, assoc, assoc.dimse.get_msg)  # type: ignore[method-assign]


def _next_response(
    assoc: Association, get: Callable[[bool], tuple[Any, Any]], block: bool = False
) -> tuple[Any, Any]:
    context_id, message = get(block)
    # only where a response is awaited: the reactor's own look (`block` false) serves the report
    # itself
    while block and isinstance(message, N_EVENT_REPORT) and message.is_valid_request:
        assoc._serve_request(message, context_id)
        context_id, message = get(block)
    return context_id, message


def forsake(ae: AE) -> None:
    """End the reactor of an association that was interrupted while it was made.

    It is not a daemon and would keep the process alive after Ctrl-C.
    """
    for thread in threading.enumerate():
        if isinstance(thread, DULServiceProvider) and thread.assoc.ae is ae:
            thread.kill_dul()


def set_no_delay(assoc: Association) -> None:
    """Send small PDUs at once: Nagle's algorithm and delayed ACK cost 40 ms for each object."""
    connection = cast("Any", assoc.dul.socket).socket
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
