"""Keeps a SQLite ledger quick while it is written to: its log is copied, its words are merged."""

from __future__ import annotations

import time

import sqlalchemy as sa

from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.schema import instances, marks

LOOK_S = 600.0
"""Seconds between two looks at a ledger that nobody writes to."""

TURN_S = 1.0
"""Seconds between two turns while it is written to."""

_MOST_PAGES = 4000
"""Length of the log (16 MB) from which it is to begin again: each reader looks through it."""

_TRIES = 5

_FEW_PAGES = 500
"""What may be left to copy while writers wait, from twice that length on: 5 ms."""

_PORTION = 16
"""Pages of the full text index that one transaction writes: 2 ms."""

_PORTIONS = 10
"""Portions of a turn."""

_PAUSE_S = 0.01
"""Pause between two portions: whoever waits to write looks for its turn every 2 ms."""

MERGED = "merged words"
"""The mark with the last number whose words were merged with all before it."""

LEAST_NEW, NEW_SHARE = 1000, 50
"""All words are merged when so many are new, and the 50th part of all. The longest list of the
index is written in one piece then: 25 ms where 1,000,000 Instances have one word."""

_AUTOMERGE = sa.text("SELECT v FROM words_config WHERE k = 'automerge'")
_SET_AUTOMERGE = "INSERT INTO words (words, rank) VALUES ('automerge', ?)"
_MERGE = "INSERT INTO words (words, rank) VALUES ('merge', ?)"
_LAST = sa.select(sa.func.coalesce(sa.func.max(instances.c.number), 0))
_LAST_MERGED = sa.select(marks.c.value).where(marks.c.name == MERGED)


class Upkeep:
    """What has to be done again and again for a SQLite ledger, aside from all other work.

    SQLite does both by itself, in the transaction of whoever comes at the time. Its log is copied
    by the commit that makes it 1,000 pages long, which waits for the disk. The full text index gets
    a part of its own in each transaction, and every 64th merges such parts: 30 to 75 ms for one
    reception in a ledger of 1,000,000 Instances. And a search looks into each part.

    PostgreSQL does this by processes of its own.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._is_ours = False
        self._look_at = 0.0

    def step(self) -> float:
        """Merge some words and copy the log; return in how many seconds there may be more.

        Raises
        ------
        Unreachable, OutOfResources
            The ledger or its disk gives no answer; nothing is lost, the next step goes on.
        """
        if not self._database.is_file:
            return LOOK_S
        try:
            has_more = self.merge_words()
        finally:
            # On a full disk as well: a log that begins again takes no more room, and goes on.
            self.copy_log()
        return TURN_S if has_more else LOOK_S

    def copy_log(self) -> None:
        """Copy the log into the file, and let it begin again when it has become long."""
        log = self._database.copy_log()
        for _ in range(_TRIES):
            if log.pages <= _MOST_PAGES or log.copied == log.pages:
                return
            # Who has written during the copy keeps the log from beginning again. The next copy is
            # shorter, and mostly nobody writes during that.
            log = self._database.copy_log()
        if log.pages > 2 * _MOST_PAGES and log.pages - log.copied <= _FEW_PAGES:
            # else an old view is open, which keeps what is in the log
            self._database.copy_log(begins_again=True)

    def merge_words(self) -> bool:
        """Merge parts of the full text index for a moment; return whether there is more to do.

        FTS5 merges four parts of a size into one. When enough Instances are new, all parts are
        merged into one: a list that is read from its end costs a walk in each.
        """
        self._take_over()
        if self._clock.monotonic() >= self._look_at:
            self._look_at = self._clock.monotonic() + LOOK_S
            self.begin_whole()
        for n in range(_PORTIONS):
            if n:
                time.sleep(_PAUSE_S)
            # FTS5 counts the row of the command itself
            if self._database.keep_index(_MERGE, _PORTION) < 2:
                return False
        return True

    def _take_over(self) -> None:
        """Let no transaction merge words by itself; one that finds 16 of a size does so still."""
        if not self._is_ours:
            found = self._database.look(_AUTOMERGE)
            if not found or found[0][0] != 0:
                self._database.keep_index(_SET_AUTOMERGE, 0)
            self._is_ours = True

    def begin_whole(self) -> bool:
        """Begin to merge all parts into one, where enough is new; `merge_words` goes on with it.

        Return whether it has begun.
        """
        last = self._database.look(_LAST)[0][0]
        merged = next((row[0] for row in self._database.look(_LAST_MERGED)), 0)
        if last - merged <= max(LEAST_NEW, last // NEW_SHARE):
            return False
        with self._database.writing(durable=False) as connection:
            self._database.insert_new(connection, marks, {"name": MERGED, "value": 0})
            connection.execute(marks.update().where(marks.c.name == MERGED).values(value=last))
            # a negative number begins with all parts, whatever their sizes
            connection.exec_driver_sql(_MERGE, (-_PORTION,))
        return True
