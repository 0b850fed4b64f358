"""Writes what `make bench` found into the manual's page about performance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = (
    Path(__file__).resolve().parents[2] / "dicom_node" / "manual" / "explanation" / "performance.md"
)
BEGIN, END = "<!-- figures: make bench -->", "<!-- end of figures -->"

LIMITS = {
    "receive": "Each byte over loopback, and into a file that is synced and renamed: `floor`.",
    "overhead": "Two syncs of the disk for the Instance, two for its report, one C-STORE to the "
    "archive: some 5 ms on a disk that syncs in 1.",
    "report": "Writing the bytes of three data sets of 100 elements: pydicom takes 4 ms for them.",
    "feed": "1: every batch full, the model never idle.",
    "growth": "1: what one Instance costs does not depend on how many there are.",
    "pixels": "One reading and one writing of the memory: the row `copy`.",
    "soak": "The sum of the stages; the model is free.",
    "starts": "The imports: `--help` is Python itself, 0.02 s, and the console script.",
    "models": "The weights' products alone; both paths do the same.",
}
"""What no software could beat, beside each group of figures."""


@dataclass(frozen=True)
class Goal:
    """What a figure has to be, and what stands in the way where it is not."""

    words: str
    bench: str
    row: str
    """The start of the row's name."""
    limit: float
    obstacle: str
    is_least: bool = False
    """Whether the figure has to be so much or more, else so much or less."""
    of: str = "median"
    """Which figure of the row: median, p95 or ratio."""

    def found(self, benches: dict[str, Any]) -> float | None:
        """Return the figure; None where it was not measured."""
        rows = benches.get(self.bench, {}).get("rows", ())
        known = [row[self.of] for row in rows if row["name"].startswith(self.row)]
        return known[0] if known else None

    def is_met(self, value: float) -> bool:
        """Return whether a figure is good enough."""
        return value >= self.limit if self.is_least else value <= self.limit


NOT_MEASURED = "not measured in this run"
GOALS: tuple[Goal, ...] = ()


def goals(benches: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table of goals: met, or what stands in the way."""
    yield "| goal | measured | |"
    yield "|---|---|---|"
    for goal in GOALS:
        value = goal.found(benches)
        if value is None:
            yield f"| {goal.words} | | {NOT_MEASURED} |"
        else:
            verdict = "met" if goal.is_met(value) else f"missed: {goal.obstacle}"
            yield f"| {goal.words} | {value:.3g} | {verdict} |"


def written(page: str, found: dict[str, Any]) -> str:
    """Return the page with the figures of `found` between its two marks."""
    head, _, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    return head.rstrip() + "\n\n" + BEGIN + "\n" + tables(found) + END + tail


def tables(found: dict[str, Any]) -> str:
    """Return a heading and a table for each bench."""
    where = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines = [
        "",
        "## Figures of one run",
        "",
        f"`make bench`{' (short form)' if found['is_short'] else ''} on {where['processor']}, "
        f"{where['cores']} cores, load {where['load']} at the start; Python {where['python']}, "
        f"{versions}.",
        "",
        "### Goals",
        "",
        *goals(found["benches"]),
        "",
    ]
    for name, one in found["benches"].items():
        lines += [f"### {name}", "", f"Limit: {LIMITS[name]}", ""]
        lines += ["| what | median | p95 | n | ratio |", "|---|---|---|---|---|"]
        for row in one["rows"]:
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} of {row['anchor']}"
            middle = f"{row['median']:.2f} {row['unit']}".strip()
            lines.append(f"| {row['name']} | {middle} | {row['p95']:.2f} | {row['n']} | {ratio} |")
        lines.append("")
    if found["failed"]:
        lines += [f"Not measured in this run: {', '.join(found['failed'])}.", ""]
    return "\n".join(lines)
