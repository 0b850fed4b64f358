"""The drawing itself: a chest seen from the front, in millimetres, with breaks where asked.

Air is dark and bone is bright (MONOCHROME2). The patient's left is at the viewer's right, and
the apex of the heart points to it, so that a mirrored picture is recognisably wrong. All
proportions are chosen before anything is painted: one seed gives one phantom, painted at any
resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.phantom.truth import SIDES, Finding, chosen_by

Array = npt.NDArray[np.floating[Any]]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""

PAIRS = 10
"""Pairs of ribs."""

_FIELDS = ((430.0, 430.0), (390.0, 390.0), (350.0, 430.0), (430.0, 350.0))
"""Widths and heights of detectors, in mm."""

_COARSE = 4
"""Soft tissue has no fine detail and is painted on every fourth pixel."""

_LETTERS = {
    "left": ("1....", "1....", "1....", "1....", "1....", "1....", "11111"),
    "right": ("1111.", "1...1", "1...1", "1111.", "1.1..", "1..1.", "1...1"),
}


@dataclass(frozen=True)
class Field:
    """What the detector sees: x = 0 is the midline, y = 0 lies above the first rib; mm."""

    left: float
    top: float
    width: float
    height: float
    short_side: int

    @property
    def spacing(self) -> float:
        """Distance of pixel centres in mm."""
        return min(self.width, self.height) / self.short_side

    @cached_property
    def x(self) -> Array:
        """Return the columns' positions, (columns,)."""
        count = round(self.width / self.spacing)
        return (self.left + (np.arange(count) + 0.5) * self.spacing).astype(np.float32)

    @cached_property
    def y(self) -> Array:
        """Return the rows' positions, (rows,)."""
        count = round(self.height / self.spacing)
        return (self.top + (np.arange(count) + 0.5) * self.spacing).astype(np.float32)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Return the column and row of a position."""
        return (x - self.left) / self.spacing, (y - self.top) / self.spacing


@dataclass(frozen=True)
class Body:
    """The proportions of one phantom; lengths in mm."""

    half_width: float
    rib_spacing: float
    rib_thickness: float
    arch: float
    drop: float
    tilt: float
    heart: float
    right_diaphragm: float

    @classmethod
    def chosen_by(cls, rng: np.random.Generator) -> Body:
        """Choose the proportions of one phantom."""
        spacing = rng.uniform(21.5, 25.5)
        return cls(
            half_width=rng.uniform(118, 142),
            rib_spacing=spacing,
            rib_thickness=rng.uniform(4.0, 5.4),
            arch=rng.uniform(0.25, 0.45) * spacing,
            drop=rng.uniform(1.9, 2.6) * spacing,
            tilt=rng.uniform(-0.035, 0.035),
            heart=rng.uniform(0.34, 0.44),
            right_diaphragm=rng.uniform(0, 10),
        )

    @property
    def bones(self) -> Box:
        """Return the box that holds every bone."""
        lean = abs(self.tilt) * self.half_width
        bottom = (PAIRS - 0.45) * self.rib_spacing + self.drop
        return (-self.half_width - 8, -32 - lean, self.half_width + 8, bottom + lean + 6)


@dataclass(frozen=True)
class Break:
    """A fracture: where along the bone (0 to 1), the step (mm) and half the gap (mm)."""

    along: float
    step: float
    half_gap: float


@dataclass(frozen=True)
class Bone:
    """One rib or clavicle before it is painted."""

    finding: Finding
    brightness: float
    offset: float
    length: float
    rise: float
    broken: Break | None


@dataclass(frozen=True)
class Picture:
    """One painted phantom.

    Attributes
    ----------
    grey : numpy.ndarray
        float32, (rows, columns), 0 black, 1 white; a marker may be brighter than white.
    spacing : float
        mm between pixel centres.
    findings : frozenset of Finding
    places : tuple of (Finding, column, row)
        Where each fracture was painted, in pixels.
    bones : tuple of float
        Left, top, right and bottom of the box around all bones, in pixels.
    """

    grey: Array
    spacing: float
    findings: frozenset[Finding]
    places: tuple[tuple[Finding, float, float], ...]
    bones: Box

    @property
    def uint8(self) -> npt.NDArray[np.uint8]:
        """The grey values as 8 bits, 255 white."""
        return (np.clip(self.grey, 0, 1) * 255 + 0.5).astype(np.uint8)


def paint(
    rng: np.random.Generator,
    findings: frozenset[Finding] | None = None,
    short_side: int = 512,
) -> Picture:
    """Draw one phantom.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of variation: the same state draws the same picture.
    findings : frozenset of Finding, optional
        What is broken. Chosen at random (0 to 3 fractures) when left out.
    short_side : int
        Rows or columns, whichever are fewer.
    """
    by_chance = chosen_by(rng)
    findings = by_chance if findings is None else findings
    body = Body.chosen_by(rng)
    field = _place_field(rng, body, short_side)
    skeleton = [
        _shape_bone(rng, body, Finding(s, n), findings) for s in SIDES for n in range(PAIRS + 1)
    ]
    finish = _Finish.chosen_by(rng, body, field)
    grey = _soft_tissue(body, field)
    places = []
    for bone in skeleton:
        place = _paint_bone(grey, field, body, bone)
        if bone.broken is not None:
            places.append((bone.finding, *field.pixel(*place)))
    corner, opposite = field.pixel(*body.bones[:2]), field.pixel(*body.bones[2:])
    grey = finish.apply(rng, grey, field)
    return Picture(grey, field.spacing, findings, tuple(places), corner + opposite)


def _place_field(rng: np.random.Generator, body: Body, short_side: int) -> Field:
    """Place the detector so that every bone lies on it."""
    width, height = _FIELDS[int(rng.integers(len(_FIELDS)))]
    left, top, right, bottom = body.bones
    spare_x, spare_y = width - (right - left), max(0.0, height - (bottom - top))
    centre = spare_x * (0.5 + 0.3 * rng.uniform(-1, 1))
    return Field(left - centre, top - spare_y * rng.uniform(0.1, 0.7), width, height, short_side)


def _shape_bone(
    rng: np.random.Generator, body: Body, bone: Finding, findings: frozenset[Finding]
) -> Bone:
    """Choose the shape of one bone; the dice are thrown alike whether it is broken or not."""
    spread, up, size, gap = rng.uniform(size=4)
    direction = float(rng.choice([-1, 1]))
    if bone.rib:
        along, step = 0.36 + 0.5 * spread, 6.0 + 3.0 * size
        length = body.half_width * min(1.0, 0.52 + 0.085 * bone.rib)
        offset, rise, brightness = 0.0, 1.6 * up - 0.8, rng.uniform(0.13, 0.17)
    else:
        along, step = 0.32 + 0.4 * spread, 8.0 + 4.0 * size
        length = body.half_width * rng.uniform(0.8, 0.92)
        offset, rise, brightness = 14.0, 18 + 9 * up, rng.uniform(0.21, 0.25)
    broken = Break(along, direction * step, 2.6 + 1.6 * gap) if bone in findings else None
    return Bone(bone, brightness, offset, length, rise, broken)


def _bone_height(body: Body, bone: Bone, u: Array) -> Array:
    """Return the height of the bone's middle at `u`, 0 at the spine and 1 at its end."""
    if not bone.finding.rib:
        curve: Array = 7 * np.sin(2 * np.pi * u) - bone.rise * u
        return curve + 0.15 * body.rib_spacing
    arch: Array = body.arch * np.sin(np.pi * np.minimum(u * 1.6, 1))
    return (bone.finding.rib - 0.55) * body.rib_spacing + bone.rise + body.drop * u**2.6 - arch


def _paint_bone(grey: Array, field: Field, body: Body, bone: Bone) -> tuple[float, float]:
    """Add one bone to the picture; return the place of its break."""
    sign = 1 if bone.finding.side == "left" else -1
    u = (sign * field.x - bone.offset) / bone.length
    columns = np.flatnonzero((u > (0.07 if bone.finding.rib else 0)) & (u < 1))
    u, x = u[columns], field.x[columns]
    line = _bone_height(body, bone, u) + body.tilt * x
    slope = np.diff(line, append=line[-1:]) / field.spacing
    strength, place = np.full_like(u, bone.brightness), (0.0, 0.0)
    if bone.broken is not None:
        at = np.array([bone.broken.along], np.float32)
        where = sign * (bone.offset + float(at[0]) * bone.length)
        place = where, float(_bone_height(body, bone, at)[0]) + body.tilt * where
        line = line + np.where(u > at, bone.broken.step, 0).astype(np.float32)
        strength[np.abs(u - at) * bone.length < bone.broken.half_gap] = 0
    thickness = body.rib_thickness if bone.finding.rib else 6.6
    near = (field.y > line.min() - 2 * thickness) & (field.y < line.max() + 2 * thickness)
    rows = np.flatnonzero(near)
    if len(rows) and len(columns):
        # Vertical distance times the cosine of the slope: how far a pixel is from the line.
        distance = np.abs(field.y[rows, None] - line) / np.sqrt(1 + slope**2)
        profile = _ridge_profile(distance, thickness)
        if bone.finding.rib:
            # Both edges of a rib are brighter: there its cortex is seen edge on.
            profile *= 0.8 + 0.4 * _ridge_profile(distance - 0.7 * thickness, 3.0)
        grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += profile * strength
    return place


def _soft_tissue(body: Body, field: Field) -> Array:
    """Draw body, lungs, heart, mediastinum, diaphragm and spine."""
    x, y = field.x[None, ::_COARSE], field.y[::_COARSE, None]
    half, spacing = body.half_width, body.rib_spacing
    y = y - body.tilt * x
    width = half * (0.62 + 0.55 * np.clip((y / 400 + 0.12) * 2.2, 0, 1)) + 22
    image = 0.42 * _logistic_step((width - np.abs(x)) / 4)
    for sign in (-1, 1):
        across = ((x - sign * half * 0.5) / (half * 0.42)) ** 2
        lung = across + (np.abs(y - 4.8 * spacing) / (5.3 * spacing)) ** 2.6
        image -= 0.25 * _logistic_step((1 - lung) * 9)
    heart = ((x - half * 0.17) / (half * body.heart)) ** 2
    heart = heart + ((y - 7.2 * spacing) / (2.6 * spacing)) ** 2
    image += 0.2 * _logistic_step((1 - heart) * 7)
    image += 0.16 * _ridge_profile(np.abs(x), 34)
    dome = 9.6 * spacing + 9 * np.cos(3 * x / half) - body.right_diaphragm * (x < 0)
    image += 0.22 * _logistic_step((y - dome) / 5)
    vertebrae = 0.75 + 0.25 * np.cos(2 * np.pi * y / spacing)
    image += 0.1 * _ridge_profile(np.abs(x), 14) * vertebrae
    return _stretched_image(image.astype(np.float32), (len(field.y), len(field.x)))


@dataclass(frozen=True)
class _Finish:
    """What the room adds: clouds, grain, exposure, collimation and a side marker."""

    gain: float
    base: float
    gamma: float
    grain: float
    collimation: Box | None
    marker: tuple[str, float, float, float] | None

    @classmethod
    def chosen_by(cls, rng: np.random.Generator, body: Body, field: Field) -> _Finish:
        """Choose all of it; nothing hides a bone."""
        edges = np.array([field.left, field.top, *_field_end(field)])
        share = np.minimum(1, rng.uniform(0.2, 1.6, 4))
        limits = np.array(body.bones) + np.array([-6, -6, 6, 6])
        inner = limits + (edges - limits) * share
        left, top = np.minimum(inner, limits)[:2].tolist()
        right, bottom = np.maximum(inner, limits)[2:].tolist()
        opening = left, top, right, bottom
        gain, base, gamma = rng.uniform(0.93, 1.27), rng.uniform(0.03, 0.09), rng.uniform(0.85, 1.2)
        side = str(rng.choice(SIDES))
        size, out, down = rng.uniform(13, 19), rng.uniform(0, 1), rng.uniform(0, 1)
        sign = 1 if side == "left" else -1
        reach = (edges[2] if sign > 0 else -edges[0]) - body.half_width - size
        place = sign * (body.half_width + size / 2 + 4 + max(0.0, reach - 8) * out)
        marker = (side, place, field.top + 14 + 60 * down, size)
        return cls(
            gain,
            base,
            gamma,
            rng.uniform(0.008, 0.022),
            opening if rng.random() < 0.3 else None,
            marker if rng.random() < 0.5 and reach > 8 else None,
        )

    def apply(self, rng: np.random.Generator, grey: Array, field: Field) -> Array:
        """Return the finished picture."""
        shape = grey.shape
        large, small = (rng.standard_normal((cells, cells), np.float32) for cells in (12, 32))
        clouds = 0.018 * _stretched_image(large, small.shape) + 0.012 * small
        grey = grey + _stretched_image(clouds, shape)
        # Grain is that of a picture of 512 pixels, whatever is painted.
        grain = self.grain * min(shape) / 512
        grey += grain * rng.standard_normal(shape, np.float32)
        grey = np.maximum(self.base + grey * self.gain, 0)
        if self.collimation is not None:
            grey *= _collimator_opening(field, self.collimation)
        grey **= np.float32(self.gamma)
        if self.marker is not None:
            _paint_marker(grey, field, *self.marker)
        return grey


def _field_end(field: Field) -> tuple[float, float]:
    """Return the right and the bottom edge of a field in mm."""
    return field.left + field.width, field.top + field.height


def _collimator_opening(field: Field, box: Box) -> Array:
    """Return what the collimator lets through: 1 inside, little outside, soft at the edge."""
    left, top, right, bottom = box
    across = np.minimum(field.x - left, right - field.x)
    down = np.minimum(field.y - top, bottom - field.y)
    open_ = _logistic_step(np.minimum(across[None, :], down[:, None]) / 1.5)
    return (0.04 + 0.96 * open_).astype(np.float32)


def _paint_marker(grey: Array, field: Field, side: str, x: float, y: float, size: float) -> None:
    """Set a lead letter, `size` mm high, centred at (x, y)."""
    letter = np.array([[cell == "1" for cell in row] for row in _LETTERS[side]])
    cell = size / len(letter)
    rows = np.floor((field.y - y) / cell + len(letter) / 2).astype(int)
    columns = np.floor((field.x - x) / cell + letter.shape[1] / 2).astype(int)
    inside = (
        np.flatnonzero((rows >= 0) & (rows < letter.shape[0])),
        np.flatnonzero((columns >= 0) & (columns < letter.shape[1])),
    )
    mask = letter[np.ix_(rows[inside[0]], columns[inside[1]])]
    grey[np.ix_(*inside)] = np.where(mask, 1.15, grey[np.ix_(*inside)])


def _logistic_step(x: Array) -> Array:
    """Return the logistic function: 0 far below zero, 1 far above."""
    step: Array = 0.5 + 0.5 * np.tanh(x / 2)
    return step


def _ridge_profile(distance: Array, half_width: float) -> Array:
    """Return a rounded profile: 1 on the line, 0 at `half_width` and beyond."""
    ridge: Array = np.maximum(1 - (distance / half_width) ** 2, 0)
    return ridge


def _stretched_image(image: Array, shape: tuple[int, ...]) -> Array:
    """Return a coarse image, smoothly enlarged to (rows, columns)."""
    large = Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.array(large)
