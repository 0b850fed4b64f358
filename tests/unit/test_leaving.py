"""What leaves for an outside model: read at a real receiver by code of its own, not by ours."""

from __future__ import annotations

import base64
import json
import logging
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from reports import as_bytes

from worker.image.decode import Decoder
from worker.image.leaving import find_text_in
from worker.models import open_model
from worker.phantom.draw import instance
from worker.pipeline import Pipeline
from worker.settings import Pixels

SECRETS = {
    "PatientName": "Secret^Person",
    "PatientID": "PID-4711",
    "AccessionNumber": "ACC-0815",
    "InstitutionName": "Hospital of Nowhere",
    "StudyDescription": "Chest of somebody",
    "StationName": "ROOM-9",
    "PatientBirthDate": "19600102",
}


class Receiver(BaseHTTPRequestHandler):
    """Keeps every byte that it gets, and answers as a chat server does."""

    protocol_version = "HTTP/1.1"
    got: list[tuple[str, bytes, bytes]]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "m"}]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, bytes(self.headers), body))
        said = {"message": {"content": "No rib fracture."}, "finish_reason": "stop"}
        self._answer({"choices": [said]})

    def _answer(self, content: Any) -> None:
        self.got.append((self.path, bytes(self.headers), b""))
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, bytes, bytes]]]]:
    handler = type("Own", (Receiver,), {"got": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", handler.got
    server.shutdown()
    server.server_close()


def radiograph(letters: str = "", burned_in: str = "NO") -> Dataset:
    ds = instance(0, 1, ())
    for keyword, value in SECRETS.items():
        setattr(ds, keyword, value)
    ds.BurnedInAnnotation = burned_in
    if letters:
        pixels = np.frombuffer(ds.PixelData, "<u2").reshape(ds.Rows, ds.Columns).copy()
        drawn = Image.new("L", (ds.Columns, ds.Rows))
        ImageDraw.Draw(drawn).text((40, 40), letters, fill=255, font_size=28)
        pixels[np.asarray(drawn) > 128] = pixels.max()
        ds.PixelData = pixels.tobytes()
    return ds


def described(url: str, ds: Dataset, **table: str) -> Any:
    common = {"engine": "chat_server", "url": url, "demonstration": True, "attempts": 1}
    model = open_model("away", {**common, **table})
    model.load()
    with Decoder() as decoder:
        pipeline = Pipeline(model, decoder, Pixels())
        case = pipeline.prepare(as_bytes(ds))
        pipeline.describe([case])
    model.close()
    return case


# The second piece of code: it knows HTTP, JSON and PNG, and nothing of the project.

ALLOWED_HEADERS = {
    "host", "accept", "accept-encoding", "connection", "user-agent", "content-length",
    "content-type",
}  # fmt: skip
ALLOWED_KEYS = {
    "model", "messages", "role", "content", "type", "image_url", "url", "text", "temperature",
    "max_tokens", "stream",
}  # fmt: skip


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(keys_of, value))
    return set()


def chunks_of(png: bytes) -> list[str]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, []
    while at < len(png):
        length, name = struct.unpack(">I4s", png[at : at + 8])
        content = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length :][:4])[0] == zlib.crc32(name + content)
        found.append(name.decode())
        at += 12 + length
    assert at == len(png), "bytes behind the end of the picture"
    return found


def check_nothing_but_picture_and_prompt(
    got: list[tuple[str, bytes, bytes]], prompt: str, words: list[str]
) -> int:
    """Look through everything that arrived; return how many pictures there were."""
    pictures = 0
    for path, headers, body in got:
        assert path in ("/v1/models", "/v1/chat/completions")
        names = {line.split(b":")[0].decode().lower() for line in headers.splitlines() if line}
        assert names <= ALLOWED_HEADERS
        pieces = [path.encode(), headers, body]
        if body:
            content = json.loads(body)
            assert keys_of(content) <= ALLOWED_KEYS
            (turn,) = content["messages"]
            picture, text = turn["content"]
            assert text == {"type": "text", "text": prompt}
            kind, _, encoded = picture["image_url"]["url"].partition(",")
            assert kind == "data:image/png;base64"
            png = base64.b64decode(encoded, validate=True)
            assert set(chunks_of(png)) == {"IHDR", "IDAT", "IEND"}
            pieces += [png]
            pictures += 1
        for piece in pieces:
            for word in words:
                assert word.encode() not in piece
                assert word.encode("utf-16-le") not in piece
            assert not re.search(rb"\b[0-2]\.\d+\.\d+\.\d+\.\d+\.\d+", piece), "a UID"
    return pictures


def test_nothing_but_picture_and_prompt_leaves(receiver: Any, caplog: Any) -> None:
    """The whole request is searched for names and UIDs, and so is the log."""
    url, got = receiver
    caplog.set_level(logging.DEBUG)
    ds = radiograph()
    case = described(url, ds, prompt="Describe the fractures.")
    assert case.description.text == "No rib fracture."
    uids = [str(ds[name].value) for name in
            ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")]  # fmt: skip
    words = [*SECRETS.values(), *uids]
    assert check_nothing_but_picture_and_prompt(got, "Describe the fractures.", words) == 1
    for word in words:
        assert word not in caplog.text


@pytest.mark.parametrize(
    ("letters", "burned_in", "why"),
    [("PERSON, SECRET 02.01.1960", "NO", "text in the picture"), ("", "YES ", "Burned In")],
)
def test_a_picture_with_text_is_sent_with_a_warning_or_refused(
    receiver: Any, letters: str, burned_in: str, why: str, caplog: Any
) -> None:
    url, got = receiver
    ds = radiograph(letters, burned_in)
    case = described(url, ds)
    assert any(why in warning for warning in case.radiograph.warnings)
    assert case.description is not None
    assert why in caplog.text
    assert ds.SOPInstanceUID not in caplog.text
    got.clear()
    case = described(url, ds, outside="refuse")
    assert case.reason.code == "text-in-picture"
    assert why in case.reason.text
    assert not any(body for _, _, body in got)


def test_a_picture_without_text_is_sent_where_text_is_refused(receiver: Any) -> None:
    url, got = receiver
    case = described(url, radiograph(), outside="refuse")
    assert case.reason is None
    assert not case.radiograph.warnings
    assert any(body for _, _, body in got)


def test_a_header_alone_is_enough_and_its_absence_is_no_fault() -> None:
    flat = np.zeros((300, 300), np.uint8)
    assert find_text_in(None, flat) == ""
    assert find_text_in(Dataset(), flat) == ""
    ds = Dataset()
    ds.BurnedInAnnotation = "yes"
    assert "Burned In" in find_text_in(ds, flat)


def test_a_model_here_is_asked_about_pictures_with_text(tmp_path: Any) -> None:
    """Nothing leaves this process, so nothing is looked for."""
    model = open_model("phantom", {"engine": "chexfract", "path": "builtin:phantom"}, "cpu")
    assert model.info.outside == ""
