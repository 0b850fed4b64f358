"""The ledger: what was received, what became of it, and who holds which work.

Every transition is one conditional UPDATE on (job, token, state), in one durable transaction with
the event that records it. `states` has the states and the transitions between them.
"""

from __future__ import annotations

from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any, Self

from dicom_node.base.errors import ChexFractError
from dicom_node.store.clock import Clock
from dicom_node.store.ledger.database import Database, Watch

if TYPE_CHECKING:
    from dicom_node.store.ledger.acts import Acts
    from dicom_node.store.ledger.api_keys import ApiKeys
    from dicom_node.store.ledger.commitments import Commitments, Uncommitted
    from dicom_node.store.ledger.deliveries import Deliveries, DueDelivery
    from dicom_node.store.ledger.filling import Filling
    from dicom_node.store.ledger.history import History
    from dicom_node.store.ledger.holds import Holds
    from dicom_node.store.ledger.instances import Instance, Instances, Receipt, Route
    from dicom_node.store.ledger.jobs import Claimed, Expired, Held, JobLedger, Waiting
    from dicom_node.store.ledger.past import PastEvents
    from dicom_node.store.ledger.purge import Purge
    from dicom_node.store.ledger.refused import RefusedCallers
    from dicom_node.store.ledger.repeats import Repeats
    from dicom_node.store.ledger.results import Results, Wanted
    from dicom_node.store.ledger.sessions import Sessions
    from dicom_node.store.ledger.studies import Studies
    from dicom_node.store.ledger.turns import NodeTurns
    from dicom_node.store.ledger.upgrading import Upgrading
    from dicom_node.store.ledger.upkeep import Upkeep
    from dicom_node.store.ledger.variants import ReportFile
    from dicom_node.store.ledger.views import DestinationState, as_json

__all__ = [
    "Claimed",
    "DestinationState",
    "DueDelivery",
    "Expired",
    "Held",
    "Instance",
    "Ledger",
    "Receipt",
    "ReportFile",
    "Route",
    "Uncommitted",
    "Waiting",
    "Wanted",
    "as_json",
]

_PLACES = {
    "Claimed": "jobs",
    "DestinationState": "views",
    "DueDelivery": "deliveries",
    "Expired": "jobs",
    "Held": "jobs",
    "Instance": "instances",
    "Receipt": "instances",
    "ReportFile": "variants",
    "Route": "instances",
    "Uncommitted": "commitments",
    "Waiting": "jobs",
    "Wanted": "results",
    "as_json": "views",
}
"""Where the other names of this module are defined."""

_PARTS = {
    "acts": "Acts",
    "api_keys": "ApiKeys",
    "commitments": "Commitments",
    "deliveries": "Deliveries",
    "filling": "Filling",
    "history": "History",
    "holds": "Holds",
    "instances": "Instances",
    "jobs": "JobLedger",
    "past": "PastEvents",
    "purge": "Purge",
    "refused": "RefusedCallers",
    "results": "Results",
    "sessions": "Sessions",
    "studies": "Studies",
    "turns": "NodeTurns",
    "upgrading": "Upgrading",
    "upkeep": "Upkeep",
}
"""The parts of a ledger: each the class of the module of the same name."""


def __getattr__(name: str) -> Any:
    """Import what is asked for: a command that looks at one image does without the rest."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


class Ledger:
    """All that is recorded of every Instance; open it with `Ledger.open`.

    Attributes
    ----------
    instances : Instances
        What was received.
    repeats : Repeats
        What came again under a known UID.
    refused : RefusedCallers
        Callers that were refused.
    jobs : JobLedger
        Hand-outs, claims, leases and results.
    deliveries : Deliveries
        Which report goes to which destination.
    commitments : Commitments
        Storage commitment of what was sent.
    acts : Acts
        What operators and readers do.
    history : History
        Traces, counts and events.
    studies : Studies
        The worklist by study.
    results : Results
        Reports in bulk: for export, Query/Retrieve and DICOMweb.
    purge : Purge
        What retention may remove.
    past : PastEvents
        Events of Instances that are over.
    filling : Filling
        What a migration leaves to be filled while the node runs.
    upgrading : Upgrading
        Indexes and counts that an upgrade leaves to be made.
    upkeep : Upkeep
        What keeps a ledger on SQLite quick.
    sessions : Sessions
        Who is signed in on the pages.
    api_keys : ApiKeys
        Keys by which programs act for a person.
    holds : Holds
        What people hold back until they let it go.
    turns : NodeTurns
        Which of several nodes does a kind of work now.
    database : Database
        The connection under all of them.
    """

    acts: Acts
    api_keys: ApiKeys
    commitments: Commitments
    deliveries: Deliveries
    filling: Filling
    history: History
    holds: Holds
    instances: Instances
    jobs: JobLedger
    past: PastEvents
    purge: Purge
    refused: RefusedCallers
    results: Results
    sessions: Sessions
    studies: Studies
    turns: NodeTurns
    upgrading: Upgrading
    upkeep: Upkeep

    def __init__(
        self, url: str, clock: Clock | None = None, database: Database | None = None
    ) -> None:
        self.clock = clock or Clock()
        self.database = database or Database(url)
        self._making = RLock()

    def __getattr__(self, name: str) -> Any:
        """Make the part that is asked for, once: its imports and statements take their time."""
        if name not in _PARTS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with self._making:
            made = vars(self)
            if name not in made:
                kind = getattr(import_module(f"{__name__}.{name}"), _PARTS[name])
                made[name] = kind(self.database, *self._needed_by(name))
            return made[name]

    def _needed_by(self, part: str) -> tuple[Any, ...]:
        """Return what a part needs beside the database."""
        if part in ("turns", "upgrading"):
            return ()
        return (self.clock, self.instances) if part == "acts" else (self.clock,)

    @property
    def repeats(self) -> Repeats:
        """What comes again under a known UID."""
        return self.instances.repeats

    def prepare(self, *parts: str) -> None:
        """Make parts now: what waits for them later must not wait for their imports."""
        for part in parts:
            getattr(self, part)

    @classmethod
    def open(cls, url: str, clock: Clock | None = None) -> Self:
        """Open the ledger at `url`, whose schema this software may use.

        Raises
        ------
        ConfigurationError
            There is no ledger yet, or its schema is older, or newer and changed for good.
        Unreachable
            The database gives no answer.
        """
        ledger = cls(url, clock)
        try:
            ledger.check()
        except ChexFractError:
            ledger.close()
            raise
        return ledger

    @staticmethod
    def upgrade(url: str) -> None:
        """Create the schema or bring it to this software's version.

        Raises
        ------
        ConfigurationError
            A newer version wrote the schema, and this one may not use it.
        Unreachable, OutOfResources
            The database gives no answer or is full.
        """
        from dicom_node.store.ledger.upgrading import Upgrading

        database = Database(url)
        try:
            database.migrate()
            Upgrading(database).at_start()
        finally:
            database.close()

    def check(self) -> None:
        """Raise `ConfigurationError` unless this software may use the schema."""
        self.database.check()

    def revision(self) -> str | None:
        """Return the version of the schema, None where there is no ledger yet."""
        return self.database.revision()

    def may_use(self, version: str | None) -> bool:
        """Return whether this software may work on a ledger of a schema version."""
        return self.database.may_use(version)

    def watch(self) -> Watch:
        """Return a cheap way to learn that somebody else has changed the ledger."""
        return self.database.watch()

    def why_read_only(self) -> str:
        """Return why nothing can be written; empty where it can."""
        return self.database.why_read_only()

    @property
    def name(self) -> str:
        """The URL without its password; for messages."""
        return self.database.name

    @property
    def url(self) -> str:
        """Where it is, with the password."""
        return self.database.url

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file on this host."""
        return self.database.is_sqlite

    def close(self) -> None:
        """Give the connections back."""
        if "turns" in vars(self):
            self.turns.close()
        self.database.close()
