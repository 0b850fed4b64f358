"""The Grafana dashboard of this node's metrics: ``python -m dicom_node.operate.dashboard``."""

from __future__ import annotations

import json
from typing import Any

PANELS: tuple[tuple[str, str, str, str, str], ...] = (
    # title, expression, legend, unit, kind
    ("Ledger answers", "chexfract_up", "{{instance}}", "bool_yes_no", "stat"),
    ("Waiting", 'sum(chexfract_queue_depth{state!="running"})', "waiting", "short", "stat"),
    ("Oldest wait", "max(chexfract_queue_oldest_seconds)", "oldest", "s", "stat"),
    ("Workers in the last hour", "sum(chexfract_workers)", "workers", "short", "stat"),
    ("Free disk", "min(chexfract_spool_free_bytes)", "free", "bytes", "stat"),
    ("Held destinations", "sum(chexfract_destination_held)", "held", "short", "stat"),
    ("Queue", "sum by (model, state) (chexfract_queue_depth)", "{{model}} {{state}}", "short",
     "timeseries"),
    ("Results by outcome", "sum by (model, state) (delta(chexfract_model_jobs[5m]))",
     "{{model}} {{state}}", "short", "timeseries"),
    ("Stage durations, 95th percentile",
     "histogram_quantile(0.95, sum by (stage, le) (rate(chexfract_stage_seconds_bucket[10m])))",
     "{{stage}}", "s", "timeseries"),
    ("Stages a minute", "60 * sum by (stage) (rate(chexfract_stage_seconds_count[5m]))",
     "{{stage}}", "short", "timeseries"),
    ("Images by state", "sum by (state) (chexfract_instances)", "{{state}}", "short",
     "timeseries"),
    ("Deliveries by state", "sum by (state) (chexfract_deliveries)", "{{state}}", "short",
     "timeseries"),
    ("Deliveries that wait", "chexfract_destination_waiting", "{{destination}}", "short",
     "timeseries"),
    ("Oldest delivery", "chexfract_destination_oldest_seconds", "{{destination}}", "s",
     "timeseries"),
    ("Disk of the spool",
     "100 * chexfract_spool_free_bytes / chexfract_spool_total_bytes", "free", "percent",
     "timeseries"),
    ("Conflicts", "chexfract_conflicts", "conflicts", "short", "timeseries"),
)  # fmt: skip

_SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard() -> dict[str, Any]:
    """Return the dashboard: a row of figures, then curves two by two."""
    figures = [panel for panel in PANELS if panel[4] == "stat"]
    curves = [panel for panel in PANELS if panel[4] != "stat"]
    width = 24 // len(figures)
    panels = [_drawn_panel(n, p, n * width, 0, width, 4) for n, p in enumerate(figures)]
    panels += [
        _drawn_panel(len(figures) + n, p, 12 * (n % 2), 4 + 8 * (n // 2), 12, 8)
        for n, p in enumerate(curves)
    ]
    return {
        "title": "ChexFract Node",
        "uid": "chexfract-node",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Source", "type": "datasource",
                      "query": "prometheus"}]
        },
        "panels": panels,
    }  # fmt: skip


def _drawn_panel(
    number: int, panel: tuple[str, str, str, str, str], x: int, y: int, width: int, height: int
) -> dict[str, Any]:
    title, expression, legend, unit, kind = panel
    return {
        "id": number + 1,
        "title": title,
        "type": kind,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": "A", "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
        ],
    }


def text() -> str:
    """Return the file ``configs/grafana/chexfract.json``."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
