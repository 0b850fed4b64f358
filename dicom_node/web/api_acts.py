"""Users, and acts on all images that a search finds, by the API: as the pages do them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.plurals import counted
from dicom_node.settings import Settings
from dicom_node.store.clock import HOST_CLOCK
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.studies import StudyFilter
from dicom_node.store.spool import Spool
from dicom_node.web.api_door import TABLE
from dicom_node.web.bulk import ACTS, MOST_IMAGES, BulkRun, BulkRuns, act_on, eligible
from dicom_node.web.sessions import Person
from dicom_node.web.trail import WebTrail
from dicom_node.web.user_acts import ROLES, UserActs
from dicom_node.web.worklist import asked_for

LONGEST_SEARCH = 128

_TEXT = {"type": "string"}
_SEARCH = {
    "find": {**_TEXT, "maxLength": LONGEST_SEARCH, "description": "as in the list's search"},
    "state": {**_TEXT, "description": "as in the address of the list: failed, retrying …"},
    "since": {**_TEXT, "format": "date"},
    "until": {**_TEXT, "format": "date"},
    "all": {"type": "boolean", "description": "true where no search is meant: all images"},
}
_PERSON = {"role": {"enum": list(ROLES)}, "password": {**_TEXT, "description": "empty: made"}}


def _body_of(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def add_users(
    router: APIRouter, settings: Settings, ledger: Ledger, trail: WebTrail, admin: Any
) -> None:
    """Add what lists, adds, changes and removes users."""
    acts = UserActs(settings, ledger)

    def noted(request: Request, person: Person, what: str) -> None:
        trail.changed(request, person.name, "users-changed", what)

    @router.get("/users", summary="List the users", operation_id="list_users")
    def users(person: Person = admin) -> dict[str, Any]:
        counts = ledger.sessions.counts()
        return {
            "users": [
                {"name": user.name, "role": user.role, "sessions": counts.get(user.name, 0)}
                for user in acts.all_users()
            ]
        }

    @router.put(
        "/users/{name}", summary="Add a user; a password that is made is in the answer",
        operation_id="put_user", openapi_extra=_body_of(_PERSON), status_code=201,
    )  # fmt: skip
    def add(request: Request, name: str, person: Person = admin, values: Any = TABLE) -> Response:
        texts = _text_values(values, _PERSON)
        try:
            what, made = acts.add(name, texts.get("role", ""), texts.get("password", ""))
        except ConfigurationError as exc:
            raise HTTPException(422, str(exc)) from exc
        noted(request, person, what)
        return JSONResponse({"name": name, **({"password": made} if made else {})}, 201)

    @router.patch(
        "/users/{name}", summary="Change a user's role or password; an empty password is made",
        operation_id="patch_user", openapi_extra=_body_of(_PERSON),
    )  # fmt: skip
    def change(
        request: Request, name: str, person: Person = admin, values: Any = TABLE
    ) -> dict[str, str]:
        texts, answer = _text_values(values, _PERSON), {"name": name}
        try:
            if "role" in texts:
                noted(request, person, acts.change_role(name, texts["role"])[0])
            if "password" in texts:
                what, made = acts.change_password(name, texts["password"])
                noted(request, person, what)
                answer |= {"password": made} if made else {}
        except ConfigurationError as exc:
            raise HTTPException(422, str(exc)) from exc
        return answer

    @router.delete("/users/{name}", summary="Remove a user", operation_id="delete_user")
    def remove(request: Request, name: str, person: Person = admin) -> dict[str, str]:
        try:
            noted(request, person, acts.remove(name)[0])
        except ConfigurationError as exc:
            raise HTTPException(422, str(exc)) from exc
        return {"removed": name}

    @router.delete(
        "/users/{name}/sessions", summary="End a user's sessions", operation_id="end_sessions"
    )
    def end_sessions(request: Request, name: str, person: Person = admin) -> dict[str, str]:
        what, _ = acts.end_sessions(name[:256])
        noted(request, person, what)
        return {"done": what}


def add_bulk(
    router: APIRouter, settings: Settings, ledger: Ledger, spool: Spool, trail: WebTrail,
    runs: BulkRuns, operator: Any,
) -> None:  # fmt: skip
    """Add what counts, begins and follows an act on many images.

    A search stands in the body: a patient's name has no place in an address.
    """
    search = _body_of(_SEARCH)

    @router.post(
        "/bulk/count", summary="Count what each act would be about",
        operation_id="count_bulk", openapi_extra=search,
    )  # fmt: skip
    def count(request: Request, person: Person = operator, values: Any = TABLE) -> dict[str, Any]:
        found = eligible(ledger, _study_filter(values))
        trail.queried(request, person.name, "bulk")
        return {"images": {act: len(uids) for act, uids in found.items()}, "most": MOST_IMAGES}

    @router.post(
        "/bulk/{act}", summary=f"Begin an act on many images: {', '.join(ACTS)}",
        operation_id="begin_bulk", openapi_extra=search, status_code=202,
    )  # fmt: skip
    def begin(
        request: Request, act: str, person: Person = operator, values: Any = TABLE
    ) -> dict[str, Any]:
        if act not in ACTS:
            raise HTTPException(404, f"no such act; there are {', '.join(ACTS)}")
        uids = eligible(ledger, _study_filter(values))[act]
        by = trail.actor(request, person.name)
        run = BulkRun(act, by.name, tuple(uids), HOST_CLOCK.wall())
        ident = runs.start(run, act_on(settings, spool, ledger, act, by))
        if not ident:
            raise HTTPException(503, "enough is under way; wait until it is done")
        trail.changed(request, person.name, "configured", f"{act} of {counted(len(uids), 'image')}")
        return {"run": ident, "images": run.total}

    @router.get(
        "/bulk/runs/{ident}", summary="Show how far an act has come", operation_id="show_bulk"
    )
    def progress(ident: str, person: Person = operator) -> dict[str, Any]:
        run = runs.find(ident)
        if run is None:
            raise HTTPException(404, "this act is not known any more; what it did stands")
        shown = {name: value for name, value in asdict(run).items() if name not in ("uids", "back")}
        return {**shown, "total": run.total, "is_over": bool(run.ended)}


def _text_values(values: dict[str, Any], known: dict[str, Any]) -> dict[str, str]:
    """Return a body whose values are all text, under keys that are known."""
    for key, value in values.items():
        if key not in known:
            raise HTTPException(422, f"{key[:64]!r} is not a key; there are {', '.join(known)}")
        if not isinstance(value, str) or _has_surrogate(value):
            raise HTTPException(422, f"{key}: write text")
    return values


def _has_surrogate(text: str) -> bool:
    """Return whether JSON's escapes made half a character, which no UTF-8 can write."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _study_filter(values: dict[str, Any]) -> StudyFilter:
    """Return which images a body means; one without a search has to say so."""
    is_all = values.get("all", False)
    texts = _text_values({key: value for key, value in values.items() if key != "all"}, _SEARCH)
    if not isinstance(is_all, bool) or is_all == any(texts.values()):
        raise HTTPException(422, 'write a search, or { "all": true } for all images')
    words, state = texts.get("find", ""), texts.get("state", "")
    since, until = texts.get("since", ""), texts.get("until", "")
    asked = asked_for("", state, "dates" if since or until else "", since, until)
    if (asked.state, asked.since, asked.until) != (state, since, until):
        raise HTTPException(
            422, "state is one of the list's, since and until are dates: 2026-01-31"
        )
    if len(words) > LONGEST_SEARCH:
        raise HTTPException(422, f"find: has more than {LONGEST_SEARCH} characters")
    return StudyFilter(words, state, *asked.moments())
