"""A model that cannot be had is one line and the design's exit code, and nothing is half loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from engines import checkpoints

from worker.cli import main
from worker.models import ENGINES
from worker.models.catalogue import CATALOGUE
from worker.models.hub import write_sums
from worker.settings import load

EXAMPLES = Path(__file__).parents[2] / "configs" / "models.toml"
ACCEPTED = 'licence_accepted_by = "A. Reader"'


@pytest.fixture
def weights(tmp_path):
    """A whole model with its list of sums."""
    folder = checkpoints.build(tmp_path / "weights")
    write_sums(folder, "small")
    return folder


def described(tmp_path, table, capsys, engine="chexfract", device="cpu"):
    """Describe an image by a model's table; return exit code, standard error and what came out."""
    config, image, out = tmp_path / "worker.toml", tmp_path / "image.dcm", tmp_path / "out"
    image.write_bytes(b"no image is needed")
    config.write_text(
        f'[worker]\nmodel = "m"\ndevice = "{device}"\n[models.m]\nengine = "{engine}"\n{table}\n'
    )
    capsys.readouterr()
    code = main(["describe", str(image), "--out", str(out), "--config", str(config)])
    output = capsys.readouterr()
    assert output.out == ""
    left = [p for p in out.rglob("*") if p.is_file() and p.name != "worker.log"]
    assert left == [], "something was half made"
    return code, output.err


def check(code, error, expected, *words):
    assert code == expected, error
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error


def test_a_wrong_folder(tmp_path, capsys):
    code, error = described(tmp_path, f'path = "/no/such"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, "models.m.path: /no/such is not a folder")


def test_a_folder_that_holds_no_model(tmp_path, capsys):
    code, error = described(tmp_path, f'path = "{tmp_path}"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, "models.m.path", "no config.json")


def test_a_hub_name_instead_of_a_path(tmp_path, capsys):
    table = f'path = "AIRI-Institute/chexfract-maira2"\n{ACCEPTED}'
    code, error = described(tmp_path, table, capsys)
    check(code, error, os.EX_CONFIG, "model fetch AIRI-Institute/chexfract-maira2 --to DIR")


def test_a_tampered_file(tmp_path, weights, capsys):
    with (weights / "modeling_small.py").open("a") as file:
        file.write("raise SystemExit('this code must not run')\n")
    code, error = described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, "modeling_small.py was altered")


def test_a_licence_that_nobody_accepted(tmp_path, weights, capsys):
    code, error = described(tmp_path, f'path = "{weights}"', capsys)
    check(code, error, os.EX_CONFIG, "models.m.licence_accepted_by: empty", "MSRLA")


def test_weights_that_do_not_fit_their_code(tmp_path, weights, capsys):
    checkpoints.write_weights(weights, drop="wte.weight")
    write_sums(weights, "small")
    code, error = described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, "1 missing key: wte.weight")


def test_weights_that_a_clone_without_lfs_left_out(tmp_path, weights, capsys):
    note = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    (weights / "model.safetensors").write_text(note)
    write_sums(weights, "small")
    code, error = described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, "model.safetensors is a pointer of Git LFS", "git lfs pull")


def test_an_interpreter_that_is_none(tmp_path, weights, capsys):
    table = f'path = "{weights}"\npython = "/no/such/python"\n{ACCEPTED}'
    code, error = described(tmp_path, table, capsys)
    check(code, error, os.EX_CONFIG, "models.m.python: /no/such/python: No such file")


def test_too_little_memory_on_the_accelerator(tmp_path, weights, capsys, monkeypatch):
    """With what a GPU of 1 kB would answer; on a real one `tests/gpu` asks the same."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 1000))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    table = f'path = "{weights}"\n{ACCEPTED}'
    code, error = described(tmp_path, table, capsys, device="cuda")
    check(code, error, os.EX_CONFIG, "cuda has 0.0 GB free", "set quantization")


def test_memory_that_fills_while_the_weights_are_loaded(tmp_path, weights, capsys, monkeypatch):
    import torch

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    code, error = described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, "models.m: out of memory on cpu", "quantization")


def test_memory_that_fills_at_the_first_try(tmp_path, weights, capsys, monkeypatch):
    from worker.models.chexfract import ChexFractModel

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(ChexFractModel, "_describe", full)
    code, error = described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, "models.m: out of memory on cpu")


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ("maira2", "models.m.engine: maira2 fails at the first try"),
        ("chexagent", "cannot be loaded: AttributeError: TokenizersBackend"),
    ],
)
def test_a_folder_of_another_engine(tmp_path, weights, capsys, engine, says):
    code, error = described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys, engine)
    check(code, error, os.EX_CONFIG, says)


def test_a_folder_without_a_processor(tmp_path, weights, capsys):
    (weights / "preprocessor_config.json").unlink()
    write_sums(weights, "small")
    code, error = described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, f"{weights}", "no processor")


def test_code_that_ends_the_program(tmp_path, weights, capsys):
    (weights / "modeling_small.py").write_text("import sys\nsys.exit('bye')\n")
    write_sums(weights, "small")
    code, error = described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, "cannot be loaded: SystemExit: bye")


def test_a_list_of_sums_that_is_no_text(tmp_path, weights, capsys):
    (weights / "SHA256SUMS").write_bytes(b"\xff\xfe\x00")
    code, error = described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, "SHA256SUMS: not a list of sums")


@pytest.mark.parametrize("manifest", ["~nobody-of-this-name/sums", "n" * 5000])
def test_a_manifest_that_cannot_be(tmp_path, weights, capsys, manifest):
    table = f'path = "{weights}"\nmanifest = "{manifest}"\n{ACCEPTED}'
    code, error = described(tmp_path, table, capsys)
    check(code, error, os.EX_CONFIG, "models.m.manifest")


def test_weights_that_the_disk_does_not_give(tmp_path, weights, capsys):
    (weights / "model.safetensors").unlink()
    (weights / "model.safetensors").symlink_to("/proc/self/mem")
    code, error = described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys)
    check(code, error, os.EX_CONFIG, "model.safetensors: Input/output error")


def test_a_folder_that_is_no_model_gets_no_list_of_sums(tmp_path, capsys):
    code = main(["model", "accept", str(tmp_path), "--by", "A. Reader"])
    check(code, capsys.readouterr().err, os.EX_CONFIG, "no config.json")
    assert list(tmp_path.iterdir()) == []


def test_an_accelerator_that_is_not_there(tmp_path, weights, capsys):
    table = f'path = "{weights}"\n{ACCEPTED}'
    code, error = described(tmp_path, table, capsys, device="cuda:9")
    check(code, error, os.EX_CONFIG, "worker.device: this machine has no cuda:9")


def test_a_chat_server_that_is_away(tmp_path, capsys, free_port):
    table = f'url = "http://127.0.0.1:{free_port}/v1"\nattempts = 1\n{ACCEPTED}'
    code, error = described(tmp_path, table, capsys, engine="chat_server")
    check(code, error, os.EX_UNAVAILABLE, str(free_port))


def test_a_chat_server_elsewhere(tmp_path, capsys):
    table = f'url = "http://192.0.2.1:8000/v1"\n{ACCEPTED}'
    code, error = described(tmp_path, table, capsys, engine="chat_server")
    check(code, error, os.EX_CONFIG, "models.m.url: 192.0.2.1 is not this machine")


def test_the_acceptance_and_the_licence_go_to_the_log(tmp_path, weights, capsys, caplog):
    """The model's own faults come later than the gate, which has left its line by then."""
    checkpoints.write_weights(weights, drop="wte.weight")
    write_sums(weights, "small")
    with caplog.at_level("INFO", logger="worker.models"):
        described(tmp_path, f'path = "{weights}"\n{ACCEPTED}', capsys)
    (line,) = [r.getMessage() for r in caplog.records if "accepted" in r.getMessage()]
    assert "'A. Reader'" in line
    assert "MSRLA" in line


def test_a_hub_that_is_away(tmp_path, capsys, free_port):
    endpoint = f"http://127.0.0.1:{free_port}"
    command = ["model", "fetch", "chexfract-maira2", "--to", str(tmp_path / "m")]
    code = main([*command, "--endpoint", endpoint])
    check(code, capsys.readouterr().err, os.EX_UNAVAILABLE, endpoint)
    assert not (tmp_path / "m").exists()


def config_check(path, capsys):
    capsys.readouterr()
    return main(["config", "check", "--config", str(path)]), capsys.readouterr()


def test_the_examples_of_all_engines_are_right(capsys):
    code, output = config_check(EXAMPLES, capsys)
    assert (code, output.err) == (0, "")
    tables = load(EXAMPLES).models
    assert {table.engine for table in tables.values()} == set(ENGINES)
    assert {e.name for e in CATALOGUE if e.engine != "chat_server"} <= set(tables)
    accepted = {name for name, table in tables.items() if table.licence_accepted_by}
    assert accepted == set(), "nobody's name stands in an example"


def test_the_configuration_that_ships_is_right(capsys):
    assert config_check(EXAMPLES.with_name("worker.toml"), capsys)[0] == 0


@pytest.mark.parametrize("table", ["regions = true", "boxes = 1", 'engine = "x"', "batch = 2"])
def test_a_wrong_key_of_any_table_is_named(tmp_path, capsys, table):
    """Also of a model that does not serve now."""
    engine = "" if "engine" in table else 'engine = "chexfract"\n'
    path = tmp_path / "worker.toml"
    path.write_text(
        f'[models.phantom]\nengine = "chexfract"\npath = "builtin:phantom"\n'
        f'[models.other]\n{engine}path = "/x"\n{table}\n'
    )
    code, output = config_check(path, capsys)
    check(code, output.err, os.EX_CONFIG, "models.other." + table.partition(" ")[0])
