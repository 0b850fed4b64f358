"""A backup of a node that works, and the way back: nothing half done, no report twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clocks import FakeClock
from ledgers import NOW, expand, fresh, instance, on, post, reported, result, route, taken

from dicom_node.base.confine import python_command
from dicom_node.base.errors import ConfigurationError
from dicom_node.store import backup as backups
from dicom_node.store.backup import HALF, backup, require_whole, restore
from dicom_node.store.ledger import Ledger
from dicom_node.store.spool import Spool


class Site:
    """A data_dir with a ledger and a spool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = fresh(folder)
        self.ledger = Ledger.open(self.url)
        self.spool = Spool(folder / "spool")

    def receive(self, n: int) -> None:
        with self.spool.writing() as incoming:
            incoming.write(b"image %d" % n * 100)
            kept = incoming.keep(f"1.2.3.{n}")
        on(self.ledger, NOW + n).instances.receive(instance(n, file=kept.name), [route()])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "node")
    yield site
    site.ledger.close()


def files(folder: Path) -> dict[str, bytes]:
    spool = folder / "spool"
    return {
        str(path.relative_to(spool)): path.read_bytes()
        for path in spool.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def elsewhere(tmp_path: Path) -> tuple[Path, str]:
    return tmp_path / "other", f"sqlite:///{tmp_path}/other/ledger.sqlite"


def test_what_was_restored_is_what_was_there_and_its_open_work_goes_on(
    site: Site, tmp_path: Path
) -> None:
    for n in range(1, 6):
        site.receive(n)
    ticket = taken(site.ledger)
    backup(site.folder, site.url, tmp_path / "backup")
    folder, url = elsewhere(tmp_path)
    restore(folder, url, tmp_path / "backup")
    assert files(folder) == files(site.folder)
    ledger = Ledger.open(url)
    assert ledger.history.status().jobs == {"received": 4, "running": 1}
    assert post(ledger, ticket, result(ticket), NOW + 10), "the worker that holds it may post"
    assert post(ledger, ticket, result(ticket), NOW + 11)
    assert len(ledger.history.trace("1.2.3.1").deliveries) == 1
    ledger.close()


def test_the_second_backup_takes_only_what_is_new_and_drops_what_is_gone(
    site: Site, tmp_path: Path
) -> None:
    for n in (1, 2):
        site.receive(n)
    assert backup(site.folder, site.url, tmp_path / "backup").new == 2
    site.receive(3)
    first = next(name for name in files(site.folder) if name.startswith("images"))
    (site.folder / "spool" / first).unlink()
    done = backup(site.folder, site.url, tmp_path / "backup")
    assert (done.files, done.new) == (2, 1)
    assert files(tmp_path / "backup") == files(site.folder)
    assert len(list((tmp_path / "backup").glob("ledger-*"))) == 1


def test_nothing_that_is_there_is_overwritten(site: Site, tmp_path: Path) -> None:
    site.receive(1)
    backup(site.folder, site.url, tmp_path / "backup")
    with pytest.raises(ConfigurationError, match="already"):
        restore(site.folder, site.url, tmp_path / "backup")


@pytest.mark.parametrize("what", ["file", "sums", "manifest"])
def test_a_damaged_backup_is_refused_and_the_node_does_not_start_on_half_of_it(
    site: Site, tmp_path: Path, what: str
) -> None:
    site.receive(1)
    backup(site.folder, site.url, tmp_path / "backup")
    pattern = {"file": "spool/images/**/*.dcm", "sums": "SHA256SUMS*", "manifest": "manifest.json"}
    path = next((tmp_path / "backup").glob(pattern[what]))
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-4] + b"xxxx")
    folder, url = elsewhere(tmp_path)
    with pytest.raises(ConfigurationError):
        restore(folder, url, tmp_path / "backup")
    if what == "file":
        with pytest.raises(ConfigurationError, match="interrupted"):
            require_whole(folder)
        path.write_bytes(content)
        restore(folder, url, tmp_path / "backup")
        require_whole(folder)
    assert not (folder / HALF).exists()


PROGRAM = """
import sys
from pathlib import Path
from dicom_node.store.backup import backup, restore
act, data_dir, url, folder = sys.argv[1:]
print("begun", flush=True)
{"backup": backup, "restore": restore}[act](Path(data_dir), url, Path(folder))
"""


def killed(act: str, folder: Path, url: str, to: Path, after_s: float) -> None:
    words = [sys.executable, "-c", PROGRAM, act, str(folder), url, str(to)]
    program = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert program.stdout is not None
    program.stdout.readline()
    time.sleep(after_s)
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    program.stdout.close()


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.06])
def test_a_kill_in_the_middle_of_either_leaves_nothing_half_done(
    site: Site, tmp_path: Path, after_s: float
) -> None:
    for n in range(1, 40):
        site.receive(n)
    stop = threading.Event()

    def load() -> None:
        n = 100
        while not stop.is_set():
            site.receive(n := n + 1)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        to = tmp_path / "backup"
        backup(site.folder, site.url, to)
        killed("backup", site.folder, site.url, to, after_s)
        folder, url = elsewhere(tmp_path)
        killed("restore", folder, url, to, after_s)
        if (folder / HALF).exists() or not (folder / "ledger.sqlite").exists():
            restore(folder, url, to)
    finally:
        stop.set()
        thread.join()
    ledger = Ledger.open(url)
    for row in ledger.history.recent(1000):
        assert (folder / "spool" / row.file).is_file()
    assert len(ledger.history.recent(1000)) >= 39
    ledger.close()


def test_a_backup_that_ends_within_the_second_of_the_one_before_leaves_that_whole(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their copies of the ledger had one name, and the manifest named the new one's bytes."""
    monkeypatch.setattr(backups, "HOST_CLOCK", FakeClock(NOW))
    site.receive(1)
    to = tmp_path / "backup"
    backup(site.folder, site.url, to)
    site.receive(2)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backups, "_write_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            backup(site.folder, site.url, to)
    folder, url = elsewhere(tmp_path)
    restore(folder, url, to)
    ledger = Ledger.open(url)
    assert [row.sop_instance_uid for row in ledger.history.recent(9)] == ["1.2.3.1"]
    ledger.close()
    backup(site.folder, site.url, to)
    assert len(list(to.glob("ledger-*"))) == 1, "what was left over goes with the next"


def test_reports_that_retention_keeps_are_in_it(site: Site, tmp_path: Path) -> None:
    reported(site.ledger)
    done = backup(site.folder, site.url, tmp_path / "backup")
    assert done.size > 0


def forged(folder: Path, names: list[str]) -> None:
    """Let the list of a backup name other files, with the manifest's sum of it made right."""
    said = json.loads((folder / "manifest.json").read_text())
    path = folder / said["sums"]
    path.write_text(path.read_text() + "".join(f"{'0' * 64}  {name}\n" for name in names))
    said["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    "name",
    ["{outside}", "../precious", "spool/../../precious", "users", "spool/.hidden", "spool//x"],
)
def test_a_list_that_names_files_elsewhere_is_refused_and_removes_nothing(
    tmp_path: Path, name: str
) -> None:
    """A backup may lie on a share where others write."""
    data_dir, folder, precious = tmp_path / "node", tmp_path / "backup", tmp_path / "precious"
    url = f"sqlite:///{data_dir / 'ledger.sqlite'}"
    data_dir.mkdir()
    Ledger.upgrade(url)
    backup(data_dir, url, folder)
    precious.write_text("precious")
    forged(folder, [name.format(outside=precious)])
    with pytest.raises(ConfigurationError, match="not a name"):
        backup(data_dir, url, folder)
    with pytest.raises(ConfigurationError, match="not a name"):
        restore(tmp_path / "new", f"sqlite:///{tmp_path / 'new' / 'ledger.sqlite'}", folder)
    assert precious.read_text() == "precious"
    assert not (tmp_path / "new" / "users").exists()


@pytest.mark.parametrize(
    "change",
    [{"ledger": "/etc/passwd"}, {"ledger": 7}, {"sums": "../x"}, {"schema": []}, {"sha256": None}],
)
def test_a_manifest_of_another_form_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    data_dir, folder = tmp_path / "node", tmp_path / "backup"
    url = f"sqlite:///{data_dir / 'ledger.sqlite'}"
    data_dir.mkdir()
    Ledger.upgrade(url)
    backup(data_dir, url, folder)
    said = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(said | change))
    with pytest.raises(ConfigurationError):
        restore(tmp_path / "new", f"sqlite:///{tmp_path / 'new' / 'ledger.sqlite'}", folder)


def test_a_backup_of_a_newer_schema_is_restored_where_the_ledger_itself_would_be_used(
    site: Site, tmp_path: Path
) -> None:
    version = expand(site.url)
    backup(site.folder, site.url, tmp_path / "backup")
    other, url = elsewhere(tmp_path)
    restore(other, url, tmp_path / "backup")
    ledger = Ledger.open(url)
    assert ledger.revision() == version
    ledger.close()
    file = tmp_path / "backup" / "manifest.json"
    said = json.loads(file.read_text())
    for unknown in ({}, {version: "9999"}, {"9999": "0007"}, "0007"):
        file.write_text(json.dumps(said | {"readable_by": unknown}))
        with pytest.raises(ConfigurationError, match="made by a newer version"):
            restore(tmp_path / "third", f"sqlite:///{tmp_path}/third/l.sqlite", tmp_path / "backup")


def test_a_backup_and_what_is_restored_are_for_their_user_alone(site: Site, tmp_path: Path) -> None:
    """A shell of most systems lets others read what a program makes."""
    site.receive(1)
    for path in site.folder.rglob("*.dcm"):  # a backup links them
        path.chmod(0o600)
    other, kept = tmp_path / "other", str(tmp_path / "backup")
    acts = (
        ("backup", site.folder, [kept], ""),
        ("restore", other, [kept], ""),
        ("user add", other, ["ann"], "a long sentence that nobody guesses"),
    )
    for act, folder, words, typed in acts:
        config = tmp_path / "node.toml"
        config.write_text(f"[node]\ndata_dir = '{folder}'\n")
        command = python_command("-m", "dicom_node", *act.split(), *words, "--config", str(config))
        subprocess.run(command, input=typed, text=True, umask=0o022, check=True)
    made = [path for top in (tmp_path / "backup", other) for path in (top, *top.rglob("*"))]
    assert {"manifest.json", "ledger.sqlite", "first-admin.closed"} <= {path.name for path in made}
    assert [str(path) for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
