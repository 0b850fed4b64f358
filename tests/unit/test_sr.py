"""A report says what the model said, of whom, by what, and always in the same bytes."""

from __future__ import annotations

import subprocess
import sys
import time
import unicodedata
from copy import deepcopy
from datetime import timedelta, timezone
from pathlib import Path

import pytest
import reports
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from reports import ALGORITHM, CASES, ORDER, TEXT
from strange_texts import generated

from dicom_node.base.errors import ConfigurationError, ModelFault, NotUnderstood
from dicom_node.base.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.base.job import Predecessor, Reason, ReportOrder
from dicom_node.standard import uids
from worker.report import codes, document, header, reading
from worker.report.reading import storable
from worker.report.sr import SOP_CLASSES, Algorithm, Outcome, build, build_each, device_uid
from worker.text.findings import Findings, Presence, parse

SUMMARY, PRESENCE, QUALITY = "111017", "125605004", "111101"
FINDING, COMMENT, GROUP = "121071", "121106", "125007"


def report(case: str = "fracture", sop_class: str = "comprehensive3d", **more: object) -> Dataset:
    """Return the report of one case, read again from its bytes."""
    arguments = {"source": reports.source(), "algorithm": ALGORITHM, "order": ORDER, **more}
    outcome = arguments.pop("outcome", CASES[case])
    return reports.read(build(outcome=outcome, sop_class=sop_class, **arguments).content)  # type: ignore[arg-type]


def groups(ds: Dataset) -> list[Dataset]:
    return [item for item in reports.items(ds) if reports.name(item) == GROUP]


@pytest.mark.parametrize(
    ("case", "summary", "presence", "quality", "flag"),
    [
        ("fracture", "111242", ["52101004"], [], "COMPLETE"),
        ("none", "111241", ["272519000"], [], "COMPLETE"),
        ("unclear", "111244", ["373068000"], [], "COMPLETE"),
        ("rejected", "111245", [], ["111209"], "PARTIAL"),
    ],
)
@pytest.mark.parametrize("sop_class", list(SOP_CLASSES))
def test_each_case_has_its_own_codes(
    case: str, summary: str, presence: list[str], quality: list[str], flag: str, sop_class: str
) -> None:
    """What is unclear is never summed up as "without findings"."""
    ds = report(case, sop_class)
    evaluations = ds.ContentSequence[-1]
    assert ds.SOPClassUID == SOP_CLASSES[sop_class][0]
    assert reports.values(evaluations, SUMMARY) == [summary]
    assert reports.values(evaluations, PRESENCE) == presence
    assert reports.values(ds, QUALITY) == quality
    assert (ds.CompletionFlag, "CompletionFlagDescription" in ds) == (flag, flag == "PARTIAL")
    assert (ds.VerificationFlag, ds.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")


@pytest.mark.parametrize(
    ("case", "presence"),
    [
        ("fracture", "52101004"),
        ("none", "272519000"),
        ("unclear", "373068000"),
        ("rejected", "373068000"),
    ],
)
def test_one_group_always_speaks_of_the_whole_image(case: str, presence: str) -> None:
    """Readers start at groups: dcmqi, highdicom and dcmjs saw nothing in a report without one."""
    first = groups(report(case))[0]
    assert reports.values(first, PRESENCE) == [presence]
    assert reports.values(first, "363698007") == [codes.BONE_OF_THORAX.value]
    assert reports.values(first, "111001") == [report(case).ManufacturerModelName]
    assert reports.values(first, "112039") == ["Bones of the image"]
    assert reports.values(first, FINDING) == []
    assert [item.ValueType for item in reports.items(first)].count("IMAGE") == 1


@pytest.mark.parametrize("case", list(CASES))
def test_reports_built_together_are_the_bytes_of_those_built_alone(case: str) -> None:
    together = build_each(reports.source(), CASES[case], ALGORITHM, ORDER, list(SOP_CLASSES))
    alone = [build(reports.source(), CASES[case], ALGORITHM, ORDER, name) for name in SOP_CLASSES]
    assert list(together) == alone
    assert len({document.sop_instance_uid for document in together}) == 3


def test_the_text_stands_verbatim_in_the_evaluations() -> None:
    evaluations = report().ContentSequence[-1]
    assert reports.name(evaluations) == "C0034375"
    assert reports.values(evaluations, FINDING) == [TEXT]


@pytest.mark.parametrize("case", list(CASES))
def test_every_report_says_that_no_physician_has_reviewed_it(case: str) -> None:
    comment = reports.values(report(case).ContentSequence[-1], COMMENT)[0]
    assert "AI generated, not reviewed by a physician." in comment
    assert "research use" in comment


def test_a_negative_report_says_that_it_excludes_nothing() -> None:
    comments = {case: " ".join(reports.values(report(case), COMMENT)) for case in CASES}
    words = "absence of an AI finding does not exclude a fracture"
    assert [case for case, comment in comments.items() if words in comment] == ["none"]


def test_warnings_are_comments_of_their_own() -> None:
    comments = reports.values(report("unclear"), COMMENT)
    assert comments[1:] == ["The orientation of the image is unknown."]
    assert "could not be interpreted automatically; text is verbatim" in comments[0]


def test_a_rejected_image_gets_its_reason_in_words() -> None:
    ds = report("rejected")
    assert "The image is a lateral view." in reports.values(ds, COMMENT)[0]
    assert ds.CompletionFlagDescription == "Not analysed: lateral-view"
    assert reports.values(ds, FINDING) == []


def test_a_demonstration_says_so_three_times() -> None:
    algorithm = Algorithm(name="phantom", version="0.1.0+phantom-1.3fa9", demonstration=True)
    ds = report(algorithm=algorithm)
    words = "DEMONSTRATION MODEL: reads drawings only; its text means nothing about a patient."
    assert words in reports.values(ds.ContentSequence[-1], COMMENT)[0]
    assert ds.SeriesDescription.startswith("DEMONSTRATION MODEL: ")
    assert ds.ManufacturerModelName.startswith("DEMONSTRATION MODEL phantom")


def test_a_licence_is_named() -> None:
    algorithm = Algorithm(name="m", version="1", licence="CC-BY-NC-4.0")
    assert "CC-BY-NC-4.0" in reports.values(report(algorithm=algorithm), COMMENT)[-1]


def test_parameters_are_made_storable() -> None:
    algorithm = Algorithm("m", "1", parameters=("prompt=Describe\tbones.\x00", " "))
    ds = report(algorithm=algorithm)
    assert set(reports.values(ds, "111002")) == {"prompt=Describe bones."}


def test_a_fracture_is_coded_with_bone_side_and_segment() -> None:
    _, first, second = groups(report())
    assert reports.values(first, "363698007") == [codes.RIBS["7"].value]
    assert reports.values(first, "272741003") == [codes.SIDES["left"].value]
    assert reports.values(first, "106233006") == [codes.SEGMENTS["posterolateral"].value]
    assert reports.values(first, "112039") == ["Left rib 7"]
    assert reports.values(first, "408729009") == [codes.CERTAINTIES["definite"].value]
    assert reports.values(first, "263502005") == [codes.AGES["acute"].value]
    assert reports.values(first, COMMENT) == [TEXT[:64]]
    assert reports.values(second, "263502005") == []
    assert reports.values(second, "363698007") == [codes.VERTEBRAE["T8"].value]
    assert reports.values(second, "272741003") == []


def said(text: str) -> Outcome:
    return Outcome(text=text, findings=parse(text))


def tracked(ds: Dataset) -> dict[str, str]:
    """Return Tracking Identifier -> Tracking Unique Identifier of each group."""
    return dict(zip(reports.values(ds, "112039"), reports.values(ds, "112040"), strict=True))


def test_two_fractures_of_one_bone_are_tracked_apart() -> None:
    twice = (reports.fracture("rib", "7", "left"), reports.fracture("rib", "7", "left"))
    outcome = Outcome(text="Two.", findings=Findings(Presence.PRESENT, twice))
    found = tracked(report(outcome=outcome))
    assert list(found) == ["Bones of the image", "Left rib 7", "Left rib 7 (2)"]
    assert len(set(found.values())) == 3


def test_one_tracking_uid_has_one_name_over_all_reports_of_an_image() -> None:
    texts = ("Fracture of the left 7th rib.", "Fractures of T8 and of the left 7th rib.", TEXT)
    names = [tracked(report(outcome=said(text))) for text in texts]
    pairs = {(uid, name) for found in names for name, uid in found.items()}
    assert len({uid for uid, _ in pairs}) == len({name for _, name in pairs}) == len(pairs)
    assert len({found["Left rib 7"] for found in names}) == 1


def test_a_positive_without_a_parsed_bone_has_the_group_of_the_image_only() -> None:
    outcome = Outcome(text="Fracture.", findings=Findings(Presence.PRESENT, ()))
    (group,) = groups(report(outcome=outcome))
    assert reports.values(group, PRESENCE) == ["52101004"]


def test_only_a_positive_report_has_groups_of_fractures() -> None:
    """What a text without a clear answer names is not written as a finding."""
    odd = Outcome(text="?", findings=Findings(Presence.UNDETERMINED, reports.FRACTURES))
    assert reports.values(groups(report(outcome=odd))[0], PRESENCE) == ["373068000"]
    assert len(groups(report(outcome=odd))) == 1


def test_a_fracture_that_is_only_suspected_is_not_present() -> None:
    ds = report(outcome=said("Possible fracture of the left 5th rib."))
    everywhere, fracture = groups(ds)
    assert set(reports.values(ds, PRESENCE)) == {"373068000"}
    assert reports.values(ds.ContentSequence[-1], SUMMARY) == ["111242"]
    for item in (everywhere, fracture, ds.ContentSequence[-1]):
        assert reports.values(item, "408729009") == [codes.CERTAINTIES["possible"].value]


def test_one_fracture_that_is_sure_makes_it_present() -> None:
    ds = report(outcome=said("Possible fracture of the left 5th rib. Fracture of T8."))
    assert set(reports.values(ds, PRESENCE)) == {"52101004"}


@pytest.mark.parametrize(
    ("text", "site", "side", "presence", "course"),
    [
        ("No acute fracture.", "272710004", [], "272519000", ["373933003"]),
        ("No rib fracture.", "113197003", [], "272519000", []),
        ("No fracture of the left clavicle.", "51299004", ["7771000"], "272519000", []),
        ("No displaced rib fracture.", "113197003", [], "373068000", []),
    ],
)
def test_an_absence_keeps_what_it_is_limited_to(
    text: str, site: str, side: list[str], presence: str, course: list[str]
) -> None:
    """An absence that is said of some fractures only is never written of all."""
    ds = report(outcome=said(text))
    everywhere, denied = groups(ds)
    assert reports.values(ds.ContentSequence[-1], PRESENCE) == ["373068000"]
    assert reports.values(everywhere, PRESENCE) == ["373068000"]
    assert reports.values(denied, PRESENCE) == [presence]
    assert reports.values(denied, "363698007") == [site]
    assert reports.values(denied, "272741003") == side
    assert reports.values(denied, "263502005") == course
    assert reports.values(denied, COMMENT) == [text]


def test_an_absence_of_any_fracture_is_absence() -> None:
    ds = report(outcome=said("No fracture."))
    assert set(reports.values(ds, PRESENCE)) == {"272519000"}
    assert len(groups(ds)) == 1


def test_each_observation_has_its_uid_and_time() -> None:
    ds = report()
    again = report(order=ORDER.model_copy(update={"generation": 2}))
    uids = [group.ObservationUID for group in (*groups(ds), *groups(again))]
    assert len(set(uids)) == len(uids)
    assert {group.ObservationDateTime for group in groups(ds)} == {"20260304050607.000089"}


def test_the_report_says_which_device_is_its_author() -> None:
    ds = report(source=reports.source(InstitutionName="Hospital"))
    for item in (ds.AuthorObserverSequence[0], ds.ParticipantSequence[0]):
        assert (item.ObserverType, item.DeviceUID) == ("DEV", device_uid(ALGORITHM))
        assert (item.StationName, item.InstitutionName) == ("CHEXFRACT", "Hospital")
    assert (ds.StationName, ds.InstitutionName) == ("CHEXFRACT", "Hospital")
    assert (ds.SeriesDate, ds.SeriesTime) == (ds.ContentDate, ds.ContentTime)


def test_a_series_has_one_date_whichever_report_of_it_is_looked_at() -> None:
    begun = reports.WHEN - timedelta(hours=2)
    second = ORDER.model_copy(update={"instance_number": 2})
    assert "SeriesDate" not in report(order=second)
    ds = report(order=second.model_copy(update={"series_datetime": begun}))
    assert (ds.SeriesTime, ds.ContentTime) == ("030607.000089", "050607.000089")


def test_the_library_describes_the_image() -> None:
    source = reports.source(
        ImageLaterality="U", PatientOrientation=["L", "F"], ImagerPixelSpacing=["0.2", "0.1"]
    )
    library = report("none", source=source).ContentSequence[-3]
    assert reports.values(library, "111031") == [codes.VIEWS["PA"].value]
    assert reports.values(library, "111044") == ["L"]
    assert reports.values(library, "111043") == ["F"]
    numbers = {
        reports.name(item): str(item.MeasuredValueSequence[0].NumericValue)
        for item in reports.items(library)
        if item.ValueType == "NUM"
    }
    assert {name: float(value) for name, value in numbers.items()} == {
        "111026": 0.1,
        "111066": 0.2,
        "110910": 2000,
        "110911": 1600,
    }


def test_the_procedure_reported_can_be_chosen() -> None:
    chosen = ("399208008", "SCT", "Plain chest X-ray")
    assert reports.values(report(), "121058") == ["363679005"]
    ds = report(order=ORDER.model_copy(update={"procedure": chosen}))
    assert reports.values(ds, "121058") == ["399208008"]


def test_two_nodes_each_give_a_procedure_their_own_meaning() -> None:
    for meaning in ("Chest, two views", "Thorax in zwei Ebenen"):
        order = ORDER.model_copy(update={"procedure": ("RX-17", "99CHEXFRACT", meaning)})
        (item,) = (i for i in reports.items(report(order=order)) if reports.name(i) == "121058")
        assert item.ConceptCodeSequence[0].CodeMeaning == meaning


def test_equipment_observer_and_algorithm_bear_the_same_names() -> None:
    """IHE AIR 6.5.3.1: the values must be equal wherever they are present."""
    ds = report(order=ORDER.model_copy(update={"serial_number": "SITE-1"}))
    (equipment,) = ds.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert set(reports.values(ds, "121014")) == {equipment.Manufacturer, ds.Manufacturer}
    names = {*reports.values(ds, "121015"), *reports.values(ds, "111001")}
    assert names == {equipment.ManufacturerModelName} == {ds.ManufacturerModelName}
    versions = {*reports.values(ds, "111003"), ds.SoftwareVersions}
    assert versions == {equipment.SoftwareVersions} == {ALGORITHM.version}
    assert reports.values(ds, "121012") == [equipment.DeviceUID] == [device_uid(ALGORITHM)]
    assert reports.values(ds, "121016") == [equipment.DeviceSerialNumber] == ["SITE-1"]


def test_the_image_is_evidence_and_stands_in_the_library() -> None:
    ds = report("rejected")
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (image,) = series.ReferencedSOPSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.3", "1.2.3.4")
    assert (image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID) == (
        reports.DX,
        "1.2.3.4.5",
    )
    entry, source = [item for item in reports.items(ds) if item.ValueType == "IMAGE"]
    assert "ConceptNameCodeSequence" not in entry
    assert reports.name(source) == "121112"
    assert reports.values(entry, "121139") == ["DX"]


def test_what_is_no_image_is_evidence_only() -> None:
    ds = report("rejected", source=reports.source(SOPClassUID="1.2.840.10008.5.1.4.1.1.481.5"))
    assert [item for item in reports.items(ds) if item.ValueType == "IMAGE"] == []
    assert len(ds.CurrentRequestedProcedureEvidenceSequence) == 1


def test_a_report_belongs_to_its_study_and_patient() -> None:
    ds = report()
    assert (ds.StudyInstanceUID, ds.PatientID, ds.AccessionNumber) == ("1.2.3", "4711", "A100")
    assert (ds.PatientName, ds.SpecificCharacterSet) == ("Иванова^Анна", "ISO_IR 192")
    assert (ds.SeriesNumber, ds.Modality) == (9001, "SR")
    assert ds.SeriesDescription == "AI fracture description (ChexFract)"


def test_the_file_names_this_software() -> None:
    meta = report().file_meta
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME


def test_times_are_those_of_the_order_in_the_zone_of_the_image() -> None:
    ds = report(source=reports.source(TimezoneOffsetFromUTC="-0330"))
    assert (ds.ContentDate, ds.ContentTime) == ("20260304", "013607.000089")
    assert (ds.InstanceCreationDate, ds.InstanceCreationTime) == (ds.ContentDate, ds.ContentTime)
    assert ds.TimezoneOffsetFromUTC == "-0330"
    (equipment,) = ds.ContributingEquipmentSequence
    assert equipment.ContributionDateTime == "20260304013607.000089-0330"


def test_without_a_zone_in_the_image_the_order_decides() -> None:
    local = reports.WHEN.astimezone(timezone(timedelta(hours=9)))
    ds = report(order=ReportOrder(content_datetime=local))
    assert ds.ContentTime == "140607.000089"
    assert ds.TimezoneOffsetFromUTC == "+0900"


def test_two_processes_write_the_same_bytes_at_different_times() -> None:
    script = (
        "import sys, reports; from worker.report.sr import build\n"
        "for case in reports.CASES.values():\n"
        "    made = build(reports.source(), case, reports.ALGORITHM, reports.ORDER)\n"
        "    sys.stdout.buffer.write(made.content)"
    )
    first = b"".join(
        build(reports.source(), case, ALGORITHM, ORDER).content for case in CASES.values()
    )
    time.sleep(1.1)
    folder = Path(reports.__file__).parent
    again = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, cwd=folder, check=True
    )
    assert again.stdout == first


def test_a_source_is_left_as_it_was() -> None:
    ds = reports.source()
    before = deepcopy(ds)
    build(ds, CASES["fracture"], ALGORITHM, ORDER)
    assert ds == before


def test_what_makes_another_report_makes_another_uid() -> None:
    base = build(reports.source(), CASES["none"], ALGORITHM, ORDER)
    others = [
        build(reports.source(SOPInstanceUID="1.2.3.4.6"), CASES["none"], ALGORITHM, ORDER),
        build(reports.source(), CASES["none"], ALGORITHM, ORDER, "enhanced"),
        build(
            reports.source(),
            CASES["none"],
            ALGORITHM,
            ORDER.model_copy(update={"generation": 2}),
        ),
        build(
            reports.source(),
            CASES["none"],
            Algorithm(ALGORITHM.name, ALGORITHM.version, ("decode=sampled",)),
            ORDER,
        ),
    ]
    uids = {made.sop_instance_uid for made in [base, *others]}
    assert len(uids) == 5
    assert {made.series_instance_uid for made in others[:3]} == {base.series_instance_uid}
    assert others[3].series_instance_uid != base.series_instance_uid  # options: another device


def test_another_model_version_is_another_device_with_another_series() -> None:
    newer = Algorithm(ALGORITHM.name, "0.2.0+chexfract-1.0.ffff")
    assert device_uid(newer) != device_uid(ALGORITHM)
    assert report(algorithm=newer).SeriesInstanceUID != report().SeriesInstanceUID


def test_images_of_a_study_share_a_series_and_are_numbered() -> None:
    made = [
        report(
            source=reports.source(SOPInstanceUID=f"1.2.3.4.{n}"),
            order=ORDER.model_copy(update={"instance_number": n}),
        )
        for n in (1, 2, 3)
    ]
    assert len({ds.SeriesInstanceUID for ds in made}) == 1
    assert [ds.InstanceNumber for ds in made] == [1, 2, 3]


@given(st.lists(st.text(), min_size=1, max_size=8))
def test_a_derived_uid_is_legal_and_depends_on_each_part(parts: list[str]) -> None:
    uid = uids.derived_uid(*parts)
    assert len(uid) <= 44
    assert uid.startswith("2.25.")
    assert uid.removeprefix("2.25.").isdecimal()
    assert uid == uids.derived_uid(*parts)
    assert uid != uids.derived_uid(*parts, "")


def test_a_rerun_names_the_report_that_it_replaces() -> None:
    before = Predecessor(
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.8",
        sop_class_uid=SOP_CLASSES["comprehensive3d"][0],
        sop_instance_uid="1.2.9",
    )
    ds = report(order=ORDER.model_copy(update={"generation": 2, "predecessor": before}))
    (study,) = ds.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.9"
    assert "PredecessorDocumentsSequence" not in report()


BAD_TEXTS = {
    "empty": "",
    "blank": " \n\t ",
    "control": "\x00\x07\x1b",
    "megabyte": "Fracture of the left rib. " * 40_000,
    "html": "<script>alert('fracture')</script>&nbsp;<b>rib</b>",
    "backslash": "left\\right\\rib",
    "right to left": "\u202eכסר בצלע\u202c كسر في الضلع",
    "emoji": "🦴💥 fracture 🩻",
    "surrogate": "fracture \ud83d rib",
    "crlf": "one\r\ntwo\rthree\n",
    "decomposed": "fracture a\u0300 gauche",
}


@pytest.mark.parametrize("raw", BAD_TEXTS.values(), ids=list(BAD_TEXTS))
def test_no_text_breaks_a_report(raw: str) -> None:
    ds = report(outcome=Outcome(text=raw, findings=Findings(Presence.ABSENT, ())))
    said = reports.values(ds, FINDING)
    assert all(len(text.encode()) <= 10_000 for text in said)
    assert not any(c < " " and c != "\n" for text in said for c in text)
    if not said:
        assert reports.values(ds, SUMMARY) == ["111245"]


def test_a_cut_or_damaged_text_is_never_called_negative() -> None:
    negative = Findings(Presence.ABSENT, ())
    for raw in ("No fracture. " * 2000, "No fracture of the \ufffd rib.", "No fract\ud800ure."):
        ds = report(outcome=Outcome(text=raw, findings=negative))
        assert set(reports.values(ds, PRESENCE)) == {"373068000"}
        assert reports.values(ds, SUMMARY) == ["111244"]


def test_a_cut_text_is_said_to_be_cut() -> None:
    ds = report(outcome=Outcome(text="ab " * 9000, findings=None))
    assert "was cut" in reports.values(ds, COMMENT)[-1]


def test_an_empty_text_is_a_report_of_no_analysis() -> None:
    ds = report(outcome=Outcome(text="\x00 ", findings=Findings(Presence.ABSENT, ())))
    assert reports.values(ds, SUMMARY) == ["111245"]
    assert ds.CompletionFlag == "PARTIAL"


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=300))
def test_any_text_reads_back_as_it_was_stored(raw: str) -> None:
    stored, is_whole = storable(raw)
    ds = report(outcome=Outcome(text=raw, findings=Findings(Presence.ABSENT, ())))
    assert is_whole
    assert reports.values(ds, FINDING) == ([stored] if stored else [])


@given(st.text(max_size=400))
def test_storing_a_text_twice_changes_nothing_more(raw: str) -> None:
    stored, _ = storable(raw)
    assert storable(stored) == (stored, True)


@given(st.text(alphabet="abc äя骨.,", max_size=100).map(str.rstrip))
def test_plain_text_is_stored_verbatim(raw: str) -> None:
    assert storable(raw)[0] == unicodedata.normalize("NFC", raw)


def test_a_report_that_does_not_read_back_is_not_sent() -> None:
    ds = reports.source()
    ds.SpecificCharacterSet = "ISO_IR 192"
    document.write_document("sr", ds)
    header.put(ds, "SpecificCharacterSet", "ISO_IR 101")  # has no Cyrillic letters
    with pytest.raises(NotUnderstood, match="PatientName"):
        document.write_document("sr", ds)


def test_a_missing_text_is_noticed() -> None:
    with pytest.raises(NotUnderstood, match="text does not read back"):
        document.write_document("sr", reports.source(), words="fracture")


@pytest.mark.parametrize(
    "keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"]
)
def test_an_instance_without_its_uids_gets_no_report(keyword: str) -> None:
    ds = reports.source()
    del ds[keyword]
    with pytest.raises(NotUnderstood, match=keyword):
        build(ds, CASES["none"], ALGORITHM, ORDER)


def test_a_private_sop_class_gets_no_report() -> None:
    with pytest.raises(NotUnderstood, match="not in the Standard"):
        build(reports.source(SOPClassUID="1.2.3.9"), CASES["none"], ALGORITHM, ORDER)


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="basic"):
        build(reports.source(), CASES["none"], ALGORITHM, ORDER, "basic")
    with pytest.raises(ConfigurationError, match="'xx'"):
        report(algorithm=Algorithm("m", "1", language="xx"))
    with pytest.raises(ModelFault, match="version"):
        report(algorithm=Algorithm("m", "v" * 65))


def test_the_longest_names_still_fit() -> None:
    algorithm = Algorithm("n" * 64, "v" * 64, demonstration=True)
    ds = report(
        algorithm=algorithm, order=ORDER.model_copy(update={"series_description": "d" * 64})
    )
    assert len(ds.ManufacturerModelName) == 64
    assert ds.SeriesDescription == "DEMONSTRATION MODEL:\u2026"


@pytest.mark.parametrize("label", ["", "Key image: ", "Overlay: ", "Text 12: "])
def test_a_series_description_ends_at_a_word(label: str) -> None:
    whole = "AI fracture description of the chest by the hospital's reading room"
    cut = document.series_description(ALGORITHM, whole, label)
    assert len(cut) <= 64
    assert f"{label}{whole} ".startswith(cut.rstrip("\u2026") + " ")


def test_a_reason_of_control_characters_still_has_words() -> None:
    outcome = Outcome(reason=Reason(code="odd", text="\x00"))
    assert "Not analysed: odd" in reports.values(report(outcome=outcome), COMMENT)[0]


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("Fracture of the left 5th rib. No right rib fracture.", {"Right rib, denied"}),
        ("Fracture of the left 5th rib. No clavicle fracture.", {"Clavicle, denied"}),
        ("Old fracture of the left 5th rib. No acute rib fracture.", {"Rib, denied"}),
        ("Fracture of the left 5th rib. No displaced rib fracture.", set()),
        ("Fracture of the left 5th rib. No other rib fracture.", set()),
        ("Acromion fracture on the left. No acute scapula fracture.", set()),
    ],
)
def test_what_is_denied_beside_a_fracture_is_coded_where_it_is_apart(
    text: str, denied: set[str]
) -> None:
    """A code that a reader might take for a denial of the fracture itself is not written."""
    made = build(reports.source(), Outcome(text=text, findings=parse(text)), ALGORITHM, ORDER)
    found = {
        reports.values(group, "112039")[0]
        for group in reports.items(reports.read(made.content))
        if reports.name(group) == "125007"
        and reports.values(group, "125605004") == [codes.ABSENT.value]
    }
    assert found == denied


@pytest.mark.parametrize("seed", [3, 4])
def test_no_report_denies_what_it_finds(seed: int) -> None:
    """Of no text a place, or what holds it, is both fractured and without fracture."""
    for text in generated(60, seed):
        found = parse(text)
        for absence in reading.read(Outcome(text=text, findings=found), ALGORITHM).beside:
            for place in absence.places:
                for fracture in found.fractures:
                    same = place.bone == fracture.bone
                    side = place.side in (None, "bilateral", fracture.side)
                    number = place.number in (None, fracture.number)
                    ages = set(absence.qualifiers) & set(codes.AGES)
                    assert not (same and side and number and not (ages - {fracture.age}))
