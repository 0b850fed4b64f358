"""What is looked for and not found: "rule out fracture", "evaluate for fracture"."""

from worker.text.bones import is_specific
from worker.text.lexicon import Kind
from worker.text.phrase import JOINTS, Phrase, has
from worker.text.rules.rule import Hit, RuleVerdict, TextRule

_AUXILIARIES = ("be", "been", "to", "can", "may", "should")


def _find_search(phrase: Phrase) -> Hit | None:
    tokens = phrase.tokens
    for at in range(phrase.at - 1, -1, -1):
        token = tokens[at]
        if token.kind is Kind.ASKING and token.value == "if":
            return Hit((at,))
        if token.kind is Kind.LIMITED and tokens[at + 1].text in ("for", "to"):
            return Hit((at,))  # "radiographs are not sensitive for fractures"
        is_apart = at == 0 or tokens[at - 1].kind is Kind.COMMA
        if token.text == "question" and is_apart and is_specific(phrase):
            return None  # "question left 5th rib fracture" suspects it
        if token.kind is Kind.ASKING:
            path = tokens[at + 1 : phrase.at]
            is_told = any(t.kind is Kind.VERB and t.text not in _AUXILIARIES for t in path)
            # "watch for displacement of the left clavicle fracture"
            is_told |= any(
                t.kind in (Kind.NOUN, Kind.AGE)
                and [path[n + 1].text, path[n + 2].value] == ["of", "definite"]
                for n, t in enumerate(path[:-2])
            )
            return None if is_told else Hit((at,))
    return None


def _find_clinical_concern(phrase: Phrase) -> Hit | None:
    """Find a concern that comes from the patient and not from the image."""
    hedges = phrase.places(lambda token: token.kind is Kind.HEDGE, phrase.low, phrase.at)
    for at in phrase.places(lambda token: token.text == "clinically", phrase.at + 1):
        between = phrase.tokens[phrase.at + 1 : at]
        is_advice = has(between, *JOINTS, Kind.ASKING) or phrase.tokens[at - 1].text == "correlate"
        if hedges and not is_advice:
            return Hit((hedges[0], at))
    return None


RULES = (
    TextRule(
        "clinical-concern", "A concern that is called clinical is no finding.",
        RuleVerdict.ASIDE, _find_clinical_concern,
        "Concern for rib fracture clinically.", "Possible rib fracture, correlate clinically.",
    ),
    TextRule(
        "sought", "A fracture that is asked about or looked for is no finding.",
        RuleVerdict.ASIDE, _find_search,
        "Recommend CT to evaluate for rib fractures.", "CT is recommended; rib fractures are seen.",
    ),
)  # fmt: skip
