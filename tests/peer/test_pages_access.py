"""Everybody can use the pages: axe-core finds nothing, a phone and a keyboard are enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe
import pages
import pytest
from overlaps import OVERLAPS
from serving import SECRET, Api, serving
from stations import wait_for

from dicom_node.base.job import Card, Device, Measured, WorkerHeartbeat
from worker.service.node import NodeClient

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}

RULES = [
    {"name": "chests", "match": {"modality": ["DX"], "body_part": ["CHEST", ""]}, "mode": "shadow"},
    {"name": "others", "match": {"calling_ae": ["X*"]}, "mode": "shadow", "priority": "low"},
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A node with something of everything that pages show."""
    with serving(tmp_path_factory.mktemp("node"), sign_in=False, rules=RULES) as api:
        fill(api)
        yield api


def fill(api: Api) -> None:
    def kept(content: bytes, **facts: Any) -> str:
        return pages.keep(api, content, pages.route(), modality="DX", body_part="CHEST", **facts)

    def junk(mark: bytes) -> bytes:
        return b"\0" * 128 + b"DICM" + mark

    kept(
        pages.picture(), patient_name="Doe^Jane", patient_id="P1", view="PA", study_date="20260102"
    )
    pages.reported(api, pages.claimed(api), warnings=("no window in the file",))
    pages.deliver(api, 0)
    kept(junk(b"1"), patient_name="Roe^Richard", accession_number="A77")
    pages.fail(api, pages.claimed(api))
    kept(junk(b"2"), patient_name="Poe^Edgar")
    pages.rejected(api, pages.claimed(api))
    kept(junk(b"3"))
    pages.reported(api, pages.claimed(api), presence="absent", fractures=(), text="No fracture.")
    pages.deliver(api, None)
    api.receive(patient_name="Long^" + "x" * 200)
    kept(junk(b"4"), patient_name="Waits^Still")
    card = Card(
        name="phantom", version="phantom-65dfb8e0", licence="that of this software",
        demonstration=True, parameters={"decode": "greedy", "weights": "65dfb8e05d626aca"},
        measured=(Measured(on="drawn phantoms", count=1000, shares={"exact": 0.99, "recall": 1}),),
    )  # fmt: skip
    device = Device(name="NVIDIA H200", memory=141 << 30, used=20 << 30, load=0.37)
    with NodeClient(api.url, SECRET) as node:
        node.announce(WorkerHeartbeat(worker="gpu-host:4711", card=card, device=device))


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with pages.browser() as page:
        yield page
        page.goto("about:blank")


def everywhere(api: Api) -> list[str]:
    """Return every page that shows something, with an image in each of its states."""
    images = [f"/images/{row.sop_instance_uid}" for row in api.ledger.history.recent(10)]
    lists = ["/", "/?state=failed", "/?state=rejected&sort=name", "/peers", "/rules", "/models"]
    manual = ["/manual", "/manual/reference/api"]
    return [*lists, "/configuration", *manual, "/images/9.9.9", *images]


# Colours follow the scheme and places the viewport: two pairs see each of both.
@pytest.mark.parametrize(
    ("scheme", "viewport"), [("light", DESK), ("dark", PHONE)], ids=["light-desk", "dark-phone"]
)
def test_axe_finds_nothing_on_any_page(
    api: Api, page: Any, scheme: str, viewport: dict[str, int]
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(viewport)
    script = axe.script()
    found = {}
    for path in everywhere(api):
        page.goto(api.url + path)
        if wrong := axe.violations(page, script):
            found[path] = wrong
    assert found == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_what_acts_answer(
    api: Api, page: Any, scheme: str, tmp_path: Path
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(DESK)
    script = axe.script()
    file = tmp_path / "drop.dcm"
    file.write_bytes(pages.picture())
    page.goto(f"{api.url}/rules")
    page.get_by_label("Try a DICOM file").set_input_files(file)
    page.get_by_role("button", name="Which rule?").click()
    page.get_by_text("“chests” is met").wait_for(timeout=30000)
    assert axe.violations(page, script) == []
    page.goto(f"{api.url}/peers")
    page.get_by_role("button", name="Echo: modality").click()
    page.get_by_text("refuses connections").wait_for(timeout=15000)
    assert axe.violations(page, script) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_where_people_sign_in(page: Any, tmp_path: Path, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    with serving(tmp_path) as api:
        page.goto(api.url)
        assert axe.violations(page, axe.script()) == []
        page.get_by_label("Name").fill("admin")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("alert").wait_for(timeout=15000)
        assert axe.violations(page, axe.script()) == []
        page.goto("about:blank")


def test_axe_finds_what_is_wrong(page: Any) -> None:
    page.set_content("<img src=x><button></button>")
    assert {"image-alt", "button-name"} <= {
        one.partition(":")[0] for one in axe.violations(page, axe.script())
    }


WIDTHS = (320, 360, 390, 480, 600, 720, 820, 900, 1000, 1024, 1025, 1200, 1440, 1920, 2560)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_control_lies_over_anything_at_any_width(api: Api, page: Any, scheme: str) -> None:
    """On a tablet each row's button once lay on its verdict."""
    page.emulate_media(color_scheme=scheme)
    wrong = []
    for path in [*everywhere(api), "/manual/how-to/new-rule"]:
        page.goto(api.url + path)
        for width in WIDTHS if scheme == "light" else WIDTHS[::4]:
            page.set_viewport_size({"width": width, "height": 900})
            wrong += [f"{path} at {width}: {what}" for what in page.evaluate(OVERLAPS)]
    assert wrong == [], len(wrong)


def test_no_page_scrolls_sideways_on_a_phone(api: Api, page: Any) -> None:
    page.set_viewport_size(PHONE)
    for path in everywhere(api):
        page.goto(api.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path


TOO_SMALL = """() => {
  const box = e => [e, ...e.labels || []].map(one => one.getBoundingClientRect())
    .reduce((a, b) => a.width * a.height > b.width * b.height ? a : b);
  return [...document.querySelectorAll('a[href], button, input, select, textarea, summary')]
    .filter(e => e.checkVisibility() && !e.closest('.skip'))
    .filter(e => getComputedStyle(e).display !== 'inline')
    .map(e => [(e.innerText || e.name || '').trim().slice(0, 30), box(e).width, box(e).height])
    .filter(([, width, height]) => width < 24 || height < 24);
}"""


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_a_finger_hits_whatever_can_be_pressed(
    api: Api, page: Any, viewport: dict[str, int]
) -> None:
    """At least 24 by 24 pixels, but for links amid words (WCAG 2.2, 2.5.8)."""
    page.set_viewport_size(viewport)
    small = {}
    for path in everywhere(api):
        page.goto(api.url + path)
        if found := page.evaluate(TOO_SMALL):
            small[path] = found
    assert small == {}


def test_a_button_stands_in_line_with_its_field(api: Api, page: Any) -> None:
    page.set_viewport_size(DESK)
    page.goto(f"{api.url}/rules")
    field, button = page.get_by_label("Sent by"), page.get_by_role("button", name="Which rule?")
    bottoms = [box["y"] + box["height"] for box in (field.bounding_box(), button.bounding_box())]
    assert abs(bottoms[0] - bottoms[1]) <= 1


EDGES = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const colour = numbers(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return numbers(getComputedStyle(document.documentElement).backgroundColor);
  };
  return [...document.querySelectorAll('input:not([type=hidden], [type=file]), select, textarea')]
    .filter(e => e.checkVisibility()).map(e => {
      const [a, b] = [numbers(getComputedStyle(e).borderTopColor), ground(e.parentElement)]
        .map(light).sort((x, y) => y - x);
      return [e.id || e.name, (a + .05) / (b + .05)];
    }).filter(([, ratio]) => ratio < 3);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_edge_of_a_field_can_be_seen(api: Api, page: Any, scheme: str) -> None:
    """At least 3 to 1 (WCAG 2.2, 1.4.11); in the dark the circles to mark a finding were lost."""
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    image = next(r.sop_instance_uid for r in api.ledger.history.recent(10, "Doe"))
    for path in ("/", "/rules", "/peers/new", "/users", f"/images/{image}"):
        page.goto(api.url + path)
        assert page.evaluate(EDGES) == [], path
    page.emulate_media(color_scheme="light", reduced_motion="no-preference")


CUT_OFF = """() => [...document.querySelectorAll('main *')]
  .filter(e => e.checkVisibility() && e.clientWidth > 1)
  .filter(e => getComputedStyle(e).overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1)
  .map(e => `${e.tagName} ${e.innerText.slice(0, 40)}`)"""


def test_paper_has_the_words_and_nothing_to_press(api: Api, page: Any) -> None:
    image = next(r.sop_instance_uid for r in api.ledger.history.recent(10, "Doe"))
    page.set_viewport_size({"width": 718, "height": 1040})  # A4 less its margins
    page.emulate_media(media="print")
    for path in ("/", "/peers", "/configuration", "/manual/reference/api", f"/images/{image}"):
        page.goto(api.url + path)
        assert page.get_by_text("Research use only.").is_visible(), path
        for what in ("button", "navigation", "textbox", "searchbox", "combobox"):
            there = page.get_by_role(what).all()
            assert not [one.inner_text() for one in there if one.is_visible()], (path, what)
        assert page.evaluate(CUT_OFF) == [], path
    assert page.get_by_text("Possible fracture of the left seventh rib").is_visible()
    page.emulate_media(media="screen")


STOPS = """() => {
  const all = [...document.querySelectorAll('a[href], button, input:not([type=hidden]), select, '
    + 'textarea, summary, [tabindex="0"]')].filter(e => e.checkVisibility());
  // a group of radio buttons is one stop
  return new Set(all.map(e => e.type === 'radio' ? e.form.action + e.name : e)).size;
}"""

FOCUS = """() => {
  const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
  return {name: (e.innerText || e.getAttribute('aria-label') || e.name || '').trim(),
          shown: s.outlineStyle !== 'none' || s.boxShadow !== 'none',
          covered: r.height < innerHeight && !own(e.getClientRects()[0]),
          inside: r.width > 0 && r.left > -1 && r.right < innerWidth + 1};
  function own(box) {
    const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
    return top && (e.contains(top) || [...e.labels || []].some(label => label.contains(top)));
  }
}"""


def test_a_keyboard_reaches_every_control_and_shows_where_it_is(api: Api, page: Any) -> None:
    page.set_viewport_size(DESK)
    image = next(r.sop_instance_uid for r in api.ledger.history.recent(10, "Doe"))
    for path in ("/", "/peers", "/rules", f"/images/{image}"):
        page.goto(api.url + path)
        count = page.evaluate(STOPS)
        reached = 0
        for _ in range(count + 5):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement === document.body"):
                break
            focus = page.evaluate(FOCUS)
            assert focus["shown"], (path, focus)
            assert focus["inside"], (path, focus)
            assert not focus["covered"], (path, focus)
            reached += 1
        assert reached >= count, path


def test_a_keyboard_alone_judges_a_report(api: Api, page: Any) -> None:
    page.set_viewport_size(DESK)
    uid = next(r.sop_instance_uid for r in api.ledger.history.recent(10, "Doe"))
    page.goto(f"{api.url}/images/{uid}")
    page.get_by_label("Your reading").focus()
    page.keyboard.type("as I see it")
    page.keyboard.press("Tab")  # to what the report should say
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait_for("it is kept", lambda: api.ledger.history.trace(uid).stages[-1].stage == "agree", 15)
