"""The broker: what goes over it, what it may not hold up, and the Redis of our own."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from peers import need
from redis.backoff import NoBackoff
from redis.retry import Retry

from dicom_node.base.errors import Busy, Unreachable
from dicom_node.base.job import Handout, Ticket
from dicom_node.flow import broker, stand_in
from dicom_node.flow.redis_transport import opened

HANDOUT = Handout(
    node="http://node:8080", model="phantom", tickets=(Ticket(job="a" * 32, token="b" * 32),)
)


@pytest.fixture(scope="module", params=["redis-server", "stand-in"])
def embedded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[broker.Embedded]:
    is_stand_in = request.param == "stand-in"
    if not is_stand_in:
        need("redis-server")
    embedded = broker.Embedded(tmp_path_factory.mktemp("broker"), stand_in=is_stand_in)
    embedded.start()
    yield embedded
    embedded.stop()


def wait_for(claim: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_taken(put: broker.Publisher) -> bool:
    try:
        put(HANDOUT, 1)
    except Unreachable:
        return False
    return True


def test_a_hand_out_goes_over_as_json_by_its_priority(embedded: broker.Embedded) -> None:
    with broker.publisher(embedded.url) as put:
        for priority in (1, 2, 0):
            put(HANDOUT, priority)
    client = redis.Redis.from_url(embedded.url)
    lists = {key: client.llen(key) for key in client.scan_iter() if client.type(key) == b"list"}
    # kombu's keys of one queue by priority; a worker asks for them in this order
    keys = [b"model.phantom", b"model.phantom\x06\x163", b"model.phantom\x06\x166"]
    assert lists == dict.fromkeys(keys, 1)
    message = json.loads(client.lindex(keys[0], 0))
    assert message["content-type"] == "application/json"
    assert message["headers"]["task"] == "worker.describe"
    assert message["headers"]["expires"] is None  # by whose clock?
    body = json.loads(base64.b64decode(message["body"]))
    assert Handout.model_validate(body[0][0]) == HANDOUT
    client.close()


def test_that_a_hand_out_is_to_be_alone_stands_where_older_workers_pass_it_over(
    embedded: broker.Embedded,
) -> None:
    client = redis.Redis.from_url(embedded.url)
    client.flushall()
    with broker.publisher(embedded.url) as put:
        put(HANDOUT.model_copy(update={"alone": True}), 1)
    content = client.lindex("model.phantom\x06\x163", 0)
    message = json.loads(content)
    assert message["headers"]["alone"] is True
    (argument,), *_ = json.loads(base64.b64decode(message["body"]))
    assert sorted(argument) == ["model", "node", "tickets"], "0.1.0 takes no other field"
    body = json.loads(base64.b64decode(opened(content, "model.phantom")["body"]))
    assert Handout.model_validate(body[0][0]).alone
    client.flushall()
    client.close()


def test_a_queue_that_nobody_takes_from_does_not_grow_for_ever(
    embedded: broker.Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "UNTAKEN_LIMIT", 4)
    client = redis.Redis.from_url(embedded.url)
    client.flushall()
    with broker.publisher(embedded.url) as put:
        for priority in (0, 1, 2, 1):
            put(HANDOUT, priority)
        with pytest.raises(Busy, match=r"4 hand-outs lie in queue model\.phantom"):
            put(HANDOUT, 1)
        client.lpop("model.phantom")
        put(HANDOUT, 1)
    client.flushall()
    client.close()


def test_a_frozen_broker_does_not_hold_a_publisher(
    embedded: broker.Embedded,
) -> None:
    with broker.publisher(embedded.url) as put:
        put(HANDOUT, 1)
        assert embedded.pid is not None
        os.kill(embedded.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(Unreachable, match="gives no answer"):
            put(HANDOUT, 1)
        assert time.monotonic() - began < 8
        os.kill(embedded.pid, signal.SIGCONT)
        wait_for(lambda: is_taken(put))


def test_a_broker_that_was_killed_is_back_on_the_same_port(embedded: broker.Embedded) -> None:
    url, pid = embedded.url, embedded.pid
    assert pid is not None
    with broker.publisher(url) as put:
        put(HANDOUT, 1)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: embedded.pid not in (None, pid))
        wait_for(lambda: is_taken(put))
    assert embedded.url == url


def test_it_asks_for_its_password(embedded: broker.Embedded) -> None:
    port = int(embedded.url.rpartition(":")[2].removesuffix("/0"))
    for word in (None, "wrong"):
        client = redis.Redis(port=port, password=word, retry=Retry(NoBackoff(), 0))
        with pytest.raises(redis.RedisError):
            client.llen("model.phantom")
        client.close()
    password = embedded.url.partition(":")[2].partition("@")[0].removeprefix("//:")
    command = Path(f"/proc/{embedded.pid}/cmdline").read_bytes()
    assert password.encode() not in command


def test_a_stopped_broker_leaves_nothing_running(embedded: broker.Embedded) -> None:
    pid = embedded.pid
    embedded.stop()
    assert embedded.pid is None
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(Unreachable):
        broker.ping(embedded.url)


def test_a_broker_that_is_away_is_told_in_one_line_without_its_password(free_port: int) -> None:
    with pytest.raises(Unreachable) as caught:
        broker.ping(f"redis://:hush@127.0.0.1:{free_port}/0")
    assert (
        str(caught.value) == f"redis://127.0.0.1:{free_port}/0 gives no answer: Connection refused"
    )
    assert "correct broker.url, or write" in broker.node_advice(caught.value)
    assert "correct worker.broker, or let" in broker.worker_advice(caught.value)


def test_urls_are_shown_without_passwords() -> None:
    assert broker.redacted("rediss://user:hush@host:1/0?ssl=1") == "rediss://host:1/0"
    assert broker.redacted("sentinel://:hush@a:1;sentinel://:hush@b:2") == (
        "sentinel://a:1;sentinel://b:2"
    )


PARENT = """
import os, sys, time
from pathlib import Path
from dicom_node.flow.broker import Embedded
embedded = Embedded(Path(sys.argv[1]), stand_in=sys.argv[2] == "stand-in")
embedded.start()
os.write(1, f"{embedded.pid}\\n".encode())
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("kind", ["redis-server", "stand-in"])
def test_it_ends_with_its_parent_even_by_kill_9(tmp_path: Path, kind: str) -> None:
    if kind != "stand-in":
        need(kind)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except OSError:
            return True

    wait_for(is_gone, 10)


@pytest.mark.parametrize(
    ("content", "is_known"),
    [
        (b"*2\r\n$4\r\nAUTH\r\n$4\r\nhush\r\n", True),
        (b"*3\r\n$4\r\nauth\r\n$7\r\ndefault\r\n$4\r\nhush\r\n", True),
        (b"*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$4\r\nhush\r\n", True),
        (b"*2\r\n$4\r\nAUTH\r\n$4\r\nhusk\r\n", False),
        (b"*2\r\n$4\r\nECHO\r\n$4\r\nhush\r\n", False),
        (b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", False),
        (b"*0\r\n", False),
    ],
)
def test_the_stand_in_lets_in_who_knows_the_password(content: bytes, is_known: bool) -> None:
    words = stand_in.first_command(content)
    assert words is not None
    assert stand_in.knows(words, b"hush") is is_known
    for cut in range(1, len(content) - 1):
        if words:
            assert stand_in.first_command(content[:cut]) is None


@pytest.mark.parametrize("content", [b"PING\r\n", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"])
def test_the_stand_in_hears_commands_only(content: bytes) -> None:
    with pytest.raises(ValueError, match="no command"):
        stand_in.first_command(content)
