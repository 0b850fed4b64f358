"""What people and workers wait for while strangers hold connections of the web port.

    python -m tests.bench.strangers [--count 200] [--seconds 10]

Each kind is tried by itself, from this machine's own address, against a node that this script
starts: heads and bodies a byte at a time, sockets that say nothing, forms of many tiny parts, and
answers that nobody reads. Meanwhile /healthz and the job API are asked ten times a second.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from serving import SECRET, serving  # noqa: E402 - its folder is on the path only now

LIMIT_S = 1.0
"""An answer within this time counts."""

_FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"
_SIGN_IN = b"POST /sign-in HTTP/1.1\r\nHost: x\r\n"
_PART = b'--Q\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
PARTS = _PART * 12_000 + b"--Q--\r\n"

FIRST: dict[str, bytes] = {
    "slow heads": b"GET /healthz HTTP/1.1\r\nX-",
    "slow bodies": _SIGN_IN + _FORM + b"Content-Length: 8000\r\n\r\nn",
    "slow bodies of jobs": b"POST /jobs/x/result HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: 90000\r\n\r\n",
    "idle sockets": b"",
    "tiny parts": _SIGN_IN
    + b"Content-Type: multipart/form-data; boundary=Q\r\n"
    + b"Content-Length: %d\r\n\r\n" % len(PARTS)
    + PARTS,
    "tiny chunks": _SIGN_IN + _FORM + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 7_000,
    "fat heads": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 2_500 + b"\r\n",
    "wrong passwords": _SIGN_IN + _FORM + b"Content-Length: 22\r\n\r\nname=admin&password=xx",
    "unread answers": b"GET /static/htmx.min.js HTTP/1.1\r\nHost: x\r\n\r\n" * 30,
}
"""What each connection sends at first; then a byte now and then, where something is missing."""

DRIPS = frozenset(("slow heads", "slow bodies", "slow bodies of jobs"))


@dataclass
class Answers:
    """Times of the answers that came."""

    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of the calls that were answered within `LIMIT_S`."""
        count = len(self.seconds) + len(self.faults)
        return sum(s <= LIMIT_S for s in self.seconds) / count if count else 0.0


@contextmanager
def strangers(port: int, kind: str, count: int) -> Iterator[None]:
    """Let a process of its own hold `count` connections of one kind."""
    command = [sys.executable, "-m", "tests.bench.strangers", "--hold", str(port)]
    command += ["--kind", kind, "--count", str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # all are there
        yield
    finally:
        process.kill()
        process.communicate()


def hold(port: int, kind: str, count: int) -> None:
    """Hold connections for ever; those that the node closes are opened again."""
    held: list[socket.socket] = []
    is_told = False
    while True:
        while len(held) < count:
            with suppress(OSError):
                stranger = socket.create_connection(("127.0.0.1", port), 1)
                stranger.setblocking(False)
                held.append(stranger)
                stranger.send(FIRST[kind])
        if not is_told:
            print("all are there", flush=True)
            is_told = True
        time.sleep(0.2)
        for stranger in list(held):
            try:
                if kind in DRIPS:
                    stranger.send(b"a")
                elif kind == "unread answers":
                    continue
                if not stranger.recv(65536):
                    raise ConnectionError
            except BlockingIOError:
                continue
            except OSError:
                held.remove(stranger)
                stranger.close()


def ask(url: str, seconds: float) -> dict[str, Answers]:
    """Ask for health and at the job API, each on a connection of its own, as long as it lasts."""
    bearer = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    calls: dict[str, Callable[[], httpx2.Response]] = {
        "/healthz": lambda: httpx2.get(f"{url}/healthz", timeout=5, trust_env=False),
        "job API": lambda: httpx2.post(
            f"{url}/jobs/x/lease", headers=bearer, content=b'{"token":"t"}', timeout=5,
            trust_env=False,
        ),
    }  # fmt: skip
    expected = {"/healthz": 200, "job API": 404}
    found = {name: Answers() for name in calls}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, call in calls.items():
            began = time.monotonic()
            try:
                answer = call()
            except httpx2.HTTPError as exc:
                found[name].faults.append(type(exc).__name__)
                continue
            if answer.status_code == expected[name]:
                found[name].seconds.append(time.monotonic() - began)
            else:
                found[name].faults.append(str(answer.status_code))
        time.sleep(0.1)
    return found


def main() -> None:
    """Print a row per kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--hold", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        hold(options.hold, options.kind, options.count)
    print(f"{options.count} connections of each kind, {options.seconds:g} s")
    for kind in FIRST:
        with (
            tempfile.TemporaryDirectory() as folder,
            serving(Path(folder)) as api,
            strangers(api.settings.web.port, kind, options.count),
        ):
            for name, found in ask(api.url, options.seconds).items():
                slowest = max(found.seconds, default=float("nan"))
                median = statistics.median(found.seconds) if found.seconds else float("nan")
                print(
                    f"{kind:20} {name:9} {found.share:7.1%} of {len(found.seconds)} within "
                    f"{LIMIT_S:g} s, median {median:.3f} s, "
                    f"slowest {slowest:.2f} s {found.faults[:3]}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
