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
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node.base.errors import OutOfResources, Rejected
from worker.image import header
from worker.image.codestream import Codestream, compare, frame, inspect
from worker.image.decoders import ANSWER, CLEAR, DONE, NO_DECODER, OUT_OF_MEMORY, REQUEST, offset

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.unsignedinteger]

UNCOMPRESSED = frozenset(f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".1.99", ".2"))
BIG_ENDIAN = "1.2.840.10008.1.2.2"

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
        if not isinstance(content, bytes | memoryview) or not content:
            raise Rejected("no-pixels", "The Instance has no Pixel Data.")
        syntax = header.transfer_syntax(ds)
        if syntax in UNCOMPRESSED:
            yield _uncompressed(ds, content, syntax)
            return
        codestream = frame(bytes(content))
        found = inspect(codestream, syntax, ds)
        compare(found, ds)
        bits = header.integer(ds, "BitsStored") or 16
        child, pixels = self._in_child(found, codestream, bits)
        try:
            yield pixels.view(f"u{pixels.itemsize}")
        finally:
            child.forget()
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
                child.forget()
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


def _uncompressed(ds: Dataset, content: bytes | memoryview, syntax: str) -> Pixels:
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
        self._used, self._is_clearing = 0, False
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        # One arena: each thread's own would count against the limit on memory. And what a decoder
        # frees is kept for the next image: fetching it anew costs some milliseconds.
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
        start, until = offset(len(codestream)), time.monotonic() + timeout
        if self._is_clearing:
            self._await_clearing(until)
        self._used = start + found.rows * found.columns * dtype.itemsize
        self._grow(self._used)
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
        self._answer(until)
        return np.ndarray(shape, dtype, self._map, start)

    def forget(self) -> None:
        """Let the child clear the memory while nobody waits; no image may show the one before."""
        if self.is_alive and not self._is_clearing:
            with suppress(_Killed):
                self._ask(REQUEST.pack(CLEAR, len(self._map), self._used, 0, 0, 0, 0, b""))
                self._is_clearing = True

    def _await_clearing(self, until: float) -> None:
        try:
            self._answer(until)
        except Rejected as exc:
            # It died of another image; this one deserves another child.
            self._kill()
            raise _Killed from exc
        self._is_clearing = False

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
        if status == NO_DECODER:
            raise Rejected(
                "undecodable",
                "Of JPEG Lossless with restart markers only DCMTK makes pixels, and it is not "
                "installed on the worker (dcmdjpeg).",
            )
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
