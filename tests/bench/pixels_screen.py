"""Learns the mean chest and measures the screener's errors on pictures it has not learned from.

Run ``python tests/bench/pixels_screen.py DATA [--write]``; DATA holds the real images. Each real
chest is judged by a mean that leaves it out, as it is and changed at random in crop, gamma, angle,
bars, brightness and noise; so are images of other things, and chests upside down, on their side
and inverted. Intervals are Wilson's, 95 %; those over changed pictures are too narrow, because
pictures of one image resemble each other, so the count of images stands beside them. ``--write``
puts the mean of all into ``worker/image/screen.png``.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.image import gate, pixels, screen
from worker.image.decode import Decoder
from worker.phantom.draw import phantom
from worker.research.evaluate import wilson
from worker.settings import Pixels

Bytes = npt.NDArray[np.uint8]
TWICE = ("jpegls", "fake_mono1", "12bit", "fuji_rle")
"""Parts of the names of files that show what another file shows."""
ROUNDS = int(os.environ.get("ROUNDS", "25"))


def real(folder: Path) -> dict[str, Bytes]:
    """Return every distinct real picture by name; the headers' faults are overlooked."""
    found = {}
    gate.SMALLEST = 100
    with Decoder() as decoder:
        for path in sorted(folder.glob("*chest/*.*")):
            if any(part in path.name for part in TWICE):
                continue
            if path.suffix != ".dcm":
                found[path.stem] = np.asarray(Image.open(path).convert("L"))
                continue
            ds = pixels.read(path)
            ds.SOPClassUID, ds.BodyPartExamined, ds.ViewPosition = gate.CR, "CHEST", "PA"
            found[path.stem] = pixels.radiograph(ds, decoder, Pixels(screening="off")).pixels
    return found


def is_frontal(name: str) -> bool:
    """Return whether the name is that of a frontal chest."""
    return ("chest" in name.replace("lateral", "") and "lateral" not in name) or "hannover" in name


def drawn(count: int, seed: int) -> list[Bytes]:
    """Return phantoms."""
    pictures = [phantom(seed, index, short_side=256).grey for index in range(count)]
    return [
        (np.clip(grey / max(grey.max(), 1e-6), 0, 1) * 255).astype(np.uint8) for grey in pictures
    ]


def changed(picture: Bytes, rng: np.random.Generator) -> Bytes:
    """Return the picture as another machine and another radiographer might have made it."""
    step = max(1, min(picture.shape) // 512)
    picture = np.ascontiguousarray(picture[::step, ::step])
    rows, columns = picture.shape
    top, left, bottom, right = rng.uniform(0, 0.1, 4)
    picture = picture[int(top * rows) : rows - int(bottom * rows)]
    picture = picture[:, int(left * columns) : columns - int(right * columns)]
    turned = Image.fromarray(picture).rotate(rng.uniform(-7, 7), Image.Resampling.BILINEAR)
    grey = (np.asarray(turned) / 255.0) ** rng.uniform(0.6, 1.7)
    grey = np.clip(grey * rng.uniform(0.8, 1.3) + rng.uniform(-0.1, 0.1), 0, 1)
    grey += rng.normal(0, 0.03, grey.shape)
    bars = rng.integers(0, 60, 2) * rng.integers(0, 2, 2)
    framed = np.pad(grey, ((bars[0], bars[0]), (bars[1], bars[1])))
    return (np.clip(framed, 0, 1) * 255).astype(np.uint8)


TURNS: dict[str, Callable[[Bytes], Bytes]] = {
    "upright": lambda picture: picture,
    "upside-down": lambda picture: picture[::-1, ::-1],
    "rotated": lambda picture: np.rot90(picture),
    "inverted": lambda picture: 255 - picture,
}


def verdict(picture: Bytes) -> str:
    """Return the screener's code, "upright" when it has nothing to say."""
    found = screen.screen(np.ascontiguousarray(picture))
    return found[0][0] if found else "upright"


class Tally:
    """How often the screener was wrong about one kind of picture, and about how many images."""

    def __init__(self) -> None:
        self.wrong: list[bool] = []
        self.images: dict[str, bool] = {}

    def add(self, image: str, is_wrong: bool) -> None:
        """Count one picture of `image`; the first of each image is the image itself."""
        self.wrong.append(is_wrong)
        self.images.setdefault(image, is_wrong)

    def shown(self) -> str:
        """Return errors of all pictures, and of the images as they are."""
        return f"{rate(self.wrong):34} as they are {rate([*self.images.values()])}"


def rate(wrong: Sequence[bool]) -> str:
    """Return a share with its interval."""
    low, high = wilson(sum(wrong), len(wrong)) or (0.0, 1.0)
    return f"{sum(wrong)} of {len(wrong)} ({100 * low:.1f} to {100 * high:.1f} %)"


def likenesses(
    pictures: dict[str, Bytes], means: dict[str, Bytes], rng: np.random.Generator
) -> Iterator[tuple[str, str, Bytes, dict[str, float]]]:
    """Yield image, turn, picture and likeness of each picture, judged by the mean for its image."""
    for name, picture in pictures.items():
        use(means[name])
        for version in [picture, *(changed(picture, rng) for _ in range(ROUNDS))]:
            for code, act in TURNS.items():
                turned = np.ascontiguousarray(act(version))
                yield name, code, turned, screen.likeness(turned)


def main(folder: Path, is_written: bool) -> None:
    """Print how often the screener is wrong."""
    pictures, phantoms = real(folder), drawn(60, 900)
    chests = {name: pictures[name] for name in pictures if is_frontal(name)}
    means = {
        name: screen.learn([chests[chest] for chest in chests if chest != name], phantoms)
        for name in pictures
    }
    tallies: dict[str, Tally] = defaultdict(Tally)
    upright: list[float] = []
    for name, code, picture, scores in likenesses(pictures, means, np.random.default_rng(1)):
        found = verdict(picture)
        if name not in chests:
            kind = "other things passed" if code == "upright" else "other things, turned, passed"
            tallies[kind].add(f"{name} {code}", found == "upright")
            continue
        if code == "upright":
            mirrored = verdict(np.ascontiguousarray(picture[:, ::-1]))
            tallies["mirrored chests noticed"].add(name, mirrored == screen.MIRRORED)
            tallies["upright chests called mirrored"].add(name, found == screen.MIRRORED)
            tallies["upright chests doubted"].add(name, found not in ("upright", screen.MIRRORED))
            upright.append(scores["upright"])
        else:
            tallies["turned chests passed"].add(f"{name} {code}", found == "upright")
            tallies["turned chests not named"].add(f"{name} {code}", found != code)
    mean = screen.learn([*chests.values()], phantoms)
    use(mean)
    rng = np.random.default_rng(2)
    for index, picture in enumerate(drawn(100, 901)):
        doubted = verdict(changed(picture, rng)) != "upright"
        tallies["phantoms doubted"].add(str(index), doubted)
    for kind, tally in sorted(tallies.items()):
        print(f"{kind:30} {tally.shown()}")
    for like in (0.35, 0.4, 0.45, 0.5):
        print(f"doubted if LIKE were {like}: {rate([score < like for score in upright])}")
    if is_written:
        drawing = Path(screen.__file__).with_name("screen_phantom.png")
        Image.fromarray(screen.mean(phantoms)).save(drawing)
        target = Path(screen.__file__).with_name("screen.png")
        Image.fromarray(mean).save(target)
        print(f"wrote {target}")


def use(mean: Bytes) -> None:
    """Let the screener compare with `mean`."""
    screen._mean_chest = lambda: mean.astype(np.float64)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--write" in sys.argv)
