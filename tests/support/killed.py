"""Upgrades of a ledger in processes of their own, each ended by SIGKILL before one of its steps."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import Any

import sqlalchemy as sa

from dicom_node.store.ledger import Ledger, upgrading

_processes = multiprocessing.get_context("forkserver")
# Imported once for all of them: a process is made in a moment then.
_processes.set_forkserver_preload(["killed", "alembic.command", "psycopg"])


def upgrade(url: str, kill_before: int, small: int) -> bool:
    """Upgrade the ledger at `url` in another process; return whether it lived to the end.

    Parameters
    ----------
    kill_before : int
        The statement, or commit, at which it is killed; counted from 0.
    small : int
        Instances up to which a ledger counts as small.
    """
    process = _processes.Process(target=_upgrade, args=(url, kill_before, small))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode == 0


def _upgrade(url: str, kill_before: int, small: int) -> None:
    left = kill_before

    def count(*_: Any) -> None:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    upgrading.SMALL = small
    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    sa.event.listen(sa.Engine, "commit", count)
    Ledger.upgrade(url)
