"""Prompt and picture to tensors: one negative id per image token, padding on the left."""

import re

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ProcessorMixin

IMAGE_MARK = re.compile(r"<\|image_[0-9]+\|>")

FLAT = 10
"""A row or column whose grey values differ by no more than this is an empty border."""


def content_box(grey):
    """Return left, top, right and bottom of what is left when empty borders are cut off.

    Bars of any grey value are cut, also several around each other. A picture without
    content keeps its whole frame.
    """
    rows, columns = grey.shape
    left, top, right, bottom = 0, 0, columns, rows
    before = None
    while before != (left, top, right, bottom):
        before = (left, top, right, bottom)
        part = grey[top:bottom, left:right]
        busy = np.flatnonzero(part.max(1) - part.min(1) > FLAT)
        if not len(busy):
            return 0, 0, columns, rows
        top, bottom = top + int(busy[0]), top + int(busy[-1]) + 1
        part = grey[top:bottom, left:right]
        busy = np.flatnonzero(part.max(0) - part.min(0) > FLAT)
        if not len(busy):
            return 0, 0, columns, rows
        left, right = left + int(busy[0]), left + int(busy[-1]) + 1
    return left, top, right, bottom


class PhantomBonesImageProcessor(BaseImageProcessor):
    """Cut off empty borders, stretch to a square of `image_size`, normalise.

    Stretching makes the answer independent of the shape of the frame; each axis keeps all of
    its detail.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self, image_size=160, image_mean=0.35, image_std=0.22, num_img_tokens=100, **kwargs
    ):
        super().__init__(**kwargs)
        self.image_size = image_size
        self.image_mean = image_mean
        self.image_std = image_std
        self.num_img_tokens = num_img_tokens

    def preprocess(self, images, return_tensors=None, **unused):
        if not isinstance(images, (list, tuple)):
            images = [images]
        if not all(isinstance(image, Image.Image) for image in images):
            raise ValueError("expects PIL images")
        pixels = np.stack([self._square(image) for image in images])[:, None]
        sizes = [[image.size[1], image.size[0]] for image in images]
        data = {"pixel_values": pixels, "image_sizes": sizes}
        return BatchFeature(data, tensor_type=return_tensors)

    def _square(self, image):
        grey = image.convert("L")
        box = content_box(np.asarray(grey))
        square = grey.resize((self.image_size,) * 2, Image.Resampling.BILINEAR, box=box)
        return (np.asarray(square, np.float32) / 255 - self.image_mean) / self.image_std


class PhantomBonesProcessor(ProcessorMixin):
    """Takes one prompt or a list of prompts, one picture each."""

    attributes = ["image_processor", "tokenizer"]
    image_processor_class = "AutoImageProcessor"
    tokenizer_class = "AutoTokenizer"

    def __init__(self, image_processor=None, tokenizer=None, **unused):
        super().__init__(image_processor, tokenizer)
        self.num_img_tokens = image_processor.num_img_tokens

    def __call__(self, text=None, images=None, return_tensors="pt", **unused):
        prompts = [text] if isinstance(text, str) else list(text)
        rows = [self._ids(prompt) for prompt in prompts]
        longest = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        data = {
            "input_ids": torch.tensor([[pad] * (longest - len(r)) + r for r in rows]),
            "attention_mask": torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows]),
        }
        if images is not None:
            data.update(self.image_processor(images, return_tensors="pt"))
        return BatchFeature(data)

    def _ids(self, prompt):
        first, *others = (
            self.tokenizer(part, add_special_tokens=False).input_ids
            for part in IMAGE_MARK.split(prompt)
        )
        for other in others:
            first = first + [-1] * self.num_img_tokens + other
        return first

    def decode(self, ids, **options):
        return self.tokenizer.decode(ids, **options)

    def batch_decode(self, rows, **options):
        return self.tokenizer.batch_decode(rows, **options)
