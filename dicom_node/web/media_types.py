"""Which representation a client takes, by Accept header or parameter (PS3.18 8.7, RFC 9110)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

DICOM: Final = "application/dicom"
JSON: Final = "application/dicom+json"
PLAIN_JSON: Final = "application/json"
XML: Final = "application/dicom+xml"
OCTETS: Final = "application/octet-stream"
RELATED: Final = "multipart/related"
FORM_DATA: Final = "multipart/form-data"

MAX_ACCEPT = 4096
"""Characters of an Accept header that are looked at."""

_COMPARED = ("type", "transfer-syntax")
"""Parameters of a media type that tell representations apart."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type, or a range of them in an Accept header."""

    name: str
    parameters: dict[str, str]

    @property
    def quality(self) -> float:
        """The weight ``q`` of a range; what cannot be read counts as 1."""
        try:
            return min(1.0, max(0.0, float(self.parameters.get("q", "1")[:8])))
        except ValueError:
            return 1.0

    def specificity(self, offered: MediaType) -> int:
        """Return how closely this range fits, -1 where it does not."""
        main = offered.name.partition("/")[0]
        if self.name not in ("*/*", f"{main}/*", offered.name):
            return -1
        named = 0
        for key in _COMPARED:
            wanted = self.parameters.get(key, "*")
            if wanted in ("*", "*/*"):
                continue
            if wanted.lower() != offered.parameters.get(key, "").lower():
                return -1
            named += 1
        return named + 10 * ("*/*", f"{main}/*", offered.name).index(self.name)


def parse(text: str) -> MediaType:
    """Return a media type with its parameters; quoted values lose their quotes."""
    name, *parameters = _split_unquoted(text, ";")
    pairs = (parameter.partition("=") for parameter in parameters)
    # A plus sign that was not encoded arrives in a query parameter as a blank.
    bare = name.strip().lower().replace(" ", "+")
    return MediaType(bare, {key.strip().lower(): _without_quotes(value) for key, _, value in pairs})


def choose(request: Request, offered: Sequence[str]) -> str:
    """Return the one of `offered` that the client likes best, the first where it has no wish.

    Raises
    ------
    HTTPException
        406: it takes none of them.
    """
    ranges = [
        parse(media_range)
        for media_range in _split_unquoted(_asked_ranges(request), ",")
        if media_range.strip()
    ]
    best, weight = "", 0.0
    for kind in offered:
        media_type = parse(kind)
        fits = [
            (media_range.specificity(media_type), media_range.quality) for media_range in ranges
        ]
        _, quality = max((fit for fit in fits if fit[0] >= 0), default=(0, 0.0))
        if quality > weight:
            best, weight = kind, quality
    if not best:
        raise HTTPException(406, f"this is available as {', '.join(offered)}")
    return best


def _asked_ranges(request: Request) -> str:
    """Return the media ranges of the request; the query parameter comes first (PS3.18 8.3.3.1)."""
    asked = ",".join(request.query_params.getlist("accept"))
    asked = asked or ",".join(request.headers.getlist("accept"))
    return asked[:MAX_ACCEPT] if asked.strip() else "*/*"


def _split_unquoted(text: str, mark: str) -> Iterator[str]:
    """Yield the parts of a header between marks that stand in no quotes."""
    start, is_quoted = 0, False
    for at, character in enumerate(text):
        if character == '"':
            is_quoted = not is_quoted
        elif character == mark and not is_quoted:
            yield text[start:at]
            start = at + 1
    yield text[start:]


def _without_quotes(value: str) -> str:
    return value.strip().strip('"')
