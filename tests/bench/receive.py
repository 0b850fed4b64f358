"""Measure durable reception beside DCMTK and Orthanc, all in one run.

    python tests/bench/receive.py [--n 1 4 8] [--repeat 3] [--big 10] [--small 100] [--untuned]

storescu sends drawn images of 10 MB, and of 0.5 MB, over N associations at once. ``node`` is this
project's listener with its ledger: each image is on disk and in the ledger before it is answered.
storescp never syncs. ``tuned``: TCP_NODELAY=1, PDUs of 128 KiB, ``--fork``; Orthanc without
SyncStorageArea; ``default``: as installed. With ``--untuned`` the sender keeps its defaults, too,
as most modalities do. Receivers are started once, warmed up by an image, and take turns; what
arrived is counted and removed. storescu gives each image a new UID, so none is a repeat. Ratios are
of the median MB/s to tuned storescp; CPU is that of the receiver. ``floor`` is not DICOM: the same
bytes over TCP into a file, its fsync, rename, fsync of the folder, four bytes back. ``serve N`` is
the whole node with N listeners on its port; where one association comes, one of them takes it, and
only ``serve 1`` is measured. Long trials, many images, are fairer: each one contains the senders'
start. The untuned get a tenth of the images.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from listening import listening, radiograph, written
from peers import need
from ports import free_port
from record import row, write

SIZES = {"10 MB": (2500, 2000), "0.5 MB": (500, 500)}
SMALLEST = 400_000
"""Bytes that each image has at least."""
RECEIVERS = ("storescp tuned", "storescp default", "Orthanc tuned", "Orthanc default", "node")
RECEIVERS += ("serve 1", "serve 2", "serve 4", "floor")
SLOW = ("storescp default", "Orthanc default")
"""They get a tenth of the images: by delayed acknowledgements each takes 40 ms and more."""
SERVED = """
[node]
host = "127.0.0.1"
port = {port}
data_dir = "{data}"
known_peers_only = false
listeners = {listeners}
[web]
port = {web}
url = "http://127.0.0.1:{web}"
sign_in = false
"""
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Trial:
    """One trial: MB/s, CPU seconds per GB, whether all arrived."""

    mb_s: float
    cpu_s_gb: float
    is_whole: bool


def listen(folder: Path, port: int) -> None:
    """Be the node's listener until standard input ends."""
    logging.basicConfig(level=logging.INFO)
    with listening(folder, port=port):
        sys.stdin.read()


def command(name: str, folder: Path, port: int) -> list[str]:
    if name == "node":
        return [sys.executable, __file__, "--listen", str(folder), "--port", str(port)]
    if name.startswith("serve"):
        config = folder.with_suffix(".toml")
        places = {"port": port, "web": free_port(), "data": folder}
        config.write_text(SERVED.format(listeners=name.split()[1], **places))
        return [sys.executable, "-m", "dicom_node", "serve", "--config", str(config)]
    if name.startswith("storescp"):
        tuned = ["--fork", "-pdu", "131072"] if name.endswith("tuned") else []
        return [need("storescp"), "-ll", "fatal", *tuned, "-od", str(folder), str(port)]
    content = {"StorageDirectory": str(folder), "IndexDirectory": str(folder), "DicomPort": port}
    content |= {"DicomAlwaysAllowStore": True, "HttpServerEnabled": False, "Plugins": []}
    if name.endswith("tuned"):
        content |= {"SyncStorageArea": False, "MaximumPduLength": 131072}
    config = folder.with_suffix(".json")
    config.write_text(json.dumps(content))
    return [need("Orthanc"), str(config)]


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and of its children."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(folder.name) == pid:
            total += sum(map(int, after[11:15]))
        elif int(after[1]) == pid:
            total += sum(map(int, after[11:13]))
    return total / TICK


@dataclass
class Receiver:
    """A receiver that runs, and the folder in which what arrives lies."""

    name: str
    folder: Path
    pid: int
    port: int

    def arrived(self) -> list[Path]:
        """Return the files of images that lie there."""
        found = []
        for path in self.folder.rglob("*"):
            is_other = any(word in path.name for word in ("sqlite", "audit", "index", "jsonl"))
            if not is_other and path.is_file() and path.stat().st_size > SMALLEST:
                found.append(path)
        return found


@contextmanager
def receiver(name: str, folder: Path, is_tuned: bool) -> Iterator[Receiver]:
    """Run a receiver."""
    port = free_port()
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    environment |= {"TCP_NODELAY": "1"} if is_tuned else {}
    with folder.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            command(name, folder, port),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        # The port of a node is open before its listeners are: they say when they are ready.
        log = folder.with_suffix(".log")
        while name.startswith("serve") and b'"ready"' not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end + 60, log.read_text()
            time.sleep(0.1)
        yield Receiver(name, folder, process.pid, port)
    finally:
        if name.startswith("serve"):
            process.terminate()
        else:
            process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def trial(running: Receiver, folders: list[Path], is_tuned: bool) -> Trial:
    """Send each folder over its own association, all at once."""
    files = [path for folder in folders for path in folder.iterdir()]
    size = sum(path.stat().st_size for path in files)
    # +II: a UID of its own for each image
    options = ["-ll", "fatal", "-R", "+sd", "+II", "-aet", "MODALITY", "-aec", "CHEXFRACT"]
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    if is_tuned:
        options += ["--max-send-pdu", "131072"]
        environment["TCP_NODELAY"] = "1"
    before = cpu_seconds(running.pid)
    started = time.perf_counter()
    senders = [
        subprocess.Popen(
            [need("storescu"), *options, "127.0.0.1", str(running.port), str(folder)],
            env=environment,
        )
        for folder in folders
    ]
    failed = sum(sender.wait() != 0 for sender in senders)
    took = time.perf_counter() - started
    cpu = cpu_seconds(running.pid) - before
    kept = running.arrived()
    for path in kept:
        path.unlink()
    return Trial(size / 1e6 / took, cpu / (size / 1e9), not failed and len(kept) == len(files))


def floor(folders: list[Path], work: Path) -> Trial:
    """Take the same files over TCP, durably, in threads of this process."""
    out = Path(tempfile.mkdtemp(dir=work))
    files = [list(folder.iterdir()) for folder in folders]
    size = sum(path.stat().st_size for group in files for path in group)
    with socket.create_server(("127.0.0.1", 0), backlog=len(folders)) as listener:
        started, cpu = time.perf_counter(), time.process_time()
        senders = [fork(pour, group, listener.getsockname()[1]) for group in files]
        takers = []
        for number in range(len(folders)):
            connection = listener.accept()[0]
            takers.append(threading.Thread(target=drain, args=(connection, out, number)))
            takers[-1].start()
        for taker in takers:
            taker.join()
        took, cpu = time.perf_counter() - started, time.process_time() - cpu
    is_whole = all(os.waitpid(sender, 0)[1] == 0 for sender in senders)
    shutil.rmtree(out)
    return Trial(size / 1e6 / took, cpu / (size / 1e9), is_whole)


def fork(job: Callable[..., None], *arguments: object) -> int:
    child = os.fork()
    if child == 0:
        job(*arguments)
        os._exit(0)
    return child


def pour(files: list[Path], port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for path in files:
            with path.open("rb") as file:
                connection.sendall(path.stat().st_size.to_bytes(8, "big"))
                connection.sendfile(file)
            connection.recv(4)


def drain(connection: socket.socket, out: Path, number: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    space, count = memoryview(bytearray(1 << 19)), 0
    folder = os.open(out, os.O_RDONLY)
    while head := connection.recv(8, socket.MSG_WAITALL):
        left, count = int.from_bytes(head, "big"), count + 1
        part = out / f"{number}.part"
        with part.open("wb", buffering=0) as file:
            while left:
                read = connection.recv_into(space[:left])
                left -= file.write(space[:read])
            os.fsync(file.fileno())
        part.rename(out / f"{number}.{count}")
        os.fsync(folder)
        connection.sendall(b"done")
    os.close(folder)
    connection.close()


def drawn(folder: Path, count: int, shape: tuple[int, int]) -> None:
    """Write an image under so many names: the sender gives each a UID of its own."""
    folder.mkdir(parents=True)
    first = written(folder, radiograph(rows=shape[0], columns=shape[1]), "0.dcm")
    for number in range(1, count):
        (folder / f"{number}.dcm").hardlink_to(first)


def few(folder: Path) -> Path:
    """Return a folder with a tenth of the images of another."""
    smaller = folder.with_name(f"{folder.name} few")
    if not smaller.exists():
        smaller.mkdir()
        images = sorted(folder.iterdir())
        for image in images[: max(1, len(images) // 10)]:
            (smaller / image.name).hardlink_to(image)
    return smaller


def compare(
    size: str, folders: list[Path], options: argparse.Namespace, running: dict[str, Receiver]
) -> None:
    """Let the receivers take turns and print a line for each."""
    alone = len(folders) == 1
    names = [name for name in options.receivers if not (alone and name in ("serve 2", "serve 4"))]
    found: dict[str, list[Trial]] = {name: [] for name in names}
    for turn in range(options.repeat):
        for name in names[:: 1 if turn % 2 == 0 else -1]:
            if name == "floor":
                found[name].append(floor(folders, folders[0].parent.parent))
            else:
                sent = [few(folder) for folder in folders] if name in SLOW else folders
                found[name].append(trial(running[name], sent, not options.untuned))
    first = statistics.median(trial.mb_s for trial in found[names[0]])
    anchor = names[0]
    for name, trials in found.items():
        label = f"{size} x {len(folders)}, {name}"
        options.rows.append(row(label, [trial.mb_s for trial in trials], "MB/s", anchor, first))
        rate = statistics.median(trial.mb_s for trial in trials)
        cpu = statistics.median(trial.cpu_s_gb for trial in trials)
        lost = "" if all(trial.is_whole for trial in trials) else "  NOT WHOLE"
        print(
            f"{size:>6} x {len(folders)}  {name:16} {rate:6.0f} MB/s  x{rate / first:5.2f}  "
            f"CPU {cpu:5.2f} s/GB{lost}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--big", type=int, default=10, help="images of 10 MB per association")
    parser.add_argument("--small", type=int, default=100, help="images of 0.5 MB per association")
    parser.add_argument("--receivers", nargs="+", default=list(RECEIVERS), choices=RECEIVERS)
    parser.add_argument("--untuned", action="store_true", help="the sender keeps its defaults")
    parser.add_argument("--work", type=Path, help="where the files go")
    parser.add_argument("--listen", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.set_defaults(rows=[])
    options = parser.parse_args()
    if options.listen:
        listen(options.listen, options.port)
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    is_tuned = not options.untuned
    with tempfile.TemporaryDirectory(dir=options.work) as name, ExitStack() as stack:
        work, running = Path(name), {}
        for one in options.receivers:
            if one != "floor":
                own = is_tuned and not one.endswith("default")
                running[one] = stack.enter_context(receiver(one, work / one.replace(" ", "-"), own))
        warm = work / "warm"
        drawn(warm, 1, SIZES["0.5 MB"])
        for one in running.values():
            trial(one, [warm], is_tuned)
        for size, count in (("10 MB", options.big), ("0.5 MB", options.small)):
            folders = [work / size / str(i) for i in range(max(options.n))]
            for folder in folders if count else ():
                drawn(folder, count, SIZES[size])
            for n in options.n if count else ():
                compare(size, folders[:n], options, running)
    write("receive", options.rows, options.json)


if __name__ == "__main__":
    main()
