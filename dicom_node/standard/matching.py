"""Whether an attribute matches a key of a query (DICOM PS3.4 C.2.2.2), in linear time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dicom_node.standard import names

if TYPE_CHECKING:  # the command line matches texts, and waits for no import of pydicom
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

WILD = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
"""Value representations in which ``*`` and ``?`` are wildcards (PS3.4 C.2.2.2.4)."""

SEVERAL = frozenset(("AE", "AS", "AT", "CS", "LO", "PN", "SH", "UC"))
"""Value representations of Multiple Value Matching (PS3.4 C.2.2.2.8)."""

EMPTY = '""'
"""The key that asks for an empty value, where Empty Value Matching is on (PS3.4 C.2.2.2.7)."""

MAX_PATTERN = 1024
"""Characters of a text with wild cards; a longer one matches nothing."""

_NUMBERS = frozenset(("DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV"))
_RANGES = frozenset(("DA", "TM", "DT"))
_FIRST = {"DA": "00000101", "TM": "000000.000000", "DT": "00000101000000.000000"}
_LAST = {"DA": "99999999", "TM": "999999.999999", "DT": "99999999999999.999999"}


@dataclass(frozen=True, slots=True)
class How:
    """How keys are compared where a query may choose.

    ``fuzzy``: names by their words. ``empty_values``: a key of two quotation marks asks for an
    empty value. ``several_values``: the entity must have all values of a key, not one of them.
    """

    fuzzy: bool = False
    empty_values: bool = False
    several_values: bool = False


PLAIN = How()
"""What holds where nothing was chosen."""


class Wild:
    """A text in which ``*`` stands for any characters and ``?`` for one.

    The possible positions in the pattern are the bits of one number, so a character of the text
    costs one step whatever stands in the pattern: no text makes the match go back and try again.

    Parameters
    ----------
    pattern : str
    has_sets : bool
        Whether ``[ab]``, ``[a-z]`` and ``[!ab]`` stand for one character, too: rules of a site
        may write them, keys of a query may not.
    """

    __slots__ = ("_any", "_end", "_loops", "_not", "_of", "_size")

    def __init__(self, pattern: str, *, has_sets: bool = False) -> None:
        self._size = len(pattern) - pattern.count("*")
        if self._size > MAX_PATTERN:
            return
        # Positions at which a character is the next, any is, and any but these are.
        self._of: dict[str, int] = {}
        self._any = 0
        self._not: dict[str, int] = {}
        # Positions at which any number of characters may come first.
        self._loops = 0
        position, at, self._size = 1, 0, 0
        while at < len(pattern):
            character, at = pattern[at], at + 1
            if character == "*":
                self._loops |= position
                continue
            if character == "?":
                self._any |= position
            elif has_sets and character == "[" and (end := pattern.find("]", at + 1)) > 0:
                self._add_set(position, pattern[at:end])
                at = end + 1
            else:
                self._of[character] = self._of.get(character, 0) | position
            position <<= 1
            self._size += 1
        self._end = position

    def _add_set(self, position: int, members: str) -> None:
        positions = self._of
        if members[0] in "!^":
            self._any |= position
            positions, members = self._not, members[1:]
        while members:
            last = members[2] if members[1:2] == "-" and len(members) > 2 else members[0]
            for code in range(ord(members[0]), ord(last) + 1):
                positions[chr(code)] = positions.get(chr(code), 0) | position
            members = members[3 if members[1:2] == "-" and len(members) > 2 else 1 :]

    def matches(self, text: str) -> bool:
        """Return whether the whole text is of this form."""
        if self._size > len(text) or self._size > MAX_PATTERN:
            return False
        # bit n is set when the pattern's first n characters can stand for the text so far: linear,
        # whatever the stars
        reached = 1
        for character in text:
            next_ones = self._of.get(character, 0) | (self._any & ~self._not.get(character, 0))
            # a character goes one position on, or stays where a star lets any come
            reached = ((reached & next_ones) << 1) | (reached & self._loops)
            if not reached:
                return False
        return bool(reached & self._end)


@lru_cache(maxsize=1024)
def wild(pattern: str, *, has_sets: bool = False) -> Wild:
    """Return the matcher of a pattern, made once."""
    return Wild(pattern, has_sets=has_sets)


def values(element: DataElement | None) -> list[str]:
    """Return the values of an element as text without padding; none for an empty element."""
    if element is None or element.value is None or element.VR == "SQ":
        return []
    several = element.value if element.VM > 1 else [element.value]
    return [text for value in several if (text := str(value).strip(" \0"))]


def is_universal(key: DataElement) -> bool:
    """Return whether a key matches everything (PS3.4 C.2.2.2.3).

    So does a sequence whose item holds such keys only (C.2.2.2.6). ``*`` is not a wild card in
    dates, numbers and UIDs; products send it for "any" all the same.
    """
    if key.VR == "SQ":
        return all(is_universal(element) for item in key.value or () for element in item)
    return all(set(text) == {"*"} for text in values(key))


def matches(key: DataElement, found: DataElement | None, how: How = PLAIN) -> bool:
    """Return whether one of the values found matches one of the values of the key.

    Parameters
    ----------
    key : DataElement
        An element of the query's identifier; empty, or ``*``, matches whatever is found.
    found : DataElement or None
        The element of the entity that is asked for; None where it has none.
    how : How
        What the query chose.
    """
    if is_universal(key):
        return True
    if key.VR == "SQ":
        return _sequence_matches(key, found, how)
    wanted, there = values(key), values(found)
    if how.empty_values and wanted == [EMPTY]:
        return not there
    each = (any(_value_matches(key.VR, pattern, text, how) for text in there) for pattern in wanted)
    return all(each) if how.several_values and key.VR in SEVERAL else any(each)


def all_match(
    keys: Iterable[DataElement],
    found: Mapping[Any, DataElement] | Dataset,
    how: How = PLAIN,
) -> bool:
    """Return whether every key matches its attribute of `found`."""
    return all(matches(key, found.get(key.tag), how) for key in keys)


def bounds(vr: str, wanted: str) -> tuple[str, str]:
    """Return the first and the last value of a DA, TM or DT key, in full length.

    A single value stands for all that it leaves open: ``1015`` for that whole minute.
    """
    plain = wanted.replace(".", "") if vr == "DA" else wanted.replace(":", "")
    first, is_range, last = plain.partition("-")
    first, last = first.strip(), (last if is_range else first).strip()
    return first + _FIRST[vr][len(first) :], last + _LAST[vr][len(last) :]


def _value_matches(vr: str, wanted: str, text: str, how: How) -> bool:
    if vr in _RANGES:
        first, last = bounds(vr, wanted)
        # Dates of ACR-NEMA have points, times colons: 2026.11.22, 10:15.
        plain = text.replace(".", "") if vr == "DA" else text.replace(":", "")
        return first <= plain + _FIRST[vr][len(plain) :] <= last
    if vr in _NUMBERS:
        return _number_or_text(wanted) == _number_or_text(text)
    if vr == "PN":
        return _name_matches(wanted, text, how)
    return wild(wanted).matches(text) if vr in WILD else wanted == text


def _name_matches(wanted: str, text: str, how: How) -> bool:
    """Match the whole name or one of its component groups, whatever the case (PS3.4 C.2.2.2.1)."""
    if how.fuzzy:
        return names.is_like(wanted, text)
    pattern = wild(wanted.rstrip("^= ").casefold())
    return any(pattern.matches(name.rstrip("^= ").casefold()) for name in (text, *text.split("=")))


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _sequence_matches(key: DataElement, found: DataElement | None, how: How) -> bool:
    (wanted, *_) = key.value
    return any(all_match(wanted, item, how) for item in (found.value if found is not None else ()))
