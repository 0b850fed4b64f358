"""What a DIMSE status means, by the words of the Standard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.standard.status import (
    StatusKind,
    fault,
    is_stored,
    meaning,
    read_status,
)


@pytest.mark.parametrize(
    "code", [0x0000, 0x0001, 0x0107, 0x0116, 0xB000, 0xB001, 0xB006, 0xB007, 0xBFFF]
)
def test_success_and_every_warning_leave_the_object_there(code: int) -> None:
    assert is_stored(code)
    assert fault(code) == ""


@pytest.mark.parametrize(
    "code", [0x0105, 0x0110, 0x0117, 0x0122, 0x0124, 0xA700, 0xA7FF, 0xA900, 0xC000, 0xC123, 0xFE00]
)
def test_refusals_and_failures_do_not(code: int) -> None:
    assert not is_stored(code, was_sent_before=True)
    assert fault(code).startswith(f"0x{code:04X} ")


def test_a_duplicate_is_there_only_if_it_was_sent_before() -> None:
    assert not is_stored(0x0111)
    assert is_stored(0x0111, was_sent_before=True)
    assert meaning(0x0111) == "0x0111 duplicate SOP Instance"


def test_the_kind_says_whether_another_try_makes_sense() -> None:
    assert read_status(0xA7AB).kind is StatusKind.REFUSED
    assert read_status(0x0124).kind is StatusKind.REFUSED
    assert read_status(0xC001).kind is StatusKind.FAILED
    assert read_status(0xFF00).kind is StatusKind.PENDING


@given(st.integers(0, 0xFFFF))
def test_each_status_has_one_kind_and_words(code: int) -> None:
    found = read_status(code)
    assert found.text
    assert is_stored(code) is (found.kind in (StatusKind.SUCCESS, StatusKind.WARNING))


def test_the_kinds_are_those_of_pynetdicom() -> None:
    from pynetdicom.status import GENERAL_STATUS, STORAGE_SERVICE_CLASS_STATUS

    ours = {"Success": "success", "Warning": "warning", "Failure": "failed", "Pending": "pending"}
    for code, (category, _) in (GENERAL_STATUS | STORAGE_SERVICE_CLASS_STATUS).items():
        kind = read_status(code).kind
        if code == 0x0111:
            assert kind is StatusKind.DUPLICATE
        elif kind is StatusKind.REFUSED:
            assert category == "Failure"
        else:
            assert kind == ours.get(category, "cancel"), hex(code)
