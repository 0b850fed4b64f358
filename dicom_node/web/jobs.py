"""The job API: a worker claims, fetches the Instance, renews its lease and posts its result.

`dicom_node.base.job` has the messages. Every call carries the token; a stale one is 409 and changes
nothing. 200 on a result means that it was compared with the Instance and is durable; one that is
about something else is 422, and counts as an attempt.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import FileResponse, Response
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from dicom_node.base.errors import NotFound, NotUnderstood, OutOfResources, Stale
from dicom_node.base.job import (
    WIRE_HEADER,
    WIRE_VERSION,
    Claim,
    ClaimRequest,
    LeaseRequest,
    ReleaseRequest,
    Result,
    order_for_wire,
)
from dicom_node.base.logs import Sparse
from dicom_node.flow.result_check import find_mismatch, read_source
from dicom_node.settings import Settings
from dicom_node.standard.part10 import is_part10
from dicom_node.store.ledger import Held, Ledger
from dicom_node.store.spool import Spool
from dicom_node.web.trail import WebTrail

_foreign = Sparse(logging.getLogger(__name__))

MAX_OBJECTS = 16
NEWER_S = 60.0
"""How long a job rests that only workers of a newer version can do."""

MAX_RESULT_JSON = 1 << 20
_PART = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


async def _read_form(request: Request) -> AsyncIterator[FormData]:
    """Read the multipart body; its files are on disk from 1 MB on."""
    limits = {"max_files": MAX_OBJECTS, "max_fields": 1, "max_part_size": MAX_RESULT_JSON}
    async with request.form(**limits) as form:
        yield form


Posted = Annotated[FormData, Depends(_read_form)]
Token = Annotated[str, Header(alias="X-Job-Token", max_length=128)]
Wire = Annotated[int, Header(alias=WIRE_HEADER, ge=1, le=1000)]


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
        claimed = self._ledger.jobs.claim(job, body.token, body.worker[:128], self._lease_s)
        order = order_for_wire(claimed.order, wire)
        if order is None:
            reason = "waits for a worker of this version: upgrade the workers"
            self._ledger.jobs.release(job, body.token, reason, False, NEWER_S, self._attempts)
            raise Stale(f"job {job[:12]} {reason}")
        return Claim(
            job=job,
            attempt=claimed.attempt,
            lease_s=claimed.lease_s,
            size=claimed.size,
            order=order,
        )

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
        names = {
            part: self._spool.write_report(job, result.token, part, content)
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


class InstanceFile(FileResponse):
    """Sends a file in large pieces: each piece is a turn through a thread, whatever its size."""

    chunk_size = 1 << 20


def routes(settings: Settings, ledger: Ledger, spool: Spool) -> APIRouter:
    """Return the job API; `web.guard` asks for the secret before these are reached."""
    desk = JobDesk(settings, ledger, spool, WebTrail(settings, ledger).refused)
    router = APIRouter(prefix="/jobs/{job}")

    @router.post("/claim")
    def claim(job: str, body: ClaimRequest, wire: Wire = 1) -> Response:
        """Begin an attempt."""
        claimed = desk.claim(job, body, wire)
        # what an order does not ask for stays away: an older worker knows no field of it
        answer = _json_response(claimed.model_dump_json(exclude_defaults=True))
        answer.headers[WIRE_HEADER] = str(WIRE_VERSION)
        return answer

    @router.get("/instance")
    def instance(job: str, token: Token) -> FileResponse:
        """Send the Part 10 file of the job's Instance."""
        return InstanceFile(desk.instance(job, token), media_type="application/dicom")

    @router.post("/lease")
    def lease(job: str, body: LeaseRequest) -> Response:
        """Extend the lease."""
        return _json_response(json.dumps({"lease_s": desk.renew(job, body)}))

    @router.post("/result")
    def result(job: str, posted: Posted) -> Response:
        """Keep a result that belongs to its job durably."""
        result = _read_result(posted)
        try:
            is_durable = desk.keep(job, result, _read_contents(posted, result))
        except ForeignResult as exc:
            raise HTTPException(422, str(exc)) from exc
        return _json_response(json.dumps({"durable": is_durable}))

    @router.post("/release")
    def release(job: str, body: ReleaseRequest) -> Response:
        """Give the job back."""
        return _json_response(json.dumps({"state": desk.release(job, body)}))

    return router


def _json_response(content: str) -> Response:
    """Return JSON as it is: FastAPI would make and check it in a second turn through a thread."""
    return Response(content, media_type="application/json")


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


def _read_result(posted: FormData) -> Result:
    text = posted.get("result")
    if not isinstance(text, str):
        raise HTTPException(422, "the part 'result' with the JSON of the result is missing")
    try:
        result = Result.model_validate_json(text)
    except ValidationError as exc:
        errors: list[Any] = list(exc.errors(include_input=False, include_url=False))
        raise HTTPException(422, f"result: {'; '.join(faults(errors))}") from exc
    if result.outcome == "rejected" and result.reason is None:
        raise HTTPException(422, "a rejected result needs its reason")
    return result


def _read_contents(posted: FormData, result: Result) -> dict[str, bytes]:
    """Return the bytes of each object by its part; all are there, and none is left over."""
    parts = [item.part for item in result.objects]
    files = {name: file for name, file in posted.multi_items() if isinstance(file, UploadFile)}
    if len(set(parts)) != len(parts) or not all(_PART.fullmatch(part) for part in parts):
        raise HTTPException(422, "objects need different parts of the form [a-z0-9_-]")
    if set(parts) != set(files) or len(posted) != len(parts) + 1:
        raise HTTPException(422, "files and objects of the result are not the same parts")
    contents = {part: files[part].file.read() for part in parts}
    if not all(is_part10(content) for content in contents.values()):
        raise HTTPException(422, "a file of the result is not a Part 10 file")
    return contents
