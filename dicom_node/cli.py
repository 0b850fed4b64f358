"""``chexfract-node``: parses each command and hands it on; heavy imports wait until then."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node import __version__
from dicom_node.base.command import EXIT_CODES, FAILED, OK, USAGE, Act, CommandParser, add, run
from dicom_node.base.plurals import counted

if TYPE_CHECKING:
    from dicom_node.editing import ConfigFile
    from dicom_node.settings import Peer, Settings
    from dicom_node.store.actor import Actor
    from dicom_node.store.ledger import Ledger
    from dicom_node.store.uses import Kind


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return run(parser(), arguments)


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = CommandParser(
        prog="chexfract-node",
        description="Receive chest radiographs, return AI fracture reports.",
        epilog=EXIT_CODES,
    )
    top.add_argument("--version", action="version", version=f"chexfract-node {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _demo_command(commands)
    _serve_commands(commands)
    _look_commands(commands)
    _act_commands(commands)
    _network_commands(commands)
    _config_commands(commands)
    _rules_commands(commands)
    _table_commands(commands, "peer", "Change the peers of node.toml.")
    _table_commands(commands, "rule", "Change the rules of node.toml.")
    _user_commands(commands)
    _set_up_commands(commands)
    return top


def _add_command(
    commands: Any, name: str, what: str, act: Act, *, config: bool = True
) -> argparse.ArgumentParser:
    command = add(commands, name, what, act)
    if config:
        command.add_argument(
            "--config", type=Path, default=Path("node.toml"), help="node.toml (default: here)"
        )
        command.add_argument("--json", action="store_true", help="print JSON")
    return command


def _demo_command(commands: Any) -> None:
    command = _add_command(
        commands, "demo", "Show the whole route on this machine.", _run_demo, config=False
    )
    command.add_argument("--keep", action="store_true", help="stay up and print the page's address")
    command.add_argument(
        "--count", type=int, default=0, help="further phantoms beside the exhibits"
    )
    command.add_argument("--dir", type=Path, help="keep the demonstration's files in this folder")
    command.add_argument("--json", action="store_true", help="print JSON")


def _serve_commands(commands: Any) -> None:
    command = _add_command(commands, "serve", "Run the node in the foreground.", _run_serve)
    command.add_argument(
        "--with-worker", type=Path, metavar="F", help="worker.toml to run beside it"
    )
    _add_command(
        commands,
        "reload",
        "Let the running node take changed peers, rules and retention.",
        _run_reload,
    )
    role = commands.add_parser("role")  # started by serve; not for people
    role.add_argument("name", choices=("listener", "courier", "web"))
    role.add_argument("--config", type=Path, required=True)
    role.set_defaults(act=_run_role)


def _look_commands(commands: Any) -> None:
    status = _add_command(
        commands, "status", "Show queue, deliveries and recent Instances.", _run_status
    )
    status.add_argument("--limit", type=int, default=10, help="recent Instances to list")
    status.set_defaults(is_brief=True)
    trace = _add_command(
        commands, "trace", "Show every stage of one Instance with its time.", _run_trace
    )
    trace.add_argument("ident", metavar="ID", help=IDENT)
    trace.set_defaults(is_brief=True)
    lines = _add_command(commands, "logs", "Show what the node's processes logged.", _run_logs)
    lines.add_argument("ident", nargs="?", default="", metavar="ID", help="a UID, job or peer")
    lines.add_argument("--follow", "-f", action="store_true", help="go on with what comes")
    lines.add_argument("--limit", type=int, default=100, metavar="N", help="lines of the past")
    lines.add_argument(
        "--level", choices=("debug", "info", "warning", "error"), default="info", help="at least"
    )


IDENT = "SOP Instance UID, accession number or job"
"""What names images: a study's UID and a report's are taken, too."""


def _act_commands(commands: Any) -> None:
    retry = _add_command(commands, "retry", "Let a failed job be tried again.", _run_retry)
    retry.add_argument("ident", nargs="?", metavar="ID", help=IDENT)
    retry.add_argument("--failed", action="store_true", help="every failed job")
    resend = _add_command(
        commands, "resend", "Deliver an Instance's report once more.", _run_resend
    )
    resend.add_argument("ident", metavar="ID", help=IDENT)
    replay = _add_command(
        commands,
        "replay",
        "Analyse an Instance again: a report that replaces the last.",
        _run_replay,
    )
    replay.add_argument("ident", metavar="ID", help=IDENT)
    release = _add_command(
        commands, "release", "Send reports that a shadow rule has withheld.", _run_release
    )
    release.add_argument("ident", metavar="ID", help=IDENT)
    settle = _add_command(
        commands, "settle", "End a delivery that an archive refuses again and again.", _run_settle
    )
    settle.add_argument("ident", metavar="ID", help=IDENT)
    settle.add_argument(
        "--as",
        dest="outcome",
        required=True,
        choices=("sent", "given-up"),
        help="the archive has it, or shall not get it",
    )
    settle.add_argument(
        "--to", dest="destination", default="", metavar="PEER", help="this destination only"
    )
    adopt = _add_command(
        commands,
        "adopt",
        "Let a corrected image that came under a known UID take its place, and report again.",
        _run_adopt,
    )
    adopt.add_argument("ident", metavar="ID", help=IDENT)
    for name, what, act in (
        (
            "hold",
            "Hold a destination, model, rule or worker back; what is theirs waits.",
            _run_hold,
        ),
        ("let-go", "Let something go that is held; what waited goes on.", _let_go),
    ):
        command = _add_command(commands, name, what, act)
        kinds = ("destination", "model", "rule", "worker")
        command.add_argument("kind", choices=kinds, metavar="KIND", help=", ".join(kinds))
        command.add_argument("name", metavar="NAME", help="as status shows it")
        if name == "hold":
            command.add_argument("--why", default="", metavar="TEXT", help="for those who see it")
    _add_command(
        commands, "purge", "Remove files that the retention rules no longer keep.", _run_purge
    )


def _network_commands(commands: Any) -> None:
    send = _add_command(commands, "send", "Send files to a peer by C-STORE.", _run_send)
    send.add_argument("paths", nargs="*", type=Path, metavar="FILES", help="DICOM files or folders")
    send.add_argument("--test", action="store_true", help="objects about nobody, not FILES")
    send.add_argument("--to", required=True, metavar="PEER", help="a name in [peers]")
    fetched = _add_command(
        commands, "pull", "Fetch radiographs of an archive into a folder.", _run_pull
    )
    fetched.add_argument(
        "--from", dest="source", required=True, metavar="PEER", help="a name in [peers]"
    )
    fetched.add_argument(
        "--accessions", type=Path, required=True, metavar="FILE", help="one a line, or a CSV"
    )
    fetched.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the files")
    fetched.add_argument(
        "--deidentify", action="store_true", help="write pseudonyms; see [sandbox]"
    )
    echo = _add_command(commands, "echo", "Ask a peer for a C-ECHO.", _run_echo)
    echo.add_argument("peer", metavar="PEER", help="a name in [peers]")


def _config_commands(commands: Any) -> None:
    config = commands.add_parser("config", help="Check, show or describe the configuration.")
    acts = config.add_subparsers(dest="config_act", required=True, metavar="ACT")
    _add_command(acts, "check", "Say whether a node.toml is right.", _config_check)
    _add_command(acts, "show", "Print every key with the value in force.", _config_show)
    _add_command(acts, "schema", "Print the JSON schema for editors.", _config_schema, config=False)
    past = _add_command(
        acts, "history", "Show who changed peers and rules, and when.", _config_history
    )
    past.add_argument("--limit", type=int, default=20, metavar="N", help="changes to list")
    undo = _add_command(acts, "undo", "Undo a change of the history.", _config_undo)
    undo.add_argument("number", type=int, metavar="NUMBER", help="as config history lists it")
    undo.add_argument("--dry-run", action="store_true", help="show the difference only")


def _table_commands(commands: Any, word: str, what: str) -> None:
    """Add the commands of peers, or of rules."""
    tables = commands.add_parser(word, help=what)
    acts = tables.add_subparsers(dest="table_act", required=True, metavar="ACT")
    kind = f"{word}s"

    def add(act: str, what: str, do: Act) -> argparse.ArgumentParser:
        command = _add_command(acts, act, what, do)
        command.set_defaults(kind=kind)
        if act != "list":
            command.add_argument("name", metavar="NAME", help=f"of the {word}")
            command.add_argument("--dry-run", action="store_true", help="show the difference only")
        return command

    add("list", f"List the {kind} of the file.", _table_list)
    for act in ("add", "change"):
        shown = f"{act.capitalize()} a {word}; a node that runs takes it at once."
        command = add(act, shown, _table_change)
        command.set_defaults(is_new=act == "add")
        command.add_argument(
            "words", nargs="*", metavar="KEY=VALUE", help="lists by commas; KEY= removes a key"
        )
        command.set_defaults(place=None)
        if word == "rule":
            command.add_argument("--place", type=int, metavar="N", help="1 for the first rule")
    add("remove", f"Remove a {word}.", _table_remove)
    if word == "rule":
        move = add("move", "Put a rule at another place: the first match wins.", _rule_move)
        move.add_argument("--to", type=int, required=True, metavar="N", help="1 for the first")


def _rules_commands(commands: Any) -> None:
    rules = commands.add_parser("rules", help="Try the routing rules.")
    acts = rules.add_subparsers(dest="rules_act", required=True, metavar="ACT")
    test = _add_command(acts, "test", "Say which rule a file matches and why.", _rules_test)
    test.add_argument("path", type=Path, metavar="FILE", help="a DICOM file")


def _user_commands(commands: Any) -> None:
    users = commands.add_parser("user", help="Say who may sign in on the pages.")
    acts = users.add_subparsers(dest="user_act", required=True, metavar="ACT")
    add = _add_command(acts, "add", "Add a user, or change role and password of one.", _user_add)
    add.add_argument("name", metavar="NAME", help="by which they sign in")
    add.add_argument(
        "--role", choices=("viewer", "operator", "admin"), default="viewer", help="what they may do"
    )
    add.add_argument(
        "--password-file", type=Path, metavar="F", help="read the password there, not from you"
    )
    remove = _add_command(acts, "remove", "Remove a user; their sessions end.", _user_remove)
    remove.add_argument("name", metavar="NAME", help="as user list shows it")
    _add_command(acts, "list", "List users and roles.", _user_list)


def _set_up_commands(commands: Any) -> None:
    _init_command(commands)
    _certificate_command(commands)
    doctor = _add_command(
        commands, "doctor", "Check all that the node stands on and say what to do.", _run_doctor
    )
    doctor.add_argument(
        "--worker-config", type=Path, metavar="F", help="worker.toml (default: that beside it)"
    )
    test = _add_command(
        commands,
        "selftest",
        "Send a drawing in every transfer syntax and wait for its reports.",
        _run_selftest,
    )
    test.add_argument(
        "--to",
        metavar="PEER",
        help="use the running node and this peer; default: a node and archive of its own",
    )
    spoken = _add_command(
        commands,
        "conformance",
        "Print the DICOM Conformance Statement of this node.",
        _run_conformance,
        config=False,
    )
    spoken.add_argument("--config", type=Path, help="node.toml (default: every key's default)")
    spoken.add_argument(
        "--format", choices=("md", "json"), default="md", help="Markdown (default) or JSON"
    )
    spoken.add_argument("--json", action="store_true", help="as --format json")
    results = _add_command(
        commands, "export", "Write results as CSV or JSON lines.", _run_export, config=False
    )
    results.add_argument("--config", type=Path, default=Path("node.toml"), help="node.toml")
    results.add_argument("--since", required=True, metavar="DATE", help="such as 2026-11-01")
    results.add_argument("--until", metavar="DATE", help="not part of it (default: now)")
    results.add_argument(
        "--format", choices=("csv", "jsonl"), default="csv", help="CSV (default) or JSON lines"
    )
    results.add_argument(
        "--deidentify",
        action="store_true",
        help="pseudonyms, shifted times, no comments; see [sandbox]",
    )
    results.add_argument("--deid", action="store_true", help="as 0.1.0 did it: use --deidentify")
    results.add_argument("--out", type=Path, metavar="F", help="a file (default: standard output)")
    results.add_argument("--json", action="store_true", help="as --format jsonl")
    plan = _add_command(
        commands,
        "capacity",
        "Say what a number of images a day needs.",
        _run_capacity,
        config=False,
    )
    plan.add_argument("--per-day", type=int, required=True, metavar="N", help="images a day")
    plan.add_argument("--config", type=Path, help="node.toml: costs as its ledger measured them")
    plan.add_argument("--model-seconds", type=float, metavar="S", help="a GPU's time an image")
    plan.add_argument(
        "--busiest-hour", type=float, default=0.12, metavar="P", help="its share of a day's images"
    )
    plan.add_argument(
        "--wait", type=float, default=60.0, metavar="S", help="95 of 100 wait no longer for a GPU"
    )
    plan.add_argument("--json", action="store_true", help="print JSON")
    kept = _add_command(
        commands, "backup", "Copy ledger and spool while the node runs.", _run_backup
    )
    kept.add_argument("dir", type=Path, metavar="DIR", help="a folder; a second call adds to it")
    again = _add_command(commands, "restore", "Put a backup into an empty data_dir.", _run_restore)
    again.add_argument("dir", type=Path, metavar="DIR", help="what backup has made")
    manual = _add_command(commands, "manual", "Read the manual.", _run_manual, config=False)
    manual.add_argument("page", nargs="?", default="", metavar="PAGE", help="such as how-to/backup")
    manual.add_argument("--json", action="store_true", help="print JSON")
    shell = _add_command(
        commands,
        "completion",
        "Print what a shell needs to complete.",
        _run_completion,
        config=False,
    )
    shell.add_argument("shell", choices=("bash", "zsh", "fish"), help="the one that you use")


def _certificate_command(commands: Any) -> None:
    command = _add_command(
        commands,
        "certificate",
        "Make or renew the node's certificate by an authority of its own.",
        _run_certificate,
    )
    command.add_argument(
        "--name", action="append", default=[], help="a further host name or address of the node"
    )
    command.add_argument(
        "--copy-ca", type=Path, metavar="FILE", help="where workers find the authority"
    )


def _init_command(commands: Any) -> None:
    command = _add_command(
        commands,
        "init",
        "Write node.toml and worker.toml for one archive, then run doctor.",
        _run_init,
        config=False,
    )
    command.add_argument(
        "--out", type=Path, default=Path("node.toml"), metavar="F", help="node.toml (default: here)"
    )
    command.add_argument("--ae-title", help="of this node (CHEXFRACT)")
    command.add_argument("--port", type=int, help="DICOM port of this node (11112)")
    command.add_argument("--archive-ae", help="AE title of the archive (ORTHANC)")
    command.add_argument("--archive-host", help="of the archive (127.0.0.1)")
    command.add_argument("--archive-port", type=int, help="DICOM port of the archive (4242)")
    command.add_argument("--web-port", type=int, help="of pages and job API (8080)")
    command.add_argument(
        "--demonstration",
        action="store_true",
        help="send the demonstration model's reports on every chest radiograph, too",
    )
    command.add_argument(
        "--certificate", metavar="HOST", help="HTTPS under this name, by a certificate of the site"
    )
    command.add_argument("--yes", action="store_true", help="ask nothing")
    command.add_argument("--force", action="store_true", help="overwrite files that are there")
    command.add_argument("--json", action="store_true", help="print doctor's JSON")


def _load_settings(options: argparse.Namespace) -> Settings:
    from dicom_node.base.local_time import set_zone
    from dicom_node.settings import load

    settings = load(options.config)
    set_zone(settings.node.time_zone)
    return settings


def _settings_in_force(options: argparse.Namespace, *, is_warned: bool = True) -> Settings:
    """Return the settings to look at a node by: while the file is wrong, those it runs with."""
    from dicom_node import in_force
    from dicom_node.base.errors import ConfigurationError

    try:
        return _load_settings(options)
    except ConfigurationError as exc:
        settings = in_force.beside_broken_file(options.config)
        if settings is None:
            raise
        if is_warned:
            print(f"warning: {exc}", file=sys.stderr)
            print("warning: going on with what the node accepted last", file=sys.stderr)
        return settings


def _open_ledger(settings: Settings) -> Ledger:
    from dicom_node.store.ledger import Ledger

    return Ledger.open(settings.ledger_url)


def _run_demo(options: argparse.Namespace) -> int:
    from dicom_node.operate.demo import demo

    return demo(options.dir, count=options.count, keep=options.keep, as_json=options.json)


def _run_serve(options: argparse.Namespace) -> int:
    from dicom_node.base import logs
    from dicom_node.base.confine import keep_private
    from dicom_node.run.supervisor import serve

    keep_private()
    logs.start()
    return serve(options.config, _load_settings(options), options.with_worker)


def _run_role(options: argparse.Namespace) -> int:
    from dicom_node.base import logs
    from dicom_node.base.confine import keep_private
    from dicom_node.base.lean import import_pydicom

    keep_private()
    logs.start()
    import_pydicom()
    from dicom_node.run.roles import run_role

    logging.getLogger("dicom_node").info("%s starts", options.name)
    run_role(options.name, options.config)
    return OK


def _run_reload(options: argparse.Namespace) -> int:
    from dicom_node.run.reload import reload

    # The node itself answers what is wrong with the file.
    reload(_settings_in_force(options, is_warned=False), _own_actor(), as_json=options.json)
    return OK


def _run_status(options: argparse.Namespace) -> int:
    from dicom_node.operate import show

    settings = _settings_in_force(options)
    ledger = _open_ledger(settings)
    show.status(ledger, limit=options.limit, as_json=options.json, peers=settings.peers)
    return OK


def _run_trace(options: argparse.Namespace) -> int:
    from dicom_node.operate import show

    settings = _settings_in_force(options)
    show.trace(settings, _open_ledger(settings), options.ident, as_json=options.json)
    return OK


def _run_logs(options: argparse.Namespace) -> int:
    from dicom_node.operate.read_logs import print_logs
    from dicom_node.run.supervisor import LOG_FOLDER

    print_logs(
        _settings_in_force(options).node.data_dir / LOG_FOLDER,
        options.ident,
        limit=options.limit,
        level=options.level,
        follow=options.follow,
        as_json=options.json,
    )
    return OK


def _run_retry(options: argparse.Namespace) -> int:
    from dicom_node.base.errors import NotFound
    from dicom_node.operate import show

    ledger = _open_ledger(_settings_in_force(options))
    if options.failed == bool(options.ident):
        print("chexfract-node retry: give ID or --failed", file=sys.stderr)
        return USAGE
    by = _own_actor()
    jobs = (
        ledger.acts.retry_failed(by=by)
        if options.failed
        else ledger.acts.retry(options.ident, by=by)
    )
    if not jobs and not options.failed:
        raise NotFound(f"{options.ident}: no failed or rejected job")
    show.acted("retried", jobs, as_json=options.json)
    return OK


def _run_resend(options: argparse.Namespace) -> int:
    from dicom_node.operate import show

    acts = _open_ledger(_settings_in_force(options)).acts
    count = acts.resend(options.ident, by=_own_actor())
    show.acted("resent", count, as_json=options.json, left=acts.unsent(options.ident))
    return OK if count else FAILED


def _run_release(options: argparse.Namespace) -> int:
    from dicom_node.operate import show

    acts = _open_ledger(_settings_in_force(options)).acts
    count, left = acts.release(options.ident, by=_own_actor())
    show.acted("released", count, as_json=options.json, left=left)
    return OK if count else FAILED


def _run_settle(options: argparse.Namespace) -> int:
    from dicom_node.operate import show

    acts = _open_ledger(_settings_in_force(options)).acts
    count = acts.settle(options.ident, options.outcome, options.destination, by=_own_actor())
    where = f" for {options.destination}" if options.destination else ""
    left = () if count else (f"nothing of it waits{where}",)
    show.acted("settled", count, as_json=options.json, left=left)
    return OK if count else FAILED


def _run_adopt(options: argparse.Namespace) -> int:
    from dicom_node.flow.repeat import adopt
    from dicom_node.operate import show
    from dicom_node.store.spool import Spool

    settings = _settings_in_force(options)
    spool = Spool(settings.spool_dir, settings.retention.min_free)
    made = adopt(settings, spool, _open_ledger(settings), options.ident, by=_own_actor())
    show.acted("adopted", made, as_json=options.json)
    return OK


def _run_hold(options: argparse.Namespace) -> int:
    from dicom_node.operate import show

    settings = _settings_in_force(options)
    known = {
        "destination": settings.peers,
        "rule": [rule.name for rule in settings.rules],
        "model": {rule.model for rule in settings.rules},
    }.get(options.kind)
    # Held all the same: work of a peer or rule that was taken out of the file may wait.
    if known is not None and options.name not in known:
        names = ", ".join(sorted(known)) or "none"
        what = f"node.toml has no {options.kind} {options.name[:64]!r}; it has {names}"
        print(f"note: {what}", file=sys.stderr)
    is_new = _open_ledger(settings).holds.hold(
        options.kind, options.name, _own_actor(), options.why
    )
    if is_new:
        _note_use(settings, "configured", "hold", f"{options.kind} {options.name} is held")
    show.acted("held", int(is_new), as_json=options.json)
    return OK


def _let_go(options: argparse.Namespace) -> int:
    from dicom_node.operate import show

    settings = _settings_in_force(options)
    _open_ledger(settings).holds.let_go(options.kind, options.name)
    _note_use(settings, "configured", "let-go", f"{options.kind} {options.name} is let go")
    show.acted("let-go", 1, as_json=options.json)
    return OK


def _own_actor() -> Actor:
    """Return who runs this command, for the history and the audit trail."""
    from dicom_node.store.actor import local_actor

    return local_actor()


def _note_use(settings: Settings, what: Kind, service: str, alert: str) -> None:
    """Note for the audit trail what is done here beside the ledger."""
    from dicom_node.store.actor import local_actor
    from dicom_node.store.uses import Use, noting

    who = local_actor()
    is_there = (
        settings.node.ledger != "sqlite" or (settings.node.data_dir / "ledger.sqlite").is_file()
    )
    ledger = _open_ledger(settings) if settings.audit.syslog and is_there else None
    noting(settings, ledger)(Use(what, who.name, service, address=who.address, alert=alert))


def _run_replay(options: argparse.Namespace) -> int:
    from dicom_node.operate import show

    settings = _settings_in_force(options)
    rejects = settings.report.reject_replaced
    made = _open_ledger(settings).acts.replay(options.ident, by=_own_actor(), rejects=rejects)
    show.acted("replayed", made, as_json=options.json)
    return OK


def _run_purge(options: argparse.Namespace) -> int:
    from dicom_node.operate import show
    from dicom_node.store.retention import RetentionSweep
    from dicom_node.store.spool import Spool

    settings = _settings_in_force(options)
    spool = Spool(settings.spool_dir, settings.retention.min_free)
    removed = RetentionSweep(settings, spool, _open_ledger(settings)).purge()
    show.acted("purged", removed, as_json=options.json)
    return OK


def _run_send(options: argparse.Namespace) -> int:
    from dicom_node.operate import send

    settings = _load_settings(options)
    peer = _find_peer(settings, options.to)
    if options.test == bool(options.paths):
        print("chexfract-node send: give FILES or --test", file=sys.stderr)
        return USAGE
    if options.test:
        return send.send_test(settings, peer, options.to, as_json=options.json)
    return send.send(settings, peer, options.to, options.paths, as_json=options.json)


def _run_pull(options: argparse.Namespace) -> int:
    from dicom_node.base.accessions import read_accessions
    from dicom_node.operate.pull import pull

    settings = _load_settings(options)
    return pull(
        settings,
        _find_peer(settings, options.source),
        read_accessions(options.accessions),
        options.out,
        is_deidentified=options.deidentify or settings.sandbox.deidentify,
        as_json=options.json,
    )


def _run_echo(options: argparse.Namespace) -> int:
    from dicom_node.operate import send

    settings = _load_settings(options)
    send.echo(settings, _find_peer(settings, options.peer), options.peer, as_json=options.json)
    return OK


def _find_peer(settings: Settings, name: str) -> Peer:
    from dicom_node.peers import find_peer

    return find_peer(settings.peers, name)


def _config_check(options: argparse.Namespace) -> int:
    from dicom_node.operate import show

    return show.checked(options.config, _load_settings(options), as_json=options.json)


def _config_show(options: argparse.Namespace) -> int:
    from dicom_node.operate import show

    show.configuration(_load_settings(options), as_json=options.json)
    return OK


def _config_schema(_: argparse.Namespace) -> int:
    from dicom_node.operate import show

    show.schema()
    return OK


def _config_file(options: argparse.Namespace) -> ConfigFile:
    from dicom_node.operate.edit_config import config_file

    return config_file(options.config, _settings_in_force(options))


def _config_history(options: argparse.Namespace) -> int:
    from dicom_node.operate import edit_config

    edit_config.history(_config_file(options), options.limit, as_json=options.json)
    return OK


def _config_undo(options: argparse.Namespace) -> int:
    from dicom_node.operate import edit_config

    shown = {"is_dry": options.dry_run, "as_json": options.json}
    return edit_config.undo(_config_file(options), options.number, _own_actor(), **shown)


def _table_list(options: argparse.Namespace) -> int:
    from dicom_node.operate import edit_config

    edit_config.list_tables(_config_file(options), options.kind, as_json=options.json)
    return OK


def _table_change(options: argparse.Namespace) -> int:
    from dicom_node.operate import edit_config

    return edit_config.change_table(
        _config_file(options),
        options.kind,
        options.name,
        options.words,
        _own_actor(),
        is_new=options.is_new,
        place=options.place,
        is_dry=options.dry_run,
        as_json=options.json,
    )


def _table_remove(options: argparse.Namespace) -> int:
    from dicom_node.operate import edit_config

    shown = {"is_dry": options.dry_run, "as_json": options.json}
    file = _config_file(options)
    return edit_config.remove_table(file, options.kind, options.name, _own_actor(), **shown)


def _rule_move(options: argparse.Namespace) -> int:
    from dicom_node.operate import edit_config

    shown = {"is_dry": options.dry_run, "as_json": options.json}
    file = _config_file(options)
    return edit_config.move_rule(file, options.name, options.to, _own_actor(), **shown)


def _rules_test(options: argparse.Namespace) -> int:
    from dicom_node.operate.try_rules import rules_test

    return rules_test(_load_settings(options), options.path, as_json=options.json)


def _run_certificate(options: argparse.Namespace) -> int:
    from dicom_node.operate.certificate import certificate

    certificate(_load_settings(options), options.name, options.copy_ca, as_json=options.json)
    return OK


def _run_init(options: argparse.Namespace) -> int:
    from dicom_node.operate.doctor import doctor
    from dicom_node.operate.init import init, use_certificate

    names = ("ae_title", "port", "archive_ae", "archive_host", "archive_port", "web_port")
    given = {name: getattr(options, name) for name in names}
    node, worker = init(
        options.out,
        given,
        yes=options.yes,
        force=options.force,
        demonstration=options.demonstration,
    )
    if options.certificate:
        use_certificate(node, worker, options.certificate)
    print(f"wrote {node} and {worker}; now what doctor says:", file=sys.stderr)
    code = doctor(node, worker_config=worker, as_json=options.json)
    print(f"next: chexfract-node serve --config {node} --with-worker {worker}", file=sys.stderr)
    return code


def _user_add(options: argparse.Namespace) -> int:
    from getpass import getpass

    from dicom_node.credentials import close_first_admin
    from dicom_node.operate import show
    from dicom_node.users import add_user, read_users, users_file

    settings = _settings_in_force(options)
    if options.password_file:
        password = options.password_file.read_text(encoding="utf-8").rstrip("\r\n")
    elif sys.stdin.isatty():
        password = getpass(f"Password of {options.name}: ")
    else:  # a script: the first line of its standard input
        password = sys.stdin.readline().rstrip("\r\n")
    add_user(users_file(settings), options.name, options.role, password)
    close_first_admin(settings)
    _note_use(
        settings, "users-changed", "user add", f"{options.name} is {options.role}, new password"
    )
    show.acted("kept", 1, as_json=options.json)
    if not any(user.role == "admin" for user in read_users(users_file(settings)).values()):
        add = "chexfract-node user add NAME --role admin"
        print(f"note: nobody is an administrator: {add}", file=sys.stderr)
    return OK


def _user_remove(options: argparse.Namespace) -> int:
    from dicom_node.operate import show
    from dicom_node.users import remove_user, users_file

    settings = _settings_in_force(options)
    remove_user(users_file(settings), options.name)
    if settings.node.ledger != "sqlite" or (settings.node.data_dir / "ledger.sqlite").is_file():
        _open_ledger(settings).api_keys.end_all(options.name)
    _note_use(settings, "users-changed", "user remove", f"{options.name} is removed")
    show.acted("removed", 1, as_json=options.json)
    return OK


def _user_list(options: argparse.Namespace) -> int:
    import json

    from dicom_node.users import read_users, users_file

    users = read_users(users_file(_settings_in_force(options))).values()
    if options.json:
        print(json.dumps([{"name": user.name, "role": user.role} for user in users]))
    else:
        for user in users:
            print(f"{user.name}  {user.role}")
    return OK


def _run_doctor(options: argparse.Namespace) -> int:
    from dicom_node.operate.doctor import doctor

    return doctor(options.config, worker_config=options.worker_config, as_json=options.json)


def _run_selftest(options: argparse.Namespace) -> int:
    from dicom_node.operate.selftest import selftest

    return selftest(options.config, to=options.to, as_json=options.json)


def _run_conformance(options: argparse.Namespace) -> int:
    from dicom_node.operate.conformance import conformance
    from dicom_node.settings import Settings

    settings = _load_settings(options) if options.config else Settings()
    conformance(settings, as_json=options.json or options.format == "json")
    return OK


def _run_backup(options: argparse.Namespace) -> int:
    from dicom_node.base.confine import keep_private
    from dicom_node.store.backup import backup

    keep_private()
    settings = _settings_in_force(options)
    done = backup(settings.node.data_dir, settings.ledger_url, options.dir, settings.spool_dir)
    return _print_copied(done, options)


def _run_restore(options: argparse.Namespace) -> int:
    from dicom_node.base.confine import keep_private
    from dicom_node.store.backup import restore

    keep_private()
    settings = _load_settings(options)
    done = restore(settings.node.data_dir, settings.ledger_url, options.dir, settings.spool_dir)
    return _print_copied(done, options)


def _print_copied(done: Any, options: argparse.Namespace) -> int:
    import json

    if options.json:
        print(json.dumps({"files": done.files, "new": done.new, "ledger_bytes": done.size}))
    else:
        files = counted(done.files, "file")
        print(f"{files}, {done.new} of them new; ledger of {counted(done.size, 'byte')}")
    return OK


def _run_export(options: argparse.Namespace) -> int:
    from dicom_node.operate.export import export

    settings = _settings_in_force(options)
    count = export(
        settings,
        options.since,
        options.until,
        form="jsonl" if options.json else options.format,
        is_deidentified=options.deidentify or settings.sandbox.deidentify,
        has_hashes=options.deid,
        out=options.out,
    )
    span = f"{options.since} to {options.until or 'now'}"
    kind = ", identifiers hashed" if options.deid else ""
    _note_use(settings, "exported", "export", f"{counted(count, 'result')} of {span}{kind}")
    print(counted(count, "result"), file=sys.stderr)
    return OK


def _run_capacity(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict, replace

    from dicom_node.operate.capacity import ImageCosts, as_text, measured_costs, plan_capacity

    if options.per_day < 1 or not 0 < options.busiest_hour <= 1 or options.wait <= 0:
        print("--per-day is 1 or more, --busiest-hour above 0 and up to 1, --wait above 0")
        return USAGE
    costs = ImageCosts()
    if options.config:
        costs = measured_costs(_open_ledger(_load_settings(options)), costs)
    if options.model_seconds:
        costs = replace(costs, model_s=options.model_seconds)
    plan = plan_capacity(options.per_day, costs, options.busiest_hour, options.wait)
    shown = {**asdict(plan), "costs": asdict(costs)}
    print(json.dumps(shown) if options.json else as_text(plan, costs))
    return OK


def _run_manual(options: argparse.Namespace) -> int:
    from dicom_node.operate.read_manual import print_page

    print_page(options.page, as_json=options.json)
    return OK


def _run_completion(options: argparse.Namespace) -> int:
    from dicom_node.base.completion import shell_code

    print(shell_code(options.shell))
    return OK
