"""A mutation fuzzer over recorded associations and Part 10 headers.

    python -m tests.fuzz --minutes 30 [--seed N]

What storescu, echoscu, findscu, getscu, movescu and an archive that reports a storage commitment
say is recorded once, PDU by PDU, then said again with faults to a listener in a process of its own.
All the while a well-behaved peer verifies it, and memory, threads and files of the listener are
watched. A seed tells the same faults again.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

from listening import CR, listening, radiograph, written
from peers import need

from dicom_node.base.errors import NotUnderstood
from dicom_node.dimse import refusals
from dicom_node.standard.header import read_header
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool

SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99")
SYNTAXES += ("1.2.840.10008.1.2.2",)
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF)
PIECES = (b"\\", b"../../etc/passwd", b"1." * 40, b"\x00", b"SQ\0\0\xff\xff\xff\xff", b"\xff" * 64)
PIECES += (b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 300, b"GET / HTTP/1.1\r\n\r\n", b"%s%n{{7*7}}")

STUDY = "1.2.3"
"""Study Instance UID of a report that can be retrieved."""

Recording = list[bytes]
"""The PDUs of a requestor, in order."""


@dataclass
class Findings:
    """What was tried and what was seen."""

    associations: int = 0
    headers: int = 0
    echoes: list[float] = field(default_factory=list)
    silent: int = 0
    rss_mb: float = 0.0
    threads: tuple[int, int] = (0, 0)
    files: tuple[int, int] = (0, 0)
    unfinished: int = 0
    tracebacks: int = 0


# A listener in a process of its own


def listen(folder: Path) -> None:
    """Serve until standard input ends."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    os.environ["CHEXFRACT_PEERS__MODALITY__STORAGE_COMMITMENT"] = "true"
    # Many attacks within one minute come from one address here, and each is looked for in the log.
    refusals.LINES_PER_MINUTE = 1_000_000
    with listening(folder, idle_timeout=2, max_instance=32_000_000) as node:
        print(json.dumps({"port": node.port, "incoming": str(node.spool.root / "incoming")}))
        sys.stdout.flush()
        sys.stdin.read()


@contextmanager
def listener(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    with (folder / "listener.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "--listen", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        yield process, ready["port"], Path(ready["incoming"])
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(20)


def state(process: subprocess.Popen[str]) -> tuple[float, int, int]:
    """Return memory in MB, threads and open files of a process."""
    with Path(f"/proc/{process.pid}/status").open() as file:
        fields = dict(line.split(":", 1) for line in file)
    files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["Threads"]), files


# Recording


def pdus(stream: bytes) -> Recording:
    found = []
    while len(stream) >= 6:
        size = 6 + struct.unpack(">L", stream[2:6])[0]
        found.append(stream[:size])
        stream = stream[size:]
    return found


def recorded(port: int, command: Callable[[int], Sequence[str]], ends: int = 0) -> Recording:
    """Return what a program says to the listener until it ends, taken down by a proxy."""
    heard = bytearray()

    def carry(source: socket.socket, target: socket.socket, note: bytearray | None) -> None:
        with suppress(OSError):
            while chunk := source.recv(1 << 16):
                if note is not None:
                    note += chunk
                target.sendall(chunk)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    with socket.create_server(("127.0.0.1", 0)) as proxy:
        peer = subprocess.Popen(
            command(proxy.getsockname()[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        here, _ = proxy.accept()
        with here, socket.create_connection(("127.0.0.1", port)) as there:
            back = threading.Thread(target=carry, args=(there, here, None))
            back.start()
            carry(here, there, heard)
            back.join(10)
        assert peer.wait(20) == ends, command(0)
    return pdus(bytes(heard))


def echo_recording(port: int) -> Recording:
    """Return what echoscu says."""
    path = need("echoscu")
    to = ["-aet", "MODALITY", "-aec", "CHEXFRACT", "127.0.0.1"]
    return recorded(port, lambda at: [path, *to, str(at)])


def recordings(port: int, folder: Path) -> list[Recording]:
    image = written(folder, radiograph(CR, 24, 24))
    to = ["-aet", "MODALITY", "-aec", "CHEXFRACT"]

    def said(program: str, *options: str, last: Sequence[str] = ()) -> Recording:
        path = need(program)
        return recorded(port, lambda at: [path, *to, *options, "127.0.0.1", str(at), *last])

    keys = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyDate=20200101-"]
    study = ["-S", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    (folder / "got").mkdir()
    me = [sys.executable, __file__, "--report"]
    return [
        echo_recording(port),
        said("storescu", last=[str(image)]),
        said("storescu", "-xi", last=[str(image)]),
        said("storescu", "-xd", last=[str(image)]),
        said("findscu", *keys, "-k", "PatientName=A*", "-k", "StudyInstanceUID"),
        said("getscu", *study, "-od", str(folder / "got")),
        recorded(port, lambda at: [need("movescu"), *to, *study, "127.0.0.1", str(at)], ends=69),
        recorded(port, lambda at: [*me, str(at)]),
    ]


def report(port: int) -> None:
    """Report a storage commitment as an archive does, on an association of its own."""
    from pydicom.dataset import Dataset
    from pynetdicom import AE, build_role
    from pynetdicom.sop_class import StorageCommitmentPushModel as Model
    from pynetdicom.sop_class import StorageCommitmentPushModelInstance as Instance

    notice, kept, lost = Dataset(), Dataset(), Dataset()
    notice.TransactionUID = "2.25.1"
    for item, uid in ((kept, "2.25.2"), (lost, "2.25.3")):
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CR, uid
    lost.FailureReason = 0x0112
    notice.ReferencedSOPSequence, notice.FailedSOPSequence = [kept], [lost]
    ae = AE("MODALITY")
    ae.add_requested_context(Model)
    roles = [build_role(Model, scp_role=True)]
    assoc = ae.associate("127.0.0.1", port, ae_title="CHEXFRACT", ext_neg=roles)
    status, _ = assoc.send_n_event_report(notice, 2, Model, Instance)
    assert status.Status == 0x0115, "there is no such transaction"
    assoc.release()


# Mutations


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return `content` with one fault."""
    at = chance.randrange(max(1, len(content)))
    kind = chance.randrange(8)
    if kind == 0:
        return content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :]
    if kind == 1:
        number = struct.pack(chance.choice(("<L", ">L")), chance.choice(NUMBERS))
        return content[:at] + number + content[at + 4 :]
    if kind == 2:
        number = struct.pack(chance.choice(("<H", ">H")), chance.choice(NUMBERS) & 0xFFFF)
        return content[:at] + number + content[at + 2 :]
    if kind == 3:
        return content[:at]
    if kind == 4:
        end = min(len(content), at + chance.randrange(1, 64))
        return content[:end] + content[at:end] * chance.randrange(1, 40) + content[end:]
    if kind == 5:
        return content[:at] + content[at + chance.randrange(1, 64) :]
    if kind == 6:
        return content[:at] + chance.choice(PIECES) + content[at:]
    return content[:at] + chance.randbytes(chance.randrange(1, 64)) + content[at + 8 :]


def faulty(recording: Recording, chance: random.Random) -> Recording:
    """Return the PDUs of an association with some faults, most of them after its request."""
    said = list(recording)
    for _ in range(chance.choice((1, 1, 2, 4))):
        first = 0 if chance.random() < 0.25 or len(said) < 2 else 1
        at = chance.randrange(min(first, len(said) - 1), len(said))
        kind = chance.randrange(10)
        if kind < 4:
            said[at] = mutated(said[at], chance)
        elif kind < 7:  # a fault inside a PDU whose length is right
            body = mutated(said[at][6:], chance)
            said[at] = said[at][:2] + struct.pack(">L", len(body)) + body
        elif kind == 7:
            said.insert(at, chance.choice(said))
        elif kind == 8 and len(said) > 1:
            del said[at]
        else:
            chance.shuffle(said)
    return said


def say(port: int, said: Recording, chance: random.Random) -> None:
    """Say the PDUs on one connection, wait a moment at times, and hang up."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, pdu in enumerate(said):
            if chance.random() < 0.05:
                pdu = pdu[: chance.randrange(len(pdu) + 1)]
            line.sendall(pdu)
            line.settimeout(0.25 if number == 0 else 0.02)
            if number == 0 or chance.random() < 0.3:
                with suppress(TimeoutError):
                    if not line.recv(1 << 16):
                        return
            line.settimeout(2)
        if chance.random() < 0.2:  # leave like a machine that was switched off
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# The well-behaved peer


def echo(port: int, recording: Recording) -> float:
    """Verify as echoscu did and return how long it took until the answer, in seconds."""
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pdu, expected in zip(recording[:2], (2, 4), strict=True):
            line.sendall(pdu)
            head = line.recv(6, socket.MSG_WAITALL)
            if len(head) < 6 or head[0] != expected:
                raise ConnectionError("no association")
            line.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL)
        took = time.perf_counter() - started
        line.sendall(recording[-1])
        line.recv(10)
    return took


def verify(port: int, recording: Recording, ends: threading.Event, found: Findings) -> None:
    while not ends.wait(0.2):
        try:
            found.echoes.append(echo(port, recording))
        except OSError:
            found.silent += 1


# Part 10 headers


def heads(folder: Path) -> list[bytes]:
    plain = written(folder, radiograph(), "head.dcm").read_bytes()
    start = 144 + struct.unpack("<L", plain[140:144])[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return [plain, plain[:start] + packer.compress(plain[start:]) + packer.flush()]


def read_faulty(contents: Sequence[bytes], chance: random.Random) -> None:
    """Read one faulty header; what it raises, if anything, is `NotUnderstood`, and soon."""
    content = chance.choice(contents)
    for _ in range(chance.choice((1, 2, 5))):
        content = content[:144] + mutated(content[144:], chance)
    started = time.process_time()
    with suppress(NotUnderstood):
        read_header(io.BytesIO(content), chance.choice(SYNTAXES))
    assert time.process_time() - started < 2, "a header took more than 2 s"


# The whole


def make_report(folder: Path) -> None:
    """Put a report into the ledger that the listener will open, for those who retrieve."""
    from results import add_result

    url = f"sqlite:///{folder}/ledger.sqlite"
    Ledger.upgrade(url)
    ledger = Ledger.open(url)
    add_result(ledger, Spool(folder / "spool"), StudyInstanceUID=STUDY)
    ledger.close()


def fuzz(folder: Path, seconds: float, seed: int, tell: bool = False) -> Findings:
    """Fuzz a listener and return what was seen."""
    chance, found = random.Random(seed), Findings()
    make_report(folder)
    with listener(folder) as (process, port, incoming):
        known = recordings(port, folder)
        contents = heads(folder)
        time.sleep(1)
        _, threads, files = state(process)
        ends = threading.Event()
        good = threading.Thread(target=verify, args=(port, known[0], ends, found))
        good.start()
        end = time.monotonic() + seconds
        printed = time.monotonic()
        while time.monotonic() < end and process.poll() is None:
            say(port, faulty(chance.choice(known), chance), chance)
            found.associations += 1
            for _ in range(5):
                read_faulty(contents, chance)
                found.headers += 1
            found.rss_mb = max(found.rss_mb, state(process)[0])
            if tell and time.monotonic() - printed > 60:
                printed = time.monotonic()
                print(summary(found), state(process), flush=True)
        ends.set()
        good.join(15)
        assert process.poll() is None, (folder / "listener.log").read_text()[-2000:]
        # The last association may still be on its way out.
        end = time.monotonic() + 30
        while time.monotonic() < end:
            _, threads_now, files_now = state(process)
            if threads_now <= threads and files_now <= files + 2 and not any(incoming.iterdir()):
                break
            time.sleep(0.1)
        _, threads_after, files_after = state(process)
        found.threads, found.files = (threads, threads_after), (files, files_after)
        found.unfinished = len(list(incoming.iterdir()))
        log = (folder / "listener.log").read_text(errors="replace")
        found.tracebacks = log.count("Traceback (most recent call last)")
        found.echoes.append(echo(port, known[0]))
    return found


def summary(found: Findings) -> str:
    echoes = sorted(found.echoes) or [0.0]
    return (
        f"{found.associations} associations, {found.headers} headers; "
        f"{len(found.echoes)} echoes, median {echoes[len(echoes) // 2] * 1000:.0f} ms, "
        f"slowest {echoes[-1] * 1000:.0f} ms, {found.silent} without answer; "
        f"{found.rss_mb:.0f} MB at most; threads {found.threads}, files {found.files}, "
        f"{found.unfinished} unfinished, {found.tracebacks} tracebacks"
    )


def check(found: Findings, slowest_s: float) -> None:
    """Raise unless the listener served all the while and kept nothing."""
    assert found.associations
    assert found.echoes
    assert not found.silent, f"{found.silent} C-ECHO without an answer"
    assert max(found.echoes) < slowest_s, f"a C-ECHO took {max(found.echoes):.2f} s"
    assert found.rss_mb < 300, f"{found.rss_mb:.0f} MB"
    assert found.threads[1] <= found.threads[0], f"threads: {found.threads}"
    assert found.files[1] <= found.files[0] + 2, f"open files: {found.files}"
    assert not found.unfinished
    assert not found.tracebacks, "each misbehaviour is one line, not a traceback"


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the listener.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--listen", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--report", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.listen:
        listen(options.listen)
        return
    if options.report:
        report(options.report)
        return
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(Path(folder), options.minutes * 60, seed, tell=True)
    print(summary(found))
    check(found, slowest_s=1.0)


if __name__ == "__main__":
    main()
