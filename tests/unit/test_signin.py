"""Only people who may see, see; only forms of our own pages change something."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pages
import pytest
from argon2 import PasswordHasher
from pydantic import ValidationError
from serving import SECRET, Api, serving

from dicom_node import users
from dicom_node.base.errors import ConfigurationError, NotFound
from dicom_node.base.logs import Sparse
from dicom_node.cli import main
from dicom_node.credentials import Credentials
from dicom_node.operate import people
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.sessions import WebSession
from dicom_node.users import add_user, change_role, read_users, remove_user, verified
from dicom_node.web import brake, sessions, worklist

PASSWORD = "correct horse battery"
PATHS = ("/", "/live", "/peers", "/rules", "/models", "/configuration", "/images/1.2.3",
         "/images/1.2.3/preview.png")  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def cheap_hashes() -> Iterator[None]:
    """Passwords are hashed as strongly as a test needs: here hundreds are judged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "_hasher", PasswordHasher(time_cost=1, memory_cost=64))
        users._hash_of_nobody.cache_clear()
        yield
    users._hash_of_nobody.cache_clear()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("node")
    for role in ("viewer", "operator", "admin"):
        add_user(folder / "users", role, role, PASSWORD)
    with serving(folder) as running:
        pages.keep(running, b"\0" * 128 + b"DICM", pages.route())
        pages.reported(running, pages.claimed(running))
        yield running


@pytest.fixture
def http(api: Api) -> Iterator[httpx2.Client]:
    with client(api) as one:
        yield one


def client(api: Api, **options: Any) -> httpx2.Client:
    return httpx2.Client(base_url=api.url, trust_env=False, timeout=20, **options)


def sign_in(http: httpx2.Client, name: str, password: str = PASSWORD, **more: Any) -> Any:
    return http.post("/sign-in", data={"name": name, "password": password, **more})


def token(http: httpx2.Client) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', http.get("/rules").text)
    assert found
    return found[1]


# Strangers


@pytest.mark.parametrize("path", PATHS)
def test_strangers_see_no_page(http: httpx2.Client, path: str) -> None:
    assert http.get(path).status_code == 401
    led = http.get(path, headers={"Accept": "text/html"})
    assert (led.status_code, led.headers["location"][:9]) == (303, "/sign-in?")
    asked = http.get(path, headers={"HX-Request": "true"})
    assert (asked.status_code, asked.headers["hx-redirect"]) == (401, "/sign-in")


@pytest.mark.parametrize(
    "path",
    ["/find", "/images/1.2.77.1/retry", "/images/1.2.77.1/judge", "/peers/modality/echo",
     "/rules/test", "/sign-out"],
)  # fmt: skip
def test_strangers_change_nothing(http: httpx2.Client, path: str) -> None:
    assert http.post(path, data={"csrf": "x"}).status_code == 401


def test_machines_need_no_sign_in_for_what_holds_no_patient_data(http: httpx2.Client) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/sign-in", "/static/style.css"):
        assert http.get(path).status_code == 200


# Signing in


def test_a_user_signs_in_and_out(http: httpx2.Client) -> None:
    answer = sign_in(http, "viewer", to="/peers")
    assert (answer.status_code, answer.headers["location"]) == (303, "/peers")
    cookie = answer.headers["set-cookie"]
    for word in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
        assert word in cookie
    assert http.get("/").status_code == 200
    assert http.get("/sign-in").status_code == 303
    assert http.post("/sign-out", data={"csrf": token(http)}).status_code == 303
    assert http.get("/").status_code == 401


@pytest.mark.parametrize(
    ("name", "password"),
    [("viewer", "wrong password"), ("nobody", PASSWORD), ("viewer", ""), ("admin", SECRET)],
)
def test_a_wrong_name_or_password_gives_no_session(api: Api, name: str, password: str) -> None:
    with client(api) as http:
        answer = sign_in(http, name, password)
        assert answer.status_code == 403
        assert "Name or password is wrong" in answer.text
        assert "set-cookie" not in answer.headers


def test_a_name_is_typed_once_and_stands_in_the_form_as_it_was_typed(api: Api) -> None:
    with client(api) as http:
        assert ' value="viewer"' in sign_in(http, " viewer ", "wrong password").text
        assert ' value="&#34;&gt;&lt;b&gt;"' in sign_in(http, '"><b>', "wrong password").text


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/\\evil.example", "x"])
def test_a_sign_in_leads_to_our_own_pages_only(http: httpx2.Client, to: str) -> None:
    assert sign_in(http, "viewer", to=to).headers["location"] == "/"


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of the brake are tested with the brake; here they would only take time."""
    monkeypatch.setattr(brake, "_STEP_S", 0.0)


@pytest.mark.usefixtures("swift")
def test_many_wrong_passwords_for_one_name_must_wait(tmp_path: Path) -> None:
    with serving(tmp_path) as api, client(api) as http:
        codes = [sign_in(http, "admin", "guess").status_code for _ in range(brake.MOST + 1)]
        assert codes == [403] * brake.MOST + [429]
        assert sign_in(http, "admin", SECRET).status_code == 429


@pytest.mark.usefixtures("swift")
def test_guesses_at_others_do_not_shut_out_who_knows_the_password(tmp_path: Path) -> None:
    """A hospital may come from one address: one guesser there must not lock all others out."""
    add_user(tmp_path / "users", "jane", "viewer", PASSWORD)
    with serving(tmp_path) as api, client(api) as http:
        for number in range(3 * brake.MOST):
            assert sign_in(http, f"user{number}", "guess").status_code == 403
        assert sign_in(http, "jane").status_code == 303


@pytest.mark.usefixtures("swift")
def test_an_own_sign_in_does_not_lift_the_brake_on_another(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "guesser", "viewer", PASSWORD)
    add_user(tmp_path / "users", "boss", "admin", PASSWORD + "!")
    with serving(tmp_path) as api, client(api) as http:
        codes = []
        for _ in range(brake.MOST + 2):
            codes.append(sign_in(http, "boss", "guess").status_code)
            assert sign_in(http, "guesser").status_code == 303
        assert codes == [403] * brake.MOST + [429] * 2


@pytest.mark.usefixtures("swift")
def test_a_forwarded_address_counts_from_a_listed_proxy_only(tmp_path: Path) -> None:
    for proxies, code in (((), 429), (("127.0.0.1",), 403)):
        with serving(tmp_path, proxy_addresses=proxies) as api, client(api) as http:
            codes = [
                http.post(
                    "/sign-in",
                    data={"name": "admin", "password": "guess"},
                    headers={"X-Forwarded-For": f"6.6.6.6, 10.0.0.{number}"},
                ).status_code
                for number in range(brake.MOST + 1)
            ]
            assert codes[-1] == code


def test_the_first_user_is_admin_with_the_secret_until_there_are_others(tmp_path: Path) -> None:
    with serving(tmp_path) as api, client(api) as http:
        assert sign_in(http, "admin", SECRET).status_code == 303
        assert http.get("/configuration").status_code == 200
        add_user(tmp_path / "users", "jane", "viewer", PASSWORD)
        assert http.get("/").status_code == 401
        assert sign_in(http, "admin", SECRET).status_code == 403


def test_a_cookie_that_was_changed_or_is_old_is_no_session(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(http, "viewer")
    cookie = http.cookies[sessions.COOKIE]
    for wrong in (cookie[:-1], cookie + "A", "", "x", cookie.swapcase()):
        with client(api, cookies={sessions.COOKIE: wrong}) as other:
            assert other.get("/").status_code == 401
    later = time.time() + 43201
    monkeypatch.setattr(time, "time", lambda: later)
    assert http.get("/").status_code == 401


def test_a_session_without_a_request_ends_and_a_live_page_keeps_none_open(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(http, "viewer")
    right = time.time
    for later, path, code in (
        (1700, "/", 200),
        (3400, "/", 200),
        (5000, "/live", 200),
        (5300, "/", 401),
    ):
        monkeypatch.setattr(time, "time", lambda later=later: right() + later)
        with http.stream("GET", path) as answer:
            assert answer.status_code == code, later


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}])
def test_what_a_page_loads_again_and_again_keeps_no_session_open(
    api: Api, http: httpx2.Client, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    sign_in(http, "viewer")
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 1700)
    assert http.get("/models", headers=headers).status_code == 200
    monkeypatch.setattr(time, "time", lambda: right() + 1900)
    assert http.get("/models").status_code == (401 if headers else 200)


def test_all_that_htmx_gets_is_asked_by_a_timer() -> None:
    """What somebody presses is a link, or a form: these keep a session open."""
    for path in Path(sessions.__file__).with_name("templates").glob("*.html"):
        text = path.read_text()
        assert text.count("hx-get=") == text.count('hx-trigger="every '), path.name


def test_a_cookie_that_was_copied_ends_with_its_session(api: Api, http: httpx2.Client) -> None:
    sign_in(http, "viewer")
    with client(api, cookies=dict(http.cookies)) as copy:
        assert copy.get("/").status_code == 200
        http.post("/sign-out", data={"csrf": token(http)})
        assert copy.get("/").status_code == 401


def test_the_ledger_holds_nothing_to_sign_in_with(api: Api, http: httpx2.Client) -> None:
    sign_in(http, "viewer")
    cookie = http.cookies[sessions.COOKIE].encode()
    files = list(api.settings.node.data_dir.glob("ledger.sqlite*"))
    assert files
    assert not any(cookie in file.read_bytes() for file in files)


def test_a_live_page_ends_when_its_user_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worklist, "STAYS_S", 0.2)
    for name in ("jane", "ben"):
        add_user(tmp_path / "users", name, "viewer", PASSWORD)
    with serving(tmp_path) as api, client(api) as http:
        sign_in(http, "jane")
        with http.stream("GET", "/live") as answer:
            lines = answer.iter_text()
            assert "event" in next(lines) or answer.status_code == 200
            remove_user(tmp_path / "users", "jane")
            for _ in lines:
                pass  # it ends by itself, or the test runs into its limit


def test_a_users_file_that_breaks_stops_sign_in_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_user(tmp_path / "users", "jane", "viewer", PASSWORD)
    with serving(tmp_path) as api, client(api) as http:
        sign_in(http, "jane")
        (tmp_path / "users").write_text("not a user\n")
        assert http.get("/").status_code == 200
        assert http.get("/healthz").status_code == 200
        with client(api) as other:
            answer = sign_in(other, "jane")
            assert answer.status_code == 503
            assert str(tmp_path) not in answer.text
            assert other.get("/").status_code == 401
    assert len([line for line in caplog.messages if "users:1" in line]) == 1


def test_a_session_from_a_clock_that_was_ahead_does_not_outlast_a_session(
    http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time", lambda: right() + 90_000)
        assert sign_in(http, "viewer").status_code == 303
        assert http.get("/").status_code == 200
    assert http.get("/").status_code == 401


def test_a_new_password_ends_the_sessions_of_before(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "jane", "viewer", PASSWORD)
    with serving(tmp_path) as api, client(api) as http:
        sign_in(http, "jane")
        assert http.get("/").status_code == 200
        add_user(tmp_path / "users", "jane", "viewer", PASSWORD + "!")
        assert http.get("/").status_code == 401


def test_cookies_are_for_encrypted_connections_where_there_is_encryption(tmp_path: Path) -> None:
    with serving(tmp_path, url="https://node.example") as api, client(api) as http:
        cookie = sign_in(http, "admin", SECRET).headers["set-cookie"]
        assert cookie.startswith("__Host-")
        assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
        assert "Domain" not in cookie


# Roles


def test_roles_bound_what_people_may_do(api: Api) -> None:
    for name, echo, configuration in (
        ("viewer", 403, 403),
        ("operator", 200, 403),
        ("admin", 200, 200),
    ):
        with client(api) as http:
            sign_in(http, name)
            form = {"csrf": token(http)}
            assert http.post("/peers/modality/echo", data=form).status_code == echo
            assert http.get("/configuration").status_code == configuration
            resent = http.post("/images/1.2.77.1/resend", data=form)
            assert resent.status_code == (303 if echo == 200 else 403)
            assert http.post("/find", data=form).status_code == 303


def test_a_judgement_bears_the_name_of_who_signed_in(api: Api, http: httpx2.Client) -> None:
    sign_in(http, "viewer")
    job = api.ledger.history.trace("1.2.77.1").jobs[0].job
    form = {"csrf": token(http), "job": job, "verdict": "agree", "by": "somebody else"}
    assert http.post("/images/1.2.77.1/judge", data=form).status_code == 303
    assert api.ledger.history.trace("1.2.77.1").stages[-1].detail == "viewer"


# Forged requests


def test_a_form_without_our_token_changes_nothing(api: Api, http: httpx2.Client) -> None:
    sign_in(http, "admin")
    with client(api) as other:
        sign_in(other, "operator")
        stolen = token(other)
    for shown in ({}, {"csrf": ""}, {"csrf": "x" * 43}, {"csrf": stolen}):
        assert http.post("/images/1.2.77.1/replay", data=shown).status_code == 403
    assert len(api.ledger.history.trace("1.2.77.1").jobs) == 1


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
     {"Origin": "https://evil.example"}, {"Origin": "null"}],
)  # fmt: skip
def test_what_another_site_sends_is_refused(
    api: Api, http: httpx2.Client, headers: dict[str, str]
) -> None:
    sign_in(http, "admin")
    form = {"csrf": token(http)}
    assert http.post("/images/1.2.77.1/replay", data=form, headers=headers).status_code == 403
    with client(api, headers=headers) as other:
        assert sign_in(other, "admin").status_code == 403


def test_without_sign_in_a_form_needs_our_token_too(tmp_path: Path) -> None:
    with serving(tmp_path, sign_in=False) as api, client(api) as http:
        assert http.post("/find", data={"q": "x"}).status_code == 403
        assert http.post("/find", data={"q": "x", "csrf": token(http)}).status_code == 303


def test_without_sign_in_only_this_machines_own_names_are_answered(tmp_path: Path) -> None:
    """A foreign page whose name points at 127.0.0.1 may not read the worklist."""
    with serving(tmp_path, sign_in=False) as api, client(api) as http:
        assert http.get("/").status_code == 200
        named = {"Host": f"localhost:{api.settings.web.port}"}
        assert http.get("/", headers=named).status_code == 200
        rebound = {"Host": f"evil.example:{api.settings.web.port}"}
        assert http.get("/", headers=rebound).status_code == 403
        assert http.get("/live", headers=rebound).status_code == 403
        assert http.post("/jobs/x/claim", json={}).status_code == 401


# Proxies

PROXY = {"proxy_header": "X-Remote-User", "proxy_addresses": ["127.0.0.0/8"]}


def test_a_listed_proxy_names_who_signed_in_there(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "boss", "admin", PASSWORD)
    with serving(tmp_path, **PROXY) as api:
        with client(api, headers={"X-Remote-User": "jane"}) as http:
            assert http.get("/").status_code == 200
            assert http.get("/configuration").status_code == 403
        with client(api, headers={"X-Remote-User": "boss"}) as http:
            assert http.get("/configuration").status_code == 200
        with client(api) as http:
            assert http.get("/").status_code == 401


def test_the_header_of_others_is_not_believed(tmp_path: Path) -> None:
    elsewhere = PROXY | {"proxy_addresses": ["10.0.0.5"]}
    with (
        serving(tmp_path, **elsewhere) as api,
        client(api, headers={"X-Remote-User": "admin"}) as http,
    ):
        assert http.get("/").status_code == 401


@pytest.mark.parametrize(
    "web",
    [{"proxy_header": "X-User"}, {"proxy_addresses": ["nowhere"]}, {"proxy_role": "king"},
     {"proxy_header": "X User", "proxy_addresses": ["10.0.0.5"]}],
)  # fmt: skip
def test_a_proxy_that_anybody_could_be_is_refused(web: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(web=web)


# The users file


def test_the_users_file_is_for_its_owner_and_holds_no_password(tmp_path: Path) -> None:
    path = tmp_path / "new" / "users"
    add_user(path, "jane", "operator", PASSWORD)
    add_user(path, "john", "viewer", PASSWORD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = path.read_text()
    assert PASSWORD not in text
    assert text.startswith("jane:operator:$argon2id$")
    users = read_users(path)
    assert verified(users, "jane", PASSWORD) == users["jane"]
    assert verified(users, "john", PASSWORD + "x") is None
    assert verified(users, "nobody", PASSWORD) is None
    remove_user(path, "john")
    assert list(read_users(path)) == ["jane"]
    with pytest.raises(NotFound):
        remove_user(path, "john")


@pytest.mark.parametrize(
    ("name", "password"),
    [("", PASSWORD), ("a:b", PASSWORD), ("a\nb", PASSWORD), ("x" * 65, PASSWORD), ("a", "short"),
     ("a", "elevenchars"), ("a", "aaaaaaaaaaaaaaaa"), ("a", "123412341234"), ("a", "Password2026!"),
     ("a", "passwordpassword"), ("a", "Radiologie_2026"), ("radiographer7", "Radiographer7!"),
     ("a", "CorrectHorseBatteryStaple")],
)  # fmt: skip
def test_users_with_bad_names_or_passwords_soon_guessed_are_refused(
    tmp_path: Path, name: str, password: str
) -> None:
    with pytest.raises(ConfigurationError):
        add_user(tmp_path / "users", name, "viewer", password)
    assert not (tmp_path / "users").exists()


@pytest.mark.parametrize("password", ["blue lamp under water", "x7Kq-93bTzz-0p1", "ÄpfelUndBirnen"])
def test_a_few_words_or_a_long_random_word_are_taken(tmp_path: Path, password: str) -> None:
    add_user(tmp_path / "users", "anna", "viewer", password)
    assert verified(read_users(tmp_path / "users"), "anna", password)


def test_a_broken_line_is_named_and_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("# people\n\njane:king:$argon2id$x\n")
    with pytest.raises(ConfigurationError, match="users:3"):
        read_users(tmp_path / "users")
    with serving(tmp_path) as api, client(api) as http:
        assert http.get("/").status_code == 401
        assert sign_in(http, "admin", SECRET).status_code == 503


def test_the_command_line_makes_lists_and_removes_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, word = tmp_path / "node.toml", tmp_path / "word"
    config.write_text(f'[node]\ndata_dir = "{tmp_path}"\n')
    word.write_text(PASSWORD + "\n")
    at = ["--config", str(config)]
    made = ["user", "add", "jane", "--role", "operator", "--password-file", str(word), *at]
    assert main(made) == 0
    # the first administrator's way has just ended
    assert "nobody is an administrator: chexfract-node user add" in capsys.readouterr().err
    assert verified(read_users(tmp_path / "users"), "jane", PASSWORD)
    assert main(["user", "list", "--json", *at]) == 0
    assert '"operator"' in capsys.readouterr().out
    assert main(["user", "remove", "jane", *at]) == 0
    assert main(["user", "remove", "jane", *at]) == 1
    word.write_text("short\n")
    assert main(made) == 78


def test_the_last_administrator_stays_whoever_asks(tmp_path: Path) -> None:
    """The page and the command ask the same rule, which knows no exception."""
    path, config, word = tmp_path / "users", tmp_path / "node.toml", tmp_path / "word"
    config.write_text(f'[node]\ndata_dir = "{tmp_path}"\n')
    word.write_text(f"{PASSWORD}\n")
    at = ("--config", str(config))
    demoted = ["user", "add", "anna", "--role", "viewer", "--password-file", str(word), *at]
    add_user(path, "anna", "admin", PASSWORD)
    add_user(path, "ben", "viewer", PASSWORD)
    before = path.read_text()
    assert main(["user", "remove", "anna", *at]) == 78
    assert main(demoted) == 78
    with pytest.raises(ConfigurationError, match="the last administrator stays"):
        change_role(path, "anna", "operator")
    assert path.read_text() == before
    assert main(["user", "remove", "ben", *at]) == 0
    add_user(path, "ida", "admin", PASSWORD)
    assert main(demoted) == 0
    assert {name: user.role for name, user in read_users(path).items()} == {
        "anna": "viewer", "ida": "admin",
    }  # fmt: skip


def test_who_signs_in_with_an_old_short_password_is_told_until_it_is_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of 0.1.0 may hold passwords of eight characters: they go on working."""
    hashed = users._hasher.hash("sunshine")
    file = tmp_path / "users"
    file.write_text(f"anna:admin:{hashed}\n")
    file.chmod(0o600)
    with serving(tmp_path) as api:
        with client(api) as http:
            answer = sign_in(http, "anna", "sunshine")
            assert answer.status_code == 200
            assert "shorter or more common" in answer.text
            assert http.get("/").status_code == 200
        assert "the password of anna is too short" in caplog.text
        assert users.weak_users(file) == ["anna"]
        assert any("anna" in check.what for check in people.users(api.settings))
        assert stat.S_IMODE(users.weak_file(file).stat().st_mode) == 0o600
        add_user(file, "anna", "admin", PASSWORD)
        assert users.weak_users(file) == []
        with client(api) as http:
            assert sign_in(http, "anna").status_code == 303


def test_a_password_of_more_than_128_characters_is_no_new_one(tmp_path: Path) -> None:
    """ASVS 2.1.2; one of before goes on working, whole."""
    long = "correct horse battery " * 10
    with pytest.raises(ConfigurationError, match="128"):
        add_user(tmp_path / "users", "anna", "admin", long)
    (tmp_path / "users").write_text(f"anna:admin:{users._hasher.hash(long)}\n")
    known = read_users(tmp_path / "users")
    assert verified(known, "anna", long) is not None
    assert verified(known, "anna", long[:128]) is None


def test_what_a_role_may_not_do_leaves_one_line(
    api: Api,
    http: httpx2.Client,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # refusals of other tests in the same minute must not use up its lines
    monkeypatch.setattr(sessions, "_beyond", Sparse(sessions.logger))
    sign_in(http, "viewer")
    image = api.ledger.history.recent()[0].sop_instance_uid
    for act in ("retry", "resend", "replay", "release", "adopt", "settle/sent", "settle/given-up"):
        caplog.clear()
        assert http.post(f"/images/{image}/{act}", data={"csrf": token(http)}).status_code == 403
        (line,) = [
            record.getMessage() for record in caplog.records if "is refused" in record.getMessage()
        ]
        assert "viewer (viewer) from 127.0.0.1" in line
        assert "operator" in line


def test_sessions_of_a_provider_end_when_it_is_not_asked_any_more(tmp_path: Path) -> None:
    """Its sessions name a role themselves: no users file would end them."""
    asked = {"issuer": "https://idp.example", "client_id": "node", "roles": {"radiology": "viewer"}}
    outcomes = []
    for oidc in (asked, {}, {**asked, "roles": {"radiology": "operator"}}):
        settings = Settings(node={"data_dir": tmp_path}, web={"oidc": oidc})
        Ledger.upgrade(settings.ledger_url)
        ledger = Ledger.open(settings.ledger_url)
        door = sessions.Door(settings, Credentials.same(SECRET), ledger.sessions)
        session = WebSession("ida", f"{sessions.PROVIDER}viewer", "192.0.2.7", 1.0, 1.0, 2.0)
        outcomes.append(door._user_of_session(session) is not None)
        ledger.close()
    assert outcomes == [True, False, False]


def test_guesses_at_the_same_time_are_not_all_judged(tmp_path: Path) -> None:
    """Each is counted before it is judged: forty at once are ten, as forty in a row."""
    add_user(tmp_path / "users", "anna", "admin", PASSWORD)
    with serving(tmp_path) as api:

        def guess(number: int) -> int:
            with client(api) as http:
                return int(sign_in(http, "anna", f"wrong {number}").status_code)

        began = time.monotonic()
        with ThreadPoolExecutor(40) as pool:
            codes = list(pool.map(guess, range(40)))
    # one more for each minute that a busy machine takes
    assert 10 <= codes.count(403) <= 10 + (time.monotonic() - began) / brake.DECAY_S
    assert codes.count(403) + codes.count(429) == 40
