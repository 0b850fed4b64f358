"""Refused callers: one line, one count, bounded; nothing is lost while the ledger rests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dicom_node.base.errors import Unreachable
from dicom_node.dimse import refusals
from dicom_node.dimse.refusals import Refusal, Refusals


def refusal(title: str = "A", address: str = "10.0.0.1", reason: str = "no") -> Refusal:
    return Refusal(title, address, "CHEXFRACT", reason)


class Keeper:
    def __init__(self) -> None:
        self.kept: list[Refusal] = []
        self.is_away = False

    def __call__(self, counts: Sequence[Refusal]) -> None:
        if self.is_away:
            raise Unreachable("the ledger gives no answer")
        self.kept += counts


def test_refusals_of_one_kind_are_counted_together() -> None:
    keeper = Keeper()
    noted = Refusals(keeper)
    for title in "AAB":
        noted.note("rejected", refusal(title))
    noted.flush()
    noted.flush()
    assert [(one.ae_title, one.count) for one in keeper.kept] == [("A", 2), ("B", 1)]
    assert all(one.first_at and one.first_at <= one.last_at for one in keeper.kept)


def test_what_ends_one_association_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    keeper, association = Keeper(), Keeper()
    noted = Refusals(keeper)
    noted.note("closing", refusal(reason="first"), association)
    noted.note("aborting", refusal(reason="second"), association)
    noted.flush()
    assert caplog.messages == ["closing A@10.0.0.1: first"]
    assert [one.reason for one in keeper.kept] == ["first"]
    assert noted.is_told(association)


def test_counts_wait_for_a_ledger_that_is_away() -> None:
    keeper = Keeper()
    noted = Refusals(keeper)
    keeper.is_away = True
    noted.note("rejected", refusal())
    noted.flush()
    noted.note("rejected", refusal())
    keeper.is_away = False
    noted.flush()
    assert [one.count for one in keeper.kept] == [2]


def test_lines_about_one_address_are_bounded_and_others_are_still_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    noted = Refusals()
    for _ in range(3 * refusals.LINES_PER_MINUTE):
        noted.note("rejected", refusal())
    noted.note("rejected", refusal(address="10.0.0.2"))
    assert len(caplog.messages) == refusals.LINES_PER_MINUTE + 1


def test_memory_is_bounded_whatever_strangers_write() -> None:
    keeper = Keeper()
    noted = Refusals(keeper)
    for n in range(2 * refusals.KEPT):
        noted.note("rejected", refusal(f"T{n}", f"10.0.{n // 250}.{n % 250}", "x" * 5000))
    assert len(noted._lines) <= refusals.ADDRESSES
    noted.flush()
    assert len(keeper.kept) == refusals.KEPT + 1
    assert sum(one.count for one in keeper.kept) == 2 * refusals.KEPT
    assert max(len(one.reason) for one in keeper.kept) <= refusals.REASON
