"""Files that lie end in a reason or in the right picture, soon; their neighbours go on."""

import subprocess
import sys
from pathlib import Path

import pytest
from hostile import CASES

PROGRAM = Path(__file__).resolve().parent.parent / "support" / "hostile.py"
MOST_SECONDS, MOST_MEGABYTES = 10, 300
"""On a machine that does other things too; alone, each takes less than a second."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Return code, seconds and additional MB of each case, all looked at by one process."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, (make, _) in CASES.items():
        (folder / name).write_bytes(make())
    paths = [folder / name for name in CASES]
    found = subprocess.run(
        [sys.executable, PROGRAM, *paths],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROGRAM.parent.parent,
    )
    for path in paths:
        path.unlink()
    assert found.returncode == 0, found.stderr
    rows = [line.split("\t") for line in found.stdout.splitlines()]
    return {name: (code, int(ms) / 1000, int(used)) for name, code, ms, used in rows}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_a_file_that_lies_does_no_harm(outcomes, name):
    code, seconds, megabytes = outcomes[name]
    assert code in CASES[name][1]
    assert seconds < MOST_SECONDS
    assert megabytes < MOST_MEGABYTES
