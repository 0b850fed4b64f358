"""Every text of the pages stands in the catalogue, so that another language can follow."""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import page_texts
import pytest
from jinja2 import Environment

from dicom_node.settings import Settings
from dicom_node.web import render, texts
from dicom_node.web.render import templates
from dicom_node.web.sessions import Person

TEMPLATES = sorted((page_texts.PACKAGE / "web" / "templates").glob("*.html"))
SHOWN = ("aria-label", "placeholder", "title", "alt", "data-done", "data-label")
OWN = re.compile(r"ChexFract Node|TLS|ms")
"""Names and units, the same in every language."""


class Words(HTMLParser):
    """Collects what people read of a template whose expressions were taken out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in ("code", "kbd", "script")
        self.found += [value for name, value in attrs if name in SHOWN and value]

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("code", "kbd", "script")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.found.append(data)


def literal(source: str) -> Iterator[str]:
    """Yield the parts of a template that are neither code nor in a ``trans`` block."""
    environment = Environment(extensions=["jinja2.ext.i18n"], autoescape=True)
    is_translated, words = False, []
    for _line, kind, value in environment.lex(source):
        if kind == "block_begin":
            words = []
        elif kind == "name":
            words.append(value)
        elif kind == "block_end":
            is_translated = words[:1] == ["trans"] or (is_translated and words[:1] != ["endtrans"])
        elif kind == "data" and not is_translated:
            yield value


def unmarked(source: str) -> list[str]:
    parser = Words()
    parser.feed("".join(literal(source)))
    return [text.strip() for text in parser.found if re.search(r"[^\W\d_]{2,}", OWN.sub("", text))]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_text_of_a_template_is_marked(path: Path) -> None:
    assert unmarked(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("<p>Hello</p>", ["Hello"]),
        ('<p>{{ _("Hello") }}</p>', []),
        ("<p>{% trans %}Hello <code>there</code>{% endtrans %}</p>", []),
        ("<p>{% trans %}Hello{% endtrans %} there</p>", ["there"]),
        ('<button aria-label="Close">{{ x }}</button>', ["Close"]),
        ('<a title="{{ _("Close") }}" href="/abc">{{ x }}</a>', []),
        ("<code>init</code> <kbd>Esc</kbd>", []),
    ],
)
def test_a_text_that_is_not_marked_is_found(source: str, found: list[str]) -> None:
    assert unmarked(source) == found


def test_the_catalogue_is_that_of_the_pages() -> None:
    """``python -m tests.page_texts`` writes it again."""
    assert page_texts.CATALOGUE.read_text(encoding="utf-8") == page_texts.collected()


def test_states_and_conditions_stand_in_the_catalogue() -> None:
    catalogue = page_texts.collected()
    for pill in (*render.PILLS.values(), *render.PRESENCE.values()):
        assert f'msgid "{pill.word}"' in catalogue
    assert "The disk is full" in catalogue


@pytest.fixture
def another_language(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every text of the catalogue stand in brackets."""

    class Brackets(gettext.NullTranslations):
        def gettext(self, message: str) -> str:
            return f"⟦{message}⟧"

        def ngettext(self, one: str, many: str, n: int) -> str:
            return f"⟦{one if n == 1 else many}⟧"

    installer: Any = templates
    monkeypatch.setattr(texts, "translations", Brackets())
    installer.install_gettext_translations(Brackets(), newstyle=True)
    yield
    installer.install_gettext_translations(gettext.NullTranslations(), newstyle=True)


def test_another_language_reaches_pages_and_states(another_language: None) -> None:
    page = render.Pages(Settings()).text("sign_in.html", None, problem="", is_open=True, to="/")
    seen = re.sub(r"<(title|code|style)>.*?</\1>|<[^>]*>|⟦.*?⟧", "", page, flags=re.DOTALL)
    assert re.sub(r"ChexFract Node [\w.+]+|CHEXFRACT", "", seen).strip(" .✕\n") == ""
    assert templates.filters["pill"]("failed").word == "⟦Failed⟧"
    person = Person("Ann", "viewer", "t")
    assert "⟦viewer⟧" in render.Pages(Settings(web={"sign_in": True})).text(
        "signed_in.html", person, to="/", is_weak=True
    )
