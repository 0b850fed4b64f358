"""What a connection costs before it is known who calls: little, for a short time, few at once.

uvicorn waits for ever for the rest of a request, and counts all connections alike. Here one that
waits (for a head, or for the rest of a body that nobody has asked for) has a deadline, and when an
address has many of them the oldest go first: a fast request of the same address still gets in.
"""

from __future__ import annotations

import asyncio
import logging
import re
import resource
import ssl
import time
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from dicom_node.base.logs import Sparse
from dicom_node.dimse.security import handshake_fault

HEAD_S = 10.0
"""Time for the head of a request, and for a body that nobody asks for."""
STALL_S = 60.0
"""Time in which a client must take some of its answer."""
FRESH_S = 1.0
"""Age under which a connection is not closed in favour of others: its request is on the way."""
MOST_OF_ADDRESS = 64
"""Connections of one address that may wait."""
MAX_HEAD = 16 << 10
"""Bytes of the head of a request."""
MAX_LINES = 200
"""Lines of it: each costs some microseconds, whoever sends it."""
MOST = 1024
"""Connections in all, where the limit of open files allows it."""
_OTHER_FILES = 256
"""Files that are open beside connections: ledger, spool, standard output."""

_lines = Sparse(logging.getLogger(__name__))
_uvicorn = logging.getLogger("uvicorn.error.connection")
_uvicorn.setLevel(logging.ERROR)


class Opened(Protocol):
    """A connection of a port, before or after its TLS handshake."""

    address: str
    """Where it comes from."""

    @property
    def overdue(self) -> str:
        """Why it is closed when it has waited too long; empty where that is nobody's fault."""

    def is_stalled(self, now: float) -> bool:
        """Return whether the client has taken nothing of its answer for too long."""

    def end(self) -> None:
        """Hang up."""


class Gate:
    """Knows every connection of a port, and closes those that wait too long or are too many.

    Its methods are called in the event loop.

    Parameters
    ----------
    most : int
        Connections in all.
    most_of_address : int
        Connections of one address that may wait.
    is_proxy : callable
        Whether an address is that of a proxy, which keeps connections for many people.
    """

    def __init__(
        self,
        most: int = MOST,
        most_of_address: int = MOST_OF_ADDRESS,
        is_proxy: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self._most = most
        self._is_proxy = is_proxy
        self._most_of_address = most_of_address
        self._connections: set[Opened] = set()
        self._waiting: dict[Opened, float] = {}
        """Those that wait, and since when: the oldest first."""
        self._by_address: Counter[str] = Counter()

    def enter(self, connection: Opened) -> None:
        """Take a new connection in."""
        self._connections.add(connection)
        self.wait(connection)
        if self._by_address[connection.address] > self._most_of_address:
            self._close_oldest(connection.address)
        if len(self._connections) > self._most:
            # The new connection waits, too: so there is always a waiting one to close.
            self.refuse(next(iter(self._waiting)), f"{self._most} connections are open")

    def leave(self, connection: Opened) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self.work(connection)

    def wait(self, connection: Opened) -> None:
        """Note that a connection waits from now on for what its client sends."""
        self.work(connection)
        if connection in self._connections:
            self._waiting[connection] = time.monotonic()
            self._by_address[connection.address] += 1

    def work(self, connection: Opened) -> None:
        """Note that this side has something to do for a connection."""
        if self._waiting.pop(connection, None) is not None:
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]

    def sweep(self) -> None:
        """Close what has waited too long; called about twice a second."""
        now = time.monotonic()
        for connection, since in list(self._waiting.items()):
            if now - since <= HEAD_S:
                break  # a dictionary keeps the order of entry: all that follow are younger
            if connection.overdue:
                self.refuse(connection, connection.overdue)
            else:
                connection.end()
        for address, count in list(self._by_address.items()):
            if count > self._most_of_address:
                self._close_oldest(address)
        for connection in [
            connection for connection in self._connections if connection.is_stalled(now)
        ]:
            self.refuse(connection, f"it takes nothing of its answer for {STALL_S:.0f} s")

    def _close_oldest(self, address: str) -> None:
        """Close the oldest that wait of an address that has too many."""
        if self._is_proxy(address):
            return
        surplus = self._by_address[address] - self._most_of_address
        # none that is fresh: a browser opens several connections at once, and uses each in a moment
        fresh = time.monotonic() - FRESH_S
        old = [connection for connection, since in self._waiting.items() if since < fresh]
        for connection in [connection for connection in old if connection.address == address][
            :surplus
        ]:
            self.refuse(connection, f"more than {self._most_of_address} connections of it wait")

    def refuse(self, connection: Opened, why: str) -> None:
        """Close a connection, and say why."""
        _lines.warning("closed a connection of %s: %s", connection.address, why)
        self.leave(connection)
        connection.end()


_BLANK_LINE = re.compile(rb"\n\r?\n")


def _head_lines(data: bytes) -> int:
    """Return the lines of a head in some bytes, which may go on with a body."""
    end = _BLANK_LINE.search(data)
    return data.count(b"\n", 0, end.start() if end else len(data))


class _Parser(h11.Connection):
    """h11's parser, which leaves the chunks of a body alone until somebody wants them.

    Each chunk is an event of some 30 microseconds, and a stranger chooses its size: a byte.
    """

    is_held = False

    def next_event(self) -> Any:
        """Return the next event; PAUSED while the body is not wanted."""
        if self.is_held:
            return h11.PAUSED
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.is_held = any(name == b"transfer-encoding" for name, _ in event.headers)
        return event


class Connection(H11Protocol):
    """uvicorn's connection, which tells a `Gate` whether it waits."""

    gate: Gate
    conn: _Parser
    overdue = ""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, "connection": self}, _loop)
        self.conn = _Parser(h11.SERVER, MAX_HEAD)
        # its lines name nobody, have no end, and advise to install what is left out on purpose
        self.logger = _uvicorn
        self._is_over = False
        """Whether all that still comes is the rest of a body that nobody wants."""
        self.address = ""
        self._lines, self._tail = 0, b""
        """Lines of the head that is coming, and its last bytes."""
        self._is_wanted = False
        """Whether the application has asked for the body: it knows the sender."""
        self._blocked_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.gate.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.gate.leave(self)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Handle what has come; a request that is whole is worked on, and waits no longer."""
        before = self.cycle
        super().handle_events()
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return
        if cycle is not before:
            # A second request on the same connection is as unknown as the first one was.
            self._is_wanted = False
            self._lines, self._tail = 0, b""
        if self._is_wanted or not cycle.more_body:
            self.gate.work(self)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP/1.1, and say whose it was."""
        _lines.warning("refused a request of %s: it is not valid HTTP/1.1", self.address)
        super().send_400_response(msg)

    def want_body(self) -> None:
        """Note that the application reads the body, so that its deadlines hold from here on."""
        self._is_wanted = True
        self.gate.work(self)
        if self.conn.is_held:
            self.conn.is_held = False
            self.flow.resume_reading()
            # what was held back lies in the parser already, and no further byte may come
            self.loop.call_soon(self.handle_events)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._is_over:
            return
        if self.cycle is None or self.cycle.response_complete:
            self._lines += _head_lines(self._tail + data) - self._tail.count(b"\n")
            # An empty line ends a head, in four bytes at most; they may come in two parts.
            self._tail = data[-3:]
            if self._lines > MAX_LINES:
                self.gate.refuse(self, f"a head of more than {MAX_LINES} lines")
                return
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Wait for the next request; behind chunks that nobody wants there can be none."""
        self.gate.wait(self)
        self._is_over = self.conn.is_held
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Note that the client does not take its answer."""
        self._blocked_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client took some of its answer."""
        self._blocked_since = None
        super().resume_writing()

    def is_stalled(self, now: float) -> bool:
        """Return whether the client has taken nothing of its answer for too long."""
        return self._blocked_since is not None and now - self._blocked_since > STALL_S

    def end(self) -> None:
        """Hang up; what is being sent is dropped."""
        # Not close(): that waits for the client to take what is left, which it may never do.
        if self.transport is not None:
            self.transport.abort()


class Handshake(asyncio.Protocol):
    """A connection until its TLS handshake is done: it waits, as one does that sends no head.

    asyncio would wait for a minute, count none of them, and say nothing of those that fail.

    Parameters
    ----------
    **parameters
        As of `Connection`, which follows.
    """

    gate: Gate
    tls: ssl.SSLContext

    def __init__(self, **parameters: Any) -> None:
        self._parameters = parameters
        self._transport: asyncio.Transport | None = None
        self._is_ended = False
        self.address = ""

    @property
    def overdue(self) -> str:
        """Why it is closed when it has waited too long."""
        return f"no TLS handshake within {HEAD_S:g} s"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin the handshake; `Connection` gets what comes after it."""
        self._transport = transport
        remote = get_remote_addr(transport)
        self.address = remote[0] if remote else ""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        done.add_done_callback(self._note_end)
        connection = connections_of(self.gate)(**self._parameters)
        # as `loop.create_server(ssl=…)` does it, where nobody sees the handshake
        secured = SSLProtocol(loop, connection, self.tls, done, server_side=True)
        transport.set_protocol(secured)
        secured.connection_made(transport)
        self.gate.enter(self)

    def _note_end(self, done: asyncio.Future[None]) -> None:
        self.gate.leave(self)
        exc = done.exception()
        # who hangs up is not refused: the probes of a balancer do it every other second
        if isinstance(exc, ssl.SSLError) and not self._is_ended:
            reason = f"TLS handshake failed: {handshake_fault(exc)}"
            _lines.warning("closed a connection of %s: %s", self.address, reason)

    def is_stalled(self, _now: float) -> bool:
        """Return False: nothing is answered yet."""
        return False

    def end(self) -> None:
        """Hang up."""
        self._is_ended = True
        if self._transport is not None:
            self._transport.abort()


def most_connections() -> int:
    """Return how many connections may be open at a time; the limit of open files is raised.

    At that limit nothing could be accepted any more, and no file be opened.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST + _OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(64, min(MOST, soft - _OTHER_FILES))


def connections_of(gate: Gate) -> type[Connection]:
    """Return the protocol of a port's connections, for uvicorn."""
    return type("Connection", (Connection,), {"gate": gate})


def handshakes_of(gate: Gate, tls: ssl.SSLContext) -> type[asyncio.Protocol]:
    """Return the same for a port with TLS."""
    return type("Handshake", (Handshake,), {"gate": gate, "tls": tls})
