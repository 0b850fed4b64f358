"""A copy of ledger and spool while the node runs, and the way back into an empty place.

A backup is what its manifest says: the manifest is replaced last, in one step, so whatever is
interrupted leaves the backup that was there before. Files of the spool never change, so they are
linked where that is possible; a second call takes only what is new.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dicom_node import __version__
from dicom_node.base.errors import Busy, ConfigurationError, OutOfResources, Unreachable
from dicom_node.base.plurals import counted
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.ledger import Ledger
from dicom_node.store.schema import READABLE_BY, VERSIONS

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"

_LEDGER = re.compile(r"ledger-[0-9]{1,20}\.(sqlite|dump)")
_SUMS = re.compile(r"SHA256SUMS\.[0-9]{1,20}")
_FILE = re.compile(rf"{_LEDGER.pattern}|spool/\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)
"""Names that a backup has: no dot begins one, so none leads upwards."""
HALF = "restoring"
"""Stands in data_dir while a restore is not complete: a node does not start on it."""

_FOLDERS = ("images", "reports", "conflicts")
_READ = 2**20


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup or a restore did."""

    files: int
    """Files that belong to it."""
    new: int
    """Of these, how many were copied or linked now."""
    size: int
    """Bytes of the ledger's copy."""


def backup(data_dir: Path, ledger_url: str, folder: Path, spool: Path | None = None) -> Copied:
    """Copy ledger and spool into `folder`; what is there already is not copied again.

    Parameters
    ----------
    spool : Path, optional
        Where images and reports are; in `data_dir` when left out.

    Raises
    ------
    ConfigurationError
        There is no ledger, or the folder cannot be used.
    OutOfResources
        The disk is full; the backup that was there before is whole.
    Busy
        Another backup writes there.
    """
    spool = spool or data_dir / "spool"
    ledger = Ledger.open(ledger_url)
    schema = str(ledger.revision())
    ledger.close()
    with _explain_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock_folder(folder):
            for left_over in folder.rglob(".*.partial"):
                left_over.unlink()
            known = _read_sums(folder) if (folder / MANIFEST).exists() else {}
            # First the files, then the ledger, then the files again: a row names a file that was
            # there before it, and retention removes a file that a copied row may still name.
            found = dict.fromkeys(_copy_spool(spool, folder))
            name = _copy_ledger(ledger_url, folder)
            found |= dict.fromkeys(_copy_spool(spool, folder))
            sums: dict[str, str] = {}
            for file in sorted(found):
                path = folder / "spool" / file
                # a file of the spool never changes under its name: its sum of before is right
                sums[f"spool/{file}"] = known.get(f"spool/{file}") or _file_digest(path)
            new = len(sums.keys() - known.keys())
            sums[name] = _file_digest(folder / name)
            size = (folder / name).stat().st_size
            _write_manifest(folder, name, sums, schema)
            for old in folder.glob("ledger-*"):
                if old.name != name:
                    old.unlink()
            for file_name in known.keys() - sums.keys():
                with suppress(FileNotFoundError):
                    (folder / file_name).unlink()
    return Copied(len(sums) - 1, new, size)


def restore(data_dir: Path, ledger_url: str, folder: Path, spool: Path | None = None) -> Copied:
    """Put a backup into an empty `data_dir`; the next `serve` finishes the work that was open.

    Each file is compared with its sum on the way; a difference ends the restore.

    Parameters
    ----------
    spool : Path, optional
        Where images and reports go; in `data_dir` when left out.

    Raises
    ------
    ConfigurationError
        This is not a whole backup, it was made by a newer version, or there is something already.
    OutOfResources
        The disk is full; call it again when there is room.
    """
    spool = spool or data_dir / "spool"
    with _explain_errors(data_dir):
        said = _read_manifest(folder)
        sums = _read_sums(folder)
        mark = data_dir / HALF
        # the mark names the backup: only that backup may go on with what lies here
        is_again = mark.exists() and mark.read_text() == said["ledger"]
        if not is_again:
            _require_empty(spool, ledger_url)
        data_dir.mkdir(parents=True, exist_ok=True)
        mark.write_text(said["ledger"])
        _sync_folder(data_dir)
        new = 0
        for name, digest in sums.items():
            if name.startswith("spool/"):
                place = spool / name.removeprefix("spool/")
                new += _place_file(folder / name, place, digest)
        size = _restore_ledger(folder / said["ledger"], sums[said["ledger"]], ledger_url)
        ledger = Ledger(ledger_url)
        try:
            # what was sent after the backup was taken is in the archives, and not in this ledger
            ledger.deliveries.doubt()
        finally:
            ledger.close()
        mark.unlink()
        _sync_folder(data_dir)
    return Copied(len(sums) - 1, new, size)


def require_whole(data_dir: Path) -> None:
    """Raise `ConfigurationError` where a restore was interrupted."""
    if (data_dir / HALF).exists():
        raise ConfigurationError(
            f"{data_dir}: a restore was interrupted here; run `chexfract-node restore` again"
        )


def require_ledger(ledger_url: str, spool: Path) -> None:
    """Raise `ConfigurationError` where files are kept and the ledger that knew them is gone.

    A new ledger would know none of them, and a sweep would remove them all after a day.
    """
    kept = (path for top in _FOLDERS for path in (spool / top).rglob("*.dcm"))
    if next(kept, None) is None:
        return
    ledger = Ledger(ledger_url)
    try:
        is_gone = ledger.revision() is None
    finally:
        ledger.close()
    if is_gone:
        raise ConfigurationError(
            f"{ledger.name}: no ledger here, and {spool} has files that it knew; restore it from a "
            "backup, or move that folder away to begin without them"
        )


def _copy_spool(spool: Path, folder: Path) -> Iterator[str]:
    """Link or copy what is in the spool and not in the backup; yield all names."""
    for top in _FOLDERS:
        for path in sorted((spool / top).rglob("*")):
            if path.name.startswith(".") or not path.is_file():
                continue
            name = str(path.relative_to(spool))
            target = folder / "spool" / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    _link_file(path, target)
                except FileNotFoundError:
                    continue  # retention has just removed it
            yield name


def _link_file(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(path, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)


def _copy_ledger(url: str, folder: Path) -> str:
    """Copy the ledger as it is at one moment, and return the name of the copy."""
    parsed = sa.make_url(url)
    stamp = int(HOST_CLOCK.wall())
    # A name of its own, also within one second and when the clock was set back: the manifest names
    # the copy of before until the new one counts.
    while any(folder.glob(f"ledger-{stamp}.*")) or any(folder.glob(f"{SUMS}.{stamp}")):
        stamp += 1
    if parsed.get_backend_name() != "sqlite":
        name = f"ledger-{stamp}.dump"
        partial = folder / f".{name}.partial"
        _run_program("pg_dump", parsed, "--format=custom", "--file", str(partial))
    else:
        name = f"ledger-{stamp}.sqlite"
        partial = folder / f".{name}.partial"
        with (
            closing(sqlite3.connect(f"file:{parsed.database}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(partial)) as target,
        ):
            source.backup(target)  # in one step: a read transaction, which blocks no writer
            if target.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise ConfigurationError(f"{parsed.database}: the ledger is damaged")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(folder / name)
    return name


def _write_manifest(folder: Path, ledger: str, sums: dict[str, str], schema: str) -> None:
    """Make the new manifest count, in one step."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    name = f"{SUMS}.{ledger.rpartition('.')[0].removeprefix('ledger-')}"
    _write_file(folder / name, text)
    said = {
        "version": 1,
        "software": __version__,
        "schema": schema,
        # of a newer schema we know only that we may use it
        "readable_by": {schema: READABLE_BY if schema == VERSIONS[-1] else VERSIONS[-1]},
        "made_at": HOST_CLOCK.wall(),
        "ledger": ledger,
        "sums": name,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    _write_file(folder / MANIFEST, json.dumps(said, indent=1))
    for old in folder.glob(f"{SUMS}.*"):
        if old.name != name:
            old.unlink()


def _write_file(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for key in ("ledger", "sums", "sha256", "schema", "software"):
            said[key] = str(said[key])
        is_ours = _LEDGER.fullmatch(said["ledger"]) and _SUMS.fullmatch(said["sums"])
        text = (folder / said["sums"]).read_bytes() if is_ours else b""
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ConfigurationError(f"{folder}: this is not a backup, or not a whole one") from exc
    if not is_ours:
        raise ConfigurationError(f"{folder}: its manifest names files that no backup has")
    if hashlib.sha256(text).hexdigest() != said["sha256"]:
        raise ConfigurationError(f"{folder}/{said['sums']}: damaged; its sum is another one")
    readable_by = said.get("readable_by")
    oldest = readable_by.get(said["schema"]) if isinstance(readable_by, dict) else None
    if said["schema"] not in VERSIONS and oldest not in VERSIONS:
        raise ConfigurationError(f"{folder}: made by a newer version ({said['software']})")
    return said


def _read_sums(folder: Path) -> dict[str, str]:
    """Return name -> sum of a backup's files.

    A backup may lie where others write: a name that leads out of the folder, or to another file of
    data_dir than the spool's, would let them remove or replace what they cannot reach.
    """
    said = _read_manifest(folder)
    try:
        lines = (folder / said["sums"]).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{folder}: this is not a backup, or not a whole one") from exc
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if bad := next((name for name in sums if not _FILE.fullmatch(name)), None):
        raise ConfigurationError(f"{folder}: {bad[:80]!r} is not a name of a backup's file")
    if said["ledger"] not in sums:
        raise ConfigurationError(f"{folder}: its list of sums has no ledger")
    return sums


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place_file(source: Path, target: Path, digest: str) -> bool:
    """Copy a file whose sum is right; False when it is there already."""
    if target.parts[-1].startswith(".") or ".." in target.parts:
        raise ConfigurationError(f"{source}: not a name of the spool")
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    made = hashlib.sha256()
    try:
        with source.open("rb") as file, partial.open("wb") as copy:
            while chunk := file.read(_READ):
                made.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
    except FileNotFoundError as exc:
        raise ConfigurationError(f"{source}: missing in the backup") from exc
    if made.hexdigest() != digest:
        partial.unlink()
        raise ConfigurationError(f"{source}: damaged; its sum is another one")
    partial.replace(target)
    return True


def _require_empty(spool: Path, url: str) -> None:
    there = [f for top in _FOLDERS for f in (spool / top).rglob("*") if f.is_file()]
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        has_ledger = Path(str(parsed.database)).exists()
    else:
        ledger = Ledger(url)
        try:
            has_ledger = ledger.revision() is not None
        finally:
            ledger.close()
    if there or has_ledger:
        what = "a ledger" if has_ledger else f"{counted(len(there), 'file')} in the spool"
        raise ConfigurationError(
            f"{spool.parent}: there is {what} already; restore into an empty one"
        )


def _restore_ledger(copy: Path, digest: str, url: str) -> int:
    parsed = sa.make_url(url)
    is_dump = copy.suffix == ".dump"
    if is_dump == (parsed.get_backend_name() == "sqlite"):
        kind = "PostgreSQL" if is_dump else "SQLite"
        raise ConfigurationError(f"{copy}: from {kind}; set node.ledger accordingly")
    if is_dump:
        if _file_digest(copy) != digest:
            raise ConfigurationError(f"{copy}: damaged; its sum is another one")
        _run_program(
            "pg_restore", parsed, "--clean", "--if-exists", "--no-owner", "--single-transaction",
            "--dbname", str(parsed.database), str(copy),
        )  # fmt: skip
    else:
        _place_file(copy, Path(str(parsed.database)), digest)
    return copy.stat().st_size


def _run_program(program: str, url: sa.URL, *words: str) -> None:
    """Run a program of PostgreSQL; the password goes by the environment."""
    where = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username}
    given = {name: str(value) for name, value in where.items() if value}
    environment = os.environ | given | {"PGDATABASE": str(url.database)}
    if url.password:
        environment["PGPASSWORD"] = str(url.password)
    try:
        done = subprocess.run(
            [program, *words], env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as exc:
        raise ConfigurationError(f"{program} is not on PATH; install PostgreSQL's client") from exc
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise Unreachable(f"{program}: {last}")


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    # the kernel frees it with its owner: a killed backup locks nobody out
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise Busy(f"{folder}: another backup writes here; try later") from exc
        yield


@contextmanager
def _explain_errors(where: Path) -> Iterator[None]:
    """Put what the disk refuses into one line."""
    try:
        yield
    except sqlite3.Error as exc:
        raise OutOfResources(f"{where}: {exc}") from exc
    except OSError as exc:
        raise OutOfResources(f"{exc.filename or where}: {exc.strerror or exc}") from exc
