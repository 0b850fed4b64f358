"""A picture of an Instance, drawn in a process of its own: what is in the file is not trusted.

``python -m dicom_node.web.preview WINDOW KIND LARGEST`` reads a file from standard input and writes
a PNG or JPEG. It needs NumPy and Pillow, which come with the worker; a node without them shows no
picture.
"""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue

from dicom_node.base.confine import child_environment, confine, python_command
from dicom_node.base.errors import Busy, NotFound
from dicom_node.base.translation import mark
from dicom_node.standard import pixel_shape
from dicom_node.web import decoding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom import Dataset

WINDOWS = {
    "sent": mark("As sent"),
    "bone": mark("Bone"),
    "lung": mark("Lung"),
    "local": mark("Local contrast"),
    "whole": mark("Whole range"),
    "inverted": mark("Inverted"),
}
"""Presets and their names. Radiographs have no absolute scale, so parts of the range are shown."""

DATA = "data"
"""Instead of a key of `WINDOWS`: 16 bits of all values, for a page that has a window of its own."""
FULL = "full"
"""As `DATA`, with every pixel of the image."""
DEEP = (DATA, FULL, "bone-data", "local-data")
"""What the viewer of the pages asks for; the last two are presets, 16 bits of what they show."""

FUNCTIONS = ("linear", "linear-exact", "sigmoid")
"""How a window becomes grey (PS3.3 C.11.2.1.2, C.11.2.1.3; PS3.18 8.3.5.1.4 names them so)."""
EXACT = 1
"""Place of linear-exact among `FUNCTIONS`."""

LARGEST_DATA = 2048
LARGEST = 1024
"""Pixels of the longer side."""

TIME_S = 20
"""Processor time."""
WAIT_S = 60
"""Longest wait: a machine with much to do is not a fault of the image."""
MEMORY = 4 << 30
_KEPT = 96 << 20
"""Bytes of pictures that are kept."""


class Previews:
    """Draws pictures, two at a time, and keeps the last ones."""

    def __init__(self) -> None:
        self._drawing = threading.BoundedSemaphore(2)
        self._kept: OrderedDict[tuple[Path, str, str, int], bytes] = OrderedDict()

    def why_not(self) -> str:
        """Return why there are no pictures here, empty where there are."""
        missing = [name for name in ("numpy", "PIL") if find_spec(name) is None]
        return "not installed" if missing else ""

    def png(self, path: Path, window: str) -> bytes:
        """Return the picture as the pages show it; raises as `picture`."""
        return self.picture(path, window)

    def picture(self, path: Path, window: str, kind: str = "PNG", largest: int = LARGEST) -> bytes:
        """Return the picture.

        Parameters
        ----------
        window : str
            As `draw` takes it.
        kind : str
            ``PNG`` or ``JPEG``.
        largest : int
            Most pixels of the longer side; 0 for all there are.

        Raises
        ------
        NotFound
            The file cannot be drawn.
        Busy
            Too many pictures are being drawn.
        """
        key = (path, window, kind, largest)
        if (kept := self._kept.get(key)) is not None:
            return kept
        if not self._drawing.acquire(timeout=WAIT_S):
            raise Busy("too many pictures are being drawn")
        try:
            picture = _draw_apart(path, window, kind, largest)
        finally:
            self._drawing.release()
        self._kept[key] = picture
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT:
            self._kept.popitem(last=False)
        return picture


def _draw_apart(path: Path, window: str, kind: str, largest: int) -> bytes:
    command = python_command("-m", __name__, window, kind, str(largest))
    environment = child_environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    try:
        with path.open("rb") as file:
            done = subprocess.run(
                command,
                stdin=file,
                capture_output=True,
                check=False,
                timeout=WAIT_S,
                env=environment,
            )
    except OSError as exc:
        raise NotFound("the image is not here any more") from exc
    except subprocess.TimeoutExpired as exc:
        raise NotFound("the image takes too long to draw") from exc
    # a process apart, without secrets and with limits: pixels are decoded by C code, and strangers
    # write them
    if done.returncode or not done.stdout.startswith((b"\x89PNG", b"\xff\xd8")):
        raise NotFound("the image cannot be drawn")
    return done.stdout


def draw(file: BinaryIO, window: str, kind: str = "PNG", largest: int = LARGEST) -> bytes:
    """Return a picture of the first frame.

    Parameters
    ----------
    file : binary file
        A Part 10 file.
    window : str
        A key of `WINDOWS`; center, width and one of `FUNCTIONS` with commas between them; or one
        of `DEEP`: 16 bits of grey, bright as shown, whose text chunks ``low`` and ``high`` name
        the values of black and white, ``center``, ``width`` and ``function`` (its place in
        `FUNCTIONS`) the window, ``lung`` and ``whole`` the ends of these presets, ``rows`` and
        ``columns`` the size of the image, ``across`` and ``down`` by how much columns and rows
        are drawn larger.
    kind : str
        ``PNG`` or ``JPEG``, of eight bits.
    largest : int
        Most pixels of the longer side; 0 for all there are.
    """
    import numpy as np
    from PIL import Image
    from pydicom import dcmread
    from pydicom.pixels.utils import pixel_array

    dataset = _with_points(dcmread(file))
    decoding.add_decoders(dataset.file_meta.get("TransferSyntaxUID", ""))
    pixels = pixel_array(dataset, index=0)
    if window in DEEP:
        return _draw_deep(pixels, dataset, window)
    if dataset.get("SamplesPerPixel", 1) == 1:
        pixels = np.rint(_shown_grey(pixels, dataset, window) * 255)
    picture = Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8)))
    across, down = _enlarged_by(dataset)
    if (across, down) != (1.0, 1.0):
        size = (round(picture.width * across), round(picture.height * down))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    if largest:
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    drawn = io.BytesIO()
    picture.save(drawn, kind, quality=90)
    return drawn.getvalue()


def _shown_grey(pixels: NDArray[Any], dataset: Dataset, window: str) -> NDArray[np.float32]:
    """Return grey values as a viewer shows them: 0 black, 1 white (DICOM PS3.4 N.2)."""
    import numpy as np
    from pydicom.pixels.processing import apply_modality_lut

    from dicom_node.web import contrast

    values = np.asarray(apply_modality_lut(pixels, dataset), np.float32)
    is_inverse = _is_inverse(dataset)
    if window == "local" or window in contrast.SHARES:
        return contrast.preset(-values if is_inverse else values, window)
    if "," in window:
        center, width, function = window.split(",")
        shown = _under_window(values, float(center), float(width), function)
    else:
        shown = _as_sent(values, dataset)
    return 1 - shown if is_inverse != (window == "inverted") else shown


def _is_inverse(dataset: Dataset) -> bool:
    """Whether low values are bright; Presentation LUT Shape wins, as in DCMTK and the worker."""
    shape = dataset.get("PresentationLUTShape")
    if shape in ("INVERSE", "IDENTITY"):
        return bool(shape == "INVERSE")
    return bool(dataset.get("PhotometricInterpretation") == "MONOCHROME1")


def _draw_deep(pixels: NDArray[Any], dataset: Dataset, window: str) -> bytes:
    """Return values, or what a preset shows of them, as 16 bits of grey."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from dicom_node.web import contrast

    across, down = _enlarged_by(dataset)
    if pixels.ndim != 2:
        raise ValueError("colours have no window")
    is_inverse = _is_inverse(dataset)
    values, details = _values_and_window(pixels, dataset)
    if (preset := window.removesuffix("-data")) != window:
        values = contrast.preset(-values if is_inverse else values, preset)
        details, is_inverse = {"center": 0.5, "width": 1.0, "function": EXACT}, False
    rows, columns = values.shape
    small = values
    if window != FULL and max(rows, columns) > LARGEST_DATA:
        picture = Image.fromarray(values)
        picture.thumbnail((LARGEST_DATA, LARGEST_DATA), Image.Resampling.BOX)
        small = np.asarray(picture)
    low, high = float(small.min()), float(small.max())
    shown = _spread_between(small, low, high)
    if is_inverse:
        shown, low, high = 1 - shown, high, low
    text = PngInfo()
    details |= {"low": low, "high": high, "across": across, "down": down}
    for name, value in details.items():
        text.add_text(name, f"{value:g}")
    text.add_text("rows", str(rows))
    text.add_text("columns", str(columns))
    bright = -values if is_inverse else values
    for name in ("lung", "whole"):
        inside = bright[contrast.field(bright)] if name != "whole" else bright
        ends = np.percentile(inside, contrast.SHARES[name]) * (-1 if is_inverse else 1)
        text.add_text(name, f"{ends[0]:g} {ends[1]:g}")
    file = io.BytesIO()
    deep = Image.fromarray(np.rint(shown * 65535).astype(np.uint16))
    deep.save(file, "PNG", pnginfo=text, compress_level=2)
    return file.getvalue()


def _values_and_window(
    pixels: NDArray[Any], dataset: Dataset
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Return values and the window that shows them as sent; where a VOI LUT does, its output."""
    import numpy as np
    from pydicom.pixels.processing import apply_modality_lut

    values = np.asarray(apply_modality_lut(pixels, dataset), np.float32)
    if (window := _window_of(dataset)) is not None:
        center, width, function = window
        return values, {"center": center, "width": width, "function": FUNCTIONS.index(function)}
    if dataset.get("VOILUTSequence"):
        looked_up, most = _looked_up(values, dataset)
        return looked_up, {"center": most / 2, "width": most, "function": EXACT}
    low, high = (float(end) for end in np.percentile(values, (0.1, 99.9)))
    width = max(high - low, 1e-6)
    return values, {"center": (low + high) / 2, "width": width, "function": EXACT}


def _window_of(dataset: Dataset) -> tuple[float, float, str] | None:
    """Return center, width and function of the file's first window; None without it."""
    centers, widths = (
        _element_numbers(dataset, "WindowCenter"),
        _element_numbers(dataset, "WindowWidth"),
    )
    if not centers or not widths or not widths[0] > 0:
        return None
    named = str(dataset.get("VOILUTFunction") or "").strip().lower().replace("_", "-")
    return centers[0], widths[0], named if named in FUNCTIONS else FUNCTIONS[0]


def _as_sent(values: NDArray[np.float32], dataset: Dataset) -> NDArray[np.float32]:
    """Return values under the window or VOI LUT of the file, else over nearly all of them."""
    import numpy as np

    if (window := _window_of(dataset)) is not None:
        return _under_window(values, *window)
    if dataset.get("VOILUTSequence"):
        looked_up, most = _looked_up(values, dataset)
        return _spread_between(looked_up, 0.0, most)
    low, high = np.percentile(values, (0.1, 99.9))
    return _spread_between(values, float(low), float(high))


def _under_window(
    values: NDArray[np.float32], center: float, width: float, function: str
) -> NDArray[np.float32]:
    """Return values under a window; a function that is not known is linear (PS3.3 C.11.2.1.2)."""
    import numpy as np

    if function == "sigmoid":
        # PS3.3 C.11.2.1.3.1; clipped, since exp overflows float32 beyond 88
        steps = np.clip(-4 * (values - center) / max(width, 1e-6), -80, 80)
        return np.asarray(1 / (1 + np.exp(steps)), np.float32)
    if function == "linear-exact":
        return _spread_between(values, center - width / 2, center + width / 2)
    # PS3.3 C.11.2.1.2.1: half a value and one value less than the exact form
    return _spread_between(values, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)


def _looked_up(values: NDArray[np.float32], dataset: Dataset) -> tuple[NDArray[np.float32], float]:
    """Return values behind the VOI LUT of the file, and the largest that it can give."""
    import numpy as np
    from pydicom.pixels.processing import apply_voi

    looked_up = np.asarray(apply_voi(values.astype(np.int32), dataset), np.float32)
    # By the bits that its entries use: devices declare others.
    return looked_up, float(2 ** max(int(looked_up.max()).bit_length(), 1) - 1)


def _spread_between(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    import numpy as np

    return np.asarray(np.clip((values - low) / max(high - low, 1e-6), 0, 1), np.float32)


def _enlarged_by(dataset: Dataset) -> tuple[float, float]:
    """Return by how much columns and rows are drawn larger where pixels are not square."""
    found = (_element_numbers(dataset, keyword) for keyword in pixel_shape.SHAPES)
    ratios = [height / width for height, width in (f for f in found if len(f) == 2 and min(f) > 0)]
    return pixel_shape.enlarged(pixel_shape.shape_of(ratios) or 1.0)


_DECIMALS = ("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept")


def _with_points(dataset: Dataset) -> Dataset:
    """Return the header with points for the decimal commas that some devices write."""
    for keyword in _DECIMALS + pixel_shape.SHAPES[:3]:
        found = dataset.get_item(keyword) if keyword in dataset else None
        if isinstance(found, RawDataElement) and b"," in (found.value or b""):
            dataset[keyword] = found._replace(value=found.value.replace(b",", b"."))
    return dataset


def _element_numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Return the numbers of an element, none where it does not hold any."""
    try:
        found = dataset.get(keyword)
        several = found if isinstance(found, (list, tuple, MultiValue)) else [found]
        return [float(number) for number in several]
    except (TypeError, ValueError, OverflowError):
        return []


def _limit_process() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (TIME_S, TIME_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # the picture goes out by a pipe: no file may be written
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


if __name__ == "__main__":
    _limit_process()
    confine()
    sys.stdout.buffer.write(draw(sys.stdin.buffer, sys.argv[1], sys.argv[2], int(sys.argv[3])))
