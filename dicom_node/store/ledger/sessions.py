"""Sessions of people at the pages: begun by a sign-in, ended by a row that is no longer there."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database
from dicom_node.store.schema import web_sessions


@dataclass(frozen=True, slots=True)
class WebSession:
    """One person at one browser."""

    user_name: str
    mark: str
    """What must not have changed since: the user's role and password, or the provider's word."""
    address: str
    created_at: float
    seen_at: float
    until: float


class Sessions:
    """Who is signed in; several web roles on one ledger share it."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self.clock = clock

    def begin(self, key: str, user_name: str, mark: str, address: str, lasts_s: float) -> None:
        """Keep a new session, and forget those whose time is over.

        Parameters
        ----------
        key : str
            A hash of what the browser keeps: whoever reads the ledger cannot sign in with it.
        lasts_s : float
            Seconds until it ends whatever happens.
        """
        now = self.clock.wall()
        row = {
            "key": key,
            "user_name": user_name,
            "mark": mark,
            "address": address,
            "created_at": now,
            "seen_at": now,
            "until": now + lasts_s,
        }
        with self._database.writing() as connection:
            connection.execute(web_sessions.delete().where(web_sessions.c.until < now))
            connection.execute(web_sessions.insert(), row)

    def find(self, key: str) -> WebSession | None:
        """Return the session of a browser, None when it has ended."""
        columns = [web_sessions.c[name] for name in WebSession.__slots__]
        with self._database.reading() as connection:
            row = connection.execute(
                sa.select(*columns).where(web_sessions.c.key == key)
            ).one_or_none()
        return None if row is None else WebSession(*row)

    def touch(self, key: str) -> None:
        """Note that the person does something."""
        with self._database.writing() as connection:
            connection.execute(
                web_sessions.update()
                .where(web_sessions.c.key == key)
                .values(seen_at=self.clock.wall())
            )

    def end(self, key: str) -> None:
        """End one session."""
        with self._database.writing() as connection:
            connection.execute(web_sessions.delete().where(web_sessions.c.key == key))

    def counts(self) -> dict[str, int]:
        """Return how many sessions each person has."""
        now = self.clock.wall()
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(web_sessions.c.user_name, sa.func.count())
                .where(web_sessions.c.until >= now)
                .group_by(web_sessions.c.user_name)
            ).all()
        return {str(name): int(count) for name, count in rows}

    def end_all(self, user_name: str) -> int:
        """End every session of a person; return how many there were."""
        with self._database.writing() as connection:
            done = connection.execute(
                web_sessions.delete().where(web_sessions.c.user_name == user_name)
            )
            return int(done.rowcount)
