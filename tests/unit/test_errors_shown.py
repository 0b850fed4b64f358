"""The errors that strangers see name what and why, and nothing of this machine's files."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import ModalityStation, listening
from listening import radiograph as image
from serving import SECRET, Api, radiograph, serving

from dicom_node.base import errors
from dicom_node.base.errors import ChexFractError, for_strangers, hide_paths

CLASSES = sorted(
    (kind for _, kind in inspect.getmembers(errors, inspect.isclass)
     if issubclass(kind, ChexFractError) and kind is not errors.Rejected),
    key=lambda kind: kind.__name__,
)  # fmt: skip


def shows_a_path(text: str, folder: Path) -> bool:
    return any(str(part) in text for part in (folder, *list(folder.parents)[:-1])) or "/etc" in text


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path, sign_in=False) as running:
        yield running


def requests_of(api: Api) -> list[tuple[str, str, dict[str, Any]]]:
    """Return one request for each door of the web side: pages, DICOMweb, jobs, STOW."""
    ticket = api.ticket()
    bearer = {"Authorization": f"Bearer {SECRET}"}
    claim = {"json": {"token": ticket.token, "worker": "w"}, "headers": bearer}
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + radiograph("1.2.3.99") + b"\r\n--b--"
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    stow = {"content": body, "headers": bearer | {"Content-Type": kind}}
    return [
        ("GET", "/images/1.2.3.1", {}),
        ("GET", "/images/1.2.3.1", {"headers": {"Accept": "text/html"}}),
        ("GET", "/", {"headers": {"HX-Request": "true"}}),
        ("GET", "/dicom-web/studies", {"headers": bearer}),
        ("GET", "/dicom-web/studies/1.2/metadata", {"headers": bearer}),
        ("POST", "/dicom-web/studies", stow),
        ("POST", f"/jobs/{ticket.job}/claim", claim),
        ("GET", "/readyz", {}),
    ]


def break_everything(monkeypatch: pytest.MonkeyPatch, api: Api, exc: ChexFractError) -> None:
    """Let ledger and spool fail at every door with this error."""

    def fail(*_: object, **__: object) -> Any:
        raise exc

    for of, names in (
        (api.ledger.history, ("trace", "recent", "page", "status", "answers")),
        (api.ledger.jobs, ("claim", "held", "instance_file")),
        (api.spool, ("writing", "path")),
    ):
        for name in names:
            monkeypatch.setattr(type(of), name, fail)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_no_answer_over_http_bears_a_path(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[ChexFractError]
) -> None:
    asked = requests_of(api)
    break_everything(monkeypatch, api, kind(f"{tmp_path}/spool/x.dcm: cannot; see /etc/passwd"))
    with httpx2.Client(base_url=api.url, trust_env=False, timeout=30) as http:
        seen = {}
        for method, path, more in asked:
            answer = http.request(method, path, **more)
            seen[path] = answer.status_code
            shown = answer.text + str(dict(answer.headers))
            assert not shows_a_path(shown, tmp_path), path
    assert max(seen.values()) >= 400


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_no_error_comment_of_a_c_store_bears_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[ChexFractError]
) -> None:
    with listening(tmp_path) as node:
        exc = kind(f"{tmp_path}/spool/x.dcm: cannot; see /etc/passwd")

        def fail(*_: object) -> None:
            raise exc

        monkeypatch.setattr(type(node.listener._intake), "finish", fail)
        refused = ModalityStation(node.port).store(image())
    assert refused.Status != 0
    comment = str(refused.get("ErrorComment", ""))
    assert not shows_a_path(comment, tmp_path)


def test_paths_go_and_addresses_of_the_pages_stay() -> None:
    text = "/var/lib/x: full; sign in at /sign-in, or ask http://node/manual, 1/2 of it"
    assert hide_paths(text) == "…: full; sign in at /sign-in, or ask http://node/manual, 1/2 of it"
    assert "/srv" not in hide_paths("('/srv/.secret/key', '/tmp/a b')")


@given(st.text(alphabet="avrtmpush.", min_size=1, max_size=40), st.text(max_size=40))
def test_a_path_within_any_text_is_hidden(name: str, around: str) -> None:
    shown = hide_paths(f"{around} /tmp/{name} {around}")
    assert f"/tmp/{name}" not in shown.removeprefix(around).removesuffix(around)


def test_hiding_takes_linear_time() -> None:
    began = time.process_time()
    for_strangers(errors.Refused("/var/" * 200_000))
    for_strangers(errors.Refused("/" * 1_000_000))
    assert time.process_time() - began < 5
