"""What node.toml names and this host does not have: files, folders, addresses; one line for each.

The settings themselves say what is wrong with a key whatever the host; here the host is looked at,
before `serve` meets the same in the middle of its start, or a worker in the middle of the night.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import Certificate, InvalidVersion

from dicom_node import conditions
from dicom_node.base.addresses import is_loopback, parse_address
from dicom_node.base.errors import ConfigurationError
from dicom_node.base.pem import read_certificates
from dicom_node.credentials import read_secret
from dicom_node.settings import Settings, Tls

_MAIL = re.compile(r"[^@\s<>]+@[^@\s<>]+")


def config_faults(settings: Settings) -> Iterator[str]:
    """Yield ``key: what is wrong; what to do`` for each thing that this host does not have."""
    yield from _folder_faults(settings)
    yield from _secret_faults(settings)
    for name, end in tls_files(settings).items():
        yield from list(tls_faults(name, end)) or _date_faults(name, end)
    yield from address_faults(settings)


def address_faults(settings: Settings) -> Iterator[str]:
    """Yield those of addresses: of this node, its peers, and whom it notifies."""
    yield from _url_faults(settings)
    yield from _peer_faults(settings)
    yield from _notice_faults(settings)


def port_faults(settings: Settings) -> Iterator[str]:
    """Yield ports that are others at each start: tests ask for such, a site cannot use them."""
    for key, port, usual in (("node", settings.node.port, 11112), ("web", settings.web.port, 8080)):
        if port == 0:
            yield f"{key}.port: 0 is another port at each start; write a fixed one, such as {usual}"


# folders ------------------------------------------------------------------------------------------


def _folder_faults(settings: Settings) -> Iterator[str]:
    data_dir = settings.node.data_dir
    folders = {"node.data_dir": data_dir}
    if settings.node.shared_dir:
        folders["node.shared_dir"] = settings.shared_dir
    if stat.S_ISDIR(_mode(data_dir)):
        folders["node.data_dir: the logs"] = data_dir / "log"
    if settings.audit_file is not None and settings.audit.file:
        folders["audit.file"] = settings.audit_file.parent
    found = [f"{key}: {fault}" for key, path in folders.items() if (fault := why_unusable(path))]
    yield from found
    if not found:
        total = shutil.disk_usage(_there_already(settings.spool_dir)).total
        if settings.retention.min_free >= total:
            wanted, there = settings.retention.min_free / 1e9, total / 1e9
            yield (
                f"retention.min_free: {wanted:.0f} GB, and the disk of {settings.spool_dir} has "
                f"{there:.0f} GB in all: every image would be refused; write less"
            )


def why_unusable(folder: Path) -> str:
    """Return why nothing can be written in a folder that is there or is made; empty if it can."""
    place, user = _there_already(folder), os.geteuid()
    if not stat.S_ISDIR(_mode(place)):
        return f"{place} is a file; name a folder"
    if not os.access(place, os.W_OK | os.X_OK):
        # never a chown of what is above it: that may be /var/lib
        own = f"chown {user} {place}" if place == folder.absolute() else f"make {folder} for it"
        return (
            f"{place} cannot be written by this user ({user}); run this as the user of the node, "
            f"or {own}"
        )
    return ""


def _mode(path: Path) -> int:
    """Return the mode of what is there; 0 where nothing is, or this user may not look.

    `Path.is_dir` raises where a folder above may not be entered.
    """
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _there_already(path: Path) -> Path:
    """Return a path, or the nearest above it that exists."""
    whole = path.absolute()
    return next(place for place in (whole, *whole.parents) if os.path.lexists(place))


def _secret_faults(settings: Settings) -> Iterator[str]:
    jobs, web = settings.jobs, settings.web
    table = "jobs" if jobs.secret_file else "web"
    secret_file = jobs.secret_file or web.secret_file
    is_set = jobs.secret is not None or web.secret is not None
    if secret_file and not is_set and _is_no_file(Path(secret_file)):
        yield f"{table}.secret_file: {secret_file} is not a plain file; name another"
    elif secret_file or is_set:
        try:
            read_secret(settings)
        except ConfigurationError as exc:
            yield f"{exc}; write one: openssl rand -base64 32 > FILE, mode 0600"
    for key, named in (
        ("web.dicomweb_secret_file", web.dicomweb_secret_file),
        ("web.oidc.client_secret_file", web.oidc.client_secret_file),
    ):
        if named and (fault := _why_unreadable(Path(named))):
            yield f"{key}: {fault}"


def _is_no_file(path: Path) -> bool:
    """Return whether there is something else than a file or folder: to read it may never end."""
    mode = _mode(path)
    return mode != 0 and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _why_unreadable(path: Path) -> str:
    if _is_no_file(path):
        return f"{path} is not a plain file; name another"
    try:
        with path.open("rb"):
            return ""
    except FileNotFoundError:
        beneath = "" if path.is_absolute() else f" in {Path.cwd()}"
        return f"there is no file {path}{beneath}; write its whole path"
    except IsADirectoryError:
        return f"{path} is a folder; name the file in it"
    except PermissionError:
        return (
            f"{path} may not be read by this user ({os.geteuid()}); "
            "give the file to the user of the node"
        )
    except OSError as exc:
        return f"{path}: {exc.strerror}; name another file"


# TLS ----------------------------------------------------------------------------------------------


def tls_files(settings: Settings) -> dict[str, Tls]:
    """Return the files of each end of TLS by the keys that stand before their names."""
    web, broker = settings.web, settings.broker
    ends = {
        "node.tls.": settings.node.tls,
        "web.": Tls(certificate=web.certificate, key=web.key),
        "broker.": Tls(certificate=broker.certificate, key=broker.key, ca=broker.ca),
        "audit.tls.": settings.audit.tls,
    }
    return ends | {f"peers.{name}.tls.": peer.tls for name, peer in settings.peers.items()}


def tls_faults(name: str, end: Tls) -> Iterator[str]:
    """Yield why an end of TLS cannot work with its files; `name` stands before their keys."""
    if end.key and not end.certificate:
        yield f"{name}key: stands alone; name its certificate as {name}certificate"
    if name == "node.tls." and end.ca and not end.certificate:
        yield f"{name}ca: stands alone; a port with TLS needs {name}certificate and {name}key"
    for key, path in (("certificate", end.certificate), ("ca", end.ca)):
        if path is None:
            continue
        try:
            held = _read_certificates(path)
        except ConfigurationError as exc:
            yield f"{name}{key}: {exc}"
            continue
        if key == "certificate":
            yield from _key_faults(name, path, end.key, held[0])


def _date_faults(name: str, end: Tls) -> Iterator[str]:
    """Yield certificates that are not valid today."""
    for dates in conditions.certificate_dates(name, end):
        if dates.level == "stop":
            key = "certificate" if dates.path == end.certificate else "ca"
            for found in conditions.of_dates(dates):
                yield f"{name}{key}: {found.text.removesuffix('.')}; {found.advised}"


def _read_certificates(path: Path) -> list[Certificate]:
    if fault := _why_unreadable(path):
        raise ConfigurationError(fault)
    try:
        return read_certificates(path.read_bytes())
    except ValueError as exc:
        advice = f"openssl x509 -inform DER -in {path} -out {path.stem}.pem makes one of DER"
        raise ConfigurationError(f"{path} holds no certificate in PEM form; {advice}") from exc
    except InvalidVersion as exc:
        raise ConfigurationError(f"{path} holds no certificate of X.509; name another") from exc


def _key_faults(
    name: str, certificate: Path, key: Path | None, first: Certificate
) -> Iterator[str]:
    """Yield why a certificate and its key are of no use together."""
    path = key or certificate
    if key is not None and (fault := _why_unreadable(key)):
        yield f"{name}key: {fault}"
        return
    content = path.read_bytes()
    if b"PRIVATE KEY-----" not in content:
        advice = f"write the file of its key as {name}key"
        yield (
            f"{name}key: {key} holds no private key in PEM form; name the file that does"
            if key
            else f"{name}certificate: {certificate} holds no private key; {advice}"
        )
        return
    try:
        # the key may stand behind or before certificates in one file
        block = content[content.rindex(b"-----BEGIN", 0, content.index(b"PRIVATE KEY-----")) :]
        found = serialization.load_pem_private_key(block, None)
    except TypeError:
        advice = f"openssl pkey -in {path} -out FILE takes it off"
        yield f"{name}key: {path} has a password, and serve has nobody to ask; {advice}"
        return
    except ValueError:
        yield f"{name}key: {path} holds no private key that can be read; name another"
        return
    except UnsupportedAlgorithm:  # of a kind that OpenSSL may know: nothing is wrong that is known
        return
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        certified = first.public_key().public_bytes(*form)
    except (UnsupportedAlgorithm, ValueError):
        return
    if found.public_key().public_bytes(*form) != certified:
        yield f"{name}key: {path} does not belong to {certificate}; name the key it was made with"


# addresses ----------------------------------------------------------------------------------------


def _url_faults(settings: Settings) -> Iterator[str]:
    for key, url in (("web.url", settings.web.url), ("jobs.url", settings.jobs.url)):
        if not url:
            continue
        try:
            parts = urlsplit(url)
            host, _port = parts.hostname or "", parts.port
        except ValueError:
            yield f'{key}: its host or port is not right; write "https://chexfract.example:8443"'
            continue
        address = parse_address(host)
        if address is not None and address.is_unspecified:
            yield (
                f"{key}: {host} belongs to no machine, and workers and people are led to it; "
                "write the name or address of this machine"
            )
        elif not host or re.search(r"\s", url):
            yield f'{key}: this names no host; write "https://chexfract.example:8443"'


def _peer_faults(settings: Settings) -> Iterator[str]:
    node = settings.node
    own = parse_address(node.host)
    # a node that listens at one address of the network alone leaves the port here to others
    is_here = own is None or own.is_unspecified or is_loopback(node.host)
    for name, peer in settings.peers.items():
        if is_here and is_loopback(peer.host) and peer.port == node.port != 0:
            yield (
                f"peers.{name}.port: {peer.host} port {peer.port} is this node itself; "
                "write the port of the peer"
            )


def _notice_faults(settings: Settings) -> Iterator[str]:
    notify = settings.notify
    if notify.webhook is not None:
        url = notify.webhook.get_secret_value()
        if not re.fullmatch(r"https?://[^\s/]+\S*", url):
            yield "notify.webhook: this is not an address; write one that begins with https://"
    named = [("notify.mail_from", text) for text in (notify.mail_from,) if text]
    named += [("notify.mail_to", text) for text in notify.mail_to]
    for key, text in named:
        # "Ann <a@b>" is an address with a name
        bare = text[:-1].rpartition(" <")[2] if text.endswith(">") else text
        if not text.isprintable() or not _MAIL.fullmatch(bare):
            yield f"{key}: {text[:64]!a} is not a mail address; write name@host alone"
    port = settings.audit.syslog.rpartition(":")[2]
    if port.isdecimal() and not 0 < int(port) < 65536:
        yield f"audit.syslog: {port} is not a port; write one from 1 to 65535"
