"""Small pictures of the images of a run, for its page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import ValidationError

from dicom_node.base.errors import ChexFractError, ConfigurationError, Rejected
from worker.image import files
from worker.image.decode import Decoder
from worker.image.part10 import read
from worker.image.pixels import radiograph
from worker.research.sources import Source, walk
from worker.settings import Pixels

MOST = 60
"""Pictures on a page: 60 of them are about a megabyte."""
_SIDE = 300


def thumbnails(run: Path, rows: Iterable[dict[str, Any]], pixels: dict[str, Any]) -> dict[str, str]:
    """Return the pictures of some rows as ``data:`` addresses, by the rows' files.

    A file that is gone, or of which there is no picture, is left out.
    """
    try:
        options = Pixels.model_validate(pixels)
    except ValidationError:
        options = Pixels()
    found: dict[str, str] = {}
    archives: dict[Path, dict[str, Source]] = {}
    with Decoder(options.decode_timeout, options.decode_memory) as decoder:
        for row in rows:
            if len(found) >= MOST:
                break
            content = _image_content(run, row, archives)
            if content is None:
                continue
            try:
                if files.file_kind(content):
                    shown = files.picture(content, options).pixels
                else:
                    shown = radiograph(read(content), decoder, options).pixels
            except (Rejected, ChexFractError):
                continue
            found[str(row["file"])] = as_address(shown)
    return found


def as_address(pixels: npt.NDArray[np.uint8]) -> str:
    """Return a small picture as an address that holds it."""
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _image_content(
    run: Path, row: dict[str, Any], archives: dict[Path, dict[str, Source]]
) -> bytes | None:
    path = run / row["image"] if row.get("image") else Path(str(row["file"]))
    try:
        if path.is_file():
            return path.read_bytes()
        archive = next((parent for parent in path.parents if parent.is_file()), None)
        if archive is None:
            return None
        if archive not in archives:
            archives[archive] = {source.name: source for source in walk([archive]).sources}
        source = archives[archive].get(str(path))
        return source.read() if source is not None else None
    except (OSError, RuntimeError, ConfigurationError):
        return None
