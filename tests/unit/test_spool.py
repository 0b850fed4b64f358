"""Files of the spool: durable before they have a name, and never another one's."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledgers import fresh
from peers import need

from dicom_node.base.errors import NotFound, OutOfResources
from dicom_node.store.spool import Spool

UID = "1.2.826.0.1.3680043.8.498.1"


def kept(spool: Spool, content: bytes, uid: str = UID, head: bytes = b"head") -> str:
    with spool.writing() as incoming:
        incoming.write(head, content)
        return incoming.keep(uid).name


def test_a_kept_file_has_what_was_written_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writing() as incoming:
        incoming.write(b"head")
        incoming.write(b"con", memoryview(b"tent"), bytearray(b"."))
        file = incoming.keep(UID)
    assert spool.path(file.name).read_bytes() == b"headcontent."
    assert file.size == 12
    assert not list((tmp_path / "incoming").iterdir())


def test_what_is_not_kept_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writing() as incoming:
        incoming.write(b"content")
    with pytest.raises(TypeError), spool.writing() as incoming:
        incoming.write("no bytes")  # type: ignore[arg-type]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_no_file_takes_the_name_of_another(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    names = [kept(spool, content) for content in (b"one", b"one", b"two")]
    assert len(set(names)) == 3
    assert [spool.path(name).read_bytes() for name in names] == [b"headone", b"headone", b"headtwo"]


def test_the_digest_of_a_file_is_that_of_its_data_set(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    meta = bytes(range(200))
    head = bytes(128) + b"DICM\2\0\0\0UL\4\0" + len(meta).to_bytes(4, "little") + meta
    expected = hashlib.sha256(b"content").hexdigest()
    assert spool.digest(kept(spool, b"content", head=head)) == expected
    assert spool.digest(kept(spool, b"content", head=head[:140] + bytes(4))) == expected
    with pytest.raises(NotFound):
        spool.digest("images/aa/b.dcm")


@pytest.mark.parametrize("limit", [1, 3, 5, 6])
def test_a_write_that_the_disk_takes_in_parts_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    spool = Spool(tmp_path)
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, [b"".join(parts)[:limit]]))
    with spool.writing() as incoming:
        incoming.write(b"ab", memoryview(b"cde"), b"f")
        assert incoming.size == 6
        file = incoming.keep(UID)
    assert spool.path(file.name).read_bytes() == b"abcdef"


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(uid=st.text(max_size=80))
def test_no_uid_leads_out_of_the_spool(tmp_path: Path, uid: str) -> None:
    spool = Spool(tmp_path / "spool")
    path = spool.path(kept(spool, b"content", uid))
    assert path.resolve().is_relative_to((tmp_path / "spool" / "images").resolve())
    assert [p.name for p in tmp_path.iterdir()] == ["spool"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "images/../../x",
        "../x",
        "images//x",
        "images/./x",
        "other/x",
        "images/a\0b",
    ],
)
def test_a_name_that_leaves_the_spool_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        Spool(tmp_path).path(name)


def test_a_report_of_another_attempt_has_another_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    names = {
        spool.write_report(job, token, part, content)
        for job in ("a" * 32, "../../x")
        for token in ("t1", "t2/../..")
        for part in ("sr", "../sr", "sc-1")
        for content in (b"1", b"2")
    }
    assert len(names) == 24
    assert all(spool.path(name).is_file() for name in names)
    assert spool.write_report("a" * 32, "t1", "sr", b"1") in names


def test_no_folder_is_made_when_a_file_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a folder is made")

    monkeypatch.setattr(Path, "mkdir", refuse)
    names = {spool.write_report(f"job{n}", "token", "sr", b"content") for n in range(64)}
    assert len({name.rpartition("/")[0] for name in names}) > 8
    with spool.writing() as incoming:
        incoming.write(b"content")
        incoming.keep("1.2.3")


def test_below_the_watermark_nothing_new_is_begun(tmp_path: Path) -> None:
    assert Spool(tmp_path).has_room()
    spool = Spool(tmp_path, min_free=1 << 62)
    assert not spool.has_room()
    with pytest.raises(OutOfResources):
        spool.writing()


def test_a_file_that_grows_past_the_watermark_is_given_up(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writing() as incoming:
        incoming.write(bytes(2**20))
        spool.min_free = 1 << 62
        spool._free_at = -1.0
        with pytest.raises(OutOfResources):
            incoming.write(bytes(8 * 2**20))
    assert not list((tmp_path / "incoming").iterdir())


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.writing() as incoming:
        os.close(incoming._fd)
        incoming._fd = os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(OutOfResources, match="No space left"):
            incoming.write(b"content")


def test_sweep_removes_old_temporary_files_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    old, new = tmp_path / "incoming" / "old.part", tmp_path / "incoming" / "new.part"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    name = kept(spool, b"content")
    assert spool.sweep(3600) == 1
    assert new.exists()
    assert spool.path(name).exists()


HOLDER = """
import sys, time
from pathlib import Path
from dicom_node.store.spool import Spool
with Spool(Path(sys.argv[1])).writing() as incoming:
    incoming.write(b"content")
    print("written", flush=True)
    time.sleep(600)
"""


def test_a_temporary_file_goes_when_its_writer_does_and_not_before(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "written\n"
            child.send_signal(signal.SIGSTOP)
            (path,) = (tmp_path / "incoming").iterdir()
            os.utime(path, (1, 1))
            assert spool.sweep(3600) == 0, "it may go on"
        finally:
            child.kill()
    assert spool.sweep(3600) == 1


WRITER = """
import os, sys
from pathlib import Path
from dicom_node.store.spool import Spool
spool = Spool(Path(sys.argv[1]))
n = 0
while True:
    content = bytes([n % 251]) * (1 + n * 7919 % 300000)
    with spool.writing() as incoming:
        incoming.write(content)
        name = incoming.keep(f"1.2.{n}").name
    os.write(1, f"{name} {len(content)} {n % 251}\\n".encode())
    n += 1
"""


def test_kill_9_at_any_time_leaves_whole_files_or_temporary_ones(tmp_path: Path) -> None:
    lines: list[str] = []
    for pause in (0.05, 0.11, 0.17, 0.23):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        lines.append(child.stdout.readline())
        time.sleep(pause)
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines()
        child.stdout.close()
        child.wait()
    assert len(lines) > 8
    spool = Spool(tmp_path)
    for line in lines:
        name, size, value = line.split()
        assert spool.path(name).read_bytes() == bytes([int(value)]) * int(size)
    spool.sweep(-60)
    assert not list((tmp_path / "incoming").iterdir())


ONE = """
import os, sys, time
from pathlib import Path
from dicom_node.store.ledger import Instance, Ledger, Route
from dicom_node.store.spool import Spool
root = Path(sys.argv[1])
spool, ledger = Spool(root / "spool"), Ledger.open(f"sqlite:///{root}/ledger.sqlite")
with spool.writing() as incoming:
    incoming.write(b"content")
    kept = incoming.keep("1.2.3")
instance = Instance("1.2.3", "1.2", "1.2.1", "1.4", "1.5", "", kept.size, kept.name)
ledger.instances.receive(instance, [Route("rule", "phantom")])
os.write(1, b"C-STORE-RSP 0x0000")
"""


def test_file_name_folder_and_row_are_durable_in_this_order_before_the_answer(
    tmp_path: Path,
) -> None:
    strace = need("strace")
    fresh(tmp_path)
    log = tmp_path / "calls"
    asked = ["-f", "-y", "-o", str(log), "-e", "trace=/f(data)?sync|rename|write"]
    subprocess.run(
        [strace, *asked, sys.executable, "-c", ONE, str(tmp_path)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    calls = log.read_text(errors="replace").splitlines()

    def at(*words: str, before: int = len(calls)) -> int:
        found = [i for i in range(before) if all(word in calls[i] for word in words)]
        assert found, f"no call with {words}"
        return found[-1]

    answer = at("write(1", "C-STORE-RSP")
    order = [
        at("fsync(", "/spool/incoming/", ".part"),
        at("rename", "/spool/incoming/", "/spool/images/"),
        at("fsync(", "/spool/images/"),
        at("sync(", "ledger.sqlite-wal", before=answer),
        answer,
    ]
    assert order == sorted(order)
