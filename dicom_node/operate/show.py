"""What the look commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.cells import set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.json_schema import document
from dicom_node.base.local_time import local_time
from dicom_node.base.plurals import counted
from dicom_node.peers import doubts, peer_table, who_calls
from dicom_node.settings import SENDER, Peer, Rule, Settings, shown
from dicom_node.standard.matching import wild
from dicom_node.standard.web_services import ROOT
from dicom_node.store.ledger import Ledger, views
from dicom_node.store.ledger.states import JobState
from dicom_node.store.ledger.views import Arrival, DestinationState, Trace, TraceStep

_COLUMNS = (19, 28, 16)
"""Widths of time, patient and accession number in `status`."""


def status(
    ledger: Ledger, *, limit: int, as_json: bool, peers: Mapping[str, Peer] | None = None
) -> None:
    """Print counts by state, destinations and the last Instances.

    A refused caller that is one of `peers` has no table to paste: it is known.
    """
    totals = ledger.history.status()
    recent = [_arrival_row(row) for row in ledger.history.recent(limit=limit)]
    done, old = ledger.filling.progress()
    refused = ledger.refused.recent()
    held = ledger.holds.held()
    if as_json:
        print_json(
            {
                **views.as_json(totals),
                "filled": done,
                "to_fill": old,
                "recent": recent,
                "held": views.as_json(held),
                "refused_callers": [
                    asdict(caller)
                    | {"table": _peer_table(peers or {}, caller.ae_title, caller.address)}
                    for caller in refused
                ],
            }
        )
        return
    console = Console()
    for what, by_state in (
        ("instances", totals.instances),
        ("jobs", totals.jobs),
        ("deliveries", totals.deliveries),
    ):
        counts = ", ".join(f"{n} {state}" for state, n in sorted(by_state.items())) or "none"
        console.print(f"{what:11} {counts}")
    if done < old:
        console.print(f"{'upgrade':11} rows of an older version filled: {done} of {old}")
    if totals.conflicts:
        console.print(f"{'conflicts':11} {totals.conflicts}: same UID, other content; see trace")
    if totals.comparing:
        console.print(f"{'comparing':11} {totals.comparing}: same UID, pixels being compared")
    for caller in refused[:5]:
        who = f"{caller.ae_title}@{caller.address}" if caller.ae_title else caller.address
        is_about_title = caller.called_ae and caller.reason.startswith("called AE title")
        called = f": it called {caller.called_ae}" if is_about_title else ""
        text = f"{'refused':11} {who}: {caller.reason}{called} ({counted(caller.count, 'time')})"
        console.print(escape(_printable_text(text)), soft_wrap=True)
    for hold in held:
        who = f" by {hold.held_by}" if hold.held_by else ""
        why = f": {hold.reason}" if hold.reason else ""
        text = f"{'held':11} {hold.kind} {hold.name} since {_iso_time(hold.since)}{who}{why}"
        console.print(escape(_printable_text(text)), soft_wrap=True)
    if totals.oldest_open_s:
        console.print(f"{'oldest':11} a job has waited for {totals.oldest_open_s:.0f} s")
    for line in totals.destinations:
        console.print(escape(_printable_text(_destination_text(line))), soft_wrap=True)
    for text in _recent_lines(recent):
        console.print(text, markup=False, highlight=False, overflow="fold")


def _peer_table(peers: Mapping[str, Peer], ae_title: str, address: str) -> str:
    """Return the table that makes a refused caller known; empty for a caller that is known."""
    is_known = who_calls(peers, ae_title, address, certificate=None).name is not None
    return "" if is_known else peer_table(ae_title, address)


def _recent_lines(recent: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield three lines for each Instance: whose it is, its UID, from whom and why."""
    if recent:
        yield _line_of_cells("received", "patient", "accession", "state")
    for row in recent:
        name = ", ".join(part for part in row["patient_name"].split("=")[0].split("^") if part)
        yield _line_of_cells(
            _clock_time(row["received_at"]), name, row["accession_number"], row["state"]
        )
        yield _printable_text(f"  {row['sop_instance_uid']}")
        patient = f"patient {row['patient_id']} " if row["patient_id"] else ""
        why = f"; {row['reason']}" if row["reason"] else ""
        yield _printable_text(f"  {patient}from {row['from']}{why}")


def _line_of_cells(*cells: str) -> str:
    """Return cells side by side, those before the last cut or filled to their width."""
    *fixed, last = (_printable_text(cell) for cell in cells)
    columns = zip(fixed, _COLUMNS, strict=True)
    return " ".join([*(set_cell_size(cell, width) for cell, width in columns), last])


def _printable_text(text: str) -> str:
    """Return a text without what moves the cursor: headers are written by strangers."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _destination_text(line: DestinationState) -> str:
    text = f"{line.name:11} {line.waiting} waiting"
    if line.uncommitted:
        text += f", {line.uncommitted} sent and not committed"
    return f"{text}, {counted(line.failures, 'failure')}: {line.reason}" if line.reason else text


def _arrival_row(row: Arrival) -> dict[str, Any]:
    return {
        "received": _iso_time(row.received_at),
        "received_at": row.received_at,
        "sop_instance_uid": row.sop_instance_uid,
        "study_instance_uid": row.study_instance_uid,
        "accession_number": row.accession_number,
        "patient_name": row.patient_name,
        "patient_id": row.patient_id,
        "modality": row.modality,
        "from": f"{row.calling_ae}@{row.calling_host}",
        "state": row.state,
        "reason": row.reason or "",
        "job": row.job,
        "deliveries": views.as_json(row.deliveries),
    }


def trace(settings: Settings, ledger: Ledger, ident: str, *, as_json: bool) -> None:
    """Print every stage of one Instance in order, each with its time."""
    trace = ledger.history.trace(ident)
    fetch = _fetch_address(settings, trace)
    stages = [(_iso_time(stage.at), stage) for stage in trace.stages]
    if as_json:
        shown = [
            {"stage": s.stage, "time": time, **_without_keys(_plain_stage(s), "stage")}
            for time, s in stages
        ]
        print_json({**views.as_json(trace), "stages": shown, "fetch": fetch})
        return
    console = Console()
    console.print(f"{trace.sop_instance_uid}: [bold]{trace.state}[/bold]")
    rows = [(time, s.stage, f"{s.ms:.0f} ms", s.detail or "") for time, s in stages]
    table = _make_table(("time", "stage", "took", "detail"), rows)
    table.columns[0].no_wrap = True  # a narrow terminal folds the detail, not the time
    console.print(table)
    reports = _report_names(trace)
    for delivery in trace.deliveries:
        reason = f": {delivery.reason}" if delivery.reason else ""
        what = f"{reports[delivery.job]}{delivery.kind} to {delivery.destination}"
        line = f"{what}: {delivery.state}{reason}"
        console.print(escape(_printable_text(line)), soft_wrap=True)
    if trace.state == "ignored":
        why = "its page, or chexfract-node rules test FILE, says what each rule asks of it"
        console.print(escape(f"no rule took it: {why}"), soft_wrap=True)
    if fetch:
        console.print(escape(f"no destination: fetch it by WADO-RS at {fetch}"), soft_wrap=True)
    for judgement in trace.judgements:
        words = [judgement.reader, judgement.verdict, judgement.comment]
        said = f"{_iso_time(judgement.at)} {' '.join(word for word in words if word)}"
        console.print(escape(_printable_text(said)), soft_wrap=True)
    for other in trace.also:
        console.print(f"also {other}")


def _report_names(trace: Trace) -> dict[str, str]:
    """Return what the deliveries of each job begin with where an Instance has several reports."""
    if len(trace.jobs) < 2:
        return {job.job: "" for job in trace.jobs}
    of_model = len({job.model for job in trace.jobs}) > 1
    return {
        job.job: f"{job.model}, " * of_model + f"report {job.generation}: " for job in trace.jobs
    }


def _plain_stage(stage: TraceStep) -> dict[str, Any]:
    shown: dict[str, Any] = views.as_json(stage)
    return shown


def _fetch_address(settings: Settings, trace: Trace) -> str:
    """Return where a report that goes to nobody is fetched, empty for any other."""
    is_waiting = any(job.state == JobState.REPORTED and job.mode == "live" for job in trace.jobs)
    if not is_waiting or trace.deliveries:
        return ""
    study = trace.instance.study_instance_uid
    return f"{settings.web.url.rstrip('/')}{ROOT}/studies/{study}"


def acted(what: str, done: Any, *, as_json: bool, left: Sequence[str] = ()) -> None:
    """Print what an act of the operator has changed, and what it has left and why."""
    count = done if isinstance(done, int) else len(done)
    if as_json:
        print_json({what: done if isinstance(done, int) else list(done), "left": list(left)})
    else:
        print(f"{count} {what}")
        for line in left:
            print(_printable_text(f"not {what}: {line}"))


def checked(path: Path, settings: Settings, *, as_json: bool) -> int:
    """Say whether a configuration is right here, and what it means; return the exit code."""
    from dicom_node.operate.config_faults import config_faults, port_faults

    faults = [*port_faults(settings), *config_faults(settings)]
    checked: dict[str, Any] = {
        "config": str(path),
        "ae_title": settings.node.ae_title,
        "port": settings.node.port,
        "peers": sorted(settings.peers),
        "rules": [rule.name for rule in settings.rules],
        "hints": list(_config_notes(settings)),
        "faults": faults,
    }
    code = ConfigurationError.exit_code if faults else 0
    if as_json:
        print_json(checked)
        return code
    for fault in faults:
        print(f"{path}: {fault}", file=sys.stderr)
    if faults:
        return code
    print(f"{path}: right. {settings.node.ae_title} on port {settings.node.port}")
    peers, rules = (", ".join(checked[what]) or "none" for what in ("peers", "rules"))
    print(f"peers: {peers}; rules: {rules}")
    for hint in checked["hints"]:
        print(f"note: {hint}")
    return code


def _config_notes(settings: Settings) -> Iterable[str]:
    if not settings.rules:
        yield "no [[rules]]: every Instance is kept and ignored"
    if not settings.peers and settings.node.known_peers_only:
        yield "no [peers] and known_peers_only: every association is rejected"
    if not settings.node.known_peers_only and settings.node.host not in ("127.0.0.1", "::1"):
        yield "known_peers_only = false on an open address: anyone may send"
    if any(rule.allow_demonstration for rule in settings.rules):
        yield "a demonstration model is live: its text means nothing about a patient"
    for rule in settings.rules:
        if rule.send_to == (SENDER,):
            yield (
                f"rule {rule.name!r} sends to {SENDER} alone: what comes by STOW-RS has no peer to "
                "send to; its report is fetched by WADO-RS, or name a peer in send_to"
            )
        yield from _never_called(settings, rule)
        yield from _note_no_radiograph(rule)
    for name, doubt in doubts(settings):
        yield f"peer {name} {doubt}"


def _note_no_radiograph(rule: Rule) -> Iterable[str]:
    """Yield a note where a rule asks for modalities that radiographs do not have."""
    asked = [
        wild(pattern.strip().casefold(), has_sets=True) for pattern in rule.match.modality or ()
    ]
    if asked and not any(pattern.matches(name) for pattern in asked for name in ("cr", "dx")):
        yield (
            f"rule {rule.name!r} is met by no radiograph: match.modality is neither CR nor DX; "
            "XR and CXR are words of other systems"
        )


def _never_called(settings: Settings, rule: Rule) -> Iterable[str]:
    """Yield a note where nobody can call the node by the title that a rule asks for."""
    node, patterns = settings.node, rule.match.called_ae
    titles = (node.ae_title, *node.ae_titles)
    asked = [wild(pattern.strip().casefold(), has_sets=True) for pattern in patterns or ()]
    if not node.called_ae_check or patterns is None:
        return
    if not any(pattern.matches(title.casefold()) for pattern in asked for title in titles):
        yield (
            f"rule {rule.name!r} is never met: match.called_ae is none of this node's AE titles "
            f"({', '.join(titles)}); add it to node.ae_titles"
        )


def configuration(settings: Settings, *, as_json: bool) -> None:
    """Print every key with the value in force; secrets and passwords are starred."""
    if as_json:
        print_json(shown(settings))
        return
    for line in _flat_lines("", shown(settings, with_units=True)):
        print(line)


def _flat_lines(prefix: str, value: Any) -> Iterable[str]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat_lines(f"{prefix}.{key}" if prefix else key, inner)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for i, inner in enumerate(value):
            yield from _flat_lines(f"{prefix}.{i}", inner)
    else:
        yield f"{prefix} = {json.dumps(value)}"


def schema() -> None:
    """Print the JSON schema of node.toml, for editors."""
    module = sys.modules[Settings.__module__]
    print(json.dumps(document(Settings, module), indent=2, ensure_ascii=False))


def _make_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_printable_text(str(cell))) for cell in row))
    return table


def _without_keys(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def _iso_time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _clock_time(at: float) -> str:
    """Return a moment as the wall clock shows it, with the day when that is not today."""
    moment = local_time(at)
    is_today = moment.date() == local_time().date()
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}" if is_today else f"{moment:%F %T}"


def print_json(content: Any) -> None:
    """Print JSON for programs."""
    print(json.dumps(content, ensure_ascii=False, default=str))
