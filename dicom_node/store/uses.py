"""Uses of the node that the audit trail tells of: made here, whatever was used and by whom.

The file of the trail gets them at once, as a process notes them. For a repository (syslog) they
wait in the ledger, so none is missed while that is away. What the ledger knows anyway (what was
received, sent, and done on purpose) is read from its events.
"""

from __future__ import annotations

import base64
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, Self

from dicom_node.base.errors import ChexFractError
from dicom_node.base.logs import Sparse
from dicom_node.settings import Settings
from dicom_node.store import audit_message
from dicom_node.store.audit_file import AuditFile
from dicom_node.store.audit_message import Study
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.ledger import Ledger

_missing = Sparse(logging.getLogger(__name__), per_minute=60)

AUDITED = "audited"
"""The mark with the last event that the repository of a ledger's nodes has (PostgreSQL)."""

FILE_PLACE = "audit.place"
REPOSITORY_PLACE = "audit.syslog.place"
"""The file in the data folder that has it for one node (SQLite)."""

MAX_QUERY = 1 << 14
"""Bytes of a query above which it is not kept: no question that a person asks is as long."""

Kind = Literal[
    "queried", "retrieved", "accessed", "exported", "signed-in", "signed-out", "configured",
    "users-changed", "result-refused",
]  # fmt: skip

STAGES: tuple[Kind, ...] = (
    "queried", "retrieved", "accessed", "exported", "signed-in", "signed-out", "configured",
    "users-changed", "result-refused",
)  # fmt: skip
"""Events of the ledger that wait for a repository."""


@dataclass(frozen=True, slots=True)
class Use:
    """Who used what.

    ``service`` is a SOP Class UID or a path of the web side, ``query`` what was asked in base64.
    ``receiver`` is the peer that a C-MOVE went to; elsewhere it is the user. ``alert`` says in
    words what a change or a refusal was about.
    """

    what: Kind
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
    alert: str = ""

    @classmethod
    def read(cls, detail: str) -> Self:
        """Return the use that the detail of an event holds."""
        said = json.loads(detail)
        if "what" not in said:  # a refused result as versions before 0.2.0 kept it
            path = f"/jobs/{said['job']}/result"
            return cls("result-refused", f"worker {said['worker']}", path, alert=said["why"])
        studies = tuple(
            (study, patient, tuple((uid, count) for uid, count in classes))
            for study, patient, classes in said.pop("studies")
        )
        return cls(**said, studies=studies)


Note = Callable[[Use], None]


def noting(settings: Settings, ledger: Ledger | None) -> Note:
    """Return what keeps a use in the audit trail; it never stops the use itself.

    Parameters
    ----------
    ledger : Ledger, optional
        Where a use waits for the repository; without it only the file has it.
    """
    path = settings.audit_file
    if path is None:
        return lambda use: None
    file = AuditFile(path)

    def note(use: Use) -> None:
        try:
            file.append(audit_message.of_use(settings, use, HOST_CLOCK.wall()))
        except OSError as exc:
            _missing.error(
                "%s by %s is missing in the audit trail: %s", use.what, _escape_user(use.user),
                exc.strerror or exc,
            )  # fmt: skip
        if not settings.audit.syslog or ledger is None:
            return
        try:
            ledger.history.note(use.what, json.dumps(asdict(use)))
        except ChexFractError as exc:
            _missing.error(
                "%s by %s is missing in the audit repository: %s",
                use.what,
                _escape_user(use.user),
                exc,
            )

    return note


def reached(settings: Settings, ledger: Ledger) -> int | None:
    """Return the last event that the audit repository has; None where there is none to wait for."""
    if settings.audit_file is None or not settings.audit.syslog:
        return None
    found = None if ledger.is_sqlite else ledger.history.mark(AUDITED)
    if found is None:
        with suppress(FileNotFoundError, ValueError):
            found = int((settings.node.data_dir / REPOSITORY_PLACE).read_text())
    return found or 0


def noted(settings: Settings, ledger: Ledger) -> int | None:
    """Return the last event that repository and file of this node have; None as in `reached`.

    A file that cannot be written for a while, or a node that was off, gets what came meanwhile.
    """
    places = [reached(settings, ledger)]
    if settings.audit_file is not None:
        # without it the file begins with what happens from then on
        with suppress(FileNotFoundError, ValueError):
            places.append(int((settings.node.data_dir / FILE_PLACE).read_text()))
    return min((place for place in places if place is not None), default=None)


def _escape_user(user: str) -> str:
    return ascii(user)[1:-1][:64]


def encoded(query: bytes) -> str:
    """Return a query as the audit message bears it; empty when it is too long to be kept."""
    return base64.b64encode(query).decode() if len(query) <= MAX_QUERY else ""


class OfStudy(Protocol):
    """What belongs to a study and a patient: an Instance, an object, a row of the worklist."""

    @property
    def study_instance_uid(self) -> str: ...  # noqa: D102
    @property
    def patient_id(self) -> str: ...  # noqa: D102
    @property
    def sop_class_uid(self) -> str: ...  # noqa: D102


def studies_of(used: Iterable[OfStudy]) -> tuple[Study, ...]:
    """Return the studies of some objects."""
    found: dict[tuple[str, str], Counter[str]] = {}
    for use in used:
        key = (use.study_instance_uid, use.patient_id)
        found.setdefault(key, Counter())[use.sop_class_uid] += 1
    return tuple((*key, tuple(sorted(classes.items()))) for key, classes in found.items())
