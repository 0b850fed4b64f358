"""The research door: describe files and folders, one row and one report for each."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from tarfile import TarError
from typing import TYPE_CHECKING, Any, Self
from zipfile import BadZipFile

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dicom_node.base.errors import ConfigurationError, OutOfResources
from dicom_node.base.job import Reason, ReportOrder
from dicom_node.base.plurals import counted
from dicom_node.standard.deidentify import content_of
from worker.image import files
from worker.image.part10 import MOST_BYTES
from worker.models import is_away
from worker.pipeline import Case, Conclusion, Pipeline
from worker.research import dicomweb
from worker.research.labels import MANIFEST, RESULTS
from worker.research.privacy import Privacy
from worker.research.sources import Source, WalkResult, walk
from worker.research.tables import read_table
from worker.service.start import pipeline
from worker.settings import Settings

if TYPE_CHECKING:
    from pydicom import Dataset

EVERY_S = 30.0
"""Between two lines of progress in a log."""
REPORTS = "reports"
IMAGES = "images"
"""Folder of de-identified Instances, where they are asked for."""
IDENTIFIERS = ("patient_id", "study_instance_uid", "sop_instance_uid", "accession_number")
"""Columns of a table of identifiers, beside ``file``."""


@dataclass(frozen=True, slots=True)
class Identifiers:
    """What a table says of picture files, which say nothing of themselves."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, table: Path | None) -> Self:
        """Read a CSV.

        Raises
        ------
        ConfigurationError
            It cannot be read, or has no column ``file``.
        """
        if table is None:
            return cls()
        rows = read_table(table)
        if not rows or "file" not in rows[0]:
            raise ConfigurationError(f"{table}: needs the column file, and any of {IDENTIFIERS}")
        return cls(
            {
                row["file"]: {name: row[name] for name in IDENTIFIERS if name in row}
                for row in rows
                if row.get("file")
            }
        )

    def fit(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the identifiers of those of the names that a row names.

        By the whole name; else by its last part, with or without its ending, where one row and one
        of the names fit: pictures of two patients often have one name in two folders.
        """
        found = {name: self.rows[name] for name in names if name in self.rows}
        with_part: dict[str, list[str]] = {}
        for name in names:
            last = _last_part(name)
            for part in dict.fromkeys((last.name, last.stem, last.name.casefold())):
                with_part.setdefault(part, []).append(name)
        fitting: dict[str, list[dict[str, str]]] = {}
        for file, row in self.rows.items():
            last = _last_part(file)
            for part in (last.name, last.name.casefold()):
                if file not in found and len(with_part.get(part, ())) == 1:
                    fitting.setdefault(with_part[part][0], []).append(row)
                    break
        alone = {name: rows[0] for name, rows in fitting.items() if len(rows) == 1}
        return alone | found


def _last_part(name: str) -> PurePosixPath:
    return PurePosixPath(PurePosixPath(name.replace("\\", "/")).name)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the caller wants of each file."""

    out: Path
    identifiers: dict[str, dict[str, str]]
    """Of each source that a table names."""
    make_studies: bool
    privacy: Privacy | None
    keep_images: bool

    def name_of(self, source: Source) -> str:
        """Return the name by which a row names a source."""
        return self.privacy.path(source.name) if self.privacy else source.name


@dataclass(frozen=True, slots=True)
class Choices:
    """What a describe run may be asked for beside its sources."""

    show: bool = True
    """Whether progress is shown on standard error."""
    identifiers: Path | None = None
    """CSV with ``file`` and any of `IDENTIFIERS`, for picture files."""
    make_studies: bool = False
    """Whether picture files get reports, about studies that are made up for them."""
    privacy: Privacy | None = None
    """De-identifies rows and reports."""
    keep_images: bool = False
    """Whether de-identified Instances are written beside the reports."""
    query: str = ""
    """Of QIDO-RS, for archives."""
    accessions: tuple[str, ...] = ()
    token: str = ""
    """What an archive wants to see."""
    ca: Path | None = None


@dataclass(slots=True)
class Summary:
    """What a run did."""

    out: str
    model: str = ""
    files: int = 0
    described: int = 0
    without_text: int = 0
    resumed: int = 0
    others: int = 0
    """Rows that an earlier call left there for other files."""
    companions: int = 0
    """Files that lie beside images, listed in the manifest."""
    identifiers: str = ""
    """The table that names picture files."""
    unnamed: int = 0
    """Files that it has no row for, or several."""
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    """Of this call, behind the loading of the model."""

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
        files = counted(self.files, "file")
        lines = [f"{self.described} of {files} described by {self.model}: {self.out}"]
        lines += [f"  {n} x {code}" for code, n in sorted(self.reasons.items())]
        if self.companions:
            beside = counted(self.companions, "file beside them is not an image",
                             "files beside them are not images")  # fmt: skip
            lines.append(f"  {beside}: see {MANIFEST}")
        if self.unnamed:
            unnamed = counted(self.unnamed, "file has", "files have")
            lines.append(f"  {unnamed} no row in {self.identifiers}")
        if self.resumed:
            there = counted(self.resumed, "was", "were")
            lines.append(f"  {there} there from an earlier run")
        if self.others:
            others = counted(self.others, "more row there is", "more rows there are")
            lines.append(f"  {others} of other files, by an earlier call")
        if (now := self.files - self.resumed) and self.seconds:
            lines.append(f"  {now} in {self.seconds:.0f} s, {now / self.seconds:.1f} a second")
        return "\n".join(lines)


def describe(
    settings: Settings, sources: Sequence[str | Path], out: Path, choices: Choices = Choices()
) -> Summary:
    """Describe every image of `sources`; the same call again goes on where it stopped.

    Parameters
    ----------
    settings : Settings
        worker.toml or its defaults.
    sources : sequence of str or Path
        Files, folders that are searched through, DICOMDIR files, zip and tar archives; of DICOM,
        PNG, JPEG, TIFF and WebP. An archive by the address of its DICOMweb root.
    out : Path
        Gets ``results.jsonl`` (one row per file), ``manifest.json`` and ``reports/``.
    choices : Choices

    Raises
    ------
    ConfigurationError
        A source does not exist or holds no image, or `out` holds a run of another model or other
        options.
    Transient
        The engine is away: the same call goes on later.
    """
    found = _find_sources(sources, out, choices)
    names = [source.name for source in found.sources]
    asked = _Asked(
        out,
        Identifiers.read(choices.identifiers).fit(names),
        choices.make_studies,
        choices.privacy,
        choices.keep_images,
    )
    for folder in (REPORTS, IMAGES) if choices.keep_images else (REPORTS,):
        (out / folder).mkdir(parents=True, exist_ok=True)
    earlier = _earlier_rows(out / RESULTS)
    summary = Summary(out=str(out), companions=len(found.companions))
    if choices.identifiers is not None:
        summary.identifiers = choices.identifiers.name
        summary.unnamed = len(set(names) - asked.identifiers.keys())
    with pipeline(settings) as ready:
        summary.model = ready.algorithm.version
        options = _run_options(settings, ready, choices.privacy)
        _check_manifest(out / MANIFEST, options)
        todo = []
        for source in found.sources:
            if (row := earlier.get(asked.name_of(source))) is not None:
                summary.resumed += 1
                summary.count(row)
            else:
                todo.append(source)
        summary.others = len(earlier) - summary.resumed
        started = time.perf_counter()
        with (
            (out / RESULTS).open("a", encoding="utf-8") as rows,
            _show_progress(len(todo), choices.show) as advance,
            _until_interrupted(summary),
        ):
            for row in _describe_rows(ready, todo, asked, settings.worker.batch):
                rows.write(json.dumps(row, ensure_ascii=False) + "\n")
                # Each row reaches the file before the next: what is in it is not described again
                # after a kill.
                rows.flush()
                summary.count(row)
                advance()
        summary.seconds = round(time.perf_counter() - started, 1)
        beside = found.companions
        if choices.privacy is not None:
            beside = [choices.privacy.path(name) for name in beside]
        _write_manifest(out / MANIFEST, options, settings.worker.model, summary, beside)
    return summary


def _find_sources(sources: Sequence[str | Path], out: Path, choices: Choices) -> WalkResult:
    """Return the images of all sources, in order."""
    addresses = [str(source) for source in sources if dicomweb.is_address(str(source))]
    paths = [Path(source) for source in sources if not dicomweb.is_address(str(source))]
    if (choices.query or choices.accessions) and not addresses:
        raise ConfigurationError("--query and --accessions are for the address of an archive")
    found = walk(paths, out) if paths else WalkResult()
    for address in addresses:
        archive = dicomweb.WebArchive(address, choices.token, choices.ca)
        there = dicomweb.find(archive, choices.query, choices.accessions)
        found.sources += there.sources
        found.companions += there.companions
    if not found.sources:
        raise ConfigurationError(f"{', '.join(addresses)}: no CR or DX image fits the query")
    return found


@contextmanager
def _until_interrupted(summary: Summary) -> Iterator[None]:
    """Say what is kept when a person ends a run by Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            f"interrupted: {counted(summary.files, 'row is', 'rows are')} kept in {summary.out}; "
            "the same command goes on behind them",
            file=sys.stderr,
        )
        raise


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
    # A kill may leave half a line: what follows it would be appended to that half.
    os.truncate(results, whole)
    return rows


def _run_options(settings: Settings, ready: Pipeline, privacy: Privacy | None) -> dict[str, Any]:
    return {
        "model": settings.worker.model,
        "model_version": ready.algorithm.version,
        "parameters": list(ready.algorithm.parameters),
        "pixels": settings.pixels.model_dump(mode="json"),
        "demonstration": ready.algorithm.demonstration,
        "deidentified": privacy.as_json() if privacy else None,
    }


def _check_manifest(manifest: Path, options: dict[str, Any]) -> None:
    if not manifest.exists():
        _write_json(manifest, {**options, "finished": False})
        return
    try:
        earlier = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ConfigurationError(f"{manifest}: not JSON; choose another --out") from exc
    for key, value in options.items():
        # A run of an older version does not say what came later; that was not de-identified.
        if (key in earlier or key == "deidentified") and earlier.get(key) != value:
            raise ConfigurationError(
                f"{manifest}: holds a run with another {key} ({earlier.get(key)}); "
                "choose another --out"
            )
    _write_json(manifest, {**earlier, **options, "finished": False})


def _write_manifest(
    manifest: Path,
    options: dict[str, Any],
    model: str,
    summary: Summary,
    companions: Sequence[str],
) -> None:
    content = {**options, **asdict(summary), "finished": True}
    content["companions"] = list(companions)
    content.update(model=model, written=datetime.now(UTC).isoformat(timespec="seconds"))
    for own in ("out", "identifiers"):  # names of this machine
        content.pop(own)
    _write_json(manifest, content)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _describe_rows(
    ready: Pipeline, sources: Iterable[Source], asked: _Asked, batch: int
) -> Iterator[dict[str, Any]]:
    """Yield a row per file; the next batch is read and decoded while the model is at work."""
    with ThreadPoolExecutor(2) as pool:
        ahead: deque[tuple[str, Future[tuple[Case, dict[str, str]]]]] = deque()
        waiting = iter(sources)
        while True:
            # Two batches: one is at the model, the next is decoded; more would only fill memory
            # with pictures.
            while len(ahead) < 2 * batch and (source := next(waiting, None)) is not None:
                if source.is_in_order:
                    source = _read_ahead(source)
                name = asked.name_of(source)
                ahead.append((name, pool.submit(_prepare_source, ready, source, asked)))
            if not ahead:
                return
            now = [ahead.popleft() for _ in range(min(batch, len(ahead)))]
            cases = [(name, *prepared.result()) for name, prepared in now]
            ready.describe([case for _, case, _ in cases])
            _end_if_away(case for _, case, _ in cases)
            yield from (_make_row(ready, name, case, known, asked) for name, case, known in cases)


def _read_ahead(source: Source) -> Source:
    """Return a source that is read already, where the order of reading matters."""
    try:
        content = source.read()
    except (OSError, RuntimeError) as exc:
        failure = OSError(str(exc))

        def raise_failure() -> bytes:
            raise failure

        return Source(source.name, raise_failure)
    return Source(source.name, lambda: content)


def _end_if_away(cases: Iterable[Case]) -> None:
    """End a run whose engine is away, with the reason: it goes on when called again."""
    for case in cases:
        if case.trouble is not None and is_away(case.trouble):
            raise case.trouble


def _prepare_source(ready: Pipeline, source: Source, asked: _Asked) -> tuple[Case, dict[str, str]]:
    """Return a case ready for the model, and what a table says of its file."""
    known = asked.identifiers.get(source.name, {})
    if asked.privacy is not None:
        known = asked.privacy.identifiers(known)
    case = _read_case(ready, source, asked, known)
    if asked.privacy is not None:
        asked.privacy.hide(case)
    return case, known


def _read_case(ready: Pipeline, source: Source, asked: _Asked, known: dict[str, str]) -> Case:
    try:
        content = source.read()
    except (OSError, RuntimeError, BadZipFile, TarError) as exc:
        text = getattr(exc, "strerror", None) or "The file cannot be read."
        return Case(reason=Reason(code="unreadable", text=text))
    if len(content) > MOST_BYTES:
        return Case(reason=Reason(code="too-large", text=f"It exceeds {MOST_BYTES} bytes."))
    if not files.file_kind(content):
        return ready.prepare(content)
    case = ready.prepare_file(content)
    if asked.make_studies and case.radiograph is not None:
        case.source = files.make_instance(case.radiograph, content, known)
    return case


def _make_row(
    ready: Pipeline, name: str, case: Case, known: dict[str, str], asked: _Asked
) -> dict[str, Any]:
    order = ReportOrder(content_datetime=datetime.now().astimezone().replace(microsecond=0))
    uid = case.sop_instance_uid or known.get("sop_instance_uid")
    row: dict[str, Any] = {
        "file": name,
        "sop_instance_uid": uid or None,
        **_table_identifiers(known),
    }
    if case.trouble is not None:
        code = "out-of-resources" if isinstance(case.trouble, OutOfResources) else "model-failed"
        case.reason = Reason(code=code, text=str(case.trouble)[:1024])
    conclusion = ready.build(case, order)
    if case.reason is not None:
        row["reason"] = f"{case.reason.code}: {case.reason.text}"
    row |= _answer_fields(conclusion)
    row["report"] = _write_report(conclusion, name, asked.out)
    if asked.keep_images and case.source is not None and case.sop_instance_uid:
        row["image"] = _write_image(case.source, name, asked.out)
    row["ms"] = case.stages_ms
    return row


def _table_identifiers(known: dict[str, str]) -> dict[str, str]:
    """Return the identifiers of a table that a row has no key for."""
    return {key: value for key, value in known.items() if key != "sop_instance_uid" and value}


def _answer_fields(conclusion: Conclusion) -> dict[str, Any]:
    result = conclusion.result
    answer: dict[str, Any] = {"warnings": list(result.warnings)} if result.warnings else {}
    if result.text is not None and result.reason is None:
        answer["text"] = result.text
        answer["findings"] = {
            "presence": result.presence,
            "fractures": [fracture.model_dump() for fracture in result.fractures],
        }
    return answer


def _write_report(conclusion: Conclusion, name: str, out: Path) -> str | None:
    if not conclusion.documents:
        return None
    report = Path(REPORTS) / f"{_file_stem(name)}.sr.dcm"
    (out / report).write_bytes(conclusion.documents[0].content)
    return str(report)


def _write_image(source: Dataset, name: str, out: Path) -> str:
    image = Path(IMAGES) / f"{_file_stem(name)}.dcm"
    (out / image).write_bytes(content_of(source))
    return str(image)


def _file_stem(name: str) -> str:
    """Return a file name's beginning; files of two folders may share theirs, hence the hash."""
    mark = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    path = Path(name)
    stem = path.stem if path.suffix[1:2].isalpha() else path.name  # a UID's end is not an ending
    return f"{stem[:80]}.{mark}"


@contextmanager
def _show_progress(total: int, show: bool) -> Iterator[Callable[[], None]]:
    """Draw a progress bar on a terminal, write a line now and then elsewhere."""
    console = Console(file=sys.stderr)
    if not show:
        yield lambda: None
        return
    if not console.is_terminal:
        yield _Lines(total).advance
        return
    columns = TextColumn("describe"), BarColumn(), MofNCompleteColumn(), _Rate()
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("describe", total=total)
        yield lambda: bar.advance(task)


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


@dataclass(slots=True)
class _Lines:
    """Progress for a log file: a line every half minute."""

    total: int
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    spoken: float = field(default_factory=time.monotonic)

    def advance(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.spoken < EVERY_S:
            return
        self.spoken = now
        rate = self.done / (now - self.started)
        left = (self.total - self.done) / rate / 60
        print(
            f"describe: {self.done} of {self.total}, {rate:.1f} a second, {left:.0f} min left",
            file=sys.stderr,
            flush=True,
        )
