"""Read a model's text into fractures, conservatively: when in doubt, undetermined, never absent."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from worker.text import scope as scopes
from worker.text.claims import Denial, Entry, merged
from worker.text.clauses import bounds, clauses, fractures_of
from worker.text.doubts import (
    BARE,
    dates_only,
    ends_open,
    hides_fracture,
    is_bare,
    is_cut_off,
    is_foreign,
    is_garbled,
    is_known_before,
    is_label,
    is_limited,
    is_on_bones,
    is_salad,
    names_site,
    points_back,
    shows_sign,
)
from worker.text.intact import normal
from worker.text.places import (
    BLAND,
    implied,
    is_device,
    names_device_for,
    read_sites,
    sites,
    unrelated,
)
from worker.text.scope import Scope
from worker.text.sentences import Sentence, has_foreign_letters, is_loop, sentences
from worker.text.sites import Site, SiteReader
from worker.text.tokens import tokenize
from worker.text.words import Kind, Token


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
    """Which part of the bone (`worker.text.sites.PARTS`); of ``other`` the name of the bone."""
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


def parse(text: str) -> Findings:
    """Return what `text` says about fractures.

    Parameters
    ----------
    text : str
        A model's answer or a report; only its first 10,000 characters are read.

    Returns
    -------
    Findings
        ``present`` has at least one fracture, ``absent`` and ``undetermined`` have none.
    """
    if "\ufffd" in text or is_loop(text):
        return Findings(Presence.UNDETERMINED, ())
    findings = _read(sentences(text))
    if findings.presence is Presence.ABSENT and "\n" in text:
        apart = _read(sentences(text, joins=False))
        # Two notes, or one that a narrow page has wrapped?
        if any(f.bone != "other" or f.side for f in apart.fractures):
            return Findings(Presence.UNDETERMINED, ())
    return findings


def _read(sentences: Iterable[Sentence]) -> Findings:
    reading = _Reading()
    for sentence in sentences:
        reading.read(sentence)
    return reading.conclude()


def as_json(findings: Findings) -> dict[str, Any]:
    """Return `findings` as the object that ``chexfract-worker parse`` prints."""
    keys = ("bone", "number", "side", "certainty", "age")
    return {
        "presence": str(findings.presence),
        "fractures": [{key: getattr(f, key) for key in keys} for f in findings.fractures],
    }


_LONGEST_SENTENCE = 600  # characters; what runs on for longer is no report sentence


@dataclass(slots=True)
class _Reading:
    """What has been understood so far."""

    entries: list[Entry] = field(default_factory=list)
    denials: list[Denial] = field(default_factory=list)
    is_void: bool = False  # garbled: nothing of the text is to be trusted
    knows_ribs: bool = False
    is_doubtful: bool = False  # not clear enough to call anything absent
    asked: set[str] = field(default_factory=set)  # bones of questions not answered since
    last: list[Entry] = field(default_factory=list)  # entries of the latest fracture
    signs: list[Site] = field(default_factory=list)  # bones of the sentence before
    is_label: bool = False  # it was "Location: left 5th rib" or "Irregularity of the left 5th rib"

    def read(self, sentence: Sentence) -> None:
        if len(sentence.body) > _LONGEST_SENTENCE:
            self.is_doubtful = True
            return
        tokens = tokenize(sentence.body)
        self.knows_ribs |= any(t.kind is Kind.BONE and t.value == "rib" for t in tokens)
        is_opaque = has_foreign_letters(sentence.body) or is_foreign(tokens)
        if is_opaque or _is_unreadable(sentence, tokens):
            self.is_doubtful = True
        elif sentence.is_request:
            self.is_doubtful |= names_fracture(tokens) and is_known_before(tokens)
        elif sentence.is_question:
            self._ask(tokens)
        else:
            self._understand(sentence, tokens)

    def _ask(self, tokens: list[Token]) -> None:
        if names_fracture(tokens):
            sites = read_sites(tokens, 0, len(tokens), frozenset())
            self.asked |= {site.bone for site in sites} or {""}

    def _understand(self, sentence: Sentence, tokens: list[Token]) -> None:
        self.is_doubtful |= is_limited(tokens)
        if _continues(tokens, self.last):
            self._continue(sentence, tokens)
            return
        if self.last and tokens and dates_only(tokens):
            self._date_last(Scope(tokens, 0, 0, len(tokens)))
            return
        denials = len(self.denials)
        for clause in clauses(tokens):
            if self.last and self.last[0].sentence == sentence.verbatim and is_bare(clause):
                self._continue(sentence, clause)
            else:
                self._clause(sentence, clause)
        is_open = not sentence.has_end and is_cut_off(sentence.body, tokens)
        if sentence.is_last and (is_open or ends_open(tokens)):
            self.is_doubtful |= len(self.denials) > denials
            del self.denials[denials:]
            self._forget_boneless(sentence)
        for denial in self.denials[denials:]:
            denial.sentence = sentence.verbatim
            self.asked -= {site.bone for site in denial.sites} or self.asked
        leads_on = is_label(tokens) or shows_sign(tokens)
        self.is_label = not names_fracture(tokens) and leads_on
        self.signs = read_sites(tokens, 0, len(tokens), unrelated(tokens, 0, len(tokens), BLAND))

    def _forget_boneless(self, sentence: Sentence) -> None:
        """Drop "Fracture of the right" at the cut end of a text that has named a fracture."""
        named = [e for e in self.entries if e.sentence != sentence.verbatim or e.bone != "other"]
        self.entries = named or self.entries

    def _clause(self, sentence: Sentence, tokens: list[Token]) -> None:
        found = fractures_of(tokens)
        if not found:
            self.is_doubtful |= any(t.kind is Kind.UNSURE for t in tokens) and is_on_bones(tokens)
            self.is_doubtful |= any(hides_fracture(t) for t in tokens)
            self.denials += normal(tokens)
            return
        for at, (low, high) in zip(found, bounds(tokens, found), strict=True):
            self._mention(sentence, Scope(tokens, at, low, high, self.knows_ribs))

    def _mention(self, sentence: Sentence, scope: Scope) -> None:
        if is_device(scope):
            self.is_doubtful |= names_device_for(scope)
            return
        if scopes.is_sought(scope):
            return
        denied = scopes.is_denied(scope)
        if denied is None or scopes.is_doubted(scope):
            self.is_doubtful = True
        elif denied:
            self._deny(scope)
        else:
            self._assert(sentence, scope)

    def _deny(self, scope: Scope) -> None:
        negation = next(
            (n for n in range(scope.at, -1, -1) if scope.tokens[n].kind is Kind.NEGATION), None
        )
        if negation and scope.tokens[negation - 1].kind is Kind.HEDGE:
            self.is_doubtful = True  # "probably no fracture"
            return
        extra = any(t.kind in (Kind.EXTRA, Kind.EXCEPT) for t in scope.tokens)
        extra |= scope.at > 0 and scope.tokens[scope.at - 1].text in ("second", "third")
        named = sites(scope)
        self.is_void |= any(site.is_garbled for site in named)
        side = None if named else implied(scope).side
        self.denials.append(Denial(tuple(named), _qualifiers(scope), extra, side))

    def _assert(self, sentence: Sentence, scope: Scope) -> None:
        named = sites(scope)
        if self._is_anaphor(scope, named):
            self._date_last(scope)
            return
        if not named and self.signs and (self.is_label or points_back(scope)):
            named = self.signs
        self.is_void |= any(site.is_garbled for site in named)
        named = named or [implied(scope)]
        if named[0].bone == "other" and not named[0].side and scopes.is_queried(scope):
            self.is_doubtful = True  # "?fracture" asks, "?fracture left 5th rib" suspects
            return
        self.last = [_entry(sentence, scope, site) for site in named]
        self.entries += self.last

    def _is_anaphor(self, scope: Scope, sites: list[Site]) -> bool:
        """Tell whether "the fracture" is one that has been described already."""
        before = scope.tokens[max(scope.low, scope.at - 4) : scope.at]
        is_definite = any(t.value == "definite" and t.kind is Kind.ARTICLE for t in before)
        return is_definite and not sites and bool(self.last)

    def _date_last(self, scope: Scope) -> None:
        dates = scopes.ages(scope)
        for entry in self.last:
            entry.age = entry.age or _age(scope.at, scope.at, dates)

    def _continue(self, sentence: Sentence, tokens: list[Token]) -> None:
        """Add the bones of "These involve the 5th and 6th ribs" to the fracture before."""
        first = self.last[0]
        reader = SiteReader(tokens, knows_ribs=any(e.bone == "rib" for e in self.last))
        sites = reader.read(0, len(tokens))
        self.is_void |= any(site.is_garbled for site in sites)
        self.entries += [
            Entry(s.bone, s.number, s.side, first.is_possible, first.age, s.segment,
                   sentence.verbatim, first.is_displaced, is_extra=False, part=s.part)
            for s in sites
        ]  # fmt: skip

    def conclude(self) -> Findings:
        """Weigh what was asserted against what was denied."""
        entries = merged(self.entries)
        is_contradictory = any(d.contradicts(e) for d in self.denials for e in entries)
        if self.is_void or (entries and is_contradictory):
            return Findings(Presence.UNDETERMINED, ())
        if entries:
            fractures = tuple(_fracture(e) for e in entries)
            return Findings(Presence.PRESENT, fractures, self._absences())
        is_clear = any(not d.is_extra for d in self.denials)
        if is_clear and not self.is_doubtful and not self.asked:
            return Findings(Presence.ABSENT, (), self._absences())
        return Findings(Presence.UNDETERMINED, ())

    def _absences(self) -> tuple[Absence, ...]:
        found = [
            Absence(
                tuple(Place(s.bone, s.number, s.side, s.part) for s in denial.sites),
                tuple(sorted(denial.qualifiers)),
                denial.side,
                denial.sentence,
            )
            for denial in self.denials
            if not denial.is_extra
        ]
        return tuple(dict.fromkeys(found))


def _entry(sentence: Sentence, scope: Scope, site: Site) -> Entry:
    own = scope.tokens[scope.low : scope.high]
    is_hedged, hedged_from = scopes.is_hedged(scope)
    is_deformity = scope.tokens[scope.at].value == "deformity"
    return Entry(
        bone=site.bone,
        number=site.number,
        side=site.side,
        is_possible=is_deformity or (is_hedged and site.at > (hedged_from or -1)),
        age=_age(site.at, scope.at, scopes.ages(scope)),
        segment=site.segment,
        sentence=sentence.verbatim,
        is_displaced=any(t.value == "displaced" for t in own),
        is_extra=any(t.kind is Kind.EXTRA for t in own),
        part=site.part,
        course=_course(own),
    )


_UNCHANGED_WORDS = "stable unchanged again redemonstrated redemonstration persistent"
_UNCHANGED = frozenset(_UNCHANGED_WORDS.split())


def _course(own: Sequence[Token]) -> str | None:
    """Return what the words of a fracture say of it against an earlier image."""
    words = {word for token in own for word in token.text.split()}
    if words & {"new", "newly"} and not words & {"no", "not", "or"}:
        return "new"
    is_same = words & _UNCHANGED or {"no", "change"} <= words or {"not", "changed"} <= words
    return "unchanged" if is_same else None


def _qualifiers(scope: Scope) -> frozenset[str]:
    out = set()
    for token in scope.tokens[scope.low : scope.high]:
        if token.kind is Kind.AGE:
            out.add(token.value or "other")
        elif token.kind is Kind.QUALIFIER:
            out.add(token.value)
    return frozenset(out)


def _age(at: int, fracture: int, dates: list[tuple[int, str]]) -> str | None:
    """Choose among the ages said of a fracture the one that is said of the bone at `at`."""
    values = {value for _, value in dates}
    if len(values) <= 1:
        return next(iter(values), None) or None
    before = [value for where, value in dates if where < max(at, fracture) and where < at]
    if before and len({w for w, _ in dates}) > 1 and not _are_adjacent(dates):
        return before[-1] or None
    return None


def _are_adjacent(dates: list[tuple[int, str]]) -> bool:
    places = [where for where, _ in dates]
    return max(places) - min(places) <= 2


def _continues(tokens: list[Token], last: list[Entry]) -> bool:
    """Tell whether a sentence without the word fracture goes on naming fractured bones."""
    if not last or not names_site(tokens):
        return False
    kinds = {t.kind for t in tokens}
    if is_bare(tokens) and all(entry.number is None for entry in last):
        return True
    begins = tokens[0].text in ("these", "this", "they", "it", "involving", "the", "affected")
    closed = BARE | {Kind.INVOLVE, Kind.VERB, Kind.QUALIFIER, Kind.SEEN}
    return begins and Kind.INVOLVE in kinds and kinds <= closed


def names_fracture(tokens: list[Token]) -> bool:
    """Tell whether the word fracture, or one that means it, is among the tokens."""
    return any(t.kind is Kind.FRACTURE for t in tokens)


def _is_unreadable(sentence: Sentence, tokens: list[Token]) -> bool:
    """Tell whether a sentence is an unfilled template or words thrown together."""
    if sentence.is_request or sentence.is_question:
        return False
    if sentence.has_placeholder:
        return names_fracture(tokens) or names_site(tokens)
    return names_fracture(tokens) and (is_garbled(tokens) or is_salad(tokens))


def _fracture(entry: Entry) -> Fracture:
    certainty = "possible" if entry.is_possible else "definite"
    return Fracture(
        entry.bone,
        entry.number,
        entry.side,
        certainty,
        entry.age,
        entry.segment,
        entry.sentence,
        entry.part,
        entry.course,
    )
