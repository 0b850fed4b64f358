"""Any image's header becomes a legal one, and what the source knows is kept."""

from __future__ import annotations

import logging
import string
import warnings

import pytest
import reports
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from reports import ALGORITHM, CASES, ORDER

from dicom_node.base.errors import NotUnderstood
from worker.report import header
from worker.report.sr import build

TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
]


def common(**elements: object) -> Dataset:
    return header.read(reports.source(**elements)).common


def item(**elements: object) -> Dataset:
    ds = Dataset()
    ds.update(elements)
    return ds


@pytest.mark.parametrize("keyword", TYPE_2)
def test_an_absent_type_2_element_becomes_empty(keyword: str) -> None:
    source = reports.source(**{keyword: None})
    ds = reports.read(build(source, CASES["none"], ALGORITHM, ORDER).content)
    assert keyword in ds
    assert not ds[keyword].value


@pytest.mark.parametrize(
    ("sex", "legal"), [("M", "M"), ("O", "O"), ("U", ""), ("X", ""), ("m", "")]
)
def test_only_defined_sexes_are_written(sex: str, legal: str) -> None:
    assert header.text(common(PatientSex=sex), "PatientSex") == legal


@pytest.mark.parametrize(
    ("time", "legal"),
    [
        ("101500", "101500"),
        ("1015", "1015"),
        ("10:15:00", "101500"),
        ("101500.123", "101500.123"),
        ("235960", "235960"),
        ("240000", ""),
        ("10h15", ""),
        ("", ""),
    ],
)
def test_a_time_is_repaired_or_left_empty(time: str, legal: str) -> None:
    assert header.text(common(StudyTime=time), "StudyTime") == legal


@pytest.mark.parametrize(
    ("date", "legal"),
    [
        ("20260131", "20260131"),
        ("2026.01.31", "20260131"),
        ("2026-01-31", "20260131"),
        ("20260231", ""),
        ("1950", ""),
        ("2026W014", ""),
        ("unknown", ""),
    ],
)
def test_a_date_is_repaired_or_left_empty(date: str, legal: str) -> None:
    ds = common(PatientBirthDate=date, StudyDate=date)
    assert header.text(ds, "PatientBirthDate") == header.text(ds, "StudyDate") == legal


def test_an_illegal_identifier_becomes_legal_and_the_report_says_so() -> None:
    """No source makes an invalid report: over-long and two values are legal nowhere."""
    long = "A" * 70
    source = reports.source(AccessionNumber=long, PatientID="a\\b", PatientName=long, StudyID="S")
    evidence = header.read(source)
    assert header.text(evidence.common, "AccessionNumber") == "A" * 16
    assert header.text(evidence.common, "PatientName") == "A" * 64
    assert header.text(evidence.common, "PatientID") == "a/b"
    assert evidence.changes == (
        "The image's Patient's Name breaks a rule of DICOM and was changed.",
        "The image's Patient ID breaks a rule of DICOM and was changed.",
        "The image's Accession Number breaks a rule of DICOM and was changed.",
    )
    ds = reports.read(build(source, CASES["none"], ALGORITHM, ORDER).content)
    assert set(evidence.changes) <= set(reports.values(ds, "121106"))


def test_a_legal_header_is_left_as_it_is() -> None:
    assert header.read(reports.source()).changes == ()


@pytest.mark.filterwarnings("ignore:Failed to decode byte string")
def test_a_name_that_does_not_fit_its_character_set_is_named() -> None:
    whole = reports.as_bytes(
        reports.source(PatientName="Mueller^Joerg", SpecificCharacterSet="ISO_IR 192")
    )
    latin = whole.replace(b"Mueller^Joerg", "M\xfcller ^J\xf6rg ".encode("latin-1"))
    unnamed = latin.replace(b"ISO_IR 192", b"          ")

    assert list(header.read(reports.read(latin)).changes) == [
        "The image's Patient's Name does not fit its Specific Character Set."
    ]
    assert list(header.read(reports.read(unnamed)).changes) == [
        "The image names no Specific Character Set for its Patient's Name."
    ]


def test_an_instance_of_two_studies_gets_no_report() -> None:
    two = reports.read(reports.as_bytes(reports.source()).replace(b"1.2.3\0", b"1.2\\3."))

    with pytest.raises(NotUnderstood, match="several values of StudyInstanceUID"):
        header.read(two)


@pytest.mark.parametrize("offset", ["+1500", "0100", "Z", "+01:00"])
def test_an_illegal_time_zone_is_left_out(offset: str) -> None:
    assert "TimezoneOffsetFromUTC" not in common(TimezoneOffsetFromUTC=offset)


def test_an_illegal_optional_value_is_made_legal() -> None:
    assert common(StudyDescription="d" * 65).StudyDescription == "d" * 64
    assert common(StudyDescription="Chest").StudyDescription == "Chest"


def test_a_code_or_an_issuer_with_control_characters_is_left_out() -> None:
    """pydicom's own check lets them pass; a code that is changed would be another code."""
    code = item(CodeValue="a\tb", CodingSchemeDesignator="L", CodeMeaning="Chest")
    issuer = item(LocalNamespaceEntityID="RIS\x01")
    ds = common(ProcedureCodeSequence=[code], IssuerOfAccessionNumberSequence=[issuer])
    assert "ProcedureCodeSequence" not in ds
    assert "IssuerOfAccessionNumberSequence" not in ds


@pytest.mark.parametrize("uid", ["0", "1", "0.0", "20261399", "1.02", "3.1.2", "1.2.", "a"])
def test_a_request_that_names_no_study_is_one_of_this_study(uid: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = reports.source(RequestAttributesSequence=[item(StudyInstanceUID=uid)])
    (request,) = header.read(source).requests
    assert request.StudyInstanceUID == "1.2.3"


def test_a_name_that_pydicom_trips_over_is_read() -> None:
    """Empty components in ISO 2022 IR 87 alone: an IndexError in pydicom 3.0.2."""
    source = reports.source()
    source.SpecificCharacterSet = ["ISO 2022 IR 87", "ISO 2022 IR 13"]
    raw = b"Doe^Jane=^=^"
    source._dict[Tag("PatientName")] = RawDataElement(
        Tag("PatientName"), "PN", len(raw), raw, 0, False, True, True
    )
    assert header.text(header.read(source).common, "PatientName").startswith("Doe^Jane")


def test_other_attributes_of_the_patient_are_not_copied() -> None:
    assert "PatientAge" not in common(PatientAge="75")


def test_issuers_are_copied_where_they_are_legal() -> None:
    ds = common(
        IssuerOfPatientID="HOSPITAL",
        IssuerOfAccessionNumberSequence=[item(LocalNamespaceEntityID="RIS")],
        IssuerOfPatientIDQualifiersSequence=[
            item(UniversalEntityID="1.2.9", UniversalEntityIDType="ISO")
        ],
        OtherPatientIDsSequence=[
            item(PatientID="9", TypeOfPatientID="TEXT"),
            item(TypeOfPatientID="TEXT"),
            item(PatientID="8", TypeOfPatientID="TATTOO"),
        ],
    )
    assert ds.IssuerOfPatientID == "HOSPITAL"
    assert ds.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS"
    assert ds.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "1.2.9"
    assert [other.PatientID for other in ds.OtherPatientIDsSequence] == ["9"]
    assert "IssuerOfAccessionNumberSequence" not in common(
        IssuerOfAccessionNumberSequence=[item(UniversalEntityID="1.2.9")]
    )


def test_each_request_of_the_image_is_answered() -> None:
    asked = [
        item(RequestedProcedureID="P1", RequestedProcedureDescription="Thorax"),
        item(RequestedProcedureID="P2", AccessionNumber="A200", StudyInstanceUID="1.2.77"),
    ]
    source = reports.source(RequestAttributesSequence=asked)
    ds = reports.read(build(source, CASES["none"], ALGORITHM, ORDER).content)
    first, second = ds.ReferencedRequestSequence
    assert (first.RequestedProcedureID, first.AccessionNumber) == ("P1", "A100")
    assert (first.RequestedProcedureDescription, first.StudyInstanceUID) == ("Thorax", "1.2.3")
    assert (second.AccessionNumber, second.StudyInstanceUID) == ("A200", "1.2.77")


def test_a_request_is_made_from_the_accession_number() -> None:
    (request,) = header.read(reports.source()).requests
    assert request.AccessionNumber == "A100"


def test_without_accession_number_there_is_no_request() -> None:
    assert header.read(reports.source(AccessionNumber="")).requests == ()
    ds = reports.read(
        build(reports.source(AccessionNumber=None), CASES["none"], ALGORITHM, ORDER).content
    )
    assert "ReferencedRequestSequence" not in ds


ODD = st.text(alphabet=string.printable + "äя骨\x1b", max_size=80)


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(TYPE_2, ODD)))
def test_an_odd_header_still_gets_a_report(elements: dict[str, str]) -> None:
    """Values that a modality may have written by hand; bytes are decoded as Latin-1 here."""
    source = reports.source()
    for keyword, value in elements.items():
        header.put(source, keyword, value)
    ds = reports.read(build(source, CASES["none"], ALGORITHM, ORDER).content)
    assert ds.PatientSex in {"M", "F", "O", ""}


def test_no_name_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """highdicom and pydicom print the values that they doubt; a warning would fail this test."""
    caplog.set_level(logging.DEBUG)
    source = reports.source(PatientName="SECRETNAME", PatientBirthDate="1950", PatientSex="X")
    build(source, CASES["fracture"], ALGORITHM, ORDER)
    assert "SECRETNAME" not in caplog.text
    assert "1950" not in caplog.text
