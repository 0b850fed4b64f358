"""What the demonstration model learns from: drawings, seen in a new frame at each look."""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.phantom import truth
from worker.phantom.picture import Box, paint

SHORT_SIDE = 256
"""Training pictures are painted smaller than Instances: the model sees 160 pixels."""

COUNTS = (0.22, 0.33, 0.25, 0.15, 0.05)
"""Probabilities of 0 to 4 fractures: more than in `truth`, so that each look teaches more."""

Place = tuple[truth.Finding, float, float]
"""A fracture's column and row in pixels."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn phantom as training keeps it; places and box in pixels."""

    pixels: npt.NDArray[np.uint8]
    findings: frozenset[truth.Finding]
    places: tuple[Place, ...]
    bones: Box


def draw_all(seed: int, count: int, processes: int) -> list[Drawing]:
    """Draw the training phantoms; the result does not depend on the number of processes."""
    tasks = [(seed, index) for index in range(count)]
    if processes < 2:
        return list(map(_draw_task, tasks))
    # Each drawing has a generator seeded by its own index, so the split over processes changes
    # nothing.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(_draw_task, tasks, chunksize=100)


def _draw_task(task: tuple[int, int]) -> Drawing:
    rng = np.random.default_rng(task)
    drawn = paint(rng, truth.chosen_by(rng, COUNTS), SHORT_SIDE)
    return Drawing(drawn.uint8, drawn.findings, drawn.places, drawn.bones)


def view_drawing(
    rng: np.random.Generator, drawing: Drawing, side: int
) -> tuple[npt.NDArray[np.uint8], list[Place]]:
    """Look at a drawing in a new frame, as the processor would after cutting off borders.

    Returns
    -------
    tuple
        uint8 (side, side), and where its fractures are now.
    """
    rows, columns = drawing.pixels.shape
    left, top, right, bottom = _choose_frame(rng, drawing)
    across, down = side / (right - left), side / (bottom - top)
    inside = (max(left, 0), max(top, 0), min(right, columns), min(bottom, rows))
    x, end_x = (round((edge - left) * across) for edge in inside[::2])
    y, end_y = (round((edge - top) * down) for edge in inside[1::2])
    content = Image.fromarray(drawing.pixels).resize(
        (end_x - x, end_y - y), Image.Resampling.BILINEAR, box=inside
    )
    canvas = np.full((side, side), int(rng.choice([0, 255, int(rng.integers(256))])), np.uint8)
    canvas[y:end_y, x:end_x] = np.asarray(content)
    return canvas, [(f, (px - left) * across, (py - top) * down) for f, px, py in drawing.places]


def _choose_frame(rng: np.random.Generator, drawing: Drawing) -> Box:
    """Choose a frame: as drawn, cut as far as the outermost bones, or with bars around it."""
    rows, columns = drawing.pixels.shape
    outer = np.array([0.0, 0.0, columns, rows])
    kind = rng.random()
    share = np.zeros(4)
    if kind > 0.3:
        share = rng.uniform(0, 1, 4) * (rng.random(4) < 0.75)
    frame = outer + (_closest_frame(drawing, outer) - outer) * share
    if kind > 0.85:
        bar = 0.07 * np.array([columns, rows])
        frame += rng.uniform(0, 1, 4) * np.concatenate([-bar, bar])
    left, top, right, bottom = map(float, frame)
    return left, top, right, bottom


def _closest_frame(drawing: Drawing, outer: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the closest frame: it may cut the ends of bones, but no fracture."""
    closest = np.array(drawing.bones)
    into = 0.04 * (closest[2:] - closest[:2])
    closest += np.concatenate([into, -into])
    for _, x, y in drawing.places:
        closest[:2] = np.minimum(closest[:2], (x - 12, y - 12))
        closest[2:] = np.maximum(closest[2:], (x + 12, y + 12))
    closest[:2] = np.maximum(closest[:2], outer[:2])
    closest[2:] = np.minimum(closest[2:], outer[2:])
    return closest
