"""Requests that no library would send: each has its answer, or a line and a count."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
import wire
from listening import Node, listening
from results import add_result

ROOT = b"1.2.840.10008.5.1.4.1.2.2."
FIND, MOVE, GET = ROOT + b"1", ROOT + b"2", ROOT + b"3"
KINDS = {FIND: 0x20, MOVE: 0x21, GET: 0x10}
RELEASE = struct.pack(">BxL", 5, 4) + bytes(4)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with listening(tmp_path_factory.mktemp("node")) as running:
        add_result(running.ledger, running.spool, seconds=(), StudyInstanceUID="1.2.3")
        yield running


def element(group: int, number: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHL", group, number, len(value)) + value


def number(value: int) -> bytes:
    return struct.pack("<H", value)


def command(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return element(0, 0, struct.pack("<L", len(body))) + body


def asked(sop_class: bytes, priority: int = 0, *more: bytes, message: bytes | None = None) -> bytes:
    """Return the command set of C-FIND, C-MOVE or C-GET; an empty SOP class is left out."""
    return command(
        *([element(0, 2, sop_class)] if sop_class else []),
        element(0, 0x100, number(KINDS.get(sop_class, 0x20))),
        element(0, 0x110, number(1)) if message is None else message,
        *more,
        element(0, 0x700, number(priority)),
        element(0, 0x800, number(1)),
    )


OPEN_SEQUENCE = struct.pack("<HHLHHL", 0x8, 0x1110, 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1)
STUDY = element(8, 0x52, b"STUDY ") + element(0x20, 0xD, b"1.2.3")


CUT = [STUDY[:5], STUDY[:10], STUDY[:-1], STUDY + b"\x20\x00", STUDY[:14] + OPEN_SEQUENCE]
"""Identifiers that end within an element, its head, or a sequence."""


def pdv(flags: int, content: bytes) -> bytes:
    return struct.pack(">LBB", len(content) + 2, 1, flags) + content


def pdata(*values: bytes) -> bytes:
    return struct.pack(">BxL", 4, len(b"".join(values))) + b"".join(values)


def whole(line: socket.socket) -> tuple[int, bytes]:
    head = line.recv(6, socket.MSG_WAITALL)
    if len(head) < 6:
        return 0, b""
    return head[0], line.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL)


def answers(node: Node, sop_class: bytes, *sent: bytes) -> list[str]:
    """Send on an association and ask for its release at once; return what comes."""
    syntaxes = wire.item(0x30, sop_class) + wire.item(0x40, wire.IMPLICIT)
    context = wire.item(0x20, struct.pack(">Bxxx", 1) + syntaxes)
    found = []
    with socket.create_connection(("127.0.0.1", node.port), timeout=60) as line:
        line.sendall(wire.request(contexts=context))
        assert whole(line)[0] == 2
        line.sendall(b"".join(sent) + RELEASE)
        while True:
            kind, body = whole(line)
            if kind == 4 and body[5] & 1:
                at = body.index(struct.pack("<HHL", 0, 0x900, 2)) + 8
                found.append(f"{int.from_bytes(body[at : at + 2], 'little'):04X}")
            elif kind != 4:
                return [*found, {6: "released", 7: "aborted"}.get(kind, str(kind))]


def either(content: bytes, identifier: bytes) -> tuple[bytes, bytes]:
    """Return command and identifier in two PDUs, and in one."""
    return (
        pdata(pdv(3, content)) + pdata(pdv(2, identifier)),
        pdata(pdv(3, content), pdv(2, identifier)),
    )


def test_a_release_that_comes_too_early_waits_for_the_matches(node: Node) -> None:
    for sent in either(asked(FIND), STUDY):
        assert answers(node, FIND, sent) == ["FF00", "0000", "released"]


@pytest.mark.parametrize("content", [asked(FIND, 7), asked(b"")], ids=["priority 7", "no class"])
def test_a_query_with_a_faulty_command_is_answered(node: Node, content: bytes) -> None:
    for sent in either(content, STUDY):
        assert answers(node, FIND, sent) == ["FF00", "0000", "released"]


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        (None, "NO DESTINATION: no peer"),
        (b"  ", "NO DESTINATION: no peer"),
        (b"NOBODY\0\0", "NOBODY: no peer"),
        (b"MODALITY\0\0", "MODALITY: it gives no answer"),
        (b"M" * 20, f"{'M' * 16}: no peer"),
    ],
    ids=["missing", "blank", "nobody, NUL", "a peer, NUL", "too long"],
)
def test_a_move_to_an_odd_title_is_answered(
    node: Node, caplog: pytest.LogCaptureFixture, title: bytes | None, shown: str
) -> None:
    more = () if title is None else (element(0, 0x600, title),)
    for sent in either(asked(MOVE, 0, *more), STUDY):
        assert answers(node, MOVE, sent) == ["A801", "released"]
    assert caplog.text.count(f"moves to {shown}") == 2


def test_what_is_no_whole_request_leaves_a_line(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    (sent, _) = either(asked(FIND, message=b""), STUDY)
    assert answers(node, FIND, sent) == ["released"]
    echo = command(
        element(0, 2, wire.VERIFICATION),
        element(0, 0x100, number(0x8030)),
        element(0, 0x120, number(1)),
        element(0, 0x800, number(0x101)),
        element(0, 0x900, number(0)),
    )
    assert answers(node, wire.VERIFICATION, pdata(pdv(3, echo))) == ["released"]
    lines = [line for line in caplog.messages if "not a whole request" in line]
    assert [line.split(": ")[-1] for line in lines] == [
        "a C-FIND that is not a whole request",
        "a C-ECHO that is not a whole request",
    ]


@pytest.mark.parametrize("sop_class", [FIND, MOVE, GET], ids=["find", "move", "get"])
@pytest.mark.parametrize("identifier", CUT)
def test_an_identifier_that_is_cut_off_is_a_failure_with_a_line(
    node: Node, caplog: pytest.LogCaptureFixture, sop_class: bytes, identifier: bytes
) -> None:
    """pydicom leaves out what is cut off, so that a query would match more, or nothing."""
    more = [element(0, 0x600, b"MODALITY")] if sop_class == MOVE else []
    for sent in either(asked(sop_class, 0, *more), identifier):
        caplog.clear()
        # nothing can be moved to one that is away, whatever the identifier
        assert answers(node, sop_class, sent) == ["A801" if more else "C000", "released"]
        (line,) = [message for message in caplog.messages if "refused a request" in message]
        assert "0xC000: identifier: the data set is cut off" in line


def test_an_operation_that_nobody_serves_leaves_a_line(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    action = command(
        element(0, 3, b"1.2.840.10008.1.20.1"),
        element(0, 0x100, number(0x130)),
        element(0, 0x110, number(1)),
        element(0, 0x800, number(0x101)),
        element(0, 0x1001, b"1.2.3"),
        element(0, 0x1008, number(1)),
    )
    assert answers(node, wire.VERIFICATION, pdata(pdv(3, action))) == ["0110", "released"]
    (line,) = [message for message in caplog.messages if "N-ACTION" in message]
    assert line.endswith("an N-ACTION, which nobody serves here")


def in_items(content: bytes) -> bytes:
    item = struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content
    return element(8, 0x1110, item)


LEVEL = element(8, 0x52, b"STUDY ")
MANY = b"".join(element(0x11, 0x1000 + i, b"") for i in range(5_000))
EXCESSIVE = {
    "elements": LEVEL + MANY,
    "nested elements": LEVEL + in_items(MANY),
    "items": LEVEL + element(8, 0x1110, struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 5_000),
    "values": LEVEL + element(0x20, 0xD, b"1.2\\" * 30_000),
    "escape sequences": LEVEL + element(0x10, 0x10, b"\x1b$B" * 2_000),
}


@pytest.mark.parametrize("what", EXCESSIVE)
def test_a_query_that_asks_for_too_much_is_a_failure_with_a_line(
    node: Node, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    query = pdata(pdv(3, asked(FIND)))
    identifier = EXCESSIVE[what]
    parts = [identifier[i : i + 16_000] for i in range(0, len(identifier), 16_000)]
    query += b"".join(pdata(pdv(0, part)) for part in parts[:-1]) + pdata(pdv(2, parts[-1]))
    assert answers(node, FIND, query) == ["C000", "released"]
    (line,) = [text for text in caplog.messages if "refused a request" in text]
    assert "more than" in line
    assert what.removeprefix("nested ") in line


def test_a_list_of_ten_thousand_uids_is_answered(node: Node) -> None:
    uids = b"\\".join(b"1.2.3.%d" % i for i in range(10_000)) + b"\\1.2.3"
    identifier = LEVEL + element(0x20, 0xD, uids)
    parts = [identifier[i : i + 16_000] for i in range(0, len(identifier), 16_000)]
    query = pdata(pdv(3, asked(FIND)))
    query += b"".join(pdata(pdv(0, part)) for part in parts[:-1]) + pdata(pdv(2, parts[-1]))
    assert answers(node, FIND, query) == ["FF00", "0000", "released"]
