"""What is printed to a terminal holds nothing that strangers could move its cursor with."""

from __future__ import annotations

from typing import Any

from ledgers import NOW, instance, on, route, taken

from dicom_node.dimse.refusals import Refusal
from dicom_node.operate import show
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger

HOSTILE = "\x1b]0;a title\x07\x1b[2J\x9b2Jwords\r\n[bold]more"


def test_a_trace_prints_no_control_character_of_a_worker_or_a_reader(
    ledger: Ledger, capsys: object
) -> None:
    on(ledger, NOW).instances.receive(instance(1), [route()])
    ticket = taken(ledger, HOSTILE[:20])
    on(ledger, NOW + 1).jobs.release(ticket.job, ticket.token, HOSTILE, True, 0.0, 3)
    show.trace(Settings(), ledger, instance(1).sop_instance_uid, as_json=False)
    printed = capsys.readouterr().out  # type: ignore[attr-defined]
    assert "words" in printed
    assert "[bold]more" in printed.replace("\n", "").replace(" ", "") or "bold" in printed
    assert not any(c in printed for c in ("\x1b", "\x07", "\x9b", "\r"))


def test_who_called_by_a_wrong_title_is_shown_with_it(ledger: Ledger, capsys: Any) -> None:
    reason = "called AE title not recognised"
    ledger.refused.add([Refusal("XRAY1", "10.0.0.7", "CHEXFRAKT", reason, 1, NOW, NOW)])
    show.status(on(ledger, NOW + 1), limit=1, as_json=False)
    assert f"XRAY1@10.0.0.7: {reason}: it called CHEXFRAKT (1 time)" in capsys.readouterr().out


def test_an_ignored_image_says_where_the_rules_explain_it(ledger: Ledger, capsys: Any) -> None:
    ledger.instances.receive(instance(1), [])
    show.trace(Settings(), ledger, instance(1).sop_instance_uid, as_json=False)
    assert "chexfract-node rules test FILE" in capsys.readouterr().out
