"""``make bench``: every bench in one run, as text and JSON in one file, and a page of the manual.

    python -m tests.bench [--short] [--only receive report …] [--out FILE] [--page]

Each bench is a process of its own. ``--short`` takes minutes in all and says less; ``--page``
writes the tables into the manual. Compare figures of one run on a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from .page import PAGE, written
from .record import Row, machine

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")

Content = dict[str, Any]


def of_rows(content: Content) -> list[Row]:
    """Return the rows of a bench that writes them."""
    return [Row(**row) for row in content["rows"]]


def of_report(content: Content) -> list[Row]:
    """Return the rows of `report`: three SR classes together beside the slow way."""
    return [
        Row(f"report, {row['case']}", "ms of processor", row["n"], row["median_ms"], row["p95_ms"],
            row["median_ms"] / row["slow_way_ms"], "highdicom without caches")
        for row in content["rows"]
    ]  # fmt: skip


def of_feed(content: Content) -> list[Row]:
    """Return how full and busy the model is kept."""
    found = []
    names = ("fill", "busy", "images_per_s", "processor_ms", "affordable_ms", "processors_wanted")
    sized = 0
    for line in content["lines"]:
        count = line.get("workers", 1)
        title = f"{count} worker{'s' if count > 1 else ''}"
        if "size_mb" in line:
            sized += 1
            title += f" of {line['size_mb']:g} MB"
            title = title if sized == 1 else f"processors enough: {title}, {line['model_ms']} ms"
        for name in names:
            if name in line:
                found.append(
                    Row(f"{name}, {title}", "", line.get("images", 1), line[name], line[name])
                )
        if "speed_up" in line:
            found.append(Row("speed_up of 8 workers", "", 1, line["speed_up"], line["speed_up"]))
    return found


def of_models(content: Content) -> list[Row]:
    """Return how much faster the decode loop is by our own path, in the small shape."""
    return [
        Row(f"decode loop, native beside remote, batch {line['batch']}", "",
            line.get("turns", 1), line["decode_ratio"], line["decode_ratio"])
        for line in content["lines"] if "decode_ratio" in line
    ]  # fmt: skip


def of_growth(content: Content) -> list[Row]:
    """Return what the largest ledger costs beside the smallest."""
    names = {field.name for field in fields(Row)}
    largest = max(row["size"] for row in content["rows"])
    return [
        Row(**{key: value for key, value in row.items() if key in names})
        for row in content["rows"]
        if row["size"] == largest
    ]


def of_soak(content: Content) -> list[Row]:
    """Return rate, latency and processor of a steady load."""
    late, n = content["latency_ms"], content["arrived"]
    rate = content["rate"]
    found = [
        Row("steady load", "images/s", n, rate, rate),
        Row("C-STORE to archive", "ms", late["n"], late["median"], late["p95"]),
    ]
    each = content["per_image_ms"]
    found += [Row(f"processor of {role}", "ms/image", n, ms, ms) for role, ms in each.items()]
    total = sum(each.values())
    return [*found, Row("processor of all", "ms/image", n, total, total, total / 60, "the goal")]


Bench = tuple[list[str], list[str], Callable[[Content], list[Row]]]

BENCHES: dict[str, Bench] = {
    "receive": (
        ["--n", "1", "4", "--repeat", "5", "--big", "20", "--small", "160"],
        [
            *("--n", "4", "--repeat", "2", "--big", "5", "--small", "60", "--receivers"),
            *("storescp tuned", "node", "serve 2", "floor"),
        ],
        of_rows,
    ),
    "starts": ([], ["--times", "2"], of_rows),
    "overhead": ([], ["--images", "6", "--backlog", "20"], of_rows),
    "report": (["-n", "100"], ["-n", "20"], of_report),
    "feed": ([], ["--images", "24", "--size", "0.5", "--workers", "1"], of_feed),
    "growth": (
        ["--database", "sqlite", "postgresql"],
        ["--sizes", "1000", "10000", "--times", "10"],
        of_growth,
    ),
    "retention": ([], ["--size", "10000", "--seconds", "3", "--turns", "1"], of_rows),
    "pixels": (["61"], ["7"], of_rows),
    "models": (
        ["--small", "--product-only", "--device", "cpu", "--batch", "8"],
        ["--small", "--product-only", "--device", "cpu", "--batch", "8", "--repeat", "3"],
        of_models,
    ),
    "soak": (["--minutes", "5"], ["--minutes", "0.7"], of_soak),
}
"""Arguments of the long and of the short form, and how its result is read."""


def main() -> None:
    """Run the benches and keep what they found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--page", action="store_true", help="write results and the manual's page")
    given = parser.parse_args()
    found: Content = {"machine": machine(), "is_short": given.short, "benches": {}, "failed": []}
    for name in given.only:
        long, short, read = BENCHES[name]
        began = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            content, text = run(name, short if given.short else long)
        except (subprocess.CalledProcessError, ValueError, KeyError) as exc:
            print(f"== {name} FAILED: {exc}", flush=True)
            found["failed"].append(name)
            continue
        rows = [asdict(row) for row in read(content)]
        found["benches"][name] = {"rows": rows, "text": text}
        print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    if given.page:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(f"written to {given.out}")
    sys.exit(1 if found["failed"] else 0)


def run(name: str, arguments: list[str]) -> tuple[Content, str]:
    """Run one bench in a process of its own; return its result and its text."""
    module = "tests.soak" if name == "soak" else f"tests.bench.{name}"
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        if name == "report":
            command.append("--json")
        elif name not in ("feed", "models"):
            command += ["--json", str(path)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        if done.returncode and not (name == "soak" and path.exists()):
            raise subprocess.CalledProcessError(done.returncode, module)
        if name == "report":
            return json.loads(done.stdout), done.stdout
        if name in ("feed", "models"):
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            return {"lines": lines}, done.stdout
        return json.loads(path.read_text()), done.stdout


if __name__ == "__main__":
    main()
