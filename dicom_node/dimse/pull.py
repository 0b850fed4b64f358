"""Fetches radiographs from a peer by accession number: C-FIND, then C-GET (DICOM PS3.4 C).

C-GET brings the objects on the association that asked for them: the peer needs no entry for this
node as a destination, and no port of ours is open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import build_role, evt
from pynetdicom.presentation import build_context

from dicom_node.base.errors import NotUnderstood, Refused, Unreachable
from dicom_node.dimse.contexts import (
    EXPLICIT_LITTLE,
    IMAGES,
    IMPLICIT_LITTLE,
    TRANSFER_SYNTAXES,
    VERIFICATION,
)
from dicom_node.dimse.scu import Destination
from dicom_node.settings import Peer
from dicom_node.standard.header import read_header
from dicom_node.standard.status import meaning
from dicom_node.standard.unreadable import UNREADABLE

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
MODALITIES = ("CR", "DX")
_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.1.1",
    "1.2.840.10008.5.1.4.1.1.7",
)
"""SOP classes that come: CR, DX For Presentation, Secondary Capture."""
_PENDING = (0xFF00, 0xFF01)
_CANNOT_WRITE, _CANNOT_READ = 0xA700, 0xC000

Keep = Callable[[Dataset, bytes], None]
"""Takes an object and its bytes as a Part 10 file; raises OSError where it cannot be kept."""


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """A series of a study, as the peer's C-FIND names it."""

    study: str
    series: str
    modality: str


@dataclass(slots=True)
class Puller:
    """An association to a peer that is asked for studies and brings their radiographs.

    Parameters
    ----------
    ae_title : str
        The calling AE title.
    peer : Peer
    keep : callable
        Takes each object that comes.
    """

    ae_title: str
    peer: Peer
    keep: Keep
    problem: str = ""
    """Why the last object was not kept."""
    _destination: Destination = field(init=False)

    def __post_init__(self) -> None:
        self._destination = Destination(
            self.ae_title, self.peer, [(evt.EVT_C_STORE, self._on_c_store)]
        )

    def open(self) -> None:
        """Associate, unless the association stands.

        Raises
        ------
        Unreachable
            As `Destination.connect`.
        Refused
            The peer takes neither C-FIND nor C-GET from this node.
        """
        if self._destination.is_open:
            return
        little = [EXPLICIT_LITTLE, IMPLICIT_LITTLE]
        contexts = [build_context(uid, little) for uid in (VERIFICATION, FIND, GET)]
        # One context for each transfer syntax: the peer then sends what it keeps, as it keeps it.
        contexts += [build_context(uid, syntax) for uid in _CLASSES for syntax in TRANSFER_SYNTAXES]
        roles = [build_role(uid, scu_role=False, scp_role=True) for uid in _CLASSES]
        self._destination.connect_as(contexts, roles)
        for uid, what in ((FIND, "C-FIND"), (GET, "C-GET")):
            if not self._destination.accepts(uid):
                raise Refused(f"{self._destination.name} takes no {what} (Study Root) from here")

    def series(self, accession: str) -> list[FoundSeries]:
        """Return the series of the studies with an accession number.

        Raises
        ------
        Unreachable, Refused
            The peer gives no answer, or the answer is a failure.
        """
        wanted = query("STUDY", AccessionNumber=accession, StudyInstanceUID="")
        found = []
        for study in find(self._open_destination(), wanted):
            # Some archives match without case or as a prefix.
            if str(study.get("AccessionNumber", accession)).strip() not in (accession, ""):
                continue
            uid = str(study.get("StudyInstanceUID", ""))
            asked = query("SERIES", StudyInstanceUID=uid, SeriesInstanceUID="", Modality="")
            found += [
                FoundSeries(uid, str(match.SeriesInstanceUID), str(match.get("Modality", "")))
                for match in find(self._open_destination(), asked)
                if match.get("SeriesInstanceUID")
            ]
        return found

    def instances(self, series: FoundSeries) -> list[str]:
        """Return the SOP Instance UIDs of a series."""
        asked = query(
            "IMAGE",
            StudyInstanceUID=series.study,
            SeriesInstanceUID=series.series,
            SOPInstanceUID="",
        )
        found = find(self._open_destination(), asked)
        return [str(match.SOPInstanceUID) for match in found if match.get("SOPInstanceUID")]

    def fetch(self, series: FoundSeries) -> str:
        """Let the peer bring a series; return what went wrong, or an empty text."""
        self.problem = ""
        asked = query("SERIES", StudyInstanceUID=series.study, SeriesInstanceUID=series.series)
        last: Dataset | None = None
        for status, _ in self._open_association.send_c_get(asked, GET):
            last = status
        if last is None or "Status" not in last:
            raise Unreachable(f"{self._destination.name} gave no answer to C-GET in time")
        failed = int(last.get("NumberOfFailedSuboperations", 0) or 0)
        if last.Status == 0 and not failed:
            return self.problem
        return self.problem or f"0x{last.Status:04X} {meaning(last.Status)}; {failed} failed"

    def close(self) -> None:
        """Release the association."""
        self._destination.close()

    def _open_destination(self) -> Destination:
        self.open()
        return self._destination

    @property
    def _open_association(self) -> Any:
        return self._open_destination().association

    def _on_c_store(self, event: evt.Event) -> int:
        """Keep an object that comes on this association; it is one of the SOP classes above."""
        try:
            content, syntax = event.encoded_dataset(), str(event.context.transfer_syntax)
            read_header(BytesIO(content), syntax, is_new=True)
            ds = event.dataset
            meta = event.file_meta
        except (NotUnderstood, *UNREADABLE):
            self.problem = "an object came that cannot be read"
            return _CANNOT_READ
        if UID(str(ds.get("SOPClassUID", ""))) not in IMAGES:
            self.problem = "an object came that is not a radiograph"
            return _CANNOT_READ
        ds.file_meta = meta
        try:
            self.keep(ds, content)
        except OSError as exc:
            self.problem = f"cannot be kept: {exc.strerror or exc}"
            return _CANNOT_WRITE
        return 0


def query(level: str, **keys: str) -> Dataset:
    """Return the identifier of a C-FIND or C-GET."""
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(asked, keyword, value)
    return asked


def find(destination: Destination, asked: Dataset) -> list[Dataset]:
    """Return all matches of a query (Study Root): an association carries one after the other.

    Raises
    ------
    Unreachable, Refused
        The peer gives no answer, or the answer is a failure.
    """
    matches = []
    for status, found in destination.association.send_c_find(asked, FIND):
        if "Status" not in status:
            raise Unreachable(f"{destination.name} gave no answer to C-FIND in time")
        if status.Status in _PENDING and found is not None:
            matches.append(found)
        elif status.Status not in (0, *_PENDING):
            why = f"0x{status.Status:04X} {meaning(status.Status)}"
            raise Refused(f"{destination.name} answers C-FIND with {why}")
    return matches
