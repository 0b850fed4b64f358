"""PDUs written by hand (DICOM PS3.8 9.3), as no library would send them."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from listening import DX
from pydicom.uid import ExplicitVRLittleEndian

VERIFICATION = b"1.2.840.10008.1.1"
IMPLICIT = b"1.2.840.10008.1.2"


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def context(number: int = 1, more: bytes = b"") -> bytes:
    inside = item(0x30, VERIFICATION) + item(0x40, IMPLICIT) + more
    return item(0x20, struct.pack(">Bxxx", number) + inside)


MAXIMUM = item(0x51, struct.pack(">L", 16384))
USER = MAXIMUM + item(0x52, b"1.2.3.4.5") + item(0x55, b"BY_HAND")


def request(
    called: bytes = b"CHEXFRACT",
    calling: bytes = b"MODALITY",
    pad: bytes = b" ",
    version: int = 1,
    user: bytes = USER,
    contexts: bytes | None = None,
    more: bytes = b"",
) -> bytes:
    body = struct.pack(">Hxx", version) + called.ljust(16, pad)[:16] + calling.ljust(16, pad)[:16]
    body += bytes(32) + item(0x10, b"1.2.840.10008.3.1.1.1")
    body += (context() if contexts is None else contexts) + more
    body += item(0x50, user) if user else b""
    return struct.pack(">BxL", 1, len(body)) + body


def request_pdu(called: bytes = b"CHEXFRACT", calling: bytes = b"MODALITY") -> bytes:
    """Return an A-ASSOCIATE-RQ that proposes DX in Explicit VR Little Endian (PS3.8 9.3.2)."""
    syntaxes = item(0x30, DX.encode()) + item(0x40, ExplicitVRLittleEndian.encode())
    contexts = item(0x20, b"\x01\0\0\0" + syntaxes)
    user = item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3.4")
    return request(called, calling, contexts=contexts, user=user)


def command(uid: str | None, has_data_set: bool = True, sop_class: str = DX) -> bytes:
    """Return the command set of a C-STORE-RQ (PS3.7 9.3.1)."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHL", 0, number, len(value)) + value

    body = element(0x0002, sop_class.encode()) + element(0x0100, b"\x01\0")
    body += element(0x0110, b"\x01\0") + element(0x0700, b"\0\0")
    body += element(0x0800, b"\0\0" if has_data_set else b"\x01\x01")
    body += b"" if uid is None else element(0x1000, uid.encode())
    return element(0, struct.pack("<L", len(body))) + body


def pdv(control: int, content: bytes) -> bytes:
    return struct.pack(">LBB", len(content) + 2, 1, control) + content


def p_data(*pdvs: bytes) -> bytes:
    content = b"".join(pdvs)
    return struct.pack(">BxL", 4, len(content)) + content


def until(holds: Callable[[], bool], limit_s: float = 5) -> bool:
    end = time.monotonic() + limit_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()
