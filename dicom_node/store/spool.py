"""Part 10 files on disk: written aside, fsynced, renamed, and found again by a hashed name."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dicom_node.base.errors import NotFound, OutOfResources
from dicom_node.standard.part10 import skip_head
from dicom_node.store.clock import Clock

logger = logging.getLogger(__name__)

FOLDERS = ("incoming", "images", "reports", "conflicts")
_KEPT_FOLDERS = tuple(
    f"{kind}/{digit}" for kind in ("images", "reports") for digit in "0123456789abcdef"
)
"""Made beforehand and few: making and syncing a folder takes as long as keeping an image."""

_CHECK_EVERY = 8 * 2**20
"""Bytes after which a growing file asks again whether there is room."""
_WRITE_BACK_EVERY = 2**20
"""Bytes that are gathered before the disk is asked to write them; fsync does the rest."""
_READ_AHEAD = 2**16
"""Bytes of a file that are read at once: most headers are shorter."""

_is_part = re.compile(r"[\w-][\w.-]*").fullmatch

_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that survives a power cut: its name below the spool, its size in bytes."""

    name: str
    size: int


class Spool:
    """The folder that holds received Instances and reports.

    Parameters
    ----------
    root : Path
        Created when absent, with ``incoming``, ``images``, ``reports`` and ``conflicts`` below.
    min_free : int
        Bytes that must stay free on its file system.
    is_safe : callable
        Whether what must never stop has its room: an audit trail that a full disk threatens.
    clock : Clock, optional
        Tells how old files are.
    """

    def __init__(
        self,
        root: Path,
        min_free: int = 0,
        is_safe: Callable[[], bool] = lambda: True,
        clock: Clock | None = None,
    ) -> None:
        self.root = root
        self.incoming = str(root / "incoming")
        """The folder of what is being received."""
        self.min_free = min_free
        self._is_safe = is_safe
        self._free = 0
        self._free_at = -1.0
        self._clock = clock or Clock()
        try:
            for folder in (*FOLDERS, *_KEPT_FOLDERS):
                (root / folder).mkdir(parents=True, exist_ok=True)
            _sync_folder(root)
            _sync_folder(root / "images")
            _sync_folder(root / "reports")
        except OSError as exc:
            raise _no_room(root, exc) from exc

    def has_room(self, size: int = 0) -> bool:
        """Return whether `size` more bytes leave the watermark untouched; asks once a second."""
        now = self._clock.monotonic()
        if now - self._free_at > 1.0 or self._free_at < 0:
            try:
                self._free = shutil.disk_usage(self.root).free if self._is_safe() else -1
            except OSError:
                return False
            self._free_at = now
        return self._free - size >= self.min_free

    def writing(self) -> Incoming:
        """Return a new temporary file for an Instance that is being received.

        Raises
        ------
        OutOfResources
            Free space is below the watermark, or the file cannot be made.
        """
        if not self.has_room():
            raise OutOfResources(f"{self.root}: less than {self.min_free} bytes free")
        return Incoming(self)

    def write_report(
        self, job: str, token: str, part: str, content: bytes, recording: ExitStack | None = None
    ) -> str:
        """Keep one object of a result durably and return its name.

        Other jobs, tokens, parts or contents have other names: no later or stale attempt can
        overwrite what an earlier attempt wrote.

        Parameters
        ----------
        recording : ExitStack, optional
            Ends when a row names the file; until then no sweep takes it.

        Raises
        ------
        OutOfResources
            The file cannot be written.
        """
        digest = hashlib.sha256(content).hexdigest()
        # 96 bits tell them apart; each name stands in the ledger
        stem = _hash_text("\n".join((job, token, part, digest)))[:24]
        name = f"reports/{stem[0]}/{stem}.dcm"
        with ExitStack() as writing:
            incoming = (recording or writing).enter_context(Incoming(self))
            incoming.write(content)
            incoming.place(name)
        return name

    def path(self, name: str) -> Path:
        """Return where the file `name` lies.

        Raises
        ------
        NotFound
            The name leaves the spool.
        """
        parts = name.split("/")
        if parts[0] not in FOLDERS or not all(map(_is_part, parts)):
            raise NotFound("no such file in the spool")
        return self.root.joinpath(*parts)

    def digest(self, name: str) -> str:
        """Return the SHA-256 of the data set in the Part 10 file `name`, without its head.

        Raises
        ------
        NotFound
            There is no such file.
        """
        try:
            with self.path(name).open("rb") as file:
                skip_head(file)
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as exc:
            raise NotFound("no such file in the spool") from exc

    def remove(self, name: str) -> None:
        """Remove the file `name`; it may be gone already."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as exc:
            raise _no_room(self.root, exc) from exc

    def has_writer(self, name: str) -> bool:
        """Return whether a process writes the file `name`, or has written and yet to record it.

        Its age does not tell: a process may stand for a day, and a clock may be set by one. On a
        disk without locks nobody is known to write.
        """
        return _is_locked(self.path(name))

    def sweep(self, older_than_s: float) -> int:
        """Remove temporary files that a killed process left, and return how many."""
        before = self._clock.wall() - older_than_s
        count = 0
        for path in (self.root / "incoming").iterdir():
            try:
                if path.stat().st_mtime < before and not _is_locked(path):
                    path.unlink()
                    count += 1
            except FileNotFoundError:
                continue  # its writer has just kept or discarded it
        return count

    def names(self, folder: str, older_than_s: float = 0.0) -> Iterator[str]:
        """Yield the names of the files below `folder` that nobody wrote for `older_than_s`."""
        before = self._clock.wall() - older_than_s
        for path in (self.root / folder).rglob("*.dcm"):
            try:
                old = path.stat().st_mtime <= before
            except FileNotFoundError:
                continue
            if old:
                yield path.relative_to(self.root).as_posix()


class Incoming:
    """A temporary file that vanishes unless it is kept.

    It is locked until its ``with`` block ends: what it is kept for is recorded within. The lock
    ends with its process, too, so that sweeps know what a crash has left.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._mark = secrets.token_hex(16)
        # plain text: three `Path` for each image are a tenth of what keeping it takes of Python
        self._path = f"{spool.incoming}/{self._mark}.part"
        self._check_at = _CHECK_EVERY
        self._written_back = 0
        self.size = 0
        self._is_kept = False
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as exc:
            raise _no_room(spool.root, exc) from exc
        with suppress(OSError):  # a disk without locks: sweeps go by age alone
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    def write(self, *chunks: bytes | bytearray | memoryview) -> None:
        """Append bytes, all chunks by one system call where the disk takes them.

        Raises
        ------
        OutOfResources
            The disk is full or the watermark is reached.
        """
        try:
            # a disk that fills up, or a signal, may cut the write short
            written = os.writev(self._fd, chunks)
            self.size += written
            if written != sum(map(len, chunks)):
                self._write_rest(b"".join(chunks)[written:])
        except OSError as exc:
            raise _no_room(self._spool.root, exc) from exc
        if self.size - self._written_back >= _WRITE_BACK_EVERY:
            _write_back(self._fd, self._written_back, self.size - self._written_back)
            self._written_back = self.size
        if self.size >= self._check_at:
            self._check_at = self.size + _CHECK_EVERY
            if not self._spool.has_room():
                raise OutOfResources(f"{self._spool.root}: no room for the rest of the Instance")

    def _write_rest(self, rest: bytes) -> None:
        while rest:
            written = os.write(self._fd, rest)
            self.size += written
            rest = rest[written:]

    def reader(self) -> IO[bytes]:
        """Return a new reader at the start of what was written so far."""
        return open(self._path, "rb", buffering=_READ_AHEAD)  # noqa: PTH123

    def keep(self, sop_instance_uid: str) -> Kept:
        """Make the file durable below ``images`` under a name that no other file has.

        Raises
        ------
        OutOfResources
            The file cannot be made durable.
        """
        uid = _hash_text(sop_instance_uid)
        name = f"images/{uid[0]}/{uid[:40]}.{self._mark[:16]}.dcm"
        self.place(name)
        return Kept(name, self.size)

    def place(self, name: str) -> None:
        """Make the bytes durable first, then the name: fsync, rename, fsync of the folder."""
        target = str(self._spool.path(name))
        folder = target.rpartition("/")[0]
        try:
            os.fsync(self._fd)
            try:
                os.rename(self._path, target)  # noqa: PTH104
            except FileNotFoundError:
                # the folder's own name has to outlast a power cut, too: its parent is synced
                Path(folder).mkdir(exist_ok=True)
                _sync_folder(Path(folder).parent)
                os.rename(self._path, target)  # noqa: PTH104
            self._is_kept = True
            _sync_folder(folder)
        except OSError as exc:
            raise _no_room(self._spool.root, exc) from exc

    def discard(self) -> None:
        """Remove the temporary file, unless it was kept; nobody writes it any more."""
        self._close_file()
        if not self._is_kept:
            with suppress(FileNotFoundError):
                os.unlink(self._path)  # noqa: PTH108

    def _close_file(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_back(fd: int, start: int, size: int) -> None:
    """Let the disk begin with what is written, so that fsync waits for the rest only."""
    if _sync_file_range is not None:
        _sync_file_range(fd, start, size, _SYNC_FILE_RANGE_WRITE)


def _is_locked(path: Path) -> bool:
    try:
        # shared: over NFS an exclusive lock would need the file to be open for writing
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # it is gone, or the disk has no locks
    return False


def _sync_folder(folder: str | Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _no_room(root: Path, exc: OSError) -> OutOfResources:
    return OutOfResources(f"{root}: cannot be written: {exc.strerror or exc}")
