"""Intake: what is taken, what is refused and with which error, and that refusals leave nothing."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from ledgers import fresh, on
from pydicom import dcmread
from pydicom.filereader import read_file_meta_info

from dicom_node.base.errors import NotUnderstood, OutOfResources, Unreachable
from dicom_node.base.identity import IMPLEMENTATION_CLASS_UID
from dicom_node.dimse import Accepted, Sender
from dicom_node.flow import intake
from dicom_node.flow.intake import Intake, OtherSopClass
from dicom_node.settings import Peer, Rule, Settings
from dicom_node.standard import header
from dicom_node.standard.header import DEPTH_LIMIT, INFLATE_LIMIT, check_file, clean
from dicom_node.store.ledger import Ledger, Receipt, as_json
from dicom_node.store.ledger.wanted import Wish
from dicom_node.store.retention import ORPHAN_AGE_S, RetentionSweep
from dicom_node.store.spool import Spool

CR = "1.2.840.10008.5.1.4.1.1.1"
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
UIDS = {0x00080016: CR, 0x00080018: "1.2.3", 0x0020000D: "1.2.4", 0x0020000E: "1.2.5"}
MODALITY = Sender("MODALITY", "10.0.0.5", "CHEXFRACT", 1)


def element(tag: int, value: bytes, vr: bytes = b"LO", syntax: str = EXPLICIT) -> bytes:
    value += b" " * (len(value) % 2)
    order = ">" if syntax == BIG else "<"
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<L", len(value)) + value
    return head + vr + struct.pack(f"{order}H", len(value)) + value


def data_set(values: dict[int, Any] | None = None, syntax: str = EXPLICIT) -> bytes:
    values = {**UIDS, 0x00080060: "CR", 0x00180015: "CHEST", **(values or {})}
    return b"".join(
        element(tag, v if isinstance(v, bytes) else v.encode(), syntax=syntax)
        for tag, v in sorted(values.items())
        if v is not None
    )


class Station:
    def __init__(self, folder: Path, **changed: Any) -> None:
        rules = (Rule(name="chest", match={"modality": ("CR",)}, allow_demonstration=True),)
        facts = {"peers": {"m": Peer(ae_title="MODALITY", host="10.0.0.5", port=1)}, "rules": rules}
        self.spool = Spool(folder / "spool")
        self.ledger = Ledger.open(fresh(folder))
        self.intake = Intake(Settings(**(facts | changed)), self.spool, self.ledger)

    def send(
        self, content: bytes, uid: str = "1.2.3", sop_class: str = CR, syntax: str = EXPLICIT
    ) -> Receipt:
        accepted = Accepted(sop_class, uid, syntax)
        incoming = self.intake.begin(accepted)
        incoming.write(content)
        return self.intake.finish(incoming, accepted, MODALITY)

    @property
    def files(self) -> list[Path]:
        return [path for path in self.spool.root.rglob("*") if path.is_file()]


@pytest.fixture
def station(tmp_path: Path) -> Any:
    station = Station(tmp_path)
    yield station
    station.ledger.close()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_an_instance_is_kept_recorded_and_routed(station: Station, syntax: str) -> None:
    content = data_set({0x00100010: "Doe^Jane="}, syntax)
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-15)
        content = deflater.compress(content) + deflater.flush()
    receipt = station.send(content, syntax=syntax)
    assert (receipt.kind, len(receipt.jobs)) == ("new", 1)
    kept = station.ledger.instances.known("1.2.3")
    assert kept is not None
    assert (kept.patient_name, kept.modality, kept.body_part) == ("Doe^Jane", "CR", "CHEST")
    assert (kept.study_instance_uid, kept.calling_ae, kept.priority) == ("1.2.4", "MODALITY", 1)
    ds = dcmread(station.spool.path(receipt.file))
    assert ds.file_meta.TransferSyntaxUID == syntax
    assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert (ds.SOPInstanceUID, ds.preamble) == ("1.2.3", bytes(128))
    (job,) = station.ledger.history.trace("1.2.3").jobs
    assert as_json(job.send_to) == {"m": ["sr"]}
    assert job.report_order.sop_classes == ("comprehensive3d",)  # others are recast from it


def test_the_bytes_are_kept_as_they_were_sent(station: Station) -> None:
    content = data_set({0x7FE00010: b"\xff\xd8pixels"})
    receipt = station.send(content)
    assert station.spool.path(receipt.file).read_bytes().endswith(content)


def test_the_same_instance_again_leaves_one_file_and_one_job(station: Station) -> None:
    first, again = station.send(data_set()), station.send(data_set())
    assert (again.kind, again.file) == ("duplicate", first.file)
    assert len(station.files) == 1


def test_other_content_is_a_conflict_and_damages_nothing(station: Station) -> None:
    first = station.send(data_set())
    other = station.send(data_set({0x00080060: "DX"}))
    assert (other.kind, other.jobs) == ("conflict", ())
    assert station.send(data_set({0x00080060: "DX"})).file == other.file
    assert station.spool.path(first.file).read_bytes().endswith(data_set())
    assert len(station.files) == 2


def test_a_resend_in_another_transfer_syntax_is_compared_first(station: Station) -> None:
    """The same image may come in another coding: it is not a conflict before its pixels differ."""
    station.send(data_set())
    assert station.send(data_set(syntax=IMPLICIT), syntax=IMPLICIT).kind == "comparing"
    assert station.ledger.history.status().conflicts == 0


def test_a_resend_of_another_patient_is_a_conflict(station: Station) -> None:
    station.send(data_set())
    assert station.send(data_set({0x00100020: "OTHER"})).kind == "conflict"


def test_contents_are_compared_only_when_a_uid_comes_again(station: Station) -> None:
    station.send(data_set())
    first = station.ledger.instances.known("1.2.3")
    assert first is not None
    assert first.sha256 == ""
    station.send(data_set())
    known = station.ledger.instances.known("1.2.3")
    assert known is not None
    assert known.sha256 == hashlib.sha256(data_set()).hexdigest()


def test_a_removed_image_that_comes_again_is_told_from_another(station: Station) -> None:
    settings = Settings(retention={"images": 0, "reports": 0})
    station.intake.settings = Settings()
    station.send(data_set())
    retention = RetentionSweep(settings, station.spool, station.ledger)
    assert on(retention, time.time() + 60).purge() == 1
    assert station.files == []
    assert station.send(data_set({0x00080060: "DX"})).kind == "conflict"
    again = station.send(data_set())
    assert again.kind == "duplicate"
    assert station.spool.path(again.file).read_bytes().endswith(data_set())


@pytest.mark.parametrize("known", [False, True], ids=["first", "again"])
def test_a_file_whose_row_is_on_its_way_is_not_swept_however_old_it_seems(
    station: Station, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    if known:
        station.send(data_set())
    retention = RetentionSweep(Settings(), station.spool, station.ledger)
    receive = station.ledger.instances.receive

    def held(*arguments: Any) -> Receipt:
        # the process is stopped here, the clock is set, and another process sweeps twice
        for path in station.files:
            os.utime(path, (1, 1))
        station.spool.sweep(ORPHAN_AGE_S)
        assert [retention.sweep(), retention.sweep()] == [0, 0]
        return receive(*arguments)

    monkeypatch.setattr(station.ledger.instances, "receive", held)
    receipt = station.send(data_set({0x00080060: "DX"} if known else None))
    assert receipt.kind == ("conflict" if known else "new")
    assert station.spool.path(receipt.file).read_bytes()


def test_a_file_is_left_over_once_its_reception_has_failed(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Receipt:
        raise Unreachable("the ledger is away")

    monkeypatch.setattr(station.ledger.instances, "receive", away)
    with pytest.raises(Unreachable):
        station.send(data_set())
    (left,) = station.files
    os.utime(left, (1, 1))
    retention = RetentionSweep(Settings(), station.spool, station.ledger)
    assert [retention.sweep(), retention.sweep()] == [0, 1]


def test_an_image_whose_first_file_is_lost_is_kept_apart(station: Station) -> None:
    station.spool.remove(station.send(data_set()).file)
    assert station.send(data_set()).kind == "conflict"
    assert len(station.files) == 1


def test_many_associations_with_one_instance_at_once_make_one_job(station: Station) -> None:
    kinds: list[str] = []
    barrier = threading.Barrier(6)

    def send() -> None:
        barrier.wait(20)
        kinds.append(station.send(data_set()).kind)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kinds) == ["duplicate"] * 5 + ["new"]
    assert len(station.files) == 1
    assert station.files[0].read_bytes().endswith(data_set())


@pytest.mark.parametrize(
    "values",
    [
        {0x00080018: None},
        {0x0020000D: None},
        {0x0020000E: ""},
        {0x0020000D: "../../etc/passwd"},
        {0x0020000E: "1." * 33 + "1"},
        {0x00080018: "1.2.9"},
    ],
)
def test_missing_malformed_or_other_uids_are_not_understood(
    station: Station, values: dict[int, Any]
) -> None:
    with pytest.raises(NotUnderstood):
        station.send(data_set(values))
    assert station.files == []
    assert station.ledger.history.status().instances == {}


def test_another_sop_class_is_told_apart(station: Station) -> None:
    with pytest.raises(OtherSopClass):
        station.send(data_set({0x00080016: "1.2.840.10008.5.1.4.1.1.2"}))
    assert station.files == []


def test_uids_with_leading_zeros_and_a_full_length_are_let_through(station: Station) -> None:
    uid = "1.02." + "9" * 59
    assert station.send(data_set({0x00080018: uid}), uid=uid).kind == "new"


def nested(depth: int, tag: int = 0x00081140) -> bytes:
    undefined = b"\xff\xff\xff\xff"
    opened = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"SQ\0\0" + undefined
    item = b"\xfe\xff\x00\xe0" + undefined
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return (opened + item) * depth + closed * depth


def around(inner: bytes) -> bytes:
    """Return a data set with `inner` between groups 0008 and 0010."""
    whole = data_set()
    cut = whole.index(element(0x00180015, b"CHEST"))
    return whole[:cut] + inner + whole[cut:]


def test_nested_sequences_are_walked_and_bottomless_ones_refused(station: Station) -> None:
    assert station.send(around(nested(DEPTH_LIMIT // 2))).kind == "new"
    with pytest.raises(NotUnderstood, match="nested too deeply"):
        station.send(around(nested(100_000)), uid="1.2.3")
    assert len(station.files) == 1


def test_a_deflate_bomb_costs_a_bounded_amount(station: Station) -> None:
    import resource

    deflater = zlib.compressobj(9, wbits=-15)
    bomb = deflater.compress(element(0x00080005, b"ISO_IR 100", b"CS"))
    zeros = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 400 * 2**20)
    bomb += deflater.compress(zeros)
    for _ in range(400):
        bomb += deflater.compress(bytes(2**20))
    bomb += deflater.compress(data_set()) + deflater.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NotUnderstood):
        station.send(bomb, syntax=DEFLATED)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb * 1024 < 5 * INFLATE_LIMIT
    assert station.files == []


def test_a_long_value_is_not_read(station: Station) -> None:
    name = struct.pack("<HH", 0x0010, 0x0010) + b"UT\0\0" + struct.pack("<L", 30_000_000)
    assert station.send(around(name + bytes(30_000_000))).kind == "new"
    kept = station.ledger.instances.known("1.2.3")
    assert kept is not None
    assert len(kept.patient_name) <= 256


@pytest.mark.parametrize(
    ("charset", "raw", "name"),
    [
        ("ISO_IR 100", b"M\xfcller^J\xf6rg", "Müller^Jörg"),
        ("ISO_IR 192", "山田^太郎".encode(), "山田^太郎"),
        ("ISO_IR 144", "Люкceмбypг".encode("iso-8859-5"), "Люкceмбypг"),
        ("NONSENSE", b"M\xfcller", "Müller"),
        ("ISO_IR 192", b"M\xfcller", "M\ufffdller"),
        ("ISO_IR 100", b"a\r\nb\x1b[31mc\0", "a b [31mc"),
    ],
)
def test_names_are_decoded_by_their_character_set(
    station: Station, charset: str, raw: bytes, name: str
) -> None:
    station.send(data_set({0x00080005: charset, 0x00100010: raw}))
    kept = station.ledger.instances.known("1.2.3")
    assert kept is not None
    assert kept.patient_name == name


@given(st.text(max_size=400))
def test_kept_text_has_no_control_characters(text: str) -> None:
    kept = clean(text)
    assert len(kept) <= 256
    assert kept.isprintable() or not kept.isascii()
    assert not any(c in kept for c in "\r\n\t\0\x1b")


def test_without_rules_an_instance_is_taken_and_ignored(tmp_path: Path) -> None:
    station = Station(tmp_path, rules=())
    receipt = station.send(data_set())
    assert (receipt.kind, receipt.jobs, receipt.reason) == ("new", (), "there are no rules")
    station.ledger.close()


def test_an_unknown_sender_gets_a_job_whose_report_waits(tmp_path: Path) -> None:
    station = Station(tmp_path, peers={})
    assert len(station.send(data_set()).jobs) == 1
    assert station.ledger.history.trace("1.2.3").jobs[0].send_to == {"@sender": Wish()}
    station.ledger.close()


def test_when_the_ledger_is_away_nothing_is_taken(station: Station) -> None:
    def away(*_: object) -> Receipt:
        raise Unreachable("ledger: database is locked")

    station.ledger.instances.receive = away  # type: ignore[method-assign]
    with pytest.raises(Unreachable):
        station.send(data_set())


def test_below_the_watermark_nothing_is_begun(station: Station) -> None:
    station.spool.min_free = 1 << 62
    with pytest.raises(OutOfResources):
        station.intake.begin(Accepted(CR, "1.2.3", EXPLICIT))
    assert station.files == []


@examples(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.tuples(st.integers(0, 140), st.binary(max_size=8)).map(
            lambda cut: data_set()[: cut[0]] + cut[1] + data_set()[cut[0] :]
        ),
    ),
    syntax=st.sampled_from((EXPLICIT, IMPLICIT, BIG, DEFLATED)),
)
def test_any_bytes_are_taken_or_refused_in_the_two_known_ways(
    station: Station, content: bytes, syntax: str
) -> None:
    try:
        station.send(content, syntax=syntax)
    except NotUnderstood:
        assert not list((station.spool.root / "incoming").iterdir())


def test_real_files_are_taken_with_what_pydicom_reads_in_them(
    station: Station, shared_data: Path
) -> None:
    count = 0
    for path in sorted((shared_data / "chest").glob("*.dcm")):
        ds = dcmread(path, stop_before_pixels=True)
        raw = path.read_bytes()
        content = raw[144 + int.from_bytes(raw[140:144], "little") :]
        syntax = str(ds.file_meta.TransferSyntaxUID)
        receipt = station.send(content, str(ds.SOPInstanceUID), str(ds.SOPClassUID), syntax)
        assert receipt.kind in ("new", "comparing", "conflict")
        known = station.ledger.instances.known(str(ds.SOPInstanceUID))
        assert known is not None
        assert (known.modality, known.study_instance_uid) == (ds.Modality, ds.StudyInstanceUID)
        count += 1
    assert count >= 5


# what is cut off


def fragments(*parts: bytes, end: bytes = b"\xfe\xff\xdd\xe0\0\0\0\0") -> bytes:
    """Return encapsulated Pixel Data (PS3.5 A.4): an empty offset table, then the parts."""
    items = [b"\xfe\xff\x00\xe0" + struct.pack("<L", len(part)) + part for part in (b"", *parts)]
    return b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"".join(items) + end


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_an_image_is_refused_wherever_it_is_cut_off_within_an_element(
    station: Station, syntax: str
) -> None:
    values = {0x00100010: "Doe^Jane", 0x7FE00010: b"p" * 40}
    content, ends = data_set(values, syntax), {0}
    everything = {**UIDS, 0x00080060: "CR", 0x00180015: "CHEST", **values}
    for tag in sorted(everything):
        ends.add(
            max(ends) + len(data_set({**dict.fromkeys(everything), tag: everything[tag]}, syntax))
        )
    assert max(ends) == len(content)
    ends.add(len(content) - 1)  # it may be the byte that pads the pixels
    for cut in set(range(len(content))) - ends:
        with pytest.raises(NotUnderstood):
            station.send(content[:cut], syntax=syntax)
    assert station.files == []
    assert station.send(content, syntax=syntax).kind == "new"


def test_an_image_that_ends_within_a_sequence_is_refused(station: Station) -> None:
    opened = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(NotUnderstood, match="cut off"):
        station.send(data_set() + opened + element(0x00400009, b"1"))


def test_compressed_pixels_are_refused_where_a_fragment_is_cut_off(station: Station) -> None:
    syntax, content = "1.2.840.10008.1.2.4.70", data_set()
    pixels = fragments(b"\xff\xd8" + b"p" * 30, b"q" * 20)
    for cut in (25, 40, 53, 66, len(pixels) - 10):
        with pytest.raises(NotUnderstood, match="cut off"):
            station.send(content + pixels[:cut], syntax=syntax)
    assert station.send(content + pixels, syntax=syntax).kind == "new"


@pytest.mark.parametrize("end", [b"", bytes(8), bytes(3), b"\xfe\xff\xdd\xe0"])
def test_compressed_pixels_without_their_delimiter_are_taken(station: Station, end: bytes) -> None:
    """Hundreds of files of one archive are so, and their pixels are all there."""
    content = data_set() + fragments(b"\xff\xd8pixels", end=end)
    assert station.send(content, syntax="1.2.840.10008.1.2.4.70").kind == "new"


def test_what_stands_behind_the_pixels_is_not_looked_at(station: Station) -> None:
    padding = b"\xfc\xff\xfc\xffOB\0\0\xff\xff\x00\x00"
    content = data_set({0x7FE00010: b"pixels"}) + padding
    assert station.send(content).kind == "new"


def test_pixels_without_the_byte_that_pads_them_are_taken(station: Station) -> None:
    assert station.send(data_set({0x7FE00010: b"p" * 40})[:-1]).kind == "new"


def test_a_deflated_image_is_refused_wherever_it_is_cut_off(station: Station) -> None:
    deflater = zlib.compressobj(wbits=-15)
    content = deflater.compress(data_set({0x7FE00010: bytes(range(256)) * 8})) + deflater.flush()
    for cut in (1, len(content) // 2, len(content) - 1):
        with pytest.raises(NotUnderstood):
            station.send(content[:cut], syntax=DEFLATED)
    assert station.send(content, syntax=DEFLATED).kind == "new"


def test_a_deflated_image_of_more_than_what_is_inflated_of_it_is_taken(station: Station) -> None:
    whole = data_set({0x7FE00010: bytes(40)})
    pixels = 3_000 * 3_000 * 2
    assert pixels > INFLATE_LIMIT
    head = whole[:-44] + struct.pack("<L", pixels)
    deflater = zlib.compressobj(1, wbits=-15)
    content = deflater.compress(head) + deflater.compress(bytes(pixels)) + deflater.flush()
    assert station.send(content, syntax=DEFLATED).kind == "new"
    (file,) = station.files
    with file.open("rb") as kept:
        check_file(kept, DEFLATED)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.9999])
def test_a_large_deflated_image_is_refused_wherever_it_is_cut_off(
    station: Station, share: float
) -> None:
    """Also behind what is kept of it in memory while its header is read."""
    content = large_deflated()
    with pytest.raises(NotUnderstood, match="cut off"):
        station.send(content[: int(share * len(content))], syntax=DEFLATED)
    assert station.files == []


def test_a_large_deflated_image_whose_pixels_are_too_few_is_refused(station: Station) -> None:
    with pytest.raises(NotUnderstood, match="cut off"):
        station.send(large_deflated(missing=1_000), syntax=DEFLATED)
    damaged = bytearray(large_deflated())
    damaged[-2_000:-1_000] = b"\xff" * 1_000
    with pytest.raises(NotUnderstood):
        station.send(bytes(damaged), syntax=DEFLATED)


def large_deflated(missing: int = 0) -> bytes:
    """Return a deflated image of 18 MB, of whose pixels the last `missing` bytes are not there."""
    pixels = 3_000 * 3_000 * 2
    assert pixels > INFLATE_LIMIT
    long = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", pixels)
    deflater = zlib.compressobj(1, wbits=-15)
    parts = [data_set(), long, bytes(pixels - missing)]
    return b"".join(map(deflater.compress, parts)) + deflater.flush()


@pytest.mark.parametrize("tag", [None, 0x7FE00008, 0x7FE00009, 0x00287FE0])
def test_an_image_without_pixel_data_is_taken(station: Station, tag: int | None) -> None:
    """Its report says that there is no image, or they are floating point or elsewhere."""
    pixels = {0x00280010: b"\2\0", 0x00280011: b"\2\0", 0x00280100: b"\x10\0"}
    assert station.send(data_set(pixels | ({tag: b"pppppppp"} if tag else {}))).kind == "new"


def test_each_whole_shared_file_is_taken(shared_data: Path) -> None:
    """Three of them are headers of a device, whose pixels somebody has taken out."""
    paths = [path for path in shared_data.glob("*/*.dcm") if path.parent.name != "malformed"]
    for path in paths:
        syntax = read_file_meta_info(path).TransferSyntaxUID
        with path.open("rb") as file:
            assert header.read_header(file, syntax, is_new=True)["sop_instance_uid"]
    assert len(paths) > 20


@pytest.mark.parametrize("tag", [b"\x00\xe0", b"\x0d\xe0"])
def test_an_item_outside_of_a_sequence_is_refused(station: Station, tag: bytes) -> None:
    """Readers differ in what they make of it: the end of the data set, or nothing."""
    stray = b"\xfe\xff" + tag + bytes(4)
    with pytest.raises(NotUnderstood, match="outside of a sequence"):
        station.send(around(stray))
    # some devices end sequences of a defined length with a delimiter
    assert station.send(around(b"\xfe\xff\xdd\xe0" + bytes(4))).kind == "new"


@pytest.mark.parametrize("early", [0x00400244, 0x30011010, 0x7FDF1010])
def test_elements_out_of_order_are_read_alike_when_new_and_later(
    station: Station, early: int
) -> None:
    content = element(early, b"x") + data_set({0x00100020: "P1", 0x7FE00010: b"pp"})
    assert station.send(content).kind == "new"
    (file,) = station.files
    with file.open("rb") as kept:
        new = header.read_header(kept, EXPLICIT, is_new=True)
        assert header.read_header(kept, EXPLICIT) == new
    assert new["patient_id"] == "P1"


def test_a_data_set_of_more_elements_than_any_image_has_is_refused(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "MAX_ELEMENTS", 100)
    assert station.send(data_set()).kind == "new"
    many = b"".join(element(0x00091000 + n, b"") for n in range(100))
    with pytest.raises(NotUnderstood, match="more than 100 elements"):
        station.send(data_set() + many, uid="1.2.3")


@pytest.mark.parametrize("tag", [0x0020000D, 0x00100020, 0x00080018, 0x00080060])
def test_what_stands_twice_with_two_values_is_refused(station: Station, tag: int) -> None:
    """Readers differ in which of the two they believe, and so in whose image it is."""
    first = {**UIDS, 0x00100020: "P1", 0x00080060: "CR"}
    content = data_set({0x00100020: "P1"})
    with pytest.raises(NotUnderstood, match="stands twice"):
        station.send(content + element(tag, b"9.9.9"))
    assert station.send(content + element(tag, first[tag].encode())).kind == "new"


@pytest.mark.parametrize("tag", [0x0020000D, 0x00100020, 0x00080018])
def test_a_sequence_in_place_of_a_value_is_refused(station: Station, tag: int) -> None:
    """Beside the value itself, readers differ in which of the two they believe."""
    sequence = struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"SQ", 0, 0xFFFFFFFF)
    sequence += b"\xfe\xff\xdd\xe0" + bytes(4)
    with pytest.raises(NotUnderstood, match="is a sequence"):
        station.send(data_set({0x00100020: "P1"}) + sequence)


def test_images_of_one_burst_get_what_their_own_facts_and_sender_ask_for(tmp_path: Path) -> None:
    rules = (
        Rule(name="chest", match={"body_part": ("CHEST",)}, model="a", send_to=["@sender"]),
        Rule(name="rest", match={"modality": ("CR",)}, model="b"),
    )
    station = Station(tmp_path, rules=rules)
    other = Sender("ELSEWHERE", "10.0.0.6", "CHEXFRACT")

    def route(body_part: str, sender: Sender = MODALITY) -> tuple[str, tuple[str, ...]]:
        facts = dict.fromkeys(header.TAGS.values(), "") | {"modality": "CR"}
        routes, _ = station.intake._routes.find(
            station.intake.settings, facts | {"body_part": body_part}, sender
        )
        return routes[0].rule, routes[0].send_to

    for _ in range(2):
        assert route("CHEST") == ("chest", ("m",))
        assert route("HAND")[0] == "rest"
        assert route("CHEST", other) == ("chest", ("@sender",))

    station.intake.settings = station.intake.settings.model_copy(update={"rules": rules[1:]})
    assert route("CHEST")[0] == "rest"


def test_what_older_rules_ask_is_not_kept_for_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules are read again between two looks of another thread at what is kept."""
    station = Station(tmp_path, rules=(Rule(name="old", model="a"),))
    older = station.intake.settings
    newer = older.model_copy(update={"rules": (Rule(name="new", model="b"),)})
    facts = dict.fromkeys(header.TAGS.values(), "") | {"modality": "CR"}

    def rule(settings: Settings, modality: str = "CR") -> str:
        found, _ = station.intake._routes.find(settings, facts | {"modality": modality}, MODALITY)
        return found[0].rule

    class Bound:
        """It is asked for after a thread has looked whose rules are kept, and lets another in."""

        asked = 0

        def __le__(self, count: int) -> bool:
            self.asked += 1
            rule(newer, "DX")
            return False

    assert rule(older) == "old"
    bound = Bound()
    with monkeypatch.context() as patched:
        patched.setattr(intake, "_MOST_KEPT", bound)
        assert rule(older, "MG") == "old"
    assert bound.asked == 1
    assert rule(newer, "MG") == "new"
