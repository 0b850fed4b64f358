"""The API of administrators: peers, rules, history, holds, users and acts on many images, as JSON.

``/api/openapi.json`` describes it. Each call has a key of a person. Changes of the file bear the
revision that they were made on (``If-Match``), so that none overwrites another unseen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Query, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from dicom_node import __version__
from dicom_node import settings as tables
from dicom_node.base.errors import Busy, ConfigurationError, NotFound
from dicom_node.base.json_schema import explain
from dicom_node.editing import (
    WORDS,
    ChangeOutcome,
    ConfigFile,
    FileChanged,
    Kind,
    ReadOnlyFile,
    ReloadRefused,
    TableChange,
)
from dicom_node.settings import Peer, Rule, Settings
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.holds import known_kind
from dicom_node.store.spool import Spool
from dicom_node.web import api_acts
from dicom_node.web.api_door import TABLE, ApiDoor
from dicom_node.web.brake import Brake
from dicom_node.web.bulk import BulkRuns
from dicom_node.web.sessions import Door, Person
from dicom_node.web.trail import WebTrail

ROOT = "/api"
WAY = "API"


def routes(
    settings: Settings,
    ledger: Ledger,
    spool: Spool,
    door: Door,
    trail: WebTrail,
    brake: Brake,
    runs: BulkRuns,
) -> APIRouter:
    """Return the API."""
    router = APIRouter(prefix=ROOT)
    api_door = ApiDoor(door, ledger, brake)
    viewer, operator = Depends(api_door.needs("viewer")), Depends(api_door.needs("operator"))
    admin = Depends(api_door.needs("admin"))

    def file() -> ConfigFile:
        found = ConfigFile.of_running(settings, trail.note)
        if found is None:
            raise HTTPException(409, "serve did not start this node: it has no node.toml to change")
        return found

    def listed(kind: Kind) -> Response:
        revision = file().read()
        rows = [{**(revision.table(kind, n) or {}), "name": n} for n in revision.names(kind)]
        return _marked_answer({kind: rows, "revision": revision.mark}, revision.mark)

    def shown(kind: Kind, name: str) -> Response:
        revision = file().read()
        values = revision.table(kind, name)
        if values is None:
            raise HTTPException(404, f"no {WORDS[kind]} is named {name!r}")
        return _marked_answer(values, revision.mark)

    def written(
        request: Request, person: Person, kind: Kind, name: str, change: Callable[[Any], Any],
        place: int | None = None, *, is_removal: bool = False,
    ) -> Response:  # fmt: skip
        """Change a table; `change` takes its old values, None without any, and returns the new."""
        base = _revision_asked(request)
        config = file()
        old = config.read().table(kind, name)
        is_new = request.headers.get("if-none-match", "").strip() == "*"
        values = None if is_removal else change(old)
        if kind == "rules" and values is not None:
            values = {"name": name, **values}
        at = None if place is None else place - 1
        wanted = TableChange(kind, name, values, at, is_new=is_new)
        by = trail.actor(request, person.name)
        return _answer_change(lambda: config.change(wanted, by, WAY, base), is_added=old is None)

    for kind, model in (("peers", Peer), ("rules", Rule)):
        _table_routes(router, cast("Kind", kind), model, listed, shown, written, viewer, admin)

    @router.get("/history", summary="List who changed peers and rules")
    def history(
        limit: Annotated[int, Query(ge=1, le=500)] = 50, person: Person = admin
    ) -> dict[str, Any]:
        found = file().history()[-limit:]
        return {
            "history": [
                {**asdict(change), "what": change.what, "diff": change.diff} for change in found
            ]
        }

    @router.post("/history/{number}/undo", summary="Undo a change")
    def undo(request: Request, number: int, person: Person = admin) -> Response:
        by, config = trail.actor(request, person.name), file()
        return _answer_change(lambda: config.undo(number, by, WAY))

    @router.get("/holds", summary="List what is held")
    def held(person: Person = viewer) -> dict[str, Any]:
        return {"holds": [asdict(hold) for hold in ledger.holds.held()]}

    @router.put("/holds/{kind}/{name:path}", summary="Hold something back")
    def hold(
        request: Request,
        kind: str,
        name: str,
        why: Annotated[str, Query(max_length=256)] = "",
        person: Person = operator,
    ) -> dict[str, bool]:
        by = trail.actor(request, person.name)
        if is_new := ledger.holds.hold(known_kind(kind), name[:128], by, why):
            trail.changed(request, person.name, "configured", f"{kind} {name[:128]} is held")
        return {"new": is_new}

    @router.delete("/holds/{kind}/{name:path}", summary="Let something go that is held")
    def let_go(request: Request, kind: str, name: str, person: Person = operator) -> dict[str, Any]:
        was = ledger.holds.let_go(known_kind(kind), name)
        trail.changed(request, person.name, "configured", f"{kind} {name[:128]} is let go")
        return asdict(was)

    @router.get("/keys", summary="List your own keys")
    def keys(person: Person = viewer) -> dict[str, Any]:
        return {"keys": [asdict(key) for key in ledger.api_keys.of_person(person.name or "-")]}

    @router.delete("/keys/{ident}", summary="End a key of your own")
    def end_key(request: Request, ident: str, person: Person = viewer) -> dict[str, str]:
        ended = ledger.api_keys.end(ident[:16], person.name or "-")
        trail.changed(request, person.name, "users-changed", f"API key {ended.ident} is ended")
        return {"ended": ended.ident}

    api_acts.add_users(router, settings, ledger, trail, admin)
    api_acts.add_bulk(router, settings, ledger, spool, trail, runs, operator)

    description = lru_cache(maxsize=1)(lambda: describe(router))

    @router.get("/openapi.json", include_in_schema=False)
    def openapi(person: Person = viewer) -> dict[str, Any]:
        """Describe all this for programs (OpenAPI 3.1)."""
        return description()

    return router


def _table_routes(
    router: APIRouter,
    kind: Kind,
    model: type[Peer] | type[Rule],
    listed: Callable[[Kind], Response],
    shown: Callable[[Kind, str], Response],
    written: Callable[..., Response],
    viewer: Any,
    admin: Any,
) -> None:
    """Add what lists, shows, adds, changes and removes peers, or rules."""
    word = WORDS[kind]
    path = f"/{kind}/{{name}}" if kind == "peers" else f"/{kind}/{{name:path}}"
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    part = {"requestBody": {"required": True, "content": {"application/json": {"schema": {}}}}}

    @router.get(f"/{kind}", summary=f"List all {kind}", operation_id=f"list_{kind}")
    def all_of(person: Person = viewer) -> Response:
        return listed(kind)

    @router.get(path, summary=f"Show a {word}", operation_id=f"show_{word}")
    def one(name: str, person: Person = viewer) -> Response:
        return shown(kind, name)

    @router.put(
        path, summary=f"Add a {word}, or replace it", operation_id=f"put_{word}",
        openapi_extra=body,
    )  # fmt: skip
    def put(
        request: Request, name: str, person: Person = admin, values: Any = TABLE,
        place: Place = None,
    ) -> Response:  # fmt: skip
        return written(request, person, kind, name, lambda old: values, place)

    @router.patch(
        path, summary=f"Change keys of a {word}; null removes one",
        operation_id=f"patch_{word}", openapi_extra=part,
    )  # fmt: skip
    def patch(
        request: Request, name: str, person: Person = admin, values: Any = TABLE,
        place: Place = None,
    ) -> Response:  # fmt: skip
        def changed(old: dict[str, Any] | None) -> dict[str, Any]:
            if old is None:
                raise HTTPException(404, f"no {word} is named {name!r}")
            return _merge_patch(old, values)

        return written(request, person, kind, name, changed, place)

    @router.delete(path, summary=f"Remove a {word}", operation_id=f"delete_{word}")
    def remove(request: Request, name: str, person: Person = admin) -> Response:
        return written(request, person, kind, name, lambda old: None, is_removal=True)


Place = Annotated[int | None, Query(ge=1, le=9999, description="where a rule stands, 1: first")]


def _merge_patch(old: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return a table with other keys (RFC 7396)."""
    merged = dict(old)
    for key, value in part.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            inner = merged.get(key)
            merged[key] = _merge_patch(inner if isinstance(inner, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def _revision_asked(request: Request) -> str:
    """Return the revision that a change was made on; empty for whatever there is.

    Raises
    ------
    HTTPException
        428: it does not say.
    """
    asked = request.headers.get("if-match", "").strip()
    if not asked and request.headers.get("if-none-match", "").strip() != "*":
        raise HTTPException(428, "send the ETag of what you have seen as If-Match, or * for any")
    return "" if asked == "*" else asked.removeprefix("W/").strip('"')[:64]


def _answer_change(act: Callable[[], ChangeOutcome], *, is_added: bool = False) -> Response:
    """Do a change and answer what became of it."""
    try:
        outcome = act()
    except FileChanged as exc:
        since = [
            {**asdict(change), "what": change.what, "diff": change.diff} for change in exc.since
        ]
        return JSONResponse({"detail": str(exc), "since": since}, 412)
    except ReadOnlyFile as exc:
        return JSONResponse({"detail": str(exc), "lines": exc.lines}, 409)
    except ReloadRefused as exc:
        return JSONResponse({"detail": str(exc)}, 409)
    except ConfigurationError as exc:
        return JSONResponse({"detail": str(exc)}, 422)
    except Busy as exc:
        return JSONResponse({"detail": str(exc)}, 409)
    except NotFound as exc:
        return JSONResponse({"detail": str(exc)}, 404)
    change = outcome.change
    content = {
        "change": change.number,
        "diff": change.diff,
        "remark": outcome.remark,
        "reloaded": asdict(outcome.reloaded) if outcome.reloaded else None,
        "revision": change.mark,
    }
    return _marked_answer(content, change.mark, 201 if is_added and change.number else 200)


def _marked_answer(content: Any, mark: str, status: int = 200) -> Response:
    text = json.dumps(content, ensure_ascii=False, default=str)
    headers = {"ETag": f'"{mark}"'}
    return Response(text, status, headers, media_type="application/json")


def describe(router: APIRouter) -> dict[str, Any]:
    """Return the description of the API by OpenAPI 3.1."""
    found = get_openapi(
        title="ChexFract Node",
        version=__version__,
        description=(__doc__ or "").partition("\n")[0],
        routes=router.routes,
    )
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in (Peer, Rule):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        inner = schema.pop("$defs", {})
        schemas |= {**inner, model.__name__: schema}
    explain(schemas, tables)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    found["security"] = [{"key": []}]
    return found
