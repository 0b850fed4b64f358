"""Two checkpoints over phantoms with a truth, one run killed in the middle: rows, figures, pages.

By command, because 2,000 images twice take ten minutes of two cores:

    python -m tests.drill.research_run --count 2000 --out FOLDER

Measured on two busy cores (3 to 7 images a second): killed at 1,000 of 2,000 rows, none missing,
none repeated; accuracy of the full model 1.000 (95 % 0.998 to 1.000), of the weakened one 0.800,
McNemar p = 4e-124.

Ends with 1 where a row is missing or stands twice, or where the full model does not win.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

WORKER = [sys.executable, "-m", "worker"]
WEAKENED = """\
[worker]
model = "weakened"
[models.weakened]
engine = "chexfract"
path = {path}
"""


def say(*arguments: str) -> str:
    """Run a command of the worker to its end and return what it printed."""
    done = subprocess.run([*WORKER, *arguments], capture_output=True, text=True, check=False)
    print(f"$ chexfract-worker {' '.join(arguments)}\n  exit {done.returncode}", flush=True)
    if done.returncode > 1:
        raise SystemExit(done.stderr)
    return done.stdout


def rows_in(results: Path) -> int:
    return results.read_bytes().count(b"\n") if results.exists() else 0


def kill_in_the_middle(images: Path, run: Path, at: int) -> int:
    """Describe until `at` rows are written, then end the process by SIGKILL; return the rows."""
    command = [*WORKER, "describe", str(images), "--out", str(run), "--quiet"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while rows_in(run / "results.jsonl") < at and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return rows_in(run / "results.jsonl")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--noise", default="0.7")
    given = parser.parse_args()
    out: Path = given.out
    images, full, weak = out / "phantoms", out / "full", out / "weakened"
    say("phantom", "draw", "--count", str(given.count), "--out", str(images), "--seed", "77")
    say("phantom", "weaken", "--out", str(out / "weights"), "--noise", given.noise)
    config = out / "weakened.toml"
    config.write_text(WEAKENED.format(path=json.dumps(str(out / "weights"))))
    labels = str(images / "truth.csv")

    kept = kill_in_the_middle(images, full, given.count // 2)
    print(f"killed with {kept} rows", flush=True)
    said = say("describe", str(images), "--out", str(full), "--quiet", "--json")
    resumed = json.loads(said)["resumed"]
    say("describe", str(images), "--out", str(weak), "--quiet", "--config", str(config))
    evaluated = say("evaluate", str(full), "--labels", labels, "--html", str(out / "full.html"))
    say("evaluate", str(weak), "--labels", labels, "--html", str(out / "weakened.html"))
    page = str(out / "comparison.html")
    compared = say("compare", str(full), str(weak), "--labels", labels, "--html", page)

    lines = (full / "results.jsonl").read_text().splitlines()
    counted = Counter(json.loads(line)["file"] for line in lines)
    with (images / "truth.csv").open(newline="") as table:
        drawn = {str(images / row["file"]) for row in csv.DictReader(table)}
    missing, twice = len(drawn - counted.keys()), sum(n > 1 for n in counted.values())
    print(f"{len(lines)} rows, {resumed} of the killed run; missing {missing}, repeated {twice}")
    print("\n".join(evaluated.splitlines()[:12]))
    print("\n".join(line for line in compared.splitlines() if not line.startswith("  ")))
    is_better = "bootstrap accuracy" in compared and " A - B +0." in compared
    return 0 if not missing and not twice and resumed >= kept - 1 and is_better else 1


if __name__ == "__main__":
    raise SystemExit(main())
