"""A folder that was made to do harm, or was damaged on its way, is one line and soon an end."""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from engines import checkpoints

from dicom_node.base.errors import ConfigurationError
from worker.models import checkpoint, open_model, room
from worker.models.hub import write_sums

DEEP = "[" * 100_000
LONGEST_S = 60

Change = Callable[[Path], None]


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """End a test that hangs, in whatever code."""

    def end(*_: object) -> None:
        raise AssertionError(f"no end after {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.build(tmp_path / "small")


def refusal(folder: Path, engine: str = "chexfract") -> str:
    """Load a folder that somebody accepted as it is; return the one line that it ends with."""
    table = {"engine": engine, "path": str(folder), "licence_accepted_by": "A. Reader"}

    def load() -> None:
        write_sums(folder, "small")
        open_model("small", table | {"max_new_tokens": 2}, "cpu").load()

    with pytest.raises(ConfigurationError) as caught:
        load()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


def written(name: str, content: str | bytes) -> Change:
    """Write another content into a file of the folder."""

    def change(folder: Path) -> None:
        raw = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(raw)

    return change


def with_head(head: bytes, length: int | None = None, body: bytes = b"") -> Change:
    """Write a safetensors file with this head, which may lie about its length."""
    size = struct.pack("<Q", len(head) if length is None else length)
    return written("model.safetensors", size + head + body)


def tensor(**changed: object) -> Change:
    """Write a safetensors file of one tensor, not as it should be."""
    content = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changed
    return with_head(json.dumps({"wte.weight": content}).encode(), body=bytes(8))


def cut(folder: Path) -> None:
    """Leave half of the weights."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def sharded(shard: str) -> Change:
    """Say that the weights lie in another file, which is not there."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": dict.fromkeys(checkpoints.shapes(), shard)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def broken_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(DEEP)


WEIGHTS: dict[str, Change] = {
    "a head longer than memory": with_head(b"{}", 1 << 62),
    "a head longer than the file": with_head(b"{}", 1 << 20),
    "a deep head": with_head(DEEP.encode()),
    "a head that is a list": with_head(b"[]"),
    "a head that is not text": with_head(bytes(range(128, 256))),
    "an empty file": written("model.safetensors", b""),
    "half of a file": cut,
    "a tensor behind the end": tensor(data_offsets=[8, 16]),
    "a tensor that ends before it begins": tensor(data_offsets=[8, 0]),
    "a tensor larger than memory": tensor(shape=[1 << 40, 1 << 20], data_offsets=[0, 1 << 62]),
    "a tensor of an unknown type": tensor(dtype="F7"),
    "a tensor of another size than its shape": tensor(shape=[3]),
    "a shape of words": tensor(shape=["a"]),
    "a shard that is not there": sharded("model-00001-of-00002.safetensors"),
    "a shard of another folder": sharded("../../../etc/passwd"),
    "a shard that is a device": sharded("/dev/zero"),
    "an index that is too deep": broken_index,
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_weights_that_are_not_whole(folder: Path, what: str) -> None:
    WEIGHTS[what](folder)
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("what", [name for name in WEIGHTS if "head" in name or "tensor" in name])
def test_the_memory_of_such_weights_is_estimated_all_the_same(folder: Path, what: str) -> None:
    """A GPU's room is looked at before anything is loaded."""
    WEIGHTS[what](folder)
    assert room.needed(checkpoint.find("small", str(folder)), "float32") >= 0


@pytest.mark.parametrize(
    "config",
    [
        DEEP,
        "[]",
        "7",
        '{"num_hidden_layers": 1e999, "hidden_size": 2, "num_attention_heads": 1}',
        '{"num_hidden_layers": 2, "hidden_size": -4, "num_attention_heads": 0}',
        '{"text_config": {"num_hidden_layers": null}}',
    ],
    ids=["deep", "list", "number", "infinite", "no-heads", "null"],
)
def test_the_memory_of_a_picture_is_not_known_of_such_a_shape(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    assert room.per_picture(checkpoint.find("small", str(folder)), "float32", 10) == 0


@pytest.mark.parametrize("content", [DEEP, "[]", "{"], ids=["deep", "list", "cut"])
@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_file_beside_the_weights_that_is_not_one(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    refusal(folder)


class Attack:
    """Runs a command where a pickle is read as it wants to be."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["torch", "pickle", "beside"])
def test_a_pickle_of_weights_runs_nothing(folder: Path, tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "it ran"
    content = {name: torch.zeros(size) for name, size in checkpoints.shapes().items()}
    path = folder / "pytorch_model.bin"
    (folder / "model.safetensors").unlink()
    if kind == "torch":
        torch.save(content | {"more": Attack(mark)}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Attack(mark)))
    else:
        torch.save(content, path)
        (folder / "training_args.bin").write_bytes(pickle.dumps(Attack(mark)))
    refusal(folder)  # the last kind: weights of zeros, whose numbers are all the same
    assert not mark.exists()


def test_code_that_nobody_accepted_does_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    code = folder / "modeling_small.py"
    code.write_text(f"open({str(mark)!r}, 'w')\n{code.read_text()}")
    write_sums(folder, "small")
    table = {"engine": "chexfract", "path": str(folder)}
    with pytest.raises(ConfigurationError, match="licence_accepted_by"):
        open_model("small", table, "cpu").load()
    code.write_text(code.read_text() + "\n")
    with pytest.raises(ConfigurationError, match="was altered"):
        open_model("small", table | {"licence_accepted_by": "A. Reader"}, "cpu").load()
    assert not mark.exists()


def pipe(name: str) -> Change:
    """Put a pipe that nobody writes to in a file's place."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def link(name: str, target: str) -> Change:
    """Put a link in a file's place."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


PLACES: dict[str, Change] = {
    "a pipe for the configuration": pipe("config.json"),
    "a pipe for the weights": pipe("model.safetensors"),
    "a pipe for the tokenizer": pipe("tokenizer.json"),
    "a link to itself": link("model.safetensors", "model.safetensors"),
    "a device for the weights": link("model.safetensors", "/dev/zero"),
    "a folder for the weights": lambda folder: (
        (folder / "model.safetensors").unlink(),
        (folder / "model.safetensors").mkdir(),
    ),
}


@pytest.mark.parametrize("what", PLACES)
def test_what_is_not_a_file_is_not_read(folder: Path, what: str) -> None:
    PLACES[what](folder)
    refusal(folder)


@pytest.mark.parametrize("what", ["pipe", "loop", "folder", "device"])
def test_what_lies_beside_the_files_is_passed_over(folder: Path, what: str) -> None:
    {
        "pipe": pipe("more.json"),
        "loop": lambda folder: (folder / "again").symlink_to(folder),
        "folder": lambda folder: (folder / "more.json").mkdir(),
        "device": link("more.bin", "/dev/zero"),
    }[what](folder)
    write_sums(folder, "small")
    table = {"engine": "chexfract", "path": str(folder), "licence_accepted_by": "A. Reader"}
    model = open_model("small", table | {"max_new_tokens": 2, "decoder": "remote"}, "cpu")
    model.load()
    model.close()


@pytest.mark.parametrize("name", [b"\xff.json", b"a\nb.json", b"a\\b.json"], ids=repr)
def test_a_file_with_a_strange_name_is_refused_or_listed(folder: Path, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("{}")
    if b"\\" in name:
        write_sums(folder, "small")
        assert checkpoint.find("small", str(folder)).verify()[name.decode()]
        return
    with pytest.raises(ConfigurationError, match="no list of sums can hold") as caught:
        write_sums(folder, "small")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [b"\xff", b"a\nb"], ids=repr)
def test_a_folder_with_a_strange_name_is_refused(folder: Path, name: bytes) -> None:
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
    strange.mkdir()
    (strange / "more.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="no list of sums can hold") as caught:
        write_sums(folder, "small")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("beside", ["model.safetensors", "model.safetensors.index.json"])
def test_an_index_that_no_loader_reads_need_not_be_whole(folder: Path, beside: str) -> None:
    """A hub offers weights twice: what is fetched are safetensors, and every JSON file."""
    whole = folder / "model.safetensors"
    if beside != whole.name:
        whole.rename(folder / "model-1.safetensors")
        index = {"weight_map": dict.fromkeys(checkpoints.shapes(), "model-1.safetensors")}
        (folder / beside).write_text(json.dumps(index))
    lost = {"weight_map": {"wte.weight": "pytorch_model-00001-of-00002.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(lost))
    checkpoint.find("small", str(folder)).check_shards()
    (folder / beside).unlink()
    with pytest.raises(ConfigurationError, match=r"names 'pytorch_model-00001-of-00002\.bin'"):
        checkpoint.find("small", str(folder)).check_shards()
