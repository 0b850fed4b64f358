"""Encoders that a model's own code loads by name: found in its folder, loaded with its weights.

CheXagent-2 builds its picture encoder by ``from_pretrained(NAME)`` within its own ``__init__``. The
name is that of a hub, which a worker never asks; and transformers 5 builds models on the meta
device, where a nested ``from_pretrained`` is refused. So the nested call makes the encoder's shape
only: its weights come with those of the whole model, or from the satellite's folder afterwards.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from worker.models import remote_code
from worker.models.checkpoint import HUB_NAME, Unacceptable

logger = logging.getLogger(__name__)

FOLDER = "satellites"
"""Within the model's folder: ``satellites/ORG--NAME``."""
KEYS = re.compile(r"vision|visual|encoder|tower|image_model|name_or_path")
"""Keys of a configuration whose values may name an encoder."""
CALLS = re.compile(r"from_pretrained\(\s*[\"']([A-Za-z0-9][\w.-]*/[\w.-]+)[\"']")
NAMED = ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor")


@dataclass(slots=True)
class Nested:
    """Encoders that were built by a model's own code while it was loaded."""

    built: list[tuple[Any, Path]] = field(default_factory=list)
    """Module and the folder that holds its weights."""

    def fill(self, model: Any, missing: list[str]) -> list[str]:
        """Load what the whole model's weights left out; return the keys that are still missing."""
        left = set(missing)
        for module, folder in self.built:
            prefix = next((n for n, m in model.named_modules() if m is module), None)
            wanted = [key for key in left if prefix is not None and key.startswith(f"{prefix}.")]
            if not wanted:
                continue
            # A second copy, for a moment only: what the whole model's file holds is never read from
            # here.
            weights = type(module).from_pretrained(folder, local_files_only=True).state_dict()
            at = len(prefix or "") + 1
            found = {key[at:]: weights[key[at:]] for key in wanted if key[at:] in weights}
            module.load_state_dict(found, strict=False, assign=False)
            left -= {f"{prefix}.{name}" for name in found}
        return sorted(left)


def satellite_folder(root: Path, name: str) -> Path:
    """Return where the satellite of that hub name lies in a model's folder."""
    return root / FOLDER / name.replace("/", "--")


def hub_names(folder: Path) -> dict[str, str]:
    """Return the hub names that configuration and code load, each with the place that says so."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*config.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # whoever loads it says what is wrong with it
        for place, value in _config_texts(content, ""):
            last = place.rpartition(".")[2]
            if KEYS.search(last) and last != "_name_or_path" and HUB_NAME.match(value):
                found.setdefault(value, f"{path.name}: {place}")
    for path in sorted(folder.glob("*.py")):
        for name in CALLS.findall(path.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(name, path.name)
    return found


def _config_texts(content: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield each text of a configuration with its key's path."""
    waiting = [(place, content)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, str):
            yield where, value
        elif isinstance(value, dict):
            waiting += [(f"{where}.{key}".lstrip("."), item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(where, item) for item in value]


@contextmanager
def nested(name: str, outer: Path, root: Path) -> Iterator[Nested]:
    """Let code that is loaded from `outer` load encoders of its own.

    Parameters
    ----------
    name : str
        The model's table, for messages.
    outer : Path
        The folder that is being loaded: calls for it are left alone.
    root : Path
        The model's folder, which holds the satellites.
    """
    library = remote_code.library()
    found = Nested()

    def local_folder(wanted: Any) -> Path:
        return _resolved_folder(name, str(wanted), root)

    def patch_loader(owner: Any, build: Any) -> Any:
        original = owner.__dict__["from_pretrained"].__func__

        @functools.wraps(original)
        def from_pretrained(cls: Any, wanted: Any, *more: Any, **options: Any) -> Any:
            if wanted is None or Path(str(wanted)) == outer:
                return original(cls, wanted, *more, **options)
            return build(cls, original, local_folder(wanted), more, options)

        return mock.patch.object(owner, "from_pretrained", classmethod(from_pretrained))

    def by_name(cls: Any, original: Any, folder: Path, more: Any, options: Any) -> Any:
        return original(cls, str(folder), *more, **options | {"local_files_only": True})

    def as_shape(cls: Any, _: Any, folder: Path, __: Any, options: Any) -> Any:
        config = options.get("config") or _encoder_config(library, cls, folder)
        module = (
            cls.from_config(config) if hasattr(cls, "from_config") else cls._from_config(config)
        )
        # from_config makes no weights: they come with those of the whole model.
        found.built.append((module, folder))
        return module

    models = [library.PreTrainedModel]
    # AutoModel has from_pretrained from a base class: the patch must sit where it is defined.
    models += [base for base in library.AutoModel.__mro__ if "from_pretrained" in base.__dict__][:1]
    with ExitStack() as stack:
        for owner in models:
            stack.enter_context(patch_loader(owner, as_shape))
        for each in NAMED:
            owner = getattr(library, each)
            if "from_pretrained" in owner.__dict__:
                stack.enter_context(patch_loader(owner, by_name))
        yield found


def _encoder_config(library: Any, cls: Any, folder: Path) -> Any:
    own = getattr(cls, "config_class", None)
    reader = own if own is not None else library.AutoConfig
    options = {} if own is not None else {"trust_remote_code": True}
    return reader.from_pretrained(str(folder), local_files_only=True, **options)


def _resolved_folder(name: str, wanted: str, root: Path) -> Path:
    """Return the local folder of what a model's code loads by name."""
    folder = satellite_folder(root, wanted)
    if (folder / "config.json").is_file():
        return folder
    path = Path(wanted)
    # Never a folder below the working directory: whoever writes there would give it code.
    if path.is_absolute() and path.is_dir() and (path / "config.json").is_file():
        if path.is_relative_to(root):
            return path
        if not any(path.rglob("*.py")):
            logger.warning("models.%s: %s is on no list of sums", name, path)
            return path
    place = hub_names(root).get(wanted, "its code")
    raise Unacceptable(
        f"models.{name}.path: {place} loads {wanted}, and nothing is loaded from a hub; get it "
        f"with `chexfract-worker model fetch {wanted} --to {folder}`, then accept {root} again"
    )
