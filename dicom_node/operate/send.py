"""What `echo` and `send` do at a peer, and what they print."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dicom_node.dimse import scu
from dicom_node.flow import test_report
from dicom_node.operate import progress
from dicom_node.operate.show import print_json
from dicom_node.settings import Peer, Settings


def echo(settings: Settings, peer: Peer, name: str, *, as_json: bool) -> None:
    """Ask a peer for a C-ECHO and print how long it took."""
    ms = scu.echo(settings.node.ae_title, peer)
    where = f"{peer.ae_title}@{peer.host}:{peer.port}"
    if as_json:
        print_json({"peer": name, "where": where, "ms": round(ms, 1)})
    else:
        print(f"{name} ({where}) answered C-ECHO in {ms:.0f} ms")


def send(settings: Settings, peer: Peer, name: str, paths: Sequence[Path], *, as_json: bool) -> int:
    """Send files and folders to a peer; return 1 when one of them was not taken."""
    files = list(_files_below(paths))
    rows: list[dict[str, Any]] = []
    with progress.bar("send", len(files)) as advance:

        def note(path: Path, code: int | None, problem: str) -> None:
            rows.append({"file": str(path), "status": code, "problem": problem})
            advance(len(rows))

        scu.send(settings.node.ae_title, peer, files, note)
    failed = [row for row in rows if row["problem"] or row["status"] is None]
    if as_json:
        print_json({"peer": name, "sent": len(rows) - len(failed), "files": rows})
    else:
        for row in failed:
            shown = "" if row["status"] is None else f"0x{row['status']:04X} "
            print(f"{row['file']}: {shown}{row['problem']}")
        print(f"{len(rows) - len(failed)} of {len(files)} sent to {name}")
    return 1 if failed or len(rows) < len(files) else 0


def send_test(settings: Settings, peer: Peer, name: str, *, as_json: bool) -> int:
    """Store test objects about nobody at a peer; return 1 when any was not taken."""
    taken = test_report.send(settings.node.ae_title, peer)
    if as_json:
        print_json(
            {
                "peer": name,
                "patient_id": test_report.PATIENT_ID,
                "objects": [asdict(t) for t in taken],
            }
        )
    else:
        for answer in taken:
            why = answer.meaning or answer.remark
            print(f"{answer.kind}, {answer.name}: {answer.state}{f': {why}' if why else ''}"
                  + (f" in {answer.ms:.0f} ms" if answer.status is not None else ""))  # fmt: skip
        patient = f"patient {test_report.PATIENT_NAME}, ID {test_report.PATIENT_ID}"
        print(f"at {name}: {patient}; may be deleted")
    return 0 if test_report.is_fine(taken) else 1


def _files_below(paths: Sequence[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            yield from (file for file in sorted(path.rglob("*")) if file.is_file())
        else:
            yield path
