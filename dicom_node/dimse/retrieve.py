"""Query/Retrieve SCP over this node's reports: C-FIND, C-GET and C-MOVE (DICOM PS3.4 C)."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from dicom_node.base.errors import ChexFractError, NotUnderstood, Transient
from dicom_node.base.logs import Sparse
from dicom_node.base.plurals import counted
from dicom_node.base.rims import OneOfMany
from dicom_node.dimse import patches
from dicom_node.dimse.acceptor import MAX_OTHER_PDU
from dicom_node.dimse.contexts import EXPLICIT_LITTLE, IMPLICIT_LITTLE, REPORTS, VERIFICATION
from dicom_node.dimse.security import requestor, shown_certificate
from dicom_node.peers import bare_title, who_calls, who_is_named
from dicom_node.settings import Peer, Settings
from dicom_node.standard import matching
from dicom_node.standard.header import MAX_KEYS, check_query
from dicom_node.standard.sr_classes import SR_CLASSES, is_exchangeable
from dicom_node.store.catalogue import LEVELS, UNIQUE, Catalogue, Level, Stored, answer, uncompared
from dicom_node.store.uses import Use, encoded, noting, studies_of

logger = logging.getLogger(__name__)
_refused = Sparse(logger, per_minute=60)
"""Lines that a peer's requests cause."""

PENDING = 0xFF00
NOT_ALL_KEYS = 0xFF01
CANCEL = 0xFE00
OUT_OF_RESOURCES = 0xA700
CANNOT_COUNT = 0xA701
IDENTIFIER_DOES_NOT_MATCH = 0xA900
UNABLE_TO_PROCESS = 0xC000

MAX_OBJECTS = 65535
"""Sub-operations are counted in 16 bits (PS3.7 C-GET, C-MOVE)."""

PATIENT_ROOT = "1.2.840.10008.5.1.4.1.2.1."

INSTANCE_LEVEL = "INSTANCE"
"""What some products call the level IMAGE."""

Answer = tuple[int | Dataset, Dataset | None]


class Retrieval:
    """Answers queries and retrievals; the handlers are pynetdicom's generators.

    Parameters
    ----------
    settings : Settings
        C-MOVE goes to its peers only.
    catalogue : Catalogue
    """

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._note = noting(settings, catalogue.ledger)

    def take(self, settings: Settings) -> None:
        """Move to other peers from the next request on."""
        self._settings = settings

    def on_find(self, event: evt.Event) -> Iterator[Answer]:
        """Answer C-FIND: one pending response per match (PS3.4 C.4.1)."""
        count, failures = 0, list[Dataset]()
        try:
            with OneOfMany(lambda exc: failures.append(_failure_status(event, exc))):
                # pynetdicom would answer 0xC311 with a traceback
                level, keys = _read_identifier(event)
                left_out = uncompared(level, keys)
                pending = NOT_ALL_KEYS if left_out else PENDING
                for found in self._catalogue.find(level, keys):
                    if event.is_cancelled:
                        yield CANCEL, None
                        return
                    count += 1
                    yield pending, answer(keys, level, found)
                logger.info("%s found %d at level %s", _caller_title(event.assoc), count, level)
            if failures:
                yield failures[0], None
        finally:
            self._note(replace(_use_of_request("queried", event), is_served=not failures))

    def on_get(self, event: evt.Event) -> Iterator[Any]:
        """Answer C-GET: send what is named on the same association (PS3.4 C.4.3)."""
        found, failure = self._find_named(event)
        yield max(len(found), int(failure is not None))
        contexts = (context for context in event.assoc.accepted_contexts if context.as_scu)
        accepted = {str(context.abstract_syntax) for context in contexts}
        taken = [uid for uid in REPORTS if uid in accepted]
        use = _use_of_request("retrieved", event)
        yield from self._sub_operations(event, found, failure, use, lambda: taken)

    def on_move(self, event: evt.Event) -> Iterator[Any]:
        """Answer C-MOVE: send what is named to a peer (PS3.4 C.4.2)."""
        found, failure = self._find_named(event)
        title = str(event.move_destination or "").strip()
        peers = self._settings.peers
        request = cast("Any", event.assoc.requestor.primitive)
        caller = who_calls(
            peers,
            request.calling_ae_title,
            str(event.assoc.requestor.address),
            shown_certificate(cast("Any", event.assoc.dul.socket).socket),
        )
        named, why = who_is_named(peers, title, caller.name)
        peer = peers[named] if named else None
        if peer is None or not _has_answer(peer):
            why = why or "it gives no answer"
            name = _caller_title(event.assoc)
            _refused.warning("%s moves to %s: %s", name, ascii(title)[1:-1], why)
            # answered as 0xA801, move destination unknown (PS3.4 Table C.4-2)
            yield None, None
            return
        accepted: set[str] = set()

        def on_accepted(event: evt.Event) -> None:
            accepted.update(
                str(context.abstract_syntax) for context in event.assoc.accepted_contexts
            )

        tls = requestor(peer.tls)
        proposed = _proposed_classes(found, [SR_CLASSES[name] for name in peer.sop_classes])
        more = {
            "contexts": [
                build_context(uid, [EXPLICIT_LITTLE, IMPLICIT_LITTLE]) for uid in proposed
            ],
            "ae_title": peer.ae_title,
            "max_pdu": peer.max_pdu,
            "evt_handlers": [
                (evt.EVT_CONN_OPEN, _on_open, [peer]),
                (evt.EVT_ACCEPTED, on_accepted),
            ],
            "tls_args": (tls, peer.host) if tls else None,
        }
        # then the number of sub-operations, and one for a failure: after 0 pynetdicom answers
        # success
        yield peer.host, peer.port, more
        yield max(len(found), int(failure is not None))
        use = _use_of_request("retrieved", event)
        use = replace(use, receiver=peer.ae_title, receiver_address=peer.host)

        def taken() -> list[str]:
            return [uid for uid in proposed if uid in accepted]

        yield from self._sub_operations(event, found, failure, use, taken)

    def _sub_operations(
        self,
        event: evt.Event,
        found: list[Stored],
        failure: Dataset | None,
        use: Use,
        taken: Callable[[], Sequence[str]],
    ) -> Iterator[Answer]:
        """Yield the objects, and note those that were, however the association ends.

        ``taken`` returns the SOP classes that the receiver accepted, the preferred one first.
        """
        sent: list[Stored] = []
        untaken: Counter[str] = Counter()
        receiver = use.receiver or use.user
        try:
            if failure is not None:
                yield failure, None
            for stored in found:
                if event.is_cancelled:
                    yield CANCEL, None
                    return
                content = self._read_object(stored, taken())
                if content is None:
                    is_report = is_exchangeable(stored.sop_class_uid)
                    untaken["SR class" if is_report else stored.sop_class_uid] += 1
                elif "SOPClassUID" in content:
                    sent.append(stored)
                yield PENDING, _gone_object(stored) if content is None else content
        finally:
            # also when the peer goes in the middle: the trail has what was sent until then
            if untaken:
                objects, kinds = counted(untaken.total(), "object"), ", no ".join(untaken)
                _refused.warning("%s not sent: %s takes no %s", objects, receiver, kinds)
            if sent or failure is not None:
                is_served = failure is None
                self._note(replace(use, studies=studies_of(sent), is_served=is_served))

    def _read_object(self, stored: Stored, taken: Sequence[str]) -> Dataset | None:
        """Return an object as the receiver takes it, None where it takes it in no way."""
        try:
            given = self._catalogue.give_out(stored, taken)
            return None if given is None else given.read()
        except (OSError, InvalidDicomError, NotUnderstood):
            logger.warning("%s is no longer in the spool", stored.sop_instance_uid)
            return _gone_object(stored)

    def _find_named(self, event: evt.Event) -> tuple[list[Stored], Dataset | None]:
        """Return the objects that the identifier names, and the status of a failure."""
        failures = list[Dataset]()
        # pynetdicom would answer 0xC411 with a traceback
        with OneOfMany(lambda exc: failures.append(_failure_status(event, exc))):
            found = self._find_objects(event)
            objects = counted(len(found), "object")
            logger.info("%s retrieves %s", _caller_title(event.assoc), objects)
            return found, None
        return [], failures[0]

    def _find_objects(self, event: evt.Event) -> list[Stored]:
        level, keys = _read_identifier(event)
        unique = UNIQUE[level]
        if unique not in keys or matching.is_universal(keys[unique]):
            raise _Mismatch(f"no {unique}")
        found = self._catalogue.objects(level, keys)
        if len(found) > MAX_OBJECTS:
            raise _TooMany(f"{len(found)} objects")
        return found


def _gone_object(stored: Stored) -> Dataset:
    """Return what pynetdicom counts as a failure under this UID: it has no SOP class."""
    gone = Dataset()
    gone.SOPInstanceUID = stored.sop_instance_uid
    return gone


class _Mismatch(Exception):
    """The identifier is none of this information model."""


class _TooMany(Exception):
    """More objects than sub-operations can be counted."""


def _read_identifier(event: evt.Event) -> tuple[Level, Dataset]:
    """Return level and keys of a request."""
    given = cast("Any", event.request).Identifier
    check_query(given.getvalue() if given else b"", str(event.context.transfer_syntax))
    keys = event.identifier
    _open_stars(keys)
    seen = 0

    def count(_ds: Dataset, _element: DataElement) -> None:
        nonlocal seen
        seen += 1
        if seen > MAX_KEYS:  # those in items of a stated length are seen here for the first time
            raise NotUnderstood(f"more than {MAX_KEYS} elements")

    keys.walk(count)  # decode all of it here, where a failure has a status
    level = str(keys.get("QueryRetrieveLevel") or "").strip()
    level = "IMAGE" if level == INSTANCE_LEVEL else level
    model = str(event.context.abstract_syntax)
    lowest = 0 if model.startswith(PATIENT_ROOT) else 1
    for known in LEVELS[lowest:]:
        if level == known:
            return known, keys
    raise _Mismatch(f"level {level[:16]!r}")


def _open_stars(keys: Dataset) -> None:
    """Empty the keys of numbers that are ``*``: as values they could not be decoded."""
    for tag, element in list(keys.items()):
        if isinstance(element, RawDataElement) and element.value and not element.value.strip(b"* "):
            keys[tag] = element._replace(value=b"", length=0)


def _proposed_classes(found: Sequence[Stored], sr_classes: Sequence[str]) -> list[str]:
    """Return the SOP classes to propose for some objects, `sr_classes` for each report.

    Verification is what any peer accepts: a failure goes out after an association, too.
    """
    classes = [VERIFICATION]
    for stored in found:
        classes += sr_classes if is_exchangeable(stored.sop_class_uid) else [stored.sop_class_uid]
    return list(dict.fromkeys(classes))


def _use_of_request(what: Literal["queried", "retrieved"], event: evt.Event) -> Use:
    """Return who asks what, for the audit trail."""
    caller = _caller_title(event.assoc)
    identifier = cast("Any", event.request).Identifier
    return Use(
        what,
        caller,
        str(event.context.abstract_syntax),
        ae_title=caller,
        address=str(event.assoc.requestor.address).removeprefix("::ffff:"),
        query=encoded(identifier.getvalue() if identifier else b""),
        transfer_syntax=str(event.context.transfer_syntax),
    )


def _failure_status(event: evt.Event, exc: Exception) -> Dataset:
    """Return the status of a request that cannot be answered (PS3.4 Tables C.4-1 to C.4-3)."""
    status, comment = UNABLE_TO_PROCESS, "unable to process"
    if isinstance(exc, _Mismatch):
        status, comment = IDENTIFIER_DOES_NOT_MATCH, f"identifier: {exc}"
    elif isinstance(exc, _TooMany):
        status, comment = CANNOT_COUNT, str(exc)
    elif isinstance(exc, Transient):
        status, comment = OUT_OF_RESOURCES, "out of resources; ask later"
    elif isinstance(exc, NotUnderstood):
        comment = f"identifier: {exc}"
    elif not isinstance(exc, ChexFractError):
        comment = "the identifier cannot be understood"
    reason = ascii(comment) if isinstance(exc, _Mismatch) else f"{comment} ({type(exc).__name__})"
    _refused.warning(
        "refused a request of %s with 0x%04X: %s", _caller_title(event.assoc), status, reason
    )
    plain = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in comment)
    response = Dataset()
    response.Status = status
    response.ErrorComment = plain[:64]
    return response


def _has_answer(peer: Peer) -> bool:
    """Knock: pynetdicom has no answer of its own for a destination that is switched off."""
    try:
        socket.create_connection((peer.host, peer.port), timeout=5).close()
    except OSError:
        return False
    return True


def _on_open(event: evt.Event, peer: Peer) -> None:
    patches.set_no_delay(event.assoc)
    patches.bound_reads(event.assoc, peer.timeout, max(peer.max_pdu, MAX_OTHER_PDU))


def _caller_title(assoc: Association) -> str:
    request = cast("Any", assoc.requestor.primitive)
    return ascii(bare_title(request.calling_ae_title))[1:-1] if request else "?"
