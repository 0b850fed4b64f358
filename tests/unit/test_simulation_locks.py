"""Transactions of PostgreSQL that are open at one time in the simulated world."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgresql import cluster

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.simulate import schedule

SHARED = 3
"""A seed whose nodes are on one ledger."""


@pytest.fixture
def server() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    with cluster(settings=("fsync=off", "jit=off", "deadlock_timeout=1ms")) as found:
        schedule.Servers.url_of = found.named
        try:
            yield
        finally:
            for database in schedule.databases("postgresql"):
                database.close()
            if schedule.Servers.locks is not None:
                schedule.Servers.locks.close()
            schedule.Servers.url_of = schedule.Servers.locks = None
            logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("server")
def test_who_waits_for_a_held_transaction_goes_on_when_it_has_ended() -> None:
    """Two senders send again what is known, one of them held while it has the row's lock."""
    events = [
        schedule.Event("send", (1, 0, 0, 0, 0)),
        schedule.Event("weave", (0, 8)),
        schedule.Event("send", (1, 0, 0, 2, 0)),
        schedule.Event("send", (0, 0, 0, 1, 0)),
    ]
    outcome = schedule.play(events, SHARED)
    locks = schedule.Servers.locks
    assert locks is not None
    assert locks.count > 0
    assert outcome.failure is None, "\n".join(outcome.story)
    said = [line.split("  ")[-1] for line in outcome.story]
    assert said[2:4] == ["room to node-a: is held", "ct2 to node-b: is held"]
    assert "ct2 sends image 0 (first) to node-b: duplicate" in said, said
    assert schedule.play(events, SHARED).story == outcome.story

    killed = [*events, schedule.Event("power", (0,)), schedule.Event("run", (0, 3))]
    outcome = schedule.play(killed, SHARED)
    assert outcome.failure is None, "\n".join(outcome.story)
    assert "ct2 sends image 0 (first) to node-b: duplicate" in "\n".join(outcome.story)
