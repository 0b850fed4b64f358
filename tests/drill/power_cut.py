"""``python -m tests.drill.power_cut --cuts N``: what was acknowledged survives a lost page cache.

Spool and ledger lie on an ext4 image behind a loop device. The listener is killed while it
receives, and the image is copied at once: what the kernel had not yet written is not in the copy.
The copy must hold a row and the right bytes for every Instance that was ever acknowledged.
Needs root and loop devices. A drive that lies about its cache is not simulated.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import pytest

from ..support.peers import need
from . import pictures
from .processes import ROOT, answers, free_port, python, wait_for
from .sender import responses
from .world import SABOTAGE

IMAGE_MB = 96
GROUP = 40

NODE = """
[node]
host = "127.0.0.1"
port = {port}
data_dir = {data}
[retention]
min_free = "1MB"
[peers.sender]
ae_title = "DRILL"
host = "127.0.0.1"
port = 104
[[rules]]
name = "everything"
match.modality = ["DX"]
model = "drill"
"""


class Cuts:
    """One long life of a ledger with many power cuts.

    Parameters
    ----------
    folder : Path
        Holds image, mount points and pictures.
    broken : str
        ``no-fsync`` or nothing.
    """

    def __init__(self, folder: Path, rng: Random, broken: str = "") -> None:
        self.folder = folder
        self.rng = rng
        self.acknowledged: dict[str, str] = {}
        """SOP Instance UID and hash of the data set that was sent."""
        self.checked = 0
        self.lost: set[str] = set()
        self.faults: list[str] = []
        self._broken = broken
        self._port = free_port()
        self._image = folder / "disk.img"
        self._disk = folder / "disk"
        self._config = folder / "node.toml"
        self._config.write_text(
            NODE.format(port=self._port, data=json.dumps(str(self._disk / "data")))
        )

    def run(self, cuts: int) -> None:
        """Cut the power so often."""
        _make_image(self._image)
        with _mounted(self._image, self._disk):
            (self._disk / "data").mkdir()
            self._python("-c", _UPGRADE, str(self._disk / "data" / "ledger.sqlite"))
            subprocess.run(["sync", "-f", str(self._disk)], check=True)
            for _ in range(cuts):
                copy = self._cut()
                self._check(copy)
                copy.unlink()

    def _cut(self) -> Path:
        """Kill the listener in the middle of its work and return the copy of its disk."""
        listener = subprocess.Popen(
            python("-m", "dicom_node", "role", "listener", "--config", str(self._config)),
            cwd=ROOT,
            env=self._environment(),
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for("the listener listens", lambda: answers(self._port), 300)
            sending = threading.Thread(target=self._send, daemon=True)
            before = len(self.acknowledged)
            sending.start()
            wait_for("an answer", lambda: len(self.acknowledged) > before, 300)
            time.sleep(self.rng.uniform(0.0, 1.5))
        finally:
            listener.send_signal(signal.SIGKILL)
            copy = self.folder / "copy.img"
            shutil.copyfile(self._image, copy)
            listener.wait()
        sending.join()
        return copy

    def _send(self) -> None:
        """Send until the line breaks; note each acknowledgement as soon as it comes."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            files = {}
            for i in range(GROUP):
                picture = pictures.picture(i, self.rng.getrandbits(96))
                path = Path(folder) / f"{i}.dcm"
                pictures.write(picture, path)
                files[str(path)] = (picture.uid, _content_hash(path.read_bytes()))
            command = [need("storescu"), "-v", "-xr", "-aet", "DRILL", "-aec", "CHEXFRACT"]
            command += ["127.0.0.1", str(self._port), *files]
            with subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "TCP_NODELAY": "1"},
            ) as sending:
                assert sending.stdout is not None
                for file, status in responses(sending.stdout):
                    if status == "(Success)":
                        uid, digest = files[file]
                        self.acknowledged[uid] = digest

    def _check(self, copy: Path) -> None:
        """Compare the copy with what had been acknowledged."""
        with _mounted(copy, self.folder / "copy"):
            data = self.folder / "copy" / "data"
            found: dict[str, tuple[str, str]] = {}
            try:
                with closing(sqlite3.connect(data / "ledger.sqlite")) as db:
                    (verdict,) = db.execute("PRAGMA integrity_check").fetchone()
                    if verdict != "ok":
                        self.faults.append(f"integrity check: {verdict}")
                    rows = db.execute("SELECT sop_instance_uid, sha256, file FROM instances")
                    found = {uid: (digest, file) for uid, digest, file in rows}
            except sqlite3.Error as exc:
                self.faults.append(f"ledger: {exc}")
            for uid, digest in list(self.acknowledged.items()):
                self.checked += 1
                if not _is_there(data / "spool", found.get(uid), digest):
                    self.lost.add(uid)

    def _python(self, *words: str) -> None:
        subprocess.run(python(*words), check=True, cwd=ROOT, env=self._environment())

    def _environment(self) -> dict[str, str]:
        paths = os.pathsep.join([str(SABOTAGE), str(ROOT)])
        return {**os.environ, "PYTHONPATH": paths, "CHEXFRACT_DRILL_BROKEN": self._broken}


_UPGRADE = """
import sys
from dicom_node.store.ledger import Ledger
Ledger.upgrade("sqlite:///" + sys.argv[1])
"""


def why_not() -> str:
    """Return why power cuts cannot be made here, or nothing."""
    if os.geteuid() != 0:
        return "power cuts need root: loop devices are mounted"
    missing = [name for name in ("losetup", "mount", "mkfs.ext4") if shutil.which(name) is None]
    if missing:
        return f"power cuts need {', '.join(missing)}"
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image"
        _make_image(image, 8)
        try:
            with _mounted(image, Path(folder) / "disk"):
                return ""
        except subprocess.CalledProcessError as exc:
            return f"power cuts need loop devices: {exc.stderr.strip()}"


def _is_there(spool: Path, row: tuple[str, str] | None, digest: str) -> bool:
    if row is None or row[0] not in ("", digest):  # empty until the same UID comes again
        return False
    path = spool / row[1]
    return path.is_file() and _content_hash(path.read_bytes()) == digest


def _content_hash(content: bytes) -> str:
    """Return the hash of a Part 10 file's data set, without its head (DICOM PS3.10 7.1)."""
    start = 144 + int.from_bytes(content[140:144], "little")
    return hashlib.sha256(content[start:]).hexdigest()


def _make_image(path: Path, megabytes: int = IMAGE_MB) -> None:
    with path.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True, capture_output=True)


@contextmanager
def _mounted(image: Path, folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-o", "loop", str(image), str(folder)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Cut the power; 0 when nothing that was acknowledged was lost."""
    options = argparse.ArgumentParser(prog="python -m tests.drill.power_cut")
    options.add_argument("--cuts", type=int, default=10)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--broken", choices=("", "no-fsync"), default="")
    options.add_argument("--folder", type=Path, help="where the image is made")
    chosen = options.parse_args(arguments)
    reason = why_not()
    if reason:
        print(f"skipped: {reason}")
        return 0
    with tempfile.TemporaryDirectory(prefix="cuts-", dir=chosen.folder) as folder:
        cuts = Cuts(Path(folder), Random(chosen.seed), chosen.broken)
        try:
            cuts.run(chosen.cuts)
        except pytest.skip.Exception as exc:
            print(f"skipped: {exc}")
            return 0
    figures = {
        "cuts": chosen.cuts,
        "seed": chosen.seed,
        "broken": chosen.broken,
        "acknowledged": len(cuts.acknowledged),
        "checked": cuts.checked,
        "lost": len(cuts.lost),
        "faults": cuts.faults,
    }
    print(json.dumps(figures))
    return 1 if cuts.lost or cuts.faults else 0


if __name__ == "__main__":
    sys.exit(main())
