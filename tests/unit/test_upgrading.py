"""The ledger of an older version that is large: it is upgraded while the node works on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from ledgers import NOW, instance, on, route, schema_differences

from dicom_node.store.ledger import Ledger, filling, upgrading

OLD = Path(__file__).resolve().parents[1] / "drill" / "ledgers"
FROM = ("0003", "0005")


@pytest.fixture(params=FROM)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ledger that an older version left, which counts as large, after the start's part."""
    monkeypatch.setattr(upgrading, "SMALL", 0)
    monkeypatch.setattr(upgrading, "WORDS_AT_ONCE", 4)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db:
        db.executescript((OLD / f"{request.param}.sql").read_text(encoding="utf-8"))
        if request.param == "0005":  # its words are not in the dump: the old index had them so
            rows = db.execute(
                "SELECT number, lower(replace(patient_name, '^', ' ')) FROM instances"
            )
            words = "INSERT INTO words (rowid, text) VALUES (?, ?)"
            db.executemany(words, [row for row in rows.fetchall() if row[0] is not None])
            db.commit()
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    Ledger.upgrade(url)
    return url


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    ledger = Ledger.open(url)
    yield ledger
    ledger.close()


def finish(ledger: Ledger) -> list[str]:
    """Do all that is left, and return what was done."""
    done = []
    while piece := ledger.upgrading.step():
        done.append(piece)
    while rows := ledger.filling.next_rows(4):
        ledger.filling.fill(rows, {})
    return done


def differences(url: str) -> list[str]:
    return [
        f"{match[0]} {getattr(match[1], 'name', match[1:])}" for match in schema_differences(url)
    ]


def stood_in(url: str) -> list[str]:
    """Return where an index of before 0004 stands for one that would take long to build."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        indexes = sa.inspect(connection).get_indexes("events")
    engine.dispose()
    old, new = "ix_events_sop_instance_uid_id", "ix_events_uid"
    is_old = old in {index["name"] for index in indexes}
    return [f"remove_index {old}", f"add_index {new}"] if is_old else []


def counted(ledger: Ledger) -> dict[tuple[str, str], int]:
    with ledger.database.reading() as connection:
        return {
            ("jobs", state): n
            for state, n in connection.execute(
                sa.text("SELECT state, count(*) FROM jobs GROUP BY state")
            )
        } | {
            ("instances", state): n
            for state, n in connection.execute(
                sa.text("SELECT state, count(*) FROM instances GROUP BY state")
            )
        }


def test_the_start_does_what_cannot_wait_and_the_rest_follows(url: str, ledger: Ledger) -> None:
    before = {row.sop_instance_uid for row in ledger.history.recent(100)}
    done = finish(ledger)
    goes_on = ("words", "the index of words", "makers", "names", "findings")
    assert all(piece.startswith(goes_on) for piece in done)
    assert done
    assert differences(url) == stood_in(url)
    assert {row.sop_instance_uid for row in ledger.history.recent(100)} == before
    assert ledger.upgrading.step() == ""


def test_images_come_while_it_is_upgraded_and_are_found_with_the_old(ledger: Ledger) -> None:
    n = 50
    while True:
        on(ledger, NOW + n).instances.receive(instance(n, patient_name="Doe^Jane"), [route()])
        found = [row.sop_instance_uid for row in ledger.history.recent(100, "jane d")]
        assert found[0] == f"1.2.3.{n}"
        n += 1
        if not ledger.upgrading.step():
            break
    finish(ledger)
    found = [row.sop_instance_uid for row in ledger.history.recent(100, "jane d")]
    assert len(set(found)) == n - 50 + 11
    numbers = [row.number for row in ledger.history.recent(1000)]
    assert None not in numbers
    totals = ledger.history.status()
    assert counted(ledger) == {
        **{("jobs", state): n for state, n in totals.jobs.items()},
        **{("instances", state): n for state, n in totals.instances.items()},
    }


def test_old_results_count_for_who_made_them_once_however_often_it_is_begun(
    url: str, ledger: Ledger
) -> None:
    """The page of models shows what a ledger of 0.1.0 brought."""
    results = sa.text(
        "SELECT model_version, count(*), max(ended_at) FROM jobs "
        "WHERE result <> '' AND model_version <> '' GROUP BY 1"
    )
    with ledger.database.reading() as connection:
        ((version, made, last),) = connection.execute(results).all()
    assert made > 3
    assert ledger.results.versions(0.0) == {}
    finish(ledger)
    Ledger.upgrade(url)
    finish(ledger)
    ((found,),) = ledger.results.versions(0.0).values()
    assert (found.model_version, found.results, found.last_at) == (version, made, last)
    assert ledger.history.trace("1.2.3.6").jobs[0].result.model_version == version


def test_a_stop_after_any_piece_is_taken_up_again(url: str) -> None:
    done: list[str] = []
    while True:
        Ledger.upgrade(url)  # a start, as after a kill
        ledger = Ledger.open(url)
        piece = ledger.upgrading.step()
        ledger.close()
        if not piece:
            break
        done.append(piece)
    assert len(done) == len(set(done))
    assert differences(url) == stood_in(url)


def test_a_piece_that_fails_in_the_middle_leaves_nothing_of_itself(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    left = {row.sop_instance_uid for row in ledger.history.recent(100, "doe")}
    monkeypatch.setattr(upgrading, "add_words", fail)
    monkeypatch.setattr(filling, "add_words", fail)
    with pytest.raises(KeyboardInterrupt):
        finish(ledger)
    assert {row.sop_instance_uid for row in ledger.history.recent(100, "doe")} == left
    monkeypatch.undo()
    monkeypatch.setattr(upgrading, "SMALL", 0)
    finish(ledger)
    assert len({row.sop_instance_uid for row in ledger.history.recent(100, "doe")}) == 11
