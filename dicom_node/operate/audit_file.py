"""The file of the audit trail: one message a line, put aside at a size, some kept."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

LARGEST = 50_000_000
"""Bytes at which a file is put aside."""

KEPT = 10
"""Files kept beside the newest."""


class AuditFile:
    """Appends lines; several processes may do so at once.

    Parameters
    ----------
    path : Path
        The newest file; older ones are ``path.1`` (the newest of them) to ``path.10``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: str) -> None:
        """Write one line, durable when this returns.

        Raises
        ------
        OSError
            It cannot be written; nothing of it is left.
        """
        content = f"{line}\n".encode()
        lock = os.open(
            self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._put_aside(len(content))
            self._write(content)
        finally:
            os.close(lock)

    def _write(self, content: bytes) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            is_whole = False
            try:
                is_whole = os.write(descriptor, content) == len(content)
                os.fdatasync(descriptor)
            finally:
                if not is_whole:
                    os.ftruncate(descriptor, size)
            if not is_whole:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)

    def _put_aside(self, coming: int) -> None:
        try:
            if self.path.stat().st_size + coming <= LARGEST:
                return
        except FileNotFoundError:
            return
        for number in range(KEPT, 0, -1):
            older = self._aside(number)
            if older.exists():
                older.rename(self._aside(number + 1))
        self.path.rename(self._aside(1))
        self._aside(KEPT + 1).unlink(missing_ok=True)

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
