"""Stations of a small hospital, each a real process on loopback: node, archive, broker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peers import need
from ports import free_ports as free_ports

from dicom_node.base.errors import ChexFractError, NotFound
from dicom_node.dimse import scu
from dicom_node.settings import Peer
from dicom_node.store.ledger import Ledger

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def wait_for(what: str, holds: Callable[[], Any], limit_s: float = 60.0) -> Any:
    """Return the first true value of `holds`, or fail with `what` did not happen."""
    end = time.monotonic() + limit_s
    while not (value := holds()):
        assert time.monotonic() < end, f"{what}: not within {limit_s:.0f} s"
        time.sleep(0.05)
    return value


class Redis:
    """A real redis-server without persistence."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_ports(1)[0]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [need("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for("redis answers", self.answers, 10)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.2) as line:
                line.sendall(b"PING\r\n")
                return line.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def command(self, *words: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 2) as line:
            line.sendall(" ".join(words).encode() + b"\r\n")
            return line.recv(4096)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Orthanc:
    """An archive that routes radiographs to the node by the shipped configuration."""

    def __init__(
        self,
        folder: Path,
        node_port: int,
        node_ae: str = "CHEXFRACT",
        ports: tuple[int, int] | None = None,
    ) -> None:
        self.folder = folder
        self.node_port = node_port
        self.port, self.http_port = ports or free_ports(2)
        self.peer = Peer(ae_title="ORTHANC", host="127.0.0.1", port=self.port)
        content = json.loads((CONFIGS / "orthanc" / "orthanc.json").read_text())
        content["DicomPort"], content["HttpPort"] = self.port, self.http_port
        content["DicomModalities"]["chexfract"] |= {"Port": node_port, "AET": node_ae}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "db").mkdir(exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(content))
        (folder / "route.lua").write_text((CONFIGS / "orthanc" / "route.lua").read_text())
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                [need("Orthanc"), "orthanc.json"], cwd=self.folder, stdout=log, stderr=log
            )
        wait_for("Orthanc answers", lambda: self.get("/system"), 30)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)

    def get(self, path: str) -> Any:
        """Return the JSON behind a path of the REST API, None while there is no answer."""
        return self._ask(urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}"))

    def post(self, path: str, body: bytes) -> Any:
        return self._ask(
            urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=body)
        )

    def delete(self, path: str) -> Any:
        url = f"http://127.0.0.1:{self.http_port}{path}"
        return self._ask(urllib.request.Request(url, method="DELETE"))

    def _ask(self, request: urllib.request.Request) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read() or b"null")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def file(self, instance: str) -> bytes:
        url = f"http://127.0.0.1:{self.http_port}/instances/{instance}/file"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return bytes(answer.read())

    def modalities(self, study_instance_uid: str) -> set[str]:
        """Return ModalitiesInStudy (0008,0061) of a study by QIDO-RS."""
        found = self.get(
            f"/dicom-web/studies?StudyInstanceUID={study_instance_uid}&includefield=00080061"
        )
        return set(found[0].get("00080061", {}).get("Value", [])) if found else set()

    def reports(self, study_instance_uid: str) -> list[bytes]:
        """Return the SR files of a study as the archive keeps them."""
        query = {"Level": "Instance", "Query": {"StudyInstanceUID": study_instance_uid}}
        found = self.post("/tools/find", json.dumps(query | {"Expand": False}).encode()) or []
        files = [self.file(instance) for instance in found]
        return [file for file in files if b"SR" in _modality(file)]


def _modality(file: bytes) -> bytes:
    at = file.find(b"\x08\x00\x60\x00CS")
    return file[at + 8 : at + 10] if at >= 0 else b""


class NodeProcess:
    """`chexfract-node serve` with or without a worker, as a process of its own."""

    def __init__(
        self, folder: Path, content: str, *, broker: str = "embedded", with_worker: bool = True
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port, self.web_port = free_ports(2)
        self.config, self.worker_config = folder / "node.toml", folder / "worker.toml"
        self.with_worker = with_worker
        self.peer = Peer(ae_title="CHEXFRACT", host="127.0.0.1", port=self.port, timeout=10)
        self.config.write_text(
            f"""
[node]
host = "127.0.0.1"
port = {self.port}
data_dir = {json.dumps(str(folder / "var"))}
[web]
port = {self.web_port}
url = "http://127.0.0.1:{self.web_port}"
sign_in = false
[broker]
url = "{broker}"
[retention]
min_free = "10MB"
{content}
"""
        )
        worker_broker = "" if broker == "embedded" else f'broker = "{broker}"'
        self.worker_config.write_text(f'[worker]\n{worker_broker}\ndevice = "cpu"\n')
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "node.log"
        self.environment: dict[str, str] = {}
        """Beside the environment of the tests."""

    def start(self, limit_s: float = 60) -> None:
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(self.config)]
        if self.with_worker:
            command += ["--with-worker", str(self.worker_config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self.folder,
                env=os.environ | self.environment,
            )  # fmt: skip
        wait_for("the node answers C-ECHO", self.answers, limit_s)

    def answers(self, calling: str = "XRAY1") -> bool:
        assert self.process is None or self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            scu.echo(calling, self.peer)
        except ChexFractError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> float:
        """End the node and return how many seconds that took."""
        if self.process is None:
            return 0.0
        started = time.monotonic()
        self.process.send_signal(how)
        try:
            self.process.wait(20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return time.monotonic() - started

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of chexfract-node on this node's configuration."""
        return subprocess.run(
            [sys.executable, "-m", "dicom_node", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def trace(self, sop_instance_uid: str) -> dict[str, Any]:
        """Return the trace of an Instance, empty while nothing is known of it."""
        done = self.run("trace", sop_instance_uid, "--json")
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def state(self, sop_instance_uid: str) -> str:
        """Return the state of an Instance, empty while nothing is known of it.

        Straight from the ledger: a command for each look would take the processor from the node.
        """
        ledger = Ledger.open(f"sqlite:///{self.folder}/var/ledger.sqlite")
        try:
            return str(ledger.history.trace(sop_instance_uid).state)
        except NotFound:
            return ""
        finally:
            ledger.close()

    def send(self, *paths: Path, calling: str = "XRAY1") -> list[int | None]:
        """Send files by C-STORE and return the status of each."""
        found: list[int | None] = []
        scu.send(calling, self.peer, list(paths), lambda _path, status, _why: found.append(status))
        return found
