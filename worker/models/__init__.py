"""The one protocol that every engine offers, and `open_model`; torch is known only below here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from dicom_node.base.errors import OutOfResources, Transient, Unreachable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.image.pixels import Radiograph

ENGINES = {
    "chexfract": "worker.models.chexfract",
    "maira2": "worker.models.maira2",
    "chexagent": "worker.models.chexagent",
    "cxr_llava": "worker.models.cxr_llava",
    "llm_cxr": "worker.models.llm_cxr",
    "chat_server": "worker.models.chat_server",
}
"""Engine name -> module with ``build(name, options, device)``."""

Progress = Callable[[], None]
"""Called whenever work has moved on, for example after each generated token."""


class BrokenAccelerator(OutOfResources):
    """The accelerator fails whatever it is asked: only a new process can use it again."""


class Unexplained(Unreachable):
    """The engine fails at these pictures each time: by them or by itself, nobody can tell."""


def is_away(fault: Transient) -> bool:
    """Whether an engine fails so whatever it is asked: no picture is to blame."""
    may_be_the_pictures = isinstance(fault, OutOfResources | Unexplained)
    return isinstance(fault, BrokenAccelerator) or not may_be_the_pictures


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a report and a page say of a model."""

    name: str
    version: str
    """Model, revision and weights in one short text, for example ``phantom-1.3fa9c2d1``."""
    prompt: str
    parameters: dict[str, str] = field(default_factory=dict)
    """Algorithm Parameters (111002, DCM), for example weights hash and decoding."""
    language: str = "en"
    licence: str = ""
    licence_accepted_by: str = ""
    demonstration: bool = False
    device: str = "cpu"
    has_regions: bool = False
    """Whether reports show the boxes that this model draws around fractures."""
    outside: Literal["", "warn", "refuse"] = ""
    """Where pictures leave this process for a server: what becomes of those with text in them."""
    files: str = ""
    """What the sums of its files were compared with, in words; empty where it has none here."""


@dataclass(frozen=True, slots=True)
class Region:
    """A box around something that a model speaks of, in shares of the picture's width and height.

    The origin is the picture's upper left corner; each number lies between 0 and 1.
    """

    label: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Description:
    """What a model said of one radiograph."""

    text: str
    tokens: int
    finish_reason: str
    """``stop`` (a stop token), ``length`` (max_new_tokens) or ``time`` (max_time)."""
    seconds: float
    """Wall time of the call that made it; shared by a batch."""
    regions: tuple[Region, ...] = ()
    """Where the model sees it, from engines that say so."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A picture and what a model's processor made of it; `VisionModel.describe` takes it."""

    pixels: NDArray[np.uint8]
    inputs: Any
    """The model's own affair, for example tensors on the CPU."""


@runtime_checkable
class Prepares(Protocol):
    """A model that makes its inputs in advance, while others are at the accelerator."""

    def prepare(self, radiograph: Radiograph) -> Prepared:
        """Make the model's inputs of a picture; in any thread.

        Raises
        ------
        ModelFault
            The model's processor fails on this picture.
        """


class VisionModel(Protocol):
    """A vision-language model that describes radiographs."""

    @property
    def info(self) -> ModelInfo:
        """What a report says of this model; may be asked before `load`."""

    def load(self) -> None:
        """Bring the weights to the device.

        Raises
        ------
        ModelFault
            Files are altered or do not fit (also a `ConfigurationError`: exit 78).
        ConfigurationError
            The device is not there.
        """

    def warm_up(self) -> None:
        """Run once on an invented picture, so that the first job is not the slowest."""

    def describe(
        self, radiographs: Sequence[Radiograph | Prepared], progress: Progress | None = None
    ) -> list[Description]:
        """Return one description per radiograph, in order.

        Raises
        ------
        OutOfResources
            The accelerator's memory is full; fewer at a time may pass.
        BrokenAccelerator
            The accelerator is lost to this process, which should end.
        Unexplained
            It fails each time; fewer at a time may pass.
        Transient
            The engine is away, whatever it is asked.
        ModelFault
            This input cannot be described by this model.
        """

    def close(self) -> None:
        """Give the memory back."""


def open_model(name: str, options: dict[str, Any], device: str = "auto") -> VisionModel:
    """Return the engine of ``[models.NAME]``, not yet loaded.

    Parameters
    ----------
    name : str
        The table's name.
    options : dict
        The table's keys, ``engine`` among them.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    ConfigurationError
        The engine is unknown or one of its keys is wrong.
    """
    from worker.models.options import Weights, check_table, options_kind

    engine = str(options.get("engine", ""))
    checked = check_table(options_kind(name, engine), name, options)
    if isinstance(checked, Weights) and checked.python:
        from worker.models.child import ChildModel

        return ChildModel(name, checked, device)
    model: VisionModel = importlib.import_module(ENGINES[engine]).build(name, checked, device)
    return model
