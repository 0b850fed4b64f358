"""Second objects show the same words, on paper, on the screen and over the image."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import reports
from arabic_reshaper.arabic_reshaper import HARAKAT_RE
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from reports import ALGORITHM, CASES, ORDER, TEXT

from dicom_node.base.errors import ConfigurationError
from worker.report import codes, header, page, reading, renderings
from worker.report.reading import storable
from worker.report.renderings import BUILDERS, render
from worker.report.sr import Algorithm, Outcome, build
from worker.text.findings import Findings, Presence, parse

PICTURE = np.tile(np.arange(256, dtype=np.uint8), (200, 1))
CASE_NAMES = list(CASES)


def rendered(kind: str, case: str = "fracture", **more: object) -> Dataset | None:
    """Return one second object, read again from its bytes."""
    arguments = {"source": reports.source(), "pixels": PICTURE, "order": ORDER, **more}
    arguments.setdefault("algorithm", ALGORITHM)
    arguments.setdefault("outcome", CASES[case])
    made = render(kind, **arguments)  # type: ignore[arg-type]
    return None if made is None else reports.read(made.content)


def shown(kind: str, case: str = "fracture", **more: object) -> Dataset:
    ds = rendered(kind, case, **more)
    assert ds is not None
    return ds


def bytes_of_all() -> bytes:
    """Return every second object of one job, one after the other."""
    made = [
        render(kind, reports.source(), PICTURE, CASES["fracture"], ALGORITHM, ORDER)  # type: ignore[arg-type]
        for kind in BUILDERS
    ]
    return b"".join(document.content for document in made if document is not None)


def test_two_processes_write_the_same_bytes_at_different_times() -> None:
    first = bytes_of_all()
    time.sleep(1.1)
    script = "import sys, test_renderings as t; sys.stdout.buffer.write(t.bytes_of_all())"
    unit = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{unit}{os.pathsep}{unit.parent / 'support'}"}
    again = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, env=environment
    )
    assert again.stdout == first


def test_threads_do_not_disturb_each_other() -> None:
    """A worker has several slots; the fonts are shared."""
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: bytes_of_all(), range(4)))
    assert set(made) == {bytes_of_all()}


def test_each_kind_has_its_series_and_stays_in_the_study() -> None:
    made = {kind: shown(kind) for kind in BUILDERS}
    assert {kind: ds.SeriesNumber for kind, ds in made.items()} == {
        "sc": 9002,
        "gsps": 9003,
        "ko": 9004,
        "pdf": 9005,
        "basic-text": 9006,
    }
    assert {ds.StudyInstanceUID for ds in made.values()} == {"1.2.3"}
    assert {str(ds.PatientName) for ds in made.values()} == {"Иванова^Анна"}
    report = build(reports.source(), CASES["fracture"], ALGORITHM, ORDER)
    uids = {report.series_instance_uid, *(ds.SeriesInstanceUID for ds in made.values())}
    assert len(uids) == 6


@pytest.mark.parametrize("kind", list(BUILDERS))
def test_a_demonstration_says_so_in_every_kind(kind: str) -> None:
    ds = shown(kind, algorithm=Algorithm("phantom", "0.1.0+phantom-1", demonstration=True))
    assert "DEMONSTRATION MODEL" in ds.SeriesDescription
    (equipment,) = ds.ContributingEquipmentSequence
    assert equipment.ManufacturerModelName.startswith("DEMONSTRATION MODEL phantom")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="video"):
        rendered("video")


# Basic Text SR


@pytest.mark.parametrize("case", CASE_NAMES)
def test_the_text_report_holds_text_and_disclaimer(case: str) -> None:
    ds = shown("basic-text", case)
    words = CASES[case].text
    assert reports.values(ds, "121071") == ([words] if words else [])
    assert "AI generated" not in reports.values(ds, "121077")[0]
    assert "AI generated, not reviewed" in reports.values(ds, "121075")[0]


def test_images_of_the_text_report_stand_below_texts_only() -> None:
    """OHIF shows nothing where an IMAGE stands directly below a container."""
    ds = shown("basic-text")
    parents = [item for item in [ds, *reports.items(ds)] if "ContentSequence" in item]
    with_image = [p for p in parents if any(c.ValueType == "IMAGE" for c in p.ContentSequence)]
    assert [parent.ValueType for parent in with_image] == ["TEXT"]


def test_the_text_wraps_because_its_section_is_continuous() -> None:
    sections = {reports.name(item): item for item in reports.items(shown("basic-text"))}
    assert sections["121070"].ContinuityOfContent == "CONTINUOUS"
    assert sections["121076"].ContinuityOfContent == "SEPARATE"


@pytest.mark.parametrize(("text_series", "count"), [("study", 1), ("report", 2)])
def test_text_reports_share_a_series_unless_the_order_says_otherwise(
    text_series: str, count: int
) -> None:
    """OHIF shows one SR of a series: a site that reads there lets each have its own."""
    made = [
        shown(
            "basic-text",
            source=reports.source(SOPInstanceUID=f"1.2.3.4.{n}"),
            order=ORDER.model_copy(update={"instance_number": n, "text_series": text_series}),
        )
        for n in (1, 2)
    ]
    assert len({ds.SeriesInstanceUID for ds in made}) == count
    assert len({ds.SeriesDescription for ds in made}) == count


# Key Object Selection and presentation state


def test_only_a_positive_is_flagged() -> None:
    assert {case: rendered("ko", case) is not None for case in CASES} == {
        "fracture": True,
        "none": False,
        "unclear": False,
        "rejected": False,
    }


def test_the_flagged_image_has_no_concept_name() -> None:
    ds = shown("ko")
    assert ds.ConceptNameCodeSequence[0].CodeValue == codes.OF_INTEREST.value
    (image,) = [item for item in reports.items(ds) if item.ValueType == "IMAGE"]
    assert "ConceptNameCodeSequence" not in image


def test_the_overlay_repeats_the_display_of_the_image() -> None:
    """A presentation state overrides polarity, rescale and window: it must repeat them."""
    source = reports.source(
        PhotometricInterpretation="MONOCHROME1",
        WindowCenter=["2048", "1000"],
        WindowWidth=["4096", "200"],
        RescaleIntercept="0",
        RescaleSlope="2",
    )
    ds = shown("gsps", source=source)
    (voi,) = ds.SoftcopyVOILUTSequence
    assert (ds.PresentationLUTShape, ds.RescaleSlope) == ("INVERSE", 2)
    assert (voi.WindowCenter, voi.WindowWidth) == (2048, 4096)
    (area,) = ds.DisplayedAreaSelectionSequence
    assert area.DisplayedAreaBottomRightHandCorner == [1600, 2000]


def test_the_overlay_holds_text_and_caution_in_an_st_value() -> None:
    long = Outcome(text="Перелом ребра. " * 200, findings=Findings(Presence.UNDETERMINED, ()))
    for outcome in (CASES["fracture"], long):
        (annotation,) = shown("gsps", outcome=outcome).GraphicAnnotationSequence
        words = annotation.TextObjectSequence[0].UnformattedTextValue
        assert len(words.encode()) <= 1024
        assert words.endswith(page.CAUTION)
        assert (outcome.text or "")[:60] in words


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "RGB"},
        {"NumberOfFrames": 3},
        {"Rows": None},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.5"},
    ],
)
def test_no_overlay_without_a_gray_frame(elements: dict[str, object]) -> None:
    assert rendered("gsps", source=reports.source(**elements)) is None


# Page: Secondary Capture and PDF


@pytest.mark.parametrize("case", CASE_NAMES)
def test_the_page_leaves_the_corners_to_the_viewer(case: str) -> None:
    frame = shown("sc", case).pixel_array
    assert frame.shape == (page.HEIGHT, page.WIDTH)
    corners = [frame[:100, :160], frame[:100, -160:], frame[-40:, :160], frame[-40:, -160:]]
    assert max(corner.max() for corner in corners) == 0


def test_the_page_shows_the_radiograph() -> None:
    frame = shown("sc").pixel_array
    left = page.MARGIN
    row = frame[page.TOP + 100, left : left + page.PICTURE_WIDTH].astype(int)
    assert row[2] < 10
    assert row[-3] > 245
    assert np.all(np.diff(row) >= 0)


def test_the_page_says_more_for_more_text() -> None:
    lit = [(shown("sc", case).pixel_array > 128).sum() for case in ("none", "fracture")]
    assert lit[1] > lit[0]


def test_the_pages_shade_is_not_that_of_another_text() -> None:
    left = Outcome(text="Left rib.", findings=Findings(Presence.UNDETERMINED, ()))
    right = Outcome(text="Right rib.", findings=Findings(Presence.UNDETERMINED, ()))
    pages = [shown("sc", outcome=outcome).PixelData for outcome in (left, right)]
    assert pages[0] != pages[1]


def test_a_page_without_picture_uses_the_whole_width() -> None:
    frame = shown("sc", "rejected", pixels=None).pixel_array
    assert frame[page.TOP : page.TOP + 120, page.MARGIN : 400].max() == 255


@pytest.mark.parametrize(
    "words",
    [
        "Перелом седьмого ребра слева",
        "左侧第七肋骨骨折,未见移位。",
        "左側第七肋骨骨折",
        "肋骨骨折の疑い",
        "늑골 골절",
        "Côtes brisées",
    ],
)
def test_the_fonts_have_every_letter_of(words: str) -> None:
    assert [c for c in words if page.find_glyph(c, False)[1] != c] == []


def test_a_character_without_a_glyph_is_a_box() -> None:
    assert page.find_glyph("🦴", False)[1] == page.MISSING


@given(st.text(max_size=200), st.sampled_from([15.0, 28.0]))
def test_no_line_is_wider_than_its_column(words: str, size: float) -> None:
    for line in page.wrap(words, 300, size):
        assert len(line) == 1 or page.width(line, size) <= 300 + 1e-6


@example("\u06df")
@example("\u0643\u064e\u0633\u0652\u0631")
@given(st.text(max_size=200))
def test_wrapping_loses_no_character(words: str) -> None:
    lines = page.wrap(words, 300, 20)
    # Arabic letters are shaped for the page: the forms of a letter are one letter, and the signs of
    # short vowels are left out, as in print.
    drawn, written = ("".join(HARAKAT_RE.sub("", "".join(text)).split()) for text in (lines, words))
    assert Counter(normalize("NFKC", drawn)) == Counter(normalize("NFKC", written))


@settings(deadline=None, max_examples=25)
@given(st.text(max_size=3000), st.booleans())
def test_nothing_of_a_page_lies_outside(words: str, has_picture: bool) -> None:
    said = page.Reading(page.ReportKind.UNCLEAR, storable(words)[0] or "x", "caution " * 300)
    labels = page.Labels("source", "model")
    for marks in page.pages(said, labels, (400, 300) if has_picture else None):
        for mark in marks:
            assert 0 <= mark.x <= page.WIDTH
            assert 0 <= mark.y <= page.HEIGHT


def test_a_text_too_long_for_the_page_points_to_the_report() -> None:
    said = page.Reading(page.ReportKind.UNCLEAR, "rib " * 2000, "comment")
    made = page.pages(said, page.Labels("source", "model"), (400, 300))
    words = [mark.words for marks in made for mark in marks if isinstance(mark, page.Text)]
    assert page.CONTINUES in words
    assert sum(line.count("rib") for line in words) == 2000


def test_a_coded_fracture_is_said_with_its_side_first() -> None:
    assert page.in_words(reports.FRACTURES[0]) == "left rib 7, posterolateral, acute"
    assert page.in_words(reports.FRACTURES[1]) == "vertebra T8"
    possible = reports.fracture("other", side="right", certainty="possible")
    assert page.in_words(possible) == "right bone not named, possible"


def test_the_pdf_is_whole_and_its_length_true() -> None:
    ds = shown("pdf")
    content = ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength]
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    assert len(ds.EncapsulatedDocument) % 2 == 0
    assert ds.MIMETypeOfEncapsulatedDocument == "application/pdf"


def test_the_pdf_has_text_not_pictures_of_text() -> None:
    ds = shown("pdf", pixels=None)
    streams = re.findall(rb"stream\r?\n(.*?)endstream", ds.EncapsulatedDocument, re.DOTALL)
    assert any(b" Tj" in _inflated(stream) for stream in streams)


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(stream)  # behind it is the end of a line
    except zlib.error:
        return stream


def test_the_page_of_a_pdf_names_the_patient_and_the_capture_does_not() -> None:
    """A viewer shows the identity beside a capture; paper must carry it."""
    named = shown("sc", source=reports.source(PatientName="A^B"))
    other = shown("sc", source=reports.source(PatientName="C^D"))
    assert named.PixelData == other.PixelData
    papers = [
        shown("pdf", source=reports.source(PatientName=name)).EncapsulatedDocument
        for name in ("A^B", "C^D")
    ]
    assert papers[0] != papers[1]


def test_a_name_from_right_to_left_is_drawn_in_its_order() -> None:
    assert page.visual("שרון") == "ןורש"
    assert page.visual("Doe Jane") == "Doe Jane"


def test_arabic_letters_are_joined_and_run_from_right_to_left() -> None:
    """As a shaping engine joins them: initial, medial and final forms, the last letter first."""
    drawn = page.visual("محمد")
    assert [f"{ord(letter):04X}" for letter in drawn] == ["FEAA", "FEE4", "FEA4", "FEE3"]
    assert page.MISSING not in "".join(
        page.find_glyph(letter, False)[1] for letter in page.visual("كسر في الضلع السابع الأيسر")
    )


@pytest.mark.parametrize(
    ("line", "drawn"),
    [
        ("Patient: שרון (x)", "Patient: ןורש (x)"),
        ("שרון 123", "123 ןורש"),
        ("(שרון)", "(ןורש)"),
        ("ID 4711, שרון", "ID 4711, ןורש"),
        ("\u202bשרון\u202c", "ןורש"),
    ],
)
def test_numbers_and_latin_letters_keep_their_way(line: str, drawn: str) -> None:
    assert page.visual(line) == drawn


def test_dates_are_printed_so_that_everyone_reads_them_alike() -> None:
    job = renderings.BuilderInput(
        reports.source(AccessionNumber="20200101"), CASES["none"], ALGORITHM, ORDER
    )
    line = renderings._patient_line(job.evidence)
    assert "born 1960-01-02, study of 2026-03-03, accession 20200101" in line


def test_each_page_of_a_pdf_bears_the_name() -> None:
    long = Outcome(text="Fracture of the left rib.\n" * 300, findings=None)
    job = renderings.BuilderInput(reports.source(PatientName="Doe^Jane"), long, ALGORITHM, ORDER)
    sheets = renderings._lay_out_pages(job, None, renderings._patient_line(job.evidence))
    assert len(sheets) > 3
    for sheet in sheets:
        assert any("Doe" in mark.words for mark in sheet if isinstance(mark, page.Text))


def test_the_verbatim_text_of_the_report_is_that_of_the_text_report() -> None:
    assert reports.values(shown("basic-text"), "121071") == [TEXT]


GREYS = {
    "window": header.Grey(False, rescale=(2.0, -1000.0), window=(512.5, 1024.25, "LINEAR_EXACT")),
    "table": header.Grey(True, voi_lut=(65000, tuple(range(0, 1024, 4)))),
    "modality": header.Grey(False, modality_lut=(0, (0, 70, 300)), window=(150.0, 300.0, "LINEAR")),
}


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("name", list(GREYS))
def test_the_overlay_shows_what_the_model_saw(name: str, is_signed: bool) -> None:
    """Same table, window and polarity as the picture, whatever else the image's header says."""
    grey = GREYS[name]
    source = reports.source(
        WindowCenter="1", WindowWidth="1", PixelRepresentation=int(is_signed), RescaleSlope="9"
    )
    made = render("gsps", source, None, CASES["fracture"], ALGORITHM, ORDER, grey)
    assert made is not None
    ds = reports.read(made.content)
    assert ds.PresentationLUTShape == ("INVERSE" if grey.is_inverted else "IDENTITY")
    assert ("RescaleSlope" in ds) == (grey.rescale is not None)
    (voi,) = ds.SoftcopyVOILUTSequence
    if grey.window and not grey.modality_lut:
        assert (voi.WindowCenter, voi.WindowWidth) == grey.window[:2]
    if grey.voi_lut:
        (table,) = voi.VOILUTSequence
        assert list(table.LUTDescriptor) == [256, 65000 - 65536 if is_signed else 65000, 16]
        assert len(table.LUTData) == 512


def shown_grey(ds: Dataset, values: list[int]) -> list[float]:
    """Return the grey, 0 to 1, of stored values by the modules of a presentation state."""

    def table(item: Dataset, x: float) -> int:
        entries = np.frombuffer(item.LUTData, "<u2")
        return int(entries[int(min(max(x - item.LUTDescriptor[1], 0), entries.size - 1))])

    found = []
    for x in map(float, values):
        if "ModalityLUTSequence" in ds:
            x = table(ds.ModalityLUTSequence[0], x)
        (voi,) = ds.SoftcopyVOILUTSequence
        if "VOILUTSequence" in voi:
            bits = voi.VOILUTSequence[0].LUTDescriptor[2]
            found.append(table(voi.VOILUTSequence[0], x) / (2**bits - 1))
        else:
            center, width = voi.WindowCenter - 0.5, voi.WindowWidth - 1
            found.append(min(max((x - center) / width + 0.5, 0.0), 1.0))
    return found


def test_tables_in_a_row_show_what_they_did_to_the_picture() -> None:
    """Only 8 and 16 bits are legal: entries of other widths are scaled, their window with them."""
    modality = (0, (0, 70, 300, 1000))
    linear = header.Grey(False, modality_lut=modality, window=(500.5, 1001.0, "LINEAR"))
    assert shown_grey(header.as_display(linear, False), [0, 1, 2, 3]) == pytest.approx(
        [0, 0.07, 0.3, 1], abs=1e-4
    )
    entries = tuple(range(0, 1023, 2))
    both = header.Grey(False, modality_lut=modality, voi_lut=(20, entries))
    meant = [entries[min(max(value - 20, 0), 511)] / 1023 for value in modality[1]]
    assert shown_grey(header.as_display(both, False), [0, 1, 2, 3]) == pytest.approx(
        meant, abs=1e-4
    )


@pytest.mark.parametrize(
    ("descriptor", "entries", "expected"),
    [
        ([4, 0, 14], [0, 100, 200, 1000], [4, 0, 16]),  # declared, and used, are other bits
        ([4, 0, 16], [0, 100, 200, 255], [4, 0, 8]),
        ([4, 0, 16], [0, 1, 2], None),
        ([3, 0, 40], [0, 1, 2], None),
        ([3, 0], [0, 1, 2], None),
    ],
)
def test_no_overlay_has_a_descriptor_that_its_table_contradicts(
    descriptor: list[int], entries: list[int], expected: list[int] | None
) -> None:
    table = Dataset()
    header.put(table, "LUTDescriptor", descriptor, "US")
    header.put(table, "LUTData", entries, "US")
    display = header.read(reports.source(VOILUTSequence=[table])).display
    found = display.get("SoftcopyVOILUTSequence")
    assert (list(found[0].VOILUTSequence[0].LUTDescriptor) if found else None) == expected


def test_a_page_says_what_its_text_leaves_open() -> None:
    """A headline alone is what people read."""
    for text, headline, is_limited in (
        ("No acute rib fracture.", "NO FRACTURE DESCRIBED", True),
        ("No fracture.", "NO FRACTURE DESCRIBED", False),
        ("Possible fracture of the left 5th rib.", "POSSIBLE FRACTURE DESCRIBED", False),
    ):
        said = reading.read(Outcome(text=text, findings=parse(text)), ALGORITHM)
        marks = [
            mark.words
            for mark in page.pages(said, page.Labels("", ""), None)[0]
            if isinstance(mark, page.Text)
        ]
        assert headline in marks
        assert any("some bones or kinds" in line for line in marks) == is_limited
