"""Steps that a process has done in another one: what they import does not stay with it for good."""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from dicom_node.base.errors import ChexFractError, Unreachable
from dicom_node.base.rims import OneOfMany

_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let Linux ask this process to end when the one that started it has ended."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)


class StepsApart:
    """Does some steps in a forked process, each when it is asked for.

    Only for a process that has no other threads: these would not be there in the fork, whatever
    they hold locked.

    Parameters
    ----------
    steps : callables
        What they raise is raised by `do_next`.
    """

    def __init__(self, *steps: Callable[[], None]) -> None:
        self._steps = steps
        self._pid = 0

    def __enter__(self) -> Self:
        asked, asking = os.pipe()
        answered, answering = os.pipe()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # not before the child is where it cannot leave: a signal may come with its first line
        held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        try:
            self._pid = os.fork()
            if self._pid == 0:
                # whatever ends it, a Ctrl-C between two steps as well: what the parent has still to
                # do on its way out is not done here a second time
                try:
                    signal.signal(signal.SIGTERM, signal.SIG_DFL)
                    signal.pthread_sigmask(signal.SIG_SETMASK, held)
                    os.close(asking)
                    os.close(answered)
                    end_with_parent()
                    if os.getppid() == parent:
                        self._do_steps(asked, os.fdopen(answering, "wb"))
                finally:
                    os._exit(0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        os.close(asked)
        os.close(answering)
        self._asking, self._answers = asking, os.fdopen(answered, "rb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._asking)
        self._answers.close()
        # it waits for the next step, or nobody waits for what it does
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)

    def do_next(self) -> None:
        """Return when the next step is done; raise what it raised.

        Raises
        ------
        Unreachable
            Its process was ended from outside.
        """
        try:
            os.write(self._asking, b".")
            # of this very program, through a pipe that nobody else can open
            fault = pickle.load(self._answers)  # noqa: S301
        except (EOFError, BrokenPipeError) as exc:
            raise Unreachable("the process that prepares the node was ended; try again") from exc
        if fault is not None:
            raise fault

    def _do_steps(self, asked: int, answers: IO[bytes]) -> None:
        for step in self._steps:
            if not os.read(asked, 1):
                return
            faults: list[BaseException] = []
            try:
                with OneOfMany(lambda exc: faults.append(exc)):  # noqa: B023 - called in this turn
                    step()
            except KeyboardInterrupt as exc:  # a Ctrl-C goes to both
                faults.append(exc)
            pickle.dump(_plain(faults[0]) if faults else None, answers)
            answers.flush()


_FORESEEN = (ChexFractError, OSError, UnicodeDecodeError, KeyboardInterrupt)


def _plain(fault: BaseException) -> BaseException:
    """Return a fault as it can be handed on: without what it was raised from.

    A defect says where it is, which the parent could not find out any more.
    """
    if not isinstance(fault, _FORESEEN):
        if "CHEXFRACT_TRACEBACK" in os.environ:
            traceback.print_exception(fault)
        *_, frame = traceback.extract_tb(fault.__traceback__)
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        return RuntimeError(f"{type(fault).__name__} at {place}: {fault}")
    fault.__cause__ = fault.__context__ = fault.__traceback__ = None
    try:
        pickle.loads(pickle.dumps(fault))  # noqa: S301 - made here
    except (pickle.PickleError, TypeError, AttributeError):
        return RuntimeError(f"{type(fault).__name__}: {fault}")
    return fault
