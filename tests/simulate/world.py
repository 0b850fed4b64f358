"""The world: two nodes, three workers, a broker and archives, driven step by step."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dicom_node.base.errors import ChexFractError
from dicom_node.settings import SENDER, Peer
from dicom_node.store.schema import jobs

from . import images
from .effects import Crashed, Effects, start_clock
from .node import PEERS, ROLES, RULES, STATIONS, SimulatedNode
from .outside import (
    OTHER_PATIENT,
    Archive,
    Association,
    Broker,
    Call,
    CommitmentAssociation,
    SimulatedPipeline,
    SimulatedWorker,
    answer,
    serve,
)

NODES = ("node-a", "node-b")
WORKERS = ("worker-1", "worker-2", "worker-3")


@dataclass
class Promise:
    """What the world may expect of an Instance that a node has acknowledged."""

    wanted: set[str] = field(default_factory=set)
    """Destinations that its rules named, as a person would read them."""
    allowed: set[str] = field(default_factory=set)
    """Destinations that any rule in force at a reception, or an act, may have named."""
    shadowed: set[str] = field(default_factory=set)
    """Those that a shadow rule named: they get nothing until somebody releases it."""
    patients: set[str] = field(default_factory=set)
    compared: set[str] = field(default_factory=set)
    """Stations whose repetition is compared later, and then routed by the rules of then."""

    def allow(self, destinations: tuple[set[str], bool]) -> None:
        """Note what a rule names, and whether it is a shadow rule."""
        names, is_shadow = destinations
        (self.shadowed if is_shadow else self.allowed).update(names)


class Failed(Exception):
    """An invariant does not hold."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(f"{what}: {detail}")
        self.what = what


class World:
    """Everything of one schedule."""

    def __init__(self, databases: list[Any], folder: Path, seed: int) -> None:
        self.clock = start_clock()
        self.effects = Effects()
        self.drawn = random.Random(seed)
        self.story: list[str] = []
        self.network: list[str] = []
        self.late: deque[tuple[SimulatedNode, Call]] = deque()
        self.reorders = False
        self.is_storm = False
        self.touches: list[tuple[str, str]] = []
        """Node and Instance (all, when empty) of each reception and act, in order."""
        self.failure: tuple[str, str] | None = None
        self.promises: dict[tuple[str, str], Promise] = {}
        self.pipeline = SimulatedPipeline()
        self.broker = Broker(self)
        self.archives = {name: Archive(name, self) for name in PEERS}
        self.nodes = {
            name: SimulatedNode(name, self, database, folder / name)
            for name, database in zip(NODES, databases, strict=True)
        }
        self.workers = {name: SimulatedWorker(name, self) for name in WORKERS}

    # what happens ---------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Add a line to the story."""
        since = self.clock.monotonic() - 1000.0
        self.story.append(f"{since:10.2f} s  {text}")

    def fail(self, what: str, detail: str) -> None:
        """Note the first invariant that does not hold."""
        if self.failure is None:
            self.failure = (what, detail)
            self.say(f"FAILED: {what}: {detail}")

    def connect_to(self, node: SimulatedNode) -> Callable[[Peer], Association]:
        """Return what makes associations."""
        return lambda peer: Association(self._archive(peer))

    def look(self, peer: Peer, report: Path | bytes) -> str:
        """Answer whether what a peer has under a report's UID is that report."""
        content = report if isinstance(report, bytes) else report.read_bytes()
        return self._archive(peer).why_not_there(content)

    def line_to(self, node: SimulatedNode) -> Callable[[Peer], CommitmentAssociation]:
        """Return what makes associations for commitment."""
        return lambda peer: CommitmentAssociation(self._archive(peer), node)

    def _archive(self, peer: Peer) -> Archive:
        return self.archives[next(name for name, one in PEERS.items() if one is peer)]

    def holder(self, node: SimulatedNode, job: str) -> str:
        """Return the token that holds a job, empty when none does."""
        found = node.database.look(_HOLDER, job=job)
        return str(found[0][0] or "") if found else ""

    def send(self, node: SimulatedNode, image: images.Image, station: str, priority: int) -> None:
        """Let a station send an image."""
        self.touches.append((node.name, image.uid))
        receipt = node.receive(image, station, priority)
        kind = receipt if isinstance(receipt, str) else receipt.kind
        self.say(f"{station} sends image {image.number} ({image.variant}) to {node.name}: {kind}")
        if isinstance(receipt, str) and receipt != "killed":
            return
        named = wanted, is_shadow = self.destinations(node, station, image.number)
        key = (node.name, image.uid)
        if isinstance(receipt, str):  # killed: nobody knows whether it was recorded
            promise = self.promises.get(key) or self._maybe.setdefault(key, Promise())
        else:
            promise = self.promises.setdefault(key, Promise())
            if maybe := self._maybe.get(key):
                promise.allowed |= maybe.allowed
                promise.shadowed |= maybe.shadowed
                promise.patients |= maybe.patients
        promise.allow(named)
        promise.patients.add(image.patient_id)
        if isinstance(receipt, str):
            return
        if receipt.kind in ("new", "duplicate") and not is_shadow:
            promise.wanted |= wanted
        if receipt.kind == "comparing":
            promise.compared.add(station)

    def note_poison(self, worker: SimulatedWorker) -> None:
        """Look who shares the death of a worker: a suspect has to be alone in it."""
        held = []
        for client, ticket, _ in worker.pulse._jobs.values():
            node = next(one for name, one in self.nodes.items() if name in client.url)
            held += node.database.look(_TRIES, job=ticket.job, token=ticket.token)
        if len(held) > 1 and any(attempts > 1 for attempts, _ in held):
            shared = sorted(f"image {images.number_of(uid)} try {tries}" for tries, uid in held)
            self.fail("a suspect is not alone in its worker", f"{worker.name}: {shared}")

    def reload(self, node: SimulatedNode, rules: int) -> None:
        """Let a node take other rules."""
        self.touches.append((node.name, ""))
        node.reload(rules)
        for (name, uid), promise in self.promises.items():
            for station in promise.compared if name == node.name else ():
                promise.allow(self.destinations(node, station, images.number_of(uid)))

    @property
    def _maybe(self) -> dict[tuple[str, str], Promise]:
        return self.__dict__.setdefault("_maybes", {})

    def destinations(self, node: SimulatedNode, station: str, number: int) -> tuple[set[str], bool]:
        """Return where the report of a station's image goes by the rules of now; as a person."""
        title, _ = STATIONS[station]
        result = "rejected" if number == images.UNREADABLE else "absent"
        for rule in RULES[node.rules]:
            titles = rule.get("match", {}).get("calling_ae", [title])
            if title in titles:
                named = (*rule["send_to"], *rule.get("when", {}).get(result, ()))
                names = {station if name == SENDER else name for name in named}
                is_shadow = rule.get("mode") == "shadow"
                return {name for name in names if name in PEERS}, is_shadow
        return set(), False

    def run(self, count: int) -> None:
        """Let so many things happen that can happen now, as they are drawn."""
        for _ in range(count):
            acts = self.ready()
            if not acts or self.failure:
                return
            name, act = acts[self.drawn.randrange(len(acts))]
            outcome = act()
            if outcome:
                self.say(f"{name}: {outcome}")

    def ready(self) -> list[tuple[str, Callable[[], str]]]:
        """Return everything that can happen now."""
        found: list[tuple[str, Callable[[], str]]] = []
        for node in self.nodes.values():
            for loop in node.turning():
                found.append((f"{node.name} {loop.name}", lambda n=node, one=loop: n.turn(one)))
        for worker in self.workers.values():
            for what, act in worker.ready():
                found.append((f"{worker.name} {what}", lambda w=worker, one=act: w.do(one)))
        for archive in self.archives.values():
            if archive.questions:
                found.append((archive.name, lambda a=archive: self._answer(a)))
        if self.late:
            found.append(("the network", self._arrive))
        return found

    def _answer(self, archive: Archive) -> str:
        node, question = archive.questions.popleft()
        return answer(archive, node, question)

    def _arrive(self) -> str:
        node, call = self.late.popleft()
        status, _ = serve(self, node, call)
        return f"{call.act} arrives late at {node.name}: {status or 'nobody there'}"

    def processes(self) -> list[str]:
        """Return the names of all processes."""
        return [f"{node} {role}" for node in NODES for role in ROLES] + list(WORKERS)

    def restart(self) -> None:
        """Start everything that is down."""
        for node in self.nodes.values():
            for role in ROLES:
                if not node.is_up[role]:
                    self.say(f"{node.name} {role} starts again")
                    node.start(role)
        for worker in self.workers.values():
            if not worker.is_up:
                self.say(f"{worker.name} starts again")
                worker.start()

    # the end --------------------------------------------------------------------------------------

    def end_faults(self) -> None:
        """Let nothing go wrong from now on."""
        self.effects.armed.clear()
        self.network.clear()
        self.broker.refuses, self.broker.doubles, self.reorders = False, 0, False
        for archive in self.archives.values():
            archive.mode = "well"
        for node in self.nodes.values():
            node.is_full = False

    def settle(self, within_s: float = 3 * 86_400.0) -> None:
        """Let time pass until nothing waits any more; it may not take for ever."""
        self.end_faults()
        self.say("no more faults")
        until = self.clock.monotonic() + within_s
        pause, commits = 0.5, -1
        while not self.failure:
            self.restart()
            self._run_all()
            self._settle_by_hand()
            waiting = [node for node in self.nodes.values() if not is_settled(node)]
            if (
                not waiting
                and not self.late
                and not any(a.questions for a in self.archives.values())
            ):
                return
            now = sum(node.database.commits for node in self.nodes.values())
            soon = 2 * pause if now == commits else 0.5
            commits = now
            pause = min(3600.0, max(soon, *(node.idle_s() for node in waiting), 0.5))
            if self.clock.monotonic() > until:
                names = ", ".join(f"{node.name}: {what_waits(node)}" for node in waiting)
                self.fail("something waits for ever", names)
                return
            self.clock.pass_by(pause)

    def _settle_by_hand(self) -> None:
        """Let a person end what only a person can: two nodes, one image, two patients."""
        for node in self.nodes.values():
            for uid, destination in node.database.look(_DISPUTED, why=f"%{OTHER_PATIENT}"):
                node.ledger.acts.settle(uid, "given-up", destination, by="eve")
                self.say(f"eve gives up {node.name} image {images.number_of(uid)} to {destination}")

    def _run_all(self) -> None:
        """Let all that can happen happen, in rounds: each has its turn once in a round."""
        for _ in range(200):
            acts = [
                (name, act)
                for name, act in self.ready()
                if not name.startswith("node") or not is_settled(self.nodes[name.split()[0]])
            ]
            if not acts or self.failure:
                return
            self.drawn.shuffle(acts)
            for name, act in acts:
                if outcome := act():
                    self.say(f"{name}: {outcome}")
        self.fail("something turns for ever", ", ".join(name for name, _ in self.ready()))


_DISPUTED = sa.text(
    "SELECT jobs.sop_instance_uid, deliveries.destination FROM deliveries "
    "JOIN jobs ON jobs.id = deliveries.job "
    "WHERE deliveries.state = 'retrying' AND deliveries.reason LIKE :why"
)
_TRIES = sa.text(
    "SELECT attempts, sop_instance_uid FROM jobs "
    "WHERE id = :job AND token = :token AND state = 'running'"
)
_HOLDER = sa.select(jobs.c.token).where(jobs.c.id == sa.bindparam("job"))
_OPEN = sa.text("""
SELECT 'job ' || state || ' of ' || sop_instance_uid FROM jobs
WHERE state IN ('received', 'queued', 'running')
UNION ALL SELECT 'delivery to ' || destination || ' ' || state || ' ' || reason FROM deliveries
WHERE state IN ('pending', 'retrying') AND destination <> '@sender'
UNION ALL SELECT 'commitment of ' || destination FROM deliveries
WHERE state = 'sent' AND ask_at > 0
UNION ALL SELECT 'likeness of ' || sop_instance_uid FROM likenesses WHERE state = 'waiting'
""")


def what_waits(node: SimulatedNode) -> list[str]:
    """Return what is not done at a node."""
    return [str(what) for (what,) in node.database.look(_OPEN)]


def is_settled(node: SimulatedNode) -> bool:
    """Return whether nothing waits at a node."""
    if node.__dict__.get("_settled_at") == node.database.commits:
        return bool(node.__dict__["_settled"])
    found = not what_waits(node)
    node.__dict__["_settled_at"], node.__dict__["_settled"] = node.database.commits, found
    return found


__all__ = ["ChexFractError", "Crashed", "Failed", "Promise", "World", "is_settled", "what_waits"]
