"""The doorbell: a Celery application over Redis, and a Redis of our own where there is none.

Losing everything in it loses nothing: the ledger is the truth, and hands out again.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from dicom_node.base.confine import python_command
from dicom_node.base.errors import Busy, ConfigurationError, Unreachable
from dicom_node.base.job import TASK, Handout, queue
from dicom_node.base.rims import OneOfMany, foreign_code

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)

PRIORITY_STEPS = {0: 0, 1: 3, 2: 6}
"""Order of the ledger (0 stat, 1 normal, 2 low) as priority of a message; Redis takes 0 first."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files of a ``rediss://`` connection (PEM)."""

    ca: Path | None = None
    """What the broker's certificate chains to; the system's authorities when left out."""
    certificate: Path | None = None
    """Our own, for a broker that asks for it."""
    key: Path | None = None


class Named(Protocol):
    """A table of settings that names the files, as ``[broker]`` does."""

    @property
    def ca(self) -> Path | None: ...  # noqa: D102 - as in TlsFiles
    @property
    def certificate(self) -> Path | None: ...  # noqa: D102
    @property
    def key(self) -> Path | None: ...  # noqa: D102


def files_of(table: Named) -> TlsFiles:
    """Return the files that a table of settings names."""
    return TlsFiles(table.ca, table.certificate, table.key)


WORKER_TIMEOUT_S = 10.0
PUBLISHER_TIMEOUT_S = 1.0
"""The longest silence of Redis that a publisher sits out; the ledger keeps the job meanwhile."""

UNTAKEN_LIMIT = 200
"""Hand-outs of one model that may lie in its queue: where no worker runs, the ledger hands out
again and again, and each time leaves a void message behind."""


def app(
    url: str, answer_within_s: float = WORKER_TIMEOUT_S, files: TlsFiles = TlsFiles()
) -> Celery:
    """Return a Celery application for the broker at `url`; it is nobody's current application.

    Settings: acknowledged when taken and nothing taken in advance, so that nothing stays
    unacknowledged (no repeats, no crash when Redis goes); the ledger's lease drives again what a
    dead worker dropped. No results, no events: Redis holds hand-outs only.

    Parameters
    ----------
    answer_within_s : float
        Seconds without an answer after which a socket is given up.
    files : TlsFiles, optional
        For ``rediss://``, and for Sentinels whose certificates chain to ``files.ca``.

    Raises
    ------
    ConfigurationError
        The URL has an option that nobody knows, or a file is missing.
    """
    from celery import Celery

    from dicom_node.flow import redis_transport

    redis_transport.install()
    plain, options = _split_options(url)
    tls = _tls_options(url, options, files)
    own: dict[str, Any] = {}
    if url.startswith("sentinel:"):
        own["master_name"] = options.get("master_name", "mymaster")
        asked = {"ssl": True, **tls} if tls else {}
        if options.get("sentinel_auth", "false").lower() == "true":
            asked["password"] = unquote(urlsplit(plain.split(";")[0]).password or "")
        own["sentinel_kwargs"] = asked or None
    application = Celery("chexfract", broker=plain, set_as_current=False)
    if tls:
        application.conf.update(broker_use_ssl=tls)
    application.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=min(3.0, answer_within_s),
        broker_transport_options={
            "socket_timeout": answer_within_s,
            "socket_connect_timeout": min(3.0, answer_within_s),
            "socket_keepalive": True,
            "health_check_interval": 5,
            "priority_steps": sorted(PRIORITY_STEPS.values()),
            "queue_order_strategy": "priority",
            **own,
        },
    )
    return application


_OPTIONS = frozenset(
    ("master_name", "ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
) | {"ssl_check_hostname", "sentinel_auth"}
"""What may stand behind the ``?`` of a broker's URL; ``sentinel_auth=true``: Sentinels ask for the
password of the servers, too."""


def _split_options(url: str) -> tuple[str, dict[str, str]]:
    """Return a broker's URL without options, and the options of its first part."""
    plain: list[str] = []
    options: dict[str, str] = {}
    for part in url.split(";"):
        parts = urlsplit(part)
        options |= {name: value for name, value in parse_qsl(parts.query) if name not in options}
        plain.append(urlunsplit(parts._replace(query="")))
    if unknown := sorted(options.keys() - _OPTIONS):
        known = ", ".join(sorted(_OPTIONS))
        raise ConfigurationError(f"broker: option {unknown[0][:40]!r} is none of {known}")
    return ";".join(plain), options


def is_unverified(url: str) -> bool:
    """Return whether a URL asks for TLS and for no look at whose certificate that is."""
    if not url.startswith(("rediss:", "sentinel:")):
        return False
    _, options = _split_options(url)
    wanted = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    return wanted != "required" or options.get("ssl_check_hostname", "true").lower() == "false"


def _tls_options(url: str, options: dict[str, str], files: TlsFiles) -> dict[str, Any]:
    """Return redis-py's TLS options: certificate and name are verified unless the URL says no."""
    is_tls = url.startswith("rediss:") or (url.startswith("sentinel:") and files.ca is not None)
    if not is_tls:
        return {}
    wanted = options.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    named = {
        "ssl_ca_certs": files.ca or options.get("ssl_ca_certs"),
        "ssl_certfile": files.certificate or options.get("ssl_certfile"),
        "ssl_keyfile": files.key or options.get("ssl_keyfile"),
    }
    for name, path in named.items():
        if path is not None and not Path(path).is_file():
            raise ConfigurationError(f"broker: {name.removeprefix('ssl_')}: no file {path}")
    if is_unverified(url):
        logger.warning("%s: its certificate is not verified: anybody may be it", redacted(url))
    return {
        "ssl_cert_reqs": wanted,
        "ssl_check_hostname": wanted == "required"
        and options.get("ssl_check_hostname", "true").lower() != "false",
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        **{name: str(path) for name, path in named.items() if path is not None},
    }


class Publisher:
    """Puts hand-outs into the queues over one connection, which it replaces when it fails.

    One attempt each, no waiting for better times: the ledger keeps the job.
    """

    def __init__(self, make: Callable[[], Celery]) -> None:
        self._make = make
        self._app: Celery | None = None
        self._connection: Any = None
        self._producer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _celery_application(self) -> Celery:
        """The application, made for the first hand-out: Celery is 0.2 s and 15 MB."""
        if self._app is None:
            self._app = self._make()
        return self._app

    def __call__(self, handout: Handout, priority: int) -> None:
        """Put a hand-out into the queue of its model.

        It has no expiry: whether it is void its tokens say, and clocks of hosts differ.

        Parameters
        ----------
        priority : int
            0 stat, 1 normal, 2 low.

        Raises
        ------
        Unreachable
            The broker did not take it; it may or may not have got it.
        Busy
            So many hand-outs lie in the queue that no worker seems to take them.
        """
        name = queue(handout.model)

        def dropped(exc: BaseException) -> Unreachable:
            # what is left of the connection may be half an answer behind: never use it again
            self.close()
            return _silent_broker(str(self._celery_application.conf.broker_url), exc)

        with foreign_code(dropped):  # kombu lets errors of many libraries through
            if self._producer is None:
                self._connection = self._celery_application.connection_for_write()
                self._producer = self._celery_application.amqp.Producer(self._connection)
            self._check_that_it_is_taken_from(name)
            self._celery_application.send_task(
                TASK,
                args=[handout.model_dump(mode="json")],
                headers={"alone": True} if handout.alone else None,
                queue=name,
                priority=PRIORITY_STEPS.get(priority, 3),
                retry=False,
                ignore_result=True,
                producer=self._producer,
            )

    def _check_that_it_is_taken_from(self, name: str) -> None:
        lying = self._connection.default_channel._size(name)
        if lying >= UNTAKEN_LIMIT:
            raise Busy(f"{lying} hand-outs lie in queue {name}: no worker takes them")

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            # It is dropped anyhow, whatever kombu raises.
            with OneOfMany(lambda exc: logger.debug("a broken broker connection: %r", type(exc))):
                connection.release()


def publisher(url: str, files: TlsFiles = TlsFiles()) -> Publisher:
    """Return a publisher with the short patience of a dispatcher."""
    return Publisher(lambda: app(url, PUBLISHER_TIMEOUT_S, files))


def ping(url: str, timeout_s: float = 2.0, files: TlsFiles = TlsFiles()) -> None:
    """Raise `Unreachable` unless the broker at `url` answers; the password is never shown."""
    application = app(url, timeout_s, files)
    with closing(application), foreign_code(lambda exc: _silent_broker(url, exc)):
        connection: Any = application.connection_for_write()
        with connection:
            connection.connect()
            connection.default_channel.client.ping()


_QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "version": lambda client: str(client.info("server")["redis_version"]),
    "memory": lambda client: client.info("memory"),
    "policy": lambda client: str(client.config_get("maxmemory-policy")["maxmemory-policy"]),
    "at": lambda client: sum(
        part * unit for part, unit in zip(client.time(), (1, 1e-6), strict=True)
    ),
    "listening": lambda client: sum(row["cmd"] == "brpop" for row in client.client_list()),
}


def facts(url: str, timeout_s: float = 2.0, files: TlsFiles = TlsFiles()) -> dict[str, Any]:
    """Return what the broker at `url` tells of itself, for people.

    Returns
    -------
    dict
        As far as it tells: ``version``, ``policy`` (maxmemory-policy), ``at`` (its clock, seconds
        since the epoch), ``listening`` (connections that wait for hand-outs), ``is_full``.

    Raises
    ------
    Unreachable
        It gives no answer.
    """
    from redis.exceptions import RedisError

    application = app(url, timeout_s, files)
    with closing(application), foreign_code(lambda exc: _silent_broker(url, exc)):
        connection: Any = application.connection_for_write()
        with connection:
            connection.connect()
            client = connection.default_channel.client
            client.ping()
            facts: dict[str, Any] = {}
            for name, ask in _QUESTIONS.items():
                # Some services and the stand-in keep these to themselves, or answer another way.
                with suppress(RedisError, LookupError, TypeError, ValueError):
                    facts[name] = ask(client)
            memory = facts.pop("memory", {})
            most = int(memory.get("maxmemory", 0))
            facts["is_full"] = 0 < most <= int(memory.get("used_memory", 0))
            return facts


def redacted(url: str) -> str:
    """Return `url` without user and password."""
    shown = []
    for part in url.split(";"):  # several Sentinels
        parts = urlsplit(part)
        host = parts.netloc.rpartition("@")[2]
        shown.append(urlunsplit((parts.scheme, host, parts.path, "", "")))
    return ";".join(shown)


_REFUSALS = frozenset(
    ("AuthenticationError", "AuthenticationWrongNumberOfArgsError", "NoPermissionError")
) | {"OutOfMemoryError", "ResponseError", "ReadOnlyError"}
"""Errors of redis-py, by name, since to import them costs what only a failure should."""


def _silent_broker(url: str, exc: BaseException) -> Unreachable:
    cause = exc
    while cause.__cause__ is not None and not str(cause):
        cause = cause.__cause__
    lines = str(cause).strip().splitlines()
    why = lines[0] if lines else type(cause).__name__
    answer = "gives no answer"
    if type(cause).__name__ in _REFUSALS:
        answer = "refuses"  # it is there: a password, a user's rights, memory that is full
    elif found := _certificate_fault(exc):
        answer, why = "has a certificate that is not trusted", found
    # redis-py names the address once more, between a number and what is wrong
    if named := re.fullmatch(r"Error -?\d+ (?:while )?connecting to \S+?\. (.+?)\.?", why):
        why = named[1]
    if password := urlsplit(url.split(";")[0]).password:
        why = why.replace(password, "***")
    return Unreachable(f"{redacted(url)} {answer}: {why}")


def _broker_advice(fault: Unreachable, key: str, authority: str, instead: str) -> str:
    """Return what to do about a broker that gives no answer or refuses.

    Parameters
    ----------
    fault : Unreachable
        What `ping` or `facts` raised.
    key : str
        The setting that names the broker.
    authority : str
        The setting that names who vouches for it.
    instead : str
        What else would help, as an order.
    """
    what = str(fault)
    if " refuses: " in what:
        return f"correct user and password in {key}, or what that user may do there"
    if " not trusted: " in what:
        return f"name its authority as {authority}, or renew its certificate"
    if what.startswith("rediss:"):
        return f"start Redis, correct {key} (rediss:// only where it takes TLS), or {instead}"
    return f"start Redis, correct {key}, or {instead}"


def node_advice(fault: Unreachable) -> str:
    """Return what to do in node.toml about a broker that gives no answer or refuses."""
    return _broker_advice(fault, "broker.url", "broker.ca", 'write broker.url = "embedded"')


def worker_advice(fault: Unreachable) -> str:
    """Return what to do in worker.toml about a broker that gives no answer or refuses."""
    instead = "let serve --with-worker start this worker"
    return _broker_advice(fault, "worker.broker", "worker.broker_ca", instead)


def _certificate_fault(exc: BaseException | None) -> str:
    """Return what OpenSSL says of a certificate, where that is behind an error; else nothing."""
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return exc.verify_message
        exc = exc.__cause__ or exc.__context__
    return ""


_DIES_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks Linux to end this process with its parent (PR_SET_PDEATHSIG), then becomes the program.

The signal comes when the *thread* ends that started the process; so `Embedded` starts it from a
thread of its own, which lives as long as it. A program between, instead of code between fork and
exec, because that is not safe in a process with threads.
"""


class Embedded:
    """A Redis of our own: a child on a loopback port, with a password and without a disk.

    The program is ``redis-server`` or ``valkey-server`` where one is on PATH, else a pure Python
    stand-in (fakeredis). It is started again, on the same port, whenever it ends.

    Parameters
    ----------
    folder : Path
        Working directory of the child.
    stand_in : bool
        Whether to use the stand-in even where a real server is installed.
    """

    def __init__(self, folder: Path, stand_in: bool = False) -> None:
        self._folder = folder
        self._program = None if stand_in else program()
        self._password = secrets.token_urlsafe(24)
        self._port = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._keeper: threading.Thread | None = None
        self.starts = 0

    @property
    def url(self) -> str:
        """Where the broker listens, with its password: never log it."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Process id of the child that runs now."""
        child = self._child
        return child.pid if child is not None and child.poll() is None else None

    def start(self, timeout_s: float = 60.0) -> None:
        """Start the child and return when it answers.

        Raises
        ------
        Unreachable
            It does not answer in time.
        """
        if self._program is None:
            logger.warning(
                "no redis-server or valkey-server on PATH: a stand-in written in Python runs "
                "instead; install one of them for production"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        # free a moment ago: should somebody take it first, the child ends and `start` says so
        self._port = _free_port()
        self._stop.clear()
        self._keeper = threading.Thread(target=self._keep_child, name="broker-keeper", daemon=True)
        self._keeper.start()
        deadline = time.monotonic() + timeout_s
        while not _has_answer(self._port, self._password):
            if time.monotonic() > deadline:
                self.stop()
                raise Unreachable(f"the embedded broker gives no answer within {timeout_s:.0f} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the child."""
        self._stop.set()
        if self._keeper is not None:
            self._keeper.join(timeout=10)
            self._keeper = None

    def _keep_child(self) -> None:
        """Start the child, and again whenever it ends; end it when asked to."""
        pause = 0.1
        while not self._stop.is_set():
            began = time.monotonic()
            child = self._spawn_child()
            self._child = child
            self.starts += 1
            while child.poll() is None and not self._stop.wait(0.05):
                pass
            # checked before the child is called ended: `stop` ends it below, which is not a failure
            if self._stop.is_set():
                break
            # what ran for a while is back at once; what cannot start is tried ever more slowly
            pause = 0.1 if time.monotonic() - began > 10 else min(pause * 2, 5.0)
            logger.warning("embedded broker ended with %s; starting it again", child.returncode)
            self._stop.wait(pause)
        self._end_child()

    def _spawn_child(self) -> subprocess.Popen[bytes]:
        if self._program is not None:
            command, lines = [self._program, "-"], self._redis_configuration()
        else:
            command = python_command("-m", "dicom_node.flow.stand_in", str(self._port))
            lines = self._password
        if sys.platform == "linux":
            before = [sys.executable, "-I", "-S", "-c", _DIES_WITH_PARENT, str(os.getpid())]
            command = before + command
        child = subprocess.Popen(
            command,
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if child.stdin is not None:
            try:
                child.stdin.write(lines.encode())
                child.stdin.close()
            except BrokenPipeError:
                logger.warning("embedded broker ended before it had read its settings")
        return child

    def _redis_configuration(self) -> str:
        """Return redis.conf; by stdin, since everybody can read a command line."""
        return "\n".join(
            (
                "bind 127.0.0.1",
                f"port {self._port}",
                f"requirepass {self._password}",
                'save ""',
                "appendonly no",
                "maxmemory 256mb",
                "maxmemory-policy noeviction",
                "daemonize no",
                f'dir "{self._folder.resolve()}"',
                "",
            )
        )

    def _end_child(self) -> None:
        child = self._child
        if child is None or child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(timeout=3)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(timeout=3)


def program() -> str | None:
    """Return the path of the server that `Embedded` runs; None: the stand-in."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    # a link is not followed: Debian's program tells by its name which of its tools it is
    return found and str(Path(found).absolute())


def _has_answer(port: int, password: str) -> bool:
    """Return whether our own broker answers; `ping` would import Celery for it, 0.2 s and 20 MB."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            # the Redis protocol by hand: an array of two or one bulk strings
            for words in (("AUTH", password), ("PING",)):
                parts = (f"${len(word)}\r\n{word}\r\n" for word in words)
                connection.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
                if not connection.recv(64).startswith(b"+"):
                    return False
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
