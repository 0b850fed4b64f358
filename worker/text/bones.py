"""Read which bones, on which side and in which part, a phrase names."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from worker.text.lexicon import Kind, Token
from worker.text.phrase import JOINTS, LISTING, NAMED, Phrase, has
from worker.text.tokens import is_level

_SEGMENT_WORDS = """
anterior posterior lateral medial proximal distal anterolateral posterolateral posteromedial
head neck angle shaft body manubrium middle costochondral
"""
SEGMENTS = frozenset(_SEGMENT_WORDS.split())
MIDLINE = frozenset({"vertebra", "sternum"})
_ADJECTIVES = (Kind.SEGMENT, Kind.QUALIFIER, Kind.AGE, Kind.HEDGE, Kind.ARTICLE, Kind.EXTRA)
_BONES = (Kind.NUMBER, Kind.BONE, Kind.LEVEL, Kind.HINT)
_DESCRIBING = (Kind.UNKNOWN, Kind.NEUTRAL, Kind.QUALIFIER, Kind.ARTICLE)
_NAMED_BEFORE = (Kind.NUMBER, Kind.BONE)
_NO_RIBS = ("intercostal", "interspace", "space", "line", "time", "places", "locations", "pieces",
            "fragments", "parts", "segments", "look", "glance", "read", "reading", "review",
            "reader", "opinion", "view", "film", "image", "radiograph", "exam", "examination",
            "study")  # fmt: skip
_OF_THEM = [["of", word] for word in ("them", "which", "these", "those", "whom")]
PARTS: dict[str, dict[str | None, str]] = {
    "rib": {
        "head": "head", "neck": "neck", "angle": "angle", "shaft": "shaft", "body": "shaft",
        "costochondral": "costochondral junction",
    },
    "clavicle": {
        "medial": "medial third", "proximal": "medial third", "sternal": "medial third",
        "lateral": "lateral third", "distal": "lateral third", "acromial": "lateral third",
        "middle": "middle third", "shaft": "middle third", "body": "middle third",
        "midclavicle": "middle third", "midclavicular": "middle third",
    },
    "scapula": {"body": "body", "neck": "neck", "spine": "spine", "spinal": "spine"},
    "sternum": {
        "manubrium": "manubrium", "manubrial": "manubrium", "body": "body", "shaft": "body",
        "xiphoid": "xiphoid process", "corpus": "body",
        "manubriosternal": "manubriosternal junction",
    },
    "humerus": {
        "head": "head", "neck": "neck", "surgical": "surgical neck", "surg": "surgical neck",
        "anatomical": "anatomical neck", "anatomic": "anatomical neck",
        "greater": "greater tuberosity", "lesser": "lesser tuberosity", "shaft": "shaft",
        "body": "shaft", "proximal": "proximal part", "distal": "distal part",
    },
    "vertebra": {
        "endplate": "endplate", "endplates": "endplate", "end": "endplate",
        "spinous": "spinous process", "transverse": "transverse process",
        "odontoid": "odontoid process", "body": "body", "bodies": "body",
    },
    "glenoid": {"neck": "neck", "rim": "rim"},
}  # fmt: skip
"""Bone -> word that names a part of it -> the part, in one spelling."""
_NAMES_OF_OTHERS = {
    "femoral": "femur", "radial": "radius", "ulnar": "ulna", "pelvic": "pelvis",
    "olecranons": "olecranon", "radial head": "radius", "hand": "hand",
}  # fmt: skip
_PARTS = frozenset({"acromion", "glenoid", "coracoid"})


@dataclass(slots=True)
class Site:
    """One bone that a sentence names; `at` is where, as a token index."""

    bone: str
    number: str | None
    side: str | None
    segment: str | None
    at: int
    is_garbled: bool = False
    name: str = ""  # the words that name it
    is_ranged: bool = False  # one of "3 to 6"
    is_of_both: bool = False  # "bilateral rib fractures: 3", whose own side may come behind it

    @property
    def part(self) -> str | None:
        """The part of the bone that is named, in one spelling; of ``other`` the bone's name."""
        if self.bone == "other":
            return _NAMES_OF_OTHERS.get(self.name, self.name) or None
        table = PARTS.get(self.bone, {})
        words = (*self.name.split(), self.segment)
        return next((table[word] for word in words if word in table), None)


@dataclass(slots=True)
class SiteReader:
    """Walks over tokens and collects sites: sides carry on, a later "on the left" looks back."""

    tokens: Sequence[Token]
    skip: frozenset[int] = frozenset()
    knows_ribs: bool = False  # ribs were named before: an ordinal will do
    has_rib: bool = False
    sites: list[Site] = field(default_factory=list)
    side: str | None = None
    side_at: int = -1
    low: int = 0
    late_side: str | None = None
    segment: str | None = None
    hint: str | None = None
    pending: list[Site] = field(default_factory=list)  # numbers whose word "rib" is still to come
    shared: list[tuple[str, int]] = field(default_factory=list)  # sides whose bone is still to come

    def read(self, low: int, high: int) -> list[Site]:
        """Return the sites named by the tokens from `low` up to `high`."""
        self.has_rib = any(t.kind is Kind.BONE and t.value == "rib" for t in self.tokens)
        readers = {
            Kind.NUMBER: self._read_number,
            Kind.LEVEL: self._read_level,
            Kind.BONE: self._read_bone,
            Kind.SIDE: self._read_side,
            Kind.SEGMENT: self._read_segment,
            Kind.HINT: self._read_hint,
        }
        self.low, high = low, min(high, len(self.tokens))
        whole = self._find_spared(low, high)
        for at in range(low, high):
            reader = readers.get(self.tokens[at].kind)
            if reader and at not in self.skip and at not in whole:
                reader(at, high)
        numbers = {n for at in whole for n in self.tokens[at].value.split()}
        self.sites = [s for s in self.sites if not s.is_ranged or s.number not in numbers]
        self._pair_sides()
        if not self.late_side and self.sites and self.side_at > self.sites[-1].at:
            self.late_side = self.side  # "clavicles: right midshaft fracture"
        for site in self.sites:
            site.side = site.side or self.late_side
            site.side = None if site.bone in MIDLINE else site.side
        return self.sites

    def _pair_sides(self) -> None:
        """Read "the 4th and 8th ribs on the left and right, respectively" side by side."""
        if not any(t.text == "respectively" for t in self.tokens):
            return
        paired = [s for s in self.sites if s.side == "bilateral"]
        sides = [t.value for t in self.tokens[self.low :] if t.kind is Kind.SIDE]
        for at, site in enumerate(paired):
            site.side = sides[at] if len(paired) == len(sides) else None

    def _find_spared(self, low: int, high: int) -> frozenset[int]:
        """Return where the ribs of "sparing the 4th" stand, which are not broken."""
        kinds = (Kind.NUMBER, Kind.LEVEL, Kind.AND, Kind.COMMA, Kind.OR, Kind.ARTICLE)
        found: set[int] = set()
        for at in range(low, high - 1):
            if self.tokens[at].text in ("sparing", "spares", "all but"):
                start = end = at + 1 + (self.tokens[at + 1].text == "of")
                while end < high and self.tokens[end].kind in kinds:
                    end += 1
                is_named = end < high and self.tokens[end].value == "rib"
                found |= {*range(start, end + is_named)}
        return frozenset(found)

    def _add_site(self, bone: str, number: str | None, at: int) -> Site:
        site = Site(bone, number, self.side, self.segment, at)
        site.is_ranged = self.tokens[at].form == "range"
        self.sites.append(site)
        return site

    def _read_number(self, at: int, high: int) -> None:
        token = self.tokens[at]
        is_lettered = token.form == "digit" and token.text[0] == "l"  # "L5", read as left
        is_meant = token.form == "ordinal" or is_lettered or self._is_of_fractures(at)
        is_rib = self.has_rib or (self.knows_ribs and is_meant)
        if not is_rib or self._is_count(at, high) or self._is_elsewhere(at, high):
            return
        if self._follows_rib(at):  # "ribs 5 and 6": the group that these are of is no entry
            last = next((s for s in reversed(self.sites) if s.bone == "rib"), None)
            if last and last.number is None and self._is_other_side(at, high, last.side):
                self.side = None
            elif last and last.number is None:
                self.sites.remove(last)
                self.side = self.side or last.side
        for number in token.value.split():
            site = self._add_site("rib", number, at)
            site.is_garbled = not 1 <= int(number) <= 12
            site.is_of_both = self.side == "bilateral" and self._follows_rib(at)
            self.pending.append(site)

    def _is_of_fractures(self, at: int) -> bool:
        """Tell whether the digits of "fractures of 7 and 8" begin here, or go on."""
        while at > self.low and self.tokens[at - 1].kind in (Kind.NUMBER, *LISTING):
            at -= 1
        return self.tokens[at - 1].text == "of" and has(self.tokens[at - 2 : at - 1], Kind.FRACTURE)

    def _is_other_side(self, at: int, high: int, side: str | None) -> bool:
        """Tell the 5th of "rib fractures on the right and 5th on the left" from one of them."""
        before = at - 1 - (at > 0 and self.tokens[at - 1].kind is Kind.ARTICLE)
        if side not in ("left", "right") or self.tokens[before].kind not in LISTING:
            return False
        end = at
        while end < high and self.tokens[end].kind in (Kind.NUMBER, *LISTING, Kind.ARTICLE):
            end += 1
        is_placed = end < high and self.tokens[end].kind is Kind.PREPOSITION
        is_list = self.tokens[end - 1].kind is Kind.NUMBER
        where = next((n for n in range(end, high) if self.tokens[n].kind is Kind.SIDE), high)
        is_near = has(self.tokens[where : where + 1], Kind.SIDE) and all(
            t.kind is Kind.ARTICLE for t in self.tokens[end + 1 : where]
        )
        if not (is_placed and is_list and is_near) or self.tokens[where].value == side:
            return False
        return not has(self.tokens[where + 1 : where + 2], Kind.COLON, Kind.NUMBER)

    def _is_count(self, at: int, high: int) -> bool:
        """Tell "three left rib fractures" from "left rib three"."""
        token = self.tokens[at]
        if [t.text.split()[0] for t in self.tokens[at + 1 : at + 3]] in _OF_THEM:
            return True  # "two of which", "two of which are"
        if token.form in ("ordinal", "range") or self._follows_rib(at):
            return False
        before, after = self.tokens[at - 1 : at], self.tokens[at + 1 : at + 2]
        if token.text == "1" and [t.text for t in after] == ["rib"] and not self._follows_side(at):
            return all(t.kind is Kind.PREPOSITION for t in before)  # "fracture of 1 rib"
        if token.form == "cardinal":
            return True
        if self._has_listed_neighbour(at, high):
            return False
        if self._kind_after(at, high, (*_ADJECTIVES, Kind.SIDE)) is None:
            return not self._follows_side(at)
        after = [t for t in self.tokens[at + 1 : high] if t.kind not in (*_ADJECTIVES, Kind.SIDE)]
        if not after:
            return False
        if after[0].kind is Kind.FRACTURE and not self._follows_side(at):
            return True
        # "Three ribs" counts, "three rib" does not; "three rib fractures" counts as well.
        plural = after[0].text in ("ribs", "fractures", "fxs") or (
            len(after) > 1 and after[0].value == "rib" and after[1].text in ("fractures", "fxs")
        )
        return plural or after[0].kind in (Kind.NEUTRAL, Kind.UNKNOWN, Kind.NOUN)

    def _follows_rib(self, at: int) -> bool:
        listed = (Kind.NUMBER, Kind.AND, Kind.COMMA, Kind.OR, Kind.COLON, Kind.SIDE, Kind.FRACTURE,
                  Kind.PREPOSITION, Kind.ARTICLE)  # fmt: skip
        for token in reversed(self.tokens[:at]):
            if token.kind not in listed:
                return token.value == "rib"
        return False

    def _follows_side(self, at: int) -> bool:
        return at > 0 and self.tokens[at - 1].kind in (Kind.SIDE, Kind.SEGMENT, Kind.COLON)

    def _has_listed_neighbour(self, at: int, high: int) -> bool:
        between = (Kind.AND, Kind.COMMA, Kind.OR, Kind.SIDE, Kind.HEDGE, Kind.ARTICLE)
        for near in (
            self.tokens[at + 1 : min(at + 5, high)],
            self.tokens[max(0, at - 4) : at][::-1],
        ):
            other = next((t.kind for t in near if t.kind not in between), None)
            if other is Kind.NUMBER and near[0].kind is not Kind.NUMBER:
                return True
        return False

    def _is_elsewhere(self, at: int, high: int) -> bool:
        after = self.tokens[at + 1] if at + 1 < high else None
        if self._is_third_part(at, high) or self._counts_fractures(at, high):
            return True
        if self._counts_off(at, high):
            return True
        text, before = self.tokens[at].text, self.tokens[at - 1]
        if len(text) == 4 and text[:2] in ("19", "20") and before.kind is Kind.PREPOSITION:
            return True  # "a rib fracture in 2019"
        if after is None:
            return False
        is_space = after.text in _NO_RIBS
        is_fraction = self.tokens[at].text == "third" and (
            after.kind is Kind.PREPOSITION or (after.kind is Kind.BONE and after.value != "rib")
        )
        return is_space or is_fraction or (after.kind is Kind.BONE and after.value == "other")

    def _is_third_part(self, at: int, high: int) -> bool:
        """Tell the fraction of "in its lateral third" from "the lateral third and fourth ribs"."""
        if self.tokens[at].text != "third" or self.tokens[at - 1].kind is not Kind.SEGMENT:
            return False
        listed = (Kind.BONE, Kind.NUMBER, Kind.FRACTURE)
        near = self.tokens[at + 1 : min(at + 3, high)]
        return self._follows_bone(at) and not any(
            t.kind in listed or t.text in ("to", "through") for t in near
        )

    def _counts_fractures(self, at: int, high: int) -> bool:
        """Tell "a second fracture is seen" from "a second rib fracture"."""
        after = self._kind_after(at, high, (Kind.QUALIFIER, Kind.AGE))
        is_one_more = at > 0 and self.tokens[at - 1].value == "indefinite"
        return is_one_more and after is Kind.FRACTURE

    def _counts_off(self, at: int, high: int) -> bool:
        """Tell "two fractures: the first is in the 4th rib" from "the first rib"."""
        token = self.tokens[at]
        before = self.tokens[at - 1] if at else token
        end = at + 1
        while end < high and self.tokens[end].kind is Kind.VERB:
            end += 1
        is_place = end < high and self.tokens[end].text in ("in", "at", "involves", "located in")
        named = any(t.kind in (Kind.NUMBER, Kind.BONE) for t in self.tokens[end : end + 5])
        is_word = token.form == "ordinal" and token.text.isalpha()
        return is_word and before.value == "definite" and is_place and named

    def _follows_bone(self, at: int) -> bool:
        return any(t.kind is Kind.BONE for t in self.tokens[self.low : at])

    def _read_level(self, at: int, _high: int) -> None:
        for level in self.tokens[at].value.split():
            self._add_site("vertebra", level, at).is_garbled = not is_level(level)

    def _read_bone(self, at: int, _high: int) -> None:
        bone = self.tokens[at].value
        # "5th and 6th ribs": the numbers came first, and get side, segment and name from their
        # word.
        if bone == "rib" and self.pending:
            is_between = self.side_at > 0 and self.tokens[self.side_at - 1].kind is Kind.NUMBER
            for site in self.pending:
                if site.side is None or (is_between and site.at < self.side_at):
                    site.side = self.side
                site.segment = site.segment or self.segment
                site.name = self.tokens[at].text
            self.sites += [  # "healed right and acute left 5th rib fractures"
                replace(site, side=side, at=where)
                for side, where in self.shared
                for site in self.pending
            ]
            self.pending, self.shared = [], []
            return
        last = self.sites[-1] if self.sites else None
        # "Acromion of the scapula" is the acromion: the whole bone adds at most a side.
        if last and bone == "scapula" and last.bone in _PARTS and self._is_owner(last.at, at):
            last.side = last.side or self.side
            return
        if last and bone == "scapula" and last.bone == "vertebra" and self._is_owner(last.at, at):
            self.sites.pop()
        # "Scapular glenoid": the adjective was read as the bone.
        if last and bone in _PARTS and last.bone == "scapula" and last.at == at - 1:
            self.sites.pop()
        for side, where in self.shared:  # "acute right and old left rib fractures"
            self.sites.append(
                Site(bone, None, side, self.segment, where, name=self.tokens[at].text)
            )
        self.shared = []
        site = self._add_site(bone, None, at)
        site.segment = _own_segment(self.tokens[at]) or self.segment
        site.name = self.tokens[at].text
        self.segment = None

    def _is_owner(self, part: int, at: int) -> bool:
        between = self.tokens[part + 1 : at]
        kinds = (Kind.PREPOSITION, Kind.ARTICLE, Kind.SIDE, Kind.NEUTRAL)
        return any(t.text == "of" for t in between) and all(t.kind in kinds for t in between)

    def _read_side(self, at: int, high: int) -> None:
        value = self._joint_side(at, high)
        after = self._kind_after(at, high, (*_ADJECTIVES, Kind.SIDE))
        if self._kind_after(at, high, ()) is Kind.NORMAL:
            return  # "ribs: left ok, right fx"
        if after is Kind.HINT and not self._names_more(at, high):
            # "on the L hemithorax" places a fracture, "bilateral chest drains" do not
            thing = self._kind_after(at, high, (*_ADJECTIVES, Kind.SIDE, Kind.HINT))
            after = thing if thing in (Kind.NOUN, Kind.DEVICE) else None
        if self._is_of_thing(at, high, after):
            return
        if apart := self._sites_apart(at, value):
            for site in apart:
                site.side = value
            self.pending = []
            return
        is_late = self._ends_place(at, high)
        if after in (Kind.NOUN, Kind.DEVICE, Kind.PROPERTY) and not is_late:
            return
        # A side behind its bones ("ribs 5 and 6 on the left") is theirs; before a bone it is that
        # of what comes.
        unsided = [s for s in self.sites if s.side is None and s.bone not in MIDLINE]
        unsided = unsided or self._sides_own(at)
        if (after in (*_BONES, Kind.FRACTURE, Kind.UNKNOWN) and not is_late) or not unsided:
            if self.side and self.side != value and self._shares_bone(at, after):
                self.shared.append((self.side, self.side_at))
            self.side, self.side_at = value, at
        else:
            for site in unsided:
                site.side, site.is_of_both = value, False
            self.pending = []
            is_heading = all(s.number is None for s in unsided)
            # "rib fractures left, 5th and 6th", and not "clavicle (left), scapula (right)"
            passed = (*LISTING, Kind.ARTICLE)
            behind = self._kind_after(at, high, passed)
            if self._kind_after(at, high, (*passed, Kind.NUMBER)) is Kind.BONE:
                behind = Kind.BONE
            is_heading &= after is Kind.COLON or behind not in (None, Kind.BONE)
            self.side = value if is_heading and after in (Kind.COLON, Kind.COMMA) else None
            self.late_side = value

    def _is_of_thing(self, at: int, high: int, after: Kind | None) -> bool:
        """Tell the side of "right costophrenic angle", "shift to the right," from a bone's."""
        before = at - 1 - has(self.tokens[at - 1 : at], Kind.ARTICLE)
        if before < self.low:
            return False
        token = self.tokens[before]
        if token.text == "to" and after is Kind.COMMA and not self.sites:
            return True
        while before > self.low and self.tokens[before].kind in _DESCRIBING:
            before -= 1  # "blunted left costophrenic angle"
        token = self.tokens[before]
        is_apart = token.kind in LISTING or token.text in ("of", "with")
        is_thing = after in (Kind.UNKNOWN, Kind.NEUTRAL)
        return is_apart and is_thing and bool(self.sites) and not self._names_more(at, high)

    def _sites_apart(self, at: int, value: str) -> list[Site]:
        """Return the 6th of "left 5th rib and the 6th rib on the right": it has its own side."""
        place = at - 1 - has(self.tokens[at - 1 : at], Kind.ARTICLE)
        if place <= self.low or self.tokens[place].text not in ("on", "in", "of"):
            return []
        end = place
        while end > self.low and self.tokens[end - 1].kind in (Kind.SEGMENT, Kind.NUMBER):
            end -= 1
        if not has(self.tokens[end - 1 : end], Kind.BONE):
            return []
        start = end - 1
        named = (Kind.NUMBER, Kind.SEGMENT, Kind.QUALIFIER, Kind.AGE, *LISTING)
        while start > self.low and self.tokens[start - 1].kind in named:
            start -= 1
        joint = next((n for n in range(start, end) if self.tokens[n].kind in LISTING), start)
        joint -= has(self.tokens[start - 1 : start], Kind.ARTICLE)
        own = [site for site in self.sites if start <= site.at < place]
        is_other = all(site.side not in (None, value) for site in own)
        is_of_both = all(site.side == "bilateral" for site in own)
        return own if is_other and (is_of_both or self._ends_group(start, joint)) else []

    def _ends_group(self, start: int, joint: int) -> bool:
        """Tell whether another bone or fracture was named before the joint."""
        before = start
        light = (Kind.ARTICLE, Kind.PREPOSITION, *LISTING)
        while before > self.low and self.tokens[before - 1].kind in light:
            before -= 1
        if before - 2 > self.low and self.tokens[before - 2].text in ("so", "as"):
            before -= 2  # "is fractured, and so is the clavicle on the right"
            while before > self.low and self.tokens[before - 1].kind in light:
                before -= 1
        is_joined = has(self.tokens[before : joint + 1], *LISTING)
        closed = (Kind.BONE, Kind.FRACTURE, Kind.VERB)
        return is_joined and has(self.tokens[before - 1 : before], *closed)

    def _sides_own(self, at: int) -> list[Site]:
        """Return the sites of "bilateral rib fractures: 3 on the right, 5 on the left"."""
        own = [s for s in self.sites if s.is_of_both]
        between = self.tokens[own[-1].at + 1 : at] if own else ()
        sides = {t.value for t in self.tokens[self.low :] if t.kind is Kind.SIDE}
        is_next = all(t.kind in (Kind.PREPOSITION, Kind.ARTICLE) for t in between)
        return own if is_next and {"left", "right"} <= sides else []

    def _shares_bone(self, at: int, after: Kind | None) -> bool:
        """Tell whether the side before, in "acute right and old left rib", has the same bone."""
        between = self.tokens[self.side_at + 1 : at]
        kinds = (Kind.AGE, Kind.QUALIFIER, Kind.HEDGE, Kind.ARTICLE)
        is_aged = any(t.kind is Kind.AGE for t in between)  # "old right, acute left clavicle"
        joints = (Kind.AND, Kind.OR, Kind.COMMA) if is_aged else (Kind.AND, Kind.OR)
        is_joined = len(between) > 1 and between[0].kind in joints
        is_named = after in (Kind.BONE, Kind.NUMBER)
        return is_joined and is_named and all(t.kind in kinds for t in between[1:])

    def _ends_place(self, at: int, high: int) -> bool:
        """Tell whether "ribs on the left likely represent", "rib 7 R fx" end with their side."""
        before = self.tokens[max(self.low, at - 2) : at]
        if not before or at + 1 >= high:
            return False
        after = self.tokens[at + 1].kind
        # "Rib fractures on the right complicate it": a word that nobody knows names no bone.
        is_end = after is Kind.UNKNOWN and not self._names_more(at, high)
        is_placed = any(t.text == "on" for t in before) and (after is Kind.HEDGE or is_end)
        back = at - 1
        while back > self.low and self.tokens[back].kind in (Kind.AGE, Kind.QUALIFIER, Kind.HEDGE):
            back -= 1
        if after is Kind.FRACTURE and self.tokens[back].kind is Kind.COLON:
            return not any(t.kind in NAMED for t in self.tokens[at:high])  # "rib 7: healed R fx"
        return is_placed or (before[-1].kind in _NAMED_BEFORE and after is Kind.FRACTURE)

    def _names_more(self, at: int, high: int) -> bool:
        named = (Kind.NUMBER, Kind.BONE, Kind.LEVEL, Kind.FRACTURE)
        return any(t.kind in named for t in self.tokens[at + 1 : high])

    def _joint_side(self, at: int, high: int) -> str:
        """Read "left and right" as both."""
        value = self.tokens[at].value
        for start in (at, at - 2):
            pair = self.tokens[start : min(start + 3, high)] if start >= self.low else ()
            if [t.kind for t in pair] != [Kind.SIDE, Kind.AND, Kind.SIDE]:
                continue
            is_late = start >= 2 and self.tokens[start - 2].text in ("on", "in", "to")
            is_own = self._kind_after(start + 2, high, _ADJECTIVES) in _BONES
            if pair[1].text in ("and", "/") and not (is_late and is_own):
                return value if pair[0].value == pair[2].value else "bilateral"
        return value

    def _kind_after(self, at: int, high: int, passed: tuple[Kind, ...]) -> Kind | None:
        for token in self.tokens[at + 1 : high]:
            if token.kind not in passed:
                return token.kind
        return None

    def _read_segment(self, at: int, high: int) -> None:
        value = self.tokens[at].value
        after = self.tokens[at + 1].kind if at + 1 < high else None
        if value not in SEGMENTS or after in (Kind.NOUN, Kind.DEVICE):
            return  # "seen on the lateral view"
        passed = (*_ADJECTIVES, Kind.SIDE, Kind.NEUTRAL, Kind.PREPOSITION)
        if self._kind_after(at, high, passed) in (Kind.NUMBER, Kind.BONE, Kind.LEVEL):
            self.segment = value
            return
        for site in self.sites:
            site.segment = site.segment or value

    def _read_hint(self, at: int, _high: int) -> None:
        if self.hint != "vertebra":
            self.hint = self.tokens[at].value


def _own_segment(token: Token) -> str | None:
    words = token.text.split()
    if words[0].startswith("manubri"):
        return "manubrium"
    return words[-1] if len(words) > 1 and words[-1] in ("head", "neck", "body") and (
        token.value != "vertebra"
    ) else None  # fmt: skip


BLAND = frozenset({Kind.NORMAL})
_ALIEN = frozenset(
    {
        Kind.NOUN,
        Kind.DEVICE,
        Kind.NORMAL,
        Kind.ABSENT,
        Kind.PROPERTY,
        Kind.ABNORMALITY,
        Kind.REFERENCE,
    }
)
_PLACING = frozenset(
    ("of", "in", "on", "at", "at the", "to", "through", "along", "within", "across", "into")
)
_CHEST_WORDS = """
lung lungs lobe heart cardiac cardiomediastinal mediastinum mediastinal base bases apex apices
pneumothorax effusion effusions hemothorax diaphragm hemidiaphragm pleura pleural atelectasis
consolidation contusion pneumonia inspiration inspiratory effort expansion silhouette aorta trachea
hila hilar apical basilar
"""
CHEST = frozenset(_CHEST_WORDS.split())


def unrelated_parts(
    tokens: Sequence[Token], low: int, high: int, alien: frozenset[Kind], at: int = -1
) -> frozenset[int]:
    """Return the indices of those parts of a clause that are about something else."""
    out: set[int] = set()
    parts: list[range] = []
    start = low
    for end in range(low, high + 1):
        is_joint = end < high and _starts_part(tokens[end]) and not _lists_numbers(tokens, end)
        if end < high and not is_joint:
            continue
        part = range(start, end)
        if at not in part and any(_is_alien(tokens[n], alien) for n in part):
            out.update(part)
        parts.append(part)
        start = end
    for before, part in reversed(list(pairwise(parts))):
        if at not in before and _shares_normal(tokens, before, part, out):
            out.update(before)  # "ribs and clavicles intact"
    for before, part in pairwise(parts):
        is_normal = {*before} <= out and _leads_normal(tokens, before)
        if is_normal and at not in part and _is_next_bone(tokens, part, end=high):
            out.update(part)  # "normal ribs and scapula"
    return frozenset(out)


_PLAIN = (Kind.ARTICLE, Kind.SIDE, Kind.BONE, Kind.NUMBER, Kind.SEGMENT, *LISTING)


def _shares_normal(tokens: Sequence[Token], before: range, part: range, out: set[int]) -> bool:
    """Tell whether bones share what is said of the next ones: "ribs and clavicles intact"."""
    joint = tokens[part.start] if len(part) else None
    if joint is None or not {*part} <= out or not has(tokens[part.start : part.stop], Kind.NORMAL):
        return False
    own = tokens[before.start : before.stop]
    is_apart = bool(own) and (own[0].kind is Kind.COMMA or own[0].text == "with")
    named = own[1:] if is_apart else own
    is_list = joint.kind in (Kind.AND, Kind.OR) or _chains(tokens, part)
    return is_list and is_apart and has(named, Kind.BONE) and all(t.kind in _PLAIN for t in named)


def _chains(tokens: Sequence[Token], part: range) -> bool:
    """Tell whether a part behind a comma is itself one of a list: ", scapula and ribs intact"."""
    own = tokens[part.start + 1 : part.stop]
    return tokens[part.start].kind is Kind.COMMA and all(t.kind in _PLAIN for t in own)


def _leads_normal(tokens: Sequence[Token], part: range) -> bool:
    """Tell whether a part calls its bones normal before it names them: "with normal ribs"."""
    kinds = [tokens[n].kind for n in part]
    return Kind.NORMAL in kinds and Kind.BONE in kinds[kinds.index(Kind.NORMAL) :]


def _is_next_bone(tokens: Sequence[Token], part: range, *, end: int) -> bool:
    own = tokens[part.start + 1 : min(part.stop, end)]
    is_joined = has(tokens[part.start : part.start + 1], Kind.AND, Kind.OR)
    return is_joined and has(own, Kind.BONE) and all(t.kind in _PLAIN for t in own)


def _starts_part(token: Token) -> bool:
    is_aside = token.kind is Kind.PREPOSITION and token.text not in _PLACING
    return is_aside or token.kind in (*LISTING, Kind.LINK) or token.text == "without"


def _lists_numbers(tokens: Sequence[Token], at: int) -> bool:
    """Tell the "and" of "the 7th and 8th ribs", which no other finding comes after."""
    counted = (Kind.NUMBER, Kind.LEVEL)
    if tokens[at].kind not in LISTING:
        return False
    low = next((n for n in range(at - 1, at - 3, -1) if n < 0 or tokens[n].kind not in LISTING), -1)
    near = (n for n in range(at + 1, at + 3) if n >= len(tokens) or tokens[n].kind not in LISTING)
    high = next(near, len(tokens))
    is_between = low >= 0 and high < len(tokens)
    return is_between and tokens[low].kind in counted and tokens[high].kind in counted


def _is_alien(token: Token, alien: frozenset[Kind]) -> bool:
    return token.kind in alien or token.text in CHEST


def read_sites(tokens: Sequence[Token], low: int, high: int, skip: frozenset[int]) -> list[Site]:
    """Return the bones named from `low` up to `high`, whatever is said of them."""
    return SiteReader(tokens, skip).read(low, high)


def sites(scope: Phrase) -> list[Site]:
    """Return the bones that the fracture of `scope` is in."""
    tokens, low, high = scope.tokens, scope.low, scope.high
    # First without the parts that are about lungs, devices and places of comparison.
    operated = _operated_levels(scope)
    skip = unrelated_parts(tokens, low, high, _ALIEN, scope.at) | _referred_places(scope) | operated
    reader = SiteReader(tokens, skip, scope.knows_ribs)
    sites = reader.read(low, high)
    if not sites:
        # Nothing was found without the parts about lungs and devices, so the bone may stand within
        # one: read again and leave out only what is called normal.
        skip = unrelated_parts(tokens, low, high, BLAND, scope.at) | operated
        reader = SiteReader(tokens, skip, scope.knows_ribs)
        sites = reader.read(low, high)
    if not sites and _is_vertebral(scope):
        return [Site("vertebra", None, None, None, scope.at)]
    return sites


_NEIGHBOURING = (
    "adjacent",
    "underlying",
    "ipsilateral",
    "neighboring",
    "neighbouring",
    "subjacent",
)


def is_neighbour(scope: Phrase) -> bool:
    """Tell whether a fracture is beside the one before: "with adjacent rib fractures"."""
    return any(t.text in _NEIGHBOURING for t in scope.tokens[scope.low : scope.at])


_JOINTS_OF = {
    "humerus": ("shoulder", "glenohumeral"), "glenoid": ("shoulder", "glenohumeral"),
    "coracoid": ("shoulder", "acromioclavicular", "ac"),
    "acromion": ("shoulder", "acromioclavicular", "ac"),
    "rib": ("flail chest", "flail segment"),
}  # fmt: skip
"""Bone -> what has its side: "left shoulder dislocation with a greater tuberosity fracture"."""


def side_of_joint(scope: Phrase, bones: set[str]) -> str | None:
    """Return the side of the joint that was named before bones that have none of their own."""
    passed = (Kind.SEGMENT, Kind.QUALIFIER, Kind.NEUTRAL)
    joints = set.intersection(*(set(_JOINTS_OF.get(bone, ())) for bone in bones))
    sides = {
        scope.tokens[side - 1].value
        for at in scope.places(lambda token: token.text in joints, 0, scope.at)
        if (side := scope.skip_back(passed, at)) and scope.tokens[side - 1].kind is Kind.SIDE
    }
    return sides.pop() if len(sides) == 1 else None


_OPERATIONS_WORDS = """
fusion vertebroplasty kyphoplasty laminectomy screw screws rod rods hardware cement fixation
stabilization instrumentation arthrodesis corpectomy cage spacer
"""
_OPERATIONS = frozenset(_OPERATIONS_WORDS.split())


def _operated_levels(scope: Phrase) -> frozenset[int]:
    """Skip the levels of "fusion T10-L2 for T12 fracture", which say where the operation was."""
    tokens = scope.tokens
    listed = (Kind.LEVEL, Kind.AND, Kind.COMMA)
    words = (*listed, Kind.PREPOSITION, Kind.DEVICE, Kind.NOUN, Kind.ARTICLE, Kind.REFERENCE)
    out: set[int] = set()
    for at in scope.places(lambda token: token.text.split(" ")[-1] in _OPERATIONS):
        high = at + 1
        while high < scope.high and tokens[high].kind in words:
            is_with = tokens[high].text == "with" and has(tokens[at:high], Kind.LEVEL)
            if is_with or tokens[high].text in _PURPOSES:
                break
            high += 1
        is_next = high < scope.high and tokens[high].kind in (Kind.HINT, Kind.FRACTURE)
        if is_next and tokens[high - 1].kind is Kind.LEVEL and tokens[high - 2].kind is Kind.COMMA:
            high -= 1  # "fusion T10-L2, T12 fracture"
        low = at
        before = (*listed, Kind.SEGMENT, Kind.BONE, Kind.UNKNOWN)
        while low > scope.low and tokens[low - 1].kind in before:
            low -= 1
        out.update(n for n in range(low, high) if tokens[n].kind is Kind.LEVEL)
    others = scope.places(lambda token: token.kind is Kind.LEVEL)
    return frozenset(out) if set(others) - out else frozenset()


_PURPOSES = ("for", "due to", "because of", "secondary to", "across", "bridging", "spanning",
             "following", "after")  # fmt: skip


def _referred_places(scope: Phrase) -> frozenset[int]:
    """Skip the T8 of "rib fracture at the level of T8", a place and not a bone."""
    tokens = scope.tokens
    out: set[int] = set()
    for at in range(scope.low, scope.high):
        is_of_fracture = (
            at < scope.at
            and (
                scope.at <= at + 4  # "adjacent to a fractured right 3rd rib"
                or _is_one_phrase(tokens[at + 1 : scope.at])
            )
        )
        if tokens[at].kind is Kind.REFERENCE and not is_of_fracture:
            end = _end_of_reference(scope, at)
            others = [n for n in range(scope.low, scope.high) if n < at or n >= end]
            if any(tokens[n].kind in NAMED for n in others):
                out.update(range(at, end))
    for at in range(scope.low, scope.high):
        place = _level_or_cover(scope, at)
        others = [n for n in range(scope.low, scope.high) if n not in place]
        kinds = (Kind.BONE,) if tokens[at].kind is Kind.LEVEL else NAMED
        if place and any(tokens[n].kind in kinds for n in others):
            out.update(place)
    return frozenset(out)


_COVERING = ("overlies", "overlie", "overlaps", "overlap", "obscures", "covers", "projects over")
_COVERED = ("obscured", "hidden", "overlapped", "covered", "overlaid")


def _level_or_cover(scope: Phrase, at: int) -> range:
    """Return the T8 of "at the T8 level", and what lies over a fracture or under what it tents."""
    tokens, token = scope.tokens, scope.tokens[at]
    if token.kind is Kind.LEVEL:
        back = at - 1 - has(tokens[at - 1 : at], Kind.ARTICLE)
        is_place = back >= scope.low and tokens[back].text in ("at", "at the", "with")
        return range(at, at + 1) if is_place else range(0)
    bones = (Kind.ARTICLE, Kind.SIDE, Kind.NUMBER, Kind.BONE, Kind.SEGMENT, Kind.AND)
    if token.text in _COVERING and at < scope.at:
        start = scope.skip_back((Kind.VERB,), at)
        low = max(scope.skip_back(bones, start), scope.low)
        return range(low, at + 1) if has(tokens[low:at], Kind.BONE) else range(0)
    is_covered = token.text in _COVERED and [t.text for t in tokens[at + 1 : at + 2]] == ["by"]
    if is_covered or token.text in ("over", *_COVERING):
        high = min(scope.skip(bones, at + 1 + is_covered), scope.high)
        return range(at, high) if has(tokens[at:high], Kind.BONE) else range(0)
    return range(0)


def _is_one_phrase(tokens: Sequence[Token]) -> bool:
    """Tell whether "the left 6th and 7th rib" stands before the word fractures, with one bone."""
    kinds = (Kind.ARTICLE, Kind.SIDE, Kind.NUMBER, Kind.LEVEL, Kind.BONE, *_ADJECTIVES, *LISTING)
    is_bone_last = has(tokens[-1:], Kind.BONE) and not has(tokens[:-1], Kind.BONE)
    return is_bone_last and all(t.kind in kinds for t in tokens)


def _end_of_reference(scope: Phrase, at: int) -> int:
    """Return where the place ends: "overlying a vessel" before "at the right 5th rib"."""
    end = min(at + 5, scope.high)
    joint = scope.until(JOINTS, at)
    if joint + 1 < end and not has(scope.tokens[joint : joint + 2], Kind.AND, Kind.OR, *NAMED):
        return joint  # "in comparison with the last study, the left ..."
    if of := next((n for n in range(at + 1, min(end, joint)) if scope.tokens[n].text == "of"), 0):
        end = min(max(end, of + 4), scope.high)  # "near the tip of the right scapula"
    for n in range(at + 2, end):
        is_thing = scope.tokens[n - 1].kind in (Kind.NOUN, Kind.UNKNOWN, Kind.NEUTRAL)
        if is_thing and scope.tokens[n].text in ("at", "at the", "in", "on"):
            return n
    return end


def _is_vertebral(scope: Phrase) -> bool:
    near = scope.tokens[max(scope.low, scope.at - 4) : scope.high]
    return any(
        t.value == "deformity"
        or (t.kind is Kind.HINT and t.value == "vertebra")
        or t.text == "vertebra plana"
        for t in near
    )


def implied_site(scope: Phrase) -> Site:
    """Return the site of a fracture whose bone is not named."""
    reader = SiteReader(
        scope.tokens, unrelated_parts(scope.tokens, scope.low, scope.high, _ALIEN, scope.at)
    )
    reader.read(scope.low, scope.high)
    side = reader.side or reader.late_side
    head = scope.tokens[:2]
    if [t.kind for t in head] == [Kind.BONE, Kind.COLON]:  # "Clavicle: L intact, R fracture"
        bone = head[0].value
        return Site(
            bone, None, None if bone in MIDLINE else side, None, scope.at, name=head[0].text
        )
    return Site("other", None, side, None, scope.at)


def is_specific(phrase: Phrase) -> bool:
    """Tell whether a side, number or level is named, as reports do with what they found."""
    named = (Kind.NUMBER, Kind.SIDE, Kind.LEVEL)
    return any(t.kind in named for t in phrase.tokens[phrase.low : phrase.high])
