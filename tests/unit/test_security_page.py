"""The pages on security name tests that exist, and each requirement of ASVS Level 2 once."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
MANUAL = files("dicom_node.manual")
PAGES = ("security.md", "reference/asvs.md", "reference/audit.md")

LEVEL_2 = """
1.1: 1-7; 1.2: 1-4; 1.4: 1 4 5; 1.5: 1-4; 1.6: 1-4; 1.7: 1 2; 1.8: 1 2; 1.9: 1 2; 1.10: 1;
1.11: 1 2; 1.12: 2; 1.14: 1-6; 2.1: 1-12; 2.2: 1-3; 2.3: 1-3; 2.4: 1-5; 2.5: 1-7; 2.6: 1-3;
2.7: 1-6; 2.8: 1-7; 2.9: 1-3; 2.10: 1-4; 3.1: 1; 3.2: 1-4; 3.3: 1-4; 3.4: 1-5; 3.5: 1-3; 3.7:
1; 4.1: 1-3 5; 4.2: 1 2; 4.3: 1-3; 5.1: 1-5; 5.2: 1-8; 5.3: 1-10; 5.4: 1-3; 5.5: 1-4; 6.1: 1-3;
6.2: 1-6; 6.3: 1 2; 6.4: 1 2; 7.1: 1-4; 7.2: 1 2; 7.3: 1 3 4; 7.4: 1-3; 8.1: 1-4; 8.2: 1-3;
8.3: 1-8; 9.1: 1-3; 9.2: 1-4; 10.2: 1 2; 10.3: 1-3; 11.1: 1-8; 12.1: 1-3; 12.2: 1; 12.3: 1-6;
12.4: 1 2; 12.5: 1 2; 12.6: 1; 13.1: 1 3-5; 13.2: 1-3 5 6; 13.3: 1 2; 13.4: 1 2; 14.1: 1-4;
14.2: 1-6; 14.3: 2 3; 14.4: 1-7; 14.5: 1-4
"""
"""Section: numbers, of version 4.0.3; those that it has deleted are left out."""


def spread(text: str) -> list[str]:
    """Return ``1 3-5`` or ``2.1.1-2.1.3`` as single numbers."""
    found = []
    for part in text.split():
        first, _, last = part.partition("-")
        head, _, number = first.rpartition(".")
        end = int(last.rpartition(".")[2] or number)
        found += [f"{head}.{n}".lstrip(".") for n in range(int(number), end + 1)]
    return found


def rows() -> list[list[str]]:
    text = MANUAL.joinpath("reference/asvs.md").read_text(encoding="utf-8").split("## BCP")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [row for row in cells if re.match(r"\d+\.\d+\.\d+", row[0])]


@cache
def names() -> set[str]:
    files_ = [path for path in TESTS.rglob("test_*.py") if path.name != Path(__file__).name]
    found: set[str] = set()
    for path in files_:
        found |= set(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
        found.add(f"tests/{path.relative_to(TESTS).as_posix()}")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_a_page_names_exists(page: str) -> None:
    text = MANUAL.joinpath(page).read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text)) | set(re.findall(r"`(tests/[\w/.]+\.py)`", text))
    assert page == "reference/audit.md" or len(named) > 10
    assert named - names() == set()


def test_every_requirement_of_level_2_stands_there_once() -> None:
    wanted = []
    for section in LEVEL_2.split(";"):
        head, _, numbers = section.strip().partition(":")
        wanted += [f"{head}.{number}" for number in spread(numbers)]
    found = [number for row in rows() for number in spread(row[0].replace(",", " "))]
    assert sorted(found) == sorted(wanted)
    assert len(found) == 259


def test_what_is_not_held_says_why_and_the_sums_are_right() -> None:
    counts = {"held": 0, "not applicable": 0, "**open**": 0}
    for numbers, state, why, _tests in rows():
        counts[state] += len(spread(numbers.replace(",", " ")))
        assert len(why) > 9
    text = MANUAL.joinpath("reference/asvs.md").read_text(encoding="utf-8")
    said = re.search(r"(\d+) are held, (\d+) are not applicable and (\d+) are open", text)
    assert said is not None
    assert [int(group_text) for group_text in said.groups()] == list(counts.values())
