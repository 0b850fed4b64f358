"""How the keys of a table stand in a form: in groups, with words that people use.

What no group names comes last, under its key: a new key of the settings has its field by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dicom_node.base.toml_fields import TableField
from dicom_node.base.translation import mark
from dicom_node.editing import Kind


@dataclass(frozen=True, slots=True)
class FormGroup:
    """Fields that belong together."""

    title: str
    fields: tuple[TableField, ...]
    is_folded: bool
    """Whether it is shut while nothing stands in it."""


_PLAN: Mapping[Kind, Sequence[tuple[str, bool, tuple[str, ...]]]] = {
    "peers": (
        (mark("Who it is"), False, ("ae_title", "host", "port")),
        (mark("What it gets"), False, ("objects", "storage_commitment", "sop_classes")),
        (mark("What it may do here"), True, ("may", "addresses", "certificate")),
        (
            mark("Connection and TLS"),
            True,
            ("timeout", "max_pdu", "tls.certificate", "tls.key", "tls.ca"),
        ),
    ),
    "rules": (
        (mark("The rule"), False, ("name", "model", "mode", "priority", "allow_demonstration")),
        (
            mark("Which images it takes"),
            False,
            ("match.modality", "match.body_part", "match.view", "match.calling_ae"),
        ),
        (
            mark("More about the images"),
            True,
            (
                "match.called_ae",
                "match.sop_class",
                "match.manufacturer",
                "match.station_name",
                "match.institution",
                "match.study_description",
                "match.series_description",
                "match.presentation_intent",
                "match.quality_control",
            ),
        ),
        (mark("Where its reports go"), False, ("send_to", "objects")),
        (
            mark("Where they go as well, by result"),
            True,
            ("when.present", "when.absent", "when.undetermined", "when.rejected"),
        ),
    ),
    "retention": (
        (mark("How long files stay"), False, ("images", "ignored", "reports", "conflicts")),
        (mark("Room"), False, ("min_free",)),
        (mark("History"), True, ("history",)),
    ),
}

LABELS: Mapping[str, str] = {
    "ae_title": mark("AE title"),
    "host": mark("Host"),
    "port": mark("Port"),
    "objects": mark("Objects"),
    "storage_commitment": mark("Storage commitment"),
    "sop_classes": mark("SR SOP classes"),
    "may": mark("Rights"),
    "addresses": mark("Calls from"),
    "certificate": mark("Client certificate"),
    "timeout": mark("Time limit in seconds"),
    "max_pdu": mark("Largest PDU"),
    "tls.certificate": mark("Our certificate"),
    "tls.key": mark("Our private key"),
    "tls.ca": mark("Trusted authorities"),
    "name": mark("Name"),
    "model": mark("Model"),
    "mode": mark("Mode"),
    "priority": mark("Priority"),
    "allow_demonstration": mark("Demonstration allowed"),
    "match.modality": mark("Modality"),
    "match.body_part": mark("Body part"),
    "match.view": mark("View"),
    "match.calling_ae": mark("Sender"),
    "match.called_ae": mark("Called AE title"),
    "match.sop_class": mark("SOP class"),
    "match.manufacturer": mark("Manufacturer"),
    "match.station_name": mark("Station name"),
    "match.institution": mark("Institution"),
    "match.study_description": mark("Study description"),
    "match.series_description": mark("Series description"),
    "match.presentation_intent": mark("Presentation intent"),
    "match.quality_control": mark("Quality control"),
    "send_to": mark("Send to"),
    "when.present": mark("A fracture is described"),
    "when.absent": mark("No fracture is described"),
    "when.undetermined": mark("The text does not say"),
    "when.rejected": mark("The image is not analysed"),
    "images": mark("Images, after their report was delivered"),
    "ignored": mark("Images that no rule took"),
    "reports": mark("Reports, after they were delivered"),
    "conflicts": mark("Other content under a known UID"),
    "min_free": mark("Must stay free"),
    "history": mark("Steps of the history"),
}
"""What a field is called; a key without a word is called by itself."""


def groups_of(kind: Kind, fields: Sequence[TableField]) -> list[FormGroup]:
    """Return all fields of a table in their groups."""
    left = {field.key: field for field in fields}
    groups = []
    for title, is_folded, keys in _PLAN[kind]:
        known = tuple(left.pop(key) for key in keys if key in left)
        groups.append(FormGroup(title, known, is_folded))
    if left:
        groups.append(FormGroup(mark("Others"), tuple(left.values()), False))
    return groups


def wrong_keys(fields: Sequence[TableField], problem: str) -> list[str]:
    """Return the keys that the message of a check names, such as ``peers.pacs.port: …``."""
    found = set()
    # tls.certificate goes before certificate, which its name ends with
    for key in sorted((field.key for field in fields), key=len, reverse=True):
        named = re.compile(rf"[ .]{re.escape(key)}(?:\.\d+)?:")
        if named.search(problem):
            found.add(key)
            problem = named.sub("", problem)
    return [field.key for field in fields if field.key in found]
