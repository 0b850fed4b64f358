"""The head of a Part 10 file, written and read."""

from __future__ import annotations

import contextlib
import io
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from dicom_node.base.errors import NotUnderstood
from dicom_node.standard.part10 import (
    has_length,
    head_size,
    is_part10,
    recast,
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


def small_report() -> bytes:
    ds = Dataset()
    ds.SpecificCharacterSet, ds.SOPClassUID, ds.SOPInstanceUID = "ISO_IR 192", "1.2", "1.2.3"
    ds.LanguageCodeSequence = [Dataset()]
    ds.InstanceCreationDate, ds.PatientName = "20200101", "Doe"
    body = io.BytesIO()
    dcmwrite(body, ds, implicit_vr=False, little_endian=True)
    return write_head("1.2", "1.2.3", "1.2.840.10008.1.2.1") + body.getvalue()


@given(uids, uids)
def test_a_file_is_recast_as_it_would_have_been_written(sop_class: str, instance: str) -> None:
    whole, made = dcmread(io.BytesIO(small_report())), recast(small_report(), sop_class, instance)
    read = dcmread(io.BytesIO(made))
    for named in (read, whole):
        del named.SOPClassUID, named.SOPInstanceUID
    assert read == whole
    assert head_size(made) == len(write_head(sop_class, instance, "1.2.840.10008.1.2.1"))
    assert made[: head_size(made)] == write_head(sop_class, instance, "1.2.840.10008.1.2.1")
    assert recast(made, "1.2", "1.2.3") == small_report()


def test_a_file_that_is_that_instance_already_is_not_copied() -> None:
    content = small_report()
    assert recast(content, "1.2", "1.2.3") is content


@given(st.integers(0, 230), st.binary(min_size=0, max_size=12))
def test_bytes_that_are_not_a_report_are_recast_or_not_understood(at: int, noise: bytes) -> None:
    content = small_report()
    broken = content[: 132 + at] + noise + content[132 + at + len(noise) :]
    for one in (broken, content[: 132 + at], content[: 132 + at] + noise):
        with contextlib.suppress(NotUnderstood):
            assert len(recast(one, "1.2.3.4", "1.2.3.4.5")) < len(content) + 64
