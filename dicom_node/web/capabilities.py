"""What the DICOMweb services can do, as OPTIONS tells it (PS3.18 8.9): WADL or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any
from xml.sax.saxutils import quoteattr

from dicom_node.standard.web_services import RESOURCES, ROOT, Resource

WADL = "application/vnd.sun.wadl+xml"
NAMESPACE = "http://wadl.dev.java.net/2009/02"


def as_wadl(base: str) -> str:
    """Return the description as WADL (PS3.18 H)."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><application xmlns="{NAMESPACE}">'
        f"<resources base={quoteattr(base.rstrip('/') + ROOT)}>{''.join(_resources())}"
        "</resources></application>"
    )


def as_json(base: str) -> str:
    """Return the description as JSON."""
    found = []
    for path, methods in _by_path():
        described = [
            {
                "method": one.method,
                "service": one.service,
                "mediaTypes": list(one.media_types),
                "parameters": list(one.parameters),
            }
            | ({"payload": list(one.payload)} if one.payload else {})
            for one in methods
        ]
        found.append({"path": path, "methods": described})
    description: dict[str, Any] = {"base": base.rstrip("/") + ROOT, "resources": found}
    return json.dumps(description)


def _by_path() -> Iterable[tuple[str, list[Resource]]]:
    ordered = sorted(RESOURCES, key=lambda one: one.path)
    return ((path, list(methods)) for path, methods in groupby(ordered, lambda one: one.path))


def _resources() -> Iterable[str]:
    for path, methods in _by_path():
        yield f"<resource path={quoteattr(path.lstrip('/'))}>"
        for one in methods:
            names = "".join(
                f'<param name={quoteattr(name)} style="query"/>' for name in one.parameters
            )
            answers = "".join(_representation(kind) for kind in one.media_types)
            payload = "".join(_representation(kind) for kind in one.payload)
            yield (
                f"<method name={quoteattr(one.method)} id={quoteattr(one.service)}>"
                f"<request>{names}{payload}</request>"
                f'<response status="200">{answers}</response></method>'
            )
        yield "</resource>"


def _representation(kind: str) -> str:
    return f"<representation mediaType={quoteattr(kind)}/>"
