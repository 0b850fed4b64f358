"""Drawn phantoms: the same for the same seed, true to their text, valid as Instances."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peers import need
from PIL import Image

from worker.phantom import draw, lessons, truth

SOME_FINDINGS = st.frozensets(st.sampled_from(truth.FINDINGS), max_size=6)


@given(SOME_FINDINGS)
def test_text_gives_back_the_findings(findings: frozenset[truth.Finding]) -> None:
    assert truth.parse(truth.text(findings)) == findings


@given(SOME_FINDINGS)
def test_clavicles_come_before_ribs(findings: frozenset[truth.Finding]) -> None:
    text = truth.text(findings)
    assert "clavicle" not in text[text.find("rib") :] or "rib" not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No fracture.",
        "Fracture of the left 1st rib.",
        "Fracture of the left 12th rib.",
        "Fracture of the left 5th rib. Fracture of the left clavicle.",
        "Fracture of the left 5st rib.",
        "Fracture of the left 5th rib. Fracture of the left 5th rib.",
        "fracture of the left 5th rib.",
        "Fracture of the left 5th rib. And more.",
    ],
)
def test_a_text_outside_the_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the report of a phantom"):
        truth.parse(text)


@given(st.sampled_from(truth.FINDINGS))
def test_a_finding_is_found_by_its_name(finding: truth.Finding) -> None:
    assert truth.named(str(finding)) == finding


def test_a_finding_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="left rib 12"):
        truth.text([truth.Finding("left", 12)])
    with pytest.raises(ValueError, match="left femur"):
        truth.named("left femur")


def test_the_same_seed_and_index_draw_the_same_picture() -> None:
    once, again = draw.phantom(3, 5), draw.phantom(3, 5)
    assert np.array_equal(once.grey, again.grey)
    assert once.findings == again.findings == draw.phantom_findings(3, 5)
    assert not np.array_equal(once.uint8[:512, :512], draw.phantom(3, 6).uint8[:512, :512])


def test_a_break_changes_the_picture_only_near_the_break() -> None:
    broken = draw.phantom(3, 5, [truth.Finding("left", 5)])
    whole = draw.phantom(3, 5, [])
    rows, columns = np.nonzero(np.abs(broken.grey - whole.grey) > 0.05)
    ((finding, x, y),) = broken.places
    assert finding == truth.Finding("left", 5)
    assert min(columns) > x - 10
    assert np.abs(rows - y).min() < 6


def test_every_place_is_on_the_picture() -> None:
    for index in range(20):
        drawn = draw.phantom(4, index, truth.FINDINGS, short_side=256)
        rows, columns = drawn.grey.shape
        assert len(drawn.places) == len(truth.FINDINGS)
        assert all(4 < x < columns - 4 and 2 < y < rows - 4 for _, x, y in drawn.places)


def test_the_patients_left_is_at_the_viewers_right() -> None:
    drawn = draw.phantom(4, 1, [truth.Finding("left", 4), truth.Finding("right", 4)])
    column = {finding.side: x for finding, x, _ in drawn.places}
    assert column["left"] > column["right"]


def test_one_phantom_is_the_same_at_any_resolution() -> None:
    large, small = (draw.phantom(2, 0, short_side=side).uint8 for side in (512, 256))
    reduced = np.asarray(Image.fromarray(large).resize(small.shape[::-1], Image.Resampling.BOX))
    assert np.abs(reduced.astype(float) - small).mean() < 4


def test_frames_are_square_portrait_and_landscape() -> None:
    shapes = {draw.phantom(1, index).grey.shape for index in range(16)}
    assert shapes == {(512, 512), (629, 512), (512, 629)}


def test_the_window_restores_the_drawn_grey_values() -> None:
    ds, drawn = draw.instance(7, 2), draw.phantom(7, 2)
    stored = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns).astype(float)
    centre, width = float(ds.WindowCenter), float(ds.WindowWidth)
    # PS3.3 C.11.2.1.2.1, LINEAR.
    shown = (((stored - (centre - 0.5)) / (width - 1) + 0.5) * 255).clip(0, 255)
    assert np.abs(shown - drawn.uint8).max() <= 1


def test_a_set_does_not_depend_on_processes(tmp_path: Path) -> None:
    rows = draw.write_set(3, tmp_path / "one", seed=11)
    again = draw.write_set(3, tmp_path / "two", seed=11, processes=2)
    assert rows == again
    for row in rows:
        assert (tmp_path / "one" / row.file).read_bytes() == (
            tmp_path / "two" / row.file
        ).read_bytes()


def test_truth_csv_says_what_is_broken(tmp_path: Path) -> None:
    rows = draw.write_set(6, tmp_path, seed=12)
    with (tmp_path / "truth.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["file"] for row in read] == [f"phantom-12-{i:04d}.dcm" for i in range(6)]
    for row, expected in zip(read, rows, strict=True):
        ds = pydicom.dcmread(tmp_path / row["file"], stop_before_pixels=True)
        named = [truth.named(name) for name in filter(None, row["findings"].split("; "))]
        assert row["sop_instance_uid"] == ds.SOPInstanceUID == expected.sop_instance_uid
        assert truth.text(named) == row["text"]
        assert row["fracture"] == str(int(bool(named)))


def test_other_findings_have_other_uids() -> None:
    uids = {draw.instance(0, 0, findings).SOPInstanceUID for findings in ([], truth.FINDINGS[:1])}
    assert len(uids) == 2
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)


def test_instances_pass_dciodvfy(tmp_path: Path) -> None:
    need("dciodvfy")
    shown = draw.write_exhibits(tmp_path)
    assert [row.fracture for row in shown] == [0, 1, 1, 1]
    for row in [*shown, *draw.write_set(2, tmp_path, seed=13)]:
        done = subprocess.run(
            ["dciodvfy", tmp_path / row.file], capture_output=True, text=True, check=True
        )
        assert (done.stdout + done.stderr).split() == ["DXImageForPresentation"]


@pytest.fixture(scope="module")
def drawing() -> lessons.Drawing:
    """A drawing with fractures."""
    return next(drawn for drawn in lessons.draw_all(1_000_000, 20, 1) if len(drawn.findings) > 2)


@given(seed=st.integers(0, 2**32 - 1))
def test_a_view_keeps_its_fractures_in_the_picture(drawing: lessons.Drawing, seed: int) -> None:
    pixels, places = lessons.view_drawing(np.random.default_rng(seed), drawing, 160)
    assert pixels.shape == (160, 160)
    assert len(places) == len(drawing.places)
    assert all(1 < x < 159 and 1 < y < 159 for _, x, y in places)
