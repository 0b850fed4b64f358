"""Each layer of the reader of texts by itself, from words to entries."""

from __future__ import annotations

import pytest

from worker.text.bones import Site, read_sites, sites
from worker.text.clauses import split_clauses
from worker.text.entries import Denial, Entry, merge_entries
from worker.text.lexicon import Kind, english
from worker.text.phrase import (
    Phrase,
    find_fractures,
    read_past_blanks,
    share_tokens,
    whole_phrase,
)
from worker.text.sentences import Sentence, is_loop, split_sentences
from worker.text.shorthand import spelt_out
from worker.text.tokens import tokenize


def kinds(text: str) -> list[Kind]:
    return [token.kind for token in tokenize(text)]


def entry(**more: object) -> Entry:
    facts: dict[str, object] = {
        "bone": "rib", "number": "5", "side": "left", "is_possible": False, "age": None,
        "segment": None, "sentence": "", "is_displaced": False, "is_extra": False,
    }  # fmt: skip
    return Entry(**(facts | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "meant"),
    [("fractrue", "fracture"), ("claviclr", "clavicle"), ("xyzzy", "xyzzy"), ("rib", "rib"),
     ("nofracture", "nofracture"), ("nodisplaced", "nodisplaced")],
)  # fmt: skip
def test_a_misspelt_keyword_is_corrected_and_a_glued_negation_is_not(word: str, meant: str) -> None:
    assert english().spelling.correct(word) == meant


@pytest.mark.parametrize(
    ("short", "plain"),
    [("w/o fx", "without fx"), ("s/p fall", "status post fall"), ("can't", "can not")],
)
def test_shorthand_is_spelt_out(short: str, plain: str) -> None:
    assert spelt_out(short) == plain


def test_the_longest_phrase_of_the_lexicon_wins() -> None:
    assert kinds("no evidence of healing") == [Kind.AGE]
    assert kinds("no evidence of fracture")[:2] == [Kind.NEGATION, Kind.CARRIER]


def test_a_text_is_cut_into_findings_requests_and_questions() -> None:
    text = "Indication: rule out fracture. Findings: Rib fracture. Is it old?"
    found = [(s.body, s.is_request, s.is_question) for s in split_sentences(text)]

    assert found == [
        ("rule out fracture.", True, False),
        ("Rib fracture.", False, False),
        ("Is it old?", False, True),
    ]


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("There is a fracture. " * 3, True),
        ("rib fracture " * 4, False),
        ("<|ref|>left rib fracture<|/ref|><|box|>(1,2),(3,4)<|/box|> " * 4, False),
        ("fracture " * 6, True),
        ("rib fracture " * 60, True),
    ],
)
def test_a_loop_is_told_from_the_repeated_words_of_boxes(text: str, loops: bool) -> None:
    assert is_loop(text) is loops


def test_a_window_knows_what_is_before_and_after_its_word() -> None:
    tokens = tokenize("no acute left rib fracture is seen")
    phrase = whole_phrase(tokens, Sentence("", "")).about(find_fractures(tokens)[0])

    assert phrase.word.text == "fracture"
    assert [t.text for t in phrase.before(2)] == ["left", "rib"]
    assert [t.text for t in phrase.after(1)] == ["is"]
    assert phrase.skip_back((Kind.BONE, Kind.SIDE), phrase.at) == 2
    assert phrase.until((Kind.SEEN,), phrase.at) == len(tokens) - 1
    assert phrase.skip((Kind.NEGATION, Kind.AGE), 0) == 2


def test_a_clause_is_shared_out_between_its_fractures() -> None:
    tokens = tokenize("left 5th rib fracture and right clavicle fracture")
    found = find_fractures(tokens)
    windows = [[t.text for t in tokens[low:high]] for low, high in share_tokens(tokens, found)]

    assert windows == [
        ["left", "5th", "rib", "fracture", "and"],
        ["right", "clavicle", "fracture"],
    ]


def test_but_and_semicolons_end_a_clause() -> None:
    parts = list(split_clauses(tokenize("no fracture but old rib fracture; no effusion")))

    assert [part[0].text for part in parts] == ["no", "old", "no"]


def test_a_negation_keeps_that_a_blank_came_before_the_fracture() -> None:
    everything = tokenize("no xxxx left rib fracture")
    tokens = read_past_blanks(everything, tokenize("no left rib fracture"))

    assert [(t.text, t.form) for t in tokens[:2]] == [("no", "blank"), ("left", "")]


def test_bones_have_their_numbers_sides_and_parts() -> None:
    tokens = tokenize("fracture of the neck of the left 5th rib and of the right distal clavicle")
    phrase = Phrase(tokens, 0, 0, len(tokens))

    found = [(s.bone, s.number, s.side, s.part) for s in sites(phrase)]
    assert found == [
        ("rib", "5", "left", "neck"), ("clavicle", None, "right", "lateral third"),
    ]  # fmt: skip


@pytest.mark.parametrize("level", ["C7", "T1", "T12", "L1", "L5"])
def test_every_level_of_the_spine_is_a_vertebra(level: str) -> None:
    tokens = tokenize(f"{level} fracture")

    assert [(s.bone, s.number, s.is_garbled) for s in read_sites(tokens, 0, 2, frozenset())] == [
        ("vertebra", level, False)
    ]


def test_one_bone_is_one_entry_with_the_stronger_certainty() -> None:
    both = merge_entries([entry(is_possible=True, age="acute"), entry(side=None)])

    assert [(e.side, e.is_possible, e.age) for e in both] == [("left", False, "acute")]


@pytest.mark.parametrize(
    ("denial", "fracture", "contradicts"),
    [
        (Denial((), frozenset(), is_extra=False), entry(), True),
        (Denial((), frozenset(), is_extra=True), entry(), False),
        (Denial((), frozenset({"acute"}), is_extra=False), entry(age="old"), False),
        (Denial((), frozenset({"acute"}), is_extra=False), entry(age="acute"), True),
        (Denial((), frozenset(), is_extra=False, side="right"), entry(), False),
        (Denial((Site("rib", None, None, None, 0),), frozenset(), is_extra=False), entry(), True),
        (Denial((Site("rib", "6", None, None, 0),), frozenset(), is_extra=False), entry(), False),
    ],
)
def test_a_denial_contradicts_what_it_covers_only(
    denial: Denial, fracture: Entry, contradicts: bool
) -> None:
    assert denial.contradicts(fracture) is contradicts
