"""Which rule an Instance meets and where its report goes; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dicom_node.settings import SENDER, Match, Peer, QualityControl, Rule, Settings, When
from dicom_node.standard.matching import wild

KEYS = tuple(Match.model_fields)
"""Names of the facts that a rule may ask for, in the order in which they are looked at."""

TEXT_KEYS = tuple(key for key in KEYS if key != "quality_control")


def facts(
    settings: Settings, header: Mapping[str, str], calling_ae: str = "", called_ae: str = ""
) -> dict[str, str]:
    """Return what rules look at, by the keys of ``match``.

    Parameters
    ----------
    header : mapping
        As `standard.header.read_header` returns it.
    called_ae : str
        Empty: this node's own AE title.
    """
    known = {
        **header,
        "sop_class": header["sop_class_uid"],
        "calling_ae": calling_ae,
        "called_ae": called_ae or settings.node.ae_title,
        "quality_control": quality_control(settings.quality_control, header),
    }
    return {key: known.get(key, "") for key in KEYS}


def quality_control(known: QualityControl, header: Mapping[str, str]) -> str:
    """Return why an image is a phantom's or for quality control; empty where it is a patient's."""
    if header.get("quality_control_image", "").upper() in ("YES", "BOTH"):
        return "Quality Control Image (0028,0300) says so"
    for what, patterns in (
        ("Patient's Name", known.patient_name),
        ("Patient ID", known.patient_id),
    ):
        value = header.get(what.replace("'s", "").replace(" ", "_").lower(), "").casefold()
        for pattern in patterns:
            if value and wild(pattern.strip().casefold(), has_sets=True).matches(value):
                return f"{what} is like {pattern!r}"
    return ""


def decide(rules: Sequence[Rule], instance_facts: Mapping[str, str]) -> Rule | None:
    """Return the first rule that the Instance meets, or None.

    Parameters
    ----------
    instance_facts : mapping
        Text by the keys of ``match`` (`KEYS`); what is missing counts as empty.
    """
    return next((rule for rule in rules if failing(rule, instance_facts) is None), None)


def why_ignored(rules: Sequence[Rule], instance_facts: Mapping[str, str]) -> str:
    """Return why no rule takes an Instance."""
    if not rules:
        return "there are no rules"
    held = instance_facts.get("quality_control", "")
    for rule in rules if held else ():
        if failing(rule, {**instance_facts, "quality_control": ""}) is None:
            return (
                f"held as a phantom or quality-control image: {held}; rule {rule.name!r} needs "
                "match.quality_control = true or allow_demonstration = true to take it"
            )
    return "no rule matched"


def failing(rule: Rule, instance_facts: Mapping[str, str]) -> str | None:
    """Return the first key of `rule` that the Instance does not meet, or None."""
    for key in TEXT_KEYS:
        patterns: tuple[str, ...] | None = getattr(rule.match, key)
        if patterns is not None and not _meets_patterns(patterns, instance_facts.get(key, "")):
            return key
    is_control = bool(instance_facts.get("quality_control"))
    if rule.match.quality_control not in (None, is_control):
        return "quality_control"
    # A phantom's report in a patient's archive is read by people: only a rule that says so.
    return "quality_control" if is_control and not rule.takes_quality_control else None


def why(
    rules: Sequence[Rule], instance_facts: Mapping[str, str]
) -> list[tuple[str, bool, str | None]]:
    """Return each rule's name, whether it is met, and the first key that fails."""
    rows = []
    for rule in rules:
        key = failing(rule, instance_facts)
        rows.append((rule.name, key is None, key))
    return rows


def destinations(
    rule: Rule, peers: Mapping[str, Peer], sender: str | None, problem: str = ""
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names in ``send_to`` and ``when``, the sender resolved, and what is wrong.

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
    for name in rule.destinations:
        resolved = (sender or SENDER) if name == SENDER else name
        if resolved == SENDER:
            problems.append(problem or "the sender is not in [peers]; add it")
        elif resolved not in peers:
            problems.append(f"no peer is named {resolved!r}; add [peers.{resolved}]")
        if resolved not in names:
            names.append(resolved)
    return tuple(names), tuple(problems)


def _meets_patterns(patterns: Sequence[str], value: str) -> bool:
    bare = value.strip().casefold()
    if not bare:
        # an empty pattern is the one way to say "absent"; "*" asks for a value
        return any(not pattern.strip() for pattern in patterns)
    asked = (pattern.strip().casefold() for pattern in patterns)
    return any(wild(pattern, has_sets=True).matches(bare) for pattern in asked if pattern)


def conditions(rule: Rule, sender: str | None) -> dict[str, tuple[str, ...]]:
    """Return, by name, the results whose reports go there; all of them where a name is missing."""
    always = {sender if name == SENDER and sender else name for name in rule.send_to}
    found: dict[str, list[str]] = {}
    for result in When.model_fields:
        for name in rule.when.names(result):
            resolved = sender if name == SENDER and sender else name
            if resolved not in always:
                found.setdefault(resolved, []).append(result)
    return {name: tuple(dict.fromkeys(results)) for name, results in found.items()}
