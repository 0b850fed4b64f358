"""The reports of the gallery keep their bytes until someone renews them on purpose."""

from __future__ import annotations

import gallery
import pytest

RENEW = "look at the difference; if it is meant: python -m tests.gallery --renew"


@pytest.mark.parametrize("name", list(gallery.GALLERY))
def test_a_report_has_the_bytes_of_the_gallery(name: str) -> None:
    kept = gallery.kept(name).partition("\nReaders\n-------\n")[0]
    assert gallery.entry(name) == kept, RENEW


def test_the_gallery_holds_these_reports_and_no_others() -> None:
    assert {path.stem for path in gallery.GOLDEN.glob("*.txt")} == set(gallery.GALLERY)


@pytest.mark.parametrize("name", list(gallery.GALLERY))
def test_no_reader_disagrees_in_the_gallery(name: str) -> None:
    verdicts = gallery.kept(name).partition("\nReaders\n-------\n")[2]
    assert verdicts.count("pass") == 4
    assert "FAIL" not in verdicts
    # A Basic Text and a Key Object Selection Document have no measurement groups to read.
    has_groups = name not in ("basic-text", "judged-text", "rejection-note")
    assert verdicts.count("as written") == (len(gallery.READERS) if has_groups else 0)
