"""What the shipped systemd units and the compose file promise: whatever ends is started again."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from peers import need

from dicom_node.base.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "configs" / "systemd").glob("*.service"))
MODULES = {"chexfract-node": "dicom_node", "chexfract-worker": "worker"}


def keys(unit: Path) -> dict[str, str]:
    lines = unit.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]\w+=", line))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_again_for_ever_unless_the_configuration_is_wrong(unit: Path) -> None:
    told = keys(unit)
    assert told["Restart"] == "always"
    assert told["StartLimitIntervalSec"] == "0"
    assert told["RestartPreventExitStatus"] == str(ConfigurationError.exit_code)
    assert "NoNewPrivileges" in told


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_exists(unit: Path, tmp_path: Path) -> None:
    program, *words = shlex.split(keys(unit)["ExecStart"])
    at = words.index("--config") + 1
    assert words[at].startswith("/etc/chexfract/")
    words[at] = str(tmp_path / "missing.toml")
    done = subprocess.run(
        [sys.executable, "-m", MODULES[Path(program).name], *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == ConfigurationError.exit_code, done.stderr
    assert "missing.toml" in done.stderr


def test_systemd_finds_nothing_wrong_in_the_units(tmp_path: Path) -> None:
    program = need("systemd-analyze")
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8")
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.M)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [program, "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not [line for line in done.stderr.splitlines() if "chexfract" in line], done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_takes_away_what_its_program_does_not_need(unit: Path) -> None:
    """systemd's own score: 0 is a locked box, 10 the whole machine; 3.0 was asked for."""
    done = subprocess.run(
        [need("systemd-analyze"), "security", "--offline=true", "--threshold=30", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_compose_starts_every_service_again() -> None:
    text = (ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8")
    services = re.split(r"^  (?=\w+:$)", text.split("\nvolumes:")[0], flags=re.M)[1:]
    once = [one for one in services if one.startswith("certificate:")]
    assert (len(services), len(once)) == (5, 1)
    assert "service_completed_successfully" in text
    assert [one for one in services if one not in once and "    restart: always\n" not in one] == []
