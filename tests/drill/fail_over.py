"""``python -m tests.drill.fail_over``: three Redis or Valkey servers under three Sentinels.

The server that is head is killed or stopped under load; Sentinels make another one head, node and
workers find it by their URL, and the old one comes back as a replica. Nothing may be lost.
"""

from __future__ import annotations

import argparse
import json
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

from ..support.peers import need, need_valkey, where_possible
from . import count as counting
from . import processes
from .pictures import picture
from .processes import Station, answers, free_port, wait_for
from .sender import Sender
from .world import Choice, World

NEEDED = ("redis-server", "redis-cli", "storescu")
SERVERS = 3
PASSWORD = "word"  # of servers and Sentinels of this drill only
MASTER = "chexfract"
DOWN_MS, PATIENCE_S = 1000, 120.0
WAYS = ("killed", "stopped")

SERVER = """
port {port}
bind 127.0.0.1
dir {folder}
save ""
appendonly no
requirepass {password}
masterauth {password}
maxmemory-policy noeviction
repl-diskless-sync-delay 0
{follows}
"""

SENTINEL = """
port {port}
bind 127.0.0.1
dir {folder}
requirepass {password}
sentinel monitor {master} 127.0.0.1 {head} 2
sentinel auth-pass {master} {password}
sentinel sentinel-pass {password}
sentinel down-after-milliseconds {master} {down}
sentinel failover-timeout {master} 6000
"""


class SentinelWorld(World):
    """The drill's hospital on a Redis that Sentinels watch."""

    def __init__(self, choice: Choice, program: str) -> None:
        self._program = program
        self.servers = [free_port() for _ in range(SERVERS)]
        self.sentinels = [free_port() for _ in range(SERVERS)]
        self.watched: list[Station] = []
        super().__init__(choice)

    @property
    def broker_url(self) -> str:
        """One address per Sentinel: whichever answers says who is head."""
        at = [f"sentinel://:{PASSWORD}@127.0.0.1:{port}/0" for port in self.sentinels]
        return ";".join(at) + f"?master_name={MASTER}&sentinel_auth=true"

    def head(self) -> int:
        """Return the port that the Sentinels call head; 0 while they do not agree."""
        said = {self._ask(port) for port in self.sentinels}
        return said.pop() if len(said) == 1 else 0

    def _ask(self, port: int) -> int:
        command = [need("redis-cli"), "-p", str(port), "--no-auth-warning", "-a", PASSWORD]
        command += ["--csv", "sentinel", "get-master-addr-by-name", MASTER]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        words = done.stdout.strip().replace('"', "").split(",")
        return int(words[1]) if len(words) == 2 and words[1].isdigit() else 0

    def _broker(self) -> Station:
        self.watched = [self._redis(number) for number in range(SERVERS)]
        return self.watched[0]

    def _further(self) -> list[Station]:
        found = self.watched[1:]
        for number, port in enumerate(self.sentinels):
            folder = self._folder_of("sentinel", number)
            config = folder / "sentinel.conf"
            written = SENTINEL.format(
                port=port,
                folder=folder,
                password=PASSWORD,
                master=MASTER,
                head=self.servers[0],
                down=DOWN_MS,
            )
            config.write_text(written)
            found.append(
                self._station(f"sentinel-{number + 1}", [self._program, str(config), "--sentinel"])
            )
        return found

    def _redis(self, number: int) -> Station:
        folder = self._folder_of("redis", number)
        config = folder / "redis.conf"
        follows = f"replicaof 127.0.0.1 {self.servers[0]}" if number else ""
        port = self.servers[number]
        config.write_text(
            SERVER.format(port=port, folder=folder, password=PASSWORD, follows=follows)
        )
        return self._station(f"redis-{number + 1}", [self._program, str(config)])

    def _folder_of(self, kind: str, number: int) -> Path:
        folder = self.folder / f"{kind}-{number + 1}"
        folder.mkdir()
        return folder


def _strike(world: SentinelWorld, way: str, away_s: float) -> dict[str, Any]:
    """Take the head away, wait for another one and bring the old one back."""
    old = world.head()
    station = world.watched[world.servers.index(old)]
    began = time.monotonic()
    if way == "killed":
        station.wanted = False
        station.signal(signal.SIGKILL)
    else:
        station.signal(signal.SIGSTOP)
    wait_for("another server is head", lambda: world.head() not in (0, old), PATIENCE_S)
    changed = time.monotonic() - began
    time.sleep(away_s)
    station.wanted = True
    station.signal(signal.SIGCONT)
    wait_for("the old one is back", lambda: answers(old), PATIENCE_S)
    return {"way": way, "from": old, "to": world.head(), "changed_after_s": round(changed, 1)}


def fail_over(options: argparse.Namespace) -> dict[str, Any]:
    """Run the changes that were asked for and return the figures."""
    for program in NEEDED:  # before anything is made that would have to be removed
        need(program)
    rng = Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="fail-over-"))
    program = need_valkey() if options.server == "valkey" else need("redis-server")
    world = SentinelWorld(Choice(folder / "world", seconds=0.05, stuck_s=60.0), program)
    pictures = [picture(i, rng.getrandbits(96)) for i in range(options.instances)]
    struck = []
    try:
        with world.running():
            wait_for("the Sentinels agree", lambda: world.head() != 0, PATIENCE_S)
            sender = Sender(world.ports["node"], pictures, 5, rng, folder)
            sender.start()
            part = options.instances // (options.changes + 1)
            for number in range(options.changes):
                sender.allow((number + 2) * part)
                wait_for("there is load", lambda n=number: sender.done > n * part, PATIENCE_S)
                struck.append(_strike(world, WAYS[number % len(WAYS)], options.away))
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
    return {
        "passed": passed,
        "server": options.server,
        "changes": struck,
        "settled_s": round(settled, 1),
        "restarts": {s.name: dict(s.exits) for s in world.supervisor.stations if s.exits},
        **asdict(found),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drill; 0 when nothing was lost or doubled."""
    options = argparse.ArgumentParser(prog="python -m tests.drill.fail_over", description=__doc__)
    options.add_argument("--server", choices=("redis", "valkey"), default="redis")
    options.add_argument("--changes", type=int, default=4)
    options.add_argument("--instances", type=int, default=300)
    options.add_argument(
        "--away", type=float, default=2.0, help="seconds before the old one is back"
    )
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keep", action="store_true", help="remove nothing")
    chosen = options.parse_args(arguments)

    def drill() -> int:
        result = fail_over(chosen)
        print(json.dumps(result))
        return 0 if result["passed"] else 1

    return where_possible("fail-over", drill)


if __name__ == "__main__":
    sys.exit(main())
