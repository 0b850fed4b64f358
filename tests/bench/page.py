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
    "retention": "1: what is received waits for nothing that retention does.",
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
_SHARES = (
    "the result takes 3.4 ms (its row, events and deliveries 1.2, its file 0.8, the comparison "
    "with the image 0.5), the claim with the Instance 1.2, the event loop with h11 2 for both"
)
_IMPORTS = (
    "its imports, of processor: pydantic 0.09 s and its settings 0.07, SQLAlchemy 0.14, the "
    "ledger's tables and statements 0.16, our settings and messages 0.06, the command line 0.04"
)
_SIZE = (
    "its own are 65 to 70, libraries that all processes share 20: Python 9 MB, pydantic and "
    "settings 29, SQLAlchemy and the ledger 18; pydicom 21 where headers are read, pynetdicom 7, "
    "Celery and redis 8, FastAPI and pages 20"
)
_SCARCE = (
    "the processors of this machine: an image takes `processor_ms` of them, and while the model "
    "has a batch all of them have `affordable_ms` for it; `processors_wanted` would do"
)
_DISK = (
    "storescp syncs nothing, and 4 associations are one process here (`storescp --fork`: four). "
    "A third sync, the header and the ledger's row take 0.9 s of processor a GB, `floor` 0.6"
)
_SMALL = (
    "the listener's 1.8 to 2.5 ms of processor an image (storescp 0.65, a sender 0.6): three "
    "fifths are Python under one interpreter lock: the ledger's row, rules, the log line"
)
GOALS = (
    Goal("processor an image, all roles, at most 60 ms", "overhead", "processor of all", 60,
         f"the report takes the worker a third; in the web role {_SHARES}"),
    Goal("processor of the worker, at most 40 ms", "overhead", "processor of worker", 40,
         "the report takes a third, the look at the picture a fifth, HTTP a tenth"),
    Goal("of its own process, beside preparers, at most 25 ms", "overhead",
         "processor of the worker's own", 25, "claim and result over HTTP, Celery, its threads"),
    Goal("processor of the courier, at most 10 ms", "overhead", "processor of courier", 10,
         "three commits and two threads of pynetdicom's association for each report"),
    Goal("processor of the web role, at most 5 ms", "overhead", "processor of web", 5, _SHARES),
    Goal("processor of the listener, at most 5 ms", "overhead", "processor of listener", 5,
         "the header, three syncs and one transaction"),
    Goal("an idle node, at most 1 % of a core", "overhead", "idle node", 1, "loops that look"),
    Goal("single image of 10 MB, median at most 100 ms", "overhead", "single image of 10 MB", 100,
         "its stages: hand-out and claim 9 ms, fetch 14, decoding 18, report 12, the result with "
         "three syncs 15, the delivery with one 10 to 16"),
    Goal("the same, 95th percentile at most 200 ms", "overhead", "single image of 10 MB", 200,
         "a new association to the archive after two idle seconds, and the disk", of="p95"),
    Goal("an image of a backlog, at most 20 ms of wall time", "overhead", "image of a backlog", 20,
         "the processors: an image takes 45 ms of the node's and the worker's and 6 of sender and "
         "archive; (45 + 6) / 2 = 25 ms at least on two of them"),
    Goal("listener, 20 senders of 20 MB, at most 200 MB", "overhead", "memory of listener, 20",
         200, "a buffer of 1 MB and two threads for each association"),
    Goal("supervisor, at most 80 MB", "overhead", "memory of serve", 80, _SIZE),
    Goal("listener, idle, at most 80 MB", "overhead", "memory of listener", 80, _SIZE),
    Goal("courier, at most 80 MB", "overhead", "memory of courier", 80, _SIZE),
    Goal("web role, at most 80 MB", "overhead", "memory of web", 80, _SIZE),
    Goal("serve answers C-ECHO within 2 s", "starts", "serve, until", 2, _IMPORTS),
    Goal("serve ends within 2 s", "starts", "serve, from", 2, "the web role's last second"),
    Goal("status within 0.5 s", "starts", "status, wall", 0.5, _IMPORTS),
    Goal("trace within 0.5 s", "starts", "trace, wall", 0.5, _IMPORTS),
    Goal("--help within 0.3 s", "starts", "--help, wall", 0.3, "the start of Python itself"),
    Goal("a report in all SR classes, at most 15 ms", "report", "report, fracture", 15,
         "70 content items by highdicom"),
    Goal("10 MB x 4, at least 1.0 of storescp", "receive", "10 MB x 4, serve 1", 1.0, _DISK,
         True, "ratio"),
    Goal("0.5 MB x 4, at least 0.6 of storescp", "receive", "0.5 MB x 4, serve 1", 0.6, _SMALL,
         True, "ratio"),
    Goal("batches 0.9 full", "feed", "fill, 1 worker of 10", 0.9, _SCARCE, True),
    Goal("the model busy 0.95 of the time", "feed", "busy, 1 worker of 10", 0.95, _SCARCE, True),
    Goal("batches 0.9 full where processors are enough", "feed", "fill, processors enough", 0.9,
         "the feeding", True),
    Goal("the model busy 0.95 of the time there", "feed", "busy, processors enough", 0.95,
         "the feeding", True),
    Goal("8 workers do 7.6 times the work of 1", "feed", "speed_up", 7.6,
         "batches that are not full (`fill, 8 workers`)", True),
    Goal("decode loop, 3 times the remote code's at batch 8", "models", "decode loop", 3,
         "calls of torch, which take longer than what they compute at this size", True),
)  # fmt: skip


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
        *found.get("notes", ()),
        "",
        "### Goals",
        "",
        *goals(found["benches"]),
        "",
    ]
    for name, bench in found["benches"].items():
        lines += [f"### {name}", "", f"Limit: {LIMITS[name]}", ""]
        lines += ["| what | median | p95 | n | ratio |", "|---|---|---|---|---|"]
        for row in bench["rows"]:
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f} of {row['anchor']}"
            middle = f"{row['median']:.2f} {row['unit']}".strip()
            lines.append(f"| {row['name']} | {middle} | {row['p95']:.2f} | {row['n']} | {ratio} |")
        lines.append("")
    if found["failed"]:
        lines += [f"Not measured in this run: {', '.join(found['failed'])}.", ""]
    return "\n".join(lines)
