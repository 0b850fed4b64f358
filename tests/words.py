"""Spelling and words of code and prose: ``python -m tests.words``.

codespell looks for typing errors; the list below for words that this project replaces by plainer
ones. Quoted reports, data and other languages are passed over.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("dicom_node", "worker", "tests", "configs", "docker", ".ci", "README.md")
SPELT = (*PLACES, "CHANGELOG.md")
"""The changelog's past stays as it was written; only its spelling is looked at."""

WORDS = {
    r"\btold\b": "the noun: row, answer, lines, request",
    r"\banew\b": "again",
    r"(?<!there )\b(?:is|are|was|were) no (?!longer|larger|more|less)[a-z]": "is not a …",
}
"""Patterns that are not written here, and what is written instead."""

PASSED_OVER = re.compile(
    r"^(?:tests/(?:unit/findings|golden|drill/ledgers|unit/shipped_|support/strange_texts\.py|words\.py)"
    r"|worker/text|tests/unit/test_(?:text|findings|fresh|bad_texts|places)|worker/phantom/model"
    r"|dicom_node/web/static|dicom_node/manual/reference/text-rules\.md)"
)
"""Reports of radiologists, other languages and their typing errors; what others have written."""

KNOWN = (
    "ot,nd,requestor,fo,ist,te,ser,ans,oder,linke,crate,hist,indx,inout,thn,ue,sur,nin,standart,"
    "optio,connec,reate,modell,vulnerabilit,checkin"
)
"""Words that codespell takes for errors: OT is a modality, requestor a word of the Standard."""


def misspelt(files: list[str]) -> list[str]:
    """Return a line for each typing error that codespell sees."""
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", KNOWN, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def unplain(files: list[str]) -> Iterator[str]:
    """Yield a line for each word that this project replaces."""
    for name in files:
        for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
            for pattern, instead in WORDS.items():
                if found := re.search(pattern, line, re.IGNORECASE):
                    yield f"{name}:{number}: {found[0]}: write {instead}"


def tracked(places: tuple[str, ...]) -> list[str]:
    """Return the text files of these places that are not passed over."""
    listed = subprocess.run(
        ["git", "ls-files", *places], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    kinds = (".py", ".md", ".toml", ".html", ".sh", ".yaml", ".yml", ".css", ".js", "Dockerfile")
    return [
        name
        for name in listed
        if name.endswith((*kinds, ".ci/run")) and not PASSED_OVER.match(name)
    ]


def main() -> int:
    """Print every finding; 1 when there is one."""
    findings = [*misspelt(tracked(SPELT)), *unplain(tracked(PLACES))]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
