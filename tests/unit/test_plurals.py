"""A count stands before a noun of its own number: one image, two images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.base.plurals import Plural, counted

ROOT = Path(__file__).parents[2]
NOUNS = (
    "accessions|answers|attempts|batches|bytes|characters|contexts|days|deliveries|failures|files|findings"
    "|frames|groups|hours|images|instances|items|jobs|keys|labels|lines|matrices|minutes|months|names"
    "|objects|packages|parts|peers|phantoms|pictures|places|processes|processors|questions|reports"
    "|results|rows|rules|seconds|series|sessions|studies|syntaxes|texts|times|transfers|words|workers"
    "|years"
)
COUNT = re.compile(rf"(%d|\{{[^{{}}]*\}})\)? (?:[a-z-]+ ){{0,2}}?(?:{NOUNS})\b", re.IGNORECASE)
"""A value of a program before a noun in the plural."""
ON_PAGE = re.compile(
    rf'(?:\b_|say|mark)\(\s*"([^"]*%\((?:count|num|total|all)\)s (?:[a-z]+ ){{0,2}}?(?:{NOUNS})\b)'
)
"""The same in a text that has no singular."""
BOTH = re.compile(r"\b(?!http)[a-z]{3,}\(e?s\)(?= [a-z]|[.,;:\"'])")
NOT_A_COUNT = re.compile(
    r"""\{_?[A-Z_]+\}                     # a limit, which is more than one
    |\{(?:.*\.)?(?:largest|most|_?max_instance|min_free|expected|size|MAX\w+|LONGEST\w+)\}
    |(?:name|url|endpoint|where|title|claim|version|repository|spool|!r|broker\))\}$  # who does it
    """,
    re.VERBOSE,
)

NEVER_ONE = {
    "{context['max_length']} characters", "{len(value)} characters", "{len(found)} objects",
    "{count} times", "{times} times", "{count} keys", "{image.n_frames} pictures",
    "{_show_value(head.frames)} frames", "{len(sources)} files",
    '_("Try on the last %(count)s images',
}  # fmt: skip
"""What is written only where it is more than one, or none."""
NO_COUNT = re.compile(r"""^\{(?:|others|'upgrade':11|% endif %|"new", "newly"| "all": true )\} """)
"""Where what stands before the noun is text."""


def suspicious(text: str) -> Iterator[str]:
    """Yield where a number of any size stands before a noun in the plural."""
    for found in COUNT.finditer(text):
        if not NOT_A_COUNT.search(found[1]):
            yield found[0]
    for pattern in (ON_PAGE, BOTH):
        yield from (found[0] for found in pattern.finditer(text))


def test_one_has_the_singular_and_every_other_number_the_plural() -> None:
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert counted(1, "image waits", "images wait") == "1 image waits"
    assert Plural("it waits", "they wait").of(3) == "they wait"


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ('f"after {row.attempts} attempts"', True),
        ('say("%(count)s new reports follow")', True),
        ('logger.info("%d objects", n)', True),
        ('{{ _("%(count)s images wait") }}', True),
        ('{{ ngettext("%(num)s image", "%(num)s images", n) }}', False),
        ('f"{n} image(s) failed"', True),
        ("f\"{counted(n, 'image')} failed\"", False),
        ('f"{name} gives no answer"', False),
    ],
)
def test_a_count_before_any_plural_is_found(line: str, is_found: bool) -> None:
    assert bool(list(suspicious(line))) == is_found


def test_no_message_has_one_images() -> None:
    files = [
        path
        for place in ("dicom_node", "worker")
        for path in (ROOT / place).rglob("*")
        if path.suffix in (".py", ".html") and "static" not in path.parts
    ]
    assert len(files) > 300
    found = {
        f"{path.relative_to(ROOT)}: {words}"
        for path in files
        for words in suspicious(path.read_text(encoding="utf-8"))
        if words not in NEVER_ONE and not NO_COUNT.match(words)
    }
    assert found == set()
