"""DICOMweb over the reports: QIDO-RS and WADO-RS; images come in by STOW-RS.

DICOM PS3.18 10. Queries and objects are those of Query/Retrieve (`store.catalogue`).
"""

from __future__ import annotations

import hmac
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import AfterValidator
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from starlette.exceptions import HTTPException

from dicom_node.base.errors import NotFound, NotUnderstood
from dicom_node.base.logs import Sparse
from dicom_node.base.plurals import counted
from dicom_node.credentials import Credentials
from dicom_node.dimse import Sender
from dicom_node.flow.intake import Intake
from dicom_node.settings import Settings
from dicom_node.standard.unreadable import UNREADABLE
from dicom_node.standard.web_services import (
    INSTANCE,
    RENDERED_PARAMETERS,
    RESOURCES,
    ROOT,
    SERIES,
    STUDY,
)
from dicom_node.store.catalogue import Catalogue, Level, Stored, key
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool
from dicom_node.web import (
    capabilities,
    media_types,
    multipart,
    native_model,
    pictures,
    preview,
    tree,
)
from dicom_node.web.media_types import DICOM, JSON, OCTETS, PLAIN_JSON, RELATED, XML, choose
from dicom_node.web.pictures import Viewer
from dicom_node.web.search import Search, warning
from dicom_node.web.sessions import Door, from_our_page
from dicom_node.web.stow import Storing, boundary_of
from dicom_node.web.trail import WebTrail

_CHUNK = 1 << 18
_BULK = 1024
"""Bytes above which a binary value is not part of the metadata."""

_RELATED_XML = f'{RELATED};type="{XML}"'
_PDF = "application/pdf"
_PDF_CLASS = "1.2.840.10008.5.1.4.1.1.104.1"
_DOCUMENT = 0x00420011
"""Encapsulated Document."""

_CANNOT_BE_READ = "1 object not sent: it is gone, or cannot be read; replay the Instance"
_AT_ONCE = 256
"""Objects whose text is made before an answer begins."""

Made = TypeVar("Made")

_old = Sparse(logging.getLogger(__name__), per_minute=1)
_damaged = Sparse(logging.getLogger(__name__))


def _is_uid(text: str) -> str:
    if not 0 < len(text) <= 64 or text.strip("0123456789."):
        raise HTTPException(400, "this is not a UID")
    return text


Uid = Annotated[str, AfterValidator(_is_uid)]


def routes(
    settings: Settings, ledger: Ledger, spool: Spool, door: Door, credentials: Credentials
) -> APIRouter:
    """Return the services; each needs the secret of DICOMweb clients, or a sign-in."""
    client = _client_dependency(door, credentials)
    router = APIRouter(prefix=ROOT)
    catalogue = Catalogue(ledger, spool, settings.node.ae_title)
    trail = WebTrail(settings, ledger)
    # Never the Host header: whoever asks could make a client go elsewhere.
    root = settings.web.url.rstrip("/") + ROOT
    _add_capabilities(router, settings.web.url)
    _add_queries(router, catalogue, root, client, trail)
    _add_retrieval(router, catalogue, root, client, trail)
    _add_storage(router, Intake(settings, spool, ledger), settings, root, client, door)
    return router


Client = Callable[[Request], str]


def _client_dependency(door: Door, credentials: Credentials) -> Client:
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


# Capabilities


def _add_capabilities(router: APIRouter, base: str) -> None:
    def options(request: Request) -> Response:
        """Say what the services can do; strangers may know it."""
        kind = choose(request, (capabilities.WADL, PLAIN_JSON))
        describe = capabilities.as_json if kind == PLAIN_JSON else capabilities.as_wadl
        allowed = {"Allow": "GET, HEAD, POST, OPTIONS"}
        return Response(describe(base), headers=allowed, media_type=kind)

    for path in dict.fromkeys(("", "/", *(resource.path for resource in RESOURCES))):
        router.add_api_route(path, options, methods=["OPTIONS"])


# QIDO-RS


def _add_queries(
    router: APIRouter, catalogue: Catalogue, root: str, client: Client, trail: WebTrail
) -> None:
    def search(request: Request, name: str, level: Level, **uids: str) -> Response:
        kind = choose(request, (JSON, PLAIN_JSON, _RELATED_XML))
        asked = Search(request, level, uids)
        trail.queried(request, name)
        found = catalogue.find(level, asked.keys, asked.how, asked.order)
        # One more than is asked for shows that there are more.
        matches = list(islice(found, asked.offset, asked.offset + asked.limit + 1))
        shown = [asked.shown(match, root) for match in matches[: asked.limit]]
        headers = asked.warnings(has_more=len(matches) > asked.limit)
        rows = (_attributes_of(ds, kind, lambda ds: lambda element: "") for ds in shown)
        return _attributes_response(kind, rows, headers)

    caller = Depends(client)

    @_get_route(router, "/studies")
    def studies(request: Request, name: str = caller) -> Response:
        """Search for studies."""
        return search(request, name, "STUDY")

    @_get_route(router, "/series")
    def all_series(request: Request, name: str = caller) -> Response:
        """Search for series of any study."""
        return search(request, name, "SERIES")

    @_get_route(router, "/instances")
    def all_instances(request: Request, name: str = caller) -> Response:
        """Search for instances of any study."""
        return search(request, name, "IMAGE")

    @_get_route(router, f"{STUDY}/series")
    def series(request: Request, study: Uid, name: str = caller) -> Response:
        """Search for series of a study."""
        return search(request, name, "SERIES", StudyInstanceUID=study)

    @_get_route(router, f"{STUDY}/instances")
    def instances_of_study(request: Request, study: Uid, name: str = caller) -> Response:
        """Search for instances of a study."""
        return search(request, name, "IMAGE", StudyInstanceUID=study)

    @_get_route(router, f"{SERIES}/instances")
    def instances(request: Request, study: Uid, series: Uid, name: str = caller) -> Response:
        """Search for instances of a series."""
        return search(request, name, "IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series)


# WADO-RS


def _add_retrieval(
    router: APIRouter, catalogue: Catalogue, root: str, client: Client, trail: WebTrail
) -> None:
    def named(level: Level, **uids: str) -> list[Stored]:
        keys = Dataset()
        for keyword, uid in uids.items():
            keys.add(key(keyword, uid))
        return catalogue.objects(level, keys)

    def found_or_404(request: Request, found: list[Stored]) -> list[Stored]:
        if not found:
            raise NotFound("no report has this UID")
        # looked at before the answer begins: a file that fails in its middle would break it off
        whole = [stored for stored in found if stored.is_whole]
        if len(whole) < len(found):
            gone = counted(len(found) - len(whole), "object")
            _damaged.error("%s not sent: cut off in the spool or gone; replay the Instance", gone)
            request.state.is_partial = True
        if not whole:
            raise NotFound("its file is gone or damaged")
        return whole

    def of_study(request: Request, study: Uid) -> list[Stored]:
        return found_or_404(request, named("STUDY", StudyInstanceUID=study))

    def of_series(request: Request, study: Uid, series: Uid) -> list[Stored]:
        uids = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        return found_or_404(request, named("SERIES", **uids))

    def of_instance(request: Request, study: Uid, series: Uid, instance: Uid) -> list[Stored]:
        uids = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": instance}
        received = catalogue.received(study, series, instance)
        found = named("IMAGE", **uids) or ([received] if received else [])
        return found_or_404(request, found)

    viewer = pictures.Viewer()
    for path, find in ((STUDY, of_study), (SERIES, of_series), (INSTANCE, of_instance)):
        _add_objects(router, path, find, root, client, trail)
        _add_rendered(router, path, find, client, trail, viewer)
    _add_frames(router, of_instance, client, trail, viewer)
    _add_bulk_data(router, of_instance, client, trail)


Find = Callable[..., list[Stored]]


def _add_objects(
    router: APIRouter, path: str, find: Find, root: str, client: Client, trail: WebTrail
) -> None:
    # Who asks comes before what is found: strangers do not learn what there is.
    guarded, caller, wanted = [Depends(client)], Depends(client), Depends(find)

    @_get_route(router, path, dependencies=guarded)
    def objects(request: Request, name: str = caller, found: list[Stored] = wanted) -> Response:
        """Send Part 10 files."""
        syntaxes = {_transfer_syntax_of(stored) for stored in found}
        of = f";transfer-syntax={syntaxes.pop()}" if len(syntaxes) == 1 else ""
        offered = [f'{RELATED};type="{DICOM}"{of}']
        if len(found) == 1:
            offered.append(f"{DICOM}{of}")
        kind = media_types.parse(choose(request, offered)).name
        trail.retrieved(request, name, found)
        if kind == DICOM:
            one = StreamingResponse(_file_chunks(request, found[0]), media_type=DICOM)
            return _partial(request, one)
        parts = (
            (
                f"{DICOM};transfer-syntax={_transfer_syntax_of(stored)}",
                _file_chunks(request, stored),
            )
            for stored in found
        )
        return _partial(request, multipart.related(DICOM, parts))

    @_get_route(router, f"{path}/metadata", dependencies=guarded)
    def metadata(request: Request, name: str = caller, found: list[Stored] = wanted) -> Response:
        """Send all attributes but bulk data."""
        kind = choose(request, (JSON, PLAIN_JSON, _RELATED_XML))
        trail.retrieved(request, name, found)

        def address(ds: Dataset) -> Callable[[DataElement], str]:
            where = f"{root}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
            where += f"/instances/{ds.SOPInstanceUID}/bulkdata"
            return lambda element: f"{where}/{int(element.tag):08X}"

        def row(stored: Stored) -> str | bytes:
            return _attributes_of(stored.read(), kind, address)

        rows = _convert_each(request, found, row, _AT_ONCE)
        return _partial(request, _attributes_response(kind, rows))


def _add_rendered(
    router: APIRouter, path: str, find: Find, client: Client, trail: WebTrail, viewer: Viewer
) -> None:
    guarded, caller, wanted = [Depends(client)], Depends(client), Depends(find)

    @_get_route(router, f"{path}/rendered", dependencies=guarded)
    def rendered(request: Request, name: str = caller, found: list[Stored] = wanted) -> Response:
        """Send what a person can look at: reports as text, images, documents as PDF."""
        views = {stored.sop_instance_uid: _media_types_of(stored, viewer) for stored in found}
        offered = list(dict.fromkeys(kind for kinds in views.values() for kind in kinds))
        if not offered:
            raise HTTPException(406, "nothing of this can be rendered")
        kind = choose(request, offered)
        window = _asked_window(request)
        shown = [stored for stored in found if kind in views[stored.sop_instance_uid]]
        trail.accessed(request, name, shown)
        headers = _unknown_parameters(request)
        if kind in ("text/plain", "text/html"):
            write = tree.as_text if kind == "text/plain" else tree.as_html
            texts = _convert_each(request, shown, lambda stored: write(stored.read()), _AT_ONCE)
            content = texts if kind == "text/plain" else tree.page(texts)
            text = StreamingResponse(content, media_type=kind, headers=headers)
            return _partial(request, text)
        largest = _asked_viewport(request)

        def view(stored: Stored) -> bytes:
            if kind == _PDF:
                return _document_bytes(stored.read())
            return viewer.picture(stored, kind, largest, window)

        views_of_kind = _convert_each(request, shown, view, 1)
        if len(shown) == 1:
            one = Response(next(views_of_kind), media_type=kind, headers=headers)
            return _partial(request, one)
        parts = ((kind, [content]) for content in views_of_kind)
        return _partial(request, multipart.related(kind, parts))

    @_get_route(router, f"{path}/thumbnail", dependencies=guarded)
    def thumbnail(request: Request, name: str = caller, found: list[Stored] = wanted) -> Response:
        """Send a small picture of the first object that has one."""
        return _one_picture(request, name, found, trail, viewer, pictures.THUMBNAIL)


def _add_frames(
    router: APIRouter, find: Find, client: Client, trail: WebTrail, viewer: Viewer
) -> None:
    guarded, caller, wanted = [Depends(client)], Depends(client), Depends(find)
    path = f"{INSTANCE}/frames/{{frames}}"

    @_get_route(router, path, dependencies=guarded)
    def frames(
        request: Request, frames: str, name: str = caller, found: list[Stored] = wanted
    ) -> Response:
        """Send the pixels of a Secondary Capture as they are."""
        (stored,) = found
        _check_frames(frames, has_picture=pictures.has_picture(stored.header))
        kind = choose(request, (f'{RELATED};type="{OCTETS}"', OCTETS))
        trail.retrieved(request, name, found)
        with _reading():
            content = pictures.frame(stored.read())
        if kind == OCTETS:
            return Response(content, media_type=OCTETS)
        return multipart.related(OCTETS, [(OCTETS, [content])])

    @_get_route(router, f"{path}/rendered", dependencies=guarded)
    def rendered(
        request: Request, frames: str, name: str = caller, found: list[Stored] = wanted
    ) -> Response:
        """Send a frame as a picture."""
        _check_frames(frames, has_picture=bool(viewer.media_types(found[0])))
        return _one_picture(request, name, found, trail, viewer, None)

    @_get_route(router, f"{path}/thumbnail", dependencies=guarded)
    def thumbnail(
        request: Request, frames: str, name: str = caller, found: list[Stored] = wanted
    ) -> Response:
        """Send a frame as a small picture."""
        _check_frames(frames, has_picture=bool(viewer.media_types(found[0])))
        return _one_picture(request, name, found, trail, viewer, pictures.THUMBNAIL)


def _add_bulk_data(router: APIRouter, find: Find, client: Client, trail: WebTrail) -> None:
    guarded, caller, wanted = [Depends(client)], Depends(client), Depends(find)

    @_get_route(router, f"{INSTANCE}/bulkdata/{{tag}}", dependencies=guarded)
    def bulk(
        request: Request, tag: str, name: str = caller, found: list[Stored] = wanted
    ) -> Response:
        """Send the value of one binary element."""
        with _reading():
            content = found[0].read()
            element = content.get(Tag(tag)) if re.fullmatch(r"[0-9A-Fa-f]{8}", tag) else None
        if element is None or not isinstance(element.value, bytes):
            raise NotFound("no bulk data here")
        offered = [f'{RELATED};type="{OCTETS}"', OCTETS]
        if element.tag == _DOCUMENT and content.get("MIMETypeOfEncapsulatedDocument") == _PDF:
            offered.append(_PDF)
        kind = choose(request, offered)
        trail.retrieved(request, name, found)
        if kind in (OCTETS, _PDF):
            return Response(
                _document_bytes(content) if kind == _PDF else element.value, media_type=kind
            )
        return multipart.related(OCTETS, [(OCTETS, [element.value])])


def _partial(request: Request, response: Response) -> Response:
    """Return a response that says so where an object is left out (PS3.18 10.4.3: 206)."""
    if getattr(request.state, "is_partial", False):
        response.status_code = 206
    return response


def _get_route(router: APIRouter, path: str, **more: Any) -> Callable[[Any], Any]:
    """Return what adds a resource for GET and HEAD; the server leaves the body out for HEAD."""
    return router.api_route(path, methods=["GET", "HEAD"], **more)


def _convert_each(
    request: Request, found: Iterable[Stored], convert: Callable[[Stored], Made], at_once: int
) -> Iterator[Made]:
    """Return what is made of each object; one that cannot be read is left out.

    The first `at_once` are made before the answer begins, so that its status knows of that. Where a
    later one fails the answer is broken off: it would seem to be whole.

    Raises
    ------
    NotFound
        Nothing is left.
    """
    has_begun = False

    def made() -> Iterator[Made]:
        for stored in found:
            try:
                yield convert(stored)
            except (NotUnderstood, *UNREADABLE):
                _damaged.error(_CANNOT_BE_READ)
                request.state.is_partial = True
                if has_begun:
                    _break_off(request)
                    return

    rows = made()
    first = list(islice(rows, at_once))
    if not first:
        raise NotFound("its file is gone or damaged")
    has_begun = True
    return chain(first, rows)


@contextmanager
def _reading() -> Iterator[None]:
    """Answer 404 where the object that a block reads cannot be read."""
    try:
        yield
    except (NotUnderstood, *UNREADABLE) as exc:
        _damaged.error(_CANNOT_BE_READ)
        raise NotFound("its file is gone or damaged") from exc


def _break_off(request: Request) -> None:
    """Close the connection of an answer that has begun and cannot be brought to its end."""
    connection: Any = request.scope.get("state", {}).get("connection")
    if connection is not None:
        connection.loop.call_soon_threadsafe(connection.end)


def _attributes_of(
    ds: Dataset, kind: str, address: Callable[[Dataset], Callable[[DataElement], str]]
) -> str | bytes:
    """Return a data set as JSON (PS3.18 F) or as XML (PS3.19 A.1)."""
    if kind == _RELATED_XML:
        return native_model.as_xml(ds, address(ds), _BULK)
    return json.dumps(ds.to_json_dict(_BULK, address(ds)))


def _attributes_response(
    kind: str, rows: Iterable[Any], headers: dict[str, str] | None = None
) -> Response:
    """Send what `_attributes_of` made of data sets; as XML, one part each."""
    if kind == _RELATED_XML:
        response = multipart.related(XML, ((XML, [row]) for row in rows))
        response.headers.update(headers or {})
        return response

    def content() -> Iterator[str]:
        yield "["
        for number, row in enumerate(rows):
            yield ("," if number else "") + row
        yield "]"

    return StreamingResponse(content(), media_type=kind, headers=headers)


def _media_types_of(stored: Stored, viewer: Viewer) -> tuple[str, ...]:
    """Return as what an object can be looked at, the first one where nobody has a wish."""
    if stored.sop_class_uid.startswith(tree.SR_CLASSES):
        return ("text/html", "text/plain")
    if stored.sop_class_uid == _PDF_CLASS:
        return (_PDF,)
    return viewer.media_types(stored)


def _document_bytes(ds: Dataset) -> bytes:
    """Return the document without the byte that makes its length even."""
    length = int(ds.get("EncapsulatedDocumentLength") or len(ds.EncapsulatedDocument))
    return bytes(ds.EncapsulatedDocument)[:length]


def _one_picture(
    request: Request,
    name: str,
    found: Sequence[Stored],
    trail: WebTrail,
    viewer: Viewer,
    largest: int | None,
) -> Response:
    shown = next((stored for stored in found if viewer.media_types(stored)), None)
    if shown is None:
        raise NotFound("there is no picture here")
    kind = choose(request, viewer.media_types(shown))
    window = _asked_window(request)
    trail.accessed(request, name, [shown])
    with _reading():
        content = viewer.picture(shown, kind, _asked_viewport(request) or largest, window)
    return Response(content, media_type=kind, headers=_unknown_parameters(request))


def _check_frames(frames: str, *, has_picture: bool) -> None:
    """Refuse what is not a list of frames, and every frame but the only one.

    Raises
    ------
    HTTPException
        400 for what is not a list of numbers.
    NotFound
        There is no such frame, or none that can be shown here.
    """
    numbers = frames[:256].split(",")
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise HTTPException(400, "frames are numbers with commas between them")
    if not has_picture or {int(number) for number in numbers} != {1}:
        raise NotFound("there is no such frame here")


def _asked_window(request: Request) -> str:
    """Return the window that is asked for (PS3.18 8.3.5.1.4), empty without one.

    Raises
    ------
    HTTPException
        400: it is not a center, a width and a function.
    """
    asked = request.query_params.get("window")
    if asked is None:
        return ""
    parts = [part.strip().lower() for part in asked[:128].split(",")]
    function = parts.pop() if len(parts) == 3 else "linear"
    try:
        center, width = (float(part) for part in parts)
    except ValueError:
        center = width = math.nan
    least = 1 if function == "linear" else math.ulp(0)
    is_number = math.isfinite(center) and math.isfinite(width) and width >= least
    if not is_number or function not in preview.FUNCTIONS:
        functions = ", ".join(preview.FUNCTIONS)
        raise HTTPException(400, f"window is center,width,function; functions are {functions}")
    return f"{center!r},{width!r},{function}"


def _asked_viewport(request: Request) -> int | None:
    """Return the longer side of the viewport that is asked for (PS3.18 8.3.5.1.3)."""
    asked = request.query_params.get("viewport", "")[:64].split(",")
    sizes = [int(size) for size in asked[:2] if size.isascii() and size.isdigit()]
    return max(1, *sizes) if len(sizes) == 2 else None


def _unknown_parameters(request: Request) -> dict[str, str]:
    return warning(name for name in request.query_params if name not in RENDERED_PARAMETERS)


def _file_chunks(request: Request, stored: Stored) -> Iterator[bytes]:
    try:
        with stored.open() as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except (OSError, NotUnderstood):
        _damaged.error(_CANNOT_BE_READ)  # it was there when the answer began
        _break_off(request)


def _transfer_syntax_of(stored: Stored) -> str:
    return str(getattr(stored.header, "file_meta", Dataset()).get("TransferSyntaxUID", ""))


# STOW-RS


def _add_storage(
    router: APIRouter, intake: Intake, settings: Settings, root: str, client: Client, door: Door
) -> None:
    async def stored(request: Request, name: str, study: str) -> Response:
        kind = choose(request, (JSON, PLAIN_JSON, XML))
        mark = boundary_of(request)
        if not intake.spool.has_room():
            raise HTTPException(503, "no room for Instances", {"Retry-After": "60"})
        sender = Sender(
            calling_ae=f"STOW {name}".strip()[:16],
            calling_host=door.address(request),
            called_ae=settings.node.ae_title,
            is_web=True,
        )
        storing = Storing(intake, sender, study, settings.node.max_instance, root)
        status, answer = await storing.take(request.stream(), mark)
        if kind == XML:
            content = native_model.as_xml(answer, lambda element: "", _BULK)
            return Response(content, status, media_type=XML)
        return Response(json.dumps(answer.to_json_dict()), status, media_type=kind)

    caller = Depends(client)

    @router.post("/studies")
    async def store(request: Request, name: str = caller) -> Response:
        """Take images of any study."""
        return await stored(request, name, "")

    @router.post(STUDY)
    async def store_study(request: Request, study: Uid, name: str = caller) -> Response:
        """Take images of one study."""
        return await stored(request, name, study)
