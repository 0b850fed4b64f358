"""What rules say of images that came already: which a rule would take, and why it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from dicom_node.base.errors import NotUnderstood
from dicom_node.flow import routing
from dicom_node.settings import Rule, Settings
from dicom_node.standard.header import read_header
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.views import InstanceView
from dicom_node.store.spool import Spool

LAST = 50
"""Images that a rule is tried on while it is edited."""


@dataclass(frozen=True, slots=True)
class TriedImage:
    """One image beside a rule: whether it is met, by which rule it would be taken, and why not."""

    instance: InstanceView
    is_met: bool
    taken_by: str
    key: str
    """The first key that it does not meet."""
    value: str


@dataclass(frozen=True, slots=True)
class RoutingVerdict:
    """Whether one image meets one rule, and all keys that it does not meet."""

    rule: Rule
    is_met: bool
    failing: tuple[tuple[str, str], ...]


def facts_of(settings: Settings, spool: Spool, instance: InstanceView) -> dict[str, str]:
    """Return what rules look at of an image that is here, from its file or, without it, its row."""
    header = {key: str(value) for key, value in asdict(instance).items()}
    is_control = "Quality Control Image (0028,0300)" in instance.reason
    header["quality_control_image"] = "YES" if is_control else ""
    if instance.file:
        try:
            with spool.path(instance.file).open("rb") as file:
                header |= read_header(file, instance.transfer_syntax_uid)
        except (OSError, NotUnderstood):
            pass  # retention has just removed it: the row is as good but for one element
    return routing.facts(settings, header, instance.calling_ae, instance.called_ae)


def verdicts(settings: Settings, facts: dict[str, str]) -> list[RoutingVerdict]:
    """Return each rule with every key of it that an image does not meet."""
    found = []
    for rule in settings.rules:
        keys = failing_keys(rule, facts)
        found.append(RoutingVerdict(rule, not keys, tuple((k, facts.get(k, "")) for k in keys)))
    return found


def failing_keys(rule: Rule, facts: dict[str, str]) -> list[str]:
    """Return every key of a rule that an image does not meet, in their order."""
    left, known = [], dict(facts)
    while (key := routing.failing(rule, known)) is not None and key not in left:
        left.append(key)
        rule = rule.model_copy(
            update={"match": rule.match.model_copy(update={key: None}), "allow_demonstration":
                    rule.allow_demonstration or key == "quality_control"}
        )  # fmt: skip
    return left


def try_rule(settings: Settings, ledger: Ledger, spool: Spool, name: str) -> Sequence[TriedImage]:
    """Return the last images that came, each beside a rule and the rules in front of it.

    Parameters
    ----------
    settings : Settings
        With the rule as it would be.
    name : str
        The rule's.
    """
    rule = next(known_rule for known_rule in settings.rules if known_rule.name == name)
    tried = []
    for row in ledger.history.last_instances(LAST):
        facts = facts_of(settings, spool, row)
        key = routing.failing(rule, facts)
        taken = routing.decide(settings.rules, facts)
        tried.append(
            TriedImage(row, key is None, taken.name if taken else "", key or "",
                       facts.get(key, "") if key else "")
        )  # fmt: skip
    return tried
