"""Every kind of report from every readable image and from 500 texts, before all validators.

``python -m tests.sweep`` prints the figures and exits 1 when an object has an error or two builds
differ. It takes minutes: PixelMed needs seconds for each report.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
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
from worker.image.pixels import read  # noqa: E402
from worker.report import validate  # noqa: E402
from worker.report.header import read as evidence_of  # noqa: E402
from worker.report.renderings import BUILDERS, render  # noqa: E402
from worker.report.sr import SOP_CLASSES, Document, Outcome, build  # noqa: E402
from worker.text.findings import parse  # noqa: E402

DATA = HERE.parent.parent / "shared" / "data"
ILLEGAL = {"bad_sequence.dcm", "cr_dental_panoramic_modality-lut_mono1.dcm"}
"""Their own UIDs have letters or leading zeros; a report cannot refer to them otherwise."""

KINDS = [*SOP_CLASSES, *BUILDERS]
Maker = Callable[[], Document | None]


@dataclass(frozen=True)
class Made:
    """One object to be judged."""

    path: Path
    image: Path
    kind: str
    make: Maker
    slowly: Callable[[], bytes] | None = None
    """The same report as highdicom and pydicom make it."""


def made(source: Dataset, outcome: Outcome, kind: str) -> Document | None:
    """Return one object of a result; None where its kind has nothing to say."""
    if kind in SOP_CLASSES:
        return build(source, outcome, ALGORITHM, ORDER, kind)
    return render(kind, source, None, outcome, ALGORITHM, ORDER)  # type: ignore[arg-type]


def _slow(source: Dataset, outcome: Outcome, kind: str) -> Callable[[], bytes] | None:
    return partial(slowly, source, outcome, ALGORITHM, ORDER, kind) if kind in SOP_CLASSES else None


def of_images(folder: Path) -> Iterator[Made]:
    """Yield each case in each kind about every file that is an Instance at all."""
    for path in sorted(DATA.glob("*/*.dcm")):
        try:
            source = read(path.read_bytes())
            evidence_of(source)
        except ChexFractError:
            continue
        for case, outcome in CASES.items():
            for kind in KINDS:
                name = folder / f"{path.stem}.{case}.{kind}.dcm"
                yield Made(
                    name,
                    path,
                    kind,
                    partial(made, source, outcome, kind),
                    _slow(source, outcome, kind),
                )


def of_texts(folder: Path, count: int) -> Iterator[Made]:
    """Yield a report and one second object of each text, in every SOP class and kind by turns."""
    image = folder / "image.dcm"
    image.write_bytes(reports.as_bytes(reports.source()))
    source = dcmread(image)
    classes, kinds = cycle(SOP_CLASSES), cycle(BUILDERS)
    for number, text in enumerate(generated(count)):
        outcome = Outcome(text=text, findings=parse(text))
        for kind in (next(classes), next(kinds)):
            name = folder / f"text{number:04}.{kind}.dcm"
            yield Made(
                name,
                image,
                kind,
                partial(made, source, outcome, kind),
                _slow(source, outcome, kind),
            )


def write(objects: Iterator[Made]) -> list[Made]:
    """Write the objects and return those that exist."""
    written = []
    for one in objects:
        document = one.make()
        if document is not None:
            one.path.write_bytes(document.content)
            written.append(one)
    return written


def differing(objects: Sequence[Made]) -> list[str]:
    """Return the names of those that a second build, at another time, makes otherwise."""
    time.sleep(1.1)
    return [
        one.path.name
        for one in objects
        if (again := one.make()) is None or again.content != one.path.read_bytes()
    ]


def judged(one: Made) -> list[validate.Verdict]:
    """Return the verdicts that come at once: the codes, dciodvfy, dcentvfy."""
    ds = dcmread(one.path, stop_before_pixels=True)
    verdicts = [validate.codes_of(one.path, ds), validate.dciodvfy(one.path)]
    return [*verdicts, validate.dcentvfy(one.path, one.image)]


def is_report(one: Made) -> bool:
    """Whether PixelMed knows templates for it."""
    return one.kind in {*SOP_CLASSES, "basic-text", "ko"}


def pixelmed(paths: Sequence[Path]) -> list[validate.Verdict]:
    """Return PixelMed's verdicts, two at a time; one Java machine for many where javac is."""
    with ThreadPoolExecutor(2) as pool:
        if shutil.which("javac") is None:
            return list(pool.map(validate.pixelmed, paths))
        return [
            one for half in pool.map(_in_one_machine, (paths[::2], paths[1::2])) for one in half
        ]


def _in_one_machine(paths: Sequence[Path]) -> list[validate.Verdict]:
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


def sweep(folder: Path, texts: int, at_most: int | None) -> int:
    """Print the figures and return the number of faults."""
    started = time.monotonic()
    objects = write(of_images(folder)) + write(of_texts(folder, texts))
    print(f"{len(objects)} objects of {len({one.image for one in objects})} images, {texts} texts:")
    print("  " + ", ".join(f"{n} {kind}" for kind, n in Counter(o.kind for o in objects).items()))
    faults = [f"{name}: two builds differ" for name in differing(objects)]
    print(f"  {len(objects) - len(faults)} are the same bytes when built again")
    slow = [one for one in objects if one.slowly is not None]
    others = [one.path.name for one in slow if one.slowly and one.slowly() != one.path.read_bytes()]
    print(f"  {len(slow) - len(others)} of {len(slow)} are what highdicom makes of the whole tree")
    faults += [f"{name}: the slow way makes other bytes" for name in others]
    with ThreadPoolExecutor(2) as pool:
        verdicts = [verdict for some in pool.map(judged, objects) for verdict in some]
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
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the objects")
    chosen = options.parse_args(arguments)
    if chosen.keep:
        chosen.keep.mkdir(parents=True, exist_ok=True)
        return int(sweep(chosen.keep, chosen.texts, chosen.pixelmed) > 0)
    with tempfile.TemporaryDirectory() as folder:
        return int(sweep(Path(folder), chosen.texts, chosen.pixelmed) > 0)


if __name__ == "__main__":
    sys.exit(main())
