"""What takes the space of the node's disk, and what of it a person may let go before its time."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

from dicom_node.base.errors import ChexFractError, NotFound, NotUnderstood
from dicom_node.base.plurals import counted
from dicom_node.settings import Settings
from dicom_node.store.actor import Actor
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.purge import FreedKind, Purgeable
from dicom_node.store.retention import ORPHAN_AGE_S, RetentionSweep
from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)

RemovalKind = FreedKind | Literal["left"]
"""`FreedKind`, or files that a crash has left over: no row of the ledger names them."""

FREED_KINDS: tuple[FreedKind, ...] = get_args(FreedKind)

LOOK_AGAIN_S = 60.0
"""Age from which the figures are counted again when somebody asks."""
LOOK_WAIT_S = 1.5
"""Longest wait of who asks; meanwhile the last figures stand."""

SECOND_LOOK_S = 10.0
"""Time between two looks for files that are left over: the row of one may be on its way."""

_BATCH = 200
_SAMPLE = 200
"""Reports that are looked at to know about how large all are."""


@dataclass(frozen=True, slots=True)
class SpacePart:
    """Files of one purpose: their number where it is known, their bytes, their folder."""

    key: str
    """``images``, ``reports``, ``conflicts``, ``incoming``, ``ledger``, ``log`` or ``audit``."""
    size: int
    folder: Path
    count: int | None = None
    is_about: bool = False
    """Whether the size was reckoned from a sample."""
    is_here: bool = True
    """Whether it lies on the disk of the images."""


@dataclass(frozen=True, slots=True)
class FreeablePart:
    """What a person may let go now."""

    kind: FreedKind
    count: int
    size: int
    is_about: bool = False


@dataclass(frozen=True, slots=True)
class SpaceView:
    """The disk of the spool at one moment."""

    at: float
    total: int
    free: int
    parts: tuple[SpacePart, ...] = ()
    freeable: tuple[FreeablePart, ...] = ()

    @property
    def others(self) -> int:
        """The bytes of the disk that are not this node's."""
        own = sum(part.size for part in self.parts if part.is_here)
        return max(0, self.total - self.free - own)


@dataclass(slots=True)
class Removal:
    """A removal under way, or over."""

    kind: RemovalKind
    older_s: float
    by: Actor
    began: float
    total: int = 0
    """Files that it was about when it began; 0: not known before."""
    done: int = 0
    size: int = 0
    """Bytes that were given back."""
    problem: str = ""
    ended: float = 0.0


@dataclass(slots=True)
class _Look:
    view: SpaceView | None = None
    at: float = field(default=float("-inf"))
    under_way: threading.Event | None = None


class DiskSpace:
    """Counts what takes the space, by threads of their own, and removes what people let go.

    Parameters
    ----------
    settings : Settings
        Where the files lie.
    ledger : Ledger
    spool : Spool
    """

    def __init__(self, settings: Settings, ledger: Ledger, spool: Spool) -> None:
        self._settings = settings
        self._ledger = ledger
        self._spool = spool
        self._lock = threading.Lock()
        self._looks: dict[float, _Look] = {}
        self._removal: Removal | None = None

    def view(self, older_s: float) -> SpaceView | None:
        """Return what takes the space, at most a minute old; None while it is counted first.

        Parameters
        ----------
        older_s : float
            Age from which files count as those that may go.
        """
        with self._lock:
            look = self._looks.setdefault(older_s, _Look())
            if time.monotonic() - look.at < LOOK_AGAIN_S:
                return look.view
            if look.under_way is None:
                look.under_way = threading.Event()
                work = threading.Thread(
                    target=self._look, args=(look, older_s, look.under_way), daemon=True
                )
                work.start()
            under_way = look.under_way
        under_way.wait(LOOK_WAIT_S)
        return look.view

    def _look(self, look: _Look, older_s: float, done: threading.Event) -> None:
        try:
            found = self.count(older_s)
            with self._lock:
                look.view, look.at = found, time.monotonic()
        except (ChexFractError, OSError) as exc:
            logger.warning("the space of the disk cannot be counted: %s", exc)
        finally:
            with self._lock:
                look.under_way = None
            done.set()

    def count(self, older_s: float) -> SpaceView:
        """Count now; this looks at every file that is kept."""
        usage = shutil.disk_usage(self._spool.root)
        now = self._ledger.clock.wall()
        report = self._report_size()
        weights = {kind: self._ledger.purge.weigh(kind, now - older_s) for kind in FREED_KINDS}
        freeable = tuple(
            FreeablePart(
                kind,
                one.count,
                round(one.count * report) if one.size is None else one.size,
                one.size is None,
            )
            for kind, one in weights.items()
        )
        return SpaceView(now, usage.total, usage.free, tuple(self._parts(report)), freeable)

    def _parts(self, report: float) -> Iterator[SpacePart]:
        root, settings = self._spool.root, self._settings
        here = root.stat().st_dev

        def is_here(folder: Path) -> bool:
            with suppress(OSError):
                return folder.stat().st_dev == here
            return False

        for key, one in self._ledger.purge.kept_files().items():
            size = round(one.count * report) if one.size is None else one.size
            yield SpacePart(key, size, root / key, one.count, one.size is None)
        incoming = list(_files(root / "incoming"))
        yield SpacePart("incoming", sum(incoming), root / "incoming", len(incoming))
        data_dir = settings.node.data_dir
        if self._ledger.is_sqlite:
            size = sum(_files(data_dir, "ledger.sqlite"))
            yield SpacePart("ledger", size, data_dir, is_here=is_here(data_dir))
        log = data_dir / "log"
        yield SpacePart("log", sum(_files(log)), log, is_here=is_here(log))
        if (audit := settings.audit_file) is not None:
            size = sum(_files(audit.parent, audit.name, f".{audit.name}"))
            yield SpacePart("audit", size, audit.parent, is_here=is_here(audit.parent))

    def _report_size(self) -> float:
        """Return the mean size of some reports; their rows do not have it."""
        sizes = []
        for name in islice(self._spool.names("reports"), _SAMPLE):
            with suppress(OSError):
                sizes.append(self._spool.path(name).stat().st_size)
        return sum(sizes) / len(sizes) if sizes else 0.0

    # removing -------------------------------------------------------------------------------------

    @property
    def removal(self) -> Removal | None:
        """The last removal: it may be under way."""
        with self._lock:
            return self._removal

    def begin(
        self, kind: RemovalKind, older_s: float, by: Actor, note: Callable[[Removal], None]
    ) -> bool:
        """Begin to remove what may go; False where another removal is under way.

        Parameters
        ----------
        note : callable
            Gets the removal when it is over, for the audit trail.
        """
        view = self._looks.get(older_s, _Look()).view
        total = {one.kind: one.count for one in view.freeable} if view else {}
        run = Removal(
            kind,
            older_s,
            by,
            self._ledger.clock.wall(),
            total.get(kind, 0) if kind != "left" else 0,
        )
        with self._lock:
            if self._removal is not None and not self._removal.ended:
                return False
            self._removal = run
        threading.Thread(target=self._do, args=(run, note), daemon=True, name="removal").start()
        return True

    def _do(self, run: Removal, note: Callable[[Removal], None]) -> None:
        try:
            if run.kind == "left":
                self._remove_left(run)
            else:
                self._remove(run, run.kind)
        except (ChexFractError, OSError) as exc:
            run.problem = str(exc)
        finally:
            with self._lock:
                self._looks.clear()  # what was counted is not so any more
            run.ended = self._ledger.clock.wall()
            files, size = counted(run.done, "file"), counted(run.size, "byte")
            logger.info("removed %s (%s), %s", files, run.kind, size)
            note(run)

    def _remove(self, run: Removal, kind: FreedKind) -> None:
        # The age is that of when it was begun: what gets old meanwhile was shown to nobody.
        before = self._ledger.clock.wall() - run.older_s
        while items := self._ledger.purge.removable(kind, before, _BATCH):
            done = run.done
            for item in items:
                self._remove_file(run, item, kind, before)
            if run.done == done:
                return  # something holds them now

    def _remove_file(self, run: Removal, item: Purgeable, kind: FreedKind, before: float) -> None:
        digest, size = "", 0
        with suppress(NotFound, NotUnderstood, OSError):
            size = self._spool.path(item.file).stat().st_size
            if item.what == "image":  # it may come again, and must be known then
                digest = self._spool.digest(item.file)
        if self._ledger.purge.let_go(item, kind, before, run.by, digest):
            self._spool.remove(item.file)
            run.done += 1
            run.size += size

    def _remove_left(self, run: Removal) -> None:
        free = shutil.disk_usage(self._spool.root).free
        run.done += self._spool.sweep(ORPHAN_AGE_S)
        sweep = RetentionSweep(self._settings, self._spool, self._ledger)
        sweep.sweep()
        time.sleep(SECOND_LOOK_S)
        run.done += sweep.sweep()
        run.size = max(0, shutil.disk_usage(self._spool.root).free - free)


def _files(folder: Path, *begins: str) -> Iterator[int]:
    """Yield the sizes of the files of a folder, of those with a beginning where some are given."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if begins and not entry.name.startswith(begins):
                continue
            with suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_size
