"""A doorbell beside a ledger on SQLite: who has written rings, who waits for work wakes up.

Each listener binds a Unix datagram socket in a folder; ringing sends a byte to all of them. A ring
that is lost delays work until the next look and loses nothing: the ledger is the truth.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
from contextlib import suppress
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")


class Bells:
    """The folder of one ledger's listeners.

    Parameters
    ----------
    folder : Path
        Made by the first listener; where there is none, nobody listens.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ring(self) -> None:
        """Wake all who listen; never raises and never waits."""
        try:
            paths = list(self._folder.iterdir())
        except OSError:
            return
        if not paths:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            # a listener that does not read must not hold up who writes to the ledger
            sender.setblocking(False)
            for path in paths:
                try:
                    sender.sendto(b"1", _socket_address(path))
                except BlockingIOError:
                    continue  # it was rung often already, and has not looked yet
                except ConnectionRefusedError:
                    with suppress(OSError):  # its process was killed
                        path.unlink()
                except OSError:
                    continue

    def listen(self) -> Bell | None:
        """Return a bell of one's own; None where this system has none."""
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}"
            bell.bind(_socket_address(path))
        except OSError:
            bell.close()
            return None
        bell.setblocking(False)
        return Bell(bell, path)


class Bell:
    """One listener's socket."""

    def __init__(self, bell: socket.socket, path: Path) -> None:
        self._bell = bell
        self._path = path
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Return True when it was rung, at the latest after so many seconds."""
        if not self._poll.poll(max(0.0, seconds) * 1000):
            return False
        with suppress(BlockingIOError):
            # all rings at once: one look serves them
            while self._bell.recv(64):
                pass
        return True

    def close(self) -> None:
        """Listen no longer."""
        self._bell.close()
        self._path.unlink(missing_ok=True)


def _socket_address(path: Path) -> str:
    """Return an address of a socket: the system takes 107 bytes, and folders are longer."""
    if len(os.fsencode(path)) < 108 or not _DESCRIPTORS.exists():
        return str(path)
    return str(_DESCRIPTORS / str(_open_folder(path.parent)) / path.name)


_folders: dict[Path, int] = {}


def _open_folder(folder: Path) -> int:
    """Return a descriptor of a folder, which stays open."""
    if folder not in _folders:
        _folders[folder] = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    return _folders[folder]
