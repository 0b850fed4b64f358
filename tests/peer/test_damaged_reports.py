"""A report whose file is damaged or gone is not given out, by DICOMweb or by C-GET and C-MOVE."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from results import add_result
from serving import SECRET, Api

from dicom_node.base.logs import Sparse
from dicom_node.store.catalogue import Stored
from dicom_node.web import dicomweb

pytestmark = pytest.mark.peer

BEARER = {"Authorization": f"Bearer {SECRET}"}
DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "cut in its head": lambda path: path.write_bytes(path.read_bytes()[:140]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}
PATHS = ("", "/metadata", "/rendered", "/thumbnail", "/frames/1", "/bulkdata/00420011")


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_whole_is_404_or_left_out(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(dicomweb, "_damaged", Sparse(dicomweb._damaged._logger))
    study = f"1.2.3.{len(damage)}"
    report, *_, text = add_result(api.ledger, api.spool, StudyInstanceUID=study)
    files = (api.spool.root / "reports").rglob("*.dcm")
    (path,) = (file for file in files if file.read_bytes() == report.content)
    DAMAGES[damage](path)
    root = f"{api.url}/dicom-web/studies/{study}"
    of_report = f"{root}/series/{report.series_instance_uid}/instances/{report.sop_instance_uid}"
    with httpx2.Client(headers=BEARER | {"Accept": "*/*"}, timeout=60) as http:
        assert {http.get(of_report + more).status_code for more in PATHS} <= {404, 406}
        assert http.get(of_report).status_code == 404
        for more in ("", "/metadata"):
            rest = http.get(root + more)
            assert rest.status_code == 206
            assert text.sop_instance_uid in rest.text
        assert http.get(f"{root}/rendered").status_code == 206
        assert http.get(f"{root}/instances", params={"includefield": "all"}).status_code == 200
    assert "1 object not sent: cut off in the spool or gone" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


ODD = (b"\x40\x00\x40\xa0CS", b"\x40\x00\x40\xa0CA")
"""Value Type (0040,A040) of each content item, and a value representation that nobody knows."""


def make_odd(api: Api, study: str) -> list[str]:
    """Make a study whose first report cannot be read though it is whole; return the UIDs."""
    report, *_, text = add_result(api.ledger, api.spool, StudyInstanceUID=study)
    files = (api.spool.root / "reports").rglob("*.dcm")
    (path,) = (file for file in files if file.read_bytes() == report.content)
    assert ODD[0] in report.content
    path.write_bytes(report.content.replace(*ODD))
    return [report.series_instance_uid, report.sop_instance_uid, text.sop_instance_uid]


@pytest.mark.parametrize(
    "kind", ["application/dicom+json", 'multipart/related; type="application/dicom+xml"']
)
def test_what_cannot_be_read_is_404_or_left_out(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(dicomweb, "_damaged", Sparse(dicomweb._damaged._logger))
    study = f"1.2.3.88.{len(kind)}"
    series, odd, text = make_odd(api, study)
    root = f"{api.url}/dicom-web/studies/{study}"
    of_odd = f"{root}/series/{series}/instances/{odd}"
    with httpx2.Client(headers=BEARER | {"Accept": kind}, timeout=60) as http:
        assert http.get(f"{of_odd}/metadata").status_code == 404
        rest = http.get(f"{root}/metadata")
        assert rest.status_code == 206
        assert text in rest.text
        assert f">{odd}<" not in rest.text
        http.headers["Accept"] = "text/html"
        assert http.get(f"{of_odd}/rendered").status_code == 404
        assert http.get(f"{root}/rendered").status_code == 206
    assert "1 object not sent: it is gone, or cannot be read" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


def test_an_answer_that_fails_amid_is_broken_off(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brought to its end, it would seem to be all there is."""
    monkeypatch.setattr(dicomweb, "_damaged", Sparse(dicomweb._damaged._logger))
    monkeypatch.setattr(dicomweb, "_AT_ONCE", 1)
    study, other = "1.2.3.89", "1.2.3.90"
    add_result(api.ledger, api.spool, StudyInstanceUID=study)
    add_result(api.ledger, api.spool, StudyInstanceUID=other)
    monkeypatch.setattr(Stored, "is_whole", True)
    monkeypatch.setattr(Stored, "open", open_until_gone(1))
    with httpx2.Client(headers=BEARER | {"Accept": "*/*"}, timeout=60) as http:
        for path in (f"{study}/metadata", other):
            with pytest.raises(httpx2.RemoteProtocolError):
                http.get(f"{api.url}/dicom-web/studies/{path}")
    assert len([line for line in caplog.messages if "1 object not sent" in line]) >= 2
    assert not [record for record in caplog.records if record.exc_info]


def open_until_gone(count: int) -> Callable[[Stored], Any]:
    """Return a way to open objects, whose files are gone after so many."""
    opened = Stored.open
    numbers = itertools.count()

    def open_one(stored: Stored) -> Any:
        if next(numbers) >= count:
            raise FileNotFoundError
        return opened(stored)

    return open_one


def test_the_only_whole_report_of_a_study_is_not_sent_as_all_of_it(api: Api) -> None:
    *lost, _ = add_result(api.ledger, api.spool, StudyInstanceUID="1.2.3.77")
    contents = [document.content for document in lost]
    for file in list((api.spool.root / "reports").rglob("*.dcm")):
        if file.read_bytes() in contents:
            file.unlink()
    study = f"{api.url}/dicom-web/studies/1.2.3.77"
    with httpx2.Client(headers=BEARER | {"Accept": "application/dicom"}, timeout=60) as http:
        rest = http.get(study)
    assert rest.headers["content-type"] == "application/dicom"
    assert rest.status_code == 206
