"""What a bench has measured, in one form: rows with median, 95th percentile and a ratio."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("pydicom", "pynetdicom", "highdicom", "numpy", "imagecodecs", "torch", "sqlalchemy")


@dataclass(frozen=True)
class Row:
    """One figure."""

    name: str
    unit: str
    n: int
    median: float
    p95: float
    ratio: float | None = None
    """Of the medians, to the anchor."""
    anchor: str = ""
    size: int | None = None


def row(
    name: str, values: Sequence[float], unit: str, anchor: str = "", base: float | None = None
) -> Row:
    """Return the row of some values; `base` is the anchor's median."""
    ascending = sorted(values)
    middle = statistics.median(ascending)
    p95 = ascending[min(len(ascending) - 1, round(0.95 * (len(ascending) - 1)))]
    return Row(name, unit, len(ascending), middle, p95, middle / base if base else None, anchor)


def machine() -> dict[str, Any]:
    """Return where this was measured, and how busy it was."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": found,
    }


def write(bench: str, rows: Sequence[Row], path: Path | None) -> None:
    """Print rows for people, and write them into `path` for programs."""
    where = machine()
    print(f"{bench}: {where['processor']}, {where['cores']} cores, load {where['load']}")
    for row in rows:
        ratio = "" if row.ratio is None else f"  x{row.ratio:.2f} of {row.anchor}"
        print(
            f"  {row.name:42} {row.median:9.2f} {row.unit:10} p95 {row.p95:9.2f}  n {row.n}{ratio}"
        )
    if path is not None:
        content = {"bench": bench, "machine": where, "rows": [asdict(row) for row in rows]}
        path.write_text(json.dumps(content, indent=1) + "\n")
