"""The keys of each engine's ``[models.NAME]`` table, checked strictly before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicom_node.errors import ConfigurationError

CHEXFRACT_PROMPT = "<|image_1|>\nDescribe bones on this chest X-ray"
"""The one sentence that the ChexFract models were trained to answer."""

Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


class Options(BaseModel):
    """What every engine's table may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    engine: str
    licence_accepted_by: str = ""
    """Who accepted the model's licence; without it only demonstration models are loaded."""
    licence: str = ""
    """The licence's name where it is another than the engine's usual one."""
    demonstration: bool = False
    """The answers mean nothing for patients: reports say so."""
    prompt: str = CHEXFRACT_PROMPT
    max_new_tokens: int = Field(default=256, ge=1, le=8192)
    max_time: float = Field(default=60.0, gt=0)
    """Seconds after which an answer is cut off."""


class Weights(Options):
    """Keys of engines that load a folder of weights."""

    path: str = Field(min_length=1)
    """A local folder, or ``builtin:phantom``; never the name of a model on a hub."""
    revision: str = ""
    """The hub's commit from which the folder was fetched, for the record."""
    manifest: str = ""
    """A list in ``sha256sum`` form; empty: the folder's own ``SHA256SUMS``."""
    manifest_sha256: Sha256 = ""
    """Pins the list itself."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """``auto``: bfloat16 on an accelerator, float32 on a CPU."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """``auto``: sdpa where the model's code offers it, else eager."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Of the language model only; needs the package bitsandbytes."""
    memory_reserve: float = Field(default=1.15, ge=1.0)
    """Memory wanted on the accelerator, as a multiple of the size of the weights."""
    python: str = ""
    """Another virtual environment's interpreter, in which the engine then runs."""
    start_timeout: float = Field(default=900.0, gt=0)
    """Seconds that an engine in another interpreter may take to load."""


class ChexFract(Weights):
    """``engine = "chexfract"``."""


AnyOptions = TypeVar("AnyOptions", bound=Options)


def check(kind: type[AnyOptions], name: str, table: dict[str, Any]) -> AnyOptions:
    """Return the table ``[models.NAME]`` as `kind`.

    Raises
    ------
    ConfigurationError
        A key is unknown or has a wrong type or value; the message names each key's path.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as exc:
        faults = "; ".join(_fault(name, dict(fault)) for fault in exc.errors(include_input=False))
        raise ConfigurationError(faults) from exc


def _fault(name: str, fault: dict[str, Any]) -> str:
    where = ".".join(["models", name, *(str(part) for part in fault["loc"])])
    what = "unknown key" if fault["type"] == "extra_forbidden" else str(fault["msg"])
    return f"{where}: {what}"


def expand(path: str) -> Path:
    """Return `path` with ``~`` replaced."""
    return Path(path).expanduser()
