"""systemd hears when the node is ready, alive and stopping."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from stations import free_ports

from dicom_node.base import service_manager
from dicom_node.base.service_manager import ALIVE, READY, STOPPING, Watchdog, notify

NODE = """
[node]
port = {}
host = "127.0.0.1"
data_dir = {!r}
[web]
port = {}
url = "http://127.0.0.1:{}"
"""


def manager(path: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    line.bind(path)
    line.settimeout(60)
    return line


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_state_reaches_the_socket_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    name = f"@chexfract-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with manager(name.replace("@", "\0")) as line:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify(READY)
        assert line.recv(64) == b"READY=1"


@pytest.mark.parametrize("name", ["", "/nobody/listens/here", "vsock:2:1"])
def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify(READY)


def test_the_watchdog_is_patted_in_time_and_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    now = [0.0]
    monkeypatch.setattr(service_manager, "notify", sent.append)
    monkeypatch.setattr(service_manager.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    watchdog = Watchdog()
    for second in range(100):
        now[0] = float(second)
        watchdog.pat()
    assert sent == [ALIVE] * 5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    Watchdog().pat()
    assert len(sent) == 5


def test_serve_says_ready_alive_and_stopping(tmp_path: Path) -> None:
    port, web = free_ports(2)
    (tmp_path / "node.toml").write_text(NODE.format(port, str(tmp_path / "var"), web, web))
    environment = os.environ | {
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "300000",
    }
    with manager(str(tmp_path / "notify")) as line, (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", "node.toml"]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            heard = {line.recv(64).decode()}
            while not {READY, ALIVE} <= heard:
                heard.add(line.recv(64).decode())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        line.settimeout(1)
        while STOPPING not in heard:
            heard.add(line.recv(64).decode())
    assert process.returncode == 0
