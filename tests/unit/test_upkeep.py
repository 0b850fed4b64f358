"""The upkeep of a SQLite ledger: no reception merges words or copies the log; nothing is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from grower import grown
from ledgers import fresh, instance, route

from dicom_node.base.errors import OutOfResources
from dicom_node.flow.loop import Loop
from dicom_node.store.ledger import Ledger, database, upkeep
from dicom_node.store.ledger.database import CopiedLog

ROOT = Path(__file__).resolve().parents[2]
PAGE = 4096


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(fresh(tmp_path))
    yield opened
    opened.close()


def receive(ledger: Ledger, *numbers: int) -> None:
    for n in numbers:
        ledger.instances.receive(instance(n, patient_id=f"P{n}"), [route()])


def log_size(ledger: Ledger) -> int:
    return Path(f"{sa.make_url(ledger.url).database}-wal").stat().st_size


def parts_of_words(ledger: Ledger) -> int:
    """Return how many parts the full text index has: each has its beginning in ``words_idx``."""
    with ledger.database.reading() as connection:
        query = "SELECT count(DISTINCT segid) FROM words_idx"
        return int(connection.exec_driver_sql(query).scalar() or 0)


def rows_changed(ledger: Ledger, n: int) -> int:
    """Return how many rows of all tables a reception changes, those of the index among them."""
    with closing(ledger.database._engine.raw_connection()) as connection:
        driver: Any = connection.driver_connection
        before = driver.total_changes
    receive(ledger, n)  # the pool gives the connection that was used last
    return int(driver.total_changes - before)


@contextmanager
def open_view(ledger: Ledger) -> Iterator[None]:
    """Hold a view of the ledger, as a backup does while it copies."""
    with ledger.database.reading() as connection:
        connection.execute(sa.text("SELECT count(*) FROM instances")).scalar()
        yield


def test_no_reception_merges_what_others_have_added_to_the_index(ledger: Ledger) -> None:
    ledger.upkeep.step()
    receive(ledger, 1)
    numbers, changed = count(2), []
    for _ in range(20):
        changed += [rows_changed(ledger, next(numbers)) for _ in range(10)]
        ledger.upkeep.step()
    assert max(changed) <= min(changed) + 2


def test_without_upkeep_every_64th_reception_would_merge(ledger: Ledger) -> None:
    """The reason for all this: if SQLite no longer does so, it may go."""
    receive(ledger, 1)
    changed = [rows_changed(ledger, n) for n in range(2, 140)]
    assert max(changed) > min(changed) + 10


def test_a_search_looks_into_few_parts_however_many_receptions(ledger: Ledger) -> None:
    for first in range(1, 200, 10):
        receive(ledger, *range(first, first + 10))
        ledger.upkeep.step()
    assert parts_of_words(ledger) <= 9
    assert len(ledger.history.page(500, "jane").rows) == 200


def test_all_words_are_merged_when_many_are_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_PAUSE_S", 0)
    monkeypatch.setattr(upkeep, "_PORTION", 1)
    monkeypatch.setattr(upkeep, "_PORTIONS", 2)
    ledger = Ledger.open(grown(tmp_path, 1013))
    found = [row.sop_instance_uid for row in ledger.history.page(50, "name7").rows]
    while ledger.upkeep.step() != upkeep.LOOK_S:
        pass
    assert parts_of_words(ledger) > 3
    assert not ledger.upkeep.begin_whole()  # for so few
    receive(ledger, 2001, 2002)
    ledger.close()
    ledger = Ledger.open(ledger.url)  # the next start looks again
    steps = 0
    while ledger.upkeep.step() != upkeep.LOOK_S:
        steps += 1
        if steps == 1:
            receive(ledger, 2003)  # what comes meanwhile does not let it begin again
    assert steps
    assert parts_of_words(ledger) <= 2
    assert [row.sop_instance_uid for row in ledger.history.page(50, "name7").rows] == found
    assert not ledger.history.page(5, "nobody").rows
    assert ledger.history.page(5, "p2003").rows
    ledger.close()


def test_a_turn_without_work_writes_nothing(ledger: Ledger) -> None:
    receive(ledger, *range(1, 30))
    while ledger.upkeep.step() != upkeep.LOOK_S:
        pass
    watch = ledger.watch()
    watch.changed()
    assert ledger.upkeep.step() == upkeep.LOOK_S
    assert not watch.changed()
    assert ledger.database.copy_log().pages == ledger.database.copy_log().copied
    watch.close()


def test_what_is_committed_is_copied_from_the_log(ledger: Ledger) -> None:
    receive(ledger, *range(1, 6))
    ledger.upkeep.step()
    file = sa.make_url(ledger.url).database
    with closing(sqlite3.connect(f"file:{file}?immutable=1", uri=True)) as alone:  # without the log
        assert alone.execute("SELECT count(*) FROM instances").fetchone()[0] == 5


def test_the_log_begins_again_while_there_is_always_a_writer(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_MOST_PAGES", 100)
    asked, copy = [], ledger.database.copy_log

    def copy_log(*, begins_again: bool = False) -> CopiedLog:
        asked.append(begins_again)
        if begins_again:
            return copy(begins_again=True)
        with open_view(ledger):  # what is written behind it is not copied
            receive(ledger, next(numbers))
            return copy()

    monkeypatch.setattr(ledger.database, "copy_log", copy_log)
    numbers = count(1)
    sizes = []
    for _ in range(30):
        receive(ledger, *(next(numbers) for _ in range(3)))
        ledger.upkeep.copy_log()
        sizes.append(log_size(ledger))
    assert True in asked
    assert max(sizes) < 500 * PAGE


def test_a_view_that_stays_open_makes_the_log_long_and_no_writer_wait(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_MOST_PAGES", 50)
    monkeypatch.setattr(upkeep, "_FEW_PAGES", 10)
    asked, copy = [], ledger.database.copy_log

    def copy_log(*, begins_again: bool = False) -> CopiedLog:
        asked.append(begins_again)
        return copy(begins_again=begins_again)

    monkeypatch.setattr(ledger.database, "copy_log", copy_log)
    with open_view(ledger):
        receive(ledger, *range(1, 40))
        ledger.upkeep.copy_log()
        assert ledger.database.copy_log().pages > 200
    assert True not in asked
    ledger.upkeep.copy_log()
    receive(ledger, 40)
    assert ledger.database.copy_log().pages < 50


def test_what_a_long_view_has_made_the_log_longer_by_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOG_PAGES", 100)
    monkeypatch.setattr(upkeep, "_MOST_PAGES", 50)
    ledger = Ledger.open(fresh(tmp_path))
    with open_view(ledger):
        receive(ledger, *range(1, 40))
    assert log_size(ledger) > 200 * PAGE
    ledger.upkeep.copy_log()
    receive(ledger, 40)
    assert log_size(ledger) <= 101 * PAGE
    ledger.close()


def test_a_commit_copies_the_log_where_upkeep_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOG_PAGES", 100)
    ledger = Ledger.open(fresh(tmp_path))
    receive(ledger, *range(1, 60))
    assert log_size(ledger) < 150 * PAGE
    ledger.close()


def test_a_log_is_copied_by_nobody_else_before_it_is_long(ledger: Ledger) -> None:
    """A commit that copies waits for the disk, and each reception with it."""
    with ledger.database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA wal_autocheckpoint").scalar()
        limit = connection.exec_driver_sql("PRAGMA journal_size_limit").scalar()
    assert pages == database.LOG_PAGES
    assert limit == database.LOG_PAGES * PAGE
    assert 4 * upkeep._MOST_PAGES <= database.LOG_PAGES


def test_a_disk_that_is_full_is_waited_for_and_costs_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**_: object) -> CopiedLog:
        raise OutOfResources("ledger: database or disk is full")

    receive(ledger, *range(1, 5))
    with monkeypatch.context() as full:
        full.setattr(ledger.database, "copy_log", fail)
        loop = Loop("upkeep", ledger.upkeep.step, ledger.clock, ledger.watch())
        loop.turn()
        loop.close()
    assert "upkeep waits: ledger: database or disk is full" in caplog.text
    receive(ledger, 5)
    ledger.upkeep.step()
    assert len(ledger.history.page(50).rows) == 5


def test_the_log_is_copied_where_the_disk_has_no_room_to_merge_words(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins again then, within the room that it has, and reception goes on."""
    receive(ledger, *range(1, 5))
    assert log_size(ledger)

    def fail(statement: str, value: int) -> int:
        raise OutOfResources("ledger: database or disk is full")

    monkeypatch.setattr(ledger.database, "keep_index", fail)
    with pytest.raises(OutOfResources):
        ledger.upkeep.step()
    log = log_size(ledger)
    receive(ledger, 5)
    assert log_size(ledger) == log


WRITER = """
import sys
sys.path.insert(0, "tests/support")
from ledgers import instance, route
from dicom_node.store.ledger import Ledger
ledger = Ledger.open(sys.argv[1])
for n in range(1, 100_000):
    ledger.instances.receive(instance(n), [route()])
    print(n, flush=True)
"""

KEEPER = """
import sys
from dicom_node.store.ledger import Ledger, upkeep
upkeep._MOST_PAGES = 50
ledger = Ledger.open(sys.argv[1])
print("begins", flush=True)
while True:
    ledger.upkeep.step()
"""


@pytest.mark.parametrize("is_kept", [False, True])
def test_kill_9_loses_nothing_that_was_answered(tmp_path: Path, is_kept: bool) -> None:
    """Without upkeep all stands in the log alone; with it both are killed, whatever they do."""
    url = fresh(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = []

    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, url],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
            text=True,
        )
        started.append(process)
        return process

    try:
        if is_kept:
            keeper = start(KEEPER)
            assert keeper.stdout is not None
            keeper.stdout.readline()
        writer = start(WRITER)
        assert writer.stdout is not None
        answered = 0
        while answered < 120:
            answered = int(writer.stdout.readline())
        for process in reversed(started):
            process.send_signal(signal.SIGKILL)
        answered = max([answered, *map(int, writer.stdout.read().split())])
    finally:
        for process in started:
            process.kill()
            process.communicate()
    if not is_kept:
        assert (tmp_path / "ledger.sqlite-wal").stat().st_size > 500 * PAGE
    ledger = Ledger.open(url)
    try:
        with ledger.database.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        uids = {row.sop_instance_uid for row in ledger.history.page(100_000).rows}
        assert {instance(n).sop_instance_uid for n in range(1, answered + 1)} <= uids
        assert len(ledger.history.page(100_000, "jane").rows) == len(uids)
        receive(ledger, 200_000)
        ledger.upkeep.step()
    finally:
        ledger.close()


def test_the_loop_keeps_the_log_short_under_load(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_MOST_PAGES", 100)
    ends = threading.Event()
    loop = Loop("upkeep", ledger.upkeep.step, ledger.clock, ledger.watch(), rest_s=0.01)
    thread = threading.Thread(target=loop.run, args=(ends,))
    thread.start()
    try:
        numbers, until = count(1), time.monotonic() + 60
        receive(ledger, *(next(numbers) for _ in range(100)))
        # its work follows as soon as it may run; the length of the log shows that it did
        while ledger.database.copy_log().pages > 300 and time.monotonic() < until:
            receive(ledger, next(numbers))
        assert time.monotonic() < until
    finally:
        ends.set()
        thread.join()
