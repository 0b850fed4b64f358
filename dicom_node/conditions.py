"""What is wrong with the node now, computed in one place for pages, doctor, readyz and metrics.

Each condition is looked at afresh: it ends with its cause, and nothing has to be acknowledged.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from dicom_node.base.errors import ChexFractError
from dicom_node.base.local_time import local_time, spoken_duration
from dicom_node.base.pem import read_certificates
from dicom_node.base.plurals import Plural
from dicom_node.base.translation import mark, mark_counted
from dicom_node.flow import broker
from dicom_node.peers import HostNames, who_calls
from dicom_node.settings import Settings, Tls
from dicom_node.store.audit_file import AuditFile
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.ledger import DestinationState, Ledger, Waiting
from dicom_node.store.ledger.holds import Hold
from dicom_node.store.ledger.refused import RefusedCaller
from dicom_node.store.ledger.views import WorkerClaim
from dicom_node.store.spool import Spool

FRESH_S = 2.0
"""Age from which the conditions are computed again when somebody asks."""
WAIT_S = 1.5
"""Longest wait of who asks; meanwhile the last answer stands."""
SILENT_S = 20.0
"""Time of one look after which the ledger counts as silent."""

GRACE_S = 10.0
"""Wait of a job that a worker may need to come for it."""
YOUNG_S = 25.0
"""Age of the web side up to which a worker's heartbeat may be missing; one comes each 20 s."""
PATIENCE_S = 120.0
"""Wait of a job after which a worker that is there should have taken it."""

MOST_SKEW_S = 60.0
JUMP_SHOWN_S = 900.0
"""Time for which a clock that was set is shown."""
RELEASED = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""A clock before this is wrong: this software did not exist yet."""

SOONEST_EXPIRY = timedelta(days=30)
REFUSED_S = 3600.0
"""Time for which a refused caller stands among what is wrong; the page of peers shows a day."""

Level = Literal["stop", "warn"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong now.

    ``what`` and ``advice`` are entries of the catalogue of texts, with places for ``values``.
    """

    key: str
    """Which kind; the same for metrics, readyz and tests."""
    level: Level
    """``stop``: images are not taken, not described or not delivered because of it."""
    what: str | Plural
    advice: str
    values: Mapping[str, object] = field(default_factory=dict)
    name: str = ""
    """Which destination, model or file."""
    page: str = ""
    """The page on which more stands about it."""

    @property
    def text(self) -> str:
        """What is wrong, in English."""
        what = self.what
        return (what if isinstance(what, str) else what.of(self.count)) % self.values

    @property
    def count(self) -> int:
        """How many of the thing there are that ``what`` counts."""
        return int(str(self.values.get("count", 0)))

    @property
    def advised(self) -> str:
        """What to do about it, in English."""
        return self.advice % self.values


# each kind of condition ---------------------------------------------------------------------------


def of_disk(free: int, min_free: int, folder: Path) -> Iterator[Condition]:
    """Yield that the disk of a folder is full, or will be soon."""
    values = {
        "free": f"{free / 1e9:.1f}",
        "limit": f"{min_free / 1e9:.1f}",
        "folder": folder.absolute(),
    }
    advice = mark("The page Disk shows what takes the space of %(folder)s and what may go now; "
                  "[retention] says how long files stay.")  # fmt: skip
    if free < min_free:
        what = mark("The disk is full: images are refused. %(free)s GB are free, %(limit)s GB "
                    "must stay free.")  # fmt: skip
        yield Condition("disk-full", "stop", what, advice, values, "", "/disk")
    elif free < 2 * min_free:
        what = mark("The disk is nearly full: at %(limit)s GB free images are refused, "
                    "%(free)s GB are free now.")  # fmt: skip
        yield Condition("disk-low", "warn", what, advice, values, "", "/disk")


def of_audit(settings: Settings) -> Iterator[Condition]:
    """Yield that the audit trail has no room."""
    path = settings.audit_file
    if path is not None and not AuditFile(path).is_safe:
        what = mark("The disk of the audit trail is full: images are refused.")
        advice = mark("Make room on the disk of %(folder)s; the node goes on by itself.")
        yield Condition("audit-full", "stop", what, advice, {"folder": path.parent.absolute()})


def of_ledger(ledger: Ledger) -> Iterator[Condition]:
    """Yield that the ledger gives no answer or takes nothing."""
    try:
        ledger.history.answers()
    except ChexFractError as exc:
        what = mark("The ledger gives no answer: nothing is received (%(why)s).")
        advice = mark("Start the database, or correct node.ledger; the node goes on by itself.")
        yield Condition("ledger-away", "stop", what, advice, {"why": exc})
        return
    if why := ledger.why_read_only():
        what = mark("The ledger cannot be written: nothing is received (%(why)s).")
        advice = mark("Let the user of the node write it, and look at the disk that it is on.")
        yield Condition("ledger-read-only", "stop", what, advice, {"why": why})


def of_broker(url: str, ask: Callable[[], None]) -> Iterator[Condition]:
    """Yield that the broker gives no answer."""
    try:
        ask()
    except ChexFractError as exc:
        what = mark("The broker is away: images are received and wait, no worker hears of them "
                    "(%(why)s).")  # fmt: skip
        advice = mark("Start Redis, or correct broker.url; nothing is lost meanwhile.")
        yield Condition("broker-away", "stop", what, advice, {"why": exc}, broker.redacted(url))


def of_jobs(
    waiting: Mapping[str, Waiting], here: Collection[str], now: float
) -> Iterator[Condition]:
    """Yield models whose jobs wait while nobody takes them.

    Parameters
    ----------
    here : collection of str
        Models of which a worker is there.
    """
    for model, line in sorted(waiting.items()):
        count = line.due + line.queued
        waited = now - line.oldest
        if not count or line.running or not line.oldest:
            continue
        values = {"count": count, "model": model, "time": spoken_duration(max(0.0, waited))}
        if model not in here and waited >= GRACE_S:
            text = mark_counted(
                "No worker of the model %(model)s is running: %(count)s image waits, for %(time)s.",
                "No worker of the model %(model)s is running: %(count)s images wait, the first for "
                "%(time)s.",
            )
            advice = mark("Start a worker of that model: on the page Models, where serve can; else "
                          "chexfract-worker run, or chexfract-node serve --with-worker "
                          "worker.toml")  # fmt: skip
            yield Condition("no-worker", "stop", text, advice, values, model, "/models")
        elif waited >= PATIENCE_S:
            text = mark_counted(
                "A worker of the model %(model)s is there but takes no work: %(count)s image "
                "waits, for %(time)s.",
                "A worker of the model %(model)s is there but takes no work: %(count)s images "
                "wait, the first for %(time)s.",
            )
            advice = mark("See its log: it must listen at the broker of this node.")
            yield Condition("idle-worker", "stop", text, advice, values, model, "/models")


def of_workers(
    settings: Settings, waiting: Mapping[str, Waiting], here: Collection[str]
) -> Iterator[Condition]:
    """Yield models that rules name and no worker has, while nothing waits for them yet."""
    for model in sorted({rule.model for rule in settings.rules} - set(here)):
        line = waiting.get(model, Waiting())
        if line.due or line.queued or line.running:
            continue
        what = mark("No worker of the model %(model)s is running: images will wait for one.")
        advice = mark("Start a worker of that model: on the page Models, where serve can; else "
                      "chexfract-worker run, or chexfract-node serve --with-worker "
                      "worker.toml")  # fmt: skip
        yield Condition("no-worker-yet", "warn", what, advice, {"model": model}, model, "/models")


def models_claimed(
    waiting: Mapping[str, Waiting], claims: Iterable[WorkerClaim], now: float
) -> set[str]:
    """Return the models of which a worker seems to be there, for who hears no heartbeats.

    What was claimed lately speaks for all models: a claim does not name its model.
    """
    is_any = any(now - worker.claimed_at < PATIENCE_S for worker in claims)
    return set(waiting) if is_any else set()


def is_down(line: DestinationState) -> bool:
    """Return whether reports wait for a destination that did not answer when last asked."""
    return bool(line.failures and line.waiting and not line.is_held)


def of_destinations(lines: Iterable[DestinationState]) -> Iterator[Condition]:
    """Yield archives for which reports wait because they give no answer."""
    for line in lines:
        if is_down(line):
            values = {"count": line.waiting, "name": line.name, "why": line.reason}
            what = mark_counted(
                "%(name)s is away (%(why)s): %(count)s report waits for it.",
                "%(name)s is away (%(why)s): %(count)s reports wait for it.",
            )
            advice = mark("Test it on the page Peers; the reports go out by themselves when it "
                          "answers.")  # fmt: skip
            yield Condition("archive-away", "stop", what, advice, values, line.name, "/peers")


HELD_WORDS: Mapping[str, str] = {
    "destination": mark("Destination %(name)s is held since %(since)s by %(who)s%(why)s: its "
                        "reports wait."),
    "model": mark("Model %(name)s is held since %(since)s by %(who)s%(why)s: its images wait."),
    "rule": mark("Rule %(name)s is held since %(since)s by %(who)s%(why)s: its images wait."),
    "worker": mark("Worker %(name)s is held since %(since)s by %(who)s%(why)s: it gets no image."),
}  # fmt: skip
"""What is held, by its kind."""

HELD_PAGES = {"destination": "/peers", "rule": "/rules", "model": "/models", "worker": "/models"}


def of_holds(held: Iterable[Hold]) -> Iterator[Condition]:
    """Yield what people hold back: nothing is lost, and somebody has to let it go again."""
    for hold in held:
        values = {
            "name": hold.name,
            "since": f"{local_time(hold.since):%Y-%m-%d %H:%M}",
            "who": hold.held_by or mark("somebody"),
            "why": f" ({hold.reason})" if hold.reason else "",
        }
        advice = mark("Nothing is lost. Let it go when it may go on.")
        page = HELD_PAGES[hold.kind]
        yield Condition(
            "held", "warn", HELD_WORDS[hold.kind], advice, values, f"{hold.kind} {hold.name}", page
        )


def of_clock(now: float, last_event: float, jump: float = 0.0) -> Iterator[Condition]:
    """Yield that the clock is wrong, was set back, or jumped.

    Parameters
    ----------
    last_event : float
        When, by the ledger, something last happened.
    jump : float
        Seconds by which the clock was set lately.
    """
    advice = mark("Set the clock, and let chrony or systemd-timesyncd keep it.")
    ahead = last_event - now
    if now < RELEASED:
        what = mark("The clock is wrong: its time is before this software was made.")
        yield Condition("clock", "stop", what, advice)
    elif ahead > MOST_SKEW_S:
        what = mark("The clock was set back: the ledger's last event lies %(seconds)s s in the "
                    "future.")  # fmt: skip
        yield Condition("clock", "stop", what, advice, {"seconds": f"{ahead:.0f}"})
    elif abs(jump) > MOST_SKEW_S:
        what = mark("The clock has jumped by %(seconds)s s.")
        yield Condition("clock", "warn", what, advice, {"seconds": f"{jump:+.0f}"})


@dataclass(frozen=True, slots=True)
class CertificateDates:
    """When a file of certificates is valid."""

    end: str
    """Which TLS end: ``tls node``, ``tls web`` or ``tls`` and a peer."""
    path: Path
    begins: datetime
    ends: datetime

    @property
    def level(self) -> Level | None:
        """How bad that is now."""
        now = HOST_CLOCK.utc()
        if self.ends < now or self.begins > now:
            return "stop"
        return "warn" if self.ends - now < SOONEST_EXPIRY else None


def tls_ends(settings: Settings) -> dict[str, Tls]:
    """Return the files of each TLS end that has any."""
    web = settings.web
    ends = {"tls node": settings.node.tls, "tls web": Tls(certificate=web.certificate, key=web.key)}
    ends |= {f"tls {name}": peer.tls for name, peer in settings.peers.items()}
    return {name: end for name, end in ends.items() if end.certificate or end.key or end.ca}


def certificate_dates(name: str, end: Tls) -> Iterator[CertificateDates]:
    """Yield the dates of each file of a TLS end.

    Raises
    ------
    OSError, ValueError
        A file cannot be read, or is not PEM.
    """
    for path in (end.certificate, end.ca):
        if path is not None:
            found = read_certificates(path.read_bytes())
            if path == end.ca:
                # in a bundle of many authorities, as a system has it, some have always ended
                now = HOST_CLOCK.utc()
                valid = (one.not_valid_before_utc <= now < one.not_valid_after_utc for one in found)
                found = [
                    one for one, is_valid in zip(found, valid, strict=True) if is_valid
                ] or found
            begins = max(certificate.not_valid_before_utc for certificate in found)
            yield CertificateDates(
                name, path, begins, min(certificate.not_valid_after_utc for certificate in found)
            )


def of_certificates(settings: Settings) -> Iterator[Condition]:
    """Yield certificates that end soon, have ended or have not begun."""
    for name, end in tls_ends(settings).items():
        try:
            dates = list(certificate_dates(name, end))
        except (OSError, ValueError):
            continue  # what cannot be read stops the start: doctor names it
        for date in dates:
            yield from of_dates(date)


def of_dates(dates: CertificateDates) -> Iterator[Condition]:
    """Yield that a certificate ends soon, has ended or has not begun."""
    if dates.level is None:
        return
    now = HOST_CLOCK.utc()
    values = {
        "file": dates.path,
        "begin": f"{dates.begins:%Y-%m-%d}",
        "end": f"{dates.ends:%Y-%m-%d}",
        "count": (dates.ends - now).days,
    }
    what: str | Plural
    if dates.begins > now:
        what = mark("A certificate is not valid yet: %(file)s begins on %(begin)s.")
    elif dates.level == "stop":
        what = mark("A certificate is not valid any more: %(file)s ended on %(end)s.")
    else:
        what = mark_counted(
            "A certificate ends soon: %(file)s on %(end)s, in %(count)s day.",
            "A certificate ends soon: %(file)s on %(end)s, in %(count)s days.",
        )
    if dates.begins > now:
        advice = mark("Set the clock, or take another certificate and restart serve.")
    elif (dates.path.parent / "ca.key").exists():  # of this node's own authority
        advice = mark("Renew it by chexfract-node certificate, and restart serve.")
    else:
        advice = mark("Renew it, and restart serve.")
    yield Condition("certificate", dates.level, what, advice, values, dates.end)


def of_refused(
    settings: Settings, refused: Iterable[RefusedCaller], now: float, names: HostNames | None = None
) -> Iterator[Condition]:
    """Yield callers that were refused lately and would be refused again.

    A caller without an AE title is a scan of the port, not a modality of the site.
    """
    lately = [caller for caller in refused if caller.ae_title and now - caller.last_at < REFUSED_S]
    seen: set[tuple[str, str]] = set()
    for caller in lately[:20]:
        who = (caller.ae_title, caller.address)
        known = who_calls(settings.peers, *who, None, *([names] if names else []))
        if who in seen or known.name is not None:
            continue
        seen.add(who)
        values = {
            "ae": caller.ae_title,
            "address": caller.address,
            "count": caller.count,
            "why": caller.reason,
        }
        what = mark_counted(
            "%(ae)s at %(address)s was refused once (%(why)s).",
            "%(ae)s at %(address)s was refused %(count)s times (%(why)s).",
        )
        advice = mark("The page Peers shows what lets it in.")
        name = f"{caller.ae_title}@{caller.address}"
        yield Condition("refused-caller", "warn", what, advice, values, name, "/peers#refused")


# all of them --------------------------------------------------------------------------------------


def all_now(
    settings: Settings,
    ledger: Ledger,
    spool: Spool,
    models_here: Callable[[Mapping[str, Waiting]], Collection[str] | None],
    jump: Callable[[], float] = lambda: 0.0,
) -> Iterator[Condition]:
    """Yield all that is wrong.

    Parameters
    ----------
    models_here : callable
        Returns the models of which a worker is there, given what waits; None where that is not
        known yet.
    jump : callable
        Returns the seconds by which the clock was set lately.
    """
    now, url = ledger.clock.wall(), settings.broker.url
    yield from of_disk(_free_bytes(spool), spool.min_free, spool.root)
    yield from of_audit(settings)
    trouble = list(of_ledger(ledger))
    yield from trouble
    if url != "embedded":  # serve puts the address of its own in the place of this word
        files = broker.files_of(settings.broker)
        yield from of_broker(url, lambda: broker.ping(url, 1.0, files))
    yield from of_certificates(settings)
    if any(condition.key == "ledger-away" for condition in trouble):
        return
    try:
        waiting = ledger.jobs.waiting()
        if (here := models_here(waiting)) is not None:
            yield from of_jobs(waiting, here, now)
            yield from of_workers(settings, waiting, here)
        yield from of_destinations(ledger.history.status().destinations)
        yield from of_holds(ledger.holds.held())
        yield from of_clock(now, ledger.history.last_event(), jump())
        yield from of_refused(settings, ledger.refused.recent(), now)
    except ChexFractError:
        return  # it went away just now: the next look says so


def _free_bytes(spool: Spool) -> int:
    try:
        return shutil.disk_usage(spool.root).free
    except OSError:
        return -1


class Conditions:
    """The conditions of a running node; asked for again by a thread of their own.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    spool : Spool
    here : callable
        Returns the models of which a worker is there.
    born : float
        Since when, by the monotonic clock, workers can tell that they are there.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        spool: Spool,
        here: Callable[[], Collection[str]],
        born: float,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._spool = spool
        self._here = here
        self._clock = ledger.clock
        self._jumps = ledger.clock.jumps()
        self._jumped: tuple[float, float] | None = None
        self._lock = threading.Lock()
        self._known: tuple[Condition, ...] = ()
        self._at = float("-inf")
        self._looking: threading.Event | None = None
        self._since = 0.0
        self._born = born

    def now(self) -> tuple[Condition, ...]:
        """Return what is wrong, what stops images first; at most a few seconds old."""
        with self._lock:
            if time.monotonic() - self._at < FRESH_S:
                return self._known
            if self._looking is None:
                self._looking, self._since = threading.Event(), time.monotonic()
                # A thread of its own: a locked ledger or a silent broker keeps no page waiting.
                threading.Thread(
                    target=self._look_again, args=(self._looking,), daemon=True
                ).start()
            looking = self._looking
        looking.wait(WAIT_S)
        with self._lock:
            silent = self._looking is not None and time.monotonic() - self._since > SILENT_S
            return (_SILENT, *self._known) if silent else self._known

    def _look_again(self, done: threading.Event) -> None:
        try:
            found = tuple(
                sorted(self._all_conditions(), key=lambda condition: condition.level != "stop")
            )
            with self._lock:
                self._known = found
        finally:
            with self._lock:
                self._at = time.monotonic()
                self._looking = None
            done.set()

    def _all_conditions(self) -> Iterator[Condition]:
        return all_now(
            self._settings, self._ledger, self._spool, self._models_here, self._recent_jump
        )

    def _models_here(self, _: Mapping[str, Waiting]) -> Collection[str] | None:
        return set(self._here()) if time.monotonic() - self._born >= YOUNG_S else None

    def _recent_jump(self) -> float:
        if by := self._jumps.since_last():
            self._jumped = (by, self._clock.monotonic())
        if self._jumped and self._clock.monotonic() - self._jumped[1] < JUMP_SHOWN_S:
            return self._jumped[0]
        return 0.0


_SILENT = Condition(
    "ledger-away",
    "stop",
    mark("The ledger gives no answer: nothing is received (%(why)s)."),
    mark("Start the database, or correct node.ledger; the node goes on by itself."),
    {"why": mark("no answer yet")},
)


def stops(conditions: Sequence[Condition]) -> list[Condition]:
    """Return those that stop images."""
    return [condition for condition in conditions if condition.level == "stop"]
