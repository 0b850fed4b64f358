"""A worker's doctor names what it lacks."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_node.base.checks import Check
from dicom_node.base.errors import Rejected
from worker import doctor as module
from worker.cli import main
from worker.image.decode import Decoder
from worker.models.hub import write_sums
from worker.settings import Settings


def settings_of(**tables: Any) -> Settings:
    models = {"real": {"engine": "chexfract", "path": "/nowhere", **tables.pop("model", {})}}
    return Settings(worker={"model": "real", **tables.pop("worker", {})}, models=models)


def model_checks(settings: Settings) -> dict[str, Check]:
    return {check.name: check for check in module._check_model(settings, full=False)}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w" * 100)
    write_sums(folder, "weights")
    return folder


def test_whole_weights_whose_licence_is_accepted_pass(weights: Path) -> None:
    model = {"path": str(weights), "licence_accepted_by": "Jane Doe"}
    checks = model_checks(settings_of(model=model))
    assert {check.verdict for check in checks.values()} == {"pass"}
    assert "as in SHA256SUMS of the same folder" in checks["model"].what
    assert "accepted by Jane Doe" in checks["licence"].what


@pytest.mark.parametrize(
    ("python", "verdict"),
    [("~/bin/python", "pass"), ("~/bin/none", "fail"), ("~nobody-of-this-name/python", "fail")],
)
def test_another_environments_interpreter_is_looked_for_where_it_is_started(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: str, verdict: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch(mode=0o755)
    model = {"path": str(weights), "licence_accepted_by": "Jane Doe", "python": python}
    assert model_checks(settings_of(model=model))["model"].verdict == verdict


def spoil(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"x" * 100)


def add_code(folder: Path) -> None:
    (folder / "modeling.py").write_text("import os")


def lose(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("happens", "cause"),
    [(spoil, "altered"), (add_code, "not on the list"), (lose, "not in the folder")],
)
def test_weights_that_are_not_those_of_the_list_are_named(
    weights: Path, happens: Callable[[Path], None], cause: str
) -> None:
    happens(weights)
    check = model_checks(settings_of(model={"path": str(weights)}))["model"]
    assert (check.verdict, check.exit_code) == ("fail", 78)
    assert cause in check.what
    assert "model fetch real" in check.advice


def test_a_folder_that_is_not_there_is_named() -> None:
    check = model_checks(settings_of())["model"]
    assert check.exit_code == 78
    assert "/nowhere is not a folder" in check.what


def test_weights_called_a_demonstration_want_their_licence_all_the_same(weights: Path) -> None:
    model = {"path": str(weights), "demonstration": True}
    assert model_checks(settings_of(model=model))["licence"].verdict == "fail"


def test_a_licence_that_nobody_accepted_is_named(weights: Path) -> None:
    check = model_checks(settings_of(model={"path": str(weights)}))["licence"]
    assert check.exit_code == 78
    assert "model accept real --by NAME" in check.advice


def test_large_weights_are_read_only_when_asked(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HASHED_AT_ONCE", 50)
    spoil(weights)
    settings = settings_of(model={"path": str(weights)})
    assert model_checks(settings)["model"].verdict == "warn"
    full = {check.name: check for check in module._check_model(settings, full=True)}
    assert full["model"].verdict == "fail"


def test_a_chat_server_that_does_not_listen_is_unreachable(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}/v1"
    settings = Settings(
        worker={"model": "far"}, models={"far": {"engine": "chat_server", "url": url}}
    )
    check = model_checks(settings)["model"]
    assert (check.verdict, check.exit_code) == ("fail", 69)


def test_a_key_that_an_engine_does_not_know_is_named(weights: Path) -> None:
    check = model_checks(settings_of(model={"path": str(weights), "boxes": True}))["model"]
    assert (check.exit_code, "models.real.boxes: unknown key" in check.what) == (78, True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = metadata.version

    def version(name: str) -> str:
        if name == "imagecodecs":
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    (check,) = module._check_packages()
    assert (check.verdict, check.what) == ("fail", "not installed: imagecodecs")
    assert "chexfract-node[worker]" in check.advice


def test_a_decoder_that_reads_other_pixels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Decoder.decode

    def decode(self: Decoder, ds: Any) -> Any:
        syntax = ds.file_meta.TransferSyntaxUID
        if syntax == "1.2.840.10008.1.2.4.70":
            return np.zeros((ds.Rows, ds.Columns), np.uint16)
        if syntax == "1.2.840.10008.1.2.4.90":
            raise Rejected("undecodable", "No.")
        return right(self, ds)

    monkeypatch.setattr(Decoder, "decode", decode)
    check = next(iter(module._check_decoders()))
    assert check.verdict == "fail"
    assert "JPEG Lossless: other pixels" in check.what
    assert "JPEG 2000 Image Compression: undecodable" in check.what
    assert check.what.count(";") == 1


def test_an_accelerator_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_list_cards", lambda: ([], "no NVIDIA driver"))
    (check,) = module._check_device(settings_of(worker={"device": "cuda"}))
    assert (check.verdict, check.exit_code) == ("fail", 78)
    assert "no NVIDIA driver" in check.what


def test_an_accelerator_that_torch_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_list_cards", lambda: (["H200, driver 1, 9 of 9 MiB free"], ""))
    monkeypatch.setattr(module, "_cuda_of_torch", lambda: "")
    (check,) = module._check_device(settings_of())
    assert check.verdict == "warn"
    assert "torch is a CPU build" in check.what
    monkeypatch.setattr(module, "_cuda_of_torch", lambda: "13.0")
    (check,) = module._check_device(settings_of())
    assert (check.verdict, "H200" in check.what) == ("pass", True)


@pytest.mark.parametrize(("mode", "verdict"), [(0o600, "pass"), (0o640, "warn"), (None, "fail")])
def test_the_secret_file_is_there_and_private(
    tmp_path: Path, mode: int | None, verdict: str
) -> None:
    path = tmp_path / "secret"
    if mode is not None:
        path.write_text("s" * 20)
        path.chmod(mode)
    (check,) = module._check_secret(settings_of(worker={"secret_file": path}))
    assert check.verdict == verdict


def test_a_wrong_configuration_is_told_beside_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_check_decoders", lambda: iter(()))
    (tmp_path / "worker.toml").write_text("[worker]\nbatches = 3\n")
    assert main(["doctor", "--config", str(tmp_path / "worker.toml"), "--json"]) == 78
    printed = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in printed["checks"]] == ["packages", "config"]
    assert "worker.batches: unknown key" in printed["checks"][1]["what"]
