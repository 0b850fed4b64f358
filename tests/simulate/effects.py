"""Where the world touches the code: time, commits, files, and the crash between any two of them."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from dicom_node.base.errors import OutOfResources
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.database import Database, _begin_sqlite, _prepare_sqlite
from dicom_node.store.spool import Incoming, Spool

from ..support.clocks import FakeClock
from ..support.transitions import write_down

START = 1_800_000_000.0

__all__ = ["Crashed", "Effects", "FakeClock", "SimulatedDatabase", "SimulatedSpool", "start_clock"]


class Crashed(BaseException):
    """The process that was at work is killed; nothing of it gets any further."""


def start_clock() -> FakeClock:
    """Return a clock at the time at which each schedule begins."""
    return FakeClock(START)


class Effects:
    """Counts what processes do to the world, and kills one between two of its effects."""

    def __init__(self) -> None:
        self.running = ""
        self.armed: dict[str, int] = {}
        self.count = 0

    def hit(self) -> None:
        """Be between two effects of the process that is running."""
        self.count += 1
        left = self.armed.get(self.running)
        if left is None:
            return
        if left <= 0:
            del self.armed[self.running]
            raise Crashed(self.running)
        self.armed[self.running] = left - 1

    @contextmanager
    def process(self, name: str) -> Iterator[None]:
        """Let this process run."""
        before, self.running = self.running, name
        try:
            yield
        finally:
            self.running = before


def _memory_engine() -> Any:
    engine = sa.create_engine(
        "sqlite://",
        hide_parameters=True,
        poolclass=StaticPool,
        pool_reset_on_return=None,  # each transaction here ends by itself
        connect_args={"check_same_thread": False},
    )
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


class SimulatedDatabase(Database):
    """A ledger's database, in memory or in a file, that is emptied between schedules."""

    template: sqlite3.Connection | None = None

    def __init__(self, file: Path | None) -> None:
        if file is None:
            super().__init__("sqlite:////dev/null")
            self._engine.dispose()
            self.url = "sqlite://"
            self._engine = _memory_engine()
            self._reads = self._engine.execution_options(ledger_reads=True)
            self._relaxed = self._engine
            self._disk = self.bells = None
            self._looks, self._made = {}, {}
        else:
            super().__init__(f"sqlite:///{file}")
        self.effects = Effects()
        self.commits = 0
        self.may_lose_power = False
        self._synced: sqlite3.Connection | None = None
        """What is on the disk for certain, where something was committed since."""
        self.is_full: Callable[[], bool] = lambda: False

    def empty(self, effects: Effects, is_full: Callable[[], bool]) -> None:
        """Be a new ledger."""
        self.fill(_template())
        self.effects, self.is_full, self.commits = effects, is_full, 0
        self._synced, self.may_lose_power = None, False

    def fill(self, content: sqlite3.Connection) -> None:
        """Take over the content of another database."""
        raw = self._engine.raw_connection()
        try:
            content.backup(raw.driver_connection)
        finally:
            raw.close()

    def copy(self) -> sqlite3.Connection:
        """Return a copy of its content, as an online backup takes one."""
        target = sqlite3.connect(":memory:", check_same_thread=False)
        raw = self._engine.raw_connection()
        try:
            raw.driver_connection.backup(target)
        finally:
            raw.close()
        return target

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Any]:
        """One transaction: a crash comes before it, at its end, or after it."""
        self._begin()
        if self.may_lose_power and not durable and self._synced is None:
            self._synced = self.copy()
        with super().writing(durable=durable) as connection:
            yield connection
            self.effects.hit()
        if durable:
            self._synced = None
        self._committed()

    def lose_power(self) -> bool:
        """Lose what was committed since the last sync; return whether there was anything."""
        lost, self._synced = self._synced, None
        if lost is not None:
            self.fill(lost)
            self.commits += 1
        return lost is not None

    @contextmanager
    def driving(self) -> Iterator[Any]:
        """Like `writing`."""
        self._begin()
        with super().driving() as cursor:
            yield cursor
            self.effects.hit()
        self._synced = None
        self._committed()

    def _begin(self) -> None:
        self.effects.hit()
        if self.is_full():
            raise OutOfResources("ledger: the disk is full")

    def _committed(self) -> None:
        self.commits += 1
        self.effects.hit()


class CommitWatch:
    """Tells whether something was committed since the last question."""

    def __init__(self, database: SimulatedDatabase) -> None:
        self._database = database
        self._seen = -1

    def has_changed(self) -> bool:
        """Return what `changed` will, without taking note of it."""
        return self._database.commits != self._seen

    def changed(self) -> bool:
        """Return whether there was a commit."""
        is_new, self._seen = self.has_changed(), self._database.commits
        return is_new

    def close(self) -> None:
        """Hold nothing."""


class SimulatedLedger(Ledger):
    """The ledger, whose watches count commits."""

    database: SimulatedDatabase

    def watch(self) -> Any:
        """Return a watch."""
        return CommitWatch(self.database)


class SimulatedSpool(Spool):
    """A spool on a disk that may be full, in a process that may be killed."""

    def __init__(
        self, root: Path, clock: FakeClock, effects: Effects, is_full: Callable[[], bool]
    ) -> None:
        self.effects = effects
        self.is_full = is_full
        super().__init__(root, clock=clock)

    def has_room(self, size: int = 0) -> bool:
        """Return whether the disk has room."""
        return not self.is_full()

    def writing(self) -> Incoming:
        """Return a new file."""
        if self.is_full():
            raise OutOfResources("spool: the disk is full")
        return _Incoming(self)

    def write_report(self, job: str, token: str, part: str, content: bytes) -> str:
        """Keep an object of a result."""
        if self.is_full():
            raise OutOfResources("spool: the disk is full")
        self.effects.hit()
        name = super().write_report(job, token, part, content)
        self.date(name)
        self.effects.hit()
        return name

    def date(self, name: str) -> None:
        """Let a new file be as old as it is by the clock of the world."""
        now = self._clock.wall()
        os.utime(self.path(name), (now, now))

    def remove(self, name: str) -> None:
        """Remove a file."""
        self.effects.hit()
        super().remove(name)


class _Incoming(Incoming):
    _spool: SimulatedSpool

    def place(self, name: str) -> None:
        self._spool.effects.hit()
        super().place(name)
        self._spool.date(name)
        self._spool.effects.hit()


def _template() -> sqlite3.Connection:
    """Return an empty ledger that writes its transitions down; migrations run once."""
    if SimulatedDatabase.template is None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/ledger.sqlite"
            Ledger.upgrade(url)
            ledger = Ledger.open(url)
            write_down(ledger)
            ledger.close()
            source = sqlite3.connect(f"{folder}/ledger.sqlite")
            SimulatedDatabase.template = sqlite3.connect(":memory:", check_same_thread=False)
            source.backup(SimulatedDatabase.template)
            source.close()
    return SimulatedDatabase.template


@contextmanager
def chance(seed: int) -> Iterator[None]:
    """Let the product's tokens and transaction UIDs come from a seed."""
    import secrets
    import uuid

    drawn = random.Random(seed)
    kept = secrets.token_hex, uuid.uuid4
    secrets.token_hex = lambda n=32: drawn.getrandbits(8 * (n or 32)).to_bytes(n or 32).hex()  # type: ignore[assignment]
    uuid.uuid4 = lambda: uuid.UUID(int=drawn.getrandbits(128), version=4)  # type: ignore[assignment]
    try:
        yield
    finally:
        secrets.token_hex, uuid.uuid4 = kept
