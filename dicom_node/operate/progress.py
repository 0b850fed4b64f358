"""A bar on a terminal for work that takes a while; nothing where nobody watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield what takes how much of `total` is done; it is drawn on standard error."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    shown = Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
    with shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.update(task, completed=done)


_SAID_EACH_S = 30.0


@contextmanager
def wait(what: str) -> Iterator[Callable[[str], None]]:
    """Say what is waited for, as long as that takes; yield what takes how far it is.

    A terminal shows it all the time; elsewhere a line is written every half minute.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(what) as status:
            yield lambda how_far: status.update(f"{what}: {escape(how_far)}")
        return
    said = time.monotonic()

    def say(how_far: str) -> None:
        nonlocal said
        if time.monotonic() - said >= _SAID_EACH_S:
            said = time.monotonic()
            print(f"{what}: {how_far}", file=sys.stderr, flush=True)

    yield say
