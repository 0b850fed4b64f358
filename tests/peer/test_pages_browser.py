"""The pages in a real Chromium: live rows, search, acts, sign-in, themes, hostile text."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import pytest
from peers import need
from serving import SECRET, Api, serving
from stations import free_ports, wait_for

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ALL = ("/", "/peers", "/rules", "/models", "/configuration")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    rule = {"name": "chests", "match": {"modality": ["DX"]}, "mode": "shadow"}
    with serving(tmp_path_factory.mktemp("node"), sign_in=False, rules=[rule]) as running:
        yield running


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    chromium.faults.clear()
    yield chromium
    leave(chromium)
    assert chromium.faults == []


def leave(page: Any) -> None:
    """Go to an empty page; a navigation that the test began may still be on its way."""
    from playwright.sync_api import Error

    for _ in range(5):
        try:
            page.wait_for_load_state()
            page.goto("about:blank")
        except Error as exc:
            if "interrupted by another navigation" not in str(exc):
                raise
        else:
            return
    page.goto("about:blank")


PICTURE = pages.picture()


def finished(api: Api, **facts: Any) -> str:
    uid = pages.keep(api, PICTURE, pages.route(), **facts)
    pages.reported(api, pages.claimed(api))
    return uid


def until(page: Any, what: str) -> None:
    """Wait for a JavaScript expression; Playwright's own wait needs `eval`, which is forbidden."""
    wait_for(what, lambda: page.evaluate(what), 60)


def test_an_image_that_arrives_appears_without_a_reload(api: Api, page: Any) -> None:
    page.goto(api.url)
    page.evaluate("window.stays = true")
    finished(api, patient_name="Comes^Live")
    row = page.locator("tr", has_text="Comes, Live")
    # the page may have looked before the report was there
    row.get_by_text("Reported").first.wait_for(timeout=15000)
    pages.deliver(api, 0)
    row.get_by_text("✓ Sent").first.wait_for(timeout=15000)
    assert page.evaluate("window.stays")


def test_the_focus_stays_when_the_list_changes(api: Api, page: Any) -> None:
    finished(api, patient_name="Focus^Me")
    page.goto(api.url)
    link = page.get_by_role("button", name="Open: Focus, Me")
    link.focus()
    finished(api, patient_name="Comes^Above")
    page.get_by_text("Comes, Above").wait_for(timeout=15000)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Open: Focus, Me"


def test_typing_searches_and_what_arrives_then_is_searched_too(api: Api, page: Any) -> None:
    finished(api, patient_name="Needle^One", patient_id="N1")
    finished(api, patient_name="Hay^Two")
    page.goto(api.url)
    page.get_by_role("searchbox").fill("needle")
    page.get_by_text("Hay, Two").wait_for(state="detached", timeout=15000)
    assert page.get_by_text("Needle, One").is_visible()
    assert "needle" not in page.url.lower()
    finished(api, patient_name="Needle^Three")
    page.get_by_text("Needle, Three").wait_for(timeout=15000)
    assert page.get_by_text("Hay, Two").count() == 0


def test_a_failed_job_is_retried_from_the_list(api: Api, page: Any) -> None:
    uid = pages.keep(api, b"\0" * 128 + b"DICM fails", pages.route(), patient_name="Try^Again")
    pages.fail(api, pages.claimed(api))
    page.goto(api.url)
    page.get_by_role("button", name="Retry: Try, Again").click()
    page.get_by_role("status").get_by_text("will be tried again").wait_for(timeout=15000)
    row = page.locator("tr", has_text="Try, Again")
    row.get_by_text("Waiting").wait_for(timeout=15000)
    assert api.ledger.history.trace(uid).jobs[0].state == "received"
    pages.rejected(api, pages.claimed(api))


def test_image_and_words_stand_side_by_side_and_windows_change_the_picture(
    api: Api, page: Any
) -> None:
    uid = pages.keep(api, PICTURE, pages.route(), patient_name="Side^Byside")
    pages.reported(api, pages.claimed(api))
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"{api.url}/images/{uid}")
    picture, words = page.locator("#preview canvas"), page.locator("blockquote")
    until(page, "document.querySelector('#preview canvas').dataset.state === 'ready'")
    left, right = picture.bounding_box(), words.bounding_box()
    assert left["x"] + left["width"] <= right["x"]
    page.get_by_role("button", name="Bone").click()
    until(page, "document.querySelector('#preview canvas').dataset.preset === 'bone'")


def test_without_scripts_a_drawn_picture_shows_each_window(api: Api, chromium: Any) -> None:
    uid = pages.keep(api, PICTURE)
    with chromium.context.browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{api.url}/images/{uid}")
        page.get_by_role("button", name="Bone").click()
        picture = page.locator("#preview img")
        assert picture.get_attribute("src").endswith("preview.png?window=bone")
        assert picture.is_visible()
        assert page.locator("#preview canvas").is_hidden()


def test_a_reader_disagrees_with_a_comment(api: Api, page: Any) -> None:
    uid = finished(api)
    page.goto(f"{api.url}/images/{uid}")
    page.get_by_label("Your reading").fill("I see <b>none</b>")
    page.get_by_role("button", name="Disagree").click()
    page.get_by_role("status").get_by_text("kept: disagree").wait_for(timeout=15000)
    assert api.ledger.history.trace(uid).stages[-1].detail.endswith("I see <b>none</b>")
    page.reload()
    assert page.get_by_text("I see <b>none</b>").first.is_visible()


def test_what_goes_wrong_is_said_in_place(api: Api, page: Any) -> None:
    uid = pages.keep(api, b"\0" * 128 + b"DICM busy", pages.route())
    page.goto(f"{api.url}/images/{uid}")
    page.get_by_role("button", name="Run again").click()
    page.get_by_role("status").get_by_text("wait for its result").wait_for(timeout=15000)
    page.faults.clear()  # the browser's own line about 503
    pages.rejected(api, pages.claimed(api))


def test_a_dropped_file_shows_its_rule(api: Api, page: Any, tmp_path: Path) -> None:
    file = tmp_path / "drop.dcm"
    file.write_bytes(PICTURE)
    page.goto(f"{api.url}/rules")
    page.get_by_label("Try a DICOM file").set_input_files(file)
    page.get_by_role("button", name="Which rule?").click()
    page.get_by_text("“chests” is met").wait_for(timeout=15000)


def test_a_peer_that_is_away_is_said_to_be(api: Api, page: Any) -> None:
    page.goto(f"{api.url}/peers")
    page.get_by_role("button", name="Echo: modality").click()
    page.get_by_text("refuses connections").wait_for(timeout=15000)


def test_a_test_send_says_what_the_archive_said(tmp_path: Path, page: Any) -> None:
    (port,) = free_ports(1)
    archive = {"ae_title": "PACS", "host": "127.0.0.1", "port": port}
    command = [need("storescp"), "-aet", "PACS", "-od", str(tmp_path), "-uf", str(port)]
    with (
        serving(tmp_path / "node", sign_in=False, peers={"archive": archive}) as api,
        subprocess.Popen(command) as running,
    ):
        page.goto(f"{api.url}/peers")
        page.get_by_role("button", name="Test send: archive").click()
        page.get_by_text("Comprehensive 3D SR: taken, 0x0000").wait_for(timeout=30000)
        assert page.get_by_text("Look there for patient TEST^CHEXFRACT").is_visible()
        leave(page)
        running.terminate()
    assert len(list(tmp_path.glob("SR*"))) == 1


def test_the_keyboard_reaches_everything_in_order(api: Api, page: Any) -> None:
    finished(api, patient_name="Key^Board")
    page.goto(api.url)
    reached = []
    for _ in range(26):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText.trim().split('\\n')[0]"))
    assert reached[0] == "Skip to the content"
    assert reached.index("Worklist") < reached.index("Peers") < reached.index("Search")
    assert "Open" in reached
    page.keyboard.press("Enter")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground_in_both_themes(api: Api, page: Any, scheme: str) -> None:
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3), as painted."""
    uid = finished(api)
    pages.fail(api, (pages.keep(api, b"\0" * 128 + b"DICM" + scheme.encode(), pages.route()),
                     pages.claimed(api))[1])  # fmt: skip
    page.emulate_media(color_scheme=scheme)
    for path in (*ALL, f"/images/{uid}"):
        page.goto(api.url + path)
        assert page.evaluate(CONTRAST) == [], (path, scheme)
    page.emulate_media(color_scheme="light")


CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const lum = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > .99) return c;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility() || e.closest('.skip, option')) continue;
    const [a, b] = [lum(parse(getComputedStyle(e).color)), lum(ground(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) low.push(`${e.tagName} ${e.className} ${e.innerText.slice(0, 30)} ${ratio}`);
  }
  return low;
}"""

NAMED = """() => [...document.querySelectorAll('a, button, input, select, textarea')]
  .filter(e => e.type !== 'hidden' && !(e.labels || []).length)
  .filter(e => !(e.innerText || e.getAttribute('aria-label') || '').trim())
  .map(e => e.outerHTML)"""


def test_everything_that_can_be_used_has_a_name_and_pages_have_landmarks(
    api: Api, page: Any
) -> None:
    uid = finished(api)
    for path in (*ALL, f"/images/{uid}"):
        page.goto(api.url + path)
        assert page.evaluate(NAMED) == [], path
        for landmark in ("main", "navigation"):
            assert page.get_by_role(landmark).count() >= 1, path
        assert page.locator("html[lang=en]").count() == 1
        assert page.locator("h1").count() == 1, path
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids)), path
        assert "Research use only" in page.locator("aside").inner_text()


def test_nothing_is_wider_than_a_phone(api: Api, page: Any) -> None:
    uid = finished(api, patient_name="Long^" + "x" * 200, study_description="y" * 200)
    page.set_viewport_size({"width": 360, "height": 780})
    for path in (*ALL, f"/images/{uid}"):
        page.goto(api.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    page.set_viewport_size({"width": 1280, "height": 900})


HOSTILE = (
    "<script>window.hit=1</script>",
    '"><img src=x onerror=window.hit=1>',
    "'><svg onload=window.hit=1>",
    "javascript:window.hit=1",
    "{{constructor.constructor('window.hit=1')()}}",
    '" hx-on:load="window.hit=1" hx-trigger="load" x="',
)


def test_hostile_headers_and_texts_do_nothing_in_a_browser(api: Api, page: Any) -> None:
    for hostile in HOSTILE:
        facts = dict.fromkeys(
            ("patient_name", "patient_id", "modality", "study_description", "calling_ae"), hostile
        )
        uid = pages.keep(api, PICTURE, pages.route(), **facts)
        pages.reported(api, pages.claimed(api), text=hostile, warnings=(hostile,))
        page.goto(f"{api.url}/images/{uid}")
        assert hostile in page.locator("blockquote").inner_text()
        assert page.evaluate("window.hit") is None
    page.goto(api.url)
    page.get_by_role("searchbox").fill(HOSTILE[1])
    page.wait_for_timeout(1500)
    assert page.evaluate("window.hit") is None
    assert page.locator("main img, main svg, main script").count() == 0


def test_a_script_that_slipped_in_would_not_run(api: Api, page: Any) -> None:
    """The content security policy is the second wall."""
    page.goto(api.url)
    page.evaluate("""() => { const s = document.createElement('script');
        s.textContent = 'window.hit = 1'; document.body.append(s);
        const i = document.createElement('img'); i.src = 'https://evil.example/x';
        document.body.append(i); }""")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None
    assert any("Content Security Policy" in fault for fault in page.faults)
    page.faults.clear()


def test_people_sign_in_look_and_sign_out(chromium: Any, tmp_path: Path) -> None:
    with serving(tmp_path) as api, chromium.context.browser.new_context() as context:
        page = pages.watched(context.new_page())
        page.goto(f"{api.url}/peers")
        assert re.search(r"/sign-in\?to=/peers$", page.url)
        page.get_by_label("Name").fill("admin")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("alert").get_by_text("wrong").wait_for(timeout=15000)
        page.faults.clear()  # the browser's own line about 403
        page.get_by_label("Name").fill("admin")
        page.get_by_label("Password").fill(SECRET)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Peers", exact=True).wait_for(timeout=15000)
        api.receive(patient_name="After^Signin")
        page.get_by_role("link", name="Worklist").click()
        page.get_by_text("After, Signin").wait_for(timeout=15000)
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("button", name="Sign in").wait_for(timeout=15000)
        page.goto(api.url)
        assert "/sign-in" in page.url
        assert page.faults == []
