"""Templates, and the words and signs that states have on the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from dicom_node import __version__
from dicom_node.base.local_time import local_time
from dicom_node.settings import DEMONSTRATION_MODELS, Settings
from dicom_node.web.sessions import Person


class Pill(NamedTuple):
    """How a state is shown: never by colour alone."""

    sign: str
    word: str
    kind: str


PILLS: Mapping[str, Pill] = {
    "received": Pill("…", "Waiting", "open"),
    "queued": Pill("…", "Queued", "open"),
    "running": Pill("▶", "Running", "open"),
    "reported": Pill("✓", "Reported", "good"),
    "delivered": Pill("✓", "Sent", "good"),
    "sent": Pill("✓", "Sent", "good"),
    "committed": Pill("✓", "Committed", "good"),
    "pending": Pill("…", "To be sent", "open"),
    "retrying": Pill("↻", "Retrying", "bad"),
    "withheld": Pill("–", "Withheld", "none"),
    "rejected": Pill("–", "Not analysed", "none"),
    "failed": Pill("✕", "Failed", "bad"),
    "ignored": Pill("–", "Ignored", "none"),
}
"""Signs and words by state of an Instance, a job or a delivery."""

PRESENCE: Mapping[str, Pill] = {
    "present": Pill("●", "Fracture described", "bad"),
    "absent": Pill("○", "No fracture described", "good"),
    "undetermined": Pill("?", "Not determined", "none"),
}
"""What a report says as a whole."""


def _when(at: float) -> str:
    return local_time(at).strftime("%Y-%m-%d %H:%M:%S")


def _clock(at: float) -> str:
    """Return the wall clock's time, with the day when that is not today."""
    moment = local_time(at)
    is_today = moment.date() == local_time().date()
    return f"{moment:%H:%M:%S}" if is_today else f"{moment:%Y-%m-%d %H:%M}"


def _duration(seconds: float) -> str:
    """Return a time as people say it: one number, one unit."""
    if seconds < 10:
        return f"{seconds:.1f}\u00a0s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f}\u00a0{unit}"
    return f"{seconds / 86400:.0f}\u00a0days"


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _name(text: str) -> str:
    """Return a Person Name (PS3.5 6.2.1.1) as people write it: family, given."""
    parts = [part.strip() for part in text.split("=")[0].split("^")]
    return ", ".join(part for part in parts[:2] if part) or text


def _date(text: str) -> str:
    is_date = len(text) == 8 and text.isdigit()
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if is_date else text


templates = Environment(
    loader=PackageLoader("dicom_node.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters |= {
    "when": _when,
    "clock": _clock,
    "duration": _duration,
    "size": _size,
    "person_name": _name,
    "date": _date,
    "hex": lambda status: f"0x{status:04X}",
    "pill": lambda state: PILLS.get(state, Pill("?", state, "none")),
    "presence": lambda word: PRESENCE.get(word, PRESENCE["undetermined"]),
}


class Pages:
    """Fills templates with what every page shows."""

    def __init__(self, settings: Settings) -> None:
        self._node = settings.node
        self._sign_in = settings.web.sign_in
        self._provider = urlsplit(settings.web.oidc.issuer).hostname or ""
        self._demonstrates = any(rule.model in DEMONSTRATION_MODELS for rule in settings.rules)

    def text(self, template: str, person: Person | None, **values: Any) -> str:
        """Return a page, or a part of one, as HTML."""
        common = {
            "node": self._node,
            "version": __version__,
            "person": person,
            "has_sign_in": self._sign_in,
            "provider": self._provider,
            "demonstrates": self._demonstrates,
        }
        return templates.get_template(template).render(common | values)

    def page(
        self, template: str, person: Person | None, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return a page as the answer to a request."""
        return HTMLResponse(self.text(template, person, **values), status)


def told(request: Request, what: str, back: str) -> Response:
    """Say what an act has done: in place where htmx asked, else by going back to the page."""
    if request.headers.get("hx-request"):
        return HTMLResponse(templates.get_template("said.html").render(said=what, is_good=True))
    return RedirectResponse(back, 303)
