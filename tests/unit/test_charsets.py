"""A name in any character set is written as the same name in UTF-8."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import pytest
import reports
from pydicom import Dataset, dcmread
from pydicom.data import get_charset_files
from pydicom.filereader import read_dataset
from reports import ALGORITHM, CASES, ORDER

from dicom_node.standard.header import read_header
from worker.image import part10
from worker.report import header
from worker.report.sr import build

# Written here by hand from PS3.5 annexes H to K and the samples' own descriptions.
NAMES = {
    "chrArab.dcm": "قباني^لنزار",
    "chrFren.dcm": "Buc^Jérôme",
    "chrFrenMulti.dcm": "Buc^Jérôme",
    "chrGerm.dcm": "Äneas^Rüdiger",
    "chrGreek.dcm": "Διονυσιος",
    "chrH31.dcm": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "chrH32.dcm": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "chrHbrw.dcm": "שרון^דבורה",
    "chrI2.dcm": "Hong^Gildong=洪^吉洞=홍^길동",
    "chrJapMulti.dcm": "やまだ^たろう",
    "chrJapMultiExplicitIR6.dcm": "やまだ^たろう",
    "chrKoreanMulti.dcm": "김희중",
    "chrRuss.dcm": "Люкceмбypг",
    "chrX1.dcm": "Wang^XiaoDong=王^小東",
    "chrX2.dcm": "Wang^XiaoDong=王^小东",
}
ENCODED = {
    "ISO_IR 100": ("Müller^Jürgen", "latin-1"),
    "ISO_IR 101": ("Dvořák^Přemysl", "iso8859-2"),
    "ISO_IR 144": ("Иванова^Анна", "iso8859-5"),
    "ISO_IR 192": ("山田^太郎", "utf-8"),
    "GB18030": ("王^小东", "gb18030"),
    "GBK": ("王^小东", "gbk"),
    "ISO_IR 13": ("ﾔﾏﾀﾞ^ﾀﾛｳ", "shift_jis"),
}


def reread(path: Path) -> str:
    """Return the patient's name in the report about the image at `path`."""
    return str(
        reports.read(build(dcmread(path), CASES["none"], ALGORITHM, ORDER).content).PatientName
    )


SAMPLES = [path for path in get_charset_files("chr*.dcm") if "SQEncoding" not in path]
"""pydicom's own, but for two that hold a lone sequence and no patient."""


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: Path(path).name)
def test_the_name_of_each_sample_survives(path: str) -> None:
    name = Path(path).name
    assert name in NAMES
    assert reread(Path(path)) == NAMES[name]


def test_the_name_of_each_shared_file_survives(shared_data: Path) -> None:
    paths = sorted((shared_data / "charsets").glob("*.dcm"))
    assert {path.name: reread(path) for path in paths} == {p.name: NAMES[p.name] for p in paths}


@pytest.mark.parametrize("charset", list(ENCODED))
def test_a_name_is_read_in_the_character_set_of_its_image(charset: str) -> None:
    name, codec = ENCODED[charset]
    source = reports.source(PatientName=None, SpecificCharacterSet="ISO_IR 192")
    source.SpecificCharacterSet = charset
    source.PatientName = name
    again = reports.again(source)
    assert name.encode(codec).split(b"^")[0] in again["PatientName"].value.original_string
    ds = reports.read(build(again, CASES["none"], ALGORITHM, ORDER).content)
    assert (ds.PatientName, ds.SpecificCharacterSet) == (name, "ISO_IR 192")


def test_the_escape_sequences_of_simplified_chinese_are_removed() -> None:
    """PS3.5 K.3, ISO 2022 IR 58: pydicom 3.0.2 keeps them in the name."""
    source = reports.source(SpecificCharacterSet=["", "ISO 2022 IR 58"], PatientName="X")
    raw = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="
    buffer = reports.as_bytes(source).replace(b"PN\x02\x00X ", _element(raw))
    ds = reports.read(build(reports.read(buffer), CASES["none"], ALGORITHM, ORDER).content)
    assert str(ds.PatientName).rstrip("=") == "Zhang^XiaoDong=张^小东"


def _element(raw: bytes) -> bytes:
    padded = raw + b" " * (len(raw) % 2)
    return b"PN" + len(padded).to_bytes(2, "little") + padded


@pytest.mark.parametrize("charset", [None, "", "ISO_IR 6"])
def test_names_without_a_character_set_survive(charset: str | None) -> None:
    source = reports.source(SpecificCharacterSet=charset, PatientName="Doe^Jane")
    assert header.text(header.read(source).common, "PatientName") == "Doe^Jane"


@pytest.mark.filterwarnings("ignore:Unknown encoding")
def test_an_unknown_character_set_still_gives_a_report() -> None:
    source = reports.source(SpecificCharacterSet="ISO_IR 999", PatientName="Doe^Jane")
    ds = reports.read(build(source, CASES["none"], ALGORITHM, ORDER).content)
    assert ds.PatientName == "Doe^Jane"


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(
    ("charset", "meant"),
    [
        ("ISO IR 192", "Zoë-7"),
        ("ISO-IR_192", "Zoë-7"),
        (" ISO_IR 192", "Zoë-7"),
        ("ISO_IR 192 \\ISO 2022 IR 87", "Zoë-7"),
        ("utf-8", "Zoë-7"),
        ("punycode", "ZoÃ«-7"),
        ("utf-16", "ZoÃ«-7"),
        ("hex", "ZoÃ«-7"),
        ("ISO_IR 999", "ZoÃ«-7"),
    ],
)
def test_node_and_worker_read_a_misspelled_or_made_up_character_set_alike(
    charset: str, meant: str
) -> None:
    """Else the node takes each result for one of another patient, and the job fails."""
    source = reports.source(SpecificCharacterSet="ISO_IR 192", PatientID="Zoë-7")
    content = _declare(charset, source)
    ours = read_header(BytesIO(content), source.file_meta.TransferSyntaxUID)
    theirs = header.read(part10.read(content)).common
    assert (ours["patient_id"], header.text(theirs, "PatientID")) == (meant, meant)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(
    ("charset", "written", "meant"),
    [
        ("ISO_IR 192\\ISO 2022 IR 87", b"\xc3\xab\x1b$B;3\x1b(B7", "ë;37"),
        ("ISO_IR 100", b"Zo\xeb\x1b7", "Zoë7"),
    ],
)
def test_node_and_worker_read_escapes_that_have_no_meaning_there_alike(
    charset: str, written: bytes, meant: str
) -> None:
    """UTF-8 goes without code extensions (PS3.3 C.12.1.1.2), and a lone escape is not text."""
    source = reports.source(SpecificCharacterSet="ISO_IR 192", PatientID="P" * len(written))
    content = _declare(charset, source).replace(b"P" * len(written), written)
    ours = read_header(BytesIO(content), source.file_meta.TransferSyntaxUID)
    theirs = header.read(part10.read(content)).common
    assert (ours["patient_id"], header.text(theirs, "PatientID")) == (meant, meant)


def _declare(charset: str, source: Dataset) -> bytes:
    """Return the file with another Specific Character Set, which pydicom would not write."""
    written = charset.encode()
    written += b" " * (len(written) % 2)
    head = b"CS" + len(written).to_bytes(2, "little")
    return reports.as_bytes(source).replace(b"CS\x0a\x00ISO_IR 192", head + written)


@pytest.mark.parametrize("charset", ["punycode", "utf_16", "unicode_escape", "cp1251", "\\idna"])
def test_a_data_set_and_its_items_are_decoded_by_defined_terms_alone(charset: str) -> None:
    """Of a codec of Python's own 900 KB took over a minute, in a query or in an image."""
    text = b"-" + b"9z" * 450_000 + b" "
    padded = charset.encode().ljust(len(charset) + len(charset) % 2)
    declared = b"\x08\x00\x05\x00CS" + struct.pack("<H", len(padded)) + padded

    def element(number: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack("<HH2sxxL", 0x0010, number, vr, len(value)) + value

    item = declared + element(0x0020, b"UT", text)
    item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(item)) + item
    content = declared + element(0x1002, b"SQ", item) + element(0x4000, b"UT", text)
    read = read_dataset(BytesIO(content), False, True)
    assert read.PatientComments == text.decode().rstrip()
    assert read.OtherPatientIDsSequence[0].PatientID == text.decode().rstrip()
