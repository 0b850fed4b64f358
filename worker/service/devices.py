"""One worker per device: children of one command, each with its own accelerator."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from dicom_node.base.errors import ConfigurationError

logger = logging.getLogger(__name__)

DEVICE = re.compile(r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?|cuda:(GPU|MIG)-[A-Za-z0-9/-]{4,128})$")
"""As torch names devices, or a GPU or a slice of one by the name that ``nvidia-smi -L`` gives."""
KEY = "CHEXFRACT_WORKER_WORKER__DEVICE"
_SIBLINGS = "CHEXFRACT_WORKER_WORKER__DEVICES"
"""All of them: the workers on them share the processors."""
_PAUSE_S = (1.0, 30.0)
"""First and longest wait before a child that ended is started again."""
_END_S = 5.0


def parse_devices(text: str) -> list[str]:
    """Return the devices of a list such as ``cuda:0,cuda:1``.

    Raises
    ------
    ConfigurationError
        A name is none, or stands twice.
    """
    devices = [name.strip() for name in text.split(",") if name.strip()]
    for name in devices:
        if not DEVICE.match(name):
            raise ConfigurationError(
                f"--devices: {name[:80]!r} is not a device; cuda:0, xpu:1, cpu"
            )
    if not devices or len(set(devices)) != len(devices):
        raise ConfigurationError("--devices: name each device once, such as cuda:0,cuda:1")
    return devices


def choose_device(device: str) -> str:
    """Make a device that has a name, not a number, the only visible one; return torch's name.

    Must come before the first use of CUDA, which reads the variable then.
    """
    name = device.partition(":")[2]
    if not name or name.isdigit():
        return device
    os.environ["CUDA_VISIBLE_DEVICES"] = name
    return "cuda"


def run_each(
    command: Sequence[str],
    devices: Sequence[str],
    wait: Callable[[float], object] = time.sleep,
) -> int:
    """Run `command` once per device until asked to end; return the exit status.

    A child that ends by itself is started again, after a growing pause; a child whose configuration
    is wrong ends all.
    """
    fleet = _Fleet(command, devices)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: fleet.stop())
    return fleet.run(wait)


class _Fleet:
    def __init__(self, command: Sequence[str], devices: Sequence[str]) -> None:
        self._command = list(command)
        self._children: dict[str, subprocess.Popen[bytes] | None] = dict.fromkeys(devices)
        self._due = dict.fromkeys(devices, 0.0)
        self._pauses = dict.fromkeys(devices, _PAUSE_S[0])
        self._began = dict.fromkeys(devices, 0.0)
        self._stops = threading.Event()

    def stop(self) -> None:
        """End all children and do not start them again; safe in a signal handler."""
        self._stops.set()

    def run(self, wait: Callable[[float], object]) -> int:
        status = 0
        while not self._stops.is_set():
            for device in self._children:
                if (ended := self._tend_child(device)) == ConfigurationError.exit_code:
                    status = ended
                    self.stop()
            wait(0.1)
        self._end_children()
        return status

    def _tend_child(self, device: str) -> int | None:
        """Start a child that is due; return the status of a child that ended."""
        child, now = self._children[device], time.monotonic()
        if child is None:
            if now >= self._due[device]:
                environment = os.environ | {KEY: device, _SIBLINGS: json.dumps([*self._children])}
                self._children[device] = subprocess.Popen(self._command, env=environment)
                self._began[device] = now
            return None
        status = child.poll()
        if status is None:
            return None
        # It has run for a while, so its end is a new trouble and not the last one again.
        if now - self._began[device] > 10 * _PAUSE_S[1]:
            self._pauses[device] = _PAUSE_S[0]
        pause = self._pauses[device]
        logger.warning("the worker on %s ended (%d); again in %.0f s", device, status, pause)
        self._children[device], self._due[device] = None, now + pause
        self._pauses[device] = min(2 * pause, _PAUSE_S[1])
        return status

    def _end_children(self) -> None:
        children = [child for child in self._children.values() if child is not None]
        for child in children:
            child.terminate()
        until = time.monotonic() + _END_S
        for child in children:
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def own_command(arguments: Sequence[str]) -> list[str]:
    """Return how this program runs itself with other arguments."""
    return [sys.executable, "-P", "-m", "worker", *arguments]
