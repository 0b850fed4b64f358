"""A schedule: a list of events that is drawn from a seed, and what becomes of it."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.base.errors import ChexFractError
from dicom_node.store.ledger import Ledger

from ..support.transitions import write_down
from . import images
from .answers import kept_answers
from .checks import check, ends
from .databases import Content, SimulatedDatabase, SimulatedLedger, SimulatedMemory
from .effects import chance
from .node import RULES, STATIONS
from .world import NODES, NOTHING, WORKERS, Touch, World, is_settled

if TYPE_CHECKING:
    from .locks import ServerLocks

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())

ACTS = ("retry", "retry-failed", "resend", "replay", "release", "settle", "adopt", "judge")
MODES = (
    "well",
    "strict",
    "warns",
    "refuses",
    "cannot",
    "silent",
    "slow",
    "lies",
    "breaks before",
    "breaks after",
)
FATES = ("lost", "unanswered", "doubled", "late")
JUMPS = (3.0, -3.0, 120.0, -120.0, 5000.0, -5000.0, 864_000.0, -864_000.0)
WAITS = (0.2, 2.0, 20.0, 61.0, 61.0, 700.0, 4000.0)


@dataclass(frozen=True)
class Event:
    """One thing that is let happen; numbers choose among what is there."""

    kind: str
    numbers: tuple[int, ...] = ()


USUAL = {
    "send": 24,
    "run": 36,
    "pass": 9,
    "set": 6,
    "crash": 8,
    "restart": 4,
    "network": 5,
    "broker": 4,
    "archive": 6,
    "disk": 2,
    "reload": 3,
    "act": 8,
}
STORM = USUAL | {"crash": 20, "restart": 14, "set": 12, "send": 40, "act": 16, "network": 10}
"""Shares of what happens; each fourth schedule is a storm, with twice as many poison pictures."""


LENGTHS: dict[float, int] = {1.0: 1}
"""How long schedules are, as a share of the longest ones, and how many of them."""


def length_of(seed: int) -> float:
    """Return the length of a schedule, which nothing else that is drawn depends on."""
    (length,) = random.Random(f"length {seed}").choices(list(LENGTHS), list(LENGTHS.values()))
    return length


def draw(seed: int, length: float | None = None) -> list[Event]:
    """Return the events of a schedule."""
    length = length_of(seed) if length is None else length
    drawn = random.Random(seed)
    weights = STORM if seed % 4 == 3 else USUAL
    kinds, shares = list(weights), list(weights.values())
    events = [Event("send", _numbers(drawn))]
    count = drawn.randint(5, 22) if weights is USUAL else drawn.randint(15, 40)
    for _ in range(max(2, round(length * count))):
        (kind,) = drawn.choices(kinds, shares)
        events.append(Event(kind, _numbers(drawn)))
    if drawn.random() < 0.06:
        events.insert(drawn.randrange(len(events)), Event("backup", _numbers(drawn)))
    if drawn.random() < 0.1:
        for _ in range(drawn.randint(1, 3)):
            events.insert(drawn.randrange(len(events) + 1), Event("power", _numbers(drawn)))
    often = (2, 4, 6, 8) if is_shared(seed) else (0, 0, 1, 2, 4)  # transactions are held, too
    for _ in range(round(length * drawn.choice(often))):
        place = drawn.randrange(len(events))
        events.insert(place, Event("weave", _numbers(drawn)))
        if drawn.random() < 0.5:  # the same image from two senders at a time
            a, b, c, d, e = _numbers(drawn)
            pair = [Event("send", (a, b, c, d, e)), Event("send", (a, b, c, d // 8, e // 6))]
            events[place + 1 : place + 1] = pair
    return events


def _numbers(drawn: random.Random) -> tuple[int, ...]:
    return tuple(drawn.randrange(1 << 16) for _ in range(5))


def database_of(seed: int) -> str:
    """Return where the ledgers of a schedule are."""
    return "postgresql" if Servers.url_of else "file" if seed % 16 == 0 else "memory"


def is_shared(seed: int) -> bool:
    """Return whether both nodes are on one ledger: only a server has several."""
    return database_of(seed) == "postgresql" and seed % 3 == 0


class Servers:
    """Where ledgers are that are not this process's own."""

    url_of: Callable[[str], str] | None = None
    """Returns the URL of the ledger of this name in PostgreSQL, where there is one."""
    locks: ServerLocks | None = None
    """Waits for its locks, in each process of the simulation."""


@cache
def databases(kind: str) -> list[SimulatedDatabase]:
    """Return the databases of this process's nodes; they are used again."""
    if kind == "memory":
        return [SimulatedMemory() for _ in NODES]
    if kind == "postgresql":
        assert Servers.url_of is not None
        places = [Servers.url_of(f"world{os.getpid()}_{n}") for n in range(len(NODES))]
        for place in places:
            ledger = Ledger(place)
            write_down(ledger)
            ledger.close()
        from .locks import ServerLocks

        Servers.locks = ServerLocks(places[0])
        Servers.locks.put_in_place()
        return [SimulatedDatabase(place) for place in places]
    folder = home() / str(os.getpid())
    folder.mkdir()
    return [SimulatedDatabase(f"sqlite:///{folder}/{name}.sqlite") for name in NODES]


@cache
def home() -> Path:
    """Return the folder of this run; processes that are forked later have theirs in it."""
    folder = Path(tempfile.mkdtemp(prefix="chexfract-simulated-", dir=MEMORY))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass
class Outcome:
    """What became of a schedule."""

    seed: int
    failure: tuple[str, str] | None
    story: list[str]
    effects: int


def play(events: Sequence[Event], seed: int) -> Outcome:
    """Let the events of a schedule happen, end all faults, and check what is left."""
    world: World | None = None
    folder = home() / f"{os.getpid()}-spools"
    try:
        place = database_of(seed)
        with chance(seed), kept_answers() if place == "memory" else nullcontext():
            world = World(databases(place), folder, seed, is_shared=is_shared(seed))
            world.is_storm = seed % 4 == 3
            if Servers.locks is not None:
                Servers.locks.effects = world.effects
            copies: list[Backup] = []
            for node in world.nodes.values():
                node.database.may_lose_power = any(event.kind == "power" for event in events)
            for event in events:
                if world.failure:
                    break
                happen(world, event, copies)
            if not world.failure:
                world.settle()
            if not world.failure:
                check(world)
            for copy in copies:
                copy.since = world.touches[copy.count :]
            ended = {name: ends(node) for name, node in world.sites.items()} if copies else {}
            for copy in copies:
                if not world.failure:
                    _restored_ends_the_same(world, copy, ended)
            return Outcome(seed, world.failure, world.story, world.effects.count)
    except Exception as exc:  # the rim of a schedule: its fault, or the simulation's, is its own
        story = [] if world is None else world.story
        at = traceback.extract_tb(exc.__traceback__)[-1]
        detail = f"{type(exc).__name__}: {exc} ({Path(at.filename).name}:{at.lineno})"
        return Outcome(seed, ("an unforeseen fault", detail), story, 0)
    finally:
        if world is not None:
            world.close()
        if Servers.locks is not None:
            Servers.locks.effects = None


@dataclass
class Backup:
    """A copy of a node's ledger and spool, and what has happened since."""

    site: str
    content: Content
    spool: dict[Path, bytes]
    rules: int
    underway: set[str]
    """Instances about which something was not done when it was taken."""
    count: int
    """What had happened before it."""
    since: list[Touch] = field(default_factory=list)
    """What has happened after it, in order."""


def happen(world: World, event: Event, copies: list[Backup]) -> None:
    """Let one event happen."""
    a, b, c, d, e = (*event.numbers, 0, 0, 0, 0, 0)[:5]
    node = world.nodes[NODES[a % 2]]
    match event.kind:
        case "run":
            world.run(1 + b % 8)
        case "send":
            number = (0, 0, 0, 1, 2, 2, 3, 4, 3, 1)[b % (10 if world.is_storm else 8)]
            variant = images.VARIANTS[(0, 0, 0, 0, 1, 2, 3, 0)[c % 8]]
            station = list(STATIONS)[(0, 1, 2, 0, 2, 3, 1, 2)[d % 8]]
            # mostly one node, sometimes the other: both make one report then
            home = world.nodes[NODES[(number + (a % 5 == 0)) % 2]]
            send = partial(world.send, home, images.image(number, variant), station)
            world.act(f"{station} to {home.name}", partial(send, e % 3, e // 3))
        case "pass":
            seconds = WAITS[b % len(WAITS)]
            world.clock.pass_by(seconds)
            world.say(f"{seconds:g} s pass")
        case "set":
            seconds = JUMPS[b % len(JUMPS)]
            world.clock.set_by(seconds)
            world.say(f"the clock is set by {seconds:+g} s")
        case "crash":
            name = world.process(b, d)
            world.effects.armed[name] = c % 9
            world.say(f"{name} will be killed {c % 9} effects from now")
        case "restart":
            world.restart()
        case "network":
            fate = FATES[b % len(FATES)]
            world.network += ["well"] * (c % 3) + [fate] * (1 + d % 3)
            world.say(f"requests will be {fate}")
        case "broker":
            what = ("refuses", "well", "forgets", "doubles", "reorders")[b % 5]
            world.say(f"the broker: {what}")
            world.broker.refuses = what == "refuses"
            world.broker.doubles = 2 if what == "doubles" else 0
            world.reorders = what == "reorders"
            if what == "forgets":
                world.broker.queue.clear()
        case "archive":
            archive = list(world.archives.values())[b % len(world.archives)]
            archive.mode = MODES[c % len(MODES)]
            world.say(f"{archive.name}: {archive.mode}")
        case "disk":
            node.is_full = b % 2 == 0
            world.say(f"the disk of {node.name} is {'full' if node.is_full else 'free'}")
        case "reload":
            world.say(f"{node.name} takes rules {b % len(RULES)}")
            world.reload(node, b % len(RULES))
        case "act":
            _act(world, event)
        case "weave":
            after = [n % 9 for n in (b, c, d)[: 1 + e % 3]]
            world.effects.holds += after
            world.say(f"acts will be held after {', '.join(map(str, after))} effects")
        case "power":
            is_lost = not world.is_shared and node.database.lose_power()
            for role in list(node.is_up):
                node.kill(role)
            world.effects.end(f"{node.name} command")
            what = "what was not synced is lost" if is_lost else "nothing is lost"
            world.say(f"the power of {node.name} is cut: {what}")
        case "backup" if not world.is_shared:
            spool = {
                path.relative_to(node.folder): path.read_bytes()
                for path in node.folder.rglob("*.dcm")
            }
            underway = {one.uid for one in world.underway if one.site == node.site}
            content, count = node.database.copy(), len(world.touches)
            copies.append(Backup(node.site, content, spool, node.rules, underway, count))
            world.say(f"a backup of {node.name} is taken")


def _act(world: World, event: Event) -> None:
    _, b, c, d, _ = (*event.numbers, 0, 0, 0, 0, 0)[:5]
    act, number = ACTS[b % len(ACTS)], c % images.IMAGES
    number = number if d % 2 else number % 2
    node, uid = world.nodes[NODES[number % 2]], images.uid_of(number)
    rules = node.rules
    touched = "" if act == "retry-failed" else uid
    world.touches.append(Touch(act, node.site, touched))

    def permit() -> None:
        key = (node.site, uid)
        if promise := world.promises.get(key) or world._maybe.get(key):
            if act == "release":
                promise.allowed |= promise.shadowed
            for station in STATIONS if act == "adopt" else ():
                promise.allow(world.destinations(rules, station, number))

    def operate() -> str:
        permit()
        with world.about(node, touched):
            answer = node.operate(act, uid, random.Random(d))
        permit()  # what came while it was held
        world.say(f"an operator at {node.name}: {act} image {number}: {answer}")
        return ""

    world.act(f"an operator at {node.name}", operate)


def _restored_ends_the_same(world: World, copy: Backup, ended: dict[str, Any]) -> None:
    """Put a backup back in place of its node, and let the world end once more."""
    name, node = copy.site, world.sites[copy.site]
    for path in node.folder.rglob("*.dcm"):
        path.unlink()
    for place, held in copy.spool.items():
        (node.folder / place).parent.mkdir(parents=True, exist_ok=True)
        (node.folder / place).write_bytes(held)
    node.database.fill(copy.content)
    node.database.commits += 1
    node.ledger.deliveries.doubt()  # as `restore` does
    node.ledger = node.process()  # of the process that ended for it
    for role in list(node.is_up):
        node.kill(role)
    node.rules = copy.rules
    world.broker.queue.clear()
    world.say(f"{name} is restored from its backup")
    known = {key for key in world.promises if key[0] == name}
    with node.database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT sop_instance_uid FROM instances")
        there = {(name, str(row[0])) for row in rows}
    for key in known - there:  # received after the backup: its sender has to send it again
        world._maybe[key] = world.promises.pop(key)
    for key in known & there:
        # what was promised after it may be lost
        world.promises[key].wanted = set()
    since = copy.since
    same = {uid for uid in ended[name] if _ends_the_same(world, name, uid, copy.underway, since)}
    world.restart()
    # who was first is so again, also where others had begun before: what goes to whom hangs on it
    for touch in sorted(since, key=lambda touch: not touch.is_first):
        if touch.uid in same and touch.again is not None:
            touch.again()
    world.settle()
    if not world.failure:
        check(world)
    after = ends(node) if not world.failure else {}
    for uid in same if after else ():
        if after.get(uid) != ended[name][uid]:
            differs = sorted(map(str, after.get(uid, frozenset()) ^ ended[name][uid]))
            world.fail("a restored node ends otherwise", f"{name} {uid}: {differs}")


def _ends_the_same(
    world: World, site: str, uid: str, underway: set[str], since: Sequence[Touch]
) -> bool:
    """Return whether an Instance has to end as it did when its senders send it again.

    Not by design: what an operator has done since the backup, for it depends on what had happened
    by then; what is of several patients, or has other pixels, for the first that comes counts; and
    what is compared later, by the rules of then, if others came into force. What was being received
    when the backup was taken may be in it or not.
    """
    promises = [p for found in (world.promises, world._maybe) for p in _of(found, uid)]
    if uid in underway or any({"corrected", "other"} & p.variants for p in promises):
        return False
    is_compared = any("recoded" in p.variants for p in promises)
    may_fail = images.number_of(uid) == images.POISON  # so that an act on all is one on it
    if may_fail and "" in underway:
        return False
    for touch in since:
        if touch.site != site or touch.what == NOTHING:
            continue
        if (touch.what == "reload" and is_compared) or (touch.what == "retry-failed" and may_fail):
            return False
        if touch.uid == uid and (touch.again is None or is_compared):
            return False
    return True


def _of(found: dict[tuple[str, str], Any], uid: str) -> list[Any]:
    return [promise for (_, one), promise in found.items() if one == uid]


def simulate(seed: int, length: float | None = None) -> Outcome:
    """Draw and play one schedule."""
    return play(draw(seed, length), seed)


def shrink(events: Sequence[Event], seed: int, what: str, tries: int = 400) -> list[Event]:
    """Return the shortest list of these events that fails in the same way."""
    left, size = list(events), max(1, len(events) // 2)
    while size and tries > 0:
        i = 0
        is_smaller = False
        while i < len(left) and tries > 0:
            candidate = left[:i] + left[i + size :]
            tries -= 1
            outcome = play(candidate, seed)
            if outcome.failure and outcome.failure[0] == what:
                left, is_smaller = candidate, True
            else:
                i += size
        if not is_smaller or size > 1:
            size //= 2
    return left


__all__ = ["ACTS", "WORKERS", "ChexFractError", "Event", "Outcome", "SimulatedLedger"]
__all__ += ["draw", "is_settled", "play", "shrink", "simulate"]
