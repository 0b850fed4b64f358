"""The audit trail has each transfer once, in the form of DICOM PS3.15 A.5, without names."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pages
import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from serving import Api, serving

from dicom_node.base.errors import Unreachable
from dicom_node.operate.audit import Auditor, Repository
from dicom_node.settings import Audit, Settings, Tls
from dicom_node.store.actor import Actor
from dicom_node.store.audit_message import (
    ACTIVITY,
    SUCCESS,
    Participant,
    application,
    message,
)
from dicom_node.store.uses import Use, noting

NAME = "Secret^Name"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path, sign_in=False) as running:
        yield running


def audited(api: Api, **keys: Any) -> Settings:
    return api.settings.model_copy(update={"audit": Audit(**keys)})


def lines(path: Path) -> list[ET.Element]:
    return [ET.fromstring(line) for line in path.read_text().splitlines()]


def codes(root: ET.Element) -> tuple[str | None, str | None]:
    event, kind = root.find("*/EventID"), root.find("*/EventTypeCode")
    assert event is not None
    return event.get("csd-code"), None if kind is None else kind.get("csd-code")


def transferred(api: Api) -> str:
    uid = pages.keep(
        api, b"\0" * 128 + b"DICM" + bytes([api.count]), pages.route(), patient_name=NAME,
        patient_id="PID-1",
    )  # fmt: skip
    pages.reported(api, pages.claimed(api))
    pages.deliver(api, 0)
    return uid


def test_what_was_received_and_sent_is_noted_once(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "audit.xml"
    auditor = Auditor(audited(api, file=str(file)), api.ledger)
    assert auditor.follow() == 0
    transferred(api)
    assert auditor.follow() == 2
    assert auditor.follow() == 0
    received, sent = lines(file)
    assert codes(received) == codes(sent) == ("110104", None)
    assert received.find("EventIdentification").get("EventActionCode") == "C"  # type: ignore[union-attr]
    assert sent.find("EventIdentification").get("EventActionCode") == "R"  # type: ignore[union-attr]
    for root, ae_titles in ((received, ["XRAY1", "CHEXFRACT"]), (sent, ["CHEXFRACT", "MODALITY"])):
        people = root.findall("ActiveParticipant")
        assert [p.get("AlternativeUserID") for p in people] == [f"AETITLES={a}" for a in ae_titles]
        roles = [p.find("RoleIDCode").get("csd-code") for p in people]  # type: ignore[union-attr]
        assert roles == ["110153", "110152"]
        things = [
            t.get("ParticipantObjectID") for t in root.iter("ParticipantObjectIdentification")
        ]
        assert things == ["1.2.7", "PID-1"]
    assert NAME not in file.read_text()
    assert "Possible fracture" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_restart_goes_on_where_the_trail_stopped(api: Api, tmp_path: Path) -> None:
    chosen = audited(api, file=str(tmp_path / "audit.xml"))
    Auditor(chosen, api.ledger).follow()
    transferred(api)
    assert Auditor(chosen, api.ledger).follow() == 2
    transferred(api)
    assert Auditor(chosen, api.ledger).follow() == 2
    assert len(lines(tmp_path / "audit.xml")) == 4


def test_a_trail_that_cannot_be_written_loses_nothing(api: Api, tmp_path: Path) -> None:
    folder = tmp_path / "away"
    chosen = audited(api, file=str(folder / "audit.xml"))
    auditor = Auditor(chosen, api.ledger)
    auditor.follow()
    shutil.rmtree(folder)
    folder.write_text("a file where the folder was")
    transferred(api)
    with pytest.raises(Unreachable):
        auditor.follow()
    folder.unlink()
    assert auditor.follow() == 2


def test_start_and_stop_are_noted(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "audit.xml"
    loop = Auditor(audited(api, file=str(file)), api.ledger).loop()
    loop.turn()
    loop.close()
    assert [codes(root) for root in lines(file)] == [("110100", "110120"), ("110100", "110121")]


def test_sign_ins_are_noted_with_their_outcome(tmp_path: Path) -> None:
    import httpx2
    from serving import SECRET

    from dicom_node.web.app import create_app

    with serving(tmp_path) as api:
        file = tmp_path / "audit.xml"
        chosen = audited(api, file=str(file))
        app = create_app(chosen, api.ledger, api.spool, SECRET)
        import anyio

        async def attempts() -> None:
            way = httpx2.ASGITransport(app=app, client=("192.0.2.7", 5))
            async with httpx2.AsyncClient(transport=way, base_url="http://node") as http:
                for word in ("wrong", SECRET):
                    await http.post("/sign-in", data={"name": "admin", "password": word})

        anyio.run(attempts)
        wrong, right = lines(file)
    assert codes(wrong) == codes(right) == ("110114", "110122")
    outcomes = [r.find("EventIdentification").get("EventOutcomeIndicator") for r in (wrong, right)]  # type: ignore[union-attr]
    assert outcomes == ["4", "0"]
    who = right.find("ActiveParticipant")
    assert who is not None
    assert (who.get("UserID"), who.get("NetworkAccessPointID")) == ("admin", "192.0.2.7")
    assert SECRET not in (tmp_path / "audit.xml").read_text()


def test_a_refused_result_is_a_security_alert(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "audit.xml"
    chosen = audited(api, file=str(file))
    auditor = Auditor(chosen, api.ledger)
    auditor.follow()
    path = f"/jobs/{'c' * 32}/result"
    why = "its Patient ID is another"
    noting(chosen, api.ledger)(Use("result-refused", "worker gpu-host:4711", path, alert=why))
    (root,) = lines(file)
    assert codes(root) == ("110113", "110132")
    assert root.find("EventIdentification").get("EventOutcomeIndicator") == "8"  # type: ignore[union-attr]
    users = [p.get("UserID") for p in root.findall("ActiveParticipant")]
    assert "worker gpu-host:4711" in users
    thing = root.find("ParticipantObjectIdentification")
    assert thing is not None
    assert thing.get("ParticipantObjectID") == f"/jobs/{'c' * 32}/result"


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_syslog_gets_messages_of_rfc_5424(api: Api, kind: str) -> None:
    of = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, of) as repository:
        repository.bind(("127.0.0.1", 0))
        repository.settimeout(5)
        if kind == "tcp":
            repository.listen()
        port = repository.getsockname()[1]
        chosen = audited(api, syslog=f"{kind}://127.0.0.1:{port}")
        Repository(chosen).send(application(chosen, starts=True, at=1e9))
        if kind == "udp":
            content = repository.recv(65536)
        else:
            line, _ = repository.accept()
            with line, line.makefile("rb") as file:
                length, content = file.read().split(b" ", 1)
            assert int(length) == len(content)
    head, xml = content.split(b"\xef\xbb\xbf")
    assert head.startswith(b"<85>1 ")
    assert head.endswith(b" DICOM+RFC3881 - ")
    assert codes(ET.fromstring(xml)) == ("110100", "110120")


def test_a_repository_that_is_away_is_said_to_be(api: Api, free_port: int) -> None:
    chosen = audited(api, syslog=f"tcp://127.0.0.1:{free_port}")
    auditor = Auditor(chosen, api.ledger)
    assert auditor.follow() == 0
    transferred(api)
    with pytest.raises(Unreachable):
        auditor.follow()
    assert chosen.audit_file is not None
    assert len(lines(chosen.audit_file)) == 2  # the file does not wait for it


@given(text=st.text(max_size=80))
@settings(deadline=None)
def test_any_text_makes_one_line_of_xml(text: str) -> None:
    made = message(text, ACTIVITY, "E", SUCCESS, [Participant(text, None, text, text)], at=1e9)
    assert len(made.splitlines()) == 1
    root = ET.fromstring(made.encode("utf-8", "surrogatepass"))
    assert [child.tag for child in root] == [
        "EventIdentification",
        "ActiveParticipant",
        "AuditSourceIdentification",
    ]


@pytest.mark.parametrize("syslog", ["host:514", "http://host:514", "udp://host", "udp://:514"])
def test_an_address_that_is_none_is_refused(syslog: str) -> None:
    with pytest.raises(ValidationError):
        Settings(audit={"syslog": syslog})


def test_a_trail_is_kept_unless_it_is_switched_off(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.settings.audit_file == api.settings.node.data_dir / "audit" / "audit.xml"

    def fail(*_: Any) -> None:
        raise AssertionError

    chosen = audited(api, enabled=False)
    assert chosen.audit_file is None
    monkeypatch.setattr(Auditor, "follow", fail)
    loop = Auditor(chosen, api.ledger).loop()
    loop.turn()
    loop.close()
    noting(chosen, api.ledger)(Use("accessed", "anna", "/"))
    assert not (api.settings.node.data_dir / "audit.place").exists()
    assert not (api.settings.node.data_dir / "audit").exists()


def acted(api: Api, uid: str) -> None:
    """Do to an Instance all that a person can do."""
    acts, who = api.ledger.acts, Actor("anna", "192.0.2.7")
    job = api.ledger.history.trace(uid).jobs[0].job
    acts.judge(job, "disagree", who, "Secret comment")
    acts.resend(uid, by=who)
    acts.retry(uid, by=who)
    acts.settle(uid, "sent", by=who)
    acts.replay(uid, by=who)


def test_what_a_person_does_is_noted_with_name_and_address(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "audit.xml"
    auditor = Auditor(audited(api, file=str(file)), api.ledger)
    auditor.follow()
    uid = transferred(api)
    acted(api, uid)
    auditor.follow()
    found = [root for root in lines(file) if codes(root) != ("110104", None)]
    kinds = [root.find("*/EventTypeCode").get("originalText") for root in found]  # type: ignore[union-attr]
    assert kinds == ["disagree", "resend", "retry", "settled", "replay"]
    for root in found:
        assert root.find("EventIdentification").get("EventActionCode") == "U"  # type: ignore[union-attr]
        who = root.find("ActiveParticipant")
        assert who is not None
        assert (who.get("UserID"), who.get("NetworkAccessPointID")) == ("anna", "192.0.2.7")
        studies = [
            t.get("ParticipantObjectID") for t in root.iter("ParticipantObjectIdentification")
        ]
        assert studies == ["1.2.7", "PID-1"]
    assert "Secret" not in file.read_text()


def test_a_node_that_kept_one_place_for_both_goes_on_there(api: Api, tmp_path: Path) -> None:
    """0.1.0 had audit.place for the repository, too."""
    transferred(api)
    (api.settings.node.data_dir / "audit.place").write_text("0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as repository:
        repository.bind(("127.0.0.1", 0))
        repository.settimeout(5)
        auditor = Auditor(
            audited(api, syslog=f"udp://127.0.0.1:{repository.getsockname()[1]}"), api.ledger
        )
        assert auditor.follow() == 2
        assert all(b"110104" in repository.recv(65536) for _ in range(2))


def test_what_happens_before_the_keepers_first_look_is_noted(api: Api) -> None:
    """The listener may receive before the courier runs: `serve` begins the trail."""
    Auditor(api.settings, api.ledger).begin()
    transferred(api)
    assert Auditor(api.settings, api.ledger).follow() == 2


@contextmanager
def repository(certificate: trustme.LeafCert) -> Iterator[tuple[int, list[bytes]]]:
    """Serve TLS once as an audit record repository; what it gets is in the list."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            with suppress(OSError), server.accept()[0] as line:
                line.settimeout(10)
                with context.wrap_socket(line, server_side=True) as tls:
                    got.append(tls.recv(1 << 16))
                    tls.unwrap()

        taking = threading.Thread(target=take, daemon=True)
        taking.start()
        yield server.getsockname()[1], got
        taking.join(10)


def test_syslog_over_tls_gets_framed_messages(api: Api, tmp_path: Path) -> None:
    """RFC 5425, as PS3.15 A.6 asks for it."""
    authority, ca = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca)
    with repository(authority.issue_cert("localhost")) as (port, got):
        audit = Audit(syslog=f"tls://localhost:{port}", tls=Tls(ca=ca))
        chosen = api.settings.model_copy(update={"audit": audit})
        Repository(chosen).send(application(chosen, starts=True, at=1e9))
    length, _, content = got[0].partition(b" ")
    assert int(length) == len(content)
    assert codes(ET.fromstring(content.split(b"\xef\xbb\xbf")[1])) == ("110100", "110120")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["stranger", "other name"])
def test_a_repository_that_is_not_trusted_gets_nothing(api: Api, tmp_path: Path, host: str) -> None:
    authority, ca = trustme.CA(), tmp_path / "ca.pem"
    (trustme.CA() if host == "localhost" else authority).cert_pem.write_to_path(ca)
    with repository(authority.issue_cert("localhost")) as (port, got):
        audit = Audit(syslog=f"tls://{host}:{port}", tls=Tls(ca=ca))
        chosen = api.settings.model_copy(update={"audit": audit})
        with pytest.raises(Unreachable, match="audit trail"):
            Repository(chosen).send(application(chosen, starts=True, at=1e9))
    assert got == []
