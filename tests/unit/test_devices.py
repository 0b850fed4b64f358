"""Devices by name, lost ones recognised, and one worker on each of several."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from engines import checkpoints
from pydantic import ValidationError

from dicom_node.base.errors import ConfigurationError
from worker.models import generation, open_model, remote_code
from worker.models.hub import write_sums
from worker.service import devices
from worker.settings import Settings, Worker

MIG = "cuda:MIG-5b1e2f0a-0a7c-5d0b-8a86-0e9c4f8b7d11"


@pytest.mark.parametrize(
    "name", ["auto", "cpu", "mps", "cuda", "cuda:3", "xpu", "xpu:1", MIG, "cuda:GPU-8f2d1c3e-aa"]
)
def test_a_device_has_torchs_name_or_the_drivers(name):
    assert Worker(device=name).device == name
    assert devices.parse_devices(name) == [name]


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:MIG", "cuda:0;rm", "", "hip"])
def test_another_name_is_refused(name):
    with pytest.raises(ValidationError):
        Worker(device=name)
    with pytest.raises(ConfigurationError):
        devices.parse_devices(name)


def test_a_list_names_each_device_once():
    assert devices.parse_devices("cuda:0, cuda:1,") == ["cuda:0", "cuda:1"]
    with pytest.raises(ConfigurationError):
        devices.parse_devices("cuda:0,cuda:0")


def test_a_slice_of_a_gpu_is_made_the_only_one_that_is_seen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert devices.choose_device("cuda:1") == "cuda:1"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert devices.choose_device(MIG) == "cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == MIG.partition(":")[2]


@pytest.mark.parametrize(
    ("there", "wanted", "found"),
    [
        ("cuda", "auto", "cuda"),
        ("xpu", "auto", "xpu"),
        ("xpu", "xpu:1", "xpu:1"),
        ("mps", "auto", "mps"),
        ("", "auto", "cpu"),
        ("xpu", "xpu:2", None),
        ("xpu", "cuda", None),
        ("", "xpu", None),
    ],
)
def test_auto_takes_the_accelerator_that_is_there(monkeypatch, there, wanted, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there == "cuda")
    monkeypatch.setattr(torch.xpu, "is_available", lambda: there == "xpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there == "mps")
    module = types.SimpleNamespace(device_count=lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    if found is None:
        with pytest.raises(ConfigurationError, match="this machine has no"):
            generation.device_of(wanted)
    else:
        assert str(generation.device_of(wanted)) == found


@pytest.mark.parametrize(
    ("text", "is_lost", "is_full"),
    [
        ("CUDA error: device-side assert triggered", True, False),
        ("HIP error: an illegal memory access was encountered", True, False),
        ("HIP out of memory. Tried to allocate 2.00 GiB", False, True),
        ("CUDA error: out of memory", False, True),
        ("XPU error: device lost", True, False),
        ("level_zero backend failed with error: UR_RESULT_ERROR_DEVICE_LOST", True, False),
        ("UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY", False, True),
        ("MPS backend out of memory (MPS allocated: 18 GB)", False, True),
        ("a shape is wrong", False, False),
    ],
)
def test_each_makers_words_for_lost_and_full_are_known(text, is_lost, is_full):
    fault = RuntimeError(text)
    assert remote_code.is_broken(fault) is is_lost
    assert remote_code.is_out_of_memory(fault) is is_full


@pytest.fixture
def slow(tmp_path):
    """A model whose first token takes a second: as a large one on a CPU."""
    folder = checkpoints.build(tmp_path / "slow", "SlowStartForCausalLM")
    write_sums(folder, "slow")
    return {"engine": "chexfract", "path": str(folder), "licence_accepted_by": "A"}


def test_a_cpu_gets_the_time_that_it_needs_unless_the_table_says_otherwise(slow, monkeypatch):
    for table, is_longer in (({}, True), ({"max_time": 1.5}, False)):
        model = open_model("slow", slow | {"max_new_tokens": 4000} | table, "cpu")
        model.load()
        kept = model.max_time
        model._allow_time(30.0, 10)  # three seconds a token
        assert (model.max_time > 3000) is is_longer
        assert kept <= model.max_time
        assert model.model.generation_config.max_time == model.max_time


def test_reading_a_long_prompt_is_progress(slow):
    model = open_model("slow", slow | {"max_new_tokens": 1}, "cpu")
    model.load()
    calls = []
    model.describe(
        [types.SimpleNamespace(pixels=generation.invented_pixels())], lambda: calls.append(1)
    )
    assert len(calls) >= 4, "the processor, two layers and a token"


CHILD = """
import os, pathlib, signal, sys, time
device = os.environ["CHEXFRACT_WORKER_WORKER__DEVICE"]
folder = pathlib.Path(sys.argv[1])
(folder / f"{device} of").write_text(os.environ["CHEXFRACT_WORKER_WORKER__DEVICES"])
with (folder / device).open("a") as file: file.write("start\\n")
if device == sys.argv[2]: sys.exit(int(sys.argv[3]))
time.sleep(60)
"""
PARENT = """
import sys
from worker.service import devices
devices._PAUSE_S = (0.05, 0.1)
child = [sys.executable, "-c", sys.argv[1], *sys.argv[2:]]
sys.exit(devices.run_each(child, ["cuda:0", "cuda:1"]))
"""


def parent(folder, failing, status):
    arguments = [sys.executable, "-c", PARENT, CHILD, str(folder), failing, str(status)]
    return subprocess.Popen(arguments, cwd=Path(__file__).parents[2])


def starts(folder, device):
    path = folder / device
    return path.read_text().count("start") if path.exists() else 0


def until(holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_worker_that_ends_is_started_again_and_its_neighbour_left_alone(tmp_path, monkeypatch):
    running = parent(tmp_path, "cuda:1", 70)
    try:
        until(lambda: starts(tmp_path, "cuda:1") >= 3)
        assert starts(tmp_path, "cuda:0") == 1
        shared = (tmp_path / "cuda:0 of").read_text()
        monkeypatch.setenv("CHEXFRACT_WORKER_WORKER__DEVICES", shared)
        table = Settings(worker={"nodes": ["http://n"]}).worker
        assert table.devices == ("cuda:0", "cuda:1"), "each knows who shares the processors with it"
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
    finally:
        running.kill()
        running.wait(10)


def test_a_wrong_configuration_ends_all(tmp_path):
    running = parent(tmp_path, "cuda:0", 78)
    try:
        assert running.wait(30) == 78
        assert starts(tmp_path, "cuda:0") == 1
    finally:
        running.kill()
        running.wait(10)
