"""Reads once, into one value, all that a header says of its picture.

Everything behind it (gate, decoder, grey levels, shutter, geometry) asks this value and never the
data set, so that each question about a strange header has one answer. It needs no NumPy: the node
asks the gate too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydicom import Dataset

from dicom_node.standard.pixel_shape import SHAPES
from worker.image import elements

BIG_ENDIAN = "1.2.840.10008.1.2.2"
Numbers = tuple[float, ...]

_MOST_TABLES, _MOST_WINDOWS = 16, 64
"""Far more than any device writes."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: str = "LINEAR"
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One item of a Modality or VOI LUT Sequence as it is written (PS3.3 C.11.1.1, C.11.2.1.1)."""

    count: int
    first: int
    """The first value mapped, unsigned."""
    declared: int
    """Bits per entry."""
    content: bytes | Numbers
    """The entries, as bytes where nobody has made numbers of them."""
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Shutters:
    """Display Shutter (PS3.3 C.7.6.11): shapes in upper case, and what was written for each."""

    shapes: tuple[str, ...]
    edges: tuple[float | None, ...]
    """Upper, lower, left, right."""
    center: Numbers
    radius: float | None
    vertices: Numbers


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What a header says of its picture; what is absent or unreadable is None, 0 or empty."""

    sop_class: str
    modality: str
    intent: str
    transfer_syntax: str
    photometric: str
    presentation_shape: str
    rows: int
    columns: int
    samples: int | None
    frames: int | None
    bits_allocated: int | None
    bits_stored: int | None
    high_bit: int | None
    is_signed: bool | None
    """None when Pixel Representation is absent or neither 0 nor 1."""
    padding: tuple[int, int] | None
    slope: float | None
    intercept: float
    modality_tables: tuple[Table | None, ...]
    """In order; None for a table that cannot be read."""
    voi_tables: tuple[Table | None, ...]
    windows: tuple[Window, ...]
    has_window: bool
    """Whether something stands for a window, readable or not."""
    shutters: Shutters
    aspects: tuple[float, ...]
    """Height / width of one pixel by each element that says so, the most trusted first."""
    orientation: tuple[str, ...]
    body_parts: tuple[str, ...]
    views: tuple[str, ...]
    region_codes: frozenset[str]
    view_codes: frozenset[str]
    species: str
    has_pixels: bool
    has_floats: bool
    """Whether Float or Double Float Pixel Data stand there (PS3.3 C.7.6.24)."""
    pixels: bytes | memoryview | None
    pixels_are_words: bool
    """Whether the value representation of Pixel Data is OW."""
    broken_at: str
    """The element from which on the header could not be read."""
    warnings: tuple[str, ...]

    @property
    def stored(self) -> int:
        """Bits Stored, or what is usual."""
        return self.bits_stored or self.bits_allocated or 16


def read(ds: Dataset) -> Header:
    """Return what a data set, as `part10.read` returns it, says of its picture."""
    # As it stands, whatever its value representation.
    content = elements.unread(ds, "PixelData")
    pixel_data = ds.get_item("PixelData") if "PixelData" in ds else None
    frames = elements.integer(ds, "NumberOfFrames")
    sign = elements.integer(ds, "PixelRepresentation")
    return Header(
        sop_class=elements.word(ds, "SOPClassUID"),
        modality=elements.word(ds, "Modality"),
        intent=elements.word(ds, "PresentationIntentType"),
        transfer_syntax=elements.transfer_syntax(ds),
        photometric=elements.word(ds, "PhotometricInterpretation"),
        presentation_shape=elements.word(ds, "PresentationLUTShape"),
        rows=elements.integer(ds, "Rows") or 0,
        columns=elements.integer(ds, "Columns") or 0,
        samples=elements.integer(ds, "SamplesPerPixel"),
        # Empty or 0 means one frame, as pydicom and DCMTK read it.
        frames=1 if elements.value(ds, "NumberOfFrames") is None or frames == 0 else frames,
        bits_allocated=elements.integer(ds, "BitsAllocated"),
        bits_stored=elements.integer(ds, "BitsStored"),
        high_bit=elements.integer(ds, "HighBit"),
        is_signed=bool(sign) if sign in (0, 1) else None,
        padding=_padding_range(ds),
        slope=elements.number(ds, "RescaleSlope"),
        intercept=elements.number(ds, "RescaleIntercept") or 0.0,
        modality_tables=tuple(_read_tables(ds, "ModalityLUTSequence")),
        voi_tables=tuple(_read_tables(ds, "VOILUTSequence")),
        windows=tuple(_read_windows(ds)),
        has_window=all(_is_filled(ds, name) for name in ("WindowCenter", "WindowWidth")),
        shutters=_read_shutters(ds),
        aspects=tuple(_read_aspects(ds)),
        orientation=tuple(way[:1] for way in elements.words(ds, "PatientOrientation")[:2]),
        body_parts=elements.texts(ds, "BodyPartExamined"),
        views=elements.texts(ds, "ViewPosition"),
        region_codes=_code_values(ds, "AnatomicRegionSequence"),
        view_codes=_code_values(ds, "ViewCodeSequence"),
        species=elements.word(ds, "PatientSpeciesDescription"),
        has_pixels=pixel_data is not None,
        has_floats=any(name in ds for name in ("FloatPixelData", "DoubleFloatPixelData")),
        pixels=content if isinstance(content, bytes | memoryview) and content else None,
        pixels_are_words=pixel_data is not None and pixel_data.VR == "OW",
        broken_at=str(ds.__dict__.get("broken_at", "")),
        warnings=tuple(_comma_warnings(ds)),
    )


def _padding_range(ds: Dataset) -> tuple[int, int] | None:
    first = elements.integer(ds, "PixelPaddingValue")
    if first is None:
        return None
    last = elements.integer(ds, "PixelPaddingRangeLimit")
    return first, first if last is None else last


def _is_filled(ds: Dataset, keyword: str) -> bool:
    found = elements.unread(ds, keyword)
    return bool(found.strip(b" \0") if isinstance(found, bytes) else elements.values(ds, keyword))


def _read_windows(ds: Dataset) -> Iterator[Window]:
    centers, widths = elements.numbers(ds, "WindowCenter"), elements.numbers(ds, "WindowWidth")
    written = elements.word(ds, "VOILUTFunction")
    # Any other word means nothing, and would stand in the report.
    function = written if written in ("LINEAR_EXACT", "SIGMOID") else "LINEAR"
    explanations = elements.texts(ds, "WindowCenterWidthExplanation")
    pairs = list(zip(centers, widths, strict=False))[:_MOST_WINDOWS]
    for i, (center, width) in enumerate(pairs):
        explanation = explanations[i] if i < len(explanations) else ""
        yield Window(center, width, function, elements.fold_text(explanation))


def _read_tables(ds: Dataset, keyword: str) -> Iterator[Table | None]:
    for item in elements.items(ds, keyword)[:_MOST_TABLES]:
        descriptor = elements.numbers(item, "LUTDescriptor")
        if len(descriptor) != 3:
            yield None
            continue
        count, first, bits = (int(entry) for entry in descriptor)
        count = count % 65536 or 65536  # PS3.3 C.11.1.1: 65536 is written as 0
        # A table may say that it has millions of entries, of which only `count` matter.
        found = elements.unread(item, "LUTData")
        is_raw = isinstance(found, bytes)
        content = found[: 2 * count] if is_raw else elements.numbers(item, "LUTData")
        explanation = elements.fold_text(" ".join(elements.texts(item, "LUTExplanation")))
        # A descriptor that was read as signed means the same bits.
        yield Table(count, first % 65536, bits, content, explanation)


def _read_shutters(ds: Dataset) -> Shutters:
    edges = ("UpperHorizontal", "LowerHorizontal", "LeftVertical", "RightVertical")
    return Shutters(
        shapes=tuple(sorted({word for word in elements.words(ds, "ShutterShape") if word})),
        edges=tuple(elements.number(ds, f"Shutter{name}Edge") for name in edges),
        center=elements.numbers(ds, "CenterOfCircularShutter"),
        radius=elements.number(ds, "RadiusOfCircularShutter"),
        vertices=elements.numbers(ds, "VerticesOfThePolygonalShutter"),
    )


def _read_aspects(ds: Dataset) -> Iterator[float]:
    """Yield height / width of a pixel, by each attribute that says it."""
    for keyword in SHAPES:
        found = elements.numbers(ds, keyword)
        if len(found) == 2 and min(found) > 0:
            yield found[0] / found[1]


def _code_values(ds: Dataset, keyword: str) -> frozenset[str]:
    items = elements.items(ds, keyword)
    return frozenset(elements.word(item, "CodeValue") for item in items) - {""}


_DECIMALS = {
    "WindowCenter": "Window Center",
    "WindowWidth": "Window Width",
    "RescaleSlope": "Rescale Slope",
    "RescaleIntercept": "Rescale Intercept",
    "PixelSpacing": "Pixel Spacing",
    "ImagerPixelSpacing": "Imager Pixel Spacing",
    "NominalScannedPixelSpacing": "Nominal Scanned Pixel Spacing",
}


def _comma_warnings(ds: Dataset) -> Iterator[str]:
    names = [name for key, name in _DECIMALS.items() if elements.has_decimal_comma(ds, key)]
    if names:
        yield f"The header has decimal commas, read as points: {', '.join(names)}."
