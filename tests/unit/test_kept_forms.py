"""Short forms in which the ledger keeps what each job has: each comes back as it was."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.base.job import FractureFound, Predecessor, Reason, ReportOrder, Result
from dicom_node.store.ledger.kept_results import dump_result, load_result
from dicom_node.store.ledger.orders import load_own, order_of, split_order
from dicom_node.store.ledger.wanted import Wish, dump_wishes, load_wishes

WORDS = st.text(max_size=8)
STAGE = st.sampled_from(["fetch", "decode", "inputs", "model", "report", "other", "m", ""])
FRACTURES = st.builds(
    FractureFound,
    bone=WORDS,
    number=st.none() | WORDS,
    side=st.none() | WORDS,
    certainty=WORDS,
    age=st.none() | WORDS,
)
RESULTS = st.builds(
    Result,
    token=st.just("t"),
    outcome=st.just("reported"),
    model=st.just("phantom"),
    model_version=st.just("1"),
    device_uid=st.just("1.2"),
    text=st.none() | WORDS,
    presence=st.sampled_from([None, "present", "absent", "undetermined"]),
    fractures=st.lists(FRACTURES, max_size=3).map(tuple),
    warnings=st.lists(WORDS, max_size=2).map(tuple),
    reason=st.none() | st.builds(Reason, code=WORDS, text=WORDS),
    stages_ms=st.dictionaries(STAGE, st.floats(0, 1e6), max_size=6),
    batch=st.integers(1, 9),
)
COLUMNS = {"token", "outcome", "model", "model_version", "device_uid", "demonstration"}


def content_of(result: Result) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        result.model_dump_json(exclude_defaults=True, exclude=COLUMNS)
    )
    return content


@given(RESULTS)
def test_a_result_comes_back_as_it_was_with_its_stages_in_order(result: Result) -> None:
    loaded = load_result(dump_result(result))
    wanted = content_of(result)
    assert loaded == wanted
    assert list(loaded.get("stages_ms", ())) == list(wanted.get("stages_ms", ()))


@given(RESULTS)
def test_a_result_of_an_older_version_is_read_as_it_stands(result: Result) -> None:
    assert load_result(json.dumps(content_of(result))) == content_of(result)


def test_what_a_usual_result_costs() -> None:
    times = {"fetch": 12.5, "decode": 81.2, "inputs": 7.4, "model": 412.9, "report": 31.0}
    found = FractureFound(bone="rib", number="2", side="left")
    usual = Result(
        token="t",
        outcome="reported",
        model="phantom",
        model_version="1",
        device_uid="1.2",
        text="Fracture.",
        presence="present",
        fractures=(found,),
        stages_ms=times,
    )
    assert len(dump_result(usual)) < 0.7 * len(json.dumps(content_of(usual), separators=(",", ":")))


ZONES = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
FIRST, LAST = datetime(1970, 1, 3), datetime(2200, 1, 1)  # noqa: DTZ001 - they get a zone
MOMENTS = st.datetimes(FIRST, LAST, timezones=ZONES)


@given(MOMENTS, st.booleans(), st.none() | MOMENTS)
def test_an_order_comes_back_as_it_was(
    moment: datetime, is_whole: bool, series: datetime | None
) -> None:
    moment = moment.replace(microsecond=0) if is_whole else moment
    order = ReportOrder(content_datetime=moment, series_datetime=series, station_name="NODE")
    shared, own = split_order(order)
    again = order_of(SimpleNamespace(order_id=1, report_order=own), shared)
    assert again == order
    assert again.content_datetime.utcoffset() == moment.utcoffset()
    assert own.startswith("{") != (not moment.microsecond and series is None)


def test_an_order_with_more_than_its_time_is_json() -> None:
    before = Predecessor(
        study_instance_uid="1.2",
        series_instance_uid="1.3",
        sop_class_uid="1.4",
        sop_instance_uid="1.5",
    )
    order = ReportOrder(
        content_datetime=datetime(2026, 1, 5, 9, tzinfo=UTC), predecessor=before, generation=2
    )
    shared, own = split_order(order)
    assert load_own(own)["generation"] == 2
    assert order_of(SimpleNamespace(order_id=1, report_order=own), shared) == order


WISHES = st.builds(
    Wish,
    kinds=st.lists(st.sampled_from(["sr", "sc"]), max_size=2).map(tuple),
    when=st.lists(st.just("present"), max_size=1).map(tuple),
)


@given(st.dictionaries(st.text(min_size=1, max_size=6), WISHES, max_size=3))
def test_wishes_come_back_as_they_were(wishes: dict[str, Wish]) -> None:
    assert load_wishes(dump_wishes(wishes)) == wishes


@pytest.mark.parametrize("text", ['{"archive": []}', '{"archive":[]}', "archive"])
def test_a_destination_that_gets_all_is_its_name_or_json(text: str) -> None:
    assert load_wishes(text) == {"archive": Wish()}
