"""Whatever a model says, its report is valid: uninterpretable, not analysed, or plain words."""

from __future__ import annotations

import pytest
import reports
from reports import ALGORITHM, ORDER
from strange_texts import HOSTILE

from worker.report.reading import LONGEST_TEXT
from worker.report.sr import Outcome, build
from worker.text.findings import parse

ABSENT, UNDETERMINED = "272519000", "373068000"
NOTHING_SAID = {"empty", "blank", "nothing but a zero"}
CANNOT_BE_READ = {
    "megabyte",
    "one word of a megabyte",
    "lone surrogates",
    "not characters",
    "looping",
    "looping word",
    "combining",
}


def report(what: str) -> reports.Dataset:
    outcome = Outcome(text=HOSTILE[what], findings=parse(HOSTILE[what]))
    return reports.read(build(reports.source(), outcome, ALGORITHM, ORDER).content)


@pytest.mark.parametrize("what", list(HOSTILE))
def test_a_bad_text_is_never_called_absent(what: str) -> None:
    assert ABSENT not in reports.values(report(what), "125605004")


@pytest.mark.parametrize("what", sorted(NOTHING_SAID))
def test_a_text_that_says_nothing_gives_a_report_of_no_analysis(what: str) -> None:
    ds = report(what)
    assert ds.CompletionFlag == "PARTIAL"
    assert reports.values(ds, "111017") == ["111245"]
    assert reports.values(ds, "121071") == []


@pytest.mark.parametrize("what", sorted(CANNOT_BE_READ))
def test_a_text_that_cannot_be_understood_is_kept_and_undetermined(what: str) -> None:
    ds = report(what)
    assert set(reports.values(ds, "125605004")) == {UNDETERMINED}
    assert reports.values(ds, "121071") != []


@pytest.mark.parametrize("what", sorted(HOSTILE.keys() - NOTHING_SAID))
def test_the_report_holds_the_text_without_what_no_text_value_may_hold(what: str) -> None:
    (text, *_) = [value for value in reports.values(report(what), "121071") if value != "125605004"]
    assert 0 < len(text.encode()) <= LONGEST_TEXT
    assert not {character for character in text if character < " " and character != "\n"}
