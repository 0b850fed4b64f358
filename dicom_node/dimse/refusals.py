"""One line and one count for each caller, request or association that is refused or aborted."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dicom_node.base.errors import Transient
from dicom_node.base.logs import Sparse
from dicom_node.store.clock import HOST_CLOCK

logger = logging.getLogger(__name__)

LINES_PER_MINUTE = 600
"""Most lines about one address."""
ADDRESSES = 256
"""Addresses whose lines are counted apart."""
KEPT = 512
"""Most different refusals that wait to be written down; further ones are counted as one."""
WRITE_S = 1.0
TITLE, REASON = 64, 256
"""Characters of what a stranger wrote, and of a reason, that are kept."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who was refused, why, how often and when (seconds since the epoch)."""

    ae_title: str
    address: str
    called_ae: str
    reason: str
    count: int = 1
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def who(self) -> str:
        """AE title and address for people; what a stranger wrote is escaped."""
        return f"{self.ae_title}@{self.address}" if self.ae_title else self.address


class Refusals:
    """Notes refusals: a line at once, counts a second later.

    Parameters
    ----------
    keep : callable
        Writes counts down for good; raises `Transient` when it cannot now.
    """

    def __init__(self, keep: Callable[[Sequence[Refusal]], None] = lambda counts: None) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._lines: OrderedDict[str, Sparse] = OrderedDict()
        self._counts: dict[tuple[str, str, str, str], Refusal] = {}
        self._noted: weakref.WeakSet[object] = weakref.WeakSet()
        self._stop = threading.Event()
        self._writer: threading.Thread | None = None

    def note(
        self, verb: str, refusal: Refusal, of: object | None = None, *, is_counted: bool = True
    ) -> None:
        """Write the line ``VERB WHO: REASON`` and count it.

        Parameters
        ----------
        of : object, optional
            The association: its end is one line, however many notice.
        is_counted : bool
            False for what its peer ended by itself.
        """
        with self._lock:
            if of is not None:
                if of in self._noted:
                    return
                self._noted.add(of)
            lines = self._lines_of(refusal.address)
            if is_counted:
                self._count_refusal(refusal)
        lines.warning("%s %s: %s", verb, refusal.who, refusal.reason)

    def is_told(self, of: object) -> bool:
        """Return whether a line about this association has been written."""
        return of in self._noted

    def hush(self, of: object) -> None:
        """Write no line about the end of an association: why is known, and is nobody's fault."""
        with self._lock:
            self._noted.add(of)

    def start(self) -> None:
        """Begin to write counts down."""
        self._writer = threading.Thread(target=self._write_counts, name="refusals", daemon=True)
        self._writer.start()

    def stop(self) -> None:
        """Write down what is left."""
        self._stop.set()
        if self._writer is not None:
            self._writer.join(timeout=2)
        self.flush()

    def flush(self) -> None:
        """Write counts down now; what cannot be written waits for the next time."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            self._keep(list(counts.values()))
        except Transient as exc:
            logger.warning("refused callers are not written down now: %s", exc)
            with self._lock:
                for refusal in counts.values():
                    self._count_refusal(refusal)

    def _write_counts(self) -> None:
        while not self._stop.wait(WRITE_S):
            self.flush()

    def _lines_of(self, address: str) -> Sparse:
        """Return the lines about one address; those about many addresses share one."""
        if address not in self._lines and len(self._lines) >= ADDRESSES:
            self._lines.popitem(last=False)
        lines = self._lines.setdefault(address, Sparse(logger, LINES_PER_MINUTE))
        self._lines.move_to_end(address)
        return lines

    def _count_refusal(self, new: Refusal) -> None:
        now = HOST_CLOCK.wall()
        new = replace(
            new,
            ae_title=new.ae_title[:TITLE],
            called_ae=new.called_ae[:TITLE],
            reason=new.reason[:REASON],
            first_at=new.first_at or now,
            last_at=new.last_at or now,
        )
        key = (new.ae_title, new.address, new.called_ae, new.reason)
        if key not in self._counts and len(self._counts) >= KEPT:
            new = replace(new, ae_title="", address="", called_ae="", reason="others")
            key = ("", "", "", "others")
        if old := self._counts.get(key):
            new = replace(new, count=old.count + new.count, first_at=old.first_at)
        self._counts[key] = new
