"""Refused callers: one line, one count, bounded; nothing is lost while the ledger rests."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import fresh
from listening import listening
from pynetdicom import AE

from dicom_node.base.errors import Unreachable
from dicom_node.dimse import refusals
from dicom_node.dimse.refusals import Refusal, Refusals
from dicom_node.operate import show
from dicom_node.settings import Peer, Settings
from dicom_node.store.ledger import Ledger


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


def test_refused_callers_are_kept_for_a_day_whoever_restarts(tmp_path: Path) -> None:
    url = fresh(tmp_path)
    for _ in range(2):
        ledger = Ledger.open(url)
        noted = Refusals(ledger.refused.add)
        noted.note("rejected", refusal("STRANGER"))
        noted.note("rejected", refusal("STRANGER"))
        noted.stop()
        ledger.close()
    ledger = Ledger.open(url)
    (one,) = ledger.refused.recent()
    assert (one.ae_title, one.address, one.count) == ("STRANGER", "10.0.0.1", 4)
    old = replace(refusal("OLD"), first_at=1.0, last_at=1.0)
    ledger.refused.add([old])
    assert [row.ae_title for row in ledger.refused.recent()] == ["STRANGER"]
    ledger.close()


def test_a_refused_caller_is_shown_with_the_table_to_paste(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listening(tmp_path) as node:
        node.listener._refusals._keep = node.ledger.refused.add
        ae = AE('A"B C')
        ae.add_requested_context("1.2.840.10008.1.1")
        assert not ae.associate("127.0.0.1", node.port, ae_title="CHEXFRACT").is_established
        node.listener._refusals.flush()
        show.status(node.ledger, limit=1, as_json=True)
    (row,) = json.loads(capsys.readouterr().out)["refused_callers"]
    assert (row["ae_title"], row["address"], row["count"]) == ('A"B C', "127.0.0.1", 1)
    assert row["reason"] == "calling AE title not recognised"
    with listening(tmp_path) as node:
        known = {"known": Peer(ae_title='A"B C', host="127.0.0.1", port=104)}
        show.status(node.ledger, limit=1, as_json=True, peers=known)
    assert json.loads(capsys.readouterr().out)["refused_callers"] == [row | {"table": ""}]
    peers = tomllib.loads(row["table"])["peers"]
    assert peers == {"a_b_c": {"ae_title": 'A"B C', "host": "127.0.0.1", "port": 104}}
    Settings(peers=peers)
