"""A report whose file is damaged or gone is not given out, by DICOMweb or by C-GET and C-MOVE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from results import add_result
from serving import SECRET, Api

from dicom_node.base.logs import Sparse
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
        assert http.get(f"{root}/rendered").status_code == 200
        assert http.get(f"{root}/instances", params={"includefield": "all"}).status_code == 200
    assert "1 object not sent: cut off in the spool or gone" in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


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
