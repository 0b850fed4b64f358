"""Makes a weakened copy of the demonstration model, so that two checkpoints can be compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).parent / "model"
WEIGHTS = "model.safetensors"
MARK = "DEMONSTRATION"
"""As `worker.models.checkpoint` knows a folder whose answers mean nothing for patients."""


def weaken(out: Path, noise: float, seed: int) -> int:
    """Write the demonstration model with noise on its weight matrices; return how many changed.

    Parameters
    ----------
    out : Path
        A new folder.
    noise : float
        Standard deviation of the noise, as a share of that of each matrix.
    seed : int
        Of the noise: the same seed gives the same weights.

    Raises
    ------
    ValueError
        `out` exists and is not empty, or `noise` is not positive.
    """
    if not 0 < noise <= 1:
        raise ValueError("--noise is over 0 and at most 1")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty; name a new folder")
    shutil.copytree(
        FOLDER, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "canary.json")
    )
    weights, random, changed = load_file(out / WEIGHTS), np.random.default_rng(seed), 0
    for name in sorted(weights):
        matrix = weights[name]
        if matrix.ndim < 2 or matrix.dtype.kind != "f":
            continue
        spread = float(matrix.std()) * noise
        weights[name] = (matrix + random.normal(0, spread, matrix.shape)).astype(matrix.dtype)
        changed += 1
    (out / MARK).write_text("Weakened on purpose, and of drawings.\n", encoding="utf-8")
    (out / WEIGHTS).unlink()
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    return changed
