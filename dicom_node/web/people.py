"""Who may sign in, changed by administrators; and the keys by which programs act for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from dicom_node.base.errors import Busy, ConfigurationError
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger
from dicom_node.users import read_users
from dicom_node.web.render import Pages
from dicom_node.web.sessions import Door, Person, Posted
from dicom_node.web.trail import WebTrail
from dicom_node.web.user_acts import ROLES, UserActs


def routes(
    settings: Settings, ledger: Ledger, door: Door, pages: Pages, trail: WebTrail
) -> APIRouter:
    """Return the page of all users, and that of one's own keys."""
    router = APIRouter()
    acts = UserActs(settings, ledger)
    admin, viewer = Depends(door.needs("admin")), Depends(door.needs("viewer"))
    administers, posts = Depends(door.posts("admin")), Depends(door.posts("viewer"))

    def shown(person: Person, status: int = 200, **values: Any) -> HTMLResponse:
        sessions = ledger.sessions.counts()
        users = acts.all_users()
        known = {user.name for user in users}
        others = sorted(name for name in sessions if name not in known)
        empty: dict[str, Any] = {"problem": "", "secret": "", "of": "", "is_key": False}
        return pages.page(
            "users.html",
            person,
            status,
            users=users,
            sessions=sessions,
            others=others,
            roles=ROLES,
            keys=ledger.api_keys.of_person(""),
            **(empty | values),
        )

    @router.get("/users")
    def users(person: Person = admin) -> HTMLResponse:
        """Show who may sign in."""
        return shown(person)

    @router.post("/users/{act}")
    def changed(request: Request, act: str, posted: Posted = administers) -> Response:
        """Add, change or remove a user."""
        name, person = posted.text("name", 65), posted.person
        known = ACTS.get(act)
        if known is None:
            raise HTTPException(404, "no such act")
        try:
            what, secret = known(name, posted)
        except (ConfigurationError, Busy) as exc:
            return shown(person, 422, problem=str(exc))
        trail.changed(request, person.name, "users-changed", what)
        if secret:
            return shown(person, secret=secret, of=name, is_key=act == "key")
        return RedirectResponse("/users", 303)

    def end_key(name: str, posted: Posted) -> tuple[str, str]:
        ended = ledger.api_keys.end(posted.text("key", 16))
        return f"API key {ended.ident} of {ended.user_name} is ended", ""

    ACTS: dict[str, Callable[[str, Posted], tuple[str, str]]] = {
        "add": lambda name, posted: acts.add(
            name, posted.text("role", 16), _typed_password(posted)
        ),
        "role": lambda name, posted: acts.change_role(name, posted.text("role", 16)),
        "password": lambda name, posted: acts.change_password(name, _typed_password(posted)),
        "end-sessions": lambda name, posted: acts.end_sessions(name),
        "remove": lambda name, posted: acts.remove(name),
        "key": lambda name, posted: acts.make_key(
            name, posted.text("label", 64), posted.person.name
        ),
        "end-key": end_key,
    }

    def own_keys(person: Person, status: int = 200, **values: Any) -> HTMLResponse:
        empty: dict[str, Any] = {"problem": "", "secret": ""}
        is_user = bool(person.name) and person.name in read_users(acts.path)
        keys = ledger.api_keys.of_person(person.name) if is_user else []
        return pages.page(
            "api_keys.html", person, status, keys=keys, is_user=is_user, **(empty | values)
        )

    @router.get("/keys")
    def keys(person: Person = viewer) -> HTMLResponse:
        """Show one's own keys."""
        return own_keys(person)

    @router.post("/keys/make")
    def make_key(request: Request, posted: Posted = posts) -> Response:
        """Make a key and show it this once."""
        name = posted.person.name
        if name not in read_users(acts.path):
            raise HTTPException(403, "keys are for users of this node's own list")
        try:
            made, text = ledger.api_keys.make(name, posted.text("label", 64), name)
        except Busy as exc:
            return own_keys(posted.person, 422, problem=str(exc))
        trail.changed(request, name, "users-changed", f"API key {made.ident} of {name} is made")
        return own_keys(posted.person, secret=text)

    @router.post("/keys/end")
    def end_own(request: Request, posted: Posted = posts) -> Response:
        """End one's own key."""
        name = posted.person.name
        ended = ledger.api_keys.end(posted.text("key", 16), name or "-")
        trail.changed(request, name, "users-changed", f"API key {ended.ident} is ended")
        return RedirectResponse("/keys", 303)

    return router


def _typed_password(posted: Posted) -> str:
    """Return the password of a form as it was typed."""
    value = posted.form.get("password", "")
    return value[:1024] if isinstance(value, str) else ""
