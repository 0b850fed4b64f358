"""Takes single elements out of a header that nobody vouches for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import RawDataElement


def value(ds: Dataset, keyword: str) -> Any:
    """Return the element's value, or None when it is absent, empty or unreadable."""
    try:
        found = ds.get(keyword)
    except Exception:  # noqa: BLE001 - whatever a stranger's bytes raise, they are unreadable
        return None
    return None if found is None or (isinstance(found, str) and not found.strip()) else found


def unread(ds: Dataset, keyword: str) -> Any:
    """Return the element's bytes where nobody has made numbers of them yet, else its value."""
    found = ds.get_item(keyword) if keyword in ds else None
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
    return tuple(str(found).strip().upper() for found in values(ds, keyword))


def word(ds: Dataset, keyword: str) -> str:
    """Return the first value as upper case text; empty when there is none."""
    found = words(ds, keyword)
    return found[0] if found else ""


def numbers(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """Return the element's values as numbers; none at all when one of them is not finite."""
    try:
        found = tuple(float(number) for number in values(ds, keyword))
    except (TypeError, ValueError, OverflowError):
        return ()
    return found if all(math.isfinite(number) for number in found) else ()


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
