"""The door to the listener: what has asked for no association yet costs one thread and no more.

A connection's first PDU must have arrived whole before pynetdicom spends two threads on it.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from socketserver import BaseServer
from typing import Any, NoReturn, cast

from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.base.addresses import Network, is_in, parse_address, show_address
from dicom_node.base.plurals import counted
from dicom_node.base.rims import OneOfMany
from dicom_node.dimse.proxy import SIGNATURE, NotProxied, read_caller
from dicom_node.dimse.refusals import Refusal, Refusals
from dicom_node.dimse.security import SecureSocket, handshake_fault

logger = logging.getLogger(__name__)

FIRST_PDU_S = 5.0
"""Time for the TLS handshake and for the whole A-ASSOCIATE-RQ."""
MAX_WAITING = 512
"""Most connections that may be silent at one time; above, the oldest of the busiest host goes."""
MAX_WAITING_OF_HOST = 256
"""Most of them from one host; above, its oldest goes."""
MAX_OTHER_PDU = 1 << 18
"""Largest PDU that carries no data set: 128 contexts with 45 transfer syntaxes fit."""

_A_ASSOCIATE_RQ = 0x01
_HANDSHAKE = 0x16
"""First byte of a TLS record of the kind handshake (RFC 8446 5.1)."""
_HEAD = 6
"""Bytes of a PDU before what its length counts (PS3.8 9.3.1)."""
_NO_HANDSHAKE = "no TLS handshake within {:g} s"
_NO_REQUEST = "no association request within {:g} s"


class Turned(Exception):
    """A connection is closed before pynetdicom sees it; the message says why."""


class Server(ThreadedAssociationServer):
    """Accepts connections at an open port, and hands on those that ask for an association.

    pynetdicom would do the TLS handshake in its accept loop, where one silent caller stops all.
    """

    # its threads wait for silent callers, and the end of the process does not wait for them
    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        *args: Any,
        opened: socket.socket,
        look: Callable[[], None] = lambda: None,
        pause: Callable[[], float] = lambda: 0.0,
        **kwargs: Any,
    ) -> None:
        self._opened = opened
        self._look = look
        self._pause = pause
        self._waiting: dict[socket.socket, str] = {}
        """Connections that are silent, and from where: the oldest first."""
        self._lock = threading.Lock()
        self.refusals = Refusals()
        self.proxies: Sequence[Network] = ()
        """From where, and from nowhere else, a PROXY header is read and believed."""
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Use the port that is open already."""
        cast("socket.socket", self.socket).close()
        self.socket = self._opened
        self.server_address = self._opened.getsockname()

    def server_activate(self) -> None:
        """Do nothing: the socket listens already."""

    def server_close(self) -> None:
        """Close this listener's end; a shutdown would end it for those that share it, too."""
        self._opened.close()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Take the next connection as it is; one with less to do may have taken it (`OSError`)."""
        if pause := self._pause():
            time.sleep(pause)
        request, address = self._opened.accept()
        # a system may let it inherit that the port does not block
        request.setblocking(True)
        return request, address

    def service_actions(self) -> None:
        """Look around, as in each turn of the accept loop.

        pynetdicom collects garbage here, for 0.1 s; Python's own collector finds what ended.
        """
        self._look()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Wait for the caller's first PDU, then let pynetdicom go on."""

        def note(exc: Exception) -> None:
            logger.error("connection from %s", host(client_address), exc_info=exc)
            self.shutdown_request(request)

        with OneOfMany(note):
            try:
                client_address = self._true_address(request, client_address)
                self.finish_request(
                    self._admit_request(request, host(client_address)), client_address
                )
            except Turned as exc:
                refusal = Refusal("", host(client_address), "", str(exc))
                self.refusals.note("turned away", refusal)
                self.shutdown_request(request)
            except ConnectionError:
                # A probe of a load balancer or a scan: common, harmless, no warning each time.
                logger.info("%s connected and closed", host(client_address))
                self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line that no thread could be started."""
        logger.error("no thread to serve %s", host(client_address))

    def shutdown(self) -> None:
        """Stop accepting, and close the connections that still wait."""
        BaseServer.shutdown(self)
        self.server_close()
        for waiting in list(self._waiting):
            _close_connection(waiting)

    def _true_address(self, request: socket.socket, address: Any) -> Any:
        """Return who calls: behind a TCP balancer, whom its PROXY header names."""
        proxy = parse_address(host(address))
        if proxy is None or not is_in(proxy, self.proxies):
            return address
        try:
            caller = read_caller(request, FIRST_PDU_S)
        except NotProxied as exc:
            raise Turned(str(exc)) from exc
        request.settimeout(None)
        return address if caller is None else (caller, 0)

    def _admit_request(self, request: socket.socket, caller: str) -> socket.socket:
        """Return the connection once it asks for an association."""
        self._make_room(caller)
        with self._counting(request, caller):
            if not self.ssl_context:
                _await_request(request)
                return request
            _await_hello(request)
        # The handshake comes later: what is counted has to be what can be closed meanwhile, and
        # this takes the descriptor away from `request`.
        secure = cast("SecureSocket", _wrap_socket(request, self.ssl_context))
        try:
            with self._counting(secure, caller):
                _shake_hands(secure)
                secure.first = _read_request(secure)
        except (Turned, OSError):
            secure.close()
            raise
        return secure

    @contextmanager
    def _counting(self, connection: socket.socket, caller: str) -> Iterator[None]:
        """Count a connection as silent; one that is closed meanwhile has its line already."""
        self._waiting[connection] = caller
        try:
            yield
        except Turned as exc:
            if connection not in self._waiting:
                raise ConnectionResetError from exc
            raise
        finally:
            self._waiting.pop(connection, None)

    def _make_room(self, caller: str) -> None:
        """Close the oldest silent connection where there are too many.

        Not the new connection: a modality's request comes at once, so the oldest is never its.
        """
        with self._lock:
            of_host = Counter(self._waiting.values())
            if of_host[caller] >= MAX_WAITING_OF_HOST:
                self._turn_away_oldest(
                    caller, f"{MAX_WAITING_OF_HOST} connections of it are silent"
                )
            elif len(self._waiting) >= MAX_WAITING:
                ((most, _),) = of_host.most_common(1)
                self._turn_away_oldest(most, f"{MAX_WAITING} connections are silent")

    def _turn_away_oldest(self, caller: str, why: str) -> None:
        oldest = next(
            (request for request, who in list(self._waiting.items()) if who == caller), None
        )
        if oldest is not None:
            self._waiting.pop(oldest, "")
            self.refusals.note("turned away", Refusal("", caller, "", why))
            _close_connection(oldest)


def host(address: Any) -> str:
    """Return the host of a socket address, IPv4 in its plain form."""
    return show_address(str(address[0]))


def _close_connection(connection: socket.socket) -> None:
    # not `SSLSocket.shutdown`: it would let who reads the connection go on without TLS
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _await_hello(request: socket.socket) -> None:
    """Return when a TLS handshake begins; take nothing from the socket."""
    if not is_readable(request, FIRST_PDU_S):
        raise Turned(_NO_HANDSHAKE.format(FIRST_PDU_S))
    head = request.recv(_HEAD, socket.MSG_PEEK)
    if not head:
        raise ConnectionResetError
    if head[0] == _A_ASSOCIATE_RQ:
        raise Turned("an association request without TLS")
    if head[0] != _HANDSHAKE:
        raise Turned(_foreign_protocol(head, "a TLS hello"))


def _wrap_socket(request: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        return context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
    except OSError as exc:  # it has gone meanwhile
        raise ConnectionResetError from exc


def _shake_hands(secure: ssl.SSLSocket) -> None:
    # The timeout is the deadline of the whole handshake, so a slow drip ends too.
    secure.settimeout(FIRST_PDU_S)
    try:
        secure.do_handshake()
    except TimeoutError as exc:
        raise Turned(_NO_HANDSHAKE.format(FIRST_PDU_S)) from exc
    except OSError as exc:
        raise Turned(f"TLS handshake failed: {handshake_fault(exc)}") from exc


def _read_request(secure: ssl.SSLSocket) -> bytes:
    """Return a whole A-ASSOCIATE-RQ: what TLS has decrypted cannot be looked at and left there."""
    deadline = time.monotonic() + FIRST_PDU_S
    head = _read_bytes(secure, b"", _HEAD, deadline)
    return _read_bytes(secure, head, _request_length(head), deadline)


def _read_bytes(secure: ssl.SSLSocket, begin: bytes, count: int, deadline: float) -> bytes:
    """Return `begin` and `count` bytes more."""
    content, whole = begin, len(begin) + count
    while len(content) < whole:
        left = deadline - time.monotonic()
        try:
            secure.settimeout(max(left, 0.001))
            more = secure.recv(whole - len(content))
        except TimeoutError as exc:
            raise Turned(_NO_REQUEST.format(FIRST_PDU_S)) from exc
        except ssl.SSLError as exc:
            raise Turned(f"TLS failed: {handshake_fault(exc)}") from exc
        if not more:
            _note_end(content)
        content += more
    return content


def _await_request(request: socket.socket) -> None:
    """Return when a whole A-ASSOCIATE-RQ can be read; take nothing from the socket."""
    deadline = time.monotonic() + FIRST_PDU_S
    try:
        length = _request_length(_peek_bytes(request, _HEAD, deadline))
        # More than this may not fit the kernel's buffer; the rest has its deadline in the `Inlet`.
        _peek_bytes(request, min(_HEAD + length, 1 << 15), deadline)
    finally:
        request.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _request_length(head: bytes) -> int:
    """Return how many bytes of an A-ASSOCIATE-RQ follow its head."""
    kind, length = struct.unpack(">BxL", head)
    if kind != _A_ASSOCIATE_RQ:
        raise Turned(_foreign_protocol(head))
    if length > MAX_OTHER_PDU:
        raise Turned(f"an A-ASSOCIATE-RQ of {counted(length, 'byte')}")
    return int(length)


def _peek_bytes(request: socket.socket, count: int, deadline: float) -> bytes:
    # the kernel wakes us for `count` bytes at once: a slow drip costs no processor time
    request.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
    if not is_readable(request, deadline - time.monotonic()):
        raise Turned(_NO_REQUEST.format(FIRST_PDU_S))
    content = request.recv(count, socket.MSG_PEEK)
    # readable with fewer bytes than were asked for: the stream has ended
    if len(content) < count:
        _note_end(content)
    return content


def _note_end(content: bytes) -> NoReturn:
    """Raise what the end of a stream means after some bytes of a request."""
    if not content:
        raise ConnectionResetError
    if content[0] != _A_ASSOCIATE_RQ:
        raise Turned(_foreign_protocol(content))
    raise Turned("closed in the middle of its association request")


def is_readable(connection: socket.socket, within_s: float) -> bool:
    """Return whether bytes, or the end of the stream, come within a time."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(max(0.0, within_s) * 1000))


def _foreign_protocol(head: bytes, awaited: str = "an A-ASSOCIATE-RQ") -> str:
    # a TLS record of the kind handshake, version 3.x (RFC 8446 5.1)
    if head[:2] == b"\x16\x03":
        return "a TLS hello at a port without TLS"
    # six bytes were read, so longer methods are cut
    if head.split(b" ")[0] in (b"GET", b"POST", b"HEAD", b"PUT", b"OPTIO", b"OPTIONS", b"CONNEC"):
        return "an HTTP request at the DICOM port"
    if head.startswith((b"PROXY ", SIGNATURE[: len(head)])):
        return "it sends a PROXY header and is not in node.proxies"
    return f"its first byte is 0x{head[0]:02X}, not {awaited}"
