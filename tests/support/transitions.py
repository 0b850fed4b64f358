"""Each change of a state, as the database itself saw it: triggers write them down."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.states import (
    DELIVERY_TRANSITIONS,
    JOB_TRANSITIONS,
    UNSENT,
    DeliveryState,
    JobState,
)

KEPT = "CREATE TABLE transitions (n INTEGER PRIMARY KEY, what TEXT, id TEXT, old TEXT, new TEXT)"
SEEN = """
CREATE TRIGGER seen_{table} AFTER UPDATE OF state ON {table}
BEGIN
    INSERT INTO transitions (what, id, old, new)
    VALUES ('{table}', CAST(new.id AS TEXT), old.state, new.state);
END
"""
KEPT_POSTGRESQL = (
    "CREATE TABLE transitions (n SERIAL PRIMARY KEY, what TEXT, id TEXT, old TEXT, new TEXT)"
)
SEEN_POSTGRESQL = """
CREATE FUNCTION seen_{table}() RETURNS trigger AS $$
BEGIN
    INSERT INTO transitions (what, id, old, new)
    VALUES ('{table}', new.id::text, old.state, new.state);
    RETURN new;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER seen_{table} AFTER UPDATE OF state ON {table}
FOR EACH ROW EXECUTE FUNCTION seen_{table}();
"""

STARTS = {
    "jobs": {JobState.RECEIVED},
    "deliveries": {DeliveryState.PENDING, DeliveryState.RETRYING, DeliveryState.WITHHELD},
}
"""In which states rows begin."""


class Transition(NamedTuple):
    """One UPDATE of a state."""

    what: str
    id: str
    old: str
    new: str


def write_down(ledger: Ledger) -> None:
    """Let the database of `ledger` write each change of a state down from now on."""
    is_sqlite = ledger.is_sqlite
    with ledger.database.writing() as connection:
        connection.exec_driver_sql(KEPT if is_sqlite else KEPT_POSTGRESQL)
        for table in STARTS:
            connection.exec_driver_sql((SEEN if is_sqlite else SEEN_POSTGRESQL).format(table=table))


_WRITTEN = sa.text("SELECT what, id, old, new FROM transitions ORDER BY n")


def written(ledger: Ledger) -> list[Transition]:
    """Return every change of a state, in order."""
    with ledger.database.reading() as connection:
        return [Transition(*row) for row in connection.execute(_WRITTEN)]


def is_known(change: Transition) -> bool:
    """Return whether the tables of `states` have this transition."""
    if change.what == "jobs":
        return JobState(change.new) in JOB_TRANSITIONS[JobState(change.old)]
    old, new = DeliveryState(change.old), DeliveryState(change.new)
    stays = old in UNSENT and new in UNSENT
    return stays or old == new == DeliveryState.SENT or new in DELIVERY_TRANSITIONS[old]


def unknown(ledger: Ledger) -> list[Transition]:
    """Return the transitions that no table of `states` has."""
    return [change for change in written(ledger) if not is_known(change)]
