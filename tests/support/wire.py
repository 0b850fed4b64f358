"""Association requests written by hand (DICOM PS3.8 9.3.2), as no library would send them."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

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


def until(holds: Callable[[], bool], limit_s: float = 5) -> bool:
    end = time.monotonic() + limit_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()
