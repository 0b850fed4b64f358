"""The UIDs of result objects depend on what they are about, and never change by themselves."""

from __future__ import annotations

import pytest

from dicom_node.standard.uids import PREFIXES, derived_uid, object_series_uid, object_uid


def test_a_uid_is_the_same_for_ever() -> None:
    """Reports in archives bear UIDs of 0.1.0; another derivation would send them a second time."""
    assert derived_uid("a", "b") == "2.25.339241029413601204551358494245152818603"
    assert (
        object_uid("sr", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.3", "2.25.1", "0" * 64, 1)
        == "2.25.156106265732412099762400641240507133100"
    )
    assert (
        object_series_uid("gsps", "1.2.3", "2.25.1")
        == "2.25.177872287466659170721549282618422435237"
    )


@pytest.mark.parametrize("kind", list(PREFIXES))
def test_a_kind_of_object_has_uids_of_its_own(kind: str) -> None:
    arguments = ("1.2.840", "1.2.3", "2.25.1", "0" * 64, 1)
    others = {object_uid(other, *arguments) for other in PREFIXES if other != kind}
    assert object_uid(kind, *arguments) not in others
    assert len({object_series_uid(each, "1.2.3", "2.25.1") for each in PREFIXES}) == len(PREFIXES)
