"""Engines on small checkpoints of our own that have the quirks of the real ones."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time
import types
import venv
import weakref

import numpy as np
import pytest
from engines import checkpoints
from packaging.specifiers import SpecifierSet

from dicom_node.base.confine import landlock_version
from dicom_node.base.errors import ConfigurationError, ModelFault, Transient
from worker.image.pixels import Radiograph
from worker.models import BrokenAccelerator, catalogue, frames, generation, open_model
from worker.models.checkpoint import Unacceptable
from worker.models.chexagent import regions, without_boxes
from worker.models.child import Crashed, Ended, EndedByMemory, _read, _Replies, _Served
from worker.models.fitting import BatchLimit
from worker.pipeline import Case, Pipeline
from worker.settings import Pixels

TALL = generation.invented_pixels(384, 320)
WIDE = generation.invented_pixels(300, 400)
DIFFERENT = [TALL, WIDE, TALL // 4, 255 - TALL, np.zeros_like(TALL), np.full_like(TALL, 255)]
ACCEPTED = {"licence_accepted_by": "A. Reader", "max_new_tokens": 12}


def seen(pixels):
    return types.SimpleNamespace(pixels=pixels)


def opened(engine, folder, **table):
    from worker.models.hub import write_sums

    write_sums(folder, "small")
    return open_model("small", {"engine": engine, "path": str(folder), **ACCEPTED, **table}, "cpu")


def loaded(engine, folder, **table):
    model = opened(engine, folder, **table)
    model.load()
    return model


def by_hand(model, inputs, count):
    """Decode greedily without any cache and without ``generate``."""
    import torch

    ids = inputs["input_ids"]
    pixels = inputs.get("pixel_values")
    with torch.no_grad():
        for _ in range(count):
            logits = model.model(input_ids=ids, pixel_values=pixels, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def quirky(tmp_path_factory):
    return loaded("chexfract", checkpoints.build(tmp_path_factory.mktemp("small") / "quirky"))


@pytest.mark.parametrize("pixels", [TALL, WIDE], ids=["tall", "wide"])
def test_what_is_generated_is_what_a_loop_by_hand_finds(quirky, pixels):
    inputs = quirky._inputs(pixels)
    assert (inputs["input_ids"] < 0).any()
    expected = by_hand(quirky, inputs, 12)
    kept, reason = generation.cut(expected, quirky.stops, 12)
    (answer,) = quirky.describe([seen(pixels)])
    assert (answer.tokens, answer.finish_reason) == (len(kept), reason)
    assert answer.text == quirky.processor.decode(kept, skip_special_tokens=True).strip()


def test_prompts_of_different_length_are_padded_on_the_left(quirky):
    assert quirky.takes_batches
    pictures = [TALL, WIDE, TALL[::-1], WIDE[:, ::-1]]
    together = quirky.describe([seen(np.ascontiguousarray(p)) for p in pictures])
    alone = [quirky.describe([seen(np.ascontiguousarray(p))])[0] for p in pictures]
    assert [d.text for d in together] == [d.text for d in alone]
    assert len({d.text for d in together}) > 1


def test_the_chat_ends_at_both_stop_tokens(quirky):
    names = quirky.processor.tokenizer.convert_ids_to_tokens(quirky.stops)
    assert set(names) == {"<|endoftext|>", "<|end|>"}


def test_attention_and_dtype_are_ours_not_the_configurations(quirky):
    assert quirky.model.config._attn_implementation == "eager"
    assert quirky.info.parameters["dtype"] == "float32"
    assert not quirky.model.generation_config.do_sample


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"drop": "layers.1.up.bias"}, "1 missing key: layers.1.up.bias"),
        ({"add": "layers.9.extra"}, "1 unexpected key: layers.9.extra"),
    ],
)
def test_weights_that_do_not_fit_the_code_are_refused(tmp_path, weights, message):
    folder = checkpoints.build(tmp_path / "unfit")
    checkpoints.write_weights(folder, **weights)
    model = opened("chexfract", folder)
    with pytest.raises(Unacceptable, match=message):
        model.load()
    assert model.model is None


def test_weights_of_another_size_are_refused(tmp_path):
    folder = checkpoints.build(tmp_path / "resized")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    # Which weights, in which shape, and which the code wants.
    named = r"of another shape(, first|:) [a-z0-9_.]+ \(\d+ x \d+, the code wants 300 x \d+\)"
    with pytest.raises(Unacceptable, match=named):
        loaded("chexfract", folder)


def test_a_cache_that_changes_the_answer_is_found_at_the_start(tmp_path):
    folder = checkpoints.build(tmp_path / "broken", model="BrokenCacheForCausalLM")
    with pytest.raises(Unacceptable, match="with a key-value cache"):
        loaded("chexfract", folder)


def test_a_slow_first_token_is_no_other_answer(tmp_path):
    folder = checkpoints.build(tmp_path / "slow", model="SlowStartForCausalLM")
    assert loaded("chexfract", folder, max_time=0.5).takes_batches


def test_a_model_that_cannot_be_padded_is_asked_one_at_a_time(tmp_path):
    folder = checkpoints.build(tmp_path / "unpadded", model="NoPaddingForCausalLM")
    model = loaded("chexfract", folder)
    assert not model.takes_batches
    together = model.describe([seen(TALL), seen(WIDE)])
    assert [d.text for d in together] == [model.describe([seen(p)])[0].text for p in (TALL, WIDE)]


def test_a_folder_that_is_no_model_is_one_line(tmp_path):
    folder = checkpoints.build(tmp_path / "nonsense")
    (folder / "modeling_small.py").write_text("raise RuntimeError('boom\\nbang')\n")
    with pytest.raises(Unacceptable, match=r"cannot be loaded.*boom bang") as caught:
        loaded("chexfract", folder)
    assert "\n" not in str(caught.value)


def test_maira2_reports_and_its_boxes_are_shares_of_the_whole_picture(tmp_path):
    """The model sees a centre crop: half of the crop's width is less of the picture's."""
    folder = checkpoints.build(tmp_path / "maira", processor="ReportProcessor")
    answers = {}
    for count in (11, 12):
        model = loaded("maira2", folder, grounding=True, max_new_tokens=count)
        (answers[count],) = model.describe([seen(WIDE)])
        assert answers[count].tokens <= count
    grounded = [d for d in answers.values() if d.regions]
    for description in grounded:
        (region,) = description.regions
        assert (region.top, region.bottom) == (0.5, 1.0)
        assert (region.left, region.right) == pytest.approx((0.3125, 0.6875))
    assert model.info.parameters["grounding"] == "true"


def test_chexagent_reads_the_picture_from_a_file_that_is_gone_afterwards(tmp_path, monkeypatch):
    """Its code wants a file name; no picture of a patient may be left on the disk."""
    private = tmp_path / "tmp"
    private.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(private))
    folder = checkpoints.build(
        tmp_path / "agent", "FileForCausalLM", processor="", tokenizer="FileTokenizer"
    )
    model = loaded("chexagent", folder, boxes=True, max_new_tokens=6)
    answers = model.describe([seen(p) for p in DIFFERENT])
    assert len({d.text for d in answers}) > 1
    assert list(private.glob("*/radiograph.png")) == []


@pytest.mark.parametrize(
    "answer",
    [
        "<|ref|>rib fracture<|/ref|><|box|>(10,20),(30,40)<|/box|>",
        "<ref>rib fracture</ref><box>(30, 40), (10, 20)</box>",
    ],
)
def test_boxes_become_regions_and_leave_the_text(answer):
    (region,) = regions(answer)
    assert (region.label, region.left, region.top) == ("rib fracture", 0.1, 0.2)
    assert (region.right, region.bottom) == (0.3, 0.4)
    assert without_boxes(answer) == "rib fracture"


def test_boxes_stay_within_the_picture():
    (first, second) = regions("<ref>clavicle</ref>(0,0),(101,250) and (5,5),(6,6)")
    assert (first.right, first.bottom) == (1.0, 1.0)
    assert first.label == second.label == "clavicle"


@pytest.mark.parametrize("task", ["report", "differential", "question"])
def test_cxr_llava_answers_greedily_without_its_own_generation(tmp_path, task):
    folder = checkpoints.build(tmp_path / task, "InsideModel", "AutoModel", processor="")
    model = loaded("cxr_llava", folder, task=task)
    pictures = [seen(p) for p in DIFFERENT]
    first = model.describe(pictures)
    assert [d.text for d in first] == [d.text for d in model.describe(pictures)]
    assert len({d.text for d in first}) > 1
    assert model.info.parameters["task"] == task


TAMING = '''
import torch


class VQModel(torch.nn.Module):
    """The encoder half of a VQGAN: 16 x 16 words of a codebook of 64."""

    def __init__(self, embed_dim, n_embed, ddconfig, lossconfig):
        super().__init__()
        assert lossconfig["target"].endswith("DummyLoss")
        self.encoder = torch.nn.Conv2d(3, embed_dim, 16, 16)
        self.codebook = torch.nn.Embedding(n_embed, embed_dim)

    def encode(self, x):
        assert x.shape == (1, 3, 256, 256) and -1 <= x.min() and x.max() <= 1
        z = self.encoder(x).flatten(2).transpose(1, 2)
        indices = torch.cdist(z, self.codebook.weight[None]).argmin(-1).flatten()
        return z, None, (None, None, indices)
'''


@pytest.fixture
def taming(tmp_path, monkeypatch):
    """A stand-in for the package taming-transformers, its VQModel small but real."""
    package = tmp_path / "site" / "taming" / "models"
    package.mkdir(parents=True)
    (package / "vqgan.py").write_text(TAMING)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "taming"]:
        del sys.modules[name]


def llm_cxr(folder):
    """Write a GPT-NeoX of a few thousand weights, a tokenizer and a codebook."""
    import torch
    from safetensors.torch import save_file
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=264 + 64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=1024,
        eos_token_id=1,
        initializer_range=0.5,
    )
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    checkpoints.write_tokenizer(folder, checkpoints.CHAT)
    codebook = {
        "encoder.weight": torch.randn(4, 3, 16, 16),
        "encoder.bias": torch.randn(4),
        "codebook.weight": torch.randn(64, 4) * 20,
    }
    save_file(codebook, folder / "vqgan.safetensors")
    params = {"embed_dim": 4, "n_embed": 64, "ddconfig": {}, "lossconfig": {"target": "network"}}
    (folder / "vqgan.yaml").write_text(json.dumps({"model": {"params": params}}))
    return folder


def test_llm_cxr_puts_the_pictures_words_between_the_brackets(tmp_path, taming):
    """The picture is 256 ids of a codebook, behind those of the tokenizer."""
    folder = llm_cxr(tmp_path / "llm")
    model = loaded("llm_cxr", folder, vqgan_weights="vqgan.safetensors", max_new_tokens=8)
    words = model._words(model._inputs(TALL))
    prompt = model._prompt(words)
    start = next(i for i, token in enumerate(prompt) if token >= len(model.tokenizer))
    assert len(words) == 256
    assert prompt[start : start + 256] == words
    around = model.tokenizer.decode([prompt[start - 1], prompt[start + 256]])
    assert around == "<>"
    answers = model.describe([seen(TALL), seen(np.zeros((300, 300), np.uint8))])
    assert answers[0].tokens <= 8
    assert words != model._words(model._inputs(np.zeros((300, 300), np.uint8)))
    codebook = weakref.ref(model.codebook)
    model.close()
    assert codebook() is None, "its memory is not given back"
    both = loaded("llm_cxr", folder, vqgan_weights="vqgan.safetensors", max_new_tokens=8,
                  question="Is there a fracture?")  # fmt: skip
    (answer,) = both.describe([seen(TALL)])
    assert answer.tokens == 16, "the longest of both: words of the codebook count as said"
    assert answer.finish_reason == "length"
    assert answer.text.startswith(answers[0].text)


def test_frames_survive_any_cut(tmp_path):
    """A child may die within any byte: what came is a whole frame, or an error."""
    stream = io.BytesIO()
    frames.write(stream, {"do": "x"}, b"abc")
    whole = stream.getvalue()
    assert frames.read(io.BytesIO(whole)) == ({"do": "x"}, b"abc")
    assert frames.read(io.BytesIO(b"")) is None
    for cut in range(1, len(whole)):
        with pytest.raises(frames.BrokenFrame):
            frames.read(io.BytesIO(whole[:cut]))
    with pytest.raises(frames.BrokenFrame):
        frames.read(io.BytesIO(b"HTTP/1.1 200 OK"))


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    """The small model in another process of this interpreter."""
    folder = checkpoints.build(tmp_path_factory.mktemp("child") / "small")
    model = loaded("chexfract", folder, python=sys.executable)
    yield model
    model.close()


def test_a_child_says_what_the_same_model_says_here(child, quirky):
    calls = []
    there = child.describe([seen(TALL), seen(WIDE)], lambda: calls.append(1))
    here = quirky.describe([seen(TALL), seen(WIDE)])
    assert [(d.text, d.tokens) for d in there] == [(d.text, d.tokens) for d in here]
    assert len(calls) >= 12
    assert child.info.version == quirky.info.version
    assert child.info.parameters["transformers"]
    assert quirky.info.parameters.items() <= child.info.parameters.items()


def test_a_childs_refusal_arrives_as_such(tmp_path):
    folder = checkpoints.build(tmp_path / "unfit")
    checkpoints.write_weights(folder, drop="wte.weight")
    with pytest.raises(Unacceptable, match=r"missing keys?(, first|:) wte\.weight"):
        loaded("chexfract", folder, python=sys.executable)


@pytest.mark.skipif(not landlock_version(), reason="this kernel offers no Landlock")
def test_a_models_own_code_reads_no_secret_and_reaches_no_network(tmp_path):
    """It runs in the child: what it can open there, somebody who wrote it can send away."""
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    folder = checkpoints.build(tmp_path / "curious")
    tries = f"""
def get_out():
    import os, socket
    for act in (
        lambda: open({str(secret)!r}).read(),
        lambda: open(f"/proc/{{os.getppid()}}/environ", "rb").read(),
        lambda: socket.socket(),
    ):
        try:
            act()
        except PermissionError:
            pass
        else:
            raise RuntimeError("the model's own code got out")
"""
    code = folder / "modeling_small.py"
    code.write_text(f"{code.read_text()}\n{tries}\nget_out()\n")
    code = folder / "processing_small.py"
    look = "        assert images.mode"
    assert look in code.read_text()
    content = code.read_text().replace(look, f"        get_out()\n{look}")
    code.write_text(f"{content}\n{tries}")
    model = loaded("chexfract", folder, python=sys.executable)
    try:
        prepared = model.prepare(seen(TALL))
        assert prepared.inputs is not None
        assert model.describe([prepared])[0].tokens > 0
    finally:
        model.close()


def test_a_child_that_died_is_an_error_that_passes(child):
    before = child.describe([seen(TALL)])
    os.kill(child._process.pid, signal.SIGKILL)
    with pytest.raises(Ended, match="ended with status"):
        child._ask({"do": "warm_up"}, b"", None, 20)
    assert child.describe([seen(TALL)])[0].text == before[0].text


def test_a_child_that_hangs_is_ended_and_started_again(child, monkeypatch):
    before = child.describe([seen(TALL)])
    monkeypatch.setattr("worker.models.child.ANSWER_TIMEOUT_S", 1.0)
    for pixels in (TALL, np.ascontiguousarray(np.tile(TALL, (8, 8)))):
        process = child._process
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(Crashed):
            child.describe([seen(pixels)])
        assert process.poll() is not None
        monkeypatch.setattr("worker.models.child.ANSWER_TIMEOUT_S", 60.0)
        assert child.describe([seen(TALL)])[0].text == before[0].text
        monkeypatch.setattr("worker.models.child.ANSWER_TIMEOUT_S", 1.0)


HOLDS = """
import functools, os, time
_computes = SmallForCausalLM.forward

@functools.wraps(_computes)
def _held(self, *args, **options):
    while os.path.exists({hold!r}):
        time.sleep(0.005)
    return _computes(self, *args, **options)

SmallForCausalLM.forward = _held
"""


def test_a_child_makes_inputs_while_its_model_computes(tmp_path):
    folder = checkpoints.build(tmp_path / "small")
    hold = folder / "hold.md"
    code = folder / "modeling_small.py"
    code.write_text(code.read_text() + HOLDS.format(hold=str(hold)))
    model = loaded("chexfract", folder, python=sys.executable)
    found = []
    try:
        alone = model.describe([seen(WIDE)])
        hold.touch()
        works = threading.Thread(target=lambda: found.extend(model.describe([seen(TALL)])))
        works.start()
        while not model._lock.locked():
            time.sleep(0.005)
        prepared = model.prepare(seen(WIDE))
        assert works.is_alive(), "the model computes still"
        assert prepared.inputs is not None, "they lie in the other process"
        hold.unlink()
        works.join(60)
        assert [answer.text for answer in model.describe([prepared])] == [
            answer.text for answer in alone
        ]
        both = model.describe([prepared, seen(TALL)])
        assert [answer.text for answer in both] == [alone[0].text, found[0].text]
    finally:
        hold.unlink(missing_ok=True)
        model.close()


FEW = """
import os, signal, sys
sys.path.insert(0, sys.argv[-1])
from worker.models import frames
answers = frames.FrameWriter(os.fdopen(os.dup(1), "wb"))
requests = os.fdopen(os.dup(0), "rb")
word = {"text": "No fracture.", "tokens": 3, "finish_reason": "stop", "seconds": 0.1, "regions": []}
while (frame := frames.read(requests)) is not None:
    request = frame[0]
    pictures = request.get("pictures", [])
    if len(pictures) > 2:
        END
    answer = {"kind": "done", "environment": {}, "device": "cpu", "dtype": "float32"}
    answers.write(answer | {"number": request["number"], "descriptions": [word] * len(pictures)})
"""
"""A process that speaks as a child does, and ends when it is to describe more than two pictures."""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
ABORTED = "print('what():  std::bad_alloc', file=sys.stderr, flush=True); os.abort()"
EMPTY = "print('MemoryError', file=sys.stderr, flush=True); os._exit(1)"


@pytest.mark.parametrize(
    ("end", "kills", "kind", "most"),
    [
        (KILLED, [7, 8], EndedByMemory, 2),
        (KILLED, [None, None], EndedByMemory, 2),
        (EMPTY, [7, 7], EndedByMemory, 2),
        (ABORTED, [7, 7], EndedByMemory, 2),
        (KILLED, [7, 7], Crashed, 4),
        ("os.kill(os.getpid(), signal.SIGSEGV)", [7, 8], Crashed, 4),
        ("os.abort()", [7, 7], Crashed, 4),
        ("os._exit(3)", [7, 7], Crashed, 4),
    ],
    ids=["memory", "unknown", "says", "bad-alloc", "killed", "segv", "abort", "exit"],
)
def test_only_full_memory_makes_batches_smaller(tmp_path, monkeypatch, end, kills, kind, most):
    """A crash is tried in halves too, to find its picture, and nothing is learned of it."""
    folder = checkpoints.build(tmp_path / "small")
    script = tmp_path / "few.py"
    script.write_text(FEW.replace("END", end))
    python = program(tmp_path / "python", f'exec "{sys.executable}" -I "{script}" "$@"')
    counts = itertools.chain(kills, itertools.repeat(kills[-1]))
    monkeypatch.setattr("worker.models.child.memory_kills", lambda: next(counts))
    model = loaded("chexfract", folder, python=python)
    ended = []
    describe = model.describe

    def noting(pictures, progress=None):
        try:
            return describe(pictures, progress)
        except Transient as exc:
            ended.append(exc)
            raise

    monkeypatch.setattr(model, "describe", noting)
    pipeline = Pipeline(model, None, Pixels(), BatchLimit(4))
    cases = [Case(radiograph=Radiograph(TALL, "x")) for _ in range(4)]
    try:
        pipeline.describe(cases)
    finally:
        model.close()
    assert [type(exc) for exc in ended] == [kind]
    assert pipeline.limit.most == most
    assert all(case.description is not None for case in cases)


def test_a_crash_at_the_trial_picture_is_the_models_own_fault(tmp_path):
    folder = checkpoints.build(tmp_path / "small")
    script = tmp_path / "few.py"
    script.write_text(
        FEW.replace("len(pictures) > 2", "request['do'] == 'warm_up'").replace("END", "os._exit(3)")
    )
    python = program(tmp_path / "python", f'exec "{sys.executable}" -I "{script}" "$@"')
    model = loaded("chexfract", folder, python=python)
    try:
        with pytest.raises(ModelFault, match="ended with status 3"):
            model.warm_up()
    finally:
        model.close()


def test_inputs_in_a_child_that_died_are_made_by_the_next(child):
    before = child.describe([seen(TALL)])
    prepared = child.prepare(seen(TALL))
    process = child._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    lost = child.prepare(seen(TALL))
    assert lost.inputs is None, "whether of this picture is not known"
    assert [answer.text for answer in child.describe([prepared, lost])] == 2 * [before[0].text]
    assert child._process is not process


class DiesMeanwhile:
    """A picture during whose reading another thread notes that the process has ended."""

    shape = TALL.shape

    def __init__(self, child):
        self._child = child

    def tobytes(self):
        self._child._end(at_once=True)
        return TALL.tobytes()


def test_a_child_whose_end_another_thread_notes_blames_no_picture(child):
    picture = types.SimpleNamespace(pixels=DiesMeanwhile(child))
    assert child.prepare(picture).inputs is None
    with pytest.raises(Crashed, match="ended with status"):
        child.describe([picture])
    assert child.describe([seen(TALL)])[0].text, "the next process is there"


@pytest.mark.parametrize("text", ['{"number": []}', '{"number": ' + "[" * 100_000, "{}", "[]"])
def test_whoever_waits_hears_of_a_stream_that_holds_no_answers(text):
    head = frames.HEAD.pack(frames.MAGIC, len(text), 0)
    replies = _Replies()
    _, answers = replies.begin()
    _read(io.BytesIO(head + text.encode()), replies)
    heard = [answers.get_nowait()]
    while heard[-1] is not None:
        heard.append(answers.get_nowait())
    assert heard[:-1] in ([], [({"kind": "broken"}, b"")])


def test_a_child_keeps_inputs_for_as_long_as_they_are_wanted(child):
    served = _Served(frames.FrameWriter(io.BytesIO()))
    served._model = types.SimpleNamespace(prepare=lambda picture: picture.pixels.tolist())
    ask = {"do": "prepare", "number": 7, "shape": [1, 2]}
    assert served._answer(ask, b"\1\2") == {"kind": "done", "kept": 7}
    assert served._kept == {7: [[1, 2]]}
    served.forget([7, 8])
    assert served._kept == {}
    prepared = child.prepare(seen(TALL))
    number = prepared.inputs.number
    del prepared
    assert child._wire.take_forgotten() == [number]


def test_a_processors_fault_at_a_picture_is_a_models_fault(tmp_path):
    folder = checkpoints.build(tmp_path / "small")
    code = folder / "processing_small.py"
    look = "        assert images.mode"
    refuse = f"        if images.size[0] > images.size[1]: raise ValueError('too wide')\n{look}"
    code.write_text(code.read_text().replace(look, refuse))
    model = loaded("chexfract", folder, python=sys.executable)
    try:
        with pytest.raises(ModelFault, match="too wide"):
            model.prepare(seen(WIDE))
        assert model.describe([model.prepare(seen(TALL))])[0].text
    finally:
        model.close()


def test_a_child_ends_when_its_parent_lets_go(child):
    child.warm_up()
    process = child._process
    child.close()
    assert process.poll() is not None
    for act in (child.warm_up, lambda: child.describe([seen(TALL)])):
        with pytest.raises(ModelFault, match="not loaded"):
            act()


@pytest.mark.parametrize(
    "python", ["/no/such/python", "/bin/false", "/bin/cat", "~nobody-of-this-name/bin/python"]
)
def test_an_interpreter_that_is_none_is_named_soon(tmp_path, python):
    folder = checkpoints.build(tmp_path / "small")
    started = time.monotonic()
    with pytest.raises(ConfigurationError, match=r"models\.small\.python"):
        loaded("chexfract", folder, python=python, start_timeout=20)
    assert time.monotonic() - started < 40


def program(path, *lines):
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["exec sleep 90"], "said nothing for 1 s"),
        (["echo Welcome to this environment", "exec sleep 90"], "wrote something else"),
        (["echo 'Traceback:' >&2", "echo 'no module torch' >&2", "exit 3"], "3: no module torch"),
    ],
    ids=["hangs", "prints", "dies"],
)
def test_a_program_that_is_no_interpreter_is_one_line_soon(tmp_path, capfd, lines, message):
    folder = checkpoints.build(tmp_path / "small")
    python = program(tmp_path / "python", *lines)
    started = time.monotonic()
    with pytest.raises(ConfigurationError, match=rf"models\.small\.python.*{message}") as caught:
        loaded("chexfract", folder, python=python, start_timeout=1.0)
    assert time.monotonic() - started < 45
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_child_that_cannot_be_started_again_blames_no_picture(tmp_path):
    folder = checkpoints.build(tmp_path / "small")
    python = program(tmp_path / "python", f'exec "{sys.executable}" "$@"')
    model = loaded("chexfract", folder, python=python)
    try:
        program(tmp_path / "python", "exit 1")
        os.kill(model._process.pid, signal.SIGKILL)
        model._process.wait(10)
        for _ in range(2):
            with pytest.raises(BrokenAccelerator, match="cannot be started again"):
                model.describe([seen(TALL)])
    finally:
        model.close()


OTHER = os.environ.get("OTHER_PYTHON", "")


@pytest.mark.skipif(not OTHER, reason="OTHER_PYTHON names no second environment")
def test_two_releases_of_transformers_agree_side_by_side(tmp_path, quirky):
    folder = checkpoints.build(tmp_path / "small")
    other = loaded("chexfract", folder, python=OTHER)
    other.warm_up()
    try:
        there = other.describe([seen(TALL), seen(WIDE)])
        here = quirky.describe([seen(TALL), seen(WIDE)])
        assert [d.text for d in there] == [d.text for d in here]
        import transformers

        assert other.info.parameters["transformers"] != transformers.__version__
    finally:
        other.close()


OWN = dict(pair.split("=", 1) for pair in os.environ.get("ENGINE_PYTHONS", "").split())
"""Engine -> interpreter of an environment with the release that the engine was made for."""
SHAPES = {
    "chexagent": {"model": "FileForCausalLM", "processor": "", "tokenizer": "FileTokenizer"},
    "cxr_llava": {"model": "InsideModel", "auto": "AutoModel", "processor": ""},
    "maira2": {"processor": "ReportProcessor"},
}
KEYS = {"chexagent": {"boxes": True}, "cxr_llava": {"task": "question"}, "maira2": {}}


@pytest.mark.skipif(not OWN, reason="ENGINE_PYTHONS names no environments")
def test_engines_run_side_by_side_each_in_the_release_it_was_made_for(tmp_path, monkeypatch):
    radiographs = [seen(p) for p in DIFFERENT]
    folders = {engine: checkpoints.build(tmp_path / engine, **SHAPES[engine]) for engine in OWN}
    here = {engine: loaded(engine, folders[engine], **KEYS[engine]) for engine in OWN}
    there = {}
    try:
        for engine, python in OWN.items():
            there[engine] = loaded(engine, folders[engine], python=python, **KEYS[engine])
            there[engine].warm_up()
        # The small tokenizer puts a picture's path into the prompt, so its length must be the same:
        # a child writes into a folder of its own.
        monkeypatch.setattr("tempfile.tempdir", tempfile.mkdtemp(prefix="chexfract-child-"))
        for engine, model in there.items():
            answers = [d.text for d in model.describe(radiographs)]
            assert answers == [d.text for d in here[engine].describe(radiographs)], engine
            assert len(set(answers)) > 1
            found = model.info.parameters
            assert here[engine].info.parameters.items() <= found.items()
            (pinned,) = {e.transformers for e in catalogue.CATALOGUE if e.engine == engine}
            assert SpecifierSet(pinned).contains(found["transformers"]), engine
        assert len({model.info.parameters["transformers"] for model in there.values()}) > 1
        assert all(model._process.poll() is None for model in there.values())
    finally:
        for model in there.values():
            model.close()


def environment(folder, paths=()):
    """Return the interpreter of a new environment that finds packages at `paths`."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "own.pth").write_text("\n".join(map(str, paths)))
    return str(folder / "bin" / "python")


def test_an_environment_without_torch_is_one_line(tmp_path):
    folder = checkpoints.build(tmp_path / "small")
    with pytest.raises(ConfigurationError, match=r"models\.small\.python: .*'torch'") as caught:
        loaded("chexfract", folder, python=environment(tmp_path / "bare"))
    assert "\n" not in str(caught.value)


def test_llm_cxr_finds_its_codebooks_package_in_its_own_environment_only(tmp_path):
    """The environment has the package; this one has not, and could not load the model."""
    package = tmp_path / "site" / "taming" / "models"
    package.mkdir(parents=True)
    (package / "vqgan.py").write_text(TAMING)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    here = [path for path in sys.path if path.endswith("site-packages")]
    python = environment(tmp_path / "venv", [tmp_path / "site", *here])
    folder = llm_cxr(tmp_path / "llm")
    keys = {"vqgan_weights": "vqgan.safetensors", "max_new_tokens": 8}
    with pytest.raises(ConfigurationError, match="taming-transformers"):
        loaded("llm_cxr", folder, **keys)
    model = loaded("llm_cxr", folder, **keys, python=python)
    try:
        answers = model.describe([seen(TALL), seen(np.zeros((300, 300), np.uint8))])
        assert all(d.tokens <= 8 for d in answers)
    finally:
        model.close()


@pytest.mark.parametrize(("how", "layer"), [("8bit", "Linear8bitLt"), ("4bit", "Linear4bit")])
@pytest.mark.filterwarnings("default")
def test_quantization_shrinks_the_language_model_only(tmp_path, how, layer):
    pytest.importorskip("bitsandbytes")
    folder = checkpoints.build(tmp_path / how, width=128)
    whole = loaded("chexfract", folder)
    model = loaded("chexfract", folder, quantization=how)
    kinds = {name: type(module).__name__ for name, module in model.model.named_modules()}
    assert kinds["layers.0.qkv"] == kinds["layers.1.down"] == layer
    assert kinds["vision"] == kinds["lm_head"] == "Linear"
    assert model.info.parameters["quantization"] == how
    inputs = whole._inputs(TALL)
    logits = [m.model(**inputs, use_cache=False).logits.flatten() for m in (whole, model)]
    closeness = np.corrcoef([x.detach().numpy() for x in logits])[0, 1]
    assert 0.8 < closeness < 1
    assert model.describe([seen(TALL)])[0].text


@pytest.mark.parametrize(("how", "dtype"), [("int8", "torch.int8"), ("fp8", "float8_e4m3fn")])
def test_torchao_shrinks_the_language_model_only(tmp_path, how, dtype):
    pytest.importorskip("torchao")
    folder = checkpoints.build(tmp_path / how, width=128)
    whole = loaded("chexfract", folder)
    model = loaded("chexfract", folder, quantization=how)
    weights = dict(model.model.named_parameters())
    for name in ("layers.0.qkv.weight", "layers.1.down.weight"):
        assert dtype in str(weights[name].qdata.dtype)
    for name in ("vision.weight", "lm_head.weight"):
        assert type(weights[name].data) is type(dict(whole.model.named_parameters())[name].data)
    assert model.info.parameters["quantization"] == how
    inputs = whole._inputs(TALL)
    logits = [m.model(**inputs, use_cache=False).logits.flatten() for m in (whole, model)]
    closeness = np.corrcoef([x.detach().numpy() for x in logits])[0, 1]
    assert 0.98 < closeness < 1
    assert model.describe([seen(TALL)])[0].text


@pytest.mark.parametrize(
    ("how", "package"), [("8bit", "bitsandbytes"), ("int8", "torchao"), ("fp8", "torchao")]
)
def test_quantization_without_its_package_says_what_to_install(tmp_path, monkeypatch, how, package):
    for name in (package, f"{package}.quantization"):
        monkeypatch.setitem(sys.modules, name, None)
    folder = checkpoints.build(tmp_path / "small")
    with pytest.raises(ConfigurationError, match=f"{how}.*{package}"):
        loaded("chexfract", folder, quantization=how)
