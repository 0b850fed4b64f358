"""The child process that decodes: it may die of what it is given, its parent may not.

`worker.image.decode` starts this file as a program of its own. Requests come over standard input,
codestreams and pixels lie in shared memory. It imports of this project only what locks it in and
two small files of errors, so that it starts fast, and ends when its parent does.
"""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node.base.confine import confine
from dicom_node.base.errors import NotUnderstood
from dicom_node.base.rims import foreign_code

REQUEST = struct.Struct("<8sQQIIII8s")
"""Codec, bytes shared, bytes of codestream, rows, columns, bits stored, milliseconds, dtype."""
CLEAR = b"clear"
"""Instead of a codec: overwrite that many bytes, which held a patient's image."""
ANSWER = struct.Struct("<BH")
"""Status and length of the text that follows."""
DONE, UNDECODABLE, OUT_OF_MEMORY, NO_DECODER = range(4)
PAGE = 4096
MAPPED = 512 << 20
"""What the libraries map at most, where nobody can be asked; here they map 107 MB."""

Pixels = npt.NDArray[Any]
_THREADS = min(4, os.cpu_count() or 1)


def pixel_offset(size: int) -> int:
    """Return where the pixels lie behind a codestream of `size` bytes."""
    return -(-size // PAGE) * PAGE


def decoders() -> dict[str, Callable[[memoryview, Pixels], None]]:
    """Return, for each codec, the fastest permissively licensed decoder that was measured."""
    import imagecodecs

    def decode_rle(codestream: memoryview, out: Pixels) -> None:
        # Both are buffers, which its annotations do not name.
        stream: Any = codestream
        flat: Any = out.reshape(-1).view("u1")
        found = imagecodecs.dicomrle_decode(stream, out.dtype, out=flat)
        if len(found) < flat.size:
            raise ValueError(f"{len(found)} of {flat.size} bytes")

    def decode_into(
        decode: Callable[..., Any], **options: Any
    ) -> Callable[[memoryview, Pixels], None]:
        return lambda codestream, out: decode(codestream, out=out, **options)

    def of_dcmtk(codestream: memoryview, out: Pixels) -> None:
        raise NotImplementedError("only DCMTK decodes this; install it")

    return {
        "rle": decode_rle,
        "jpeg": decode_into(imagecodecs.jpeg8_decode),
        "ljpeg": decode_into(imagecodecs.ljpeg_decode),
        "ljpeg-r": of_dcmtk,
        "jpegls": decode_into(imagecodecs.jpegls_decode),
        "jpeg2k": decode_into(imagecodecs.jpeg2k_decode, numthreads=_THREADS),
        "htj2k": decode_into(imagecodecs.htj2k_decode),
    }


_OF_DCMTK = {
    "jpeg": "1.2.840.10008.1.2.4.51",
    "ljpeg": "1.2.840.10008.1.2.4.57",
    "ljpeg-r": "1.2.840.10008.1.2.4.57",
}
"""Codecs that DCMTK's dcmdjpeg knows too, and a transfer syntax under which it takes them."""


class _Work:
    """Decodes what lies in the shared memory."""

    def __init__(self, shared: int) -> None:
        self._shared = shared
        self._memory = mmap.mmap(-1, 1)
        self._decoders = decoders()

    def answer(self, request: bytes) -> bytes:
        """Decode one codestream and say how that went."""
        codec, size, length, rows, columns, bits, milliseconds, dtype = REQUEST.unpack(request)
        _limit_time(milliseconds)
        try:
            self._map_memory(size)
            if codec.rstrip(b"\0") == CLEAR:
                # What the next decoder leaves out must not show the patient before.
                np.frombuffer(self._memory, np.uint8, length).fill(0)
                return ANSWER.pack(DONE, 0)
            shape, kind = (rows, columns), dtype.rstrip(b"\0").decode()
            out: Pixels = np.ndarray(shape, kind, self._memory, pixel_offset(length))
            codestream = memoryview(self._memory)[:length]
            text = self._decode_pixels(codec.rstrip(b"\0").decode(), codestream, out, bits)
            status = UNDECODABLE if text else DONE
        except NotImplementedError:
            status, text = NO_DECODER, ""
        except MemoryError:
            status, text = OUT_OF_MEMORY, ""
        said = text.encode()[:1000]
        return ANSWER.pack(status, len(said)) + said

    def _map_memory(self, size: int) -> None:
        # The parent has grown the memory with ftruncate; pages beyond an old map would fault.
        if len(self._memory) != size:
            try:
                self._memory = mmap.mmap(self._shared, size)
            except OSError as exc:
                raise MemoryError from exc

    def _decode_pixels(
        self, codec: str, codestream: memoryview, out: Pixels, bits_stored: int
    ) -> str:
        """Write pixels to `out`; return why that failed, or nothing."""
        has_dcmtk = shutil.which("dcmdjpeg") is not None
        # A codec that only DCMTK has is tried there; without it the answer is that no decoder is
        # installed.
        passes = (MemoryError,) if has_dcmtk else (MemoryError, NotImplementedError)
        try:
            with foreign_code(_not_decoded, passes=passes):  # codecs raise errors of their own
                self._decoders[codec](codestream, out)
        except NotUnderstood as exc:
            if codec in _OF_DCMTK and has_dcmtk:
                with suppress(OSError, ValueError, subprocess.SubprocessError):
                    _by_dcmtk(_OF_DCMTK[codec], codestream, out, bits_stored)
                    return ""
            return str(exc)
        return ""


def _not_decoded(exc: BaseException) -> NotUnderstood:
    return NotUnderstood(f"{type(exc).__name__}: {exc}")


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
    # Files without a name: this process may write none, and no picture is left on a disk.
    with (
        os.fdopen(os.memfd_create("source"), "w+b") as source,
        os.fdopen(os.memfd_create("target"), "w+b") as target,
    ):
        ds.save_as(source, enforce_file_format=True)
        source.flush()
        names = [f"/proc/self/fd/{file.fileno()}" for file in (source, target)]
        subprocess.run(
            ["dcmdjpeg", "--quiet", *names],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[source.fileno(), target.fileno()],
        )
        found = pydicom.dcmread(target).PixelData
    out[...] = np.frombuffer(found, out.dtype)[: out.size].reshape(out.shape)


def _limit_memory(memory: int) -> None:
    """Allow `memory` bytes more than the process has now, no core file and no large file."""
    # RLIMIT_AS counts addresses, not pages in use: libraries map a lot, so what is mapped now is
    # added to what an image may take.
    mapped = MAPPED
    with suppress(OSError):  # whoever started this process may be locked in: then so is this one
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory, mapped + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 29, 1 << 29))


def _limit_time(milliseconds: int) -> None:
    """Let the kernel end a decoder whose parent is no longer there to do so."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime + _THREADS * milliseconds / 1000) + 2
    # Processor time runs on over all images, so each gets its limit on top of what was used; two
    # seconds more than the parent waits, which is to be the first to notice.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


def _serve_requests(shared: int) -> None:
    work = _Work(shared)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    # An answer before the first request says that the decoders are loaded.
    answer = ANSWER.pack(DONE, 0)
    while True:
        answers.write(answer)
        answers.flush()
        request = requests.read(REQUEST.size)
        if len(request) < REQUEST.size:
            return
        answer = work.answer(request)


if __name__ == "__main__":
    _limit_memory(int(sys.argv[2]))
    confine()
    _serve_requests(int(sys.argv[1]))
