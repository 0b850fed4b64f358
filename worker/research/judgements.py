"""What readers thought of results, out of a node's export, as labels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from worker.text.findings import Presence, as_json, parse

Row = dict[str, str]


def judged_labels(rows: Iterable[Row]) -> list[Row]:
    """Return a label for each image that a reader judged so that its truth is known.

    A reader who agrees says what the model said. One who disagrees says what the corrected text
    says; without any text, and with each fracture denied, that there is none. A disagreement that
    explains nothing gives no label. Of several judgements of an image the last counts.
    """
    latest: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row.get("judged_at", "")):
        uid = row.get("sop_instance_uid", "")
        if uid and (label := _judged_label(row)) is not None:
            latest[uid] = {"sop_instance_uid": uid, **label}
    return list(latest.values())


def _judged_label(row: Row) -> Row | None:
    if row.get("judgement") == "agree":
        fractures = _json_objects(row.get("fractures", ""))
        presence, text = row.get("presence", ""), row.get("text", "")
    elif row.get("judgement") == "disagree" and row.get("corrected_text"):
        text = row["corrected_text"]
        found = as_json(parse(text))
        presence, fractures = str(found["presence"]), found["fractures"]
    elif row.get("judgement") == "disagree" and _denies_each(row):
        presence, text, fractures = Presence.ABSENT.value, "", []
    else:
        return None
    truth = {Presence.PRESENT.value: "1", Presence.ABSENT.value: "0"}.get(presence)
    if truth is None:
        return None
    return {
        "fracture": truth,
        "text": text,
        "findings": "; ".join(_place_words(fracture) for fracture in fractures),
        "reader": row.get("judged_by", ""),
        "judged_model": row.get("model", ""),
    }


def _denies_each(row: Row) -> bool:
    """Return whether a reader denied each fracture that the model named."""
    verdicts = [finding.get("verdict") for finding in _json_objects(row.get("judged_findings", ""))]
    named = _json_objects(row.get("fractures", ""))
    return bool(named) and len(verdicts) >= len(named) and set(verdicts) == {"disagree"}


def _json_objects(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text) if text else []
    except ValueError:
        return []
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _place_words(fracture: dict[str, Any]) -> str:
    words = (fracture.get(name) for name in ("age", "side", "bone", "number"))
    return " ".join(str(word) for word in words if word not in (None, ""))
