"""Independent validators pass every report, and together they catch what breaks one."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import headers
import pytest
import reports
from peers import need
from pydicom import dcmread, dcmwrite
from pydicom.data import get_charset_files
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.dataset import Dataset as Item
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from reports import ALGORITHM, CASES, ORDER
from strange_texts import HOSTILE, generated

from dicom_node.base.errors import ChexFractError
from worker.report import codes, header, validate
from worker.report.boxes import Box
from worker.report.renderings import BUILDERS, render
from worker.report.sr import SOP_CLASSES, Algorithm, Outcome, build
from worker.text.findings import parse

pytestmark = pytest.mark.peer


@pytest.fixture(autouse=True)
def dicom3tools() -> None:
    """Every test here needs David Clunie's dicom3tools."""
    need("dciodvfy")
    need("dcentvfy")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The source as a file."""
    return keep(tmp_path / "image.dcm", reports.as_bytes(reports.source()))


def keep(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def faults(path: Path, image: Path) -> tuple[str, ...]:
    """Return the errors that all validators but PixelMed find."""
    verdicts = [
        validate.codes_of(path, dcmread(path)),
        validate.dciodvfy(path),
        validate.dcentvfy(path, image),
    ]
    return tuple(error for verdict in verdicts for error in verdict.errors)


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("sop_class", list(SOP_CLASSES))
def test_every_case_passes_in_every_sop_class(
    case: str, sop_class: str, image: Path, tmp_path: Path
) -> None:
    made = build(dcmread(image), CASES[case], ALGORITHM, ORDER, sop_class)
    path = keep(tmp_path / "report.dcm", made.content)
    assert faults(path, image) == ()
    assert subprocess.run([need("dsrdump"), path], capture_output=True).returncode == 0


BOXES = (
    Box("left seventh rib fracture", 1100.25, 700.0, 1300.5, 900.0),
    Box("T8 fracture", 700.0, 900.0, 1e9, 1e9),
    Box("rib fracture", 0.0, 0.0, 30.0, 40.0),
    Box("rib fracture", 5000.0, 5000.0, 6000.0, 6000.0),
    Box("pleural effusion", 1.0, 2.0, 3.0, 4.0),
)
"""At its place, over the edge, without a place, outside, and of something else."""
WITH_BOXES = replace(CASES["fracture"], boxes=BOXES)


@pytest.mark.parametrize("sop_class", list(SOP_CLASSES))
def test_regions_pass_in_every_sop_class(sop_class: str, image: Path, tmp_path: Path) -> None:
    made = build(dcmread(image), WITH_BOXES, ALGORITHM, ORDER, sop_class)
    path = keep(tmp_path / "report.dcm", made.content)
    assert faults(path, image) == ()
    dumped = subprocess.run([need("dsrdump"), path], capture_output=True, check=True).stdout
    assert dumped.count(b"SCOORD") == 3


@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("kind", list(BUILDERS))
def test_every_second_object_passes(case: str, kind: str, image: Path, tmp_path: Path) -> None:
    made = render(kind, dcmread(image), None, CASES[case], ALGORITHM, ORDER)  # type: ignore[arg-type]
    if made is None:
        assert (kind, case) in {("ko", other) for other in CASES if other != "fracture"}
        return
    assert faults(keep(tmp_path / "object.dcm", made.content), image) == ()


@pytest.mark.parametrize("is_signed", [0, 1])
@pytest.mark.parametrize(
    "grey",
    [
        header.Grey(False, rescale=(2.0, -1000.0), window=(512.123456789, 1024.5, "LINEAR_EXACT")),
        header.Grey(True, voi_lut=(65000, tuple(range(0, 1024, 4)))),
        header.Grey(False, modality_lut=(0, (0, 70, 300)), window=(150.0, 300.0, "SIGMOID")),
        header.Grey(False, voi_lut=(0, (0,) * 65535 + (65535,))),
    ],
)
def test_an_overlay_that_shows_what_the_model_saw_passes(
    grey: header.Grey, is_signed: int, tmp_path: Path
) -> None:
    source = reports.source(PixelRepresentation=is_signed)
    image = keep(tmp_path / "image.dcm", reports.as_bytes(source))
    made = render("gsps", source, None, CASES["fracture"], ALGORITHM, ORDER, grey)
    assert made is not None
    assert faults(keep(tmp_path / "overlay.dcm", made.content), image) == ()


def test_every_option_passes(image: Path, tmp_path: Path) -> None:
    """Demonstration, serial number, re-run and a time zone, all at once."""
    source = reports.source(
        TimezoneOffsetFromUTC="+0900",
        StudyDescription="Chest",
        IssuerOfPatientID="HOSPITAL",
        IssuerOfAccessionNumberSequence=[_item(LocalNamespaceEntityID="RIS")],
        OtherPatientIDsSequence=[_item(PatientID="9", TypeOfPatientID="TEXT")],
        RequestAttributesSequence=[_item(RequestedProcedureID="P1", AccessionNumber="A1")],
    )
    algorithm = Algorithm("phantom", "0.1.0+phantom-1", ("prompt=Обзор",), "ru", True, "Apache-2.0")
    first = build(source, CASES["fracture"], algorithm, ORDER)
    before = {
        "study_instance_uid": "1.2.3",
        "series_instance_uid": first.series_instance_uid,
        "sop_class_uid": first.sop_class_uid,
        "sop_instance_uid": first.sop_instance_uid,
    }
    order = ORDER.model_validate(
        {**ORDER.model_dump(), "generation": 2, "predecessor": before, "serial_number": "SN-1"}
    )
    image = keep(tmp_path / "source.dcm", reports.as_bytes(source))
    made = build(source, CASES["fracture"], algorithm, order)
    assert faults(keep(tmp_path / "again.dcm", made.content), image) == ()


def _item(**elements: object) -> Item:
    item = Item()
    item.update(elements)
    return item


@pytest.mark.parametrize(
    "path",
    [path for path in get_charset_files("chr*.dcm") if "SQEncoding" not in path],
    ids=lambda path: Path(path).name,
)
def test_a_report_in_utf8_passes_whatever_the_images_character_set(
    path: str, tmp_path: Path
) -> None:
    made = build(dcmread(path), CASES["fracture"], ALGORITHM, ORDER)
    assert faults(keep(tmp_path / "report.dcm", made.content), Path(path)) == ()


@pytest.mark.parametrize("name", ["chrArab", "chrFren", "chrGreek", "chrHbrw", "chrRuss", "chrX2"])
def test_dcmtk_reads_the_same_name_in_image_and_report(name: str, tmp_path: Path) -> None:
    """An independent decoder: dcmconv turns the image's character set into UTF-8."""
    program = shutil.which("dcmconv", path="/usr/bin:/usr/local/bin") or need("storescu")
    (path,) = get_charset_files(f"{name}.dcm")
    converted = tmp_path / "utf8.dcm"
    subprocess.run([program, "+U8", path, converted], check=True, capture_output=True)
    made = build(dcmread(path), CASES["none"], ALGORITHM, ORDER)
    assert dcmread(converted).PatientName == reports.read(made.content).PatientName


ILLEGAL_IDENTIFIERS = {"bad_sequence.dcm", "cr_dental_panoramic_modality-lut_mono1.dcm"}
"""Their own UIDs have letters or leading zeros; a report cannot refer to them otherwise."""


def test_the_report_of_every_real_image_passes(shared_data: Path, tmp_path: Path) -> None:
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(shared_data.glob("*/*.dcm")):
        try:
            source = dcmread(path, stop_before_pixels=True)
            both = [build(source, o, ALGORITHM, ORDER) for o in (CASES["rejected"], WITH_BOXES)]
        except (ChexFractError, InvalidDicomError):
            continue
        kept = [keep(tmp_path / f"{i}-{path.name}", made.content) for i, made in enumerate(both)]
        found[path.name] = tuple(fault for report in kept for fault in faults(report, path))
    assert {name for name, errors in found.items() if errors} == ILLEGAL_IDENTIFIERS
    assert len(found) > 40


ODD = {
    "PatientSex": ["", "M", "U", "X", "male", "f"],
    "PatientBirthDate": ["", "1950", "19500230", "1950.02.03", "???"],
    "StudyDate": ["", "20260102", "2026-01-02", "yesterday"],
    "StudyTime": ["", "1015", "10:15:00", "25", "10.15", "101500.5"],
    "AccessionNumber": ["", "A1"],
    "StudyID": ["", "1"],
    "PatientName": ["", "DOE", "Doe^Jane^^^", "山田^太郎", "A=B=C", "Δοε^Ιανε"],
    "ReferringPhysicianName": ["", "^^^^", "House^G"],
    "StudyDescription": ["Chest", "d" * 65, "Thorax\\PA"],
    "TimezoneOffsetFromUTC": ["+0000", "-1145", "+9999", "UTC"],
    "WindowCenter": ["2048", "0x10", "2048.123456789012345"],
    "WindowWidth": ["4096", "-1"],
    "RescaleSlope": ["1", "one"],
    "RescaleIntercept": ["0"],
}


def put_raw(ds: Dataset, keyword: str, value: str) -> None:
    """Set an element's bytes as a modality might have sent them."""
    tag, raw = Tag(keyword), value.encode()
    raw += b" " * (len(raw) % 2)
    ds[tag] = RawDataElement(tag, dictionary_VR(tag), len(raw), raw, 0, False, True)


@pytest.mark.parametrize("seed", range(20))
def test_the_reports_of_an_odd_image_pass(seed: int, tmp_path: Path) -> None:
    """Each element is present, absent or unusual by chance; the image itself may be illegal."""
    chance = random.Random(seed)
    source = reports.source()
    for keyword, choices in ODD.items():
        if chance.random() < 0.3:
            source.pop(keyword, None)
        else:
            put_raw(source, keyword, chance.choice(choices))
    image = keep(tmp_path / "image.dcm", reports.as_bytes(source))
    case = chance.choice(list(CASES))
    kind = chance.choice(list(BUILDERS))
    made = [build(source, CASES[case], ALGORITHM, ORDER)]
    made.append(render(kind, source, None, CASES[case], ALGORITHM, ORDER))  # type: ignore[arg-type]
    for i, document in enumerate(filter(None, made)):
        assert faults(keep(tmp_path / f"{i}.dcm", document.content), image) == ()


@pytest.mark.parametrize("sop_class", list(SOP_CLASSES))
def test_the_reports_of_generated_texts_pass(sop_class: str, image: Path, tmp_path: Path) -> None:
    source = dcmread(image)
    for text in generated(48)[list(SOP_CLASSES).index(sop_class) :: 3]:
        outcome = Outcome(text=text, findings=parse(text))
        made = build(source, outcome, ALGORITHM, ORDER, sop_class)
        assert faults(keep(tmp_path / "report.dcm", made.content), image) == (), repr(text)


@pytest.mark.parametrize("kind", list(BUILDERS))
@pytest.mark.parametrize("what", list(HOSTILE))
def test_a_hostile_text_gives_a_valid_object(
    what: str, kind: str, image: Path, tmp_path: Path
) -> None:
    outcome = Outcome(text=HOSTILE[what], findings=parse(HOSTILE[what]))
    made = render(kind, dcmread(image), None, outcome, ALGORITHM, ORDER)  # type: ignore[arg-type]
    if made is not None:
        assert faults(keep(tmp_path / "object.dcm", made.content), image) == ()


# The mutations of a valid report, each caught by at least one validator.


def _root(ds: Dataset, concept: str) -> Dataset:
    return next(item for item in reports.items(ds) if reports.name(item) == concept)


def _no_continuity(ds: Dataset) -> None:
    del ds.ContinuityOfContent


def _no_evidence(ds: Dataset) -> None:
    del ds.CurrentRequestedProcedureEvidenceSequence


def _other_value_type(ds: Dataset) -> None:
    _root(ds, "111017").ValueType = "NUM"


def _empty_text(ds: Dataset) -> None:
    _root(ds, "111001").TextValue = ""


def _no_concept_code(ds: Dataset) -> None:
    del _root(ds, "111017").ConceptCodeSequence


def _long_meaning(ds: Dataset) -> None:
    _root(ds, "111017").ConceptCodeSequence[0].CodeMeaning = "x" * 80


def _no_patient_id(ds: Dataset) -> None:
    del ds.PatientID


def _malformed_series_uid(ds: Dataset) -> None:
    header.put(ds, "SeriesInstanceUID", "1.2.abc")


def _illegal_completion_flag(ds: Dataset) -> None:
    header.put(ds, "CompletionFlag", "DONE")


def _verified_by_nobody(ds: Dataset) -> None:
    ds.VerificationFlag = "VERIFIED"


def _other_name(ds: Dataset) -> None:
    ds.PatientName = "Else^Someone"


def _other_study_date(ds: Dataset) -> None:
    ds.StudyDate = "20010101"


def _image_outside_evidence(ds: Dataset) -> None:
    image = next(item for item in reports.items(ds) if item.ValueType == "IMAGE")
    image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3.999"


def _contradicting_meaning(ds: Dataset) -> None:
    _root(ds, "272741003").ConceptCodeSequence[0].CodeMeaning = "Right"


@pytest.mark.parametrize(
    "mutate",
    [
        _no_continuity,
        _no_evidence,
        _other_value_type,
        _empty_text,
        _no_concept_code,
        _long_meaning,
        _no_patient_id,
        _malformed_series_uid,
        _illegal_completion_flag,
        _verified_by_nobody,
        _other_name,
        _other_study_date,
        _image_outside_evidence,
        _contradicting_meaning,
    ],
)
def test_a_mutation_is_caught(
    mutate: Callable[[Dataset], None], image: Path, tmp_path: Path
) -> None:
    ds = reports.read(build(dcmread(image), CASES["fracture"], ALGORITHM, ORDER).content)
    mutate(ds)
    path = tmp_path / "mutant.dcm"
    dcmwrite(path, ds, enforce_file_format=True)
    assert faults(path, image) != ()


def _wrong_relationship(ds: Dataset) -> None:
    _root(ds, "121005").RelationshipType = "CONTAINS"


def _value_outside_context_group(ds: Dataset) -> None:
    code = _root(ds, "272741003").ConceptCodeSequence[0]
    code.CodingSchemeDesignator = codes.DEVICE.scheme_designator
    code.CodeValue, code.CodeMeaning = codes.DEVICE.value, codes.DEVICE.meaning


def _no_device_observer(ds: Dataset) -> None:
    ds.ContentSequence = [item for item in ds.ContentSequence if reports.name(item) != "121012"]


def _wrong_template(ds: Dataset) -> None:
    ds.ContentTemplateSequence[0].TemplateIdentifier = "9999"


@pytest.fixture(scope="module")
def pixelmed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, validate.ValidatorVerdict]:
    """PixelMed's verdicts, two at a time: each takes seconds of a Java machine's start."""
    need("java")
    if not validate.PIXELMED.is_file():
        need("pixelmed.jar")
    folder = tmp_path_factory.mktemp("pixelmed")
    source, names = reports.source(), {}
    made = {
        "fracture": build(source, CASES["fracture"], ALGORITHM, ORDER),
        "regions": build(source, WITH_BOXES, ALGORITHM, ORDER),
        "text": render("basic-text", source, None, CASES["unclear"], ALGORITHM, ORDER),
    }
    for name, document in made.items():
        assert document is not None
        names[name] = keep(folder / f"{len(names)}.dcm", document.content)
    for name, mutations in {
        "mutant": (_wrong_relationship, _value_outside_context_group, _no_device_observer),
        "template": (_wrong_template,),
    }.items():
        assert made["fracture"] is not None
        ds = reports.read(made["fracture"].content)
        for mutate in mutations:
            mutate(ds)
        names[name] = folder / f"{len(names)}.dcm"
        dcmwrite(names[name], ds, enforce_file_format=True)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(validate.pixelmed, names.values()), strict=True))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["fracture", "regions", "text"])
def test_pixelmed_finds_no_error(name: str, pixelmed: dict[str, validate.ValidatorVerdict]) -> None:
    """The criterion of the IHE Connectathon for AI Results; ``tests.sweep`` asks it of all."""
    assert (pixelmed[name].passed, pixelmed[name].errors) == (True, ())


BEYOND_TEMPLATE = ("121106", "125605004", "408729009", "263502005")
"""Comment, presence, certainty and course in a group: TID 1501 of 2022 has no rows for them."""


@pytest.mark.timeout(600)
def test_pixelmed_warns_of_evaluations_and_comments_in_groups_only(
    pixelmed: dict[str, validate.ValidatorVerdict],
) -> None:
    for name in ("fracture", "regions"):
        warned = pixelmed[name].warnings
        assert [line for line in warned if not any(c in line for c in BEYOND_TEMPLATE)] == []
        assert all("Measurement Group" in line and "not in template" in line for line in warned)
    assert pixelmed["text"].warnings == ()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("concept", ["121005", "272741003", "121012"])
def test_pixelmed_catches_what_the_others_miss(
    concept: str, pixelmed: dict[str, validate.ValidatorVerdict]
) -> None:
    assert any(concept in error for error in pixelmed["mutant"].errors)


@pytest.mark.timeout(600)
def test_a_wrong_template_is_noticed_by_what_pixelmed_does_not_say(
    pixelmed: dict[str, validate.ValidatorVerdict],
) -> None:
    assert any("Found Root Template" in error for error in pixelmed["template"].errors)


@pytest.mark.filterwarnings("ignore")  # pydicom's, of the header itself
def test_no_header_makes_a_report_that_is_not_valid(tmp_path: Path) -> None:
    """Control characters, many values, none, other representations; more by ``tests.headers``."""
    assert list(headers.faults(range(41, 57), tmp_path)) == []


@pytest.mark.parametrize(("letters", "passes"), [(64, True), (65, False)])
def test_a_value_is_as_long_as_its_characters_are_many(
    letters: int, passes: bool, tmp_path: Path
) -> None:
    """dciodvfy counts bytes, so that it takes 64 Cyrillic letters for 128."""
    ds = reports.read(build(reports.source(), CASES["none"], ALGORITHM, ORDER).content)
    header.put(ds, "StudyDescription", "\u0416" * letters)
    path = keep(tmp_path / "report.dcm", reports.as_bytes(ds))
    assert validate.dciodvfy(path).passed == passes
