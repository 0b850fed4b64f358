"""Processors with the habits of the real ones: one prompt per call, negative ids, two BOS."""

import re

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ProcessorMixin

MARK = re.compile(r"<\|image_[0-9]+\|>")


class SmallImageProcessor(BaseImageProcessor):
    model_input_names = ("pixel_values",)

    def preprocess(self, images, return_tensors=None, **unused):
        assert images.mode == "RGB", images.mode
        side = getattr(self, "side", 8)
        pixels = np.asarray(images.resize((side, side)), np.float32).transpose(2, 0, 1)[None] / 255
        sizes = [[images.size[1], images.size[0]]]
        data = {"pixel_values": pixels, "image_sizes": sizes}
        return BatchFeature(data, tensor_type=return_tensors)


class SmallProcessor(ProcessorMixin):
    attributes = ("image_processor", "tokenizer")
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor=None, tokenizer=None, **unused):
        super().__init__(image_processor, tokenizer)

    def __call__(self, text=None, images=None, return_tensors="pt", **unused):
        if not isinstance(text, str):
            raise TypeError("takes one prompt only")
        # wide pictures take fewer tokens, so that prompts differ in length
        count = 8 if images.size[0] > images.size[1] else 16
        count = getattr(self.image_processor, "image_tokens", 0) or count
        head, tail = MARK.split(text)
        bos = self.tokenizer.bos_token_id
        ids = [bos, *self._ids(head), *[-1] * count, bos, *self._ids(tail)]
        data = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        }
        data.update(self.image_processor(images, return_tensors="pt"))
        return BatchFeature(data)

    def _ids(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def decode(self, ids, **options):
        return self.tokenizer.decode(ids, **options)


class ReportProcessor(SmallProcessor):
    """Makes the whole prompt itself, and turns words into boxes."""

    def format_and_preprocess_reporting_input(
        self,
        current_frontal,
        current_lateral,
        prior_frontal,
        indication,
        technique,
        comparison,
        prior_report,
        return_tensors,
        get_grounding,
    ):
        text = f"<|user|><|image_1|>{indication} {technique} {comparison}<|end|>"
        return self(text, current_frontal, return_tensors=return_tensors)

    def convert_output_to_plaintext_or_grounded_sequence(self, text):
        if len(text) % 2 == 0:
            return text
        return [(text[:3], None), (text[3:], [(0.25, 0.5, 0.75, 1.0)])]

    def adjust_box_for_original_image_size(self, box, width, height):
        # what the real one does: from the centre square to the whole picture
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        x0, y0, x1, y1 = box
        return (
            (x0 * side + left) / width,
            (y0 * side + top) / height,
            (x1 * side + left) / width,
            (y1 * side + top) / height,
        )


class FileTokenizer(PreTrainedTokenizerFast):
    """Takes pictures by the names of their files."""

    def from_list_format(self, parts):
        return "".join(
            f"<img>{part['image']}</img>\n" if "image" in part else part["text"] for part in parts
        )
