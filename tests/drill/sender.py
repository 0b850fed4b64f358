"""Modalities: DCMTK programs that send each Instance until they have seen Success, or give up."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from ..support.peers import need
from . import pictures
from .pictures import Picture

TRIES = 3
MODALITIES = 2
_RESPONSE = re.compile(r"I: (?:Sending file: (.*)|Received Store Response \((.*)\))")


@dataclass(slots=True)
class Sent:
    """What the modalities know."""

    acknowledged: dict[str, float] = field(default_factory=dict)
    """SOP Instance UID and when Success was seen."""
    given_up: set[str] = field(default_factory=set)
    conflicts: int = 0
    answers: Counter[str] = field(default_factory=Counter)


class Sender:
    """Sends groups of pictures over two associations at a time, as far as it is allowed to.

    One group in eight is sent three times, one in eight over two associations at once, and of one
    in twenty the first Instance comes a second time with other bytes.
    """

    def __init__(
        self,
        port: int,
        content: Sequence[Picture],
        group: int,
        rng: Random,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        enter: Callable[[Sequence[str]], list[str]] = list,
        tries: int = TRIES,
    ) -> None:
        self.sent = Sent()
        self._port = port
        self._host = host
        self._enter = enter
        """Makes a command line one that runs on the modality's host."""
        self._tries = tries
        self._groups = [content[i : i + group] for i in range(0, len(content), group)]
        self._group = group
        self._plans = [(rng.randrange(8), rng.randrange(20), rng.random()) for _ in self._groups]
        self._next = 0
        self._ends = False
        self._allowed = 0
        self._lock = threading.Condition()
        self._folder = folder
        self._threads = [
            threading.Thread(target=self._run, name=f"modality-{i}", daemon=True)
            for i in range(MODALITIES)
        ]

    @property
    def done(self) -> int:
        """Instances acknowledged or given up."""
        return len(self.sent.acknowledged) + len(self.sent.given_up)

    @property
    def begun(self) -> int:
        """Instances whose group was begun with, in their order."""
        return min(self._next, len(self._groups)) * self._group

    def end(self) -> None:
        """Let the modalities begin with nothing more."""
        with self._lock:
            self._ends = True
            self._lock.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether everything was sent or given up."""
        return not any(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Let the modalities begin."""
        for thread in self._threads:
            thread.start()

    def allow(self, count: int) -> None:
        """Let the modalities send the first `count` Instances."""
        with self._lock:
            self._allowed = max(self._allowed, count)
            self._lock.notify_all()

    def send_again(self, again: Sequence[Picture]) -> None:
        """Send these over one association once more, whatever becomes of it."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            files = [str(Path(folder) / f"{i}.dcm") for i in range(len(again))]
            for picture, file in zip(again, files, strict=True):
                pictures.write(picture, Path(file))
            self._associate("storescu", files, folder)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(self._may_begin)
                if self._ends or self._next >= len(self._groups):
                    return
                number, self._next = self._next, self._next + 1
            self._send_group(number)

    def _may_begin(self) -> bool:
        at = self._next * self._group
        return self._ends or self._next >= len(self._groups) or at < self._allowed

    def _send_group(self, number: int) -> None:
        group, (how, again, kind) = self._groups[number], self._plans[number]
        program = "storescu" if kind < 0.7 else "dcmsend"
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            files = {}
            for i, picture in enumerate(group):
                files[str(Path(folder) / f"{i}.dcm")] = picture
                pictures.write(picture, Path(folder) / f"{i}.dcm")
            for attempt in range(self._tries):
                todo = [f for f, p in files.items() if p.uid not in self.sent.acknowledged]
                if how == 0:
                    todo = list(files)
                if not todo:
                    break
                self._associations(program, todo, files, 2 if how == 1 else 1, folder)
                if any(p.uid not in self.sent.acknowledged for p in group):
                    time.sleep(min(1.0 + attempt, TRIES))
            missing = {p.uid for p in group if p.uid not in self.sent.acknowledged}
            with self._lock:
                self.sent.given_up |= missing
            if again == 0 and group[0].uid not in missing:
                self._send_other_bytes(group[0], folder)

    def _send_other_bytes(self, picture: Picture, folder: str) -> None:
        path = Path(folder) / "other.dcm"
        pictures.write(picture, path, other_bytes=True)
        self.sent.conflicts += self._associate("storescu", [str(path)], folder)[1] == {str(path)}

    def _associations(
        self, program: str, todo: list[str], files: dict[str, Picture], count: int, folder: str
    ) -> None:
        def send_all() -> None:
            at, taken = self._associate(program, todo, folder)
            with self._lock:
                for file in taken:
                    self.sent.acknowledged.setdefault(files[file].uid, at)

        threads = [threading.Thread(target=send_all) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _associate(self, program: str, files: list[str], folder: str) -> tuple[float, set[str]]:
        """Send over one association; return when it ended and which files had Success."""
        report = Path(folder) / f"{threading.get_ident()}.txt"
        command = [need(program), "-v", "-nh", "-aet", "DRILL", "-aec", "CHEXFRACT"]
        command += ["-ta", "5", "-td", "20", "-to", "5"]
        command += ["-xr"] if program == "storescu" else ["-dn", "+crf", str(report)]
        command += [self._host, str(self._port), *files]
        try:
            done = subprocess.run(
                self._enter(command),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=90,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        except subprocess.TimeoutExpired:
            self.sent.answers["no end"] += 1
            return time.time(), set()
        if program == "dcmsend":
            text = report.read_text() if report.exists() else ""
            report.unlink(missing_ok=True)
            found = re.findall(r"Filename +: (.*)\n(?:.+\n)*?DIMSE Status +: (.*)", text)
        else:
            found = list(responses(done.stdout.splitlines()))
        for _, status in found:
            self.sent.answers[status] += 1
        if not found:
            self.sent.answers["no association"] += 1
        return time.time(), {file for file, status in found if status.endswith("(Success)")}


def responses(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each file that storescu sent with the status that it printed."""
    file = ""
    for line in lines:
        match = _RESPONSE.search(line)
        if match is None:
            continue
        if match[1] is not None:
            file = match[1]
        elif file:
            yield file, f"({match[2]})"
            file = ""
