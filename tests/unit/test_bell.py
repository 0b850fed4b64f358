"""Who writes to a ledger rings, and who waits for work wakes up."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dicom_node.store.bell import Bells
from dicom_node.store.ledger import Ledger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bells"


def test_a_ring_wakes_everybody_once(folder: Path) -> None:
    bells = Bells(folder)
    listeners = [bells.listen() for _ in range(3)]
    Bells(folder).ring()
    Bells(folder).ring()
    for bell in listeners:
        assert bell is not None
        assert bell.wait(60)
        assert not bell.wait(0)
        bell.close()
    assert not list(folder.iterdir())


def test_ringing_where_nobody_listens_does_nothing(folder: Path) -> None:
    Bells(folder).ring()
    folder.mkdir()
    Bells(folder).ring()


def test_what_a_killed_listener_left_is_removed(folder: Path) -> None:
    bells = Bells(folder)
    bell = bells.listen()
    assert bell is not None
    bell._bell.close()
    bells.ring()
    assert not list(folder.iterdir())


def test_a_listener_that_never_looks_holds_nobody_up(folder: Path) -> None:
    bells = Bells(folder)
    bell = bells.listen()
    assert bell is not None
    for _ in range(1000):
        bells.ring()
    bell.close()


def test_a_folder_with_a_long_name_has_bells_too(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120) / "bells"
    folder.parent.mkdir()
    bell = Bells(folder).listen()
    if bell is None:
        pytest.skip("this system takes no longer addresses")
    Bells(folder).ring()
    assert bell.wait(60)
    bell.close()


def test_a_commit_wakes_a_watch_of_another_connection(ledger: Ledger) -> None:
    watch, other = ledger.watch(), Ledger.open(ledger.url)
    while watch.changed():
        pass
    watch.wait(0.0)  # from here on it listens
    woken = threading.Event()

    def wait() -> None:
        while not watch.changed():
            watch.wait(60)
        woken.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    with other.database.writing() as connection:
        connection.exec_driver_sql("INSERT INTO marks (name, value) VALUES ('test', 1)")
    waiter.join(60)
    assert woken.is_set()
    watch.close()
    other.close()
    bells = Path(str(ledger.database._engine.url.database)).with_name("bells")
    assert not list(bells.iterdir())
