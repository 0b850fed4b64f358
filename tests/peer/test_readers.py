"""Readers of TID 1500 find in each report the groups that were written, negative ones included."""

from __future__ import annotations

from pathlib import Path

import gallery
import pytest
import reports
from peers import need

pytestmark = pytest.mark.peer

NAMES = [name for name, shown in gallery.GALLERY.items() if shown.kind in gallery.SOP_CLASSES]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of the gallery as files."""
    folder = tmp_path_factory.mktemp("gallery")
    files = {}
    for name in NAMES:
        files[name] = folder / f"{name}.dcm"
        files[name].write_bytes(gallery.GALLERY[name].make()[1].content)
    return files


@pytest.mark.parametrize("reader", list(gallery.READERS))
@pytest.mark.parametrize("name", NAMES)
def test_a_reader_finds_the_groups_that_were_written(
    name: str, reader: str, written: dict[str, Path]
) -> None:
    if reader == "dcmjs":
        need("node")
    path = written[name]
    groups = gallery.meant(reports.read(path.read_bytes()))
    assert groups[0][0] == "Bones of the image"
    assert sorted(gallery.READERS[reader](path)) == sorted(groups)
