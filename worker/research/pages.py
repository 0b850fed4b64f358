"""The page that a person shows: one HTML file with all figures, plots and wrong cases in it.

Nothing in it points outside: no script, no style sheet, no font, no address.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.plurals import counted
from worker.research import plots
from worker.research.evaluate import CARD, FEW, Evaluation, Part
from worker.research.labels import manifest_of
from worker.research.measures import Interval, Measure
from worker.research.pictures import MOST, thumbnails
from worker.research.plots import OperatingPoint, Point

if TYPE_CHECKING:
    from worker.research.compare import RunComparison

_SHOWN = {"f1": "F1", "mcc": "MCC", "roc_auc": "ROC-AUC", "ppv": "PPV", "npv": "NPV"}
_SHOWN |= {"bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "exact": "same sentences"}
_LEFT_OUT = ("reasons", "companions", "finished", "parameters", "pixels", "deidentified")
_SMALL = 4.2
"""Inches of a plot in one of two columns."""
NO_CONSENT = (
    "The run is de-identified, so there are no pictures here: a picture may show a name, a face or "
    "a rare implant. --pictures shows those that describe --images has kept."
)
NO_FILES = "The images are not where the run found them, or gave no picture."


def write_evaluation(found: Evaluation, file: Path, *, with_pictures: bool = False) -> None:
    """Write the page of an evaluation.

    Parameters
    ----------
    found : Evaluation
    file : Path
    with_pictures : bool
        Whether pictures of a de-identified run are shown, too: somebody has looked at them.

    Raises
    ------
    ConfigurationError
        The file cannot be written, or matplotlib is not installed.
    """
    run = Path(found.run)
    manifest = manifest_of(run) if found.run else {}
    is_hidden = bool(manifest.get("deidentified"))
    shown = list(found.wrong[:MOST])
    pictures: dict[str, str] = {}
    if shown and (with_pictures or not is_hidden):
        rows = [case["row"] for case in shown if "row" in case]
        pictures = thumbnails(run, rows, manifest.get("pixels") or {})
    whole = found.whole
    share = whole.counts.positives / whole.counts.answered if whole.counts.answered else None
    answered = counted(whole.counts.answered, "image with a label", "images with labels")
    _write_page(
        file,
        "evaluation.html",
        title=f"Evaluation of {manifest.get('model', 'four numbers')}",
        lead=_lead_sentence(manifest, answered),
        problems=found.problems,
        remarks=found.remarks,
        demonstration=_is_demonstration([manifest]),
        measures=[_measure_row(measure) for measure in whole.measures],
        texts=[_measure_row(measure) for measure in found.texts],
        card=CARD,
        counts=whole.counts,
        prevalence=figure(share if found.prevalence is None else found.prevalence),
        roc=plots.roc([_operating_point(part, whole) for part in (whole, *found.parts)]),
        forest=_forest_plot(found.parts, whole) if found.parts else "",
        groups=[_group_facts(part) for part in found.parts],
        few=FEW,
        fractures=found.fractures,
        certainty=_certainty_plot(found),
        wrong=[case | {"picture": pictures.get(case.get("row", {}).get("file", ""))}
               for case in found.wrong],
        most=MOST,
        no_pictures="" if pictures else NO_CONSENT if is_hidden else NO_FILES,
        manifests=[("The run", _manifest_facts(manifest))] if manifest else [],
    )  # fmt: skip


def write_comparison(found: RunComparison, file: Path) -> None:
    """Write the page of a comparison.

    Raises
    ------
    ConfigurationError
        The file cannot be written, or matplotlib is not installed.
    """
    manifests = [manifest_of(Path(run)) for run in (found.run_a, found.run_b)]
    names = [str(manifest.get("model_version", "?")) for manifest in manifests]
    points = [
        Point(difference.name, difference.value, difference.interval)
        for difference in found.differences
    ]
    _write_page(
        file,
        "comparison.html",
        title="Comparison of two runs",
        lead=f"A: {names[0]}. B: {names[1]}. Printed {_date_today()}.",
        problems=found.problems,
        remarks=(),
        demonstration=_is_demonstration(manifests),
        found=found,
        roc=plots.roc([_of_run(found, "A"), _of_run(found, "B")]) if points else "",
        forest=plots.forest([("A - B", points)], "forest", zero=True) if points else "",
        manifests=[
            (f"Run {name}", _manifest_facts(manifest))
            for name, manifest in zip("AB", manifests, strict=True)
        ],
    )


def figure(value: float | None) -> str:
    """Return a figure with three decimals, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def _write_page(file: Path, template: str, **content: Any) -> None:
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    environment.filters["figure"] = figure
    environment.filters["signed"] = lambda value: "-" if value is None else f"{value:+.3f}"
    environment.filters["signed_interval"] = _signed_interval
    drawn = {name: Markup(content[name]) for name in ("roc", "forest", "certainty")  # noqa: S704
             if content.get(name)}  # fmt: skip
    page = environment.get_template(template).render(content | drawn)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(file)
    except OSError as exc:
        raise ConfigurationError(f"--html: {file}: {exc.strerror}") from exc


def _measure_row(measure: Measure) -> dict[str, str]:
    interval = (
        f"{measure.interval[0]:.3f} to {measure.interval[1]:.3f}" if measure.interval else "-"
    )
    return {
        "name": _SHOWN.get(measure.name, measure.name),
        "value": figure(measure.value),
        "interval": interval,
    }


def _measure_point(part: Part, name: str, label: str = "") -> Point:
    chosen = next(measure for measure in part.measures if measure.name == name)
    return Point(label or part.name, chosen.value, chosen.interval, part.counts.answered)


def _operating_point(part: Part, whole: Part) -> OperatingPoint:
    name = "all" if part is whole else part.name
    recall, specificity = _measure_point(part, "recall"), _measure_point(part, "specificity")
    return OperatingPoint(name, recall, specificity, is_small=part is not whole)


def _of_run(found: RunComparison, name: str) -> OperatingPoint:
    values = found.of_a if name == "A" else found.of_b
    within = found.intervals_a if name == "A" else found.intervals_b
    recall, specificity = (
        Point(name, values.get(key), within.get(key)) for key in ("recall", "specificity")
    )
    return OperatingPoint(name, recall, specificity, is_second=name == "B")


def _forest_plot(parts: Sequence[Part], whole: Part) -> str:
    rows = [whole, *parts]
    panels = [
        (title, [_measure_point(part, name) for part in rows])
        for title, name in (("recall", "recall"), ("specificity", "specificity"))
    ]
    return plots.forest(panels, "forest")


def _group_facts(part: Part) -> dict[str, Any]:
    values = {measure.name: figure(measure.value) for measure in part.measures}
    cells = [values[name] for name in ("accuracy", "recall", "specificity", "f1")]
    return {"name": part.name, "n": part.counts.answered, "is_small": part.is_small, "cells": cells}


def _certainty_plot(found: Evaluation) -> str:
    points = [
        Point(
            certainty.word, certainty.right / certainty.named, certainty.interval, certainty.named
        )
        for certainty in found.certainties
    ]
    panels = [("share with a fracture", points)]
    return plots.forest(panels, "certainty", width=_SMALL) if points else ""


def _signed_interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _lead_sentence(manifest: dict[str, Any], what: str) -> str:
    version = f"Model version {manifest['model_version']}. " if "model_version" in manifest else ""
    return f"{version}{what}. Printed {_date_today()}."


def _date_today() -> str:
    return datetime.now().astimezone().date().isoformat()


def _is_demonstration(manifests: Iterable[dict[str, Any]]) -> bool:
    return any(manifest.get("demonstration") for manifest in manifests)


def _manifest_facts(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a manifest as lines: what a reader of the paper has to know."""
    facts = {key: value for key, value in manifest.items() if key not in _LEFT_OUT}
    for parameter in manifest.get("parameters", ()):
        key, _, value = str(parameter).partition("=")
        facts[key] = value
    for name in ("reasons", "pixels", "deidentified"):
        if isinstance(table := manifest.get(name), dict) and table:
            facts[name] = ", ".join(f"{key} {value}" for key, value in table.items())
    return [
        (key.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
        for key, value in facts.items()
    ]
