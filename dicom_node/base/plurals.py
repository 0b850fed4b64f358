"""How a count and its noun are written: one image, two images."""

from __future__ import annotations

from typing import NamedTuple


class Plural(NamedTuple):
    """A text for one thing and a text for any other number of them."""

    one: str
    many: str

    def of(self, count: int) -> str:
        """Return the text for a count."""
        return self.one if count == 1 else self.many


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun.

    Parameters
    ----------
    count : int
    one : str
        What follows the number 1.
    many : str, optional
        What follows any other number; `one` with an s when left out.

    Examples
    --------
    >>> counted(1, "image"), counted(3, "image"), counted(1, "label stands", "labels stand")
    ('1 image', '3 images', '1 label stands')
    """
    return f"{count} {Plural(one, many or one + 's').of(count)}"
