"""``python -m tests.drill.old_ledger > tests/drill/ledgers/NNNN.sql``: work in every state.

Run once for each schema version, by the software that has it; the file then stays as it is.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from dicom_node.base.job import Ticket
from dicom_node.store.ledger import Ledger

from ..support.ledgers import NOW, instance, on, post, result, route

OPEN_QUESTION = "2.25.660"
"""Transaction UID of a storage commitment request that nobody has answered, since 0002."""

FINISHED, FAILED = range(4, 9), 9
"""Numbers of the Instances that had a result, and of the one whose attempts were used up."""


def fill(ledger: Ledger) -> None:
    """Put one Instance into the ledger for each state that a node can be stopped in."""
    for n in range(1, 10):
        on(ledger, NOW + n).instances.receive(instance(n), [route()])
    on(ledger, NOW + 10).instances.receive(instance(10), [], "no rule matched")
    on(ledger, NOW + 11).instances.receive(instance(11), [route(mode="shadow")])
    on(ledger, NOW + 12).instances.receive(
        instance(1, sha256="f" * 64, file="conflicts/ff/1.dcm", patient_id="PID2"), [route()]
    )
    tickets = on(ledger, NOW + 20).jobs.hand_out("phantom", 9, NOW + 80)
    ledger.jobs.unpublish([tickets[0]])  # 1: received; 2: queued
    held = [_claim(ledger, ticket) for ticket in tickets[2:]]  # 3: running
    for n, ticket in zip(FINISHED, held[1:], strict=False):
        made = result(ticket, n, outcome="rejected", reason=_WHY) if n == 8 else result(ticket, n)
        post(ledger, ticket, made, NOW + 30)  # 4: pending
    on(ledger, NOW + 30).jobs.release(held[-1].job, held[-1].token, "out of memory", max_attempts=1)
    (shadow,) = on(ledger, NOW + 40).jobs.hand_out("phantom", 1, NOW + 80)
    if shadow.job != tickets[0].job:
        raise RuntimeError("the first received is handed out first")
    ledger.jobs.unpublish([shadow])
    by_source = {d.sop_instance_uid: d.id for d in on(ledger, NOW + 50).deliveries.due()}
    refused = "archive answered 0xA700"
    on(ledger, NOW + 50).deliveries.postpone(by_source["1.2.3.5"], refused, NOW + 90, status=0xA700)
    ledger.deliveries.choose(by_source["1.2.3.6"], "2.25.6")
    on(ledger, NOW + 50).deliveries.delivered(by_source["1.2.3.6"], 0x0000, ask_at=NOW + 51)
    on(ledger, NOW + 51).commitments.ask(
        OPEN_QUESTION, on(ledger, NOW + 51).commitments.due()["archive"], lambda _: 600
    )
    ledger.deliveries.choose(by_source["1.2.3.7"], "2.25.7")
    on(ledger, NOW + 51).deliveries.hold("archive", "archive gives no answer", NOW + 95)


def _claim(ledger: Ledger, ticket: Ticket) -> Ticket:
    on(ledger, NOW + 21).jobs.claim(ticket.job, ticket.token, "old-worker:1", 60)
    return ticket


_WHY = {"code": "lateral-view", "text": "A lateral view."}


def dumped(db: sqlite3.Connection) -> Iterator[str]:
    """Yield the statements that make this database; what is in the full text index stays out."""
    yield "BEGIN TRANSACTION"
    made = db.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL "
        "AND name NOT LIKE 'words\\_%' ESCAPE '\\' ORDER BY rowid"
    ).fetchall()
    for kind, name, sql in made:
        if kind == "table":
            yield sql
            if name != "words":
                for row in db.execute(f'SELECT * FROM "{name}"').fetchall():
                    values = ", ".join(
                        db.execute("SELECT quote(?)", (v,)).fetchone()[0] for v in row
                    )
                    yield f'INSERT INTO "{name}" VALUES ({values})'
    yield from (sql for kind, _, sql in made if kind != "table")  # triggers would count again
    yield "COMMIT"


def main() -> None:
    """Print the ledger as SQL."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ledger.sqlite"
        Ledger.upgrade(f"sqlite:///{file}")
        ledger = Ledger.open(f"sqlite:///{file}")
        fill(ledger)
        ledger.close()
        with closing(sqlite3.connect(file)) as db:
            sys.stdout.writelines(f"{line};\n" for line in dumped(db))


if __name__ == "__main__":
    main()
