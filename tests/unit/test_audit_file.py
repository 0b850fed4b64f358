"""The trail's file is put aside whole, by many writers at once, and never holds half a message."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dicom_node.operate import audit_file
from dicom_node.operate.audit_file import AuditFile


def kept(folder: Path) -> list[str]:
    """All lines, oldest first."""
    files = sorted(folder.glob("audit.xml.*"), key=lambda file: -int(file.suffix[1:]))
    files += [folder / "audit.xml"]
    return [line for file in files for line in file.read_text().splitlines()]


def test_files_are_put_aside_and_the_oldest_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_file, "LARGEST", 100)
    monkeypatch.setattr(audit_file, "KEPT", 3)
    trail = AuditFile(tmp_path / "audit.xml")
    for number in range(100):
        trail.append(f"message {number:03}")
    last = kept(tmp_path)
    assert last == [f"message {number:03}" for number in range(100 - len(last), 100)]
    assert len(list(tmp_path.glob("audit.xml.*"))) == 3
    assert all(file.stat().st_size <= 100 for file in tmp_path.glob("audit.xml*"))


def test_many_writers_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_file, "LARGEST", 2000)
    with ThreadPoolExecutor(8) as pool:
        trails = [AuditFile(tmp_path / "audit.xml") for _ in range(8)]
        list(pool.map(lambda n: trails[n % 8].append(f"message {n:04}"), range(400)))
    assert sorted(kept(tmp_path)) == [f"message {n:04}" for n in range(400)]


def test_a_disk_that_is_full_leaves_no_half_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = AuditFile(tmp_path / "audit.xml")
    trail.append("whole")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    with pytest.raises(OSError, match="space"):
        trail.append("lost")
    monkeypatch.undo()
    trail.append("whole again")
    assert kept(tmp_path) == ["whole", "whole again"]


def test_the_file_is_its_users_alone(tmp_path: Path) -> None:
    AuditFile(tmp_path / "audit.xml").append("x")
    assert {file.stat().st_mode & 0o077 for file in tmp_path.iterdir()} == {0}
