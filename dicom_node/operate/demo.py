"""Show the whole route on one machine, from drawn radiographs to reports in an archive."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from rich.console import Console
from rich.table import Table

from dicom_node.base.errors import Unreachable
from dicom_node.base.plurals import counted
from dicom_node.dimse import scu
from dicom_node.dimse.archive import Archive
from dicom_node.operate import progress, sandbox
from dicom_node.operate.sandbox import START_S, SandboxNode, archive_in, draw, last_line, node_in
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.ledger import Ledger, as_json

REPORT_S = 60.0
"""Longest wait for one report after the worker is there."""


@dataclass(frozen=True, slots=True)
class PhantomAnswer:
    """What the archive holds about one phantom, and how long each stage took."""

    file: str
    drawn: str
    """What was drawn."""
    said: str
    """The model's text, read from the archive's own file."""
    summary: str
    seconds: float
    stages: tuple[dict[str, Any], ...]


def demo(folder: Path | None, *, count: int = 0, keep: bool = False, as_json: bool = False) -> int:
    """Run the demonstration and print the reports that the archive holds.

    Parameters
    ----------
    folder : Path, optional
        Where its files go; a temporary folder that is removed when left out.
    count : int
        Phantoms to draw beside the exhibits.
    keep : bool
        Stay up until Ctrl-C.

    Raises
    ------
    Unreachable, OutOfResources
        A part did not start or no report came; the message says which.
    """
    with (
        sandbox.folder(folder) as here,
        archive_in(here) as archive,
        node_in(here, archive) as node,
    ):
        phantoms = _draw_phantoms(here, count)
        with progress.wait("node and worker start") as say:
            node.wait_until_ready(say)
        started = HOST_CLOCK.wall()
        _send_phantoms(node, phantoms)
        answers = _await_answers(node, archive, phantoms, started)
        print(json.dumps([_answer_row(a) for a in answers])) if as_json else _show_answers(answers)
        if keep:
            _stay_up(node)
    return 0 if all(answer.said == answer.drawn for answer in answers) else 1


def _draw_phantoms(here: Path, count: int) -> list[dict[str, str]]:
    sets = [["--exhibits"], *([["--count", str(count)]] if count else [])]
    return [row for i, choice in enumerate(sets) for row in draw(here / f"phantoms{i}", *choice)]


def _send_phantoms(node: SandboxNode, phantoms: list[dict[str, str]]) -> None:
    failed: list[str] = []

    def note(path: Path, status: int | None, problem: str) -> None:
        if status != 0:
            failed.append(f"{path.name}: {problem or status}")

    scu.send("ARCHIVE", node.peer, [Path(row["path"]) for row in phantoms], note)
    if failed:
        raise Unreachable(f"the node did not take {'; '.join(failed)}")


def _await_answers(
    node: SandboxNode, archive: Archive, phantoms: list[dict[str, str]], started: float
) -> list[PhantomAnswer]:
    wanted = {row["sop_instance_uid"]: row for row in phantoms}
    reports: dict[str, Dataset] = {}
    end = time.monotonic() + START_S + REPORT_S * len(phantoms)
    with progress.bar("reports", len(wanted)) as advance:
        while len(reports) < len(wanted):
            if time.monotonic() > end or node.process.poll() is not None:
                missing = counted(len(wanted) - len(reports), "report")
                raise Unreachable(f"{missing} did not come: {last_line(node.log)}")
            time.sleep(0.1)
            reports = _archived_reports(archive.folder)
            advance(len(reports))
    ledger = Ledger.open(node.ledger)
    try:
        return [_phantom_answer(row, reports[uid], ledger, started) for uid, row in wanted.items()]
    finally:
        ledger.close()


def _archived_reports(folder: Path) -> dict[str, Dataset]:
    """Read the archive's files: TID 1500 reports by the Instance that they are about."""
    reports: dict[str, Dataset] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix != ".dcm":
            continue
        ds = dcmread(path)
        template = ds.get("ContentTemplateSequence") or [Dataset()]
        if template[0].get("TemplateIdentifier") != "1500":
            continue
        study = ds.CurrentRequestedProcedureEvidenceSequence[0]
        source = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        reports[str(source.ReferencedSOPInstanceUID)] = ds
    return reports


def _phantom_answer(
    row: dict[str, str], report: Dataset, ledger: Ledger, started: float
) -> PhantomAnswer:
    trace = ledger.history.trace(row["sop_instance_uid"])
    stages = tuple(as_json(stage) for stage in trace.stages)
    return PhantomAnswer(
        file=row["file"],
        drawn=row["text"],
        said=_item_text(report, "121071"),
        summary=_item_code(report, "111017"),
        seconds=round(max(stage["at"] for stage in stages) - stages[0]["at"], 3),
        stages=stages,
    )


def _walk_items(ds: Dataset) -> Iterator[Dataset]:
    for item in ds.get("ContentSequence") or []:
        yield item
        yield from _walk_items(item)


def _find_item(report: Dataset, code: str, value_type: str) -> Dataset | None:
    for item in _walk_items(report):
        name = (item.get("ConceptNameCodeSequence") or [Dataset()])[0]
        if name.get("CodeValue") == code and item.get("ValueType") == value_type:
            return item
    return None


def _item_text(report: Dataset, code: str) -> str:
    item = _find_item(report, code, "TEXT")
    return str(item.TextValue) if item is not None else ""


def _item_code(report: Dataset, code: str) -> str:
    item = _find_item(report, code, "CODE")
    return str(item.ConceptCodeSequence[0].CodeMeaning) if item is not None else ""


def _answer_row(answer: PhantomAnswer) -> dict[str, Any]:
    return {
        "file": answer.file,
        "drawn": answer.drawn,
        "text": answer.said,
        "summary": answer.summary,
        "seconds": answer.seconds,
        "stages": list(answer.stages),
    }


def _show_answers(answers: list[PhantomAnswer]) -> None:
    console = Console()
    for answer in answers:
        table = Table(title=answer.file, title_justify="left", show_header=False, box=None)
        table.add_row("drawn", answer.drawn)
        table.add_row("report", f"[bold]{answer.said}[/bold]")
        table.add_row("summary", answer.summary)
        table.add_row("stages", "  ".join(_stage_text(stage) for stage in answer.stages))
        table.add_row("in all", f"{answer.seconds:.2f} s from C-STORE to the archive")
        console.print(table)
        console.print()
    right = sum(answer.said == answer.drawn for answer in answers)
    console.print(f"Reports in the archive that say what was drawn: {right} of {len(answers)}.")
    console.print("Demonstration model: it reads drawings and means nothing about a patient.")


def _stage_text(stage: dict[str, Any]) -> str:
    name = str(stage["stage"])
    return f"{name} {stage['ms']:.0f} ms" if stage.get("ms") is not None else name


def _stay_up(node: SandboxNode) -> None:
    print(f"The node stays up: {node.page}  (Ctrl-C ends it)", flush=True)
    try:
        node.process.wait()
    except KeyboardInterrupt:
        return
