"""Person names (PN): their component groups, and the words that a fuzzy search compares."""

from __future__ import annotations

import unicodedata
from unicodedata import category

MAX_WORDS = 16
"""Words of a fuzzy search that are compared; no name has as many."""

_PLAIN = str.maketrans(
    {
        "ø": "o",
        "ł": "l",
        "đ": "d",
        "ð": "d",
        "ħ": "h",
        "ŧ": "t",
        "ı": "i",  # Turkish: devices write ILGAZ for Ilgaz and for its dotless namesake
        "æ": "ae",
        "œ": "oe",
        "þ": "th",
        "ـ": None,  # Arabic tatweel only stretches a word
        "ى": "ي",
        "ی": "ي",
        "ک": "ك",
        "ة": "ه",
    }
)
"""Letters that Unicode does not take apart and people write in several ways."""

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
    # Twice: some letters are taken apart into capitals, and some small ones into marks.
    letters = unicodedata.normalize("NFKD", text.casefold()).casefold()
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return bare.translate(_PLAIN)


def spaced(text: str) -> str:
    """Return a folded text with a blank for each character that is of no word, but * and ?.

    A vowel sign of Hindi or Thai is a mark and no letter, and yet in the middle of a word.
    """
    return "".join(c if c.isalnum() or c in "*?" or category(c)[0] == "M" else " " for c in text)


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
    return bool(asked) and all(
        any(word.startswith(beginning) for word in there) for beginning in asked
    )
