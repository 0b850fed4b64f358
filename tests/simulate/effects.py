"""Where the world touches the code: time, commits, files; what is killed or held between them."""

from __future__ import annotations

import os
import random
import time
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

from greenlet import getcurrent, greenlet

from dicom_node.base.errors import ChexFractError, OutOfResources
from dicom_node.store import retention
from dicom_node.store.spool import Incoming, Spool

from ..support.clocks import FakeClock

START = 1_800_000_000.0

__all__ = ["Act", "Crashed", "Effects", "FakeClock", "Gone", "SharedTurn", "SimulatedSpool"]
__all__ += ["chance", "start_clock"]


class Crashed(BaseException):
    """The process that was at work is killed; nothing of it gets any further."""


class Gone(Crashed):
    """The process was killed while this act of it was held; it may have started again since."""


def start_clock() -> FakeClock:
    """Return a clock at the time at which each schedule begins."""
    return FakeClock(START)


class Turn(Protocol):
    """Something that one act has at a time."""

    @property
    def is_free(self) -> bool:
        """Return whether nobody has it."""


class Act:
    """Something that a process does, which may be held between two effects while others act."""

    def __init__(self, name: str, do: Callable[[], str]) -> None:
        self.name = name
        self.process = ""
        """Whose it is, while it is held."""
        self.is_open = False
        """Whether it is held within a transaction."""
        self.lock: Turn | None = None
        """Whose turn it waits for."""
        self._own = greenlet(do)

    @property
    def may_go_on(self) -> bool:
        """Return whether it waits for nobody."""
        return self.lock is None or self.lock.is_free

    def go_on(self) -> str | None:
        """Let it act until it is held or done; return what became of it, None when held."""
        outcome = self._own.switch()
        return str(outcome) if self._own.dead else None

    def drop(self) -> None:
        """End it where it is held: a schedule that failed leaves nothing to the next one."""
        self._own.parent = getcurrent()
        with suppress(Crashed, ChexFractError):
            self._own.throw(Gone)


class Deed(NamedTuple):
    """Something that can happen."""

    name: str
    do: Callable[[], str]
    is_loop: bool = False
    """Whether it is a turn of a node's loop: where a node waits for nothing it need not turn."""
    held: Act | None = None


class Effects:
    """Counts what processes do to the world, and kills or holds one between two of its effects."""

    def __init__(self) -> None:
        self.running = ""
        self.armed: dict[str, int] = {}
        self.count = 0
        self.holds: deque[int] = deque()
        """After how many effects the next acts are held, one after the other."""
        self.held: list[Act] = []
        self.act: Act | None = None
        self._lives: dict[str, int] = {}
        self._life = 0
        self._undivided = 0
        self._open = 0
        """Transactions that the act which is running has begun, and in which it may be held."""
        self._hub = getcurrent()

    def hit(self) -> None:
        """Be between two effects of the process that is running."""
        self.count += 1
        if self._lives.get(self.running, 0) != self._life:
            raise Gone(self.running)
        left = self.armed.get(self.running)
        if left is not None:
            if left <= 0:
                del self.armed[self.running]
                self._lives[self.running] = self._life + 1
                raise Crashed(self.running)
            self.armed[self.running] = left - 1
        if self.holds:
            self.pause()

    @property
    def is_killed(self) -> bool:
        """Return whether what is running belongs to a process that was killed."""
        return self._lives.get(self.running, 0) != self._life

    def pause(self) -> None:
        """Hold the act that is running here, if it is to be held here."""
        if not self.holds or self.act is None or self._undivided:
            return
        if self.is_killed:
            return  # it only rolls back
        self.holds[0] -= 1
        if self.holds[0] < 0:
            self.holds.popleft()
            self.wait(None)

    def wait(self, lock: Turn | None) -> None:
        """Let others act, until this act goes on."""
        act, running, life, is_open = self.act, self.running, self._life, self._open
        assert act is not None
        act.lock, act.process, act.is_open = lock, running, bool(is_open)
        self._open = 0
        try:
            self._hub.switch()
        finally:
            act.lock = None
            self.act, self.running, self._life, self._open = act, running, life, is_open
        if self._lives.get(running, 0) != life:
            raise Gone(running)

    def begin(self, name: str, do: Callable[[], str]) -> str:
        """Let a process act; it may be held on the way."""
        if not self.holds and not self.held:
            return do()
        return self.go_on(Act(name, do))

    def go_on(self, act: Act) -> str:
        """Let an act go on that was held, or has not begun."""
        if act in self.held:
            self.held.remove(act)
        with self._aside():
            self.act = act
            outcome = act.go_on()
        if outcome is None:
            self.held.append(act)
            return "is held"
        return outcome

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Let another act run for a while."""
        kept = self.act, self.running, self._life, self._open
        self._open = 0
        try:
            yield
        finally:
            self.act, self.running, self._life, self._open = kept

    def end(self, name: str) -> None:
        """Note that a process is killed: what it was about ends where it is held.

        A transaction that it has open is over at once, and the others' waits for its locks.
        """
        self._lives[name] = self._lives.get(name, 0) + 1
        for act in [act for act in self.held if act.is_open and act.process == name]:
            self.held.remove(act)
            with self._aside():
                act.drop()

    def drop(self) -> None:
        """Let nothing of what is held happen any more."""
        self.holds.clear()
        while self.held:
            self.held.pop().drop()

    def process(self, name: str) -> _Running:
        """Let this process run."""
        return _Running(self, name)

    def transaction(self, *, may_be_held: bool) -> _Within:
        """Be within a transaction; with SQLite others would wait for its end, so none is held."""
        return _Within(self, may_be_held)


class _Running:
    """While a process runs; no generator, which takes longer than what most of them do."""

    __slots__ = ("_before", "_effects", "_name")

    def __init__(self, effects: Effects, name: str) -> None:
        self._effects, self._name = effects, name

    def __enter__(self) -> None:
        effects = self._effects
        self._before = effects.running, effects._life
        effects.running, effects._life = self._name, effects._lives.get(self._name, 0)

    def __exit__(self, *_: object) -> None:
        self._effects.running, self._effects._life = self._before


class _Within:
    """While the act that runs is in a transaction."""

    __slots__ = ("_effects", "_may_be_held")

    def __init__(self, effects: Effects, may_be_held: bool) -> None:
        self._effects, self._may_be_held = effects, may_be_held

    def __enter__(self) -> None:
        if self._may_be_held:
            self._effects._open += 1
        else:
            self._effects._undivided += 1

    def __exit__(self, *_: object) -> None:
        if self._may_be_held:
            self._effects._open -= 1
        else:
            self._effects._undivided -= 1


class SharedTurn:
    """A lock among the acts of one process, in place of `threading.Lock`."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.is_free = True

    def __enter__(self) -> None:
        while not self.is_free:
            self._database.effects.wait(self)
        self.is_free = False

    def __exit__(self, *_: object) -> None:
        self.is_free = True


class SimulatedSpool(Spool):
    """A spool on a disk that may be full, in a process that may be killed."""

    def __init__(self, root: Path) -> None:
        self.effects = Effects()
        self.is_full: Callable[[], bool] = lambda: False
        super().__init__(root)
        self._paths: dict[str, Path] = {}
        """Of each file that was ever looked for: walking through the folders takes longer."""
        self.begun: dict[str, float] = {}
        """When each file that is received was begun, by the clock of the world."""

    @classmethod
    @cache
    def at(cls, root: Path) -> SimulatedSpool:
        """Return the spool in a folder: a schedule makes few files, and folders take longer."""
        return cls(root)

    def empty(self, clock: FakeClock, effects: Effects, is_full: Callable[[], bool]) -> None:
        """Be a new spool."""
        self._clock, self.effects, self.is_full = clock, effects, is_full
        for path in (*self._paths.values(), *(self.root / "incoming").iterdir()):
            path.unlink(missing_ok=True)
        self._paths.clear()
        self.begun.clear()

    def sweep(self, older_than_s: float) -> int:
        """Remove what a killed process left; what others receive meanwhile is young."""
        for path, at in self.begun.items():
            with suppress(FileNotFoundError):
                os.utime(path, (at, at))
        return super().sweep(older_than_s)

    def has_room(self, size: int = 0) -> bool:
        """Return whether the disk has room."""
        return not self.is_full()

    def writing(self) -> Incoming:
        """Return a new file."""
        if self.is_full():
            raise OutOfResources("spool: the disk is full")
        return _Incoming(self)

    def write_report(
        self, job: str, token: str, part: str, content: bytes, recording: ExitStack | None = None
    ) -> str:
        """Keep an object of a result."""
        if self.is_full():
            raise OutOfResources("spool: the disk is full")
        self.effects.hit()
        name = super().write_report(job, token, part, content, recording)
        self.date(name)
        self.effects.hit()
        return name

    def path(self, name: str) -> Path:
        """Return where a file is; much may happen before it is opened."""
        if self.effects.act is not None:
            self.effects.pause()
        found = self._paths.get(name)
        if found is None:
            found = self._paths[name] = super().path(name)
        return found

    def date(self, name: str) -> None:
        """Let a new file be as old as it is by the clock of the world."""
        now = self._clock.wall()
        os.utime(self._paths[name], (now, now))

    def remove(self, name: str) -> None:
        """Remove a file."""
        self.effects.hit()
        super().remove(name)


class _Incoming(Incoming):
    _spool: SimulatedSpool

    def __init__(self, spool: SimulatedSpool) -> None:
        super().__init__(spool)
        spool.begun[self._path] = spool._clock.wall()

    def place(self, name: str) -> None:
        self._spool.effects.hit()
        super().place(name)
        self._spool.date(name)
        self._spool.effects.hit()


@contextmanager
def chance(seed: int) -> Iterator[None]:
    """Let the product's tokens and transaction UIDs come from a seed, and nothing sleep."""
    import secrets
    import uuid

    drawn = random.Random(seed)
    kept = secrets.token_hex, secrets.token_urlsafe, uuid.uuid4

    def draw_bytes(number: int) -> bytes:
        return drawn.getrandbits(8 * number).to_bytes(number)

    retention.time = SimpleNamespace(sleep=lambda _: None)  # type: ignore[assignment]
    secrets.token_hex = lambda n=32: draw_bytes(n or 32).hex()  # type: ignore[assignment]
    secrets.token_urlsafe = lambda n=32: urlsafe_b64encode(draw_bytes(n or 32)).decode().rstrip("=")  # type: ignore[assignment]
    uuid.uuid4 = lambda: uuid.UUID(int=drawn.getrandbits(128), version=4)  # type: ignore[assignment]
    try:
        yield
    finally:
        secrets.token_hex, secrets.token_urlsafe, uuid.uuid4 = kept
        retention.time = time
