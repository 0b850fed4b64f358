"""node.toml as frozen settings; every key has a default that works.

A key may be overridden by the environment: ``CHEXFRACT_NODE__PORT=4104`` for ``port`` in
``[node]``.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from dicom_node.base import toml
from dicom_node.base.addresses import (
    Network,
    add_password,
    hide_passwords,
    parse_address,
    parse_network,
)
from dicom_node.base.addresses import is_loopback as is_loopback
from dicom_node.base.environment import with_environment
from dicom_node.base.job import ObjectKind
from dicom_node.base.local_time import find_zone
from dicom_node.base.processors import processor_count
from dicom_node.base.toml import Wording

DEMONSTRATION_MODELS = frozenset({"phantom"})
"""Models that read drawings, not patients; live only under ``allow_demonstration``."""

SENDER = "@sender"
"""In ``send_to``: the peer that sent the Instance."""


def unknown_sender(ae_title: str, address: str, problem: str = "") -> str:
    """Return why a report waits for its sender, and what to do."""
    who = f"sender {ascii(ae_title)[1:-1]}@{address}"
    return f"{who}: {problem}" if problem else f"{who} is not in [peers]; add it"


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def _to_seconds(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", value)):
        return float(match[1]) * _UNITS[match[2]]
    return value


def _to_bytes(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)", value)):
        return int(float(match[1]) * _SIZES[match[2]])
    return value


def duration_text(seconds: float) -> str:
    """Return a duration as node.toml may say it, in the largest unit without a rest: ``"90m"``."""
    if not seconds:
        return "0s"
    unit = next((u for u in "dhms" if seconds % _UNITS[u] == 0), "s")
    return f"{Decimal(repr(seconds / _UNITS[unit])).normalize():f}{unit}"


def size_text(size: int) -> str:
    """Return a size as node.toml may say it, in the largest unit without a rest: ``"2GB"``."""
    unit = next(u for u in reversed(_SIZES) if size % _SIZES[u] == 0) if size else "B"
    return f"{size // _SIZES[unit]}{unit}"


def _with_units(say: Callable[[Any], str]) -> PlainSerializer:
    def value(number: Any, info: SerializationInfo) -> Any:
        return say(number) if info.context == _WITH_UNITS else number

    return PlainSerializer(value, when_used="json")


_WITH_UNITS = "with units"


def _or_text(of: str, pattern: str) -> WithJsonSchema:
    """Let editors accept what is written with a unit, too."""
    number = {"type": of, "minimum": 0}
    return WithJsonSchema({"anyOf": [number, {"type": "string", "pattern": pattern}]})


Duration = Annotated[
    float,
    BeforeValidator(_to_seconds),
    Field(ge=0),
    _or_text("number", r"^\d+(\.\d+)?\s*[smhd]$"),
    _with_units(duration_text),
    Wording('a duration; write "24h", "90m", "45s" or "7d"'),
]
"""Seconds, or text such as ``"90s"``, ``"24h"``, ``"365d"``."""

Size = Annotated[
    int,
    BeforeValidator(_to_bytes),
    Field(ge=0),
    _or_text("integer", r"^\d+(\.\d+)?\s*[KMGT]?B$"),
    _with_units(size_text),
    Wording('a size; write "2GB", "500MB" or a number of bytes'),
]
"""Bytes, or text such as ``"2GB"``."""


def _strip_blanks(value: object) -> object:
    return value.strip(" ") if isinstance(value, str) else value


AETitle = Annotated[
    str,
    Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$"),
    BeforeValidator(_strip_blanks),
    Wording("an AE title; write 1 to 16 ASCII characters without a backslash"),
]
"""1 to 16 characters of the default repertoire without backslash; blanks before and behind have no
meaning and are taken off here, so that titles compare as they are (DICOM PS3.5 Table 6.2-1)."""

PlainText = Annotated[
    str,
    Field(max_length=64, pattern=r"^[^\\\x00-\x1f\x7f-\x9f]*$"),
    Wording(
        "text of at most 64 characters without a backslash or a line break"
        " (or another control character); write such"
    ),
]
"""A value of VR LO, in which a backslash would begin another value (DICOM PS3.5 6.4)."""

Right = Literal["store", "query", "retrieve", "commit"]
"""What a peer may do here: C-STORE; C-FIND; C-GET and C-MOVE; report what it commits to."""

Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"),
    Wording("a name; write 1 to 64 letters, digits, and _ . -"),
]


def _is_named(value: object) -> object:
    # "." stays: 0.1.0 took it, and who writes it means the folder in which serve is started
    if value in ("", "/", Path("/")):
        raise ValueError('is not a folder of its own; write one, such as "/var/lib/chexfract"')
    return value


Port = Annotated[int, Field(ge=0, le=65535), Wording("a port; write a number from 1 to 65535")]


def _without_port(value: str) -> str:
    if value.count(":") == 1:  # an address of IPv6 has two at least
        raise ValueError("it has a port; write the host without the port")
    return value


Host = Annotated[
    str,
    Field(pattern=r"^\[?[\w.:%-]*\]?$"),
    AfterValidator(_without_port),
    Wording("a host; write a name or an address alone, without http:// and without the port"),
]
Url = Annotated[
    str,
    Field(pattern=r"^(|https?://.+)$"),
    Wording('an address; write "http://host:8080" or "https://host"'),
]


def _as_network(value: str) -> str:
    parse_network(value)
    return value


NetworkText = Annotated[str, AfterValidator(_as_network)]
"""An address or a network, as it is written."""


class Section(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(Section):
    """Files of a TLS end; empty means no TLS (DICOM PS3.15 B.12, BCP 195)."""

    certificate: Path | None = None
    """PEM file of our certificate, and of those up to its authority."""
    key: Path | None = None
    """PEM file of its private key."""
    ca: Path | None = None
    """Certificates that the other side must chain to."""


class Node(Section):
    """``[node]``: the application entity and where it keeps things."""

    ae_title: AETitle = "CHEXFRACT"
    """How others call this node: 1 to 16 characters."""
    ae_titles: tuple[AETitle, ...] = ()
    """Further AE titles by which it may be called; rules ask for them by ``match.called_ae``."""
    host: Host = "0.0.0.0"  # noqa: S104 - modalities are other machines
    """Address on which associations are accepted; ``0.0.0.0`` is every one of this machine."""
    port: Port = 11112
    """DICOM port."""
    data_dir: Annotated[Path, BeforeValidator(_is_named)] = Path("var")
    """Folder of ledger, spool, secrets and logs; for the user of the node alone."""
    ledger: str = "sqlite"
    """``sqlite`` (a file in data_dir) or a ``postgresql+psycopg://`` URL."""
    ledger_password_file: Path | None = None
    """File of the database's password, which then need not stand in the URL."""
    shared_dir: str = ""
    """Folder of spool, secrets and users that nodes on one PostgreSQL ledger share, each beside a
    data_dir of its own; data_dir when empty."""
    known_peers_only: bool = True
    """Whether callers that are not one of ``[peers]`` are rejected."""
    called_ae_check: bool = True
    """Whether callers that name another AE title than ours are rejected."""
    max_associations: int = Field(default=100, ge=1)
    """Most associations at one time."""
    max_associations_per_peer: int = Field(default=50, ge=1)
    """Most associations of one caller at one time."""
    listeners: Annotated[
        int | Literal["auto"],
        Field(union_mode="left_to_right"),
        Wording('a number of processes; write "auto" or 1 to 64'),
    ] = "auto"
    """Processes that take associations on the port; ``auto``: one, and beside PostgreSQL half the
    processors, up to four. SQLite has one writer: with small images two listeners are slower."""
    max_pdu: int = Field(default=131072, ge=4096)
    """Largest PDU in bytes that is received (PS3.8 D.1)."""
    max_instance: Size = 512_000_000
    """Largest data set that is received; more is aborted."""
    idle_timeout: Annotated[Duration, Field(gt=0)] = 60.0
    """Time without a byte after which an association is aborted."""
    serial_number: PlainText = ""
    """Device Serial Number (0018,1000) of this installation in reports."""
    time_zone: str = ""
    """IANA name of the site's time zone, such as ``Europe/Berlin``; empty: that of the host. Dates
    and times of reports, their offset from UTC, and pages follow it."""
    proxies: tuple[NetworkText, ...] = ()
    """Addresses or networks of TCP balancers: from them, and from no others, a PROXY protocol
    header (version 1 or 2) is read, which names the true caller."""
    tls: Tls = Tls()

    @property
    def listener_count(self) -> int:
        """How many processes take associations."""
        if self.listeners != "auto":
            return self.listeners
        if self.ledger == "sqlite":
            return 1
        return min(4, max(1, processor_count() // 2))

    @model_validator(mode="after")
    def _ledger_password_is_read(self) -> Self:
        if self.ledger_password_file and self.ledger != "sqlite":
            # frozen for everybody else; this is still its making
            file, key = self.ledger_password_file, "ledger_password_file"
            object.__setattr__(self, "ledger", add_password(self.ledger, file, key))
        return self

    @field_validator("ledger")
    @classmethod
    def _ledger_is_known(cls, value: str) -> str:
        if not re.match(r"sqlite$|(sqlite|postgresql)(\+\w+)?://", value):
            raise ValueError(
                'this is not a ledger; write "sqlite" or "postgresql+psycopg://user@host/name"'
            )
        return value

    @field_validator("listeners")
    @classmethod
    def _listeners_are_few(cls, value: int | Literal["auto"]) -> int | Literal["auto"]:
        if value != "auto" and not 1 <= value <= 64:
            raise ValueError(f'{value} is not a number of processes; write "auto" or 1 to 64')
        return value

    @field_validator("time_zone")
    @classmethod
    def _time_zone_is_known(cls, value: str) -> str:
        if value:
            find_zone(value)
        return value


Role = Literal["viewer", "operator", "admin"]
"""A viewer looks and judges; an operator retries, resends, replays, too; an admin sees all."""


class Oidc(Section):
    """``[web.oidc]``: sign-in by the hospital's identity provider (OpenID Connect Core 1.0)."""

    issuer: str = ""
    """URL of the provider, as its discovery document names it; empty: local users only."""
    client_id: str = ""
    """What the provider knows this node by."""
    client_secret_file: str = ""
    """File of the client's secret; empty for a public client."""
    name_claim: str = "preferred_username"
    """Claim of the ID token that names the person."""
    role_claim: str = "roles"
    """Claim that holds one value or several; without it nobody signs in."""
    roles: dict[str, Role] = {}
    """Value of that claim -> role here; of several the highest counts."""

    @model_validator(mode="after")
    def _provider_is_whole(self) -> Self:
        if not self.issuer:
            return self
        parts = urlsplit(self.issuer)
        if parts.scheme != "https" and not (
            parts.scheme == "http" and is_loopback(parts.hostname or "")
        ):
            raise ValueError("issuer must begin with https://")
        if not self.client_id or not self.roles:
            raise ValueError("issuer needs client_id and roles")
        return self


class Web(Section):
    """``[web]``: job API and pages."""

    host: Host = "127.0.0.1"
    """Address of the pages and of the job API."""
    port: Port = 8080
    """Its port."""
    url: Url = "http://127.0.0.1:8080"
    """How people and workers reach the pages: links and hand-outs are made with it."""
    certificate: Path | None = None
    """PEM file of the certificate, and of those up to its authority: HTTPS instead of HTTP."""
    key: Path | None = None
    """PEM file of its key, unless that stands in the same file."""
    secret_file: str = ""
    """As 0.1.0 had it: use ``[jobs] secret_file``."""
    secret: SecretStr | None = None
    """As 0.1.0 had it: use ``CHEXFRACT_JOBS__SECRET``."""
    metrics: Literal["all", "loopback"] = "all"
    """Who may read ``/metrics``, which hold counts and names of peers, models and workers."""
    dicomweb_secret_file: str = ""
    """Bearer token of DICOMweb clients; ``dicomweb-secret`` in data_dir when empty."""
    cors_origins: tuple[
        Annotated[
            str,
            Field(pattern=r"^(\*|https?://[A-Za-z0-9.:\[\]-]{1,255})$"),
            Wording('an origin; write "https://viewer.example" or "*" for any'),
        ],
        ...,
    ] = ()
    """Sites whose pages may ask the DICOMweb services with the secret of DICOMweb clients."""
    sign_in: bool = True
    """Whether people sign in; without it everybody who reaches the pages sees them."""
    users_file: str = ""
    """Who may sign in (``chexfract-node user add``); ``users`` in data_dir when empty."""
    session: Annotated[Duration, Field(gt=0)] = 43200.0
    """Time after which a person signs in again, whatever they do."""
    oidc: Oidc = Oidc()
    idle: Annotated[Duration, Field(gt=0)] = 1800.0
    """Time without a request after which a session ends; a live page alone keeps none open."""
    proxy_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{0,64}$")] = ""
    """Header in which a proxy names who signed in there, such as ``X-Remote-User``."""
    proxy_addresses: tuple[NetworkText, ...] = ()
    """Addresses or networks of proxies whose header is believed."""
    proxy_role: Role = "viewer"
    """Role of those whom the proxy names and the users file does not."""

    @model_validator(mode="after")
    def _open_pages_are_local(self) -> Self:
        if not self.sign_in and not is_loopback(self.host):
            raise ValueError("sign_in = false is accepted on a loopback host only")
        return self

    @model_validator(mode="after")
    def _https_is_said(self) -> Self:
        if self.certificate and self.url.startswith("http:"):
            raise ValueError("with a certificate, url must begin with https:")
        return self

    @model_validator(mode="after")
    def _proxies_are_named(self) -> Self:
        if self.proxy_header and not self.proxy_addresses:
            raise ValueError("proxy_header needs proxy_addresses: anyone can send a header")
        return self


class Jobs(Section):
    """``[jobs]``: the job API, at which workers fetch images and post results."""

    secret_file: str = ""
    """What workers show as bearer token; ``secret`` in data_dir, made at the first start, when
    empty."""
    secret: SecretStr | None = None
    """The secret itself; meant for the environment (``CHEXFRACT_JOBS__SECRET``)."""
    port: Port | None = None
    """A port of its own, with the certificate of ``[web]``; the web port when left out."""
    host: Host = ""
    """Address of that port; ``web.host`` when empty."""
    url: Url = ""
    """How workers reach it; ``web.url`` with this port when empty."""


class Broker(Section):
    """``[broker]``: where hand-outs are published."""

    url: Annotated[
        str,
        Field(pattern=r"^(embedded$|rediss?://|sentinel://)"),
        Wording(
            'an address; write "embedded", "redis://host:6379/0", "rediss://…" or "sentinel://…"'
        ),
    ] = "embedded"
    """``embedded`` (redis-server on PATH, else a stand-in), ``redis://``, ``rediss://`` or
    ``sentinel://``."""
    ca: Path | None = None
    """PEM file that the certificate of a ``rediss://`` broker chains to, or is; else the system's.
    With ``sentinel://`` it turns TLS on."""
    certificate: Path | None = None
    """Our own certificate, for a broker that asks for one."""
    key: Path | None = None
    """PEM file of its private key."""
    password_file: Path | None = None
    """File of the broker's password, which then need not stand in the address."""

    @model_validator(mode="after")
    def _password_is_read(self) -> Self:
        if self.password_file and self.url != "embedded":
            # frozen for everybody else; this is still its making
            object.__setattr__(self, "url", add_password(self.url, self.password_file))
        return self


class Dispatch(Section):
    """``[dispatch]``: how jobs are handed out."""

    window: int = Field(default=32, ge=1)
    """Most jobs per model that wait in the broker at one time."""
    batch: int = Field(default=8, ge=1)
    """Most jobs in one hand-out when there is a backlog."""
    queued_for: Annotated[Duration, Field(gt=0)] = 60.0
    """Time a hand-out may wait in the broker before it is handed out again."""
    lease: Annotated[Duration, Field(gt=0)] = 60.0
    """Time without progress after which a claimed job is handed out again."""
    attempts: int = Field(default=5, ge=1)
    """Attempts at one job before it ends as failed."""


class Delivery(Section):
    """``[delivery]``: waits between two attempts; each is twice the one before."""

    refused_first: Annotated[Duration, Field(gt=0)] = 30.0
    """Wait after a destination answered an object with a failure for the first time."""
    refused_longest: Annotated[Duration, Field(gt=0)] = 3600.0
    """Longest wait between two attempts at a destination that refuses."""
    silent_first: Annotated[Duration, Field(gt=0)] = 1.0
    """Wait after a destination gave no answer for the first time; this costs no attempt."""
    silent_longest: Annotated[Duration, Field(gt=0)] = 30.0
    """Longest wait between two attempts at a destination that gives no answer."""
    give_up: Duration = 0.0
    """Age at which an object that its destination refuses again and again is given up, and
    ``[notify]`` tells of it; 0 means never. Silence of a destination never ends a delivery."""
    uncommitted_first: Annotated[Duration, Field(gt=0, le=7200)] = 600.0
    """Wait for an answer to a storage commitment request before it is asked again."""
    uncommitted_longest: Annotated[Duration, Field(gt=0, le=7200)] = 3600.0
    """Longest wait between two storage commitment requests."""


class Peer(Section):
    """``[peers.NAME]``: another application entity."""

    ae_title: AETitle
    """Its AE title."""
    host: Host
    """Its host name or address."""
    port: Port
    """Its DICOM port; 0 for one that only sends."""
    objects: tuple[ObjectKind, ...] = ("sr",)
    """What it is sent: the kinds of objects, in this order."""
    sop_classes: tuple[Literal["comprehensive3d", "comprehensive", "enhanced"], ...] = (
        "comprehensive3d",
        "comprehensive",
        "enhanced",
    )
    """SR SOP classes in order of preference; the first that the peer accepts is sent."""
    addresses: tuple[NetworkText, ...] = ()
    """Addresses or networks that this peer calls from; empty: its host, a name being resolved."""
    may: tuple[Right, ...] = ("store", "query", "retrieve", "commit")
    """What it may do here; what it is sent does not depend on it."""
    certificate: Annotated[str, Field(max_length=512)] = ""
    """Its client certificate, by SHA-256 or by subject (``CN=PACS,O=Hospital``); needs
    ``node.tls.ca``."""
    storage_commitment: bool = False
    """Whether it is asked to commit to what it was sent (PS3.4 J); then its answer is taken."""
    max_pdu: int = Field(default=131072, ge=4096)
    """Largest PDU in bytes that is sent to it."""
    timeout: Annotated[Duration, Field(gt=0)] = 30.0
    """Time that it may take for an answer."""
    tls: Tls = Tls()

    @property
    def networks(self) -> tuple[Network, ...]:
        """Where it calls from, as far as no name has to be resolved."""
        own = self.addresses or ((self.host,) if parse_address(self.host) is not None else ())
        return tuple(parse_network(text) for text in own)


class Match(Section):
    """``match.*`` of a rule: each key that is given must hold; text may use ``*`` and ``?``."""

    modality: tuple[str, ...] | None = None
    """Modality (0008,0060)."""
    body_part: tuple[str, ...] | None = None
    """Body Part Examined (0018,0015); ``""`` is an image that does not say."""
    view: tuple[str, ...] | None = None
    """View Position (0018,5101), or what the view code says."""
    sop_class: tuple[str, ...] | None = None
    """SOP Class UID."""
    calling_ae: tuple[str, ...] | None = None
    """AE title of the sender."""
    called_ae: tuple[str, ...] | None = None
    """AE title by which the sender called."""
    manufacturer: tuple[str, ...] | None = None
    """Manufacturer (0008,0070)."""
    station_name: tuple[str, ...] | None = None
    """Station Name (0008,1010)."""
    institution: tuple[str, ...] | None = None
    """Institution Name (0008,0080)."""
    study_description: tuple[str, ...] | None = None
    """Study Description (0008,1030)."""
    series_description: tuple[str, ...] | None = None
    """Series Description (0008,103E)."""
    presentation_intent: tuple[str, ...] | None = None
    """Presentation Intent Type (0008,0068)."""
    quality_control: bool | None = None
    """true: phantoms and quality-control images only; false: none of them."""


class When(Section):
    """``when.*`` of a rule: who gets a report beside ``send_to``, by its result."""

    present: tuple[str, ...] = ()
    """A fracture is described; and an undetermined result, unless ``undetermined`` says more."""
    absent: tuple[str, ...] = ()
    """None is described."""
    undetermined: tuple[str, ...] | None = None
    """The text does not say; without this key such a report goes where a present one goes."""
    rejected: tuple[str, ...] = ()
    """The image was not analysed."""

    def names(self, result: str) -> tuple[str, ...]:
        """Return who gets a report with this result."""
        if result == "undetermined" and self.undetermined is None:
            return self.present
        return tuple(getattr(self, result) or ())


class Rule(Section):
    """``[[rules]]``: what happens to a matching Instance; the first match wins."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    """What trace, pages and reports call it."""
    match: Match = Match()
    """What an Instance must be like."""
    model: Name = "phantom"
    """Table ``[models.NAME]`` of the workers that shall read it."""
    mode: Literal["live", "shadow"] = "live"
    """``live`` sends its reports; ``shadow`` keeps them here."""
    send_to: tuple[str, ...] = (SENDER,)
    """Peers that get its reports; ``@sender`` is who sent the image."""
    priority: Literal["stat", "normal", "low"] | None = None
    """Overrides the Priority (0000,0700) of the C-STORE request."""
    allow_demonstration: bool = False
    """Whether a demonstration model's reports are sent, and phantoms are analysed."""
    objects: tuple[ObjectKind, ...] | None = None
    """What is sent by this rule, instead of what each peer's ``objects`` says."""
    when: When = When()

    @property
    def destinations(self) -> tuple[str, ...]:
        """Every name to which it may send, each once."""
        results = (self.when.names(result) for result in When.model_fields)
        return tuple(dict.fromkeys((*self.send_to, *(n for names in results for n in names))))

    @property
    def takes_quality_control(self) -> bool:
        """Whether phantoms and quality-control images are analysed by it."""
        return self.allow_demonstration or bool(self.match.quality_control)


class QualityControl(Section):
    """``[quality_control]``: how phantoms are known, beside Quality Control Image (0028,0300).

    They are held: kept, and analysed by no rule but one with ``allow_demonstration = true`` or
    ``match.quality_control = true``. Text may use ``*`` and ``?``; case does not count.
    """

    patient_name: tuple[str, ...] = ("*PHANTOM*", "QC", "QC^*", "QA", "QA^*", "*QUALITY*CONTROL*")
    """Patterns of a phantom's Patient's Name."""
    patient_id: tuple[str, ...] = ("*PHANTOM*", "QC", "QC-*", "QC_*", "QA", "QA-*", "QA_*")
    """Patterns of a phantom's Patient ID."""


CodeText = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]+$")]


class Report(Section):
    """``[report]``: what every report says of this site."""

    not_analysed: bool = True
    """Whether an image that is not analysed gets a report that says why."""
    series_description: PlainText = "AI fracture description (ChexFract)"
    """Series Description (0008,103E) of the reports."""
    series_number: int = Field(default=9001, ge=0, le=2**31 - 1)
    """Series Number (0020,0011) of the first of their series."""
    procedure: tuple[CodeText, ...] = ()
    """Procedure Reported as code value, coding scheme and meaning, for example
    ``["36643-5", "LN", "XR Chest 2 Views"]``; empty is "Imaging procedure", which every validator
    takes."""
    text_series: Literal["study", "report"] = "report"
    """Whether each text report has a series of its own, or those of a study share one: OHIF shows
    one report of a series only, the oldest, and hides what replaced it."""
    send_judgements: bool = False
    """Whether a reader's judgement of a report is sent as a report that replaces it."""
    reject_replaced: bool = False
    """Whether archives are asked, by a Key Object Selection Document, to hide what a new report
    replaces."""

    @field_validator("procedure")
    @classmethod
    def _is_a_code(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        limits = (16, 16, 64)
        if value and (
            len(value) != 3 or any(len(t) > n for t, n in zip(value, limits, strict=True))
        ):
            raise ValueError("is not a code; write code value, coding scheme and meaning")
        return value


class Retention(Section):
    """``[retention]``: when files go; what is not delivered never does."""

    images: Duration = 86400.0
    """How long an image is kept after its report was delivered."""
    reports: Duration = 365 * 86400.0
    """How long a report is kept after it was delivered."""
    ignored: Duration | None = None
    """How long the file of an image is kept that no rule took; as images, unless it is said."""
    conflicts: Duration | None = None
    """How long other content under a known UID is kept; as reports, unless it is said."""
    history: Duration = 0.0
    """Time after which steps between reception and report go, and what was tried again and again
    becomes one step with its count; 0 keeps them."""
    min_free: Size = 2 * 10**9
    """Free space below which associations are rejected and C-STORE is answered 0xA700."""


class Notify(Section):
    """``[notify]``: whom the node tells of trouble; neither key set: nobody."""

    webhook: SecretStr | None = None
    """URL that takes a JSON object by POST; often a secret itself."""
    mail_to: tuple[str, ...] = ()
    """Addresses that get mail."""
    mail_from: str = ""
    """Sender of the mail."""
    smtp_host: Host = "localhost"
    """Mail server."""
    smtp_port: Port = 25
    """Port of the mail server."""
    smtp_tls: Literal["none", "starttls", "tls"] = "none"
    """How the connection to the mail server is encrypted."""
    smtp_user: str = ""
    """Name to sign in at the mail server; empty: none."""
    smtp_password: SecretStr | None = None
    """Its password; meant for the environment (``CHEXFRACT_NOTIFY__SMTP_PASSWORD``)."""
    destination_down_for: Duration = 900.0
    """Time that a destination gives no answer before somebody is notified."""
    remind_after: Annotated[Duration, Field(gt=0)] = 86400.0
    """Time after which a message about trouble that lasts is repeated."""
    with_identifiers: bool = False
    """Whether accession numbers and UIDs of failed images are in messages, too; names never are."""

    @model_validator(mode="after")
    def _mail_has_a_sender(self) -> Self:
        if self.mail_to and not self.mail_from:
            raise ValueError("mail_to needs mail_from")
        if self.smtp_user and self.smtp_tls == "none" and not is_loopback(self.smtp_host):
            raise ValueError("smtp_user needs smtp_tls: a password would cross the network openly")
        return self


class Audit(Section):
    """``[audit]``: who used the node and what was transferred (DICOM PS3.15 A.5)."""

    enabled: bool = True
    """Whether a trail is kept."""
    file: str = ""
    """One XML message per line; ``audit/audit.xml`` in data_dir when empty. At 50 MB it is put
    aside, and ten such files are kept."""
    syslog: Annotated[
        str,
        Field(pattern=r"^(|(udp|tcp|tls)://[^:/]+:\d{1,5})$"),
        Wording('an address; write "udp://host:514", "tcp://host:601" or "tls://host:6514"'),
    ] = ""
    """``udp://host:514``, ``tcp://host:601`` or ``tls://host:6514`` of an audit record repository
    (RFC 5424; TLS by RFC 5425 and DICOM PS3.15 A.6)."""
    tls: Tls = Tls()
    """Files for ``tls://``: the repository's ``ca``, our ``certificate`` and ``key`` if it asks."""
    source: str = Field(default="", max_length=64)
    """Name of this site or system in the messages; the AE title when empty."""


class Sandbox(Section):
    """``[sandbox]``: how images and results leave this node for research."""

    deidentify: bool = False
    """Whether ``export`` and ``pull`` always de-identify, asked or not."""
    key_file: str = ""
    """Key of the pseudonyms; ``deid.key`` in data_dir, made at the first use, when empty."""
    uids: Literal["replace", "keep"] = "replace"
    """Whether UIDs of images are replaced, the same way in images, rows and exports."""
    dates: Literal["shift", "remove", "keep"] = "shift"
    """``shift`` moves all dates and times of a patient back by one span of up to ten years."""
    descriptors: Literal["remove", "clean"] = "remove"
    """``clean`` keeps those words of descriptions that are words of the field."""
    keep_private: tuple[
        Annotated[
            str,
            Field(pattern=r"^[0-9A-Fa-f]{3}[13579BDFbdf],[^,]{1,64},[0-9A-Fa-f]{2}$"),
            Wording('a private element; write "group,creator,element" such as "0019,ACME 1.0,10"'),
        ],
        ...,
    ] = ()
    """Private elements that stay in images."""


class Settings(Section):
    """The whole of node.toml."""

    ENVIRONMENT: ClassVar[str] = "CHEXFRACT_"
    """How variables of the environment begin that stand above the file."""

    def __init__(self, /, **tables: Any) -> None:
        super().__init__(**with_environment(type(self), tables))

    node: Node = Node()
    web: Web = Web()
    jobs: Jobs = Jobs()
    broker: Broker = Broker()
    dispatch: Dispatch = Dispatch()
    delivery: Delivery = Delivery()
    peers: dict[Name, Peer] = {}
    rules: tuple[Rule, ...] = ()
    quality_control: QualityControl = QualityControl()
    report: Report = Report()
    retention: Retention = Retention()
    notify: Notify = Notify()
    audit: Audit = Audit()
    sandbox: Sandbox = Sandbox()

    @model_validator(mode="after")
    def _names_do_not_dangle(self) -> Self:
        faults = [
            f"rule {rule.name!r}: send_to: no peer is named {name!r}; "
            f"{_near_peer(name, self.peers)}"
            for rule in self.rules
            for name in rule.destinations
            if name != SENDER and name not in self.peers
        ]
        faults += [
            f"rule {rule.name!r}: allow_demonstration: {rule.model!r} is a demonstration model; "
            'set allow_demonstration = true or mode = "shadow"'
            for rule in self.rules
            if rule.model in DEMONSTRATION_MODELS
            and rule.mode == "live"
            and not rule.allow_demonstration
        ]
        faults += _shared_ports(self)
        faults += [
            f"rule {name!r} stands {count} times; give each rule a name of its own"
            for name, count in Counter(rule.name for rule in self.rules).items()
            if count > 1
        ]
        faults += _twin_peers(self.peers)
        faults += [
            f"peers.{name}.certificate: needs node.tls.ca; without it callers show no certificate"
            for name, peer in self.peers.items()
            if peer.certificate and not self.node.tls.ca
        ]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def jobs_url(self) -> str:
        """Where workers reach the job API: what hand-outs name."""
        if self.jobs.url or not self.jobs.port:
            return self.jobs.url or self.web.url
        parts = urlsplit(self.web.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}:{self.jobs.port}"

    @property
    def superseded(self) -> list[str]:
        """Keys of 0.1.0 that are in use, each with the one to write instead."""
        found = []
        if self.web.secret_file:
            found.append("web.secret_file: write it as jobs.secret_file")
        if self.web.secret is not None:
            found.append("CHEXFRACT_WEB__SECRET: name it CHEXFRACT_JOBS__SECRET")
        return found

    @property
    def audit_file(self) -> Path | None:
        """The file of the audit trail; None where none is kept."""
        if not self.audit.enabled:
            return None
        return Path(self.audit.file or self.node.data_dir / "audit" / "audit.xml")

    @property
    def shared_dir(self) -> Path:
        """The folder of what several nodes on one ledger have in common."""
        return Path(self.node.shared_dir or self.node.data_dir)

    @property
    def spool_dir(self) -> Path:
        """The folder of images and reports."""
        return self.shared_dir / "spool"

    @property
    def ledger_url(self) -> str:
        """The SQLAlchemy URL of the ledger."""
        if self.node.ledger == "sqlite":
            return f"sqlite:///{self.node.data_dir / 'ledger.sqlite'}"
        return self.node.ledger


def shown(settings: Settings, *, with_units: bool = False) -> dict[str, Any]:
    """Return every key with the value in force; secrets and passwords are starred.

    Parameters
    ----------
    with_units : bool
        Whether durations and sizes are written for people (``"24h"``); else they are numbers.
    """
    context = _WITH_UNITS if with_units else None
    content: dict[str, Any] = settings.model_dump(mode="json", context=context)
    for table, key in (("broker", "url"), ("node", "ledger")):
        content[table][key] = hide_passwords(content[table][key])
    return content


def _shared_ports(settings: Settings) -> list[str]:
    """Return a fault for each two doors of the node that cannot be on one port."""
    node, web, jobs = settings.node, settings.web, settings.jobs
    faults = []
    if node.port and node.port == web.port:
        faults.append(f"node.port and web.port are both {web.port}; give one another port")
    for key, port, host in (("node", node.port, node.host), ("web", web.port, web.host)):
        own = jobs.host or web.host
        if jobs.port and jobs.port == port and (own == host or {own, host} & {"0.0.0.0", "::"}):  # noqa: S104 - a comparison
            faults.append(f"{key}.port and jobs.port are both {port}; give one another port")
    return faults


def _near_peer(name: str, peers: Mapping[str, Peer]) -> str:
    near = difflib.get_close_matches(name, peers, n=1)
    return f"did you mean {near[0]!r}?" if near else f"add [peers.{name}] or name another"


def _twin_peers(peers: dict[str, Peer]) -> list[str]:
    """Return a fault for each two peers of one AE title that nothing tells apart."""
    faults = []
    items = list(peers.items())
    for i, (name, peer) in enumerate(items):
        for other, its in items[:i]:
            if its.ae_title != peer.ae_title or _are_apart(peer, its):
                continue
            faults.append(
                f"peers.{name}.ae_title: {peer.ae_title!r} is peers.{other}, too, and nothing "
                "tells them apart; give them addresses that do not overlap"
            )
    return faults


def _are_apart(peer: Peer, other: Peer) -> bool:
    """Return whether no caller can be both of two peers that share an AE title."""
    if peer.certificate and other.certificate and peer.certificate != other.certificate:
        return True
    ours, theirs = peer.networks, other.networks
    if not ours or not theirs:
        # What a name resolves to is known later: then `peers.who_calls` takes none of them.
        return bool(ours or theirs) or peer.host.casefold() != other.host.casefold()
    return not any(a.version == b.version and a.overlaps(b) for a in ours for b in theirs)


def load(path: Path) -> Settings:
    """Read `path`; a relative ``data_dir`` is taken from the current directory.

    Raises
    ------
    ConfigurationError
        The file cannot be read or a key is wrong; the message names each key's path.
    """
    return toml.settings(Settings, toml.read(path), path)
