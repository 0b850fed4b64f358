"""An engine in another virtual environment's interpreter, spoken to over its standard streams.

No release of transformers suits every model. With ``python = "/path/to/venv/bin/python"`` in its
table an engine runs there: its environment needs torch, the release of transformers that the model
was made for, numpy and pillow, and nothing of this project, whose code it is lent.

Each request has a number, which its answers bear: the inputs of the next pictures are made while
the model computes. They stay in that process, and this one keeps their numbers.
"""

from __future__ import annotations

import atexit
import dataclasses
import importlib
import itertools
import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

from dicom_node.base.confine import child_environment, confine
from dicom_node.base.errors import (
    ChexFractError,
    ConfigurationError,
    ModelFault,
    OutOfResources,
    Transient,
)
from worker.models import (
    ENGINES,
    BrokenAccelerator,
    Description,
    Prepared,
    Progress,
    Region,
    Unexplained,
    frames,
)
from worker.models.canary import Canary
from worker.models.checkpoint import Unacceptable
from worker.models.generation import Step
from worker.models.local import LocalModel, one_line

if TYPE_CHECKING:
    from worker.image.pixels import Radiograph
    from worker.models.options import Weights

logger = logging.getLogger(__name__)

LENT = ("worker", "dicom_node")
"""Packages of this project that the other interpreter may import."""
ANSWER_TIMEOUT_S = 600.0
"""Without a sign of progress for so long, the child is ended."""
Frame = tuple[dict[str, Any], bytes]
CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from worker.models.child import main; main()"


class Ended(Transient):
    """The other process ended, or was ended, before it had answered."""


class EndedByMemory(Ended, OutOfResources):
    """It was killed for lack of memory, or said so at its end: fewer at a time may pass."""


class Crashed(Ended, Unexplained):
    """It crashed, hung, or lost its accelerator: by these pictures or by itself."""


class _Replies:
    """Hands what a process answers to the thread that asked for it."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[Frame | None]] = {}
        self._last: list[Frame | None] = []
        self._lock = threading.Lock()

    def begin(self) -> tuple[int, queue.SimpleQueue[Frame | None]]:
        """Return the number of a new request, and where its answers will come."""
        answers: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = answers
            for frame in self._last:  # the stream has ended already
                answers.put(frame)
        return number, answers

    def end(self, number: int) -> None:
        """Forget a request: nobody waits for its answers."""
        with self._lock:
            self._waiting.pop(number, None)

    def put(self, frame: Frame) -> None:
        """Hand on one answer."""
        with self._lock:
            answers = self._waiting.get(frame[0].get("number", 0))
        if answers is not None:
            answers.put(frame)

    def close(self, *last: Frame | None) -> None:
        """Give whoever waits, or will ask, these last answers."""
        with self._lock:
            self._last += last
            for answers in self._waiting.values():
                for frame in last:
                    answers.put(frame)


class _Wire:
    """One process, and what goes to and from it."""

    def __init__(self, process: subprocess.Popen[bytes], requests: IO[bytes]) -> None:
        self.process = process
        self.replies = _Replies()
        self.is_ended_by_us = False
        """Whether its status says nothing, because it did not end by itself."""
        self.killed_before = memory_kills()
        self.said: deque[str] = deque(maxlen=1)
        """The last line of its standard error."""
        self.hears: threading.Thread | None = None
        self.forgotten: deque[int] = deque()
        """Numbers of inputs that are there and that nobody wants any more."""
        self.writer = frames.FrameWriter(requests)

    def last_line(self) -> str:
        """Return what a process that has ended said last."""
        if self.hears is not None:
            self.hears.join(timeout=1)
        return self.said[0] if self.said else ""

    def kill(self) -> None:
        """End the process at once."""
        if self.process.poll() is None:
            self.is_ended_by_us = True
            self.process.kill()

    def take_forgotten(self) -> list[int]:
        """Return these numbers once."""
        numbers = []
        # Until there is none: another thread may take the last between a look and the taking.
        with suppress(IndexError):
            while True:
                numbers.append(self.forgotten.popleft())
        return numbers


class _Kept:
    """Inputs of a picture, in the process that made them."""

    __slots__ = ("__weakref__", "number", "wire")

    def __init__(self, wire: _Wire, number: int) -> None:
        self.wire = wire
        self.number = number
        # Nobody says when a picture is given up on its way: the end of this object does. It may
        # come in any thread, amid anything, so the number is only laid down, without a lock.
        weakref.finalize(self, wire.forgotten.append, number)


class ChildModel(LocalModel):
    """The same model, in another process.

    The checks of folder, sums and licence are made here, before the other interpreter starts.
    """

    def __init__(self, name: str, options: Weights, device: str) -> None:
        super().__init__(name, options, device)
        # never loaded here: it knows which of its keys change an answer
        self._engine: LocalModel = importlib.import_module(ENGINES[options.engine]).build(
            name, options, device
        )
        self._engine.files = self.files
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: _Wire | None = None
        self._environment: dict[str, str] = {}
        self._is_wanted = False
        self._private = ""

    def load(self) -> None:
        """Start the interpreter and let it load the model.

        Raises
        ------
        ConfigurationError, ModelFault
            The interpreter does not start, or the model is not acceptable there.
        """
        self.check_files()
        self._is_wanted = True
        with ExitStack() as unloaded:
            unloaded.callback(self.close)
            self._start_child()
            unloaded.pop_all()

    def _start_child(self) -> None:
        wanted = self.options.python
        try:
            interpreter = Path(wanted).expanduser()
            self._process = subprocess.Popen(
                [str(interpreter), "-I", "-u", "-c", CHILD, _lent_packages()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(),
            )
        except (OSError, RuntimeError, ValueError) as exc:
            what = getattr(exc, "strerror", None) or exc
            raise ConfigurationError(f"models.{self.name}.python: {wanted}: {what}") from exc
        self._listen(self._process)
        table = self.options.model_dump() | {"python": ""}
        # The only folder that the child may write in: copies of the model's code, and no more.
        self._private = self._private or tempfile.mkdtemp(prefix="chexfract-child-")
        request = {
            "do": "load",
            "name": self.name,
            "device": self.wanted_device,
            "table": table,
            "private": self._private,
        }
        try:
            answer = self._ask(request, b"", None, self.options.start_timeout)
        except (OutOfResources, Ended) as exc:
            raise Unacceptable(
                f"models.{self.name}.python: {interpreter} cannot run the engine: {exc}"
                f"{self._last_words()}"
            ) from exc
        self._environment = {key: str(value) for key, value in answer["environment"].items()}
        self.device, self.dtype = answer["device"], answer["dtype"]
        self.model = self._process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Read both streams; each reader closes its own, as nobody else can while it waits."""
        if process.stdin is None:
            raise ModelFault(f"{self.name}: its process cannot be asked")
        wire = self._wire = _Wire(process, process.stdin)
        reads = threading.Thread(target=_read, args=(process.stdout, wire.replies), daemon=True)
        wire.hears = threading.Thread(
            target=_keep_last_line, args=(process.stderr, wire.said), daemon=True
        )
        reads.start()
        wire.hears.start()

    def _last_words(self) -> str:
        said = self._wire.last_line() if self._wire is not None else ""
        return f": {said}" if said else ""

    def _parameters(self) -> dict[str, str]:
        self._engine.dtype = self.dtype
        return self._engine._parameters() | self._environment

    def warm_up(self) -> None:
        """Let the model describe an invented picture."""
        self._ask_trial("warm_up")

    def trial(self) -> Canary:
        """Describe the invented picture in the other interpreter."""
        answer = self._ask_trial("trial")
        steps = tuple(Step(int(token), float(margin)) for token, margin in answer["steps"])
        sound, answered = bool(answer["is_sound"]), bool(answer["is_answered"])
        return Canary(answer["text"], steps, sound, answered, dict(answer["asked"]))

    def _ask_trial(self, what: str) -> dict[str, Any]:
        """Ask for what depends on nobody's picture: a crash is the model's own fault."""
        with self._lock:
            try:
                return self._ask({"do": what}, b"", None, self.options.start_timeout)
            except Crashed as exc:
                raise ModelFault(str(exc)) from exc

    def prepare(self, radiograph: Radiograph | Prepared) -> Prepared:
        """Let the other interpreter make the inputs of a picture, while the model computes there.

        They stay in that process. Where it ends before they are used, `describe` sends the picture
        to the next one.
        """
        if isinstance(radiograph, Prepared):
            return radiograph
        pixels, wire = radiograph.pixels, self._wire
        if self.model is None or wire is None:
            return Prepared(pixels, None)
        request = {"do": "prepare", "shape": list(pixels.shape)}
        try:
            answer = self._ask(request, pixels.tobytes(), None, ANSWER_TIMEOUT_S, wire)
        except Ended:
            return Prepared(pixels, None)  # whether of this picture, `describe` finds out
        return Prepared(pixels, _Kept(wire, answer["kept"]))

    def describe(
        self, radiographs: Sequence[Radiograph | Prepared], progress: Progress | None = None
    ) -> list[Description]:
        """Return one description per radiograph, in order.

        A child that has died is started again first.

        Raises
        ------
        OutOfResources
            Memory is full, there or on this machine.
        Crashed
            The child died on these, hung, or lost its accelerator.
        BrokenAccelerator
            The child cannot be started again.
        ModelFault
            The model's code fails on one of them.
        """
        with self._lock:
            if not self._is_wanted:
                raise ModelFault(f"{self.name} is not loaded")
            process = self._process  # a thread that prepares may note its end at any time
            if process is None or process.poll() is not None:
                self._start_again()
            rows: list[dict[str, Any]] = []
            sent = []
            for radiograph in radiographs:
                kept = getattr(radiograph, "inputs", None)
                # Another process knows nothing of these inputs, or has others under the number.
                if isinstance(kept, _Kept) and kept.wire is self._wire:
                    rows.append({"kept": kept.number})
                else:
                    rows.append({"shape": list(radiograph.pixels.shape)})
                    sent.append(radiograph.pixels.tobytes())
            request = {"do": "describe", "pictures": rows}
            answer = self._ask(request, b"".join(sent), progress, ANSWER_TIMEOUT_S)
        return [_read_description(row) for row in answer["descriptions"]]

    def _start_again(self) -> None:
        logger.warning("model %s: its process is started again", self.name)
        self._end()
        try:
            self.load()
        except ChexFractError as exc:
            self._is_wanted = True
            raise BrokenAccelerator(
                f"{self.name}: its process cannot be started again: {exc}"
            ) from exc

    def _ask(
        self,
        request: dict[str, Any],
        content: bytes,
        progress: Progress | None,
        seconds: float,
        wire: _Wire | None = None,
    ) -> dict[str, Any]:
        wire = wire or self._wire
        if wire is None:
            raise ModelFault(f"{self.name} is not loaded")
        # Before the request is written: the answer may be there before this thread goes on.
        number, answers = wire.replies.begin()
        message = request | {"number": number, "forget": wire.take_forgotten()}
        try:
            try:
                with _ended_after(seconds, wire):
                    wire.writer.write(message, content)
            except (OSError, ValueError) as exc:  # it ended, or another thread has closed the pipe
                raise self._explain_death(wire) from exc
            while True:
                try:
                    # From each sign of progress on: a whole batch may take longer than that.
                    frame = answers.get(timeout=seconds)
                except queue.Empty as exc:
                    self._end(wire, at_once=True)
                    raise Crashed(
                        f"{self.name}: its process said nothing for {seconds:.0f} s"
                    ) from exc
                if frame is None:
                    raise self._explain_death(wire)
                answer, _ = frame
                if answer["kind"] == "moved":
                    if progress is not None:
                        progress()
                elif answer["kind"] == "broken":
                    self._end(wire, at_once=True)
                    raise Crashed(f"{self.name}: its process wrote something else than answers")
                elif answer["kind"] == "failed":
                    if answer["error"] == "BrokenAccelerator":
                        self._end(wire)  # the next call starts a process that can use it again
                    raise _error_of(answer)
                else:
                    return answer
        finally:
            wire.replies.end(number)

    def _explain_death(self, wire: _Wire) -> Ended:
        """Return how a process ended: only full memory may make batches smaller."""
        status = self._end(wire)
        what = f"{self.name}: its process ended with status {status}"
        if wire.is_ended_by_us or status is None:
            return Crashed(f"{what}: it was ended here")
        if is_memory_end(status, wire.last_line(), wire.killed_before, memory_kills()):
            return EndedByMemory(f"{what}: memory is full")
        if status < 0:
            what += f" ({signal.strsignal(-status) or 'unknown signal'})"
        return Crashed(what)

    def _end(self, wire: _Wire | None = None, *, at_once: bool = False) -> int | None:
        """End the process, by closing its standard input or at once, and return its status.

        Parameters
        ----------
        wire : _Wire, optional
            To the one that is meant: another thread may have started the next one meanwhile.
        """
        wire = wire or self._wire
        if wire is None:
            return None
        process = wire.process
        # Another thread may have started the next one meanwhile, which is well.
        if process is self._process:
            self._process = self.model = None
        if at_once:
            wire.kill()
        if process.stdin is not None:
            _close_pipe(process.stdin)
        try:
            return process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            wire.kill()
            return process.wait()

    def close(self) -> None:
        """End the process, which gives all of its memory back."""
        self._is_wanted = False
        self._end()
        self._wire = None
        if self._private:
            shutil.rmtree(self._private, ignore_errors=True)
            self._private = ""


def memory_kills() -> int | None:
    """Return how many processes this machine's kernel has killed for lack of memory, if it says."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
    except (OSError, ValueError, IndexError):
        return None


def is_memory_end(status: int, said: str, before: int | None, after: int | None) -> bool:
    """Whether a process that ended by itself did so because memory was full.

    Parameters
    ----------
    status : int
        As of `subprocess.Popen.returncode`.
    said : str
        The last line of its standard error.
    before, after : int or None
        `memory_kills` when it started and now.
    """
    if status == -signal.SIGKILL:
        # No process learns who sent it. A kernel that does not count gets the benefit of doubt.
        return before is None or after is None or after > before
    # What ends an interpreter or a C++ library when an allocation fails.
    return any(mark in said for mark in ("MemoryError", "bad_alloc", "out of memory"))


def _close_pipe(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except OSError:
        logger.debug("a pipe to a process that had ended")


def _read(stream: IO[bytes], replies: _Replies) -> None:
    with stream:
        try:
            while (frame := frames.read(stream)) is not None:
                replies.put(frame)
        except (frames.BrokenFrame, TypeError, RecursionError) as exc:  # its number may be anything
            logger.debug("the other interpreter's stream broke: %s", exc)
            replies.close(({"kind": "broken"}, b""))
        except (OSError, ValueError) as exc:
            logger.debug("the other interpreter's stream ended: %s", exc)
    replies.close(None)


def _keep_last_line(stream: IO[bytes], last: deque[str]) -> None:
    """Keep the last line that a process said; a model's code may print what it found."""
    with stream:
        for line in stream:
            if text := line.decode("utf-8", "replace").strip():
                logger.debug("from the other interpreter: %s", text)
                last.append(text[:300])


@contextmanager
def _ended_after(seconds: float, wire: _Wire) -> Iterator[None]:
    """End a process that does not read what it is sent, so that nobody waits for it."""
    timer = threading.Timer(seconds, wire.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@cache
def _lent_packages() -> str:
    """Return a folder that holds this project's packages and nothing else of this environment."""
    folder = tempfile.mkdtemp(prefix="chexfract-lent-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for package in LENT:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigurationError(f"the package {package} has no folder to lend")
        (Path(folder) / package).symlink_to(Path(spec.origin).parent)
    return folder


def _environment() -> dict[str, str]:
    """Return the environment without this interpreter's paths and this worker's secrets."""
    hidden = ("PYTHON", "VIRTUAL_ENV", "HF_")
    return {key: value for key, value in child_environment().items() if not key.startswith(hidden)}


def _error_of(answer: dict[str, Any]) -> Exception:
    known: dict[str, type[Exception]] = {
        kind.__name__: kind
        for kind in (Unacceptable, ModelFault, ConfigurationError, OutOfResources, Unexplained)
    }
    # Lost to that process alone, which has ended: the next one may do it, and memory was not full.
    known["BrokenAccelerator"] = Crashed
    return known.get(answer["error"], ModelFault)(str(answer["text"]))


def _read_description(row: dict[str, Any]) -> Description:
    regions = tuple(Region(**region) for region in row.pop("regions"))
    return Description(**row, regions=regions)


# What follows runs in the other interpreter.


def main() -> None:
    """Answer frames from standard input until it ends."""
    requests, answers = _own_streams()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    served = _Served(frames.FrameWriter(answers))
    threading.Thread(target=_listen, args=(requests, served), daemon=True).start()
    served.answer_each(served.waiting)


def _own_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Keep the pipes for frames; what code prints goes to standard error."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return requests, answers


def _listen(stream: IO[bytes], served: _Served) -> None:
    """Hand on frames; when the parent is gone, end at once, also amid a generation."""
    try:
        while (frame := frames.read(stream)) is not None:
            served.forget(frame[0]["forget"])
            queued = served.preparing if frame[0]["do"] == "prepare" else served.waiting
            queued.put(frame)
    finally:
        os._exit(0)


def _error_text(exc: Exception) -> str:
    return str(exc) if isinstance(exc, ChexFractError) else one_line(exc)


def _engine_files(options: SimpleNamespace) -> list[Path]:
    """Return what an engine reads: its folder, where links in it lead, and a list of sums."""
    found = [Path(named).expanduser() for named in (options.path, options.manifest) if named]
    folder = found[0] if found else Path("builtin:")
    if folder.is_dir():
        # the cache of a hub keeps files elsewhere, and links to them
        found += sorted({path.resolve().parent for path in folder.rglob("*") if path.is_symlink()})
    return found


class _Served:
    """The engine on this side."""

    def __init__(self, writer: frames.FrameWriter) -> None:
        self._writer = writer
        self._model: Any = None
        self._kept: dict[int, Prepared] = {}
        self.waiting: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        """Requests for the model."""
        self.preparing: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        """Pictures whose inputs are to be made beside it."""

    def answer_each(self, requests: queue.SimpleQueue[Frame]) -> None:
        """Answer requests in turn, for ever."""
        while True:
            request, content = requests.get()
            try:
                answer = self._answer(request, content)
            except Exception as exc:  # noqa: BLE001 - the rim of this process: the parent must hear of it
                answer = {"kind": "failed", "error": type(exc).__name__, "text": _error_text(exc)}
            self._writer.write(answer | {"number": request["number"]})

    def forget(self, numbers: Sequence[int]) -> None:
        """Drop inputs that nobody wants any more."""
        for number in numbers:
            self._kept.pop(number, None)

    def _answer(self, request: dict[str, Any], content: bytes) -> dict[str, Any]:
        number = request["number"]
        if request["do"] == "load":
            return self._load(request)
        if request["do"] == "prepare":
            self._kept[number] = self._model.prepare(_radiograph(request["shape"], content))
            return {"kind": "done", "kept": number}
        if request["do"] == "warm_up":
            self._model.warm_up()
            return {"kind": "done"}
        if request["do"] == "trial":
            return {"kind": "done", **dataclasses.asdict(self._model.trial())}
        described = self._model.describe(
            self._pictures(request["pictures"], content),
            lambda: self._writer.write({"kind": "moved", "number": number}),
        )
        return {
            "kind": "done",
            "descriptions": [dataclasses.asdict(description) for description in described],
        }

    def _pictures(self, rows: list[dict[str, Any]], content: bytes) -> list[Any]:
        """Return pictures to describe: inputs that are here, and pictures that were sent."""
        found: list[Any] = []
        start = 0
        for row in rows:
            if "kept" in row:
                found.append(self._kept[row["kept"]])
                continue
            end = start + row["shape"][0] * row["shape"][1]
            found.append(_radiograph(row["shape"], content[start:end]))
            start = end
        return found

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        options = SimpleNamespace(**request["table"])
        # From here on the model's own code may run: it sees its files, and no secret or network.
        os.environ["TMPDIR"] = tempfile.tempdir = request["private"]
        confine(
            # what its environment imports may lie anywhere: an editable install of the model's code
            read=[*(Path(entry) for entry in sys.path if entry), *_engine_files(options)],
            write=[Path(request["private"])],
            devices=request["device"] != "cpu",
        )
        try:
            engine = importlib.import_module(ENGINES[options.engine])
            model = engine.build(request["name"], options, request["device"])
            model.load()
        except ImportError as exc:
            raise ConfigurationError(
                f"models.{request['name']}.python: {sys.executable}: {exc}; it needs torch, "
                f"transformers, numpy, pillow and what the model's own code imports"
            ) from exc
        self._model = model
        # Started here: a thread is confined as the one that starts it.
        threading.Thread(target=self.answer_each, args=(self.preparing,), daemon=True).start()
        import torch
        import transformers

        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        return {
            "kind": "done",
            "environment": versions,
            "device": str(model.device),
            "dtype": str(model.dtype),
        }


def _radiograph(shape: list[int], content: bytes) -> SimpleNamespace:
    import numpy as np

    return SimpleNamespace(pixels=np.frombuffer(content, np.uint8).reshape(shape))
