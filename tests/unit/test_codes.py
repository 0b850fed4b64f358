"""The table of codes holds what the Standard says and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr._concepts_dict import concepts

from worker.report import codes

OUTSIDE_PYDICOM = {
    ("125605004", "SCT"),
    ("C0034375", "UMLS"),
    *((code.value, "SCT") for code in codes.RIBS.values()),
    *((code.value, "RFC5646") for code in codes.LANGUAGES.values()),
}
BONES = [*codes.BONES, "other"]
NUMBERS = [None, *map(str, range(1, 13)), *(f"T{n}" for n in range(1, 13)), "C7", "L1", "L5"]
SEGMENTS = [None, *codes.SEGMENTS, *(part for _, part in codes.PARTS), "shaft", "upper"]


def dictionary_meanings(value: str, scheme: str) -> set[str]:
    """Return every meaning that pydicom's copy of PS3.16 has for a code."""
    keywords = concepts[scheme].values() if scheme in concepts else ()
    return {entries[value][0] for entries in keywords if value in entries}


@pytest.mark.parametrize(("value", "scheme"), sorted(set(codes.TABLE) - OUTSIDE_PYDICOM))
def test_a_meaning_is_one_that_the_standard_gives_to_its_code(value: str, scheme: str) -> None:
    assert codes.TABLE[value, scheme] in dictionary_meanings(value, scheme)


def test_only_known_codes_rest_on_other_sources_than_the_standard() -> None:
    """Ribs, the fracture itself, a UMLS concept and languages are not in pydicom's dictionaries."""
    unknown = {key for key in codes.TABLE if not dictionary_meanings(*key)}
    assert unknown == OUTSIDE_PYDICOM


def test_every_code_and_meaning_fits_its_value_representation() -> None:
    assert all(len(value) <= 16 and len(scheme) <= 16 for value, scheme in codes.TABLE)
    assert all(0 < len(meaning) <= 64 for meaning in codes.TABLE.values())


def test_ribs_and_vertebrae_have_a_code_each() -> None:
    assert list(codes.RIBS) == [str(n) for n in range(1, 13)]
    assert list(codes.VERTEBRAE) == [f"T{n}" for n in range(1, 13)]
    numbered = [*codes.RIBS.values(), *codes.VERTEBRAE.values()]
    assert len({code.value for code in numbered}) == 24


@pytest.mark.parametrize("level", ["C7", "L1", None])
def test_a_level_without_a_code_is_coded_as_a_vertebra(level: str | None) -> None:
    assert codes.site("vertebra", level) == codes.VERTEBRA


def test_parts_of_the_scapula_are_coded_as_the_scapula() -> None:
    sites = {codes.site(bone, None) for bone in ("acromion", "glenoid", "coracoid", "scapula")}
    assert sites == {codes.SCAPULA}
    assert codes.modifier("acromion", "distal") == codes.PARTS["scapula", "acromion"]
    assert codes.modifier("coracoid", None) is None


def test_an_unnamed_bone_has_no_site() -> None:
    assert codes.site("other", None) is None


@pytest.mark.parametrize("bone", ["vertebra", "sternum"])
def test_bones_on_the_midline_have_no_side(bone: str) -> None:
    assert codes.laterality(bone, "left") is None


def test_the_head_of_another_bone_is_not_the_head_of_a_rib() -> None:
    assert codes.modifier("rib", "head") == codes.PARTS["rib", "head"]
    assert codes.modifier("humerus", "head") is None


@given(
    st.sampled_from(BONES),
    st.sampled_from(NUMBERS),
    st.sampled_from([None, *codes.SIDES]),
    st.sampled_from(SEGMENTS),
)
def test_whatever_the_parser_names_is_coded_from_the_table(
    bone: str, number: str | None, side: str | None, segment: str | None
) -> None:
    found = [codes.site(bone, number), codes.laterality(bone, side), codes.modifier(bone, segment)]
    for code in found:
        assert code is None or codes.TABLE[code.value, code.scheme_designator] == code.meaning
    assert (found[0] is None) == (bone == "other")


def test_a_reason_without_a_code_of_its_own_is_an_unknown_failure() -> None:
    assert codes.quality("something-new") == codes.UNKNOWN_FAILURE
    assert codes.quality("lateral-view") == codes.POSITIONING
