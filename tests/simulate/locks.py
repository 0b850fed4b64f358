"""PostgreSQL's locks in the world: who waits for another's transaction is an act that cannot go on.

A transaction may be held between two of its statements while others act. A statement that waits for
a lock of it is not answered: the server is asked whether that is so, and then its act is held until
the lock is free. Whoever was waiting gets it before anybody else acts: so a seed decides all.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.waiting import Ready, Wait
from psycopg.waiting import wait as wait_whole

from .effects import Effects

PATIENCE_S = 0.005
"""A statement that is answered later is asked about."""

LOOK_S = 0.0005

CIRCLE_S = 2.0
"""By then a circle would have been ended."""

CANCEL_S = 5.0


class ServerLocks:
    """Stands in place of psycopg's waiting.

    Parameters
    ----------
    url : str
        Where to ask which session waits for which.
    """

    def __init__(self, url: str) -> None:
        self.effects: Effects | None = None
        """Of the schedule that is played."""
        self.waiting: list[LockWait] = []
        self.count = 0
        """How often a statement has waited for another's transaction."""
        self._own: WeakSet[Any] = WeakSet()
        """Connections that have executed something."""
        self._whole = psycopg.Connection.wait
        self._asked = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)

    def close(self) -> None:
        """Let statements wait as ever."""
        psycopg.Connection.wait = self._whole  # type: ignore[method-assign]
        self._asked.close()

    def put_in_place(self) -> None:
        """Let the statements of this process wait so."""
        whole = self._whole

        def wait(connection: Any, gen: Any, *args: Any, **kwargs: Any) -> Any:
            if self.effects is None or connection is self._asked:
                return whole(connection, gen, *args, **kwargs)
            self._own.add(connection)
            return self._wait(connection, gen, self.effects)

        psycopg.Connection.wait = wait  # type: ignore[method-assign,assignment]

    def _wait(self, connection: Any, gen: Any, effects: Effects) -> Any:
        """Hold a transaction before its next statement, where that is drawn; then execute it."""
        if connection.pgconn.transaction_status == TransactionStatus.INTRANS:
            effects.pause()
        try:
            found = self._drive(connection, gen, effects)
        except psycopg.Error:
            raise
        except BaseException:  # it is killed where it waits: as the server would, it ends that
            if connection.pgconn.transaction_status == TransactionStatus.ACTIVE:
                connection.cancel_safe(timeout=CANCEL_S)
                with suppress(psycopg.errors.QueryCanceled):
                    wait_whole(gen, connection.pgconn.socket, interval=0.1, timeout=CANCEL_S)
            raise
        finally:
            for other in list(self.waiting):  # who waited for what has just ended comes first
                _ = other.is_free
        return found

    def _drive(self, connection: Any, gen: Any, effects: Effects) -> Any:
        descriptor, session = connection.pgconn.socket, connection.pgconn.backend_pid
        began = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = _ready(descriptor, wanted, PATIENCE_S)
                if ready:
                    wanted = gen.send(ready)
                elif (
                    effects.is_killed
                ):  # its rollback waits behind a statement that is not answered
                    connection.cancel_safe(timeout=CANCEL_S)
                    gen.send(Ready.NONE)
                elif self.is_stuck(session, began):
                    self._wait_for_lock(LockWait(self, descriptor, session), effects)
                else:
                    gen.send(Ready.NONE)
        except StopIteration as exc:
            return exc.value

    def _wait_for_lock(self, lock: LockWait, effects: Effects) -> None:
        self.count += 1
        if effects.act is not None:
            self.waiting.append(lock)
            try:
                effects.wait(lock)
            finally:
                self.waiting.remove(lock)
            return
        while not lock.is_free:  # who drives all cannot be held: it lets those go on that hold it
            act = next(act for act in effects.held if act.is_open and act.may_go_on)
            effects.go_on(act)

    def is_stuck(self, session: int, began: float) -> bool:
        """Return whether a session waits for another's transaction, and not each for the other.

        A circle is ended by the server at once, unless one of them only stands in a queue. A
        session of a process that was killed may still be ending, at a time of its own: it is waited
        for where it stands, and so is what the server itself does.
        """
        alive = {own.pgconn.backend_pid for own in self._own if not own.closed}
        seen, left = set(), [session]
        while left:
            for other in self._blockers(left.pop()):
                if other not in alive:
                    continue
                if other == session and time.monotonic() - began < CIRCLE_S:
                    return False  # the server will end one of them
                if other not in seen:
                    seen.add(other)
                    left.append(other)
        return bool(seen)

    def _blockers(self, session: int) -> list[int]:
        row = self._asked.execute("SELECT pg_blocking_pids(%s)", (session,)).fetchone()
        return list(row[0]) if row else []


class LockWait:
    """What the act waits for whose statement is not answered."""

    def __init__(self, locks: ServerLocks, descriptor: int, session: int) -> None:
        self._locks = locks
        self._descriptor = descriptor
        self._session = session

    @property
    def is_free(self) -> bool:
        """Return whether there is an answer; it comes at once, or not before somebody else ends."""
        began = time.monotonic()
        while not _ready(self._descriptor, Wait.R, 0):
            if self._locks.is_stuck(self._session, began):
                return False
            time.sleep(LOOK_S)
        return True


def _ready(descriptor: int, wanted: Wait, seconds: float) -> Ready | None:
    asked = [descriptor]
    reads, writes, _ = select.select(
        asked if wanted & Wait.R else (), asked if wanted & Wait.W else (), (), seconds
    )
    found = (Ready.R if reads else 0) | (Ready.W if writes else 0)
    return Ready(found) if found else None
