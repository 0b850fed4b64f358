"""Clauses without a fracture word that nevertheless leave open whether there is one."""

from collections.abc import Sequence

from worker.text.bones import CHEST
from worker.text.lexicon import Kind, Token
from worker.text.phrase import JOINTS, NAMED, STOPS, Phrase, has
from worker.text.rules.backward import MIMICS
from worker.text.rules.denied import is_clearly_denied
from worker.text.rules.rule import Hit, RuleVerdict, TextRule


def _find_limited_view(phrase: Phrase) -> Hit | None:
    """Find a view of the bones, or of everything, that is said to be limited."""
    limits = phrase.places(lambda token: token.kind is Kind.LIMITED)
    limits = [at for at in limits if not _obscures_other(phrase.tokens, at)]
    if not limits:
        return None
    on_bones = has(phrase.tokens, *NAMED, Kind.SKELETON, Kind.FRACTURE)
    is_elsewhere = any(t.text in CHEST for t in phrase.tokens)
    return Hit(limits) if on_bones or not is_elsewhere else None


def _obscures_other(tokens: Sequence[Token], at: int) -> bool:
    """Tell "ribs could obscure a nodule", of which the ribs are well seen."""
    after = tokens[at + 1 :]
    is_object = has(after, Kind.NOUN) and not has(after, *NAMED, Kind.SKELETON, Kind.FRACTURE)
    return tokens[at].text in ("obscure", "obscures", "obscuring") and is_object


def _find_unsure_view(phrase: Phrase) -> Hit | None:
    unsure = phrase.places(lambda token: token.kind is Kind.UNSURE)
    return Hit(unsure) if unsure and is_on_bones(phrase.tokens) else None


def is_on_bones(tokens: Sequence[Token]) -> bool:
    """Tell whether a clause is about bones, or about nothing else."""
    return has(tokens, *NAMED, Kind.SKELETON, Kind.ABNORMALITY) or not has(tokens, Kind.NOUN)


def _find_opposite(phrase: Phrase) -> Hit | None:
    """Find the "the left 5th rib is not", said after "the clavicles are intact", or is not seen."""
    tokens = phrase.tokens
    end = phrase.skip_back((Kind.SEEN,), len(tokens))
    is_not = end > 1 and tokens[end - 1].value == "not"
    is_short = end < len(tokens) or (is_not and tokens[end - 2].kind is Kind.VERB)
    is_of_bones = has(tokens, *NAMED, Kind.SIDE) and not has(tokens, Kind.NOUN, Kind.ABNORMALITY)
    return Hit((end - 1,)) if is_not and is_short and is_of_bones else None


_SHIFTED = ("displaced", "undisplaced", "nondisplaced", "minimally displaced", "angulated",
            "comminuted", "abnormal", "suspicious", "deformed")  # fmt: skip


def _find_broken_bone(phrase: Phrase) -> Hit | None:
    """Find a bone that is called displaced, abnormal or suspicious, without the word fracture."""
    tokens = phrase.tokens
    if has(tokens, Kind.DEVICE, Kind.FRACTURE) or not has(tokens, *NAMED):
        return None
    found = (n for n, t in enumerate(tokens) if t.text in _SHIFTED or t.value == "healing")
    at = next((n for n in found if _is_of_bone(tokens, n)), None)
    return None if at is None or is_clearly_denied(phrase.about(at)) else Hit((at,))


def _is_of_bone(tokens: Sequence[Token], at: int) -> bool:
    """Tell the displaced rib from the displaced trachea."""
    light = (
        Kind.VERB, Kind.QUALIFIER, Kind.SIDE, Kind.SEGMENT, Kind.ARTICLE, Kind.HEDGE, Kind.AGE,
        Kind.COLON, Kind.COMMA, Kind.NORMAL, Kind.PREPOSITION, Kind.NEUTRAL, Kind.SEEN,
    )  # fmt: skip
    before = next((t for t in reversed(tokens[:at]) if t.kind not in light), None)
    leading = (Kind.QUALIFIER, Kind.SIDE, Kind.SEGMENT, Kind.ARTICLE, Kind.AGE)
    after = next((t for t in tokens[at + 1 :] if t.kind not in leading), None)
    return any(t is not None and t.kind in NAMED for t in (before, after))


def _find_hidden_fracture(phrase: Phrase) -> Hit | None:
    """Find a word that is in no table and has the fracture in it, as "fracturewith"."""
    hidden = phrase.places(lambda token: token.kind is Kind.UNKNOWN and "fractur" in token.text)
    return Hit(hidden) if hidden else None


_ALWAYS_BROKEN = frozenset(
    ("nonunion", "ununited", "non union", "pseudo arthrosis", "vertebra plana",
     "non united", "nonunited", "pseudarthrosis", "pseudoarthrosis",
     "pseudoarthroses", "callus", "callus formation", "bridging callus", "healing callus",
     "malunion", "malunited", "avulsed", "avulsion", "step off", "stepoff", "step offs",
     "cortical break", "cortical breaks", "unhealed", "nonhealed", "callous")
)  # fmt: skip
_CORTEX = frozenset(("cortical", "cortex", "bony", "bone", "osseous"))
_BROKEN_CORTEX = frozenset(
    ("disruption", "discontinuity", "buckling", "buckle", "interruption", "break", "breach",
     "offset", "fragment", "fragments", "breaks", "disrupted", "interrupted")
)  # fmt: skip
_BROKEN_BODY = frozenset(
    ("collapse", "collapsed", "burst", "impaction", "impacted", "collapses", "fragment",
     "fragments", "fragmented", "shattered", "crushed", "crush")
)  # fmt: skip
_SOFT = frozenset(("lung", "lungs", "lobe", "lobar", "mucoid", "mucous", "fecal", "pulmonary",
                   "alveolar", "airway", "stool", "segmental", "foreign", "bullet", "metallic",
                   "atelectasis"))  # fmt: skip


_BROKEN_NAMED_WORDS = """
crack cracks buckle buckled buckling split pieces parts infraction fissured discontinuity
discontinuous interruption interrupted offset gap kinked kink bent torus wedged flattened
break breaks breached ruptured injury injuries overriding separated separation shortened
foreshortened bayonet lucency lucent depression compressed compression
angulation defect frct
"""
_BROKEN_NAMED = frozenset(
    (*_BROKEN_NAMED_WORDS.split(), "hill sachs", "bony defect", "height loss", "loss of height")
)
"""Mean a broken bone where a bone is named beside them."""


def _find_break_sign(phrase: Phrase) -> Hit | None:
    """Find what means a broken bone without the word, unless it is denied."""
    seen = [at for at in range(len(phrase.tokens)) if _is_break_sign(phrase, at)]
    open_signs = [at for at in seen if not _is_denied(phrase.about(at))]
    return Hit(open_signs) if open_signs else None


def _is_denied(phrase: Phrase) -> bool:
    return phrase.word.text.startswith(("no ", "without ")) or is_clearly_denied(phrase)


def _is_break_sign(phrase: Phrase, at: int) -> bool:
    text, tokens = phrase.tokens[at].text, phrase.tokens
    near = tokens[max(0, at - 6) : at + 6]
    if text in _ALWAYS_BROKEN:
        return True
    if text in _BROKEN_CORTEX and any(t.text in _CORTEX for t in near):
        return True
    if text in ("step", "steps"):
        is_cortical = at > 0 and tokens[at - 1].text in _CORTEX
        after = [t.text for t in tokens[at + 1 : at + 3]]
        return is_cortical or "deformity" in after or after[:1] == ["in"]
    if text == "continuity" and any(t.text in ("loss", "lost") for t in near):
        return has(near, *NAMED, Kind.SKELETON)
    if text in _BROKEN_NAMED:
        return _is_broken_bone(tokens, at)
    if text in ("flail chest", "flail segment", "flail"):
        return True
    is_of_disc = any(t.text.startswith(("disc", "disk", "joint")) for t in near)
    if text == "height" and has(tokens[:at], Kind.NEGATION):
        return False
    if text == "height" and has(near, Kind.LEVEL, Kind.BONE) and not is_of_disc:
        return any(t.text.startswith(("los", "decreas", "reduc")) for t in near)
    is_soft = any(t.text in _SOFT or t.text in CHEST for t in near)
    return text in _BROKEN_BODY and not is_soft and has(near, *NAMED, Kind.SKELETON, Kind.HINT)


_OF_HISTORY = ("persists", "concern", "history", "mechanism", "status post")
_HARMLESS = frozenset(
    (*MIMICS, "atelectasis", "bulla", "bullae", "cyst", "cysts", "resection", "resected",
     "surgical", "postoperative", "postsurgical", "thoracotomy", "tube", "catheter", "hernia",
     "cord")
)  # fmt: skip


def _is_broken_bone(tokens: Sequence[Token], at: int) -> bool:
    """Tell the kinked rib from the kinked tube, and the rib injury from that of a lung."""
    if any(t.text in _HARMLESS for t in tokens):
        return False
    near = tokens[max(0, at - 6) : at + 7]
    beside = (*tokens[max(0, at - 3) : at], *tokens[at + 1 : at + 4])
    is_soft = any(t.text in CHEST or t.text in _SOFT or t.kind is Kind.DEVICE for t in beside)
    if tokens[at].text in ("injury", "injuries"):
        own = (*tokens[max(0, at - 2) : at], *tokens[at + 1 : at + 7])
        is_history = any(t.text in _OF_HISTORY for t in tokens) or has(tokens, Kind.ASKING)
        return has(own, Kind.BONE, Kind.SKELETON) and not is_history
    return not is_soft and has(near, Kind.BONE, Kind.LEVEL, Kind.SKELETON)


_YES = ("yes", "y", "true", "positive", "there is one", "there is", "+")
_ANSWERING = (Kind.COLON, Kind.COMMA)


def _find_mixed_answers(phrase: Phrase) -> Hit | None:
    """Find the "yes" of a form: "rib fracture: none seen, clavicle fracture: yes"."""
    tokens = phrase.tokens
    if not has(tokens, Kind.NEGATION, Kind.ABSENT):
        return None
    is_list = [t.kind for t in tokens[:2]] == [Kind.FRACTURE, Kind.COLON]
    asked = (Kind.FRACTURE, Kind.BONE) if is_list else (Kind.FRACTURE,)
    for at in phrase.places(
        lambda token: token.kind in _ANSWERING and token.text in (":", "=", "(")
    ):
        answer, after = tokens[at + 1 : at + 2], tokens[at + 2 : at + 3]
        is_end = not after or after[0].kind in (*JOINTS, *STOPS, *NAMED, Kind.SIDE, Kind.FRACTURE)
        if at and tokens[at - 1].kind in asked and answer and is_end and _affirms(answer[0]):
            return Hit((at + 1,))
    return None


def _affirms(token: Token) -> bool:
    is_count = token.kind is Kind.NUMBER and token.form != "ordinal" and token.value != "0"
    return token.text in _YES or is_count or token.kind in (Kind.SEEN, Kind.AGE, Kind.QUALIFIER)


_ONE = ("one", "ones", "some")
_MAYBE = ("may", "might", "could", "can")


def _find_possible_one(phrase: Phrase) -> Hit | None:
    """Find the "one could be present" that is said beside a denial."""
    tokens = phrase.tokens
    if has(tokens, Kind.ASKING):
        return None
    for at in phrase.places(lambda token: token.text in _ONE):
        if has(tokens[:at], Kind.NOUN, Kind.DEVICE, Kind.ABNORMALITY):
            return None
        near = tokens[max(0, at - 3) : at + 3]
        is_maybe = any(t.kind is Kind.HEDGE or t.text in _MAYBE for t in near)
        if is_maybe and not has(tokens[at + 1 : at + 2], Kind.NUMBER, Kind.BONE, Kind.SIDE):
            return Hit((at,))
    return None


_PERHAPS_BROKEN = ("crack", "cracks", "break", "breaks", "buckle", "infraction", "irregularity")


def _find_suspected_break(phrase: Phrase) -> Hit | None:
    """Find the "possible crack" of a bone that is not named."""
    tokens = phrase.tokens
    if not has(tokens, Kind.HEDGE) or has(tokens, Kind.NOUN, Kind.DEVICE, Kind.NEGATION):
        return None
    seen = phrase.places(lambda token: token.text in _PERHAPS_BROKEN)
    return Hit(seen[:1]) if seen else None


VIEWS = (
    TextRule(
        "limited-view", "Where the view of the bones is limited, nothing is absent.",
        RuleVerdict.OPEN, _find_limited_view,
        "Evaluation of the ribs is limited.", "Evaluation of the lung bases is limited.",
    ),
    TextRule(
        "mixed-answers", "Where a form says both yes and no of fractures, nothing is absent.",
        RuleVerdict.OPEN, _find_mixed_answers,
        "Fractures: left rib: none, clavicle: acute", "Fractures: left rib: none, clavicle: none",
    ),
)  # fmt: skip
CLAUSES = (
    TextRule(
        "possible-one", "One that may be there beside a denial leaves it open.",
        RuleVerdict.OPEN, _find_possible_one,
        "No fracture is visible, although one could be present.",
        "No fracture is visible in one rib.",
    ),
    TextRule(
        "possible-break", "What is possibly broken is never absent.",
        RuleVerdict.OPEN, _find_suspected_break,
        "Possible crack.", "Possible pneumonia.",
    ),
    TextRule(
        "break-sign", "What means a broken bone without the word is never absent.",
        RuleVerdict.OPEN, _find_break_sign,
        "No fracture. Cortical step-off of the left 5th rib.", "No cortical step-off or fracture.",
    ),
)  # fmt: skip
RULES = (
    TextRule(
        "not-so", "Bones that are not seen, or not what others are said to be, are open.",
        RuleVerdict.OPEN, _find_opposite,
        "The clavicles are intact. The left 5th rib is not.", "The left 5th rib is not enlarged.",
    ),
    TextRule(
        "unsure-bones", "What is not sure of bones leaves them open.",
        RuleVerdict.OPEN, _find_unsure_view,
        "The ribs cannot be assessed.", "A pneumothorax cannot be excluded.",
    ),
    TextRule(
        "bone-changed", "A bone that is displaced, abnormal or suspicious is open.",
        RuleVerdict.OPEN, _find_broken_bone,
        "The left 5th rib is displaced.", "The heart is displaced by the left 5th rib.",
    ),
    TextRule(
        "hidden-word", "A word that has a fracture in it and is in no table leaves it open.",
        RuleVerdict.OPEN, _find_hidden_fracture,
        "Fracturewith callus.", "Fracture with callus.",
    ),
)  # fmt: skip
