"""The models of this field by name: where they are, under which terms, what they need."""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.base.errors import ConfigurationError, NotFound, OutOfResources
from dicom_node.base.plurals import counted
from worker.models import ENGINES, checkpoint, licences, open_model

if TYPE_CHECKING:
    from worker.models.hub import ShowProgress
    from worker.settings import Settings


CURRENT = ">=4.48.3,<6"
"""Releases of transformers that the worker's own environment may have."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """What is known of one model."""

    name: str
    engine: str
    licence: str
    repository: str = ""
    """Name on the hub; empty: not to be fetched."""
    transformers: str = CURRENT
    """Releases with which it works."""
    packages: tuple[str, ...] = ()
    """What its environment needs beside torch, transformers, numpy and pillow."""
    gated: bool = False
    size_gb: float = 0.0
    notes: tuple[str, ...] = ()


CATALOGUE = (
    ModelEntry(
        "phantom",
        "chexfract",
        "Apache-2.0; for demonstration only",
        notes=("path = builtin:phantom", "its answers mean nothing for patients"),
    ),
    ModelEntry(
        "chexfract-maira2",
        "chexfract",
        "Microsoft Research License Agreement (MSRLA) and MIT: research only, non-commercial",
        repository="AIRI-Institute/chexfract-maira2",
        packages=("torchvision",),
        size_gb=8.0,
        notes=("negative ids at image positions", "one prompt per processor call"),
    ),
    ModelEntry(
        "chexfract-chexagent",
        "chexfract",
        "CC-BY-NC-4.0 and MIT: non-commercial",
        repository="AIRI-Institute/chexfract-chexagent",
        packages=("torchvision",),
        size_gb=8.0,
        notes=("negative ids at image positions", "one prompt per processor call"),
    ),
    ModelEntry(
        "maira-2",
        "maira2",
        licences.USUAL["maira2"],
        repository="microsoft/maira-2",
        transformers=">=4.48,<4.52",
        packages=("torchvision", "sentencepiece", "protobuf"),
        gated=True,
        size_gb=13.8,
        notes=("whole report, not fractures only", "boxes with grounding = true"),
    ),
    ModelEntry(
        "chexagent-2-3b",
        "chexagent",
        licences.USUAL["chexagent"],
        repository="StanfordAIMI/CheXagent-2-3b",
        transformers="==4.40.0",
        packages=(
            "torchvision==0.22.1",
            "opencv-python-headless",
            "albumentations",
            "einops",
            "sentencepiece",
            "requests",
        ),
        size_gb=12.6,
        notes=("rib fractures with boxes in 0 to 100", "wants pictures as files"),
    ),
    ModelEntry(
        "chexalign-chexagent",
        "chexagent",
        licences.USUAL["chexagent"],
        transformers="==4.40.0",
        packages=(
            "torchvision==0.22.1",
            "opencv-python-headless",
            "albumentations",
            "einops",
            "sentencepiece",
            "requests",
        ),
        size_gb=12.6,
        notes=(
            "CheXagent-2-3b after preference tuning (CheXalign): the same code, by path",
            "no repository of its authors is known here: accept a folder of it",
        ),
    ),
    ModelEntry(
        "chex-phi35v",
        "chexfract",
        "Apache-2.0 by its card; trained on MIMIC-CXR, whose terms see",
        repository="HaiZhiYan/CheX-Phi35V",
        packages=("torchvision",),
        size_gb=8.3,
        notes=(
            "Phi-3.5-vision after preference tuning (CheXPO): the same code as Phi-3.5-vision",
            "answers questions and writes whole reports: set prompt",
        ),
    ),
    ModelEntry(
        "cxr-llava-v2",
        "cxr_llava",
        "CC-BY-NC-4.0 and the Llama 2 licence: non-commercial",
        repository="ECOFRI/CXR-LLAVA-v2",
        transformers="==4.36.2",
        packages=("sentencepiece", "protobuf"),
        size_gb=14.0,
        notes=("its code calls .cuda(): NVIDIA only", "whole report, not fractures only"),
    ),
    ModelEntry(
        "llm-cxr",
        "llm_cxr",
        licences.USUAL["llm_cxr"],
        packages=("taming-transformers", "omegaconf", "pytorch-lightning"),
        size_gb=6.0,
        notes=("its authors offer the files on their page only", "256 x 256 centre crop"),
    ),
    ModelEntry(
        "any",
        "chat_server",
        licences.USUAL["chat_server"],
        transformers="",
        notes=("url of an OpenAI-compatible server", "pixels leave this process"),
    ),
)


def entry(name: str) -> ModelEntry:
    """Return the model of that catalogue name or name on the hub.

    Raises
    ------
    NotFound
        There is none.
    """
    for known in CATALOGUE:
        if name in (known.name, known.repository):
            return known
    names = ", ".join(known.name for known in CATALOGUE if known.repository)
    raise NotFound(f"no model {name!r} in the catalogue; it holds {names}")


def list_models(settings: Settings, *, as_json: bool = False) -> int:
    """Print every engine, the catalogue and the configured models."""
    configured = [
        {"name": name, "engine": table.engine, "path": table.path}
        | {
            "licence_accepted_by": table.licence_accepted_by,
            "serving": name == settings.worker.model,
        }
        for name, table in settings.models.items()
    ]
    if as_json:
        content = {
            "engines": sorted(ENGINES),
            "catalogue": [asdict(known) for known in CATALOGUE],
            "configured": configured,
        }
        print(json.dumps(content, indent=2))
        return 0
    print("engines     ", ", ".join(sorted(ENGINES)))
    for known in CATALOGUE:
        where = known.repository or ("in the package" if known.name == "phantom" else "-")
        print(f"{known.name:20} engine {known.engine:12} {where}\n{'':20} {known.licence}")
    for table in configured:
        mark = "*" if table["serving"] else " "
        print(f"{mark} [models.{table['name']}] engine {table['engine']} {table['path']}")
    return 0


def verify(name: str, settings: Settings, *, manifest: str = "", as_json: bool = False) -> int:
    """Compare a configured model's files, or those in a folder, with their list of sums.

    Raises
    ------
    Unacceptable
        A file is missing, altered or not listed.
    NotFound
        There is no such table and no such folder.
    """
    files, configured, pin = _find_files(name, settings)
    manifest, pin = (manifest, "") if manifest else (configured, pin)
    has_list = bool(manifest) or (files.folder / checkpoint.SUMS).is_file()
    if has_list or not files.is_demonstration:
        files.verify(manifest, pin)
    content = {
        "name": name,
        "folder": str(files.folder),
        "verified": has_list,
        "against": files.trust(manifest, pin),
        "weights_sha256": files.weights_sha256,
        "files": files.sums,
    }
    if as_json:
        print(json.dumps(content, indent=2))
        return 0
    for file, digest in files.sums.items():
        print(f"{digest}  {file}")
    how = files.trust(manifest, pin) if has_list else "no list: a demonstration model needs none"
    print(f"{name}: {counted(len(files.sums), 'file')}, {how}", file=sys.stderr)
    return 0


def _find_files(name: str, settings: Settings) -> tuple[checkpoint.Checkpoint, str, str]:
    table = settings.models.get(name)
    if table is not None:
        options: dict[str, Any] = table.model_dump()
        if not table.path:
            raise ConfigurationError(f"models.{name}.path: this engine has no files")
        found = checkpoint.find(name, table.path)
        return found, str(options.get("manifest", "")), str(options.get("manifest_sha256", ""))
    if Path(name).is_dir():
        return checkpoint.find(name, name), "", ""
    raise NotFound(
        f"no table [models.{name}] in the configuration, and no folder of that name; "
        "--config names another file"
    )


def accept(name: str, by: str, settings: Settings | None = None, *, as_json: bool = False) -> int:
    """Show a model's terms and, when someone is named, the table that says so.

    A folder that came here by other ways than ``fetch`` gets its list of sums: from then on an
    altered file is refused. Where a table of the configuration names the folder, the model is
    loaded and its answer to a trial picture kept: from then on a model that answers otherwise is
    refused too.
    """
    folder = checkpoint.find(name, name).folder if Path(name).is_dir() else None
    known = None if folder else entry(name)
    content: dict[str, Any] = {"name": name, "accepted_by": by}
    if known is not None:
        content |= {"licence": known.licence, "table": _write_table(known, known.name, by)}
    elif folder is not None and by.strip():
        from worker.models.hub import write_sums

        with _disk_refusals(name):
            content |= {"manifest": checkpoint.SUMS, "manifest_sha256": write_sums(folder, name)}
        content |= {"trial": _keep_trial(folder, by, settings)}
    if as_json:
        print(json.dumps(content, indent=2))
        return 0
    if known is not None:
        print(f"# {known.name} is under: {known.licence}")
    if not by.strip():
        print("# Read the terms; then name who accepts them: --by NAME")
    elif known is not None:
        print(f"# For worker.toml:\n{content['table']}")
    else:
        print(f"{folder}/{checkpoint.SUMS} written; manifest_sha256 = {content['manifest_sha256']}")
        if content["trial"] is None:
            print("no trial answer: no table [models.NAME] of --config names this folder")
        else:
            print(f"{folder}/{checkpoint.CANARY} written; its trial answer: {content['trial']!r}")
    return 0


def _keep_trial(folder: Path, by: str, settings: Settings | None) -> str | None:
    """Keep what the model of `folder` says to the trial picture; None: no table names it."""
    for name, table in (settings.models if settings is not None else {}).items():
        if not table.path or Path(table.path).expanduser().resolve() != folder:
            continue
        (folder / checkpoint.CANARY).unlink(missing_ok=True)
        model = open_model(name, table.model_dump() | {"licence_accepted_by": by}, "auto")
        try:
            model.load()
            canary = getattr(model, "trial", lambda: None)()
        finally:
            model.close()
        if canary is None:
            return None
        with _disk_refusals(str(folder)):
            canary.write(folder)
        return str(canary.text)
    return None


def _write_table(known: ModelEntry, name: str, by: str, path: str = "", revision: str = "") -> str:
    lines = [f"[models.{name}]", f"engine = {json.dumps(known.engine)}"]
    if known.engine == "chat_server":
        lines.append('url = "http://127.0.0.1:8000/v1"')
    else:
        where = "builtin:phantom" if known.name == "phantom" else path or f"/models/{name}"
        lines.append(f"path = {json.dumps(where)}")
    if known.transformers not in ("", CURRENT):
        needs = ", ".join([f"transformers{known.transformers}", *known.packages])
        lines.append(f'python = "/venvs/{name}/bin/python"  # with torch, numpy, pillow, {needs}')
    if revision:
        lines.append(f"revision = {json.dumps(revision)}")
    lines.append(f"licence_accepted_by = {json.dumps(by)}")
    return "\n".join(lines)


def fetch(
    name: str,
    to: Path,
    *,
    endpoint: str = "",
    revision: str = "",
    pins: Sequence[str] = (),
    manifest: str = "",
    as_json: bool = False,
) -> int:
    """Download a model of the catalogue, or any ``org/name``, into the folder `to`.

    Parameters
    ----------
    pins : sequence of str
        ``ORG/NAME=COMMIT`` of repositories whose code or encoders the model names.
    manifest : str
        A list of sums from elsewhere, which the files must match.

    Raises
    ------
    NotFound
        The catalogue does not know it, or its authors offer it elsewhere only.
    ConfigurationError
        The address is none, or `to` cannot be written.
    """
    from worker.models.hub import Hub, fetch_model

    known, repository = _find_repository(name)
    hub = Hub(endpoint)
    try:
        with _progress_bar() as show, _disk_refusals("--to"):
            commits = fetch_model(hub, repository, revision, to, show, _read_pins(pins), manifest)
    finally:
        hub.close()
    commit = commits[repository]
    table = _write_table(known, known.name, "", str(to.resolve()), commit)
    if as_json:
        content = {
            "repository": repository,
            "revision": commit,
            "revisions": commits,
            "folder": str(to.resolve()),
            "manifest_sha256": checkpoint.sha256_of(to / checkpoint.SUMS),
            "licence": known.licence,
            "table": table,
        }
        print(json.dumps(content, indent=2))
        return 0
    print(f"# {repository} at {commit} is in {to}, its sums in {checkpoint.SUMS}")
    for other, its in sorted(commits.items()):
        if other != repository:
            print(f"# with {other} at {its}")
    print(f"# terms: {known.licence}")
    print(table)
    return 0


def _read_pins(texts: Sequence[str]) -> dict[str, str]:
    pins = {}
    for text in texts:
        name, _, commit = text.partition("=")
        if not checkpoint.HUB_NAME.match(name) or not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise ConfigurationError(f"--pin {text[:120]}: write ORG/NAME=COMMIT, 40 digits of it")
        pins[name] = commit
    return pins


@contextmanager
def _disk_refusals(what: str) -> Iterator[None]:
    """Turn what a disk refuses into one line."""
    try:
        yield
    except OSError as exc:
        kind = OutOfResources if exc.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigurationError
        raise kind(f"{what}: {exc.filename or 'the disk'}: {exc.strerror}") from exc


def _find_repository(name: str) -> tuple[ModelEntry, str]:
    if checkpoint.HUB_NAME.match(name):
        for known in CATALOGUE:
            if known.repository == name:
                return known, name
        terms = "see its page on the hub"
        return ModelEntry(name.rpartition("/")[2], "chexfract", terms, repository=name), name
    known = entry(name)
    if not known.repository:
        raise NotFound(f"{known.name} is on no hub: {'; '.join(known.notes)}")
    return known, known.repository


@contextmanager
def _progress_bar() -> Iterator[ShowProgress]:
    """Show each file's progress on a terminal, one line per file elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def show(name: str, had: int, wanted: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=wanted)
            progress.update(tasks[name], completed=had)
            if had == wanted and not console.is_terminal:
                print(f"{name} {counted(wanted, 'byte')}", file=sys.stderr)

        yield show
