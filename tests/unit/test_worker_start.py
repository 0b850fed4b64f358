"""A model without a worker: where the last one ran, since when, and the button that starts one."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx2
import pages
import pytest
from serving import Api, serving
from stations import wait_for

from dicom_node import running
from dicom_node.base.errors import Unreachable
from dicom_node.base.job import Card, Device, WorkerHeartbeat
from dicom_node.running import ServedWorker
from dicom_node.web import workers as of_workers
from dicom_node.web.worker_start import missing_workers
from dicom_node.web.workers import Workers

RULES = [{"name": "all", "match": {"modality": ["DX"]}, "allow_demonstration": True}]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setattr(of_workers, "YOUNG_S", 0.0)  # no worker is on its way to tell
    with serving(tmp_path, sign_in=False, rules=RULES) as found:
        yield found


@pytest.fixture
def client(api: Api) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, trust_env=False, timeout=30) as found:
        yield found


@contextmanager
def serve_holds(folder: Path, served: ServedWorker | None = None) -> Iterator[list[int]]:
    """Be the `serve` of a data folder; yield the signals that reach it."""
    heard: list[int] = []

    def hear(number: int, _frame: FrameType | None) -> None:
        heard.append(number)

    before = signal.signal(running.ASK_WORKER, hear)
    with (folder / "serve.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(json.dumps({"pid": os.getpid()}))
        held.flush()
        if served is not None:
            running.tell_worker(folder, served)
        try:
            yield heard
        finally:
            signal.signal(running.ASK_WORKER, before)


def heartbeat(worker: str, model: str = "phantom") -> WorkerHeartbeat:
    card = Card(name=model, version="1")
    return WorkerHeartbeat(worker=worker, card=card, device=Device(name="cpu"))


def test_the_last_worker_is_named_with_its_host(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    pages.keep(api, b"\0" * 128 + b"DICM", pages.route())
    seen = Workers()
    assert missing_workers(api.settings, api.ledger, seen)[0].last == ""
    seen.note(heartbeat("gpu-host:4711"))
    assert missing_workers(api.settings, api.ledger, seen) == []
    monkeypatch.setattr(of_workers, "HERE_S", -1.0)
    (gone,) = missing_workers(api.settings, api.ledger, seen)
    assert (gone.model, gone.waiting, gone.host) == ("phantom", 1, "gpu-host")
    assert gone.is_of_model


def test_after_a_start_of_the_node_the_last_claim_names_the_host(api: Api) -> None:
    pages.keep(api, b"\0" * 128 + b"DICM", pages.route())
    pages.rejected(api, pages.claimed(api))
    (gone,) = missing_workers(api.settings, api.ledger, Workers())
    assert (gone.host, gone.is_of_model, gone.waiting) == ("gpu-host", False, 0)


def test_without_serve_the_steps_stand_there(client: httpx2.Client) -> None:
    page = client.get("/models").text
    assert "No worker of the model phantom is running" in page
    assert "systemctl restart chexfract-worker" in page
    assert "start-worker" not in page


def test_serve_is_asked_to_start_one(api: Api, client: httpx2.Client) -> None:
    folder = api.settings.node.data_dir
    could = ServedWorker("node-host", "/etc/chexfract/worker.toml", is_run=False)
    with serve_holds(folder, could) as heard:
        page = client.get("/models").text
        assert "Start a worker on this host" in page
        assert "/etc/chexfract/worker.toml" in page
        csrf = re.search(r'name="csrf" value="([^"]+)"', page)
        assert csrf
        done = client.post("/models/start-worker", data={"csrf": csrf[1]})
        assert done.status_code == 303
        wait_for("serve hears of it", lambda: heard == [signal.SIGUSR1], 60)
        refused = client.post("/models/start-worker", data={"csrf": "x"})
        assert refused.status_code == 403
    assert api.settings.audit_file
    said = base64.b64encode(b"the worker of serve is started").decode()
    assert said in api.settings.audit_file.read_text()


def test_a_worker_that_ends_again_and_again_shows_its_last_trouble(
    api: Api, client: httpx2.Client
) -> None:
    folder = api.settings.node.data_dir
    (folder / "log").mkdir()
    lines = [
        {"level": "error", "message": "the model needs 12 GB, the card has 8"},
        {"level": "info", "message": "worker ends"},
    ]
    (folder / "log" / "worker.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    at = api.ledger.clock.wall()
    ended = ServedWorker("node-host", "/w.toml", True, "", at, 78, at + 10)
    with serve_holds(folder, ended):
        page = client.get("/models").text
    assert "the model needs 12 GB, the card has 8" in page
    assert "with status 78" in page
    assert "Start it again now" in page


def test_a_worker_that_hangs_is_said_to_be_killed(api: Api, client: httpx2.Client) -> None:
    at = api.ledger.clock.wall()
    with serve_holds(api.settings.node.data_dir, ServedWorker("h", "/w.toml", True, kill_at=at)):
        assert "is killed and started again" in client.get("/models").text
    started = ServedWorker("h", "/w.toml", True, was_killed=True)
    with serve_holds(api.settings.node.data_dir, started):
        assert "did not end when it was asked to and was killed" in client.get("/models").text


def test_what_cannot_be_started_from_here_says_why(api: Api, client: httpx2.Client) -> None:
    why = "there is no /etc/chexfract/worker.toml"
    with serve_holds(api.settings.node.data_dir, ServedWorker("h", "/w", False, why)) as heard:
        page = client.get("/models").text
        csrf = re.search(r'name="csrf" value="([^"]+)"', page)
        assert csrf
        asked = client.post("/models/start-worker", data={"csrf": csrf[1]})
    assert why in page
    assert "Start a worker on this host" not in page
    assert asked.status_code == 409
    assert heard == []


def test_a_serve_that_knows_nothing_of_the_signal_is_not_ended_by_it(api: Api) -> None:
    """An upgrade in place: the new page, under the `serve` of 0.1.0."""
    folder = api.settings.node.data_dir
    script = """
import fcntl, json, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(json.dumps({"pid": os.getpid()}))
file.flush()
print("held", flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", script, str(folder / "serve.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as older:
        try:
            assert older.stdout is not None
            assert older.stdout.readline() == b"held\n"
            with pytest.raises(Unreachable, match="it runs an older version; restart it"):
                running.ask_worker(folder)
            assert older.poll() is None
        finally:
            older.kill()
    assert older.returncode == -signal.SIGKILL


def test_nobody_is_asked_where_no_serve_runs(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no serve runs"):
        running.ask_worker(tmp_path)
    (tmp_path / "serve.lock").write_text(json.dumps({"pid": os.getpid()}))
    with pytest.raises(Unreachable, match="no serve runs"):
        running.ask_worker(tmp_path)
