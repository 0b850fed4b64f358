"""`config check` says what a right configuration does not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.cli import main

RULE = """
[[rules]]
name = "all"
allow_demonstration = true
"""


def notes(folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> str:
    config = folder / "node.toml"
    config.write_text(text, encoding="utf-8")
    assert main(["config", "check", "--config", str(config)]) == 0
    return capsys.readouterr().out


def test_reports_for_http_clients_are_said_to_be_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "fetched by WADO-RS" in notes(tmp_path, capsys, RULE)
    peer = '[peers.archive]\nae_title = "ARCHIVE"\nhost = "127.0.0.1"\nport = 104\n'
    named = peer + RULE + 'send_to = ["@sender", "archive"]\n'
    assert "WADO-RS" not in notes(tmp_path, capsys, named)


@pytest.mark.parametrize(
    ("titles", "is_noted"), [("[]", True), ('["OTHER"]', True), ('["OTHER", "BONES 2"]', False)]
)
def test_a_rule_for_an_ae_title_that_nobody_can_call_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], titles: str, is_noted: bool
) -> None:
    text = f"[node]\nae_titles = {titles}\n" + RULE + 'match.called_ae = ["bones*"]\n'
    assert ("never met" in notes(tmp_path, capsys, text)) is is_noted


@pytest.mark.parametrize(
    ("modalities", "is_noted"), [('["XR"]', True), ('["XR", "DX"]', False), ('["C*"]', False)]
)
def test_a_rule_that_no_radiograph_meets_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], modalities: str, is_noted: bool
) -> None:
    text = RULE + f"match.modality = {modalities}\n"
    assert ("met by no radiograph" in notes(tmp_path, capsys, text)) is is_noted
