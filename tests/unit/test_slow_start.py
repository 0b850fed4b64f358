"""A sandbox's start may take long on a busy machine, and ends when nothing happens any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_port

from dicom_node.base.errors import Unreachable
from dicom_node.operate import progress, sandbox
from dicom_node.operate.sandbox import SandboxNode
from dicom_node.settings import Peer

WORKS = "while True: pass"
WAITS = "import time; time.sleep(600)"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[SandboxNode]]:
    """Hold the nodes of a test, whose processes are ended behind it."""
    nodes: list[SandboxNode] = []
    yield nodes
    for node in nodes:
        os.killpg(node.process.pid, signal.SIGKILL)
        node.process.wait()


def start(code: str, folder: Path, nodes: list[SandboxNode]) -> SandboxNode:
    log = folder / "node.log"
    log.write_text("loading the model\n", encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    peer = Peer(ae_title="CHEXFRACT", host="127.0.0.1", port=free_port())
    nodes.append(SandboxNode(process, peer, "", "", log))
    return nodes[-1]


@pytest.mark.parametrize(
    ("code", "wrong"), [(WAITS, "did nothing any more"), (WORKS, "were still not ready")]
)
def test_a_start_is_given_up_when_nothing_happens_or_after_long(
    code: str,
    wrong: str,
    tmp_path: Path,
    started: list[SandboxNode],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "START_S", 0.5)
    monkeypatch.setattr(sandbox, "LONGEST_START_S", 0.8)
    monkeypatch.setattr(sandbox, "_SIGNS_OF_WORK_S", 0.0 if code == WORKS else 60.0)
    said: list[str] = []

    with pytest.raises(Unreachable, match=wrong) as raised:
        start(code, tmp_path, started).wait_until_ready(said.append)

    assert said[0].endswith("s so far; loading the model")
    assert str(raised.value).endswith("loading the model")


def test_a_start_that_works_is_waited_for(
    tmp_path: Path, started: list[SandboxNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(WORKS, tmp_path, started)
    looks = iter([False] * 8)
    monkeypatch.setattr(SandboxNode, "_is_ready", lambda _: next(looks, True))
    monkeypatch.setattr(sandbox, "START_S", 0.2)
    monkeypatch.setattr(sandbox, "_SIGNS_OF_WORK_S", 0.0)

    node.wait_until_ready()

    assert next(looks, None) is None


def test_a_node_is_asked_nothing_before_its_worker_is_ready(
    tmp_path: Path, started: list[SandboxNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten questions in a second are work: a start that hangs seemed to get on."""
    asked: list[str] = []
    monkeypatch.setattr(sandbox.scu, "echo", lambda own, _: asked.append(own))
    node = start(WAITS, tmp_path, started)

    assert not node._is_ready()
    assert not asked
    node.log.write_bytes(node.log.read_bytes() + b"ready: phantom\n")
    assert node._is_ready()
    assert asked


def test_the_processor_time_of_children_counts(tmp_path: Path, started: list[SandboxNode]) -> None:
    busy = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORKS!r}])"
    node = start(busy, tmp_path, started)
    end = time.monotonic() + 60

    while sandbox._processor_seconds(node.process.pid) < 0.5:
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "it said nothing"), ("a\nb\n", "b"), ("[1]\n", "[1]"),
     ('{"level": "info", "message": "worker \\"a\\" waits"}\n', 'worker "a" waits')],
)  # fmt: skip
def test_the_last_line_of_a_log_is_said_in_its_words(
    content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "node.log").write_text(content, encoding="utf-8")

    assert sandbox.last_line(tmp_path / "node.log") == said


def test_progress_is_said_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SAID_EACH_S", 0.0)
    with progress.wait("node and worker start") as say:
        say("30 s so far; loading")

    assert capsys.readouterr().err == "node and worker start: 30 s so far; loading\n"
