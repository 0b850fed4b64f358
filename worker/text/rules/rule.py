"""A rule: its name, what it says, a text that it decides and one like it that it leaves alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain

from worker.text.bones import Site
from worker.text.phrase import Phrase


class RuleVerdict(StrEnum):
    """What a rule makes of the words that it is asked about."""

    ASIDE = "left aside"  # nothing is asserted, denied or left open
    OPEN = "left open"  # the text may not be called absent
    DENIED = "denied"
    POSSIBLE = "possible"
    DATED = "dated"


@dataclass(frozen=True, slots=True)
class Hit:
    """That a rule applies: the tokens it has seen, and what else it found out."""

    words: Sequence[int] = ()
    """Indices of the tokens that decided."""
    sites: Sequence[Site] = ()
    """Bones that a denial is limited to."""
    side: str | None = None
    """Side that a denial of all bones is limited to."""
    start: int | None = None
    """Where the words begin that are possible only, if earlier ones are not."""
    ages: Sequence[tuple[int, str]] = ()


Check = Callable[[Phrase], Hit | None]


@dataclass(frozen=True, slots=True)
class TextRule:
    """One rule with the texts that show it."""

    name: str
    says: str
    verdict: RuleVerdict
    applies: Check = field(repr=False)
    example: str
    counter: str


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of a language in the order in which they are asked; the first that applies wins."""

    sentences: Sequence[TextRule]
    """Of a whole sentence, before anything of it is read."""
    views: Sequence[TextRule]
    """Of a whole sentence that is read all the same."""
    mentions: Sequence[TextRule]
    """Of one fracture word; where none applies, the fracture is asserted."""
    hedges: Sequence[TextRule]
    """Of an asserted fracture: is it only possible?"""
    dates: Sequence[TextRule]
    """Of an asserted fracture: how old is it?"""
    signs: Sequence[TextRule]
    """Of any clause, whether it has a fracture word or not."""
    openings: Sequence[TextRule]
    """Of a clause without a fracture word: does it leave one open?"""
    absences: Sequence[TextRule]
    """Of each word of such a clause: does it call bones normal?"""

    def __iter__(self) -> Iterator[TextRule]:
        return chain(
            self.sentences, self.views, self.mentions, self.hedges, self.dates, self.signs,
            self.openings, self.absences,
        )  # fmt: skip


def first_hit(rules: Iterable[TextRule], phrase: Phrase) -> tuple[TextRule, Hit] | None:
    """Return the first rule that applies to a phrase, with what it has seen."""
    for rule in rules:
        hit = rule.applies(phrase)
        if hit is not None:
            return rule, hit
    return None
