"""Takes single elements out of a header that nobody vouches for."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any

from pydicom import Dataset
from pydicom.charset import decode_bytes, python_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement

from dicom_node.standard.unreadable import UNREADABLE

_MULTI_BYTE = ("iso2022", "shift", "gb", "euc", "johab")
"""Beginnings of Python's names of codecs whose bytes may look like UTF-8 by chance."""


def holds(ds: Dataset, keyword: str) -> bool:
    """Return whether the element is there.

    Most that are asked for are not, and pydicom raises and catches an error before it says so.
    """
    return tag_for_keyword(keyword) in ds.keys()  # noqa: SIM118 - `in ds` makes a tag of it first


def value(ds: Dataset, keyword: str) -> Any:
    """Return the element's value, or None when it is absent, empty or unreadable."""
    if not holds(ds, keyword):
        return None
    try:
        found = ds.get(keyword)
    except UNREADABLE:
        return None
    return None if found is None or (isinstance(found, str) and not found.strip()) else found


def unread(ds: Dataset, keyword: str) -> Any:
    """Return the element's bytes where nobody has made numbers of them yet, else its value."""
    found = ds.get_item(keyword) if holds(ds, keyword) else None
    return found.value if isinstance(found, RawDataElement) else value(ds, keyword)


def values(ds: Dataset, keyword: str) -> tuple[Any, ...]:
    """Return the element's values, none when it is absent, empty or unreadable."""
    found = value(ds, keyword)
    if found is None:
        return ()
    if isinstance(found, Iterable) and not isinstance(found, (str, bytes)):
        return tuple(found)
    return (found,)


def words(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the element's values as upper case text without outer blanks."""
    return tuple(str(found).strip(" \0\r\n\t").upper() for found in values(ds, keyword))


def word(ds: Dataset, keyword: str) -> str:
    """Return the first value as upper case text; empty when there is none."""
    found = words(ds, keyword)
    return found[0] if found else ""


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the element's values as people wrote them, in whatever script.

    A code string is ASCII by the Standard (PS3.5 6.2), and pydicom reads it so; devices write it
    in the character set of the other texts all the same.
    """
    found = unread(ds, keyword)
    if isinstance(found, str) and not found.isascii():
        # pydicom has read it as Latin-1 before; whatever else it is, does not fit Latin-1.
        try:
            found = found.encode("latin-1")
        except UnicodeEncodeError:
            return (found.strip(),)
    if not isinstance(found, bytes):
        return tuple(str(part).strip(" \0\r\n\t") for part in values(ds, keyword))
    # Such values have 16 or 64 characters (PS3.5 6.2): what is longer is not decoded whole.
    return tuple(part.strip(" \0\r\n\t") for part in _decode_text(found[:4096], ds).split("\\"))


def _decode_text(content: bytes, ds: Dataset) -> str:
    if content.isascii() and b"\x1b" not in content:
        return content.decode("ascii")
    declared = [str(name).strip() for name in values(ds, "SpecificCharacterSet")]
    codecs = [python_encoding[name] for name in declared if name in python_encoding]
    # ISO 2022, Shift-JIS, GB and EUC texts may be valid UTF-8 by chance; Latin ones hardly ever
    # are.
    is_multi_byte = any(codec.startswith(_MULTI_BYTE) for codec in codecs)
    # Bytes of another script than Latin that happen to be UTF-8 are UTF-8, whatever is declared.
    for codec in [*codecs[:1], "utf-8"] if is_multi_byte else ["utf-8", *codecs[:1]]:
        try:
            if len(codecs) > 1 or b"\x1b" in content:
                return decode_bytes(content, codecs or ["iso8859"], {0x5C})
            return content.decode(codec)
        except (LookupError, ValueError, Warning):
            continue
    return content.decode("latin-1")


def fold_text(text: str) -> str:
    """Return text in upper case, without accents and without what is neither letter nor digit.

    >>> fold_text("Tórax  (P.A.)")
    'TORAX P A'
    """
    upper = text.upper().replace("Ł", "L").replace("Ø", "O").replace("Đ", "D").replace("Æ", "AE")
    letters = [
        letter if letter.isalnum() else " "
        # NFKD parts a letter from its accents; the four letters above have no such parts.
        for letter in unicodedata.normalize("NFKD", upper)
        if not unicodedata.combining(letter)
    ]
    return " ".join("".join(letters).split())


def numbers(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the element's values as numbers; none at all when any of them is not finite.

    ``2048,5`` is read as 2048.5: devices write numbers in the way of their country.
    """
    found = values(ds, keyword)
    if not found:
        found = _number_texts(ds, keyword)
    try:
        read = tuple(float(_with_point(part)) for part in found)
    except (TypeError, ValueError, OverflowError):
        return ()
    return read if all(math.isfinite(number) for number in read) else ()


def has_decimal_comma(ds: Dataset, keyword: str) -> bool:
    """Return whether a comma stands where numbers have a point."""
    written = (*_number_texts(ds, keyword), *values(ds, keyword))
    return any(isinstance(part, str) and "," in part for part in written)


def _number_texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of a decimal string as they are written, none of other elements."""
    found = unread(ds, keyword)
    if isinstance(found, bytes) and found.isascii():
        found = found.decode("ascii")
    if not isinstance(found, str) or not found.strip(" \0"):
        return ()
    return tuple(part.strip(" \0") for part in found.split("\\"))


def _with_point(part: Any) -> Any:
    is_comma = isinstance(part, str) and part.count(",") == 1 and "." not in part
    return part.replace(",", ".") if is_comma else part


def number(ds: Dataset, keyword: str) -> float | None:
    """Return the first value as a number, or None."""
    found = numbers(ds, keyword)
    return found[0] if found else None


def integer(ds: Dataset, keyword: str) -> int | None:
    """Return the first value when it is a whole number, or None."""
    found = number(ds, keyword)
    return int(found) if found is not None and found == int(found) else None


def items(ds: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """Return the items of a sequence, none when it is absent or unreadable."""
    return tuple(item for item in values(ds, keyword) if isinstance(item, Dataset))


def transfer_syntax(ds: Dataset) -> str:
    """Return the Transfer Syntax UID of a Part 10 file; empty when it has none."""
    return word(getattr(ds, "file_meta", None) or Dataset(), "TransferSyntaxUID")
