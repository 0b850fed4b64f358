"""The steps of the Dockerfiles, as ``python -m tests.images`` reads them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.images import read_dockerfile
from worker.service.heartbeat import AliveFile
from worker.settings import Settings

DOCKER = Path(__file__).resolve().parents[2] / "docker"
DOCKERFILES = sorted(path.name for path in DOCKER.glob("*.Dockerfile"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_image_runs_as_a_user_of_its_own_and_names_its_entry(name: str) -> None:
    image = read_dockerfile((DOCKER / name).read_text())
    assert (image.user, image.stop) == ("10001", "SIGTERM")
    assert image.entry[0] in ("chexfract-node", "chexfract-worker")
    assert "--config" in image.command


def test_the_node_has_a_health_check_and_no_torch() -> None:
    image = read_dockerfile((DOCKER / "node.Dockerfile").read_text())
    assert image.health[0] == "python"
    assert not any("[worker" in words for _, words, _ in image.steps)


@pytest.mark.parametrize("name", ["worker.Dockerfile", "worker.gpu.Dockerfile"])
def test_a_worker_s_health_check_looks_at_the_file_that_the_worker_is_asked_to_touch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_dockerfile((DOCKER / name).read_text())
    alive = image.variables["CHEXFRACT_WORKER_WORKER__ALIVE_FILE"]
    monkeypatch.setenv("CHEXFRACT_WORKER_WORKER__ALIVE_FILE", alive)
    assert str(Settings().worker.alive_file) == alive
    file = tmp_path / "alive"
    command = [sys.executable, *image.health[1:]]
    command[-1] = command[-1].replace(alive, str(file))
    statuses = []
    for age_s in (None, 0, 3600):
        if age_s is not None:
            AliveFile(file).touch()
            os.utime(file, (time.time() - age_s, time.time() - age_s))
        statuses.append(subprocess.run(command, check=False, stderr=-3, timeout=60).returncode)
    assert statuses == [1, 0, 1]


def test_lines_that_go_on_are_one_step_and_comments_none() -> None:
    image = read_dockerfile(
        'FROM a:1\n# no\nENV A=1 B="x y"\nWORKDIR /app\nRUN one \\\n    && two\nCMD ["c"]\n'
    )
    assert image.steps == [("WORKDIR", "/app", "/app"), ("RUN", "one      && two", "/app")]
    assert image.variables == {"A": "1", "B": "x y"}


def test_an_instruction_that_the_reader_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="ONBUILD"):
        read_dockerfile("FROM a:1\nONBUILD RUN x\n")
