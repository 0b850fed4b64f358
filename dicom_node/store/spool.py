"""Part 10 files on disk: written aside, fsynced, renamed, and found again by a hashed name."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dicom_node.errors import NotFound, OutOfResources

logger = logging.getLogger(__name__)

FOLDERS = ("incoming", "images", "reports", "conflicts")

_CHECK_EVERY = 8 * 2**20
"""Bytes after which a growing file asks again whether there is room."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that survives a power cut: its name below the spool, its hash, its bytes.

    ``sha256`` is over the data set as sent, ``size`` is that of the whole Part 10 file.
    """

    name: str
    sha256: str
    size: int


class Spool:
    """The folder that holds received Instances and reports.

    Parameters
    ----------
    root : Path
        Created when absent, with ``incoming``, ``images``, ``reports`` and ``conflicts`` below.
    min_free : int
        Bytes that must stay free on its file system.
    """

    def __init__(self, root: Path, min_free: int = 0) -> None:
        self.root = root
        self.min_free = min_free
        self._free = 0
        self._free_at = -1.0
        try:
            for folder in FOLDERS:
                (root / folder).mkdir(parents=True, exist_ok=True)
            _sync_folder(root)
        except OSError as exc:
            raise _no_room(root, exc) from exc

    def has_room(self, size: int = 0) -> bool:
        """Return whether `size` more bytes leave the watermark untouched; asks once a second."""
        now = time.monotonic()
        if now - self._free_at > 1.0 or self._free_at < 0:
            try:
                self._free = shutil.disk_usage(self.root).free
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

    def write_report(self, job: str, token: str, part: str, content: bytes) -> str:
        """Keep one object of a result durably and return its name.

        The name tells job, token, part and content apart, so that no later or stale attempt can
        overwrite what an earlier one wrote.

        Raises
        ------
        OutOfResources
            The file cannot be written.
        """
        digest = hashlib.sha256(content).hexdigest()
        word = part if re.fullmatch(r"[a-z0-9-]{1,32}", part) else _hash(part)[:16]
        stem = f"{_hash(job)[:32]}.{_hash(token)[:12]}.{word}.{digest[:16]}"
        name = f"reports/{stem[:2]}/{stem}.dcm"
        with Incoming(self) as incoming:
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
        if parts[0] not in FOLDERS or not all(re.fullmatch(r"[\w-][\w.-]*", p) for p in parts):
            raise NotFound("no such file in the spool")
        return self.root.joinpath(*parts)

    def remove(self, name: str) -> None:
        """Remove the file `name`; it may be gone already."""
        try:
            self.path(name).unlink(missing_ok=True)
        except OSError as exc:
            raise _no_room(self.root, exc) from exc

    def sweep(self, older_than_s: float) -> int:
        """Remove temporary files that a killed process left, and return how many."""
        before = time.time() - older_than_s
        count = 0
        for path in (self.root / "incoming").iterdir():
            try:
                if path.stat().st_mtime < before:
                    path.unlink()
                    count += 1
            except FileNotFoundError:
                continue  # its writer has just kept or discarded it
        return count

    def names(self, folder: str, older_than_s: float = 0.0) -> Iterator[str]:
        """Yield the names of the files below `folder` that nobody wrote for `older_than_s`."""
        before = time.time() - older_than_s
        for path in (self.root / folder).rglob("*.dcm"):
            try:
                old = path.stat().st_mtime <= before
            except FileNotFoundError:
                continue
            if old:
                yield path.relative_to(self.root).as_posix()


class Incoming:
    """A temporary file that vanishes unless it is kept.

    The hash covers what `write` gets, the data set; `write_head` takes preamble and File Meta
    Information, which each receiver writes anew.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._content = hashlib.sha256()
        self._head = hashlib.sha256()
        self.size = 0
        self._check_at = _CHECK_EVERY
        self.path = spool.root / "incoming" / f"{secrets.token_hex(16)}.part"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as exc:
            raise _no_room(spool.root, exc) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.discard()

    @property
    def sha256(self) -> str:
        """Hash of the data set bytes written so far."""
        return self._content.hexdigest()

    def write_head(self, head: bytes) -> None:
        """Append preamble and File Meta Information, which the content's hash leaves out."""
        self._head.update(head)
        self._append(head)

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes of the data set.

        Raises
        ------
        OutOfResources
            The disk is full or the watermark is reached.
        """
        self._content.update(chunk)
        self._append(chunk)

    def _append(self, chunk: bytes | bytearray | memoryview) -> None:
        rest = memoryview(chunk)
        try:
            while rest:
                written = os.write(self._fd, rest)
                self.size += written
                rest = rest[written:]
        except OSError as exc:
            raise _no_room(self._spool.root, exc) from exc
        if self.size >= self._check_at:
            self._check_at = self.size + _CHECK_EVERY
            if not self._spool.has_room():
                raise OutOfResources(f"{self._spool.root}: no room for the rest of the Instance")

    def reader(self) -> IO[bytes]:
        """Return a new reader at the start of what was written so far."""
        return self.path.open("rb")

    def keep(self, sop_instance_uid: str) -> Kept:
        """Make the file durable below ``images`` and return its name.

        Other content under the same UID gets another name, the same content the same one, so
        nothing that was kept is ever overwritten by something else.

        Raises
        ------
        OutOfResources
            The file cannot be made durable.
        """
        return self._keep("images", sop_instance_uid)

    def keep_conflict(self, sop_instance_uid: str) -> Kept:
        """Make the file durable below ``conflicts``: same UID as an Instance, other bytes."""
        return self._keep("conflicts", sop_instance_uid)

    def _keep(self, folder: str, sop_instance_uid: str) -> Kept:
        uid = _hash(sop_instance_uid)
        whole = _hash(f"{self._head.hexdigest()} {self.sha256}")
        name = f"{folder}/{uid[:2]}/{uid[:40]}.{whole[:16]}.dcm"
        self.place(name)
        return Kept(name, self.sha256, self.size)

    def place(self, name: str) -> None:
        """Make the bytes durable first, then the name: fsync, rename, fsync of the folder."""
        target = self._spool.path(name)
        try:
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                _sync_folder(target.parent.parent)
            self.path.rename(target)
            _sync_folder(target.parent)
        except OSError as exc:
            raise _no_room(self._spool.root, exc) from exc

    def discard(self) -> None:
        """Remove the temporary file, unless it was kept."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _no_room(root: Path, exc: OSError) -> OutOfResources:
    return OutOfResources(f"{root}: cannot be written: {exc.strerror or exc}")
