"""Writes exactly what a model sees of a file, or says why it would not see it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dicom_node.base.errors import ConfigurationError, Rejected
from worker.image import files
from worker.image.decode import Decoder
from worker.image.part10 import MOST_BYTES, read
from worker.image.pixels import radiograph
from worker.image.stages import draw_sheet, stages
from worker.research.sources import Source, walk
from worker.settings import Pixels

ENDING = ".png"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one file."""

    file: str
    sop_instance_uid: str | None
    picture: str | None
    """The PNG; None when there is none."""
    steps: str = ""
    warnings: tuple[str, ...] = ()
    reason: str = ""


def write_pictures(
    paths: Sequence[Path], out: Path, options: Pixels, *, with_stages: bool = False
) -> list[Written]:
    """Write the picture of each file as an 8-bit grey PNG.

    Parameters
    ----------
    paths : sequence of Path
        What `describe` takes.
    out : Path
        The PNG of one file; of several a folder, which keeps their names.
    options : Pixels
        ``[pixels]`` of worker.toml.
    with_stages : bool
        Whether the picture of each step is written instead, on one sheet.

    Raises
    ------
    ConfigurationError
        A path does not exist, or `out` cannot be written.
    """
    sources = walk(paths).sources
    is_one = len(sources) == 1 and not out.is_dir() and out.suffix.lower() == ENDING
    if not is_one and out.suffix.lower() == ENDING:
        raise ConfigurationError(f"--out: {len(sources)} files; name a folder for their pictures")
    rows = []
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with Decoder(options.decode_timeout, options.decode_memory) as decoder:
            for number, source in enumerate(sources, 1):
                target = out if is_one else out / f"{number:04d}-{Path(source.name).stem[:80]}.png"
                rows.append(_write_picture(source, target, decoder, options, with_stages))
    except OSError as exc:
        raise ConfigurationError(f"--out: {exc.filename or out}: {exc.strerror}") from exc
    return rows


def _write_picture(
    source: Source, target: Path, decoder: Decoder, options: Pixels, with_stages: bool
) -> Written:
    uid: str | None = None
    try:
        content = _file_content(source)
        if files.file_kind(content):
            found = files.picture(content, options)
            shown = draw_sheet([("the picture", found.pixels)], 1) if with_stages else found.pixels
        else:
            ds = read(content)
            uid = str(ds.get("SOPInstanceUID", "")) or None
            found = radiograph(ds, decoder, options)
            shown = draw_sheet(stages(ds, decoder, options)) if with_stages else found.pixels
    except Rejected as exc:
        return Written(source.name, uid, None, reason=f"{exc.code}: {exc.text}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(encode_png(shown))
    return Written(source.name, uid, str(target), found.steps, found.warnings)


def _file_content(source: Source) -> bytes:
    try:
        content = source.read()
    except OSError as exc:
        raise Rejected("unreadable", exc.strerror or "The file cannot be read.") from exc
    if len(content) > MOST_BYTES:
        raise Rejected("too-large", f"The file exceeds {MOST_BYTES} bytes.")
    return content


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return grey levels as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
