"""DCMTK finds, gets and moves the reports of this node, and nothing else."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import reports
from listening import ModalityStation, Node, listening
from peers import need
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, build_role, evt
from results import VARIANTS, add_result
from stations import Orthanc, free_ports

from dicom_node.settings import Peer
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.standard.uids import object_uid
from dicom_node.store import catalogue
from worker.report.document import device_uid, options_of_model
from worker.report.sr import Document

pytestmark = pytest.mark.peer

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"


@pytest.fixture(scope="module")
def archive_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, archive_port: int) -> Iterator[Node]:
    with listening(tmp_path_factory.mktemp("node")) as running:
        archive = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=archive_port)
        peers = running.settings.peers | {"archive": archive}
        running.listener._retrieval._settings = running.settings.model_copy(update={"peers": peers})
        yield running


@pytest.fixture(scope="module")
def made(node: Node) -> dict[str, tuple[Document, ...]]:
    """One study with two reported images, one of another patient, and two for nobody."""

    def add(study: str, **more: object) -> tuple[Document, ...]:
        return add_result(node.ledger, node.spool, StudyInstanceUID=study, **more)

    other = {"PatientName": "Doe^Jane", "PatientID": "P-2", "AccessionNumber": "B2"}
    return {
        "first": add("1.2.3"),
        "second": add("1.2.3", case="none"),
        "other": add("1.2.4", StudyDate="20200101", **other),
        "shadow": add("1.2.5", mode="shadow"),
        "forbidden": add("1.2.6", allow=False),
    }


def scu(program: str, node: Node, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [need(program), "-aet", "MODALITY", "-aec", "CHEXFRACT", "-v"]
        + [str(argument) for argument in (*arguments, "127.0.0.1", node.port)],
        capture_output=True,
        text=True,
        timeout=30,
    )


def find(node: Node, folder: Path, level: str, *keys: str, root: str = "-S") -> list[Dataset]:
    options = [part for key in (f"QueryRetrieveLevel={level}", *keys) for part in ("-k", key)]
    done = scu("findscu", node, root, "-X", "-od", folder, *options)
    assert done.returncode == 0, done.stderr
    return [dcmread(path) for path in sorted(folder.glob("rsp*.dcm"))]


@contextmanager
def storescp(folder: Path, port: int, *options: str) -> Iterator[Path]:
    folder.mkdir()
    command = [need("storescp"), "-aet", "ARCHIVE", "-od", str(folder), *options, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield folder
    finally:
        process.kill()
        process.wait()


def uids(folder: Path) -> set[str]:
    return {str(dcmread(path).SOPInstanceUID) for path in folder.iterdir()}


# C-FIND


def test_a_study_is_found_with_what_it_holds(
    node: Node, made: dict[str, tuple[Document, ...]], tmp_path: Path
) -> None:
    asked = ["StudyInstanceUID=1.2.3", "PatientName", "ModalitiesInStudy", "StudyDate"]
    asked += ["NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "AccessionNumber"]
    (found,) = find(node, tmp_path, "STUDY", *asked)
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert found.PatientName == "Иванова^Анна"
    assert found.ModalitiesInStudy == "SR"
    assert found.NumberOfStudyRelatedInstances == 4
    assert (found.StudyDate, found.AccessionNumber) == ("20260303", "A100")
    assert found.RetrieveAETitle == "CHEXFRACT"
    asked_for = {key.partition("=")[0] for key in asked}
    added = {"SpecificCharacterSet", "QueryRetrieveLevel", "RetrieveAETitle"}
    assert {element.keyword for element in found} == asked_for | added


@pytest.mark.parametrize(
    ("keys", "studies"),
    [
        ([], {"1.2.3", "1.2.4"}),
        (["PatientName=doe*"], {"1.2.4"}),
        (["PatientID=P-?"], {"1.2.4"}),
        (["StudyDate=20200101-20201231"], {"1.2.4"}),
        (["StudyDate=20260303-"], {"1.2.3"}),
        (["AccessionNumber=A100"], {"1.2.3"}),
        (["ModalitiesInStudy=SR"], {"1.2.3", "1.2.4"}),
        (["ModalitiesInStudy=CT"], set()),
        (["StudyInstanceUID=1.2.4\\1.2.5\\1.2.6\\9.9"], {"1.2.4"}),
        (["PatientID=p-2"], set()),
        (["NumberOfStudyRelatedInstances=2"], {"1.2.4"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_studies_are_found_by_their_keys(
    node: Node, made: object, tmp_path: Path, keys: list[str], studies: set[str]
) -> None:
    names = {key.partition("=")[0] for key in keys}
    more = [] if "StudyInstanceUID" in names else ["StudyInstanceUID"]
    found = find(node, tmp_path, "STUDY", *keys, *more)
    assert {str(ds.StudyInstanceUID) for ds in found} == studies


def test_series_and_instances_are_found_below_their_study(
    node: Node, made: dict[str, tuple[Document, ...]], tmp_path: Path
) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "images").mkdir()
    asked = ["StudyInstanceUID=1.2.4", "SeriesInstanceUID", "Modality", "SeriesNumber"]
    series = find(node, tmp_path / "series", "SERIES", *asked, "NumberOfSeriesRelatedInstances")
    sr, basic = made["other"][0], made["other"][3]
    assert {str(ds.SeriesInstanceUID) for ds in series} == {
        sr.series_instance_uid,
        basic.series_instance_uid,
    }
    assert sum(ds.NumberOfSeriesRelatedInstances for ds in series) >= 2
    asked = ["StudyInstanceUID=1.2.4", f"SeriesInstanceUID={sr.series_instance_uid}"]
    asked += ["SOPInstanceUID", "SOPClassUID", "CompletionFlag"]
    images = find(node, tmp_path / "images", "IMAGE", *asked)
    found = {str(ds.SOPInstanceUID): ds for ds in images}
    assert sr.sop_instance_uid in found
    assert found[sr.sop_instance_uid].SOPClassUID == sr.sop_class_uid
    assert found[sr.sop_instance_uid].CompletionFlag == "COMPLETE"
    assert made["other"][1].sop_instance_uid not in found  # a variant that nobody was sent


def test_the_variant_that_a_destination_took_is_shown(tmp_path: Path) -> None:
    with listening(tmp_path / "node") as node:
        documents = add_result(node.ledger, node.spool)
        delivery = next(d for d in node.ledger.deliveries.due() if d.kind == "sr")
        taken = documents[2].sop_instance_uid
        node.ledger.deliveries.choose(delivery.id, taken)
        node.ledger.deliveries.delivered(delivery.id, 0)
        found = find(node, tmp_path, "IMAGE", "SOPInstanceUID")
        assert taken in {str(ds.SOPInstanceUID) for ds in found}
        assert documents[0].sop_instance_uid not in {str(ds.SOPInstanceUID) for ds in found}


def test_patients_are_found_at_the_patient_root(node: Node, made: object, tmp_path: Path) -> None:
    asked = ["PatientID", "PatientName=*", "NumberOfPatientRelatedStudies"]
    found = find(node, tmp_path, "PATIENT", *asked, root="-P")
    assert {str(ds.PatientID): ds.NumberOfPatientRelatedStudies for ds in found} == {
        "4711": 1,
        "P-2": 1,
    }
    assert all("StudyInstanceUID" not in ds for ds in found)


def responses(node: Node, keys: Dataset, model: str = FIND) -> list[tuple[int, Dataset | None]]:
    with ModalityStation(node.port).associated(model) as assoc:
        return [(status.Status, found) for status, found in assoc.send_c_find(keys, model)]


@pytest.mark.parametrize("level", ["PATIENT", "", "NONSENSE"])
def test_a_level_that_the_model_does_not_have_is_0xa900(node: Node, level: str) -> None:
    keys = Dataset()
    keys.QueryRetrieveLevel = level
    assert responses(node, keys) == [(0xA900, None)]


def test_a_query_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = catalogue.read_head

    def slowly(path: Path) -> Dataset:
        time.sleep(0.1)
        return at_once(path)

    monkeypatch.setattr(catalogue, "read_head", slowly)
    with listening(tmp_path) as node:
        for number in range(8):
            add_result(node.ledger, node.spool, StudyInstanceUID=f"1.2.{number}", seconds=())
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", ""
        statuses = []
        with ModalityStation(node.port).associated(FIND) as assoc:
            for status, _ in assoc.send_c_find(keys, FIND, msg_id=7):
                if not statuses:
                    assoc.send_c_cancel(7, None, FIND)
                statuses.append(status.Status)
        assert statuses[-1] == 0xFE00
        assert len(statuses) < 8


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_endless_identifier_is_aborted(
    node: Node, modality: ModalityStation, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.TextValue = "STUDY", "x" * 3_000_000
    with modality.associated(FIND) as assoc:
        list(assoc.send_c_find(keys, FIND))
        assoc.abort()
    assert "its data set is larger than" in caplog.text
    assert scu("echoscu", node).returncode == 0


def test_strangers_find_nothing(node: Node, made: object) -> None:
    as_stranger = [need("findscu"), "-S", "-aet", "STRANGER", "-aec", "CHEXFRACT"]
    done = subprocess.run(
        [*as_stranger, "127.0.0.1", str(node.port), "-k", "QueryRetrieveLevel=STUDY"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "Calling AE Title Not Recognized" in done.stderr


# C-GET


def test_a_study_is_got(node: Node, made: dict[str, tuple[Document, ...]], tmp_path: Path) -> None:
    done = scu("getscu", node, "-S", "-od", tmp_path, "-k", "QueryRetrieveLevel=STUDY")
    assert "0xa900" in done.stderr.lower() or "DoesNotMatch" in done.stderr
    asked = ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.3"]
    done = scu("getscu", node, "-S", "-od", tmp_path, *asked)
    assert done.returncode == 0, done.stderr
    shown = [made[name][i].sop_instance_uid for name in ("first", "second") for i in (0, 3)]
    assert uids(tmp_path) == set(shown)
    (path,) = (p for p in tmp_path.iterdir() if dcmread(p).SOPInstanceUID == shown[0])
    original = next(d for d in made["first"] if d.sop_instance_uid == shown[0])
    (tmp_path / "original.dcm").write_bytes(original.content)
    assert dcmread(path) == dcmread(tmp_path / "original.dcm")


def test_what_is_for_nobody_is_not_got(
    node: Node, made: dict[str, tuple[Document, ...]], tmp_path: Path
) -> None:
    for name in ("shadow", "forbidden"):
        uid = made[name][0].sop_instance_uid
        scu(
            "getscu", node, "-S", "-od", tmp_path, "-k", "QueryRetrieveLevel=IMAGE",
            "-k", f"SOPInstanceUID={uid}",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_report_classes_are_accepted_for_c_get_only(modality: ModalityStation) -> None:
    sr = "1.2.840.10008.5.1.4.1.1.88.34"
    for roles, expected in (([], False), ([build_role(sr, scp_role=True)], True)):
        with modality.associated(GET, sr, ext_neg=roles) as assoc:
            accepted = {context.abstract_syntax for context in assoc.accepted_contexts}
        assert (sr in accepted) is expected


def named(made: dict[str, tuple[Document, ...]], level: str, root: str) -> list[str]:
    """Return the keys that name `made["other"]`, or its SR alone, down to `level`."""
    sr = made["other"][0]
    keys = {
        "PATIENT": "PatientID=P-2",
        "STUDY": "StudyInstanceUID=1.2.4",
        "SERIES": f"SeriesInstanceUID={sr.series_instance_uid}",
        "IMAGE": f"SOPInstanceUID={sr.sop_instance_uid}",
    }
    levels = list(keys)[0 if root == "-P" else 1 :]
    above = levels[: levels.index(level) + 1]
    return [
        part
        for key in (f"QueryRetrieveLevel={level}", *map(keys.get, above))
        for part in ("-k", key)
    ]


LEVELS = [
    ("-P", "PATIENT"),
    *((r, lvl) for r in ("-P", "-S") for lvl in ("STUDY", "SERIES", "IMAGE")),
]


@pytest.mark.parametrize(("root", "level"), LEVELS)
def test_each_level_of_each_root_is_got(
    node: Node, made: dict[str, tuple[Document, ...]], tmp_path: Path, root: str, level: str
) -> None:
    done = scu("getscu", node, root, "-od", tmp_path, *named(made, level, root))
    assert done.returncode == 0, done.stderr
    sr, basic = (made["other"][i].sop_instance_uid for i in (0, 3))
    assert uids(tmp_path) == ({sr, basic} if level in ("PATIENT", "STUDY") else {sr})


@pytest.mark.parametrize(("root", "level"), LEVELS)
def test_each_level_of_each_root_is_moved(
    node: Node,
    made: dict[str, tuple[Document, ...]],
    tmp_path: Path,
    archive_port: int,
    root: str,
    level: str,
) -> None:
    with storescp(tmp_path / "archive", archive_port) as folder:
        done = scu("movescu", node, root, "-aem", "ARCHIVE", *named(made, level, root))
        assert done.returncode == 0, done.stderr
        sr, basic = (made["other"][i].sop_instance_uid for i in (0, 3))
        assert uids(folder) == ({sr, basic} if level in ("PATIENT", "STUDY") else {sr})


@pytest.mark.parametrize(("root", "level"), LEVELS)
def test_each_level_of_each_root_is_found(
    node: Node, made: dict[str, tuple[Document, ...]], tmp_path: Path, root: str, level: str
) -> None:
    keys = [key for key in named(made, level, root)[3::2] if not key.startswith("Query")]
    unique = {"PATIENT": "PatientID", "STUDY": "StudyInstanceUID"}
    unique |= {"SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
    found = find(node, tmp_path, level, *keys[:-1], unique[level], root=root)
    listed = {str(ds[unique[level]].value) for ds in found}
    assert keys[-1].partition("=")[2] in listed
    (tmp_path / "one").mkdir()
    (exact,) = find(node, tmp_path / "one", level, *keys, root=root)
    assert exact.QueryRetrieveLevel == level


@pytest.mark.parametrize(
    ("level", "keys", "count"),
    [
        ("STUDY", ["PatientName=?oe^*"], 1),
        ("STUDY", ["PatientName=*ОВА^ан*"], 1),
        ("STUDY", ["AccessionNumber=?2"], 1),
        ("STUDY", ["AccessionNumber=A*\\B*"], 2),
        ("STUDY", ["StudyDate=-20251231"], 1),
        ("STUDY", ["StudyDate=20200101", "PatientID=P-2"], 1),
        ("STUDY", ["StudyDate=20200101", "PatientID=4711"], 0),
        ("STUDY", ["SOPClassesInStudy=1.2.840.10008.5.1.4.1.1.88.11"], 2),
        ("SERIES", ["StudyInstanceUID=1.2.4", "Modality=S?"], 2),
        ("SERIES", ["StudyInstanceUID=1.2.4", "Modality=CT"], 0),
        ("SERIES", ["StudyInstanceUID=1.2.4", "SeriesDescription=*fracture*"], None),
        ("IMAGE", ["StudyInstanceUID=1.2.4", "VerificationFlag=UNVERIFIED"], 2),
        ("IMAGE", ["StudyInstanceUID=1.2.4", "InstanceNumber=999"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_usual_keys_and_wildcards(
    node: Node, made: object, tmp_path: Path, level: str, keys: list[str], count: int | None
) -> None:
    found = find(node, tmp_path, level, "SpecificCharacterSet=ISO_IR 192", *keys)
    assert len(found) == count if count is not None else found


@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("STUDY", ["StudyDate=*"]),
        ("STUDY", ["StudyTime=*", "PatientID"]),
        ("STUDY", ["ProcedureCodeSequence"]),
        ("STUDY", ["ProcedureCodeSequence[0].CodeValue"]),
        ("STUDY", ["OtherPatientIDsSequence[0].PatientID"]),
        ("STUDY", ["ModalitiesInStudy=CT\\SR"]),
        ("STUDY", ["NumberOfStudyRelatedInstances=*"]),
        ("SERIES", ["RequestAttributesSequence[0].ScheduledProcedureStepID"]),
        ("INSTANCE", ["SOPInstanceUID", "InstanceNumber=*"]),
    ],
)
def test_keys_as_other_products_send_them_match(
    node: Node, made: object, tmp_path: Path, level: str, keys: list[str]
) -> None:
    study = "StudyInstanceUID=1.2.4"
    assert find(node, tmp_path, level, study, *keys)


def got_as(node: Node, *sop_classes: str) -> tuple[int, list[Dataset]]:
    """Return the last status of a C-GET of study 1.2.4, and what an SCP of these classes got."""
    kept = []

    def on_store(event: evt.Event) -> int:
        kept.append(event.dataset)
        return 0

    roles = [build_role(uid, scp_role=True) for uid in sop_classes]
    handlers = [(evt.EVT_C_STORE, on_store)]
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", "1.2.4"
    with ModalityStation(node.port).associated(
        GET, *sop_classes, ext_neg=roles, evt_handlers=handlers
    ) as assoc:
        statuses = [status.Status for status, _ in assoc.send_c_get(keys, GET)]
    return statuses[-1], kept


@pytest.mark.parametrize("name", ["comprehensive", "enhanced"])
def test_the_sr_class_that_the_requestor_takes_is_got(
    node: Node, made: dict[str, tuple[Document, ...]], name: str
) -> None:
    status, (report,) = got_as(node, SR_CLASSES[name])
    assert status == 0xB000  # the Basic Text SR was not taken
    assert report.SOPClassUID == SR_CLASSES[name]
    made_as = {d.sop_class_uid: d.sop_instance_uid for d in made["other"]}
    assert report.SOPInstanceUID == made_as[SR_CLASSES[name]]


def test_a_requestor_that_takes_no_sr_class_is_told_so(
    node: Node, made: object, caplog: pytest.LogCaptureFixture
) -> None:
    status, kept = got_as(node, "1.2.840.10008.5.1.4.1.1.104.1")
    assert (status, kept) == (0xA702, [])
    assert "MODALITY takes no SR class" in caplog.text


# C-MOVE


@contextmanager
def strict_archive(port: int, *sop_classes: str) -> Iterator[list[Dataset]]:
    """Run an SCP of these SOP classes; yield what it was sent."""
    ae, kept = AE("ARCHIVE"), []
    for uid in (*sop_classes, "1.2.840.10008.1.1"):
        ae.add_supported_context(uid)

    def on_store(event: evt.Event) -> int:
        kept.append(event.dataset)
        return 0

    handlers = [(evt.EVT_C_STORE, on_store)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield kept
    finally:
        server.shutdown()


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "recast"])
def test_the_sr_class_that_the_destination_takes_is_moved(
    node: Node, archive_port: int, is_stored: bool
) -> None:
    wanted, classes = SR_CLASSES["comprehensive"], ("comprehensive3d",)
    made = VARIANTS if is_stored else classes
    add = {"StudyInstanceUID": generate_uid(), "classes": made}
    report = add_result(node.ledger, node.spool, **add)[0]
    source = reports.read(report.content).CurrentRequestedProcedureEvidenceSequence[0]
    source = source.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    device, options = device_uid(reports.ALGORITHM), options_of_model(reports.ALGORITHM)
    derived = object_uid("sr", wanted, source, device, options, 1)
    asked = {"QueryRetrieveLevel": "INSTANCE", "SOPInstanceUID": report.sop_instance_uid}
    with strict_archive(archive_port, wanted) as kept:
        statuses = [moved(node, "ARCHIVE", **asked)[-1].Status for _ in range(2)]
    assert statuses == [0x0000, 0x0000]
    assert {ds.SOPClassUID for ds in kept} == {wanted}
    (uid,) = {ds.SOPInstanceUID for ds in kept}
    assert uid == derived
    assert node.ledger.history.trace(uid).sop_instance_uid == source
    expected = reports.read(report.content)
    expected.SOPClassUID, expected.SOPInstanceUID = wanted, uid
    assert kept[0] == expected


def test_a_destination_that_takes_no_sr_class_is_0xa702(
    node: Node, made: object, archive_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {
        "QueryRetrieveLevel": "SERIES",
        "SeriesInstanceUID": made["other"][0].series_instance_uid,
    }
    with strict_archive(archive_port, "1.2.840.10008.5.1.4.1.1.104.1") as kept:
        statuses = moved(node, "ARCHIVE", **asked)
    assert statuses[-1].Status == 0xA702
    assert "ARCHIVE takes no SR class" in caplog.text
    assert kept == []


def test_a_destination_that_takes_no_context_at_all_is_0xa702(
    node: Node, made: object, archive_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    ae = AE("ARCHIVE")
    ae.add_supported_context("1.2.840.10008.5.1.4.1.1.104.1")
    server = ae.start_server(("127.0.0.1", archive_port), block=False)
    try:
        statuses = moved(node, "ARCHIVE", **STUDY)
    finally:
        server.shutdown()
    assert [status.Status for status in statuses] == [0xFF00] * 4 + [0xA702]
    assert statuses[-1].NumberOfFailedSuboperations == 4
    (line,) = (line for line in caplog.messages if "ARCHIVE takes no" in line)
    assert line.startswith("4 objects not sent: ARCHIVE takes no SR class, no 1.2.840.10008.5.1.4.")
    assert scu("echoscu", node).returncode == 0


def test_a_requestor_that_is_no_storage_scp_gets_0xa702(
    modality: ModalityStation, made: object, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Dataset()
    asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", "1.2.3"
    with modality.associated(GET) as assoc:
        statuses = [status.Status for status, _ in assoc.send_c_get(asked, GET)]
    assert statuses[-1] == 0xA702
    assert caplog.text.count("MODALITY takes no SR class") == 1


def move(node: Node, to: str, *keys: str) -> subprocess.CompletedProcess[str]:
    options = [part for key in keys for part in ("-k", key)]
    return scu("movescu", node, "-S", "-aem", to, *options)


def test_a_study_is_moved_to_a_peer(
    node: Node, made: dict[str, tuple[Document, ...]], tmp_path: Path, archive_port: int
) -> None:
    with storescp(tmp_path / "archive", archive_port) as folder:
        done = move(node, "ARCHIVE", "QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.4")
        assert done.returncode == 0, done.stderr
        assert uids(folder) == {made["other"][i].sop_instance_uid for i in (0, 3)}


def moved(node: Node, to: str, **keys: str) -> list[Dataset]:
    asked = Dataset()
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    with ModalityStation(node.port).associated(MOVE) as assoc:
        return [status for status, _ in assoc.send_c_move(asked, to, MOVE)]


STUDY = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3"}


def test_sub_operations_are_counted(
    node: Node, made: object, tmp_path: Path, archive_port: int
) -> None:
    with storescp(tmp_path / "archive", archive_port):
        statuses = moved(node, "ARCHIVE", **STUDY)
    assert [status.Status for status in statuses] == [0xFF00] * 4 + [0x0000]
    assert [s.NumberOfCompletedSuboperations for s in statuses] == [1, 2, 3, 4, 4]
    assert [s.NumberOfRemainingSuboperations for s in statuses[:4]] == [3, 2, 1, 0]


@pytest.mark.parametrize("to", ["NOBODY", "ARCHIVE"], ids=["unknown", "switched off"])
def test_an_unknown_destination_is_0xa801(
    node: Node, made: object, caplog: pytest.LogCaptureFixture, to: str
) -> None:
    done = move(node, to, "QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.3")
    assert "0xa801" in done.stderr.lower() or "MoveDestinationUnknown" in done.stderr
    assert f"moves to {to}" in caplog.text


def test_a_destination_that_rejects_gets_nothing_and_stops_nobody(
    node: Node, made: object, tmp_path: Path, archive_port: int
) -> None:
    with storescp(tmp_path / "archive", archive_port, "--refuse"):
        statuses = moved(node, "ARCHIVE", **STUDY)
    assert [status.Status for status in statuses] == [0xA801]
    assert scu("echoscu", node).returncode == 0


def test_a_move_without_its_key_is_0xa900(
    node: Node, made: object, tmp_path: Path, archive_port: int
) -> None:
    with storescp(tmp_path / "archive", archive_port) as folder:
        statuses = moved(node, "ARCHIVE", QueryRetrieveLevel="STUDY", StudyInstanceUID="")
        assert [status.Status for status in statuses] == [0xA900]
        statuses = moved(
            node, "ARCHIVE", QueryRetrieveLevel="STUDY", StudyInstanceUID=generate_uid()
        )
        assert [status.Status for status in statuses] == [0x0000]
        assert list(folder.iterdir()) == []


# Orthanc


def test_orthanc_finds_and_fetches_the_reports(
    node: Node, made: dict[str, tuple[Document, ...]], tmp_path: Path
) -> None:
    orthanc = Orthanc(tmp_path / "orthanc", node.port)
    retrieval = node.listener._retrieval
    before = retrieval._settings
    peers = before.peers | {"orthanc": orthanc.peer}
    node.listener.take(before.model_copy(update={"peers": peers}))
    try:
        orthanc.start()

        def ask(path: str, body: Any) -> Any:
            return orthanc.post(path, json.dumps(body).encode())

        keys = {"StudyInstanceUID": "1.2.4", "ModalitiesInStudy": "", "StudyDate": ""}
        query = ask("/modalities/chexfract/query", {"Level": "Study", "Query": keys})["ID"]
        assert len(orthanc.get(f"/queries/{query}/answers")) == 1
        ask(f"/queries/{query}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
        kept = orthanc.get("/instances?expand")
        uids = {one["MainDicomTags"]["SOPInstanceUID"] for one in kept}
        assert uids == {made["other"][i].sop_instance_uid for i in (0, 3)}
    finally:
        orthanc.stop()
        node.listener.take(before)
