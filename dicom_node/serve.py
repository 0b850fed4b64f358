"""Runs the roles listener, courier and web, the embedded broker and a worker, all supervised."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from dicom_node.errors import ConfigurationError, Unreachable
from dicom_node.settings import Settings

if TYPE_CHECKING:
    from dicom_node.store.ledger import Ledger
    from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)

ROLES = ("listener", "courier", "web")
"""In the order of their start: nothing is received before it can be kept and handed on."""

HEART = "CHEXFRACT_HEART"
"""Environment variable with the file descriptor that a role beats on."""

HUNG_AFTER_S = 30.0
"""Silence after which a role counts as hung and is started anew."""

WORKED_S = 10.0
"""Life after which a process that tells nothing counts as one that worked."""

LONGEST_PAUSE_S = 10.0
"""Longest wait before a process that cannot start is tried again."""

STOP_S = 2.5
"""Time that processes get to end by themselves."""

_PDEATHSIG = 1


@dataclass(slots=True)
class Child:
    """A supervised process."""

    name: str
    command: list[str]
    environment: dict[str, str]
    beats: bool = True
    """Whether it tells that it lives; a worker watches itself."""
    process: subprocess.Popen[bytes] | None = None
    heart: int | None = None
    started: float = 0.0
    beaten: float = 0.0
    ready: bool = False
    failures: int = 0
    next_start: float = 0.0


@dataclass(slots=True)
class Supervisor:
    """Keeps processes running: restarts with back-off, ends what hangs, stops all at the end."""

    children: list[Child]
    _ends: bool = False
    _exit: int = 0
    _told: set[str] = field(default_factory=set)

    def run(self) -> int:
        """Run until SIGINT or SIGTERM, or until a role finds its configuration wrong."""
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGTERM, self._stop)
        try:
            while not self._ends:
                self._round()
        finally:
            stop([child for child in self.children if child.process])
        return self._exit

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._ends = True

    def _round(self) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.process is None and now >= child.next_start:
                _start(child)
            elif child.process is not None:
                self._look_at(child, child.process, now)
        if not self._told and all(child.ready or not child.beats for child in self.children):
            self._told.add("ready")
            logger.info("ready")
        _listen([child for child in self.children if child.heart is not None], 0.1)

    def _look_at(self, child: Child, process: subprocess.Popen[bytes], now: float) -> None:
        status = process.poll()
        if status is None:
            if child.beats and now - child.beaten > HUNG_AFTER_S:
                logger.error("%s hangs: started anew", child.name, extra={"role": child.name})
                _kill(process)
            return
        if status == ConfigurationError.exit_code and not child.ready and child.beats:
            self._ends, self._exit = True, status
            return
        _forget(child)
        # What worked and was killed is back at once; what cannot start is tried ever more slowly.
        has_worked = child.ready or now - child.started > WORKED_S
        child.failures = 0 if has_worked else child.failures + 1
        delay = min(LONGEST_PAUSE_S, 0.25 * 2 ** min(child.failures, 8))
        child.next_start = now + delay
        logger.warning(
            "%s ended with %s: started again in %.2f s",
            child.name,
            status,
            delay,
            extra={"role": child.name},
        )


def serve(config: Path, settings: Settings, worker_config: Path | None) -> int:
    """Run the whole node in the foreground.

    Parameters
    ----------
    config : Path
        node.toml; the roles read it again.
    settings : Settings
        What stands in it.
    worker_config : Path, optional
        worker.toml of a worker to run beside the node.

    Raises
    ------
    ConfigurationError, Unreachable
        The node cannot start; the message says what to change.
    """
    from dicom_node.flow import broker
    from dicom_node.store.ledger import Ledger

    _make_data_dir(settings)
    with _only_one(settings):
        Ledger.upgrade(settings.ledger_url)
        secret = read_secret(settings)
        embedded = broker.Embedded(settings.node.data_dir) if _is_embedded(settings) else None
        url = settings.broker.url
        try:
            if embedded:
                embedded.start()
                url = embedded.url
            else:
                broker.ping(url)
            children = _roles(config, url)
            if worker_config:
                children.append(_worker(worker_config, url, embedded is not None, secret))
            return Supervisor(children).run()
        finally:
            if embedded:
                embedded.stop()


def read_secret(settings: Settings) -> str:
    """Return the job API's secret; made once in data_dir when no file is named."""
    if settings.web.secret is not None:
        return _long_enough(settings.web.secret.get_secret_value(), "web.secret")
    named = settings.web.secret_file
    path = Path(named) if named else settings.node.data_dir / "secret"
    if not named and not path.exists():
        _make_secret(path)
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigurationError(f"web.secret_file: {path}: {exc.strerror}") from exc
    return _long_enough(secret, f"web.secret_file: {path}")


def _make_secret(path: Path) -> None:
    """Write a fresh secret, complete before it is visible; one that came first stays."""
    temporary = path.with_name(f".secret.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(temporary)
    temporary.unlink()


def _long_enough(secret: str, where: str) -> str:
    if len(secret) < 16:
        raise ConfigurationError(f"{where}: shorter than 16 characters")
    return secret


def run_role(name: str, settings: Settings) -> None:
    """Be one of the roles until SIGTERM."""
    ends = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ends.set())
    {"listener": _listener, "courier": _courier, "web": _web}[name](settings, ends, _beat)


def _listener(settings: Settings, ends: threading.Event, beat: Callable[[bytes], None]) -> None:
    from dicom_node.dimse.scp import Listener
    from dicom_node.flow.intake import Intake
    from dicom_node.store.catalogue import Catalogue

    spool, ledger = _stores(settings)
    spool.sweep(older_than_s=3600)
    catalogue = Catalogue(ledger, spool, settings.node.ae_title)
    listener = Listener(settings, Intake(settings, spool, ledger), spool.has_room, catalogue)
    listener.start()
    logger.info("%s listens on port %d", settings.node.ae_title, listener.port)
    beat(b"R")
    while not ends.wait(1):
        if not listener.is_listening:
            raise Unreachable("the listener's socket is gone")
        beat(b".")
    listener.stop()


def _courier(settings: Settings, ends: threading.Event, beat: Callable[[bytes], None]) -> None:
    from dicom_node.dimse.scu import Destination
    from dicom_node.flow import broker
    from dicom_node.flow.deliver import Deliverer, Pace
    from dicom_node.flow.dispatch import Dispatcher
    from dicom_node.operate.audit import Auditor
    from dicom_node.operate.notify import Notifier
    from dicom_node.settings import Peer
    from dicom_node.store.retention import Retention

    spool, ledger = _stores(settings)

    def connect(peer: Peer) -> Destination:
        return Destination(settings.node.ae_title, peer)

    waits = settings.delivery
    pace = Pace(
        refused=(waits.refused_first, waits.refused_longest),
        silent=(waits.silent_first, waits.silent_longest),
    )
    tasks = (
        Dispatcher(settings, ledger, broker.publisher(settings.broker.url)),
        Deliverer(settings, spool, ledger, connect, pace),
        Retention(settings, spool, ledger),
        Notifier(settings, ledger, spool),
        Auditor(settings, ledger),
    )
    threads = [
        threading.Thread(target=task.run, args=(ends,), name=type(task).__name__, daemon=True)
        for task in tasks
    ]
    for thread in threads:
        thread.start()
    beat(b"R")
    while not ends.wait(1):
        dead = [thread.name for thread in threads if not thread.is_alive()]
        if dead:
            raise Unreachable(f"{', '.join(dead)} ended by itself")
        beat(b".")
    for thread in threads:
        thread.join(timeout=STOP_S / 2)


def _web(settings: Settings, ends: threading.Event, beat: Callable[[bytes], None]) -> None:
    from dicom_node.operate.audit import Trail
    from dicom_node.web.app import create_app, serve_web

    spool, ledger = _stores(settings)
    trail = Trail(settings)

    def note(name: str, address: str, is_right: bool) -> None:
        if trail.is_kept:
            trail.signed_in(name, address, is_right, time.time())

    app = create_app(settings, ledger, spool, read_secret(settings), note)

    def beating() -> None:
        while not ends.wait(1):
            beat(b".")

    threading.Thread(target=beating, name="heart", daemon=True).start()
    serve_web(settings, app, ends, ready=lambda: beat(b"R"))


def _stores(settings: Settings) -> tuple[Spool, Ledger]:
    from dicom_node.store.ledger import Ledger
    from dicom_node.store.spool import Spool

    spool = Spool(settings.node.data_dir / "spool", settings.retention.min_free)
    return spool, Ledger.open(settings.ledger_url)


def _beat(sign: bytes) -> None:
    descriptor = os.environ.get(HEART)
    if descriptor:
        with contextlib.suppress(OSError):
            os.write(int(descriptor), sign)


def _roles(config: Path, broker_url: str) -> list[Child]:
    environment = {**os.environ, "CHEXFRACT_BROKER__URL": broker_url}
    command = [sys.executable, "-m", "dicom_node", "role"]
    return [
        Child(name, [*command, name, "--config", str(config)], environment)
        for name in reversed(ROLES)
    ]


def _worker(config: Path, broker_url: str, is_embedded: bool, secret: str) -> Child:
    environment = {**os.environ, "CHEXFRACT_WORKER_WORKER__SECRET": secret}
    if is_embedded:
        environment["CHEXFRACT_WORKER_WORKER__BROKER"] = broker_url
    command = [sys.executable, "-m", "worker", "run", "--config", str(config)]
    return Child("worker", command, environment, beats=False)


def _start(child: Child) -> None:
    listening, beating = os.pipe() if child.beats else (None, None)
    environment = {**child.environment, HEART: str(beating)} if child.beats else child.environment
    child.process = subprocess.Popen(
        child.command,
        env=environment,
        stdin=subprocess.DEVNULL,
        pass_fds=[beating] if beating is not None else [],
        # A Ctrl-C goes to the supervisor alone, which then ends the others in order.
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    if beating is not None:
        os.close(beating)
    child.heart = listening
    child.started = child.beaten = time.monotonic()
    child.ready = False


def _die_with_parent() -> None:
    # Linux only: a supervisor that is killed must not leave a second listener behind it.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)


def _listen(children: Sequence[Child], timeout_s: float) -> None:
    hearts = {child.heart: child for child in children if child.heart is not None}
    try:
        heard, _, _ = select.select(list(hearts), [], [], timeout_s)
    except InterruptedError:
        return
    for descriptor in heard:
        signs = os.read(descriptor, 4096)
        child = hearts[descriptor]
        if not signs:
            os.close(descriptor)
            child.heart = None
        child.beaten = time.monotonic()
        child.ready = child.ready or b"R" in signs


def _forget(child: Child) -> None:
    if child.heart is not None:
        os.close(child.heart)
    child.process, child.heart = None, None


def stop(children: Sequence[Child]) -> None:
    """End processes: asked first, then killed with whatever they started."""
    processes = [child.process for child in children if child.process is not None]
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    end = time.monotonic() + STOP_S
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning("process %d does not end by itself: killed", process.pid)
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _is_embedded(settings: Settings) -> bool:
    return settings.broker.url == "embedded"


def _make_data_dir(settings: Settings) -> None:
    try:
        settings.node.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"node.data_dir: {exc.filename}: {exc.strerror}") from exc


@contextlib.contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Hold the data folder: two supervisors on one spool would restart each other's work."""
    import fcntl

    path = settings.node.data_dir / "serve.lock"
    try:
        file = path.open("a+")
    except OSError as exc:
        raise ConfigurationError(f"node.data_dir: {path}: {exc.strerror}") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConfigurationError(
                f"node.data_dir: {settings.node.data_dir} is in use by another node"
            ) from exc
        file.truncate(0)
        json.dump({"pid": os.getpid()}, file)
        file.flush()
        yield
