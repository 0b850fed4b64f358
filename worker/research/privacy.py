"""De-identification of a describe run: what leaves its door names nobody."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.base.job import Reason
from dicom_node.standard import deidentify as door
from dicom_node.standard.deidentify import BASIC, Profile, Pseudonyms
from worker.image.text_finder import WARNING, find_text

if TYPE_CHECKING:
    from pydicom import Dataset

    from worker.pipeline import Case

LEFT_OUT = "Details are left out: they quote the header."
_NAMED = {"patient_id": "patient", "accession_number": "accession"}


def key_file() -> Path:
    """Return where the key of this user's pseudonyms is, outside every folder of results."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "chexfract" / "deidentify.key"


@dataclass(frozen=True, slots=True)
class Privacy:
    """The pseudonyms of a run, and its options."""

    names: Pseudonyms
    profile: Profile = BASIC

    @classmethod
    def of_file(cls, key: Path | None, profile: Profile = BASIC) -> Privacy:
        """Return the privacy of a key file; without a file, of this user's own key."""
        return cls(Pseudonyms(door.read_key(key or key_file())), profile)

    def as_json(self) -> dict[str, Any]:
        """Return what a manifest says of it; of the key only a mark to know it by."""
        return {
            "profile": "PS3.15 Basic Application Level Confidentiality Profile",
            "uids": self.profile.uids,
            "dates": self.profile.dates,
            "descriptors": self.profile.descriptors,
            "keep_private": list(self.profile.keep_private),
            "key": self.names.digest("key", "")[:8],
        }

    def path(self, name: str) -> str:
        """Return the name by which a row names a file."""
        return self.names.path(name)

    def identifiers(self, known: dict[str, str]) -> dict[str, str]:
        """Return the replacements of identifiers that a table gives to a picture file."""
        named = {}
        for column, value in known.items():
            if column.endswith("_uid"):
                named[column] = self.uid(value)
            elif value:
                named[column] = getattr(self.names, _NAMED[column])(value)
        return named

    def uid(self, uid: str) -> str:
        """Return the UID by which a row names an Instance."""
        return uid if self.profile.uids == "keep" or not uid else self.names.uid(uid)

    def hide(self, case: Case) -> None:
        """Replace the header of a prepared case, and what was said of it.

        The gate and the picture have followed the header as it came.
        """
        hidden: set[str] = set()
        if case.source is not None:
            made = door.deidentify(case.source, self.names, self.profile)
            hidden = _hidden_texts(case.source, made)
            case.source = made
        if case.reason is not None and door.quotes(case.reason.text, hidden):
            case.reason = Reason(code=case.reason.code, text=LEFT_OUT)
        if case.radiograph is not None:
            said = case.radiograph.warnings
            notes = tuple(LEFT_OUT if door.quotes(line, hidden) else line for line in said)
            if find_text(case.radiograph.pixels):
                notes += (WARNING,)
            case.radiograph = replace(case.radiograph, warnings=notes)


def _hidden_texts(source: Dataset, made: Dataset) -> set[str]:
    stays = {text.casefold() for text in door.texts_of(made)}
    return {text for text in door.texts_of(source) if text.casefold() not in stays}


def hashed_labels(rows: Sequence[dict[str, str]], privacy: Privacy) -> list[dict[str, str]]:
    """Return labels by the pseudonyms of their images, so that they find a de-identified run."""
    hashed = []
    for row in rows:
        named = dict(row)
        if row.get("file"):
            named["file"] = privacy.path(row["file"])
        if row.get("sop_instance_uid"):
            named["sop_instance_uid"] = privacy.uid(row["sop_instance_uid"])
        hashed.append(named)
    return hashed
