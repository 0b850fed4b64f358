"""A complete node with archive, broker and worker on this machine, for demo and selftest."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from dicom_node.base.confine import python_command
from dicom_node.base.errors import ChexFractError, OutOfResources, Unreachable
from dicom_node.dimse import scu
from dicom_node.dimse.archive import Archive
from dicom_node.settings import Peer

START_S = 120.0
"""How long node and worker may do nothing before they are ready."""

LONGEST_START_S = 900.0
"""Longest start on a machine that has no time for it; loading torch is most of it."""

_SIGNS_OF_WORK_S = 6.0
"""Processor seconds in `START_S` that show that a start goes on; a node that waits takes 2.6."""

WORKER_IS_READY = b"ready: "
"""In the log line of a worker that takes jobs from now on."""

NODE_TOML = """\
# Written by chexfract-node for a node of its own.
[node]
ae_title = "CHEXFRACT"
host = "127.0.0.1"
port = {port}
data_dir = {data_dir}

[web]
port = {web_port}
url = "http://127.0.0.1:{web_port}"
sign_in = false

[peers.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive_port}
objects = ["sr", "basic-text"]

[[rules]]
name = "drawn radiographs"
match.modality = ["DX"]
model = "phantom"
allow_demonstration = true  # the images are drawings

[retention]
min_free = "50MB"
"""

WORKER_TOML = """\
# Written by chexfract-node; serve passes broker and secret.
[worker]
model = "phantom"
device = "cpu"
"""


@dataclass(slots=True)
class SandboxNode:
    """A node of its own: its process and where it is."""

    process: subprocess.Popen[bytes]
    peer: Peer
    ledger: str
    page: str
    log: Path

    def wait_until_ready(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Return when node and worker take images; `say` hears how far they are.

        Raises
        ------
        Unreachable
            They did not start, or stopped getting on with it; the message has the last line of
            their log.
        """
        start = looked = time.monotonic()
        work = _processor_seconds(self.process.pid)
        while not self._is_ready():
            if self.process.poll() is not None:
                raise Unreachable(f"the node did not start: {last_line(self.log)}")
            now = time.monotonic()
            say(f"{now - start:.0f} s so far; {last_line(self.log)}")
            # A busy machine makes a start slow and not wrong: what still works is waited for.
            if now - looked > START_S:
                before, work = work, _processor_seconds(self.process.pid)
                is_stuck = work - before < _SIGNS_OF_WORK_S
                if is_stuck or now - start > LONGEST_START_S:
                    wrong = "did nothing any more" if is_stuck else "were still not ready"
                    raise Unreachable(
                        f"node and worker {wrong} after {now - start:.0f} s; run it again where the"
                        f" machine is less busy, or see {self.log}: {last_line(self.log)}"
                    )
                looked = now
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        """Tell whether the node answers and its worker takes jobs.

        The times of the stages are to be those of a node in service, not of a start.
        """
        # The log first: a node that is asked all the time works for that, and seems to get on.
        if WORKER_IS_READY not in self.log.read_bytes():
            return False
        try:
            scu.echo("ARCHIVE", self.peer)
        except ChexFractError:
            return False
        return True


@contextmanager
def folder(named: Path | None) -> Iterator[Path]:
    """Yield the folder `named`, or a temporary folder that is removed."""
    if named is not None:
        named.mkdir(parents=True, exist_ok=True)
        yield named.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="chexfract-demo-") as temporary:
        yield Path(temporary)


@contextmanager
def archive_in(here: Path) -> Iterator[Archive]:
    """Yield a running archive that keeps its files below `here`."""
    archive = Archive("ARCHIVE", here / "archive")
    archive.start()
    try:
        yield archive
    finally:
        archive.stop()


@contextmanager
def node_in(here: Path, archive: Archive) -> Iterator[SandboxNode]:
    """Start a node with a worker whose only peer is `archive`; end both, on SIGTERM too."""
    signal.signal(signal.SIGTERM, _end_by_signal)
    port, web_port = _free_ports(2)
    content = NODE_TOML.format(
        port=port,
        web_port=web_port,
        archive_port=archive.port,
        data_dir=json.dumps(str(here / "node")),
    )
    (here / "node.toml").write_text(content, encoding="utf-8")
    (here / "worker.toml").write_text(WORKER_TOML, encoding="utf-8")
    log = here / "node.log"
    command = python_command("-m", "dicom_node", "serve", "--config", str(here / "node.toml"))
    command += ["--with-worker", str(here / "worker.toml")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        yield SandboxNode(
            process=process,
            peer=Peer(ae_title="CHEXFRACT", host="127.0.0.1", port=port),
            ledger=f"sqlite:///{here / 'node' / 'ledger.sqlite'}",
            page=f"http://127.0.0.1:{web_port}/",
            log=log,
        )
    finally:
        _stop_process(process)


def _end_by_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # what runs is ended on the way out, as after Ctrl-C


def _stop_process(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def _processor_seconds(pid: int) -> float:
    """Return the processor time of a process and of all that it has started, as Linux counts it."""
    parents: dict[int, int] = {}
    times: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in brackets, may hold anything; state, parent and times come behind it.
            fields = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            times[int(path.parent.name)] = sum(int(ticks) for ticks in fields[11:15])
    own = {pid}
    while more := {child for child, parent in parents.items() if parent in own} - own:
        own |= more
    return sum(times.get(process, 0) for process in own) / os.sysconf("SC_CLK_TCK")


def last_line(log: Path) -> str:
    """Return what the last line of a log says, for messages."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    if not lines:
        return "it said nothing"
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(lines[-1])["message"])  # as logs are where no terminal is
    return lines[-1]


def draw(out: Path, *options: str) -> list[dict[str, str]]:
    """Let the worker's program draw, since the node knows nothing of pictures.

    Returns
    -------
    list of dict
        The rows of truth.csv, each with the file's ``path``.
    """
    command = python_command("-m", "worker", "phantom", "draw", "--out", str(out), *options)
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise OutOfResources(f"no phantoms were drawn: {why[0]}")
    with (out / "truth.csv").open(newline="", encoding="utf-8") as truth:
        return [{**row, "path": str(out / row["file"])} for row in csv.DictReader(truth)]
