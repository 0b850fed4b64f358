"""Init writes configurations that both programs take, and overwrites none."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dicom_node import settings as node_settings
from dicom_node.base.errors import ConfigurationError
from dicom_node.cli import main
from dicom_node.flow import routing
from dicom_node.operate.init import init
from worker import settings as worker_settings

DRAWN = {"modality": "DX", "body_part": "CHEST", "view": "PA", "manufacturer": "chexfract-node"}
REAL = DRAWN | {"manufacturer": "Siemens"}


def written(tmp_path: Path, **given: Any) -> node_settings.Settings:
    flags = {name: given.pop(name) for name in ("demonstration", "force") if name in given}
    node, worker = init(tmp_path / "node.toml", given, yes=True, **flags)
    assert worker_settings.load(worker).worker.model == "phantom"
    return node_settings.load(node)


def test_flags_become_keys(tmp_path: Path) -> None:
    known = written(
        tmp_path,
        ae_title='BO"NES',
        port=4104,
        archive_ae="PACS 1",
        archive_host="10.0.0.5",
        archive_port=104,
        web_port=9090,
    )
    archive = known.peers["archive"]
    assert (known.node.ae_title, known.node.port, known.web.port) == ('BO"NES', 4104, 9090)
    assert known.web.url == "http://127.0.0.1:9090"
    assert (archive.ae_title, archive.host, archive.port) == ("PACS 1", "10.0.0.5", 104)
    assert known.node.data_dir == tmp_path / "var"


def test_drawings_go_to_the_archive_and_patients_images_stay(tmp_path: Path) -> None:
    known = written(tmp_path)
    for_drawn, for_real = (routing.decide(known.rules, facts) for facts in (DRAWN, REAL))
    assert for_drawn is not None
    assert for_real is not None
    assert (for_drawn.mode, for_drawn.send_to) == ("live", ("archive",))
    assert for_real.mode == "shadow"


def test_demonstration_reports_on_patients_images_are_a_choice(tmp_path: Path) -> None:
    rule = routing.decide(written(tmp_path, demonstration=True).rules, REAL)
    assert rule is not None
    assert (rule.mode, rule.allow_demonstration) == ("live", True)


@pytest.mark.parametrize("name", ["node.toml", "worker.toml"])
def test_a_file_that_is_there_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("# mine")
    with pytest.raises(ConfigurationError, match="--force"):
        written(tmp_path)
    assert (tmp_path / name).read_text() == "# mine"
    assert len(list(tmp_path.iterdir())) == 1
    assert written(tmp_path, force=True).peers


@pytest.mark.parametrize(
    ("key", "value"),
    [("ae_title", "LONGER_THAN_SIXTEEN"), ("ae_title", "  "), ("archive_port", 70000)],
)
def test_a_wrong_answer_is_refused_before_anything_is_written(
    tmp_path: Path, key: str, value: Any
) -> None:
    with pytest.raises(ConfigurationError, match=key):
        written(tmp_path, **{key: value})
    assert list(tmp_path.iterdir()) == []


def test_on_a_terminal_it_asks_what_no_flag_said_until_it_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said = "BACK\\SLASH\nBONES\nPACS\n\nmany\n104\n"
    monkeypatch.setattr("sys.stdin", Terminal(said))
    node, _ = init(tmp_path / "node.toml", {"port": 4104})
    known = node_settings.load(node)
    archive = known.peers["archive"]
    assert (known.node.ae_title, known.node.port) == ("BONES", 4104)
    assert (archive.ae_title, archive.host, archive.port) == ("PACS", "127.0.0.1", 104)
    assert "archive_port: 'many'" in capsys.readouterr().err


def test_init_offers_https_by_a_certificate_of_the_site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "node.toml"
    main(["init", "--out", str(out), "--yes", "--certificate", "node.example", "--json"])
    settings = node_settings.load(out)
    assert settings.web.url == "https://node.example:8080"
    assert settings.web.certificate is not None
    worker = worker_settings.load(tmp_path / "worker.toml").worker
    assert worker.ca == tmp_path / "var" / "ca" / "ca.pem"
    assert [getattr(node, "url", node) for node in worker.nodes] == [settings.web.url]
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["tls web"]["verdict"] == "pass"
    assert main(["init", "--out", str(out), "--yes", "--force", "--certificate", "a b"]) == 78


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ae_title", "SEVENTEEN_LETTERS", "is not an AE title; write 1 to 16 ASCII characters"),
        ("archive_host", "http://pacs", "is not a host; write a name or an address alone"),
        ("archive_port", "many", "is not a port; write a number from 1 to 65535"),
    ],
)
def test_an_answer_that_cannot_be_is_refused_in_plain_words(
    tmp_path: Path, key: str, value: str, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        init(tmp_path / "node.toml", {key: value}, yes=True)


def test_without_a_terminal_it_says_what_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("PACS\n"))
    init(tmp_path / "node.toml", {"archive_ae": "PACS"})
    assert "taken: ae_title CHEXFRACT, port 11112, archive_ae PACS" in capsys.readouterr().err
