"""The connection under the ledger: transactions, durability, errors of the project, migrations."""

from __future__ import annotations

import itertools
import logging
import math
import os
import select
import sqlite3
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)
from enum import StrEnum
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection, Dialect, Engine

from dicom_node.base.addresses import hide_passwords
from dicom_node.base.errors import ChexFractError, ConfigurationError, OutOfResources, Unreachable
from dicom_node.store.bell import Bell, Bells
from dicom_node.store.schema import READABLE_BY, VERSIONS, know_postgresql, marks, readable_mark

logger = logging.getLogger(__name__)

Made = TypeVar("Made")

_BEGIN_WRITING = "BEGIN IMMEDIATE"

MAPPED = 2**30
"""Bytes of a SQLite ledger that are read by mapping; what lies behind is read as ever."""

BUSY_S = 30
"""Seconds that a statement waits for another process's write."""

LOG_PAGES = 16_000
"""Length of SQLite's log at which a commit copies it itself (64 MB), as nobody else has. By its own
rule a commit does so after 1,000 pages, and a reception waits for the disk meanwhile."""

_PAGE_BYTES = 4096

_LOG_WAIT_MS = 25
"""How long the end of the log is waited for; whoever writes may wait as long."""

_KNOCK_S = (0.0002, 0.002)
"""First and longest pause between two tries to write: SQLite's own grow to 100 ms, in which others
overtake, and a write holds its lock for less than a millisecond."""

_IDLE_S = 1.0
"""A connection to a server that was unused for so long may have been lost."""

POLL_S = 0.02
"""Seconds between two looks where nobody rings; a look costs microseconds."""

LISTEN_S = 0.5
"""Longest wait for a ring: a ring that was lost, or a version that did not ring, costs as much."""

_LOOKERS = 8
"""Connections for single questions that are kept."""

BELLS = "bells"
"""Folder beside the file of a ledger with the sockets of who waits for changes."""


class Database:
    """One ledger database, shared by the threads of a process and by several processes.

    Raises
    ------
    ConfigurationError
        The URL is not understood.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._engine = _create_engine(url)
        except (sa.exc.ArgumentError, ImportError) as exc:
            raise ConfigurationError(f"node.ledger: {_first_line(exc)}") from exc
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        file = self._engine.url.database
        is_file = self.is_sqlite and file and not file.startswith((":", "file:"))
        self.bells = Bells(Path(str(file)).with_name(BELLS)) if is_file else None
        self._disk = _Disk(Path(f"{file}-wal")) if is_file else None
        self.is_file = bool(is_file)
        # PostgreSQL's statements each see what is committed, within a transaction or without: there
        # BEGIN and ROLLBACK would be two messages more for each question.
        reads = {"ledger_reads": True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reads = self._engine.execution_options(**reads)
        self._relaxed = self._engine if self.is_sqlite else _create_engine(url, is_relaxed=True)
        self._looks: dict[Any, PreparedStatement] = {}
        self._made: dict[Any, Any] = {}
        self._inserts: dict[sa.Table, Any] = {}
        self._lookers: list[sqlite3.Connection] = []
        """Connections that `look` keeps between two questions; whoever takes one has it alone."""
        # SQLite has one writer at a time: waiting here is fair, its own lock is polled.
        self._turn: AbstractContextManager[Any] = (
            threading.Lock() if self.is_sqlite else nullcontext()
        )

    def check(self) -> None:
        """Raise `ConfigurationError` unless this software may use the schema."""
        # SQLite would make the file for `status` of another account, and serve could not write it.
        version = None if self._is_to_be_made() else self.revision()
        if self.may_use(version):
            return
        if version is None:
            raise ConfigurationError(
                f"{self.name}: no ledger here yet; `chexfract-node serve` makes it"
            )
        if version in VERSIONS:
            raise ConfigurationError(
                f"{self.name}: schema {version} is older than {VERSIONS[-1]}; "
                "restart `chexfract-node serve` to upgrade it"
            )
        raise self._newer_schema(version)

    def migrate(self) -> None:
        """Run the missing migrations in one transaction."""
        if self.is_sqlite and (file := self._engine.url.database):
            try:
                Path(file).parent.mkdir(parents=True, exist_ok=True)
            except OSError as exc:
                raise OutOfResources(f"{file}: cannot be made: {exc.strerror or exc}") from exc
        version = self.revision()
        if version == VERSIONS[-1]:
            return
        if version is not None and version not in VERSIONS:
            if not self.may_use(version):
                raise self._newer_schema(version)
            logger.warning(
                "ledger schema %s is newer than %s of this software, which may still use it",
                version,
                VERSIONS[-1],
            )
            return
        if version is None and self.is_sqlite:
            self._prepare_new()
        # Imported here: a node whose ledger is up to date starts without it.
        from alembic import command
        from alembic.config import Config

        logging.getLogger("alembic").setLevel(logging.WARNING)
        config = Config()
        config.set_main_option("script_location", "dicom_node.store:migrations")
        with self.writing() as connection:
            if not self.is_sqlite:  # of two nodes that start, the second finds it done
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('migrate'))"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            mark = {"name": readable_mark(VERSIONS[-1]), "value": int(READABLE_BY)}
            connection.execute(self.insert(marks).on_conflict_do_nothing(), mark)
        logger.info("ledger schema is now %s", VERSIONS[-1])

    def _prepare_new(self) -> None:
        """Let a new file give pages back later; that is chosen before its first table."""
        with closing(sqlite3.connect(str(self._engine.url.database))) as connection:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")

    def close(self) -> None:
        """Give the connections back."""
        while self._lookers:
            self._lookers.pop().close()
        self._engine.dispose()
        self._relaxed.dispose()

    @property
    def name(self) -> str:
        """The URL without its password; for messages."""
        return hide_passwords(self._engine.url.render_as_string(hide_password=True))

    @property
    def driver_errors(self) -> tuple[type[Exception], ...]:
        """What a connection raises beside SQLAlchemy's ways, as that of a `Watch`."""
        of_driver: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        return (of_driver, sqlite3.Error, sa.exc.SQLAlchemyError, OSError)

    @contextmanager
    def writing(self, *, durable: bool = True, in_a_row: bool = False) -> Iterator[Connection]:
        """One transaction that may write; all of it happens, or nothing.

        Parameters
        ----------
        durable : bool
            It is on the disk before this returns. What a power cut may undo, because it is done
            again or found out later, does without: a killed process loses neither.
        in_a_row : bool
            PostgreSQL gets the statements of `change` and `write` without a wait for each answer.

        Raises
        ------
        Unreachable
            The database gives no answer or stays locked.
        OutOfResources
            Its disk is full.
        """
        engine = self._engine if durable else self._relaxed
        begin = _begin_in_a_row if in_a_row and not self.is_sqlite else Engine.begin
        with self.translated(), self._turn, begin(engine) as connection:
            yield connection
        self._ring_bells()
        if durable:
            self.sync()

    @contextmanager
    def driving(self) -> Iterator[DriverTransaction]:
        """Like `writing`, by the driver itself: for what each received Instance waits for.

        SQLAlchemy's own execution takes several times as long as SQLite's; see `PreparedStatement`.
        """
        with (
            self.translated(),
            self._turn,
            self._driver_cursor() as (connection, cursor),
            ExitStack() as undo,
        ):
            # whatever ends this block before its commit undoes it, a signal's exception as well
            undo.callback(connection.rollback)
            if self.is_sqlite:
                _begin_writing(cursor)
                yield DriverTransaction(cursor)
                connection.commit()
            else:
                with _pipelined(connection.driver_connection):
                    yield DriverTransaction(cursor, connection.driver_connection)
            undo.pop_all()
        self._ring_bells()
        self.sync()

    @contextmanager
    def _driver_cursor(self) -> Iterator[tuple[Any, Any]]:
        """Give a connection of the driver and a cursor, which is closed before its connection.

        A cursor of sqlite3 that ends later resets its statement, which another thread may be
        running by then.
        """
        with (
            closing(self._engine.raw_connection()) as connection,
            closing(connection.cursor()) as cursor,
        ):
            yield connection, cursor

    def sync(self) -> None:
        """Return when all that is committed is on the disk; PostgreSQL's COMMIT does so itself.

        SQLite would sync while it holds the one write lock, so that a write of any process waited
        for each sync of all of them. After the commit one sync serves all who have written by then.
        """
        if self._disk is None:
            return
        try:
            self._disk.sync()
        except OSError as exc:
            raise OutOfResources(f"{self.name}: cannot be synced: {exc.strerror or exc}") from exc

    def _ring_bells(self) -> None:
        """Wake who waits for changes; PostgreSQL does so itself."""
        if self.bells is not None:
            self.bells.ring()

    def prepared(
        self, statement: Statement, columns: Collection[str] | None = None
    ) -> PreparedStatement:
        """Return an INSERT of these columns, or a statement, in the words of the driver."""
        return PreparedStatement(statement, columns, self._engine.dialect)

    def once(self, kind: Callable[[Database], Made]) -> Made:
        """Return what `kind` makes of this database; it is made once, however many ask."""
        if kind not in self._made:
            self._made[kind] = kind(self)
        made: Made = self._made[kind]
        return made

    def insert(self, table: sa.Table) -> Any:
        """Return an INSERT in this database's dialect, which knows ON CONFLICT."""
        if self.is_sqlite:
            return sqlite.insert(table)
        # Imported here: a ledger on SQLite does without it, and what it brings for three drivers.
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Questions that block no writer; with SQLite they all see one moment."""
        with self.translated(), self._reads.begin() as connection:
            yield connection

    def look(self, statement: sa.Select[Any] | sa.TextClause, **values: Any) -> list[Any]:
        """Return the rows of a query that is asked many times a second, as plain tuples.

        The driver executes it: SQLAlchemy's own execution takes several times as long as SQLite's.
        `statement` is built once, with ``bindparam`` for each of `values`.
        """
        query = self._looks.get(statement)
        if query is None:
            query = self._looks[statement] = PreparedStatement(statement, None, self.dialect)
        if self._disk is not None:
            with self.translated(), self._looker() as own:
                return list(own.execute(query.sql, query.row(values)).fetchall())
        with (
            self.translated(),
            self._driver_cursor() as (connection, cursor),
            nullcontext() if self.is_sqlite else _autocommit(connection.driver_connection),
        ):
            cursor.execute(query.sql, query.row(values))
            return list(cursor.fetchall())

    def look_named(self, statement: sa.Select[Any], **values: Any) -> list[Any]:
        """Return the rows of a query as `look` does, with the names of its columns."""
        rows = self.look(statement, **values)
        named = self._looks[statement].named
        return [named(row) for row in rows]

    def in_one(
        self, statement: Statement, values: Mapping[str, Any], *, durable: bool = True
    ) -> list[Any]:
        """Return the named rows of one statement that is a transaction of its own (PostgreSQL).

        Of a transition BEGIN, each statement and COMMIT are a message, and work of the driver that
        is more than the server's. What fits into one statement is a single message.

        Parameters
        ----------
        durable : bool
            See `writing`.
        """
        engine = self._engine if durable else self._relaxed
        query = self._looks.get(statement)
        if query is None:
            query = self._looks[statement] = PreparedStatement(statement, None, self.dialect)
        with (
            self.translated(),
            closing(engine.raw_connection()) as connection,
            closing(connection.cursor()) as cursor,
            _autocommit(connection.driver_connection),
        ):
            cursor.execute(query.sql, query.row(values))
            return [query.named(row) for row in cursor.fetchall()]

    def copy_log(self, *, begins_again: bool = False) -> CopiedLog:
        """Copy SQLite's log into its file, and sync both; nobody waits for it.

        What a view that is still open may need stays in the log alone.

        Parameters
        ----------
        begins_again : bool
            Keep writers waiting for a moment, so that the next of them writes at the log's
            beginning: where there is always one, it would never do so.

        Raises
        ------
        OutOfResources
            The disk is full or fails; the log has all that was committed, as before.
        """
        if self._disk is None:
            return CopiedLog(0, 0)
        mode, wait = ("RESTART", _LOG_WAIT_MS) if begins_again else ("PASSIVE", 0)
        with self.translated(), self._looker() as own:
            own.execute(f"PRAGMA busy_timeout = {wait}")
            _, pages, copied = own.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            own.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000}")
        return CopiedLog(max(0, pages), max(0, copied))

    def keep_index(self, statement: str, value: int) -> int:
        """Execute a statement of SQLite that changes how something is kept, and not what.

        Nobody is woken for it, and nothing is lost with it in a power cut. Return how many rows it
        has changed, those that the database keeps for itself among them.
        """
        with self.translated(), self._turn, self._looker() as own, closing(own.cursor()) as cursor:
            before = own.total_changes
            _begin_writing(cursor)
            try:
                cursor.execute(statement, (value,))
                own.commit()
            finally:
                if own.in_transaction:
                    own.rollback()
            return own.total_changes - before

    @contextmanager
    def _looker(self) -> Iterator[sqlite3.Connection]:
        """Give a connection to a SQLite file for one question outside of any transaction.

        To take one out of SQLAlchemy's pool and put it back costs several times the question.
        """
        try:
            own = self._lookers.pop()
        except IndexError:
            own = self._detached_driver()
        is_whole = False
        try:
            yield own
            is_whole = True
        finally:
            if is_whole and len(self._lookers) < _LOOKERS:
                self._lookers.append(own)
            else:
                own.close()

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """Give a connection of which each statement is a transaction of its own (PostgreSQL)."""
        with self.translated(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def detached(self) -> Any:
        """Return a connection of PostgreSQL's driver that stays out of the pool; close it."""
        # LISTEN and advisory locks live as long as their connection: the pool may not lend it out
        own = self._detached_driver()
        own.autocommit = True
        return own

    def _detached_driver(self) -> Any:
        """Return a connection of the driver that the pool has forgotten."""
        raw = self._engine.raw_connection()
        raw.detach()
        return raw.dbapi_connection

    @property
    def dialect(self) -> Any:
        """How this database's SQL is written."""
        return self._engine.dialect

    def insert_new(
        self, connection: Connection, table: sa.Table, values: Mapping[str, Any]
    ) -> bool:
        """Insert a row unless its key is taken; return whether it was inserted."""
        statement = self._inserts.get(table)
        if statement is None:
            # not by rowcount, which PostgreSQL's driver does not keep for an INSERT
            key = next(iter(table.primary_key.columns))
            statement = self.insert(table).on_conflict_do_nothing().returning(key)
            self._inserts[table] = statement
        query = _prepare(connection, statement, tuple(values))
        with closing(connection.connection.cursor()) as cursor:
            cursor.execute(query.sql, query.row(values))
            return cursor.fetchone() is not None

    def watch(self) -> Watch:
        """Return a cheap way to learn that somebody else has changed the ledger."""
        return Watch(self)

    def revision(self) -> str | None:
        """Return the version of the schema, None where there is no ledger yet."""
        with self.reading() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            found = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            return None if found is None else str(found)

    def may_use(self, version: str | None) -> bool:
        """Return whether this software may work on a ledger of a schema version.

        That is its own, or a newer one whose mark says that it has only added to it.
        """
        if version is None or version in VERSIONS:
            return version == VERSIONS[-1]
        wanted = sa.select(marks.c.value).where(marks.c.name == readable_mark(version))
        with self.reading() as connection:
            if not sa.inspect(connection).has_table(marks.name):
                return False
            oldest = connection.scalar(wanted)
        return oldest is not None and oldest <= int(VERSIONS[-1])

    def why_read_only(self) -> str:
        """Return why nothing can be written; empty where a transaction that writes can begin."""
        try:
            # A change of no row: it needs the right to write, and writes nothing.
            with self._turn, self._engine.begin() as connection:
                connection.execute(sa.text("UPDATE marks SET value = value WHERE 1 = 0"))
        except (sa.exc.DBAPIError, self._engine.dialect.loaded_dbapi.Error) as exc:
            cause = exc.orig if isinstance(exc, sa.exc.DBAPIError) else exc
            code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
            is_refused = code in _NOT_WRITABLE or getattr(cause, "sqlstate", "") == "25006"
            return _first_line(cause) if is_refused else ""
        file = self._engine.url.database
        if file and Path(file).exists() and os.statvfs(file).f_flag & os.ST_RDONLY:
            return "its file system is mounted read-only"
        return ""

    def _newer_schema(self, version: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self.name}: schema {version} was written by a newer version of this software; "
            "install that version again, or restore a backup of before"
        )

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise the project's errors for those of the driver."""
        try:
            yield
        except sa.exc.DBAPIError as exc:
            raise self._explain_error(exc.orig) from exc
        except self._engine.dialect.loaded_dbapi.Error as exc:
            raise self._explain_error(exc) from exc
        except sa.exc.TimeoutError as exc:
            raise Unreachable(f"{self.name}: no connection is free") from exc

    def _is_to_be_made(self) -> bool:
        """Tell whether the folder of a SQLite ledger has none yet, as before the first start."""
        file = Path(self._engine.url.database or "")
        try:
            return self._disk is not None and file.parent.is_dir() and not file.exists()
        except OSError:
            return False  # a folder that this account may not look into

    def _has_no_folder(self) -> bool:
        with suppress(OSError):
            return not Path(self._engine.url.database or "").parent.exists()
        return False

    def _explain_error(self, cause: BaseException | None) -> ChexFractError:
        """Return the project's error; statement and parameters stay out of its message."""
        what = f"{self.name}: {_first_line(cause)}"
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if (
            code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
            or "DiskFull" in type(cause).__name__
        ):
            return OutOfResources(what)
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return ConfigurationError(f"{what}; restore it from a backup")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return ConfigurationError(
                f"{what}; let the account of the node write the file and its folder"
            )
        if code == sqlite3.SQLITE_CANTOPEN and self._has_no_folder():
            # It may be a disk that is not mounted yet, so the configuration is not at fault.
            what = (
                f"{self.name}: its folder is not there; `chexfract-node serve` makes it, if "
                "node.data_dir is right from here"
            )
        elif code == sqlite3.SQLITE_CANTOPEN:
            what += "; is node.data_dir right from this folder, and may this account read it?"
        return Unreachable(what)


class CopiedLog(NamedTuple):
    """How long SQLite's log is, and how much of it stands in its file, in pages."""

    pages: int
    copied: int


_NOT_WRITABLE = (
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
)
"""Primary result codes of a file that cannot be written; a locked file is not among them."""


class _Disk:
    """Syncs the log of a SQLite ledger; one sync serves all threads that have written before it.

    Parameters
    ----------
    log : Path
        The write-ahead log. What is no longer in it was synced when it was copied to the database.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._turn = threading.Lock()
        self._written = itertools.count(1)
        self._asked = self._synced = 0

    def sync(self) -> None:
        """Return when everything is on the disk that was committed before this call."""
        # numbers only grow, and whoever asks has committed: a sync that begins later covers it
        number = self._asked = next(self._written)
        with self._turn:
            if self._synced >= number:
                return
            # before the sync: who asks after this line may have committed too late for it
            covered = self._asked
            # opened each time: SQLite makes another file when its last connection was closed
            with suppress(FileNotFoundError):
                descriptor = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    getattr(os, "fdatasync", os.fsync)(descriptor)
                finally:
                    os.close(descriptor)
            self._synced = max(self._synced, covered)


class PreparedStatement:
    """A statement that SQLAlchemy has put into words once, and the driver executes.

    Parameters
    ----------
    columns : collection of str, optional
        Those of an INSERT that names none itself.
    among : (str, int), optional
        The name of an expanding parameter, and how many values it has.
    """

    def __init__(
        self,
        statement: Statement,
        columns: Collection[str] | None,
        dialect: Dialect,
        among: tuple[str, int] | None = None,
    ) -> None:
        keys = None if columns is None else list(columns)
        compiled: Any = statement.compile(dialect=dialect, column_keys=keys)
        words: Any = compiled
        self.sql, params = str(compiled), compiled.params
        if among is not None:
            words = compiled.construct_expanded_state({among[0]: [""] * among[1]})
            self.sql, params = words.statement, words.parameters
        names: list[Any] = []
        if not isinstance(statement, sa.TextClause):
            names = list(statement.exported_columns.keys())
        self.named: Callable[[Any], Any] = _row_type(names) if names else tuple
        """Makes a row of what the driver returns, with the names of its columns."""
        # None where the driver takes names (psycopg), else what finds the values by place
        self._pick = None if words.positiontup is None else _picker(words.positiontup)
        self._fixed = {
            name: str(value) if isinstance(value, StrEnum) else value
            for name, value in params.items()
            if value is not None
        }

    def row(self, values: Mapping[str, Any]) -> Any:
        """Return `values` as the driver takes them, by place or by name."""
        whole = {**self._fixed, **values} if self._fixed else values
        return dict(whole) if self._pick is None else self._pick(whole)


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return what makes a tuple of the values with these names."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda whole: tuple(whole[name] for name in names)


def _row_type(names: Collection[str]) -> Callable[[Any], Any]:
    """Return what makes a row with these names of a tuple."""
    made: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # of a query, so not literal
    return cast("Callable[[Any], Any]", made._make)


Statement = sa.Insert | sa.Update | sa.Select[Any] | sa.TextClause

_prepared: WeakKeyDictionary[Dialect, dict[Any, PreparedStatement]] = WeakKeyDictionary()


def _prepare(
    connection: Connection,
    statement: Statement,
    columns: tuple[str, ...] | None = None,
    among: tuple[str, int] | None = None,
) -> PreparedStatement:
    known = _prepared.get(connection.dialect)
    if known is None:
        known = _prepared[connection.dialect] = {}
    key = (statement, columns, among)
    found = known.get(key)
    if found is None:
        found = known[key] = PreparedStatement(statement, columns, connection.dialect, among)
    return found


def fetch(
    connection: Connection,
    statement: sa.Select[Any] | sa.TextClause,
    values: Mapping[str, Any],
    *,
    each_its_plan: bool = False,
) -> list[Any]:
    """Return the named rows of a query that each image asks, in the transaction of a connection.

    The driver executes it, as in `Database.look`; `statement` is built once.

    Parameters
    ----------
    each_its_plan : bool
        Whether its plan hangs on the values: psycopg prepares what came often, and PostgreSQL
        plans that without them.
    """
    query = _prepare(connection, statement)
    if each_its_plan and connection.dialect.name == "postgresql":
        return _rows_of(connection, query, values, prepare=False)
    return _rows_of(connection, query, values)


def fetch_among(
    connection: Connection, statement: sa.Select[Any], name: str, among: Sequence[Any]
) -> list[Any]:
    """Return the named rows of a query about several values, as `fetch`; no row without a value.

    Parameters
    ----------
    statement : Select
        Built once, with ``bindparam(name, expanding=True)``.
    """
    if not among:
        return []
    # of few sizes, or each number of values would be another statement; the last stands in again
    size = 1 << (len(among) - 1).bit_length()
    padded = [*among, *[among[-1]] * (size - len(among))]
    query = _prepare(connection, statement, among=(name, size))
    values = {f"{name}_{number}": value for number, value in enumerate(padded, 1)}
    return _rows_of(connection, query, values)


def _rows_of(
    connection: Connection, query: PreparedStatement, values: Mapping[str, Any], **how: bool
) -> list[Any]:
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(query.sql, query.row(values), **how)
        return list(map(query.named, cursor.fetchall()))


def change(connection: Connection, statement: sa.Update, values: Mapping[str, Any]) -> int:
    """Execute an UPDATE that each image takes; return how many rows it has changed.

    As `fetch`: in the transaction of a connection, by the driver; `statement` is built once.
    """
    query = _prepare(connection, statement)
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(query.sql, query.row(values))
        if (pipeline := connection.info.get(_PIPELINE)) is not None:
            pipeline.sync()  # the count comes with the answer
        return int(cursor.rowcount)


def write(
    connection: Connection,
    statement: sa.Insert | sa.Update,
    rows: Sequence[Mapping[str, Any]],
    *,
    is_whole: bool = True,
) -> None:
    """Write what each image writes, for each of some rows; nobody asks how many it has changed.

    Parameters
    ----------
    statement : Insert or Update
        Built once; see `fetch`.
    is_whole : bool
        Whether it names its columns itself; else they are those of the rows.
    """
    columns = None if is_whole else tuple(rows[0])
    query = _prepare(connection, statement, columns)
    with closing(connection.connection.cursor()) as cursor:
        cursor.executemany(query.sql, [query.row(values) for values in rows])


class Watch:
    """Tells whether the ledger was changed since the last question.

    SQLite answers from shared memory in microseconds and does not count this process's writes by
    the watching connection, which makes none. PostgreSQL rings: its triggers notify whoever
    listens when a transaction is committed (LISTEN/NOTIFY), and a look costs a system call.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Any = None
        self._seen: int | None = None
        self._bell: Bell | None = None
        self._is_deaf = False

    def changed(self) -> bool:
        """Return whether anything was committed since the last call; True at first."""
        if not self._database.is_sqlite:
            return self._has_rung()
        try:
            if self._connection is None:
                file = self._database._engine.url.database
                self._connection = sqlite3.connect(
                    str(file), isolation_level=None, check_same_thread=False
                )
            seen = self._connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:
            self.close()
            return True
        changed = seen != self._seen
        self._seen = seen
        return bool(changed)

    def wait(self, seconds: float) -> None:
        """Return when there may be a change, at the latest after so many seconds."""
        if not self._database.is_sqlite:
            if self._connection is None:
                time.sleep(min(seconds, POLL_S))
                return
            descriptor = self._connection.fileno()
            with suppress(OSError, ValueError):
                select.select([descriptor], [], [], min(seconds, LISTEN_S))
            return
        if self._bell is None and not self._is_deaf and self._database.bells is not None:
            self._bell = self._database.bells.listen()
            self._is_deaf = self._bell is None
            return  # what was written before there was a bell is looked at first
        if self._bell is None:
            time.sleep(min(seconds, POLL_S))
        else:
            self._bell.wait(min(seconds, LISTEN_S))

    def _has_rung(self) -> bool:
        """Return whether PostgreSQL has notified since the last call; True without an answer."""
        try:
            if self._connection is None:
                self._connection = self._database.detached()
                self._connection.execute("LISTEN ledger")
                return True
            return bool(list(self._connection.notifies(timeout=0)))
        except self._database.driver_errors:
            self.close()
            return True

    def close(self) -> None:
        """Give the watching connection back, and listen no longer."""
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        connection, self._connection, self._seen = self._connection, None, None
        if connection is not None:
            with suppress(*self._database.driver_errors):
                connection.close()


class DriverTransaction:
    """Runs prepared statements; PostgreSQL gets them in a row and is waited for where one answers.

    Parameters
    ----------
    cursor
        The driver's.
    connection
        Of psycopg in a pipeline, where a cursor has one answer only.
    """

    def __init__(self, cursor: Any, connection: Any = None) -> None:
        self._cursor = cursor
        self._connection = connection

    def run(self, statement: PreparedStatement, *rows: Mapping[str, Any]) -> None:
        """Execute a statement for each row of parameters."""
        if len(rows) == 1:
            self._cursor.execute(statement.sql, statement.row(rows[0]))
        else:
            self._cursor.executemany(statement.sql, [statement.row(row) for row in rows])

    def first(
        self, statement: PreparedStatement, values: Mapping[str, Any]
    ) -> tuple[object, ...] | None:
        """Return the first row of the answer as a plain tuple; None without any."""
        row: tuple[object, ...] | None
        if self._connection is None:
            self._cursor.execute(statement.sql, statement.row(values))
            row = self._cursor.fetchone()
            return row
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(statement.sql, statement.row(values))
            row = cursor.fetchone()
            return row

    def number(self, statement: PreparedStatement, values: Mapping[str, Any]) -> int:
        """Return the whole number that the answer consists of."""
        row = self.first(statement, values)
        if row is None or not isinstance(row[0], int):
            raise ChexFractError(f"the ledger gave no number: {statement.sql.split(maxsplit=1)[0]}")
        return row[0]


@contextmanager
def _pipelined(driver: Any) -> Iterator[Any]:
    """One transaction of psycopg whose statements wait for no answer that nobody looks at.

    Its own BEGIN would wait for one.
    """
    with _autocommit(driver):
        try:
            with driver.pipeline() as pipeline:
                driver.execute("BEGIN")
                yield pipeline
                driver.execute("COMMIT")
        finally:
            driver.rollback()  # nothing, unless something went wrong


_PIPELINE = "pipeline"
"""Where a connection has its pipeline, while it has one."""


@contextmanager
def _begin_in_a_row(engine: Engine) -> Iterator[Connection]:
    """One transaction in a pipeline; what SQLAlchemy itself executes is waited for."""
    with (
        engine.connect() as connection,
        _pipelined(connection.connection.driver_connection) as pipeline,
    ):
        connection.info[_PIPELINE] = pipeline
        try:
            yield connection
        finally:
            connection.info.pop(_PIPELINE, None)


@contextmanager
def _autocommit(driver: Any) -> Iterator[None]:
    """Let psycopg begin no transaction for a question."""
    driver.autocommit = True
    try:
        yield
    finally:
        if not driver.closed:  # or the next who gets this connection would have no transaction
            driver.autocommit = False


def _create_engine(url: str, *, is_relaxed: bool = False) -> Engine:
    """Return a pool of connections; a relaxed one's commits return before they are on the disk."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(
            parsed,
            hide_parameters=True,
            pool_size=8,
            # the one that was used last is used next: each that is used keeps its own statements
            pool_use_lifo=True,
            max_overflow=120,
            connect_args={"timeout": BUSY_S, "check_same_thread": False},
        )
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() == "postgresql":
        know_postgresql()
    options: dict[str, Any] = {"connect_timeout": 5}
    if is_relaxed:
        asked = parsed.query.get("options", "")
        asked = asked if isinstance(asked, str) else " ".join(asked)
        options["options"] = f"{asked} -c synchronous_commit=off".strip()
    engine = sa.create_engine(
        parsed,
        hide_parameters=True,
        pool_size=8,
        max_overflow=32,
        connect_args=options if parsed.get_backend_name() == "postgresql" else {},
    )
    _ping_what_was_idle(engine)
    sa.event.listen(engine, "do_execute", _execute)
    return engine


def _execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
    """Execute a statement of SQLAlchemy's where psycopg is to do it otherwise; True: it is done."""
    if cursor.connection.pgconn.pipeline_status:
        with cursor.connection.pipeline():  # SQLAlchemy looks at the answer at once
            cursor.execute(statement, parameters)
        return True
    return None


def _ping_what_was_idle(engine: Engine) -> None:
    """Ask whether a connection still stands before its use, where there is reason to.

    It was idle for a while, or the server has said something unasked: that it ends. To ask each
    time would be a round trip more for every transaction.
    """

    def note(_: object, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    def ask(connection: Any, record: Any, _: object) -> None:
        news = select.poll()
        news.register(connection.fileno(), select.POLLIN)
        is_recent = time.monotonic() - record.info.get("used_at", math.inf) < _IDLE_S
        if is_recent and not news.poll(0):
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as exc:
            raise sa.exc.DisconnectionError from exc

    sa.event.listen(engine, "checkin", note)
    sa.event.listen(engine, "checkout", ask)


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # _begin_sqlite begins: the driver's own way cannot be
    cursor = connection.cursor()  # asked for the write lock first
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000}")
    mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    # A log is synced by `_Disk` after the commit and by SQLite before it is copied.
    cursor.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")
    # `Upkeep` copies the log in time, without anybody waiting; a commit does it only where that has
    # ended. What a long view has made the log longer by is given back to the disk.
    cursor.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    cursor.execute(f"PRAGMA journal_size_limit = {LOG_PAGES * _PAGE_BYTES}")
    cursor.execute("PRAGMA foreign_keys = ON")
    # Read through the page cache of the system, which all processes share; without it each
    # connection copies what it reads into a cache of its own of 2 MB.
    cursor.execute(f"PRAGMA mmap_size = {MAPPED}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once when another process wrote in
    # between (SQLITE_BUSY_SNAPSHOT); when it takes the write lock first, it waits for it instead.
    cursor = cast("Any", connection.connection).cursor()
    if connection.get_execution_options().get("ledger_reads", False):
        cursor.execute("BEGIN")
    else:
        _begin_writing(cursor)
    cursor.close()


def _begin_writing(cursor: Any) -> None:
    """Begin a transaction of SQLite with its write lock, waiting for that of other processes."""
    ends, pause = time.monotonic() + BUSY_S, _KNOCK_S[0]
    cursor.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                cursor.execute(_BEGIN_WRITING)
            except sqlite3.OperationalError as exc:
                # the low byte is the primary code: SQLITE_BUSY has variants
                if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= ends:
                    raise
            else:
                return
            time.sleep(pause)
            pause = min(1.5 * pause, _KNOCK_S[1])
    finally:
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_S * 1000}")


def _first_line(exc: BaseException | None) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
