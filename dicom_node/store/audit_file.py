"""The file of the audit trail: one message a line, some files kept, and disk held for it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LARGEST = 50_000_000
"""Bytes at which a file is put aside."""

KEPT = 10
"""Files kept beside the newest."""

RESERVE = 1 << 22
"""Bytes of disk that are held for a full disk: some thousand messages."""

_PIECE = 1 << 16
"""Bytes of the reserve that are given up at a time."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


class AuditFile:
    """Appends lines; several processes may do so at once.

    Parameters
    ----------
    path : Path
        The newest file; older ones are ``path.1`` (the newest of them) to ``path.10``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = path.with_name(f".{path.name}.lock")
        self._reserve = path.with_name(f".{path.name}.reserve")

    @property
    def is_safe(self) -> bool:
        """Whether nothing of the reserve is spent: else no image may be taken any more."""
        try:
            return self._reserve.stat().st_size >= RESERVE
        except OSError:
            return True  # none was made: the disk's watermark alone counts

    def refill(self) -> bool:
        """Hold the reserve, as far as the disk has room again; return whether it is whole."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = self._open_file(self._reserve, os.O_RDWR)
            try:
                if os.fstat(descriptor).st_size < RESERVE:
                    # blocks, not a hole: only they can be given back to a full disk
                    os.posix_fallocate(descriptor, 0, RESERVE)
            finally:
                os.close(descriptor)
        except OSError:
            return False
        return True

    def append(self, *lines: str) -> None:
        """Write lines, durable when this returns.

        Raises
        ------
        OSError
            They cannot be written; nothing of them is left.
        """
        content = "".join(f"{line}\n" for line in lines).encode()
        if not content:
            return
        with self._lock_files() as may_rename:
            if may_rename:
                self._put_aside(len(content))
            while True:
                try:
                    self._write_message(content)
                except OSError as exc:
                    # Images stop when the reserve is touched; the trail goes on with it.
                    if exc.errno in _FULL and self._give_up(len(content)):
                        continue
                    raise
                return

    @contextmanager
    def _lock_files(self) -> Iterator[bool]:
        """Hold the lock; yield whether files may be renamed here."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock = self._open_file(self._lock, os.O_RDWR)
        except PermissionError:
            # Somebody else made the file in a folder of theirs: it is appended to, as in 0.1.0.
            yield False
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield True
        finally:
            os.close(lock)

    def _open_file(self, path: Path, flags: int) -> int:
        """Open a file of the trail; what root makes belongs to the folder's user all the same."""
        is_root = os.geteuid() == 0
        if is_root:  # the folder's user may have put a link there that leads to root's own files
            flags |= os.O_NOFOLLOW
        descriptor = os.open(path, flags | os.O_CREAT, 0o600)
        if is_root:
            of_folder, own = path.parent.stat(), os.fstat(descriptor)
            is_new = own.st_size == 0 and own.st_nlink == 1 and own.st_uid == 0
            if is_new and of_folder.st_uid != 0:
                with suppress(OSError):
                    os.fchown(descriptor, of_folder.st_uid, of_folder.st_gid)
        return descriptor

    def _write_message(self, content: bytes) -> None:
        descriptor = self._open_file(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            size = os.fstat(descriptor).st_size
            # under the lock nobody else appends, so what a full disk has cut is cut off again
            is_whole = False
            try:
                is_whole = os.write(descriptor, content) == len(content)
                _sync_data(descriptor)
            finally:
                if not is_whole:
                    os.ftruncate(descriptor, size)
            if not is_whole:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            os.close(descriptor)

    def _give_up(self, needed: int) -> bool:
        """Give some of the reserve back to the disk; return whether there was any."""
        try:
            descriptor = self._open_file(self._reserve, os.O_RDWR)
            try:
                size = os.fstat(descriptor).st_size
                if size:
                    os.ftruncate(descriptor, max(0, size - max(_PIECE, needed)))
            finally:
                os.close(descriptor)
        except OSError:
            return False
        return size > 0

    def _put_aside(self, coming: int) -> None:
        try:
            if self.path.stat().st_size + coming <= LARGEST:
                return
        except FileNotFoundError:
            return
        # the oldest first, and the newest last: a kill in between leaves a gap and loses no file
        for number in range(KEPT, 0, -1):
            older = self._numbered_path(number)
            if older.exists():
                older.rename(self._numbered_path(number + 1))
        self.path.rename(self._numbered_path(1))
        self._numbered_path(KEPT + 1).unlink(missing_ok=True)

    def _numbered_path(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _sync_data(descriptor: int) -> None:
    try:
        os.fdatasync(descriptor)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # a pipe or a terminal, such as /dev/stdout
            raise
