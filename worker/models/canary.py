"""The trial picture's known answer, by which a dead or changed model is found at the start."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.models.checkpoint import CANARY
from worker.models.generation import Step, same_steps

VERSION = 1


@dataclass(frozen=True, slots=True)
class Canary:
    """An answer to the invented picture, with each step's choice."""

    text: str
    steps: tuple[Step, ...]
    is_sound: bool = True
    """Whether all numbers behind it were finite and not all the same."""
    is_answered: bool = True
    """Whether there was a word before the end."""
    asked: dict[str, str] = field(default_factory=dict)
    """What was asked and how: the answer is known for this only."""

    def fault(self, known: Canary | None, tolerance: float) -> str:
        """Return what is wrong with this answer, or an empty text.

        Parameters
        ----------
        known : Canary or None
            What the same model said when its folder was accepted.
        tolerance : float
            Logits that differ less may change places by rounding.
        """
        if not self.is_sound:
            return (
                "its numbers are not finite, or all words are equally likely, at a trial picture: "
                "the weights are damaged, or dtype is too narrow for them (float16; try bfloat16)"
            )
        if not self.is_answered:
            return "it has no answer to a trial picture: its first word is the end"
        if known is None or known.asked != self.asked:
            return ""
        if same_steps(known.steps, self.steps, tolerance):
            return ""
        return (
            f"it answers a trial picture otherwise than when the folder was accepted: "
            f"{self.text[:60]!r} instead of {known.text[:60]!r}; if the model was changed on "
            f"purpose, accept it again (chexfract-worker model accept)"
        )

    def write(self, folder: Path) -> None:
        """Keep this answer as the known one of `folder`."""
        content = {
            "version": VERSION,
            "asked": self.asked,
            "text": self.text,
            "steps": [[step.token, step.margin] for step in self.steps],
        }
        (folder / CANARY).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> Canary | None:
    """Return the known answer of a folder; None where there is none, or of another kind."""
    try:
        content: Any = json.loads((folder / CANARY).read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            return None
        steps = tuple(Step(int(token), float(margin)) for token, margin in content["steps"])
        asked = {str(key): str(value) for key, value in content["asked"].items()}
        return Canary(str(content["text"]), steps, asked=asked)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
