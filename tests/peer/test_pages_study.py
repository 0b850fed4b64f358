"""A study in a real Chromium: the viewer, judging by finding, quick keys, what is wrong."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import axe
import numpy as np
import pages
import pytest
import scene
from overlaps import OVERLAPS
from PIL import Image
from pydicom import dcmread, dcmwrite
from serving import Api, serving
from stations import wait_for

from dicom_node import conditions
from dicom_node.dimse.refusals import Refusal
from dicom_node.web import preview

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PEERS = {
    "archive": {"ae_title": "PACS", "host": "127.0.0.1", "port": 1},
    "modality": {"ae_title": "MODALITY", "host": "127.0.0.1", "port": 1},
}


@pytest.fixture(scope="module")
def scenery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("node")
    with serving(folder, sign_in=False, rules=scene.RULES, peers=PEERS) as api:
        found = scene.fill(api)
        scene.refuse(api)
        yield api, found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with pages.browser(has_touch=True, viewport={"width": 1280, "height": 900}) as page:
        page.set_default_timeout(60_000)
        yield page
        page.goto("about:blank")


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    chromium.faults.clear()
    chromium.set_viewport_size({"width": 1280, "height": 900})
    yield chromium
    # images that cannot be drawn are part of the scene
    assert [fault for fault in chromium.faults if "404" not in fault] == []


def shown(page: Any) -> dict[str, Any]:
    """Return what the viewer says that it shows."""
    data = page.evaluate("({...document.querySelector('#preview canvas').dataset})")
    return {
        name: float(value) if name in ("zoom", "center", "width", "x", "y", "pixels") else value
        for name, value in data.items()
        if name not in ("source", "title")
    }


def until(page: Any, what: str, is_so: Any) -> None:
    wait_for(what, lambda: is_so(shown(page)), 60)


@pytest.fixture
def viewer(scenery: tuple[Api, dict[str, str]], page: Any) -> Any:
    """The page of the image with regions, its viewer ready."""
    api, found = scenery
    page.goto(f"{api.url}/images/{found['two']}")
    # Its size stands there with the first picture, which is drawn a moment after it is ready.
    until(page, "the viewer is ready", lambda data: data.get("state") == "ready" and "zoom" in data)
    return page


def grey(page: Any) -> np.ndarray[Any, Any]:
    """Return what the canvas shows; all of it has to be in sight."""
    page.set_viewport_size({"width": 1280, "height": 2000})
    until(page, "it has its size", lambda data: True)
    page.wait_for_timeout(500)
    box = page.locator("#preview canvas").bounding_box()
    picture = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("L")
    return np.asarray(picture).astype(float)


def assert_alike(seen: np.ndarray[Any, Any], drawn: Image.Image, name: str) -> None:
    """Check that the viewer shows what the node draws, fitted into its frame."""
    drawn = drawn.convert("L")
    inner = [slice(length // 4, 3 * length // 4) for length in seen.shape]
    scale = min(seen.shape[1] / drawn.width, seen.shape[0] / drawn.height)
    fitted = drawn.resize((round(drawn.width * scale), round(drawn.height * scale)))
    frame = Image.new("L", (seen.shape[1], seen.shape[0]))
    frame.paste(fitted, ((frame.width - fitted.width) // 2, (frame.height - fitted.height) // 2))
    wanted = np.asarray(frame).astype(float)
    assert np.abs(seen - wanted)[tuple(inner)].mean() < 4, name
    assert np.corrcoef(seen[tuple(inner)].ravel(), wanted[tuple(inner)].ravel())[0, 1] > 0.98


def test_the_viewer_shows_the_greys_that_the_node_draws(
    scenery: tuple[Api, dict[str, str]], viewer: Any
) -> None:
    api, found = scenery
    viewer.get_by_role("button", name="Regions").click()
    until(viewer, "no regions", lambda data: True)
    file = api.ledger.history.trace(found["two"]).instance.file
    for name in ("sent", "lung", "bone"):
        viewer.locator(f"a[data-preset={name}]").click()
        until(
            viewer, name, lambda data, name=name: data["preset"] == name and not data.get("loading")
        )
        with api.spool.path(file).open("rb") as content:
            drawn = Image.open(io.BytesIO(preview.draw(content, name)))
        assert_alike(grey(viewer), drawn, name)


def test_wheel_double_click_and_buttons_enlarge_what_is_under_them(viewer: Any) -> None:
    canvas = viewer.locator("#preview canvas")
    box = canvas.bounding_box()
    fitted = shown(viewer)
    viewer.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    viewer.mouse.wheel(0, -300)
    until(viewer, "larger", lambda data: data["zoom"] > 1.5 * fitted["zoom"])
    assert shown(viewer)["x"] < fitted["x"]
    canvas.dblclick()
    until(viewer, "as it was", lambda data: data["zoom"] == fitted["zoom"])
    canvas.dblclick(position={"x": 50, "y": 50})
    until(viewer, "twice", lambda data: abs(data["zoom"] - 2 * fitted["zoom"]) < 0.01)
    viewer.get_by_role("button", name="1:1").click()
    until(viewer, "one to one", lambda data: data["zoom"] == 1)
    viewer.get_by_role("button", name="Smaller").click()
    until(viewer, "smaller", lambda data: data["zoom"] < 1)
    viewer.get_by_role("button", name="Reset").click()
    until(viewer, "all", lambda data: data["zoom"] == fitted["zoom"] and data["x"] == fitted["x"])


def test_dragging_changes_the_window_or_moves(viewer: Any) -> None:
    box = viewer.locator("#preview canvas").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def drag(dx: int, dy: int) -> None:
        viewer.mouse.move(*middle)
        viewer.mouse.down()
        viewer.mouse.move(middle[0] + dx, middle[1] + dy, steps=3)
        viewer.mouse.up()

    if shown(viewer)["drag"] == "pan":
        viewer.get_by_role("button", name="Move").click()
    before = shown(viewer)
    drag(80, 0)
    until(viewer, "a wider window", lambda data: data["width"] > 1.1 * before["width"])
    drag(0, 80)
    until(viewer, "another center", lambda data: data["center"] != before["center"])
    viewer.get_by_role("button", name="Move").click()
    until(viewer, "moving", lambda data: data["drag"] == "pan")
    drag(80, 40)
    until(viewer, "moved", lambda data: data["x"] < before["x"] and data["y"] < before["y"])
    assert viewer.get_by_role("button", name="Move").get_attribute("aria-pressed") == "true"


def test_two_fingers_enlarge(viewer: Any) -> None:
    before = shown(viewer)
    touch(viewer, *[((-apart, 0), (apart, 0)) for apart in (30, 45, 60, 90)])
    until(viewer, "enlarged", lambda data: data["zoom"] > 1.8 * before["zoom"])
    assert viewer.evaluate("visualViewport.scale") == 1
    large = shown(viewer)
    touch(viewer, *[((-apart, 20), (apart, -20)) for apart in (120, 80, 40)])
    until(viewer, "smaller", lambda data: data["zoom"] < 0.6 * large["zoom"])


@pytest.mark.parametrize("drag", ["pan", "window"])
def test_fingers_enlarge_move_and_scroll_on_a_phone(viewer: Any, drag: str) -> None:
    """One finger on the whole image scrolls the page, on an enlarged one it moves the image."""
    viewer.set_viewport_size({"width": 390, "height": 844})
    if shown(viewer)["drag"] != drag:
        viewer.get_by_role("button", name="Move").click()
    until(viewer, drag, lambda data: data["drag"] == drag)
    before = shown(viewer)
    touch(viewer, *[((0, -apart), (0, apart)) for apart in (30, 60, 90)])
    until(viewer, "enlarged by fingers above each other", lambda data: (
        data["zoom"] > 1.8 * before["zoom"]
    ))  # fmt: skip
    large = shown(viewer)
    touch(viewer, *[((place, place),) for place in (0, 20, 40, 60)])
    if drag == "window":
        until(viewer, "another window", lambda data: data["center"] != large["center"])
    else:
        until(viewer, "moved", lambda data: data["x"] < large["x"] and data["y"] < large["y"])
        viewer.get_by_role("button", name="Reset").click()
        until(viewer, "whole", lambda data: data["zoom"] == before["zoom"])
        at = viewer.evaluate("scrollY")
        touch(viewer, *[((0, -place),) for place in (0, 40, 80, 120, 160)])
        wait_for("the page has moved", lambda: viewer.evaluate("scrollY") > at + 50, 60)


def touch(page: Any, *steps: tuple[tuple[int, int], ...]) -> None:
    """Touch the image at places around its middle, move the fingers step by step, let go."""
    page.locator("#preview canvas").scroll_into_view_if_needed()
    box = page.locator("#preview canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)
    kind = "touchStart"
    for step in steps:
        points = [
            {"x": middle[0] + x, "y": middle[1] + y, "id": number}
            for number, (x, y) in enumerate(step)
        ]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(30)  # a frame or two, as fingers move
        kind = "touchMove"
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


def test_oblong_pixels_and_a_sigmoid_window_look_as_the_node_draws_them(
    scenery: tuple[Api, dict[str, str]], page: Any
) -> None:
    api, _ = scenery
    odd = dcmread(io.BytesIO(pages.picture()))
    odd.ImagerPixelSpacing = [0.2, 0.1]
    odd.VOILUTFunction, odd.WindowCenter, odd.WindowWidth = "SIGMOID", 1500, 900
    file = io.BytesIO()
    dcmwrite(file, odd)
    uid = pages.keep(api, file.getvalue(), patient_name="Oblong^Pixels")
    page.goto(f"{api.url}/images/{uid}")
    until(page, "the viewer is ready", lambda data: data.get("state") == "ready" and "zoom" in data)
    assert (shown(page)["shape"], shown(page)["function"]) == ("2.000", "2")
    drawn = Image.open(io.BytesIO(preview.draw(io.BytesIO(file.getvalue()), "sent")))
    assert_alike(grey(page), drawn, "sigmoid")


def test_the_keyboard_does_what_buttons_do(viewer: Any) -> None:
    before = shown(viewer)
    viewer.keyboard.press("v")
    assert viewer.evaluate("document.activeElement.tagName") == "CANVAS"
    viewer.keyboard.press("+")
    until(viewer, "larger", lambda data: data["zoom"] > before["zoom"])
    viewer.keyboard.press("ArrowRight")
    until(viewer, "moved", lambda data: data["x"] > before["x"])
    viewer.keyboard.press("]")
    until(viewer, "wider", lambda data: data["width"] > before["width"])
    viewer.keyboard.press("i")
    until(viewer, "inverted", lambda data: data["inverted"] == "true")
    viewer.keyboard.press("b")
    until(viewer, "bone", lambda data: data["preset"] == "bone")
    viewer.keyboard.press("0")
    until(viewer, "as at first", lambda data: (
        (data["preset"], data["inverted"], data["zoom"]) == ("sent", "false", before["zoom"])
        and data["width"] == before["width"]
    ))  # fmt: skip


def test_regions_of_the_report_are_drawn_where_it_says(viewer: Any) -> None:
    regions = json.loads(shown(viewer)["regions"])
    assert [one["words"] for one in regions] == ["Left rib 7", "Right clavicle"]

    def yellow() -> int:
        box = viewer.locator("#preview canvas").bounding_box()
        picture = Image.open(io.BytesIO(viewer.screenshot(clip=box))).convert("RGB")
        red, green, blue = (np.asarray(picture)[..., band].astype(int) for band in range(3))
        return int(((red > 200) & (green > 160) & (blue < 130)).sum())

    assert yellow() > 200
    viewer.get_by_role("button", name="Regions").click()
    wait_for("no regions", lambda: yellow() == 0, 60)


def test_every_pixel_comes_once_somebody_looks_as_close(
    scenery: tuple[Api, dict[str, str]], page: Any
) -> None:
    api, _ = scenery
    large = dcmread(io.BytesIO(pages.picture()))
    pixels = np.kron(large.pixel_array, np.ones((4, 4), np.uint16))[:, ::2]
    large.Rows, large.Columns, large.PixelData = *pixels.shape, pixels.tobytes()
    file = io.BytesIO()
    dcmwrite(file, large)
    uid = pages.keep(api, file.getvalue(), patient_name="Large^Image")
    page.goto(f"{api.url}/images/{uid}")
    # Its size stands there with the first picture, which is drawn a moment after it is ready.
    until(page, "the viewer is ready", lambda data: data.get("state") == "ready" and "zoom" in data)
    assert shown(page)["pixels"] < large.Columns
    page.get_by_role("button", name="1:1").click()
    until(page, "all pixels", lambda data: data["pixels"] == large.Columns)


def test_agree_and_disagree_are_alike_and_at_once_visible(viewer: Any) -> None:
    agree, disagree = (
        viewer.get_by_role("button", name=name, exact=True).first for name in ("Agree", "Disagree")
    )
    look = """e => { const s = getComputedStyle(e), r = e.getBoundingClientRect();
      return [s.color, s.backgroundColor, s.borderColor, s.fontWeight, r.width, r.height]; }"""
    assert agree.evaluate(look) == disagree.evaluate(look)
    for one in (agree, viewer.locator("textarea[name=comment]").first):
        box = one.bounding_box()
        assert box["y"] + box["height"] < 900
    assert agree.bounding_box()["x"] < disagree.bounding_box()["x"]


def test_a_finding_and_the_whole_are_judged_and_changed(
    scenery: tuple[Api, dict[str, str]], viewer: Any
) -> None:
    api, found = scenery
    form = viewer.locator("form.judge").first
    form.get_by_role("radiogroup", name="right clavicle").get_by_label("Wrong").check()
    form.get_by_label("What it should say").fill("No fracture of the clavicle.")
    form.get_by_role("button", name="Disagree").click()
    viewer.get_by_role("status").get_by_text("kept: disagree").wait_for()
    viewer.reload()
    button = viewer.locator("form.judge").first.get_by_role("button", name="Disagree")
    assert button.get_attribute("aria-pressed") == "true"
    assert viewer.get_by_label("What it should say").first.input_value().startswith("No fracture")
    viewer.locator("form.judge").first.get_by_role("button", name="Agree", exact=True).click()
    viewer.get_by_role("status").get_by_text("kept: agree").wait_for()
    verdicts = [one.verdict for one in api.ledger.history.trace(found["two"]).judgements]
    assert verdicts[-2:] == ["disagree", "agree"]


def test_a_reader_disagrees_and_goes_back_by_the_keyboard_alone(
    scenery: tuple[Api, dict[str, str]], page: Any
) -> None:
    api, found = scenery
    page.goto(f"{api.url}/?sort=name")
    label = "document.activeElement.getAttribute('aria-label')"
    for _ in range(40):
        page.keyboard.press("j")
        if "Yamada" in str(page.evaluate(label)):
            break
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/images/{found['absent']}")
    page.keyboard.press("c")
    wait_for("the comment", lambda: page.evaluate("document.activeElement.name") == "comment", 60)
    page.keyboard.type("seen by keyboard")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "corrected_text"
    page.keyboard.press("Control+A")
    page.keyboard.type("Fracture of the left 5th rib.")
    for _ in range(2):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Disagree"
    page.keyboard.press("Enter")
    page.get_by_role("status").get_by_text("kept: disagree").wait_for(timeout=60000)
    last = api.ledger.history.trace(found["absent"]).judgements[-1]
    assert last.corrected_text == "Fracture of the left 5th rib."
    assert last.comment.endswith("seen by keyboard")
    page.keyboard.press("g")
    page.wait_for_url(f"{api.url}/")


def test_what_somebody_writes_stays_while_the_study_changes(
    scenery: tuple[Api, dict[str, str]], page: Any
) -> None:
    api, found = scenery
    uid = found["absent"]
    api.ledger.acts.replay(uid)
    page.goto(f"{api.url}/images/{uid}")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)
    assert any(url.endswith(uid) for url in asked)  # it follows what happens
    page.get_by_label("Your reading").last.fill("half a sent")
    asked.clear()
    page.wait_for_timeout(2500)
    assert not any(url.endswith(uid) for url in asked)
    assert page.get_by_label("Your reading").last.input_value() == "half a sent"
    page.goto("about:blank")
    for ticket in api.ledger.jobs.hand_out("phantom", 9, api.ledger.clock.wall() + 60):
        api.ledger.jobs.claim(ticket.job, ticket.token, "w", 60)
        pages.rejected(api, ticket)


def test_a_study_of_two_images_is_one_row_and_one_page(
    scenery: tuple[Api, dict[str, str]], page: Any
) -> None:
    api, found = scenery
    page.goto(api.url)
    body = page.locator("tbody", has_text="Adams, Rev. John")
    assert body.locator("tr").count() == 2
    body.get_by_role("link", name="1 of 2", exact=True).click()
    page.wait_for_url(f"**/images/{found['lateral']}")
    page.keyboard.press("n")
    page.wait_for_url(f"**/images/{found['two']}")
    assert page.locator(".images [aria-current]").inner_text().startswith("Image 2 of 2")
    assert page.locator(".image-reports").count() == 2
    # the words of the image that is seen come first
    assert "Image 2 of 2" in page.locator(".image-reports").first.inner_text()


def test_quick_keys_reach_search_and_rows_and_can_be_switched_off(
    scenery: tuple[Api, dict[str, str]], page: Any
) -> None:
    api, _ = scenery
    page.goto(api.url)
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("j")
    assert page.get_by_role("searchbox").input_value() == "j"
    page.goto(api.url)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.closest('tr').id").startswith("row-")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Quick keys")
    dialog.wait_for()
    assert axe.violations(page, axe.script()) == []
    page.get_by_label("Quick keys of one letter work").uncheck()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") != "q"
    page.evaluate("localStorage.clear()")


def test_the_list_shows_dates_where_they_are_asked_for(
    scenery: tuple[Api, dict[str, str]], page: Any
) -> None:
    api, _ = scenery
    page.goto(api.url)
    assert page.get_by_label("From", exact=True).is_hidden()
    page.get_by_label("Received").select_option("yesterday")
    page.get_by_text("Nothing matches").wait_for()
    page.get_by_label("Received").select_option("dates")
    page.get_by_label("From", exact=True).fill("2001-01-01")
    page.get_by_text("Adams, Rev. John").first.wait_for()
    page.get_by_label("Order").select_option("name")
    wait_for(
        "sorted", lambda: page.locator(".list .name").first.inner_text().startswith("Adams"), 60
    )


def test_a_full_disk_is_said_on_an_open_page_and_goes_with_its_cause(
    scenery: tuple[Api, dict[str, str]], page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, _ = scenery
    monkeypatch.setattr(conditions, "FRESH_S", 0.0)
    page.goto(f"{api.url}/rules")
    assert page.get_by_role("alert").get_by_text("modality is away").is_visible()
    full = page.get_by_role("alert").get_by_text("The disk is full")
    assert full.count() == 0
    monkeypatch.setattr(api.spool, "min_free", 1 << 62)
    full.wait_for()
    monkeypatch.setattr(api.spool, "min_free", 0)
    full.wait_for(state="detached")


def test_a_refused_caller_is_found_from_any_page(
    scenery: tuple[Api, dict[str, str]], page: Any
) -> None:
    api, _ = scenery
    page.goto(api.url)
    page.get_by_role("alert").get_by_text("XRAY9 at 10.0.0.9 was refused").wait_for()
    page.get_by_role("link", name="To the refused callers").click()
    page.wait_for_url("**/peers#refused")
    assert 'ae_title = "XRAY9"' in page.get_by_label("Table for XRAY9").inner_text()


WIDTHS = (320, 390, 600, 820, 1023, 1025, 1440, 2560)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_every_width_and_axe_finds_nothing(
    scenery: tuple[Api, dict[str, str]], page: Any, scheme: str
) -> None:
    api, found = scenery
    page.emulate_media(color_scheme=scheme)
    script, wrong = axe.script(), []
    studies = (f"/images/{found[name]}" for name in ("two", "withheld"))
    lists = ("/", "/peers", "/rules", "/models", "/configuration", "/bulk", "/manual")
    for path in (*lists, "/disk?older=0", *studies):
        page.goto(api.url + path)
        if path.startswith("/disk"):
            page.locator("#space h3").first.wait_for(timeout=60000)  # it is counted aside
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            wrong += [f"{path} at {width}: {what}" for what in page.evaluate(OVERLAPS)]
            if width in (390, 820, 1440):
                wrong += [f"{path} at {width}: {what}" for what in axe.violations(page, script)]
    page.emulate_media(color_scheme="light")
    assert wrong == []


def test_words_stand_beside_the_image_or_above_it(viewer: Any) -> None:
    for width, is_beside in ((1440, True), (1000, True), (820, False), (390, False)):
        viewer.set_viewport_size({"width": width, "height": 900})
        viewer.wait_for_timeout(100)
        words = viewer.locator("blockquote").first.bounding_box()
        picture = viewer.locator("#preview canvas").bounding_box()
        if is_beside:
            assert picture["x"] + picture["width"] <= words["x"]
        else:
            assert words["y"] + words["height"] <= picture["y"]
            sent = viewer.locator("details.sent").first.bounding_box()
            assert picture["y"] + picture["height"] <= sent["y"]


def test_names_of_all_scripts_and_lengths_fit(
    scenery: tuple[Api, dict[str, str]], page: Any
) -> None:
    api, _ = scenery
    names, wrong = scene.name_all(api), []
    for path in ("/", *(f"/images/{names[name]}" for name in ("hebrew", "unbroken"))):
        page.goto(api.url + path)
        for width in (320, 820, 1100, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            wrong += [f"{path} at {width}: {what}" for what in page.evaluate(OVERLAPS)]
    assert wrong == []
    assert page.locator(".undrawn").is_visible()
    assert not page.locator("#preview img").is_visible()
    left = page.evaluate("document.querySelector('h1').getBoundingClientRect().left")
    assert left < 100


def test_what_is_wrong_is_folded_beyond_three_and_stays_open(
    scenery: tuple[Api, dict[str, str]], page: Any
) -> None:
    api, _ = scenery
    now = api.ledger.clock.wall()
    api.ledger.refused.add(
        [Refusal(f"XRAY{n}", "10.0.1.9", "CHEXFRACT", "no peer", 1, now, now) for n in range(5)]
    )
    page.goto(f"{api.url}/peers")
    more = page.locator(".more-alerts summary")
    wait_for("five more", lambda: page.reload() and more.count() == 1, 60)
    assert page.locator(".alerts").first.locator("li").count() == 3
    ask = """document.getElementById('alerts').dispatchEvent(
      new CustomEvent('htmx:before:request', { bubbles: true, cancelable: true }))"""
    assert page.evaluate(ask) is True
    more.click()
    assert page.locator(".more-alerts li").first.is_visible()
    assert page.evaluate(ask) is False
