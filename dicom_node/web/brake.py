"""How often a wrong password may be tried, for one name from one address, and from an address."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

MOST = 10
"""Wrong passwords for one name from one address until that pair must wait."""

DECAY_S = 60.0
"""Time after which one wrong try is forgotten."""

SLOWEST_S = 2.0
"""Longest pause of an address with many wrong tries; a right password is taken after it."""

_STEP_S = 0.1
_WATCHED = 16384


class Brake:
    """Counts wrong tries, which decay.

    A name is shut for one address alone, so that nobody shuts another out by guessing at their
    account from elsewhere. An address is never shut, since a hospital may come from a single one:
    it is slowed. A sign-in that succeeds clears its own pair only, so an account of one's own does
    not lift the brake on another's.

    Parameters
    ----------
    monotonic : callable
        Returns seconds; a test injects its own.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._wrong: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def holds(self, name: str, address: str) -> bool:
        """Return whether this pair must wait."""
        return self._wrong_count((name, _network_of_address(address))) > MOST - 1

    def pause(self, address: str) -> float:
        """Return how many seconds an attempt from this address waits before it is judged."""
        return min(SLOWEST_S, _STEP_S * self._wrong_count(("", _network_of_address(address))))

    def note(self, name: str, address: str) -> None:
        """Count a wrong try."""
        for key in ((name, _network_of_address(address)), ("", _network_of_address(address))):
            # never so many that the end of the pause is out of sight
            count = min(self._wrong_count(key) + 1, 2.0 * MOST)
            self._wrong[key] = (count, self._monotonic())
            self._wrong.move_to_end(key)
        while len(self._wrong) > _WATCHED:
            self._wrong.popitem(last=False)

    def take(self, name: str, address: str) -> bool:
        """Count a try before it is judged, or return False where the pair must wait.

        Many at the same time would all be judged if each counted only once it was found wrong.
        """
        if self.holds(name, address):
            return False
        self.note(name, address)
        return True

    def give_back(self, name: str, address: str) -> None:
        """Take back a try that was not wrong."""
        for key in ((name, _network_of_address(address)), ("", _network_of_address(address))):
            self._wrong[key] = (max(0.0, self._wrong_count(key) - 1), self._monotonic())

    def lift(self, name: str, address: str) -> None:
        """Forget the wrong tries of a pair, after its own right one."""
        self._wrong.pop((name, _network_of_address(address)), None)

    def _wrong_count(self, key: tuple[str, str]) -> float:
        count, since = self._wrong.get(key, (0.0, 0.0))
        return max(0.0, count - (self._monotonic() - since) / DECAY_S)


def _network_of_address(address: str) -> str:
    """Return what one guesser holds at least: an IPv4 address, a /64 of IPv6."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found)
