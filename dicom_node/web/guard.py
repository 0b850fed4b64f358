"""What holds for every request before anything reads it: secret, size, deadline, turn, headers."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.base.job import WIRE_HEADER, WIRE_VERSION
from dicom_node.base.logs import Sparse

MAX_BODY = 1 << 20
MAX_RESULT = 256 << 20
"""Largest result: a Secondary Capture of a whole radiograph fits many times."""
MAX_STORED = 16 << 30
"""Most bytes of the images of one STOW-RS request, each of which has its own limit."""
MAX_SIGN_IN = 8 << 10
"""Largest form of a stranger."""
STORE = "/dicom-web/studies"
SIGN_IN = "/sign-in"
BODY_S = 30.0
"""Longest silence in a body; behind its end a handler may wait as long as it likes."""
SIGN_IN_S = 10.0
"""Time for a stranger's whole form."""
SLOWEST = 16 << 10
"""Bytes a second of a body, over its whole time after the first `BODY_S`."""

PEOPLE = 24
"""Requests of people, and of strangers, that are answered at a time. Each takes a thread, of which
there are 40: the others are for health and heartbeats. The job API has threads of its own."""
SIGN_INS = 4
"""Of these, sign-ins: each waits for its turn to hash a password."""
TURN_S = 10.0
"""Longest wait for a turn."""

SECRET_PATHS = ("/jobs/", "/workers")
"""Where workers ask and tell."""
HEALTH = ("/healthz", "/readyz")

_UTF_8 = re.compile(rb';\s{0,8}charset="?utf-8"?\s{0,8}(;|$)', re.IGNORECASE)
_FORM = b"application/x-www-form-urlencoded"

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (
        b"content-security-policy",
        # data: is how the style sheet draws the arrows of its fields
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
)

_WIRE = (WIRE_HEADER.lower().encode(), str(WIRE_VERSION).encode())
"""In every answer to a worker: behind one URL there may be nodes of several versions."""

_lines = Sparse(logging.getLogger(__name__))


class Guard:
    """ASGI middleware: the job API needs its secret, bodies have an end, answers bear headers.

    It stands in front of the routes because these read a body before they ask who sent it.

    Parameters
    ----------
    secret : str
        The bearer token of the job API.
    larger : mapping of str to int
        Paths whose body may have more bytes.
    is_https : bool
        Whether people reach the pages by HTTPS, so that their browsers need never try without.
    """

    def __init__(
        self,
        app: ASGIApp,
        secret: str,
        larger: Mapping[str, int] | None = None,
        is_https: bool = False,
    ) -> None:
        self._app = app
        self._larger = larger or {}
        self._bearer = f"Bearer {secret}".encode()
        self._is_https = is_https
        self._people = asyncio.Semaphore(PEOPLE)
        self._sign_ins = asyncio.Semaphore(SIGN_INS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if not any(name.lower() == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                if scope["path"].startswith(SECRET_PATHS):
                    headers.append(_WIRE)
                if self._is_https or scope.get("scheme") == "https":
                    headers.append((b"strict-transport-security", b"max-age=31536000"))
                message["headers"] = [*headers, *_HEADERS]
            await send(message)

        try:
            await self._handle_request(scope, receive, sending)
        except HTTPException as exc:
            if exc.status_code >= 400:
                address = (scope.get("client") or ("?",))[0]
                _lines.warning("refused a request of %s: %s", address, exc.detail)
            answer = JSONResponse({"detail": exc.detail}, exc.status_code, exc.headers)
            await answer(scope, receive, sending)

    async def _handle_request(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path"], dict(scope["headers"])
        if path.startswith(SECRET_PATHS):
            # in constant time: how many bytes were right must not show
            if not hmac.compare_digest(headers.get(b"authorization", b""), self._bearer):
                raise HTTPException(
                    401,
                    "the job API needs its secret as bearer token",
                    {"WWW-Authenticate": "Bearer"},
                )
            _check_charset(headers)
            largest = MAX_RESULT if path.endswith("/result") else MAX_BODY
            await self._app(scope, _limit_body(scope, receive, largest), send)
            return
        if path in HEALTH:
            await self._app(scope, receive, send)
            return
        _check_charset(headers)
        if path == SIGN_IN and scope["method"] == "POST":
            receive = await _whole_form(headers, receive)
            async with self._take_turn(self._sign_ins) as end_early:
                await self._in_turn(scope, receive, send, end_early)
            return
        if path.startswith(STORE) and scope["method"] == "POST":
            # It takes as long as its images; what it does in threads is short.
            await self._app(scope, _limit_body(scope, receive, MAX_STORED), send)
            return
        largest = self._larger.get(path, MAX_BODY)
        await self._in_turn(scope, _limit_body(scope, receive, largest), send)

    async def _in_turn(
        self, scope: Scope, receive: Receive, send: Send, also: Callable[[], None] = lambda: None
    ) -> None:
        """Answer a request of people when its turn comes; the turn ends where the answer begins."""
        async with self._take_turn(self._people) as end_early:

            async def sending(message: Message) -> None:
                # the turn counts the making of an answer: a slow client that takes it holds nobody
                # up
                end_early()
                also()
                await send(message)

            await self._app(scope, receive, sending)

    @asynccontextmanager
    async def _take_turn(self, slots: asyncio.Semaphore) -> AsyncIterator[Callable[[], None]]:
        try:
            async with asyncio.timeout(TURN_S):
                await slots.acquire()
        except TimeoutError as exc:
            raise HTTPException(503, "too much to do; try again", {"Retry-After": "5"}) from exc
        is_held = True

        def end() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                slots.release()

        try:
            yield end
        finally:
            end()


def _check_charset(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a body in another charset than UTF-8: some codecs take quadratic time."""
    kind = headers.get(b"content-type", b"")
    if len(kind) > 1024:
        raise HTTPException(400, "the Content-Type is too long")
    lowered = kind.lower()
    if b"charset" in lowered and not (
        lowered.count(b"charset") == 1 and _UTF_8.search(kind.strip())
    ):
        raise HTTPException(415, "the charset is UTF-8")


async def _whole_form(headers: Mapping[bytes, bytes], receive: Receive) -> Receive:
    """Read the form of a sign-in, of which nothing is known yet; return what gives it again."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != _FORM:
        raise HTTPException(415, f"a sign-in is {_FORM.decode()}")
    length = headers.get(b"content-length", b"")
    if not length.isdigit():
        raise HTTPException(411, "a sign-in says its length")
    if int(length[:20]) > MAX_SIGN_IN:
        raise HTTPException(413, f"more than {MAX_SIGN_IN} bytes")
    body, is_whole = bytearray(), False
    try:
        async with asyncio.timeout(SIGN_IN_S):
            while not is_whole:
                message = await receive()
                if message["type"] == "http.disconnect":
                    break
                body += message.get("body", b"")
                is_whole = not message.get("more_body", False)
                if len(body) > MAX_SIGN_IN:
                    raise HTTPException(413, f"more than {MAX_SIGN_IN} bytes")
    except TimeoutError as exc:
        raise HTTPException(408, f"the form did not come within {SIGN_IN_S:g} s") from exc
    is_given = False

    async def again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return again


def _limit_body(scope: Scope, receive: Receive, largest: int) -> Receive:
    """Return `receive` that ends a body that is too large (413) or comes too slowly (408)."""
    size, is_whole, began = 0, False, time.monotonic()
    connection: Any = scope.get("state", {}).get("connection")

    async def receiving() -> Message:
        nonlocal size, is_whole
        if connection is not None and not is_whole:
            connection.want_body()
        try:
            async with asyncio.timeout(None if is_whole else BODY_S):
                message = await receive()
        except TimeoutError as exc:
            raise HTTPException(408, f"nothing came for {BODY_S:g} s") from exc
        is_whole = not message.get("more_body", False)
        size += len(message.get("body", b""))
        if size > largest:
            raise HTTPException(413, f"more than {largest} bytes")
        # a rate as well as a pause: a byte now and then keeps no connection for ever
        if not is_whole and time.monotonic() - began > BODY_S + size / SLOWEST:
            raise HTTPException(408, "the body comes too slowly")
        return message

    return receiving
