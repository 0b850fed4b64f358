"""How long programs take to begin and to end: serve, and the commands people wait for.

    python -m tests.bench.starts [--times 5] [--json FILE]

`serve` from its start to its first answer to C-ECHO, and from SIGTERM to its end, with a ledger
that exists and a broker of its own; commands from start to end.
Beside each, the processor time of the command: the wall time on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..soak.house import ROOT, House, until
from .record import Row, row, write

GOALS = {"serve": 2.0, "stop": 2.0, "status": 0.5, "trace": 0.5, "--help": 0.3}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    # as after an installation, which compiles: not all modules again at each start
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name:
        house = House(Path(name))
        rows = [*serves(house, given.times), *commands(house, given.times)]
    write("starts", rows, given.json)


def serves(house: House, times: int) -> list[Row]:
    """Start and end the node."""
    begins, ends = [], []
    config = house.node_toml.read_text(encoding="utf-8")
    own_broker = config.replace(f"redis://127.0.0.1:{house.redis}/0", "embedded")
    house.node_toml.write_text(own_broker, encoding="utf-8")
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(house.node_toml)]
    for _ in range(times + 1):
        with (house.folder / "serve.log").open("wb") as log:
            began = time.monotonic()
            node = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
            try:
                until(house.answers, 120, "the node answers")
                begins.append(time.monotonic() - began)
                time.sleep(4.0)  # all roles are there
            finally:
                began = time.monotonic()
                node.terminate()
                node.wait(60)
                ends.append(time.monotonic() - began)
    return [  # the first one makes the ledger
        row("serve, until C-ECHO is answered", begins[1:], "s", "the goal", GOALS["serve"]),
        row("serve, from SIGTERM to its end", ends[1:], "s", "the goal", GOALS["stop"]),
    ]


def commands(house: House, times: int) -> list[Row]:
    """Run what people wait for; an unknown UID costs `trace` as much as a known one."""
    config = ["--config", str(house.node_toml)]
    asked: dict[str, Sequence[str]] = {
        "status": ("status", *config),
        "trace": ("trace", "1.2.3", *config),
        "--help": ("--help",),
    }
    rows = []
    for name, words in asked.items():
        walls, used = [], []
        for _ in range(times + 1):
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            command = [str(Path(sys.executable).parent / "chexfract-node"), *words]
            subprocess.run(command, capture_output=True, check=False, cwd=ROOT, env={**os.environ})
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            walls.append(time.monotonic() - began)
            used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        # the first one compiles
        rows.append(row(f"{name}, wall time", walls[1:], "s", "the goal", GOALS[name]))
        rows.append(row(f"{name}, processor", used[1:], "s"))
    return rows


if __name__ == "__main__":
    main()
