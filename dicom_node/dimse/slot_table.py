"""The associations of all listeners on one port, in a file that they share.

Each listener writes a region of its own and asks in another for what shall give way; only its owner
ends an association. A listener that is started again begins with an empty region, so nothing stays
counted that a killed one held.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_REGION = 1 << 26
"""Bytes of a listener's region in the sparse file: more than 65,536 associations need."""
_ASKS = 1 << 25
"""Where in its region others ask it."""

_size = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class HeldRow:
    """One association of some listener."""

    listener: int
    number: int
    ae_title: str
    address: str
    is_peer: bool
    silent_since: float | None
    """By the monotonic clock, which all processes of a host share; None while it is at work."""

    @property
    def silent_for(self) -> float:
        """Seconds since anything came on it."""
        return 0.0 if self.silent_since is None else max(0.0, time.monotonic() - self.silent_since)


class SlotTable:
    """The file, as one of the listeners uses it.

    Parameters
    ----------
    descriptor : int
        An open file that all listeners have inherited.
    listener, count : int
        Which of how many this listener is.
    """

    def __init__(self, descriptor: int, listener: int, count: int) -> None:
        self._descriptor = descriptor
        self._listener = listener
        self._count = count
        self._is_empty = False
        with self.locked():
            self._write_rows(listener, [])
            self._write_rows(listener, [], _ASKS)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the other listeners out; threads of one process keep each other out themselves."""
        # A lock of POSIX, since the open file itself is shared; the kernel frees it with its owner.
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def others(self) -> list[HeldRow]:
        """Return what the other listeners hold and nobody has asked to give way."""
        rows = []
        for listener in range(self._count):
            if listener != self._listener:
                asked = {number for number, _ in self._read_rows(listener, _ASKS)}
                rows += [
                    HeldRow(listener, number, *rest)
                    for number, *rest in self._read_rows(listener)
                    if number not in asked
                ]
        return rows

    def publish(self, rows: Iterable[Sequence[Any]]) -> None:
        """Write what this listener holds: number, AE title, address, is peer, silent since."""
        content = list(rows)
        # asked five times a second (the accept loop's turns): an idle listener writes nothing
        if content or not self._is_empty:
            self._write_rows(self._listener, content)
            self._is_empty = not content

    def ask(self, row: HeldRow, reason: str) -> None:
        """Ask the owner of an association to end it; from now on it counts as ended."""
        self._write_rows(
            row.listener, [*self._read_rows(row.listener, _ASKS), [row.number, reason]], _ASKS
        )

    def asked(self) -> list[tuple[int, str]]:
        """Take what others have asked this listener to end: number and reason."""
        asks = [
            (int(number), str(reason)) for number, reason in self._read_rows(self._listener, _ASKS)
        ]
        if asks:
            self._write_rows(self._listener, [], _ASKS)
        return asks

    def _read_rows(self, listener: int, at: int = 0) -> list[Any]:
        begin = listener * _REGION + at
        head = os.pread(self._descriptor, _size.size, begin)
        if len(head) < _size.size:
            return []
        (size,) = _size.unpack(head)
        content = os.pread(self._descriptor, size, begin + _size.size)
        rows: list[Any] = json.loads(content) if content else []
        return rows

    def _write_rows(self, listener: int, rows: list[Any], at: int = 0) -> None:
        content = json.dumps(rows).encode()
        os.pwrite(self._descriptor, _size.pack(len(content)) + content, listener * _REGION + at)
