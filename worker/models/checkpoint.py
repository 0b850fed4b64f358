"""A folder of weights on disk: found, checked against its list of sha256 sums, and staged."""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from dicom_node.base.errors import ConfigurationError, ModelFault

BUILTIN = {"builtin:phantom": "worker.phantom"}
"""Path -> package whose folder ``model`` holds the files."""
DEMONSTRATION = "DEMONSTRATION"
"""A file of this name marks a folder whose answers mean nothing for patients."""
SUMS = "SHA256SUMS"
CANARY = "canary.json"
"""A known answer (`worker.models.canary`): it can refuse a model and not change what it says."""
HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
INDEX = (".safetensors.index.json", ".bin.index.json")
"""Endings of files that say in which file each tensor is."""
READ_FIRST = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where a loader looks for weights, in this order: it reads the first, and none of the others."""
LOADED = (*WEIGHTS, ".py", ".json", ".jinja", ".model", ".txt", ".yaml")
"""Endings of files that can change what a model says, or run code."""

INERT = (".md", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".pdf", ".sh", ".part")
"""Endings of files that no loader reads."""
NOT_LISTED = (SUMS, CANARY, DEMONSTRATION, "REVISIONS", "LICENSE", "NOTICE")
POINTER = b"version https://git-lfs.github.com/spec/"
LONGEST_POINTER = 1024
"""Bytes; its specification says so."""

Progress = Callable[[], None]
State = tuple[int, int, int, int, int]
"""Device, inode, size and both times of a file: a change leaves none of them as they were."""


class Unacceptable(ModelFault, ConfigurationError):
    """A model's files are not those that were promised: nothing is loaded (exit 78)."""

    exit_code = ConfigurationError.exit_code


@dataclass(frozen=True)
class Checkpoint:
    """A local folder of weights, code and tokenizer."""

    name: str
    folder: Path
    builtin: bool = False
    _states: dict[str, State] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_demonstration(self) -> bool:
        """Whether the folder says that its answers mean nothing for patients."""
        return self.builtin or (self.folder / DEMONSTRATION).is_file()

    def files(self) -> Iterator[Path]:
        """Yield each file that can change an answer, in the order of its name."""
        for path in self._walk_files():
            if path.suffix in LOADED and path.name != CANARY:
                yield path

    def others(self) -> Iterator[Path]:
        """Yield files of other endings that a loader may read all the same, such as vocab.bpe."""
        for path in self._walk_files():
            is_quiet = path.suffix.lower() in INERT or path.name in NOT_LISTED
            if path.suffix not in LOADED and not is_quiet:
                yield path

    def _walk_files(self) -> Iterator[Path]:
        for path in sorted(self.folder.rglob("*")):
            parts = path.relative_to(self.folder).parts
            if path.is_file() and not any(p.startswith((".", "__pycache__")) for p in parts):
                if not all(p.isprintable() for p in parts):  # half of a character, a line break
                    name = "/".join(parts)
                    raise self.fault(f"{name!a}: no list of sums can hold such a name")
                yield path

    @cached_property
    def sums(self) -> dict[str, str]:
        """File name -> sha256, read from disk once.

        Raises
        ------
        Unacceptable
            The disk does not give a file.
        """
        return {p.relative_to(self.folder).as_posix(): self._read_sum(p) for p in self.files()}

    def _read_sum(self, path: Path) -> str:
        name = path.relative_to(self.folder).as_posix()
        try:
            with path.open("rb") as file:
                # Of the open file and before the first byte is read: of the path it could be
                # another file's.
                self._states[name] = _file_state(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as exc:
            raise self.fault(f"{path.name}: {exc.strerror or exc}") from exc
        self.check_unchanged(name)
        return digest

    def check_unchanged(self, name: str) -> None:
        """Refuse a file whose sum was not taken, or that was written to since.

        Weights are too large for a copy: what was read between two looks that agree is what the
        sum is of. Its owner can set a file's time of modification, and not that of its change.

        Raises
        ------
        Unacceptable
            The file was changed, or another file has taken its place.
        """
        try:
            is_same = _file_state(self.folder / name) == self._states[name]
        except OSError as exc:
            raise self.fault(f"{name}: {exc.strerror or exc}") from exc
        if not is_same:
            raise self.fault(f"{name} was changed while it was read; nothing of it is used")

    @property
    def weights_sha256(self) -> str:
        """The sum of the one weight file, or of the list of all where there are several."""
        found = [(n, s) for n, s in self.sums.items() if n.endswith(WEIGHTS)]
        if len(found) == 1:
            return found[0][1]
        return hashlib.sha256(listing(dict(found)).encode()).hexdigest()

    @property
    def code_sha256(self) -> str:
        """One sum over code, configuration and tokenizer."""
        rest = {n: s for n, s in self.sums.items() if not n.endswith(WEIGHTS)}
        return hashlib.sha256(listing(rest).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all weight files."""
        return sum(p.stat().st_size for p in self.files() if p.suffix in WEIGHTS)

    def trust(self, manifest: str = "", manifest_sha256: str = "") -> str:
        """Return in words what the sums prove: a list beside the files is changed with them."""
        if self.builtin:
            return "of this software's own package"
        if manifest_sha256:
            return f"as in {manifest or SUMS}, which the configuration pins by manifest_sha256"
        if manifest and self._is_outside(manifest):
            return f"as in {manifest}, a list from outside their folder"
        if (self.folder / (manifest or SUMS)).is_file():
            return (
                f"as in {manifest or SUMS} of the same folder: damage is found, not who changes "
                "both; pin the list by manifest_sha256"
            )
        return "not compared with any list"

    def _is_outside(self, manifest: str) -> bool:
        try:
            path = Path(manifest).expanduser()
            return path.is_file() and not path.resolve().is_relative_to(self.folder.resolve())
        except (OSError, RuntimeError, ValueError):
            return False  # `verify` says what is wrong with it

    def verify(self, manifest: str = "", manifest_sha256: str = "") -> dict[str, str]:
        """Compare every file with the list of sums; return the list.

        Parameters
        ----------
        manifest : str
            A file in ``sha256sum`` form; empty: the folder's ``SHA256SUMS``.
        manifest_sha256 : str
            The list's own sum; empty: not checked.

        Raises
        ------
        Unacceptable
            A file is missing, altered or not on the list, or there is no list.
        """
        listed = self._read_list(manifest, manifest_sha256)
        for name, expected in sorted(listed.items()):
            found = self.sums.get(name) or _sum_of_other(self.folder / name)
            if found is None:
                raise self.fault(f"{name} is on the list of sums but not in the folder")
            if found != expected:
                raise self.fault(
                    f"{name} was altered: sha256 {found[:16]}…, promised {expected[:16]}…"
                )
        for name in self.sums:
            if name not in listed:
                raise self.fault(f"{name} is not on the list of sums")
        return listed

    def check_shards(self) -> None:
        """Refuse an index of weights that names anything but weights of the folder.

        A loader would read what it names, wherever that is: a device has no end, and a file
        elsewhere is on no list of sums. An index of pickled weights that lies beside safetensors is
        not read, and `worker.models.hub` leaves its shards out.

        Raises
        ------
        Unacceptable
            It does, or cannot be read.
        """
        for name in [name for name in self.sums if self._is_index(name)]:
            try:
                content = json.loads((self.folder / name).read_text(encoding="utf-8"))
                shards = set(content["weight_map"].values())
                beside = PurePosixPath(name).parent
                lost = sorted(
                    shard for shard in shards if (beside / shard).as_posix() not in self.sums
                )
            except (
                OSError,
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                RecursionError,
            ) as exc:
                raise self.fault(
                    f"{name} is not an index of weights ({type(exc).__name__})"
                ) from exc
            if lost:
                raise self.fault(f"{name} names {ascii(lost[0])[:80]}, which is not in the folder")

    def check_pointers(self) -> None:
        """Refuse weights that were never fetched: a clone without Git LFS leaves a note for each.

        Raises
        ------
        Unacceptable
            A file of weights is such a note.
        """
        for name in self.sums:
            path = self.folder / name
            if path.suffix in WEIGHTS and path.stat().st_size < LONGEST_POINTER:
                with path.open("rb") as file:
                    is_pointer = file.read(len(POINTER)) == POINTER
                if is_pointer:
                    raise self.fault(
                        f"{name} is a pointer of Git LFS and holds no weights; run `git lfs pull` "
                        f"there, or get the folder by `chexfract-worker model fetch`"
                    )

    def _is_index(self, name: str) -> bool:
        """Whether a loader would look for weights in this file."""
        path = PurePosixPath(name)
        if not name.endswith(INDEX) or path.name not in READ_FIRST:
            return name.endswith(INDEX)
        earlier = READ_FIRST[: READ_FIRST.index(path.name)]
        return not any(path.with_name(first).as_posix() in self.sums for first in earlier)

    def _read_list(self, manifest: str, manifest_sha256: str) -> dict[str, str]:
        try:
            path = Path(manifest).expanduser() if manifest else self.folder / SUMS
            if not path.is_file() and manifest:
                path = self.folder / manifest
            is_file = path.is_file()
        except (OSError, RuntimeError, ValueError) as exc:
            raise Unacceptable(f"models.{self.name}.manifest: not a path: {exc}"[:400]) from exc
        if not is_file:
            raise self.fault(
                f"no list of sums at {path}; check where the files come from, then "
                f"`chexfract-worker model accept` writes it"
            )
        if manifest_sha256 and sha256_of(path) != manifest_sha256:
            raise self.fault(f"{path.name} is not the one that manifest_sha256 pins")
        return read_listing(path)

    def fault(self, what: str) -> Unacceptable:
        """Return the error that says what is wrong with the files."""
        return Unacceptable(f"models.{self.name}.path: {self.folder}: {what}")


def find(name: str, path: str) -> Checkpoint:
    """Return the checkpoint at `path`, which must be a folder with a config.json.

    Parameters
    ----------
    name : str
        The model's table, for messages.
    path : str
        A local folder or ``builtin:phantom``.

    Raises
    ------
    ConfigurationError
        There is no such folder, or `path` names a model on a hub.
    """
    if path in BUILTIN:
        spec = importlib.util.find_spec(BUILTIN[path])
        if spec is None or spec.origin is None:
            raise ConfigurationError(f"models.{name}.path: {path} is not installed")
        return Checkpoint(name, Path(spec.origin).parent / "model", builtin=True)
    try:
        folder = Path(path).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as exc:
        raise ConfigurationError(f"models.{name}.path: not a path: {exc}") from exc
    if not is_folder:
        raise ConfigurationError(f"models.{name}.path: {_advise_path(path, folder)}")
    if not (folder / "config.json").is_file():
        raise ConfigurationError(f"models.{name}.path: {folder} holds no config.json")
    return Checkpoint(name, folder.resolve())


def _advise_path(path: str, folder: Path) -> str:
    if folder.is_file():
        return f"{path} is a file; the folder around it is wanted"
    if HUB_NAME.match(path):
        return (
            f"{path} is a hub's name, and nothing is loaded from a hub; get the folder with "
            f"`chexfract-worker model fetch {path} --to DIR` and name DIR here"
        )
    return f"{path} is not a folder"


def stage(checkpoint: Checkpoint, listed: Mapping[str, str] | None = None) -> Path:
    """Return a private folder of what is loaded: copies of the files, and links to the weights.

    Each copy is compared with the sum that was verified, so nobody changes a file between the look
    and the load. Links are to weights alone (`Checkpoint.check_unchanged` looks at them after the
    load); files that are on no list are left out.

    A fine-tuned checkpoint may say that its code is that of another model on a hub
    (``"auto_map": {"AutoModel": "org/name--file.Class"}``). Where the file is in the folder, the
    link is bent to it. No other checkpoint has the folder's own name, because
    transformers keeps copies of remote code by that name.

    Raises
    ------
    Unacceptable
        The code that the configuration names is not in the folder, or a file was changed.
    """
    root = Path(tempfile.mkdtemp(prefix="chexfract-model-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    safe = re.sub(r"\W", "_", checkpoint.name)
    sums = checkpoint.weights_sha256[:8] + checkpoint.code_sha256[:8]
    staged = root / f"{safe}_{sums}"
    staged.mkdir()
    for name, expected in {**checkpoint.sums, **(listed or {})}.items():
        path, target = checkpoint.folder / name, staged / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in WEIGHTS:
            target.symlink_to(path.resolve())
            continue
        content = _read_checked(checkpoint, path, expected)
        local = _with_local_code(checkpoint, path, content) if target.parent == staged else None
        target.write_bytes(content if local is None else json.dumps(local).encode())
    return staged


def _read_checked(checkpoint: Checkpoint, path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise checkpoint.fault(f"{path.name}: {exc.strerror or exc}") from exc
    if hashlib.sha256(content).hexdigest() != expected:
        raise checkpoint.fault(f"{path.name} was changed while it was read; nothing of it is used")
    return content


def _file_state(of: int | Path) -> State:
    found = os.fstat(of) if isinstance(of, int) else of.stat()
    # ctime cannot be set by the owner, unlike mtime.
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _with_local_code(checkpoint: Checkpoint, path: Path, read: bytes) -> dict[str, Any] | None:
    """Return the configuration with local code, or None where nothing is to be changed."""
    if not path.name.endswith("config.json"):
        return None
    try:
        content = json.loads(read)
    except (ValueError, RecursionError) as exc:
        raise Unacceptable(f"models.{checkpoint.name}.path: {path} is not JSON") from exc
    auto_map = content.get("auto_map") if isinstance(content, dict) else None
    if not isinstance(auto_map, dict) or "--" not in json.dumps(auto_map):
        return None
    # org/name--file.Class sends transformers to the hub for code; without the prefix it looks into
    # the folder.
    content["auto_map"] = {
        key: [_local_reference(checkpoint, v) for v in value]
        if isinstance(value, list)
        else _local_reference(checkpoint, value)
        for key, value in auto_map.items()
    }
    result: dict[str, Any] = content
    return result


def _local_reference(checkpoint: Checkpoint, reference: str | None) -> str | None:
    if reference is None or "--" not in reference:
        return reference
    repository, _, local = reference.partition("--")
    module = local.rpartition(".")[0]
    if not (checkpoint.folder / f"{module}.py").is_file():
        raise Unacceptable(
            f"models.{checkpoint.name}.path: its code is {module}.py of {repository}, which is "
            f"not in {checkpoint.folder}; put it there"
        )
    return local


def sha256_of(path: Path) -> str:
    """Return the file's sha256 as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum_of_other(path: Path) -> str | None:
    return sha256_of(path) if path.is_file() else None


def listing(sums: dict[str, str]) -> str:
    """Return the sums in the form that ``sha256sum --check`` reads."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def read_listing(path: Path) -> dict[str, str]:
    """Read a list in ``sha256sum`` form as file name -> sum.

    Raises
    ------
    Unacceptable
        A line is not a sum and a relative file name.
    """
    listed = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise Unacceptable(f"{path}: not a list of sums: {exc}") from exc
    for number, line in enumerate(lines, 1):
        # A list that leads out of the folder would let it speak for files elsewhere.
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if match is None or ".." in Path(match[2]).parts or Path(match[2]).is_absolute():
            raise Unacceptable(f"{path}: line {number} is not a sha256 sum and a file name")
        listed[Path(match[2]).as_posix()] = match[1]
    return listed
