"""One SR is made and kept; whoever takes another class gets it recast, under one UID for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pytest
import reports
from ledgers import fresh, on
from pydicom import dcmread
from pydicom.dataset import Dataset
from results import VARIANTS, add_result

from dicom_node.base.errors import Unreachable
from dicom_node.flow.deliver import Deliverer, Pace
from dicom_node.settings import Peer, Settings
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.store.catalogue import Catalogue
from dicom_node.store.ledger import Ledger
from dicom_node.store.schema import jobs, makers
from dicom_node.store.spool import Spool
from worker.report.sr import build_each

AT_ONCE = Pace(refused=(0.0, 0.0), silent=(0.0, 0.0), gather=0.0)


class Archive:
    """A destination that takes some SR classes; it keeps what it got, and may lose its answer."""

    def __init__(self, *names: str) -> None:
        self.takes = {SR_CLASSES[name] for name in names}
        self.got: list[bytes] = []
        self.loses = 0

    def __call__(self, peer: Peer) -> Archive:
        return self

    def connect(self, sop_classes: Sequence[str]) -> None:
        assert self.takes <= set(sop_classes)

    def accepts(self, sop_class_uid: str) -> bool:
        return sop_class_uid in self.takes

    def store(self, content: Path | bytes) -> int:
        self.got.append(content.read_bytes() if isinstance(content, Path) else content)
        if self.loses:
            self.loses -= 1
            raise Unreachable("the association was aborted")
        return 0x0111 if len(self.got) > 1 else 0

    def close(self) -> None: ...


class House:
    """A ledger and a spool with one report, made as some classes."""

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        self.spool = Spool(folder / "spool")
        self.ledger = Ledger.open(fresh(folder))
        self.made = add_result(self.ledger, self.spool, classes=classes, seconds=())
        self.source = dcmread(next((folder / "spool").rglob("images/*/*.dcm")))
        order = self.ledger.history.trace(self.source.SOPInstanceUID).jobs[0].report_order
        about = (self.source, reports.CASES["fracture"], reports.ALGORITHM, order)
        self.each = dict(zip(VARIANTS, build_each(*about, VARIANTS), strict=True))

    def deliver(self, archive: Archive, times: int = 1) -> None:
        peers = {"modality": Peer(ae_title="ARCHIVE", host="h", port=1)}
        settings = Settings(peers=peers)
        for _ in range(times):
            Deliverer(settings, self.spool, self.ledger, archive, AT_ONCE).step()

    @property
    def files(self) -> int:
        return len(list(self.spool.root.rglob("reports/*/*.dcm")))


@pytest.fixture(params=[("comprehensive3d",), VARIANTS], ids=["one kept", "three kept"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path, request.param)
    yield made
    made.ledger.close()


@pytest.mark.parametrize("name", VARIANTS)
def test_an_archive_gets_the_class_it_takes_as_if_it_had_been_built_so(
    house: House, name: str
) -> None:
    archive = Archive(name)
    house.deliver(archive)
    assert archive.got == [house.each[name].content]
    trace = house.ledger.history.trace(house.each[name].sop_instance_uid)
    assert (trace.sop_instance_uid, trace.state) == (house.source.SOPInstanceUID, "delivered")
    assert trace.deliveries[0].sop_instance_uid == house.each[name].sop_instance_uid
    assert house.files == len(house.made)


def test_every_attempt_sends_the_same_bytes_until_the_archive_answers(house: House) -> None:
    """An archive that took the first attempt must see a repetition, not a second report."""
    archive = Archive("enhanced")
    archive.loses = 3
    house.deliver(archive, 3)
    archive.takes |= set(SR_CLASSES.values())
    house.deliver(archive)
    assert archive.got == [house.each["enhanced"].content] * 4
    assert house.ledger.history.trace(house.source.SOPInstanceUID).state == "delivered"
    house.ledger.acts.resend(house.source.SOPInstanceUID)
    house.deliver(archive)
    assert archive.got == [house.each["enhanced"].content] * 5


def test_what_an_archive_took_is_what_the_catalogue_shows_and_gives(house: House) -> None:
    house.deliver(Archive("enhanced"))
    sent = house.each["enhanced"]
    catalogue = Catalogue(house.ledger, house.spool)
    keys = Dataset()
    keys.StudyInstanceUID = house.source.StudyInstanceUID
    (stored,) = catalogue.objects("STUDY", keys)
    assert (stored.sop_class_uid, stored.sop_instance_uid) == (
        sent.sop_class_uid,
        sent.sop_instance_uid,
    )
    with stored.open() as file:
        assert file.read() == sent.content
    (found,) = catalogue.find("IMAGE", keys)
    assert (found.SOPClassUID, found.SOPInstanceUID) == (sent.sop_class_uid, sent.sop_instance_uid)
    for name in VARIANTS:
        given = catalogue.give_out(stored, [SR_CLASSES[name]])
        assert given is not None
        with given.open() as file:
            assert file.read() == house.each[name].content
        trace = house.ledger.history.trace(house.each[name].sop_instance_uid)
        assert trace.sop_instance_uid == house.source.SOPInstanceUID
    assert [one.sop_instance_uid for one in catalogue.objects("STUDY", keys)] == [
        sent.sop_instance_uid
    ]


def test_the_next_report_names_the_variant_that_archives_have(house: House) -> None:
    house.deliver(Archive("enhanced"))
    house.ledger.acts.replay(house.source.SOPInstanceUID)
    order = house.ledger.history.trace(house.source.SOPInstanceUID).jobs[-1].report_order
    assert order.predecessor is not None
    assert order.predecessor.sop_class_uid == SR_CLASSES["enhanced"]
    assert order.predecessor.sop_instance_uid == house.each["enhanced"].sop_instance_uid
    assert order.sop_classes == ("comprehensive3d",)


def test_retention_removes_the_file_and_every_row_that_names_it(house: House) -> None:
    house.deliver(Archive("enhanced"))
    purge = on(house.ledger, time.time() + 100).purge
    for item in purge.purgeable(0.0, 0.0):
        if item.what == "report" and purge.forget(item, 0.0, 0.0):
            house.spool.remove(item.file)
    assert house.files == 0
    rows = house.ledger.history.trace(house.source.SOPInstanceUID).objects
    assert {row.file for row in rows} == {""}


def test_a_report_of_which_the_options_are_not_known_has_one_uid_in_each_class(
    tmp_path: Path,
) -> None:
    """Workers of 0.1.0 do not say of which options they made a UID."""
    house = House(tmp_path, ("comprehensive3d",))
    with house.ledger.database.writing() as connection:
        connection.execute(jobs.update().values(maker_id=None, result="{}"))
        connection.execute(makers.delete())
    archive = Archive("enhanced")
    archive.loses = 1
    house.deliver(archive, 2)
    first, second = (dcmread(BytesIO(content)) for content in archive.got)
    assert first == second
    assert first.SOPClassUID == SR_CLASSES["enhanced"]
    assert first.SOPInstanceUID not in {one.sop_instance_uid for one in house.each.values()}
    house.ledger.close()
