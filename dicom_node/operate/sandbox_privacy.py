"""The pseudonyms under which images and results leave this node for research."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dicom_node.settings import Settings
from dicom_node.standard.deidentify import Profile, Pseudonyms, read_key

KEY_FILE = "deid.key"


@dataclass(frozen=True, slots=True)
class Hidden:
    """A node's pseudonyms, and the options of its profile."""

    names: Pseudonyms
    profile: Profile

    def uid(self, uid: str) -> str:
        """Return the UID by which an object is known outside."""
        return uid if self.profile.uids == "keep" or not uid else self.names.uid(uid)

    def accession(self, number: str) -> str:
        """Return the accession number by which a study is known outside."""
        return self.names.accession(number)


def privacy_of(settings: Settings) -> Hidden:
    """Return what ``[sandbox]`` says; the key stays with the node.

    Raises
    ------
    ConfigurationError
        The key cannot be made or read.
    """
    table = settings.sandbox
    key = Path(table.key_file) if table.key_file else settings.node.data_dir / KEY_FILE
    profile = Profile(table.uids, table.dates, table.descriptors, table.keep_private)
    return Hidden(Pseudonyms(read_key(key)), profile)
