"""Strangers at the ports with TLS: at most one plain line for each, and nobody else waits."""

from __future__ import annotations

import datetime
import logging
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from listening import Node, listening
from ports import free_port
from pynetdicom import AE
from serving import serving
from wire import command, p_data, pdv, request, request_pdu, until

from dicom_node.base.logs import Sparse
from dicom_node.dimse import acceptor
from dicom_node.web import connections

HTTP = b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n"


@dataclass
class Port:
    """A port with TLS, and how to call it."""

    number: int
    authority: trustme.CA
    own: trustme.LeafCert

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.number), timeout=10)

    def context(self, own: trustme.LeafCert | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        if own:
            own.configure_cert(context)
        return context

    def shake_hands(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        context = context or self.context(self.own)
        return context.wrap_socket(self.connect(), server_hostname="127.0.0.1")

    def half_hello(self) -> bytes:
        outgoing = ssl.MemoryBIO()
        tls = self.context(None).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        return outgoing.read()[:100]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[Port, Node]]:
    """The DICOM port, where a caller has to show a certificate."""
    authority = trustme.CA()
    node_pem, ca = tmp_path / "node.pem", tmp_path / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(node_pem)
    authority.cert_pem.write_to_path(ca)
    with listening(tmp_path, tls={"certificate": node_pem, "ca": ca}) as node:
        yield Port(node.port, authority, authority.issue_cert("127.0.0.1")), node


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    """The pages and the job API by HTTPS."""
    authority = trustme.CA()
    pem, number = tmp_path / "web.pem", free_port()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    url = f"https://127.0.0.1:{number}"
    # the lines of one minute are bounded, whatever test they are of
    monkeypatch.setattr(connections, "_lines", Sparse(logging.getLogger("connections"), 1000))
    with serving(tmp_path / "node", url=url, certificate=pem, port=number):
        yield Port(number, authority, authority.issue_cert("127.0.0.1"))


def is_echoed(port: Port) -> bool:
    ae = AE("MODALITY")
    ae.add_requested_context("1.2.840.10008.1.1")
    tls = (port.context(port.own), "127.0.0.1")
    assoc = ae.associate("127.0.0.1", port.number, ae_title="CHEXFRACT", tls_args=tls)
    if not assoc.is_established:
        return False
    status = assoc.send_c_echo().Status
    assoc.release()
    return bool(status == 0)


def is_served(port: Port) -> bool:
    with port.shake_hands() as secure:
        secure.sendall(HTTP)
        return secure.recv(100).startswith(b"HTTP/1.1 200")


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return not connection.recv(100)
    except TimeoutError:
        return False
    except OSError:
        return True


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]


@pytest.mark.parametrize("is_half", [True, False], ids=["half a handshake", "a byte after it"])
def test_of_too_many_silent_connections_the_oldest_are_closed(
    door: tuple[Port, Node],
    is_half: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    port, node = door
    monkeypatch.setattr(acceptor, "MAX_WAITING_OF_HOST", 4)
    monkeypatch.setattr(acceptor, "FIRST_PDU_S", 20.0)
    with ExitStack() as stack:
        silent = []
        for _ in range(10):
            one = stack.enter_context(port.connect() if is_half else port.shake_hands())
            one.sendall(port.half_hello() if is_half else b"\x01")
            silent.append(one)
            time.sleep(0.05)
        assert until(lambda: sum(map(is_closed, silent)) >= 5)
        assert is_echoed(port)
        # one line for each that was closed
        assert all("4 connections of it are silent" in line for line in warnings_of(caplog))
    assert until(lambda: not node.listener._server._waiting)


def test_descriptors_of_any_number_can_be_waited_for(door: tuple[Port, Node]) -> None:
    with ExitStack() as stack:
        # select(2) knows none above 1023
        for _ in range(1030):
            stack.enter_context(Path("/dev/null").open())
        secure = stack.enter_context(door[0].shake_hands())
        secure.sendall(request())
        assert secure.recv(1) == b"\x02"


def _expired(port: Port) -> ssl.SSLContext:
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    return port.context(port.authority.issue_cert("127.0.0.1", not_after=past))


def _old(port: Port) -> ssl.SSLContext:
    context = port.context(port.own)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def _weak(port: Port) -> ssl.SSLContext:
    context = port.context(port.own)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    return context


def _distrustful(port: Port) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(context)
    port.own.configure_cert(context)
    return context


ANYWHERE: dict[str, tuple[Callable[[Port], ssl.SSLContext], str]] = {
    "old": (_old, "its TLS is older than 1.2"),
    "weak": (_weak, "it offers none of the cipher suites that are taken here"),
    "distrustful": (_distrustful, "it does not trust the certificate of this node (unknown ca)"),
}
CLIENTS: dict[str, tuple[Callable[[Port], ssl.SSLContext], str]] = {
    **ANYWHERE,
    "expired": (_expired, "its certificate is not trusted: certificate has expired"),
    "none": (lambda port: port.context(None), "it shows no certificate"),
    "another authority": (
        lambda port: port.context(trustme.CA().issue_cert("127.0.0.1")),
        "its certificate is not trusted: unable to get local issuer certificate",
    ),
}


def _knock(port: Port, context: ssl.SSLContext) -> None:
    with suppress(OSError), port.shake_hands(context) as secure:
        # under TLS 1.3 a client learns only here what a server says of its certificate
        secure.sendall(b"\x01")
        secure.recv(10)


@pytest.mark.parametrize(("context", "reason"), CLIENTS.values(), ids=CLIENTS)
def test_a_failed_handshake_is_one_plain_line(
    door: tuple[Port, Node],
    context: Callable[[Port], ssl.SSLContext],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    port, _ = door
    _knock(port, context(port))
    assert until(lambda: warnings_of(caplog))
    assert warnings_of(caplog) == [f"turned away 127.0.0.1: TLS handshake failed: {reason}"]


PLAIN = {
    "dicom": (struct.pack(">BxL", 1, 200) + b"\0" * 200, "an association request without TLS"),
    "http": (HTTP, "an HTTP request at the DICOM port"),
    "other": (b"\x99" * 20, "its first byte is 0x99, not a TLS hello"),
}


@pytest.mark.parametrize(("content", "reason"), PLAIN.values(), ids=PLAIN)
def test_who_does_not_speak_tls_is_turned_away_in_plain_words(
    door: tuple[Port, Node], content: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    port, _ = door
    with port.connect() as plain:
        plain.sendall(content)
        assert until(lambda: is_closed(plain))
    assert until(lambda: warnings_of(caplog))
    assert warnings_of(caplog) == [f"turned away 127.0.0.1: {reason}"]


def test_http_inside_of_tls_is_turned_away_in_plain_words(
    door: tuple[Port, Node], caplog: pytest.LogCaptureFixture
) -> None:
    with door[0].shake_hands() as secure:
        secure.sendall(HTTP)
        assert until(lambda: is_closed(secure))
    assert until(lambda: warnings_of(caplog))
    assert warnings_of(caplog) == ["turned away 127.0.0.1: an HTTP request at the DICOM port"]


def test_a_probe_of_a_balancer_leaves_no_warning(
    door: tuple[Port, Node], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    door[0].connect().close()
    assert until(lambda: "127.0.0.1 connected and closed" in caplog.messages)
    assert warnings_of(caplog) == []


def test_half_handshakes_at_the_pages_are_few_and_end(
    site: Port, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 3.0)
    with ExitStack() as stack:
        silent = [stack.enter_context(site.connect()) for _ in range(80)]
        for one in silent:
            one.sendall(site.half_hello())
        # above 64 of an address, the oldest that wait are closed
        assert until(lambda: sum(map(is_closed, silent)) >= 16, 2.5)
        assert is_served(site)
        assert until(lambda: all(map(is_closed, silent)), 8)
    lines = warnings_of(caplog)
    assert sum("more than 64 connections of it wait" in line for line in lines) >= 16
    assert sum("no TLS handshake within 3 s" in line for line in lines) >= 48
    assert len(lines) <= 82
    assert is_served(site)


HALF_A_RECORD = b"\x17\x03\x03\x40\x00" + bytes(100)
BROKEN_RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)


@pytest.mark.parametrize("last", [b"", HALF_A_RECORD, BROKEN_RECORD], ids=["reset", "half", "bad"])
def test_an_instance_whose_connection_breaks_leaves_one_line(
    door: tuple[Port, Node], caplog: pytest.LogCaptureFixture, last: bytes
) -> None:
    port, node = door
    with port.shake_hands() as peer:
        peer.sendall(request_pdu())
        assert peer.recv(4096)[:1] == b"\x02"
        peer.sendall(p_data(pdv(3, command("1.2.3.7"))) + p_data(pdv(0, bytes(10_000))))
        assert until(lambda: len(node.unfinished) == 1)
        os.write(peer.fileno(), last)
        if last != BROKEN_RECORD:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        assert until(lambda: node.unfinished == [])
    assert is_echoed(port)
    assert until(lambda: warnings_of(caplog))
    (line,) = warnings_of(caplog)
    assert line.startswith("lost an Instance of MODALITY@127.0.0.1: ")


@pytest.mark.parametrize(("context", "reason"), ANYWHERE.values(), ids=ANYWHERE)
def test_a_failed_handshake_at_the_pages_is_one_plain_line(
    site: Port,
    context: Callable[[Port], ssl.SSLContext],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _knock(site, context(site))
    assert until(lambda: warnings_of(caplog))
    expected = f"closed a connection of 127.0.0.1: TLS handshake failed: {reason}"
    assert warnings_of(caplog) == [expected]


def test_a_request_without_tls_at_the_pages_is_one_plain_line(
    site: Port, caplog: pytest.LogCaptureFixture
) -> None:
    with site.connect() as plain:
        plain.sendall(HTTP)
        assert until(lambda: is_closed(plain))
    assert until(lambda: warnings_of(caplog))
    expected = "closed a connection of 127.0.0.1: TLS handshake failed: an HTTP request without TLS"
    assert warnings_of(caplog) == [expected]


def test_a_probe_of_the_pages_leaves_no_line(site: Port, caplog: pytest.LogCaptureFixture) -> None:
    site.connect().close()
    assert is_served(site)
    assert warnings_of(caplog) == []
