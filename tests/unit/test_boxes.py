"""Boxes of a model in the picture and as regions of the stored image in the report."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reports
from highdicom.sr import GraphicTypeValues, srread
from hypothesis import given
from hypothesis import strategies as st
from reports import ALGORITHM, CASES, ORDER

from worker.image.pixels import Radiograph, radiograph, read
from worker.models import Description, ModelInfo, Region
from worker.pipeline import Pipeline
from worker.report import boxes, codes
from worker.report.boxes import Box
from worker.report.sr import build
from worker.settings import Pixels
from worker.text.findings import parse

REGION = "111030"
RIB = Box("left seventh rib fracture", 100.0, 200.0, 300.0, 400.5)
SPINE = Box("T8 fracture", 700.0, 900.0, 760.0, 960.0)


def made(*drawn, outcome=CASES["fracture"], **elements):
    source = reports.source(**elements)
    document = build(source, replace(outcome, boxes=drawn), ALGORITHM, ORDER)
    return reports.read(document.content)


def groups(ds):
    """Return the groups of fractures: the one of the whole image has no Finding."""
    every = [item for item in reports.items(ds) if reports.name(item) == "125007"]
    return [group for group in every if reports.values(group, "121071")]


def regions(ds):
    return [item for item in reports.items(ds) if reports.name(item) == REGION]


def notes(ds):
    return [text for text in reports.values(ds, "121106") if "left out" in text]


def test_each_fracture_has_the_region_of_its_place():
    ds = made(SPINE, RIB)
    found = [(reports.values(g, "363698007"), regions(g)[0].GraphicData[:2]) for g in groups(ds)]
    assert found == [
        ([codes.RIBS["7"].value], [100.0, 200.0]),
        ([codes.VERTEBRAE["T8"].value], [700.0, 900.0]),
    ]
    assert notes(ds) == []


def test_a_region_is_a_closed_polyline_on_the_source_image():
    (region,) = regions(made(RIB))
    assert region.ValueType == "SCOORD"
    assert region.GraphicType == "POLYLINE"
    assert region.RelationshipType == "CONTAINS"
    assert list(region.GraphicData) == [100, 200, 300, 200, 300, 400.5, 100, 400.5, 100, 200]
    (image,) = region.ContentSequence
    assert (image.ValueType, image.RelationshipType) == ("IMAGE", "SELECTED FROM")
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.5"
    assert "ConceptNameCodeSequence" not in image


def test_highdicoms_own_reader_finds_the_regions(tmp_path: Path):
    path = tmp_path / "report.dcm"
    document = build(
        reports.source(), replace(CASES["fracture"], boxes=(RIB, SPINE)), ALGORITHM, ORDER
    )
    path.write_bytes(document.content)
    found = srread(path).content.get_planar_roi_measurement_groups(
        graphic_type=GraphicTypeValues.POLYLINE, referenced_sop_instance_uid="1.2.3.4.5"
    )
    rows = [(g.finding_sites[0].value.meaning, g.roi.value[:3].tolist()) for g in found]
    assert rows == [
        ("Bone structure of seventh rib", [[100, 200], [300, 200], [300, 400.5]]),
        ("T8 vertebra", [[700, 900], [760, 900], [760, 960]]),
    ]


def test_without_boxes_the_report_has_the_bytes_it_had():
    source = reports.source()
    plain = build(source, CASES["fracture"], ALGORITHM, ORDER)
    assert build(source, replace(CASES["fracture"], boxes=()), ALGORITHM, ORDER) == plain
    assert b"SCOORD" not in plain.content


def test_two_builds_have_the_same_bytes():
    one, other = (
        build(reports.source(), replace(CASES["fracture"], boxes=(RIB,)), ALGORITHM, ORDER)
        for _ in range(2)
    )
    assert one == other


def test_regions_never_share_a_tracking_uid():
    drawn = (RIB, replace(RIB, left=120.0), SPINE, Box("rib fracture", 1, 2, 30, 40))
    uids = reports.values(made(*drawn), "112040")
    assert len(uids) == len(set(uids)) == 5  # four regions, and the image as a whole


@pytest.mark.parametrize(
    ("left", "top", "right", "bottom"),
    [
        (1600, 0, 1700, 100),
        (-50, -50, 0, 0),
        (10, 10, 10, 500),
        (10, 10, 500, 10.4),
        (500, 500, 10, 10),
        (math.nan, 0, 100, 100),
        (0, 0, math.inf, 100),
    ],
)
def test_a_box_outside_or_without_area_is_left_out_with_a_note(left, top, right, bottom):
    ds = made(Box("left seventh rib fracture", left, top, right, bottom))
    assert regions(ds) == []
    assert len(groups(ds)) == 2
    assert notes(ds) == ["1 of the model's boxes is left out: outside the image or without area."]


def test_a_box_over_the_edge_is_cut_there():
    (region,) = regions(made(replace(RIB, left=-20.0, bottom=2500.0)))
    assert list(region.GraphicData)[:6] == [0, 200, 300, 200, 300, 2000]


@pytest.mark.parametrize(
    ("drawn", "why"),
    [
        ([RIB, RIB], "drawn twice"),
        ([Box("right pleural effusion", 1, 2, 30, 40)], boxes.NO_FRACTURE),
        ([Box("no fracture", 1, 2, 30, 40)], boxes.NO_FRACTURE),
        ([Box("", 1, 2, 30, 40)], boxes.NO_FRACTURE),
        ([replace(RIB, top=float(i)) for i in range(boxes.MOST + 1)], boxes.TOO_MANY),
    ],
)
def test_a_box_that_says_nothing_new_of_a_fracture_is_left_out_with_a_note(drawn, why):
    ds = made(*drawn)
    assert len(regions(ds)) == len(drawn) - 1
    assert notes(ds) == [f"1 of the model's boxes is left out: {why}."]


@pytest.mark.parametrize("case", ["none", "unclear", "rejected"])
def test_no_region_contradicts_the_words(case):
    ds = made(RIB, SPINE, outcome=CASES[case])
    assert regions(ds) == groups(ds) == []
    assert notes(ds) == [f"2 of the model's boxes are left out: {boxes.UNSURE}."]


def placed(text, *labels):
    drawn = [Box(label, 10.0 * i, 0, 10.0 * i + 9, 9) for i, label in enumerate(labels)]
    return [
        (m.fracture.bone, m.fracture.number, m.box and m.box.label)
        for m in boxes.mark_fractures(parse(text).fractures, drawn)
    ]


def test_a_general_label_fits_the_only_fracture_it_may_mean():
    seventh = "Fracture of the left seventh rib."
    assert placed(seventh, "rib fracture") == [("rib", "7", "rib fracture")]
    assert placed(seventh, "fractured right rib") == [
        ("rib", "7", None),
        ("rib", None, "fractured right rib"),
    ]


def test_a_label_that_may_mean_several_fractures_stands_alone():
    """A region at the wrong bone would be worse than one without a bone."""
    both = "Fractures of the left fifth rib and of the left seventh rib."
    assert placed(both, "rib fracture") == [
        ("rib", "5", None),
        ("rib", "7", None),
        ("rib", None, "rib fracture"),
    ]
    assert placed("Fracture of the left seventh rib.", "rib fracture", "rib fracture") == [
        ("rib", "7", None),
        ("rib", None, "rib fracture"),
        ("rib", None, "rib fracture"),
    ]


def test_several_boxes_of_one_place_stand_once_each():
    assert placed("Rib fractures.", "rib fracture", "rib fracture") == [
        ("rib", None, "rib fracture"),
        ("rib", None, "rib fracture"),
    ]


edges = st.floats(allow_nan=True, allow_infinity=True, width=32)
drawn = st.builds(
    Box,
    st.sampled_from(["rib fracture", "left seventh rib fracture", "T8 fracture", "heart", ""]),
    edges,
    edges,
    edges,
    edges,
)


@given(st.lists(drawn, max_size=8), st.integers(1, 3000), st.integers(1, 3000))
def test_whatever_a_model_draws_regions_lie_within_the_image(found, rows, columns):
    kept, said = boxes.keep_sound(found, rows, columns)
    for box in kept:
        assert 0 <= box.left < box.right <= columns
        assert 0 <= box.top < box.bottom <= rows
    assert len(kept) == len(set(kept))
    assert bool(said) == (len(kept) < len(found))


TURNS = ["L\\F", "R\\F", "L\\H", "R\\H", "F\\L", "F\\R", "H\\L", "H\\R", "A\\F", ""]
"""The eight ways to turn a picture, one that is none, and none."""
MARK = (60, 300, 140, 380)
"""Left, top, right, bottom of what is brighter than all around it."""


class Finder:
    """A model that puts a box around the brightest part of its picture."""

    def __init__(self, **facts: Any) -> None:
        self.info = ModelInfo("finder", "finder-1", "", has_regions=True)
        self.facts = {"finish_reason": "stop", "text": "Rib fracture."} | facts

    def describe(self, radiographs, progress=None):
        return [self._one(radiograph.pixels) for radiograph in radiographs]

    def _one(self, pixels):
        rows, columns = np.nonzero(pixels > 200)
        height, width = pixels.shape
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        shares = np.array(edges) / (width, height, width, height)
        found = (Region("rib fracture", *map(float, shares)),)
        return Description(**{"regions": found} | self.facts, tokens=3, seconds=0.1)


def instance(mark=MARK, shape=(512, 400), **elements):
    """Return a DX image, dark but for one bright rectangle, as bytes."""
    left, top, right, bottom = mark
    stored = np.full(shape, 300, np.uint16)
    stored[top:bottom, left:right] = 3500
    stored[:2, :2] = 0
    ds = reports.source(
        Rows=shape[0],
        Columns=shape[1],
        BitsAllocated=16,
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=0,
        PresentationIntentType="FOR PRESENTATION",
        BodyPartExamined="CHEST",
        PixelData=stored.tobytes(),
        **elements,
    )
    return reports.as_bytes(ds)


def described(decoder, model, content):
    """Return result and report of an Instance, as a worker makes them."""
    pipeline = Pipeline(model, decoder, Pixels(screening="off"))
    case = pipeline.prepare(content)
    pipeline.describe([case])
    conclusion = pipeline.build(case, ORDER)
    return conclusion.result, reports.read(conclusion.documents[0].content)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("spacing", [None, [0.3, 0.2], [0.2, 0.3]], ids=["", "high", "wide"])
def test_a_region_lies_where_the_image_as_stored_has_it(decoder, turn, spacing):
    elements = {"PatientOrientation": turn, "ImagerPixelSpacing": spacing}
    content = instance(**{key: value for key, value in elements.items() if value})
    _, ds = described(decoder, Finder(), content)
    (region,) = regions(ds)
    left, top, right, _, _, bottom = region.GraphicData[:6]
    assert (left, top, right, bottom) == pytest.approx(MARK, abs=0 if spacing is None else 2)


def test_boxes_stay_out_of_reports_that_do_not_ask_for_them(decoder):
    model = Finder()
    model.info = replace(model.info, has_regions=False)
    assert regions(described(decoder, model, instance())[1]) == []


@pytest.mark.parametrize("reason", ["length", "time"])
def test_an_answer_that_was_cut_off_never_excludes_a_fracture(decoder, reason):
    model = Finder(finish_reason=reason, text="No fracture of the clavicles.")
    result, ds = described(decoder, model, instance())
    assert result.presence == "undetermined"
    assert set(reports.values(ds, "125605004")) == {codes.UNDETERMINED.value}
    assert any("cut off" in text for text in reports.values(ds, "121106"))
    whole, ds = described(decoder, Finder(text=model.facts["text"], regions=()), instance())
    assert whole.presence == "absent"
    assert not any("cut off" in text for text in reports.values(ds, "121106"))


def test_an_answer_that_was_cut_off_still_tells_the_fracture_it_names(decoder):
    result, ds = described(decoder, Finder(finish_reason="length"), instance())
    assert result.presence == "present"
    assert any("cut off" in text for text in reports.values(ds, "121106"))


@pytest.mark.parametrize("turn", ["L\\F", "R\\H", "F\\R"])
def test_a_region_on_a_real_image_lies_where_it_was_marked(shared_data, decoder, turn):
    """Mark real radiographs, of any turn, and look for the difference in the picture."""
    seen = 0
    for path in sorted((shared_data / "chest").glob("*.dcm")):
        ds = read(path)
        with decoder.lent(ds) as lent:
            stored = np.array(lent)
        rows, columns = stored.shape
        mark = (columns // 5, rows // 2, columns // 5 + columns // 8, rows // 2 + rows // 9)
        pictures = [picture(ds, stored, turn, mark if is_marked else None) for is_marked in (0, 1)]
        difference = np.abs(pictures[1].pixels.astype(int) - pictures[0].pixels)
        found = np.nonzero(difference > difference.max() // 2)
        height, width = difference.shape
        down, across = ((f.min(), f.max() + 1) for f in found)
        share = Box("", across[0] / width, down[0] / height, across[1] / width, down[1] / height)
        box = boxes.in_image(share, pictures[1].steps, rows, columns)
        slack = 2 * max(rows / height, columns / width, rows / width, columns / height, 1)
        assert (box.left, box.top, box.right, box.bottom) == pytest.approx(mark, abs=slack)
        seen += 1
    assert seen >= 3


def picture(ds, stored, turn, mark) -> Radiograph:
    """Return the picture of a real image with one rectangle of it evenly bright or dark."""
    values = stored.copy()
    if mark:
        left, top, right, bottom = mark
        inside = values[top:bottom, left:right]
        least, most = int(stored.min()), int(stored.max())
        inside[:] = least if inside.mean() > (least + most) / 2 else most
    other = reports.again(ds)
    other.PatientOrientation = turn
    return radiograph(other, Lends(values), Pixels(screening="off"))


class Lends:
    """Lends values as a decoder does."""

    def __init__(self, stored):
        self.stored = stored

    def lent(self, ds):
        return nullcontext(self.stored)
