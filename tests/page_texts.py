"""Collects the texts of the pages into their catalogue: ``python -m tests.page_texts``."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_file
from babel.messages.pofile import write_po

PACKAGE = Path(__file__).resolve().parent.parent / "dicom_node"
CATALOGUE = PACKAGE / "web" / "locale" / "pages.pot"

KEYWORDS: dict[str, Any] = {
    "_": None,
    "gettext": None,
    "ngettext": (1, 2),
    "say": None,
    "mark": None,
    "mark_counted": (1, 2),
    "say_counted": (1, 2),
}


def sources() -> Iterator[tuple[Path, str]]:
    """Yield the files that hold texts of the pages, with the way to read each."""
    yield PACKAGE / "conditions.py", "python"
    for path in sorted((PACKAGE / "web").glob("*.py")):
        yield path, "python"
    for path in sorted((PACKAGE / "web" / "templates").glob("*.html")):
        yield path, "jinja2.ext:babel_extract"


def collected() -> str:
    """Return the catalogue of now; without a date, so that it changes with its texts alone."""
    catalogue = Catalog(
        project="ChexFract Node", header_comment="# Texts of the pages of ChexFract Node."
    )
    for path, way in sources():
        options = {"trimmed": "true", "silent": "false"} if "jinja2" in way else {}
        method: Any = way
        if "jinja2" in way:
            from jinja2.ext import babel_extract as method
        found = extract_from_file(method, path, keywords=KEYWORDS, options=options)
        for _line, text, comments, _context in found:
            name = path.relative_to(PACKAGE.parent).as_posix()
            catalogue.add(text, locations=[(name, 0)], auto_comments=comments)
    file = io.BytesIO()
    write_po(file, catalogue, sort_output=True, include_lineno=False, width=100)
    lines = file.getvalue().decode().splitlines(keepends=True)
    # what differs from day to day, and what nobody has filled in
    left_out = ('"POT-', '"PO-', '"Generated-By', '"Last-', '"Report-', '"Language-', "#, fuzzy")
    return "".join(line for line in lines if not line.startswith(left_out))


def main() -> int:
    """Write the catalogue and return 0."""
    CATALOGUE.parent.mkdir(exist_ok=True)
    CATALOGUE.write_text(collected(), encoding="utf-8")
    print(f"{CATALOGUE}: {collected().count(chr(10) + 'msgid ')} texts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
