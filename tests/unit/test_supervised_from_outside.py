"""What the shipped systemd units and the compose file promise: whatever ends is started again."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from peers import need
from pydantic import ValidationError

from dicom_node.base.addresses import add_password
from dicom_node.base.errors import ChexFractError, ConfigurationError, Unreachable
from dicom_node.flow import broker
from dicom_node.settings import Node, Settings, shown
from worker.settings import Worker

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "configs" / "systemd").glob("*.service"))
MODULES = {"chexfract-node": "dicom_node", "chexfract-worker": "worker"}


def keys(unit: Path) -> dict[str, str]:
    lines = unit.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]\w+=", line))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_again_for_ever_unless_the_configuration_is_wrong(unit: Path) -> None:
    service = keys(unit)
    assert service["Restart"] == "always"
    assert service["StartLimitIntervalSec"] == "0"
    assert service["RestartPreventExitStatus"] == str(ConfigurationError.exit_code)
    assert "NoNewPrivileges" in service


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_starts_a_command_that_exists(unit: Path, tmp_path: Path) -> None:
    program, *words = shlex.split(keys(unit)["ExecStart"])
    at = words.index("--config") + 1
    assert words[at].startswith("/etc/chexfract/")
    words[at] = str(tmp_path / "missing.toml")
    done = subprocess.run(
        [sys.executable, "-m", MODULES[Path(program).name], *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == ConfigurationError.exit_code, done.stderr
    assert "missing.toml" in done.stderr


def test_systemd_finds_nothing_wrong_in_the_units(tmp_path: Path) -> None:
    program = need("systemd-analyze")
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8")
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.M)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [program, "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not [line for line in done.stderr.splitlines() if "chexfract" in line], done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_takes_away_what_its_program_does_not_need(unit: Path) -> None:
    """systemd's own score: 0 is a locked box, 10 the whole machine; 3.0 was asked for."""
    done = subprocess.run(
        [need("systemd-analyze"), "security", "--offline=true", "--threshold=30", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_the_template_is_the_worker_s_unit_but_for_its_device() -> None:
    whole, each = (keys(ROOT / "configs" / "systemd" / f"chexfract-worker{x}.service") for x in ("", "@"))  # fmt: skip # noqa: E501
    differ = {key for key in whole.keys() | each.keys() if whole.get(key) != each.get(key)}
    assert differ == {"Description", "NotifyAccess", "Environment"}
    variable, device = each["Environment"].split("=")
    assert (variable, device) == ("CHEXFRACT_WORKER_WORKER__DEVICE", "%i")
    head = (ROOT / "configs" / "systemd" / "chexfract-worker@.service").read_text()
    named = re.findall(r"chexfract-worker@(\S+)", head.splitlines()[0])
    assert len(named) == 2
    for name in named:
        assert Worker(device=name).device == name


def composed(folder: Path, *more: str) -> dict[str, Any]:
    """Return the composition as docker-compose reads it, with secrets of its own."""
    shutil.copytree(ROOT / "docker", folder / "docker", ignore=shutil.ignore_patterns("secrets"))
    shutil.copytree(ROOT / "configs", folder / "configs")
    subprocess.run([folder / "docker" / "secrets.sh"], check=True, capture_output=True, timeout=20)
    command = [need("docker-compose")]
    for name in ("compose.yaml", *more):
        command += ["-f", str(folder / "docker" / name)]
    named = {"MODELS": "/srv/models", "WORKER_TOML": str(ROOT / "configs" / "worker.toml")}
    done = subprocess.run(
        [*command, "config"], capture_output=True, text=True, check=True, timeout=60,
        env=os.environ | named,
    )  # fmt: skip
    content: dict[str, Any] = yaml.safe_load(done.stdout)
    return content | {"folder": folder}


@pytest.fixture(scope="module")
def composition(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return composed(tmp_path_factory.mktemp("checkout"))


def test_on_postgresql_the_ledger_has_a_server_and_its_password_is_a_file(tmp_path: Path) -> None:
    services = composed(tmp_path, "compose.postgres.yaml")["services"]
    node = services["node"]
    assert node["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert node["depends_on"].keys() == {"redis", "certificate", "postgres"}
    word = (tmp_path / "docker" / "secrets" / "postgres-password").read_text().strip()
    assert len(word) >= 20
    assert word not in json.dumps(services)
    for name in ("node", "certificate", "postgres"):
        assert "postgres_password" in {secret["source"] for secret in services[name]["secrets"]}
    set_by = {key: value for key, value in node["environment"].items() if "LEDGER" in key}
    keys = [key.removeprefix("CHEXFRACT_NODE__").lower() for key in set_by]
    assert set(keys) <= set(Node.model_fields)


def test_on_gpus_the_worker_asks_for_them_and_mounts_its_weights(tmp_path: Path) -> None:
    worker = composed(tmp_path, "compose.gpu.yaml")["services"]["worker"]
    assert worker["build"]["dockerfile"] == "docker/worker.gpu.Dockerfile"
    assert "/srv/models:/models:ro" in worker["volumes"]
    assert "gpu" in json.dumps(worker["deploy"])
    assert (worker["read_only"], worker["cap_drop"]) == (True, ["ALL"])


def test_compose_starts_every_service_again(composition: dict[str, Any]) -> None:
    services = composition["services"]
    once = services.pop("certificate")
    assert once["restart"] in ("no", False)
    assert len(services) == 4
    assert {service["restart"] for service in services.values()} == {"always"}
    waits = services["node"]["depends_on"]["certificate"]
    assert waits == {"condition": "service_completed_successfully"}


def test_every_container_is_locked(composition: dict[str, Any]) -> None:
    for name, service in composition["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is (name != "orthanc"), name
        assert service["pids_limit"] == 256
        assert service["mem_limit"]
        assert any(tmpf.startswith("/tmp:") for tmpf in service["tmpfs"])


def test_no_password_stands_in_arguments_or_environment(composition: dict[str, Any]) -> None:
    folder = composition["folder"] / "docker" / "secrets"
    words = [(folder / name).read_text().strip() for name in ("redis-password", "jobs-secret")]
    users = json.loads((folder / "orthanc-users.json").read_text())["RegisteredUsers"]
    for word in [*words, *users.values()]:
        assert len(word) >= 20
        assert word not in json.dumps(composition["services"])
    assert json.loads((ROOT / "docker" / "orthanc.json").read_text())["AuthenticationEnabled"]
    kept = [path.read_bytes() for path in sorted(folder.iterdir())]
    subprocess.run([folder.parent / "secrets.sh"], check=True, capture_output=True, timeout=20)
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == kept


def test_the_brokers_password_comes_by_standard_input(
    composition: dict[str, Any], tmp_path: Path, free_port: int
) -> None:
    """The very line of the composition, with its file elsewhere and a free port."""
    file = tmp_path / "password"
    file.write_text("broker-word-" + "x" * 20)
    (line,) = composition["services"]["redis"]["command"]
    line = line.replace("$$", "$").replace("/run/secrets/redis_password", str(file))
    need("redis-server")
    line = line.replace("redis-server - ", f"redis-server - --port {free_port} ")
    process = subprocess.Popen(["sh", "-c", line], stdout=subprocess.DEVNULL, cwd=tmp_path)
    try:
        url = add_password(f"redis://127.0.0.1:{free_port}/0", file)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(Unreachable):
                broker.ping(url)
                break
        with pytest.raises(ChexFractError):
            broker.ping(f"redis://:wrong@127.0.0.1:{free_port}/0")
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                assert b"broker-word-" not in entry.read_bytes()
    finally:
        process.terminate()
        process.wait(30)


def test_a_user_in_an_address_keeps_its_name_beside_the_password_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hush@1\n")
    broker = {"url": "rediss://node@redis:6380/0", "password_file": file}
    ledger = "postgresql+psycopg://chexfract@db/chexfract"
    settings = Settings(
        broker=broker, node=Node(ledger=ledger, ledger_password_file=file, data_dir=tmp_path)
    )
    assert settings.broker.url == "rediss://node:hush%401@redis:6380/0"
    assert settings.ledger_url == "postgresql+psycopg://chexfract:hush%401@db/chexfract"
    assert "hush" not in json.dumps(shown(settings))


def test_a_brokers_password_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/word\n")
    settings = Settings(broker={"url": "redis://redis:6379/0", "password_file": file})
    assert settings.broker.url == "redis://:p%40ss%2Fword@redis:6379/0"
    assert "p%40" not in json.dumps(shown(settings))
    named = Settings(broker={"url": "redis://:other@redis:6379/0", "password_file": file})
    assert named.broker.url == "redis://:other@redis:6379/0"
    worker = Worker(broker="redis://redis:6379/0", broker_password_file=file)
    assert worker.broker == settings.broker.url
    for broken in (tmp_path / "none", tmp_path):
        with pytest.raises(ValidationError, match="password_file"):
            Settings(broker={"url": "redis://redis:6379/0", "password_file": broken})
        with pytest.raises(ValidationError, match="ledger_password_file: "):
            Node(ledger="postgresql+psycopg://db/x", ledger_password_file=broken)
        with pytest.raises(ValidationError, match="broker_password_file: "):
            Worker(broker="redis://redis:6379/0", broker_password_file=broken)
