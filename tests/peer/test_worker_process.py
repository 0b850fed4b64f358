"""A worker as its own process at a real Redis: it starts, is fed, and ends when it is asked to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stations import free_ports, wait_for

from dicom_node.flow import broker

pytestmark = pytest.mark.peer

END_S = 1.0
"""An idle worker is gone so soon after it was asked; the machine may be busy beside."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    port = free_ports(1)[0]
    folder = tmp_path / "redis"
    folder.mkdir()
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"
    try:
        wait_for("redis", lambda: _answers(url), 20)
        yield url
    finally:
        server.kill()
        server.wait(10)


def _answers(url: str) -> bool:
    try:
        broker.ping(url, 0.5)
    except broker.Unreachable:
        return False
    return True


def _started(folder: Path, url: str, preparers: int) -> subprocess.Popen[bytes]:
    config = folder / "worker.toml"
    config.write_text(
        f'[worker]\nbroker = "{url}"\nmodel = "phantom"\ndevice = "cpu"\nnodes = ["http://127.0.0.1:9"]\n'
        f"preparers = {preparers}\n"
    )
    environment = os.environ | {"CHEXFRACT_WORKER_WORKER__SECRET": "a-secret-of-some-length"}
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker", "run", "--config", str(config)],
            env=environment,
            stdout=log,
            stderr=log,
        )
    listens = lambda: broker.facts(url).get("listening") == 1  # noqa: E731
    try:
        wait_for(
            "the worker waits for hand-outs", lambda: worker.poll() is not None or listens(), 60
        )
        assert worker.poll() is None, (folder / "worker.log").read_text()
    except BaseException:
        worker.kill()
        worker.wait(10)
        raise
    return worker


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _runs(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "preparers"), [(signal.SIGTERM, 1), (signal.SIGINT, 0), (signal.SIGHUP, 0)]
)
def test_an_idle_worker_ends_within_a_second_and_leaves_no_child(
    tmp_path: Path, redis: str, number: signal.Signals, preparers: int
) -> None:
    worker = _started(tmp_path, redis, preparers)
    try:
        children = _children(worker.pid)
        assert len(children) >= preparers
        asked = time.monotonic()
        worker.send_signal(number)
        assert worker.wait(20) == 0
        assert time.monotonic() - asked < END_S
        wait_for("its children end", lambda: not any(map(_runs, children)), 20)
    finally:
        worker.kill()
        worker.wait(10)
    lines = (tmp_path / "worker.log").read_text().splitlines()
    assert [line for line in lines if not line.startswith('{"time": ')] == []
