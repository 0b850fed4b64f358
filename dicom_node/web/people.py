"""Who may sign in, changed by administrators; and the keys by which programs act for people."""

from __future__ import annotations

from typing import Any, get_args

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from dicom_node.base.errors import Busy, ConfigurationError, NotFound
from dicom_node.credentials import close_first_admin
from dicom_node.settings import Role, Settings
from dicom_node.store.ledger import Ledger
from dicom_node.users import (
    add_user,
    change_role,
    fresh_password,
    read_users,
    remove_user,
    users_file,
)
from dicom_node.web.render import Pages
from dicom_node.web.sessions import Door, Person, Posted
from dicom_node.web.texts import say
from dicom_node.web.trail import WebTrail

ROLES: tuple[Role, ...] = get_args(Role)


def routes(
    settings: Settings, ledger: Ledger, door: Door, pages: Pages, trail: WebTrail
) -> APIRouter:
    """Return the page of all users, and that of one's own keys."""
    router = APIRouter()
    path = users_file(settings)
    admin, viewer = Depends(door.needs("admin")), Depends(door.needs("viewer"))
    administers, posts = Depends(door.posts("admin")), Depends(door.posts("viewer"))

    def shown(person: Person, status: int = 200, **values: Any) -> HTMLResponse:
        sessions = ledger.sessions.counts()
        users = read_users(path)
        others = sorted(name for name in sessions if name not in users)
        empty: dict[str, Any] = {"problem": "", "secret": "", "of": "", "is_key": False}
        return pages.page(
            "users.html",
            person,
            status,
            users=sorted(users.values(), key=lambda user: user.name),
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

    def role_of(posted: Posted) -> Role:
        role = posted.text("role", 16)
        if role not in ROLES:
            raise ConfigurationError(say("choose one of the roles"))
        return role

    def add(name: str, posted: Posted) -> tuple[str, str]:
        role, known = role_of(posted), read_users(path)
        if name in known:
            raise ConfigurationError(say("a user has this name already"))
        if not known and role != "admin":
            raise ConfigurationError(say("the first user has to be an administrator"))
        own = _password(posted)
        add_user(path, name, role, own or (made := fresh_password(name)))
        close_first_admin(settings)
        return f"{name} is {role}, new password", "" if own else made

    def role(name: str, posted: Posted) -> tuple[str, str]:
        change_role(path, name, new := role_of(posted))
        return f"{name} is {new}", ""

    def password(name: str, posted: Posted) -> tuple[str, str]:
        user = _known(name)
        own = _password(posted)
        add_user(path, name, user.role, own or (made := fresh_password(name)))
        ledger.sessions.end_all(name)
        return f"{name} has a new password", "" if own else made

    def end(name: str, posted: Posted) -> tuple[str, str]:
        count = ledger.sessions.end_all(name)
        return f"{count} sessions of {name} are ended", ""

    def remove(name: str, posted: Posted) -> tuple[str, str]:
        remove_user(path, name, keeps_admin=True)
        ledger.sessions.end_all(name)
        ledger.api_keys.end_all(name)
        return f"{name} is removed", ""

    def key(name: str, posted: Posted) -> tuple[str, str]:
        _known(name)
        made, text = ledger.api_keys.make(name, posted.text("label", 64), posted.person.name)
        return f"API key {made.ident} of {name} is made", text

    def end_key(name: str, posted: Posted) -> tuple[str, str]:
        ended = ledger.api_keys.end(posted.text("key", 16))
        return f"API key {ended.ident} of {ended.user_name} is ended", ""

    def _known(name: str) -> Any:
        user = read_users(path).get(name)
        if user is None:
            raise NotFound(say("no user has this name"))
        return user

    ACTS = {
        "add": add, "role": role, "password": password, "end-sessions": end, "remove": remove,
        "key": key, "end-key": end_key,
    }  # fmt: skip

    def own_keys(person: Person, status: int = 200, **values: Any) -> HTMLResponse:
        empty: dict[str, Any] = {"problem": "", "secret": ""}
        is_user = bool(person.name) and person.name in read_users(path)
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
        if name not in read_users(path):
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


def _password(posted: Posted) -> str:
    """Return the password of a form as it was typed."""
    value = posted.form.get("password", "")
    return value[:1024] if isinstance(value, str) else ""
