"""multipart/related bodies as RFC 2046 5.1.1 writes them: read as they arrive, and written."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto
from typing import Protocol

from starlette.responses import StreamingResponse

from dicom_node.web.media_types import parse

MAX_HEAD = 1 << 14
"""Bytes of the header lines of one part."""

MAX_PADDING = 256
"""Blanks behind a boundary."""

MAX_BOUNDARY = 70
"""Characters of a boundary (RFC 2046 5.1.1)."""


class NotMultipart(Exception):
    """The body is not what its Content-Type says; the message says where."""


class PartHandler(Protocol):
    """Takes the parts of a body one after the other."""

    def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a part; names of headers are in lower case."""

    def data(self, content: bytes) -> None:
        """Take more of the content of this part."""

    def end(self) -> None:
        """End the part."""


class _State(Enum):
    PREAMBLE = auto()
    HEAD = auto()
    CONTENT = auto()
    EPILOGUE = auto()


class PartReader:
    """Reads a body piece by piece; what it keeps is bounded, and each byte is looked at once.

    Parameters
    ----------
    boundary : str
        The parameter of the Content-Type, without quotes.
    handler : PartHandler
        Takes the parts.
    """

    def __init__(self, boundary: str, handler: PartHandler) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
        self._handler = handler
        self._state = _State.PREAMBLE
        # The first boundary may be the first line: then no CRLF stands before it.
        self._buffer = bytearray(b"\r\n")
        self._at = 0
        self._content_at = 0

    def write(self, content: bytes) -> None:
        """Take the next bytes of the body.

        Raises
        ------
        NotMultipart
            The header of a part is too long.
        """
        if self._state is _State.EPILOGUE:
            return
        self._buffer += content
        while self._read_step(is_last=False):
            pass
        del self._buffer[: self._at]
        self._content_at = max(0, self._content_at - self._at)
        self._at = 0

    def finish(self) -> None:
        """End the body.

        Raises
        ------
        NotMultipart
            Its last boundary is missing.
        """
        while self._read_step(is_last=True):
            pass
        if self._state is not _State.EPILOGUE:
            what = "first" if self._state is _State.PREAMBLE else "last"
            raise NotMultipart(f"the body has not its {what} boundary")

    def _read_step(self, *, is_last: bool) -> bool:
        """Read as far as the next boundary or the next part's content; False: more is needed."""
        if self._state is _State.HEAD:
            return self._read_head()
        if self._state is _State.EPILOGUE:
            return False
        found = self._buffer.find(self._delimiter, self._at)
        if found < 0:
            # The end may be the beginning of a boundary.
            self._pass_on(max(self._at, len(self._buffer) - len(self._delimiter) + 1))
            return False
        self._pass_on(found)
        return self._read_boundary(is_last=is_last)

    def _pass_on(self, until: int) -> None:
        start = max(self._at, self._content_at)
        if self._state is _State.CONTENT and until > start:
            self._handler.data(bytes(self._buffer[start:until]))
        self._at = max(self._at, until)

    def _read_boundary(self, *, is_last: bool) -> bool:
        """Read the rest of a line that begins with the boundary: nothing, or two dashes."""
        start = self._at + len(self._delimiter)
        window = bytes(self._buffer[start : start + MAX_PADDING + 4])
        line, has_end, _ = window.partition(b"\r\n")
        is_closing = line.startswith(b"--")
        is_padding = not line[2 * is_closing :].strip(b" \t\r")
        if is_padding and (has_end or (is_last and is_closing)):
            if self._state is _State.CONTENT:
                self._handler.end()
            self._state = _State.EPILOGUE if is_closing else _State.HEAD
            self._at = start + len(line) + len(has_end)
            return True
        is_open = len(window) < MAX_PADDING + 4 and not is_last
        if is_open and not has_end and (is_padding or line == b"-"):
            return False  # the line may still become a boundary
        # It only begins as a boundary does: this is content.
        self._pass_on(start)
        return True

    def _read_head(self) -> bool:
        if self._buffer.startswith(b"\r\n", self._at):
            end, size = self._at, 2  # a part without header lines
        else:
            # looked for in a bounded piece, so that a head without an end costs the same each time
            end = self._buffer.find(b"\r\n\r\n", self._at, self._at + MAX_HEAD + 4)
            size = 4
        if end < 0:
            if len(self._buffer) - self._at > MAX_HEAD:
                raise NotMultipart(f"the header of a part has more than {MAX_HEAD} bytes")
            return False
        lines = bytes(self._buffer[self._at : end]).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        self._handler.begin({name.strip().lower(): value.strip() for name, _, value in pairs})
        self._content_at = end + size
        # Of a part without content, the CRLF that ends the header begins the next boundary.
        self._at = self._content_at - 2
        self._state = _State.CONTENT
        return True


def boundary(content_type: str) -> str:
    """Return the boundary of a Content-Type; empty where it has none that may be one."""
    found = parse(content_type[:1024]).parameters.get("boundary", "")
    return found if 0 < len(found) <= MAX_BOUNDARY and found.isascii() else ""


def related(kind: str, parts: Iterable[tuple[str, Iterable[bytes]]]) -> StreamingResponse:
    """Return a multipart/related response that is made part by part (RFC 2387).

    Parameters
    ----------
    kind : str
        Media type of the parts.
    parts : iterable of (str, iterable of bytes)
        Content-Type and content of each.
    """
    mark = secrets.token_hex(16)

    def body() -> Iterator[bytes]:
        for part_kind, content in parts:
            yield f"--{mark}\r\nContent-Type: {part_kind}\r\n\r\n".encode()
            yield from content
            yield b"\r\n"
        yield f"--{mark}--\r\n".encode()

    content_type = f'multipart/related;type="{kind}";boundary={mark}'
    return StreamingResponse(body(), headers={"Content-Type": content_type})
