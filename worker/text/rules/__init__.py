"""The rules that read a sentence, in the order in which they are asked.

A rule is a `worker.text.rules.rule.TextRule`: a name, a sentence on what it does, a function from a
phrase to what it has seen, a text that it decides and a like text that it leaves alone. Both texts
are its tests. To add a rule, put it into the RULES of the file whose sentence it fits, before the
rules that it shall win against; nothing else needs to know of it.
"""

from worker.text.rules import (
    dated,
    denied,
    device,
    doubted,
    general,
    hedged,
    intact,
    opened,
    sought,
    unreadable,
)
from worker.text.rules.rule import Hit, RuleSet, RuleVerdict, TextRule, first_hit

ENGLISH = RuleSet(
    sentences=(*general.RULES, *unreadable.RULES),
    views=(*opened.VIEWS, *general.VIEWS),
    mentions=(*unreadable.MENTIONS, *device.RULES, *sought.RULES, *doubted.RULES, *denied.RULES),
    hedges=hedged.RULES,
    dates=dated.RULES,
    signs=opened.CLAUSES,
    openings=opened.RULES,
    absences=intact.RULES,
)

__all__ = ["ENGLISH", "Hit", "RuleSet", "RuleVerdict", "TextRule", "first_hit"]
