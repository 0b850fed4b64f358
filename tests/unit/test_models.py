"""Tables, folders and licences of models: what is refused, and how plainly."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from types import SimpleNamespace

import pytest
from engines import checkpoints
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.base.errors import ConfigurationError, NotFound
from worker import doctor, settings
from worker.models import ENGINES, canary, catalogue, checkpoint, fitting, open_model, room
from worker.models.checkpoint import Checkpoint, Unacceptable

REAL = {"engine": "chexfract", "licence_accepted_by": "A. Reader"}


@pytest.fixture
def folder(tmp_path):
    """A folder that looks like a checkpoint."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "modeling.py").write_text("pass\n")
    return folder


def listed(folder):
    files = Checkpoint("m", folder)
    (folder / checkpoint.SUMS).write_text(checkpoint.listing(files.sums))
    return Checkpoint("m", folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"engine": "nope"}, r"models\.m\.engine.*known: "),
        ({"engine": "chexfract", "path": "x", "colour": 1}, r"models\.m\.colour: unknown key"),
        ({"engine": "chexfract", "path": ""}, r"models\.m\.path"),
        ({"engine": "chexfract", "path": "x", "max_new_tokens": 0}, r"models\.m\.max_new_tokens"),
        ({"engine": "chexfract", "path": "x", "max_time": "1"}, r"models\.m\.max_time"),
        ({"engine": "chexfract", "path": "x", "dtype": "int4"}, r"models\.m\.dtype"),
        ({"engine": "chexfract", "path": "x", "prompt": "Bones?"}, r"m\.prompt: .*<\|image_1\|>"),
        ({"engine": "chexfract", "path": "x", "prompt": ""}, r"models\.m\.prompt"),
        ({"engine": "chexfract", "path": "/no/such/folder"}, "not a folder"),
        ({"engine": "chexfract", "path": "org/name"}, "hub's name.*model fetch org/name"),
    ],
)
def test_a_wrong_table_is_refused_with_the_path_of_its_key(table, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        open_model("m", table)
    assert caught.value.exit_code == os.EX_CONFIG
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_configuration_is_no_model(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no config\.json"):
        open_model("m", {**REAL, "path": str(tmp_path)})


@pytest.mark.parametrize("who", ["", "   "])
def test_real_weights_stay_shut_until_someone_is_named(folder, who):
    with pytest.raises(ConfigurationError, match=r"licence_accepted_by.*MSRLA"):
        open_model("m", {"engine": "chexfract", "path": str(folder), "licence_accepted_by": who})


def test_calling_real_weights_a_demonstration_opens_no_gate(folder):
    table = {"engine": "chexfract", "path": str(folder), "demonstration": True}
    with pytest.raises(ConfigurationError, match="licence_accepted_by"):
        open_model("m", table)
    model = open_model("m", {**table, **REAL})
    assert model.info.demonstration, "reports still say so"
    assert "MSRLA" in model.info.licence
    with pytest.raises(Unacceptable, match="no list of sums"):
        model.load()


def test_the_name_and_the_licence_reach_the_report(folder):
    info = open_model("m", {**REAL, "path": str(folder)}).info
    assert info.licence_accepted_by == "A. Reader"
    assert "MSRLA" in info.licence
    assert not info.demonstration


def test_a_real_folder_without_a_list_of_sums_is_refused(folder):
    with pytest.raises(Unacceptable, match=r"no list of sums.*model accept") as caught:
        open_model("m", {**REAL, "path": str(folder)}).load()
    assert caught.value.exit_code == os.EX_CONFIG


def alter(folder):
    (folder / "modeling.py").write_text("import os\n")


def add_code(folder):
    (folder / "extra.py").write_text("pass\n")


def remove(folder):
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (alter, "modeling.py was altered"),
        (add_code, "extra.py is not on the list"),
        (remove, "model.safetensors is on the list"),
    ],
)
def test_a_changed_folder_is_refused_before_any_of_its_code_runs(folder, change, message):
    listed(folder)
    change(folder)
    with pytest.raises(Unacceptable, match=message):
        open_model("m", {**REAL, "path": str(folder)}).load()


@pytest.fixture
def two_layers(folder):
    """Float32 weights: a picture encoder, an embedding, a linear layer, a norm and a head."""
    import torch
    from safetensors.torch import save_file

    shapes = {
        "vision.fc.weight": (64, 64),
        "embed_tokens.weight": (64, 64),
        "layers.0.up.weight": (64, 64),
        "layers.0.norm.weight": (64,),
        "lm_head.weight": (64, 64),
    }
    save_file({n: torch.zeros(shape) for n, shape in shapes.items()}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"the same weights once more")
    return Checkpoint("m", folder)


@pytest.mark.parametrize(
    ("dtype", "quantization", "expected"),
    [
        ("float32", "none", 4 * 4 * 4096 + 4 * 64),
        ("bfloat16", "none", 2 * 4 * 4096 + 2 * 64),
        ("bfloat16", "8bit", 2 * 3 * 4096 + 4096 + 2 * 64),
        ("bfloat16", "4bit", 2 * 3 * 4096 + 2048 + 256 + 2 * 64),
    ],
)
def test_the_memory_wanted_is_that_of_the_weights_as_they_are_loaded(
    two_layers, dtype, quantization, expected
):
    from worker.models import room

    assert room.needed(two_layers, dtype, quantization) == expected


def test_fewer_bits_fit_where_the_whole_does_not(two_layers, monkeypatch):
    """The GPU is faked: past the check of memory, loading goes on and fails elsewhere."""
    import torch

    from worker.models.local import LocalModel
    from worker.models.options import ChexFract

    listed(two_layers.folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (32_000, 32_000))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    table = {**REAL, "path": str(two_layers.folder), "memory_reserve": 1.0}
    with pytest.raises(ConfigurationError, match="GB free"):
        LocalModel("m", ChexFract(**table), "cuda").load()
    with pytest.raises(ConfigurationError, match="NotImplementedError"):  # past the check
        LocalModel("m", ChexFract(**table, quantization="8bit"), "cuda").load()


def test_the_list_itself_can_be_pinned(folder):
    files = listed(folder)
    pin = checkpoint.sha256_of(folder / checkpoint.SUMS)
    files.verify("", pin)
    with pytest.raises(Unacceptable, match="manifest_sha256"):
        files.verify("", "0" * 64)


@pytest.mark.parametrize("line", ["nonsense", f"{'0' * 64}  ../up", f"{'0' * 64}  /etc/passwd"])
def test_a_list_that_is_none_is_refused(tmp_path, line):
    (tmp_path / "sums").write_text(line + "\n")
    with pytest.raises(Unacceptable, match="line 1"):
        checkpoint.read_listing(tmp_path / "sums")


@given(st.text(min_size=1, max_size=40).filter(lambda text: "\0" not in text))
def test_any_text_as_a_path_is_a_configuration_error_or_a_folder(text):
    with suppress(ConfigurationError):
        assert checkpoint.find("m", text).folder.is_dir()


def test_code_named_on_a_hub_is_taken_from_the_folder(folder):
    auto_map = {"AutoConfig": "org/base--modeling.C", "AutoTokenizer": ["a.B", None]}
    (folder / "config.json").write_text(json.dumps({"auto_map": auto_map, "x": 1}))
    staged = checkpoint.stage(Checkpoint("m", folder))
    content = json.loads((staged / "config.json").read_text())
    assert content == {
        "auto_map": {"AutoConfig": "modeling.C", "AutoTokenizer": ["a.B", None]},
        "x": 1,
    }
    assert (staged / "model.safetensors").read_bytes() == b"weights"
    (folder / "modeling.py").unlink()
    with pytest.raises(Unacceptable, match=r"modeling.py of org/base"):
        checkpoint.stage(Checkpoint("m", folder))


def test_every_engine_of_the_catalogue_exists_and_every_engine_is_in_it():
    assert {entry.engine for entry in catalogue.CATALOGUE} == set(ENGINES)


def test_the_list_names_engines_terms_and_tables(capsys):
    assert catalogue.list_models(settings.Settings(), as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["engines"]) == set(ENGINES)
    assert all(entry["licence"] for entry in shown["catalogue"])
    assert shown["configured"][0]["name"] == "phantom"
    assert catalogue.list_models(settings.Settings()) == 0
    assert "chexfract-maira2" in capsys.readouterr().out


def test_accepting_a_folder_lists_it_and_verifying_finds_the_change(folder, capsys):
    assert catalogue.accept(str(folder), "A. Reader") == 0
    assert catalogue.verify(str(folder), settings.Settings(), as_json=True) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown[shown.index("{") :])["verified"]
    alter(folder)
    with pytest.raises(Unacceptable):
        catalogue.verify(str(folder), settings.Settings())
    with pytest.raises(NotFound):
        catalogue.verify("nothing", settings.Settings())


def test_accepting_shows_the_terms_and_the_table_to_paste(capsys):
    import tomllib

    assert catalogue.accept("chexagent-2-3b", "") == 0
    assert "--by" in capsys.readouterr().out
    assert catalogue.accept("chexagent-2-3b", 'A. "B" Reader') == 0
    shown = tomllib.loads(capsys.readouterr().out)["models"]["chexagent-2-3b"]
    assert shown["licence_accepted_by"] == 'A. "B" Reader'
    assert shown["engine"] == "chexagent"
    assert shown["python"].endswith("/bin/python")


PHI = {
    "hidden_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "intermediate_size": 8192, "vocab_size": 32064,
    "max_position_embeddings": 131072,
}  # fmt: skip


@pytest.mark.parametrize("content", [PHI, {"text_config": PHI}])
def test_what_a_picture_takes_beside_the_weights_is_estimated_by_the_models_shape(folder, content):
    (folder / "config.json").write_text(json.dumps(content))
    files = checkpoint.find("small", str(folder))
    few, many = (room.per_picture(files, "bfloat16", new) for new in (0, 1000))
    assert (many - few) / 1000 == 393_216, "keys and values of one token of Phi-3.5"
    assert 1e9 < few < 2e9


@pytest.mark.parametrize("content", ["{}", "[]", "", '{"hidden_size": "x"}'])
def test_a_shape_that_says_nothing_estimates_nothing(folder, content):
    (folder / "config.json").write_text(content)
    assert room.per_picture(checkpoint.find("small", str(folder)), "bfloat16", 10) == 0


def test_accepting_a_folder_that_a_table_names_keeps_its_trial_answer(tmp_path, capsys):
    built = checkpoints.build(tmp_path / "small")
    table = SimpleNamespace(models={"small": settings.Model(
        engine="chexfract", path=str(built), max_new_tokens=6)})  # fmt: skip
    assert catalogue.accept(str(built), "A. Reader", table) == 0
    assert "trial answer" in capsys.readouterr().out
    assert canary.read(built).text


def test_doctor_tells_how_many_fitted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    fitting.remember_fit(fitting.store_path(), "small-1234|NVIDIA L4", fitting.Fit(2, 4, 1.0))
    (check,) = doctor._check_batches("small", 8)
    assert check.verdict == "warn"
    assert "small-1234 on NVIDIA L4: batches of 2 fit" in check.what
    assert [one.verdict for one in doctor._check_batches("small", 2)] == ["pass"]
    assert list(doctor._check_batches("other", 8)) == []


def test_a_file_changed_between_look_and_load_is_refused(folder):
    """What is loaded is a copy whose sum is the one that was verified."""
    files = listed(folder)
    assert files.sums
    (folder / "modeling.py").write_text("import os\n")
    with pytest.raises(Unacceptable, match=r"modeling\.py was changed while"):
        checkpoint.stage(files)


def test_what_is_staged_is_a_copy_and_nothing_unlisted(folder):
    (folder / "unlisted.so").write_bytes(b"code")
    (folder / "vocab.bpe").write_bytes(b"a b")
    (folder / "satellites" / "org--tower").mkdir(parents=True)
    (folder / "satellites" / "org--tower" / "config.json").write_text("{}")
    files = Checkpoint("m", folder)
    sums = {"vocab.bpe": checkpoint.sha256_of(folder / "vocab.bpe")}
    staged = checkpoint.stage(files, sums)
    names = {p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file()}
    assert names == {*files.sums, "vocab.bpe"}
    assert "satellites/org--tower/config.json" in names
    (folder / "modeling.py").write_text("import os\n")
    assert "import os" not in (staged / "modeling.py").read_text()


@pytest.mark.parametrize("is_moved", [False, True], ids=["written", "replaced"])
def test_weights_that_change_while_they_are_loaded_are_refused(folder, tmp_path, is_moved):
    files = listed(folder)
    path = folder / "model.safetensors"
    content, before = path.read_bytes(), path.stat()
    assert files.sums
    if is_moved:
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").replace(path)
    else:
        path.write_bytes(content)
    # The same bytes, and the same time of modification: only the time of change tells.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Unacceptable, match=r"model\.safetensors was changed while"):
        files.check_unchanged("model.safetensors")


def test_a_list_beside_the_files_is_told_apart_from_one_of_elsewhere(folder, tmp_path):
    """Who can change the files can change a list beside them; a report says which it was."""
    files = Checkpoint("m", folder)
    assert "not compared" in files.trust()
    listed(folder)
    assert "same folder" in files.trust()
    outside = tmp_path / "given" / "sums"
    outside.parent.mkdir()
    outside.write_bytes((folder / checkpoint.SUMS).read_bytes())
    assert "outside" in files.trust(str(outside))
    assert "same folder" in files.trust(str(folder / checkpoint.SUMS))
    assert "pins" in files.trust("", "0" * 64)
    files.verify(str(outside))
    assert open_model("m", {**REAL, "path": str(folder)}).info.files == files.trust()
