"""Fetching from a server with a hub's file endpoints: pins, resumes, verifies, keeps the token."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dicom_node.errors import ModelFault, NotFound, Refused, Unreachable
from worker.models import catalogue, checkpoint, hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Shelf:
    """A hub's repositories and how it misbehaves."""

    def __init__(self):
        self.repositories = {}
        self.requests = []
        self.cut_after = {}
        self.failures = []
        self.wants_token = ""
        self.elsewhere = ""
        self.altered = set()

    def put(self, repository, files, large=("model.safetensors",)):
        self.repositories[repository] = (files, large)

    def listing(self, repository):
        files, large = self.repositories[repository]
        siblings = []
        for name, content in files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry = {"rfilename": name, "size": len(content), "blobId": blob}
            if name in large:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": sha256}
            siblings.append(entry)
        return {"sha": COMMIT, "siblings": siblings}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        shelf = self.server.shelf
        shelf.requests.append((self.path, dict(self.headers)))
        if shelf.failures:
            return self.answer(shelf.failures.pop(0), b"")
        if shelf.wants_token and self.headers.get("Authorization") != shelf.wants_token:
            return self.answer(401, b"")
        for repository, (files, _) in shelf.repositories.items():
            if self.path.startswith(f"/api/models/{repository}/revision/"):
                return self.answer(200, json.dumps(shelf.listing(repository)).encode())
            prefix = f"/{repository}/resolve/{COMMIT}/"
            if self.path.startswith(prefix):
                if shelf.elsewhere:
                    return self.answer(302, b"", {"Location": shelf.elsewhere + self.path})
                return self.file(self.path.removeprefix(prefix), files)
        return self.answer(404, b"")

    def file(self, name, files):
        content = files[name]
        if name in self.server.shelf.altered:
            content = content[::-1]
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        rest = content[start:]
        cut = self.server.shelf.cut_after.get(name, len(rest))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[:cut])
        if cut < len(rest):
            self.close_connection = True

    def answer(self, status, content, headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def serve(shelf):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.shelf = shelf
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def endpoint(shelf):
    server, url = serve(shelf)
    yield url
    server.shutdown()
    server.server_close()


FILES = {
    "config.json": b"{}",
    "modeling.py": b"x = 1\n",
    "model.safetensors": bytes(range(256)) * 4000,
    "pytorch_model.bin": b"pickled",
    ".gitattributes": b"",
    "sub/vocab.txt": b"a\nb\n",
}


def bring(endpoint, folder, repository="org/name", **kwargs):
    source = hub.Hub(endpoint, pause_s=0.01, **kwargs)
    try:
        return hub.fetch_model(source, repository, "", folder, lambda *_: None)
    finally:
        source.close()


def test_a_fetched_model_is_pinned_listed_and_verifies(shelf, endpoint, tmp_path):
    shelf.put("org/name", FILES)
    assert bring(endpoint, tmp_path / "m") == COMMIT
    kept = {p.relative_to(tmp_path / "m").as_posix() for p in (tmp_path / "m").rglob("*.*")}
    assert kept == {"config.json", "modeling.py", "model.safetensors", "sub/vocab.txt"}
    checkpoint.find("m", str(tmp_path / "m")).verify()


def test_a_cut_connection_is_resumed_not_begun_again(shelf, endpoint, tmp_path):
    shelf.put("org/name", FILES)
    shelf.cut_after["model.safetensors"] = 300_000
    bring(endpoint, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    ranges = [h["Range"] for path, h in shelf.requests if "Range" in h]
    assert len(ranges) == 3
    assert int(ranges[0][6:-1]) > 0


def test_a_second_fetch_asks_for_nothing_that_is_there(shelf, endpoint, tmp_path):
    shelf.put("org/name", FILES)
    bring(endpoint, tmp_path)
    shelf.requests.clear()
    bring(endpoint, tmp_path)
    assert [path for path, _ in shelf.requests if "/resolve/" in path] == []


@pytest.mark.parametrize("name", ["model.safetensors", "modeling.py"])
def test_an_altered_file_is_thrown_away(shelf, endpoint, tmp_path, name):
    shelf.put("org/name", FILES)
    shelf.altered.add(name)
    with pytest.raises(ModelFault, match="altered"):
        bring(endpoint, tmp_path)
    assert not (tmp_path / name).exists()
    assert not (tmp_path / f"{name}.part").exists()


def test_passing_faults_are_waited_for_and_lasting_ones_end(shelf, endpoint, tmp_path):
    shelf.put("org/name", FILES)
    source = hub.Hub(endpoint, pause_s=0.01)
    (remote,) = [f for f in source.files("org/name") if f.name == "config.json"]
    shelf.failures = [503, 500, 429]
    source.fetch(remote, tmp_path, lambda *_: None)
    shelf.failures = [503] * 10
    with pytest.raises(Unreachable, match="503"):
        source.fetch(remote, tmp_path / "other", lambda *_: None)
    source.close()


def test_a_gated_model_says_how_to_get_in_and_the_token_stays_at_the_hub(tmp_path, shelf, endpoint):
    storage = Shelf()
    storage.put("org/name", FILES)
    server, url = serve(storage)
    shelf.put("org/name", FILES)
    shelf.elsewhere = url
    shelf.wants_token = "Bearer secret"
    with pytest.raises(Refused, match="HF_TOKEN"):
        bring(endpoint, tmp_path)
    bring(endpoint, tmp_path, token="secret")
    server.shutdown()
    server.server_close()
    assert storage.requests
    assert all("Authorization" not in headers for _, headers in storage.requests)


def test_code_of_another_repository_comes_along(shelf, endpoint, tmp_path):
    config = json.dumps({"auto_map": {"AutoConfig": "other/code--conf.C"}}).encode()
    shelf.put("org/name", {**FILES, "config.json": config})
    shelf.put("other/code", {"conf.py": b"class C: pass\n", "model.safetensors": b"no"})
    bring(endpoint, tmp_path)
    assert (tmp_path / "conf.py").is_file()
    assert "conf.py" in checkpoint.read_listing(tmp_path / checkpoint.SUMS)


def test_a_name_that_leaves_the_folder_is_refused(shelf, endpoint, tmp_path):
    shelf.put("org/name", {"../../evil.py": b"x"})
    with pytest.raises(Exception, match="leaves its folder"):
        bring(endpoint, tmp_path)


def test_the_environment_names_a_mirror(monkeypatch, shelf, endpoint, tmp_path, capsys):
    shelf.put("AIRI-Institute/chexfract-maira2", FILES)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert catalogue.fetch("chexfract-maira2", tmp_path / "m") == 0
    shown = capsys.readouterr().out
    assert "MSRLA" in shown
    assert f'revision = "{COMMIT}"' in shown
    assert 'licence_accepted_by = ""' in shown


def test_models_that_are_nowhere_are_named(shelf, endpoint, tmp_path):
    with pytest.raises(NotFound, match="org/none"):
        catalogue.fetch("org/none", tmp_path, endpoint=endpoint)
    with pytest.raises(NotFound, match="on no hub"):
        catalogue.fetch("llm-cxr", tmp_path, endpoint=endpoint)
    with pytest.raises(NotFound, match="in the catalogue"):
        catalogue.fetch("chexfrct", tmp_path, endpoint=endpoint)
