"""What a child process may see and reach: how it is started, and how it locks itself in.

A child that meets bytes of strangers (it decodes a picture, draws a preview, runs a model's remote
code) confines itself before it reads them. Landlock keeps it from every file that it does not need,
from TCP and from signals to others; seccomp keeps it from sockets and from the system calls around
them. Neither needs a right that a service lacks. What this kernel does not offer is left out and
returned by `confine`; `doctor` shows it.

It imports the standard library alone and starts fast: a decoder is started for each worker.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import struct
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# linux/prctl.h
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 4, 38, 22
_SECCOMP_MODE_FILTER = 2

# linux/landlock.h; the numbers of these calls are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_ALL_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_SINCE_5 = (1 << 16) - 1
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_TCP = 3  # bind and connect
_ABSTRACT_SOCKETS_AND_SIGNALS = 3

_READABLE = (
    "/usr", "/lib", "/lib64", "/bin", "/opt", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/localtime", "/etc/dcmtk", "/etc/fonts", "/etc/passwd", "/etc/group",
    "/etc/nsswitch.conf", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat",
    "/sys/devices/system", "/sys/fs/cgroup", "/dev/urandom", "/dev/random", "/dev/zero",
)  # fmt: skip
"""What Python, its libraries and DCMTK read; nothing of it is a secret."""

_SECRET = re.compile(
    r"^CHEXFRACT|SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|_KEY$|REDIS", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Confinement:
    """What holds for a process."""

    files: bool
    """Files that it does not need cannot be opened (Landlock)."""
    network: bool
    """No socket can be made (seccomp)."""
    missing: tuple[str, ...] = ()
    """What this kernel does not offer, in words."""


def python_command(*arguments: str) -> list[str]:
    """Return a command of this interpreter that imports nothing from the working directory."""
    return [sys.executable, "-P", *arguments]


def child_environment(**more: str) -> dict[str, str]:
    """Return this process's environment without what may be a secret."""
    kept = {key: value for key, value in os.environ.items() if not _SECRET.search(key)}
    return kept | more


def keep_private() -> None:
    """Make files of this process its user's alone, and hide its memory and environment."""
    os.umask(0o077)
    hide_process()


def hide_process() -> None:
    """Keep others of the same user from reading this process's memory and environment."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def confine(
    *,
    read: Iterable[Path] = (),
    write: Iterable[Path] = (),
    devices: bool = False,
    starts_python: bool = False,
) -> Confinement:
    """Lock this process in, for good and with all that it starts.

    Parameters
    ----------
    read : iterable of Path
        Files and folders that it needs beside Python's own.
    write : iterable of Path
        Folders that it may write in.
    devices : bool
        Whether it needs an accelerator: ``/dev`` and ``/sys`` then stay open.
    starts_python : bool
        Whether it starts interpreters that import this project: in a checkout they look through
        the names in its folder, which holds a data_dir at times, and read nothing else there.

    Returns
    -------
    Confinement
        What holds from now on.
    """
    if not sys.platform.startswith("linux"):
        return Confinement(False, False, ("Linux's Landlock and seccomp",))
    hide_process()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return Confinement(False, False, ("no_new_privs",))
    readable = [Path(path) for path in _READABLE] + _python_paths() + list(read)
    writable = [Path("/dev/null"), *write]
    if devices:
        readable += [Path("/sys"), Path("/proc/driver")]
        writable += [Path("/dev")]
    missing = []
    listed = [Path(__file__).resolve().parents[2]] if starts_python else []
    if not (files := _restrict_files(libc, readable, writable, listed)):
        missing.append("Landlock (Linux 5.13, CONFIG_SECURITY_LANDLOCK)")
    if not (network := _filter_calls(libc)):
        missing.append(f"a seccomp filter on {platform.machine()}")
    return Confinement(files, network, tuple(missing))


def landlock_version() -> int:
    """Return the version of Landlock that this kernel offers, 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)))


def _python_paths() -> list[Path]:
    """Return where this interpreter, its packages and this project lie, and not what is beside."""
    found = {
        sys.prefix,
        sys.base_prefix,
        sys.exec_prefix,
        str(Path(sys.executable).resolve().parent),
    }
    found |= {path for path in sysconfig.get_paths().values() if path}
    here = Path(__file__).resolve().parents[1]
    roots = [here, here.with_name("worker")]
    # Only folders of packages: the folder of a checkout may hold a data_dir, too.
    found |= {entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))}
    return [Path(path) for path in sorted(found)] + roots


def _restrict_files(
    libc: ctypes.CDLL, readable: list[Path], writable: list[Path], listed: list[Path]
) -> bool:
    version = landlock_version()
    if version == 0:
        return False
    handled = _ALL_OF_VERSION.get(version, _ALL_SINCE_5)
    scoped = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    attributes = struct.pack("=QQQ", handled, _TCP if version >= 4 else 0, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow_path(
                libc, ruleset, path, handled & (_READ | (_IOCTL if _is_device(path) else 0))
            )
        for path in listed:
            _allow_path(libc, ruleset, path, handled & _READ_DIR)
        for path in writable:
            _allow_path(libc, ruleset, path, handled & ~_EXECUTE | handled & _REFER)
        return int(libc.syscall(_RESTRICT_SELF, ruleset, 0)) == 0
    finally:
        os.close(ruleset)


def _is_device(path: Path) -> bool:
    return path.parts[:2] == ("/", "dev")


def _allow_path(libc: ctypes.CDLL, ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112 - a descriptor's name
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, descriptor)
        if libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0):
            raise OSError(ctypes.get_errno(), "a Landlock rule was refused", str(path))
    finally:
        os.close(descriptor)


# linux/audit.h and the tables of system calls: sockets of any kind (a local socket may lead to a
# database), other processes, and the kernel's less trodden paths. io_uring makes sockets past a
# filter, so it goes as well. A socketpair, which leads nowhere, stays.
_REFUSED = (
    "socket", "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "bpf", "perf_event_open",
    "keyctl", "add_key", "request_key", "mount", "umount2", "pivot_root", "init_module",
    "finit_module", "kexec_load", "open_by_handle_at", "unshare", "setns", "userfaultfd",
    "pidfd_getfd", "io_uring_setup",
)  # fmt: skip
_ARCHITECTURES: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        (41, 101, 310, 311, 312, 321, 298, 250, 248, 249, 165, 166, 155, 175, 313, 246, 304, 272,
         308, 323, 438, 425),
    ),
    "aarch64": (
        0xC00000B7,
        (198, 117, 270, 271, 272, 280, 241, 219, 217, 218, 40, 39, 41, 105, 273, 104, 265, 97,
         268, 282, 438, 425),
    ),
}  # fmt: skip
"""Machine -> its number in audit.h, and its numbers of the calls above, in their order."""

# linux/bpf_common.h, linux/seccomp.h
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EACCES
_NUMBER, _ARCHITECTURE = 0, 4
_X32 = 0x40000000
"""Calls of x86_64's 32-bit form bear numbers from here on: they would pass by the list."""


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _filter_calls(libc: ctypes.CDLL) -> bool:
    known = _ARCHITECTURES.get(platform.machine())
    if known is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    architecture, refused = known
    # Each line: code, lines to skip when true, when false, value. The last two are the ends.
    refuse = len(refused) + 5
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 0, refuse - 2, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, refuse - 4, 0, _X32),
    ]
    for place, number in enumerate(refused, len(lines)):
        lines.append((_JUMP_EQUAL, refuse - place - 1, 0, number))
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    code = b"".join(struct.pack("=HBBI", *line) for line in lines)
    program = _Program(len(lines), code)
    return int(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)) == 0
