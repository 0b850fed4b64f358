"""The audit trail's keeper: follows the ledger for the file, and everything for a repository.

Transfers and acts are read from the ledger's events, so none is missed while a disk or a repository
is away. The file has its own place in them and never waits for the repository.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from dicom_node.base.errors import ChexFractError, Unreachable
from dicom_node.dimse import security
from dicom_node.flow.loop import Loop
from dicom_node.settings import Audit, Settings
from dicom_node.store import audit_message, uses
from dicom_node.store.audit_file import AuditFile
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.ledger import Ledger
from dicom_node.store.uses import Use

logger = logging.getLogger(__name__)

LOOK_S = 2.0
ANSWER_S = 3.0
_PAGE = 200
_TURN = "audit"
_OF_LEDGER = ("received", "sent", *map(str, sorted(audit_message.ACTS)))
_PRIORITY = 10 * 8 + 5
"""Facility security/authorization (10), severity notice (5): PS3.15 A.6 by RFC 5424."""


class Repository:
    """An audit record repository by syslog (RFC 5424; over TLS RFC 5425).

    Parameters
    ----------
    settings : Settings
        ``[audit] syslog`` names it.
    """

    def __init__(self, settings: Settings) -> None:
        self._audit = settings.audit
        self._where: SplitResult = urlsplit(settings.audit.syslog)

    def send(self, text: str) -> None:
        """Send a message.

        Raises
        ------
        Unreachable
            It does not take it.
        """
        try:
            self._send_syslog(text)
        except OSError as exc:
            why = exc.strerror or exc
            raise Unreachable(f"the audit trail's repository does not take it: {why}") from exc

    def _send_syslog(self, text: str) -> None:
        stamp = HOST_CLOCK.utc().isoformat(timespec="milliseconds")
        us = f"{socket.gethostname()} chexfract-node {os.getpid()}"
        head = f"<{_PRIORITY}>1 {stamp} {us} DICOM+RFC3881 - "
        content = head.encode() + b"\xef\xbb\xbf" + text.encode()
        where = (self._where.hostname or "", self._where.port or 514)
        framed = f"{len(content)} ".encode() + content  # RFC 6587 3.4.1, RFC 5425 4.3
        if self._where.scheme == "tls":
            with secured(self._audit, where) as tls:
                tls.sendall(framed)
                # Closed with something unread, the connection could be reset before all is there.
                tls.unwrap()
            return
        if self._where.scheme == "tcp":
            with socket.create_connection(where, ANSWER_S) as line:
                line.sendall(framed)
            return
        family, kind, protocol, _, address = socket.getaddrinfo(*where, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as line:
            line.sendto(content, address)


def secured(audit: Audit, where: tuple[str, int]) -> ssl.SSLSocket:
    """Return a TLS connection to the repository (RFC 5425).

    Raises
    ------
    OSError
        There is no connection, or its certificate is not trusted.
    ConfigurationError
        A file of ``[audit] tls`` is missing or is neither certificate nor key.
    """
    context = security.requestor(audit.tls) or ssl.create_default_context()
    with ExitStack() as opened:
        line = opened.enter_context(socket.create_connection(where, ANSWER_S))
        secure = context.wrap_socket(line, server_hostname=where[0])
        opened.pop_all()  # it is the caller's now
        return secure


class Follower:
    """Brings messages of the ledger's events to one place, each once and in their order.

    Parameters
    ----------
    ledger : Ledger
    place : TrailPlace
        Holds the id of the last event which was noted.
    stages : sequence of str
        Events that belong there.
    page : int
        How many are written at once.
    """

    def __init__(self, ledger: Ledger, place: TrailPlace, stages: Sequence[str], page: int) -> None:
        self._page = page
        self._ledger = ledger
        self._place = place
        self._stages = stages

    def begin(self, place: int | None = None) -> None:
        """Begin at `place`, or with what happens from now on, unless it has begun already."""
        if self._place.reached() is None:
            self._place.keep(self._ledger.history.newest_event() if place is None else place)

    def step(self, settings: Settings, write: Callable[[Sequence[str]], None]) -> int:
        """Note what happened since the last step; return how much that was.

        Raises
        ------
        Unreachable, OSError
            It cannot be written; the same events are noted in the next step.
        """
        place = self._place.reached()
        if place is None:
            self.begin()
            return 0
        noted = 0
        while events := self._ledger.history.events_after(place, self._page, stages=self._stages):
            lines = []
            for event in events:
                if event.stage in uses.STAGES:
                    lines.append(audit_message.of_use(settings, Use.read(event.detail), event.at))
                elif line := audit_message.of_event(settings, event):
                    lines.append(line)
            write(lines)
            place = int(events[-1].id)
            self._place.keep(place)
            noted += len(lines)
        return noted


class TrailPlace(Protocol):
    """Holds the id of the last event that was noted."""

    def reached(self) -> int | None:
        """Return it; None before the first."""

    def keep(self, event: int) -> None:
        """Write it down."""


class FilePlace:
    """A place in a file: the trail of one node."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def reached(self) -> int | None:
        """Return the id of the last event that was noted; None before the first."""
        try:
            return int(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def keep(self, event: int) -> None:
        """Write it down."""
        # In place and of one length: a full disk has a block for it already.
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, f"{event:<20}".encode(), 0)
        finally:
            os.close(descriptor)


class LedgerPlace:
    """A place in the ledger: the repository of all nodes on it."""

    def __init__(self, ledger: Ledger, before: FilePlace) -> None:
        self._ledger = ledger
        self._before = before

    def reached(self) -> int | None:
        """Return the id of the last event that was noted; None before the first."""
        found = self._ledger.history.mark(uses.AUDITED)
        return self._before.reached() if found is None else found

    def keep(self, event: int) -> None:
        """Write it down."""
        self._ledger.history.set_mark(uses.AUDITED, event)


class Auditor:
    """Follows the ledger and keeps the trail of what was transferred and done.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._clock = ledger.clock
        self._is_begun = False
        folder = settings.node.data_dir
        path = settings.audit_file
        self._file = AuditFile(path) if path else None
        self._repository = Repository(settings) if path and settings.audit.syslog else None
        self._turns = ledger.turns
        own, place = (FilePlace(folder / n) for n in (uses.FILE_PLACE, uses.REPOSITORY_PLACE))
        self._reached = own.reached
        self._to_file = Follower(ledger, own, _OF_LEDGER, _PAGE)
        everything = (*_OF_LEDGER, *uses.STAGES)
        # Each node has a file of everything. What they send goes to one place, and once.
        sent = place if ledger.is_sqlite else LedgerPlace(ledger, place)
        self._to_repository = Follower(ledger, sent, everything, 1)

    def take(self, settings: Settings) -> None:
        """Know other peers from the next message on."""
        self._settings = settings

    def begin(self) -> None:
        """Note from now on, unless it has begun already: before anything can be received."""
        if self._file:
            self._file.refill()
            if self._repository:  # where 0.1.0, which had one place for both, stopped
                self._to_repository.begin(self._reached())
            self._to_file.begin()

    def loop(self) -> Loop:
        """Return the loop that follows the ledger, from the node's start to its end."""
        return Loop("the audit trail", self.step, self._clock, on_end=self._note_end)

    def step(self) -> float:
        """Note what happened since the last step, and at first that the node started.

        Raises
        ------
        Unreachable
            File or repository cannot be written; the same events are noted in the next step.
        """
        if self._file is not None:
            if not self._is_begun:
                self._is_begun = True
                self._note_activity(starts=True)
            self.follow()
        return LOOK_S

    def _note_end(self) -> None:
        """Note what is left, and that the node ends."""
        if self._is_begun:
            self._run_guarded(self.follow)
            self._note_activity(starts=False)

    def follow(self) -> int:
        """Note what happened since the last step; return how many messages the file got.

        Raises
        ------
        Unreachable
            File or repository cannot be written; the same events are noted in the next step.
        """
        if self._file is None:
            return 0
        self.begin()
        try:
            noted = self._to_file.step(self._settings, self._append_lines)
        except OSError as exc:
            raise Unreachable(f"the audit trail cannot be written: {exc.strerror or exc}") from exc
        if self._repository and self._turns.take(_TURN):
            try:
                self._to_repository.step(self._settings, self._send_lines)
            finally:
                self._turns.give_back(_TURN)
        return noted

    def _append_lines(self, lines: Sequence[str]) -> None:
        assert self._file is not None  # noqa: S101 - for the reader: step has looked
        self._file.append(*lines)

    def _send_lines(self, lines: Sequence[str]) -> None:
        assert self._repository is not None  # noqa: S101 - for the reader: step has looked
        for line in lines:
            self._repository.send(line)

    def _note_activity(self, *, starts: bool) -> None:
        line = audit_message.application(self._settings, starts=starts, at=self._clock.wall())
        self._run_guarded(lambda: self._append_lines([line]))
        if self._repository:
            self._run_guarded(lambda: self._send_lines([line]))

    def _run_guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except (ChexFractError, OSError) as exc:
            logger.warning("the audit trail waits: %s", exc)
