"""Whether an attribute matches a key of a query (DICOM PS3.4 C.2.2.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

WILD = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
"""Value representations in which ``*`` and ``?`` are wildcards (PS3.4 C.2.2.2.4)."""

_NUMBERS = frozenset(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))
_FIRST = {"DA": "00000101", "TM": "000000.000000"}
_LAST = {"DA": "99999999", "TM": "999999.999999"}


def values(element: DataElement | None) -> list[str]:
    """Return the values of an element as text without padding; none for an empty one."""
    if element is None or element.value is None or element.VR == "SQ":
        return []
    several = element.value if element.VM > 1 else [element.value]
    return [text for one in several if (text := str(one).strip(" \0"))]


def is_universal(key: DataElement) -> bool:
    """Return whether a key matches everything (PS3.4 C.2.2.2.3)."""
    if key.VR == "SQ":
        return not any(len(item) for item in key.value or ())
    texts = values(key)
    return not texts or (key.VR in WILD and all(set(text) == {"*"} for text in texts))


def matches(key: DataElement, found: DataElement | None) -> bool:
    """Return whether one of the values found matches one of the values of the key.

    Parameters
    ----------
    key : DataElement
        An element of the query's identifier; empty, or ``*``, matches whatever is found.
    found : DataElement or None
        The element of the entity that is asked for; None where it has none.
    """
    if is_universal(key):
        return True
    if key.VR == "SQ":
        return _sequence_matches(key, found)
    there = values(found)
    return any(_matches(key.VR, wanted, text) for wanted in values(key) for text in there)


def all_match(keys: Iterable[DataElement], found: Mapping[Any, DataElement] | Dataset) -> bool:
    """Return whether every key matches its attribute of `found`."""
    return all(matches(key, found.get(key.tag)) for key in keys)


def bounds(vr: str, wanted: str) -> tuple[str, str]:
    """Return the first and the last value of a DA or TM key, in full length.

    A single value stands for all that it leaves open: ``1015`` for that whole minute.
    """
    first, is_range, last = wanted.replace(":", "").partition("-")
    first, last = first.strip(), (last if is_range else first).strip()
    return first + _FIRST[vr][len(first) :], last + _LAST[vr][len(last) :]


def _matches(vr: str, wanted: str, text: str) -> bool:
    if vr in ("DA", "TM"):
        first, last = bounds(vr, wanted)
        # Dates of ACR-NEMA have points, times colons: 2026.11.22, 10:15.
        plain = text.replace(":", "") if vr == "TM" else text.replace(".", "")
        return first <= plain + _FIRST[vr][len(plain) :] <= last
    if vr in _NUMBERS:
        return _number(wanted) == _number(text)
    if vr == "PN":
        return _name_matches(wanted, text)
    return bool(_pattern(wanted, 0).fullmatch(text)) if vr in WILD else wanted == text


def _name_matches(wanted: str, text: str) -> bool:
    """Match the whole name or one of its component groups, whatever the case (PS3.4 C.2.2.2.1)."""
    names = [text, *text.split("=")]
    pattern = _pattern(wanted.rstrip("^= "), re.IGNORECASE)
    return any(pattern.fullmatch(name.rstrip("^= ")) for name in names)


@lru_cache(maxsize=256)
def _pattern(wanted: str, flags: int) -> re.Pattern[str]:
    # One * is as good as several, and cannot make the matching slow.
    parts = re.split(r"(\*+|\?)", wanted)
    parts = [".*" if p[:1] == "*" else "." if p == "?" else re.escape(p) for p in parts]
    return re.compile("".join(parts), flags | re.DOTALL)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _sequence_matches(key: DataElement, found: DataElement | None) -> bool:
    (wanted, *_) = key.value
    return any(all_match(wanted, item) for item in (found.value if found is not None else ()))
