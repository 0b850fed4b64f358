"""Searching as people search: words in any order, their beginnings, whatever the case or accent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.standard.names import folded, spaced
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
    return list(dict.fromkeys(_parts(_APOSTROPHES.sub("", text))))


def searched_text(patient_name: str, patient_id: str, accession_number: str) -> str:
    """Return the words by which an Instance is found, a blank between each two.

    Both forms of a name with an apostrophe: ``O'Brien`` is found by obrien and by brien.
    """
    text = f"{patient_name[:MOST_TEXT]} {patient_id[:MOST_TEXT]} {accession_number[:MOST_TEXT]}"
    found = words_of(text)
    if _APOSTROPHES.search(text):
        found = list(dict.fromkeys([*found, *_parts(text)]))
    return " ".join(found)


def _parts(text: str) -> list[str]:
    plain = folded(text).replace("*", " ").replace("?", " ")
    return [word[:_LONGEST] for word in spaced(plain).split()]


def query_of(text: str, is_sqlite: bool) -> str:
    """Return the words of a search in the query language of the database; empty for none."""
    words = words_of(text)[:MOST_WORDS]
    if is_sqlite:
        return " AND ".join(f'"{word}"*' for word in words)
    return " & ".join(f"'{word}':*" for word in words)


def add_words(connection: Connection, rows: Iterable[tuple[int, str]], is_sqlite: bool) -> None:
    """Add the searched words of Instances by their numbers."""
    found = [{"n": number, "t": text} for number, text in rows if text]
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
        connection.execute(sa.text(taken), {"n": number, "t": old})
    add_words(connection, [(number, new)], connection.dialect.name == "sqlite")


OLD_WORDS = "old words"
"""The mark with the last number that is in the index of before 0006 and not yet in the new one."""


def old_words_left(connection: Connection) -> int:
    """Return up to which number words are found in the old index only; 0 in most ledgers."""
    return int(connection.scalar(sa.select(marks.c.value).where(marks.c.name == OLD_WORDS)) or 0)


ADD_WORDS = sa.text("INSERT INTO words (rowid, text) VALUES (:n, :t)")
ADD_WORDS_POSTGRESQL = sa.text(
    # without its parser, which would make one word of an address and two of a number
    "INSERT INTO words (number, text) VALUES (:n, array_to_tsvector(string_to_array(:t, ' '))) "
    "ON CONFLICT (number) DO NOTHING"
)


_CHUNK = 256


def newest_numbers(
    connection: Connection, text: str, is_sqlite: bool, behind: int | None = None
) -> Iterator[int]:
    """Yield the numbers of the Instances that have all these words, the newest first.

    The full text index walks its lists backwards, so that the first ones cost the same however
    many there are.

    Parameters
    ----------
    behind : int, optional
        The last number that the caller knows.
    """
    query = query_of(text, is_sqlite)
    if not query:
        return
    last = 2**31 - 1 if behind is None else behind
    statement = _NEWEST if is_sqlite else _NEWEST_POSTGRESQL
    left = old_words_left(connection)
    for table, lowest in (("words", left), ("old_words", 0)):
        if table == "old_words":
            if not left:
                return
            last = min(last, left + 1)
        asked = sa.text(statement.replace("words", table))
        while True:
            values = {"query": query, "last": last, "lowest": lowest, "limit": _CHUNK}
            found = [int(row[0]) for row in connection.execute(asked, values)]
            yield from found
            if len(found) < _CHUNK:
                break
            last = found[-1]


_NEWEST = (
    "SELECT rowid FROM words WHERE words MATCH :query AND rowid < :last AND rowid > :lowest "
    "ORDER BY rowid DESC LIMIT :limit"
)
_NEWEST_POSTGRESQL = (
    "SELECT number FROM words WHERE text @@ CAST(:query AS tsquery) AND number < :last "
    "AND number > :lowest ORDER BY number DESC LIMIT :limit"
)
