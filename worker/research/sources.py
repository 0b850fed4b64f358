"""Walks through what a researcher names: files, folders, DICOMDIR, zip and tar."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.plurals import counted
from dicom_node.base.rims import foreign_code
from dicom_node.standard.part10 import is_part10
from worker.image.part10 import MOST_BYTES

COMPANIONS = frozenset(
    f".{ending}"
    for endings in (
        ("csv", "tsv", "txt", "json", "jsonl", "ndjson", "xml", "yaml", "yml", "toml", "ini"),
        ("md", "rst", "pdf", "html", "htm", "log", "xls", "xlsx", "ods", "doc", "docx", "rtf"),
        ("sha256", "md5", "py", "ipynb", "sh", "db", "lock", "parquet", "npy"),
    )
    for ending in endings
)
"""Endings of files that lie beside images and are none."""
_NAMES = frozenset(
    (
        "dicomdir",
        "license",
        "licence",
        "readme",
        "makefile",
        "thumbs.db",
        "desktop.ini",
        "sha256sums",
    )
)
_IMAGE_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        "dcm",
        "dic",
        "dicom",
        "ima",
        "img",
        "png",
        "jpg",
        "jpeg",
        "jpe",
        "tif",
        "tiff",
        "webp",
    )
)
"""Endings of files that claim to be images: a fault of each is reported."""
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"II", b"MM", b"RIFF", b"\x08\0", b"\x02\0")
"""How pictures begin, and data sets without a Part 10 head."""
_MOST_MEMBERS = 1_000_000
_HEAD = 132


@dataclass(frozen=True, slots=True)
class Source:
    """One file that may be an image."""

    name: str
    """As the caller would name it; within an archive behind the archive's name."""
    read: Callable[[], bytes]
    is_in_order: bool = False
    """Whether reading another source first makes this slow: members of a tar."""


@dataclass(slots=True)
class WalkResult:
    """What a walk found."""

    sources: list[Source] = field(default_factory=list)
    companions: list[str] = field(default_factory=list)


def walk(paths: Sequence[Path], leaving_out: Path | None = None) -> WalkResult:
    """Return each file once, in a fixed order, and apart from them what is obviously no image.

    Parameters
    ----------
    paths : sequence of Path
        Files, folders that are searched through, DICOMDIR files, zip and tar archives.
    leaving_out : Path, optional
        A folder that is not searched: where results go.

    Raises
    ------
    ConfigurationError
        A path does not exist, an archive or a DICOMDIR cannot be read, or there is no image.
    """
    found: dict[str, Source] = {}
    companions: dict[str, None] = {}
    for path in paths:
        if not path.exists():
            raise ConfigurationError(f"{path}: no such file or folder")
        is_named = not path.is_dir() and not _is_archive(path)
        for source in (
            _walk_below(path, leaving_out) if path.is_dir() else _in_file(path, companions)
        ):
            if source.name in found:
                continue
            if _is_companion(source) or (not is_named and _is_unknown(source)):
                companions.setdefault(source.name)
            else:
                found[source.name] = source
    if not found:
        shown = ", ".join(str(path) for path in paths)
        beside = (
            f"; {counted(len(companions), 'other file is', 'other files are')} there"
            if companions
            else ""
        )
        raise ConfigurationError(f"{shown}: no image in it{beside}")
    return WalkResult(list(found.values()), list(companions))


def _walk_below(folder: Path, leaving_out: Path | None) -> Iterator[Source]:
    inside = leaving_out.resolve() if leaving_out else None
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or (inside and inside in file.resolve().parents):
            continue
        yield from _archived_files(file) if _is_archive(file) else [_plain_source(file)]


def _in_file(path: Path, companions: dict[str, None]) -> Iterator[Source]:
    if path.name.upper() == "DICOMDIR":
        companions.setdefault(str(path))
        yield from _listed_images(path)
    else:
        yield from _archived_files(path) if _is_archive(path) else [_plain_source(path)]


def _plain_source(path: Path) -> Source:
    return Source(str(path), partial(_bounded_bytes, path))


def _bounded_bytes(path: Path) -> bytes:
    """Return a file's bytes; of a file that is too large as many as show that."""
    with path.open("rb") as file:
        return file.read(MOST_BYTES + 1)


def _is_companion(source: Source) -> bool:
    name = PurePosixPath(source.name.replace("\\", "/")).name.lower()
    is_named_so = name in _NAMES or name.startswith(".") or Path(name).suffix in COMPANIONS
    is_named_so = is_named_so or Path(name).stem in ("license", "licence", "readme")
    if not is_named_so or name.startswith("._"):
        return is_named_so
    if name == "dicomdir" or source.is_in_order:
        return True
    # An image with a strange name is an image.
    try:
        return not is_part10(source.read())
    except (OSError, RuntimeError, zipfile.BadZipFile):
        return True


def _is_unknown(source: Source) -> bool:
    """Return whether a file that nobody named has a strange ending and does not begin as images do.

    Names without an ending, or with an ending of digits, are those of DICOM media: they stay.
    """
    ending = PurePosixPath(source.name.replace("\\", "/")).suffix.lower()
    if ending in _IMAGE_ENDINGS or not ending[1:2].isalpha() or source.is_in_order:
        return False
    try:
        head = source.read()[:_HEAD]
    except (OSError, RuntimeError, zipfile.BadZipFile):
        return False
    return not is_part10(head) and not head.startswith(_MAGIC)


def _is_archive(path: Path) -> bool:
    name = path.name.lower()
    if name.endswith(".zip"):
        return zipfile.is_zipfile(path)
    is_tar = name.endswith((".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz"))
    return is_tar and tarfile.is_tarfile(path)


def _archived_files(path: Path) -> Iterator[Source]:
    try:
        yield from _zip_members(path) if path.name.lower().endswith(".zip") else _tar_members(path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as exc:
        raise ConfigurationError(f"{path}: the archive cannot be read: {exc}") from exc


def _zip_members(path: Path) -> Iterator[Source]:
    archive = zipfile.ZipFile(path)

    def read(member: zipfile.ZipInfo) -> bytes:
        with archive.open(member) as file:
            return file.read(MOST_BYTES + 1)

    for count, member in enumerate(archive.infolist()):
        if count >= _MOST_MEMBERS:
            raise zipfile.BadZipFile("too many members")
        if not member.is_dir() and not member.filename.startswith("__MACOSX/"):
            yield Source(f"{path}/{member.filename}", partial(read, member))


def _tar_members(path: Path) -> Iterator[Source]:
    with tarfile.open(path) as archive:
        names = []
        for count, member in enumerate(archive):
            if count >= _MOST_MEMBERS:
                raise tarfile.TarError("too many members")
            if member.isfile():
                names.append(member.name)
    reader = _Tape(path)
    for name in names:
        yield Source(f"{path}/{name}", partial(reader.read, name), is_in_order=True)


class _Tape:
    """Reads members of a tar one after the other, so that a compressed archive is unpacked once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive: tarfile.TarFile | None = None

    def read(self, name: str) -> bytes:
        """Return the member of that name; from the beginning where it is not ahead."""
        # Twice: from where the last member ended, then once more from the beginning.
        for _ in range(2):
            if self._archive is None:
                self._archive = tarfile.open(self._path)  # noqa: SIM115 - kept until the end
            while (member := self._archive.next()) is not None:
                if member.name == name and member.isfile():
                    file: IO[bytes] | None = self._archive.extractfile(member)
                    return file.read(MOST_BYTES + 1) if file else b""
            self._close_archive()
        raise OSError(f"{name}: not in the archive")

    def __del__(self) -> None:
        self._close_archive()

    def _close_archive(self) -> None:
        if self._archive is not None:
            self._archive.close()
            self._archive = None


def _listed_images(path: Path) -> Iterator[Source]:
    """Yield the images that a DICOMDIR names (PS3.3 F), each in its place below it."""
    from pydicom import dcmread

    with foreign_code(lambda _: ConfigurationError(f"{path}: the DICOMDIR cannot be read")):
        records = dcmread(path, force=True).get("DirectoryRecordSequence") or []
    root = path.parent.resolve()
    for record in records:
        if str(record.get("DirectoryRecordType", "")).strip() != "IMAGE":
            continue
        written = record.get("ReferencedFileID") or []
        parts = [written] if isinstance(written, str) else [str(part) for part in written]
        file = _found_below(path.parent, parts)
        if parts and root in file.resolve().parents:
            yield _plain_source(file)


def _found_below(folder: Path, parts: Sequence[str]) -> Path:
    """Return a referenced file: media are copied with names in lower case, and with ``.dcm``."""
    file = folder.joinpath(*parts)
    lower = folder.joinpath(*(part.lower() for part in parts))
    choices = (file, lower, file.with_name(f"{file.name}.dcm"))
    return next((choice for choice in choices if choice.is_file()), file)
