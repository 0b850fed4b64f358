"""The research door: describe files and folders, one row and one report for each."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dicom_node.base.errors import ConfigurationError, OutOfResources
from dicom_node.base.job import Reason, ReportOrder
from worker.models import is_away
from worker.pipeline import Case, Conclusion, Pipeline
from worker.research.evaluate import RESULTS
from worker.service.start import pipeline
from worker.settings import Settings

MANIFEST = "manifest.json"
REPORTS = "reports"
LARGEST = 1_000_000_000
"""Bytes of the largest file that is read."""


@dataclass(slots=True)
class Summary:
    """What a run did."""

    out: str
    model: str = ""
    files: int = 0
    described: int = 0
    without_text: int = 0
    resumed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def count(self, row: dict[str, Any]) -> None:
        """Add one row."""
        self.files += 1
        if "text" in row:
            self.described += 1
            return
        self.without_text += 1
        code = row["reason"].partition(":")[0]
        self.reasons[code] = self.reasons.get(code, 0) + 1

    def as_json(self) -> str:
        """Return the summary as one JSON object."""
        return json.dumps(asdict(self))

    def as_text(self) -> str:
        """Return the summary as a few lines for people."""
        lines = [f"{self.described} of {self.files} files described by {self.model}: {self.out}"]
        lines += [f"  {n} x {code}" for code, n in sorted(self.reasons.items())]
        if self.resumed:
            lines.append(f"  {self.resumed} were there from an earlier run")
        return "\n".join(lines)


def describe(settings: Settings, paths: Sequence[Path], out: Path, *, show: bool = True) -> Summary:
    """Describe every file below `paths`; the same call again goes on where it stopped.

    Parameters
    ----------
    settings : Settings
        worker.toml or its defaults.
    paths : sequence of Path
        Files, and folders that are searched through.
    out : Path
        Gets ``results.jsonl`` (one row per file), ``manifest.json`` and ``reports/``.
    show : bool
        Whether a progress bar is drawn on a terminal.

    Raises
    ------
    ConfigurationError
        A path does not exist, or `out` holds a run of another model or other options.
    Transient
        The engine is away: the same call goes on later.
    """
    files = _files(paths, out)
    (out / REPORTS).mkdir(parents=True, exist_ok=True)
    earlier = _earlier_rows(out / RESULTS)
    summary = Summary(out=str(out))
    with pipeline(settings) as ready:
        summary.model = ready.algorithm.version
        _check_manifest(out / MANIFEST, settings, ready)
        todo = []
        for name, path in files:
            if name in earlier:
                summary.resumed += 1
                summary.count(earlier[name])
            else:
                todo.append((name, path))
        with (out / RESULTS).open("a", encoding="utf-8") as rows, _bar(len(todo), show) as advance:
            for row in _rows(ready, todo, out, settings.worker.batch):
                rows.write(json.dumps(row, ensure_ascii=False) + "\n")
                rows.flush()
                summary.count(row)
                advance()
        _write_manifest(out / MANIFEST, settings, ready, summary)
    return summary


def _files(paths: Sequence[Path], out: Path) -> list[tuple[str, Path]]:
    """Return each file once, named as the caller would name it, in a fixed order."""
    found: dict[str, Path] = {}
    inside = out.resolve()
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file() and inside not in file.resolve().parents:
                    found[str(file)] = file
        elif path.exists():
            found[str(path)] = path
        else:
            raise ConfigurationError(f"{path}: no such file or folder")
    return list(found.items())


def _earlier_rows(results: Path) -> dict[str, dict[str, Any]]:
    """Read the rows of an interrupted run and cut a row that was half written."""
    if not results.exists():
        return {}
    rows, whole = {}, 0
    with results.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                rows[row["file"]] = row
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
    os.truncate(results, whole)
    return rows


def _options(settings: Settings, ready: Pipeline) -> dict[str, Any]:
    return {
        "model": settings.worker.model,
        "model_version": ready.algorithm.version,
        "parameters": list(ready.algorithm.parameters),
        "pixels": settings.pixels.model_dump(),
    }


def _check_manifest(manifest: Path, settings: Settings, ready: Pipeline) -> None:
    if not manifest.exists():
        _write(manifest, {**_options(settings, ready), "finished": False})
        return
    try:
        earlier = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ConfigurationError(f"{manifest}: not JSON; choose another --out") from exc
    for key, value in _options(settings, ready).items():
        if earlier.get(key) != value:
            raise ConfigurationError(
                f"{manifest}: holds a run with another {key} ({earlier.get(key)}); "
                "choose another --out"
            )


def _write_manifest(manifest: Path, settings: Settings, ready: Pipeline, summary: Summary) -> None:
    content = {**_options(settings, ready), **asdict(summary), "finished": True}
    content.update(
        model=settings.worker.model, written=datetime.now(UTC).isoformat(timespec="seconds")
    )
    content.pop("out")
    _write(manifest, content)


def _write(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _rows(
    ready: Pipeline, files: Iterable[tuple[str, Path]], out: Path, batch: int
) -> Iterator[dict[str, Any]]:
    """Yield a row per file; the next batch is read and decoded while the model is at work."""
    with ThreadPoolExecutor(2) as pool:
        ahead: deque[tuple[str, Future[Case]]] = deque()
        waiting = iter(files)
        while True:
            while len(ahead) < 2 * batch and (following := next(waiting, None)) is not None:
                name, path = following
                ahead.append((name, pool.submit(_prepared, ready, path)))
            if not ahead:
                return
            now = [ahead.popleft() for _ in range(min(batch, len(ahead)))]
            cases = [(name, case.result()) for name, case in now]
            ready.describe([case for _, case in cases])
            _end_if_away(case for _, case in cases)
            yield from (_row(ready, name, case, out) for name, case in cases)


def _end_if_away(cases: Iterable[Case]) -> None:
    """End a run whose engine is away, with the reason: it goes on when called again."""
    for case in cases:
        if case.trouble is not None and is_away(case.trouble):
            raise case.trouble


def _prepared(ready: Pipeline, path: Path) -> Case:
    try:
        if path.stat().st_size > LARGEST:
            return Case(reason=Reason(code="too-large", text=f"The file exceeds {LARGEST} bytes."))
        return ready.prepare(path.read_bytes())
    except OSError as exc:
        return Case(reason=Reason(code="unreadable", text=exc.strerror or "cannot be read"))


def _row(ready: Pipeline, name: str, case: Case, out: Path) -> dict[str, Any]:
    order = ReportOrder(content_datetime=datetime.now().astimezone().replace(microsecond=0))
    row: dict[str, Any] = {"file": name, "sop_instance_uid": case.sop_instance_uid or None}
    if case.trouble is not None:
        code = "out-of-resources" if isinstance(case.trouble, OutOfResources) else "model-failed"
        case.reason = Reason(code=code, text=str(case.trouble)[:1024])
    conclusion = ready.build(case, order)
    if case.reason is not None:
        row["reason"] = f"{case.reason.code}: {case.reason.text}"
    row |= _told(conclusion)
    row["report"] = _report(conclusion, name, out)
    row["ms"] = case.stages_ms
    return row


def _told(conclusion: Conclusion) -> dict[str, Any]:
    result = conclusion.result
    told: dict[str, Any] = {"warnings": list(result.warnings)} if result.warnings else {}
    if result.text is not None and result.reason is None:
        told["text"] = result.text
        told["findings"] = {
            "presence": result.presence,
            "fractures": [fracture.model_dump() for fracture in result.fractures],
        }
    return told


def _report(conclusion: Conclusion, name: str, out: Path) -> str | None:
    if not conclusion.documents:
        return None
    # Files of two folders may share a name: the path's hash keeps their reports apart.
    mark = hashlib.sha256(name.encode()).hexdigest()[:10]
    report = Path(REPORTS) / f"{Path(name).stem[:80]}.{mark}.sr.dcm"
    (out / report).write_bytes(conclusion.documents[0].content)
    return str(report)


@contextmanager
def _bar(total: int, show: bool) -> Iterator[Callable[[], None]]:
    """Draw a progress bar on a terminal, nothing elsewhere; yield what moves it on."""
    console = Console(file=sys.stderr)
    columns = TextColumn("describe"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not (show and console.is_terminal)) as bar:
        task = bar.add_task("describe", total=total)
        yield lambda: bar.advance(task)
