"""Turns compressed Pixel Data into pixels behind a guard that hostile files do not pass.

The codestream's own header is compared with Rows and Columns before anything is decoded; then a
child process with limits on memory and time decodes. Its death ends that image, not the worker.
"""

from __future__ import annotations

import logging
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node.errors import OutOfResources, Rejected
from worker import header
from worker.decoders import ANSWER, DONE, OUT_OF_MEMORY, REQUEST, offset

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.unsignedinteger]

UNCOMPRESSED = frozenset(f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".1.99", ".2"))
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"

_STARTS_WITHIN = 60.0
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TMPDIR", "DCMDICTPATH")
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_SIZ, _JP2 = b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_TRAILER, _FILE_HEAD = 64, 4096
_FRAME = struct.Struct(">BHHB")
"""Sample precision, lines, samples per line and components of a JPEG frame header."""
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_SOS, _DRI = 0xDA, 0xDD


@dataclass(frozen=True, slots=True)
class Codestream:
    """What a codestream says of itself."""

    codec: str
    rows: int
    columns: int
    precision: int
    is_signed: bool = False
    components: int = 1

    @property
    def dtype(self) -> str:
        """The type in which its decoder writes pixels."""
        return f"{'i' if self.is_signed else 'u'}{1 if self.precision <= 8 else 2}"


def inspect(content: memoryview, syntax: str, ds: Dataset) -> Codestream:
    """Return what the codestream's header says, without decoding.

    Raises
    ------
    Rejected
        ``undecodable``: no header is found, or the end of the codestream is missing.
        ``codestream-mismatch``: it cannot be a picture of one component.
    """
    if syntax == RLE:
        return _inspect_rle(content, ds)
    start = bytes(content[:4])
    if start.startswith(b"\xff\xd8"):
        found = _inspect_jpeg(content)
    elif start == _SIZ:
        found = _inspect_jpeg_2000(content)
    else:
        raise Rejected("undecodable", "Pixel Data holds no codestream of a known kind.")
    # EOI of JPEG and EOC of JPEG 2000 are the same, and neither occurs among coded pixels; some
    # writers pad behind it. Without this check decoders fill a cut picture silently.
    if b"\xff\xd9" not in bytes(content[-_TRAILER:]):
        raise Rejected("undecodable", "The codestream ends before its end marker.")
    return found


def _inspect_jpeg(content: memoryview) -> Codestream:
    """Return the frame header (ITU-T T.81 B.2.2, T.87 C.2.2)."""
    found, restarts, at = None, 0, 2
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == _SOS:
            break
        if marker == _DRI:
            restarts = int.from_bytes(content[at + 4 : at + 6])
        if marker in _SOF:
            if found is not None:
                raise Rejected("undecodable", "The JPEG codestream has two frame headers.")
            precision, rows, columns, components = _FRAME.unpack(content[at + 4 : at + 10])
            codec = {0xF7: "jpegls", 0xC3: "ljpeg"}.get(marker, "jpeg")
            found = Codestream(codec, rows, columns, precision, components=components)
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    if found is None:
        raise Rejected("undecodable", "The JPEG codestream has no frame header.")
    # The decoder of "ljpeg" takes restart markers for pixels.
    return replace(found, codec="ljpeg-r") if restarts and found.codec == "ljpeg" else found


def _inspect_jpeg_2000(content: memoryview) -> Codestream:
    """Return the size segment (ITU-T T.800 A.5.1); bit 14 of Rsiz marks HTJ2K (T.814 A.2)."""
    if len(content) < 45:
        raise Rejected("undecodable", "The JPEG 2000 codestream has no size segment.")
    right, bottom, left, top = struct.unpack(">4I", content[8:24])
    components, depth, across, down = struct.unpack(">HBBB", content[40:45])
    if (across, down) != (1, 1):
        raise Rejected("codestream-mismatch", "The JPEG 2000 codestream is subsampled.")
    codec = "htj2k" if content[6] & 0x40 else "jpeg2k"
    precision, is_signed = (depth & 0x7F) + 1, bool(depth & 0x80)
    return Codestream(codec, bottom - top, right - left, precision, is_signed, components)


def _inspect_rle(content: memoryview, ds: Dataset) -> Codestream:
    """Check the segment table (PS3.5 G.5); RLE says nothing of rows and columns."""
    if len(content) < 64:
        raise Rejected("undecodable", "The RLE segment table is incomplete.")
    count, *starts = struct.unpack("<16I", content[:64])
    allocated = header.integer(ds, "BitsAllocated") or 0
    if count != allocated // 8:
        raise Rejected("codestream-mismatch", "The RLE segments are not one per byte of a pixel.")
    starts = starts[:count]
    if starts != sorted(set(starts)) or starts[0] < 64 or starts[-1] >= len(content):
        raise Rejected("undecodable", "The RLE segment table points outside of Pixel Data.")
    rows, columns = header.integer(ds, "Rows") or 0, header.integer(ds, "Columns") or 0
    return Codestream("rle", rows, columns, allocated)


class Decoder:
    """Decodes Pixel Data, several at a time when several threads ask.

    Parameters
    ----------
    timeout : float
        Seconds that one image may take.
    memory : int
        Bytes that a decoder may allocate for one image, its pixels included.
    """

    def __init__(self, timeout: float = 30.0, memory: int = 1_500_000_000) -> None:
        self._timeout, self._memory = timeout, memory
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        self._is_open = True

    def __enter__(self) -> Self:
        """Return the decoder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the children."""
        self.close()

    def close(self) -> None:
        """End the children that are idle now, and the others when they are."""
        with self._lock:
            self._is_open = False
            idle, self._idle = self._idle, []
        for child in idle:
            child.end()

    def start(self) -> None:
        """Start a first child now, so that the first image needs not wait for it.

        Raises
        ------
        OutOfResources
            The child does not start.
        """
        self._give_back(self._take())

    def decode(self, ds: Dataset) -> Pixels:
        """Return the stored pixels as bit patterns, as `lent` does, to keep."""
        with self.lent(ds) as pixels:
            return pixels.copy()

    @contextmanager
    def lent(self, ds: Dataset) -> Iterator[Pixels]:
        """Lend the stored pixels as bit patterns; when the context ends, they do.

        Parameters
        ----------
        ds : Dataset
            A single-frame grayscale image with its file meta information.

        Yields
        ------
        ndarray of uint8 or uint16, (rows, columns)
            Sign and Bits Stored are not applied. They lie in the memory of the child process.

        Raises
        ------
        Rejected
            ``no-pixels``, ``codestream-mismatch``, ``undecodable`` or ``decoder-limits``.
        OutOfResources
            The child process does not start.
        """
        content = header.value(ds, "PixelData")
        if not isinstance(content, bytes) or not content:
            raise Rejected("no-pixels", "The Instance has no Pixel Data.")
        syntax = header.transfer_syntax(ds)
        if syntax in UNCOMPRESSED:
            yield _uncompressed(ds, content, syntax)
            return
        codestream = _codestream(content)
        found = inspect(codestream, syntax, ds)
        _compare(found, ds)
        bits = header.integer(ds, "BitsStored") or 16
        child, pixels = self._in_child(found, codestream, bits)
        try:
            yield pixels.view(f"u{pixels.itemsize}")
        finally:
            self._give_back(child)

    def _in_child(
        self, found: Codestream, codestream: memoryview, bits: int
    ) -> tuple[_Child, npt.NDArray[Any]]:
        for _ in range(2):
            child = self._take()
            try:
                return child, child.decode(found, codestream, bits, self._timeout)
            except _Killed:
                # Somebody else ended the child; the image deserves another one.
                self._give_back(child)
            except Rejected:
                self._give_back(child)
                raise
            except BaseException:
                # Nobody waits for its answer any more, which must not become another image's.
                child.end()
                raise
        raise Rejected("decoder-limits", "The decoder was killed twice while it decoded the image.")

    def _take(self) -> _Child:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.is_alive:
                    return child
                child.end()
        return _Child(self._memory)

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            if self._is_open and child.is_alive:
                self._idle.append(child)
                return
        child.end()


def _codestream(content: bytes) -> memoryview:
    """Return the only frame of encapsulated Pixel Data (PS3.5 A.4), all its fragments."""
    fragments, at, whole = [], 0, memoryview(content)
    while at + 8 <= len(content):
        tag, length = struct.unpack("<4sI", whole[at : at + 8])
        if tag == _DELIMITER:
            break
        if tag != _ITEM or at + 8 + length > len(content):
            raise Rejected("undecodable", "Pixel Data is not properly encapsulated.")
        fragments.append(whole[at + 8 : at + 8 + length])
        at += 8 + length
    # The first item is the offset table, empty or not.
    frame = fragments[1] if len(fragments) == 2 else memoryview(b"".join(fragments[1:]))
    if bytes(frame[:12]) == _JP2:
        # A JP2 file instead of its codestream: forbidden (PS3.5 A.4.4), yet archives hold some.
        return frame[max(bytes(frame[:_FILE_HEAD]).find(_SIZ), 0) :]
    return frame


def _compare(found: Codestream, ds: Dataset) -> None:
    rows, columns = header.integer(ds, "Rows"), header.integer(ds, "Columns")
    allocated = header.integer(ds, "BitsAllocated") or 16
    if (found.rows, found.columns, found.components) != (rows, columns, 1):
        raise Rejected(
            "codestream-mismatch",
            f"The codestream says {found.rows} x {found.columns} pixels of {found.components} "
            f"component(s), the header {rows} x {columns} of 1.",
        )
    if not 1 <= found.precision <= allocated:
        raise Rejected(
            "codestream-mismatch",
            f"The codestream says {found.precision} bits, Bits Allocated is {allocated}.",
        )


def _uncompressed(ds: Dataset, content: bytes, syntax: str) -> Pixels:
    rows, columns = header.integer(ds, "Rows") or 0, header.integer(ds, "Columns") or 0
    size = (header.integer(ds, "BitsAllocated") or 8) // 8
    expected = rows * columns * size
    if len(content) < expected:
        raise Rejected("undecodable", f"Pixel Data has {len(content)} of {expected} bytes.")
    is_big_endian = syntax == BIG_ENDIAN
    if size == 2:
        pixels = np.frombuffer(content, ">u2" if is_big_endian else "<u2", rows * columns)
        return pixels.reshape(rows, columns).astype(np.uint16, copy=False)
    if is_big_endian and ds["PixelData"].VR == "OW":
        # Two pixels per word, so that a pair comes swapped (PS3.5 8.2).
        words = np.frombuffer(content[: len(content) // 2 * 2], ">u2").astype("<u2")
        return words.view(np.uint8)[: rows * columns].reshape(rows, columns)
    return np.frombuffer(content, np.uint8, rows * columns).reshape(rows, columns)


class _Killed(Exception):
    """The child was ended from outside."""


class _Child:
    """One decoding process and the memory it shares with this one."""

    def __init__(self, memory: int) -> None:
        self._shared = _shared_memory()
        self._map = mmap.mmap(-1, 1)
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        # One arena: each thread's own would count against the limit on memory.
        environment |= {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        program = str(Path(__file__).with_name("decoders.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", program, str(self._shared), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[self._shared],
            env=environment,
            start_new_session=True,
        )
        self._poll = select.poll()
        self._poll.register(self._process.stdout or -1, select.POLLIN)
        try:
            self._answer(time.monotonic() + _STARTS_WITHIN)
        except (Rejected, _Killed) as exc:
            self.end()
            raise OutOfResources(
                f"the decoding process does not start (exit {self._process.returncode}); "
                f"try: {sys.executable} -c 'import imagecodecs, numpy'"
            ) from exc

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kill the process, its own children included, and free the memory."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._kill()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1

    def decode(
        self, found: Codestream, codestream: memoryview, bits: int, timeout: float
    ) -> npt.NDArray[Any]:
        """Return the decoded pixels, which the next ones will overwrite."""
        shape, dtype = (found.rows, found.columns), np.dtype(found.dtype)
        start = offset(len(codestream))
        self._grow(start + found.rows * found.columns * dtype.itemsize)
        self._map[: len(codestream)] = codestream
        request = REQUEST.pack(
            found.codec.encode(),
            len(self._map),
            len(codestream),
            *shape,
            bits,
            int(timeout * 1000),
            found.dtype.encode(),
        )
        self._ask(request)
        self._answer(time.monotonic() + timeout)
        return np.ndarray(shape, dtype, self._map, start)

    def _grow(self, size: int) -> None:
        if size > len(self._map):
            os.ftruncate(self._shared, size)
            self._map = mmap.mmap(self._shared, size)

    def _ask(self, request: bytes) -> None:
        if self._process.stdin is None:
            raise _Killed
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            self._kill()
            raise _Killed from exc

    def _answer(self, until: float) -> None:
        status, length = ANSWER.unpack(self._read(ANSWER.size, until))
        text = self._read(length, until).decode(errors="replace") if length else ""
        if status == OUT_OF_MEMORY:
            raise Rejected("decoder-limits", "Decoding the image takes more memory than allowed.")
        if status != DONE:
            logger.info("decoder: %s", text)
            raise Rejected("undecodable", "The decoder does not understand the codestream.")

    def _read(self, count: int, until: float) -> bytes:
        content = b""
        if self._process.stdout is None:
            raise _Killed
        while len(content) < count:
            remaining = max(until - time.monotonic(), 0.0)
            if not self._poll.poll(1000 * remaining):
                self._kill()
                raise Rejected("decoder-limits", "Decoding the image takes longer than allowed.")
            chunk = os.read(self._process.stdout.fileno(), count - len(content))
            if not chunk:
                raise self._death()
            content += chunk
        return content

    def _death(self) -> Exception:
        self._kill()
        code = self._process.returncode
        logger.warning("the decoding process ended with %s", code)
        if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
            return _Killed()
        if code == -signal.SIGXCPU:
            return Rejected("decoder-limits", "Decoding the image takes longer than allowed.")
        return Rejected("undecodable", "The decoder crashed on the codestream.")

    def _kill(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _shared_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("pixels")
    with tempfile.TemporaryFile() as nameless:
        return os.dup(nameless.fileno())
