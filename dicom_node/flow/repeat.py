"""What came again with other bytes: compared off the reception path, and adopted by a person."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from dicom_node.base.errors import NotFound, NotUnderstood
from dicom_node.dimse import Sender
from dicom_node.flow import ask_same
from dicom_node.flow.ask_same import LikenessAnswer as Answer
from dicom_node.flow.intake import describe, find_routes
from dicom_node.flow.loop import Loop
from dicom_node.settings import Settings
from dicom_node.standard.header import read_header
from dicom_node.store.actor import Actor
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.acts import REMOVED
from dicom_node.store.ledger.events import signed
from dicom_node.store.ledger.repeats import Likeness
from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)

LOOK_S = 1.0
TURN = "compare"
"""Of several nodes on one ledger one compares at a time."""

REST_S = 30.0
"""Longest time between two looks when nothing in the ledger has changed."""


class Comparer:
    """Finds out whether what came again is the same image in another coding.

    Parameters
    ----------
    compare : callable
        Compares two files in a process of its own (`ask_same.compare`).
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        ledger: Ledger,
        compare: Callable[[Path, Path], Answer] = ask_same.compare,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._ledger = ledger
        self._compare = compare

    def take(self, settings: Settings) -> None:
        """Route by other rules from the next comparison on."""
        self._settings = settings

    def loop(self) -> Loop:
        """Return the loop that compares."""
        watch = self._ledger.watch()
        return Loop("comparing repetitions", self.step, self._ledger.clock, watch, rest_s=LOOK_S)

    def step(self) -> float:
        """Compare some of what waits; return in how many seconds there may be more."""
        if not self._ledger.repeats.waiting() or not self._ledger.turns.take(TURN):
            return REST_S
        try:
            for likeness in self._ledger.repeats.waiting():
                self._settle_likeness(likeness)
        finally:
            self._ledger.turns.give_back(TURN)
        return 0.0

    def _settle_likeness(self, likeness: Likeness) -> None:
        uid, other = likeness.sop_instance_uid, self._spool.path(likeness.file)
        if not likeness.first_file:
            self._ledger.repeats.settle_other(likeness, "came after the first file had gone")
            return
        answer = self._compare(self._spool.path(likeness.first_file), other)
        if likeness not in self._ledger.repeats.waiting():
            return  # retention, a person or another node was faster: the next look sees what is
        if not (answer.is_known and answer.is_same):
            self._ledger.repeats.settle_other(likeness, answer.text)
            logger.warning("conflict sop=%s: it %s", uid, answer.text)
            return
        sender = Sender(
            likeness.calling_ae,
            likeness.calling_host,
            likeness.called_ae,
            likeness.priority,
            likeness.association,
        )
        with other.open("rb") as file:
            header = read_header(file, likeness.transfer_syntax_uid)
        routes, _ = find_routes(self._settings, header, sender)
        settled = self._ledger.repeats.settle_same(likeness, routes)
        if settled is None:
            return  # settled meanwhile: as another image it needs its file
        made, kept = settled
        if kept != likeness.file:
            self._spool.remove(likeness.file)
        logger.info("duplicate sop=%s: the same pixels in another coding; jobs=%d", uid, len(made))


def adopt(
    settings: Settings, spool: Spool, ledger: Ledger, ident: str, by: str | Actor = ""
) -> list[str]:
    """Let what came last under a known UID take the place of the first; return the new jobs.

    IHE Patient Information Reconciliation: an archive sends an image again under its UID with the
    right patient or order. Its report is made for the corrected header, with the old report as its
    predecessor.

    Raises
    ------
    NotFound
        Nothing is kept apart under this name, or its file is gone.
    Busy
        The last job has no result yet.
    """
    conflict = ledger.acts.kept_apart(ident)
    if not conflict.file:
        raise NotFound(f"{conflict.sop_instance_uid}: {REMOVED}")
    sender = Sender(conflict.calling_ae, conflict.calling_host, "")
    path = spool.path(conflict.file)
    try:
        with path.open("rb") as file:
            header = read_header(file, conflict.transfer_syntax_uid)
    except (OSError, NotUnderstood) as exc:
        raise NotFound(f"{conflict.sop_instance_uid}: its file cannot be read") from exc
    corrected = describe(header, conflict.file, conflict.size, conflict.transfer_syntax_uid, sender)
    routes, _ = find_routes(settings, header, sender)
    rejects = settings.report.reject_replaced
    made, replaced = ledger.acts.adopt(conflict.id, corrected, routes, by=by, rejects=rejects)
    if replaced:
        spool.remove(replaced)
    logger.info(
        "adopted sop=%s jobs=%d by=%s",
        conflict.sop_instance_uid,
        len(made),
        signed(by)["by"] or "-",
    )
    return made
