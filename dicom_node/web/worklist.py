"""The worklist: what was received, how far it came, and how the node does, live."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dicom_node.base.errors import ChexFractError
from dicom_node.base.local_time import local_time, read_local
from dicom_node.base.translation import mark
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.studies import DISAGREED, SORTS, StudyFilter
from dicom_node.store.ledger.views import Arrival
from dicom_node.store.spool import Spool
from dicom_node.web.board import FRESH_S, Board
from dicom_node.web.render import Pages, templates
from dicom_node.web.sessions import Door, Person, Posted
from dicom_node.web.trail import WebTrail
from dicom_node.web.workers import Workers

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

PAGE = 50
STATES = (
    "received",
    "queued",
    "running",
    "reported",
    "delivered",
    "committed",
    "retrying",
    "rejected",
    "failed",
    "ignored",
    DISAGREED,
)
LOOK_S = 0.5
"""How often a live page looks whether the ledger has changed."""
TELL_S = 5.0
"""How often it is sent again all the same: waits grow while nothing happens."""
STAYS_S = 2.0
"""How often it is asked whether who looks is still signed in."""
STREAM_S = 600.0
"""Longest stream: the next one asks again who is there."""
SEEN_S = 60.0
"""Time after which the audit trail gets what a live page has shown meanwhile."""
STREAMS = 64


class Seals:
    """Turns a search into what may stand in an address, and back.

    A patient's name in an address would stay in histories and in the logs of proxies.
    """

    def __init__(self, secret: str) -> None:
        self._key = base64.urlsafe_b64encode(hashlib.sha256(b"search " + secret.encode()).digest())

    @cached_property
    def _make_fernet(self) -> Fernet:
        # Imported with the first search: 8 MB that receiving and reporting do without.
        from cryptography.fernet import Fernet

        return Fernet(self._key)

    def seal(self, text: str) -> str:
        """Return `text` encrypted, empty for empty."""
        return self._make_fernet.encrypt(text.encode()).decode() if text else ""

    def open(self, sealed: str) -> str:
        """Return the text, empty for what this node did not seal."""
        if not sealed:
            return ""
        from cryptography.fernet import InvalidToken

        try:
            return self._make_fernet.decrypt(sealed.encode()).decode()
        except (InvalidToken, ValueError):
            return ""


PERIODS = {
    "": mark("Any time"),
    "today": mark("Today"),
    "yesterday": mark("Yesterday"),
    "week": mark("Last 7 days"),
    "dates": mark("Between dates"),
}
"""When an image was received, for the filter."""

SORT_WORDS = {
    "newest": mark("Newest first"),
    "oldest": mark("Oldest first"),
    "name": mark("Patient's name"),
    "finding": mark("Fractures first"),
    "trouble": mark("Trouble first"),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a page of the worklist shows; its fields stand in the page's address."""

    find: str = ""
    """The search, sealed."""
    state: str = ""
    period: str = ""
    since: str = ""
    until: str = ""
    """Dates of the site's clocks, for the period ``dates``."""
    sort: str = ""
    before: str = ""
    """The key of the page; see `Studies.page`."""

    @property
    def query(self) -> str:
        """The query of an address that asks for this."""
        return urlencode({name: value for name, value in asdict(self).items() if value})

    @property
    def is_filtered(self) -> bool:
        """Whether not everything is shown."""
        return bool(self.find or self.state or self.period)

    def moments(self) -> tuple[float, float]:
        """Return from when and until when images were received; 0 is not a bound."""
        today = local_time().date()
        first, last = {
            "today": (today, None),
            "yesterday": (today - timedelta(days=1), today - timedelta(days=1)),
            "week": (today - timedelta(days=6), None),
            "dates": (_valid_date(self.since), _valid_date(self.until)),
        }.get(self.period, (None, None))
        begins = read_local(first.isoformat()) if first else 0.0
        ends = read_local((last + timedelta(days=1)).isoformat()) if last else 0.0
        return begins, ends


def _valid_date(text: str) -> date | None:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if 1970 < found.year < 9999 else None


def asked_for(
    find: Annotated[str, Query(max_length=1024)] = "",
    state: Annotated[str, Query(max_length=32)] = "",
    period: Annotated[str, Query(max_length=16)] = "",
    since: Annotated[str, Query(max_length=10)] = "",
    until: Annotated[str, Query(max_length=10)] = "",
    sort: Annotated[str, Query(max_length=16)] = "",
    before: Annotated[str, Query(max_length=128)] = "",
) -> Asked:
    """Return what an address asks for; what this node does not know asks for nothing."""
    return Asked(
        find=find,
        state=state if state in STATES else "",
        period=period if period in PERIODS else "",
        since=since if period == "dates" and _valid_date(since) else "",
        until=until if period == "dates" and _valid_date(until) else "",
        sort=sort if sort in SORTS[1:] else "",
        before=before,
    )


def routes(
    settings: Settings,
    ledger: Ledger,
    spool: Spool,
    door: Door,
    pages: Pages,
    seals: Seals,
    workers: Workers,
    trail: WebTrail,
) -> APIRouter:
    """Return the worklist, its live stream and its search."""
    router = APIRouter()
    board = Board(settings, ledger, spool, workers)
    viewer = Depends(door.needs("viewer"))
    looks_on = Depends(door.needs("viewer", is_act=False))
    searches = Depends(door.posts("viewer"))
    streams = asyncio.Semaphore(STREAMS)

    def values(asked: Asked) -> dict[str, Any]:
        q = seals.open(asked.find)
        since, until = asked.moments()
        wanted = StudyFilter(q, asked.state, since, until, asked.sort or "newest")
        found = ledger.studies.page(PAGE, wanted, asked.before)
        shown = asked if q else replace(asked, find="")
        return {
            "tiles": board.tiles(),
            "studies": found.studies,
            "sorted_among": found.sorted_among,
            "asked": shown,
            "first": replace(shown, before=""),
            "older": replace(shown, before=found.older) if found.older else None,
            "q": q,
        }

    @router.get("/")
    def worklist(
        request: Request,
        asked: Annotated[Asked, Depends(asked_for)],
        person: Person = viewer,
    ) -> HTMLResponse:
        """Show the last studies."""
        states = [(name, templates.filters["pill"](name)) for name in STATES]
        words: dict[str, Any] = {"states": states, "periods": PERIODS, "sorts": SORT_WORDS}
        shown = values(asked)
        trail.listed(request, person.name, _image_rows(shown), shown["q"], asked.state)
        return pages.page("worklist.html", person, **words, **shown)

    @router.post("/find")
    async def find(posted: Posted = searches) -> Response:
        """Go to what was searched for."""
        sealed = seals.seal(posted.text("q", 128))
        names = ("state", "period", "since", "until", "sort")
        query = asked_for(sealed, *(posted.text(name, 32) for name in names)).query
        return RedirectResponse("/" + (f"?{query}" if query else ""), 303)

    @router.get("/live")
    async def live(
        request: Request,
        asked: Annotated[Asked, Depends(asked_for)],
        person: Person = looks_on,
    ) -> Response:
        """Tell the whole state first, then again whenever something has changed."""
        if streams.locked():
            raise HTTPException(503, "too many pages are open", {"Retry-After": "30"})

        seen = _Seen(partial(trail.listed, request, person.name))

        def rendered() -> str:
            shown = values(asked)
            seen.show(_image_rows(shown))
            return pages.text("live.html", person, **shown)

        async def stream() -> AsyncIterator[str]:
            async with streams:
                stays = partial(door.stays, request)
                try:
                    async for text in _state_events(
                        ledger, rendered, request.app.state.is_over, stays
                    ):
                        yield text
                finally:
                    seen.note()

        return StreamingResponse(stream(), media_type="text/event-stream")

    return router


def _image_rows(shown: dict[str, Any]) -> list[Arrival]:
    """Return the images that a page of studies shows."""
    return [image.row for study in shown["studies"] for image in study.images]


class _Seen:
    """What a live page shows: noted once a minute, and at the end.

    Parameters
    ----------
    note : callable
        Takes what was shown.
    """

    def __init__(self, note: Callable[[Sequence[Arrival]], None]) -> None:
        self._note = note
        self._new: dict[str, Arrival] = {}
        self._noted_at = time.monotonic()

    def show(self, rows: Sequence[Arrival]) -> None:
        """Take what is shown now."""
        self._new |= {row.sop_instance_uid: row for row in rows}
        if time.monotonic() - self._noted_at > SEEN_S:
            self.note()

    def note(self) -> None:
        """Note what was shown since the last note."""
        self._noted_at = time.monotonic()
        new, self._new = list(self._new.values()), {}
        if new:
            self._note(new)


async def _state_events(
    ledger: Ledger,
    rendered: Callable[[], str],
    is_over: threading.Event,
    stays: Callable[[], bool],
) -> AsyncIterator[str]:
    """Yield the state as events until another application has taken this one's place.

    The stream ends with the session of who looks: `stays` is asked every few seconds.
    """
    watch, last, sent_at = ledger.watch(), "", -math.inf
    asked_at = time.monotonic()
    ends = time.monotonic() + STREAM_S
    least = LOOK_S if ledger.is_sqlite else FRESH_S
    try:
        while time.monotonic() < ends and not is_over.is_set():
            if time.monotonic() - asked_at > STAYS_S:
                if not await run_in_threadpool(_still_stays, stays):
                    return
                asked_at = time.monotonic()
            has_changed = await run_in_threadpool(watch.changed)
            if has_changed or time.monotonic() - sent_at > TELL_S:
                try:
                    text = await run_in_threadpool(rendered)
                except ChexFractError:
                    text = ""  # the ledger is away for now: what is shown stays
                sent_at = time.monotonic()
                # A comment finds out whether anybody still listens.
                yield _event_message(text) if text and text != last else ": \n\n"
                last = text or last
            await asyncio.sleep(least)
    finally:
        watch.close()


def _still_stays(stays: Callable[[], bool]) -> bool:
    try:
        return stays()
    except ChexFractError:
        return True  # the ledger is away for now, and nothing new is shown meanwhile


def _event_message(text: str) -> str:
    return "".join(f"data: {line}\n" for line in text.splitlines() if line.strip()) + "\n"
