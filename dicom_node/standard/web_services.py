"""The DICOMweb resources that this node serves, with their methods and media types (PS3.18 10)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ROOT: Final = "/dicom-web"

STUDY: Final = "/studies/{study}"
SERIES: Final = "/studies/{study}/series/{series}"
INSTANCE: Final = "/studies/{study}/series/{series}/instances/{instance}"

_JSON = ("application/dicom+json", "application/json")
DATA_SETS: Final = (*_JSON, 'multipart/related; type="application/dicom+xml"')
"""Media types of attributes: searches and metadata."""

_FILES = ('multipart/related; type="application/dicom"', "application/dicom")
_PICTURES = ("image/jpeg", "image/png")
_RENDERED = ("text/html", "text/plain", *_PICTURES, "application/pdf")
_RELATED_OCTETS = 'multipart/related; type="application/octet-stream"'
_FRAMES = (_RELATED_OCTETS, "application/octet-stream")
_ANSWERS = (*_JSON, "application/dicom+xml")

SEARCH_PARAMETERS: Final = (
    "{attribute}",
    "accept",
    "charset",
    "emptyvaluematching",
    "fuzzymatching",
    "includefield",
    "limit",
    "multiplevaluematching",
    "offset",
    "orderby",
)
RENDERED_PARAMETERS: Final = ("accept", "charset", "viewport", "window")


@dataclass(frozen=True, slots=True)
class Resource:
    """What one method does with one resource."""

    service: str
    method: str
    path: str
    """Below `ROOT`."""
    media_types: tuple[str, ...]
    """Of the response; the first one where the client has no wish."""
    parameters: tuple[str, ...] = ("accept", "charset")
    payload: tuple[str, ...] = ()
    """Media types of the request's body."""


def _search_resources() -> tuple[Resource, ...]:
    paths = ("/studies", "/series", "/instances")
    below = (f"{STUDY}/series", f"{STUDY}/instances", f"{SERIES}/instances")
    return tuple(
        Resource("QIDO-RS", "GET", path, DATA_SETS, SEARCH_PARAMETERS) for path in (*paths, *below)
    )


def _retrieve_resources() -> tuple[Resource, ...]:
    found = []
    for path in (STUDY, SERIES, INSTANCE):
        found += [
            Resource("WADO-RS", "GET", path, _FILES),
            Resource("WADO-RS", "GET", f"{path}/metadata", DATA_SETS),
            Resource("WADO-RS", "GET", f"{path}/rendered", _RENDERED, RENDERED_PARAMETERS),
            Resource("WADO-RS", "GET", f"{path}/thumbnail", _PICTURES, RENDERED_PARAMETERS),
        ]
    frames = f"{INSTANCE}/frames/{{frames}}"
    return (
        *found,
        Resource("WADO-RS", "GET", frames, _FRAMES),
        Resource("WADO-RS", "GET", f"{frames}/rendered", _PICTURES, RENDERED_PARAMETERS),
        Resource("WADO-RS", "GET", f"{frames}/thumbnail", _PICTURES, RENDERED_PARAMETERS),
        Resource(
            "WADO-RS",
            "GET",
            f"{INSTANCE}/bulkdata/{{tag}}",
            (_RELATED_OCTETS, "application/octet-stream", "application/pdf"),
        ),
    )


RESOURCES: Final = (
    *_search_resources(),
    *_retrieve_resources(),
    Resource("STOW-RS", "POST", "/studies", _ANSWERS, payload=_FILES),
    Resource("STOW-RS", "POST", STUDY, _ANSWERS, payload=_FILES),
)
"""Every GET is answered to HEAD, too, and OPTIONS names the capabilities."""

STORE_STATUSES: Final = (
    (200, "all stored"),
    (202, "some failed"),
    (400, "the body is not what its Content-Type says"),
    (406, "no media type of the answer is accepted"),
    (409, "all failed"),
    (413, "too many parts"),
    (415, "another media type, or an encoding"),
    (503, "no room"),
)
"""HTTP statuses of a store, beside 401 and 403 for who may not, and when."""

STORE_FAILURES: Final = (
    (0xA700, "no room, or no ledger: store later"),
    (0x0122, "SOP Class not supported"),
    (0xC122, "transfer syntax not supported"),
    (0xA900, "the data set is of another SOP Class"),
    (0xC409, "not an Instance of the study in the path"),
    (0xC000, "not understood"),
)
"""Failure Reason (0008,1197) in a Store Instances Response, and when."""
