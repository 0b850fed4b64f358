"""A node of the world: two listeners, a courier and a job API, each of which may be killed."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from dicom_node.base.errors import ChexFractError, NotUnderstood, Transient
from dicom_node.dimse import Accepted, CommitmentAnswer, Sender
from dicom_node.flow.ask_same import LikenessAnswer
from dicom_node.flow.commit import Committer, keeper
from dicom_node.flow.deliver import Deliverer, Pace
from dicom_node.flow.dispatch import Dispatcher
from dicom_node.flow.intake import Intake
from dicom_node.flow.loop import Loop
from dicom_node.flow.repeat import Comparer, adopt
from dicom_node.settings import Dispatch, Peer, Retention, Rule, Settings
from dicom_node.store.ledger import Receipt
from dicom_node.store.retention import RetentionSweep
from dicom_node.web.jobs import JobDesk

from .databases import SimulatedDatabase, SimulatedLedger
from .effects import Crashed, Deed, Gone, SimulatedSpool
from .images import CR, Image

LISTENERS = ("listener", "listener-2")
"""Two accepting processes on one port."""

ROLES = (*LISTENERS, "courier", "web")

STATIONS = {
    "ct1": ("STATION", "10.0.0.1"),
    "ct2": ("STATION", "10.0.0.2"),  # another peer of the same title
    "room": ("ROOM", "10.0.0.3"),
    "stranger": ("STRANGER", "10.9.9.9"),
}
"""Senders: their AE titles and addresses; the last one is a stranger."""

PEERS = {
    "ct1": Peer(ae_title="STATION", host="10.0.0.1", port=104),
    "ct2": Peer(ae_title="STATION", host="10.0.0.2", port=104),
    "room": Peer(ae_title="ROOM", host="10.0.0.3", port=104),
    "archive": Peer(ae_title="ARCHIVE", host="10.0.1.1", port=104),
    "vault": Peer(ae_title="VAULT", host="10.0.1.2", port=104, storage_commitment=True),
}

RULES: tuple[tuple[dict[str, Any], ...], ...] = (
    ({"name": "all", "send_to": ("archive", "@sender"), "allow_demonstration": True},),
    ({"name": "vault", "send_to": ("vault",), "allow_demonstration": True},),
    (
        {
            "name": "rooms",
            "match": {"calling_ae": ["ROOM"]},
            "send_to": ("vault", "@sender"),
            "priority": "stat",
            "allow_demonstration": True,
        },
        {"name": "others", "send_to": ("archive",), "mode": "shadow", "allow_demonstration": True},
    ),
    (
        {
            "name": "stations",
            "match": {"calling_ae": ["STATION"]},
            "send_to": ("@sender", "vault"),
            "allow_demonstration": True,
        },
    ),
    (
        {
            "name": "by result",
            "send_to": ("@sender",),
            "when": {"absent": ["archive"], "rejected": ["vault"]},
            "allow_demonstration": True,
        },
    ),
)
"""Rules that a reload may bring."""

PACE = Pace()


@cache
def settings_of(name: str, rules: int) -> Settings:
    """Return the settings of a node with one of the sets of rules."""
    return Settings(
        node={"ae_title": name.upper().replace("-", ""), "data_dir": f"/nowhere/{name}"},
        web={"url": f"http://{name}:8080"},
        peers=PEERS,
        rules=[Rule(**rule) for rule in RULES[rules]],
        dispatch=Dispatch(lease=60, queued_for=60, window=8, batch=3),
        retention=Retention(images=600.0, reports=7200.0),
    )


class SteppedCrew:
    """Loops that come and go, turned by the scheduler."""

    def __init__(self) -> None:
        self.loops: dict[str, Loop] = {}

    def is_ending(self) -> bool:
        """Return False: a process that ends is killed here."""
        return False

    def has(self, name: str) -> bool:
        """Return whether this loop is not over."""
        return name in self.loops

    def add(self, loop: Loop) -> None:
        """Let the scheduler turn it, too."""
        self.loops[loop.name] = loop


class SimulatedNode:
    """One node: real intake, ledger, routing, dispatcher, deliverer, commitment and job API."""

    def __init__(
        self, name: str, world: Any, database: SimulatedDatabase, folder: Path, site: str
    ) -> None:
        self.name = name
        self.site = site
        """Whose ledger and spool it is on."""
        self.world = world
        self.rules = 0
        self.is_full = False
        self.database = database
        others = database.is_full
        database.is_full = lambda: others() or self.is_full
        self.folder = folder
        self.ledger = self.process()
        self.spool = SimulatedSpool.at(folder)
        self.spool.empty(world.clock, world.effects, lambda: database.is_full())
        self.is_up = dict.fromkeys(ROLES, False)
        self.crew = SteppedCrew()
        self.loops: list[Loop] = []
        self.turned: set[Loop] = set()
        """Loops in the middle of a turn: each has a thread of its own."""
        self._deeds: dict[Loop, Deed] = {}
        self.ledgers: dict[str, SimulatedLedger] = {}
        self.intakes: dict[str, Intake] = {}
        self.keepers: dict[str, Callable[[CommitmentAnswer], bool]] = {}
        for role in ROLES:
            self.start(role)

    def process(self) -> SimulatedLedger:
        """Return the ledger as one more process has it: what it remembers is its own."""
        return SimulatedLedger(self.database.url, self.world.clock, self.database)

    @property
    def settings(self) -> Settings:
        """Return what is in force."""
        return settings_of(self.name, self.rules)

    def start(self, role: str) -> None:
        """Start a role again, with nothing in its memory."""
        if self.is_up[role]:
            return
        self.is_up[role] = True
        try:
            with self.world.effects.process(f"{self.name} {role}"):
                self._start(role)
        except (Crashed, ChexFractError):
            self.is_up[role] = False

    def _start(self, role: str) -> None:
        settings, ledger = self.settings, self.process()  # with nothing in its memory
        self.ledgers[role] = ledger
        if role in LISTENERS:
            self.intakes[role] = Intake(settings, self.spool, ledger)
            self.keepers[role] = keeper(ledger, PACE)
        elif role == "web":
            self.desk = JobDesk(settings, ledger, self.spool, lambda *_: None)
        else:
            self.crew = SteppedCrew()
            publish = self.world.broker.publish
            self.dispatcher = Dispatcher(settings, ledger, publish)
            self.deliverer = Deliverer(
                settings,
                self.spool,
                ledger,
                self.world.connect_to(self),
                PACE,
                self.crew,
                look=self.world.look,
            )
            self.committer = Committer(
                settings, ledger, self.world.line_to(self), PACE, linger_s=0, crew=self.crew
            )
            self.comparer = Comparer(settings, self.spool, ledger, self._compare)
            self.loops = [
                self.dispatcher.loop(),
                self.deliverer.loop(),
                self.committer.loop(),
                self.comparer.loop(),
                Loop("retention", RetentionSweep(settings, self.spool, ledger).step, ledger.clock),
            ]

    def kill(self, role: str) -> None:
        """Let a role be gone with all that it had in memory."""
        self.is_up[role] = False
        self.world.effects.end(f"{self.name} {role}")
        if (ledger := self.ledgers.pop(role, None)) is not None:
            ledger.turns.close()  # its session with the server is over
        if role == "courier":
            self.loops, self.crew, self.turned, self._deeds = [], SteppedCrew(), set(), {}

    def die(self, role: str, exc: Crashed) -> str:
        """Kill a role that has crashed; what was held of it when it did is over only now."""
        if isinstance(exc, Gone):
            return "is gone"
        self.kill(role)
        return "killed"

    def listener(self, preferred: int = 0) -> str:
        """Return which accepting process a caller comes to; empty when none is there."""
        order = LISTENERS if preferred % 2 == 0 else LISTENERS[::-1]
        return next((role for role in order if self.is_up[role]), "")

    def reload(self, rules: int) -> None:
        """Take other rules, as SIGHUP does."""
        self.rules = rules
        for role in LISTENERS:
            if self.is_up[role]:
                self.intakes[role].settings = self.settings
        if self.is_up["courier"]:
            try:
                with self.world.effects.process(f"{self.name} courier"):
                    self.deliverer.take(self.settings)
                    self.committer.take(self.settings)
                    self.comparer.take(self.settings)
            except Crashed as exc:
                self.die("courier", exc)

    def receive(
        self, image: Image, station: str, priority: int, listener: int = 0
    ) -> Receipt | str:
        """Receive a C-STORE; return its receipt, or why it was not answered with success."""
        role = self.listener(listener)
        if not role:
            return "no answer"
        title, host = STATIONS[station]
        sender = Sender(title, host, self.settings.node.ae_title, priority, "a1")
        accepted = Accepted(CR, image.uid, image.syntax)
        intake = self.intakes[role]
        try:
            with self.world.effects.process(f"{self.name} {role}"):
                incoming = intake.begin(accepted)
                incoming.write(image.content)
                receipt = intake.finish(incoming, accepted, sender)
                self.world.effects.hit()  # it may die before its answer is out
                return receipt
        except Crashed as exc:
            self.die(role, exc)
            return "killed"
        except Transient as exc:
            return f"0xA700 ({exc})"
        except NotUnderstood as exc:
            return f"0xC000 ({exc})"

    def turning(self) -> list[Deed]:
        """Return the turns of the loops that have work now."""
        now, commits = self.world.clock.monotonic(), self.database.commits
        found = []
        for loops in (self.loops, self.crew.loops.values()):
            for loop in loops:
                watch: Any = loop._watch
                is_due = loop.due_at <= now or (watch is not None and watch.seen != commits)
                if is_due and loop not in self.turned:
                    if (deed := self._deeds.get(loop)) is None:
                        name = f"{self.name} {loop.name}"
                        deed = self._deeds[loop] = Deed(name, partial(self.turn, loop), True)
                    found.append(deed)
        return found

    def turn(self, loop: Loop) -> str:
        """Turn a loop once; return what became of it."""
        if loop not in (*self.loops, *self.crew.loops.values()):
            return ""  # it was killed meanwhile
        turned = self.turned
        turned.add(loop)
        try:
            with self.world.effects.process(f"{self.name} courier"):
                wait = loop.turn()
        except Crashed as exc:
            return self.die("courier", exc)
        finally:
            turned.discard(loop)
        if wait is None:
            self.crew.loops.pop(loop.name, None)
            self._deeds.pop(loop, None)
            loop.close()
        if loop.faults:
            self.world.fail("a loop failed", f"{self.name} {loop.name}")
        return ""

    def idle_s(self) -> float:
        """Return for how long nothing becomes due by time alone."""
        ledger, now = self.ledger, self.world.clock.wall()
        due = (ledger.jobs.next_due(), ledger.deliveries.next_due(), ledger.commitments.next_due())
        times = [at - now for at in due if at is not None and at > now]
        return min(times, default=0.0) + 0.01

    def _compare(self, first: Path, second: Path) -> LikenessAnswer:
        """Compare pixels: they are the last 32 bytes of these files."""
        try:
            same = first.read_bytes()[-32:] == second.read_bytes()[-32:]
        except FileNotFoundError:  # retention was faster
            return LikenessAnswer(False, text="cannot be compared")
        return LikenessAnswer(True, same, "has the same pixels" if same else "has other pixels")

    def operate(self, act: str, uid: str, drawn: random.Random) -> str:
        """Do what an operator does, at another process; return what it said."""
        acts = self.ledger.acts
        try:
            with self.world.effects.process(f"{self.name} command"):
                if act == "settle":
                    outcome = drawn.choice(("sent", "given-up"))
                    return f"{outcome} {acts.settle(uid, outcome, by='eve')}"
                if act == "adopt":
                    return f"{len(adopt(self.settings, self.spool, self.ledger, uid, by='eve'))}"
                if act == "judge":
                    job = self.ledger.history.trace(uid).jobs[-1].job
                    acts.judge(job, "disagree", "eve", "no")
                    return "kept"
                if act == "retry-failed":
                    return str(acts.retry_failed(by="eve"))
                return str(getattr(acts, act)(uid, by="eve"))
        except Crashed:
            return "killed"
        except (ChexFractError, IndexError) as exc:
            return f"refused: {type(exc).__name__}"
