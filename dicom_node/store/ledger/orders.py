"""What a job's report is to be like: what many jobs ask for alike is kept once."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

from dicom_node.base.job import ReportOrder

SHARED = frozenset(
    ("series_number", "series_description", "station_name", "serial_number", "objects")
) | {"sop_classes", "not_analysed"}
"""Fields that come from the configuration; the others are a job's own."""


def split_order(order: ReportOrder) -> tuple[str, str]:
    """Return what an order shares with others, as JSON, and what is its own, see `load_own`."""
    own = order.model_dump(mode="json", exclude=set(SHARED), exclude_defaults=True)
    short = _short_moment(order.content_datetime) if own.keys() == {_MOMENT} else ""
    kept = short or json.dumps(own, ensure_ascii=False, separators=(",", ":"))
    return order.model_dump_json(include=set(SHARED)), kept


def load_own(text: str) -> dict[str, Any]:
    """Return what is a job's own of its order.

    That is JSON, or its time alone where it is all there is, as with most: seconds since the epoch,
    and the minutes of its zone (``1795999898+60``).
    """
    if text.startswith("{"):
        own: dict[str, Any] = json.loads(text)
        return own
    seconds, sign, minutes = re.split("([+-])", text)
    zone = timezone(timedelta(minutes=int(sign + minutes)))
    return {_MOMENT: datetime.fromtimestamp(int(seconds), zone).isoformat()}


def _short_moment(moment: datetime) -> str:
    """Return a time in short; empty for what would lose a part of it."""
    offset = moment.utcoffset() or timedelta()
    if moment.microsecond or offset.total_seconds() % 60:
        return ""
    return f"{int(moment.timestamp())}{round(offset.total_seconds() / 60):+d}"


_MOMENT = "content_datetime"


def order_of(row: Any, shared: str | None) -> ReportOrder:
    """Return the whole order of a job.

    Parameters
    ----------
    row
        Of jobs; without ``order_id`` its ``report_order`` is whole.
    shared : str, optional
        The content of the order that ``order_id`` names.
    """
    if row.order_id is None or not shared:
        order = ReportOrder.model_validate_json(row.report_order)
    else:
        order = ReportOrder.model_validate(json.loads(shared) | load_own(row.report_order))
    # Before, an SR was made for each class; the first is made now, and recast for who wants others.
    return order.model_copy(update={"sop_classes": order.sop_classes[:1]})


def has_judgement(own: str) -> bool:
    """Tell whether a job repeats another job's text with what a reader thinks of it.

    Parameters
    ----------
    own : str
        The job's ``report_order``.
    """
    return '"judgement"' in own and json.loads(own).get("judgement") is not None
