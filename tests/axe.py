"""axe-core, which finds what keeps people from using a page, run in a real Chromium."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from peers import need

PACKAGE = "axe-core@4.14.1"
SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chexfract-tests"

RUN = """axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(one =>
  one.id + ': ' + one.help + ' ' + one.nodes.map(node => node.target.join(' ') + ' '
  + (node.failureSummary || '').split('\\n').slice(1).join(';')).join(' | ')))"""


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
    command = [need("npm"), "pack", "--silent", PACKAGE]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    packed = next(folder.glob("*.tgz"), None)
    if packed is None:
        message = f"npm cannot fetch {PACKAGE}: {done.stderr.strip()[-300:]}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    digest = hashlib.sha512(packed.read_bytes()).digest()
    assert b64encode(digest).decode() == SHA512, f"{PACKAGE} is not the package it was"
    with tarfile.open(packed) as package:
        file = package.extractfile("package/axe.min.js")
        assert file is not None
        return file.read()


def violations(page: Any, axe: str) -> list[str]:
    """Return what axe-core finds wrong with a page, by all of its rules."""
    page.evaluate(axe)
    return list(page.evaluate(RUN))
