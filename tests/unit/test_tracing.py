"""Traces of images: one per job, named by its id, and nothing at all unless they are asked for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dicom_node.flow import tracing

JOB = "5046773832bf9c2e34814163c2d91f72"


@dataclass(frozen=True)
class Step:
    stage: str
    at: float
    ms: float
    job: str = JOB


STEPS = [
    Step("received", 100.0, 20, job=""),
    Step("model", 101.5, 1000),
    Step("delivered", 102.0, 100),
    Step("model", 300.0, 5, job="f" * 32),
]


@pytest.mark.parametrize(("job", "trace"), [(JOB, int(JOB, 16)), ("0v" * 10, int("0v" * 10, 32))])
def test_a_job_is_one_trace_of_its_own_id_across_node_and_worker(job: str, trace: int) -> None:
    kept = InMemorySpanExporter()
    traces = tracing.TraceExporter(kept)
    for _ in range(2):  # a second delivery sends the same spans, not others
        steps = [replace(step, job=job) if step.job == JOB else step for step in STEPS]
        traces.export(job, steps, {"chexfract.destination": "archive"})
        traces.flush()
    spans = kept.get_finished_spans()
    traces.close()
    assert {span.context.trace_id for span in spans} == {trace}
    assert len({span.context.span_id for span in spans}) == len(spans) / 2 == 4
    by_name = {span.name: span for span in spans}
    route = by_name["C-STORE to report"]
    assert (route.start_time, route.end_time) == (99_980_000_000, 102_000_000_000)
    assert route.parent is None
    model = by_name["model"]
    assert model.parent.span_id == route.context.span_id
    assert (model.start_time, model.end_time) == (100_500_000_000, 101_500_000_000)
    assert model.attributes["chexfract.program"] == "worker"
    assert by_name["delivered"].attributes["chexfract.program"] == "node"
    assert route.resource.attributes["service.name"] == "chexfract-node"


@pytest.fixture
def collector(free_port: int) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    got: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", free_port), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{free_port}", got
        server.shutdown()


def test_a_collector_gets_them_where_the_standard_variable_names_one(
    collector: tuple[str, list[tuple[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, got = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    traces = tracing.from_environment()
    assert traces is not None
    traces.export(JOB, STEPS, {})
    traces.close()
    assert got[0][0] == "/v1/traces"
    assert bytes.fromhex(JOB) in got[0][1]


def test_without_the_variable_or_the_extra_there_are_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in tracing.SWITCHES:
        monkeypatch.delenv(name, raising=False)
    assert tracing.from_environment() is None
    monkeypatch.setenv(tracing.SWITCHES[0], "http://127.0.0.1:1")
    name = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, name, None)
    assert tracing.from_environment() is None
    assert "chexfract-node[tracing]" in caplog.text
