"""A role that lives and does nothing more is noticed: its beats follow the turns of its loops."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
from ledgers import fresh, instance, route

from dicom_node.base.errors import Unreachable
from dicom_node.base.job import Handout
from dicom_node.flow.deliver import Deliverer
from dicom_node.flow.dispatch import Dispatcher
from dicom_node.run import roles
from dicom_node.settings import Settings
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool
from dicom_node.web.app import serve_web


def test_a_dispatcher_that_never_returns_from_the_broker_is_named(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, stop = threading.Event(), threading.Event()

    def publish(handout: Handout, priority: int) -> None:
        hangs.set()
        stop.wait()

    work = Dispatcher(Settings(), ledger, publish).loop()
    monkeypatch.setattr(roles, "HANGS_AFTER_S", 0.5)
    thread = threading.Thread(target=work.run, args=(stop,))
    thread.start()
    try:
        time.sleep(1)
        roles.check_turns([work])
        ledger.instances.receive(instance(), [route()])
        assert hangs.wait(20)
        time.sleep(1)
        with pytest.raises(Unreachable, match="dispatch hangs"):
            roles.check_turns([work])
    finally:
        stop.set()
        thread.join(10)


def test_a_deliverer_turns_while_it_has_nothing_to_do(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, spool = Settings(), Spool(tmp_path / "spool")
    work = Deliverer(settings, spool, ledger, lambda _: None).loop()  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(roles, "HANGS_AFTER_S", 0.5)
    time.sleep(1)
    with pytest.raises(Unreachable, match="delivery hangs"):
        roles.check_turns([work])
    stop = threading.Event()
    thread = threading.Thread(target=work.run, args=(stop,))
    thread.start()
    try:
        time.sleep(1)
        roles.check_turns([work])
    finally:
        stop.set()
        thread.join(10)


def test_a_web_role_whose_event_loop_hangs_turns_no_more(free_port: int) -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        time.sleep(3)

    turns, stop = list[float](), threading.Event()
    settings = Settings(web={"port": free_port})  # type: ignore[arg-type]
    arguments = {"turn": lambda: turns.append(time.monotonic())}
    thread = threading.Thread(target=serve_web, args=(settings, app, stop), kwargs=arguments)
    thread.start()
    try:
        time.sleep(4)
        assert len(turns) >= 2
        with pytest.raises(httpx2.HTTPError):
            asyncio.run(_ask(f"http://127.0.0.1:{free_port}/"))
        assert time.monotonic() - turns[-1] > 1.5
    finally:
        stop.set()
        thread.join(10)


async def _ask(url: str) -> None:
    async with httpx2.AsyncClient(timeout=2) as client:
        await client.get(url)


ROLE = """
import sys, threading, time
from pathlib import Path
from dicom_node.run import roles
from dicom_node.web import app
roles.HANGS_AFTER_S = 1.0
serve = app.serve_web
def hangs(settings, site, stop, ready, turn):
    async def blocks(scope, receive, send):
        time.sleep(60)
    serve(settings, blocks, stop, ready, turn)
app.serve_web = hangs
roles.run_role("web", Path(sys.argv[1]))
"""


def test_a_web_role_whose_event_loop_hangs_beats_no_more(tmp_path: Path, free_port: int) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path}"\n[web]\nport = {free_port}\n')
    fresh(tmp_path)
    listening, beating = os.pipe()
    command = [sys.executable, "-c", ROLE, str(config)]
    process = subprocess.Popen(
        command, env={**os.environ, "CHEXFRACT_HEART": str(beating)}, pass_fds=[beating]
    )
    os.close(beating)
    try:
        while b"R" not in (heard := os.read(listening, 16)):
            assert heard
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(f"http://127.0.0.1:{free_port}/", timeout=3)
        os.set_blocking(listening, False)
        time.sleep(1)
        _drain(listening)
        time.sleep(3)
        assert _drain(listening) == b""
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(listening)


def _drain(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except BlockingIOError:
        return b""
