"""The screener sees what headers do not say."""

from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pictures import drawn, instance
from PIL import Image

from dicom_node.base.errors import Rejected
from worker.image import gate, lungs, pixels, screen
from worker.image.decode import Decoder
from worker.phantom.draw import instance as phantom
from worker.settings import Pixels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

SAME_AS_ANOTHER = ("jpegls", "fake_mono1", "12bit", "fuji_rle")


def shown(ds, **options):
    with Decoder() as decoder:
        return pixels.radiograph(ds, decoder, Pixels(**options))


@pytest.fixture(scope="module")
def real(shared_data):
    """Every distinct real picture by name."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "SMALLEST", 100)
        for path in sorted(shared_data.glob("*chest/*.*")):
            if any(part in path.name for part in SAME_AS_ANOTHER):
                continue
            if path.suffix == ".dcm":
                ds = pixels.read(path)
                ds.SOPClassUID, ds.BodyPartExamined, ds.ViewPosition = gate.CR, "CHEST", "PA"
                found[path.stem] = shown(ds, screening="off").pixels
            else:
                found[path.stem] = np.asarray(Image.open(path).convert("L"))
    return found


def frontal(real):
    """Return the frontal chests among the real pictures."""
    names = [name for name in real if name.startswith(("chest-pa", "cr_chest", "sc_", "hann"))]
    return {name: real[name] for name in names}


def codes(picture):
    return [code for code, _ in screen.screen(np.ascontiguousarray(picture))]


TURNS = {
    "upside-down": lambda picture: picture[::-1, ::-1],
    "rotated": np.rot90,
    "inverted": lambda picture: 255 - picture,
}


def test_real_chests_pass_and_turned_ones_are_named_though_left_out_of_the_mean(real, monkeypatch):
    """Each is judged by a mean of the others, so this is not a memory of itself."""
    chests = frontal(real)
    assert len(chests) == 9
    phantoms = [shown(phantom(900, index), screening="off").pixels for index in range(8)]
    for name, picture in chests.items():
        mean = screen.learn([chests[other] for other in chests if other != name], phantoms)
        monkeypatch.setattr(screen, "_mean_chest", lambda mean=mean: mean.astype(float))
        assert codes(picture) == [], name
        for code, turn in TURNS.items():
            assert codes(turn(picture)) == [code], name


def test_other_real_images_are_noticed(real):
    """A dog, a hip, a tibia, a panorama, an angiogram and a lateral chest."""
    others = {name: picture for name, picture in real.items() if name not in frontal(real)}
    assert len(others) == 6
    named = {name: codes(picture) for name, picture in others.items()}
    assert named == {name: ["not-frontal-chest"] for name in others}


def test_what_a_header_calls_a_chest_is_doubted_all_the_same(shared_data):
    """A tibia labelled CHEST, a lateral view and an upside-down chest without View Position."""
    tibia = pixels.read(shared_data / "not_chest" / "cr_tibia_mono1_fuji_rle.dcm")
    tibia.BodyPartExamined, tibia.ViewPosition = "CHEST", ""
    assert screen.TURNED["not-frontal-chest"] in shown(tibia).warnings
    with pytest.raises(Rejected) as refused:
        shown(tibia, screening="reject")
    assert refused.value.code == "screened-out"
    lateral = Image.open(shared_data / "chest" / "chest-lateral_cc0_1769x2453.jpg").convert("L")
    ds = instance(np.asarray(lateral), 8, ViewPosition=None)
    assert screen.TURNED["not-frontal-chest"] in shown(ds).warnings
    chest = np.asarray(Image.open(shared_data / "chest" / "chest-pa_cc0.jpg").convert("L"))
    ds = instance(np.ascontiguousarray(chest[::-1, ::-1]), 8, ViewPosition=None)
    assert screen.TURNED["upside-down"] in shown(ds).warnings
    assert shown(instance(chest, 8)).warnings == ()


def test_the_mean_that_is_shipped_is_that_of_the_real_chests(real):
    phantoms = [shown(phantom(900, index), screening="off").pixels for index in range(8)]
    learned = screen.learn(frontal(real).values(), phantoms).astype(float)
    assert np.corrcoef(learned.reshape(-1), screen._mean_chest().reshape(-1))[0, 1] > 0.99


def test_phantoms_pass():
    """The demonstration must not be full of doubts."""
    for index in range(6):
        assert shown(phantom(901, index)).warnings == ()


def test_two_judges_must_agree(real):
    """The mean alone passes a negative of a hip and a tibia that is upside down."""
    names = {name.split("_")[1]: picture for name, picture in real.items()}
    for picture in (255 - names["hip"], names["tibia"][::-1, ::-1]):
        scores = screen.likeness(picture)
        assert max(scores, key=scores.get) == "upright"
        assert scores["upright"] >= screen.LIKE
        assert codes(picture) == ["not-frontal-chest"]


def test_lungs_are_found_in_chests_and_nowhere_else(real):
    for name, picture in real.items():
        found = min(lungs.lungs(lungs.Views(picture), None))
        assert (found >= 4 * lungs.ENOUGH) == (name in frontal(real)), (name, found)
        assert found >= 4 * lungs.ENOUGH or found <= lungs.ENOUGH / 2


def test_a_mirrored_chest_is_told_where_the_evidence_is_clear_and_never_refused(real):
    mirrored = [picture[:, ::-1] for picture in frontal(real).values()]
    named = [codes(picture) for picture in mirrored]
    assert {code for codes_ in named for code in codes_} == {screen.MIRRORED}
    assert sum(map(bool, named)) >= 3
    clear = np.ascontiguousarray(mirrored[[bool(found) for found in named].index(True)])
    ds = instance(clear, 8, WindowCenter=128, WindowWidth=256)
    assert screen.TURNED[screen.MIRRORED] in shown(ds, screening="reject").warnings


def test_a_doubt_is_a_warning_a_reason_or_nothing():
    ds = instance(drawn(600, 500))
    assert screen.TURNED["not-frontal-chest"] in shown(ds).warnings
    assert shown(ds, screening="off").warnings == ()
    with pytest.raises(Rejected) as refused:
        shown(ds, screening="reject")
    assert refused.value.code == "screened-out"


def test_the_fake_negative_is_seen_through(shared_data):
    """Its header calls a positive picture MONOCHROME1."""
    found = shown(pixels.read(shared_data / "chest" / "sc_chest_pa_rsna_fake_mono1.dcm"))
    assert screen.TURNED["inverted"] in found.warnings


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)).flatmap(
        lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 255), fill=st.just(7))
    )
)
def test_any_picture_gets_an_answer(picture):
    assert set(codes(picture)) <= set(screen.TURNED)


@pytest.mark.parametrize("side", ["right", "left"])
def test_turned_features_are_the_sums_of_their_pixels(side):
    """To the last bit: sums of whole numbers, whatever the way that they are made."""
    with files("worker.image.lungs").joinpath(f"{side}_lung_haar.xml").open("rb") as file:
        root = ElementTree.parse(file).getroot().find("cascade")
    every = [lungs._read_feature(item) for item in root.findall("features/_")]
    turned = [feature for feature in every if feature.is_turned]
    assert len(turned) >= 5
    cascade = lungs._read_cascade(side)
    shape = (cascade.height, cascade.width)
    random = np.random.default_rng(3)
    grey = random.integers(0, 256, (90, 71)).astype(np.float64)
    whole = lungs._turned_integral(grey)
    rows = random.integers(0, 90 - shape[0] + 1, 40)
    columns = random.integers(0, 71 - shape[1] + 1, 40)
    masks = [lungs._turned_pixels(feature, shape) for feature in turned]
    for feature, mask in zip(turned, masks, strict=True):
        # A turned rectangle of 1 x 1 has two pixels.
        assert sum(mask.values()) == sum(
            2 * w * h * share for _, _, w, h, share in feature.rectangles
        )
    corners = lungs._integral_points([lungs._turned_weights(feature) for feature in turned])
    by_corners = corners.values(whole, rows * whole.shape[1] + columns)
    by_pixels = lungs._integral_points(masks).values(grey, rows * grey.shape[1] + columns)
    assert by_pixels.any()
    assert (by_corners == by_pixels).all()
