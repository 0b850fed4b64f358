"""A served node with what the pages show: results, failures, deliveries; and a real browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ledgers import on
from peers import need
from serving import Api

from dicom_node.base.job import FractureFound, Reason, ReportObject, ReportOrder, Result, Ticket
from dicom_node.store.ledger import Instance, Route

SR = "1.2.840.10008.5.1.4.1.1.88.34"


def keep(api: Api, content: bytes, *routes: Route, **facts: Any) -> str:
    """Receive a Part 10 file whose facts are given; return its SOP Instance UID."""
    api.count += 1
    uid = f"1.2.77.{api.count}"
    with api.spool.writing() as incoming:
        incoming.write(content)
        kept = incoming.keep(uid)
    of_file = {"sha256": "", "size": kept.size, "file": kept.name}
    known = {"calling_ae": "XRAY1", "calling_host": "127.0.0.1", **facts}
    # of nobody in particular: a study of its own, or all such images would be one study
    own = "1.2.7" if {"patient_id", "patient_name"} & set(facts) else f"1.2.7.{api.count}"
    study = known.pop("study_instance_uid", own)
    instance = Instance(
        uid, "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.1.2.1", study, "1.2.8",
        **of_file, **known,
    )  # fmt: skip
    api.ledger.instances.receive(instance, routes)
    return uid


def route(**changes: Any) -> Route:
    """Return a live route to the peer ``modality``."""
    order = ReportOrder(content_datetime=datetime.fromtimestamp(0, UTC))
    values = {
        "rule": "frontal chest", "model": "phantom", "mode": "live", "send_to": ("modality",),
        "objects": {"modality": ("sr",)}, "priority": None, "allow_demonstration": True,
        "order": order,
    }  # fmt: skip
    return Route(*(values | changes).values())


def claimed(api: Api) -> Ticket:
    """Hand the next job out and claim it."""
    (ticket,) = api.ledger.jobs.hand_out("phantom", 1, time.time() + 60)
    api.ledger.jobs.claim(ticket.job, ticket.token, "gpu-host:4711", 60)
    return ticket


def reported(
    api: Api, ticket: Ticket, content: Callable[[str], bytes] = lambda uid: b"SR", **changes: Any
) -> None:
    """Report a fracture, with one object of the report."""
    uid = f"2.25.{int(ticket.job[:12], 32)}"
    found = FractureFound(bone="rib", number="7", side="left", certainty="possible")
    made = ReportObject(
        kind="sr", part="sr", sop_class_uid=SR, sop_instance_uid=uid, series_instance_uid="1.2.9"
    )
    values: dict[str, Any] = {
        "token": ticket.token, "outcome": "reported", "model": "phantom",
        "model_version": "0.1.0+phantom-1", "device_uid": "2.25.5", "demonstration": True,
        "text": "Possible fracture of the left seventh rib, posterior. No displacement.",
        "presence": "present", "fractures": (found,),
        "stages_ms": {"fetch": 12.0, "decode": 80.5, "model": 640.0, "report": 9.0},
        "objects": (made,),
    }  # fmt: skip
    result = Result(**(values | changes))
    files = {
        o.part: api.spool.write_report(
            ticket.job, ticket.token, o.part, content(o.sop_instance_uid)
        )
        for o in result.objects
    }
    assert api.ledger.jobs.report(ticket.job, ticket.token, result, files)


def rejected(api: Api, ticket: Ticket, text: str = "lateral view") -> None:
    """Answer that the image cannot be analysed."""
    reason = Reason(code="lateral-view", text=text)
    plain = {"text": None, "presence": None, "fractures": (), "objects": ()}
    reported(api, ticket, outcome="rejected", reason=reason, **plain)


def fail(api: Api, ticket: Ticket, reason: str = "the model ran out of memory") -> None:
    """Let the last attempt fail."""
    assert api.ledger.jobs.release(ticket.job, ticket.token, reason, True, 0, 1) == "failed"


def deliver(api: Api, status: int | None = 0) -> None:
    """Answer the waiting deliveries with a status, or with silence."""
    for delivery in on(api.ledger, time.time() + 1).deliveries.due():
        if status is None:
            api.ledger.deliveries.hold(
                delivery.destination, "gives no answer within 30 s", time.time() + 600
            )
        else:
            api.ledger.deliveries.delivered(delivery.id, status)


@contextmanager
def browser(**options: Any) -> Iterator[Any]:
    """Yield a page of a real Chromium that collects what went wrong in ``page.faults``."""
    from playwright.sync_api import sync_playwright

    program = need("chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield watched(chromium.new_context(**options).new_page())
        finally:
            chromium.close()


def watched(page: Any) -> Any:
    """Return the page, which now collects errors and dialogs in ``faults``."""
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("dialog", lambda dialog: (page.faults.append("dialog"), dialog.dismiss()))
    page.on("console", lambda said: said.type == "error" and page.faults.append(said.text))
    return page


def picture() -> bytes:
    """Return a Part 10 file with a drawn radiograph of grey values 0 to 4095."""
    import io

    import numpy as np
    from pydicom import Dataset, dcmwrite
    from pydicom.dataset import FileMetaDataset

    rows, columns = np.mgrid[0:640, 0:520]
    chest = 900 + 2600 * np.exp(-(((columns - 260) / 60) ** 2))
    for rib in range(9):
        chest += 500 * np.exp(-((rows - 60 - 62 * rib - ((columns - 260) / 24) ** 2) ** 2) / 90)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4"
    ds.Modality, ds.PatientName = "DX", "Test^Case"
    ds.Rows, ds.Columns = chest.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    ds.PixelData = chest.clip(0, 4095).astype("<u2").tobytes()
    file = io.BytesIO()
    dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()
