"""``python -m tests.drill --faults N --instances M --seed S``: a storm, and the count after it."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from ..support.peers import NotPossible, need, where_possible
from . import count as counting
from . import processes
from .faults import FAULTS, Fault, Storm
from .pictures import Picture, picture
from .sender import Sender
from .storm import Lightning
from .storm import storm as lightning
from .world import Choice, World

SHORT = (
    ("listener killed",),
    ("courier killed",),
    ("web killed",),
    ("worker killed",),
    ("worker stopped past its lease",),
    ("broker killed", "broker stopped", "broker shut down"),
    ("broker flushed",),
    ("archive killed", "archive stopped", "archive slow"),
    ("archive warns", "archive refuses associations", "archive out of resources"),
    ("disk full", "clock jumps", "serve killed"),
    ("database killed", "database stopped"),
)
"""The kinds of the short form, which take turns; the last only where the ledger has a server."""

RECOVERY_S = 60.0
GIVE_UP_S = 240.0
"""Longest wait at the end in which nothing is settled any more."""

DRAIN_S = 30.0
"""Longest wait for the backlog before the next fault strikes all the same."""

LAST = 20
"""Faults of a storm with a pace that strike when its backlog is done: they show the recovery."""

STORM_GAP = 5.0
"""Mean seconds between two kills of a storm, times ``--gap``: `serve` takes some to start."""

QUIET_S = 2.0
"""Nothing was open for so long: it is over."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the drill; 0 when nothing was lost, doubled or left without a reason."""
    options = _options().parse_args(arguments)
    unknown = set(options.only) - {kind.name for kind in FAULTS}
    if unknown:
        print(f"no such fault: {', '.join(unknown)}", file=sys.stderr)
        return 2
    # `timeout` ends a drill so: what it has mounted and started is cleaned up all the same
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    def storm() -> int:
        result = drill(options)
        print(table(result), file=sys.stderr)
        print(json.dumps(result))
        return 0 if result["passed"] else 1

    return where_possible("drill", storm)


def _needed(options: argparse.Namespace) -> list[str]:
    """Return the programs that this storm starts."""
    broker = ["redis-server"] if options.broker == "redis" else []
    return ["storescu", *broker, *(["psql"] if options.database == "postgresql" else [])]


def drill(options: argparse.Namespace) -> dict[str, Any]:
    """Run the storm that was asked for and return its figures."""
    for program in _needed(options):  # before anything is made that would have to be removed
        need(program)
    rng = Random(options.seed)
    if options.poison is None:
        # each takes a worker for all its attempts: in a storm the others would wait for that alone
        options.poison = 0 if options.storm else 2
    if options.storm:
        options.instances = max(1, int(options.storm * options.rate))
    folder = Path(tempfile.mkdtemp(prefix="drill-", dir=options.folder))
    disk_mb = 128 + options.instances // 40
    choice = Choice(
        folder / "world",
        options.broker,
        options.model,
        options.broken,
        options.seconds,
        disk_mb,
        12.0 if options.poison else 60.0,
        options.database,
    )
    world = World(choice)
    pictures = _pictures(options.instances, rng, options.poison)
    started = time.monotonic()
    try:
        with world.running():
            ready = time.monotonic()
            chance = Random(options.seed + 1)
            group = max(1, min(10, options.instances // max(20, 3 * options.faults)))
            group = 2 if options.storm else group
            sender = Sender(world.ports["node"], pictures, group, rng, folder)
            sender.start()
            gap = STORM_GAP * options.gap
            struck: Storm | Lightning
            if options.storm:
                struck = lightning(world, sender, pictures, chance, options.rate, gap)
            else:
                struck = storm = Storm(world, chance)
                _storm(storm, sender, _rounds(world, options), options)
            del pictures[sender.begun :]
            recovered, settled = _recover(world, sender, pictures)
            found = counting.count(world, pictures, set(sender.sent.acknowledged))
            rebuilt = counting.rebuild(world, found, rng) if options.model == "drill" else 0
        for line in processes.left_over(world.mark):
            found.add("left_running", line)
        passed = not any(found.faults.values()) and recovered <= RECOVERY_S
        return {
            "passed": passed,
            "seed": options.seed,
            "broker": options.broker,
            "database": options.database,
            "broken": options.broken,
            "small_disk": world.is_small_disk,
            "instances": len(pictures),
            "faults": dict(Counter(fault["fault"] for fault in struck.record)),
            "fault_total": len(struck.record),
            "seconds_to_start": round(ready - started, 1),
            "seconds": round(time.monotonic() - ready, 1),
            "recovery_s": round(recovered, 1),
            "settled_s": round(settled, 1),
            "rebuilt": rebuilt,
            **asdict(found),
            "answers": dict(sender.sent.answers),
            "restarts": {s.name: dict(s.exits) for s in world.supervisor.stations if s.exits},
            "record": struck.record if options.record else [],
        }
    finally:
        if options.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            _keep_logs(folder, options)
            world.clean()
            shutil.rmtree(folder, ignore_errors=True)


def _rounds(world: World, options: argparse.Namespace) -> list[list[Fault]]:
    """Return what may strike in each round; what is not possible here is left out, and loudly."""
    kinds = [kind for kind in FAULTS if not options.only or kind.name in options.only]
    if not world.is_small_disk:
        print("LEFT OUT: disk full; it needs root, to mount a small tmpfs", file=sys.stderr)
        kinds = [kind for kind in kinds if kind.on != "disk"]
    if options.database == "sqlite":
        kinds = [kind for kind in kinds if kind.on != "database"]
    if not kinds:
        raise NotPossible("none of these faults is possible here")
    if not options.short:
        return [kinds]
    rounds = [[kind for kind in kinds if kind.name in names] for names in SHORT]
    return [entry for entry in rounds if entry]


def _storm(
    storm: Storm, sender: Sender, rounds: Sequence[Sequence[Fault]], options: argparse.Namespace
) -> None:
    """Strike evenly over the Instances: what is sent and what strikes keep pace."""
    total, per_fault = options.faults, options.instances / max(1, options.faults)
    began, pace = time.monotonic(), options.minutes * 60 / max(1, total)
    ends = began + options.until * 60 if options.until else float("inf")
    for i in range(total):
        if time.monotonic() > ends:
            sender.end()
            print(f"TIME IS OVER: {i} of {total} faults struck", file=sys.stderr)
            break
        kinds = rounds[i % len(rounds)]
        if not pace:
            _drain(storm, options.backlog, DRAIN_S)
        elif i == total - LAST:
            _drain(storm, options.backlog, ends - time.monotonic())
            if time.monotonic() > ends:
                sender.end()
        sender.allow(int((i + 2) * per_fault))
        if pace and i < total - LAST:
            _pause(storm, began + i * pace - time.monotonic())
        else:
            _behind(storm, sender, int((i + 0.5) * per_fault), 20)
        end = time.monotonic() + 30
        while not storm.strike(kinds) and time.monotonic() < end:
            time.sleep(0.05)
        _pause(storm, storm.rng.uniform(0.5, 1.5) * options.gap)
    sender.allow(options.instances)
    if not total:
        return
    while storm._open:
        _pause(storm, 0.1)


def _drain(storm: Storm, backlog: int, limit_s: float) -> None:
    """Let the node get on with what it has: a storm on a full queue says nothing of recovery."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            if len(counting.open_work(storm.world.ledger)) <= backlog:
                return
        except SQLAlchemyError:
            pass  # the node starts just now
        _pause(storm, 0.2)


def _behind(storm: Storm, sender: Sender, count: int, limit_s: float) -> None:
    """Wait until `count` Instances were sent, but not for ever."""
    end = time.monotonic() + limit_s
    while sender.done < count and time.monotonic() < end:
        _pause(storm, 0.05)


def _pause(storm: Storm, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        storm.heal()
        time.sleep(0.02)


def _recover(world: World, sender: Sender, pictures: Sequence[Picture]) -> tuple[float, float]:
    """Return the seconds from the last heal until what it left open is settled, and until all is.

    The first figure is that of the recovery. It leaves out the pictures that harm workers: each
    takes all its attempts, and waits between them, whatever else happens.
    """
    poison = {picture.uid for picture in pictures if picture.kind in counting.POISON}
    since = moved = time.monotonic()
    left: set[str] | None = None
    recovered, whole, least = 0.0, 0.0, len(pictures)
    while (now := time.monotonic()) - moved < GIVE_UP_S:
        time.sleep(0.2)
        try:
            waiting = counting.open_work(world.ledger)
        except SQLAlchemyError:
            continue  # the node starts just now
        left = (waiting - poison if left is None else left) & waiting
        recovered = recovered if left else (recovered or now - since)
        if not sender.is_over or len(waiting) < least:
            moved, least = now, len(waiting)
        whole = 0.0 if waiting or not sender.is_over else (whole or now - since)
        if whole and now - since - whole > QUIET_S:
            break
    return recovered or GIVE_UP_S, whole or GIVE_UP_S


def _pictures(number: int, rng: Random, poison: int) -> list[Picture]:
    """Return the Instances; what harms workers comes early enough to use its attempts up."""
    kinds = ["healthy"] * number
    early = range(max(1, number * 6 // 10))
    if poison:
        harm = ["killing", "hanging", "hungry"] * poison + ["corrupt"] * (3 * poison)
        for at, kind in zip(rng.sample(early, min(len(early), len(harm))), harm, strict=False):
            kinds[at] = kind
    return [picture(i, rng.getrandbits(96), kind) for i, kind in enumerate(kinds)]


def table(result: dict[str, Any]) -> str:
    """Return the figures for people."""
    names: tuple[str, ...] = (
        "acknowledged",
        "never_acknowledged",
        "reported",
        "rejected",
        "failed",
        "delivered",
    )
    names += (
        "repeats",
        "warned",
        "refusals",
        "conflicts",
        "rebuilt",
        "recovery_s",
        "settled_s",
        "seconds",
    )
    faults: tuple[str, ...] = (
        "lost",
        "second_reports",
        "changed_bytes",
        "without_reason",
        "wrongly_failed",
    )
    faults += ("wrong_text", "not_rebuilt", "left_running")
    struck = [f"  {name:<32}{count:>6}" for name, count in sorted(result["faults"].items())]
    lines = [
        f"{result['fault_total']} faults, {result['instances']} Instances, seed {result['seed']}"
    ]
    lines += struck + [f"{name.replace('_', ' '):<34}{result[name]:>8}" for name in names]
    lines += [f"{name.replace('_', ' '):<34}{result[name]:>8}   (must be 0)" for name in faults]
    for name, examples in result["examples"].items():
        lines += [f"  {name}: {example}" for example in examples]
    return "\n".join([*lines, "PASSED" if result["passed"] else "FAILED"])


def _keep_logs(folder: Path, options: argparse.Namespace) -> None:
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)
        for log in (folder / "world").glob("*.*"):
            if log.is_file():
                (options.logs / log.name).write_bytes(log.read_bytes())


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    options.add_argument("--faults", type=int, default=30)
    options.add_argument("--instances", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument(
        "--storm", type=float, default=0.0, metavar="SECONDS", help="kill anything at any time"
    )
    options.add_argument("--rate", type=float, default=2.0, help="Instances a second of --storm")
    options.add_argument("--short", action="store_true", help="ten kinds of faults in turn")
    options.add_argument("--only", action="append", default=[], metavar="FAULT")
    options.add_argument("--broker", choices=("redis", "stand-in"), default="redis")
    options.add_argument("--stand-in", dest="broker", action="store_const", const="stand-in")
    options.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    options.add_argument("--model", choices=("drill", "phantom"), default="drill")
    options.add_argument("--broken", default="", metavar="VARIANT")
    options.add_argument("--poison", type=int, help="killing, hanging, hungry: each; 2, or 0")
    options.add_argument("--seconds", type=float, default=0.02, help="the model's time a picture")
    options.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="strike at this pace, whatever the backlog; the last ones when it is done",
    )
    options.add_argument(
        "--until", type=float, default=0.0, help="minutes after which no more is begun"
    )
    options.add_argument("--gap", type=float, default=1.0, help="seconds between two faults")
    options.add_argument("--backlog", type=int, default=60, help="Instances open at a fault")
    options.add_argument("--folder", type=Path, help="where the drill's folder is made")
    options.add_argument("--logs", type=Path, help="where logs are kept")
    options.add_argument("--keep", action="store_true", help="remove nothing")
    options.add_argument("--record", action="store_true", help="every fault in the JSON")
    return options


if __name__ == "__main__":
    sys.exit(main())
