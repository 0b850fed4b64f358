"""The manual on the pages, readable without a sign-in and without a network."""

from __future__ import annotations

import posixpath
import re
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from dicom_node.manual import SECTIONS, ManualPage, read_pages
from dicom_node.web.render import Pages
from dicom_node.web.sessions import Door

if TYPE_CHECKING:
    from markdown_it.token import Token

_OUTSIDE = re.compile(r"[a-z]+:|#|/")


def routes(door: Door, pages: Pages) -> APIRouter:
    """Return the manual; nothing in it is secret."""
    router = APIRouter()
    manual = read_pages()
    contents = [
        (SECTIONS[section], list(group))
        for section, group in groupby(manual.values(), key=lambda page: page.section)
    ]

    @router.get("/manual")
    def first(request: Request) -> HTMLResponse:
        """Show the first page."""
        return shown(request, "index")

    @router.get("/manual/{path:path}")
    def page(request: Request, path: str) -> HTMLResponse:
        """Show one page."""
        return shown(request, path.removesuffix("/").removesuffix(".md") or "index")

    def shown(request: Request, path: str) -> HTMLResponse:
        found = manual.get(path)
        if found is None:
            raise HTTPException(404, "the manual has no such page")
        person, body = door.person(request), rendered(found)
        return pages.page("manual.html", person, page=found, body=body, contents=contents)

    return router


@lru_cache(maxsize=64)
def rendered(page: ManualPage) -> str:
    """Return a page as HTML; its relative links lead to other pages of the manual."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.anchors import anchors_plugin

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.use(anchors_plugin, max_level=3)
    tokens = markdown.parse(page.text)
    for token in tokens:
        for inner in token.children or ():
            _rewrite_link(inner, page.path)
    return str(markdown.renderer.render(tokens, markdown.options, {}))


def _rewrite_link(token: Token, path: str) -> None:
    href = token.attrs.get("href")
    if token.type != "link_open" or not isinstance(href, str) or _OUTSIDE.match(href):
        return
    target, mark, anchor = href.partition("#")
    whole = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    token.attrs["href"] = f"/manual/{whole.removesuffix('.md')}{mark}{anchor}"
