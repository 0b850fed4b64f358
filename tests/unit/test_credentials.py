"""Three secrets, each replaced alone; the first administrator's way ends with the first user."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import serving

from dicom_node.base.errors import ConfigurationError
from dicom_node.credentials import (
    Credentials,
    close_first_admin,
    is_first_admin,
    read_credentials,
    read_secret,
)
from dicom_node.settings import Settings
from dicom_node.users import add_user
from dicom_node.web.sessions import COOKIE

PASSWORD = "a password of some length"


def configured(folder: Path, **tables: Any) -> Settings:
    return Settings(node={"data_dir": folder}, **tables)


def test_four_secrets_are_made_and_stay(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    made = read_credentials(settings)
    assert len({made.jobs, made.dicomweb, made.first_admin, made.pages}) == 4
    assert read_credentials(settings) == made
    assert (tmp_path / "secret").read_text().strip() == made.jobs
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("file", "changed"),
    [("secret", "jobs"), ("dicomweb-secret", "dicomweb"), ("first-admin", "first_admin")],
)
def test_each_secret_is_replaced_alone(tmp_path: Path, file: str, changed: str) -> None:
    settings = configured(tmp_path)
    before = read_credentials(settings)
    (tmp_path / file).unlink()
    after = read_credentials(settings)
    for name in Credentials.__slots__:
        assert (getattr(before, name) != getattr(after, name)) == (name == changed)


def test_names_of_0_1_0_go_on_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_text("the secret of before")
    settings = configured(tmp_path, web={"secret_file": str(tmp_path / "old")})
    assert read_secret(settings) == "the secret of before"
    assert settings.superseded == ["web.secret_file: write it as jobs.secret_file"]
    monkeypatch.setenv("CHEXFRACT_WEB__SECRET", "a secret of the environment")
    settings = configured(tmp_path)
    assert read_secret(settings) == "a secret of the environment"
    assert "CHEXFRACT_JOBS__SECRET" in settings.superseded[0]
    monkeypatch.setenv("CHEXFRACT_JOBS__SECRET", "a newer secret than that")
    assert read_secret(configured(tmp_path)) == "a newer secret than that"


def test_the_new_name_comes_before_the_old(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"the content of {name}")
    settings = configured(
        tmp_path,
        web={"secret_file": str(tmp_path / "old")},
        jobs={"secret_file": str(tmp_path / "new")},
    )
    assert read_secret(settings) == "the content of new"


@pytest.mark.parametrize("content", [b"short", b"\xff" * 40, None])
def test_a_secret_file_that_is_no_use_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    settings = configured(tmp_path, jobs={"secret_file": str(tmp_path / "file")})
    with pytest.raises(ConfigurationError, match=r"jobs\.secret_file: .*file"):
        read_secret(settings)


def test_the_first_administrator_ends_for_good_with_the_first_user(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    assert read_credentials(settings).first_admin
    assert is_first_admin(settings)
    add_user(tmp_path / "users", "jane", "admin", PASSWORD)
    assert not is_first_admin(settings)
    (tmp_path / "users").unlink()
    assert not is_first_admin(settings), "a lost users file closes, it does not open"
    assert read_credentials(settings).first_admin == ""
    assert not (tmp_path / "first-admin").exists()


def test_a_lost_users_file_lets_nobody_in(tmp_path: Path) -> None:
    with serving.serving(tmp_path) as api, httpx2.Client(base_url=api.url) as http:
        add_user(tmp_path / "users", "jane", "admin", PASSWORD)
        assert sign_in(http, "jane", PASSWORD) == 303
        (tmp_path / "users").unlink()
        assert http.get("/").status_code == 401
        for password in (serving.SECRET, "", PASSWORD):
            assert sign_in(http, "admin", password) == 403


def sign_in(http: httpx2.Client, name: str, password: str) -> int:
    form = {"name": name, "password": password, "to": "/"}
    return http.post("/sign-in", data=form).status_code


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx2.Client]:
    """A node whose secrets differ."""
    close_first_admin(configured(tmp_path))
    secrets = Credentials("of the workers only", "of DICOMweb only", "", "key of the pages")
    monkeypatch.setattr(serving, "SECRET", secrets)
    with serving.serving(tmp_path) as api, httpx2.Client(base_url=api.url) as http:
        yield http


@pytest.mark.parametrize(
    ("secret", "path", "status"),
    [
        ("of the workers only", "/jobs/x/instance", 404),
        ("of DICOMweb only", "/jobs/x/instance", 401),
        ("of DICOMweb only", "/dicom-web/studies", 204),
        ("key of the pages", "/dicom-web/studies", 401),
        ("x", "/dicom-web/studies", 401),
    ],
)
def test_a_secret_opens_its_own_door(
    apart: httpx2.Client, secret: str, path: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {secret}", "X-Job-Token": "x"}
    assert apart.get(path, headers=headers).status_code in (
        status,
        200 if status == 204 else status,
    )


def test_the_workers_secret_opens_dicomweb_once_more_with_a_warning(
    apart: httpx2.Client, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        headers = {"Authorization": "Bearer of the workers only"}
        assert apart.get("/dicom-web/studies", headers=headers).is_success
    assert sum("dicomweb-secret" in line.message for line in caplog.records) <= 1


def test_a_worker_cannot_make_a_session(apart: httpx2.Client) -> None:
    """0.1.0 derived the key of cookies from the secret that every worker has."""
    known = "of the workers only"
    for cookie in (known, hashlib.sha256(known.encode()).hexdigest(), f"{known}.{known}"):
        apart.cookies.set(COOKIE, cookie)
        assert apart.get("/").status_code == 401
