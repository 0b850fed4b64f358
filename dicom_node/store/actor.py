"""Who does something on purpose, as the ledger's events and the audit trail name them."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something on purpose, and the address that they do it from."""

    name: str = ""
    address: str = ""


def local_actor() -> Actor:
    """Return who runs this process, for what is done on the command line."""
    from getpass import getuser

    try:
        return Actor(getuser(), socket.gethostname())
    except (KeyError, OSError):
        return Actor("", socket.gethostname())  # a container's user need not have a name
