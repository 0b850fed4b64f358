"""Forms, users, keys, removals and refusals fit phone, tablet and desk in both themes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import axe
import pages
import pytest
import scene
import screens
from overlaps import OVERLAPS
from serving import Api, serving

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WIDTHS = (390, 820, 1440)
WAIT_MS = 60_000

TO_THE_END = "scrollTo(0, document.documentElement.scrollHeight)"
"""There the bar of a form's buttons lies in its own place, and over nothing."""

FORMS = ("/peers/archive/edit", "/rules/edit?name=trial", "/retention/edit")
LISTS = ("/configuration/history", "/users", "/keys")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("node"), rules=scene.RULES) as api:
        scene.crowd(api, 12)
        screens.give_file(api)
        screens.add_people(api)
        yield api


@pytest.fixture(scope="module")
def admin(api: Api) -> Iterator[Any]:
    with pages.browser() as page:
        page.set_default_timeout(WAIT_MS)
        screens.sign_in(page, api.url)
        yield page


def steps(api: Api, page: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield how each page is reached, by its name."""
    for path in (*FORMS, *LISTS):
        yield path, lambda path=path: page.goto(api.url + path)
    for name in ("peer-seen", "peer-wrong", "peer-conflict", "rule-removed", "retention-wrong"):
        path, act = screens.ACTS[name]
        yield name, lambda path=path, act=act: (page.goto(api.url + path), act(page))
    yield "removal", lambda: (page.goto(f"{api.url}/disk?older=0"), screens.remove_all(page))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_people_fill_in_fits_every_width(api: Api, admin: Any, scheme: str) -> None:
    script, wrong, page = axe.script(), [], admin
    page.emulate_media(color_scheme=scheme)
    for name, reach in steps(api, page):
        reach()
        screens.open_all(page)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate(TO_THE_END)
            # what is not a matter of theme and width is the same in all six
            is_first = (scheme, width) == ("light", WIDTHS[0])
            judge = axe.violations if is_first else axe.violations_as_drawn
            found = [*page.evaluate(OVERLAPS), *judge(page, script)]
            wrong += [f"{name} at {width}: {what}" for what in found]
    assert wrong == []


def test_who_may_not_is_told_so_at_every_width(api: Api, admin: Any) -> None:
    script = axe.script()
    # without motion: halfway from theme to theme a link has the colour of neither
    with admin.context.browser.new_context(reduced_motion="reduce") as context:
        page = pages.watched(context.new_page())
        screens.sign_in(page, api.url, "reading-room-2")
        for path in ("/users", "/peers/new"):
            assert page.goto(api.url + path).status == 403
            assert "the role administrator, and yours is viewer" in page.inner_text("main")
            for scheme, width in zip(("light", "dark", "light"), WIDTHS, strict=True):
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": 900})
                assert [*page.evaluate(OVERLAPS), *axe.violations(page, script)] == []
