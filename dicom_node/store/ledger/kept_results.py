"""The result of a job as the ledger keeps it: the one writer and reader of ``jobs.result``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dicom_node.base.job import Result

_IN_COLUMNS = {
    "token",
    "outcome",
    "model",
    "model_version",
    "device_uid",
    "options",
    "demonstration",
    "objects",
}
"""What of a result has columns or rows of its own and is not kept in its JSON again."""

_SHORT = {
    "text": "t",
    "presence": "p",
    "fractures": "f",
    "warnings": "w",
    "reason": "r",
    "batch": "b",
}
_SHORT_OF_FRACTURE = {"bone": "b", "number": "n", "side": "s", "certainty": "c", "age": "a"}
"""Short names since 0011; results of before have the long ones."""

_STAGES = ("fetch", "decode", "inputs", "model", "report")
"""Stages of a worker: where a result has no others, their times stand in a list, in this order."""

_LONG = {short: name for name, short in _SHORT.items()}
_LONG_OF_FRACTURE = {short: name for name, short in _SHORT_OF_FRACTURE.items()}
_TIMES, _SHORT_TIMES = "stages_ms", "m"


def dump_result(result: Result) -> str:
    """Return what of a result has no column of its own, as JSON."""
    return dump_content(result.model_dump(exclude=_IN_COLUMNS, exclude_defaults=True))


def dump_content(content: Mapping[str, Any]) -> str:
    """Return what `load_result` gave as the ledger keeps it."""
    kept = {_SHORT.get(name, name): value for name, value in content.items()}
    if "f" in kept:
        kept["f"] = [_renamed(fracture, _SHORT_OF_FRACTURE) for fracture in kept["f"]]
    times = kept.get(_TIMES)
    if times and list(times) == [stage for stage in _STAGES if stage in times]:
        kept[_SHORT_TIMES] = [times.get(stage) for stage in _STAGES]
        del kept[_TIMES]
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"))


def load_result(text: str) -> dict[str, Any]:
    """Return what of a result has no column, by the names of `Result`; empty without a result."""
    kept: dict[str, Any] = json.loads(text) if text else {}
    content = _renamed(kept, _LONG)
    if "f" in kept:
        content["fractures"] = [_renamed(found, _LONG_OF_FRACTURE) for found in kept["f"]]
    if _SHORT_TIMES in kept:
        pairs = zip(_STAGES, content.pop(_SHORT_TIMES), strict=True)
        content[_TIMES] = {stage: ms for stage, ms in pairs if ms is not None}
    return content


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}
