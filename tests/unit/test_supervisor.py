"""The supervisor restarts what dies, ends what hangs, and leaves nothing running."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dicom_node import credentials, in_force
from dicom_node.base.errors import ConfigurationError
from dicom_node.in_force import Exchange
from dicom_node.run import supervisor as supervision
from dicom_node.run.supervisor import Child, Supervisor
from dicom_node.running import WORKER_NAME, ServedWorker, served_worker, tell_worker
from dicom_node.settings import Settings


def child(code: str, name: str = "child", *, beats: bool = True) -> Child:
    return Child(name, [sys.executable, "-c", code], dict(os.environ), beats=beats)


BEATING = """
import os, time
fd = int(os.environ["CHEXFRACT_HEART"])
os.write(fd, b"R")
while True:
    os.write(fd, b".")
    time.sleep(0.05)
"""


def rounds_until(supervisor: Supervisor, holds: "callable", limit_s: float = 40) -> None:  # type: ignore[valid-type]
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, "did not happen in time"
        supervisor._check_children()


@pytest.fixture
def ended() -> "list[Child]":
    children: list[Child] = []
    yield children  # type: ignore[misc]
    supervision.stop([one for one in children if one.process])


def test_a_killed_role_is_started_again(ended: list[Child]) -> None:
    role = child(BEATING)
    ended.append(role)
    supervisor = Supervisor([role])
    rounds_until(supervisor, lambda: role.ready)
    first = role.process
    assert first is not None
    first.kill()
    rounds_until(supervisor, lambda: role.process not in (None, first) and role.ready)


def test_a_hung_role_is_killed_and_started_again(
    ended: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "HUNG_AFTER_S", 0.5)
    role = child(BEATING)
    ended.append(role)
    supervisor = Supervisor([role])
    rounds_until(supervisor, lambda: role.ready)
    first = role.process
    assert first is not None
    first.send_signal(signal.SIGSTOP)
    rounds_until(supervisor, lambda: role.process not in (None, first) and role.ready)
    assert first.poll() == -signal.SIGKILL


def test_a_role_that_starts_slowly_is_left_to_start(
    ended: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "HUNG_AFTER_S", 0.2)
    role = child("import time; time.sleep(1)" + BEATING)
    ended.append(role)
    supervisor = Supervisor([role])
    rounds_until(supervisor, lambda: role.process is not None)
    first = role.process
    rounds_until(supervisor, lambda: role.ready)
    assert role.process is first


def test_a_role_that_never_starts_is_started_again(
    ended: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "STARTS_WITHIN_S", 0.5)
    role = child("import time; time.sleep(60)")
    ended.append(role)
    supervisor = Supervisor([role])
    rounds_until(supervisor, lambda: role.process is not None)
    first = role.process
    rounds_until(supervisor, lambda: role.process not in (None, first))


def test_a_role_that_worked_is_back_at_once_however_often_it_is_killed(ended: list[Child]) -> None:
    role = child(BEATING)
    ended.append(role)
    supervisor = Supervisor([role])
    for _ in range(5):
        rounds_until(supervisor, lambda: role.process is not None and role.ready)
        assert role.process is not None
        role.process.kill()
        rounds_until(supervisor, lambda: role.process is None)
        assert role.next_start - time.monotonic() < 0.5


def test_a_role_that_keeps_dying_is_restarted_ever_more_slowly(ended: list[Child]) -> None:
    role = child("raise SystemExit(1)", beats=False)
    ended.append(role)
    supervisor = Supervisor([role])
    delays = []
    for failures in range(1, 4):
        rounds_until(supervisor, lambda wanted=failures: role.failures == wanted)
        delays.append(role.next_start - time.monotonic())
    assert delays == sorted(delays)


def test_a_wrong_configuration_of_a_role_ends_everything_with_78() -> None:
    supervisor = Supervisor([child(BEATING, "good"), child("raise SystemExit(78)", "bad")])
    assert supervisor.run() == os.EX_CONFIG
    assert all(one.process is None or one.process.poll() is not None for one in supervisor.children)


def test_what_ignores_the_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    code = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pid")!r}, "w").write(str(grandchild.pid))
time.sleep(60)
"""
    role = child(code, beats=False)
    supervisor = Supervisor([role])
    pid = tmp_path / "pid"
    rounds_until(supervisor, lambda: pid.exists() and pid.read_text() != "")
    started = time.monotonic()
    supervision.stop([role])
    assert time.monotonic() - started < 5
    time.sleep(0.2)
    stat = Path(f"/proc/{pid.read_text()}/stat")
    assert not stat.exists() or " Z " in stat.read_text()


def test_a_start_without_its_broker_leaves_nothing_in_force(tmp_path: Path) -> None:
    """Neither settings nor an audit trail that says that a node had begun."""
    code = (
        "import sys; from pathlib import Path; from dicom_node.base.errors import Unreachable\n"
        "from dicom_node.flow import broker; from dicom_node.run import supervisor\n"
        "from dicom_node.settings import Settings, Node\n"
        "def start(self, timeout_s=0): raise Unreachable('the embedded broker is silent')\n"
        "broker.Embedded.start = start\n"
        f"settings = Settings(node=Node(data_dir=Path({str(tmp_path / 'var')!r})))\n"
        f"try: supervisor.serve(Path({str(tmp_path / 'node.toml')!r}), settings, None)\n"
        "except Unreachable as exc: sys.exit(str(exc))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.stderr.splitlines()[-1] == "the embedded broker is silent"
    assert (tmp_path / "var" / "ledger.sqlite").exists()
    assert not (tmp_path / "var" / in_force.FILE).exists()
    assert not (tmp_path / "var" / "audit").exists()


def test_a_second_node_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dicom_node.run import supervisor; "
        "from dicom_node.settings import Settings, Node\n"
        f"s = Settings(node=Node(data_dir=Path({str(tmp_path)!r})))\n"
        "with supervisor._only_one(s):\n    print('held', flush=True); time.sleep(30)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        second = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=False, text=True
        )
        first.kill()
    assert f"is in use by another node (process {first.pid}): stop that one" in second.stderr


def test_each_role_keeps_its_lines_in_a_file_of_its_own(tmp_path: Path) -> None:
    ports = SimpleNamespace(count=2, environment=lambda number: {}, descriptors=())
    children = supervision._role_children(
        tmp_path / "node.json",
        "redis://",
        ports,  # type: ignore[arg-type]
        Settings(),
    )
    for role in children:
        role.environment["CHEXFRACT_LOG_FILE"] = role.name
    assert [role.environment["CHEXFRACT_LOG_FILE"] for role in children] == [
        "web", "courier", "listener", "listener-2",
    ]  # fmt: skip


def test_two_starts_make_one_secret(tmp_path: Path) -> None:
    from dicom_node.settings import Node, Settings

    settings = Settings(node=Node(data_dir=tmp_path))
    secrets: set[str] = set()
    threads = [
        threading.Thread(target=lambda: secrets.add(credentials.read_secret(settings)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert secrets == {credentials.read_secret(settings)}
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0


SUPERVISED = """
import os, sys
from dicom_node.run.supervisor import Child, Supervisor
from dicom_node.running import WORKER_NAME, ServedWorker, served_worker, tell_worker
code = "import os, time; os.write(int(os.environ['CHEXFRACT_HEART']), b'R'); time.sleep(60)"
role = Child("role", [sys.executable, "-c", code], dict(os.environ))
asked = []
print("runs", flush=True)
ended = Supervisor([role], exchange=lambda: asked.append(1)).run()
print(ended, role.process.poll() is not None, flush=True)
"""


def test_a_terminal_that_is_closed_ends_the_node() -> None:
    """It sends the signal that otherwise reloads; nobody would be left to end the node."""
    master, slave = os.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISED], stdin=slave, stdout=subprocess.PIPE,
        preexec_fn=own_terminal,
    ) as node:  # fmt: skip
        os.close(slave)
        assert node.stdout is not None
        assert node.stdout.readline() == b"runs\n"
        time.sleep(1)
        os.close(master)
        assert node.stdout.read().split() == [b"0", b"True"]
    assert node.returncode == 0


def test_a_reload_reaches_every_role_and_is_told_when_all_have_it(ended: list[Child]) -> None:
    hears = "signal.signal(1, lambda *_: os.write(fd, b'T'))"
    ready = 'os.write(fd, b"R")'
    takes = BEATING.replace(ready, f"{hears}\n{ready}")
    roles = [child("import signal" + takes, name) for name in ("one", "two")]
    ended.extend(roles)
    messages: list[dict[str, object]] = []
    exchange = Exchange(peers=("a",), rules=("r",), waiting=())
    supervisor = Supervisor(roles, exchange=lambda: exchange, tell=messages.append)
    rounds_until(supervisor, lambda: all(role.ready for role in roles))
    supervisor._is_asked = True
    rounds_until(supervisor, lambda: messages)
    assert messages == [{"problem": "", "peers": ("a",), "rules": ("r",), "waiting": ()}]
    assert all(role.is_current for role in roles)


def test_a_refused_reload_is_told_and_no_role_hears_of_it(ended: list[Child]) -> None:
    role = child(BEATING)
    ended.append(role)
    messages: list[dict[str, object]] = []

    def refuses() -> Exchange:
        raise ConfigurationError("peers.x: wrong")

    supervisor = Supervisor([role], exchange=refuses, tell=messages.append)
    rounds_until(supervisor, lambda: role.ready)
    supervisor._is_asked = True
    supervisor._check_children()
    assert messages == [{"problem": "peers.x: wrong"}]
    assert role.is_current


def test_a_person_has_a_worker_started_and_started_again(ended: list[Child]) -> None:
    role = child(BEATING)
    ended.append(role)
    known: list[Child | None] = []

    def make_worker() -> Child:
        made = child("import time; time.sleep(600)", WORKER_NAME, beats=False)
        ended.append(made)
        return made

    supervisor = Supervisor([role], make_worker=make_worker, tell_worker=known.append)
    rounds_until(supervisor, lambda: role.ready)
    assert len(supervisor.children) == 1
    supervisor._is_worker_asked = True
    rounds_until(supervisor, lambda: known and known[-1] is not None and known[-1].process)
    worker = known[-1]
    assert worker is not None
    first = worker.process
    supervisor._is_worker_asked = True
    rounds_until(supervisor, lambda: worker.process not in (None, first))
    assert len(supervisor.children) == 2


def test_what_became_of_a_worker_is_told(ended: list[Child], tmp_path: Path) -> None:
    worker = child("raise SystemExit(78)", WORKER_NAME, beats=False)
    worker.started = 1.0  # it need not wait for the roles
    ended.append(worker)
    config = tmp_path / "worker.toml"

    def tell(one: Child | None) -> None:
        tell_worker(tmp_path, supervision._served(one, config, ""))

    supervisor = Supervisor([worker], tell_worker=tell)
    rounds_until(supervisor, lambda: worker.ended_with == 78)
    with (tmp_path / "serve.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        served = served_worker(tmp_path)
    assert served is not None
    assert (served.is_run, served.ended_with, served.config) == (True, 78, str(config))
    assert served.ended_at > 0
    assert served_worker(tmp_path) is None  # no serve holds the folder


def test_a_worker_that_does_not_end_when_asked_is_killed_and_the_page_knows(
    ended: list[Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = tmp_path / "deaf"
    hangs = (
        "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"pathlib.Path({str(deaf)!r}).touch(); time.sleep(600)"
    )
    worker = child(hangs, WORKER_NAME, beats=False)
    worker.started = 1.0  # it need not wait for the roles
    ended.append(worker)
    notes: list[ServedWorker] = []
    supervisor = Supervisor(
        [worker],
        tell_worker=lambda one: notes.append(supervision._served(one, tmp_path / "w.toml", "")),
    )
    rounds_until(supervisor, deaf.exists)
    first = worker.process
    supervisor._is_worker_asked = True
    supervisor._check_children()
    assert notes[-1].kill_at > 0
    deadline = worker.kill_at
    supervisor._is_worker_asked = True  # pressed again: the deadline stays
    supervisor._check_children()
    assert worker.kill_at == deadline
    assert worker.process is first
    worker.kill_at = 0.001  # its patience is over
    rounds_until(supervisor, lambda: worker.process not in (None, first))
    assert [message.ended_with for message in notes if message.ended_at] == [-signal.SIGKILL]
    assert notes[-1].was_killed
    assert notes[-1].kill_at == 0


def test_a_worker_that_even_a_kill_does_not_end_holds_nobody_up(
    ended: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = child("import time; time.sleep(600)", WORKER_NAME, beats=False)
    worker.started = 1.0
    ended.append(worker)
    supervisor = Supervisor([worker])
    rounds_until(supervisor, lambda: worker.process is not None)
    killed: list[int] = []
    with monkeypatch.context() as driver:
        # as a process that hangs in the driver of its card
        driver.setattr(os, "killpg", lambda pid, _signal: killed.append(pid))
        driver.setattr(worker.process, "wait", lambda: pytest.fail("waits for what does not end"))
        worker.kill_at = 0.001
        supervisor._check_children()
        supervisor._check_children()
    assert worker.process is not None
    assert killed == [worker.process.pid]


def test_without_a_worker_toml_nothing_is_made(ended: list[Child], tmp_path: Path) -> None:
    assert "there is no" in supervision._why_no_worker(tmp_path / "worker.toml")
    (tmp_path / "worker.toml").write_text("")
    assert supervision._why_no_worker(tmp_path / "worker.toml") == ""
    role = child(BEATING)
    ended.append(role)
    supervisor = Supervisor([role])
    supervisor._is_worker_asked = True
    rounds_until(supervisor, lambda: role.ready)
    assert supervisor.children == [role]
