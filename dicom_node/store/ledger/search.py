"""Searching as people search: words in any order, their beginnings, whatever the case or accent."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Generator, Iterable, Iterator
from functools import cache

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.standard.names import folded, spaced
from dicom_node.store.ledger.database import fetch
from dicom_node.store.schema import marks

MOST_WORDS = 12
"""Words of a search that are looked for; people type two."""

MOST_TEXT = 1000
"""Characters of a name, an id and an accession number that are indexed; people have fewer."""

_LONGEST = 64
"""Characters of a word that are indexed and compared."""

_APOSTROPHES = re.compile(r"(?<=\w)['’ʼ`´‘](?=\w)")


def words_of(text: str) -> list[str]:
    """Return the folded words of `text`, each once, in order; an apostrophe parts no word."""
    return list(dict.fromkeys(_search_parts(_APOSTROPHES.sub("", text))))


def searched_text(patient_name: str, patient_id: str, accession_number: str) -> str:
    """Return the words by which an Instance is found, a blank between each two.

    Both forms of a name with an apostrophe: ``O'Brien`` is found by obrien and by brien.
    """
    text = f"{patient_name[:MOST_TEXT]} {patient_id[:MOST_TEXT]} {accession_number[:MOST_TEXT]}"
    found = words_of(text)
    if _APOSTROPHES.search(text):
        found = list(dict.fromkeys([*found, *_search_parts(text)]))
    return " ".join(found)


_NAMELESS = "\U0010fffd"
"""Stands behind all letters: who has no name comes last."""


def sort_name(patient_name: str) -> str:
    """Return what patients are sorted by; never empty."""
    return folded(patient_name[:_LONGEST]).strip("^= ")[:_LONGEST] or _NAMELESS


def _search_parts(text: str) -> list[str]:
    plain = folded(text).replace("*", " ").replace("?", " ")
    return [word[:_LONGEST] for word in spaced(plain).split()]


def indexed_text(text: str, is_sqlite: bool) -> str:
    """Return what the full text index gets of `searched_text`.

    SQLite's has an index of each beginning of up to six letters, see 0006. Names that begin alike
    for longer, and a hospital's name before each of its numbers, stand in the index by each of
    their longer beginnings; a mark tells those from words.
    """
    if not is_sqlite:
        return text
    words = text.split()
    longer = [
        f"{_MARK}{word[:length]}"
        for word in words
        if len(word) > _SHORT and not _has_digit(word)
        for length in range(_SHORT + 1, min(len(word), _LONG) + 1)
    ]
    return " ".join([*words, *dict.fromkeys(longer)])


def query_of(text: str, is_sqlite: bool) -> str:
    """Return the words of a search in the query language of the database; empty for none."""
    words = _searched_words(text)
    return " AND ".join(map(_match_of, words)) if is_sqlite else _tsquery_text(words)


def _match_of(word: str) -> str:
    """Return one word in the query language of FTS5."""
    is_short = len(word) <= _SHORT or _has_digit(word)
    return f'"{word}"*' if is_short else f'"{_MARK}{word}"'


def _searched_words(text: str) -> list[str]:
    return [word if _has_digit(word) else word[:_LONG] for word in words_of(text)[:MOST_WORDS]]


def _tsquery_text(words: Iterable[str]) -> str:
    return " & ".join(f"'{word}':*" for word in words)


_SHORT, _LONG = 6, 16
_MARK = "¦"
_OLD_TERM = re.compile(f'"{_MARK}([^"]*)"')


def _has_digit(word: str) -> bool:
    return any(c.isdigit() for c in word)


def add_words(connection: Connection, rows: Iterable[tuple[int, str]], is_sqlite: bool) -> None:
    """Add the searched texts of Instances by their numbers."""
    found = [{"n": number, "t": indexed_text(text, is_sqlite)} for number, text in rows if text]
    if found:
        connection.execute(ADD_WORDS if is_sqlite else ADD_WORDS_POSTGRESQL, found)


def replace_words(connection: Connection, number: int, old: str, new: str) -> None:
    """Let an Instance be found by other words."""
    if number <= old_words_left(connection):
        return  # it gets those of now when it moves to the new index
    if connection.dialect.name != "sqlite":
        connection.execute(sa.text("DELETE FROM words WHERE number = :n"), {"n": number})
    elif old:
        # the index keeps no text: what is taken out of it has to be said again
        taken = "INSERT INTO words (words, rowid, text) VALUES ('delete', :n, :t)"
        connection.execute(sa.text(taken), {"n": number, "t": indexed_text(old, is_sqlite=True)})
    add_words(connection, [(number, new)], connection.dialect.name == "sqlite")


OLD_WORDS = "old words"
"""The mark with the last number that is in the index of before 0006 and not yet in the new."""


def old_words_left(connection: Connection) -> int:
    """Return up to which number words are found in the old index only; 0 in most ledgers."""
    return int(connection.scalar(sa.select(marks.c.value).where(marks.c.name == OLD_WORDS)) or 0)


ADD_WORDS = sa.text("INSERT INTO words (rowid, text) VALUES (:n, :t)")
ADD_WORDS_POSTGRESQL = sa.text(
    # without its parser, which would make one word of an address and two of a number
    "INSERT INTO words (number, text) VALUES (:n, array_to_tsvector(string_to_array(:t, ' '))) "
    "ON CONFLICT (number) DO NOTHING"
)


_FIRST_CHUNK, _CHUNK = 64, 256


def newest_numbers(
    connection: Connection, text: str, is_sqlite: bool, behind: int | None = None
) -> Iterator[int]:
    """Yield the numbers of the Instances that have all these words, the newest first.

    The full text index walks its lists backwards, so that the first results cost the same however
    many there are.

    Parameters
    ----------
    behind : int, optional
        The last number that the caller knows.
    """
    query, common = query_of(text, is_sqlite), ""
    if not query:
        return
    last = 2**31 - 1 if behind is None else behind
    left = old_words_left(connection)
    if not is_sqlite:
        last = yield from _newest_windows(connection, query, last, left)
    statement = _NEWEST if is_sqlite else _NEWEST_POSTGRESQL
    if not is_sqlite and last > left + 1 and (known := _common_words(connection, text)):
        query = _tsquery_text(word for word in _searched_words(text) if word not in known)
        common, statement = _tsquery_text(known), _NEWEST_OF_RARE
    for table, lowest in (("words", left), ("old_words", 0)):
        if table == "old_words":
            if not left:
                return
            last = min(last, left + 1)
            query = _OLD_TERM.sub(r'"\1"*', query)  # which knows no marks
        if last <= lowest + 1:
            continue
        if is_sqlite and not _has_each(connection, query, table):
            continue
        asked = _statement_of(statement, table)
        size = _FIRST_CHUNK
        while True:
            values = {"query": query, "last": last, "lowest": lowest, "limit": size}
            values |= {"common": common} if common else {}
            # Planned without its words, a word that nobody has was looked for in every row: 0.9 s
            # at 1,000,000 Instances.
            rows = fetch(connection, asked, values, each_its_plan=True)
            found = [int(row[0]) for row in rows]
            yield from found
            if len(found) < size:
                break
            last, size = found[-1], _CHUNK


def _has_each(connection: Connection, query: str, table: str) -> bool:
    """Return whether the index of SQLite has each word of several, in whatever Instance.

    To find the newest of all that have a word, each part of the index is walked to the end of its
    list: 0.2 ms at 1,000,000 Instances. That nobody has another word is found in 0.02 ms.
    """
    asked, words = _statement_of(_ANY, table), query.split(" AND ")
    return len(words) < 2 or all(fetch(connection, asked, {"query": word}) for word in words)


@cache
def _statement_of(statement: str, table: str) -> sa.TextClause:
    return sa.text(statement.replace("words", table))


def _newest_windows(
    connection: Connection, query: str, last: int, lowest: int
) -> Generator[int, None, int]:
    """Yield the newest numbers from row after row, as long as that is quick; return where to go on.

    PostgreSQL's index gathers all rows of a word and sorts them before it gives the newest: 22 ms
    for a word that 22,000 of 1,000,000 rows have. But such a word stands in every 45th row.
    """
    top = int(connection.scalar(_TOP, {"last": last}) or 0)
    width = _WINDOW
    while top > lowest:
        bottom, count = max(lowest, top - width), 0
        while True:
            values = {"query": query, "top": top, "bottom": bottom, "limit": _FIRST_CHUNK}
            found = [int(row[0]) for row in connection.execute(_WITHIN, values)]
            yield from found
            count += len(found)
            if len(found) < _FIRST_CHUNK:
                break
            top = found[-1] - 1
        top = bottom
        if count < _OFTEN * width:
            break
        width = min(4 * width, _WIDEST)
    return top + 1


_WINDOW, _WIDEST = 1000, 64000
"""Rows that are looked at one after another: a thousand take 0.15 ms."""

_OFTEN = 0.004
"""The share of rows with the words below which the index is quicker."""

_TOP = sa.text("SELECT max(number) FROM words WHERE number < :last")
_WITHIN = sa.text(
    # OFFSET keeps the words out of the inner query, and so from their index
    "SELECT number FROM (SELECT number, text FROM words WHERE number <= :top AND number > :bottom "
    "ORDER BY number DESC OFFSET 0) near WHERE text @@ CAST(:query AS tsquery) LIMIT :limit"
)

_NEWEST = (
    "SELECT rowid FROM words WHERE words MATCH :query AND rowid < :last AND rowid > :lowest "
    "ORDER BY rowid DESC LIMIT :limit"
)
_ANY = "SELECT rowid FROM words WHERE words MATCH :query LIMIT 1"
_NEWEST_POSTGRESQL = (
    "SELECT number FROM words WHERE text @@ CAST(:query AS tsquery) AND number < :last "
    "AND number > :lowest ORDER BY number DESC LIMIT :limit"
)

_NEWEST_OF_RARE = (
    # the second in words that keep PostgreSQL from its index: rows are compared, which are few
    "SELECT number FROM words WHERE text @@ CAST(:query AS tsquery) "
    "AND (text || CAST('' AS tsvector)) @@ CAST(:common AS tsquery) AND number < :last "
    "AND number > :lowest ORDER BY number DESC LIMIT :limit"
)

_STATISTICS = sa.text(
    "SELECT CAST(CAST(most_common_elems AS text) AS text[]), most_common_elem_freqs FROM pg_stats "
    "WHERE schemaname = current_schema() AND tablename = 'words' AND attname = 'text'"
)
_FRESH_S = 60.0
"""How long PostgreSQL's statistics are remembered: it makes new ones after many changes."""

_shares: dict[str, tuple[float, dict[str, float]]] = {}


def _common_words(connection: Connection, text: str) -> list[str]:
    """Return those of several words that many rows have, by PostgreSQL's statistics.

    Its index gathers all rows of each word before it joins them: at 1,000,000 Instances 40 ms for
    a word of all beside one that nobody has. Empty where all are common, or none is.
    """
    words = _searched_words(text)
    if len(words) < 2:
        return []
    where, now = str(connection.engine.url), time.monotonic()
    asked_at, shares = _shares.get(where, (-math.inf, {}))
    if now - asked_at > _FRESH_S:
        row = connection.execute(_STATISTICS).first()
        # behind the share of each word PostgreSQL has three figures about all
        shares = dict(zip(row[0] or (), row[1] or (), strict=False)) if row else {}
        if len(_shares) > _MOST_LEDGERS:
            _shares.clear()
        _shares[where] = (now, shares)
    found = [
        word
        for word in words
        if sum(share for known, share in shares.items() if known.startswith(word)) > 0.01
    ]
    return found if len(found) < len(words) else []


_MOST_LEDGERS = 8
