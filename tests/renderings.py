"""Compares what this project shows with what pydicom, DCMTK and GDCM show of the same files.

    python -m tests.renderings FOLDER [--sheet PNG]

For every single-frame grey DICOM file below FOLDER that can be decoded: the largest difference in
grey levels from pydicom's own functions and from DCMTK's dcmj2pnm where a window or VOI LUT of the
file fixes the value, and in stored values from GDCM's decoder. Ends with 1 where a difference is
larger than one level (or one stored value of 256, behind a lossy codestream). ``--sheet`` puts
ours beside DCMTK's for people.
"""

from __future__ import annotations

import argparse
import io
import logging
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from dicom_node.base.errors import Rejected
from worker.image import header
from worker.image.decode import LOSSY, Decoder
from worker.image.grey import GreyTable, grey_table
from worker.image.header import Header
from worker.image.part10 import read
from worker.image.stages import draw_sheet
from worker.settings import Pixels

Array = Any


def by_pydicom(path: Path, head: Header, ours: GreyTable) -> Array | None:
    """Return pydicom's grey levels, of its own decoding, by the same VOI."""
    ds = pydicom.dcmread(path, force=True)
    x = apply_modality_lut(ds.pixel_array.astype(np.int64), ds)
    display = ours.display
    if display.voi == "window" and display.window is not None and "VOILUTSequence" in ds:
        del ds.VOILUTSequence
    shown = apply_voi_lut(x.astype(np.int64) if x.dtype.kind in "iu" else x, ds).astype(float)
    if display.voi == "lut" and display.voi_lut is not None:
        low, high = 0.0, float((1 << display.voi_lut.bits) - 1)
    elif display.modality_lut is not None:
        low, high = 0.0, 2.0**display.modality_lut.declared - 1
    else:
        least = -(1 << (head.stored - 1)) if head.is_signed else 0
        ends = np.array([least, least + (1 << head.stored) - 1], float)
        low, high = sorted(ends * display.slope + display.intercept)
    levels = (shown - low) / (high - low) * 255
    return 255 - levels if display.is_inverted else levels


def by_dcmtk(path: Path, ours: GreyTable) -> Array | None:
    """Return the picture that dcmj2pnm writes, None where it writes none."""
    choice = ["+Wl", "1"] if ours.display.voi == "lut" else ["+Wi", "1"]
    with tempfile.TemporaryDirectory() as folder:
        target, plain = Path(folder, "out.png"), Path(folder, "plain.dcm")
        # JPEG-LS has a program of its own.
        done = subprocess.run(
            ["dcmdjpls", str(path), str(plain)], capture_output=True, check=False, timeout=60
        )
        path = path if done.returncode else plain
        command = ["dcmj2pnm", "--write-png", *choice, str(path), str(target)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        if done.returncode or not target.exists():
            return None
        return np.asarray(Image.open(io.BytesIO(target.read_bytes())).convert("L")).astype(float)


def by_gdcm(path: Path, shape: tuple[int, int]) -> Array | None:
    """Return the stored values that GDCM decodes, None where it decodes none."""
    try:
        import gdcm
    except ImportError:
        return None
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        return None
    image = reader.GetImage()
    size = image.GetPixelFormat().GetPixelSize()
    content = image.GetBuffer().encode("utf-8", errors="surrogateescape")
    if size not in (1, 2) or len(content) < size * shape[0] * shape[1]:
        return None
    return np.frombuffer(content, f"<u{size}", shape[0] * shape[1]).reshape(shape)


def difference(one: Array | None, other: Array | None) -> float | None:
    """Return the largest difference, None where one of them is missing."""
    if one is None or other is None or one.shape != other.shape:
        return None
    return float(np.abs(one.astype(float) - other.astype(float)).max())


def compare(path: Path, decoder: Decoder) -> tuple[list[str], list[tuple[str, Array]]] | None:
    """Return a row of the table and pictures; None if the file is not a single grey frame."""
    try:
        head = header.read(read(path))
        if head.samples not in (1, None) or head.frames != 1 or head.bits_allocated not in (8, 16):
            return None
        stored = decoder.decode(head)
    except Rejected:
        return None
    ours = grey_table(head, stored, (slice(None), slice(None)), Pixels())
    levels = ours.apply(stored)
    is_fixed = ours.display.voi in ("window", "lut") and "padding=black" not in ours.steps
    dcmtk = by_dcmtk(path, ours) if shutil.which("dcmj2pnm") and is_fixed else None
    try:
        pydicoms = by_pydicom(path, head, ours) if is_fixed else None
    except Exception as exc:
        logging.getLogger(__name__).info("pydicom: %s", type(exc).__name__)
        pydicoms = None
    found = [difference(levels, pydicoms), difference(levels, dcmtk)]
    # Bits above Bits Stored mean nothing, and decoders fill them differently.
    used, theirs = (1 << head.stored) - 1, by_gdcm(path, stored.shape)
    found.append(difference(stored & used, None if theirs is None else theirs & used))
    limits = [1.0 + 1e-6, 1.0, (1 << head.stored) / 256 if head.transfer_syntax in LOSSY else 0.0]
    words = [
        "-" if value is None else f"{value:.2f}{'' if value <= limit else ' !'}"
        for value, limit in zip(found, limits, strict=True)
    ]
    pictures = [(path.name, levels)]
    if dcmtk is not None:
        pictures.append(("DCMTK", dcmtk.astype(np.uint8)))
    return [path.name[:48], ours.steps[1], *words], pictures


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sheet", type=Path, help="ours beside DCMTK's")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    pictures, is_far = [], False
    print(f"{'file':48} {'by':20} {'pydicom':>9} {'DCMTK':>9} {'GDCM':>9}")
    with Decoder() as decoder:
        for path in sorted(options.folder.rglob("*.dcm")):
            row = compare(path, decoder)
            if row is not None:
                (name, step, *words), both = row
                print(f"{name:48} {step:20} {words[0]:>9} {words[1]:>9} {words[2]:>9}")
                pictures += both
                is_far = is_far or any("!" in word for word in words)
    if options.sheet:
        Image.fromarray(draw_sheet(pictures, 6)).save(options.sheet)
    return int(is_far)


if __name__ == "__main__":
    sys.exit(main())
