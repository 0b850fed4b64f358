"""Searching as people search: words in any order, their beginnings, whatever the case or accent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dicom_node.standard.names import folded

MOST_WORDS = 12
"""Words of a search that are looked for; people type two."""

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return the folded words of `text`, each once, in order."""
    return list(dict.fromkeys(_WORD.findall(folded(text))))


def searched_text(patient_name: str, patient_id: str, accession_number: str) -> str:
    """Return the words by which an Instance is found."""
    return " ".join(words_of(f"{patient_name} {patient_id} {accession_number}"))


def query_of(text: str, is_sqlite: bool) -> str:
    """Return the words of a search in the query language of the database; empty for none."""
    words = words_of(text)[:MOST_WORDS]
    if is_sqlite:
        return " AND ".join(f'"{word}"*' for word in words)
    return " & ".join(f"'{word}':*" for word in words)


def add_words(connection: Connection, rows: Iterable[tuple[int, str]], is_sqlite: bool) -> None:
    """Add the searched texts of Instances by their numbers."""
    found = [{"n": number, "t": text} for number, text in rows if text]
    if found:
        connection.execute(ADD_WORDS if is_sqlite else ADD_WORDS_POSTGRESQL, found)


def replace_words(connection: Connection, number: int, old: str, new: str) -> None:
    """Let an Instance be found by other words."""
    if connection.dialect.name != "sqlite":
        connection.execute(sa.text("DELETE FROM words WHERE number = :n"), {"n": number})
    elif old:
        # the index keeps no text: what is taken out of it has to be said again
        taken = "INSERT INTO words (words, rowid, text) VALUES ('delete', :n, :t)"
        connection.execute(sa.text(taken), {"n": number, "t": old})
    add_words(connection, [(number, new)], connection.dialect.name == "sqlite")


ADD_WORDS = sa.text("INSERT INTO words (rowid, text) VALUES (:n, :t)")
ADD_WORDS_POSTGRESQL = sa.text(
    "INSERT INTO words (number, text) VALUES (:n, to_tsvector('simple', :t)) "
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
    while True:
        values = {"query": query, "last": last, "limit": _CHUNK}
        found = [int(row[0]) for row in connection.execute(statement, values)]
        yield from found
        if len(found) < _CHUNK:
            return
        last = found[-1]


_NEWEST = sa.text(
    "SELECT rowid FROM words WHERE words MATCH :query AND rowid < :last "
    "ORDER BY rowid DESC LIMIT :limit"
)
_NEWEST_POSTGRESQL = sa.text(
    "SELECT number FROM words WHERE text @@ to_tsquery('simple', :query) AND number < :last "
    "ORDER BY number DESC LIMIT :limit"
)
