"""The node's DICOM port: opened once, by whoever starts the listeners, and shared by all of them.

The kernel gives each connection to the one that takes it first. While a listener starts again,
callers wait in the queue instead of being refused.
"""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dicom_node.base.errors import ConfigurationError
from dicom_node.dimse.slot_table import SlotTable

VARIABLE = "CHEXFRACT_LISTENER"
"""Environment variable with what a listener inherits: socket, table, which of how many it is."""

FREE_WITHIN_S = 3.0
"""Time that the listeners of a supervisor that was killed need to end, and to free the port."""

QUEUE = 256
"""Connections that the kernel keeps until they are taken."""


@dataclass(frozen=True, slots=True)
class Port:
    """An open port, and the table in which several listeners count its associations."""

    socket: socket.socket
    table: SlotTable | None = None

    @classmethod
    def of(cls, host: str, port: int, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the port that this process has inherited; else open one.

        Raises
        ------
        ConfigurationError
            The port is in use or not ours to take.
        """
        if not (inherited := environment.get(VARIABLE)):
            return cls(open_port(host, port))
        descriptor, table, listener, count = (int(number) for number in inherited.split(":"))
        opened = socket.socket(fileno=descriptor)
        return cls(opened, SlotTable(table, listener, count) if count > 1 else None)


class Ports:
    """What a supervisor keeps open for its listeners.

    Parameters
    ----------
    count : int
        How many listeners share the port.
    folder : Path
        Where the table has its bytes, without a name.

    Raises
    ------
    ConfigurationError
        The port is in use or not ours to take.
    """

    def __init__(self, host: str, port: int, count: int, folder: Path) -> None:
        self._socket = open_port(host, port, FREE_WITHIN_S)
        self._table = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the socket
        self.count = count

    @property
    def descriptors(self) -> tuple[int, int]:
        """What a listener inherits."""
        return self._socket.fileno(), self._table.fileno()

    def environment(self, listener: int) -> dict[str, str]:
        """Return what tells a listener what it has inherited."""
        words = (*self.descriptors, listener, self.count)
        return {VARIABLE: ":".join(str(word) for word in words)}

    def close(self) -> None:
        """Take no more callers, once the listeners have gone."""
        self._socket.close()
        self._table.close()


def open_port(host: str, port: int, free_within_s: float = 0.0) -> socket.socket:
    """Return a listening socket that several processes may take connections from.

    Parameters
    ----------
    free_within_s : float
        How long to wait for whoever has the port.

    Raises
    ------
    ConfigurationError
        The port is in use or not ours to take.
    """
    deadline = time.monotonic() + free_within_s
    while True:
        opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            # else connections in TIME_WAIT would hold the port for a minute after each end
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind((host, port))
            opened.listen(QUEUE)
            break
        except OSError as exc:
            opened.close()
            if exc.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise ConfigurationError(_why_no_port(host, port, exc)) from exc
            time.sleep(0.1)
    # Of several listeners that see a connection a single one gets it; the others must not wait.
    opened.setblocking(False)
    return opened


def _why_no_port(address: str, port: int, exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        advice = "stop the other program or change [node] port"
        return f"port {port} is in use ({address}): {advice}"
    if exc.errno == errno.EACCES:
        return f"port {port} may not be taken by this user: choose one above 1023 as [node] port"
    return f"cannot listen on {address} port {port}: {exc.strerror or exc}; check [node] host"
