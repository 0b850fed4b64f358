"""Asks the worker's program whether two files are one image; the node itself knows no pictures."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dicom_node.base.confine import child_environment, python_command

ANSWER_S = 60.0


@dataclass(frozen=True, slots=True)
class LikenessAnswer:
    """What a comparison found; ``is_known`` is False where nobody could compare."""

    is_known: bool
    is_same: bool = False
    text: str = ""


def compare(first: Path, second: Path, within_s: float = ANSWER_S) -> LikenessAnswer:
    """Return whether `second` holds the image of `first`, in whatever lossless coding.

    Both are read in a process of its own, which has no secret: what is in them is not trusted.
    """
    command = python_command("-m", "worker", "same", str(first.absolute()), str(second.absolute()))
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=within_s, env=child_environment()
        )
        answer = json.loads(done.stdout)
        return LikenessAnswer(True, bool(answer["is_same"]), str(answer["text"])[:256])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return LikenessAnswer(
            False, text="cannot be compared on this host: no worker is installed here"
        )
