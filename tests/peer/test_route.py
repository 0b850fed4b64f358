"""The whole route on real parts: archive, node, broker, worker, and back."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from peers import need
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from stations import NodeProcess, Orthanc, Redis, free_ports, wait_for

pytestmark = pytest.mark.peer

CHEST = sorted(
    path.name
    for path in (Path(__file__).resolve().parents[3] / "shared" / "data" / "chest").glob("*.dcm")
)

RULES = """
[peers.archive]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {archive}
objects = ["sr", "basic-text"]

[peers.modality]
ae_title = "XRAY1"
host = "127.0.0.1"
port = {modality}

[dispatch]
queued_for = "15s"  # what a broker loses is handed out again then

[[rules]]
name = "radiographs"
match.modality = ["CR", "DX"]
allow_demonstration = true
{more}
"""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    out = tmp_path_factory.mktemp("phantoms")
    command = [sys.executable, "-m", "worker", "phantom", "draw", "--out", str(out)]
    subprocess.run([*command, "--count", "6", "--seed", "910001"], check=True, capture_output=True)
    with (out / "truth.csv").open(newline="") as table:
        return [{**row, "path": str(out / row["file"])} for row in csv.DictReader(table)]


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Takes traces as an OpenTelemetry collector does: its address, and what it got."""
    got: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()


@pytest.fixture(scope="module")
def hospital(
    tmp_path_factory: pytest.TempPathFactory,
    collector: tuple[str, list[bytes]],
) -> Iterator[tuple[NodeProcess, Orthanc, Redis]]:
    """An archive that routes to a node with a real Redis and a worker."""
    folder = tmp_path_factory.mktemp("hospital")
    redis = Redis(folder)
    redis.start()
    modality = free_ports(1)[0]
    node = NodeProcess(folder / "node", "", broker=redis.url)
    archive = Orthanc(folder / "archive", node.port)
    rules = RULES.format(archive=archive.port, modality=modality, more="send_to = ['archive']")
    node.config.write_text(node.config.read_text() + rules.replace("'", '"'))
    node.environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector[0],
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    try:
        archive.start()
        node.start()
        yield node, archive, redis
    finally:
        node.stop()
        archive.stop()
        redis.kill()


def under_new_uids(source: Path, target: Path) -> Dataset:
    """Copy an Instance under UIDs of its own: some of the real files share one."""
    ds = dcmread(source)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.save_as(target)
    return ds


def text_of(report: bytes) -> str:
    def items(ds: Dataset) -> Iterator[Dataset]:
        for item in ds.get("ContentSequence") or []:
            yield item
            yield from items(item)

    for item in items(dcmread(io.BytesIO(report))):
        name = item.get("ConceptNameCodeSequence")
        if name and name[0].CodeValue == "121071" and item.ValueType == "TEXT":
            return str(item.TextValue)
    return ""


def is_delivered(node: NodeProcess, sop_instance_uid: str) -> bool:
    return node.state(sop_instance_uid) == "delivered"


@pytest.mark.parametrize("name", CHEST or ["no real radiographs beside the project"])
def test_a_real_radiograph_of_the_archive_comes_back_as_a_report_in_its_study(
    hospital: tuple[NodeProcess, Orthanc, Redis], shared_data: Path, tmp_path: Path, name: str
) -> None:
    node, archive, _ = hospital
    ds = under_new_uids(shared_data / "chest" / name, tmp_path / name)
    assert archive.post("/instances", (tmp_path / name).read_bytes())["Status"] == "Success"
    wait_for("delivery", lambda: is_delivered(node, ds.SOPInstanceUID), 90)
    assert archive.modalities(ds.StudyInstanceUID) == {ds.Modality, "SR"}
    reports = [dcmread(io.BytesIO(file)) for file in archive.reports(ds.StudyInstanceUID)]
    primary = [report for report in reports if report.SOPClassUID.name.startswith("Comprehensive")]
    assert len(primary) == 1
    evidence = primary[0].CurrentRequestedProcedureEvidenceSequence[0]
    referenced = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert referenced.ReferencedSOPInstanceUID == ds.SOPInstanceUID


def test_phantoms_sent_by_storescu_come_back_with_what_was_drawn(
    hospital: tuple[NodeProcess, Orthanc, Redis], phantoms: list[dict[str, str]]
) -> None:
    node, archive, _ = hospital
    command = [need("storescu"), "-aet", "XRAY1", "-aec", "CHEXFRACT", "127.0.0.1", str(node.port)]
    subprocess.run([*command, *(row["path"] for row in phantoms)], check=True)
    right = 0
    for row in phantoms:
        uid = row["sop_instance_uid"]
        wait_for("delivery", lambda uid=uid: is_delivered(node, uid), 60)
        study = dcmread(row["path"], stop_before_pixels=True).StudyInstanceUID
        texts = {text_of(file) for file in archive.reports(study)}
        assert len(texts) == 1  # the coded report and the plain one say the same
        right += texts == {row["text"]}
    assert right >= len(phantoms) - 1


def test_a_trace_tells_every_stage_in_order_with_the_models_own_time(
    hospital: tuple[NodeProcess, Orthanc, Redis], phantoms: list[dict[str, str]], tmp_path: Path
) -> None:
    node, _, _ = hospital
    ds = under_new_uids(Path(phantoms[0]["path"]), tmp_path / "image.dcm")
    assert node.send(tmp_path / "image.dcm") == [0x0000]
    wait_for("delivery", lambda: is_delivered(node, ds.SOPInstanceUID), 60)
    stages = node.trace(ds.SOPInstanceUID)["stages"]
    names = [stage["stage"] for stage in stages]
    for earlier, later in (("received", "queued"), ("queued", "model"), ("model", "report")):
        assert names.index(earlier) < names.index(later)
    times = [stage["time"] for stage in stages]
    assert times == sorted(times)
    assert next(stage["ms"] for stage in stages if stage["stage"] == "model") > 0


def test_an_image_has_one_id_in_the_logs_of_node_and_worker_and_in_its_trace(
    hospital: tuple[NodeProcess, Orthanc, Redis], collector: tuple[str, list[bytes]],
    phantoms: list[dict[str, str]], tmp_path: Path,
) -> None:  # fmt: skip
    node, _, _ = hospital
    ds = under_new_uids(Path(phantoms[3]["path"]), tmp_path / "image.dcm")
    assert node.send(tmp_path / "image.dcm") == [0x0000]
    wait_for("delivery", lambda: is_delivered(node, ds.SOPInstanceUID), 60)
    (job,) = (one["job"] for one in node.trace(ds.SOPInstanceUID)["jobs"])
    traced = job.encode()  # the attribute of each span
    wait_for("the trace", lambda: any(traced in body for body in collector[1]), 60)

    def wrote() -> set[str]:
        lines = [json.loads(line) for line in node.log.read_text().splitlines() if line[:1] == "{"]
        return {line["logger"].partition(".")[0] for line in lines if line.get("job") == job}

    wait_for("lines of both", lambda: wrote() == {"dicom_node", "worker"}, 60)
    sent = b"".join(body for body in collector[1] if traced in body)
    assert not any(
        word in sent for word in (str(ds.PatientID).encode(), ds.SOPInstanceUID.encode())
    )


def test_the_same_image_sent_again_makes_no_second_report(
    hospital: tuple[NodeProcess, Orthanc, Redis], phantoms: list[dict[str, str]], tmp_path: Path
) -> None:
    node, archive, _ = hospital
    ds = under_new_uids(Path(phantoms[1]["path"]), tmp_path / "image.dcm")
    assert node.send(*[tmp_path / "image.dcm"] * 3) == [0x0000] * 3
    wait_for("delivery", lambda: is_delivered(node, ds.SOPInstanceUID), 60)
    assert node.send(tmp_path / "image.dcm") == [0x0000]
    time.sleep(1)
    assert len(archive.reports(ds.StudyInstanceUID)) == 2  # TID 1500 and Basic Text
    assert len(node.trace(ds.SOPInstanceUID)["jobs"]) == 1


def test_an_emptied_redis_loses_nothing(
    hospital: tuple[NodeProcess, Orthanc, Redis], phantoms: list[dict[str, str]], tmp_path: Path
) -> None:
    node, _, redis = hospital
    uids = []
    for i in range(8):
        path = tmp_path / f"{i}.dcm"
        uids.append(under_new_uids(Path(phantoms[i % 4]["path"]), path).SOPInstanceUID)
    paths = sorted(tmp_path.glob("*.dcm"))
    for path in paths:
        assert node.send(path) == [0x0000]
        redis.command("FLUSHALL")
    for uid in uids:
        wait_for("delivery", lambda uid=uid: is_delivered(node, uid), 150)


def test_what_no_rule_wants_is_kept_and_ignored_with_a_reason(
    hospital: tuple[NodeProcess, Orthanc, Redis], phantoms: list[dict[str, str]], tmp_path: Path
) -> None:
    node, _, _ = hospital
    ds = dcmread(phantoms[0]["path"])
    ds.Modality = "OT"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.save_as(tmp_path / "ot.dcm")
    assert node.send(tmp_path / "ot.dcm") == [0x0000]
    wait_for("a trace", lambda: node.state(ds.SOPInstanceUID))
    trace = node.trace(ds.SOPInstanceUID)
    assert trace["state"] == "ignored"
    assert trace["instance"]["reason"]


def test_an_image_that_cannot_be_analysed_gets_a_report_that_says_so(
    hospital: tuple[NodeProcess, Orthanc, Redis], phantoms: list[dict[str, str]], tmp_path: Path
) -> None:
    node, archive, _ = hospital
    ds = dcmread(phantoms[0]["path"])
    ds.ViewPosition, ds.PixelData = "PA", ds.PixelData[: len(ds.PixelData) // 2]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = generate_uid()
    ds.save_as(tmp_path / "short.dcm")
    assert node.send(tmp_path / "short.dcm") == [0x0000]
    wait_for("delivery", lambda: is_delivered(node, ds.SOPInstanceUID), 60)
    assert node.trace(ds.SOPInstanceUID)["jobs"][0]["state"] == "rejected"
    reports = [dcmread(io.BytesIO(file)) for file in archive.reports(ds.StudyInstanceUID)]
    assert {report.CompletionFlag for report in reports} == {"PARTIAL"}


def test_an_unknown_caller_is_refused(hospital: tuple[NodeProcess, Orthanc, Redis]) -> None:
    node, _, _ = hospital
    done = subprocess.run(
        [need("echoscu"), "-aet", "STRANGER", "-aec", "CHEXFRACT", "127.0.0.1", str(node.port)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Calling AE Title Not Recognized" in done.stderr + done.stdout


def test_status_counts_what_went_through(hospital: tuple[NodeProcess, Orthanc, Redis]) -> None:
    node, _, _ = hospital
    assert '"deliveries": {' in node.run("status", "--json").stdout
    assert node.run("status").returncode == 0


def family_of(pid: int) -> set[int]:
    """Return a process and all its descendants, as /proc tells them."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    family, size = {pid}, 0
    while len(family) != size:
        size = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return family


@pytest.mark.parametrize(
    ("how", "limit_s"), [(signal.SIGINT, 5), (signal.SIGTERM, 10)], ids=["Ctrl-C", "SIGTERM"]
)
def test_the_end_comes_in_time_and_leaves_nothing_running(
    tmp_path: Path, how: signal.Signals, limit_s: float
) -> None:
    rules = RULES.format(archive=104, modality=105, more="")
    node = NodeProcess(tmp_path, rules)
    node.start()
    assert node.process is not None
    family = wait_for("all roles", lambda: len(f := family_of(node.process.pid)) >= 6 and f, 30)
    assert node.stop(how) < limit_s
    time.sleep(0.3)
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []
    assert node.process.returncode == 0


def test_a_busy_port_is_one_clear_line_and_78(tmp_path: Path) -> None:
    node = NodeProcess(tmp_path, "", with_worker=False)
    import socket

    with socket.create_server(("127.0.0.1", node.port)):
        done = subprocess.run(
            [sys.executable, "-m", "dicom_node", "serve", "--config", str(node.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == os.EX_CONFIG
    assert "Traceback" not in done.stderr
    assert f"port {node.port} is in use" in done.stderr


def test_a_node_without_rules_starts_and_answers_success(tmp_path: Path) -> None:
    peers = '[peers.modality]\nae_title = "XRAY1"\nhost = "127.0.0.1"\nport = 104\n'
    node = NodeProcess(tmp_path / "node", peers, with_worker=False)
    node.start()
    try:
        out = tmp_path / "drawn"
        command = [sys.executable, "-m", "worker", "phantom", "draw", "--out", str(out)]
        subprocess.run([*command, "--count", "1"], check=True, capture_output=True)
        assert node.send(*out.glob("*.dcm")) == [0x0000]
    finally:
        node.stop()
