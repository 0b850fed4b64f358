"""Carries a node's HTTP by Python's own client: an Instance of megabytes goes in a few pieces.

The usual carrier of httpx takes a body 64 KB at a time through five layers: 8 ms of a processor for
10 MB, most of it with the interpreter held, where this one takes 3. A worker may fetch 27 pictures
a second for its model, and that was a fifth of what an image cost it.
"""

from __future__ import annotations

import http.client
import select
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2

PIECE = 1 << 20
"""Bytes of a body that are handed on at a time: after each, work has moved on."""
SENT = 1 << 16
"""Bytes of a body that are sent at a time: Python's limit of time is for all of one call."""
PROGRESS = "progress"
"""The extension of a request with a callable that hears of each piece of its body."""
MOST_IDLE = 16
"""Connections that are kept for later."""
KEPT_S = 4.0
"""Seconds for which they are kept: less than most hosts keep them, and than it takes a firewall to
forget them without a word."""


class PlainTransport(httpx2.BaseTransport):
    """Sends requests of one host over connections that are kept.

    Parameters
    ----------
    context : SSLContext, optional
        Verifies the host where its URL is HTTPS.
    monotonic : callable
        The clock.
    """

    def __init__(
        self,
        context: ssl.SSLContext | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._monotonic = monotonic
        self._idle: list[tuple[http.client.HTTPConnection, float]] = []
        self._lock = threading.Lock()
        self._is_open = True

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; return its answer, whose body is still to be read.

        Raises
        ------
        TransportError
            The host gives no answer, or something else than HTTP.
        """
        body = request.read()
        connection = self._take(request)
        try:
            with _as_transport_error(request):
                connection.putrequest(
                    request.method,
                    request.url.raw_path.decode("ascii"),
                    skip_host=True,
                    skip_accept_encoding=True,
                )
                for name, value in request.headers.raw:
                    connection.putheader(name.decode("ascii"), value)
                connection.endheaders()
                _send_body(connection, body, request.extensions.get(PROGRESS))
                answer = connection.getresponse()
        except httpx2.TransportError:
            connection.close()
            raise
        return httpx2.Response(
            answer.status,
            # as Python's client has read them: httpx would refuse what is not ASCII
            headers=[
                (name.encode("latin-1"), value.encode("latin-1"))
                for name, value in answer.msg.items()
            ],
            stream=_Body(self, connection, answer, request),
            request=request,
        )

    def close(self) -> None:
        """Close the connections that are idle, and the others when they are."""
        with self._lock:
            self._is_open = False
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def give_back(self, connection: http.client.HTTPConnection) -> None:
        """Keep a connection whose last answer was read to its end."""
        with self._lock:
            if self._is_open and len(self._idle) < MOST_IDLE:
                self._idle.append((connection, self._monotonic()))
                return
        connection.close()

    def _take(self, request: httpx2.Request) -> http.client.HTTPConnection:
        while True:
            with self._lock:
                connection, since = self._idle.pop() if self._idle else (None, 0.0)
            if connection is None:
                return self._connected(request)
            if self._monotonic() - since < KEPT_S and not _has_ended(connection):
                return connection
            connection.close()

    def _connected(self, request: httpx2.Request) -> http.client.HTTPConnection:
        url, limits = request.url, request.extensions.get("timeout", {})
        connection: http.client.HTTPConnection
        # Never without a port: Python's client would look for one in an IPv6 address.
        if url.scheme == "https":
            connection = http.client.HTTPSConnection(
                url.host, url.port or 443, timeout=limits.get("connect"), context=self._context
            )
        else:
            connection = http.client.HTTPConnection(
                url.host, url.port or 80, timeout=limits.get("connect")
            )
        try:
            with _as_transport_error(request):
                connection.connect()
        except httpx2.TransportError:
            connection.close()
            raise
        connection.sock.settimeout(limits.get("read"))
        return connection


class _Body(httpx2.SyncByteStream):
    """The body of an answer; its connection is kept if it is read to its end."""

    def __init__(
        self,
        transport: PlainTransport,
        connection: http.client.HTTPConnection,
        answer: http.client.HTTPResponse,
        request: httpx2.Request,
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._answer = answer
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        while True:
            with _as_transport_error(self._request):
                piece = self._answer.read(PIECE)
                # Python's client takes the end of a connection for the end of a body.
                if not piece and self._answer.length:
                    raise http.client.IncompleteRead(piece, self._answer.length)
            if not piece:
                return
            yield piece

    def close(self) -> None:
        """Keep the connection, or end it where something of the body is left."""
        is_whole = self._answer.isclosed()
        self._answer.close()
        # it closes itself where the host has said that this was the last answer
        if is_whole and self._connection.sock is not None:
            self._transport.give_back(self._connection)
        else:
            self._connection.close()


def _send_body(
    connection: http.client.HTTPConnection, body: bytes, progress: Callable[[], None] | None
) -> None:
    """Send a body in pieces; a host that has heard enough of it has answered before its end."""
    view = memoryview(body)
    try:
        for start in range(0, len(view), SENT):
            connection.send(view[start : start + SENT])
            if progress is not None:
                progress()
    except TimeoutError:
        raise
    except OSError:  # its answer says why: the result is too large, or the secret is wrong
        return


def _has_ended(connection: http.client.HTTPConnection) -> bool:
    """Whether the host has ended a connection, or said what nobody asked."""
    if connection.sock is None:
        return True
    poll = select.poll()
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def _as_transport_error(request: httpx2.Request) -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise httpx2.ReadTimeout("timed out", request=request) from exc
    except OSError as exc:
        raise httpx2.ConnectError(str(exc), request=request) from exc
    except http.client.HTTPException as exc:
        # ascii: what a host sent instead of HTTP may be in it
        text = f"{type(exc).__name__} {str(exc)[:120]!a}"
        raise httpx2.RemoteProtocolError(text, request=request) from exc
