"""The running node does what each row of its conformance statement says, and no row is missing."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import reports
import trustme
import wire
from listening import CR, DX, Node, listening, radiograph
from pydicom import dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from results import add_result
from serving import SECRET, Api, serving
from stations import free_ports

from dicom_node.base.errors import Unreachable
from dicom_node.dimse import retrieve
from dicom_node.dimse.contexts import REPORTS
from dicom_node.operate.conformance import statement
from dicom_node.settings import Peer, Settings
from dicom_node.web import stow
from worker.report.sr import Document

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]

CLAIMS = statement(Settings())
PATIENCE_S = 60
CT = "1.2.840.10008.5.1.4.1.1.2"
BASIC_TEXT = "1.2.840.10008.5.1.4.1.1.88.11"
VERIFICATION = "1.2.840.10008.1.1"


@contextmanager
def archive(title: str, *refused: str) -> Iterator[Peer]:
    """Run an SCP of all SOP classes of reports but some; yield it as a peer."""
    ae = AE(title)
    for uid in {*REPORTS, VERIFICATION} - {*refused}:
        ae.add_supported_context(uid)
    handlers = [(evt.EVT_C_STORE, lambda event: 0)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield Peer(ae_title=title, host="127.0.0.1", port=server.server_address[1])
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with ExitStack() as stack:
        running = stack.enter_context(listening(tmp_path_factory.mktemp("node")))
        for case in ("fracture", "none"):
            add_result(running.ledger, running.spool, StudyInstanceUID="1.2.3", case=case)
        refused = {"ALL": (), "SOME": (BASIC_TEXT,), "NONE": tuple(REPORTS)}
        peers = {
            title.lower(): stack.enter_context(archive(title, *uids))
            for title, uids in refused.items()
        }
        peers |= running.settings.peers
        running.settings = running.settings.model_copy(update={"peers": peers})
        running.listener.take(running.settings)
        yield running


@contextmanager
def settled(node: Node, peers: Any = None, **changes: Any) -> Iterator[None]:
    """Give the listener other settings for a while."""
    changed = node.settings.node.model_copy(update=changes)
    others = {"node": changed, "peers": peers or node.settings.peers}
    node.listener.take(node.settings.model_copy(update=others))
    try:
        yield
    finally:
        node.listener.take(node.settings)


# Association rejection (PS3.8 9.3.4)


def answered(node: Node, pdu: bytes) -> tuple[int, tuple[int, ...]]:
    """Return the type of the PDU that answers a request, and result, source and reason."""
    with socket.create_connection(("127.0.0.1", node.port), PATIENCE_S) as peer:
        peer.sendall(pdu)
        heard = b""
        while len(heard) < 10 and (more := peer.recv(10 - len(heard))):
            heard += more
        return heard[0], tuple(heard[7:10])


FAR = {"modality": Peer(ae_title="MODALITY", host="192.0.2.7", port=104)}
STORAGE = wire.item(
    0x20, b"\1\0\0\0" + wire.item(0x30, CR.encode()) + wire.item(0x40, wire.IMPLICIT)
)


@contextmanager
def one_taken(node: Node) -> Iterator[None]:
    with (
        settled(node, max_associations=1),
        socket.create_connection(("127.0.0.1", node.port), PATIENCE_S) as holder,
    ):
        holder.sendall(wire.request())
        assert holder.recv(1) == b"\2"
        yield


@contextmanager
def full(node: Node) -> Iterator[None]:
    node.spool.min_free = 1 << 62
    try:
        yield
    finally:
        node.spool.min_free = 0


OTHER_CONTEXT = wire.request().replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9")
REJECTED: dict[str, tuple[Callable[[Node], Any], bytes]] = {
    "application context is not DICOM's": (settled, OTHER_CONTEXT),
    "called AE title not recognised": (settled, wire.request(called=b"ANOTHER")),
    "calling AE title not recognised": (settled, wire.request(calling=b"STRANGER")),
    "calling AE title not known from this address": (
        lambda node: settled(node, FAR),
        wire.request(),
    ),
    "too many associations": (one_taken, wire.request()),
    "no room for Instances": (full, wire.request(contexts=STORAGE)),
    "bit 0 of its protocol version is 0": (settled, wire.request(version=2)),
}


@pytest.mark.parametrize("row", CLAIMS["rejections"], ids=lambda row: row["when"])
def test_each_rejection_is_sent_as_stated(node: Node, row: dict[str, Any]) -> None:
    surroundings, pdu = REJECTED[row["when"]]
    with surroundings(node):
        assert answered(node, pdu) == (3, (row["result"], row["source"], row["reason"]))


@pytest.mark.parametrize(
    "pdu",
    [
        wire.request(called=b""),
        wire.request(calling=b""),
        wire.request(calling=b"A\\B"),
        wire.request(version=0),
        wire.request(version=3),
        wire.request(contexts=b""),
        wire.request(user=b""),
        wire.request(user=wire.USER + wire.item(0x58, b"\1\1\0\3bob\0\0")),
        wire.request(user=wire.USER + wire.item(0x53, b"\0\5\0\5")),
        wire.request(user=wire.item(0x51, bytes(4))),
        wire.request(contexts=b"".join(wire.context(n) for n in range(1, 256, 2))),
    ],
)
def test_nobody_is_rejected_otherwise_than_stated(node: Node, pdu: bytes) -> None:
    kind, code = answered(node, pdu)
    stated = {(row["result"], row["source"], row["reason"]) for row in CLAIMS["rejections"]}
    assert kind in (2, 7) or code in stated


# C-STORE


def stored(
    node: Node, content: Dataset | bytes, named: str = DX, meanwhile: Any = None
) -> int | None:
    """Return the status of a C-STORE whose command names a SOP class, in a context for DX."""
    ae = AE("MODALITY")
    ae.dimse_timeout = PATIENCE_S
    ae.add_requested_context(DX, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="CHEXFRACT")
    request = C_STORE()
    request.MessageID, request.Priority, request.AffectedSOPClassUID = 1, 0, named
    request.AffectedSOPInstanceUID = getattr(content, "SOPInstanceUID", "1.2.3")
    is_plain = isinstance(content, bytes)
    request.DataSet = BytesIO(content if is_plain else encode(content, False, True) or b"")
    assoc._reactor_checkpoint.clear()
    assert wire.until(lambda: assoc._is_paused, PATIENCE_S)
    try:
        with meanwhile(node) if meanwhile else settled(node):
            assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
            _, answer = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()
        assoc.release()
    return answer and answer.Status


STORES: dict[str, Callable[[Node], int | None]] = {
    "0000": lambda node: stored(node, radiograph()),
    "A700": lambda node: stored(node, radiograph(), meanwhile=full),
    "A900": lambda node: stored(node, radiograph(CR)),
    "C000": lambda node: stored(node, b"no data set" * 20),
    "0122": lambda node: stored(node, radiograph(CR), named=CR),
}


@pytest.mark.parametrize("row", CLAIMS["store_scp_statuses"], ids=lambda row: row["status"])
def test_each_status_of_a_store_is_answered_as_stated(node: Node, row: dict[str, str]) -> None:
    assert f"{STORES[row['status']](node):04X}" == row["status"]


# Query/Retrieve

MODELS = {
    name: f"1.2.840.10008.5.1.4.1.2.2.{n}" for n, name in enumerate(("FIND", "MOVE", "GET"), 1)
}


def keys_of(level: str = "STUDY", **keys: Any) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in ({"StudyInstanceUID": "1.2.3"} | keys).items():
        setattr(asked, keyword, value)
    return asked


def statuses(
    node: Node, operation: str, asked: Dataset, takes: str = "ALL", cancels: bool = False
) -> list[int]:
    """Return the statuses of an operation; `takes` is who receives: all, some, or no classes."""
    ae, model = AE("MODALITY"), MODELS[operation]
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = PATIENCE_S
    ae.add_requested_context(model, ImplicitVRLittleEndian)  # which lets a key be anything
    refused = {"ALL": (), "SOME": (BASIC_TEXT,), "NONE": tuple(REPORTS)}.get(takes, ())
    held = [uid for uid in REPORTS if operation == "GET" and uid not in refused]
    for uid in held:
        ae.add_requested_context(uid)
    assoc = ae.associate(
        "127.0.0.1",
        node.port,
        ae_title="CHEXFRACT",
        ext_neg=[build_role(uid, scp_role=True) for uid in held],
        evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)],
    )
    assert assoc.is_established
    ask = {
        "FIND": lambda: assoc.send_c_find(asked, model, msg_id=7),
        "GET": lambda: assoc.send_c_get(asked, model, msg_id=7),
        "MOVE": lambda: assoc.send_c_move(asked, takes, model, msg_id=7),
    }[operation]
    found: list[int] = []
    try:
        for status, _ in ask():
            if cancels and not found:
                assoc.send_c_cancel(7, None, model)
            found.append(status.Status)
    finally:
        assoc.release()
    return found


def cancelled(node: Node, operation: str, patch: pytest.MonkeyPatch) -> list[int]:
    """Cancel after the first answer; the second one waits until the node has heard of it."""
    retrieval: Any = node.listener._retrieval

    def heard() -> bool:
        return any(one.dimse.cancel_req for one in node.listener._live_associations())

    find, content = retrieval._catalogue.find, retrieval._read_object

    def found(*args: Any) -> Iterator[Dataset]:
        for number, one in enumerate(find(*args)):
            assert number == 0 or wire.until(heard, PATIENCE_S)
            yield one

    read: list[object] = []

    def waited(*args: Any) -> Any:
        read.append(args)
        assert len(read) == 1 or wire.until(heard, PATIENCE_S)
        return content(*args)

    patch.setattr(retrieval._catalogue, "find", found)
    patch.setattr(retrieval, "_read_object", waited)
    asked = keys_of("IMAGE", SOPInstanceUID="") if operation == "FIND" else keys_of()
    return statuses(node, operation, asked, cancels=True)


def without_ledger(node: Node, operation: str, patch: pytest.MonkeyPatch) -> list[int]:
    def fail(*_: Any) -> Any:
        raise Unreachable("the ledger does not answer")

    for name in ("find", "objects"):
        patch.setattr(node.listener._retrieval._catalogue, name, fail)
    return statuses(node, operation, keys_of())


def too_many(node: Node, operation: str, patch: pytest.MonkeyPatch) -> list[int]:
    patch.setattr(retrieve, "MAX_OBJECTS", 1)
    return statuses(node, operation, keys_of())


def unreadable(node: Node, operation: str, _: Any) -> list[int]:
    asked = keys_of()
    tag = Tag("ExposureTimeInms")
    asked[tag] = DataElement(tag, "OB", b"short ")
    return statuses(node, operation, asked)


ANSWERS: dict[str, Callable[[Node, str, pytest.MonkeyPatch], list[int]]] = {
    "0000": lambda node, operation, _: statuses(node, operation, keys_of()),
    "FF00": lambda node, operation, _: statuses(node, operation, keys_of()),
    "FF01": lambda node, operation, _: statuses(
        node, operation, keys_of(StudyInstanceUID="", PatientComments="x")
    ),
    "B000": lambda node, operation, _: statuses(node, operation, keys_of(), "SOME"),
    "FE00": cancelled,
    "A700": without_ledger,
    "A701": too_many,
    "A702": lambda node, operation, _: statuses(node, operation, keys_of(), "NONE"),
    "A801": lambda node, operation, _: statuses(node, operation, keys_of(), "NOBODY"),
    "A900": lambda node, operation, _: statuses(
        node,
        operation,
        keys_of("NONSENSE" if operation == "FIND" else "STUDY", StudyInstanceUID=""),
    ),
    "C000": unreadable,
}
OPERATIONS = [
    (row["status"], operation)
    for row in CLAIMS["query_retrieve"]["statuses"]
    for operation in row["operations"].split()
]


@pytest.mark.parametrize(("status", "operation"), OPERATIONS)
def test_each_status_of_a_query_or_retrieval_is_answered_as_stated(
    node: Node, monkeypatch: pytest.MonkeyPatch, status: str, operation: str
) -> None:
    found = [f"{one:04X}" for one in ANSWERS[status](node, operation, monkeypatch)]
    assert (found[0] if status.startswith("FF") else found[-1]) == status
    assert {(one, operation) for one in found} <= set(OPERATIONS)


# TLS


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Ports of listeners and a web side, with a certificate of each kind, and an authority."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    ca, own = folder / "ca.pem", folder / "modality.pem"
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(own)
    ports = {}
    with ExitStack() as stack:
        for kind in trustme.KeyType:
            pem = folder / f"{kind.name}.pem"
            issued = authority.issue_cert("127.0.0.1", key_type=kind)
            issued.private_key_and_cert_chain_pem.write_to_path(pem)
            running = stack.enter_context(listening(folder / kind.name, tls={"certificate": pem}))
            ports[kind.name] = running.port
        tls = {"certificate": pem, "ca": ca}
        ports["mutual"] = stack.enter_context(listening(folder / "mutual", tls=tls)).port
        (ports["web"],) = free_ports(1)
        named = {"port": ports["web"], "url": f"https://127.0.0.1:{ports['web']}"}
        stack.enter_context(serving(folder / "web", certificate=pem, key=pem, **named))
        yield SimpleNamespace(ports=ports, ca=ca, own=own, web=pem)


def client(
    secured: SimpleNamespace,
    version: ssl.TLSVersion | None = None,
    suites: str = "ALL:COMPLEMENTOFALL",
    own: Path | None = None,
) -> ssl.SSLContext:
    """Return a caller that takes anything, so that the node alone refuses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(secured.ca)
    context.set_ciphers(f"{suites}:@SECLEVEL=0")
    context.minimum_version = version or ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = version or ssl.TLSVersion.MAXIMUM_SUPPORTED
    if own:
        context.load_cert_chain(own)
    return context


def shaken(port: int, context: ssl.SSLContext) -> tuple[str | None, str]:
    """Return version and suite of a handshake, after which an association is accepted."""
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE_S) as line,
        context.wrap_socket(line, server_hostname="127.0.0.1") as peer,
    ):
        peer.sendall(wire.request())
        assert peer.recv(1)
        cipher = peer.cipher()
        assert cipher
        return peer.version(), cipher[0]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("port", ["ECDSA", "web"])
@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
def test_the_stated_versions_of_tls_are_spoken(
    secured: SimpleNamespace, port: str, version: str
) -> None:
    names = {"1.0": "TLSv1", "1.3": "TLSv1.3", "1.2": "TLSv1.2", "1.1": "TLSv1.1"}
    asked = client(secured, ssl.TLSVersion[names[version].replace(".", "_")])
    if version in CLAIMS["security"]["tls_versions"]:
        assert shaken(secured.ports[port], asked)[0] == names[version]
    else:
        with pytest.raises(
            ssl.SSLError, match="ALERT_PROTOCOL_VERSION" if port != "web" else "ALERT|EOF"
        ):
            shaken(secured.ports[port], asked)


@pytest.mark.parametrize("suite", CLAIMS["security"]["suites"])
def test_each_stated_suite_is_spoken(secured: SimpleNamespace, suite: str) -> None:
    asked = client(secured, ssl.TLSVersion.TLSv1_2, suite)
    kind = "RSA" if "-RSA-" in suite else "ECDSA"
    assert shaken(secured.ports[kind], asked)[1] == suite
    if kind == "ECDSA" or secured.web.stem == kind:
        assert shaken(secured.ports["web"], asked)[1] == suite


@pytest.mark.parametrize("port", ["RSA", "ECDSA", "web"])
def test_no_other_suite_is_spoken(secured: SimpleNamespace, port: str) -> None:
    every = {one["name"] for one in client(secured).get_ciphers()}
    others = {one for one in every if not one.startswith("TLS_")} - {*CLAIMS["security"]["suites"]}
    assert {"AES128-SHA", "ECDHE-RSA-AES256-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"} <= others
    asked = client(secured, ssl.TLSVersion.TLSv1_2, ":".join(sorted(others)))
    with pytest.raises(
        ssl.SSLError, match="ALERT_HANDSHAKE_FAILURE" if port != "web" else "ALERT|EOF"
    ):
        shaken(secured.ports[port], asked)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_mutual_where_a_ca_is_named(
    secured: SimpleNamespace, version: ssl.TLSVersion
) -> None:
    assert "mutual where a CA is named" in CLAIMS["security"]["tls"]
    assert shaken(secured.ports["mutual"], client(secured, version, own=secured.own))
    with pytest.raises((OSError, AssertionError)):
        shaken(secured.ports["mutual"], client(secured, version))
    assert shaken(secured.ports["ECDSA"], client(secured, version))


# DICOMweb

WEB = CLAIMS["dicomweb"]
SERVICES = WEB["services"]
BEARER = {"Authorization": f"Bearer {SECRET}"}
KINDS = sorted(
    {kind for one in SERVICES for kind in one["media_types"].split(", ")}
    | {"text/csv", "image/gif", "application/xml", "video/mpeg", "application/octet-stream"}
)


@pytest.fixture(scope="module")
def web(api: Api) -> Iterator[httpx2.Client]:
    url = f"{api.url}{WEB['root']}"
    with httpx2.Client(base_url=url, headers=BEARER, timeout=PATIENCE_S) as asking:
        yield asking


@pytest.fixture(scope="module")
def objects(api: Api) -> list[dict[str, str]]:
    """What paths can name: a report alone in its study, and one with a picture and a document."""

    def names(study: str, document: Document) -> dict[str, str]:
        uids = {"series": document.series_instance_uid, "instance": document.sop_instance_uid}
        return {"study": study, **uids, "frames": "1", "tag": "00420011"}

    made = {
        study: add_result(api.ledger, api.spool, StudyInstanceUID=study, seconds=seconds)
        for study, seconds in (("1.2.3", ()), ("1.2.4", ("sc", "pdf")))
    }
    return [
        names(study, one) for study, several in made.items() for one in (several[0], *several[3:])
    ]


def paths(row: dict[str, Any], objects: list[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(row["path"].format(**names) for names in objects))


def is_of(answer: httpx2.Response, kind: str) -> bool:
    """Return whether a response has a media type; that of one picture needs no multipart."""
    heard = answer.headers.get("Content-Type", "").replace(" ", "")
    name, _, of = kind.replace(" ", "").partition(";")
    return heard.partition(";")[0] == name and of in heard


def answering(web: httpx2.Client, where: list[str]) -> str:
    """Return the first path under which something is had."""
    return next(path for path in where if web.get(path).status_code == 200)


GETS = [one for one in SERVICES if one["method"] == "GET"]
of_path = pytest.mark.parametrize("row", GETS, ids=lambda row: row["path"])


@of_path
def test_each_stated_media_type_is_had_and_no_other(
    web: httpx2.Client, objects: list[dict[str, str]], row: dict[str, Any]
) -> None:
    stated, where = row["media_types"].split(", "), paths(row, objects)
    for kind in stated:
        answers = (web.get(path, headers={"Accept": kind}) for path in where)
        assert any(one.status_code == 200 and is_of(one, kind) for one in answers), kind
    there = answering(web, where)
    others = ", ".join(kind for kind in KINDS if kind not in stated)
    assert web.get(there, headers={"Accept": others}).status_code == 406
    several = [f'multipart/related; type="{kind}"' for kind in stated]
    assert any(is_of(web.get(there), kind) for kind in (*stated, *several))


PARAMETERS = {
    "{attribute}": "PatientID=4711",
    "accept": "accept=",
    "charset": "charset=utf-8",
    "emptyvaluematching": "emptyvaluematching=true",
    "fuzzymatching": "fuzzymatching=true",
    "includefield": "includefield=all",
    "limit": "limit=1",
    "multiplevaluematching": "multiplevaluematching=true",
    "offset": "offset=0",
    "orderby": "orderby=StudyDate",
    "viewport": "viewport=64,64",
    "window": "window=100,50",
}


@of_path
def test_each_stated_parameter_is_known_and_no_other(
    web: httpx2.Client, objects: list[dict[str, str]], row: dict[str, Any]
) -> None:
    at = answering(web, paths(row, objects))
    heard = [web.get(f"{at}?{PARAMETERS[name]}") for name in row["parameters"]]
    assert {one.status_code for one in heard} == {200}
    assert not any("ignored" in one.headers.get("Warning", "") for one in heard)
    assert web.get(f"{at}?accept=text/csv").status_code == 406
    if row["service"] == "QIDO-RS" or row["parameters"] == WEB["rendered_parameters"]:
        other = web.get(f"{at}?quality=3")
        assert other.status_code == 200
        assert other.headers["Warning"].startswith("299 ")
        assert "quality" in other.headers["Warning"]


@pytest.mark.parametrize("path", dict.fromkeys(one["path"] for one in SERVICES))
def test_each_stated_method_is_answered_and_no_other(
    web: httpx2.Client, objects: list[dict[str, str]], path: str
) -> None:
    methods = {one["method"] for one in SERVICES if one["path"] == path}
    options = path.format(**objects[0])
    assert web.options(options).status_code == 200
    if "GET" in methods:
        head = web.head(answering(web, [path.format(**names) for names in objects]))
        assert (head.status_code, head.content) == (200, b"")
    for method in {"POST", "PUT", "PATCH", "DELETE"} - methods:
        assert web.request(method, options).status_code == 405, method
    if "POST" in methods:
        assert web.post(options, headers={"Content-Type": "text/csv"}).status_code == 415


@pytest.mark.parametrize(
    "path",
    [
        "/patients",
        "/workitems",
        "/workitems/1.2.3/state",
        "/studies/1.2.3/frames/1",
        "/studies/1.2.3/instances/1.2.3",
        "/studies/1.2.3/bulkdata",
        "/studies/1.2.3/series/1.2/instances/1.2/pixeldata",
        "/series/1.2/instances",
        "/color-palettes",
        "/modality-performed-procedure-steps",
    ],
)
def test_a_resource_that_is_not_stated_is_not_there(web: httpx2.Client, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert web.request(method, path).status_code == 404


@pytest.mark.parametrize("level", CLAIMS["query_retrieve"]["levels"], ids=lambda one: one["level"])
def test_each_stated_key_is_an_attribute_of_a_search(
    web: httpx2.Client, objects: list[dict[str, str]], level: dict[str, Any]
) -> None:
    lists = {"SERIES": "series", "IMAGE": "instances"}
    below = lists.get(level["level"], "")
    query = "&".join(
        f"{one['keyword']}{'.CodeValue' * (one['vr'] == 'SQ')}=" for one in level["keys"]
    )
    answer = web.get(f"/studies/1.2.3/{below}?{query}" if below else f"/studies?{query}")
    assert answer.status_code == 200
    assert "ignored" not in answer.headers.get("Warning", "")
    assert answer.json()


# STOW-RS


def file_of(ds: Dataset | None = None) -> bytes:
    content = BytesIO()
    dcmwrite(content, ds or radiograph(rows=4, columns=4), enforce_file_format=True)
    return content.getvalue()


RELATED = 'multipart/related; type="application/dicom"'


def posted(web: httpx2.Client, *files: bytes, path: str = "/studies", **more: str) -> Any:
    parts = (b"--mark\r\n\r\n" + one + b"\r\n" for one in files)
    kind = {"Content-Type": f"{RELATED}; boundary=mark"}
    return web.post(path, content=b"".join((*parts, b"--mark--")), headers=kind | more)


@pytest.mark.parametrize(
    "row", [one for one in SERVICES if one["method"] == "POST"], ids=lambda row: row["path"]
)
def test_images_are_stored_as_each_stated_media_type(
    web: httpx2.Client, row: dict[str, str]
) -> None:
    ds = radiograph(rows=4, columns=4)
    at, content = row["path"].format(study=ds.StudyInstanceUID), file_of(ds)
    stated, payload = row["media_types"].split(", "), row["payload"].split(", ")
    for kind in stated:
        answer = posted(web, content, path=at, Accept=kind)
        assert answer.status_code == 200
        assert is_of(answer, kind)
    others = ", ".join(kind for kind in KINDS if kind not in stated)
    assert posted(web, content, path=at, Accept=others).status_code == 406
    for kind in {*KINDS, *payload} - {RELATED}:
        mark = "; boundary=mark" if kind.startswith("multipart") else ""
        answer = web.post(at, content=content, headers={"Content-Type": kind + mark})
        assert answer.status_code == (200 if kind in payload else 415), kind
    assert RELATED in payload


def without_room(api: Api, web: httpx2.Client) -> Any:
    api.spool.min_free = 1 << 62
    try:
        return posted(web, file_of())
    finally:
        api.spool.min_free = 0


def in_parts(web: httpx2.Client, patch: pytest.MonkeyPatch) -> Any:
    patch.setattr(stow, "MAX_PARTS", 1)
    return posted(web, file_of(), file_of())


STORED: dict[int, Callable[[Api, httpx2.Client, pytest.MonkeyPatch], Any]] = {
    200: lambda api, web, patch: posted(web, file_of()),
    202: lambda api, web, patch: posted(web, file_of(), b"none" * 50),
    400: lambda api, web, patch: posted(web),
    406: lambda api, web, patch: posted(web, file_of(), Accept="text/csv"),
    409: lambda api, web, patch: posted(web, b"none" * 50),
    413: lambda api, web, patch: in_parts(web, patch),
    415: lambda api, web, patch: posted(web, file_of(), **{"Content-Encoding": "gzip"}),
    503: lambda api, web, patch: without_room(api, web),
}


@pytest.mark.parametrize("row", WEB["store_statuses"], ids=lambda row: str(row["status"]))
def test_each_status_of_stow_is_answered_as_stated(
    api: Api, web: httpx2.Client, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any]
) -> None:
    assert STORED[row["status"]](api, web, monkeypatch).status_code == row["status"]


def as_class(written: str, named: str) -> bytes:
    """Return a file whose head names another class than its data set."""
    ds = reports.again(radiograph(named, rows=4, columns=4))
    ds.SOPClassUID = written
    content = BytesIO()
    dcmwrite(content, ds, enforce_file_format=False)
    return content.getvalue()


def unrecorded(web: httpx2.Client, patch: pytest.MonkeyPatch) -> Any:
    def fail(*_: Any) -> Any:
        raise Unreachable("the ledger does not answer")

    patch.setattr("dicom_node.flow.intake.Intake.finish", fail)
    return posted(web, file_of())


SYNTAXES = (str(ExplicitVRLittleEndian).encode(), b"1.2.840.10008.1.9.9")
"""Of the files above, and one of the same length that there is not."""
FAILED: dict[str, Callable[[httpx2.Client, pytest.MonkeyPatch], Any]] = {
    "A700": unrecorded,
    "0122": lambda web, patch: posted(web, file_of(radiograph(CT))),
    "C122": lambda web, patch: posted(web, file_of().replace(*SYNTAXES, 1)),
    "A900": lambda web, patch: posted(web, as_class(CR, DX)),
    "C409": lambda web, patch: posted(web, file_of(), path="/studies/1.2.99"),
    "C000": lambda web, patch: posted(web, b"none" * 50),
}


@pytest.mark.parametrize("row", WEB["store_failures"], ids=lambda row: row["reason"])
def test_each_failure_reason_of_stow_is_answered_as_stated(
    web: httpx2.Client, monkeypatch: pytest.MonkeyPatch, row: dict[str, str]
) -> None:
    answer = FAILED[row["reason"]](web, monkeypatch)
    assert re.fullmatch("409|503", str(answer.status_code))
    heard = Dataset.from_json(answer.json())
    (item,) = [*heard.get("FailedSOPSequence", []), *heard.get("OtherFailuresSequence", [])]
    assert f"{item.FailureReason:04X}" == row["reason"]
