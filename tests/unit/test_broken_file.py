"""A typing error in node.toml stops a start, and nothing that looks at a node which runs well."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

from dicom_node import in_force
from dicom_node.cli import main
from dicom_node.settings import load
from dicom_node.store.ledger import Ledger
from dicom_node.users import read_users


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A node.toml that a node had accepted before somebody mistyped a key."""
    config = tmp_path / "node.toml"
    right = f"[node]\nport = 4104\ndata_dir = '{tmp_path / 'data'}'\n"
    config.write_text(right)
    settings = load(config)
    settings.node.data_dir.mkdir()
    Ledger.upgrade(settings.ledger_url)
    in_force.accept(config, settings)
    config.write_text(right + "prot = 1\n")
    return config


@pytest.mark.parametrize("fault", ["prot = 1\n", "[node\n", "port = 1\nport = 2\n", "a = \n"])
@pytest.mark.parametrize("command", [["status"], ["export", "--since", "2026-01-01"]])
def test_what_looks_goes_on_with_what_is_in_force(
    broken: Path, capsys: pytest.CaptureFixture[str], command: list[str], fault: str
) -> None:
    broken.write_text(broken.read_text().replace("prot = 1\n", fault))
    assert main([*command, "--config", str(broken)]) == 0
    warning = capsys.readouterr().err
    assert str(broken) in warning
    assert "going on with what the node accepted last" in warning


def test_an_act_reaches_the_ledger_of_the_node(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retry", "--failed", "--config", str(broken)]) == 0
    assert main(["trace", "1.2.3", "--config", str(broken)]) == 1
    assert "1.2.3" in capsys.readouterr().err


def test_doctor_shows_one_failure_and_goes_on(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--config", str(broken), "--json"]) == os.EX_CONFIG
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["config"]["verdict"] == "fail"
    assert "did you mean port?" in checks["config"]["what"]
    assert checks["ledger"]["verdict"] == "pass"


def test_a_start_is_refused(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--config", str(broken)]) == os.EX_CONFIG
    assert "did you mean port?" in capsys.readouterr().err


def test_the_copy_of_another_file_is_not_taken(broken: Path) -> None:
    other = broken.with_name("other.toml")
    other.write_text(broken.read_text())
    assert in_force.beside_broken_file(other) is None
    assert in_force.beside_broken_file(broken) is not None


def test_a_password_is_read_from_standard_input_where_no_terminal_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\ndata_dir = '{tmp_path}'\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse battery\n"))
    assert main(["user", "add", "anna", "--config", str(config)]) == 0
    assert "anna" in read_users(tmp_path / "users")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["user", "add", "ben", "--config", str(config)]) == os.EX_CONFIG
    missing = str(tmp_path / "no-such-file")
    assert main(["user", "add", "ben", "--password-file", missing, "--config", str(config)]) == 1
    assert f"{missing}: No such file" in capsys.readouterr().err
