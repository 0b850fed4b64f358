"""What a command imports: time and memory that each start of a process costs."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node.cli import main

CODECS = {"numpy", "PIL", "requests", "imagecodecs", "torch", "transformers", "highdicom"}
NETWORK = {"pydicom", "pynetdicom", "celery", "kombu", "redis", "fastapi", "uvicorn", "alembic"}
STORE = {"sqlalchemy", "pydantic", "pydantic_settings", "rich"}

UNUSED = {"pydantic_settings", "sqlalchemy.dialects.postgresql"} | {
    f"dicom_node.store.ledger.{name}" for name in ("acts", "jobs", "purge", "results", "studies")
}
"""What `status` and `trace` of a node on SQLite do without: a fifth of their time."""

LOOK = """
import json, sys
from {module} import main
try:
    main({arguments})
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""


def imported(arguments: list[str], module: str = "dicom_node.cli") -> set[str]:
    """Run a command in a process of its own and return the packages that it has imported."""
    return {name.partition(".")[0] for name in imported_modules(arguments, module)}


def imported_modules(arguments: list[str], module: str = "dicom_node.cli") -> set[str]:
    code = LOOK.format(module=module, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["dicom_node.cli", "worker.cli"])
def test_help_imports_the_standard_library_alone(module: str) -> None:
    assert not imported(["--help"], module) & (CODECS | NETWORK | STORE)


@pytest.mark.parametrize("command", [["status"], ["trace", "1.2.3"]])
def test_looking_at_a_node_imports_no_association_and_no_pixels(
    command: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\ndata_dir = {json.dumps(str(tmp_path / 'data'))}\n")
    from dicom_node.settings import load
    from dicom_node.store.ledger import Ledger

    (tmp_path / "data").mkdir()
    Ledger.upgrade(load(config).ledger_url)

    modules = imported_modules([*command, "--config", str(config)])
    names = {name.partition(".")[0] for name in modules}

    assert "sqlalchemy" in names
    assert not names & (CODECS | NETWORK)
    assert not modules & UNUSED


ROLES = {
    "listener": ("dicom_node.dimse.scp", {"celery", "redis", "fastapi", "cryptography"}),
    "courier": ("dicom_node.flow.dispatch, dicom_node.flow.deliver", {"celery", "fastapi"}),
    "web": ("dicom_node.web.app", {"celery", "pynetdicom", "cryptography", "markdown_it"}),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_imports_no_codec_and_nothing_of_other_roles(role: str) -> None:
    modules, others = ROLES[role]
    code = (
        "import json, sys\nfrom dicom_node.base.lean import import_pydicom\nimport_pydicom()\n"
        f"import dicom_node.run.roles, {modules}\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )

    assert not set(json.loads(done.stdout)) & (CODECS | others)


def test_pydicom_works_without_what_was_hidden_and_that_stays_importable() -> None:
    code = (
        "from dicom_node.base.lean import UNUSED, import_pydicom\nimport_pydicom()\n"
        "import sys, numpy\n"
        "assert not [name for name in UNUSED if name in sys.modules and name != 'numpy']\n"
        "from pydicom import Dataset\nds = Dataset()\nds.PatientName = 'A^B'\n"
        "assert ds.to_json()\nassert not hasattr(ds, 'PixelData')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


AT_THE_END = """
import atexit, gc, sys
atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 0))
sys.argv[1:] = {arguments}
from dicom_node.cli import main
main()
"""


@pytest.mark.parametrize(("command", "seen"), [("status", "False True"), ("doctor", "True False")])
def test_the_collector_looks_at_nothing_of_a_command_that_is_over_in_a_moment(
    tmp_path: Path, command: str, seen: str
) -> None:
    """A quarter of the time of `status` was that; what runs for long needs it."""
    code = AT_THE_END.format(arguments=[command, "--config", str(tmp_path / "none.toml")])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == seen


def test_a_program_that_calls_a_command_goes_on_collecting(tmp_path: Path) -> None:
    assert main(["status", "--config", str(tmp_path / "none.toml")]) == os.EX_CONFIG
    assert gc.isenabled()
