"""Loaded by every process of a drill: its clock, and the faults of deliberately broken variants.

The product knows nothing of this: modules are changed after they were imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

Change = Callable[[ModuleType], None]


class After(importlib.abc.MetaPathFinder):
    """Changes modules as soon as they were imported."""

    def __init__(self, changes: dict[str, Change]) -> None:
        self._changes = changes

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            change, run = self._changes[name], spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                change(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def follow_the_clock(file: str) -> None:
    """Let `time.time` be wrong by the seconds in `file`."""
    right = time.time
    known = [0.0, 0.0]

    def wrong() -> float:
        now = time.monotonic()
        if now - known[0] > 0.05:
            known[0] = now
            try:
                with open(file, encoding="ascii") as clock:  # noqa: PTH123 - before anything else
                    known[1] = float(clock.read() or 0)
            except (OSError, ValueError):
                known[1] = 0.0
        return right() + known[1]

    time.time = wrong


def no_fsync(database: ModuleType) -> None:
    """Write the ledger without waiting for the disk."""
    prepare = database._prepare_sqlite

    def without(connection: Any, record: object) -> None:
        prepare(connection, record)
        connection.execute("PRAGMA synchronous=OFF")

    database._prepare_sqlite = without


def random_uids(document: ModuleType) -> None:
    """Give a report another UID whenever it is built."""
    from uuid import uuid4

    document.instance_uid = lambda *_: f"2.25.{uuid4().int}"


def publish_before_commit(instances: ModuleType) -> None:
    """Tell the world of an Instance first, and commit its row a moment later."""
    commit = instances.Instances.receive

    def receive(self: Any, instance: Any, *rest: Any, **more: Any) -> Any:
        if self.known(instance.sop_instance_uid) is not None:
            return commit(self, instance, *rest, **more)
        threading.Timer(1.0, commit, (self, instance, *rest), more).start()
        return instances.Receipt("new", (), instance.file)

    instances.Instances.receive = receive


VARIANTS: dict[str, dict[str, Change]] = {
    "no-fsync": {"dicom_node.store.ledger.database": no_fsync},
    "random-uids": {"worker.report.document": random_uids},
    "publish-before-commit": {"dicom_node.store.ledger.instances": publish_before_commit},
}

if clock := os.environ.get("CHEXFRACT_DRILL_CLOCK"):
    follow_the_clock(clock)
if variant := os.environ.get("CHEXFRACT_DRILL_BROKEN"):
    sys.meta_path.insert(0, After(VARIANTS[variant]))
    if variant == "no-fsync":
        os.fsync = os.fdatasync = lambda _: None
