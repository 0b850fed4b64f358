"""Association requests as peers write them: what is read, what is refused, and one line for it."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import Node, listening
from pynetdicom.pdu import A_ASSOCIATE_RQ
from wire import USER, context, item, request, until

from dicom_node.dimse import patches
from dicom_node.dimse.association_rq import MalformedRequest, normalise

ACCEPTED = {
    "plain": request(),
    "titles padded with NUL": request(pad=b"\0"),
    "a title, NUL and what was in the buffer": request(called=b"CHEXFRACT\0\xff\x01xx"),
    "titles with blanks before": request(b"  CHEXFRACT", b" MODALITY"),
    "further bits of the version": request(version=0x8003),
    "an unknown item of the user information": request(user=USER + item(0x5F, b"hello")),
    "an unknown item of the request": request(more=item(0x99, b"\0" * 100)),
    "an unknown item of a context": request(contexts=context(more=item(0x77, b"x"))),
    "an extended negotiation that is cut": request(user=USER + item(0x56, b"\0\x20abc")),
    "a role selection that is cut": request(user=USER + item(0x54, b"\0\x03")),
    "a user identity that is cut": request(user=USER + item(0x58, b"\x02\x01\0\xff")),
    "no maximum length": request(user=item(0x52, b"1.2.3.4.5")),
    "no user information": request(user=b""),
}

REJECTED = {
    "a blank calling title": (request(calling=b""), (1, 1, 3), "its calling AE title is blank"),
    "a blank called title": (request(called=b""), (1, 1, 7), "its called AE title is blank"),
    "a title that is none": (
        request(calling=b"R\xd6NTGEN\\1"),
        (1, 1, 3),
        r"its calling AE title is not an AE title: R\xd6NTGEN\\1",
    ),
    "another version": (request(version=2), (1, 2, 2), "bit 0 of its protocol version is 0"),
    "a stranger": (request(calling=b"STRANGER"), (1, 1, 3), "calling AE title not recognised"),
}

ABORTED = {
    "an item that runs over the end": (
        request(more=struct.pack(">BxH", 0x99, 60000)),
        "is longer than the request",
    ),
    "an item without an end": (request(user=USER + b"\x5f\0"), "ends within the head of an item"),
    "a context without a syntax": (
        request(contexts=item(0x20, b"\1\0\0\0")),
        "has no abstract syntax",
    ),
    "a context without a transfer syntax": (
        request(contexts=item(0x20, b"\1\0\0\0" + item(0x30, b"1.2.840.10008.1.1"))),
        "has no transfer syntax",
    ),
    "a context with an empty transfer syntax": (
        request(
            contexts=item(0x20, b"\1\0\0\0" + item(0x30, b"1.2.840.10008.1.1") + item(0x40, b""))
        ),
        "has no transfer syntax",
    ),
    "a context of an even number": (request(contexts=context(2)), "has no odd ID"),
    "a UID that is too long": (
        request(
            contexts=item(0x20, b"\1\0\0\0" + item(0x30, b"1." + b"2" * 80) + item(0x40, b"1.2"))
        ),
        "it cannot be read",
    ),
}


def answer(node: Node, pdu: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", node.port), 10) as peer:
        peer.settimeout(10)
        peer.sendall(pdu)
        head = peer.recv(6)
        rest = peer.recv(1 << 16) if head else b""
        return head + rest


@pytest.mark.parametrize("pdu", ACCEPTED.values(), ids=ACCEPTED)
def test_what_the_standard_lets_a_peer_write_is_accepted(node: Node, pdu: bytes) -> None:
    assert answer(node, pdu)[0] == 2


@pytest.mark.parametrize(("pdu", "code", "reason"), REJECTED.values(), ids=REJECTED)
def test_what_is_rejected_leaves_one_line(
    node: Node,
    caplog: pytest.LogCaptureFixture,
    pdu: bytes,
    code: tuple[int, int, int],
    reason: str,
) -> None:
    response = answer(node, pdu)
    assert (response[0], tuple(response[7:10])) == (3, code)
    assert until(lambda: len(refusals(caplog)) == 1)
    assert refusals(caplog)[0].startswith("rejected the association of ")
    assert refusals(caplog)[0].endswith(reason)


@pytest.mark.parametrize(("pdu", "reason"), ABORTED.values(), ids=ABORTED)
def test_what_cannot_be_read_is_aborted_and_leaves_one_line(
    node: Node, caplog: pytest.LogCaptureFixture, pdu: bytes, reason: str
) -> None:
    assert answer(node, pdu)[0] == 7
    assert until(lambda: len(refusals(caplog)) == 1)
    assert "127.0.0.1" in refusals(caplog)[0]
    assert reason in refusals(caplog)[0]


def test_what_does_not_belong_into_an_association_leaves_one_line(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", node.port), 10) as peer:
        peer.sendall(request())
        assert peer.recv(4096)[0] == 2
        peer.sendall(request())  # a second request on an established association
        assert peer.recv(4096)[0] == 7
    assert until(lambda: len(refusals(caplog)) == 1)
    assert refusals(caplog)[0] == "aborting MODALITY@127.0.0.1: it sent what does not belong here"


def test_an_idle_association_leaves_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(tmp_path, idle_timeout=0.5) as node:
        with socket.create_connection(("127.0.0.1", node.port), 10) as peer:
            peer.settimeout(10)
            peer.sendall(request())
            while peer.recv(4096):
                pass
        assert until(lambda: len(refusals(caplog)) == 1)
    assert refusals(caplog) == ["aborting MODALITY@127.0.0.1: nothing came for 0.5 s"]


def test_a_node_that_stops_blames_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        listening(tmp_path) as node,
        socket.create_connection(("127.0.0.1", node.port), 10) as peer,
    ):
        peer.sendall(request())
        assert peer.recv(4096)[0] == 2
        node.listener.stop()
    assert refusals(caplog) == []


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "dicom_node.dimse.refusals"]


@given(
    st.binary(max_size=16), st.binary(max_size=16), st.integers(0, 0xFFFF), st.binary(max_size=40)
)
def test_any_request_is_read_by_pynetdicom_or_malformed(
    called: bytes, calling: bytes, version: int, user: bytes
) -> None:
    pdu = request(called, calling, b"\0", version, USER + user)
    try:
        plain, titles = normalise(pdu, patches._can_be_read)
    except MalformedRequest:
        return
    made = A_ASSOCIATE_RQ()
    made.decode(plain)
    made.to_primitive()
    assert made.protocol_version == (1 if version & 1 else version)
    if not titles.fault:
        assert made.calling_ae_title.strip() == titles.calling
    assert normalise(plain, patches._can_be_read)[0] == plain, "nothing is left to mend"


@given(st.binary(max_size=300))
def test_bytes_that_are_no_request_are_malformed_or_come_out_whole(body: bytes) -> None:
    try:
        plain, _ = normalise(struct.pack(">BxL", 1, len(body)) + body)
    except MalformedRequest:
        return
    assert struct.unpack(">L", plain[2:6])[0] == len(plain) - 6


def test_the_effort_grows_with_the_length_of_a_request() -> None:
    def took(count: int) -> float:
        pdu = request(user=USER + item(0x5F, b"") * count)
        started = time.process_time()
        for _ in range(5):
            normalise(pdu)
        return time.process_time() - started

    took(100)
    assert took(12_000) < 16 * max(took(3_000), 0.001)
