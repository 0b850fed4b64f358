"""A worker's way through a hand-out, against the node's real job API and ledger."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError
from pydicom import dcmread, dcmwrite
from stations import free_ports, wait_for

from dicom_node.base.errors import OutOfResources, Refused, Stale, Unreachable
from dicom_node.base.job import Handout, ReportOrder, Result, Ticket
from dicom_node.dimse import Accepted, Sender
from dicom_node.flow.dispatch import Dispatcher
from dicom_node.flow.intake import Intake
from dicom_node.settings import Dispatch, Node, Peer, Retention, Rule, Settings, Web
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool
from dicom_node.web.app import create_app, serve_web
from worker import settings as worker_settings
from worker.image.decode import Decoder
from worker.image.pixels import Radiograph
from worker.models import BrokenAccelerator, Description, ModelInfo, Progress
from worker.phantom.draw import instance
from worker.pipeline import Case, Pipeline
from worker.service.heartbeat import AliveFile
from worker.service.node import NodeClient
from worker.service.tasks import HandoutDesk, LeaseRenewal

SECRET = "a-secret-of-some-length"


def _data_set(part10: bytes) -> int:
    """Return where the data set begins, behind the group length's worth of file meta."""
    return 144 + int.from_bytes(part10[140:144], "little")


class Model:
    """A model of the protocol whose answer a test chooses."""

    info = ModelInfo(name="chosen", version="chosen-1.0", prompt="p")

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.act: Callable[[Sequence[Radiograph]], None] = lambda radiographs: None

    def load(self) -> None: ...

    def warm_up(self) -> None: ...

    def close(self) -> None: ...

    def describe(
        self, radiographs: Sequence[Radiograph], progress: Progress | None = None
    ) -> list[Description]:
        self.batches.append(len(radiographs))
        self.act(radiographs)
        return [Description("Fracture of the left 5th rib.", 9, "stop", 0.01) for _ in radiographs]


class Station:
    """A node's job API over its real ledger and spool, and a worker's desk."""

    def __init__(self, folder: Path) -> None:
        self.port = free_ports(1)[0]
        self.settings = Settings(
            node=Node(data_dir=folder),
            web=Web(port=self.port, url=f"http://127.0.0.1:{self.port}"),
            dispatch=Dispatch(lease=3, attempts=2),
            peers={"archive": Peer(ae_title="ARCHIVE", host="127.0.0.1", port=1)},
            rules=(
                Rule(name="all", model="chosen", send_to=("archive",), allow_demonstration=True),
            ),
            retention=Retention(min_free=0),
        )
        Ledger.upgrade(self.settings.ledger_url)
        self.ledger = Ledger.open(self.settings.ledger_url)
        self.spool = Spool(folder / "spool")
        self.intake = Intake(self.settings, self.spool, self.ledger)
        self.stop = threading.Event()
        app = create_app(self.settings, self.ledger, self.spool, SECRET)
        ready = threading.Event()
        self.web = threading.Thread(
            target=serve_web, args=(self.settings, app, self.stop, ready.set), daemon=True
        )
        self.web.start()
        assert ready.wait(10)
        self.model = Model()
        self.decoder = Decoder()
        options = worker_settings.Settings(worker={"nodes": [self.settings.web.url]})
        self.pulse = LeaseRenewal(stuck_after=60)
        self.pulse.start()
        pipeline = Pipeline(self.model, self.decoder, options.pixels)
        self.desk = HandoutDesk(pipeline, options, SECRET, self.pulse)
        self.desk.batches.linger_s = 20  # neighbours wait for each other on the slowest machine

    def close(self) -> None:
        self.stop.set()
        self.web.join(10)
        self.desk.close()
        self.pulse.stop()
        self.decoder.close()
        self.ledger.close()

    def receive(self, uid: str) -> str:
        """Take one Instance in and return its job."""
        ds = instance(7, 0)
        ds.SOPInstanceUID = uid
        content = BytesIO()
        dcmwrite(content, ds, enforce_file_format=True)
        accepted = Accepted(ds.SOPClassUID, uid, "1.2.840.10008.1.2.1")
        incoming = self.intake.begin(accepted)
        incoming.write(content.getvalue()[_data_set(content.getvalue()) :])
        sender = Sender("ARCHIVE", "127.0.0.1", "CHEXFRACT")
        return str(self.intake.finish(incoming, accepted, sender).jobs[0])

    def hand_out(self, limit: int = 10) -> Handout:
        tickets = self.ledger.jobs.hand_out("chosen", limit, time.time() + 60)
        return Handout(node=self.settings.web.url, model="chosen", tickets=tuple(tickets))

    def state(self, uid: str) -> str:
        return str(self.ledger.history.trace(uid).jobs[0].state)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    yield made
    made.close()


def test_a_hand_out_ends_as_reported_jobs_with_their_objects(station: Station) -> None:
    for i in range(3):
        station.receive(f"1.2.3.{i}")
    station.desk.work(station.hand_out())
    assert [station.state(f"1.2.3.{i}") for i in range(3)] == ["reported"] * 3
    assert station.model.batches == [3]
    trace = station.ledger.history.trace("1.2.3.0")
    assert trace.objects
    assert all(station.spool.path(row.file).is_file() for row in trace.objects)
    assert {"fetch", "decode", "model", "report"} <= {stage.stage for stage in trace.stages}


def test_a_stale_ticket_is_passed_over_and_its_neighbour_done(station: Station) -> None:
    station.receive("1.2.3.1")
    station.receive("1.2.3.2")
    handout = station.hand_out()
    stale = Ticket(job=handout.tickets[0].job, token="0" * 32)
    station.desk.work(handout.model_copy(update={"tickets": (stale, handout.tickets[1])}))
    assert sorted((station.state("1.2.3.1"), station.state("1.2.3.2"))) == ["queued", "reported"]


@pytest.mark.parametrize(
    "fault", [OutOfResources("no memory"), MemoryError()], ids=["accelerator", "host"]
)
def test_an_image_that_breaks_the_model_fails_alone(station: Station, fault: Exception) -> None:
    for i in range(4):
        station.receive(f"1.2.3.{i}")
    handout = station.hand_out()
    poison = {"at": 0}

    def act(radiographs: Sequence[Radiograph]) -> None:
        # The first picture of the first hand-out is the poison, in whatever batch it is.
        poison.setdefault("id", id(radiographs[0].pixels))
        if any(id(radiograph.pixels) == poison["id"] for radiograph in radiographs):
            raise fault

    station.model.act = act
    station.desk.work(handout)
    states = [station.state(f"1.2.3.{i}") for i in range(4)]
    assert states.count("reported") == 3
    assert states.count("received") == 1


def test_an_engine_that_is_away_takes_no_attempt_and_makes_no_report(station: Station) -> None:
    station.receive("1.2.3.1")

    def act(_: Sequence[Radiograph]) -> None:
        raise Unreachable("the chat server answered 503")

    station.model.act = act
    station.desk.work(station.hand_out())
    trace = station.ledger.history.trace("1.2.3.1")
    (job,) = trace.jobs
    assert (job.state, job.attempts) == ("received", 0)
    assert "503" in job.reason
    assert trace.objects == ()


def test_an_image_that_breaks_the_accelerator_cannot_end_workers_for_ever(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost device costs an attempt of each image, so the one to blame ends as failed."""
    ends: list[bool] = []
    monkeypatch.setattr("worker.service.tasks._exit_hard", lambda: ends.append(True))
    uids = ["1.2.3.1", "1.2.3.2"]
    for uid in uids:
        station.receive(uid)

    def act(_: Sequence[Radiograph]) -> None:
        raise BrokenAccelerator("CUDA error: device-side assert triggered")

    station.model.act = act
    for states in (["received", "received"], ["failed", "received"], ["failed", "failed"]):
        station.desk.work(station.hand_out())
        # then each is tried alone, and the end of the process costs the other nothing
        assert sorted(station.state(uid) for uid in uids) == states, "none may wait for its lease"
    assert all(ends)
    assert max(station.model.batches[1:]) == 1


def test_the_next_hand_out_is_fetched_and_decoded_while_the_model_runs(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model holds its first batch until the second hand-out's picture is ready for it."""
    at_the_model, is_decoded, seen = threading.Event(), threading.Event(), []
    prepare = Pipeline.prepare

    def prepared(pipeline: Pipeline, content: bytes) -> Case:
        case = prepare(pipeline, content)
        if at_the_model.is_set():
            is_decoded.set()
        return case

    def act(_: Sequence[Radiograph]) -> None:
        at_the_model.set()
        seen.append(is_decoded.wait(20))

    monkeypatch.setattr(Pipeline, "prepare", prepared)
    station.model.act = act
    works = []
    for uid in ("1.2.3.1", "1.2.3.2"):
        station.receive(uid)
        works.append(threading.Thread(target=station.desk.work, args=(station.hand_out(),)))
        works[-1].start()
        assert at_the_model.wait(20)
    for work in works:
        work.join(30)
    assert seen == [True, True]
    assert [station.state(uid) for uid in ("1.2.3.1", "1.2.3.2")] == ["reported", "reported"]


def test_a_backlog_reaches_the_model_in_full_batches(station: Station) -> None:
    """Hand-outs of one, as they come when images trickle in, are gathered all the same."""
    for i in range(24):
        station.receive(f"1.2.3.{i}")
    handouts = [station.hand_out(size) for size in (1, 1, 1, 5, 8, 3, 5)]
    done = [future for handout in handouts for future in station.desk.take(handout)]
    wait(done, 60)
    assert station.model.batches == [8, 8, 8]
    assert [station.state(f"1.2.3.{i}") for i in range(24)] == ["reported"] * 24
    figures = station.desk.batches.figures
    assert (figures.batches, figures.pictures, figures.mean) == (3, 24, 8.0)


def test_a_backlog_is_full_batches_in_the_workers_own_figures(station: Station) -> None:
    """From the ledger through the dispatcher; a model that takes as long as the next batch does."""
    count, taken = 40, 0
    for i in range(count):
        station.receive(f"1.2.3.{i}")
    handouts: queue.SimpleQueue[Handout] = queue.SimpleQueue()
    loop = Dispatcher(station.settings, station.ledger, lambda one, _: handouts.put(one)).loop()
    stop = threading.Event()
    dispatching = threading.Thread(target=loop.run, args=(stop,))
    batches = station.desk.batches

    def act(_: Sequence[Radiograph]) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and len(batches._usual) < 8 and taken < count:
            station.pulse.moved()
            time.sleep(0.005)

    station.model.act = act
    dispatching.start()
    done = []
    try:
        while taken < count:
            handout = handouts.get(timeout=60)
            wait_for("room", station.desk.has_room, 60)
            taken += len(handout.tickets)
            done += station.desk.take(handout)
        wait(done, 60)
    finally:
        stop.set()
        dispatching.join(20)
    assert station.model.batches == [8] * 5
    counts = station.desk.presence().batches
    assert counts is not None
    assert (counts.count, counts.pictures, counts.last) == (5, 40, (8,) * 5)
    assert (counts.limit, counts.fill) == (8, 1.0)


def test_no_more_is_taken_than_makes_the_next_batch(station: Station) -> None:
    """What a worker takes is out of every other worker's reach."""
    at_the_model, go_on = threading.Event(), threading.Event()

    def act(_: Sequence[Radiograph]) -> None:
        at_the_model.set()
        assert go_on.wait(30)

    station.model.act = act
    for i in range(24):
        station.receive(f"1.2.3.{i}")
    assert station.desk.has_room()
    done = station.desk.take(station.hand_out(8))
    assert not station.desk.has_room(), "a batch is ahead of the model"
    assert at_the_model.wait(30)
    assert station.desk.has_room(), "the model has taken it"
    done += station.desk.take(station.hand_out(8))
    assert not station.desk.has_room()
    go_on.set()
    wait(done, 30)
    assert station.desk.has_room()
    assert station.desk.held == 0


def test_what_is_stat_goes_before_what_waits_longer(station: Station) -> None:
    at_the_model, go_on, order = threading.Event(), threading.Event(), []

    def act(radiographs: Sequence[Radiograph]) -> None:
        order.append(len(radiographs))
        at_the_model.set()
        assert go_on.wait(30)

    station.model.act = act
    for i in range(12):
        station.receive(f"1.2.3.{i}")
    done = station.desk.take(station.hand_out(1))
    assert at_the_model.wait(30)
    usual = station.hand_out(9)
    done += station.desk.take(usual)
    while station.desk.batches._coming:
        time.sleep(0.005)
    stat = station.desk.take(station.hand_out(2), urgent=True)
    while station.desk.batches._coming:
        time.sleep(0.005)
    go_on.set()
    wait(stat, 30)
    states = [station.state(f"1.2.3.{i}") for i in range(12)]
    wait([*done, *stat], 30)
    assert order == [1, 8, 3]
    assert states[10:] == ["reported", "reported"]


def test_a_job_that_was_tried_before_shares_its_batch_with_none(station: Station) -> None:
    """An earlier worker may have died of it: its neighbours are spared."""
    for i in range(4):
        station.receive(f"1.2.3.{i}")

    def act(_: Sequence[Radiograph]) -> None:
        raise RuntimeError("a bug")

    station.model.act = act
    station.desk.work(station.hand_out(1))
    station.model.act = lambda _: None
    station.desk.work(station.hand_out(4))
    assert sorted(station.model.batches[1:]) == [1, 3]


def test_a_fault_of_the_model_gives_the_job_back_until_it_fails(station: Station) -> None:
    station.receive("1.2.3.1")

    def act(_: Sequence[Radiograph]) -> None:
        raise RuntimeError("a bug")

    station.model.act = act
    for _ in range(2):
        station.desk.work(station.hand_out())
    assert station.state("1.2.3.1") == "failed"
    assert "RuntimeError" in station.ledger.history.trace("1.2.3.1").jobs[0].reason


def test_bytes_that_are_no_image_are_rejected_with_a_report(station: Station) -> None:
    station.receive("1.2.3.1")
    job = station.ledger.history.trace("1.2.3.1").instance.file
    path = station.spool.path(job)
    ds = dcmread(path)
    ds.PixelData = ds.PixelData[:1000]
    ds.save_as(path)
    station.desk.work(station.hand_out())
    trace = station.ledger.history.trace("1.2.3.1")
    assert trace.jobs[0].state == "rejected"
    assert trace.objects
    assert station.model.batches == []


def test_work_that_moves_on_keeps_its_lease(station: Station) -> None:
    station.receive("1.2.3.1")

    def act(_: Sequence[Radiograph]) -> None:
        for _ in range(45):
            time.sleep(0.1)
            station.pulse.moved()

    station.model.act = act
    thread = threading.Thread(target=station.desk.work, args=(station.hand_out(),))
    thread.start()
    while thread.is_alive():
        station.ledger.jobs.expire(5)
        time.sleep(0.1)
    assert station.state("1.2.3.1") == "reported"


def test_work_that_stands_still_loses_its_lease_and_its_late_result_is_dropped(
    station: Station,
) -> None:
    station.receive("1.2.3.1")
    station.model.act = lambda _: time.sleep(4.5)
    thread = threading.Thread(target=station.desk.work, args=(station.hand_out(),))
    thread.start()
    wait_for("running", lambda: station.state("1.2.3.1") == "running", 10)
    while thread.is_alive():
        station.ledger.jobs.expire(5)
        time.sleep(0.1)
    assert station.state("1.2.3.1") == "received"
    assert station.ledger.history.trace("1.2.3.1").objects == ()


def test_a_stuck_worker_ends_itself() -> None:
    ended = threading.Event()
    pulse = LeaseRenewal(stuck_after=0.5, give_up=ended.set)
    pulse.start()
    node = NodeClient("http://127.0.0.1:9", SECRET)
    pulse.hold(node, Ticket(job="j", token="t"), lease_s=1000)
    assert ended.wait(5)
    node.close()


def test_a_node_that_hangs_does_not_make_its_worker_stuck() -> None:
    """Six tries of 30 s are longer than a worker may be without progress."""
    now, calls = [0.0], []

    def hang(request: httpx2.Request) -> httpx2.Response:
        now[0] += 30
        calls.append(pulse.beat())
        raise httpx2.ReadTimeout("timed out", request=request)

    def no_lease(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("timed out", request=request)

    ended = threading.Event()
    pulse = LeaseRenewal(stuck_after=60, give_up=ended.set, monotonic=lambda: now[0])
    ticket = Ticket(job="a" * 32, token="t")
    done = Result(token="t", outcome="reported", model="m", model_version="1", device_uid="1.2")
    other = NodeClient("http://127.0.0.1:9", SECRET, transport=httpx2.MockTransport(no_lease))
    transport = httpx2.MockTransport(hang)
    with other, NodeClient("http://127.0.0.1:9", SECRET, transport=transport) as node:
        pulse.hold(other, ticket, lease_s=1e6)
        with pytest.raises(Unreachable):
            node.post(ticket, done, [], wait=lambda _: None, progress=pulse.moved)
    assert calls == [True] * 6
    assert not ended.is_set()
    now[0] += 61
    assert not pulse.beat(), "without progress it is stuck, as ever"


def test_an_idle_worker_is_not_stuck() -> None:
    ended = threading.Event()
    pulse = LeaseRenewal(stuck_after=0.3, give_up=ended.set)
    pulse.start()
    assert not ended.wait(1)
    pulse.stop()


def test_a_worker_that_is_not_stuck_keeps_its_file_young(tmp_path: Path) -> None:
    now, ended = [0.0], threading.Event()
    file = tmp_path / "alive"
    alive = AliveFile(file, lambda: now[0])
    pulse = LeaseRenewal(stuck_after=0.5, give_up=ended.set, alive=alive)
    pulse.start()
    wait_for("touched", file.exists, 60)
    file.unlink()
    node = NodeClient("http://127.0.0.1:9", SECRET)
    pulse.hold(node, Ticket(job="j", token="t"), lease_s=1000)
    assert ended.wait(60)
    now[0] += 60  # it would be touched again by a worker that is not stuck
    assert not file.exists()
    AliveFile(tmp_path / "no" / "folder").touch()
    node.close()


def test_a_node_that_gives_no_answer_does_not_make_its_worker_look_dead(tmp_path: Path) -> None:
    now, touched = [0.0], [0.0]

    class SlowNode(NodeClient):
        def renew(self, ticket: Ticket) -> None:
            now[0] += 30
            raise Unreachable("timed out")

    class NotedTouches(AliveFile):
        def touch(self) -> None:
            touched.append(now[0])

    pulse = LeaseRenewal(600, monotonic=lambda: now[0], alive=NotedTouches(tmp_path / "alive"))
    with SlowNode("http://127.0.0.1:9", SECRET) as node:
        for number in range(8):
            pulse.hold(node, Ticket(job=f"j{number}", token="t"), lease_s=60)
        now[0] += 25
        pulse.moved()
        assert pulse.beat()
    assert now[0] == 25 + 8 * 30
    assert max(after - before for before, after in pairwise([*touched, now[0]])) < 60


def test_a_result_is_posted_again_until_the_node_is_back(station: Station) -> None:
    """The pauses double, and the last failure is reported."""
    station.receive("1.2.3.1")
    handout = station.hand_out()
    client = NodeClient(f"http://127.0.0.1:{free_ports(1)[0]}", SECRET)
    waits: list[float] = []
    result = Result(
        token=handout.tickets[0].token, outcome="rejected", model="chosen", model_version="1",
        device_uid="2.25.1",
    )  # fmt: skip
    with pytest.raises(Unreachable):
        client.post(handout.tickets[0], result, [], tries=4, wait=waits.append)
    assert waits == [0.5, 1.0, 2.0]
    client.close()


def test_a_hand_out_waits_for_a_node_that_restarts(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.receive("1.2.3")
    handout = station.hand_out()
    asked: list[str] = []
    ask, begin = NodeClient._ask, NodeClient._begin

    def note(act: str) -> None:
        asked.append(act)
        if len(asked) < 3:
            raise Unreachable("the node gives no answer")

    def asks(self: NodeClient, url: str, *given: Any, **body: Any) -> httpx2.Response:
        note(url.rpartition("/")[2])
        return ask(self, url, *given, **body)

    def claims(self: NodeClient, ticket: Ticket, body: bytes) -> bytes:
        note("claim")
        return begin(self, ticket, body)

    monkeypatch.setattr(NodeClient, "_ask", asks)
    monkeypatch.setattr(NodeClient, "_begin", claims)
    station.desk.work(handout)
    assert [act for act in asked if act != "lease"] == ["claim", "claim", "claim", "result"]
    assert station.state("1.2.3") == "reported"


def test_a_wrong_secret_is_told_as_such(station: Station) -> None:
    """A claim twice by one ticket is one lease; another ticket is stale."""
    station.receive("1.2.3.1")
    ticket = station.hand_out().tickets[0]
    url = station.settings.web.url
    with NodeClient(url, "x" * 20) as client, pytest.raises(Refused, match="secret_file"):
        client.claim(ticket, "w")
    with NodeClient(station.settings.web.url, SECRET) as client:
        claim = client.claim(ticket, "w")
        assert claim.order == client.claim(ticket, "w").order  # the same ticket twice: same lease
        with pytest.raises(Stale):
            client.renew(Ticket(job=ticket.job, token="0" * 32))
    assert isinstance(claim.order, ReportOrder)


def test_a_node_that_is_not_trusted_gets_no_secret(station: Station) -> None:
    station.receive("1.2.3.1")
    options = worker_settings.Settings(worker=worker_settings.Worker(nodes=("http://127.0.0.1:1",)))
    pipeline = Pipeline(station.model, station.decoder, options.pixels)
    desk = HandoutDesk(pipeline, options, SECRET, station.pulse)
    desk.work(station.hand_out())
    assert station.state("1.2.3.1") == "queued"


def test_a_forged_hand_out_causes_no_request_elsewhere(
    station: Station, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever writes to Redis may name any address; the secret stays with the nodes we know."""
    ticket = Ticket(job="c" * 32, token="d" * 32)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.settimeout(0.2)
        port = stranger.getsockname()[1]
        for url in (
            f"http://127.0.0.1:{port}",
            f"{station.settings.web.url}@127.0.0.1:{port}",
            f"http://127.0.0.1:{port}/?{station.settings.web.url}",
            "http://[::1",
            "file:///etc/passwd",
            "",
        ):
            station.desk.work(Handout(node=url, model="chosen", tickets=(ticket,)))
        with pytest.raises(TimeoutError):
            stranger.accept()
    urls = [node.url for node in station.desk.nodes()]
    assert urls == [station.settings.web.url]
    lines = [line.getMessage() for line in caplog.records if "dropped a hand-out" in line.message]
    assert len(lines) == 6


def test_two_spellings_of_a_known_node_are_one(station: Station) -> None:
    station.receive("1.2.3.1")
    handout = station.hand_out()
    spelt = handout.node.replace("http://", "HTTP://") + "/"
    station.desk.work(handout.model_copy(update={"node": spelt}))
    assert station.state("1.2.3.1") == "reported"


@pytest.mark.parametrize("job", ["../../workers?", "a/b", "", "a" * 129, "c%2f..", "c\n"])
def test_a_ticket_that_would_lead_to_another_path_is_not_a_hand_out(job: str) -> None:
    with pytest.raises(ValidationError):
        Handout.model_validate(
            {"node": "http://n", "model": "m", "tickets": [{"job": job, "token": "t"}]}
        )


def test_what_may_have_killed_a_worker_is_claimed_while_nothing_else_is_in_it(
    station: Station,
) -> None:
    """A claim counts an attempt: neighbours that die of one picture must not be claimed with it."""
    uids = [f"1.2.3.{i}" for i in range(6)]
    for uid in uids:
        station.receive(uid)
    (usual, *tried) = [
        station.hand_out(1).model_copy(update={"alone": i > 0}) for i in range(len(uids))
    ]
    seen: list[dict[str, int]] = []

    def act(_: Sequence[Radiograph]) -> None:
        seen.append(dict(Counter(station.state(uid) for uid in uids)))

    station.model.act = act
    wait([done for handout in (usual, *tried) for done in station.desk.take(handout)], 60)
    assert station.model.batches == [1] * 6
    assert [counts["running"] for counts in seen] == [1] * 6
    assert [station.state(uid) for uid in uids] == ["reported"] * 6


def test_no_hand_out_is_taken_while_a_suspect_waits_for_an_empty_worker(station: Station) -> None:
    for uid in ("1.2.3.1", "1.2.3.2"):
        station.receive(uid)
    usual, tried = station.hand_out(1), station.hand_out(1).model_copy(update={"alone": True})
    rooms = []
    station.model.act = lambda _: rooms.append(station.desk.has_room())
    works = station.desk.take(usual) + station.desk.take(tried)
    wait(works, 60)
    assert rooms == [False, True]
