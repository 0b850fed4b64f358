"""Priority: the order of work, and the Standard's numbers that mean something else."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """The ledger's, the rules' and the queue's order: the lowest number goes first."""

    STAT = 0
    NORMAL = 1
    LOW = 2


class DimsePriority(IntEnum):
    """Priority (0000,0700) of a DIMSE request (PS3.7 E.1)."""

    MEDIUM = 0
    HIGH = 1
    LOW = 2


FROM_DIMSE = {
    DimsePriority.MEDIUM: Priority.NORMAL,
    DimsePriority.HIGH: Priority.STAT,
    DimsePriority.LOW: Priority.LOW,
}

FROM_RULE = {"stat": Priority.STAT, "normal": Priority.NORMAL, "low": Priority.LOW}
"""The words of ``[[rules]] priority``."""
