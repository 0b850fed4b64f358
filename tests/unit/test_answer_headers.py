"""What every answer of the web side bears, and what it does not answer."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from serving import SECRET, Api, serving

PATHS = ("/sign-in", "/images/1.2.3", "/dicom-web/studies", "/healthz", "/static/style.css",
         "/none", "/jobs/none/instance")  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_bears_the_headers_that_protect_it(api: Api, path: str) -> None:
    answer = httpx2.get(f"{api.url}{path}", trust_env=False)
    headers = answer.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] in ("no-referrer", "same-origin")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "script-src" in headers["content-security-policy"] or (
        "default-src 'none'" in headers["content-security-policy"]
    )
    assert "server" not in headers
    if not path.startswith("/static"):
        assert headers["cache-control"] == "no-store"
    assert headers["content-type"]


def test_an_encrypted_node_asks_for_encryption_ever_after(tmp_path: Path) -> None:
    with serving(tmp_path, url="https://node.example") as api:
        answer = httpx2.get(f"{api.url}/healthz", trust_env=False)
        assert "max-age" in answer.headers["strict-transport-security"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"])
def test_other_methods_are_not_answered(api: Api, method: str) -> None:
    bearer = {"Authorization": f"Bearer {SECRET}"}
    for path in ("/", "/images/1.2.3", "/dicom-web/studies", "/jobs/x/claim", "/healthz"):
        answer = httpx2.request(method, f"{api.url}{path}", headers=bearer, trust_env=False)
        assert answer.status_code in (404, 405)
