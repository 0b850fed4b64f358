"""Radiographs out of an archive by DICOMweb: QIDO-RS finds them, WADO-RS fetches them (PS3.18)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from dicom_node.base.errors import ChexFractError, ConfigurationError, Unreachable
from dicom_node.base.rims import foreign_code
from worker.research.sources import Source, WalkResult

MODALITIES = ("CR", "DX")
_PAGE = 200
_TIMEOUT_S = 60.0
_MOST_STUDIES = 1_000_000


@dataclass(frozen=True, slots=True)
class WebArchive:
    """Where an archive is, and what is shown to it."""

    url: str
    token: str = ""
    """Bearer token, or ``user:password`` for basic authentication."""
    ca: Path | None = None


def is_address(source: str) -> bool:
    """Return whether a source is an archive's address and not a file."""
    return source.lower().startswith(("http://", "https://"))


def find(archive: WebArchive, query: str, accessions: Sequence[str]) -> WalkResult:
    """Return the CR and DX Instances of the studies that fit, each read when it is needed.

    Parameters
    ----------
    archive : WebArchive
        Its address may bring a query of its own, behind a question mark.
    query : str
        Keys and values of QIDO-RS, such as ``PatientID=7&StudyDate=20260101-20260131``.
    accessions : sequence of str
        Studies with these accession numbers.

    Raises
    ------
    ConfigurationError
        A query is missing, or the archive does not understand it.
    Unreachable
        The archive gives no answer.
    """
    parts = urlsplit(archive.url)
    keys = dict(parse_qsl(parts.query)) | dict(parse_qsl(query))
    if not keys and not accessions:
        raise ConfigurationError(
            f"{archive.url}: needs --query or --accessions; a whole archive is not read"
        )
    root = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
    reader = _Reader(root, archive)
    filters = [keys | {"AccessionNumber": number} for number in accessions] or [keys]
    found = WalkResult()
    for fields in filters:
        studies = reader.studies(fields)
        if not studies:
            shown = "&".join(f"{key}={value}" for key, value in fields.items())
            found.companions.append(f"{root}/studies?{shown}: no such study")
        for study in studies:
            for source in reader.instances(study, found.companions):
                found.sources.append(source)
    return found


class _Reader:
    """The client, with errors in this project's words."""

    def __init__(self, root: str, archive: WebArchive) -> None:
        try:
            import requests
            from dicomweb_client.api import DICOMwebClient
        except ImportError as exc:
            raise ConfigurationError(
                "DICOMweb needs dicomweb-client: pip install 'chexfract-node[research]'"
            ) from exc
        session = requests.Session()
        if ":" in archive.token:
            name, _, password = archive.token.partition(":")
            session.auth = (name, password)
        elif archive.token:
            session.headers["Authorization"] = f"Bearer {archive.token}"
        if archive.ca is not None:
            session.verify = str(archive.ca)
        self._failures: Any = requests.RequestException
        self._root = root
        self._client = DICOMwebClient(root, session=session, timeout=_TIMEOUT_S)
        self._client.set_http_retry_params(
            retry=True, max_attempts=4, wait_exponential_multiplier=500
        )

    def studies(self, filters: dict[str, str]) -> list[str]:
        found: dict[str, None] = {}
        while len(found) < _MOST_STUDIES:
            page = self._ask_archive(
                partial(
                    self._client.search_for_studies,
                    search_filters=filters,
                    limit=_PAGE,
                    offset=len(found),
                )
            )
            before = len(found)
            found.update((uid, None) for entry in page if (uid := _first_value(entry, "0020000D")))
            # A server without paging gives the same answer again.
            if len(page) < _PAGE or len(found) == before:
                break
        return list(found)

    def instances(self, study: str, skipped: list[str]) -> Iterator[Source]:
        for entry in self._ask_archive(partial(self._client.search_for_series, study)):
            series, modality = _first_value(entry, "0020000E"), _first_value(entry, "00080060")
            if modality not in MODALITIES:
                skipped.append(f"{self._root}/studies/{study}/series/{series}: {modality or '?'}")
                continue
            for instance in self._ask_archive(
                partial(self._client.search_for_instances, study, series)
            ):
                uid = _first_value(instance, "00080018")
                name = f"{self._root}/studies/{study}/series/{series}/instances/{uid}"
                yield Source(name, partial(self._fetch_instance, study, series, uid))

    def _ask_archive(self, request: Any) -> list[dict[str, Any]]:
        try:
            return list(request())
        except self._failures as exc:
            raise self._explain_failure(exc) from exc
        except ValueError as exc:
            raise ConfigurationError(
                f"{self._root}: a query that is not understood: {exc}"
            ) from exc

    def _fetch_instance(self, study: str, series: str, uid: str) -> bytes:
        import io

        broken = OSError(0, "The archive's answer is not a DICOM object.")
        try:
            # The client parses whatever the archive sends.
            with foreign_code(lambda _: broken, passes=(ChexFractError, self._failures)):
                # In whatever transfer syntax it is kept: nothing is to be compressed again.
                ds = self._client.retrieve_instance(
                    study, series, uid, media_types=(("application/dicom", "*"),)
                )
        except self._failures as exc:
            raise OSError(0, f"The archive does not give it: {self._explain_failure(exc)}") from exc
        file = io.BytesIO()
        ds.save_as(file, enforce_file_format=True)
        return file.getvalue()

    def _explain_failure(self, exc: Any) -> Exception:
        status = getattr(getattr(exc, "response", None), "status_code", None)
        if status in (401, 403):
            return ConfigurationError(f"{self._root}: answers {status}; see --token-file")
        if status is not None and status < 500:
            return ConfigurationError(f"{self._root}: answers {status}; is it a DICOMweb root?")
        if status is not None:
            return Unreachable(f"{self._root}: answers {status}")
        kind = type(exc).__name__
        advice = "; its certificate is not trusted, see --ca" if "SSL" in kind else ""
        return Unreachable(f"{self._root}: no answer ({kind}){advice}")


def _first_value(found: dict[str, Any], tag: str) -> str:
    values = (found.get(tag) or {}).get("Value") or [""]
    return str(values[0])
