"""Which peer is this: one rule for admission, rights, routing, C-MOVE, commitment, send and checks.

A peer is known by its AE title *and* by where it calls from (``addresses``, or else its ``host``,
whose name is resolved), and by its certificate where one is bound to it. A peer that these exclude
is never taken; where several fit, none is.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dicom_node.base.addresses import Address, is_in, parse_address, parse_network
from dicom_node.base.errors import ConfigurationError
from dicom_node.settings import Peer, Right, Settings

FRESH_S = 60.0
"""Age from which the addresses of a name are asked for again."""
FAILED_S = 10.0
"""Age from which a name that could not be resolved is asked for again."""
KEPT_S = 3600.0
"""Time for which addresses stay in use while the name service gives no answer."""
WAIT_S = 2.0
"""Longest wait for the name service before a caller is refused for want of an answer."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Which peer calls; ``name`` is None where none or several fit.

    ``problem`` says why peers with this AE title are not the caller; it is empty where there is
    none with this title.
    """

    name: str | None
    problem: str = ""
    is_title_known: bool = True


@dataclass(slots=True)
class _Resolved:
    """What the name service said of a name, and when."""

    addresses: frozenset[Address] = frozenset()
    problem: str = "the name service gives no answer"
    good_at: float = float("-inf")
    asked_at: float = float("-inf")
    is_asked: threading.Event | None = None


def ask_name_service(name: str) -> frozenset[Address]:
    """Return the IPv4 and IPv6 addresses of `name`; `socket.gaierror` without any."""
    rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    found = (parse_address(str(row[4][0])) for row in rows)
    return frozenset(address for address in found if address is not None)


@dataclass(slots=True)
class HostNames:
    """Addresses of host names, cached and refreshed; a slow name service holds nobody up for long.

    Parameters
    ----------
    ask : callable
        Resolves a name; raises `OSError`.
    clock : callable
    """

    ask: Callable[[str], frozenset[Address]] = ask_name_service
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, _Resolved] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def addresses(self, name: str) -> tuple[frozenset[Address], str]:
        """Return the addresses of `name`, and why there are none."""
        name = name.rstrip(".").casefold()
        with self._lock:
            entry = self._known.setdefault(name, _Resolved())
            age = self.clock() - entry.asked_at
            if age >= (FRESH_S if entry.addresses else FAILED_S) and entry.is_asked is None:
                entry.is_asked = threading.Event()
                # A thread of its own: getaddrinfo may take half a minute and cannot be stopped.
                threading.Thread(target=self._refresh_name, args=(name, entry), daemon=True).start()
            is_asked = entry.is_asked
            has_old = bool(entry.addresses) and self.clock() - entry.good_at < KEPT_S
        if is_asked is not None and not has_old:
            is_asked.wait(WAIT_S)
        with self._lock:
            if self.clock() - entry.good_at >= KEPT_S:
                return frozenset(), entry.problem
            return entry.addresses, entry.problem

    def _refresh_name(self, name: str, entry: _Resolved) -> None:
        found: frozenset[Address] | None = None
        problem = ""
        try:
            found = self.ask(name)
        except socket.gaierror as exc:
            problem = exc.strerror or "the name is not known"
            if exc.errno != socket.EAI_AGAIN:
                found = frozenset()  # the name service says that there is no such name
        except (OSError, UnicodeError) as exc:
            problem = str(exc)
        with self._lock:
            now = self.clock()
            if found is not None:
                entry.addresses, entry.good_at = found, now
            entry.problem = problem
            entry.asked_at = now
            if entry.is_asked is not None:
                entry.is_asked.set()
                entry.is_asked = None


NAMES = HostNames()
"""The names of this process."""


def bare_title(ae_title: str) -> str:
    """Return an AE title without the padding that has no meaning (DICOM PS3.5 Table 6.2-1)."""
    return ae_title.strip(" \0")


def who_calls(
    peers: Mapping[str, Peer],
    ae_title: str,
    address: str,
    certificate: bytes | None = b"",
    names: HostNames = NAMES,
) -> Caller:
    """Return which of `peers` calls with this AE title from this address.

    Parameters
    ----------
    certificate : bytes or None
        The caller's certificate (DER); empty for a caller that showed none, None where it was
        looked at earlier and is not known any more.
    """
    title = bare_title(ae_title)
    titled = {name: peer for name, peer in peers.items() if peer.ae_title == title}
    if not titled:
        return Caller(None, is_title_known=False)
    faults = {
        name: _caller_fault(peer, address, certificate, names) for name, peer in titled.items()
    }
    fitting = [name for name, fault in faults.items() if not fault]
    if len(fitting) == 1:
        return Caller(fitting[0])
    if fitting:
        both = " and ".join(fitting)
        return Caller(None, f"{both} both fit; give them addresses or certificates that differ")
    return Caller(None, "; ".join(f"peer {name} {fault}" for name, fault in faults.items()))


def who_is_named(
    peers: Mapping[str, Peer], ae_title: str, caller: str | None = None
) -> tuple[str | None, str]:
    """Return which of `peers` an AE title names, as a C-MOVE destination does, or why none.

    Parameters
    ----------
    caller : str, optional
        The peer that asks: of several with this title it means itself, if it is one of them.
    """
    title = bare_title(ae_title)
    titled = [name for name, peer in peers.items() if peer.ae_title == title]
    if len(titled) == 1:
        return titled[0], ""
    if caller in titled:
        return caller, ""
    if titled:
        return None, f"{' and '.join(titled)} have this AE title"
    return None, "no peer has this AE title"


def same_host(
    peers: Mapping[str, Peer], host: str, address: str = "", names: HostNames = NAMES
) -> frozenset[str]:
    """Return the names of the peers at a host: one product may have several.

    Parameters
    ----------
    address : str, optional
        Where a call of that host came from: who may call from there is there, however its host is
        written. Names are resolved for this, where a peer is asked for storage commitment.
    """
    own = _bare_host(host)
    return frozenset(
        name
        for name, peer in peers.items()
        if _bare_host(peer.host) == own
        or (address and peer.storage_commitment and not _address_fault(peer, address, names))
    )


def _bare_host(host: str) -> str:
    return str(parse_address(host) or host.rstrip(".").casefold())


def may(settings: Settings, caller: Caller, right: Right | None) -> bool:
    """Return whether a caller has a right; strangers that are let in have all rights.

    None stands for what every caller may do, such as Verification.
    """
    if right is None:
        return True
    if caller.name is None:
        return not settings.node.known_peers_only
    return right in settings.peers[caller.name].may


def find_peer(peers: Mapping[str, Peer], name: str) -> Peer:
    """Return the peer of this name.

    Raises
    ------
    ConfigurationError
        There is none.
    """
    if name not in peers:
        known = ", ".join(sorted(peers)) or "none"
        raise ConfigurationError(f"no peer is named {name!r}; configured: {known}")
    return peers[name]


def peer_table(ae_title: str, address: str) -> str:
    """Return the table of node.toml that makes a refused caller known; empty without a title."""
    if not ae_title:
        return ""
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in ae_title.lower())
    title = ae_title.replace("\\", "\\\\").replace('"', '\\"')
    return f'[peers.{name}]\nae_title = "{title}"\nhost = "{address}"\nport = 104\n'


def doubts(settings: Settings, names: HostNames = NAMES) -> list[tuple[str, str]]:
    """Return peers whose callers cannot be identified for sure, each with what to do."""
    found = []
    for name, peer in settings.peers.items():
        if peer.addresses or parse_address(peer.host) is not None:
            continue
        addresses, problem = names.addresses(peer.host)
        if not addresses:
            found.append((name, f"host {peer.host!r} cannot be resolved ({problem}): refused as a "
                                f"caller; write peers.{name}.addresses"))  # fmt: skip
            continue
        found.append((name, f"is known by its host name {peer.host!r}, which the name service "
                            f"answers for; peers.{name}.addresses would make it sure"))  # fmt: skip
        for other, its in settings.peers.items():
            if other != name and its.ae_title == peer.ae_title and any(
                not _address_fault(its, str(address), names) for address in addresses
            ):  # fmt: skip
                what = f"has AE title and address of {other}; give them different addresses"
                found.append((name, what))
    return found


def _caller_fault(peer: Peer, address: str, certificate: bytes | None, names: HostNames) -> str:
    """Return why a caller is not this peer; empty where it is."""
    if fault := _address_fault(peer, address, names):
        return fault
    if peer.certificate and certificate is not None:
        return _other_certificate(peer.certificate, certificate)
    return ""


def _address_fault(peer: Peer, address: str, names: HostNames) -> str:
    """Return why a call from `address` is not from this peer; empty where it may be."""
    caller = parse_address(address)
    if caller is None:
        return f"cannot be compared with {address!a}, which is not an address"
    if peer.addresses:
        if is_in(caller, (parse_network(known) for known in peer.addresses)):
            return ""
        return f"calls from {', '.join(peer.addresses)}"
    own = parse_address(peer.host)
    if own is not None:
        return "" if own == caller else f"calls from {peer.host}"
    resolved, problem = names.addresses(peer.host)
    if caller in resolved:
        return ""
    if not resolved:
        return f"has the host {peer.host!r}, which cannot be resolved ({problem})"
    shown = ", ".join(sorted(map(str, resolved)))
    return f"calls from {peer.host} ({shown})"


def _other_certificate(wanted: str, certificate: bytes) -> str:
    """Return why a certificate is not that which is bound to a peer; empty where it is.

    It is named by the SHA-256 of its DER form, or by attributes of its subject, all of which it
    must have (RFC 4514: ``CN=PACS,O=Hospital``).
    """
    if not certificate:
        return "shows a certificate, and this caller shows none"
    digits = wanted.replace(":", "").casefold()
    if len(digits) == 64 and set(digits) <= set("0123456789abcdef"):
        is_it = hashlib.sha256(certificate).hexdigest() == digits
        return "" if is_it else "has another certificate (SHA-256)"
    from cryptography import x509

    try:
        subject = x509.load_der_x509_certificate(certificate).subject
        name = x509.Name.from_rfc4514_string(wanted)
    except ValueError:
        return "has a certificate whose subject can be read"
    has_all = all(attribute in list(subject) for attribute in name)
    return "" if has_all else f"has a certificate with the subject {wanted}"
