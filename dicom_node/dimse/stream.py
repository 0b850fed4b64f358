"""From socket to spool: the one file that knows pynetdicom's inside.

A connection passes three doors. Its first PDU must have arrived whole before pynetdicom spends two
threads on it; each PDU has a largest size and a latest moment; the data set of a C-STORE goes to
its `Incoming` as it arrives instead of into memory.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from socketserver import BaseServer
from typing import Any, Protocol, cast

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket, ThreadedAssociationServer

from dicom_node.errors import ChexFractError, OutOfResources

logger = logging.getLogger(__name__)

FIRST_PDU_S = 5.0
"""Time for the TLS handshake and for the whole A-ASSOCIATE-RQ."""
ESTABLISHED_S = 8.0
"""Time from connecting to an established association."""
MAX_WAITING = 512
"""Most connections that may be silent at one time."""
MAX_OTHER_PDU = 1 << 18
"""Largest PDU that carries no data set: 128 contexts with 45 transfer syntaxes fit."""
MAX_COMMAND = 1 << 16
"""Largest command set; the largest of PS3.7 that is in use has a few hundred bytes."""
MAX_IDENTIFIER = 1 << 20
"""Largest data set of a request that is no C-STORE: it is held in memory."""

_A_ASSOCIATE_RQ = 0x01
_LOOK_EVERY_S = 1.0


class Incoming(Protocol):
    """An Instance that is being received (`store.spool`)."""

    def write(self, chunk: bytes | memoryview) -> object:
        """Append bytes of the data set."""

    def discard(self) -> object:
        """Leave nothing on disk."""


class Turned(Exception):
    """A connection is closed before pynetdicom sees it; the message says why."""


class Server(ThreadedAssociationServer):
    """Accepts connections, and hands on those that ask for an association.

    pynetdicom would do the TLS handshake in its accept loop, where one silent caller stops all.
    """

    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._waiting: set[socket.socket] = set()
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Take the next connection as it is."""
        return cast("socket.socket", self.socket).accept()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Wait for the caller's first PDU, then let pynetdicom go on."""
        try:
            self.finish_request(self._admit(request), client_address)
        except Turned as exc:
            logger.warning("turned away %s: %s", host(client_address), exc)
            self.shutdown_request(request)
        except ConnectionError:
            # A probe of a load balancer or a scan: common, harmless, and not a warning each time.
            logger.info("%s connected and closed", host(client_address))
            self.shutdown_request(request)
        except Exception:
            logger.exception("connection from %s", host(client_address))
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line that no thread could be started."""
        logger.error("no thread to serve %s", host(client_address))

    def shutdown(self) -> None:
        """Stop accepting, and close the connections that still wait."""
        BaseServer.shutdown(self)
        self.server_close()
        for waiting in list(self._waiting):
            _close(waiting)

    def _admit(self, request: socket.socket) -> socket.socket:
        if len(self._waiting) >= MAX_WAITING:
            raise Turned(f"{MAX_WAITING} connections are silent")
        self._waiting.add(request)
        try:
            if self.ssl_context:
                return _shake_hands(request, self.ssl_context)
            _await_request(request)
            return request
        finally:
            self._waiting.discard(request)


def host(address: Any) -> str:
    """Return the host of a socket address, IPv4 in its plain form."""
    return str(address[0]).removeprefix("::ffff:")


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _shake_hands(request: socket.socket, context: ssl.SSLContext) -> socket.socket:
    # The timeout is the deadline of the whole handshake, so a slow drip ends too.
    request.settimeout(FIRST_PDU_S)
    try:
        secure = context.wrap_socket(request, server_side=True)
    except TimeoutError as exc:
        raise Turned(f"no TLS handshake within {FIRST_PDU_S:g} s") from exc
    except ssl.SSLError as exc:
        raise Turned(f"TLS handshake failed: {exc.reason or exc}") from exc
    except ConnectionError:
        raise
    except OSError as exc:
        raise Turned(f"TLS handshake failed: {exc.strerror or exc}") from exc
    if not secure.pending() and not _is_readable(secure, FIRST_PDU_S):
        secure.close()
        raise Turned(f"no association request within {FIRST_PDU_S:g} s")
    return secure


def _await_request(request: socket.socket) -> None:
    """Return when a whole A-ASSOCIATE-RQ can be read; take nothing from the socket."""
    deadline = time.monotonic() + FIRST_PDU_S
    try:
        head = _peek(request, 6, deadline)
        kind, length = struct.unpack(">BxL", head)
        if kind != _A_ASSOCIATE_RQ:
            raise Turned(_foreign(head))
        if length > MAX_OTHER_PDU:
            raise Turned(f"an A-ASSOCIATE-RQ of {length} bytes")
        # More than this may not fit the kernel's buffer; the rest has its deadline in `_receive`.
        _peek(request, min(6 + length, 1 << 15), deadline)
    finally:
        request.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _peek(request: socket.socket, count: int, deadline: float) -> bytes:
    request.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
    if not _is_readable(request, deadline - time.monotonic()):
        raise Turned(f"no association request within {FIRST_PDU_S:g} s")
    content = request.recv(count, socket.MSG_PEEK)
    if not content:
        raise ConnectionResetError
    if len(content) < count:
        if content[0] != _A_ASSOCIATE_RQ:
            raise Turned(_foreign(content))
        raise Turned("closed in the middle of its association request")
    return content


def _is_readable(connection: socket.socket, within_s: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(max(0.0, within_s) * 1000))


def _foreign(head: bytes) -> str:
    if head[:2] == b"\x16\x03":
        return "a TLS hello at a port without TLS"
    if head.split(b" ")[0] in (b"GET", b"POST", b"HEAD", b"PUT", b"OPTIO", b"OPTIONS", b"CONNEC"):
        return "an HTTP request at the DICOM port"
    return f"its first byte is 0x{head[0]:02X}, not an A-ASSOCIATE-RQ"


def guard(assoc: Association, max_pdu: int, idle_timeout: float) -> None:
    """Give every read of `assoc` a largest size and a deadline, and its socket no delay."""
    stream = cast("AssociationSocket", assoc.dul.socket)
    connection = cast("socket.socket", stream.socket)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(FIRST_PDU_S)
    limits = (max(max_pdu, MAX_OTHER_PDU), time.monotonic() + ESTABLISHED_S, idle_timeout)
    stream.recv = partial(_receive, assoc, connection, limits)  # type: ignore[method-assign]


def _receive(
    assoc: Association,
    connection: socket.socket,
    limits: tuple[int, float, float],
    count: int,
) -> bytearray:
    """Read `count` bytes of one PDU; what is missing at the end of the stream is not made up.

    Raises
    ------
    OSError
        The PDU is too long or came too slowly; pynetdicom then closes the connection.
    """
    largest, establish_by, idle_timeout = limits
    peer = host((assoc.requestor.address,))
    if count > largest:
        logger.warning("closing %s: it announces a PDU of %d bytes", peer, count)
        raise ConnectionAbortedError
    started = time.monotonic()
    content = bytearray(count)
    rest = memoryview(content)
    while rest:
        left = _deadline(assoc, started, establish_by, idle_timeout) - time.monotonic()
        if left <= 0:
            logger.warning("closing %s: it stopped in the middle of a PDU", peer)
            raise TimeoutError
        connection.settimeout(min(left, _LOOK_EVERY_S))
        with suppress(TimeoutError):
            read = connection.recv_into(rest)
            if not read:
                return content[: count - len(rest)]
            rest = rest[read:]
    connection.settimeout(FIRST_PDU_S)
    return content


def _deadline(
    assoc: Association, started: float, establish_by: float, idle_timeout: float
) -> float:
    if assoc.is_established:
        return started + idle_timeout
    if assoc.is_aborted or assoc.is_released or assoc.is_rejected:
        return started + _LOOK_EVERY_S  # what still comes is nothing that anybody waits for
    return establish_by


class DataSet(BytesIO):
    """The data set of one C-STORE request, on its way to the spool.

    A fault is kept for the answer; the rest of the data set is then read and dropped, because
    DICOM has no way to stop a sender but to abort the association.
    """

    def __init__(self, incoming: Incoming | None, fault: ChexFractError | None = None) -> None:
        super().__init__()
        self.incoming = incoming
        self.fault = fault
        self.size = 0

    def write(self, chunk: Any) -> int:
        """Pass `chunk` on; never raises."""
        self.size += len(chunk)
        if self.incoming is not None and self.fault is None:
            try:
                self.incoming.write(chunk)
            except ChexFractError as exc:
                self._fail(exc)
            except OSError as exc:
                self._fail(OutOfResources(f"the spool takes no more: {exc.strerror or exc}"))
        return len(chunk)

    def _fail(self, fault: ChexFractError) -> None:
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
        Takes an association, the C-STORE-RQ (command set or primitive) and its context id;
        returns an `Incoming`.
    max_instance : int
        Bytes of a data set above which the association is aborted.
    """

    def __init__(
        self,
        assoc: Association,
        begin: Callable[[Association, Any, int], Incoming],
        max_instance: int,
    ) -> None:
        super().__init__(assoc)
        self._begin = begin
        self._max_instance = max_instance
        self._lock = threading.Lock()
        self._open: set[DataSet] = set()
        self._is_closed = False
        self._serving = 0
        assoc.dul.run = partial(self._run, assoc.dul.run)  # type: ignore[method-assign]

    @property
    def is_receiving(self) -> bool:
        """Whether a request has begun and is not yet answered."""
        return bool(self.message or self._open or self._serving or self.msg_queue.qsize())

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take the next fragments; a malformed message aborts the association."""
        try:
            if self.message is not None:
                self._direct()
            super().receive_primitive(primitive)
            self._limit()
        except Exception as exc:  # noqa: BLE001 - whatever a peer sends must not end the thread
            self._abort(f"it sent a malformed message ({type(exc).__name__})")

    @contextmanager
    def serving(self, data_set: DataSet) -> Iterator[bool]:
        """Answer for `data_set` from here on; False when the association closed before."""
        with self._lock:
            is_open = data_set in self._open
            self._open.discard(data_set)
            self._serving += 1
        try:
            yield is_open
        finally:
            with self._lock:
                self._serving -= 1

    def close(self) -> None:
        """Leave nothing of data sets that nobody will answer for."""
        with self._lock:
            unfinished, self._open = self._open, set()
            self._is_closed = True
        for data_set in unfinished:
            data_set.discard()

    def _run(self, run: Callable[[], None]) -> None:
        """Run pynetdicom's reactor; when it gives up, it neither closes its socket nor says so."""
        try:
            run()
        finally:
            self.close()
            stream = self.assoc.dul.socket
            if stream is not None and stream.socket is not None:
                stream.socket.close()

    def opened(self, request: Any, context_id: int) -> DataSet:
        """Return the way into the spool for one request; a fault is kept in it for the answer."""
        try:
            data_set = DataSet(self._begin(self.assoc, request, context_id))
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

    def _direct(self) -> None:
        """Point the data set of a C-STORE request, whose command is complete, at the spool."""
        message = self.message
        if not isinstance(message, C_STORE_RQ) or isinstance(message.data_set, DataSet):
            return
        data_set = self.opened(message.command_set, cast("int", message.context_id))
        data_set.write(cast("BytesIO", message.data_set).getvalue())
        message.data_set = data_set

    def _limit(self) -> None:
        message = self.message
        if message is None:
            return
        if message.encoded_command_set.tell() > MAX_COMMAND:
            self._abort("its command set does not end")
        held = message.data_set
        size = held.size if isinstance(held, DataSet) else cast("BytesIO", held).tell()
        largest = self._max_instance
        if not isinstance(message, C_STORE_RQ):
            largest = min(largest, MAX_IDENTIFIER)
        if size > largest:
            self._abort(f"its data set is larger than {largest} bytes")

    def _abort(self, reason: str) -> None:
        logger.warning("aborting %s: %s", host((self.assoc.requestor.address,)), reason)
        self.close()
        self.message = None
        # PS3.8 9.2.2: an invalid PDU parameter ends in A-ABORT and a closed connection.
        self.dul.event_queue.put("Evt19")
