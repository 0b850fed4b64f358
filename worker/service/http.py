"""A server of our own over the batch former: OpenAI's chat form, and /analyze-fracture."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import json
import logging
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from dicom_node.base.addresses import is_loopback
from dicom_node.base.errors import (
    ConfigurationError,
    NotUnderstood,
    OutOfResources,
    Refused,
    Transient,
)
from dicom_node.base.job import Reason, ReportOrder
from dicom_node.base.plurals import counted
from dicom_node.base.rims import OneOfMany
from dicom_node.standard.part10 import is_part10
from worker.models import BrokenAccelerator, Unexplained
from worker.pipeline import Case, Pipeline
from worker.service import pictures
from worker.service.batches import BatchFormer

if TYPE_CHECKING:
    from worker.settings import Serve, Settings

logger = logging.getLogger(__name__)

STUCK = 70
"""Exit status of a server whose accelerator is lost: EX_SOFTWARE."""
MARKS = re.compile(r"<\|image_\d{1,3}\|>|<image>")
LONGEST_TEXT = 20_000
UNREADABLE = ("not-dicom", "undecodable")
"""Codes of files that are not a whole picture."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Problem(Exception):
    """An answer with a status that says what is wrong, in OpenAI's form."""

    def __init__(self, status: int, text: str, code: str = "invalid_request_error") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.code = code

    def response(self) -> JSONResponse:
        """Return the answer."""
        headers = {"Retry-After": "1"} if self.status in (429, 503, 507) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        error = {"message": self.text, "type": self.code, "param": None, "code": self.code}
        return JSONResponse({"error": error}, self.status, headers)


@dataclasses.dataclass(slots=True)
class _Asked:
    """A picture on its way to the model."""

    case: Case
    done: Future[None] = dataclasses.field(default_factory=Future)


class PictureDesk:
    """What a server does with pictures: prepared in slots, described in batches.

    Parameters
    ----------
    pipeline : Pipeline
        The loaded model and what stands around it.
    settings : Settings
        worker.toml.
    give_up : callable
        Ends the process when the accelerator is lost to it; an argument for tests.
    """

    def __init__(
        self, pipeline: Pipeline, settings: Settings, give_up: Callable[[], None] | None = None
    ) -> None:
        self.pipeline = pipeline
        self._most = settings.serve.waiting
        self._give_up = give_up or (lambda: os._exit(STUCK))
        self.batches: BatchFormer[_Asked] = BatchFormer(
            self._describe_batch, lambda: min(settings.worker.batch, pipeline.limit.most)
        )
        self._slots = ThreadPoolExecutor(
            min(settings.worker.batch, max(2, os.cpu_count() or 1)), thread_name_prefix="prepare"
        )
        self.waiting = 0

    def close(self) -> None:
        """Take no more."""
        self._slots.shutdown(cancel_futures=True)
        self.batches.close()

    async def describe(self, prepare: Callable[[], Case]) -> Case:
        """Return a case that was prepared in a slot and described in a batch.

        Raises
        ------
        Problem
            Too many wait, or the worker has trouble: another time it may pass.
        """
        if self.waiting >= self._most:
            wait = counted(self.waiting, "picture waits", "pictures wait")
            raise Problem(429, f"{wait}; come back later", "rate_limit")
        self.waiting += 1
        self.batches.expect()
        try:
            # A client that hangs up cancels its request: what a thread has begun goes on, so that
            # the batch former gets the item that it expects.
            return await asyncio.shield(asyncio.ensure_future(self._pass_through(prepare)))
        finally:
            self.waiting -= 1

    async def _pass_through(self, prepare: Callable[[], Case]) -> Case:
        with ExitStack() as expected:
            # The batch former waits for what is expected: whoever does not come must say so.
            expected.callback(self.batches.miss)
            loop = asyncio.get_running_loop()
            case = await loop.run_in_executor(self._slots, prepare)
            if case.is_waiting:
                expected.pop_all()
        if case.is_waiting:
            asked = _Asked(case)
            self.batches.put(asked)
            await asyncio.wrap_future(asked.done)
        if case.trouble is not None:
            raise _of_trouble(case.trouble)
        return case

    def _describe_batch(self, asked: Sequence[_Asked]) -> None:
        def note_failure(exc: Exception) -> None:
            logger.error("a batch failed", exc_info=exc)
            for item in asked:
                item.case.trouble = Unexplained(f"{type(exc).__name__} in the worker")

        with OneOfMany(note_failure):  # each request gets its answer
            self.pipeline.describe([item.case for item in asked])
        for item in asked:
            item.done.set_result(None)
        if any(isinstance(item.case.trouble, BrokenAccelerator) for item in asked):
            logger.critical("the accelerator is lost: this server ends")
            time.sleep(0.2)  # for the answers
            self._give_up()


def _of_trouble(trouble: Transient) -> Problem:
    if isinstance(trouble, OutOfResources) and not isinstance(trouble, BrokenAccelerator):
        return Problem(507, str(trouble), "insufficient_memory")
    if isinstance(trouble, Unexplained):
        return Problem(500, str(trouble), "server_error")
    return Problem(503, str(trouble), "server_error")


class KeyGuard:
    """Asks for the key, bounds the body, and reads it in time, before anything else is done.

    Parameters
    ----------
    app : callable
        The ASGI application behind it.
    serve : Serve
        ``[serve]`` of worker.toml.
    keys : sequence of str
        Whoever shows any of them may ask; none: this machine only, by its own names.
    """

    def __init__(self, app: Any, serve: Serve, keys: Sequence[str]) -> None:
        self._app = app
        self._serve = serve
        self._keys = [_key_digest(key) for key in keys]
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer what is wrong with it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        size = 0
        try:
            if scope["path"] != "/healthz":
                self._want_right(headers)
            body = await self._read_body(headers, receive)
            size = len(body)
            self._bytes += size
        except Problem as exc:
            await exc.response()(scope, receive, send)
            return
        sent = False

        async def replay_body() -> MutableMapping[str, Any]:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self._app(scope, replay_body, send)
        finally:
            self._bytes -= size

    def _want_right(self, headers: dict[bytes, bytes]) -> None:
        if not self._keys:
            # no page of the web may make this machine's browser ask, whatever name it gives us
            host = headers.get(b"host", b"").decode("latin-1").rpartition("@")[2]
            name = host.partition("]")[0].strip("[") if host[:1] == "[" else host.partition(":")[0]
            if not (name == "localhost" or is_loopback(name)):
                raise Problem(403, "without serve.keys_file only this machine may ask", "forbidden")
            return
        kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        # Digests are of equal length, so the comparison takes the same time whatever was sent.
        shown = _key_digest(key.strip())
        if kind.lower() != "bearer" or not any(
            hmac.compare_digest(shown, known) for known in self._keys
        ):
            raise Problem(
                401, "send one of serve.keys_file as Authorization: Bearer", "invalid_key"
            )

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        most = self._serve.most_bytes
        length = headers.get(b"content-length", b"0")
        # Digits without end would take Python quadratic time to read.
        if length.isdigit() and len(length) < 20 and int(length) > most:
            raise Problem(413, f"more than {most} bytes", "too_large")
        if self._bytes > self._serve.most_bytes_at_once:
            raise Problem(503, "too much is being read; come back later", "server_error")
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._serve.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "the connection ended within the body")
                    size += len(message.get("body", b""))
                    if size > most:
                        raise Problem(413, f"more than {most} bytes", "too_large")
                    parts.append(message.get("body", b""))
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError as exc:
            limit = self._serve.body_timeout
            raise Problem(408, f"the body did not come within {limit:.0f} s", "timeout") from exc


def _key_digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def read_keys(serve: Serve) -> tuple[str, ...]:
    """Return the keys, one a line; lines that begin with # are for people.

    Raises
    ------
    ConfigurationError
        The file cannot be read or holds none, or there is none although others may reach us.
    """
    if serve.keys_file is None:
        if not is_loopback(serve.host):
            raise ConfigurationError(
                f"serve.keys_file: {serve.host} is reached by other machines; name a file with a "
                f"key in each line, or serve on 127.0.0.1"
            )
        return ()
    try:
        lines = serve.keys_file.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, RuntimeError) as exc:
        what = getattr(exc, "strerror", None) or exc
        raise ConfigurationError(f"serve.keys_file: {serve.keys_file}: {what}") from exc
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if not keys or any(not key.isascii() or len(key) < 16 for key in keys):
        raise ConfigurationError(
            f"serve.keys_file: {serve.keys_file}: each line is a key of 16 or more ASCII characters"
        )
    return keys


class Doors:
    """The answers of each path.

    Parameters
    ----------
    desk : PictureDesk
        What describes pictures.
    settings : Settings
        worker.toml.
    """

    def __init__(self, desk: PictureDesk, settings: Settings) -> None:
        self._desk = desk
        self._pipeline = desk.pipeline
        self._serve = settings.serve
        self._name = desk.pipeline.info.name
        self._since = int(time.time())
        self.counts: Counter[tuple[str, int]] = Counter()

    def models(self) -> dict[str, Any]:
        """Return the one model, as OpenAI lists them."""
        model = {
            "id": self._name,
            "object": "model",
            "created": self._since,
            "owned_by": "chexfract-worker",
            "root": self._pipeline.algorithm.version,
        }
        return {"object": "list", "data": [model]}

    async def chat(self, body: bytes) -> Response:
        """Answer a chat about one picture."""
        asked = _parse_json(body)
        self._check_request(asked)
        url, text = _split_messages(asked.get("messages"))
        self._want_own_prompt(text)
        content = await asyncio.to_thread(self._fetch_content, url)
        case = await self._desk.describe(partial(self._prepare_case, content))
        if case.description is None:
            reason = case.reason or Reason(code="not-described", text="It was not described.")
            raise Problem(400, f"{reason.text} ({reason.code})", reason.code)
        answer = case.description
        end = "stop" if answer.finish_reason == "stop" else "length"
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self._name,
            "system_fingerprint": self._pipeline.algorithm.version,
        }
        if asked.get("stream") is True:
            return StreamingResponse(
                _stream_answer(head, answer.text, end), media_type="text/event-stream"
            )
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        count = answer.tokens
        return JSONResponse(
            head
            | {
                "object": "chat.completion",
                "choices": [
                    {"index": 0, "message": message, "logprobs": None, "finish_reason": end}
                ],
                "usage": {"prompt_tokens": 0, "completion_tokens": count, "total_tokens": count},
            }
        )

    def _check_request(self, asked: dict[str, Any]) -> None:
        if asked.get("model") not in (self._name, None):
            raise Problem(404, f"only {self._name} is served here", "model_not_found")
        if asked.get("n") not in (None, 1):
            raise Problem(400, "n: one answer is given")
        if asked.get("temperature") not in (None, 0):
            raise Problem(400, "temperature: decoding is greedy; send 0 or leave it out")

    def _want_own_prompt(self, text: str) -> None:
        """Refuse another question than the model's: it would be answered as if it were that."""
        own = self._pipeline.info.prompt
        if (
            self._serve.any_prompt
            or not text
            or _comparable_prompt(text) == _comparable_prompt(own)
        ):
            return
        raise Problem(
            400,
            f"this model is asked {_comparable_prompt(own)[:200]!r} and nothing else; send that, "
            f"no text, or set serve.any_prompt",
        )

    def _fetch_content(self, url: str) -> bytes:
        try:
            return pictures.from_url(url, self._serve.allow_urls, self._serve.most_bytes)
        except Refused as exc:
            raise Problem(403, str(exc), "forbidden") from exc
        except NotUnderstood as exc:
            raise Problem(400, str(exc)) from exc
        except Transient as exc:
            raise Problem(502, str(exc), "server_error") from exc

    def _prepare_case(self, content: bytes) -> Case:
        if is_part10(content):
            return self._pipeline.prepare(content)
        case = self._pipeline.prepare_file(content)
        if case.reason is not None and case.reason.code in UNREADABLE:
            raise Problem(415, case.reason.text, "unsupported_media_type")
        return case

    async def analyze(self, body: bytes, content_type: str) -> dict[str, Any]:
        """Answer what is seen in one PNG, JPEG, TIFF or DICOM file."""
        began = time.perf_counter()
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            try:
                body = pictures.file_part(body, content_type)
            except NotUnderstood as exc:
                raise Problem(400, str(exc)) from exc
        if not body:
            raise Problem(400, "no file; send it as -F file=@image.png")
        case = await self._desk.describe(partial(self._prepare_case, body))
        source = case.source
        case.source = None  # no report is built, only what it would say
        order = ReportOrder(content_datetime=datetime.now(UTC), not_analysed=False)
        result = self._pipeline.build(case, order).result
        timings = dict(case.stages_ms) | {"total": round((time.perf_counter() - began) * 1000, 1)}
        return {
            "status": "analysed" if result.outcome == "reported" else "not analysed",
            "reason": result.reason.model_dump() if result.reason else None,
            "fracture_description": result.text,
            "presence": result.presence,
            "findings": [found.model_dump() for found in result.fractures],
            "warnings": list(result.warnings),
            "model": result.model,
            "model_version": result.model_version,
            "demonstration": result.demonstration,
            "sop_instance_uid": str(source.get("SOPInstanceUID", "")) if source else None,
            "timings": timings,
        }

    def metrics(self) -> str:
        """Return counts in Prometheus' text form."""
        figures = self._desk.batches.figures
        lines = [
            "# TYPE chexfract_worker_requests_total counter",
            *(
                f'chexfract_worker_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self.counts.items())
            ),
            "# TYPE chexfract_worker_batches_total counter",
            f"chexfract_worker_batches_total {figures.batches}",
            "# TYPE chexfract_worker_pictures_total counter",
            f"chexfract_worker_pictures_total {figures.pictures}",
            "# TYPE chexfract_worker_model_busy_seconds_total counter",
            f"chexfract_worker_model_busy_seconds_total {figures.busy_s:.3f}",
            "# TYPE chexfract_worker_waiting gauge",
            f"chexfract_worker_waiting {self._desk.waiting}",
            "# TYPE chexfract_worker_batch_limit gauge",
            f"chexfract_worker_batch_limit {self._pipeline.limit.most}",
        ]
        return "\n".join(lines) + "\n"


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Problem(400, "the body is not JSON") from exc
    if not isinstance(content, dict):
        raise Problem(400, "the body is not a JSON object")
    return content


def _split_messages(messages: Any) -> tuple[str, str]:
    """Return the one picture's URL and the text of the last user turn that has it."""
    if not isinstance(messages, list) or not 0 < len(messages) <= 64:
        raise Problem(400, "messages: a list of turns is wanted")
    urls, texts = [], []
    for turn in messages:
        if not isinstance(turn, dict) or turn.get("role") not in ("system", "developer", "user"):
            raise Problem(400, "messages: system and user turns only; there is one question")
        content = turn.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or len(parts) > 64:
            raise Problem(400, "messages: content is a text or a list of parts")
        for part in parts:
            if not isinstance(part, dict):
                raise Problem(400, "messages: a part is an object with a type")
            if part.get("type") == "text" and isinstance(part.get("text"), str):
                texts += [part["text"]] if turn["role"] == "user" else []
            elif part.get("type") == "image_url":
                where = part.get("image_url")
                url = where.get("url") if isinstance(where, dict) else where
                if not isinstance(url, str):
                    raise Problem(400, "messages: image_url.url is wanted")
                urls.append(url)
            else:
                raise Problem(400, "messages: parts are of type text or image_url")
    if len(urls) != 1:
        raise Problem(400, f"messages: one picture is wanted, {len(urls)} came")
    return urls[0], "\n".join(texts)[:LONGEST_TEXT]


def _comparable_prompt(text: str) -> str:
    """Return a prompt without image marks, blanks and the last mark, as it is compared."""
    return " ".join(MARKS.sub(" ", text).split()).rstrip(".?! ")


async def _stream_answer(head: dict[str, Any], text: str, reason: str) -> AsyncIterator[str]:
    """Yield the answer in OpenAI's stream form; it is whole before the first word is sent."""
    head = head | {"object": "chat.completion.chunk"}
    for delta, end in (({"role": "assistant", "content": text}, None), ({}, reason)):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
        yield f"data: {json.dumps(head | {'choices': [choice]})}\n\n"
    yield "data: [DONE]\n\n"


def create_app(desk: PictureDesk, settings: Settings, keys: Sequence[str] = ()) -> KeyGuard:
    """Return the whole server as an ASGI application."""
    doors = Doors(desk, settings)
    app = FastAPI(title="chexfract-worker", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(Problem)
    async def _answer_problem(request: Request, exc: Problem) -> Response:
        return exc.response()

    @app.middleware("http")
    async def _count_answer(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        path = request.url.path
        known = path in ("/v1/models", "/v1/chat/completions", "/analyze-fracture")
        doors.counts[path if known else "other", response.status_code] += 1
        return response

    @app.get("/healthz")
    async def _answer_health() -> dict[str, Any]:
        return {"status": "ok", "model": desk.pipeline.algorithm.version}

    @app.get("/metrics")
    async def _answer_metrics() -> Response:
        return PlainTextResponse(doors.metrics(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def _answer_models() -> dict[str, Any]:
        return doors.models()

    @app.post("/v1/chat/completions")
    async def _answer_chat(request: Request) -> Response:
        return await doors.chat(await request.body())

    @app.post("/analyze-fracture")
    async def _answer_analysis(request: Request) -> dict[str, Any]:
        kind = request.headers.get("content-type", "")
        return await doors.analyze(await request.body(), kind)

    return KeyGuard(app, settings.serve, keys)


def serve(settings: Settings, pipeline: Pipeline, keys: Sequence[str]) -> None:
    """Answer requests until the process is asked to end."""
    import uvicorn

    desk = PictureDesk(pipeline, settings)
    config = uvicorn.Config(
        create_app(desk, settings, keys),
        host=settings.serve.host,
        port=settings.serve.port,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.serve.waiting + 64,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    try:
        logger.info("serving %s on %s:%d", pipeline.info.name, config.host, config.port)
        server.run()
    finally:
        desk.close()
    if not server.started:
        raise ConfigurationError(f"serve.port: {config.host}:{config.port} cannot be listened on")
