"""Score the reader of texts on the labelled sets, beside ConText and negspaCy where installed.

``python -m tests.texts [FILES]`` prints for each set and each reader: presence right, entries exact
among the present, positives called absent, each with a 95 % Wilson interval; it exits 1 when our
reader calls a positive absent. ``--wrong`` lists what our reader reads otherwise. ConText comes
with medspacy, the other with negspacy and an English model of spaCy; neither is needed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from worker.research.evaluate import wilson  # noqa: E402
from worker.text.findings import as_json, parse  # noqa: E402

SETS = HERE / "unit" / "findings"
Answer = Mapping[str, Any]
Reader = Callable[[str], Answer]
TARGET = re.compile(
    r"(?:\w+ )?(?:fractures?|fractured|fx|compression deformit(?:y|ies))\b"
    r"|(?:osseous|bony|bone|skeletal) (?:abnormalit(?:y|ies)|injury|injuries)\b",
    re.IGNORECASE,
)
"""What the other readers look for; they read negation, we give them the words."""


@dataclass(frozen=True, slots=True)
class Score:
    """How often one reader is right on one set."""

    rows: int
    presence: int
    present: int
    exact: int
    called_absent: tuple[str, ...]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the labelled rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def count_bones(fractures: Iterable[Answer]) -> Counter[tuple[str | None, ...]]:
    """Count the entries, with a bilateral one as left plus right."""
    counted: Counter[tuple[str | None, ...]] = Counter()
    for f in fractures:
        sides = ("left", "right") if f["side"] == "bilateral" else (f["side"],)
        counted.update((f["bone"], f["number"], s, f["certainty"], f["age"]) for s in sides)
    return counted


def score(rows: Sequence[Answer], read: Reader) -> Score:
    """Return how often `read` is right."""
    answers = [read(row["text"]) for row in rows]
    both = list(zip(rows, answers, strict=True))
    present = [(row, answer) for row, answer in both if row["presence"] == "present"]
    return Score(
        len(rows),
        sum(row["presence"] == answer["presence"] for row, answer in both),
        len(present),
        sum(is_exact(row, answer) for row, answer in present),
        tuple(row["text"] for row, answer in present if answer["presence"] == "absent"),
    )


def is_exact(row: Answer, answer: Answer) -> bool:
    """Tell whether an answer has the presence and just the bones of a row."""
    same = count_bones(row["fractures"]) == count_bones(answer["fractures"])
    return bool(row["presence"] == answer["presence"] and same)


def ours(text: str) -> Answer:
    """Return our reader's answer."""
    return as_json(parse(text))


def context_reader() -> Reader | None:
    """Return ConText with our targets, or None where medspacy is not installed."""
    try:
        import medspacy
        from loguru import logger
        from medspacy.target_matcher import TargetRule
    except ImportError:
        return None
    logger.remove()  # medspacy's parts write each token there
    pipes = ["medspacy_pyrush", "medspacy_target_matcher", "medspacy_context"]
    nlp = medspacy.load(enable=pipes)
    rule = TargetRule("fracture", "FRACTURE", pattern=TARGET.pattern)
    nlp.get_pipe("medspacy_target_matcher").add(rule)

    def read(text: str) -> Answer:
        found = [
            (entity._.is_negated, entity._.is_hypothetical or entity._.is_family)
            for entity in nlp(text).ents
        ]
        return _concluded(found)

    return read


def negspacy_reader() -> Reader | None:
    """Return negspaCy with our targets, or None where it or an English model is not installed."""
    try:
        import negspacy.negation  # noqa: F401 - registers its pipe
        import spacy
        from spacy.util import filter_spans
    except ImportError:
        return None
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    ruler = nlp.add_pipe("entity_ruler")
    words = ["fracture", "fractures", "fractured", "fx"]
    ruler.add_patterns([{"label": "FRACTURE", "pattern": [{"LOWER": word}]} for word in words])
    nlp.add_pipe("negex", config={"ent_types": ["FRACTURE"]})

    def read(text: str) -> Answer:
        return _concluded([(e._.negex, False) for e in filter_spans(nlp(text).ents)])

    return read


def _concluded(found: Sequence[tuple[bool, bool]]) -> Answer:
    """Return present for a target that is not denied, absent where all are, else undetermined."""
    negations = [is_negated for is_negated, is_hypothetical in found if not is_hypothetical]
    presence = "undetermined" if not negations else "absent" if all(negations) else "present"
    return {"presence": presence, "fractures": []}


def share(hits: int, n: int) -> str:
    """Return a share as a line of the table: hits of n, per cent, interval."""
    interval = wilson(hits, n)
    if interval is None:
        return f"{hits} of {n}"
    low, high = (f"{100 * end:.1f}" for end in interval)
    return f"{hits} of {n} = {100 * hits / n:.1f} % ({low} to {high})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scores; 1 when our reader calls a positive absent."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("files", nargs="*", type=Path, help="labelled sets, JSON Lines")
    options.add_argument("--wrong", action="store_true", help="list what is read otherwise")
    chosen = options.parse_args(arguments)
    readers = {"ours": ours, "ConText": context_reader(), "negspaCy": negspacy_reader()}
    failed = 0
    for path in chosen.files or sorted(SETS.glob("*.jsonl")):
        rows = read_rows(path)
        for name, read in readers.items():
            if read is None:
                continue
            result = score(rows, read)
            exact = f", exact {share(result.exact, result.present)}" if name == "ours" else ""
            absent = share(len(result.called_absent), result.present)
            presence = share(result.presence, result.rows)
            print(f"{path.name}: {name}: presence {presence}{exact}, called absent {absent}")
            failed |= name == "ours" and bool(result.called_absent)
        if chosen.wrong:
            _list_wrong(rows)
    return failed


def _list_wrong(rows: Sequence[Answer]) -> None:
    for row in rows:
        answer = ours(row["text"])
        is_right = row["presence"] == answer["presence"]
        if not (is_right and (row["presence"] != "present" or is_exact(row, answer))):
            print(json.dumps({"text": row["text"], "wanted": row, "read": answer}))


if __name__ == "__main__":
    sys.exit(main())
