"""Workers tell nodes their model's card and their device; pages show it, as text only."""

from __future__ import annotations

import html
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pages
import pytest
from serving import SECRET, Api, serving

from dicom_node.base.errors import NotFound, Refused, Unreachable
from dicom_node.base.job import Batches, Card, Device, Measured, WorkerHeartbeat
from dicom_node.web import board
from dicom_node.web import workers as of_workers
from dicom_node.web.workers import Workers
from worker.models import ModelInfo, open_model
from worker.service import heartbeat, tasks
from worker.service.node import NodeClient

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


def presence(worker: str = "gpu-host:4711", **card: Any) -> WorkerHeartbeat:
    values: dict[str, Any] = {
        "name": "chexfract-maira2", "version": "maira2-1.abcd", "licence": "MSRLA",
        "licence_accepted_by": "Dr. Example", "parameters": {"decode": "greedy"},
        "measured": (Measured(on="phantoms", count=7, shares={"exact": 0.987}),),
    }  # fmt: skip
    device = Device(name="NVIDIA H200", memory=141 << 30, used=20 << 30, load=0.37)
    return WorkerHeartbeat(
        worker=worker, card=Card(**(values | card)), device=device, busy=2, done=5
    )


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path, sign_in=False) as running:
        yield running


def tell(api: Api, heard: WorkerHeartbeat, secret: str = SECRET) -> None:
    with NodeClient(api.url, secret) as node:
        node.announce(heard)


def page(api: Api, path: str) -> str:
    return html.unescape(httpx2.get(api.url + path, trust_env=False, timeout=20).text)


def test_a_worker_that_tells_of_itself_is_on_the_pages(api: Api) -> None:
    tell(api, presence())
    text = page(api, "/models")
    for word in ("MSRLA", "Dr. Example", "greedy", "98.7 %", "gpu-host:4711", "2 in work"):
        assert word in text
    tile = page(api, "/")
    for word in ("NVIDIA H200", "37 % busy", "21 GB of 151 GB in use"):
        assert word in tile


def test_how_full_batches_are_is_on_the_page_and_in_the_metrics(api: Api) -> None:
    batches = Batches(limit=8, count=4, pictures=30, last=(8, 8, 8, 6), fill=0.938, busy=0.97)
    tell(api, presence().model_copy(update={"batches": batches}))
    tell(api, presence("older:1"))
    text = page(api, "/models")
    for word in ("4 batches, 7.5 pictures each", "8, 8, 8, 6", "94 % full", "busy 97 %"):
        assert word in text
    counts = page(api, "/metrics")
    which = '{model="chexfract-maira2",worker="gpu-host:4711"}'
    for line in ("batches_total{} 4.0", "pictures_total{} 30.0", "batch_limit{} 8.0",
                 "batch_fill{} 0.938", "model_busy{} 0.97"):  # fmt: skip
        assert f"chexfract_worker_{line.replace('{}', which)}" in counts
    assert "older:1" not in counts


def test_only_who_knows_the_secret_may_tell(api: Api) -> None:
    with pytest.raises(Refused):
        tell(api, presence(), "another secret")
    assert "gpu-host" not in page(api, "/models")


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"worker": "' + b"x" * 200 + b'"}'])
def test_what_is_no_presence_is_refused(api: Api, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    answer = httpx2.post(f"{api.url}/workers", content=body, headers=headers, trust_env=False)
    assert answer.status_code == 422


def test_a_number_that_no_page_can_show_is_refused(api: Api) -> None:
    """Pages and metrics divide it; they could not be shown while it is remembered."""
    batches = Batches(limit=8, count=4, pictures=30)
    text = presence().model_copy(update={"batches": batches}).model_dump_json()
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    codes = {}
    with httpx2.Client(base_url=api.url, headers=headers, trust_env=False, timeout=30) as http:
        for key in ("memory", "used", "busy", "done", "count", "pictures", "limit"):
            body = re.sub(rf'("{key}":)\d+', rf"\g<1>{'9' * 400}", text)
            codes[key] = http.post("/workers", content=body).status_code
        assert http.post("/workers", content=text).status_code == 200
    assert set(codes.values()) == {422}, codes


def test_hostile_words_of_a_worker_stay_words(api: Api) -> None:
    fields = {"name": HOSTILE, "version": HOSTILE[:64], "licence": HOSTILE, "prompt": HOSTILE}
    hostile = presence(HOSTILE, **fields, parameters={HOSTILE: HOSTILE})
    hostile = hostile.model_copy(update={"device": Device(name=HOSTILE)})
    tell(api, hostile)
    for path in ("/", "/models"):
        text = httpx2.get(api.url + path, trust_env=False).text
        assert "<script>alert" not in text
        assert "onerror=alert(1)>" not in text
        assert html.escape(HOSTILE)[:20] in text.replace("&#34;", "&quot;")


def test_a_worker_that_fell_silent_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Workers()
    known.note(presence("a"))
    known.note(presence("b"))
    assert [one.is_here for one in known.seen()] == [True, True]
    now = time.monotonic()
    monkeypatch.setattr(of_workers.time, "monotonic", lambda: now + of_workers.HERE_S + 1)
    known.note(presence("b"))
    assert [(one.presence.worker, one.is_here) for one in known.seen()] == [
        ("b", True), ("a", False),
    ]  # fmt: skip
    monkeypatch.setattr(of_workers.time, "monotonic", lambda: now + of_workers.FORGET_S + 1)
    assert [one.presence.worker for one in known.seen()] == ["b"]


def test_a_flood_of_names_is_bounded() -> None:
    known = Workers()
    for number in range(1000):
        known.note(presence(f"w{number}"))
    assert len(known.seen()) == of_workers._MOST


def test_the_tile_warns_where_no_worker_is(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "FRESH_S", 0.0)
    assert "images wait until one starts" in page(api, "/")
    pages.keep(api, b"\0" * 128 + b"DICM", pages.route())
    pages.reported(api, pages.claimed(api))
    assert "gpu-host:4711" in page(api, "/")  # an older worker, which tells nothing


# The worker's side


def test_the_shipped_model_has_a_card_with_what_was_measured() -> None:
    model = open_model("phantom", {"engine": "chexfract", "path": "builtin:phantom"})
    card = heartbeat.card(model.info)
    assert card.demonstration
    drawn = card.measured[0]
    assert (drawn.on, drawn.count) == ("drawn phantoms, as drawn", 1000)
    assert 0.9 < drawn.shares["text letter for letter"] <= 1
    readme = (Path(heartbeat.__file__).parents[1] / "phantom" / "model" / "README.md").read_text()
    (row,) = [line for line in readme.splitlines() if line.startswith("| as drawn | 1000")]
    assert f"| {drawn.shares['text letter for letter'] * 100:.1f} |" in row


def test_other_weights_do_not_inherit_the_figures() -> None:
    info = ModelInfo("other", "other-1", "", {"weights": "0" * 16}, demonstration=True)
    assert heartbeat.card(info).measured == ()


def program(folder: Path, answer: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an nvidia-smi on PATH that keeps its arguments and answers as the real one does."""
    script = folder / "nvidia-smi"
    script.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\n{answer}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "asked"


def test_a_card_is_told_by_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = program(tmp_path, "echo 'NVIDIA H200, 143771, 1024, 37'", monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device = heartbeat.device("cuda:1")
    assert device == Device(name="NVIDIA H200", memory=143771 << 20, used=1024 << 20, load=0.37)
    assert asked.read_text().startswith("-i 1 ")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    heartbeat.device("cuda")
    assert asked.read_text().startswith("-i GPU-a ")


@pytest.mark.parametrize("answer", ["exit 9", "echo nothing", "echo 'Tesla, [N/A], 1, 2'"])
def test_a_driver_that_cannot_tell_leaves_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    program(tmp_path, answer, monkeypatch)
    assert heartbeat.device("cuda:0") == Device(name="cuda:0")


def test_a_card_that_does_not_know_its_load_is_told_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "echo 'NVIDIA H200 MIG 1g.18gb, 16384, 12, [N/A]'", monkeypatch)
    assert heartbeat.device("cuda:0").load is None


def test_processors_are_told_where_there_is_no_card() -> None:
    device = heartbeat.device("cpu")
    assert device.name.startswith(f"{os.cpu_count()} x ")
    assert 0 < device.used < device.memory


class Stops(Exception):
    """Ends the loop that never ends."""


@pytest.mark.parametrize(
    ("fault", "pause"),
    [(None, tasks.ANNOUNCE_S), (Unreachable("away"), tasks.ANNOUNCE_S / 10),
     (NotFound("an older node"), tasks.ANNOUNCE_S), (ValueError("odd"), tasks.ANNOUNCE_S)],
)  # fmt: skip
def test_a_worker_tells_again_and_again_whatever_happens(
    fault: Exception | None, pause: float
) -> None:
    heard, waits = [], []

    class Listening:
        def announce(self, presence: WorkerHeartbeat) -> None:
            heard.append(presence)
            if fault:
                raise fault

    class Desk:
        def nodes(self) -> list[Listening]:
            return [Listening()]

        def presence(self) -> str:
            return "here"

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise Stops

    with pytest.raises(Stops):
        tasks.announce(Desk(), wait)  # type: ignore[arg-type]
    assert heard == ["here"] * 3
    assert waits == [pause] * 3


def test_a_worker_beside_a_node_is_told_where_it_is() -> None:
    from dicom_node.run.supervisor import _worker_child
    from dicom_node.settings import Settings, Web

    web = Web(url="http://127.0.0.1:8080")
    child = _worker_child(Path("worker.toml"), "redis://x", True, "s" * 20, Settings(web=web))
    nodes = child.environment["CHEXFRACT_WORKER_WORKER__ANNOUNCE"]
    assert json.loads(nodes) == ["http://127.0.0.1:8080"]
