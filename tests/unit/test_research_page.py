"""The page of an evaluation stands alone: no address outside it, and no picture without consent."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from worker.cli import main
from worker.image.text_finder import find_text

VOID = {"meta", "br", "img", "link", "input", "hr", "path", "use"}


class Balance(HTMLParser):
    """Counts elements that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures += [value or "" for name, value in attrs if name == "src"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two images of which one is missed, and their labels."""
    folder = tmp_path / "run"
    folder.mkdir()
    rows = []
    for number, presence in enumerate(("present", "absent", "undetermined")):
        picture = tmp_path / f"{number}.png"
        Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).save(picture)
        found = {"presence": presence, "fractures": [{"certainty": "possible"}]}
        rows.append({"file": str(picture), "text": f"<b>{number}</b> & more", "findings": found})
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = {"finished": True, "model": "phantom", "model_version": "1", "demonstration": True}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "labels.csv").write_text(
        "file,fracture,sex,text\n0.png,1,F,No.\n1.png,1,M,No.\n2.png,0,F<i>,No.\n"
    )
    return folder


def page_of(file: Path) -> tuple[str, Balance]:
    page = file.read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    return page, parser


def test_the_page_holds_everything_and_points_nowhere(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    arguments = ["--labels", str(tmp_path / "labels.csv"), "--by", "sex", "--html", str(file)]
    assert main(["evaluate", str(run), *arguments]) == 0
    page, parser = page_of(file)
    outside = re.findall(r"https?:|//[a-z]|<script|<link|@import|url\((?!#)", page)
    assert outside == []
    assert page.count("<svg") == 3
    assert len(parser.pictures) == 2
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in parser.pictures)
    assert "<b>1</b>" not in page
    assert "&lt;b&gt;1&lt;/b&gt; &amp; more" in page
    assert "demonstration model" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert main(["evaluate", str(run), *arguments]) == 0
    assert file.read_text() == page


def test_pictures_of_a_deidentified_run_need_consent(run: Path, tmp_path: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    hidden = {"key": "0", "uids": "replace"}
    (run / "manifest.json").write_text(json.dumps(manifest | {"deidentified": hidden}))
    file = tmp_path / "page.html"
    labels = ["--labels", str(tmp_path / "labels.csv"), "--html", str(file)]
    assert main(["evaluate", str(run), *labels]) == 0
    page, parser = page_of(file)
    assert parser.pictures == []
    assert "The run is de-identified" in page
    assert main(["evaluate", str(run), *labels, "--pictures"]) == 0
    assert len(page_of(file)[1].pictures) == 2


def test_a_comparison_and_numbers_have_pages_too(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    labels = ["--labels", str(tmp_path / "labels.csv")]
    assert main(["compare", str(run), str(run), *labels, "--html", str(file)]) == 0
    assert page_of(file)[0].count("<svg") == 2
    assert main(["compare", str(run), str(run), "--html", str(file)]) == 0
    assert page_of(file)[0].count("<svg") == 0
    assert main(["evaluate", "--counts", "90", "42", "64", "224", "--html", str(file)]) == 0
    assert "0.584" in page_of(file)[0]
    assert main(["evaluate", "--counts", "1", "1", "1", "1", "--html", str(tmp_path)]) == 78


def test_burned_in_text_is_found_and_bones_and_a_side_marker_are_not() -> None:
    from worker.phantom.draw import phantom

    clean = (np.clip(phantom(5, 3).grey, 0, 1) * 255).astype(np.uint8)
    assert find_text(clean) == []
    glyph = np.zeros((14, 9), np.uint8)
    glyph[:, 3:5] = glyph[6:8] = 1
    marked, written = clean.copy(), clean.copy()
    marked[20:34, 20:29][glyph > 0] = 255
    for letter in range(10):
        left = 20 + 11 * letter
        written[20:34, left : left + 9][glyph > 0] = 255
    assert find_text(marked) == []
    boxes = find_text(written)
    assert boxes
    assert any(box.left <= 60 <= box.right and box.top <= 30 <= box.bottom for box in boxes)
