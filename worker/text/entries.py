"""What a text asserts and denies, one entry per bone, and how entries of one bone become one."""

from dataclasses import dataclass

from worker.text.bones import MIDLINE, Site


@dataclass(slots=True)
class Entry:
    """A fracture under construction: later sentences may add its side or age."""

    bone: str
    number: str | None
    side: str | None
    is_possible: bool
    age: str | None
    segment: str | None
    sentence: str
    is_displaced: bool
    is_extra: bool
    part: str | None = None
    course: str | None = None
    is_ranged: bool = False  # one of "ribs 3 to 6", of which another sentence may spare it


@dataclass(slots=True)
class Denial:
    """A statement that there is no fracture, of these bones (of any, where there are none)."""

    sites: tuple[Site, ...]
    qualifiers: frozenset[str]
    is_extra: bool
    side: str | None = None  # of all bones, where no sites are named
    sentence: str = ""
    is_partial: bool = False  # of a part that has no name of its own: "upper ribs"

    def contradicts(self, entry: Entry) -> bool:
        """Tell whether this denial and that assertion cannot both be true."""
        if self.is_extra or (
            self.sites and not any(_covers_bone(site, entry) for site in self.sites)
        ):
            return False
        if not self.sites and self._is_across(entry):
            return False
        holds = {
            "acute": entry.age == "acute",
            "old": entry.age == "old",
            "healing": entry.age == "healing",
            "displaced": entry.is_displaced,
            "definite": not entry.is_possible,
        }
        return all(holds.get(qualifier, False) for qualifier in self.qualifiers)

    def _is_across(self, entry: Entry) -> bool:
        """Tell whether "right: no fracture" says nothing of a bone that is not a right bone."""
        if self.side in (None, "bilateral"):
            return False
        return entry.bone in MIDLINE or entry.side not in (None, "bilateral", self.side)


_REGIONS = {"c": "C", "cervical": "C", "t": "T", "thoracic": "T", "dorsal": "T", "l": "L",
            "lumbar": "L"}  # fmt: skip


def _covers_bone(site: Site, entry: Entry) -> bool:
    """Tell whether a denied site covers a bone that is said to be fractured."""
    region = _REGIONS.get(site.name.split(" ")[0]) if site.name else None
    if region and entry.number and not entry.number.startswith(region):
        return False  # "L-spine: no fracture" says nothing of T8
    is_side = site.side in (None, "bilateral", entry.side) or entry.side == "bilateral"
    return site.bone == entry.bone and site.number in (None, entry.number) and is_side


def merge_entries(entries: list[Entry]) -> list[Entry]:
    """Make one entry of each bone, and drop groups whose members are named."""
    out: list[Entry] = []
    for entry in entries:
        twin = next((e for e in out if _is_twin(e, entry)), None)
        if twin is None:
            out.append(entry)
            continue
        twin.side = twin.side or entry.side
        twin.age = twin.age or entry.age
        twin.segment = twin.segment or entry.segment
        twin.part = twin.part or entry.part
        twin.course = twin.course or entry.course
        twin.is_possible = twin.is_possible and entry.is_possible
        twin.is_displaced |= entry.is_displaced
    for group in [e for e in out if e.number is None]:
        members = [e for e in out if e is not group and _is_member(e, group)]
        if members and not group.is_extra:
            for member in members:
                member.side = member.side or _group_side(group)
                if member.sentence == group.sentence:
                    member.age = member.age or group.age
            out = [e for e in out if e is not group]
    return out


def _group_side(group: Entry) -> str | None:
    return group.side if group.side != "bilateral" else None


def _is_twin(entry: Entry, other: Entry) -> bool:
    if (entry.bone, entry.number) != (other.bone, other.number):
        return False
    is_group = entry.number is None and entry.bone in ("rib", "vertebra")
    # Two sentences may speak of two groups: "old rib fractures. Acute rib fractures."
    if is_group and entry.age and other.age and entry.sentence != other.sentence:
        return entry.side == other.side and entry.age == other.age
    return entry.side == other.side or None in (entry.side, other.side)


def _is_member(entry: Entry, group: Entry) -> bool:
    """Tell whether `entry` is one of the bones that `group` speaks of together."""
    is_side = group.side in (None, "bilateral", entry.side) or entry.side is None
    is_age = group.age is None or entry.age in (None, group.age)
    if group.bone == "other":
        return group.side is None and entry.bone != "other" and is_age
    return entry.bone == group.bone and entry.number is not None and is_side and is_age
