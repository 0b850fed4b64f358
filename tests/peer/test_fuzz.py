"""Recorded associations and headers with seeded faults leave the listener serving."""

from pathlib import Path

import pytest
from fuzz import check, fuzz, summary

# Warnings of pydicom about faulty text do not matter here.
pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore::UserWarning:pydicom")]


@pytest.mark.parametrize("seed", [1, 20261122])
def test_faulty_associations_leave_the_listener_serving(tmp_path: Path, seed: int) -> None:
    found = fuzz(tmp_path, seconds=8, seed=seed)
    print(summary(found))
    # Loose, because machines that test are busy; the long form asks for one second.
    check(found, slowest_s=5)
