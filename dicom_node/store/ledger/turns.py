"""Whose turn it is: of several nodes on one ledger, one does a kind of work at a time.

Nobody leads: whoever finds work takes its turn and gives it back. PostgreSQL holds turns as
advisory locks of a session, so that those of a killed process are free at once.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from dicom_node.store.ledger.database import Database

_SETTINGS = ("tcp_keepalives_idle = 10", "tcp_keepalives_interval = 5", "tcp_keepalives_count = 3")
"""A host that went away without a word is missed after 25 seconds."""


class NodeTurns:
    """The turns of this process, by name; a ledger on SQLite has one node, whose turn it always is.

    All are held by a single connection. When that is lost, they are, too: `take` finds out.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._connection: Any = None
        self._held: set[str] = set()

    def take(self, name: str) -> bool:
        """Return whether it is this process's turn, now or already.

        Raises
        ------
        Unreachable
            The database gives no answer; nothing is held any more.
        """
        if self._database.is_sqlite:
            return True
        with self._lock:
            is_answered = False
            try:
                with self._database.translated():
                    if self._connection is None:
                        self._connection = self._open_connection()
                    # What is held may be gone, with the connection.
                    question = "SELECT true" if name in self._held else _TAKE
                    names = () if name in self._held else (name,)
                    (is_ours,) = self._connection.execute(question, names).fetchone()
                is_answered = True
            finally:
                if not is_answered:
                    self._drop_connection()
            if is_ours:
                self._held.add(name)
            return bool(is_ours)

    def give_back(self, name: str) -> None:
        """Let others have the turn."""
        with self._lock:
            if name not in self._held:
                return
            self._held.discard(name)
            try:
                self._connection.execute(_GIVE_BACK, (name,))
            except self._database.driver_errors:
                self._drop_connection()

    def close(self) -> None:
        """Give all turns back."""
        with self._lock:
            self._drop_connection()

    def _open_connection(self) -> Any:
        """Return a connection of its own, which stays out of the pool."""
        connection = self._database.detached()
        for setting in _SETTINGS:
            connection.execute(f"SET {setting}")
        return connection

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self._held.clear()
        if connection is not None:
            with suppress(*self._database.driver_errors):
                connection.close()


_TAKE = "SELECT pg_try_advisory_lock(hashtext('turn'), hashtext(%s))"
_GIVE_BACK = "SELECT pg_advisory_unlock(hashtext('turn'), hashtext(%s))"
