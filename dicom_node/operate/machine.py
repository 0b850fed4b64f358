"""What `doctor` looks at on this machine: Python, ports, disk, clock, secret, certificates."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from dicom_node import conditions
from dicom_node.base.addresses import is_loopback
from dicom_node.base.checks import Check, failed, passed, warned
from dicom_node.base.children import CHILDREN
from dicom_node.base.confine import python_command
from dicom_node.base.errors import ConfigurationError, OutOfResources
from dicom_node.base.local_time import is_zone_doubtful, local_time
from dicom_node.base.plurals import counted
from dicom_node.credentials import secret_path
from dicom_node.dimse import security
from dicom_node.operate.config_faults import tls_faults
from dicom_node.peers import doubts
from dicom_node.running import is_running
from dicom_node.settings import Settings, Tls
from dicom_node.store.clock import HOST_CLOCK

PACKAGE = "chexfract-node"
KEEP_CLOCK = "set the clock, and let chrony or systemd-timesyncd keep it"

_CONFIG = ConfigurationError.exit_code


def check_of(name: str, found: conditions.Condition, more: str = "", code: int = 1) -> Check:
    """Return a condition as a check: with the words in which the pages say it.

    Parameters
    ----------
    more : str
        What only a look from here knows.
    code : int
        Exit code of a failed check.
    """
    what = f"{found.text} {more}".strip()
    if found.level == "stop":
        return failed(name, what, found.advised, code)
    return warned(name, what, found.advised)


def python() -> Iterable[Check]:
    """Look at the interpreter and at what the package's own requirements ask for."""
    here = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        return [failed("python", f"Python {here}", "use Python 3.11, 3.12 or 3.13")]
    faults, found = [], []
    for wanted in _wanted_packages():
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            faults.append(f"{wanted.name} is not installed")
            continue
        found.append(f"{wanted.name} {version}")
        if not wanted.specifier.contains(version, prereleases=True):
            faults.append(f"{wanted.name} {version} is not {wanted.specifier}")
    if faults:
        advice = f"{sys.executable} -m pip install --upgrade {PACKAGE}"
        return [failed("python", "; ".join(faults), advice)]
    named = [
        package
        for package in found
        if package.split()[0] in ("pydicom", "pynetdicom", "celery", "redis")
    ]
    others = counted(len(found) - len(named), "more package")
    state = f"Python {here}, {', '.join(named)} and {others}"
    return [passed("python", state)]


def _wanted_packages() -> Iterator[Requirement]:
    for line in metadata.requires(PACKAGE) or ():
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield wanted


def ports(settings: Settings) -> Iterator[Check]:
    """Look whether both ports are free, or served by the running node."""
    runs = is_running(settings.node.data_dir)
    for name, host, port in (
        ("node", settings.node.host, settings.node.port),
        ("web", settings.web.host, settings.web.port),
    ):
        yield _port_check(name, host, port, runs=runs)


def _port_check(name: str, host: str, port: int, *, runs: bool) -> Check:
    check, where = f"port {name}", f"{host} port {port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE and runs:
                return passed(check, f"{where} is served by the running node")
            return failed(
                check, f"{where}: {_bind_problem(exc)}", _port_advice(name, port, exc), _CONFIG
            )
    if runs and port:
        what = f"a node runs on this data_dir, but nobody serves {where}"
        return failed(check, what, "look at its log; was the port changed since it started?")
    return passed(check, f"{where} is free")


def _bind_problem(exc: OSError) -> str:
    known = {errno.EADDRINUSE: "in use by another program", errno.EACCES: "not ours to take"}
    return known.get(exc.errno or 0, exc.strerror or str(exc))


def _port_advice(name: str, port: int, exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"find it with `ss -ltnp 'sport = :{port}'` and stop it, or change [{name}] port"
    if exc.errno == errno.EACCES:
        return f"choose a port above 1023 as [{name}] port, or give CAP_NET_BIND_SERVICE"
    return f"[{name}] host must be an address of this machine"


def openness(settings: Settings) -> Iterable[Check]:
    """Look who may send to this node."""
    node = settings.node
    if is_loopback(node.host):
        return [passed("who may send", f"programs on this machine ({node.host})")]
    if node.known_peers_only:
        return [passed("who may send", counted(len(settings.peers), "known peer"))]
    what = f"anyone who reaches {node.host}:{node.port}: known_peers_only = false"
    return [warned("who may send", what, "set known_peers_only = true and name the peers")]


def callers(settings: Settings) -> Iterator[Check]:
    """Look whether each peer can be distinguished from others when it calls."""
    found = doubts(settings)
    for name, doubt in found:
        where, _, advice = doubt.partition("; ")
        yield warned("who calls", f"peer {name} {where}", advice or "write its addresses")
    if not found and settings.peers:
        peers = counted(len(settings.peers), "peer is", "peers are")
        yield passed("who calls", f"{peers} known by address")


def disk(settings: Settings) -> Iterator[Check]:
    """Look whether images can be written, have room, and agree with the clock."""
    folder, wanted = settings.shared_dir, settings.retention.min_free
    if folder.exists() and not folder.is_dir():
        yield failed("disk", f"{folder} is a file", "name a folder as node.data_dir", _CONFIG)
        return
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
            started = time.perf_counter()
            file.write(b"written")
            file.flush()
            os.fsync(file.fileno())
            took_ms = (time.perf_counter() - started) * 1000
            written_at = os.fstat(file.fileno()).st_mtime
    except OSError as exc:
        key = "node.shared_dir" if settings.node.shared_dir else "node.data_dir"
        advice = f"let this user write there: chown {os.getuid()} {place}, or change {key}"
        yield failed("disk", f"{place} cannot be written: {exc.strerror}", advice, _CONFIG)
        return
    free = shutil.disk_usage(place).free
    state = f"{place.absolute()}: {free / 1e9:.1f} GB free, fsync in {took_ms:.0f} ms"
    found = next(conditions.of_disk(free, wanted, place), None)
    if found is None:
        yield passed("disk", state)
    else:
        yield check_of("disk", found, code=OutOfResources.exit_code)
    yield _clock_check(written_at)


def _clock_check(written_at: float) -> Check:
    now = HOST_CLOCK.wall()
    shown = local_time(now).isoformat(timespec="seconds")
    for wrong in conditions.of_clock(now, last_event=0.0):
        return check_of("clock", wrong, f"({shown})")
    if abs(now - written_at) > conditions.MOST_SKEW_S:
        what = f"{shown}; the disk's clock differs by {now - written_at:.0f} s"
        return warned("clock", what, KEEP_CLOCK)
    if is_zone_doubtful():
        what = f"{shown}: a container without TZ; dates and times of reports are in UTC"
        return warned("clock", what, 'write node.time_zone = "Europe/Berlin", or set TZ')
    return passed("clock", shown)


def secret(settings: Settings) -> Iterable[Check]:
    """Look at the job API's secret: there, long enough, private."""
    for given in (settings.jobs.secret, settings.web.secret):
        if given is not None:
            return [_long_enough(given.get_secret_value(), "the environment")]
    path = secret_path(settings)
    if not (settings.jobs.secret_file or settings.web.secret_file or path.exists()):
        return [passed("secret", f"serve will make {path}")]
    try:
        mode, value = path.stat().st_mode & 0o777, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        what = f"{path}: {getattr(exc, 'strerror', None) or 'not text'}"
        advice = "write one: openssl rand -base64 32, mode 0600"
        return [failed("secret", what, advice, _CONFIG)]
    if mode & 0o077:
        what = f"{path} may be read by others ({mode:04o})"
        return [failed("secret", what, f"chmod 600 {path}")]
    return [_long_enough(value, str(path))]


def _long_enough(value: str, where: str) -> Check:
    if len(value.strip()) < 16:
        advice = "write a longer one: openssl rand -base64 32"
        return failed("secret", f"{where}: shorter than 16 characters", advice, _CONFIG)
    return passed("secret", f"{where}")


def data_dir(settings: Settings) -> list[Check]:
    """Look at who may read what the node keeps: images, reports and the ledger."""
    folder = settings.node.data_dir
    if not folder.is_dir():
        return [passed("data_dir", f"{folder}: made at the first start, for its user alone")]
    found = folder.stat()
    if found.st_uid != os.geteuid() and os.geteuid() != 0:
        what = f"{folder} belongs to user {found.st_uid}, and this is user {os.geteuid()}"
        return [failed("data_dir", what, "run this as the user of the node")]
    open_ones = [path.name for path in (folder, *folder.iterdir()) if _is_open(path)]
    if found.st_mode & 0o077:
        what = f"{folder} may be read by others ({found.st_mode & 0o777:04o})"
        return [failed("data_dir", what, f"chmod 700 {folder}; the next start does it")]
    if open_ones:
        what = f"{folder}: closed to others; {', '.join(sorted(open_ones)[:5])} by itself is not"
        return [warned("data_dir", what, "the next start closes it")]
    return [passed("data_dir", f"{folder} is its user's alone")]


def _is_open(path: Path) -> bool:
    """Return whether others may read a file or folder; what has just gone is not open."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISLNK(mode) and bool(mode & 0o077)


def confinement() -> list[Check]:
    """Ask a child what keeps it in on this kernel."""
    code = (
        "import json; from dataclasses import asdict; from dicom_node.base import confine; "
        "print(json.dumps(asdict(confine.confine()) | {'version': confine.landlock_version()}))"
    )
    done = subprocess.run(
        python_command("-c", code), capture_output=True, text=True, check=False, timeout=20
    )
    held = json.loads(done.stdout) if done.returncode == 0 else {"missing": ["an answer"]}
    if held["missing"]:
        what = f"children that read pictures are not locked in: no {', '.join(held['missing'])}"
        return [warned("confinement", what, "use a kernel that has it, or a container per role")]
    what = "children that read images or run a model's code see no secret, ledger or network"
    how = f"Landlock {held['version']}, seccomp"
    locked = ", ".join(child.name for child in CHILDREN if child.is_locked)
    others = ", ".join(child.name for child in CHILDREN if not child.is_locked)
    state = (
        f"{what} ({how}): {locked}; not locked in: {others}, engines in the worker's own process"
    )
    return [passed("confinement", state)]


def tls(settings: Settings) -> Iterator[Check]:
    """Look at each TLS end's files: present, fitting, and valid for another month."""
    keys = {"tls node": "node.tls.", "tls web": "web."}
    for name, end in conditions.tls_ends(settings).items():
        before = keys.get(name) or f"peers.{name.removeprefix('tls ')}.tls."
        if faults := list(tls_faults(before, end)):
            for what, _, advice in (fault.rpartition("; ") for fault in faults):
                yield failed(name, what, advice, _CONFIG)
            continue
        try:
            (security.acceptor if name in ("tls node", "tls web") else security.requestor)(end)
        except ConfigurationError as exc:
            advice = "does OpenSSL of this host take these files?"
            yield failed(name, str(exc), advice, _CONFIG)
            continue
        yield from _check_dates(name, end)


def _check_dates(name: str, end: Tls) -> Iterator[Check]:
    for date in conditions.certificate_dates(name, end):
        found = next(conditions.of_dates(date), None)
        if found is None:
            yield passed(name, f"{date.path} is valid until {date.ends:%Y-%m-%d}")
        else:
            yield check_of(name, found)
    if end.key is not None and end.key.stat().st_mode & 0o077:
        yield warned(name, f"{end.key} may be read by others", f"chmod 600 {end.key}")
