"""Every kind of report from every readable image and from 500 texts, before all validators.

``python -m tests.sweep`` prints the figures and exits 1 when an object has an error or two builds
differ. It takes minutes: PixelMed needs seconds for each report; `--seed` takes other texts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE), str(HERE.parent)]

import reports  # noqa: E402 - the tests' own modules stand beside this file
from pydicom import Dataset, dcmread  # noqa: E402
from reports import ALGORITHM, CASES, ORDER  # noqa: E402
from slow_way import slowly  # noqa: E402
from strange_texts import generated  # noqa: E402

from dicom_node.base.errors import ChexFractError  # noqa: E402
from dicom_node.base.job import (  # noqa: E402
    JudgedFinding,
    JudgedReport,
    Judgement,
    Predecessor,
    RejectionNote,
    ReportOrder,
)
from worker.image.pixels import read  # noqa: E402
from worker.report import validate  # noqa: E402
from worker.report.header import read as evidence_of  # noqa: E402
from worker.report.renderings import BUILDERS, rejection_notes, render  # noqa: E402
from worker.report.sr import SOP_CLASSES, Document, Outcome, build_each  # noqa: E402
from worker.text.findings import parse  # noqa: E402

DATA = HERE.parent.parent / "shared" / "data"
PART = 20
"""Tasks that one process takes at a time."""
ILLEGAL = {"bad_sequence.dcm", "cr_dental_panoramic_modality-lut_mono1.dcm"}
"""Their own UIDs have letters or leading zeros; a report cannot refer to them otherwise."""

KINDS = [*SOP_CLASSES, *BUILDERS, "rejection-note"]
JUDGED = "judged"
"""The case of a report that a reader disagrees with, which replaces another one."""

BEFORE = Predecessor(
    study_instance_uid="1.2.3",
    series_instance_uid="2.25.17",
    sop_class_uid=SOP_CLASSES["comprehensive3d"][0],
    sop_instance_uid="2.25.18",
)


@dataclass(frozen=True)
class Made:
    """One object to be judged."""

    path: Path
    image: Path
    kind: str


@dataclass(frozen=True)
class Task:
    """One text about one image, and the kinds of objects that are made of it."""

    name: str
    image: Path
    outcome: Outcome
    kinds: tuple[str, ...]
    is_judged: bool = False

    def order(self, source: Dataset) -> ReportOrder:
        """Return the order: a judged report replaces one of the same study, and hides it."""
        if not self.is_judged:
            return ORDER
        before = BEFORE.model_copy(update={"study_instance_uid": str(source.StudyInstanceUID)})
        report = JudgedReport(
            text=self.outcome.text, presence="present", model_version="1", device_uid="2.25.4"
        )
        judgement = Judgement(
            reader="Иванова Анна", verdict="disagree", comment=str(self.outcome.text)[:2000],
            corrected_text="No fracture.", report=report,
            findings=(JudgedFinding(finding="left rib 7", verdict="disagree"),),
        )  # fmt: skip
        note = RejectionNote(destinations=("archive",), objects=(before,))
        more = {"judgement": judgement, "rejection_notes": (note,)}
        return ORDER.model_copy(update={"generation": 2, "predecessor": before, **more})

    def make(self, source: Dataset) -> dict[str, Document]:
        """Return the objects by kind; one that has nothing to say is left out."""
        arguments = (source, self.outcome, ALGORITHM, self.order(source))
        classes = [kind for kind in self.kinds if kind in SOP_CLASSES]
        made: dict[str, Document] = dict(
            zip(classes, build_each(*arguments, classes), strict=True) if classes else ()
        )
        for kind in self.kinds:
            if kind in BUILDERS:
                second = render(kind, source, None, *arguments[1:])  # type: ignore[arg-type]
                made |= {kind: second} if second is not None else {}
        if "rejection-note" in self.kinds:
            for note in rejection_notes(*arguments):
                made["rejection-note"] = note
        return made


@dataclass
class Judged:
    """What came of some tasks."""

    made: list[Made]
    faults: list[str]
    verdicts: list[validate.ValidatorVerdict]
    compared: int = 0
    """Reports that were compared with the slow way."""


def of_images() -> Iterator[Task]:
    """Yield each case in each kind about every file that is an Instance at all."""
    for path in sorted(DATA.glob("*/*.dcm")):
        try:
            evidence_of(read(path.read_bytes()))
        except ChexFractError:
            continue
        for case, outcome in CASES.items():
            yield Task(f"{path.stem}.{case}", path, outcome, tuple(KINDS))
        judged = CASES["fracture"]
        yield Task(f"{path.stem}.{JUDGED}", path, judged, tuple(KINDS), is_judged=True)


def of_texts(image: Path, count: int, seed: int) -> Iterator[Task]:
    """Yield a report and one second object of each text, in every SOP class and kind by turns."""
    image.write_bytes(reports.as_bytes(reports.source()))
    classes, kinds = cycle(SOP_CLASSES), cycle(BUILDERS)
    for number, text in enumerate(generated(count, seed)):
        outcome = Outcome(text=text, findings=parse(text))
        two = (next(classes), next(kinds))
        yield Task(f"text{number:04}", image, outcome, two, is_judged=number % 10 == 9)


def examine(folder: Path, tasks: Sequence[Task]) -> Judged:
    """Make the objects of some tasks, again at another time, the slow way, and judge them."""
    started = time.monotonic()
    sources = {task.image: read(task.image.read_bytes()) for task in tasks}
    first = [task.make(sources[task.image]) for task in tasks]
    time.sleep(max(0.0, 1.1 - (time.monotonic() - started)))
    said = Judged([], [], [])
    for number, (task, made) in enumerate(zip(tasks, first, strict=True)):
        source = sources[task.image]
        again = task.make(source)
        said.faults += [
            f"{task.name}.{kind}: two builds differ"
            for kind in {*made, *again}
            if kind not in made or again.get(kind) != made[kind]
        ]
        classes = [kind for kind in made if kind in SOP_CLASSES]
        # the classes differ in their UIDs alone, which a test of its own says
        for kind in classes[number % len(classes) :][:1] if classes else ():
            said.compared += 1
            slow = slowly(source, task.outcome, ALGORITHM, task.order(source), kind)
            if slow != made[kind].content:
                said.faults.append(f"{task.name}.{kind}: the slow way makes other bytes")
        paths = []
        for kind, document in made.items():
            path = folder / f"{task.name}.{kind}.dcm"
            path.write_bytes(document.content)
            paths.append(path)
            said.made.append(Made(path, task.image, kind))
        said.verdicts += judged(paths, task.image)
    return said


def judged(paths: Sequence[Path], image: Path) -> Iterator[validate.ValidatorVerdict]:
    """Yield the verdicts that come at once: the codes, dciodvfy, dcentvfy of all together."""
    for path in paths:
        yield validate.codes_of(path, dcmread(path, stop_before_pixels=True))
        yield validate.dciodvfy(path)
    if validate.are_of_one_study(paths, image):
        yield from (validate.ValidatorVerdict(str(path), "dcentvfy", True) for path in paths)
    else:
        yield from (validate.dcentvfy(path, image) for path in paths)


def is_report(one: Made) -> bool:
    """Whether PixelMed knows templates for it."""
    return one.kind in {*SOP_CLASSES, "basic-text", "ko", "rejection-note"}


def pixelmed(paths: Sequence[Path]) -> list[validate.ValidatorVerdict]:
    """Return PixelMed's verdicts, two at a time; one Java machine for many where javac is."""
    with ThreadPoolExecutor(2) as pool:
        if shutil.which("javac") is None:
            return list(pool.map(validate.pixelmed, paths))
        return [
            one for half in pool.map(_in_one_machine, (paths[::2], paths[1::2])) for one in half
        ]


def _in_one_machine(paths: Sequence[Path]) -> list[validate.ValidatorVerdict]:
    if not paths:
        return []
    options = [option for option in validate.JAVA_OPTIONS if "TieredStop" not in option]
    command = [
        "java",
        *options,
        "-cp",
        str(validate.PIXELMED),
        str(HERE / "support" / "ValidateEach.java"),
    ]
    names = "".join(f"{path}\n" for path in paths)
    done = subprocess.run(command, input=names.encode(), capture_output=True, check=False)
    said: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith("File "):
            lines = said.setdefault(line.removeprefix("File "), [])
        lines.append(line.strip())
    return [validate.pixelmed_says(path, said.get(str(path), [])) for path in paths]


def sweep(folder: Path, texts: int, at_most: int | None, seed: int, processes: int) -> int:
    """Print the figures and return the number of faults."""
    started = time.monotonic()
    tasks = [*of_images(), *of_texts(folder / "image.dcm", texts, seed)]
    parts = [tasks[i : i + PART] for i in range(0, len(tasks), PART)]
    every = Judged([], [], [])
    with ProcessPoolExecutor(processes) as pool:
        for some in pool.map(examine, [folder] * len(parts), parts):
            every.made += some.made
            every.faults += some.faults
            every.verdicts += some.verdicts
            every.compared += some.compared
    objects, faults, verdicts = every.made, every.faults, every.verdicts
    print(f"{len(objects)} objects of {len({one.image for one in objects})} images, {texts} texts:")
    print("  " + ", ".join(f"{n} {kind}" for kind, n in Counter(o.kind for o in objects).items()))
    differing = sum("two builds" in fault for fault in faults)
    print(f"  {len(objects) - differing} are the same bytes when built again")
    slow = sum("slow way" in fault for fault in faults)
    print(f"  {every.compared - slow} of {every.compared} are what highdicom makes of the tree")
    reporting = [one.path for one in objects if is_report(one) and one.image.name not in ILLEGAL]
    sample = reporting if at_most is None else spread(reporting, at_most)
    verdicts += pixelmed(sample)
    illegal = {str(one.path) for one in objects if one.image.name in ILLEGAL}
    for name in sorted({verdict.validator for verdict in verdicts}):
        of_it = [v for v in verdicts if v.validator == name and v.file not in illegal]
        bad = [verdict for verdict in of_it if not verdict.passed]
        print(f"  {name}: {len(of_it) - len(bad)} of {len(of_it)} pass")
        faults += [f"{verdict.file}: {name}: {verdict.errors}" for verdict in bad]
    print(f"  {len(illegal)} more are about {len(ILLEGAL)} images whose own UIDs are illegal")
    print(f"  {time.monotonic() - started:.0f} s; PixelMed saw {len(sample)} of {len(reporting)}")
    print("\n".join(faults[:50]), file=sys.stderr)
    return len(faults)


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """Return `count` of them, evenly from all."""
    step = max(len(paths) / count, 1.0) if count else 1.0
    return [paths[int(i * step)] for i in range(min(count, len(paths)))]


def main(arguments: Sequence[str] | None = None) -> int:
    options: Any = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--texts", type=int, default=500)
    options.add_argument("--pixelmed", type=int, metavar="N", help="at most N reports; default all")
    options.add_argument("--seed", type=int, default=7, help="other texts")
    options.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N")
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the objects")
    chosen = options.parse_args(arguments)
    given = (chosen.texts, chosen.pixelmed, chosen.seed, chosen.processes)
    if chosen.keep:
        chosen.keep.mkdir(parents=True, exist_ok=True)
        return int(sweep(chosen.keep, *given) > 0)
    with tempfile.TemporaryDirectory() as folder:
        return int(sweep(Path(folder), *given) > 0)


if __name__ == "__main__":
    sys.exit(main())
