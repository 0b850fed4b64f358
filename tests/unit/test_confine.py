"""A child that meets strangers' bytes reads no secret, sees no other process, makes no socket."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from reports import as_bytes

from dicom_node.base import confine
from dicom_node.base.children import CHILDREN
from worker.phantom.draw import instance

TRIES = """
import json, os, socket, sys, threading
from pathlib import Path
from dicom_node.base.confine import confine
secret, mine, parent = sys.argv[1:]
held = confine(read=[Path(mine)], write=[Path(mine)])

def outcome(act):
    try:
        act()
    except OSError as exc:
        return type(exc).__name__
    return "done"

print(json.dumps({
    "files": held.files,
    "network": held.network,
    "secret": outcome(lambda: Path(secret).read_text()),
    "list": outcome(lambda: list(Path(secret).parent.iterdir())),
    "write beside": outcome(lambda: Path(secret).with_name("new").write_text("x")),
    "write own": outcome(lambda: Path(mine, "new").write_text("x")),
    "environment of the parent": outcome(lambda: Path(f"/proc/{parent}/environ").read_bytes()),
    "own status": outcome(lambda: Path("/proc/self/status").read_text()),
    "tcp": outcome(lambda: socket.create_connection(("127.0.0.1", 9), 1)),
    "local socket": outcome(lambda: socket.socket(socket.AF_UNIX)),
    "raw": outcome(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "pair": outcome(socket.socketpair),
    "signal": outcome(lambda: os.kill(int(parent), 0)),
    "thread": outcome(lambda: threading.Thread(target=int).start()),
    "program": outcome(lambda: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)),
}))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a confined child could do."""
    if not confine.landlock_version() or platform.machine() not in confine._ARCHITECTURES:
        pytest.skip("this kernel offers no Landlock or no seccomp filter")
    folder, mine = tmp_path_factory.mktemp("node"), tmp_path_factory.mktemp("mine")
    (folder / "secret").write_text("a secret")
    command = confine.python_command("-c", TRIES, str(folder / "secret"), str(mine))
    done = subprocess.run(
        [*command, str(os.getpid())], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize(
    "act",
    ["secret", "list", "write beside", "environment of the parent", "tcp", "local socket", "raw"],
)
def test_a_confined_child_cannot(outcomes: dict[str, object], act: str) -> None:
    assert outcomes[act] == "PermissionError"


@pytest.mark.parametrize("act", ["write own", "own status", "pair", "thread", "program"])
def test_a_confined_child_can_still(outcomes: dict[str, object], act: str) -> None:
    assert outcomes[act] == "done"


def test_a_confined_child_signals_nobody_where_the_kernel_knows_how(
    outcomes: dict[str, object],
) -> None:
    if confine.landlock_version() < 6:
        pytest.skip("signals are kept in since Landlock 6")
    assert outcomes["signal"] == "PermissionError"


def test_a_child_confined_twice_stays_confined() -> None:
    code = (
        "from dicom_node.base.confine import confine; confine(); print(confine().files)\n"
        "import socket; socket.socket()"
    )
    done = subprocess.run(
        confine.python_command("-c", code), capture_output=True, text=True, check=False
    )
    assert "PermissionError" in done.stderr


def test_what_a_kernel_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import platform; platform.machine = lambda: 'vax'\n"
        "from dicom_node.base import confine\nconfine.landlock_version = lambda: 0\n"
        "held = confine.confine(); print(held.files, held.network, len(held.missing))"
    )
    done = subprocess.run(
        confine.python_command("-c", code), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False", "2"]


@pytest.mark.parametrize(
    "name",
    ["CHEXFRACT_JOBS__SECRET", "PGPASSWORD", "REDIS_URL", "HF_TOKEN", "aws_secret_access_key"],
)
def test_no_secret_stays_in_the_environment_of_a_child(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = confine.child_environment(OMP_NUM_THREADS="1")
    assert name not in environment
    assert environment["LANG"] == "C.UTF-8"
    assert environment["OMP_NUM_THREADS"] == "1"


def test_a_child_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('ran')")
    command = confine.python_command("-c", "import json; print(json.dumps(1))")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "1"
    assert command[0] == sys.executable


def test_the_lists_of_calls_have_the_same_length() -> None:
    for _, numbers in confine._ARCHITECTURES.values():
        assert len(numbers) == len(confine._REFUSED)
        assert len(set(numbers)) == len(numbers)


def starts_processes(path: Path) -> bool:
    return bool(re.search(r"subprocess\.(Popen|run|call|check_\w+)\(|os\.(fork|posix_spawn|system)",
                          path.read_text()))  # fmt: skip


def test_every_process_that_is_started_is_on_the_list() -> None:
    root = Path(confine.__file__).parents[2]
    found = {
        path.relative_to(root).as_posix()
        for package in ("dicom_node", "worker")
        for path in (root / package).rglob("*.py")
        if starts_processes(path)
    }
    assert found == {child.file for child in CHILDREN}


SPY = """
import os, sys

def spy(*arguments, **options):
    lines = open("/proc/self/status")
    held = [line for line in lines if line.startswith(("Seccomp:", "NoNewPrivs:"))]
    try:
        open({secret!r}).close()
        opened = True
    except OSError:
        opened = False
    print(opened, *(line.split()[1] for line in held), file=sys.stderr)
    raise SystemExit(7)
import {module} as module
module.{function} = spy
from worker.cli import main
main({arguments!r})
"""


@pytest.mark.parametrize(
    ("module", "function", "arguments"),
    [
        ("worker.image.same", "compare_images", ["same", "{file}", "{file}"]),
        ("worker.image.gate", "gate", ["gate", "-"]),
    ],
)
def test_headers_of_strangers_are_read_by_a_child_that_is_locked_in(
    tmp_path: Path, module: str, function: str, arguments: list[str]
) -> None:
    """The child's code tries to read a secret: the kernel must refuse it."""
    if not confine.landlock_version() or platform.machine() not in confine._ARCHITECTURES:
        pytest.skip("this kernel has no Landlock")
    secret, file = tmp_path / "secret", tmp_path / "image.dcm"
    secret.write_text("the ledger's password")
    ds = instance(0, 1, ())
    with file.open("wb") as out:
        out.write(as_bytes(ds))
    given = [word.format(file=file) for word in arguments]
    code = SPY.format(secret=str(secret), module=module, function=function, arguments=given)
    with file.open("rb") as piped:
        done = subprocess.run(
            confine.python_command("-c", code), stdin=piped, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
    assert done.returncode == 7, done.stderr
    opened, no_new, seccomp = done.stderr.split()[-3:]
    assert (opened, no_new, seccomp) == ("False", "1", "2")
