"""Who is to get a job's report: the one reader and writer of ``jobs.send_to``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dicom_node.base.job import Result


@dataclass(frozen=True, slots=True)
class Wish:
    """What one destination gets.

    ``kinds`` are those of objects, none for every kind. ``when`` are results, none for all.
    ``rule`` and ``mode`` are those of the rule that added it later than the job's own.
    """

    kinds: tuple[str, ...] = ()
    when: tuple[str, ...] = ()
    rule: str = ""
    mode: str = ""
    allow_demonstration: bool = False

    def as_kept(self) -> object:
        """Return it as it is kept and shown: a list of kinds where nothing else is said."""
        kinds = list(self.kinds)
        more: dict[str, object] = {}
        if self.when:
            more["when"] = list(self.when)
        if self.rule:
            more |= {"rule": self.rule, "mode": self.mode}
            if self.allow_demonstration:
                more["allow_demonstration"] = True
        return {"kinds": kinds, **more} if more else kinds


def wishes_of(route: Any) -> dict[str, Wish]:
    """Return what each destination of a route gets."""
    return {
        name: Wish(tuple(route.objects.get(name, ())), tuple(route.when.get(name, ())))
        for name in route.send_to
    }


def dump_wishes(wishes: Mapping[str, Wish]) -> str:
    """Return wishes as JSON: a list of kinds where nothing else is said, as 0.1.0 wrote it.

    The name alone stands for one destination that gets all, as most jobs have it.
    """
    kept = {name: wish.as_kept() for name, wish in wishes.items()}
    (name, *others) = kept or [""]
    # a name that JSON may begin with would be taken for JSON
    if name and not others and kept[name] == [] and not name.startswith("{"):
        return name
    return json.dumps(kept, separators=(",", ":"))


def load_wishes(text: str) -> dict[str, Wish]:
    """Return the wishes of a job by destination."""
    kept = {text: []} if text and not text.startswith("{") else json.loads(text)
    return {name: _load_wish(said) for name, said in kept.items()}


def result_word(result: Result) -> str:
    """Return what a rule's ``when`` asks for: present, absent, undetermined or rejected."""
    if result.outcome == "rejected":
        return "rejected"
    return result.presence or "undetermined"


def _load_wish(said: Any) -> Wish:
    if isinstance(said, list):
        return Wish(tuple(said))
    return Wish(
        tuple(said.get("kinds", ())),
        tuple(said.get("when", ())),
        said.get("rule", ""),
        said.get("mode", ""),
        bool(said.get("allow_demonstration", False)),
    )
