"""Tensors out of a pickled checkpoint, and nothing else: no code of the file or of packages runs.

PyTorch Lightning wrote its callbacks into checkpoints, keyed by their classes: torch refuses such
a file, and loading it whole would import that package and let the file run what it names.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dicom_node.base.errors import NotUnderstood
from dicom_node.base.rims import foreign_code
from worker.models.checkpoint import Unacceptable

ALLOWED = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
}
"""What a pickle of tensors needs beside storages, which torch itself brings."""


class Dropped:
    """Stands where the file names anything else: it takes what comes and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Dropped:
        """Return itself."""
        return self

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None:
        """Take an item of a pickled list."""

    def extend(self, _: Any) -> None:
        """Take items of a pickled list."""

    add = append


class TensorUnpickler(pickle.Unpickler):
    """Knows tensors; all else becomes `Dropped`."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what the pickle names, if it is needed for tensors."""
        import torch

        if (module, name) in ALLOWED:
            return super().find_class(module, name)
        # A dtype is a value of torch, not a class; pickles name it as they name classes.
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return Dropped


def tensors_of(path: Path) -> dict[str, Any]:
    """Return the tensors of a checkpoint, or those of its ``state_dict`` where it has any.

    Raises
    ------
    Unacceptable
        It is not a checkpoint of torch, or holds no tensors by name.
    """
    import torch

    refused = NotUnderstood("not of tensors alone")
    try:
        with foreign_code(lambda _: refused):  # torch's loader raises anything
            content = torch.load(path, map_location="cpu", weights_only=True)
    except NotUnderstood:  # the next attempt says why
        content = _restricted_load(path)
    weights = content.get("state_dict", content) if isinstance(content, dict) else {}
    found = {
        str(name): value
        for name, value in (weights.items() if isinstance(weights, dict) else ())
        if isinstance(value, torch.Tensor)
    }
    if not found:
        raise Unacceptable(
            f"{path.name}: no tensors by name; convert it with "
            f"safetensors.torch.save_file(state_dict, ...)"
        )
    return found


def _restricted_load(path: Path) -> Any:
    import torch

    module = SimpleNamespace(
        Unpickler=TensorUnpickler,
        load=lambda file, **options: TensorUnpickler(file, **options).load(),
        __name__="tensors",
    )

    def refuse_pickle(exc: BaseException) -> Unacceptable:
        text = f"{type(exc).__name__}: {exc}"[:200]
        return Unacceptable(f"{path.name}: not a checkpoint of tensors: {text}")

    with foreign_code(refuse_pickle):  # pickle raises anything
        return torch.load(path, map_location="cpu", pickle_module=module, weights_only=False)
