"""Every process that node or worker starts: what it reads and what keeps it in, for `doctor`."""

from __future__ import annotations

from dataclasses import dataclass

LOCKED = "Landlock and seccomp: no secret, ledger or network"
"""What `confine` does."""

OURS = "not locked in: it needs the network or the ledger, and is this software itself"
TOOL = "not locked in: it reads what this host and its user made, nothing of strangers"


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A kind of process: the file that starts it, what it reads of strangers, what keeps it in."""

    name: str
    file: str
    reads: str
    kept_in_by: str

    @property
    def is_locked(self) -> bool:
        """Whether it is locked in, where the kernel can."""
        return self.kept_in_by == LOCKED


CHILDREN = (
    ChildProcess("decoder", "worker/image/decode.py", "compressed pixels", LOCKED),
    ChildProcess("JPEG decoder", "worker/image/decoders.py", "compressed pixels", LOCKED),
    ChildProcess("preview", "dicom_node/web/preview.py", "images", LOCKED),
    ChildProcess("header reader", "dicom_node/flow/ask_gate.py", "headers", LOCKED),
    ChildProcess("comparer", "dicom_node/flow/ask_same.py", "images", LOCKED),
    ChildProcess("engine of [models.X] python", "worker/models/child.py", "model code", LOCKED),
    ChildProcess("preparer", "worker/service/preparers.py", "images", LOCKED),
    ChildProcess("role", "dicom_node/run/supervisor.py", "associations and requests", OURS),
    ChildProcess("worker", "dicom_node/run/supervisor.py", "images by the job API", OURS),
    ChildProcess("start of serve", "dicom_node/run/apart.py", "the ledger", TOOL),
    ChildProcess("worker of a device", "worker/service/devices.py", "images by the job API", OURS),
    ChildProcess("broker", "dicom_node/flow/broker.py", "messages on loopback", OURS),
    ChildProcess("demonstration", "dicom_node/operate/sandbox.py", "drawings", OURS),
    ChildProcess("doctor of the worker", "dicom_node/operate/surroundings.py", "nothing", TOOL),
    ChildProcess("trial of confinement", "dicom_node/operate/machine.py", "nothing", LOCKED),
    ChildProcess("pg_dump", "dicom_node/store/backup.py", "the ledger", TOOL),
    ChildProcess("nvidia-smi", "worker/service/heartbeat.py", "nothing", TOOL),
    ChildProcess("engine's interpreter", "worker/doctor.py", "nothing", TOOL),
    ChildProcess("validators", "worker/report/validate.py", "reports that a person names", TOOL),
)
"""All kinds. An engine without ``python`` runs in the worker itself."""
