"""``python -m tests.images node``: what a Dockerfile makes, built and run without an engine.

The steps are read from the Dockerfile itself. A Debian of the base image's release with its Python
stands for the base image; each RUN step runs in that root file system by bubblewrap, and then the
image's own entry command, as its own user, on a root file system that cannot be written, until its
own health check is content. The node has a network of its own; a worker works for a node of this
checkout, which sends it images. Exit code 69 where this machine does not allow it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from dicom_node.base.errors import ConfigurationError
from tests.drill import count as counting
from tests.drill.pictures import picture
from tests.drill.processes import wait_for
from tests.drill.sender import Sender
from tests.drill.world import SECRET, Choice, World
from tests.support.peers import NotPossible, need, where_possible

ROOT = Path(__file__).resolve().parents[1]
PYTHON_AT = "/opt/python"
"""Where the base image's Python stands in: an environment, first on PATH."""

STEP_S, READY_S, END_S = 1200, 180.0, 15.0
IMAGES = 6
"""So many images a worker's image reports."""

NEEDED = ("mmdebstrap", "bwrap", "nsenter", "setpriv")

NODE_TOML = """
[node]
data_dir = "/var/lib/chexfract"
[web]
host = "0.0.0.0"
[broker]
url = "embedded"
[peers.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 104
[[rules]]
name = "frontal chest"
match.modality = ["CR", "DX"]
model = "phantom"
allow_demonstration = true
"""


@dataclass(slots=True)
class ImageSteps:
    """What a Dockerfile says, as far as one without stages can say it."""

    base: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    steps: list[tuple[str, str, str]] = field(default_factory=list)
    """COPY and RUN in their order, each with its words and the folder that it runs in."""
    folder: str = "/"
    user: str = "0"
    volumes: list[str] = field(default_factory=list)
    entry: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop: str = "SIGTERM"


def read_dockerfile(text: str) -> ImageSteps:
    """Return the steps of a Dockerfile; an instruction that is not known here is a ValueError."""
    image = ImageSteps()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        match word.upper():
            case "FROM":
                if image.base:
                    raise ValueError("a Dockerfile with several stages")
                image.base = rest
            case "ARG":
                name, _, value = rest.partition("=")
                image.variables.setdefault(name, os.environ.get(name, value))
            case "ENV":
                image.variables |= dict(one.split("=", 1) for one in shlex.split(rest))
            case "WORKDIR":
                image.folder = rest
                image.steps.append(("WORKDIR", rest, rest))
            case "COPY" | "RUN":
                image.steps.append((word.upper(), rest, image.folder))
            case "USER":
                image.user = rest
            case "VOLUME":
                image.volumes.append(rest)
            case "ENTRYPOINT":
                image.entry = json.loads(rest)
            case "CMD":
                image.command = json.loads(rest)
            case "HEALTHCHECK":
                image.health = json.loads(rest.partition(" CMD ")[2])
            case "STOPSIGNAL":
                image.stop = rest
            case "EXPOSE" | "LABEL":
                pass
            case _:
                raise ValueError(f"an instruction that is not known here: {word}")
    return image


def base_system(folder: Path, cache: Path | None) -> None:
    """Make a Debian with Python and pip in `folder`, from `cache` where that has one."""
    kept = cache / "base.tar" if cache else None
    if kept is None or not kept.exists():
        made = kept.with_suffix(".new.tar") if kept else folder.with_suffix(".tar")
        command = ["mmdebstrap", "--variant=minbase", "--quiet"]
        command += ["--include=python3,python3-venv,ca-certificates", "bookworm", str(made)]
        subprocess.run(command, check=True, timeout=STEP_S)
        kept = made.rename(kept) if kept else made
    folder.mkdir()
    subprocess.run(["tar", "-C", str(folder), "-xf", str(kept)], check=True, timeout=STEP_S)
    # what a container engine makes: an empty file for each that it mounts
    for name in ("etc/resolv.conf", "etc/hosts"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).touch()
    _enter(folder, ["python3", "-m", "venv", PYTHON_AT], {}, "/")


def build(image: ImageSteps, folder: Path) -> None:
    """Carry out the Dockerfile's steps in a root file system."""
    for word, rest, inside in image.steps:
        place = folder / inside.lstrip("/")
        if word == "WORKDIR":
            place.mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                _copy(ROOT / source, place / target, target.endswith("/"))
        else:
            _enter(folder, ["sh", "-c", rest], image.variables, inside)


def _copy(source: Path, target: Path, is_folder: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target / source.name if is_folder else target)


def pip_places() -> list[Path]:
    """Return the files and folders of this machine that its pip is configured with.

    RUN steps see them as their host does: settings, certificates, indexes and wheels on its disk.
    """
    pip = [sys.executable, "-m", "pip", "config"]
    kept, listed = (
        subprocess.run([*pip, word], check=True, capture_output=True, text=True).stdout
        for word in ("debug", "list")
    )
    found = {Path(one) for one in re.findall(r"(/\S+), exists: True", kept)}
    found |= {Path(one) for one in re.findall(r"(?<![:/\w])/[^\s'\"]+", listed)}
    # an index names its files by ../
    found |= {Path(one).parent for one in re.findall(r"file://(/[^\s'\"]+)", listed)}
    return sorted(path for path in found if path.is_absolute() and path.exists())


def _enter(folder: Path, command: Sequence[str], variables: Mapping[str, str], inside: str) -> None:
    """Run a build step as root in the root file system, with the machine's own way to packages."""
    words = ["bwrap", "--bind", str(folder), "/", "--dev", "/dev", "--proc", "/proc"]
    words += ["--tmpfs", "/tmp", "--unshare-pid", "--die-with-parent", "--chdir", inside]
    for path in ("/etc/resolv.conf", "/etc/hosts"):
        words += ["--ro-bind", path, path]
    for path in pip_places():
        words += ["--ro-bind", str(path), str(path)]
    pip = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k.endswith("_proxy")}
    environment = {"PATH": _path(), "HOME": "/root", **pip, **variables}
    done = subprocess.run(
        [*words, *command], env=environment, check=False, timeout=STEP_S, capture_output=True
    )
    if done.returncode:
        tail = (done.stdout + done.stderr)[-2000:].decode(errors="replace")
        raise SystemExit(f"{shlex.join(command)[:200]}\n{tail}\nended with {done.returncode}")


def _path() -> str:
    return f"{PYTHON_AT}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Container:
    """An image's command on a root file system that cannot be written, in a network of its own."""

    def __init__(
        self,
        image: ImageSteps,
        folder: Path,
        mounts: Mapping[str, Path],
        log: Path,
        variables: Mapping[str, str] = {},
        *,
        shares_network: bool = False,
    ) -> None:
        self._environment = {"PATH": _path(), **image.variables, **variables}
        self._user = image.user
        words = ["bwrap", "--ro-bind", str(folder), "/", "--dev", "/dev", "--proc", "/proc"]
        # as compose.yaml mounts it: everybody may write, nobody may remove another's files
        words += ["--perms", "1777", "--tmpfs", "/tmp", "--unshare-pid", "--unshare-ipc"]
        words += [] if shares_network else ["--unshare-net"]
        words += ["--die-with-parent", "--as-pid-1", "--chdir", image.folder]
        for inside, outside in mounts.items():
            words += ["--bind", str(outside), inside]
        reads, writes = os.pipe()
        words += ["--info-fd", str(writes)]
        account = ["setpriv", "--reuid", image.user, "--regid", image.user, "--clear-groups"]
        account += ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*words, *account, *image.entry, *image.command],
                env=self._environment,
                stdout=out,
                stderr=out,
                pass_fds=[writes],
            )
        os.close(writes)
        with os.fdopen(reads) as said:
            text = said.read()
        self.pid: int = json.loads(text)["child-pid"] if text else 0

    def check(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command within the container, as its user."""
        words = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--ipc"]
        words += ["--setuid", self._user, "--setgid", self._user, "--"]
        return subprocess.run(
            [*words, *command],
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def stop(self, name: str) -> float:
        """Send the image's stop signal; return the seconds until it ended."""
        began = time.monotonic()
        os.kill(self.pid, signal.Signals[name])
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        return time.monotonic() - began


def run_node(image: ImageSteps, folder: Path, scratch: Path) -> dict[str, Any]:
    """Start the node's image as it is; return what its health check and its root say."""
    config, data, log = scratch / "node.toml", scratch / "data", scratch / "node.log"
    config.write_text(NODE_TOML)
    data.mkdir()
    os.chown(data, int(image.user), int(image.user))
    target = folder / "etc" / "chexfract"
    target.mkdir(exist_ok=True)
    (target / "node.toml").touch()
    mounts = {"/etc/chexfract/node.toml": config, image.volumes[0]: data}
    container = Container(image, folder, mounts, log)
    try:
        seconds = _wait_until_healthy(container, image.health, log)
        torch = container.check(["python", "-c", "import torch"]).returncode
        who = container.check(["python", "-c", "import os; print(os.getuid())"]).stdout.strip()
        written = container.check(["touch", "/app/a-file"]).returncode
        ended = container.stop(image.stop)
    finally:
        if container.process.poll() is None:
            container.process.kill()
            container.process.wait()
    return {
        "healthy_after_s": round(seconds, 1),
        "without_torch": torch != 0,
        "user": who,
        "root_is_read_only": written != 0,
        "ended_after_s": round(ended, 1),
        "exit": container.process.returncode,
        "passed": (torch != 0, who, written != 0, container.process.returncode)
        == (True, image.user, True, 0),
    }


class ImageWorld(World):
    """The drill's hospital without workers: the image brings its own."""

    def __init__(self, choice: Choice) -> None:
        super().__init__(choice)
        for worker in self.workers:
            worker.wanted = False

    def _workers_are_ready(self) -> bool:
        return True

    def _mount(self) -> None:
        """No small disk: nothing fills it here."""


def run_worker(image: ImageSteps, folder: Path, scratch: Path) -> dict[str, Any]:
    """Start the worker's image for a node of this checkout, which has images for it."""
    config, log = folder / "etc" / "chexfract" / "worker.toml", scratch / "worker.log"
    config.parent.mkdir(exist_ok=True)
    config.touch()
    rng = Random(1)
    pictures = [picture(number, rng.getrandbits(96)) for number in range(IMAGES)]
    world = ImageWorld(Choice(scratch / "world", model="phantom", stuck_s=60.0))
    said: dict[str, Any] = {}
    with world.running():
        mounts = {"/etc/chexfract/worker.toml": world.folder / "worker.toml"}
        (world.folder / "worker.toml").chmod(0o644)
        secret = {"CHEXFRACT_WORKER_WORKER__SECRET": SECRET}
        if "NVIDIA_VISIBLE_DEVICES" in image.variables:
            said["without_a_gpu"] = _without_a_gpu(image, folder, mounts, scratch / "gpu.log")
        container = Container(image, folder, mounts, log, secret, shares_network=True)
        try:
            seconds = _wait_until_healthy(container, image.health, log)
            sender = Sender(world.ports["node"], pictures, 5, rng, scratch)
            sender.allow(IMAGES)
            sender.start()
            wait_for("everything is sent", lambda: sender.is_over, READY_S)
            wait_for("nothing is open", lambda: not counting.open_work(world.ledger), READY_S)
            who = container.check(["python", "-c", "import os; print(os.getuid())"]).stdout.strip()
            written = container.check(["touch", "/app/a-file"]).returncode
            ended = container.stop(image.stop)
        finally:
            if container.process.poll() is None:
                container.process.kill()
                container.process.wait()
        found = counting.archived(world.log)
    world.clean()
    lines = [line for kept in found.kept.values() for line in kept]
    reported, code = (
        sum(one["completion"] == "COMPLETE" for one in lines),
        container.process.returncode,
    )
    is_plain = not said or said["without_a_gpu"]["exit"] == ConfigurationError.exit_code
    return {
        "healthy_after_s": round(seconds, 1),
        "acknowledged": len(sender.sent.acknowledged),
        "reported": reported,
        "user": who,
        "root_is_read_only": written != 0,
        "ended_after_s": round(ended, 1),
        "exit": code,
        **said,
        "passed": (reported, who, written != 0, code, is_plain)
        == (len(sender.sent.acknowledged), image.user, True, 0, True),
    }


def _without_a_gpu(
    image: ImageSteps, folder: Path, mounts: Mapping[str, Path], log: Path
) -> dict[str, Any]:
    """Return how the entry command ends that asks for a GPU which is not there."""
    variables = {
        "CHEXFRACT_WORKER_WORKER__SECRET": SECRET,
        "CHEXFRACT_WORKER_WORKER__DEVICE": "cuda",
    }
    container = Container(image, folder, mounts, log, variables, shares_network=True)
    container.process.wait(READY_S)
    return {"exit": container.process.returncode, "said": log.read_text().splitlines()[-1:]}


def _wait_until_healthy(container: Container, health: Sequence[str], log: Path) -> float:
    began = time.monotonic()
    while True:
        ended = container.process.poll() is not None
        if not ended and container.check(health).returncode == 0:
            return time.monotonic() - began
        if ended or time.monotonic() - began > READY_S:
            raise SystemExit(f"the image is not healthy:\n{log.read_text()[-2000:]}")
        time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build and run one image."""
    options = argparse.ArgumentParser(prog="python -m tests.images", description=__doc__)
    options.add_argument("image", choices=("node", "worker", "worker.gpu"))
    options.add_argument("--cache", type=Path, help="folder that keeps the Debian of the base")
    options.add_argument("--root", type=Path, help="where the root file system is made, or is")
    chosen = options.parse_args(arguments)
    return where_possible(f"image {chosen.image}", lambda: _build_and_run(chosen))


def _build_and_run(chosen: argparse.Namespace) -> int:
    worker = ("redis-server", "storescu") if chosen.image != "node" else ()
    for program in (*NEEDED, *worker):
        need(program)
    if os.geteuid() != 0:
        raise NotPossible("only root can make a root file system")
    tried = subprocess.run(
        ["bwrap", "--ro-bind", "/", "/", "--unshare-pid", "--unshare-net", "true"],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if tried.returncode:
        raise NotPossible(tried.stderr.strip() or "bwrap is refused")
    image = read_dockerfile((ROOT / "docker" / f"{chosen.image}.Dockerfile").read_text())
    scratch = Path(tempfile.mkdtemp(prefix="image-"))
    scratch.chmod(0o755)
    began = time.monotonic()
    try:
        folder = chosen.root or scratch / "root"
        is_built = folder.exists()
        if not is_built:
            base_system(folder, chosen.cache)
        before = _size_mb(folder)
        based = time.monotonic()
        if not is_built:
            build(image, folder)
        built = time.monotonic()
        run = run_node if chosen.image == "node" else run_worker
        result = {
            "image": chosen.image,
            "base_s": round(based - began, 1),
            "build_s": round(built - based, 1),
            "base_mb": before,
            "own_mb": _size_mb(folder) - before,
            **run(image, folder, scratch),
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps(result))
    return 0 if result["passed"] else 1


def _size_mb(folder: Path) -> int:
    done = subprocess.run(["du", "-sm", str(folder)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[0])


if __name__ == "__main__":
    sys.exit(main())
