"""Person names (PN): their component groups, and the words that a fuzzy search compares."""

from __future__ import annotations

import unicodedata

MAX_WORDS = 16
"""Words of a fuzzy search that are compared; no name has as many."""

_SEPARATORS = str.maketrans(dict.fromkeys("^=,;.'’`´-", " "))


def groups(name: str) -> list[str]:
    """Return the alphabetic, ideographic and phonetic form of a name, as far as they are there.

    Blanks and carets at the end of a group say nothing (DICOM PS3.5 6.2.1).
    """
    return [bare for group in name.split("=") if (bare := group.rstrip("^ ").lstrip(" "))]


def folded(text: str) -> str:
    """Return a text without case and accents: ``Müller`` and ``MULLER`` become one."""
    if text.isascii():
        return text.lower()
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def words(name: str) -> list[str]:
    """Return the words of a name, folded, whatever component they stand in."""
    return folded(name).translate(_SEPARATORS).split()


def is_like(wanted: str, name: str) -> bool:
    """Return whether each word of `wanted` begins a word of the name (PS3.4 C.2.2.2.1.1).

    The order, the components, case and accents do not count: ``jane mull`` is like
    ``Müller^Jane``. Wild cards are not looked at: a beginning is enough.
    """
    asked = words(wanted.replace("*", " ").replace("?", " "))[:MAX_WORDS]
    there = words(name)
    return bool(asked) and all(any(word.startswith(one) for word in there) for one in asked)
