"""The job API: a worker claims, fetches the Instance, renews its lease and posts its result.

`dicom_node.base.job` has the messages. Every call carries the token; a stale one is 409 and changes
nothing. 200 on a result means that it was compared with the Instance and is durable; one that is
about something else is 422, and counts as an attempt.

An image takes three calls, so each is answered by plain ASGI in one turn through a thread, and none
goes through the layers of FastAPI: with its dependencies and forms the three took twice the
processor.
"""

from __future__ import annotations

import json
import logging
import os
import re
from asyncio import get_running_loop
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Protocol, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.base.errors import NotFound, NotUnderstood, OutOfResources, Stale
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
    order_for_wire,
    without_nul,
)
from dicom_node.base.logs import Sparse
from dicom_node.flow.result_check import find_mismatch, read_source
from dicom_node.settings import Settings
from dicom_node.standard.part10 import is_part10
from dicom_node.store.ledger import Held, Ledger
from dicom_node.store.spool import Spool
from dicom_node.web import media_types
from dicom_node.web.multipart import NotMultipart, PartReader, boundary
from dicom_node.web.trail import WebTrail

_foreign = Sparse(logging.getLogger(__name__))

MAX_OBJECTS = 16
NEWER_S = 60.0
"""How long a job rests that only workers of a newer version can do."""

MAX_RESULT_JSON = 1 << 20
TOKEN_HEADER = "X-Job-Token"  # noqa: S105 - the name of a header
MAX_TOKEN = 128
MAX_WIRE = 1000
_PART = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_IN_MEMORY = 1 << 20
"""Bytes of a body that are kept in memory; what is longer waits on the disk."""
_PIECE = 1 << 20
"""Bytes of an Instance that are read and sent at a time: each piece is a turn through a thread."""

_THREADS = 16
"""Calls of workers that are answered at a time."""
JOBS = "/jobs/"
"""How the paths of the job API begin."""

Model = TypeVar("Model", bound=BaseModel)
Found = TypeVar("Found")


class JobDesk:
    """What the node does when a worker asks, apart from HTTP.

    Parameters
    ----------
    note_refused : callable
        Takes job, worker and why its result was refused.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        spool: Spool,
        note_refused: Callable[[str, str, str], object],
    ) -> None:
        self._ledger = ledger
        self._spool = spool
        self._note_refused = note_refused
        self._lease_s, self._attempts = settings.dispatch.lease, settings.dispatch.attempts

    def claim(self, job: str, body: ClaimRequest, wire: int = WIRE_VERSION) -> Claim:
        """Begin an attempt of a worker that understands this version of the wire.

        Raises
        ------
        Stale
            Also where the worker is too old for this job, which then waits for another worker.
        """
        return self.begin(job, body, wire)[0]

    def begin(self, job: str, body: ClaimRequest, wire: int) -> tuple[Claim, str]:
        """Begin an attempt as `claim` does; return the Instance's name in the spool as well."""
        claimed = self._ledger.jobs.claim(job, body.token, body.worker[:128], self._lease_s)
        order = order_for_wire(claimed.order, wire)
        if order is None:
            reason = "waits for a worker of this version: upgrade the workers"
            self._ledger.jobs.release(job, body.token, reason, False, NEWER_S, self._attempts)
            raise Stale(f"job {job[:12]} {reason}")
        claim = Claim(
            job=job,
            attempt=claimed.attempt,
            lease_s=claimed.lease_s,
            size=claimed.size,
            order=order,
        )
        return claim, claimed.file

    def open_instance(self, name: str) -> OpenInstance:
        """Return an Instance of the spool, open; `OSError` where it cannot be read."""
        return OpenInstance(self._spool.path(name))

    def instance(self, job: str, token: str) -> Path:
        """Return the Part 10 file of the job's Instance."""
        path = self._spool.path(self._ledger.jobs.instance_file(job, token))
        if not path.is_file():
            raise NotFound("the Instance is no longer in the spool")
        return path

    def renew(self, job: str, body: LeaseRequest) -> float:
        """Extend the lease; return by how many seconds."""
        self._ledger.jobs.renew(job, body.token, self._lease_s)
        return self._lease_s

    def keep(self, job: str, result: Result, contents: Mapping[str, bytes]) -> bool:
        """Keep a result that belongs to its job durably: files first, then the ledger's row.

        Raises
        ------
        ForeignResult
            It is about something else.
        """
        held = self._ledger.jobs.held(job, result.token)
        if held is None:
            return True
        if problem := _result_mismatch(self._spool, held, result, contents):
            reason = f"result refused: {problem}"
            _foreign.error("job %s, worker %s: %s", job[:12], ascii(held.worker)[1:-1], reason)
            self._note_refused(job, held.worker, problem)
            self._ledger.jobs.release(job, result.token, reason, True, 0.0, self._attempts)
            raise ForeignResult(reason)
        with ExitStack() as recording:
            names = {
                part: self._spool.write_report(job, result.token, part, content, recording)
                for part, content in contents.items()
            }
            try:
                return self._ledger.jobs.report(job, result.token, result, names)
            except (Stale, NotFound):
                # Their names bear this token, so no row that counts can refer to them.
                for name in names.values():
                    self._spool.remove(name)
                raise

    def release(self, job: str, body: ReleaseRequest) -> str:
        """Give the job back; return its state."""
        return self._ledger.jobs.release(
            job, body.token, body.reason[:1024], body.counts, body.delay_s, self._attempts
        )


class ForeignResult(NotUnderstood):
    """A result is not about the Instance of its job: 422."""


class CallHead:
    """What the head of a call says: of which job it is, and its headers."""

    def __init__(self, job: str, scope: Scope) -> None:
        self.job = without_nul(job)
        self._headers: dict[bytes, bytes] = dict(scope["headers"])

    def header(self, name: str) -> str:
        """Return a header; empty without it."""
        return self._headers.get(name.lower().encode(), b"").decode("latin-1")

    @property
    def token(self) -> str:
        """The token of a call without a body."""
        token = self.header(TOKEN_HEADER)
        if not token:
            raise _refused_field("missing", "header", TOKEN_HEADER)
        if len(token) > MAX_TOKEN:
            raise _refused_field("string_too_long", "header", TOKEN_HEADER)
        return token

    @property
    def wire(self) -> int:
        """The version of the wire that a worker understands; one that says none has 1."""
        text = self.header(WIRE_HEADER) or "1"
        if not (text.isascii() and text.isdecimal() and len(text) < 6):
            raise _refused_field("int_parsing", "header", WIRE_HEADER)
        if not 1 <= int(text) <= MAX_WIRE:
            raise _refused_field("less_than_equal", "header", WIRE_HEADER)
        return int(text)


class JobAct(Protocol):
    """What a call does, in a thread: it takes head and body and returns JSON."""

    def __call__(self, head: CallHead, body: IO[bytes], /) -> str:
        """Return the JSON of the answer."""


class CallThreads:
    """The threads that answer calls of workers; people's requests have others."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="job-api")

    async def run(self, act: Callable[..., Found], *arguments: object) -> Found:
        """Return what `act` returns, called in a thread."""
        return await get_running_loop().run_in_executor(self._threads, act, *arguments)


class JobCall:
    """A call of the job API: the whole body, one turn through a thread.

    Parameters
    ----------
    act : JobAct
    threads : CallThreads
    folder : Path
        Where a large body waits: the disk that will have its objects, whose room is watched.
    """

    methods = ("POST",)

    def __init__(self, act: JobAct, threads: CallThreads, folder: Path) -> None:
        self._act = act
        self._threads = threads
        self._folder = folder

    async def answer(self, job: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        with SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(self._folder)) as body:
            await _receive_body(receive, body, self._threads)
            content = await self._threads.run(self._act, CallHead(job, scope), body)
        answer = Response(content, 200, media_type="application/json")
        await answer(scope, receive, send)


class OpenInstance:
    """A file of an Instance that is being sent, with its first piece."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size = os.fstat(self._descriptor).st_size
            self._piece = os.read(self._descriptor, _PIECE)
        except OSError:
            os.close(self._descriptor)
            raise

    async def send(
        self,
        send: Send,
        threads: CallThreads,
        headers: list[tuple[bytes, bytes]],
        before: bytes = b"",
    ) -> None:
        """Send an answer: headers, `before`, and the file piece by piece; close the file."""
        length = (b"content-length", str(len(before) + self.size).encode())
        begin = {"type": "http.response.start", "status": 200, "headers": [*headers, length]}
        try:
            await send(begin)
            left, piece = self.size, self._piece
            while True:
                left -= len(piece)
                is_over = left <= 0 or not piece
                body = before + piece if before else piece
                await send({"type": "http.response.body", "body": body, "more_body": not is_over})
                if is_over:
                    return
                before, piece = b"", await threads.run(os.read, self._descriptor, _PIECE)
        finally:
            self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class ClaimCall:
    """The call that claims a job; who asks for it gets the Instance in the same answer.

    A call more would cost a third of what an image takes here.
    """

    methods = ("POST",)

    def __init__(self, desk: JobDesk, threads: CallThreads) -> None:
        self._desk = desk
        self._threads = threads

    async def answer(self, job: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        head = CallHead(job, scope)
        with SpooledTemporaryFile(max_size=_IN_MEMORY) as body:
            await _receive_body(receive, body, self._threads)
            message, instance = await self._threads.run(self._begin, head, body)
        if instance is None:
            answer = Response(message, 200, media_type="application/json")
            await answer(scope, receive, send)
            return
        headers = [
            (b"content-type", b"application/octet-stream"),
            (MESSAGE_HEADER.encode(), str(len(message)).encode()),
        ]
        await instance.send(send, self._threads, headers, message)

    def _begin(self, head: CallHead, body: IO[bytes]) -> tuple[bytes, OpenInstance | None]:
        """Return the message, and the Instance where it was asked for and can be read."""
        claim, name = self._desk.begin(head.job, _read_message(ClaimRequest, body), head.wire)
        # what an order does not ask for stays away: an older worker knows no field of it
        message = claim.model_dump_json(exclude_defaults=True).encode()
        if not head.header(INSTANCE_HEADER):
            return message, None
        try:
            return message, self._desk.open_instance(name)
        except OSError:
            return message, None  # the call for the Instance says why


class InstanceCall:
    """The call for the Instance of a job: its file, piece by piece."""

    methods = ("GET", "HEAD")

    def __init__(self, desk: JobDesk, threads: CallThreads) -> None:
        self._desk = desk
        self._threads = threads

    async def answer(self, job: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        instance = await self._threads.run(self._open, CallHead(job, scope))
        headers = [(b"content-type", b"application/dicom")]
        await instance.send(send, self._threads, headers)

    def _open(self, head: CallHead) -> OpenInstance:
        """Return the file of the Instance, open."""
        try:
            return OpenInstance(self._desk.instance(head.job, head.token))
        except FileNotFoundError as exc:
            raise NotFound("the Instance is no longer in the spool") from exc
        except OSError as exc:
            raise OutOfResources(f"the Instance cannot be read: {exc.strerror}") from exc


CallKind = JobCall | ClaimCall | InstanceCall
Answers = Mapping[type[Exception], Callable[[Request, Exception], Response]]


class JobApplication:
    """The job API as an ASGI application; `web.guard` asks for the secret before it is reached.

    Parameters
    ----------
    calls : mapping
        Calls by the last word of their path.
    answers : mapping
        What answers a request that raised an error, by its kind; others are raised again.
    """

    def __init__(
        self,
        calls: Mapping[str, CallKind],
        answers: Answers,
    ) -> None:
        self._calls = calls
        self._answers = answers
        self._foreseen = tuple(answers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            call, job = self._find_call(scope)
            await call.answer(job, scope, receive, sending)
        except self._foreseen as exc:
            if has_begun:
                raise
            kind = next(kind for kind in self._foreseen if isinstance(exc, kind))
            answer = self._answers[kind](Request(scope), exc)
            await answer(scope, receive, send)

    def _find_call(self, scope: Scope) -> tuple[CallKind, str]:
        """Return which call a request is, and of which job."""
        job, _, name = scope["path"].removeprefix(JOBS).partition("/")
        call = self._calls.get(name)
        if call is None or not job:
            raise HTTPException(404)
        if scope["method"] not in call.methods:
            raise HTTPException(405, headers={"Allow": ", ".join(call.methods)})
        return call, job


def application(
    settings: Settings,
    ledger: Ledger,
    spool: Spool,
    answers: Answers,
    threads: CallThreads,
) -> ASGIApp:
    """Return the job API; see `JobApplication`."""
    desk = JobDesk(settings, ledger, spool, WebTrail(settings, ledger).refused)

    def lease(head: CallHead, body: IO[bytes]) -> str:
        """Extend the lease."""
        return json.dumps({"lease_s": desk.renew(head.job, _read_message(LeaseRequest, body))})

    def result(head: CallHead, body: IO[bytes]) -> str:
        """Keep a result that belongs to its job durably."""
        form = _read_form(head.header("content-type"), body)
        found = _read_result(form)
        try:
            is_durable = desk.keep(head.job, found, _read_contents(form, found))
        except ForeignResult as exc:
            raise HTTPException(422, str(exc)) from exc
        return json.dumps({"durable": is_durable})

    def release(head: CallHead, body: IO[bytes]) -> str:
        """Give the job back."""
        return json.dumps({"state": desk.release(head.job, _read_message(ReleaseRequest, body))})

    folder = spool.root / "incoming"
    acts = {"lease": lease, "result": result, "release": release}
    calls: dict[str, CallKind] = {name: JobCall(act, threads, folder) for name, act in acts.items()}
    calls |= {"claim": ClaimCall(desk, threads), "instance": InstanceCall(desk, threads)}
    return JobApplication(calls, answers)


async def _receive_body(receive: Receive, body: IO[bytes], threads: CallThreads) -> None:
    """Receive a whole body; the event loop does not wait for the disk."""
    size, is_over = 0, False
    while not is_over:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the body ended before its end")
        piece = message.get("body", b"")
        size += len(piece)
        if size <= _IN_MEMORY:
            body.write(piece)
        else:
            await threads.run(body.write, piece)
        is_over = not message.get("more_body", False)
    if size <= _IN_MEMORY:
        body.seek(0)
    else:
        await threads.run(body.seek, 0)


def _read_message(kind: type[Model], body: IO[bytes]) -> Model:
    """Return the message in a body; where it is wrong, what it held is not said again."""
    try:
        return kind.model_validate_json(body.read())
    except ValidationError as exc:
        errors = exc.errors(include_input=False, include_url=False)
        found = [{**error, "loc": ("body", *error["loc"])} for error in errors]
        raise RequestValidationError(found) from exc


def _refused_field(why: str, *where: str) -> RequestValidationError:
    return RequestValidationError([{"type": why, "loc": where}])


def _result_mismatch(
    spool: Spool, held: Held, result: Result, contents: Mapping[str, bytes]
) -> str:
    """Return why a result does not belong to its job, else an empty text."""
    if not result.objects:
        return ""
    try:
        source = read_source(spool.path(held.file), held.transfer_syntax_uid, held.order)
    except FileNotFoundError as exc:
        raise NotFound("the Instance is no longer in the spool") from exc
    except OSError as exc:
        raise OutOfResources(f"the Instance cannot be read: {exc.strerror}") from exc
    except NotUnderstood as exc:
        return f"the Instance is not DICOM, so no object can be about it ({exc})"
    return find_mismatch(source, result, contents)


def faults(errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return ``where: what`` for each fault of a body, without anything that the body held."""
    lines = []
    for error in errors:
        if error["type"] == "extra_forbidden":
            lines.append("unknown field")
        else:
            where = ".".join(str(part) for part in error["loc"])
            lines.append(f"{where}: {error['type']}")
    return lines


class ResultForm:
    """The parts of a posted result; see `web.multipart.PartHandler`."""

    def __init__(self) -> None:
        self.result: bytes | None = None
        self.files: list[tuple[str, bytes]] = []
        self._name, self._is_file = "", False
        self._content = bytearray()
        self._fields = 0

    def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a part; its Content-Disposition names it (RFC 7578 4.2)."""
        about = media_types.parse(headers.get("content-disposition", "")[:1024])
        self._name = about.parameters.get("name", "")
        self._is_file = "filename" in about.parameters
        self._fields += not self._is_file
        if len(self.files) + self._is_file > MAX_OBJECTS or self._fields > 1:
            raise HTTPException(400, f"a result has one field and at most {MAX_OBJECTS} files")
        self._content = bytearray()

    def data(self, content: bytes) -> None:
        """Take more of the content of this part."""
        self._content += content
        if not self._is_file and len(self._content) > MAX_RESULT_JSON:
            raise HTTPException(400, f"the JSON of a result has at most {MAX_RESULT_JSON} bytes")

    def end(self) -> None:
        """Keep the part."""
        # the buffer goes: a result of the largest size would lie in memory twice
        content, self._content = bytes(self._content), bytearray()
        if self._is_file:
            self.files.append((self._name, content))
        elif self._name == "result":
            self.result = content


def _read_form(content_type: str, body: IO[bytes]) -> ResultForm:
    """Return what a body of multipart/form-data holds; nothing of another kind."""
    form = ResultForm()
    mark = boundary(content_type)
    if media_types.parse(content_type[:1024]).name != media_types.FORM_DATA or not mark:
        return form
    reader = PartReader(mark, form)
    try:
        while piece := body.read(_PIECE):
            reader.write(piece)
        reader.finish()
    except NotMultipart as exc:
        raise HTTPException(400, str(exc)) from exc
    return form


def _read_result(form: ResultForm) -> Result:
    if form.result is None:
        raise HTTPException(422, "the part 'result' with the JSON of the result is missing")
    try:
        result = Result.model_validate_json(form.result)
    except ValidationError as exc:
        errors: list[Any] = list(exc.errors(include_input=False, include_url=False))
        raise HTTPException(422, f"result: {'; '.join(faults(errors))}") from exc
    if result.outcome == "rejected" and result.reason is None:
        raise HTTPException(422, "a rejected result needs its reason")
    return result


def _read_contents(form: ResultForm, result: Result) -> dict[str, bytes]:
    """Return the bytes of each object by its part; all are there, and none is left over."""
    parts = [item.part for item in result.objects]
    contents = dict(form.files)
    if len(set(parts)) != len(parts) or not all(_PART.fullmatch(part) for part in parts):
        raise HTTPException(422, "objects need different parts of the form [a-z0-9_-]")
    if set(parts) != set(contents) or len(form.files) != len(parts):
        raise HTTPException(422, "files and objects of the result are not the same parts")
    if not all(is_part10(content) for content in contents.values()):
        raise HTTPException(422, "a file of the result is not a Part 10 file")
    return contents
