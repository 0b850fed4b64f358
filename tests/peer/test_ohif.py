"""A radiologist's viewer, OHIF in a real browser, shows the whole text of each report."""

from __future__ import annotations

import io
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ohif
import pictures
import pytest
import reports
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from reports import ALGORITHM, ORDER
from stations import Orthanc

from worker.report.renderings import render
from worker.report.sr import Outcome, build
from worker.text.findings import parse

pytestmark = [pytest.mark.peer, pytest.mark.timeout(400)]

STUDY = "1.2.3.7"
ORDINALS = ["second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
LONG = " ".join(
    f"There is an acute displaced fracture of the {side} {ordinal} rib in its posterior arc."
    for side in ("left", "right")
    for ordinal in ORDINALS
)
TEXTS = [LONG, "Перелом VII ребра слева.\n左侧第7肋骨骨折。"]


def objects(number: int, text: str) -> tuple[list[bytes], NDArray[Any]]:
    """Return an image with what the shipped configurations send, and the page's frame."""
    pixels = pictures.drawn(seed=number)
    image = pictures.instance(
        pixels, SOPInstanceUID=f"{STUDY}.1.{number}", SeriesInstanceUID=f"{STUDY}.1",
        StudyInstanceUID=STUDY, StudyDate="20260101", PatientID="7", PatientName="Test^Viewer",
        InstanceNumber=number, WindowCenter=2048, WindowWidth=4096,
    )  # fmt: skip
    content = pictures.part10(image)
    source, outcome = reports.read(content), Outcome(text=text, findings=parse(text))
    order = ORDER.model_copy(update={"instance_number": number, "text_series": "report"})
    made = [content, build(source, outcome, ALGORITHM, order).content]
    for kind in ("basic-text", "sc"):
        document = render(kind, source, (pixels >> 4).astype("u1"), outcome, ALGORITHM, order)  # type: ignore[arg-type]
        assert document is not None
        made.append(document.content)
    return made, reports.read(made[-1]).pixel_array


@pytest.fixture(scope="module")
def made() -> list[tuple[list[bytes], NDArray[Any]]]:
    return [objects(number, text) for number, text in enumerate(TEXTS, 1)]


@pytest.fixture(scope="module")
def page(made: list[tuple[list[bytes], NDArray[Any]]], archive: Orthanc) -> Iterator[Any]:
    """The study in the viewer: two radiographs, the pages, two texts, the coded reports."""
    for contents, _ in made:
        for content in contents:
            assert archive.post("/instances", content)["Status"] == "Success"
    with (
        ohif.served(f"http://127.0.0.1:{archive.http_port}") as address,
        ohif.opened(address, STUDY, entries=6) as page,
    ):
        yield page


def entry(page: Any, label: str) -> Any:
    return page.locator(ohif.ENTRIES).filter(has_text=label)


@pytest.mark.parametrize("number", [1, 2])
def test_each_image_has_a_text_report_that_is_shown_whole(
    number: int, page: Any, tmp_path: Path
) -> None:
    """The viewer lists one document per series: its sites set ``report.text_series = "report"``."""
    text = TEXTS[number - 1]
    entry(page, f"Text {number}: AI fracture").dblclick()
    words = page.get_by_text(text.split("\n")[0]).first
    words.wait_for()
    page.screenshot(path=tmp_path / "text-report.png")
    assert text in words.inner_text()
    assert "not reviewed by a physician" in page.inner_text("body")
    # Nothing of it is cut at an edge.
    box, size = words.bounding_box(), page.viewport_size
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size["width"]
    assert box["y"] + box["height"] <= size["height"]
    assert words.evaluate("element => element.scrollWidth <= element.clientWidth + 1")


def test_the_page_of_the_secondary_capture_is_shown_whole(
    page: Any, made: list[tuple[list[bytes], NDArray[Any]]], tmp_path: Path
) -> None:
    """What stands on the page itself is tested with the renderings; here, that one can see it."""
    entry(page, "Page: AI fracture").dblclick()
    canvas = page.locator("canvas.cornerstone-canvas").first
    canvas.wait_for()
    frame = made[0][1]
    for _ in range(60):
        page.wait_for_timeout(500)
        page.screenshot(path=tmp_path / "page.png")
        drawn = canvas.evaluate("canvas => canvas.toDataURL()").partition(",")[2]
        likeness = like(Image.open(io.BytesIO(b64decode(drawn))), frame)
        if likeness > 0.99:
            return
    pytest.fail(f"the words on the page are not to be seen: correlation {likeness:.2f}")


def like(screen: Image.Image, frame: NDArray[Any]) -> float:
    """Return how alike the words of a page are on the screen and in its pixels."""
    rows, columns = frame.shape
    scale = min(screen.width / columns, screen.height / rows)
    left = (screen.width - columns * scale) / 2
    top = (screen.height - rows * scale) / 2
    box = (left, top, left + columns * scale, top + rows * scale)
    seen = screen.convert("L").resize((columns, rows), box=box)
    both = [words_of(picture) for picture in (seen, Image.fromarray(frame))]
    return float(np.corrcoef(*both)[0, 1])


def words_of(page: Image.Image) -> NDArray[Any]:
    """Return a page slightly blurred, without its margins (the viewer's) and the radiograph."""
    words = np.asarray(page.filter(ImageFilter.GaussianBlur(3)), dtype=float).copy()
    words[130:640, : 45 * page.width // 100] = 0
    return words[84:-44, 40:-40].ravel()
