"""A ledger of an older version gets what it is searched by, while the node runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from ledgers import NOW, instance, on, route

from dicom_node.store.filling import Filler
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool

OLD = Path(__file__).resolve().parents[1] / "drill" / "ledgers" / "0003.sql"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        db.executescript(OLD.read_text(encoding="utf-8"))
    Ledger.upgrade(f"sqlite:///{tmp_path}/ledger.sqlite")
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.sqlite")
    yield ledger
    ledger.close()


def fill(ledger: Ledger, folder: Path) -> int:
    filler = Filler(ledger, Spool(folder / "spool"))
    before = ledger.filling.progress()[0]
    while filler.step() == 0.0:
        pass
    return ledger.filling.progress()[0] - before


def found(ledger: Ledger, search: str) -> list[str]:
    return [row.sop_instance_uid for row in ledger.history.recent(search=search)]


def test_old_rows_are_found_once_they_are_filled(ledger: Ledger, tmp_path: Path) -> None:
    assert found(ledger, "jane doe") == []
    assert fill(ledger, tmp_path) == 11
    assert ledger.filling.progress() == (11, 11)
    assert len(set(found(ledger, "jane doe"))) == 11
    assert fill(ledger, tmp_path) == 0


def test_filling_goes_on_where_it_stopped_and_new_rows_come_behind_all(
    ledger: Ledger, tmp_path: Path
) -> None:
    ledger.filling.fill(ledger.filling.next_rows(4), {})
    on(ledger, NOW + 900).instances.receive(instance(50), [route()])
    assert ledger.filling.progress() == (4, 11)
    assert fill(ledger, tmp_path) == 7
    assert found(ledger, "doe")[0] == "1.2.3.50"
    numbers = [ledger.history.trace(f"1.2.3.{n}").instance.number for n in (*range(1, 12), 50)]
    assert sorted(n for n in numbers if n) == list(range(1, 13))


def test_old_events_stay_the_sentences_that_they_were(ledger: Ledger, tmp_path: Path) -> None:
    before = [stage.detail for stage in ledger.history.trace("1.2.3.6").stages]
    fill(ledger, tmp_path)
    assert [stage.detail for stage in ledger.history.trace("1.2.3.6").stages] == before
    assert any(event.is_old for event in ledger.history.events_after(0, 100))


def test_the_standing_of_old_jobs_is_what_the_list_shows(ledger: Ledger, tmp_path: Path) -> None:
    fill(ledger, tmp_path)
    rows = ledger.history.recent(100)
    for state in ("received", "running", "rejected", "failed", "delivered"):
        shown = {row.sop_instance_uid for row in ledger.history.recent(100, state=state)}
        assert shown == {row.sop_instance_uid for row in rows if row.state == state}, state
