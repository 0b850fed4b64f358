"""Health and metrics say how the node is; what is silent or busy does no harm."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pages
import pytest
import yaml
from peers import need
from prometheus_client.parser import text_string_to_metric_families
from serving import SECRET, Api

from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.operate import dashboard
from dicom_node.web import connections, guard
from dicom_node.web.app import serve_web


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
    monkeypatch.setattr(api.ledger.history, "answers", away)
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


def test_stages_are_counted_once_with_their_durations(api: Api, http: httpx2.Client) -> None:
    metrics(http)
    pages.keep(api, b"\0" * 128 + b"DICM stage", pages.route())
    pages.reported(api, pages.claimed(api), stages_ms={"decode": 80.5, "model": 640.0})
    before = metrics(http)
    assert before["chexfract_stage_seconds_count", "model"] == 1
    assert before["chexfract_stage_seconds_sum", "model"] == pytest.approx(0.64)
    bucket = "chexfract_stage_seconds_bucket"
    assert [before[bucket, at, "decode"] for at in ("0.05", "0.1", "+Inf")] == [0, 1, 1]
    assert [before[bucket, at, "model"] for at in ("0.5", "1.0", "+Inf")] == [0, 1, 1]
    assert before["chexfract_stage_seconds_sum", "model share"] == pytest.approx(0.64)
    assert metrics(http)["chexfract_stage_seconds_count", "model"] == 1


def test_metrics_show_deliveries_destinations_workers_and_disk(
    api: Api, http: httpx2.Client
) -> None:
    pages.keep(api, b"\0" * 128 + b"DICM held", pages.route())
    pages.reported(api, pages.claimed(api))
    pages.deliver(api, None)
    shown = metrics(http)
    assert shown["chexfract_destination_held", "modality"] == 1
    assert shown["chexfract_destination_waiting", "modality"] >= 1
    assert shown["chexfract_workers",] == 1
    assert 0 < shown["chexfract_spool_free_bytes",] <= shown["chexfract_spool_total_bytes",]
    assert shown["chexfract_spool_has_room",] == 1


def test_each_panel_of_the_dashboard_asks_for_a_metric_that_exists(
    api: Api, http: httpx2.Client
) -> None:
    file = Path(__file__).parent.parent.parent / "configs" / "grafana" / "chexfract.json"
    assert file.read_text(encoding="utf-8") == dashboard.text()
    metrics(http)
    pages.keep(api, b"\0" * 128 + b"DICM panel", pages.route())
    pages.reported(api, pages.claimed(api))
    pages.deliver(api, None)
    names = {name for name, *_ in metrics(http)}
    panels = json.loads(file.read_text(encoding="utf-8"))["panels"]
    assert len(panels) > 10
    for panel in panels:
        asked = set(re.findall(r"chexfract_\w+", panel["targets"][0]["expr"]))
        assert asked, panel["title"]
        assert asked <= names, panel["title"]


RULES = Path(__file__).parent.parent.parent / "configs" / "prometheus" / "chexfract.rules.yml"


def test_each_alert_and_level_asks_for_a_metric_that_exists(api: Api, http: httpx2.Client) -> None:
    metrics(http)
    pages.keep(api, b"\0" * 128 + b"DICM alert", pages.route())
    pages.reported(api, pages.claimed(api))
    pages.deliver(api, None)
    shown = metrics(http)
    assert shown["chexfract_stage_seconds_count", "to report"] >= 1
    names = {name for name, *_ in shown}
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        asked = set(re.findall(r"chexfract[:_][a-z0-9_:]+", rule["expr"]))
        assert asked, rule
        assert asked <= names | recorded, rule["expr"]
        assert "record" in rule or {"summary", "what"} == set(rule["annotations"])


def test_prometheus_takes_the_rules() -> None:
    command = [need("promtool"), "check", "rules", str(RULES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


STAGE = 'chexfract_stage_seconds_{}{{stage="to report"{}}}'
HEALTHY = {
    "chexfract_up": "1x60",
    "chexfract_spool_has_room": "1x60",
    "chexfract_spool_free_bytes": "60x60",
    "chexfract_spool_total_bytes": "100x60",
    'chexfract_queue_oldest_seconds{model="m"}': "5x60",
    'chexfract_queue_depth{model="m", state="due"}': "3x60",
    "chexfract_workers": "1x60",
    STAGE.format("bucket", ', le="120.0"'): "0+10x60",
    STAGE.format("bucket", ', le="300.0"'): "0+10x60",
    STAGE.format("bucket", ', le="+Inf"'): "0+10x60",
    STAGE.format("count", ""): "0+10x60",
    'chexfract_model_jobs{model="m", state="failed"}': "2x60",
    'chexfract_destination_held{destination="archive"}': "0x60",
    'chexfract_destination_oldest_seconds{destination="archive"}': "9x60",
}
SICK: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "ChexFractAway": ({"chexfract_up": "0x60"}, {}),
    "ChexFractNoRoom": ({"chexfract_spool_free_bytes": "4x60"}, {}),
    "ChexFractBacklog": ({'chexfract_queue_oldest_seconds{model="m"}': "700x60"}, {}),
    "ChexFractNoWorkers": ({"chexfract_workers": "0x60"}, {}),
    "ChexFractReportsLate": ({STAGE.format("bucket", ', le="120.0"'): "0x60"}, {}),
    "ChexFractJobsFail": ({'chexfract_model_jobs{model="m", state="failed"}': "2+1x60"}, {}),
    "ChexFractDestinationHeld": (
        {'chexfract_destination_held{destination="archive"}': "1x60"},
        {"destination": "archive"},
    ),
}
"""What Prometheus sees when an alert is due, and the labels of that alert."""


def test_each_alert_comes_when_it_is_due_and_not_before(tmp_path: Path) -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    alerts = {one["alert"]: one for group in groups for one in group["rules"] if "alert" in one}
    assert alerts.keys() == SICK.keys()
    cases = []
    for sick in (None, *SICK):
        changed, labels = SICK[sick] if sick else ({}, {})
        series = [{"series": name, "values": v} for name, v in (HEALTHY | changed).items()]
        asked = []
        for name, rule in alerts.items():
            due = []
            if name == sick:
                words = {
                    key: text.replace("{{ $labels.destination }}", "archive")
                    for key, text in rule["annotations"].items()
                }
                due = [{"exp_labels": rule["labels"] | labels, "exp_annotations": words}]
            asked.append({"eval_time": "40m", "alertname": name, "exp_alerts": due})
        cases.append({"interval": "1m", "input_series": series, "alert_rule_test": asked})
    file = tmp_path / "alerts.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": cases}))
    command = [need("promtool"), "test", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_metrics_of_a_ledger_that_is_away_say_so(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.ledger.history, "status", away)
    assert metrics(http)["chexfract_up",] == 0


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
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
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
