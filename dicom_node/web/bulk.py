"""One act on all images that a search finds: counted first, then done one by one, with progress."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from dicom_node.base.errors import ChexFractError, for_strangers
from dicom_node.base.plurals import counted
from dicom_node.base.translation import mark
from dicom_node.flow.repeat import adopt
from dicom_node.settings import Settings
from dicom_node.store.actor import Actor
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.history import is_in_state
from dicom_node.store.ledger.states import RESENT
from dicom_node.store.ledger.studies import DISAGREED, StudyFilter
from dicom_node.store.ledger.views import Arrival
from dicom_node.store.spool import Spool
from dicom_node.web.render import Pages, templates
from dicom_node.web.sessions import Door, Person, Posted
from dicom_node.web.texts import say
from dicom_node.web.trail import WebTrail
from dicom_node.web.worklist import PERIODS, Asked, Seals, asked_for

logger = logging.getLogger(__name__)

MOST_IMAGES = 5000
"""Images of one act; what a search finds beyond is left for the next."""
_PAGE = 100
MOST_KEPT = 50
AT_ONCE = 2
MOST_PROBLEMS = 20

SEARCH = ("find", "state", "period", "since", "until")
"""What of a list's search says which images are meant."""

ACTS: Mapping[str, str] = {
    "retry": mark("Retry now"),
    "resend": mark("Send reports again"),
    "release": mark("Release reports"),
    "settle-sent": mark("Settle: the archive has them"),
    "settle-given-up": mark("Settle: give them up"),
    "adopt": mark("Adopt as corrections"),
}


MEANINGS: Mapping[str, str] = {
    "retry": mark("Failed images go to a worker again; reports that wait are sent now."),
    "resend": mark("Reports that were sent, settled or given up go to the same peers again."),
    "release": mark("Reports that a shadow rule has kept here are sent."),
    "settle-sent": mark("Deliveries that are being retried end as done: nothing more is sent."),
    "settle-given-up": mark("Deliveries that are being retried end without a success."),
    "adopt": mark("Other content that came under a known UID is analysed; its report replaces the "
                  "earlier one."),
}  # fmt: skip


@dataclass(slots=True)
class BulkRun:
    """An act under way, or over."""

    act: str
    by: str
    uids: Sequence[str]
    began: float
    back: str = ""
    """The query of the list from which it was begun."""
    done: int = 0
    changed: int = 0
    """Images of which something changed."""
    problems: list[str] = field(default_factory=list)
    failed: int = 0
    ended: float = 0.0

    @property
    def total(self) -> int:
        """How many images it is about."""
        return len(self.uids)


class BulkRuns:
    """The acts of this process, and how far each has come."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, BulkRun] = OrderedDict()

    def start(self, run: BulkRun, act: Callable[[str], object]) -> str:
        """Begin an act and return its name; empty where enough are under way."""
        ident = secrets.token_urlsafe(9)
        with self._lock:
            if sum(not run.ended for run in self._known.values()) >= AT_ONCE:
                return ""
            self._known[ident] = run
            while len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)
        threading.Thread(target=self._run_act, args=(run, act), daemon=True, name="bulk").start()
        return ident

    def find(self, ident: str) -> BulkRun | None:
        """Return an act by its name."""
        with self._lock:
            return self._known.get(ident)

    def _run_act(self, run: BulkRun, act: Callable[[str], object]) -> None:
        try:
            for uid in run.uids:
                try:
                    run.changed += bool(act(uid))
                except ChexFractError as exc:
                    run.failed += 1
                    if len(run.problems) < MOST_PROBLEMS:
                        run.problems.append(f"{uid}: {for_strangers(exc)}")
                run.done += 1
        finally:
            run.ended = HOST_CLOCK.wall()
            logger.info(
                "bulk %s by %s: %s, %d changed, %d failed",
                run.act, run.by, counted(run.done, "image"), run.changed, run.failed,
            )  # fmt: skip


def routes(
    settings: Settings,
    ledger: Ledger,
    spool: Spool,
    door: Door,
    pages: Pages,
    seals: Seals,
    trail: WebTrail,
    runs: BulkRuns,
) -> APIRouter:
    """Return the page that counts, the acts, and their progress."""
    router = APIRouter(prefix="/bulk")
    operator, operates = Depends(door.needs("operator")), Depends(door.posts("operator"))
    looks_on = Depends(door.needs("operator", is_act=False))

    def found(asked: Asked) -> dict[str, list[str]]:
        since, until = asked.moments()
        words = seals.open(asked.find)
        if asked.find and not words:  # sealed by another key: without it all images are meant
            raise HTTPException(422, say("this search is not known any more; search again"))
        return eligible(ledger, StudyFilter(words, asked.state, since, until))

    @router.get("")
    def count(
        request: Request, asked: Annotated[Asked, Depends(asked_for)], person: Person = operator
    ) -> HTMLResponse:
        """Count what each act would be about."""
        asked = replace(asked, before="", sort="")
        counts = {act: len(uids) for act, uids in found(asked).items()}
        words = seals.open(asked.find)
        state = templates.filters["pill"](asked.state).word if asked.state else ""
        period = "" if asked.period == "dates" else say(PERIODS[asked.period])
        dates = [date for date in (asked.since, asked.until) if date]
        search = [words, state, period if asked.period else "", " – ".join(dates)]
        trail.queried(request, person.name, f"bulk {asked.query}")
        return pages.page(
            "bulk.html", person, asked=asked, search=[word for word in search if word], acts=ACTS,
            meanings=MEANINGS, fields=SEARCH, counts=counts, most=MOST_IMAGES,
        )  # fmt: skip

    @router.post("/{act}")
    def begin(request: Request, act: str, posted: Posted = operates) -> Response:
        """Begin an act."""
        if act not in ACTS:
            raise HTTPException(404, "no such act")
        given = {name: posted.text(name, 1024) for name in SEARCH}
        asked = asked_for(**given)
        if any(getattr(asked, name) != text for name, text in given.items()):
            # what is left out of a search makes it find more images
            raise HTTPException(422, say("this search is not known any more; search again"))
        uids = found(asked).get(act, [])
        by = trail.actor(request, posted.person.name)
        run = BulkRun(act, by.name, tuple(uids), HOST_CLOCK.wall(), asked.query)
        ident = runs.start(run, act_on(settings, spool, ledger, act, by))
        if not ident:
            raise HTTPException(503, "enough is under way; wait until it is done")
        trail.changed(
            request, posted.person.name, "configured", f"{act} of {counted(len(uids), 'image')}"
        )
        return RedirectResponse(f"/bulk/run/{ident}", 303)

    @router.get("/run/{ident}")
    def progress(ident: str, person: Person = looks_on) -> HTMLResponse:
        """Show how far an act has come."""
        run = runs.find(ident)
        if run is None:
            raise HTTPException(404, "this act is not known any more; what it did stands")
        shown = {name: value for name, value in asdict(run).items() if name != "uids"}
        return pages.page(
            "bulk_run.html", person, ident=ident, run={**shown, "total": run.total}, acts=ACTS
        )

    return router


def act_on(
    settings: Settings, spool: Spool, ledger: Ledger, act: str, by: Actor
) -> Callable[[str], object]:
    """Return what an act does to one image."""
    acts = ledger.acts
    known: dict[str, Callable[[str], object]] = {
        "retry": lambda uid: acts.retry(uid, by=by),
        "resend": lambda uid: acts.resend(uid, by=by),
        "release": lambda uid: acts.release(uid, by=by)[0],
        "settle-sent": lambda uid: acts.settle(uid, "sent", by=by),
        "settle-given-up": lambda uid: acts.settle(uid, "given-up", by=by),
        "adopt": lambda uid: adopt(settings, spool, ledger, uid, by=by),
    }
    return known[act]


def eligible(ledger: Ledger, wanted: StudyFilter) -> dict[str, list[str]]:
    """Return the images that a search finds, by the acts that would change something of them."""
    images: dict[str, list[Arrival]] = {}
    before = ""
    while len(images) < MOST_IMAGES:
        page = ledger.studies.page(_PAGE, wanted, before)
        for study in page.studies:
            for image in study.images:
                rows = [row for row in image.rows if _is_wanted(row, wanted)]
                if rows:
                    images[image.sop_instance_uid] = rows
        before = page.older
        if not before:
            break
    uids = list(images)[:MOST_IMAGES]
    found: dict[str, list[str]] = {act: [] for act in ACTS}
    for uid in uids:
        for act in _acts_of(images[uid]):
            found[act].append(uid)
    found["adopt"] = ledger.acts.in_conflict(uids)
    return found


def _is_wanted(row: Arrival, wanted: StudyFilter) -> bool:
    if wanted.state and wanted.state != DISAGREED and not is_in_state(row, wanted.state):
        return False
    return wanted.since <= row.received_at and (not wanted.until or row.received_at < wanted.until)


def _acts_of(rows: Iterable[Arrival]) -> set[str]:
    acts: set[str] = set()
    for row in rows:
        sent = {delivery.state for delivery in row.deliveries}
        if row.state in ("failed", "retrying"):
            acts.add("retry")
        if sent & set(RESENT):
            acts.add("resend")
        if "withheld" in sent:
            acts.add("release")
        if "retrying" in sent:
            acts |= {"settle-sent", "settle-given-up"}
    return acts
