"""IP addresses as they compare: mapped, scoped and loopback forms of one address are equal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from urllib.parse import quote, urlsplit

_PASSWORDS = (
    # bounded, so that no text is slow: user information, then what a query or a DSN names
    re.compile(r"(://[^:/@\s]{0,256}:)[^@\s]{1,1024}(?=@)"),
    re.compile(
        r"([?&;\s][\w.-]{0,64}(?:password|passwd|secret|token)=)[^&;\s]{1,1024}", re.IGNORECASE
    ),
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def hide_passwords(url: str) -> str:
    """Return one URL or several with ``***`` for each password, before the host and behind it."""
    for pattern in _PASSWORDS:
        url = pattern.sub(r"\1***", url)
    return url


def add_password(url: str, file: Path, key: str = "password_file") -> str:
    """Return an address with the password that a file holds, unless it has one already.

    Parameters
    ----------
    key : str
        Which names the file; for the message.

    Raises
    ------
    ValueError
        The file cannot be read or is empty.
    """
    scheme, _, rest = url.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in user:
        return url
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        why = getattr(exc, "strerror", None) or "not text"
        raise ValueError(f"{key}: {file}: {why}") from exc
    if not password:
        raise ValueError(f"{key}: {file} is empty")
    host = rest[len(user) + len(at) :]
    return f"{scheme}://{user}:{quote(password, safe='')}@{host}"


LOOPBACK = IPv4Address("127.0.0.1")
_MAPPED = IPv6Network("::ffff:0:0/96")


@lru_cache(1024)  # the few that call are asked about for each image
def parse_address(text: str) -> Address | None:
    """Return the address that `text` writes in any form, or None where it is a name.

    ``::ffff:10.0.0.5`` is 10.0.0.5, ``fe80::1%eth0`` is fe80::1, and ``localhost`` and ``::1`` are
    127.0.0.1: a program may call the same machine by either.
    """
    if text.rstrip(".").casefold() == "localhost":
        return LOOPBACK
    try:
        address = ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address.is_loopback:
            return LOOPBACK
    return address


def show_address(text: str) -> str:
    """Return an address as people write it: IPv4 in its plain form, without a scope."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def parse_network(text: str) -> Network:
    """Return the network (or single address) that `text` writes.

    Raises
    ------
    ValueError
        It is neither an address nor a network.
    """
    single = parse_address(text)
    if single is not None:
        return ip_network(single)
    try:
        network = ip_network(text, strict=False)
    except ValueError as exc:
        raise ValueError(
            f"{text[:80]!r} is not an address or a network; write 10.0.0.5 or 10.0.0.0/24"
        ) from exc
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Return whether one of `networks` holds `address`."""
    return any(address in network for network in networks)


def is_loopback(host: str) -> bool:
    """Return whether `host` can be reached from this machine only."""
    address = parse_address(host)
    return address is not None and address.is_loopback


def is_loopback_url(url: str) -> bool:
    """Return whether a URL leads to this machine only."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
