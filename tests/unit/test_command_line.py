"""Every command says what it does by example, and fits a terminal of 80 columns."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import fresh, instance, post, reported, result, taken
from rich.cells import cell_len

from dicom_node import cli as node_cli
from dicom_node.base.command import EXIT_CODES, CommandParser, run
from dicom_node.base.errors import ConfigurationError
from dicom_node.base.examples import EXAMPLES
from dicom_node.operate import show
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger
from worker import cli as worker_cli

PARSERS = {"chexfract-node": node_cli.parser(), "chexfract-worker": worker_cli.parser()}


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            listed = {choice.dest for choice in action._choices_actions}
            for name, command in action.choices.items():
                if name in listed:
                    yield from commands(command)
                    if not any(isinstance(a, argparse._SubParsersAction) for a in command._actions):
                        yield command


ALL = {command.prog: command for parser in PARSERS.values() for command in commands(parser)}


def test_every_command_has_examples_and_no_example_is_left_over() -> None:
    assert set(EXAMPLES) == set(ALL)


@pytest.mark.parametrize("prog", sorted(ALL))
def test_help_says_what_everything_is(prog: str) -> None:
    silent = [action.dest for action in ALL[prog]._actions if not action.help]
    assert silent == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["stats"], "'stats' is not a command; did you mean status?"),
        (["config", "shw"], "'shw' is not a command; did you mean show?"),
        (["status", "--confg", "x"], "'--confg x' is not understood; did you mean --config?"),
        (["peer", "list", "more"], "chexfract-node peer list: error: 'more' is not understood"),
        (["xyz"], "'xyz' is not a command; known: demo, serve,"),
    ],
)
def test_a_command_that_is_not_known_leads_to_the_nearest(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        node_cli.main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert "role" not in said


@pytest.mark.parametrize("prog", sorted(ALL))
def test_help_shows_examples_that_parse_and_the_exit_codes(prog: str) -> None:
    text = ALL[prog].format_help()
    assert EXIT_CODES in text
    for line in EXAMPLES[prog]:
        assert line in text
        assert max(len(part) for part in text.splitlines()) <= 100
        words = shlex.split(line.rpartition("| ")[2].partition(" <")[0])
        PARSERS[words[0]].parse_args(words[1:])
        assert line.rpartition("| ")[2].startswith(prog)


@pytest.mark.parametrize("name", ["Doe^Jane", "山田^太郎=やまだ", "\x1b[31mRED^" + "X" * 60])
def test_status_fits_80_columns_and_names_patient_and_accession(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    uid = "1." + "2" * 62
    ledger.instances.receive(
        instance(
            sop_instance_uid=uid, patient_name=name, patient_id="P-1", accession_number="A-2026-1"
        ),
        (),
    )
    show.status(ledger, limit=5, as_json=False)
    out = capsys.readouterr().out
    assert name.split("^")[0].replace("\x1b", "?") in out
    assert "A-2026-1" in out
    assert uid in out
    assert "\x1b" not in out
    assert max(cell_len(line) for line in out.splitlines()) <= 80


def test_a_package_that_is_not_installed_is_named_with_what_installs_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`pip install .` brings the worker's command without what it needs."""

    def act(_: argparse.Namespace) -> int:
        raise ModuleNotFoundError("No module named 'numpy.linalg'", name="numpy.linalg")

    parser = CommandParser(prog="chexfract-worker")
    parser.set_defaults(act=act)
    assert run(parser, []) == ConfigurationError.exit_code
    said = capsys.readouterr().err
    assert said.startswith("chexfract-worker: numpy is not installed: ")
    assert said.endswith(" -m pip install 'chexfract-node[worker]'\n")


def test_trace_keeps_each_time_in_one_piece(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal of 80 columns folds the details."""
    facts = instance(sop_instance_uid="1.2.3", calling_ae="A-LONG-AE-TITLE-")
    ledger.instances.receive(facts, ())
    show.trace(Settings(), ledger, "1.2.3", as_json=False)
    received = [line for line in capsys.readouterr().out.splitlines() if "received" in line]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\S*\d\d:\d\d  received ", received[0])


def test_trace_says_of_which_report_each_delivery_is(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    reported(ledger)
    show.trace(Settings(), ledger, "1.2.3.1", as_json=False)
    assert "\nsr to archive: pending" in capsys.readouterr().out
    ledger.acts.replay("1.2.3.1")
    post(ledger, (ticket := taken(ledger)), result(ticket, 2))
    show.trace(Settings(), ledger, "1.2.3.1", as_json=False)
    shown = capsys.readouterr().out
    assert "\nreport 1: sr to archive: pending" in shown
    assert "\nreport 2: sr to archive: pending" in shown


def typed(folder: Path, *words: str) -> int:
    """Type a command beside a configuration of one peer and one rule."""
    config = folder / "node.toml"
    config.write_text(
        f"[node]\ndata_dir = '{folder}'\n"
        '[peers.archive]\nae_title = "PACS"\nhost = "10.0.0.7"\nport = 104\n'
        '[[rules]]\nname = "chest"\nmodel = "phantom"\nmode = "shadow"\n'
    )
    return node_cli.main([*words, "--config", str(config)])


def test_an_act_that_changes_nothing_says_so_and_ends_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger.open(fresh(tmp_path))
    reported(ledger)
    assert typed(tmp_path, "settle", "1.2.3.1", "--as", "sent", "--to", "pacs") == 1
    assert "not settled: nothing of it waits for pacs\n" in capsys.readouterr().out
    assert typed(tmp_path, "settle", "1.2.3.1", "--as", "sent") == 0
    assert typed(tmp_path, "settle", "1.2.3.1", "--as", "sent") == 1
    assert "not settled: nothing of it waits\n" in capsys.readouterr().out
    ledger.instances.receive(instance(2), ())
    assert typed(tmp_path, "resend", "1.2.3.2") == 1
    ledger.close()


@pytest.mark.parametrize(
    ("kind", "name", "known"),
    [
        ("destination", "pacs", "archive"),
        ("rule", "chests", "chest"),
        ("model", "phntm", "phantom"),
    ],
)
def test_a_hold_of_what_the_configuration_does_not_name_is_noted(
    kind: str, name: str, known: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name with a slip holds nothing, and the person would believe that it did."""
    Ledger.open(fresh(tmp_path)).close()
    assert typed(tmp_path, "hold", kind, known) == 0
    assert capsys.readouterr().err == ""
    assert typed(tmp_path, "hold", kind, name) == 0
    assert f"node.toml has no {kind} {name!r}; it has {known}" in capsys.readouterr().err
