"""Texts as models write them, and as they should not: the same number gives the same texts."""

from __future__ import annotations

import random

BONES = ["rib", "clavicle", "scapula", "humerus", "sternum", "T8 vertebra", "acromion", "glenoid"]
PATTERNS = [
    "Acute fracture of the {side} {number} {bone}.",
    "No evidence of {bone} fracture.",
    "No acute fracture is seen. Lungs are clear.",
    "Fractures of {side} ribs 3 to {n}. Old {bone} fracture.",
    "Healing displaced fracture of the lateral {side} {number} rib; old {side} {bone} fracture.",
    "Possible {side} {bone} fracture, cannot be excluded.",
    "Compression fracture of T{n}. No fracture of the {bone}.",
    "Перелом {n} ребра. {side}",
    "左侧第{n}肋骨骨折 {bone}",
]

LOOP = "There is a fracture of the left seventh rib. "
HOSTILE = {
    "empty": "",
    "blank": " \t\r\n\u00a0\u2003",
    "megabyte": "Fracture of the left seventh rib. " * 31_000,
    "one word of a megabyte": "x" * 1_000_000,
    "line feeds": "\n" * 5_000 + "Fracture." + "\n" * 5_000,
    "control characters": "".join(map(chr, range(32))) + "Rib\x00 fracture\x1b[31m\x7f\x85\x9b",
    "HTML": "<script>alert(1)</script><b>Fracture</b> &amp; <img src=x onerror=alert(2)>\r\n\r\n",
    "right to left": "\u202eكسر في الضلع السابع الأيسر\u202c שבר בצלע \u2067left\u2069 \u200f",
    "emoji": "🦴💥👨‍👩‍👧‍👦 fracture 🇩🇪 of rib 7️⃣ \U0010ffff",
    "lone surrogates": "\ud83d left \udcff rib fracture \ud800",
    "not characters": "Fracture\ufffe\uffff\ufdd0 \ufffd of the left rib",
    "combining": "F" + "\u0301" * 3_000 + "racture",
    "looping": LOOP * 400,
    "looping word": "rib " * 3_000,
    "DICOM delimiters": "left\\right^name=ideographic\\fracture^^^=",
    "nothing but a zero": "\x00",
}
"""What the text is -> the text."""


def generated(count: int, seed: int = 7) -> list[str]:
    """Return `count` texts: plain ones, spoilt ones, and every hostile one."""
    chance = random.Random(seed)
    texts = list(HOSTILE.values())[:count]
    while len(texts) < count:
        n = chance.randint(1, 12)
        words = {"side": chance.choice(["left", "right", "bilateral"]), "n": n, "number": f"{n}th"}
        text = chance.choice(PATTERNS).format(bone=chance.choice(BONES), **words)
        texts.append(_spoilt(text, chance) if chance.random() < 0.2 else text)
    return texts


def _spoilt(text: str, chance: random.Random) -> str:
    """Return `text` with strange characters put into it, or said too often."""
    if chance.random() < 0.2:
        return f"{text} " * chance.randint(2, 60)
    letters = list(text)
    for _ in range(chance.randint(1, 8)):
        strange = chance.choice("\x00\x1b\t\r\n<>&\u202e\u0301\ufffd\U0001f9b4\ud83d\\^=骨")
        letters.insert(chance.randrange(len(letters) + 1), strange)
    return "".join(letters)
