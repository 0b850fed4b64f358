"""How many processors this process has: those it may run on, or its container's share of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def processor_count(root: Path = Path("/")) -> int:
    """Return how many processors this process may keep busy, at least one.

    Parameters
    ----------
    root : Path
        Where ``/proc`` and ``/sys`` lie; an argument for tests.
    """
    is_linux = hasattr(os, "sched_getaffinity")
    seen = len(os.sched_getaffinity(0)) if is_linux else os.cpu_count() or 1
    # ``docker run --cpus``, a limit of Kubernetes and ``CPUQuota=`` leave all processors in sight
    # and stop their processes when these have used up their time.
    return max(1, min([seen, *map(math.ceil, _shares(root))]))


def _shares(root: Path) -> Iterator[float]:
    """Yield the time that this process's control groups get, in processors."""
    groups = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        inner = [part for part in path.split("/") if part]
        if ".." in inner:  # outside of what this container sees
            inner = []
        for top in (groups / "cpu",) if controllers else (groups, groups / "unified"):
            for depth in range(len(inner) + 1):
                share = _share_of(top.joinpath(*inner[:depth]))
                if share is not None:
                    yield share


def _share_of(group: Path) -> float | None:
    """Return the processors that a group of either version gets; None without a limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        share = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # not there, or "max"
        return None
    return share if share > 0 else None
