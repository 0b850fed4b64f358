"""Bring a pipeline up from its settings: model loaded and warm, decoder at hand."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from dicom_node.base.errors import ConfigurationError, ModelFault, OutOfResources
from dicom_node.base.job import Reason, ReportOrder
from worker.image.decode import Decoder
from worker.image.pixels import Radiograph
from worker.models import BrokenAccelerator, VisionModel, open_model
from worker.models import generation as gen
from worker.models.checkpoint import Unacceptable
from worker.models.fitting import BatchLimit, store_path
from worker.pipeline import Case, Pipeline
from worker.service import devices, heartbeat
from worker.service.preparers import Preparers
from worker.settings import Settings

logger = logging.getLogger(__name__)


@contextmanager
def pipeline(settings: Settings, preparers: int = 0) -> Iterator[Pipeline]:
    """Yield a ready pipeline and clean up behind it.

    Parameters
    ----------
    settings : Settings
        worker.toml.
    preparers : int
        Processes that make pictures and reports; without them this one does.

    Raises
    ------
    ConfigurationError, ModelFault
        The model's table or its files are not acceptable.
    """
    started = time.perf_counter()
    name = settings.worker.model
    options = settings.models[name].model_dump()
    model = open_model(name, options, devices.choose_device(settings.worker.device))
    with (
        Decoder(
            timeout=settings.pixels.decode_timeout, memory=settings.pixels.decode_memory
        ) as decoder,
        ExitStack() as stack,
    ):
        others = Preparers(preparers) if preparers else None
        if others is not None:
            stack.callback(others.close)
        try:
            _bring_up(model, f"models.{name}", str(options["engine"]))
            limit = _batch_limit(model, settings)
            ready = Pipeline(model, decoder, settings.pixels, limit, others)
            if others is not None:
                others.begin(model.info, settings.pixels, invented_instance())
            rehearse_report(ready)
            _fill_memory(ready)
            seconds = time.perf_counter() - started
            logger.info("model %s is ready after %.1f s", model.info.version, seconds)
            yield ready
        finally:
            model.close()


def _bring_up(model: VisionModel, table: str, engine: str) -> None:
    """Load and try a model: what fails now is the configuration's fault (exit 78)."""
    try:
        model.load()
        model.warm_up()
    except (ConfigurationError, BrokenAccelerator):
        raise
    except OutOfResources as exc:
        raise Unacceptable(f"{table}: {exc}; free memory or set quantization") from exc
    except ModelFault as exc:
        raise Unacceptable(f"{table}.engine: {engine} fails at the first try: {exc}") from exc


def _batch_limit(model: VisionModel, settings: Settings) -> BatchLimit:
    """Return the largest batch: what fitted last on this device, else what should fit."""
    device = heartbeat.device(model.info.device).name
    limit = BatchLimit(settings.worker.batch, f"{model.info.version}|{device}", store_path())
    estimate = getattr(model, "most_at_once", None)
    if estimate is not None and not limit.is_known:
        limit.most = estimate(settings.worker.batch)
    return limit


def _fill_memory(ready: Pipeline) -> None:
    """Let an accelerator describe a whole batch once: memory that fills does so now."""
    if ready.info.device.partition(":")[0] in ("cpu", "server") or ready.limit.most == 1:
        return
    picture = Radiograph(gen.invented_pixels(), "invented")
    cases = [Case(radiograph=picture) for _ in range(ready.limit.most)]
    ready.describe(cases)
    for case in cases:
        if case.trouble is not None:
            raise case.trouble


def rehearse_report(ready: Pipeline) -> None:
    """Report on an invented picture: the first report imports what all later ones need."""
    order = ReportOrder(content_datetime=datetime.now(UTC), objects=("sr", "basic-text"))
    case = ready.prepare(invented_instance())
    case.reason = case.reason or Reason(code="rehearsal", text="Nobody's picture.")
    ready.build(case, order)


def invented_instance() -> bytes:
    """Return a DX Instance of nobody, from black to white."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = DigitalXRayImageStorageForPresentation, "2.25.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.2", "2.25.3"
    ds.Modality, ds.PhotometricInterpretation = "DX", "MONOCHROME2"
    ds.Rows = ds.Columns = 256
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = bytes(range(256)) * 256
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = BytesIO()
    ds.save_as(content, enforce_file_format=True)
    return content.getvalue()
