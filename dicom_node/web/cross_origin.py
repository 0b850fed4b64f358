"""Which other sites' pages may ask the DICOMweb services: CORS, for ``web.cors_origins`` alone."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.standard.web_services import ROOT

_METHODS = b"GET, HEAD, POST, OPTIONS"
_HEADERS = b"Accept, Authorization, Content-Type"
_EXPOSED = b"Content-Type, Content-Length, Warning"
_KEPT_S = b"3600"
"""Seconds for which a browser keeps the answer."""


class CrossOrigin:
    """ASGI middleware that answers browsers' questions before their requests.

    Cookies are never part of such a request: a viewer elsewhere shows the secret of DICOMweb
    clients.

    Parameters
    ----------
    origins : collection of str
        ``scheme://host[:port]`` of each site, or ``*`` for any; none: nothing is changed.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.rstrip("/") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        origin = headers.get(b"origin", b"")
        is_ours = scope["type"] == "http" and (scope["path"] + "/").startswith(ROOT + "/")
        if not is_ours or not self._origins:
            await self._app(scope, receive, send)
            return
        # A cache must not give one site what another was allowed.
        added = [(b"vary", b"Origin")]
        is_allowed = bool(origin) and bool({"*", origin.decode("latin-1")} & self._origins)
        if is_allowed:
            added += [
                (b"access-control-allow-origin", origin),
                (b"access-control-expose-headers", _EXPOSED),
            ]
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            if is_allowed:
                added += [
                    (b"access-control-allow-methods", _METHODS),
                    (b"access-control-allow-headers", _HEADERS),
                    (b"access-control-max-age", _KEPT_S),
                ]
            await send({"type": "http.response.start", "status": 204, "headers": added})
            await send({"type": "http.response.body", "body": b""})
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await self._app(scope, receive, sending)
