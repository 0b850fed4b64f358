"""Hosts with addresses of their own on one machine: network namespaces on one bridge."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..support.peers import NotPossible
from .processes import ROOT

PREFIX = "10.97.0."
_WITHOUT_OFFLOAD = """
import array, fcntl, socket, struct, sys
ETHTOOL, SET_CHECKSUMS, SET_SEGMENTS = 0x8946, 0x17, 0x24
with socket.socket() as line:
    for command in (SET_CHECKSUMS, SET_SEGMENTS):
        value = array.array("B", struct.pack("II", command, 0))
        name = sys.argv[1].encode().ljust(16, b"\\0")
        fcntl.ioctl(line, ETHTOOL, name + struct.pack("P", value.buffer_info()[0]))
"""
"""A host computes the checksums of what it sends: raw sockets take frames as they are."""


class NoNamespaces(NotPossible):
    """This machine does not let us make network namespaces."""


def _run(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise NoNamespaces(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")


@dataclass(slots=True)
class VirtualHost:
    """A network namespace with one interface; its other end is in the hub."""

    name: str
    namespace: str
    address: str
    _hub: str
    _port: str
    _relay: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def enter(self, command: Sequence[str]) -> list[str]:
        """Return a command line that runs `command` on this host; its process id stays."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--", *command]

    def cut(self) -> None:
        """Take the cable out."""
        _run("ip", "-n", self._hub, "link", "set", self._port, "nomaster")

    def disturb(self, delay_s: float = 0.0, loss: float = 0.0) -> None:
        """Lead the cable through a relay that delays each frame or loses some."""
        self.cut()
        inner, outer = f"{self._port}i", f"{self._port}o"
        _run("ip", "-n", self._hub, "link", "add", inner, "type", "veth", "peer", "name", outer)
        for end in (inner, outer):
            _run("ip", "-n", self._hub, "link", "set", end, "up")
        _run("ip", "-n", self._hub, "link", "set", outer, "master", "bridge")
        words = [sys.executable, "-m", "tests.drill.relay", self._port, inner]
        words += ["--delay", str(delay_s), "--loss", str(loss)]
        hub = ["nsenter", f"--net=/run/netns/{self._hub}", "--"]
        self._relay = subprocess.Popen([*hub, *words], cwd=ROOT)

    def heal(self) -> None:
        """Put the cable back."""
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
            self._relay = None
            _run("ip", "-n", self._hub, "link", "del", f"{self._port}i")
        _run("ip", "-n", self._hub, "link", "set", self._port, "master", "bridge")


@contextmanager
def network(names: Sequence[str]) -> Iterator[dict[str, VirtualHost]]:
    """Yield a host for each name, all on one bridge, until the end of the block.

    Raises
    ------
    NoNamespaces
        They are not permitted here.
    """
    if os.geteuid() != 0:
        raise NoNamespaces("network namespaces need root")
    mark = f"cf{os.getpid()}"
    hub, made, hosts = f"{mark}-hub", list[str](), dict[str, VirtualHost]()
    try:
        _run("ip", "netns", "add", hub)
        made.append(hub)
        _run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "bridge", "up")
        for number, name in enumerate(names, start=1):
            namespace, port = f"{mark}-{name}", f"p{number}"
            _run("ip", "netns", "add", namespace)
            made.append(namespace)
            host = VirtualHost(name, namespace, f"{PREFIX}{number}", hub, port)
            words = ["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns"]
            _run("ip", "-n", hub, *words, namespace)
            _run("ip", "-n", hub, "link", "set", port, "up", "master", "bridge")
            _run("ip", "-n", namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _run("ip", "-n", namespace, "link", "set", interface, "up")
            _run(*host.enter([sys.executable, "-c", _WITHOUT_OFFLOAD, "eth0"]))
            hosts[name] = host
        yield hosts
    finally:
        for host in hosts.values():
            with contextlib.suppress(NoNamespaces):
                host.heal()
        for namespace in made:
            subprocess.run(["ip", "netns", "del", namespace], check=False)
