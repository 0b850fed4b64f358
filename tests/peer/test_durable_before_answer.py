"""What is on disk when a C-STORE is answered, by the system calls of a real listener."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from listening import radiograph, written
from peers import need
from stations import free_ports, wait_for

from dicom_node.store.ledger import Ledger

P_DATA = r'"\4\0'
"""How strace shows the first bytes of a P-DATA-TF PDU (DICOM PS3.8 9.3.5)."""

NODE_TOML = """\
[node]
host = "127.0.0.1"
port = {port}
data_dir = "{data}"
[retention]
min_free = "1MB"
[peers.sender]
ae_title = "MODALITY"
host = "127.0.0.1"
port = 104
[[rules]]
name = "everything"
model = "phantom"
allow_demonstration = true
"""


@pytest.mark.timeout(180)
def test_file_name_folder_and_row_are_on_disk_before_the_answer(tmp_path: Path) -> None:
    port, config, data = free_ports(1)[0], tmp_path / "node.toml", tmp_path / "data"
    config.write_text(NODE_TOML.format(port=port, data=data))
    data.mkdir()
    Ledger.upgrade(f"sqlite:///{data}/ledger.sqlite")
    calls = trace_one_store(tmp_path, config, port)
    answer = last(calls, len(calls), "sendto(", "TCP:", P_DATA)
    order = [
        last(calls, answer, "fsync(", "/spool/incoming/", ".part"),
        last(calls, answer, "rename", "/spool/incoming/", "/spool/images/"),
        last(calls, answer, "fsync(", "/spool/images/"),
        last(calls, answer, "sync(", "ledger.sqlite-wal"),
        answer,
    ]
    assert order == sorted(order)


def trace_one_store(folder: Path, config: Path, port: int) -> list[str]:
    """Return the system calls of a listener that receives one Instance from storescu."""
    log, image = folder / "calls", written(folder, radiograph())
    command = [need("strace"), "-f", "-yy", "-s", "8", "-o", str(log)]
    command += ["-e", "trace=fsync,fdatasync,rename,renameat,renameat2,sendto"]
    command += [sys.executable, "-m", "dicom_node", "role", "listener", "--config", str(config)]
    send = [need("storescu"), "-R", "-aet", "MODALITY", "-aec", "CHEXFRACT"]
    send += ["127.0.0.1", str(port), str(image)]
    traced = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for("the listener takes the image", lambda: _works(send), 90)
    finally:
        # the listener is strace's child: asked to end, it lets the log be complete
        for child in Path(f"/proc/{traced.pid}/task/{traced.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGTERM)
        traced.wait(30)
    return log.read_text(errors="replace").splitlines()


def _works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def last(calls: list[str], before: int, *words: str) -> int:
    """Return where the last call with these words stands."""
    found = [i for i, call in enumerate(calls[:before]) if all(word in call for word in words)]
    assert found, f"no call with {words}"
    return found[-1]
