"""A dozen small reports as readable dumps, with what each independent reader makes of them.

``python -m tests.gallery --renew`` writes the dumps of ``tests/golden`` again; without the option
it prints what differs and exits 1. A dump holds the report's digest, its tree and its readers'
verdicts.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "support"), str(HERE), str(HERE.parent)]

import npm  # noqa: E402 - the tests' own modules stand beside this file
import reports  # noqa: E402
from highdicom.sr import srread  # noqa: E402
from peers import need  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from reports import CASES, ORDER  # noqa: E402

from dicom_node.base.job import (  # noqa: E402
    JudgedFinding,
    JudgedReport,
    Judgement,
    Predecessor,
    Reason,
    RejectionNote,
    ReportOrder,
)
from worker.report import validate  # noqa: E402
from worker.report.boxes import Box  # noqa: E402
from worker.report.renderings import rejection_notes, render  # noqa: E402
from worker.report.sr import SOP_CLASSES, Algorithm, Document, Outcome, build  # noqa: E402
from worker.text.findings import parse  # noqa: E402

GOLDEN = HERE / "golden"
ALGORITHM = Algorithm(
    name="chexfract-maira2",
    version="0.1.0+chexfract-1.0.1a2b3c4d",
    parameters=("decode=greedy", "preproc=voi-2", "weights=1a2b3c4d"),
)
"""A model that does not change with the software."""
DCMJS = "dcmjs@0.51.1"
DCMJS_SHA512 = (
    "6hJbygOiWvIZHtAh/uRkNU119q3SE/+76lMvq9g3bGq8wky66sHGxJMjB2g/86ewOYmVMrAaIr4Q8tcJEQlwJg=="
)
READ_GROUPS = HERE / "golden" / "read_groups.cjs"

Group = tuple[str, str, str]
"""Tracking Identifier, Tracking Unique Identifier and codes of Finding, site and evaluations."""


@dataclass(frozen=True)
class Picture:
    """One report of the gallery."""

    about: str
    outcome: Outcome
    source: dict[str, Any] = field(default_factory=dict)
    algorithm: Algorithm = ALGORITHM
    order: ReportOrder = ORDER
    kind: str = "comprehensive3d"

    def make(self) -> tuple[Dataset, Document]:
        """Return the image's header and the object."""
        source = reports.source(**self.source)
        if self.kind in SOP_CLASSES:
            return source, build(source, self.outcome, self.algorithm, self.order, self.kind)
        arguments = (self.outcome, self.algorithm, self.order)
        if self.kind == "rejection-note":
            return source, next(rejection_notes(source, *arguments))
        made = render(self.kind, source, None, *arguments)  # type: ignore[arg-type]
        assert made is not None
        return source, made


def said(text: str, **more: Any) -> Outcome:
    """Return what becomes of a model's text."""
    return Outcome(text=text, findings=parse(text), **more)


BEFORE = Predecessor(
    study_instance_uid="1.2.3",
    series_instance_uid="2.25.17",
    sop_class_uid=SOP_CLASSES["comprehensive3d"][0],
    sop_instance_uid="2.25.18",
)
RIB = "Acute displaced fracture of the left seventh rib."
TWO = "Acute fracture of the left seventh rib. Old fracture of T8. No right rib fracture."
JUDGED = Judgement(
    reader="anna",
    verdict="disagree",
    comment="Overlying vessel.",
    corrected_text="No acute fracture. Old T8 fracture.",
    findings=(
        JudgedFinding(finding="left rib 7", verdict="disagree"),
        JudgedFinding(finding="vertebra T8", verdict="agree"),
    ),
    report=JudgedReport(
        text=TWO, presence="present", model_version=ALGORITHM.version, device_uid="2.25.4"
    ),
)
DISPUTED = JUDGED.model_copy(update={"findings": (), "comment": "", "corrected_text": ""})
PAGE = BEFORE.model_copy(
    update={
        "series_instance_uid": "2.25.19",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.104.1",
        "sop_instance_uid": "2.25.20",
    }
)


def replacing(**more: Any) -> ReportOrder:
    """Return the order of a report that replaces another."""
    return ORDER.model_copy(update={"generation": 2, "predecessor": BEFORE, **more})


GALLERY = {
    "fracture": Picture("two fractures, one acute", CASES["fracture"]),
    "negative": Picture("no fracture at all", said("No fracture.")),
    "limited": Picture(
        "no acute fracture of the ribs, which says nothing of old ones",
        said("No acute rib fracture. No displaced fracture of the left clavicle."),
    ),
    "possible": Picture("suspected only", said("Possible healing fracture of the right 5th rib.")),
    "unclear": Picture("a text in three scripts that nobody can sum up", CASES["unclear"]),
    "not-analysed": Picture(
        "a lateral view",
        Outcome(reason=Reason(code="lateral-view", text="The image is a lateral view.")),
    ),
    "parts": Picture(
        "named parts of bones",
        said(
            "Old fracture of the angle of the left 5th rib. Fracture of the manubrium. "
            "Fracture of the left greater tuberosity. Fracture of L1. "
            "Fracture of the left scapular neck."
        ),
    ),
    "regions": Picture(
        "two boxes",
        replace(
            CASES["fracture"],
            boxes=(
                Box("left seventh rib fracture", 1100.0, 700.0, 1300.0, 900.0),
                Box("T8 fracture", 700.0, 900.0, 820.0, 960.0),
            ),
        ),
    ),
    "re-run": Picture(
        "a report that replaces another, with a serial number",
        said(RIB),
        order=ORDER.model_copy(
            update={"generation": 2, "predecessor": BEFORE, "serial_number": "SITE-1"}
        ),
    ),
    "beside": Picture(
        "a fracture, and what is denied elsewhere",
        said("Fracture of the left 5th rib. No right rib fracture. No displaced rib fracture."),
    ),
    "judged": Picture(
        "a reader denies one of two fractures",
        said(TWO),
        algorithm=replace(ALGORITHM, device="2.25.4"),
        order=replacing(judgement=JUDGED),
    ),
    "disputed": Picture(
        "a reader disagrees with a negative report and says no more",
        said("No fracture."),
        order=replacing(judgement=DISPUTED),
    ),
    "judged-text": Picture(
        "the same judgement for viewers without TID 1500",
        said(TWO),
        order=replacing(judgement=JUDGED),
        kind="basic-text",
    ),
    "rejection-note": Picture(
        "what asks an archive to hide a report and its PDF",
        said(RIB),
        order=replacing(
            rejection_notes=(RejectionNote(destinations=("archive",), objects=(BEFORE, PAGE)),)
        ),
        kind="rejection-note",
    ),
    "cyrillic": Picture(
        "a Russian text and name",
        said("Перелом 7 ребра слева."),
        algorithm=replace(ALGORITHM, language="ru"),
    ),
    "chinese": Picture(
        "a Chinese text and a name in three groups, in another time zone",
        said("左侧第七肋骨骨折"),
        {"PatientName": "Wang^XiaoDong=王^小东", "TimezoneOffsetFromUTC": "+0800"},
        algorithm=replace(ALGORITHM, language="zh"),
        order=ORDER.model_copy(
            update={"content_datetime": reports.WHEN.astimezone(timezone(timedelta(hours=8)))}
        ),
    ),
    "illegal-header": Picture(
        "values that no DICOM object may hold",
        said("No fracture."),
        {
            "PatientID": "A" * 70,
            "AccessionNumber": "ACCESSION-0123456789",
            "StudyDescription": "Thorax\\PA",
            "PatientSex": "U",
            "StudyTime": "10:15:00",
        },
    ),
    "demonstration": Picture(
        "a drawing's reading, as Enhanced SR",
        said(RIB),
        algorithm=Algorithm("phantom", "0.1.0+phantom-1.3fa9", demonstration=True),
        kind="enhanced",
    ),
    "basic-text": Picture("the text for viewers without TID 1500", said(RIB), kind="basic-text"),
}


def dump(ds: Dataset) -> str:
    """Return a report as lines: its header, then its tree, one item a line."""
    lines = []
    for element in ds:
        if element.VR != "SQ" and element.keyword not in {"ValueType", "ContinuityOfContent"}:
            lines.append(f"{element.keyword} = {_plain(element.value)}")
        elif element.VR == "SQ" and element.keyword not in {"ContentSequence"}:
            lines.append(f"{element.keyword}:")
            for item in element.value:
                lines += [f"  {line}" for line in _flat(item)] or ["  (empty)"]
    return "\n".join([*lines, "", *_tree(ds, 0)])


def _flat(item: Dataset) -> Iterator[str]:
    if set(item.dir()) == {"CodeValue", "CodingSchemeDesignator", "CodeMeaning"}:
        yield _code(item)
        return
    for element in item:
        if element.VR == "SQ":
            yield f"{element.keyword}:"
            for child in element.value:
                yield from (f"  {line}" for line in _flat(child))
        else:
            yield f"{element.keyword} = {_plain(element.value)}"


def _plain(value: Any) -> str:
    return str(value).replace("\n", "\\n")


def _code(item: Dataset) -> str:
    return f"({item.CodeValue}, {item.CodingSchemeDesignator}, {item.CodeMeaning})"


def _tree(item: Dataset, depth: int) -> Iterator[str]:
    names = item.get("ConceptNameCodeSequence") or ()
    name = " ".join(_code(each) for each in names)
    relation = item.get("RelationshipType", "")
    line = " ".join(part for part in (relation, item.ValueType, name, _value(item)) if part)
    if "ObservationUID" in item:
        line += f" observed {item.ObservationDateTime} as {item.ObservationUID}"
    yield "  " * depth + line
    for child in item.get("ContentSequence") or ():
        yield from _tree(child, depth + 1)


def _value(item: Dataset) -> str:
    if item.ValueType == "CODE":
        return f"= {_code(item.ConceptCodeSequence[0])}"
    if item.ValueType == "NUM":
        measured = item.MeasuredValueSequence[0]
        return f"= {measured.NumericValue} {measured.MeasurementUnitsCodeSequence[0].CodeValue}"
    if item.ValueType in ("IMAGE", "COMPOSITE"):
        return f"-> {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID}"
    if item.ValueType == "SCOORD":
        return f"{item.GraphicType} {[float(x) for x in item.GraphicData]}"
    value = item.get("TextValue", item.get("UID", item.get("PersonName", "")))
    return f"= {_plain(value)}" if value else ""


def meant(ds: Dataset) -> list[Group]:
    """Return the measurement groups that were written."""
    found = []
    for item in reports.items(ds):
        if reports.name(item) != "125007":
            continue
        coded = [
            f"{reports.name(child)}={child.ConceptCodeSequence[0].CodeValue}"
            for child in item.ContentSequence
            if child.ValueType == "CODE" and reports.name(child) != "111000"
        ]
        label, uid = (reports.values(item, name)[0] for name in ("112039", "112040"))
        found.append((label, uid, " ".join(sorted(_first_site(coded)))))
    return found


def _first_site(coded: Sequence[str]) -> list[str]:
    """Return the codes with one Finding Site: some readers take the first alone."""
    sites = [line for line in coded if line.startswith("363698007=")]
    return [line for line in coded if line not in sites[1:]]


def _tid1500reader() -> Path:
    """Return dcmqi's reader, which its package on PyPI brings."""
    spec = importlib.util.find_spec("dcmqi")
    if spec is None or spec.origin is None:
        need("tid1500reader")
        raise FileNotFoundError("tid1500reader")
    return Path(spec.origin).parent / "bin" / "tid1500reader"


def by_dcmqi(path: Path) -> list[Group]:
    """Return the groups that dcmqi's tid1500reader finds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "groups.json"
        command = [_tid1500reader(), "--inputDICOM", path, "--outputMetadata", out]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        content = json.loads(out.read_text())
    found = []
    for group in content["Measurements"]:
        coded = [
            f"{item['conceptCode']['CodeValue']}={item['conceptValue']['CodeValue']}"
            for item in group["qualitativeEvaluations"]
            if isinstance(item["conceptValue"], dict)
            and item["conceptCode"]["CodeValue"] != "111000"
        ]
        for name, concept in (("Finding", "121071"), ("FindingSite", "363698007")):
            if name in group:
                coded.append(f"{concept}={group[name]['CodeValue']}")
        label, uid = group["TrackingIdentifier"], group["TrackingUniqueIdentifier"]
        found.append((label, uid, " ".join(sorted(coded))))
    return found


def by_highdicom(path: Path) -> list[Group]:
    """Return the groups that highdicom's own reader finds."""
    content = srread(path).content
    every = [*content.get_image_measurement_groups(), *content.get_planar_roi_measurement_groups()]
    found = []
    for group in every:
        coded = [f"{e.name.value}={e.value.value}" for e in group.get_qualitative_evaluations()]
        coded = [line for line in coded if not line.startswith("111000=")]
        if group.finding_type is not None:
            coded.append(f"121071={group.finding_type.value}")
        coded += [f"363698007={site.value.value}" for site in group.finding_sites[:1]]
        coded = list(dict.fromkeys(coded))
        found.append((group.tracking_identifier, group.tracking_uid, " ".join(sorted(coded))))
    return found


@cache
def _dcmjs() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="dcmjs-"))
    with tarfile.open(npm.packed(DCMJS, DCMJS_SHA512, folder)) as package:
        package.extractall(folder, filter="data")
    return folder / "package" / "build" / "dcmjs.js"


def by_dcmjs(path: Path) -> list[Group]:
    """Return the groups that dcmjs reads, on which OHIF and Cornerstone stand."""
    node = shutil.which("node") or "node"
    done = subprocess.run(
        [node, READ_GROUPS, _dcmjs(), path], check=True, capture_output=True, timeout=60
    )
    read = json.loads(done.stdout.decode().splitlines()[-1])
    return [(label, uid, " ".join(sorted(_first_site(codes)))) for label, uid, codes in read]


READERS: dict[str, Callable[[Path], list[Group]]] = {
    "highdicom srread": by_highdicom,
    "dcmqi tid1500reader": by_dcmqi,
    "dcmjs": by_dcmjs,
}


def of_validators(path: Path, image: Path) -> Iterator[str]:
    """Yield the verdicts of the validators."""
    for verdict in (
        validate.dciodvfy(path),
        validate.dcentvfy(path, image),
        validate.pixelmed(path),
    ):
        errors = "; ".join(verdict.errors)
        remarks = len(verdict.warnings)
        yield f"{verdict.validator}: {'pass' if verdict.passed else 'FAIL ' + errors}" + (
            f", {remarks} remarks" if remarks else ""
        )
    done = subprocess.run(["dsr2html", path], capture_output=True, check=False, timeout=60)
    yield f"dsr2html: {'pass' if done.returncode == 0 and b'<html' in done.stdout else 'FAIL'}"


def of_readers(path: Path, written: list[Group]) -> Iterator[str]:
    """Yield what each reader of TID 1500 makes of the groups."""
    for name, read in READERS.items():
        found = read(path)
        same = sorted(found) == sorted(written)
        yield f"{name}: " + (f"{len(found)} groups as written" if same else f"READS {found}")


def entry(name: str) -> str:
    """Return what does not need any other program: digest and dump."""
    picture = GALLERY[name]
    _, made = picture.make()
    digest = hashlib.sha256(made.content).hexdigest()
    title = f"{name}: {picture.about}"
    return "\n".join(
        [title, "=" * len(title), "", f"sha256 {digest}", f"{len(made.content)} bytes", "",
         dump(reports.read(made.content)), ""]
    )  # fmt: skip


def verdicts(name: str) -> str:
    """Return what validators and readers say, line by line."""
    picture = GALLERY[name]
    source, made = picture.make()
    with tempfile.TemporaryDirectory() as folder:
        path, image = Path(folder) / "report.dcm", Path(folder) / "image.dcm"
        path.write_bytes(made.content)
        image.write_bytes(reports.as_bytes(source))
        lines = list(of_validators(path, image))
        if picture.kind in SOP_CLASSES:
            lines += of_readers(path, meant(reports.read(made.content)))
    return "\n".join(["Readers", "-------", *lines, ""])


def kept(name: str) -> str:
    """Return the dump as it is kept."""
    return (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--renew", action="store_true", help="write the dumps again")
    options.add_argument("--only", nargs="*", default=list(GALLERY), metavar="NAME")
    chosen = options.parse_args(arguments)
    differing = 0
    for name in chosen.only:
        now = f"{entry(name)}\n{verdicts(name)}"
        path = GOLDEN / f"{name}.txt"
        if chosen.renew:
            path.write_text(now, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != now:
            differing += 1
            print(f"{name} is not what {path} says", file=sys.stderr)
        print(f"{name:16}", *now.splitlines()[now.splitlines().index("-------") + 1 :], sep="\n  ")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
