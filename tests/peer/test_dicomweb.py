"""dicomweb-client finds, retrieves and stores; strangers, forgers and nonsense do not."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
import reports
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session
from listening import radiograph
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from results import add_result
from serving import SECRET, Api, serving

from worker.report.sr import Document

pytestmark = pytest.mark.peer

BEARER = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.fixture(scope="module")
def made(api: Api) -> dict[str, tuple[Document, ...]]:
    def add(study: str, **more: Any) -> tuple[Document, ...]:
        return add_result(api.ledger, api.spool, StudyInstanceUID=study, **more)

    script = "<script>alert(1)</script>"
    other = {"PatientName": "Doe^Jane", "PatientID": "P-2", "StudyDescription": script}
    return {
        "first": add("1.2.3"),
        "other": add("1.2.4", StudyDate="20200101", **other),
        "shadow": add("1.2.5", mode="shadow"),
    }


@pytest.fixture
def client(api: Api) -> DICOMwebClient:
    session = create_session()
    session.headers.update(BEARER)
    return DICOMwebClient(f"{api.url}/dicom-web", session=session)


def get(
    api: Api, path: str, headers: dict[str, str] | None = None, **query: Any
) -> httpx2.Response:
    return httpx2.get(f"{api.url}/dicom-web{path}", params=query, headers=BEARER | (headers or {}))


def where(document: Document, study: str) -> str:
    series = f"/studies/{study}/series/{document.series_instance_uid}"
    return f"{series}/instances/{document.sop_instance_uid}"


# QIDO-RS


def test_studies_are_found(client: DICOMwebClient, made: dict[str, tuple[Document, ...]]) -> None:
    found = {one["0020000D"]["Value"][0]: one for one in client.search_for_studies()}
    assert set(found) == {"1.2.3", "1.2.4"}
    assert found["1.2.3"]["00100010"]["Value"] == [{"Alphabetic": "Иванова^Анна"}]
    assert found["1.2.3"]["00080061"]["Value"] == ["SR"]
    assert found["1.2.3"]["00201208"]["Value"] == [2]
    assert found["1.2.3"]["00081190"]["Value"][0].endswith("/dicom-web/studies/1.2.3")


@pytest.mark.parametrize(
    ("filters", "studies"),
    [
        ({"PatientName": "doe*"}, {"1.2.4"}),
        ({"00100020": "P-2"}, {"1.2.4"}),
        ({"StudyDate": "20200101-20201231"}, {"1.2.4"}),
        ({"StudyInstanceUID": "1.2.4,1.2.5"}, {"1.2.4"}),
        ({"ModalitiesInStudy": "CT"}, set()),
    ],
)
def test_studies_are_found_by_their_attributes(
    client: DICOMwebClient, made: object, filters: dict[str, str], studies: set[str]
) -> None:
    found = client.search_for_studies(search_filters=filters)
    assert {one["0020000D"]["Value"][0] for one in found} == studies


def test_series_and_instances_are_found(
    client: DICOMwebClient, made: dict[str, tuple[Document, ...]]
) -> None:
    report = made["first"][0]
    series = client.search_for_series("1.2.3")
    assert report.series_instance_uid in {one["0020000E"]["Value"][0] for one in series}
    found = client.search_for_instances("1.2.3", report.series_instance_uid)
    assert report.sop_instance_uid in {one["00080018"]["Value"][0] for one in found}
    assert len(client.search_for_instances()) == 4
    assert "00100010" in client.search_for_instances()[0]


def test_matches_are_told_in_parts(api: Api, made: object) -> None:
    answers = [get(api, "/instances", limit=3, offset=offset) for offset in (0, 3, 6)]
    assert [len(answer.json()) for answer in answers] == [3, 1, 0]
    assert "more results" in answers[0].headers["Warning"]
    assert "Warning" not in answers[1].headers
    uids = [one["00080018"]["Value"][0] for answer in answers for one in answer.json()]
    assert len(set(uids)) == 4


def test_fields_are_included_when_asked_for(api: Api, made: object) -> None:
    def has(tag: str, **query: str) -> bool:
        return tag in get(api, "/instances", **query).json()[0]

    assert not has("00080070")
    assert has("00080070", includefield="Manufacturer")
    assert has("00080070", includefield="PatientAge,00080070")
    assert has("00080070", includefield="all")
    assert has("00080070", Manufacturer="*")


def test_fuzzy_matching_is_said_to_be_literal(api: Api, made: object) -> None:
    answer = get(api, "/studies", fuzzymatching="true", PatientName="Jane")
    assert answer.json() == []
    assert "fuzzymatching" in answer.headers["Warning"]


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/studies", {"Nonsense": "1"}, 400),
        ("/studies", {"limit": "-1"}, 400),
        ("/studies", {"limit": "many"}, 400),
        ("/studies", {"SeriesNumber": "first"}, 400),
        ("/studies", {"PatientName.CodeValue": "1"}, 400),
        ("/studies", {"includefield": "FFFFFFFF"}, 400),
        ("/studies", {"accept": "text/csv"}, 406),
        ("/studies/9.9", {}, 404),
        ("/studies/1.2.5", {}, 404),
        ("/studies/..%2f..%2fetc/metadata", {}, 404),
        ("/studies/1.2.3x", {}, 422),
        ("/studies/1.2.3/rendered", {"accept": "image/jpeg"}, 406),
    ],
)
def test_what_cannot_be_answered_is_refused(
    api: Api, made: object, path: str, query: dict[str, str], status: int
) -> None:
    assert get(api, path, **query).status_code == status


def test_sequences_are_searched(api: Api, made: object) -> None:
    name = "ConceptNameCodeSequence"
    code = get(api, "/instances", includefield=name).json()[0]["0040A043"]["Value"][0]
    value = code["00080100"]["Value"][0]
    assert get(api, "/instances", **{f"{name}.CodeValue": value}).json()
    assert not get(api, "/instances", **{f"{name}.CodeValue": "none"}).json()


# WADO-RS


def test_a_study_is_retrieved(
    client: DICOMwebClient, made: dict[str, tuple[Document, ...]]
) -> None:
    found = {str(ds.SOPInstanceUID): ds for ds in client.retrieve_study("1.2.3")}
    shown = {made["first"][i].sop_instance_uid: made["first"][i].content for i in (0, 3)}
    assert set(found) == set(shown)
    for uid, content in shown.items():
        assert found[uid] == reports.read(content)


def test_series_instance_and_metadata_are_retrieved(
    client: DICOMwebClient, made: dict[str, tuple[Document, ...]]
) -> None:
    report = made["first"][0]
    uids = ("1.2.3", report.series_instance_uid)
    assert client.retrieve_series(*uids)
    instance = client.retrieve_instance(*uids, report.sop_instance_uid)
    assert instance == reports.read(report.content)
    metadata = client.retrieve_instance_metadata(*uids, report.sop_instance_uid)
    assert Dataset.from_json(metadata) == reports.read(report.content)
    assert len(client.retrieve_study_metadata("1.2.3")) == 2


def test_the_bytes_are_those_of_the_spool(api: Api, made: dict[str, tuple[Document, ...]]) -> None:
    report = made["first"][0]
    answer = get(api, where(report, "1.2.3"), {"Accept": "application/dicom"})
    assert answer.content == report.content
    assert answer.headers["Content-Type"] == "application/dicom"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_bulk_data_is_apart_from_the_metadata(tmp_path: Path) -> None:
    with serving(tmp_path) as api:
        document = add_result(api.ledger, api.spool, seconds=("pdf",))[3]
        told = get(api, where(document, "1.2.3") + "/metadata").json()[0]
        uri = told["00420011"]["BulkDataURI"]
        path = uri.partition("/dicom-web")[2]
        answer = get(api, path)
        assert reports.read(document.content).EncapsulatedDocument in answer.content


def test_a_report_is_rendered_for_people(api: Api, made: dict[str, tuple[Document, ...]]) -> None:
    path = where(made["other"][0], "1.2.4") + "/rendered"
    text = get(api, path, {"Accept": "text/plain"})
    assert text.headers["Content-Type"].startswith("text/plain")
    assert reports.TEXT in text.text
    assert "Patient: Doe^Jane" in text.text
    page = get(api, path, {"Accept": "text/html"})
    assert reports.TEXT in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_markup_in_a_report_is_only_text(tmp_path: Path) -> None:
    with serving(tmp_path) as api:
        document = add_result(api.ledger, api.spool, PatientName="<script>alert(1)</script>")[0]
        page = get(api, where(document, "1.2.3") + "/rendered", {"Accept": "text/html"})
        assert "&lt;script&gt;" in page.text
        assert "<script" not in page.text


# STOW-RS


def posted(
    api: Api, *contents: bytes, path: str = "/studies", kind: str = "", end: bytes = b"--\r\n"
) -> httpx2.Response:
    body = b"".join(
        b"--mark\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n"
        for content in contents
    )
    kind = kind or 'multipart/related;type="application/dicom";boundary=mark'
    return httpx2.post(
        f"{api.url}/dicom-web{path}",
        content=body + b"--mark" + end,
        headers=BEARER | {"Content-Type": kind},
    )


def as_bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def test_images_are_stored(api: Api, client: DICOMwebClient) -> None:
    sent = [reports.again(ds) for ds in (radiograph(rows=600, columns=900), radiograph())]
    answer = client.store_instances(sent)
    assert len(answer.ReferencedSOPSequence) == 2
    for ds in sent:
        kept = api.ledger.instances.known(ds.SOPInstanceUID)
        assert kept is not None
        assert (kept.calling_ae, kept.calling_host) == ("STOW", "127.0.0.1")
        assert dcmread(api.spool.path(kept.file)).PixelData == ds.PixelData
    assert client.store_instances(sent[:1]).ReferencedSOPSequence  # again: known, and fine


def failures(answer: httpx2.Response) -> list[int]:
    found = Dataset.from_json(answer.json())
    items = [*found.get("FailedSOPSequence", []), *found.get("OtherFailuresSequence", [])]
    return [item.FailureReason for item in items]


def test_each_instance_has_its_own_answer(api: Api) -> None:
    good, other, broken = radiograph(), radiograph("1.2.840.10008.5.1.4.1.1.2"), radiograph()
    del broken.StudyInstanceUID
    answer = posted(api, as_bytes(good), as_bytes(other), b"no DICOM" * 99, as_bytes(broken))
    assert answer.status_code == 202
    assert failures(answer) == [0x0122, 0xC000, 0xC000]
    assert api.ledger.instances.known(good.SOPInstanceUID) is not None
    assert list((api.spool.root / "incoming").iterdir()) == []


def test_only_images_of_the_named_study_are_taken(api: Api) -> None:
    ds = radiograph()
    answer = posted(api, as_bytes(ds), path="/studies/1.2.99")
    assert (answer.status_code, failures(answer)) == (409, [0xC409])
    assert api.ledger.instances.known(ds.SOPInstanceUID) is None
    answer = posted(api, as_bytes(ds), path=f"/studies/{ds.StudyInstanceUID}")
    assert answer.status_code == 200


def test_another_sop_class_than_the_file_says_is_0xa900(api: Api) -> None:
    ds = reports.again(radiograph())
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=False)
    assert failures(posted(api, buffer.getvalue())) == [0xA900]


@pytest.mark.parametrize(
    ("kind", "end", "status"),
    [
        ("application/json", b"--\r\n", 415),
        ('multipart/related;type="application/dicom"', b"--\r\n", 415),
        ("multipart/form-data;boundary=mark", b"--\r\n", 415),
        ('multipart/related;type="text/xml";boundary=mark', b"--\r\n", 415),
        ("", b"", 400),
        ("multipart/related;boundary=other", b"--\r\n", 400),
    ],
)
def test_a_body_that_is_something_else_is_refused(
    api: Api, kind: str, end: bytes, status: int
) -> None:
    answer = posted(api, as_bytes(radiograph()), kind=kind, end=end)
    assert answer.status_code == status
    assert list((api.spool.root / "incoming").iterdir()) == []


def test_a_full_disk_is_503(tmp_path: Path) -> None:
    with serving(tmp_path) as api:
        api.spool.min_free = 1 << 62
        assert posted(api, as_bytes(radiograph())).status_code == 503


# Who may


@pytest.mark.parametrize("path", ["/studies", "/studies/1.2.3", "/studies/1.2.3/rendered"])
def test_strangers_learn_nothing(api: Api, made: object, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = httpx2.get(f"{api.url}/dicom-web{path}", headers=headers)
        assert answer.status_code == 401
        assert "1.2.3" not in answer.text


def test_strangers_store_nothing(api: Api) -> None:
    kind = 'multipart/related;type="application/dicom";boundary=mark'
    answer = httpx2.post(
        f"{api.url}/dicom-web/studies", content=b"", headers={"Content-Type": kind}
    )
    assert answer.status_code == 401


def test_without_sign_in_localhost_needs_no_secret_but_other_names_do(tmp_path: Path) -> None:
    with serving(tmp_path, sign_in=False) as api:
        url = f"{api.url}/dicom-web/studies"
        assert httpx2.get(url).json() == []
        assert httpx2.get(url, headers={"Host": "evil.example"}).status_code == 403
        foreign = {"Origin": "http://evil.example", "Content-Type": "multipart/related"}
        assert httpx2.post(url, content=b"", headers=foreign).status_code == 403


def test_answers_are_json_of_the_dicom_model(api: Api, made: object) -> None:
    answer = get(api, "/studies", {"Accept": "application/dicom+json"})
    assert answer.headers["Content-Type"] == "application/dicom+json"
    assert all(Dataset.from_json(one).StudyInstanceUID for one in json.loads(answer.content))
