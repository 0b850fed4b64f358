"""Asks the worker's program whether it would analyse a file; the node itself knows no pictures."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import IO

from dicom_node.base.confine import child_environment, python_command

ANSWER_S = 20.0


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """What the gate says of a header; `is_known` is False where nobody could be asked."""

    is_known: bool
    passes: bool = False
    code: str = ""
    text: str = ""


def ask(file: IO[bytes]) -> GateVerdict:
    """Return the gate's verdict on a Part 10 file, by the defaults of worker.toml.

    It is read in a process of its own: what is in the file is not trusted.

    Parameters
    ----------
    file : binary file
        Has a descriptor; it is read from its beginning.
    """
    file.seek(0)
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    command = python_command("-m", "worker", "gate", "-", "--json")
    try:
        done = subprocess.run(
            command,
            stdin=file,
            capture_output=True,
            check=False,
            timeout=ANSWER_S,
            env=child_environment(),
        )
        answer = json.loads(done.stdout)
        return GateVerdict(True, bool(answer["passes"]), str(answer["code"]), str(answer["text"]))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        return GateVerdict(False)
