"""From verdicts to the answer: entries are merged, contradictions weighed, the rest concluded."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from worker.text.answers import read_answers
from worker.text.bones import (
    BLAND,
    MIDLINE,
    SEGMENTS,
    Site,
    SiteReader,
    implied_site,
    is_neighbour,
    read_sites,
    side_of_joint,
    sites,
    unrelated_parts,
)
from worker.text.clauses import list_spared, split_clauses
from worker.text.entries import Denial, Entry, merge_entries
from worker.text.lexicon import Kind, Lexicon, Token
from worker.text.phrase import (
    NAMED,
    Phrase,
    find_fractures,
    has,
    is_bare,
    read_past_blanks,
    share_tokens,
    whole_phrase,
)
from worker.text.result import Absence, Findings, Fracture, Place, Presence
from worker.text.rules import ENGLISH, Hit, RuleSet, RuleVerdict, TextRule, first_hit
from worker.text.rules.backward import (
    adds_one,
    answers_yes,
    asks_of_pain,
    asks_to_exclude,
    dates_bones,
    dates_only,
    explains_away,
    is_anaphor,
    is_label,
    is_no,
    names_more,
    points_back,
    shows_sign,
    takes_for_granted,
)
from worker.text.rules.cut_off import (
    ends_open,
    is_cut_off,
    may_begin_bones,
    says_nothing_yet,
)
from worker.text.rules.hedged import find_query
from worker.text.rules.unreadable import names_fracture
from worker.text.sentences import BLANK_WORD, LONGEST_SENTENCE, Sentence
from worker.text.tokens import tokenize


@dataclass(frozen=True, slots=True)
class RuleReason:
    """A rule that decided something, the sentence and the words that it saw there."""

    rule: str
    verdict: str
    sentence: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FractureQuestion:
    """A question on fractures, with its words and the bones that it names."""

    tokens: Sequence[Token]
    sites: tuple[Site, ...]
    verbatim: str

    @property
    def is_open(self) -> bool:
        """Whether it is asked if there is a fracture; "is the fracture old?" knows that."""
        return not takes_for_granted(self.tokens)

    @property
    def bones(self) -> set[str]:
        """The names of its bones, or "" for any."""
        return {site.bone for site in self.sites} or {""}


@dataclass(slots=True)
class TextReading:
    """What has been understood so far of one text."""

    lexicon: Lexicon
    rules: RuleSet = ENGLISH
    entries: list[Entry] = field(default_factory=list)
    denials: list[Denial] = field(default_factory=list)
    reasons: list[RuleReason] = field(default_factory=list)
    not_understood: dict[str, None] = field(default_factory=dict)  # in order, each once
    is_void: bool = False  # garbled: nothing of the text is to be trusted
    knows_ribs: bool = False
    is_doubtful: bool = False  # not clear enough to call anything absent
    question: FractureQuestion | None = None  # the sentence before, where it was one
    asked: set[str] = field(default_factory=set)  # bones of questions not answered since
    last: list[Entry] = field(default_factory=list)  # entries of the latest fracture
    signs: list[Site] = field(default_factory=list)  # bones of the sentence before
    said: list[Token] = field(default_factory=list)  # the sentence before
    heading: list[Token] = field(default_factory=list)  # "Fractures:", as long as bones follow
    heading_sentence: str = ""
    is_label: bool = False  # it was "Location: left 5th rib" or "Irregularity of the left 5th rib"

    def read(self, sentence: Sentence) -> None:
        """Take in the next sentence of the text."""
        is_long = len(sentence.body) > LONGEST_SENTENCE
        tokens = [] if is_long else tokenize(sentence.body, self.lexicon)
        self.not_understood |= {t.text: None for t in tokens if t.kind is Kind.UNKNOWN}
        self.knows_ribs |= any(t.kind is Kind.BONE and t.value == "rib" for t in tokens)
        phrase = whole_phrase(tokens, sentence, self.lexicon)
        unread = self._ask_rules(self.rules.sentences, phrase)
        asked, self.question = self.question, _read_question(sentence, tokens)
        is_yes = unread is None and asked is not None and answers_yes(tokens)
        is_denial = unread is None and asked is not None and asked.is_open and is_no(tokens)
        if asked and (is_yes or is_denial):
            # "No." alone would mean nothing to whoever reads it in a report.
            said = f"{asked.verbatim} {sentence.verbatim}"
            sentence = replace(sentence, verbatim=said)
            self.asked -= asked.bones
        if asked and is_yes:
            fracture = [Token(Kind.FRACTURE, "noun", "fracture")]
            known = fracture if has(tokens, *NAMED) else asked.tokens
            tokens = [*known, *tokens[1:]]  # "is there a left rib fracture", read as a statement
        if asked and is_denial:
            self._note_reason("answer-no", RuleVerdict.DENIED, phrase, range(len(tokens)))
            self.denials.append(
                Denial(asked.sites, frozenset(), is_extra=False, sentence=sentence.verbatim)
            )
        if unread is None:
            self._read_statement(sentence, tokens)
            return
        self.is_doubtful |= unread[0].verdict is RuleVerdict.OPEN
        if (
            sentence.is_question
            and unread[0].verdict is RuleVerdict.ASIDE
            and names_fracture(tokens)
        ):
            sites = read_sites(tokens, 0, len(tokens), frozenset())
            self.asked |= {site.bone for site in sites} or {""}

    def _ask_rules(self, rules: Sequence[TextRule], phrase: Phrase) -> tuple[TextRule, Hit] | None:
        """Return the first rule that applies, and note why."""
        found = first_hit(rules, phrase)
        if found:
            self._note_reason(found[0].name, found[0].verdict, phrase, found[1].words)
        return found

    def _note_reason(self, rule: str, verdict: str, phrase: Phrase, words: Sequence[int]) -> None:
        seen = tuple(phrase.tokens[at].text for at in words)
        self.reasons.append(RuleReason(rule, verdict, phrase.sentence.verbatim, seen))

    def _read_statement(self, sentence: Sentence, everything: list[Token]) -> None:
        tokens = everything
        if has(everything, Kind.BLANK):
            plain = tokenize(sentence.body.replace(BLANK_WORD, " "), self.lexicon)
            tokens = read_past_blanks(everything, plain)
        tokens = self._under_heading(sentence, tokens)
        phrase = whole_phrase(tokens, sentence, self.lexicon)
        self.is_doubtful |= self._ask_rules(self.rules.views, phrase) is not None
        if self.last and names_more(tokens, is_numbered=any(e.number for e in self.last)):
            self._add_bones(sentence, tokens)
            return
        if self.last and tokens and has(self.said, Kind.FRACTURE) and adds_one(tokens):
            self._add_one(sentence, tokens)
            return
        if self.last and tokens and (is_away := explains_away(tokens)) is not False:
            self._note_reason("explained-later", RuleVerdict.OPEN, phrase, range(len(tokens)))
            self._doubt_last(is_away=is_away is True)
            return
        if self.last and tokens and dates_only(tokens):
            self._note_reason("dates-back", RuleVerdict.DATED, phrase, ())
            self._date_last(phrase)
            return
        spared = list_spared(tokens)
        if spared & {e.number for e in self.last if e.is_ranged}:
            self._note_reason("spared", RuleVerdict.DENIED, phrase, range(len(tokens)))
            self._spare_last(tokens, spared)
            return
        if _leaves_side_open(tokens, self.said):
            self._note_reason("other-side-unclear", RuleVerdict.OPEN, phrase, range(len(tokens)))
            self.is_doubtful = True
        denials = len(self.denials)
        for clause in split_clauses(tokens, self.said, is_whole=sentence.has_end):
            if clause and self.last and dates_only(clause):
                own = whole_phrase(clause, sentence, self.lexicon)
                self._note_reason("dates-back", RuleVerdict.DATED, own, ())
                self._date_last(own)
                continue
            if dated := self._dated_some(clause):
                self._note_reason("dates-back", RuleVerdict.DATED, phrase, ())
                for entry, age in dated:
                    entry.age = age
            elif self.last and self.last[0].sentence == sentence.verbatim and is_bare(clause):
                self._add_bones(sentence, clause)
            elif (
                self.last
                and clause
                and self.last[0].sentence == sentence.verbatim
                and adds_one(clause)
            ):
                self._add_one(sentence, clause)
            else:
                self._read_clause(sentence, clause)
            # "The 5th rib has an irregular contour; fracture is possible."
            self.signs = read_sites(clause, 0, len(clause), frozenset()) or self.signs
            self.is_label = shows_sign(clause) and not names_fracture(clause)
        self._drop_cut_off(sentence, everything, denials)
        for denial in self.denials[denials:]:
            denial.sentence = sentence.verbatim
            self.asked -= {site.bone for site in denial.sites} or self.asked
        leads_on = is_label(tokens) or shows_sign(tokens)
        self.is_label = not names_fracture(tokens) and leads_on
        self.said = tokens
        self.signs = read_sites(
            tokens, 0, len(tokens), unrelated_parts(tokens, 0, len(tokens), BLAND)
        )

    def _under_heading(self, sentence: Sentence, tokens: list[Token]) -> list[Token]:
        """Read bones below "Fractures:" as fractured; the heading alone asserts nothing."""
        if _heads_a_list(tokens):
            self.heading, self.heading_sentence = tokens, sentence.verbatim
            return tokens
        heading, self.heading = self.heading, []
        if heading and _denies_side(tokens):  # "Rib fractures:", "Left: none"
            self.entries = [e for e in self.entries if e.sentence != self.heading_sentence]
            self.last, self.heading = [], heading
            return [*heading, *tokens]
        if heading and [e.bone for e in self.last] == ["other"]:
            self.entries, self.last = [e for e in self.entries if e is not self.last[0]], []
        others = (Kind.FRACTURE, Kind.NEGATION, Kind.NORMAL, Kind.ABSENT, Kind.NOUN, Kind.DEVICE)
        if not heading or not has(tokens, *NAMED) or has(tokens, *others):
            return tokens
        self.heading = heading
        return [*heading, *tokens]

    def _drop_cut_off(self, sentence: Sentence, tokens: list[Token], denials: int) -> None:
        """Take back what the last sentence denied if it has been cut off."""
        is_open = not sentence.has_end and is_cut_off(sentence.body, tokens, self.lexicon)
        if sentence.is_last and not sentence.has_end and says_nothing_yet(tokens):
            self.is_doubtful = True  # "there is an old" was going to name it
            is_open = True
        if not sentence.is_last or not (is_open or ends_open(tokens)):
            return
        self._note_reason(
            "cut-off", RuleVerdict.OPEN, whole_phrase(tokens, sentence), (len(tokens) - 1,)
        )
        is_begun = may_begin_bones(sentence.body, tokens, self.lexicon)
        self.is_doubtful |= len(self.denials) > denials or is_begun
        del self.denials[denials:]
        # "Fracture of the right" is dropped at the cut end of a text that has named a fracture.
        named = [e for e in self.entries if e.sentence != sentence.verbatim or e.bone != "other"]
        self.entries = named or self.entries

    def _read_clause(self, sentence: Sentence, tokens: list[Token]) -> None:
        found = find_fractures(tokens)
        phrase = whole_phrase(tokens, sentence, self.lexicon)
        self.is_doubtful |= self._ask_rules(self.rules.signs, phrase) is not None
        shares = share_tokens(tokens, found) if found else []
        for at, (low, high) in zip(found, shares, strict=True):
            self._read_mention(
                sentence,
                Phrase(tokens, at, low, high, self.knows_ribs, sentence, self.lexicon),
            )
        if found:
            return
        self.is_doubtful |= self._ask_rules(self.rules.openings, phrase) is not None
        if has(tokens, Kind.DEVICE):
            return
        is_heading = len(tokens) > 1 and tokens[1].kind is Kind.COLON  # "Other: bones are intact"
        extra = has(tokens[2 if is_heading else 0 :], Kind.EXTRA, Kind.EXCEPT)
        for at in range(len(tokens)):
            absence = self._ask_rules(self.rules.absences, phrase.about(at))
            if absence and absence[0].verdict is RuleVerdict.OPEN:
                self.is_doubtful = True
            elif absence:
                ages = _ages_of_absence(phrase.about(at))
                hit = absence[1]
                denial = Denial(tuple(hit.sites), ages, extra, hit.side)
                denial.is_partial = _names_part(tokens, hit.sites)
                self.denials.append(denial)

    def _read_mention(self, sentence: Sentence, phrase: Phrase) -> None:
        decided = self._ask_rules(self.rules.mentions, phrase)
        if decided is None:
            self._add_assertion(sentence, phrase)
        elif decided[0].verdict is RuleVerdict.DENIED:
            self._add_denial(phrase)
        else:
            self.is_doubtful |= decided[0].verdict is RuleVerdict.OPEN

    def _add_denial(self, phrase: Phrase) -> None:
        extra = any(_presupposes_fracture(phrase, at) for at in range(len(phrase.tokens)))
        extra |= any(t.text in ("second", "third") for t in phrase.before(1))
        is_new = any(t.kind is Kind.AGE and t.text.startswith("new") for t in phrase.own)
        extra |= is_new and any(e.age == "acute" for e in self.entries)  # no new fracture beside it
        named = sites(phrase)
        self.is_void |= any(site.is_garbled for site in named)
        side = None if named else implied_site(phrase).side
        denial = Denial(tuple(named), _read_qualifiers(phrase), extra, side)
        denial.is_partial = _names_part(phrase.own, named)
        self.denials.append(denial)

    def _add_assertion(self, sentence: Sentence, phrase: Phrase) -> None:
        named = sites(phrase)
        if is_anaphor(phrase) and not named and self.last:
            self._note_reason("same-fracture", RuleVerdict.DATED, phrase, (phrase.at,))
            self._date_last(phrase)
            return
        if not named and self.signs and (self.is_label or points_back(phrase)):
            named = self.signs
        self.is_void |= any(site.is_garbled for site in named)
        named = named or [implied_site(phrase)]
        is_of_nothing = named[0].bone == "other" and not named[0].side
        if find_query(phrase) and (is_of_nothing or asks_of_pain(phrase)):
            self._note_reason("asked-of-nothing", RuleVerdict.OPEN, phrase, (phrase.at,))
            self.is_doubtful = True  # "?fracture" asks, "?fracture left 5th rib" suspects
            return
        self._carry_side(sentence, phrase, named)
        self._note_reason("asserted", Presence.PRESENT, phrase, (phrase.at,))
        hedge = self._ask_rules(self.rules.hedges, phrase)
        dates = self._ask_rules(self.rules.dates, phrase)
        ages = _ages_after(phrase, named, dates[1].ages if dates else ())
        self.last = [
            _make_entry(sentence, phrase, site, hedge and hedge[1], dates and dates[1])
            for site in named
        ]
        for entry, age in zip(self.last, ages, strict=False):
            entry.age = age
        self.entries += self.last

    def _carry_side(self, sentence: Sentence, phrase: Phrase, named: Sequence[Site]) -> None:
        """Give bones without a side that of the ribs, neighbours or shoulder named before them."""
        if any(site.side or site.bone in (*MIDLINE, "other") for site in named):
            return
        words = [t.text for t in phrase.tokens]
        is_more = "also" in words or "too" in words or words[-2:] == ["as", "well"]
        is_next = is_more and has(self.said, Kind.FRACTURE)
        before = [e for e in self.last if is_next or e.sentence == sentence.verbatim]
        if not is_neighbour(phrase):
            is_ribs = all(site.bone == "rib" and site.number for site in named)
            before = [e for e in before if e.bone == "rib" and is_ribs]
        sides = {e.side for e in before}
        if not before:
            sides = {side_of_joint(phrase, {site.bone for site in named})}
        if len(sides) == 1 and sides <= {"left", "right"}:
            for site in named:
                site.side = next(iter(sides))

    def _date_last(self, phrase: Phrase) -> None:
        dates = self._ask_rules(self.rules.dates, phrase)
        for entry in self.last:
            entry.age = entry.age or _choose_age(
                phrase.at, phrase.at, dates[1].ages if dates else ()
            )

    def _dated_some(self, tokens: Sequence[Token]) -> list[tuple[Entry, str | None]]:
        """Return the bones of the fracture before that "the 5th is old" dates, with their age."""
        numbers = {n for token in tokens for n in _numbers_of(token)}
        named = [entry for entry in self.last if entry.number in numbers]
        if not numbers or len(named) != len(numbers) or not dates_bones(tokens):
            return []
        age = next(token.value for token in tokens if token.kind is Kind.AGE)
        return [(entry, age or None) for entry in named]

    def _spare_last(self, tokens: Sequence[Token], spared: frozenset[str]) -> None:
        """Take the ribs that are spared out of the range before."""
        sides = {t.value for t in tokens if t.kind is Kind.SIDE}
        is_meant = [not sides or entry.side in sides for entry in self.last]
        left = [
            entry
            for entry, is_own in zip(self.last, is_meant, strict=True)
            if entry.is_ranged and entry.number in spared and is_own
        ]
        self.entries = [e for e in self.entries if all(e is not spare for spare in left)]
        self.last = [e for e in self.last if all(e is not spare for spare in left)]

    def _doubt_last(self, *, is_away: bool) -> None:
        """Take back the fracture before, or make it possible only."""
        for entry in self.last:
            entry.is_possible = True
        if is_away:
            self.entries = [e for e in self.entries if all(e is not last for last in self.last)]
            self.last, self.is_doubtful = [], True

    def _add_bones(self, sentence: Sentence, tokens: list[Token]) -> None:
        """Add the bones of "These involve the 5th and 6th ribs" to the fracture before."""
        phrase = whole_phrase(tokens, sentence)
        self._note_reason("names-more", Presence.PRESENT, phrase, range(len(tokens)))
        first_entry = self.last[0]
        if first_entry.bone == "rib" and tokens[0].kind is Kind.SIDE and not has(tokens, Kind.BONE):
            tokens = [Token(Kind.BONE, "rib", "ribs"), *tokens]  # "Right: 4, 5"
        reader = SiteReader(tokens, knows_ribs=any(e.bone == "rib" for e in self.last))
        sites = reader.read(0, len(tokens))
        self.is_void |= any(site.is_garbled for site in sites)
        self.entries += [
            Entry(
                s.bone, s.number, s.side, first_entry.is_possible, first_entry.age, s.segment,
                sentence.verbatim, first_entry.is_displaced, is_extra=False, part=s.part,
            )
            for s in sites
        ]  # fmt: skip

    def _add_one(self, sentence: Sentence, tokens: list[Token]) -> None:
        """Add the bones of "a second one at the left 9th", of their own age, to those before."""
        own = [
            t
            for t, after in zip(tokens, [*tokens[1:], None], strict=True)
            if not (t.kind is Kind.NUMBER and after is not None and after.text in ("one", "ones"))
        ]
        count = len(self.entries)
        if self.last[0].bone == "rib" and not has(own, Kind.BONE, Kind.LEVEL):
            at = next(n for n, t in enumerate(own) if t.kind is Kind.NUMBER)
            own.insert(at, Token(Kind.BONE, "rib", "ribs"))
        self._add_bones(sentence, own)
        ages = [t.value for t in own if t.kind is Kind.AGE]
        sides = {e.side for e in self.last}
        for entry in self.entries[count:]:
            entry.age = ages[0] or None if ages else None
            entry.is_possible |= has(own, Kind.HEDGE)
            if entry.side is None and entry.bone == "rib" and len(sides) == 1:
                entry.side = next(iter(sides))

    def conclude(self) -> Findings:
        """Weigh what was asserted against what was denied."""
        entries = merge_entries(self.entries)
        is_contradictory = any(d.contradicts(e) for d in self.denials for e in entries)
        # A contradiction is not decided by a majority: a wrong "absent" and a wrong "present" both
        # do harm, so it is left to the person who reads the text.
        if self.is_void or (entries and is_contradictory):
            rule = "garbled-bone" if self.is_void else "contradiction"
            self.reasons.append(RuleReason(rule, RuleVerdict.OPEN, "", ()))
            return Findings(Presence.UNDETERMINED, ())
        if entries:
            fractures = tuple(_make_fracture(e) for e in entries)
            return Findings(Presence.PRESENT, fractures, self._list_absences())
        is_clear = any(not d.is_extra for d in self.denials)
        # "Absent" needs a denial without "other" in it, no doubt anywhere, and no question left
        # unanswered.
        if is_clear and not self.is_doubtful and not self.asked:
            return Findings(Presence.ABSENT, (), self._list_absences())
        if not self.reasons:
            self.reasons.append(RuleReason("says-nothing", RuleVerdict.OPEN, "", ()))
        return Findings(Presence.UNDETERMINED, ())

    def _list_absences(self) -> tuple[Absence, ...]:
        found = [
            Absence(
                tuple(Place(s.bone, s.number, s.side, s.part) for s in denial.sites),
                tuple(sorted(denial.qualifiers | ({"other"} if denial.is_partial else set()))),
                denial.side,
                denial.sentence,
            )
            for denial in self.denials
            if not denial.is_extra
        ]
        return tuple(dict.fromkeys(found))


def _read_question(sentence: Sentence, tokens: Sequence[Token]) -> FractureQuestion | None:
    """Return a question that "yes" answers with a fracture, and "no" with a denial of one.

    "Are the ribs intact?" and "can we rule out a fracture?" are none.
    """
    turned = (Kind.UNSURE, Kind.ABSENT, Kind.NEGATION, Kind.NORMAL)
    if not sentence.is_question or not names_fracture(tokens) or has(tokens, *turned):
        return None
    if asks_to_exclude(tokens):
        return None
    own = [token for token in tokens if token.kind is not Kind.QUERY]
    return FractureQuestion(
        own, tuple(read_sites(own, 0, len(own), frozenset())), sentence.verbatim
    )


def _heads_a_list(tokens: Sequence[Token]) -> bool:
    """Tell whether a sentence is no more than "Rib fractures:"."""
    kinds = [t.kind for t in tokens]
    named = (Kind.BONE, Kind.AGE, Kind.QUALIFIER, Kind.HINT)
    return kinds[-2:] == [Kind.FRACTURE, Kind.COLON] and all(k in named for k in kinds[:-2])


def _denies_side(tokens: Sequence[Token]) -> bool:
    """Tell whether a line says no more than "Left: none"."""
    kinds = {t.kind for t in tokens}
    denying = {Kind.ABSENT, Kind.NEGATION}
    others = {Kind.SIDE, Kind.COLON, Kind.COMMA, Kind.SEEN, Kind.CARRIER}
    return (
        tokens[:1] != []
        and tokens[0].kind is Kind.SIDE
        and bool(kinds & denying)
        and (kinds <= others | denying)
    )


def _leaves_side_open(tokens: Sequence[Token], said: Sequence[Token]) -> bool:
    """Tell whether "left 5th" alone stands behind "no rib fractures right,", or such a sentence."""
    if _names_other_side(tokens, {t.kind for t in said}, _sides(said)):
        return True
    kinds, sides, start, is_open = set[Kind](), set[str](), 0, False
    for at, token in enumerate([*tokens, None]):
        is_list = token and token.kind is Kind.COMMA and has(tokens[max(0, at - 1) : at], *_ENDS)
        if token is None or token.kind is Kind.BREAK or is_list:
            own, start = tokens[start:at], at
            is_open |= _names_other_side(own[1:], kinds, sides)
            kinds |= {t.kind for t in own}
            sides |= _sides(own)
    return is_open and not read_answers(tokens)[0]


_ENDS = (Kind.SIDE, Kind.BONE)
"""Behind these a comma may begin another statement."""


def _names_other_side(own: Sequence[Token], kinds: set[Kind], sides: set[str]) -> bool:
    """Tell whether "left 5th" stands behind a denial of fractures with these kinds of words."""
    is_denial = Kind.FRACTURE in kinds and bool(kinds & {Kind.NEGATION, Kind.ABSENT})
    if not is_denial or not sides or not is_bare(own) or not has(own, Kind.NUMBER, Kind.LEVEL):
        return False
    return bool(_sides(own)) and not _sides(own) & sides


def _sides(tokens: Sequence[Token]) -> set[str]:
    return {t.value for t in tokens if t.kind is Kind.SIDE}


def _make_entry(
    sentence: Sentence, phrase: Phrase, site: Site, hedge: Hit | None, dates: Hit | None
) -> Entry:
    is_possible = hedge is not None and site.at > (-1 if hedge.start is None else hedge.start)
    return Entry(
        bone=site.bone,
        number=site.number,
        side=site.side,
        is_possible=phrase.word.value == "deformity" or is_possible,
        age=_choose_age(site.at, phrase.at, _dates_of(site, phrase, dates.ages if dates else ())),
        segment=site.segment,
        sentence=sentence.verbatim,
        is_displaced=any(t.value == "displaced" for t in phrase.own),
        is_extra=phrase.has(Kind.EXTRA),
        part=site.part,
        course=_read_course(phrase.own),
        is_ranged=site.is_ranged,
    )


_UNCHANGED_WORDS = "stable unchanged again redemonstrated redemonstration persistent"
_UNCHANGED = frozenset(_UNCHANGED_WORDS.split())


def _read_course(own: Sequence[Token]) -> str | None:
    """Return what the words of a fracture say of it against an earlier image."""
    words = {word for token in own for word in token.text.split()}
    if words & {"new", "newly"} and not words & {"no", "not", "or"}:
        return "new"
    is_same = words & _UNCHANGED or {"no", "change"} <= words or {"not", "changed"} <= words
    return "unchanged" if is_same else None


def _presupposes_fracture(phrase: Phrase, at: int) -> bool:
    """Tell "no other fracture" from "no fracture or other abnormality"."""
    if phrase.tokens[at].kind is Kind.EXCEPT:
        return True
    joint = at - 1 - (at > 1 and phrase.tokens[at - 1].text == "any")  # "or any other"
    is_joined = at > 0 and phrase.tokens[joint].kind in (Kind.OR, Kind.AND)
    if at < phrase.at:  # "no rib or other fracture", not "no pneumothorax or other fracture"
        is_of_bone = at > 1 and phrase.tokens[at - 2].kind in (*NAMED, Kind.HINT, Kind.SKELETON)
        is_joined &= is_of_bone or phrase.tokens[at + 1].kind is Kind.CARRIER
    is_of_normal = has(
        phrase.tokens[at : phrase.at], Kind.NORMAL
    )  # "otherwise intact, no fracture"
    return phrase.tokens[at].kind is Kind.EXTRA and not is_joined and not is_of_normal


def _ages_of_absence(phrase: Phrase) -> frozenset[str]:
    """Return the ages of an abnormality that bones are said to be without."""
    ages = {t.value or "other" for t in phrase.before(4) if t.kind is Kind.AGE}
    own = {"acute"} & set(phrase.word.text.split())
    return frozenset(ages | own)


def _names_part(tokens: Sequence[Token], named: Sequence[Site]) -> bool:
    """Tell whether bones are denied in a part only: "upper ribs", "the anterior left 5th rib"."""
    is_region = any(
        token.kind is Kind.SEGMENT
        and token.value not in SEGMENTS
        and not has(tokens[at + 1 : at + 2], Kind.NOUN)
        for at, token in enumerate(tokens)
    )
    return any(site.segment and not site.part for site in named) or (bool(named) and is_region)


def _read_qualifiers(phrase: Phrase) -> frozenset[str]:
    out = set()
    for token in phrase.own:
        if token.kind is Kind.AGE:
            out.add(token.value or "other")
        elif token.kind is Kind.QUALIFIER:
            out.add(token.value)
    return frozenset(out)


def _choose_age(at: int, fracture: int, dates: Sequence[tuple[int, str]]) -> str | None:
    """Choose among the ages of a fracture the age that is said of the bone at `at`."""
    values = {value for _, value in dates}
    if len(values) <= 1:
        return next(iter(values), None) or None
    before = [value for where, value in dates if where < max(at, fracture) and where < at]
    if before and len({w for w, _ in dates}) > 1 and not _are_adjacent(dates):
        return before[-1] or None
    return None


def _dates_of(
    site: Site, phrase: Phrase, dates: Sequence[tuple[int, str]]
) -> Sequence[tuple[int, str]]:
    """Return the dates that may be said of a bone: "ribs 4 to 6, the 5th is old"."""
    subjects = [_repeated_numbers(phrase, at) for at, _ in dates]
    own = [date for date, subject in zip(dates, subjects, strict=True) if site.number in subject]
    return own or [date for date, subject in zip(dates, subjects, strict=True) if not subject]


def _repeated_numbers(phrase: Phrase, at: int) -> set[str]:
    """Return the bones before the verb of a date that were named before with others."""
    predicate = (Kind.VERB, Kind.QUALIFIER, Kind.HEDGE, Kind.AGE)
    verb = phrase.skip_back(predicate, at)
    if not has(phrase.tokens[verb:at], Kind.VERB):
        return set()
    subject = (Kind.NUMBER, Kind.LEVEL, Kind.AND, Kind.ARTICLE, Kind.BONE, Kind.SIDE)
    low = max(phrase.low, phrase.skip_back(subject, verb))
    own = {n for t in phrase.tokens[low:verb] for n in _numbers_of(t)}
    before = {n for t in phrase.tokens[phrase.low : low] for n in _numbers_of(t)}
    return own & before


def _numbers_of(token: Token) -> Sequence[str]:
    return token.value.split() if token.kind in (Kind.NUMBER, Kind.LEVEL) else ()


def _ages_after(
    phrase: Phrase, named: Sequence[Site], dates: Sequence[tuple[int, str]]
) -> Sequence[str | None]:
    """Read "5th (acute), 7th (old)", where each age stands behind its bone; nothing elsewhere."""
    if any(t.text == "respectively" for t in phrase.tokens) and len(named) == len(dates) > 1:
        return [age or None for _, age in dates]
    if len({age for _, age in dates}) < 2 or len(named) < 2 or dates[0][0] < named[0].at:
        return ()
    ends = [*(site.at for site in named[1:]), max(at for at, _ in dates) + 1]
    own = [[a for at, a in dates if s.at < at < end] for s, end in zip(named, ends, strict=True)]
    is_each = sum(len(ages) for ages in own) == len(dates) and bool(own[-1])
    return [ages[0] or None if ages else None for ages in own] if is_each else ()


def _are_adjacent(dates: Sequence[tuple[int, str]]) -> bool:
    places = [where for where, _ in dates]
    return max(places) - min(places) <= 2


def _make_fracture(entry: Entry) -> Fracture:
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
