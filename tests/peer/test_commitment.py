"""Storage commitment with real peers: Orthanc, and archives that answer in every other way."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ledgers import on
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, association, build_role, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)
from results import add_result
from stations import NodeProcess, Orthanc, free_ports, wait_for

from dicom_node.base.errors import Unreachable
from dicom_node.dimse import CommitmentAnswer, Question
from dicom_node.dimse.commitment import CommitmentAssociation, Reports
from dicom_node.dimse.contexts import REPORTS
from dicom_node.dimse.scp import Listener
from dicom_node.dimse.scu import Destination
from dicom_node.flow.commit import Committer, keeper
from dicom_node.flow.deliver import Deliverer, Pace
from dicom_node.flow.intake import Intake
from dicom_node.operate import neighbours
from dicom_node.peers import same_host
from dicom_node.settings import Peer, Settings
from dicom_node.store.ledger import Ledger, as_json
from dicom_node.store.spool import Spool

pytestmark = pytest.mark.peer

PACE = Pace(refused=(0.05, 0.05), gather=0.0)


@dataclass
class Node:
    """Listener, deliverer and committer on one ledger, in this process."""

    settings: Settings
    spool: Spool
    ledger: Ledger
    listener: Listener

    def report(self) -> str:
        """Make a report and return the UID of what is sent of it."""
        return add_result(self.ledger, self.spool, seconds=())[0].sop_instance_uid

    def deliver(self) -> None:
        to = self.settings.node.ae_title
        Deliverer(
            self.settings, self.spool, self.ledger, lambda peer: Destination(to, peer), PACE
        ).step()

    def ask(self, linger_s: float = 0.0, after_s: float = 0.0) -> int:
        keep = keeper(self.ledger, PACE)
        name = self.settings.node.ae_title

        def line(peer: Peer) -> CommitmentAssociation:
            by = same_host(self.settings.peers, peer.host)
            return CommitmentAssociation(name, peer, keep, by)

        work = Committer(self.settings, self.ledger, line, PACE, linger_s)
        late = on(work, time.time() + after_s)
        count = sum(map(len, on(self.ledger, time.time() + after_s).commitments.due().values()))
        late.step()
        return count

    def delivery(self, uid: str) -> dict[str, Any]:
        (row,) = self.ledger.history.trace(uid).deliveries
        return dict(as_json(row))

    def becomes(self, state: str, uid: str, limit_s: float = 20) -> None:
        wait_for(state, lambda: self.delivery(uid)["state"] == state, limit_s)


@contextmanager
def running(folder: Path, archive: Peer, port: int = 0) -> Iterator[Node]:
    settings = Settings(
        node={"host": "127.0.0.1", "port": port, "data_dir": folder},
        peers={"modality": archive.model_copy(update={"storage_commitment": True})}
        | {"other": Peer(ae_title="OTHER", host="127.0.0.1", port=1)},
    )
    spool = Spool(folder / "spool")
    Ledger.upgrade(settings.ledger_url)
    ledger = Ledger.open(settings.ledger_url)
    reports = Reports(keeper(ledger, PACE))
    listener = Listener(settings, Intake(settings, spool, ledger), commitments=reports)
    listener.start()
    try:
        yield Node(settings, spool, ledger, listener)
    finally:
        listener.stop()
        ledger.close()


def references(uids: Sequence[str], reason: int | None = None) -> list[Dataset]:
    items = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = next(iter(REPORTS)), uid
        if reason is not None:
            item.FailureReason = reason
        items.append(item)
    return items


class Archive:
    """An archive whose commitment is as the test wants it.

    ``answers``: on the ``same`` association, ``early`` (before the response to N-ACTION), on a
    ``new`` one, or ``never``.
    """

    def __init__(self, answers: str = "same", offers: bool = True) -> None:
        self.answers = answers
        self.status = 0x0000
        self.has: set[str] = set()
        self.stored = 0
        self.asked: list[Dataset] = []
        self.calls: int | None = None
        self.said: list[int] = []
        ae = AE("ARCHIVE")
        for uid in REPORTS:
            ae.add_supported_context(uid)
        ae.add_supported_context(Verification)
        if offers:
            ae.add_supported_context(StorageCommitmentPushModel)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        port = self._server.server_address[1]
        self.peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout=5)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.ae.shutdown()

    def _store(self, event: evt.Event) -> int:
        self.has.add(str(event.request.AffectedSOPInstanceUID))
        self.stored += 1
        return 0x0000

    def _action(self, event: evt.Event) -> tuple[int, None]:
        asked = event.action_information
        self.asked.append(asked)
        if self.status == 0:
            report = self.answer_to(asked)
            if self.answers == "early":
                self._say(event.assoc, *report)
            elif self.answers == "same":
                threading.Timer(0.2, self._say, (event.assoc, *report)).start()
            elif self.answers == "new":
                threading.Timer(0.2, self.call_back, report).start()
        return self.status, None

    def answer_to(self, asked: Dataset) -> tuple[Dataset, int]:
        """Return the Event Information, and the type of event, as things are now."""
        uids = [str(item.ReferencedSOPInstanceUID) for item in asked.ReferencedSOPSequence]
        report = Dataset()
        report.TransactionUID = asked.TransactionUID
        lacks = [uid for uid in uids if uid not in self.has]
        if kept := [uid for uid in uids if uid in self.has]:
            report.ReferencedSOPSequence = references(kept)
        if lacks:
            report.FailedSOPSequence = references(lacks, 0x0112)
        return report, 2 if lacks else 1

    def call_back(self, report: Dataset, event_type: int, *, roles: bool = True) -> int | None:
        """Report on an association of its own; return the status of the node."""
        assert self.calls is not None
        return call(self.calls, report, event_type, roles=roles)

    def _say(self, assoc: Any, report: Dataset, event_type: int) -> None:
        status, _ = assoc.send_n_event_report(
            report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        self.said.append(status.get("Status", -1))


def call(
    port: int,
    report: Dataset,
    event_type: int,
    *,
    roles: bool = True,
    calling: str = "ARCHIVE",
    address: str = "127.0.0.1",
) -> int | None:
    """Report as the SCP that opens an association; None when the context is not accepted."""
    ae = AE(calling)
    ae.add_requested_context(StorageCommitmentPushModel)
    ext = [build_role(StorageCommitmentPushModel, scp_role=True)] if roles else []
    assoc = ae.associate(
        "127.0.0.1", port, ae_title="CHEXFRACT", ext_neg=ext, bind_address=(address, 0)
    )
    if not assoc.is_established:
        assert assoc.rejected_contexts
        return None
    # Without role selection pynetdicom takes the requestor for the SCU; some archives do not.
    for context in assoc.accepted_contexts:
        context._as_scp = True
    status, _ = assoc.send_n_event_report(
        report, event_type, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    assoc.release()
    return int(status.Status)


@pytest.mark.parametrize("answers", ["same", "early", "new"])
def test_a_report_is_committed_however_the_answer_comes(tmp_path: Path, answers: str) -> None:
    with Archive(answers) as archive, running(tmp_path, archive.peer) as node:
        archive.calls = node.listener.port
        uid = node.report()
        node.deliver()
        assert node.delivery(uid)["state"] == "sent"
        assert node.ask(linger_s=3 if answers == "same" else 0) == 1
        node.becomes("committed", uid)
        assert node.ledger.history.trace(uid).state == "committed"
        (asked,) = archive.asked
        assert [item.ReferencedSOPInstanceUID for item in asked.ReferencedSOPSequence] == [uid]
        if answers != "new":
            wait_for("the response", lambda: archive.said == [0x0000], 5)


def test_the_association_is_released_as_soon_as_the_answer_is_there(tmp_path: Path) -> None:
    with Archive("same") as archive, running(tmp_path, archive.peer) as node:
        node.report()
        node.deliver()
        started = time.monotonic()
        node.ask(linger_s=30)
        assert time.monotonic() - started < 10


def test_an_answer_without_role_selection_is_taken_too(tmp_path: Path) -> None:
    with Archive("never") as archive, running(tmp_path, archive.peer) as node:
        archive.calls = node.listener.port
        uid = node.report()
        node.deliver()
        node.ask()
        assert archive.call_back(*archive.answer_to(archive.asked[0]), roles=False) == 0x0000
        assert node.delivery(uid)["state"] == "committed"


def test_what_the_archive_lost_is_sent_again_and_then_committed(tmp_path: Path) -> None:
    with Archive("same") as archive, running(tmp_path, archive.peer) as node:
        kept, lost = node.report(), node.report()
        node.deliver()
        archive.has.remove(lost)
        node.ask(linger_s=3)
        node.becomes("retrying", lost)
        assert node.delivery(kept)["state"] == "committed"
        assert node.delivery(lost)["reason"].endswith("0x0112 no such object instance")
        time.sleep(0.1)
        node.deliver()
        assert archive.stored == 3
        node.ask(linger_s=3)
        node.becomes("committed", lost)


def test_an_archive_that_never_answers_is_asked_again(tmp_path: Path) -> None:
    with Archive("never") as archive, running(tmp_path, archive.peer) as node:
        uid = node.report()
        node.deliver()
        assert node.ask() == 1
        assert node.ask() == 0
        archive.answers = "same"
        assert node.ask(linger_s=3, after_s=601) == 1
        node.becomes("committed", uid)
        assert len({str(asked.TransactionUID) for asked in archive.asked}) == 2


def test_an_answer_counts_after_a_restart_of_the_node(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with Archive("never") as archive:
        archive.calls = port
        with running(tmp_path, archive.peer, port) as node:
            uid = node.report()
            node.deliver()
            node.ask()
        with running(tmp_path, archive.peer, port) as node:
            assert archive.call_back(*archive.answer_to(archive.asked[0])) == 0x0000
            assert node.delivery(uid)["state"] == "committed"


def test_an_archive_that_refuses_to_be_asked_is_told_with_its_status(tmp_path: Path) -> None:
    with Archive() as archive, running(tmp_path, archive.peer) as node:
        uid = node.report()
        node.deliver()
        archive.status = 0x0213
        node.ask()
        assert "answers N-ACTION with 0x0213 resource limitation" in node.delivery(uid)["reason"]
        assert node.delivery(uid)["state"] == "sent"


def test_an_archive_that_offers_no_commitment_is_told_so(tmp_path: Path) -> None:
    with Archive(offers=False) as archive, running(tmp_path, archive.peer) as node:
        uid = node.report()
        node.deliver()
        node.ask()
        assert node.delivery(uid)["reason"].endswith("offers no Storage Commitment")
        assert node.delivery(uid)["state"] == "sent"


def test_an_archive_that_is_away_is_asked_when_it_is_back(tmp_path: Path) -> None:
    with Archive("same") as archive, running(tmp_path, archive.peer) as node:
        uid = node.report()
        node.deliver()
        away = archive.peer.model_copy(update={"port": 1, "storage_commitment": True})
        node.settings = node.settings.model_copy(update={"peers": {"modality": away}})
        node.ask()
        assert "refuses connections" in node.delivery(uid)["reason"]
        here = archive.peer.model_copy(update={"storage_commitment": True})
        node.settings = node.settings.model_copy(update={"peers": {"modality": here}})
        assert node.ask(linger_s=3, after_s=2) == 1
        node.becomes("committed", uid)


@pytest.mark.parametrize("offers", [True, False])
def test_doctor_says_whether_an_archive_offers_commitment(tmp_path: Path, offers: bool) -> None:
    with Archive(offers=offers) as archive, running(tmp_path, archive.peer) as node:
        checks = list(neighbours.peer(node.settings, "modality"))
        named = [check.what for check in checks if "Storage Commitment" in check.what]
        assert bool(named) is not offers


# The listener


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    archive = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=1)
    with running(tmp_path_factory.mktemp("node"), archive) as found:
        yield found


def report_of(transaction: str = "2.25.404") -> Dataset:
    answer = Dataset()
    answer.TransactionUID = transaction
    answer.ReferencedSOPSequence = references(["1.2.3"])
    return answer


def test_an_answer_that_nobody_asked_for_is_0x0115(node: Node) -> None:
    assert call(node.listener.port, report_of(), 1) == 0x0115


def test_an_answer_without_transaction_is_0x0115(node: Node) -> None:
    empty = Dataset()
    empty.ReferencedSOPSequence = references(["1.2.3"])
    assert call(node.listener.port, empty, 1) == 0x0115


@pytest.mark.parametrize("missing", [1, 30, 60])
def test_an_answer_that_is_cut_off_is_0x0115(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """What is left of it would commit to fewer objects than the archive did, or to none."""
    whole = association.encode
    with Archive("never") as archive, running(tmp_path, archive.peer) as node:
        uid = node.report()
        node.deliver()
        node.ask()
        (asked,) = archive.asked
        answer, event = archive.answer_to(asked)
        with monkeypatch.context() as patch:
            cut = lambda *given: (whole(*given) or b"")[:-missing]  # noqa: E731
            patch.setattr(association, "encode", cut)
            assert call(node.listener.port, answer, event) == 0x0115
        assert node.delivery(uid)["state"] == "sent"
        assert call(node.listener.port, answer, event) == 0x0000
        assert node.delivery(uid)["state"] == "committed"


def test_an_unknown_event_is_0x0113(node: Node) -> None:
    assert call(node.listener.port, report_of(), 7) == 0x0113


def test_an_answer_that_cannot_be_kept_is_to_be_repeated(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(answer: object) -> bool:
        raise Unreachable("the ledger gives no answer")

    monkeypatch.setattr(node.listener._commitments, "_on_answer", away)
    assert call(node.listener.port, report_of(), 1) == 0x0110


def test_another_peers_question_is_not_answered(tmp_path: Path) -> None:
    """Nothing may be believed safe because of who was not asked."""
    with Archive("never") as archive, running(tmp_path, archive.peer) as node:
        rogue = {"ae_title": "ROGUE", "host": "127.0.0.2", "port": 104, "storage_commitment": True}
        twin = {"ae_title": "TWIN", "host": "127.0.0.1", "port": 104, "storage_commitment": True}
        peers = {"rogue": Peer(**rogue), "twin": Peer(**twin)}
        changed = node.settings.model_copy(update={"peers": node.settings.peers | peers})
        node.listener.take(changed)
        uid = node.report()
        node.deliver()
        node.ask()
        answer, event = archive.answer_to(archive.asked[0])
        port = node.listener.port
        assert call(port, answer, event, calling="ROGUE", address="127.0.0.2") == 0x0115
        assert node.delivery(uid)["state"] == "sent"
        # one archive may have several AE titles
        assert call(port, answer, event, calling="TWIN") == 0x0000
        assert node.delivery(uid)["state"] == "committed"


def test_a_host_that_calls_from_another_of_its_addresses_may_answer(tmp_path: Path) -> None:
    """A cluster, or behind NAT: its `addresses` say so, whatever the title that calls."""
    with Archive("never") as archive, running(tmp_path, archive.peer) as node:
        uid = node.report()
        node.deliver()
        node.ask()
        cluster = {"addresses": ["127.0.0.1", "127.0.0.2"]}
        caller = Peer(ae_title="STGCMT", host="127.0.0.2", port=104, storage_commitment=True)
        own = node.settings.peers["modality"].model_copy(update=cluster)
        peers = {"modality": own, "stgcmt": caller}
        node.listener.take(node.settings.model_copy(update={"peers": peers}))
        answer, event = archive.answer_to(archive.asked[0])
        port = node.listener.port
        assert call(port, answer, event, calling="STGCMT", address="127.0.0.2") == 0x0000
        assert node.delivery(uid)["state"] == "committed"


def test_who_was_asked_on_an_association_is_who_answers_on_it() -> None:
    heard: list[CommitmentAnswer] = []

    def keep(answer: CommitmentAnswer) -> bool:
        heard.append(answer)
        return True

    with Archive("same") as archive:
        by = same_host({"archive": archive.peer}, archive.peer.host)
        with CommitmentAssociation("CHEXFRACT", archive.peer, keep, by) as line:
            line.connect()
            line.ask(Question("1.2.3", ((next(iter(REPORTS)), "1.2.3.4"),)))
            assert line.wait(60)
    assert [answer.by for answer in heard] == [{"archive"}]


def test_only_peers_that_are_asked_may_answer(node: Node) -> None:
    assert call(node.listener.port, report_of(), 1, calling="OTHER") is None


def test_the_node_commits_to_nothing_itself(node: Node) -> None:
    ae = AE("ARCHIVE")
    ae.add_requested_context(StorageCommitmentPushModel)
    both = [build_role(StorageCommitmentPushModel, scu_role=True, scp_role=True)]
    assoc = ae.associate("127.0.0.1", node.listener.port, ae_title="CHEXFRACT", ext_neg=both)
    (context,) = assoc.accepted_contexts
    assert context.as_scp
    assert not context.as_scu
    context._as_scu = True
    status, _ = assoc.send_n_action(
        report_of(), 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    )
    assert status.get("Status", 0x0110) != 0x0000
    assoc.abort()


# Orthanc


def test_orthanc_commits_on_an_association_of_its_own(archive: Orthanc, tmp_path: Path) -> None:
    with running(tmp_path, archive.peer, archive.node_port) as node:
        uids = [node.report() for _ in range(3)]
        node.deliver()
        assert node.ask() == 3
        for uid in uids:
            node.becomes("committed", uid)


def test_what_orthanc_no_longer_has_is_sent_again_and_committed(
    archive: Orthanc, tmp_path: Path
) -> None:
    with running(tmp_path, archive.peer, archive.node_port) as node:
        uid = node.report()
        node.deliver()
        found = archive.post("/tools/lookup", uid.encode())
        (kept,) = [one["ID"] for one in found if one["Type"] == "Instance"]
        archive.delete(f"/instances/{kept}")
        node.ask()
        node.becomes("retrying", uid)
        assert "0x0112" in node.delivery(uid)["reason"]
        time.sleep(0.1)
        node.deliver()
        node.ask()
        node.becomes("committed", uid)
        assert archive.post("/tools/lookup", uid.encode())
        stages = [stage.stage for stage in node.ledger.history.trace(uid).stages]
        assert stages[-5:] == ["asked", "retrying", "sent", "asked", "committed"]


COMMITTING = """
[peers.archive]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {archive}
storage_commitment = true

[peers.modality]
ae_title = "XRAY1"
host = "127.0.0.1"
port = 1

[[rules]]
name = "radiographs"
match.modality = ["CR", "DX"]
send_to = ["archive"]
allow_demonstration = true
"""


def test_a_served_node_brings_its_reports_to_commitment(tmp_path: Path) -> None:
    drawn = [sys.executable, "-m", "worker", "phantom", "draw", "--out", str(tmp_path / "drawn")]
    subprocess.run([*drawn, "--count", "1", "--seed", "7"], check=True, capture_output=True)
    node = NodeProcess(tmp_path / "node", "")
    archive = Orthanc(tmp_path / "orthanc", node.port)
    node.config.write_text(node.config.read_text() + COMMITTING.format(archive=archive.port))
    (image,) = (tmp_path / "drawn").glob("*.dcm")
    uid = str(dcmread(image).SOPInstanceUID)
    try:
        archive.start()
        node.start()
        assert node.send(image) == [0]
        wait_for("commitment", lambda: node.state(uid) == "committed", 90)
        stages = [stage["stage"] for stage in node.trace(uid)["stages"]]
        assert stages.index("sent") < stages.index("asked") < stages.index("committed")
        assert "1 committed" in node.run("status").stdout
    finally:
        node.stop()
        archive.stop()
