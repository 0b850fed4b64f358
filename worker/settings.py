"""worker.toml as frozen settings.

A key may be overridden by the environment: ``CHEXFRACT_WORKER_WORKER__BROKER=redis://…`` for
``broker`` in ``[worker]``. The job API's secret comes from ``secret_file`` or from the environment
(``CHEXFRACT_WORKER_WORKER__SECRET``), never from the file itself.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from dicom_node.base import toml
from dicom_node.base.addresses import add_password
from dicom_node.base.environment import with_environment
from dicom_node.base.processors import processor_count
from dicom_node.base.toml import Wording
from dicom_node.flow.broker import TlsFiles

DeviceName = Annotated[
    str,
    Field(pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?|cuda:(GPU|MIG)-[A-Za-z0-9/-]{4,128})$"),
    Wording('a device; write "auto", "cpu", "cuda", "cuda:1", "cuda:MIG-...", "xpu" or "mps"'),
]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"),
    Wording("a name; write 1 to 64 letters, digits, and _ . -"),
]


class Section(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KnownNode(Section):
    """An entry of ``nodes``: a node that has a secret, or an authority, of its own."""

    url: str = Field(max_length=2048)
    """The ``web.url`` of the node, or its ``jobs.url``."""
    secret_file: Path | None = None
    """The job API's secret of this node; else ``[worker] secret_file``."""
    ca: Path | None = None
    """PEM file that this node's certificate chains to, or is."""


class Worker(Section):
    """``[worker]``: where work comes from and which model does it."""

    broker: Annotated[
        str,
        Field(pattern=r"^(rediss?://|sentinel://)"),
        Wording('an address; write "redis://host:6379/0", "rediss://…" or "sentinel://…"'),
    ] = "redis://127.0.0.1:6379/0"
    """The broker of the nodes."""
    broker_ca: Path | None = None
    """PEM file that the certificate of a ``rediss://`` broker chains to, or is."""
    broker_certificate: Path | None = None
    """PEM file of our certificate, for a broker that asks for one."""
    broker_key: Path | None = None
    """PEM file of its private key."""
    broker_password_file: Path | None = None
    """File of the broker's password, which then need not stand in the address."""
    model: Name = "phantom"
    """Table ``[models.NAME]`` that this worker reads with."""
    device: DeviceName = "auto"
    """``auto``, ``cpu``, ``cuda`` (NVIDIA and ROCm), ``cuda:1``, ``cuda:MIG-...`` or
    ``cuda:GPU-...`` as ``nvidia-smi -L`` names them, ``xpu`` (Intel), ``mps`` (Apple)."""
    devices: tuple[DeviceName, ...] = ()
    """Several: ``run`` then keeps one worker on each."""
    batch: int = Field(default=8, ge=1)
    """Most pictures that the model sees at one time."""
    slots: int = Field(default=2, ge=1, le=16)
    """Batches in work: one at the model, the others being fetched, decoded and made inputs of."""
    preparers: Annotated[
        int | Literal["auto"],
        Field(union_mode="left_to_right"),
        Wording('a number of processes; write "auto" or 0 to 64'),
    ] = "auto"
    """Processes that make pictures and reports beside the model's; ``auto``: half the processors,
    up to four, shared by ``devices``, and none where there are two or fewer."""
    alive_file: Path | None = None
    """A file that ``run`` touches every few seconds while it is ready and not stuck; health checks
    of containers ask for its age."""
    stuck_after: float = Field(default=120.0, gt=0)
    """Seconds without progress after which the worker ends itself for its supervisor to restart."""
    name: str = Field(default_factory=socket.gethostname)
    """What nodes call this worker."""
    nodes: tuple[str | KnownNode, ...] = ()
    """Nodes that this worker works for and trusts with the secret: the ``web.url`` of each. A
    hand-out that names another is dropped."""
    announce: tuple[str, ...] = ()
    """More of them, as 0.1.0 wrote them and ``serve --with-worker`` passes its own."""
    secret_file: Path | None = None
    """File of the job API's secret."""
    secret: SecretStr | None = None
    """The secret itself; meant for the environment (``CHEXFRACT_WORKER_WORKER__SECRET``)."""
    ca: Path | None = None
    """PEM file that the certificate of a node's HTTPS chains to, or is; else the system's."""

    @property
    def preparer_count(self) -> int:
        """How many processes make pictures and reports."""
        if self.preparers != "auto":
            return self.preparers
        processors = processor_count()
        # With two processors, what is done twice for a process of its own costs more than it frees.
        shared = max(1, len(self.devices))
        return 0 if processors <= 2 else max(1, min(4, processors // 2) // shared)

    @field_validator("preparers")
    @classmethod
    def _preparers_are_few(cls, value: int | Literal["auto"]) -> int | Literal["auto"]:
        if value != "auto" and not 0 <= value <= 64:
            raise ValueError(f'{value} is not a number of processes; write "auto" or 0 to 64')
        return value

    @model_validator(mode="after")
    def _password_is_read(self) -> Self:
        if self.broker_password_file:
            # frozen for everybody else; this is still its making
            file, key = self.broker_password_file, "broker_password_file"
            object.__setattr__(self, "broker", add_password(self.broker, file, key))
        return self

    @property
    def broker_files(self) -> TlsFiles:
        """The files of the broker's TLS."""
        return TlsFiles(self.broker_ca, self.broker_certificate, self.broker_key)


class Serve(Section):
    """``[serve]``: the worker's own HTTP server (``chexfract-worker serve``)."""

    host: str = "127.0.0.1"
    """Beyond this machine only with ``keys_file``."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port of the HTTP server."""
    keys_file: Path | None = None
    """A file with a key in each line; whoever asks shows one as bearer token."""
    allow_urls: tuple[str, ...] = ()
    """Where pictures may be fetched from, such as ``https://archive.example/previews/`` or
    ``file:///srv/pictures/``; without it, requests bring them as data URLs."""
    any_prompt: bool = False
    """Answer requests with another prompt too, as if they had the model's own."""
    waiting: int = Field(default=256, ge=1)
    """Pictures in the house; further requests are answered 429."""
    most_bytes: int = Field(default=64_000_000, ge=1000)
    """Longest body of a request."""
    most_bytes_at_once: int = Field(default=1_000_000_000, ge=1000)
    """Of all bodies in the house; further requests are answered 503."""
    body_timeout: float = Field(default=30.0, gt=0)
    """Seconds in which a body has to come."""


class Pixels(Section):
    """``[pixels]``: from stored values to the picture."""

    mode: Literal["voi", "minmax", "minmax+equalize"] = "voi"
    """How stored values become grey levels; each model's table in configs/models.toml names its
    own."""
    decode_timeout: float = Field(default=30.0, gt=0)
    """Seconds that the decoding of one Instance may take."""
    decode_memory: int = Field(default=1_500_000_000, ge=100_000_000)
    """Bytes of memory that the decoding of one Instance may take."""
    accept_lateral: bool = False
    """Whether lateral views are analysed."""
    screening: Literal["off", "warn", "reject"] = "warn"
    """What a picture that does not look like an upright frontal chest gets."""
    window: tuple[str, ...] = Field(default=(), max_length=16)
    """Words of the explanations of windows and VOI LUTs, for example "BONE", "NORMAL": one that has
    the first comes first. Without them, the first usable one is taken."""
    polarity: Literal["presentation", "photometric"] = "presentation"
    """Which wins where Presentation LUT Shape and Photometric Interpretation contradict."""
    enough: int | None = Field(default=None, ge=128)
    """Rows and columns that the model makes of any picture, for example 518: one that keeps twice
    as many may then come at half its size, which is faster. Without it, pictures keep theirs."""


class Model(BaseModel):
    """``[models.NAME]``: an engine and its own keys, which the engine checks."""

    model_config = ConfigDict(frozen=True, extra="allow")

    engine: Name
    path: str = ""
    licence_accepted_by: str = ""


class Settings(Section):
    """The whole of worker.toml."""

    ENVIRONMENT: ClassVar[str] = "CHEXFRACT_WORKER_"
    """How variables of the environment begin that stand above the file."""

    def __init__(self, /, **tables: Any) -> None:
        super().__init__(**with_environment(type(self), tables))

    worker: Worker = Worker()
    serve: Serve = Serve()
    pixels: Pixels = Pixels()
    models: dict[Name, Model] = {"phantom": Model(engine="chexfract", path="builtin:phantom")}

    @model_validator(mode="after")
    def _model_is_configured(self) -> Self:
        if self.worker.model not in self.models:
            known = ", ".join(sorted(self.models)) or "none"
            raise ValueError(
                f"worker.model: no table [models.{self.worker.model}]; configured: {known}"
            )
        return self


def load(path: Path | None) -> Settings:
    """Read `path`, or take the defaults when it is None.

    Raises
    ------
    ConfigurationError
        The file cannot be read or a key is wrong; the message names each key's path.
    """
    content = {} if path is None else toml.read(path)
    return toml.settings(Settings, content, path or "environment")
