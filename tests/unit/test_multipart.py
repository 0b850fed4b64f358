"""A multipart body is read in any pieces, in linear time, and by RFC 2046."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.web.multipart import MAX_HEAD, NotMultipart, PartReader, boundary


class Parts:
    """Keeps the parts that it is given."""

    def __init__(self) -> None:
        self.heads: list[Mapping[str, str]] = []
        self.contents: list[bytearray] = []
        self.open = 0

    def begin(self, headers: Mapping[str, str]) -> None:
        self.heads.append(headers)
        self.contents.append(bytearray())
        self.open += 1

    def data(self, content: bytes) -> None:
        self.contents[-1] += content

    def end(self) -> None:
        self.open -= 1


def read(body: bytes, sizes: list[int] | None = None) -> Parts:
    parts = Parts()
    reader = PartReader("abc", parts)
    at = 0
    for size in sizes or []:
        reader.write(body[at : at + size])
        at += size
    reader.write(body[at:])
    reader.finish()
    assert parts.open == 0
    return parts


CONTENT = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from([b"\r\n", b"--", b"abc", b"\r", b"-", b" ", b"x"]), max_size=12).map(
        b"".join
    ),
).filter(lambda content: b"\r\n--abc" not in b"\r\n" + content)


@given(
    contents=st.lists(CONTENT, min_size=1, max_size=4),
    head=st.sampled_from([b"", b"Content-Type: application/dicom\r\n", b"A: b\r\nC:d\r\n"]),
    lead=st.sampled_from([b"", b"\r\n", b"text\r\n--ab\r\n"]),
    pad=st.sampled_from([b"", b"  \t"]),
    tail=st.sampled_from([b"", b"\r\n", b" \r\nepilogue\r\n--abc\r\n"]),
    sizes=st.lists(st.integers(0, 9), max_size=60),
)
def test_parts_are_read_whatever_pieces_the_body_comes_in(
    contents: list[bytes], head: bytes, lead: bytes, pad: bytes, tail: bytes, sizes: list[int]
) -> None:
    body = lead
    for content in contents:
        body += b"--abc" + pad + b"\r\n" + head + b"\r\n" + content + b"\r\n"
    parts = read(body + b"--abc--" + tail, sizes)
    assert parts.contents == contents
    names = [line.partition(b":")[0].decode().lower() for line in head.split(b"\r\n") if line]
    assert all(list(one) == (names or [""]) for one in parts.heads)


@given(body=st.binary(max_size=200), sizes=st.lists(st.integers(0, 20), max_size=20))
def test_any_bytes_are_read_or_refused(body: bytes, sizes: list[int]) -> None:
    try:
        read(body, sizes)
    except NotMultipart:
        assert b"--abc--" not in body or not body.startswith(b"--abc\r\n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--abc\r\nA: b\r\n\r\ncontent",
        b"--abc\r\nA: b\r\n\r\ncontent\r\n--abc",
        b"--abc\r\nA: b\r\n\r\ncontent\r\n--abcd--",
        b"--abc\r\n" + b"A: " + b"x" * MAX_HEAD + b"\r\n\r\n\r\n--abc--",
    ],
)
def test_a_body_without_its_end_is_refused(body: bytes) -> None:
    with pytest.raises(NotMultipart):
        read(body)


def test_a_part_without_content_needs_no_line_of_its_own() -> None:
    assert read(b"--abc\r\nA: b\r\n\r\n--abc--").contents == [b""]


@pytest.mark.parametrize(
    "unit",
    [b"\r\n", b"\r\n--ab", b"\r\n--abc ", b"\r\n--abcx", b"\r\n--abc\r\n\r\n", b"-", b"\r\n--abc-"],
)
@pytest.mark.parametrize("piece", [1 << 20, 4096])
def test_four_times_the_body_costs_at_most_eight_times_the_time(unit: bytes, piece: int) -> None:
    def seconds(size: int) -> float:
        body = b"--abc\r\n\r\n" + unit * (size // len(unit))

        def once() -> float:
            reader = PartReader("abc", Parts())
            began = time.thread_time()
            with suppress(NotMultipart):
                for at in range(0, len(body), piece):
                    reader.write(body[at : at + piece])
            return time.thread_time() - began

        return min(once() for _ in range(5))

    assert seconds(200_000) <= max(8 * seconds(50_000), 0.02)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/related; boundary=abc", "abc"),
        ('Multipart/Related; type="application/dicom"; boundary="gc0 p;J:08j"', "gc0 p;J:08j"),
        ("multipart/related; BOUNDARY=abc; type=x", "abc"),
        ("multipart/related", ""),
        ("multipart/related; boundary=", ""),
        ("multipart/related; boundary=" + "x" * 71, ""),
        ("", ""),
    ],
)
def test_the_boundary_is_that_of_the_content_type(content_type: str, expected: str) -> None:
    assert boundary(content_type) == expected
