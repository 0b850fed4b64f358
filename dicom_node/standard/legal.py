"""Values of an image's header in the form that an object made from it may hold (PS3.5 6.2)."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

LONGEST: Final = {
    "AE": 16,
    "CS": 16,
    "DS": 16,
    "IS": 12,
    "LO": 64,
    "LT": 10240,
    "PN": 64,
    "SH": 16,
    "ST": 1024,
    "UC": 2**16,
    "UT": 2**16,
}
"""Value representation -> characters of one value; of a PN, of one component group."""

_PARAGRAPHS: Final = frozenset({"LT", "ST", "UT"})
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?", re.ASCII)
_CODE = re.compile(r"[^A-Z0-9_ ]", re.ASCII)


def legal_text(vr: str, value: str) -> str:
    """Return the text of a single-valued element as its value representation allows it.

    A control character becomes a blank, a backslash (which would part two values) a slash, and
    what is over the length is cut. A legal value is returned as it is.

    Parameters
    ----------
    vr : str
        Value representation, for example ``"LO"``.
    value : str
        Decoded text.
    """
    kept = "\r\n\f\t" if vr in _PARAGRAPHS else ""
    # U+0080 to U+009F are control characters of ISO 6429 too.
    text = "".join(
        c if c in kept or (c >= " " and not "\x7f" <= c <= "\x9f") else " " for c in value
    )
    if text != value:
        text = text.strip()
    if vr in _PARAGRAPHS:
        return text[: LONGEST[vr]]
    text = text.replace("\\", "/")
    if vr == "PN":
        groups = text.split("=")[:3]
        return "=".join(_legal_components(group)[: LONGEST["PN"]].rstrip() for group in groups)
    if vr == "CS":
        text = _CODE.sub("", text.upper())
    return text[: LONGEST.get(vr, len(text))]


def _legal_components(group: str) -> str:
    """Return a component group of a person's name with at most five components."""
    parts = group.split("^")
    return "^".join([*parts[:4], " ".join(part for part in parts[4:] if part)][: len(parts)])


_FIRST_YEAR = 1000


def legal_date(value: str) -> str:
    """Return a DA value, repaired where its meaning is plain, else empty."""
    digits = re.sub(r"[.\-/]", "", value.strip(" \0"))
    if not re.fullmatch(r"[0-9]{8}", digits):
        return ""
    try:
        day = date.fromisoformat(digits)
    except ValueError:
        return ""
    # 00010101 is what programs write that have no date; validators take no year before 1000.
    return digits if day.year >= _FIRST_YEAR else ""


def legal_time(value: str) -> str:
    """Return a TM value, repaired where its meaning is plain, else empty."""
    digits = value.strip(" \0").replace(":", "")
    return digits if _TIME.fullmatch(digits) else ""
