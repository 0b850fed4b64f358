"""What remote code needs around it: no network, a private module cache, the older cache API."""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger(__name__)


def library() -> Any:
    """Return the package transformers, shut in; its types differ from release to release."""
    shut_in()
    import transformers

    package: Any = transformers
    package.utils.logging.disable_progress_bar()  # standard error holds lines, not bars
    return package


def shut_in() -> None:
    """Keep transformers off the network and out of the home directory; once per process.

    Must come before the first import of transformers, which reads these variables then. Each
    process has its own folder of remote modules: transformers copies code there without a lock,
    and a worker's home may be read-only.
    """
    if "transformers" in sys.modules:
        _move_modules()
        return
    private = _private_folder()
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HOME=private,
        HF_MODULES_CACHE=f"{private}/modules",
        TOKENIZERS_PARALLELISM="false",
        USE_TF="0",
        USE_FLAX="0",
        TRANSFORMERS_NO_ADVISORY_WARNINGS="1",
        TRANSFORMERS_VERBOSITY=os.environ.get("TRANSFORMERS_VERBOSITY", "error"),
        HF_HUB_DISABLE_PROGRESS_BARS="1",
    )


@functools.cache
def _private_folder() -> str:
    folder = tempfile.mkdtemp(prefix="chexfract-hf-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _move_modules() -> None:
    """Give remote code a private folder although transformers was imported before."""
    from transformers import dynamic_module_utils as dynamic

    if os.environ.get("HF_MODULES_CACHE", "").startswith(_private_folder()):
        return
    # the name is not exported, and each function reads it again
    setattr(dynamic, "HF_MODULES_CACHE", f"{_private_folder()}/modules")  # noqa: B010


def give_cache_its_old_names() -> None:
    """Add to ``DynamicCache`` what code written for transformers 4.38 to 4.48 calls, if absent."""
    from transformers.cache_utils import DynamicCache

    # 4.36 sets seen_tokens on the instance: the class does not show it
    cache = DynamicCache()
    for name, member in _OLD_NAMES.items():
        if not hasattr(cache, name):
            setattr(DynamicCache, name, member)


def let_lists_tie_weights() -> None:
    """Let code for transformers 4 tie its last layer: it lists the keys, and 5 wants pairs of them.

    A checkpoint whose last layer is its embedding holds that once. A list could only mean this.
    """
    from transformers import PreTrainedModel

    found = getattr(PreTrainedModel, "get_expanded_tied_weights_keys", None)
    if found is None or getattr(found, "takes_lists", False):
        return
    expand: Any = found

    @functools.wraps(expand)
    def from_list(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self._tied_weights_keys, list | tuple | set):
            table = self.get_input_embeddings()
            source = next((name for name, part in self.named_modules() if part is table), None)
            pairs = dict.fromkeys(self._tied_weights_keys, f"{source}.weight")
            self._tied_weights_keys = pairs if source is not None else None
        return expand(self, *args, **kwargs)

    from_list.takes_lists = True  # type: ignore[attr-defined]
    setattr(PreTrainedModel, "get_expanded_tied_weights_keys", from_list)  # noqa: B010


def _seen_tokens(cache: Any) -> int:
    seen: int = cache.get_seq_length()
    return seen


def _get_max_length(cache: Any) -> None:
    """Return None: there is no limit."""


def _get_usable_length(cache: Any, new_seq_length: int, layer_idx: int = 0) -> int:
    usable: int = cache.get_seq_length(layer_idx)
    return usable


def _from_legacy_cache(cls: type, past_key_values: Any = None) -> Any:
    cache = cls()
    for index, (keys, values) in enumerate(past_key_values or ()):
        cache.update(keys, values, index)
    return cache


def _to_legacy_cache(cache: Any) -> Any:
    return cache


_OLD_NAMES: dict[str, Any] = {
    "seen_tokens": property(_seen_tokens),
    "get_max_length": _get_max_length,
    "get_usable_length": _get_usable_length,
    "from_legacy_cache": classmethod(_from_legacy_cache),
    "to_legacy_cache": _to_legacy_cache,
}


def keep_old_contract(model_class: type) -> None:
    """Let ``prepare_inputs_for_generation`` of older code meet what it was written for.

    Such code slices the ids by the cache's length, derives positions from the mask, and cuts the
    mask when ``get_max_length()`` is not None. Newer releases pass positions of the whole
    sequence, which it hands on unsliced, and answer -1 for "no limit", by which it cuts the mask
    wrongly. Code that names ``position_ids`` itself is newer and left alone.
    """
    prepare = getattr(model_class, "prepare_inputs_for_generation", None)
    if prepare is None or prepare.__module__.startswith("transformers."):
        return
    if getattr(prepare, "keeps_old_contract", False):
        return
    if "position_ids" in inspect.signature(prepare).parameters:
        return

    # generate() validates its arguments by this method's signature, which wraps() keeps
    @functools.wraps(prepare)
    def as_before(self: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("position_ids", None)
        with _without_longest(kwargs.get("past_key_values")):
            return prepare(self, *args, **kwargs)

    as_before.keeps_old_contract = True  # type: ignore[attr-defined]
    model_class.prepare_inputs_for_generation = as_before  # type: ignore[attr-defined]


@contextlib.contextmanager
def _without_longest(cache: Any) -> Iterator[None]:
    """Let a cache that has no limit say None, as it did, while older code looks at it."""
    from transformers.cache_utils import DynamicCache

    if not isinstance(cache, DynamicCache):
        yield
        return
    # the instance only: the library itself counts on -1
    cache.__dict__["get_max_length"] = lambda *_: None
    try:
        yield
    finally:
        cache.__dict__.pop("get_max_length", None)


LOST = (
    "CUDA error",
    "HIP error",
    "XPU error",
    "UR_RESULT_ERROR_DEVICE_LOST",
    "command buffer exited",
)
"""What NVIDIA's, AMD's, Intel's and Apple's runtimes say of a device that is lost."""


def empty_cache(device: Any) -> None:
    """Give back what the allocator of an accelerator keeps for later."""
    import torch

    if device is not None and device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def is_broken(exc: BaseException) -> bool:
    """Whether `exc` says that the accelerator is lost to this process.

    After an illegal access or a device-side assertion every later call fails in the same way: no
    picture is to blame.
    """
    text = str(exc)
    is_lost = any(mark in text for mark in LOST) or type(exc).__name__ == "AcceleratorError"
    return is_lost and not is_out_of_memory(exc)


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether `exc` says that the accelerator's or the machine's memory is full."""
    if isinstance(exc, MemoryError) or type(exc).__name__ == "OutOfMemoryError":
        return True
    text = str(exc)
    return isinstance(exc, RuntimeError) and (
        "out of memory" in text
        or "can't allocate memory" in text
        or "_ALLOC_FAILED" in text
        or "OUT_OF_DEVICE_MEMORY" in text
        or "OUT_OF_HOST_MEMORY" in text
    )
