"""Fetching from a server with a hub's file endpoints: pins, resumes, verifies, keeps the token."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dicom_node.base.errors import ModelFault, NotFound, NotUnderstood, Refused, Unreachable
from worker.cli import main
from worker.models import catalogue, checkpoint, hub
from worker.models.checkpoint import Unacceptable

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
        self.sizes = {}
        self.commits = {}

    def put(self, repository, files, large=("model.safetensors",)):
        self.repositories[repository] = (files, large)

    def listing(self, repository):
        files, large = self.repositories[repository]
        siblings = []
        for name, content in files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            size = self.sizes.get(name, len(content))
            entry = {"rfilename": name, "size": size, "blobId": blob}
            if name in large:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": size, "sha256": sha256}
            if size is None:
                entry.pop("lfs", None)
                del entry["size"]
            siblings.append(entry)
        return {"sha": self.commits.get(repository, COMMIT), "siblings": siblings}


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
            prefix = f"/{repository}/resolve/{shelf.commits.get(repository, COMMIT)}/"
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


def bring(endpoint, folder, repository="org/name", revision="", pins=None, manifest="", **kwargs):
    source = hub.Hub(endpoint, pause_s=0.01, **kwargs)
    try:
        return hub.fetch_model(
            source, repository, revision, folder, lambda *_: None, pins, manifest
        )
    finally:
        source.close()


def test_a_fetched_model_is_pinned_listed_and_verifies(shelf, endpoint, tmp_path):
    shelf.put("org/name", FILES)
    assert bring(endpoint, tmp_path / "m") == {"org/name": COMMIT}
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


def test_the_token_never_goes_over_plain_http_to_a_hub_of_https(tmp_path, shelf, endpoint):
    source = hub.Hub("https" + endpoint.removeprefix("http"), token="secret")
    assert not source._is_own(endpoint + "/api")
    assert source._is_own(source.endpoint + "/api")
    source.close()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_is_longer_than_promised_is_given_up(shelf, endpoint, tmp_path, name):
    shelf.put("org/name", FILES)
    shelf.sizes[name] = len(FILES[name]) - 1
    with pytest.raises(ModelFault, match=f"{name} arrived altered"):
        bring(endpoint, tmp_path)
    assert not (tmp_path / f"{name}.part").exists()


def test_a_hub_that_tells_no_sizes_is_not_understood(shelf, endpoint, tmp_path):
    shelf.put("org/name", FILES)
    shelf.sizes["config.json"] = None
    with pytest.raises(NotUnderstood, match="does not answer as a hub does"):
        bring(endpoint, tmp_path)


def test_what_the_hub_does_not_have_is_not_put_on_the_list(shelf, endpoint, tmp_path):
    shelf.put("org/name", FILES)
    (tmp_path / "stale.py").write_text("x = 2\n")
    with pytest.raises(Unacceptable, match=r"stale\.py is not on the list"):
        bring(endpoint, tmp_path)
    (tmp_path / "stale.py").unlink()
    assert bring(endpoint, tmp_path) == {"org/name": COMMIT}


@pytest.mark.parametrize("config", [b"[]", b"{", b'{"auto_map": ["x"]}', b'{"auto_map": {"A": 7}}'])
def test_a_configuration_of_another_form_names_no_other_repository(
    shelf, endpoint, tmp_path, config
):
    shelf.put("org/name", {**FILES, "config.json": config})
    assert bring(endpoint, tmp_path) == {"org/name": COMMIT}


def fetched(capsys, *arguments):
    capsys.readouterr()
    code = main(["model", "fetch", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_fetch_is_told_as_json(shelf, endpoint, tmp_path, capsys):
    shelf.put("microsoft/maira-2", FILES)
    code, out, _ = fetched(
        capsys, "maira-2", "--to", tmp_path / "m", "--endpoint", endpoint, "--json"
    )
    printed = json.loads(out)
    assert (code, printed["revision"], printed["repository"]) == (0, COMMIT, "microsoft/maira-2")
    assert printed["folder"] == str(tmp_path / "m")
    assert tomllib.loads(printed["table"])["models"]["maira-2"]["revision"] == COMMIT
    sums = (tmp_path / "m" / checkpoint.SUMS).read_bytes()
    assert printed["manifest_sha256"] == hashlib.sha256(sums).hexdigest()


@pytest.mark.parametrize(
    ("variables", "address", "words"),
    [
        ({}, "hub.example", "endpoint"),
        ({}, "http://[::1", "endpoint"),
        ({}, "ftp://hub.example", "endpoint"),
        ({}, "http://127.0.0.1:port", "endpoint"),
        ({"HF_TOKEN": "Schlüssel"}, "http://127.0.0.1:1", "HF_TOKEN"),
        ({"ALL_PROXY": "nonsense://x"}, "http://127.0.0.1:1", "proxy"),
    ],
)
def test_a_wrong_address_token_or_proxy_is_one_line(
    tmp_path, capsys, monkeypatch, variables, address, words
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, out, err = fetched(capsys, "maira-2", "--to", tmp_path / "m", "--endpoint", address)
    assert (code, out) == (os.EX_CONFIG, "")
    assert err.count("\n") == 1
    assert words in err
    assert "Schl" not in err


def test_a_place_that_is_no_folder_is_one_line(shelf, endpoint, tmp_path, capsys):
    shelf.put("microsoft/maira-2", FILES)
    (tmp_path / "m").write_text("a file")
    code, _, err = fetched(capsys, "maira-2", "--to", tmp_path / "m", "--endpoint", endpoint)
    assert code == os.EX_CONFIG
    assert err.count("\n") == 1
    assert "--to" in err


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


def test_encoders_that_the_code_loads_by_name_are_fetched_too(shelf, endpoint, tmp_path, caplog):
    config = {
        "visual": {"vision_model_name_or_path": "org/encoder"},
        "mm_vision_tower": "org/gone",
        "_name_or_path": "org/itself",
        "architectures": ["A/B"],
    }
    code = b"x = Tower.from_pretrained('org/tower')\n"
    shelf.put("org/name", FILES | {"config.json": json.dumps(config).encode(), "modeling.py": code})
    shelf.put("org/encoder", FILES)
    shelf.put("org/tower", FILES)
    bring(endpoint, tmp_path / "m")
    kept = {p.relative_to(tmp_path / "m").as_posix() for p in (tmp_path / "m").rglob("config.json")}
    assert kept == {
        "config.json",
        "satellites/org--encoder/config.json",
        "satellites/org--tower/config.json",
    }
    checkpoint.find("m", str(tmp_path / "m")).verify()
    assert "org/gone" in caplog.text
    asked = [path for path, _ in shelf.requests if "itself" in path or "A/B" in path]
    assert asked == []


OTHER, THIRD = "1" * 40, "2" * 40


@pytest.fixture
def three(shelf):
    """A model whose code is another repository's and whose encoder is a third one's."""
    config = {"auto_map": {"AutoConfig": "other/code--conf.C"}, "vision_tower": "org/encoder"}
    shelf.put("org/name", {**FILES, "config.json": json.dumps(config).encode()})
    shelf.put("other/code", {"conf.py": b"class C: pass\n"})
    shelf.put("org/encoder", FILES)
    shelf.commits |= {"other/code": OTHER, "org/encoder": THIRD}
    return {"org/name": COMMIT, "other/code": OTHER, "org/encoder": THIRD}


def asked_of(shelf):
    return {path.split("/revision/")[1].split("?")[0] for path, _ in shelf.requests
            if "/revision/" in path}  # fmt: skip


def test_every_repository_whose_code_runs_is_pinned(shelf, endpoint, tmp_path, three):
    assert bring(endpoint, tmp_path) == three
    lines = (tmp_path / hub.REVISIONS).read_text().splitlines()
    assert {line.split("  ")[1]: line.split("  ")[0] for line in lines} == three
    shelf.requests.clear()
    assert bring(endpoint, tmp_path) == three
    assert asked_of(shelf) == {COMMIT, OTHER, THIRD}


def test_a_pin_wins_and_a_hub_that_gives_another_commit_is_refused(
    shelf, endpoint, tmp_path, three
):
    pins = {"other/code": OTHER}
    bring(endpoint, tmp_path, pins=pins)
    assert asked_of(shelf) == {"main", OTHER}
    shelf.commits["other/code"] = "3" * 40
    with pytest.raises(ModelFault, match="gives another"):
        bring(endpoint, tmp_path / "m", pins=pins)


def test_a_hub_that_names_no_commit_is_not_understood(shelf, endpoint, tmp_path):
    shelf.put("org/name", FILES)
    shelf.commits["org/name"] = "main"
    with pytest.raises(NotUnderstood, match="no commit"):
        bring(endpoint, tmp_path)


@pytest.mark.parametrize("address", ["http://hub.example", "http://192.0.2.7:8080"])
def test_code_is_taken_over_https_only(tmp_path, capsys, address):
    code, _, err = fetched(capsys, "maira-2", "--to", tmp_path / "m", "--endpoint", address)
    assert code == os.EX_CONFIG
    assert "not HTTPS" in err


def test_a_redirect_to_plain_http_elsewhere_is_refused(shelf, endpoint, tmp_path):
    shelf.put("org/name", FILES)
    shelf.elsewhere = "http://hub.example"
    with pytest.raises(Refused, match="not HTTPS"):
        bring(endpoint, tmp_path)


def test_a_list_from_elsewhere_is_compared_with_what_came(shelf, endpoint, tmp_path, capsys):
    shelf.put("microsoft/maira-2", FILES)
    to, sums = tmp_path / "m", tmp_path / "sums"
    given = ("maira-2", "--to", to, "--endpoint", endpoint)
    assert fetched(capsys, *given)[0] == 0
    sums.write_bytes((to / checkpoint.SUMS).read_bytes())
    assert fetched(capsys, *given, "--manifest", sums)[0] == 0
    sums.write_text(sums.read_text().replace("modeling.py", "modelling.py"))
    code, _, err = fetched(capsys, *given, "--manifest", sums)
    assert code == os.EX_CONFIG
    assert "modelling.py" in err
    code, _, err = fetched(capsys, *given, "--pin", "other/code=main")
    assert code == os.EX_CONFIG
    assert "--pin" in err
