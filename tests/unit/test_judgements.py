"""What a reader thinks of a report is sent after it, and what a report replaces can be hidden."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import reports
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import NOW, SR, fresh, instance, on, post, reported, result, route, taken
from pydicom import dcmread

from dicom_node.base.job import (
    FractureFound,
    JudgedFinding,
    JudgedReport,
    Judgement,
    MadeKind,
    ObjectKind,
    Predecessor,
    RejectionNote,
    ReportObject,
    ReportOrder,
    Result,
    finding_names,
)
from dicom_node.flow.result_check import ResultSource, find_mismatch
from dicom_node.standard.uids import PREFIXES, rejection_note_uid
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.views import FindingJudgement
from worker.image.pixels import Radiograph
from worker.models import ModelInfo
from worker.phantom.draw import instance as drawing
from worker.pipeline import Pipeline
from worker.report import codes
from worker.report.document import device_uid
from worker.report.renderings import BUILDERS, rejection_notes, render
from worker.report.sr import Outcome, build
from worker.settings import Pixels
from worker.text.findings import parse

KO = "1.2.840.10008.5.1.4.1.1.88.59"
TEXT = "Acute fracture of the left seventh rib. Old fracture of T8."
OPTIONS = "ab" * 32
BEFORE = Predecessor(
    study_instance_uid="1.2.3",
    series_instance_uid="2.25.17",
    sop_class_uid=SR,
    sop_instance_uid="2.25.18",
)


def judgement(verdict: Any = "disagree", **more: Any) -> Judgement:
    facts = {"reader": "anna", "comment": "A vessel.", "corrected_text": "No acute fracture."}
    report = JudgedReport(
        text=TEXT,
        presence="present",
        model_version="0.1.0+m-1",
        device_uid="2.25.4",
        options=OPTIONS,
    )
    return Judgement(verdict=verdict, **(facts | {"report": report} | more))


def order(judged: Judgement | None = None, **more: Any) -> ReportOrder:
    facts = {"generation": 2, "predecessor": BEFORE, "judgement": judged}
    return reports.ORDER.model_copy(update=facts | more)


def tree(judged: Judgement | None, text: str = TEXT) -> Any:
    outcome = Outcome(text=text, findings=parse(text))
    made = build(reports.source(), outcome, reports.ALGORITHM, order(judged))
    return reports.read(made.content)


def groups(ds: Any) -> dict[str, list[str]]:
    """Return the codes of presence, assessment and finding in each measurement group."""
    wanted = ("125605004", "111005", "121071")
    return {
        reports.values(group, "112039")[0]: [
            code for name in wanted for code in reports.values(group, name)
        ]
        for group in reports.items(ds)
        if reports.name(group) == "125007"
    }


def presences(ds: Any) -> set[str]:
    """Return what the report sums up."""
    whole = next(item for item in reports.items(ds) if reports.name(item) == "125007")
    return {
        *reports.values(whole, "125605004"),
        *reports.values(ds.ContentSequence[-1], "125605004"),
    }


# the report -----------------------------------------------------------------------------------


def test_a_disputed_report_is_neither_positive_nor_negative() -> None:
    for text in (TEXT, "No fracture."):
        ds = tree(judgement(), text)
        assert presences(ds) == {codes.UNDETERMINED.value}
        assert reports.values(ds, "111017") == [codes.NOT_ALL_SUCCEEDED.value]
        assert ds.VerificationFlag == "UNVERIFIED"
        assert ds.CompletionFlagDescription == "Reader disagrees; replaces an earlier report"


def test_a_report_that_its_reader_agrees_with_says_what_it_said() -> None:
    ds = tree(judgement("agree", corrected_text="", comment=""))
    assert presences(ds) == {codes.PRESENT.value}
    assert reports.values(ds, "111017") == [codes.SUCCEEDED_WITH_FINDINGS.value]
    assert reports.values(ds, "111005") == [codes.ASSESSMENTS["agree"].value] * 2


def test_a_finding_that_a_reader_denies_is_no_finding_any_more() -> None:
    """The other one stays, and so does the report as a whole: its reader has confirmed it."""
    judged = (
        JudgedFinding(finding="left rib 7", verdict="disagree"),
        JudgedFinding(finding="vertebra T8", verdict="agree"),
    )
    ds = tree(judgement(findings=judged))
    agreed, denied = codes.ASSESSMENTS["agree"].value, codes.ASSESSMENTS["disagree"].value
    found = groups(ds)
    assert found["Left rib 7"] == [codes.UNDETERMINED.value, denied]
    assert found["Vertebra T8"] == [agreed, codes.FRACTURE_OF_BONE.value]
    assert presences(ds) == {codes.PRESENT.value}


def test_a_place_keeps_its_tracking_uid_when_a_reader_denies_it() -> None:
    judged = (JudgedFinding(finding="LEFT RIB 7", verdict="disagree"),)
    before, after = tree(None), tree(judgement(findings=judged))
    assert reports.values(before, "112040") == reports.values(after, "112040")


def test_both_texts_stand_word_for_word_and_who_wrote_which() -> None:
    ds = tree(judgement())
    assert reports.values(ds, "121071")[-1] == TEXT
    assert reports.values(ds, "121077") == ["No acute fracture."]
    person, device = ds.AuthorObserverSequence
    assert (str(person.PersonName), person.ObserverType) == ("anna^", "PSN")
    assert device.ObserverType == "DEV"
    assert {"121006", "121007"} == set(reports.values(ds, "121005"))
    assert ds.PredecessorDocumentsSequence[0].StudyInstanceUID == "1.2.3"


@pytest.mark.parametrize("kind", ["basic-text", "sc", "gsps", "pdf", "ko"])
def test_each_kind_of_object_tells_of_the_judgement(kind: Any) -> None:
    """A kind that cannot carry the judgement is not sent: a disputed report flags no image."""
    outcome = Outcome(text=TEXT, findings=parse(TEXT))
    said = [
        render(kind, reports.source(), None, outcome, reports.ALGORITHM, order(one))
        for one in (None, judgement(), judgement("agree"))
    ]
    first, disputed, agreed = [word and word.content for word in said]
    assert agreed is not None
    if kind == "ko":
        assert disputed is None
        return
    assert disputed is not None
    assert len({first, disputed, agreed}) == 3
    if kind in ("basic-text", "gsps"):
        assert b"anna disagrees" in disputed
        assert b"No acute fracture." in disputed
        assert TEXT.encode() in disputed


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300), st.lists(st.text(max_size=30), max_size=3))
def test_no_words_of_a_reader_break_a_report(reader: str, words: str, findings: list[str]) -> None:
    judged = tuple(JudgedFinding(finding=finding, verdict="disagree") for finding in findings)
    made = judgement(reader=reader[:256], comment=words, corrected_text=words, findings=judged)
    ds = tree(made)
    assert reports.values(ds, "121071")[-1] == TEXT
    assert codes.SUCCEEDED_WITHOUT_FINDINGS.value not in reports.values(ds, "111017")
    assert str(ds.AuthorObserverSequence[0].PersonName).endswith("^")


@given(st.lists(st.builds(
    FractureFound, bone=st.sampled_from(["rib", "other", "vertebra"]),
    number=st.sampled_from([None, "7", "T8"]), side=st.sampled_from([None, "left", "right"]),
), max_size=8))  # fmt: skip
def test_each_finding_has_a_name_of_its_own(fractures: list[FractureFound]) -> None:
    names = finding_names(fractures)
    assert len(set(names)) == len(fractures)


class NoModel:
    """A model that must not be asked."""

    info = ModelInfo("reader", "reader-1", "")

    def describe(self, *_: Any) -> Any:
        raise AssertionError("the image was read again")


class Pixel:
    """Decodes nothing: the picture is not what these tests are about."""


def as_bytes() -> bytes:
    ds = drawing(7, 0)
    content = BytesIO()
    ds.save_as(content, enforce_file_format=True)
    return content.getvalue()


def test_a_judgement_is_built_without_the_model_and_in_the_name_of_the_one_that_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = Radiograph(np.zeros((8, 8), np.uint8), "")
    monkeypatch.setattr("worker.pipeline.radiograph", lambda *_: picture)
    pipeline = Pipeline(NoModel(), Pixel(), Pixels())  # type: ignore[arg-type]
    judged = judgement()
    case = pipeline.prepare_judged(as_bytes(), judged.report)
    assert not case.is_waiting
    pipeline.describe([case])
    ordered = order(judged, objects=("sr", "pdf"))
    made = pipeline.build(case, ordered, "t")
    assert [document.kind for document in made.documents] == ["sr", "pdf"]
    result = made.result
    assert (result.device_uid, result.model_version, result.options) == (
        "2.25.4",
        "0.1.0+m-1",
        OPTIONS,
    )
    assert (result.text, result.presence) == (TEXT, "present")
    ds = dcmread(BytesIO(made.documents[0].content))
    (equipment,) = ds.ContributingEquipmentSequence
    assert (equipment.DeviceUID, equipment.SoftwareVersions) == ("2.25.4", "0.1.0+m-1")
    assert reports.values(ds, "111002") == [], "another model's parameters are not claimed"
    same = replace(pipeline.algorithm, device="", options=None)
    own = judged.model_copy(
        update={"report": judged.report.model_copy(update={"device_uid": device_uid(same)})}
    )
    case = pipeline.prepare_judged(as_bytes(), own.report)
    again = pipeline.build(case, ordered.model_copy(update={"judgement": own}), "t")
    assert reports.values(dcmread(BytesIO(again.documents[0].content)), "111002")


def test_a_judgement_in_another_device_s_name_is_refused() -> None:
    ordered = order(judgement())
    source = ResultSource("1.2.3.4.5", "1.2.3", "1.2.3.4", "4711", "", ordered)
    made = build(
        reports.source(),
        Outcome(text=TEXT, findings=parse(TEXT)),
        replace(reports.ALGORITHM, device="2.25.4", options=OPTIONS),
        ordered,
    )
    item = ReportObject(
        kind="sr", part="sr", sop_class_uid=made.sop_class_uid,
        sop_instance_uid=made.sop_instance_uid, series_instance_uid=made.series_instance_uid,
    )  # fmt: skip
    facts: dict[str, Any] = {
        "token": "t", "outcome": "reported", "model": "m", "model_version": "1",
        "objects": (item,),
    }  # fmt: skip
    right = Result(device_uid="2.25.4", **facts)
    assert find_mismatch(source, right, {"sr": made.content}) == ""
    wrong = Result(device_uid="2.25.5", **facts)
    assert "another device" in find_mismatch(source, wrong, {"sr": made.content})


# the ledger -------------------------------------------------------------------------------------


def sent(ledger: Ledger, delivery: int = 1, uid: str = "2.25.1") -> None:
    ledger.deliveries.choose(delivery, uid)
    on(ledger, NOW).deliveries.delivered(delivery, 0)


def test_a_judgement_makes_the_next_report_and_the_next_one_the_next(ledger: Ledger) -> None:
    first = reported(ledger)
    sent(ledger)
    said = (FindingJudgement("left rib 7", "disagree"),)
    one = on(ledger, NOW + 5).acts.judge(
        first.job, "disagree", "anna", "no", "No fracture.", said, sends=True
    )
    two = on(ledger, NOW + 6).acts.judge(first.job, "agree", "ben", sends=True)
    assert one.job
    assert two.job not in ("", one.job)
    orders = {job.job: job.report_order for job in ledger.history.trace("1.2.3.1").jobs}
    second, third = orders[one.job], orders[two.job]
    assert (second.generation, third.generation) == (2, 3)
    assert second.judgement is not None
    report = second.judgement.report
    assert (report.text, report.model_version, report.device_uid) == (
        "No fracture.", "0.1.0", "2.25.1",
    )  # fmt: skip
    assert second.judgement.findings == (JudgedFinding(finding="left rib 7", verdict="disagree"),)
    assert second.predecessor is not None
    assert second.predecessor.sop_instance_uid == "2.25.1"
    assert third.judgement is not None
    assert (third.judgement.reader, third.judgement.report) == ("ben", second.judgement.report)
    assert third.predecessor is not None
    assert third.predecessor.sop_instance_uid not in ("2.25.1", ""), "the one that is on its way"
    assert second.series_datetime == third.series_datetime
    views = {job.job: job.is_judgement for job in ledger.history.trace("1.2.3.1").jobs}
    assert views == {first.job: False, one.job: True, two.job: True}
    assert [row.is_judgement for row in ledger.results.between(0, NOW + 9)] == [False, True, True]


def test_the_second_successor_names_the_uid_that_the_first_will_have(ledger: Ledger) -> None:
    first = reported(ledger)
    sent(ledger)
    one = on(ledger, NOW + 1).acts.judge(first.job, "disagree", "anna", sends=True)
    two = on(ledger, NOW + 2).acts.judge(first.job, "agree", "ben", sends=True)
    orders = {job.job: job.report_order for job in ledger.history.trace("1.2.3.1").jobs}
    report = orders[one.job].judgement.report  # type: ignore[union-attr]
    made = build(
        reports.source(SOPInstanceUID="1.2.3.1"),
        Outcome(text=TEXT, findings=parse(TEXT)),
        replace(reports.ALGORITHM, device=report.device_uid, options=report.options),
        orders[one.job],
    )
    assert orders[two.job].predecessor.sop_instance_uid == made.sop_instance_uid  # type: ignore[union-attr]


def test_a_judgement_is_kept_and_not_sent_where_nobody_asked(ledger: Ledger) -> None:
    first = reported(ledger)
    assert on(ledger, NOW + 5).acts.judge(first.job, "agree", "anna").job == ""
    assert len(ledger.history.trace("1.2.3.1").jobs) == 1
    assert len(ledger.history.trace("1.2.3.1").judgements) == 1


def test_a_judgement_of_what_a_later_analysis_replaced_is_not_sent(ledger: Ledger) -> None:
    first = reported(ledger)
    on(ledger, NOW + 1).acts.replay("1.2.3.1")
    judged = on(ledger, NOW + 2).acts.judge(first.job, "disagree", "anna", sends=True)
    assert (judged.job, judged.why[:24]) == ("", "a later analysis of the ")
    assert len(ledger.history.trace("1.2.3.1").judgements) == 1, "it is kept all the same"


def test_a_judgement_of_what_was_not_sent_is_not_sent_either(ledger: Ledger) -> None:
    first = reported(ledger, mode="shadow")
    judged = on(ledger, NOW + 2).acts.judge(first.job, "disagree", "anna", sends=True)
    assert (judged.job, judged.why) == ("", "the report itself was not sent")


def test_a_re_run_after_a_judgement_is_a_re_run(ledger: Ledger) -> None:
    first = reported(ledger)
    sent(ledger)
    on(ledger, NOW + 1).acts.judge(first.job, "disagree", "anna", sends=True)
    ticket = taken(ledger, at=NOW + 2)
    post(on(ledger, NOW + 2), ticket, result(ticket, 2))
    on(ledger, NOW + 3).acts.replay("1.2.3.1")
    last = ledger.history.trace("1.2.3.1").jobs[-1]
    assert (last.generation, last.is_judgement) == (3, False)
    assert last.report_order.predecessor is not None
    assert last.report_order.predecessor.sop_instance_uid == "2.25.2"


def test_the_reports_of_a_study_have_one_series_time(ledger: Ledger) -> None:
    for n in (1, 2, 3):
        on(ledger, NOW + 100 * n).instances.receive(instance(n), [route()])
    on(ledger, NOW + 900).instances.receive(instance(9, study_instance_uid="1.2.9"), [route()])
    orders = [
        ledger.history.trace(f"1.2.3.{n}").jobs[0].report_order for n in (1, 2, 3, 9)
    ]  # fmt: skip
    begun = [(one.series_datetime or one.content_datetime).timestamp() for one in orders]
    assert begun == [NOW + 100, NOW + 100, NOW + 100, NOW + 900]


def test_another_process_finds_the_series_time_in_the_ledger(tmp_path: Path) -> None:
    url = fresh(tmp_path)
    with_first, with_second = Ledger.open(url), Ledger.open(url)
    on(with_first, NOW).instances.receive(instance(1), [route()])
    on(with_second, NOW + 60).instances.receive(instance(2), [route()])
    made_at = with_second.history.trace("1.2.3.2").jobs[0].report_order.series_datetime
    assert made_at is not None
    assert made_at.timestamp() == NOW
    with_first.close()
    with_second.close()


# notes that hide what was replaced ---------------------------------------------------------------


def notes_of(ledger: Ledger, n: int = 1) -> tuple[RejectionNote, ...]:
    return ledger.history.trace(f"1.2.3.{n}").jobs[-1].report_order.rejection_notes


def test_a_note_names_what_a_destination_has_and_only_on_demand(ledger: Ledger) -> None:
    reported(ledger)
    sent(ledger)
    on(ledger, NOW + 1).acts.replay("1.2.3.1", rejects=True)
    (note,) = notes_of(ledger)
    assert note.destinations == ("archive",)
    assert [one.sop_instance_uid for one in note.objects] == ["2.25.1"]
    reported(ledger, 2)
    sent(ledger, 2, "2.25.2")
    on(ledger, NOW + 1).acts.replay("1.2.3.2")
    assert notes_of(ledger, 2) == ()


def test_what_never_arrived_is_not_hidden(ledger: Ledger) -> None:
    reported(ledger)
    on(ledger, NOW + 1).acts.replay("1.2.3.1", rejects=True)
    assert notes_of(ledger) == ()


NOTE = RejectionNote(
    destinations=("archive",),
    objects=(
        BEFORE,
        BEFORE.model_copy(
            update={
                "sop_class_uid": "1.2.840.10008.5.1.4.1.1.7",
                "sop_instance_uid": "2.25.19",
                "series_instance_uid": "2.25.20",
            }
        ),
    ),
)


def made_note(ordered: ReportOrder, **outcome: Any) -> list[Any]:
    facts = Outcome(**outcome) if outcome else reports.CASES["fracture"]
    return list(rejection_notes(reports.source(), facts, reports.ALGORITHM, ordered))


def test_a_note_refers_to_what_it_hides_and_is_the_same_each_time() -> None:
    ordered = order(rejection_notes=(NOTE,))
    (first,), (again,) = made_note(ordered), made_note(ordered)
    assert first == again
    assert first.sop_instance_uid == rejection_note_uid("1.2.3.4.5", 2, ["2.25.19", "2.25.18"])
    ds = reports.read(first.content)
    assert ds.ConceptNameCodeSequence[0].CodeValue == "113037"
    hidden = {
        one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID: one.ValueType
        for one in ds.ContentSequence
        if "ReferencedSOPSequence" in one
    }
    assert hidden == {"2.25.18": "COMPOSITE", "2.25.19": "IMAGE"}
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == "1.2.3"
    assert len(study.ReferencedSeriesSequence) == 2


def test_an_analysis_that_failed_hides_nothing() -> None:
    ordered = order(rejection_notes=(NOTE,))
    assert made_note(ordered, reason=reports.CASES["rejected"].reason) == []


def test_a_note_that_hides_something_else_is_refused() -> None:
    ordered = order(rejection_notes=(NOTE,))
    (made,) = made_note(ordered)
    item = ReportObject(
        kind="rejection-note", part="note", sop_class_uid=made.sop_class_uid,
        sop_instance_uid=made.sop_instance_uid, series_instance_uid=made.series_instance_uid,
    )  # fmt: skip
    result = Result(
        token="t", outcome="reported", model="m", model_version="1",
        device_uid=device_uid(reports.ALGORITHM), objects=(item,),
    )  # fmt: skip
    uids = ("1.2.3.4.5", "1.2.3", "1.2.3.4", "4711", "")
    assert find_mismatch(ResultSource(*uids, ordered), result, {"note": made.content}) == ""
    other = made.content.replace(b"2.25.19", b"2.25.44")
    problem = find_mismatch(ResultSource(*uids, ordered), result, {"note": other})
    assert "does not hide what the job's note names" in problem
    without = ordered.model_copy(update={"rejection_notes": ()})
    problem = find_mismatch(ResultSource(*uids, without), result, {"note": made.content})
    assert "this rejection note was not ordered" in problem


def test_every_kind_has_a_builder_or_is_a_note() -> None:
    assert set(get_args(ObjectKind)) == {"sr", *BUILDERS}
    assert set(PREFIXES) == {*get_args(ObjectKind), "rejection-note"}
    assert MadeKind is not ObjectKind
