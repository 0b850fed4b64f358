"""The conformance statement says what the listener does, byte for byte on the wire."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reports
from listening import ModalityStation, Node, listening
from pydicom import Dataset, dcmread
from pydicom.tag import Tag
from pynetdicom import build_role, sop_class
from pynetdicom.presentation import build_context
from results import add_result

from dicom_node.dimse import commitment, contexts, retrieve, scp
from dicom_node.dimse.commitment import Reports
from dicom_node.dimse.contexts import TRANSFER_SYNTAXES
from dicom_node.operate import conformance
from dicom_node.operate.conformance import STATUSES, as_markdown, statement
from dicom_node.operate.conformance_tables import IODS
from dicom_node.operate.conformance_text import CHAPTERS
from dicom_node.settings import Settings
from dicom_node.standard import matching, status
from worker.report import sr
from worker.report.boxes import Box
from worker.report.renderings import render

KNOWN = sorted({str(v) for v in vars(sop_class).values() if str(v).startswith("1.2.840.10008.")})
"""SOP classes of every service that pynetdicom knows."""

OTHERS = ("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.112", "1.2.840.10008.1.2.6.1")
"""Transfer syntaxes of films and text, which nobody should accept for a radiograph."""


def accepted(node: Node, wanted: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return which (SOP class, transfer syntax) pairs the listener accepts."""
    found = set()
    for start in range(0, len(wanted), 120):
        proposed = [build_context(uid, [syntax]) for uid, syntax in wanted[start : start + 120]]
        with ModalityStation(node.port).associated(contexts=proposed) as assoc:
            found |= {
                (str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in assoc.accepted_contexts
            }
    return found


def stated(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(row["uid"], syntax["uid"]) for row in rows for syntax in row["transfer_syntaxes"]}


def test_the_listener_accepts_what_is_stated_and_nothing_else(node: Node) -> None:
    declared = stated(statement(node.settings)["accepted"])
    syntaxes = (*TRANSFER_SYNTAXES, *OTHERS)
    likely = [(uid, syntax) for uid, _ in sorted(declared) for syntax in syntaxes]
    every = [(uid, contexts.EXPLICIT_LITTLE) for uid in KNOWN]
    asked = sorted({*likely, *every})
    assert len(every) > 150
    assert accepted(node, asked) == declared


def accepted_of(node: Node, uids: list[str]) -> set[str]:
    """Return which contexts of these are accepted from one who proposes to be their SCP."""
    proposed = [build_context(uid, list(TRANSFER_SYNTAXES)) for uid in uids]
    roles = [build_role(uid, scp_role=True) for uid in uids]
    with ModalityStation(node.port).associated(contexts=proposed, ext_neg=roles) as assoc:
        found = {(str(c.abstract_syntax), c.as_scp) for c in assoc.accepted_contexts}
    return {uid for uid, as_scp in found if as_scp}


def test_what_is_accepted_for_a_retrieval_and_a_commitment_is_stated(tmp_path: Path) -> None:
    declared = statement(Settings())
    for_get = {row["uid"] for row in declared["accepted_for_get"]}
    for_commitment = {row["uid"] for row in declared["accepted_for_commitment"]}
    every = sorted(for_get | for_commitment)
    with listening(tmp_path) as running:
        assert accepted_of(running, every) == for_get
        peer = running.settings.peers["modality"]
        asked = {"modality": peer.model_copy(update={"storage_commitment": True})}
        running.listener._settings = running.settings.model_copy(update={"peers": asked})
        running.listener._commitments = Reports(lambda answer: True)
        assert accepted_of(running, every) == for_get | for_commitment
    assert all(row["role"] == "SCU" for row in declared["accepted_for_commitment"])


def test_every_rejection_of_the_listener_is_stated() -> None:
    declared = {
        (r["result"], r["source"], r["reason"]) for r in statement(Settings())["rejections"]
    }
    used = {
        (var.result, var.source, var.diagnostic)
        for var in vars(scp).values()
        if isinstance(var, scp.Rejection)
    }
    assert declared == used
    assert len(declared) >= 4


def test_every_status_of_the_listener_is_stated() -> None:
    used = {
        value
        for name, value in vars(scp).items()
        if name.isupper() and isinstance(value, int) and not isinstance(value, bool)
    }
    assert {code for code, _, _ in STATUSES} == used | {status.OTHER_SOP_CLASS}


def codes_of(module: Any) -> set[int]:
    return {
        value
        for name, value in vars(module).items()
        if name.isupper() and not name.startswith(("MAX", "_")) and type(value) is int
    }


def test_every_status_of_a_query_or_retrieval_is_stated() -> None:
    declared = {
        int(one["status"], 16) for one in statement(Settings())["query_retrieve"]["statuses"]
    }
    # beside its own: those that pynetdicom counts out of the sub-operations
    assert declared == codes_of(retrieve) | {0x0000, 0xB000, 0xA702, 0xA801}


def test_every_status_of_a_commitment_is_stated() -> None:
    declared = statement(Settings())["storage_commitment"]
    statuses = {int(status["status"], 16) for status in declared["report_statuses"]}
    assert statuses == codes_of(commitment)


def test_every_service_of_dicomweb_is_stated(tmp_path: Path) -> None:
    from fastapi.routing import APIRoute

    from dicom_node.credentials import Credentials
    from dicom_node.standard.web_services import ROOT
    from dicom_node.store.ledger import Ledger
    from dicom_node.store.spool import Spool
    from dicom_node.web import dicomweb, stow
    from dicom_node.web.sessions import Door

    settings = Settings(node={"data_dir": tmp_path})
    Ledger.upgrade(settings.ledger_url)
    ledger = Ledger.open(settings.ledger_url)
    try:
        credentials = Credentials.same("x" * 16)
        door = Door(settings, credentials, ledger.sessions)
        spool = Spool(tmp_path / "spool")
        router = dicomweb.routes(settings, ledger, spool, door, credentials)
    finally:
        ledger.close()
    served = {
        (method, route.path.removeprefix(ROOT))
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    got = {path for method, path in served if method == "GET"}
    assert {path for method, path in served if method == "HEAD"} == got
    served = {(method, path) for method, path in served if method not in ("HEAD", "OPTIONS")}
    declared = statement(settings)["dicomweb"]
    assert {(service["method"], service["path"]) for service in declared["services"]} == served
    assert declared["root"] == ROOT
    failures = codes_of(stow) | {status.OTHER_SOP_CLASS}
    assert {int(failure["reason"], 16) for failure in declared["store_failures"]} == failures


BOX = Box("left seventh rib fracture", 100.0, 200.0, 300.0, 400.0)
HELD = {**reports.CASES, "regions": replace(reports.CASES["fracture"], boxes=(BOX,))}


@pytest.mark.parametrize("case", HELD)
def test_the_reports_hold_only_what_is_stated(case: str) -> None:
    declared = statement(Settings())["reports"]

    def items(ds: Dataset) -> Iterator[Dataset]:
        for item in ds.get("ContentSequence") or []:
            yield item
            yield from items(item)

    def codes(ds: Dataset) -> Iterator[Dataset]:
        for element in ds.iterall():
            if element.VR == "SQ" and element.keyword.endswith("CodeSequence"):
                yield from element.value

    made = sr.build(reports.source(), HELD[case], reports.ALGORITHM, reports.ORDER)
    report = dcmread(io.BytesIO(made.content))
    content = list(items(report))
    assert {item.ValueType for item in content} <= set(declared["value_types"])
    assert {item.RelationshipType for item in content} <= set(declared["relationships"])
    schemes = {code.CodingSchemeDesignator for item in content for code in codes(item)}
    assert schemes <= set(declared["coding_schemes"])
    assert report.SpecificCharacterSet == declared["character_set"]
    assert report.SOPClassUID in {one["uid"] for one in declared["sop_classes"]}


def test_the_statement_names_the_configured_ae() -> None:
    text = as_markdown(statement(Settings(node={"ae_title": "BONES", "port": 4104})))
    assert "| AE title | BONES |" in text
    assert "| Port | 4104 |" in text


def test_the_statement_has_the_chapters_of_the_standard() -> None:
    text = as_markdown(statement(Settings()))
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert tuple(headings) == CHAPTERS
    assert text.index("Cover page") < text.index("Revision history")


@pytest.mark.parametrize("kind", IODS)
def test_the_objects_hold_the_attributes_that_are_stated(kind: str) -> None:
    rows = {attribute["keyword"]: attribute for attribute in stated_attributes(kind)}
    pixels = np.zeros((2000, 1600), np.uint8)
    seen: list[set[str]] = []
    for case in reports.CASES.values():
        args = (reports.source(), case, reports.ALGORITHM, reports.ORDER)
        made = sr.build(*args) if kind == "sr" else render(kind, args[0], pixels, *args[1:])
        if made is not None:
            ds = dcmread(io.BytesIO(made.content))
            seen.append({element.keyword for element in ds})
            filled = {element.keyword for element in ds if not element.is_empty}
            assert filled >= {k for k, item in rows.items() if item["presence"] == "ALWAYS"}
            assert seen[-1] >= {k for k, item in rows.items() if item["presence"] == "VNAP"}
    assert set().union(*seen) <= set(rows)


def stated_attributes(kind: str) -> list[dict[str, str]]:
    (iod,) = (one for one in statement(Settings())["iods"] if one["kind"] == kind)
    return list(iod["attributes"])


def test_every_key_is_matched_as_it_is_stated(tmp_path: Path) -> None:
    with listening(tmp_path) as node:
        add_result(node.ledger, node.spool, seconds=())
        (study,) = (row.study_instance_uid for row in node.ledger.history.recent())
        for level in statement(Settings())["query_retrieve"]["levels"]:
            for key in level["keys"]:
                keys = Dataset()
                if key["matching"].endswith(" with a UID"):
                    keys.StudyInstanceUID = study
                setattr(keys, key["keyword"], None if key["vr"] != "SQ" else [])
                find = node.listener._retrieval._catalogue.find
                (found, *_) = find(level["level"], keys)
                element = found.get(Tag(key["keyword"]))
                texts = matching.values(element)
                if len(texts) != 1:
                    continue
                for text in asked_for(key["matching"], texts[0]):
                    keys[key["keyword"]].value = text
                    assert list(find(level["level"], keys)), (key["keyword"], text)
                if "wild card" in key["matching"]:
                    keys[key["keyword"]].value = "*no such value*"
                    assert not list(find(level["level"], keys)), key["keyword"]


def asked_for(how: str, value: str) -> list[str | list[str]]:
    texts: list[str | list[str]] = [value]
    if "wild card" in how:
        texts += [value[:1] + "*", "?" + value[1:]]
    if "range" in how:
        texts += [f"{value}-", f"-{value}", f"{value}-{value}"]
    if "list" in how:
        texts.append(["1.2.999", value])
    return texts


def test_the_tables_of_the_statement_are_whole() -> None:
    widths: list[int] = []
    for line in as_markdown(statement(Settings())).splitlines():
        if line.startswith("|"):
            widths.append(line.count("|"))
            assert widths[-1] == widths[0], line
        else:
            widths = []


def test_a_statement_is_printed_without_any_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dicom_node.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["conformance", "--format", "json"]) == 0
    assert '"class_uid": "2.25.' in capsys.readouterr().out


def test_the_statement_in_the_repository_is_what_the_program_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dicom_node.cli import main

    kept = Path(conformance.__file__).resolve().parents[2] / "configs" / "CONFORMANCE.md"
    monkeypatch.chdir(tmp_path)
    assert main(["conformance"]) == 0
    assert capsys.readouterr().out == kept.read_text(encoding="utf-8"), (
        "chexfract-node conformance > configs/CONFORMANCE.md"
    )


@pytest.mark.parametrize(
    "subject",
    [
        "C-STORE",
        "C-MOVE",
        "Storage Commitment SCU",
        "QIDO-RS",
        "IHE AI Results",
        "TLS 1.2",
        "TID 1410",
    ],
)
def test_the_statement_speaks_of_each_service(subject: str) -> None:
    assert subject in as_markdown(statement(Settings()))


def test_the_statement_tells_the_waits_of_this_site() -> None:
    waits = {"refused_first": 7, "silent_longest": "5m"}
    text = as_markdown(statement(Settings(delivery=waits)))
    assert "after 7 s, doubling up to every 3600 s" in text
    assert "after 1 s, doubling up to every 300 s" in text


def test_each_claim_of_content_names_a_test_that_there_is() -> None:
    """IHE AI Results: one line for each requirement, with where it is met and what proves it."""
    tests = Path(__file__).parents[1]
    claims = statement(Settings())["air"]["content"]
    assert len(claims) > 10
    for claim in claims:
        file, _, name = claim["test"].partition("::")
        assert f"def {name}(" in (tests / file).read_text(encoding="utf-8"), claim["subject"]
