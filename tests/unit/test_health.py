"""Health, metrics and worklist say how the node is, to those who may know."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from serving import SECRET, Api, serving

from dicom_node.errors import ConfigurationError, Unreachable
from dicom_node.web import app, guard
from dicom_node.web.app import serve_web

ADMIN = ("admin", SECRET)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture
def http(api: Api) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, trust_env=False, timeout=10) as client:
        yield client


def away(*_: object) -> None:
    raise Unreachable("the ledger is away")


def test_a_node_that_can_work_is_ready(http: httpx2.Client) -> None:
    assert http.get("/healthz").json()["status"] == "ok"
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)


def test_a_node_without_ledger_or_room_is_alive_but_not_ready(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.ledger, "status", away)
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()["ledger"]) == (503, "failed")
    assert http.get("/healthz").status_code == 200
    monkeypatch.undo()
    monkeypatch.setattr(api.spool, "min_free", 1 << 62)
    monkeypatch.setattr(api.spool, "_free_at", -1.0)
    assert http.get("/readyz").json()["spool"] == "failed"


def metrics(http: httpx2.Client) -> dict[tuple[str, ...], float]:
    text = http.get("/metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_the_ledger_holds(api: Api, http: httpx2.Client) -> None:
    before = metrics(http)
    api.receive(patient_name="Secret^Name", patient_id="ID-0815")
    api.ticket(patient_name="Secret^Name", patient_id="ID-0815")
    after = metrics(http)
    assert after["chexfract_up",] == 1
    assert after["chexfract_spool_free_bytes",] > 0
    ignored = ("chexfract_instances", "ignored")
    queued = ("chexfract_queue_depth", "phantom", "queued")
    for name in (ignored, queued):
        assert after[name] == before.get(name, 0) + 1


def test_metrics_and_health_hold_no_patient_data(api: Api, http: httpx2.Client) -> None:
    api.ticket(patient_name="Secret^Name", patient_id="ID-0815", accession_number="ACC-1")
    for path in ("/metrics", "/healthz", "/readyz"):
        text = http.get(path).text
        assert not any(word in text for word in ("Secret", "0815", "ACC-1", "1.2.3."))


def test_metrics_of_a_ledger_that_is_away_say_so(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.ledger, "status", away)
    assert metrics(http)["chexfract_up",] == 0


# The worklist


@pytest.mark.parametrize("shown", [None, ("admin", "wrong"), ("root", SECRET), ("admin", "")])
@pytest.mark.parametrize("path", ["/", "/?q=x", "/static/style.css"])
def test_pages_ask_who_is_there(
    http: httpx2.Client, shown: tuple[str, str] | None, path: str
) -> None:
    answer = http.get(path, auth=shown) if shown else http.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
    assert "secret file" in answer.text


def test_the_worklist_shows_what_was_received_and_why(api: Api, http: httpx2.Client) -> None:
    uid = api.receive(patient_name="Roe^Jane", accession_number="A77", modality="DX")
    text = http.get("/", auth=ADMIN).text
    for word in ("For research use only", "Roe^Jane", "A77", uid, "no rule matched", "ignored"):
        assert word in text


def test_the_worklist_is_searched(api: Api, http: httpx2.Client) -> None:
    api.receive(patient_name="Findme^One", patient_id="F1")
    api.receive(patient_name="Other^Two", patient_id="F2")
    text = http.get("/", params={"q": "Findme"}, auth=ADMIN).text
    assert "Findme^One" in text
    assert "Other^Two" not in text
    assert "Nothing matches" in http.get("/", params={"q": "nobody here"}, auth=ADMIN).text
    assert "Findme^One" not in http.get("/", params={"state": "failed"}, auth=ADMIN).text


HOSTILE = "<script>alert(1)</script>{{7*7}}\"'><img src=x onerror=alert(1)>"


def test_what_stands_in_headers_cannot_become_a_page(api: Api, http: httpx2.Client) -> None:
    api.receive(patient_name=HOSTILE, patient_id="XSS", body_part=HOSTILE[:16])
    for answer in (
        http.get("/", auth=ADMIN),
        http.get("/", params={"q": HOSTILE, "state": HOSTILE[:32]}, auth=ADMIN),
    ):
        assert "<script" not in answer.text
        assert "<img" not in answer.text
        assert "49" not in answer.text.split("alert(1)", 1)[-1][:200]
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


@given(text=st.text(max_size=100))
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_search_is_answered(http: httpx2.Client, text: str) -> None:
    answer = http.get("/", params={"q": text.encode("utf-8", "replace").decode()}, auth=ADMIN)
    assert answer.status_code == 200


def test_pages_load_nothing_from_elsewhere(http: httpx2.Client) -> None:
    page, style = http.get("/", auth=ADMIN), http.get("/static/style.css", auth=ADMIN)
    assert style.headers["content-type"].startswith("text/css")
    assert "http" not in page.text.replace("http-equiv", "")
    assert "url(" not in style.text
    assert "<script" not in page.text
    assert http.get("/docs", auth=ADMIN).status_code == 404
    assert http.get("/openapi.json", auth=ADMIN).status_code == 404


def test_without_sign_in_only_this_machines_own_names_are_answered(tmp_path: Path) -> None:
    """A foreign page whose name points at 127.0.0.1 may not read the worklist."""
    with serving(tmp_path, sign_in=False) as api, httpx2.Client(trust_env=False) as http:
        assert http.get(api.url + "/").status_code == 200
        named = {"Host": f"localhost:{api.settings.web.port}"}
        assert http.get(api.url + "/", headers=named).status_code == 200
        rebound = {"Host": f"evil.example:{api.settings.web.port}"}
        assert http.get(api.url + "/", headers=rebound).status_code == 403
        assert http.post(api.url + "/jobs/x/claim", json={}).status_code == 401


# Silence


def answer_of(connection: socket.socket) -> bytes:
    connection.settimeout(10)
    try:
        return connection.recv(4096)
    except ConnectionError:
        return b""


def test_clients_that_never_finish_a_head_are_dropped(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the server takes at all; then it serves again."""
    monkeypatch.setattr(app, "HEAD_S", 0.5)
    port = api.settings.web.port
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    try:
        for number, connection in enumerate(silent):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n"[: number % 30])
        assert [answer_of(connection) for connection in silent] == [b""] * 300
        assert http.get("/healthz").status_code == 200
    finally:
        for connection in silent:
            connection.close()


def test_a_body_that_stops_coming_is_408(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.3)
    head = f"POST /jobs/x/claim HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", api.settings.web.port)) as connection:
        connection.sendall(head.encode())
        assert answer_of(connection).startswith(b"HTTP/1.1 408")


# The process


def test_a_busy_port_is_one_clear_line(api: Api) -> None:
    port = api.settings.web.port
    with pytest.raises(ConfigurationError, match=rf"port {port} is in use .*\[web\] port"):
        serve_web(api.settings, None, threading.Event())  # type: ignore[arg-type]


ROLE = """
import signal, sys, threading
from pathlib import Path
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool
from dicom_node.web.app import create_app, serve_web
folder, port = Path(sys.argv[1]), int(sys.argv[2])
settings = Settings(node={"data_dir": folder}, web={"port": port})
Ledger.upgrade(settings.ledger_url)
ends = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ends.set())
app = create_app(settings, Ledger.open(settings.ledger_url), Spool(folder / "spool"), "s" * 20)
serve_web(settings, app, ends, ready=lambda: print("ready", flush=True))
"""


def test_sigterm_ends_the_role_soon(tmp_path: Path, free_port: int) -> None:
    """Also with a client that holds its connection and never finishes its request."""
    command = [sys.executable, "-c", ROLE, str(tmp_path), str(free_port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        with socket.create_connection(("127.0.0.1", free_port)) as slow:
            slow.sendall(b"POST /jobs/x/claim HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert time.monotonic() - started < 6
