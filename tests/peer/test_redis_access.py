"""Redis and Valkey with the users, the few commands and the TLS that the manual names."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
import trustme
from peers import need, need_valkey

from dicom_node.base.errors import Unreachable
from dicom_node.base.job import Handout, Ticket
from dicom_node.flow import broker
from dicom_node.flow.broker import TlsFiles

pytestmark = pytest.mark.peer

PAGE = Path(__file__).resolve().parents[2] / "dicom_node" / "manual" / "how-to" / "redis.md"
PASSWORDS = {"node": "NODE-PASSWORD", "worker": "WORKER-PASSWORD"}
NAMES = {
    "redis-server": "+client|setname",
    "valkey-server": "+client|setname +client|setinfo",
}
"""What the manual adds for servers that know more commands."""

PROGRAMS = {"redis-server": lambda: need("redis-server"), "valkey-server": need_valkey}

HANDOUT = Handout(
    node="http://node:8080", model="phantom", tickets=(Ticket(job="a" * 32, token="b" * 32),)
)
WORKER = """
import os, sys
from pathlib import Path
from dicom_node.flow import broker
files = broker.TlsFiles(*(Path(one) for one in sys.argv[2:]))
app = broker.app(sys.argv[1], files=files)

@app.task(name="worker.describe", ignore_result=True)
def describe(handout):
    os.write(1, b"taken\\n")

app.worker_main(["worker", "--pool=threads", "--concurrency=1", "--queues=model.phantom",
                 "--without-gossip", "--without-mingle", "--without-heartbeat"])
"""


def users(program: str) -> str:
    """Return the users that the manual names, and one of the test's own who looks at the log."""
    block = re.search(r"```conf\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    named = block[1].replace("+client|setname", NAMES[Path(program).name])
    return "user looker on >look ~* &* +@all\n" + named


@contextmanager
def server(program: str, folder: Path, port: int, *more: str) -> Iterator[None]:
    file = folder / "users.acl"
    file.write_text(users(program))
    command = [program, "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    command += more or ("--port", str(port), "--aclfile", str(file))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


class NoTls(Exception):
    """This build of a server does not know TLS."""


def wait_until_it_answers(client: redis.Redis, folder: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            log = (folder / "log").read_text()
            if "Failed finding TLS support" in log:
                raise NoTls from None
            assert time.monotonic() < end, log
            time.sleep(0.05)


@contextmanager
def worker(url: str, *files: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WORKER, url, *map(str, files)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def typed(program: str, port: int) -> list[str]:
    """Type the users at a server that runs, each by a program of its own; return its answers."""
    answers = []
    for line in users(program).splitlines():
        words = ["ACL", "SETUSER", *line.split()[1:]]
        command = [need("redis-cli"), "-p", str(port), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        answers.append(done.stdout.strip())
    return answers


def take(process: subprocess.Popen[str]) -> bool:
    """Return whether the worker takes a hand-out before it ends."""
    assert process.stdout is not None
    return any(line == "taken\n" for line in process.stdout)


def refused(client: redis.Redis) -> list[str]:
    return [f"{one['username']}: {one['object']}" for one in client.acl_log()]


@pytest.mark.parametrize("fault", ["unknown", "expired"])
def test_a_certificate_that_is_not_trusted_is_named(
    tmp_path: Path, free_port: int, fault: str
) -> None:
    program, authority = need("redis-server"), trustme.CA()
    ca, own, key = (tmp_path / name for name in ("ca.pem", "own.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca)
    old = datetime(2020, 1, 1, tzinfo=UTC)
    issued = (
        trustme.CA().issue_cert("127.0.0.1")
        if fault == "unknown"
        else authority.issue_cert("127.0.0.1", not_before=old, not_after=old + timedelta(days=9))
    )
    issued.cert_chain_pems[0].write_to_path(own)
    issued.private_key_pem.write_to_path(key)
    tls = ["--port", "0", "--tls-port", str(free_port), "--tls-ca-cert-file", str(ca)]
    tls += ["--tls-cert-file", str(own), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    url = f"rediss://:hush@127.0.0.1:{free_port}/0"
    with server(program, tmp_path, free_port, *tls):
        looked_at = redis.Redis(port=free_port, ssl=True, ssl_cert_reqs="none")
        try:
            wait_until_it_answers(looked_at, tmp_path)
        except NoTls:
            pytest.skip("this redis-server knows no TLS")
        finally:
            looked_at.close()
        with pytest.raises(Unreachable) as caught:
            broker.ping(url, 30, TlsFiles(ca))
    said = str(caught.value)
    assert "has a certificate that is not trusted: " in said
    assert ("expired" in said) is (fault == "expired")
    assert "hush" not in said


@pytest.mark.parametrize("name", PROGRAMS)
def test_over_tls_node_and_worker_need_no_command_beyond_those_of_the_manual(
    name: str, tmp_path: Path, free_port: int
) -> None:
    program = PROGRAMS[name]()
    authority = trustme.CA()
    ca, own, key = (tmp_path / name for name in ("ca.pem", "own.pem", "key.pem"))
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(ca)
    issued.cert_chain_pems[0].write_to_path(own)
    issued.private_key_pem.write_to_path(key)
    tls = ["--port", "0", "--tls-port", str(free_port), "--tls-ca-cert-file", str(ca)]
    tls += ["--tls-cert-file", str(own), "--tls-key-file", str(key)]
    tls += ["--aclfile", str(tmp_path / "users.acl")]
    at = f"127.0.0.1:{free_port}/0"
    files = TlsFiles(ca, own, key)
    looker = redis.Redis.from_url(
        f"rediss://looker:look@{at}", ssl_ca_certs=str(ca), ssl_certfile=str(own),
        ssl_keyfile=str(key),
    )  # fmt: skip
    url = {name: f"rediss://{name}:{word}@{at}" for name, word in PASSWORDS.items()}
    with server(program, tmp_path, free_port, *tls), looker:
        try:
            wait_until_it_answers(looker, tmp_path)
        except NoTls:
            pytest.skip(f"{program} was built without TLS")
        with broker.publisher(url["node"], files) as put, worker(url["worker"], ca, own, key) as w:
            for priority in range(3):
                put(HANDOUT, priority)
            assert take(w)
        assert broker.facts(url["node"], 30, files)["policy"] == "noeviction"
        assert refused(looker) == []
        # a client without a certificate is not let in, whatever it knows
        with pytest.raises(Unreachable):
            broker.ping(url["node"], 10, TlsFiles(ca))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_users_of_the_manual_may_be_typed_at_a_server_that_runs(
    name: str, tmp_path: Path, free_port: int
) -> None:
    program = PROGRAMS[name]()
    with server(program, tmp_path, free_port, "--port", str(free_port)):
        wait_until_it_answers(redis.Redis(port=free_port), tmp_path)
        assert typed(program, free_port) == ["OK"] * 4
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=free_port).ping()
        for user, word in PASSWORDS.items():
            with redis.Redis(port=free_port, username=user, password=word) as client:
                assert client.ping()
                with pytest.raises(redis.ResponseError, match="permission"):
                    client.set("other", "1")


@pytest.mark.parametrize("program", ["redis-server", "valkey-server"])
def test_a_users_rights_end_at_the_hand_outs(program: str, tmp_path: Path, free_port: int) -> None:
    found = PROGRAMS[program]()
    url = {
        name: f"redis://{name}:{word}@127.0.0.1:{free_port}/0" for name, word in PASSWORDS.items()
    }
    looker = redis.Redis.from_url(f"redis://looker:look@127.0.0.1:{free_port}/0")
    with server(found, tmp_path, free_port), looker:
        wait_until_it_answers(looker, tmp_path)
        with broker.publisher(url["node"]) as put:
            put(HANDOUT, 1)
        application = broker.app(url["worker"])
        with application.connection_for_read() as connection:
            queue = connection.SimpleQueue("model.phantom")
            message = queue.get(timeout=60)
            message.ack()
            queue.close()
        assert message.payload[0] == [HANDOUT.model_dump(mode="json")]
        assert refused(looker) == []
        for name in PASSWORDS:
            with redis.Redis.from_url(url[name]) as client:
                for words in (("FLUSHALL",), ("SET", "other", "1"), ("CONFIG", "SET", "save", "")):
                    with pytest.raises(redis.ResponseError, match="permission"):
                        client.execute_command(*words)
