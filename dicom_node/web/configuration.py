"""Models and configuration: what this node runs with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import HTMLResponse

from dicom_node import in_force
from dicom_node.base.errors import ConfigurationError
from dicom_node.base.job import Card
from dicom_node.settings import DEMONSTRATION_MODELS, Settings, shown
from dicom_node.store.ledger import Ledger
from dicom_node.web.holding import held_names
from dicom_node.web.render import Pages
from dicom_node.web.sessions import Door, Person
from dicom_node.web.worker_start import missing_workers, served_facts
from dicom_node.web.workers import Seen, Workers


def routes(
    settings: Settings, ledger: Ledger, door: Door, pages: Pages, workers: Workers
) -> APIRouter:
    """Return both pages."""
    router = APIRouter()
    viewer, admin = Depends(door.needs("viewer")), Depends(door.needs("admin"))

    @router.get("/models")
    def models(person: Person = viewer) -> HTMLResponse:
        """Show the models that rules name or that have worked here."""
        seen = workers.seen()
        missing = missing_workers(settings, ledger, workers) if workers.is_grown else []
        return pages.page(
            "models.html",
            person,
            models=_model_rows(settings, ledger, seen),
            held=held_names(ledger, "model"),
            held_workers=held_names(ledger, "worker"),
            here_workers={worker.presence.worker for worker in seen},
            missing=missing,
            jobs_url=settings.jobs_url,
            **served_facts(settings, missing),
        )

    @router.get("/configuration")
    def configuration(person: Person = admin) -> HTMLResponse:
        """Show every key in force, secrets starred, and whether the file is right now."""
        content = shown(settings, with_units=True)
        tables = {name: list(_flat_leaves("", table)) for name, table in content.items()}
        return pages.page(
            "configuration.html", person, tables=tables, file=_read_file_state(settings)
        )

    return router


@dataclass(frozen=True, slots=True)
class File:
    """What node.toml on disk is, beside what is in force."""

    problem: str = ""
    reloads: tuple[str, ...] = ()
    """Tables that differ and are in force after a reload."""
    waits: tuple[str, ...] = ()
    """Tables that differ and are in force after the next start."""


def _read_file_state(settings: Settings) -> File | None:
    """Look at node.toml as it is now; None where this node was not started by `serve`."""
    copy = settings.node.data_dir / in_force.FILE
    if not copy.is_file():
        return None
    try:
        _, changed = in_force.on_disk(copy)
    except ConfigurationError as exc:
        return File(problem=str(exc))
    reloads = tuple(table for table in changed if table in in_force.EXCHANGED)
    return File("", reloads, tuple(table for table in changed if table not in reloads))


def _model_rows(settings: Settings, ledger: Ledger, seen: Sequence[Seen]) -> list[dict[str, Any]]:
    by_model: dict[str, list[Seen]] = {}
    for worker in seen:
        by_model.setdefault(worker.presence.card.name, []).append(worker)
    counts = ledger.history.status().models
    versions = ledger.results.versions(ledger.clock.wall() - 30 * 86400)
    agreement = ledger.results.agreement()
    rules: dict[str, list[Any]] = {}
    for rule in settings.rules:
        rules.setdefault(rule.model, []).append(rule)
    return [
        {
            "name": name,
            "is_demonstration": name in DEMONSTRATION_MODELS
            or any(version.demonstration for version in versions.get(name, []))
            or any(worker.presence.card.demonstration for worker in by_model.get(name, [])),
            "workers": by_model.get(name, []),
            "cards": _distinct_cards(by_model.get(name, [])),
            "rules": rules.get(name, []),
            "counts": counts.get(name, {}),
            "versions": versions.get(name, []),
            "agreement": agreement.get(name, []),
        }
        for name in sorted({*rules, *counts, *by_model})
    ]


def _distinct_cards(seen: Sequence[Seen]) -> list[Card]:
    """Return each card once: workers of one model may run different weights."""
    return list({worker.presence.card.version: worker.presence.card for worker in seen}.values())


def _flat_leaves(prefix: str, value: Any) -> Any:
    """Yield key and value of each leaf of a table."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat_leaves(f"{prefix}.{key}" if prefix else key, inner)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            yield from _flat_leaves(f"{prefix}.{number}" if prefix else str(number), inner)
    else:
        yield prefix, json.dumps(value, ensure_ascii=False)
