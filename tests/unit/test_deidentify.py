"""A de-identified header names nobody, whatever was written where, and a run says nothing of it."""

from __future__ import annotations

import io
import json
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, config, dcmread
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag

from dicom_node.base.errors import ConfigurationError, Rejected
from dicom_node.base.logs import silence_values
from dicom_node.standard.deidentify import (
    Profile,
    Pseudonyms,
    check_private,
    content_of,
    deidentify,
    quotes,
    read_key,
    texts_of,
    without,
)
from worker.cli import main
from worker.image.part10 import read
from worker.phantom.draw import instance

KEY = bytes(range(32))
NAMES = Pseudonyms(KEY)
# Table E.1-1 as the package dicom-anonymizer has it: an oracle that this project did not write.
TABLE = pytest.importorskip("dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c")


def put(ds: Dataset, tag: Any, vr: str, value: Any) -> None:
    ds[tag] = DataElement(tag, vr, value, validation_mode=config.IGNORE)


MARKS = re.compile(
    rb"QX[0-9A-Z_]+|QZ[0-9A-F]+|1\.2\.77[0-9]+|QCODE|QPRIVATE|QNUMBER|QSOURCE|QPREAM"
)


def found_in(content: bytes) -> set[bytes]:
    """The marks in some bytes."""
    return set(MARKS.findall(content))


@pytest.fixture(autouse=True)
def _values_are_not_printed() -> None:
    silence_values()


@cache
def drawn() -> bytes:
    return content_of(instance(3, 1))


def planted(is_small: bool = True) -> Dataset:
    """A radiograph with a mark in each text element of the data dictionary, nested and private."""
    ds = dcmread(io.BytesIO(drawn()))
    if is_small:
        ds.PixelData = bytes(8)
    for tag, (vrs, _, _, _, keyword) in DicomDictionary.items():
        vr = vrs.split()[0]
        if tag >> 16 in (0, 2, 0xFFFE) or keyword in ("SOPClassUID", "SpecificCharacterSet"):
            continue
        if vr in ("LO", "LT", "PN", "SH", "ST", "UC", "UT", "AE", "CS", "UR", "UN"):
            mark = f"QX{tag:08X}"
            put(ds, tag, vr, mark.encode() if vr == "UN" else mark)
        elif vr == "UI":
            mark = f"1.2.77{tag}.9"
            put(ds, tag, vr, mark)
        elif vr == "SQ" and keyword not in ("AnatomicRegionSequence", "ViewCodeSequence"):
            mark = f"QZ{tag:08X}"
            item = Dataset()
            put(item, 0x00100010, "PN", mark)
            put(item, 0x00080104, "LO", mark)
            put(item, 0x00280010, "US", 7)
            put(ds, tag, vr, [item])
        else:
            continue
    for keyword in ("AnatomicRegionSequence", "ViewCodeSequence"):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = "51185008", "SCT"
        item.CodeMeaning = f"QCODE{keyword}"[:64]
        setattr(ds, keyword, [item])
    put(ds, 0x00090010, "LO", "QPRIVATE CREATOR")
    put(ds, 0x00091001, "LT", "QPRIVATE TEXT")
    for tag, vr, value in (
        (0x00280030, "DS", b"QNUMBER\\QNUMBER "),
        (0x00200013, "IS", b"QNUMBER "),
    ):
        ds[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    ds.file_meta.SourceApplicationEntityTitle = "QSOURCEAE"
    ds.preamble = b"QPREAMBLE".ljust(128, b"\0")
    return ds


@pytest.mark.parametrize(
    "profile",
    [
        Profile(),
        Profile(dates="keep", descriptors="clean"),
        Profile(dates="remove", keep_private=("0019,ACME,10",)),
    ],
)
def test_no_planted_text_of_any_element_survives(profile: Profile) -> None:
    ds = planted()
    assert found_in(content_of(ds)) > {b"QNUMBER", b"QPRIVATE"}
    assert found_in(content_of(deidentify(ds, NAMES, profile))) == set()


def test_every_attribute_of_table_e_1_1_is_removed_or_replaced() -> None:
    ds = planted()
    made = deidentify(ds, NAMES)
    listed = {tag for name in dir(TABLE) if name.endswith("_TAGS") for tag in getattr(TABLE, name)}
    tags = {(t[0] << 16) + t[1] for t in listed if len(t) == 2}
    assert len(tags) > 500
    both = [tag for tag in tags if tag in made and tag in ds and ds[tag].value]
    same = [tag for tag in both if made[tag].value == ds[tag].value]
    assert same == []


def test_the_picture_and_what_it_is_read_by_stay() -> None:
    ds = instance(3, 1)
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", "PA"
    made = dcmread(io.BytesIO(content_of(deidentify(ds, NAMES))))
    for keyword in (
        "PixelData", "Rows", "BitsStored", "WindowCenter", "PhotometricInterpretation",
        "BodyPartExamined", "ViewPosition", "SOPClassUID", "Modality",
    ):  # fmt: skip
        assert made[keyword].value == ds[keyword].value, keyword
    assert made.PatientIdentityRemoved == "YES"
    assert made.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
    assert made.SOPInstanceUID == made.file_meta.MediaStorageSOPInstanceUID != ds.SOPInstanceUID


def test_a_code_keeps_its_published_meaning_and_no_other() -> None:
    ds = Dataset()
    known, own = Dataset(), Dataset()
    known.CodeValue, known.CodingSchemeDesignator = "T-D3000", "SRT"
    known.CodeMeaning = "of Jane Doe"
    own.CodeValue, own.CodingSchemeDesignator, own.CodeMeaning = "JANE", "99SITE", "Jane"
    ds.AnatomicRegionSequence = [known, own]
    made = deidentify(ds, NAMES)
    assert [item.CodeValue for item in made.AnatomicRegionSequence] == ["T-D3000"]
    assert "Doe" not in str(made)


def test_one_key_gives_the_same_names_in_every_run_and_another_key_others() -> None:
    again, other = Pseudonyms(KEY), Pseudonyms(bytes(32))
    ds = instance(3, 1)
    first, second = (deidentify(ds, names) for names in (NAMES, again))
    assert first == second
    assert deidentify(ds, other).PatientID != first.PatientID
    assert NAMES.patient(" 7 ") == NAMES.patient("7") != NAMES.patient("8")


@given(st.text("0123456789.", min_size=1, max_size=64))
def test_a_replaced_uid_is_legal(uid: str) -> None:
    made = NAMES.uid(uid)
    assert not made.strip(".") or (made.startswith("2.25.") and len(made) <= 64)


def test_dates_of_a_patient_move_together_and_their_distances_stay() -> None:
    def dated(study: str, day: str, time: str) -> Dataset:
        ds = Dataset()
        ds.PatientID, ds.StudyInstanceUID, ds.StudyDate, ds.StudyTime = "7", study, day, time
        return deidentify(ds, NAMES)

    first, second = dated("1.2.3", "20260101", "2330"), dated("1.2.4", "20260103", "001500.25")
    moments = [datetime.fromisoformat(f"{ds.StudyDate}T{ds.StudyTime}") for ds in (first, second)]
    assert (moments[1] - moments[0]).total_seconds() == 24 * 3600 + 45 * 60
    assert first.StudyDate < "20260101"
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"


@pytest.mark.parametrize("day", ["", "2026", "20261399", "00010101", "QX"])
def test_a_date_that_is_none_or_cannot_move_is_left_out(day: str) -> None:
    ds = Dataset()
    ds.PatientID = "7"
    put(ds, "StudyDate", "DA", day)
    assert deidentify(ds, NAMES).StudyDate == ""


def test_descriptions_keep_words_of_the_field_only() -> None:
    ds = Dataset()
    ds.StudyDescription = "Chest PA, Mr Miller, portable"
    assert deidentify(ds, NAMES, Profile(descriptors="clean")).StudyDescription == (
        "CHEST PA PORTABLE"
    )


def test_a_private_element_stays_where_it_is_named() -> None:
    ds = Dataset()
    block = ds.private_block(0x0019, "ACME", create=True)
    block.add_new(0x10, "DS", "4.5")
    block.add_new(0x11, "LO", "Miller")
    made = deidentify(ds, NAMES, Profile(keep_private=("0019,ACME,10",)))
    assert made.private_block(0x0019, "ACME")[0x10].value == 4.5
    assert "Miller" not in str(made)
    with pytest.raises(ValueError, match="group,creator,element"):
        check_private(["0018,ACME,10"])


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "below" / "key"
    key = read_key(path)
    assert read_key(path) == key
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="needs 32 bytes"):
        read_key(path)


def test_texts_of_a_header_are_found_in_sentences_and_taken_out() -> None:
    ds = Dataset()
    ds.PatientName, ds.PatientID = "Miller^Jane", "4711"
    hidden = set(texts_of(ds))
    assert quotes("the name MILLER stands there", hidden)
    assert without("Jane Miller, born 1960-01-02", hidden) == "[removed] [removed], born [removed]"
    assert not quotes("No fracture.", hidden)


PERSONAL = {
    "PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs", "AccessionNumber",
    "InstitutionName", "InstitutionAddress", "ReferringPhysicianName", "StudyInstanceUID",
    "SeriesInstanceUID", "SOPInstanceUID", "StationName", "DeviceSerialNumber", "OperatorsName",
    "PerformingPhysicianName", "StudyDescription", "SeriesDescription", "PatientComments",
    "PhysiciansOfRecord", "RequestingPhysician", "PerformedProcedureStepID", "StudyID",
    "ProtocolName", "FrameOfReferenceUID",
}  # fmt: skip
"""What names a person, a place or a machine, by this test's own list."""


def personal(ds: Dataset) -> set[bytes]:
    """The values of a header that must not be found elsewhere, as they are written."""
    found = set()
    for element in ds:
        value = element.value
        if element.keyword in PERSONAL or element.tag.is_private:
            parts = re.split(r"[\\^=]", value if isinstance(value, str) else str(value or ""))
            found |= {
                part.strip().encode() for part in parts if re.search(r"[A-Za-z]{3}|.{8}", part)
            }
    return found


def test_no_file_of_the_shared_data_keeps_a_name(shared_data: Path) -> None:
    looked = 0
    for path in sorted(shared_data.rglob("*")):
        if not path.is_file() or path.stat().st_size > 3_000_000 or path.suffix == ".md":
            continue
        try:
            ds = read(path.read_bytes())
        except Rejected:
            continue
        before = ds.get_item("PixelData") if "PixelData" in ds else None
        pixels = before.value if before is not None and isinstance(before.value, bytes) else b""
        try:
            marks = personal(ds)
        except (ValueError, TypeError, AttributeError, NotImplementedError, LookupError):
            continue  # a header that this test cannot read either
        content = content_of(deidentify(ds, NAMES)).replace(bytes(pixels), b"")
        assert {mark for mark in marks if mark in content} == set(), path.name
        looked += 1
    assert looked > 20


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run over planted images, an odd picture and a file with a name in it."""
    base = tmp_path_factory.mktemp("privacy")
    folder, out = base / "DOE_JANE", base / "out"
    folder.mkdir()
    ds = planted(is_small=False)
    for keyword in ("ImageType", "BodyPartExamined", "ViewPosition", "PatientOrientation",
                    "PhotometricInterpretation", "Modality", "PresentationIntentType",
                    "PresentationLUTShape", "VOILUTFunction", "ShutterShape",
                    "PatientSpeciesDescription", "RescaleType", "ModalityLUTSequence",
                    "VOILUTSequence", "ViewCodeSequence", "ModalityLUTType"):  # fmt: skip
        clean = instance(3, 1)
        if keyword in clean:
            ds[keyword] = clean[keyword]
        elif keyword in ds:
            del ds[keyword]
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(folder / "MILLER_4711.dcm", enforce_file_format=True)
    ds.BodyPartExamined = "QXKNEE"
    ds.save_as(folder / "refused.dcm", enforce_file_format=True)
    (folder / "QX_notes.foo").write_text("QX")
    key = base / "key"
    err = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", err)
        patch.setattr("sys.stderr", err)
        code = main(["describe", str(folder), "--out", str(out), "--deidentify", "--images",
                     "--key", str(key)])  # fmt: skip
    assert code == 1
    return out, err.getvalue()


def test_no_file_of_a_deidentified_run_has_a_planted_text(
    shared_run: tuple[Path, str],
) -> None:
    out, said = shared_run
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) >= 5
    for path in files:
        content = path.read_bytes() + str(path.relative_to(out)).encode()
        assert found_in(content) == set(), path.name
        assert not any(name in content for name in (b"MILLER", b"DOE_JANE")), path.name
    assert found_in(said.encode()) == set()
    assert "MILLER" not in said


def test_a_deidentified_run_answers_and_matches_labels_by_the_key(
    shared_run: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, _ = shared_run
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert sorted("text" in row for row in rows) == [False, True]
    assert next(row["reason"] for row in rows if "reason" in row).startswith("not-chest: Details")
    labels = tmp_path / "labels.csv"
    labels.write_text("file,fracture\nMILLER_4711.dcm,1\n")
    key = ["--key", str(out.parent / "key")]
    assert main(["evaluate", str(out), "--labels", str(labels), *key]) == 0
    assert "MILLER" not in capsys.readouterr().out


@pytest.mark.parametrize("label", ["0", "1"], ids=["as a reader", "against a reader"])
def test_no_page_of_a_deidentified_run_has_a_planted_text(
    shared_run: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], label: str
) -> None:
    """Wrong cases, groups, pictures and the manifest stand in the page."""
    pytest.importorskip("matplotlib")
    out, _ = shared_run
    labels, page = tmp_path / "labels.csv", tmp_path / "page.html"
    labels.write_text(f"file,fracture,text\nMILLER_4711.dcm,{label},No fracture.\n")
    known = ["--labels", str(labels), "--key", str(out.parent / "key"), "--html", str(page)]
    for act in (["evaluate", str(out), "--pictures"], ["compare", str(out), str(out)]):
        assert main([*act, *known]) == 0
        content = page.read_bytes()
        assert len(content) > 5_000
        assert found_in(content) == set()
        assert b"MILLER" not in content
    said = capsys.readouterr()
    assert found_in((said.out + said.err).encode()) == set()
    assert "MILLER" not in said.out + said.err
