"""Files that 0.1.0 shipped work for one more minor version."""

import warnings
from pathlib import Path

import pytest

from dicom_node import settings as node_settings
from dicom_node.credentials import read_secret
from worker import settings as worker_settings
from worker.models.options import check_all

SHIPPED = Path(__file__).parent / "shipped_0_1_0"


@pytest.mark.parametrize("name", ["configs-node.toml", "docker-node.toml"])
def test_a_node_takes_its_file_of_before(name: str) -> None:
    settings = node_settings.load(SHIPPED / name)
    assert settings.peers
    assert settings.rules[0].model == "phantom"


def test_a_node_takes_the_folder_that_it_is_started_in_as_before(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "."\n')
    assert node_settings.load(config).node.data_dir == Path()


@pytest.mark.parametrize("name", ["configs-worker.toml", "configs-models.toml"])
def test_a_worker_takes_its_file_of_before(name: str) -> None:
    settings = worker_settings.load(SHIPPED / name)
    check_all({name: table.model_dump() for name, table in settings.models.items()})


def test_the_secret_of_before_is_still_the_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "shared-secret"
    secret.write_text("a secret of sixteen and more\n")
    config = tmp_path / "node.toml"
    config.write_text(f"[node]\ndata_dir = '{tmp_path}'\n[web]\nsecret_file = '{secret}'\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_secret(node_settings.load(config)) == "a secret of sixteen and more"
    monkeypatch.setenv("CHEXFRACT_WEB__SECRET", "another one of the environment")
    config.write_text(f"[node]\ndata_dir = '{tmp_path}'\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_secret(node_settings.load(config)) == "another one of the environment"
