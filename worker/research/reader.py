"""A loaded model for notebooks and scripts: what ``worker.load`` returns."""

from __future__ import annotations

import atexit
import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from dicom_node.base.errors import ConfigurationError, OutOfResources, Transient
from dicom_node.base.job import FractureFound, Reason, ReportOrder
from dicom_node.base.logs import silence_values
from worker.image import files
from worker.models import is_away
from worker.service.start import pipeline
from worker.settings import load as load_settings

if TYPE_CHECKING:
    from worker.pipeline import Case, Pipeline
    from worker.settings import Settings

Image8 = npt.NDArray[np.uint8]
Radiographic = str | PathLike[str] | bytes | npt.NDArray[Any] | Dataset
"""What can be described: a file's path or bytes, grey values, or a data set with pixels."""

_EXPLICIT = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True, eq=False)
class ReadImage:
    """What a model said of one image."""

    text: str | None
    """The model's own words; None where the image was not described."""
    presence: str | None
    """``present``, ``absent`` or ``undetermined``: what the text says about fractures."""
    findings: tuple[FractureFound, ...]
    """Each fracture: bone, number, side, certainty, age."""
    picture: Image8 | None = field(repr=False)
    """What the model has seen: grey, upright, 0 = black."""
    reason: str | None
    """Why the image was not described, as ``code: sentence``."""
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    """Milliseconds of each stage."""
    report: bytes | None = field(default=None, repr=False)
    """The DICOM Structured Report, a Part 10 file; None for pictures without a study."""
    sop_instance_uid: str = ""

    def _repr_html_(self) -> str:
        """Return picture and text for a notebook."""
        from html import escape

        from worker.research.pictures import as_address

        shown = escape(self.text or self.reason or "")
        if self.picture is None:
            return f"<p>{shown}</p>"
        drawn = f'<img src="{as_address(self.picture)}">'
        return f"<figure>{drawn}<figcaption>{shown}</figcaption></figure>"


class LoadedModel:
    """A model that is loaded and warm; close it, or use it in a ``with`` block.

    Parameters
    ----------
    settings : Settings
        Of which ``[worker] model`` is loaded.
    """

    def __init__(self, settings: Settings) -> None:
        silence_values()
        self._settings = settings
        self._stack = ExitStack()
        self._pipeline: Pipeline = self._stack.enter_context(pipeline(settings))
        atexit.register(self.close)

    @property
    def version(self) -> str:
        """The model's version as reports name it: software, model, weights, code and options."""
        return self._pipeline.algorithm.version

    def describe(self, image: Radiographic, *, make_study: bool = False) -> ReadImage:
        """Describe one image.

        Parameters
        ----------
        image : path, bytes, array or Dataset
            A DICOM, PNG, JPEG, TIFF or WebP file; an array of rows and columns, of grey values in
            which more is brighter; or a data set with Pixel Data.
        make_study : bool
            Whether a picture without a study gets a report about a study that is made up for it.

        Returns
        -------
        ReadImage
            With a ``reason`` instead of a ``text`` where the image cannot be described.

        Raises
        ------
        ConfigurationError
            A file cannot be read, or an array has another form.
        Transient
            The model is away or its memory is full: later the same call may succeed.
        """
        return next(self.describe_each([image], make_study=make_study))

    def describe_each(
        self, images: Iterable[Radiographic], *, make_study: bool = False
    ) -> Iterator[ReadImage]:
        """Yield what the model says of each image, in order, a batch of the settings at a time."""
        batch: list[Radiographic] = []
        for image in images:
            batch.append(image)
            if len(batch) == self._settings.worker.batch:
                yield from self._describe_images(batch, make_study)
                batch = []
        if batch:
            yield from self._describe_images(batch, make_study)

    def close(self) -> None:
        """End the model and the decoder's process."""
        atexit.unregister(self.close)
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _describe_images(self, images: list[Radiographic], make_study: bool) -> Iterator[ReadImage]:
        cases = [self._prepare_case(_image_bytes(image), make_study) for image in images]
        self._pipeline.describe(cases)
        for case in cases:
            yield self._read_image(case)

    def _prepare_case(self, content: bytes, make_study: bool) -> Case:
        if not files.file_kind(content):
            return self._pipeline.prepare(content)
        case = self._pipeline.prepare_file(content)
        if make_study and case.radiograph is not None:
            case.source = files.make_instance(case.radiograph, content, {})
        return case

    def _read_image(self, case: Case) -> ReadImage:
        if case.trouble is not None and (is_away(case.trouble) or _is_full(case.trouble)):
            raise case.trouble
        if case.trouble is not None:
            case.reason = Reason(code="model-failed", text=str(case.trouble)[:1024])
        now = datetime.now().astimezone().replace(microsecond=0)
        conclusion = self._pipeline.build(case, ReportOrder(content_datetime=now))
        result = conclusion.result
        is_described = result.reason is None and result.text is not None
        return ReadImage(
            text=result.text if is_described else None,
            presence=result.presence if is_described else None,
            findings=tuple(result.fractures) if is_described else (),
            picture=case.radiograph.pixels if case.radiograph is not None else None,
            reason=f"{case.reason.code}: {case.reason.text}" if case.reason else None,
            warnings=tuple(result.warnings),
            timings=dict(case.stages_ms),
            report=conclusion.documents[0].content if conclusion.documents else None,
            sop_instance_uid=case.sop_instance_uid,
        )


def load(name: str | None = None, config: str | PathLike[str] | None = None) -> LoadedModel:
    """Return a loaded model; see `worker.load`."""
    settings = load_settings(Path(config) if config is not None else None)
    name = name or settings.worker.model
    if name not in settings.models:
        known = ", ".join(sorted(settings.models))
        raise ConfigurationError(f"no model {name!r}; configured: {known}")
    worker = settings.worker.model_copy(update={"model": name})
    return LoadedModel(settings.model_copy(update={"worker": worker}))


def _is_full(trouble: Transient) -> bool:
    return isinstance(trouble, OutOfResources)


def _image_bytes(image: Radiographic) -> bytes:
    """Return an image as the bytes of a file, so that each kind goes the way of files."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Dataset):
        return _of_dataset(image)
    if isinstance(image, np.ndarray):
        return _of_array(image)
    path = Path(image)
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"{path}: {exc.strerror or exc}") from exc


def _of_dataset(ds: Dataset) -> bytes:
    copy = Dataset(ds)
    known = getattr(ds, "file_meta", None) or FileMetaDataset()
    copy.file_meta = FileMetaDataset(known)
    if "TransferSyntaxUID" not in copy.file_meta:
        copy.file_meta.TransferSyntaxUID = UID(_EXPLICIT)
    file = io.BytesIO()
    try:
        copy.save_as(file, enforce_file_format=True)
    except (ValueError, AttributeError, TypeError) as exc:
        raise ConfigurationError(f"the data set cannot be written as a file: {exc}") from exc
    return file.getvalue()


def _of_array(array: npt.NDArray[Any]) -> bytes:
    """Return grey values, or colours, as a file that holds them without loss."""
    is_colour = array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8
    if array.ndim != 2 and not is_colour:
        raise ConfigurationError(f"an array of shape {array.shape}: rows and columns are needed")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    elif array.dtype.kind not in "iu":
        raise ConfigurationError(f"an array of {array.dtype}: numbers are needed")
    elif array.dtype != np.uint8:
        low, top = (int(array.min()), int(array.max())) if array.size else (0, 0)
        if low < 0 or top > 65535:
            raise ConfigurationError(f"grey values from {low} to {top}: 0 to 65535 are taken")
        array = array.astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(file, "TIFF")
    return file.getvalue()
