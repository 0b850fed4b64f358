"""The worker's own server: a real openai client, curl and another node's engine at its doors."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

import httpx2
import numpy as np
import openai
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ports import free_port
from pydicom import dcmwrite

from dicom_node.base.errors import ChexFractError, ConfigurationError, NotUnderstood, OutOfResources
from worker.cli import main
from worker.image import files
from worker.models import BrokenAccelerator, Description, open_model
from worker.phantom import draw, truth
from worker.service import http, pictures
from worker.settings import Pixels, Serve, Settings

KEY = "a-key-of-some-length"
PROMPT = "Describe bones on this chest X-ray"
DRAWN = [draw.phantom(970_000, index, short_side=256) for index in range(4)]


def png(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def data_url(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class Running:
    """The server in a thread, over the real demonstration model."""

    def __init__(self, pipeline, keys=(), **table):
        self.ended = threading.Event()
        settings = Settings(serve=Serve(**table))
        self.desk = http.PictureDesk(pipeline, settings, self.ended.set)
        app = http.create_app(self.desk, settings, keys)
        port = free_port()
        config = uvicorn.Config(app, "127.0.0.1", port, log_config=None, lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{port}"
        while not self.server.started:
            time.sleep(0.005)

    def close(self):
        self.server.should_exit = True
        self.thread.join(10)
        self.desk.close()

    def client(self, key="none"):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def post(self, path, **body):
        return httpx2.post(f"{self.url}{path}", timeout=30, trust_env=False, **body)


@pytest.fixture(scope="module")
def server(worker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "one.png").write_bytes(png(DRAWN[0].uint8))
    running = Running(worker, allow_urls=(folder.as_uri(),))
    running.folder = folder
    yield running
    running.close()


def turn(url, text=PROMPT):
    parts = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


@pytest.mark.parametrize("index", range(4))
def test_an_openai_client_gets_the_models_answer(server, index):
    drawn = DRAWN[index]
    answer = server.client().chat.completions.create(
        model="phantom", messages=turn(data_url(png(drawn.uint8))), temperature=0
    )
    assert answer.choices[0].message.content == truth.text(drawn.findings)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0
    assert answer.model == "phantom"


def test_an_openai_client_lists_the_model_and_streams(server):
    client = server.client()
    assert [model.id for model in client.models.list()] == ["phantom"]
    pieces = client.chat.completions.create(
        model="phantom", messages=turn(data_url(png(DRAWN[1].uint8))), stream=True
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text == truth.text(DRAWN[1].findings)


def test_another_nodes_engine_is_answered_as_the_model_here(server, worker):
    table = {"engine": "chat_server", "url": f"{server.url}/v1", "licence_accepted_by": "A"}
    there = open_model("served", table)
    there.load()
    try:
        answers = there.describe([SimpleNamespace(pixels=phantom.uint8) for phantom in DRAWN])
    finally:
        there.close()
    assert [answer.text for answer in answers] == [
        truth.text(phantom.findings) for phantom in DRAWN
    ]


def test_curl_gets_what_a_report_would_say(server, tmp_path):
    picture = tmp_path / "image.png"
    drawn = next(phantom for phantom in DRAWN if phantom.findings)
    picture.write_bytes(png(drawn.uint8))
    done = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "-F", f"file=@{picture}",
         f"{server.url}/analyze-fracture"],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer["status"] == "analysed"
    assert answer["fracture_description"] == truth.text(drawn.findings)
    assert answer["presence"] == "present"
    assert len(answer["findings"]) == len(drawn.findings)
    assert answer["model_version"].startswith("0.")
    assert {"model", "total"} <= set(answer["timings"])


def dicom():
    buffer = io.BytesIO()
    dcmwrite(buffer, draw.instance(7, 0), enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "DICOM"])
def test_every_kind_of_file_is_taken_as_it_is_and_as_a_form(server, kind):
    content = dicom() if kind == "DICOM" else png(DRAWN[0].uint8, kind)
    plain = server.post("/analyze-fracture", content=content)
    form = server.post("/analyze-fracture", files={"file": ("a.bin", content)})
    assert plain.status_code == form.status_code == 200
    answers = [answer.json()["fracture_description"] for answer in (plain, form)]
    assert answers[0] == answers[1]
    assert answers[0]
    assert (plain.json()["sop_instance_uid"] is not None) is (kind == "DICOM")


def test_a_refused_dicom_file_says_why(server):
    ds = draw.instance(7, 0)
    ds.BodyPartExamined = "KNEE"
    ds.StudyDescription = "Knee"
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    answer = server.post("/analyze-fracture", content=buffer.getvalue()).json()
    assert answer["status"] == "not analysed"
    assert answer["reason"]["code"]
    assert answer["fracture_description"] is None


def test_requests_that_come_together_are_one_batch(worker):
    """The batch former is held until all four wait, so the test needs no luck."""
    running = Running(worker)
    running.desk.batches.linger_s = 20
    running.desk.batches.expect()  # so that the first waits for the others
    try:
        with ThreadPoolExecutor(4) as pool:
            content = [png(phantom.uint8) for phantom in DRAWN]
            asked = [pool.submit(running.post, "/analyze-fracture", content=c) for c in content]
            while len(running.desk.batches._usual) < 4:
                time.sleep(0.005)
            running.desk.batches.miss()
            answers = [future.result().json()["fracture_description"] for future in asked]
        assert answers == [truth.text(phantom.findings) for phantom in DRAWN]
        assert running.desk.batches.figures.pictures == 4
        assert running.desk.batches.figures.batches == 1
        metrics = httpx2.get(f"{running.url}/metrics", trust_env=False).text
        assert "chexfract_worker_batches_total 1\n" in metrics
        assert 'requests_total{path="/analyze-fracture",status="200"} 4' in metrics
    finally:
        running.close()


GOOD = data_url(png(DRAWN[0].uint8))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "other"}, 404),
        ({"n": 2}, 400),
        ({"temperature": 0.7}, 400),
        ({"messages": []}, 400),
        ({"messages": "x"}, 400),
        ({"messages": [{"role": "user", "content": "no picture"}]}, 400),
        ({"messages": turn(GOOD) + turn(GOOD)}, 400),
        ({"messages": turn(GOOD, "Is it raining?")}, 400),
        ({"messages": turn("data:image/png;base64,!!!")}, 400),
        ({"messages": turn("data:image/png,abc")}, 400),
        ({"messages": turn(data_url(b"no picture"))}, 415),
        ({"messages": turn(data_url(png(DRAWN[0].uint8)[:3000]))}, 415),
        ({"messages": turn(data_url(png(np.zeros((300, 300), np.uint8))))}, 400),
        ({"messages": turn(data_url(png(np.eye(30, dtype=np.uint8))))}, 400),
        ({"messages": turn("http://127.0.0.1:1/a.png")}, 403),
        ({"messages": turn("file:///etc/passwd")}, 403),
        ({"messages": turn("ftp://a/b")}, 400),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, 400),
    ],
)
def test_what_cannot_be_answered_is_refused_in_openais_form(server, change, status):
    body = {"model": "phantom", "messages": turn(GOOD)} | change
    answer = server.post("/v1/chat/completions", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"[" * 200_000, b'{"a": ' + b"9" * 100_000 + b"}", b"\xff\xfe"]
)
def test_a_body_that_is_no_json_object_is_400(server, body):
    assert server.post("/v1/chat/completions", content=body).status_code == 400


@pytest.mark.parametrize("text", ["", PROMPT, f"<|image_1|>\n{PROMPT}?", f" {PROMPT}. "])
def test_the_models_own_prompt_is_known_in_every_spelling(server, text):
    body = {"messages": turn(GOOD, text)}
    assert server.post("/v1/chat/completions", json=body).status_code == 200


def test_files_are_read_from_the_allowed_folder_only(server):
    folder = server.folder
    (folder / "out.png").symlink_to("/etc/hostname")
    good = (folder / "one.png").as_uri()
    statuses = {}
    for url in (
        good,
        good.replace("one.png", "none.png"),
        good.replace("one.png", "../one.png"),
        good.replace("one.png", "%2e%2e/one.png"),
        folder.as_uri() + "x/one.png",
        (folder / "out.png").as_uri(),
    ):
        answer = server.post("/v1/chat/completions", json={"messages": turn(url)})
        statuses[url.rpartition(folder.name)[2]] = answer.status_code
    assert list(statuses.values()) == [200, 400, 403, 403, 403, 403]


def test_keys_limits_and_slow_bodies(worker):
    """Without a key nothing but the health is answered; large and slow bodies end early."""
    running = Running(worker, (KEY,), most_bytes=1_000_000, body_timeout=0.4)
    try:
        assert httpx2.get(f"{running.url}/healthz", trust_env=False).status_code == 200
        for path in ("/metrics", "/v1/models"):
            assert httpx2.get(f"{running.url}{path}", trust_env=False).status_code == 401
        with pytest.raises(openai.AuthenticationError):
            running.client("wrong").models.list()
        assert next(iter(running.client(KEY).models.list())).id == "phantom"
        bearer = {"Authorization": f"Bearer {KEY}"}
        large = running.post("/analyze-fracture", content=b"x" * 1_000_001, headers=bearer)
        assert large.status_code == 413
        chunks = iter([b"x" * 600_000] * 2)
        assert running.post("/analyze-fracture", content=chunks, headers=bearer).status_code == 413
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as slow:
            head = f"POST /analyze-fracture HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
            slow.sendall(f"{head}Content-Length: 100\r\n\r\nabc".encode())
            slow.settimeout(20)
            assert b" 408 " in slow.recv(1000)
    finally:
        running.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("", 403),
    ],
)
def test_without_keys_only_this_machines_names_are_answered(server, host, status):
    answer = httpx2.get(f"{server.url}/v1/models", headers={"Host": host}, trust_env=False)
    assert answer.status_code == status


def test_beyond_this_machine_a_key_is_wanted(tmp_path, capsys):
    assert main(["serve", "--host", "0.0.0.0"]) == ConfigurationError.exit_code
    assert "serve.keys_file" in capsys.readouterr().err
    short = tmp_path / "keys"
    for content in ("", "# none\n", "short\n"):
        short.write_text(content)
        assert main(["serve", "--keys-file", str(short)]) == ConfigurationError.exit_code
    assert main(["serve", "--port", "0"]) == ConfigurationError.exit_code
    short.write_text(f"# of the reading room\n{KEY}\n")
    assert http.read_keys(Serve(host="0.0.0.0", keys_file=short)) == (KEY,)


class Faulty:
    """A pipeline whose model has trouble."""

    def __init__(self, pipeline, fault):
        self._pipeline, self._fault = pipeline, fault

    def __getattr__(self, name):
        return getattr(self._pipeline, name)

    def describe(self, cases, progress=None):
        for case in cases:
            if isinstance(self._fault, ChexFractError):
                case.trouble = self._fault
            else:
                raise self._fault


@pytest.mark.parametrize(
    ("fault", "status", "ends"),
    [
        (OutOfResources("full"), 507, False),
        (RuntimeError("a bug"), 500, False),
        (BrokenAccelerator("lost"), 503, True),
    ],
)
def test_the_models_trouble_is_a_status_that_says_whether_to_come_back(worker, fault, status, ends):
    running = Running(Faulty(worker, fault))
    try:
        answer = running.post("/v1/chat/completions", json={"messages": turn(GOOD)})
        assert answer.status_code == status
        assert "a bug" not in answer.text
        assert running.ended.wait(5 if ends else 0) is ends
        assert running.desk.waiting == 0
    finally:
        running.close()


def test_an_answer_cut_off_is_told_as_length(worker):
    """OpenAI's form knows no time limit; clients understand `length`."""

    class Cut(Faulty):
        def describe(self, cases, progress=None):
            for case in cases:
                case.description = Description("Fracture of the", 9, "time", 0.1)

    running = Running(Cut(worker, None))
    try:
        answer = running.client().chat.completions.create(model="phantom", messages=turn(GOOD))
        assert answer.choices[0].finish_reason == "length"
    finally:
        running.close()


def test_more_than_may_wait_are_sent_away(worker):
    running = Running(worker, waiting=1)
    running.desk.waiting = 1
    try:
        answer = running.post("/analyze-fracture", content=png(DRAWN[0].uint8))
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
    finally:
        running.close()


# --- parsing


@given(st.binary(max_size=300), st.text(max_size=60))
def test_no_body_breaks_the_form_reader(body, kind):
    for content_type in (kind, "multipart/form-data; boundary=b"):
        with suppress(NotUnderstood):
            assert isinstance(pictures.file_part(body, content_type), bytes)


@pytest.mark.parametrize(
    "piece", [b"--b", b"\r\n--b\r\n", b"--b\r\n\r\n", b'--b\r\nfilename="', b"\r\n\r\n", b"-"]
)
def test_forms_are_read_in_linear_time(piece):
    began = time.perf_counter()
    with suppress(NotUnderstood):
        pictures.file_part(piece * (4_000_000 // len(piece)), "multipart/form-data; boundary=b")
    assert time.perf_counter() - began < 2


def test_a_picture_file_is_the_same_picture_by_every_way(server, worker):
    wide = (DRAWN[0].uint8.astype(np.uint16) << 4) + 3
    content = png(wide)
    case = worker.prepare_file(content)
    expected = files.picture(content, Pixels())
    assert np.array_equal(case.radiograph.pixels, expected.pixels)
    assert case.radiograph.steps == expected.steps
    answer = server.post("/analyze-fracture", content=content).json()
    assert set(expected.warnings) <= set(answer["warnings"])


def test_a_picture_that_is_too_small_is_answered_with_its_reason(server):
    answer = server.post("/analyze-fracture", content=png(DRAWN[0].uint8[:100]))
    assert answer.status_code == 200
    assert answer.json()["reason"]["code"] == "too-small"
