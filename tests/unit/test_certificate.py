"""A certificate of the site's own: made, trusted, renewed; and what doctor says of none."""

from __future__ import annotations

import json
import ssl
import stat
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from serving import serving

from dicom_node.cli import main
from dicom_node.operate import surroundings
from dicom_node.operate.certificate import certificate
from dicom_node.settings import Settings


def made(folder: Path, *names: str, **web: Any) -> Path:
    settings = Settings(node={"data_dir": folder}, web=web)
    return certificate(settings, names, as_json=True)


def loaded(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_node_answers_by_https_to_who_trusts_the_authority(tmp_path: Path) -> None:
    path = made(tmp_path)
    trusting = ssl.create_default_context(cafile=path.with_name("ca.pem"))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    web: dict[str, Any] = {"certificate": path, "url": "https://localhost"}
    with serving(tmp_path, **web) as api:
        port = api.settings.web.port
        for name in ("localhost", "127.0.0.1"):
            answer = httpx2.get(f"https://{name}:{port}/healthz", verify=trusting, trust_env=False)
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"https://127.0.0.1:{port}/healthz", trust_env=False)


def test_a_renewal_keeps_the_authority(tmp_path: Path) -> None:
    path = made(tmp_path, "node.hospital")
    before, authority = loaded(path), path.with_name("ca.pem").read_bytes()
    after = loaded(made(tmp_path, "node.hospital", "10.0.0.7"))
    assert path.with_name("ca.pem").read_bytes() == authority
    assert before.serial_number != after.serial_number
    names = after.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName)[0] == "node.hospital"
    assert "10.0.0.7" in map(str, names.get_values_for_type(x509.IPAddress))


def test_the_keys_are_for_their_owner(tmp_path: Path) -> None:
    path = made(tmp_path)
    modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    assert modes == {"ca.key": 0o600, "ca.pem": 0o644, "node.pem": 0o600}


def test_the_command_says_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\ndata_dir = {json.dumps(str(tmp_path / 'var'))}\n")
    copy = tmp_path / "for-workers.pem"
    command = ["certificate", "--config", str(config), "--name", "node.hospital"]
    assert main([*command, "--copy-ca", str(copy)]) == 0
    said = capsys.readouterr().out
    assert 'nodes = ["https://node.hospital:8080"]' in said
    assert copy.read_bytes() == (tmp_path / "var/ca/ca.pem").read_bytes()
    (tmp_path / "var/ca/ca.key").write_text("broken")
    assert main(command) == 78
    assert "not a certificate or key" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("web", "is_warned"),
    [
        ({"host": "127.0.0.1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "url": "https://node:8080"}, False),
    ],
)
def test_a_job_api_open_to_the_network_is_a_warning(web: dict[str, str], is_warned: bool) -> None:
    found = list(surroundings._open_jobs(Settings(web=web)))
    assert [check.verdict for check in found] == (["warn"] if is_warned else [])
    assert all("chexfract-node certificate" in check.advice for check in found)


def test_metrics_can_be_for_this_machine_alone(tmp_path: Path) -> None:
    with serving(tmp_path, metrics="loopback") as api:
        assert httpx2.get(f"{api.url}/metrics", trust_env=False).status_code == 200
        proxied = {"X-Forwarded-For": "192.0.2.7"}
        answer = httpx2.get(f"{api.url}/metrics", headers=proxied, trust_env=False)
        assert answer.status_code == 403
