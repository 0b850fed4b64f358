"""Keys by which programs act for a person: hashed here, shown once to who made them."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dicom_node.base.errors import Busy, NotFound
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.ledger.views import View
from dicom_node.store.schema import api_keys

HEAD = "cfx_"
"""How a key begins, so that a scanner of sources finds a published key."""

MOST_OF_PERSON = 20

_USED_S = 60.0
"""Time between two notes that a key is in use."""


@dataclass(frozen=True, slots=True)
class ApiKey(View):
    """A key as lists show it; what proves it is not kept."""

    ident: str
    user_name: str
    label: str
    made_by: str
    created_at: float
    used_at: float


class ApiKeys:
    """Keys of all people."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def make(self, user_name: str, label: str, made_by: str) -> tuple[ApiKey, str]:
        """Make a key for a person; return it, and its text, which nobody can see again.

        Raises
        ------
        Busy
            The person has as many keys as a person may have.
        """
        ident, now = secrets.token_hex(4), self._clock.wall()
        text = f"{HEAD}{ident}_{secrets.token_urlsafe(32)}"
        made = ApiKey(ident, user_name, label[:64], made_by, now, 0.0)
        row = {name: getattr(made, name) for name in ApiKey.__slots__}
        with self._database.writing() as connection:
            count = connection.scalar(
                sa.select(sa.func.count()).where(api_keys.c.user_name == user_name)
            )
            if count is not None and count >= MOST_OF_PERSON:
                raise Busy(f"{user_name} has {count} keys; end one first")
            connection.execute(api_keys.insert(), row | {"key": _hash_key(text)})
        return made, text

    def find(self, text: str) -> ApiKey | None:
        """Return the key of this text, and note that it is used; None for any other text."""
        now = self._clock.wall()
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(*_key_columns()).where(api_keys.c.key == _hash_key(text))
            ).first()
        if row is None:
            return None
        if not 0 <= now - row.used_at < _USED_S:
            with self._database.writing() as connection:
                connection.execute(
                    api_keys.update().where(api_keys.c.ident == row.ident).values(used_at=now)
                )
        return ApiKey(**row._mapping)

    def of_person(self, user_name: str) -> list[ApiKey]:
        """Return the keys of a person, the newest first; of everybody for an empty name."""
        query = sa.select(*_key_columns()).order_by(api_keys.c.created_at.desc())
        if user_name:
            query = query.where(api_keys.c.user_name == user_name)
        with self._database.reading() as connection:
            return [ApiKey(**row._mapping) for row in connection.execute(query)]

    def end(self, ident: str, user_name: str = "") -> ApiKey:
        """End a key; with `user_name` only one of this person.

        Raises
        ------
        NotFound
            There is none.
        """
        which = api_keys.c.ident == ident
        if user_name:
            which &= api_keys.c.user_name == user_name
        with self._database.writing() as connection:
            row = connection.execute(sa.select(*_key_columns()).where(which)).first()
            if row is None:
                raise NotFound("there is no such key")
            connection.execute(api_keys.delete().where(which))
        return ApiKey(**row._mapping)

    def end_all(self, user_name: str) -> int:
        """End every key of a person; return how many there were."""
        with self._database.writing() as connection:
            done = connection.execute(api_keys.delete().where(api_keys.c.user_name == user_name))
            return int(done.rowcount)


def _key_columns() -> list[sa.Column[Any]]:
    return [api_keys.c[name] for name in ApiKey.__slots__]


def _hash_key(text: str) -> str:
    return hashlib.sha256(text[:256].encode(errors="replace")).hexdigest()
