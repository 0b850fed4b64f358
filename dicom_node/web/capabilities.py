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
        f"<resources base={quoteattr(base.rstrip('/') + ROOT)}>{''.join(_resource_elements())}"
        "</resources></application>"
    )


def as_json(base: str) -> str:
    """Return the description as JSON."""
    found = []
    for path, methods in _methods_by_path():
        described = [
            {
                "method": method.method,
                "service": method.service,
                "mediaTypes": list(method.media_types),
                "parameters": list(method.parameters),
            }
            | ({"payload": list(method.payload)} if method.payload else {})
            for method in methods
        ]
        found.append({"path": path, "methods": described})
    description: dict[str, Any] = {"base": base.rstrip("/") + ROOT, "resources": found}
    return json.dumps(description)


def _methods_by_path() -> Iterable[tuple[str, list[Resource]]]:
    ordered = sorted(RESOURCES, key=lambda resource: resource.path)
    return (
        (path, list(methods)) for path, methods in groupby(ordered, lambda resource: resource.path)
    )


def _resource_elements() -> Iterable[str]:
    for path, methods in _methods_by_path():
        yield f"<resource path={quoteattr(path.lstrip('/'))}>"
        for method in methods:
            names = "".join(
                f'<param name={quoteattr(name)} style="query"/>' for name in method.parameters
            )
            answers = "".join(_representation_element(kind) for kind in method.media_types)
            payload = "".join(_representation_element(kind) for kind in method.payload)
            yield (
                f"<method name={quoteattr(method.method)} id={quoteattr(method.service)}>"
                f"<request>{names}{payload}</request>"
                f'<response status="200">{answers}</response></method>'
            )
        yield "</resource>"


def _representation_element(kind: str) -> str:
    return f"<representation mediaType={quoteattr(kind)}/>"
