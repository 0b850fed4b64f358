"""A few processes that make pictures and reports, so that the worker's own has time for its model.

A process that dies costs one repetition of what it was about. At a second death, or where it gives
no answer in time, the job is given back, and counts as an attempt at that image and no other.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from dicom_node.base import errors
from dicom_node.base.confine import child_environment, python_command
from dicom_node.base.errors import ChexFractError, OutOfResources, Unreachable
from dicom_node.base.job import Reason, ReportOrder, Result
from dicom_node.base.plurals import counted
from worker.image.decode import shared_memory
from worker.image.pixels import Radiograph
from worker.models import ModelInfo, Unexplained
from worker.pipeline import Case, Conclusion
from worker.report.document import Document
from worker.report.renderings import SHOW_PICTURE
from worker.service.preparing import HEAD, Part, SharedMemory, picture_bytes
from worker.settings import Pixels

logger = logging.getLogger(__name__)

STARTS_WITHIN_S = 60.0
BESIDE_DECODING_S = 60.0
"""What one request may take beside the decoding of its image, which has a limit of its own."""
_KEPT_BYTES = 32 << 20
"""Memory that a process and this one go on to share; a larger image has it for itself alone."""


@dataclass(frozen=True, slots=True)
class KeptHeader:
    """What is left of an Instance once its picture is made: all that its report takes from it."""

    header: bytes
    display: bytes
    """How its grey came about; written and read in those processes alone."""


class Preparers:
    """Processes that do what a case needs before its model and behind it; see `MakesReports`.

    Several threads may ask: each waits for a process that is idle. Reports come first, as they
    are the last that is done for an image.

    Parameters
    ----------
    count : int
        How many processes.
    """

    def __init__(self, count: int) -> None:
        self._begin: Callable[[_Process], None] = lambda _: None
        self._seconds = STARTS_WITHIN_S
        self._idle: list[_Process | None] = []
        """Idle ones; None: one that is to be started when it is needed."""
        self._all: set[_Process] = set()
        self._reports = 0
        """Reports that wait for a process."""
        self._is_open = True
        lock = threading.Lock()
        self._for_reports, self._for_pictures = (threading.Condition(lock) for _ in range(2))
        # All at once, and not waited for yet: they import while the model loads.
        self._idle += [self._start() for _ in range(count)]

    def begin(self, info: ModelInfo, options: Pixels, rehearsal: bytes) -> None:
        """Tell each process what reports say of the model, and wait until all are ready.

        Parameters
        ----------
        rehearsal : bytes
            An Instance of nobody, which each reports on before it is given others.

        Raises
        ------
        OutOfResources, Unreachable
            One of them does not start.
        """
        request = {
            "do": "begin",
            "info": dataclasses.asdict(info),
            "pixels": options.model_dump(mode="json"),
        }
        self._begin = lambda process: process.begin(request, rehearsal)
        self._seconds = options.decode_timeout + BESIDE_DECODING_S
        self._idle = [self._begun(process) for process in self._idle]
        logger.info(
            "pictures and reports are made by %s", counted(len(self._idle), "process", "processes")
        )

    def close(self) -> None:
        """End all of them, whatever they are about."""
        with self._for_pictures:
            self._is_open = False
            busy = self._all.difference(self._idle)
            idle, self._idle = [process for process in self._idle if process is not None], []
            self._all -= {*idle}
            self._for_reports.notify_all()
            self._for_pictures.notify_all()
        for process in busy:
            process.kill()  # whoever waits for its answer closes it
        for process in idle:
            process.close()

    def make_picture(self, case: Case, content: bytes) -> None:
        """Read and gate an Instance, and make its picture; a refusal becomes the case's reason."""
        judged = case.judged.model_dump_json() if case.judged is not None else None
        request = {"do": "picture", "judged": judged}
        answer, (header, display, pixels) = self._ask(request, [content], is_report=False)
        case.stages_ms |= answer["stages_ms"]
        case.kept = KeptHeader(header, display)
        if answer["reason"] is not None:
            case.reason = Reason(**answer["reason"])
        if (shape := answer.get("shape")) is not None:
            # A copy may be written to, which a model's own code may want to do.
            picture = np.frombuffer(pixels, np.uint8).reshape(shape).copy()
            case.radiograph = Radiograph(picture, answer["steps"], tuple(answer["warnings"]))

    def build(self, case: Case, order: ReportOrder, token: str) -> Conclusion:
        """Build the objects of a case whose picture was made by `make_picture`."""
        kept: KeptHeader = case.kept
        said, picture = case.description, case.radiograph
        request: dict[str, Any] = {
            "do": "build",
            "order": order.model_dump_json(),
            "token": token,
            "judged": case.judged.model_dump_json() if case.judged is not None else None,
            "reason": case.reason.model_dump() if case.reason is not None else None,
            "description": dataclasses.asdict(said) if said is not None else None,
            "stages_ms": case.stages_ms,
            "batch": case.batch,
            "shape": None,
        }
        parts: list[Part] = [kept.header, kept.display, b""]
        if picture is not None:
            request |= {"shape": picture.pixels.shape, "steps": picture.steps}
            request["warnings"] = picture.warnings
            if SHOW_PICTURE.intersection(order.objects):
                parts[2] = picture_bytes(picture)
        answer, contents = self._ask(request, parts, is_report=True)
        result = Result.model_validate_json(answer["result"])
        case.stages_ms = dict(result.stages_ms)
        documents = tuple(
            Document(
                made.kind,
                made.sop_class_uid,
                made.sop_instance_uid,
                made.series_instance_uid,
                content,
            )
            for made, content in zip(result.objects, contents, strict=True)
        )
        return Conclusion(result, documents)

    def _ask(
        self, request: dict[str, Any], parts: Sequence[Part], *, is_report: bool
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Return an answer; where a process dies of the request, that of the next one.

        Raises
        ------
        Unexplained
            Two have died of it, or one hangs.
        """
        why = ""
        for _ in range(2):
            with self._lent(is_report=is_report) as process:
                try:
                    answer, contents = process.ask(request, parts, self._seconds)
                except _Hung as exc:
                    # Not again: twice this time, and the whole worker were taken for stuck.
                    raise Unexplained(
                        f"the process that makes its picture and report {exc}"
                    ) from exc
                except _Died as exc:
                    why = str(exc)
                    logger.warning("a process that makes pictures and reports %s", why)
                    continue
            if answer["kind"] == "failed":
                raise _error_of(answer)
            return answer, contents
        raise Unexplained(f"the process that makes its picture and report {why}, twice")

    @contextmanager
    def _lent(self, *, is_report: bool) -> Iterator[_Process]:
        process = self._take(is_report=is_report)
        try:
            if process is None or not process.is_alive:
                process = self._started_again(process)
            yield process
        finally:
            self._give_back(process)

    def _take(self, *, is_report: bool) -> _Process | None:
        mine = self._for_reports if is_report else self._for_pictures
        with mine:
            self._reports += is_report
            while self._is_open and (not self._idle or (self._reports and not is_report)):
                mine.wait()
            self._reports -= is_report
            if not self._is_open:
                raise Unreachable("the worker is ending")
            # The last that was given back: its memory and caches are warm.
            process = self._idle.pop()
            if self._idle:
                self._wake()
            return process

    def _give_back(self, process: _Process | None) -> None:
        if process is not None and not process.is_alive:
            self._drop(process)
            process = None
        with self._for_pictures:
            if self._is_open:
                self._idle.append(process)
                self._wake()
                return
        if process is not None:
            self._drop(process)

    def _wake(self) -> None:
        """Wake one that waits; what it leaves idle, it wakes the next one for."""
        (self._for_reports if self._reports else self._for_pictures).notify()

    def _begun(self, process: _Process | None) -> _Process:
        """Return a process that has begun: this one, or the next if somebody has ended it."""
        try:
            if process is not None:
                self._begin(process)
                return process
        except (OutOfResources, Unreachable) as exc:
            logger.warning("%s; another is started", exc)
        return self._started_again(process)

    def _started_again(self, dead: _Process | None) -> _Process:
        if dead is not None:
            self._drop(dead)
        with ExitStack() as unused:
            process = self._start()
            unused.callback(self._drop, process)
            self._begin(process)
            unused.pop_all()
        return process

    def _start(self) -> _Process:
        process = _Process()
        with self._for_pictures:
            self._all.add(process)
        return process

    def _drop(self, process: _Process) -> None:
        process.close()
        with self._for_pictures:
            self._all.discard(process)


class _Died(Exception):
    """The process ended, or was ended, before it had answered; the text says how."""


class _Hung(_Died):
    """It was ended because it had not answered in time."""


class _Process:
    """One process and the memory it shares with this one."""

    def __init__(self) -> None:
        self._shared = SharedMemory(shared_memory())
        descriptor = self._shared.descriptor
        try:
            self._process = subprocess.Popen(
                python_command("-m", "worker.service.preparing", str(descriptor)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[descriptor],
                # One thread each: there are as many processes as the processors have time for.
                env=child_environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
                # Not in our group: Ctrl-C is for the worker, which lets it finish what it is about.
                start_new_session=True,
            )
        except OSError as exc:
            raise OutOfResources(f"a preparing process does not start: {exc.strerror}") from exc
        self._poll = select.poll()
        self._poll.register(self._process.stdout or -1, select.POLLIN)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def begin(self, request: dict[str, Any], rehearsal: bytes) -> None:
        """Wait until it has begun.

        Raises
        ------
        Unreachable
            It does not start: nobody's image is to blame for that.
        """
        try:
            self._read_answer(time.monotonic() + STARTS_WITHIN_S)
            answer, _ = self.ask(request, [rehearsal], STARTS_WITHIN_S)
        except _Died as exc:
            raise Unreachable(f"a preparing process {exc} at its start") from exc
        if answer["kind"] == "failed":
            raise _error_of(answer)

    def ask(
        self, request: dict[str, Any], parts: Sequence[Part], seconds: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Return the answer to a request, and copies of its parts.

        Raises
        ------
        _Died
            There is no answer; the process has ended.
        """
        if sum(map(len, parts)) <= _KEPT_BYTES < len(self._shared):
            os.ftruncate(self._shared.descriptor, _KEPT_BYTES)
            self._shared.follow(_KEPT_BYTES)
        sizes = self._shared.put(parts)
        text = json.dumps(request | {"sizes": sizes}).encode()
        stream = self._process.stdin
        until = time.monotonic() + seconds
        try:
            if stream is None:
                raise _Died("was ended")
            self._write_bytes(
                stream.fileno(), HEAD.pack(len(text), len(self._shared)) + text, until
            )
        except (OSError, ValueError) as exc:  # it has ended
            raise self._explain_death() from exc
        try:
            answer = self._read_answer(until)
            return answer, self._shared.take(answer["sizes"])
        except (KeyError, TypeError, ValueError) as exc:
            self.kill()
            raise _Died("wrote something else than an answer") from exc

    def _write_bytes(self, descriptor: int, content: bytes, until: float) -> None:
        """Write a request, also where it is more than the pipe holds and nobody reads it."""
        os.set_blocking(descriptor, False)
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        rest = memoryview(content)
        while rest:
            if not room.poll(1000 * max(until - time.monotonic(), 0.0)):
                self.kill()
                raise _Hung("took no request in time and was ended")
            rest = rest[os.write(descriptor, rest) :]

    def _read_answer(self, until: float) -> dict[str, Any]:
        length, size = HEAD.unpack(self._read_bytes(HEAD.size, until))
        answer: dict[str, Any] = json.loads(self._read_bytes(length, until))
        self._shared.follow(size)
        return answer

    def _read_bytes(self, count: int, until: float) -> bytes:
        content = b""
        while len(content) < count:
            if not self._poll.poll(1000 * max(until - time.monotonic(), 0.0)):
                self.kill()
                raise _Hung("gave no answer in time and was ended")
            try:
                chunk = os.read(self._process.stdout.fileno(), count - len(content))  # type: ignore[union-attr]
            except (OSError, ValueError) as exc:
                raise self._explain_death() from exc
            if not chunk:
                raise self._explain_death()
            content += chunk
        return content

    def _explain_death(self) -> _Died:
        self.kill()
        status = self._process.returncode
        if status >= 0:
            return _Died(f"ended with status {status}")
        return _Died(f"ended ({signal.strsignal(-status) or f'signal {-status}'})")

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """End it and free what it shared; called when nobody waits for its answer."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not written yet
                if pipe is not None:
                    pipe.close()
        self._shared.close()


def _error_of(answer: dict[str, Any]) -> ChexFractError:
    """Return an error of that process as an error of this one."""
    kind, text = getattr(errors, str(answer["error"]), None), str(answer["text"])
    if not (isinstance(kind, type) and issubclass(kind, ChexFractError)):
        return Unexplained(text)
    return Unexplained(text) if kind is errors.Rejected else kind(text)
