"""The keys of each engine's ``[models.NAME]`` table, checked strictly before anything is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from dicom_node.base import toml
from dicom_node.base.errors import ConfigurationError

CHEXFRACT_PROMPT = "<|image_1|>\nDescribe bones on this chest X-ray"
"""The one sentence that the ChexFract models were trained to answer."""

CHEXAGENT_PROMPT = (
    'Please provide a detailed description of "Everything else (e.g., mediastinal contours, bones, '
    'soft tissues, tubes, valves, and pacemakers)" in the chest X-ray'
)
"""Of the sections that CheXagent describes, that with the bones."""
GROUNDED_TOKENS = 450

IMAGE_MARK = re.compile(r"<\|?image(_\d{1,3})?\|?>")
"""Where a prompt has its picture, as the code of such models spells it."""


def _with_image_mark(prompt: str) -> str:
    if IMAGE_MARK.search(prompt) is None:
        raise ValueError("has no <|image_1|> where the picture goes: the model would not see it")
    return prompt


Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


class Options(BaseModel):
    """What every engine's table may hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    engine: str
    """Which engine reads: chexfract, maira2, chexagent, cxr_llava, llm_cxr, chat_server."""
    licence_accepted_by: str = ""
    """Who accepted the model's licence; without it only demonstration models are loaded."""
    licence: str = ""
    """The licence's name where it is not the usual licence of the engine."""
    demonstration: bool = False
    """The answers mean nothing for patients: reports say so. A folder of weights wants its licence
    accepted all the same; only a folder that holds a file DEMONSTRATION does not."""
    prompt: str = CHEXFRACT_PROMPT
    """What the model is asked."""
    max_new_tokens: int = Field(default=256, ge=1, le=8192)
    """Most tokens of an answer."""
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
    quantization: Literal["none", "8bit", "4bit", "int8", "fp8"] = "none"
    """Of the language model only: ``8bit`` and ``4bit`` by bitsandbytes, ``int8`` and ``fp8`` by
    torchao, which must be installed."""
    memory_reserve: float = Field(default=1.15, ge=1.0)
    """Memory wanted on the accelerator, as a multiple of the size of the weights."""
    python: str = ""
    """Another virtual environment's interpreter, in which the engine then runs."""
    start_timeout: float = Field(default=900.0, gt=0)
    """Seconds that an engine in another interpreter may take to load."""


class ChexFract(Weights):
    """``engine = "chexfract"``."""

    prompt: Annotated[str, AfterValidator(_with_image_mark)] = CHEXFRACT_PROMPT
    """What the model is asked; ``<|image_1|>`` stands where the picture goes."""
    decoder: Literal["auto", "remote", "native"] = "auto"
    """``native``: Phi-3 checkpoints by transformers' own Phi3 and a lean loop, where the tokens are
    the same as by the checkpoint's own (``remote``) code; ``auto``: where that is seen."""
    system: str = ""
    """What a system role says before the prompt, for checkpoints that were trained so."""


class Maira2(Weights):
    """``engine = "maira2"``: the findings section of a report, one picture at a time."""

    max_new_tokens: int = Field(default=300, ge=1, le=8192)
    """300, or 450 with ``grounding``, as its authors have it."""
    grounding: bool = False
    """Ask for boxes around what is described."""
    regions: bool = False
    """Put the boxes of fractures into the report, as regions of the image (SCOORD)."""
    indication: str = ""
    """Why the image was made, as the prompt says it."""
    technique: str = "Frontal view of the chest."
    """How the image was made, as the prompt says it."""
    comparison: str = "None."
    """Earlier images, as the prompt says it."""

    @model_validator(mode="before")
    @classmethod
    def _longer_with_boxes(cls, table: Any) -> Any:
        if isinstance(table, dict) and table.get("grounding") is True:
            return {"max_new_tokens": GROUNDED_TOKENS} | table
        return table


class CheXagent(Weights):
    """``engine = "chexagent"``: a prompt, and rib fractures with boxes.

    Both are sentences of its public code, which it was trained to answer.
    """

    max_new_tokens: int = Field(default=512, ge=1, le=8192)
    """Most tokens of an answer."""
    prompt: str = CHEXAGENT_PROMPT
    """What the model is asked."""
    boxes: bool = True
    """Ask a second time, for rib fractures and where they are."""
    boxes_prompt: str = (
        "Locate rib fractures and specify their positions with bounding box coordinates"
    )
    """What it is asked for boxes."""
    regions: bool = False
    """Put the boxes of fractures into the report, as regions of the image (SCOORD)."""


class CxrLlava(Weights):
    """``engine = "cxr_llava"``: a report, differential diagnoses or the answer to a question."""

    max_new_tokens: int = Field(default=512, ge=1, le=1024)
    """Most tokens of an answer."""
    task: Literal["report", "differential", "question"] = "question"
    """Whether it writes a report, a differential diagnosis, or answers the prompt."""
    prompt: str = "Describe the bones. Is there a fracture?"
    """The question, for ``task = "question"``."""


class LlmCxr(Weights):
    """``engine = "llm_cxr"``: a language model that reads pictures as words of a codebook."""

    max_new_tokens: int = Field(default=512, ge=1, le=1024)
    """Most tokens of an answer."""
    prompt: str = "Generate free-text radiology reports for the entered chest X-ray images."
    """What the model is asked."""
    question: str = ""
    """Asked beside the report, for example: Is there a fracture in the bones?"""
    vqgan_config: str = "vqgan.yaml"
    """File of the image tokenizer's shape in the folder."""
    vqgan_weights: str = "vqgan.ckpt"
    """Names within the folder `path`, so that the list of sums covers them."""


def _check_address(url: str) -> str:
    parts = urlsplit(url)  # it and the port raise ValueError
    if not parts.hostname or parts.port == 0:
        raise ValueError("names no host and port")
    return url


class ChatServer(Options):
    """``engine = "chat_server"``: an OpenAI-compatible server, such as vLLM."""

    path: Literal[""] = ""
    """Not used: the server has the weights."""
    url: Annotated[str, AfterValidator(_check_address)] = Field(pattern=r"^https?://[^/\s]+")
    """The address up to ``/v1``."""
    served_model: str = ""
    """The server's name for the model; empty: the only model that it serves."""
    api_key_file: str = ""
    """File of the key that the server asks for; empty: none."""
    prompt: str = CHEXFRACT_PROMPT.partition("\n")[2]
    """What the model is asked."""
    system: str = ""
    """What a system role says before the prompt."""
    concurrent: int = Field(default=8, ge=1, le=256)
    """Most requests at one time."""
    attempts: int = Field(default=3, ge=1, le=20)
    """Tries per radiograph where the server fails in passing."""
    retry_wait: float = Field(default=0.5, gt=0)
    """Seconds before the second attempt; each further wait is twice as long."""
    connect_timeout: float = Field(default=5.0, gt=0)
    """Seconds that the connection may take."""
    longest_side: int = Field(default=2048, ge=64)
    """Larger pictures are made smaller before they are sent."""
    allow_remote: bool = False
    """Allow a server that is not on this machine: pixels then leave it."""
    outside: Literal["warn", "refuse"] = "warn"
    """What becomes of a picture that may name the patient (Burned In Annotation is YES, or letters
    are found in it): it is sent and the report says so, or it is not sent."""


KINDS: dict[str, type[Options]] = {
    "chexfract": ChexFract,
    "maira2": Maira2,
    "chexagent": CheXagent,
    "cxr_llava": CxrLlava,
    "llm_cxr": LlmCxr,
    "chat_server": ChatServer,
}
"""Engine name -> the keys of its table."""


AnyOptions = TypeVar("AnyOptions", bound=Options)


def check_table(kind: type[AnyOptions], name: str, table: dict[str, Any]) -> AnyOptions:
    """Return the table ``[models.NAME]`` as `kind`.

    Raises
    ------
    ConfigurationError
        A key is unknown or has a wrong type or value; the message names each key's path.
    """
    try:
        return kind.model_validate(table)
    except ValidationError as exc:
        raise ConfigurationError(toml.explain(exc, kind, under=f"models.{name}")) from exc


def check_all(tables: dict[str, dict[str, Any]]) -> None:
    """Check the keys of every table ``[models.NAME]``, without looking at any folder.

    Raises
    ------
    ConfigurationError
        An engine is unknown, or a key or its value is wrong; the message names all of them.
    """
    faults = []
    for name, table in tables.items():
        try:
            check_table(options_kind(name, str(table.get("engine", ""))), name, table)
        except ConfigurationError as exc:
            faults.append(str(exc))
    if faults:
        raise ConfigurationError("; ".join(faults))


def options_kind(name: str, engine: str) -> type[Options]:
    """Return what the table of an engine may hold.

    Raises
    ------
    ConfigurationError
        There is no such engine.
    """
    if engine not in KINDS:
        known = ", ".join(sorted(KINDS))
        raise ConfigurationError(f"models.{name}.engine: {engine!r} is unknown; known: {known}")
    return KINDS[engine]


def expand_path(path: str) -> Path:
    """Return `path` with ``~`` replaced."""
    return Path(path).expanduser()
