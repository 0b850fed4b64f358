"""``python -m tests.drill.network_cuts``: two nodes, one pool of workers, and links that fail.

Node 1 keeps its ledger in SQLite, node 2 in PostgreSQL; Redis, three workers, the archive and the
modalities are hosts of their own. The links of a worker, a node, Redis and PostgreSQL are cut,
slow and lossy in turn. Exit code 69 where this machine permits no network namespaces.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import sqlalchemy as sa

from ..support.peers import need, where_possible
from . import count as counting
from . import processes
from .network import VirtualHost, network
from .pictures import Picture, picture
from .processes import Station, Supervisor, python, wait_for
from .sender import Sender

NODES = ("node-1", "node-2")
WORKERS = ("worker-1", "worker-2", "worker-3")
HOSTS = (*NODES, *WORKERS, "redis", "postgresql", "archive", "modality")
FAILING = ("worker-1", "node-1", "redis", "postgresql")
"""Hosts whose links fail, in turn."""

NEEDED = ("ip", "nsenter", "setpriv", "psql", "redis-server", "storescu")
DELAY_S, LOSS = 0.2, 0.1
FAULTS: Mapping[str, Callable[[VirtualHost], None]] = {
    "cut": VirtualHost.cut,
    "slow": lambda host: host.disturb(delay_s=DELAY_S),
    "lossy": lambda host: host.disturb(loss=LOSS),
}
GROUP = 5
TRIES = 12
"""How often a modality sends a group before it gives up: a link may be cut for 30 s."""

FEW = 16
"""So many jobs a node has handed out at a time: with less it has no backlog."""

UNFAIR = 0.1
"""By how much a share may differ from its equal part."""

READY_S, GIVE_UP_S = 180.0, 300.0
SECRET = "a secret of both nodes' job API"

NODE = """
[node]
port = 11112
data_dir = {data}
ledger = {ledger}
[web]
host = "0.0.0.0"
port = 8080
url = "http://{address}:8080"
[broker]
url = "redis://{redis}:6379/0"
[dispatch]
window = 16
batch = 4
queued_for = 20
lease = 10
[delivery]
silent_first = 0.5
silent_longest = 2
[retention]
min_free = "1MB"
[peers.archive]
ae_title = "ARCHIVE"
host = "{archive}"
port = 104
timeout = 8
sop_classes = ["comprehensive3d"]
[peers.modality]
ae_title = "DRILL"
host = "{modality}"
port = 104
[[rules]]
name = "everything"
match.modality = ["DX"]
model = "drill"
send_to = ["archive"]
allow_demonstration = true
"""

WORKER = """
[worker]
broker = "redis://{redis}:6379/0"
model = "drill"
device = "cpu"
batch = 4
stuck_after = 60
nodes = ["http://{first}:8080", "http://{second}:8080"]
[pixels]
screening = "off"
[models.drill]
engine = "chexfract"
path = "builtin:phantom"
"""


@dataclass(frozen=True, slots=True)
class CountedNode:
    """A node's books: its ledger, and the log of the archive."""

    name: str
    ledger: str
    log: Path


class NodePool:
    """All processes, each on its host."""

    def __init__(self, hosts: Mapping[str, VirtualHost], folder: Path, seconds: float) -> None:
        self._hosts = hosts
        self.folder = folder
        self.mark = folder.name
        self.log = folder / "archive.jsonl"
        self._server_folder = Path(tempfile.gettempdir()) / f"{self.mark}-postgresql"
        address = {name.replace("-", "_"): host.address for name, host in hosts.items()}
        at_server = f"postgresql+psycopg://chexfract@{hosts['postgresql'].address}/postgres"
        socket = f"postgresql+psycopg://chexfract@/postgres?host={self._server_folder}"
        sqlite = f"sqlite:///file:{folder / 'node-1' / 'ledger.sqlite'}?mode=ro&uri=true&timeout=30"
        self.books = (
            CountedNode("node-1", sqlite, self.log),
            CountedNode("node-2", socket, self.log),
        )
        for name, ledger in zip(NODES, ("sqlite", at_server), strict=True):
            (folder / name).mkdir()
            written = NODE.format(
                data=json.dumps(str(folder / name)),
                ledger=json.dumps(ledger),
                address=hosts[name].address,
                **address,
            )
            (folder / f"{name}.toml").write_text(written)
        first, second = (hosts[name].address for name in NODES)
        worker = WORKER.format(redis=hosts["redis"].address, first=first, second=second)
        (folder / "worker.toml").write_text(worker)
        (folder / "archive.mode").write_text("ok")
        self.workers = [self._worker(number, seconds) for number in range(len(WORKERS))]
        self.stations = [self._server(), self._redis(), self._archive()]
        self.stations += [*(self._node(name) for name in NODES), *self.workers]
        self.supervisor = Supervisor(self.stations)

    def wait_until_ready(self) -> None:
        """Return when both nodes are."""
        for name in NODES:
            log = self.folder / f"{name}.log"
            wait_for(f"{name} is ready", lambda log=log: b'"ready"' in _content(log), READY_S)

    def clean(self) -> None:
        """Remove every file."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._server_folder, ignore_errors=True)

    def _station(self, name: str, host: str, command: Sequence[str], **more: str) -> Station:
        environment = {
            **os.environ,
            processes.MARK: self.mark,
            "PYTHONPATH": str(processes.ROOT),
            "OMP_NUM_THREADS": "1",
            **more,
        }
        log = self.folder / f"{name}.log"
        return Station(name, self._hosts[host].enter(command), environment, log)

    def _server(self) -> Station:
        need("psql")
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        account = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        self._server_folder.mkdir(mode=0o755)
        shutil.chown(self._server_folder, "postgres")
        data = str(self._server_folder / "data")
        made = [*account, str(programs / "initdb"), "-D", data, "-U", "chexfract", "-A", "trust"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=self._server_folder)
        access = self._server_folder / "data" / "pg_hba.conf"
        access.write_text("local all all trust\nhost all all 10.97.0.0/24 trust\n")
        command = [*account, str(programs / "postgres"), "-D", data]
        for setting in ("listen_addresses=*", f"unix_socket_directories={self._server_folder}"):
            command += ["-c", setting]
        return self._station("postgresql", "postgresql", command)

    def _redis(self) -> Station:
        command = [need("redis-server"), "--protected-mode", "no", "--bind", "0.0.0.0"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        return self._station("redis", "redis", command)

    def _archive(self) -> Station:
        command = python("-m", "tests.drill.archive", "--host", "0.0.0.0", "--port", "104")
        command += ["--log", str(self.log), "--control", str(self.folder / "archive.mode")]
        return self._station("archive", "archive", command)

    def _node(self, name: str) -> Station:
        command = python("-m", "dicom_node", "serve", "--config", str(self.folder / f"{name}.toml"))
        return self._station(name, name, command, CHEXFRACT_JOBS__SECRET=SECRET)

    def _worker(self, number: int, seconds: float) -> Station:
        command = python("-m", "tests.drill.worker", "--config", str(self.folder / "worker.toml"))
        # each makes reports of its own: a second one of an Instance would have another UID
        command += ["--version", str(number + 1), "--seconds", str(seconds)]
        name = WORKERS[number]
        station = self._station(name, name, command, CHEXFRACT_WORKER_WORKER__SECRET=SECRET)
        station.wanted = False  # until there is a backlog
        return station


def _content(log: Path) -> bytes:
    return log.read_bytes() if log.exists() else b""


def _reported(ledger: str) -> Counter[str]:
    """Return how many reports of each worker a ledger has."""
    engine = sa.create_engine(ledger, poolclass=sa.NullPool)
    query = "SELECT worker, count(*) FROM jobs WHERE state = 'reported' GROUP BY worker"
    with engine.connect() as connection:
        return Counter({str(worker): int(n) for worker, n in connection.execute(sa.text(query))})


def _fair_shares(pool: NodePool, senders: Sequence[Sender], count: int) -> dict[str, Any]:
    """Let `count` Instances wait at each node, start the workers and return who got what.

    The shares count from when every worker has made a report until one node has few jobs left.
    """
    for sender in senders:
        sender.start()
        sender.allow(count)
    wait_for("both have a backlog", lambda: all(s.done >= count for s in senders), READY_S)
    for station in pool.workers:
        station.wanted = True
    reports = [Counter[str]() for _ in pool.books]

    def made(least: int) -> bool:
        reports[:] = [_reported(book.ledger) for book in pool.books]
        of_workers = sum(reports, Counter[str]())
        return len(of_workers) == len(WORKERS) and min(of_workers.values()) >= least

    wait_for("every worker makes reports", lambda: made(1), READY_S)
    before = list(reports)
    wait_for(
        "one of the nodes has few jobs left",
        lambda: made(1) and max(report.total() for report in reports) >= count - FEW,
        READY_S,
    )
    parts = [now - old for now, old in zip(reports, before, strict=True)]
    of_nodes = {book.name: part.total() for book, part in zip(pool.books, parts, strict=True)}
    of_workers = [n for _, n in sorted(sum(parts, Counter[str]()).items())]
    even = _is_even(list(of_nodes.values()), len(NODES)) and _is_even(of_workers, len(WORKERS))
    return {"nodes": of_nodes, "workers": of_workers, "fair": even}


def _is_even(parts: Sequence[int], wanted: int) -> bool:
    """Return whether there are `wanted` parts, each within `UNFAIR` of an equal one."""
    equal = sum(parts) / wanted
    return len(parts) == wanted and all(abs(p - equal) <= UNFAIR * equal for p in parts)


def _open(pool: NodePool) -> int:
    return sum(len(counting.open_work(book.ledger)) for book in pool.books)


def cut(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything and return the figures."""
    for program in NEEDED:  # before anything is made that would have to be removed
        need(program)
    rng = Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="cuts-"))
    folder.chmod(0o755)
    struck: list[dict[str, Any]] = []
    with network(HOSTS) as hosts:
        pool = NodePool(hosts, folder, options.seconds)
        try:
            seconds = len(FAILING) * len(FAULTS) * (options.hold + options.rest)
            total = options.backlog + int(seconds * options.rate)
            lots = [[_picture(i, rng) for i in range(total)] for _ in NODES]
            senders = [
                _sender(hosts, name, lot, rng, folder)
                for name, lot in zip(NODES, lots, strict=True)
            ]
            pool.supervisor.start()
            pool.wait_until_ready()
            shares = _fair_shares(pool, senders, options.backlog)
            print(f"fair shares: {shares}", file=sys.stderr)
            began = time.monotonic()
            load = _Load(senders, options.backlog, options.rate, began)
            for kind, strike in FAULTS.items():
                for name in FAILING:
                    done = sum(sender.done for sender in senders)
                    strike(hosts[name])
                    load.during(options.hold)
                    hosts[name].heal()
                    load.during(options.rest)
                    struck.append(
                        {
                            "link": name,
                            "fault": kind,
                            "taken": sum(sender.done for sender in senders) - done,
                            "open": _open(pool),
                        }
                    )
                    print(f"{time.monotonic() - began:6.0f} s  {struck[-1]}", file=sys.stderr)
            healed = time.monotonic()
            for sender in senders:
                sender.end()
            wait_for("the modalities are done", lambda: all(s.is_over for s in senders), GIVE_UP_S)
            wait_for("nothing is open", lambda: not _open(pool), GIVE_UP_S)
            settled = time.monotonic() - healed
            found = [
                counting.count(book, lot[: sender.begun], set(sender.sent.acknowledged))
                for book, lot, sender in zip(pool.books, lots, senders, strict=True)
            ]
        finally:
            pool.supervisor.stop()
            if options.keep:
                print(f"kept: {folder}", file=sys.stderr)
            else:
                pool.clean()
        for line in processes.left_over(pool.mark):
            found[0].add("left_running", line)
    faults = {name: sum(node.faults[name] for node in found) for name in found[0].faults}
    acknowledged = sum(node.acknowledged for node in found)
    delivered = sum(node.delivered for node in found)
    return {
        "passed": not any(faults.values()) and shares["fair"] and delivered >= acknowledged > 0,
        "hold_s": options.hold,
        "shares": shares,
        "struck": struck,
        "settled_s": round(settled, 1),
        "restarts": {s.name: dict(s.exits) for s in pool.stations if s.exits},
        "acknowledged": acknowledged,
        "delivered": delivered,
        **faults,
        "nodes": [asdict(node) for node in found],
    }


class _Load:
    """Lets the modalities send at a steady rate, whatever the links do."""

    def __init__(self, senders: Sequence[Sender], first: int, rate: float, began: float) -> None:
        self._senders = senders
        self._first = first
        self._rate = rate
        self._began = began

    def during(self, seconds: float) -> None:
        """Return after so many seconds."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            for sender in self._senders:
                sender.allow(self._first + int((now - self._began) * self._rate))
            time.sleep(min(0.2, end - now))


def _picture(number: int, rng: Random) -> Picture:
    return picture(number, rng.getrandbits(96))


def _sender(
    hosts: Mapping[str, VirtualHost], node: str, lot: Sequence[Picture], rng: Random, folder: Path
) -> Sender:
    modality, host = hosts["modality"], hosts[node].address
    return Sender(11112, lot, GROUP, rng, folder, host=host, enter=modality.enter, tries=TRIES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drill; 0 when nothing was lost or doubled and the shares were fair."""
    options = argparse.ArgumentParser(
        prog="python -m tests.drill.network_cuts", description=__doc__
    )
    options.add_argument("--hold", type=float, default=30.0, help="seconds of each fault")
    options.add_argument("--rest", type=float, default=3.0, help="seconds between two faults")
    options.add_argument("--rate", type=float, default=2.0, help="Instances a second and node")
    options.add_argument("--backlog", type=int, default=120, help="Instances for the fair shares")
    options.add_argument("--seconds", type=float, default=0.2, help="the model's time a picture")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keep", action="store_true", help="remove nothing")
    chosen = options.parse_args(arguments)

    def drill() -> int:
        result = cut(chosen)
        print(json.dumps(result))
        return 0 if result["passed"] else 1

    return where_possible("network cuts", drill)


if __name__ == "__main__":
    sys.exit(main())
