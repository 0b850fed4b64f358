"""The job API over real HTTP: who holds the token holds the job, and 200 means durable."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from serving import SECRET, Api, serving

from dicom_node.base.errors import OutOfResources, Stale
from dicom_node.base.job import ReportObject, Result, Ticket
from dicom_node.web import guard
from worker.service.node import Node as Client

PART10 = bytes(128) + b"DICM" + b"the report"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def http(api: Api) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {SECRET}"}
    with httpx2.Client(base_url=api.url, headers=headers, trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def worker(api: Api) -> Iterator[Client]:
    with Client(api.url, SECRET) as client:
        yield client


def result_of(ticket: Ticket, **changed: Any) -> Result:
    item = ReportObject(
        kind="sr",
        part="sr",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        sop_instance_uid=f"2.25.{int(ticket.job[:8], 16)}",
        series_instance_uid="2.25.2",
    )
    values: dict[str, Any] = {
        "token": ticket.token,
        "outcome": "reported",
        "model": "phantom",
        "model_version": "0.1.0",
        "device_uid": "2.25.3",
        "demonstration": True,
        "text": "No fracture.",
        "presence": "absent",
        "stages_ms": {"model": 5.0},
        "objects": (item,),
    }
    return Result(**(values | changed))


def post(http: httpx2.Client, ticket: Ticket, result: Result | str, **files: bytes) -> Any:
    text = result if isinstance(result, str) else result.model_dump_json()
    parts: list[Any] = [("result", (None, text.encode(), "application/json"))]
    parts += [(name, (f"{name}.dcm", content)) for name, content in files.items()]
    return http.post(f"/jobs/{ticket.job}/result", files=parts)


def claimed(api: Api, http: httpx2.Client) -> Ticket:
    ticket = api.ticket()
    answer = http.post(f"/jobs/{ticket.job}/claim", json={"token": ticket.token, "worker": "w"})
    assert answer.status_code == 200
    return ticket


def test_a_worker_claims_fetches_renews_and_posts(api: Api, worker: Client) -> None:
    ticket = api.ticket()
    claim = worker.claim(ticket, "test:1")
    assert (claim.job, claim.attempt, claim.order.series_number) == (ticket.job, 1, 9001)
    assert claim == worker.claim(ticket, "test:1"), "the same claim again has the same answer"
    content = worker.instance(ticket)
    assert len(content) == claim.size
    assert content.startswith(bytes(128) + b"DICMpixels of")
    worker.renew(ticket)
    worker.post(ticket, result_of(ticket), [PART10])
    assert api.state(ticket) == "reported"
    trace = api.ledger.history.trace(ticket.job)
    (kept,) = trace["objects"]
    assert api.spool.path(kept["file"]).read_bytes() == PART10
    assert [row["state"] for row in trace["deliveries"]] == ["pending"]


def test_the_same_result_again_is_200_and_changes_nothing(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    assert post(http, ticket, result_of(ticket), sr=PART10).status_code == 200
    before = api.ledger.history.trace(ticket.job), api.reports
    assert post(http, ticket, result_of(ticket), sr=PART10).status_code == 200
    assert (api.ledger.history.trace(ticket.job), api.reports) == before


def test_results_posted_at_once_are_one_result(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: post(http, ticket, result_of(ticket), sr=PART10), range(8))
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len(api.ledger.history.trace(ticket.job)["objects"]) == 1


@pytest.mark.parametrize("act", ["claim", "instance", "lease", "result", "release"])
def test_a_stale_token_is_409_and_changes_nothing(api: Api, http: httpx2.Client, act: str) -> None:
    ticket = claimed(api, http)
    stale = Ticket(job=ticket.job, token="0" * 32)
    before = api.ledger.history.trace(ticket.job), api.reports
    bodies = {
        "claim": {"worker": "w"},
        "lease": {},
        "release": {"reason": "tired"},
    }
    if act == "instance":
        answer = http.get(f"/jobs/{ticket.job}/instance", headers={"X-Job-Token": stale.token})
    elif act == "result":
        answer = post(http, stale, result_of(stale), sr=PART10)
    else:
        answer = http.post(f"/jobs/{ticket.job}/{act}", json={"token": stale.token, **bodies[act]})
    assert answer.status_code == 409
    assert stale.token not in answer.text
    assert (api.ledger.history.trace(ticket.job), api.reports) == before


def test_the_result_of_a_lost_lease_is_dropped(api: Api, worker: Client) -> None:
    ticket = api.ticket()
    worker.claim(ticket, "zombie")
    api.ledger.jobs.expire(time.time() + 3600, attempts=5)
    with pytest.raises(Stale):
        worker.post(ticket, result_of(ticket), [PART10])
    assert api.state(ticket) == "received"


def test_a_job_given_back_waits_and_counts(api: Api, worker: Client) -> None:
    ticket = api.ticket()
    worker.claim(ticket, "w")
    worker.release(ticket, "out of memory", counts=False, delay_s=60)
    (job,) = api.ledger.history.trace(ticket.job)["jobs"]
    assert (job["state"], job["attempts"]) == ("received", 0)
    assert job["next_at"] > time.time() + 50


def test_a_rejected_image_needs_its_reason(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    bare = result_of(ticket, outcome="rejected", objects=(), text=None)
    assert post(http, ticket, bare).status_code == 422
    told = result_of(
        ticket,
        outcome="rejected",
        objects=(),
        text=None,
        reason={"code": "not-chest", "text": "not a chest"},
    )
    assert post(http, ticket, told).status_code == 200
    assert api.state(ticket) == "rejected"


def test_an_unknown_job_is_404(http: httpx2.Client) -> None:
    ticket = Ticket(job="f" * 32, token="0" * 32)
    body = {"token": ticket.token, "worker": "w"}
    assert http.post(f"/jobs/{ticket.job}/claim", json=body).status_code == 404
    assert post(http, ticket, result_of(ticket), sr=PART10).status_code == 404


@pytest.mark.parametrize("shown", [None, "Bearer wrong", f"Basic {SECRET}", SECRET, "Bearer é"])
def test_without_the_secret_there_is_401(api: Api, http: httpx2.Client, shown: str | None) -> None:
    ticket = api.ticket()
    del http.headers["Authorization"]
    headers = [] if shown is None else [("Authorization", shown.encode("utf-8"))]
    for path in ("claim", "instance", "result", "nothing"):
        answer = http.post(f"/jobs/{ticket.job}/{path}", headers=headers, content=b"{}")
        assert answer.status_code == 401
        assert "www-authenticate" in answer.headers
    assert api.state(ticket) == "queued"


MALFORMED = {
    "no json": "PATIENT^NAME",
    "unknown field": '{"PATIENT^NAME": 1}',
    "wrong type": '{"token": "PATIENT^NAME", "outcome": "PATIENT^NAME"}',
    "not an object": '["PATIENT^NAME"]',
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_body_is_422_and_never_repeated(
    api: Api, http: httpx2.Client, text: str
) -> None:
    ticket = claimed(api, http)
    answers = [
        post(http, ticket, text, sr=PART10),
        http.post(
            f"/jobs/{ticket.job}/lease",
            content=text.encode(),
            headers={"Content-Type": "application/json"},
        ),
    ]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert not any("PATIENT" in answer.text for answer in answers)
    assert api.state(ticket) == "running"


def test_a_result_whose_files_do_not_fit_is_422(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    result = result_of(ticket)
    twice = result_of(ticket, objects=result.objects * 2)
    evil = result_of(ticket, objects=(result.objects[0].model_copy(update={"part": "../../evil"}),))
    before = api.reports
    answers = [
        post(http, ticket, result),
        post(http, ticket, result, sc=PART10),
        post(http, ticket, result, sr=PART10, sc=PART10),
        post(http, ticket, result, sr=b"<html>" * 100),
        post(http, ticket, twice, sr=PART10),
        post(http, ticket, evil, **{"../../evil": PART10}),
        http.post(f"/jobs/{ticket.job}/result", content=b"no multipart"),
    ]
    assert {answer.status_code for answer in answers} == {422}
    assert (api.state(ticket), api.reports) == ("running", before)


def test_a_body_without_end_is_413(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = claimed(api, http)
    monkeypatch.setattr(guard, "MAX_RESULT", 100_000)
    huge = PART10 + bytes(200_000)
    assert post(http, ticket, result_of(ticket), sr=huge).status_code == 413
    long = b'{"token": "' + b"x" * (guard.MAX_BODY + 10) + b'"}'
    headers = {"Content-Type": "application/json"}
    answer = http.post(f"/jobs/{ticket.job}/lease", content=long, headers=headers)
    assert answer.status_code == 413
    assert api.state(ticket) == "running"


def test_a_full_disk_is_503_and_the_worker_may_try_again(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OutOfResources("no space left")

    ticket = claimed(api, http)
    with monkeypatch.context() as patch:
        patch.setattr(api.spool, "write_report", full)
        answer = post(http, ticket, result_of(ticket), sr=PART10)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    assert post(http, ticket, result_of(ticket), sr=PART10).status_code == 200


def test_an_instance_is_served_as_nothing_but_dicom(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    answer = http.get(f"/jobs/{ticket.job}/instance", headers={"X-Job-Token": ticket.token})
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
