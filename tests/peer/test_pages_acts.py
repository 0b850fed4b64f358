"""A person adopts, settles and releases by buttons, in a real Chromium."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pages
import pytest
from listening import radiograph
from pydicom.dataset import Dataset
from serving import Api, serving
from stations import wait_for

from dicom_node.dimse import Accepted, Sender
from dicom_node.flow.intake import Intake

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    rule = {"name": "all", "allow_demonstration": True, "send_to": ["modality"]}
    with serving(tmp_path_factory.mktemp("node"), sign_in=False, rules=[rule]) as running:
        yield running


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    chromium.faults.clear()
    yield chromium
    chromium.wait_for_load_state()
    chromium.goto("about:blank")
    assert chromium.faults == []


def press(page: Any, api: Api, uid: str, name: str) -> None:
    """Press a button of an Instance's page; who presses waits for what it does."""
    page.goto(f"{api.url}/images/{uid}")
    page.get_by_role("button", name=name).click()


def deliveries(api: Api, uid: str) -> list[str]:
    return [one.state for one in api.ledger.history.trace(uid).deliveries]


def sent(api: Api, ds: Dataset) -> None:
    """Let an Instance come as by C-STORE."""
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    raw = file.getvalue()
    accepted = Accepted(
        str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID)
    )
    intake = Intake(api.settings, api.spool, api.ledger)
    incoming = intake.begin(accepted)
    incoming.write(raw[144 + int.from_bytes(raw[140:144], "little") :])
    intake.finish(incoming, accepted, Sender("MODALITY", "127.0.0.1", "CHEXFRACT"))


def test_a_corrected_patient_is_adopted(api: Api, page: Any) -> None:
    ds = radiograph()
    uid = str(ds.SOPInstanceUID)
    sent(api, ds)
    pages.reported(api, pages.claimed(api))
    ds.PatientID, ds.PatientName = "T2", "Right^Name"
    sent(api, ds)
    assert len(api.ledger.history.trace(uid).conflicts) == 1

    press(page, api, uid, "Adopt as correction")
    wait_for("a second job", lambda: len(api.ledger.history.trace(uid).jobs) == 2, 60)
    trace = api.ledger.history.trace(uid)
    assert (trace.instance.patient_id, trace.conflicts) == ("T2", ())
    ticket = pages.claimed(api)
    order = api.ledger.jobs.claim(ticket.job, ticket.token, "gpu-host:4711", 60).order
    assert order.predecessor is not None
    page.goto(f"{api.url}/images/{uid}")
    assert page.get_by_text("Right, Name").first.is_visible()
    assert page.get_by_role("button", name="Adopt as correction").count() == 0
    pages.rejected(api, ticket)


@pytest.mark.parametrize(
    ("button", "state"), [("Archive has it", "settled"), ("Give up delivery", "given up")]
)
def test_a_delivery_that_is_refused_for_ever_is_settled(
    api: Api, page: Any, button: str, state: str
) -> None:
    uid = pages.keep(api, pages.picture(), pages.route(), patient_name="Settle^Me")
    ticket = pages.claimed(api)
    pages.reported(api, ticket)
    (due,) = (one for one in api.ledger.deliveries.due() if one.job == ticket.job)
    api.ledger.deliveries.postpone(due.id, "it answered 0xA900", 4e9, status=0xA900)

    press(page, api, uid, button)
    wait_for(state, lambda: deliveries(api, uid) == [state], 60)
    page.goto(f"{api.url}/images/{uid}")
    assert page.get_by_role("button", name=button).count() == 0


def test_a_withheld_report_is_released(api: Api, page: Any) -> None:
    trial = replace(pages.route(), mode="shadow", rule="trial")
    uid = pages.keep(api, pages.picture(), trial, patient_name="Let^Go")
    pages.reported(api, pages.claimed(api))
    assert deliveries(api, uid) == ["withheld"]

    press(page, api, uid, "Release report")
    wait_for("pending", lambda: deliveries(api, uid) == ["pending"], 60)
    page.goto(f"{api.url}/images/{uid}")
    assert page.get_by_role("button", name="Release report").count() == 0
