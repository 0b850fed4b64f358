"""OpenTelemetry traces from C-STORE to C-STORE-RSP, made of what the ledger has written down.

The trace of an image is named by its job: the job's id, of 20 digits of 5 bits, is the number that
a trace id is (that of a job of 0.1.0 has 32 digits of 4 bits). Nothing has to travel with a
hand-out, and a trace that is sent twice is the same one. Without ``OTEL_EXPORTER_OTLP_ENDPOINT``,
or without the extra ``tracing``, nothing is done.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from dicom_node.base.errors import Unreachable
from dicom_node.base.rims import foreign_code

logger = logging.getLogger(__name__)

SWITCHES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Standard variables of OpenTelemetry; one of them turns traces on."""

IN_WORKER = frozenset(("fetch", "prepare", "decode", "picture", "queue", "model", "report", "post"))
"""Stages whose times the worker measured."""


class StepView(Protocol):
    """A step of an Instance, as `ledger.history.trace` gives it."""

    @property
    def stage(self) -> str: ...  # noqa: D102 - as in TraceStep
    @property
    def at(self) -> float: ...  # noqa: D102
    @property
    def ms(self) -> float: ...  # noqa: D102
    @property
    def job(self) -> str: ...  # noqa: D102


class TraceExporter:
    """Turns the steps of a job into spans and hands them to `exporter`.

    Parameters
    ----------
    exporter : opentelemetry.sdk.trace.export.SpanExporter
        Takes finished spans.
    service : str
        ``service.name`` of the resource.
    """

    def __init__(self, exporter: Any, service: str = "chexfract-node") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._lock = threading.Lock()
        self._ids = _NamedIds()
        resource = Resource.create({"service.name": service})
        self._provider = TracerProvider(resource=resource, id_generator=cast("Any", self._ids))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("chexfract")

    def export(self, job: str, steps: Iterable[StepView], attributes: Mapping[str, str]) -> None:
        """Hand over one span for the whole route of a job and one for each step of it.

        Parameters
        ----------
        job : str
            Its id, whose number is the trace id.
        steps : iterable
            Steps of the Instance; those of other jobs are left out.
        attributes : mapping
            What is said of the whole route; never anything of the patient.
        """
        own = [step for step in steps if step.job in ("", job)]
        if not own:
            return
        # couriers of several destinations share it, and the ids are named one span at a time
        with self._lock:
            self._export_spans(job, own, attributes)

    def _export_spans(
        self, job: str, own: Sequence[StepView], attributes: Mapping[str, str]
    ) -> None:
        from opentelemetry.trace import set_span_in_context

        began = min(step.at - step.ms / 1000 for step in own)
        self._ids.name(job, "route")
        route = self._tracer.start_span(
            "C-STORE to report", start_time=_nanoseconds_of(began), attributes=dict(attributes)
        )
        context = set_span_in_context(route)
        for number, step in enumerate(own):
            self._ids.name(job, f"{number} {step.stage}")
            program = "worker" if step.stage in IN_WORKER else "node"
            span = self._tracer.start_span(
                step.stage,
                context,
                start_time=_nanoseconds_of(step.at - step.ms / 1000),
                attributes={"chexfract.program": program, "chexfract.job": job},
            )
            span.end(_nanoseconds_of(step.at))
        route.end(_nanoseconds_of(max(step.at for step in own)))

    def flush(self) -> None:
        """Send what is waiting."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what is waiting and end."""
        self._provider.shutdown()


def from_environment() -> TraceExporter | None:
    """Return the exporter that the standard variables ask for; None where they ask for none."""
    if not any(os.environ.get(name) for name in SWITCHES):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        logger.warning("no traces: pip install 'chexfract-node[tracing]', or unset %s", SWITCHES[0])
        return None
    with foreign_code(lambda exc: Unreachable(f"traces: {exc}")):
        return TraceExporter(
            OTLPSpanExporter(), os.environ.get("OTEL_SERVICE_NAME", "chexfract-node")
        )


class _NamedIds:
    """Gives the next span the ids that follow from its job and its name."""

    def __init__(self) -> None:
        self._trace = self._span = 1

    def name(self, job: str, what: str) -> None:
        self._trace = int(job, 16 if len(job) == 32 else 32)  # its digits in ledgers of before 0011
        digest = hashlib.sha256(f"{job} {what}".encode()).digest()
        self._span = int.from_bytes(digest[:8], "big") or 1

    def is_trace_id_random(self) -> bool:
        return False

    def generate_trace_id(self) -> int:
        return self._trace

    def generate_span_id(self) -> int:
        return self._span


def _nanoseconds_of(seconds: float) -> int:
    return round(seconds * 1e9)
