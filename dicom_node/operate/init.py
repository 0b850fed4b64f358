"""Writes a commented node.toml and worker.toml for one archive, and lets `doctor` look at them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.toml import wording_of
from dicom_node.settings import AETitle, Host, Port, load

NODE_TOML = """\
# node.toml, written by chexfract-node init. Every key has a default; unknown keys are refused.
# All keys with the values in force: chexfract-node config show --config {path}

[node]
ae_title = {ae_title}  # how others call this node
host = "0.0.0.0"                  # every address of this machine
port = {port}
data_dir = {data_dir}  # received images, reports and the ledger
known_peers_only = true           # the calling AE title (and its address) must be one of [peers]

[web]
host = "127.0.0.1"                # pages and job API; for workers on other machines: their network
port = {web_port}
url = "http://127.0.0.1:{web_port}"

[broker]
url = "embedded"                  # redis-server on PATH, else a stand-in; or redis://host:6379/0

# The archive: images come from it, reports go to it. Tell it about us: {ae_title_plain}, the
# address of this machine, port {port}.
[peers.archive]
ae_title = {archive_ae}
host = {archive_host}
port = {archive_port}
objects = ["sr", "basic-text"]    # the coded report, and plain text for viewers that show no codes

# Each modality that sends directly needs a table of its own; port = 0: it only sends.
# [peers.xray1]
# ae_title = "XRAY1"
# host = "10.0.0.7"
# port = 0

# This machine itself, for chexfract-node selftest --to archive.
[peers.selftest]
ae_title = "SELFTEST"
host = "127.0.0.1"
port = 0

# The first rule that matches an image says what happens to it.
[[rules]]
name = "drawn radiographs"        # of selftest and `phantom draw`; of no patient
match.manufacturer = ["chexfract-node"]
model = "phantom"
send_to = ["archive"]
allow_demonstration = true

[[rules]]
name = "frontal chest"
match.modality = ["CR", "DX"]
match.body_part = ["CHEST", "THORAX", "RIBS", ""]   # "" is: not said
match.view = ["PA", "AP", ""]
model = "phantom"                 # a demonstration: its text means nothing about a patient
{mode}
send_to = ["archive"]

[retention]
images = "24h"                    # after delivery
reports = "365d"
min_free = "2GB"                  # below: nothing is received
"""

SHADOW = """\
mode = "shadow"                   # reports are kept here, not sent; with a real model: live"""

LIVE = """\
mode = "live"
allow_demonstration = true        # somebody wants the demonstration's reports on real images"""

WORKER_TOML = """\
# worker.toml, written by chexfract-node init.
# chexfract-node serve --with-worker {path} passes broker and secret by itself.

[worker]
model = "phantom"                 # a table [models.NAME] below
device = "auto"                   # cpu, cuda, cuda:1, mps
# broker = "redis://node:6379/0"           # of a worker on another machine
# secret_file = "/run/secrets/chexfract"   # a copy of the node's secret (in its data_dir)
# nodes = ["http://node:8080"]             # the web.url of each node that it works for

# The demonstration model: reads drawings, not patients.
[models.phantom]
engine = "chexfract"
path = "builtin:phantom"

# A real one: `chexfract-worker model list`, `model fetch NAME --to DIR`, `model accept NAME`.
# [models.chexfract-maira2]
# engine = "chexfract"
# path = "/models/chexfract-maira2"
# licence_accepted_by = ""
"""


@dataclass(frozen=True, slots=True)
class Answers:
    """What is asked; the defaults suit an Orthanc on this machine."""

    ae_title: str = "CHEXFRACT"
    port: int = 11112
    archive_ae: str = "ORTHANC"
    archive_host: str = "127.0.0.1"
    archive_port: int = 4242
    web_port: int = 8080


QUESTIONS: tuple[tuple[str, str, Any], ...] = (
    ("ae_title", "AE title of this node", AETitle),
    ("port", "DICOM port of this node", Port),
    ("archive_ae", "AE title of the archive", AETitle),
    ("archive_host", "Host name or address of the archive", Host),
    ("archive_port", "DICOM port of the archive", Port),
)


def init(
    out: Path,
    given: dict[str, Any],
    *,
    yes: bool = False,
    force: bool = False,
    demonstration: bool = False,
) -> tuple[Path, Path]:
    """Write node.toml and, beside it, worker.toml; return both.

    Parameters
    ----------
    out : Path
        node.toml.
    given : dict
        Answers that flags gave; the others are asked for on a terminal, else the default holds.
    yes : bool
        Ask nothing.
    force : bool
        Overwrite files that are there.
    demonstration : bool
        Let the demonstration model's reports on every chest radiograph go to the archive.

    Raises
    ------
    ConfigurationError
        An answer is not acceptable, or a file is there or cannot be written.
    """
    worker = out.with_name("worker.toml")
    for path in (out, worker):
        if path.exists() and not force:
            raise ConfigurationError(f"{path} is there already; --force overwrites it")
    known = {key: value for key, value in given.items() if value is not None}
    answers = replace(Answers(), **{key: _check_answer(key, value) for key, value in known.items()})
    if not yes and sys.stdin.isatty():
        answers = _ask_questions(answers, set(known))
    elif not yes:
        taken = ", ".join(f"{key} {getattr(answers, key)}" for key, _, _ in QUESTIONS)
        print(f"no terminal to ask at; taken: {taken}", file=sys.stderr)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(_node_toml(out, answers, demonstration=demonstration), encoding="utf-8")
        worker.write_text(WORKER_TOML.format(path=worker), encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(f"{exc.filename}: {exc.strerror}") from exc
    load(out)
    return out, worker


def use_certificate(node: Path, worker: Path, host: str) -> None:
    """Let both files speak HTTPS under `host`, by a certificate of the site's own.

    Raises
    ------
    ConfigurationError
        The name is not one, or a file cannot be written.
    """
    from dicom_node.operate.certificate import issue

    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?", host):
        raise ConfigurationError(f"--certificate {host!r} is not a host name or an address")
    settings = load(node)
    made, ca = issue(settings, [host])
    url = f"https://{f'[{host}]' if ':' in host else host}:{settings.web.port}"
    text = node.read_text(encoding="utf-8")
    for old, new in (
        ('host = "127.0.0.1"                # pages', 'host = "0.0.0.0"                  # pages'),
        (f'url = "http://127.0.0.1:{settings.web.port}"', f'url = "{url}"'),
    ):
        text = text.replace(old, new, 1)
    text = text.replace(
        f'url = "{url}"\n', f'url = "{url}"\ncertificate = {json.dumps(str(made))}\n', 1
    )
    lines = f"ca = {json.dumps(str(ca))}  # copy it to workers' machines\n"
    lines += f"nodes = [{json.dumps(url)}]\n"
    try:
        node.write_text(text, encoding="utf-8")
        written = worker.read_text(encoding="utf-8")
        worker.write_text(written.replace("[worker]\n", f"[worker]\n{lines}", 1), encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(f"{exc.filename}: {exc.strerror}") from exc
    load(node)


def _node_toml(out: Path, answers: Answers, *, demonstration: bool) -> str:
    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)

    return NODE_TOML.format(
        path=out,
        ae_title=text(answers.ae_title),
        ae_title_plain=answers.ae_title,
        port=answers.port,
        data_dir=text(str((out.parent / "var").absolute())),
        web_port=answers.web_port,
        archive_ae=text(answers.archive_ae),
        archive_host=text(answers.archive_host),
        archive_port=answers.archive_port,
        mode=LIVE if demonstration else SHADOW,
    )


def _check_answer(key: str, value: Any) -> Any:
    """Return an answer as the settings will take it."""
    kind = {name: kind for name, _, kind in QUESTIONS}.get(key, Port)
    try:
        checked = TypeAdapter(kind).validate_python(value)
    except ValidationError as exc:
        words = wording_of(kind) or exc.errors(include_url=False, include_input=False)[0]["msg"]
        raise ConfigurationError(f"{key}: {value!r} is not {words}") from exc
    if isinstance(checked, str) and not checked.strip():
        raise ConfigurationError(f"{key}: empty")
    return checked


def _ask_questions(
    answers: Answers, known: set[str], read: Callable[[str], str] = input
) -> Answers:
    for key, question, _ in QUESTIONS:
        while key not in known:
            said = read(f"{question} [{getattr(answers, key)}]: ").strip()
            try:
                if said:
                    answers = replace(answers, **{key: _check_answer(key, said)})
                known.add(key)
            except ConfigurationError as exc:
                print(exc, file=sys.stderr)
    return answers
