"""Writes one drawn radiograph in every transfer syntax that can be made here."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from pydicom.uid import UID, generate_uid

from worker.image.encode import encode_as, known_syntaxes
from worker.phantom import truth
from worker.phantom.draw import instance
from worker.phantom.truth import Finding

FINDINGS = (Finding("left", 5),)
"""What is broken: something that only a reader of the right pixels says."""


class Drawn(NamedTuple):
    """One row of truth.csv."""

    file: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    transfer_syntax: str
    text: str


def write(out: Path) -> list[Drawn]:
    """Write one Instance per transfer syntax and ``truth.csv``; return its rows.

    All are of one new study, so that an archive can forget them at once; every call makes new
    UIDs, since a node answers an Instance that it knows without any work.
    """
    out.mkdir(parents=True, exist_ok=True)
    ds = instance(0, 1, FINDINGS)
    ds.PatientName, ds.PatientID, ds.AccessionNumber = "Phantom^Selftest", "SELFTEST", ""
    ds.StudyDescription = "Self-test, drawn, not a person"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(None), generate_uid(None)
    rows = []
    for number, syntax in enumerate(known_syntaxes(), 1):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(None)
        ds.InstanceNumber = number
        name = f"{number:02d}.dcm"
        encode_as(ds, syntax).save_as(out / name, enforce_file_format=True)
        rows.append(Drawn(name, ds.SOPInstanceUID, syntax, UID(syntax).name, truth.text(FINDINGS)))
    with (out / "truth.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Drawn._fields)
        writer.writerows(rows)
    return rows
