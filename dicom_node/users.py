"""Who may sign in: a file of names, roles and argon2 hashes, one user per line."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast, get_args

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from dicom_node.base.errors import ConfigurationError, NotFound
from dicom_node.settings import Role, Settings

SHORTEST = 12
"""Characters of a new password; length counts more than odd signs (NIST SP 800-63B 3.1.1)."""

COMMON = frozenset(
    """
    password passwort passw administrator admin root qwertyuiop qwertzuiop qwerty qwertz asdfghjkl
    asdfgh zxcvbnm yxcvbnm abcdefghijkl abcdef letmein welcome willkommen changeme changeit
    iloveyou monkey dragon football baseball superman princess sunshine shadow master trustno
    secret geheim sommer winter spring summer autumn january february hospital krankenhaus klinik
    clinic radiology radiologie radiologist xray roentgen dicom pacs orthanc dcmchee chexfract
    viewer operator demo test testing guest login correcthorsebatterystaple
    """.split()  # noqa: SIM905 - a list of words to read
)
"""Words that a password may not be made of: what people take first, here above all."""

LONGEST = 256
"""Characters of a password that is verified: those of before go on working."""

LONGEST_NEW = 128

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_hasher = PasswordHasher()
_one_at_a_time = threading.BoundedSemaphore(2)
"""Each check takes 64 MiB: a flood of sign-ins must not take all memory."""


@dataclass(frozen=True, slots=True)
class User:
    """One line of the file."""

    name: str
    role: Role
    hashed: str


def users_file(settings: Settings) -> Path:
    """Return where the users stand."""
    named = settings.web.users_file
    return Path(named) if named else settings.shared_dir / "users"


def read_users(path: Path) -> Mapping[str, User]:
    """Return the users by name; none where there is no file.

    Raises
    ------
    ConfigurationError
        The file cannot be read, or a line is no ``name:role:hash``.
    """
    try:
        state = path.stat()
        return _read_lines(path, state.st_mtime_ns, state.st_size, state.st_ino)
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ConfigurationError(f"web.users_file: {path}: {exc.strerror}") from exc


def add_user(path: Path, name: str, role: Role, password: str) -> None:
    """Add a user, or give one a new role and password.

    Raises
    ------
    ConfigurationError
        The name or the password is not acceptable, the file cannot be written, or it is the last
        administrator who would be one no more.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name[:64]!r}: a name has 1 to 64 of A-Z a-z 0-9 . _ - @")
    if problem := password_problem(name, password):
        raise ConfigurationError(problem)
    hashed = _hasher.hash(password)
    with _lock_file(path):
        known = dict(read_users(path))
        _change_users(path, known, known | {name: User(name, role, hashed)})
    note_password(path, name, "")


def password_problem(name: str, password: str) -> str:
    """Return why a new password is refused; empty when it may be taken.

    Parameters
    ----------
    name : str
        Whose it is: the name is not a password.
    """
    if not SHORTEST <= len(password) <= LONGEST_NEW:
        return (
            f"a password has {SHORTEST} to {LONGEST_NEW} characters; a few words in a row are fine"
        )
    if len(set(password)) < 5:
        return "a password of so few different characters is guessed at once; write a few words"
    # Digits and signs around a common word, or the word again and again, add nothing.
    letters = "".join(c for c in password.casefold() if c.isalpha())
    words = {*COMMON, "".join(c for c in name.casefold() if c.isalpha())} - {""}
    rest = letters
    for word in sorted(words, key=len, reverse=True):
        rest = rest.replace(word, "")
    if len(rest) < 4:
        return "that password is among the first that are tried; write a few words of your own"
    return ""


def weak_file(path: Path) -> Path:
    """Return the file beside the users that names whose old password no rule of today takes."""
    return path.with_name(f"{path.name}.weak")


def weak_users(path: Path) -> list[str]:
    """Return who signed in with a password that is too short or too common today."""
    try:
        lines = weak_file(path).read_text(encoding="utf-8").split()
        known = read_users(path)
    except (OSError, ValueError, ConfigurationError):
        return []
    return sorted({name for name in lines if name in known})


def note_password(path: Path, name: str, problem: str) -> None:
    """Keep whether somebody's password, seen at a sign-in, is such as today's rule takes."""
    weak = weak_users(path)
    if bool(problem) == (name in weak):
        return
    kept = [*weak, name] if problem else [weak_name for weak_name in weak if weak_name != name]
    with suppress(OSError):  # a folder of somebody else's: the log has the line
        target = weak_file(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_text("".join(f"{weak_name}\n" for weak_name in kept), encoding="utf-8")
        temporary.chmod(0o600)
        temporary.replace(target)


def remove_user(path: Path, name: str) -> None:
    """Remove a user; an open session ends with the next request.

    Raises
    ------
    NotFound
        Nobody has this name.
    ConfigurationError
        It is the last administrator.
    """
    with _lock_file(path):
        known = dict(read_users(path))
        if name not in known:
            raise NotFound(f"no user is named {name[:64]!r}")
        _change_users(
            path,
            known,
            {known_name: user for known_name, user in known.items() if known_name != name},
        )


def change_role(path: Path, name: str, role: Role) -> None:
    """Give a user another role; their sessions end.

    Raises
    ------
    NotFound
        Nobody has this name.
    ConfigurationError
        It is the last administrator.
    """
    with _lock_file(path):
        known = dict(read_users(path))
        if name not in known:
            raise NotFound(f"no user is named {name[:64]!r}")
        _change_users(path, known, known | {name: User(name, role, known[name].hashed)})


def fresh_password(name: str) -> str:
    """Return a password that the rule of today takes, for a user to begin with."""
    while password_problem(name, made := secrets.token_urlsafe(12)):
        pass
    return made


def _change_users(path: Path, old: Mapping[str, User], new: Mapping[str, User]) -> None:
    """Write other users, unless nobody of them could administer this node any more."""
    if _has_admin(old) and not _has_admin(new):
        raise ConfigurationError(
            "the last administrator stays: make another user administrator first"
        )
    _write_lines(path, new.values())


def _has_admin(users: Mapping[str, User]) -> bool:
    return any(user.role == "admin" for user in users.values())


@contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    """Keep other writers out: two administrators could each take the other's role away."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as exc:
        raise ConfigurationError(f"web.users_file: {lock}: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def verified(users: Mapping[str, User], name: str, password: str) -> User | None:
    """Return the user whose password this is; as slow for a name that nobody has."""
    user = users.get(name)
    with _one_at_a_time:
        try:
            _hasher.verify(user.hashed if user else _hash_of_nobody(), password[: LONGEST + 1])
        except (VerificationError, InvalidHashError):
            return None
    return user


@lru_cache(maxsize=1)
def _hash_of_nobody() -> str:
    return _hasher.hash(os.urandom(16))


@lru_cache(maxsize=8)
def _read_lines(path: Path, *_changed: int) -> Mapping[str, User]:
    users = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, role, hashed = [*line.split(":", 2), "", ""][:3]
        if role not in get_args(Role) or not hashed.startswith("$argon2"):
            raise ConfigurationError(f"web.users_file: {path}:{number}: not name:role:hash")
        users[name] = User(name, cast("Role", role), hashed.strip())
    return users


def _write_lines(path: Path, users: Iterable[User]) -> None:
    text = "".join(f"{user.name}:{user.role}:{user.hashed}\n" for user in users)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as exc:
        raise ConfigurationError(f"web.users_file: {path}: {exc.strerror}") from exc
