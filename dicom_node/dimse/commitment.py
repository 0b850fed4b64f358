"""Storage Commitment SCU: asks peers to keep what they took, and hears their answer.

DICOM PS3.4 Annex J. The answer (N-EVENT-REPORT) comes on the association of the question (N-ACTION)
or on one that the peer opens to the listener, at once or days later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.presentation import PresentationContext

from dicom_node.base.errors import NotUnderstood, Refused, Transient, Unreachable
from dicom_node.base.plurals import counted
from dicom_node.dimse import CommitmentAnswer, Question, patches
from dicom_node.dimse.contexts import PUSH_MODEL, PUSH_MODEL_INSTANCE
from dicom_node.dimse.entity import commitment
from dicom_node.dimse.scu import Destination
from dicom_node.settings import Peer
from dicom_node.standard.header import check_whole
from dicom_node.standard.status import SUCCESS, meaning
from dicom_node.standard.unreadable import UNREADABLE

logger = logging.getLogger(__name__)

PROCESSING_FAILURE = 0x0110
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT = 0x0115

_REQUEST = 1
_EVENTS = (1, 2)

OnAnswer = Callable[[CommitmentAnswer], bool]
"""Keeps an answer durably; False for a transaction that nobody began."""


class CommitmentAssociation:
    """An association on which one peer is asked to commit.

    Parameters
    ----------
    ae_title : str
        The calling AE title.
    peer : Peer
    on_answer : callable
        Takes the answer that comes on this association.
    by : frozenset of str, optional
        The peers at the host of `peer`, whose questions it may answer here.
    """

    def __init__(
        self,
        ae_title: str,
        peer: Peer,
        on_answer: OnAnswer,
        by: frozenset[str] | None = None,
    ) -> None:
        self._answered = threading.Event()
        self._on_answer = on_answer
        self._by = by
        handlers = [(evt.EVT_N_EVENT_REPORT, self._on_report)]
        self._destination = Destination(ae_title, peer, handlers)

    def connect(self) -> None:
        """Associate.

        Raises
        ------
        Unreachable
            There is no association.
        Refused
            The peer offers no storage commitment.
        """
        self._destination.connect([PUSH_MODEL])
        if not self._destination.accepts(PUSH_MODEL):
            self.close()
            raise Refused(f"{self._destination.name} offers no Storage Commitment")

    def ask(self, question: Question) -> None:
        """Send the request; it is with the peer when this returns.

        Raises
        ------
        Refused
            The peer answered with a failure.
        Unreachable
            The association broke, or the peer fell silent.
        """
        assoc = self._destination.association
        # the report may overtake the response to the request, on the same association
        patches.answer_reports_first(assoc)
        try:
            status, _ = assoc.send_n_action(
                _commitment_request(question), _REQUEST, PUSH_MODEL, PUSH_MODEL_INSTANCE
            )
        except RuntimeError as exc:
            raise Unreachable(f"{self._destination.name} closed the association") from exc
        if "Status" not in status:
            raise Unreachable(f"{self._destination.name} gives no answer to N-ACTION")
        if status.Status != SUCCESS:
            answer = meaning(status.Status)
            raise Refused(f"{self._destination.name} answers N-ACTION with {answer}")

    def wait(self, seconds: float, ends: Callable[[], bool] = lambda: False) -> bool:
        """Return whether the answer came on this association within `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._destination.is_open and not ends():
            if self._answered.wait(0.05):
                return True
        return self._answered.is_set()

    def close(self) -> None:
        """Release the association."""
        self._destination.close()

    def __enter__(self) -> CommitmentAssociation:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _on_report(self, event: evt.Event) -> tuple[int, Dataset | None]:
        status = heard(event, self._on_answer, self._by)
        self._answered.set()
        return status, None


class Reports:
    """Hears, at the listener, the answers of peers that open an association for them.

    Parameters
    ----------
    on_answer : callable
    """

    def __init__(self, on_answer: OnAnswer) -> None:
        self._on_answer = on_answer

    def contexts(self, peer: Peer | None) -> list[PresentationContext]:
        """Return what is offered to a caller: it has to be a peer that is asked to commit."""
        return [commitment()] if peer and peer.storage_commitment else []

    def on_report(self, event: evt.Event, by: frozenset[str]) -> tuple[int, Dataset | None]:
        """Answer N-EVENT-REPORT of a host that is known as these peers."""
        return heard(event, self._on_answer, by), None


def heard(event: evt.Event, on_answer: OnAnswer, by: frozenset[str] | None = None) -> int:
    """Keep what an N-EVENT-REPORT says and return the status of the response (PS3.7 C)."""
    caller = ascii(str(event.assoc.remote.get("ae_title", "")).strip())[1:-1]
    try:
        if event.event_type not in _EVENTS:
            logger.warning("%s reports an unknown event of storage commitment", caller)
            return NO_SUCH_EVENT_TYPE
        given = cast("Any", event.request).EventInformation
        check_whole(given.getvalue() if given else b"", str(event.context.transfer_syntax))
        answer = replace(read(event.event_information), by=by)
        # a Transaction UID that this node did not give, or gave to somebody else
        if not on_answer(answer):
            logger.warning("%s answers a storage commitment that it was not asked for", caller)
            return INVALID_ARGUMENT
    except Transient as exc:
        logger.warning("the answer of %s to storage commitment is not kept: %s", caller, exc)
        return PROCESSING_FAILURE
    except (NotUnderstood, *UNREADABLE) as exc:
        logger.warning(
            "%s answers storage commitment with what cannot be read (%s)",
            caller,
            type(exc).__name__,
        )
        return INVALID_ARGUMENT
    committed = counted(len(answer.committed), "object")
    logger.info("%s commits to %s and not to %d", caller, committed, len(answer.failed))
    return SUCCESS


def read(information: Dataset) -> CommitmentAnswer:
    """Return what the Event Information of an N-EVENT-REPORT says.

    Raises
    ------
    NotUnderstood
        It has no Transaction UID.
    """
    transaction = str(information.get("TransactionUID") or "").strip()
    if not 0 < len(transaction) <= 64:
        raise NotUnderstood("no Transaction UID")
    failed = {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason") or PROCESSING_FAILURE)
        for item in information.get("FailedSOPSequence") or ()
    }
    kept = {
        str(item.ReferencedSOPInstanceUID)
        for item in information.get("ReferencedSOPSequence") or ()
    }
    # an object in both lists counts as failed: nothing may be believed safe that is not
    return CommitmentAnswer(transaction, frozenset(kept - failed.keys()), failed)


def _commitment_request(question: Question) -> Dataset:
    asked = Dataset()
    asked.TransactionUID = question.transaction_uid
    asked.ReferencedSOPSequence = []
    for sop_class, instance in question.objects:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
        asked.ReferencedSOPSequence.append(item)
    return asked
