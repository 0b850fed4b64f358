"""The reports of this node as an archive would show them: patients, studies, series, instances.

DICOM PS3.4 C.6: the ledger says which objects there are, their files say what stands in them.
Of one report's SR variants only that is shown which a destination took, or would get first; what
a shadow rule or a demonstration model made for nobody is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from dicom_node.standard import matching
from dicom_node.standard.matching import PLAIN, How
from dicom_node.store.ledger import Ledger, Wanted
from dicom_node.store.spool import Spool

Level = Literal["PATIENT", "STUDY", "SERIES", "IMAGE"]

LEVELS: tuple[Level, ...] = ("PATIENT", "STUDY", "SERIES", "IMAGE")

UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
"""The unique key of each level (PS3.4 C.6.1.1, C.6.2.1)."""

CHARACTER_SET = "ISO_IR 192"


def _tags(text: str) -> frozenset[int]:
    found = [tag_for_keyword(keyword) for keyword in text.split()]
    return frozenset(tag for tag in found if tag is not None)


ATTRIBUTES: dict[Level, frozenset[int]] = {
    "PATIENT": _tags(
        "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex "
        "OtherPatientIDsSequence OtherPatientNames EthnicGroup PatientComments "
        "NumberOfPatientRelatedStudies NumberOfPatientRelatedSeries NumberOfPatientRelatedInstances"
    ),
    "STUDY": _tags(
        "StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence StudyID "
        "StudyInstanceUID ReferringPhysicianName StudyDescription ProcedureCodeSequence "
        "PhysiciansOfRecord NameOfPhysiciansReadingStudy AdmittingDiagnosesDescription PatientAge "
        "PatientSize PatientWeight ModalitiesInStudy SOPClassesInStudy "
        "NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances"
    ),
    "SERIES": _tags(
        "Modality SeriesInstanceUID SeriesNumber SeriesDate SeriesTime SeriesDescription "
        "BodyPartExamined ProtocolName OperatorsName Manufacturer InstitutionName StationName "
        "ReferencedPerformedProcedureStepSequence RequestAttributesSequence "
        "NumberOfSeriesRelatedInstances"
    ),
    "IMAGE": frozenset(),
}
"""Which attributes belong to which level; what is nowhere else belongs to the Instance."""

ORDERS = {
    "StudyDate": "study_date",
    "PatientName": "patient_name",
    "PatientID": "patient_id",
    "AccessionNumber": "accession_number",
}
"""Attributes by which a search can be ordered, with their columns in the ledger."""

_ANY_LEVEL = _tags("SpecificCharacterSet TimezoneOffsetFromUTC InstanceAvailability")
_ABOUT_THE_QUERY = _tags("SpecificCharacterSet QueryRetrieveLevel RetrieveAETitle")
_CONTENT = 0x0040A730
"""Content Sequence: where the report itself begins; pixels and documents come later still."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One object in the spool."""

    path: Path
    header: Dataset
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str


class Catalogue:
    """Finds reports.

    Parameters
    ----------
    ledger, spool
    ae_title : str
        Where found objects can be retrieved from: Retrieve AE Title (0008,0054).
    """

    def __init__(self, ledger: Ledger, spool: Spool, ae_title: str = "") -> None:
        self.ledger = ledger
        self._spool = spool
        self._ae_title = ae_title

    def find(
        self, level: Level, keys: Dataset, how: How = PLAIN, order: Sequence[str] = ()
    ) -> Iterator[Dataset]:
        """Yield the attributes of every patient, study, series or instance that matches.

        Each holds what its level and those above have, and the counts. Keys of levels below
        `level` are not looked at (PS3.4 C.4.1.2.2).

        Parameters
        ----------
        how : How
            Choices of the query about how its keys are compared.
        order : sequence of str
            Keywords of `ORDERS`, one that comes from high to low with a minus; those that are
            equal, and all where there is no order, come newest first.
        """
        wanted = [key for key in keys if is_asked(level, key.tag)]
        for group in self._groups(level, _wanted(keys, how, order)):
            for entity in _entities(level, group):
                entity.RetrieveAETitle = self._ae_title
                if matching.all_match(wanted, entity, how):
                    yield entity

    def objects(self, level: Level, keys: Dataset) -> list[Stored]:
        """Return the objects below what the unique keys name, down to `level`."""
        names = [UNIQUE[one] for one in LEVELS[: LEVELS.index(level) + 1]]
        wanted = [keys[name] for name in names if name in keys]
        return [
            stored
            for group in self._groups(level, _wanted(keys))
            for stored in group
            if matching.all_match(wanted, stored.header)
        ]

    def received(self, study: str, series: str, instance: str) -> Stored | None:
        """Return an image that was received, as long as its file is kept; None for any other."""
        known = self.ledger.instances.known(instance)
        if known is None or not known.file:
            return None
        if (known.study_instance_uid, known.series_instance_uid) != (study, series):
            return None
        path = self._spool.path(known.file)
        try:
            return Stored(path, read_head(path), study, series, instance, known.sop_class_uid)
        except (OSError, InvalidDicomError):
            return None  # retention has just removed it

    def variants(self, stored: Stored) -> dict[str, Path]:
        """Return the files of a report by SOP class: those that were made beside `stored`."""
        files = self.ledger.results.variants(stored.sop_instance_uid)
        return {uid: self._spool.path(name) for uid, name in files.items()}

    def _groups(self, level: Level, wanted: Wanted) -> Iterator[list[Stored]]:
        """Yield the objects of each study, or at the patient's level of each patient."""
        by_patient: dict[str, list[str]] = {}
        for study, patient in self.ledger.results.studies(wanted):
            by_patient.setdefault(patient if level == "PATIENT" else study, []).append(study)
        for studies in by_patient.values():
            if group := [s for row in self.ledger.results.objects(studies) for s in self._of(row)]:
                yield group

    def _of(self, row: dict[str, Any]) -> Iterator[Stored]:
        path = self._spool.path(row["file"])
        try:
            header = read_head(path)
        except (OSError, InvalidDicomError):
            return  # retention has just removed it
        yield Stored(
            path,
            header,
            row["study_instance_uid"],
            row["series_instance_uid"],
            row["sop_instance_uid"],
            row["sop_class_uid"],
        )


@lru_cache(maxsize=256)
def read_head(path: Path) -> Dataset:
    """Return what stands before the content of an object; never change it: it is shared."""
    with path.open("rb") as file:
        head: FileDataset = read_partial(file, stop_when=lambda tag, vr, length: tag >= _CONTENT)
    return head


def answer(keys: Dataset, level: Level, found: Dataset) -> Dataset:
    """Return what a C-FIND response says of `found`: the attributes that were asked for."""
    told = Dataset()
    told.SpecificCharacterSet = CHARACTER_SET
    told.QueryRetrieveLevel = level
    told.RetrieveAETitle = found.RetrieveAETitle
    for key in keys:
        if key.tag in found and is_asked(level, key.tag):
            told[key.tag] = found[key.tag]
        elif is_asked(level, key.tag):
            told.add_new(key.tag, key.VR, [] if key.VR == "SQ" else None)
    return told


def is_asked(level: Level, tag: BaseTag) -> bool:
    """Return whether a query at this level may ask for an attribute."""
    if tag in _ABOUT_THE_QUERY or tag.element == 0:
        return False
    at = next((one for one, tags in ATTRIBUTES.items() if tag in tags), "IMAGE")
    return tag in _ANY_LEVEL or LEVELS.index(at) <= LEVELS.index(level)


def _wanted(keys: Dataset, how: How = PLAIN, order: Sequence[str] = ()) -> Wanted:
    """Return what the ledger can look up by itself: at least all that matches."""
    exact, like = {}, {}
    uids = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    for column, keyword in zip(uids, keywords, strict=True):
        if texts := _texts(keys, keyword):
            exact[column] = tuple(texts)
    for column, keyword in (
        ("patient_id", "PatientID"),
        ("accession_number", "AccessionNumber"),
        ("patient_name", "PatientName"),
    ):
        texts = _texts(keys, keyword)
        if (column == "patient_name" and how.fuzzy) or texts == [matching.EMPTY]:
            continue
        # The ledger folds ASCII only, and joins blanks: anything else is matched in the file.
        if len(texts) == 1 and texts[0].isascii() and " " not in texts[0]:
            like[column] = texts[0]
    dates = _texts(keys, "StudyDate")
    is_span = len(dates) == 1 and dates != [matching.EMPTY]
    span = matching.bounds("DA", dates[0]) if is_span else None
    return Wanted(exact, like, span, tuple(order_column(one) for one in order))


def order_column(name: str) -> tuple[str, bool]:
    """Return the column that ``StudyDate`` or ``-StudyDate`` means, and whether high comes first.

    Raises
    ------
    KeyError
        Nothing is ordered by this attribute.
    """
    return ORDERS[name.removeprefix("-")], name.startswith("-")


def _texts(keys: Dataset, keyword: str) -> list[str]:
    if keyword not in keys or matching.is_universal(keys[keyword]):
        return []
    return matching.values(keys[keyword])


def _entities(level: Level, group: Sequence[Stored]) -> Iterator[Dataset]:
    if level in ("PATIENT", "STUDY"):
        yield _attributes(level, group[0], group, group)
        return
    series: dict[str, list[Stored]] = {}
    for stored in group:
        series.setdefault(stored.series_instance_uid, []).append(stored)
    for members in series.values():
        for stored in members if level == "IMAGE" else members[:1]:
            yield _attributes(level, stored, group, members)


def _attributes(
    level: Level, stored: Stored, study: Sequence[Stored], series: Sequence[Stored]
) -> Dataset:
    """Return what is known at this level; `study` and `series` are what is counted."""
    found = Dataset()
    for element in stored.header:
        if is_asked(level, element.tag) and not element.tag.is_private:
            found[element.tag] = element
    found.InstanceAvailability = "ONLINE"
    found.StudyInstanceUID = stored.study_instance_uid
    if level == "PATIENT":
        del found.StudyInstanceUID
        found.NumberOfPatientRelatedStudies = len({one.study_instance_uid for one in study})
        found.NumberOfPatientRelatedSeries = len({one.series_instance_uid for one in study})
        found.NumberOfPatientRelatedInstances = len(study)
        return found
    found.ModalitiesInStudy = sorted({str(one.header.get("Modality", "")) for one in study} - {""})
    found.SOPClassesInStudy = sorted({one.sop_class_uid for one in study})
    found.NumberOfStudyRelatedSeries = len({one.series_instance_uid for one in study})
    found.NumberOfStudyRelatedInstances = len(study)
    if level in ("SERIES", "IMAGE"):
        found.NumberOfSeriesRelatedInstances = len(series)
    return found


def key(keyword: str, value: Any = None) -> DataElement:
    """Return one key of a query.

    Raises
    ------
    KeyError
        No attribute has this keyword.
    """
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return DataElement(Tag(tag), dictionary_VR(tag), value)
