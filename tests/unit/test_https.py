"""The web side by HTTPS, and a worker that trusts it by its authority or by itself."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from ports import free_port
from pydantic import ValidationError
from serving import SECRET, Api, serving

from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.base.job import Ticket
from dicom_node.operate import surroundings
from dicom_node.settings import Settings, Web
from worker.service.node import NodeClient

STRANGE = Ticket(job="0" * 32, token="0" * 32)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    authority, other = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    found = {name: tmp_path / f"{name}.pem" for name in ("ca", "other", "node", "key")}
    authority.cert_pem.write_to_path(found["ca"])
    other.cert_pem.write_to_path(found["other"])
    issued.cert_chain_pems[0].write_to_path(found["node"])
    issued.private_key_pem.write_to_path(found["key"])
    return found


@pytest.fixture
def api(tmp_path: Path, files: dict[str, Path]) -> Iterator[Api]:
    port = free_port()
    web: dict[str, Any] = {"certificate": files["node"], "key": files["key"], "port": port}
    with serving(tmp_path / "node", url=f"https://127.0.0.1:{port}", **web) as running:
        yield running


def claim(url: str, ca: Path | None, secret: str = SECRET) -> str:
    """Ask for a job that does not exist and return how the node said so."""
    with NodeClient(url, secret, timeout_s=5, ca=ca) as node:
        try:
            node.claim(STRANGE, "worker:1")
        except Exception as exc:
            return type(exc).__name__
    return ""


def test_a_worker_trusts_the_authority_or_the_certificate_itself(
    api: Api, files: dict[str, Path]
) -> None:
    url = api.settings.web.url
    assert claim(url, files["ca"]) == claim(url, files["node"]) == "NotFound"
    assert claim(url, files["ca"], secret="wrong secret, long") == "Refused"


@pytest.mark.parametrize("ca", ["other", ""])
def test_a_worker_shows_its_secret_to_nobody_else(
    api: Api, files: dict[str, Path], ca: str
) -> None:
    assert claim(api.settings.web.url, files.get(ca)) == Unreachable.__name__


def test_the_certificate_must_bear_the_name_of_the_node(api: Api, files: dict[str, Path]) -> None:
    url = api.settings.web.url.replace("127.0.0.1", "localhost")
    assert claim(url, files["ca"]) == Unreachable.__name__


def test_pages_come_by_tls_1_2_or_later_and_not_openly(api: Api, files: dict[str, Path]) -> None:
    context = ssl.create_default_context(cafile=files["ca"])
    with urllib.request.urlopen(f"{api.settings.web.url}/healthz", context=context) as answer:
        assert answer.status == 200
    with pytest.raises(OSError, match=r".*"):
        urllib.request.urlopen(f"http://127.0.0.1:{api.settings.web.port}/healthz", timeout=5)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(files["ca"])
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", api.settings.web.port), 5) as line,
        pytest.raises(OSError, match=r".*"),
    ):
        old.wrap_socket(line, server_hostname="127.0.0.1")


def test_open_connections_do_not_hold_up_the_end(
    api: Api, files: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cafile=files["ca"])
    line = socket.create_connection(("127.0.0.1", api.settings.web.port), 5)
    with context.wrap_socket(line, server_hostname="127.0.0.1") as secure:
        secure.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert secure.recv(100).startswith(b"HTTP/1.1 200")
        api.end()
    assert "graceful shutdown exceeded" not in caplog.text


def test_doctor_reaches_the_node_by_https(api: Api) -> None:
    check = surroundings._health_check(api.settings.web.url, api.settings.web.certificate)
    assert check.verdict == "pass", check


def test_https_without_its_url_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(ValidationError, match="url must begin with https"):
        Settings(web={"certificate": files["node"]})


def test_a_file_without_certificates_is_told_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"worker\.ca"):
        NodeClient("https://node:8080", SECRET, ca=tmp_path / "ca.pem")


def test_a_worker_beside_the_node_trusts_its_certificate(files: dict[str, Path]) -> None:
    from dicom_node.run.supervisor import _worker_child

    web = Web(url="https://127.0.0.1:8080", certificate=files["node"])
    child = _worker_child(Path("worker.toml"), "redis://x", True, "s" * 20, Settings(web=web))
    assert child.environment["CHEXFRACT_WORKER_WORKER__CA"] == str(files["node"])
