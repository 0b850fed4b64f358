"""The listener's answers to what no honest modality sends, and its patience with silence."""

import gc
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from listening import CR, DX, Node, listening, radiograph
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from wire import command, p_data, pdv, request_pdu

from dicom_node.base.errors import ConfigurationError, Unreachable
from dicom_node.dimse import acceptor, patches, stream
from dicom_node.dimse.reception import Inlet
from dicom_node.dimse.scp import Listener

# Malformed values in our own requests are the point; the sending side warns about them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.fixture(autouse=True, scope="module", params=["streamed", "standard"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each test runs with both ways of a data set to the spool."""
    known = patches.KNOWN if request.param == "streamed" else ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "KNOWN", known)
        yield request.param


@pytest.fixture(scope="module")
def node(way: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with listening(tmp_path_factory.mktemp(way)) as running:
        yield running


@contextmanager
def associated(node: Node, *sop_classes: str, title: str = "MODALITY") -> Iterator[Association]:
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = 10
    ae.add_requested_context("1.2.840.10008.1.1")
    for uid in sop_classes or (DX, CR):
        ae.add_requested_context(uid, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", node.port, ae_title="CHEXFRACT")
    try:
        yield assoc
    finally:
        assoc.release() if assoc.is_established else assoc.abort()


def store(assoc: Association, content: bytes | Dataset, sop_class: str = DX, uid: str = "") -> Any:
    """Send a C-STORE request whose command says what we like; return the response."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = uid or (
        str(content.SOPInstanceUID) if isinstance(content, Dataset) else "1.2.3"
    )
    if isinstance(content, Dataset):
        content = encode(content, False, True) or b""
    request.DataSet = BytesIO(content)
    context = next(c for c in assoc.accepted_contexts if c.abstract_syntax == DX)
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        time.sleep(0.001)
    assoc.dimse.send_msg(request, context.context_id)
    _, response = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    return response


def echoes(node: Node) -> float:
    """Return how long an association with one C-ECHO took, in seconds."""
    started = time.monotonic()
    with associated(node) as assoc:
        assert assoc.is_established
        assert assoc.send_c_echo().Status == 0
    return time.monotonic() - started


def connect(node: Node) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port), timeout=10)


def is_closed(peer: socket.socket, within_s: float) -> bool:
    peer.settimeout(within_s)
    try:
        while peer.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@contextmanager
def raw(node: Node) -> Iterator[socket.socket]:
    """Yield a socket with an established association."""
    with connect(node) as peer:
        peer.sendall(request_pdu())
        assert peer.recv(4096)[:1] == b"\x02"
        yield peer


def pour(peer: socket.socket, pdu: bytes) -> None:
    """Send `pdu` a thousand times."""
    for _ in range(1000):
        peer.sendall(pdu)
        time.sleep(0.002)


def status_of(peer: socket.socket) -> int:
    answer = peer.recv(4096)
    at = answer.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8
    return int.from_bytes(answer[at : at + 2], "little")


# Statuses


def test_a_data_set_of_another_sop_class_is_0xa900(node: Node) -> None:
    with associated(node) as assoc:
        assert store(assoc, radiograph(CR)).Status == 0xA900


@pytest.mark.parametrize(
    ("uid", "reason"),
    [
        (None, "no Affected SOP Instance UID"),
        ("", "no Affected SOP Instance UID"),
        ("  ", "no Affected SOP Instance UID"),
        ("1." + "2" * 68, "has 70 characters"),
        ("not-a-uid", "is not a UID"),
    ],
)
def test_a_request_without_its_uid_is_answered_at_once(
    node: Node, caplog: pytest.LogCaptureFixture, uid: str | None, reason: str
) -> None:
    kept, started = node.kept, time.monotonic()
    with raw(node) as peer:
        peer.sendall(p_data(pdv(3, command(uid))) + p_data(pdv(2, b"data set")))
        assert status_of(peer) == 0xC000
        assert time.monotonic() - started < 5
        assert sum(reason in line for line in caplog.messages) == 1
        peer.sendall(p_data(pdv(3, command("1.2.3"))) + p_data(pdv(2, b"data set")))
        assert status_of(peer) == 0xC000, "the association goes on"
        assert (node.kept, node.unfinished) == (kept, [])


def test_a_request_without_its_sop_class_is_answered_at_once(node: Node) -> None:
    with raw(node) as peer:
        peer.sendall(p_data(pdv(3, command("1.2.3", sop_class=""))) + p_data(pdv(2, b"data set")))
        assert status_of(peer) == 0xC000


@pytest.mark.parametrize(
    "uid", ["../../etc/passwd", "1.2.3/4", "1..2", "x", "1.2.3\r\nINFO forged"]
)
def test_a_uid_that_is_none_is_0xc000_and_leaves_nothing(node: Node, uid: str) -> None:
    ds, before = radiograph(), node.kept
    ds.SOPInstanceUID = uid
    with associated(node) as assoc:
        response = store(assoc, ds, uid="1.2.3.4")
        assert response.Status == 0xC000
        assert 0 < len(response.ErrorComment) <= 64
        assert store(assoc, radiograph(), uid=uid[:64]).Status == 0xC000
    assert node.kept == before
    assert node.unfinished == []


def test_a_data_set_without_a_study_is_0xc000(node: Node) -> None:
    ds = radiograph()
    del ds.StudyInstanceUID
    with associated(node) as assoc:
        assert store(assoc, ds).Status == 0xC000


@pytest.mark.parametrize("content", [b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 3000])
def test_bytes_that_are_no_data_set_are_0xc000(node: Node, content: bytes) -> None:
    with associated(node) as assoc:
        assert store(assoc, content).Status == 0xC000
        assert store(assoc, radiograph()).Status == 0


def test_deeply_nested_sequences_are_0xc000(node: Node) -> None:
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 2000
    with associated(node) as assoc:
        assert store(assoc, nested).Status == 0xC000
        assert store(assoc, radiograph()).Status == 0
    assert node.unfinished == []


def test_another_sop_class_than_the_context_has_is_0x0122(node: Node) -> None:
    with associated(node) as assoc:
        assert store(assoc, radiograph(CR), sop_class=CR).Status == 0x0122


@pytest.mark.parametrize("fault", [RuntimeError("a bug"), OSError(5, "I/O"), Unreachable("ledger")])
def test_no_exception_becomes_0xc211(
    node: Node, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """An Instance that nothing is known to be wrong with is asked for again: 0xA700."""

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(node.listener._intake, "finish", fail)
    with associated(node) as assoc:
        assert store(assoc, radiograph()).Status == 0xA700
    assert node.unfinished == []


def test_command_and_data_set_in_one_pdu_are_taken(node: Node) -> None:
    ds = radiograph(rows=4, columns=4)
    with raw(node) as peer:
        content = encode(ds, False, True) or b""
        peer.sendall(p_data(pdv(3, command(ds.SOPInstanceUID)), pdv(2, content)))
        assert status_of(peer) == 0
    assert node.ledger.instances.known(ds.SOPInstanceUID) is not None


@given(
    cuts=st.lists(st.integers(0, 6200), max_size=8),
    ends=st.sets(st.integers(0, 10)),
    in_command=st.none() | st.integers(1, 100),
    segment=st.integers(1, 9000),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(cuts=[0, 0, 500, 6200], ends=set(), in_command=None, segment=1)
def test_fragments_of_any_size_in_any_pdus_make_the_same_instance(
    node: Node, cuts: list[int], ends: set[int], in_command: int | None, segment: int
) -> None:
    """A PDU ends behind the fragments named by `ends`; `segment` bytes are sent at a time."""
    ds = radiograph()
    content = encode(ds, False, True) or b""
    request = command(ds.SOPInstanceUID)
    fragments = [pdv(3, request)]
    if in_command:
        fragments = [pdv(1, request[:in_command]), pdv(3, request[in_command:])]
    edges = sorted([0, *(cut for cut in cuts if cut < len(content)), len(content)])
    for number, (start, end) in enumerate(pairwise(edges), 2):
        fragments.append(pdv(2 * (number == len(edges)), content[start:end]))
    pdus: list[list[bytes]] = [[]]
    for number, fragment in enumerate(fragments):
        pdus[-1].append(fragment)
        if number in ends and number + 1 < len(fragments):
            pdus.append([])
    sent = b"".join(p_data(*pdu) for pdu in pdus)
    with raw(node) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), max(segment, len(sent) // 300)):
            peer.sendall(sent[start : start + max(segment, len(sent) // 300)])
        assert status_of(peer) == 0
    instance = node.ledger.instances.known(ds.SOPInstanceUID)
    assert instance is not None
    assert node.spool.path(instance.file).read_bytes()[-len(content) :] == content
    assert instance.size == 144 + _meta_length(node, instance.file) + len(content)


def test_two_requests_sent_at_once_are_both_kept(node: Node) -> None:
    first, second = radiograph(), radiograph()
    with raw(node) as peer:
        for ds in (first, second):
            content = encode(ds, False, True) or b""
            peer.sendall(p_data(pdv(3, command(ds.SOPInstanceUID))) + p_data(pdv(2, content)))
        assert status_of(peer) == 0
        assert _until(lambda: node.ledger.instances.known(second.SOPInstanceUID) is not None)
    assert node.ledger.instances.known(first.SOPInstanceUID) is not None


def test_an_association_that_has_ended_holds_no_buffer(node: Node) -> None:
    with associated(node, DX) as assoc:
        assert store(assoc, radiograph()).Status == 0

    def held() -> list[int]:
        inlets = [found for found in gc.get_objects() if issubclass(type(found), Inlet)]
        return [len(inlet._space) + len(inlet.unread) for inlet in inlets]

    gc.disable()  # it would find the association, and is seldom called in a node
    try:
        assert _until(lambda: not any(held()))
    finally:
        gc.enable()


def test_a_request_without_data_set_ends_in_no_instance(node: Node) -> None:
    with raw(node) as peer:
        peer.sendall(p_data(pdv(3, command("1.2.3.9", has_data_set=False))))
        peer.sendall(struct.pack(">BxLL", 5, 4, 0))
        assert is_closed(peer, 5)
    assert node.ledger.instances.known("1.2.3.9") is None
    assert node.unfinished == []


def test_plain_requests_pass_pynetdicom_by(
    node: Node, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else does: the C-ECHO between them is pynetdicom's."""
    messages: list[str] = []
    receive = DIMSEServiceProvider.receive_primitive

    def noted(self: Any, primitive: Any) -> None:
        messages.append(type(self).__name__)
        receive(self, primitive)

    monkeypatch.setattr(DIMSEServiceProvider, "receive_primitive", noted)
    with associated(node) as assoc:
        for _ in range(2):
            assert assoc.send_c_store(radiograph()).Status == 0
            assert assoc.send_c_echo().Status == 0
    taken = messages.count("Reception")
    assert taken == 2 if way == "streamed" else taken > 4


def test_an_unknown_pynetdicom_is_told_once_and_used_the_standard_way(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(patches, "KNOWN", ("1.0.0",))
    with listening(tmp_path) as node, associated(node) as assoc:
        assert assoc.send_c_store(radiograph()).Status == 0
    assert caplog.text.count("which is slower") == 1


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(p_data(b"\0\0\xff\xff\1\0" + bytes(80)), id="a PDV longer than its PDU"),
        pytest.param(p_data(pdv(1, bytes(80))), id="a command where data are due"),
        pytest.param(p_data(b"\0\0\0\x52\3\0" + bytes(80)), id="another context"),
        pytest.param(p_data(b"\0\0\0"), id="no room for a PDV"),
        pytest.param(p_data(pdv(2, bytes(80)), pdv(3, command("1.2.3.8"))), id="two in one PDU"),
    ],
)
def test_what_is_no_fragment_of_the_data_set_leaves_nothing(
    node: Node, way: str, rest: bytes
) -> None:
    with raw(node) as peer:
        peer.sendall(p_data(pdv(3, command("1.2.3.8"))) + p_data(pdv(0, bytes(80))) + rest)
        if way == "streamed":  # pynetdicom is more patient with some of it
            assert is_closed(peer, 8)
    assert node.ledger.instances.known("1.2.3.8") is None
    assert _until(lambda: node.unfinished == [])
    assert echoes(node) < 5


# Limits


def test_a_sender_that_goes_away_leaves_nothing(node: Node) -> None:
    with raw(node) as peer:
        peer.sendall(p_data(pdv(3, command("1.2.3.7"))))
        for _ in range(3):
            peer.sendall(p_data(pdv(0, bytes(10_000))))
        assert _until(lambda: len(node.unfinished) == 1)
    assert _until(lambda: node.unfinished == [])


A_RELEASE, AN_ABORT = (struct.pack(">BxL4x", kind, 4) for kind in (5, 7))


@pytest.mark.parametrize("end", [b"", A_RELEASE, AN_ABORT], ids=["closed", "released", "aborted"])
@pytest.mark.parametrize("is_streamed", [True, False])
def test_an_instance_that_ends_before_its_end_leaves_one_line(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    end: bytes,
    is_streamed: bool,
) -> None:
    monkeypatch.setattr(stream, "is_known", lambda: is_streamed)
    with listening(tmp_path) as node:
        with raw(node) as peer:
            peer.sendall(p_data(pdv(3, command("1.2.3.7"))) + p_data(pdv(0, bytes(10_000))))
            assert _until(lambda: len(node.unfinished) == 1)
            peer.sendall(end)
            if end:
                assert is_closed(peer, 30)
        assert _until(lambda: node.unfinished == [])
        assert _until(lambda: any("lost an Instance" in line for line in caplog.messages))
        # its peer ended it: nobody was refused
        assert node.listener._refusals._counts == {}
    lines = [record for record in caplog.records if record.levelname == "WARNING"]
    (line,) = [record.getMessage() for record in lines]
    assert line.startswith("lost an Instance of MODALITY@127.0.0.1: ")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_data_set_above_the_limit_is_aborted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(tmp_path, max_instance=100_000) as node, raw(node) as peer:
        peer.sendall(p_data(pdv(3, command("1.2.3.7"))))
        with pytest.raises(ConnectionError):
            pour(peer, p_data(pdv(0, bytes(10_000))))
        assert _until(lambda: node.unfinished == [])
        assert echoes(node) < 5
    assert sum("larger than 100000 bytes" in line for line in caplog.messages) == 1


def test_an_endless_command_set_is_aborted(node: Node) -> None:
    with raw(node) as peer, pytest.raises(ConnectionError):
        pour(peer, p_data(pdv(1, bytes(10_000))))


def test_a_pdu_that_announces_4_gb_is_not_waited_for(node: Node) -> None:
    with raw(node) as peer:
        peer.sendall(struct.pack(">BxL", 4, 0xFFFFFFF0) + bytes(1000))
        assert is_closed(peer, 3)


@pytest.mark.parametrize(
    "pdu",
    [
        p_data(struct.pack(">LBB", 0, 1, 3)),
        p_data(pdv(3, b"")),
        p_data(pdv(3, b"\0" * 40)),
        p_data(pdv(2, b"data before a command")),
        p_data(struct.pack(">LBB", 99999, 1, 3) + b"short"),
        p_data(pdv(3, command("1.2.3").replace(b"\x01\0\x01\0", b"\x77\x77\x01\0"))),
        struct.pack(">BxL", 9, 4) + bytes(4),
        request_pdu(),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_malformed_pdu_ends_its_association_only(node: Node, pdu: bytes) -> None:
    with raw(node) as peer:
        peer.sendall(pdu)
        peer.sendall(struct.pack(">BxLL", 5, 4, 0))
        assert is_closed(peer, 6)
    assert echoes(node) < 5


def test_too_many_associations_of_one_peer_are_rejected_for_now(tmp_path: Path) -> None:
    with listening(tmp_path, max_associations_per_peer=2) as node:
        with associated(node), associated(node), associated(node) as third:
            assert third.is_rejected
            answer = third.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        assert _until(lambda: not node.listener._live_associations())
        assert echoes(node) < 5


# Silence


FOREIGN = {
    "http": (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", "an HTTP request"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "a TLS hello"),
    "other": (b"\x99" * 20, "its first byte is 0x99"),
    "huge": (struct.pack(">BxL", 1, 1 << 31), "an A-ASSOCIATE-RQ of"),
}


@pytest.mark.parametrize(("content", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_other_protocols_are_turned_away_at_once(
    node: Node, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    started = time.monotonic()
    with connect(node) as peer:
        peer.sendall(content)
        assert is_closed(peer, 4)
    assert time.monotonic() - started < 5
    assert _until(lambda: any(reason in line for line in caplog.messages))
    assert sum("turned away 127.0.0.1" in line for line in caplog.messages) == 1


def test_two_hundred_silent_sockets_keep_nobody_out(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "FIRST_PDU_S", 2.5)
    half = request_pdu()[:40]
    silent = [connect(node) for _ in range(200)]
    try:
        for number, peer in enumerate(silent):
            peer.sendall(half[: number % 41])
        assert echoes(node) < 5
        assert all(is_closed(peer, 8) for peer in silent)
    finally:
        for peer in silent:
            peer.close()
    assert _until(lambda: not node.listener._server._waiting)


def test_a_request_that_drips_is_cut_off(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "FIRST_PDU_S", 1.0)
    started = time.monotonic()
    with connect(node) as peer:
        try:
            for byte in request_pdu():
                peer.sendall(bytes([byte]))
                time.sleep(0.25)
        except ConnectionError:
            pass
    assert time.monotonic() - started < 10


def test_a_silent_tls_client_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before its handshake, and after it."""
    monkeypatch.setattr(acceptor, "FIRST_PDU_S", 1.0)
    certificate = tmp_path / "node.pem"
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    with listening(tmp_path, tls={"certificate": certificate}) as node, connect(node) as silent:
        with context.wrap_socket(connect(node), server_hostname="127.0.0.1") as shaken:
            assert is_closed(shaken, 4)
        assert is_closed(silent, 4)
    assert _until(lambda: sum("turned away" in line for line in caplog.messages) == 2)


def test_an_idle_association_is_aborted(tmp_path: Path) -> None:
    with listening(tmp_path, idle_timeout=1) as node, raw(node) as peer:
        assert is_closed(peer, 6)


def test_a_pdu_that_never_ends_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with listening(tmp_path, idle_timeout=1) as node, raw(node) as peer:
        peer.sendall(p_data(pdv(3, command("1.2.3.7"))) + struct.pack(">BxL", 4, 5000) + b"\0" * 10)
        assert is_closed(peer, 6)
        assert _until(lambda: node.unfinished == [])
    assert "stopped in the middle of a PDU" in caplog.text


# The port


def test_a_busy_port_is_one_clear_line(node: Node) -> None:
    busy = node.settings.model_copy(
        update={"node": node.settings.node.model_copy(update={"port": node.port})}
    )
    with pytest.raises(ConfigurationError, match=f"port {node.port} is in use .*stop the other"):
        Listener(busy, node.listener._intake).start()


def _meta_length(node: Node, file: str) -> int:
    return int.from_bytes(node.spool.path(file).read_bytes()[140:144], "little")


def _until(holds: Any, limit_s: float = 5) -> bool:
    end = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
