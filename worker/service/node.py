"""HTTP client of the node's job API (``dicom_node.base.job`` has the messages)."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from dicom_node.base.errors import (
    ConfigurationError,
    NotFound,
    NotUnderstood,
    Refused,
    Stale,
    Unreachable,
)
from dicom_node.base.job import (
    INSTANCE_HEADER,
    MESSAGE_HEADER,
    WIRE_HEADER,
    WIRE_VERSION,
    Claim,
    ClaimRequest,
    LeaseRequest,
    ReleaseRequest,
    Result,
    Ticket,
    WorkerHeartbeat,
    heartbeat_for_wire,
    result_for_wire,
)
from dicom_node.base.plurals import counted
from worker.service.transport import PROGRESS, PlainTransport

_JSON = {"Content-Type": "application/json"}

_LONGEST_CLAIM = 1 << 20
"""Bytes of the message that answers a claim."""

_PERMANENT = {
    401: (Refused, "refused the secret; give this worker the node's secret_file"),
    403: (Refused, "refused this worker"),
    404: (NotFound, "knows no such job"),
    409: (Stale, "has handed the job to someone else"),
    413: (NotUnderstood, "found the result too large"),
    422: (NotUnderstood, "did not understand the request"),
}


class NodeClient:
    """One node's job API.

    Parameters
    ----------
    url : str
        Base URL, as in the hand-out.
    secret : str
        The node's bearer secret.
    timeout_s : float
        Longest silence of the node in one request.
    ca : Path, optional
        PEM file that the certificate of its HTTPS chains to, or is; else the system's authorities.
    transport : BaseTransport, optional
        Carries the requests instead of the network.
    wait : callable
        Waits so many seconds between two tries.

    Raises
    ------
    ConfigurationError
        The file holds no certificates.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        timeout_s: float = 30.0,
        ca: Path | None = None,
        transport: httpx2.BaseTransport | None = None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._wait = wait
        self._begun: dict[str, _BegunAnswer] = {}
        """Answers to claims whose Instance is still to be read, by job."""
        self._lock = threading.Lock()
        self._wire = WIRE_VERSION
        """What the node understands, as its last answer said; the next may come from another node,
        where a balancer stands before several."""
        if transport is None:
            is_encrypted = self.url.startswith("https:")
            transport = PlainTransport(_trusting_context(ca) if is_encrypted else None)
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {secret}", WIRE_HEADER: str(WIRE_VERSION)},
            timeout=httpx2.Timeout(timeout_s, connect=5.0),
            # The job API is reached directly: a proxy of the environment is for the outside.
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            begun, self._begun = list(self._begun.values()), {}
        for one in begun:
            one.answer.close()
        self._http.close()

    def claim(self, ticket: Ticket, worker: str) -> Claim:
        """Redeem a ticket: from here on the job is leased to this worker.

        A node that restarts is waited for: a ticket that is dropped lies until its time is over.
        """
        body = ClaimRequest(token=ticket.token, worker=worker).model_dump_json().encode()
        answer = _retry_patiently(lambda: self._begin(ticket, body), 4, self._wait)
        try:
            return Claim.model_validate_json(answer)
        except ValueError as exc:
            self._leave_answer(ticket)
            raise NotUnderstood(f"{self.url} answered a claim with something else") from exc

    def _begin(self, ticket: Ticket, body: bytes) -> bytes:
        """Claim a job; return the message of the answer, behind which its Instance may come."""
        self._leave_answer(ticket)
        headers = {**_JSON, INSTANCE_HEADER: "1"}
        url = f"/jobs/{ticket.job}/claim"
        request = self._http.build_request("POST", url, content=body, headers=headers)
        try:
            with ExitStack() as open_answer:
                answer = open_answer.enter_context(closing(self._http.send(request, stream=True)))
                self._note_wire(answer)
                if answer.status_code != httpx2.codes.OK:
                    self._refuse_status(answer.status_code, ticket)
                length = answer.headers.get(MESSAGE_HEADER, "")
                if not length:  # a node that is older, or whose file cannot be read
                    return answer.read()
                begun = _BegunAnswer(answer)
                message = begun.read_message(length)
                open_answer.pop_all()  # its Instance is still to be read
        except httpx2.HTTPError as exc:
            raise Unreachable(f"{self.url} gives no answer: {exc or type(exc).__name__}") from exc
        with self._lock:
            self._begun[ticket.job] = begun
        return message

    def _leave_answer(self, ticket: Ticket) -> None:
        """End the answer to an earlier claim, whose Instance nobody has read."""
        with self._lock:
            begun = self._begun.pop(ticket.job, None)
        if begun is not None:
            begun.answer.close()

    @contextmanager
    def _instance_pieces(self, ticket: Ticket) -> Iterator[Iterator[bytes]]:
        """Give the pieces of an Instance: what follows in the answer to the claim, or asked for."""
        with self._lock:
            begun = self._begun.pop(ticket.job, None)
        if begun is not None:
            with closing(begun.answer):
                yield begun.pieces()
            return
        url = f"/jobs/{ticket.job}/instance"
        with self._http.stream("GET", url, headers={"X-Job-Token": ticket.token}) as answer:
            if answer.status_code != httpx2.codes.OK:
                self._refuse_status(answer.status_code, ticket)
            yield answer.iter_bytes()

    def instance(
        self, ticket: Ticket, size: int, progress: Callable[[], None] | None = None
    ) -> bytes:
        """Return the Part 10 bytes of the job's Instance.

        Parameters
        ----------
        size : int
            Bytes that the claim promised: more are not read.

        Raises
        ------
        Unreachable
            The connection failed, or the node sends more than it promised.
        """
        pieces: list[bytes] = []
        got = 0
        try:
            with self._instance_pieces(ticket) as found:
                for chunk in found:
                    pieces.append(chunk)
                    got += len(chunk)
                    if got > size:
                        promised = counted(size, "byte")
                        raise Unreachable(
                            f"{self.url} sends more than the {promised} that it promised"
                        )
                    if progress:
                        progress()
        except httpx2.HTTPError as exc:
            raise Unreachable(f"{self.url} gave no Instance: {exc or type(exc).__name__}") from exc
        return b"".join(pieces)

    def announce(self, presence: WorkerHeartbeat) -> None:
        """Tell that this worker is there; a node that is too old for this answers `NotFound`."""

        def announce(wire: int) -> httpx2.Response:
            body = heartbeat_for_wire(presence, wire)
            return self._ask("/workers", content=body, headers=_JSON)

        status = self._ask_in_its_words(announce).status_code
        if status != httpx2.codes.OK:
            kind, what = _PERMANENT.get(status, (Unreachable, "does not take it"))
            raise kind(f"{self.url} {what} (HTTP {status})")

    def renew(self, ticket: Ticket) -> None:
        """Extend the lease: work on the job has moved on."""
        self._post(ticket, "lease", LeaseRequest(token=ticket.token))

    def release(
        self, ticket: Ticket, reason: str, *, counts: bool = True, delay_s: float = 0.0
    ) -> None:
        """Give the job back; `counts` says whether this was an attempt at its Instance."""
        body = ReleaseRequest(
            token=ticket.token, reason=reason[:1024], counts=counts, delay_s=delay_s
        )
        self._post(ticket, "release", body)

    def post(
        self,
        ticket: Ticket,
        result: Result,
        contents: Sequence[bytes],
        *,
        tries: int = 6,
        wait: Callable[[float], None] | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Post a result until the node has it durably; a node that restarts is waited for.

        Parameters
        ----------
        progress : callable
            Called as pieces of it are sent, and after each try: that this takes long is the node's
            doing, or the line's.

        Raises
        ------
        Stale
            Someone else's result came first, or the lease ran out: this one is dropped.
        Unreachable
            The node stayed away; the lease will bring the job back.
        """
        objects = [
            (item.part, (f"{item.part}.dcm", content, "application/dicom"))
            for item, content in zip(result.objects, contents, strict=True)
        ]

        def send(wire: int) -> httpx2.Response:
            text = (None, result_for_wire(result, wire), "application/json")
            files: list[tuple[str, Any]] = [("result", text), *objects]
            try:
                return self._ask(f"/jobs/{ticket.job}/result", progress, files=files)
            finally:
                progress()

        def post() -> bytes:
            return self._content_of(self._ask_in_its_words(send), ticket)

        _retry_patiently(post, tries, wait or self._wait)

    def _post(self, ticket: Ticket, act: str, body: Any) -> bytes:
        content = body.model_dump_json().encode()
        answer = self._ask(f"/jobs/{ticket.job}/{act}", headers=_JSON, content=content)
        return self._content_of(answer, ticket)

    def _ask(
        self, url: str, progress: Callable[[], None] | None = None, **body: Any
    ) -> httpx2.Response:
        try:
            answer = self._http.post(url, extensions={PROGRESS: progress}, **body)
        except httpx2.HTTPError as exc:
            raise Unreachable(f"{self.url} gives no answer: {exc or type(exc).__name__}") from exc
        self._note_wire(answer)
        return answer

    def _note_wire(self, answer: httpx2.Response) -> None:
        """Note what the node understands; a proxy that answers in its place says nothing of it."""
        if answer.status_code == httpx2.codes.OK or WIRE_HEADER in answer.headers:
            self._wire = _wire_of(answer)

    def _ask_in_its_words(self, ask: Callable[[int], httpx2.Response]) -> httpx2.Response:
        """Ask in the version of the last answer, and again where an older node has answered."""
        wire = self._wire
        answer = ask(wire)
        if answer.status_code == httpx2.codes.UNPROCESSABLE_CONTENT and _wire_of(answer) < wire:
            return ask(_wire_of(answer))
        return answer

    def _content_of(self, answer: httpx2.Response, ticket: Ticket) -> bytes:
        if answer.status_code != httpx2.codes.OK:
            self._refuse_status(answer.status_code, ticket)
        return answer.content

    def _refuse_status(self, status: int, ticket: Ticket) -> None:
        if status in _PERMANENT:
            kind, what = _PERMANENT[status]
            raise kind(f"{self.url} {what} (job {ticket.job[:12]}, HTTP {status})")
        raise Unreachable(f"{self.url} answers HTTP {status} (job {ticket.job[:12]})")


class _BegunAnswer:
    """An answer to a claim: a message, and the Instance behind it."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self._pieces = answer.iter_bytes()
        self._read = b""

    def read_message(self, length: str) -> bytes:
        """Return the message; nothing where its length is not a number."""
        wanted = int(length) if length.isdecimal() and len(length) < 8 else 0
        while len(self._read) < min(wanted, _LONGEST_CLAIM) and (piece := next(self._pieces, b"")):
            self._read += piece
        message, self._read = self._read[:wanted], self._read[wanted:]
        return message

    def pieces(self) -> Iterator[bytes]:
        """Yield the Instance."""
        if self._read:
            yield self._read
        yield from self._pieces


def _retry_patiently(ask: Callable[[], bytes], tries: int, wait: Callable[[float], None]) -> bytes:
    """Ask again, after 0.5 s and twice as long each time, while there is no answer."""
    for attempt in range(tries - 1):
        try:
            return ask()
        except Unreachable:
            wait(0.5 * 2**attempt)
    return ask()


def _wire_of(answer: httpx2.Response) -> int:
    """Return the version of the wire that the node of an answer understands; 0.1.0 says none."""
    version = answer.headers.get(WIRE_HEADER, "1")
    return int(version) if version.isdecimal() and len(version) < 6 else 1


def _trusting_context(ca: Path | None) -> ssl.SSLContext:
    """Return what verifies a node's certificate and the host name that it bears."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigurationError(f"worker.ca: {ca}: {exc.strerror or exc}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A node that signed for itself is trusted by its own certificate.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
