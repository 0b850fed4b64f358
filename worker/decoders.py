"""The child process that decodes: it may die of what it is given, its parent may not.

`worker.decode` starts this file as a program of its own. Requests come over standard input,
codestreams and pixels lie in shared memory. It imports nothing of this project, so that it starts
fast, and ends when its parent does.
"""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

REQUEST = struct.Struct("<8sQQIIII8s")
"""Codec, bytes shared, bytes of codestream, rows, columns, bits stored, milliseconds, dtype."""
ANSWER = struct.Struct("<BH")
"""Status and length of the text that follows."""
DONE, UNDECODABLE, OUT_OF_MEMORY = range(3)
PAGE = 4096

Pixels = npt.NDArray[Any]
_THREADS = min(4, os.cpu_count() or 1)


def offset(size: int) -> int:
    """Return where the pixels lie behind a codestream of `size` bytes."""
    return -(-size // PAGE) * PAGE


def _rle(codestream: memoryview, out: Pixels) -> None:
    # imagecodecs leaves what a short segment lacks as it was.
    flat = np.frombuffer(imagecodecs.dicomrle_decode(codestream, out.dtype), out.dtype)
    if flat.size < out.size:
        raise ValueError(f"{flat.size} of {out.size} pixels")
    out[...] = flat[: out.size].reshape(out.shape)


def _jpeg_2000(codestream: memoryview, out: Pixels) -> None:
    imagecodecs.jpeg2k_decode(codestream, numthreads=_THREADS, out=out)


def _into(decode: Callable[..., Any]) -> Callable[[memoryview, Pixels], None]:
    return lambda codestream, out: decode(codestream, out=out)


DECODERS: dict[str, Callable[[memoryview, Pixels], None]] = {
    "rle": _rle,
    "jpeg": _into(imagecodecs.jpeg8_decode),
    "ljpeg": _into(imagecodecs.ljpeg_decode),
    "jpegls": _into(imagecodecs.jpegls_decode),
    "jpeg2k": _jpeg_2000,
    "htj2k": _into(imagecodecs.htj2k_decode),
}
"""Codec -> the fastest permissively licensed decoder that was measured."""

_OF_DCMTK = {"jpeg": "1.2.840.10008.1.2.4.51", "ljpeg": "1.2.840.10008.1.2.4.57"}
"""Codecs that DCMTK's dcmdjpeg knows too, and a transfer syntax under which it takes them."""


def _decode(codec: str, codestream: memoryview, out: Pixels, bits_stored: int) -> str:
    """Write pixels to `out`; return why that failed, or nothing."""
    try:
        DECODERS[codec](codestream, out)
    except MemoryError:
        raise
    except Exception as exc:  # noqa: BLE001 - every library has errors of its own
        if codec in _OF_DCMTK and shutil.which("dcmdjpeg"):
            with suppress(OSError, ValueError, subprocess.SubprocessError):
                _by_dcmtk(_OF_DCMTK[codec], codestream, out, bits_stored)
                return ""
        return f"{type(exc).__name__}: {exc}"
    return ""


def _by_dcmtk(syntax: str, codestream: memoryview, out: Pixels, bits_stored: int) -> None:
    import pydicom
    from pydicom.encaps import encapsulate

    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.SecondaryCaptureImageStorage, "2.25.1"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = *out.shape, 1
    ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * out.itemsize, bits_stored, bits_stored - 1
    ds.PixelData = encapsulate([bytes(codestream)])
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.dcm"), Path(folder, "target.dcm")
        ds.save_as(source, enforce_file_format=True)
        subprocess.run(
            ["dcmdjpeg", "--quiet", source, target],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        found = pydicom.dcmread(target).PixelData
    out[...] = np.frombuffer(found, out.dtype)[: out.size].reshape(out.shape)


def _limit(memory: int) -> None:
    """Allow `memory` bytes more than the process has now, no core file and no large file."""
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 29, 1 << 29))


def _limit_time(milliseconds: int) -> None:
    """Let the kernel end a decoder whose parent is no longer there to do so."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + _THREADS * milliseconds / 1000) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


def _serve(shared: int) -> None:
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    memory = mmap.mmap(-1, 1)
    answers.write(ANSWER.pack(DONE, 0))
    answers.flush()
    while len(request := requests.read(REQUEST.size)) == REQUEST.size:
        name, size, length, rows, columns, bits, milliseconds, kind = REQUEST.unpack(request)
        _limit_time(milliseconds)
        try:
            if len(memory) != size:
                memory = mmap.mmap(shared, size)
            dtype = np.dtype(kind.rstrip(b"\0").decode())
            out: Pixels = np.ndarray((rows, columns), dtype, memory, offset(length))
            codestream = memoryview(memory)[:length]
            text = _decode(name.rstrip(b"\0").decode(), codestream, out, bits)
            status = UNDECODABLE if text else DONE
        except MemoryError:
            status, text = OUT_OF_MEMORY, ""
        said = text.encode()[:1000]
        answers.write(ANSWER.pack(status, len(said)) + said)
        answers.flush()


if __name__ == "__main__":
    _limit(int(sys.argv[2]))
    _serve(int(sys.argv[1]))
