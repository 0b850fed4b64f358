"""What proves to this node who calls: three secrets, of which each is replaced alone.

Workers show theirs at the job API, DICOMweb clients theirs; the first administrator's is a password
that counts until the first user is added. Each stands in a file of data_dir, made at the first
start. To replace one, write or remove its file and start `serve` again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dicom_node.base.errors import ConfigurationError
from dicom_node.settings import Settings
from dicom_node.users import read_users, users_file

SHORTEST = 16
"""Characters of a secret."""

CLOSED = "first-admin.closed"
"""File in data_dir: there has been a user, so the first administrator's way is over."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The secrets in force."""

    jobs: str
    """Of workers."""
    dicomweb: str
    """Of DICOMweb clients."""
    first_admin: str
    """Password of user ``admin`` while there has never been a user."""
    pages: str
    """Key of cookies, forms and searches; it never leaves the node."""

    @classmethod
    def same(cls, secret: str) -> Self:
        """Return one secret for everything, as 0.1.0 had it."""
        return cls(secret, secret, secret, secret)


def read_credentials(settings: Settings) -> Credentials:
    """Return the secrets; what has no file yet is made.

    Raises
    ------
    ConfigurationError
        A file cannot be read or written, or a secret is too short.
    """
    folder = settings.shared_dir
    web = settings.web
    return Credentials(
        jobs=read_secret(settings),
        dicomweb=_secret_of_file(
            folder / "dicomweb-secret", web.dicomweb_secret_file, "web.dicomweb_"
        ),
        first_admin=_secret_of_file(folder / "first-admin") if is_first_admin(settings) else "",
        pages=_secret_of_file(folder / "pages-key"),
    )


def read_secret(settings: Settings) -> str:
    """Return the secret of workers; made once in data_dir when no file is named.

    Raises
    ------
    ConfigurationError
        See `read_credentials`.
    """
    jobs, web = settings.jobs, settings.web
    for value, key in ((jobs.secret, "jobs.secret"), (web.secret, "web.secret")):
        if value is not None:
            return _long_enough(value.get_secret_value(), key)
    own = settings.shared_dir / "secret"
    if web.secret_file and not jobs.secret_file:
        return _secret_of_file(own, web.secret_file, "web.")
    return _secret_of_file(own, jobs.secret_file, "jobs.")


def secret_path(settings: Settings) -> Path:
    """Return the file of the workers' secret."""
    named = settings.jobs.secret_file or settings.web.secret_file
    return Path(named) if named else settings.shared_dir / "secret"


def is_first_admin(settings: Settings) -> bool:
    """Return whether ``admin`` may sign in by the first administrator's secret.

    A users file that is lost afterwards closes the pages; it does not open them.
    """
    if (settings.shared_dir / CLOSED).exists():
        return False
    if read_users(users_file(settings)):
        close_first_admin(settings)
        return False
    return True


def close_first_admin(settings: Settings) -> None:
    """Note that there is a user: the first administrator's way ends for good."""
    folder = settings.shared_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CLOSED).touch(0o600)
        (folder / "first-admin").unlink(missing_ok=True)
    except OSError as exc:
        raise ConfigurationError(f"node.data_dir: {exc.filename}: {exc.strerror}") from exc


def _secret_of_file(own: Path, named: str = "", table: str = "") -> str:
    """Return the content of the file that a key names, else of our own, made when missing."""
    path = Path(named) if named else own
    where = f"{table}secret_file: {path}" if named else str(path)
    try:
        if not named and not path.exists():
            _make_secret(path)
        secret = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as exc:
        raise ConfigurationError(f"{where}: not text") from exc
    except OSError as exc:
        raise ConfigurationError(f"{where}: {exc.strerror}") from exc
    return _long_enough(secret, where)


def _make_secret(path: Path) -> None:
    """Write a fresh secret, complete before it is visible; a secret that came first stays."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(temporary)
    temporary.unlink()


def _long_enough(secret: str, where: str) -> str:
    if len(secret) < SHORTEST:
        raise ConfigurationError(f"{where}: shorter than {SHORTEST} characters")
    return secret
