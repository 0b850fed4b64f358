"""Looks at what a worker needs: packages, decoders, accelerator, weights, licence, broker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any

from dicom_node.base.checks import Check, failed, passed, show, warned
from dicom_node.base.errors import ChexFractError, ConfigurationError, Unreachable
from dicom_node.base.plurals import counted
from worker.settings import Settings, Worker, load

PACKAGES = ("torch", "transformers", "safetensors", "tokenizers", "highdicom", "numpy", "pillow")
DECODING = ("imagecodecs",)
HASHED_AT_ONCE = 1_000_000_000
"""Bytes of weights that are read for their sums without being asked to."""

TOLERANCE = 16
"""Largest difference of a 12-bit grey value after lossy compression."""


def doctor(
    config: Path | None, *, full: bool = False, beside_node: bool = False, as_json: bool = False
) -> int:
    """Print every check of this worker and return the exit code.

    Parameters
    ----------
    config : Path, optional
        worker.toml; the defaults when left out.
    full : bool
        Read all weights for their sums, load the model and let it describe a picture.
    beside_node : bool
        Leave out broker and secret, which ``chexfract-node serve`` passes.
    """
    facts: dict[str, Any] = {}
    try:
        settings = load(config)
    except ConfigurationError as exc:
        fault = failed("config", str(exc), "correct worker.toml", exc.exit_code)
        return show([*_check_machine(), fault], as_json=as_json, **facts)
    from dicom_node.flow.broker import redacted

    worker = settings.worker
    facts = {"model": worker.model, "broker": redacted(worker.broker), "nodes": _node_urls(worker)}
    checks = [*_check_machine(), passed("config", f"{config or 'defaults'}: model {worker.model}")]
    checks += [*_check_model(settings, full=full), *_check_device(settings)]
    if not beside_node:
        checks += [*_check_broker(settings), *_check_secret(settings), *_check_nodes(settings)]
    if full:
        checks += _check_description(settings)
    return show(checks, as_json=as_json, **facts)


def _check_machine() -> list[Check]:
    """Look at what no configuration changes."""
    try:
        return [*_check_packages(), *_check_decoders()]
    except ImportError as exc:
        advice = f"{sys.executable} -m pip install 'chexfract-node[worker]'"
        return [*_check_packages(), failed("decoders", f"{exc.name} cannot be imported", advice)]
    except ChexFractError as exc:
        advice = "is there memory for one more process?"
        return [*_check_packages(), failed("decoders", str(exc), advice, exc.exit_code)]


def _check_packages() -> Iterator[Check]:
    found, absent = {}, []
    for name in (*PACKAGES, *DECODING):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            absent.append(name)
    if absent:
        advice = f"{sys.executable} -m pip install 'chexfract-node[worker]'"
        yield failed("packages", f"not installed: {', '.join(absent)}", advice)
        return
    python = ".".join(map(str, sys.version_info[:3]))
    versions = ", ".join(
        f"{name} {found[name]}" for name in ("torch", "transformers", "imagecodecs")
    )
    yield passed("packages", f"Python {python}, {versions}")


def _check_decoders() -> Iterator[Check]:
    """Decode a drawing in every transfer syntax and compare it with what was drawn."""
    import numpy as np
    from pydicom.uid import UID

    from worker.image.decode import Decoder
    from worker.image.encode import EIGHT_BITS, encode_as, known_syntaxes
    from worker.phantom.draw import instance

    ds = instance(0, 1, ())
    drawn = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns).astype(int)
    read, faults = [], []
    with Decoder() as decoder:
        for syntax in known_syntaxes():
            name = UID(syntax).name.split(",")[0].split(" (")[0]
            try:
                pixels = decoder.decode(encode_as(ds, syntax)).astype(int)
            except ChexFractError as exc:
                faults.append(f"{name}: {exc}")
                continue
            is_right = syntax == EIGHT_BITS or bool(abs(pixels - drawn).max() <= TOLERANCE)
            if is_right:
                read.append(syntax)
            else:
                faults.append(f"{name}: other pixels than were encoded")
    if faults:
        advice = "install the worker's packages again: pip install --force-reinstall imagecodecs"
        yield failed("decoders", "; ".join(faults), advice)
    else:
        syntaxes = counted(len(read), "transfer syntax", "transfer syntaxes")
        yield passed("decoders", f"{syntaxes} encoded, decoded and compared")
    if not shutil.which("dcmdjpeg"):
        yield warned(
            "decoders",
            "no dcmdjpeg: JPEG with a wrong number of bits in its header is not decoded",
            "install dcmtk",
        )


def _check_model(settings: Settings, *, full: bool) -> Iterator[Check]:
    from worker.models.options import KINDS, check_table

    name = settings.worker.model
    table = settings.models[name].model_dump()
    kind = KINDS.get(table["engine"])
    if kind is None:
        known = ", ".join(sorted(KINDS))
        what = f"models.{name}.engine: {table['engine']!r} is unknown"
        yield failed("model", what, f"one of: {known}", ConfigurationError.exit_code)
        return
    try:
        options = check_table(kind, name, table)
    except ConfigurationError as exc:
        yield failed("model", str(exc), "correct worker.toml", exc.exit_code)
        return
    if not getattr(options, "path", ""):
        yield from _check_server(name, str(getattr(options, "url", "")))
        is_demonstration = options.demonstration
    else:
        yield from _check_files(name, options, full=full)
        is_demonstration = _is_demonstration(name, options)
    yield _check_licence(name, options, is_demonstration)
    yield _check_offline()
    yield from _check_batches(name, settings.worker.batch)


def _check_batches(name: str, wanted: int) -> Iterator[Check]:
    """Tell what fitted into memory when this worker last ran: fewer at a time is slower."""
    from worker.models.fitting import recall_fits, store_path

    for key, fit in sorted(recall_fits(store_path()).items()):
        version, _, device = key.partition("|")
        if not version.startswith(f"{name}-"):
            continue
        what = f"{version} on {device}: batches of {fit.most} fit into memory"
        if fit.most >= wanted:
            yield passed("batches", what)
        else:
            yield warned(
                "batches",
                f"{what}, {wanted} are wanted",
                f"free the GPU, set quantization, or set worker.batch = {fit.most}",
            )


def _check_server(name: str, url: str) -> Iterator[Check]:
    """Knock at a chat server."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), 3).close()
    except OSError as exc:
        what = f"{parts.hostname}:{port}: {exc.strerror or exc}"
        advice = f"start the server of models.{name}.url, or correct it"
        yield failed("model", what, advice, Unreachable.exit_code)
        return
    yield passed("model", f"{name}: {parts.hostname}:{port} takes connections")


def _check_files(name: str, options: Any, *, full: bool) -> Iterator[Check]:
    from worker.models import checkpoint

    try:
        files = checkpoint.find(name, options.path)
        named = (options.manifest, options.manifest_sha256)
        has_list = bool(options.manifest) or (files.folder / checkpoint.SUMS).is_file()
        is_checked = full or files.size <= HASHED_AT_ONCE
        if is_checked and (has_list or not files.is_demonstration):
            files.verify(*named)
    except ConfigurationError as exc:
        advice = f"get the files again: chexfract-worker model fetch {name} --to DIR"
        yield failed("model", str(exc), advice, exc.exit_code)
        return
    size = f"{files.size / 1e9:.1f} GB" if files.size > 1e8 else f"{files.size / 1e6:.1f} MB"
    if not is_checked:
        advice = f"chexfract-worker model verify {name}, or doctor --full"
        yield warned("model", f"{name}: {size} of weights, not read for their sums", advice)
        return
    yield passed("model", f"{name}: {size} of weights, {files.trust(*named)}")
    if options.python and not _is_program(options.python):
        what = f"models.{name}.python: {options.python} is not an interpreter"
        yield failed("model", what, "make its environment", ConfigurationError.exit_code)


def _is_program(path: str) -> bool:
    try:
        return os.access(Path(path).expanduser(), os.X_OK)
    except (RuntimeError, ValueError):
        return False


def _is_demonstration(name: str, options: Any) -> bool:
    from worker.models import checkpoint

    try:
        return checkpoint.find(name, options.path).is_demonstration
    except ConfigurationError:
        return False


def _check_licence(name: str, options: Any, is_demonstration: bool) -> Check:
    from worker.models import licences

    if is_demonstration:
        return warned(
            "licence",
            f"{name} is a demonstration: its text means nothing about a patient",
            "for patients: chexfract-worker model list, fetch, accept",
        )
    try:
        licences.gate(name, options, is_demonstration)
    except ConfigurationError as exc:
        advice = f"chexfract-worker model accept {name} --by NAME"
        return failed("licence", str(exc), advice, exc.exit_code)
    return passed("licence", f"{licences.of(options)}; accepted by {options.licence_accepted_by}")


def _check_offline() -> Check:
    """Say whether weights could come from a hub; the program itself sets these for its engines."""
    tried = os.environ.get("HF_HUB_OFFLINE", "1")
    if tried.strip().upper() in ("", "0", "FALSE", "NO", "OFF"):
        return warned(
            "offline",
            f"HF_HUB_OFFLINE={tried} stands in the environment; run sets it to 1 all the same",
            "take it out",
        )
    return passed("offline", "weights come from local folders; the hub is shut")


def _check_device(settings: Settings) -> Iterator[Check]:
    wanted = settings.worker.device
    cards, fault = _list_cards()
    has_cuda = bool(_cuda_of_torch())
    if wanted.startswith("cuda") and not (cards and has_cuda):
        why = "torch is a CPU build" if cards else fault
        advice = 'install torch with CUDA and a driver, or set worker.device = "cpu"'
        yield failed("device", f"{wanted}: {why}", advice, ConfigurationError.exit_code)
    elif cards and wanted in ("auto", "cuda") and has_cuda:
        yield passed("device", "; ".join(cards))
    elif cards and wanted == "auto":
        advice = "install torch with CUDA"
        yield warned("device", f"{cards[0]} lies idle: torch is a CPU build", advice)
    elif wanted.startswith("cuda"):
        yield passed("device", f"{wanted} of: {'; '.join(cards)}")
    else:
        processors = counted(os.cpu_count() or 1, "processor")
        yield passed("device", f"{wanted}: no accelerator ({processors})")


def _list_cards() -> tuple[list[str], str]:
    """Return a line per NVIDIA card, or why there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], "no NVIDIA driver (nvidia-smi) on this machine"
    query = "--query-gpu=name,driver_version,memory.total,memory.free"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except subprocess.TimeoutExpired:
        return [], "nvidia-smi gives no answer"
    except (OSError, subprocess.CalledProcessError) as exc:
        lines = str(getattr(exc, "stdout", "") or exc).strip().splitlines()
        return [], lines[-1] if lines else "nvidia-smi failed"
    cards = []
    for line in done.stdout.splitlines():
        name, driver, total, free = (part.strip() for part in line.split(","))
        cards.append(f"{name}, driver {driver}, {free} of {total} MiB free")
    return cards, "no card"


def _cuda_of_torch() -> str:
    """Return the CUDA release that torch was built for, without the seconds of importing it."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    facts: dict[str, Any] = {}
    version = Path(spec.origin).with_name("version.py")
    for line in version.read_text(encoding="utf-8").splitlines():
        if line.startswith("cuda"):
            facts["cuda"] = line.partition("=")[2].strip().strip("'\"")
    return "" if facts.get("cuda", "None") == "None" else str(facts["cuda"])


def _check_broker(settings: Settings) -> Iterator[Check]:
    from dicom_node.flow import broker

    try:
        broker.ping(settings.worker.broker, files=settings.worker.broker_files)
    except Unreachable as exc:
        yield failed("broker", str(exc), broker.worker_advice(exc), exc.exit_code)
        return
    yield passed("broker", f"{broker.redacted(settings.worker.broker)} answers")


def _node_urls(worker: Worker) -> list[str]:
    """Return the URLs of the known nodes."""
    entries = (*worker.nodes, *worker.announce)
    return [entry if isinstance(entry, str) else entry.url for entry in entries]


def _check_nodes(settings: Settings) -> Iterator[Check]:
    """Look whether this worker knows a node, and whether a secret would cross a network openly."""
    from dicom_node.base.addresses import is_loopback_url
    from worker.service.nodes import check_nodes, shown_url

    advice = "worker.nodes: the web.url of each node; serve --with-worker passes its own"
    try:
        entries = check_nodes(settings.worker, "from elsewhere")
    except ConfigurationError as exc:
        yield failed("nodes", str(exc), advice, exc.exit_code)
        return
    for entry in entries:
        if entry.url.startswith("http:") and not is_loopback_url(entry.url):
            what = f"{shown_url(entry.url)} without TLS: secret and images cross the network openly"
            yield warned("nodes", what, "on the node: chexfract-node certificate --config …")
        else:
            yield passed("nodes", shown_url(entry.url))


def _check_secret(settings: Settings) -> Iterator[Check]:
    worker = settings.worker
    if worker.secret is not None:
        yield passed("secret", "from the environment")
    elif worker.secret_file is None:
        advice = "set worker.secret_file to the node's secret; serve --with-worker passes it itself"
        yield failed("secret", "worker.secret_file is empty", advice, ConfigurationError.exit_code)
    else:
        yield from _secret_file(worker.secret_file)


def _secret_file(path: Path) -> Iterator[Check]:
    try:
        mode = path.stat().st_mode & 0o777
        path.read_bytes()
    except OSError as exc:
        what = f"worker.secret_file: {path}: {exc.strerror}"
        advice = "copy the node's secret there (mode 0600)"
        yield failed("secret", what, advice, ConfigurationError.exit_code)
        return
    if mode & 0o077:
        yield warned("secret", f"{path} may be read by others ({mode:04o})", f"chmod 600 {path}")
    else:
        yield passed("secret", str(path))


def _check_description(settings: Settings) -> Iterator[Check]:
    """Load the model and let it describe pictures, as `run` does before it takes jobs."""
    from worker.service.start import pipeline

    try:
        with pipeline(settings) as ready:
            model = ready.algorithm
    except ChexFractError as exc:
        yield failed("inference", str(exc), "see `chexfract-worker model list`", exc.exit_code)
        return
    yield passed("inference", f"{model.name} {model.version} describes pictures")
