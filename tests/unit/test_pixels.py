"""Instances become pictures as a radiologist sees them, or a reason why not."""

import struct
import time
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pictures import JPEG_LS, compressed, drawn, instance, part10
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.uid import UID

from dicom_node.base.errors import Rejected
from worker.image import part10 as part10_files
from worker.image import pixels
from worker.image.decode import Decoder
from worker.settings import Pixels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

OPTIONS = Pixels(screening="off")


def refusal(act, *args):
    """Return the code of the refusal."""
    with pytest.raises(Rejected) as refused:
        act(*args)
    assert refused.value.text.endswith((".", ")"))
    return refused.value.code


def outcome(act, *args, of="code"):
    """Return the code or the text of the refusal, or "passes"."""
    try:
        act(*args)
    except Rejected as refused:
        return getattr(refused, of)
    return "passes"


def code(value, scheme="SCT"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "x"
    return item


# --- read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "syntax",
    ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"],
)
def test_a_file_is_read_in_every_uncompressed_syntax(syntax):
    ds = instance(drawn())
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    if syntax.endswith(".2"):
        ds["PixelData"].VR = "OW"
    found = pixels.read(part10(ds))
    assert found.Rows == 300
    assert found.file_meta.TransferSyntaxUID == syntax


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_a_data_set_without_file_meta_information_is_read(syntax):
    ds = instance(drawn())
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    whole = part10(ds)
    bare = whole[144 + struct.unpack("<I", whole[140:144])[0] :]
    assert pixels.read(bare).file_meta.TransferSyntaxUID == syntax


def test_a_path_is_read(tmp_path):
    path = tmp_path / "image.dcm"
    path.write_bytes(part10(instance(drawn())))
    assert pixels.read(path).Rows == 300


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_large_pixels_are_not_copied(syntax):
    ds = instance(drawn(1100, 1100))
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    content = part10(ds)
    found = pixels.read(content).PixelData
    assert found == ds.PixelData
    assert np.shares_memory(np.frombuffer(found, np.uint8), np.frombuffer(content, np.uint8))


def test_other_large_values_are_bytes_as_ever():
    ds = instance(drawn(300, 300), ImageComments="x" * 3_000_000)
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2")
    assert pixels.read(part10(ds)).ImageComments == "x" * 3_000_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 200,
        b"DICM" * 100,
        b"\0" * 128 + b"DICM",
        b"%PDF-1.4 " + b"x" * 5000,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 500,
        part10(instance(drawn()))[:200],
    ],
)
def test_what_is_no_dicom_is_refused(content):
    assert refusal(pixels.read, content) == "not-dicom"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_make_reading_fail(content, has_preamble):
    head = b"\0" * 128 + b"DICM" if has_preamble else b""
    assert outcome(pixels.read, head + content) in ("passes", "not-dicom")


WHOLE = part10(instance(drawn(256, 256)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(128, 900), st.integers(0, 255)), min_size=1, max_size=6))
@example([(WHOLE.index(b"\x28\x00\x03\x01US") + 6, 1)])  # a number of two bytes that has one
def test_no_flipped_byte_of_a_header_makes_anything_fail(changes):
    """Either a picture comes out or a reason."""
    content = bytearray(WHOLE)
    for at, byte in changes:
        content[at] = byte

    def show():
        with Decoder() as decoder:
            pixels.radiograph(pixels.read(bytes(content)), decoder, OPTIONS)

    assert outcome(show)


def nested(depth, is_undefined):
    """Return a data set of sequences within sequences."""
    content = b""
    for _ in range(depth):
        if is_undefined:
            item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + content + b"\xfe\xff\x0d\xe0\0\0\0\0"
            end = b"\xfe\xff\xdd\xe0\0\0\0\0"
            content = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + item + end
        else:
            item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content
            content = b"\x40\x00\x75\x02SQ\0\0" + struct.pack("<I", len(item)) + item
    return content


@pytest.mark.parametrize("is_undefined", [True, False])
def test_nested_sequences_do_not_bring_the_worker_down(is_undefined):
    at = WHOLE.find(b"\xe0\x7f\x10\x00")
    content = WHOLE[:at] + nested(5000, is_undefined) + WHOLE[at:]
    # A sequence of known length is not even looked into.
    expected = "not-dicom" if is_undefined else "passes"
    assert outcome(lambda: pixels.gate(pixels.read(content), OPTIONS)) == expected


def test_endless_elements_are_given_up_soon():
    head = part10(instance(drawn(256, 256)))
    end_of_meta = 144 + struct.unpack("<I", head[140:144])[0]
    item = b"\xfe\xff\x00\xe0\0\0\0\0"
    sequence = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + item * 2_000_000
    began = time.monotonic()
    assert refusal(pixels.read, head[:end_of_meta] + sequence) == "not-dicom"
    assert time.monotonic() - began < 5


@pytest.fixture(scope="module")
def bomb():
    """Return 200 MiB of zeros, deflated."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    return b"".join(deflate.compress(bytes(1 << 20)) for _ in range(200)) + deflate.flush()


@pytest.mark.parametrize("has_implicit_meta", [False, True])
def test_a_deflated_bomb_is_refused(bomb, has_implicit_meta):
    ds = instance(drawn(256, 256))
    ds.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    head = part10(ds)
    head = head[: 144 + struct.unpack("<I", head[140:144])[0]]
    if has_implicit_meta:
        syntax = b"1.2.840.10008.1.2.1.99"
        head = bytes(128) + b"DICM" + b"\x02\0\x10\0" + struct.pack("<I", len(syntax)) + syntax
    with pytest.raises(Rejected, match="inflates"):
        pixels.read(head + bomb)


def test_a_huge_file_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(part10_files, "MOST_BYTES", 1000)
    path = tmp_path / "huge.dcm"
    path.write_bytes(WHOLE)
    assert refusal(pixels.read, WHOLE) == "not-dicom"
    assert refusal(pixels.read, path) == "not-dicom"


def test_a_refusal_quotes_nothing_of_a_patient(shared_data):
    """Its text goes into logs and reports."""
    for path in sorted(shared_data.glob("*/*.dcm")):
        name = str(
            pydicom.dcmread(path, force=True, specific_tags=["PatientName"]).get("PatientName")
        )
        text = outcome(lambda path=path: pixels.gate(pixels.read(path), OPTIONS), of="text")
        assert not name or name not in text


# --- gate -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sop_class", "modality", "named"),
    [
        (
            "1.2.840.10008.5.1.4.1.1.2",
            "CT",
            "is CT Image ('1.2.840.10008.5.1.4.1.1.2'), not a",
        ),
        ("1.2.840.10008.5.1.4.1.1.7", "OT", "is Secondary Capture Image ("),
        ("1.2.840.10008.5.1.4.1.1.7", "OT", "of Modality 'OT', not a CR or DX image."),
        ("1.2.3.4", "DX", "The SOP Class is '1.2.3.4', not a CR or DX image."),
        (None, "DX", "The SOP Class is absent, not"),
    ],
)
def test_what_is_no_radiograph_is_named(sop_class, modality, named):
    ds = instance(drawn(), SOPClassUID=sop_class, Modality=modality)
    with pytest.raises(Rejected) as refused:
        pixels.gate(ds, OPTIONS)
    assert named in refused.value.text


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "not-radiograph"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "OT"}, "not-radiograph"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, "for-processing"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for-processing"),
        ({"PixelData": None}, "no-pixels"),
        ({"PhotometricInterpretation": "RGB"}, "not-grayscale"),
        ({"PhotometricInterpretation": None}, "not-grayscale"),
        ({"SamplesPerPixel": 3}, "not-grayscale"),
        ({"NumberOfFrames": 2}, "multi-frame"),
        ({"NumberOfFrames": -1}, "multi-frame"),
        ({"BitsAllocated": 32}, "bit-depth"),
        ({"BitsAllocated": 1}, "bit-depth"),
        ({"BitsStored": 17}, "bit-depth"),
        ({"BitsStored": 0}, "bit-depth"),
        ({"BitsStored": None}, "bit-depth"),
        ({"Rows": 255}, "too-small"),
        ({"Columns": 0}, "too-small"),
        ({"Rows": None}, "too-small"),
        ({"Rows": 10001}, "too-large"),
        ({"Rows": 9000, "Columns": 9000}, "too-large"),
        ({"BodyPartExamined": "HIP"}, "not-chest"),
        ({"BodyPartExamined": "TSPINE"}, "not-chest"),
        ({"BodyPartExamined": "THORACIC SPINE"}, "not-chest"),
        ({"BodyPartExamined": "", "AnatomicRegionSequence": [code("29836001")]}, "not-chest"),
        ({"PatientSpeciesDescription": "Canine"}, "not-chest"),
        ({"ViewPosition": "LL"}, "lateral-view"),
        ({"ViewPosition": "LAO"}, "oblique-view"),
        ({"ViewPosition": "PA AND LAT"}, "lateral-view"),
        ({"ViewPosition": "", "ViewCodeSequence": [code("399173006")]}, "lateral-view"),
        ({"ViewPosition": "", "PatientOrientation": ["A", "F"]}, "lateral-view"),
    ],
)
def test_the_gate_says_why_it_is_closed(elements, expected):
    assert refusal(pixels.gate, instance(drawn(), **elements), OPTIONS) == expected


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1", "Modality": "DX"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "Modality": "DX"},
        {"Modality": "cr "},
        {"BodyPartExamined": ""},
        {"BodyPartExamined": None},
        {"BodyPartExamined": "Chest with ribs"},
        {"BodyPartExamined": "TÓRAX"},
        {"BodyPartExamined": "RIBS"},
        {"BodyPartExamined": "CHESTABDOMEN"},
        {"BodyPartExamined": "", "AnatomicRegionSequence": [code("T-D3000", "SRT")]},
        {"ViewPosition": "AP"},
        {"ViewPosition": "AP SUPINE"},
        {"ViewPosition": "POSTERO_ANTERIOR"},
        {"ViewPosition": "LLD"},
        {"ViewPosition": ""},
        {"ViewPosition": None, "PatientOrientation": None},
        {"ViewPosition": "", "ViewCodeSequence": [code("R-10214", "SRT")]},
        {"ViewPosition": "PA", "PatientOrientation": ["A", "F"]},
        {"NumberOfFrames": 1},
        {"NumberOfFrames": 0},
        {"PatientSpeciesDescription": "Homo sapiens"},
    ],
)
def test_the_gate_is_open_for_frontal_chests(elements):
    pixels.gate(instance(drawn(), **elements), OPTIONS)


def test_lateral_views_pass_where_the_site_wants_them():
    lateral = instance(drawn(), ViewPosition="LL")
    pixels.gate(lateral, Pixels(accept_lateral=True))


def test_all_real_chests_pass_and_nothing_else_does(shared_data):
    def outcomes(folder):
        paths = sorted((shared_data / folder).glob("*.dcm"))
        return {path.name: outcome(passed, path) for path in paths}

    def passed(path):
        pixels.gate(pixels.read(path), OPTIONS)

    assert set(outcomes("chest").values()) == {"passes"}
    assert set(outcomes("not_radiograph").values()) == {"not-radiograph"}
    assert set(outcomes("malformed").values()) <= {"not-radiograph", "not-dicom"}
    # Header screening cannot see that a panorama without a body part is not a chest.
    assert outcomes("not_chest") == {
        "cr_dental_panoramic_modality-lut_mono1.dcm": "passes",
        "cr_hip_mono2_10bit_fuji_jpeg-lossless.dcm": "not-chest",
        "cr_hip_mono2_10bit_fuji_jpegls-lossless.dcm": "not-chest",
        "cr_hip_mono2_12bit-jpeg-extended.dcm": "not-chest",
        "cr_tibia_mono1_fuji_j2k-lossless.dcm": "not-chest",
        "cr_tibia_mono1_fuji_rle.dcm": "not-chest",
        "dx_thorax_DOG_lateral_mono1_fuji.dcm": "too-small",
        "xa_brain_angio_rle.dcm": "not-radiograph",
    }


# --- geometry ---------------------------------------------------------------------------------


def shown(decoder, original, **elements):
    ds = instance(original, 8, WindowCenter=128, WindowWidth=256, **elements)
    return pixels.radiograph(ds, decoder, OPTIONS)


@pytest.mark.parametrize("row", "LRHF")
@pytest.mark.parametrize("column", "LRHF")
def test_every_orientation_is_brought_to_the_left_and_the_feet(decoder, row, column):
    """A mark in the upper corner at the patient's right must be at the viewer's upper left."""
    if {row, column} & set("LR") == {row, column} or not {row, column} & set("LR"):
        return
    original = drawn(300, 400, bits=8) // 2
    upright = original.copy()
    upright[:20, :40] = 255
    stored = upright
    if (column if row in "HF" else row) == "R":
        stored = stored[:, ::-1]
    if (row if row in "HF" else column) == "H":
        stored = stored[::-1]
    if row in "HF":
        stored = stored.T
    stored = np.ascontiguousarray(stored)
    found = shown(decoder, stored, PatientOrientation=[row, column])
    assert (found.pixels == upright).all()
    assert not found.warnings
    assert ("orient=kept" in found.steps) == ((row, column) == ("L", "F"))


@pytest.mark.parametrize("orientation", [None, "", ["A", "F"], ["L", "R"], ["L"], ["X", "Y"]])
def test_an_unknown_orientation_is_left_and_said(decoder, orientation):
    original = drawn(300, 400, bits=8)
    found = shown(decoder, original, PatientOrientation=orientation)
    assert (found.pixels == original).all()
    assert "orient=unknown" in found.steps
    assert len(found.warnings) == 1


def test_oblique_orientations_count_by_their_main_direction(decoder):
    original = drawn(300, 400, bits=8)
    found = shown(decoder, original, PatientOrientation=["RH", "FR"])
    assert (found.pixels == original[:, ::-1]).all()


@pytest.mark.parametrize(
    ("elements", "size"),
    [
        ({"PixelAspectRatio": [2, 1]}, (600, 280)),
        ({"PixelAspectRatio": [1, 2]}, (300, 560)),
        ({"PixelAspectRatio": [1, 1]}, (300, 280)),
        ({"PixelAspectRatio": [0, 1]}, (300, 280)),
        ({"PixelAspectRatio": [1, 90]}, (300, 280)),
        ({"PixelSpacing": [0.3, 0.2]}, (450, 280)),
        ({"ImagerPixelSpacing": [0.2, 0.2]}, (300, 280)),
        ({"PixelSpacing": [0, 0]}, (300, 280)),
    ],
)
def test_pixels_become_square(decoder, elements, size):
    found = shown(decoder, drawn(bits=8), **elements)
    assert found.pixels.shape == size
    assert ("aspect=resampled" in found.steps) == (size != (300, 280))


RECTANGLE = {
    "ShutterUpperHorizontalEdge": 41,
    "ShutterLowerHorizontalEdge": 250,
    "ShutterLeftVerticalEdge": 31,
    "ShutterRightVerticalEdge": 200,
}


def test_what_a_rectangular_shutter_hides_is_black(decoder):
    original = drawn(bits=8) // 2 + 100
    found = shown(decoder, original, ShutterShape="RECTANGULAR", **RECTANGLE)
    expected = np.zeros_like(original)
    expected[40:250, 30:200] = original[40:250, 30:200]
    assert (found.pixels == expected).all()
    assert "shutter=rectangular" in found.steps


def test_what_a_circular_shutter_hides_is_black(decoder):
    original = drawn(bits=8) // 2 + 100
    elements = {"CenterOfCircularShutter": [151, 141], "RadiusOfCircularShutter": 100}
    found = shown(decoder, original, ShutterShape="CIRCULAR", **elements)
    seen = found.pixels > 0
    assert abs(seen.sum() / (np.pi * 100**2) - 1) < 0.01
    assert seen[150, 140]
    assert seen[50, 140]
    assert not seen[49, 140]
    assert not seen[85, 60]


def test_what_a_polygonal_shutter_hides_is_black(decoder):
    original = drawn(bits=8) // 2 + 100
    vertices = [21, 141, 281, 21, 281, 261]
    found = shown(
        decoder, original, ShutterShape="POLYGONAL", VerticesOfThePolygonalShutter=vertices
    )
    seen = found.pixels > 0
    assert seen[270, 141]
    assert not seen[40, 40]
    assert abs(seen.sum() / (260 * 240 / 2) - 1) < 0.03


def test_several_shutters_hide_together(decoder):
    original = drawn(bits=8) // 2 + 100
    elements = {"CenterOfCircularShutter": [151, 141], "RadiusOfCircularShutter": 120, **RECTANGLE}
    found = shown(decoder, original, ShutterShape=["RECTANGULAR", "CIRCULAR"], **elements)
    assert not found.pixels[:40].any()
    assert not found.pixels[41, 31]
    assert found.pixels[150, 141]
    assert "shutter=circular+rectangular" in found.steps


@pytest.mark.parametrize(
    "elements",
    [
        {"ShutterShape": "RECTANGULAR"},
        {"ShutterShape": "RECTANGULAR", **RECTANGLE, "ShutterLowerHorizontalEdge": 42},
        {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [1, 1]},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 2, 3]},
        {"ShutterShape": "BITMAP"},
    ],
)
def test_an_unusable_shutter_stays_open_and_is_said(decoder, elements):
    original = drawn(bits=8)
    found = shown(decoder, original, **elements)
    assert (found.pixels == original).all()
    assert any("shutter" in warning for warning in found.warnings)


@pytest.mark.parametrize("shape", ["RECTANGULAR", "CIRCULAR"])
def test_what_is_behind_a_shutter_does_not_count(decoder, shape):
    """Percentiles are those of what may be seen."""
    original = drawn() // 4 + 1000
    hidden = original.copy()
    hidden[:40] = 4095
    elements = {"CenterOfCircularShutter": [160, 140], "RadiusOfCircularShutter": 110}
    ds = instance(hidden, ShutterShape=shape, **RECTANGLE, **elements)
    found = pixels.radiograph(ds, decoder, OPTIONS).pixels
    assert found[60:240, 60:190].max() > 250


# --- the whole --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["voi", "minmax", "minmax+equalize"])
def test_the_steps_name_the_specification(decoder, mode):
    options = Pixels(mode=mode, screening="off")
    found = pixels.radiograph(instance(drawn()), decoder, options)
    assert pixels.preprocessing_name(options) == f"{mode}-2"
    assert found.steps.startswith(f"{mode}-2: ")
    assert found.pixels.dtype == np.uint8
    assert found.pixels.flags.c_contiguous


def test_the_gate_stands_before_the_decoder():
    class Untouchable:
        def lent(self, ds):
            raise AssertionError

    ds = instance(drawn(), BodyPartExamined="HIP")
    assert refusal(pixels.radiograph, ds, Untouchable(), OPTIONS) == "not-chest"


def test_a_compressed_image_gives_the_same_picture(decoder):
    import imagecodecs

    original = drawn()
    plain = pixels.radiograph(instance(original), decoder, OPTIONS)
    codestream = bytes(imagecodecs.jpegls_encode(original))
    coded = compressed(instance(original), JPEG_LS, codestream)
    assert (pixels.radiograph(coded, decoder, OPTIONS).pixels == plain.pixels).all()


def test_the_two_codings_of_one_real_chest_look_alike(decoder, shared_data):
    first, second = (
        pixels.radiograph(pixels.read(path), decoder, OPTIONS).pixels.astype(int)
        for path in sorted((shared_data / "chest").glob("*philips*.dcm"))
    )
    assert np.abs(first - second).mean() < 1


@pytest.mark.parametrize("grey", [0, 1000, 4095])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2048, "WindowWidth": 4096}])
def test_an_image_of_one_grey_is_not_analysed(decoder, grey, window):
    empty = instance(np.full((300, 300), grey, np.uint16), **window)
    assert refusal(pixels.radiograph, empty, decoder, OPTIONS) == "no-contrast"


def test_an_image_with_little_on_it_is_analysed(decoder):
    almost_empty = np.zeros((300, 300), np.uint16)
    almost_empty[100:130, 150:180] = 100
    pixels.radiograph(instance(almost_empty), decoder, OPTIONS)


def test_real_images_are_shown_on_a_contact_sheet(decoder, shared_data, tmp_path):
    """A person can check it in one look: stored values at the left, the picture at the right."""
    tiles = []
    for path in sorted(shared_data.glob("*chest/*.dcm")):
        ds = pixels.read(path)
        try:
            found = pixels.radiograph(ds, decoder, OPTIONS).pixels
        except Rejected as refused:
            found = refused.code
        tiles.append((path.stem, np.sqrt(decoder.decode(ds)[::4, ::4]), found))
    sheet = Image.new("L", (640, 340 * len(tiles)), 40)
    draw = ImageDraw.Draw(sheet)
    for row, (name, before, after) in enumerate(tiles):
        draw.text((4, 340 * row + 2), name, fill=255)
        before = (before / max(before.max(), 1) * 255).astype(np.uint8)
        sheet.paste(Image.fromarray(before).resize((310, 310)), (4, 340 * row + 18))
        if isinstance(after, str):
            draw.text((330, 340 * row + 150), f"not analysed: {after}", fill=255)
        else:
            sheet.paste(Image.fromarray(after).resize((310, 310)), (324, 340 * row + 18))
    sheet.save(tmp_path / "contact-sheet.png")
    assert sum(not isinstance(after, str) for _, _, after in tiles) == 6
    for _, _, after in tiles:
        assert isinstance(after, str) or after.std() > 30
    print(f"contact sheet: {tmp_path / 'contact-sheet.png'}")


# --- smaller pictures -------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(1201, 1100), (1300, 1047), (2500, 2100)])
def test_a_picture_at_half_size_is_the_same_picture(decoder, rows, columns):
    """What a model's processor makes of it differs by a level, not by its content."""
    ds = instance(drawn(rows, columns), WindowCenter=2048, WindowWidth=5000)
    full = pixels.radiograph(ds, decoder, OPTIONS)
    less = pixels.radiograph(ds, decoder, Pixels(screening="off", enough=250))
    power = 2 if rows > 2000 else 1
    assert less.pixels.shape == (rows >> power, columns >> power)
    assert "size=full" in full.steps
    assert less.steps.startswith("voi-2/250: ")
    assert f"size=1/{1 << power}" in less.steps
    first, second = (
        np.asarray(Image.fromarray(picture.pixels).resize((250, 250), Image.Resampling.BICUBIC))
        for picture in (full, less)
    )
    error = np.abs(first.astype(int) - second)
    assert error.mean() < 1
    assert error.max() <= 4


@pytest.mark.parametrize(
    "elements",
    [
        {"PixelPaddingValue": 0},
        {"ShutterShape": "RECTANGULAR", **RECTANGLE},
        {"HighBit": 15},
        {"BitsStored": 16, "HighBit": 15},
        {"BitsStored": 10, "HighBit": 9},
        {"PixelRepresentation": 1},
    ],
)
def test_values_without_a_meaningful_average_stay_apart(decoder, elements):
    ds = instance(drawn(1100, 1100), **elements)
    assert pixels.radiograph(ds, decoder, Pixels(screening="off", enough=250)).pixels.shape == (
        1100,
        1100,
    )
