"""The real worker with a model of no cost: what it takes beside a model shows."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from dicom_node.base import logs
from dicom_node.base.errors import ConfigurationError
from worker import settings
from worker.image.pixels import Radiograph
from worker.models import Description, ModelInfo, Progress, VisionModel
from worker.service import start, tasks

TEXT = (
    "There is a minimally displaced fracture of the left 7th rib. No pneumothorax. "
    "Old healed fracture of the right clavicle."
)


class FreeModel:
    """Says the same of each picture, at once."""

    info = ModelInfo(name="free", version="free-1", prompt="free", demonstration=True)

    def load(self) -> None:
        """Nothing is to be loaded."""

    def warm_up(self) -> None:
        """Nothing gets warm."""

    def close(self) -> None:
        """Nothing is held."""

    def describe(
        self, radiographs: Sequence[Radiograph], progress: Progress | None = None
    ) -> list[Description]:
        """Return the text, once for each picture."""
        return [Description(TEXT, 12, "stop", 0.0) for _ in radiographs]


def main() -> None:
    """Take jobs until stopped."""
    options = argparse.ArgumentParser()
    options.add_argument("--config", type=Path, required=True)
    chosen = options.parse_args()
    logs.start(logging.WARNING)
    configured = settings.load(chosen.config)
    if configured.worker.secret is None:
        raise ConfigurationError("CHEXFRACT_WORKER_WORKER__SECRET is not set")
    model: VisionModel = FreeModel()
    start.open_model = lambda name, options, device: model
    with start.pipeline(configured, configured.worker.preparer_count) as ready:
        tasks.run(configured, ready, configured.worker.secret.get_secret_value())


if __name__ == "__main__":
    main()
