"""The two rims behind which anything may be raised: code of others, and one of many blocks.

Everywhere else an `except` names the errors that it is for. These two catch the rest, because of
what lies behind them: a library or a model's own code that raises whatever it likes, or one request
of many whose failure must not end the thread that serves the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from dicom_node.base.errors import ChexFractError


@contextmanager
def foreign_code(
    as_error: Callable[[BaseException], BaseException],
    also: tuple[type[BaseException], ...] = (),
    passes: tuple[type[BaseException], ...] = (ChexFractError,),
) -> Iterator[None]:
    """Turn whatever code of others raises in a block into an error of this project.

    Parameters
    ----------
    as_error : callable
        Returns the error to raise in place of another; the same one lets it pass.
    also : tuple of exception classes
        What is caught beside `Exception`; a model's own code may try to end the process.
    passes : tuple of exception classes
        What passes as it is; every error of this project, unless it is said otherwise.
    """
    caught: tuple[type[BaseException], ...] = (Exception, *also)
    try:
        yield
    except passes:
        raise
    except caught as exc:
        error = as_error(exc)
        if error is exc:
            raise
        raise error from exc


class OneOfMany:
    """Keep a fault of a block from ending what goes on behind it.

    Parameters
    ----------
    note : callable
        Is given the fault, inside the handler, so that it can log where it came from. What the
        block should have made is missing then: `note` makes up for it. It does not keep the fault,
        whose traceback keeps everything that the block had in its hands.
    """

    def __init__(self, note: Callable[[Exception], object]) -> None:
        self._note = note

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Note what is not an order to end."""
        if not isinstance(exc, Exception):
            return False
        self._note(exc)
        return True
