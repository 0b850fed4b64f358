"""A pixel fault anywhere on the way must change what the demonstration model says."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset, dcmwrite

from worker.phantom.draw import instance, phantom_findings
from worker.phantom.truth import text
from worker.pipeline import Pipeline

SEED, WANTED = 77_001, 12

Change = Callable[[Dataset, np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def fractured() -> list[tuple[int, str]]:
    """Phantoms with fractures: one without stays right under almost any fault."""
    chosen = [(i, phantom_findings(SEED, i)) for i in range(60)]
    return [(i, text(findings)) for i, findings in chosen if findings][:WANTED]


def exact(worker: Pipeline, phantoms: list[tuple[int, str]], change: Change) -> float:
    """Return the share of phantoms that are read rightly after `change`, by the whole path."""
    cases = []
    for index, _ in phantoms:
        ds = instance(SEED, index)
        stored = np.frombuffer(ds.PixelData, np.uint16).reshape(ds.Rows, ds.Columns)
        pixels = np.ascontiguousarray(change(ds, stored)).astype(np.uint16)
        ds.Rows, ds.Columns = pixels.shape
        ds.PixelData = pixels.tobytes()
        content = BytesIO()
        dcmwrite(content, ds, enforce_file_format=True)
        cases.append(worker.prepare(content.getvalue()))
    worker.describe(cases)
    said = [case.description.text if case.description else "" for case in cases]
    return float(np.mean([s == truth for s, (_, truth) in zip(said, phantoms, strict=True)]))


def top(ds: Dataset) -> int:
    return int((1 << ds.BitsStored) - 1)


def relabelled(ds: Dataset, x: np.ndarray) -> np.ndarray:
    """Store the negative and say so: what is seen stays the same."""
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.PresentationLUTShape = "INVERSE"
    ds.WindowCenter = top(ds) - float(ds.WindowCenter)
    return top(ds) - x


def turned(ds: Dataset, x: np.ndarray) -> np.ndarray:
    """Store the mirror image and say so in Patient Orientation."""
    ds.PatientOrientation = ["R", "F"]
    return x[:, ::-1]


FAITHFUL: dict[str, Change] = {
    "as drawn": lambda ds, x: x,
    "negative that says so": relabelled,
    "mirrored that says so": turned,
    "letterboxed": lambda ds, x: np.pad(x, ((0, 0), (90, 60))),
    "enlarged": lambda ds, x: np.kron(x, np.ones((2, 2))),
}

FAULTS: dict[str, Change] = {
    "inverted": lambda ds, x: top(ds) - x,
    "mirrored": lambda ds, x: x[:, ::-1],
    "upside down": lambda ds, x: x[::-1],
    "rotated": lambda ds, x: np.rot90(x),
    "transposed": lambda ds, x: x.T,
    "wrong byte": lambda ds, x: x & 0xFF,
}


EXPOSURES: dict[str, Change] = {
    "too dark (a quarter)": lambda ds, x: x // 4,
    "saturated (x 2.5)": lambda ds, x: np.minimum(x.astype(int) * 5 // 2, top(ds)),
}
"""How much of these survives differs from one training to the next."""


@pytest.mark.parametrize("change", FAITHFUL.values(), ids=FAITHFUL)
def test_what_shows_the_same_is_read_the_same(
    worker: Pipeline, fractured: list[tuple[int, str]], change: Change
) -> None:
    assert exact(worker, fractured, change) >= 0.8


@pytest.mark.parametrize("change", FAULTS.values(), ids=FAULTS)
def test_a_fault_ruins_the_answer(
    worker: Pipeline, fractured: list[tuple[int, str]], change: Change
) -> None:
    assert exact(worker, fractured, change) <= 0.2


@pytest.mark.parametrize("change", EXPOSURES.values(), ids=EXPOSURES)
def test_a_wrong_exposure_is_no_improvement(
    worker: Pipeline, fractured: list[tuple[int, str]], change: Change
) -> None:
    assert exact(worker, fractured, change) <= exact(worker, fractured, FAITHFUL["as drawn"])
