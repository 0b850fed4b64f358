"""Second objects for readers without an SR viewer: text SR, picture, overlay, flag, PDF."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np
from highdicom.ko import KeyObjectSelectionDocument
from highdicom.sr import (
    CompositeContentItem,
    ContainerContentItem,
    ContentSequence,
    ImageContentItem,
)
from highdicom.sr.value_types import ContentItem
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID

from dicom_node.base.errors import ConfigurationError, NotUnderstood
from dicom_node.base.identity import MANUFACTURER
from dicom_node.base.job import ObjectKind, RejectionNote, ReportOrder
from dicom_node.standard.uids import derived_uid, rejection_note_uid
from worker.report import codes, header, reading
from worker.report.document import (
    Document,
    bare_header,
    code_item,
    instance_uid,
    model_name,
    put_common,
    reading_time,
    series_description,
    series_uid,
    version,
    write_document,
)
from worker.report.header import Evidence, Grey, as_display, put, text
from worker.report.page import (
    CAUTION,
    HEADLINES,
    HEIGHT,
    LIMITED,
    MARGIN,
    Labels,
    Mark,
    Text,
    coded_in_words,
    headline,
    pages,
)
from worker.report.paint import as_pdf, as_pixels
from worker.report.reading import Algorithm, Outcome, Reading, ReportKind
from worker.report.sr import (
    container,
    content_root,
    document,
    finish_report,
    head,
    image,
    observer,
    remove_name,
    words,
)

BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
KEY_OBJECT_SELECTION = "1.2.840.10008.5.1.4.1.1.88.59"
GRAYSCALE_PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"

SERIES: Final = {"sc": 1, "gsps": 2, "ko": 3, "pdf": 4, "basic-text": 5, "rejection-note": 6}
"""Kind -> Series Number after that of the report."""

SHORT_TEXT = 1024
"""Bytes of an ST value: the Standard counts characters (PS3.5 6.2), validators count bytes."""

ELLIPSIS = "\u2026"

LONGEST_FRAME = 8
"""Pages of a Secondary Capture; only a text of almost nothing but line feeds has more."""

MOST_PLACES = 20
"""Fractures that a conclusion names."""

CONCLUSIONS: Final = {ReportKind.UNCLEAR: "The AI's text could not be interpreted automatically."}

REPLACED = "Replaced by report number {} of the same image."

SNAKE_CASE: Final = {
    "SeriesInstanceUID": "series_instance_uid",
    "SOPClassUID": "sop_class_uid",
    "SOPInstanceUID": "sop_instance_uid",
}

CONTINUES_ELSEWHERE = "(continues in the structured report)"


class BuilderInput:
    """What each builder below takes: one result, read once."""

    def __init__(
        self,
        source: Dataset,
        outcome: Outcome,
        algorithm: Algorithm,
        order: ReportOrder,
        grey: Grey | None = None,
    ) -> None:
        self.source = source
        self.grey = grey
        self.evidence: Evidence = header.read(source)
        said = reading.read(outcome, algorithm, order)
        self.said: Reading = replace(said, warnings=(*said.warnings, *self.evidence.changes))
        self.algorithm = algorithm
        self.order = order


def render(
    kind: ObjectKind,
    source: Dataset,
    pixels: NDArray[Any] | None,
    outcome: Outcome,
    algorithm: Algorithm,
    order: ReportOrder,
    grey: Grey | None = None,
) -> Document | None:
    """Return one second object; the same arguments always give the same bytes.

    Parameters
    ----------
    kind : str
        ``basic-text``, ``sc``, ``gsps``, ``ko`` or ``pdf``.
    source : Dataset
        Header of the Instance as read from bytes; it is left as it is.
    pixels : ndarray of uint8 or None
        The radiograph, (rows, columns), 0 = black, for the picture on the page.
    outcome, algorithm, order
        As for `worker.report.sr.build`.
    grey : Grey or None
        How the picture's grey came about; without it a GSPS follows the image's own header.

    Returns
    -------
    Document or None
        None where this kind has nothing to say: a KO flags positives only, a GSPS needs a
        grayscale image to lie on.

    Raises
    ------
    ConfigurationError
        There is no such kind.
    NotUnderstood, ModelFault
        As for `worker.report.sr.build`.
    """
    if kind not in BUILDERS:
        raise ConfigurationError(f"object {kind!r} is none of {', '.join(BUILDERS)}")
    job = BuilderInput(source, outcome, algorithm, order, grey)
    ds = BUILDERS[kind](job, pixels)
    if ds is None:
        return None
    put_common(ds, job.evidence, algorithm, order)
    if kind == "gsps":
        del ds.ContentDate, ds.ContentTime  # not in this IOD (PS3.3 A.33.1)
    return write_document(kind, ds, job.said.text if kind == "basic-text" else "")


def basic_text(job: BuilderInput, _pixels: NDArray[Any] | None) -> Dataset:
    """Return a Basic Text SR (TID 2000); its series is that of the Study, or its own."""
    report = document(job.evidence, job.said, job.algorithm, job.order)
    for element in _text_root(job):
        report[element.tag] = element
    uid = instance_uid("basic-text", BASIC_TEXT_SR, job.evidence, job.algorithm, job.order)
    is_own = job.order.text_series == "report"
    label = f"Text {job.order.instance_number}: " if is_own else "Text: "
    series = series_uid("basic-text", job.evidence, job.algorithm)
    put(report, "SOPClassUID", BASIC_TEXT_SR)
    put(report, "SOPInstanceUID", uid)
    put(report, "SeriesInstanceUID", derived_uid("bt-series", uid) if is_own else series)
    put(report, "SeriesNumber", job.order.series_number + SERIES["basic-text"])
    put(report, "SeriesDescription", _describe_series(job, label))
    finish_report(report, job.evidence, job.said, job.algorithm, job.order)
    return report


def _call_highdicom(make: Callable[..., Dataset], job: BuilderInput, **arguments: Any) -> Dataset:
    """Call a class of highdicom, which knows the SOP classes of the Standard only."""
    try:
        return make(
            evidence=[bare_header(job.evidence)],
            instance_number=job.order.instance_number,
            **arguments,
        )
    except KeyError as exc:
        raise NotUnderstood(
            f"SOP class {job.evidence.sop_class_uid} is not in the Standard"
        ) from exc


def _describe_series(job: BuilderInput, label: str) -> str:
    return series_description(job.algorithm, job.order.series_description, label)


def _text_root(job: BuilderInput) -> ContainerContentItem:
    """Return the tree: what was read, what it comes to, and, apart from it, the cautions."""
    children = head(job.algorithm, job.order)
    conclusion = words(codes.CONCLUSION, _write_conclusion(job.said))
    if job.said.text:
        finding = words(codes.FINDING, job.said.text)
        _refer_to_image(finding, job.evidence)
        # Continuous: OHIF wraps such a text, and cuts a text under a SEPARATE container.
        findings = ContainerContentItem(
            codes.FINDINGS, is_content_continuous=True, relationship_type="CONTAINS"
        )
        findings.ContentSequence = ContentSequence([finding])
        children.append(findings)
    else:
        _refer_to_image(conclusion, job.evidence)
    children.append(container(codes.CONCLUSIONS, [conclusion]))
    cautions = [
        words(codes.RECOMMENDATION, line) for line in (job.said.caution, *job.said.warnings)
    ]
    children.append(container(codes.RECOMMENDATIONS, cautions))
    return content_root(codes.DIAGNOSTIC_IMAGING_REPORT, "2000", children)


def _write_conclusion(said: Reading) -> str:
    """Return what a reader thinks, then the case in a sentence, with the places that are coded."""
    line = CONCLUSIONS.get(said.case, f"{HEADLINES[said.case].capitalize()} by AI.")
    if said.is_only_possible:
        line = "Possible fracture described by AI."
    if said.is_limited:
        line = f"{line} {LIMITED}"
    before = [*said.judgement_lines, *said.reader_lines]
    if said.reason is not None:
        return " ".join([*before, line, said.reason.text])
    places = "; ".join(coded_in_words(said)[:MOST_PLACES])
    more = len(said.fractures) - MOST_PLACES
    after = [f"Coded: {places}." if places else "", f"And {more} more." if more > 0 else ""]
    return " ".join(part for part in (*before, line, *after) if part)


def _refer_to_image(item: ContentItem, evidence: Evidence) -> None:
    """Let a text say from which image it was inferred."""
    if evidence.is_image:
        picture = image(codes.SOURCE_OF_MEASUREMENT, evidence, "INFERRED FROM")
        item.ContentSequence = ContentSequence([picture])


def key_object(job: BuilderInput, _pixels: NDArray[Any] | None) -> Dataset | None:
    """Return a Key Object Selection (TID 2010) that flags a positive, else None."""
    said = job.said
    if said.case is not ReportKind.FRACTURE or said.is_disputed or not job.evidence.is_image:
        return None
    root = ContainerContentItem(codes.OF_INTEREST, is_content_continuous=False, template_id="2010")
    picture = image(codes.SOURCE_IMAGE, job.evidence)
    root.ContentSequence = ContentSequence([*observer(job.algorithm, job.order), picture])
    uid = instance_uid("ko", KEY_OBJECT_SELECTION, job.evidence, job.algorithm, job.order)
    selection = _call_highdicom(
        KeyObjectSelectionDocument,
        job,
        content=ContentSequence([root], is_root=True),
        sop_instance_uid=uid,
        series_instance_uid=series_uid("ko", job.evidence, job.algorithm),
        series_number=job.order.series_number + SERIES["ko"],
        series_description=_describe_series(job, "Key image: "),
        manufacturer=MANUFACTURER,
        requested_procedures=list(job.evidence.requests) or None,
        specific_character_set=header.CHARACTER_SET,
    )
    remove_name(selection)
    return selection


def rejection_notes(
    source: Dataset, outcome: Outcome, algorithm: Algorithm, order: ReportOrder
) -> Iterator[Document]:
    """Yield the notes that ask archives to hide what a new report replaces (TID 2010).

    An image that could not be analysed this time replaces nothing that was read in it before.

    References
    ----------
    IHE RAD TF-3 Imaging Object Change Management: Rejection Note. PS3.3 A.35.4.
    """
    if not order.rejection_notes:
        return  # as with nearly every report: its header need not be read again
    job = BuilderInput(source, outcome, algorithm, order)
    if job.said.reason is not None and order.judgement is None:
        return
    for note in order.rejection_notes:
        ds = _rejection_note(job, note)
        put_common(ds, job.evidence, algorithm, order)
        yield write_document("rejection-note", ds)


def _rejection_note(job: BuilderInput, note: RejectionNote) -> Dataset:
    root = ContainerContentItem(codes.REJECTED, is_content_continuous=False, template_id="2010")
    # Evidence and content of a Key Object Selection must name the same objects (PS3.3 C.17.6.2), so
    # both are made of one list.
    hidden, items = [], []
    for replaced in note.objects:
        old = bare_header(job.evidence)
        for keyword in ("SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID"):
            put(old, keyword, getattr(replaced, SNAKE_CASE[keyword]))
        hidden.append(old)
        is_image = "Image Storage" in UID(replaced.sop_class_uid).name
        make = ImageContentItem if is_image else CompositeContentItem
        items.append(
            make(
                codes.SOURCE_IMAGE,
                replaced.sop_class_uid,
                replaced.sop_instance_uid,
                relationship_type="CONTAINS",
            )
        )
    why = words(codes.KEY_OBJECT_DESCRIPTION, REPLACED.format(job.order.generation))
    root.ContentSequence = ContentSequence([*observer(job.algorithm, job.order), why, *items])
    uids = [replaced.sop_instance_uid for replaced in note.objects]
    source, generation = job.evidence.sop_instance_uid, job.order.generation
    make_document: Callable[..., Dataset] = KeyObjectSelectionDocument
    selection = make_document(
        evidence=hidden,
        content=ContentSequence([root], is_root=True),
        instance_number=job.order.instance_number,
        sop_instance_uid=rejection_note_uid(source, generation, uids),
        series_instance_uid=series_uid("rejection-note", job.evidence, job.algorithm),
        series_number=job.order.series_number + SERIES["rejection-note"],
        series_description=_describe_series(job, "Replaced: "),
        manufacturer=MANUFACTURER,
        requested_procedures=list(job.evidence.requests) or None,
        specific_character_set=header.CHARACTER_SET,
    )
    for item in selection.ContentSequence:  # TID 2010 has no purpose of reference
        if item.ValueType in ("IMAGE", "COMPOSITE"):
            item.pop("ConceptNameCodeSequence", None)
    return selection


def _common_attributes(
    job: BuilderInput, kind: ObjectKind, sop_class_uid: str, label: str
) -> Dataset:
    """Return the attributes that an object outside highdicom shares with the others."""
    uid = instance_uid(kind, sop_class_uid, job.evidence, job.algorithm, job.order)
    ds = Dataset()
    put(ds, "SOPClassUID", sop_class_uid)
    put(ds, "SOPInstanceUID", uid)
    put(ds, "SeriesInstanceUID", series_uid(kind, job.evidence, job.algorithm))
    put(ds, "SeriesNumber", job.order.series_number + SERIES[kind])
    put(ds, "SeriesDescription", _describe_series(job, label))
    put(ds, "InstanceNumber", job.order.instance_number)
    put(ds, "Manufacturer", MANUFACTURER)
    put(ds, "ManufacturerModelName", model_name(job.algorithm))
    put(ds, "SoftwareVersions", version(job.algorithm))
    if job.order.serial_number:
        put(ds, "DeviceSerialNumber", job.order.serial_number)
    return ds


def secondary_capture(job: BuilderInput, pixels: NDArray[Any] | None) -> Dataset:
    """Return a Secondary Capture whose frame shows picture, text, model and caution."""
    ds = _common_attributes(job, "sc", SECONDARY_CAPTURE, "Page: ")
    when = reading_time(job.evidence, job.order)
    put(ds, "Modality", "OT")
    put(ds, "Laterality", "")
    put(ds, "ConversionType", "WSD")
    put(ds, "ImageType", ["DERIVED", "SECONDARY"])
    put(ds, "DateOfSecondaryCapture", when.strftime("%Y%m%d"))
    put(ds, "TimeOfSecondaryCapture", when.strftime("%H%M%S.%f"))
    put(ds, "PatientOrientation", "")
    put(ds, "BurnedInAnnotation", "YES")
    put(ds, "DerivationDescription", "Page with the description of fractures by AI")
    if job.evidence.is_image:
        put(ds, "SourceImageSequence", [_source_image(job.evidence, codes.SOURCE_FOR_PROCESSING)])
    frame = _draw_frame(job, pixels)
    rows, columns = frame.shape
    put(ds, "SamplesPerPixel", 1)
    put(ds, "PhotometricInterpretation", "MONOCHROME2")
    put(ds, "Rows", rows)
    put(ds, "Columns", columns)
    put(ds, "BitsAllocated", 8)
    put(ds, "BitsStored", 8)
    put(ds, "HighBit", 7)
    put(ds, "PixelRepresentation", 0)
    ds.add_new("PixelData", "OB", frame.tobytes())
    return ds


def _draw_frame(job: BuilderInput, pixels: NDArray[Any] | None) -> NDArray[np.uint8]:
    """Return the pages one below the other: a long text makes a long frame, and is not cut."""
    every = _lay_out_pages(job, pixels, identity="")
    shown = every[:LONGEST_FRAME]
    if len(every) > LONGEST_FRAME:
        shown[-1].append(Text(MARGIN, HEIGHT - 16, CONTINUES_ELSEWHERE, 15))
    frame = np.vstack([as_pixels(marks, pixels) for marks in shown])
    if len(shown) == 1:
        return frame
    # A last page of two lines must not halve the size at which viewers fit the frame.
    unused = HEIGHT - MARGIN // 2 - round(max(mark.y for mark in shown[-1]))
    return frame[: len(frame) - max(unused, 0)]


def _source_image(evidence: Evidence, purpose: Code) -> Dataset:
    """Return an item that refers to the source (PS3.3 Table 10-3, with its purpose)."""
    item = Dataset()
    put(item, "ReferencedSOPClassUID", evidence.sop_class_uid)
    put(item, "ReferencedSOPInstanceUID", evidence.sop_instance_uid)
    put(item, "PurposeOfReferenceCodeSequence", [code_item(purpose)])
    return item


def _lay_out_pages(
    job: BuilderInput, pixels: NDArray[Any] | None, identity: str
) -> list[list[Mark]]:
    when = reading_time(job.evidence, job.order)
    version_line = f"{model_name(job.algorithm)}, version {version(job.algorithm)}"
    labels = Labels(
        source=_source_label(job),
        model=f"{version_line}, {when.isoformat(' ', 'seconds')}",
        caution="DEMONSTRATION MODEL" if job.algorithm.demonstration else "",
        identity=identity,
    )
    shape = None if pixels is None else (pixels.shape[0], pixels.shape[1])
    return pages(job.said, labels, shape)


def _source_label(job: BuilderInput) -> str:
    parts = [f"{job.evidence.modality or 'Image'}"]
    for keyword, name in (
        ("ViewPosition", ""),
        ("SeriesNumber", "series "),
        ("InstanceNumber", "image "),
    ):
        value = text(job.source, keyword)
        if value:
            parts.append(f"{name}{value}")
    return "Source: " + ", ".join(parts)


def encapsulated_pdf(job: BuilderInput, pixels: NDArray[Any] | None) -> Dataset:
    """Return the same page as an Encapsulated PDF, with the patient's identity on it."""
    ds = _common_attributes(job, "pdf", ENCAPSULATED_PDF, "PDF: ")
    title = headline(job.said).capitalize()
    content = as_pdf(_lay_out_pages(job, pixels, _patient_line(job.evidence)), pixels, title)
    put(ds, "Modality", "DOC")
    put(ds, "ConversionType", "WSD")
    put(ds, "AcquisitionDateTime", "")
    put(ds, "BurnedInAnnotation", "YES")
    put(ds, "RecognizableVisualFeatures", "NO")
    put(ds, "DocumentTitle", f"AI fracture description: {title}")
    put(ds, "ConceptNameCodeSequence", [code_item(codes.DIAGNOSTIC_IMAGING_REPORT)])
    put(ds, "MIMETypeOfEncapsulatedDocument", "application/pdf")
    if job.evidence.is_image:
        put(ds, "SourceInstanceSequence", [_source_image(job.evidence, codes.SOURCE_IMAGE)])
    put(ds, "EncapsulatedDocumentLength", len(content))
    put(ds, "EncapsulatedDocument", content + b"\0" * (len(content) % 2))
    return ds


def _patient_line(evidence: Evidence) -> str:
    """Return who this is about, for a page that leaves the viewer."""
    groups = text(evidence.common, "PatientName").split("=")
    names = [" ".join(part for part in group.split("^") if part) for group in groups]
    parts = [
        " / ".join(name for name in names if name),
        f"ID {text(evidence.common, 'PatientID') or 'unknown'}",
    ]
    dated = (
        ("born", "PatientBirthDate"),
        ("study of", "StudyDate"),
        ("accession", "AccessionNumber"),
    )
    parts += [
        f"{name} {_readable_date(value) if 'Date' in key else value}"
        for name, key in dated
        if (value := text(evidence.common, key).strip())
    ]
    return "Patient: " + ", ".join(part for part in parts if part)


def _readable_date(value: str) -> str:
    """Return a DA value as people of every country read it: 1960-01-02."""
    is_date = len(value) == 8 and value.isascii() and value.isdigit()
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if is_date else value


def presentation_state(job: BuilderInput, _pixels: NDArray[Any] | None) -> Dataset | None:
    """Return a GSPS that lays the words over the lower part of a grayscale image, else None."""
    evidence = job.evidence
    if not evidence.is_grayscale:
        return None
    ds = _common_attributes(job, "gsps", GRAYSCALE_PRESENTATION_STATE, "Overlay: ")
    when = reading_time(evidence, job.order)
    put(ds, "Modality", "PR")
    put(ds, "Laterality", "")
    put(ds, "ContentLabel", "AI_FRACTURE")
    put(ds, "ContentDescription", "Description of fractures by AI")
    put(ds, "ContentCreatorName", "")
    put(ds, "PresentationCreationDate", when.strftime("%Y%m%d"))
    put(ds, "PresentationCreationTime", when.strftime("%H%M%S.%f"))
    put(ds, "ReferencedSeriesSequence", [_referenced_series(evidence)])
    put(ds, "DisplayedAreaSelectionSequence", [_displayed_area(evidence)])
    put(ds, "GraphicAnnotationSequence", [_text_annotation(job.said)])
    put(ds, "GraphicLayerSequence", [_graphic_layer()])
    display = evidence.display
    if job.grey is not None:
        display = as_display(job.grey, job.source.get("PixelRepresentation") == 1)
    for element in display:
        ds[element.tag] = element
    return ds


def _referenced_series(evidence: Evidence) -> Dataset:
    picture = Dataset()
    put(picture, "ReferencedSOPClassUID", evidence.sop_class_uid)
    put(picture, "ReferencedSOPInstanceUID", evidence.sop_instance_uid)
    series = Dataset()
    put(series, "SeriesInstanceUID", evidence.series_instance_uid)
    put(series, "ReferencedImageSequence", [picture])
    return series


def _displayed_area(evidence: Evidence) -> Dataset:
    area = Dataset()
    put(area, "DisplayedAreaTopLeftHandCorner", [1, 1])
    put(area, "DisplayedAreaBottomRightHandCorner", [evidence.columns, evidence.rows])
    put(area, "PresentationSizeMode", "SCALE TO FIT")
    put(area, "PresentationPixelAspectRatio", [1, 1])
    return area


def _text_annotation(said: Reading) -> Dataset:
    note = Dataset()
    put(note, "BoundingBoxAnnotationUnits", "DISPLAY")
    put(note, "UnformattedTextValue", _overlay_text(said))
    put(note, "BoundingBoxTopLeftHandCorner", [0.02, 0.78])
    put(note, "BoundingBoxBottomRightHandCorner", [0.98, 0.98])
    put(note, "BoundingBoxTextHorizontalJustification", "LEFT")
    annotation = Dataset()
    put(annotation, "GraphicLayer", "AI")
    put(annotation, "TextObjectSequence", [note])
    return annotation


def _overlay_text(said: Reading) -> str:
    """Return headline, words and caution within the length of an ST value."""
    head_line = f"{headline(said)}\r\n"
    tail = f"\r\n{said.caution} {CAUTION}"
    content = said.words.replace("\n", "\r\n")
    # Headline and caution are never cut: they say what the words are worth.
    room = SHORT_TEXT - len((head_line + tail).encode())
    encoded = content.encode()
    if len(encoded) > room:
        content = encoded[: room - len(ELLIPSIS.encode())].decode(errors="ignore") + ELLIPSIS
    return head_line + content + tail


def _graphic_layer() -> Dataset:
    layer = Dataset()
    put(layer, "GraphicLayer", "AI")
    put(layer, "GraphicLayerOrder", 1)
    put(layer, "GraphicLayerDescription", "Description of fractures by AI")
    return layer


SHOW_PICTURE: Final = frozenset({"sc", "pdf"})
"""Kinds on whose pages the picture is."""

BUILDERS: Final[dict[str, Callable[[BuilderInput, NDArray[Any] | None], Dataset | None]]] = {
    "basic-text": basic_text,
    "sc": secondary_capture,
    "gsps": presentation_state,
    "ko": key_object,
    "pdf": encapsulated_pdf,
}
