"""The JSON schema of worker.toml, with each engine's own keys, for editors."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from dicom_node.base.json_schema import document, explain
from worker import settings
from worker.models import options


def schema() -> dict[str, Any]:
    """Return the schema; a ``[models.NAME]`` table is that of its ``engine``."""
    content = document(settings.Settings, settings)
    _, engines = models_json_schema([(kind, "validation") for kind in options.KINDS.values()])
    tables = engines["$defs"]
    explain(tables, options)
    for engine, kind in options.KINDS.items():
        field = {"const": engine, "title": "Engine", "type": "string"}
        tables[kind.__name__]["properties"]["engine"] = field
    choices = [{"$ref": f"#/$defs/{kind.__name__}"} for kind in options.KINDS.values()]
    content["$defs"] |= tables | {"Model": {"title": "Model", "anyOf": choices}}
    return content
