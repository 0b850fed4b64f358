"""What holds for every request before anything reads it: secret, size, headers."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1 << 20
MAX_RESULT = 256 << 20
"""Largest result: a Secondary Capture of a whole radiograph fits many times."""
MAX_STORED = 16 << 30
"""Most bytes of the images of one STOW-RS request, each of which has its own limit."""
STORE = "/dicom-web/studies"
BODY_S = 30.0
"""Longest silence in a body; behind its end a handler may wait as long as it likes."""

SECRET_PATHS = ("/jobs/", "/workers")
"""Where workers ask and tell."""

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


class Guard:
    """ASGI middleware: the job API needs its secret, bodies have an end, answers bear headers.

    It stands in front of the routes because these read a body before they ask who sent it.

    Parameters
    ----------
    secret : str
        The bearer token of the job API.
    larger : mapping of str to int
        Paths whose body may have more bytes.
    """

    def __init__(self, app: ASGIApp, secret: str, larger: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._larger = larger or {}
        self._bearer = f"Bearer {secret}".encode()

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
                message["headers"] = [*headers, *_HEADERS]
            await send(message)

        path = scope["path"]
        if path.startswith(SECRET_PATHS) and not self._is_known(scope):
            answer = JSONResponse(
                {"detail": "the job API needs its secret as bearer token"},
                401,
                {"WWW-Authenticate": "Bearer"},
            )
            await answer(scope, receive, sending)
            return
        largest = MAX_RESULT if path.endswith("/result") else self._larger.get(path, MAX_BODY)
        if path.startswith(STORE):
            largest = MAX_STORED
        await self._app(scope, _limited(receive, largest), sending)

    def _is_known(self, scope: Scope) -> bool:
        shown = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(shown, self._bearer)


def _limited(receive: Receive, largest: int) -> Receive:
    """Return `receive` that ends a body that is too large (413) or stops coming (408)."""
    size, is_whole = 0, False

    async def receiving() -> Message:
        nonlocal size, is_whole
        try:
            async with asyncio.timeout(None if is_whole else BODY_S):
                message = await receive()
        except TimeoutError as exc:
            raise HTTPException(408, f"nothing came for {BODY_S:g} s") from exc
        is_whole = not message.get("more_body", False)
        size += len(message.get("body", b""))
        if size > largest:
            raise HTTPException(413, f"more than {largest} bytes")
        return message

    return receiving
