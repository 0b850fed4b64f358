"""Ledgers of the simulated nodes: emptied between schedules, copied, filled, and without power."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from dicom_node.base.errors import OutOfResources
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.database import (
    Database,
    DriverTransaction,
    PreparedStatement,
    _prepare_sqlite,
)
from dicom_node.store.schema import metadata

from ..support.transitions import write_down
from .driver import DirectConnection
from .effects import Effects, SharedTurn

STATEMENTS = 1000
"""Prepared statements that a connection keeps: all roles of a node use one here."""


class MemoryDatabase(Database):
    """SQLite in memory: one connection, without the pool, which takes longer than SQLite itself."""

    def __init__(self) -> None:
        super().__init__("sqlite:////dev/null")
        self._engine.dispose()
        self.url = "sqlite://"
        self._engine = self._reads = self._relaxed = _memory_engine()
        self._disk = self.bells = None
        self._looks, self._made = {}, {}
        whole = self._engine.connect()
        whole.begin()  # for SQLAlchemy it never ends: the driver is let begin and commit
        self._only = DirectConnection(whole)
        self._own: Any = self._only.driver_connection


class SimulatedDatabase(Database):
    """A ledger's database whose transactions are effects of the world."""

    def __init__(self, *place: str) -> None:
        self.effects = Effects()
        super().__init__(*place)
        self.commits = 0
        self.may_lose_power = False
        self._synced: Content | None = None
        """What is on the disk for certain, where something was committed since."""
        self.is_full: Callable[[], bool] = lambda: False
        if self.is_sqlite:
            with self._driver() as connection:
                _template().backup(connection)
        with self._driver() as connection:
            self._content = Content(connection, self.is_sqlite)

    def empty(self, effects: Effects) -> None:
        """Be a new ledger."""
        with self._driver() as connection:
            if self.is_sqlite and connection.execute(_STATISTICS).fetchone():
                _template().backup(connection)  # plans may not depend on the schedules before
            self._content.put_back(connection)
        self.effects, self.commits = effects, 0
        self.is_full = lambda: False
        self._synced, self.may_lose_power = None, False

    def fill(self, content: Content) -> None:
        """Take over the content of a copy."""
        with self._driver() as connection:
            content.put_back(connection)

    def copy(self) -> Content:
        """Return a copy of its content, as an online backup takes one."""
        with self._driver() as connection:
            return Content(connection, self.is_sqlite)

    @contextmanager
    def _driver(self) -> Iterator[Any]:
        raw = self._engine.raw_connection()
        try:
            yield raw.driver_connection
        finally:
            raw.close()

    @contextmanager
    def writing(self, *, durable: bool = True, in_a_row: bool = False) -> Iterator[Any]:
        """One transaction: a crash comes before it, at its end, or after it."""
        self._begin()
        if self.may_lose_power and not durable and self._synced is None:
            self._synced = self.copy()
        with (
            self.effects.transaction(may_be_held=not self.is_sqlite),
            super().writing(durable=durable, in_a_row=in_a_row) as connection,
        ):
            yield connection
            self.effects.hit()
        if durable:
            self._synced = None
        self._committed()

    def in_one(self, statement: Any, values: Any, *, durable: bool = True) -> list[Any]:
        """One transaction that is one statement: a crash comes before it or after it."""
        self._begin()
        if self.may_lose_power and not durable and self._synced is None:
            self._synced = self.copy()
        with self.effects.transaction(may_be_held=True):
            found = super().in_one(statement, values, durable=durable)
        if durable:
            self._synced = None
        self._committed()
        return found

    def lose_power(self) -> bool:
        """Lose what was committed since the last sync; return whether there was anything."""
        lost, self._synced = self._synced, None
        if lost is not None:
            self.fill(lost)
            self.commits += 1
        return lost is not None

    def driving(self) -> Any:
        """Like `writing`."""
        return self._drive()

    @contextmanager
    def _drive(self) -> Iterator[Any]:
        self._begin()
        with self.effects.transaction(may_be_held=not self.is_sqlite), super().driving() as cursor:
            yield cursor
            self.effects.hit()
        self._synced = None
        self._committed()

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """One view; much may happen between what was seen and what follows from it."""
        with (
            self.effects.transaction(may_be_held=not self.is_sqlite),
            super().reading() as connection,
        ):
            yield connection
        self.effects.pause()

    def look(self, statement: Any, **values: Any) -> list[Any]:
        """Like `reading`."""
        found = super().look(statement, **values)
        self.effects.pause()
        return found

    def _begin(self) -> None:
        self.effects.hit()
        if self.is_full():
            raise OutOfResources("ledger: the disk is full")

    def _committed(self) -> None:
        self.commits += 1
        self.effects.hit()


class SimulatedMemory(SimulatedDatabase, MemoryDatabase):
    """That of most schedules.

    Its transactions do what those of `SimulatedDatabase` do, each in one piece: the generators
    around a transaction took longer than SQLite did for it.
    """

    def writing(self, *, durable: bool = True, in_a_row: bool = False) -> Any:
        """One transaction that may write."""
        return _MemoryTransaction(self, self._only, durable)

    def _drive(self) -> Any:
        return _MemoryTransaction(self, DriverTransaction(self._own.cursor()), durable=True)

    def reading(self) -> Any:
        """One view; nobody writes meanwhile."""
        return _MemoryView(self)

    def look(self, statement: Any, **values: Any) -> list[Any]:
        """Return the rows of a query."""
        query = self._looks.get(statement)
        if query is None:
            query = self._looks[statement] = PreparedStatement(statement, None, self.dialect)
        found: list[Any] = self._own.execute(query.sql, query.row(values)).fetchall()
        self.effects.pause()
        return found


class _MemoryTransaction:
    """A transaction of a ledger in memory: a crash comes before it, at its end, or after it."""

    __slots__ = ("_database", "_durable", "_effects", "_given")

    def __init__(self, database: SimulatedMemory, given: Any, durable: bool) -> None:
        self._database, self._given, self._durable = database, given, durable

    def __enter__(self) -> Any:
        database = self._database
        database._begin()
        if database.may_lose_power and not self._durable and database._synced is None:
            database._synced = database.copy()
        self._effects = database.effects
        database._own.execute("BEGIN IMMEDIATE")
        self._effects._undivided += 1
        return self._given

    def __exit__(self, kind: object, exc: BaseException | None, _: object) -> None:
        database, effects = self._database, self._effects
        is_whole = False
        try:
            if exc is None:
                effects.hit()
                database._own.execute("COMMIT")
                is_whole = True
        finally:
            if not is_whole:
                database._own.execute("ROLLBACK")
            effects._undivided -= 1
        if exc is not None:
            _raise_translated(database, exc)
            return
        if self._durable:
            database._synced = None
        database._committed()


class _MemoryView:
    """A view of a ledger in memory; much may happen between it and what follows from it."""

    __slots__ = ("_database",)

    def __init__(self, database: SimulatedMemory) -> None:
        self._database = database

    def __enter__(self) -> Any:
        self._database.effects._undivided += 1
        return self._database._only

    def __exit__(self, kind: object, exc: BaseException | None, _: object) -> None:
        effects = self._database.effects
        effects._undivided -= 1
        if exc is not None:
            _raise_translated(self._database, exc)
        else:
            effects.pause()


def _raise_translated(database: Database, exc: BaseException) -> None:
    """Raise the project's error for one of the driver; others go on as they are."""
    if isinstance(exc, (sqlite3.Error, sa.exc.SQLAlchemyError)):
        with database.translated():
            raise exc


class Content:
    """The rows of a ledger, which take the place of those that are there.

    Rows and not pages: what a connection has prepared stays good, and most of it is used in the
    next schedule.
    """

    def __init__(self, connection: Any, is_sqlite: bool) -> None:
        self._pages: sqlite3.Connection | None = None
        self._is_sqlite = is_sqlite
        self._rows: dict[str, list[Any]] = {}
        self._sequences: list[tuple[str, Any]] = []
        cursor = connection.cursor()
        if is_sqlite and cursor.execute(_HAS_IMAGES).fetchone()[0]:
            # the index of words keeps no text: it can be copied by its pages alone
            self._pages = sqlite3.connect(":memory:", check_same_thread=False)
            connection.backup(self._pages)
            cursor.close()
            return
        for name in _tables_of(connection, is_sqlite):
            found = cursor.execute(f"SELECT * FROM {name}").fetchall()
            self._rows[name] = [tuple(row) for row in found]
        if not is_sqlite:
            said = "SELECT quote_ident(sequencename), last_value FROM pg_sequences"
            self._sequences = cursor.execute(said).fetchall()
        cursor.close()
        if not is_sqlite:
            connection.rollback()

    def put_back(self, connection: Any) -> None:
        """Let these rows be all that there are."""
        if self._pages is not None:
            self._pages.backup(connection)
            return
        cursor = connection.cursor()
        if self._is_sqlite:  # another driver begins by itself
            cursor.execute("BEGIN")
        names = list(reversed(self._rows))
        if not self._is_sqlite:
            # Rows stand in new files, in the order in which they are written: where what was
            # removed leaves gaps, the order of rows hangs on all the schedules before.
            cursor.execute(f"TRUNCATE {', '.join(names)}")
        looks = ", ".join(f"EXISTS (SELECT 1 FROM {name})" for name in names)
        there = cursor.execute(f"SELECT {looks}").fetchone()
        for name, has_rows in zip(names, there, strict=True):
            if has_rows:
                cursor.execute(f"DELETE FROM {name}")
        if self._is_sqlite:
            cursor.execute(_NO_WORDS)
        cursor.execute("DELETE FROM totals")  # triggers have counted what was removed
        mark = "?" if self._is_sqlite else "%s"
        for name, rows in self._rows.items():
            if rows and name != "totals":
                marks = ", ".join(mark for _ in rows[0])
                cursor.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
        cursor.execute("DELETE FROM totals")
        if rows := self._rows["totals"]:
            marks = ", ".join(mark for _ in rows[0])
            cursor.executemany(f"INSERT INTO totals VALUES ({marks})", rows)
        for name, last in self._sequences:
            value, is_called = (1, False) if last is None else (last, True)
            cursor.execute("SELECT setval(%s, %s, %s)", (name, value, is_called))
        connection.commit()
        cursor.close()


_HAS_IMAGES = "SELECT EXISTS (SELECT 1 FROM instances) OR EXISTS (SELECT 1 FROM jobs)"
_STATISTICS = "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'"
_NO_WORDS = "INSERT INTO words (words) VALUES ('delete-all')"


def _tables_of(connection: Any, is_sqlite: bool) -> list[str]:
    """Return the tables in the order in which rows may be added."""
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'table'"
        if is_sqlite
        else "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    )
    cursor = connection.cursor()
    there = {str(row[0]) for row in cursor.execute(query).fetchall()}
    cursor.close()
    ordered = [table.name for table in metadata.sorted_tables if table.name in there]
    return [*ordered, *(name for name in ("words",) if not is_sqlite), "transitions"]


def _memory_engine() -> Any:
    engine = sa.create_engine(
        "sqlite://",
        hide_parameters=True,
        poolclass=StaticPool,
        pool_reset_on_return=None,  # each transaction here ends by itself
        connect_args={"check_same_thread": False, "cached_statements": STATEMENTS},
    )
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "connect", lambda own, _: own.execute("PRAGMA secure_delete = OFF"))
    return engine


def _template(_kept: list[sqlite3.Connection] = []) -> sqlite3.Connection:  # noqa: B006
    """Return an empty ledger that writes its transitions down; migrations run once."""
    if not _kept:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/ledger.sqlite"
            Ledger.upgrade(url)
            ledger = Ledger.open(url)
            write_down(ledger)
            ledger.close()
            source = sqlite3.connect(f"{folder}/ledger.sqlite")
            _kept.append(sqlite3.connect(":memory:", check_same_thread=False))
            source.backup(_kept[0])
            source.close()
    return _kept[0]


class CommitWatch:
    """Tells whether something was committed since the last question."""

    def __init__(self, database: SimulatedDatabase) -> None:
        self._database = database
        self.seen = -1
        """How many commits there were at the last question."""

    def changed(self) -> bool:
        """Return whether there was a commit."""
        is_new, self.seen = self._database.commits != self.seen, self._database.commits
        return is_new

    def close(self) -> None:
        """Hold nothing."""


class SimulatedLedger(Ledger):
    """The ledger, whose watches count commits; one object is one process."""

    database: SimulatedDatabase

    def __init__(self, url: str, clock: Any, database: SimulatedDatabase) -> None:
        super().__init__(url, clock, database)
        # receptions that come together share a transaction, while one of them is held
        self.instances._received._turn = SharedTurn(database)  # type: ignore[assignment]

    def watch(self) -> Any:
        """Return a watch."""
        return CommitWatch(self.database)
