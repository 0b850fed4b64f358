"""A small hospital of real processes around the real node: what faults strike."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..support.peers import need
from .processes import MARK, ROOT, Station, Supervisor, answers, free_port, python, wait_for

SABOTAGE = Path(__file__).parent / "sabotage"
SECRET = "a secret of the drill's job API"
LEASE_S, QUEUED_S, ATTEMPTS = 5.0, 20.0, 5
WORKERS = ("worker-1", "worker-2")
STATIONS = ("node", "web", "broker", "archive", "server")

NODE = """
[node]
host = "127.0.0.1"
listeners = 2
port = {port}
data_dir = {data}
ledger = {ledger}
[web]
port = {web}
url = "http://127.0.0.1:{web}"
sign_in = false
[broker]
url = "{broker}"
[dispatch]
window = 16
batch = 4
queued_for = {queued}
lease = {lease}
attempts = {attempts}
[delivery]
refused_first = 0.5
refused_longest = 4
silent_first = 0.5
silent_longest = 2
[retention]
min_free = "1MB"
[peers.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive}
timeout = 4
sop_classes = ["comprehensive3d"]
[peers.sender]
ae_title = "DRILL"
host = "127.0.0.1"
port = 104
[[rules]]
name = "everything"
match.modality = ["DX"]
model = "{model}"
send_to = ["archive"]
allow_demonstration = true
"""

WORKER = """
[worker]
broker = "{broker}"
model = "{model}"
device = "cpu"
batch = 4
stuck_after = {stuck}
nodes = ["http://127.0.0.1:{web}"]
[pixels]
screening = "off"
[models.{model}]
engine = "chexfract"
path = "builtin:phantom"
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command line asked for."""

    folder: Path
    broker: str = "redis"
    """``redis`` or ``stand-in``."""
    model: str = "drill"
    """``drill`` or ``phantom``."""
    broken: str = ""
    seconds: float = 0.02
    disk_mb: int = 256
    stuck_s: float = 12.0
    """When a worker without progress ends itself; a zombie has to wake before."""
    database: str = "sqlite"
    """``sqlite`` or ``postgresql``, whose server is a station then."""


class World:
    """Node, two workers, broker and archive, each supervised from outside."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.folder = choice.folder
        self.mark = choice.folder.parent.name
        self.data = self.folder / "data"
        self.log = self.folder / "archive.jsonl"
        self.control = self.folder / "archive.mode"
        self.clock = self.folder / "clock"
        self.ports = {name: free_port() for name in STATIONS}
        self.is_small_disk = False
        self.data.mkdir(parents=True)
        self.archive_does("ok")
        self.clock.write_text("0")
        self._configure()
        self.broker, self.archive, self.serve = self._broker(), self._archive(), self._serve()
        self.workers = [self._worker(i) for i in range(len(WORKERS))]
        self.server = self._server()
        stations = [self.broker, *self._further(), self.archive, self.serve, *self.workers]
        if self.choice.database == "postgresql":
            stations.insert(0, self.server)
        self.supervisor = Supervisor(stations)

    @property
    def ledger(self) -> str:
        """Where the count reads: the file, unchanged by that, or the server."""
        if self.choice.database == "postgresql":
            return self._server_url
        return f"sqlite:///file:{self.data / 'ledger.sqlite'}?mode=ro&uri=true&timeout=30"

    @property
    def _server_url(self) -> str:
        return f"postgresql+psycopg://chexfract@127.0.0.1:{self.ports['server']}/postgres"

    @property
    def broker_url(self) -> str:
        """Where node and workers find the broker."""
        return f"redis://{self._auth}127.0.0.1:{self.ports['broker']}/0"

    def _further(self) -> list[Station]:
        """Return what runs beside the broker."""
        return []

    def archive_does(self, mode: str) -> None:
        """Tell the archive how to behave."""
        new = self.control.with_suffix(".new")
        new.write_text(mode)
        new.rename(self.control)

    def redis(self, *words: str) -> bool:
        """Send commands to the broker; False when it gives no answer."""
        lines = [b"AUTH x\r\n"] if self.choice.broker == "stand-in" else []
        lines.append(" ".join(words).encode() + b"\r\n")
        lines = [_resp(line.split()) for line in lines]
        try:
            with socket.create_connection(("127.0.0.1", self.ports["broker"]), 1) as line:
                line.sendall(b"".join(lines))
                return bool(line.recv(4096))
        except OSError:
            return False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run everything; yield when the node answers and a worker is ready."""
        self._mount()
        try:
            self.supervisor.start()
            if self.choice.database == "postgresql":
                wait_for("the database listens", lambda: answers(self.ports["server"]), 60)
            wait_for("the archive listens", lambda: answers(self.ports["archive"]), 300)
            wait_for("the node listens", lambda: answers(self.ports["node"]), 300)
            wait_for("the workers are ready", self._workers_are_ready, 300)
            yield
        finally:
            self.supervisor.stop()

    def clean(self) -> None:
        """Unmount the small disk and remove everything."""
        if self.is_small_disk:
            subprocess.run(["umount", "-l", str(self.data)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self._server_folder, ignore_errors=True)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of the processes."""
        paths = [str(SABOTAGE), str(ROOT)]
        return {
            **os.environ,
            MARK: self.mark,
            "PYTHONPATH": os.pathsep.join(paths),
            "CHEXFRACT_DRILL_BROKEN": self.choice.broken,
            "OMP_NUM_THREADS": "1",
            **more,
        }

    def _workers_are_ready(self) -> bool:
        return all(b"ready: " in w.log.read_bytes() for w in self.workers if w.log.exists()) and (
            all(w.log.exists() for w in self.workers)
        )

    def _mount(self) -> None:
        """Give the node a small disk of its own, where this is allowed."""
        if os.geteuid() != 0:
            return
        size = f"size={self.choice.disk_mb}m"
        command = ["mount", "-t", "tmpfs", "-o", size, "drill", str(self.data)]
        self.is_small_disk = subprocess.run(command, check=False, stderr=-3).returncode == 0

    def _configure(self) -> None:
        broker = self.broker_url
        model, is_served = self.choice.model, self.choice.database == "postgresql"
        node = NODE.format(
            port=self.ports["node"],
            web=self.ports["web"],
            archive=self.ports["archive"],
            broker=broker,
            data=json.dumps(str(self.data)),
            ledger=json.dumps(self._server_url if is_served else "sqlite"),
            queued=QUEUED_S,
            lease=LEASE_S,
            attempts=ATTEMPTS,
            model=model,
        )
        (self.folder / "node.toml").write_text(node)
        worker = WORKER.format(
            broker=broker, model=model, stuck=self.choice.stuck_s, web=self.ports["web"]
        )
        (self.folder / "worker.toml").write_text(worker)

    @property
    def _auth(self) -> str:
        return ":x@" if self.choice.broker == "stand-in" else ""

    def _station(self, name: str, command: list[str], **more: str) -> Station:
        return Station(name, command, self.environment(**more), self.folder / f"{name}.log")

    def _broker(self) -> Station:
        port = str(self.ports["broker"])
        if self.choice.broker == "stand-in":
            stand_in = self._station("broker", python("-m", "dicom_node.flow.stand_in", port))
            stand_in.stdin_bytes = b"x"
            return stand_in
        command = [need("redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", ""]
        command += ["--appendonly", "no", "--dir", str(self.folder)]
        return self._station("broker", command)

    @property
    def _server_folder(self) -> Path:
        """The server refuses to run as root and may not enter root's folders."""
        return Path(tempfile.gettempdir()) / f"{self.mark}-postgresql"

    def _server(self) -> Station:
        if self.choice.database != "postgresql":
            return Station("server", (), {}, self.folder / "server.log", wanted=False)
        need("psql")
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        folder, account = self._server_folder, []
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
            account = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        data = str(folder / "data")
        made = [*account, str(programs / "initdb"), "-D", data, "-U", "chexfract", "-A", "trust"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        command = [*account, str(programs / "postgres"), "-D", data]
        for setting in (
            f"port={self.ports['server']}",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
        ):
            command += ["-c", setting]
        return self._station("server", command)

    def _archive(self) -> Station:
        command = python("-m", "tests.drill.archive", "--port", str(self.ports["archive"]))
        command += ["--log", str(self.log), "--control", str(self.control)]
        return self._station("archive", command)

    def _serve(self) -> Station:
        command = python("-m", "dicom_node", "serve", "--config", str(self.folder / "node.toml"))
        return self._station(
            "serve",
            command,
            CHEXFRACT_JOBS__SECRET=SECRET,
            CHEXFRACT_DRILL_CLOCK=str(self.clock),
        )

    def _worker(self, number: int) -> Station:
        config = ["--config", str(self.folder / "worker.toml")]
        command = python("-m", "worker", "run", *config)
        if self.choice.model == "drill":
            command = python("-m", "tests.drill.worker", *config)
            command += ["--version", str(number + 1), "--seconds", str(self.choice.seconds)]
        secret = {"CHEXFRACT_WORKER_WORKER__SECRET": SECRET}
        return self._station(WORKERS[number], command, **secret)


def _resp(words: list[bytes]) -> bytes:
    """Return a command as Redis reads it (RESP)."""
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n" % len(words) + b"".join(parts)
