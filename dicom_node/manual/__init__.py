"""The manual's pages, as they stand beside this file: found, named and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

SECTIONS: Mapping[str, str] = {
    "": "ChexFract Node",
    "tutorial": "Tutorial",
    "how-to": "How to",
    "reference": "Reference",
    "explanation": "Explanation",
}
"""Folder -> heading, in the order of reading."""


@dataclass(frozen=True, slots=True)
class ManualPage:
    """One page of the manual."""

    path: str
    """Way to it without ``.md``, such as ``how-to/backup``."""
    title: str
    section: str
    """Folder that it stands in; empty for a page at the top."""
    text: str
    """Markdown."""


def read_pages() -> Mapping[str, ManualPage]:
    """Return every page by its path: the first page first, then section by section."""
    root = files(__name__)
    found = [page for folder in SECTIONS for page in _in_folder(root, folder)]
    found.sort(key=lambda page: (page.path != "index", [*SECTIONS].index(page.section)))
    return {page.path: page for page in found}


def _in_folder(root: Traversable, folder: str) -> Iterator[ManualPage]:
    place = root.joinpath(folder) if folder else root
    if not place.is_dir():
        return
    for file in sorted(place.iterdir(), key=lambda path: path.name):
        if file.name.endswith(".md"):
            text = file.read_text(encoding="utf-8")
            name = file.name.removesuffix(".md")
            title = text.partition("\n")[0].lstrip("# ").strip()
            yield ManualPage(f"{folder}/{name}" if folder else name, title, folder, text)
