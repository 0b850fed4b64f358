"""The job API over real HTTP: who holds the token holds the job, and 200 means durable."""

import asyncio
import errno
import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import answers
import httpx2
import pytest
from ledgers import on
from serving import SECRET, Api, serving

from dicom_node.base.errors import NotFound, OutOfResources, Stale, Unreachable
from dicom_node.base.job import INSTANCE_HEADER, MESSAGE_HEADER, Claim, Result, Ticket
from dicom_node.credentials import Credentials
from dicom_node.settings import Settings
from dicom_node.store.retention import RetentionSweep
from dicom_node.web import guard, jobs
from dicom_node.web.app import WebSite
from worker.service.node import NodeClient as Client


@pytest.fixture
def http(api: Api) -> Iterator[httpx2.Client]:
    headers = {"Authorization": f"Bearer {SECRET}"}
    with httpx2.Client(base_url=api.url, headers=headers, trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def worker(api: Api) -> Iterator[Client]:
    with Client(api.url, SECRET) as client:
        yield client


def result_of(api: Api, ticket: Ticket, **changed: Any) -> Result:
    return answers.result_for(api, ticket, **changed)[0]


def object_of(api: Api, ticket: Ticket) -> bytes:
    return answers.result_for(api, ticket)[1]


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
    content = worker.instance(ticket, claim.size)
    assert len(content) == claim.size
    assert content[128:132] == b"DICM"
    worker.renew(ticket)
    worker.post(ticket, result_of(api, ticket), [object_of(api, ticket)])
    assert api.state(ticket) == "reported"
    trace = api.ledger.history.trace(ticket.job)
    (kept,) = trace.objects
    assert api.spool.path(kept.file).read_bytes() == object_of(api, ticket)
    assert [row.state for row in trace.deliveries] == ["pending"]


def test_an_instance_larger_than_its_claim_is_not_read(api: Api, worker: Client) -> None:
    ticket = api.ticket()
    claim = worker.claim(ticket, "test:1")
    with pytest.raises(Unreachable, match="promised"):
        worker.instance(ticket, claim.size - 1)


def claim_with_instance(http: httpx2.Client, ticket: Ticket) -> httpx2.Response:
    return http.post(
        f"/jobs/{ticket.job}/claim",
        json={"token": ticket.token, "worker": "w"},
        headers={INSTANCE_HEADER: "1"},
    )


def test_a_claim_is_answered_with_its_instance_where_that_is_asked_for(
    api: Api, http: httpx2.Client
) -> None:
    ticket = api.ticket()
    answer = claim_with_instance(http, ticket)
    length = int(answer.headers[MESSAGE_HEADER])
    claim = Claim.model_validate_json(answer.content[:length])
    token = {"X-Job-Token": ticket.token}
    assert (
        answer.content[length:] == http.get(f"/jobs/{ticket.job}/instance", headers=token).content
    )
    assert (claim.job, claim.size) == (ticket.job, len(answer.content) - length)


def test_claim_and_instance_are_one_call(
    api: Api, worker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.JobDesk, "instance", None)
    ticket = api.ticket()
    claim = worker.claim(ticket, "test:1")
    assert len(worker.instance(ticket, claim.size)) == claim.size


def test_a_node_that_gives_no_instance_with_a_claim_is_asked_for_it(
    api: Api, worker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "INSTANCE_HEADER", "X-Not-Known-Yet")
    ticket = api.ticket()
    claim = worker.claim(ticket, "test:1")
    assert len(worker.instance(ticket, claim.size)) == claim.size


def test_a_claim_without_its_file_is_a_claim(
    api: Api, http: httpx2.Client, worker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None:
        raise FileNotFoundError

    ticket = api.ticket()
    monkeypatch.setattr(jobs, "OpenInstance", nothing)
    answer = claim_with_instance(http, ticket)
    assert MESSAGE_HEADER not in answer.headers
    claim = worker.claim(ticket, "w")
    assert claim.job == Claim.model_validate_json(answer.content).job
    with pytest.raises(NotFound):
        worker.instance(ticket, claim.size)


def test_an_instance_that_breaks_off_behind_its_claim_is_unreachable(
    api: Api, worker: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Any, send: Any, threads: object, headers: Any, before: bytes) -> None:
        self.close()
        length = (b"content-length", str(len(before) + self.size).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*headers, length]})
        await send({"type": "http.response.body", "body": before + b"half", "more_body": True})

    ticket = api.ticket()
    monkeypatch.setattr(jobs.OpenInstance, "send", broken)
    claim = worker.claim(ticket, "test:1")
    with pytest.raises(Unreachable):
        worker.instance(ticket, claim.size)


def test_the_same_result_again_is_200_and_changes_nothing(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    assert post(http, ticket, result_of(api, ticket), sr=object_of(api, ticket)).status_code == 200
    before = api.ledger.history.trace(ticket.job), api.reports
    assert post(http, ticket, result_of(api, ticket), sr=object_of(api, ticket)).status_code == 200
    assert (api.ledger.history.trace(ticket.job), api.reports) == before


def test_results_posted_at_once_are_one_result(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: post(http, ticket, result_of(api, ticket), sr=object_of(api, ticket)),
                range(8),
            )
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len(api.ledger.history.trace(ticket.job).objects) == 1


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
        result = result_of(api, ticket, token=stale.token)
        answer = post(http, stale, result, sr=object_of(api, ticket))
    else:
        answer = http.post(f"/jobs/{ticket.job}/{act}", json={"token": stale.token, **bodies[act]})
    assert answer.status_code == 409
    assert stale.token not in answer.text
    assert (api.ledger.history.trace(ticket.job), api.reports) == before


def test_the_result_of_a_lost_lease_is_dropped(api: Api, worker: Client) -> None:
    ticket = api.ticket()
    worker.claim(ticket, "zombie")
    on(api.ledger, time.time() + 3600).jobs.expire(attempts=5)
    with pytest.raises(Stale):
        worker.post(ticket, result_of(api, ticket), [object_of(api, ticket)])
    assert api.state(ticket) == "received"


def test_a_job_given_back_waits_and_counts(api: Api, worker: Client) -> None:
    ticket = api.ticket()
    worker.claim(ticket, "w")
    worker.release(ticket, "out of memory", counts=False, delay_s=60)
    (job,) = api.ledger.history.trace(ticket.job).jobs
    assert (job.state, job.attempts) == ("received", 0)
    assert job.next_at > time.time() + 50


def test_a_rejected_image_needs_its_reason(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    bare = result_of(api, ticket, outcome="rejected", objects=(), text=None)
    assert post(http, ticket, bare).status_code == 422
    result = result_of(
        api,
        ticket,
        outcome="rejected",
        objects=(),
        text=None,
        reason={"code": "not-chest", "text": "not a chest"},
    )
    assert post(http, ticket, result).status_code == 200
    assert api.state(ticket) == "rejected"


def test_an_unknown_job_is_404(api: Api, http: httpx2.Client) -> None:
    known = api.ticket()
    result, content = answers.result_for(api, known)
    ticket = Ticket(job="f" * 32, token="0" * 32)
    body = {"token": ticket.token, "worker": "w"}
    assert http.post(f"/jobs/{ticket.job}/claim", json=body).status_code == 404
    assert post(http, ticket, result, sr=content).status_code == 404


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
        post(http, ticket, text, sr=object_of(api, ticket)),
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
    result = result_of(api, ticket)
    twice = result_of(api, ticket, objects=result.objects * 2)
    evil = result_of(
        api, ticket, objects=(result.objects[0].model_copy(update={"part": "../../evil"}),)
    )
    before = api.reports
    answers = [
        post(http, ticket, result),
        post(http, ticket, result, sc=object_of(api, ticket)),
        post(http, ticket, result, sr=object_of(api, ticket), sc=object_of(api, ticket)),
        post(http, ticket, result, sr=b"<html>" * 100),
        post(http, ticket, twice, sr=object_of(api, ticket)),
        post(http, ticket, evil, **{"../../evil": object_of(api, ticket)}),
        http.post(f"/jobs/{ticket.job}/result", content=b"no multipart"),
    ]
    assert {answer.status_code for answer in answers} == {422}
    assert (api.state(ticket), api.reports) == ("running", before)


def test_a_body_without_end_is_413(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = claimed(api, http)
    monkeypatch.setattr(guard, "MAX_RESULT", 100_000)
    huge = object_of(api, ticket) + bytes(200_000)
    assert post(http, ticket, result_of(api, ticket), sr=huge).status_code == 413
    long = b'{"token": "' + b"x" * (guard.MAX_BODY + 10) + b'"}'
    headers = {"Content-Type": "application/json"}
    answer = http.post(f"/jobs/{ticket.job}/lease", content=long, headers=headers)
    assert answer.status_code == 413
    assert api.state(ticket) == "running"


@pytest.mark.parametrize("ms", ["NaN", "Infinity", "1e999", "1e308"])
def test_a_time_that_is_not_a_number_is_422(api: Api, http: httpx2.Client, ms: str) -> None:
    """It would be kept as null, of which no list of results could be made any more."""
    ticket = claimed(api, http)
    text = result_of(api, ticket, stages_ms={"model": 4711.0}).model_dump_json()
    answer = post(http, ticket, text.replace("4711.0", ms), sr=object_of(api, ticket))
    assert (answer.status_code, api.state(ticket)) == (422, "running")


def test_a_result_that_ends_before_its_last_boundary_is_400(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    files = [
        ("result", (None, result_of(api, ticket).model_dump_json(), "application/json")),
        ("sr", ("sr.dcm", object_of(api, ticket))),
    ]
    whole = httpx2.Request("POST", http.base_url, files=files)
    body, headers = whole.read(), {"Content-Type": whole.headers["content-type"]}
    cut = http.post(f"/jobs/{ticket.job}/result", content=body[:-8], headers=headers)
    assert (cut.status_code, api.state(ticket)) == (400, "running")
    again = http.post(f"/jobs/{ticket.job}/result", content=body, headers=headers)
    assert (again.status_code, api.state(ticket)) == (200, "reported")


def test_a_result_that_waits_on_the_disk_is_the_same(api: Api, http: httpx2.Client) -> None:
    """Behind 1 MB a body leaves the memory; its JSON may have as much, and no more."""
    ticket = claimed(api, http)
    long = result_of(api, ticket, text="x" * (jobs.MAX_RESULT_JSON - 4096))
    too_long = result_of(api, ticket, text="x" * (jobs.MAX_RESULT_JSON + 1))
    assert post(http, ticket, too_long, sr=object_of(api, ticket)).status_code == 400
    assert post(http, ticket, long, sr=object_of(api, ticket)).status_code == 200
    assert api.ledger.history.trace(ticket.job).jobs[0].state == "reported"


def test_a_body_for_which_there_is_no_room_is_503(
    api: Api,
    http: httpx2.Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The folder where it waits is full, or has no more inodes; nothing is lost."""
    ticket = claimed(api, http)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    content = object_of(api, ticket)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile.SpooledTemporaryFile, "write", full)
        answer = post(http, ticket, result_of(api, ticket), sr=content)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json() == {"detail": "out of resources; try later"}
    (line,) = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    assert line.endswith("no room for this request: No space left on device")
    assert api.state(ticket) == "running"
    assert post(http, ticket, result_of(api, ticket), sr=content).status_code == 200


def test_a_full_disk_is_503_and_the_worker_may_try_again(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        raise OutOfResources("no space left")

    ticket = claimed(api, http)
    with monkeypatch.context() as patch:
        patch.setattr(api.spool, "write_report", full)
        answer = post(http, ticket, result_of(api, ticket), sr=object_of(api, ticket))
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    assert post(http, ticket, result_of(api, ticket), sr=object_of(api, ticket)).status_code == 200


def test_a_result_whose_row_is_on_its_way_is_not_swept_however_old_it_seems(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = claimed(api, http)
    retention = RetentionSweep(Settings(), api.spool, api.ledger)
    report = api.ledger.jobs.report

    def held(*arguments: Any) -> bool:
        for path in api.spool.root.rglob("*.dcm"):
            os.utime(path, (1, 1))
        assert [retention.sweep(), retention.sweep()] == [0, 0]
        return report(*arguments)

    monkeypatch.setattr(api.ledger.jobs, "report", held)
    assert post(http, ticket, result_of(api, ticket), sr=object_of(api, ticket)).status_code == 200
    (kept,) = api.ledger.history.trace(ticket.job).objects
    assert api.spool.path(kept.file).read_bytes() == object_of(api, ticket)


def test_an_instance_is_served_as_nothing_but_dicom(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    answer = http.get(f"/jobs/{ticket.job}/instance", headers={"X-Job-Token": ticket.token})
    assert answer.headers["content-type"] == "application/dicom"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


OTHERS: dict[str, Any] = {
    "patient": {"PatientID": "OTHER-1"},
    "issuer": {"IssuerOfPatientID": "ELSEWHERE"},
    "study": {"StudyInstanceUID": "1.2.9"},
    "class": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1"},
    "own uid": {"SOPInstanceUID": "1.2.3.4.5"},
    "series": {"SeriesInstanceUID": "1.3"},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_result_about_something_else_is_422_and_an_attempt(
    api: Api, http: httpx2.Client, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    ticket = claimed(api, http)
    image = api.ledger.history.trace(ticket.job).sop_instance_uid
    ds = answers.report_of(image)
    for keyword, value in OTHERS[what].items():
        setattr(ds, keyword, value)
    before = api.reports
    answer = post(http, ticket, result_of(api, ticket), sr=answers.part10(ds))
    assert answer.status_code == 422
    assert "result refused: sr (sr): its" in answer.text
    assert "OTHER" not in answer.text + caplog.text
    assert "result refused" in caplog.text
    assert api.reports == before, "nothing of it is durable"
    (job,) = api.ledger.history.trace(ticket.job).jobs
    assert (job.state, job.attempts) == ("received", 1)
    assert "result refused" in job.reason
    with_token = post(http, ticket, result_of(api, ticket), sr=object_of(api, ticket))
    assert with_token.status_code == 409, "the token went with the attempt"


def test_a_job_whose_results_are_all_foreign_fails_with_the_reason(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    headers = {"Authorization": f"Bearer {SECRET}"}
    with (
        serving(tmp_path_factory.mktemp("node")) as api,
        httpx2.Client(base_url=api.url, headers=headers) as http,
    ):
        ticket = api.ticket()
        for _ in range(api.settings.dispatch.attempts):
            body = {"token": ticket.token, "worker": "compromised:1"}
            assert http.post(f"/jobs/{ticket.job}/claim", json=body).status_code == 200
            foreign = answers.part10(answers.report_of("9.9.9"))
            assert post(http, ticket, result_of(api, ticket), sr=foreign).status_code == 422
            tickets = api.ledger.jobs.hand_out("phantom", 1, time.time() + 60)
            ticket = tickets[0] if tickets else ticket
        assert api.state(ticket) == "failed"
        assert api.reports == []


def test_a_second_result_cannot_take_the_place_of_the_first(api: Api, http: httpx2.Client) -> None:
    ticket = claimed(api, http)
    assert post(http, ticket, result_of(api, ticket), sr=object_of(api, ticket)).is_success
    before = api.reports
    other = answers.part10(answers.report_of("9.9.9"))
    assert post(http, ticket, result_of(api, ticket), sr=other).json() == {"durable": True}
    assert api.reports == before


def test_applications_with_other_rules_answer_in_the_same_threads(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an application before would stay until the collector comes by."""
    at_once = threading.Barrier(16)

    def begin(*_: object) -> None:
        at_once.wait(60)
        raise Stale("all are here")

    monkeypatch.setattr(jobs.JobDesk, "begin", begin)
    site = WebSite(api.settings, api.ledger, api.spool, Credentials.same(SECRET))
    body = {"type": "http.request", "body": b'{"token": "t", "worker": "w"}', "more_body": False}
    scope = {
        "type": "http", "method": "POST", "path": "/jobs/j/claim", "query_string": b"",
        "headers": [(b"authorization", f"Bearer {SECRET}".encode())],
    }  # fmt: skip

    async def call() -> int:
        said: list[Any] = []

        async def receive() -> Any:
            return body

        async def send(message: Any) -> None:
            said.append(message)

        await site(dict(scope), receive, send)
        return int(said[0]["status"])

    async def all_at_once() -> list[int]:
        return await asyncio.gather(*[call() for _ in range(16)])

    before = {one for one in threading.enumerate() if one.name.startswith("job-api")}
    gc.disable()  # it comes by at another time in a node, and never to its first application
    try:
        for _ in range(3):
            assert asyncio.run(all_at_once()) == [409] * 16
            site.take(api.settings)
    finally:
        gc.enable()
    now = {one for one in threading.enumerate() if one.name.startswith("job-api")}
    assert len(now - before) == 16
