"""The worklist: what was received, how far it came, and how the node does, live."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dicom_node.base.errors import ChexFractError
from dicom_node.settings import Settings
from dicom_node.store.ledger import DestinationState, Ledger
from dicom_node.store.ledger.views import Arrival
from dicom_node.store.spool import Spool
from dicom_node.web.render import PILLS, Pages
from dicom_node.web.sessions import Door, Person, Posted
from dicom_node.web.trail import WebTrail
from dicom_node.web.workers import Seen, Workers

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
)
LOOK_S = 0.5
"""How often a live page looks whether the ledger has changed."""
TELL_S = 5.0
"""How often it is told anew all the same: waits grow while nothing happens."""
STAYS_S = 2.0
"""How often it is asked whether who looks is still signed in."""
STREAM_S = 600.0
"""Longest stream: the next one asks again who is there."""
SEEN_S = 60.0
"""Time after which the audit trail is told what a live page has shown meanwhile."""
STREAMS = 64
_FRESH_S = 2.0
_HOUR = 3600.0


class Board:
    """The tiles above the list; asked once however many people look.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    spool : Spool
    workers : Workers
    """

    def __init__(self, settings: Settings, ledger: Ledger, spool: Spool, workers: Workers) -> None:
        self._settings = settings
        self._ledger = ledger
        self._spool = spool
        self._workers = workers
        self._lock = threading.Lock()
        self._told: dict[str, Any] = {}
        self._at = -math.inf

    def tiles(self) -> dict[str, Any]:
        """Return the figures, at most two seconds old."""
        with self._lock:
            if time.monotonic() - self._at > _FRESH_S:
                self._told = self._ask()
                self._at = time.monotonic()
            return self._told

    def _ask(self) -> dict[str, Any]:
        now = time.time()
        status, waiting = self._ledger.history.status(), self._ledger.jobs.waiting()
        pulse = self._ledger.results.pulse(now - _HOUR)
        due = [line.oldest for line in waiting.values() if line.oldest]
        return {
            "waiting": sum(line.due + line.queued for line in waiting.values()),
            "running": sum(line.running for line in waiting.values()),
            "oldest": max(0.0, now - min(due)) if due else 0.0,
            "workers": _busy(pulse.workers, self._workers.seen()),
            "ended": pulse.ended,
            "median": quantile(pulse.seconds, 0.5),
            "p95": quantile(pulse.seconds, 0.95),
            "peers": peer_states(self._settings, status.destinations, now),
            "free": shutil.disk_usage(self._spool.root).free,
            "min_free": self._settings.retention.min_free,
            "has_room": self._spool.has_room(),
            "conflicts": status.conflicts,
        }


def peer_states(
    settings: Settings, lines: Sequence[DestinationState], now: float
) -> list[dict[str, Any]]:
    """Return each peer and each destination with how its deliveries do."""
    known = {line.name: line for line in lines}
    told = []
    for name in sorted({*settings.peers, *known}):
        line = known.get(name, DestinationState(name))
        told.append(
            {
                "name": name,
                "peer": settings.peers.get(name),
                "is_down": line.held_until > now or bool(line.failures),
                "waiting": line.waiting,
                "oldest_s": line.oldest_s,
                "reason": line.reason,
            }
        )
    return told


def _busy(claimed: Sequence[str], seen: Sequence[Seen]) -> dict[str, Any]:
    """Return who is there with what device, and who took work without having told of itself."""
    told = {one.presence.worker for one in seen}
    here = [one.presence for one in seen if one.is_here]
    return {
        "here": here,
        "gone": [one.presence.worker for one in seen if not one.is_here],
        "silent": [name for name in claimed if name not in told],
    }


def quantile(ascending: Sequence[float], share: float) -> float | None:
    """Return the smallest value that this share of all does not exceed."""
    if not ascending:
        return None
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


class Seals:
    """Turns a search into what may stand in an address, and back.

    A patient's name in an address would stay in histories and in the logs of proxies.
    """

    def __init__(self, secret: str) -> None:
        self._key = base64.urlsafe_b64encode(hashlib.sha256(b"search " + secret.encode()).digest())

    @cached_property
    def _fernet(self) -> Fernet:
        # Imported with the first search: 8 MB that receiving and reporting do without.
        from cryptography.fernet import Fernet

        return Fernet(self._key)

    def seal(self, text: str) -> str:
        """Return `text` encrypted, empty for empty."""
        return self._fernet.encrypt(text.encode()).decode() if text else ""

    def open(self, sealed: str) -> str:
        """Return the text, empty for what this node did not seal."""
        if not sealed:
            return ""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except (InvalidToken, ValueError):
            return ""


Find = Annotated[str, Query(max_length=1024)]
State = Annotated[str, Query(max_length=32)]
Page = Annotated[int, Query(ge=1, le=100_000)]


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

    def values(find: str, state: str, page: int) -> dict[str, Any]:
        known = state if state in STATES else ""
        q = seals.open(find)
        rows = ledger.history.recent(PAGE + 1, q, known, (page - 1) * PAGE)
        return {
            "tiles": board.tiles(),
            "rows": rows[:PAGE],
            "has_more": len(rows) > PAGE,
            "page": page,
            "q": q,
            "find": find if q else "",
            "state": known,
        }

    @router.get("/")
    def worklist(
        request: Request,
        find: Find = "",
        state: State = "",
        page: Page = 1,
        person: Person = viewer,
    ) -> HTMLResponse:
        """Show the last Instances."""
        states = [(name, PILLS[name]) for name in STATES]
        shown = values(find, state, page)
        trail.listed(request, person.name, shown["rows"], shown["q"], shown["state"])
        return pages.page("worklist.html", person, states=states, **shown)

    @router.post("/find")
    async def find(posted: Posted = searches) -> Response:
        """Go to what was searched for."""
        sealed, state = seals.seal(posted.text("q", 128)), posted.text("state", 32)
        known = state if state in STATES else ""
        asked = [f"{k}={v}" for k, v in (("find", sealed), ("state", known)) if v]
        return RedirectResponse("/" + ("?" + "&".join(asked) if asked else ""), 303)

    @router.get("/live")
    async def live(
        request: Request,
        find: Find = "",
        state: State = "",
        page: Page = 1,
        person: Person = looks_on,
    ) -> Response:
        """Tell the whole state first, then again whenever something has changed."""
        if streams.locked():
            raise HTTPException(503, "too many pages are open", {"Retry-After": "30"})

        seen = _Seen(partial(trail.listed, request, person.name))

        def rendered() -> str:
            shown = values(find, state, page)
            seen.show(shown["rows"])
            return pages.text("live.html", person, **shown)

        async def stream() -> AsyncIterator[str]:
            async with streams:
                stays = partial(door.stays, request)
                try:
                    async for text in _changes(ledger, rendered, request.app.state.is_over, stays):
                        yield text
                finally:
                    seen.note()

        return StreamingResponse(stream(), media_type="text/event-stream")

    return router


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


async def _changes(
    ledger: Ledger,
    rendered: Callable[[], str],
    is_over: threading.Event,
    stays: Callable[[], bool],
) -> AsyncIterator[str]:
    """Yield the state as events until another application has taken this one's place.

    The stream ends with the session of who looks: `stays` is asked every few seconds.
    """
    watch, last, told_at = ledger.watch(), "", -math.inf
    asked_at = time.monotonic()
    ends = time.monotonic() + STREAM_S
    least = LOOK_S if ledger.is_sqlite else _FRESH_S
    try:
        while time.monotonic() < ends and not is_over.is_set():
            if time.monotonic() - asked_at > STAYS_S:
                if not await run_in_threadpool(_still, stays):
                    return
                asked_at = time.monotonic()
            has_changed = await run_in_threadpool(watch.changed)
            if has_changed or time.monotonic() - told_at > TELL_S:
                try:
                    text = await run_in_threadpool(rendered)
                except ChexFractError:
                    text = ""  # the ledger is away for now: what is shown stays
                told_at = time.monotonic()
                # A comment finds out whether anybody still listens.
                yield _message(text) if text and text != last else ": \n\n"
                last = text or last
            await asyncio.sleep(least)
    finally:
        watch.close()


def _still(stays: Callable[[], bool]) -> bool:
    try:
        return stays()
    except ChexFractError:
        return True  # the ledger is away for now, and nothing new is shown meanwhile


def _message(text: str) -> str:
    return "".join(f"data: {line}\n" for line in text.splitlines() if line.strip()) + "\n"
