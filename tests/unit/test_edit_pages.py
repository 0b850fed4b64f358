"""Peers and rules on the pages and by the API: checked, shown, saved, undone; nobody overwrites."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx2
import pages
import pytest
from argon2 import PasswordHasher
from serving import Api, serving
from stations import wait_for

from dicom_node import editing, in_force, users
from dicom_node.settings import Settings, load
from dicom_node.users import add_user

PASSWORD = "correct horse battery"

TEXT = """# the node of the ward
[notify]
webhook = "https://hooks.example/S3CRET"
[peers.pacs]  # the archive
ae_title = "PACS"
host = "10.0.0.1"
port = 104

[[rules]]
name = "chests / all"
match.modality = ["DX"]
mode = "shadow"
"""
HOSTILE = "\"><script>alert(1)</script>'\\ {{ 7*7 }} \x7f é"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("node")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "_hasher", PasswordHasher(time_cost=1, memory_cost=64))
        users._hash_of_nobody.cache_clear()
        for role in ("viewer", "operator", "admin"):
            add_user(folder / "users", role, role, PASSWORD)
        with serving(folder) as running:
            pages.keep(running, b"\0" * 128 + b"DICM", modality="DX", body_part="CHEST", view="PA")
            pages.keep(running, b"\0" * 128 + b"DICM", modality="CR", body_part="HAND")
            yield running
    users._hash_of_nobody.cache_clear()


@pytest.fixture
def config(api: Api) -> Path:
    """The file that this node has accepted, as it is at first."""
    path = api.settings.node.data_dir / "node.toml"
    path.write_text(TEXT)
    path.with_name("node.toml.history").unlink(missing_ok=True)
    in_force.accept(path, Settings(node=api.settings.node))
    return path


@pytest.fixture(scope="module")
def admin(api: Api) -> Iterator[httpx2.Client]:
    with signed_in(api, "admin") as client:
        yield client


@contextmanager
def signed_in(api: Api, name: str) -> Iterator[httpx2.Client]:
    options: dict[str, Any] = {"trust_env": False, "timeout": 20, "follow_redirects": True}
    with httpx2.Client(base_url=api.url, **options) as client:
        client.post("/sign-in", data={"name": name, "password": PASSWORD})
        yield client


def hidden(page: str) -> dict[str, str]:
    """Return the hidden fields of the form of a page."""
    form = page.split('class="edit"')[-1]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))


def press(http: httpx2.Client, path: str, page: str, do: str, **texts: str) -> httpx2.Response:
    """Press a button of a form; other fields stay empty."""
    name = "name" if path.startswith("/peers") else "f-name"
    data = {name if k == "name" else f"f-{k.replace('__', '.')}": v for k, v in texts.items()}
    return http.post(path, data={**hidden(page), **data, "do": do})


PEER = {"name": "pacs", "ae_title": "PACS", "host": "10.0.0.2", "port": "104"}


def test_a_peer_is_changed_once_its_difference_was_seen(admin: httpx2.Client, config: Path) -> None:
    page = admin.get("/peers/pacs/edit").text
    assert 'value="10.0.0.1"' in page
    assert "Time that it may take for an answer." in page
    first = press(admin, "/peers/edit", page, "save", **PEER)
    assert "What would change" in first.text
    assert config.read_text() == TEXT
    done = press(admin, "/peers/edit", first.text, "save", **PEER)
    assert "peer &#39;pacs&#39; changed" in done.text
    assert config.read_text() == TEXT.replace("10.0.0.1", "10.0.0.2")
    assert "S3CRET" not in done.text
    undone = admin.post("/configuration/undo", data={**csrf(done.text), "number": "1"})
    assert "change 1 undone" in undone.text
    assert config.read_text() == TEXT


def csrf(page: str) -> dict[str, str]:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found
    return {"csrf": found[1]}


def test_what_was_not_seen_is_not_saved(admin: httpx2.Client, config: Path) -> None:
    page = admin.get("/peers/pacs/edit").text
    seen = press(admin, "/peers/edit", page, "check", **PEER)
    other = press(admin, "/peers/edit", seen.text, "save", **PEER | {"host": "10.0.0.9"})
    assert "What would change" in other.text
    assert config.read_text() == TEXT


def test_a_rule_is_tried_on_the_last_images_beside_its_form(
    admin: httpx2.Client, config: Path
) -> None:
    page = admin.get("/rules/new").text
    rule = {"name": "hands", "match__body_part": "HAND", "mode": "shadow"}
    tried = press(admin, "/rules/edit", page, "try", **rule).text
    assert "1 of the last 2 images match" in tried
    assert "takes it" in tried
    assert "body_part is “CHEST”" in tried
    saved = press(admin, "/rules/edit", tried, "save", **rule)
    assert "rule &#39;hands&#39; added" in saved.text
    assert [one.name for one in load(config).rules] == ["chests / all", "hands"]


def test_rules_are_moved_and_removed(admin: httpx2.Client, config: Path) -> None:
    config.write_text(TEXT + '\n[[rules]]\nname = "two"\nmode = "shadow"\n')
    for do, names in (("up", ["two", "chests / all"]), ("remove", ["chests / all"])):
        page = admin.get("/rules/edit", params={"name": "two"}).text
        page = press(admin, "/rules/edit", page, do).text
        press(admin, "/rules/edit", page, do)
        assert [rule.name for rule in load(config).rules] == names


def test_the_second_author_keeps_their_words_and_sees_the_other_change(
    admin: httpx2.Client, config: Path
) -> None:
    mine = admin.get("/peers/pacs/edit").text
    theirs = press(admin, "/peers/edit", mine, "check", **PEER | {"host": "10.0.0.3"}).text
    press(admin, "/peers/edit", theirs, "save", **PEER | {"host": "10.0.0.3"})
    answer = press(admin, "/peers/edit", mine, "check", **PEER)
    assert answer.status_code == 409
    assert "was changed while you were writing" in answer.text
    assert "Change 1 by admin: peer &#39;pacs&#39; changed" in answer.text
    assert "+host = &#34;10.0.0.3&#34;" in answer.text
    assert 'value="10.0.0.2"' in answer.text
    again = press(admin, "/peers/edit", answer.text, "check", **PEER).text
    press(admin, "/peers/edit", again, "save", **PEER)
    assert load(config).peers["pacs"].host == "10.0.0.2"


@pytest.mark.parametrize("kind", ["peers", "rules"])
def test_hostile_words_in_every_field_are_refused_or_kept_as_words(
    admin: httpx2.Client, config: Path, kind: str
) -> None:
    page = admin.get(f"/{kind}/new").text
    fields = re.findall(r'name="((?:f-)[^"]+|name)"', page)
    assert len(fields) > 10
    for name in dict.fromkeys(fields):
        texts = {"name": "x", "f-ae_title": "X", "f-host": "h", "f-port": "1", "f-mode": "shadow"}
        texts |= {"f-name": "x"} if kind == "rules" else {}
        texts[name] = HOSTILE
        answer = admin.post(f"/{kind}/edit", data={**hidden(page), **texts, "do": "check"})
        assert answer.status_code in (200, 422), name
        assert "<script>alert" not in answer.text
        assert "{{ 7*7 }}" in answer.text or "49" not in answer.text
    assert config.read_text() == TEXT


def test_a_file_that_cannot_be_written_shows_the_lines_to_copy(
    admin: httpx2.Client, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(editing.ConfigFile, "why_read_only", lambda self: "it is a container's")
    page = admin.get("/peers/pacs/edit").text
    assert "cannot be written from here: it is a container&#39;s" in page
    shown = press(admin, "/peers/edit", page, "check", **PEER).text
    assert 'id="lines"' in shown
    assert "Save and take it" not in shown
    assert config.read_text() == TEXT


@pytest.mark.parametrize("name", ["viewer", "operator"])
def test_forms_and_history_are_for_administrators(api: Api, config: Path, name: str) -> None:
    paths = ("/peers/new", "/peers/pacs/edit", "/rules/new", "/configuration/history")
    with signed_in(api, name) as http:
        for path in paths:
            assert http.get(path).status_code == 403
        page = http.get("/rules").text
        assert "/rules/new" not in page
        for path in ("/peers/edit", "/rules/edit", "/configuration/undo"):
            answer = http.post(path, data={**csrf(page), "do": "save", "number": "1"})
            assert answer.status_code == 403
    with httpx2.Client(base_url=api.url, trust_env=False) as http:
        assert http.get("/peers/new", headers={"accept": "text/html"}).status_code == 303
        assert http.post("/peers/edit", data={"do": "save"}).status_code == 401


# the API


def key(api: Api, name: str) -> dict[str, str]:
    _, text = api.ledger.api_keys.make(name, "test", name)
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def http(api: Api) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, trust_env=False, timeout=20) as client:
        yield client


def test_the_api_changes_what_it_has_seen(api: Api, http: httpx2.Client, config: Path) -> None:
    http.headers |= key(api, "admin")
    seen = http.get("/api/peers/pacs")
    assert seen.json() == {"ae_title": "PACS", "host": "10.0.0.1", "port": 104}
    match = {"If-Match": seen.headers["etag"]}
    changed = http.patch("/api/peers/pacs", json={"host": "10.0.0.2"}, headers=match)
    assert changed.status_code == 200
    assert changed.json()["diff"].count("\n+host") == 1
    assert load(config).peers["pacs"].host == "10.0.0.2"
    late = http.patch("/api/peers/pacs", json={"port": 105}, headers=match)
    assert late.status_code == 412
    assert [change["by"] for change in late.json()["since"]] == ["admin"]
    assert http.patch("/api/peers/pacs", json={"port": 105}).status_code == 428
    match = {"If-Match": changed.headers["etag"]}
    wrong = http.patch("/api/peers/pacs", json={"prt": 1}, headers=match)
    assert (wrong.status_code, "did you mean port" in wrong.json()["detail"]) == (422, True)
    new = {"ae_title": "B", "host": "10.0.0.4", "port": 104}
    added = http.put("/api/peers/b", json=new, headers={"If-None-Match": "*"})
    assert added.status_code == 201
    assert http.put("/api/peers/b", json=new, headers={"If-None-Match": "*"}).status_code == 422
    assert http.delete("/api/peers/b", headers={"If-Match": "*"}).status_code == 200
    assert http.get("/api/peers/b").status_code == 404
    history = http.get("/api/history").json()["history"]
    assert [change["act"] for change in history] == ["change", "add", "remove"]
    assert http.post("/api/history/3/undo").status_code == 200
    assert "b" in load(config).peers


def test_the_api_knows_rules_of_any_name_and_place(
    api: Api, http: httpx2.Client, config: Path
) -> None:
    http.headers |= key(api, "admin") | {"If-Match": "*"}
    assert http.get("/api/rules/chests / all").json()["mode"] == "shadow"
    rule = {"match": {"view": ["PA"]}, "mode": "shadow"}
    assert http.put("/api/rules/first?place=1", json=rule).status_code == 201
    assert [one["name"] for one in http.get("/api/rules").json()["rules"]] == [
        "first", "chests / all",
    ]  # fmt: skip
    assert http.patch("/api/rules/first?place=2", json={"match": {"view": None}}).status_code == 200
    assert [one.name for one in load(config).rules] == ["chests / all", "first"]
    assert load(config).rules[1].match.view is None


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"port": NaN}', b'{"a":' * 3000, b"9" * 9000, b"\xff", b'"x"',
     b'{"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}}}'],
)  # fmt: skip
def test_hostile_bodies_are_refused(
    api: Api, http: httpx2.Client, config: Path, body: bytes
) -> None:
    http.headers |= key(api, "admin") | {"If-Match": "*"}
    assert http.put("/api/peers/pacs", content=body).status_code == 422
    assert config.read_text() == TEXT


@pytest.mark.parametrize("value", [None, "\ud800", 10**40, [None], {"": ""}, [[]], "\x00"])
def test_hostile_values_are_refused(
    api: Api, http: httpx2.Client, config: Path, value: Any
) -> None:
    http.headers |= key(api, "admin") | {"If-Match": "*"}
    for field in ("ae_title", "host", "port", "objects", "tls", "certificate"):
        if value is None and field != "ae_title":
            continue
        if isinstance(value, str) and field in ("host", "certificate") and value == "\x00":
            continue  # a text like any other
        body = json.dumps({field: value})
        answer = http.patch("/api/peers/pacs", content=body.encode())
        assert answer.status_code == 422, (field, answer.text)
    assert config.read_text() == TEXT


def test_a_key_has_the_role_that_its_person_has_now(
    api: Api, http: httpx2.Client, config: Path
) -> None:
    viewer = key(api, "viewer")
    assert http.get("/api/peers", headers=viewer).status_code == 200
    match = viewer | {"If-Match": "*"}
    assert http.patch("/api/peers/pacs", json={}, headers=match).status_code == 403
    assert http.put("/api/holds/model/phantom", headers=viewer).status_code == 403
    assert http.get("/api/peers").status_code == 401
    gone = key(api, "nobody")
    assert http.get("/api/peers", headers=gone).status_code == 401
    (own,) = http.get("/api/keys", headers=viewer).json()["keys"]
    assert "key" not in own
    assert http.delete(f"/api/keys/{own['ident']}", headers=viewer).status_code == 200
    assert http.get("/api/peers", headers=viewer).status_code == 401


def test_holds_by_the_api(api: Api, http: httpx2.Client, config: Path) -> None:
    http.headers |= key(api, "operator")
    assert http.put("/api/holds/rule/chests / all?why=trial").json() == {"new": True}
    (one,) = http.get("/api/holds").json()["holds"]
    assert (one["kind"], one["name"], one["held_by"], one["reason"]) == (
        "rule", "chests / all", "operator", "trial",
    )  # fmt: skip
    assert http.delete("/api/holds/rule/chests / all").status_code == 200
    assert http.delete("/api/holds/rule/chests / all").status_code == 404
    assert http.put("/api/holds/planet/mars").status_code == 404


def test_openapi_describes_every_way_of_the_api(
    api: Api, http: httpx2.Client, config: Path
) -> None:
    assert http.get("/api/openapi.json").status_code == 401
    found = http.get("/api/openapi.json", headers=key(api, "viewer")).json()
    assert found["openapi"].startswith("3.1")
    assert {"get", "put", "patch", "delete"} <= set(found["paths"]["/api/peers/{name}"])
    assert {"/api/users/{name}", "/api/bulk/{act}", "/api/bulk/count"} <= set(found["paths"])
    body = found["paths"]["/api/users/{name}"]["put"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["properties"]["role"]["enum"] == ["viewer", "operator", "admin"]
    schemas = found["components"]["schemas"]
    assert schemas["Peer"]["properties"]["host"]["description"] == "Its host name or address."
    assert "Match" in schemas


def test_users_by_the_api(api: Api, http: httpx2.Client) -> None:
    http.headers |= key(api, "admin")
    added = http.put("/api/users/lee", json={"role": "operator"})
    assert (added.status_code, len(added.json()["password"]) >= 12) == (201, True)
    assert http.put("/api/users/lee", json={"role": "viewer"}).status_code == 422
    words = "a few words of mine"
    assert http.patch("/api/users/lee", json={"role": "viewer", "password": words}).json() == {
        "name": "lee"
    }
    assert len(http.patch("/api/users/lee", json={"password": ""}).json()["password"]) >= 12
    known = {user["name"]: user["role"] for user in http.get("/api/users").json()["users"]}
    assert known["lee"] == "viewer"
    for body in ({"role": "king"}, {"role": 1}, {"rle": "admin"}, {"password": "short"}):
        assert http.patch("/api/users/lee", json=body).status_code == 422
    refused = http.patch("/api/users/admin", json={"role": "viewer"})
    assert "the last administrator stays" in refused.json()["detail"]
    assert http.delete("/api/users/admin").status_code == 422
    assert "0 sessions" in http.delete("/api/users/lee/sessions").json()["done"]
    assert http.delete("/api/users/lee").json() == {"removed": "lee"}
    assert http.delete("/api/users/lee").status_code == 404
    for name in ("operator", "viewer"):
        http.headers |= key(api, name)
        assert http.get("/api/users").status_code == 403
        assert http.put("/api/users/me", json={"role": "admin"}).status_code == 403


def test_an_act_that_is_under_way_is_followed_across_a_reload(tmp_path: Path) -> None:
    """A reload exchanges the application; what it had begun goes on and stays known."""
    from dicom_node.credentials import Credentials
    from dicom_node.store.ledger import Ledger
    from dicom_node.store.spool import Spool
    from dicom_node.web.app import WebSite

    settings = Settings(node={"data_dir": tmp_path}, web={"sign_in": False})
    Ledger.upgrade(settings.ledger_url)
    ledger = Ledger.open(settings.ledger_url)
    site = WebSite(settings, ledger, Spool(tmp_path / "spool"), Credentials.same(PASSWORD))

    async def calls() -> list[int]:
        way = httpx2.ASGITransport(app=site, client=("127.0.0.1", 5))
        async with httpx2.AsyncClient(transport=way, base_url=settings.web.url) as client:
            begun = await client.post("/api/bulk/retry", json={"all": True})
            site.take(settings)
            found = await client.get(f"/api/bulk/runs/{begun.json()['run']}")
        return [begun.status_code, found.status_code]

    assert anyio.run(calls) == [202, 200]
    ledger.close()


def test_unknown_keys_are_slowed_and_known_ones_are_not_shut_out(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    monkeypatch.setattr("dicom_node.web.brake._STEP_S", 0)
    unknown = {"Authorization": "Bearer cfx_00000000_guessed"}
    answers = [http.get("/api/peers", headers=unknown).status_code for _ in range(14)]
    assert answers[0] == 401
    assert answers[-1] == 429
    assert http.get("/api/peers", headers=key(api, "viewer")).status_code == 200


# users, ignored images, many images at once


def test_an_administrator_keeps_users_and_the_last_one_stays(
    api: Api, admin: httpx2.Client
) -> None:
    token = csrf(admin.get("/users").text)

    def act(what: str, **fields: str) -> httpx2.Response:
        return admin.post(f"/users/{what}", data=token | fields)

    added = act("add", name="kim", role="viewer")
    (password,) = re.findall(r'id="secret"[^>]*><code>([^<]+)', added.text)
    assert "a user has this name already" in act("add", name="kim", role="admin").text
    with httpx2.Client(base_url=api.url, trust_env=False, follow_redirects=True) as kim:
        kim.post("/sign-in", data={"name": "kim", "password": password})
        assert kim.get("/").status_code == 200
        act("end-sessions", name="kim")
        assert kim.get("/").status_code == 401
    for what, fields in (("remove", {}), ("role", {"role": "viewer"})):
        answer = act(what, name="admin", **fields)
        assert answer.status_code == 422
        assert "the last administrator stays" in answer.text
    act("role", name="kim", role="admin")
    act("role", name="kim", role="viewer")
    made = re.findall(r"cfx_[\w-]+", act("key", name="kim", label="script").text)[0]
    act("remove", name="kim")
    assert api.ledger.api_keys.find(made) is None
    assert admin.get("/users").status_code == 200
    for name in (HOSTILE, "", "a:b", "x" * 300):
        answer = act("add", name=name, role="viewer")
        assert answer.status_code == 422
        assert "<script>alert" not in answer.text


@pytest.mark.parametrize("name", ["viewer", "operator"])
def test_users_are_for_administrators(api: Api, name: str) -> None:
    with signed_in(api, name) as http:
        assert http.get("/users").status_code == 403
        token = csrf(http.get("/rules").text)
        for what in ("add", "role", "password", "end-sessions", "remove", "key", "end-key"):
            answer = http.post(f"/users/{what}", data=token | {"name": name, "role": "admin"})
            assert answer.status_code == 403


def test_two_administrators_at_once_cannot_both_go(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from dicom_node.base.errors import ConfigurationError
    from dicom_node.users import change_role, read_users

    for name in ("one", "two"):
        add_user(tmp_path / "users", name, "admin", PASSWORD)

    def demote(name: str) -> bool:
        try:
            change_role(tmp_path / "users", name, "viewer")
        except ConfigurationError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(demote, ("one", "two"))) == [False, True]
    assert [user.role for user in read_users(tmp_path / "users").values()].count("admin") == 1


def fail_all(api: Api) -> None:
    """Let every job that waits end as failed."""
    for ticket in api.ledger.jobs.hand_out("phantom", 100, time.time() + 60):
        api.ledger.jobs.claim(ticket.job, ticket.token, "gpu-host:4711", 60)
        pages.fail(api, ticket)


def test_many_images_are_counted_then_retried_with_the_persons_name(api: Api) -> None:
    uids = [pages.keep(api, b"\0" * 128 + b"DICM", pages.route()) for _ in range(3)]
    for _ in uids:
        pages.fail(api, pages.claimed(api))
    with signed_in(api, "operator") as http:
        page = http.get("/bulk", params={"state": "failed"}).text
        assert "Retry now: 3 images" in page
        assert "Send reports again:" not in page
        assert "The search: <strong>Failed</strong>" in page
        run = http.post("/bulk/retry", data=csrf(page) | {"state": "failed"})
        for _ in range(600):
            if "Done." in run.text:
                break
            run = http.get(run.url.path)
        assert "3 of 3 images" in run.text
        assert "3 changed, 0 failed" in run.text
        assert http.get("/bulk/run/unknown").status_code == 404
        assert http.post("/bulk/erase", data=csrf(page)).status_code == 404
    for uid in uids:
        stages = [s for s in api.ledger.history.trace(uid).stages if s.stage == "retry"]
        assert "by operator" in stages[0].detail
    with signed_in(api, "viewer") as http:
        assert http.get("/bulk").status_code == 403


def test_a_search_that_is_not_understood_is_never_one_for_all_images(api: Api) -> None:
    uid = pages.keep(api, b"\0" * 128 + b"DICM", pages.route())
    fail_all(api)
    wrong = [{"find": HOSTILE}, {"find": "gAAAAA" * 20}, {"state": HOSTILE}, {"state": "no state"},
             {"period": "2026"}, {"period": "dates", "since": "01.02.2026"},
             {"since": "2026-01-01"}, {"until": "x" * 4000}]  # fmt: skip
    with signed_in(api, "operator") as http:
        token = csrf(http.get("/bulk").text)
        for fields in wrong:
            answer = http.post("/bulk/retry", data=token | fields)
            assert answer.status_code == 422, fields
            assert "<script>alert" not in answer.text
            shown = http.get("/bulk", params=fields)
            assert shown.status_code in (200, 422), fields
            assert "<script>alert" not in shown.text
        assert http.post(f"/bulk/{quote(HOSTILE)}", data=token).status_code == 404
        assert http.get(f"/bulk/run/{quote(HOSTILE)}").status_code == 404
    assert api.ledger.history.trace(uid).state == "failed"


@pytest.mark.parametrize("label", [HOSTILE, "x" * 5000, "\x00\n", "\u202egnp.exe", "=1+1"])
def test_what_a_key_is_for_is_shown_as_text(api: Api, label: str) -> None:
    with signed_in(api, "admin") as http:
        token = csrf(http.get("/keys").text)
        for path, fields in (("/keys/make", {}), ("/users/key", {"name": "viewer"})):
            made = http.post(path, data=token | fields | {"label": label})
            assert made.status_code == 200
            assert "<script>alert" not in made.text
            assert "x" * 65 not in made.text
        for ident in ("", HOSTILE, "x" * 5000):
            gone = http.post("/keys/end", data=token | {"key": ident})
            assert gone.status_code == 404
            assert "<script>alert" not in gone.text
    for name in ("admin", "viewer"):
        api.ledger.api_keys.end_all(name)


def test_each_key_of_the_settings_has_a_field_in_a_group_and_a_word() -> None:
    from dicom_node.web.edit_forms import FIELDS
    from dicom_node.web.form_groups import LABELS, groups_of, wrong_keys

    for kind, fields in FIELDS.items():
        groups = groups_of(kind, fields)
        shown = [field for group in groups for field in group.fields]
        assert sorted(row.key for row in shown) == sorted(field.key for field in fields)
        assert "Others" not in [group.title for group in groups]
        assert {field.key for field in fields} <= set(LABELS)
        assert all(
            not field.is_needed for group in groups if group.is_folded for field in group.fields
        )
    said = "node.toml: peers.a.tls.ca: no such file; peers.a.objects.0: 'x' is not a kind"
    assert wrong_keys(FIELDS["peers"], said) == ["objects", "tls.ca"]
    assert wrong_keys(FIELDS["rules"], "rule 'a': match.view.0: must be text") == ["match.view"]


def test_an_ignored_image_is_analysed_once_by_a_rule_that_is_named(api: Api) -> None:
    from dicom_node.base.errors import Busy, NotFound
    from dicom_node.flow.by_hand import analyse_anyway
    from dicom_node.store.actor import Actor

    uid = api.receive(modality="DX", calling_ae="XRAY1", calling_host="127.0.0.1")
    rules = [{"name": "hands", "match": {"body_part": ["HAND"]}, "mode": "shadow"}]
    settings = Settings(node=api.settings.node, rules=rules)
    by = Actor("jane", "10.1.1.1")
    with pytest.raises(NotFound, match="no rule is named"):
        analyse_anyway(settings, api.spool, api.ledger, uid, "feet", by)
    job = analyse_anyway(settings, api.spool, api.ledger, uid, "hands", by)
    trace = api.ledger.history.trace(uid)
    assert (trace.jobs[0].job, trace.jobs[0].rule, trace.state) == (job, "hands", "received")
    assert "analysed anyway by jane" in next(s.detail for s in trace.stages if s.stage == "routed")
    with pytest.raises(Busy, match="has a job already"):
        analyse_anyway(settings, api.spool, api.ledger, uid, "hands", by)


def test_a_thing_is_held_and_let_go_on_its_page(api: Api) -> None:
    with signed_in(api, "operator") as http:
        token = csrf(http.get("/rules").text)
        held = http.post(
            "/holds/destination/hold", data=token | {"name": "modality", "why": HOSTILE}
        )
        assert held.url.path == "/peers"
        assert "Held since" in held.text
        assert "<script>alert" not in held.text
        assert (
            "Held since"
            not in http.post("/holds/destination/let-go", data=token | {"name": "modality"}).text
        )
        for kind, name in (("planet", "mars"), ("rule", "")):
            answer = http.post(f"/holds/{kind}/hold", data=token | {"name": name})
            assert answer.status_code in (404, 422)
    with signed_in(api, "viewer") as http:
        token = csrf(http.get("/rules").text)
        assert http.post("/holds/rule/hold", data=token | {"name": "x"}).status_code == 403


def test_acts_on_many_images_by_the_api(api: Api, http: httpx2.Client) -> None:
    uids = [
        pages.keep(api, b"\0" * 128 + b"DICM", pages.route(), patient_name=name)
        for name in ("Bulk^Ann", "Bulk^Ben", "Alone^Cid")
    ]
    fail_all(api)
    http.headers |= key(api, "operator")
    search = {"find": "bulk", "state": "failed"}
    counted = http.post("/api/bulk/count", json=search).json()["images"]
    assert (counted["retry"], counted["resend"]) == (2, 0)
    begun = http.post("/api/bulk/retry", json=search)
    assert (begun.status_code, begun.json()["images"]) == (202, 2)
    path = f"/api/bulk/runs/{begun.json()['run']}"
    run = wait_for("the act is over", lambda: _over(http.get(path).json()), 60)
    assert (run["done"], run["changed"], run["failed"], run["by"]) == (2, 2, 0, "operator")
    states = [api.ledger.history.trace(uid).state for uid in uids]
    assert states == ["received", "received", "failed"]
    wrong: list[dict[str, Any]] = [
        {}, {"all": False}, {"all": "yes"}, {"all": True, "find": "x"}, {"find": ""}, {"fnd": "x"},
        {"state": "no state"}, {"since": "01.02.2026"}, {"find": ["x"]}, {"find": "x" * 129},
        {"find": "\ud800"},
    ]  # fmt: skip
    for body in wrong:
        content = json.dumps(body).encode()
        for act in ("count", "retry"):
            assert http.post(f"/api/bulk/{act}", content=content).status_code == 422, body
    assert http.post("/api/bulk/count", json={"find": "\x00' --"}).status_code == 200
    assert http.post("/api/bulk/erase", json=search).status_code == 404
    assert http.get("/api/bulk/runs/unknown").status_code == 404
    http.headers |= key(api, "viewer")
    assert http.post("/api/bulk/retry", json=search).status_code == 403


def _over(run: dict[str, Any]) -> dict[str, Any] | None:
    return run if run["is_over"] else None


def test_how_long_files_stay_is_changed_with_its_effect_and_undone(
    api: Api, config: Path, admin: httpx2.Client
) -> None:
    form = admin.get("/retention/edit").text
    csrf, base = (re.search(rf'name="{one}" value="([^"]*)"', form)[1] for one in ("csrf", "base"))  # type: ignore[index]
    words = {"csrf": csrf, "base": base, "old": "", "f-images": "0", "f-min_free": "1GB"}
    seen = admin.post("/retention/edit", data={**words, "do": "check"}).text
    assert "What would go at the next round" in seen
    assert "+images = 0" in seen
    assert config.read_text() == TEXT
    mark = re.search(r'name="seen" value="([^"]*)"', seen)[1]  # type: ignore[index]
    done = admin.post("/retention/edit", data={**words, "seen": mark, "do": "save"})
    assert "/configuration/history?done=1" in str(done.url)
    assert load(config).retention.min_free == 10**9
    admin.post("/configuration/undo", data={"csrf": csrf, "number": "1"})
    assert config.read_text().replace("\n", "") == TEXT.replace("\n", "")


def test_a_wrong_time_is_named_at_its_field(config: Path, admin: httpx2.Client) -> None:
    form = admin.get("/retention/edit").text
    csrf = re.search(r'name="csrf" value="([^"]*)"', form)[1]  # type: ignore[index]
    answer = admin.post(
        "/retention/edit", data={"csrf": csrf, "old": "", "f-images": "one day", "do": "check"}
    )
    assert answer.status_code == 422
    assert "not a duration" in answer.text
    assert "#f-images" in answer.text
    assert config.read_text() == TEXT
