"""Which rule an Instance meets and where its report goes; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    rule: Rule, peers: Mapping[str, Peer], sender: str | None, problem: str = ""
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names in ``send_to`` with the sender resolved, and what is wrong with them.

    Where nobody knows which peer the sender is, ``"@sender"`` stays among the names and the second
    tuple says so: the report waits until the peer is known.

    Parameters
    ----------
    sender : str or None
        The peer that sent the Instance (`peers.who_calls`).
    problem : str
        Why there is none.
    """
    names: list[str] = []
    problems: list[str] = []
    for name in rule.send_to:
        resolved = (sender or SENDER) if name == SENDER else name
        if resolved == SENDER:
            problems.append(problem or "the sender is not in [peers]; add it")
        elif resolved not in peers:
            problems.append(f"no peer is named {resolved!r}; add [peers.{resolved}]")
        if resolved not in names:
            names.append(resolved)
    return tuple(names), tuple(problems)


def _meets(patterns: Sequence[str], value: str) -> bool:
    bare = value.strip().casefold()
    if not bare:
        # an empty pattern is the one way to say "absent"; "*" asks for a value
        return any(not pattern.strip() for pattern in patterns)
    asked = (pattern.strip().casefold() for pattern in patterns)
    return any(wild(pattern, has_sets=True).matches(bare) for pattern in asked if pattern)
