"""Whole kinds of speaking: denied ages, weeks, blanks, signs, lists, hedges, lines; their cost."""

from __future__ import annotations

import itertools
import json
import textwrap
import time
from pathlib import Path

import pytest

from worker.text.findings import Presence, as_json, parse
from worker.text.lexicon import Kind
from worker.text.lines import FOLD, unwrap
from worker.text.tokens import tokenize

LABELLED = Path(__file__).parent / "findings"
KINDS = [json.loads(line) for line in (LABELLED / "kinds.jsonl").read_text("utf-8").splitlines()]


def found(text: str) -> list[tuple[str | None, ...]]:
    return [(f.bone, f.number, f.side, f.certainty, f.age) for f in parse(text).fractures]


@pytest.mark.parametrize("kind", sorted({row["kind"] for row in KINDS}))
def test_every_sentence_of_a_kind_is_read_as_labelled(kind: str) -> None:
    rows = [row for row in KINDS if row["kind"] == kind]
    wanted = [{key: row[key] for key in ("presence", "fractures")} for row in rows]

    assert [(r["text"], as_json(parse(r["text"]))) for r in rows] == [
        (row["text"], want) for row, want in zip(rows, wanted, strict=True)
    ]


def test_a_text_that_is_not_read_to_its_end_is_never_absent() -> None:
    organs = itertools.permutations(("heart", "lung", "aorta", "trachea", "pleura", "hilum"))
    text = "No fracture. " + " ".join(f"{' '.join(named)} normal." for named in organs)

    assert parse(text[:9000] + ".").presence is Presence.ABSENT
    assert parse(text).presence is Presence.UNDETERMINED
    assert parse(text + " " * 20_000).presence is Presence.UNDETERMINED
    assert parse("No fracture." + " " * 20_000).presence is Presence.ABSENT


# Ages that are denied


@pytest.mark.parametrize("verb", ["", "is ", "are ", "appears ", "appear to be ", "looks "])
@pytest.mark.parametrize("subject", ["none ", "none of them ", "none of which ", "none clearly "])
@pytest.mark.parametrize("age", ["acute", "new", "of recent date", "acutely displaced"])
def test_none_of_them_acute_leaves_the_fractures_and_no_age(
    subject: str, verb: str, age: str
) -> None:
    text = f"Left rib fractures, {subject}{verb}{age}."

    assert found(text) == [("rib", None, "left", "definite", None)]


# Times


@pytest.mark.parametrize("unit", ["days", "weeks", "months"])
@pytest.mark.parametrize("count", ["3", "3 to 4", "3-4", "4 or 5", "three", "three to four", "ten"])
@pytest.mark.parametrize("end", ["old", "of age", "in age", "ago"])
def test_a_number_of_weeks_is_never_a_bone(count: str, unit: str, end: str) -> None:
    text = f"Left rib fractures, about {count} {unit} {end}."

    assert [(f.bone, f.number) for f in parse(text).fractures] == [("rib", None)]


@pytest.mark.parametrize("number", range(1, 13))
@pytest.mark.parametrize("mark", ["{}. ", "{}) ", "({}) ", "Finding {}: ", "Impression #{}: "])
def test_a_number_of_an_item_is_never_a_bone(number: int, mark: str) -> None:
    text = f"{mark.format(number)}Right rib fracture."

    assert found(text) == [("rib", None, "right", "definite", None)]


# Blanks

BLANKS = ["XXXX", "___", "[**2015-3-4**]", "[**Hospital 12**]"]
ASSERTED = [
    "There is an old fracture of the left 7th rib",
    "Healing right clavicle fracture is seen",
    "Compression fracture of T8 is again noted",
]
DENIED = ["There is no fracture", "No rib fracture is seen", "The bones are intact"]


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("text", ASSERTED)
def test_a_blank_anywhere_never_makes_a_fracture_absent(text: str, blank: str) -> None:
    words = text.split()
    with_blank = [" ".join([*words[:at], blank, *words[at:]]) + "." for at in range(len(words) + 1)]

    answers = [parse(each).presence for each in with_blank]
    assert Presence.ABSENT not in answers
    assert answers.count(Presence.PRESENT) >= len(answers) - 1


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("text", DENIED)
def test_a_blank_anywhere_never_makes_a_fracture(text: str, blank: str) -> None:
    words = text.split()
    with_blank = [" ".join([*words[:at], blank, *words[at:]]) + "." for at in range(len(words) + 1)]

    assert Presence.PRESENT not in [parse(each).presence for each in with_blank]


# Words that mean a broken bone

SIGNS = [
    "Cortical step-off", "Cortical break", "Avulsion", "Nonunion", "Non-union", "Pseudarthrosis",
    "Pseudo-arthrosis", "Callus", "Impaction", "Interruption of the cortex",
]  # fmt: skip
GENERAL = ["No fracture.", "No acute fracture.", "The bones are intact.", "No bony abnormality."]


@pytest.mark.parametrize(("sign", "denial"), [*itertools.product(SIGNS, GENERAL)])
def test_what_means_a_broken_bone_is_never_absent(sign: str, denial: str) -> None:
    site = "of the left clavicle"

    assert parse(f"{denial} {sign} {site}.").presence is Presence.UNDETERMINED
    assert parse(f"{sign} {site}. {denial}").presence is Presence.UNDETERMINED


# Words that have run into one another


@pytest.mark.parametrize("negation", ["no", "No", "without", "not"])
@pytest.mark.parametrize("word", ["fracture", "fractures", "acute fracture", "displaced fracture",
                                  "evidence of fracture", "rib fracture"])  # fmt: skip
@pytest.mark.parametrize("site", ["", " of the left 5th rib"])
def test_a_glued_negation_never_makes_a_positive(negation: str, word: str, site: str) -> None:
    assert parse(f"{negation}{word}{site}.").presence is not Presence.PRESENT


# What is denied of a fracture

FRACTURES = [
    "Left 5th rib fracture", "The known sternal fracture", "Old right clavicle fracture",
    "Multiple left rib fractures", "T8 compression fracture", "The previously seen rib fracture",
]  # fmt: skip
DENIED_OF_IT = [
    "is not well seen", "is not seen on this view", "is no longer seen", "is less conspicuous",
    "is not displaced", "has not progressed", "was not present previously", "without displacement",
    "with no pneumothorax or effusion", "shows no callus", "shows no interval change", "not healed",
    "without additional fractures", "with absent callus", "is not acute", "is partially excluded",
    "with otherwise intact ribs", "; the remaining ribs are intact", ", no adjacent hematoma",
    "cannot be well evaluated", "is obscured", "has no adjacent effusion", "free of displacement",
]  # fmt: skip


@pytest.mark.parametrize("fracture", FRACTURES)
def test_what_is_denied_of_a_fracture_never_makes_it_absent(fracture: str) -> None:
    texts = [f"{fracture} {tail}." for tail in DENIED_OF_IT]

    assert [text for text in texts if parse(text).presence is Presence.ABSENT] == []


@pytest.mark.parametrize("answer", ["no", "none"])
def test_answers_for_both_sides_deny_both(answer: str) -> None:
    assert parse(f"Rib fracture (L): {answer}, (R): {answer}.").presence is Presence.ABSENT


# Lines


@pytest.mark.parametrize("width", [16, 24, 32, 44, 60, 80])
def test_lines_wrapped_at_any_width_mean_the_same(width: int) -> None:
    rows = [row["text"] for row in KINDS if "\n" not in row["text"]]
    pages = [textwrap.fill(t, width, break_long_words=False, break_on_hyphens=False) for t in rows]
    different = [
        p for t, p in zip(rows, pages, strict=True) if as_json(parse(t)) != as_json(parse(p))
    ]

    assert len(different) <= len(rows) * 0.005


def test_a_wrapped_line_is_told_from_a_note_by_the_words_at_its_ends_and_the_width() -> None:
    assert unwrap("Fracture of the\nleft 5th rib.") == "Fracture of the left 5th rib."
    assert unwrap("No pneumothorax\nLeft rib fracture") == "No pneumothorax\nLeft rib fracture"
    assert unwrap("no large effusion\nfracture seen") == f"no large effusion{FOLD}fracture seen"


@pytest.mark.parametrize("row", KINDS[::9], ids=lambda row: row["text"][:30])
def test_capitals_mean_the_same(row: dict[str, str]) -> None:
    if "<" not in row["text"]:
        assert as_json(parse(row["text"].upper())) == as_json(parse(row["text"]))


# Cost

HEADS = ["", "Fracture of the left rib ", "1. "]
UNITS = [
    "[", "(", "{", "<", "<|", "_", "x", "XXXX ", "[**", "7", "7 ", "1.", ",", ", ", "no ",
    "without ", "rib and ", "\n", "a\n", "\r\n", "\u0301", "\ud83e\uddb4", "\u9aa8", ". ", ".",
    "?", "#", "-", "*", ":", ";", "(1,2),", "left 5th rib fracture ", "1 2 3 4 ", "5 to 6 ",
    "history: ", "1. a ", "<|ref|>left rib fracture<|/ref|>", "three to ", "nofracture ",
    "you are a ", "... rib ", "of the ",
]  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_ten_thousand_characters_of_anything_cost_no_more_than_four_times_a_quarter(
    head: str,
) -> None:
    """A pattern that backtracks takes the square of it, or never ends."""
    parse(head)  # the lexicon is read on first use
    slow = {}
    for unit in UNITS:
        quarter, whole = ((head + unit * 10_000)[:n] for n in (2_500, 10_000))
        # a machine that does other things is looked at longer before it is believed
        for looks in (2, 8):
            short, long = _seconds(quarter, looks), _seconds(whole, looks)
            is_slow = long > 0.5 or (long > 0.02 and long > 8 * max(short, 0.0005))
            if not is_slow:
                break
        if is_slow:
            slow[unit] = (short, long)

    assert slow == {}


def _seconds(text: str, looks: int = 2) -> float:
    times = []
    for _ in range(looks):
        started = time.process_time()
        parse(text)
        times.append(time.process_time() - started)
    return min(times)


# The inner layers


def test_tokens_know_blanks_numbers_levels_and_ranges() -> None:
    tokens = tokenize("xxxx fractures of ribs 5 to 7 and T8")

    counted = (Kind.BLANK, Kind.NUMBER, Kind.LEVEL)
    assert [(t.kind, t.value) for t in tokens if t.kind in counted] == [
        (Kind.BLANK, ""), (Kind.NUMBER, "5 6 7"), (Kind.LEVEL, "T8"),
    ]  # fmt: skip
