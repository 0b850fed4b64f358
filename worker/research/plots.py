"""Plots of figures and their intervals as SVG that stands in a page, in its colours.

Drawn by matplotlib and not by Plotly: a paper's page is printed, kept and mailed. These are 10 to
30 KB of marks and text each, without a script; Plotly puts 4.7 MB of JavaScript into every page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dicom_node.base.errors import ConfigurationError
from worker.research.measures import Interval

_INK, _FAINT, _FIRST, _SECOND = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {_INK: "--ink", _FAINT: "--line", _FIRST: "--first", _SECOND: "--second"}
"""Colours that stand for those of the page, which differ by theme."""
_WIDTH = 6.4
"""Inches; the page scales the drawing to its column."""


@dataclass(frozen=True, slots=True)
class Point:
    """A figure with its interval."""

    name: str
    value: float | None
    interval: Interval | None = None
    n: int = 0
    is_second: bool = False
    """Whether it is the second of two that are compared."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Recall beside the rate of false alarms, each with its interval."""

    name: str
    recall: Point
    specificity: Point
    is_small: bool = False
    is_second: bool = False


def roc(points: Sequence[OperatingPoint]) -> str:
    """Return the operating points in the plane of a ROC curve; there is no score, so no curve."""
    with _draw_figure(_WIDTH * 0.72, _WIDTH * 0.72, "roc") as (figure, written):
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=1, linestyle="--")
        for point in points:
            recall, alarms = point.recall.value, point.specificity.value
            if recall is None or alarms is None:
                continue
            colour = _SECOND if point.is_second else _FIRST
            within = _whisker_lengths(1 - alarms, _flipped_interval(point.specificity.interval))
            axes.errorbar(
                [1 - alarms], [recall], xerr=within,
                yerr=_whisker_lengths(recall, point.recall.interval),
                fmt="o", color=colour, markersize=4 if point.is_small else 8,
                elinewidth=0.8 if point.is_small else 1.6, alpha=0.6 if point.is_small else 1,
            )  # fmt: skip
            if point.is_small:
                continue  # the forest plot names the groups; here their names would cover them
            axes.annotate(
                point.name, (1 - alarms, recall), xytext=(7, -11), textcoords="offset points",
                fontsize=8, color=_INK,
            )  # fmt: skip
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set_xlabel("false alarms (1 - specificity)")
        axes.set_ylabel("recall (sensitivity)")
        _plain_axes(axes)
    return written[0]


def forest(
    panels: Sequence[tuple[str, Sequence[Point]]],
    kind: str,
    *,
    zero: bool = False,
    width: float = _WIDTH,
) -> str:
    """Return panels side by side of one line for each name: value, interval and n.

    Parameters
    ----------
    panels : sequence
        A title and points; the names of the first panel stand at the left.
    kind : str
        Makes the marks of two drawings in one page differ.
    zero : bool
        Whether differences are shown: around 0 instead of from 0 to 1.
    width : float
        Inches: what is shown small is drawn small, so that its text stays legible.
    """
    rows = len(panels[0][1])
    with _draw_figure(width, 0.75 + 0.27 * rows, kind) as (figure, written):
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (title, points) in zip(grid, panels, strict=True):
            for row, point in enumerate(points):
                if point.value is None:
                    continue
                colour = _SECOND if point.is_second else _FIRST
                within = _whisker_lengths(point.value, point.interval)
                axes.errorbar(
                    [point.value], [row], xerr=within, fmt="s", color=colour, markersize=5,
                    elinewidth=1.4, capsize=2.5,
                )  # fmt: skip
            axes.set_title(title, fontsize=9, color=_INK)
            if zero:
                axes.axvline(0, color=_FAINT, linewidth=1)
            else:
                axes.set_xlim(-0.03, 1.03)
            _plain_axes(axes, "x")
        for axes in grid[1:]:
            axes.tick_params(axis="y", length=0)
        first = panels[0][1]
        names = [f"{point.name}  (n = {point.n})" if point.n else point.name for point in first]
        grid[0].set_yticks(range(rows), names, fontsize=8)
        grid[0].set_ylim(rows - 0.5, -0.5)
    return written[0]


@contextmanager
def _draw_figure(width: float, height: float, kind: str) -> Iterator[tuple[Any, list[str]]]:
    """Yield a figure, and behind it what it becomes."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise ConfigurationError(
            "--html needs matplotlib: pip install 'chexfract-node[research]'"
        ) from exc
    written: list[str] = []
    # Text stays text, and the same figures give the same bytes.
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": kind, "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, written
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    written.append(_in_page(file.getvalue(), kind))


def _in_page(svg: str, kind: str) -> str:
    """Return a drawing without prolog and addresses, its names and colours those of the page."""
    head, _, rest = svg[svg.index("<svg") :].partition("<metadata>")
    svg = head + rest.partition("</metadata>")[2]
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{kind}-", svg)
    opening, end, body = svg.partition(">")
    svg = re.sub(r'\s(?:width|height)="[^"]{0,32}"', "", opening) + end + body
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var({name})")
    return svg.replace("sans-serif", "inherit")


def _plain_axes(axes: Any, grid: str = "both") -> None:
    axes.tick_params(colors=_INK, labelsize=8, length=2)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(color=_FAINT, linewidth=0.5, axis=grid)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_color(_FAINT)


def _whisker_lengths(value: float, interval: Interval | None) -> list[list[float]] | None:
    if interval is None:
        return None
    return [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def _flipped_interval(interval: Interval | None) -> Interval | None:
    return None if interval is None else (1 - interval[1], 1 - interval[0])
