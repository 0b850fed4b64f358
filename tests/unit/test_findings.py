"""The parser against sentences labelled by hand, by the rules of what counts as a fracture."""

import json
import re
import string
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.text.findings import Absence, Findings, Fracture, Place, Presence, as_json, parse

LABELLED = Path(__file__).parent / "findings"
ORDINALS = [f"{n}{'st' if n == 1 else 'nd' if n == 2 else 'rd' if n == 3 else 'th'}"
            for n in range(1, 13)]  # fmt: skip


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (LABELLED / name).read_text("utf-8").splitlines()]


def bones(fractures: list[dict]) -> Counter[tuple]:
    """Count the entries, with a bilateral one as left plus right."""
    counted: Counter[tuple] = Counter()
    for f in fractures:
        sides = ("left", "right") if f["side"] == "bilateral" else (f["side"],)
        counted.update((f["bone"], f["number"], s, f["certainty"], f["age"]) for s in sides)
    return counted


def found(text: str) -> list[tuple]:
    return [(f.bone, f.number, f.side, f.certainty, f.age) for f in parse(text).fractures]


@pytest.mark.parametrize(
    "name",
    [
        "develop.jsonl",
        "develop_2.jsonl",
        "adversarial.jsonl",
        "fresh.jsonl",
        "fresh_2.jsonl",
        "fresh_3.jsonl",
        "fresh_4.jsonl",
        "fresh_5.jsonl",
        "fresh_6.jsonl",
        "fresh_7.jsonl",
        "fresh_8.jsonl",
        "fresh_9.jsonl",
        "fresh_10.jsonl",
        "fresh_11.jsonl",
        "fresh_12.jsonl",
    ],
)
def test_labelled_sentences_are_read_as_labelled(name: str) -> None:
    labelled = rows(name)
    answers = [as_json(parse(row["text"])) for row in labelled]
    right = [a["presence"] == row["presence"] for a, row in zip(answers, labelled, strict=True)]
    exact = [
        a["presence"] == "present" and bones(a["fractures"]) == bones(row["fractures"])
        for a, row in zip(answers, labelled, strict=True)
        if row["presence"] == "present"
    ]
    called_absent = [
        row["text"]
        for a, row in zip(answers, labelled, strict=True)
        if row["presence"] == "present" and a["presence"] == "absent"
    ]

    assert len(labelled) >= 90
    assert called_absent == []
    assert sum(right) / len(right) >= 0.95
    assert sum(exact) / len(exact) >= 0.92


@pytest.mark.parametrize("view", ["seen on the lateral view", "on the lateral radiograph"])
def test_the_name_of_a_view_is_not_a_part_of_a_bone(view: str) -> None:
    assert [f.segment for f in parse(f"Left 5th rib fracture {view}.").fractures] == [None]
    assert [f.segment for f in parse("Left lateral 5th rib fracture.").fractures] == ["lateral"]


def test_an_answer_keeps_its_question() -> None:
    denied = "Is there a left rib fracture? No."
    found = "Is there a right rib fracture? Yes."

    findings = parse(f"{denied} {found}")

    assert [(f.side, f.sentence) for f in findings.fractures] == [("right", found)]
    assert findings.absences == (Absence((Place("rib", None, "left"),), sentence=denied),)


def test_the_phantom_models_sentences_are_read_exactly() -> None:
    text = "Fracture of the left 5th rib. Fracture of the right clavicle."

    assert parse(text) == Findings(
        Presence.PRESENT,
        (
            Fracture("rib", "5", "left", "definite", None, None, "Fracture of the left 5th rib."),
            Fracture(
                "clavicle", None, "right", "definite", None, None,
                "Fracture of the right clavicle.",
            ),
        ),
    )  # fmt: skip
    none = "No fractures are seen."
    assert parse(none) == Findings(Presence.ABSENT, (), (Absence(sentence=none),))


@pytest.mark.parametrize(
    ("text", "places", "qualifiers", "is_limited"),
    [
        ("No fracture.", (), (), False),
        ("The bones are intact.", (), (), False),
        ("No definite fracture.", (), ("definite",), False),
        ("No acute fracture.", (), ("acute",), True),
        ("No displaced left rib fracture.", (Place("rib", None, "left"),), ("displaced",), True),
        ("No fracture of the clavicle.", (Place("clavicle"),), (), True),
        ("No T8 fracture.", (Place("vertebra", "T8"),), (), True),
        ("Upper ribs are intact.", (Place("rib"),), ("other",), True),
        ("No lower rib fracture.", (Place("rib"),), ("other",), True),
        ("No anterior left rib fracture.", (Place("rib", None, "left"),), ("other",), True),
        ("No rib fracture on the lateral view.", (Place("rib"),), (), True),
    ],
)
def test_an_absence_keeps_what_it_is_limited_to(
    text: str, places: tuple[Place, ...], qualifiers: tuple[str, ...], is_limited: bool
) -> None:
    findings = parse(text)

    assert findings.absences == (Absence(places, qualifiers, None, text),)
    assert findings.is_limited is is_limited


@pytest.mark.parametrize(
    ("text", "bone", "part"),
    [
        ("Fracture of the manubrium.", "sternum", "manubrium"),
        ("Sternal body fracture.", "sternum", "body"),
        ("Fracture of the xiphoid process.", "sternum", "xiphoid process"),
        ("Left scapular body fracture.", "scapula", "body"),
        ("Fracture of the neck of the left scapula.", "scapula", "neck"),
        ("Fracture of the distal third of the left clavicle.", "clavicle", "lateral third"),
        ("Left midshaft clavicle fracture.", "clavicle", "middle third"),
        ("Medial left clavicle fracture.", "clavicle", "medial third"),
        ("Fracture of the neck of the left 5th rib.", "rib", "neck"),
        ("Fracture of the left 5th costochondral junction.", "rib", "costochondral junction"),
        ("Fracture of the surgical neck of the right humerus.", "humerus", "surgical neck"),
        ("Right humeral head fracture.", "humerus", "head"),
        ("Right greater tuberosity fracture.", "humerus", "greater tuberosity"),
        ("Fracture of the sacrum.", "other", "sacrum"),
    ],
)
def test_the_part_of_a_bone_has_one_spelling(text: str, bone: str, part: str) -> None:
    assert [(f.bone, f.part) for f in parse(text).fractures] == [(bone, part)]


@pytest.mark.parametrize(
    ("text", "course"),
    [
        ("New left 5th rib fracture.", "new"),
        ("Stable left 5th rib fracture.", "unchanged"),
        ("Left 5th rib fracture, no change.", "unchanged"),
        ("Left 5th rib fracture.", None),
    ],
)
def test_the_course_of_a_fracture_is_kept(text: str, course: str | None) -> None:
    assert [f.course for f in parse(text).fractures] == [course]


def test_json_has_exactly_the_keys_that_parse_prints() -> None:
    assert as_json(parse("Possible old fracture of the T8 vertebra.")) == {
        "presence": "present",
        "fractures": [
            {
                "bone": "vertebra",
                "number": "T8",
                "side": None,
                "certainty": "possible",
                "age": "old",
            }
        ],
    }


def test_a_stated_segment_is_kept() -> None:
    segments = [f.segment for f in parse("Posterolateral left 7th rib fracture.").fractures]

    assert segments == ["posterolateral"]


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    findings = parse(text)

    assert (findings.presence is Presence.PRESENT) == bool(findings.fractures)


VOCABULARY = """
no not without fracture fractures rib ribs left right 5th 6 through to and or , . ; : ? of the
old possible T8 L1 clavicle is seen cannot be excluded acute displaced pneumothorax with bones
intact normal other than except - ( ) / bilateral healing fractured wire both
"""
WORDS = st.sampled_from(VOCABULARY.split())


@settings(max_examples=200, deadline=None)
@given(st.lists(WORDS, max_size=40).map(" ".join))
def test_any_order_of_report_words_is_read_without_an_error(text: str) -> None:
    findings = parse(text)

    assert (findings.presence is Presence.PRESENT) == bool(findings.fractures)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(rows("develop.jsonl")))
def test_case_and_spaces_change_nothing(row: dict) -> None:
    text = row["text"]
    spaced = "  " + text.replace(" ", "   ") + " \t"

    assert as_json(parse(text.upper())) == as_json(parse(text.lower()))
    assert as_json(parse(spaced)) == as_json(parse(text))


AFFIRMED = st.sampled_from(
    [
        "Fracture of the left 5th rib.",
        "There is a displaced fracture of the right clavicle.",
        "Left 7th rib fracture is seen.",
        "Compression fracture of T8.",
        "The right 3rd rib is fractured.",
        "Possible fracture of the sternum.",
        "Old healed left rib fractures are again noted.",
    ]
)
REST = st.lists(st.sampled_from([row["text"] for row in rows("develop.jsonl")]), max_size=3)


@settings(max_examples=150, deadline=None)
@given(REST, AFFIRMED, REST)
def test_a_text_with_an_affirmed_fracture_is_never_absent(
    before: list[str], affirmed: str, after: list[str]
) -> None:
    ended = [text.rstrip() + ("" if text.rstrip()[-1:] in ".?!" else ".") for text in before]
    text = " ".join([*ended, affirmed, *after])

    assert parse(text).presence is not Presence.ABSENT


ASSERTED = [
    "left 5th rib fracture", "the left 5th rib fracture", "fracture of the left 5th rib",
    "a left clavicle fracture", "multiple left rib fractures", "old T12 compression fracture",
]  # fmt: skip


@pytest.mark.parametrize(
    "tail",
    [
        "not seen in 2019", "not seen on the previous examination", "was not reported earlier",
        "not identified on the initial radiograph", "not clearly visible on the lateral view",
        "is not as well visualised as on the prior", "is not visualized in its entirety",
        "not well delineated", "has not changed", "is not displaced", "with absent callus",
        "free of displacement", "negative for pneumothorax", "; none displaced", "otherwise normal",
    ],
)  # fmt: skip
@pytest.mark.parametrize("fracture", ASSERTED)
def test_what_is_denied_of_a_fracture_does_not_deny_it(fracture: str, tail: str) -> None:
    assert parse(f"{fracture} {tail}.").presence is not Presence.ABSENT


@pytest.mark.parametrize(
    "head",
    [
        "No consolidation adjacent to", "No contusion beneath", "No nonunion of", "No change in",
        "Neither pneumothorax nor effusion accompanies", "No callus bridging", "No pneumothorax",
        "No pathological process underlying", "It is not possible to overlook", "No old films,",
        "No acute cardiopulmonary findings", "There is no question of", "Pneumothorax - no,",
    ],
)  # fmt: skip
@pytest.mark.parametrize("fracture", ASSERTED)
def test_what_is_denied_before_a_fracture_does_not_deny_it(head: str, fracture: str) -> None:
    assert parse(f"{head} {fracture}.").presence is not Presence.ABSENT


@pytest.mark.parametrize("width", [50, 60, 80])
def test_a_report_means_the_same_on_a_narrow_page(width: int) -> None:
    flat = [row for row in rows("fresh.jsonl") if "\n" not in row["text"]]
    wrapped = [parse(textwrap.fill(row["text"], width)).presence for row in flat]
    alike = [parse(row["text"]).presence for row in flat]

    assert (Presence.PRESENT, Presence.ABSENT) not in set(zip(alike, wrapped, strict=True))
    assert sum(a is w for a, w in zip(alike, wrapped, strict=True)) / len(flat) >= 0.98


def test_two_notes_on_two_lines_are_not_run_together() -> None:
    text = "Normal heart size, no pneumothorax or consolidation\nfracture of the left 5th rib"

    assert parse(text).presence is not Presence.ABSENT


MENTIONING = [row for row in rows("develop.jsonl") if re.search(r"(?<=\w )fracture\b", row["text"])]


@pytest.mark.parametrize("row", [row for row in MENTIONING if "#" not in row["text"]][::3])
def test_a_hash_means_fracture(row: dict) -> None:
    text = re.sub(r"(?<=\w )fracture\b", "#", row["text"])

    assert as_json(parse(text)) == as_json(parse(row["text"]))


@pytest.mark.parametrize(
    "text",
    ["# Findings\nNo rib fracture.", "Case # 5: no rib fracture.", "MRN #: no rib fracture."],
)
def test_a_hash_of_a_heading_or_a_number_is_no_fracture(text: str) -> None:
    assert parse(text).presence is Presence.ABSENT


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from(["left", "right"]),
       st.sampled_from(["through", "to", "thru", "-"]))  # fmt: skip
def test_a_range_of_ribs_names_each(low: int, high: int, side: str, to: str) -> None:
    low, high = sorted((low, high))
    text = f"Fractures of the {side} {ORDINALS[low - 1]} {to} {ORDINALS[high - 1]} ribs."

    assert found(text) == [("rib", str(n), side, "definite", None) for n in range(low, high + 1)]


@given(st.sets(st.tuples(st.sampled_from(["left", "right"]), st.integers(1, 12)), min_size=1,
               max_size=3))  # fmt: skip
def test_sentences_add_up(named: set[tuple[str, int]]) -> None:
    text = " ".join(f"Fracture of the {side} {ORDINALS[n - 1]} rib." for side, n in sorted(named))

    assert set(found(text)) == {("rib", str(n), side, "definite", None) for side, n in named}


@given(st.sampled_from(rows("develop.jsonl")))
def test_a_second_sentence_on_something_else_changes_nothing(row: dict) -> None:
    text = row["text"].rstrip()
    if text[-1:] not in ".!":
        return

    assert as_json(parse(text + " Lungs are clear.")) == as_json(parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "no fracture of the left, " * 1000,
        "x" * 1_000_000,
        "(((((((" * 10_000,
        " ".join(
            f"{a}{b}fracturrr" for a in string.ascii_lowercase for b in string.ascii_lowercase
        ),
        "1 2 3 4 5 6 7 8 9 10 11 12 ribs " * 400,
        "fracture possible and " * 600,
        "\n" * 100_000,
        "left right 5th and, " * 900,
    ],
)
def test_a_long_text_takes_no_long_time(text: str) -> None:
    parse(text)  # the tables are built on first use
    started = time.process_time()
    parse(text)

    assert time.process_time() - started < 0.25


def test_a_report_takes_about_a_millisecond() -> None:
    texts = [row["text"] for row in rows("develop.jsonl")]
    for text in texts:
        parse(text)
    started = time.process_time()
    for text in texts:
        parse(text)

    assert (time.process_time() - started) / len(texts) < 0.004
