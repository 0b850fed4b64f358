"""A code as content items hold it: one thing for all trees, asked for its hash again and again."""

from __future__ import annotations

from functools import lru_cache

from highdicom.sr import CodedConcept
from pydicom.sr.coding import Code


class Concept(CodedConcept):
    """A code that is never changed, so that its hash and its values are read once.

    highdicom sorts the items of each container by their names, and asks pydicom for the three
    values of a name each time.
    """

    def __init__(
        self,
        value: str,
        scheme_designator: str,
        meaning: str,
        scheme_version: str | None = None,
    ) -> None:
        super().__init__(value, scheme_designator, meaning, scheme_version)
        self._known_hash = super().__hash__()
        is_plain = scheme_version is None and "CodeValue" in self
        self.triplet = (str(value), str(scheme_designator), str(meaning)) if is_plain else None
        """Value, scheme and meaning, where there is nothing else."""

    def __hash__(self) -> int:
        """Return the hash of highdicom's codes."""
        return self._known_hash


def concept(code: Code) -> Concept:
    """Return a code as content items hold it; it may stand in many trees and is not changed."""
    return _concept(*code)


# By the strings: a Code equals each of the same value and scheme, whatever its meaning is.
@lru_cache(maxsize=1024)
def _concept(value: str, scheme: str, meaning: str, version: str | None) -> Concept:
    return Concept(value, scheme, meaning, version)
