"""Each rule decides its example and leaves its counter-example alone, and every answer has one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import texts

from dicom_node.base.errors import NotUnderstood
from dicom_node.manual import read_pages
from worker.text.findings import Explanation, Language, explain, parse
from worker.text.lexicon import read_lexicon
from worker.text.rules import ENGLISH, TextRule
from worker.text.rules.__main__ import render_page

LABELLED = Path(__file__).parent / "findings"
RULES = list(ENGLISH)


def names(explanation: Explanation) -> set[str]:
    return {reason.rule for reason in explanation.reasons}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_decides_its_example(rule: TextRule) -> None:
    assert rule.name in names(explain(rule.example))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_leaves_its_counter_example_alone(rule: TextRule) -> None:
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


def test_the_manual_lists_every_rule() -> None:
    """Otherwise: python -m worker.text.rules > dicom_node/manual/reference/text-rules.md."""
    assert read_pages()["reference/text-rules"].text == render_page(ENGLISH)


def test_parse_says_why_beside_its_answer(tmp_path: Path) -> None:
    text = "No acute fracture of the ribs. Zorble."
    worker = [sys.executable, "-m", "worker", "parse", "--why"]
    run = subprocess.run(worker, input=text.encode(), capture_output=True, check=True)
    answer = json.loads(run.stdout)

    assert answer["presence"] == "absent"
    assert answer["fractures"] == []
    assert answer["absences"][0]["qualifiers"] == ["acute"]
    assert answer["why"][0]["rule"] == "no-fracture"
    assert answer["why"][0]["words"] == ["no"]
    assert answer["not_understood"] == ["zorble"]


# A second language: its words in a lexicon, the rules as they are or its own.

TOY = """
[fracture]
noun = ["fraktur", "frakturen"]
[bone]
rib = ["rippe", "rippen"]
clavicle = ["klavikula"]
[side]
left = ["linke", "linken", "links"]
right = ["rechte", "rechten", "rechts"]
[age]
old = ["alte", "alten"]
acute = ["frische", "frischen"]
[hedge]
possible = ["fragliche", "moegliche"]
[negation]
no = ["keine", "kein", "ohne"]
[carrier]
any = ["nachweis"]
[skeleton]
any = ["knochen"]
[normal]
any = ["unauffaellig", "intakt"]
[verb]
any = ["sind", "ist"]
[preposition]
any = ["einer", "von"]
[article]
definite = ["der", "die", "das"]
[and]
any = ["und"]
[numbers]
cardinal = []
ordinal = ["erste", "zweite", "dritte", "vierte", "fuenfte", "sechste", "siebte", "achte"]
[words]
function = ["der", "die", "ist"]
"""
TOY_ANSWERS = {
    "Fraktur der linken Klavikula.": [("clavicle", None, "left", "definite", None)],
    "Alte Fraktur der rechten Klavikula.": [("clavicle", None, "right", "definite", "old")],
    "Frische Fraktur der linken Rippen.": [("rib", None, "left", "definite", "acute")],
    "Fragliche Fraktur der linken Rippen.": [("rib", None, "left", "possible", None)],
    "Linke fuenfte Rippe: Fraktur.": [("rib", "5", "left", "definite", None)],
    "Frakturen der fuenfte und sechste Rippen links.": [
        ("rib", "5", "left", "definite", None),
        ("rib", "6", "left", "definite", None),
    ],
    "Keine Fraktur.": "absent",
    "Ohne Nachweis einer Fraktur der Rippen.": "absent",
    "Die Knochen sind intakt.": "absent",
    "Die Lunge ist frei.": "undetermined",
}


@pytest.fixture
def toy(tmp_path: Path) -> Language:
    path = tmp_path / "toy.toml"
    path.write_text(TOY)
    return Language("de-toy", read_lexicon(path), ENGLISH)


@pytest.mark.parametrize("text", TOY_ANSWERS)
def test_another_language_is_read_by_its_own_lexicon(toy: Language, text: str) -> None:
    findings = parse(text, toy)
    found = [(f.bone, f.number, f.side, f.certainty, f.age) for f in findings.fractures]

    assert (found or str(findings.presence)) == TOY_ANSWERS[text]


@pytest.mark.parametrize("text", ["No fracture.", "Keine Fraktur.", "Left 5th rib fracture."])
def test_a_language_without_a_lexicon_is_undetermined(text: str) -> None:
    assert str(parse(text, "de").presence) == "undetermined"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('[fractures]\nany = ["x"]', "fractures"),
        ('[bone]\nrib = ["rib", "rib"]', "'rib' stands in bone"),
        ('[bone]\nrib = ["Rib"]', "'Rib' is not in lower case"),
    ],
)
def test_a_lexicon_with_a_fault_is_refused(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "faulty.toml"
    path.write_text(line)

    with pytest.raises(NotUnderstood, match=what):
        read_lexicon(path)


def test_the_command_that_scores_the_reader_counts_what_is_exact_and_called_absent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fracture = {"bone": "rib", "number": "5", "side": "left", "certainty": "definite", "age": None}
    rows = [
        {"text": "Left 5th rib fracture.", "presence": "present", "fractures": [fracture]},
        {"text": "No fracture.", "presence": "present", "fractures": [fracture]},
        {"text": "No fracture.", "presence": "absent", "fractures": []},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))

    assert texts.main([str(path)]) == 1
    line = capsys.readouterr().out.splitlines()[0]
    assert "presence 2 of 3" in line
    assert "exact 1 of 2" in line
    assert "called absent 1 of 2" in line
