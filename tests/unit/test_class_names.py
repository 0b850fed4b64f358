"""One name, one meaning: no public class name stands in two files of the product."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ALLOWED = {
    "Section": "each program has a base of its own for the tables of its file",
    "Settings": "each program has one file of settings, and the word is pydantic's",
}
"""Names that two files may share, with the reason."""


def class_files() -> dict[str, set[str]]:
    """Return the files of each public class name of both programs."""
    found: dict[str, set[str]] = defaultdict(set)
    for room in ("dicom_node", "worker"):
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].add(file.relative_to(ROOT).as_posix())
    return found


def test_a_public_class_name_stands_in_one_file() -> None:
    shared = {name: sorted(files) for name, files in class_files().items() if len(files) > 1}
    twice = {name: files for name, files in shared.items() if name not in ALLOWED}
    assert not twice, f"name the rarer class by what it is, in two words: {twice}"


def test_an_allowed_name_is_still_shared() -> None:
    files = class_files()
    assert [name for name in ALLOWED if len(files[name]) < 2] == []
