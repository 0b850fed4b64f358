"""The licence gate: real weights stay shut until someone is named who accepted their terms."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dicom_node.base.errors import ConfigurationError

if TYPE_CHECKING:
    from worker.models.options import Options

logger = logging.getLogger(__name__)

USUAL = {
    "chexfract": "research only, non-commercial: MSRLA (MAIRA-2) or CC-BY-NC-4.0 (CheXagent)",
    "maira2": "Microsoft Research License Agreement (MSRLA): research only",
    "chexagent": "CC-BY-NC-4.0: non-commercial",
    "cxr_llava": "CC-BY-NC-4.0: non-commercial",
    "llm_cxr": "research only, no licence named by its authors",
    "chat_server": "that of the served model",
}
"""Engine -> terms of the weights it was written for."""


def of(options: Options) -> str:
    """Return the licence that holds for this model."""
    return options.licence or USUAL[options.engine]


def gate(name: str, options: Options, is_demonstration: bool) -> None:
    """Refuse real weights whose licence nobody has accepted.

    Raises
    ------
    ConfigurationError
        ``licence_accepted_by`` is empty.
    """
    if is_demonstration or options.licence_accepted_by.strip():
        return
    raise ConfigurationError(
        f"models.{name}.licence_accepted_by: empty; the weights are under: {of(options)}. Read "
        f"the terms, then name here who accepted them"
    )


def log_acceptance(name: str, options: Options, is_demonstration: bool) -> None:
    """Leave in the log who accepted what."""
    if is_demonstration:
        logger.info("model %s is for demonstration: its answers mean nothing for patients", name)
    else:
        who = options.licence_accepted_by
        logger.info("model %s: licence %r accepted by %r", name, of(options), who)
