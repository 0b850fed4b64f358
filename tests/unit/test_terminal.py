"""What is printed to a terminal holds nothing that strangers could move its cursor with."""

from __future__ import annotations

from ledgers import NOW, instance, on, route, taken

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
