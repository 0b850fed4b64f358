"""A chat server engine against a real server: the demonstration model through transformers."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from engines import checkpoints
from ports import free_port

from dicom_node.base.errors import Busy, ConfigurationError, ModelFault, Unreachable
from worker.models import Unexplained, generation, open_model

ENGINES = Path(__file__).parents[1] / "engines"
SERVE = ENGINES / "serve.py"
PICTURES = [generation.invented_pixels(384, 320), generation.invented_pixels(300, 400)]


def seen(pixels):
    return types.SimpleNamespace(pixels=pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The demonstration model's files."""
    source = Path(importlib.util.find_spec("worker.phantom").origin).parent / "model"
    target = tmp_path_factory.mktemp("served") / "phantom"
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    (target / "DEMONSTRATION").touch()
    return target


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    env = {**os.environ, "HF_HOME": str(tmp_path_factory.mktemp("hf")), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, str(SERVE), str(folder)], stdout=subprocess.PIPE, text=True, env=env
    )
    port = process.stdout.readline().strip()
    assert port, "the server did not start"
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=10)
    process.stdout.close()


def tell(server, path, content=()):
    request = urllib.request.Request(server + path, json.dumps(content).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def opened(server, **table):
    common = {"engine": "chat_server", "url": f"{server}/v1", "demonstration": True}
    return open_model("served", {**common, "retry_wait": 0.01, **table})


@pytest.fixture
def model(server):
    tell(server, "/faults", [])
    model = opened(server)
    model.load()
    yield model
    model.close()


def test_the_server_says_what_the_model_says_here(model, folder):
    here = open_model("here", {"engine": "chexfract", "path": str(folder)}, "cpu")
    here.load()
    expected = here.describe([seen(p) for p in PICTURES])
    answers = model.describe([seen(p) for p in PICTURES])
    assert [(d.text, d.tokens, d.finish_reason) for d in answers] == [
        (d.text, d.tokens, d.finish_reason) for d in expected
    ]
    assert model.info.version == "served-phantom"
    assert model.info.demonstration


def test_a_batch_is_asked_at_the_same_time_and_stays_in_order(model, server):
    tell(server, "/faults", [])
    calls = []
    pictures = [*PICTURES * 3]
    answers = model.describe([seen(p) for p in pictures], lambda: calls.append(1))
    assert len(calls) == len(pictures)
    assert tell(server, "/most")["most"] > 1
    assert [d.text for d in answers] == [answers[0].text, answers[1].text] * 3


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "text"])
def test_a_passing_fault_is_asked_again(model, server, fault):
    tell(server, "/faults", [fault, fault])
    (answer,) = model.describe([seen(PICTURES[0])])
    assert answer.text


@pytest.mark.parametrize(
    ("fault", "error"),
    [(503, Unreachable), (429, Busy), ("cut", Unreachable), (400, ModelFault)],
)
def test_a_lasting_fault_is_an_error_of_its_kind(model, server, fault, error):
    tell(server, "/faults", [fault] * 3)
    with pytest.raises(error):
        model.describe([seen(PICTURES[0])])


def test_what_would_fail_again_is_asked_once(model, server):
    tell(server, "/faults", [422, "nothing"])
    with pytest.raises(ModelFault, match="422"):
        model.describe([seen(PICTURES[0])])
    with pytest.raises(ModelFault, match="no text"):
        model.describe([seen(PICTURES[0])])


def test_one_refused_picture_fails_the_call_and_none_is_lost(model, server):
    tell(server, "/faults", ["", 413])
    with pytest.raises(ModelFault):
        model.describe([seen(p) for p in PICTURES])
    assert all(d.text for d in model.describe([seen(p) for p in PICTURES]))


def test_a_slow_server_is_given_up_in_time(server):
    model = opened(server, max_time=0.3, attempts=1)
    model.load()
    tell(server, "/faults", ["slow"])
    started = time.monotonic()
    with pytest.raises(Unreachable, match="in time"):
        model.describe([seen(PICTURES[0])])
    assert time.monotonic() - started < 10
    model.close()


def test_a_server_that_is_away_is_unreachable(free_port):
    model = opened(f"http://127.0.0.1:{free_port}", attempts=2)
    with pytest.raises(Unreachable, match=str(free_port)):
        model.load()
    model.close()


def test_a_model_that_is_not_served_is_named(server):
    model = opened(server, served_model="chexfract")
    with pytest.raises(ConfigurationError, match="chexfract; the server has phantom"):
        model.load()
    model.close()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"url": "http://192.0.2.1:8000/v1"}, "allow_remote"),
        ({"url": "ftp://x"}, r"models\.served\.url"),
        ({"demonstration": False}, "licence_accepted_by"),
        ({"api_key_file": "/no/such/file"}, "api_key_file"),
        ({"path": "/somewhere"}, r"models\.served\.path"),
    ],
)
def test_a_wrong_table_is_refused(table, message):
    with pytest.raises(ConfigurationError, match=message):
        opened("http://127.0.0.1:1", **table)


def choice(content, **more):
    return {"choices": [{"message": {"content": content}, **more}]}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (choice([{"type": "text", "text": "No "}, {"type": "text", "text": "fracture."}]), None),
        (
            choice([{"type": "reasoning", "text": "hm"}, {"type": "text", "text": "No fracture."}]),
            None,
        ),
        (choice("No fracture.", finish_reason=None), None),
        (choice("No fracture.") | {"usage": "none"}, None),
        (choice("No fracture.") | {"usage": {"completion_tokens": "many"}}, None),
        (choice("No fracture.\ud800"), "No fracture.\ufffd"),
    ],
)
def test_an_answer_in_other_forms_is_read(model, server, answer, text):
    tell(server, "/faults", [answer])
    (described,) = model.describe([seen(PICTURES[0])])
    assert described.text == (text or "No fracture.")
    assert (described.tokens, described.finish_reason) == (0, "stop")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": None},
        {"choices": ["text"]},
        {"choices": [None]},
        {"choices": [{"message": "text"}]},
        choice(None),
        choice(7),
        choice([{"type": "image_url"}]),
        {"error": {"message": "x"}},
    ],
)
def test_an_answer_without_text_is_the_models_fault(model, server, answer):
    tell(server, "/faults", [answer])
    with pytest.raises(ModelFault, match="no text"):
        model.describe([seen(PICTURES[0])])


@pytest.mark.parametrize("fault", [301, 401, 403, 404, 405])
def test_a_server_that_no_longer_serves_this_model_blames_no_picture(model, server, fault):
    tell(server, "/faults", [fault])
    with pytest.raises(Unreachable, match=str(fault)):
        model.describe([seen(PICTURES[0])])


@pytest.mark.parametrize("fault", [500, "text", "packed"])
def test_what_a_server_cannot_answer_each_time_may_be_the_pictures_fault(model, server, fault):
    tell(server, "/faults", [fault] * 3)
    with pytest.raises(Unexplained):
        model.describe([seen(PICTURES[0])])


def test_each_try_counts_as_progress(model, server):
    tell(server, "/faults", [503, 503])
    calls = []
    model.describe([seen(PICTURES[0])], lambda: calls.append(1))
    assert len(calls) == 3


def test_pixels_for_a_server_on_this_machine_never_go_to_a_proxy(server, monkeypatch, free_port):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    model = opened(server, attempts=1)
    model.load()
    assert model.describe([seen(PICTURES[0])])[0].text
    model.close()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:port/v1", "http://[::1/v1", "http://127.0.0.1:99999/v1"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigurationError, match=r"models\.served\.url"):
        opened("", url=url)


@pytest.mark.parametrize("key", [b"k\xff", "schlüssel".encode(), b"one\ntwo"])
def test_a_key_that_no_header_takes_is_refused(tmp_path, key):
    (tmp_path / "key").write_bytes(key)
    with pytest.raises(ConfigurationError, match="api_key_file") as caught:
        opened("http://127.0.0.1:1", api_key_file=str(tmp_path / "key"))
    assert "schl" not in str(caught.value)


def test_a_run_whose_server_goes_away_ends_and_goes_on_later(tmp_path, server, capsys):
    from worker.cli import main
    from worker.phantom.draw import write_set

    config, out = tmp_path / "worker.toml", tmp_path / "out"
    config.write_text(
        '[worker]\nmodel = "m"\nbatch = 1\n[models.m]\nengine = "chat_server"\n'
        f'url = "{server}/v1"\ndemonstration = true\nattempts = 1\n'
    )
    write_set(2, tmp_path / "images", seed=56)
    images = [str(path) for path in sorted((tmp_path / "images").glob("*.dcm"))]
    command = ["describe", *images, "--out", str(out), "--config", str(config), "--json"]
    tell(server, "/faults", ["", "", *[503] * 20])
    assert main(command) == Unreachable.exit_code
    output = capsys.readouterr()
    assert output.out == ""
    assert "answered 503" in output.err
    assert output.err.count("\n") == 1
    assert len((out / "results.jsonl").read_text().splitlines()) == 1
    tell(server, "/faults", [])
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["described"] == 2


def test_large_pictures_are_made_smaller():
    import base64
    import io

    import numpy as np
    from PIL import Image

    from worker.models.chat_server import _encode_png

    content = base64.b64decode(_encode_png(np.zeros((3000, 1500), np.uint8), 2048))
    assert Image.open(io.BytesIO(content)).size == (1024, 2048)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """The folder of a small model that `transformers serve` knows without remote code."""
    pytest.importorskip("openai", reason="transformers serve needs the package openai")
    pytest.importorskip("transformers.cli.serve", reason="this transformers has no such server")
    return checkpoints.build_llava(tmp_path_factory.mktemp("llava") / "small-llava")


@pytest.fixture(scope="module")
def transformers_serve(llava, tmp_path_factory):
    """The address of a real `transformers serve`."""
    port = free_port()
    env = {**os.environ, "HF_HOME": str(tmp_path_factory.mktemp("hf")), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(ENGINES / "serve_transformers.py"), llava, str(port)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 150
    while not is_up(f"{address}/health"):
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.2)
    yield address
    process.kill()  # asked to end, it would first finish the answer that was given up
    process.wait(timeout=20)


def is_up(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def said_here(folder, pixels):
    """Return what the small model says without any server."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from worker.models.options import ChatServer

    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    prompt = ChatServer.model_fields["prompt"].default
    picture = {"type": "image", "image": generation.picture(pixels)}
    turns = [{"role": "user", "content": [picture, {"type": "text", "text": prompt}]}]
    inputs = processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.filterwarnings("default")
def test_transformers_serve_says_what_its_model_says_here(transformers_serve, llava):
    model = opened(transformers_serve, served_model=str(llava), max_new_tokens=12)
    model.load()
    model.warm_up()
    answers = model.describe([seen(p) for p in PICTURES * 2])
    assert [d.text for d in answers] == [said_here(llava, p).strip() for p in PICTURES * 2]
    assert len({d.text for d in answers}) == len(PICTURES)
    assert {(d.tokens, d.finish_reason) for d in answers} == {(12, "length")}
    assert model.info.version == "served-small-llava"
    model.close()


def test_transformers_serve_refuses_a_model_that_it_does_not_serve(transformers_serve):
    model = opened(transformers_serve, served_model="chexfract")
    with pytest.raises(ConfigurationError, match="chexfract; the server has none"):
        model.load()
    model.close()


def test_transformers_serve_is_given_up_in_time(transformers_serve, llava):
    table = {"served_model": str(llava), "max_new_tokens": 900, "attempts": 1}
    model = opened(transformers_serve, **table, max_time=30.0)
    model.load()
    model._client.timeout = 0.2
    started = time.monotonic()
    with pytest.raises(Unreachable, match="in time"):
        model.describe([seen(PICTURES[0])])
    assert time.monotonic() - started < 5
    model.close()
