"""Says to systemd how the process is, by the protocol of sd_notify(3); without systemd, nothing."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"


def notify(state: str) -> None:
    """Send a state to the socket that the service manager has named, if it has.

    Parameters
    ----------
    state : str
        `READY`, `STOPPING` or `ALIVE`. What cannot be sent is not repeated: the manager's own
        limits (``TimeoutStartSec``, ``WatchdogSec``) say what follows.
    """
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return
    # A name in the abstract namespace begins with a zero byte, which is written as "@".
    address = "\0" + name[1:] if name.startswith("@") else name
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.setblocking(False)
        line.sendto(state.encode(), address)


class Watchdog:
    """Says that the process is alive, at most as often as the service manager asks for."""

    def __init__(self) -> None:
        period = os.environ.get("WATCHDOG_USEC", "")
        is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # A third of the period: a sign that comes late is not the last.
        self._every_s = int(period) / 3e6 if period.isdigit() and is_ours else 0.0
        self._next = 0.0

    def pat(self) -> None:
        """Say it, unless it was said a moment ago or nobody asks."""
        now = time.monotonic()
        if self._every_s and now >= self._next:
            self._next = now + self._every_s
            notify(ALIVE)
