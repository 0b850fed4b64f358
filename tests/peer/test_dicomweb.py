"""dicomweb-client finds, retrieves and stores; strangers, forgers and nonsense do not."""

import gzip
import json
import subprocess
from collections.abc import Iterator
from email import policy
from email.parser import BytesParser
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx2
import numpy as np
import pytest
import reports
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session
from listening import radiograph
from peers import need
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless
from results import add_result, answer_job
from serving import SECRET, Api, serving

from dicom_node.operate import show
from dicom_node.store import catalogue
from dicom_node.web import preview
from worker.report.sr import Document

pytestmark = pytest.mark.peer

NATIVE = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
BEARER = {"Authorization": f"Bearer {SECRET}"}


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
    url = f"{api.url}/dicom-web{path}"
    return httpx2.get(url, params=query or None, headers=BEARER | (headers or {}), timeout=60)


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


def found(answer: httpx2.Response) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {one["0020000D"]["Value"][0] for one in answer.json()}


ALL = {"1.2.3", "1.2.4"}


@pytest.mark.parametrize(
    ("query", "studies"),
    [
        ("PatientName=Jane", set()),
        ("fuzzymatching=true&PatientName=jane", {"1.2.4"}),
        ("fuzzymatching=true&PatientName=DOE%20J", {"1.2.4"}),
        ("fuzzymatching=false&PatientName=jane", set()),
        ("emptyvaluematching=true&StudyDescription=%22%22", {"1.2.3"}),
        ("emptyvaluematching=true&PatientID=%22%22", set()),
        ("multiplevaluematching=true&PatientID=P-2,4711", ALL),
        ("multiplevaluematching=true&ModalitiesInStudy=CR%5CSR", set()),
        ("ModalitiesInStudy=CR,SR", ALL),
        ("ModalitiesInStudy=CR%5CSR", ALL),
        ("StudyDate=*", ALL),
        ("StudyDate=", ALL),
        ("StudyDate=-20251231", {"1.2.4"}),
        ("00080020=20200101", {"1.2.4"}),
        ("NumberOfStudyRelatedInstances=*", ALL),
        ("ProcedureCodeSequence.CodeValue=", ALL),
        ("limit=0", set()),
        ("limit=&offset=", ALL),
        ("StudyDate=2026.03.03", {"1.2.3"}),
        ("limit=10&offset=100000", set()),
    ],
)
def test_a_search_finds_what_the_standard_says(
    api: Api, made: object, query: str, studies: set[str]
) -> None:
    answer = get(api, f"/studies?{query}")
    assert found(answer) == studies
    assert "ignored" not in answer.headers.get("Warning", "")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("Nonsense=1", "Nonsense"),
        ("_=123", "_"),
        ("includefield=NoSuchKeyword", "includefield=NoSuchKeyword"),
        ("includefield=00091010", "includefield=00091010"),
        ("77771021=20260101", "77771021"),
        ("orderby=StudyTime", "orderby=StudyTime"),
        ("SeriesDescription=nothing", "SeriesDescription"),
        ("PatientName.CodeValue=1", "PatientName.CodeValue"),
        ("PixelData=1", "PixelData"),
        ("charset=latin1", "charset"),
        ("n%22%0d%0aSet-Cookie:x=1", "n???Set-Cookie?x"),
        ("&".join(f"unknown{n}=1" for n in range(300)), "and 290 more"),
    ],
)
def test_what_a_search_does_not_know_is_ignored_with_a_warning(
    api: Api, made: object, query: str, named: str
) -> None:
    answer = get(api, f"/studies?{query}")
    assert found(answer) == ALL
    warned = answer.headers["Warning"]
    assert warned.startswith('299 chexfract-node "')
    assert named in warned
    assert len(warned) < 2000


@pytest.mark.parametrize(
    ("order", "first"), [("StudyDate", "1.2.4"), ("-StudyDate", "1.2.3"), ("+00080020", "1.2.4")]
)
def test_studies_come_in_the_order_that_is_asked_for(
    api: Api, made: object, order: str, first: str
) -> None:
    answer = get(api, "/studies", orderby=order)
    assert answer.json()[0]["0020000D"]["Value"] == [first]
    assert "Warning" not in answer.headers


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/dicom+json", "application/dicom+json"),
        ("application/json", "application/json"),
        ("*/*", "application/dicom+json"),
        ("application/*;q=0.5, text/html", "application/dicom+json"),
        ("application/dicom+json;q=0.1, application/json", "application/json"),
        ('multipart/related; type="application/dicom+xml"', "multipart/related"),
        ("multipart/related;type=application/dicom+xml", "multipart/related"),
        ("text/html", None),
        ("application/dicom+json;q=0", None),
        ('multipart/related; type="application/dicom"', None),
    ],
)
def test_the_representation_is_the_one_that_the_client_takes(
    api: Api, made: object, accept: str, kind: str | None
) -> None:
    by_header = get(api, "/studies", {"Accept": accept})
    by_parameter = get(api, "/studies", {"Accept": "text/css"}, accept=accept)
    for answer in (by_header, by_parameter):
        if kind is None:
            assert answer.status_code == 406
        else:
            assert answer.status_code == 200
            assert answer.headers["Content-Type"].partition(";")[0] == kind


def test_a_plus_sign_in_a_parameter_need_not_be_encoded(api: Api, made: object) -> None:
    answer = get(api, "/studies?accept=application/dicom+json")
    assert answer.headers["Content-Type"] == "application/dicom+json"


def parts_of(answer: httpx2.Response) -> list[bytes]:
    """Return the contents of a multipart response, read by the standard library."""
    head = b"Content-Type: " + answer.headers["Content-Type"].encode() + b"\r\n\r\n"
    message = BytesParser(policy=policy.HTTP).parsebytes(head + answer.content)
    return [part.get_payload(decode=True) for part in message.iter_parts()]


def test_matches_and_metadata_are_had_as_xml(
    api: Api, made: dict[str, tuple[Document, ...]]
) -> None:
    accept = {"Accept": 'multipart/related; type="application/dicom+xml"'}
    studies = [ElementTree.fromstring(one) for one in parts_of(get(api, "/studies", accept))]
    names = {name.text for one in studies for name in one.iter(f"{NATIVE}FamilyName")}
    assert names >= {"Иванова", "Doe"}
    report = made["first"][0]
    (content,) = parts_of(get(api, where(report, "1.2.3") + "/metadata", accept))
    metadata = ElementTree.fromstring(content)
    tags = [one.get("keyword") for one in metadata.findall(f"{NATIVE}DicomAttribute")]
    assert tags == [element.keyword for element in reports.read(report.content)]
    assert reports.TEXT in {value.text for value in metadata.iter(f"{NATIVE}Value")}


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/studies", {"limit": "-1"}, 400),
        ("/studies", {"limit": "many"}, 400),
        ("/studies", {"StudyDate": "2026-03-03"}, 400),  # not the range from 2026 to 03-03
        ("/series", {"SeriesNumber": "first"}, 400),
        ("/studies", {"StudyDate": "yesterday"}, 400),
        ("/studies", {"limit": "１"}, 400),
        ("/studies", {"accept": "text/csv"}, 406),
        ("/studies/9.9", {}, 404),
        ("/studies/1.2.5", {}, 404),
        ("/studies/..%2f..%2fetc/metadata", {}, 404),
        ("/studies/1.2.3x", {}, 400),
        ("/studies/" + "1" * 65, {}, 400),
        ("/studies/1.2.3", {"accept": "application/dicom"}, 406),
        ("/studies/1.2.3/thumbnail", {}, 404),
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
    asked = "/studies/1.2.3/instances"
    assert get(api, asked, **{f"{name}.CodeValue": value}).json()
    assert not get(api, asked, **{f"{name}.CodeValue": "none"}).json()


def test_what_no_column_holds_is_not_searched_in_every_file(
    api: Api, made: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    read = catalogue.read_head
    monkeypatch.setattr(catalogue, "read_head", lambda path: opened.append(path) or read(path))
    for asked in ({"PatientComments": "none"}, {"Manufacturer": "none", "limit": "1"}):
        opened.clear()
        answer = get(api, "/series", **asked)
        assert answer.status_code == 200
        assert f"ignored, as not supported here: {next(iter(asked))}" in answer.headers["Warning"]
        assert len(opened) <= len(answer.json()), "at most one file a match"
        assert answer.json()
    assert get(api, "/studies/1.2.3/series", Manufacturer="none").json() == []


# WADO-RS


def test_a_study_is_retrieved(
    client: DICOMwebClient, made: dict[str, tuple[Document, ...]]
) -> None:
    got = {str(ds.SOPInstanceUID): ds for ds in client.retrieve_study("1.2.3")}
    shown = {made["first"][i].sop_instance_uid: made["first"][i].content for i in (0, 3)}
    assert set(got) == set(shown)
    for uid, content in shown.items():
        assert got[uid] == reports.read(content)


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
        body = get(api, where(document, "1.2.3") + "/metadata").json()[0]
        uri = body["00420011"]["BulkDataURI"]
        path = uri.partition("/dicom-web")[2]
        answer = get(api, path)
        document_in_file = reports.read(document.content)
        assert document_in_file.EncapsulatedDocument in answer.content
        pdf = document_in_file.EncapsulatedDocument[: document_in_file.EncapsulatedDocumentLength]
        for one in (path, where(document, "1.2.3") + "/rendered"):
            answer = get(api, one, {"Accept": "application/pdf"})
            assert answer.headers["Content-Type"] == "application/pdf"
            assert answer.content == pdf
        assert get(api, path, {"Accept": "application/octet-stream"}).content.startswith(b"%PDF-")


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
    api: Api,
    *contents: bytes,
    path: str = "/studies",
    kind: str = "",
    end: bytes = b"--\r\n",
    accept: str = "application/dicom+json",
) -> httpx2.Response:
    body = b"".join(
        b"--mark\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n"
        for content in contents
    )
    kind = kind or 'multipart/related;type="application/dicom";boundary=mark'
    return httpx2.post(
        f"{api.url}/dicom-web{path}",
        content=body + b"--mark" + end,
        headers=BEARER | {"Content-Type": kind, "Accept": accept},
        timeout=60,
    )


def as_bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def test_images_are_stored(api: Api, client: DICOMwebClient) -> None:
    sent = [reports.again(ds) for ds in (radiograph(rows=600, columns=900), radiograph())]
    answer = client.store_instances(sent)
    assert len(answer.ReferencedSOPSequence) == 2
    assert "Value" not in answer.to_json_dict()["00081190"]  # two studies have no one address
    for ds in sent:
        kept = api.ledger.instances.known(ds.SOPInstanceUID)
        assert kept is not None
        assert (kept.calling_ae, kept.calling_host) == ("STOW", "127.0.0.1")
        assert dcmread(api.spool.path(kept.file)).PixelData == ds.PixelData
    assert client.store_instances(sent[:1]).ReferencedSOPSequence  # again: known, and fine


@pytest.mark.parametrize("more", ["; charset=utf-8", '; start="<a>"; charset="UTF-8"; x=y'])
def test_a_client_may_say_that_its_body_is_utf_8(api: Api, more: str) -> None:
    kind = f'multipart/related; type="application/dicom"; boundary=mark{more}'
    assert posted(api, as_bytes(reports.again(radiograph())), kind=kind).status_code == 200
    assert posted(api, b"", kind=f"{kind}; charset=utf-7").status_code == 415


def test_what_was_stored_is_fetched_where_the_answer_says(api: Api, client: DICOMwebClient) -> None:
    ds = reports.again(radiograph())
    answer = client.store_instances([ds])
    study = f"{api.settings.web.url}/dicom-web/studies/{ds.StudyInstanceUID}"
    assert answer.RetrieveURL == study
    (item,) = answer.ReferencedSOPSequence
    where = f"{study}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    assert item.RetrieveURL == where
    uids = (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    assert client.retrieve_instance(*uids) == ds
    assert client.retrieve_instance_metadata(*uids)["00100020"]["Value"] == ["T1"]
    with pytest.raises(Exception, match="404"):
        client.retrieve_instance("1.2.3", *uids[1:])


def test_the_answer_to_a_store_is_had_as_xml(api: Api) -> None:
    ds = radiograph()
    answer = posted(api, as_bytes(ds), accept="application/dicom+xml")
    assert answer.headers["Content-Type"] == "application/dicom+xml"
    root = ElementTree.fromstring(answer.content)
    assert str(ds.SOPInstanceUID) in {value.text for value in root.iter(f"{NATIVE}Value")}
    refused = posted(api, as_bytes(radiograph()), accept="text/html")
    assert refused.status_code == 406


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


RELATED = 'multipart/related; type="application/dicom"; boundary=abc'
PART = b"Content-Type: application/dicom\r\n"


def multipart(
    content: bytes,
    boundary: bytes = b"abc",
    head: bytes = PART,
    lead: bytes = b"",
    pad: bytes = b"",
    tail: bytes = b"\r\n",
) -> bytes:
    mark = b"--" + boundary
    return lead + mark + pad + b"\r\n" + head + b"\r\n" + content + b"\r\n" + mark + b"--" + tail


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (RELATED, {}),
        (RELATED.replace('"', ""), {}),
        (RELATED.upper().replace("ABC", "abc"), {}),
        (RELATED.replace("abc", "-" * 27 + "f0d9"), {"boundary": b"-" * 27 + b"f0d9"}),
        (RELATED.replace("abc", '"gc0 pJq0M:08j"'), {"boundary": b"gc0 pJq0M:08j"}),
        (RELATED, {"lead": b"\r\n"}),
        (RELATED, {"lead": b"This is a message\r\n--abcd is not a boundary\r\n"}),
        (RELATED, {"pad": b" \t  "}),
        (RELATED, {"tail": b""}),
        (RELATED, {"tail": b" \r\nthe end\r\n--abc\r\n"}),
        (RELATED, {"head": b""}),
        (RELATED, {"head": PART + b"MIME-Version: 1.0\r\nContent-ID: <a@b>\r\n"}),
        ("application/dicom", None),
    ],
)
def test_bodies_are_read_as_rfc_2046_writes_them(
    api: Api, kind: str, body: dict[str, bytes] | None
) -> None:
    ds = radiograph()
    content = as_bytes(ds) if body is None else multipart(as_bytes(ds), **body)
    headers = BEARER | {"Content-Type": kind}
    answer = httpx2.post(f"{api.url}/dicom-web/studies", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    kept = api.ledger.instances.known(ds.SOPInstanceUID)
    assert dcmread(api.spool.path(kept.file)).PixelData == ds.PixelData


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_an_encoded_body_is_415(api: Api, encoding: str) -> None:
    headers = BEARER | {"Content-Type": RELATED, "Content-Encoding": encoding}
    content = gzip.compress(multipart(as_bytes(radiograph())))
    answer = httpx2.post(f"{api.url}/dicom-web/studies", content=content, headers=headers)
    assert answer.status_code == 415
    assert answer.headers["Accept-Encoding"] == "identity"


def test_parts_of_other_kinds_fail_each_for_itself(api: Api) -> None:
    good = as_bytes(radiograph())
    body = multipart(b"hello", head=b"Content-Type: text/plain\r\n", tail=b"")[: -len(b"--abc--")]
    headers = BEARER | {"Content-Type": RELATED}
    answer = httpx2.post(
        f"{api.url}/dicom-web/studies", content=body + multipart(good), headers=headers
    )
    assert (answer.status_code, failures(answer)) == (202, [0xC000])


def test_many_small_parts_are_counted_and_leave_few_lines(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    headers = BEARER | {"Content-Type": RELATED}
    small = b"--abc\r\n\r\nx\r\n"
    url = f"{api.url}/dicom-web/studies"
    answer = httpx2.post(url, content=small * 2_000 + b"--abc--", headers=headers)
    assert (answer.status_code, len(failures(answer))) == (409, 2_000)
    assert caplog.text.count("refused an Instance") <= 10
    answer = httpx2.post(url, content=small * 10_001 + b"--abc--", headers=headers)
    assert answer.status_code == 413
    assert list((api.spool.root / "incoming").iterdir()) == []


def test_a_full_disk_is_503(tmp_path: Path) -> None:
    with serving(tmp_path) as api:
        api.spool.min_free = 1 << 62
        assert posted(api, as_bytes(radiograph())).status_code == 503


@pytest.mark.parametrize("others", [[], ["modality"]])
def test_a_report_for_an_http_client_is_fetched_by_it(
    tmp_path: Path, others: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rule = {"name": "all", "send_to": ["@sender", *others], "allow_demonstration": True}
    with serving(tmp_path, rules=[rule]) as api:
        ds = reports.again(radiograph())
        assert posted(api, as_bytes(ds)).status_code == 200
        report = answer_job(api.ledger, api.spool, ds)[0]
        show.trace(api.settings, api.ledger, ds.SOPInstanceUID, as_json=True)
        printed = json.loads(capsys.readouterr().out)
        assert [one["destination"] for one in printed["deliveries"]] == others
        study = f"/studies/{ds.StudyInstanceUID}"
        if not others:
            assert printed["fetch"] == f"{api.settings.web.url}/dicom-web{study}"
            show.trace(api.settings, api.ledger, ds.SOPInstanceUID, as_json=False)
            assert "fetch it by WADO-RS" in capsys.readouterr().out
        client = DICOMwebClient(f"{api.url}/dicom-web", headers=BEARER)
        (fetched,) = client.retrieve_study(ds.StudyInstanceUID)
        assert fetched == reports.read(report.content)


# Pictures


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, str, Dataset]]:
    """A Secondary Capture beside its report: the node, its path, and the object."""
    with serving(tmp_path_factory.mktemp("page")) as api:
        document = add_result(api.ledger, api.spool, seconds=("sc",))[3]
        yield api, where(document, "1.2.3"), reports.read(document.content)


def test_a_secondary_capture_is_rendered(page: tuple[Api, str, Dataset]) -> None:
    api, path, ds = page
    for accept, expected in (("*/*", "JPEG"), ("image/jpeg", "JPEG"), ("image/png", "PNG")):
        for one in (path, f"{path}/frames/1"):
            answer = get(api, f"{one}/rendered", {"Accept": accept})
            assert answer.headers["Content-Type"] == f"image/{expected.lower()}"
            picture = Image.open(BytesIO(answer.content))
            assert (picture.format, picture.size) == (expected, (ds.Columns, ds.Rows))
    exact = Image.open(BytesIO(get(api, f"{path}/rendered", {"Accept": "image/png"}).content))
    assert exact.tobytes() == ds.PixelData[: ds.Rows * ds.Columns]


@pytest.fixture(scope="module")
def radiographs(api: Api, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Files of images that were stored, and where they are: of 12 bits, inverse, and signed."""
    folder, made = tmp_path_factory.mktemp("images"), {}
    for name in ("plain", "inverse", "rescaled", "compressed"):
        ds = reports.again(radiograph(rows=96, columns=80))
        grey = np.arange(96 * 80).reshape(96, 80) * 4095 // (96 * 80 - 1)
        if name == "inverse":
            ds.PhotometricInterpretation = "MONOCHROME1"
        if name == "rescaled":
            ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 15, 1
            ds.RescaleSlope, ds.RescaleIntercept, grey = "0.5", "1000", grey - 2000
        ds.PixelData = grey.astype("<i2").tobytes()
        ds.WindowCenter, ds.WindowWidth = "1500", "1200"
        uid = ds.SOPInstanceUID
        if name == "compressed":
            ds.compress(RLELossless)
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
        path = folder / f"{name}.dcm"
        ds.save_as(path, enforce_file_format=True)
        answer = posted(api, path.read_bytes())
        assert answer.status_code == 200, answer.text
        study = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
        made[name] = path, f"{study}/instances/{ds.SOPInstanceUID}"
    return made


def grey_levels(path: Path, center: float, width: float, function: str) -> np.ndarray:
    """Return what PS3.3 C.11.2.1.2 and C.11.2.1.3 say, in double precision and by loops."""
    ds = dcmread(path)
    slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    x = ds.pixel_array.astype(float) * slope + intercept
    if function == "linear":
        y = (x - (center - 0.5)) / (width - 1) + 0.5
    elif function == "linear-exact":
        y = (x - center) / width + 0.5
    else:
        y = 1 / (1 + np.exp(-4 * (x - center) / width))
    y = np.clip(y, 0, 1) * 255
    return 255 - y if ds.PhotometricInterpretation == "MONOCHROME1" else y


@pytest.mark.parametrize("name", ["plain", "inverse", "rescaled", "compressed"])
def test_a_received_image_is_rendered_by_the_window_that_is_asked_for(
    api: Api, radiographs: dict[str, tuple[Path, str]], name: str
) -> None:
    path, where = radiographs[name]
    query, window = {
        "plain": ("?window=1800,900.5,linear-exact", (1800.0, 900.5, "linear-exact")),
        "inverse": ("?window=1800,900", (1800.0, 900.0, "linear")),
        "rescaled": ("?window=1800,900,SIGMOID", (1800.0, 900.0, "sigmoid")),
        "compressed": ("", (1500.0, 1200.0, "linear")),
    }[name]
    answer = get(api, f"{where}/frames/1/rendered{query}", {"Accept": "image/png"})
    assert answer.headers["Content-Type"] == "image/png"
    assert "Warning" not in answer.headers
    picture = Image.open(BytesIO(answer.content))
    assert (picture.mode, picture.size) == ("L", (80, 96))
    shown, exact = np.asarray(picture, float), grey_levels(path, *window)
    assert np.abs(shown - exact).max() <= 0.51  # the nearest level
    assert len(np.unique(shown)) > 100


def test_dcmtk_renders_a_received_image_alike(
    radiographs: dict[str, tuple[Path, str]], tmp_path: Path
) -> None:
    for name in ("plain", "inverse", "rescaled"):
        path, _ = radiographs[name]
        command = [need("dcm2pnm"), "+Ww", "1800", "900", "+opb", str(path), str(tmp_path / "x")]
        subprocess.run(command, check=True, timeout=60)
        theirs = np.asarray(Image.open(tmp_path / "x"), float)
        drawn = preview.draw(BytesIO(path.read_bytes()), "1800,900,linear", "PNG", 0)
        ours = np.asarray(Image.open(BytesIO(drawn)), float)
        assert np.abs(ours - theirs).max() <= 1


def test_a_received_image_is_had_small_and_as_jpeg(
    api: Api, radiographs: dict[str, tuple[Path, str]]
) -> None:
    _, where = radiographs["plain"]
    picture = Image.open(BytesIO(get(api, f"{where}/rendered?viewport=40,40").content))
    assert (picture.format, max(picture.size)) == ("JPEG", 40)
    assert get(api, f"{where}/rendered", {"Accept": "text/html"}).status_code == 406
    for wrong in (
        "1800",
        "1800,0,linear",
        "a,b,linear",
        "1,2,3,4",
        "1800,900,cubic",
        "nan,5,linear",
    ):
        assert get(api, f"{where}/rendered?window={wrong}").status_code == 400, wrong


def test_thumbnails_and_viewports_are_small(page: tuple[Api, str, Dataset]) -> None:
    api, path, _ = page
    for one in (path, "/studies/1.2.3", f"{path}/frames/1"):
        picture = Image.open(BytesIO(get(api, f"{one}/thumbnail").content))
        assert 64 <= max(picture.size) <= 128
    answer = get(api, f"{path}/rendered?viewport=300,300&quality=3")
    assert 150 <= max(Image.open(BytesIO(answer.content)).size) <= 300
    assert "quality" in answer.headers["Warning"]


def test_the_frame_of_a_secondary_capture_is_retrieved(
    page: tuple[Api, str, Dataset],
) -> None:
    api, path, ds = page
    pixels = ds.PixelData[: ds.Rows * ds.Columns]
    assert parts_of(get(api, f"{path}/frames/1"))[0].rstrip(b"\r\n") == pixels.rstrip(b"\r\n")
    octets = get(api, f"{path}/frames/1", {"Accept": "application/octet-stream"})
    assert octets.content == pixels
    uids = path.split("/")[2::2]
    client = DICOMwebClient(f"{api.url}/dicom-web", headers=BEARER)
    (frame,) = client.retrieve_instance_frames(*uids, frame_numbers=[1])
    assert frame == pixels
    assert client.retrieve_instance_rendered(*uids, media_types=("image/png",)).startswith(
        b"\x89PNG"
    )


@pytest.mark.parametrize(
    ("frames", "status"), [("2", 404), ("1,2", 404), ("0", 404), ("x", 400), ("-1", 400)]
)
def test_there_is_one_frame(page: tuple[Api, str, Dataset], frames: str, status: int) -> None:
    api, path, _ = page
    assert get(api, f"{path}/frames/{frames}").status_code == status


def test_a_study_is_rendered_as_what_the_client_takes(page: tuple[Api, str, Dataset]) -> None:
    api, _, _ = page
    kinds = {"text/plain": b"Patient:", "image/jpeg": b"\xff\xd8\xff", "text/html": b"<!DOCTYPE"}
    for kind, beginning in kinds.items():
        answer = get(api, "/studies/1.2.3/rendered", {"Accept": kind})
        assert answer.headers["Content-Type"].partition(";")[0] == kind
        assert beginning in answer.content
    pdf = get(api, "/studies/1.2.3/rendered", {"Accept": "application/pdf"})
    assert pdf.status_code == 406


# Methods and origins


@pytest.mark.parametrize("path", ["", "/", "/studies", "/studies/1.2.3/metadata"])
def test_options_names_the_capabilities(api: Api, path: str) -> None:
    answer = httpx2.request("OPTIONS", f"{api.url}/dicom-web{path}")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/vnd.sun.wadl+xml")
    wadl = ElementTree.fromstring(answer.content)
    (resources,) = wadl
    assert resources.get("base") == f"{api.settings.web.url}/dicom-web"
    assert {"GET", "POST", "HEAD"} <= set(answer.headers["Allow"].split(", "))
    headers = {"Accept": "application/json"}
    body = httpx2.request("OPTIONS", f"{api.url}/dicom-web{path}", headers=headers).json()
    assert {one["path"] for one in body["resources"]} >= {"/studies", "/studies/{study}"}


@pytest.mark.parametrize("path", ["/studies", "/studies/1.2.3", "/studies/1.2.3/metadata"])
def test_head_is_get_without_a_body(api: Api, made: object, path: str) -> None:
    answer = httpx2.head(f"{api.url}/dicom-web{path}", headers=BEARER)
    assert answer.status_code == 200
    assert answer.content == b""
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind == get(api, path).headers["Content-Type"].partition(";")[0]
    assert httpx2.head(f"{api.url}/dicom-web{path}").status_code == 401


def test_addresses_are_those_of_the_configuration(api: Api, made: object) -> None:
    for path in ("/studies", "/studies/1.2.3/metadata", "/"):
        method = "OPTIONS" if path == "/" else "GET"
        headers = BEARER | {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
        answer = httpx2.request(method, f"{api.url}/dicom-web{path}", headers=headers)
        assert answer.status_code == 200
        assert "evil" not in answer.text


def test_pages_of_the_named_sites_may_ask(tmp_path: Path) -> None:
    viewer = "https://viewer.example"
    with serving(tmp_path, cors_origins=[viewer]) as api:
        url = f"{api.url}/dicom-web/studies"
        asks = {"Origin": viewer, "Access-Control-Request-Method": "GET"}
        allowed = httpx2.request("OPTIONS", url, headers=asks)
        assert (allowed.status_code, allowed.content) == (204, b"")
        assert allowed.headers["Access-Control-Allow-Origin"] == viewer
        assert "Authorization" in allowed.headers["Access-Control-Allow-Headers"]
        answer = httpx2.get(url, headers=BEARER | {"Origin": viewer})
        assert answer.headers["Access-Control-Allow-Origin"] == viewer
        assert answer.headers["Vary"] == "Origin"
        other = httpx2.get(url, headers=BEARER | {"Origin": "https://evil.example"})
        refused = httpx2.request("OPTIONS", url, headers=asks | {"Origin": "https://evil.example"})
        for one in (other, refused, httpx2.get(f"{api.url}/healthz", headers={"Origin": viewer})):
            assert "Access-Control-Allow-Origin" not in one.headers


def test_no_other_site_may_ask_by_default(api: Api, made: object) -> None:
    answer = httpx2.get(f"{api.url}/dicom-web/studies", headers=BEARER | {"Origin": "https://a.b"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


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


@pytest.mark.parametrize("kind", ["", "application/dicom"], ids=["a part", "the body"])
def test_an_image_that_is_cut_off_is_a_failure(api: Api, kind: str) -> None:
    ds = reports.again(radiograph())
    content = as_bytes(ds)
    for cut in (len(content) - 2, len(content) // 2, 800):
        if kind:
            answer = httpx2.post(
                f"{api.url}/dicom-web/studies",
                content=content[:cut],
                headers=BEARER | {"Content-Type": kind, "Accept": "application/dicom+json"},
                timeout=60,
            )
        else:
            answer = posted(api, content[:cut])
        assert answer.status_code == 409
        (item,) = Dataset.from_json(answer.json()).FailedSOPSequence
        assert (item.ReferencedSOPInstanceUID, item.FailureReason) == (ds.SOPInstanceUID, 0xC000)
    assert api.ledger.instances.known(ds.SOPInstanceUID) is None
