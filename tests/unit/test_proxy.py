"""The PROXY protocol: believed from the balancers that are named, and from nobody else."""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import Node, listening
from wire import request, until

from dicom_node.dimse import acceptor
from dicom_node.dimse.proxy import SIGNATURE, NotProxied, read_caller
from dicom_node.settings import Peer, Settings


def version_1(source: str, family: str = "TCP4") -> bytes:
    return f"PROXY {family} {source} 10.0.0.9 50000 11112\r\n".encode()


def version_2(source: str, command: int = 0x21, tlv: bytes = b"") -> bytes:
    packed = ip_address(source).packed
    family = 0x11 if len(packed) == 4 else 0x21
    body = packed + packed + struct.pack(">HH", 50000, 11112) + tlv
    return SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body


def caller_of(content: bytes) -> tuple[str | None, bytes]:
    """Return who a header names, and what is left on the connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(content)
        theirs.shutdown(socket.SHUT_WR)
        found = read_caller(ours, 1)
        return found, ours.recv(4096)


@pytest.mark.parametrize(
    ("header", "caller"),
    [
        (version_1("10.1.2.3"), "10.1.2.3"),
        (version_1("2001:db8::7", "TCP6"), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        (version_2("10.1.2.3"), "10.1.2.3"),
        (version_2("2001:db8::7"), "2001:db8::7"),
        (version_2("10.1.2.3", tlv=b"\x04\0\x03abc"), "10.1.2.3"),
        (version_2("10.1.2.3", command=0x20), None),
    ],
)
def test_both_versions_are_read_and_nothing_behind_them(header: bytes, caller: str | None) -> None:
    assert caller_of(header + b"what follows") == (caller, b"what follows")


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        request(),
        b"PROXY TCP4 nobody 1.2.3.4 1 2\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 10.0.0.1\r\n",
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n",
        b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
        b"PROXY UDP9 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY " + b"x" * 200,
        SIGNATURE + b"\x11\x11\0\0",
        SIGNATURE + b"\x21\x11\0\x02ab",
        SIGNATURE + b"\x21\x31\xff\xff",
    ],
)
def test_what_is_no_header_is_refused(content: bytes) -> None:
    with pytest.raises(NotProxied):
        caller_of(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_header_or_refused(content: bytes) -> None:
    try:
        found, _ = caller_of(content)
    except (NotProxied, ConnectionError):
        return
    assert found is None or ip_address(found)


def node_settings(**node: object) -> dict[str, object]:
    return {"proxies": ("127.0.0.0/8",), **node}


def first_byte(node: Node, content: bytes, source: str = "127.0.0.1") -> int:
    with socket.create_connection(("127.0.0.1", node.port), 10, (source, 0)) as peer:
        peer.settimeout(10)
        peer.sendall(content)
        got = peer.recv(4096)
        return got[0] if got else 0


def take_far_peer(node: Node) -> Settings:
    """Let the modality call from 10.1.2.3 alone."""
    far = {"modality": Peer(ae_title="MODALITY", host="10.1.2.3", port=1)}
    settings = node.settings.model_copy(update={"peers": far})
    node.listener.take(settings)
    return settings


@pytest.mark.parametrize("header", [version_1, version_2])
def test_behind_a_balancer_the_true_caller_is_known(tmp_path: Path, header: object) -> None:
    with listening(tmp_path, proxies=("127.0.0.1",)) as node:
        take_far_peer(node)
        write = header if callable(header) else version_1
        assert first_byte(node, write("10.1.2.3") + request()) == 2
        assert first_byte(node, write("10.1.2.4") + request()) == 3
        assert first_byte(node, write("::ffff:10.1.2.3") + request()) in (2, 0)


def test_a_header_from_elsewhere_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(tmp_path, proxies=("127.0.0.9",)) as node:
        take_far_peer(node)
        line = "turned away 127.0.0.1: it sends a PROXY header and is not in node.proxies"
        for number, header in enumerate((version_1, version_2), 1):
            assert first_byte(node, header("10.1.2.3") + request()) == 0
            assert until(lambda count=number: caplog.text.count(line) == count)


def test_a_balancer_without_a_header_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "FIRST_PDU_S", 0.5)
    with listening(tmp_path, proxies=("127.0.0.1",)) as node:
        assert first_byte(node, request()) == 0
        assert until(lambda: "switch send-proxy on there" in caplog.text)
        started = time.monotonic()
        assert first_byte(node, b"PROXY ") == 0
        assert time.monotonic() - started < 5


def test_addresses_of_proxies_are_checked() -> None:
    with pytest.raises(ValueError, match="proxies"):
        Settings(node={"proxies": ["balancer.example"]})
