"""Queries and retrievals stand in the audit trail with who asked, what, and where it went."""

from __future__ import annotations

import base64
import subprocess
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import httpx2
import pytest
from listening import Node, listening
from peers import need
from pydicom import dcmread
from pydicom.filereader import read_dataset
from results import add_result
from serving import SECRET, Api, serving
from stations import free_ports

from dicom_node.base.errors import Unreachable
from dicom_node.dimse.archive import Archive
from dicom_node.operate.audit import Auditor
from dicom_node.settings import Audit, Peer, Settings
from dicom_node.store.ledger import Ledger
from dicom_node.store.uses import Use, noting
from dicom_node.web.preview import Previews

pytestmark = pytest.mark.peer

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
TEXT = "1.2.840.10008.5.1.4.1.1.88.11"


class Trail:
    """What the auditor of a node writes."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        assert settings.audit_file is not None
        self._file = settings.audit_file
        self._auditor = Auditor(settings, ledger)
        self._auditor.follow()
        self._seen = len(self._file.read_text().splitlines()) if self._file.exists() else 0

    def new(self, count: int) -> list[ET.Element]:
        """Return what was written since the last call, which must be `count` messages."""
        end = time.monotonic() + 10
        found: list[ET.Element] = []
        while True:
            self._auditor.follow()
            text = self._file.read_text() if self._file.exists() else ""
            found = [ET.fromstring(line) for line in text.splitlines()[self._seen :]]
            if len(found) >= count or time.monotonic() > end:
                break
            time.sleep(0.05)
        self._seen += len(found)
        assert len(found) == count
        return found


def of(element: ET.Element, path: str, name: str) -> list[str | None]:
    return [one.get(name) for one in element.findall(path)]


def participants(message: ET.Element) -> list[tuple[str | None, str | None, str | None]]:
    found = []
    for one in message.findall("ActiveParticipant"):
        role = one.find("RoleIDCode")
        name = (one.get("AlternativeUserID") or one.get("UserID") or "").removeprefix("AETITLES=")
        found.append((name, role.get("csd-code") if role is not None else None,
                      one.get("UserIsRequestor")))  # fmt: skip
    return found


def things(message: ET.Element) -> dict[str | None, list[tuple[str | None, str | None]]]:
    return {
        one.get("ParticipantObjectID"): [
            (c.get("UID"), c.get("NumberOfInstances")) for c in one.findall("SOPClass")
        ]
        for one in message.findall("ParticipantObjectIdentification")
    }


def query(message: ET.Element) -> bytes:
    found = message.find("*/ParticipantObjectQuery")
    assert found is not None
    return base64.b64decode(found.text or "")


def event(message: ET.Element) -> tuple[str | None, str | None, str | None]:
    identification = message.find("EventIdentification")
    assert identification is not None
    (code,) = of(message, "EventIdentification/EventID", "csd-code")
    return (
        code,
        identification.get("EventActionCode"),
        identification.get("EventOutcomeIndicator"),
    )


# Query/Retrieve


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("CHEXFRACT_AUDIT__FILE", str(tmp_path / "audit.xml"))
    with listening(tmp_path / "node") as running:
        add_result(running.ledger, running.spool, StudyInstanceUID="1.2.3", PatientID="P-1")
        yield running


def scu(program: str, node: Node, *arguments: str) -> int:
    command = [need(program), "-aet", "MODALITY", "-aec", "CHEXFRACT", *arguments]
    command += ["127.0.0.1", str(node.port)]
    return subprocess.run(command, capture_output=True, timeout=30).returncode


STUDY = ("-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.3")


def test_a_query_is_noted_with_its_keys(node: Node) -> None:
    trail = Trail(node.settings, node.ledger)
    assert scu("findscu", node, *STUDY, "-k", "PatientName=Doe*") == 0
    (message,) = trail.new(1)
    assert event(message) == ("110112", "E", "0")
    assert participants(message) == [
        ("MODALITY", "110153", "true"),
        ("CHEXFRACT", "110152", "false"),
    ]
    assert list(things(message)) == [FIND]
    (syntax,) = of(message, "*/ParticipantObjectDetail", "value")
    implicit = base64.b64decode(syntax or "") == b"1.2.840.10008.1.2"
    asked = read_dataset(BytesIO(query(message)), implicit, True)
    assert (asked.StudyInstanceUID, asked.PatientName) == ("1.2.3", "Doe*")


def test_a_query_that_fails_is_noted_as_such(node: Node) -> None:
    trail = Trail(node.settings, node.ledger)
    scu("findscu", node, "-S", "-k", "QueryRetrieveLevel=NONSENSE")
    (message,) = trail.new(1)
    assert event(message) == ("110112", "E", "4")


def test_what_was_got_is_noted_by_study_patient_and_sop_class(node: Node, tmp_path: Path) -> None:
    trail = Trail(node.settings, node.ledger)
    (tmp_path / "got").mkdir()
    assert scu("getscu", node, "-od", str(tmp_path / "got"), *STUDY) == 0
    assert len(list((tmp_path / "got").iterdir())) == 2
    (message,) = trail.new(1)
    assert event(message) == ("110104", "R", "0")
    assert participants(message) == [
        ("CHEXFRACT", "110153", "false"),
        ("MODALITY", "110152", "true"),
    ]
    assert things(message) == {"1.2.3": [(TEXT, "1"), (SR, "1")], "P-1": []}


def test_what_was_moved_is_noted_with_where_it_went(node: Node, tmp_path: Path) -> None:
    trail = Trail(node.settings, node.ledger)
    with Archive("ARCHIVE", tmp_path / "archive", free_ports(1)[0]) as archive:
        peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=archive.port)
        peers = node.settings.peers | {"archive": peer}
        node.listener.take(node.settings.model_copy(update={"peers": peers}))
        assert scu("movescu", node, "-aem", "ARCHIVE", *STUDY) == 0
        assert archive.wait_for(2, 10)
        assert {dcmread(file).StudyInstanceUID for file in archive.files} == {"1.2.3"}
    (message,) = trail.new(1)
    assert event(message) == ("110104", "R", "0")
    assert participants(message) == [
        ("CHEXFRACT", "110153", "false"),
        ("ARCHIVE", "110152", "false"),
        ("MODALITY", None, "true"),
    ]
    assert things(message)["1.2.3"] == [(TEXT, "1"), (SR, "1")]


def test_without_an_audit_trail_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHEXFRACT_AUDIT__ENABLED", "false")
    with listening(tmp_path) as node:
        before = node.ledger.history.newest_event()
        assert scu("findscu", node, *STUDY) == 0
        assert node.ledger.history.newest_event() == before
    assert not list(tmp_path.rglob("audit*"))


def test_the_ledger_keeps_a_use_for_a_repository_only(node: Node) -> None:
    before = node.ledger.history.newest_event()
    assert scu("findscu", node, *STUDY) == 0
    assert node.ledger.history.newest_event() == before
    chosen = Audit(file=node.settings.audit.file, syslog="udp://127.0.0.1:9")
    settings = node.settings.model_copy(update={"audit": chosen})
    noting(settings, node.ledger)(Use("queried", "MODALITY", FIND))
    assert node.ledger.history.newest_event() == before + 1


def test_a_trail_that_cannot_be_written_does_not_stop_the_use(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unreachable("the ledger gives no answer")

    monkeypatch.setattr(node.ledger.history, "note", away)
    (tmp_path / "file").touch()
    chosen = Audit(file=str(tmp_path / "file" / "audit.xml"), syslog="udp://127.0.0.1:9")
    settings = node.settings.model_copy(update={"audit": chosen})
    noting(settings, node.ledger)(Use("queried", "MODALITY", FIND))
    assert "missing in the audit trail" in caplog.text
    assert "missing in the audit repository" in caplog.text


# DICOMweb


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("CHEXFRACT_AUDIT__FILE", str(tmp_path / "audit.xml"))
    with serving(tmp_path / "node") as running:
        add_result(running.ledger, running.spool, StudyInstanceUID="1.2.3", PatientID="P-1")
        yield running


def ask(api: Api, path: str, accept: str = "*/*", secret: str = SECRET) -> None:
    headers = {"Authorization": f"Bearer {secret}", "Accept": accept}
    request = urllib.request.Request(f"{api.url}/dicom-web{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.read()


def test_a_web_query_is_noted_with_its_parameters(api: Api) -> None:
    trail = Trail(api.settings, api.ledger)
    ask(api, "/studies?PatientID=P-1")
    (message,) = trail.new(1)
    assert event(message) == ("110112", "E", "0")
    assert list(things(message)) == ["/dicom-web/studies"]
    assert query(message) == b"PatientID=P-1"
    assert of(message, "ActiveParticipant", "NetworkAccessPointID")[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "accept", "code", "objects"),
    [
        ("/studies/1.2.3", "*/*", "110104", [(TEXT, "1"), (SR, "1")]),
        ("/studies/1.2.3/metadata", "*/*", "110104", [(TEXT, "1"), (SR, "1")]),
        ("/studies/1.2.3/rendered", "text/html", "110103", [(TEXT, "1"), (SR, "1")]),
    ],
)
def test_what_was_retrieved_by_web_is_noted(
    api: Api, path: str, accept: str, code: str, objects: list[tuple[str, str]]
) -> None:
    trail = Trail(api.settings, api.ledger)
    ask(api, path, accept)
    (message,) = trail.new(1)
    assert event(message) == (code, "R", "0")
    assert things(message) == {"1.2.3": objects, "P-1": []}
    assert "DICOMweb secret" in [one for one, _, _ in participants(message)]


@contextmanager
def signed_in(api: Api) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, trust_env=False) as browser:
        browser.post("/sign-in", data={"name": "admin", "password": SECRET})
        yield browser


def test_who_looks_at_an_image_on_the_pages_is_noted(api: Api) -> None:
    image = api.ledger.history.recent()[0].sop_instance_uid
    with signed_in(api) as browser:
        trail = Trail(api.settings, api.ledger)
        assert browser.get(f"/images/{image}").status_code == 200
    (message,) = trail.new(1)
    assert event(message) == ("110103", "R", "0")
    assert participants(message)[0] == ("admin", None, "true")
    assert set(things(message)) == {"1.2.3", "P-1"}


def test_a_picture_that_was_seen_is_noted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Previews, "png", lambda *_: b"a picture")
    image = api.ledger.history.recent()[0].sop_instance_uid
    with signed_in(api) as browser:
        trail = Trail(api.settings, api.ledger)
        assert browser.get(f"/images/{image}/preview.png").content == b"a picture"
    (message,) = trail.new(1)
    assert event(message) == ("110103", "R", "0")
    assert set(things(message)) == {"1.2.3", "P-1"}


def test_the_worklist_is_noted_once_and_a_search_with_its_words(api: Api) -> None:
    with signed_in(api) as browser:
        trail = Trail(api.settings, api.ledger)
        page = browser.get("/").text
        assert browser.get("/").status_code == 200
        (message,) = trail.new(1)
        assert event(message) == ("110103", "R", "0")
        assert set(things(message)) == {"1.2.3", "P-1"}
        token = page.split('name="csrf" value="')[1].split('"')[0]
        found = browser.post("/find", data={"q": "Doe", "csrf": token}, follow_redirects=True)
        assert found.status_code == 200
    (message,) = trail.new(1)
    assert event(message) == ("110112", "E", "0")
    assert query(message) == b"q=Doe&state="


def test_a_live_page_is_noted_when_it_ends(api: Api) -> None:
    """A stream alone shows names, too."""
    with signed_in(api) as browser:
        trail = Trail(api.settings, api.ledger)
        with browser.stream("GET", "/live") as answer:
            assert next(answer.iter_lines()).startswith("data:")
    (message,) = trail.new(1)
    assert event(message) == ("110103", "R", "0")
    assert set(things(message)) == {"1.2.3", "P-1"}


def test_sign_in_and_sign_out_are_noted(api: Api) -> None:
    trail = Trail(api.settings, api.ledger)
    with signed_in(api) as browser:
        (message,) = trail.new(1)
        assert event(message) == ("110114", "E", "0")
        token = browser.get("/peers").text.split('name="csrf" value="')[1].split('"')[0]
        browser.post("/sign-out", data={"csrf": token})
    (message,) = trail.new(1)
    assert of(message, "EventIdentification/EventTypeCode", "csd-code") == ["110123"]
    assert participants(message)[0] == ("admin", None, "true")


def test_a_true_caller_behind_a_proxy_is_named(tmp_path: Path) -> None:
    with serving(tmp_path / "node", proxy_addresses=["127.0.0.1"]) as api:
        trail = Trail(api.settings, api.ledger)
        with httpx2.Client(base_url=api.url, trust_env=False) as browser:
            browser.headers["X-Forwarded-For"] = "192.0.2.9"
            browser.post("/sign-in", data={"name": "admin", "password": "wrong"})
        (message,) = trail.new(1)
        assert event(message) == ("110114", "E", "4")
        assert of(message, "ActiveParticipant", "NetworkAccessPointID")[0] == "192.0.2.9"


def test_a_stranger_leaves_no_retrieval(api: Api) -> None:
    trail = Trail(api.settings, api.ledger)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(api, "/studies/1.2.3", secret="wrong")
    trail.new(0)
