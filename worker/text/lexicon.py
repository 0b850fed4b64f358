"""What each word and phrase of a report does, read from a language's lexicon and checked."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, auto
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from dicom_node.base.errors import NotUnderstood
from worker.text.spelling import Spelling


class Kind(StrEnum):
    """What a word or phrase does in a report sentence; `lexicon.toml` says more of each."""

    FRACTURE = auto()
    BREAK_SIGN = auto()  # means a broken bone without the word: step-off, burst, nonunion
    BONE = auto()  # value: the bone
    HINT = auto()  # implies a bone when none is named: burst, shoulder
    NUMBER = auto()  # value: "5" or "5 6 7"
    LEVEL = auto()  # value: "T8" or "T11 T12 L1"
    SIDE = auto()
    SEGMENT = auto()
    AGE = auto()  # value: acute, old, healing, or "" for an age called unknown
    HEDGE = auto()
    NEGATION = auto()
    ABSENT = auto()
    UNSURE = auto()
    ASKING = auto()
    EXCEPT = auto()
    EXTRA = auto()
    LIMITED = auto()
    QUALIFIER = auto()
    CARRIER = auto()
    LINK = auto()
    SKELETON = auto()
    ABNORMALITY = auto()  # value: bones, where they are part of the phrase
    NORMAL = auto()
    PROPERTY = auto()
    DEVICE = auto()
    NOUN = auto()
    REFERENCE = auto()
    SEEN = auto()
    VERB = auto()
    INVOLVE = auto()
    AND = auto()
    OR = auto()
    PREPOSITION = auto()
    ARTICLE = auto()
    COMMA = auto()
    COLON = auto()
    BREAK = auto()
    QUERY = auto()
    NEUTRAL = auto()
    BLANK = auto()  # what de-identification has left: XXXX, ___
    FOREIGN = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A word or phrase with its part in the sentence."""

    kind: Kind
    value: str
    text: str
    form: str = ""  # of a NUMBER: ordinal, digit, cardinal or range


LexiconRow = tuple[tuple[str, ...], Kind, str]
"""The words of a phrase, its kind and its value."""

_NO_VALUE = ("any", "unclear")
_TABLES_OF_WORDS = ("numbers", "words")
_LISTS = ("spelt", "ordinary", "function", "fracture_nouns")


@dataclass(frozen=True)
class Lexicon:
    """The phrases and words of one language."""

    name: str
    phrases: tuple[LexiconRow, ...]
    ordinary: frozenset[str]
    function: frozenset[str]
    spelt: tuple[str, ...] = ()

    @cached_property
    def index(self) -> dict[tuple[str, str], list[LexiconRow]]:
        """The phrases by their first two words, the longest first, of equal ones the earlier."""
        index: dict[tuple[str, str], list[LexiconRow]] = {}
        for row in self.phrases:
            words = row[0]
            index.setdefault((words[0], words[1] if words[1:] else ""), []).append(row)
        for rows in index.values():
            rows.sort(key=lambda row: len(row[0]), reverse=True)
        return index

    @cached_property
    def spelling(self) -> Spelling:
        """The correction of misspelt words."""
        words = {word for phrase, _, _ in self.phrases for word in phrase} | self.ordinary
        return Spelling(frozenset(words), self.spelt)


def read_lexicon(path: Path) -> Lexicon:
    """Return the lexicon in a TOML file.

    Raises
    ------
    NotUnderstood
        The file has a table, key or phrase that no lexicon has.
    """
    tables = tomllib.loads(path.read_text("utf-8"))
    words = tables.get("words", {})
    unknown = (set(tables) - set(Kind) - {*_TABLES_OF_WORDS}) | (set(words) - {*_LISTS})
    if unknown:
        raise NotUnderstood(f"{path.name}: {sorted(unknown)} is not a kind of words")
    rows = tuple(_phrase_rows(tables))
    _check_rows(path, rows)
    return Lexicon(
        path.stem,
        (*rows, *_number_rows(tables.get("numbers", {}))),
        frozenset(words.get("ordinary", ())),
        frozenset(words.get("function", ())),
        tuple(words.get("spelt", ())),
    )


def _phrase_rows(tables: dict[str, Any]) -> Iterator[LexiconRow]:
    for name, values in tables.items():
        if name not in _TABLES_OF_WORDS:
            for value, phrases in values.items():
                for phrase in phrases:
                    yield tuple(phrase.split()), Kind(name), "" if value in _NO_VALUE else value
    for noun in tables.get("words", {}).get("fracture_nouns", ()):
        for fracture in ("fracture", "fx"):
            yield (fracture, *noun.split()), Kind.NOUN, ""


def _number_rows(numbers: dict[str, Any]) -> Iterator[LexiconRow]:
    for form in ("cardinal", "ordinal"):
        for number, word in enumerate(numbers.get(form, ()), 1):
            yield (word,), Kind.NUMBER, f"{form} {number}"
    for word, number in numbers.get("misspelt", {}).items():
        yield (word,), Kind.NUMBER, f"ordinal {number}"


def _check_rows(path: Path, rows: tuple[LexiconRow, ...]) -> None:
    seen: dict[tuple[str, ...], Kind] = {}
    for words, kind, _ in rows:
        phrase = " ".join(words)
        if words in seen:
            raise NotUnderstood(f"{path.name}: {phrase!r} stands in {seen[words]} and in {kind}")
        if not words or not all(word.isalnum() and word == word.lower() for word in words):
            raise NotUnderstood(f"{path.name}: {phrase!r} is not in lower case without marks")
        seen[words] = kind


@cache
def english() -> Lexicon:
    """Return the lexicon that comes with the program."""
    return read_lexicon(Path(__file__).with_name("lexicon.toml"))
