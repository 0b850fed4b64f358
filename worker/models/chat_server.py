"""Any OpenAI-compatible chat server with pictures: vLLM, SGLang, ``transformers serve``."""

from __future__ import annotations

import base64
import io
import ipaddress
import logging
import random
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dicom_node.base.errors import (
    Busy,
    ConfigurationError,
    ModelFault,
    NotFound,
    OutOfResources,
    Transient,
    Unreachable,
)
from worker.models import Description, ModelInfo, Prepared, Progress, Unexplained, licences
from worker.models import generation as gen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.image.pixels import Radiograph
    from worker.models.options import ChatServer as Options

logger = logging.getLogger(__name__)

REASONS = {"stop": "stop", "length": "length"}
LONGEST_WAIT_S = 30.0


def build(name: str, options: Options, device: str) -> ChatServerModel:
    """Return the model of ``[models.NAME]``; the device is the server's affair."""
    return ChatServerModel(name, options)


class ChatServerModel:
    """A model behind ``/v1/chat/completions``; radiographs of a batch are asked at the same time.

    Parameters
    ----------
    name : str
        The table ``[models.NAME]``.
    options : Options
        Its keys, checked.

    Raises
    ------
    ConfigurationError
        The licence is not accepted, or the server is not on this machine and ``allow_remote`` is
        not set: pixels would leave it.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.options = options
        licences.gate(name, options, options.demonstration)
        if not options.allow_remote and not _is_here(options.url):
            raise ConfigurationError(
                f"models.{name}.url: {urlsplit(options.url).hostname} is not this machine, and "
                f"pixels would leave it; set allow_remote = true if they may"
            )
        self._key = _read_key(name, options.api_key_file)
        self._served = options.served_model
        self._root = ""
        self._client: Any = None

    @property
    def info(self) -> ModelInfo:
        """What a report says of this model; the server's name for it is known after `load`."""
        options = self.options
        served = self._served or "unknown"
        return ModelInfo(
            name=self.name,
            version=f"{self.name}-{served.rstrip('/').rpartition('/')[2]}",
            prompt=options.prompt,
            parameters={
                "served": served,
                "root": self._root or served,
                "prompt": options.prompt,
                "decode": "greedy",
                "max_new_tokens": str(options.max_new_tokens),
            }
            | ({"system": options.system} if options.system else {}),
            licence="" if options.demonstration else licences.of(options),
            licence_accepted_by=options.licence_accepted_by,
            demonstration=options.demonstration,
            device="server",
            outside=options.outside,
        )

    def load(self) -> None:
        """Ask the server which models it serves.

        Raises
        ------
        Unreachable
            It gives no answer.
        ConfigurationError
            It does not serve the model that the table names: neither lists it nor answers for it.
        """
        licences.log_acceptance(self.name, self.options, self.options.demonstration)
        self._client = self._open_client()
        served = self._list_models()
        wanted = self.options.served_model or (next(iter(served)) if len(served) == 1 else "")
        # `transformers serve` lists what lies in its cache, not the folder that it serves
        if wanted not in served and not (wanted and self._is_answered_by(wanted)):
            raise ConfigurationError(
                f"models.{self.name}.served_model: {wanted or 'empty'}; the server has "
                f"{', '.join(sorted(served)) or 'none'}"
            )
        self._served = wanted
        self._root = str(served.get(wanted, {}).get("root") or wanted)

    def _list_models(self) -> dict[str, dict[str, Any]]:
        """Return the server's models by name; none where it fails to list them but has a name."""
        try:
            answer = self._retry_patiently(lambda: self._send_request("GET", "/models", None))
            return {str(entry["id"]): entry for entry in answer["data"]}
        except (KeyError, TypeError, ModelFault, Unexplained) as exc:
            if self.options.served_model and isinstance(exc, Unexplained):
                return {}
            raise ConfigurationError(
                f"models.{self.name}.url: {self.options.url} does not answer as an "
                f"OpenAI-compatible server does"
            ) from exc
        except Transient:
            if not self.options.served_model:
                raise
            return {}

    def _is_answered_by(self, wanted: str) -> bool:
        """Whether the server answers a question to a model that it does not list."""
        question = self._build_question(gen.invented_pixels()) | {"model": wanted, "max_tokens": 1}
        try:
            self._retry_patiently(lambda: self._send_request("POST", "/chat/completions", question))
        except (ModelFault, NotFound):
            return False
        return True

    def _open_client(self) -> Any:
        import httpx2

        options = self.options
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=options.concurrent)
        try:
            return httpx2.Client(
                base_url=options.url.rstrip("/"),
                headers=headers,
                limits=limits,
                timeout=httpx2.Timeout(
                    options.max_time, connect=options.connect_timeout, pool=None
                ),
                # what is meant for this machine must not go to a proxy of the environment
                trust_env=not _is_here(options.url),
            )
        except (ValueError, ImportError) as exc:
            raise ConfigurationError(f"the environment's proxy: {exc}") from exc

    def warm_up(self) -> None:
        """Ask about an invented picture."""
        self._describe_pixels(gen.invented_pixels())

    def describe(
        self, radiographs: Sequence[Radiograph | Prepared], progress: Progress | None = None
    ) -> list[Description]:
        """Return one description per radiograph, in order.

        Raises
        ------
        Unreachable, Busy, OutOfResources
            The server fails in passing, also after the table's number of attempts, or no longer
            serves this model to this worker.
        Unexplained
            It fails at this picture each time.
        ModelFault
            The server refuses this picture, or its answer holds no text.
        """
        # The server makes batches of what comes together; one request after another would leave it
        # idle.
        with ThreadPoolExecutor(self.options.concurrent, thread_name_prefix="chat") as pool:
            asked = [
                pool.submit(self._describe_pixels, radiograph.pixels, progress)
                for radiograph in radiographs
            ]
            # Each answer is a sign of life; results are then taken in the order of the pictures.
            for _ in as_completed(asked):
                if progress is not None:
                    progress()
        return [future.result() for future in asked]

    def _describe_pixels(
        self, pixels: NDArray[np.uint8], progress: Progress | None = None
    ) -> Description:
        if self._client is None:
            raise ModelFault(f"{self.name} is not loaded")
        started = time.monotonic()
        question = self._build_question(pixels)
        try:
            answer = self._retry_patiently(
                lambda: self._send_request("POST", "/chat/completions", question), progress
            )
        except (ConfigurationError, NotFound) as exc:
            # it served this model when this worker started: no picture is to blame
            raise Unreachable(str(exc)) from exc
        text, reason = _read_answer(answer, self.name)
        return Description(text, _count_tokens(answer), reason, time.monotonic() - started)

    def _build_question(self, pixels: NDArray[np.uint8]) -> dict[str, Any]:
        url = f"data:image/png;base64,{_encode_png(pixels, self.options.longest_side)}"
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": self.options.prompt},
        ]
        system = self.options.system
        turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        return {
            "model": self._served,
            "messages": [*turns, {"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self.options.max_new_tokens,
            "stream": False,
        }

    def _retry_patiently(
        self, act: Callable[[], dict[str, Any]], progress: Progress | None = None
    ) -> dict[str, Any]:
        """Call `act` again, after growing pauses, while it fails in passing."""
        wait = self.options.retry_wait
        for _ in range(self.options.attempts - 1):
            with suppress(Transient):
                return act()
            if progress is not None:
                progress()
            # apart from each other, or all concurrent requests come back at once
            time.sleep(min(wait, LONGEST_WAIT_S) * random.uniform(0.5, 1.0))  # noqa: S311
            wait *= 2
        return act()

    def _send_request(self, method: str, path: str, content: Any) -> dict[str, Any]:
        import httpx2

        where = f"{self.options.url}{path}"
        try:
            answer = self._client.request(method, path, json=content)
        except httpx2.TimeoutException as exc:
            raise Unreachable(f"{where}: no answer in time ({type(exc).__name__})") from exc
        except httpx2.TransportError as exc:
            raise Unreachable(f"{where}: {type(exc).__name__}: {exc}") from exc
        except httpx2.RequestError as exc:
            raise Unexplained(f"{where}: {type(exc).__name__}: {exc}") from exc
        _check_status(answer.status_code, where, method == "POST")
        try:
            parsed = answer.json()
        except (ValueError, RecursionError) as exc:
            raise Unexplained(f"{where}: the answer is not JSON") from exc
        if not isinstance(parsed, dict):
            raise ModelFault(f"{where}: the answer is not a JSON object")
        return parsed

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _check_status(status: int, where: str, is_question: bool) -> None:
    """Turn an HTTP status into an error class."""
    if status < 300:
        return
    if status in (401, 403):
        raise ConfigurationError(f"{where}: answered {status}; mind api_key_file")
    if status == 429:
        raise Busy(f"{where}: answered 429, too many requests")
    if status == 507:
        raise OutOfResources(f"{where}: answered 507, the server's memory is full")
    if status in (408, 425, 502, 503, 504):
        raise Unreachable(f"{where}: answered {status}")
    if status >= 500:
        raise (Unexplained if is_question else Unreachable)(f"{where}: answered {status}")
    if is_question and (status < 400 or status in (404, 405, 410)):
        raise NotFound(f"{where}: answered {status}: it does not serve this model here")
    if is_question:
        raise ModelFault(f"{where}: the server refuses this picture or prompt: {status}")
    raise ConfigurationError(f"{where}: answered {status}; url must end with the server's /v1")


def _read_answer(answer: dict[str, Any], name: str) -> tuple[str, str]:
    """Return the text of an answer and why it ended there."""
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        reason = REASONS.get(choice.get("finish_reason") or "stop", "length")
    except (KeyError, IndexError, TypeError, AttributeError) as exc:
        raise ModelFault(f"{name}: the server's answer holds no text") from exc
    if isinstance(text, list):
        parts = [part for part in text if isinstance(part, dict) and part.get("type") == "text"]
        text = "".join(str(part.get("text", "")) for part in parts) if parts else None
    if not isinstance(text, str):
        raise ModelFault(f"{name}: the server's answer holds no text")
    # half a surrogate pair is not a character, and no file could hold it
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip(), reason


def _count_tokens(answer: dict[str, Any]) -> int:
    """Return how many tokens the server says that it made; 0 where it says nothing of use."""
    usage = answer.get("usage")
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else 0


def _encode_png(pixels: NDArray[np.uint8], longest_side: int) -> str:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((longest_side, longest_side))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _is_here(url: str) -> bool:
    """Whether every address of the host is a loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def _read_key(name: str, path: str) -> str:
    if not path:
        return ""
    where = f"models.{name}.api_key_file: {path}"
    try:
        key = Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, RuntimeError) as exc:
        raise ConfigurationError(f"{where}: {getattr(exc, 'strerror', None) or exc}") from exc
    except ValueError as exc:
        raise ConfigurationError(f"{where}: not a text file") from exc
    if not key.isascii() or not key.isprintable():
        raise ConfigurationError(f"{where}: a key is one line of ASCII characters")
    return key
