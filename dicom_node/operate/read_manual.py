"""Prints a page of the manual: laid out on a terminal, as Markdown elsewhere."""

from __future__ import annotations

import difflib
import json
import sys

from dicom_node.base.errors import NotFound
from dicom_node.manual import SECTIONS, read_pages


def print_page(path: str, *, as_json: bool = False) -> None:
    """Print the page `path`, or the list of pages when it is empty.

    Raises
    ------
    NotFound
        The manual has no such page.
    """
    pages = read_pages()
    if not path:
        if as_json:
            print(json.dumps([{"page": page.path, "title": page.title} for page in pages.values()]))
            return
        for page in pages.values():
            print(f"{page.path:32} {page.title}")
        return
    found = [name for name in pages if path in (name, name.rpartition("/")[2])]
    if not found:
        near = difflib.get_close_matches(path, pages, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else "; `chexfract-node manual` lists them"
        raise NotFound(f"the manual has no page {path[:64]!r} in {', '.join(SECTIONS)[2:]}{hint}")
    page = pages[found[0]]
    if as_json:
        print(json.dumps({"page": page.path, "title": page.title, "text": page.text}))
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(page.text))
    else:
        print(page.text)
