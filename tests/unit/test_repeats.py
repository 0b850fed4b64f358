"""What comes again under a known UID: duplicates × rules × senders, conflicts, corrections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledgers import NOW, fresh, instance, on, post, reported, result, route, taken
from listening import radiograph
from pydicom import Dataset, dcmread
from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from dicom_node.base.errors import Busy, NotFound
from dicom_node.dimse import Accepted, Sender
from dicom_node.flow.ask_same import LikenessAnswer, compare
from dicom_node.flow.intake import Intake
from dicom_node.flow.repeat import Comparer, adopt
from dicom_node.settings import Peer, Rule, Settings
from dicom_node.store.ledger import Instance, Ledger
from dicom_node.store.ledger.purge import Purgeable
from dicom_node.store.ledger.wanted import Wish
from dicom_node.store.spool import Spool

SECOND = {"calling_ae": "SECOND", "calling_host": "10.0.0.10", "association": "beef0001"}


def again(ledger: Ledger, *routes: object, reason: str = "", **changed: object) -> object:
    return on(ledger, NOW + 1).instances.receive(instance(**changed), list(routes), reason)


def stages(ledger: Ledger, ds: Dataset | None = None) -> list[tuple[str, str]]:
    uid = "1.2.3.1" if ds is None else str(ds.SOPInstanceUID)
    return [(stage.stage, stage.detail) for stage in ledger.history.trace(uid).stages]


def test_an_ignored_instance_gets_its_first_job_when_a_rule_takes_it(ledger: Ledger) -> None:
    assert on(ledger, NOW).instances.receive(instance(), [], "no rule matched").jobs == ()
    assert again(ledger, reason="no rule matched").jobs == ()
    receipt = again(ledger, route())
    assert (receipt.kind, len(receipt.jobs)) == ("duplicate", 1)
    trace = ledger.history.trace("1.2.3.1")
    assert (trace.state, trace.instance.state, trace.instance.reason) == ("received", "routed", "")
    assert again(ledger, route()).jobs == (), "once"
    ticket = taken(ledger, at=NOW + 2)
    assert post(ledger, ticket, result(ticket), NOW + 3)


def test_a_second_sender_gets_the_same_report(ledger: Ledger) -> None:
    reported(ledger, send_to=("first",))
    again(ledger, route(send_to=("second",)), **SECOND)
    again(ledger, route(send_to=("second",)), **SECOND)
    trace = ledger.history.trace("1.2.3.1")
    assert [(d.destination, d.state) for d in trace.deliveries] == [
        ("first", "pending"),
        ("second", "pending"),
    ]
    assert len(trace.jobs) == len(trace.objects) == 1, "one report, one UID"
    (resend,) = [detail for stage, detail in stages(ledger) if stage == "duplicate"]
    assert resend == "same bytes again from SECOND@10.0.0.10, association beef0001"


def test_a_second_sender_that_comes_before_the_report_gets_it_too(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route(send_to=("first",))])
    again(ledger, route(send_to=("second",), objects={"second": ("sr",)}), **SECOND)
    ticket = taken(ledger)
    post(ledger, ticket, result(ticket), NOW + 2)
    trace = ledger.history.trace("1.2.3.1")
    assert {d.destination for d in trace.deliveries} == {"first", "second"}
    assert trace.jobs[0].send_to["first"] == Wish()
    assert trace.jobs[0].send_to["second"].kinds == ("sr",)


def test_the_rule_that_named_a_destination_decides_whether_it_gets_the_report(
    ledger: Ledger,
) -> None:
    reported(ledger, send_to=("first",))
    again(ledger, route(send_to=("second",), rule="trial", mode="shadow"), **SECOND)
    (first, second) = ledger.history.trace("1.2.3.1").deliveries
    assert (first.state, second.state) == ("pending", "withheld")
    assert second.reason == "rule 'trial' is in shadow mode"


def test_results_decide_for_a_second_sender_as_for_the_first(ledger: Ledger) -> None:
    reported(ledger, send_to=("first",))
    when = {"second": ("present",)}
    again(ledger, route(send_to=("second",), when=when), **SECOND)
    assert [d.destination for d in ledger.history.trace("1.2.3.1").deliveries] == ["first"]


def test_another_model_is_for_another_sender_only(ledger: Ledger) -> None:
    reported(ledger, send_to=("first",))
    assert again(ledger, route(model="other", send_to=("first",))).jobs == ()
    assert len(again(ledger, route(model="other", send_to=("second",)), **SECOND).jobs) == 1


@pytest.mark.parametrize("first", [[], [route(model="other", send_to=("first",))]])
def test_a_second_sender_that_is_no_peer_lets_no_report_go_to_the_first(
    ledger: Ledger, first: list[object]
) -> None:
    on(ledger, NOW).instances.receive(instance(), first, "")
    (job,) = again(ledger, route(send_to=("@sender", "archive")), **SECOND).jobs
    (made,) = [one for one in ledger.history.trace("1.2.3.1").jobs if one.job == job]
    assert list(made.send_to) == ["archive"], "@sender would be looked for as the first sender"


def test_a_first_sender_that_is_no_peer_yet_is_waited_for_when_it_sends_again(
    ledger: Ledger,
) -> None:
    on(ledger, NOW).instances.receive(instance(), [], "no rule matched")
    again(ledger, route(send_to=("@sender",)))
    assert list(ledger.history.trace("1.2.3.1").jobs[0].send_to) == ["@sender"]


def test_senders_of_one_instance_are_told_apart_in_bounded_number(ledger: Ledger) -> None:
    reported(ledger)
    for n in range(100):
        again(ledger, route(), calling_ae=f"S{n}", calling_host="10.0.0.10")
    assert sum(stage == "duplicate" for stage, _ in stages(ledger)) == 64


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"patient_id": "PID2"}, "it differs in Patient ID"),
        ({"accession_number": "A2", "study_instance_uid": "1.9"}, "it differs in Study Instance"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.50"}, "it is a lossy copy"),
    ],
)
def test_what_cannot_be_the_same_image_is_a_conflict_at_once(
    ledger: Ledger, changed: dict[str, str], reason: str
) -> None:
    reported(ledger)
    receipt = again(ledger, route(), sha256="f" * 64, file="images/bb/2.dcm", **changed)
    assert receipt.kind == "conflict"
    assert reason in receipt.reason
    assert ledger.history.status().conflicts == 1
    assert again(ledger, route(), sha256="f" * 64, file="x", **changed).file == "images/bb/2.dcm"


def test_other_bytes_wait_to_be_compared_and_are_no_conflict_meanwhile(ledger: Ledger) -> None:
    reported(ledger, send_to=("first",))
    other = {"sha256": "e" * 64, "transfer_syntax_uid": RLELossless, "file": "images/bb/2.dcm"}
    receipt = again(ledger, route(send_to=("second",)), **other, **SECOND)
    assert (receipt.kind, receipt.file) == ("comparing", "images/bb/2.dcm")
    status = ledger.history.status()
    assert (status.conflicts, status.comparing) == (0, 1)
    assert ledger.purge.unnamed(["images/bb/2.dcm", "x"]) == {"x"}
    (likeness,) = ledger.repeats.waiting()
    on(ledger, NOW + 2).repeats.settle_same(likeness, [route(send_to=("second",))])
    trace = ledger.history.trace("1.2.3.1")
    assert {d.destination for d in trace.deliveries} == {"first", "second"}
    assert again(ledger, route(), **other).kind == "duplicate", "it is known now"
    assert ledger.history.status().comparing == 0


def test_what_turns_out_to_be_another_image_is_a_conflict(ledger: Ledger) -> None:
    reported(ledger)
    again(ledger, route(), sha256="e" * 64, file="images/bb/2.dcm", **SECOND)
    (likeness,) = ledger.repeats.waiting()
    on(ledger, NOW + 2).repeats.settle_other(likeness, "has other pixels")
    on(ledger, NOW + 2).repeats.settle_other(likeness, "has other pixels")
    (conflict,) = ledger.history.trace("1.2.3.1").conflicts
    assert conflict.file == "images/bb/2.dcm"
    details = [detail for stage, detail in stages(ledger) if stage == "conflict"]
    assert details == [
        "same SOP Instance UID with other content; kept apart, not analysed: it has other pixels; "
        "from SECOND@10.0.0.10"
    ]


def test_a_correction_is_adopted_with_the_old_report_as_predecessor(ledger: Ledger) -> None:
    first = reported(ledger)
    fixed = {"patient_id": "PID2", "patient_name": "Roe^Ann", "sha256": "f" * 64}
    again(ledger, route(), file="images/bb/2.dcm", **fixed)
    conflict = ledger.acts.kept_apart("1.2.3.1")
    corrected = instance(file="images/bb/2.dcm", **fixed)
    made, replaced = on(ledger, NOW + 5).acts.adopt(conflict.id, corrected, [route()], by="ann")
    assert (len(made), replaced) == (1, "images/aa/1.dcm")
    trace = ledger.history.trace("1.2.3.1")
    assert (trace.instance.patient_id, trace.instance.file) == ("PID2", "images/bb/2.dcm")
    assert trace.conflicts == ()
    ticket = taken(ledger, at=NOW + 6)
    assert ticket.job == made[0] != first.job
    order = on(ledger, NOW + 6).jobs.claim(ticket.job, ticket.token, "w", 60).order
    assert order.generation == 2
    assert order.predecessor.sop_instance_uid == "2.25.1"
    assert [row.sop_instance_uid for row in ledger.history.recent(search="roe")]
    assert not ledger.history.recent(search="doe")
    old = again(ledger, route())
    assert old.kind == "duplicate", "the old content is known and no new conflict"
    assert ledger.history.status().conflicts == 0
    with pytest.raises(NotFound, match="nothing to adopt"):
        ledger.acts.kept_apart("1.2.3.1")


def test_a_correction_that_retention_removes_meanwhile_is_not_adopted(ledger: Ledger) -> None:
    """Found by the simulation: the Instance stood for a file that was gone."""
    reported(ledger)
    again(ledger, route(), file="images/bb/2.dcm", sha256="f" * 64, patient_id="PID2")
    conflict = ledger.acts.kept_apart("1.2.3.1")
    removed = Purgeable("conflict", (str(conflict.id),), conflict.file)
    assert ledger.purge.forget(removed, 60.0, 60.0)
    corrected = instance(file="images/bb/2.dcm", sha256="f" * 64, patient_id="PID2")
    with pytest.raises(NotFound, match="send it again"):
        ledger.acts.adopt(conflict.id, corrected, [route()])
    assert ledger.history.trace("1.2.3.1").instance.file == "images/aa/1.dcm"


def test_a_correction_that_retention_has_removed_can_be_sent_again(ledger: Ledger) -> None:
    reported(ledger)
    fixed = {"sha256": "f" * 64, "patient_id": "PID2"}
    again(ledger, route(), file="images/bb/2.dcm", **fixed)
    conflict = ledger.acts.kept_apart("1.2.3.1")
    removed = Purgeable("conflict", (str(conflict.id),), conflict.file)
    assert ledger.purge.forget(removed, 60.0, 60.0)
    receipt = again(ledger, route(), file="images/cc/3.dcm", **fixed)
    assert (receipt.kind, receipt.file) == ("conflict", "images/cc/3.dcm")
    assert ledger.acts.kept_apart("1.2.3.1").file == "images/cc/3.dcm"
    assert ledger.history.status().conflicts == 1
    made, _ = ledger.acts.adopt(conflict.id, instance(file="images/bb/2.dcm", **fixed), [route()])
    assert len(made) == 1
    assert ledger.history.trace("1.2.3.1").instance.file == "images/cc/3.dcm"


def test_a_correction_waits_for_the_job_that_runs(ledger: Ledger) -> None:
    on(ledger, NOW).instances.receive(instance(), [route()])
    again(ledger, route(), sha256="f" * 64, patient_id="PID2")
    conflict = ledger.acts.kept_apart("1.2.3.1")
    with pytest.raises(Busy, match="wait for its result"):
        ledger.acts.adopt(conflict.id, instance(patient_id="PID2"), [route()])


def test_a_shadow_rules_reports_can_be_released_and_a_drawings_not(ledger: Ledger) -> None:
    reported(ledger, mode="shadow", send_to=("archive",))
    assert ledger.acts.unsent("1.2.3.1") == [
        "sr to archive stays withheld: rule 'frontal' is in shadow mode"
    ]
    assert ledger.acts.release("1.2.3.1", by="ann") == (1, ())
    assert ledger.history.trace("1.2.3.1").deliveries[0].state == "pending"
    assert ledger.acts.release("1.2.3.1") == (0, ())
    on(ledger, NOW).instances.receive(
        instance(2), [route(mode="shadow", allow_demonstration=False)]
    )
    ticket = taken(ledger)
    post(ledger, ticket, result(ticket, 2))
    count, left = ledger.acts.release("1.2.3.2")
    assert count == 0
    assert "a demonstration model wrote it" in left[0]


def test_a_report_that_retention_has_removed_is_not_released(ledger: Ledger) -> None:
    """It would have been tried for ever."""
    reported(ledger, mode="shadow")
    (removed,) = (f for f in on(ledger, NOW + 99).purge.purgeable(9, 9) if f.what == "report")
    assert on(ledger, NOW + 99).purge.forget(removed, 9, 9)
    count, (why,) = ledger.acts.release("1.2.3.1")
    assert (count, why) == (0, "sr to archive: retention has removed its report; replay it")


@pytest.mark.parametrize(("outcome", "state"), [("sent", "settled"), ("given-up", "given up")])
def test_a_person_ends_a_delivery(ledger: Ledger, outcome: str, state: str) -> None:
    reported(ledger, send_to=("archive", "other"))
    for delivery in ledger.history.trace("1.2.3.1").deliveries:
        ledger.deliveries.postpone(delivery.id, "archive answered 0xA900", NOW + 9, status=0xA900)
    assert ledger.acts.settle("1.2.3.1", outcome, "archive", by="ann") == 1  # type: ignore[arg-type]
    trace = ledger.history.trace("1.2.3.1")
    assert [(d.state, d.reason) for d in trace.deliveries] == [
        (state, f"settled as {outcome}, by ann"),
        ("retrying", "archive answered 0xA900"),
    ]
    assert ledger.acts.settle("1.2.3.1", outcome) == 1  # type: ignore[arg-type]
    assert ledger.history.trace("1.2.3.1").state == (
        "delivered" if outcome == "sent" else "reported"
    )
    assert ledger.acts.resend("1.2.3.1") == 2, "it can be sent after all"


# Real files through intake and a real comparison


def station(folder: Path, ledger: Ledger, *, takes: bool = True) -> tuple[Intake, Spool]:
    peers = {
        "first": Peer(ae_title="FIRST", host="10.0.0.1", port=104),
        "second": Peer(ae_title="SECOND", host="10.0.0.2", port=104),
    }
    rules = (Rule(name="all", allow_demonstration=True),) if takes else ()
    spool = Spool(folder / "spool")
    return Intake(Settings(peers=peers, rules=rules), spool, ledger), spool


def send(intake: Intake, ds: object, sender: str = "FIRST") -> object:
    from io import BytesIO

    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    raw = file.getvalue()
    head = 144 + int.from_bytes(raw[140:144], "little")
    accepted = Accepted(
        str(ds.SOPClassUID), str(ds.SOPInstanceUID), str(ds.file_meta.TransferSyntaxUID)
    )
    incoming = intake.begin(accepted)
    incoming.write(raw[head:])
    host = {"FIRST": "10.0.0.1", "SECOND": "10.0.0.2"}[sender]
    return intake.finish(incoming, accepted, Sender(sender, host, "CHEXFRACT"))


def coded(ds: object, folder: Path, syntax: str) -> object:
    path = folder / "one.dcm"
    ds.save_as(path, enforce_file_format=True)
    other = dcmread(path)
    if syntax == RLELossless:
        other.compress(RLELossless)
        other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    else:
        other.file_meta.TransferSyntaxUID = syntax
        other._is_implicit_VR, other._is_little_endian = True, True
    return other


@pytest.mark.parametrize("syntax", [RLELossless, ImplicitVRLittleEndian])
def test_the_same_picture_in_another_coding_is_a_duplicate(
    tmp_path: Path, ledger: Ledger, syntax: str
) -> None:
    intake, spool = station(tmp_path, ledger)
    ds = radiograph()
    send(intake, ds)
    receipt = send(intake, coded(ds, tmp_path, syntax), "SECOND")
    assert receipt.kind == "comparing"
    assert Comparer(intake.settings, spool, ledger).step() == 0.0
    trace = ledger.history.trace(str(ds.SOPInstanceUID))
    assert trace.conflicts == ()
    assert set(trace.jobs[0].send_to) == {"first", "second"}
    assert len(list(spool.root.rglob("*.dcm"))) == 1, "its file is not kept"
    assert send(intake, coded(ds, tmp_path, syntax)).kind == "duplicate"


def test_other_pixels_are_a_conflict_and_can_be_adopted(tmp_path: Path, ledger: Ledger) -> None:
    intake, spool = station(tmp_path, ledger)
    ds = radiograph()
    send(intake, ds)
    uid = str(ds.SOPInstanceUID)
    ds.PixelData = bytes(len(ds.PixelData))
    assert send(intake, ds).kind == "comparing"
    Comparer(intake.settings, spool, ledger).step()
    (conflict,) = ledger.history.trace(uid).conflicts
    assert spool.path(conflict.file).is_file()
    with pytest.raises(Busy):
        adopt(intake.settings, spool, ledger, uid)


def test_where_nothing_can_be_compared_it_is_kept_apart(tmp_path: Path, ledger: Ledger) -> None:
    intake, spool = station(tmp_path, ledger)
    ds = radiograph()
    send(intake, ds)
    send(intake, coded(ds, tmp_path, RLELossless))
    nobody = Comparer(
        intake.settings, spool, ledger, lambda *_: LikenessAnswer(False, text="no worker")
    )
    nobody.step()
    assert ledger.history.status().conflicts == 1


def test_what_is_settled_during_a_comparison_stays_settled(tmp_path: Path, ledger: Ledger) -> None:
    """A node that was stopped for long has lost its turn: another one has compared."""
    intake, spool = station(tmp_path, ledger)
    ds = radiograph()
    send(intake, ds)
    send(intake, coded(ds, tmp_path, RLELossless))
    repeats = ledger.repeats

    def late(first: Path, second: Path) -> LikenessAnswer:
        repeats.settle_other(repeats.waiting()[0], "has other pixels")
        return LikenessAnswer(True, is_same=True)

    assert Comparer(intake.settings, spool, ledger, late).step() == 0.0
    (conflict,) = ledger.history.trace(str(ds.SOPInstanceUID)).conflicts
    assert spool.path(conflict.file).is_file()
    assert "duplicate" not in [stage for stage, _ in stages(ledger, ds)]


def test_a_first_file_that_goes_during_a_comparison_is_named(
    tmp_path: Path, ledger: Ledger
) -> None:
    """Found by the simulation's seed 101943."""
    intake, spool = station(tmp_path, ledger, takes=False)
    ds = radiograph()
    send(intake, ds)
    send(intake, coded(ds, tmp_path, RLELossless))
    uid = str(ds.SOPInstanceUID)
    first = ledger.history.trace(uid).instance.file

    def removed(*_: Path) -> LikenessAnswer:
        assert ledger.purge.forget(Purgeable("image", (uid,), first), 0.0, 0.0)
        return LikenessAnswer(False, text="cannot be compared")

    comparer = Comparer(intake.settings, spool, ledger, removed)
    comparer.step()
    assert ledger.history.trace(uid).conflicts == ()
    comparer.step()
    assert "came after the first file had gone" in stages(ledger, ds)[-1][1]


def test_another_coding_takes_the_place_of_a_file_that_retention_removed(
    tmp_path: Path, ledger: Ledger
) -> None:
    """Found by the simulation's seed 121615: who sent it then got no report."""
    intake, spool = station(tmp_path, ledger, takes=False)
    ds = radiograph()
    send(intake, ds)
    other = coded(ds, tmp_path, RLELossless)
    send(intake, other)
    uid = str(ds.SOPInstanceUID)
    same = Comparer(intake.settings, spool, ledger, lambda *_: LikenessAnswer(True, is_same=True))
    same.step()
    first = ledger.history.trace(uid).instance.file
    assert ledger.purge.forget(Purgeable("image", (uid,), first), 0.0, 0.0)
    spool.remove(first)
    takes, _ = station(tmp_path, ledger)
    receipt = send(takes, other, "SECOND")
    assert (receipt.kind, len(receipt.jobs)) == ("duplicate", 1)
    kept = ledger.history.trace(uid).instance
    assert kept.transfer_syntax_uid == RLELossless
    assert dcmread(spool.path(kept.file)).file_meta.TransferSyntaxUID == RLELossless
    assert spool.digest(kept.file) == kept.sha256
    assert send(takes, ds).kind == "duplicate", "the first coding is still known"
    assert ledger.history.trace(uid).instance.file == kept.file


def test_a_first_file_that_goes_while_the_likeness_is_settled_is_followed_by_the_second(
    tmp_path: Path, ledger: Ledger
) -> None:
    intake, _ = station(tmp_path, ledger, takes=False)
    ds = radiograph()
    send(intake, ds)
    send(intake, coded(ds, tmp_path, RLELossless))
    uid = str(ds.SOPInstanceUID)
    (likeness,) = ledger.repeats.waiting()
    assert ledger.purge.forget(Purgeable("image", (uid,), likeness.first_file), 0.0, 0.0)
    assert ledger.repeats.settle_same(likeness, []) == ((), likeness.file)
    assert ledger.history.trace(uid).instance.file == likeness.file


def test_a_comparison_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    assert compare(tmp_path / "a", tmp_path / "b", within_s=0.01) == LikenessAnswer(
        False, text="cannot be compared on this host: no worker is installed here"
    )


# Any order of senders, rules and contents

SENDERS = {"FIRST": "10.0.0.1", "SECOND": "10.0.0.2", "THIRD": "10.0.0.3"}
CONTENTS = {
    "first": {"sha256": "a" * 64},
    "coded": {"sha256": "b" * 64, "transfer_syntax_uid": RLELossless},
    "pixels": {"sha256": "c" * 64},
    "patient": {"sha256": "d" * 64, "patient_id": "PID2"},
}
RULES = {
    "none": (),
    "sender": ("@sender",),
    "archive": ("archive",),
    "both": ("@sender", "archive"),
    "trial": ("reading",),
}
"""Destinations by rule; that of the trial is in shadow mode."""


class Repetitions(RuleBasedStateMachine):
    """Whoever sends what under whichever rules: one report, to all who are to have it.

    The ledger against a model of it that is a few sets. Contents are the first image, the same in
    another syntax, other pixels, and a corrected patient.
    """

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger.open(fresh(Path(self.folder.name)))
        self.rules = "none"
        self.wanted: set[str] = set()
        self.first: str | None = None
        self.others: set[str] = set()
        self.waiting: dict[str, tuple[str, str]] = {}
        self.known_same: set[str] = set()
        self.replaced: set[str] = set()
        self.adopted = 0
        self.got: dict[str, dict[str, int]] = {}
        self.at = NOW

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            self.folder.cleanup()

    def routes(self, sender: str) -> list[object]:
        names = tuple(sender if n == "@sender" else n for n in RULES[self.rules])
        mode = "shadow" if self.rules == "trial" else "live"
        return [route(send_to=names, rule=self.rules, mode=mode)] if names else []

    @rule(rules=st.sampled_from(sorted(RULES)))
    def change_rules(self, rules: str) -> None:
        self.rules = rules

    @rule(sender=st.sampled_from(sorted(SENDERS)), content=st.sampled_from(sorted(CONTENTS)))
    def send(self, sender: str, content: str) -> None:
        self.at += 1
        made: Instance = instance(
            calling_ae=sender, calling_host=SENDERS[sender], file=f"{content}.dcm"
        )
        made = replace(made, **CONTENTS[content])
        routes = self.routes(sender)
        receipt = on(self.ledger, self.at).instances.receive(made, routes)
        if self.first is None:
            self.first = content
            assert receipt.kind == "new"
        elif content == self.first or content in self.known_same:
            assert receipt.kind == "duplicate"
        elif content in self.replaced:
            # Nobody who sends what was corrected gets the report of the correction.
            assert receipt.kind == "duplicate"
            return
        elif content in self.others:
            assert receipt.kind == "conflict"
            return
        elif content in self.waiting:
            assert receipt.kind == "comparing"
            return
        elif "patient" in (content, self.first):
            assert receipt.kind == "conflict"
            self.others.add(content)
            return
        else:
            assert receipt.kind == "comparing"
            self.waiting[content] = (sender, self.rules)
            return
        self.wanted |= {name for one in routes for name in one.send_to}

    @precondition(lambda self: getattr(self, "waiting", None))
    @rule()
    def compare(self) -> None:
        self.at += 1
        (likeness, *_) = self.ledger.repeats.waiting(limit=1)
        content = likeness.file.removesuffix(".dcm")
        self.waiting.pop(content)
        if {content, self.first} == {"first", "coded"}:
            routes = self.routes(likeness.calling_ae)
            on(self.ledger, self.at).repeats.settle_same(likeness, routes)
            self.known_same.add(content)
            self.wanted |= {name for one in routes for name in one.send_to}
        else:
            on(self.ledger, self.at).repeats.settle_other(likeness, "has other pixels")
            self.others.add(content)

    @rule()
    def report(self) -> None:
        self.at += 1
        for ticket in on(self.ledger, self.at).jobs.hand_out("phantom", 1, self.at + 60):
            on(self.ledger, self.at).jobs.claim(ticket.job, ticket.token, "w", 60)
            generation = len(self.ledger.history.trace("1.2.3.1").jobs)
            assert post(self.ledger, ticket, result(ticket, generation), self.at)

    @precondition(lambda self: getattr(self, "others", None))
    @rule(sender=st.sampled_from(sorted(SENDERS)))
    def adopt(self, sender: str) -> None:
        """Somebody lets what came last stand for the Instance."""
        self.at += 1
        conflict = self.ledger.acts.kept_apart("1.2.3.1")
        content = conflict.file.removesuffix(".dcm")
        assert content in self.others
        corrected = replace(
            instance(calling_ae=sender, calling_host=SENDERS[sender], file=conflict.file),
            **CONTENTS[content],
        )
        routes = self.routes(sender)
        before = self.ledger.history.trace("1.2.3.1").jobs
        if any(job.state != "reported" for job in before):
            with pytest.raises(Busy):
                on(self.ledger, self.at).acts.adopt(conflict.id, corrected, routes)
            return
        made, replaced = on(self.ledger, self.at).acts.adopt(conflict.id, corrected, routes)
        assert replaced == f"{self.first}.dcm"
        assert len(made) == bool(before or routes)
        self.adopted += bool(before)
        self.others.remove(content)
        self.replaced |= {str(self.first), *self.known_same}
        self.known_same.clear()
        self.first = content
        self.wanted |= {name for one in routes for name in one.send_to}

    @rule()
    def release(self) -> None:
        """Somebody lets go what the shadow rule withholds."""
        self.at += 1
        if getattr(self, "first", None) is None:
            return
        held = [d for d in self.ledger.history.trace("1.2.3.1").deliveries if d.state == "withheld"]
        assert on(self.ledger, self.at).acts.release("1.2.3.1") == (len(held), ())

    @rule()
    def deliver(self) -> None:
        """All destinations take what is due."""
        self.at += 1
        for due in on(self.ledger, self.at).deliveries.due():
            assert due.destination in self.wanted
            got = self.got.setdefault(due.job, {})
            got[due.destination] = got.get(due.destination, 0) + 1
            on(self.ledger, self.at).deliveries.delivered(due.id, 0)

    @invariant()
    def one_report_for_all_who_are_to_have_it(self) -> None:
        if getattr(self, "first", None) is None:
            return
        trace = self.ledger.history.trace("1.2.3.1")
        assert len(trace.jobs) == (1 + self.adopted if self.wanted else 0)
        assert trace.instance.file == f"{self.first}.dcm"
        assert (trace.instance.state == "ignored") is (not self.wanted)
        status = self.ledger.history.status()
        assert status.conflicts == len(self.others)
        assert status.comparing == len(self.waiting)
        if not trace.jobs:
            return
        job = max(trace.jobs, key=lambda one: one.generation)
        assert set(job.send_to) == self.wanted, "nobody is lost by a correction"
        sent = [d.destination for d in trace.deliveries if d.job == job.job]
        if job.state == "reported":
            assert sorted(sent) == sorted(self.wanted), "each once"
        uids = {(one.job, one.sop_instance_uid) for one in trace.objects}
        assert len(uids) == len({uid for _, uid in uids}), "one UID for each report"
        assert len(uids) == sum(one.state == "reported" for one in trace.jobs)
        assert all(count == 1 for got in self.got.values() for count in got.values())
        for one in trace.deliveries:
            assert one.destination in self.wanted
            if one.state == "withheld":
                assert one.destination == "reading"


TestRepetitions = Repetitions.TestCase
TestRepetitions.settings = settings(
    max_examples=25,
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
