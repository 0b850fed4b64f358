"""``python -m tests.drill.upgrade``: from the last release to this version with work in flight.

First a worker goes, by mistake, and is served by the old node. Then the node and one worker after
the other, under load; then the workers go back to the last release, which a newer node goes on
serving. The last release's node is started on the new schema: what it does then is part of the
result. At the end this version works on a schema that a next version has added to. Exit code 69
without the history of Git.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import sqlalchemy as sa

from ..support.ledgers import expand
from ..support.peers import NotPossible, need, where_possible
from . import count as counting
from . import processes
from .pictures import picture
from .processes import ROOT, Station, answers, wait_for
from .sender import Sender
from .world import SABOTAGE, SECRET, Choice, World

LAST_RELEASE = "c6e77f2"
"""The commit of 0.1.0."""

PATIENCE_S, SOME, FEW, GROUP = 240.0, 10, 3, 5


class UpgradedWorld(World):
    """The drill's hospital, whose programs change their version."""

    def __init__(self, choice: Choice, old: Path) -> None:
        self._old = old
        super().__init__(choice)

    def _configure(self) -> None:
        super()._configure()
        # the keys of 0.1.0, which this version takes as well
        node, worker = self.folder / "node.toml", self.folder / "worker.toml"
        node.write_text(node.read_text().replace("listeners = 2\n", ""))
        worker.write_text(worker.read_text().replace("\nnodes = ", "\nannounce = "))

    def _mount(self) -> None:
        """No small disk: nothing fills it here."""

    def becomes(self, station: Station, version: str) -> None:
        """End a program and start the other version of it."""
        station.wanted = False
        station.signal(signal.SIGTERM)
        wait_for(f"{station.name} ends", lambda: station.process is None, PATIENCE_S)
        self.prepare(station, version)
        station.wanted = True

    def prepare(self, station: Station, version: str) -> None:
        """Let a program run in this version from its next start on."""
        folder = self._old if version == "old" else ROOT
        paths = [str(folder / "tests" / "drill" / SABOTAGE.name), str(folder)]
        station.folder = folder
        station.environment = {**station.environment, "PYTHONPATH": os.pathsep.join(paths)}

    def reported(self) -> int:
        """Return how many reports the ledger has."""
        return self._count("state = 'reported'")

    def _count(self, condition: str, **values: str) -> int:
        engine = sa.create_engine(self.ledger, poolclass=sa.NullPool)
        query = f"SELECT count(*) FROM jobs WHERE {condition}"
        with engine.connect() as connection:
            return int(connection.execute(sa.text(query), values).scalar_one())

    def reported_by(self, worker: Station) -> int:
        """Return how many reports a worker has made since its start."""
        return self._count("state = 'reported' AND worker LIKE :name", name=f"%:{worker.pid}")

    def failed(self) -> int:
        """Return how many jobs have failed."""
        return self._count("state = 'failed'")

    def expand(self) -> str:
        """Add to the schema what a next version may add, while no node runs."""
        if self.choice.database == "postgresql":
            return expand(self.ledger)
        return expand(f"sqlite:///{self.data / 'ledger.sqlite'}")

    def makes_reports(self) -> None:
        """Return when some more reports were made."""
        before = self.reported()
        wait_for("more reports are made", lambda: self.reported() >= before + SOME, PATIENCE_S)


def _last_release() -> bytes:
    """Return the last release's files as Git archives them."""
    archive = subprocess.run(
        ["git", "archive", LAST_RELEASE], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode:
        raise NotPossible(f"the history of Git has no {LAST_RELEASE}: a whole clone is needed")
    return archive.stdout


def _unpacked(content: bytes, folder: Path) -> Path:
    made = folder / "old"
    made.mkdir()
    subprocess.run(["tar", "-x", "-C", str(made)], input=content, check=True)
    return made


def upgrade(options: argparse.Namespace) -> dict[str, Any]:
    """Upgrade and go back, as far as that goes; return the figures."""
    for program in ("redis-server", "storescu"):
        need(program)
    rng = Random(options.seed)
    release = _last_release()  # before anything is made that would have to be removed
    folder = Path(tempfile.mkdtemp(prefix="upgrade-"))
    steps: list[str] = []
    choice = Choice(folder / "world", seconds=0.1, stuck_s=60.0, database=options.database)
    world = UpgradedWorld(choice, _unpacked(release, folder))
    try:
        # 0.1.0 knows the job API's secret by this name; it works for one more minor version
        shared = {"CHEXFRACT_WEB__SECRET": SECRET}
        world.serve.environment = {**world.serve.environment, **shared}
        for station in (world.serve, *world.workers):
            world.prepare(station, "old")
        pictures = [picture(i, rng.getrandbits(96)) for i in range(options.instances)]

        def done(step: str) -> None:
            steps.append(f"{step}: {world.reported()} reports")
            print(steps[-1], file=sys.stderr)

        with world.running():
            sender = Sender(world.ports["node"], pictures, GROUP, rng, folder, tries=12)
            sender.start()
            part = options.instances // 6
            sender.allow(part)
            world.makes_reports()
            done("all of the last release")

            early, other = world.workers
            other.wanted = False  # the new one has to do it
            other.signal(signal.SIGTERM)
            world.becomes(early, "new")
            sender.allow(2 * part)
            wait_for(
                "the new worker makes reports for the old node, or fails",
                lambda: world.reported_by(early) >= FEW or world.failed() > 0,
                PATIENCE_S,
            )
            done(f"old node, {early.name} new")
            other.wanted = True
            world.becomes(early, "old")

            sender.allow(3 * part)
            world.becomes(world.serve, "new")
            wait_for("the new node listens", lambda: answers(world.ports["node"]), PATIENCE_S)
            world.makes_reports()
            done("new node, old workers")

            for number, worker in enumerate(world.workers):
                world.becomes(worker, "new")
                # some for each: the other may have done all there was while this one ended
                sender.allow(4 * part + number * part // 2)
                world.makes_reports()
                done(f"{worker.name} new")

            sender.allow(5 * part)
            for worker in world.workers:
                world.becomes(worker, "old")
                world.makes_reports() if worker is world.workers[0] else None
                done(f"{worker.name} old again")
            wait_for("nearly all is sent", lambda: sender.done >= 5 * part - GROUP, PATIENCE_S)
            wait_for("nothing is open", lambda: not counting.open_work(world.ledger), PATIENCE_S)

            world.becomes(world.serve, "old")
            ends = world.serve.exits.total()
            wait_for(
                "the last release's node ends or listens",
                lambda: world.serve.exits.total() > ends or answers(world.ports["node"]),
                PATIENCE_S,
            )
            refused = not answers(world.ports["node"])
            said = world.serve.log.read_text().splitlines()[-1:]
            done("the last release's node on the new schema")
            world.serve.wanted = False
            world.serve.signal(signal.SIGTERM)
            wait_for("it has ended", lambda: world.serve.process is None, PATIENCE_S)
            version = world.expand()
            world.prepare(world.serve, "new")
            world.serve.wanted = True
            wait_for("the new node is back", lambda: answers(world.ports["node"]), PATIENCE_S)
            sender.allow(options.instances)
            world.makes_reports()
            wait_for("everything is sent", lambda: sender.is_over, PATIENCE_S)
            wait_for("nothing is open", lambda: not counting.open_work(world.ledger), PATIENCE_S)
            done(f"this version's node on schema {version}")
            found = counting.count(world, pictures, set(sender.sent.acknowledged))
        for line in processes.left_over(world.mark):
            found.add("left_running", line)
    finally:
        if options.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            world.clean()
            shutil.rmtree(folder, ignore_errors=True)
    passed = not any(found.faults.values()) and found.delivered >= found.acknowledged > 0
    return {
        "passed": passed,
        "database": options.database,
        "steps": steps,
        "old_node_on_new_schema": {"refused": refused, "said": said},
        "restarts": {s.name: dict(s.exits) for s in world.supervisor.stations if s.exits},
        **asdict(found),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drill; 0 when nothing was lost or doubled."""
    options = argparse.ArgumentParser(prog="python -m tests.drill.upgrade", description=__doc__)
    options.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    options.add_argument("--instances", type=int, default=240)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keep", action="store_true", help="remove nothing")
    began = time.monotonic()
    chosen = options.parse_args(arguments)

    def drill() -> int:
        result = upgrade(chosen)
        print(json.dumps(result | {"seconds": round(time.monotonic() - began)}))
        return 0 if result["passed"] else 1

    return where_possible("upgrade", drill)


if __name__ == "__main__":
    sys.exit(main())
