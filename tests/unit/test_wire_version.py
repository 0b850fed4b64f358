"""Workers of the last minor version are served: a claim holds only what they understand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from serving import SECRET, Api, serving

from dicom_node.base.errors import NotUnderstood
from dicom_node.base.job import (
    WIRE_HEADER,
    WIRE_VERSION,
    Batches,
    Card,
    Claim,
    Device,
    Predecessor,
    RejectionNote,
    ReportOrder,
    Result,
    Ticket,
    WorkerHeartbeat,
    order_for_wire,
)
from worker.service.node import NodeClient

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


RESULT_OF_0_1_0 = {
    "token", "outcome", "model", "model_version", "device_uid", "demonstration", "text", "presence",
    "fractures", "warnings", "reason", "stages_ms", "objects",
}  # fmt: skip
HEARTBEAT_OF_0_1_0 = {"worker", "card", "device", "busy", "done"}
CARD_OF_0_1_0 = {
    "name", "version", "licence", "licence_accepted_by", "demonstration", "language", "prompt",
    "parameters", "measured",
}  # fmt: skip
TICKET = Ticket(job="a" * 32, token="b" * 32)


class OlderNode:
    """Answers as a node does that refuses every field that it does not know."""

    def __init__(self, version: str) -> None:
        self.headers = {WIRE_HEADER: version} if version else {}
        self.kept: list[set[str]] = []

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        body = request.read()
        if request.url.path.endswith("/claim"):
            claim = Claim(
                job=TICKET.job, attempt=1, lease_s=60, size=1,
                order=ReportOrder(content_datetime=NOW),
            )  # fmt: skip
            return httpx2.Response(200, text=claim.model_dump_json(), headers=self.headers)
        if request.url.path == "/workers":
            said = json.loads(body)
            fields, known = set(said) | set(said["card"]), HEARTBEAT_OF_0_1_0 | CARD_OF_0_1_0
        else:
            text = body.partition(b"\r\n\r\n")[2].partition(b"\r\n--")[0]
            fields, known = set(json.loads(text)), RESULT_OF_0_1_0
        if not self.headers and not fields <= known:
            return httpx2.Response(422, headers=self.headers)
        self.kept.append(fields)
        return httpx2.Response(200, headers=self.headers)


@pytest.mark.parametrize("version", ["", "2"])
def test_a_node_of_the_last_release_takes_what_a_newer_worker_sends(version: str) -> None:
    """Workers may be upgraded first by mistake: their images must not fail for it."""
    node = OlderNode(version)
    transport = httpx2.MockTransport(node.answer)
    result = Result(
        token=TICKET.token, outcome="reported", model="m", model_version="1", device_uid="1.2",
        options="0" * 64,
    )  # fmt: skip
    presence = WorkerHeartbeat(
        worker="w:1", card=Card(name="m", version="1", files="all"), device=Device(name="cpu"),
        batches=Batches(limit=8),
    )  # fmt: skip
    with NodeClient("http://node:1", "x", transport=transport, wait=lambda _: None) as client:
        client.announce(presence)
        client.claim(TICKET, "w:1")
        client.post(TICKET, result, [])
        client.announce(presence)
    first, posted, second = node.kept
    assert ("options" in posted) is ("batch" in posted) is ("batches" in first) is bool(version)
    assert second == first


def test_each_answer_is_in_the_words_of_its_node_behind_one_address() -> None:
    """A balancer may ask a newer node first and an older one next, while they are upgraded."""
    newer, older = OlderNode(str(WIRE_VERSION)), OlderNode("")
    turns = iter([newer, older, older, newer, older, older])
    transport = httpx2.MockTransport(lambda request: next(turns).answer(request))
    result = Result(
        token=TICKET.token, outcome="reported", model="m", model_version="1", device_uid="1.2",
        options="0" * 64,
    )  # fmt: skip
    presence = WorkerHeartbeat(
        worker="w:1", card=Card(name="m", version="1", files="all"), device=Device(name="cpu"),
    )  # fmt: skip
    with NodeClient("http://nodes:1", "x", transport=transport, wait=lambda _: None) as client:
        client.claim(TICKET, "w:1")
        client.post(TICKET, result, [])
        client.claim(TICKET, "w:1")
        client.announce(presence)
    assert next(turns, None) is None
    assert len(older.kept) == 2
    assert newer.kept == []


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_an_answer_of_a_proxy_takes_nothing_from_a_result(status: int) -> None:
    """It has no header, as a node of 0.1.0; but the node behind it is of this version."""
    node = OlderNode(str(WIRE_VERSION))
    turns = iter([node.answer, lambda _: httpx2.Response(status), node.answer])
    result = Result(
        token=TICKET.token, outcome="reported", model="m", model_version="1", device_uid="1.2",
        options="0" * 64,
    )  # fmt: skip
    transport = httpx2.MockTransport(lambda request: next(turns)(request))
    with NodeClient("http://nodes:1", "x", transport=transport, wait=lambda _: None) as client:
        client.claim(TICKET, "w:1")
        client.post(TICKET, result, [])
    (posted,) = node.kept
    assert "options" in posted


def test_a_result_that_a_node_of_this_version_refuses_is_not_sent_twice() -> None:
    calls = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        calls.append(request.url.path)
        return httpx2.Response(422, headers={WIRE_HEADER: str(WIRE_VERSION)})

    result = Result(
        token=TICKET.token, outcome="reported", model="m", model_version="1", device_uid="1.2"
    )
    transport = httpx2.MockTransport(refuse)
    with (
        NodeClient("http://nodes:1", "x", transport=transport, wait=lambda _: None) as client,
        pytest.raises(NotUnderstood),
    ):
        client.post(TICKET, result, [])
    assert len(calls) == 1


def test_every_answer_to_a_worker_says_what_the_node_understands(api: Api) -> None:
    ticket = api.ticket()
    headers = {"Authorization": f"Bearer {SECRET}"}
    with httpx2.Client(base_url=api.url, headers=headers, trust_env=False, timeout=60) as client:
        body = {"token": ticket.token, "worker": "w"}
        stale = {"token": "x", "worker": "w"}
        answers = [client.post(f"/jobs/{ticket.job}/claim", json=said) for said in (body, stale)]
        answers += [client.post("/workers", json={}), client.post(f"/jobs/{ticket.job}/result")]
        answers += [client.post("/jobs/x/lease", headers={"Authorization": "none"})]
    assert [answer.status_code for answer in answers] == [200, 409, 422, 422, 401]
    assert [answer.headers[WIRE_HEADER] for answer in answers] == [str(WIRE_VERSION)] * 5
