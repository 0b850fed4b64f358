"""A ledger that cannot be used: one line says why, with an exit code, and nothing is half done."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from ledgers import fresh, instance, reported, route

from dicom_node.base.errors import OutOfResources
from dicom_node.cli import main
from dicom_node.store.ledger import Ledger
from dicom_node.store.schema import VERSIONS

OLD = Path(__file__).resolve().parents[1] / "drill" / "ledgers" / "0003.sql"
PAGE = 4096


class Node:
    """The folder of a node that has one report and some images."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.url = fresh(self.data)
        self.file = self.data / "ledger.sqlite"
        ledger = Ledger.open(self.url)
        reported(ledger)
        for n in range(2, 30):
            ledger.instances.receive(instance(n, study_instance_uid=f"1.9.{n}"), [route()])
        ledger.close()
        with closing(sqlite3.connect(self.file)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.config = folder / "node.toml"
        self.config.write_text(f"[node]\nport = 1\ndata_dir = '{self.data}'\n[web]\nport = 2\n")

    def run(self, *command: str) -> int:
        return main([command[0], "--config", str(self.config), *command[1:]])

    def kept(self) -> dict[str, bytes]:
        """Files of the ledger; a reader leaves its shared memory, which says nothing."""
        return {
            path.name: path.read_bytes()
            for path in self.data.glob("ledger.sqlite*")
            if path.is_file() and not path.name.endswith("-shm")
        }


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def newer(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
        db.commit()


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwritten(file: Path) -> None:
    with file.open("r+b") as content:
        for page in range(2, 60):
            content.seek(page * PAGE)
            content.write(b"\xa5" * 64)


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        (newer, os.EX_CONFIG, "install that version again"),
        (cut, os.EX_CONFIG, "malformed; restore it from a backup"),
        (overwritten, os.EX_CONFIG, "malformed; restore it from a backup"),
        (zeros, os.EX_CONFIG, "not a database; restore it from a backup"),
        (a_folder, os.EX_UNAVAILABLE, "unable to open"),
    ],
)
@pytest.mark.parametrize("command", [["serve"], ["status"], ["trace", "1.2.3.1"]])
def test_a_damaged_ledger_is_one_line_and_stays_as_it_is(
    node: Node,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    code: int,
    says: str,
    command: list[str],
) -> None:
    damage(node.file)
    before = node.kept()
    assert node.run(*command) == code
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert says in line
    assert str(node.file) in line
    assert "Traceback" not in said.err + said.out
    assert node.kept() == before


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_no_new_ledger_is_begun_beside_files_that_the_lost_one_knew(
    node: Node, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    (node.data / "spool" / "images" / "a").mkdir(parents=True)
    (node.data / "spool" / "images" / "a" / "b.dcm").write_bytes(b"an image")
    node.file.unlink()
    if how == "empty":
        node.file.touch()
    assert node.run("serve") == os.EX_CONFIG
    assert "restore it from a backup" in capsys.readouterr().err
    with closing(sqlite3.connect(node.file)) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def without_rights(command: list[str]) -> list[str]:
    """Return a command as it runs without the superuser's right to write everywhere."""
    if os.geteuid():
        return command
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed: apt-get install util-linux")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", *command]


def test_a_folder_that_cannot_be_written_is_one_line(node: Node) -> None:
    node.file.chmod(0o400)
    node.data.chmod(0o500)
    try:
        program = [sys.executable, "-m", "dicom_node", "retry", "--config", str(node.config), "1.2"]
        done = subprocess.run(
            without_rights(program), capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        node.data.chmod(0o700)
    assert done.returncode == os.EX_CONFIG
    (line,) = done.stderr.strip().splitlines()
    assert "let the account of the node write" in line


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_refuses_images_and_keeps_what_it_acknowledged(node: Node) -> None:
    ledger = Ledger.open(node.url)
    taken = []

    def receive_until_full() -> None:
        for n in range(100, 3000):
            ledger.instances.receive(instance(n, study_instance_uid=f"1.9.{n}"), [route()])
            taken.append(f"1.2.3.{n}")

    with files_up_to(node.file.stat().st_size + 50 * PAGE), pytest.raises(OutOfResources):
        receive_until_full()
    ledger.close()
    ledger = Ledger.open(node.url)
    assert taken
    assert all(ledger.instances.known(uid) is not None for uid in taken)
    assert ledger.history.status().instances["routed"] == len(taken) + 29
    refused = instance(100 + len(taken), study_instance_uid=f"1.9.{100 + len(taken)}")
    assert ledger.instances.receive(refused, [route()]).kind == "new"
    ledger.close()
    with closing(sqlite3.connect(node.file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize(("pages", "versions"), [(4, {"0003"}), (60, {"0003", VERSIONS[-1]})])
def test_an_upgrade_on_a_full_disk_does_whole_steps_or_none_and_goes_on_later(
    tmp_path: Path, pages: int, versions: set[str]
) -> None:
    file = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(file)) as db:
        db.executescript(OLD.read_text(encoding="utf-8"))
    url = f"sqlite:///{file}"
    with files_up_to(pages * PAGE), pytest.raises(OutOfResources):
        Ledger.upgrade(url)
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchone()[0] in versions
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    Ledger.upgrade(url)
    ledger = Ledger.open(url)
    assert len(ledger.history.recent(100)) >= 11
    assert ledger.upgrading.step() == ""
    ledger.close()
