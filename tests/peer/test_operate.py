"""A new node on a real archive: init, doctor, selftest and export, as an operator runs them."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from peers import need
from pydicom import dcmread
from stations import Orthanc, Redis, free_ports, wait_for

from dicom_node.dimse.contexts import TRANSFER_SYNTAXES
from dicom_node.operate import neighbours, surroundings
from dicom_node.operate.doctor import LIMIT_S, together
from dicom_node.settings import Settings

pytestmark = pytest.mark.peer

ROOM = {**os.environ, "CHEXFRACT_RETENTION__MIN_FREE": "10MB"}


def node(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env=ROOM,
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def process(*command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        running = subprocess.Popen(command, stdout=output, stderr=output, env=ROOM)
    try:
        yield running
    finally:
        running.terminate()
        running.wait(20)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def checks_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    verdicts: dict[str, dict[str, Any]] = {}
    for check in json.loads(done.stdout)["checks"]:
        if verdicts.get(check["name"], check)["verdict"] != "fail":
            verdicts[check["name"]] = check
    return verdicts


@pytest.mark.timeout(400)
def test_a_new_node_is_written_examined_tested_and_tells_its_results(tmp_path: Path) -> None:
    """The whole way of an operator, with Orthanc as the archive."""
    port, web_port = free_ports(2)
    config, archive = tmp_path / "node.toml", Orthanc(tmp_path / "archive", port)
    flags = ["--archive-ae", "ORTHANC", "--archive-port", str(archive.port), "--port", str(port)]
    with ExitStack() as running:
        archive.start()
        running.callback(archive.stop)
        written = node(
            "init", "--out", str(config), *flags, "--web-port", str(web_port), "--json", "--yes"
        )
        assert written.returncode == 0, written.stdout + written.stderr
        before = checks_of(written)
        assert "Comprehensive 3D SR" in before["peer archive"]["what"]
        assert before["node"]["what"] == "it is not running"
        serve = [sys.executable, "-m", "dicom_node", "serve", "--config", str(config)]
        serve += ["--with-worker", str(config.with_name("worker.toml"))]
        running.enter_context(process(*serve, log=tmp_path / "node.log"))
        wait_for("the node listens", lambda: listens(port), 60)
        tested = node("selftest", "--config", str(config), "--to", "archive", "--json")
        lines = json.loads(tested.stdout)["lines"]
        assert [line["problem"] for line in lines] == [""] * len(TRANSFER_SYNTAXES)
        assert tested.returncode == 0
        after = node("doctor", "--config", str(config), "--json")
        assert after.returncode == 0, after.stdout
        assert "served by the running node" in checks_of(after)["port node"]["what"]
        assert "last claims" in checks_of(after)["jobs"]["what"]
        tried = node("send", "--config", str(config), "--test", "--to", "archive", "--json")
        assert [one["status"] for one in json.loads(tried.stdout)["objects"]] == [0, 0]
        kept = [archive.file(instance) for instance in archive.get("/instances")]
        exported = node("export", "--config", str(config), "--since", "2026-01-01", "--json")
    rows = [json.loads(line) for line in exported.stdout.splitlines()]
    assert {row["text"] for row in rows} == {"Fracture of the left 5th rib."}
    assert {row["sop_instance_uid"] for row in rows} == {line["sop_instance_uid"] for line in lines}
    received = [dcmread(io.BytesIO(file)) for file in kept]
    assert len(received) == 2 * len(rows) + 2  # each report in codes and in plain text, and a test
    assert {ds.Modality for ds in received} == {"SR"}


@pytest.mark.timeout(400)
def test_selftest_without_a_peer_brings_its_own_hospital_and_takes_it_away(tmp_path: Path) -> None:
    done = node("selftest", "--config", str(tmp_path / "none.toml"), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("✓ PASS") == len(TRANSFER_SYNTAXES)
    assert "which are gone again" in done.stdout


def test_a_redis_that_drops_hand_outs_is_named(tmp_path: Path) -> None:
    redis = Redis(tmp_path)
    redis.start()
    try:
        settings = Settings(node={"data_dir": tmp_path}, broker={"url": redis.url})
        (fine,) = surroundings.broker(settings)
        assert fine.verdict == "pass"
        redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        (_, policy) = surroundings.broker(settings)
    finally:
        redis.kill()
    assert policy.verdict == "fail"
    assert "allkeys-lru" in policy.what
    assert "noeviction" in policy.advice


def test_a_redis_that_is_full_or_refuses_is_named(tmp_path: Path) -> None:
    redis = Redis(tmp_path)
    redis.start()
    try:
        settings = Settings(node={"data_dir": tmp_path}, broker={"url": redis.url})
        redis.command("CONFIG", "SET", "maxmemory", "1")
        (full,) = surroundings.broker(settings)
        redis.command("CONFIG", "SET", "maxmemory", "0")
        redis.command("CONFIG", "SET", "requirepass", "another")
        (refused,) = surroundings.broker(settings)
    finally:
        redis.kill()
    assert (full.verdict, refused.verdict) == ("fail", "fail")
    assert "is full" in full.what
    assert " refuses: " in refused.what
    assert "password" in refused.advice


DCMQRSCP = """\
NetworkTCPPort = {port}
MaxAssociations = 4
HostTable BEGIN
known = (KNOWN, localhost, 104)
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {folder} RW (9, 1024mb) known
AETable END
"""


@pytest.mark.parametrize(
    ("called", "advice"),
    [
        ("ARCHIVE", "ask whoever runs archive to register CHEXFRACT"),
        ("OTHER", "correct peers.archive.ae_title"),
    ],
    ids=["calling AE title unknown", "called AE title unknown"],
)
def test_the_reason_of_a_real_archives_rejection_becomes_advice(
    tmp_path: Path, free_port: int, called: str, advice: str
) -> None:
    (tmp_path / "db").mkdir()
    table = tmp_path / "dcmqrscp.cfg"
    table.write_text(DCMQRSCP.format(port=free_port, folder=tmp_path / "db"))
    peer = {"ae_title": called, "host": "127.0.0.1", "port": free_port}
    settings = Settings(node={"data_dir": tmp_path}, peers={"archive": peer})
    command = [need("dcmqrscp"), "-c", str(table), str(free_port)]
    with process(*command, log=tmp_path / "log"):
        wait_for("dcmqrscp listens", lambda: listens(free_port), 20)
        (check,) = neighbours.peer(settings, "archive")
    assert "rejected the association" in check.what
    assert advice in check.advice


def test_silent_peers_cost_their_limit_once_and_not_each(tmp_path: Path) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(6)]
        peers = {
            f"p{i}": {"ae_title": f"P{i}", "host": "127.0.0.1", "port": one.getsockname()[1]}
            for i, one in enumerate(silent)
        }
        settings = Settings(node={"port": 0, "data_dir": tmp_path}, peers=peers)
        started = time.monotonic()
        looks = [(name, partial(neighbours.peer, settings, name)) for name in peers]
        checks = together(looks)
    assert time.monotonic() - started < LIMIT_S
    assert ["no answer within 3 s" in check.what for check in checks] == [True] * 6
