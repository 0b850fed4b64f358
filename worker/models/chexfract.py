"""Both ChexFract checkpoints, and the demonstration model, through transformers' remote code."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.errors import ModelFault, OutOfResources
from worker.models import Description, ModelInfo, Progress, checkpoint, licences, remote_code
from worker.models import generation as gen
from worker.models.checkpoint import Unacceptable

if TYPE_CHECKING:
    from worker.models.options import ChexFract as Options
    from worker.pixels import Radiograph

logger = logging.getLogger(__name__)

CANARY_TOKENS = 4
"""A wrong cache shows from the second token on."""
CANARY_PADDING = 5
TINY = 50_000_000
"""Bytes of weights below which a model is run in one CPU thread."""
NEAR_TIE = {"float32": 1e-2, "float16": 0.25, "bfloat16": 1.0}
"""Logits that differ less may change places by rounding alone."""


def open_model(name: str, options: dict[str, Any], device: str = "auto") -> ChexFract:
    """Return the model of ``[models.NAME]``, its options checked, not yet loaded.

    Raises
    ------
    ConfigurationError
        A key is wrong, the folder is not there or the licence is not accepted.
    """
    from worker.models.options import ChexFract as Options
    from worker.models.options import check

    return ChexFract(name, check(Options, name, options), device)


class ChexFract:
    """A vision-language model with the calling sequence of ChexFract's model card."""

    def __init__(self, name: str, options: Options, device: str) -> None:
        self.name = name
        self.options = options
        self.wanted_device = device
        self.files = checkpoint.find(name, options.path)
        self.is_demonstration = options.demonstration or self.files.is_demonstration
        licences.gate(name, options, self.is_demonstration)
        self.model: Any = None
        self.processor: Any = None
        self.device: Any = None
        self.dtype: Any = None
        self.takes_batches = True
        self._lock = threading.Lock()

    @property
    def info(self) -> ModelInfo:
        """What a report says of this model; known before the weights are loaded."""
        return ModelInfo(
            name=self.name,
            version=self._version(),
            prompt=self.options.prompt,
            parameters=self._parameters(),
            licence="" if self.is_demonstration else licences.of(self.options),
            licence_accepted_by=self.options.licence_accepted_by,
            demonstration=self.is_demonstration,
            device=str(self.device or self.wanted_device),
        )

    def _version(self) -> str:
        revision = f"{self.options.revision[:8]}-" if self.options.revision else ""
        return f"{self.name}-{revision}{self.files.weights_sha256[:8]}"

    def _parameters(self) -> dict[str, str]:
        dtype = str(self.dtype).removeprefix("torch.") if self.dtype else self.options.dtype
        parameters = {
            "weights": self.files.weights_sha256[:16],
            "code": self.files.code_sha256[:16],
            "prompt": self.options.prompt.rpartition("\n")[2],
            "decode": "greedy",
            "dtype": dtype,
            "max_new_tokens": str(self.options.max_new_tokens),
        }
        if self.options.revision:
            parameters["revision"] = self.options.revision
        if self.options.quantization != "none":
            parameters["quantization"] = self.options.quantization
        return parameters

    def load(self) -> None:
        """Check the files, bring the weights to the device and compare cache with no cache.

        Raises
        ------
        Unacceptable
            A file is altered, or keys are missing, unexpected or mismatched, or this release of
            transformers decodes the model wrongly.
        ConfigurationError
            The device is not there or too small.
        """
        if not self.is_demonstration or self.options.manifest or self.options.manifest_sha256:
            self.files.verify(self.options.manifest, self.options.manifest_sha256)
        licences.log_acceptance(self.name, self.options, self.is_demonstration)
        remote_code.shut_in()
        self.device = gen.device_of(self.wanted_device)
        self.dtype = gen.type_of(self.options.dtype, self.device)
        _spare_threads(self.files.size, self.device)
        _want_memory(self.name, self.files.size, self.options.memory_reserve, self.device)
        try:
            self._load(checkpoint.stage(self.files))
            self._canary()
        except BaseException:
            self.close()
            raise

    def _load(self, folder: Path) -> None:
        remote_code.give_cache_its_old_names()
        with _as_unacceptable(self.name, folder, self.files.folder):
            self.model = load_whole(self.name, folder, self.options, self.dtype)
            self.processor = remote_code.library().AutoProcessor.from_pretrained(
                folder, trust_remote_code=True, local_files_only=True
            )
        remote_code.drop_position_ids(type(self.model))
        with _memory(self.device):
            self.model = _quantized(self.model, self.options.quantization).to(self.device).eval()
        tokenizer = self.processor.tokenizer
        self.stops = gen.stop_tokens(tokenizer, self.model.generation_config)
        self.pad = self.stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.model.generation_config = gen.greedy(
            self.stops, self.pad, self.options.max_new_tokens, self.options.max_time
        )
        self.chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": self.options.prompt}],
            tokenize=False,
            add_generation_prompt=True,
        )

    def warm_up(self) -> None:
        """Describe an invented picture, so that the first job is not the slowest."""
        self._generate([self._inputs(gen.invented_pixels())], None)

    def describe(
        self, radiographs: Sequence[Radiograph], progress: Progress | None = None
    ) -> list[Description]:
        """Return one description per radiograph, in order.

        Radiographs whose inputs have the same shape go through the model together.

        Raises
        ------
        OutOfResources
            Memory is full; fewer at a time may pass.
        ModelFault
            The model's code fails on one of them; one at a time tells which.
        """
        if self.model is None:
            raise ModelFault(f"{self.name} is not loaded")
        found: dict[int, Description] = {}
        with self._lock, _memory(self.device), _as_fault(self.name):
            rows = [self._inputs(radiograph.pixels, progress) for radiograph in radiographs]
            for places in self._batches(rows):
                told = self._generate([rows[place] for place in places], progress)
                found.update(zip(places, told, strict=True))
        return [found[place] for place in range(len(radiographs))]

    def _batches(self, rows: Sequence[gen.Inputs]) -> list[list[int]]:
        return gen.groups(rows) if self.takes_batches else [[place] for place in range(len(rows))]

    def _inputs(self, pixels: Any, progress: Progress | None = None) -> gen.Inputs:
        """Call the processor for one picture: the real one takes a single prompt only."""
        made = self.processor(self.chat, gen.picture(pixels), return_tensors="pt")
        if progress is not None:
            progress()
        return gen.tensors(made.items())

    def _generate(self, rows: Sequence[gen.Inputs], progress: Progress | None) -> list[Description]:
        started = time.monotonic()
        batch = gen.pad_left(rows, self.pad)
        prompt_length = batch["input_ids"].shape[1]
        ids = self.model.generate(
            **gen.moved(batch, self.device, self.dtype),
            stopping_criteria=gen.watcher(progress),
        )
        # image positions hold negative ids, which no tokenizer can decode
        answers = ids[:, prompt_length:].tolist()
        seconds = time.monotonic() - started
        return [self._description(answer, seconds) for answer in answers]

    def _description(self, answer: list[int], seconds: float) -> Description:
        kept, reason = gen.cut(answer, self.stops, self.options.max_new_tokens)
        text = self.processor.tokenizer.decode(kept, skip_special_tokens=True).strip()
        return Description(text, len(kept), reason, seconds)

    def _canary(self) -> None:
        """Refuse a model that answers otherwise with a cache than without."""
        row = self._inputs(gen.invented_pixels())
        padded = gen.pad_left([row, _longer(row)], self.pad)
        padded = {key: value[:1] for key, value in padded.items()}
        tolerance = NEAR_TIE[str(self.dtype).removeprefix("torch.")]
        with _memory(self.device), _as_unacceptable(self.name, Path(), self.files.folder):
            cached, plain = self._few(row, use_cache=True), self._few(row, use_cache=False)
            self.takes_batches = gen.same_answer(self._few(padded), cached, tolerance)
        if not gen.same_answer(cached, plain, tolerance):
            raise Unacceptable(
                f"models.{self.name}: with this release of transformers the model answers "
                f"otherwise with a key-value cache than without; install the one it was made for"
            )
        if not self.takes_batches:
            logger.warning("model %s answers otherwise when padded: one at a time", self.name)

    def _few(self, row: gen.Inputs, use_cache: bool = True) -> Any:
        return self.model.generate(
            **gen.moved(row, self.device, self.dtype),
            max_new_tokens=CANARY_TOKENS,
            use_cache=use_cache,
            return_dict_in_generate=True,
            output_scores=True,
        )

    def close(self) -> None:
        """Give the memory back."""
        self.model = self.processor = None
        gc.collect()
        if self.device is not None and self.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()


def _longer(row: gen.Inputs) -> gen.Inputs:
    """Return the input with a prompt that is longer by a few masked ids."""
    from torch.nn import functional

    longer = {k: functional.pad(v, (CANARY_PADDING, 0)) for k, v in row.items() if _is_prompt(k)}
    return {**row, **longer}


def _is_prompt(key: str) -> bool:
    return key in gen.ALONG_THE_PROMPT


def load_whole(name: str, folder: Path, options: Options, dtype: Any) -> Any:
    """Return the model with all of its weights, or refuse.

    Raises
    ------
    Unacceptable
        Keys are missing, unexpected or mismatched.
    """
    auto = remote_code.library()
    config = auto.AutoConfig.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    # a checkpoint's own "flash_attention_2" yields only to what the config says before loading
    config._attn_implementation = _attention(folder, config, options.attention)
    model, report = auto.AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        trust_remote_code=True,
        local_files_only=True,
        torch_dtype=dtype,
        output_loading_info=True,
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = sorted(str(key) for key in report.get(kind) or ())
        if found:
            raise Unacceptable(
                f"models.{name}.path: the weights do not fit the code: "
                f"{len(found)} {kind.replace('_', ' ')}, first {found[0]}"
            )
    return model


def _attention(folder: Path, config: Any, wanted: str) -> str:
    if wanted != "auto":
        return wanted
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    reference = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    if reference is None:
        return "eager"
    code = get_class_from_dynamic_module(reference, folder, local_files_only=True)
    return "sdpa" if getattr(code, "_supports_sdpa", False) else "eager"


def _quantized(model: Any, how: str) -> Any:
    if how == "none":
        return model
    from worker.models.quantization import quantize

    return quantize(model, how)


def _spare_threads(size: int, device: Any) -> None:
    """Run a tiny model in one thread: several only wait for each other (8 times slower)."""
    if device.type == "cpu" and size < TINY:
        import torch

        torch.set_num_threads(1)


def _want_memory(name: str, size: int, reserve: float, device: Any) -> None:
    """Refuse a GPU whose free memory is less than the weights and a reserve."""
    if device.type != "cuda":
        return
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    if size * reserve > free:
        raise Unacceptable(
            f"models.{name}: {device} has {free / 1e9:.1f} GB free, the weights need about "
            f"{size * reserve / 1e9:.1f} GB; free the GPU or set quantization"
        )


@contextlib.contextmanager
def _memory(device: Any) -> Iterator[None]:
    """Turn full memory into `OutOfResources`, with the accelerator's cache given back."""
    try:
        yield
    except (RuntimeError, MemoryError) as exc:
        if not remote_code.is_out_of_memory(exc):
            raise
        text = str(exc).splitlines()[0][:200] if str(exc) else "memory"
    else:
        return
    # outside the handler: its traceback holds the tensors that filled the memory
    gc.collect()
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
    raise OutOfResources(f"out of memory on {device}: {text}")


@contextlib.contextmanager
def _as_fault(name: str) -> Iterator[None]:
    """Turn any failure of the checkpoint's own code into `ModelFault`."""
    try:
        yield
    except Exception as exc:
        if remote_code.is_out_of_memory(exc):
            raise
        raise ModelFault(f"{name} fails on this picture: {_one_line(exc)}") from exc


@contextlib.contextmanager
def _as_unacceptable(name: str, staged: Path, folder: Path) -> Iterator[None]:
    """Turn any failure to load into one line that names the folder."""
    try:
        yield
    except Unacceptable:
        raise
    except Exception as exc:
        if remote_code.is_out_of_memory(exc):
            raise
        what = _one_line(exc).replace(str(staged), str(folder))
        raise Unacceptable(f"models.{name}.path: {folder}: cannot be loaded: {what}") from exc


def _one_line(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text[:300]}" if text else type(exc).__name__
