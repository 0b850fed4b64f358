"""Takes the README's pictures of a node of its own: ``python tests/screenshots.py``."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "support"))

import pages
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_node.dimse import scu
from dicom_node.operate import sandbox
from dicom_node.store.ledger import Ledger

OUT = Path(__file__).resolve().parent.parent / ".github"
SIZE = {"width": 1280, "height": 800}
SHARPNESS = 1.5
LARGEST = 150_000
"""Bytes of a picture."""


def main() -> int:
    """Take each picture in both themes and return 0."""
    OUT.mkdir(exist_ok=True)
    with (
        sandbox.folder(None) as here,
        sandbox.archive_in(here) as archive,
        sandbox.node_in(here, archive) as node,
    ):
        images = list(_images(here))
        node.wait_until_ready()
        scu.send("ARCHIVE", node.peer, images)
        shown = _delivered(node.ledger, len(images))
        for scheme in ("light", "dark"):
            _take(node.page, shown, scheme)
    return 0


def _images(here: Path) -> Iterator[Path]:
    """Draw the demonstration's phantoms, and one that no model looks at."""
    rows = sandbox.draw(here / "drawn", "--exhibits")
    knee = dcmread(rows[0]["path"])
    knee.BodyPartExamined = "KNEE"
    knee.SOPInstanceUID = knee.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    knee.StudyInstanceUID, knee.SeriesInstanceUID = generate_uid(), generate_uid()
    knee.save_as(here / "knee.dcm")
    yield here / "knee.dcm"
    yield from (Path(row["path"]) for row in rows)


def _delivered(url: str, count: int) -> str:
    """Wait until all is at the archive; return an Instance with the longest report."""
    ledger = Ledger.open(url)
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            rows = ledger.history.recent(count)
            if len(rows) == count and all(row.state == "delivered" for row in rows):
                longest = max(rows, key=lambda row: len(row.text or ""))
                return str(longest.sop_instance_uid)
            time.sleep(0.5)
    finally:
        ledger.close()
    raise SystemExit("the reports did not come")


def _take(page_url: str, image: str, scheme: str) -> None:
    options = {"viewport": SIZE, "device_scale_factor": SHARPNESS, "color_scheme": scheme}
    with pages.browser(**options) as page:
        page.goto(page_url)
        page.wait_for_timeout(3000)
        _keep(page, OUT / f"worklist-{scheme}.webp")
        page.goto(f"{page_url}images/{image}")
        page.wait_for_load_state("networkidle")
        _keep(page, OUT / f"study-{scheme}.webp")


def _keep(page: Any, path: Path) -> None:
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(path, "WEBP", quality=82, method=6)
    size = path.stat().st_size
    assert size < LARGEST, f"{path.name} has {size} bytes"
    print(f"{path.name}: {size} bytes")


if __name__ == "__main__":
    sys.exit(main())
