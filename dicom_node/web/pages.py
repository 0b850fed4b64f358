"""The worklist for people: what was received, how far it came, and why."""

from __future__ import annotations

import base64
import binascii
import hmac
from datetime import UTC, datetime
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException

from dicom_node import __version__
from dicom_node.settings import Settings, is_loopback
from dicom_node.store.ledger import Ledger

USER = "admin"
"""The one user until accounts exist; the password is the content of the secret file."""

PAGE = 50
STATES = (
    "received",
    "queued",
    "running",
    "reported",
    "delivered",
    "undelivered",
    "rejected",
    "failed",
    "ignored",
)

_templates = Environment(
    loader=PackageLoader("dicom_node.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters["when"] = lambda at: (
    datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
)


def routes(settings: Settings, ledger: Ledger, secret: str) -> APIRouter:
    """Return the pages; each asks for the sign-in that [web] wants."""
    expected = f"{USER}:{secret}".encode()

    def signed_in(request: Request) -> None:
        """Let in who signed in; without sign-in, who is at this machine's own address."""
        if not settings.web.sign_in:
            # A page elsewhere could point its own name at 127.0.0.1 and read patients' names.
            if not is_loopback(request.url.hostname or ""):
                raise HTTPException(403, "without sign-in the pages answer on localhost only")
            return
        if not hmac.compare_digest(_basic(request), expected):
            raise HTTPException(
                401,
                f"sign in as {USER} with the content of the node's secret file as password",
                {"WWW-Authenticate": 'Basic realm="ChexFract Node", charset="UTF-8"'},
            )

    router = APIRouter(dependencies=[Depends(signed_in)])

    @router.get("/", response_class=HTMLResponse)
    def worklist(
        q: Annotated[str, Query(max_length=128)] = "",
        state: Annotated[str, Query(max_length=32)] = "",
        page: Annotated[int, Query(ge=1, le=100_000)] = 1,
    ) -> str:
        """Show the last Instances."""
        known = state if state in STATES else ""
        rows = ledger.recent(PAGE + 1, q.strip(), known, (page - 1) * PAGE)
        return _render(
            "worklist.html",
            node=settings.node,
            version=__version__,
            rows=rows[:PAGE],
            has_more=len(rows) > PAGE,
            page=page,
            q=q,
            state=known,
            states=STATES,
        )

    @router.get("/static/style.css")
    def style() -> Response:
        """Return the one stylesheet."""
        content = files("dicom_node.web").joinpath("static/style.css").read_bytes()
        return Response(content, media_type="text/css")

    return router


def _render(name: str, **values: Any) -> str:
    return _templates.get_template(name).render(**values)


def _basic(request: Request) -> bytes:
    kind, _, coded = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return b""
    try:
        return base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        return b""
