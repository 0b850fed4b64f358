"""``unshare -m python -m tests.drill.full_node [wal data]``: a node whose PostgreSQL has no disk.

A real `serve` receives into a ledger of which the write-ahead log, or the tables, lie on a small
file system that gets full. Each image that finds no room is answered 0xA700 and named in one line
of the log; what was answered 0x0000 stays in ledger and spool. With room again, and the server
started again where it has given up, reception goes on by itself. As root, in a mount namespace.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import sqlalchemy as sa
from peers import need
from ports import free_port
from postgresql import ACCOUNT, USER
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pynetdicom import AE
from serving import DX, radiograph

from dicom_node.base.errors import ChexFractError
from dicom_node.store.ledger import Ledger

from .full_postgresql import autocommit, mount
from .processes import Station, python, wait_for

OUT_OF_RESOURCES = 0xA700
REFUSALS = 3
PATIENCE_S = 60.0

NODE = """
[node]
host = "127.0.0.1"
port = {port}
data_dir = "{folder}/data"
ledger = "{ledger}"
[web]
port = {web}
sign_in = false
[broker]
url = "embedded"
[retention]
min_free = "1MB"
[peers.sender]
ae_title = "DRILL"
host = "127.0.0.1"
port = 104
[[rules]]
name = "everything"
match.modality = ["DX"]
model = "phantom"
allow_demonstration = true
"""


class Server:
    """A PostgreSQL with its log, or one of its databases, on a small file system."""

    def __init__(self, folder: Path, small: Path, disk: str) -> None:
        need("psql")
        self.programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self.data, self.port = folder / "server", free_port()
        self.account = ["runuser", "-u", ACCOUNT, "--"]
        self.data.mkdir(mode=0o700)
        for path in (self.data, small):
            shutil.chown(path, ACCOUNT)
        made = [str(self.programs / "initdb"), "-D", str(self.data), "-U", USER, "-A", "trust"]
        made += ["--wal-segsize=1", *(["--waldir", str(small / "wal")] if disk == "wal" else [])]
        subprocess.run([*self.account, *made], check=True, stdout=subprocess.DEVNULL, cwd="/")
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        with autocommit(self.url("postgres")) as connection:
            if disk == "data":
                connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{small}'")
            where = " TABLESPACE small" if disk == "data" else ""
            connection.exec_driver_sql(f"CREATE DATABASE ledger{where}")

    def url(self, database: str) -> sa.URL:
        """Return the address of a database."""
        where = {"host": "127.0.0.1", "port": self.port, "database": database}
        return sa.URL.create("postgresql+psycopg", USER, **where)  # type: ignore[arg-type]

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        command = [*self.account, str(self.programs / "postgres"), "-D", str(self.data)]
        settings = (f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=")
        for setting in (*settings, "max_wal_size=4MB", "min_wal_size=2MB", "autovacuum=off"):
            command += ["-c", setting]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        wait_for("the server answers", self.answers, PATIENCE_S)

    def answers(self) -> bool:
        """Return whether it takes connections."""
        with suppress(sa.exc.OperationalError), autocommit(self.url("postgres")) as connection:
            return connection.scalar(sa.text("SELECT 1")) == 1
        return False

    def write_log(self) -> None:
        """Write until the log finds no room: the server ends all connections then (PANIC)."""
        message = sa.text("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))")
        with suppress(sa.exc.OperationalError), autocommit(self.url("postgres")) as connection:
            for _ in range(1000):
                connection.execute(message)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)


def send(port: int, uid: str) -> int:
    """Send an image; return the status of the answer, -1 without an answer."""
    ae = AE(ae_title="DRILL")
    ae.add_requested_context(DX, "1.2.840.10008.1.2.1")
    assoc = ae.associate("127.0.0.1", port, ae_title="CHEXFRACT")
    if not assoc.is_established:
        return -1
    try:
        answer = assoc.send_c_store(dcmread(DicomBytesIO(radiograph(uid))))
        return int(getattr(answer, "Status", -1))
    finally:
        assoc.release()


def fill(place: Path) -> Path:
    """Fill a file system to its last byte; return the file that does so."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(4096))
        with suppress(OSError):
            while True:
                file.write(b"x")
    return ballast


def drill(disk: str) -> bool:
    """Fill one disk under a node that receives; return whether all is right."""
    folder = Path(tempfile.mkdtemp(prefix="chexfract-full-node-"))
    folder.chmod(0o755)
    small = folder / "small"
    small.mkdir()
    port, web = free_port(), free_port()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        mount(small, "size=32m")
        stack.callback(subprocess.run, ["umount", "-l", str(small)], check=False)
        server = Server(folder, small, disk)
        stack.callback(server.stop)
        url = server.url("ledger").render_as_string(hide_password=False)
        config = folder / "node.toml"
        config.write_text(NODE.format(port=port, web=web, folder=folder, ledger=url))
        command = python("-m", "dicom_node", "serve", "--config", str(config))
        node = Station("serve", command, dict(os.environ), folder / "serve.log")
        node.start()
        stack.callback(node.signal, signal.SIGTERM)
        stack.push(lambda kind, *_: show(node.log) if kind else None)
        numbers = (f"2.25.77{n:06d}" for n in count(1))
        kept, refused = list[str](), list[str]()
        wait_for("the node receives", lambda: send(port, "2.25.76") == 0, PATIENCE_S)
        for uid in (next(numbers) for _ in range(20)):
            if send(port, uid) == 0:
                kept.append(uid)
        ballast = fill(small)
        if disk == "wal":
            server.write_log()
        end = time.monotonic() + PATIENCE_S
        others = set[int]()
        while len(refused) < REFUSALS and time.monotonic() < end:
            uid = next(numbers)
            status = send(port, uid)
            if status == 0:
                kept.append(uid)
            elif status == OUT_OF_RESOURCES:
                refused.append(uid)
            else:
                others.add(status)
        ballast.unlink()
        server.start()
        again = refused[0] if refused else next(numbers)
        wait_for("an image is taken again", lambda: send(port, again) == 0, PATIENCE_S)
        kept.append(again)
        ledger = Ledger.open(url)
        known = {uid: ledger.instances.known(uid) for uid in kept}
        ledger.close()
        files = folder / "data"
        lost = [uid for uid, row in known.items() if row is None or not _is_there(files, row.file)]
        lines = (folder / "serve.log").read_text().splitlines()
        named = [line for line in lines if "0xA700" in line or "A700" in line]
        print(
            f"{disk}: kept {len(kept)}, refused {len(refused)}, lost {len(lost)}, others {others}"
        )
        print(f"the line: {named[0] if named else 'none'}")
        is_plain = not any("Traceback" in line for line in lines)
        return len(refused) == REFUSALS and not (lost or others) and bool(named) and is_plain


def show(log: Path) -> None:
    """Show the end of a log of what went wrong."""
    print("\n".join(log.read_text().splitlines()[-12:]), file=sys.stderr)


def _is_there(folder: Path, name: str) -> bool:
    return any(path.is_file() for path in folder.rglob(Path(name).name))


def main() -> None:
    """Drill what was named, else both; exit 1 where something is wrong."""
    disks = sys.argv[1:] or ["wal", "data"]
    with suppress(ChexFractError):
        sys.exit(0 if all(list(map(drill, disks))) else 1)
    sys.exit(1)


if __name__ == "__main__":
    main()
