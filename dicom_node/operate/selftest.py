"""Sends a drawn radiograph in every transfer syntax through a node, and waits for its reports."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dicom_node.base.errors import ConfigurationError, NotFound, NotUnderstood, Unreachable
from dicom_node.base.plurals import counted
from dicom_node.dimse import scu
from dicom_node.dimse.contexts import TRANSFER_SYNTAXES
from dicom_node.flow import routing
from dicom_node.operate import progress
from dicom_node.operate.sandbox import archive_in, draw, node_in
from dicom_node.peers import find_peer, who_calls
from dicom_node.running import is_running
from dicom_node.settings import DEMONSTRATION_MODELS, Peer, Settings, load
from dicom_node.standard.header import read_header
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.states import TAKEN, DeliveryState, JobState
from dicom_node.store.ledger.views import JobView, Trace

REPORT_S = 60.0
"""Time without any news after which the rest of the reports is given up."""

CALLS_FROM = "127.0.0.1"


@dataclass(slots=True)
class SyntaxResult:
    """What became of the radiograph in one transfer syntax."""

    transfer_syntax: str
    sop_instance_uid: str
    drawn: str
    passed: bool = False
    state: str = "not sent"
    problem: str = ""
    text: str = ""
    send_ms: float | None = None
    model_ms: float | None = None
    seconds: float | None = None
    """From C-STORE to the report's delivery."""


@dataclass(frozen=True, slots=True)
class Way:
    """How to send so that the report goes where it is wanted."""

    calling_ae: str
    node: Peer
    destination: str
    ledger: str
    reads_drawings: bool
    """Whether the model is the demonstration's: its text must be what was drawn."""


def selftest(config: Path, *, to: str | None = None, as_json: bool = False) -> int:
    """Test the running node with destination `to`, or a node of its own; 1 when a line failed.

    Parameters
    ----------
    config : Path
        node.toml of the running node; not read without `to`.
    to : str, optional
        A name in [peers] that shall get the reports.

    Raises
    ------
    ConfigurationError
        No rule and no peer lead a drawing from this machine to `to`; the message says what is
        missing.
    Unreachable
        The node does not run.
    """
    if to is None:
        with _own_node() as (files, way):
            lines = _test_files(files, way)
        where = "a node, an archive and a worker of its own, which are gone again"
    else:
        settings = load(config)
        with tempfile.TemporaryDirectory(prefix="chexfract-selftest-") as folder:
            files = draw(Path(folder), "--transfer-syntaxes")
            way = find_way(settings, to, Path(files[0]["path"]))
            lines = _test_files(files, way)
        where = f"the node of {config}, which sends to {to}"
    if as_json:
        trace = {"tested": where, "passed": all(line.passed for line in lines)}
        print(json.dumps(trace | {"lines": [asdict(line) for line in lines]}, ensure_ascii=False))
    else:
        _show_results(lines, where)
    return 0 if all(line.passed for line in lines) else 1


@contextmanager
def _own_node() -> Iterator[tuple[list[dict[str, str]], Way]]:
    """Yield drawings and the way to a node that is there for this test only."""
    with tempfile.TemporaryDirectory(prefix="chexfract-selftest-") as folder:
        here = Path(folder)
        with archive_in(here) as archive, node_in(here, archive) as node:
            files = draw(here / "drawn", "--transfer-syntaxes")
            with progress.wait("node and worker start") as say:
                node.wait_until_ready(say)
            yield files, Way("ARCHIVE", node.peer, "archive", node.ledger, True)


def find_way(settings: Settings, to: str, drawing: Path) -> Way:
    """Return under which AE title a drawing has to be sent so that its report goes to `to`."""
    find_peer(settings.peers, to)
    if not is_running(settings.node.data_dir):
        raise Unreachable("the node does not run; start it with `chexfract-node serve`")
    if settings.node.tls.certificate:
        raise ConfigurationError("the node wants TLS, which selftest --to does not speak")
    facts = _facts_of_drawing(drawing, settings)
    refused = []
    for calling_ae in _sender_titles(settings, to):
        rule = routing.decide(settings.rules, facts | {"calling_ae": calling_ae})
        if rule is None:
            refused.append(f"no rule takes a frontal chest DX from {calling_ae}")
            continue
        caller = who_calls(settings.peers, calling_ae, CALLS_FROM, certificate=None)
        names, _ = routing.destinations(rule, settings.peers, caller.name)
        if rule.mode != "live" or to not in names:
            refused.append(f"rule {rule.name!r} sends none from {calling_ae} to {to}")
            continue
        own = _own_address(settings)
        node = Peer(ae_title=settings.node.ae_title, host=own, port=settings.node.port)
        reads_drawings = rule.model in DEMONSTRATION_MODELS
        return Way(calling_ae, node, to, settings.ledger_url, reads_drawings)
    why = "; ".join(refused) or f"no peer may call from {CALLS_FROM}"
    raise ConfigurationError(f"no way to {to}: {why}. Add to node.toml:\n{_missing_tables(to)}")


def _sender_titles(settings: Settings, to: str) -> list[str]:
    """Return AE titles under which this machine may send, that of `to` first."""
    peers = sorted(settings.peers.items(), key=lambda item: item[0] != to)
    return [
        peer.ae_title
        for name, peer in peers
        if not settings.node.known_peers_only
        or who_calls(settings.peers, peer.ae_title, CALLS_FROM).name == name
    ]


def _missing_tables(to: str) -> str:
    return (
        '[peers.selftest]\nae_title = "SELFTEST"\nhost = "127.0.0.1"\nport = 0\n'
        '[[rules]]  # before the others\nname = "self-test"\n'
        'match.manufacturer = ["chexfract-node"]\nmodel = "phantom"\n'
        f'send_to = ["{to}"]\nallow_demonstration = true'
    )


def _own_address(settings: Settings) -> str:
    host = settings.node.host
    return CALLS_FROM if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared only


def _facts_of_drawing(drawing: Path, settings: Settings) -> dict[str, str]:
    with drawing.open("rb") as file:
        header = read_header(file, "1.2.840.10008.1.2.1")
    return routing.facts(settings, header)


def _test_files(files: list[dict[str, str]], way: Way) -> list[SyntaxResult]:
    lines = []
    ledger = Ledger.open(way.ledger)
    try:
        for row in files:
            syntax = TRANSFER_SYNTAXES.get(row["transfer_syntax_uid"], row["transfer_syntax"])
            line = SyntaxResult(syntax, row["sop_instance_uid"], row["text"])
            lines.append(line)
            _send_drawing(line, Path(row["path"]), way)
        _await_reports(lines, ledger, way)
    finally:
        ledger.close()
    return lines


def _send_drawing(line: SyntaxResult, path: Path, way: Way) -> None:
    """Send in an association of its own, so that one refusal is one line's."""

    def note(_path: Path, status: int | None, problem: str) -> None:
        line.problem = problem
        line.state = "sent" if not problem and status is not None else "refused"

    started = time.perf_counter()
    try:
        scu.send(way.calling_ae, way.node, [path], note)
    except (Unreachable, NotUnderstood) as exc:
        line.state, line.problem = "refused", str(exc)
    line.send_ms = round((time.perf_counter() - started) * 1000, 1)


def _await_reports(lines: list[SyntaxResult], ledger: Ledger, way: Way) -> None:
    """Follow each Instance in the ledger until its report is delivered or will not be."""
    waiting = [line for line in lines if line.state == "sent"]
    end = time.monotonic() + REPORT_S
    with progress.bar("reports", len(lines)) as advance:
        while waiting and time.monotonic() < end:
            time.sleep(0.2)
            for line in waiting:
                _look_up(line, ledger, way)
            done = [line for line in waiting if line.passed or line.problem]
            if done:
                end = time.monotonic() + REPORT_S
                waiting = [line for line in waiting if line not in done]
            advance(len(lines) - len(waiting))
    for line in waiting:
        is_made = line.state.startswith(("retrying", "reported"))
        advice = "see doctor" if is_made else "is a worker of its model running?"
        line.problem = f"{line.state} for {REPORT_S:.0f} s; {advice}"


def _look_up(line: SyntaxResult, ledger: Ledger, way: Way) -> None:
    try:
        trace = ledger.history.trace(line.sop_instance_uid)
    except NotFound:
        return
    line.state = trace.state
    job = trace.jobs[-1] if trace.jobs else None
    if job is None or job.state in (JobState.FAILED, JobState.REJECTED):
        line.problem = (job or trace.instance).reason or line.state
        return
    sent = [delivery for delivery in trace.deliveries if delivery.destination == way.destination]
    if any(delivery.state == DeliveryState.WITHHELD for delivery in sent):
        line.problem = next(
            delivery.reason for delivery in sent if delivery.state == DeliveryState.WITHHELD
        )
    elif sent and all(delivery.state in TAKEN for delivery in sent):
        _judge_outcome(line, trace, job, way)
    else:
        line.state = next((f"{delivery.state}: {delivery.reason}" for delivery in sent), line.state)


def _judge_outcome(line: SyntaxResult, trace: Trace, job: JobView, way: Way) -> None:
    if job.result is not None:
        line.text = job.result.text or ""
        line.model_ms = job.result.stages_ms.get("model")
    ended = max(delivery.ended_at for delivery in trace.deliveries)
    line.seconds = round(ended - trace.instance.received_at, 3)
    if way.reads_drawings and line.text != line.drawn:
        line.problem = f"drawn was: {line.drawn} The report says: {line.text}"
    line.passed = not line.problem


def _show_results(lines: list[SyntaxResult], where: str) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "transfer syntax", "C-STORE", "model", "in all", "state"):
        table.add_column(column, overflow="fold")
    for line in lines:
        sign = "[green]✓ PASS[/]" if line.passed else "[bold red]✗ FAIL[/]"
        times = ["" if ms is None else f"{ms:.0f} ms" for ms in (line.send_ms, line.model_ms)]
        took = "" if line.seconds is None else f"{line.seconds:.2f} s"
        table.add_row(sign, line.transfer_syntax, *times, took, escape(line.problem or line.state))
    # In a file or a pipe a line stays whole.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    good = sum(line.passed for line in lines)
    syntaxes = counted(len(lines), "transfer syntax", "transfer syntaxes")
    print(f"{good} of {syntaxes} passed. Tested: {where}.")
