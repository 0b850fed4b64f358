"""Download a model's files from a hub or a mirror of it: resumed, pinned to a commit, verified."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx2 as httpx

from dicom_node.base.addresses import is_loopback
from dicom_node.base.errors import (
    ConfigurationError,
    ModelFault,
    NotFound,
    NotUnderstood,
    OutOfResources,
    Refused,
    Unreachable,
)
from worker.models import checkpoint, satellites

logger = logging.getLogger(__name__)

ENDPOINT = "https://huggingface.co"
COMMIT = re.compile(r"[0-9a-f]{40}")
ATTEMPTS = 5
REDIRECTS = 5
NOT_WANTED = (".msgpack", ".h5", ".onnx", ".gguf", ".tflite", ".ot", ".png", ".jpg", ".gif")
SECOND_CHOICE = (".bin", ".pt", ".pth")
"""Pickled weights, not fetched where safetensors are offered."""

ShowProgress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes had and the bytes wanted."""


@dataclass(frozen=True, slots=True)
class Remote:
    """One file of a repository at a commit."""

    repository: str
    commit: str
    name: str
    size: int
    sha256: str = ""
    git_sha1: str = ""
    """The sum of small files: that of a git blob."""


class Hub:
    """A hub's file interface.

    Parameters
    ----------
    endpoint : str
        The mirror's address; empty: the environment's ``HF_ENDPOINT``, else the usual hub.
    token : str
        For gated models; empty: the environment's ``HF_TOKEN``.
    pause_s : float
        Seconds before the second attempt; doubled before each further attempt.

    Raises
    ------
    ConfigurationError
        The address, the token or the environment's proxy is not valid.
    """

    def __init__(self, endpoint: str = "", token: str = "", pause_s: float = 1.0) -> None:
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT", "") or ENDPOINT).rstrip("/")
        self._token = token or os.environ.get("HF_TOKEN", "")
        self._pause_s = pause_s
        _want_address(self.endpoint)
        self._is_local = is_loopback(urlsplit(self.endpoint).hostname or "")
        if not self._token.isascii() or not self._token.isprintable():
            raise ConfigurationError("HF_TOKEN: a token is one line of ASCII characters")
        try:
            self._client = httpx.Client(timeout=httpx.Timeout(30.0), follow_redirects=False)
        except (ValueError, ImportError) as exc:
            raise ConfigurationError(f"the environment's proxy: {exc}") from exc

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def files(self, repository: str, revision: str = "main") -> list[Remote]:
        """Return the repository's files, pinned to the commit that `revision` means now.

        Raises
        ------
        Unreachable, Refused, NotFound, NotUnderstood
            The hub is away, wants a token, knows no such model, or answers something else.
        """
        url = f"{self.endpoint}/api/models/{repository}/revision/{quote(revision)}?blobs=true"
        with self._get_answer(url, {}, repository) as answer:
            answer.read()
        try:
            content = answer.json()
            return [
                _remote_file(repository, content["sha"], entry) for entry in content["siblings"]
            ]
        except (ValueError, KeyError, TypeError) as exc:
            raise NotUnderstood(f"{self.endpoint} does not answer as a hub does") from exc

    def fetch(self, remote: Remote, folder: Path, show: ShowProgress) -> None:
        """Bring one file into `folder`, going on where an earlier attempt ended.

        Raises
        ------
        Unreachable
            The connection failed `ATTEMPTS` times in a row.
        ModelFault
            The file arrived whole, but with another sum than the hub promised.
        """
        target = folder / remote.name
        if target.is_file() and _is_right(target, remote):
            show(remote.name, remote.size, remote.size)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        if part.exists() and part.stat().st_size > remote.size:
            part.unlink()  # of another revision
        self._complete_part(remote, part, show)
        if not _is_right(part, remote):
            part.unlink()
            raise ModelFault(f"{remote.name} arrived altered: its sum is not the hub's; try again")
        part.replace(target)

    def _complete_part(self, remote: Remote, part: Path, show: ShowProgress) -> None:
        failures = 0
        while True:
            had = part.stat().st_size if part.exists() else 0
            if part.exists() and had >= remote.size:
                return
            try:
                self._append_rest(remote, part, had, show)
            except Unreachable:
                moved = part.exists() and part.stat().st_size > had
                # An attempt that brought bytes resets the count: a slow line breaks often and still
                # arrives.
                failures = 1 if moved else failures + 1
                if failures >= ATTEMPTS:
                    raise
                time.sleep(self._pause_s * 2 ** (failures - 1))

    def _append_rest(self, remote: Remote, part: Path, had: int, show: ShowProgress) -> None:
        name = quote(remote.name)
        url = f"{self.endpoint}/{remote.repository}/resolve/{remote.commit}/{name}"
        asked = {"Range": f"bytes={had}-"} if had else {}
        with self._get_answer(url, asked, remote.repository) as answer:
            # A server may ignore Range and send the whole file with 200.
            is_rest = answer.status_code == 206
            with part.open("ab" if is_rest else "wb") as file:
                size = had if is_rest else 0
                # as they come: bytes gathered to larger pieces are lost when the line breaks
                for chunk in answer.iter_raw():
                    file.write(chunk)
                    size += len(chunk)
                    show(remote.name, size, remote.size)
                    if size > remote.size:
                        return  # its sum will say so
        if size < remote.size:
            raise Unreachable(f"{self.endpoint}: the connection ended within {remote.name}")

    @contextmanager
    def _get_answer(self, url: str, headers: dict[str, str], what: str) -> Iterator[Any]:
        """Yield an answer of 2xx; follow redirects without giving the token to another host."""
        asked = {"Accept-Encoding": "identity", "User-Agent": "chexfract-worker", **headers}
        try:
            for _ in range(REDIRECTS):
                is_own = self._token and self._is_own(url)
                # Large files are served from another host by redirect: the token stays with the
                # hub.
                bearer = {"Authorization": f"Bearer {self._token}"} if is_own else {}
                with self._client.stream("GET", url, headers=asked | bearer) as answer:
                    if answer.status_code not in (301, 302, 303, 307, 308):
                        self._check_answer(answer, what)
                        yield answer
                        return
                    url = urljoin(url, answer.headers.get("location", ""))
                    self._want_encrypted(url)
        except (httpx.RequestError, httpx.StreamError) as exc:
            raise Unreachable(
                f"{self.endpoint} gives no answer: {str(exc) or type(exc).__name__}; "
                "HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy; a folder that was fetched "
                "elsewhere may be copied here"
            ) from exc
        except (httpx.InvalidURL, ValueError) as exc:
            raise NotUnderstood(f"{self.endpoint} sends {what} nowhere: {exc}") from exc
        raise NotUnderstood(f"{self.endpoint} sends {what} in circles")

    def _want_encrypted(self, url: str) -> None:
        """Refuse an address at which anyone on the way could change code.

        Raises
        ------
        Refused
            It is not HTTPS, and not on this machine.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" and not (
            self._is_local and parts.scheme == "http" and is_loopback(parts.hostname or "")
        ):
            raise Refused(f"{self.endpoint} leads to {parts.scheme}://{parts.hostname}: not HTTPS")

    def _is_own(self, url: str) -> bool:
        """Whether an address is at this hub, as safely spoken to: others get no token."""
        return urlsplit(url)[:2] == urlsplit(self.endpoint)[:2]

    def _check_answer(self, answer: Any, what: str) -> None:
        status = answer.status_code
        if status in (401, 403):
            raise Refused(
                f"{self.endpoint} refuses {what} ({status}): accept its terms on the hub's "
                f"page and set HF_TOKEN, or mind the name's spelling"
            )
        if status in (404, 410):
            raise NotFound(f"{self.endpoint} knows no {what} or no such revision of it")
        if status == 429 or status >= 500:
            raise Unreachable(f"{self.endpoint} answers {status}")
        if status not in (200, 206):
            raise Refused(f"{self.endpoint} answers {status} for {what}")


def _remote_file(repository: str, commit: str, entry: dict[str, Any]) -> Remote:
    name = str(entry["rfilename"])
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise NotUnderstood(f"{repository} offers a file that leaves its folder")
    large = entry.get("lfs") or {}
    return Remote(
        repository=repository,
        commit=str(commit),
        name=name,
        size=int(large["size"] if large else entry["size"]),
        sha256=str(large.get("sha256", "")),
        git_sha1="" if large else str(entry.get("blobId", "")),
    )


def _want_address(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigurationError(f"endpoint (or HF_ENDPOINT): {endpoint} is not an http(s) address")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ConfigurationError(
            f"endpoint (or HF_ENDPOINT): {endpoint} is not HTTPS: whoever is on the way could "
            "change the code that runs here; write https://, or reach it by a loopback address"
        )


def _is_right(path: Path, remote: Remote) -> bool:
    if path.stat().st_size != remote.size:
        return False
    if remote.sha256:
        return checkpoint.sha256_of(path) == remote.sha256
    # git hashes "blob SIZE\0" before the content, not the content alone.
    if remote.git_sha1:
        content = path.read_bytes()
        blob = b"blob %d\0" % len(content) + content
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == remote.git_sha1
    return True


def wanted(files: list[Remote]) -> list[Remote]:
    """Return the files that a model needs: no pictures, no other frameworks' weights."""
    has_safetensors = any(f.name.endswith(".safetensors") for f in files)
    unwanted = NOT_WANTED + (SECOND_CHOICE if has_safetensors else ())
    return [
        f
        for f in files
        if not f.name.endswith(unwanted) and f.name.rpartition("/")[2][:1] not in ("", ".")
    ]


REVISIONS = "REVISIONS"
"""File in a model's folder: the commit of each repository that anything in it came from."""


class Pins:
    """The commit of each repository: as it was asked for, as the folder says, or as it is now.

    Parameters
    ----------
    hub : Hub
    folder : Path
        Its ``REVISIONS`` of an earlier fetch go on to hold.
    wanted : mapping
        Repository -> revision, where somebody named a revision.
    """

    def __init__(self, hub: Hub, folder: Path, wanted: Mapping[str, str]) -> None:
        self._hub = hub
        self._folder = folder
        self._wanted = _read_revisions(folder) | {k: v for k, v in wanted.items() if v}
        self.commits: dict[str, str] = {}

    def files(self, repository: str) -> list[Remote]:
        """Return the repository's files at its commit, which is kept from now on."""
        revision = self._wanted.get(repository, "main")
        files = self._hub.files(repository, revision)
        for remote in files:
            if not COMMIT.fullmatch(remote.commit):
                raise NotUnderstood(f"{self._hub.endpoint} names no commit of {repository}")
            if COMMIT.fullmatch(revision) and remote.commit != revision:
                raise ModelFault(f"{repository}: {revision} is wanted, and the hub gives another")
        if files:
            self.commits[repository] = files[0].commit
        return files

    def keep(self) -> None:
        """Write down the commits, for the next fetch and for the record."""
        lines = (f"{commit}  {name}\n" for name, commit in sorted(self.commits.items()))
        (self._folder / REVISIONS).write_text("".join(lines), encoding="utf-8")


def _read_revisions(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / REVISIONS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.split(maxsplit=1) for line in lines)
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2 and COMMIT.fullmatch(pair[0])}


def fetch_model(
    hub: Hub,
    repository: str,
    revision: str,
    folder: Path,
    show: ShowProgress,
    pins: Mapping[str, str] | None = None,
    manifest: str = "",
) -> dict[str, str]:
    """Bring a model into `folder`, with its list of sums; return the commit of each repository.

    A second call goes on where the first ended and checks what is there.

    Parameters
    ----------
    pins : mapping, optional
        Repository -> commit, for those whose code or encoders the model names.
    manifest : str
        A list of sums from elsewhere, which the files must match.

    Raises
    ------
    OutOfResources
        The disk has too little room.
    Unacceptable
        The folder holds code or weights that the hub does not have.
    """
    pinned = Pins(hub, folder, {**(pins or {}), repository: revision})
    files = wanted(pinned.files(repository))
    if not files:
        raise NotFound(f"{repository} has no files")
    _want_room(files, folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = {remote.name for remote in files}
    for remote in files:
        hub.fetch(remote, folder, show)
    for elsewhere in sorted(_code_elsewhere(folder)):
        for remote in pinned.files(elsewhere):
            if remote.name.endswith(".py") and remote.name not in names:
                hub.fetch(remote, folder, show)
                names.add(remote.name)
    names |= _fetch_satellites(hub, folder, show, pinned)
    name = f"{repository}@{files[0].commit}"
    if manifest:
        checkpoint.Checkpoint(name, folder.resolve()).verify(manifest)
    write_sums(folder, name, names)
    pinned.keep()
    return pinned.commits


def _fetch_satellites(hub: Hub, folder: Path, show: ShowProgress, pinned: Pins) -> set[str]:
    """Bring the encoders that the model's code loads by name; return their files' names."""
    found = set()
    for name, place in sorted(satellites.hub_names(folder).items()):
        try:
            files = wanted(pinned.files(name))
        except (NotFound, Refused) as exc:
            # perhaps a name for the record only: if not, loading says what is missing
            logger.warning("%s names %s, which was not fetched: %s", place, name, exc)
            continue
        there = satellites.satellite_folder(folder, name)
        _want_room(files, there)
        for remote in files:
            hub.fetch(remote, there, show)
            found.add((there / remote.name).relative_to(folder).as_posix())
    return found


def write_sums(folder: Path, name: str, names: set[str] | None = None) -> str:
    """Write the folder's list of sums and return the list's own sum.

    Raises
    ------
    Unacceptable
        The folder holds other files than `names` that count.
    """
    files = checkpoint.Checkpoint(name, folder)
    more = {p.relative_to(folder).as_posix(): checkpoint.sha256_of(p) for p in files.others()}
    found = files.sums | more
    listed = {n: s for n, s in found.items() if names is None or n in names}
    path = folder / checkpoint.SUMS
    path.write_text(checkpoint.listing(listed), encoding="utf-8")
    files.verify()
    return checkpoint.sha256_of(path)


def _want_room(files: list[Remote], folder: Path) -> None:
    place = folder
    while not place.exists():
        place = place.parent
    missing = sum(f.size for f in files if not (folder / f.name).exists())
    free = shutil.disk_usage(place).free
    if missing > free:
        raise OutOfResources(
            f"{place}: {missing / 1e9:.1f} GB wanted, {free / 1e9:.1f} GB are free"
        )


def _code_elsewhere(folder: Path) -> set[str]:
    """Return the repositories whose code the configuration names (``org/name--file.Class``)."""
    found = set()
    for path in folder.glob("*config.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            continue  # whoever loads it says what is wrong with it
        auto_map = content.get("auto_map") if isinstance(content, dict) else None
        for value in auto_map.values() if isinstance(auto_map, dict) else ():
            for reference in value if isinstance(value, list) else [value]:
                if isinstance(reference, str) and "--" in reference:
                    found.add(reference.partition("--")[0])
    return found
