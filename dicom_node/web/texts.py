"""The texts of the pages: one catalogue, English where it has no other language yet.

Templates say ``_("…")``, programs `say` and `mark`; ``python -m tests.page_texts`` collects them
into ``locale/pages.pot``. A language is a folder ``locale/<language>/LC_MESSAGES`` with a compiled
``pages.mo``.
"""

from __future__ import annotations

import gettext
from pathlib import Path

FOLDER = Path(__file__).parent / "locale"
DOMAIN = "pages"
LANGUAGE = "en"

translations = gettext.translation(DOMAIN, FOLDER, [LANGUAGE], fallback=True)
"""What the pages are written with; without a compiled catalogue the texts stand for themselves."""


def say_counted(one: str, many: str, count: int, /, **values: object) -> str:
    """Return the text of the catalogue for a count, which is among its values."""
    return translations.ngettext(one, many, count) % {"count": count, **values}


def say(text: str, **values: object) -> str:
    """Return a text of the catalogue in the language of the pages, with its values."""
    translated = translations.gettext(text)
    return translated % values if values else translated
