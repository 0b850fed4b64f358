"""Many pictures at a time: less memory than wanted, and one that no model can read."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmwrite

from dicom_node.base.errors import Busy, ModelFault, OutOfResources, Unreachable
from dicom_node.base.job import Reason, ReportOrder
from worker.image.decode import Decoder
from worker.image.pixels import Radiograph
from worker.models import BrokenAccelerator, Description, ModelInfo, Prepared, Region
from worker.phantom.draw import instance
from worker.pipeline import Case, Pipeline, algorithm
from worker.report.document import device_uid
from worker.settings import Pixels


class Reader:
    """A model with room for some pictures at a time, which chokes on black ones."""

    info = ModelInfo("reader", "reader-1", "")

    def __init__(self, room: int, fault: Exception | None = None) -> None:
        self.room = room
        self.fault = fault
        self.batches: list[int] = []

    def describe(self, radiographs, progress=None):
        self.batches.append(len(radiographs))
        if len(radiographs) > self.room:
            raise OutOfResources("out of memory on cuda")
        if self.fault and any(not radiograph.pixels.any() for radiograph in radiographs):
            raise self.fault
        return [
            Description(str(radiograph.pixels[0, 0]), 1, "stop", 0.1) for radiograph in radiographs
        ]


def cases(*greys):
    return [Case(radiograph=Radiograph(np.full((4, 4), grey, np.uint8), "")) for grey in greys]


def described(model, waiting):
    Pipeline(model, None, Pixels()).describe(waiting)  # type: ignore[arg-type]
    return [case.description and case.description.text for case in waiting]


@pytest.mark.parametrize(("room", "batches"), [(8, [8]), (4, [4, 4, 8]), (3, [2, 2, 2, 2, 4, 8])])
def test_a_batch_is_halved_until_it_fits_and_stays_in_order(room, batches):
    model = Reader(room)
    assert described(model, cases(*range(1, 9))) == [str(grey) for grey in range(1, 9)]
    assert sorted(model.batches) == batches


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize(
    ("fault", "reason", "trouble"),
    [
        (ModelFault("no ribs"), "model-failed", None),
        (OutOfResources("full"), None, "full"),
        (MemoryError(), None, "this worker's memory is full"),
    ],
)
def test_a_picture_that_no_model_reads_fails_alone(place, fault, reason, trouble):
    greys = [0 if i == place else i + 1 for i in range(5)]
    waiting = cases(*greys)
    texts = described(Reader(8, fault), waiting)
    assert texts == [None if grey == 0 else str(grey) for grey in greys]
    poison = waiting[place]
    assert (poison.reason.code if poison.reason else None) == reason
    assert (str(poison.trouble) if poison.trouble else None) == trouble
    others = [case for case in waiting if case is not poison]
    assert all(case.reason is None and case.trouble is None for case in others)


@pytest.mark.parametrize(
    "fault", [Unreachable("away"), Busy("later"), BrokenAccelerator("lost to this process")]
)
def test_an_engine_that_is_away_blames_no_picture_and_is_asked_once(fault):
    waiting = cases(0, 1, 2)
    model = Reader(8, fault)
    assert described(model, waiting) == [None] * 3
    assert [case.trouble for case in waiting] == [fault] * 3
    assert [case.reason for case in waiting] == [None] * 3
    assert model.batches == [3]


def test_what_was_refused_before_never_reaches_the_model():
    waiting = cases(1, 2, 3)
    waiting[1].reason = Reason(code="lateral-view", text="It is a lateral view.")
    model = Reader(8)
    assert described(model, waiting) == ["1", None, "3"]
    assert model.batches == [2]


@pytest.fixture(scope="module")
def drawn():
    content = BytesIO()
    dcmwrite(content, instance(7, 0), enforce_file_format=True)
    return content.getvalue()


@pytest.mark.parametrize("change", [-1, 1])
def test_no_picture_gets_the_answer_to_another(change):
    class Miscounts(Reader):
        def describe(self, radiographs, progress=None):
            said = super().describe(radiographs)
            return said if len(said) == 1 else [*said, said[0]][: len(said) + change]

    assert described(Miscounts(8), cases(1, 2, 3, 4, 5)) == ["1", "2", "3", "4", "5"]


def test_a_model_that_gives_no_answer_fails():
    class SaysNothing(Reader):
        def describe(self, radiographs, progress=None):
            return []

    waiting = cases(1, 2)
    assert described(SaysNothing(8), waiting) == [None, None]
    assert {case.reason.text for case in waiting} == {"The model failed: 0 answers to 1 picture"}


class Preparer(Reader):
    """A reader that makes inputs in advance."""

    def __init__(self, fault: Exception | None = None) -> None:
        super().__init__(8)
        self.inputs_fault = fault
        self.got: list[object] = []

    def prepare(self, radiograph):
        if self.inputs_fault is not None:
            raise self.inputs_fault
        return Prepared(radiograph.pixels, "inputs")

    def describe(self, radiographs, progress=None):
        self.got += radiographs
        return super().describe(radiographs, progress)


def prepared(model, content):
    with Decoder() as decoder:
        return Pipeline(model, decoder, Pixels(screening="off")).prepare(content)


def test_the_models_inputs_are_made_before_the_model_is_asked(drawn):
    model = Preparer()
    case = prepared(model, drawn)
    assert case.prepared is not None
    assert "inputs" in case.stages_ms
    assert model.batches == []
    described(model, [case])
    assert [picture.inputs for picture in model.got] == ["inputs"]
    assert case.prepared is None, "what is as large as a picture is kept no longer than needed"


@pytest.mark.parametrize(
    ("fault", "reason", "trouble"),
    [
        (ModelFault("no ribs"), "model-failed", None),
        (OutOfResources("full"), None, "full"),
        (MemoryError(), None, "this worker's memory is full"),
    ],
)
def test_a_picture_that_the_processor_does_not_take_never_reaches_the_model(
    drawn, fault, reason, trouble
):
    model = Preparer(fault)
    case = prepared(model, drawn)
    assert described(model, [case]) == [None]
    assert model.batches == []
    assert (case.reason.code if case.reason else None) == reason
    assert (str(case.trouble) if case.trouble else None) == trouble


@pytest.mark.parametrize("has_regions", [True, False], ids=["drawn", "left-out"])
@pytest.mark.parametrize(
    ("text", "label", "presence"),
    [
        ("No fracture.", "rib fracture", "undetermined"),
        ("No fracture.", "No rib fracture", "absent"),
        ("No fracture.", "pneumothorax", "absent"),
        ("Fracture of the left 5th rib.", "rib fracture", "present"),
    ],
)
def test_a_box_around_a_fracture_contradicts_a_text_without_one(
    drawn, has_regions, text, label, presence
):
    class Drawer(Reader):
        info = ModelInfo("drawer", "drawer-1", "", has_regions=has_regions)

        def describe(self, radiographs, progress=None):
            where = (Region(label, 0.1, 0.1, 0.3, 0.3),)
            return [Description(text, 3, "stop", 0.1, where) for _ in radiographs]

    with Decoder() as decoder:
        pipeline = Pipeline(Drawer(8), decoder, Pixels(screening="off"))
        case = pipeline.prepare(drawn)
        pipeline.describe([case])
        order = ReportOrder(content_datetime="2026-01-01T00:00:00Z")
        result = pipeline.build(case, order).result
    assert result.presence == presence
    assert any("draws a box" in warning for warning in result.warnings) is (
        presence == "undetermined"
    )


def test_a_version_follows_weights_code_and_options_and_keeps_its_digest() -> None:
    """A long name is cut, never what tells two devices apart."""
    plain = ModelInfo("m", "m-1.aaaa", "prompt", parameters={"weights": "aaaa"})
    long = replace(plain, name="n" * 80, version="n" * 80 + "-1.aaaa")
    changed = [
        replace(plain, version="m-1.bbbb"),
        replace(plain, prompt="another"),
        replace(plain, parameters={"weights": "aaaa", "decode": "beam"}),
        replace(long, prompt="another"),
        long,
    ]
    made = [algorithm(info, Pixels()) for info in (plain, *changed)]
    assert all(0 < len(info.version) <= 64 for info in made)
    assert len({info.version for info in made}) == len({device_uid(info) for info in made}) == 6
    assert "-1.aaaa." in algorithm(long, Pixels()).version
    assert "weights=unknown" in algorithm(ModelInfo("s", "s-1", ""), Pixels()).parameters
