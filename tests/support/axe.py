"""axe-core, which finds what keeps people from using a page, run in a real Chromium."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import Any

import npm
from npm import CACHE

PACKAGE = "axe-core@4.14.1"
SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="

RUN = """axe.run(document, {resultTypes: ['violations'], ...%s}).then(found =>
  found.violations.map(one => one.id + ': ' + one.help + ' ' + one.nodes.map(node =>
  node.target.join(' ') + ' ' + (node.failureSummary || '').split('\\n').slice(1).join(';')
  ).join(' | ')))"""


def script() -> str:
    """Return axe-core, fetched where it is not at hand; never part of this project."""
    kept = CACHE / f"{PACKAGE.replace('@', '-')}.js"
    if not kept.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            fresh = Path(folder) / "axe.js"
            fresh.write_bytes(_fetched(Path(folder)))
            fresh.replace(kept)
    return kept.read_text(encoding="utf-8")


def _fetched(folder: Path) -> bytes:
    with tarfile.open(npm.packed(PACKAGE, SHA512, folder)) as package:
        file = package.extractfile("package/axe.min.js")
        assert file is not None
        return file.read()


DRAWN = ("color-contrast", "target-size", "scrollable-region-focusable", "link-in-text-block")
"""Rules whose verdict depends on theme or width; all others look at the words of the page."""


def violations(page: Any, axe: str) -> list[str]:
    """Return what axe-core finds wrong with a page, by all of its rules."""
    page.evaluate(axe)
    return list(page.evaluate(RUN % "{}"))


def violations_as_drawn(page: Any, axe: str) -> list[str]:
    """Return what it finds by the rules of theme and width alone: a fifth of the time."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(axe)
    return list(page.evaluate(RUN % f"{{runOnly: {list(DRAWN)}}}"))
