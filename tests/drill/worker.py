"""The real worker with a quick model, which suffers what a picture tells it to suffer."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from dicom_node.base import logs
from dicom_node.base.errors import ConfigurationError
from worker import settings
from worker.image.pixels import Radiograph
from worker.models import Description, ModelInfo, Progress, VisionModel
from worker.service import start, tasks

from . import pictures


class DrillModel:
    """Says which rib the picture shows; `version` is part of every report's identity."""

    def __init__(self, version: str, seconds: float) -> None:
        self._seconds = seconds
        self.info = ModelInfo(
            name="drill", version=f"drill-{version}", prompt="drill", demonstration=True
        )

    def load(self) -> None:
        """Nothing is to be loaded."""

    def warm_up(self) -> None:
        """Nothing gets warm."""

    def close(self) -> None:
        """Nothing is held."""

    def describe(
        self, radiographs: Sequence[Radiograph], progress: Progress | None = None
    ) -> list[Description]:
        """Read each picture's marks and do what they say."""
        said = []
        for radiograph in radiographs:
            kind, rib, side = pictures.read(radiograph.pixels)
            if kind == "killing":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "hanging":
                time.sleep(86400)
            if kind == "hungry":
                bytearray(1 << 62)
            time.sleep(self._seconds)
            text = f"There is an acute fracture of the {side} {rib}th rib."
            said.append(Description(text, 12, "stop", self._seconds * len(radiographs)))
            if progress:
                progress()
        return said


def main() -> None:
    """Take jobs until stopped."""
    options = argparse.ArgumentParser()
    options.add_argument("--config", type=Path, required=True)
    options.add_argument("--version", default="1")
    options.add_argument("--seconds", type=float, default=0.02)
    chosen = options.parse_args()
    logs.start(logging.INFO)
    configured = settings.load(chosen.config)
    if configured.worker.secret is None:
        raise ConfigurationError("CHEXFRACT_WORKER_WORKER__SECRET is not set")
    model: VisionModel = DrillModel(chosen.version, chosen.seconds)
    start.open_model = lambda name, options, device: model
    with start.pipeline(configured, configured.worker.preparer_count) as ready:
        tasks.run(configured, ready, configured.worker.secret.get_secret_value())


if __name__ == "__main__":
    main()
