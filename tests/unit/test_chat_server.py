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
import urllib.request
from pathlib import Path

import pytest

from dicom_node.errors import Busy, ConfigurationError, ModelFault, Unreachable
from worker.models import generation, open_model

SERVE = Path(__file__).parents[1] / "engines" / "serve.py"
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
    told = model.describe([seen(p) for p in PICTURES])
    assert [(d.text, d.tokens, d.finish_reason) for d in told] == [
        (d.text, d.tokens, d.finish_reason) for d in expected
    ]
    assert model.info.version == "served-phantom"
    assert model.info.demonstration


def test_a_batch_is_asked_at_the_same_time_and_stays_in_order(model, server):
    tell(server, "/faults", [])
    calls = []
    pictures = [*PICTURES * 3]
    told = model.describe([seen(p) for p in pictures], lambda: calls.append(1))
    assert len(calls) == len(pictures)
    assert tell(server, "/most")["most"] > 1
    assert [d.text for d in told] == [told[0].text, told[1].text] * 3


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "text"])
def test_a_passing_fault_is_asked_again(model, server, fault):
    tell(server, "/faults", [fault, fault])
    (told,) = model.describe([seen(PICTURES[0])])
    assert told.text


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


def test_large_pictures_are_made_smaller():
    import base64
    import io

    import numpy as np
    from PIL import Image

    from worker.models.chat_server import _png

    content = base64.b64decode(_png(np.zeros((3000, 1500), np.uint8), 2048))
    assert Image.open(io.BytesIO(content)).size == (1024, 2048)
