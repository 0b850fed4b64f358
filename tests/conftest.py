"""Fixtures by role: what a test may ask for."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dicom_node.dimse import patches
from dicom_node.store.ledger import Ledger

if TYPE_CHECKING:
    from listening import ModalityStation, Node
    from serving import Api
    from stations import Orthanc

    from worker.image.decode import Decoder
    from worker.pipeline import Pipeline

# Fixtures import what they need: a test of a parser does not wait for a web framework.

# Tests play peers with pynetdicom too; unmended, such a peer leaves a socket open after an abort.
patches.apply()

# Two test processes share two cores: spinning threads would take them from each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Validators from the package index stand in the environment. Last on PATH: pynetdicom puts programs
# there that bear the names of DCMTK's.
os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)

INSTALL = re.compile(r"is not installed: apt-get install (.+)$")

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly which peers were missing."""
    reasons = {str(report.longrepr) for report in terminalreporter.stats.get("skipped", ())}
    packages = {
        found[1].rstrip("')") for reason in reasons if (found := INSTALL.search(reason)) is not None
    }
    if packages:
        terminalreporter.write_line(
            f"PEERS MISSING, tests skipped: apt-get install {' '.join(sorted(packages))}",
            red=True,
            bold=True,
        )


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """Commands that a test runs in this process leave its umask and its log lines as they were."""
    umask = os.umask(0o022)
    os.umask(umask)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    os.umask(umask)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real radiographs and odd files, where a checkout has it."""
    if not SHARED.is_dir():
        pytest.skip(f"no real test data in {SHARED.name}/ beside the project")
    return SHARED


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger in a file of its own."""
    from ledgers import fresh

    opened = Ledger.open(fresh(tmp_path))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that listens for DICOM, without a worker; one for all tests of a file."""
    from listening import listening

    with listening(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def modality(node: Node) -> ModalityStation:
    """A station that `node` knows, and that opens associations with it."""
    from listening import ModalityStation

    return ModalityStation(node.port)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A real Orthanc, empty at first, that may call a node at its `node_port`; one for a file."""
    from stations import Orthanc, free_ports

    station = Orthanc(tmp_path_factory.mktemp("archive"), free_ports(1)[0])
    try:
        station.start()
        yield station
    finally:
        station.stop()


@pytest.fixture(scope="module")
def worker() -> Iterator[Pipeline]:
    """A worker's way from bytes to report, with the shipped model; one for all tests of a file."""
    from worker.service.start import pipeline
    from worker.settings import Settings

    with pipeline(Settings()) as ready:
        yield ready


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A node's job API and pages, where people sign in; one for all tests of a file."""
    from serving import serving

    with serving(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A page of a real browser, in which faults are collected."""
    import pages

    with pages.browser() as page:
        yield page


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """A worker's decoder in a process of its own."""
    from worker.image.decode import Decoder

    with Decoder() as made:
        yield made


@pytest.fixture
def free_port() -> int:
    """A loopback port that was free a moment ago."""
    from ports import free_port

    return free_port()
