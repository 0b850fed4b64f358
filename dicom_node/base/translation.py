"""Marks a text of a program that people read on the pages, so that the catalogue has it."""

from __future__ import annotations

from dicom_node.base.plurals import Plural


def mark(text: str) -> str:
    """Return `text` as it is; whoever shows it on a page looks its translation up."""
    return text


def mark_counted(one: str, many: str) -> Plural:
    """Return a text for one thing and for several, as they are; ``%(count)s`` tells which."""
    return Plural(one, many)
