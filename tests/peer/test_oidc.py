"""People sign in by a real identity provider, and only with a role that it vouches for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from ports import free_port
from serving import Api, serving

from dicom_node.settings import Settings
from dicom_node.users import add_user

pytestmark = pytest.mark.peer

ROLES = {"radiologist": "operator", "pacs-admin": "admin"}
PEOPLE: dict[str, dict[str, object]] = {
    "anna": {"roles": ["staff", "radiologist"], "preferred_username": "Anna K."},
    "otto": {"roles": ["radiologist", "pacs-admin"]},
    "guest": {"roles": ["visitor"]},
    "nobody": {},
}
PASSWORD = "blue lamp under water"


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """A provider process."""
    port = free_port()
    people = [f"--user-claims={json.dumps({'sub': sub, **more})}" for sub, more in PEOPLE.items()]
    command = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", f"--port={port}"]
    with subprocess.Popen([*command, *people], stderr=subprocess.DEVNULL) as process:
        url = f"http://localhost:{port}"
        try:
            end = time.monotonic() + 60
            while True:
                try:
                    httpx2.get(f"{url}/jwks", trust_env=False, timeout=5)
                    break
                except httpx2.HTTPError:
                    assert process.poll() is None
                    assert time.monotonic() < end
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()


@pytest.fixture
def api(tmp_path: Path, issuer: str) -> Iterator[Api]:
    add_user(tmp_path / "users", "local", "viewer", PASSWORD)
    (tmp_path / "client-secret").write_text("a secret of the client\n")
    oidc = {"issuer": issuer, "client_id": "node", "roles": ROLES}
    oidc["client_secret_file"] = str(tmp_path / "client-secret")
    with serving(tmp_path, oidc=oidc, own_url=True) as running:
        yield running


@pytest.fixture
def http(api: Api) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, trust_env=False, timeout=20) as client:
        yield client


def come_back(http: httpx2.Client, sub: str, to: str = "/peers") -> Any:
    """Go to the provider, be `sub` there, and return what our callback answers."""
    left = http.get("/sign-in/oidc", params={"to": to})
    assert left.status_code == 303, left.text
    let_in = httpx2.post(left.headers["location"], data={"sub": sub}, trust_env=False, timeout=20)
    assert let_in.status_code in (302, 303), let_in.text
    return http.get(let_in.headers["location"])


def test_who_the_provider_vouches_for_is_in_with_the_highest_role(http: httpx2.Client) -> None:
    answer = come_back(http, "otto")
    assert answer.status_code == 200
    assert 'content="0;url=/peers"' in answer.text
    page = http.get("/configuration")
    assert page.status_code == 200
    assert "otto" in page.text


def test_the_name_is_what_the_provider_says(http: httpx2.Client) -> None:
    come_back(http, "anna")
    text = http.get("/").text
    assert "Anna K." in text
    assert http.get("/configuration").status_code == 403


@pytest.mark.parametrize("sub", ["guest", "nobody", "unheard-of"])
def test_without_a_role_of_ours_nobody_is_in(http: httpx2.Client, sub: str) -> None:
    answer = come_back(http, sub)
    assert answer.status_code == 403
    assert "names no role" in answer.text
    assert http.get("/").status_code == 401


def test_signing_out_ends_it_on_the_server(http: httpx2.Client) -> None:
    come_back(http, "anna")
    kept = dict(http.cookies)
    token = re.search(r'name="csrf" value="([^"]+)"', http.get("/").text)
    assert token
    assert http.post("/sign-out", data={"csrf": token[1]}).status_code == 303
    assert httpx2.get(f"{http.base_url}", cookies=kept, trust_env=False).status_code == 401


def test_a_code_that_was_begun_elsewhere_lets_nobody_in(api: Api, http: httpx2.Client) -> None:
    """Otherwise a stranger could sign somebody in under the stranger's name."""
    left = http.get("/sign-in/oidc")
    let_in = httpx2.post(left.headers["location"], data={"sub": "otto"}, trust_env=False)
    with httpx2.Client(base_url=api.url, trust_env=False, timeout=20) as other:
        answer = other.get(let_in.headers["location"])
        assert answer.status_code == 403
        assert other.get("/").status_code == 401
    other_state = re.sub(r"state=[^&]+", "state=x", let_in.headers["location"])
    assert http.get(other_state).status_code == 403


def test_a_code_counts_once(http: httpx2.Client) -> None:
    left = http.get("/sign-in/oidc")
    let_in = httpx2.post(left.headers["location"], data={"sub": "otto"}, trust_env=False)
    assert http.get(let_in.headers["location"]).status_code == 200
    assert http.get(let_in.headers["location"]).status_code == 403


def test_local_users_sign_in_while_the_provider_is_away(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "local", "viewer", PASSWORD)
    oidc = {"issuer": "http://localhost:9", "client_id": "node", "roles": ROLES}
    with (
        serving(tmp_path, oidc=oidc) as api,
        httpx2.Client(base_url=api.url, trust_env=False, timeout=30) as http,
    ):
        assert "Sign in with localhost" in http.get("/sign-in").text
        away = http.get("/sign-in/oidc")
        assert away.status_code == 503
        assert "does not answer" in away.text
        done = http.post("/sign-in", data={"name": "local", "password": PASSWORD})
        assert done.status_code == 303
        assert http.get("/").status_code == 200


@pytest.mark.parametrize(
    ("oidc", "says"),
    [
        ({"issuer": "http://idp.example"}, "must begin with https"),
        ({"issuer": "https://idp.example"}, "needs client_id and roles"),
        ({"issuer": "https://idp.example", "client_id": "x", "roles": {"a": "king"}}, "viewer"),
    ],
)
def test_a_provider_that_cannot_be_right_is_refused(oidc: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Settings(web={"oidc": oidc})
