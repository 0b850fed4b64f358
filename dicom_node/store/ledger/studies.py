"""The worklist by study: each study once, where its newest image stands, with all of its images.

A page costs what it shows, however many Instances there are: it follows the worklist's own stream
and looks up the studies that come by. No study is read beyond `MOST_IMAGES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.base.errors import NotFound
from dicom_node.standard.names import folded
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.history import (
    arrivals,
    is_in_state,
    place_key,
    rows_of,
    rows_of_jobs,
)
from dicom_node.store.ledger.search import sort_name
from dicom_node.store.ledger.states import FINDINGS
from dicom_node.store.ledger.views import Arrival, View
from dicom_node.store.schema import (
    HAS_FINDING,
    IS_UNFOUND,
    IS_UNSORTED,
    instances,
    jobs,
    judgements,
)

MOST_IMAGES = 200
"""Images of one study that are looked at."""
MOST_LOOKS = 3000
"""Rows that a page follows to be filled; behind them it ends early, and goes on by its key."""
MOST_SORTED = 500
"""Studies that an order sorts among what a search or a reader's judgement finds: the newest."""
MOST_SCANNED = 5000
"""Images of a period that an order by name or finding looks at as a whole."""

MOST_JUDGED = 5000
"""Judgements, the newest ones, among which `DISAGREED` is looked for."""

DISAGREED = "disagreed"
"""Filter: a reader has disagreed with a report."""

SORTS = ("newest", "oldest", "name", "finding", "trouble")

_PLACES = {word: place for place, word in enumerate(FINDINGS)}
_NO_FINDING = 3
_TROUBLE = ("failed", "retrying", "received", "queued", "running", "rejected", "ignored")


@dataclass(frozen=True, slots=True)
class StudyImage(View):
    """An image of a study; ``rows`` are the last job of each model, or one row without a job."""

    sop_instance_uid: str
    number: int
    """1 for the image of the study that was received first."""
    rows: tuple[Arrival, ...]

    @property
    def row(self) -> Arrival:
        """The facts of the image."""
        return self.rows[0]


@dataclass(frozen=True, slots=True)
class StudyView(View):
    """A study with its images in the order of reception."""

    study_instance_uid: str
    images: tuple[StudyImage, ...]
    is_cut: bool = False
    """Whether it has more images than are shown."""
    strangers: tuple[StudyImage, ...] = ()
    """Images under the same Study Instance UID whose patient is another."""

    @property
    def newest(self) -> StudyImage:
        """The image that was received last."""
        return self.images[-1]


@dataclass(frozen=True, slots=True)
class StudyPage:
    """Studies of the worklist, and the key of the page behind them; empty at the end."""

    studies: tuple[StudyView, ...]
    older: str
    sorted_among: int = 0
    """How many of the newest were sorted where there are more; 0: all are."""


@dataclass(frozen=True, slots=True)
class StudyFilter:
    """What of the worklist is asked for; see `History.page`."""

    search: str = ""
    state: str = ""
    """As for `History.page`, or `DISAGREED`."""
    since: float = 0.0
    """Received then or later."""
    until: float = 0.0
    """Received before; 0 sets no bound."""
    sort: str = "newest"
    """One of `SORTS`. The ledger's own indexes lead through all there is; behind a search the
    newest are sorted."""


class Studies:
    """The worklist by study."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def page(
        self, limit: int = 50, wanted: StudyFilter = StudyFilter(), before: str = ""
    ) -> StudyPage:
        """Return a page of studies.

        Parameters
        ----------
        before : str
            The key ``older`` of the page before; empty for the first.
        """
        is_found = bool(wanted.search) or wanted.state == DISAGREED
        with self._database.reading() as connection:
            stream = _Stream(connection, wanted, self._database.is_sqlite)
            if is_found and (wanted.sort != "newest" or wanted.state == DISAGREED):
                return _sorted_page(stream.studies(""), wanted.sort, limit, before)
            if wanted.sort in ("name", "finding"):
                return self._ordered_page(connection, wanted, limit, before)
            if wanted.sort == "trouble" and not wanted.state:
                return self._trouble_page(connection, wanted, limit, before)
            shown = list(islice(stream.studies(before), limit))
            is_end = len(shown) < limit and not stream.is_cut
            return StudyPage(tuple(shown), "" if is_end else stream.place)

    def _ordered_page(
        self, connection: Connection, wanted: StudyFilter, limit: int, before: str
    ) -> StudyPage:
        """Return a page by name or finding: of few studies all are sorted, else an index leads."""
        is_sorted = _is_sorted(connection, wanted.sort)
        if wanted.state:
            stream = _Stream(connection, replace(wanted, sort="newest"), self._database.is_sqlite)
            few = list(islice(stream.studies(""), MOST_SORTED + 1))
            if not is_sorted or (len(few) <= MOST_SORTED and not stream.is_cut):
                return _sorted_page(iter(few), wanted.sort, limit, before)
        elif not is_sorted or _is_short(connection, wanted):
            return _scanned_page(connection, wanted, limit, before)
        if wanted.sort == "finding":
            return self._finding_page(connection, wanted, limit, before)
        by_name = _NameStream(connection, wanted, self._database.is_sqlite)
        shown = list(islice(by_name.studies(before), limit))
        is_end = len(shown) < limit and not by_name.is_cut
        return StudyPage(tuple(shown), "" if is_end else by_name.place)

    def _finding_page(
        self, connection: Connection, wanted: StudyFilter, limit: int, before: str
    ) -> StudyPage:
        """Return a page of studies by what their reports say, in each from the newest on."""
        first, _, place = before.partition("|")
        shown: list[StudyView] = []
        best = int(first) if first in ("0", "1", "2", "3") else 0
        for rank in range(best, _NO_FINDING + 1):
            stream = _FindingStream(connection, wanted, self._database.is_sqlite, rank)
            shown += islice(stream.studies(place), limit - len(shown))
            if len(shown) == limit or stream.is_cut:
                return StudyPage(tuple(shown), f"{rank}|{stream.place or place}")
            place = ""
        return StudyPage(tuple(shown), "")

    def _trouble_page(
        self, connection: Connection, wanted: StudyFilter, limit: int, before: str
    ) -> StudyPage:
        """Return a page of studies by their worst state, those in each from the newest on."""
        first, _, place = before.partition("|")
        shown: list[StudyView] = []
        worst = int(first) if first.isdecimal() and len(first) < 3 else 0
        for rank in range(worst, len(_TROUBLE) + 1):
            state = _TROUBLE[rank] if rank < len(_TROUBLE) else ""
            stream = _Stream(
                connection, replace(wanted, state=state), self._database.is_sqlite, rank
            )
            shown += islice(stream.studies(place), limit - len(shown))
            if len(shown) == limit or stream.is_cut:
                return StudyPage(tuple(shown), f"{rank}|{stream.place or place}")
            place = ""
        return StudyPage(tuple(shown), "")

    def of_image(self, sop_instance_uid: str) -> StudyView:
        """Return the study of an Instance.

        Raises
        ------
        NotFound
            Nothing is known of it.
        """
        with self._database.reading() as connection:
            row = next(iter(rows_of(connection, [[sop_instance_uid]], "")), None)
            if row is None:
                raise NotFound(f"nothing is known of {sop_instance_uid[:64]!r}")
            known = _studies_of(connection, [row])
        others = [view for key, view in known.items() if key != _key_of(row)]
        return replace(
            known[_key_of(row)], strangers=tuple(o for view in others for o in view.images)
        )


class _Stream:
    """Studies as the worklist's rows lead to them; remembers how far it has come."""

    def __init__(
        self,
        connection: Connection,
        wanted: StudyFilter,
        is_sqlite: bool,
        rank: int | None = None,
    ) -> None:
        self._connection = connection
        self._wanted = wanted
        self._is_sqlite = is_sqlite
        self._rank = rank
        """Only studies whose worst state has this place in `_TROUBLE`."""
        self._is_oldest = wanted.sort == "oldest" and not wanted.search
        self.place = ""
        self.is_cut = False

    def studies(self, before: str) -> Iterator[StudyView]:
        wanted = self._wanted
        if not before and not wanted.search:
            before = self._first_place()
        rows = self._next_arrivals(before)
        seen: set[StudyKey] = set()
        left = MOST_LOOKS
        while chunk := list(islice(rows, 64)):
            known = _studies_of(self._connection, [row for row in chunk if self._is_wanted(row)])
            for row in chunk:
                self.place = self._place_of(row)
                left -= 1
                if self._is_behind(row) and not (wanted.search or wanted.state):
                    return
                key = _key_of(row)
                study = known.get(key)
                if study is None or key in seen or not self._is_wanted(row):
                    continue
                if self._stands_here(study, row):
                    seen.add(key)
                    yield study
            if left <= 0:
                self.is_cut = True
                return

    def _place_of(self, row: Arrival) -> str:
        """Return the key of the page behind a row."""
        return place_key(row, self._wanted.search, self._wanted.state)

    def _next_arrivals(self, before: str) -> Iterator[Arrival]:
        wanted = self._wanted
        if wanted.state == DISAGREED:
            return rows_of_jobs(self._connection, _disagreed_jobs(self._connection))
        return arrivals(
            self._connection,
            wanted.search,
            wanted.state,
            before,
            self._is_sqlite,
            is_oldest=self._is_oldest,
            until=wanted.until,
        )

    def _first_place(self) -> str:
        """Return the place before the first row that the dates leave; empty for the very first."""
        wanted = self._wanted
        if self._is_oldest:
            return f"{math.nextafter(wanted.since, 0.0)!r}~0~" if wanted.since else ""
        if wanted.state not in ("", "ignored"):
            return ""  # a job may have begun later than its image came
        # behind every Instance that came at that moment or later
        return f"{wanted.until!r}~{2**31 - 1}~" if wanted.until else ""

    def _is_behind(self, row: Arrival) -> bool:
        """Return whether all rows from this row on are beyond the dates."""
        if self._is_oldest:
            return bool(self._wanted.until) and row.received_at >= self._wanted.until
        return row.received_at < self._wanted.since

    def _is_wanted(self, row: Arrival) -> bool:
        wanted = self._wanted
        return wanted.since <= row.received_at and (
            not wanted.until or row.received_at < wanted.until
        )

    def _stands_here(self, study: StudyView, row: Arrival) -> bool:
        """Return whether the study is shown at this row: the newest of those that match."""
        wanted = self._wanted
        if self._rank is not None:
            ranks = [_trouble_rank(row) for row in _study_rows(study) if self._is_wanted(row)]
            if min(ranks, default=len(_TROUBLE)) != self._rank:
                return False
        if study.is_cut or wanted.state == DISAGREED:
            return True
        if wanted.search:
            newest = study.newest.row
            # By its words a study is found at its newest image first, unless that has others.
            is_found_there = newest.accession_number == row.accession_number and not wanted.state
            is_by_uid = wanted.search in (row.sop_instance_uid, row.job)
            is_newest = newest.sop_instance_uid == row.sop_instance_uid
            return is_newest or not is_found_there or is_by_uid or not self._is_wanted(newest)
        matching = [
            [row for row in image.rows if is_in_state(row, wanted.state) and self._is_wanted(row)]
            for image in study.images
        ]
        shown: list[Arrival] = next(filter(None, reversed(matching)), [])
        if not shown or shown[0].sop_instance_uid != row.sop_instance_uid:
            return False
        # a state lists jobs: of an image's several only the one that comes first
        first = (min if self._is_oldest else max)((r.job_at or 0.0, r.job or "") for r in shown)
        return not wanted.state or first == (row.job_at or 0.0, row.job or "")


class _NameStream(_Stream):
    """Studies by their patient's name; the key of a page is a UID: no name is in an address."""

    def _place_of(self, row: Arrival) -> str:
        return _behind_key(0, row.sop_instance_uid)

    def _next_arrivals(self, before: str) -> Iterator[Arrival]:
        uid = before.removeprefix("@").partition("~")[2] if before.startswith("@") else ""
        return rows_of(self._connection, _by_name(self._connection, uid), "")

    def _first_place(self) -> str:
        return ""

    def _is_behind(self, row: Arrival) -> bool:
        return False

    def _is_wanted(self, row: Arrival) -> bool:
        return super()._is_wanted(row) and is_in_state(row, self._wanted.state)


class _FindingStream(_Stream):
    """Studies whose first report in the order of findings has one place in it.

    Within a period the rows of its time lead to them, else an index of the letters of results;
    what has none is found among all.
    """

    def __init__(
        self, connection: Connection, wanted: StudyFilter, is_sqlite: bool, place: int
    ) -> None:
        super().__init__(connection, replace(wanted, state="", sort="newest"), is_sqlite)
        self._state = wanted.state
        self._best = place
        self._is_by_letter = place < _NO_FINDING and not (wanted.since or wanted.until)

    def _place_of(self, row: Arrival) -> str:
        return f"0~0~{row.job}" if self._is_by_letter else super()._place_of(row)

    def _next_arrivals(self, before: str) -> Iterator[Arrival]:
        if not self._is_by_letter:
            return super()._next_arrivals(before)
        letter = tuple(FINDINGS.values())[self._best]
        return rows_of_jobs(
            self._connection, _by_letter(self._connection, letter, before.rpartition("~")[2])
        )

    def _is_behind(self, row: Arrival) -> bool:
        return not self._is_by_letter and super()._is_behind(row)

    def _is_wanted(self, row: Arrival) -> bool:
        return super()._is_wanted(row) and is_in_state(row, self._state)

    def _stands_here(self, study: StudyView, row: Arrival) -> bool:
        wanted = [row for row in _study_rows(study) if self._is_wanted(row)]
        if min(map(_finding_rank, wanted), default=_NO_FINDING + 1) != self._best:
            return False
        if study.is_cut:
            return True
        # a single row: an image's earlier report, or that of another model, may say the same
        last = [row for row in wanted if _finding_rank(row) == self._best][-1]
        return (last.sop_instance_uid, last.job) == (row.sop_instance_uid, row.job)


def _is_sorted(connection: Connection, sort: str) -> bool:
    """Return whether every row has what it is sorted by; an older version's get it in a while."""
    query = (
        sa.select(instances.c.sop_instance_uid).where(IS_UNSORTED)
        if sort == "name"
        else sa.select(jobs.c.id).where(IS_UNFOUND)
    )
    return connection.execute(query.limit(1)).first() is None


def _is_short(connection: Connection, wanted: StudyFilter) -> bool:
    """Return whether a period was asked for that has few images."""
    if not (wanted.since or wanted.until):
        return False
    some = sa.select(sa.literal(1)).where(instances.c.received_at >= wanted.since)
    if wanted.until:
        some = some.where(instances.c.received_at < wanted.until)
    found = some.limit(MOST_SCANNED + 1).subquery()
    count = connection.scalar(sa.select(sa.func.count()).select_from(found))
    return int(count or 0) <= MOST_SCANNED


def _by_name(connection: Connection, behind: str) -> Iterator[list[str]]:
    """Yield chunks of Instances by the names of their patients, those behind one of them."""
    name, at, uid = instances.c.sort_name, instances.c.received_at, instances.c.sop_instance_uid
    last: Any = None
    if behind:
        last = connection.execute(sa.select(name, at, uid).where(uid == behind)).first()
    size = 64
    while True:
        query = sa.select(name, at, uid).order_by(name, at, uid).limit(size)
        if last is not None:
            query = query.where(sa.tuple_(name, at, uid) > tuple(last))
        rows = connection.execute(query).all()
        if rows:
            yield [row.sop_instance_uid for row in rows]
            last = rows[-1]
        if len(rows) < size:
            return


def _by_letter(connection: Connection, letter: str, behind: str) -> Iterator[str]:
    """Yield the jobs whose results have a letter, the last received one first."""
    at, job = jobs.c.received_at, jobs.c.id
    last: Any = None
    if behind:
        last = connection.execute(sa.select(at, job).where(job == behind)).first()
    while True:
        query = sa.select(at, job).where(jobs.c.finding == letter, HAS_FINDING)
        query = query.order_by(at.desc(), job.desc()).limit(64)
        if last is not None:
            query = query.where(at <= last.received_at, (at < last.received_at) | (job < last.id))
        rows = connection.execute(query).all()
        yield from (row.id for row in rows)
        if len(rows) < 64:
            return
        last = rows[-1]


StudyKey = tuple[str, str, str]


def _key_of(row: Arrival) -> StudyKey:
    """Return what images of one study share: those of another patient are never among them."""
    study = row.study_instance_uid or row.sop_instance_uid
    return study, row.patient_id, folded(row.patient_name)


def _studies_of(connection: Connection, rows: Iterable[Arrival]) -> dict[StudyKey, StudyView]:
    """Return the studies of some rows."""
    uids: dict[str, dict[str, None]] = {}
    for row in rows:
        study = row.study_instance_uid
        if study not in uids:
            query = (
                sa.select(instances.c.sop_instance_uid)
                .where(instances.c.study_instance_uid == study)
                .limit(MOST_IMAGES + 1)
            )
            uids[study] = dict.fromkeys(connection.scalars(query)) if study else {}
        uids[study][row.sop_instance_uid] = None  # of a study that is cut, or of none
    images: dict[StudyKey, dict[str, list[Arrival]]] = {}
    for arrival in rows_of(connection, [[uid for some in uids.values() for uid in some]], ""):
        of_image = images.setdefault(_key_of(arrival), {}).setdefault(arrival.sop_instance_uid, [])
        # rows come with the last generation first
        if all(arrival.model != other.model for other in of_image):
            of_image.append(arrival)
    cut = {study for study, some in uids.items() if study and len(some) > MOST_IMAGES}
    return {key: _study_view(key, some, key[0] in cut) for key, some in images.items()}


def _study_view(key: StudyKey, images: dict[str, list[Arrival]], is_cut: bool) -> StudyView:
    ordered = sorted(images.items(), key=lambda item: (item[1][0].received_at, item[0]))
    return StudyView(
        key[0],
        tuple(
            StudyImage(uid, number, tuple(rows)) for number, (uid, rows) in enumerate(ordered, 1)
        ),
        is_cut,
    )


def _disagreed_jobs(connection: Connection) -> Iterator[str]:
    """Yield jobs with which a reader has disagreed lately, the last first."""
    newest = connection.scalar(sa.select(sa.func.max(judgements.c.id))) or 0
    query = (
        sa.select(judgements.c.job)
        .where(judgements.c.id > newest - MOST_JUDGED, judgements.c.verdict == "disagree")
        .order_by(judgements.c.id.desc())
    )
    return iter(dict.fromkeys(connection.scalars(query)))


def _sorted_page(studies: Iterator[StudyView], sort: str, limit: int, before: str) -> StudyPage:
    """Return a page of the newest of some studies, sorted."""
    found = list(islice(studies, MOST_SORTED + 1))
    ordered = _sort_studies(found[:MOST_SORTED], sort)
    start = _page_behind([view.newest.sop_instance_uid for view in ordered], before)
    shown = tuple(ordered[start : start + limit])
    is_more = len(ordered) > start + limit
    older = _behind_key(start + limit, shown[-1].newest.sop_instance_uid) if is_more else ""
    return StudyPage(shown, older, MOST_SORTED if len(found) > MOST_SORTED else 0)


def _scanned_page(
    connection: Connection, wanted: StudyFilter, limit: int, before: str
) -> StudyPage:
    """Return a page by name or finding; of all but its own studies the keys alone are read."""
    at, uid = instances.c.received_at, instances.c.sop_instance_uid
    columns = (uid, instances.c.study_instance_uid, instances.c.patient_id)
    query = sa.select(*columns, instances.c.patient_name).where(at >= wanted.since)
    if wanted.until:
        query = query.where(at < wanted.until)
    query = query.order_by(at.desc(), uid.desc()).limit(MOST_SCANNED + 1)
    rows = connection.execute(query).all()
    newest: dict[StudyKey, str] = {}
    ranks: dict[StudyKey, int] = {}
    found = _findings_of(connection, query) if wanted.sort == "finding" else {}
    for row in rows[:MOST_SCANNED]:
        name = folded(row.patient_name)
        key = (row.study_instance_uid or row.sop_instance_uid, row.patient_id, name)
        newest.setdefault(key, row.sop_instance_uid)
        ranks[key] = min(ranks.get(key, _NO_FINDING), found.get(row.sop_instance_uid, _NO_FINDING))
    by_name = wanted.sort == "name"
    ordered = sorted(
        newest, key=lambda key: (0, sort_name(key[2])) if by_name else (ranks[key], "")
    )
    start = _page_behind([newest[key] for key in ordered], before)
    asked = ordered[start : start + limit]
    known = _studies_of(connection, rows_of(connection, [[newest[key] for key in asked]], ""))
    is_more = len(ordered) > start + limit
    older = _behind_key(start + limit, newest[asked[-1]]) if is_more else ""
    shown = tuple(known[key] for key in asked if key in known)
    return StudyPage(shown, older, MOST_SCANNED if len(rows) > MOST_SCANNED else 0)


def _findings_of(connection: Connection, scanned: sa.Select[Any]) -> dict[str, int]:
    """Return the first place in the order of findings that an Instance's last reports have."""
    some = scanned.subquery()
    # Of a result of before 0008 only the JSON tells, until it has its letter: what Pydantic wrote
    # has no blanks, and quotes within texts are escaped.
    rank = sa.case(
        *((jobs.c.finding == letter, n) for n, letter in enumerate(FINDINGS.values())),
        *((jobs.c.result.like(f'%"presence":"{word}"%'), n) for n, word in enumerate(FINDINGS)),
        else_=_NO_FINDING,
    )
    query = (
        sa.select(jobs.c.sop_instance_uid, jobs.c.model, rank)
        .join(some, some.c.sop_instance_uid == jobs.c.sop_instance_uid)
        .order_by(jobs.c.generation.desc())
    )
    last: dict[tuple[str, str], int] = {}
    for uid, model, place in connection.execute(query):
        last.setdefault((uid, model), place)
    found: dict[str, int] = {}
    for (uid, _), place in last.items():
        found[uid] = min(found.get(uid, _NO_FINDING), place)
    return found


def _behind_key(index: int, sop_instance_uid: str) -> str:
    """Return the key of what stands behind a study: no name, as it stands in an address."""
    return f"@{index}~{sop_instance_uid}"


def _page_behind(uids: list[str], before: str) -> int:
    """Return where the page behind a study begins, in an order that may have changed."""
    index, _, uid = before.removeprefix("@").partition("~")
    if uid in uids:
        return uids.index(uid) + 1
    return int(index) if before.startswith("@") and index.isdecimal() and len(index) < 6 else 0


def _sort_studies(studies: list[StudyView], sort: str) -> list[StudyView]:
    if sort == "oldest":
        return sorted(studies, key=lambda study: study.newest.row.received_at)
    if sort == "name":
        return sorted(studies, key=lambda study: sort_name(study.newest.row.patient_name))
    if sort == "finding":
        return sorted(
            studies, key=lambda study: min(_finding_rank(row) for row in _study_rows(study))
        )
    if sort == "trouble":
        return sorted(
            studies, key=lambda study: min(_trouble_rank(row) for row in _study_rows(study))
        )
    return studies


def _study_rows(study: StudyView) -> Iterator[Arrival]:
    for image in study.images:
        yield from image.rows


def _finding_rank(row: Arrival) -> int:
    return _PLACES.get(row.presence or "", _NO_FINDING)


def _trouble_rank(row: Arrival) -> int:
    return _TROUBLE.index(row.state) if row.state in _TROUBLE else len(_TROUBLE)
