"""STOW-RS: images in a multipart/related body, each to the spool as it arrives (PS3.18 10.5)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from dicom_node.base.errors import ChexFractError, NotUnderstood, Transient
from dicom_node.base.rims import OneOfMany
from dicom_node.dimse import Accepted, Sender
from dicom_node.dimse.contexts import IMAGES, TRANSFER_SYNTAXES
from dicom_node.flow.intake import Intake
from dicom_node.standard import part10
from dicom_node.standard.header import read_header
from dicom_node.standard.status import CANNOT_UNDERSTAND, OUT_OF_RESOURCES
from dicom_node.standard.unreadable import UNREADABLE
from dicom_node.store.spool import Incoming
from dicom_node.web import media_types
from dicom_node.web.multipart import NotMultipart, PartReader, boundary

logger = logging.getLogger(__name__)

SOP_CLASS_NOT_SUPPORTED = 0x0122
TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
OTHER_STUDY = 0xC409

_NOT_PART_10 = "a part is not a Part 10 file"

MAX_META = 1 << 16
MAX_PARTS = 10_000
MAX_LINES = 10
"""Lines of the log that one request can cause."""
_CHUNK = 1 << 20
"""Bytes that go to another thread at once: the event loop must not wait for the disk."""


class _Failed(Exception):
    """One Instance is not taken."""

    def __init__(self, reason: int, why: str) -> None:
        super().__init__(why)
        self.reason = reason


def boundary_of(request: Request) -> str:
    """Return the boundary of a body of DICOM files; empty where the body is one file.

    Raises
    ------
    HTTPException
        415: another media type, or an encoding.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise HTTPException(415, "the body must not be encoded", {"Accept-Encoding": "identity"})
    content_type = request.headers.get("content-type", "")[:1024]
    kind = media_types.parse(content_type)
    if kind.name == media_types.DICOM:
        return ""
    of = kind.parameters.get("type", media_types.DICOM).lower()
    mark = boundary(content_type)
    if kind.name != media_types.RELATED or of != media_types.DICOM or not mark:
        expected = f'{media_types.RELATED}; type="{media_types.DICOM}"; boundary=…'
        raise HTTPException(415, f"images come as {expected}")
    return mark


class Storing:
    """Takes the Instances of one request.

    Parameters
    ----------
    intake : Intake
    sender : Sender
    study : str
        Study Instance UID that each must have; empty: any.
    max_instance : int
        Bytes of the largest Instance.
    root : str
        Address of the services, for Retrieve URLs.
    """

    def __init__(
        self, intake: Intake, sender: Sender, study: str, max_instance: int, root: str
    ) -> None:
        self._intake = intake
        self._sender = sender
        self._study = study
        self._max_instance = max_instance
        self._root = root
        self._taken: list[Accepted] = []
        self._failed: list[tuple[Accepted | None, int]] = []
        self._begin_part()

    async def take(self, body: AsyncIterator[bytes], mark: str) -> tuple[int, Dataset]:
        """Return the status and the Store Instances Response (PS3.18 Table I.2-1).

        Parameters
        ----------
        mark : str
            The boundary between the parts; empty: the body is one Part 10 file.

        Raises
        ------
        HTTPException
            400: the body is not what its Content-Type says; 413: it has too many parts.
        """
        reader = PartReader(mark, self) if mark else None
        take = reader.write if reader else self.data
        try:
            if not mark:
                self.begin({})
            chunks = bytearray()
            async for chunk in body:
                chunks += chunk
                # gathered: a turn through a thread costs more than the bytes of a small chunk
                if len(chunks) >= _CHUNK:
                    await run_in_threadpool(take, bytes(chunks))
                    chunks.clear()
            await run_in_threadpool(take, bytes(chunks))
            await run_in_threadpool(reader.finish if reader else self.end)
        except NotMultipart as exc:
            raise HTTPException(400, f"not multipart/related: {exc}") from exc
        finally:
            self._discard_incoming()
        if not (self._taken or self._failed):
            raise HTTPException(400, "the body has no part")
        return self._http_status(), await run_in_threadpool(self._response_dataset)

    def _begin_part(self) -> None:
        self._head = bytearray()
        self._accepted: Accepted | None = None
        self._incoming: Incoming | None = None
        self._fault: int | None = None
        self._size = 0

    def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a part."""
        if len(self._taken) + len(self._failed) >= MAX_PARTS:
            raise HTTPException(413, f"more than {MAX_PARTS} parts")
        self._begin_part()
        kind = media_types.parse(headers.get("content-type", media_types.DICOM)[:1024]).name
        encoding = headers.get("content-transfer-encoding", "binary").lower()
        if kind != media_types.DICOM or encoding not in ("binary", "8bit", "7bit"):
            why = "a part has another Content-Type, or is encoded"
            self._note_failure(_Failed(CANNOT_UNDERSTAND, why))

    def data(self, content: bytes) -> None:
        """Take more of the part."""
        self._size += len(content)
        if self._fault is not None:
            return
        try:
            self._write_content(content)
        except (_Failed, ChexFractError) as exc:
            self._note_failure(exc)

    def _write_content(self, content: bytes) -> None:
        if self._size > self._max_instance + MAX_META:
            why = f"it is larger than {self._max_instance} bytes"
            raise _Failed(CANNOT_UNDERSTAND, why)
        if self._incoming is not None:
            self._incoming.write(content)
        else:
            self._head += content
            self._open_incoming()

    def _open_incoming(self) -> None:
        """Begin to write as soon as the File Meta Information is there (PS3.10 7.1)."""
        head = self._head
        # preamble (128), DICM (4) and the group length (12), which says where the head ends
        if len(head) < 144:
            return
        if not part10.has_length(bytes(head)):
            raise _Failed(CANNOT_UNDERSTAND, _NOT_PART_10)
        size = part10.head_size(bytes(head))
        if size > MAX_META:
            raise _Failed(CANNOT_UNDERSTAND, "its File Meta Information is too long")
        if len(head) < size:
            return
        self._accepted = _accepted_instance(bytes(head[:size]))
        if self._accepted.sop_class_uid not in IMAGES:
            raise _Failed(SOP_CLASS_NOT_SUPPORTED, "it is not an image that is taken here")
        if self._accepted.transfer_syntax_uid not in TRANSFER_SYNTAXES:
            raise _Failed(TRANSFER_SYNTAX_NOT_SUPPORTED, "its transfer syntax is not taken here")
        self._incoming = self._intake.begin(self._accepted)
        self._incoming.write(bytes(head[size:]))
        self._head = bytearray()

    def end(self) -> None:
        """End the part: keep what it holds."""
        with OneOfMany(self._note_unexplained):
            try:
                if self._fault is None:
                    self._keep_instance()
            except (_Failed, ChexFractError) as exc:
                self._note_failure(exc)
        if self._fault is not None:
            self._discard_incoming()
            self._failed.append((self._accepted, self._fault))
        self._incoming = None

    def _note_unexplained(self, exc: Exception) -> None:
        # Nothing is known to be wrong with the Instance: its sender shall keep it.
        logger.error("STOW-RS of %s", self._sender.calling_ae, exc_info=exc)
        self._fault = OUT_OF_RESOURCES

    def _keep_instance(self) -> None:
        if self._incoming is None or self._accepted is None:
            raise _Failed(CANNOT_UNDERSTAND, _NOT_PART_10)
        if self._study:
            with self._incoming.reader() as file:
                header = read_header(file, self._accepted.transfer_syntax_uid)
            if header["study_instance_uid"] != self._study:
                raise _Failed(OTHER_STUDY, "it is of another study than the one it was sent to")
        self._intake.finish(self._incoming, self._accepted, self._sender)
        self._taken.append(self._accepted)

    def _note_failure(self, exc: Exception) -> None:
        if isinstance(exc, _Failed):
            self._fault = exc.reason
        elif isinstance(exc, Transient):
            self._fault = OUT_OF_RESOURCES
        else:
            self._fault = int(getattr(exc, "status", CANNOT_UNDERSTAND))
        if len(self._failed) < MAX_LINES:
            name = f"{self._sender.calling_ae}@{self._sender.calling_host}"
            more = "; further ones leave no line" if len(self._failed) == MAX_LINES - 1 else ""
            logger.warning(
                "refused an Instance of %s with 0x%04X: %s%s", name, self._fault, exc, more
            )
        self._discard_incoming()

    def _discard_incoming(self) -> None:
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def _http_status(self) -> int:
        """Return 200, 202 when some failed, 409 when all did, 503 when later may be better."""
        if not self._failed:
            return 200
        if self._taken:
            return 202
        is_full = all(reason == OUT_OF_RESOURCES for _, reason in self._failed)
        return 503 if is_full else 409

    def _response_dataset(self) -> Dataset:
        answer = Dataset()
        failed: list[Dataset] = []
        unnamed: list[Dataset] = []
        for accepted, reason in self._failed:
            item = _reference_item(accepted)
            item.FailureReason = reason
            (failed if accepted else unnamed).append(item)
        if self._taken:
            self._add_taken(answer)
        if failed:
            answer.FailedSOPSequence = failed
        if unnamed:
            answer.OtherFailuresSequence = unnamed
        return answer

    def _add_taken(self, answer: Dataset) -> None:
        """Name what was stored, and where it and the reports about it can be fetched."""
        items, studies = [], set()
        for accepted in self._taken:
            item = _reference_item(accepted)
            if kept := self._intake.ledger.instances.known(accepted.sop_instance_uid):
                study = f"{self._root}/studies/{kept.study_instance_uid}"
                studies.add(study)
                where = f"{study}/series/{kept.series_instance_uid}"
                item.RetrieveURL = f"{where}/instances/{accepted.sop_instance_uid}"
            items.append(item)
        # PS3.18 Table I.2-1: there is one address only where all is of one study.
        answer.RetrieveURL = studies.pop() if len(studies) == 1 else None
        answer.ReferencedSOPSequence = items


def _reference_item(accepted: Accepted | None) -> Dataset:
    item = Dataset()
    if accepted:
        item.ReferencedSOPClassUID = accepted.sop_class_uid
        item.ReferencedSOPInstanceUID = accepted.sop_instance_uid
    return item


def _accepted_instance(head: bytes) -> Accepted:
    try:
        meta = read_dataset(
            BytesIO(head[part10.META_AT :]), is_implicit_VR=False, is_little_endian=True
        )
        return Accepted(
            str(meta.MediaStorageSOPClassUID),
            str(meta.MediaStorageSOPInstanceUID),
            str(meta.TransferSyntaxUID),
        )
    except UNREADABLE as exc:
        raise NotUnderstood("the File Meta Information cannot be read") from exc
