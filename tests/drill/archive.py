"""An archive that writes down every C-STORE durably, and misbehaves on command."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, cast

from pydicom import Dataset
from pynetdicom import evt

from dicom_node.dimse.contexts import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    REPORTS,
    VERIFICATION,
)
from dicom_node.dimse.entity import entity

MODES = ("ok", "slow", "refuse", "warn", "full", "fail")
STATUSES = {"warn": 0xB000, "full": 0xA700, "fail": 0xC000}
SLOW_S = 1.0


class DrillArchive:
    """Storage SCP; a file says how it behaves, another one gets a line per object.

    Parameters
    ----------
    log : Path
        Gets one JSON object per C-STORE, fsynced before the answer.
    control : Path
        Holds one of `MODES`.
    """

    def __init__(self, host: str, port: int, log: Path, control: Path) -> None:
        self._control = control
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        self._ae = entity("ARCHIVE", 131072)
        for uid in [VERIFICATION, *REPORTS]:
            self._ae.add_supported_context(uid, [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
        self._mode = "ok"
        handlers: list[Any] = [(evt.EVT_C_ECHO, lambda _: 0), (evt.EVT_C_STORE, self._on_store)]
        self._ae.start_server((host, port), block=False, evt_handlers=handlers)

    def run(self) -> None:
        """Follow the control file until killed."""
        while True:
            mode = self._control.read_text().strip() if self._control.exists() else "ok"
            if mode in MODES and mode != self._mode:
                self._mode = mode
                self._ae.require_calling_aet = ["NOBODY"] if mode == "refuse" else []
            time.sleep(0.05)

    def _on_store(self, event: evt.Event) -> int:
        mode = self._mode
        if mode == "refuse":
            event.assoc.abort()
            return 0xA700
        if mode == "slow":
            time.sleep(SLOW_S)
        status = STATUSES.get(mode, 0)
        line = {
            "at": time.time(),
            "status": status,
            "report": str(cast("Any", event.request).AffectedSOPInstanceUID),
            "sha256": hashlib.sha256(event.encoded_dataset(include_meta=False)).hexdigest(),
            **_told(event.dataset),
        }
        with self._lock:
            os.write(self._log, json.dumps(line).encode() + b"\n")
            os.fsync(self._log)
        return status


def _told(report: Dataset) -> dict[str, str]:
    """Return what a report is about and what it says."""
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    source = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    return {"source": str(source), "text": _text(report), "completion": report.CompletionFlag}


def _text(item: Dataset) -> str:
    """Return the model's own words: (121071, DCM, "Finding")."""
    for child in item.get("ContentSequence", []):
        name = child.get("ConceptNameCodeSequence")
        if child.ValueType == "TEXT" and name and name[0].CodeValue == "121071":
            return str(child.TextValue)
        if text := _text(child):
            return text
    return ""


def main() -> None:
    """Be the archive until killed."""
    options = argparse.ArgumentParser()
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--log", type=Path, required=True)
    options.add_argument("--control", type=Path, required=True)
    chosen = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    DrillArchive(chosen.host, chosen.port, chosen.log, chosen.control).run()


if __name__ == "__main__":
    main()
