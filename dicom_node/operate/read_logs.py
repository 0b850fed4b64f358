"""Prints what the processes of a node logged, in the order of time: all, or of one image."""

from __future__ import annotations

import heapq
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from dicom_node.base.errors import NotFound
from dicom_node.base.local_time import local_time

LOOK_S = 0.3
"""Time between two looks for further lines."""

_LEVELS = ("debug", "info", "warning", "error", "critical")
_HEAD = frozenset({"time", "level", "logger", "message", "role", "exception"})


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of one process."""

    time: str
    role: str
    content: dict[str, Any] = field(compare=False)

    @property
    def level(self) -> int:
        """Place of its level among all levels."""
        level = self.content.get("level")
        return _LEVELS.index(level) if level in _LEVELS else 1

    def concerns(self, ident: str) -> bool:
        """Return whether the line names an identifier, in its text or among its keys."""
        return any(ident in str(value) for value in self.content.values())

    def readable(self) -> str:
        """Return the line as people read it; control characters cannot forge a second line."""
        moment = local_time(datetime.fromisoformat(self.time).timestamp())
        more = {key: value for key, value in self.content.items() if key not in _HEAD}
        text = f"{self.content.get('message', '')}"
        text += "".join(f" {key}={value}" for key, value in more.items())
        line = f"{moment:%Y-%m-%d %H:%M:%S} {self.content.get('level', ''):7} {self.role:8} {text}"
        return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)


def print_logs(
    folder: Path, ident: str, *, limit: int, level: str, follow: bool, as_json: bool
) -> None:
    """Print the last lines, and with `follow` those that come.

    Parameters
    ----------
    folder : Path
        Where `serve` keeps the lines.
    ident : str
        A UID, job or peer that lines must name; empty for all.
    limit : int
        Lines of the past.
    level : str
        The lowest level that is shown.

    Raises
    ------
    NotFound
        No node has run here.
    """
    if not folder.is_dir():
        raise NotFound(f"{folder}: no logs here; `chexfract-node serve` writes them")
    least = _LEVELS.index(level)

    def wanted(line: LogLine) -> bool:
        return line.level >= least and (not ident or line.concerns(ident))

    def show(line: LogLine) -> None:
        print(json.dumps(line.content, ensure_ascii=False) if as_json else line.readable())

    tails = {path: _Tail(path) for path in sorted(folder.glob("*.jsonl"))}
    try:
        past = [[*_older_lines(path), *tail.read()] for path, tail in tails.items()]
        for line in deque(filter(wanted, heapq.merge(*past, key=lambda line: line.time)), limit):
            show(line)
        while follow:
            sys.stdout.flush()
            time.sleep(LOOK_S)
            for path in folder.glob("*.jsonl"):
                tails.setdefault(path, _Tail(path))
            come = [list(tail.read()) for tail in tails.values()]
            for line in filter(wanted, heapq.merge(*come, key=lambda line: line.time)):
                show(line)
    finally:
        for tail in tails.values():
            tail.close()


class _Tail:
    """Reads what was added to a file since the last look, also when it was put aside."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIOWrapper | None = None
        self._half = ""

    def read(self) -> Iterator[LogLine]:
        """Yield every whole line that was not read before."""
        yield from self._new_lines()
        if not self._is_current():
            yield from self._new_lines()  # what came before it was put aside
            self.close()
            try:
                self._file = self._path.open(encoding="utf-8", errors="replace")
            except OSError:
                return
            yield from self._new_lines()

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
        self._file, self._half = None, ""

    def _is_current(self) -> bool:
        try:
            return self._file is not None and os.path.samestat(
                self._path.stat(), os.fstat(self._file.fileno())
            )
        except FileNotFoundError:
            return False

    def _new_lines(self) -> Iterator[LogLine]:
        if self._file is None:
            return
        for text in self._file:
            text, self._half = self._half + text, ""
            if not text.endswith("\n"):  # the writer is in the middle of it
                self._half = text
                return
            yield from _read_line(text, self._path)


def _older_lines(path: Path) -> Iterator[LogLine]:
    """Yield the lines of the files that were put aside, oldest first."""
    aside = sorted(path.parent.glob(f"{path.name}.*"), key=lambda old: -_file_number(old))
    for old in aside:
        with old.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                yield from _read_line(text, path)


def _file_number(path: Path) -> int:
    last = path.name.rpartition(".")[2]
    return int(last) if last.isdigit() else 0


def _read_line(text: str, path: Path) -> Iterator[LogLine]:
    try:
        content = json.loads(text)
        datetime.fromisoformat(content["time"])
    except (ValueError, KeyError, TypeError):
        return  # half a line of a process that was killed
    yield LogLine(content["time"], path.name.partition(".")[0], content)
