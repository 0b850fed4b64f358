"""How many pictures fit into a model's memory at a time: learned, remembered, grown back slowly."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

GROW_AFTER = 50
"""Full batches without trouble after which one more picture is tried; twice as many after each
failure of such a try."""
LONGEST_PATIENCE = 1 << 14
MOST_KEPT = 64
"""Models and devices that the file remembers."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What fitted last."""

    most: int
    """Pictures at a time."""
    failed: int = 0
    """The smallest batch that ran out of memory since; 0: none."""
    at: float = 0.0
    """Seconds since the epoch."""


class BatchLimit:
    """The largest batch that is asked of one model on one device.

    Parameters
    ----------
    wanted : int
        ``worker.batch``: never more than this.
    key : str
        Model version and device, under which `store` remembers what fitted.
    store : Path, optional
        The file that outlives this process; none: what is learned ends with it.
    """

    def __init__(self, wanted: int, key: str = "", store: Path | None = None) -> None:
        self.wanted = wanted
        self._key = key
        self._store = store
        self._lock = threading.Lock()
        self._full = 0
        self._is_try = False
        self._patience = GROW_AFTER
        kept = recall_fits(store).get(key) if store is not None else None
        self.is_known = kept is not None
        """Whether what fitted was remembered from an earlier run."""
        self.failed = kept.failed if kept else 0
        self.most = min(wanted, kept.most) if kept else wanted
        if self.most < wanted:
            logger.info("batches of %d: more did not fit into memory (%s)", self.most, key)

    def passed(self, size: int) -> None:
        """Note that a batch of this size fitted; after many full ones, one more is tried."""
        with self._lock:
            # A smaller batch than is allowed proves nothing about a larger one.
            if size < self.most or self.most >= self.wanted:
                return
            self._is_try = False
            self._full += 1
            if self._full >= self._patience:
                self._full, self._is_try = 0, True
                self._set_most(self.most + 1)

    def filled(self, size: int) -> None:
        """Note that memory filled with a batch of this size: half of it, and not more from now on.

        Where it was a try of one more than had fitted for long, that is what is gone back to.
        """
        with self._lock:
            if size <= 1:
                return
            self.failed, self._full = size, 0
            if self._is_try and size == self.most:
                self._is_try = False
                self._patience = min(2 * self._patience, LONGEST_PATIENCE)
                self._set_most(size - 1)
            else:
                self._set_most(max(1, min(self.most, size // 2)))

    def restore(self, most: int) -> None:
        """Take back what was learned since: one picture alone was to blame."""
        with self._lock:
            self._set_most(min(most, self.wanted))

    def _set_most(self, most: int) -> None:
        if most == self.most:
            return
        logger.warning("batches of at most %d from now on, %d before", most, self.most)
        self.most = most
        if self._store is not None:
            remember_fit(self._store, self._key, Fit(most, self.failed, time.time()))


def store_path() -> Path | None:
    """Return the file in which workers of this user remember what fitted; None: there is no home.

    systemd's ``CacheDirectory=`` comes first, then ``XDG_CACHE_HOME``, then the home directory.
    """
    folder = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    if folder:
        return Path(folder) / "batches.json"
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:
        return None
    return home / "chexfract" / "batches.json"


def recall_fits(store: Path | None) -> dict[str, Fit]:
    """Return what the file remembers, by model version and device; nothing where it is damaged."""
    if store is None:
        return {}
    try:
        content = json.loads(store.read_text(encoding="utf-8"))
        return {
            str(key): Fit(max(1, int(fit["most"])), int(fit["failed"]), float(fit["at"]))
            for key, fit in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def remember_fit(store: Path, key: str, fit: Fit) -> None:
    """Write one fit beside those of other models; a disk that takes nothing does no harm."""
    fits = recall_fits(store) | {key: fit}
    newest = sorted(fits, key=lambda name: fits[name].at, reverse=True)[:MOST_KEPT]
    content = json.dumps({name: asdict(fits[name]) for name in newest}, indent=1)
    # Of its own name in each process: workers of several GPUs write the same file, and a reader
    # must never see half of it.
    part = store.with_name(f"{store.name}.{os.getpid()}")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(content, encoding="utf-8")
        part.replace(store)
    except OSError as exc:
        logger.debug("%s: %s", store, exc.strerror or exc)
        with suppress(OSError):
            part.unlink()
