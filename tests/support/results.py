"""Results in a ledger and a spool, as a worker's posts leave them there, without the worker."""

from __future__ import annotations

import time
from typing import Any

import reports
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.base.job import ReportObject, ReportOrder, Result
from dicom_node.store.ledger import Instance, Ledger, Route
from dicom_node.store.spool import Spool
from worker.report.document import device_uid, options_of_model
from worker.report.renderings import render
from worker.report.sr import Document, build_each

VARIANTS = ("comprehensive3d", "comprehensive", "enhanced")


def add_result(
    ledger: Ledger,
    spool: Spool,
    *,
    case: str = "fracture",
    mode: Any = "live",
    allow: bool = True,
    seconds: tuple[str, ...] = ("basic-text",),
    classes: tuple[str, ...] = VARIANTS,
    **elements: Any,
) -> tuple[Document, ...]:
    """Receive a drawn header and report on it; return its objects, the SRs first.

    With more than one of `classes` it is as ledgers of before have it.
    """
    unique = {"SOPInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    ds = reports.source(**unique | elements)
    with spool.writing() as incoming:
        incoming.write(reports.as_bytes(ds))
        kept = incoming.keep(ds.SOPInstanceUID)
    instance = Instance(
        *(str(ds[name].value) for name in ("SOPInstanceUID", "SOPClassUID")),
        "1.2.840.10008.1.2.1",
        *(str(ds[name].value) for name in ("StudyInstanceUID", "SeriesInstanceUID")),
        *("", kept.size, kept.name),
        patient_id=str(ds.PatientID),
        patient_name=str(ds.PatientName),
        accession_number=str(ds.AccessionNumber),
        study_date=str(ds.StudyDate),
        modality=str(ds.Modality),
        study_time=str(ds.get("StudyTime", "")),
        study_description=str(ds.get("StudyDescription", "")),
        study_id=str(ds.get("StudyID", "")),
        referring_physician=str(ds.get("ReferringPhysicianName", "")),
        patient_birth_date=str(ds.get("PatientBirthDate", "")),
        patient_sex=str(ds.get("PatientSex", "")),
        issuer_of_patient_id=str(ds.get("IssuerOfPatientID", "")),
    )
    order = ReportOrder(content_datetime=reports.WHEN, station_name="CHEXFRACT")
    asked = {"allow_demonstration": allow, "order": order}
    route = Route("all", "phantom", mode, ("modality",), **asked)
    ledger.instances.receive(instance, [route])
    return answer_job(ledger, spool, ds, case, seconds, classes)


def answer_job(
    ledger: Ledger,
    spool: Spool,
    ds: Dataset,
    case: str = "fracture",
    seconds: tuple[str, ...] = (),
    classes: tuple[str, ...] = VARIANTS,
) -> tuple[Document, ...]:
    """Report on `ds`, whose job is the only one that waits."""
    (ticket,) = ledger.jobs.hand_out("phantom", 1, time.time() + 60)
    claimed = ledger.jobs.claim(ticket.job, ticket.token, "test", 60)
    outcome = reports.CASES[case]
    documents = build_each(ds, outcome, reports.ALGORITHM, claimed.order, classes)
    for kind in seconds:
        document = render(kind, ds, None, outcome, reports.ALGORITHM, claimed.order)
        assert document is not None
        documents += (document,)
    parts = {f"object{i}": document for i, document in enumerate(documents)}
    names = {
        part: spool.write_report(ticket.job, ticket.token, part, document.content)
        for part, document in parts.items()
    }
    result = Result(
        token=ticket.token,
        outcome="rejected" if outcome.reason else "reported",
        model="phantom",
        model_version="1",
        device_uid=device_uid(reports.ALGORITHM),
        options=options_of_model(reports.ALGORITHM),
        demonstration=True,
        text=outcome.text,
        objects=tuple(
            ReportObject(
                kind=document.kind,
                part=part,
                sop_class_uid=document.sop_class_uid,
                sop_instance_uid=document.sop_instance_uid,
                series_instance_uid=document.series_instance_uid,
            )
            for part, document in parts.items()
        ),
    )
    assert ledger.jobs.report(ticket.job, ticket.token, result, names)
    return documents
