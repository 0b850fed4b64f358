"""The process that makes pictures and reports beside a worker's model, for `preparers`.

One interpreter computes for one thread at a time: what a process like this does, the worker's own
does not wait for. It imports no torch, answers one request after another, and keeps nothing between
them, so that whoever takes its place can go on. What a request and its answer are about lies in
memory that both share; over the pipes go its sizes and JSON, and nothing that is unpickled there.
"""

from __future__ import annotations

import itertools
import json
import logging
import mmap
import os
import pickle
import select
import signal
import struct
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from dicom_node.base import logs
from dicom_node.base.confine import confine
from dicom_node.base.errors import ChexFractError
from dicom_node.base.job import JudgedReport, Reason, ReportOrder
from dicom_node.base.rims import OneOfMany
from worker.image import elements, part10
from worker.image.decode import Decoder
from worker.image.pixels import Radiograph
from worker.models import Description, ModelInfo, Region
from worker.pipeline import Case, ReportBuilder, make_picture
from worker.settings import Pixels

HEAD = struct.Struct("<IQ")
"""Of a request and of an answer: bytes of the JSON that follows, and bytes that are shared now."""
_DEFLATED = "1.2.840.10008.1.2.1.99"

logger = logging.getLogger(__name__)

Part = bytes | memoryview


class SharedMemory:
    """Memory that two processes see, as this one sees it.

    Parameters
    ----------
    descriptor : int
        Its file, which has no name.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(-1, 1)

    def __len__(self) -> int:
        return len(self._map)

    def close(self) -> None:
        """Give it up; the memory goes when the other process has done so too."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def follow(self, size: int) -> None:
        """See it at the size that the other process has given it; an old map would end too soon."""
        if size != len(self._map):
            self._map = mmap.mmap(self.descriptor, size)

    def put(self, parts: Sequence[Part]) -> list[int]:
        """Write parts one behind the other; return how long each is."""
        sizes = [len(part) for part in parts]
        if sum(sizes) > len(self._map):
            os.ftruncate(self.descriptor, sum(sizes))
            self.follow(sum(sizes))
        at = 0
        for part, size in zip(parts, sizes, strict=True):
            self._map[at : at + size] = part
            at += size
        return sizes

    def take(self, sizes: Sequence[int]) -> list[bytes]:
        """Return copies of the parts that lie there."""
        ends = np.cumsum([0, *sizes]).tolist()
        if min(sizes, default=0) < 0 or ends[-1] > len(self._map):
            raise ValueError("more than is shared")
        return [self._map[start:end] for start, end in itertools.pairwise(ends)]


def picture_bytes(picture: Radiograph) -> memoryview:
    """Return a picture's pixels, row after row, without a copy."""
    return np.ascontiguousarray(picture.pixels).reshape(-1).data


class CaseWork:
    """What is done here for one case at a time.

    Parameters
    ----------
    info : ModelInfo
        What reports say of the model.
    options : Pixels
        ``[pixels]`` of worker.toml.
    """

    def __init__(self, info: ModelInfo, options: Pixels) -> None:
        self._info, self._options = info, options
        self._decoder = Decoder(options.decode_timeout, options.decode_memory)
        self._builder = ReportBuilder(info, options)

    def rehearse(self, content: bytes) -> None:
        """Report on an invented picture: the first report imports what all later ones need."""
        case = Case()
        make_picture(case, content, self._decoder, self._options, self._info)
        case.reason = case.reason or Reason(code="rehearsal", text="Nobody's picture.")
        order = ReportOrder(content_datetime=datetime.now(UTC), objects=("sr", "basic-text"))
        self._builder.build(case, order)

    def make_picture(
        self, request: dict[str, Any], content: bytes
    ) -> tuple[dict[str, Any], list[Part]]:
        """Make the picture of an Instance; the answer holds what `build` wants back."""
        case = Case(judged=_judged(request["judged"]))
        make_picture(case, content, self._decoder, self._options, self._info)
        answer: dict[str, Any] = {
            "reason": case.reason.model_dump() if case.reason is not None else None,
            "stages_ms": case.stages_ms,
        }
        parts: list[Part] = [_header_of(content, case.source), b"", b""]
        picture = case.radiograph
        if picture is not None:
            answer |= {"shape": picture.pixels.shape, "steps": picture.steps}
            answer["warnings"] = picture.warnings
            # Opened by a process like this one alone: to the worker these are bytes.
            parts[1] = pickle.dumps(picture.display)
            parts[2] = picture_bytes(picture)
        return answer, parts

    def build(
        self, request: dict[str, Any], parts: Sequence[bytes]
    ) -> tuple[dict[str, Any], list[Part]]:
        """Build the report of a case that the model has described."""
        header, display, pixels = parts
        case = Case(judged=_judged(request["judged"]), batch=request["batch"])
        case.stages_ms = request["stages_ms"]
        case.source = part10.read(header) if header else None
        if request["reason"] is not None:
            case.reason = Reason(**request["reason"])
        if (said := request["description"]) is not None:
            regions = tuple(Region(**region) for region in said.pop("regions"))
            case.description = Description(**said, regions=regions)
        if (shape := request["shape"]) is not None:
            # Only pages show the picture; without them the worker keeps it to itself.
            seen = np.frombuffer(pixels, np.uint8) if pixels else np.zeros(1, np.uint8)
            case.radiograph = Radiograph(
                seen.reshape(shape if pixels else (1, 1)),
                request["steps"],
                tuple(request["warnings"]),
                pickle.loads(display),  # noqa: S301 - as `make_picture` wrote it
            )
        order = ReportOrder.model_validate_json(request["order"])
        made = self._builder.build(case, order, request["token"])
        contents: list[Part] = [document.content for document in made.documents]
        return {"result": made.result.model_dump_json()}, contents


def _judged(text: str | None) -> JudgedReport | None:
    return None if text is None else JudgedReport.model_validate_json(text)


def _header_of(content: bytes, source: Dataset | None) -> bytes:
    """Return the file up to the value of Pixel Data, of which a report takes nothing.

    All of it where reading it again might find something else: a broken or deflated header, or
    one with an icon, behind which Pixel Data are looked for at times.
    """
    if source is None:
        return b""
    pixels = source.get_item("PixelData") if "PixelData" in source else None
    is_plain = "IconImageSequence" not in source and not source.__dict__.get("broken_at")
    is_inflated = elements.transfer_syntax(source) == _DEFLATED
    if isinstance(pixels, RawDataElement) and is_plain and not is_inflated:
        return content[: pixels.value_tell]
    return content


class _Server:
    """Answers requests, one at a time."""

    def __init__(self, shared: SharedMemory, requests: IO[bytes], answers: IO[bytes]) -> None:
        self._shared, self._requests, self._answers = shared, requests, answers
        self._work: CaseWork | None = None

    def serve(self) -> None:
        """Answer until there is nobody left to ask."""
        self._write({"kind": "ready"})
        while len(head := self._requests.read(HEAD.size)) == HEAD.size:
            length, size = HEAD.unpack(head)
            request = json.loads(self._requests.read(length))
            self._shared.follow(size)
            answer, parts = self._answer_or_fault(request)
            self._write(answer | {"sizes": self._shared.put(parts)})

    def _answer_or_fault(self, request: dict[str, Any]) -> tuple[dict[str, Any], Sequence[Part]]:
        found: tuple[dict[str, Any], Sequence[Part]] = ({}, [])

        def note(exc: Exception) -> None:
            nonlocal found
            name, text = type(exc).__name__, str(exc)
            if not isinstance(exc, ChexFractError):
                logger.error("job failed", exc_info=exc)
                text = f"{name} in the worker"
            found = {"kind": "failed", "error": name, "text": text}, []

        with OneOfMany(note):  # the worker must hear of any fault, and the next image be answered
            found = self._answer(request, self._shared.take(request["sizes"]))
        return found

    def _answer(
        self, request: dict[str, Any], parts: list[bytes]
    ) -> tuple[dict[str, Any], Sequence[Part]]:
        if request["do"] == "begin":
            info, options = ModelInfo(**request["info"]), Pixels(**request["pixels"])
            self._work = CaseWork(info, options)
            self._work.rehearse(*parts)
            return {"kind": "ready"}, []
        if self._work is None:
            raise ValueError("not begun")
        if request["do"] == "picture":
            answer, made = self._work.make_picture(request, *parts)
        else:
            answer, made = self._work.build(request, parts)
        return answer | {"kind": "done"}, made

    def _write(self, answer: dict[str, Any]) -> None:
        text = json.dumps(answer).encode()
        self._answers.write(HEAD.pack(len(text), len(self._shared)) + text)
        self._answers.flush()


def _end_with_worker(requests: int) -> None:
    """End when nobody holds the other end any more, also amid a picture."""
    gone = select.poll()
    gone.register(requests, 0)  # nothing but the end of it
    gone.poll()
    os._exit(0)


def main() -> None:
    """Serve the worker whose child this is."""
    requests, answers = os.dup(0), os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    # A service manager asks every process of a service to end: the worker has a second for what
    # it is about, and needs this one for it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logs.start(logging.WARNING)
    logs.silence_values()
    threading.Thread(target=_end_with_worker, args=(requests,), daemon=True).start()
    confine(starts_python=True)
    shared = SharedMemory(int(sys.argv[1]))
    with os.fdopen(requests, "rb") as reads, os.fdopen(answers, "wb") as writes:
        _Server(shared, reads, writes).serve()


if __name__ == "__main__":
    main()
