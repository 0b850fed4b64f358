"""Storage commitment: asked for what was delivered, until it is answered; failures go out again."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from ledgers import NOW, fresh, instance, on, post, result, route, taken
from postgresql import Cluster, cluster
from serving import serving

from dicom_node.base.errors import Refused, Unreachable
from dicom_node.dimse import CommitmentAnswer, Question
from dicom_node.flow.commit import Committer, keeper
from dicom_node.flow.deliver import Pace
from dicom_node.operate import show
from dicom_node.settings import Peer, Settings
from dicom_node.store.ledger import Ledger, as_json
from dicom_node.store.ledger.database import Database

PEER = Peer(ae_title="ARCHIVE", host="h", port=1, storage_commitment=True)
SR = "1.2.840.10008.5.1.4.1.1.88.34"
GONE = 0x0112


class Archive:
    """A peer in this process that answers, or not, what it is asked."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.trouble: Exception | None = None
        self.refuses: Exception | None = None
        self.reply: Callable[[Question], CommitmentAnswer | None] = lambda question: None
        self.keep: Callable[[CommitmentAnswer], bool] = lambda answer: False

    def __call__(self, peer: Peer) -> Archive:
        return self

    def connect(self) -> None:
        if self.trouble:
            raise self.trouble

    def ask(self, question: Question) -> None:
        if self.refuses:
            raise self.refuses
        self.asked.append(question)
        if answer := self.reply(question):
            assert self.keep(answer)

    def wait(self, seconds: float, ends: Callable[[], bool]) -> bool:
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None: ...


class Node:
    def __init__(self, url: str) -> None:
        self.url = url
        self.ledger = Ledger.open(self.url)
        self.archive = Archive()
        self.archive.keep = keeper(self.ledger, Pace())
        self.settings = Settings(peers={"archive": PEER})

    def deliver(self, n: int = 1, ask_at: float = NOW + 1) -> int:
        """Deliver one report and return its delivery."""
        on(self.ledger, NOW).instances.receive(instance(n), [route()])
        ticket = taken(self.ledger)
        post(self.ledger, ticket, result(ticket, n), NOW)
        (row,) = self.ledger.history.trace(f"1.2.3.{n}").deliveries
        self.ledger.deliveries.choose(row.id, f"2.25.{n}")
        on(self.ledger, NOW).deliveries.delivered(row.id, 0, ask_at=ask_at)
        return int(row.id)

    def step(self, now: float = NOW + 1) -> int:
        """Ask for what is due; return for how many objects that was."""
        before = len(self.archive.asked)
        on(Committer(self.settings, self.ledger, self.archive, linger_s=0), now).step()
        return sum(len(question.objects) for question in self.archive.asked[before:])

    def delivery(self, n: int = 1) -> dict[str, Any]:
        (row,) = self.ledger.history.trace(f"1.2.3.{n}").deliveries
        return as_json(row)

    def stages(self, n: int = 1) -> list[str]:
        return [stage.stage for stage in self.ledger.history.trace(f"1.2.3.{n}").stages]


def all_kept(question: Question) -> CommitmentAnswer:
    return CommitmentAnswer(
        question.transaction_uid, frozenset(uid for _, uid in question.objects), {}
    )


def none_kept(question: Question) -> CommitmentAnswer:
    return CommitmentAnswer(
        question.transaction_uid, frozenset(), {uid: GONE for _, uid in question.objects}
    )


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    if request.param == "sqlite":
        url = fresh(tmp_path)
    else:
        url = str(request.getfixturevalue("postgresql").fresh())
    node = Node(url)
    yield node
    node.ledger.close()


def test_what_was_delivered_is_asked_for_in_one_transaction(node: Node) -> None:
    for n in (1, 2, 3):
        node.deliver(n)
    assert node.step() == 3
    (question,) = node.archive.asked
    assert question.objects == ((SR, "2.25.1"), (SR, "2.25.2"), (SR, "2.25.3"))
    assert question.transaction_uid.startswith("2.25.")
    assert len(question.transaction_uid) <= 64
    assert node.step() == 0


def test_committed_is_told_apart_from_delivered(node: Node) -> None:
    node.deliver(1)
    node.deliver(2, ask_at=0)
    assert node.ledger.history.trace("1.2.3.1").state == "delivered"
    assert on(node.ledger, NOW).history.status().destinations[0].uncommitted == 1
    node.archive.reply = all_kept
    node.step()
    assert node.ledger.history.trace("1.2.3.1").state == "committed"
    assert node.ledger.history.trace("1.2.3.2").state == "delivered"
    assert on(node.ledger, NOW).history.status().deliveries == {"committed": 1, "sent": 1}
    assert node.stages()[-2:] == ["asked", "committed"]
    assert [row.sop_instance_uid for row in node.ledger.history.recent(state="committed")] == [
        "1.2.3.1"
    ]
    assert on(node.ledger, NOW).history.status().destinations == ()


def test_what_is_not_committed_is_sent_again_and_asked_for_again(node: Node) -> None:
    delivery = node.deliver()
    node.archive.reply = none_kept
    node.step()
    row = node.delivery()
    assert (row["state"], row["attempts"]) == ("retrying", 1)
    assert row["reason"] == "archive does not commit: 0x0112 no such object instance"
    assert 0 < row["next_at"] - (NOW + 1) <= 30
    (due,) = on(node.ledger, row["next_at"]).deliveries.due()
    assert due.chosen == "2.25.1"
    on(node.ledger, NOW + 40).deliveries.delivered(delivery, 0, ask_at=NOW + 41)
    node.archive.reply = all_kept
    assert node.step(NOW + 41) == 1
    assert node.delivery()["state"] == "committed"


def test_an_answer_that_says_some_of_each_is_taken_object_by_object(node: Node) -> None:
    for n in (1, 2, 3):
        node.deliver(n)
    node.archive.reply = lambda question: CommitmentAnswer(
        question.transaction_uid, frozenset({"2.25.1"}), {"2.25.2": GONE}
    )
    node.step()
    assert [node.delivery(n)["state"] for n in (1, 2, 3)] == ["committed", "retrying", "sent"]


def test_silence_is_asked_again_ever_more_rarely_without_end(node: Node) -> None:
    node.deliver()
    now, waits = NOW + 1, []
    for _ in range(6):
        assert node.step(now) == 1
        due = node.delivery()["ask_at"]
        assert node.step(due - 1) == 0
        waits.append(due - now)
        now = due
    assert waits == [600, 1200, 2400, 3600, 3600, 3600]
    assert len({question.transaction_uid for question in node.archive.asked}) == 6
    assert node.delivery()["reason"] == "not committed yet: asked 6 times"
    assert node.stages().count("asked") == 1


def test_a_late_answer_to_an_early_question_counts(node: Node) -> None:
    node.deliver()
    node.step(NOW + 1)
    node.step(NOW + 700)
    first, second = node.archive.asked
    assert node.archive.keep(all_kept(first))
    assert node.delivery()["state"] == "committed"
    assert node.archive.keep(none_kept(second))
    assert node.delivery()["state"] == "committed"


def test_the_same_answer_again_changes_nothing(node: Node) -> None:
    delivery = node.deliver()
    node.archive.reply = none_kept
    node.step()
    on(node.ledger, NOW + 40).deliveries.delivered(delivery, 0)
    assert node.archive.keep(none_kept(node.archive.asked[0]))
    assert (node.delivery()["state"], node.delivery()["attempts"]) == ("sent", 1)


def test_a_late_failure_of_an_earlier_attempt_sends_nothing_again(node: Node) -> None:
    delivery = node.deliver()
    node.step(NOW + 1)
    node.archive.reply = none_kept
    node.step(NOW + 700)
    on(node.ledger, NOW + 740).deliveries.delivered(delivery, 0)
    assert node.archive.keep(none_kept(node.archive.asked[0]))
    assert node.delivery()["state"] == "sent"


def test_an_answer_to_nothing_is_known_as_such(node: Node) -> None:
    assert not node.archive.keep(CommitmentAnswer("2.25.404", frozenset({"2.25.1"}), {}))


def test_a_duplicate_transaction_uid_is_a_question_to_repeat_not_an_object_to_resend(
    node: Node,
) -> None:
    node.deliver()
    node.archive.reply = lambda question: CommitmentAnswer(
        question.transaction_uid, frozenset(), {"2.25.1": 0x0131}
    )
    node.step()
    assert node.delivery()["state"] == "sent"
    assert node.step(NOW + 602) == 1


def test_an_open_question_outlives_a_restart(node: Node) -> None:
    node.deliver()
    node.step()
    node.ledger.close()
    node.ledger = Ledger.open(node.url)
    assert keeper(node.ledger, Pace())(all_kept(node.archive.asked[0]))
    assert node.delivery()["state"] == "committed"


def test_a_peer_that_is_away_is_asked_soon_again_and_it_costs_no_question(node: Node) -> None:
    node.deliver()
    node.archive.trouble = Unreachable("ARCHIVE@h:1 refuses connections")
    node.step()
    row = node.delivery()
    assert (row["state"], row["asks"], row["ask_at"]) == ("sent", 0, NOW + 2)
    assert row["reason"] == "ARCHIVE@h:1 refuses connections"
    node.step(NOW + 2)
    assert node.stages().count("uncommitted") == 1
    node.archive.trouble = None
    node.archive.reply = all_kept
    assert node.step(NOW + 40) == 1
    assert (node.delivery()["state"], node.delivery()["reason"]) == ("committed", "")


def test_a_refused_question_is_repeated_later_with_its_reason(node: Node) -> None:
    node.deliver()
    node.archive.refuses = Refused("ARCHIVE@h:1 answers N-ACTION with 0x0213 resource limitation")
    node.step()
    assert node.delivery()["reason"].endswith("0x0213 resource limitation")
    assert node.delivery()["ask_at"] == NOW + 601


def test_a_peer_without_the_option_is_not_asked_any_more(node: Node) -> None:
    node.deliver()
    node.settings = Settings(
        peers={"archive": PEER.model_copy(update={"storage_commitment": False})}
    )
    node.step()
    assert node.archive.asked == []
    assert node.delivery()["state"] == "sent"
    assert node.step(NOW + 1e6) == 0


def test_a_resent_object_is_asked_for_anew(node: Node) -> None:
    delivery = node.deliver()
    node.archive.reply = all_kept
    node.step()
    assert on(node.ledger, NOW + 5).acts.resend("1.2.3.1") == 1
    assert node.step(NOW + 5) == 0
    on(node.ledger, NOW + 6).deliveries.delivered(delivery, 0, ask_at=NOW + 7)
    assert node.step(NOW + 7) == 1
    assert node.delivery()["state"] == "committed"


def test_a_report_that_is_not_committed_to_keeps_its_file(node: Node) -> None:
    node.deliver()
    late = NOW + 10_000

    def purged() -> list[str]:
        return [row.what for row in on(node.ledger, late).purge.purgeable(1e9, 10)]

    assert purged() == []
    node.archive.reply = all_kept
    node.step()
    assert purged() == ["report"]


def test_more_than_fit_one_request_are_asked_for_in_turn(node: Node) -> None:
    for n in range(1, 6):
        node.deliver(n)
    due = on(node.ledger, NOW + 1).commitments.due(limit_per_destination=2)
    assert [one.sop_instance_uid for one in due["archive"]] == ["2.25.1", "2.25.2"]


def test_the_committer_runs_until_it_is_stopped(node: Node) -> None:
    node.deliver(ask_at=time.time())
    node.archive.reply = all_kept
    stop = threading.Event()
    work = Committer(node.settings, node.ledger, node.archive)
    thread = threading.Thread(target=work.loop().run, args=(stop,))
    thread.start()
    end = time.monotonic() + 10
    while node.delivery()["state"] != "committed" and time.monotonic() < end:
        time.sleep(0.05)
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert node.delivery()["state"] == "committed"


def test_a_database_that_is_away_is_waited_out(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object, **__: object) -> None:
        raise Unreachable("the ledger gives no answer")

    monkeypatch.setattr(Database, "reading", away)
    monkeypatch.setattr(Database, "look", away)
    stop = threading.Event()
    work = Committer(node.settings, node.ledger, node.archive)
    thread = threading.Thread(target=work.loop().run, args=(stop,))
    thread.start()
    end = threading.Event()
    while "storage commitment waits" not in caplog.text and not end.wait(0.05):
        assert thread.is_alive()
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_pages_metrics_and_commands_tell_committed_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, sign_in=False) as api:
        for n in (1, 2):
            on(api.ledger, NOW).instances.receive(
                instance(n, study_instance_uid=f"1.2.4.{n}"), [route()]
            )
            ticket = taken(api.ledger)
            post(api.ledger, ticket, result(ticket, n), NOW)
            api.ledger.deliveries.choose(n, f"2.25.{n}")
            on(api.ledger, NOW).deliveries.delivered(n, 0, ask_at=NOW + 1)
        asked = on(api.ledger, NOW + 1).commitments.due()["archive"]
        on(api.ledger, NOW + 1).commitments.ask("2.25.77", asked, lambda _: 600)
        on(api.ledger, NOW + 2).commitments.answer("2.25.77", {"2.25.1"}, {}, lambda _: 30)

        def page(path: str) -> str:
            with urllib.request.urlopen(api.url + path) as answer:
                return str(answer.read().decode())

        first, second = page("/images/1.2.3.1"), page("/images/1.2.3.2")
        assert "Committed" in first
        assert "Committed" not in second
        assert "storage commitment asked for" in second
        assert "1.2.3.1" in page("/?state=committed")
        assert "1.2.3.2" not in page("/?state=committed")
        metrics = page("/metrics")
        assert 'chexfract_deliveries{state="committed"} 1.0' in metrics
        assert 'chexfract_deliveries{state="sent"} 1.0' in metrics
        assert 'chexfract_destination_uncommitted{destination="archive"} 1.0' in metrics
        show.status(api.ledger, limit=5, as_json=False)
        assert "1 sent and not committed" in capsys.readouterr().out
        show.trace(api.settings, api.ledger, "1.2.3.1", as_json=False)
        assert "1.2.3.1: committed" in capsys.readouterr().out
