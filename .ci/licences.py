"""Say which packages of a release have a licence that is not on the list; exit 1 when one has.

Run it with the Python of an environment in which chexfract-node is installed: it looks at what
pyproject.toml asks for, with every extra but the tests', at what that brings, and at nothing else.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ALLOWED = re.compile(
    r"\b(apache|mit|bsd|0bsd|isc|python software foundation|psf|mozilla|mpl|unlicense|zlib|cc0|"
    r"public domain|hpnd|boost|bsl-1\.0|cnri|mit-cmu)\b",
    re.IGNORECASE,
)
"""Permissive licences, and Mozilla's, which binds only who changes its files."""

BINDING = re.compile(
    r"\b(l?gpl|agpl|general public|affero|sspl|server side public|busl|business source|"
    r"commons clause|non-?commercial|proprietary|evaluation)|-nc\b",
    re.IGNORECASE,
)
ACCEPTED = {
    "psycopg": "LGPL: used as it is, by import",
    "psycopg-binary": "LGPL: used as it is, by import",
}
"""Packages with another licence that are shipped beside this one, never inside it, and why."""

OF_NVIDIA = ("nvidia-", "cuda-")
"""Libraries that torch's CUDA build brings, under NVIDIA's own terms; a CPU build has none."""

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def is_allowed(licence: str) -> bool:
    """Return whether a licence binds nobody, be it an SPDX expression or free text.

    Of alternatives (OR) one is enough; of what is combined (AND, a list) each has to be allowed.
    """
    is_expression = re.search(r"\b(AND|OR)\b", licence)  # in words, brackets hold abbreviations
    marks = r"(\(|\)|\bAND\b|\bOR\b)" if is_expression else r"([;,])"
    tokens = [one.strip() for one in re.split(marks, licence) if one.strip()]
    try:
        allowed = _any_of(tokens)
    except IndexError:  # the expression ends too early
        return False
    return allowed and not tokens


def _any_of(tokens: list[str]) -> bool:
    allowed = _all_of(tokens)
    while tokens and tokens[0] == "OR":
        tokens.pop(0)
        allowed = _all_of(tokens) or allowed
    return allowed


def _all_of(tokens: list[str]) -> bool:
    allowed = _single(tokens)
    while tokens and tokens[0] in ("AND", ";", ","):
        tokens.pop(0)
        allowed = _single(tokens) and allowed
    return allowed


def _single(tokens: list[str]) -> bool:
    word = tokens.pop(0)
    if word != "(":
        return bool(ALLOWED.search(word)) and not BINDING.search(word)
    allowed = _any_of(tokens)
    return tokens.pop(0) == ")" and allowed


def refused(licences: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return a line for each package (name, version, licence) whose licence nobody has accepted."""
    return [
        f"{name} {version}: {licence or 'no licence is named'}"
        for name, version, licence in licences
        if name not in ACCEPTED and not name.startswith(OF_NVIDIA) and not is_allowed(licence)
    ]


def wanted() -> list[str]:
    """Return what this package and its extras ask for, all but what its tests need."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [
        *project["dependencies"],
        *(one for name, needs in extras.items() if name != "test" for one in needs),
    ]


def shipped(requirements: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield name, version and licence of what these requirements bring, as it is installed here."""
    seen: set[tuple[str, str]] = set()
    found: dict[str, metadata.Distribution] = {}
    waiting = [
        (canonicalize_name(r.name), e)
        for r in map(Requirement, requirements)
        for e in ("", *r.extras)
    ]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            package = found.setdefault(name, metadata.distribution(name))
        except metadata.PackageNotFoundError:
            continue  # an optional one that this platform or this environment does not have
        for one in map(Requirement, package.requires or ()):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(one.name), more) for more in ("", *one.extras)]
    for name, package in sorted(found.items()):
        yield name, package.version, licence_of(package.metadata)


def licence_of(facts: metadata.PackageMetadata) -> str:
    """Return the licence that a package names: as an expression, by classifiers, else in words."""
    if expression := facts["License-Expression"]:
        return str(expression)
    kinds = [one for one in facts.get_all("Classifier") or () if one.startswith("License ::")]
    named = [one.rpartition(" :: ")[2] for one in kinds if not one.endswith("OSI Approved")]
    return "; ".join(named) or str(facts["License"] or "").strip().partition("\n")[0]


if __name__ == "__main__":
    packages = list(shipped(wanted()))
    lines = refused(packages)
    summary = f"licences: {len(packages)} packages, all permissive or accepted"
    print("\n".join(lines) or summary, file=sys.stderr)
    sys.exit(bool(lines))
