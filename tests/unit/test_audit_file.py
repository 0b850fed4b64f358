"""The trail's file is put aside whole, by many writers at once, and never holds half a message."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dicom_node.store import audit_file
from dicom_node.store.audit_file import AuditFile
from dicom_node.store.spool import Spool


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


def full_disk(monkeypatch: pytest.MonkeyPatch, trail: Path) -> None:
    """Refuse every write as a full disk does, unless some of the reserve was given back to it."""
    reserve, write = trail.with_name(".audit.xml.reserve"), os.write
    left = [reserve.stat().st_size]

    def refusing(descriptor: int, content: bytes) -> int:
        size = reserve.stat().st_size
        if left[0] - size < len(content):
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= len(content)
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", refusing)


def test_a_full_disk_stops_images_before_it_stops_the_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_file, "RESERVE", 1 << 18)
    trail = AuditFile(tmp_path / "audit.xml")
    assert trail.refill()
    assert trail.is_safe
    full_disk(monkeypatch, trail.path)
    spool = Spool(tmp_path / "spool", is_safe=lambda: trail.is_safe)
    message = "x" * 999
    for _ in range(100):
        trail.append(message)
    assert not trail.is_safe
    assert not spool.has_room()
    assert len(kept(tmp_path)) == 100
    with pytest.raises(OSError, match="space"):
        trail.append(*[message] * 1000)
    monkeypatch.undo()
    assert trail.refill()
    assert trail.is_safe


def test_without_a_reserve_the_watermark_alone_counts(tmp_path: Path) -> None:
    assert AuditFile(tmp_path / "audit.xml").is_safe


def test_a_file_in_a_folder_of_others_is_appended_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /var/log/audit.xml, which its user may write, and nothing beside it."""
    opened = os.open

    def others(path: object, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith(".lock"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, mode)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", others)
    monkeypatch.setattr(audit_file, "LARGEST", 1)
    trail = AuditFile(tmp_path / "audit.xml")
    trail.append("one")
    trail.append("two", "three")
    assert kept(tmp_path) == ["one", "two", "three"]
