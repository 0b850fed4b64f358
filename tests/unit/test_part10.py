"""The head of a Part 10 file, written and read."""

from __future__ import annotations

import io
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_node.base.errors import NotUnderstood
from dicom_node.standard.part10 import (
    has_length,
    head_size,
    is_part10,
    skip_head,
    write_head,
)

uids = st.text(alphabet=string.digits + ".", min_size=1, max_size=64)


@given(uids, uids, uids, st.binary(max_size=64))
def test_what_is_written_is_found_again(
    sop_class: str, instance: str, syntax: str, data_set: bytes
) -> None:
    head = write_head(sop_class, instance, syntax)
    assert is_part10(head)
    assert has_length(head)
    assert head_size(head) == len(head)
    file = io.BytesIO(head + data_set)
    skip_head(file)
    assert file.read() == data_set


def test_pydicom_reads_it() -> None:
    head = write_head("1.2.840.10008.5.1.4.1.1.1", "1.2.3", "1.2.840.10008.1.2.1")
    meta = dcmread(io.BytesIO(head)).file_meta
    assert (meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID) == (
        "1.2.3",
        "1.2.840.10008.1.2.1",
    )
    assert head[:128] == bytes(128)


@pytest.mark.parametrize(
    "content", [b"", b"DICM", bytes(144), bytes(128) + b"DICM", bytes(128) + b"dicm" + bytes(40)]
)
def test_what_has_no_head_is_not_understood(content: bytes) -> None:
    with pytest.raises(NotUnderstood):
        head_size(content)
