"""Verification and Storage SCP: who may associate, what is taken, and what each failure is called.

DICOM PS3.4 A (Verification), B (Storage); PS3.8 9.3.4 (A-ASSOCIATE-RJ). Query/Retrieve stands in
`dimse.retrieve`.
"""

from __future__ import annotations

import logging
import secrets
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any, ClassVar, Protocol, cast
from weakref import WeakKeyDictionary

from pydicom import config
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket

from dicom_node.base.addresses import parse_network
from dicom_node.base.errors import NotUnderstood, Permanent, Transient, for_strangers
from dicom_node.base.plurals import counted
from dicom_node.base.rims import OneOfMany
from dicom_node.dimse import Accepted, Sender, patches, stream
from dicom_node.dimse.acceptor import Server, host
from dicom_node.dimse.association_rq import Titles
from dicom_node.dimse.commitment import Reports
from dicom_node.dimse.contexts import APPLICATION, IMAGES, QUERIES, right_for
from dicom_node.dimse.entity import accepted, entity, sent_back
from dicom_node.dimse.port import Port, open_port
from dicom_node.dimse.reception import DataSet, Inlet, Reception, refusal
from dicom_node.dimse.refusals import Refusals
from dicom_node.dimse.retrieve import Retrieval
from dicom_node.dimse.security import acceptor, shown_certificate
from dicom_node.dimse.slots import Holder, Slots
from dicom_node.dimse.stream import Request, Stream
from dicom_node.peers import Caller, bare_title, may, same_host, who_calls
from dicom_node.settings import Settings
from dicom_node.standard.status import CANNOT_UNDERSTAND, NOT_SUPPORTED, OUT_OF_RESOURCES, SUCCESS
from dicom_node.store.catalogue import Catalogue

logger = logging.getLogger(__name__)

_ABORTS = frozenset(("AA-1", "AA-7", "AA-8"))
"""Actions that send an A-ABORT (PS3.8 Table 9-9)."""

STOP_S = 2.0
"""Time that a C-STORE in progress has to end when the listener stops."""


class InstanceKeeper(Protocol):
    """What keeps an Instance (`flow.intake`)."""

    def begin(self, accepted: Any) -> Any:
        """Return an `Incoming` for what an `Accepted` tells of."""

    def finish(self, incoming: Any, accepted: Any, sender: Any) -> object:
        """Keep and record it; when this returns, the Instance is durable."""


class NotNegotiated(NotUnderstood):
    """The request is of another SOP class than its presentation context: 0x0122."""

    status: ClassVar[int] = NOT_SUPPORTED


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row of PS3.8 Table 9-21, and how the log says it."""

    result: int
    source: int
    diagnostic: int
    reason: str


APPLICATION_CONTEXT = Rejection(1, 1, 2, "application context is not DICOM's")
CALLED_AE_UNKNOWN = Rejection(1, 1, 7, "called AE title not recognised")
CALLING_AE_UNKNOWN = Rejection(1, 1, 3, "calling AE title not recognised")
CALLING_HOST_UNKNOWN = Rejection(1, 1, 3, "calling AE title not known from this address")
TOO_MANY = Rejection(2, 3, 2, "too many associations")
NO_ROOM = Rejection(2, 3, 1, "no room for Instances")
PROTOCOL_VERSION = Rejection(1, 2, 2, "bit 0 of its protocol version is 0")
"""Sent by pynetdicom's state machine, before an association is asked for here."""


class Listener:
    """The node's port.

    Parameters
    ----------
    settings : Settings
    intake : InstanceKeeper
        Takes each Instance; C-STORE is answered 0x0000 after its ``finish`` has returned.
    has_room : callable
        Whether Instances can be kept now; if not, associations for storage are rejected.
    catalogue : Catalogue, optional
        Reports that peers may query and retrieve; without it no Query/Retrieve is offered.
    commitments : commitment.Reports, optional
        Hears what peers commit to; without it no Storage Commitment is accepted.
    refusals : Refusals, optional
        Take note of whom is refused.
    port : Port, optional
        Where it is open already; else it is opened at the start.
    """

    def __init__(
        self,
        settings: Settings,
        intake: InstanceKeeper,
        has_room: Callable[[], bool] = lambda: True,
        catalogue: Catalogue | None = None,
        commitments: Reports | None = None,
        refusals: Refusals | None = None,
        port: Port | None = None,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._has_room = has_room
        self._retrieval = Retrieval(settings, catalogue) if catalogue else None
        self._commitments = commitments
        self._contexts = [
            context for context in accepted() if catalogue or context.abstract_syntax not in QUERIES
        ]
        self._is_streamed = stream.is_known()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._slots = Slots[Association](
            lambda assoc: bool(assoc.is_alive()),
            self._silent_for,
            self._give_way,
            port.table if port else None,
        )
        self._port = port
        self._busy: Counter[Association] = Counter()
        """Queries and retrievals that are being answered."""
        self._titles: WeakKeyDictionary[Association, Titles] = WeakKeyDictionary()
        self._names: WeakKeyDictionary[Association, str] = WeakKeyDictionary()
        self._refusals = refusals or Refusals()

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        if self._server is None:
            raise RuntimeError("the listener has not been started")
        return int(self._server.server_address[1])

    @property
    def is_listening(self) -> bool:
        """Whether the port is still served."""
        return bool(self._thread and self._thread.is_alive())

    def start(self) -> None:
        """Bind the port and serve it in threads.

        Raises
        ------
        ConfigurationError
            The port is in use or not ours to take, or a TLS file is wrong.
        """
        # Every value that a peer sends is checked where it is used; a warning would print it.
        config.settings.reading_validation_mode = config.IGNORE
        node = self._settings.node
        tls = acceptor(node.tls)
        port = self._port or Port(open_port(node.host, node.port))
        self._server = self._make_server(tls, port)
        self._server.refusals = self._refusals
        self._server.proxies = tuple(parse_network(text) for text in node.proxies)
        self._refusals.start()
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.2},
            name="listener",
            daemon=True,
        )
        self._thread.start()
        secured = " with TLS" if tls else ""
        logger.debug("%s at %s port %d%s", node.ae_title, node.host, self.port, secured)

    def _make_server(self, tls: ssl.SSLContext | None, port: Port) -> Server:
        node = self._settings.node
        ae = entity(node.ae_title, node.max_pdu, moves=True)
        # Associations are counted in `_find_rejection`; pynetdicom counts silent sockets too.
        ae.maximum_associations = 1 << 20
        ae.acse_timeout = 5
        ae.dimse_timeout = ae.network_timeout = node.idle_timeout
        server = ae.make_server(
            (node.host, node.port),
            contexts=self._contexts,
            ssl_context=tls,
            evt_handlers=self._event_handlers(),
            server_class=Server,
            opened=port.socket,
            look=self._slots.exchange,
            pause=self._slots.pause,
        )
        # pynetdicom copies these for each association, which takes 10 ms of processor: what is
        # offered is chosen once it is known who calls (`_offer_contexts`)
        server.contexts = []
        return cast("Server", server)

    def take(self, settings: Settings) -> None:
        """Know other peers from the next association on; those that are open end undisturbed."""
        self._settings = settings
        if self._retrieval:
            self._retrieval.take(settings)

    def stop(self) -> None:
        """Stop accepting, let each C-STORE in progress end for up to 2 s, abort the rest."""
        if self._server is None:
            return
        self._server.shutdown()
        deadline = time.monotonic() + STOP_S
        while (live := self._live_associations()) and time.monotonic() < deadline:
            for assoc in live:
                if not cast("Reception", assoc.dimse).is_receiving:
                    self._refusals.hush(assoc)
                    assoc.abort(block=False)
            time.sleep(0.02)
        for assoc in self._live_associations():
            logger.warning("aborting the association of %s: the node stops", _caller_name(assoc))
            self._refusals.hush(assoc)
            assoc.abort(block=False)
        self._settle_associations()
        self._refusals.stop()

    def _live_associations(self) -> list[Association]:
        return self._slots.open()

    def _settle_associations(self) -> None:
        """Give the aborts a moment to leave, then close what is still open."""
        deadline = time.monotonic() + 0.5
        while self._live_associations() and time.monotonic() < deadline:
            time.sleep(0.02)
        for assoc in self._live_associations():
            if assoc.dul.socket:
                assoc.dul.socket.close()

    def _event_handlers(self) -> list[Any]:
        retrieval: list[Any] = []
        if self._retrieval:
            retrieval = [
                (evt.EVT_C_FIND, self._at_work(self._retrieval.on_find)),
                (evt.EVT_C_GET, self._at_work(self._retrieval.on_get)),
                (evt.EVT_C_MOVE, self._at_work(self._retrieval.on_move)),
            ]
        if self._commitments:
            retrieval.append((evt.EVT_N_EVENT_REPORT, self._on_report))
        return [
            *retrieval,
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_CONN_CLOSE, self._on_close),
            (evt.EVT_FSM_TRANSITION, self._on_transition),
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
        ]

    def _on_open(self, event: evt.Event) -> None:
        node = self._settings.node
        assoc = event.assoc
        connection = cast("AssociationSocket", assoc.dul.socket)
        inlet = Inlet(connection, node.max_pdu, node.idle_timeout, self._refusals)
        patches.replace_socket(assoc, inlet)
        provider = Reception(assoc, self._intake.begin, node.max_instance, self._refusals)
        patches.replace_provider(assoc, provider)
        patches.serve_in_full(
            assoc,
            lambda what: self._note_refusal("ignored", assoc, what),
        )
        self._names[assoc] = secrets.token_hex(4)

        def on_fault(reason: str) -> None:
            self._note_refusal("aborting the association request of", assoc, reason)

        patches.read_requests(assoc, partial(self._titles.__setitem__, assoc), on_fault)
        if self._is_streamed:
            Stream(assoc, frozenset(IMAGES), self._answer_store)

    def _on_close(self, event: evt.Event) -> None:
        cast("Reception", event.assoc.dimse).close()
        self._slots.release(event.assoc)
        if isinstance(inlet := event.assoc.dul.socket, Inlet):
            inlet.give_back()

    def _on_transition(self, event: evt.Event) -> None:
        """Take note of what ends an association inside pynetdicom (PS3.8 9.2.1)."""
        action, assoc = cast("Any", event).action, event.assoc
        # PS3.8 Table 9-7: AE-6 leads there where the protocol version is not 1, and has rejected by
        # itself
        if action == "AE-6" and cast("Any", event).next_state == "Sta13":
            self._note_refusal("rejected the association of", assoc, PROTOCOL_VERSION.reason)
        elif action in _ABORTS:
            # Evt15: this side asked for the abort; its idle timer is one reason to
            is_idle = cast("Any", event).fsm_event == "Evt15" and assoc.dul.idle_timer_expired()
            silent = f"nothing came for {self._settings.node.idle_timeout:g} s"
            reason = silent if is_idle else "it sent what does not belong here"
            self._note_refusal("aborting", assoc, reason)

    def _note_refusal(self, verb: str, assoc: Association, reason: str) -> None:
        self._refusals.note(verb, refusal(assoc, reason), assoc)

    def _on_request(self, event: evt.Event) -> None:
        """Admit or reject an association before it is negotiated."""
        assoc = event.assoc
        # the answer to an unforeseen fault: transient, so that the caller tries again
        rejection: Rejection | None = TOO_MANY
        with OneOfMany(
            lambda exc: logger.error("request of %s", _caller_name(assoc), exc_info=exc)
        ):
            rejection = self._find_rejection(assoc)
        if rejection:
            self._note_refusal("rejected the association of", assoc, rejection.reason)
            assoc.acse.send_reject(rejection.result, rejection.source, rejection.diagnostic)
            assoc.kill()
        else:
            self._offer_contexts(assoc)

    def _offer_contexts(self, assoc: Association) -> None:
        """Offer what is for this caller, beside what is for all.

        The reports' SOP classes are for who will store what it gets by C-GET: an archive that
        found them accepted would send its own here. Storage Commitment is for those who are asked.
        """
        settings = self._settings
        caller = who_calls(settings.peers, *_calling_side(assoc))
        peer = settings.peers[caller.name] if caller.name else None
        taken: list[PresentationContext] = []
        if self._retrieval and may(settings, caller, "retrieve"):
            roles = assoc.requestor.role_selection
            taken += sent_back([str(uid) for uid, role in roles.items() if role.scp_role])
        if self._commitments and peer and "commit" in peer.may:
            taken += self._commitments.contexts(peer)
        known = {context.abstract_syntax for context in taken}
        others = [context for context in self._contexts if context.abstract_syntax not in known]
        offered = assoc.acceptor.supported_contexts = [
            *(
                context
                for context in others
                if may(settings, caller, right_for(context.abstract_syntax))
            ),
            *taken,
        ]
        wanted = [str(context.abstract_syntax) for context in assoc.requestor.requested_contexts]
        if not {str(context.abstract_syntax) for context in offered}.intersection(wanted):
            first = ascii(wanted[0])[1:-1] if wanted else "none"
            rights = [right_for(uid) for uid in wanted]
            lacking = [right for right in rights if not may(settings, caller, right)]
            proposed = counted(len(wanted), "context")
            reason = f"it proposes {proposed}, none of them spoken here: {first} …"
            if lacking and caller.name:
                reason = f"peer {caller.name} may not {lacking[0]}; peers.{caller.name}.may says so"
            self._refusals.note("no presentation context for", refusal(assoc, reason), assoc)

    def _find_rejection(self, assoc: Association) -> Rejection | None:
        node = self._settings.node
        request = cast("Any", assoc.requestor.primitive)
        if str(request.application_context_name or "").strip() != APPLICATION:
            return APPLICATION_CONTEXT
        calling, address, certificate = _calling_side(assoc)
        titles = self._titles.get(assoc)
        if titles and titles.fault:
            known = CALLED_AE_UNKNOWN if "called" in titles.fault else CALLING_AE_UNKNOWN
            return replace(known, reason=titles.fault)
        known_titles = (node.ae_title, *node.ae_titles)
        if node.called_ae_check and bare_title(request.called_ae_title) not in known_titles:
            return CALLED_AE_UNKNOWN
        caller = who_calls(self._settings.peers, calling, address, certificate)
        if node.known_peers_only and (unknown := _unknown_caller(caller)):
            return unknown
        wants_storage = any(
            context.abstract_syntax in IMAGES
            for context in request.presentation_context_definition_list
        )
        # only where images are proposed: queries and echoes are served while the disk is full
        if wants_storage and not self._has_room():
            return NO_ROOM
        # last of all: whoever is rejected for another reason takes no place
        holder = Holder(calling, address, caller.name is not None)
        reason = self._slots.take(
            assoc, holder, node.max_associations, node.max_associations_per_peer
        )
        return replace(TOO_MANY, reason=reason) if reason else None

    def _silent_for(self, assoc: Association) -> float:
        """Return for how long nothing has come on an association and nothing is done for it."""
        inlet, reception = assoc.dul.socket, assoc.dimse
        if not isinstance(inlet, Inlet) or not isinstance(reception, Reception):
            return 0.0
        # during negotiation the inlet has a deadline of its own
        is_at_work = reception.is_receiving or self._busy[assoc] or not assoc.is_established
        return 0.0 if is_at_work else inlet.silent_for

    def _give_way(self, assoc: Association, reason: str) -> None:
        self._note_refusal("aborting the association of", assoc, reason)
        assoc.abort(block=False)

    def _at_work(self, handler: Any) -> Any:
        """Return a handler of Query/Retrieve during which the association is not idle."""

        def handle(event: evt.Event) -> Iterator[Any]:
            # the handler is a generator: it is at work until its last answer is out
            self._busy[event.assoc] += 1
            try:
                yield from handler(event)
            finally:
                self._busy[event.assoc] -= 1
                if not self._busy[event.assoc]:
                    del self._busy[event.assoc]

        return handle

    def _on_report(self, event: evt.Event) -> tuple[int, Dataset | None]:
        """Answer N-EVENT-REPORT for who calls: it may answer what it was asked itself."""
        peers, (title, address, certificate) = self._settings.peers, _calling_side(event.assoc)
        caller = who_calls(peers, title, address, certificate).name
        by = same_host(peers, peers[caller].host, address) if caller else frozenset()
        return cast("Reports", self._commitments).on_report(event, by)

    def _on_store(self, event: evt.Event) -> int | Dataset:
        """Answer a C-STORE request that came the standard way."""
        assoc, primitive = event.assoc, cast("Any", event.request)
        accepted = Accepted(
            str(primitive.AffectedSOPClassUID),
            str(primitive.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
        )
        request = Request(primitive._context_id, primitive.MessageID, primitive.Priority, accepted)
        reception = cast("Reception", assoc.dimse)
        with _data_set(reception, primitive) as data_set:
            if accepted.sop_class_uid not in IMAGES or (
                accepted.sop_class_uid != event.context.abstract_syntax
            ):
                data_set.fault = data_set.fault or NotNegotiated("not for this context")
            status, comment = self._answer_store(assoc, request, data_set)
        return _status_dataset(status, comment) if status else status

    def _answer_store(
        self, assoc: Association, request: Request, data_set: DataSet
    ) -> tuple[int, str]:
        """Keep a data set; return Status (PS3.4 Table B.2-1, PS3.7 C) and Error Comment."""
        # Where nothing is known to be wrong with the Instance, its sender shall keep it.
        status, comment, reason = OUT_OF_RESOURCES, "internal error; send later", "see above"
        with OneOfMany(
            lambda exc: logger.error("C-STORE of %s", _caller_name(assoc), exc_info=exc)
        ):
            try:
                self._keep_data_set(assoc, request, data_set)
            except Transient as exc:
                comment, reason = "out of resources; send later", str(exc)
            except Permanent as exc:
                status, comment = getattr(exc, "status", CANNOT_UNDERSTAND), for_strangers(exc)
                reason = str(exc)
            else:
                return SUCCESS, ""
        name = _caller_name(assoc)
        logger.warning("refused an Instance of %s with 0x%04X: %s", name, status, reason)
        return status, _plain_comment(comment)

    def _keep_data_set(self, assoc: Association, request: Request, data_set: DataSet) -> None:
        if data_set.fault:
            raise data_set.fault
        if not data_set.size:
            raise NotUnderstood("no data set")
        sender = _sender_of_request(assoc, request, self._names.get(assoc, ""))
        self._intake.finish(data_set.incoming, request.accepted, sender)


@contextmanager
def _data_set(reception: Reception, primitive: Any) -> Iterator[DataSet]:
    """Yield a request's data set on its way to the spool; discard it afterwards unless kept."""
    data_set = primitive.DataSet
    if not isinstance(data_set, DataSet):
        # Command and data set came in one PDU, so nobody could step in between.
        whole = cast("BytesIO | None", data_set)
        data_set = reception.opened(primitive, primitive._context_id)
        data_set.write(whole.getvalue() if whole else b"")
    with reception.serving(data_set) as is_open:
        if not is_open:
            data_set.fault = NotUnderstood("the association closed before the Instance was kept")
        yield data_set


def _sender_of_request(assoc: Association, request: Request, name: str) -> Sender:
    calling_ae, calling_host, certificate = _calling_side(assoc)
    called = cast("Any", assoc.requestor.primitive).called_ae_title
    return Sender(
        calling_ae=calling_ae,
        calling_host=calling_host,
        called_ae=bare_title(called),
        association=name,
        certificate=certificate,
        priority=request.priority if request.priority in (0, 1, 2) else 0,
    )


def _status_dataset(status: int, comment: str) -> Dataset:
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = comment
    return answer


def _plain_comment(comment: str) -> str:
    # (0000,0902) is LO: 64 characters of the default repertoire, without backslash.
    plain = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in comment)
    return plain[:64].strip()


def _calling_side(assoc: Association) -> tuple[str, str, bytes]:
    """Return AE title, address and certificate of the caller."""
    request = cast("Any", assoc.requestor.primitive)
    connection = cast("AssociationSocket", assoc.dul.socket).socket
    address = host((assoc.requestor.address,))
    return bare_title(request.calling_ae_title), address, shown_certificate(connection)


def _unknown_caller(caller: Caller) -> Rejection | None:
    if caller.name is not None:
        return None
    if not caller.is_title_known:
        return CALLING_AE_UNKNOWN
    return replace(CALLING_HOST_UNKNOWN, reason=f"{CALLING_HOST_UNKNOWN.reason} ({caller.problem})")


def _caller_name(assoc: Association) -> str:
    """Return who calls, with what a peer wrote escaped."""
    request = cast("Any", assoc.requestor.primitive)
    title = bare_title(request.calling_ae_title) if request else "?"
    return f"{ascii(title)[1:-1]}@{host((assoc.requestor.address,))}"
