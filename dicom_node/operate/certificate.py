"""A certificate authority of the site's own, and the node's certificate by it.

Both stand in ``data_dir/ca``. Workers and DICOM peers trust ``ca.pem``; the command again renews
the node's certificate, and nothing changes elsewhere.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dicom_node.base.errors import ConfigurationError
from dicom_node.settings import Settings
from dicom_node.store.clock import HOST_CLOCK

CA_FOR = timedelta(days=3650)
CERTIFICATE_FOR = timedelta(days=397)
"""Longest life that browsers accept."""

COMMAND = "chexfract-node certificate --config node.toml"


def certificate(
    settings: Settings, names: Sequence[str] = (), copy_ca: Path | None = None, *, as_json: bool
) -> Path:
    """Make or renew the node's certificate, print what to write where, return its path.

    Parameters
    ----------
    names : sequence of str
        Host names and addresses of the node beside those of ``web.url``, ``jobs.url`` and this
        machine.
    copy_ca : Path, optional
        Where a copy of the authority's certificate is wanted, for workers.

    Raises
    ------
    ConfigurationError
        A file cannot be read or written.
    """
    folder, wanted = _ca_folder(settings), _certificate_names(settings, names)
    made = _make_certificate(folder, wanted, copy_ca)
    _print_certificate(folder, made, wanted, settings.web.port, as_json=as_json)
    return folder / "node.pem"


def issue(settings: Settings, names: Sequence[str]) -> tuple[Path, Path]:
    """Make or renew the node's certificate; return its path and that of the authority.

    Raises
    ------
    ConfigurationError
        A file cannot be read or written.
    """
    folder = _ca_folder(settings)
    _make_certificate(folder, _certificate_names(settings, names), None)
    return folder / "node.pem", folder / "ca.pem"


def _ca_folder(settings: Settings) -> Path:
    return (settings.node.data_dir / "ca").absolute()


def _make_certificate(folder: Path, wanted: list[str], copy_ca: Path | None) -> x509.Certificate:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority, key = _own_authority(folder)
        made = _issue_signed(folder, authority, key, wanted)
        if copy_ca is not None:
            _write_file(copy_ca, (folder / "ca.pem").read_bytes(), 0o644)
    except (OSError, ValueError) as exc:
        where = getattr(exc, "filename", None) or folder
        what = getattr(exc, "strerror", None) or "not a certificate or key of this command"
        raise ConfigurationError(f"{where}: {what}") from exc
    return made


def _certificate_names(settings: Settings, names: Sequence[str]) -> list[str]:
    """Return the names that the certificate bears, each once."""
    urls = (settings.web.url, settings.jobs_url)
    found = [*names, *(urlsplit(url).hostname or "" for url in urls), socket.gethostname()]
    return list(dict.fromkeys([name for name in found if name] + ["localhost", "127.0.0.1", "::1"]))


def _own_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the authority and its key; made when missing."""
    if (folder / "ca.pem").exists():
        authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("another kind of key")
        return authority, key
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name(f"ChexFract Node authority of {socket.gethostname()}"[:64])
    authority = (
        _certificate_builder(name, name, key.public_key(), CA_FOR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_file(folder / "ca.key", _pem_of(key), 0o600)
    _write_file(folder / "ca.pem", authority.public_bytes(serialization.Encoding.PEM), 0o644)
    return authority, key


def _issue_signed(
    folder: Path,
    authority: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    left = authority.not_valid_after_utc - HOST_CLOCK.utc()
    public = ca_key.public_key()
    made = (
        _certificate_builder(
            _common_name(names[0][:64]),
            authority.subject,
            key.public_key(),
            min(CERTIFICATE_FOR, left),
        )
        .add_extension(
            x509.SubjectAlternativeName([_alternative_name(name) for name in names]), False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    # One file, so that no moment has a certificate beside another's key.
    chain = made.public_bytes(serialization.Encoding.PEM) + _pem_of(key)
    _write_file(folder / "node.pem", chain, 0o600)
    return made


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lives: timedelta
) -> x509.CertificateBuilder:
    now = HOST_CLOCK.utc()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # The clocks of other machines may be behind.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + lives)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode())


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_file(path: Path, content: bytes, mode: int) -> None:
    """Put a file in its place, whole, and never readable by more than `mode` allows."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # the umask may allow less than a copy for others needs
        file.write(content)
    temporary.replace(path)


def _print_certificate(
    folder: Path, made: x509.Certificate, names: Sequence[str], port: int, *, as_json: bool
) -> None:
    until = f"{made.not_valid_after_utc:%Y-%m-%d}"
    if as_json:
        files = {"certificate": str(folder / "node.pem"), "ca": str(folder / "ca.pem")}
        print(json.dumps(files | {"names": list(names), "valid_until": until}, ensure_ascii=False))
        return
    print(f"{folder / 'node.pem'}: for {', '.join(names)}; valid until {until}")
    print("node.toml, then restart serve:")
    url = f"https://{names[0]}:{port}"
    print(f'  [web]\n  certificate = "{folder / "node.pem"}"\n  url = "{url}"')
    print(f"worker.toml, with a copy of {folder / 'ca.pem'} on its machine:")
    print(f'  [worker]\n  ca = "ca.pem"\n  nodes = ["{url}"]')
