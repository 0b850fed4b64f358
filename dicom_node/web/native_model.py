"""Data sets as XML: the Native DICOM Model (PS3.19 A.1), ``application/dicom+xml``."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"

_BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_PARTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_PERMITTED = "\t\n\r"
"""Control characters that XML 1.0 can hold."""


def as_xml(ds: Dataset, bulk_uri: Callable[[DataElement], str], threshold: int) -> bytes:
    """Return a data set as an XML document.

    Parameters
    ----------
    bulk_uri : callable
        Gives the address of a binary value that has more than `threshold` bytes.
    """
    body = "".join(_element_xml(ds, bulk_uri, threshold))
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    return f'{head}<NativeDicomModel xmlns="{NAMESPACE}">{body}</NativeDicomModel>'.encode()


def _element_xml(
    ds: Dataset, bulk_uri: Callable[[DataElement], str], threshold: int
) -> Iterator[str]:
    for element in ds:
        tag = element.tag
        if tag.element == 0 or tag.is_private_creator:
            continue
        names = f'tag="{int(tag):08X}" vr={quoteattr(str(element.VR))}'
        if element.keyword:
            names += f' keyword="{element.keyword}"'
        if tag.is_private:
            names += f" privateCreator={quoteattr(_xml_text(element.private_creator or ''))}"
        yield f"<DicomAttribute {names}>"
        if element.VR == "SQ":
            for number, item in enumerate(element.value, 1):
                inside = "".join(_element_xml(item, bulk_uri, threshold))
                yield f'<Item number="{number}">{inside}</Item>'
        elif element.VR in _BINARY and isinstance(element.value, bytes):
            yield _inline_binary(element, bulk_uri, threshold)
        else:
            yield from _value_xml(element)
        yield "</DicomAttribute>"


def _inline_binary(
    element: DataElement, bulk_uri: Callable[[DataElement], str], threshold: int
) -> str:
    if len(element.value) > threshold:
        return f"<BulkData uri={quoteattr(bulk_uri(element))}/>"
    inline = base64.b64encode(element.value).decode()
    return f"<InlineBinary>{inline}</InlineBinary>" if inline else ""


def _value_xml(element: DataElement) -> Iterator[str]:
    several: Any = element.value if element.VM > 1 else [element.value]
    for number, value in enumerate(several, 1):
        if value is None or value == "":
            continue
        if element.VR == "PN":
            yield f'<PersonName number="{number}">{_person_name_xml(str(value))}</PersonName>'
        elif element.VR == "AT":
            yield f'<Value number="{number}">{int(value):08X}</Value>'
        else:
            yield f'<Value number="{number}">{escape(_xml_text(str(value)))}</Value>'


def _person_name_xml(name: str) -> str:
    groups = []
    for group, text in zip(_GROUPS, name.split("="), strict=False):
        parts = [
            f"<{part}>{escape(_xml_text(value))}</{part}>"
            for part, value in zip(_PARTS, text.split("^"), strict=False)
            if value
        ]
        if parts:
            groups.append(f"<{group}>{''.join(parts)}</{group}>")
    return "".join(groups)


def _xml_text(value: str) -> str:
    """Return a text without what XML cannot hold."""
    if value.isprintable():
        return value
    return "".join(
        c for c in value if (c >= " " or c in _PERMITTED) and not "\ud800" <= c <= "\udfff"
    ).translate({0xFFFE: None, 0xFFFF: None})
