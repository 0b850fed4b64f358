"""Messages between a worker and an engine in another interpreter: JSON, then raw bytes."""

from __future__ import annotations

import json
import struct
import threading
from typing import IO, Any

HEAD = struct.Struct(">4sII")
MAGIC = b"CXF1"
LONGEST_TEXT = 1 << 24
LONGEST_BYTES = 1 << 31


class BrokenFrame(ValueError):
    """What was read is not a frame."""


class FrameWriter:
    """Writes frames to one stream from several threads, each in one piece."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, message: dict[str, Any], content: bytes = b"") -> None:
        """Write one frame and flush it."""
        with self._lock:
            write(self._stream, message, content)


def write(stream: IO[bytes], message: dict[str, Any], content: bytes = b"") -> None:
    """Write one frame and flush it."""
    text = json.dumps(message).encode()
    stream.write(HEAD.pack(MAGIC, len(text), len(content)) + text)
    stream.write(content)
    stream.flush()


def read(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read one frame; None at the end of the stream.

    Raises
    ------
    BrokenFrame
        The stream ends within a frame, or holds something else.
    """
    head = stream.read(HEAD.size)
    if not head:
        return None
    if len(head) < HEAD.size:
        raise BrokenFrame("the stream ends within a frame")
    magic, text_length, length = HEAD.unpack(head)
    if magic != MAGIC or text_length > LONGEST_TEXT or length > LONGEST_BYTES:
        raise BrokenFrame("no frame")
    text, content = stream.read(text_length), stream.read(length)
    if len(text) < text_length or len(content) < length:
        raise BrokenFrame("the stream ends within a frame")
    try:
        message = json.loads(text)
    except ValueError as exc:
        raise BrokenFrame("a frame without JSON") from exc
    if not isinstance(message, dict):
        raise BrokenFrame("a frame without an object")
    return message, content
