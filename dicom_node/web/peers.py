"""Peers: how deliveries do, whether they answer and take a test, what to type in at their side."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from dicom_node.base.addresses import is_loopback
from dicom_node.base.errors import ChexFractError, NotFound
from dicom_node.dimse.contexts import REPORTS, SECOND_OBJECTS
from dicom_node.flow import test_report
from dicom_node.peers import peer_table, who_calls
from dicom_node.settings import Peer, Settings
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.refused import RefusedCaller
from dicom_node.web.board import peer_states
from dicom_node.web.holding import held_names
from dicom_node.web.render import Pages
from dicom_node.web.sessions import Door, Person, Posted

logger = logging.getLogger(__name__)

_AT_ONCE = 8
ANSWER_S = 10.0
"""Longest wait of a person for an echo."""

Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """What a peer said when it was asked."""

    ms: float | None = None
    takes: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    tests: tuple[test_report.Taken, ...] = ()
    """What became of the test objects."""
    problem: str = ""


def ask(ae_title: str, peer: Peer) -> PeerAnswer:
    """Ask a peer for a C-ECHO and for which report objects it accepts; nothing is sent."""
    answer = PeerAnswer()
    try:
        # Imported when an operator asks: pynetdicom is 7 MB that no page needs.
        from dicom_node.dimse.scu import Destination

        with Destination(ae_title, peer) as destination:
            destination.connect(tuple(REPORTS))
            taken = {uid for uid in REPORTS if destination.accepts(uid)}
            answer = replace(
                answer,
                takes=tuple(REPORTS[uid] for uid in REPORTS if uid in taken),
                refuses=tuple(REPORTS[uid] for uid in REPORTS if uid not in taken),
            )
            return replace(answer, ms=destination.echo())
    except ChexFractError as exc:
        return replace(answer, problem=str(exc))


class Echoes:
    """The last echo of each peer since this process started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Echo] = {}

    def note(self, name: str, answer: PeerAnswer) -> None:
        """Remember what a peer said to an echo just now."""
        with self._lock:
            self._known[name] = Echo(HOST_CLOCK.wall(), answer.ms, answer.problem)

    def known(self) -> dict[str, Echo]:
        """Return the echoes by the name of their peer."""
        with self._lock:
            return dict(self._known)


@dataclass(frozen=True, slots=True)
class Echo:
    """When a peer was asked, and its answer."""

    at: float
    ms: float | None
    problem: str


def test(ae_title: str, peer: Peer) -> PeerAnswer:
    """Store test objects about nobody at a peer."""
    try:
        return PeerAnswer(tests=tuple(test_report.send(ae_title, peer)))
    except ChexFractError as exc:
        return PeerAnswer(problem=str(exc))


def routes(
    settings: Settings, ledger: Ledger, door: Door, pages: Pages, echoes: Echoes
) -> APIRouter:
    """Return the page of the peers, the echo and the test."""
    router = APIRouter(prefix="/peers")
    viewer = Depends(door.needs("viewer"))
    operates = Depends(door.posts("operator"))

    def shown(
        person: Person, request: Request, answers: Mapping[str, PeerAnswer] | None = None
    ) -> HTMLResponse:
        states = peer_states(settings, ledger.history.status().destinations)
        known = echoes.known()
        for state in states:
            state["echo"] = known.get(str(state["name"]))
        return pages.page(
            "peers.html",
            person,
            states=states,
            answers=answers or {},
            patient=(test_report.PATIENT_NAME, test_report.PATIENT_ID),
            held=held_names(ledger, "destination"),
            refused=[_refused_row(settings, caller) for caller in ledger.refused.recent(20)],
            table=peer_table,
            address=_own_address(settings, request),
            is_local=is_loopback(settings.node.host),
            objects=_sent_sop_classes(settings),
        )

    @router.get("")
    def peers(request: Request, person: Person = viewer) -> HTMLResponse:
        """Show the peers."""
        return shown(person, request)

    @router.post("/all/echo-all")
    def echo_all(request: Request, posted: Posted = operates) -> Response:
        """Ask every peer that can be asked, at the same time."""
        names = [name for name, peer in settings.peers.items() if peer.port]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            answers = dict(zip(names, pool.map(asked, names), strict=True))
        return shown(posted.person, request, answers)

    def asked(name: str) -> PeerAnswer:
        answer = _ask_peer(settings, name, ask)
        echoes.note(name, answer)
        return answer

    @router.post("/{name}/echo")
    def echo(request: Request, name: Name, posted: Posted = operates) -> Response:
        """Ask a peer whether it answers and what it takes."""
        return answered(request, name, posted.person, asked(name))

    @router.post("/{name}/test")
    def send_test(request: Request, name: Name, posted: Posted = operates) -> Response:
        """Store a test object of each kind at a peer."""
        answer = _ask_peer(settings, name, test)
        logger.info(
            "test sent destination=%s by=%s %s",
            name,
            posted.person.name,
            " ".join(
                f"{outcome.kind}={outcome.state.replace(' ', '-')}" for outcome in answer.tests
            )
            or "not taken",
        )
        return answered(request, name, posted.person, answer)

    def answered(request: Request, name: str, person: Person, answer: PeerAnswer) -> Response:
        if not request.headers.get("hx-request"):
            return shown(person, request, {name: answer})
        patient = (test_report.PATIENT_NAME, test_report.PATIENT_ID)
        return pages.page("answer.html", person, answer=answer, patient=patient)

    @router.get("/all/echo-all")
    def back_to_all() -> Response:
        """Lead who reloads the answers to the list."""
        return RedirectResponse("/peers", 303)

    @router.get("/{name}/echo")
    @router.get("/{name}/test")
    def back(name: Name) -> Response:
        """Lead who reloads an answer to the list."""
        return RedirectResponse("/peers", 303)

    return router


def _refused_row(settings: Settings, caller: RefusedCaller) -> dict[str, Any]:
    """Return a refused caller, and whether it would be let in now."""
    now = who_calls(settings.peers, caller.ae_title, caller.address, None)
    return {**asdict(caller), "is_known": now.name is not None}


def _sent_sop_classes(settings: Settings) -> list[str]:
    """Return the SOP classes that this node may send, as an archive's list of them wants."""
    peers = settings.peers.values()
    wanted = {SR_CLASSES[name] for peer in peers for name in peer.sop_classes}
    wanted |= {SECOND_OBJECTS[k] for peer in peers for k in peer.objects if k in SECOND_OBJECTS}
    return [word for uid, word in REPORTS.items() if uid in wanted]


def _ask_peer(settings: Settings, name: str, act: Callable[[str, Peer], PeerAnswer]) -> PeerAnswer:
    peer = settings.peers.get(name)
    if peer is None:
        raise NotFound(f"no peer is named {name!r}")
    hurried = peer.model_copy(update={"timeout": min(peer.timeout, ANSWER_S)})
    return act(settings.node.ae_title, hurried)


def _own_address(settings: Settings, request: Request) -> str:
    """Return what others probably reach this node by."""
    if settings.node.host not in ("0.0.0.0", "::"):  # noqa: S104 - asked, not bound
        return settings.node.host
    used = request.url.hostname or ""
    return socket.gethostname() if is_loopback(used) or not used else used
