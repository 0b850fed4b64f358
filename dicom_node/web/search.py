"""What a QIDO-RS request asks for, and what is ignored with a warning (PS3.18 8.3.4, 10.6)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fastapi import Request
from pydicom import config
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.tag import Tag
from starlette.exceptions import HTTPException

from dicom_node.standard.matching import SEVERAL, How
from dicom_node.store.catalogue import CHARACTER_SET, ORDERS, Level, is_asked, uncompared

MOST = 1000
"""Matches in one answer; the rest is asked for with ``offset``."""

MAX_VALUE = 4096
"""Characters of a parameter's value that are looked at."""

MAX_DEPTH = 8
"""Sequences within each other in the name of an attribute."""

MAX_WARNED = 10
"""Parameters that a warning names; it counts the others."""

PARAMETERS = (
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
"""Parameters beside the attributes."""

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

_LEVELS: tuple[Level, ...] = ("STUDY", "SERIES", "IMAGE")
_LISTS = frozenset(("UI", "CS", "AE"))
"""Value representations whose values hold no comma, so that a comma stands between two values."""
_BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN", "AT"))
"""Value representations that a text in a parameter cannot stand for."""
_TRUE = ("true", "1", "yes")
_DAYS = re.compile(r"\s*+([0-9.]{4,10})?+\s*+(-\s*+([0-9.]{4,10})?+)?+\s*+")
"""A day, or a range of days; ISO 8601 with its hyphens would be read as a range."""
_WHEN = re.compile(r"[0-9.:+ \\-]{1,64}")


class Search:
    """What a request asks for.

    Parameters
    ----------
    request : Request
    level : Level
    uids : dict of str to str
        What the path names, by keyword.

    Raises
    ------
    HTTPException
        400: the value of a parameter is not understood.
    """

    def __init__(self, request: Request, level: Level, uids: dict[str, str]) -> None:
        self.keys = Dataset()
        self.limit, self.offset = MOST, 0
        self.order: list[str] = []
        self._level = level
        self._is_all = False
        self._unknown: dict[str, None] = {}
        self._notes: list[str] = []
        # What the path does not name is part of the answer, too.
        named = {"StudyInstanceUID": "STUDY", "SeriesInstanceUID": "SERIES"}
        known = [named[name] for name in uids if name in named]
        shown = [name for name in _LEVELS[: _LEVELS.index(level) + 1] if name not in known]
        self._fields = {
            _tag_of_keyword(name) for level_name in shown for name in _ALWAYS[level_name].split()
        }
        parameters = [(name, value[:MAX_VALUE]) for name, value in _query_pairs(request)]
        flags = {name.lower(): value.strip().lower() in _TRUE for name, value in parameters}
        # Values between commas are a list, one of which is enough, as of UIDs; those between
        # backslashes are the several values of PS3.4 C.2.2.2.8.
        self._has_lists = flags.get("multiplevaluematching", False)
        self.how = How(
            fuzzy=flags.get("fuzzymatching", False),
            empty_values=flags.get("emptyvaluematching", False),
            several_values=self._has_lists and any("\\" in value for _, value in parameters),
        )
        for name, value in parameters:
            self._take_parameter(name, value)
        for keyword, uid in uids.items():
            key = _query_key(_tag_of_keyword(keyword), uid, has_lists=False)
            self.keys[key.tag] = key
        for tag in uncompared(level, self.keys):
            self._unknown[keyword_for_tag(tag)] = None

    def _take_parameter(self, name: str, value: str) -> None:
        if name in ("limit", "offset"):
            if not value.strip():
                return  # a form's empty field
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise HTTPException(400, f"{name} is not a number")
            count = int(value)
            setattr(self, name, min(count, MOST) if name == "limit" else count)
        elif name == "includefield":
            self._include_fields(value)
        elif name == "orderby":
            self._order_by(value)
        elif name == "charset":
            wanted = [word.partition(";")[0].strip().lower() for word in value.split(",")]
            if not {"utf-8", "utf8", "*"} & set(wanted):
                self._notes.append("charset: the answer is in utf-8")
        elif name not in PARAMETERS:
            self._add_key(name, value)

    def _include_fields(self, value: str) -> None:
        for name in value.split(","):
            tag = _known_tag(name.partition(".")[0].strip())
            if name.strip() == "all":
                self._is_all = True
            elif tag is not None:
                self._fields.add(tag)
            elif name.strip():
                self._unknown[f"includefield={name.strip()}"] = None

    def _order_by(self, value: str) -> None:
        for name in value.split(","):
            bare = name.strip().lstrip("+-")
            tag = _known_tag(bare)
            keyword = keyword_for_tag(tag) if tag is not None else ""
            if keyword in ORDERS:
                self.order.append(("-" if name.strip().startswith("-") else "") + keyword)
            elif bare:
                self._unknown[f"orderby={bare}"] = None

    def _add_key(self, name: str, value: str) -> None:
        """Add a key; what is not an attribute, or not of this level, is left out with a warning."""
        path = name.split(".")
        tags = [_known_tag(part) for part in path[: MAX_DEPTH + 1]]
        *outer, last = tags
        sequences = [tag for tag in outer if tag is not None and dictionary_VR(tag) == "SQ"]
        first = tags[0]
        if last is None or first is None or len(sequences) != len(path) - 1:
            self._unknown[name] = None
            return
        if not is_asked(self._level, Tag(first)) or dictionary_VR(last)[:2] in _BINARY:
            self._unknown[name] = None
            return
        keys = self.keys
        for tag in sequences:
            if tag not in keys:
                keys[tag] = DataElement(tag, "SQ", Items([Dataset()]))
            keys = keys[tag].value[0]
        key = _query_key(last, value, has_lists=self._has_lists)
        if key.VR == "SQ":
            self._unknown[name] = None
            return
        if key.tag in keys:
            self._notes.append(f"{key.keyword} stands twice: the last one counts")
        keys[key.tag] = key
        self._fields.add(first)

    def shown(self, found: Dataset, root: str) -> Dataset:
        """Return the attributes of a match that were asked for, with its Retrieve URL.

        Parameters
        ----------
        root : str
            Address of the services.
        """
        shown = Dataset()
        for element in found:
            if self._is_all or element.tag in self._fields:
                shown[element.tag] = element
        shown.SpecificCharacterSet = CHARACTER_SET
        uids = (("studies", "Study"), ("series", "Series"), ("instances", "SOP"))
        parts = [
            f"{name}/{found[f'{of}InstanceUID'].value}"
            for name, of in uids
            if f"{of}InstanceUID" in found
        ]
        shown.RetrieveURL = "/".join([root, *parts])
        return shown

    def warnings(self, *, has_more: bool) -> dict[str, str]:
        """Return the header that says what was not done (PS3.18 8.3.1, 8.3.4.4, 10.6.3.2)."""
        texts = list(dict.fromkeys(self._notes))[:MAX_WARNED]
        if self._unknown:
            names = [_printable_name(name) for name in list(self._unknown)[:MAX_WARNED]]
            more = len(self._unknown) - len(names)
            rest = f" and {more} more" if more > 0 else ""
            texts.append(f"ignored, as not supported here: {', '.join(names)}{rest}")
        if has_more:
            texts.append("there are more results; ask with offset")
        said = ", ".join(f'299 chexfract-node "{text}"' for text in texts)
        return {"Warning": said} if said else {}


def warning(parameters: Iterable[str]) -> dict[str, str]:
    """Return the header that names parameters of a request that were not looked at."""
    names = [_printable_name(name) for name in parameters][:MAX_WARNED]
    if not names:
        return {}
    return {"Warning": f'299 chexfract-node "ignored, as not supported here: {", ".join(names)}"'}


def _query_pairs(request: Request) -> list[tuple[str, str]]:
    return [(name.strip(), value) for name, value in request.query_params.multi_items()]


def _printable_name(name: str) -> str:
    """Return the name of a parameter as a header may hold it."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.=-") else "?" for c in name)
    return kept[:64]


def _known_tag(name: str) -> int | None:
    """Return the tag that a keyword or eight hexadecimal digits name; None where nothing has it."""
    if len(name) == 8 and name.isascii() and name.isalnum():
        try:
            tag = int(name, 16)
        except ValueError:
            pass
        else:
            return tag if keyword_for_tag(tag) else None
    return tag_for_keyword(name[:64])


def _tag_of_keyword(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


def _query_key(tag: int, value: str, *, has_lists: bool) -> DataElement:
    """Return one key; several values stand between backslashes, in lists between commas."""
    vr = dictionary_VR(tag)[:2]  # of "US or SS" the first
    values: Any = value.strip()
    if vr in _LISTS or (has_lists and vr in SEVERAL):
        values = values.replace(",", "\\")
    if set(values) <= {"*"}:
        values = ""  # as a number or a date it would not be understood
    is_day = vr != "DA" or all(_DAYS.fullmatch(day) for day in values.strip('"').split("\\"))
    if vr in ("DA", "TM", "DT") and values.strip('"') and not (_WHEN.fullmatch(values) and is_day):
        raise HTTPException(400, f"{keyword_for_tag(tag)} has a value of another kind")
    if vr == "SQ":
        return DataElement(tag, vr, Items([]))
    if vr in ("UI", "DA", "TM", "DT") and "\\" in values:
        values = values.split("\\")
    try:
        return DataElement(tag, vr, values, validation_mode=config.IGNORE)
    except (ValueError, TypeError, OverflowError) as exc:
        raise HTTPException(400, f"{keyword_for_tag(tag)} has a value of another kind") from exc
