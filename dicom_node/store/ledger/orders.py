"""What a job's report is to be like: what many jobs ask for alike is kept once."""

from __future__ import annotations

import json
from typing import Any

from dicom_node.base.job import ReportOrder

SHARED = frozenset(
    ("series_number", "series_description", "station_name", "serial_number", "objects")
) | {"sop_classes", "not_analysed"}
"""Fields that come from the configuration; the others are a job's own."""


def split_order(order: ReportOrder) -> tuple[str, str]:
    """Return what an order shares with others, and what is its own, as JSON."""
    own = order.model_dump_json(exclude=set(SHARED), exclude_defaults=True)
    return order.model_dump_json(include=set(SHARED)), own


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
        order = ReportOrder.model_validate(json.loads(shared) | json.loads(row.report_order))
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
