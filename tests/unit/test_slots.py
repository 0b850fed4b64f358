"""Peers find an association, whoever else holds idle ones or says nothing at all."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from listening import listening
from pynetdicom import AE
from pynetdicom.association import Association

from dicom_node.dimse.slot_table import SlotTable
from dicom_node.dimse.slots import ALL_TAKEN, OF_PEER, OF_STRANGERS, Holder, Slots

VERIFICATION = "1.2.840.10008.1.1"


class Desk:
    """Slots whose associations are numbers."""

    def __init__(self) -> None:
        self.silent: dict[int, float] = {}
        self.ended: list[int] = []
        self.count = 0
        self.slots = Slots[int](
            lambda one: one not in self.ended,
            lambda one: self.silent.get(one, 0.0),
            lambda one, why: self.ended.append(one),
        )

    def take(
        self, title: str, address: str = "10.0.0.1", is_peer: bool = True, most: int = 8
    ) -> str:
        self.count += 1
        return self.slots.take(self.count, Holder(title, address, is_peer), most, 4)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_quarter_is_kept_for_peers(desk: Desk) -> None:
    answers = [desk.take(f"S{n}", f"10.0.1.{n}", is_peer=False) for n in range(8)]
    assert answers == [""] * 6 + [OF_STRANGERS] * 2
    assert [desk.take("MODALITY") for _ in range(2)] == ["", ""]


@pytest.mark.parametrize("changing", ["title", "address"])
def test_strangers_are_limited_by_address_and_by_title(desk: Desk, changing: str) -> None:
    answers = [
        desk.take("S", f"10.0.1.{n}", is_peer=False, most=100)
        if changing == "address"
        else desk.take(f"S{n}", "10.0.1.1", is_peer=False, most=100)
        for n in range(6)
    ]
    assert answers == [""] * 4 + [OF_PEER] * 2


def test_idle_strangers_give_way_to_a_peer(desk: Desk) -> None:
    for n in range(6):
        desk.take(f"S{n}", f"10.0.1.{n}", is_peer=False)
    desk.silent = {1: 3.0, 2: 9.0, 3: 0.5}
    assert [desk.take("MODALITY") for _ in range(4)] == [""] * 4
    assert desk.ended == [2, 1], "the longest idle first"
    assert desk.take("OTHER") == ALL_TAKEN, "nobody else is idle"


def test_the_peer_with_the_most_idle_ones_gives_way(desk: Desk) -> None:
    for n in range(8):
        desk.take("GREEDY" if n < 4 else f"P{n}")
    assert desk.take("MODALITY") == ALL_TAKEN, "it works"
    desk.silent = dict.fromkeys(range(1, 9), 6.0)
    assert desk.take("MODALITY") == ""
    assert desk.ended == [1]


def test_a_peer_does_not_take_the_only_association_of_another(desk: Desk) -> None:
    for n in range(8):
        desk.take(f"P{n}")
    desk.silent = dict.fromkeys(range(1, 9), 60.0)
    assert desk.take("P0") == ALL_TAKEN
    assert desk.ended == []


def test_a_peer_at_its_limit_gives_up_its_own_idle_one(desk: Desk) -> None:
    for _ in range(4):
        assert desk.take("MODALITY") == ""
    assert desk.take("MODALITY") == OF_PEER
    desk.silent = {2: 6.0}
    assert desk.take("MODALITY") == ""
    assert desk.ended == [2]


def test_a_stranger_never_makes_anybody_give_way(desk: Desk) -> None:
    for n in range(8):
        desk.take(f"P{n}")
    desk.silent = dict.fromkeys(range(1, 9), 60.0)
    assert desk.take("S", "10.0.1.1", is_peer=False) == ALL_TAKEN
    assert desk.ended == []


@pytest.fixture
def shared() -> Iterator[int]:
    """The descriptor of a file that listeners share."""
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def desks(shared: int, count: int = 2) -> list[Desk]:
    """Return the slots of several listeners."""
    found = []
    for number in range(count):
        desk = Desk()
        desk.count = 100 * number
        desk.slots = Slots[int](
            lambda one, ended=desk.ended: one not in ended,
            lambda one, silent=desk.silent: silent.get(one, 0.0),
            lambda one, why, ended=desk.ended: ended.append(one),
            SlotTable(shared, number, count),
        )
        found.append(desk)
    return found


def test_one_peer_is_counted_across_listeners(shared: int) -> None:
    first, second = desks(shared)
    assert [desk.take("MODALITY") for desk in (first, second, first, second)] == [""] * 4
    assert [desk.take("MODALITY") for desk in (first, second)] == [OF_PEER] * 2
    assert first.take("OTHER") == ""
    first.ended.append(1)
    assert second.take("MODALITY") == OF_PEER, "nobody has said yet that it ended"
    first.slots.exchange()
    assert second.take("MODALITY") == ""


def test_an_idle_association_of_another_listener_gives_way(shared: int) -> None:
    first, second = desks(shared)
    for desk in (first, second, first, second):
        assert desk.take("MODALITY") == ""
    first.silent[1] = 9.0
    first.slots.exchange()
    assert second.take("MODALITY") == ""
    assert first.ended == [], "its owner ends it"
    assert second.take("MODALITY") == OF_PEER, "it gives way once"
    first.slots.exchange()
    assert first.ended == [1]


def test_an_association_that_works_again_does_not_give_way(shared: int) -> None:
    first, second = desks(shared)
    for desk in (first, second, first, second):
        assert desk.take("MODALITY") == ""
    first.silent[1] = 9.0
    first.slots.exchange()
    assert second.take("MODALITY") == ""
    first.silent[1] = 0.0
    first.slots.exchange()
    assert first.ended == []
    assert second.take("MODALITY") == OF_PEER


def test_a_listener_that_starts_again_holds_nothing(shared: int) -> None:
    tables = [SlotTable(shared, number, 2) for number in range(2)]
    tables[0].publish([(1, "MODALITY", "10.0.0.1", True, None)])
    assert [row.ae_title for row in tables[1].others()] == ["MODALITY"]
    SlotTable(shared, 0, 2)
    assert tables[1].others() == []


def associate(port: int, calling: str) -> Association:
    ae = AE(calling)
    ae.add_requested_context(VERIFICATION)
    return ae.associate("127.0.0.1", port, ae_title="CHEXFRACT")


def test_a_peer_is_not_kept_waiting_by_silence(tmp_path: Path) -> None:
    """400 silent connections and as many idle associations of strangers as get in."""
    with (
        listening(tmp_path, known_peers_only=False, max_associations=16) as node,
        ExitStack() as stack,
    ):
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", node.port), 5))
        for n in range(20):
            stack.callback(associate(node.port, f"STRANGER{n}").abort)
        times = []
        for _ in range(6):
            began = time.monotonic()
            assoc = associate(node.port, "MODALITY")
            assert assoc.is_established
            assert assoc.send_c_echo().Status == 0
            times.append(time.monotonic() - began)
            assoc.release()
        assert max(times) < 1.0


def test_of_two_listeners_the_one_with_more_associations_lets_the_other_take_the_next() -> None:
    def ends(held: int, why: str) -> None:
        raise AssertionError(why)

    with tempfile.TemporaryFile() as file:
        busy, free = (
            Slots[int](lambda _: True, lambda _: 0.0, ends, SlotTable(file.fileno(), number, 2))
            for number in range(2)
        )
        for number in range(3):
            assert busy.take(number, Holder("MODALITY", "10.0.0.1", is_peer=True), 9, 9) == ""
        assert busy.pause() > free.pause() == 0.0
    alone = Slots[int](lambda _: True, lambda _: 0.0, ends)
    assert alone.take(1, Holder("MODALITY", "10.0.0.1", is_peer=True), 9, 9) == ""
    assert alone.pause() == 0.0
