"""The models' benchmark: its arithmetic, and that it says what it measured and what it did not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bench import models

ROOT = Path(__file__).parents[2]
SMALL = ["--small", "--batch", "1", "2", "--new", "3", "--repeat", "1", "--paths"]


def test_the_real_shape_has_the_size_and_the_work_of_the_roofline():
    """10.8 TFLOP of prefill at 1400 tokens, 0.24 to 0.30 of them the encoder; 7.44 GB a token."""
    with torch.device("meta"):
        shape = models.Shape(models.REAL, "sdpa").to(torch.bfloat16)
    vit, phi = models.flop(shape, models.REAL)
    assert sum(p.numel() for p in shape.phi.parameters()) == pytest.approx(3.82e9, rel=0.001)
    assert sum(p.numel() for p in shape.vit.parameters()) == pytest.approx(86.6e6, rel=0.001)
    assert 0.24e12 < vit < 0.31e12
    assert vit + phi == pytest.approx(10.8e12, rel=0.01)
    assert models.read_per_token(shape, models.REAL, 0) == pytest.approx(7.44e9, rel=0.001)
    one_more = models.read_per_token(shape, models.REAL, 1) - models.read_per_token(
        shape, models.REAL, 0
    )
    assert one_more == 2 * 32 * 3072 * 2


@pytest.mark.parametrize(
    ("name", "peaks"),
    [
        ("NVIDIA H200", (989e12, 4.8e12)),
        ("NVIDIA H100 80GB HBM3", (989e12, 3.35e12)),
        ("NVIDIA H100 PCIe", (756e12, 2.0e12)),
        ("NVIDIA A100-SXM4-80GB", (312e12, 2.039e12)),
        ("NVIDIA L4", (121e12, 0.3e12)),
        ("NVIDIA GeForce RTX 3090", (71e12, 0.936e12)),
        ("NVIDIA L40S", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_gpu_is_compared_with_its_own_peaks_only(monkeypatch, name, peaks):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert models.peaks(torch.device("cuda")) == peaks


@pytest.mark.parametrize("peaks", [None, (989e12, 4.8e12)])
def test_memory_is_told_also_of_a_gpu_whose_peaks_are_unknown(monkeypatch, peaks):
    monkeypatch.setattr(models, "peak_gb", lambda _: 9.5)
    shape = models.Shape(models.SMALL, "sdpa").eval()
    options = SimpleNamespace(at=torch.device("cpu"), new=3, repeat=1, peak=peaks)
    found = models.measure(shape, models.SMALL, 1, "dynamic", options)
    assert found["peak_gb"] == 9.5
    assert ("prefill_mfu" in found) == ("floor_images_per_s" in found) == (peaks is not None)


@pytest.fixture(scope="module")
def run():
    return subprocess.run(
        [sys.executable, str(ROOT / "tests" / "bench" / "models.py"), *SMALL],
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
        env={"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )


def test_without_a_gpu_a_small_shape_runs_and_says_so(run):
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()[:2]
    assert "CPU" in first
    assert "scaled-down shape, float32" in first
    assert second == "# no GPU: these figures say nothing of the real size, of MFU or of the goal"
    assert "met" not in run.stdout


def test_every_way_is_measured_at_every_batch_size_the_baseline_first(run):
    rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert [(row["way"], row["batch"]) for row in rows] == [
        (way, batch) for way in ("eager", "sdpa", "static") for batch in (1, 2)
    ]
    for row in rows:
        assert row["images_per_s"] * row["ms_per_image"] == pytest.approx(1000, rel=0.01)
        assert row["peak_gb"] > 0
        assert "prefill_mfu" not in row


@pytest.mark.parametrize(
    ("peak", "rate", "share", "met"),
    [
        ((989e12, 4.8e12), 21.0, 0.6, True),
        ((989e12, 4.8e12), 19.0, 0.6, False),
        ((989e12, 4.8e12), 21.0, 0.4, False),
        ((312e12, 2.039e12), 21.0, 0.6, None),
        (None, 21.0, None, None),
    ],
)
def test_only_a_gpu_of_the_goals_class_is_judged(capsys, peak, rate, share, met):
    mfu = {} if share is None else {"prefill_mfu": share}
    rows = [
        {"way": "eager", "batch": 16, "images_per_s": 7.0} | mfu,
        {"way": "static", "batch": 16, "images_per_s": rate} | mfu,
        {"way": "static", "batch": 32, "out_of_memory": True},
    ]
    models.judge(rows, peak)
    printed = json.loads(capsys.readouterr().out)
    assert printed["fastest"] == "static"
    assert printed["times_eager"] == pytest.approx(rate / 7, abs=0.01)
    assert printed.get("met") == met


def test_a_way_that_fails_is_told_and_spoils_no_other(monkeypatch, capsys):
    answer = models.Shape.answer

    def fail(self, pictures, ids, new, cache):
        if cache == "static":
            raise RuntimeError("Failed to find C compiler")
        answer(self, pictures, ids, new, cache)

    monkeypatch.setattr(models.Shape, "answer", fail)
    ways = ["--ways", "static", "sdpa"]
    assert models.main([*SMALL, "--device", "cpu", *ways]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert rows[0] == {
        "way": "static",
        "batch": 1,
        "failed": "RuntimeError: Failed to find C compiler",
    }
    assert [row["way"] for row in rows[1:]] == ["sdpa", "sdpa"]


def test_the_products_own_path_is_measured_by_each_decoder(capsys):
    few = ["--small", "--batch", "8", "--new", "4", "--repeat", "1", "--product-only"]
    assert models.main(few) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[0] == "{"]
    assert [(row["path"], row["batch"]) for row in lines[:2]] == [("remote", 8), ("native", 8)]
    assert all(row["images_per_s"] > 0 and row["peak_gb"] > 0 for row in lines[:2])
    assert lines[2]["goal"] == models.DECODE_RATIO
    assert isinstance(lines[2]["decode_ratio"], float), "of one repeat it says nothing"


def test_the_ratio_is_the_median_of_what_each_turn_shows(capsys):
    """A turn in which the machine was busy, and a slow run of one side alone, move it little."""
    rows = [
        {"path": "remote", "batch": 8, "token_ms": 2.0, "token_ms_of_turns": [2.0, 8.0, 2.1, 2.0]},
        {"path": "native", "batch": 8, "token_ms": 0.5, "token_ms_of_turns": [0.5, 2.0, 0.5, 1.5]},
    ]
    models.judge_product(rows, is_small=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["decode_ratio"] == 4.0
    assert (printed["least"], printed["most"], printed["turns"]) == (1.33, 4.2, 4)
    assert printed["met"] is True
