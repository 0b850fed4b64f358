"""A running node takes other peers and rules while associations are open, or refuses them whole."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pages
import pytest
from listening import DX, radiograph
from peers import need
from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.association import Association
from serving import Api
from stations import NodeProcess, free_ports, wait_for

from dicom_node.base.job import Ticket
from dicom_node.settings import Settings, load
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool

pytestmark = pytest.mark.peer

PEER = '[peers.{name}]\nae_title = "{ae}"\nhost = "127.0.0.1"\nport = {port}\n'
RULE = '[[rules]]\nname = "{name}"\nmatch.modality = ["DX"]\nmode = "shadow"\n'


FIRST = PEER.format(name="xray", ae="XRAY1", port=0) + RULE.format(name="rule one")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    node = NodeProcess(tmp_path_factory.mktemp("node"), FIRST, with_worker=False)
    node.start()
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture
def node(running: NodeProcess) -> NodeProcess:
    """The running node with the first peers and rules."""
    if FIRST not in running.config.read_text():
        assert reloaded(running, FIRST).returncode == 0
    return running


def rewrite(node: NodeProcess, *tables: str) -> None:
    """Replace peers and rules of node.toml."""
    head = re.split(r"\[peers|\[\[rules", node.config.read_text())[0]
    node.config.write_text(head + "".join(tables))


def reloaded(node: NodeProcess, *tables: str) -> subprocess.CompletedProcess[str]:
    rewrite(node, *tables)
    return node.run("reload")


def associated(port: int, calling: str = "XRAY1") -> Association:
    ae = AE(calling)
    ae.add_requested_context(DX, "1.2.840.10008.1.2.1")
    return ae.associate("127.0.0.1", port, ae_title="CHEXFRACT")


@contextmanager
def gate(port: int, after: int) -> Iterator[tuple[int, threading.Event, threading.Event]]:
    """Lead to `port`, but hold everything back from byte `after` on until it is let go."""
    held, go = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def lead() -> None:
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", port))
            threading.Thread(target=pass_on, args=(far, near), daemon=True).start()
            pass_on(near, far, after)

        def pass_on(source: socket.socket, target: socket.socket, limit: int = 1 << 60) -> None:
            passed = 0
            while content := source.recv(8192):
                passed += len(content)
                if passed > limit and not go.is_set():
                    held.set()
                    go.wait(60)
                target.sendall(content)
            target.close()

        threading.Thread(target=lead, daemon=True).start()
        yield server.getsockname()[1], held, go


def rule_of(node: NodeProcess, ds: Dataset) -> str:
    return str(node.trace(ds.SOPInstanceUID)["jobs"][0]["rule"])


def test_an_open_association_and_a_transfer_under_way_outlive_a_reload(node: NodeProcess) -> None:
    before, under_way, after = (radiograph(rows=512, columns=512) for _ in range(3))
    with gate(node.port, after=300_000) as (port, held, go):
        slow, idle = associated(port), associated(node.port)
        assert idle.send_c_store(before).Status == 0
        statuses: list[int] = []
        sending = threading.Thread(
            target=lambda: statuses.append(int(slow.send_c_store(under_way).Status))
        )
        sending.start()
        assert held.wait(20)
        done = reloaded(
            node, PEER.format(name="other", ae="OTHER", port=0), RULE.format(name="second")
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == ["peers: other", "rules: second"]
        assert idle.is_established
        assert idle.send_c_store(after).Status == 0
        go.set()
        sending.join(20)
        assert statuses == [0]
        slow.release()
        idle.release()
    assert slow.is_released
    assert idle.is_released
    assert rule_of(node, before) == "rule one"
    assert rule_of(node, after) == "second"
    assert rule_of(node, under_way) == "second"
    assert associated(node.port).is_rejected
    assert associated(node.port, "OTHER").is_established


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[peers.xray]\nae_title = ", "not TOML"),
        (PEER.format(name="xray", ae="A" * 17, port=0), "peers.xray.ae_title"),
        ('[[rules]]\nname = "r"\nmode = "shadow"\nsend_to = ["nobody"]', "no peer is named"),
        (PEER.format(name="x", ae="X", port=1) + 'tls.ca = "gone.pem"\n', "peers.x.tls"),
    ],
    ids=["no TOML", "a wrong key", "a dangling name", "a missing certificate"],
)
def test_a_bad_file_is_refused_in_one_line_and_the_old_stays(
    node: NodeProcess, content: str, said: str
) -> None:
    rewrite(node, content)
    done = node.run("reload")
    assert done.returncode == os.EX_CONFIG
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert node.answers()


def test_a_role_that_starts_anew_does_not_meet_a_bad_file(node: NodeProcess) -> None:
    rewrite(node, "[peers.xray]\nno = 1\n")
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)
    fault = "peers.xray.no: unknown key"
    wait_for("the log says so", lambda: fault in node.log.read_text(), 20)
    (line,) = (one for one in node.log.read_text().splitlines() if fault in one)
    assert json.loads(line)["message"].startswith("reload refused, peers and rules stay")
    (listener,) = children(node.process.pid, "listener")
    os.kill(listener, signal.SIGKILL)
    wait_for("another listener", lambda: children(node.process.pid, "listener") != [listener], 20)
    wait_for("it answers", node.answers, 20)


def children(pid: int, role: str) -> list[int]:
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if b"role" in words and role.encode() in words:
            found.append(int(child))
    return found


def test_what_waits_for_another_start_is_named(node: NodeProcess) -> None:
    text = node.config.read_text()
    node.config.write_text(text.replace("[retention]", "[dispatch]\nwindow = 7\n[retention]"))
    done = node.run("reload", "--json")
    node.config.write_text(text)
    summary = json.loads(done.stdout)
    assert (summary["peers"], summary["rules"], summary["waiting"]) == (
        ["xray"],
        ["rule one"],
        ["dispatch"],
    )


def test_the_pages_follow_without_a_reload_of_their_own(node: NodeProcess) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{node.web_port}", trust_env=False) as http:
        with http.stream("GET", "/live", timeout=30) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            reloaded(node, PEER.format(name="other", ae="OTHER", port=0))
            list(lines)  # ends, so that the browser asks the new one
        assert "OTHER" in http.get("/peers").text
        # The AE title alone may stay, among the callers that were refused.
        assert "Test send: xray" not in http.get("/peers").text
        assert "rule one" not in http.get("/rules").text


def report(uid: str) -> bytes:
    """Return a small SR Instance."""
    ds = Dataset()
    ds.ensure_file_meta()
    ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    ds.SOPClassUID, ds.SOPInstanceUID = pages.SR, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = "1.2.7", "1.2.9", "SR"
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def handed_out(settings: Settings, job: str) -> Ticket | None:
    """Return the ticket that the node has made, once it has."""
    with sqlite3.connect(settings.ledger_url.removeprefix("sqlite:///")) as book:
        ((token,),) = book.execute("SELECT token FROM jobs WHERE id = ?", (job,))
    return Ticket(job=job, token=token) if token else None


def test_a_report_that_waits_for_an_unknown_peer_goes_out_when_it_is_known(
    node: NodeProcess, tmp_path: Path
) -> None:
    settings = load(node.config)
    ledger = Ledger.open(settings.ledger_url)
    api = Api(settings, ledger, Spool(settings.node.data_dir / "spool"))
    route = pages.route(send_to=("@sender",), objects={})
    uid = pages.keep(api, bytes(128) + b"DICM", route, calling_ae="LATE")
    job = ledger.history.trace(uid).jobs[0].job
    ticket = wait_for("its job is handed out", lambda: handed_out(settings, job), 20)
    ledger.jobs.claim(ticket.job, ticket.token, "here", 60)
    pages.reported(api, ticket, content=report)
    reason = wait_for("it waits", lambda: ledger.history.trace(uid).deliveries[0].reason, 20)
    assert "is not in [peers]" in reason
    kept, (port,) = tmp_path / "kept", free_ports(1)
    kept.mkdir()
    archive = subprocess.Popen([need("storescp"), "-od", str(kept), "-uf", str(port)])
    try:
        assert reloaded(node, PEER.format(name="late", ae="LATE", port=port)).returncode == 0
        wait_for("the report is there", lambda: list(kept.iterdir()), 20)
        wait_for("it is delivered", lambda: ledger.history.trace(uid).state == "delivered", 20)
    finally:
        archive.terminate()
        archive.wait(10)
        ledger.close()
    (path,) = kept.iterdir()
    assert dcmread(path).SOPClassUID == pages.SR


def test_reload_says_that_no_node_runs(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\ndata_dir = {json.dumps(str(tmp_path))}\n")
    done = subprocess.run(
        [sys.executable, "-m", "dicom_node", "reload", "--config", str(config)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == os.EX_UNAVAILABLE
    assert "no node runs" in done.stderr
