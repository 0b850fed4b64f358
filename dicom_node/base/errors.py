"""What can go wrong, as one tree.

ChexFractError
├── ConfigurationError      a file, key or flag is wrong: nothing starts (exit 78)
├── Transient               the same act may succeed later
│   ├── Unreachable         a peer, the broker or the node gives no answer (exit 69)
│   ├── OutOfResources      disk, memory or accelerator is full (exit 75)
│   └── Busy                the other side asks to come back later (exit 75)
└── Permanent               the same act will fail again
    ├── NotUnderstood       received bytes are not the DICOM or JSON that they claim to be
    ├── Refused             a peer answered with a failure
    ├── Rejected            an Instance cannot be analysed; the reason goes into its report
    ├── Stale               a token no longer holds its job; nothing was changed
    ├── NotFound            no such Instance, job, peer or file
    └── ModelFault          a model's files, licence or output are not acceptable

A class says what happened, a message says to what and what to do. Whether to try again is a
class test: ``except Transient``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from typing import ClassVar


class ChexFractError(Exception):
    """Anything that this project raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigurationError(ChexFractError):
    """A configuration file, key or flag is wrong.

    Parameters
    ----------
    what : str
        All that is wrong, in one line.
    faults : sequence of str
        Where there are several: each in a line of its own.
    """

    exit_code = os.EX_CONFIG if hasattr(os, "EX_CONFIG") else 78

    def __init__(self, what: str = "", faults: Sequence[str] = ()) -> None:
        super().__init__(what)
        self.faults = tuple(faults)


class Transient(ChexFractError):
    """The same act may succeed later."""

    exit_code = 75


class Unreachable(Transient):
    """A peer, the broker or the node gives no answer."""

    exit_code = 69


class OutOfResources(Transient):
    """Disk, memory or accelerator is full."""


class Busy(Transient):
    """The other side asks to come back later."""


class Permanent(ChexFractError):
    """The same act will fail again."""


class NotUnderstood(Permanent):
    """Received bytes are not what they claim to be."""


class Refused(Permanent):
    """A peer answered with a failure."""


class MismatchedAnswer(Refused):
    """A peer answered with success, and about another object than it was sent."""


class Rejected(Permanent):
    """An Instance cannot be analysed.

    Parameters
    ----------
    code : str
        A stable word for machines, for example ``"not-grayscale"``.
    text : str
        One sentence for people, without patient data.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.code}: {self.text}"


class Stale(Permanent):
    """A token no longer holds its job; nothing was changed."""


class NotFound(Permanent):
    """No such Instance, job, peer or file."""


class ModelFault(Permanent):
    """A model's files, licence or output are not acceptable."""


def for_strangers(exc: BaseException) -> str:
    """Return what an error says to who asked over the network: what and why, and no path of ours.

    What is full or away here is not theirs to mend, and stands in the log.
    """
    if isinstance(exc, OutOfResources):
        return "out of resources; try later"
    if isinstance(exc, Unreachable):
        return "something that this needs gives no answer; try later"
    if isinstance(exc, ConfigurationError):
        return "this node's configuration is not right; its log says what"
    return hide_paths(str(exc))


def hide_paths(text: str) -> str:
    """Return a text without paths of this machine's file system."""
    return _path_pattern().sub("…", text)


@cache
def _path_pattern() -> re.Pattern[str]:
    # A path of the web side, such as /sign-in, begins with no folder of this machine.
    try:
        tops = [re.escape(entry.name) for entry in os.scandir("/") if entry.is_dir()]
    except OSError:
        tops = ["etc", "home", "opt", "root", "srv", "tmp", "usr", "var"]
    of_machine = "|".join(sorted(tops, key=len, reverse=True)) or "tmp"
    return re.compile(rf"(?<![\w.:/-])/(?:{of_machine})(?=/)[^\s'\"<>|,;:()\[\]]*")
