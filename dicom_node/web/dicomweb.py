"""DICOMweb over the reports: QIDO-RS and WADO-RS; images come in by STOW-RS.

DICOM PS3.18 10. Queries and objects are those of Query/Retrieve (`store.catalogue`).
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydicom import config, dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from starlette.exceptions import HTTPException

from dicom_node.base.errors import NotFound
from dicom_node.base.logs import Sparse
from dicom_node.credentials import Credentials
from dicom_node.dimse import Sender
from dicom_node.flow.intake import Intake
from dicom_node.settings import Settings
from dicom_node.store.catalogue import CHARACTER_SET, Catalogue, Level, Stored
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool
from dicom_node.store.uses import Note, Use, encoded, noting, studies_of
from dicom_node.web import tree
from dicom_node.web.sessions import Door, from_our_page
from dicom_node.web.stow import Storing, boundary

ROOT = "/dicom-web"

_old = Sparse(logging.getLogger(__name__), per_minute=1)

MOST = 1000
"""Matches in one answer; the rest is asked for with ``offset``."""

_CHUNK = 1 << 18
_BULK = 1024
"""Bytes above which a binary value is not part of the metadata."""

_JSON = "application/dicom+json"
_DICOM = "application/dicom"
_ALWAYS = {
    "STUDY": "StudyDate StudyTime AccessionNumber InstanceAvailability ModalitiesInStudy "
    "ReferringPhysicianName TimezoneOffsetFromUTC PatientName PatientID PatientBirthDate "
    "PatientSex StudyInstanceUID StudyID StudyDescription NumberOfStudyRelatedSeries "
    "NumberOfStudyRelatedInstances",
    "SERIES": "Modality TimezoneOffsetFromUTC SeriesDescription SeriesInstanceUID SeriesNumber "
    "StudyInstanceUID NumberOfSeriesRelatedInstances",
    "IMAGE": "SOPClassUID SOPInstanceUID InstanceAvailability TimezoneOffsetFromUTC InstanceNumber "
    "Modality StudyInstanceUID SeriesInstanceUID CompletionFlag VerificationFlag ContentDate "
    "ContentTime Rows Columns BitsAllocated",
}
"""What a match says unasked (PS3.18 Tables 10.6.3-3 to 10.6.3-5)."""

_ORDER: tuple[Level, ...] = ("STUDY", "SERIES", "IMAGE")

Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]


def routes(
    settings: Settings, ledger: Ledger, spool: Spool, door: Door, credentials: Credentials
) -> APIRouter:
    """Return the services; each needs the secret of DICOMweb clients, or a sign-in."""
    client = _clients(door, credentials)
    router = APIRouter(prefix=ROOT)
    catalogue = Catalogue(ledger, spool, settings.node.ae_title)
    trail = _Trail(noting(settings, ledger))
    _add_queries(router, catalogue, settings, client, trail)
    _add_retrieval(router, catalogue, settings, client, trail)
    _add_storage(router, Intake(settings, spool, ledger), settings, client)
    return router


Client = Callable[[Request], str]


class _Trail:
    """Notes who uses what, for the audit trail."""

    def __init__(self, note: Note) -> None:
        self._note = note

    def queried(self, request: Request, name: str) -> None:
        """Note a search."""
        self._keep("queried", request, name, query=encoded(request.url.query.encode()))

    def retrieved(self, request: Request, name: str, found: Sequence[Stored]) -> None:
        """Note that objects, or all that stands in them, were sent."""
        self._keep("retrieved", request, name, studies=studies_of(found))

    def accessed(self, request: Request, name: str, found: Sequence[Stored]) -> None:
        """Note that reports were shown."""
        self._keep("accessed", request, name, studies=studies_of(found))

    def _keep(self, what: Any, request: Request, name: str, **told: Any) -> None:
        address = request.client.host if request.client else ""
        use = Use(what, name or "DICOMweb secret", request.url.path, address=address, **told)
        self._note(use)


def _clients(door: Door, credentials: Credentials) -> Client:
    own, of_workers = (
        f"Bearer {secret}".encode() for secret in (credentials.dicomweb, credentials.jobs)
    )

    def client(request: Request) -> str:
        """Return the name of who asks; that of a program with the secret is empty."""
        shown = request.headers.get("authorization", "").encode()
        if hmac.compare_digest(shown, own):
            return ""
        if hmac.compare_digest(shown, of_workers):
            _old.warning(
                "a DICOMweb client shows the secret of workers: this works in this version only; "
                "give it the content of dicomweb-secret in data_dir"
            )
            return ""
        person = door.person(request)
        if person is None:
            raise HTTPException(401, "show the secret or sign in", {"WWW-Authenticate": "Bearer"})
        if request.method == "POST":
            from_our_page(request)
            if not person.may("operator"):
                raise HTTPException(403, f"this needs the role operator; yours is {person.role}")
        return person.name

    return client


# QIDO-RS


def _add_queries(
    router: APIRouter, catalogue: Catalogue, settings: Settings, client: Client, trail: _Trail
) -> None:
    def search(request: Request, name: str, level: Level, **uids: str) -> Response:
        _acceptable(request, _JSON, "application/json")
        asked = Asked(request, level, uids)
        trail.queried(request, name)
        found = catalogue.find(level, asked.keys)
        # One more than is told shows that there are more.
        told = list(islice(found, asked.offset, asked.offset + asked.limit + 1))
        answer = [asked.told(one, settings.web.url) for one in told[: asked.limit]]
        headers = asked.warnings(has_more=len(told) > asked.limit)
        return JSONResponse(answer, headers=headers, media_type=_JSON)

    caller = Depends(client)

    @router.get("/studies")
    def studies(request: Request, name: str = caller) -> Response:
        """Search for studies."""
        return search(request, name, "STUDY")

    @router.get("/series")
    def all_series(request: Request, name: str = caller) -> Response:
        """Search for series of any study."""
        return search(request, name, "SERIES")

    @router.get("/instances")
    def all_instances(request: Request, name: str = caller) -> Response:
        """Search for instances of any study."""
        return search(request, name, "IMAGE")

    @router.get("/studies/{study}/series")
    def series(request: Request, study: Uid, name: str = caller) -> Response:
        """Search for series of a study."""
        return search(request, name, "SERIES", StudyInstanceUID=study)

    @router.get("/studies/{study}/instances")
    def instances_of_study(request: Request, study: Uid, name: str = caller) -> Response:
        """Search for instances of a study."""
        return search(request, name, "IMAGE", StudyInstanceUID=study)

    @router.get("/studies/{study}/series/{series}/instances")
    def instances(request: Request, study: Uid, series: Uid, name: str = caller) -> Response:
        """Search for instances of a series."""
        return search(request, name, "IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series)


class Asked:
    """What a search asks for.

    Raises
    ------
    HTTPException
        400: a parameter is not understood.
    """

    def __init__(self, request: Request, level: Level, uids: dict[str, str]) -> None:
        self.keys = Dataset()
        self.limit, self.offset = MOST, 0
        self._fuzzy = self._all = False
        # What the path does not fix is told, too.
        fixed = {"StudyInstanceUID": "STUDY", "SeriesInstanceUID": "SERIES"}
        known = [one for name, one in fixed.items() if name in uids]
        told = [one for one in _ORDER[: _ORDER.index(level) + 1] if one not in known]
        self._fields = {_tag(name) for one in told for name in _ALWAYS[one].split()}
        for name, value in request.query_params.multi_items():
            self._take(name, value[:4096])
        for keyword, uid in uids.items():
            self.keys[_tag(keyword)] = _key(keyword, uid)

    def _take(self, name: str, value: str) -> None:
        if name in ("limit", "offset"):
            if not re.fullmatch(r"[0-9]{1,9}", value):
                raise HTTPException(400, f"{name} is not a number")
            count = int(value)
            setattr(self, name, min(count, MOST) if name == "limit" else count)
        elif name == "fuzzymatching":
            self._fuzzy = value == "true"
        elif name == "includefield":
            for field in value.split(","):
                self._all = self._all or field == "all"
                if field != "all":
                    self._fields.add(_tag(field.split(".")[0]))
        else:
            self._add_key(name, value)

    def _add_key(self, name: str, value: str) -> None:
        keys, path = self.keys, name.split(".")
        for part in path[:-1]:
            tag = _tag(part)
            if dictionary_VR(tag) != "SQ":
                raise HTTPException(400, f"{part[:64]!a} is not a sequence")
            if tag not in keys:
                keys[tag] = DataElement(tag, "SQ", Items([Dataset()]))
            keys = keys[tag].value[0]
        element = _key(path[-1], value)
        keys[element.tag] = element
        self._fields.add(_tag(path[0]))

    def told(self, found: Dataset, base: str) -> dict[str, Any]:
        """Return the attributes of a match in the DICOM JSON Model (PS3.18 F)."""
        shown = Dataset()
        for element in found:
            if self._all or element.tag in self._fields:
                shown[element.tag] = element
        shown.SpecificCharacterSet = CHARACTER_SET
        uids = (("studies", "Study"), ("series", "Series"), ("instances", "SOP"))
        parts = [
            f"{name}/{found[f'{of}InstanceUID'].value}"
            for name, of in uids
            if f"{of}InstanceUID" in found
        ]
        shown.RetrieveURL = "/".join([base.rstrip("/") + ROOT, *parts])
        return shown.to_json_dict()

    def warnings(self, has_more: bool) -> dict[str, str]:
        """Return the header that says what was not done (PS3.18 8.3.4.2, 10.6.3.2)."""
        said = []
        if self._fuzzy:
            said.append('299 chexfract-node "fuzzymatching is not supported; literal matching"')
        if has_more:
            said.append('299 chexfract-node "there are more results; ask with offset"')
        return {"Warning": ", ".join(said)} if said else {}


def _tag(name: str) -> int:
    tag = int(name, 16) if re.fullmatch(r"[0-9A-Fa-f]{8}", name) else tag_for_keyword(name)
    if tag is None or not keyword_for_tag(tag):
        raise HTTPException(400, f"{name[:64]!a} is no attribute")
    return tag


def _key(name: str, value: str) -> DataElement:
    tag = _tag(name)
    vr = dictionary_VR(tag)
    values: Any = re.split(r"[,\\]", value) if vr == "UI" else value
    try:
        return DataElement(tag, vr, values, validation_mode=config.IGNORE)
    except (ValueError, TypeError, OverflowError) as exc:
        raise HTTPException(400, f"{keyword_for_tag(tag)} has a value of another kind") from exc


# WADO-RS


def _add_retrieval(
    router: APIRouter, catalogue: Catalogue, settings: Settings, client: Client, trail: _Trail
) -> None:
    def named(level: Level, **uids: str) -> list[Stored]:
        keys = Dataset()
        for keyword, uid in uids.items():
            keys[_tag(keyword)] = _key(keyword, uid)
        found = catalogue.objects(level, keys)
        if not found:
            raise NotFound("no report has this UID")
        return found

    def of_study(study: Uid) -> list[Stored]:
        return named("STUDY", StudyInstanceUID=study)

    def of_series(study: Uid, series: Uid) -> list[Stored]:
        return named("SERIES", StudyInstanceUID=study, SeriesInstanceUID=series)

    def of_instance(study: Uid, series: Uid, instance: Uid) -> list[Stored]:
        uids = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": instance}
        return named("IMAGE", **uids)

    for path, find in (
        ("/studies/{study}", of_study),
        ("/studies/{study}/series/{series}", of_series),
        ("/studies/{study}/series/{series}/instances/{instance}", of_instance),
    ):
        _add_representations(router, path, find, settings.web.url, client, trail)


def _add_representations(
    router: APIRouter,
    path: str,
    find: Callable[..., list[Stored]],
    base: str,
    client: Client,
    trail: _Trail,
) -> None:
    # Who asks comes before what is found: strangers do not learn what there is.
    guarded, caller, wanted = [Depends(client)], Depends(client), Depends(find)

    @router.get(path, dependencies=guarded)
    def objects(request: Request, name: str = caller, found: list[Stored] = wanted) -> Response:
        """Send Part 10 files."""
        kind = _acceptable(request, f"multipart/related;type={_DICOM}", _DICOM)
        trail.retrieved(request, name, found)
        if kind == _DICOM and len(found) == 1:
            return StreamingResponse(_file(found[0]), media_type=_DICOM)
        return _related(_DICOM, ((_part_type(one), _file(one)) for one in found))

    @router.get(f"{path}/metadata", dependencies=guarded)
    def metadata(request: Request, name: str = caller, found: list[Stored] = wanted) -> Response:
        """Send all attributes but bulk data."""
        _acceptable(request, _JSON, "application/json")
        trail.retrieved(request, name, found)
        return StreamingResponse(_json(found, base), media_type=_JSON)

    @router.get(f"{path}/rendered", dependencies=guarded)
    def rendered(request: Request, name: str = caller, found: list[Stored] = wanted) -> Response:
        """Send structured reports as text."""
        kind = _acceptable(request, "text/html", "text/plain")
        reports = [one for one in found if one.sop_class_uid.startswith(tree.SR_CLASSES)]
        if not reports:
            raise HTTPException(406, "only structured reports are rendered here")
        trail.accessed(request, name, reports)
        read = (dcmread(one.path) for one in reports)
        if kind == "text/plain":
            return StreamingResponse(map(tree.as_text, read), media_type="text/plain")
        return StreamingResponse(tree.page(map(tree.as_html, read)), media_type="text/html")

    if path.endswith("{instance}"):

        @router.get(path + "/bulkdata/{tag}", dependencies=guarded)
        def bulk(
            request: Request, tag: str, name: str = caller, found: list[Stored] = wanted
        ) -> Response:
            """Send the value of one binary element."""
            content = dcmread(found[0].path)
            element = content.get(Tag(tag)) if re.fullmatch(r"[0-9A-F]{8}", tag) else None
            if element is None or not isinstance(element.value, bytes):
                raise NotFound("no bulk data here")
            trail.retrieved(request, name, found)
            octets = "application/octet-stream"
            return _related(octets, [(octets, iter([element.value]))])


def _file(stored: Stored) -> Iterator[bytes]:
    with stored.path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _part_type(stored: Stored) -> str:
    syntax = getattr(stored.header, "file_meta", Dataset()).get("TransferSyntaxUID", "")
    return f"{_DICOM};transfer-syntax={syntax}" if syntax else _DICOM


def _related(kind: str, parts: Any) -> Response:
    """Send a multipart/related body part by part (RFC 2387)."""
    mark = secrets.token_hex(16)

    def body() -> Iterator[bytes]:
        for part_kind, content in parts:
            yield f"--{mark}\r\nContent-Type: {part_kind}\r\n\r\n".encode()
            yield from content
            yield b"\r\n"
        yield f"--{mark}--\r\n".encode()

    return StreamingResponse(
        body(), headers={"Content-Type": f'multipart/related;type="{kind}";boundary={mark}'}
    )


def _json(found: Sequence[Stored], base: str) -> Iterator[str]:
    for number, one in enumerate(found):
        yield "," if number else "["
        yield json.dumps(_metadata(one, base))
    yield "]"


def _metadata(stored: Stored, base: str) -> dict[str, Any]:
    where = f"{base.rstrip('/')}{ROOT}/studies/{stored.study_instance_uid}"
    where += f"/series/{stored.series_instance_uid}/instances/{stored.sop_instance_uid}"

    def uri(element: DataElement) -> str:
        return f"{where}/bulkdata/{int(element.tag):08X}"

    return dcmread(stored.path).to_json_dict(_BULK, uri)


def _acceptable(request: Request, *offered: str) -> str:
    """Return the first of `offered` that the client takes.

    Raises
    ------
    HTTPException
        406
    """
    accept = request.query_params.get("accept") or request.headers.get("accept") or "*/*"
    ranges = [_media_type(one) for one in accept.split(",")]
    for kind in offered:
        name, of = _media_type(kind)
        for wanted, wanted_of in ranges:
            is_kind = wanted in ("*/*", name, f"{name.split('/')[0]}/*")
            if is_kind and wanted_of in ("", "*/*", of):
                return kind
    raise HTTPException(406, f"this is available as {', '.join(offered)}")


def _media_type(text: str) -> tuple[str, str]:
    """Return a media type and, of multipart/related, the type of its parts."""
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    pairs = (parameter.partition("=") for parameter in parameters)
    return name, next((v.strip('" ') for k, _, v in pairs if k.strip() == "type"), "")


# STOW-RS


def _add_storage(router: APIRouter, intake: Intake, settings: Settings, client: Client) -> None:
    async def stored(request: Request, name: str, study: str) -> Response:
        mark = boundary(request.headers.get("content-type", ""))
        if not intake.spool.has_room():
            raise HTTPException(503, "no room for Instances", {"Retry-After": "60"})
        sender = Sender(
            calling_ae=f"STOW {name}".strip()[:16],
            calling_host=request.client.host if request.client else "",
            called_ae=settings.node.ae_title,
        )
        storing = Storing(intake, sender, study, settings.node.max_instance)
        status, answer = await storing.take(request.stream(), mark)
        return JSONResponse(answer.to_json_dict(), status, media_type=_JSON)

    caller = Depends(client)

    @router.post("/studies")
    async def store(request: Request, name: str = caller) -> Response:
        """Take images of any study."""
        return await stored(request, name, "")

    @router.post("/studies/{study}")
    async def store_study(request: Request, study: Uid, name: str = caller) -> Response:
        """Take images of one study."""
        return await stored(request, name, study)
