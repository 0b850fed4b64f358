"""The demonstration ends whole, however it is ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stations import wait_for


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of what runs with files of `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if any(word.startswith(f"{folder}/") for word in words):
            found.append(" ".join(words))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demonstration_that_is_ended_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-m", "dicom_node", "demo", "--dir", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as demo:  # fmt: skip
        wait_for("the node starts its roles", lambda: len(processes_of(tmp_path)) >= 3, 60)
        demo.send_signal(number)
        assert demo.wait(30) == 128 + number
    wait_for("all have ended", lambda: not processes_of(tmp_path), 10)
