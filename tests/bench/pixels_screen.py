"""Learns the mean chest and measures the screener's errors on pictures it has not learned from.

Run ``python tests/bench/pixels_screen.py DATA [--write]``; DATA holds the real images. Each real
chest is judged by a mean that leaves it out, as it is and changed at random in crop, gamma, angle,
bars, brightness and noise; so are images of other things, and chests upside down, on their side
and inverted. ``--write`` puts the mean of all into ``worker/screen.png``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker import gate, pixels, screen
from worker.decode import Decoder
from worker.phantom.draw import phantom
from worker.settings import Pixels

Bytes = npt.NDArray[np.uint8]
TWICE = ("jpegls", "fake_mono1", "12bit", "fuji_rle")
"""Parts of the names of files that show what another file shows."""
ROUNDS = 25


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


def main(folder: Path, is_written: bool) -> None:
    """Print how often the screener is wrong."""
    pictures, phantoms = real(folder), drawn(60, 900)
    chests = [name for name in pictures if is_frontal(name)]
    rng = np.random.default_rng(1)
    wrong = dict.fromkeys((*TURNS, "other", "phantom"), 0)
    asked = dict.fromkeys(wrong, 0)
    least, most = 1.0, -1.0
    for name, picture in pictures.items():
        others = [pictures[chest] for chest in chests if chest != name]
        use(screen.learn(others, phantoms))
        print(f"{name[:44]:44} {screen.likeness(picture)['upright']:.2f} {verdict(picture)}")
        for turn in [picture, *(changed(picture, rng) for _ in range(ROUNDS))]:
            if name in chests:
                for code, act in TURNS.items():
                    asked[code] += 1
                    wrong[code] += verdict(act(turn)) != code
                least = min(least, screen.likeness(turn)["upright"])
            else:
                asked["other"] += 1
                wrong["other"] += verdict(turn) == "upright"
                most = max(most, screen.likeness(turn)["upright"])
    mean = screen.learn([pictures[name] for name in chests], phantoms)
    use(mean)
    for picture in drawn(100, 901):
        asked["phantom"] += 1
        wrong["phantom"] += verdict(changed(picture, rng)) != "upright"
    for kind, count in wrong.items():
        print(f"{kind:12} {count} of {asked[kind]} wrong")
    print(f"least likeness of a chest {least:.2f}, most of anything else {most:.2f}")
    if is_written:
        target = Path(screen.__file__).with_name("screen.png")
        Image.fromarray(mean).save(target)
        print(f"wrote {target}")


def use(mean: Bytes) -> None:
    """Let the screener compare with `mean`."""
    screen._chest = lambda: mean.astype(np.float64)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--write" in sys.argv)
