"""Reports that are built the fast way are those that highdicom and pydicom make the slow way."""

from __future__ import annotations

from io import BytesIO

import gallery
import pytest
import reports
from pydicom import dcmread, dcmwrite
from slow_way import slowly
from strange_texts import generated

from worker.report import encode
from worker.report.renderings import BUILDERS, render
from worker.report.sr import SOP_CLASSES, Algorithm, Outcome, build, build_each
from worker.text.findings import parse

NAMES = [name for name, shown in gallery.GALLERY.items() if shown.kind in SOP_CLASSES]


@pytest.mark.parametrize("name", NAMES)
def test_a_report_is_what_highdicom_makes_of_its_tree(name: str) -> None:
    picture = gallery.GALLERY[name]
    source, fast = picture.make()
    slow = slowly(source, picture.outcome, picture.algorithm, picture.order, picture.kind)
    assert slow == fast.content


def test_the_bytes_are_those_that_pydicom_writes() -> None:
    """Of every kind of object, of texts as models write them and as they should not."""
    source = reports.source(StudyDescription="Ж" * 20, PatientName="Wang^XiaoDong=王^小东=")
    for number, text in enumerate(generated(60)):
        outcome = Outcome(text=text, findings=parse(text))
        made = [build(source, outcome, reports.ALGORITHM, reports.ORDER)]
        kind = list(BUILDERS)[number % len(BUILDERS)]
        if number < 2 * len(BUILDERS):
            second = render(kind, source, None, outcome, reports.ALGORITHM, reports.ORDER)  # type: ignore[arg-type]
            made += [second] if second is not None else []
        for document in made:
            buffer = BytesIO()
            dcmwrite(buffer, dcmread(BytesIO(document.content)), enforce_file_format=True)
            assert buffer.getvalue() == document.content


def test_classes_built_together_differ_in_their_uids_alone() -> None:
    outcome = reports.CASES["fracture"]
    arguments = (reports.source(), outcome, reports.ALGORITHM, reports.ORDER)
    first, *others = build_each(*arguments, list(SOP_CLASSES))
    for other in others:
        meant = reports.read(first.content)
        meant.SOPClassUID, meant.SOPInstanceUID = other.sop_class_uid, other.sop_instance_uid
        assert encode.part10(meant) == other.content


def test_a_tree_that_is_shared_is_not_changed_by_the_next_report() -> None:
    """Content items that never change stand in many trees at once."""
    before = build(reports.source(), reports.CASES["fracture"], reports.ALGORITHM, reports.ORDER)
    other = Algorithm("other", "2.0", ("decode=beam",), "ru")
    for case in reports.CASES.values():
        build(reports.source(SOPInstanceUID="1.2.3.4.9"), case, other, reports.ORDER)
    after = build(reports.source(), reports.CASES["fracture"], reports.ALGORITHM, reports.ORDER)
    assert after == before
