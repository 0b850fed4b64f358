"""What every engine with weights of its own shares: checks, device, memory, errors, its name."""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_node.base.errors import ConfigurationError, ModelFault, OutOfResources
from dicom_node.base.plurals import counted
from dicom_node.base.rims import foreign_code
from worker.models import (
    BrokenAccelerator,
    Description,
    ModelInfo,
    Prepared,
    Progress,
    Unexplained,
    canary,
    checkpoint,
    licences,
    remote_code,
    room,
    satellites,
)
from worker.models import generation as gen
from worker.models.canary import Canary
from worker.models.checkpoint import Unacceptable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.image.pixels import Radiograph
    from worker.models.options import Weights

logger = logging.getLogger(__name__)

CANARY_STEPS = 24
"""Steps of the trial answer that are compared with the known one."""
NEAR_TIE = {"float32": 1e-2, "float16": 0.25, "bfloat16": 1.0}
"""Logits that differ less may change places by rounding alone."""
KINDS = {
    "missing_keys": ("missing key", "missing keys"),
    "mismatched_keys": ("key of another shape", "keys of another shape"),
    "error_msgs": ("error", "errors"),
    "unexpected_keys": ("unexpected key", "unexpected keys"),
}
"""What transformers notes of a checkpoint -> one of these, and several."""
HARMLESS = re.compile(r"(^|\.)(position_ids|inv_freq|masked_bias|num_batches_tracked)$")
"""Keys of weights that hold no weights: buffers that older releases saved and code makes itself."""
LONGEST_S = 3600.0
TINY = 50_000_000
"""Bytes of weights below which a model is run in one CPU thread."""


class LocalModel:
    """A model in this process; an engine adds `_load`, `_describe` and, at will, `_inputs`.

    Parameters
    ----------
    name : str
        The table ``[models.NAME]``.
    options : Weights
        Its keys, checked.
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises
    ------
    ConfigurationError
        The folder is not there or the licence is not accepted.
    """

    def __init__(self, name: str, options: Weights, device: str) -> None:
        self.name = name
        self.options = options
        self.wanted_device = device
        self.files = checkpoint.find(name, options.path)
        self.is_demonstration = options.demonstration or self.files.is_demonstration
        # what the table says goes into reports; only the files themselves open the gate
        licences.gate(name, options, self.files.is_demonstration)
        self.model: Any = None
        self.device: Any = None
        self.dtype: Any = None
        self._lock = threading.Lock()
        self._inputs_lock = threading.Lock()
        """Tokenizers of transformers are not to be used by two threads at a time."""
        self._observer = gen.Observer()
        self._room_for = 0
        self._progress: Progress | None = None
        self.max_time = options.max_time
        """Seconds after which an answer is cut off."""

    @property
    def info(self) -> ModelInfo:
        """What a report says of this model; known before the weights are loaded."""
        revision = f"{self.options.revision[:8]}-" if self.options.revision else ""
        return ModelInfo(
            name=self.name,
            version=f"{self.name}-{revision}{self.files.weights_sha256[:8]}",
            prompt=self.options.prompt,
            parameters=self._parameters(),
            licence="" if self.files.is_demonstration else licences.of(self.options),
            licence_accepted_by=self.options.licence_accepted_by,
            demonstration=self.is_demonstration,
            device=str(self.device or self.wanted_device),
            has_regions=bool(getattr(self.options, "regions", False)),
            files=self._trust(),
        )

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
        if getattr(self.options, "regions", False):
            parameters["regions"] = "scoord"
        return parameters

    def load(self) -> None:
        """Check the files, bring the weights to the device, and try the model out.

        Raises
        ------
        Unacceptable
            A file is altered, weights and code do not fit, or this release of transformers
            decodes the model wrongly.
        ConfigurationError
            The device is not there or too small.
        """
        listed = self.check_files()
        # Before anything of the checkpoint is imported: from here on its own code may run.
        remote_code.shut_in()
        self.device = gen.device_of(self.wanted_device)
        self.dtype = gen.type_of(self.options.dtype, self.device)
        _spare_threads(self.files.size, self.device)
        self._want_memory()
        staged = checkpoint.stage(self.files, listed)
        with contextlib.ExitStack() as unloaded:
            unloaded.callback(self.close)
            with memory(self.device), as_unacceptable(self.name, staged, self.files.folder):
                self._load(staged)
                # Weights are linked and not copied: what was read is what the sums are of only if
                # nobody has written to them meanwhile.
                for name in self.files.sums:
                    if name.endswith(checkpoint.WEIGHTS):
                        self.files.check_unchanged(name)
                gen.tick_layers(self.model, self._tick)
                self._want_vocabulary()
            self._want_trial_answered()
            unloaded.pop_all()

    def _want_memory(self) -> None:
        """Refuse a GPU whose free memory is less than the weights, a reserve and one picture."""
        if self.device.type != "cuda":
            return
        import torch

        options, dtype = self.options, self._dtype_name()
        weights = room.needed(self.files, dtype, options.quantization) * options.memory_reserve
        picture = room.per_picture(self.files, dtype, options.max_new_tokens)
        free, _ = torch.cuda.mem_get_info(self.device.index or 0)
        if weights + picture > free:
            advice = "or set quantization" if options.quantization == "none" else "or take another"
            beside = f" and each picture about {picture / 1e9:.1f} GB" if picture else ""
            raise Unacceptable(
                f"models.{self.name}: {self.device} has {free / 1e9:.1f} GB free, the weights need "
                f"about {weights / 1e9:.1f} GB{beside}; free the GPU {advice}"
            )
        self._room_for = int((free - weights) // picture) if picture else 0

    def most_at_once(self, wanted: int) -> int:
        """Return how many pictures should fit into the memory that was free at the start.

        An estimate for the first batch; what fits is learned (`worker.models.fitting`).
        """
        return min(wanted, max(1, self._room_for)) if self._room_for else wanted

    def check_files(self) -> dict[str, str]:
        """Refuse altered files and leave in the log whose licence this is; return their list."""
        options, listed = self.options, {}
        if not self.files.is_demonstration or options.manifest or options.manifest_sha256:
            listed = self.files.verify(options.manifest, options.manifest_sha256)
        self.files.check_shards()
        self.files.check_pointers()
        logger.info("model %s: files %s", self.name, self._trust())
        licences.log_acceptance(self.name, options, self.files.is_demonstration)
        return listed

    def _trust(self) -> str:
        return self.files.trust(self.options.manifest, self.options.manifest_sha256)

    def warm_up(self) -> None:
        """Describe an invented picture, so that the first job is not the slowest."""
        with self._lock, memory(self.device), as_fault(self.name):
            self._describe([self._trial_inputs()], None)

    def trial(self) -> Canary:
        """Describe the invented picture, with what each step decided; for who knows the answer."""
        self._observer = gen.Observer(CANARY_STEPS)
        began = time.monotonic()
        with self._lock, memory(self.device), as_fault(self.name):
            (trial,) = self._describe([self._trial_inputs()], None)
        # Steps of a trial are compared one by one, those of a patient's picture are not kept.
        observer, self._observer = self._observer, gen.Observer()
        self._allow_time(time.monotonic() - began, max(1, trial.tokens))
        return Canary(
            trial.text, tuple(observer.steps), observer.is_sound, trial.tokens > 0, self._asked()
        )

    def _trial_inputs(self) -> Any:
        with self._inputs_lock:  # during work others prepare pictures meanwhile
            return self._inputs(gen.invented_pixels())

    def _allow_time(self, seconds: float, tokens: int) -> None:
        """Give an answer the time that this processor needs, unless the table sets one.

        The default is a GPU's: a CPU that reads a prompt for a minute would end each answer there.
        """
        if self.device.type != "cpu" or "max_time" in getattr(
            self.options, "model_fields_set", {"max_time"}
        ):
            return
        # Too much rather than too little, as an answer that is cut off loses what it was about to
        # say: a token of the trial has a part of the prompt's time in it, and all of it is doubled.
        wanted = 2 * (seconds + seconds / tokens * self.options.max_new_tokens)
        self.max_time = max(self.options.max_time, min(wanted, LONGEST_S))
        for config in (
            getattr(self.model, "generation_config", None),
            getattr(self, "decoding", None),
        ):
            if config is not None and getattr(config, "max_time", None):
                config.max_time = self.max_time

    def _tick(self) -> None:
        """Note that a layer was reached: a long prompt is progress too."""
        if self._progress is not None:
            self._progress()

    def _asked(self) -> dict[str, str]:
        """Return what an answer depends on beside weights and code."""
        return {"prompt": self.options.prompt, "quantization": self.options.quantization}

    def _want_trial_answered(self) -> None:
        """Refuse a model that is dead or answers otherwise than when its folder was accepted."""
        found = self.trial()
        what = found.fault(canary.read(self.files.folder), NEAR_TIE[self._dtype_name()])
        if what:
            raise Unacceptable(f"models.{self.name}.path: {self.files.folder}: {what}")

    def _want_vocabulary(self) -> None:
        """Refuse a tokenizer that has words which the model has no embedding for."""
        processor = getattr(self, "processor", None)
        tokenizer = getattr(self, "tokenizer", None) or getattr(processor, "tokenizer", None)
        table = self.model.get_input_embeddings() if tokenizer is not None else None
        if tokenizer is None or table is None:
            return
        rows, most = len(table.weight), max(tokenizer.get_vocab().values(), default=0)
        if most + self._more_words() >= rows:
            words = counted(most + 1 + self._more_words(), "word")
            raise Unacceptable(
                f"models.{self.name}.path: {self.files.folder}: the tokenizer is another model's: "
                f"it counts {words}, the model knows {rows}"
            )

    def _more_words(self) -> int:
        """Return how many words the model knows behind those of its tokenizer."""
        return 0

    def _dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def _watching(self, progress: Progress | None) -> dict[str, Any]:
        """Return what each call of ``generate`` is given, so that its numbers are looked at."""
        return gen.watching(progress, self._observer)

    def prepare(self, radiograph: Radiograph | Prepared) -> Prepared:
        """Make the model's inputs of a picture, while others are at the model.

        Raises
        ------
        ModelFault
            The model's processor fails on this picture.
        """
        if isinstance(radiograph, Prepared):
            return radiograph
        if self.model is None:
            raise ModelFault(f"{self.name} is not loaded")
        # One at a time: tokenizers and remote processors are not made for several threads. On the
        # CPU, so full memory says nothing of the accelerator.
        with self._inputs_lock, memory(None), as_fault(self.name):
            return Prepared(radiograph.pixels, self._inputs(radiograph.pixels))

    def describe(
        self, radiographs: Sequence[Radiograph | Prepared], progress: Progress | None = None
    ) -> list[Description]:
        """Return one description per radiograph, in order.

        Raises
        ------
        OutOfResources
            Memory is full; fewer at a time may pass.
        ModelFault
            The model's code fails on one of them; one at a time tells which.
        """
        if self.model is None:
            raise ModelFault(f"{self.name} is not loaded")
        prepared = []
        for radiograph in radiographs:
            prepared.append(self.prepare(radiograph).inputs)
            if progress is not None:
                progress()
        try:
            with self._lock, memory(self.device), as_fault(self.name):
                self._observer, self._progress = gen.Observer(), progress
                described = self._describe(prepared, progress)
                is_sound = self._observer.is_sound
        except ModelFault:
            # A dead model fails at every picture: all that wait would be rejected one by one.
            self._want_alive(progress)
            raise
        if not is_sound:
            self._want_alive(progress)
            raise Unexplained(f"{self.name}: its numbers are not finite at these pictures")
        return described

    def _want_alive(self, progress: Progress | None) -> None:
        """Tell a picture's fault from a dead model: that one fails at the trial picture too.

        Raises
        ------
        BrokenAccelerator
            It does: no picture is to blame, and a new process has to look at its weights.
        """
        if progress is not None:
            progress()
        try:
            what = self.trial().fault(canary.read(self.files.folder), NEAR_TIE[self._dtype_name()])
        except ModelFault as exc:
            what = str(exc)
        if what:
            raise BrokenAccelerator(f"{self.name} no longer answers its trial picture: {what}")

    def close(self) -> None:
        """Give the memory back."""
        self.model = None
        gc.collect()
        remote_code.empty_cache(self.device)

    def _load(self, folder: Path) -> None:
        """Load what the engine needs from `folder`; each engine has its own."""
        raise NotImplementedError

    def _inputs(self, pixels: NDArray[np.uint8]) -> Any:
        """Return what `_describe` takes of one picture: here the picture itself."""
        return pixels

    def _describe(self, inputs: Sequence[Any], progress: Progress | None) -> list[Description]:
        """Describe what `_inputs` returned, on a loaded model; each engine has its own."""
        raise NotImplementedError

    def _whole(self, folder: Path, auto: str, *, strict: bool = False) -> Any:
        """Return the model of `folder` on the device, with all of its weights.

        Parameters
        ----------
        auto : str
            The Auto class to ask, for example ``AutoModelForCausalLM``.
        strict : bool
            Refuse also weights that the code does not use.
        """
        remote_code.give_cache_its_old_names()
        remote_code.let_lists_tie_weights()
        model = load_whole(
            self.name,
            folder,
            self.options,
            self.dtype,
            auto,
            strict=strict,
        )
        remote_code.keep_old_contract(type(model))
        if self.options.quantization != "none":
            from worker.models.quantization import quantize

            model = quantize(model, self.options.quantization)
        return model.to(self.device).eval().requires_grad_(requires_grad=False)

    def _processor(self, folder: Path) -> Any:
        """Return the processor of `folder`, which makes inputs of pictures and words."""
        processor = remote_code.library().AutoProcessor.from_pretrained(
            folder, trust_remote_code=True, local_files_only=True
        )
        # a folder without one gives its tokenizer
        if not hasattr(processor, "tokenizer"):
            raise Unacceptable(
                f"models.{self.name}.path: {self.files.folder} holds no processor "
                f"(preprocessor_config.json, processor_config.json and their code)"
            )
        return processor

    def _decoded(
        self, ids: list[int], tokenizer: Any, stops: list[int], seconds: float
    ) -> Description:
        kept, reason = gen.cut(ids, stops, self.options.max_new_tokens)
        text = tokenizer.decode(kept, skip_special_tokens=True).strip()
        return Description(text, len(kept), reason, seconds)


def load_whole(
    name: str,
    folder: Path,
    options: Weights,
    dtype: Any,
    auto: str,
    *,
    strict: bool,
) -> Any:
    """Return the model of `folder` on the CPU, or refuse it.

    Raises
    ------
    Unacceptable
        Keys are missing or mismatched or, when `strict`, unexpected.
    """
    library = remote_code.library()
    config = library.AutoConfig.from_pretrained(
        folder, trust_remote_code=True, local_files_only=True
    )
    # a checkpoint's own "flash_attention_2" yields only to what the config says before loading
    config._attn_implementation = _attention(folder, config, options.attention, auto)
    with satellites.nested(name, folder, folder) as inner:
        model, report = getattr(library, auto).from_pretrained(
            folder,
            config=config,
            trust_remote_code=True,
            local_files_only=True,
            torch_dtype=dtype,
            output_loading_info=True,
            # Weights of another shape are refused below, by name: the error of transformers names
            # none, and points to a report that it has printed.
            ignore_mismatched_sizes=True,
        )
    found = {kind: sorted(map(_key_text, report.get(kind) or ())) for kind in KINDS}
    found["missing_keys"] = inner.fill(model, found["missing_keys"])
    surplus = [key for key in found["unexpected_keys"] if HARMLESS.search(key)]
    if surplus:
        logger.info(
            "model %s: %s without meaning, such as %s",
            name,
            counted(len(surplus), "key"),
            surplus[0],
        )
    found["unexpected_keys"] = sorted({*found["unexpected_keys"]} - {*surplus}) if strict else []
    for kind, keys in found.items():
        if keys:
            several = ", first " if len(keys) > 1 else ": "
            raise Unacceptable(
                f"models.{name}.path: the weights do not fit the code: "
                f"{counted(len(keys), *KINDS[kind])}{several}{keys[0]}"
            )
    return model


def _key_text(found: Any) -> str:
    """Return a key as a message names it; one of another shape comes with both shapes."""
    if not isinstance(found, tuple) or len(found) != 3:
        return str(found)
    key, *shapes = found
    has, wants = (" x ".join(map(str, shape)) or "a number" for shape in shapes)
    return f"{key} ({has}, the code wants {wants})"


def _attention(folder: Path, config: Any, wanted: str, auto: str) -> str:
    if wanted != "auto":
        return wanted
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    reference = (getattr(config, "auto_map", None) or {}).get(auto)
    if reference is None:
        return "eager"
    code = get_class_from_dynamic_module(reference, folder, local_files_only=True)
    return "sdpa" if getattr(code, "_supports_sdpa", False) else "eager"


def _spare_threads(size: int, device: Any) -> None:
    """Run a tiny model in one thread: several only wait for each other (8 times slower)."""
    if device.type == "cpu" and size < TINY:
        import torch

        torch.set_num_threads(1)


@contextlib.contextmanager
def memory(device: Any) -> Iterator[None]:
    """Turn full memory into `OutOfResources`, with the accelerator's cache given back."""
    try:
        yield
    except (RuntimeError, MemoryError) as exc:
        if remote_code.is_broken(exc):
            raise BrokenAccelerator(f"{device} is lost to this process: {one_line(exc)}") from exc
        if not remote_code.is_out_of_memory(exc):
            raise
        text = one_line(exc)
    else:
        return
    # outside the handler: its traceback holds the tensors that filled the memory
    gc.collect()
    remote_code.empty_cache(device)
    raise OutOfResources(f"out of memory on {device}: {text}")


@contextlib.contextmanager
def as_fault(name: str) -> Iterator[None]:
    """Turn any failure of the checkpoint's own code into `ModelFault`."""

    def fault(exc: BaseException) -> BaseException:
        if remote_code.is_out_of_memory(exc) or remote_code.is_broken(exc):
            return exc
        return ModelFault(f"{name} fails on this picture: {one_line(exc)}")

    with foreign_code(fault, also=(SystemExit,), passes=(ModelFault, OutOfResources)):
        yield


@contextlib.contextmanager
def as_unacceptable(name: str, staged: Path, folder: Path) -> Iterator[None]:
    """Turn any failure to load into one line that names the folder."""

    def refusal(exc: BaseException) -> BaseException:
        if remote_code.is_out_of_memory(exc) or remote_code.is_broken(exc):
            return exc
        what = one_line(exc).replace(str(staged), str(folder))
        return Unacceptable(f"models.{name}.path: {folder}: cannot be loaded: {what}")

    passes = (ConfigurationError, OutOfResources)
    with foreign_code(refusal, also=(SystemExit,), passes=passes):
        yield


def one_line(exc: BaseException) -> str:
    """Return type and message of an error as one line of bounded length."""
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text[:300]}" if text else type(exc).__name__
