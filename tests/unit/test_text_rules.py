"""Each rule decides its example and leaves its counter-example alone, and every answer has one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from worker.text.findings import Explanation, explain
from worker.text.rules import ENGLISH, Rule

LABELLED = Path(__file__).parent / "findings"
RULES = list(ENGLISH)


def names(explanation: Explanation) -> set[str]:
    return {reason.rule for reason in explanation.reasons}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_decides_its_example(rule: Rule) -> None:
    assert rule.name in names(explain(rule.example))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_leaves_its_counter_example_alone(rule: Rule) -> None:
    assert rule.name not in names(explain(rule.counter))


def test_each_rule_has_a_name_of_its_own_and_a_sentence() -> None:
    assert {name: n for name, n in Counter(rule.name for rule in RULES).items() if n > 1} == {}
    assert [rule.name for rule in RULES if not rule.says.endswith(".")] == []


@pytest.mark.parametrize("name", sorted(path.name for path in LABELLED.glob("*.jsonl")))
def test_every_answer_of_the_labelled_sets_is_explained(name: str) -> None:
    rows = [json.loads(line) for line in (LABELLED / name).read_text("utf-8").splitlines()]

    assert [row["text"] for row in rows if not explain(row["text"]).reasons] == []


def test_the_words_that_nobody_understood_are_named() -> None:
    assert list(explain("Left 5th rib fracture with zorble.").not_understood) == ["zorble"]
