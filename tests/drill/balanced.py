"""``python -m tests.drill.balanced``: two nodes of one AE title behind HAProxy, one is killed.

Both take associations by the PROXY protocol (version 2), on one PostgreSQL ledger and one shared
spool. In turn each is killed or ended under load and comes back later. Nothing may be lost, nothing
reported a second time.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import sqlalchemy as sa

from ..support.peers import need, where_possible
from . import count as counting
from . import processes
from .pictures import picture
from .processes import Station, answers, free_port, python, wait_for
from .sender import Sender
from .world import SECRET, Choice, World

NEEDED = ("haproxy", "psql", "redis-server", "storescu")
WAYS = (signal.SIGKILL, signal.SIGTERM)
PATIENCE_S = 90.0
TAKEN = 20
"""So many Instances the other node takes before the first one may come back."""

BALANCER = """
defaults
  mode tcp
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  retries 3
  option redispatch
frontend dicom
  bind 127.0.0.1:{port}
  default_backend nodes
backend nodes
  balance roundrobin
  default-server check inter 500ms fall 2 rise 2 send-proxy-v2 check-send-proxy
  server one 127.0.0.1:{first}
  server two 127.0.0.1:{second}
"""


class BalancedWorld(World):
    """The drill's hospital with two nodes that share ledger and spool."""

    def __init__(self, choice: Choice) -> None:
        self.balancer, self.second, self.second_web = (free_port() for _ in range(3))
        self.nodes: list[Station] = []
        super().__init__(choice)
        self.nodes = [self.serve, self.other]

    def _configure(self) -> None:
        super()._configure()
        worker, node = self.folder / "worker.toml", self.folder / "node.toml"
        urls = [f"http://127.0.0.1:{port}" for port in (self.ports["web"], self.second_web)]
        text = re.sub(r"nodes = .*", f"nodes = {json.dumps(urls)}", worker.read_text())
        worker.write_text(text)
        shared = self.folder / "shared"
        shared.mkdir()
        more = f'shared_dir = {json.dumps(str(shared))}\nproxies = ["127.0.0.1"]\n'
        first = node.read_text().replace("listeners = 2\n", "listeners = 1\n" + more)
        node.write_text(first)
        data = self.folder / "data-2"
        data.mkdir()
        second = first.replace(json.dumps(str(self.data)), json.dumps(str(data)))
        second = second.replace(f"port = {self.ports['node']}\n", f"port = {self.second}\n")
        second = second.replace(str(self.ports["web"]), str(self.second_web))
        (self.folder / "node-2.toml").write_text(second)

    def _mount(self) -> None:
        """No small disk: what is kept lies in the shared folder."""

    def _further(self) -> list[Station]:
        config = self.folder / "haproxy.cfg"
        written = BALANCER.format(port=self.balancer, first=self.ports["node"], second=self.second)
        config.write_text(written)
        words = ["-m", "dicom_node", "serve", "--config", str(self.folder / "node-2.toml")]
        self.other = self._station("serve-2", python(*words), CHEXFRACT_JOBS__SECRET=SECRET)
        balancer = self._station("haproxy", [need("haproxy"), "-db", "-f", str(config)])
        return [self.other, balancer]

    def takers(self) -> list[bool]:
        """Return which of the nodes takes connections."""
        return [answers(port) for port in (self.ports["node"], self.second)]

    def instances(self) -> int:
        """Return how many Instances the ledger has."""
        engine = sa.create_engine(self.ledger, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return int(connection.execute(sa.text("SELECT count(*) FROM instances")).scalar_one())


def _strike(world: BalancedWorld, number: int, sender: Sender, part: int) -> dict[str, Any]:
    """End one node, see the other take images, bring the first one back."""
    node, way = world.nodes[number % 2], WAYS[number // 2 % len(WAYS)]
    before = world.instances()
    node.wanted = False
    node.signal(way)
    wait_for("the node is away", lambda: not world.takers()[number % 2], PATIENCE_S)
    sender.allow((number + 2) * part)
    wait_for("the other node takes images", lambda: world.instances() - before >= TAKEN, PATIENCE_S)
    taken = world.instances() - before
    node.wanted = True
    wait_for("both nodes are back", lambda: all(world.takers()), PATIENCE_S)
    return {"node": node.name, "way": way.name, "taken_by_the_other": taken}


def balanced(options: argparse.Namespace) -> dict[str, Any]:
    """Run the ends that were asked for and return the figures."""
    for program in NEEDED:  # before anything is made that would have to be removed
        need(program)
    rng = Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="balanced-"))
    choice = Choice(folder / "world", seconds=0.05, stuck_s=60.0, database="postgresql")
    world = BalancedWorld(choice)
    pictures = [picture(i, rng.getrandbits(96)) for i in range(options.instances)]
    struck = []
    try:
        with world.running():
            wait_for("both nodes listen", lambda: all(world.takers()), PATIENCE_S)
            sender = Sender(world.balancer, pictures, 5, rng, folder, tries=12)
            sender.start()
            part = options.instances // (options.ends + 1)
            for number in range(options.ends):
                sender.allow(number * part + part // 2)
                wait_for("there is load", lambda n=number: sender.done > n * part, PATIENCE_S)
                struck.append(_strike(world, number, sender, part))
                print(struck[-1], file=sys.stderr)
            healed = time.monotonic()
            sender.allow(options.instances)
            wait_for("everything is sent", lambda: sender.is_over, PATIENCE_S)
            wait_for("nothing is open", lambda: not counting.open_work(world.ledger), PATIENCE_S)
            settled = time.monotonic() - healed
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
    passed = passed and all(strike["taken_by_the_other"] > 0 for strike in struck)
    return {
        "passed": passed,
        "ends": struck,
        "settled_s": round(settled, 1),
        "answers": dict(sender.sent.answers),
        "restarts": {s.name: dict(s.exits) for s in world.supervisor.stations if s.exits},
        **asdict(found),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drill; 0 when nothing was lost or doubled."""
    options = argparse.ArgumentParser(prog="python -m tests.drill.balanced", description=__doc__)
    options.add_argument("--ends", type=int, default=4, help="how often a node ends")
    options.add_argument("--instances", type=int, default=400)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keep", action="store_true", help="remove nothing")
    chosen = options.parse_args(arguments)

    def drill() -> int:
        result = balanced(chosen)
        print(json.dumps(result))
        return 0 if result["passed"] else 1

    return where_possible("balanced", drill)


if __name__ == "__main__":
    sys.exit(main())
