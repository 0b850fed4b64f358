"""Keys match as DICOM PS3.4 C.2.2.2 says."""

import fnmatch
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from dicom_node.standard.matching import EMPTY, How, Wild, all_match, is_universal, matches
from dicom_node.store.catalogue import key

# What peers write is not always valid; the listener turns these warnings off.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

TEXT = st.text(st.sampled_from("aAbB1^. ["), min_size=1, max_size=8).filter(lambda t: t.strip())
PATTERN = st.text(st.sampled_from("aAbB1^. *?["), min_size=1, max_size=8).filter(
    lambda t: t.strip()
)


def element(keyword: str, value: Any) -> DataElement:
    return key(keyword, value)


@pytest.mark.parametrize("keyword", ["PatientID", "StudyDate", "StudyInstanceUID", "PatientName"])
def test_an_empty_key_matches_everything_even_nothing(keyword: str) -> None:
    assert is_universal(element(keyword, None))
    assert matches(element(keyword, ""), None)
    assert matches(element(keyword, None), element(keyword, "20260101"))


@given(wanted=PATTERN, text=TEXT)
def test_wildcards_match_as_in_file_names(wanted: str, text: str) -> None:
    pattern = wanted.strip().replace("[", "[[]")
    expected = bool(re.fullmatch(fnmatch.translate(pattern), text.strip()))
    assert matches(element("PatientID", wanted), element("PatientID", text)) == expected


@given(text=TEXT)
def test_a_text_matches_itself_and_its_beginning_with_a_star(text: str) -> None:
    found = element("AccessionNumber", text)
    assert matches(element("AccessionNumber", text), found)
    assert matches(element("AccessionNumber", text.strip()[:1] + "*"), found)


def test_many_stars_cost_no_time() -> None:
    wanted = element("PatientID", "*" * 30 + "a" + "*" * 30 + "b")
    assert not matches(wanted, element("PatientID", "a" * 60))


@given(
    day=st.dates().map(lambda d: d.strftime("%Y%m%d").zfill(8)),
    first=st.dates().map(lambda d: d.strftime("%Y%m%d").zfill(8)),
    last=st.dates().map(lambda d: d.strftime("%Y%m%d").zfill(8)),
)
def test_a_range_of_dates_holds_its_ends(day: str, first: str, last: str) -> None:
    found = element("StudyDate", day)
    assert matches(element("StudyDate", f"{first}-{last}"), found) == (first <= day <= last)
    assert matches(element("StudyDate", f"{first}-"), found) == (first <= day)
    assert matches(element("StudyDate", f"-{last}"), found) == (day <= last)
    assert matches(element("StudyDate", day), found)


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        ("1015", "101559.5", True),
        ("1015", "1016", False),
        ("10-1015", "101559", True),
        ("1015-", "101459.999999", False),
        ("10:15", "101500", True),
    ],
)
def test_times_match_to_the_precision_of_the_key(wanted: str, found: str, expected: bool) -> None:
    assert matches(element("StudyTime", wanted), element("StudyTime", found)) is expected


def test_one_uid_of_a_list_is_enough() -> None:
    wanted = element("StudyInstanceUID", ["1.2", "1.3"])
    assert matches(wanted, element("StudyInstanceUID", "1.3"))
    assert not matches(wanted, element("StudyInstanceUID", "1.30"))


@given(pattern=st.text(st.sampled_from("ab?*[]!-"), max_size=10), text=st.text("ab[]-", max_size=9))
def test_wildcards_of_rules_match_as_in_file_names(pattern: str, text: str) -> None:
    expected = bool(re.fullmatch(fnmatch.translate(pattern), text))
    assert Wild(pattern, has_sets=True).matches(text) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        lambda n: "*?" * 500 + "Z",
        lambda n: "*" + "a?" * 500 + "b",
        lambda n: "*a" * 1000 + "b",
        lambda n: "*" * n + "b",
        lambda n: "*?" * (n // 2) + "Z",
        lambda n: "?" * n,
        lambda n: "a" * n + "*",
    ],
)
def test_four_times_the_text_costs_at_most_eight_times_the_time(
    pattern: Callable[[int], str],
) -> None:
    def seconds(size: int) -> float:
        text, key = "a" * size, pattern(size)

        def once() -> float:
            began = time.thread_time()
            Wild(key).matches(text)
            return time.thread_time() - began

        return min(once() for _ in range(5))

    assert seconds(10_000) <= max(8 * seconds(2_500), 0.002)


@pytest.mark.parametrize("keyword", ["StudyDate", "StudyTime", "StudyInstanceUID", "PatientAge"])
def test_a_star_alone_asks_for_anything_in_every_representation(keyword: str) -> None:
    assert is_universal(element(keyword, "*"))
    assert matches(element(keyword, "*"), None)


def item(**elements: str) -> Dataset:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def test_a_sequence_of_universal_keys_is_universal() -> None:
    inner = element("ProcedureCodeSequence", [item(CodeValue="", CodeMeaning="*")])
    assert matches(inner, None)
    outer = item(RequestedProcedureID="")
    outer.add(inner)
    assert matches(element("RequestAttributesSequence", [outer]), None)
    assert not matches(element("ProcedureCodeSequence", [item(CodeValue="1")]), None)


def test_an_empty_value_is_asked_for_by_two_quotation_marks() -> None:
    key_, how = element("AccessionNumber", EMPTY), How(empty_values=True)
    assert matches(key_, None, how)
    assert matches(key_, element("AccessionNumber", " "), how)
    assert not matches(key_, element("AccessionNumber", "A1"), how)
    assert not matches(key_, None)


def test_several_values_are_one_of_or_all_of() -> None:
    found = element("ModalitiesInStudy", ["CT", "MR", "SR"])
    some, both = (
        element("ModalitiesInStudy", ["SR", "CR"]),
        element("ModalitiesInStudy", ["SR", "CT"]),
    )
    assert matches(some, found)
    assert not matches(some, found, How(several_values=True))
    assert matches(both, found, How(several_values=True))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("anna", True),
        ("muller anna", True),
        ("MÜLL*", True),
        ("Anna^Müller", True),
        ("nna", False),
        ("muller peter", False),
        ("миллер", True),
        ("^", False),
    ],
)
def test_a_fuzzy_name_matches_by_the_beginnings_of_its_words(wanted: str, expected: bool) -> None:
    found = element("PatientName", "Müller^Anna=Миллер^Анна")
    assert matches(element("PatientName", wanted), found, How(fuzzy=True)) is expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("20260102", True),
        ("20260101-20260103", True),
        ("20260102101500-20260102101559", True),
        ("20260102102000-", False),
    ],
)
def test_date_times_match_in_ranges(wanted: str, expected: bool) -> None:
    found = element("AcquisitionDateTime", "20260102101530.5")
    assert matches(element("AcquisitionDateTime", wanted), found) is expected


def test_the_choice_holds_within_sequences() -> None:
    key_ = item(PatientName="anna")
    found = item(PatientName="Miller^Anna")
    outer = [element("OtherPatientIDsSequence", [key_])]
    there = Dataset()
    there.OtherPatientIDsSequence = [found]
    assert all_match(outer, there, How(fuzzy=True))
    assert not all_match(outer, there)


def test_a_star_in_a_uid_is_no_wildcard() -> None:
    assert not matches(element("StudyInstanceUID", "1.*"), element("StudyInstanceUID", "1.2"))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("иванова*", True),
        ("Yamada*", True),
        ("ямада", False),
        ("Иванова^Анна", True),
        ("Иванова", False),
    ],
)
def test_a_name_matches_in_any_case_and_any_component_group(wanted: str, expected: bool) -> None:
    found = element("PatientName", "Иванова^Анна=YAMADA^Tarou")
    assert matches(element("PatientName", wanted), found) is expected


def test_numbers_match_by_value() -> None:
    assert matches(element("SeriesNumber", "9001"), element("SeriesNumber", "09001"))
    assert not matches(element("SeriesNumber", "9001"), element("SeriesNumber", "9002"))


def test_a_sequence_matches_when_one_item_holds_all_keys() -> None:
    def codes(*pairs: tuple[str, str]) -> DataElement:
        items = []
        for value, scheme in pairs:
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator = value, scheme
            items.append(item)
        return element("ConceptNameCodeSequence", items)

    found = codes(("1", "DCM"), ("2", "SCT"))
    assert matches(codes(("2", "SCT")), found)
    assert not matches(codes(("1", "SCT")), found)
    assert matches(codes(("", "SCT")), found)
    assert not matches(codes(("1", "DCM")), None)
    assert matches(element("ConceptNameCodeSequence", []), None)
