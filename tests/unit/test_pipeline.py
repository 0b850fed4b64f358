"""Many pictures at a time: less memory than wanted, and one that no model can read."""

from __future__ import annotations

import numpy as np
import pytest

from dicom_node.base.errors import Busy, ModelFault, OutOfResources, Unreachable
from dicom_node.base.job import Reason
from worker.image.pixels import Radiograph
from worker.models import BrokenAccelerator, Description, ModelInfo
from worker.pipeline import Case, Pipeline
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
        if self.fault and any(not one.pixels.any() for one in radiographs):
            raise self.fault
        return [Description(str(one.pixels[0, 0]), 1, "stop", 0.1) for one in radiographs]


def cases(*greys):
    return [Case(radiograph=Radiograph(np.full((4, 4), grey, np.uint8), "")) for grey in greys]


def described(model, waiting):
    Pipeline(model, None, Pixels()).describe(waiting)  # type: ignore[arg-type]
    return [case.description and case.description.text for case in waiting]


@pytest.mark.parametrize(
    ("room", "batches"), [(8, [8]), (4, [4, 4, 8]), (3, [2, 2, 2, 2, 4, 4, 8])]
)
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
    told = described(Reader(8, fault), waiting)
    assert told == [None if grey == 0 else str(grey) for grey in greys]
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
