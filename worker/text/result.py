"""The answer: whether a text speaks of fractures, which, and what it calls absent."""

from dataclasses import dataclass
from enum import StrEnum


class Presence(StrEnum):
    """What the text as a whole says about fractures."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, slots=True)
class Fracture:
    """One fractured bone, as far as the text names it."""

    bone: str
    number: str | None
    side: str | None
    certainty: str
    age: str | None
    segment: str | None
    sentence: str
    part: str | None = None
    """Which part of the bone (`worker.text.bones.PARTS`); of ``other`` the name of the bone."""
    course: str | None = None
    """Against an earlier image: ``new`` or ``unchanged``."""


@dataclass(frozen=True, slots=True)
class Place:
    """One bone, or the bones of one kind and side, that an absence is limited to."""

    bone: str
    number: str | None = None
    side: str | None = None
    part: str | None = None


@dataclass(frozen=True, slots=True)
class Absence:
    """A statement that there is no fracture, and what it is limited to.

    "No displaced fracture of the left ribs" has one place and the qualifier ``displaced``; "no
    fracture" and "the bones are intact" have neither.
    """

    places: tuple[Place, ...] = ()
    """Empty where it is said of all bones."""
    qualifiers: tuple[str, ...] = ()
    """``acute``, ``old``, ``healing``, ``displaced``, ``definite`` or ``other``, sorted."""
    side: str | None = None
    """Of all bones, where no places are named: "right: no fracture"."""
    sentence: str = ""

    @property
    def is_limited(self) -> bool:
        """Tell whether some fracture is left open by this statement."""
        return bool(self.places or self.side or set(self.qualifiers) - {"definite"})


@dataclass(frozen=True, slots=True)
class Findings:
    """The presence of fractures, each fractured bone in order of mention, and what is denied."""

    presence: Presence
    fractures: tuple[Fracture, ...]
    absences: tuple[Absence, ...] = ()
    """In order of mention; "no other fracture" is none of them."""

    @property
    def is_limited(self) -> bool:
        """Tell whether the text calls fractures absent only of some bones, sides or kinds."""
        is_absent = self.presence is Presence.ABSENT
        return is_absent and bool(self.absences) and all(a.is_limited for a in self.absences)
