"""Compressed pixels come out as they went in, and hostile ones do no harm."""

import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from peers import need
from pictures import (
    EXPLICIT,
    HTJ2K_LOSSLESS,
    JPEG_2000,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LS,
    JPEG_LS_NEAR,
    RLE,
    compressed,
    drawn,
    instance,
    part10,
    restarting,
    rle,
)

from dicom_node.base.errors import OutOfResources, Rejected
from worker.image import decoders, pixels
from worker.image.codestream import inspect_codestream, join_frame
from worker.image.decode import Decoder, _Killed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def child(decoder):
    """Return the process id of the one child that is idle."""
    (idle,) = decoder._idle
    return idle._process.pid


LOSSLESS = {
    "rle": (RLE, rle),
    "jpeg-lossless": (JPEG_LOSSLESS, lambda a: imagecodecs.ljpeg_encode(a, bitspersample=bits(a))),
    "jpeg-ls": (JPEG_LS, imagecodecs.jpegls_encode),
    "jpeg-2000": (
        JPEG_2000_LOSSLESS,
        lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True, codecformat="j2k"),
    ),
    "jpeg-2000-file": (
        JPEG_2000_LOSSLESS,
        lambda a: imagecodecs.jpeg2k_encode(a, level=0, reversible=True, codecformat="jp2"),
    ),
    "htj2k": (HTJ2K_LOSSLESS, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
}


def bits(a):
    """Return the bits that `a` needs."""
    return max(int(a.max()).bit_length(), 8)


@pytest.mark.parametrize("depth", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_pixels_come_out_as_they_went_in(decoder, kind, depth):
    syntax, encode = LOSSLESS[kind]
    original = drawn(bits=depth)
    ds = compressed(instance(original, depth), syntax, bytes(encode(original)))
    found = decoder.decode(pixels.read(part10(ds)))
    assert found.dtype.kind == "u"
    assert (found == original).all()


@pytest.mark.parametrize(
    ("syntax", "depth", "encode"),
    [
        (JPEG_BASELINE, 8, lambda a: imagecodecs.jpeg8_encode(a, level=95)),
        (JPEG_EXTENDED, 12, lambda a: imagecodecs.jpeg8_encode(a, level=95, bitspersample=12)),
        (JPEG_LS_NEAR, 12, lambda a: imagecodecs.jpegls_encode(a, level=2)),
        (JPEG_2000, 12, lambda a: imagecodecs.jpeg2k_encode(a, level=90, codecformat="j2k")),
    ],
)
def test_lossy_pixels_come_out_nearly_as_they_went_in(decoder, syntax, depth, encode):
    original = drawn(bits=depth)
    ds = compressed(instance(original, depth), syntax, bytes(encode(original)))
    error = np.abs(decoder.decode(ds).astype(int) - original)
    assert error.max() <= 0.03 * (1 << depth)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", EXPLICIT, "1.2.840.10008.1.2.1.99"])
@pytest.mark.parametrize("depth", [8, 12])
def test_uncompressed_pixels_need_no_decoder(syntax, depth):
    original = drawn(bits=depth)
    ds = instance(original, depth)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    found = pixels.read(part10(ds))
    with Decoder() as fresh:
        assert (fresh.decode(found) == original).all()
        assert not fresh._idle


@pytest.mark.parametrize(("depth", "vr"), [(12, "OW"), (8, "OW"), (8, "OB")])
def test_big_endian_pixels_are_swapped(decoder, depth, vr):
    original = drawn(bits=depth)
    ds = instance(original, depth)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    swapped = original.byteswap() if depth > 8 else original
    if vr == "OW" and depth == 8:
        swapped = original.reshape(-1, 2)[:, ::-1]
    ds.PixelData = np.ascontiguousarray(swapped).tobytes()
    ds["PixelData"].VR = vr
    assert (decoder.decode(pixels.read(part10(ds))) == original).all()


@pytest.mark.parametrize("is_signed_inside", [False, True])
@pytest.mark.parametrize("kind", ["jpeg-2000", "htj2k"])
def test_signed_pixels_keep_their_bits(decoder, kind, is_signed_inside):
    """Whichever sign the codestream claims."""
    syntax, encode = LOSSLESS[kind]
    original = drawn().astype(np.int16) - 2048
    inside = original if is_signed_inside else original.view(np.uint16)
    ds = compressed(instance(original, 12), syntax, bytes(encode(inside)))
    assert (decoder.decode(ds).view(np.int16) == original).all()


@pytest.mark.parametrize("selection", range(1, 8))
@pytest.mark.parametrize("depth", [8, 12, 16])
def test_every_predictor_of_jpeg_lossless_is_understood(decoder, tmp_path, selection, depth):
    encoder, original = need("dcmcjpeg"), drawn(bits=depth)
    source, target = tmp_path / "source.dcm", tmp_path / "target.dcm"
    source.write_bytes(part10(instance(original, depth)))
    subprocess.run([encoder, "+un", "+el", "+sv", str(selection), source, target], check=True)
    assert (decoder.decode(pixels.read(target)) == original).all()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cr_hip_mono2_10bit_fuji_jpeg-lossless", "cr_hip_mono2_10bit_fuji_jpegls-lossless"),
        ("cr_tibia_mono1_fuji_rle", "cr_tibia_mono1_fuji_j2k-lossless"),
    ],
)
def test_one_real_image_is_the_same_in_two_codings(decoder, shared_data, one, other):
    first, second = (
        decoder.decode(pixels.read(shared_data / "not_chest" / f"{name}.dcm"))
        for name in (one, other)
    )
    assert np.ptp(first) > 500
    assert (first == second).all()


def test_a_real_12_bit_jpeg_is_close_to_the_lossless_image(decoder, shared_data):
    folder = shared_data / "not_chest"
    lossy = decoder.decode(pixels.read(folder / "cr_hip_mono2_12bit-jpeg-extended.dcm"))
    exact = decoder.decode(pixels.read(folder / "cr_hip_mono2_10bit_fuji_jpeg-lossless.dcm"))
    assert np.abs(lossy.astype(int) - exact).mean() < 0.005 * 1024


def test_a_frame_may_come_in_many_fragments(decoder):
    original = drawn()
    codestream = bytes(LOSSLESS["jpeg-ls"][1](original))
    ds = compressed(instance(original), JPEG_LS, codestream)
    ds.PixelData = pydicom.encaps.encapsulate([codestream], fragments_per_frame=7)
    assert (decoder.decode(ds) == original).all()


def test_dcmtk_stands_in_where_a_decoder_gives_up(monkeypatch):
    need("dcmdjpeg")
    original = drawn()
    codestream = bytes(LOSSLESS["jpeg-lossless"][1](original))
    work = decoders._Work(-1)
    found = np.zeros(original.shape, np.uint16)
    assert work._decode_pixels("ljpeg-r", memoryview(codestream), found, 12) == ""
    assert (found == original).all()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotImplementedError, match="install it"):
        work._decode_pixels("ljpeg-r", memoryview(codestream), found, 12)


@pytest.mark.parametrize("lines", [1, 7, 200])
def test_jpeg_lossless_with_restart_markers_is_decoded_by_dcmtk(decoder, lines):
    """imagecodecs takes the markers for pixels."""
    need("dcmdjpeg")
    original = drawn(bits=16)
    codestream = restarting(original, lines)
    ds = compressed(instance(original, 16), JPEG_LOSSLESS, codestream)
    assert inspect_codestream(join_frame(ds.PixelData), JPEG_LOSSLESS, ds).codec == "ljpeg-r"
    assert (decoder.decode(pixels.read(part10(ds))) == original).all()


def test_without_dcmtk_restart_markers_end_in_a_clear_reason(monkeypatch):
    monkeypatch.setenv("PATH", "")
    original = drawn(bits=16)
    ds = compressed(instance(original, 16), JPEG_LOSSLESS, restarting(original, 7))
    with Decoder() as bare:
        with pytest.raises(Rejected, match="only DCMTK") as refused:
            bare.decode(ds)
        assert (bare.decode(quick()) == drawn()).all()
    assert refused.value.code == "undecodable"


def resized(codestream, rows, columns):
    """Return the codestream with another size in its header."""
    forged = bytearray(codestream)
    if codestream.startswith(b"\xff\x4f"):
        forged[8:16] = struct.pack(">II", columns, rows)
        forged[24:32] = struct.pack(">II", columns, rows)
        return bytes(forged)
    at = min(codestream.find(mark) for mark in _FRAMES if mark in codestream)
    forged[at + 5 : at + 9] = struct.pack(">HH", rows, columns)
    return bytes(forged)


_FRAMES = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc3", b"\xff\xf7")
ENCODED = {
    "jpeg": (JPEG_BASELINE, 8, lambda a: imagecodecs.jpeg8_encode(a, level=90)),
    "jpeg-12": (JPEG_EXTENDED, 12, lambda a: imagecodecs.jpeg8_encode(a, bitspersample=12)),
    **{kind: (LOSSLESS[kind][0], 12, LOSSLESS[kind][1]) for kind in LOSSLESS if kind != "rle"},
}
del ENCODED["jpeg-2000-file"]


def encoded(kind, original=None):
    syntax, depth, encode = ENCODED[kind]
    original = drawn(bits=depth) if original is None else original
    return instance(original, depth), syntax, bytes(encode(original))


@pytest.mark.parametrize("kind", ENCODED)
def test_a_bomb_is_refused_before_it_is_decoded(decoder, kind):
    """60000 x 60000 pixels hide behind a header of 300 x 280."""
    ds, syntax, codestream = encoded(kind)
    content = part10(compressed(ds, syntax, resized(codestream, 60000, 60000)))
    decoder.start()
    began = time.monotonic()
    with pytest.raises(Rejected) as refused:
        decoder.decode(pixels.read(content))
    assert refused.value.code == "codestream-mismatch"
    assert "60000 x 60000" in refused.value.text
    assert time.monotonic() - began < 5


def test_bombs_take_little_memory():
    """All of them, and 300 MB of zeros in a deflated data set, below 300 MB in their process."""
    program = """
import sys, time
from pathlib import Path
from dicom_node.base.errors import Rejected
from worker.image import pixels
from worker.image.decode import Decoder
with Decoder() as decoder:
    for path in sys.argv[1:]:
        began = time.monotonic()
        try:
            decoder.decode(pixels.read(Path(path)))
        except Rejected as refused:
            assert time.monotonic() - began < 5, path
            print(refused.code)
    status = Path("/proc/self/status").read_text()
    kilobytes = int(status.split("VmHWM:")[1].split()[0])
    assert kilobytes < 300_000, kilobytes
"""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for kind in ENCODED:
            ds, syntax, codestream = encoded(kind)
            side = 60000 if "2000" in kind or "j2k" in kind else 65500
            content = part10(compressed(ds, syntax, resized(codestream, side, side)))
            paths.append(Path(folder, kind))
            paths[-1].write_bytes(content)
        ds = instance(drawn())
        ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        plain = part10(ds)
        deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
        zeros = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(300)) + deflate.flush()
        end_of_meta = 144 + struct.unpack("<I", plain[140:144])[0]
        paths.append(Path(folder, "deflated"))
        paths[-1].write_bytes(plain[:end_of_meta] + zeros)
        found = subprocess.run(
            [sys.executable, "-c", program, *paths], capture_output=True, text=True, check=False
        )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["codestream-mismatch"] * len(ENCODED) + ["not-dicom"]


@pytest.mark.parametrize("kind", ENCODED)
def test_a_cut_codestream_is_refused(decoder, kind):
    ds, syntax, codestream = encoded(kind)
    with pytest.raises(Rejected) as refused:
        decoder.decode(compressed(ds, syntax, codestream[: len(codestream) // 2]))
    assert refused.value.code == "undecodable"


@pytest.mark.parametrize("kind", ENCODED)
def test_what_a_decoder_leaves_out_does_not_show_the_image_before(decoder, kind):
    """Half a codestream with an end marker: some decoders fill what they can."""
    ds, syntax, codestream = encoded(kind)
    white = np.full(drawn().shape, (1 << ds.BitsStored) - 1, drawn(bits=ds.BitsStored).dtype)
    before, _, codestream_before = encoded(kind, white)
    assert (decoder.decode(compressed(before, syntax, codestream_before)) > 200).all()
    cut = codestream[: len(codestream) // 3] + b"\xff\xd9"
    try:
        found = decoder.decode(compressed(ds, syntax, cut))
    except Rejected:
        return
    assert (found[-40:] < white.max()).all()


def test_no_image_stays_in_the_memory_of_the_child():
    """A child killed while it forgets costs the next image nothing."""
    with Decoder() as decoder:
        decoder.decode(quick())
        assert not any(_forgetful(decoder)._map[:])
        decoder.decode(quick())
        os.kill(child(decoder), signal.SIGKILL)
        assert (decoder.decode(quick()) == drawn()).all()


def test_a_child_that_fails_to_forget_costs_no_image(monkeypatch):
    """A child that dies while it clears the last image is replaced, and the next is decoded."""
    with Decoder() as decoder:
        decoder.decode(quick())
        pid, asked = child(decoder), []

        def answer(child, until):
            asked.append(child)
            if len(asked) == 1:
                raise Rejected("undecodable", "It died of the image before.")

        idle = _forgetful(decoder)
        with monkeypatch.context() as patch:
            patch.setattr(type(idle), "_await_answer", answer)
            with pytest.raises(_Killed):
                idle.decode(*_request(quick()))
        assert (decoder.decode(quick()) == drawn()).all()
        assert child(decoder) != pid


def _forgetful(decoder):
    """Return the idle child, given time to clear its memory."""
    (idle,) = decoder._idle
    until = time.monotonic() + 5
    while time.monotonic() < until and any(idle._map[:]):
        time.sleep(0.01)
    return idle


def _request(ds):
    codestream = join_frame(ds.PixelData)
    return inspect_codestream(codestream, JPEG_LS, ds), codestream, 12, 5.0


@pytest.mark.parametrize("kind", ENCODED)
def test_changed_bytes_do_no_harm(decoder, kind):
    """A picture of the right size or a refusal; what bits mean, no decoder can know."""
    ds, syntax, codestream = encoded(kind)
    rng = np.random.default_rng(11)
    for reach in (60, 200, len(codestream)) * 3:
        changed = bytearray(codestream)
        for at in rng.integers(2, reach, 4):
            changed[at] = rng.integers(0, 256)
        try:
            found = decoder.decode(compressed(ds, syntax, bytes(changed)))
        except Rejected:
            continue
        assert found.shape == (300, 280)


def test_a_frame_of_one_item_needs_no_offset_table(decoder):
    """PS3.5 A.4 wants one, empty or not; some writers leave it out."""
    original = drawn()
    ds = compressed(instance(original), RLE, rle(original))
    assert ds.PixelData.startswith(b"\xfe\xff\x00\xe0")
    ds.PixelData = ds.PixelData[8 + int.from_bytes(ds.PixelData[4:8], "little") :]
    assert (decoder.decode(ds) == original).all()


def test_rle_segments_must_fit(decoder):
    """Each table breaks PS3.5 G.5 in another way; the last gives a segment two bytes."""
    original = drawn()
    good = rle(original)
    ds = instance(original)
    for table in ([3, 64, 70, 80], [1, 64], [2, 64, 64], [2, 64, len(good)], [2, 10, 70], [0]):
        bad = struct.pack(f"<{len(table)}I", *table).ljust(64, b"\0") + good[64:]
        with pytest.raises(Rejected) as refused:
            decoder.decode(compressed(ds, RLE, bad))
        assert refused.value.code in ("undecodable", "codestream-mismatch")
    short = struct.pack("<3I", 2, 64, 66).ljust(64, b"\0") + b"\x01\x02" + good[66:]
    with pytest.raises(Rejected, match="undecodable"):
        decoder.decode(compressed(ds, RLE, short))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xfe\xff\x00\xe0",
        b"junk" * 50,
        b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\xff\xff\0\0ab",
    ],
)
def test_broken_encapsulation_is_refused(decoder, content):
    ds = compressed(instance(drawn()), JPEG_LS, b"x")
    ds.PixelData = content
    with pytest.raises(Rejected) as refused:
        decoder.decode(ds)
    assert refused.value.code in ("undecodable", "no-pixels")


@pytest.mark.parametrize(
    "change",
    [{"Rows": 301}, {"Columns": 100}, {"BitsAllocated": 8}],
    ids=lambda change: str(change),
)
def test_a_codestream_must_be_what_the_header_says(decoder, change):
    ds, syntax, codestream = encoded("jpeg-2000")
    for keyword, value in change.items():
        setattr(ds, keyword, value)
    with pytest.raises(Rejected) as refused:
        decoder.decode(compressed(ds, syntax, codestream))
    assert refused.value.code == "codestream-mismatch"


def test_colour_behind_a_grayscale_header_is_refused(decoder):
    colour = np.stack([drawn(bits=8)] * 3, axis=-1)
    for syntax, codestream in (
        (JPEG_BASELINE, imagecodecs.jpeg8_encode(colour)),
        (JPEG_2000, imagecodecs.jpeg2k_encode(colour, level=0, codecformat="j2k")),
    ):
        with pytest.raises(Rejected) as refused:
            decoder.decode(compressed(instance(drawn(bits=8), 8), syntax, bytes(codestream)))
        assert refused.value.code == "codestream-mismatch"


def test_pixel_data_must_be_complete(decoder):
    ds = instance(drawn())
    ds.PixelData = ds.PixelData[:-2]
    with pytest.raises(Rejected) as refused:
        decoder.decode(ds)
    assert refused.value.code == "undecodable"


@pytest.mark.parametrize("kind", ["bare", "rle"])
@pytest.mark.parametrize("shape", [(420, 300), (300, 420)])
@pytest.mark.parametrize("bits", [8, 12])
def test_swapped_rows_and_columns_are_named(decoder, kind, shape, bits):
    """A picture with lines of the wrong length comes out sheared, and cannot be read."""
    picture = drawn(*shape, bits=bits)
    ds = instance(picture, bits)
    if kind == "rle":
        ds = compressed(ds, RLE, rle(picture))
    assert decoder.decode(ds).shape == shape

    ds.Rows, ds.Columns = ds.Columns, ds.Rows
    with pytest.raises(Rejected, match=r"Columns .* seem to be swapped") as refused:
        decoder.decode(ds)
    assert refused.value.code == "undecodable"


@pytest.mark.parametrize("shape", [(420, 300), (300, 420), (300, 301), (256, 900)])
@pytest.mark.parametrize("seed", range(3))
def test_a_picture_without_likeness_of_lines_is_not_taken_for_swapped(decoder, shape, seed):
    rows, columns = shape
    noise = np.random.default_rng(seed).integers(0, 4096, shape, dtype=np.uint16)
    downwards = np.repeat(np.linspace(0, 4095, rows).astype(np.uint16)[:, None], columns, axis=1)
    for picture in (noise, downwards, downwards.max() - downwards, np.zeros(shape, np.uint16)):
        assert decoder.decode(instance(picture)).shape == shape


@pytest.mark.parametrize("period", [2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(600, 640), (512, 560), (511, 512), (700, 560)])
def test_a_pattern_of_lines_is_not_taken_for_swapped(decoder, shape, period):
    """Lines at 45 degrees fit to one another after a shift of columns better than without."""
    down, across = np.mgrid[0 : shape[0], 0 : shape[1]]
    for lines in (down + across, down - across, down + 2 * across, 2 * down + across):
        picture = (2000 + 1500 * np.sin(2 * np.pi * lines / period + 0.3)).astype(np.uint16)
        assert decoder.decode(instance(picture)).shape == shape


@pytest.mark.parametrize("tilt", [1 / 3, -1 / 3])
def test_a_grid_aslant_is_not_taken_for_swapped(decoder, tilt):
    picture = drawn(423, 420)
    down, across = np.mgrid[0:423, 0:420]
    grid = 400 * np.sin(2 * np.pi * (down + tilt * across) / 2.5)
    seen = np.clip(picture + grid, 0, 4095).astype(np.uint16)

    assert decoder.decode(instance(seen)).shape == picture.shape


SLOW = drawn(2400, 2000)


@pytest.fixture(scope="module")
def slow():
    """An image whose decoding takes some hundred milliseconds."""
    codestream = bytes(LOSSLESS["jpeg-2000"][1](SLOW))
    return compressed(instance(SLOW), JPEG_2000_LOSSLESS, codestream)


def quick():
    original = drawn()
    return compressed(instance(original), JPEG_LS, bytes(imagecodecs.jpegls_encode(original)))


def test_an_image_that_takes_too_long_is_given_up(slow):
    with Decoder(timeout=0.05) as hasty:
        hasty.start()
        began = time.monotonic()
        with pytest.raises(Rejected) as refused:
            hasty.decode(slow)
        assert refused.value.code == "decoder-limits"
        assert time.monotonic() - began < 5
        assert not hasty._idle


def test_an_image_that_takes_too_much_memory_is_given_up(slow):
    with Decoder(memory=25_000_000) as small:
        with pytest.raises(Rejected) as refused:
            small.decode(slow)
        assert refused.value.code in ("decoder-limits", "undecodable")
        assert (small.decode(quick()) == drawn()).all()


def killed_while_decoding(decoder, ds, how):
    """Decode, and end the child with a signal in the middle of it."""
    decoder.start()
    pid = child(decoder)
    timer = threading.Timer(0.05, os.kill, (pid, how))
    timer.start()
    try:
        return decoder.decode(ds)
    finally:
        timer.join()


def test_a_crash_ends_the_image_and_not_the_worker(slow):
    with Decoder() as decoder:
        with pytest.raises(Rejected) as refused:
            killed_while_decoding(decoder, slow, signal.SIGSEGV)
        assert refused.value.code == "undecodable"
        assert (decoder.decode(quick()) == drawn()).all()


def test_a_child_that_somebody_else_kills_costs_no_image(slow):
    with Decoder() as decoder:
        assert (killed_while_decoding(decoder, slow, signal.SIGKILL) == SLOW).all()


def test_a_child_that_died_idle_is_replaced():
    with Decoder() as decoder:
        decoder.start()
        pid = child(decoder)
        os.kill(pid, signal.SIGKILL)
        assert (decoder.decode(quick()) == drawn()).all()
        assert child(decoder) != pid


def test_neighbours_do_not_notice_a_death(slow):
    """Two threads decode good images while the children of others die of theirs."""
    with Decoder() as decoder, ThreadPoolExecutor(3) as threads:
        good = [threads.submit(lambda: [decoder.decode(quick()) for _ in range(15)]) for _ in "ab"]
        for _ in range(2):
            with pytest.raises(Rejected):
                _dying(decoder, slow)
        for images in good:
            assert all((image == drawn()).all() for image in images.result())


def _dying(decoder, ds):
    """Decode in a child of which the process id is known, and abort it once it was asked."""
    codestream = join_frame(ds.PixelData)
    found = inspect_codestream(codestream, JPEG_2000_LOSSLESS, ds)
    doomed = decoder._take_child()
    timer = threading.Timer(0.05, os.kill, (doomed._process.pid, signal.SIGABRT))
    ask = doomed._send_request

    def asked(request):
        ask(request)
        timer.start()

    doomed._send_request = asked
    try:
        doomed.decode(found, codestream, 12, 30)
    finally:
        timer.join()
        decoder._give_back(doomed)


def test_children_end_with_the_worker():
    program = """
import os
from worker.image.decode import Decoder
decoder = Decoder()
decoder.start()
print(decoder._idle[0]._process.pid, flush=True)
os._exit(1)
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    pid = int(found.stdout)
    until = time.monotonic() + 5
    while time.monotonic() < until and _is_running(pid):
        time.sleep(0.02)
    assert not _is_running(pid)


def _is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_an_interrupted_image_is_not_taken_for_the_next(slow, monkeypatch):
    """The answer to an abandoned request must never be read as that to another."""
    with Decoder() as decoder:
        decoder.start()
        with monkeypatch.context() as patch:
            patch.setattr("worker.image.decode._Child._await_answer", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                decoder.decode(slow)
        assert (decoder.decode(quick()) == drawn()).all()


def _interrupted(child, until):
    raise KeyboardInterrupt


def test_closing_ends_the_children():
    with Decoder() as decoder:
        decoder.start()
        pid = child(decoder)
    assert not _is_running(pid)


def test_a_child_outlives_the_thread_that_started_it():
    with Decoder() as decoder:
        thread = threading.Thread(target=decoder.start)
        thread.start()
        thread.join()
        pid = child(decoder)
        assert (decoder.decode(quick()) == drawn()).all()
        assert child(decoder) == pid


def test_a_child_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OutOfResources, match="does not start"):
        Decoder().start()
