"""`logs` shows what all processes said, in the order of time, whatever a file looks like."""

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.misc import warn_and_log

from dicom_node.base import logs
from dicom_node.cli import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node.toml whose data folder has the lines of two processes."""
    (tmp_path / "node.toml").write_text(f"[node]\ndata_dir = '{tmp_path}'\n")
    (tmp_path / "log").mkdir()
    write(tmp_path, "listener", 1, "stored", sop="1.2.3")
    write(tmp_path, "courier", 2, "delivered", sop="1.2.3")
    write(tmp_path, "listener", 3, "refused", level="warning")
    return tmp_path / "node.toml"


def write(folder: Path, role: str, second: int, message: str, **more: str) -> None:
    line = {"time": f"2026-11-29T00:00:{second:02}.000+00:00", "level": "info", "logger": "x"}
    with (folder / "log" / f"{role}.jsonl").open("a") as file:
        file.write(json.dumps({**line, "message": message, **more}) + "\n")


def shown(capsys: pytest.CaptureFixture[str], config: Path, *arguments: str) -> list[str]:
    assert main(["logs", *arguments, "--config", str(config), "--json"]) == 0
    return [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines()]


def test_lines_of_all_processes_come_in_the_order_of_time(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, config) == ["stored", "delivered", "refused"]
    assert shown(capsys, config, "--limit", "1") == ["refused"]
    assert shown(capsys, config, "1.2.3") == ["stored", "delivered"]
    assert shown(capsys, config, "--level", "warning") == ["refused"]


def test_half_a_line_and_what_is_no_json_are_passed_over(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (config.parent / "log" / "courier.jsonl").open("a") as file:
        file.write('[]\nnoise\n{"time": "yesterday"}\n{"time": "2026-')
    assert shown(capsys, config) == ["stored", "delivered", "refused"]


def test_a_line_for_people_cannot_forge_a_second_one(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(config.parent, "web", 4, "two\nlines \x1b[31m")
    assert main(["logs", "--config", str(config)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "web" in last
    assert "two\\x0alines \\x1b[31m" in last


def test_files_put_aside_are_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 400)
    handler = logs.LogFile(tmp_path / "x.jsonl")
    for number in range(12):
        handler.emit(logging.makeLogRecord({"msg": f"line {number}", "levelno": 20}))
    handler.close()
    from dicom_node.operate.read_logs import _older_lines

    assert len([*tmp_path.glob("x.jsonl.*")]) > 1
    kept = [line.content["message"] for line in _older_lines(tmp_path / "x.jsonl")]
    assert kept == sorted(kept, key=lambda text: int(text.split()[1]))


def test_follow_goes_on_when_a_file_is_put_aside(config: Path) -> None:
    command = [sys.executable, "-m", "dicom_node", "logs", "-f", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "refused" in [process.stdout.readline() for _ in range(3)][-1]
            file = config.parent / "log" / "listener.jsonl"
            write(config.parent, "listener", 5, "before")
            file.rename(file.with_name("listener.jsonl.1"))
            write(config.parent, "listener", 6, "after")
            assert "before" in process.stdout.readline()
            assert "after" in process.stdout.readline()
        finally:
            process.terminate()


def test_a_full_disk_costs_lines_and_no_work(tmp_path: Path) -> None:
    handler = logs.LogFile(tmp_path / "missing" / "x.jsonl")
    handler.handle(logging.makeLogRecord({"msg": "lost", "levelno": 20}))


def test_values_that_pydicom_quotes_stay_out_of_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its logger gets its level back when it is imported, which may be after ours was set."""
    logs.start()
    pydicom.config.debug(False, False)  # as at its import
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warn_and_log("Invalid value for VR DA: 'DOE^JANE'")
    assert "DOE" not in capsys.readouterr().err
    logging.getLogger("pydicom").error("what ends the reading")
    assert "what ends the reading" in capsys.readouterr().err
