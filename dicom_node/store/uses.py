"""Uses of the reports that an audit trail tells of: queries, retrievals, and what was read.

They are kept as events of the ledger, so none is missed while the audit record repository is away.
"""

from __future__ import annotations

import base64
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Self

from dicom_node.base.errors import ChexFractError
from dicom_node.settings import Settings
from dicom_node.store.catalogue import Stored
from dicom_node.store.ledger import Ledger

logger = logging.getLogger(__name__)

MAX_QUERY = 1 << 14
"""Bytes of a query above which it is not kept: no question that a person asks is as long."""

STAGES = ("queried", "retrieved", "accessed")

RESULT_REFUSED = "result-refused"
"""A worker posted a result about something else than its job."""

Study = tuple[str, str, tuple[tuple[str, int], ...]]
"""Study Instance UID, patient id, and how many objects of which SOP class."""


@dataclass(frozen=True, slots=True)
class Use:
    """Who used what.

    ``service`` is a SOP Class UID or a path of DICOMweb, ``query`` what was asked in base64.
    ``receiver`` is the peer that a C-MOVE went to; elsewhere it is the user.
    """

    what: Literal["queried", "retrieved", "accessed"]
    user: str
    service: str
    ae_title: str = ""
    address: str = ""
    receiver: str = ""
    receiver_address: str = ""
    query: str = ""
    transfer_syntax: str = ""
    studies: tuple[Study, ...] = ()
    is_served: bool = True

    @classmethod
    def read(cls, detail: str) -> Self:
        """Return what `detail` of an event tells."""
        told = json.loads(detail)
        studies = tuple(
            (study, patient, tuple((uid, count) for uid, count in classes))
            for study, patient, classes in told.pop("studies")
        )
        return cls(**told, studies=studies)


Note = Callable[[Use], None]


def noting(settings: Settings, ledger: Ledger) -> Note:
    """Return what keeps a use, where there is an audit trail; it never stops the use itself."""
    if not (settings.audit.file or settings.audit.syslog):
        return lambda use: None

    def note(use: Use) -> None:
        try:
            ledger.history.note(use.what, json.dumps(asdict(use)))
        except ChexFractError as exc:
            logger.warning("a use of the reports is missing in the audit trail: %s", exc)

    return note


def noting_refusals(settings: Settings, ledger: Ledger) -> Callable[[str, str, str], None]:
    """Return what keeps a refused result for the audit trail: its job, its worker and the reason.

    It never stops the refusal itself.
    """
    if not (settings.audit.file or settings.audit.syslog):
        return lambda job, worker, why: None

    def note(job: str, worker: str, why: str) -> None:
        try:
            told = {"job": job, "worker": worker, "why": why}
            ledger.history.note(RESULT_REFUSED, json.dumps(told))
        except ChexFractError as exc:
            logger.warning("a refused result is missing in the audit trail: %s", exc)

    return note


def encoded(query: bytes) -> str:
    """Return a query as the audit message bears it; empty when it is too long to be kept."""
    return base64.b64encode(query).decode() if len(query) <= MAX_QUERY else ""


def studies_of(used: Iterable[Stored]) -> tuple[Study, ...]:
    """Return the studies of some objects."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for one in used:
        key = (one.study_instance_uid, one.patient_id)
        found.setdefault(key, Counter())[one.sop_class_uid] += 1
    return tuple((*key, tuple(sorted(classes.items()))) for key, classes in found.items())


def patients_of(studies: Sequence[Study]) -> list[str]:
    """Return the patient ids of some studies, each once."""
    return list(dict.fromkeys(patient for _, patient, _ in studies if patient))
