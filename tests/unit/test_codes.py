"""The table of codes is what is published, and nothing that the parser knows gets lost in it."""

from __future__ import annotations

import pytest
import reports
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

from worker.report import codes
from worker.report.reading import Outcome
from worker.report.sr import build
from worker.text.bones import PARTS
from worker.text.findings import Findings, Fracture, Presence, parse

ONE_RELEASE = {"371504003", "50016007", "1193553009", "66388000", "181936006", "58947000",
               "4621004"}  # fmt: skip
"""Codes that rest on one published extract of a SNOMED CT release alone: no second is known."""

BONES = [*codes.BONES, "other"]
NUMBERS = [None, *codes.RIBS, *codes.VERTEBRAE]
SEGMENTS = [None, *codes.SEGMENTS, "shaft", "upper"]
PARTS_OF_ALL = [None, *{part for bone in PARTS.values() for part in bone.values()}]


def dictionary_meanings(value: str, scheme: str) -> set[str]:
    """Return every meaning that pydicom's copy of PS3.16 has for a code."""
    keywords = concepts[scheme].values() if scheme in concepts else ()
    found = {entries[value][0] for entries in keywords if value in entries}
    return found | {meaning.removesuffix(" (qualifier value)") for meaning in found}


@pytest.mark.parametrize(
    ("value", "scheme"),
    [key for key, sources in codes.SOURCES.items() if codes.PS3_16 in sources],
)
def test_a_meaning_is_one_that_the_standard_gives_to_its_code(value: str, scheme: str) -> None:
    meanings = dictionary_meanings(value, scheme)
    assert scheme == "UCUM" or codes.TABLE[value, scheme] in meanings


def test_every_code_names_where_it_is_published() -> None:
    assert set(codes.SOURCES) == set(codes.TABLE)
    alone = {
        value
        for (value, scheme), sources in codes.SOURCES.items()
        if scheme == "SCT" and len(set(sources)) < 2
    }
    assert alone == ONE_RELEASE
    own = {key for key, sources in codes.SOURCES.items() if sources == (codes.OWN,)}
    assert own == {key for key in codes.TABLE if key[1] == codes.PRIVATE}


_TIMES = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
          [2, 3, 4, 0, 1, 7, 8, 9, 5, 6], [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
          [4, 0, 1, 2, 3, 9, 5, 6, 7, 8], [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
          [6, 5, 9, 8, 7, 1, 0, 4, 3, 2], [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
          [8, 7, 6, 5, 9, 3, 2, 1, 0, 4], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]]  # fmt: skip
_TURNS = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
while len(_TURNS) < 8:
    _TURNS.append([_TURNS[-1][digit] for digit in _TURNS[1]])


def check(number: str) -> int:
    """Return 0 where the last digit of a SNOMED CT identifier is right (Verhoeff)."""
    state = 0
    for place, digit in enumerate(reversed(number)):
        state = _TIMES[state][_TURNS[place % 8][int(digit)]]
    return state


def test_no_snomed_code_is_mistyped() -> None:
    """Each has a check digit of its own."""
    numbers = [value for value, scheme in codes.TABLE if scheme == "SCT"]
    assert len(numbers) > 100
    assert [number for number in numbers if check(number) != 0] == []
    assert check("125605005") != 0


def test_every_code_and_meaning_fits_its_value_representation() -> None:
    assert all(len(value) <= 16 and len(scheme) <= 16 for value, scheme in codes.TABLE)
    assert all(0 < len(meaning) <= 64 for meaning in codes.TABLE.values())


def test_ribs_and_vertebrae_have_a_code_each() -> None:
    levels = [*(f"C{n}" for n in range(1, 8)), *(f"T{n}" for n in range(1, 13)),
              *(f"L{n}" for n in range(1, 6))]  # fmt: skip
    assert list(codes.RIBS) == [str(n) for n in range(1, 13)]
    assert list(codes.VERTEBRAE) == levels
    numbered = [*codes.RIBS.values(), *codes.VERTEBRAE.values()]
    assert len({code.value for code in numbered}) == 36


def test_a_numbered_bone_stands_before_its_part() -> None:
    assert codes.sites("rib", "5", "angle") == (codes.RIBS["5"], codes.PARTS["rib", "angle"])
    assert codes.sites("sternum", None, "manubrium") == (codes.PARTS["sternum", "manubrium"],)
    assert codes.sites("humerus", None, "head") == (codes.BONES["humerus"],)
    assert codes.sites("other", None, "sacrum") == (codes.OTHER_BONES["sacrum"],)


def test_an_unnamed_bone_has_no_site() -> None:
    assert codes.sites("other", None) == codes.sites("other", None, "whatever") == ()


@pytest.mark.parametrize("bone", ["vertebra", "sternum"])
def test_bones_on_the_midline_have_no_side(bone: str) -> None:
    assert codes.laterality(bone, "left") is None


def test_the_head_of_another_bone_is_not_the_head_of_a_rib() -> None:
    assert codes.sites("rib", None, "head") == (codes.PARTS["rib", "head"],)
    assert codes.modifiers("humerus", None, "head") == (codes.MODIFIED["humerus", "head"],)
    assert codes.modifiers("humerus", "head") == ()


@given(
    st.sampled_from(BONES),
    st.sampled_from(NUMBERS),
    st.sampled_from([None, *codes.SIDES]),
    st.sampled_from(SEGMENTS),
    st.sampled_from(PARTS_OF_ALL),
)
def test_whatever_the_parser_names_is_coded_from_the_table(
    bone: str, number: str | None, side: str | None, segment: str | None, part: str | None
) -> None:
    sites = codes.sites(bone, number, part)
    found = [*sites, codes.laterality(bone, side), *codes.modifiers(bone, segment, part)]
    for code in found:
        assert code is None or codes.TABLE[code.value, code.scheme_designator] == code.meaning
    assert bool(sites) == (bone != "other")


def test_a_reason_without_a_code_of_its_own_is_an_unknown_failure() -> None:
    assert codes.quality("something-new") == codes.UNKNOWN_FAILURE
    assert codes.quality("lateral-view") == codes.POSITIONING


# From text to code and back: what a reader of the codes alone learns.


def key(table: dict[str, Code], value: str) -> str | None:
    return next((name for name, code in table.items() if code.value == value), None)


def read_back(group: Dataset) -> tuple[str | None, ...]:
    """Return bone, number, side, certainty, age and part of a group, from its codes alone."""
    sites = reports.values(group, "363698007")
    modifiers = reports.values(group, "106233006")
    bone = number = part = None
    for site in sites:
        if found := key(codes.RIBS, site):
            bone, number = "rib", found
        elif found := key(codes.VERTEBRAE, site):
            bone, number = "vertebra", found
        elif found := key(codes.BONES, site):
            bone = found
        elif found := key(codes.OTHER_BONES, site):
            bone, part = "other", found
        else:
            bone, part = next(k for k, code in codes.PARTS.items() if code.value == site)
    for modifier in modifiers:
        part = part or next(
            (p for (b, p), code in codes.MODIFIED.items() if code.value == modifier and b == bone),
            None,
        )
    sides = set(reports.values(group, "272741003"))
    (context,) = reports.values(group, "408729009")
    courses = reports.values(group, "263502005")
    return (
        bone,
        number,
        key(codes.SIDES, sides.pop()) if sides else None,
        key(codes.CERTAINTIES, context),
        key(codes.AGES, courses[0]) if courses else None,
        part,
    )


def facts(fracture: Fracture) -> tuple[str | None, ...]:
    sided = None if fracture.bone in codes.UNSIDED else fracture.side
    return (
        fracture.bone,
        fracture.number,
        sided,
        fracture.certainty,
        fracture.age,
        fracture.part,
    )


def groups(findings: Findings) -> list[Dataset]:
    outcome = Outcome(text="Text.", findings=findings)
    ds = reports.read(build(reports.source(), outcome, reports.ALGORITHM, reports.ORDER).content)
    return [item for item in reports.items(ds) if reports.name(item) == "125007"][1:]


EVERYTHING = [
    reports.fracture(bone, number, side, certainty=certainty, age=age, part=part)
    for bone, numbers, parts in (
        ("rib", codes.RIBS, PARTS["rib"]),
        ("vertebra", codes.VERTEBRAE, PARTS["vertebra"]),
        *(
            (bone, (), PARTS.get(bone, {}))
            for bone in codes.BONES
            if bone not in {"rib", "vertebra"}
        ),
    )
    for number in (None, *numbers)
    for part in (None, *dict.fromkeys(parts.values()))
    for side, certainty, age in (
        ("left", "definite", None),
        ("right", "possible", "acute"),
        ("bilateral", "definite", "healing"),
        (None, "possible", "old"),
    )
]


def test_every_bone_part_side_certainty_and_age_reads_back_from_its_codes() -> None:
    made = groups(Findings(Presence.PRESENT, tuple(EVERYTHING)))
    assert len(EVERYTHING) > 800
    assert [read_back(group) for group in made] == [facts(fracture) for fracture in EVERYTHING]


SENTENCES = [
    *(f"Acute fracture of the {side} {n}th rib." for side in ("left", "right") for n in (4, 11)),
    *(f"Fracture of {level}." for level in codes.VERTEBRAE),
    "Old fracture of the angle of the left 5th rib.",
    "Possible healing fracture of the shaft of the right 7th rib.",
    "Fracture at the left 4th costochondral junction.",
    "Fracture of the manubrium.",
    "Fracture of the sternal body.",
    "Fracture of the xiphoid process.",
    "Fracture of the left coracoid process.",
    "Fracture of the right acromion.",
    "Old fracture of the left glenoid.",
    "Fracture of the left scapular body.",
    "Fracture of the neck of the right scapula.",
    "Acute fracture of the distal right clavicle.",
    "Fracture of the middle third of the left clavicle.",
    "Fracture of the left humeral head.",
    "Fracture of the surgical neck of the right humerus.",
    "Fracture of the left greater tuberosity.",
    "Fracture of the sacrum.",
    "Possible fracture of the left clavicle.",
]


@pytest.mark.parametrize("text", SENTENCES)
def test_what_the_text_says_reads_back_from_the_codes(text: str) -> None:
    findings = parse(text)
    assert findings.fractures
    assert [read_back(group) for group in groups(findings)] == [
        facts(fracture) for fracture in findings.fractures
    ]
