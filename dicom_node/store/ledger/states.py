"""The states of Instances, jobs and deliveries, and which transitions between them exist."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class InstanceState(StrEnum):
    """How an Instance was taken in."""

    ROUTED = "routed"
    """A rule matched: it has a job."""
    IGNORED = "ignored"
    """No rule matched; the reason is kept."""


class JobState(StrEnum):
    """How far the work of one model on one Instance is."""

    RECEIVED = "received"
    """It waits for its turn, or for `next_at`."""
    QUEUED = "queued"
    """A ticket for it is in the broker until `until`."""
    RUNNING = "running"
    """A worker holds it by its token; the lease ends at `until`."""
    REPORTED = "reported"
    """The one result is recorded."""
    REJECTED = "rejected"
    """The one result is recorded: the image was not analysed, and why."""
    FAILED = "failed"
    """No result after the last attempt; `retry` begins again."""


class DeliveryState(StrEnum):
    """How far one report is on its way to one destination."""

    PENDING = "pending"
    """It was not tried yet."""
    RETRYING = "retrying"
    """It could not be sent; the reason and the next time are kept."""
    WITHHELD = "withheld"
    """It is not sent: shadow rule, demonstration model, or the destination takes no such kind."""
    SENT = "sent"
    """The destination answered its C-STORE with success or a warning."""
    COMMITTED = "committed"
    """The destination has committed to keep it (PS3.4 Annex J)."""
    SETTLED = "settled"
    """A person says that the destination has it; the reason has who."""
    GIVEN_UP = "given up"
    """It is tried no more: a person or ``delivery.give_up`` has ended it."""


OPEN = (JobState.RECEIVED, JobState.QUEUED, JobState.RUNNING)
"""A job in one of these has no result yet and gets one without an operator's act."""

HELD = (JobState.QUEUED, JobState.RUNNING)
"""A token holds a job in one of these until its time is over."""

WITH_RESULT = (JobState.REPORTED, JobState.REJECTED)
"""A job in one of these has its one result."""

FINAL = (*WITH_RESULT, JobState.FAILED)
"""A job in one of these changes by an operator's act only."""

FINDINGS: Mapping[str, str] = {"present": "p", "undetermined": "u", "absent": "a"}
"""The letter that a job has for what its report says, in the order in which reports are sorted."""

NO_FINDING = "n"
"""The letter of a job whose result says nothing of fractures."""

UNSENT = (DeliveryState.PENDING, DeliveryState.RETRYING)
"""A delivery in one of these is tried until it is sent."""

TAKEN = (DeliveryState.SENT, DeliveryState.COMMITTED)
"""A delivery in one of these is at its destination."""

RESENT = (*TAKEN, DeliveryState.SETTLED, DeliveryState.GIVEN_UP)
"""A delivery in one of these is sent once more by `resend`."""

JOB_TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.RECEIVED: frozenset({JobState.QUEUED}),
    JobState.QUEUED: frozenset({JobState.RECEIVED, JobState.RUNNING}),
    JobState.RUNNING: frozenset({JobState.RECEIVED, *FINAL}),
    JobState.REPORTED: frozenset(),
    JobState.REJECTED: frozenset(),
    JobState.FAILED: frozenset({JobState.RECEIVED}),  # retry
}
"""Where a job can go from each state; each arrow is one conditional UPDATE."""

_ENDED = (DeliveryState.SETTLED, DeliveryState.GIVEN_UP)

DELIVERY_TRANSITIONS: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset(
        {DeliveryState.RETRYING, DeliveryState.SENT, DeliveryState.WITHHELD, *_ENDED}
    ),
    DeliveryState.RETRYING: frozenset(
        {DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.WITHHELD, *_ENDED}
    ),
    DeliveryState.WITHHELD: frozenset({DeliveryState.PENDING}),  # release
    DeliveryState.SETTLED: frozenset({DeliveryState.PENDING}),  # resend
    DeliveryState.GIVEN_UP: frozenset({DeliveryState.PENDING}),  # resend
    DeliveryState.SENT: frozenset(
        {DeliveryState.COMMITTED, DeliveryState.RETRYING, DeliveryState.PENDING}  # resend
    ),
    DeliveryState.COMMITTED: frozenset({DeliveryState.PENDING}),  # resend
}
"""Where a delivery can go from each state; pending and retrying may also follow themselves."""
