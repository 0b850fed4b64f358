"""The wall clock that people of this site read: ``node.time_zone``, or else the host's."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_zones: dict[str, tzinfo] = {}

CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))


def find_zone(name: str) -> tzinfo:
    """Return a zone by its IANA name, such as ``Europe/Berlin``.

    Raises
    ------
    ValueError
        There is none of this name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as exc:
        raise ValueError(f"{name!r} is not a time zone; write one such as Europe/Berlin") from exc


def set_zone(name: str) -> None:
    """Let this process tell times in the zone `name`; empty for that of the host."""
    _zones.clear()
    if name:
        _zones["site"] = find_zone(name)


def local_time(at: float | None = None) -> datetime:
    """Return a moment (seconds since the epoch, else now) as the site's clocks show it."""
    moment = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
    return moment.astimezone(_zones.get("site"))


def spoken_duration(seconds: float) -> str:
    """Return a time as people say it: one number, one unit."""
    if seconds < 10:
        return f"{seconds:.1f}\u00a0s"
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.0f}\u00a0{unit}"
    return f"{seconds / 86400:.0f}\u00a0days"


def read_local(text: str) -> float:
    """Return an ISO 8601 date or time of the site's clocks as seconds since the epoch.

    Raises
    ------
    ValueError
        It is not a date.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=_zones.get("site")) if _zones else moment.astimezone()
    return moment.timestamp()


def is_zone_doubtful() -> bool:
    """Return whether nobody has said which time it is here: a container without TZ is in UTC."""
    is_container = any(mark.exists() for mark in CONTAINER_MARKS) or (
        "KUBERNETES_SERVICE_HOST" in os.environ
    )
    is_utc = time.localtime().tm_gmtoff == 0 and not time.daylight
    return not _zones and is_container and is_utc and not os.environ.get("TZ")
