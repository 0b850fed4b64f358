"""A Structured Report as text or HTML for people (DICOM PS3.3 C.17.3, PS3.18 8.7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from pydicom.dataset import Dataset

SR_CLASSES = "1.2.840.10008.5.1.4.1.1.88."

Line = tuple[int, str, str]
"""Depth, name and value of a content item."""


def lines(report: Dataset, depth: int = 0) -> Iterator[Line]:
    """Yield the content items below `report`, depth first."""
    for item in report.get("ContentSequence") or ():
        yield depth, _code_meaning(item.get("ConceptNameCodeSequence")), _item_value(item)
        yield from lines(item, depth + 1)


def as_text(report: Dataset) -> str:
    """Return the report as plain text, two blanks per depth."""
    rows = [
        _report_title(report),
        *(f"{name}: {value}" for name, value in _image_words(report)),
        "",
    ]
    for depth, name, value in lines(report):
        rows.append("  " * depth + ": ".join(part for part in (name, value) if part))
    return "\n".join(rows) + "\n"


def as_html(report: Dataset) -> str:
    """Return the report as the body of a page; everything in it is escaped."""
    rows = "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in _image_words(report))
    title = escape(_report_title(report))
    return f"<article><h1>{title}</h1><dl>{rows}</dl>{_list_items(report)}</article>"


def page(bodies: Iterator[str]) -> Iterator[str]:
    """Yield an HTML page around what `as_html` returned."""
    yield '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Report</title></head>'
    yield "<body>"
    yield from bodies
    yield "</body></html>"


def _list_items(parent: Dataset) -> str:
    items = []
    for item in parent.get("ContentSequence") or ():
        name, value = _code_meaning(item.get("ConceptNameCodeSequence")), _item_value(item)
        head = f"<b>{escape(name)}</b>" if name else ""
        items.append(f"<li>{head} {escape(value)}{_list_items(item)}</li>")
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _report_title(report: Dataset) -> str:
    return _code_meaning(report.get("ConceptNameCodeSequence")) or "Report"


def _image_words(report: Dataset) -> Iterator[tuple[str, str]]:
    for keyword, name in (
        ("PatientName", "Patient"),
        ("PatientID", "Patient ID"),
        ("PatientBirthDate", "Born"),
        ("PatientSex", "Sex"),
        ("StudyDate", "Study date"),
        ("AccessionNumber", "Accession number"),
        ("SeriesDescription", "Series"),
        ("CompletionFlag", "Completion"),
        ("VerificationFlag", "Verification"),
    ):
        if text := str(report.get(keyword) or ""):
            yield name, text


def _item_value(item: Dataset) -> str:
    kind = str(item.get("ValueType", ""))
    if kind == "CODE":
        return _code_meaning(item.get("ConceptCodeSequence"))
    if kind == "NUM":
        return " ".join(
            f"{measured.get('NumericValue', '')} {_unit_words(measured)}".strip()
            for measured in item.get("MeasuredValueSequence") or ()
        )
    if kind in ("IMAGE", "COMPOSITE"):
        referenced = item.get("ReferencedSOPSequence") or ()
        return ", ".join(
            str(reference.get("ReferencedSOPInstanceUID", "")) for reference in referenced
        )
    keywords = {"TEXT": "TextValue", "UIDREF": "UID", "PNAME": "PersonName", "DATE": "Date"}
    keywords |= {"TIME": "Time", "DATETIME": "DateTime"}
    return str(item.get(keywords.get(kind, ""), "") or "") if kind in keywords else ""


def _unit_words(measured: Dataset) -> str:
    units = measured.get("MeasurementUnitsCodeSequence") or ()
    return str(units[0].get("CodeValue", "")) if units else ""


def _code_meaning(codes: Any) -> str:
    return str(codes[0].get("CodeMeaning", "")) if codes else ""
