"""Templates, and the words and signs that states have on the pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from dicom_node import __version__
from dicom_node.base.local_time import local_time, spoken_duration
from dicom_node.base.translation import mark
from dicom_node.conditions import Condition
from dicom_node.settings import DEMONSTRATION_MODELS, Settings
from dicom_node.web.sessions import Person
from dicom_node.web.texts import LANGUAGE, say, say_counted, translations


class Pill(NamedTuple):
    """How a state is shown: never by colour alone."""

    sign: str
    word: str
    kind: str


PILLS: Mapping[str, Pill] = {
    "received": Pill("…", mark("Waiting"), "open"),
    "queued": Pill("…", mark("Queued"), "open"),
    "running": Pill("▶", mark("Running"), "open"),
    "reported": Pill("✓", mark("Reported"), "good"),
    "delivered": Pill("✓", mark("Sent"), "good"),
    "sent": Pill("✓", mark("Sent"), "good"),
    "committed": Pill("✓", mark("Committed"), "good"),
    "settled": Pill("✓", mark("Settled"), "good"),
    "pending": Pill("…", mark("To be sent"), "open"),
    "retrying": Pill("↻", mark("Retrying"), "bad"),
    "withheld": Pill("–", mark("Withheld"), "none"),
    "given up": Pill("✕", mark("Given up"), "bad"),
    "rejected": Pill("–", mark("Not analysed"), "none"),
    "failed": Pill("✕", mark("Failed"), "bad"),
    "ignored": Pill("–", mark("Ignored"), "none"),
    "disagreed": Pill("≠", mark("Disagreed"), "none"),
}
"""Signs and words by state of an Instance, a job or a delivery."""

PRESENCE: Mapping[str, Pill] = {
    "present": Pill("●", mark("Fracture described"), "bad"),
    "absent": Pill("○", mark("No fracture described"), "good"),
    "undetermined": Pill("?", mark("Not determined"), "none"),
}
"""What a report says as a whole."""

ROLES: Mapping[str, str] = {
    "viewer": mark("viewer"),
    "operator": mark("operator"),
    "admin": mark("administrator"),
}


def zone() -> str:
    """Return the name of the zone in which the pages tell times, with its distance from UTC."""
    now = local_time()
    distance = f"UTC{now:%z}"
    shown = f"{distance[:6]}:{distance[6:8]}".removesuffix(":00").replace("UTC+00", "UTC")
    name = now.tzname() or ""
    return name if name in ("UTC", shown) else f"{name} ({shown})" if name.isalpha() else shown


def _full_time(at: float) -> str:
    moment = local_time(at)
    name = moment.tzname() or ""
    return f"{moment:%Y-%m-%d %H:%M:%S} {name if name.isalpha() else f'{moment:%z}'}"


def _iso_time(at: float) -> str:
    return local_time(at).isoformat(timespec="seconds")


def _clock_time(at: float) -> str:
    """Return the wall clock's time, with the day when that is not today."""
    moment = local_time(at)
    is_today = moment.date() == local_time().date()
    return f"{moment:%H:%M:%S}" if is_today else f"{moment:%Y-%m-%d %H:%M}"


def _size_text(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def whole_name(text: str) -> str:
    """Return a Person Name (PS3.5 6.2.1.1) as people write it, with all groups and components.

    ``Adams^John^Robert^Rev.^B.A.`` is "Adams, Rev. John Robert, B.A.". An ideographic and a
    phonetic form follow in parentheses.
    """
    alphabetic, *others = [*text.split("="), ""][:3] if "=" in text else [text]
    family, given, middle, prefix, suffix = [*_name_parts(alphabetic), *[""] * 5][:5]
    called = " ".join(part for part in (prefix, given, middle) if part)
    first = ", ".join(part for part in (family, called, suffix) if part)
    more = [" ".join(part for part in _name_parts(form) if part) for form in others]
    beside = ", ".join(form for form in more if form)
    if first and beside:
        return f"{first} ({beside})"
    return first or beside or text


def _name_parts(group: str) -> list[str]:
    return [part.strip() for part in group.split("^")]


def _date_text(text: str) -> str:
    is_date = len(text) == 8 and text.isdigit()
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if is_date else text


templates = Environment(
    loader=PackageLoader("dicom_node.web"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.i18n"],
)
templates.policies["ext.i18n.trimmed"] = True
templates.install_gettext_translations(translations, newstyle=True)  # type: ignore[attr-defined]
templates.globals |= {"zone": zone, "language": LANGUAGE}
templates.filters |= {
    "when": _full_time,
    "clock": _clock_time,
    "duration": spoken_duration,
    "size": _size_text,
    "person_name": whole_name,
    "iso": _iso_time,
    "role": lambda role: say(ROLES.get(role, role)),
    "date": _date_text,
    "what": lambda condition: _what_is_wrong(condition),
    "hex": lambda status: f"0x{status:04X}",
    "pill": lambda state: _translated_pill(PILLS.get(state, Pill("?", state, "none"))),
    "presence": lambda word: _translated_pill(PRESENCE.get(word, PRESENCE["undetermined"])),
}


def _what_is_wrong(condition: Condition) -> str:
    text = condition.what
    if isinstance(text, str):
        return say(text, **condition.values)
    return say_counted(*text, condition.count, **condition.values)


def _translated_pill(pill: Pill) -> Pill:
    return pill._replace(word=say(pill.word))


class Pages:
    """Fills templates with what every page shows.

    Parameters
    ----------
    settings : Settings
    wrong : callable, optional
        Returns what is wrong with the node now.
    """

    def __init__(
        self, settings: Settings, wrong: Callable[[], Sequence[Condition]] = lambda: ()
    ) -> None:
        self._wrong = wrong
        self._node = settings.node
        self._sign_in = settings.web.sign_in
        self._provider = urlsplit(settings.web.oidc.issuer).hostname or ""
        self._demonstrates = any(rule.model in DEMONSTRATION_MODELS for rule in settings.rules)

    def _wrong_for(self, person: Person | None) -> Sequence[Condition]:
        """Return the conditions that a person sees: a viewer has to know what stops images."""
        if person is None:
            return ()
        found = self._wrong()
        return (
            found
            if person.may("operator")
            else [condition for condition in found if condition.level == "stop"]
        )

    def text(self, template: str, person: Person | None, **values: Any) -> str:
        """Return a page, or a part of one, as HTML."""
        common = {
            "node": self._node,
            "version": __version__,
            "person": person,
            "has_sign_in": self._sign_in,
            "provider": self._provider,
            "demonstrates": self._demonstrates,
            "wrong": self._wrong_for(person),
        }
        return templates.get_template(template).render(common | values)

    def page(
        self, template: str, person: Person | None, status: int = 200, **values: Any
    ) -> HTMLResponse:
        """Return a page as the answer to a request."""
        return HTMLResponse(self.text(template, person, **values), status)


def answered(request: Request, what: str, back: str) -> Response:
    """Say what an act has done: in place where htmx asked, else by going back to the page."""
    if request.headers.get("hx-request"):
        return HTMLResponse(templates.get_template("said.html").render(said=what, is_good=True))
    return RedirectResponse(back, 303)
