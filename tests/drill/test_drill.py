"""The drill in its short form, and proof that it can fail; not among the quick tests.

``pytest tests/drill`` takes half an hour: ten kinds of faults over real Redis and the stand-in, the
four variants of the product that are broken on purpose, power cuts, the order of system calls.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peers import need
from stations import free_ports, wait_for

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, "-m", "tests.drill"]

P_DATA = r'"\4\0'
"""How strace shows the first bytes of a P-DATA-TF PDU (DICOM PS3.8 9.3.5)."""

BROKEN = {
    "random-uids": (["--only", "web killed"], "not_rebuilt"),
    "publish-before-commit": (["--only", "listener killed"], "lost"),
    "no-lease-token": (
        ["--only", "worker stopped past its lease", "--seconds", "0.2", "--faults", "4"],
        "second_reports",
    ),
}
"""Variants, with faults that meet their weakness and the figure that must tell."""


def drill(*words: str, limit_s: float = 600) -> dict[str, Any]:
    done = subprocess.run(
        [*RUN, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit_s
    )
    print(done.stderr)
    if done.returncode == 69:
        pytest.skip(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if told["passed"] else 1)
    return told


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("broker", ["redis", "stand-in"])
def test_ten_kinds_of_faults_lose_and_double_nothing(broker: str) -> None:
    count = "1000" if broker == "redis" else "200"
    told = drill("--short", "--faults", "30", "--instances", count, "--broker", broker)
    assert told["passed"], told["told"]
    # a modality of the drill gives up after three tries; what it gave up was not promised
    assert told["acknowledged"] >= 0.8 * told["instances"]
    assert told["delivered"] + told["failed"] >= told["acknowledged"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("variant", BROKEN)
def test_a_broken_variant_fails(variant: str) -> None:
    words, figure = BROKEN[variant]
    told = drill("--faults", "6", "--instances", "60", "--poison", "0", "--broken", variant, *words)
    assert not told["passed"]
    assert told[figure] > 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("broken", ["", "no-fsync"])
def test_a_power_cut_loses_nothing_but_without_fsync(broken: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.drill.power_cut", "--cuts", "3"]
    command += ["--folder", str(tmp_path), "--broken", broken]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout)
    told = json.loads(done.stdout)
    assert told["acknowledged"] > 0
    assert (told["lost"] > 0, done.returncode) == ((True, 1) if broken else (False, 0))


@pytest.mark.timeout(180)
def test_the_listener_answers_only_after_file_name_folder_and_row_are_on_disk(
    tmp_path: Path,
) -> None:
    port = free_ports(1)[0]
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\nhost = "127.0.0.1"\nport = {port}\ndata_dir = "{tmp_path}/data"\n'
        '[retention]\nmin_free = "1MB"\n'
        '[peers.sender]\nae_title = "DRILL"\nhost = "127.0.0.1"\nport = 104\n'
        '[[rules]]\nname = "everything"\nmodel = "drill"\n'
    )
    upgrade = "from dicom_node.store.ledger import Ledger; import sys; Ledger.upgrade(sys.argv[1])"
    (tmp_path / "data").mkdir()
    url = f"sqlite:///{tmp_path}/data/ledger.sqlite"
    subprocess.run([sys.executable, "-c", upgrade, url], check=True, cwd=ROOT)
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
    """Return the system calls of a real listener that receives one Instance by storescu."""
    log, image = folder / "calls", folder / "image.dcm"
    make = "import sys; from pathlib import Path; from tests.drill import pictures as p; "
    make += "p.write(p.picture(1, 7), Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", make, str(image)], check=True, cwd=ROOT)
    command = [need("strace"), "-f", "-yy", "-s", "8", "-o", str(log)]
    command += ["-e", "trace=fsync,fdatasync,rename,renameat,renameat2,sendto"]
    command += [sys.executable, "-m", "dicom_node", "role", "listener", "--config", str(config)]
    traced = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    send = [need("storescu"), "-xr", "-aet", "DRILL", "-aec", "CHEXFRACT", "127.0.0.1", str(port)]
    try:
        wait_for("the listener takes the image", lambda: _works([*send, str(image)]), 90)
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
