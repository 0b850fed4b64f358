"""A node that was stopped in the middle of its work by an older version: this one finishes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import NOW, on, post, result
from postgresql import Cluster, cluster

from dicom_node.base.job import Handout, Ticket
from dicom_node.flow.deliver import Deliverer
from dicom_node.flow.dispatch import Dispatcher
from dicom_node.settings import Peer, Settings
from dicom_node.store import schema
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool

OLD = Path(__file__).resolve().parents[1] / "drill" / "ledgers"
LATER = NOW + 200


class Taker:
    """A destination that takes everything, once."""

    def __init__(self) -> None:
        self.got: list[str] = []

    def connect(self, sop_classes: object) -> None: ...

    def accepts(self, sop_class_uid: str) -> bool:
        return True

    def store(self, content: Path | bytes) -> int:
        assert isinstance(content, Path)
        self.got.append(content.name)
        return 0x0000

    def close(self) -> None: ...


@pytest.fixture(params=schema.VERSIONS)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """The ledger that a version left behind with work in every state, upgraded."""
    text = (OLD / f"{request.param}.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        db.executescript(text)
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    Ledger.upgrade(url)
    ledger = Ledger.open(url)
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


def finish(ledger: Ledger, folder: Path) -> list[str]:
    """Do all work that is left and return what was delivered."""
    handed: list[Handout] = []
    peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=104)
    settings = Settings(peers={"archive": peer})
    work = Dispatcher(settings, ledger, lambda handout, priority: handed.append(handout))
    for minute in range(5):
        on(work, LATER + 60 * minute).step()
    taker = Taker()
    for ticket in {ticket.job: ticket for handout in handed for ticket in handout.tickets}.values():
        on(ledger, LATER + 300).jobs.claim(ticket.job, ticket.token, "new-worker:1", 60)
        post(ledger, ticket, result(ticket, int(ticket.job[:6], 32)), LATER + 310)
    deliverer = Deliverer(settings, Spool(folder / "spool"), ledger, lambda _: taker)
    on(deliverer, LATER + 400).step()
    return taker.got


@pytest.mark.parametrize("ledger", ["0002"], indirect=True)
def test_a_commitment_that_was_asked_for_is_still_answered(ledger: Ledger) -> None:
    assert on(ledger, LATER).commitments.answer("2.25.660", {"2.25.6"}, {}, lambda _: 30)
    assert ledger.history.trace("1.2.3.6").state == "committed"


def test_work_in_every_state_is_finished_once(ledger: Ledger, tmp_path: Path) -> None:
    all_is_finished_once(ledger, tmp_path)


@pytest.mark.parametrize("version", ["0003", "0010"])
def test_work_on_postgresql_is_finished_once(server: Cluster, tmp_path: Path, version: str) -> None:
    url = server.old(version, (OLD / f"{version}.sql").read_text(encoding="utf-8"))
    Ledger.upgrade(url)
    ledger = Ledger.open(url)
    all_is_finished_once(ledger, tmp_path)
    (old,) = ledger.history.trace("1.2.3.4").jobs
    (new,) = on(ledger, LATER + 600).acts.replay(old.job)
    assert len(new) < len(old.job)
    for job in (old.job, new):
        assert [row.sop_instance_uid for row in ledger.history.page(5, job).rows][:1] == ["1.2.3.4"]
    ledger.close()


def all_is_finished_once(ledger: Ledger, folder: Path) -> None:
    delivered = finish(ledger, folder)
    status = on(ledger, LATER + 500).history.status()
    assert status.jobs == {"reported": 8, "rejected": 1, "failed": 1}
    assert status.deliveries == {"sent": 8, "withheld": 1}
    assert status.instances["ignored"] == 1
    assert status.conflicts == 1
    # what an older version had sent is not sent again
    assert len(delivered) == len(set(delivered)) == 7


def test_a_worker_of_the_older_version_may_still_post_its_result(ledger: Ledger) -> None:
    (running,) = (row for row in ledger.history.trace("1.2.3.3").jobs if row.state == "running")
    with closing(sqlite3.connect(ledger.url.removeprefix("sqlite:///"))) as db:
        query = "SELECT token FROM jobs WHERE id = ?"
        (token,) = db.execute(query, (running.job,)).fetchone()
    ticket = Ticket(job=running.job, token=token)
    assert post(ledger, ticket, result(ticket, 3), NOW + 60)
    assert ledger.history.trace("1.2.3.3").jobs[0].state == "reported"


def test_what_was_settled_before_the_first_attempt_stays_settled(ledger: Ledger) -> None:
    due = {d.sop_instance_uid: d for d in on(ledger, LATER).deliveries.due()}
    assert due["1.2.3.7"].chosen == "2.25.7"
    assert due["1.2.3.5"].attempts == 1
