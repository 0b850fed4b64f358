"""The command lines start at once, and a fault is one line with the design's exit code."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = (
    "torch", "transformers", "highdicom", "numpy", "pydicom", "pynetdicom", "celery", "fastapi",
    "sqlalchemy", "pydantic", "rich", "httpx2",
)  # fmt: skip


def run(
    program: str, *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        capture_output=True, text=True, check=False, timeout=60, cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize("program", ["dicom_node", "worker"])
def test_a_command_line_imports_nothing_heavy(program: str) -> None:
    code = f"import sys, {program}.cli as c; c.parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(HEAVY) & set(done.stdout.split()) == set()


@pytest.mark.parametrize("program", ["dicom_node", "worker"])
def test_help_names_every_command_of_its_program(program: str) -> None:
    done = run(program, "--help")
    assert done.returncode == 0
    assert "usage: chexfract-" in done.stdout


def test_a_node_without_a_file_says_so_and_ends_with_78(tmp_path: Path) -> None:
    done = run("dicom_node", "serve", "--config", str(tmp_path / "no.toml"))
    assert done.returncode == os.EX_CONFIG
    assert done.stderr.count("\n") == 1
    assert "No such file" in done.stderr


def test_an_unknown_peer_is_a_configuration_fault(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("")
    done = run("dicom_node", "echo", "nobody", "--config", str(tmp_path / "node.toml"))
    assert done.returncode == os.EX_CONFIG
    assert "no peer is named 'nobody'" in done.stderr


def test_an_unreachable_archive_ends_with_69(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "node.toml").write_text(
        f"[peers.archive]\nae_title = 'A'\nhost = '127.0.0.1'\nport = {free_port}"
    )
    done = run("dicom_node", "echo", "archive", "--config", str(tmp_path / "node.toml"))
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stderr.count("\n") == 1
    assert f"127.0.0.1:{free_port}" in done.stderr


def test_a_missing_redis_ends_with_69(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "node.toml").write_text(
        f"[node]\ndata_dir = '{tmp_path}'\n[broker]\nurl = 'redis://:geheim@127.0.0.1:{free_port}/0'"
    )
    started = time.monotonic()
    done = run("dicom_node", "serve", "--config", str(tmp_path / "node.toml"))
    assert done.returncode == os.EX_UNAVAILABLE
    lines = [line for line in done.stderr.splitlines() if line.startswith("chexfract-node: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr
    assert time.monotonic() - started < 20


def test_a_worker_without_redis_ends_with_69(tmp_path: Path, free_port: int) -> None:
    path = tmp_path / "worker.toml"
    known = "nodes = ['http://127.0.0.1:8080']"
    path.write_text(f"[worker]\nbroker = 'redis://127.0.0.1:{free_port}/0'\n{known}")
    os.environ["CHEXFRACT_WORKER_WORKER__SECRET"] = "s" * 20
    try:
        done = run("worker", "run", "--config", str(path))
    finally:
        del os.environ["CHEXFRACT_WORKER_WORKER__SECRET"]
    assert done.returncode == os.EX_UNAVAILABLE
    assert "Traceback" not in done.stderr


def test_a_worker_without_a_secret_ends_with_78(tmp_path: Path) -> None:
    path = tmp_path / "worker.toml"
    path.write_text("")
    assert run("worker", "run", "--config", str(path)).returncode == os.EX_CONFIG


def test_parse_answers_one_object_a_line_whatever_the_line() -> None:
    lines = b"Fracture of the left 5th rib.\n\n\xff\xfe\nNo fractures are seen.\n"
    done = subprocess.run(
        [sys.executable, "-m", "worker", "parse"], input=lines, capture_output=True, check=True
    )
    answers = done.stdout.decode().splitlines()
    assert len(answers) == 4
    assert '"presence": "present"' in answers[0]
    assert '"number": "5"' in answers[0]
    assert '"presence": "undetermined"' in answers[1]
    assert '"presence": "absent"' in answers[3]
