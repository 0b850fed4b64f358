"""Fractures as sets of places, those of a run beside those of labels: by rib, side, bone, age."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from worker.research.labels import LabelledRow

AGES = ("acute", "healing", "old")
_SIDES = {"l": "left", "r": "right", "both": "bilateral"} | {
    side: side for side in ("left", "right", "bilateral")
}
_ORDINAL = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?")
_VERTEBRA = re.compile(r"[ctl]\d{1,2}")


class FracturePlace(NamedTuple):
    """Where a fracture is."""

    side: str
    bone: str
    number: str

    @property
    def kinds(self) -> list[str]:
        """The groups that it counts in."""
        found = [f"side={self.side}"] if self.side else []
        found.append(f"bone={self.bone}")
        if self.bone == "rib" and self.number:
            found.append(f"rib={self.side} {self.number}".replace("= ", "="))
        return found


@dataclass(slots=True)
class FractureScore:
    """Fractures named beside fractures labelled, as sets of places."""

    name: str
    right: int = 0
    named: int = 0
    labelled: int = 0

    @property
    def precision(self) -> float | None:
        """Share of the fractures named that are labelled."""
        return self.right / self.named if self.named else None

    @property
    def recall(self) -> float | None:
        """Share of the labelled fractures that are named."""
        return self.right / self.labelled if self.labelled else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        whole = self.named + self.labelled
        return 2 * self.right / whole if whole else None

    def add(self, named: set[Any], labelled: set[Any]) -> None:
        """Add one image."""
        self.right += len(named & labelled)
        self.named += len(named)
        self.labelled += len(labelled)


@dataclass(slots=True)
class _Fractures:
    """The places of one image, each with the age that is said of it."""

    ages: dict[FracturePlace, str] = field(default_factory=dict)

    def add(self, place: FracturePlace, age: str) -> None:
        # A fracture of both sides is one of each side: labels write it either way.
        sides = ("left", "right") if place.side == "bilateral" else (place.side,)
        for side in sides:
            known = self.ages.get(place._replace(side=side), "")
            self.ages[place._replace(side=side)] = known or age


def score_places(cases: Sequence[LabelledRow]) -> list[FractureScore]:
    """Compare places, where labels have ``findings``: all, by side, bone and rib, and by age."""
    answered = [case for case in cases if case.row is not None and "text" in case.row]
    pairs = [
        (_named_places(case.row or {}), labelled(case.label["findings"]))
        for case in answered
        if "findings" in case.label
    ]
    if not any(truth.ages for _, truth in pairs):
        return []
    scores: dict[str, FractureScore] = {"all": FractureScore("all")}
    has_ages = {age for _, truth in pairs for age in truth.ages.values()} - {""}
    for named, truth in pairs:
        scores["all"].add(set(named.ages), set(truth.ages))
        for kind in sorted({kind for place in (*named.ages, *truth.ages) for kind in place.kinds}):
            scores.setdefault(kind, FractureScore(kind)).add(
                {place for place in named.ages if kind in place.kinds},
                {place for place in truth.ages if kind in place.kinds},
            )
        for age in sorted(has_ages):
            scores.setdefault(f"age={age}", FractureScore(f"age={age}")).add(
                {place for place, said in named.ages.items() if said == age},
                {place for place, said in truth.ages.items() if said == age},
            )
    return [scores[name] for name in sorted(scores, key=_place_order)]


def differs(case: LabelledRow) -> bool:
    """Return whether an image has fractures that are named elsewhere than labelled."""
    if case.row is None or "text" not in case.row or not case.label.get("findings"):
        return False
    return set(_named_places(case.row).ages) != set(labelled(case.label["findings"]).ages)


def labelled(written: str) -> _Fractures:
    """Return the places of a label such as ``left rib 5; old right clavicle; T9``."""
    found = _Fractures()
    for item in re.split(r"[;|]", written):
        words = re.findall(r"[a-z0-9]+", item.lower())
        if words and words != ["none"]:
            found.add(*_parse_place(words))
    return found


def _parse_place(words: Iterable[str]) -> tuple[FracturePlace, str]:
    side = number = age = ""
    bone = []
    for word in words:
        if word in _SIDES:
            side = _SIDES[word]
        elif word in AGES:
            age = word
        elif (found := _ORDINAL.fullmatch(word)) is not None:
            number = str(int(found[1]))
        elif _VERTEBRA.fullmatch(word):
            number = word
        elif word not in ("fracture", "fractures"):
            bone.append(word.removesuffix("s") if word == "ribs" else word)
    named = " ".join(bone) or ("vertebra" if _VERTEBRA.fullmatch(number) else "other")
    return FracturePlace(side, named, number), age


def _named_places(row: dict[str, Any]) -> _Fractures:
    found = _Fractures()
    for fracture in row["findings"].get("fractures", ()):
        words = (str(fracture.get(key) or "").lower() for key in ("side", "bone", "number"))
        side, bone, number = words
        found.add(
            FracturePlace(side, bone.replace("_", " "), number), str(fracture.get("age") or "")
        )
    return found


def _place_order(name: str) -> tuple[int, str, int, str]:
    kind, _, value = name.partition("=")
    kinds = ("all", "side", "bone", "rib", "age")
    digits = re.sub(r"\D", "", value)
    return kinds.index(kind), value.split(" ")[0], int(digits or 0), value
