"""PNG, JPEG, TIFF and WebP, archives and DICOMDIR are read; companions are not failures."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import drawn, instance, part10
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset

from dicom_node.base.errors import ConfigurationError, Rejected
from worker.cli import main
from worker.image import files
from worker.research.sources import walk
from worker.settings import Pixels

OPTIONS = Pixels(screening="off")
EIGHT = drawn(300, 280, bits=8)
Array = Any


def written(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def pixels(content: bytes) -> Array:
    return files.picture(content, OPTIONS).pixels


def refusal(content: bytes) -> str:
    with pytest.raises(Rejected) as refused:
        files.picture(content, OPTIONS)
    return refused.value.code


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WebP", {"lossless": 1})]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_eight_bits_of_grey_pass_unchanged(kind: str, mode: str, options: dict[str, Any]) -> None:
    if kind == "WebP" and mode == "LA":
        mode = "RGBA"
    content = written(Image.fromarray(EIGHT).convert(mode), kind, **options)
    assert files.file_kind(content) == kind
    found = files.picture(content, OPTIONS)
    assert (found.pixels == EIGHT).all()
    assert len(found.warnings) == 1


def test_a_jpeg_is_what_pillow_makes_of_it() -> None:
    content = written(Image.fromarray(EIGHT), "JPEG", quality=90)
    assert (pixels(content) == np.asarray(Image.open(io.BytesIO(content)))).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_more_bits_are_spread_by_those_that_are_used(kind: str, bits: int) -> None:
    original = drawn(300, 280, bits=bits)
    found = files.picture(written(Image.fromarray(original), kind), OPTIONS)
    expected = np.rint(original / ((1 << bits) - 1) * 255)
    assert np.abs(found.pixels - expected).max() <= 1
    assert any("bits" in warning for warning in found.warnings) == (bits != 16)


def test_real_numbers_are_spread_by_their_range() -> None:
    original = EIGHT.astype(np.float32) / 50 - 3
    assert np.abs(pixels(written(Image.fromarray(original), "TIFF")) - EIGHT).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WebP"])
def test_the_orientation_of_exif_is_followed(kind: str, orientation: int) -> None:
    """Undone by hand: 2 mirrored, 3 upside down, 5 transposed, 6 and 8 on a side."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: np.rot90,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 100} if kind in ("JPEG", "WebP") else {}
    options |= {"lossless": True} if kind == "WebP" else {}
    found = pixels(written(Image.fromarray(EIGHT), kind, exif=exif, **options))
    assert found.shape == undo(EIGHT).shape
    assert np.abs(found.astype(int) - undo(EIGHT)).max() <= 8


def test_what_is_transparent_is_black() -> None:
    image = Image.fromarray(EIGHT).convert("RGBA")
    alpha = np.full(EIGHT.shape, 255, np.uint8)
    alpha[:50] = 0
    image.putalpha(Image.fromarray(alpha))
    found = pixels(written(image))
    assert (found[:50] == 0).all()
    assert (found[50:] == EIGHT[50:]).all()


def test_a_palette_is_looked_up() -> None:
    image = Image.fromarray(255 - EIGHT, "P")
    image.putpalette([255 - level for level in range(256) for _ in range(3)])
    assert (pixels(written(image)) == EIGHT).all()


def test_printers_colours_are_not_inverted() -> None:
    content = written(Image.fromarray(EIGHT).convert("RGB").convert("CMYK"), "JPEG", quality=98)
    assert np.abs(pixels(content).astype(int) - EIGHT).mean() < 3


def test_a_tiff_whose_zero_is_white_is_inverted() -> None:
    wide = drawn(300, 280, bits=16)
    for original in (EIGHT, wide):
        content = written(Image.fromarray(original), "TIFF")
        at = content.find(b"\x06\x01\x03\x00\x01\x00\x00\x00")
        content = content[: at + 8] + b"\0\0" + content[at + 10 :]
        top = 255 if original is EIGHT else 65535
        assert (
            np.abs(pixels(content) - np.rint((top - original.astype(int)) / top * 255)).max() <= 1
        )


def test_colours_are_named() -> None:
    image = Image.merge("RGB", [Image.fromarray(EIGHT)] * 2 + [Image.new("L", (280, 300))])
    assert any("coloured" in text for text in files.picture(written(image), OPTIONS).warnings)


def test_what_is_no_picture_of_a_chest_has_a_reason() -> None:
    """The size of the huge picture stands in its header only: it is refused before it is read."""
    assert refusal(b"%PDF-1.4") == "not-dicom"
    assert refusal(written(Image.fromarray(EIGHT))[:-5000]) == "undecodable"
    assert refusal(written(Image.fromarray(EIGHT[:200]))) == "too-small"
    assert refusal(written(Image.new("L", (300, 300), 7))) == "no-contrast"
    assert refusal(written(Image.new("1", (12000, 9000)))) == "too-large"
    small = written(Image.new("L", (300, 300)))
    ends = small.index(b"IHDR") + 4
    huge = small[:ends] + (60_000).to_bytes(4) * 2 + small[ends + 8 : ends + 13]
    crc = zlib.crc32(huge[ends - 4 :]).to_bytes(4)
    assert refusal(huge + crc + small[ends + 17 :]) == "too-large"
    pages = [Image.fromarray(EIGHT), Image.fromarray(EIGHT)]
    two = written(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert refusal(two) == "multi-frame"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "TIFF", "WebP"]), st.integers(0, 200), st.binary(max_size=9))
def test_changed_bytes_give_a_picture_or_a_reason(kind: str, at: int, put: bytes) -> None:
    content = written(Image.fromarray(EIGHT), kind)
    with contextlib.suppress(Rejected):
        files.picture(content[:at] + put + content[at + len(put) :], OPTIONS)


def test_a_preamble_of_tiff_does_not_make_a_picture_file() -> None:
    content = part10(instance(drawn()))
    assert files.file_kind(b"II*\0" + content[4:]) == ""


# --- sources ----------------------------------------------------------------------------------


def test_archives_are_read_through_and_companions_listed(tmp_path: Path) -> None:
    image, picture = part10(instance(drawn())), written(Image.fromarray(EIGHT))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("below/one.dcm", image)
        archive.writestr("below/two.png", picture)
        archive.writestr("labels.csv", "file,fracture")
        archive.writestr("__MACOSX/._one.dcm", b"x")
    for name in ("b.tar", "c.tar.gz"):
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as tape:
            for member, content in (("x/1", image), ("x/2.png", picture), ("readme.txt", b"hello")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tape.addfile(info, io.BytesIO(content))
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "really.txt").write_bytes(image)
    found = walk([tmp_path])
    names = [source.name.removeprefix(f"{tmp_path}/") for source in found.sources]
    assert names == [
        "a.zip/below/one.dcm",
        "a.zip/below/two.png",
        "b.tar/x/1",
        "b.tar/x/2.png",
        "c.tar.gz/x/1",
        "c.tar.gz/x/2.png",
        "really.txt",
    ]
    assert len(found.companions) == 4
    for source in found.sources:
        assert source.read() == (picture if source.name.endswith(".png") else image)
    # Once more, from the beginning.
    assert (found.sources[4].read(), found.sources[5].read()) == (image, picture)


def test_a_dicomdir_leads_to_its_images(tmp_path: Path) -> None:
    (tmp_path / "IMG").mkdir()
    (tmp_path / "IMG" / "A1").write_bytes(part10(instance(drawn())))
    (tmp_path / "OUTSIDE").symlink_to("/etc")
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    record, outside, patient = Dataset(), Dataset(), Dataset()
    record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", ["IMG", "A1"]
    outside.DirectoryRecordType, outside.ReferencedFileID = "IMAGE", ["OUTSIDE", "A1"]
    patient.DirectoryRecordType = "PATIENT"
    directory.DirectoryRecordSequence = [patient, record, outside]
    directory.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    found = walk([tmp_path / "DICOMDIR"])
    assert [source.name for source in found.sources] == [str(tmp_path / "IMG" / "A1")]
    assert found.companions == [str(tmp_path / "DICOMDIR")]
    assert str(tmp_path / "DICOMDIR") in walk([tmp_path]).companions


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        walk([tmp_path / "nowhere"])


# --- commands ---------------------------------------------------------------------------------


def test_picture_writes_what_the_model_sees(tmp_path: Path, capsys: Any) -> None:
    ds = instance(drawn(), WindowCenter=2048, WindowWidth=4096, PatientOrientation=["R", "F"])
    source, target = tmp_path / "a.dcm", tmp_path / "a.png"
    source.write_bytes(part10(ds))
    assert main(["picture", str(source), "--out", str(target)]) == 0
    shown = opened(target)
    right = np.rint(np.clip((drawn() - 2047.5) / 4095 + 0.5, 0, 1) * 255)[:, ::-1]
    assert shown.mode == "L"
    assert (np.asarray(shown) == right).all()
    assert main(["picture", str(source), "--out", str(target), "--stages"]) == 0
    assert opened(target).size[0] > 1200
    assert "window-linear" in capsys.readouterr().out


def test_picture_says_why_there_is_none(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "hip.dcm").write_bytes(part10(instance(drawn(), BodyPartExamined="HIP")))
    (tmp_path / "chest.png").write_bytes(written(Image.fromarray(EIGHT)))
    out = tmp_path / "out"
    assert main(["picture", str(tmp_path), "--out", str(out), "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [bool(row["picture"]) for row in rows] == [True, False]
    assert rows[1]["reason"].startswith("not-chest: ")
    assert rows[1]["sop_instance_uid"] == "2.25.7"
    assert (np.asarray(opened(Path(rows[0]["picture"]))) == EIGHT).all()


def test_describe_takes_pictures_and_makes_studies_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(written(Image.fromarray(EIGHT)))
    (folder / "b.png").write_bytes(written(Image.fromarray(255 - EIGHT)))
    (folder / "labels.csv").write_text("file,fracture\na.png,1\n")
    (tmp_path / "ids.csv").write_text("file,patient_id,sop_instance_uid\na.png,P7,1.2.3.4\n")
    out = tmp_path / "out"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "worker", "describe", str(folder), "--out", str(out)),
            *("--identifiers", str(tmp_path / "ids.csv"), "--make-studies", "--quiet"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [Path(row["file"]).name for row in rows] == ["a.png", "b.png"]
    assert (rows[0]["sop_instance_uid"], rows[0]["patient_id"]) == ("1.2.3.4", "P7")
    assert rows[1]["sop_instance_uid"].startswith("2.25.")
    report = dcmread(out / rows[0]["report"])
    assert (report.PatientID, report.StudyDescription) == ("P7", files.MADE_UP)
    manifest = json.loads((out / "manifest.json").read_text())
    assert [Path(name).name for name in manifest["companions"]] == ["labels.csv"]


def test_a_table_names_a_picture_only_where_one_fits(tmp_path: Path, capsys: Any) -> None:
    """Two patients' pictures of one name must not both get the patient of one row."""
    for folder, grey in (("a", EIGHT), ("b", 255 - EIGHT), ("c", EIGHT // 2)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        (tmp_path / "set" / folder / "view1.png").write_bytes(written(Image.fromarray(grey)))
    (tmp_path / "set" / "d.png").write_bytes(written(Image.fromarray(EIGHT // 3)))
    whole = tmp_path / "set" / "a" / "view1.png"
    (tmp_path / "ids.csv").write_text(
        f"file,patient_id\nview1.png,P1\n{whole},P2\nelsewhere/d,P3\nnowhere.png,P4\n"
    )
    out = tmp_path / "out"
    command = ["describe", str(tmp_path / "set"), "--out", str(out), "--make-studies"]
    assert main([*command, "--identifiers", str(tmp_path / "ids.csv"), "--quiet"]) == 0
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    known = {Path(row["file"]).parent.name: row.get("patient_id") for row in rows}
    assert known == {"a": "P2", "b": None, "c": None, "set": "P3"}
    assert "  2 files have no row in ids.csv\n" in capsys.readouterr().out
