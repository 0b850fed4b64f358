"""How many listeners, workers and couriers a number of radiographs a day needs: M/M/c, Erlang C.

Images come as people do, at random times, more of them in the busiest hour. A station of `c` equal
servers with random arrivals and random times of service is the textbook's M/M/c; real times of
service vary less than it assumes, so that its waits are upper bounds.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from dicom_node.store.ledger import Ledger
from dicom_node.store.ledger.history import MODEL_SHARE

BUSIEST_HOUR = 0.12
"""Share of a day's images in its busiest hour: a hospital's day has about ten busy hours."""

MOST_BUSY = 0.8
"""A plan leaves every station a fifth of its time: for a worse hour, and for a server that ends."""

RECENT_EVENTS = 20_000
"""So many of a ledger's last events say what its stages cost."""


@dataclass(frozen=True, slots=True)
class ImageCosts:
    """What one image costs, in seconds of one server of each station, and in other units."""

    receive_s: float = 0.05
    """A listener: 10 MB over a fast line, synced, with the ledger's commit."""
    model_s: float = 0.5
    """A GPU, per image at a full batch; it differs most between models: measure yours."""
    deliver_s: float = 0.1
    """A courier: a report over an open association, with the archive's answer."""
    transactions: float = 8.0
    """Ledger transactions that write: reception, hand-out, claim, lease, result, deliveries."""
    commands: float = 30.0
    """Redis commands, of node and worker together."""
    stored_mb: float = 10.0
    """Of the spool, for as long as retention keeps the image."""


@dataclass(frozen=True, slots=True)
class StationPlan:
    """A station that keeps its promise in the busiest hour."""

    station: str
    servers: int
    busy: float
    """Share of the time in which a server works."""
    mean_wait_s: float
    promised_wait_s: float
    """95 of 100 images wait no longer than that."""


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """What a site needs."""

    per_day: int
    per_second: float
    """In the busiest hour."""
    stations: tuple[StationPlan, ...]
    transactions_per_second: float
    commands_per_second: float
    stored_gb_per_day: float


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that somebody waits at all (Erlang's second formula).

    Parameters
    ----------
    servers : int
        Equal servers of one queue.
    load : float
        Arrivals a second times seconds of service (erlangs); below `servers`, or all wait.
    """
    if load >= servers:
        return 1.0
    blocked = 1.0
    for number in range(1, servers + 1):  # Erlang B by its recursion, which does not overflow
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_wait(servers: int, rate: float, service_s: float) -> float:
    """Return the seconds that an image waits on average before its service."""
    load = rate * service_s
    if load >= servers:
        return math.inf
    return erlang_c(servers, load) * service_s / (servers - load)


def late_share(servers: int, rate: float, service_s: float, wait_s: float) -> float:
    """Return the share of images that wait longer than `wait_s`."""
    load = rate * service_s
    if load >= servers:
        return 1.0
    return erlang_c(servers, load) * math.exp(-(servers - load) * wait_s / service_s)


def servers_needed(rate: float, service_s: float, wait_s: float, late: float = 0.05) -> int:
    """Return the fewest servers at which no more than a share of `late` waits over `wait_s`."""
    servers = max(1, math.ceil(rate * service_s))
    while late_share(servers, rate, service_s, wait_s) > late:
        servers += 1
    return servers


def plan_capacity(
    per_day: int, costs: ImageCosts, busiest_hour: float = BUSIEST_HOUR, wait_s: float = 60.0
) -> CapacityPlan:
    """Return what `per_day` images need.

    Parameters
    ----------
    busiest_hour : float
        Share of the day's images that come in its busiest hour.
    wait_s : float
        Longest wait for a worker, of 95 of 100 images. A modality waits for a listener: a second.
    """
    rate = per_day * busiest_hour / 3600
    stations = []
    for station, service_s, limit_s in (
        ("listeners", costs.receive_s, 1.0),
        ("workers", costs.model_s, wait_s),
        ("couriers", costs.deliver_s, wait_s),
    ):
        servers = servers_needed(rate, service_s, limit_s)
        servers = max(servers, math.ceil(rate * service_s / MOST_BUSY))
        busy = rate * service_s / servers
        wait = mean_wait(servers, rate, service_s)
        stations.append(StationPlan(station, servers, round(busy, 3), round(wait, 3), limit_s))
    return CapacityPlan(
        per_day,
        round(rate, 3),
        tuple(stations),
        round(rate * costs.transactions, 1),
        round(rate * costs.commands, 1),
        round(per_day * costs.stored_mb / 1000, 1),
    )


def measured_costs(ledger: Ledger, costs: ImageCosts) -> ImageCosts:
    """Return `costs` with the model's time of the ledger's last events, where there are any.

    The other stages are written down without a duration.
    """
    newest = ledger.history.newest_event()
    times = ledger.history.stage_times(max(0, newest - RECENT_EVENTS), newest)
    shares = [ms / 1000 for stage, ms in times if stage == MODEL_SHARE]
    return replace(costs, model_s=math.fsum(shares) / len(shares)) if shares else costs


def as_text(plan: CapacityPlan, costs: ImageCosts) -> str:
    """Return a plan for people."""
    lines = [f"images a day: {plan.per_day:,}, {plan.per_second:g} a second in the busiest hour"]
    lines += [f"{'station':<12}{'servers':>8}{'busy':>7}{'mean wait':>12}"]
    lines += [
        f"{row.station:<12}{row.servers:>8}{row.busy:>7.0%}{row.mean_wait_s:>10.2f} s"
        for row in plan.stations
    ]
    lines.append(f"ledger: {plan.transactions_per_second:g} transactions a second")
    lines.append(f"Redis: {plan.commands_per_second:g} commands a second")
    lines.append(f"spool: {plan.stored_gb_per_day:g} GB for each day of retention")
    said = ", ".join(f"{name} {value:g}" for name, value in asdict(costs).items())
    return "\n".join([*lines, f"at these costs an image: {said}"])
