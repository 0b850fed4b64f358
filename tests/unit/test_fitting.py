"""How many pictures fit into memory is learned once, remembered, and grown back slowly."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.base.errors import OutOfResources
from worker.image.pixels import Radiograph
from worker.models import Description, ModelInfo, fitting
from worker.models.fitting import GROW_AFTER, BatchLimit
from worker.pipeline import Case, Pipeline
from worker.settings import Pixels


class Holds:
    """A model with room for some pictures."""

    info = ModelInfo("holds", "holds-1", "p")

    def __init__(self, room):
        self.room = room
        self.calls = []

    def describe(self, pictures, progress=None):
        self.calls.append(len(pictures))
        if len(pictures) > self.room:
            raise OutOfResources("out of memory")
        return [Description("No fracture.", 3, "stop", 0.1) for _ in pictures]


def batch(pipeline, count=8):
    pipeline._model.calls.clear()
    cases = [Case(radiograph=Radiograph(np.zeros((4, 4), np.uint8), "")) for _ in range(count)]
    pipeline.describe(cases)
    assert all(case.description for case in cases)
    return pipeline._model.calls


def pipeline(room, limit=None):
    return Pipeline(Holds(room), None, Pixels(), limit)


def test_memory_that_filled_once_is_not_filled_again():
    work = pipeline(2, BatchLimit(8))
    assert batch(work) == [8, 4, 2, 2, 2, 2]
    for _ in range(3):
        assert batch(work) == [2, 2, 2, 2]


def test_what_fitted_is_remembered_by_model_and_device(tmp_path):
    store = tmp_path / "cache" / "batches.json"
    batch(pipeline(2, BatchLimit(8, "holds-1|GPU", store)))
    assert batch(pipeline(2, BatchLimit(8, "holds-1|GPU", store))) == [2, 2, 2, 2]
    assert batch(pipeline(8, BatchLimit(8, "holds-1|larger GPU", store))) == [8]
    assert BatchLimit(1, "holds-1|GPU", store).most == 1, "never more than is wanted"


def test_it_grows_back_by_one_after_many_full_batches_and_is_then_more_patient():
    """A try that fails doubles the number of full batches before the next try."""
    limit = BatchLimit(8)
    work = pipeline(8, limit)
    limit.filled(8)  # something else had the memory
    for size in range(4, 8):
        for _ in range(GROW_AFTER):
            assert set(batch(work, size)) == {size}
    assert limit.most == 8
    short = pipeline(5, BatchLimit(8))
    batch(short)
    assert short.limit.most == 4
    for _ in range(GROW_AFTER):
        batch(short, 4)
    for _ in range(GROW_AFTER):
        batch(short, 5)
    assert (short.limit.most, batch(short, 6)) == (6, [6, 5, 1])
    for _ in range(2 * GROW_AFTER - 2):
        assert batch(short, 5) == [5]
    assert short.limit.most == 5
    batch(short, 5)
    batch(short, 5)
    assert short.limit.most == 6


def test_a_picture_that_fits_nowhere_makes_no_smaller_batches():
    """Halving finds the one picture; what was learned on the way is taken back."""

    class Choosy(Holds):
        def describe(self, pictures, progress=None):
            self.calls.append(len(pictures))
            if any(picture.pixels.any() for picture in pictures):
                raise OutOfResources("out of memory")
            return [Description("No fracture.", 3, "stop", 0.1) for _ in pictures]

    work = Pipeline(Choosy(8), None, Pixels(), BatchLimit(8))
    greys = [0, 0, 9, 0, 0, 0, 0, 0]
    cases = [Case(radiograph=Radiograph(np.full((4, 4), grey, np.uint8), "")) for grey in greys]
    work.describe(cases)
    assert [case.trouble is not None for case in cases] == [grey == 9 for grey in greys]
    assert work.limit.most == 8


@given(st.lists(st.tuples(st.sampled_from(["passed", "filled"]), st.integers(1, 16))))
def test_the_limit_stays_between_one_and_what_is_wanted(acts):
    limit = BatchLimit(8)
    for name, size in acts:
        getattr(limit, name)(min(size, limit.most))
        assert 1 <= limit.most <= 8


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"a": {"most": "x"}}', "[" * 100_000])
def test_a_damaged_memory_is_none(tmp_path, content):
    store = tmp_path / "batches.json"
    store.write_text(content)
    assert fitting.recall_fits(store) == {}
    assert BatchLimit(8, "a", store).most == 8


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_home_that_takes_nothing_is_no_trouble(tmp_path):
    tmp_path.chmod(0o500)
    limit = BatchLimit(8, "a", tmp_path / "x" / "batches.json")
    limit.filled(8)
    assert limit.most == 4


def test_the_file_keeps_the_newest_only(tmp_path):
    store = tmp_path / "batches.json"
    for n in range(fitting.MOST_KEPT + 9):
        fitting.remember_fit(store, f"model-{n}", fitting.Fit(4, 8, float(n)))
    kept = fitting.recall_fits(store)
    assert len(kept) == fitting.MOST_KEPT
    assert "model-0" not in kept


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({"CACHE_DIRECTORY": "/var/cache/chexfract"}, "/var/cache/chexfract/batches.json"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/chexfract/batches.json"),
        ({"HOME": "/home/a"}, "/home/a/.cache/chexfract/batches.json"),
    ],
)
def test_the_file_lies_where_the_system_keeps_such_things(monkeypatch, variables, path):
    for name in ("CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(fitting.store_path()) == path
