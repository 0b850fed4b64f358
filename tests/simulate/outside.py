"""What stands around the nodes: broker, network, archives, and workers with their models."""

from __future__ import annotations

import json
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import httpx2
from pydantic import BaseModel

from dicom_node.base.errors import ChexFractError, NotFound, Stale, Transient, Unreachable
from dicom_node.base.job import (
    INSTANCE_HEADER,
    MESSAGE_HEADER,
    WIRE_HEADER,
    WIRE_VERSION,
    Handout,
    LeaseRequest,
    Reason,
    ReleaseRequest,
    ReportObject,
    ReportOrder,
    Result,
)
from dicom_node.dimse import CommitmentAnswer, Question
from dicom_node.standard.sr_classes import SR_CLASSES
from dicom_node.web.jobs import CallHead, ClaimCall, ForeignResult
from worker.service.batches import BatchFormer
from worker.service.node import NodeClient
from worker.service.tasks import HandoutDesk, LeaseRenewal, WorkExecutors
from worker.settings import Settings as WorkerSettings
from worker.settings import Worker as WorkerTable

from . import images
from .effects import Crashed, Deed, Gone

SILENT_S = 5.0
POISON = "poison"

ENHANCED_ONLY = ("vault", "ct2")
"""Archives that get each report recast."""


class Broker:
    """Redis as it may be: it refuses, forgets, doubles and reorders."""

    def __init__(self, world: Any) -> None:
        self.world = world
        self.queue: list[str] = []
        self.refuses = False
        self.doubles = 0

    def publish(self, handout: Handout, priority: int) -> None:
        """Keep a hand-out as JSON."""
        self.world.effects.hit()
        if self.refuses:
            raise Unreachable("the broker gives no answer")
        message = json.dumps(handout.model_dump(mode="json") | {"alone": handout.alone})
        self.queue.append(message)
        if self.doubles:
            self.doubles -= 1
            self.queue.append(message)
        self.world.effects.hit()


@dataclass
class Stored:
    """An object that an archive got."""

    uid: str
    content: bytes


class Archive:
    """A peer that is sent reports; it remembers all that it ever acknowledged or took."""

    def __init__(self, name: str, world: Any) -> None:
        self.name = name
        self.world = world
        self.mode = "well"
        self.taken: list[Stored] = []
        self.kept: dict[str, bytes] = {}
        self.questions: deque[tuple[Any, Question]] = deque()

    def store(self, content: bytes) -> int:
        """Answer a C-STORE."""
        uid = uid_in(content)
        if self.mode == "refuses":
            return 0xA700
        if self.mode == "cannot":
            return 0xC000
        if self.mode == "slow":
            self.world.clock.pass_by(25.0)
        if self.mode == "breaks before":
            raise Unreachable(f"{self.name} broke the association")
        is_known = uid in self.kept
        self.taken.append(Stored(uid, content))
        if self.mode != "lies":
            self.kept.setdefault(uid, content)
        if self.mode == "breaks after":
            raise Unreachable(f"{self.name} broke the association")
        if is_known and self.mode in ("well", "strict"):
            return 0x0111
        return 0xB000 if self.mode == "warns" else 0x0000

    def why_not_there(self, content: bytes) -> str:
        """Answer the question of `dimse.lookup`."""
        self.world.effects.hit()
        if self.mode in ("silent", "refuses"):
            return "cannot be asked for it"
        ours, theirs = said_in(content), said_in(self.kept.get(uid_in(content), content))
        return "" if ours == theirs else OTHER_PATIENT


OTHER_PATIENT = "has this study under another Patient ID"
"""Of `dimse.lookup`: a person has to look who is right."""


class Association:
    """`dimse.scu.Destination` without a network."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive

    def connect(self, sop_classes: Sequence[str]) -> None:
        """Associate."""
        self.archive.world.effects.hit()
        if self.archive.mode == "silent":
            self.archive.world.clock.pass_by(SILENT_S)
            raise Unreachable(f"{self.archive.name} gives no answer")

    def accepts(self, sop_class_uid: str) -> bool:
        """Return whether the archive takes a class: one of them takes Enhanced SR alone."""
        return self.archive.name not in ENHANCED_ONLY or sop_class_uid == SR_CLASSES["enhanced"]

    def store(self, content: Path | bytes) -> int:
        """Send an object."""
        content = content.read_bytes() if isinstance(content, Path) else content
        self.archive.world.effects.hit()
        status = self.archive.store(content)
        self.archive.world.effects.hit()
        return status

    def close(self) -> None:
        """Release."""


class CommitmentAssociation:
    """A `CommitmentAssociation` without a network: answers come later, by the scheduler."""

    def __init__(self, archive: Archive, node: Any) -> None:
        self.archive = archive
        self.node = node

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def connect(self) -> None:
        """Associate."""
        Association(self.archive).connect(())

    def ask(self, question: Question) -> None:
        """Ask; the archive answers when the scheduler lets it."""
        self.archive.world.effects.hit()
        if self.archive.mode == "refuses":
            raise Unreachable(f"{self.archive.name} broke the association")
        self.archive.questions.append((self.node, question))

    def wait(self, seconds: float, ends: Callable[[], bool]) -> bool:
        """Return False."""
        return False


def answer(archive: Archive, node: Any, question: Question) -> str:
    """Let a question be answered; return what was said."""
    uids = [uid for _, uid in question.objects]
    kept = frozenset(uid for uid in uids if uid in archive.kept)
    failed = {uid: 0x0112 for uid in uids if uid not in kept}
    role = node.listener()
    if not role:
        return "nobody listens"
    try:
        with archive.world.effects.process(f"{node.name} {role}"):
            node.keepers[role](CommitmentAnswer(question.transaction_uid, kept, failed))
    except Crashed as exc:
        return str(node.die(role, exc))
    except Transient as exc:
        return f"not taken: {exc}"
    return f"commits to {len(kept)}, lacks {len(failed)}"


# workers ------------------------------------------------------------------------------------------


class SteppedExecutor(Executor):
    """Does nothing until the scheduler says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Remember a call."""
        self.waiting.append(lambda: fn(*args, **kwargs))
        return Future()

    def step(self) -> None:
        """Make the first call that waits."""
        if self.waiting:
            self.waiting.pop(0)()


class SteppedFormer(BatchFormer[Any]):
    """The batch former, whose model thread is the scheduler."""

    def __init__(self, describe: Any, limit: Any, on_room: Any = lambda: None) -> None:
        from threading import Condition

        self._describe, self._limit, self._on_room = describe, limit, on_room
        self._changed = Condition()
        self._urgent, self._usual, self._coming = [], [], 0

    @property
    def is_ready(self) -> bool:
        """Whether the model may be given something."""
        return bool(self._urgent or self._usual)

    def step(self) -> None:
        """Give the model a batch."""
        if not self.is_ready:
            return
        taken = self._fill_batch(max(1, self._limit()))
        self._on_room()
        self._describe(taken)


@dataclass
class SimulatedCase:
    """What `worker.pipeline.Case` is to the desk."""

    content: bytes
    number: int
    is_waiting: bool = True
    trouble: Exception | None = None
    stages_ms: dict[str, float] = field(default_factory=dict)


class Facts(NamedTuple):
    """What a report takes from its image."""

    uid: str
    patient_id: str
    study: str


class SimulatedPipeline:
    """A model that reads the number of an image from its bytes, and dies of one of them."""

    limit = SimpleNamespace(most=3)

    def prepare(self, content: bytes) -> SimulatedCase:
        """Return a case; a hip goes not to the model."""
        number = images.number_of(facts_in(content).uid)
        return SimulatedCase(content, number, number != images.UNREADABLE)

    def describe(self, cases: Sequence[SimulatedCase], progress: Any = None) -> None:
        """Describe a batch."""
        if any(case.number == images.POISON for case in cases):
            raise Crashed(POISON)

    def build(self, case: SimulatedCase, order: ReportOrder, token: str = "") -> Any:
        """Return a result and its documents."""
        facts = facts_in(case.content)
        before = order.predecessor.sop_instance_uid if order.predecessor else ""
        uid, series, content = self.report(facts, order.generation, before)
        is_read = case.number != images.UNREADABLE
        result = Result(
            token=token,
            outcome="reported" if is_read else "rejected",
            model="phantom",
            model_version="1",
            device_uid=images.DEVICE,
            options=images.OPTIONS,
            demonstration=True,
            text="No fracture." if is_read else None,
            presence="absent" if is_read else None,
            reason=None if is_read else Reason(code="not-chest", text="A hip."),
            stages_ms={"model": 30.0},
            objects=(
                ReportObject(
                    kind="sr",
                    part="sr",
                    sop_class_uid=images.SR,
                    sop_instance_uid=uid,
                    series_instance_uid=series,
                ),
            ),
        )
        document = SimpleNamespace(content=content)
        return SimpleNamespace(result=result, documents=(document,))

    def report(self, facts: Facts, generation: int, before: str) -> tuple[str, str, bytes]:
        """Return UID, series and bytes of a report."""
        return images.report(facts.uid, facts.study, facts.patient_id, generation, before)


class SimulatedWorker:
    """A worker: its desk, its node clients and its pulse; the network between is the world's."""

    def __init__(self, name: str, world: Any) -> None:
        self.name = name
        self.world = world
        self.is_up = False
        self.start()

    def start(self) -> None:
        """Start with nothing in memory."""
        if self.is_up:
            return
        self.is_up = True
        self.acting: set[str] = set()
        """What it is in the middle of and has one thread for."""
        self.preparing, self.building = SteppedExecutor(), SteppedExecutor()
        executors = WorkExecutors(self.preparing, self.building, SteppedFormer, self._connect)
        self.pulse = LeaseRenewal(120.0, self.kill, self.world.clock.monotonic)
        self.desk = HandoutDesk(
            self.world.pipeline,
            worker_settings(self.name),
            "secret",
            self.pulse,
            executors=executors,
        )
        what: dict[str, Callable[[], Any]] = {
            "takes a message": self._take,
            "claims": self.preparing.step,
            "describes": self.desk.batches.step,  # type: ignore[attr-defined]
            "posts": self.building.step,
            "beats": self.pulse.beat,
        }
        self._deeds = {
            name.split()[0]: Deed(f"{self.name} {name}", partial(self.do, name, act))
            for name, act in what.items()
        }

    def kill(self) -> None:
        """Be gone."""
        self.is_up = False
        self.acting = set()
        self.preparing, self.building = SteppedExecutor(), SteppedExecutor()
        self.world.effects.end(self.name)

    def _connect(self, url: str, secret: str, ca: Any = None) -> NodeClient:
        return DirectClient(url, self.world, self)

    def ready(self) -> list[Deed]:
        """Return what it can do now."""
        found: list[Deed] = []
        if not self.is_up:
            return found
        deeds = self._deeds
        if self.world.broker.queue and "takes" not in self.acting and self.desk.has_room():
            found.append(deeds["takes"])
        if self.preparing.waiting:
            found.append(deeds["claims"])
        if self.desk.batches.is_ready and "describes" not in self.acting:  # type: ignore[attr-defined]
            found.append(deeds["describes"])
        if self.building.waiting:
            found.append(deeds["posts"])
        if self.pulse.count and "beats" not in self.acting and self._needs_beat():
            found.append(deeds["beats"])
        return found

    def _needs_beat(self) -> bool:
        now, moved = self.world.clock.monotonic(), self.pulse._moved
        if now - moved > 120:
            return True
        renewed = self.pulse._renewed.values()
        return any(now - at >= 20 and moved > at for at in renewed)

    def do(self, what: str, act: Callable[[], Any]) -> str:
        """Do one thing; return what became of it."""
        if not self.is_up:
            return ""
        acting, word = self.acting, what.split()[0]
        acting.add(word)
        try:
            with self.world.effects.process(self.name):
                act()
        except Gone:
            return "is gone"
        except Crashed as exc:
            if exc.args == (POISON,):
                self.world.note_poison(self)
            self.kill()
            return "killed"
        finally:
            acting.discard(word)
        return ""

    def _take(self) -> None:
        if not self.world.broker.queue:
            return
        place = self.world.drawn.randrange(len(self.world.broker.queue))
        message = self.world.broker.queue.pop(place if self.world.reorders else 0)
        self.desk.take(Handout.model_validate_json(message))


def worker_settings(name: str, _kept: dict[str, WorkerSettings] = {}) -> WorkerSettings:  # noqa: B006
    """Return worker.toml of a worker."""
    if name not in _kept:
        nodes = ("http://node-a:8080", "http://node-b:8080")
        _kept[name] = WorkerSettings(worker=WorkerTable(name=name, batch=3, slots=2, nodes=nodes))
    return _kept[name]


class DirectClient(NodeClient):
    """The worker's client of a node, above what carries its requests.

    To make a request of httpx and to read it again took as long as to serve it; the drill and the
    tests with real peers do that.
    """

    def __init__(self, url: str, world: Any, worker: SimulatedWorker) -> None:
        self.url = url
        self._wait = lambda _: None
        self._wire = WIRE_VERSION
        self._begun, self._lock = {}, threading.Lock()
        self._http: Any = Network(world, worker, url)


class Network:
    """Carries a worker's requests to a node: as they are, lost, doubled or late."""

    def __init__(self, world: Any, worker: SimulatedWorker, url: str) -> None:
        self.world = world
        self.worker = worker
        self.node = world.nodes[url.removeprefix("http://").partition(":")[0]]

    def post(
        self, url: str, *, content: bytes = b"", files: Sequence[Any] = (), **_: Any
    ) -> NetworkAnswer:
        """Carry a request with a body."""
        _, _, job, act = url.split("/")
        return self._carry(Call(job, act, "", content, tuple((n, part[1]) for n, part in files)))

    def build_request(self, method: str, url: str, *, content: bytes, headers: Any) -> Call:
        """Return a claim; of some workers the Instance comes in its answer."""
        _, _, job, act = url.split("/")
        is_asked = INSTANCE_HEADER in headers and self.world.gives_instance_to(self.worker.name)
        return Call(job, act, "", content, wants_instance=is_asked)

    def send(self, request: Call, *, stream: bool) -> NetworkAnswer:
        """Carry a request that was built."""
        return self._carry(request)

    @contextmanager
    def stream(self, method: str, url: str, headers: dict[str, str]) -> Iterator[NetworkAnswer]:
        """Carry a request whose answer comes piece by piece."""
        _, _, job, act = url.split("/")
        yield self._carry(Call(job, act, headers["X-Job-Token"], b""))

    def close(self) -> None:
        """Hold nothing."""

    def _carry(self, call: Call) -> NetworkAnswer:
        node = self.node
        self.world.effects.hit()
        fate = self.world.network.pop(0) if self.world.network else "well"
        if fate != "well":
            self.world.say(f"{self.worker.name}: {call.act} to {node.name}: {fate}")
        if fate == "lost":
            raise httpx2.ConnectError("lost")
        if fate == "late":
            self.world.late.append((node, call))
            raise httpx2.ReadTimeout("late")
        answer = serve(self.world, node, call)
        if fate == "doubled":
            answer = serve(self.world, node, call)
        self.world.effects.hit()
        if fate == "unanswered" or answer.status_code == 0:
            raise httpx2.ReadTimeout("no answer")
        return answer


_HEADERS = {WIRE_HEADER: str(WIRE_VERSION)}


@dataclass(frozen=True)
class NetworkAnswer:
    """What `NodeClient` asks of an answer of httpx; 0: nobody answers."""

    status_code: int
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: _HEADERS)

    def iter_bytes(self) -> Iterator[bytes]:
        """Yield the pieces."""
        yield self.content

    def read(self) -> bytes:
        """Return the whole body."""
        return self.content

    def close(self) -> None:
        """Hold nothing."""


@dataclass(frozen=True)
class Call:
    """A request to the job API."""

    job: str
    act: str
    token: str
    body: bytes
    parts: tuple[tuple[str, Any], ...] = ()
    wants_instance: bool = False


def serve(world: Any, node: Any, call: Call) -> NetworkAnswer:
    """Let a node's job API answer."""
    if not node.is_up["web"]:
        return NetworkAnswer(0)
    holder = world.holder(node, call.job)
    try:
        with world.effects.process(f"{node.name} web"):
            token, answer = _serve(node.desk, call)
    except Crashed as exc:
        node.die("web", exc)
        return NetworkAnswer(0)
    except ForeignResult as exc:
        world.fail("a result was refused as foreign", f"{node.name} {exc}")
        return NetworkAnswer(422)
    except ChexFractError as exc:
        kinds = ((NotFound, 404), (Stale, 409), (Transient, 503))
        return NetworkAnswer(next((code for kind, code in kinds if isinstance(exc, kind)), 400))
    if holder and token != holder:
        world.fail("a stale token was accepted", f"{node.name} {call.act}")
    world.effects.hit()
    return answer


def _serve(desk: Any, call: Call) -> tuple[str, NetworkAnswer]:
    """Return the token that a call bears, and the answer to it."""

    def said(kind: type[BaseModel]) -> Any:
        return kind.model_validate_json(call.body)

    if call.act == "claim":
        return json.loads(call.body)["token"], _claim(desk, call)
    if call.act == "instance":
        content = desk.instance(call.job, call.token).read_bytes()
        return call.token, NetworkAnswer(200, content)
    if call.act == "lease":
        body = said(LeaseRequest)
        return body.token, NetworkAnswer(200, json.dumps(desk.renew(call.job, body)).encode())
    if call.act == "release":
        body = said(ReleaseRequest)
        return body.token, NetworkAnswer(200, desk.release(call.job, body).encode())
    result, contents = _parts(call)
    desk.keep(call.job, result, contents)
    return result.token, NetworkAnswer(200, b"{}")


_HEAD = [(WIRE_HEADER.lower().encode(), str(WIRE_VERSION).encode())]
_HEAD_WITH_INSTANCE = [*_HEAD, (INSTANCE_HEADER.lower().encode(), b"1")]


def _claim(desk: Any, call: Call) -> NetworkAnswer:
    """Return the answer to a claim, with the Instance behind it where that is asked for."""
    head = CallHead(call.job, {"headers": _HEAD_WITH_INSTANCE if call.wants_instance else _HEAD})
    message, instance = ClaimCall(desk, None)._begin(head, BytesIO(call.body))  # type: ignore[arg-type]
    if instance is None:
        return NetworkAnswer(200, message)
    content = instance._piece  # these images are shorter than a piece
    instance.close()
    return NetworkAnswer(200, message + content, _HEADERS | {MESSAGE_HEADER: str(len(message))})


def _parts(call: Call) -> tuple[Result, dict[str, bytes]]:
    found = dict(call.parts)
    return Result.model_validate_json(found.pop("result")), found


# what stands in bytes -----------------------------------------------------------------------------


def facts_in(content: bytes, _kept: dict[bytes, Facts] = {}) -> Facts:  # noqa: B006
    """Return what identifies an image, from its Part 10 bytes."""
    if content not in _kept:
        from pydicom import dcmread

        ds = dcmread(BytesIO(content), stop_before_pixels=True)
        _kept[content] = Facts(ds.SOPInstanceUID, ds.PatientID, ds.StudyInstanceUID)
    return _kept[content]


class Said(NamedTuple):
    """What a report says of itself."""

    uid: str
    patient_id: str
    source_uid: str
    sop_class: str


def said_in(content: bytes, _kept: dict[bytes, Said] = {}) -> Said:  # noqa: B006
    """Return what a report says."""
    if content not in _kept:
        from pydicom import dcmread

        ds = dcmread(BytesIO(content))
        series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        source = series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        _kept[content] = Said(ds.SOPInstanceUID, ds.PatientID, source, ds.SOPClassUID)
        if len(_kept) > 20_000:
            _kept.clear()
            return said_in(content)
    return _kept[content]


def uid_in(content: bytes) -> str:
    """Return the SOP Instance UID of a report."""
    return said_in(content).uid


def chosen(drawn: random.Random, things: Sequence[Any]) -> Any:
    """Return one of some things."""
    return things[drawn.randrange(len(things))]
