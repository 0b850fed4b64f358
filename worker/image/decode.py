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
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID

from dicom_node.base.errors import OutOfResources, Rejected
from worker.image import header
from worker.image.codestream import (
    END,
    ITEM,
    Codestream,
    check_shape,
    inspect_codestream,
    join_frame,
)
from worker.image.decoders import (
    ANSWER,
    CLEAR,
    DONE,
    NO_DECODER,
    OUT_OF_MEMORY,
    REQUEST,
    pixel_offset,
)
from worker.image.header import Header

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.unsignedinteger]

UNCOMPRESSED = frozenset(f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".1.99", ".2"))
LOSSY = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in ("50", "51", "81", "91", "203"))
"""Transfer syntaxes whose decoded values may overshoot what was stored."""

READ = UNCOMPRESSED | {
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)),
}
"""Transfer syntaxes that are decoded; of others, what is a codestream of these kinds is tried."""

_STARTS_WITHIN = 60.0
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TMPDIR", "DCMDICTPATH")


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
        self._give_back(self._take_child())

    def decode(self, source: Dataset | Header) -> Pixels:
        """Return the stored pixels as bit patterns, as `lent` does, to keep."""
        with self.lent(source) as pixels:
            return pixels.copy()

    @contextmanager
    def lent(self, source: Dataset | Header) -> Iterator[Pixels]:
        """Lend the stored pixels as bit patterns; when the context ends, they do.

        Parameters
        ----------
        source : Dataset or Header
            Of a single-frame grayscale image.

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
        head = source if isinstance(source, Header) else header.read(source)
        if head.pixels is None:
            raise Rejected("no-pixels", "The Instance has no Pixel Data.")
        syntax = head.transfer_syntax
        is_bare = syntax in UNCOMPRESSED and bytes(head.pixels[:4]) != ITEM
        # Some writers encapsulate a codestream and call the file uncompressed: an Item tag
        # (FFFE,E000) in front betrays them, unless the length is just that of the pixels.
        if is_bare or (syntax in UNCOMPRESSED and _is_enough(head)):
            bare = _uncompressed_pixels(head, head.pixels)
            _check_lines(bare)
            yield bare
            return
        with _naming_syntax(syntax):
            codestream = join_frame(bytes(head.pixels))
            found = inspect_codestream(codestream, syntax, head)
            check_shape(found, head)
            codestream = codestream[: found.size]
            if found.codec in ("jpeg2k", "htj2k") and not codestream.endswith(END):
                codestream += END
            child, pixels = self._in_child(found, codestream, head.stored)
        try:
            if found.codec == "rle":  # the only codestream that does not say how long its lines are
                _check_lines(pixels)
            yield _as_header_says(pixels, found, head)
        finally:
            child.clear_memory()
            self._give_back(child)

    def _in_child(
        self, found: Codestream, codestream: bytes, bits: int
    ) -> tuple[_Child, npt.NDArray[Any]]:
        # Twice: a child may have been killed for want of memory elsewhere, which is not the image's
        # fault; a second death is.
        for _ in range(2):
            child = self._take_child()
            with ExitStack() as unanswered:
                # Nobody waits for its answer then, which must not become another image's.
                unanswered.callback(child.end)
                try:
                    pixels = child.decode(found, codestream, bits, self._timeout)
                except _Killed:
                    # Somebody else ended the child; the image deserves another child.
                    unanswered.pop_all()
                    self._give_back(child)
                except Rejected:
                    unanswered.pop_all()
                    child.clear_memory()
                    self._give_back(child)
                    raise
                else:
                    unanswered.pop_all()
                    return child, pixels
        raise Rejected("decoder-limits", "The decoder was killed twice while it decoded the image.")

    def _take_child(self) -> _Child:
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


@contextmanager
def _naming_syntax(syntax: str) -> Iterator[None]:
    """Name in a refusal a transfer syntax that nobody is obliged to read."""
    try:
        yield
    except Rejected as exc:
        if syntax in READ:
            raise
        uid = UID(syntax)
        kind = "private" if uid.is_private else "retired" if _is_retired(uid) else "not supported"
        name = "" if uid.name == syntax else f", {uid.name},"
        text = f"The transfer syntax {syntax[:64]}{name} is {kind}. {exc.text}"
        raise Rejected(exc.code, text) from exc


def _is_retired(uid: UID) -> bool:
    return uid in UID_dictionary and uid.is_retired


def _is_enough(head: Header) -> bool:
    """Whether Pixel Data that begin like an item are as long as the pixels themselves."""
    size = head.rows * head.columns * ((head.bits_allocated or 8) // 8)
    return head.pixels is not None and len(head.pixels) in (size, size + size % 2)


def _uncompressed_pixels(head: Header, content: bytes | memoryview) -> Pixels:
    rows, columns = head.rows, head.columns
    size = (head.bits_allocated or 8) // 8
    expected = rows * columns * size
    if len(content) < expected:
        raise Rejected("undecodable", f"Pixel Data has {len(content)} of {expected} bytes.")
    times = len(content) // max(expected, 1)
    if 1 < times < min(rows, columns) and _is_deeper(
        np.frombuffer(content, f"u{size}", rows * columns).reshape(rows, columns), times
    ):
        raise Rejected(
            "undecodable",
            f"Pixel Data has {times} times the bytes of {rows} x {columns} pixels of {8 * size} "
            "bits, and its pixels seem to be deeper or coloured.",
        )
    is_big_endian = head.transfer_syntax == header.BIG_ENDIAN
    if size == 2:
        pixels = np.frombuffer(content, ">u2" if is_big_endian else "<u2", rows * columns)
        # Without a copy where the bytes are in the order of this machine.
        return pixels.reshape(rows, columns).astype(np.uint16, copy=False)
    if is_big_endian and head.pixels_are_words:
        # Two pixels per word, so that a pair comes swapped (PS3.5 8.2).
        words = np.frombuffer(content[: len(content) // 2 * 2], ">u2").astype("<u2")
        return words.view(np.uint8)[: rows * columns].reshape(rows, columns)
    return np.frombuffer(content, np.uint8, rows * columns).reshape(rows, columns)


def _is_deeper(pixels: Pixels, times: int) -> bool:
    """Tell whether a row of the image takes `times` of the rows that the header says.

    Neighbouring rows, and columns, of any picture are alike. Where each pixel has more bytes than
    the header says, those a `times` apart are the neighbours.
    """
    few = pixels[: 1 << 10, : 1 << 10].astype(np.int32)
    for lines in (few, few.T):  # or columns
        near = np.abs(lines[1:] - lines[:-1]).mean()
        if np.abs(lines[times:] - lines[:-times]).mean() < near / 2:
            return True
    return False


def _check_lines(pixels: npt.NDArray[Any]) -> None:
    """Refuse a picture whose Rows and Columns are swapped, which comes out sheared.

    Neighbouring lines of any picture are alike. Of 12 radiographs the lines of a right header
    differed by 0.02 to 0.23 of what they differ by under a swapped one; of 2,782 parts of
    radiographs, turned and cut, none under a right header was below 1.
    """
    rows, columns = pixels.shape
    oblong = max(rows, columns) / min(rows, columns)
    if not _LEAST_OBLONG < oblong < _MOST_OBLONG:
        # A picture that only grows darker downwards looks the same in long lines, and lines of a
        # grid that stand aslant may fit better after a shift by a few columns.
        return
    flat = pixels.reshape(-1)
    step = _line_step(flat, rows)
    # Where pixels fit to the next line far better than to their own, they are lines of a pattern.
    if step < _line_step(flat, columns) / 3 and step > _line_step(flat, 1) / 4:
        raise Rejected(
            "undecodable",
            f"Rows ({rows}) and Columns ({columns}) seem to be swapped: the lines of the picture "
            "fit to one another only the other way round.",
        )


_LEAST_OBLONG, _MOST_OBLONG = 1.03, 1.5
_LOOKED_AT = 128  # pairs of lines


def _line_step(flat: npt.NDArray[Any], length: int) -> float:
    """Return how much neighbouring lines of that length differ, on average."""
    lines = flat[: flat.size // length * length].reshape(-1, length)
    looked_at = _LOOKED_AT if length > 1 else _LOOKED_AT**2
    at = np.unique(np.linspace(0, len(lines) - 2, looked_at).astype(np.intp))
    return float(np.abs(lines[at + 1].astype(np.int32) - lines[at]).mean())


def _as_header_says(pixels: npt.NDArray[Any], found: Codestream, head: Header) -> Pixels:
    """Return decoded values as bit patterns of the header's sign.

    Devices give an encoder signed pixels as if they were unsigned, or the reverse. Lossless
    values keep their bits, and `grey` takes Bits Stored of them. Lossy ones may overshoot, so the
    number itself must be right: with as many bits in the codestream as in the header (or more) the
    codestream holds bit patterns, with fewer it holds the numbers. A codestream of more bits may
    have been given patterns of Bits Stored or of its own width.
    """
    unsigned = f"u{pixels.itemsize}"
    is_mixed = head.is_signed is not None and head.is_signed != found.is_signed
    if head.transfer_syntax not in LOSSY or not is_mixed:
        return pixels.view(unsigned)
    precision, bits = found.precision, min(head.stored, 8 * pixels.itemsize)
    if head.is_signed and precision >= bits:
        if precision > bits and not int(pixels.max()) >> (precision - 1):
            pixels, precision = np.minimum(pixels, (1 << bits) - 1), bits
        # Move the sign bit to the end of the word and back, which repeats it on the way.
        unused = 8 * pixels.itemsize - precision
        shifted = np.left_shift(pixels, unused).view(f"i{pixels.itemsize}")
        signed: Pixels = np.right_shift(shifted, unused).view(unsigned)
        return signed
    if not head.is_signed and precision != bits:
        np.maximum(pixels, 0, out=pixels)
    decoded: Pixels = pixels.view(unsigned)
    if not head.is_signed and precision == bits:
        np.bitwise_and(decoded, (1 << bits) - 1, out=decoded)
    return decoded


class _Killed(Exception):
    """The child was ended from outside."""


class _Child:
    """One decoding process and the memory it shares with this one."""

    def __init__(self, memory: int) -> None:
        self._shared = shared_memory()
        self._map = mmap.mmap(-1, 1)
        self._used, self._is_clearing = 0, False
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        # One arena: each thread's own would count against the limit on memory. And what a decoder
        # frees is kept for the next image: fetching it again costs some milliseconds.
        environment |= {
            "OPENBLAS_NUM_THREADS": "1",
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
            "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
        }
        program = str(Path(__file__).with_name("decoders.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-P", program, str(self._shared), str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[self._shared],
            env=environment,
            # A group of its own: dcmdjpeg, which the child may start, must end with it.
            start_new_session=True,
        )
        self._poll = select.poll()
        self._poll.register(self._process.stdout or -1, select.POLLIN)
        try:
            self._await_answer(time.monotonic() + _STARTS_WITHIN)
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
        self._kill_group()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1

    def decode(
        self, found: Codestream, codestream: bytes, bits: int, timeout: float
    ) -> npt.NDArray[Any]:
        """Return the decoded pixels, which the next ones will overwrite."""
        shape, dtype = (found.rows, found.columns), np.dtype(found.dtype)
        start, until = pixel_offset(len(codestream)), time.monotonic() + timeout
        if self._is_clearing:
            self._await_clearing(until)
        self._used = start + found.rows * found.columns * dtype.itemsize
        self._grow_memory(self._used)
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
        self._send_request(request)
        self._await_answer(until)
        return np.ndarray(shape, dtype, self._map, start)

    def clear_memory(self) -> None:
        """Let the child clear the memory while nobody waits; no image may show the image before."""
        if self.is_alive and not self._is_clearing:
            with suppress(_Killed):
                self._send_request(REQUEST.pack(CLEAR, len(self._map), self._used, 0, 0, 0, 0, b""))
                self._is_clearing = True

    def _await_clearing(self, until: float) -> None:
        try:
            self._await_answer(until)
        except Rejected as exc:
            # It died of another image; this one deserves another child.
            self._kill_group()
            raise _Killed from exc
        self._is_clearing = False

    def _grow_memory(self, size: int) -> None:
        if size > len(self._map):
            os.ftruncate(self._shared, size)
            self._map = mmap.mmap(self._shared, size)

    def _send_request(self, request: bytes) -> None:
        if self._process.stdin is None:
            raise _Killed
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            self._kill_group()
            raise _Killed from exc

    def _await_answer(self, until: float) -> None:
        status, length = ANSWER.unpack(self._read_bytes(ANSWER.size, until))
        text = self._read_bytes(length, until).decode(errors="replace") if length else ""
        if status == OUT_OF_MEMORY:
            raise Rejected("decoder-limits", "Decoding the image takes more memory than allowed.")
        if status == NO_DECODER:
            raise Rejected(
                "undecodable",
                "Of JPEG Lossless with restart markers only DCMTK makes pixels, and it is not "
                "installed on the worker (dcmdjpeg).",
            )
        if status != DONE:
            logger.info("decoder: %s", text)
            raise Rejected(
                "undecodable", "The decoder does not understand the codestream of Pixel Data."
            )

    def _read_bytes(self, count: int, until: float) -> bytes:
        content = b""
        if self._process.stdout is None:
            raise _Killed
        while len(content) < count:
            # Of the monotonic clock: a wall clock that is set back would lengthen the limit.
            remaining = max(until - time.monotonic(), 0.0)
            if not self._poll.poll(1000 * remaining):
                self._kill_group()
                raise Rejected("decoder-limits", "Decoding the image takes longer than allowed.")
            chunk = os.read(self._process.stdout.fileno(), count - len(content))
            if not chunk:
                raise self._explain_death()
            content += chunk
        return content

    def _explain_death(self) -> Exception:
        self._kill_group()
        code = self._process.returncode
        logger.warning("the decoding process ended with %s", code)
        # Not its own doing: the kernel for want of memory, or an operator. The image is tried
        # again.
        if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
            return _Killed()
        if code == -signal.SIGXCPU:
            return Rejected("decoder-limits", "Decoding the image takes longer than allowed.")
        return Rejected("undecodable", "The decoder crashed on the codestream of Pixel Data.")

    def _kill_group(self) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def shared_memory() -> int:
    """Return the descriptor of memory that a child process may share."""
    if hasattr(os, "memfd_create"):
        # Memory without a name: no other process can open it, and it goes with its last descriptor,
        # whatever dies first.
        return os.memfd_create("pixels")
    with tempfile.TemporaryFile() as nameless:
        return os.dup(nameless.fileno())
