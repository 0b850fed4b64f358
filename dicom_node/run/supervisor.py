"""Runs the roles listener, courier and web, the embedded broker and a worker, all supervised."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import select
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from dicom_node import in_force
from dicom_node.base import logs
from dicom_node.base.confine import python_command
from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.base.plurals import counted
from dicom_node.base.service_manager import READY, STOPPING, Watchdog, notify
from dicom_node.credentials import read_credentials
from dicom_node.dimse.port import Ports
from dicom_node.in_force import Exchange
from dicom_node.run.apart import StepsApart, end_with_parent
from dicom_node.running import ANSWER as RELOADED
from dicom_node.running import ASK_WORKER, WORKER_NAME, ServedWorker, tell_worker, who_asked
from dicom_node.settings import Settings
from dicom_node.store.actor import local_actor
from dicom_node.store.clock import HOST_CLOCK

if TYPE_CHECKING:
    from dicom_node.store.uses import Note

logger = logging.getLogger(__name__)

ROLES = ("listener", "courier", "web")
"""In the order of their start: nothing is received before it can be kept and handed on."""

HEART = "CHEXFRACT_HEART"
"""Environment variable with the file descriptor that a role beats on."""

HUNG_AFTER_S = 30.0
"""Silence after which a role that worked counts as hung and is started again."""

STARTS_WITHIN_S = 180.0
"""Time that a role gets for its start; a busy machine needs a minute for the imports alone."""

WORKED_S = 10.0
"""Life after which a process that tells nothing is taken to have worked."""

LONGEST_PAUSE_S = 10.0
"""Longest wait before a process that cannot start is tried again."""

WORKER_ENDS_S = 15.0
"""Time that a worker gets to end when a person has it begin again."""

STOP_S = 2.5
"""Time that processes get to end by themselves."""

LOG_FOLDER = "log"
"""Folder in data_dir with a file of JSON lines for each process."""


@dataclass(slots=True)
class Child:
    """A supervised process."""

    name: str
    command: list[str]
    environment: dict[str, str]
    inherits: tuple[int, ...] = ()
    """File descriptors that it shares with others."""
    beats: bool = True
    """Whether it tells that it lives; a worker watches itself."""
    process: subprocess.Popen[bytes] | None = None
    heart: int | None = None
    started: float = 0.0
    beaten: float = 0.0
    ready: bool = False
    is_current: bool = True
    """Whether it works with the peers and rules that were accepted last."""
    failures: int = 0
    next_start: float = 0.0
    ended_at: float = 0.0
    """When it ended last, by the wall clock; 0 while it runs."""
    ended_with: int | None = None
    kill_at: float = 0.0
    """When it is killed, by the monotonic clock; 0 unless it was asked to end."""
    was_killed: bool = False
    """Whether it ended last because it did not do so when it was asked to."""


@dataclass(slots=True)
class Supervisor:
    """Keeps processes running: restarts with back-off, ends what hangs, stops all at the end."""

    children: list[Child]
    exchange: Callable[[], Exchange] | None = None
    """Validates node.toml again and lets its peers and rules be accepted."""
    tell: Callable[[dict[str, Any]], None] = lambda answer: None
    """Takes how a reload ended."""
    close: Callable[[], None] = lambda: None
    """Takes no more callers; called before the children end."""
    make_worker: Callable[[], Child] | None = None
    """Makes the worker that a person may ask for; None where there is nothing to make it of."""
    tell_worker: Callable[[Child | None], None] = lambda child: None
    """Takes what became of the worker."""
    _ends: bool = False
    _exit: int = 0
    _told: set[str] = field(default_factory=set)
    _is_asked: bool = False
    _exchanged: Exchange | None = None
    _is_worker_asked: bool = False

    def run(self) -> int:
        """Run until SIGINT or SIGTERM, or until a role finds its configuration wrong.

        SIGHUP reloads peers and rules; SIGUSR1 starts the worker, or starts it again.
        """
        signal.signal(signal.SIGINT, self._ask_to_stop)
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        had_terminal = os.isatty(0)

        def asked(_signal: int, _frame: FrameType | None) -> None:
            # A terminal that was closed sends the same signal, and nobody would end us later.
            self._ends = self._ends or (had_terminal and not os.isatty(0))
            self._is_asked = True

        def worker_asked(_signal: int, _frame: FrameType | None) -> None:
            self._is_worker_asked = True

        signal.signal(signal.SIGHUP, asked)
        signal.signal(ASK_WORKER, worker_asked)
        self.tell_worker(self._own_worker)
        watchdog = Watchdog()
        try:
            while not self._ends:
                self._check_children()
                watchdog.pat()
        finally:
            notify(STOPPING)
            self.close()
            stop([child for child in self.children if child.process])
        return self._exit

    def _ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._ends = True

    @property
    def _own_worker(self) -> Child | None:
        return next((child for child in self.children if child.name == WORKER_NAME), None)

    def _run_worker(self) -> None:
        """Start the worker that a person asks for, or let the one that there is begin again."""
        child = self._own_worker
        if child is None and self.make_worker is not None:
            self.children.append(child := self.make_worker())
        if child is None:
            return
        logger.info("a person asks for the worker", extra={"role": child.name})
        child.failures, child.next_start = 0, 0.0
        # Who presses the button again must not lengthen the life of what hangs.
        if child.process is not None and not child.kill_at:
            child.kill_at = time.monotonic() + WORKER_ENDS_S
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()  # its jobs go back, then it is started again
            self.tell_worker(child)

    def _check_children(self) -> None:
        now = time.monotonic()
        if self._is_worker_asked:
            self._is_worker_asked = False
            self._run_worker()
        are_ready = all(child.ready for child in self.children if child.beats)
        for child in self.children:
            if child.process is None and now >= child.next_start:
                # A worker's imports and weights must not keep the node from answering.
                if child.beats or are_ready or child.started:
                    _start_child(child)
                    if not child.beats:
                        self.tell_worker(child)
            elif child.process is not None:
                self._look_at(child, child.process, now)
        if not self._told and all(child.ready or not child.beats for child in self.children):
            self._told.add("ready")
            logger.info("ready")
            notify(READY)
        if self._is_asked and self.exchange:
            self._is_asked = False
            self._reload_settings(self.exchange)
        if self._exchanged and all(child.is_current for child in self.children):
            self._note_reloaded(self._exchanged)
            self._exchanged = None
        _listen_to_hearts([child for child in self.children if child.heart is not None], 0.1)

    def _reload_settings(self, exchange: Callable[[], Exchange]) -> None:
        """Let every role take the peers and rules of node.toml, unless it is wrong."""
        try:
            self._exchanged = exchange()
        except ConfigurationError as exc:
            logger.error("reload refused, peers and rules stay as they were: %s", exc)  # noqa: TRY400 - one line
            self.tell({"problem": str(exc)})
            return
        for child in self.children:
            if child.beats:
                child.is_current = False
                if child.process is not None:
                    child.process.send_signal(signal.SIGHUP)

    def _note_reloaded(self, exchanged: Exchange) -> None:
        peers, rules = counted(len(exchanged.peers), "peer"), counted(len(exchanged.rules), "rule")
        logger.info("reloaded: %s, %s", peers, rules)
        if exchanged.waiting:
            tables = ", ".join(f"[{table}]" for table in exchanged.waiting)
            logger.warning("%s changed too: in force after the next start", tables)
        self.tell({"problem": "", **asdict(exchanged)})

    def _look_at(self, child: Child, process: subprocess.Popen[bytes], now: float) -> None:
        status = process.poll()
        if status is None:
            patience = HUNG_AFTER_S if child.ready else STARTS_WITHIN_S
            # a process that lives and does not beat hangs in a lock or a call: only a kill ends
            # that
            if child.beats and now - child.beaten > patience:
                logger.error("%s hangs: started again", child.name, extra={"role": child.name})
                _kill_group(process)
            elif child.kill_at and now > child.kill_at:
                logger.error(
                    "%s does not end %.0f s after it was asked to: killed",
                    child.name,
                    WORKER_ENDS_S,
                    extra={"role": child.name},
                )
                child.was_killed, child.kill_at = True, 0.0
                # not waited for: what hangs in a driver does not even end so, and the roles would
                # have no supervisor meanwhile
                _send_kill(process)
            return
        # starting it again would not make the configuration right
        if status == ConfigurationError.exit_code and not child.ready and child.beats:
            self._ends, self._exit = True, status
            return
        _forget_process(child)
        child.was_killed = child.was_killed and status == -signal.SIGKILL
        child.kill_at = 0.0
        # What worked and was killed is back at once; what cannot start is tried ever more slowly.
        has_worked = child.ready or now - child.started > WORKED_S
        child.failures = 0 if has_worked else child.failures + 1
        delay = min(LONGEST_PAUSE_S, 0.25 * 2 ** min(child.failures, 8))
        child.next_start = now + delay
        child.ended_at, child.ended_with = HOST_CLOCK.wall(), status
        if not child.beats:
            self.tell_worker(child)
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
        node.toml; the roles read what was accepted of it.
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

    _make_data_dir(settings)
    with _only_one(settings):
        folder = _log_folder(settings)
        logs.keep(folder / "serve.jsonl")
        embedded = broker.Embedded(settings.node.data_dir) if _is_embedded(settings) else None
        url, ports = settings.broker.url, None
        copy = settings.node.data_dir / in_force.FILE
        try:
            # before this process has threads: the embedded broker is kept by one
            with StepsApart(
                lambda: _check_surroundings(settings), lambda: _begin_use(config, settings)
            ) as apart:
                apart.do_next()
                for advice in settings.superseded:
                    logger.warning("works in this version only: %s", advice)
                credentials = read_credentials(settings)
                node = settings.node
                ports = Ports(node.host, node.port, node.listener_count, node.data_dir)
                # a start that fails leaves no settings in force, and no trail that it began
                if embedded:
                    embedded.start()
                    url = embedded.url
                apart.do_next()
            children = _role_children(copy, url, ports, settings)
            found = worker_config or config.with_name("worker.toml")
            why_not = _why_no_worker(found)

            def logged(child: Child) -> Child:
                child.environment[logs.FILE_VARIABLE] = str(folder / f"{child.name}.jsonl")
                return child

            def make_worker() -> Child:
                secret, is_embedded = credentials.jobs, embedded is not None
                return logged(_worker_child(found, url, is_embedded, secret, settings))

            if worker_config:
                children.append(make_worker())
            children = [logged(child) for child in children]
            answer_file = copy.with_name(RELOADED)
            return Supervisor(
                children,
                exchange=lambda: in_force.exchange(copy),
                tell=lambda answer: _answer_reload(answer_file, answer, settings),
                close=ports.close,
                make_worker=None if why_not else make_worker,
                tell_worker=lambda child: tell_worker(
                    settings.node.data_dir, _served(child, found, why_not)
                ),
            ).run()
        finally:
            if ports:
                ports.close()
            if embedded:
                embedded.stop()


def _role_children(config: Path, broker_url: str, ports: Ports, settings: Settings) -> list[Child]:
    # not where node.toml names it: a role that reads its environment takes 4 MB more for that
    own = {"CHEXFRACT_BROKER__URL": broker_url} if broker_url != settings.broker.url else {}
    # one heap for all threads: theirs, which come and go, would keep 3 MB in pieces
    environment = {"MALLOC_ARENA_MAX": "1", **os.environ, **own}
    command = python_command("-m", "dicom_node", "role")
    children = [
        # each its own: what is added to one, as the file of its log, is not the other's
        Child(name, [*command, name, "--config", str(config)], dict(environment))
        for name in reversed(ROLES)
        if name != "listener"
    ]
    for number in range(ports.count):
        child = Child(
            f"listener-{number + 1}" if number else "listener",
            [*command, "listener", "--config", str(config)],
            environment | ports.environment(number),
            ports.descriptors,
        )
        children.append(child)
    return children


def _why_no_worker(config: Path) -> str:
    """Return why `serve` could not run a worker here; empty where it could."""
    if importlib.util.find_spec("worker") is None:
        return "the worker's program is not installed on this host"
    return "" if config.is_file() else f"there is no {config.absolute()}"


def _served(child: Child | None, config: Path, why_not: str) -> ServedWorker:
    known = ServedWorker(socket.gethostname(), str(config.absolute()), child is not None, why_not)
    if child is None:
        return known
    known = replace(known, was_killed=child.was_killed)
    if child.process is not None:
        left = child.kill_at - time.monotonic()
        return replace(known, kill_at=HOST_CLOCK.wall() + left) if child.kill_at else known
    next_at = HOST_CLOCK.wall() + max(0.0, child.next_start - time.monotonic())
    return replace(known, ended_at=child.ended_at, ended_with=child.ended_with, next_at=next_at)


def _worker_child(
    config: Path, broker_url: str, is_embedded: bool, secret: str, settings: Settings
) -> Child:
    environment = {**os.environ, "CHEXFRACT_WORKER_WORKER__SECRET": secret}
    if is_embedded:
        environment["CHEXFRACT_WORKER_WORKER__BROKER"] = broker_url
    environment["CHEXFRACT_WORKER_WORKER__ANNOUNCE"] = json.dumps([settings.jobs_url])
    if settings.web.certificate:
        trusted = str(settings.web.certificate.absolute())
        environment.setdefault("CHEXFRACT_WORKER_WORKER__CA", trusted)
    command = python_command("-m", "worker", "run", "--config", str(config))
    return Child(WORKER_NAME, command, environment, beats=False)


def _start_child(child: Child) -> None:
    listening, beating = os.pipe() if child.beats else (None, None)
    environment = {**child.environment, HEART: str(beating)} if child.beats else child.environment
    child.process = subprocess.Popen(
        child.command,
        env=environment,
        stdin=subprocess.DEVNULL,
        pass_fds=[*child.inherits, *([beating] if beating is not None else [])],
        # A Ctrl-C goes to the supervisor alone, which then ends the others in order.
        start_new_session=True,
        preexec_fn=_become_child,
    )
    if beating is not None:
        os.close(beating)
    child.heart = listening
    child.started = child.beaten = time.monotonic()
    child.ready = False


def _become_child() -> None:
    # Until a role can take it, this signal must not end it: what it is for is read at the start.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_with_parent()  # a supervisor that is killed must not leave a second listener behind it


def _listen_to_hearts(children: Sequence[Child], timeout_s: float) -> None:
    hearts = {child.heart: child for child in children if child.heart is not None}
    try:
        heard, _, _ = select.select(list(hearts), [], [], timeout_s)
    except InterruptedError:
        return
    for descriptor in heard:
        signs = os.read(descriptor, 4096)
        child = hearts[descriptor]
        # the pipe's other end is closed: the process has ended or is about to
        if not signs:
            os.close(descriptor)
            child.heart = None
        child.beaten = time.monotonic()
        child.ready = child.ready or b"R" in signs
        child.is_current = child.is_current or b"R" in signs or b"T" in signs


def _check_surroundings(settings: Settings) -> None:
    """Bring the ledger up to date, and raise where the node cannot work with what is there.

    Raises
    ------
    ConfigurationError, Unreachable
        Its message says what to change.
    """
    # Imported here, where they are used, as in `_begin_use`: these libraries would take as much
    # memory again as all that a supervisor needs.
    from dicom_node.flow import broker
    from dicom_node.store.backup import require_ledger, require_whole
    from dicom_node.store.ledger import Ledger

    require_whole(settings.node.data_dir)
    require_ledger(settings.ledger_url, settings.spool_dir)
    Ledger.upgrade(settings.ledger_url)
    if _is_embedded(settings):
        return
    try:
        broker.ping(settings.broker.url, files=broker.files_of(settings.broker))
    except Unreachable as exc:
        raise Unreachable(f"{exc}; {broker.node_advice(exc)}") from exc


def _begin_use(config: Path, settings: Settings) -> None:
    """Keep what this node runs with, and begin its audit trail."""
    from dicom_node.operate.audit import Auditor
    from dicom_node.store.ledger import Ledger
    from dicom_node.store.uses import noting

    _accept_settings(config, settings, noting(settings, None))
    Auditor(settings, ledger := Ledger.open(settings.ledger_url)).begin()
    ledger.close()


def _accept_settings(config: Path, settings: Settings, note: Note) -> None:
    """Keep what this node runs with, and note where it is not what it ran with before."""
    from dicom_node.store.uses import Use

    before = in_force.kept(settings)
    in_force.accept(config, settings)
    if before is not None and (changed := in_force.differing(before, settings)):
        who = local_actor()
        tables = ", ".join(f"[{table}]" for table in changed)
        alert = f"changed before this start: {tables}"
        note(Use("configured", who.name, "serve", address=who.address, alert=alert))


def _note_reload(folder: Path, answer: dict[str, Any], settings: Settings) -> None:
    # a reload is rare: what it takes of memory is taken then
    from dicom_node.store.uses import Use, noting

    who = who_asked(folder)
    problem = answer["problem"]
    said = {key: answer.get(key, ()) for key in ("peers", "rules", "waiting")}
    alert = (
        f"refused: {problem}"
        if problem
        else "; ".join(f"{key}: {', '.join(names) or 'none'}" for key, names in said.items())
    )
    use = Use("configured", who.name, "reload", address=who.address, alert=alert,
              is_served=not problem)  # fmt: skip
    noting(settings, None)(use)


def _answer_reload(path: Path, answer: dict[str, Any], settings: Settings) -> None:
    """Leave word for `chexfract-node reload`, which waits for it."""
    _note_reload(path.parent, answer, settings)
    temporary = path.with_name(f".{path.name}")
    with contextlib.suppress(OSError):  # a full disk: the log has the same line
        temporary.write_text(json.dumps({"at": HOST_CLOCK.wall(), **answer}), encoding="utf-8")
        temporary.replace(path)


def _forget_process(child: Child) -> None:
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
        _kill_group(process)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    _send_kill(process)
    process.wait()


def _send_kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _is_embedded(settings: Settings) -> bool:
    return settings.broker.url == "embedded"


def _make_data_dir(settings: Settings) -> None:
    """Make data_dir, and take from others what an older version let them read."""
    folder = settings.node.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settings.shared_dir.mkdir(parents=True, exist_ok=True)
        for path in (folder, *folder.iterdir()):
            mode = path.stat(follow_symlinks=False).st_mode
            if mode & 0o077 and (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                with contextlib.suppress(PermissionError):  # another user's; `doctor` says so
                    path.chmod(mode & 0o700)
    except OSError as exc:
        raise ConfigurationError(f"node.data_dir: {exc.filename}: {exc.strerror}") from exc


def _log_folder(settings: Settings) -> Path:
    """Return where each process keeps its last lines, for `chexfract-node logs`."""
    folder = settings.node.data_dir.absolute() / LOG_FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"node.data_dir: {exc.filename}: {exc.strerror}") from exc
    return folder


def _read_holder(path: Path) -> str:
    """Return the process of the node that holds the data folder."""
    try:
        return str(int(json.loads(path.read_text(encoding="utf-8"))["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"  # it has the lock and has not written its number yet


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
                f" (process {_read_holder(path)}): stop that one, or give this one a folder of "
                "its own"
            ) from exc
        # only now: until the lock is held it names the node that runs
        file.truncate(0)
        json.dump({"pid": os.getpid()}, file)
        file.flush()
        yield
