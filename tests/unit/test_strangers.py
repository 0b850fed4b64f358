"""What strangers may hold of the web port, and what people and workers get meanwhile."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from serving import SECRET, Api, serving
from stations import wait_for

from dicom_node.base.logs import Sparse
from dicom_node.web import connections, guard
from dicom_node.web.connections import Gate
from tests.bench.strangers import ask, strangers

BEARER = {"Authorization": f"Bearer {SECRET}"}


def raw(api: Api, sent: bytes, limit_s: float = 5) -> bytes:
    """Return the whole answer to some bytes."""
    with socket.create_connection(("127.0.0.1", api.settings.web.port), limit_s) as line:
        line.sendall(sent)
        line.settimeout(limit_s)
        answer = b""
        try:
            while chunk := line.recv(65536):
                answer += chunk
        except OSError:
            pass
        return answer


@pytest.mark.parametrize("kind", ["slow heads", "slow bodies", "idle sockets", "tiny parts"])
def test_two_hundred_connections_of_a_stranger_keep_nobody_waiting(api: Api, kind: str) -> None:
    with strangers(api.settings.web.port, kind, 200):
        found = ask(api.url, 1)
    for name, answers in found.items():
        assert not answers.faults, name
        # whoever waits for a stranger waits until that one's head is late; the rest is the bench's
        assert max(answers.seconds) < connections.HEAD_S, (name, answers)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\xa5 a hello of TLS\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ],
)
def test_what_is_not_http_is_400_and_a_line_that_names_the_caller(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "_lines", Sparse(connections._lines._logger))
    assert raw(api, sent).startswith(b"HTTP/1.1 400 ")
    refused = "refused a request of 127.0.0.1: it is not valid HTTP/1.1"
    # some of the strangers above may not be over yet
    assert [said for said in caplog.messages if not said.startswith("closed")] == [refused]


def test_an_upgrade_that_nobody_offers_leaves_no_advice_to_install_something(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    head = (
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
    )
    assert raw(api, head + b"\r\n").startswith(b"HTTP/1.1 200 ")
    assert caplog.messages == []


FORM = b"Content-Type: application/x-www-form-urlencoded\r\n"


def of_charset(charset: bytes) -> bytes:
    kind = FORM.replace(b"\r\n", b"; " + charset + b"\r\n")
    return kind + b"Content-Length: 4\r\n\r\na=-b"


SIGN_IN = b"POST /sign-in HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
REFUSED = {
    "too long": (FORM + b"Content-Length: 8193\r\n\r\n", 413),
    "chunked": (FORM + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 411),
    "multipart": (
        b"Content-Type: multipart/form-data; boundary=X\r\nContent-Length: 4\r\n\r\n--X-", 415,
    ),
    "no type": (b"Content-Length: 4\r\n\r\nname", 415),
    "punycode": (of_charset(b"charset=punycode"), 415),
    "idna, quoted": (of_charset(b'charset="idna"'), 415),
    "two charsets": (of_charset(b"charset=utf-8; charset=punycode"), 415),
    "RFC 2231": (of_charset(b"charset*=utf-8''punycode"), 415),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_sign_in_is_a_short_urlencoded_form(api: Api, kind: str) -> None:
    sent, status = REFUSED[kind]
    assert raw(api, SIGN_IN + sent).startswith(b"HTTP/1.1 %d" % status)


@pytest.mark.parametrize("kind", ["", "; charset=utf-8", '; charset="UTF-8"'])
def test_a_form_in_utf_8_is_read(tmp_path: Path, kind: str) -> None:
    headers = {"Content-Type": f"application/x-www-form-urlencoded{kind}"}
    form = "name=admin&password=Grün"
    with serving(tmp_path) as api:
        url = f"{api.url}/sign-in"
        answer = httpx2.post(url, headers=headers, content=form, trust_env=False)
    assert answer.status_code == 403


def test_another_charset_is_refused_of_those_who_signed_in_too(api: Api) -> None:
    """The codec would be as slow for them."""
    headers = {**BEARER, "Content-Type": "multipart/form-data; boundary=X; charset=punycode"}
    answer = httpx2.post(
        f"{api.url}/jobs/x/result", headers=headers, content=b"--X--\r\n", trust_env=False
    )
    assert answer.status_code == 415


def test_a_form_that_does_not_come_is_408(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SIGN_IN_S", 0.3)
    answer = raw(api, SIGN_IN + FORM + b"Content-Length: 40\r\n\r\nname=")
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_body_that_drips_ends_though_something_comes(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.4)
    head = b"POST /jobs/x/claim HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 900\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", api.settings.web.port), 5) as line:
        line.sendall(head % SECRET.encode())
        began, answer = time.monotonic(), b""
        line.settimeout(0.1)
        while not answer and time.monotonic() - began < 5:
            line.sendall(b" ")
            try:
                answer = line.recv(4096)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_head_of_many_lines_is_not_read(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    many = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * connections.MAX_LINES + b"\r\n"
    assert raw(api, many) == b""
    few = b"GET /healthz HTTP/1.1\r\nConnection: close\r\nHost: x\r\n" + b"a: b\r\n" * 50 + b"\r\n"
    assert raw(api, few).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("body", [b"Content-Length: 9\r\n\r\n--B", b"%s: chunked\r\n\r\nZZ\r\n"])
def test_a_body_that_breaks_off_is_one_line(
    api: Api, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    """Its sender went away, or wrote a chunk that is none: nothing that an operator can mend."""
    head = b"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
    head += b"Content-Type: multipart/related; type=application/dicom; boundary=B\r\n"
    body = body.replace(b"%s", b"Transfer-Encoding")
    with socket.create_connection(("127.0.0.1", api.settings.web.port), 5) as line:
        line.sendall(head % SECRET.encode() + body)
        line.shutdown(socket.SHUT_WR)
        line.settimeout(60)
        while line.recv(4096):
            pass
    ours = "a request of 127.0.0.1 to '/dicom-web/studies' ended before its end"
    wait_for("the line", lambda: ours in caplog.messages, 60)
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_body_of_many_lines_is_read(api: Api) -> None:
    """Lines are counted up to the blank one, wherever the segments end."""
    body = b'{"token":"t"}' + b"\n" * 5000
    head = b"POST /jobs/x/lease HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += b"Authorization: Bearer %s\r\nContent-Type: application/json\r\n" % SECRET.encode()
    sent = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for cut in (len(sent) - len(body) - 1, len(sent) - len(body) - 2, len(sent)):
        with socket.create_connection(("127.0.0.1", api.settings.web.port), 5) as line:
            line.sendall(sent[:cut])
            time.sleep(0.05)
            line.sendall(sent[cut:])
            assert line.recv(4096).startswith(b"HTTP/1.1 404")


def test_chunks_of_those_who_may_post_are_read(api: Api) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"token":'
        yield b'"t"}'

    headers = {**BEARER, "Content-Type": "application/json"}
    answer = httpx2.post(
        f"{api.url}/jobs/x/lease", headers=headers, content=chunks(), trust_env=False
    )
    assert answer.status_code == 404


@pytest.mark.parametrize(
    "path", ["/dicom-web/", "/peers/", "/jobs", "//evil.example/", "/sign-in/"]
)
def test_no_redirect_names_the_host_of_the_request(api: Api, path: str) -> None:
    answer = raw(
        api, b"GET %s HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n" % path.encode()
    )
    head = answer.partition(b"\r\n\r\n")[0].lower()
    location = [line for line in head.split(b"\r\n") if line.startswith(b"location:")]
    assert b"evil.example" not in b"".join(location)
    assert not location or location[0].startswith(b"location: /")


def test_people_wait_for_their_turn_and_workers_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All turns of people are taken by answers that take long."""
    monkeypatch.setattr(guard, "PEOPLE", 1)
    monkeypatch.setattr(guard, "TURN_S", 0.3)
    with serving(tmp_path) as api:
        slow = api.ledger.history.status
        monkeypatch.setattr(
            api.ledger.history, "status", lambda *a, **k: (time.sleep(1.5), slow(*a, **k))[1]
        )
        import threading

        taken = threading.Thread(
            target=lambda: raw(api, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 3)
        )
        taken.start()
        time.sleep(0.3)
        busy = httpx2.get(f"{api.url}/metrics", trust_env=False)
        began = time.monotonic()
        assert httpx2.get(f"{api.url}/healthz", trust_env=False).status_code == 200
        late = httpx2.post(
            f"{api.url}/jobs/x/lease", headers=BEARER, json={"token": "t"}, trust_env=False
        )
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "5")
        assert late.status_code == 404
        assert time.monotonic() - began < 1
        taken.join()


def test_the_job_api_has_a_port_of_its_own_where_one_is_named(
    tmp_path: Path, free_port: int
) -> None:
    with serving(tmp_path, jobs={"port": free_port}) as api:
        own = f"http://127.0.0.1:{free_port}"
        assert api.settings.jobs_url == own
        body: dict[str, Any] = {"headers": BEARER, "json": {"token": "t"}, "trust_env": False}
        assert httpx2.post(f"{own}/jobs/x/lease", **body).status_code == 404
        assert httpx2.post(f"{own}/jobs/x/lease", **body).json()["detail"].startswith("no job")
        assert httpx2.get(f"{own}/healthz", trust_env=False).status_code == 200
        assert httpx2.get(f"{own}/sign-in", trust_env=False).status_code == 404
        elsewhere = httpx2.post(f"{api.url}/jobs/x/lease", **body)
        assert elsewhere.json() == {"detail": "Not Found"}


class Line:
    """A connection as a `Gate` sees it."""

    overdue = ""

    def __init__(self, address: str) -> None:
        self.address = address
        self.ended = False

    def end(self) -> None:
        self.ended = True

    def is_stalled(self, now: float) -> bool:
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    at = [1000.0]
    monkeypatch.setattr("dicom_node.web.connections.time.monotonic", lambda: at[0])

    def pass_by(seconds: float) -> None:
        at[0] += seconds

    return pass_by


def entered(gate: Gate, address: str, count: int) -> list[Any]:
    made: list[Any] = [Line(address) for _ in range(count)]
    for connection in made:
        gate.enter(connection)
    return made


def test_the_oldest_that_wait_of_an_address_go_first(clock: Callable[[float], None]) -> None:
    gate = Gate(most=100, most_of_address=3)
    others = entered(gate, "10.0.0.9", 3)
    old = entered(gate, "10.0.0.7", 5)
    assert not any(caller.ended for caller in old), "their requests may be on the way"
    clock(2)
    new = entered(gate, "10.0.0.7", 1)
    assert [caller.ended for caller in old] == [True, True, True, False, False]
    assert not any(one.ended for one in [*new, *others])


def test_a_proxy_speaks_for_many(clock: Callable[[float], None]) -> None:
    gate = Gate(most=100, most_of_address=2, is_proxy=lambda address: address == "10.0.0.7")
    lines = entered(gate, "10.0.0.7", 5)
    clock(2)
    entered(gate, "10.0.0.7", 1)
    gate.sweep()
    assert not any(line.ended for line in lines)


def test_what_is_worked_on_is_not_closed(clock: Callable[[float], None]) -> None:
    gate = Gate(most=100, most_of_address=2)
    busy = entered(gate, "10.0.0.7", 2)
    for one in busy:
        gate.work(one)
    clock(2)
    entered(gate, "10.0.0.7", 3)
    clock(connections.HEAD_S + 1)
    gate.sweep()
    assert not any(caller.ended for caller in busy)


def test_a_full_port_closes_the_oldest_of_all(clock: Callable[[float], None]) -> None:
    gate = Gate(most=4, most_of_address=100)
    old = entered(gate, "10.0.0.7", 4)
    (new,) = entered(gate, "10.0.0.8", 1)
    assert [caller.ended for caller in old] == [True, False, False, False]
    assert not new.ended


def test_silence_ends(clock: Callable[[float], None]) -> None:
    gate = Gate()
    (line,) = entered(gate, "10.0.0.7", 1)
    clock(connections.HEAD_S - 1)
    gate.sweep()
    assert not line.ended
    clock(2)
    gate.sweep()
    assert line.ended
