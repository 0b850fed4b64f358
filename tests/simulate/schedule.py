"""A schedule: a list of events that is drawn from a seed, and what becomes of it."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dicom_node.base.errors import ChexFractError

from . import images
from .checks import check, ends
from .effects import SimulatedDatabase, SimulatedLedger, chance
from .node import RULES, STATIONS
from .world import NODES, WORKERS, World, is_settled

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


def draw(seed: int) -> list[Event]:
    """Return the events of a schedule."""
    drawn = random.Random(seed)
    weights = STORM if seed % 4 == 3 else USUAL
    kinds, shares = list(weights), list(weights.values())
    events = [Event("send", _numbers(drawn))]
    for _ in range(drawn.randint(5, 22) if weights is USUAL else drawn.randint(15, 40)):
        (kind,) = drawn.choices(kinds, shares)
        events.append(Event(kind, _numbers(drawn)))
    if drawn.random() < 0.06:
        events.insert(drawn.randrange(len(events)), Event("backup", _numbers(drawn)))
    if drawn.random() < 0.1:
        for _ in range(drawn.randint(1, 3)):
            events.insert(drawn.randrange(len(events) + 1), Event("power", _numbers(drawn)))
    return events


def _numbers(drawn: random.Random) -> tuple[int, ...]:
    return tuple(drawn.randrange(1 << 16) for _ in range(5))


@cache
def databases(is_file: bool) -> list[SimulatedDatabase]:
    """Return the databases of this process's nodes; they are used again."""
    if not is_file:
        return [SimulatedDatabase(None) for _ in NODES]
    folder = Path(tempfile.mkdtemp(prefix="chexfract-simulated-", dir=MEMORY))
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [SimulatedDatabase(folder / f"{name}.sqlite") for name in NODES]


@dataclass
class Outcome:
    """What became of a schedule."""

    seed: int
    failure: tuple[str, str] | None
    story: list[str]
    effects: int


def play(events: Sequence[Event], seed: int) -> Outcome:
    """Let the events of a schedule happen, end all faults, and check what is left."""
    is_file = seed % 8 == 0
    folder = Path(tempfile.mkdtemp(prefix="chexfract-schedule-", dir=MEMORY))
    try:
        with chance(seed):
            world = World(databases(is_file), folder, seed)
            world.is_storm = seed % 4 == 3
            copies: list[Any] = []
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
            ended = {name: ends(node) for name, node in world.nodes.items()} if copies else {}
            for copy in copies:
                if not world.failure:
                    _restored_ends_the_same(world, copy, ended)
            return Outcome(seed, world.failure, world.story, world.effects.count)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def happen(world: World, event: Event, copies: list[Any]) -> None:
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
            world.send(home, images.image(number, variant), station, e % 3)
        case "pass":
            seconds = WAITS[b % len(WAITS)]
            world.clock.pass_by(seconds)
            world.say(f"{seconds:g} s pass")
        case "set":
            seconds = JUMPS[b % len(JUMPS)]
            world.clock.set_by(seconds)
            world.say(f"the clock is set by {seconds:+g} s")
        case "crash":
            processes = world.processes()
            name = processes[b % len(processes)]
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
            _act(world, node, event)
        case "power":
            is_lost = node.database.lose_power()
            for role in list(node.is_up):
                node.kill(role)
            what = "what was not synced is lost" if is_lost else "nothing is lost"
            world.say(f"the power of {node.name} is cut: {what}")
        case "backup":
            spool = {
                path.relative_to(node.folder): path.read_bytes()
                for path in node.folder.rglob("*.dcm")
            }
            copies.append((node.name, node.database.copy(), spool, node.rules, len(world.touches)))
            world.say(f"a backup of {node.name} is taken")


def _act(world: World, node: Any, event: Event) -> None:
    _, b, c, d, _ = (*event.numbers, 0, 0, 0, 0, 0)[:5]
    act, number = ACTS[b % len(ACTS)], c % images.IMAGES
    number = number if d % 2 else number % 2
    node, uid = world.nodes[NODES[number % 2]], images.uid_of(number)
    key = (node.name, uid)
    if promise := world.promises.get(key) or world._maybe.get(key):
        if act == "release":
            promise.allowed |= promise.shadowed
        for station in STATIONS if act == "adopt" else ():
            promise.allow(world.destinations(node, station, number))
    world.touches.append((node.name, "" if act == "retry-failed" else uid))
    answer = node.operate(act, uid, random.Random(d))
    world.say(f"an operator at {node.name}: {act} image {number}: {answer}")


def _restored_ends_the_same(world: World, copy: Any, ended: dict[str, Any]) -> None:
    """Put a backup back in place of its node, and let the world end once more."""
    name, content, spool, rules, touched = copy
    node = world.nodes[name]
    for path in node.folder.rglob("*.dcm"):
        path.unlink()
    for place, held in spool.items():
        (node.folder / place).parent.mkdir(parents=True, exist_ok=True)
        (node.folder / place).write_bytes(held)
    node.database.fill(content)
    node.database.commits += 1
    node.ledger.deliveries.doubt()  # as `restore` does
    node.ledger.jobs._makers._known.clear()  # of the process that ended for it
    for role in list(node.is_up):
        node.kill(role)
    node.rules = rules
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
    since = world.touches[touched:]
    world.settle()
    if not world.failure:
        check(world)
    for uid, end in ends(node).items() if not world.failure else ():
        # what came to it after the backup is lost with it; the other node may have come first
        nodes = {at for at, one in world.touches if one == uid}
        if (name, uid) in since or (name, "") in since or len(nodes) > 1:
            continue
        if end != ended[name][uid]:
            differs = sorted(map(str, end ^ ended[name][uid]))
            world.fail("a restored node ends otherwise", f"{name} {uid}: {differs}")


def simulate(seed: int) -> Outcome:
    """Draw and play one schedule."""
    return play(draw(seed), seed)


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
