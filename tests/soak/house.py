"""A node, a worker with a model of no cost, a broker and an archive: real processes on loopback."""

from __future__ import annotations

import copy
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.base.errors import ChexFractError
from dicom_node.dimse import scu
from dicom_node.settings import Peer
from dicom_node.store.ledger import Ledger
from worker.phantom.draw import write_set

from ..support.peers import need
from ..support.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
CALLING = "ARCHIVE"
LARGE = 10_000_000
"""Bytes of a large image."""
TICK = os.sysconf("SC_CLK_TCK")

NODE = """
[node]
port = {dicom}
host = "127.0.0.1"
data_dir = {data}
[web]
port = {web}
url = "http://127.0.0.1:{web}"
sign_in = false
[broker]
url = "redis://127.0.0.1:{redis}/0"
[jobs]
secret_file = {secret}
[retention]
min_free = "100MB"
[peers.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive}
{peer}
{more}
[[rules]]
name = "all"
match.modality = ["CR", "DX"]
model = "free"
send_to = {send_to}
allow_demonstration = true
"""
MORE = """
[peers.archive{number}]
ae_title = "ARCHIVE{number}"
host = "127.0.0.1"
port = {archive}
"""

WORKER = """
[worker]
broker = "redis://127.0.0.1:{redis}/0"
model = "free"
device = "cpu"
preparers = {preparers}
nodes = ["http://127.0.0.1:{web}"]
[models.free]
engine = "chexfract"
path = "builtin:phantom"
"""

ROLES = {
    "role\0listener": "listener",
    "role\0courier": "courier",
    "role\0web": "web",
    "tests.soak.worker": "worker",
    "dicom_node\0serve": "serve",
}


@dataclass(frozen=True)
class Usage:
    """What the processes of one role hold, and have used."""

    mb: float
    own_mb: float
    """Of these, what is its own: not the pages of files, such as the ledger, that it has mapped."""
    threads: int
    descriptors: int
    cpu_s: float


class House:
    """What runs, and how it is fed.

    Parameters
    ----------
    folder : Path
        Holds everything.
    peer : str
        More keys of the archive's table in node.toml.
    archives : int
        Destinations of each report. Where there are several, images are small, and the archive
        answers at once and keeps nothing.
    preparers : int, optional
        As in worker.toml.
    """

    def __init__(
        self, folder: Path, peer: str = "", archives: int = 1, preparers: int | None = None
    ) -> None:
        self.folder = folder
        self.dicom, self.web, self.archive, self.redis = free_ports(4)
        self.arrived = folder / "archive"
        self.archives = archives
        more = range(2, archives + 1)
        names = ["@sender", *(f"archive{number}" for number in more)]
        self.peer = Peer(ae_title="CHEXFRACT", host="127.0.0.1", port=self.dicom)
        secret = folder / "secret"
        secret.write_text(secrets.token_urlsafe(32))
        secret.chmod(0o600)
        self.secret = secret.read_text()
        places = {
            "dicom": self.dicom,
            "web": self.web,
            "archive": self.archive,
            "redis": self.redis,
            "data": json.dumps(str(folder / "data")),
            "secret": json.dumps(str(secret)),
            "peer": peer,
            "preparers": json.dumps("auto" if preparers is None else preparers),
            "more": "".join(MORE.format(number=n, archive=self.archive) for n in more),
            "send_to": json.dumps(names),
        }
        self.node_toml, self.worker_toml = folder / "node.toml", folder / "worker.toml"
        self.node_toml.write_text(NODE.format(**places))
        self.worker_toml.write_text(WORKER.format(**places))
        self._pids: list[int] = []
        self._worker = 0
        self._drawn: list[Dataset] = []
        self._sent = 0
        self._ledger: Ledger | None = None

    @contextmanager
    def running(self) -> Iterator[House]:
        """Start everything; end it afterwards."""
        self.arrived.mkdir()
        python = [sys.executable, "-m"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TCP_NODELAY": "1"}
        environment["CHEXFRACT_WORKER_WORKER__SECRET"] = self.secret
        redis = [
            "--port",
            str(self.redis),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        archive = ["--fork", "-pdu", "131072", "-aet", "ARCHIVE"]
        archive += ["--ignore"] if self.archives > 1 else []
        commands = {
            "redis": [need("redis-server"), *redis, "--dir", str(self.folder)],
            "archive": [need("storescp"), *archive, "-od", str(self.arrived), str(self.archive)],
            "node": [*python, "dicom_node", "serve", "--config", str(self.node_toml)],
            "worker": [*python, "tests.soak.worker", "--config", str(self.worker_toml)],
        }
        with ExitStack() as stack:
            for name, command in commands.items():
                log = stack.enter_context((self.folder / f"{name}.log").open("wb"))
                process = subprocess.Popen(
                    command, stdout=log, stderr=log, env=environment, cwd=ROOT
                )
                self._pids.append(process.pid)
                self._worker = process.pid if name == "worker" else self._worker
                stack.callback(_end, process)
            stack.callback(self._close_ledger)
            until(self.answers, 120, "the node answers")
            self._draw()
            self.send(1)
            until(lambda: self.count() >= 1, 180, "the first report")
            yield self

    def _close_ledger(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _draw(self) -> None:
        folder = self.folder / "in"
        write_set(12, folder, seed=5)
        self._drawn = [dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
        if self.archives > 1:
            for ds in self._drawn:
                _halve(ds)

    def answers(self) -> bool:
        """Return whether the node answers C-ECHO."""
        try:
            scu.echo(CALLING, self.peer)
        except ChexFractError:
            return False
        return True

    def send(self, count: int, *, is_large: bool = False) -> list[str]:
        """Send images with new UIDs over one association; return their SOP Instance UIDs.

        Large ones have 10 MB instead of 0.5 MB.
        """
        paths, uids = [], []
        for number in range(count):
            ds = self._drawn[self._sent % len(self._drawn)]
            ds = _enlarged(ds, LARGE) if is_large else ds
            self._sent += 1
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
            path = self.folder / f"{number}.out"
            ds.save_as(path)
            paths.append(path)
            uids.append(str(ds.SOPInstanceUID))
        found: list[int | None] = []
        scu.send(CALLING, self.peer, paths, lambda path, status, why: found.append(status))
        assert found == [0] * count, found
        return uids

    def write_large(self, size: int) -> Path:
        """Return the file of an image of so many bytes that no rule asks for."""
        ds = _enlarged(self._drawn[0], size)
        ds.Modality = "OT"
        path = self.folder / "large.out"
        ds.save_as(path)
        return path

    def count(self) -> int:
        """Return how many reports the archive has, or all archives have been sent."""
        if self.archives == 1:
            return sum(1 for _ in self.arrived.iterdir())
        return self.sent_deliveries() // self.archives

    def sent_deliveries(self) -> int:
        """Return how many deliveries the node has ended with an archive's success."""
        if self._ledger is None:
            self._ledger = Ledger.open(f"sqlite:///{self.folder}/data/ledger.sqlite")
        with self._ledger.database.reading() as connection:
            return int(
                connection.exec_driver_sql(
                    "SELECT coalesce(sum(n), 0) FROM totals "
                    "WHERE what = 'deliveries' AND state = 'sent'"
                ).scalar_one()
            )

    def usage(self) -> dict[str, Usage]:
        """Return what each role uses, its children included."""
        parents: dict[int, list[int]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
        found: dict[str, Usage] = {}
        waiting = [(pid, "") for pid in self._pids]
        while waiting:
            pid, name = waiting.pop()
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                own = next((role for mark, role in ROLES.items() if mark in words), name)
                usage = _usage(pid)
            except (OSError, ValueError, KeyError):
                continue  # it has just ended, or nobody has asked for its status yet
            waiting += [(child, own) for child in parents.get(pid, [])]
            if own:
                before = found.get(own, Usage(0, 0, 0, 0, 0))
                found[own] = Usage(
                    before.mb + usage.mb,
                    before.own_mb + usage.own_mb,
                    before.threads + usage.threads,
                    before.descriptors + usage.descriptors,
                    before.cpu_s + usage.cpu_s,
                )
        return found

    def own_usage_of_worker(self) -> Usage:
        """Return what the worker's own process uses, without its children."""
        return _usage(self._worker)

    def latencies(self) -> list[tuple[float, float]]:
        """Return for each delivered report when its image came, and the seconds from then on."""
        ledger = Ledger.open(f"sqlite:///{self.folder}/data/ledger.sqlite")
        try:
            with ledger.database.reading() as connection:
                rows = connection.exec_driver_sql(
                    "SELECT i.received_at, d.ended_at "
                    "FROM deliveries d JOIN jobs j ON j.id = d.job "
                    "JOIN instances i ON i.sop_instance_uid = j.sop_instance_uid "
                    "WHERE d.state = 'sent' AND d.kind = 'sr' ORDER BY i.received_at"
                ).all()
        finally:
            ledger.close()
        return [(float(came), float(went) - float(came)) for came, went in rows]


def _enlarged(ds: Dataset, size: int) -> Dataset:
    """Return an image of the same in so many bytes."""
    large, times = copy.deepcopy(ds), math.isqrt(size // len(ds.PixelData)) + 1
    pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)
    pixels = np.kron(pixels, np.ones((times, times), "<u2"))[: size // 2 // (times * ds.Columns)]
    large.Rows, large.Columns = pixels.shape
    large.PixelData = np.ascontiguousarray(pixels).tobytes()
    return large


def _halve(ds: Dataset) -> None:
    """Keep each second row and column."""
    pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns)[::2, ::2]
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelData = np.ascontiguousarray(pixels).tobytes()


def _usage(pid: int) -> Usage:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return Usage(
        int(status["VmRSS"].split()[0]) / 1024,
        sum(int(status[kind].split()[0]) for kind in ("RssAnon", "RssShmem")) / 1024,
        int(status["Threads"]),
        len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - counted, not used
        (int(times[11]) + int(times[12])) / TICK,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def until(holds: object, limit_s: float, what: str) -> None:
    """Wait until `holds` returns true.

    Raises
    ------
    TimeoutError
        It does not, in time.
    """
    assert callable(holds)
    end = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(0.02)
