"""Archives that stall, drip or answer wrongly hold nobody up, and no report counts as stored."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import wire
from listening import listening, radiograph, written
from pydicom.dataset import Dataset
from pynetdicom import AE
from results import add_result

from dicom_node.base.errors import ChexFractError, NotUnderstood
from dicom_node.dimse.scu import Destination
from dicom_node.settings import Peer

pytestmark = pytest.mark.peer

SR = "1.2.840.10008.5.1.4.1.1.88.34"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
TIMEOUT_S = 0.6
PATIENCE_S = 20.0
"""Far more than three timeouts: no stall may last as long as the archive likes."""

Behave = Callable[["Line"], None]


class Line:
    """One association by hand, at the side of the archive."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.request = b""

    def read(self) -> tuple[int, bytes]:
        head = self.connection.recv(6, socket.MSG_WAITALL)
        if len(head) < 6:
            raise ConnectionResetError
        return head[0], self.connection.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL)

    def accepted(self, result: int = 0) -> bytes:
        """Return the A-ASSOCIATE-AC; `result` other than 0 for every context rejects all."""
        _, self.request = self.read()
        at, items = 68, b""
        while at < len(self.request):
            kind, size = struct.unpack(">BxH", self.request[at : at + 4])
            if kind == 0x20:
                number = self.request[at + 4 : at + 5]
                rest = self.request[at + 8 : at + 4 + size]
                skip = 4 + struct.unpack(">H", rest[2:4])[0]
                syntax = rest[skip : skip + 4 + struct.unpack(">H", rest[skip + 2 : skip + 4])[0]]
                items += wire.item(0x21, number + bytes([0, result, 0]) + syntax)
            at += 4 + size
        body = self.request[:68] + wire.item(0x10, b"1.2.840.10008.3.1.1.1") + items
        body += wire.item(0x50, wire.USER)
        return struct.pack(">BxL", 2, len(body)) + body

    def accept(self) -> None:
        self.connection.sendall(self.accepted())

    def stored(self) -> tuple[int, str]:
        """Take one C-STORE; return its context and SOP Instance UID."""
        uid, context, has_command = "", 0, False
        while True:
            kind, body = self.read()
            if kind != 4:
                raise ConnectionResetError
            at = 0
            while at < len(body):
                size, context, flags = struct.unpack(">LBB", body[at : at + 6])
                content = body[at + 6 : at + 4 + size]
                if flags & 1 and not has_command:
                    has_command = True
                    place = content.rindex(struct.pack("<HH", 0, 0x1000))
                    length = struct.unpack("<L", content[place + 4 : place + 8])[0]
                    uid = content[place + 8 : place + 8 + length].decode().strip("\0")
                if flags == 2:
                    return context, uid
                at += 4 + size

    def response(
        self, context: int, uid: str, status: int = 0, message: int = 1, kind: int = 0x8001
    ) -> bytes:
        def element(number: int, value: bytes) -> bytes:
            value += b"\0" * (len(value) % 2)
            return struct.pack("<HHL", 0, number, len(value)) + value

        body = element(2, SR.encode()) + element(0x100, struct.pack("<H", kind))
        body += element(0x120, struct.pack("<H", message)) + element(0x800, b"\1\1")
        body += element(0x900, struct.pack("<H", status))
        body += element(0x1000, uid.encode()) if uid else b""
        body = element(0, struct.pack("<L", len(body))) + body
        pdv = struct.pack(">LBB", len(body) + 2, context, 3) + body
        return struct.pack(">BxL", 4, len(pdv)) + pdv

    def drip(self, content: bytes) -> None:
        for i in range(len(content)):
            self.connection.sendall(content[i : i + 1])
            time.sleep(TIMEOUT_S / 4)

    def stay(self) -> None:
        while self.connection.recv(1 << 16):
            pass


@contextmanager
def archive(behave: Behave) -> Iterator[Peer]:
    """Run an archive that does to each association what it is given."""
    server = socket.create_server(("127.0.0.1", 0))
    lines: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            behave(Line(connection))

    def take() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                lines.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=take, daemon=True).start()
    port = server.getsockname()[1]
    try:
        yield Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout=TIMEOUT_S)
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        for line in lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def sent(peer: Peer, folder: Path) -> int | str:
    """Return the status of one report that is sent, or why there is none."""
    ds = radiograph()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SR
    del ds.PixelData
    try:
        with Destination("CHEXFRACT", peer) as destination:
            destination.connect([SR])
            return destination.store(written(folder, ds, "sr.dcm"))
    except ChexFractError as exc:
        return f"{type(exc).__name__}: {exc}"


def never_accepts(line: Line) -> None:
    line.read()
    line.stay()


def drips_its_acceptance(line: Line) -> None:
    line.drip(line.accepted())


def never_answers(line: Line) -> None:
    line.accept()
    line.stay()


def drips_its_answer(line: Line) -> None:
    line.accept()
    line.drip(line.response(*line.stored()))


def announces_a_pdu_without_end(line: Line) -> None:
    line.accept()
    line.stored()
    line.connection.sendall(struct.pack(">BxL", 4, 2**32 - 1))
    with suppress(OSError):
        while True:
            line.connection.sendall(bytes(1 << 16))
            time.sleep(0.01)


def aborts_after_the_data(line: Line) -> None:
    line.accept()
    line.stored()
    line.connection.sendall(struct.pack(">BxLBBBB", 7, 4, 0, 0, 0, 0))


def closes_after_the_data(line: Line) -> None:
    line.accept()
    line.stored()


def takes_no_context(line: Line) -> None:
    line.connection.sendall(line.accepted(result=3))
    line.stay()


def answers_of_another_object(line: Line) -> None:
    line.accept()
    context, _ = line.stored()
    line.connection.sendall(line.response(context, "1.2.3.4.5"))
    line.stay()


def answers_another_message(line: Line) -> None:
    line.accept()
    context, uid = line.stored()
    line.connection.sendall(line.response(context, uid, message=77))
    line.stay()


def answers_another_service(line: Line) -> None:
    line.accept()
    context, _ = line.stored()
    line.connection.sendall(line.response(context, "", kind=0x8030))
    line.stay()


def answers_with_garbage(line: Line) -> None:
    line.accept()
    line.stored()
    line.connection.sendall(struct.pack(">BxL", 4, 40) + bytes(range(40)))
    line.stay()


@pytest.mark.parametrize(
    "behave",
    [
        never_accepts,
        drips_its_acceptance,
        never_answers,
        drips_its_answer,
        announces_a_pdu_without_end,
        aborts_after_the_data,
        closes_after_the_data,
        takes_no_context,
        answers_of_another_object,
        answers_another_message,
        answers_another_service,
        answers_with_garbage,
    ],
    ids=lambda behave: behave.__name__,
)
def test_no_archive_holds_a_sender_up_or_makes_it_believe(tmp_path: Path, behave: Behave) -> None:
    began = time.monotonic()
    with archive(behave) as peer:
        answer = sent(peer, tmp_path)
        took = time.monotonic() - began
        assert isinstance(answer, str), f"status {answer}"
        assert took < PATIENCE_S
        assert "Unreachable" in answer or "MismatchedAnswer" in answer


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.999])
def test_what_is_cut_off_in_the_spool_is_not_sent(tmp_path: Path, share: float) -> None:
    ds = radiograph()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SR
    file = written(tmp_path, ds, "sr.dcm")
    whole = file.read_bytes()
    head = whole.index(b"\x08\0\x16\0")
    file.write_bytes(whole[: head + int(share * (len(whole) - head))])
    with archive(never_answers) as peer, Destination("CHEXFRACT", peer) as destination:
        destination.connect([SR])
        with pytest.raises(NotUnderstood, match="cut off"):
            destination.store(file)


def test_a_destination_of_c_move_that_drips_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with archive(drips_its_acceptance) as slow, listening(tmp_path) as node:
        add_result(node.ledger, node.spool, StudyInstanceUID="1.2.3")
        peers = node.settings.peers | {"slow": slow.model_copy(update={"ae_title": "SLOW"})}
        retrieval = node.listener._retrieval
        monkeypatch.setattr(
            retrieval, "_settings", node.settings.model_copy(update={"peers": peers})
        )
        ae = AE("MODALITY")
        ae.add_requested_context(MOVE)
        assoc = ae.associate("127.0.0.1", node.port, ae_title="CHEXFRACT")
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", "1.2.3"
        began = time.monotonic()
        (*_, (status, _)) = assoc.send_c_move(asked, "SLOW", MOVE)
        took = time.monotonic() - began
        assoc.release()
    assert status.Status == 0xA801
    assert took < PATIENCE_S
