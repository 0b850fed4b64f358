"""``chexfract-worker``: parses each command and hands it on; heavy imports wait until then."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.base.command import EXIT_CODES, FAILED, OK, USAGE, CommandParser, run
from dicom_node.base.command import add as _add
from dicom_node.base.errors import ConfigurationError, NotUnderstood, Unreachable
from dicom_node.base.plurals import counted
from dicom_node.base.version import __version__

if TYPE_CHECKING:
    from worker.research.privacy import Privacy
    from worker.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return run(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = CommandParser(
        prog="chexfract-worker",
        description="Describe fractures on chest radiographs.",
        epilog=EXIT_CODES,
    )
    top.add_argument("--version", action="version", version=f"chexfract-worker {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _run_command(commands)
    _serve_command(commands)
    _describe_command(commands)
    _picture_command(commands)
    _gate_command(commands)
    _same_command(commands)
    _parse_command(commands)
    _validate_command(commands)
    _evaluate_command(commands)
    _phantom_commands(commands)
    _model_commands(commands)
    _set_up_commands(commands)
    return top


def _run_command(commands: Any) -> None:
    command = _add(commands, "run", "Take jobs from the broker until stopped.", _run_worker)
    command.add_argument("--config", type=Path, help="worker.toml")
    command.add_argument("--devices", help="one worker on each, such as cuda:0,cuda:1")


def _serve_command(commands: Any) -> None:
    command = _add(
        commands,
        "serve",
        "Answer pictures over HTTP, in OpenAI's form and a plain one.",
        _run_server,
    )
    command.add_argument("--config", type=Path, help="worker.toml")
    command.add_argument("--model", help="a table [models.NAME] of the configuration")
    command.add_argument("--host", help="127.0.0.1; beyond this machine only with --keys-file")
    command.add_argument("--port", type=int, help="8000, unless worker.toml says another")
    command.add_argument("--keys-file", type=Path, help="a key in each line")


def _describe_command(commands: Any) -> None:
    command = _add(
        commands,
        "describe",
        "Describe files or folders without node, broker or network.",
        _run_describe,
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="SOURCE",
        help="files, folders, zip or tar archives, a DICOMDIR, or http://HOST/dicom-web",
    )
    command.add_argument("--out", type=Path, required=True, help="folder of results and reports")
    _archive_options(command)
    _privacy_options(command)
    command.add_argument("--identifiers", type=Path, help="CSV with file, patient_id, ... of PNGs")
    command.add_argument(
        "--make-studies", action="store_true", help="reports of picture files, with made-up UIDs"
    )
    command.add_argument("--config", type=Path, help="worker.toml")
    command.add_argument("--model", help="a table [models.NAME] of the configuration")
    command.add_argument("--batch", type=int, help="pictures at a time")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.add_argument("--json", action="store_true", help="print the summary as JSON")


def _archive_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--query", default="", help="of QIDO-RS, such as StudyDate=20260101-20260131"
    )
    command.add_argument(
        "--accessions", type=Path, metavar="FILE", help="accession numbers, one a line"
    )
    command.add_argument(
        "--token-file", type=Path, metavar="FILE", help="bearer token, or user:password"
    )
    command.add_argument("--ca", type=Path, metavar="PEM", help="authority of its certificate")


def _privacy_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--deidentify", action="store_true", help="pseudonyms in rows, reports and images"
    )
    command.add_argument(
        "--key", type=Path, metavar="FILE", help="of the pseudonyms (default: this user's own)"
    )
    command.add_argument(
        "--uids", choices=("replace", "keep"), default="replace", help="UIDs (default: replace)"
    )
    command.add_argument(
        "--dates",
        choices=("shift", "remove", "keep"),
        default="shift",
        help="a patient's dates move together, go or stay (default: shift)",
    )
    command.add_argument(
        "--descriptors",
        choices=("remove", "clean"),
        default="remove",
        help="clean keeps words of the field (default: remove)",
    )
    command.add_argument(
        "--keep-private",
        action="append",
        default=[],
        metavar="GROUP,CREATOR,ELEMENT",
        help="a private element that stays",
    )
    command.add_argument(
        "--images", action="store_true", help="with --deidentify: also the images, as Instances"
    )


def _picture_command(commands: Any) -> None:
    command = _add(
        commands,
        "picture",
        "Write as PNG what the model sees of a file, or say why it would not see it.",
        _run_picture,
    )
    command.add_argument(
        "paths", nargs="+", type=Path, metavar="FILES|FOLDER", help="DICOM or picture files"
    )
    command.add_argument("--out", type=Path, required=True, help="the PNG; a folder for several")
    command.add_argument("--stages", action="store_true", help="each step's picture on one sheet")
    command.add_argument("--config", type=Path, help="worker.toml")
    command.add_argument("--json", action="store_true", help="print JSON")


def _gate_command(commands: Any) -> None:
    command = _add(
        commands, "gate", "Say by its header whether a file would be analysed.", _run_gate
    )
    command.add_argument("path", type=Path, metavar="FILE", help="- is standard input")
    command.add_argument("--config", type=Path, help="worker.toml")
    command.add_argument("--json", action="store_true", help="print JSON")


def _same_command(commands: Any) -> None:
    command = _add(commands, "same", "", _run_same)  # started by the node; not for people
    command.add_argument("first", type=Path)
    command.add_argument("second", type=Path)


def _parse_command(commands: Any) -> None:
    command = _add(
        commands, "parse", "Read one text a line, print its findings as JSON.", _run_parse
    )
    command.add_argument(
        "--why", action="store_true", help="the rules that decided, the words they saw"
    )


def _validate_command(commands: Any) -> None:
    command = _add(
        commands, "validate", "Check report files with every validator at hand.", _run_validate
    )
    command.add_argument(
        "paths", nargs="+", type=Path, metavar="FILES|FOLDER", help="reports and their companions"
    )
    command.add_argument("--source", type=Path, help="the image that a report is about")
    command.add_argument("--json", action="store_true", help="print JSON")


def _evaluate_command(commands: Any) -> None:
    command = _add(commands, "evaluate", "Compare a describe run with labels.", _run_evaluate)
    command.add_argument("run", type=Path, nargs="?", metavar="RUN", help="what describe wrote")
    _labels_option(command)
    command.add_argument(
        "--pictures",
        action="store_true",
        help="on the page, also pictures of a de-identified run: you have looked at them",
    )
    command.add_argument(
        "--counts", type=int, nargs=4, metavar=("TP", "FP", "FN", "TN"), help="figures of numbers"
    )
    command.add_argument(
        "--by", action="append", default=[], metavar="COLUMN", help="groups by a column of labels"
    )
    command.add_argument(
        "--prevalence", type=float, metavar="P", help="for PPV and NPV (default: of the labels)"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command = _add(
        commands, "compare", "Compare two describe runs over the same images.", _run_compare
    )
    command.add_argument("run_a", type=Path, metavar="A", help="the folder that describe wrote")
    command.add_argument("run_b", type=Path, metavar="B", help="another one")
    _labels_option(command)
    command.add_argument("--json", action="store_true", help="print JSON")


def _labels_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--labels", type=Path, help="CSV with file, fracture (0/1), or an export of a node"
    )
    command.add_argument(
        "--key", type=Path, metavar="FILE", help="of a de-identified run (default: this user's own)"
    )
    command.add_argument("--html", type=Path, metavar="FILE", help="also write a page to show")


def _phantom_commands(commands: Any) -> None:
    phantom = commands.add_parser("phantom", help="The demonstration model and its drawings.")
    acts = phantom.add_subparsers(dest="phantom", required=True, metavar="ACT")
    draw = _add(
        acts, "draw", "Draw phantom radiographs as DX Instances with a truth.csv.", _run_draw
    )
    draw.add_argument("--count", type=int, default=10, help="how many (10)")
    draw.add_argument("--out", type=Path, required=True, help="folder of images and truth.csv")
    draw.add_argument("--seed", type=int, default=900_000, help="another one, other drawings")
    draw.add_argument(
        "--exhibits", action="store_true", help="the few that the demonstration shows"
    )
    draw.add_argument("--json", action="store_true", help="print JSON")
    # One picture in each transfer syntax; for the node's selftest.
    draw.add_argument("--transfer-syntaxes", action="store_true", help=argparse.SUPPRESS)
    train = _add(acts, "train", "Train the demonstration model from nothing.", _run_train)
    train.add_argument("--out", type=Path, required=True, help="a new folder")
    train.add_argument("--seed", type=int, help="of drawing, weights and order")
    train.add_argument("--json", action="store_true", help="print JSON")
    weak = _add(
        acts, "weaken", "Write a copy of the demonstration model that is worse.", _run_weaken
    )
    weak.add_argument("--out", type=Path, required=True, help="a new folder")
    weak.add_argument("--noise", type=float, default=0.2, help="share of each matrix's spread")
    weak.add_argument("--seed", type=int, default=1, help="of the noise")
    weak.add_argument("--json", action="store_true", help="print JSON")
    evaluate = _add(acts, "evaluate", "Measure a model on freshly drawn phantoms.", _run_measure)
    evaluate.add_argument("--model", default="builtin:phantom", help="a model folder")
    evaluate.add_argument("--count", type=int, default=1000, help="phantoms as drawn (1000)")
    evaluate.add_argument("--seed", type=int, default=900_000, help="of the drawings")
    evaluate.add_argument("--changed", type=int, default=200, help="phantoms read with each change")
    evaluate.add_argument("--json", action="store_true", help="print JSON")


MODEL_NAMES = {
    "verify": "a table [models.NAME] of the configuration, or a folder",
    "accept": "a name of `model list`, or a folder of weights",
    "fetch": "a name of `model list`, or ORG/NAME of the hub",
}
"""What each command about one model takes."""


def _model_commands(commands: Any) -> None:
    model = commands.add_parser("model", help="Engines, weights and licences.")
    acts = model.add_subparsers(dest="model_act", required=True, metavar="ACT")
    for name, what, act in (
        ("list", "List every engine and the configured models.", _model_list),
        ("verify", "Compare a model's files with its manifest.", _model_verify),
        ("accept", "Show a licence and how to accept it; try a folder once.", _model_accept),
        ("fetch", "Download a model's files into a folder.", _model_fetch),
    ):
        command = _add(acts, name, what, act)
        command.add_argument("--config", type=Path, help="worker.toml")
        command.add_argument("--json", action="store_true", help="print JSON")
        if name != "list":
            command.add_argument("name", metavar="NAME", help=MODEL_NAMES[name])
        if name == "accept":
            command.add_argument("--by", default="", help="who accepts")
        if name in ("fetch", "verify"):
            command.add_argument(
                "--manifest", default="", metavar="FILE", help="a list of sums from elsewhere"
            )
        if name == "fetch":
            command.add_argument(
                "--pin",
                action="append",
                default=[],
                metavar="ORG/NAME=COMMIT",
                help="of a repository whose code or encoder the model names",
            )
            command.add_argument(
                "--to", type=Path, required=True, metavar="DIR", help="a folder of its own"
            )
            command.add_argument("--endpoint", default="", help="a mirror of the hub")
            command.add_argument(
                "--revision", default="", help="a commit of the model's repository"
            )


def _set_up_commands(commands: Any) -> None:
    doctor = _add(
        commands, "doctor", "Check what this worker needs and say what to do.", _run_doctor
    )
    doctor.add_argument("--config", type=Path, help="worker.toml")
    doctor.add_argument("--full", action="store_true", help="also load the model and try it")
    doctor.add_argument("--beside-node", action="store_true", help=argparse.SUPPRESS)
    doctor.add_argument("--json", action="store_true", help="print JSON")
    config = commands.add_parser("config", help="Check or describe the configuration.")
    acts = config.add_subparsers(dest="config_act", required=True, metavar="ACT")
    check = _add(acts, "check", "Say whether a worker.toml is right.", _config_check)
    check.add_argument(
        "--config", type=Path, default=Path("worker.toml"), help="worker.toml (default: here)"
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    _add(acts, "schema", "Print the JSON schema for editors.", _config_schema)
    shell = _add(commands, "completion", "Print what a shell needs to complete.", _run_completion)
    shell.add_argument("shell", choices=("bash", "zsh", "fish"), help="the one that you use")


def _run_worker(options: argparse.Namespace) -> int:
    from dicom_node.base import logs
    from dicom_node.base.confine import keep_private

    keep_private()
    logs.start(logging.INFO)
    settings = _load_settings(options)
    from worker.service.nodes import check_nodes

    secret = _read_secret(settings)
    check_nodes(settings.worker, secret)
    from dicom_node.flow import broker

    try:
        broker.ping(settings.worker.broker, files=settings.worker.broker_files)
    except Unreachable as exc:
        raise Unreachable(f"{exc}; {broker.worker_advice(exc)}") from exc
    from worker.service import devices

    several = devices.parse_devices(options.devices) if options.devices else []
    several = several or list(settings.worker.devices)
    # a child of this command has its one device from the environment
    if several and devices.KEY not in os.environ:
        own = ["run", *(["--config", str(options.config)] if options.config else [])]
        return devices.run_each(devices.own_command(own), several)
    from worker.service.start import pipeline
    from worker.service.tasks import run

    with pipeline(settings, settings.worker.preparer_count) as ready:
        run(settings, ready, secret)
    return OK


def _run_server(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from dicom_node.base import logs
    from dicom_node.base.confine import keep_private
    from worker.settings import Serve

    keep_private()
    logs.start(logging.INFO)
    settings = _load_settings(options)
    flags = {"host": options.host, "port": options.port, "keys_file": options.keys_file}
    changed = {name: value for name, value in flags.items() if value is not None}
    try:
        table = Serve.model_validate(settings.serve.model_dump() | changed)
    except ValidationError as exc:
        raise ConfigurationError(f"--port: {options.port} is not a port from 1 to 65535") from exc
    settings = settings.model_copy(update={"serve": table})
    from worker.service.http import read_keys, serve

    keys = read_keys(settings.serve)
    from worker.service.start import pipeline

    with pipeline(settings) as ready:
        serve(settings, ready, keys)
    return OK


def _read_secret(settings: Settings) -> str:
    from worker.service.nodes import check_secret

    file = settings.worker.secret_file
    if settings.worker.secret is not None:
        text = settings.worker.secret.get_secret_value()
        return check_secret(text, "CHEXFRACT_WORKER_WORKER__SECRET")
    if file is None:
        return ""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
        return check_secret(text, f"worker.secret_file: {file}")
    except OSError as exc:
        raise ConfigurationError(f"worker.secret_file: {exc.filename}: {exc.strerror}") from exc


def _load_settings(options: argparse.Namespace) -> Settings:
    from worker.settings import load

    settings = load(options.config)
    chosen = {"model": getattr(options, "model", None), "batch": getattr(options, "batch", None)}
    changed = {key: value for key, value in chosen.items() if value is not None}
    if not changed:
        return settings
    worker = settings.worker.model_copy(update=changed)
    if worker.model not in settings.models:
        raise ConfigurationError(f"--model: no table [models.{worker.model}]")
    if worker.batch < 1:
        raise ConfigurationError("--batch: at least 1")
    return settings.model_copy(update={"worker": worker})


def _run_describe(options: argparse.Namespace) -> int:
    from dicom_node.base.accessions import read_accessions
    from worker.research.describe import Choices, describe

    if options.images and not options.deidentify:
        print("chexfract-worker describe: --images goes with --deidentify", file=sys.stderr)
        return USAGE
    choices = Choices(
        show=not options.quiet,
        identifiers=options.identifiers,
        make_studies=options.make_studies,
        privacy=_read_privacy(options) if options.deidentify else None,
        keep_images=options.images,
        query=options.query,
        accessions=tuple(read_accessions(options.accessions)) if options.accessions else (),
        token=_read_token(options.token_file),
        ca=options.ca,
    )
    summary = describe(_load_settings(options), options.paths, options.out, choices)
    print(summary.as_json() if options.json else summary.as_text())
    return FAILED if summary.without_text else OK


def _read_privacy(options: argparse.Namespace) -> Privacy:
    from dicom_node.standard.deidentify import Profile, check_private
    from worker.research.privacy import Privacy

    try:
        check_private(options.keep_private)
    except ValueError as exc:
        raise ConfigurationError(f"--keep-private: {exc}") from exc
    profile = Profile(
        uids=options.uids,
        dates=options.dates,
        descriptors=options.descriptors,
        keep_private=tuple(options.keep_private),
    )
    return Privacy.of_file(options.key, profile)


def _read_token(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise ConfigurationError(f"--token-file: {file}: {exc.strerror}") from exc


def _run_picture(options: argparse.Namespace) -> int:
    import json

    from worker.research.picture import write_pictures

    pixels = _load_settings(options).pixels
    rows = write_pictures(options.paths, options.out, pixels, with_stages=options.stages)
    for row in rows:
        if options.json:
            print(json.dumps(asdict(row), ensure_ascii=False))
        elif row.picture is None:
            print(f"{row.file}: refused: {row.reason}")
        else:
            print("\n  ".join((f"{row.file}: {row.picture}", row.steps, *row.warnings)))
    return OK if rows and all(row.picture for row in rows) else FAILED


def _run_gate(options: argparse.Namespace) -> int:
    import json

    from dicom_node.base.errors import Rejected
    from worker.image.gate import gate
    from worker.image.part10 import MOST_BYTES, read

    pixels = _load_settings(options).pixels
    code = text = ""
    is_piped = str(options.path) == "-"
    if is_piped:  # by the node, for a stranger's file
        from dicom_node.base.confine import confine

        confine()
    try:
        gate(read(sys.stdin.buffer.read(MOST_BYTES + 1) if is_piped else options.path), pixels)
    except Rejected as exc:
        code, text = exc.code, exc.text
    except OSError as exc:
        raise NotUnderstood(f"{options.path}: {exc.strerror}") from exc
    if options.json:
        print(json.dumps({"passes": not code, "code": code, "text": text}, ensure_ascii=False))
    else:
        print(f"refused: {text} ({code})" if code else "passes: its pixels would be looked at")
    return FAILED if code else OK


def _run_same(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from dicom_node.base.confine import confine
    from worker.image.decode import Decoder
    from worker.image.same import compare_images

    confine(read=[options.first, options.second], starts_python=True)
    with Decoder() as decoder:
        found = compare_images(options.first, options.second, decoder)
    print(json.dumps(asdict(found)))
    return OK


def _run_parse(options: argparse.Namespace) -> int:
    import json

    from worker.text.findings import as_json, explain, explanation_as_json

    # Bytes that are not UTF-8 are somebody's text all the same: one line in, one line out.
    for line in sys.stdin.buffer:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        found = explain(text)
        answer = explanation_as_json(found) if options.why else as_json(found.findings)
        print(json.dumps(answer, ensure_ascii=False), flush=True)
    return OK


def _run_validate(options: argparse.Namespace) -> int:
    from worker.report.validate import main

    return main(options.paths, options.source, as_json=options.json)


def _run_evaluate(options: argparse.Namespace) -> int:
    from worker.research.evaluate import evaluate, of_counts

    prevalence = options.prevalence
    if prevalence is not None and not 0 < prevalence < 1:
        print("chexfract-worker evaluate: --prevalence is between 0 and 1", file=sys.stderr)
        return USAGE
    if (options.counts is None) == (options.run is None or options.labels is None):
        print("chexfract-worker evaluate: give RUN and --labels, or --counts", file=sys.stderr)
        return USAGE
    if options.counts is not None:
        if min(options.counts) < 0:
            print("chexfract-worker evaluate: --counts are not negative", file=sys.stderr)
            return USAGE
        tp, fp, fn, tn = options.counts
        found = of_counts(tp, fp, fn, tn, prevalence)
    else:
        found = evaluate(
            options.run,
            options.labels,
            by=options.by,
            prevalence=prevalence,
            privacy=_privacy_of_run(options),
        )
    if options.html is not None:
        from worker.research.pages import write_evaluation

        write_evaluation(found, options.html, with_pictures=options.pictures)
    print(found.as_json() if options.json else found.as_text())
    return FAILED if found.misleads else OK


def _privacy_of_run(options: argparse.Namespace) -> Privacy | None:
    from worker.research.privacy import Privacy

    if options.key is None:
        return None
    if not options.key.is_file():
        raise ConfigurationError(f"--key: {options.key}: no such file")
    return Privacy.of_file(options.key)


def _run_compare(options: argparse.Namespace) -> int:
    from worker.research.compare import compare

    found = compare(options.run_a, options.run_b, options.labels, _privacy_of_run(options))
    if options.html is not None:
        from worker.research.pages import write_comparison

        write_comparison(found, options.html)
    print(found.as_json() if options.json else found.as_text())
    return FAILED if found.misleads else OK


def _run_draw(options: argparse.Namespace) -> int:
    import json

    from worker.phantom.draw import write_exhibits, write_set

    if options.count < 1 or options.seed < 0:
        print("chexfract-worker phantom draw: --count from 1, --seed from 0", file=sys.stderr)
        return USAGE
    drawn: Sequence[object]
    try:
        if options.transfer_syntaxes:
            from worker.selftest import write

            drawn = write(options.out)
        elif options.exhibits:
            drawn = write_exhibits(options.out, options.seed)
        else:
            drawn = write_set(options.count, options.out, options.seed)
    except OSError as exc:
        raise ConfigurationError(f"--out: {exc.filename}: {exc.strerror}") from exc
    if options.json:
        print(json.dumps({"count": len(drawn), "out": str(options.out)}))
    else:
        print(f"{counted(len(drawn), 'phantom')} and truth.csv in {options.out}")
    return OK


def _run_train(options: argparse.Namespace) -> int:
    import json

    from dicom_node.base import logs
    from worker.phantom.train import TrainingOptions, train

    logs.start(logging.INFO)
    defaults = TrainingOptions()
    seed = defaults.seed if options.seed is None else options.seed
    try:
        seconds = train(options.out, replace(defaults, seed=seed))
    except ValueError as exc:
        print(f"chexfract-worker phantom train: {exc}", file=sys.stderr)
        return USAGE
    if options.json:
        print(json.dumps({"seconds": round(seconds, 1), "out": str(options.out)}))
    else:
        print(f"trained in {seconds:.0f} s: {options.out}")
    return OK


def _run_weaken(options: argparse.Namespace) -> int:
    import json

    from worker.phantom.weaken import weaken

    try:
        changed = weaken(options.out, options.noise, options.seed)
    except ValueError as exc:
        print(f"chexfract-worker phantom weaken: {exc}", file=sys.stderr)
        return USAGE
    if options.json:
        print(json.dumps({"changed": changed, "out": str(options.out)}))
    else:
        print(f"{counted(changed, 'matrix', 'matrices')} changed: {options.out}")
    return OK


def _run_measure(options: argparse.Namespace) -> int:
    import json

    from worker.models.checkpoint import find
    from worker.phantom.evaluate import FOLDER, evaluate

    folder = FOLDER if options.model == "builtin:phantom" else Path(options.model)
    try:
        scores = evaluate(folder, options.count, options.changed, options.seed)
    except ValueError as exc:
        print(f"chexfract-worker phantom evaluate: {exc}", file=sys.stderr)
        return USAGE
    if options.json:
        weights = find("phantom", str(folder)).weights_sha256[:16]
        rows = [{**asdict(score), "weights": weights} for score in scores]
        for row in rows:  # JSON has no word for what cannot be known
            row.update({key: None for key, value in row.items() if value != value})
        print(json.dumps(rows))
    else:
        print("\n".join(score.line() for score in scores))
    return OK


def _model_list(options: argparse.Namespace) -> int:
    from worker.models import catalogue

    return catalogue.list_models(_settings_of(options), as_json=options.json)


def _model_verify(options: argparse.Namespace) -> int:
    from worker.models import catalogue

    return catalogue.verify(
        options.name, _settings_of(options), manifest=options.manifest, as_json=options.json
    )


def _model_accept(options: argparse.Namespace) -> int:
    from worker.models import catalogue

    return catalogue.accept(options.name, options.by, _settings_of(options), as_json=options.json)


def _model_fetch(options: argparse.Namespace) -> int:
    from worker.models import catalogue

    return catalogue.fetch(
        options.name,
        options.to,
        endpoint=options.endpoint,
        revision=options.revision,
        pins=options.pin,
        manifest=options.manifest,
        as_json=options.json,
    )


def _run_doctor(options: argparse.Namespace) -> int:
    from worker.doctor import doctor

    return doctor(
        options.config, full=options.full, beside_node=options.beside_node, as_json=options.json
    )


def _config_check(options: argparse.Namespace) -> int:
    import json

    from worker.models.options import check_all
    from worker.service.nodes import check_addresses

    settings = _settings_of(options)
    try:
        check_addresses((*settings.worker.nodes, *settings.worker.announce))
        check_all({name: table.model_dump() for name, table in settings.models.items()})
    except ConfigurationError as exc:
        raise ConfigurationError(f"{options.config}: {exc}") from exc
    if options.json:
        print(json.dumps({"config": str(options.config), "model": settings.worker.model}))
    else:
        print(f"{options.config}: right. Model {settings.worker.model}")
    return OK


def _config_schema(_: argparse.Namespace) -> int:
    import json

    from worker.schema import schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))
    return OK


def _run_completion(options: argparse.Namespace) -> int:
    from dicom_node.base.completion import shell_code

    print(shell_code(options.shell))
    return OK


def _settings_of(options: argparse.Namespace) -> Settings:
    from worker.settings import load

    return load(options.config)
