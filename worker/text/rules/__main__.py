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


def render_page(rules: RuleSet) -> str:
    """Return the page as Markdown."""
    return "\n".join([HEAD, *(line for part in _page_parts(rules) for line in part)])


def _page_parts(rules: RuleSet) -> Iterator[Sequence[str]]:
    yield _rule_table("Sentences that are not read", rules.sentences)
    yield _rule_table("Views", rules.views)
    yield _rule_table("A fracture word", rules.mentions)
    yield ["Where none of these applies, the fracture is asserted.", ""]
    yield _rule_table("Possible or definite", rules.hedges)
    yield _rule_table("Age", rules.dates)
    yield _rule_table("Any clause", rules.signs)
    yield _rule_table("Clauses without a fracture word", rules.openings)
    yield _rule_table("Bones that are called normal", rules.absences)


def _rule_table(title: str, rules: Sequence[TextRule]) -> list[str]:
    texts = [(_table_cell(rule.example), _table_cell(rule.counter)) for rule in rules]
    rows = [
        f"| `{rule.name}` | {rule.says} | {rule.verdict} | {example} | {counter} |"
        for rule, (example, counter) in zip(rules, texts, strict=True)
    ]
    return [
        f"## {title}",
        "",
        "| rule | what it says | verdict | decides | leaves alone |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _table_cell(text: str) -> str:
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return short.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;").replace("{", "&#123;")


if __name__ == "__main__":
    print(render_page(ENGLISH), end="")
