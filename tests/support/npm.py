"""Packages of npm that tests use in a browser: fetched once, checked, never part of the project."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest
from peers import need

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chexfract-tests"


def packed(package: str, sha512: str, folder: Path) -> Path:
    """Return the archive of `package` in `folder`; skip where npm cannot fetch it, fail in CI."""
    name = f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz"
    if (CACHE / name).is_file():
        path = Path(shutil.copy(CACHE / name, folder))
    else:
        path = _fetched(package, folder)
    digest = hashlib.sha512(path.read_bytes()).digest()
    assert b64encode(digest).decode() == sha512, f"{package} is not the package it was"
    return path


def _fetched(package: str, folder: Path) -> Path:
    command = [need("npm"), "pack", "--silent", package]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    path = next(folder.glob("*.tgz"), None)
    if path is None:
        message = f"npm cannot fetch {package}: {done.stderr.strip()[-300:]}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
