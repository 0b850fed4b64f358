"""The ledger: what was received, what became of it, and who holds which work.

Every transition is one conditional UPDATE on (job, token, state), in one durable transaction with
the event that tells of it. States of a job::

    received -> queued -> running -> reported | rejected
        ^---------+----------+-----> failed

and of a delivery: ``pending -> sent -> committed``, ``retrying`` in between and back to from
``sent`` when the destination does not commit, or ``withheld``.
"""

from __future__ import annotations

from dicom_node.store.ledger.acts import Acts
from dicom_node.store.ledger.commitments import Commitments, Uncommitted
from dicom_node.store.ledger.deliveries import Delivery, Line, Stored
from dicom_node.store.ledger.history import History
from dicom_node.store.ledger.instances import Instance, Receipt, Route
from dicom_node.store.ledger.jobs import Claimed, Expired, Jobs, Waiting
from dicom_node.store.ledger.purge import Purge
from dicom_node.store.ledger.results import Results

__all__ = [
    "Claimed",
    "Delivery",
    "Expired",
    "Instance",
    "Ledger",
    "Line",
    "Receipt",
    "Route",
    "Stored",
    "Uncommitted",
    "Waiting",
]


class Ledger(Acts, Jobs, Commitments, Purge, History, Results):
    """All that is known of every Instance; open it with `Ledger.open`."""
