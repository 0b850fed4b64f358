"""Follows the manual: ``python -m tests.follow_manual`` runs the commands of README and manual.

A network of its own (`unshare --net`) gives them the ports that they name. The archive is a real
Orthanc; identifiers, folders and hosts that a page leaves to its reader are filled in. A command
that cannot run here is named with its reason, and one that is neither fails.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "unit"), str(ROOT)]

import pydicom  # noqa: E402
from stations import Orthanc, wait_for  # noqa: E402
from test_manual_commands import commands  # noqa: E402

NOT_HERE = {
    "make demo": "the gate's part 'demonstration'",
    ". .venv/bin/activate": "the programs of the gate's own environment are on PATH already",
    "make test": "the gate's part 'suite'",
    "apt-get install": "the gate's part 'install'",
    ".venv/bin/pip install": "the gate's part 'install' runs it with every extra",
    "python3 -m venv .venv": "the gate's part 'install'",
    ".venv/bin/chexfract-node demo": "the gate's part 'demonstration'",
    "chexfract-worker model fetch": "needs a hub; test_models_fetch.py has one",
    "chexfract-worker model verify": "needs weights that nobody may ship; see test_models_fetch.py",
    "chexfract-worker run --config worker.toml": "a host beside the node's; see test_route.py",
    'curl -H "Authorization: Bearer $KEY"': "a key is made on a page; see test_edit_pages.py",
    "curl -X": "a key is made on a page; see test_edit_pages.py",
}
"""What does not run here, by its beginning, and where it is shown instead."""

PACS = """
[peers.pacs]
ae_title = "PACS"
host = "127.0.0.2"
port = 4999
"""
"""An archive that never answers: its deliveries wait to be settled."""


WEAKENED = """
[worker]
model = "weakened"

[models.weakened]
engine = "chexfract"
path = "weakened"
"""


class Reader:
    """A newcomer who types what the pages say, in a folder of their own."""

    def __init__(self, folder: Path, lines: Sequence[tuple[str, str]]) -> None:
        self.folder = folder
        self.left: dict[str, str] = {}
        for page, line in lines:
            self.left.setdefault(line, page)
        self.values: dict[str, str] = {"/etc/chexfract/": "", "/backup/": "backup/"}
        self.failed: list[str] = []
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = os.environ | {"PATH": path, "HOME": str(folder), "COLUMNS": "80"}

    def type(self, beginning: str, codes: Sequence[int] = (0,), typed: str = "") -> None:
        """Run every command that begins so and was not run yet; `typed` goes to its input."""
        found = [line for line in self.left if line.startswith(beginning)]
        assert found, f"no page says: {beginning}"
        for line in found:
            page = self.left.pop(line)
            began = time.monotonic()
            done = subprocess.run(
                ["bash", "-c", self._filled(line)],
                cwd=self.folder,
                env=self.environment,
                input=typed,
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            said = done.stdout + done.stderr
            is_right = done.returncode in codes and "Traceback" not in said
            took = f"{time.monotonic() - began:5.1f} s"
            print(f"{'ok  ' if is_right else 'FAIL'} {took} {page}: {line}", flush=True)
            if not is_right:
                self.failed.append(line)
                print(f"exit code {done.returncode}\n{said[-3000:]}", flush=True)

    @contextmanager
    def beside(self, beginning: str, ready: Callable[[], object]) -> Iterator[None]:
        """Keep a command that does not end by itself running; Ctrl-C ends it."""
        line = next(line for line in self.left if line.startswith(beginning))
        page = self.left.pop(line)
        log = self.folder / "beside.log"
        with log.open("a") as file:
            process = subprocess.Popen(
                shlex.split(self._filled(line)),
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
                # A shell in the background lets what it starts ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        try:
            wait_for(f"{line} is ready", lambda: ready() or process.poll() is not None, 120)
            if process.poll() is not None:
                raise AssertionError(f"{line} ended:\n{log.read_text()[-3000:]}")
            print(f"ok   runs    {page}: {line}", flush=True)
            yield
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(60)

    def pass_over(self) -> None:
        """Name what does not run here, with its reason."""
        for line in list(self.left):
            why = next((why for start, why in NOT_HERE.items() if line.startswith(start)), "")
            if why:
                print(f"--   not here {self.left.pop(line)}: {line} ({why})", flush=True)

    def _filled(self, line: str) -> str:
        for name, value in self.values.items():
            line = line.replace(name, value)
        return line


def follow(folder: Path) -> int:
    """Run the commands of every page, and return 1 where one failed or was forgotten."""
    reader = Reader(folder, list(commands()))
    reader.pass_over()
    with ExitStack() as stack:
        archive = Orthanc(folder / "orthanc", 11112, ports=(4242, 8042))
        archive.start()
        stack.callback(archive.stop)
        _without_a_node(reader)
        with reader.beside("chexfract-node serve", lambda: _answers(8080)):
            _with_a_node(reader, archive)
    shutil.move(folder / "var", folder / "var-before")
    reader.type("chexfract-node restore")
    reader.type("chexfract-node certificate")
    with reader.beside("chexfract-node demo --keep", lambda: "stays up" in _log(folder)):
        pass
    for line, page in reader.left.items():
        print(f"FAIL {page}: {line}: neither run nor named in NOT_HERE")
    print(f"{len(reader.failed)} failed, {len(reader.left)} forgotten")
    return 1 if reader.failed or reader.left else 0


def _without_a_node(reader: Reader) -> None:
    reader.type("chexfract-node init", typed="\n" * 20)
    reader.type("chexfract-node capacity --per-day 50000")
    reader.type("chexfract-worker phantom draw")
    drawings = sorted((reader.folder / "phantoms").glob("*.dcm"))
    reader.type("chexfract-worker phantom weaken")
    (reader.folder / "weakened.toml").write_text(WEAKENED)
    reader.type("chexfract-worker describe phantoms")
    reader.type("chexfract-worker evaluate run1 --labels phantoms/truth.csv")
    reader.type("chexfract-worker compare run1")
    _a_public_set(reader)
    reader.type("chexfract-worker describe pictures")
    reader.type("chexfract-worker evaluate run-pictures")
    (reader.folder / "FOLDER").mkdir()
    for path in drawings[:10]:
        shutil.copy(path, reader.folder / "FOLDER")
    shutil.copy(reader.folder / "phantoms" / "truth.csv", reader.folder / "labels.csv")
    reader.values["describe FOLDER --out run1"] = "describe FOLDER --out run2"
    reader.type("chexfract-worker describe FOLDER")
    reader.type("chexfract-worker evaluate run1 --labels labels.csv")
    reader.type("chexfract-worker parse", typed="No displaced rib fracture.\n")
    reader.values["REPORT.dcm"] = str(next((reader.folder / "run1" / "reports").rglob("*.dcm")))
    reader.type("chexfract-worker validate")
    shutil.copy(drawings[0], reader.folder / "image.dcm")
    shutil.copy(drawings[0], reader.folder / "IMAGE.dcm")
    subprocess.run(
        [shutil.which("dcmj2pnm") or "dcm2img", "+on", "+Wm", "image.dcm", "image.png"],
        cwd=reader.folder,
        check=True,
    )
    # 78: `serve --with-worker` passes broker and secret, so that file names none.
    reader.type("chexfract-worker doctor --config worker.toml", codes=(0, 78))
    reader.type("chexfract-worker model list")
    with reader.beside("chexfract-worker serve", lambda: _answers(8000)):
        reader.type("curl -F file=@image.png")
        reader.type("curl --data-binary @image.dcm")
    for name in ("node.toml", "worker.toml"):
        reader.values[f"configs/{name}"] = str(ROOT / "configs" / name)
    reader.values[".venv/bin/"] = f"{Path(sys.executable).parent}/"
    # The shipped files name a broker that does not run here, and no secret.
    reader.type(".venv/bin/chexfract-node doctor", codes=(0, 69))
    reader.type(".venv/bin/chexfract-worker doctor", codes=(0, 78))


def _a_public_set(reader: Reader) -> None:
    """Make a folder of pictures with a table, as public sets come."""
    subprocess.run(
        ["chexfract-worker", "picture", "phantoms", "--out", "pictures"],
        cwd=reader.folder,
        env=reader.environment,
        check=False,
        capture_output=True,
    )
    rows = ["file,patient_id,fracture,sex"]
    for number, path in enumerate(sorted((reader.folder / "pictures").glob("*.png"))):
        rows.append(f"{path.name},{number},{number % 2},{'FM'[number % 2]}")
    (reader.folder / "table.csv").write_text("\n".join(rows))


def _with_a_node(reader: Reader, archive: Orthanc) -> None:
    drawings = sorted((reader.folder / "phantoms").glob("*.dcm"))[:4]
    uids = [str(pydicom.dcmread(path).SOPInstanceUID) for path in drawings]
    for path in drawings[:1]:
        archive.post("/instances", path.read_bytes())
    _wait_for(reader, uids[0], "delivered")
    reader.values |= {"SOP_INSTANCE_UID": uids[0], "ARCHIVE": "ORTHANC"}
    for beginning in (
        "chexfract-node echo",
        "chexfract-node send --test",
        "chexfract-node status",
        "chexfract-node trace",
        "chexfract-node doctor",
        "chexfract-node resend",
        "chexfract-node retry --failed",
        "chexfract-node rules test",
        "chexfract-node config check",
        "chexfract-node selftest",
        "chexfract-node hold",
        "chexfract-node let-go",
        "chexfract-node capacity --per-day 1000",
        "chexfract-node backup",
        "findscu",
        "movescu",
        "curl -H",
    ):
        reader.type(beginning)
    reader.type("chexfract-node user add", typed="a long sentence that nobody guesses\n")
    reader.type("chexfract-node user list")
    reader.type("chexfract-node user remove")
    # 1: nothing of the kind stands in the trail of this short day.
    reader.type("grep -h", codes=(0, 1))
    reader.type("chexfract-worker describe http://127.0.0.1:8042/dicom-web")
    reader.type("dicomweb_client")
    accession = str(pydicom.dcmread(drawings[0]).AccessionNumber)
    (reader.folder / "accessions.txt").write_text(accession + "\n")
    reader.type("chexfract-node pull")
    reader.type("chexfract-worker describe pulled")
    with reader.beside("chexfract-node logs --follow", lambda: True):
        pass
    reader.type("chexfract-node logs")
    _corrections(reader, archive, drawings, uids)


def _corrections(
    reader: Reader, archive: Orthanc, drawings: Sequence[Path], uids: Sequence[str]
) -> None:
    """Bring about what the page about corrections mends."""
    settings = reader.folder / "node.toml"
    text = settings.read_text().replace('send_to = ["archive"]', 'send_to = ["archive", "pacs"]', 1)
    settings.write_text(text + PACS)
    reader.type("chexfract-node reload")
    corrected = pydicom.dcmread(drawings[0])
    corrected.PatientID = "CORRECTED"
    corrected.save_as(reader.folder / "corrected.dcm")
    subprocess.run(
        ["storescu", "-xs", "-aet", "ORTHANC", "-aec", "CHEXFRACT", "127.0.0.1", "11112",
         "corrected.dcm"],
        cwd=reader.folder,
        check=False,
    )  # fmt: skip
    for path in drawings[1:3]:
        archive.post("/instances", path.read_bytes())
    for uid in uids[1:3]:
        _wait_for(reader, uid, "pacs")
    reader.values["1.2.840.113619.2.1"] = uids[0]
    reader.type("chexfract-node adopt")
    reader.values["1.2.840.113619.2.1"] = uids[1]
    reader.type("chexfract-node settle 1.2.840.113619.2.1 --as sent")
    reader.values["1.2.840.113619.2.1"] = uids[2]
    reader.type("chexfract-node settle 1.2.840.113619.2.1 --as given-up")
    text = settings.read_text().replace("[[rules]]", '[[rules]]\nmode = "shadow"', 1)
    settings.write_text(text)
    subprocess.run(
        ["chexfract-node", "reload"], cwd=reader.folder, env=reader.environment, check=True
    )
    archive.post("/instances", drawings[3].read_bytes())
    _wait_for(reader, uids[3], "shadow mode")
    reader.values["1.2.840.113619.2.1"] = uids[3]
    reader.type("chexfract-node release")


def _wait_for(reader: Reader, uid: str, word: str) -> None:
    """Wait until the trace of an Instance says a word."""
    done: subprocess.CompletedProcess[str] | None = None

    def trace() -> bool:
        nonlocal done
        done = subprocess.run(
            ["chexfract-node", "trace", uid],
            cwd=reader.folder,
            env=reader.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return word in done.stdout

    try:
        wait_for(f"trace of {uid} says {word}", trace, 120)
    except AssertionError:
        print(done and done.stdout + done.stderr)
        raise


def _answers(port: int) -> bool:
    command = ["curl", "--silent", "--fail", f"http://127.0.0.1:{port}/healthz"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _log(folder: Path) -> str:
    return (folder / "beside.log").read_text()


def main(arguments: Sequence[str] | None = None) -> int:
    """Follow the manual in a network of our own."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args(arguments)
    if chosen.inside:
        return follow(chosen.inside)
    with tempfile.TemporaryDirectory() as folder:
        alone = ["unshare", "--net", *(() if os.geteuid() == 0 else ("--map-root-user",))]
        alone += ["sh", "-c", 'ip link set lo up && exec "$@"', "alone"]
        if subprocess.run([*alone, "true"], check=False).returncode:
            print("no network of our own here: ports 4242, 8000, 8042, 8080, 11112 must be free")
            alone = []
        command = [*alone, sys.executable, "-m", "tests.follow_manual", "--inside", folder]
        return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
