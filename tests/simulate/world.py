"""The world: two nodes, three workers, a broker and archives, driven step by step."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from dicom_node.base.errors import ChexFractError
from dicom_node.settings import SENDER, Peer
from dicom_node.store.schema import jobs

from . import images
from .effects import Crashed, Deed, Effects, start_clock
from .node import LISTENERS, PEERS, ROLES, RULES, STATIONS, SimulatedNode
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
NOTHING = "nothing"

REPLACED_CONTENT = "content that was replaced"
"""Of a receipt: it was known, and gets no delivery."""

MOST_ROUNDS = 300
"""In the end everybody has his turn so often at most; some ten rounds are usual."""

LOOPS_TURN = 3
"""In the end a loop turns in one of so many rounds, while workers, archives or the network act."""


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
    variants: set[str] = field(default_factory=set)
    compared: set[str] = field(default_factory=set)
    """Stations whose repetition is compared later, and then routed by the rules of then."""

    def allow(self, destinations: tuple[set[str], bool]) -> None:
        """Note what a rule names, and whether it is a shadow rule."""
        names, is_shadow = destinations
        (self.shadowed if is_shadow else self.allowed).update(names)


@dataclass
class Touch:
    """A reception, an operator's act or a reload: what came of an Instance may depend on it."""

    what: str
    site: str
    uid: str
    """Empty for all of them."""
    again: Callable[[], str] | None = None
    """Does it once more, by the rules of then, where that is known."""
    is_first: bool = False
    """Whether its Instance was unknown, however many others were being received."""


@dataclass(frozen=True, eq=False)
class Underway:
    """A reception, or an operator's act, that is not done: it may be held on its way."""

    site: str
    uid: str
    rules: set[int]
    """Which rules were in force since it began."""


class Failed(Exception):
    """An invariant does not hold."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(f"{what}: {detail}")
        self.what = what


class World:
    """Everything of one schedule."""

    def __init__(
        self, databases: list[Any], folder: Path, seed: int, *, is_shared: bool = False
    ) -> None:
        self.clock = start_clock()
        self.effects = Effects()
        self.seed = seed
        self.drawn = random.Random(seed)
        self.story: list[str] = []
        self.network: list[str] = []
        self.late: deque[tuple[SimulatedNode, Call]] = deque()
        self.reorders = False
        self.is_storm = False
        self.touches: list[Touch] = []
        self.underway: list[Underway] = []
        self.failure: tuple[str, str] | None = None
        self.promises: dict[tuple[str, str], Promise] = {}
        self.pipeline = SimulatedPipeline()
        self.broker = Broker(self)
        self.archives = {name: Archive(name, self) for name in PEERS}
        self.is_shared = is_shared
        """Whether the nodes are on one ledger and one spool."""
        sites = [NODES[0]] * len(NODES) if is_shared else NODES
        of_site = dict(zip(reversed(sites), reversed(databases), strict=True))
        for database in of_site.values():
            database.empty(self.effects)
        self.nodes = {
            name: SimulatedNode(name, self, of_site[site], folder / site, site)
            for name, site in zip(NODES, sites, strict=True)
        }
        self.sites = {name: node for name, node in self.nodes.items() if name == node.site}
        """One node of each ledger."""
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
        return self.archives[next(name for name, known in PEERS.items() if known is peer)]

    def holder(self, node: SimulatedNode, job: str) -> str:
        """Return the token that holds a job, empty when none does."""
        found = node.database.look(_HOLDER, job=job)
        return str(found[0][0] or "") if found else ""

    def send(
        self,
        node: SimulatedNode,
        image: images.Image,
        station: str,
        priority: int,
        listener: int = 0,
    ) -> str:
        """Let a station send an image."""
        key = (node.site, image.uid)
        touch = Touch("send", *key)
        self.touches.append(touch)
        with self.about(node, image.uid) as underway:
            if self.effects.act is not None:  # who acts while it is held may meet it in the ledger
                self._note(self._maybe.setdefault(key, Promise()), underway, station, image)
            receipt = node.receive(image, station, priority, listener)
        kind = receipt if isinstance(receipt, str) else receipt.kind
        self.say(f"{station} sends image {image.number} ({image.variant}) to {node.name}: {kind}")
        if isinstance(receipt, str) and receipt != "killed":
            touch.what = NOTHING  # its sender knows that it was not kept
            return ""
        if isinstance(receipt, str):  # killed: nobody knows whether it was recorded
            promise = self.promises.get(key) or self._maybe.setdefault(key, Promise())
        else:
            promise = self.promises.setdefault(key, Promise())
            if maybe := self._maybe.get(key):
                promise.allowed |= maybe.allowed
                promise.shadowed |= maybe.shadowed
                promise.patients |= maybe.patients
                promise.variants |= maybe.variants
        wanted = self._note(promise, underway, station, image)
        if isinstance(receipt, str):
            return ""
        if len(underway.rules) == 1:

            def again(by: int = min(underway.rules)) -> str:
                self.reload(node, by)
                return self.send(node, image, station, priority, listener)

            touch.again, touch.is_first = again, receipt.kind == "new"
        # who sends what an adopted correction has replaced has another image than the report's
        if receipt.kind in ("new", "duplicate") and receipt.reason != REPLACED_CONTENT:
            promise.wanted |= wanted
        if receipt.kind == "comparing":
            promise.compared.add(station)
        return ""

    def _note(
        self, promise: Promise, underway: Underway, station: str, image: images.Image
    ) -> set[str]:
        """Note what may become of an image; return who gets its report in any case."""
        wanted = []
        for rules in underway.rules:
            names, is_shadow = self.destinations(rules, station, image.number)
            promise.allow((names, is_shadow))
            wanted.append(set() if is_shadow else names)
        promise.patients.add(image.patient_id)
        promise.variants.add(image.variant)
        return set.intersection(*wanted)

    @contextmanager
    def about(self, node: SimulatedNode, uid: str) -> Iterator[Underway]:
        """Remember what is under way, and by which rules."""
        one = Underway(node.site, uid, {node.rules})
        self.underway.append(one)
        try:
            yield one
        finally:
            self.underway.remove(one)

    def act(self, name: str, do: Callable[[], str]) -> None:
        """Let somebody act; others may act while it is held."""
        if outcome := self.effects.begin(name, do):
            self.say(f"{name}: {outcome}")

    def note_poison(self, worker: SimulatedWorker) -> None:
        """Look who shares the death of a worker: a suspect has to be alone in it."""
        held = []
        with self.effects.transaction(may_be_held=False):  # nothing happens while it is looked at
            for client, ticket, _ in worker.pulse._jobs.values():
                node = next(found for name, found in self.nodes.items() if name in client.url)
                held += node.database.look(_TRIES, job=ticket.job, token=ticket.token)
        if len(held) > 1 and any(attempts > 1 for attempts, _ in held):
            shared = sorted(f"image {images.number_of(uid)} try {tries}" for tries, uid in held)
            self.fail("a suspect is not alone in its worker", f"{worker.name}: {shared}")

    def reload(self, node: SimulatedNode, rules: int) -> None:
        """Let a node take other rules."""
        self.touches.append(Touch("reload", node.site, ""))
        for one in self.underway:
            if one.site == node.site:
                one.rules.add(rules)
        for one_node in self.nodes.values():
            if one_node.site == node.site:
                one_node.reload(rules)
        for (name, uid), promise in self.promises.items():
            for station in promise.compared if name == node.site else ():
                promise.allow(self.destinations(rules, station, images.number_of(uid)))

    @property
    def _maybe(self) -> dict[tuple[str, str], Promise]:
        return self.__dict__.setdefault("_maybes", {})

    def destinations(self, rules: int, station: str, number: int) -> tuple[set[str], bool]:
        """Return where the report of a station's image goes by a set of rules; as a person."""
        title, _ = STATIONS[station]
        result = "rejected" if number == images.UNREADABLE else "absent"
        for rule in RULES[rules]:
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
            self.do(acts[self.drawn.randrange(len(acts))])

    def do(self, deed: Deed) -> None:
        """Let one thing happen."""
        if deed.held is None:
            self.act(deed.name, deed.do)
        elif deed.held in self.effects.held and deed.held.may_go_on:
            outcome = self.effects.go_on(deed.held)
            self.say(f"{deed.name} goes on{': ' * bool(outcome)}{outcome}")

    def ready(self, *, is_ending: bool = False) -> list[Deed]:
        """Return everything that can happen now; in the end no loop of a node that is settled."""
        found = [Deed(act.name, str, held=act) for act in self.effects.held if act.may_go_on]
        for node in self.nodes.values():
            if node.is_up["courier"] and not (is_ending and is_settled(node)):
                found += node.turning()
        for worker in self.workers.values():
            found += worker.ready()
        for archive in self.archives.values():
            if archive.questions:
                found.append(Deed(archive.name, partial(self._answer, archive)))
        if self.late:
            found.append(Deed("the network", self._arrive))
        return found

    def _answer(self, archive: Archive) -> str:
        if not archive.questions:
            return ""
        node, question = archive.questions.popleft()
        return answer(archive, node, question)

    def _arrive(self) -> str:
        if not self.late:
            return ""
        node, call = self.late.popleft()
        status = serve(self, node, call).status_code
        return f"{call.act} arrives late at {node.name}: {status or 'nobody there'}"

    def gives_instance_to(self, worker: str) -> bool:
        """Return whether a worker gets the Instance with the claim; the others ask for it."""
        return (self.seed // 8 + WORKERS.index(worker)) % 2 == 0  # nothing else depends on it

    def close(self) -> None:
        """Leave nothing to the next schedule."""
        self.effects.drop()
        for node in self.nodes.values():
            for role in ROLES:
                node.kill(role)

    def process(self, n: int, listener: int) -> str:
        """Return the name of a process; listeners come no more often because there are two."""
        roles = (LISTENERS[listener % 2], "courier", "web")
        names = [f"{node} {role}" for node in NODES for role in roles] + list(WORKERS)
        return names[n % len(names)]

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
        self.effects.holds.clear()
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
        pause, commits, rounds = 0.5, -1, 0
        while not self.failure:
            rounds += 1
            self.restart()
            self._run_all()
            self._settle_by_hand()
            waiting = [node for node in self.sites.values() if not is_settled(node)]
            if (
                not waiting
                and not self.late
                and not self.effects.held
                and not any(a.questions for a in self.archives.values())
            ):
                return
            now = sum(node.database.commits for node in self.sites.values())
            soon = 2 * pause if now == commits else 0.5
            commits = now
            pause = min(3600.0, max(soon, *(node.idle_s() for node in waiting), 0.5))
            # by rounds, too: what is done again and again lets little time pass
            if self.clock.monotonic() > until or rounds > MOST_ROUNDS:
                names = ", ".join(f"{node.name}: {what_waits(node)}" for node in waiting)
                self.fail("something waits for ever", names)
                return
            self.clock.pass_by(pause)

    def _settle_by_hand(self) -> None:
        """Let a person end what only a person can: two nodes, one image, two patients."""
        for node in self.sites.values():
            for uid, destination, reason in node.database.look(_RETRYING):
                if not reason.endswith(OTHER_PATIENT):
                    continue
                node.ledger.acts.settle(uid, "given-up", destination, by="eve")
                self.say(f"eve gives up {node.name} image {images.number_of(uid)} to {destination}")

    def _run_all(self) -> None:
        """Let all that can happen happen, in rounds: each has its turn once in a round."""
        for _ in range(200):
            acts = self.ready(is_ending=True)
            if not acts or self.failure:
                return
            # a loop has its turn in some rounds, and in each in which there is nothing else
            is_alone = all(one.is_loop for one in acts)
            self.drawn.shuffle(acts)
            for one in acts:
                if is_alone or not one.is_loop or not self.drawn.randrange(LOOPS_TURN):
                    self.do(one)
        self.fail("something turns for ever", ", ".join(one.name for one in self.ready()))


_RETRYING = sa.text(
    "SELECT jobs.sop_instance_uid, deliveries.destination, deliveries.reason FROM deliveries "
    "JOIN jobs ON jobs.id = deliveries.job "
    "WHERE deliveries.state = 'retrying'"
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
