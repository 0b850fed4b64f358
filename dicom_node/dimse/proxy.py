"""The PROXY protocol: a TCP balancer says, before a connection's first byte, who called it.

Versions 1 (a line of text) and 2 (binary), as HAProxy's proxy-protocol.txt has them. The header is
read where the connection comes from an address in ``node.proxies``, and nowhere else.
"""

from __future__ import annotations

import socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""First twelve bytes of version 2."""
LINE = 107
"""Most bytes of version 1, with its line end."""
BODY = 2048
"""Most bytes of addresses and TLVs that are read; senders use some dozens."""

_TCP4, _TCP6 = 0x11, 0x21


class NotProxied(Exception):
    """A connection from a proxy does not begin with a header; the message says why."""


def read_caller(connection: socket.socket, within_s: float) -> str | None:
    """Take the header off a connection; return the caller's address.

    None stands for the proxy itself, which looks whether we are there (UNKNOWN and LOCAL).

    Raises
    ------
    NotProxied
        There is no header, or it did not come in time.
    """
    reader = _Reader(connection, time.monotonic() + within_s)
    begin = reader.read(6)
    if begin == b"PROXY ":
        return _read_line(reader)
    if begin == SIGNATURE[:6] and reader.read(6) == SIGNATURE[6:]:
        return _read_binary(reader)
    raise NotProxied("it is in node.proxies and sends no PROXY header; switch send-proxy on there")


class _Reader:
    """Takes bytes one by one: what follows the header belongs to somebody else."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    def read(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            # one deadline for the whole header: a byte a second would last for ever otherwise
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise NotProxied("its PROXY header does not come in time")
            self._connection.settimeout(left)
            try:
                more = self._connection.recv(count - len(content))
            except TimeoutError as exc:
                raise NotProxied("its PROXY header does not come in time") from exc
            if not more:
                raise ConnectionResetError
            content += more
        return content


def _read_line(reader: _Reader) -> str | None:
    line = b""
    while not line.endswith(b"\r\n"):
        if len(line) > LINE - 6:
            raise NotProxied("its PROXY header of version 1 does not end")
        line += reader.read(1)
    words = line[:-2].split(b" ")
    if words[0] == b"UNKNOWN":
        return None
    try:
        kind, caller, _, *ports = words
        struct.pack(">HH", *map(int, ports))  # there are two, each of 16 bits
        family = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}[kind]
        return str(family(caller.decode("ascii")))
    except (KeyError, ValueError, struct.error) as exc:
        raise NotProxied("its PROXY header of version 1 cannot be read") from exc


def _read_binary(reader: _Reader) -> str | None:
    command, family, length = struct.unpack(">BBH", reader.read(4))
    if command >> 4 != 2 or command & 0xF > 1 or length > BODY:
        raise NotProxied("its PROXY header of version 2 cannot be read")
    body = reader.read(length)
    # LOCAL: the proxy's own health check, whose addresses are to be ignored
    if command & 0xF == 0:
        return None
    if family == _TCP4 and length >= 12:
        return str(IPv4Address(body[:4]))
    if family == _TCP6 and length >= 36:
        return str(IPv6Address(body[:16]))
    # AF_UNSPEC: the connection's own endpoints count
    if family == 0:
        return None
    raise NotProxied(f"its PROXY header names a caller of another kind (0x{family:02X})")
