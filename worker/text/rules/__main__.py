"""``python -m worker.text.rules`` prints the manual's page of all rules."""

from collections.abc import Iterator, Sequence

from worker.text.rules import ENGLISH
from worker.text.rules.rule import RuleSet, TextRule

HEAD = """# How texts are read

<!-- Written by `python -m worker.text.rules`; change the rules, not this page. -->

A model's text is read by rules, sentence by sentence. When in doubt, the answer is
`undetermined`, never `absent`. `chexfract-worker parse --why` reads one text a line and names the
rules that decided, the words that they saw, and the words that nobody understood. Within each table
the first rule that applies wins. Each rule has a text that it decides and one like it that it
leaves alone; both are its tests.
"""
_LONGEST = 100  # characters of an example


def page(rules: RuleSet) -> str:
    """Return the page as Markdown."""
    return "\n".join([HEAD, *(line for part in _parts(rules) for line in part)])


def _parts(rules: RuleSet) -> Iterator[Sequence[str]]:
    yield _table("Sentences that are not read", rules.sentences)
    yield _table("Views", rules.views)
    yield _table("A fracture word", rules.mentions)
    yield ["Where none of these applies, the fracture is asserted.", ""]
    yield _table("Possible or definite", rules.hedges)
    yield _table("Age", rules.dates)
    yield _table("Any clause", rules.signs)
    yield _table("Clauses without a fracture word", rules.openings)
    yield _table("Bones that are called normal", rules.absences)


def _table(title: str, rules: Sequence[TextRule]) -> list[str]:
    rows = [
        f"| `{r.name}` | {r.says} | {r.verdict} | {_cell(r.example)} | {_cell(r.counter)} |"
        for r in rules
    ]
    return [
        f"## {title}",
        "",
        "| rule | what it says | verdict | decides | leaves alone |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _cell(text: str) -> str:
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return short.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;").replace("{", "&#123;")


if __name__ == "__main__":
    print(page(ENGLISH), end="")
