"""Export gives what was asked for, harmlessly, and nobody's identity when asked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import NOW, fresh, instance, on, post, reported, result, route, taken

from dicom_node.base.errors import ConfigurationError
from dicom_node.cli import main
from dicom_node.operate.export import COLUMNS, FORMULAS, IDENTIFIERS, moment, plain_cell
from dicom_node.store.ledger import Ledger

SINCE = datetime.fromtimestamp(NOW - 60, UTC).isoformat()


@pytest.fixture
def config(tmp_path: Path) -> Iterator[tuple[Path, Ledger]]:
    path = tmp_path / "node.toml"
    path.write_text(f"[node]\ndata_dir = {json.dumps(str(tmp_path))}\n")
    ledger = Ledger.open(fresh(tmp_path))
    yield path, ledger
    ledger.close()


def exported(config: Path, *options: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["export", "--config", str(config), "--since", SINCE, *options]) == 0
    return capsys.readouterr().out


def test_a_result_is_one_line_with_text_findings_and_times(
    config: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str]
) -> None:
    path, ledger = config
    on(ledger, NOW).instances.receive(instance(), [route()])
    ticket = taken(ledger, at=NOW + 1)
    found = ({"bone": "rib", "number": "5", "side": "left"},)
    answer = result(ticket, text="Fracture.", presence="present", fractures=found)
    post(ledger, ticket, answer, NOW + 2)
    (line,) = exported(path, "--format", "jsonl", capsys=capsys).splitlines()
    row = json.loads(line)
    assert tuple(row) == COLUMNS
    assert (row["text"], row["presence"], row["model_ms"]) == ("Fracture.", "present", 30.0)
    assert row["fractures"][0]["number"] == "5"
    assert row["patient_id"] == "PID1"
    assert row["received_at"] < row["started_at"] < row["ended_at"]
    assert "patient_name" not in row


def test_csv_and_json_lines_tell_the_same(
    config: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str]
) -> None:
    path, ledger = config
    for n in range(3):
        reported(ledger, n, NOW + n)
    table = list(csv.DictReader(io.StringIO(exported(path, capsys=capsys))))
    lines = exported(path, "--json", capsys=capsys).splitlines()
    assert [row["job"] for row in table] == [json.loads(line)["job"] for line in lines]
    assert [row["state"] for row in table] == ["reported"] * 3
    assert [row["demonstration"] for row in table] == ["1"] * 3


def test_only_what_was_received_in_the_time_is_exported(
    config: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str]
) -> None:
    path, ledger = config
    for n, at in enumerate((NOW - 3600, NOW, NOW + 3600)):
        reported(ledger, n, at)
    until = datetime.fromtimestamp(NOW + 60, UTC).isoformat()
    lines = exported(path, "--json", "--until", until, capsys=capsys).splitlines()
    assert [json.loads(line)["sop_instance_uid"] for line in lines] == ["1.2.3.1"]


def test_more_results_than_a_page_are_exported_once_each(
    config: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.store.ledger.results._PAGE", 2)
    path, ledger = config
    for n in range(7):
        on(ledger, NOW).instances.receive(instance(n), [route()])  # all in the same moment
    lines = exported(path, "--json", capsys=capsys).splitlines()
    assert sorted(json.loads(line)["sop_instance_uid"] for line in lines) == [
        f"1.2.3.{n}" for n in range(7)
    ]


def test_deidentified_lines_hold_no_identifier_and_are_the_same_each_time(
    config: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str]
) -> None:
    path, ledger = config
    reported(ledger)
    plain = json.loads(exported(path, "--json", capsys=capsys))
    first = exported(path, "--json", "--deid", capsys=capsys)
    assert exported(path, "--json", "--deid", capsys=capsys) == first
    hidden = json.loads(first)
    for name in (column for column in IDENTIFIERS if plain[column]):
        assert hidden[name] != plain[name]
        assert str(plain[name]) not in first or len(str(plain[name])) < 4
    assert hidden["text"] == plain["text"]
    assert (path.parent / "deid.key").stat().st_mode & 0o077 == 0


def test_a_deidentified_export_tells_nobody_where_when_and_who(
    config: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str]
) -> None:
    path, ledger = config
    ticket = reported(ledger)
    comment = "Old rib fracture; Doe, Jane (ACC1) has had it since 2019-03-04."
    on(ledger, NOW + 5).acts.judge(ticket.job, "disagree", "dr.house", "phone Jane", comment)
    plain = json.loads(exported(path, "--json", capsys=capsys))
    text = exported(path, "--json", "--deidentify", capsys=capsys)
    assert exported(path, "--json", "--deidentify", capsys=capsys) == text
    hidden = json.loads(text)
    for name in (*IDENTIFIERS, "received_at", "judged_at"):
        assert not plain[name] or hidden[name] != plain[name], name
    for mark in ("dr.house", "phone", "2019-03-04", plain["patient_id"], plain["calling_ae"]):
        assert mark not in text
    assert hidden["corrected_text"].startswith("Old rib fracture; ")
    assert (hidden["judgement"], hidden["presence"]) == ("disagree", plain["presence"])
    assert hidden["body_part"] in ("", plain["body_part"])
    span = [datetime.fromisoformat(plain[n]) - datetime.fromisoformat(hidden[n])
            for n in ("received_at", "judged_at")]  # fmt: skip
    assert abs((span[0] - span[1]).total_seconds()) < 1
    assert span[0].total_seconds() > 86400


def test_a_sandbox_always_deidentifies(
    config: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str]
) -> None:
    path, ledger = config
    reported(ledger)
    plain = json.loads(exported(path, "--json", capsys=capsys))
    path.write_text(path.read_text() + '[sandbox]\ndeidentify = true\ndates = "remove"\n')
    hidden = json.loads(exported(path, "--json", capsys=capsys))
    assert hidden["patient_id"] != plain["patient_id"]
    assert hidden["received_at"] is None
    assert hidden["sop_instance_uid"].startswith("2.25.")


def test_one_patient_has_one_hash_and_other_nodes_have_others(
    config: tuple[Path, Ledger], capsys: pytest.CaptureFixture[str]
) -> None:
    path, ledger = config
    reported(ledger, 1)
    reported(ledger, 2, NOW + 1)
    lines = exported(path, "--json", "--deid", capsys=capsys).splitlines()
    ids = {json.loads(line)["patient_id"] for line in lines}
    assert len(ids) == 1
    (path.parent / "deid.key").unlink()
    again = exported(path, "--json", "--deid", capsys=capsys).splitlines()
    assert {json.loads(line)["patient_id"] for line in again}.isdisjoint(ids)


def test_a_file_of_results_is_private(config: tuple[Path, Ledger], tmp_path: Path) -> None:
    path, ledger = config
    reported(ledger)
    out = tmp_path / "results.csv"
    assert main(["export", "--config", str(path), "--since", SINCE, "--out", str(out)]) == 0
    assert out.stat().st_mode & 0o777 == 0o600
    with out.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 2


@pytest.mark.parametrize("start", FORMULAS)
def test_a_cell_that_a_spreadsheet_would_run_becomes_text(start: str) -> None:
    assert plain_cell(f"{start}HYPERLINK(A1)") == f"'{start}HYPERLINK(A1)"
    assert plain_cell(f"  {start}1") == f"'  {start}1"


@given(st.one_of(st.text(), st.lists(st.text()), st.none(), st.booleans(), st.floats()))
def test_no_cell_starts_as_a_formula_and_all_read_back(value: object) -> None:
    cell = plain_cell(value)
    if isinstance(cell, str):
        assert not cell.lstrip(" ").startswith(FORMULAS)
    if isinstance(value, str):
        assert cell in (value, f"'{value}")
        file = io.StringIO(newline="")
        csv.writer(file, quoting=csv.QUOTE_NONNUMERIC).writerow([cell])
        file.seek(0)
        assert next(csv.reader(file)) == [cell]


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", ""])
def test_a_date_that_is_none_is_named_with_its_flag(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--since"):
        moment(text, "--since")
