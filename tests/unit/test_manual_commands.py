"""Every command and every table in README and manual is one that the programs take."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from dicom_node import cli as node_cli
from dicom_node.base import errors
from dicom_node.manual import read_pages
from dicom_node.settings import Settings
from worker import cli as worker_cli
from worker import settings as worker_settings

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {"README": (ROOT / "README.md").read_text()} | {
    path: page.text for path, page in read_pages().items()
}
PARSERS = {"chexfract-node": node_cli.parser(), "chexfract-worker": worker_cli.parser()}


def blocks(kind: str) -> Iterator[tuple[str, str]]:
    for name, text in TEXTS.items():
        for block in re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL):
            yield name, block


def commands() -> Iterator[tuple[str, str]]:
    for name, block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.strip().startswith("#"):
                yield name, line.strip()


@pytest.mark.parametrize(("page", "line"), list(commands()))
def test_every_command_is_one_that_exists(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    program = Path(words[0]).name
    if program in PARSERS:
        PARSERS[program].parse_args(words[1:])
    elif program == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif program == "pip":
        extras = re.search(r"\[([a-z,]+)\]", words[-1])
        known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = set(extras[1].split(",")) if extras else set()
        assert wanted <= set(known["optional-dependencies"])
    elif words[0] == ".":
        assert words[1:] == [".venv/bin/activate"], line
    elif program in ("python", "python3") and words[1] == "-m":
        assert words[2] == "venv" or find_spec(words[2]) is not None, line
    elif program == "python":
        assert (ROOT / words[1]).is_file(), line
    else:
        known = ("apt-get", "pytest", "bash", "curl", "findscu", "movescu", "getscu", "grep")
        known += ("dicomweb_client",)
        assert program in known, line


@pytest.mark.parametrize(("page", "block"), list(blocks("toml")))
def test_every_table_is_one_that_the_programs_take(page: str, block: str) -> None:
    content = tomllib.loads(block)
    if {"worker", "models", "pixels"} & set(content):
        named = content.get("worker", {}).get("model", "phantom")
        known = {name: {"engine": "chexfract"} for name in (named, "phantom")}
        worker_settings.Settings(**content | {"models": known | content.get("models", {})})
    else:
        archive = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": 4242}
        content["peers"] = {"archive": archive, **content.get("peers", {})}
        # its files are read where they lie
        content.get("broker", {}).pop("password_file", None)
        content.get("node", {}).pop("ledger_password_file", None)
        for name, peer in content["peers"].items():  # a page may show some keys of a peer
            content["peers"][name] = {**archive, **peer} if name == "archive" else peer
        Settings(**content)


def sources() -> str:
    """Return the programs' text, each text that is continued on a further line in one piece."""
    paths = [path for top in ("dicom_node", "worker") for path in (ROOT / top).rglob("*.py")]
    text = "\n".join(path.read_text() for path in paths)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_every_message_that_troubleshooting_quotes_is_said() -> None:
    quoted = re.findall(r'\*\*"(.*?)"\*\*', TEXTS["troubleshooting"])
    assert len(quoted) > 20
    said = sources()
    pieces = [piece.strip() for text in quoted for piece in text.split("…") if piece.strip()]
    assert [piece for piece in pieces if piece not in said] == []


def test_everything_that_can_be_wrong_has_its_entry() -> None:
    keys = re.findall(r'Condition\(\s*"([a-z-]+)"', (ROOT / "dicom_node/conditions.py").read_text())
    assert len(set(keys)) > 10
    assert [key for key in set(keys) if f"`{key}`" not in TEXTS["troubleshooting"]] == []


def test_every_commit_that_shows_how_is_in_the_history() -> None:
    named = re.findall(r"\b[0-9a-f]{7}\b", TEXTS["contributing"].partition("commit that shows")[2])
    assert len(named) > 8
    asked = ["git", "-C", str(ROOT), "rev-parse", "--is-shallow-repository"]
    is_whole = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    if is_whole != "false":
        pytest.skip("the history is not here, or not whole")
    for commit in named:
        ancestor = ["git", "-C", str(ROOT), "merge-base", "--is-ancestor", commit, "HEAD"]
        assert subprocess.run(ancestor, check=False).returncode == 0, commit


def test_every_class_of_error_has_its_entry() -> None:
    text = TEXTS["troubleshooting"]
    found = vars(errors).values()
    own = [kind for kind in found if getattr(kind, "__module__", "") == errors.__name__]
    classes = [kind.__name__ for kind in own if isinstance(kind, type)]
    missing = [name for name in classes if f"| {name} |" not in text and name != "ChexFractError"]
    assert missing == []
