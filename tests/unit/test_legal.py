"""What is illegal in a header becomes legal; what is legal stays as it is."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config
from pydicom.valuerep import validate_value

from dicom_node.standard.legal import LONGEST, legal_date, legal_text, legal_time

ANY = st.text(st.characters(exclude_categories=("Cs",)), max_size=200)


@pytest.mark.parametrize("vr", ["LO", "SH", "PN", "CS"])
@given(ANY)
def test_any_text_becomes_one_legal_value(vr: str, raw: str) -> None:
    value = legal_text(vr, raw)
    assert "\\" not in value
    assert legal_text(vr, value) == value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate_value(vr, value, config.RAISE)


@given(st.text("abcABC äж骨0123456789^-.", max_size=16).map(str.strip))
def test_a_legal_value_is_left_as_it_is(value: str) -> None:
    assert legal_text("LO", value) == legal_text("SH", value) == value


@pytest.mark.parametrize(
    ("vr", "raw", "legal"),
    [
        ("SH", "ACCESSION-1234567890", "ACCESSION-123456"),
        ("LO", "Thorax\\PA", "Thorax/PA"),
        ("LO", "a\x00b\x1fc\x85", "a b c"),
        ("PN", "A" * 70 + "^B=骨", "A" * 64 + "=骨"),
        ("PN", "A^B^C^D^E^F", "A^B^C^D^E F"),
        ("CS", "yes!", "YES"),
        ("ST", "one\r\ntwo\\three\x00", "one\r\ntwo\\three"),
    ],
)
def test_what_is_illegal_is_made_legal(vr: str, raw: str, legal: str) -> None:
    assert legal_text(vr, raw) == legal


def test_paragraphs_are_cut_at_their_length() -> None:
    assert len(legal_text("ST", "x" * 5000)) == LONGEST["ST"]


def test_dates_and_times_are_repaired_or_left_empty() -> None:
    assert (legal_date("00010101"), legal_date("18991231")) == ("", "18991231")
    assert (legal_date("2026-01-31"), legal_date("1950"), legal_date("20260231")) == (
        "20260131",
        "",
        "",
    )
    assert (legal_time("10:15:00"), legal_time("25"), legal_time("10h")) == ("101500", "", "")
