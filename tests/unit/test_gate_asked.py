"""The node learns the gate's verdict from the worker's program, on any machine, for any bytes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from listening import radiograph, written

from dicom_node.flow import ask_gate
from worker import cli

WITHOUT_PICTURES = """
import sys
for name in ("numpy", "PIL", "torch", "highdicom", "imagecodecs"):
    sys.modules[name] = None
from worker.cli import main
sys.exit(main(["gate", sys.argv[1], "--json"]))
"""


def test_a_chest_passes_and_a_knee_does_not(tmp_path: Path) -> None:
    chest, knee = radiograph(rows=300, columns=300), radiograph(rows=300, columns=300)
    knee.BodyPartExamined = "KNEE"
    with written(tmp_path, chest).open("rb") as file:
        assert ask_gate.ask(file) == ask_gate.GateVerdict(True, True)
    with written(tmp_path, knee).open("rb") as file:
        file.read(100)  # wherever somebody left it
        answer = ask_gate.ask(file)
    assert (answer.passes, answer.code) == (False, "not-chest")
    assert "KNEE" in answer.text


def test_a_file_in_memory_is_asked_about_too(tmp_path: Path) -> None:
    with tempfile.SpooledTemporaryFile(max_size=1 << 20) as file:
        file.write(written(tmp_path, radiograph(rows=20, columns=20)).read_bytes())
        assert ask_gate.ask(file).code == "too-small"  # type: ignore[arg-type]


def test_the_gate_needs_no_package_of_the_worker(tmp_path: Path) -> None:
    path = written(tmp_path, radiograph(rows=300, columns=300))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PICTURES, str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout) == {"passes": True, "code": "", "text": ""}, done.stderr
    assert done.returncode == 0


def test_nobody_to_ask_is_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with written(tmp_path, radiograph()).open("rb") as file:
        assert not ask_gate.ask(file).is_known


def test_the_command_says_why_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.dcm"
    path.write_bytes(b"no DICOM")
    assert cli.main(["gate", str(path)]) == 1
    assert "(not-dicom)" in capsys.readouterr().out
    assert cli.main(["gate", str(tmp_path / "gone")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_no_secret_reaches_the_process_that_reads_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: dict[str, str] = {}

    def run(*_: object, env: dict[str, str], **__: object) -> object:
        seen.update(env)
        return subprocess.CompletedProcess([], 0, stdout='{"passes": true, "code": "", "text": ""}')

    monkeypatch.setenv("CHEXFRACT_WEB__SECRET", "hidden")
    monkeypatch.setattr(ask_gate.subprocess, "run", run)
    with written(tmp_path, radiograph()).open("rb") as file:
        assert ask_gate.ask(file).passes
    assert "hidden" not in seen.values()
