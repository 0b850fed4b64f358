"""What a worker takes from Redis: hand-outs, whoever else writes there."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import need

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.job import Handout, Ticket
from dicom_node.flow import broker
from dicom_node.flow.redis_transport import MAX_ENVELOPE, _Dropped, opened

HANDOUT = Handout(
    node="http://node:8080", model="phantom", tickets=(Ticket(job="a" * 32, token="b" * 32),)
)
ARGUMENTS = [HANDOUT.model_dump(mode="json")]


def envelope(
    arguments: Any = ARGUMENTS, raw: bytes | None = None, **changed: Any
) -> dict[str, Any]:
    """Return a message as Celery writes it."""
    chain = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    body = json.dumps([arguments, {}, chain]).encode() if raw is None else raw
    made: dict[str, Any] = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": "worker.describe", "id": "1", "root_id": "1", "parent_id": None,
            "group": None, "retries": 0, "timelimit": [None, None], "eta": None, "expires": None,
        },
        "properties": {
            "correlation_id": "1", "delivery_mode": 2, "priority": 3, "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "model.phantom"}, "delivery_tag": "1",
        },
    }  # fmt: skip
    for name, value in changed.items():
        for part in (made["headers"], made["properties"], made):
            if name in part or (part is made["headers"] and name == "compression"):
                part[name] = value
                break
        else:
            made[name.replace("_", "-")] = value
    return made


def message(**changed: Any) -> bytes:
    return json.dumps(envelope(**changed)).encode()


DEEP = b"[" * 100_000
GARBAGE: dict[str, bytes] = {
    "no JSON": b'{"x":',
    "not text": b"\xff\xfe\x00",
    "a number": b"17",
    "an empty object": b"{}",
    "a list": b"[]",
    "deep": DEEP,
    "deep body": message(raw=DEEP),
    "no headers": json.dumps({"body": "", "properties": {}}).encode(),
    "no hand-out": message(arguments=[{}]),
    "no arguments": message(arguments=[]),
    "a ticket to elsewhere": message(
        arguments=[{**ARGUMENTS[0], "tickets": [{"job": "../x", "token": "t"}]}]
    ),
    "another task": message(task="os.system"),
    "a task of Celery": message(task="celery.starmap", arguments=["worker.describe", [[{}]] * 9]),
    "a clean-up of Celery": message(task="celery.backend_cleanup", arguments=[]),
    "pickle": message(content_type="application/x-python-serialize", raw=b"\x80\x04N."),
    "yaml": message(content_type="application/x-yaml"),
    "compressed": message(compression="application/x-gzip", raw=zlib.compress(bytes(10_000_000))),
    "not base64": message(body="not base64!"),
    "a list for a body": message(body=[1]),
    "another encoding of the body": message(body_encoding="rot13"),
    "headers that are text": json.dumps({**envelope(), "headers": "x"}).encode(),
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_hand_out_is_dropped(content: bytes) -> None:
    with pytest.raises(_Dropped) as dropped:
        opened(content, "model.phantom")
    assert len(str(dropped.value)) < 80


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_opened_or_dropped(content: bytes) -> None:
    with pytest.raises(_Dropped):
        opened(content, "model.phantom")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["headers", "properties", "body", "content-type", "priority", "task"]),
    json_values,
)
def test_any_value_in_any_place_is_opened_or_dropped(place: str, value: Any) -> None:
    content = json.dumps(envelope(**{place: value})).encode()
    try:
        made = opened(content, "model.phantom")
    except _Dropped:
        return
    assert json.loads(base64.b64decode(made["body"]))[0] == ARGUMENTS


def test_nothing_but_the_hand_out_reaches_celery() -> None:
    """No time to wait until, nothing to do afterwards, nobody to answer."""
    more = {"callbacks": [{"task": "worker.describe"}], "chain": [1], "chord": 1, "errbacks": [1]}
    content = message(
        raw=json.dumps([ARGUMENTS, {"x": 1}, more]).encode(),
        eta="2999-01-01T00:00:00+00:00", expires="x", retries=7, timelimit=[1, 1], priority=0,
    )  # fmt: skip
    made = opened(content, "model.phantom")
    body = json.loads(base64.b64decode(made["body"]))
    assert body == [ARGUMENTS, {}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))]
    headers = made["headers"]
    assert (headers["eta"], headers["expires"], headers["retries"]) == (None, None, 0)
    assert made["properties"]["priority"] == 0
    assert made["properties"]["reply_to"] == ""


@pytest.mark.parametrize("priority", [None, "x", 1, 255, -1])
def test_an_odd_priority_is_the_lowest(priority: object) -> None:
    assert opened(message(priority=priority), "q")["properties"]["priority"] == 6


WORKER = """
import os, resource, sys, time
from dicom_node.base import logs
from dicom_node.flow import broker
logs.start()
app = broker.app(sys.argv[1])

@app.task(name="worker.describe", ignore_result=True)
def describe(handout):
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Celery takes standard output for its log
    os.write(1, f"job {handout['tickets'][0]['job']} {used}\\n".encode())

app.worker_main(["worker", "--pool=threads", "--concurrency=1", "--queues=model.phantom",
                 "--without-gossip", "--without-mingle", "--loglevel=WARNING"])
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    need("redis-server")
    embedded = broker.Embedded(tmp_path_factory.mktemp("redis"))
    embedded.start()
    client = redis.Redis.from_url(embedded.url)
    client.url = embedded.url  # type: ignore[attr-defined]
    yield client
    client.close()
    embedded.stop()


@pytest.fixture(scope="module")
def worker(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    log = tmp_path_factory.mktemp("worker") / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, server.url],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    process.log = log  # type: ignore[attr-defined]
    yield process
    process.kill()
    process.communicate()


def described(server: Any, worker: Any, job: str) -> tuple[float, int]:
    """Publish a job; return the seconds until it was described, and the worker's peak of memory."""
    ticket = Ticket(job=job, token="b" * 32)
    began = time.monotonic()
    with broker.publisher(server.url) as put:
        put(HANDOUT.model_copy(update={"tickets": (ticket,)}), 1)
    line: list[str] = []
    while line[:1] != ["job"]:  # Celery prints a banner
        text = worker.stdout.readline()
        assert text, worker.log.read_text()
        line = text.split()
    assert line[1] == job
    return time.monotonic() - began, int(line[2])


def test_garbage_neither_ends_a_worker_nor_delays_the_next_job(server: Any, worker: Any) -> None:
    described(server, worker, "first")
    for number, content in enumerate(GARBAGE.values()):
        server.lpush("model.phantom", content)
        server.lpush("model.phantom\x06\x163", content)
        seconds, _ = described(server, worker, f"job{number}")
        assert seconds < 5
        assert worker.poll() is None
    assert 0 < worker.log.read_text().count("dropped a message") <= 13


def test_an_oversized_message_does_not_fill_the_memory(server: Any, worker: Any) -> None:
    _, before = described(server, worker, "small")
    server.lpush("model.phantom", b"x" * (100 * MAX_ENVELOPE))
    seconds, after = described(server, worker, "after")
    assert seconds < 10
    assert after - before < 30_000, "KB"


@pytest.mark.parametrize("key", ["model.phantom", "model.phantom\x06\x166"])
def test_a_key_of_another_type_is_removed(server: Any, worker: Any, key: str) -> None:
    server.set(key, "no list")
    seconds, _ = described(server, worker, "mended")
    assert seconds < 10
    assert server.type(key) in (b"none", b"list")


def test_what_lies_among_the_unacknowledged_is_left_alone(server: Any, worker: Any) -> None:
    server.hset("unacked", "1", "no JSON")
    server.zadd("unacked_index", {"1": 1.0})
    assert described(server, worker, "beside")[0] < 5
    assert server.hget("unacked", "1") == b"no JSON"
    server.delete("unacked", "unacked_index")


@pytest.mark.parametrize(
    ("url", "is_open"),
    [
        ("rediss://host", False),
        ("rediss://host?ssl_cert_reqs=required", False),
        ("rediss://host?ssl_cert_reqs=CERT_REQUIRED", False),
        ("rediss://host?ssl_cert_reqs=none", True),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", True),
        ("rediss://host?ssl_cert_reqs=optional", True),
        ("rediss://host?ssl_check_hostname=False", True),
        ("redis://host", False),
    ],
)
def test_verification_that_is_switched_off_is_seen(url: str, is_open: bool) -> None:
    assert broker.is_unverified(url) is is_open
    tls = broker.app(url).conf.broker_use_ssl
    assert bool(tls) is url.startswith("rediss")
    if tls:
        verified = tls["ssl_cert_reqs"] == "required" and tls["ssl_check_hostname"]
        assert verified is not is_open


def test_an_option_that_nobody_knows_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'ssl_cert_req' is none of"):
        broker.app("rediss://host?ssl_cert_req=none")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ca_certs: no file .*ca\.pem"):
        broker.app("rediss://host", files=broker.TlsFiles(ca=tmp_path / "ca.pem"))
