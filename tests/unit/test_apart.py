"""Steps in another process: done in turn, their errors handed on, and nothing left of them here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.base.errors import ConfigurationError, Rejected, Unreachable
from dicom_node.run.apart import StepsApart


def test_steps_are_done_in_turn_and_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "steps"

    def note(word: str) -> Callable[[], None]:
        def step() -> None:
            with file.open("a") as lines:
                lines.write(f"{word} {os.getpid()}\n")

        return step

    with StepsApart(note("first"), note("second")) as apart:
        apart.do_next()
        assert [line.split()[0] for line in file.read_text().splitlines()] == ["first"]
        apart.do_next()
    words, pids = zip(*(line.split() for line in file.read_text().splitlines()), strict=True)
    assert words == ("first", "second")
    assert len(set(pids)) == 1
    assert str(os.getpid()) not in pids


@pytest.mark.parametrize(
    "fault",
    [ConfigurationError("node.port: taken"), Rejected("code", "a text"), OSError(28, "full", "/x")],
)
def test_what_a_step_raises_is_raised_here(fault: Exception) -> None:
    def step() -> None:
        raise fault

    with StepsApart(step) as apart, pytest.raises(type(fault)) as caught:
        apart.do_next()
    assert str(caught.value) == str(fault)


def test_a_defect_is_told_in_words_and_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class OwnFault(Exception):
        """Known in this test alone."""

    def step() -> None:
        raise OwnFault("what happened")

    named = r"OwnFault at test_apart\.py:[0-9]+: what happened"
    with StepsApart(step) as apart, pytest.raises(RuntimeError, match=named):
        apart.do_next()
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("CHEXFRACT_TRACEBACK", "1")
    with StepsApart(step) as apart, pytest.raises(RuntimeError, match=named):
        apart.do_next()
    assert 'raise OwnFault("what happened")' in capfd.readouterr().err


def test_a_step_that_is_killed_is_told_and_no_process_stays() -> None:
    with StepsApart(lambda: os.kill(os.getpid(), signal.SIGKILL)) as apart:
        with pytest.raises(Unreachable, match="was ended"):
            apart.do_next()
        pid = apart._pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_steps_that_nobody_asks_for_are_not_done(tmp_path: Path) -> None:
    with StepsApart((tmp_path / "done").touch):
        pass
    assert not (tmp_path / "done").exists()


def test_a_process_that_is_ended_as_it_begins_does_nothing_on_the_parents_way_out() -> None:
    code = (
        "import os, signal, sys\n"
        "from dicom_node.run.apart import StepsApart\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "fork = os.fork\n"
        "def at_once():\n"
        "    pid = fork()\n"
        "    if pid == 0:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return pid\n"
        "os.fork = at_once\n"
        "try:\n"
        "    with StepsApart(lambda: None):\n"
        "        pass\n"
        "finally:\n"
        "    print('way out')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "way out\n", "")


def test_steps_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys, time\n"
        "from dicom_node.run.apart import StepsApart\n"
        "def step():\n"
        "    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "with StepsApart(step) as apart:\n    apart.do_next()\n"
    )
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", code, str(pid)]) as process:
        end = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()):
            assert time.monotonic() < end
            time.sleep(0.01)
        process.kill()
    stat = Path(f"/proc/{pid.read_text()}/stat")
    while stat.exists() and " Z " not in stat.read_text():
        assert time.monotonic() < end + 60
        time.sleep(0.01)


def test_a_ctrl_c_between_two_steps_ends_that_process_there(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of a shell ignores it
    try:
        with StepsApart(lambda: None, lambda: None) as apart:
            apart.do_next()
            os.kill(apart._pid, signal.SIGINT)
            with pytest.raises(Unreachable, match="was ended"):
                apart.do_next()
    finally:
        signal.signal(signal.SIGINT, before)
        os.write(1, b"way out\n")
    assert capfd.readouterr() == ("way out\n", "")


def test_a_supervisor_knows_no_database_and_no_broker() -> None:
    code = "import sys, dicom_node.run.supervisor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"sqlalchemy", "alembic", "celery", "redis", "pydicom", "fastapi"})
