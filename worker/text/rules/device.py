"""Devices: a fractured wire, lead or plate is not a fractured bone."""

from worker.text.lexicon import Kind
from worker.text.phrase import NAMED, Phrase
from worker.text.rules.rule import Hit, RuleVerdict, TextRule

BREAK_NOUNS = ("discontinuity", "disruption", "defect", "lucency", "irregularity", "gap", "break")


def _find_device(phrase: Phrase) -> Hit | None:
    return Hit(_device_places(phrase)) if is_device(phrase) else None


def _find_fracture_plate(phrase: Phrase) -> Hit | None:
    return Hit(_device_places(phrase)) if is_device(phrase) and names_device_for(phrase) else None


def _device_places(phrase: Phrase) -> list[int]:
    return phrase.places(lambda token: token.kind is Kind.DEVICE, 0, len(phrase.tokens))


def is_device(phrase: Phrase) -> bool:
    """Tell whether it is a wire, lead or plate that is fractured."""
    tokens, at = phrase.tokens, phrase.at
    ahead = (Kind.QUALIFIER, Kind.SIDE, Kind.NUMBER, Kind.SEGMENT, Kind.ARTICLE, Kind.NEUTRAL,
             Kind.PREPOSITION, Kind.BONE, Kind.AGE, Kind.HINT, Kind.NOUN, Kind.UNKNOWN)  # fmt: skip
    for token in tokens[at + 1 : phrase.high]:
        if token.kind is Kind.DEVICE:
            return True
        if token.text == "status post":
            break
        if token.kind not in ahead or (
            token.kind is Kind.PREPOSITION
            and token.text not in ("of", "in", "through", "at", "within")
        ):
            break
    back = at - 1
    while back >= phrase.low and tokens[back].kind in (Kind.QUALIFIER, Kind.AGE, Kind.HEDGE):
        back -= 1
    if back >= phrase.low and tokens[back].kind is Kind.DEVICE:
        return True
    return _is_broken_device(phrase, back) or _is_said_of_device(phrase)


def names_device_for(phrase: Phrase) -> bool:
    """Tell the "fracture plate" that holds a bone from a fractured plate."""
    after = phrase.tokens[phrase.at + 1 : phrase.high]
    is_noun = phrase.tokens[phrase.at].value == "noun"
    return is_noun and bool(after) and after[0].kind in (Kind.DEVICE, Kind.NOUN)


def _is_said_of_device(phrase: Phrase) -> bool:
    """Read "leads intact without fracture": the last thing named before is a device."""
    things = (Kind.DEVICE, Kind.BONE, Kind.SKELETON, Kind.LEVEL, Kind.NUMBER, Kind.COMMA, Kind.SIDE,
              Kind.FRACTURE, Kind.NOUN, Kind.HINT, Kind.UNKNOWN)  # fmt: skip
    named = (t for t in reversed(phrase.tokens[: phrase.at]) if t.text not in BREAK_NOUNS)
    last = next((t for t in named if t.kind in things), None)
    is_last = not any(t.kind in NAMED for t in phrase.tokens[phrase.at : phrase.high])
    return last is not None and last.kind is Kind.DEVICE and is_last


def _is_broken_device(phrase: Phrase, back: int) -> bool:
    tokens = phrase.tokens
    if tokens[phrase.at].value != "adjective" or back < 0 or tokens[back].kind is not Kind.VERB:
        return False
    return any(t.kind is Kind.DEVICE for t in tokens[phrase.low : back])


RULES = (
    TextRule(
        "fracture-plate", "A plate or screw for a fracture leaves open how that fracture is.",
        RuleVerdict.OPEN, _find_fracture_plate,
        "Fracture plate in the left clavicle.", "Fractured plate in the left clavicle.",
    ),
    TextRule(
        "broken-device", "What is broken is a device.", RuleVerdict.ASIDE, _find_device,
        "Fractured sternal wire.", "Left 5th rib fracture; sternal wires are seen.",
    ),
)  # fmt: skip
