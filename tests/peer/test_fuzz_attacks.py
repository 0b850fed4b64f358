"""While each attack lasts, known peers are verified, memory is bounded, and the log says why."""

import socket
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from fuzz import Recording, echo, echo_recording, listener, pdus, state
from listening import CR, radiograph
from pydicom import config
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

pytestmark = pytest.mark.peer

SLOWEST_S = 5.0
"""Loose, because machines that test are busy; quiet ones answer in milliseconds."""

DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass
class Target:
    process: subprocess.Popen[str]
    port: int
    incoming: Path
    log: Path
    said: Recording

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def lines(self, text: str) -> int:
        return sum(text in line for line in self.log.read_text().splitlines())


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("target")
    with listener(folder) as (process, port, incoming):
        log = folder / "listener.log"
        yield Target(process, port, incoming, log, echo_recording(port))


def is_served_during(target: Target, attack: Callable[[ExitStack], None]) -> None:
    """Verify before, during and after an attack, which leaves its sockets in a stack."""
    took, ends = [], threading.Event()

    def verify() -> None:
        while not ends.wait(0.1):
            took.append(echo(target.port, target.said))

    good = threading.Thread(target=verify)
    with ExitStack() as stack:
        good.start()
        try:
            attack(stack)
            time.sleep(0.5)
            memory = state(target.process)[0]
        finally:
            ends.set()
            good.join(20)
    took.append(echo(target.port, target.said))
    assert len(took) > 1
    assert max(took) < SLOWEST_S
    assert memory < 300, f"{memory:.0f} MB"
    end = time.monotonic() + 5
    while list(target.incoming.iterdir()) and time.monotonic() < end:
        time.sleep(0.05)
    assert list(target.incoming.iterdir()) == []


def until(holds: Callable[[], bool], limit_s: float = 12) -> bool:
    end = time.monotonic() + limit_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def test_two_hundred_half_open_and_idle_sockets(target: Target) -> None:
    reason = "no association request within"
    before = target.lines(reason)

    def attack(stack: ExitStack) -> None:
        for number in range(200):
            line = stack.enter_context(target.connect())
            line.sendall(target.said[0][: (number % 2) * 40])
        assert until(lambda: target.lines(reason) - before >= 200, 20)

    is_served_during(target, attack)
    assert target.lines(reason) - before == 200


def test_two_hundred_port_scans(target: Target) -> None:
    before = target.lines("connected and closed")

    def attack(_: ExitStack) -> None:
        for _number in range(200):
            target.connect().close()

    is_served_during(target, attack)
    assert until(lambda: target.lines("connected and closed") - before >= 200)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), "a TLS hello"),
        (b"GET /dicom-web/studies HTTP/1.1\r\nHost: x\r\n\r\n", "an HTTP request"),
    ],
    ids=["tls", "http"],
)
def test_other_protocols_are_logged_once_each(target: Target, content: bytes, reason: str) -> None:
    before = target.lines(reason)

    def attack(stack: ExitStack) -> None:
        for _ in range(50):
            stack.enter_context(target.connect()).sendall(content)

    is_served_during(target, attack)
    assert until(lambda: target.lines(reason) - before >= 50)
    assert target.lines(reason) - before == 50


def established(target: Target, stack: ExitStack) -> socket.socket:
    """Associate as echoscu did and return the connection."""
    line = stack.enter_context(target.connect())
    line.sendall(target.said[0])
    head = line.recv(6, socket.MSG_WAITALL)
    assert head[0] == 2
    line.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL)
    return line


def test_senders_of_one_byte_at_a_time(target: Target) -> None:
    before = target.lines("stopped in the middle of a PDU")

    def attack(stack: ExitStack) -> None:
        lines = [established(target, stack) for _ in range(20)]
        for byte in target.said[1][:5]:
            for line in lines:
                with suppress(OSError):
                    line.sendall(bytes([byte]))
            time.sleep(0.7)

    is_served_during(target, attack)
    assert until(lambda: target.lines("stopped in the middle of a PDU") - before >= 20)
    assert target.lines("stopped in the middle of a PDU") - before == 20


def test_over_long_pdus(target: Target) -> None:
    before = target.lines("announces a PDU")

    def attack(stack: ExitStack) -> None:
        for _ in range(20):
            established(target, stack).sendall(struct.pack(">BxL", 4, 0xFFFFFFF0) + bytes(1000))

    is_served_during(target, attack)
    assert until(lambda: target.lines("announces a PDU") - before >= 20)
    assert target.lines("announces a PDU") - before == 20


def associated(target: Target, syntax: str, patience_s: float = 60) -> Association:
    ae = AE("MODALITY")
    ae.add_requested_context(CR, syntax)
    ae.dimse_timeout = patience_s
    assoc = ae.associate("127.0.0.1", target.port, ae_title="CHEXFRACT", max_pdu=0)
    assert assoc.is_established
    return assoc


def stored(assoc: Association, content: bytes) -> int:
    request = C_STORE()
    request.MessageID, request.Priority = 1, 0
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CR, "1.2.3.4"
    request.DataSet = BytesIO(content)
    assoc._reactor_checkpoint.clear()  # else it would take the answer for a request
    while not assoc._is_paused:
        time.sleep(0.001)
    assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
    _, response = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    return int(response.Status)


def test_deflate_bombs(target: Target) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    assert len(bomb) < 200_000

    def attack(stack: ExitStack) -> None:
        for _ in range(2):
            assoc = associated(target, DEFLATED)
            stack.callback(assoc.abort)
            assert stored(assoc, bomb) == 0xC000

    before = target.lines("refused an Instance of MODALITY@127.0.0.1 with 0xC000")
    is_served_during(target, attack)
    assert target.lines("refused an Instance of MODALITY@127.0.0.1 with 0xC000") - before == 2


@pytest.mark.parametrize(
    "uid",
    ["../../../../etc/passwd", "/etc/passwd", "1.2." + "3" * 70, "1.2.3\x00/../x", "%n%s{{7*7}}"],
)
def test_uids_that_are_paths_or_too_long(target: Target, uid: str) -> None:
    """They stand in the data set; those of the command pynetdicom itself would not send."""
    ds = radiograph(CR)
    ds.file_meta = None
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        ds[keyword]._value = UID(uid, validation_mode=config.IGNORE)
    content = encode(ds, False, True)
    assert content is not None
    assert uid.encode() in content
    before = target.lines("refused an Instance of MODALITY@127.0.0.1 with 0xC000")

    def attack(stack: ExitStack) -> None:
        for _ in range(5):
            assoc = associated(target, EXPLICIT)
            stack.callback(assoc.abort)
            assert stored(assoc, content) == 0xC000

    is_served_during(target, attack)
    assert target.lines("refused an Instance of MODALITY@127.0.0.1 with 0xC000") - before == 5


def test_nested_sequences(target: Target) -> None:
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000

    def attack(stack: ExitStack) -> None:
        assoc = associated(target, EXPLICIT)
        stack.callback(assoc.abort)
        assert stored(assoc, nested) == 0xC000

    before = target.lines("refused an Instance of MODALITY@127.0.0.1 with 0xC000")
    is_served_during(target, attack)
    assert target.lines("refused an Instance of MODALITY@127.0.0.1 with 0xC000") - before == 1


def test_endless_data_sets(target: Target) -> None:
    before = target.lines("its data set is larger than")

    def attack(stack: ExitStack) -> None:
        for _ in range(3):
            assoc = associated(target, EXPLICIT, patience_s=2)
            stack.callback(assoc.abort)
            with suppress(Exception):  # it is cut off in the middle
                stored(assoc, bytes(40_000_000))
        # The sender's own abort must not come before so much was sent: a busy machine takes time.
        assert until(lambda: target.lines("its data set is larger than") - before >= 3, 60)

    is_served_during(target, attack)
    assert target.lines("its data set is larger than") - before == 3


def test_as_many_contexts_as_an_association_can_have(target: Target) -> None:
    """255 is the last id; ids are odd, so there are 128."""
    ae = AE("MODALITY")
    for number in range(128):
        ae.add_requested_context(f"1.2.3.{number}", [f"1.2.{i}" for i in range(40)])

    def attack(stack: ExitStack) -> None:
        for _ in range(10):
            assoc = ae.associate("127.0.0.1", target.port, ae_title="CHEXFRACT")
            stack.callback(assoc.abort)
            assert not assoc.accepted_contexts

    reason = "MODALITY@127.0.0.1: it proposes 128 contexts, none of them spoken here"
    before = target.lines(reason)
    is_served_during(target, attack)
    assert target.lines(reason) - before == 10


RELEASE = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"


def out_of_order(target: Target) -> list[bytes]:
    """Return what makes pynetdicom's state machine or its readers give up."""
    (command,) = pdus(target.said[1])
    uid = command.index(b"1.2.840.10008.1.1")
    strange = command[:uid] + b"1.2.840.10008.\xff\n1" + command[uid + 17 :]
    return [
        RELEASE + b"\x99" + RELEASE[1:],
        RELEASE + RELEASE + command,
        command + RELEASE + command + b"\x06" + RELEASE[1:],
        command * 3 + b"\x07" + RELEASE[1:] + command,
        strange,
    ]


@pytest.mark.parametrize("number", range(5))
def test_no_peer_writes_a_traceback_or_a_line_of_its_own(target: Target, number: int) -> None:
    before = target.lines("Traceback") + target.lines("Non-conformant")

    def attack(stack: ExitStack) -> None:
        for _ in range(30):
            with suppress(OSError):
                established(target, stack).sendall(out_of_order(target)[number])

    is_served_during(target, attack)
    assert target.lines("Traceback") + target.lines("Non-conformant") == before


def test_context_ids_that_are_even_or_come_twice(target: Target) -> None:
    (request,) = pdus(target.said[0])
    at = request.index(b"\x20\x00")  # the first presentation context item
    size = 4 + struct.unpack(">H", request[at + 2 : at + 4])[0]
    item = request[at : at + size]
    many = b"".join(item[:4] + bytes([n % 256]) + item[5:] for n in range(600))
    body = request[6:at] + many + request[at + size :]
    odd = request[:2] + struct.pack(">L", len(body)) + body

    def attack(stack: ExitStack) -> None:
        for _ in range(5):
            stack.enter_context(target.connect()).sendall(odd)

    is_served_during(target, attack)
