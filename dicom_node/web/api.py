"""The API of administrators: peers, rules, history and holds as JSON, by a key of a person.

``/api/openapi.json`` describes it. A key acts with the role that its person has now. Changes bear
the revision that they were made on (``If-Match``), so that none overwrites another unseen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated, Any, cast

import anyio
from anyio.to_thread import run_sync
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
from dicom_node.settings import Peer, Role, Rule, Settings
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.api_keys import HEAD
from dicom_node.store.ledger.holds import known_kind
from dicom_node.web.brake import DECAY_S, Brake
from dicom_node.web.sessions import Door, Person, from_our_page
from dicom_node.web.trail import WebTrail

ROOT = "/api"
WAY = "API"

MOST_DEEP = 8
"""Tables within each other in a body; no peer and no rule has more than three."""

_UNKNOWN_KEY = "API key"


class ApiDoor:
    """Knows people by a key of theirs; where nobody signs in, everybody on this machine.

    Parameters
    ----------
    door : Door
    ledger : Ledger
    """

    def __init__(self, door: Door, ledger: Ledger, brake: Brake) -> None:
        self._door = door
        self._keys = ledger.api_keys
        self._brake = brake

    def needs(self, role: Role) -> Callable[[Request], Any]:
        """Return the dependency of what people with this role may do."""

        async def needed(request: Request) -> Person:
            person = await self._person(request)
            if not person.may(role):
                raise HTTPException(403, f"this needs the role {role}; the key's is {person.role}")
            return person

        return needed

    async def _person(self, request: Request) -> Person:
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and key.startswith(HEAD):
            found = await run_sync(self._holder, key.strip())
            if found is not None:
                return found
            address = self._door.address(request)
            await anyio.sleep(self._brake.pause(address))
            if not self._brake.take(_UNKNOWN_KEY, address):
                wait = {"Retry-After": f"{DECAY_S:.0f}"}
                raise HTTPException(429, f"too many unknown keys; wait {DECAY_S:.0f} s", wait)
        elif not self._door.has_sign_in:
            from_our_page(request)
            person = await run_sync(self._door.person, request)
            if person is not None:
                return person
        raise HTTPException(
            401, "send a key of yours as bearer token", {"WWW-Authenticate": "Bearer"}
        )

    def _holder(self, key: str) -> Person | None:
        """Return whose key this is, with the role that they have now."""
        found = self._keys.find(key)
        return None if found is None else self._door.user_named(found.user_name)


async def _body(request: Request) -> dict[str, Any]:
    """Return the table of a body; it is read when it is known who sends it."""
    try:
        content = json.loads(await request.body(), parse_constant=_refuse)
    except (ValueError, RecursionError) as exc:
        raise HTTPException(422, "the body is not JSON") from exc
    if not isinstance(content, dict) or _depth(content) > MOST_DEEP:
        raise HTTPException(422, 'the body is not a table: write { "key": value }')
    return content


_TABLE = Depends(_body)


def _refuse(word: str) -> None:
    raise ValueError(word)


def _depth(value: Any) -> int:
    depth, layer = 0, [value]
    while layer and depth <= MOST_DEEP:
        depth += 1
        inner: list[Any] = []
        for one in layer:
            inner += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        layer = [one for one in inner if isinstance(one, dict | list)]
    return depth


def routes(
    settings: Settings, ledger: Ledger, door: Door, trail: WebTrail, brake: Brake
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
        return _answer({kind: rows, "revision": revision.mark}, revision.mark)

    def shown(kind: Kind, name: str) -> Response:
        revision = file().read()
        values = revision.table(kind, name)
        if values is None:
            raise HTTPException(404, f"no {WORDS[kind]} is named {name!r}")
        return _answer(values, revision.mark)

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
        return _done(lambda: config.change(wanted, by, WAY, base), is_added=old is None)

    for kind, model in (("peers", Peer), ("rules", Rule)):
        _table_routes(router, cast("Kind", kind), model, listed, shown, written, viewer, admin)

    @router.get("/history", summary="List who changed peers and rules")
    def history(
        limit: Annotated[int, Query(ge=1, le=500)] = 50, person: Person = admin
    ) -> dict[str, Any]:
        found = file().history()[-limit:]
        return {"history": [{**asdict(one), "what": one.what, "diff": one.diff} for one in found]}

    @router.post("/history/{number}/undo", summary="Undo a change")
    def undo(request: Request, number: int, person: Person = admin) -> Response:
        by, config = trail.actor(request, person.name), file()
        return _done(lambda: config.undo(number, by, WAY))

    @router.get("/holds", summary="List what is held")
    def held(person: Person = viewer) -> dict[str, Any]:
        return {"holds": [asdict(one) for one in ledger.holds.held()]}

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
        return {"keys": [asdict(one) for one in ledger.api_keys.of_person(person.name or "-")]}

    @router.delete("/keys/{ident}", summary="End a key of your own")
    def end_key(request: Request, ident: str, person: Person = viewer) -> dict[str, str]:
        ended = ledger.api_keys.end(ident[:16], person.name or "-")
        trail.changed(request, person.name, "users-changed", f"API key {ended.ident} is ended")
        return {"ended": ended.ident}

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
        request: Request, name: str, person: Person = admin, values: Any = _TABLE,
        place: Place = None,
    ) -> Response:  # fmt: skip
        return written(request, person, kind, name, lambda old: values, place)

    @router.patch(
        path, summary=f"Change keys of a {word}; null removes one",
        operation_id=f"patch_{word}", openapi_extra=part,
    )  # fmt: skip
    def patch(
        request: Request, name: str, person: Person = admin, values: Any = _TABLE,
        place: Place = None,
    ) -> Response:  # fmt: skip
        def changed(old: dict[str, Any] | None) -> dict[str, Any]:
            if old is None:
                raise HTTPException(404, f"no {word} is named {name!r}")
            return _merged(old, values)

        return written(request, person, kind, name, changed, place)

    @router.delete(path, summary=f"Remove a {word}", operation_id=f"delete_{word}")
    def remove(request: Request, name: str, person: Person = admin) -> Response:
        return written(request, person, kind, name, lambda old: None, is_removal=True)


Place = Annotated[int | None, Query(ge=1, le=9999, description="where a rule stands, 1: first")]


def _merged(old: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return a table with other keys (RFC 7396)."""
    merged = dict(old)
    for key, value in part.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            inner = merged.get(key)
            merged[key] = _merged(inner if isinstance(inner, dict) else {}, value)
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


def _done(act: Callable[[], ChangeOutcome], *, is_added: bool = False) -> Response:
    """Do a change and answer what became of it."""
    try:
        outcome = act()
    except FileChanged as exc:
        since = [{**asdict(one), "what": one.what, "diff": one.diff} for one in exc.since]
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
    return _answer(content, change.mark, 201 if is_added and change.number else 200)


def _answer(content: Any, mark: str, status: int = 200) -> Response:
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
