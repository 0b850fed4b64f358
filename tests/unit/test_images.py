"""The steps of the Dockerfiles, as ``python -m tests.images`` reads them."""

from pathlib import Path

import pytest

from tests.images import read_dockerfile

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


def test_lines_that_go_on_are_one_step_and_comments_none() -> None:
    image = read_dockerfile(
        'FROM a:1\n# no\nENV A=1 B="x y"\nWORKDIR /app\nRUN one \\\n    && two\nCMD ["c"]\n'
    )
    assert image.steps == [("WORKDIR", "/app", "/app"), ("RUN", "one      && two", "/app")]
    assert image.variables == {"A": "1", "B": "x y"}


def test_an_instruction_that_the_reader_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="ONBUILD"):
        read_dockerfile("FROM a:1\nONBUILD RUN x\n")
