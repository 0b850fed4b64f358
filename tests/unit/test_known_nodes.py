"""Which nodes a worker talks to, and with which secret."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.logs import Sparse
from worker.cli import main
from worker.service.nodes import Nodes, check_nodes, check_secret, shown_url
from worker.settings import Worker


def bearer(nodes: Nodes, url: str) -> str:
    node = nodes.find(url)
    assert node is not None
    return str(node._http.headers["authorization"])


def test_announce_names_known_nodes_too() -> None:
    worker = Worker(announce=("http://a:8080",))
    nodes = Nodes(worker, "s" * 20)
    assert nodes.find("http://a:8080/") is not None
    assert nodes.find("http://b:8080") is None


def test_nodes_on_one_pool_need_not_share_a_secret(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("the secret of b, alone\n")
    entry = {"url": "https://b", "secret_file": tmp_path / "b"}
    nodes = Nodes(Worker(nodes=("http://a:8080", entry)), "the secret of all others")
    assert bearer(nodes, "http://a:8080") == "Bearer the secret of all others"
    assert bearer(nodes, "https://b:443/") == "Bearer the secret of b, alone"


def test_a_secret_of_its_own_is_enough(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("the secret of b, alone")
    entry = {"url": "http://b", "secret_file": tmp_path / "b"}
    assert len(Nodes(Worker(nodes=(entry,)), "").all()) == 1
    with pytest.raises(ConfigurationError, match="no secret for http://a"):
        check_nodes(Worker(nodes=(entry, "http://a")), "")


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ((), "no node is known"),
        (("node:8080",), "not an http"),
        (("http://user:password@node",), "neither user nor query"),
        (("http://node:port",), "Port"),
        (({"url": "http://b", "secret_file": "/nowhere"},), "/nowhere"),
    ],
)
def test_nodes_that_cannot_be_meant_are_refused_in_one_line(nodes: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as refused:
        Nodes(Worker(nodes=nodes), "s" * 20)
    assert "\n" not in str(refused.value)
    assert "password" not in str(refused.value)


def test_a_worker_that_knows_no_node_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHEXFRACT_WORKER_WORKER__SECRET", "s" * 20)
    config = tmp_path / "worker.toml"
    config.write_text("[worker]\n")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # `run` sets its own
    assert main(["run", "--config", str(config)]) == 78
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "worker.nodes" in said[0]


def test_a_check_of_the_file_looks_at_the_addresses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "worker.toml"
    config.write_text('[worker]\nnodes = ["node:8080"]\n')
    assert main(["config", "check", "--config", str(config)]) == 78
    assert "worker.toml: worker.nodes: node:8080: not an http:// or" in capsys.readouterr().err
    config.write_text('[worker]\nnodes = ["https://node:8080"]\n')
    assert main(["config", "check", "--config", str(config)]) == 0


def test_a_foreign_address_is_shown_short_and_plain() -> None:
    assert shown_url("http://user:word@evil/\n\x1b[2J" + "a" * 10_000).startswith(
        "http://evil/??[2J"
    )
    assert len(shown_url("http://" + "a" * 10_000)) <= 80


def test_lines_that_strangers_cause_are_few_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [1000.0]
    monkeypatch.setattr("dicom_node.base.logs.time.monotonic", lambda: at[0])
    lines = Sparse(logging.getLogger("strangers"), per_minute=3)
    for count in range(50):
        lines.warning("refused %d", count)
    assert [line.getMessage() for line in caplog.records] == ["refused 0", "refused 1", "refused 2"]
    at[0] += 61
    lines.warning("refused again")
    assert [line.getMessage() for line in caplog.records][3:] == [
        "47 more lines like the next one were left out", "refused again",
    ]  # fmt: skip


@pytest.mark.parametrize("secret", [b"of two\nlines", b"gr\xc3\xbc\xc3\x9fe", b"\xff\xfe\0s"])
def test_a_secret_that_no_header_can_carry_is_refused_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    secret: bytes,
) -> None:  # fmt: skip
    monkeypatch.delenv("CHEXFRACT_WORKER_WORKER__SECRET", raising=False)
    (tmp_path / "secret").write_bytes(secret)
    config = tmp_path / "worker.toml"
    config.write_text(f"[worker]\nnodes = ['http://a']\nsecret_file = '{tmp_path}/secret'\n")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # `run` sets its own
    assert main(["run", "--config", str(config)]) == 78
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "a secret is one line of ASCII characters" in said[0]
    with pytest.raises(ConfigurationError, match="a secret is one line"):
        Nodes(Worker(nodes=({"url": "http://b", "secret_file": tmp_path / "secret"},)), "")
    assert check_secret("from an environment\n", "SECRET") == "from an environment"
