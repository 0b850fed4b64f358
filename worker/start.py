"""Bring a pipeline up from its settings: model loaded and warm, decoder at hand."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from worker.decode import Decoder
from worker.models import open_model
from worker.pipeline import Pipeline
from worker.settings import Settings

logger = logging.getLogger(__name__)


@contextmanager
def pipeline(settings: Settings) -> Iterator[Pipeline]:
    """Yield a ready pipeline and clean up behind it.

    Raises
    ------
    ConfigurationError, ModelFault
        The model's table or its files are not acceptable.
    """
    started = time.perf_counter()
    name = settings.worker.model
    options = settings.models[name].model_dump()
    model = open_model(name, options, settings.worker.device)
    with Decoder(
        timeout=settings.pixels.decode_timeout, memory=settings.pixels.decode_memory
    ) as decoder:
        try:
            model.load()
            model.warm_up()
            seconds = time.perf_counter() - started
            logger.info("model %s is ready after %.1f s", model.info.version, seconds)
            yield Pipeline(model, decoder, settings.pixels)
        finally:
            model.close()
