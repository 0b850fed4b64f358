"""What `doctor` asks of the ways to people: who signs in, who is notified, who keeps the trail."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from dicom_node.base.checks import Check, failed, passed, warned
from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.conditions import of_audit
from dicom_node.credentials import is_first_admin
from dicom_node.operate.audit import secured
from dicom_node.operate.notify import post_office
from dicom_node.settings import Settings
from dicom_node.users import read_users, users_file, weak_users

ANSWER_S = 4.0

_CONFIG, _UNREACHABLE = ConfigurationError.exit_code, Unreachable.exit_code


def users(settings: Settings) -> Iterator[Check]:
    """Look who may sign in on the pages."""
    if not settings.web.sign_in:
        yield passed("users", "pages without sign-in, on this machine only")
        return
    path = users_file(settings)
    try:
        found = read_users(path)
    except ConfigurationError as exc:
        advice = "correct the line, or chexfract-node user add NAME --role ROLE"
        yield failed("users", str(exc), advice, _CONFIG)
        return
    if not found:
        add = "chexfract-node user add NAME --role admin"
        if is_first_admin(settings):
            password = settings.shared_dir / "first-admin"
            what = f"none in {path}: only admin may sign in, with the content of {password}"
            yield warned("users", what, add)
        else:
            yield failed("users", f"none in {path}, though there were: nobody may sign in", add)
        return
    if path.stat().st_mode & 0o077:
        yield failed("users", f"{path} may be read by others", f"chmod 600 {path}")
    if weak := weak_users(path):
        what = f"passwords too short or too common for today's rule: {', '.join(weak)[:200]}"
        yield warned("users", what, "chexfract-node user add NAME --role ROLE, with a new one")
    roles = [user.role for user in found.values()]
    state = ", ".join(f"{roles.count(role)} {role}" for role in dict.fromkeys(sorted(roles)))
    if "admin" in roles:
        yield passed("users", f"{path}: {state}")
    else:
        advice = "chexfract-node user add NAME --role admin"
        yield warned("users", f"{path}: {state}; nobody sees the configuration", advice)


def notify(settings: Settings) -> Iterator[Check]:
    """Look whether those who are to hear of trouble can be reached; nothing is sent."""
    notify = settings.notify
    if notify.webhook is None and not notify.mail_to:
        yield warned("notify", "nobody hears of trouble", "set notify.webhook or notify.mail_to")
    if notify.webhook is not None:
        yield _reach_webhook(notify.webhook.get_secret_value())
    if notify.mail_to:
        where = f"{notify.smtp_host}:{notify.smtp_port}"
        try:
            with post_office(notify, ANSWER_S) as server:
                server.noop()
        except Unreachable as exc:
            advice = "correct notify.smtp_host, smtp_port, smtp_tls or smtp_user"
            yield failed("notify", str(exc), advice, _UNREACHABLE)
        else:
            yield passed("notify", f"mail by {where} to {len(notify.mail_to)}")


def _reach_webhook(url: str) -> Check:
    """Knock where the webhook is; its path is often a secret and stays inside."""
    parts = urlsplit(url)
    is_encrypted = parts.scheme == "https"
    where = (parts.hostname or "", parts.port or (443 if is_encrypted else 80))
    state = f"webhook at {where[0]}:{where[1]}"
    try:
        with socket.create_connection(where, ANSWER_S) as line:
            if is_encrypted:
                context = ssl.create_default_context()
                context.wrap_socket(line, server_hostname=where[0]).close()
    except (OSError, ValueError) as exc:
        what = f"{state}: {getattr(exc, 'strerror', None) or exc}"
        return failed("notify", what, "correct notify.webhook", _UNREACHABLE)
    if not is_encrypted:
        return warned("notify", f"{state}, not encrypted", "use an https:// address")
    return passed("notify", f"{state} takes connections")


def audit(settings: Settings) -> Iterator[Check]:
    """Look whether the audit trail can be kept."""
    trail = settings.audit
    path = settings.audit_file
    if path is None:
        yield warned("audit", "no audit trail is kept", "set audit.enabled = true")
        return
    for wrong in of_audit(settings):
        yield failed("audit", wrong.text, wrong.advised)
        return
    yield _file_check(path)
    if trail.syslog:
        yield _repository_check(settings)


def _file_check(path: Path) -> Check:
    folder = next(parent for parent in path.parents if parent.exists())
    is_there = path.exists()
    is_writable = os.access(path if is_there else folder, os.W_OK) and (
        not path.is_dir() if is_there else folder.is_dir()
    )
    if not is_writable:
        advice = "let this user write there, or change audit.file"
        return failed("audit", f"{path} cannot be written", advice, _CONFIG)
    if path.exists() and path.stat().st_mode & 0o077:
        return warned("audit", f"{path} may be read by others", f"chmod 600 {path}")
    aside = len(list(path.parent.glob(f"{path.name}.*")))
    more = f" and {aside} older beside it" if aside else ""
    return passed("audit", f"{path}{more}; the manual's page reference/audit says how to read it")


def _repository_check(settings: Settings) -> Check:
    trail = settings.audit
    parts = urlsplit(trail.syslog)
    where = (parts.hostname or "", parts.port or 514)
    try:
        if parts.scheme == "tls":
            secured(trail, where).close()
        elif parts.scheme == "tcp":
            socket.create_connection(where, ANSWER_S).close()
        else:
            socket.getaddrinfo(*where, type=socket.SOCK_DGRAM)
    except ConfigurationError as exc:
        return failed("audit", str(exc), "correct audit.tls", _CONFIG)
    except ssl.SSLCertVerificationError as exc:
        what = f"{trail.syslog}: its certificate is not trusted: {exc.verify_message}"
        return failed("audit", what, "set audit.tls.ca to its authority", _UNREACHABLE)
    except OSError as exc:
        what = f"{trail.syslog}: {exc.strerror or exc}"
        return failed("audit", what, "start the repository, or correct audit.syslog", _UNREACHABLE)
    if parts.scheme == "udp":
        what = f"{trail.syslog}: UDP, nobody notices what is lost"
        return warned("audit", what, "use tls:// where the repository offers it")
    return passed("audit", f"{trail.syslog} takes connections")
