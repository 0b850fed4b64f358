"""What follows when the schema of a large ledger has changed: indexes, counts, words, makers.

Everything here is found out from the database whenever it is asked for, so that it goes on where it
stopped, whatever stopped it. Each piece is one transaction: a kill undoes it, and it is done again.
What would keep the ledger from reception for longer than a moment is done before there is any: the
indexes of SQLite at the start. Those of PostgreSQL hold up nobody and follow while the node runs,
as the words of both and the makers of old results do.
"""

from __future__ import annotations

import logging

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.base.errors import Unreachable
from dicom_node.base.plurals import counted
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.makers import name_makers
from dicom_node.store.ledger.search import (
    OLD_WORDS,
    add_words,
    old_words_left,
    searched_text,
    sort_name,
)
from dicom_node.store.ledger.states import FINDINGS, NO_FINDING
from dicom_node.store.schema import (
    IS_UNFOUND,
    IS_UNSORTED,
    SUPERSEDED,
    SUPERSEDED_CONSTRAINTS,
    SUPERSEDED_POSTGRESQL,
    VERSIONS,
    instances,
    is_index_of,
    jobs,
    marks,
    metadata,
    totals,
)

logger = logging.getLogger(__name__)

SMALL = 2000
"""Instances up to which all is done at the start: it takes less than a second."""

SORTED_AT_ONCE = 500
"""Rows that get what they are sorted by in one transaction."""

WORDS_AT_ONCE = 300
"""Instances whose words move in one transaction, or whose results get their makers: about 20 ms."""

DROP_WAIT_MS = 50
"""Milliseconds for which the drop of an index waits for those who use its table (PostgreSQL)."""

_LOCK_TIMEOUT = "55P03"
"""The code of PostgreSQL's error when that was too short."""

_URGENT = ("ix_instances_number", "ix_instances_unnumbered")
"""Reception takes its next number from the first, filling finds its rows by the second."""

_UNNAMED = "unnamed makers"
"""The mark with the last number up to which results may have no maker; 0 where all have."""

_BEFORE_COUNTS = "ix_instances_ignored"

_STAND_IN = {"ix_events_uid": "ix_events_sop_instance_uid_id"}
"""Indexes that an index of an earlier schema stands for: it finds the same rows, and to build the
new one takes 7 s of processor time per million Instances."""


class Upgrading:
    """Builds what is missing, piece by piece."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def at_start(self) -> None:
        """Do what cannot wait, and all of it in a small ledger."""
        if self._is_newer():
            return
        if self._is_small():
            while self.step():
                continue
        elif self._database.is_sqlite:
            while piece := self._do_whole_table():
                logger.info("ledger: %s", piece)
        else:
            for name in self._missing_indexes():
                if name in _URGENT:
                    self._build_index(name)

    def step(self) -> str:
        """Do the next piece and return what it was; empty when nothing is left.

        Raises
        ------
        Unreachable, OutOfResources
            The ledger gives no answer; the next call goes on.
        """
        if self._is_newer():
            return ""
        if piece := self._do_whole_table():
            return piece
        if self._read_mark(OLD_WORDS) is not None:
            return self._move_words()
        if self._read_mark(_UNNAMED) != 0 and (piece := self._name_makers()):
            return piece
        return self._sort_names() or self._sort_findings()

    def _is_newer(self) -> bool:
        """Whether newer software changed the schema: which indexes that needs is not known here."""
        return self._database.revision() not in VERSIONS

    def _do_whole_table(self) -> str:
        """Do the next piece that looks at a whole table; empty when none is left."""
        missing = self._missing_indexes()
        urgent = [name for name in missing if name in (*_URGENT, _BEFORE_COUNTS)]
        if urgent:
            return self._build_index(urgent[0], len(missing))
        if self._read_mark("uncounted"):
            self._count_rows()
            return "counts"
        if missing:
            return self._build_index(missing[0], len(missing))
        if surplus := self._surplus_indexes():
            return self._drop_index(surplus[0], len(surplus) - 1)
        return ""

    def _drop_index(self, name: str, left: int) -> str:
        """Drop an index; empty where that has to wait, as for a dump that reads its table."""
        table = SUPERSEDED_CONSTRAINTS.get(name)
        drop = f"ALTER TABLE {table} DROP CONSTRAINT" if table else "DROP INDEX"
        try:
            with self._database.writing() as connection:
                if not self._database.is_sqlite:  # whoever comes later waits behind this
                    connection.execute(sa.text(f"SET LOCAL lock_timeout = {DROP_WAIT_MS}"))
                connection.execute(sa.text(f'{drop} IF EXISTS "{name}"'))
        except Unreachable as exc:
            if getattr(getattr(exc.__cause__, "orig", None), "sqlstate", "") != _LOCK_TIMEOUT:
                raise
            return ""
        return f"index {name} is dropped, {left} to go"

    def _is_small(self) -> bool:
        some = sa.select(sa.literal(1)).select_from(instances).limit(SMALL + 1).subquery()
        with self._database.reading() as connection:
            return (
                int(connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0) <= SMALL
            )

    def _read_mark(self, name: str) -> int | None:
        with self._database.reading() as connection:
            found = connection.scalar(sa.select(marks.c.value).where(marks.c.name == name))
        return None if found is None else int(found)

    def _present_indexes(self) -> dict[str, bool]:
        """Return the indexes that there are, and whether each can be used."""
        query = _INDEXES if self._database.is_sqlite else _INDEXES_POSTGRESQL
        with self._database.reading() as connection:
            return {str(name): bool(is_valid) for name, is_valid in connection.execute(query)}

    def _missing_indexes(self) -> list[str]:
        there = self._present_indexes()
        dialect = self._database.dialect.name
        wanted = [
            str(index.name)
            for table in metadata.sorted_tables
            for index in _indexes_of(table)
            if is_index_of(index, dialect)
        ]
        missing = [name for name in wanted if not there.get(name)]
        served = {name for name in missing if there.get(_STAND_IN.get(name, ""))}
        return missing if served and self._is_small() else [n for n in missing if n not in served]

    def _surplus_indexes(self) -> list[str]:
        there = self._present_indexes()
        needed = {old for new, old in _STAND_IN.items() if not there.get(new)}
        names: tuple[str, ...] = SUPERSEDED
        if not self._database.is_sqlite:
            names += (*SUPERSEDED_POSTGRESQL, *SUPERSEDED_CONSTRAINTS)
        return [name for name in names if name in there and name not in needed]

    def _build_index(self, name: str, left: int = 1) -> str:
        index = next(
            index
            for table in metadata.sorted_tables
            for index in _indexes_of(table)
            if index.name == name
        )
        make = str(sa.schema.CreateIndex(index).compile(dialect=self._database.dialect))
        done = f"index {name} is built, {left - 1} to go"
        if self._database.is_sqlite:
            with self._database.writing() as connection:
                connection.execute(sa.text(make))
            return done
        # Nobody waits for it here; what a kill left half built cannot be used and is replaced.
        make = make.replace("INDEX", "INDEX CONCURRENTLY", 1)
        with self._database.alone() as connection:
            # of several nodes one builds; a lock of the session, as CONCURRENTLY allows no
            # transaction
            if connection.scalar(sa.text("SELECT pg_try_advisory_lock(hashtext('upgrading'))")):
                try:
                    connection.execute(sa.text(f'DROP INDEX CONCURRENTLY IF EXISTS "{name}"'))
                    connection.execute(sa.text(make))
                finally:  # the connection goes back to its pool, and would keep the lock
                    connection.execute(sa.text("SELECT pg_advisory_unlock(hashtext('upgrading'))"))
                return done
        return ""

    def _count_rows(self) -> None:
        """Count what was there before the triggers, which have counted every change since.

        At any moment that is what stands in the tables less what the triggers have counted, so
        nobody has to wait while this counts.
        """
        with self._database.reading() as connection:
            before = connection.execute(_COUNTS).all()
        rows = [{**row._mapping, "shard": _BEFORE} for row in before]
        is_uncounted = (marks.c.name == "uncounted") & (marks.c.value == 1)
        with self._database.writing() as connection:
            # another node on this ledger may have been faster
            if connection.execute(marks.update().where(is_uncounted).values(value=0)).rowcount:
                connection.execute(totals.delete().where(totals.c.shard == _BEFORE))
                if rows:
                    connection.execute(totals.insert(), rows)

    def _move_words(self) -> str:
        with self._database.writing() as connection:
            last = old_words_left(connection)
            if not last:
                connection.execute(sa.text("DROP TABLE IF EXISTS old_words"))
                connection.execute(marks.delete().where(marks.c.name == OLD_WORDS))
                return "the index of words is complete"
            # from the newest down: what people look for is found first
            first = max(0, last - WORDS_AT_ONCE)
            self._add_words(connection, first, last)
            connection.execute(marks.update().where(marks.c.name == OLD_WORDS).values(value=first))
        return f"words of Instances up to {first} are left"

    def _name_makers(self) -> str:
        """Let results of before 0006 count for who made them; those of `filling` are not here."""
        left = self._read_mark(_UNNAMED)
        with self._database.writing() as connection:
            if left is None:
                newest = sa.select(sa.func.max(instances.c.number))
                last = connection.scalar(newest.where(instances.c.number.is_not(None)))
                left = int(last or 0)
                row = {"name": _UNNAMED, "value": left}
                if not self._database.insert_new(connection, marks, row) or not left:
                    return ""
            first = max(0, left - WORDS_AT_ONCE)
            ours = (marks.c.name == _UNNAMED) & (marks.c.value == left)
            # another node on this ledger may have been faster
            if connection.execute(marks.update().where(ours).values(value=first)).rowcount:
                among = (instances.c.number > first) & (instances.c.number <= left)
                name_makers(self._database, connection, among)
        return f"makers of results of Instances up to {first} are left"

    def _sort_names(self) -> str:
        """Give some rows of older versions what their patients are sorted by."""
        key, name = instances.c.sop_instance_uid, instances.c.patient_name
        query = sa.select(key, name).where(IS_UNSORTED).limit(SORTED_AT_ONCE)
        with self._database.writing() as connection:
            rows = connection.execute(query).all()
            if rows:
                statement = (
                    instances.update()
                    .where(key == sa.bindparam("uid"), instances.c.sort_name == "")
                    .values(sort_name=sa.bindparam("new"))
                )
                connection.execute(
                    statement,
                    [
                        {"uid": row.sop_instance_uid, "new": sort_name(row.patient_name)}
                        for row in rows
                    ],
                )
        return f"names of {counted(len(rows), 'more Instance')} can be sorted" if rows else ""

    def _sort_findings(self) -> str:
        """Give some results of older versions the letter that they are sorted by."""
        some = sa.select(jobs.c.id).where(IS_UNFOUND).limit(SORTED_AT_ONCE)
        # What Pydantic writes has no blanks, and quotes within texts are escaped.
        letter = sa.case(
            *(
                (jobs.c.result.like(f'%"presence":"{word}"%'), sign)
                for word, sign in FINDINGS.items()
            ),
            else_=NO_FINDING,
        )
        with self._database.writing() as connection:
            done = connection.execute(
                jobs.update()
                .where(jobs.c.id.in_(some), jobs.c.finding.is_(None))
                .values(finding=letter)
            ).rowcount
        return f"findings of {counted(done, 'more result')} can be sorted" if done else ""

    def _add_words(self, connection: Connection, first: int, last: int) -> None:
        number = instances.c.number
        facts = (instances.c.patient_name, instances.c.patient_id, instances.c.accession_number)
        rows = connection.execute(
            sa.select(number, *facts).where(number > first, number <= last)
        ).all()
        texts = [(row.number, searched_text(*row[1:])) for row in rows]
        add_words(connection, texts, self._database.is_sqlite)


def _indexes_of(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


_INDEXES = sa.text("SELECT name, 1 FROM sqlite_master WHERE type = 'index'")
_INDEXES_POSTGRESQL = sa.text(
    "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    "WHERE c.relnamespace = current_schema()::regnamespace"
)

_BEFORE = -1
"""The shard of what was there before the triggers; theirs are 0, and numbers of processes."""

_COUNTS = sa.text("""
SELECT what, name, state, sum(n) AS n FROM (
    SELECT 'instances' AS what, '' AS name, 'ignored' AS state, count(*) AS n
    FROM instances WHERE state = 'ignored'
    UNION ALL SELECT 'instances', '', 'routed',
    count(*) - (SELECT count(*) FROM instances WHERE state = 'ignored') FROM instances
    UNION ALL SELECT 'jobs', model, state, count(*) FROM jobs GROUP BY model, state
    UNION ALL SELECT 'deliveries', destination, state, count(*) FROM deliveries
    GROUP BY destination, state
    UNION ALL SELECT 'conflicts', '', '', count(*) FROM conflicts
    UNION ALL SELECT what, name, state, -n FROM totals
    WHERE what IN ('instances', 'jobs', 'deliveries', 'conflicts') AND shard <> -1
) counted GROUP BY what, name, state HAVING sum(n) <> 0
""")
"""All in one statement: one moment."""
