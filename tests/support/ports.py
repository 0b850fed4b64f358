"""Loopback ports for servers, outside of the range that the system takes a caller's port from.

A port that the system has chosen for nobody in particular may be any connection's a moment later.
A client that tries until the server answers can take it itself: it then is connected to itself,
and the server finds its port in use.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

FIRST = 10_000
_OF_CALLERS = Path("/proc/sys/net/ipv4/ip_local_port_range")

# not the generator that hypothesis sets back for each example: all would begin with the same port
_choice = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Return different ports that were free a moment ago."""
    end = int(_OF_CALLERS.read_text().split()[0]) if _OF_CALLERS.exists() else 32_768
    bound: list[socket.socket] = []
    try:
        while len(bound) < count:
            try:
                port = _choice.randrange(FIRST, max(end, FIRST + 1000))
                bound.append(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue  # somebody has it
        return [int(server.getsockname()[1]) for server in bound]
    finally:
        for server in bound:
            server.close()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    return free_ports(1)[0]
