"""Editors know the keys of both configuration files as the programs do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PROGRAMS = {"node": "dicom_node", "worker": "worker"}


def printed(program: str) -> str:
    command = [sys.executable, "-m", program, "config", "schema"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def schema(name: str) -> Any:
    return json.loads((CONFIGS / f"{name}.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_schema_in_the_repository_is_what_the_program_prints(name: str) -> None:
    kept = (CONFIGS / f"{name}.schema.json").read_text(encoding="utf-8")
    assert printed(PROGRAMS[name]) == kept, f"python -m {PROGRAMS[name]} config schema > it"


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_shipped_configuration_is_valid_by_the_schema(name: str) -> None:
    content = tomllib.loads((CONFIGS / f"{name}.toml").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema(name)).validate(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("node", {"node": {"prot": 104}}),
        ("node", {"node": {"ae_title": "LONGER_THAN_SIXTEEN"}}),
        ("node", {"retention": {"images": "24 hours"}}),
        ("node", {"peers": {"a": {"ae_title": "A", "host": "h"}}}),
        ("worker", {"worker": {"modell": "phantom"}}),
        ("worker", {"models": {"m": {"engine": "maira2", "path": "/m", "boxes": True}}}),
    ],
)
def test_what_a_program_refuses_an_editor_underlines(name: str, content: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema(name)).validate(content)


def test_a_key_of_one_engine_is_explained_in_the_words_of_the_code() -> None:
    boxes = schema("worker")["$defs"]["CheXagent"]["properties"]["boxes"]
    assert boxes["description"] == "Ask a second time, for rib fractures and where they are."


@pytest.mark.parametrize(
    ("program", "typed", "offered"),
    [
        ("dicom_node", "chexfract-node rules ", "test"),
        ("dicom_node", "chexfract-node rules test schema.", "schema.json"),
        ("worker", "chexfract-worker completion f", "fish"),
    ],
)
def test_a_shell_is_told_what_may_follow(
    tmp_path: Path, program: str, typed: str, offered: str
) -> None:
    (tmp_path / "schema.json").touch()
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offered"),
        "COMP_LINE": typed,
        "COMP_POINT": str(len(typed)),
    }
    code = f"from {program}.cli import main; main()"
    subprocess.run([sys.executable, "-c", code], check=False, env=environment, cwd=tmp_path)
    assert (tmp_path / "offered").read_text().strip() == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("program", ["dicom_node", "worker"])
def test_completion_prints_code_for_both_programs_at_once(program: str, shell: str) -> None:
    command = [sys.executable, "-m", program, "completion", shell]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "chexfract-node" in done.stdout
    assert "chexfract-worker" in done.stdout


@pytest.mark.parametrize("name", ["node", "worker"])
def test_every_key_says_what_it_is(name: str) -> None:
    schema = json.loads((CONFIGS / f"{name}.schema.json").read_text())
    silent = [
        f"{table}.{key}"
        for table, content in schema["$defs"].items()
        for key, value in content.get("properties", {}).items()
        if not {"description", "$ref", "const"} & set(value)
    ]
    assert silent == []
