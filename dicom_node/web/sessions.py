"""Who a request comes from and what they may do: sessions, roles, forged requests."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi import Request
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from dicom_node.base.addresses import is_loopback
from dicom_node.base.logs import Sparse
from dicom_node.credentials import Credentials, is_first_admin
from dicom_node.settings import Role, Settings
from dicom_node.users import User, read_users, users_file, verified

COOKIE = "chexfract_session"

FIRST_USER = "admin"
"""The one user while there has never been another."""

RANKS: dict[Role, int] = {"viewer": 0, "operator": 1, "admin": 2}

FAILURES, PAUSE_S = 5, 30.0
"""Failed sign-ins for one name from one address after which it waits."""

FAILURES_OF_ONE = 20
"""Failed sign-ins for one name, or from one address, after which that waits: guessing may not be
spread. More than `FAILURES`, since others share a name's or an address's bad luck."""

_WATCHED = 16384

_old = Sparse(logging.getLogger(__name__), per_minute=1)


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
    """Knows people by session cookie or by what a trusted proxy says.

    Parameters
    ----------
    settings : Settings
    credentials : Credentials
        The first administrator's secret, and the key of cookies and forms.
    """

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        self._web = settings.web
        self._settings = settings
        self._users = users_file(settings)
        self._credentials = credentials
        self._key = hmac.digest(credentials.pages.encode(), b"pages", "sha256")
        self._brake = Brake()

    def person(self, request: Request) -> Person | None:
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
            return Person("", "admin", self._token("local"))
        return self._proxied(request) or self._cookied(request)

    def needs(self, role: Role) -> Callable[[Request], Person]:
        """Return the dependency of pages for people with this role."""

        def needed(request: Request) -> Person:
            person = self.person(request)
            if person is None:
                raise _stranger(request)
            if not person.may(role):
                raise HTTPException(403, f"this needs the role {role}; yours is {person.role}")
            return person

        return needed

    def posts(self, role: Role, **limits: int) -> Callable[[Request], AsyncIterator[Posted]]:
        """Return the dependency of what changes something.

        The form is read after it is known who sends it, and believed when it bears their token.
        """
        needed = self.needs(role)

        async def posted(request: Request) -> AsyncIterator[Posted]:
            person = needed(request)
            from_our_page(request)
            async with request.form(**(limits or {"max_files": 0, "max_fields": 20})) as form:
                shown = request.headers.get("x-csrf-token") or form.get("csrf")
                if not isinstance(shown, str) or not _same(shown, person.token):
                    raise HTTPException(403, "this form is too old; reload the page and try again")
                yield Posted(person, form)

        return posted

    def sign_in(self, request: Request, name: str, password: str) -> str | None:
        """Return the cookie of a new session, None for a wrong name or password.

        Raises
        ------
        HTTPException
            429: too many attempts for this name or from this address.
        """
        address = request.client.host if request.client else ""
        if self._brake.holds(name, address):
            raise HTTPException(429, f"too many attempts; wait {PAUSE_S:.0f} s")
        user = self._known(name, password)
        if user is None:
            self._brake.note(name, address)
            return None
        self._brake.lift(name, address)
        return self._cookie(user)

    def is_encrypted(self, request: Request) -> bool:
        """Return whether the browser's connection is TLS, as far as a trusted proxy says."""
        if self._web.url.startswith("https:") or request.url.scheme == "https":
            return True
        said = request.headers.get("x-forwarded-proto", "")
        return said.lower() == "https" and self._is_proxy(request)

    @property
    def seconds(self) -> int:
        """How long a session lasts."""
        return int(self._web.session)

    def _all(self) -> Mapping[str, User]:
        return read_users(self._users)

    def _known(self, name: str, password: str) -> User | None:
        if not is_first_admin(self._settings):
            return verified(self._all(), name, password)
        if not _same(name, FIRST_USER):
            return None
        own = self._credentials.first_admin
        if own and _same(password, own):
            return self._first()
        if _same(password, self._credentials.jobs):
            _old.warning(
                "admin signed in with the secret of workers: this works in this version only; "
                "use the content of first-admin in data_dir, or chexfract-node user add"
            )
            return self._first()
        return None

    def _first(self) -> User:
        return User(FIRST_USER, "admin", self._credentials.first_admin)

    def _user(self, name: str) -> User | None:
        """Return a user of the file, or the first administrator while there is none."""
        if is_first_admin(self._settings):
            return self._first()
        return self._all().get(name)

    def _cookied(self, request: Request) -> Person | None:
        cookie = request.cookies.get(COOKIE, "")
        told = self._read(cookie)
        # One that would last longer than a session is from a clock that was ahead.
        if told is None or not 0 <= told["until"] - time.time() <= self._web.session:
            return None
        user = self._user(told["user"])
        # A new password or a new role ends the sessions of before.
        if user is None or not _same(told["of"], self._mark(user)):
            return None
        return Person(user.name, user.role, self._token(cookie))

    def _proxied(self, request: Request) -> Person | None:
        header = self._web.proxy_header
        name = request.headers.get(header, "").strip() if header else ""
        if not name or not self._is_proxy(request):
            return None
        user = self._all().get(name)
        role = user.role if user else self._web.proxy_role
        return Person(name[:64], role, self._token(f"proxy {name}"))

    def _is_proxy(self, request: Request) -> bool:
        try:
            address = ip_address(request.client.host if request.client else "")
        except ValueError:
            return False
        return any(address in ip_network(one, strict=False) for one in self._web.proxy_addresses)

    def _mark(self, user: User) -> str:
        return self._signed(f"user {user.name} {user.role} {user.hashed}")[:22]

    def _token(self, session: str) -> str:
        return self._signed(f"form {session}")

    def _signed(self, text: str) -> str:
        digest = hmac.digest(self._key, text.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def _cookie(self, user: User) -> str:
        told = {
            "user": user.name,
            "of": self._mark(user),
            "until": int(time.time() + self._web.session),
            "n": secrets.token_urlsafe(8),
        }
        body = base64.urlsafe_b64encode(json.dumps(told).encode()).decode()
        return f"{body}.{self._signed(f'cookie {body}')}"

    def _read(self, cookie: str) -> dict[str, Any] | None:
        body, _, signature = cookie.partition(".")
        if not _same(signature, self._signed(f"cookie {body}")):
            return None
        try:
            told = json.loads(base64.urlsafe_b64decode(body))
        except (binascii.Error, ValueError):
            return None
        return dict(told)


class Brake:
    """Counts failed sign-ins: per name and address, per name, and per address.

    A sign-in that succeeds forgets what failed for its own name only: somebody with an account
    cannot lift the brake on guessing another's password.
    """

    def __init__(self) -> None:
        self._failed: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def holds(self, name: str, address: str) -> bool:
        """Return whether an attempt must wait."""
        now = time.monotonic()
        for key, most in self._keys(name, address):
            count, since = self._failed.get(key, (0, 0.0))
            if count >= most and now - since < PAUSE_S:
                return True
        return False

    def note(self, name: str, address: str) -> None:
        """Count a failure."""
        now = time.monotonic()
        for key, most in self._keys(name, address):
            count, since = self._failed.get(key, (0, 0.0))
            # What is long over does not add up: people mistype once a day.
            count = 0 if now - since > PAUSE_S * 10 else min(count, most)
            self._failed[key] = (count + 1, now)
            self._failed.move_to_end(key)
        while len(self._failed) > _WATCHED:
            self._failed.popitem(last=False)

    def lift(self, name: str, address: str) -> None:
        """Forget the failures of a name, from one address."""
        self._failed.pop((name, address), None)

    @staticmethod
    def _keys(name: str, address: str) -> tuple[tuple[tuple[str, str], int], ...]:
        return (
            ((name, address), FAILURES),
            ((name, "any address"), FAILURES_OF_ONE),
            (("any name", address), FAILURES_OF_ONE),
        )


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


def _stranger(request: Request) -> HTTPException:
    if request.headers.get("hx-request"):
        return HTTPException(401, "signed out; reload the page", {"HX-Redirect": "/sign-in"})
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return HTTPException(303, "sign in", {"Location": f"/sign-in?to={quote(request.url.path)}"})
    return HTTPException(401, "sign in at /sign-in")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
