"""Which rule an Instance meets and where its report goes; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network

from dicom_node.settings import SENDER, Match, Peer, Rule
from dicom_node.standard.matching import wild

KEYS = tuple(Match.model_fields)
"""Names of the facts that a rule may ask for, in the order in which they are looked at."""


def decide(rules: Sequence[Rule], instance_facts: Mapping[str, str]) -> Rule | None:
    """Return the first rule that the Instance meets, or None.

    Parameters
    ----------
    instance_facts : mapping
        Text by the keys of ``match`` (`KEYS`); what is missing counts as empty.
    """
    return next((rule for rule in rules if failing(rule, instance_facts) is None), None)


def failing(rule: Rule, instance_facts: Mapping[str, str]) -> str | None:
    """Return the first key of `rule` that the Instance does not meet, or None."""
    for key in KEYS:
        patterns: tuple[str, ...] | None = getattr(rule.match, key)
        if patterns is not None and not _meets(patterns, instance_facts.get(key, "")):
            return key
    return None


def why(
    rules: Sequence[Rule], instance_facts: Mapping[str, str]
) -> list[tuple[str, bool, str | None]]:
    """Return each rule's name, whether it is met, and the first key that fails."""
    told = []
    for rule in rules:
        key = failing(rule, instance_facts)
        told.append((rule.name, key is None, key))
    return told


def destinations(
    rule: Rule, peers: Mapping[str, Peer], calling_ae: str, calling_host: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names in ``send_to`` with the sender resolved, and what is wrong with them.

    Where the sender is no known peer, ``"@sender"`` stays among the names and the second tuple
    says so: the report waits until the peer is added.
    """
    names: list[str] = []
    problems: list[str] = []
    for name in rule.send_to:
        resolved = name
        if name == SENDER:
            resolved = sender(peers, calling_ae, calling_host) or SENDER
        if resolved == SENDER:
            problems.append(f"sender {calling_ae}@{calling_host} is not in [peers]; add it")
        elif resolved not in peers:
            problems.append(f"no peer is named {resolved!r}; add [peers.{resolved}]")
        if resolved not in names:
            names.append(resolved)
    return tuple(names), tuple(problems)


def sender(peers: Mapping[str, Peer], calling_ae: str, calling_host: str) -> str | None:
    """Return the name of the peer that called, or None.

    The AE title decides (DICOM PS3.8 9.3.2); where several peers share it, the one whose
    addresses, or host, hold the caller's address, else the first of them.
    """
    titled = [name for name, peer in peers.items() if peer.ae_title.strip() == calling_ae.strip()]
    if len(titled) > 1:
        titled = [name for name in titled if calls_from(peers[name], calling_host)] or titled
    return titled[0] if titled else None


def calls_from(peer: Peer, host: str) -> bool:
    """Return whether a call from `host` may be this peer, by ``addresses`` or else ``host``."""
    try:
        address = ip_address(host.removeprefix("::ffff:"))
    except ValueError:
        return host == peer.host
    if peer.addresses:
        return any(address in ip_network(known, strict=False) for known in peer.addresses)
    return str(address) == peer.host or (peer.host == "localhost" and address.is_loopback)


def _meets(patterns: Sequence[str], value: str) -> bool:
    bare = value.strip().casefold()
    if not bare:
        # an empty pattern is the one way to say "absent"; "*" asks for a value
        return any(not pattern.strip() for pattern in patterns)
    asked = (pattern.strip().casefold() for pattern in patterns)
    return any(wild(pattern, has_sets=True).matches(bare) for pattern in asked if pattern)
