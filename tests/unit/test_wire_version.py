"""Workers of the last minor version are served: a claim holds only what they understand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from serving import SECRET, Api, serving

from dicom_node.base.job import (
    WIRE_HEADER,
    WIRE_VERSION,
    Claim,
    Predecessor,
    RejectionNote,
    ReportOrder,
    order_for_wire,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KNOWN_TO_0_1_0 = {
    "instance_number", "content_datetime", "series_number", "series_description", "station_name",
    "serial_number", "generation", "predecessor", "objects", "sop_classes", "not_analysed",
}  # fmt: skip
NEW: dict[str, Any] = {
    "series_datetime": NOW,
    "procedure": ("36643-5", "LN", "XR Chest 2 Views"),
    "text_series": "report",
}


def sent(order: ReportOrder) -> set[str]:
    claim = Claim(job="a" * 32, attempt=1, lease_s=60, size=1, order=order)
    return set(json.loads(claim.model_dump_json(exclude_defaults=True))["order"])


def test_every_field_that_0_1_0_does_not_know_stays_away_from_its_workers() -> None:
    order = ReportOrder(content_datetime=NOW, generation=2, objects=("sr", "pdf"), **NEW)
    assert sent(order) - KNOWN_TO_0_1_0 == set(NEW)
    older = order_for_wire(order, 1)
    assert older is not None
    assert sent(older) == {"content_datetime", "generation", "objects"}
    assert order_for_wire(order, WIRE_VERSION) == order
    added = set(ReportOrder.model_fields) - KNOWN_TO_0_1_0
    plain = ReportOrder(content_datetime=NOW)
    assert all(getattr(older, name) == getattr(plain, name) for name in added), "a new field"


def test_work_that_an_older_worker_would_leave_out_waits_for_a_newer_one() -> None:
    old = Predecessor(
        study_instance_uid="1.2", series_instance_uid="1.3", sop_class_uid="1.4",
        sop_instance_uid="1.5",
    )  # fmt: skip
    note = RejectionNote(destinations=("archive",), objects=(old,))
    order = ReportOrder(content_datetime=NOW, rejection_notes=(note,))
    assert order_for_wire(order, 1) is None
    assert order_for_wire(order, WIRE_VERSION) == order


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.mark.parametrize("version", ["", "1", "2", "3"])
def test_a_claim_is_answered_in_the_words_of_the_worker(api: Api, version: str) -> None:
    ticket = api.ticket()
    headers = {"Authorization": f"Bearer {SECRET}"} | ({WIRE_HEADER: version} if version else {})
    with httpx2.Client(base_url=api.url, headers=headers, trust_env=False, timeout=60) as client:
        body = {"token": ticket.token, "worker": "w"}
        answer = client.post(f"/jobs/{ticket.job}/claim", json=body)
    assert answer.status_code == 200
    new = set(answer.json()["order"]) - KNOWN_TO_0_1_0
    if version in ("", "1"):
        assert new == set()
