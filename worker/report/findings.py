"""Read a model's text into fractures, conservatively: when in doubt, undetermined, never absent."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from worker.report import scope as scopes
from worker.report.scope import Scope
from worker.report.sentences import Sentence, has_foreign_letters, is_loop, sentences
from worker.report.sites import Site, SiteReader
from worker.report.tokens import tokenize
from worker.report.words import TYPO_TARGETS, Kind, Token


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


@dataclass(frozen=True, slots=True)
class Findings:
    """The presence of fractures and, where present, each fractured bone in order of mention."""

    presence: Presence
    fractures: tuple[Fracture, ...]


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
    reading = _Reading()
    for sentence in sentences(text):
        reading.read(sentence)
    return reading.conclude()


def as_json(findings: Findings) -> dict[str, Any]:
    """Return `findings` as the object that ``chexfract-worker parse`` prints."""
    keys = ("bone", "number", "side", "certainty", "age")
    return {
        "presence": str(findings.presence),
        "fractures": [{key: getattr(f, key) for key in keys} for f in findings.fractures],
    }


_LONGEST_SENTENCE = 1000  # characters; what runs on for longer is no report sentence


@dataclass(slots=True)
class _Entry:
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

    def fracture(self) -> Fracture:
        certainty = "possible" if self.is_possible else "definite"
        return Fracture(
            self.bone, self.number, self.side, certainty, self.age, self.segment, self.sentence
        )


@dataclass(frozen=True, slots=True)
class _Denial:
    """A statement that there is no fracture, of these bones (of any, where there are none)."""

    sites: tuple[Site, ...]
    qualifiers: frozenset[str]
    is_extra: bool

    def contradicts(self, entry: _Entry) -> bool:
        if self.is_extra or (self.sites and not any(_same(site, entry) for site in self.sites)):
            return False
        holds = {
            "acute": entry.age == "acute",
            "old": entry.age == "old",
            "healing": entry.age == "healing",
            "displaced": entry.is_displaced,
            "definite": not entry.is_possible,
        }
        return all(holds.get(qualifier, False) for qualifier in self.qualifiers)


def _same(site: Site, entry: _Entry) -> bool:
    """Tell whether a denied site covers a bone that is said to be fractured."""
    is_side = site.side in (None, "bilateral", entry.side) or entry.side == "bilateral"
    return site.bone == entry.bone and site.number in (None, entry.number) and is_side


@dataclass(slots=True)
class _Reading:
    """What has been understood so far."""

    entries: list[_Entry] = field(default_factory=list)
    denials: list[_Denial] = field(default_factory=list)
    is_void: bool = False  # garbled: nothing of the text is to be trusted
    is_doubtful: bool = False  # not clear enough to call anything absent
    asked: set[str] = field(default_factory=set)  # bones of questions not answered since
    last: list[_Entry] = field(default_factory=list)  # entries of the latest fracture
    signs: list[Site] = field(default_factory=list)  # bones of the sentence before
    is_label: bool = False  # the sentence before was "Location: left 5th rib" or the like

    def read(self, sentence: Sentence) -> None:
        if len(sentence.body) > _LONGEST_SENTENCE:
            self.is_doubtful = True
            return
        tokens = tokenize(sentence.body)
        names_fracture = any(t.kind is Kind.FRACTURE for t in tokens)
        if has_foreign_letters(sentence.body) or _is_foreign(tokens):
            self.is_doubtful = True
        elif sentence.is_request:
            self.is_doubtful |= names_fracture and _is_known_before(tokens)
        elif sentence.is_question:
            self._ask(tokens)
        elif sentence.has_placeholder and (names_fracture or _names_site(tokens)):
            self.is_doubtful = True
        elif names_fracture and (_is_garbled(tokens) or _is_salad(tokens)):
            self.is_doubtful = True
        else:
            self._understand(sentence, tokens)

    def _ask(self, tokens: list[Token]) -> None:
        if any(t.kind is Kind.FRACTURE for t in tokens):
            sites = _read_sites(tokens, 0, len(tokens), frozenset())
            self.asked |= {site.bone for site in sites} or {""}

    def _understand(self, sentence: Sentence, tokens: list[Token]) -> None:
        self.is_doubtful |= _is_limited(tokens)
        if _continues(tokens, self.last):
            self._continue(sentence, tokens)
            return
        if self.last and tokens and _dates_only(tokens):
            self._date_last(Scope(tokens, 0, 0, len(tokens)))
            return
        denials = len(self.denials)
        for clause in _clauses(tokens):
            if self.last and self.last[0].sentence == sentence.verbatim and _is_bare(clause):
                self._continue(sentence, clause)
            else:
                self._clause(sentence, clause)
        if sentence.is_last and not sentence.has_end and _is_cut_off(sentence.body, tokens):
            self.is_doubtful |= len(self.denials) > denials
            del self.denials[denials:]
        for denial in self.denials[denials:]:
            self.asked -= {site.bone for site in denial.sites} or self.asked
        self.is_label = not any(t.kind is Kind.FRACTURE for t in tokens) and _is_bare(tokens)
        self.signs = _read_sites(tokens, 0, len(tokens), _unrelated(tokens, 0, len(tokens), _BLAND))

    def _clause(self, sentence: Sentence, tokens: list[Token]) -> None:
        found = [at for at, token in enumerate(tokens) if token.kind is Kind.FRACTURE]
        if not found:
            self.is_doubtful |= any(t.kind is Kind.UNSURE for t in tokens) and _is_on_bones(tokens)
            self.denials += _normal(tokens)
            return
        bounds = _bounds(tokens, found)
        for at, (low, high) in zip(found, bounds, strict=True):
            self._mention(sentence, Scope(tokens, at, low, high))

    def _mention(self, sentence: Sentence, scope: Scope) -> None:
        if _is_device(scope):
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
        self.denials.append(_Denial(tuple(_sites(scope)), _qualifiers(scope), extra))

    def _assert(self, sentence: Sentence, scope: Scope) -> None:
        sites = _sites(scope)
        if self._is_anaphor(scope, sites):
            self._date_last(scope)
            return
        if not sites and self.signs and (self.is_label or _points_back(scope)):
            sites = self.signs
        self.is_void |= any(site.is_garbled for site in sites)
        hedged, hedged_from = scopes.is_hedged(scope)
        dates = scopes.ages(scope)
        implied = _implied(scope)
        is_extra = any(t.kind is Kind.EXTRA for t in scope.tokens[scope.low : scope.high])
        is_displaced = any(t.value == "displaced" for t in scope.tokens[scope.low : scope.high])
        self.last = [
            _Entry(
                bone=site.bone,
                number=site.number,
                side=site.side,
                is_possible=(hedged and (hedged_from is None or site.at > hedged_from))
                or scope.tokens[scope.at].value == "deformity",
                age=_age(site.at, scope.at, dates),
                segment=site.segment,
                sentence=sentence.verbatim,
                is_displaced=is_displaced,
                is_extra=is_extra,
            )
            for site in sites or [implied]
        ]
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
            _Entry(s.bone, s.number, s.side, first.is_possible, first.age, s.segment,
                   sentence.verbatim, first.is_displaced, is_extra=False)
            for s in sites
        ]  # fmt: skip

    def conclude(self) -> Findings:
        """Weigh what was asserted against what was denied."""
        entries = _merged(self.entries)
        is_contradictory = any(d.contradicts(e) for d in self.denials for e in entries)
        if self.is_void or (entries and is_contradictory):
            return Findings(Presence.UNDETERMINED, ())
        if entries:
            return Findings(Presence.PRESENT, tuple(e.fracture() for e in entries))
        is_clear = any(not d.is_extra for d in self.denials)
        if is_clear and not self.is_doubtful and not self.asked:
            return Findings(Presence.ABSENT, ())
        return Findings(Presence.UNDETERMINED, ())


_STOPS = (Kind.BREAK,)
_NOUN_PHRASE = frozenset({
    Kind.SIDE, Kind.NUMBER, Kind.BONE, Kind.LEVEL, Kind.HINT, Kind.SEGMENT, Kind.QUALIFIER,
    Kind.AGE, Kind.HEDGE, Kind.ARTICLE, Kind.EXTRA, Kind.AND, Kind.COMMA, Kind.OR, Kind.NEGATION,
})  # fmt: skip
_LISTING = (Kind.AND, Kind.COMMA, Kind.OR)
_NAMED = (Kind.NUMBER, Kind.BONE, Kind.LEVEL)
_BLAND = frozenset({Kind.NORMAL})
_ALIEN = frozenset(
    {Kind.NOUN, Kind.DEVICE, Kind.NORMAL, Kind.PROPERTY, Kind.ABNORMALITY, Kind.REFERENCE}
)
_PLACING = frozenset([*"of in on at to through along within across into".split(), "at the"])
_BARE = frozenset({
    Kind.NUMBER, Kind.BONE, Kind.LEVEL, Kind.SIDE, Kind.SEGMENT, Kind.AND, Kind.COMMA,
    Kind.ARTICLE, Kind.PREPOSITION, Kind.NEUTRAL, Kind.HINT, Kind.COLON,
})  # fmt: skip
_CHEST = frozenset(
    "lung lungs lobe heart cardiac cardiomediastinal mediastinum mediastinal base bases apex apices "
    "pneumothorax effusion effusions hemothorax diaphragm hemidiaphragm pleura pleural atelectasis "
    "consolidation contusion pneumonia silhouette aorta trachea hila hilar apical basilar".split()
)
_ENGLISH = frozenset(
    "the is are of and with there in seen at for was a an rib ribs left right has have by from".split()
)


def _clauses(tokens: list[Token]) -> Iterator[list[Token]]:
    """Cut at "but", ";" and the like; what is excepted from a denial becomes an assertion."""
    start = 0
    for at, token in enumerate([*tokens, None]):
        if token is None or token.kind is Kind.BREAK:
            yield from _exceptions(tokens[start:at])
            start = at + 1


def _exceptions(clause: list[Token]) -> Iterator[list[Token]]:
    at = next((n for n, t in enumerate(clause) if t.kind is Kind.EXCEPT), None)
    if at is None:
        yield clause
        return
    comma = next((n for n in range(at, len(clause)) if clause[n].kind is Kind.COMMA), None)
    if at == 0 and comma:  # "apart from a rib fracture, no fracture"
        yield clause[1:comma]
        yield [clause[0], *clause[comma + 1 :]]
        return
    head, tail = clause[: at + 1], clause[at + 1 :]
    yield head
    denies = any(t.kind is Kind.FRACTURE for t in head)
    named = any(t.kind in _NAMED for t in tail)
    if denies and named and not any(t.kind is Kind.FRACTURE for t in tail):
        tail = [Token(Kind.FRACTURE, "noun", "fracture"), *tail]
    yield tail


def _bounds(tokens: Sequence[Token], found: list[int]) -> list[tuple[int, int]]:
    """Share the tokens of a clause out between its fractures."""
    starts = [0]
    for before, at in zip(found, found[1:], strict=False):
        starts.append(_start(tokens, before, at))
    return list(zip(starts, [*starts[1:], len(tokens)], strict=True))


def _start(tokens: Sequence[Token], before: int, at: int) -> int:
    """Return where the noun phrase of the fracture at `at` begins."""
    start = at
    if _looks_ahead(tokens, at):
        while start - 1 > before and not _closes_sites(tokens, start - 1):
            start -= 1
        return start
    start = _phrase_start(tokens, before, at)
    if not any(t.kind in _NAMED for t in tokens[start:at]):
        verb = start
        while verb - 1 > before and tokens[verb - 1].kind is Kind.VERB:
            verb -= 1
        start = _phrase_start(tokens, before, verb) if verb < start else start
    if tokens[start].kind is Kind.NEGATION:
        return start
    comma = next((n for n in range(at, start, -1) if tokens[n].kind is Kind.COMMA), start)
    if comma > start and not any(t.kind in _NAMED for t in tokens[comma:at]):
        return comma + 1
    if _looks_ahead(tokens, before):
        heads = [n for n in range(before + 1, at) if tokens[n].kind in (Kind.BONE, Kind.LEVEL)]
        if len(heads) > 1:
            start = max(start, _after_numbers(tokens, heads[-2] + 1, at))
        start = _after_late_side(tokens, start, at)
    while start < at and tokens[start].kind in _LISTING:
        start += 1
    return start


def _closes_sites(tokens: Sequence[Token], at: int) -> bool:
    if tokens[at].kind is Kind.SIDE:
        return any(t.text in ("on", "in", "to") for t in tokens[max(0, at - 2) : at])
    return tokens[at].kind in (*_NAMED, *_LISTING) or tokens[at].text == "with"


def _after_numbers(tokens: Sequence[Token], start: int, at: int) -> int:
    """Leave the "5 and 6" of "ribs 5 and 6 and sternal fracture" to the ribs."""
    end = start
    while end < at and tokens[end].kind in (Kind.NUMBER, Kind.LEVEL):
        is_listed = end + 2 < at and tokens[end + 1].kind in _LISTING
        end += 2 if is_listed and tokens[end + 2].kind in (Kind.NUMBER, Kind.LEVEL) else 1
    return end


def _after_late_side(tokens: Sequence[Token], start: int, at: int) -> int:
    """Leave the "on the left" of "ribs on the left and right rib fracture" to what it follows."""
    end = start
    while end < at and tokens[end].kind in (Kind.ARTICLE, Kind.SIDE):
        end += 1
    is_late = start > 0 and tokens[start - 1].kind is Kind.PREPOSITION
    has_side = any(t.kind is Kind.SIDE for t in tokens[start:end])
    return end if is_late and has_side and end < at and tokens[end].kind in _LISTING else start


def _phrase_start(tokens: Sequence[Token], before: int, at: int) -> int:
    start = at
    while start - 1 > before and tokens[start - 1].kind in _NOUN_PHRASE:
        start -= 1
        if tokens[start].kind is Kind.NEGATION:
            break
    return start


def _looks_ahead(tokens: Sequence[Token], at: int) -> bool:
    """Tell "fracture of the ..." from "... fracture"."""
    for token in tokens[at + 1 : at + 4]:
        if token.kind in (*_NAMED, Kind.SIDE, Kind.COLON, Kind.INVOLVE):
            return True
        if token.kind is Kind.PREPOSITION:
            return token.text not in ("with", "from", "due to", "by", "on")
        if token.kind not in (Kind.VERB, Kind.SEEN, Kind.SEGMENT):
            return False
    return False


def _unrelated(
    tokens: Sequence[Token], low: int, high: int, alien: frozenset[Kind], at: int = -1
) -> frozenset[int]:
    """Return the indices of those parts of a clause that are about something else."""
    out: set[int] = set()
    start = low
    for end in range(low, high + 1):
        is_joint = end < high and _parts(tokens[end])
        if end < high and not is_joint:
            continue
        part = range(start, end)
        if at not in part and any(_is_alien(tokens[n], alien) for n in part):
            out.update(part)
        start = end
    return frozenset(out)


def _parts(token: Token) -> bool:
    is_aside = token.kind is Kind.PREPOSITION and token.text not in _PLACING
    return is_aside or token.kind in (*_LISTING, Kind.LINK) or token.text == "without"


def _is_alien(token: Token, alien: frozenset[Kind]) -> bool:
    return token.kind in alien or token.text in _CHEST


def _read_sites(tokens: Sequence[Token], low: int, high: int, skip: frozenset[int]) -> list[Site]:
    return SiteReader(tokens, skip).read(low, high)


def _sites(scope: Scope) -> list[Site]:
    """Return the bones that the fracture of `scope` is in."""
    tokens, low, high = scope.tokens, scope.low, scope.high
    skip = _unrelated(tokens, low, high, _ALIEN, scope.at) | _referred(scope)
    reader = SiteReader(tokens, skip)
    sites = reader.read(low, high)
    if not sites:
        skip = _unrelated(tokens, low, high, _BLAND, scope.at)
        reader = SiteReader(tokens, skip)
        sites = reader.read(low, high)
    if not sites and _is_vertebral(scope):
        return [Site("vertebra", None, None, None, scope.at)]
    return sites


def _referred(scope: Scope) -> frozenset[int]:
    """Skip the T8 of "rib fracture at the level of T8", a place and not a bone."""
    tokens = scope.tokens
    out: set[int] = set()
    for at in range(scope.low, scope.high):
        if tokens[at].kind is Kind.REFERENCE:
            others = [n for n in range(scope.low, scope.high) if n < at or n > at + 4]
            if any(tokens[n].kind in _NAMED for n in others):
                out.update(range(at, min(at + 5, scope.high)))
    return frozenset(out)


def _is_vertebral(scope: Scope) -> bool:
    near = scope.tokens[max(scope.low, scope.at - 4) : scope.high]
    return scope.tokens[scope.at].value == "deformity" or any(
        t.kind is Kind.HINT and t.value == "vertebra" for t in near
    )


def _implied(scope: Scope) -> Site:
    """Return the site of a fracture whose bone is not named."""
    reader = SiteReader(
        scope.tokens, _unrelated(scope.tokens, scope.low, scope.high, _ALIEN, scope.at)
    )
    reader.read(scope.low, scope.high)
    return Site("other", None, reader.side or reader.late_side, None, scope.at)


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


def _is_device(scope: Scope) -> bool:
    """Tell whether it is a wire, lead or plate that is fractured."""
    tokens, at = scope.tokens, scope.at
    ahead = (Kind.QUALIFIER, Kind.SIDE, Kind.NUMBER, Kind.SEGMENT, Kind.ARTICLE, Kind.NEUTRAL,
             Kind.PREPOSITION, Kind.BONE, Kind.AGE, Kind.HINT, Kind.NOUN, Kind.UNKNOWN)  # fmt: skip
    for token in tokens[at + 1 : scope.high]:
        if token.kind is Kind.DEVICE:
            return True
        if token.kind not in ahead or (
            token.kind is Kind.PREPOSITION
            and token.text not in ("of", "in", "through", "at", "within")
        ):
            break
    back = at - 1
    while back >= scope.low and tokens[back].kind in (Kind.QUALIFIER, Kind.AGE, Kind.HEDGE):
        back -= 1
    if back >= scope.low and tokens[back].kind is Kind.DEVICE:
        return True
    return _is_broken_device(scope, back) or _is_said_of_device(scope)


def _is_said_of_device(scope: Scope) -> bool:
    """Read "leads intact without fracture": the last thing named before is a device."""
    things = (Kind.DEVICE, Kind.BONE, Kind.SKELETON, Kind.LEVEL, Kind.NUMBER, Kind.COMMA, Kind.SIDE,
              Kind.FRACTURE, Kind.NOUN, Kind.HINT, Kind.UNKNOWN)  # fmt: skip
    last = next((t for t in reversed(scope.tokens[: scope.at]) if t.kind in things), None)
    is_last = not any(t.kind in _NAMED for t in scope.tokens[scope.at : scope.high])
    return last is not None and last.kind is Kind.DEVICE and is_last


def _is_broken_device(scope: Scope, back: int) -> bool:
    tokens = scope.tokens
    if tokens[scope.at].value != "adjective" or back < 0 or tokens[back].kind is not Kind.VERB:
        return False
    return any(t.kind is Kind.DEVICE for t in tokens[scope.low : back])


def _points_back(scope: Scope) -> bool:
    words = (
        "this",
        "these",
        "it",
        "which",
        "findings",
        "finding",
        "appearance",
        "that",
        "appearances",
    )
    return any(t.text in words for t in scope.tokens[: scope.at])


def _continues(tokens: list[Token], last: list[_Entry]) -> bool:
    """Tell whether a sentence without the word fracture goes on naming fractured bones."""
    if not last or not _names_site(tokens):
        return False
    kinds = {t.kind for t in tokens}
    if _is_bare(tokens) and all(entry.number is None for entry in last):
        return True
    begins = tokens[0].text in ("these", "this", "they", "it", "involving", "the")
    closed = _BARE | {Kind.INVOLVE, Kind.VERB, Kind.QUALIFIER, Kind.SEEN}
    return begins and Kind.INVOLVE in kinds and kinds <= closed


def _is_bare(tokens: Sequence[Token]) -> bool:
    """Tell whether the tokens name bones and nothing else."""
    return _names_site(tokens) and all(t.kind in _BARE for t in tokens)


def _names_site(tokens: Sequence[Token]) -> bool:
    return any(t.kind in _NAMED for t in tokens)


def _is_on_bones(tokens: Sequence[Token]) -> bool:
    bones = (*_NAMED, Kind.SKELETON, Kind.ABNORMALITY)
    return any(t.kind in bones for t in tokens) or not any(t.kind is Kind.NOUN for t in tokens)


def _is_limited(tokens: Sequence[Token]) -> bool:
    """Tell whether the view of the bones, or of everything, is said to be limited."""
    if not any(t.kind is Kind.LIMITED for t in tokens):
        return False
    on_bones = any(t.kind in (*_NAMED, Kind.SKELETON, Kind.FRACTURE) for t in tokens)
    return on_bones or not any(t.text in _CHEST for t in tokens)


def _is_foreign(tokens: Sequence[Token]) -> bool:
    foreign = sum(t.kind is Kind.FOREIGN for t in tokens)
    english = any(t.text in _ENGLISH for t in tokens if t.kind is not Kind.NEGATION)
    return foreign > 1 or (foreign == 1 and not english)


def _is_garbled(tokens: Sequence[Token]) -> bool:
    words = [t for t in tokens if t.kind not in (Kind.COMMA, Kind.COLON, Kind.BREAK, Kind.NUMBER)]
    unknown = sum(t.kind is Kind.UNKNOWN for t in words)
    return unknown >= 3 and unknown * 5 > len(words) * 2


def _is_salad(tokens: Sequence[Token]) -> bool:
    """Tell words thrown together: no English sentence has "the of" or "of is"."""
    copulas = ("is", "are", "was")
    for one, two in zip(tokens, tokens[1:], strict=False):
        if one.text in ("the", "a", "an") and (two.text == "of" or two.text in copulas):
            return True
        if one.text == "of" and two.text in copulas:
            return True
    return False


def _is_known_before(tokens: Sequence[Token]) -> bool:
    asking = (Kind.ASKING, Kind.HEDGE, Kind.UNSURE, Kind.QUERY, Kind.NEGATION)
    return not any(t.kind in asking for t in tokens)


def _dates_only(tokens: Sequence[Token]) -> bool:
    """Tell whether a sentence says of the fracture before only how old it is: "This is old"."""
    kinds = (Kind.ARTICLE, Kind.NEUTRAL, Kind.VERB, Kind.AGE, Kind.HEDGE, Kind.QUALIFIER)
    begins = tokens[0].text in ("this", "it", "these", "they")
    return begins and all(t.kind in kinds for t in tokens)


def _is_cut_off(body: str, tokens: Sequence[Token]) -> bool:
    """Tell whether a text stops in mid-sentence or in mid-word."""
    if not tokens:
        return False
    word = body.split()[-1].lower()
    if tokens[-1].text != word and any(target.startswith(word) for target in TYPO_TARGETS):
        return True
    open_ended = (Kind.PREPOSITION, Kind.ARTICLE, Kind.AND, Kind.OR, Kind.NEGATION, Kind.VERB,
                  Kind.UNKNOWN, Kind.COMMA, Kind.HEDGE, Kind.SIDE, Kind.UNSURE)  # fmt: skip
    return tokens[-1].kind in open_ended and tokens[-1].text != "no"


def _normal(tokens: list[Token]) -> list[_Denial]:
    """Read "bones are intact" and "no acute osseous abnormality" as denials of fracture."""
    if any(t.kind is Kind.DEVICE for t in tokens):
        return []
    extra = any(t.kind in (Kind.EXTRA, Kind.EXCEPT) and t.text != "otherwise" for t in tokens)
    out = []
    for at, token in enumerate(tokens):
        sites = None
        if token.kind is Kind.NORMAL:
            sites = _normal_bones(tokens, at)
        elif token.kind is Kind.ABNORMALITY or token.text in ("finding", "findings"):
            sites = _bones_without(tokens, at)
        if sites is not None:
            out.append(
                _Denial(tuple(sites), _near_qualifiers(tokens, at), extra or _is_otherwise(tokens))
            )
    return out


def _is_otherwise(tokens: Sequence[Token]) -> bool:
    return any(t.text == "otherwise" for t in tokens)


def _near_qualifiers(tokens: Sequence[Token], at: int) -> frozenset[str]:
    near = tokens[max(0, at - 4) : at]
    return frozenset(t.value or "other" for t in near if t.kind is Kind.AGE)


def _normal_bones(tokens: list[Token], at: int) -> list[Site] | None:
    """Return the bones called normal at `at`, an empty list for all bones, None for none."""
    if any(t.kind is Kind.NEGATION and t.value == "not" for t in tokens[max(0, at - 3) : at]):
        return None
    part = tokens[at + 1 : at + 4]
    if any(t.kind is Kind.PROPERTY for t in part):
        return None
    low = at
    passed = {Kind.VERB, Kind.COLON, Kind.QUALIFIER, Kind.EXTRA, Kind.SIDE, Kind.COMMA, Kind.AND,
              Kind.NOUN, Kind.ARTICLE, Kind.PREPOSITION, Kind.SKELETON, Kind.SEEN, Kind.OR,
              Kind.BONE, Kind.NUMBER, Kind.LEVEL, Kind.HINT, Kind.SEGMENT}  # fmt: skip
    while low > 0 and _passes(tokens[low - 1], passed):
        low -= 1
    if not any(t.kind in (Kind.SKELETON, Kind.BONE, Kind.LEVEL) for t in tokens[low:at]):
        ahead = [
            t for t in tokens[at + 1 : at + 5] if t.kind not in (Kind.SEEN, Kind.ARTICLE, Kind.SIDE)
        ]
        if not ahead or ahead[0].kind not in (Kind.SKELETON, Kind.BONE):
            return None
        return (
            []
            if ahead[0].kind is Kind.SKELETON
            else _read_sites(tokens, at + 1, at + 5, frozenset())
        )
    if any(t.kind is Kind.SKELETON for t in tokens[low:at]):
        return []
    return _read_sites(tokens, low, at, frozenset())


def _passes(token: Token, passed: set[Kind]) -> bool:
    return token.kind in passed or (token.kind is Kind.NEUTRAL and token.value != "plain")


def _bones_without(tokens: list[Token], at: int) -> list[Site] | None:
    """Return the bones without the abnormality at `at`, empty for all bones, None for none."""
    if not scopes.is_denied(Scope(tokens, at, 0, len(tokens))):
        return None
    bones = (Kind.SKELETON, Kind.BONE, Kind.LEVEL)
    adjectives = (Kind.QUALIFIER, Kind.AGE, Kind.NEUTRAL, Kind.HEDGE, Kind.SIDE, Kind.CARRIER)
    low = at
    while low > 0 and tokens[low - 1].kind in (*adjectives, *bones, Kind.AND, Kind.OR):
        low -= 1
    linking = (*adjectives, *bones, Kind.PREPOSITION, Kind.ARTICLE, Kind.VERB, Kind.SEEN,
               Kind.INVOLVE, Kind.COMMA, Kind.AND, Kind.OR, Kind.HINT)  # fmt: skip
    high = at + 1
    while high < len(tokens) and tokens[high].kind in linking:
        high += 1
    head = 0
    while head < low and tokens[head].kind in (*linking, Kind.COLON, Kind.NEGATION):
        head += 1
    low = 0 if head == low else low
    near = [t.kind for t in tokens[low:high]]
    if Kind.SKELETON in near:
        return []
    return (
        _read_sites(tokens, low, high, frozenset())
        if Kind.BONE in near or Kind.LEVEL in near
        else None
    )


def _merged(entries: list[_Entry]) -> list[_Entry]:
    """Make one entry of each bone, and drop groups whose members are named."""
    out: list[_Entry] = []
    for entry in entries:
        twin = next((e for e in out if _is_twin(e, entry)), None)
        if twin is None:
            out.append(entry)
            continue
        twin.side = twin.side or entry.side
        twin.age = twin.age or entry.age
        twin.segment = twin.segment or entry.segment
        twin.is_possible = twin.is_possible and entry.is_possible
        twin.is_displaced |= entry.is_displaced
    for group in [e for e in out if e.number is None]:
        members = [e for e in out if e is not group and _is_member(e, group)]
        if members and not group.is_extra:
            for member in members:
                member.side = member.side or _side_of(group)
                if member.sentence == group.sentence:
                    member.age = member.age or group.age
            out = [e for e in out if e is not group]
    return out


def _side_of(group: _Entry) -> str | None:
    return group.side if group.side != "bilateral" else None


def _is_twin(one: _Entry, two: _Entry) -> bool:
    if (one.bone, one.number) != (two.bone, two.number):
        return False
    is_group = one.number is None and one.bone in ("rib", "vertebra")
    if is_group and one.age and two.age and one.sentence != two.sentence:
        return one.side == two.side and one.age == two.age
    return one.side == two.side or None in (one.side, two.side)


def _is_member(entry: _Entry, group: _Entry) -> bool:
    """Tell whether `entry` is one of the bones that `group` speaks of together."""
    is_side = group.side in (None, "bilateral", entry.side) or entry.side is None
    is_age = group.age is None or entry.age in (None, group.age)
    if group.bone == "other":
        return group.side is None and entry.bone != "other" and is_age
    return entry.bone == group.bone and entry.number is not None and is_side and is_age
