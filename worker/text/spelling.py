"""Read misspelt keywords as what they are meant to be, and nothing else."""

from functools import cached_property

_NEGATIONS = ("without", "not", "no", "any", "n")
_SHORT_TARGETS = frozenset(
    ("rib", "ribs", "fx", "fxs", "frac", "left", "right", "bony", "new", "old", "any", "definite")
)
_MOST_KEPT = 4096  # corrections that are remembered


class Spelling:
    """Corrects words that are near one of the `targets` and not in the `vocabulary`."""

    def __init__(self, vocabulary: frozenset[str], targets: tuple[str, ...]) -> None:
        self._vocabulary = vocabulary
        self._targets = targets
        self._kept: dict[str, str] = {}

    def correct(self, word: str) -> str:
        """Return the keyword that `word` misspells, or `word` itself."""
        # Shorter words have too many neighbours ("rib" is near "rim"), longer ones are no keywords.
        if not 5 <= len(word) <= 15 or word in self._vocabulary or not word.isascii():
            return word
        if self.is_glued(word):
            return word  # "nofracture" must not become "fracture"
        if not self._may_resemble(word):
            return word
        if word not in self._kept:
            # A worker runs for months: a model that makes up words must not fill its memory.
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[word] = self._nearest_target(word)
        return self._kept[word]

    def is_glued(self, word: str) -> bool:
        """Tell whether a negation has run into the word after it: "nofracture", "withoutrib"."""
        if word in self._vocabulary:
            return False
        for negation in _NEGATIONS:
            rest = word.removeprefix(negation)
            if rest != word and (rest in _SHORT_TARGETS or rest in self._targets):
                return True
        return False

    def _nearest_target(self, word: str) -> str:
        # Symmetric deletion: two words within n edits share a form with at most n letters deleted,
        # so only targets that share a form need their distance counted.
        near = {
            target
            for form in _shortened_forms(word)
            for target in self._targets_by_form.get(form, ())
        }
        ranked = sorted((_edit_distance(word, target), target) for target in near)
        # Two edits in a word of eight letters leave most of it; in a short word they make another
        # word.
        if ranked and ranked[0][0] <= (2 if len(ranked[0][1]) >= 8 else 1):
            return ranked[0][1]
        return word

    @cached_property
    def _targets_by_form(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for target in self._targets:
            for form in _shortened_forms(target):
                index.setdefault(form, []).append(target)
        return index

    @cached_property
    def _shared_parts(self) -> frozenset[str]:
        inner = {t[i : i + 3] for t in self._targets for i in range(len(t) - 2)}
        return frozenset(inner | {t[:2] for t in self._targets if len(t) <= 7})

    def _may_resemble(self, word: str) -> bool:
        """Tell cheaply whether a keyword may be meant, so that garbage costs no time."""
        parts = self._shared_parts
        return word[:2] in parts or any(word[i : i + 3] in parts for i in range(len(word) - 2))


def _shortened_forms(word: str) -> set[str]:
    """Return `word` and all forms of it with one letter less, or two for a long word."""
    found = {word}
    for _ in range(2 if len(word) >= 8 else 1):
        found |= {w[:i] + w[i + 1 :] for w in found for i in range(len(w))}
    return found


def _edit_distance(word: str, target: str) -> int:
    """Count the insertions, deletions, substitutions and swaps between two words."""
    rows = [list(range(len(target) + 1))]
    for i, a in enumerate(word, 1):
        row = [i]
        for j, b in enumerate(target, 1):
            cost = min(rows[i - 1][j] + 1, row[j - 1] + 1, rows[i - 1][j - 1] + (a != b))
            # Two swapped letters are one slip of the fingers (Damerau), not two.
            if i > 1 and j > 1 and a == target[j - 2] and word[i - 2] == b:
                cost = min(cost, rows[i - 2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
