"""`config check` names what node.toml asks of this host and this host does not have."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from dicom_node.cli import main
from dicom_node.operate import config_faults
from dicom_node.operate.machine import disk, tls
from dicom_node.settings import Settings, load

OLD = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates and keys, good ones and bad ones."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ours, other = ca.issue_cert("node.example"), ca.issue_cert("other.example")
    expired = ca.issue_cert("node.example", not_before=OLD, not_after=OLD + timedelta(days=9))
    ca.cert_pem.write_to_path(folder / "ca.pem")
    chain = b"".join(part.bytes() for part in ours.cert_chain_pems)
    (folder / "cert.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(ours.private_key_pem.bytes())
    (folder / "both.pem").write_bytes(ours.private_key_pem.bytes() + chain)
    (folder / "behind.pem").write_bytes(chain + ours.private_key_pem.bytes())
    (folder / "other.pem").write_bytes(other.private_key_pem.bytes())
    (folder / "expired.pem").write_bytes(
        expired.private_key_pem.bytes() + expired.cert_chain_pems[0].bytes()
    )
    (folder / "text.pem").write_text("not a PEM file")
    key = serialization.load_pem_private_key(ours.private_key_pem.bytes(), None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = key.private_bytes(*form, serialization.BestAvailableEncryption(b"geheim"))
    (folder / "locked.pem").write_bytes(locked)
    (folder / "broken.pem").write_text(
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )
    return folder


def check(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Return the exit status of `config check` and its lines."""
    config = folder / "node.toml"
    if "data_dir" not in text:
        key = f"data_dir = '{folder / 'data'}'\n"
        head = f"[node]\n{key}"
        text = text.replace("[node]\n", head) if "[node]\n" in text else f"{text}\n{head}"
    config.write_text(text, encoding="utf-8")
    code = main(["config", "check", "--config", str(config)])
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("certificate = 'cert.pem'", "cert.pem holds no private key; write the file of its key as"),
        ("key = 'key.pem'", "node.tls.key: stands alone; name its certificate as"),
        ("ca = 'ca.pem'", "node.tls.ca: stands alone; a port with TLS needs"),
        ("certificate = 'cert.pem'\nkey = 'other.pem'", "does not belong to"),
        ("certificate = 'cert.pem'\nkey = 'locked.pem'", "has a password, and serve has nobody"),
        ("certificate = 'cert.pem'\nkey = 'text.pem'", "text.pem holds no private key in PEM"),
        ("certificate = 'cert.pem'\nkey = 'broken.pem'", "no private key that can be read"),
        ("certificate = 'cert.pem'\nkey = 'nowhere.pem'", "node.tls.key: there is no file"),
        ("certificate = 'text.pem'", "text.pem holds no certificate in PEM form; openssl x509"),
        ("certificate = 'expired.pem'", "ended on 2020-01-10; Renew it"),
        ("certificate = '.'", "is a folder; name the file in it"),
    ],
)
def test_files_of_tls_that_cannot_work_are_one_line_each(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: str, says: str
) -> None:
    table = f"[node.tls]\n{keys}\n".replace(" = '", f" = '{files}/")
    code, lines = check(tmp_path, table, capsys)
    assert code == 78
    assert len(lines) == 1
    assert lines[0].startswith(f"{tmp_path / 'node.toml'}: node.tls.")
    assert says in lines[0]


@pytest.mark.parametrize("name", ["both.pem", "behind.pem"])
def test_a_certificate_and_its_key_may_stand_in_one_file(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    table = f"[node.tls]\ncertificate = '{files / name}'\nca = '{files / 'ca.pem'}'\n"
    assert check(tmp_path, table, capsys) == (0, [])


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("[web]\nurl = 'https://a.example'\ncertificate = 'cert.pem'", "web.certificate"),
        ("[broker]\nurl = 'rediss://a.example'\nca = 'nowhere.pem'", "broker.ca"),
        ("[audit]\ntls.key = 'key.pem'", "audit.tls.key"),
        ("[peers.a]\nae_title='A'\nhost='a'\nport=1\ntls.ca='text.pem'", "peers.a.tls.ca"),
    ],
)
def test_every_end_of_tls_is_looked_at(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, key: str
) -> None:
    for name in ("cert.pem", "nowhere.pem", "key.pem", "text.pem"):
        table = table.replace(name, str(files / name))
    code, lines = check(tmp_path, table, capsys)
    assert (code, [line.split(": ")[1] for line in lines]) == (78, [key])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[node]\ndata_dir = ''", "node.data_dir: is not a folder of its own; write one, such as"),
        ("[node]\ndata_dir = '/'", "node.data_dir: is not a folder of its own"),
        ("[node]\ndata_dir = 'FILE'", "FILE is a file; name a folder"),
        ("[node]\ndata_dir = 'FILE/data'", "FILE is a file; name a folder"),
        ("[node]\ndata_dir = 'LOGS'", "node.data_dir: the logs: LOGS/log is a file"),
        ("[audit]\nfile = 'FILE/audit.xml'", "audit.file: FILE is a file; name a folder"),
        ("[retention]\nmin_free = '900000TB'", "in all: every image would be refused; write less"),
        ("[web]\nurl = 'http://0.0.0.0:8080'", "web.url: 0.0.0.0 belongs to no machine"),
        ("[jobs]\nurl = 'http://[::]:8080'", "jobs.url: :: belongs to no machine"),
        ("[web]\nurl = 'http://a.example:99999'", "web.url: its host or port is not right"),
        ("[web]\nurl = 'http://a b'", "web.url: this names no host"),
        ("[node]\nport = 0", "node.port: 0 is another port at each start; write a fixed one"),
        ("[web]\nport = 0", "web.port: 0 is another port at each start; write a fixed one"),
        ("[web]\nport = 8443\n[jobs]\nport = 8443", "web.port and jobs.port are both 8443"),
        ("[node]\nport = 8443\n[jobs]\nport = 8443", "node.port and jobs.port are both 8443"),
        ("[jobs]\nsecret_file = 'nowhere'", "jobs.secret_file: nowhere: No such file"),
        ("[web]\ndicomweb_secret_file = 'nowhere'", "web.dicomweb_secret_file: there is no file"),
        ("[notify]\nwebhook = 'chat.example'", "notify.webhook: this is not an address"),
        (
            "[notify]\nmail_to = ['a@b', 'Ann <a@b']\nmail_from = 'Node <c@d>'",
            "notify.mail_to: 'Ann <a@b' is not a mail address; write name@host alone",
        ),
        ("[notify]\nmail_to=['a@b']\nmail_from=\"c@d\\nBcc: x@y\"", "notify.mail_from: 'c@d\\nBcc"),
        ("[audit]\nsyslog = 'tcp://log.example:99999'", "audit.syslog: 99999 is not a port"),
        (
            "[peers.archive]\nae_title = 'PACS'\nhost = '127.0.0.1'\nport = 11112",
            "peers.archive.port: 127.0.0.1 port 11112 is this node itself",
        ),
        ("[dispatch]\nlease = 0", "dispatch.lease: 0 is out of range; write more than 0"),
        ("[dispatch]\nlease = -5", 'dispatch.lease: -5 is not a duration; write "24h"'),
        ("[retention]\nimages = '-1h'", "retention.images: '-1h' is not a duration"),
        ("[web]\nproxy_header = \"X-User\\nX\"\nproxy_addresses = ['10.0.0.1']", "web.proxy_head"),
        ("[report]\nseries_description = 'a\\b'", "without a backslash or a line break"),
        ("[report]\nseries_description = 'AI \u0085'", "without a backslash or a line break"),
        ("[peers.a]\nae_title = 'A\\B'\nhost = 'a'\nport = 104", "'A\\\\B' is not an AE title"),
        ("[retention_time]\nimages = '1h'", "retention_time: unknown key; did you mean retention?"),
    ],
)
def test_what_this_host_does_not_have_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    file, logs = tmp_path / "file", tmp_path / "logs"
    file.touch()
    logs.mkdir()
    (logs / "log").touch()
    text = text.replace("FILE", str(file)).replace("LOGS", str(logs))
    code, lines = check(tmp_path, text, capsys)
    assert code == 78
    assert len(lines) == 1
    assert says.replace("FILE", str(file)).replace("LOGS", str(logs)) in lines[0]


def test_a_folder_that_this_user_cannot_write_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    fault = config_faults.why_unusable(tmp_path)
    assert f"{tmp_path} cannot be written by this user" in fault
    assert f"chown {os.geteuid()} {tmp_path}" in fault
    # what is above a folder that is not there yet is others', too
    fault = config_faults.why_unusable(tmp_path / "data")
    assert f"{tmp_path} cannot be written by this user" in fault
    assert fault.endswith(f"or make {tmp_path / 'data'} for it")


def test_a_folder_behind_one_that_may_not_be_entered_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, look = tmp_path / "private" / "data", Path.stat

    def stat(path: Path, **keys: bool) -> os.stat_result:
        if tmp_path / "private" in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **keys)

    hidden.parent.mkdir()
    monkeypatch.setattr(Path, "stat", stat)  # root may enter everywhere
    monkeypatch.setattr(os, "access", lambda *_: False)
    (fault,) = config_faults.config_faults(Settings(node={"data_dir": hidden}))
    assert fault.startswith(f"node.data_dir: {hidden.parent} cannot be written by this user")


@pytest.mark.parametrize(
    "keys",
    [
        "[jobs]\nsecret_file = 'PIPE'",
        "[web]\nsecret_file = 'PIPE'",
        "[web]\ndicomweb_secret_file = 'PIPE'",
        "[node.tls]\ncertificate = 'PIPE'",
    ],
)
def test_what_is_no_file_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    code, (line,) = check(tmp_path, keys.replace("PIPE", str(tmp_path / "pipe")), capsys)
    assert code == 78
    assert f"{tmp_path / 'pipe'} is not a plain file; name another" in line


def test_the_faults_stand_in_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\ndata_dir = '{tmp_path}'\n[web]\nurl = 'http://0.0.0.0'\n")
    assert main(["config", "check", "--config", str(config), "--json"]) == 78
    (fault,) = json.loads(capsys.readouterr().out)["faults"]
    assert fault.startswith("web.url: 0.0.0.0")


def test_a_bundle_of_authorities_may_hold_some_that_have_ended(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, ended = tmp_path / "bundle.pem", (files / "expired.pem").read_bytes()
    table = f"[broker]\nurl = 'rediss://a.example'\nca = '{bundle}'"
    bundle.write_bytes(ended + (files / "ca.pem").read_bytes())
    assert check(tmp_path, table, capsys) == (0, [])
    bundle.write_bytes(ended)
    code, (line,) = check(tmp_path, table, capsys)
    assert code == 78
    assert "broker.ca: A certificate is not valid any more" in line


def test_certificates_and_keys_of_unknown_kinds_end_no_check(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # X.509 of a version that does not exist
    der = ssl.PEM_cert_to_DER_cert((files / "ca.pem").read_text())
    place = der.index(bytes.fromhex("a003020102")) + 4
    odd = tmp_path / "odd.pem"
    odd.write_text(ssl.DER_cert_to_PEM_cert(der[:place] + b"\x07" + der[place + 1 :]))
    code, (line,) = check(tmp_path, f"[broker]\nurl = 'rediss://a.example'\nca = '{odd}'", capsys)
    assert (code, f"{odd} holds no certificate of X.509" in line) == (78, True)
    # on the curve SM2, which OpenSSL knows and the library that looks here does not
    key = tmp_path / "sm2.pem"
    made = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "SM2", "-out", str(key)],
        capture_output=True,
        check=False,
    )
    if made.returncode == 0:
        text = f"[node.tls]\ncertificate = '{files / 'cert.pem'}'\nkey = '{key}'"
        assert check(tmp_path, text, capsys) == (0, [])


def test_certificates_of_openssl_with_their_trust_are_taken(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TLS takes what ``openssl x509 -trustout`` writes; so does the check, which dates it too."""
    made: dict[str, Path] = {}
    for name in ("cert", "ca", "expired"):
        made[name] = tmp_path / f"{name}.pem"
        command = ["openssl", "x509", "-in", str(files / f"{name}.pem"), "-out", str(made[name])]
        more = ["-trustout", "-addtrust", "serverAuth", "-setalias", "ours"]
        subprocess.run([*command, *more], check=True, capture_output=True)
        assert b"BEGIN TRUSTED CERTIFICATE" in made[name].read_bytes()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made["cert"], files / "key.pem")
    context.load_verify_locations(made["ca"])
    table = "[node.tls]\ncertificate = '{cert}'\nkey = '{key}'\nca = '{ca}'\n"
    whole = table.format(**made, key=files / "key.pem")
    assert check(tmp_path, whole, capsys) == (0, [])
    code, (line,) = check(tmp_path, whole.replace("ca.pem", "expired.pem"), capsys)
    assert (code, "A certificate is not valid any more" in line) == (78, True)
    made["ca"].write_text(made["ca"].read_text().replace("MII", "AII", 1))
    code, (line,) = check(tmp_path, whole, capsys)
    assert (code, "holds no certificate in PEM form" in line) == (78, True)


def test_what_works_here_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = "[peers.archive]\nae_title = 'PACS'\nhost = '127.0.0.1'\nport = 11112"
    text = f"[node]\nhost = '192.0.2.7'\n{archive}"
    assert check(tmp_path, text, capsys) == (0, [])
    mail = "[notify]\nmail_to = ['Ann Doe <a@b.example>']\nmail_from = 'c@d'"
    assert check(tmp_path, mail, capsys) == (0, [])


def test_doctor_says_the_same_of_tls_and_folders(files: Path, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        f"[node]\ndata_dir = '{files / 'key.pem'}'\ntls.certificate = '{files / 'cert.pem'}'\n"
    )
    settings: Settings = load(config)
    (found,) = tls(settings)
    assert (found.name, found.verdict) == ("tls node", "fail")
    assert "holds no private key" in found.what
    (found,) = disk(settings)
    assert (found.verdict, found.advice) == ("fail", "name a folder as node.data_dir")
