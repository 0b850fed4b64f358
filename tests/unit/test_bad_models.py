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
    told = capsys.readouterr()
    assert told.out == ""
    left = [p for p in out.rglob("*") if p.is_file() and p.name != "worker.log"]
    assert left == [], "something was half made"
    return code, told.err


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
    check(code, error, os.EX_CONFIG, "1 missing keys, first wte.weight")


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
    code, told = config_check(EXAMPLES, capsys)
    assert (code, told.err) == (0, "")
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
    code, told = config_check(path, capsys)
    check(code, told.err, os.EX_CONFIG, "models.other." + table.partition(" ")[0])
