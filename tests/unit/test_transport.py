"""What carries a worker's requests to a node, against hosts that behave as hosts do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPSConnection

import httpx2
import pytest

from dicom_node.base.errors import Unreachable
from dicom_node.base.job import Ticket
from worker.service.node import NodeClient
from worker.service.transport import KEPT_S, MOST_IDLE, PROGRESS, SENT, PlainTransport

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
TICKET = Ticket(job="j", token="t")


class Host:
    """Answers each request with the next of some bytes; None ends the connection instead."""

    def __init__(self, answer: Callable[[int, bytes], bytes | None]) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.connections = 0
        self.asked: list[bytes] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            while head := stream.readline():
                length = 0
                while (line := stream.readline()).strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                asked = head + stream.read(length)
                with self._lock:
                    self.asked.append(asked)
                    number = len(self.asked)
                answer = self._answer(number, asked)
                if answer is None:
                    return
                connection.sendall(answer)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def made(answer: Callable[[int, bytes], bytes | None]) -> Host:
        hosts.append(Host(answer))
        return hosts[-1]

    yield made
    for one in hosts:
        one.close()


def client(host: Host) -> httpx2.Client:
    timeout = httpx2.Timeout(20, connect=5)
    return httpx2.Client(base_url=host.url, transport=PlainTransport(), timeout=timeout)


def test_a_connection_is_kept_for_the_next_request(host: Callable[..., Host]) -> None:
    answers = host(lambda *_: WHOLE)
    with client(answers) as http:
        for _ in range(5):
            assert http.post("/a?b=c", content=b"x" * 70_000).content == b"abc"
    assert answers.connections == 1
    assert answers.asked[0] == b"POST /a?b=c HTTP/1.1\r\n" + b"x" * 70_000


def test_a_connection_that_the_host_has_ended_is_not_used_again(host: Callable[..., Host]) -> None:
    closing = WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    for answer in (closing, WHOLE):
        answers = host(lambda number, _, answer=answer: answer if number % 2 else closing)
        with client(answers) as http:
            for _ in range(4):
                assert http.get("/").content == b"abc"


def test_a_host_that_restarts_between_two_requests_is_reached_again(
    host: Callable[..., Host],
) -> None:
    ended = threading.Event()
    answers = host(lambda *_: WHOLE)
    serve = answers._serve

    def once(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(WHOLE)
        ended.set()

    answers._serve = once  # type: ignore[method-assign]
    with client(answers) as http:
        assert http.get("/").content == b"abc"
        assert ended.wait(20)
        answers._serve = serve  # type: ignore[method-assign]
        assert http.get("/").content == b"abc"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"220 mail.example.org ESMTP\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
        b"",
    ],
    ids=["cut", "cut-chunk", "smtp", "many-headers", "long-header", "nothing"],
)
def test_half_an_answer_is_none(host: Callable[..., Host], answer: bytes) -> None:
    answers = host(lambda *_: answer)

    def cut_short(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    answers._serve = cut_short  # type: ignore[method-assign]
    with NodeClient(answers.url, "s") as node, pytest.raises(Unreachable) as caught:
        node.instance(TICKET, 9)
    assert str(caught.value).isprintable()


def test_a_body_in_chunks_and_one_without_a_length_arrive_whole(host: Callable[..., Host]) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    answers = host(lambda *_: chunked)
    with NodeClient(answers.url, "s") as node:
        assert [node.instance(TICKET, 3) for _ in range(3)] == [b"abc"] * 3
    assert answers.connections == 1


def test_more_than_was_promised_is_not_read(host: Callable[..., Host]) -> None:
    size = 40 << 20
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    answers = host(lambda *_: head + bytes(size))
    moved: list[int] = []
    with NodeClient(answers.url, "s") as node:
        with pytest.raises(Unreachable, match="more than the 5000000 bytes"):
            node.instance(TICKET, 5_000_000, lambda: moved.append(1))
        assert len(moved) < 10


def test_a_large_instance_is_the_same_and_moves_on_the_way(host: Callable[..., Host]) -> None:
    body = bytes(range(256)) * 40_000
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    answers = host(lambda *_: head + body)
    moved: list[int] = []
    with NodeClient(answers.url, "s") as node:
        for _ in range(2):
            assert node.instance(TICKET, len(body), lambda: moved.append(1)) == body
    assert len(moved) >= 18
    assert answers.connections == 1


def test_many_threads_share_the_connections(host: Callable[..., Host]) -> None:
    def answer(_: int, asked: bytes) -> bytes:
        body = asked.split()[1]
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    answers = host(answer)
    with client(answers) as http, ThreadPoolExecutor(8) as threads:
        paths = [f"/{n}" for n in range(200)]
        assert [found.text for found in threads.map(http.get, paths)] == paths
    assert answers.connections <= 8 <= MOST_IDLE


def test_a_host_that_is_away_is_unreachable(free_port: int) -> None:
    with NodeClient(f"http://127.0.0.1:{free_port}", "s") as node, pytest.raises(Unreachable):
        node.instance(TICKET, 3)


def test_an_answer_that_comes_before_the_end_of_the_body_is_heard(
    host: Callable[..., Host],
) -> None:
    """A proxy before a node ends a connection when it has said that a result is too large."""
    answers = host(lambda *_: WHOLE)

    def refuse(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            connection.sendall(WHOLE.replace(b"200 OK", b"413 Too Large"))

    answers._serve = refuse  # type: ignore[method-assign]
    with client(answers) as http:
        answer = http.post("/", content=bytes(20 << 20))
        assert (answer.status_code, answer.content) == (413, b"abc")


def test_a_large_body_has_time_for_as_long_as_it_moves(host: Callable[..., Host]) -> None:
    """A worker hears of its pieces, and is not stuck."""
    size, got, moved = 10 << 20, bytearray(), []
    answers = host(lambda *_: WHOLE)
    answers._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
    pause = threading.Event()

    def read_slowly(connection: socket.socket) -> None:
        with connection:
            while len(got) < size and (piece := connection.recv(1 << 17)):
                got.extend(piece)
                pause.wait(0.02)
            connection.sendall(WHOLE)

    answers._serve = read_slowly  # type: ignore[method-assign]
    transport, timeout = PlainTransport(), httpx2.Timeout(1.0, connect=5)
    with httpx2.Client(base_url=answers.url, transport=transport, timeout=timeout) as http:
        heard = {PROGRESS: lambda: moved.append(len(got))}
        assert http.post("/", content=bytes(size), extensions=heard).content == b"abc"
    assert len(moved) == size // SENT
    assert moved[0] < size // 2


def test_a_connection_is_not_kept_for_long(host: Callable[..., Host]) -> None:
    """A firewall forgets it without a word, and a request on it would wait for its time."""
    now = [0.0]
    answers = host(lambda *_: WHOLE)
    transport = PlainTransport(monotonic=lambda: now[0])
    with httpx2.Client(base_url=answers.url, transport=transport, timeout=20) as http:
        for at, connections in ((0, 1), (0.9, 1), (1.8, 1), (2.9, 2), (3.8, 2)):
            now[0] = at * KEPT_S
            assert http.get("/").content == b"abc"
            assert answers.connections == connections


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://[::1]/", ("::1", 80)),
        ("https://[fd00::1]/node", ("fd00::1", 443)),
        ("http://[::1]:8080/", ("::1", 8080)),
        ("https://node.example.org/", ("node.example.org", 443)),
    ],
)
def test_an_address_without_a_port_has_that_of_its_scheme(
    url: str, address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def connect(self: HTTPConnection) -> None:
        asked.append((self.host, self.port))
        raise ConnectionRefusedError

    monkeypatch.setattr(HTTPConnection, "connect", connect)
    monkeypatch.setattr(HTTPSConnection, "connect", connect)
    with NodeClient(url, "s") as node, pytest.raises(Unreachable):
        node.instance(TICKET, 3)
    assert asked == [address]


def test_a_header_that_is_not_ascii_is_no_trouble(host: Callable[..., Host]) -> None:
    answers = host(lambda *_: WHOLE.replace(b"\r\n\r\n", b"\r\nVia: n\xe9\r\n\r\n"))
    with client(answers) as http:
        answer = http.get("/")
        assert (answer.content, answer.headers["via"]) == (b"abc", "n\xe9")
