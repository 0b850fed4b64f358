"""Measure a model of ChexFract's architecture and size with random weights against the roofline.

    python tests/bench/models.py [--device cuda] [--batch 1 8 16] [--new 40] [--small]

A ViT-B of 518 pixels (1369 picture tokens, none merged), a projection, and Phi-3 with 3.8 B
parameters in bfloat16; 1400 tokens of prompt, 40 new ones, greedy. Weights are random: only the
speed means something. Without a GPU, or with ``--small``, a scaled-down shape runs in float32 and
the output says so. Ways: ``eager`` attention with a growing cache is the baseline; ``sdpa`` differs
in attention only; ``static`` has a cache of fixed size, whose decoding step transformers compiles
on CUDA (that needs a C compiler; about a minute for each batch size). A way that fails is named,
the others go on, and the exit code is 1.

The product's own path comes first (``--paths``): a checkpoint whose code is written as ChexFract's
nearest relative is (eager attention, a growing cache, logits of all positions) loads through the
engine ``chexfract``, and pictures go through `describe`: ``remote`` by that code, ``native`` by
`worker.models.native`, in turns. On two CPU cores the small shape has to show a ``decode_ratio``
(the median of the turns') of 3 or more at batch 8; both run in one thread there, and times are of
that thread, which other programs lengthen less. A GPU of the H200's class has to show 20 images/s
and an MFU of 50 % in the prefill at batch 16. ``--product-only`` leaves out the ways below.

MFU is that of the prefill: operations of the weights' products and of causal attention (its lower
half only), per second, of the GPU's dense bfloat16 peak. The floor is that prefill at the peak and
each further token at the memory's peak, reading all weights and the cache. ``peak_gb`` is the
allocator's on a GPU and the whole process's on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
import transformers
from transformers import Dinov2Config, Dinov2Model, Phi3Config, Phi3ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from engines import checkpoints

from dicom_node.base.errors import OutOfResources
from worker.models import generation, open_model
from worker.models.hub import write_sums

PEAKS = {"H200": (989e12, 4.8e12), "H100 PCIe": (756e12, 2.0e12), "H100 NVL": (835e12, 3.9e12)}
PEAKS |= {"H100": (989e12, 3.35e12), "A100": (312e12, 2.039e12), "L4": (121e12, 0.3e12)}
PEAKS |= {"3090": (71e12, 0.936e12)}
"""Words of a GPU's name -> dense bfloat16 FLOP/s, bytes/s; the first that fits."""
REAL = {"width": 3072, "layers": 32, "heads": 32, "inner": 8192, "words": 32064}
REAL |= {"vit": 768, "vit_layers": 12, "vit_heads": 12, "side": 518, "patch": 14, "text": 31}
SMALL = {"width": 128, "layers": 2, "heads": 4, "inner": 256, "words": 512}
SMALL |= {"vit": 64, "vit_layers": 2, "vit_heads": 2, "side": 112, "patch": 14, "text": 16}
PRODUCT_SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
PRODUCT_SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 320}
PRODUCT_REAL = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32}
PRODUCT_REAL |= {"num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064}
PATHS = ("remote", "native")
DECODE_RATIO = 3.0
"""Of the decode loop, remote to native, at batch 8 in the small shape."""
GOAL = {"batch": 16, "prefill_mfu": 0.5, "images_per_s": 20.0}
"""For a GPU of the H100's class: the others are not judged by it."""
GOAL_PEAK = 900e12
"""FLOP/s from which a GPU is of that class."""
WAYS = {"eager": ("eager", "dynamic"), "sdpa": ("sdpa", "dynamic"), "static": ("sdpa", "static")}


class Shape(torch.nn.Module):
    """Encoder, projection and decoder, called as a whole."""

    def __init__(self, s: dict[str, int], attention: str) -> None:
        super().__init__()
        vit = Dinov2Config(
            hidden_size=s["vit"],
            num_hidden_layers=s["vit_layers"],
            num_attention_heads=s["vit_heads"],
            image_size=s["side"],
            patch_size=s["patch"],
        )
        phi = Phi3Config(
            vocab_size=s["words"],
            hidden_size=s["width"],
            intermediate_size=s["inner"],
            num_hidden_layers=s["layers"],
            num_attention_heads=s["heads"],
            num_key_value_heads=s["heads"],
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=None,
            pad_token_id=0,
        )
        vit._attn_implementation = phi._attn_implementation = attention
        self.vit, self.phi = Dinov2Model(vit), Phi3ForCausalLM(phi)
        self.projection = torch.nn.Linear(s["vit"], s["width"])

    def prompt(self, pictures: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return embeddings of picture tokens, then text: (batch, tokens, width)."""
        seen = self.projection(self.vit(pictures).last_hidden_state[:, 1:])
        return torch.cat([seen, self.phi.get_input_embeddings()(ids)], 1)

    def answer(self, pictures: torch.Tensor, ids: torch.Tensor, new: int, cache: str) -> None:
        """Generate exactly `new` tokens."""
        embeddings = self.prompt(pictures, ids)
        self.phi.generate(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=ids.device),
            do_sample=False,
            max_new_tokens=new,
            min_new_tokens=new,
            cache_implementation=cache,
        )


def seconds(act, device: torch.device, n: int) -> float:
    """Return the median wall time of `n` calls after one for warming up."""
    taken = []
    for _ in range(n + 1):
        synchronise(device)
        started = time.perf_counter()
        with torch.no_grad():  # as generate does: its cache of fixed size outlives the call
            act()
        synchronise(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what was asked."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def peak_gb(device: torch.device) -> float:
    """Return the most memory used since the last batch size, or by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e9


def give_back(device: torch.device) -> None:
    """Free what the last batch size left, its compiled steps too."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def flop(model: Shape, s: dict[str, int]) -> tuple[float, float]:
    """Return the operations of one picture's prefill: encoder, decoder (attention included)."""
    tokens = (s["side"] // s["patch"]) ** 2

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if p.dim() == 2)

    vit = 2 * count(model.vit) * tokens + 4 * tokens**2 * s["vit"] * s["vit_layers"]
    prompt = tokens + s["text"]
    read = count(model.phi.model.layers)
    return vit, 2 * read * prompt + 2 * prompt**2 * s["width"] * s["layers"]


def read_per_token(model: Shape, s: dict[str, int], cached: float) -> float:
    """Return the bytes that one decoding step reads: weights, and keys and values of the cache."""
    looked_up = model.phi.get_input_embeddings().weight
    size = looked_up.element_size()
    weights = sum(p.numel() for p in model.phi.parameters()) - looked_up.numel()
    return size * (weights + 2 * s["layers"] * s["width"] * cached)


def measure(model: Shape, s: dict[str, int], batch: int, cache: str, options) -> dict[str, float]:
    """Return times, rates, MFU of the prefill and memory of one batch size."""
    device, dtype = options.at, next(model.parameters()).dtype
    pictures = torch.randn(batch, 3, s["side"], s["side"], device=device, dtype=dtype)
    ids = torch.randint(3, s["words"], (batch, s["text"]), device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def prefill():
        model.phi(inputs_embeds=model.prompt(pictures, ids), use_cache=True, logits_to_keep=1)

    def whole():
        model.answer(pictures, ids, options.new, cache)

    first = seconds(prefill, device, options.repeat)
    all_of_it = seconds(whole, device, options.repeat)
    vit, phi = flop(model, s)
    prompt = (s["side"] // s["patch"]) ** 2 + s["text"]
    found = {
        "prefill_ms": first * 1e3,
        "token_ms": (all_of_it - first) / max(options.new - 1, 1) * 1e3,
        "images_per_s": batch / all_of_it,
        "ms_per_image": all_of_it / batch * 1e3,
        "prefill_tflops": batch * (vit + phi) / first / 1e12,
    }
    peak = options.peak
    if peak:
        floor = batch * (vit + phi) / peak[0]
        decoding = (
            options.new * read_per_token(model, s, batch * (prompt + options.new / 2)) / peak[1]
        )
        found["prefill_mfu"] = floor / first
        found["floor_images_per_s"] = batch / (floor + decoding)
    found["peak_gb"] = peak_gb(device)
    return found


def peaks(device: torch.device) -> tuple[float, float] | None:
    """Return the device's published peaks where they are known."""
    if device.type != "cuda":
        return None
    words = re.split("[ -]", torch.cuda.get_device_name(device))
    if "MIG" in words:
        return None  # a slice has a share of them only
    return next((peak for part, peak in PEAKS.items() if {*part.split()} <= {*words}), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each way and batch size and print one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--new", type=int, default=40)
    parser.add_argument("--repeat", type=int, help="3, or 9 in the small shape")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--paths", nargs="*", choices=PATHS, default=list(PATHS))
    parser.add_argument("--product-only", action="store_true")
    options = parser.parse_args(arguments)
    options.at = torch.device(options.device)
    if options.at.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: this machine has none")
    is_small = options.small or options.at.type == "cpu"
    options.repeat = options.repeat or (9 if is_small else 3)
    s = SMALL if is_small else REAL
    name = torch.cuda.get_device_name(options.at) if options.at.type == "cuda" else "CPU"
    note = "scaled-down shape, float32" if is_small else "real-size shape, bfloat16"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"# {name}, {platform.machine()}, {versions}: {note}, random weights")
    if is_small:
        where = "no GPU" if options.at.type == "cpu" else "--small"
        print(f"# {where}: these figures say nothing of the real size, of MFU or of the goal")
        torch.set_num_threads(1)  # several only wait for each other at this size
    options.peak = None if is_small else peaks(options.at)
    if not is_small and options.peak is None:
        print("# this device's peaks are not listed: no MFU, no floor")
    made = product(options, is_small=is_small) if options.paths else []
    judge_product(made, is_small=is_small)
    if options.product_only:
        return 1 if any("failed" in row for row in made) else 0
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if is_small else torch.bfloat16)
    try:
        rows = [row for way in options.ways for row in measured(way, s, options)]
    finally:
        torch.set_default_dtype(usual)
    if not is_small:
        judge(rows, options.peak)
    return 1 if any("failed" in row for row in rows) else 0


def product(options, *, is_small: bool) -> list[dict]:
    """Measure the engine `chexfract` by each decoder at each batch size, prefill and loop apart.

    One loaded model reads and writes by either decoder in turns, so that whatever else the
    machine does meets both.
    """
    shape, tokens = (PRODUCT_SMALL, 64) if is_small else (PRODUCT_REAL, 1369)
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phi"
        dtype = "float32" if is_small else "bfloat16"
        checkpoints.build_phi(path, shape=shape, image_tokens=tokens, dtype=dtype)
        write_sums(path, "phi")
        table = {"engine": "chexfract", "path": str(path), "licence_accepted_by": "A bench"}
        table |= {"max_new_tokens": options.new, "max_time": 3600.0}
        table |= {"decoder": "native" if "native" in options.paths else "remote"}
        model = open_model("phi", table, str(options.at))
        model.load()
        decoders = {"remote": None, "native": model.native}
        paths = [name for name in PATHS if name in options.paths]
        if "native" in paths and model.native is None:
            paths.remove("native")
            failed = {"path": "native", "failed": "other tokens than the checkpoint's own code"}
            rows.append(failed)
            print(json.dumps(failed), flush=True)
        model.stops = []  # so that every answer has the same length
        model.model.generation_config.eos_token_id = None
        for batch in options.batch:
            found = product_rows(model, {name: decoders[name] for name in paths}, batch, options)
            for row in found:
                print(json.dumps(row), flush=True)
            rows += found
            give_back(options.at)
        model.close()
    return rows


def product_rows(model, decoders: dict, batch: int, options) -> list[dict]:
    """Return times of `describe` for one batch size: medians of turns, by each decoder."""
    picture = SimpleNamespace(pixels=generation.invented_pixels(384, 320))
    prepared = [model.prepare(picture) for _ in range(batch)]
    clock = time.thread_time if options.at.type == "cpu" else time.perf_counter
    spent: dict[tuple[str, int], list[float]] = {}
    full: set[str] = set()
    peak: dict[str, float] = {}
    for turn in range(options.repeat + 1):
        for name, decoder in decoders.items():
            model.native = decoder
            if options.at.type == "cuda":
                torch.cuda.reset_peak_memory_stats(options.at)
            for new in (1, options.new):
                if name in full:
                    continue
                model.options = model.options.model_copy(update={"max_new_tokens": new})
                model.model.generation_config.max_new_tokens = new
                synchronise(options.at)
                began = clock()
                try:
                    model.describe(prepared)
                except (torch.OutOfMemoryError, OutOfResources):
                    full.add(name)
                    continue
                synchronise(options.at)
                if turn:  # the first one warms up
                    spent.setdefault((name, new), []).append(clock() - began)
            peak[name] = peak_gb(options.at)
    weights = sum(p.numel() for p in model.model.model.layers.parameters())
    prompt = prepared[0].inputs["input_ids"].shape[1]
    config = model.model.config
    work = 2 * weights * prompt
    work += 2 * prompt**2 * config.hidden_size * config.num_hidden_layers
    rows = []
    for name in decoders:
        row: dict = {"path": name, "batch": batch}
        if name in full:
            rows.append(row | {"out_of_memory": True})
            continue
        firsts, wholes = spent[name, 1], spent[name, options.new]
        first, whole = statistics.median(firsts), statistics.median(wholes)
        steps = max(options.new - 1, 1)
        tokens = [(late - early) / steps * 1e3 for early, late in zip(firsts, wholes, strict=True)]
        figures = {
            "prefill_ms": first * 1e3,
            "token_ms": statistics.median(tokens),
            "images_per_s": batch / whole,
            "tokens_per_s": batch * options.new / whole,
            "peak_gb": peak[name],
        }
        if options.peak:
            figures["prefill_mfu"] = batch * work / options.peak[0] / first
        row |= {key: round(value, 5) for key, value in figures.items()}
        rows.append(row | {"token_ms_of_turns": [round(value, 4) for value in tokens]})
    return rows


def judge_product(rows: list[dict], *, is_small: bool) -> None:
    """Print how much faster the native decoder's loop is, and whether that is enough.

    The ratio is the median of those of each turn, in which the two came one after the other.
    """
    for batch in sorted({row["batch"] for row in rows if "token_ms" in row}):
        both = {row["path"]: row for row in rows if row.get("batch") == batch and "token_ms" in row}
        if {*PATHS} <= {*both}:
            turns = zip(*(both[name]["token_ms_of_turns"] for name in PATHS), strict=True)
            ratios = [remote / max(ours, 1e-9) for remote, ours in turns]
            ratio = statistics.median(ratios)
            summary = {"batch": batch, "decode_ratio": round(ratio, 2)}
            summary |= {"least": round(min(ratios), 2), "most": round(max(ratios), 2)}
            summary["turns"] = len(ratios)
            if is_small and batch == 8:
                summary |= {"goal": DECODE_RATIO, "met": ratio >= DECODE_RATIO}
            print(json.dumps(summary))


def measured(way: str, s: dict[str, int], options) -> list[dict]:
    """Measure and print every batch size of one way; full memory and faults end it."""
    attention, cache = WAYS[way]
    with options.at:
        model = Shape(s, attention).eval()
    rows = []
    for batch in options.batch:
        row = {"way": way, "batch": batch}
        try:
            found = measure(model, s, batch, cache, options)
            row |= {key: round(value, 5) for key, value in found.items()}
        except torch.OutOfMemoryError:
            row["out_of_memory"] = True
        except Exception as exc:  # compilers and kernels fail in many ways: the others go on
            row["failed"] = f"{type(exc).__name__}: {' '.join(str(exc).split())[:300]}"
        print(json.dumps(row), flush=True)
        rows.append(row)
        give_back(options.at)
        if "images_per_s" not in row:
            break
    return rows


def judge(rows: list[dict], peak: tuple[float, float] | None) -> None:
    """Print the speed-up over the baseline and, on a GPU of the goal's class, whether it is met."""
    at_goal = [row for row in rows if row["batch"] == GOAL["batch"] and "images_per_s" in row]
    if not at_goal:
        return
    best = max(at_goal, key=lambda row: row["images_per_s"])
    summary = {"fastest": best["way"], "batch": best["batch"]}
    baseline = [row for row in at_goal if row["way"] == "eager"]
    if baseline:
        summary["times_eager"] = round(best["images_per_s"] / baseline[0]["images_per_s"], 2)
    if peak and peak[0] >= GOAL_PEAK:
        is_fast = best["images_per_s"] >= GOAL["images_per_s"]
        summary |= {"goal": GOAL, "met": is_fast and best["prefill_mfu"] >= GOAL["prefill_mfu"]}
    print(json.dumps(summary))


if __name__ == "__main__":
    sys.exit(main())
