"""What an upgrade of a large ledger leaves to be done while the node runs: indexes, counts, words.

The schema itself changes at the start, in a moment. Everything here is found out from the database
whenever it is asked for, so that it goes on where it stopped, whatever stopped it. Each piece is
one transaction: a kill undoes it, and it is done again.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.search import OLD_WORDS, add_words, old_words_left, searched_text
from dicom_node.store.schema import SUPERSEDED, instances, marks, metadata

SMALL = 2000
"""Instances up to which all is done at the start: it takes less than a second."""

WORDS_AT_ONCE = 300
"""Instances whose words move in one transaction: about 20 ms."""

_URGENT = ("ix_instances_number", "ix_instances_unnumbered")
"""Reception takes its next number from the first, filling finds its rows by the second."""

_BEFORE_COUNTS = "ix_instances_ignored"


class Upgrading:
    """Builds what is missing, piece by piece."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def at_start(self) -> None:
        """Do what cannot wait, and all of it in a small ledger."""
        is_small = self._is_small()
        for name in self._missing():
            if is_small or name in _URGENT:
                self._build(name)
        if is_small:
            while self.step():
                continue

    def step(self) -> str:
        """Do the next piece and return what it was; empty when nothing is left.

        Raises
        ------
        Unreachable, OutOfResources
            The ledger gives no answer; the next call goes on.
        """
        missing = self._missing()
        urgent = [name for name in missing if name in (*_URGENT, _BEFORE_COUNTS)]
        if urgent:
            return self._build(urgent[0], len(missing))
        if self._marked("uncounted"):
            self._count()
            return "counts"
        if missing:
            return self._build(missing[0], len(missing))
        if self._marked(OLD_WORDS) is not None:
            return self._move_words()
        if surplus := self._surplus():
            with self._database.writing() as connection:
                connection.execute(sa.text(f'DROP INDEX IF EXISTS "{surplus[0]}"'))
            return f"index {surplus[0]} is dropped, {len(surplus) - 1} to go"
        return ""

    def _is_small(self) -> bool:
        some = sa.select(sa.literal(1)).select_from(instances).limit(SMALL + 1).subquery()
        with self._database.reading() as connection:
            return (
                int(connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0) <= SMALL
            )

    def _marked(self, name: str) -> int | None:
        with self._database.reading() as connection:
            found = connection.scalar(sa.select(marks.c.value).where(marks.c.name == name))
        return None if found is None else int(found)

    def _indexes(self) -> dict[str, bool]:
        """Return the indexes that there are, and whether each can be used."""
        query = _INDEXES if self._database.is_sqlite else _INDEXES_POSTGRESQL
        with self._database.reading() as connection:
            return {str(name): bool(is_valid) for name, is_valid in connection.execute(query)}

    def _missing(self) -> list[str]:
        there = self._indexes()
        wanted = [str(one.name) for table in metadata.sorted_tables for one in _of(table)]
        return [name for name in wanted if not there.get(name)]

    def _surplus(self) -> list[str]:
        there = self._indexes()
        return [name for name in SUPERSEDED if name in there]

    def _build(self, name: str, left: int = 1) -> str:
        index = next(
            one for table in metadata.sorted_tables for one in _of(table) if one.name == name
        )
        make = str(sa.schema.CreateIndex(index).compile(dialect=self._database.dialect))
        done = f"index {name} is built, {left - 1} to go"
        if self._database.is_sqlite:
            with self._database.writing() as connection:
                connection.execute(sa.text(make))
            return done
        # Nobody waits for it here; one that a kill left half built cannot be used and is replaced.
        make = make.replace("INDEX", "INDEX CONCURRENTLY", 1)
        with self._database.alone() as connection:
            if connection.scalar(sa.text("SELECT pg_try_advisory_lock(hashtext('upgrading'))")):
                try:
                    connection.execute(sa.text(f'DROP INDEX CONCURRENTLY IF EXISTS "{name}"'))
                    connection.execute(sa.text(make))
                finally:  # the connection goes back to its pool, and would keep the lock
                    connection.execute(sa.text("SELECT pg_advisory_unlock(hashtext('upgrading'))"))
                return done
        return ""

    def _count(self) -> None:
        """Count what stands in the ledger; from now on triggers do."""
        with self._database.writing() as connection:
            if not self._database.is_sqlite:
                names = "instances, jobs, deliveries, conflicts"
                connection.execute(sa.text(f"LOCK TABLE {names} IN SHARE MODE"))
            for statement in _COUNTS.strip().split(";\n"):
                connection.execute(sa.text(statement))

    def _move_words(self) -> str:
        with self._database.writing() as connection:
            last = old_words_left(connection)
            if not last:
                connection.execute(sa.text("DROP TABLE IF EXISTS old_words"))
                connection.execute(marks.delete().where(marks.c.name == OLD_WORDS))
                return "the index of words is complete"
            first = max(0, last - WORDS_AT_ONCE)
            self._add_words(connection, first, last)
            connection.execute(marks.update().where(marks.c.name == OLD_WORDS).values(value=first))
        return f"words of Instances up to {first} are left"

    def _add_words(self, connection: Connection, first: int, last: int) -> None:
        number = instances.c.number
        facts = (instances.c.patient_name, instances.c.patient_id, instances.c.accession_number)
        rows = connection.execute(
            sa.select(number, *facts).where(number > first, number <= last)
        ).all()
        texts = [(row.number, searched_text(*row[1:])) for row in rows]
        add_words(connection, texts, self._database.is_sqlite)


def _of(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda one: str(one.name))


_INDEXES = sa.text("SELECT name, 1 FROM sqlite_master WHERE type = 'index'")
_INDEXES_POSTGRESQL = sa.text(
    "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
    "WHERE c.relnamespace = current_schema()::regnamespace"
)

_COUNTS = """
DELETE FROM totals WHERE what IN ('instances', 'jobs', 'deliveries', 'conflicts');
INSERT INTO totals (what, name, state, shard, n)
SELECT 'instances', '', 'ignored', 0, count(*) FROM instances WHERE state = 'ignored';
INSERT INTO totals (what, name, state, shard, n)
SELECT 'instances', '', 'routed', 0, count(*) - (SELECT n FROM totals WHERE what = 'instances')
FROM instances;
INSERT INTO totals (what, name, state, shard, n)
SELECT 'jobs', model, state, 0, count(*) FROM jobs GROUP BY model, state;
INSERT INTO totals (what, name, state, shard, n)
SELECT 'deliveries', destination, state, 0, count(*) FROM deliveries GROUP BY destination, state;
INSERT INTO totals (what, name, state, shard, n)
SELECT 'conflicts', '', '', 0, count(*) FROM conflicts;
UPDATE marks SET value = 0 WHERE name = 'uncounted'
"""
