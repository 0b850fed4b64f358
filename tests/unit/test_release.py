"""A release has one version, exact packages with hashes, and licences that were looked at."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dicom_node
import worker
from dicom_node.base import identity, version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WITHOUT_HASH = {"torch"}
"""The CPU build has another index and other hashes than the CUDA build."""


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==([^ ;\\\n]+)", text, re.MULTILINE)
    return {canonicalize_name(name): number for name, number in found}


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text())


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "dicom_node/base/version.py"
    assert dicom_node.__version__ == worker.__version__ == version.__version__
    name = identity.IMPLEMENTATION_VERSION_NAME
    assert len(name) <= 16, "DICOM PS3.7 D.3.3.2.4"
    assert version.__version__.startswith(name.removeprefix("CHEXFRACT_"))


def test_the_changelog_has_one_heading_for_a_version() -> None:
    headings = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    names = [name for name, _ in headings]
    assert len(names) == len(set(names))
    assert headings[0] == ("Unreleased", "")
    assert all(re.fullmatch(r" - \d{4}-\d\d-\d\d", date) for _, date in headings[1:])


@pytest.mark.parametrize(
    ("image", "extras"), [("node", ("oidc", "postgresql")), ("worker", ("worker",))]
)
def test_what_an_image_installs_has_hashes_and_the_versions_that_are_tested(
    image: str, extras: tuple[str, ...]
) -> None:
    text = (ROOT / "docker" / f"{image}.requirements.txt").read_text()
    found = pins(text)
    for block in re.split(r"\n(?=[a-z])", text)[1:]:
        assert "--hash=sha256:" in block, block[:60]
    wanted = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        wanted += PROJECT["project"]["optional-dependencies"][extra]
    for one in map(Requirement, wanted):
        name = canonicalize_name(one.name)
        if name not in WITHOUT_HASH:
            assert one.specifier.contains(found[name]), f"{name}: run .ci/lock.sh"
    stale = {name for name, number in found.items() if CONSTRAINTS.get(name, number) != number}
    assert stale == set(), "run .ci/lock.sh"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    return script("licences")


def test_all_that_is_shipped_has_a_licence_that_binds_nobody(licences: ModuleType) -> None:
    packages = {name: licence for name, _, licence in licences.shipped(licences.wanted())}
    assert {"pydicom", "torch", "psycopg", "authlib", "sacrebleu", "opentelemetry-sdk"} <= {
        *packages
    }
    assert "pytest" not in packages
    assert len(packages) > 60
    assert licences.refused(licences.shipped(licences.wanted())) == []


@pytest.mark.parametrize(
    ("licence", "is_allowed"),
    [
        ("Apache-2.0", True),
        ("MIT OR GPL-2.0-only", True),
        ("MIT AND GPL-2.0-only", False),
        ("(MIT OR GPL-3.0) AND SSPL-1.0", False),
        ("(MIT OR GPL-3.0) AND BSD-3-Clause", True),
        ("BSD License; MIT License", True),
        ("MIT License; GNU General Public License v3 (GPLv3)", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("LGPL-2.1-or-later", False),
        ("AGPL-3.0", False),
        ("CC-BY-NC-4.0", False),
        ("Apache 2.0 with Commons Clause", False),
        ("Proprietary, for miscellaneous and simple permits", False),
        ("UNKNOWN", False),
        ("", False),
        ("MIT AND", False),
        ("(MIT OR BSD", False),
        ("Mozilla Public License 2.0 (MPL 2.0)", True),
    ],
)
def test_a_licence_is_read_as_what_it_says(
    licence: str, is_allowed: bool, licences: ModuleType
) -> None:
    assert licences.is_allowed(licence) is is_allowed


def test_a_licence_that_nobody_accepted_is_named(licences: ModuleType) -> None:
    lines = licences.refused([("one", "1", "MIT"), ("two", "2", "GPL-3.0"), ("three", "3", "")])
    assert lines == ["two 2: GPL-3.0", "three 3: no licence is named"]
    assert licences.refused([("psycopg", "3", "LGPL-3.0-only")]) == []


SKIPPED = {"name": "one", "skip_reason": "not found on PyPI"}
FINE: dict[str, Any] = {"name": "two", "version": "2", "vulns": []}
FAULTY: dict[str, Any] = FINE | {"vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([SKIPPED, SKIPPED], 0, "NO INDEX ANSWERED"),
        (None, 0, "NO INDEX ANSWERED"),
        ([FINE], 0, "1 packages looked up, 0 known faults"),
        ([FINE, SKIPPED], 0, "NOT LOOKED UP: one"),
        ([SKIPPED, FAULTY], 1, "two 2: PYSEC-1 (fixed in 3)"),
    ],
)
def test_an_audit_says_what_it_looked_up(
    packages: list[Any] | None, status: int, said: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """pip-audit itself finds "no known vulnerabilities" where no index knows any package."""
    file = tmp_path / "audit.json"
    file.write_text("" if packages is None else json.dumps({"dependencies": packages}))
    assert script("audit").main(file) == status
    assert said in capsys.readouterr().err
