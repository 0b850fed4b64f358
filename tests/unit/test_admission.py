"""Who may associate: AE titles, addresses and networks, limits, and the code of each rejection."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from listening import Node, listening
from pynetdicom import AE
from pynetdicom.association import Association

from dicom_node.dimse import acceptor
from dicom_node.settings import Peer

CR = "1.2.840.10008.5.1.4.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{n}" for n in (1, 2, 3))


def peer(host: str = "192.0.2.7", title: str = "XRAY1", **more: Any) -> Peer:
    return Peer(ae_title=title, host=host, port=104, **more)


def request(
    node: Node, calling: str = "MODALITY", called: str = "CHEXFRACT", uid: str = VERIFICATION
) -> Association:
    ae = AE(calling)
    ae.add_requested_context(uid)
    return ae.associate("127.0.0.1", node.port, ae_title=called)


def code(assoc: Association) -> tuple[int, int, int]:
    assert assoc.is_rejected
    answer: Any = assoc.acceptor.primitive
    return answer.result, answer.result_source, answer.diagnostic


def test_each_refusal_has_its_code_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(tmp_path) as node:
        assert code(request(node, calling="STRANGER")) == (1, 1, 3)
        assert code(request(node, called="ANOTHER")) == (1, 1, 7)
        node.spool.min_free = 1 << 62
        assert code(request(node, uid=CR)) == (2, 3, 1)
        far = {"modality": peer(title="MODALITY")}
        node.listener.take(node.settings.model_copy(update={"peers": far}))
        assert code(request(node)) == (1, 1, 3)
    lines = [line for line in caplog.messages if "rejected the association" in line]
    assert lines == [
        "rejected the association of STRANGER@127.0.0.1: calling AE title not recognised",
        "rejected the association of MODALITY@127.0.0.1: called AE title not recognised",
        "rejected the association of MODALITY@127.0.0.1: no room for Instances",
        "rejected the association of MODALITY@127.0.0.1: "
        "calling AE title not known from this address (peer modality calls from 192.0.2.7)",
    ]


@pytest.mark.parametrize(
    "limits", [{"max_associations": 3}, {"max_associations_per_peer": 3}], ids=["all", "of a peer"]
)
def test_the_association_above_a_limit_is_rejected_for_now(
    tmp_path: Path, limits: dict[str, int]
) -> None:
    with listening(tmp_path, **limits) as node, ExitStack() as stack:
        for _ in range(3):
            assoc = request(node)
            assert assoc.is_established
            stack.callback(assoc.abort)
        assert code(request(node)) == (2, 3, 2)


def test_one_peer_at_its_limit_leaves_room_for_another(tmp_path: Path) -> None:
    with listening(tmp_path, max_associations_per_peer=2) as node, ExitStack() as stack:
        peers = node.settings.peers | {"other": peer("127.0.0.1", title="OTHER")}
        node.listener.take(node.settings.model_copy(update={"peers": peers}))
        for _ in range(2):
            stack.callback(request(node).abort)
        assert code(request(node)) == (2, 3, 2)
        other = request(node, calling="OTHER")
        stack.callback(other.abort)
        assert other.is_established


@pytest.mark.parametrize(
    ("may", "accepted"),
    [
        (("store", "query", "retrieve", "commit"), {VERIFICATION, CR, FIND, GET, MOVE}),
        (("store",), {VERIFICATION, CR}),
        (("query",), {VERIFICATION, FIND}),
        (("retrieve",), {VERIFICATION, GET, MOVE}),
        ((), {VERIFICATION}),
    ],
)
def test_a_peer_gets_the_contexts_that_it_has_rights_for(
    tmp_path: Path, may: tuple[str, ...], accepted: set[str]
) -> None:
    with listening(tmp_path) as node:
        known = {"modality": peer("127.0.0.1", title="MODALITY", may=may)}
        node.listener.take(node.settings.model_copy(update={"peers": known}))
        ae = AE("MODALITY")
        for uid in (VERIFICATION, CR, FIND, GET, MOVE):
            ae.add_requested_context(uid)
        assoc = ae.associate("127.0.0.1", node.port, ae_title="CHEXFRACT")
        assert {str(context.abstract_syntax) for context in assoc.accepted_contexts} == accepted
        assoc.release()


def test_a_node_answers_to_each_of_its_ae_titles(tmp_path: Path) -> None:
    with listening(tmp_path, ae_titles=["BONES", "FRACTURES"]) as node:
        for called, is_known in (("CHEXFRACT", True), ("BONES", True), ("CHEST", False)):
            assoc = request(node, called=called)
            assert assoc.is_established is is_known
            if is_known:
                assoc.release()


def test_checks_can_be_switched_off(tmp_path: Path) -> None:
    with listening(tmp_path, known_peers_only=False, called_ae_check=False) as node:
        assoc = request(node, calling="STRANGER", called="ANOTHER")
        assert assoc.is_established
        assoc.release()


def test_a_caller_whose_contexts_are_unknown_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(tmp_path) as node:
        request(node, uid="1.2.840.10008.5.1.4.1.1.2").abort()
    lines = [line for line in caplog.messages if "none of them spoken here" in line]
    assert lines == [
        "no presentation context for MODALITY@127.0.0.1: it proposes 1 context, none of them "
        "spoken here: 1.2.840.10008.5.1.4.1.1.2 …"
    ]


def test_a_host_with_silent_connections_leaves_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "MAX_WAITING_OF_HOST", 3)
    with listening(tmp_path) as node, ExitStack() as stack:

        def silent(address: str) -> None:
            line = socket.create_connection(("127.0.0.1", node.port), 5, (address, 0))
            stack.enter_context(line)

        for _ in range(3):
            silent("127.0.0.2")
        assert until(lambda: len(node.listener._server._waiting) == 3)
        silent("127.0.0.2")
        assert until(lambda: "turned away 127.0.0.2: 3 connections of it are silent" in caplog.text)
        assoc = request(node)
        assert assoc.is_established
        assoc.release()


def until(holds: Callable[[], bool], limit_s: float = 5) -> bool:
    end = time.monotonic() + limit_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()
