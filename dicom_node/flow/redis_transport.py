"""Celery's way to Redis, which believes nothing that it takes from a queue.

Whoever can write to Redis can put anything there. kombu ends the worker at a message that is not
JSON, unpacks compressed ones without a limit, keeps one with a far `eta` in memory, and Celery
runs its built-in tasks. Here a message is read up to a size, must be a hand-out, and is written
again from nothing but that before Celery sees it; all else is dropped with one line.
"""

from __future__ import annotations

import base64
import json
import logging
import uuid
from queue import Empty
from typing import Any

import redis
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as of_kombu
from kombu.utils.encoding import bytes_to_str
from pydantic import ValidationError
from redis._parsers import _RESP3Parser
from redis._parsers.socket import SocketBuffer
from redis.exceptions import ResponseError
from redis.sentinel import SentinelManagedConnection

from dicom_node.base.job import TASK, Handout
from dicom_node.base.logs import Sparse
from dicom_node.base.plurals import counted

MAX_ENVELOPE = 1 << 20
"""Bytes of one message: a hand-out of 4,096 tickets has half of it."""

PRIORITIES = (0, 3, 6)
"""Priorities of messages: stat, normal, low."""

_dropped = Sparse(logging.getLogger(__name__))
_CHUNK = 1 << 16


class _Dropped(Exception):
    """A message is not a hand-out; the text says why."""


def opened(content: bytes, queue: str) -> dict[str, Any]:
    """Return a message as kombu delivers it, made from the hand-out in `content` and nothing else.

    Raises
    ------
    _Dropped
        It is not a hand-out.
    """
    if not 0 < len(content) <= MAX_ENVELOPE:
        raise _Dropped(f"it has more than {MAX_ENVELOPE} bytes")
    message = _read_json(content, "it")
    headers, properties = (message.get(name) for name in ("headers", "properties"))
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise _Dropped("it has no headers")
    if headers.get("task") != TASK:
        raise _Dropped("it is for another task")
    if headers.get("compression"):
        raise _Dropped("it is compressed")
    if message.get("content-type") != "application/json":
        raise _Dropped("its content type is not application/json")
    body = message.get("body")
    # as kombu writes it: any other form is somebody else's
    if not isinstance(body, str) or properties.get("body_encoding") != "base64":
        raise _Dropped("its body is not base64")
    try:
        arguments = _read_json(base64.b64decode(body, validate=True), "its body", list)
        # Celery's protocol 2: [arguments, keyword arguments, chain], see `_celery_message`.
        handout = Handout.model_validate(arguments[0][0])
    except ValidationError:
        raise _Dropped("its argument is not a hand-out") from None
    except (ValueError, LookupError, TypeError):
        raise _Dropped("its body is not that of a task") from None
    handout = handout.model_copy(update={"alone": headers.get("alone") is True})
    priority = properties.get("priority")
    return _celery_message(handout, queue, priority if priority in PRIORITIES else PRIORITIES[-1])


def _read_json(content: bytes, what: str, kind: type = dict) -> Any:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise _Dropped(f"{what} is not JSON") from None
    if not isinstance(found, kind):
        raise _Dropped(f"{what} is not what a task sends")
    return found


def _celery_message(handout: Handout, queue: str, priority: int) -> dict[str, Any]:
    """Return a message of Celery's protocol 2 with this one argument, to be done at once."""
    number = str(uuid.uuid4())
    chain = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    argument = handout.model_dump(mode="json") | ({"alone": True} if handout.alone else {})
    body = json.dumps([[argument], {}, chain])
    nothing = ("eta", "expires", "group", "group_index", "parent_id", "shadow")
    return {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            **dict.fromkeys(nothing),
            "lang": "py",
            "task": TASK,
            "id": number,
            "root_id": number,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": "",
            "kwargsrepr": "",
            "origin": "",
            "ignore_result": True,
        },
        "properties": {
            "correlation_id": number,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_tag": number,
            "priority": priority,
            "body_encoding": "base64",
        },
    }


class _BoundedBuffer(SocketBuffer):
    """Reads replies; a reply that is too large is read away and counts as empty."""

    def read(self, length: int, *more: Any, **options: Any) -> bytes:
        """Return a reply of `length` bytes, or nothing of a reply that is too large."""
        if length <= MAX_ENVELOPE:
            return bytes(super().read(length, *more, **options))
        # Read in pieces and forgotten: to leave it there would make the next reply start within.
        left = length + 2  # its end of line
        left -= len(self._buffer.read(left))
        while left > 0:
            self._buffer.seek(0)
            self._buffer.truncate()
            self._read_from_socket(None, *more, **options)
            left -= len(self._buffer.read(left))
        return b""


class _BoundedParser(_RESP3Parser):
    """redis-py's parser in Python, with a bounded buffer; hiredis has no limit."""

    def on_connect(self, connection: Any) -> None:
        """Begin with a new socket."""
        # it makes a buffer without a bound, which is replaced
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._buffer = _BoundedBuffer(connection._sock, _CHUNK, connection.socket_timeout)


class _Bounded:
    """What each kind of connection gets in addition."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options |= {"parser_class": _BoundedParser, "protocol": 3}
        super().__init__(*arguments, **options)


class _Connection(_Bounded, redis.Connection):
    pass


class _TlsConnection(_Bounded, redis.SSLConnection):
    pass


class _SentinelConnection(_Bounded, SentinelManagedConnection):
    pass


class _SentinelTlsConnection(_Bounded, of_kombu.SentinelManagedSSLConnection):
    pass


class _Unacknowledged(of_kombu.QoS):
    """Messages that were taken and not yet acknowledged; nobody else's are brought back.

    kombu puts what lies in a hash of Redis back into queues after an hour. The ledger hands out
    again by itself, and what lies there may be anything.
    """

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Leave others' messages alone."""

    def restore_by_tag(self, *arguments: Any, **options: Any) -> None:
        """Put a message of our own back when this process ends."""
        try:
            super().restore_by_tag(*arguments, **options)
        except (ValueError, TypeError, RecursionError, ResponseError) as exc:
            _dropped.warning("a message was not put back: %s", type(exc).__name__)


class _WaryChannel:
    """What each kind of channel does otherwise than kombu's."""

    QoS: Any = _Unacknowledged
    _commands: Any = None

    def _create_client(self: Any, asynchronous: bool = False) -> Any:
        """Return a client of Redis; that for commands is kept, since its making costs most."""
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[misc]
        # its pool is replaced when a connection is lost
        if self._commands is None or self._commands.connection_pool is not self.pool:
            self._commands = super()._create_client()  # type: ignore[misc]
        return self._commands

    def _brpop_read(self: Any, **options: Any) -> bool:
        try:
            try:
                found = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except ResponseError as exc:
                self._mend_queue(exc)
                raise Empty from exc
            except self.connection_errors:
                self.client.connection.disconnect()  # the next turn connects again
                raise
            if not found:
                raise Empty
            # Each priority has a list of its own, whose name is the queue's and a number.
            queue = bytes_to_str(found[0]).rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            try:
                message = opened(bytes(found[1]), queue)
            except _Dropped as exc:
                _dropped.error("dropped a message of queue %s: %s", queue, exc)
                raise Empty from None
            self.connection._deliver(message, queue)
            return True
        finally:
            # In all cases: else kombu believes that it still waits, and never asks again.
            self._in_poll = None
            self._flush_brpop_reauth()

    def _get(self: Any, queue: str) -> dict[str, Any]:
        with self.conn_or_acquire() as client:
            for priority in self.priority_steps:
                content = client.rpop(self._q_for_pri(queue, priority))
                if content is not None:
                    try:
                        return opened(bytes(content), queue)
                    except _Dropped as exc:
                        _dropped.error("dropped a message of queue %s: %s", queue, exc)
        raise Empty

    def _size(self: Any, queue: str) -> int:
        try:
            return int(super()._size(queue))  # type: ignore[misc]
        except ResponseError as exc:
            self._mend_queue(exc, queue)
            return 0

    def _mend_queue(self: Any, exc: ResponseError, *queues: str) -> None:
        """Remove a key that bears a queue's name and is not a list; else the broker is not usable.

        Raises
        ------
        ConnectionError
            Of redis-py: the broker is waited for.
        """
        if "WRONGTYPE" not in str(exc):
            raise redis.ConnectionError(str(exc)) from exc
        names = [
            self._q_for_pri(queue, priority)
            for queue in queues or self.active_queues
            for priority in self.priority_steps
        ]
        with self.conn_or_acquire() as client:
            # Redis answers WRONGTYPE for every command on it: without this no hand-out passes again
            wrong = [name for name in names if client.type(name) not in (b"list", b"none")]
            if wrong:
                client.delete(*wrong)
        keys = counted(len(wrong), "key")
        _dropped.error("removed, for they bore a queue's name and were not lists: %s", keys)


class Channel(_WaryChannel, of_kombu.Channel):  # type: ignore[misc]
    """A channel to one Redis."""

    connection_class = _Connection
    connection_class_ssl = _TlsConnection


class SentinelChannel(_WaryChannel, of_kombu.SentinelChannel):  # type: ignore[misc]
    """A channel to the Redis that the Sentinels name."""

    connection_class = _SentinelConnection
    connection_class_ssl = _SentinelTlsConnection


class Transport(of_kombu.Transport):
    """The transport of ``redis://`` and ``rediss://``."""

    Channel = Channel


class SentinelTransport(of_kombu.SentinelTransport):
    """The transport of ``sentinel://``."""

    Channel = SentinelChannel


def install() -> None:
    """Let Celery use these: by name, since a failover looks its transport up again."""
    TRANSPORT_ALIASES.update(
        redis=f"{__name__}:Transport",
        rediss=f"{__name__}:Transport",
        sentinel=f"{__name__}:SentinelTransport",
    )
