"""Who a request comes from and what they may do: sessions, roles, forged requests."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import quote, urlsplit

import anyio
from anyio.to_thread import run_sync
from fastapi import Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import Response

from dicom_node.base.addresses import is_loopback
from dicom_node.base.errors import ConfigurationError
from dicom_node.base.logs import Sparse
from dicom_node.credentials import Credentials, is_first_admin
from dicom_node.settings import Role, Settings
from dicom_node.store.ledger.sessions import Sessions, WebSession
from dicom_node.users import (
    User,
    note_password,
    password_problem,
    read_users,
    users_file,
    verified,
    weak_users,
)
from dicom_node.web.brake import DECAY_S, Brake

COOKIE = "chexfract_session"
SECURE_COOKIE = "__Host-chexfract_session"
"""Where the connection is encrypted: a browser takes it from this very host and path / alone."""

FIRST_USER = "admin"
"""The one user while there has never been another."""

RANKS: dict[Role, int] = {"viewer": 0, "operator": 1, "admin": 2}

PROVIDER = "provider "
"""Head of the mark of a session that an identity provider vouched for; the role follows."""

_TOUCH_S = 60.0
"""Time between two notes that a person is still there: not every request writes."""

_AT_ONCE = 4
"""Passwords that are judged at one time; each takes a thread, and two of them 64 MiB."""

logger = logging.getLogger(__name__)
_old = Sparse(logger, per_minute=1)
_broken = Sparse(logger, per_minute=1)
_wrong = Sparse(logger)
_beyond = Sparse(logger)
_weak = Sparse(logger, per_minute=6)


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks; `token` proves that a form came from our own page."""

    name: str
    role: Role
    token: str

    def may(self, role: Role) -> bool:
        """Return whether this person has `role` or more."""
        return RANKS[self.role] >= RANKS[role]


@dataclass(frozen=True, slots=True)
class Posted:
    """A form that a person sent from our own page."""

    person: Person
    form: FormData

    def text(self, name: str, longest: int = 1024) -> str:
        """Return a field as text, empty when it is missing or a file."""
        value = self.form.get(name, "")
        return value.strip()[:longest] if isinstance(value, str) else ""


class Door:
    """Knows people by their session, or by what a trusted proxy says.

    Parameters
    ----------
    settings : Settings
    credentials : Credentials
        The first administrator's secret, and the key of forms.
    sessions : Sessions
        Who is signed in.
    """

    def __init__(self, settings: Settings, credentials: Credentials, sessions: Sessions) -> None:
        self._web = settings.web
        self._settings = settings
        self._users = users_file(settings)
        self._credentials = credentials
        self._sessions = sessions
        # a key of its own for this purpose: what it signs is worth nothing elsewhere
        self._key = hmac.digest(credentials.pages.encode(), b"pages", "sha256")
        self._brake = Brake()
        self._judging = anyio.CapacityLimiter(_AT_ONCE)
        self._last_users: Mapping[str, User] = {}

    def person(self, request: Request, *, is_act: bool = True) -> Person | None:
        """Return who asks, None for a stranger.

        Raises
        ------
        HTTPException
            403: without sign-in the pages answer to this machine's own names only.
        """
        if not self._web.sign_in:
            # A page elsewhere could point its own name at 127.0.0.1 and read patients' names.
            if not is_loopback(request.url.hostname or ""):
                raise HTTPException(403, "without sign-in the pages answer on localhost only")
            return Person("", "admin", self._form_token("local"))
        return self._proxied_person(request) or self._signed_in(request, is_act=is_act)

    def user_named(self, name: str) -> Person | None:
        """Return a person of the users file, for what acts in their name; None for all others."""
        user = self._all_users().get(name)
        return Person(user.name, user.role, "") if user is not None else None

    @property
    def has_sign_in(self) -> bool:
        """Whether people sign in."""
        return self._web.sign_in

    def stays(self, request: Request) -> bool:
        """Return whether who opened a live page may go on looking."""
        return self.person(request, is_act=False) is not None

    def needs(self, role: Role, *, is_act: bool = True) -> Callable[[Request], Person]:
        """Return the dependency of pages for people with this role.

        A page that loads by itself is not an act: it keeps no session open.
        """

        def needed(request: Request) -> Person:
            person = self.person(request, is_act=is_act and not _loads_by_itself(request))
            if person is None:
                raise _stranger_refusal(request)
            if not person.may(role):
                _beyond.warning(
                    "%s (%s) from %s is refused %s %s: it needs %s",
                    ascii(person.name)[1:-1], person.role, self.address(request), request.method,
                    ascii(request.url.path)[1:-1][:120], role,
                )  # fmt: skip
                raise HTTPException(403, _role_refusal(role, person.role))
            return person

        return needed

    def posts(self, role: Role, **limits: int) -> Callable[[Request], AsyncIterator[Posted]]:
        """Return the dependency of what changes something.

        The form is read after it is known who sends it, and believed when it bears their token.
        """
        needed = self.needs(role)

        async def posted(request: Request) -> AsyncIterator[Posted]:
            person = await run_sync(needed, request)
            from_our_page(request)
            async with request.form(**(limits or {"max_files": 0, "max_fields": 20})) as form:
                shown = request.headers.get("x-csrf-token") or form.get("csrf")
                if not isinstance(shown, str) or not _is_same_text(shown, person.token):
                    raise HTTPException(403, "this form is too old; reload the page and try again")
                yield Posted(person, form)

        return posted

    async def sign_in(self, request: Request, name: str, password: str) -> str | None:
        """Return the cookie of a new session, None for a wrong name or password.

        Raises
        ------
        HTTPException
            429: too many wrong passwords for this name from this address; 503: nobody can sign
            in, since the users file cannot be read.
        """
        address = self.address(request)
        if self._brake.holds(name, address):
            raise _too_many()
        # an address is slowed and never shut: a hospital may come from a single one
        await anyio.sleep(self._brake.pause(address))
        if not self._brake.take(name, address):
            raise _too_many()
        try:
            user = await run_sync(self._known_user, name, password, limiter=self._judging)
        except ConfigurationError as exc:
            self._brake.give_back(name, address)
            _broken.error("nobody can sign in: %s", exc)
            raise HTTPException(
                503, "nobody can sign in at the moment; an administrator finds why in the log"
            ) from exc
        if user is None:
            # A name that is nobody's may be a password in the wrong field.
            known = name if name in self._last_users else "an unknown name"
            _wrong.warning("sign-in refused: %s from %s", known, address)
            return None
        self._brake.give_back(name, address)
        self._brake.lift(name, address)
        await run_sync(self._look_at_password, user.name, password)
        return await run_sync(self.begin, request, user.name, self._mark_of_user(user))

    def _look_at_password(self, name: str, password: str) -> None:
        """Note a password older than today's rule: it goes on working, and its user sees it."""
        if name not in self._last_users:
            return  # the first administrator's is made here
        problem = password_problem(name, password)
        note_password(self._users, name, problem)
        if problem:
            _weak.warning("the password of %s is too short or too common: give it a new one", name)

    def has_weak_password(self, name: str) -> bool:
        """Return whether somebody signed in with a password that would not be taken today."""
        return name in weak_users(self._users)

    def begin(self, request: Request, name: str, mark: str) -> str:
        """Begin a session and return its cookie; a session that this browser had before ends."""
        self.leave(request)
        token = secrets.token_urlsafe(32)
        self._sessions.begin(
            _hash_token(token), name, mark, self.address(request), self._web.session
        )
        return token

    def leave(self, request: Request) -> None:
        """End the session of this browser."""
        for cookie in (COOKIE, SECURE_COOKIE):
            if token := request.cookies.get(cookie, ""):
                self._sessions.end(_hash_token(token))

    def keep(self, request: Request, answer: Response, cookie: str) -> None:
        """Let the browser keep the cookie of its session."""
        answer.set_cookie(
            self.cookie_name(request),
            cookie,
            max_age=int(self._web.session),
            httponly=True,
            samesite="strict",
            secure=self.is_encrypted(request),
        )

    def cookie_name(self, request: Request) -> str:
        """Return the name of the session's cookie on this connection."""
        return SECURE_COOKIE if self.is_encrypted(request) else COOKIE

    def address(self, request: Request) -> str:
        """Return the address of who asks; through a trusted proxy, what that says of it."""
        return client_address(request, self._web.proxy_addresses)

    def is_encrypted(self, request: Request) -> bool:
        """Return whether the browser's connection is TLS, as far as a trusted proxy says."""
        if self._web.url.startswith("https:") or request.url.scheme == "https":
            return True
        said = request.headers.get("x-forwarded-proto", "")
        return said.lower() == "https" and self._is_proxy(request)

    def _all_users(self) -> Mapping[str, User]:
        """Return the users; while their file is broken, those of before, for their sessions."""
        try:
            self._last_users = read_users(self._users)
        except ConfigurationError as exc:
            _broken.error("the users of before stay: %s", exc)
        return self._last_users

    def _known_user(self, name: str, password: str) -> User | None:
        self._last_users = read_users(self._users)
        if not is_first_admin(self._settings):
            return verified(self._all_users(), name, password)
        if not _is_same_text(name, FIRST_USER):
            return None
        own = self._credentials.first_admin
        if own and _is_same_text(password, own):
            return self._first_admin()
        if _is_same_text(password, self._credentials.jobs):
            _old.warning(
                "admin signed in with the secret of workers: this works in this version only; "
                "use the content of first-admin in data_dir, or chexfract-node user add"
            )
            return self._first_admin()
        return None

    def _first_admin(self) -> User:
        return User(FIRST_USER, "admin", self._credentials.first_admin)

    def _user_of_session(self, session: WebSession) -> User | None:
        """Return whose session this is, None when they are not a user any more."""
        if session.mark.startswith(PROVIDER):
            role = session.mark.removeprefix(PROVIDER)
            # A provider that is not asked any more, or a role that none of its claims gives.
            oidc = self._web.oidc
            is_given = bool(oidc.issuer) and role in oidc.roles.values()
            return User(session.user_name, role, "") if is_given and role in RANKS else None
        users = self._all_users()
        if not users and session.user_name == FIRST_USER and is_first_admin(self._settings):
            return self._first_admin()
        user = users.get(session.user_name)
        # A new password or a new role ends the sessions of before.
        return (
            user
            if user is not None and _is_same_text(session.mark, self._mark_of_user(user))
            else None
        )

    def _signed_in(self, request: Request, *, is_act: bool) -> Person | None:
        token = request.cookies.get(self.cookie_name(request), "")
        session = self._sessions.find(_hash_token(token)) if token else None
        if session is None:
            return None
        now = self._sessions.clock.wall()
        idle = now - session.seen_at
        # An end later than any session's was written by a clock that was ahead.
        if not 0 <= session.until - now <= self._web.session or idle > self._web.idle:
            return None
        user = self._user_of_session(session)
        if user is None:
            return None
        if is_act and idle > min(_TOUCH_S, self._web.idle / 4):
            self._sessions.touch(_hash_token(token))
        return Person(user.name, user.role, self._form_token(token))

    def _proxied_person(self, request: Request) -> Person | None:
        header = self._web.proxy_header
        name = request.headers.get(header, "").strip() if header else ""
        if not name or not self._is_proxy(request):
            return None
        user = self._all_users().get(name)
        role = user.role if user else self._web.proxy_role
        return Person(name[:64], role, self._form_token(f"proxy {name}"))

    def _is_proxy(self, request: Request) -> bool:
        return _is_in(request.client.host if request.client else "", self._web.proxy_addresses)

    def _mark_of_user(self, user: User) -> str:
        return self._sign_text(f"user {user.name} {user.role} {user.hashed}")[:22]

    def _form_token(self, session: str) -> str:
        return self._sign_text(f"form {session}")

    def _sign_text(self, text: str) -> str:
        digest = hmac.digest(self._key, text.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def client_address(request: Request, proxies: Sequence[str]) -> str:
    """Return the address of who asks.

    X-Forwarded-For counts only as far as trusted proxies wrote it: read from its end, the first
    address that is not a proxy's.

    Parameters
    ----------
    proxies : sequence of str
        Addresses and networks that are believed.
    """
    address = request.client.host if request.client else ""
    hops = [hop.strip() for hop in request.headers.get("x-forwarded-for", "").split(",")]
    # from the end: what stands before the first stranger may be made up by that stranger
    while hops and hops[-1] and _is_in(address, proxies):
        address = hops.pop()[:64]
    return address


def _is_in(address: str, networks: Sequence[str]) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in ip_network(network, strict=False) for network in networks)


def _hash_token(token: str) -> str:
    """Return what the ledger keeps of a cookie: nobody signs in with it."""
    return hashlib.sha256(token[:128].encode()).hexdigest()


def from_our_page(request: Request) -> None:
    """Refuse what another site's page made the browser send.

    Raises
    ------
    HTTPException
        403
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        is_ours = site in ("same-origin", "none")
    else:  # browsers leave it out on plain HTTP
        origin = request.headers.get("origin")
        is_ours = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not is_ours:
        raise HTTPException(403, "this request comes from another site's page")


def inside(path: str) -> str:
    """Return `path` when it leads to one of our pages, else the first page."""
    is_ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_ours else "/"


def _too_many() -> HTTPException:
    wait = {"Retry-After": f"{DECAY_S:.0f}"}
    return HTTPException(429, f"too many attempts; wait {DECAY_S:.0f} s", wait)


def _stranger_refusal(request: Request) -> HTTPException:
    if request.headers.get("hx-request"):
        return HTTPException(401, "signed out; reload the page", {"HX-Redirect": "/sign-in"})
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return HTTPException(303, "sign in", {"Location": f"/sign-in?to={quote(request.url.path)}"})
    return HTTPException(401, "sign in at /sign-in")


def _loads_by_itself(request: Request) -> bool:
    """Return whether a timer of an open page asks: all that htmx gets is of that kind."""
    return request.method == "GET" and "hx-request" in request.headers


def _is_same_text(text: str, other: str) -> bool:
    return hmac.compare_digest(text.encode(), other.encode())


def _role_refusal(wanted: Role, own: Role) -> str:
    """Return what somebody reads whose role is not enough, in the words of the pages."""
    words = {role: "administrator" if role == "admin" else role for role in (wanted, own)}
    return (
        f"this needs the role {words[wanted]}, and yours is {words[own]}; "
        "ask an administrator for it"
    )
