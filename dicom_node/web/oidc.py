"""Signing in by an identity provider: OpenID Connect's authorization code flow with PKCE."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anyio.to_thread import run_sync
from cryptography.fernet import Fernet, InvalidToken
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from dicom_node.base.errors import ConfigurationError, Refused, Unreachable
from dicom_node.base.logs import Sparse
from dicom_node.settings import Oidc, Role, Settings
from dicom_node.web.render import Pages
from dicom_node.web.sessions import PROVIDER, RANKS, Door, inside
from dicom_node.web.trail import WebTrail

if TYPE_CHECKING:
    from authlib.integrations.requests_client import OAuth2Session

CALLBACK = "/sign-in/oidc/callback"
_COOKIE = "chexfract_oidc"
_WITHIN_S = 600
"""Time that somebody gets at the provider's page."""
_ANSWER_S = 10.0
_FRESH_S = 3600.0
"""Age of the provider's documents after which they are read again."""
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
"""Signatures by a key pair; never ``none``, and no shared secret in its place."""

_lines = Sparse(logging.getLogger(__name__))


class Provider:
    """The identity provider: its documents, and what its ID tokens say.

    Parameters
    ----------
    oidc : Oidc
        ``[web.oidc]``.
    redirect_uri : str
        Where it sends people back to; by `web.url`, never by a request's Host.
    """

    def __init__(self, oidc: Oidc, redirect_uri: str) -> None:
        self._oidc = oidc
        self._redirect_uri = redirect_uri
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._metadata: dict[str, Any] = {}
        self._keys: Any = None

    def authorization_url(self, state: str, nonce: str, verifier: str) -> str:
        """Return where to send somebody who wants to sign in.

        Raises
        ------
        Unreachable
            The provider does not answer.
        """
        metadata = self._read_documents()
        with self._open_session() as session:
            url, _ = session.create_authorization_url(
                metadata["authorization_endpoint"], state=state, nonce=nonce, code_verifier=verifier
            )
        return str(url)

    def person(self, code: str, nonce: str, verifier: str) -> tuple[str, Role]:
        """Return name and role of who comes back with `code`.

        Raises
        ------
        Unreachable
            The provider does not answer.
        Refused
            The token is not for us, or names no role of ours.
        """
        import requests
        from authlib.common.errors import AuthlibBaseError

        metadata = self._read_documents()
        try:
            with self._open_session() as session:
                token = session.fetch_token(
                    metadata["token_endpoint"], code=code, code_verifier=verifier
                )
                claims = dict(self._checked_claims(str(token.get("id_token", "")), nonce))
                if self._oidc.role_claim not in claims and "userinfo_endpoint" in metadata:
                    more = session.get(metadata["userinfo_endpoint"], timeout=_ANSWER_S).json()
                    # of the same person only (Core 1.0, 5.3.2)
                    claims = more | claims if more.get("sub") == claims["sub"] else claims
        except (requests.RequestException, ValueError, TypeError, AttributeError, KeyError) as exc:
            # also JSON of another form than the specification's
            raise Unreachable("the identity provider does not answer as one") from exc
        except AuthlibBaseError as exc:
            raise Refused(f"the identity provider refused the code: {exc.error}") from exc
        name = str(claims.get(self._oidc.name_claim) or claims["sub"])[:64]
        return name, self._role_of_claims(claims)

    def _checked_claims(self, id_token: str, nonce: str) -> Mapping[str, Any]:
        """Return what the ID token says, once it is found right (Core 1.0, 3.1.3.7)."""
        from joserfc import jwt
        from joserfc.errors import JoseError

        rules = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": self._metadata["issuer"]},
            aud={"essential": True, "value": self._oidc.client_id},
            exp={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": nonce},
            leeway=60,
        )
        try:
            try:
                token = jwt.decode(id_token, self._keys, algorithms=_ALGORITHMS)
            except (JoseError, ValueError):  # it may have changed its keys since
                self._read_documents(is_renewal=True)
                token = jwt.decode(id_token, self._keys, algorithms=_ALGORITHMS)
            rules.validate(token.claims)
        except (JoseError, ValueError) as exc:
            raise Refused(f"the identity provider's token is not right: {exc}") from exc
        return dict(token.claims)

    def _role_of_claims(self, claims: Mapping[str, Any]) -> Role:
        value = claims.get(self._oidc.role_claim)
        values = value if isinstance(value, list) else [value]
        roles = [self._oidc.roles[str(value)] for value in values if str(value) in self._oidc.roles]
        if not roles:
            raise Refused(f"the claim {self._oidc.role_claim} names no role of [web.oidc] roles")
        return max(roles, key=RANKS.__getitem__)

    def _read_documents(self, *, is_renewal: bool = False) -> dict[str, Any]:
        """Read the discovery document and the keys, at most once an hour unless they fail."""
        import requests
        from joserfc.jwk import KeySet

        with self._lock:
            if not is_renewal and time.monotonic() - self._read_at < _FRESH_S:
                return self._metadata
            issuer = self._oidc.issuer.rstrip("/")
            try:
                found = _fetch_json(f"{issuer}/.well-known/openid-configuration")
                # Discovery 1.0, 4.3: else another server could speak for the provider that was
                # configured
                if str(found["issuer"]).rstrip("/") != issuer:
                    raise Unreachable("the identity provider names another issuer than [web.oidc]")
                keys = KeySet.import_key_set(cast("Any", _fetch_json(found["jwks_uri"])))
            except (requests.RequestException, KeyError, ValueError, TypeError) as exc:
                raise Unreachable(f"the identity provider does not answer at {issuer}") from exc
            self._metadata, self._keys, self._read_at = found, keys, time.monotonic()
            return found

    def _open_session(self) -> OAuth2Session:
        from authlib.integrations.requests_client import OAuth2Session

        named = self._oidc.client_secret_file
        try:
            secret = Path(named).read_text(encoding="utf-8").strip() if named else None
        except OSError as exc:
            raise ConfigurationError(f"web.oidc.client_secret_file: {exc.strerror}") from exc
        return OAuth2Session(
            self._oidc.client_id,
            secret,
            scope="openid profile",
            redirect_uri=self._redirect_uri,
            # PKCE (RFC 7636): a code that somebody sees on its way is of no use without the
            # verifier
            code_challenge_method="S256",
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
            default_timeout=_ANSWER_S,
        )


def _fetch_json(url: str) -> dict[str, Any]:
    import requests

    # no proxy of the environment, no redirect to somewhere else, no endless answer
    with requests.Session() as session:
        session.trust_env = False
        with session.get(url, timeout=_ANSWER_S, stream=True, allow_redirects=False) as answer:
            answer.raise_for_status()
            return dict(json.loads(answer.raw.read(1 << 20, decode_content=True)))


def routes(settings: Settings, door: Door, pages: Pages, trail: WebTrail, key: bytes) -> APIRouter:
    """Return the way to the provider and back."""
    router = APIRouter()
    oidc = settings.web.oidc
    provider = Provider(oidc, settings.web.url.rstrip("/") + CALLBACK)
    sealed = Fernet(base64.urlsafe_b64encode(hashlib.sha256(key + b" oidc").digest()))

    def refused(request: Request, problem: str, status: int) -> HTMLResponse:
        _lines.warning("sign-in by the identity provider refused: %s", problem)
        values = {"to": "/", "problem": f"{problem[:1].upper()}{problem[1:]}.", "is_open": False}
        return pages.page("sign_in.html", None, status, **values)

    @router.get("/sign-in/oidc")
    async def leave(request: Request, to: str = "/") -> Response:
        """Send somebody to the provider, with what proves later that they left from here."""
        # kept by the browser, sealed: a node that starts again in between still knows who left
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        try:
            url = await run_sync(provider.authorization_url, state, nonce, verifier)
        except (Unreachable, ConfigurationError) as exc:
            return refused(request, str(exc), 503)
        kept = json.dumps([state, nonce, verifier, inside(to)]).encode()
        answer = RedirectResponse(url, 303)
        answer.set_cookie(
            _COOKIE,
            sealed.encrypt(kept).decode(),
            max_age=_WITHIN_S,
            path=CALLBACK,
            httponly=True,
            samesite="lax",  # it must come back with who comes from the provider's page
            secure=door.is_encrypted(request),
        )
        return answer

    @router.get(CALLBACK)
    async def come_back(request: Request, code: str = "", state: str = "") -> Response:
        """Begin a session for who comes back from the provider."""
        try:
            kept = sealed.decrypt(request.cookies.get(_COOKIE, "").encode(), ttl=_WITHIN_S)
            expected, nonce, verifier, to = json.loads(kept)
        except (InvalidToken, ValueError):
            return refused(request, "this sign-in was not begun in this browser; begin again", 403)
        # the state ties the answer to this browser: nobody signs another one in (RFC 6749 10.12)
        if not code or not secrets.compare_digest(state.encode(), expected.encode()):
            return refused(request, "the identity provider let nobody in", 403)

        def note(name: str, *, is_right: bool) -> None:
            trail.signed_in(request, name, is_right=is_right)

        try:
            name, role = await run_sync(provider.person, code, nonce, verifier)
        except Refused as exc:
            await run_sync(partial(note, "unknown", is_right=False))
            return refused(request, str(exc), 403)
        except (Unreachable, ConfigurationError) as exc:
            return refused(request, str(exc), 503)
        await run_sync(partial(note, name, is_right=True))
        cookie = await run_sync(door.begin, request, name, f"{PROVIDER}{role}")
        # A page of ours leads on: a redirect would still count as the provider's, and the browser
        # would keep a strict cookie back.
        answer = pages.page("signed_in.html", None, to=to, is_weak=False)
        door.keep(request, answer, cookie)
        answer.delete_cookie(_COOKIE, path=CALLBACK)
        return answer

    return router
