"""What a node keeps is its user's alone, also what an older version left open."""

import stat
import subprocess
import time
from pathlib import Path

import pytest
from pages import picture

from dicom_node.base.confine import python_command
from dicom_node.cli import main
from dicom_node.run.supervisor import _make_data_dir
from dicom_node.settings import Node, Settings


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}


def test_a_start_closes_what_was_open(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "spool").mkdir(parents=True)
    (folder / "ledger.sqlite").touch()
    for path in (folder, folder / "spool"):
        path.chmod(0o755)
    (folder / "ledger.sqlite").chmod(0o644)
    outside = tmp_path / "outside"
    outside.touch()
    outside.chmod(0o644)
    (folder / "link").symlink_to(outside)
    _make_data_dir(Settings(node=Node(data_dir=folder)))
    assert modes(folder) == {"data": 0o700, "spool": 0o700, "ledger.sqlite": 0o600, "link": 0o644}


def test_a_node_makes_files_for_its_user_alone(tmp_path: Path, free_port: int) -> None:
    config, folder = tmp_path / "node.toml", tmp_path / "data"
    config.write_text(f"[node]\nport = 0\ndata_dir = '{folder}'\n[web]\nport = {free_port}\n")
    command = python_command("-m", "dicom_node", "serve", "--config", str(config))
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, umask=0o022) as process:
        try:
            end = time.monotonic() + 60
            while not (folder / "accepted.json").exists() and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            process.terminate()
    found = [path for path in (folder, *folder.rglob("*")) if not path.is_socket()]
    assert (folder / "ledger.sqlite") in found
    assert [str(path) for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_a_preview_runs_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dicom_node.web.preview import Previews

    (tmp_path / "PIL.py").write_text(f"open('{tmp_path}/ran', 'w')\nraise SystemExit")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.dcm").write_bytes(picture())
    assert Previews().png(tmp_path / "image.dcm", "whole").startswith(b"\x89PNG")
    assert not (tmp_path / "ran").exists()


def test_doctor_is_asked_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\ndata_dir = '{tmp_path}'\n")
    main(["doctor", "--config", str(config), "--json"])
    assert '"confinement"' in capsys.readouterr().out
