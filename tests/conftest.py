"""Fixtures by role: what a test may ask for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from peers import PACKAGES, missing

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly which peers were missing."""
    if missing:
        packages = sorted({PACKAGES.get(name, name) for name in missing})
        terminalreporter.write_line(
            f"PEERS MISSING, tests skipped: apt-get install {' '.join(packages)}",
            red=True,
            bold=True,
        )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real radiographs and odd files, where a checkout has it."""
    if not SHARED.is_dir():
        pytest.skip(f"no real test data in {SHARED.name}/ beside the project")
    return SHARED


@pytest.fixture
def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
