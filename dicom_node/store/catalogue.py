"""The reports of this node as an archive would show them: patients, studies, series, instances.

DICOM PS3.4 C.6: the ledger says which objects there are, by columns that have indexes; a file is
opened only for what no column holds, of what matches so far.
Of one report's SR variants only that is shown which a destination took, or would get first; what
a shadow rule or a demonstration model made for nobody is not shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from io import BytesIO
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Literal

from pydicom import config, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from dicom_node.base.errors import NotUnderstood
from dicom_node.base.job import without_nul
from dicom_node.standard import matching
from dicom_node.standard.header import EXPLICIT, check_file, clean
from dicom_node.standard.matching import PLAIN, How
from dicom_node.standard.names import folded, spaced
from dicom_node.standard.part10 import recast
from dicom_node.standard.sr_classes import is_exchangeable
from dicom_node.store.ledger import Ledger, Wanted
from dicom_node.store.ledger.variants import is_recast
from dicom_node.store.ledger.views import ReportView
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

_CHUNK = 50
"""Studies whose objects are looked up together."""

_FIRST_CHUNK = 12


def _tags_of_keywords(text: str) -> frozenset[int]:
    found = [tag_for_keyword(keyword) for keyword in text.split()]
    return frozenset(tag for tag in found if tag is not None)


ATTRIBUTES: dict[Level, frozenset[int]] = {
    "PATIENT": _tags_of_keywords(
        "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex "
        "OtherPatientIDsSequence OtherPatientNames EthnicGroup PatientComments "
        "NumberOfPatientRelatedStudies NumberOfPatientRelatedSeries NumberOfPatientRelatedInstances"
    ),
    "STUDY": _tags_of_keywords(
        "StudyDate StudyTime AccessionNumber IssuerOfAccessionNumberSequence StudyID "
        "StudyInstanceUID ReferringPhysicianName StudyDescription ProcedureCodeSequence "
        "PhysiciansOfRecord NameOfPhysiciansReadingStudy AdmittingDiagnosesDescription PatientAge "
        "PatientSize PatientWeight ModalitiesInStudy SOPClassesInStudy "
        "NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances"
    ),
    "SERIES": _tags_of_keywords(
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

_ANY_LEVEL = _tags_of_keywords("SpecificCharacterSet TimezoneOffsetFromUTC InstanceAvailability")
_ABOUT_THE_QUERY = _tags_of_keywords("SpecificCharacterSet QueryRetrieveLevel RetrieveAETitle")
_CONTENT = 0x0040A730
"""Content Sequence: where the report itself begins; pixels and documents come later still."""


@dataclass(frozen=True)
class Stored:
    """One object in the spool; its header is read when it is asked for.

    A report that is made of another SR class is read as what it is, and not as its file has it.
    """

    path: Path
    given: Dataset | None
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    row: ReportView | None = None

    @property
    def header(self) -> Dataset:
        """What stands before the content; empty when retention has just removed the file."""
        if self.given is not None:
            return self.given
        try:
            return read_head(self.path)
        except (OSError, InvalidDicomError):
            return Dataset()

    @property
    def patient_id(self) -> str:
        """The patient's id."""
        return self.row.patient_id if self.row else str(self.header.get("PatientID") or "")

    def open(self) -> IO[bytes]:
        """Return the object as a Part 10 file.

        Raises
        ------
        OSError, NotUnderstood
            Its file is gone, or is not what was kept.
        """
        if self.row is None or not is_recast(self.row.part):
            return self.path.open("rb")
        content = self.path.read_bytes()
        return BytesIO(recast(content, self.sop_class_uid, self.sop_instance_uid))

    @property
    def is_whole(self) -> bool:
        """Whether its file is there and not cut off: who asks is answered before it is read."""
        try:
            with self.open() as file:
                if self.row is not None:
                    check_file(file, EXPLICIT)
        except (OSError, NotUnderstood):
            return False
        return True

    def read(self) -> FileDataset:
        """Return all of the object.

        Raises
        ------
        OSError, NotUnderstood, InvalidDicomError
            As `open`, or the file is not DICOM.
        """
        with self.open() as file:
            if self.row is not None:  # this node's own, in its own transfer syntax
                check_file(file, EXPLICIT)
                file.seek(0)
            return dcmread(file)


COLUMNS: dict[str, tuple[Level, str]] = {
    "PatientName": ("PATIENT", "patient_name"),
    "PatientID": ("PATIENT", "patient_id"),
    "PatientBirthDate": ("PATIENT", "patient_birth_date"),
    "PatientSex": ("PATIENT", "patient_sex"),
    "IssuerOfPatientID": ("PATIENT", "issuer_of_patient_id"),
    "StudyInstanceUID": ("STUDY", "study_instance_uid"),
    "StudyDate": ("STUDY", "study_date"),
    "StudyTime": ("STUDY", "study_time"),
    "AccessionNumber": ("STUDY", "accession_number"),
    "StudyDescription": ("STUDY", "study_description"),
    "StudyID": ("STUDY", "study_id"),
    "ReferringPhysicianName": ("STUDY", "referring_physician"),
    "SeriesInstanceUID": ("SERIES", "series_instance_uid"),
    "SOPInstanceUID": ("IMAGE", "sop_instance_uid"),
    "SOPClassUID": ("IMAGE", "sop_class_uid"),
}
"""Attributes that the ledger has, with their level and their name there."""

_FILLED = ("issuer_of_patient_id", "study_id", "referring_physician")
_MODALITIES = {"sr": "SR", "basic-text": "SR", "gsps": "PR", "sc": "OT", "pdf": "DOC", "ko": "KO"}
_MODALITIES["rejection-note"] = "KO"
_NOT_IN_FILES = _tags_of_keywords(
    "InstanceAvailability ModalitiesInStudy SOPClassesInStudy NumberOfPatientRelatedStudies "
    "NumberOfPatientRelatedSeries NumberOfPatientRelatedInstances NumberOfStudyRelatedSeries "
    "NumberOfStudyRelatedInstances NumberOfSeriesRelatedInstances RetrieveAETitle"
)


class Found(Dataset):
    """What matches: at first what the ledger has of it; the rest is read when it is looked at."""

    def open_later(self, stored: Stored, level: Level) -> None:
        """Let the rest come from the file of `stored`."""
        self.__dict__["_later"] = (stored, level)

    def complete(self) -> None:
        """Read the file, unless it was read."""
        stored, level = self.__dict__.pop("_later", (None, None))
        if stored is None:
            return
        for element in stored.header:
            if is_asked(level, element.tag) and not element.tag.is_private:
                self.setdefault(element.tag, element)

    def __contains__(self, name: Any) -> bool:
        """Return whether the attribute is there, in the ledger or in the file."""
        if super().__contains__(name):
            return True
        self.complete()
        return super().__contains__(name)

    def get(self, key: Any, default: Any = None) -> Any:
        """Return an attribute, from the ledger or from the file."""
        return super().get(key, default) if key in self else default

    def __iter__(self) -> Iterator[DataElement]:
        """Yield all attributes in the order of their tags."""
        self.complete()
        yield from super().__iter__()


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
        `level` are not looked at (PS3.4 C.4.1.2.2), nor those that `uncompared` names.

        Parameters
        ----------
        how : How
            Choices of the query about how its keys are compared.
        order : sequence of str
            Keywords of `ORDERS`, with a minus where it goes from high to low; those that are
            equal, and all where there is no order, come newest first.
        """
        left_out = uncompared(level, keys)
        wanted = [
            key
            for key in keys
            if is_asked(level, key.tag)
            and key.tag not in left_out
            and (key.tag in _IN_LEDGER or not matching.is_universal(key))
        ]
        # What the ledger has is compared first: a file is opened only for what matches so far.
        wanted.sort(key=lambda key: key.tag not in _IN_LEDGER)
        for group in self._group_objects(level, _wanted_by_ledger(keys, how, order)):
            for entity in _entities_of_level(level, group):
                _put_attribute(entity, "RetrieveAETitle", self._ae_title)
                if matching.all_match(wanted, entity, how):
                    yield entity

    def objects(self, level: Level, keys: Dataset) -> list[Stored]:
        """Return the objects below what the unique keys name, down to `level`."""
        names = [UNIQUE[name] for name in LEVELS[: LEVELS.index(level) + 1]]
        wanted = [keys[name] for name in names if name in keys]
        return [
            stored
            for group in self._group_objects(level, _wanted_by_ledger(keys))
            for stored in group
            if matching.all_match(wanted, _ledger_attributes("IMAGE", stored))
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

    def give_out(self, stored: Stored, sop_classes: Sequence[str]) -> Stored | None:
        """Return an object as the first of some SOP classes that it may have; None without any."""
        if stored.sop_class_uid in sop_classes:
            return stored
        if stored.row is None or not is_exchangeable(stored.sop_class_uid):
            return None
        found = self.ledger.results.give_out(stored.row.job, sop_classes)
        if found is None or not found.file:
            return None
        return self._stored_object(
            replace(
                stored.row,
                part=found.part,
                file=found.file,
                sop_class_uid=found.sop_class_uid,
                sop_instance_uid=found.sop_instance_uid,
            )
        )

    def _group_objects(self, level: Level, wanted: Wanted) -> Iterator[list[Stored]]:
        """Yield the objects of each study, or at the patient's level of each patient."""
        found = self.ledger.results.studies(wanted)
        if level == "PATIENT":
            for _, studies in groupby(self._studies_by_patient(found), itemgetter(1)):
                rows = self.ledger.results.objects([study for study, _ in studies])
                if rows:
                    yield [self._stored_object(row) for row in rows]
            return
        for size in _chunk_sizes():
            if not (chunk := [study for study, _ in islice(found, size)]):
                return
            by_study: dict[str, list[Stored]] = {}
            for row in self.ledger.results.objects(chunk):
                by_study.setdefault(row.study_instance_uid, []).append(self._stored_object(row))
            yield from (by_study[study] for study in chunk if study in by_study)

    def _studies_by_patient(self, found: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Yield all studies of each patient of whom any was found, patient by patient."""
        seen: set[str] = set()
        for size in _chunk_sizes():
            if not (chunk := list(islice(found, size))):
                return
            new = [
                patient_id
                for patient_id in dict.fromkeys(patient for _, patient in chunk)
                if patient_id not in seen
            ]
            seen.update(new)
            of_patient: dict[str, list[tuple[str, str]]] = {}
            for study, patient in self.ledger.results.studies_of_patients(new) if new else ():
                of_patient.setdefault(patient, []).append((study, patient))
            for patient in new:
                yield from of_patient.get(patient, ())

    def _stored_object(self, row: ReportView) -> Stored:
        return Stored(
            self._spool.path(row.file),
            None,
            row.study_instance_uid,
            row.series_instance_uid,
            row.sop_instance_uid,
            row.sop_class_uid,
            row,
        )


def _chunk_sizes() -> Iterator[int]:
    """Yield how many studies are looked up together: few at first, as few may be wanted."""
    size = _FIRST_CHUNK
    while True:
        yield size
        size = min(2 * size, _CHUNK)


@lru_cache(maxsize=256)
def read_head(path: Path) -> Dataset:
    """Return what stands before the content of an object; never change it: it is shared."""
    with path.open("rb") as file:
        head: FileDataset = read_partial(file, stop_when=lambda tag, vr, length: tag >= _CONTENT)
    return head


def answer(keys: Dataset, level: Level, found: Dataset) -> Dataset:
    """Return what a C-FIND response says of `found`: the attributes that were asked for."""
    row = Dataset()
    row.SpecificCharacterSet = CHARACTER_SET
    row.QueryRetrieveLevel = level
    row.RetrieveAETitle = found.RetrieveAETitle
    for key in keys:
        if key.tag in found and is_asked(level, key.tag):
            row[key.tag] = found[key.tag]
        elif is_asked(level, key.tag):
            row.add_new(key.tag, key.VR, [] if key.VR == "SQ" else None)
    return row


def uncompared(level: Level, keys: Dataset) -> list[BaseTag]:
    """Return the keys that are not compared, because no column of the ledger holds them.

    Comparing them means to open files, and does happen where a query names its study, series or
    instances. Any other query would open the file of every report; such a key is optional there
    and counts as one without a value (PS3.4 C.4.1.3.1.1, PS3.18 8.3.4).
    """
    exact = _wanted_by_ledger(keys).exact
    if any(exact.get(column) for column in _NAMED_BY):
        return []
    return [
        key.tag
        for key in keys
        if is_asked(level, key.tag) and key.tag not in _IN_LEDGER and not matching.is_universal(key)
    ]


def is_asked(level: Level, tag: BaseTag) -> bool:
    """Return whether a query at this level may ask for an attribute."""
    if tag in _ABOUT_THE_QUERY or tag.element == 0:
        return False
    at = next((level_name for level_name, tags in ATTRIBUTES.items() if tag in tags), "IMAGE")
    return tag in _ANY_LEVEL or LEVELS.index(at) <= LEVELS.index(level)


def _wanted_by_ledger(keys: Dataset, how: How = PLAIN, order: Sequence[str] = ()) -> Wanted:
    """Return what the ledger can look up by itself: at least all that matches."""
    exact: dict[str, tuple[str, ...]] = {}
    like: dict[str, str] = {}
    span: dict[str, tuple[str, str]] = {}
    for keyword, column in _LOOKED_UP.items():
        texts = _key_values(keys, keyword)
        if not texts or matching.EMPTY in texts:
            continue
        if keyword.endswith("UID"):
            exact[column] = tuple(texts)
        elif set("".join(texts)) & set("*?"):
            if len(texts) == 1:
                like[column] = texts[0]
        elif how.several_values is False or len(texts) == 1:
            exact[column] = tuple({text: None for value in texts for text in (value, clean(value))})
    dates = _key_values(keys, "StudyDate")
    if len(dates) == 1 and dates != [matching.EMPTY]:
        span["study_date"] = matching.bounds("DA", dates[0])
    names = _key_values(keys, "PatientName")
    words: tuple[str, ...] = ()
    if len(names) == 1 and names != [matching.EMPTY]:
        words = tuple(name_words(names[0], how.fuzzy))
    return Wanted(exact, like, span, tuple(order_column(keyword) for keyword in order), words)


_NAMED_BY = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
"""Columns that leave a handful of objects."""

_LOOKED_UP = {
    "StudyInstanceUID": "study_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
    "SOPInstanceUID": "sop_instance_uid",
    "PatientID": "patient_id",
    "AccessionNumber": "accession_number",
}


def name_words(pattern: str, is_fuzzy: bool = False) -> list[str]:
    """Return words with which words of every matching name begin.

    Behind a ``*`` or ``?`` a word may lie within one of the name, and says nothing.
    """
    plain = pattern.replace("*", " ").replace("?", " ") if is_fuzzy else pattern
    text = spaced(folded(plain))
    return [
        found[0]
        for found in re.finditer(r"[^\s*?]+", text)
        if is_fuzzy or found.start() == 0 or text[found.start() - 1] not in "*?"
    ]


def order_column(name: str) -> tuple[str, bool]:
    """Return the column that ``StudyDate`` or ``-StudyDate`` means, and whether high comes first.

    Raises
    ------
    KeyError
        Nothing is ordered by this attribute.
    """
    return ORDERS[name.removeprefix("-")], name.startswith("-")


def _key_values(keys: Dataset, keyword: str) -> list[str]:
    if keyword not in keys or matching.is_universal(keys[keyword]):
        return []
    # in no text of the ledger, and PostgreSQL would not compare with it
    return [without_nul(text) for text in matching.values(keys[keyword])]


def _entities_of_level(level: Level, group: Sequence[Stored]) -> Iterator[Dataset]:
    if level in ("PATIENT", "STUDY"):
        yield _level_attributes(level, group[0], group, group)
        return
    series: dict[str, list[Stored]] = {}
    for stored in group:
        series.setdefault(stored.series_instance_uid, []).append(stored)
    for members in series.values():
        for stored in members if level == "IMAGE" else members[:1]:
            yield _level_attributes(level, stored, group, members)


def _level_attributes(
    level: Level, stored: Stored, study: Sequence[Stored], series: Sequence[Stored]
) -> Dataset:
    """Return what is known at this level; `study` and `series` are what is counted."""
    found = _ledger_attributes(level, stored)
    _put_attribute(found, "InstanceAvailability", "ONLINE")
    if level == "PATIENT":
        _put_attribute(
            found,
            "NumberOfPatientRelatedStudies",
            len({member.study_instance_uid for member in study}),
        )
        _put_attribute(
            found,
            "NumberOfPatientRelatedSeries",
            len({member.series_instance_uid for member in study}),
        )
        _put_attribute(found, "NumberOfPatientRelatedInstances", len(study))
        return found
    _put_attribute(
        found, "ModalitiesInStudy", sorted({_modality_of_object(member) for member in study} - {""})
    )
    _put_attribute(found, "SOPClassesInStudy", sorted({member.sop_class_uid for member in study}))
    _put_attribute(
        found, "NumberOfStudyRelatedSeries", len({member.series_instance_uid for member in study})
    )
    _put_attribute(found, "NumberOfStudyRelatedInstances", len(study))
    if level in ("SERIES", "IMAGE"):
        _put_attribute(found, "NumberOfSeriesRelatedInstances", len(series))
    return found


def _ledger_attributes(level: Level, stored: Stored) -> Found:
    """Return what the ledger has of an object, down to `level`; the rest is read when wanted."""
    found = Found()
    row, depth = stored.row, LEVELS.index(level)
    if row is not None:
        for keyword, (at, column) in COLUMNS.items():
            if LEVELS.index(at) <= depth and (row.is_filled or column not in _FILLED):
                text = getattr(row, column)
                tag, vr = _TAGS[keyword]
                found[tag] = DataElement(tag, vr, text or None, validation_mode=config.IGNORE)
        if level in ("SERIES", "IMAGE"):
            _put_attribute(found, "Modality", _modality_of_object(stored))
    found.open_later(stored, level)
    return found


def _put_attribute(found: Dataset, keyword: str, value: Any) -> None:
    """Set an attribute; by its name pydicom would ask whether it is there, and open the file."""
    tag, vr = _tag_of(keyword)
    found[tag] = DataElement(tag, vr, value)


def _modality_of_object(stored: Stored) -> str:
    known = stored.row and (stored.row.modality or _MODALITIES.get(stored.row.kind))
    return known or str(stored.header.get("Modality", ""))


@cache
def _tag_of(keyword: str) -> tuple[BaseTag, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return Tag(tag), dictionary_VR(tag)


_TAGS = {keyword: _tag_of(keyword) for keyword in COLUMNS}
_IN_LEDGER = (
    frozenset(tag for tag, _ in _TAGS.values()) | _NOT_IN_FILES | _tags_of_keywords("Modality")
)


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
