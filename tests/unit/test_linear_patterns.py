"""No regular expression that meets a text from outside takes more than linear time.

Each is found in the source, and fed with what it repeats, over and over, and an end that fits
nowhere; by the method by which the program uses it.
"""

from __future__ import annotations

import ast
import importlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import dicom_node
import worker

ROOTS = [Path(one.__file__).parent for one in (dicom_node, worker)]
CALLS = ("match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer")
PUMPS = (" ", "a", "0", "\n", "-", ".", "a ", "0.", "rib ", ", ", "=", "^")
END = "\x00"
LONG, SHORT = 10_000, 2_500

TRUSTED = {
    r"(://[^:/@]*:)[^@]*@": "addresses of node.toml, which the site writes",
    r"\[\[?\s*([^\]]+?)\s*\]\]?": "a line of node.toml that cannot be read",
    r"\s*\(at [^)]*\)$": "a message of the TOML reader",
}
"""Patterns that meet the program's own text only, with the reason."""


def modules() -> Iterator[tuple[str, Path]]:
    for root in ROOTS:
        for path in sorted(root.rglob("*.py")):
            if "phantom/model" not in str(path):
                yield ".".join(path.relative_to(root.parent).with_suffix("").parts), path


def uses() -> set[tuple[str, str, bool]]:
    """Return pattern, method and whether it is of bytes, of every use in the program."""
    sources = {name: path.read_text(encoding="utf-8") for name, path in modules()}
    everything = "\n".join(sources.values())
    found: set[tuple[str, str, bool]] = set()
    for name, source in sources.items():
        tree = ast.parse(source)
        compiled = [node for node in ast.walk(tree) if is_call(node, ("compile",))]
        for node in ast.walk(tree):
            if is_call(node, CALLS) and isinstance(node.args[0], ast.Constant):
                found.add(of(re.compile(node.args[0].value, flags(node)), node.func.attr))
            if isinstance(node, ast.keyword) and node.arg == "pattern":
                text = getattr(node.value, "value", None)
                found |= {(text, "search", False)} if isinstance(text, str) else set()
        if compiled:
            for label, pattern in patterns_of(importlib.import_module(name)):
                methods = set(re.findall(rf"\b{label}\.(\w+)", everything)) & set(CALLS)
                found |= {of(pattern, method) for method in methods or {"search"}}
    return found


def is_call(node: ast.AST, names: tuple[str, ...]) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "re"
        and node.func.attr in names
    )


def flags(node: ast.Call) -> int:
    named = [n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and n.attr.isupper()]
    return sum(int(getattr(re, name)) for name in named)


def of(pattern: re.Pattern[Any], method: str) -> tuple[str, str, bool]:
    is_bytes = isinstance(pattern.pattern, bytes)
    text = pattern.pattern.decode("latin-1") if is_bytes else pattern.pattern
    inline = "".join(
        f for f, bit in (("i", re.I), ("m", re.M), ("s", re.S), ("x", re.X)) if pattern.flags & bit
    )
    if pattern.flags & re.ASCII and not is_bytes:
        inline += "a"
    return (f"(?{inline}:{text})" if inline and "a" not in inline else text), method, is_bytes


def patterns_of(module: Any) -> Iterator[tuple[str, re.Pattern[Any]]]:
    for name, value in vars(module).items():
        if isinstance(value, re.Pattern):
            yield name, value
        elif isinstance(value, tuple | list | dict):
            inner = list(value.values()) if isinstance(value, dict) else list(value)
            flat = [
                x
                for pattern in inner
                for x in (pattern if isinstance(pattern, tuple | list) else (pattern,))
            ]
            yield from ((name, pattern) for pattern in flat if isinstance(pattern, re.Pattern))


def sample(tokens: Any) -> str:
    """Return a text that the tokens match, about."""
    text = ""
    for op, value in tokens:
        if op is sre.LITERAL:
            text += chr(value)
        elif op is sre.NOT_LITERAL:
            text += "b" if chr(value) == "a" else "a"
        elif op is sre.ANY:
            text += "a"
        elif op is sre.IN:
            text += member(value)
        elif op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            text += sample(value[2]) * max(1, value[0])
        elif op is sre.SUBPATTERN:
            text += sample(value[3])
        elif op is sre.ATOMIC_GROUP:
            text += sample(value)
        elif op is sre.BRANCH:
            text += sample(value[1][0])
    return text


def member(items: Any) -> str:
    if items and items[0][0] is sre.NEGATE:
        excluded = "".join(chr(v) for op, v in items[1:] if op is sre.LITERAL)
        return next(c for c in "ab0 -_" if c not in excluded)
    for op, value in items:
        if op is sre.LITERAL:
            return chr(value)
        if op is sre.RANGE:
            return chr(value[0])
        if op is sre.CATEGORY:
            kinds = {sre.CATEGORY_DIGIT: "0", sre.CATEGORY_SPACE: " ", sre.CATEGORY_WORD: "a"}
            return kinds.get(value, "a" if value is sre.CATEGORY_NOT_SPACE else " ")
    return "a"


def pumps(tokens: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """Yield what comes before each repetition, and what it repeats."""
    for op, value in tokens:
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            unit = sample(value[2])
            if unit and value[1] > 16:
                yield before, unit
                yield "", before + unit
            yield from pumps(value[2], before)
        elif op is sre.SUBPATTERN:
            yield from pumps(value[3], before)
        elif op is sre.ATOMIC_GROUP:
            yield from pumps(value, before)
        elif op is sre.BRANCH:
            for branch in value[1]:
                yield from pumps(branch, before)
        before += sample([(op, value)])


def seconds(pattern: re.Pattern[Any], method: str, text: Any) -> float:
    def once() -> float:
        run = getattr(pattern, method)
        began = time.thread_time()
        if method in ("sub", "subn"):
            run(b"" if isinstance(text, bytes) else "", text)
        elif method == "finditer":
            list(run(text))
        else:
            run(text)
        return time.thread_time() - began

    return once()


USES = sorted(use for use in uses() if use[0] not in TRUSTED)


def test_the_patterns_of_the_program_are_found() -> None:
    assert len(USES) > 90
    assert any(is_bytes for _, _, is_bytes in USES)


@pytest.mark.parametrize(("source", "method", "is_bytes"), USES)
def test_a_pattern_takes_linear_time(source: str, method: str, is_bytes: bool) -> None:
    pattern = re.compile(source.encode("latin-1") if is_bytes else source)
    tokens = parser.parse(source)
    for before, unit in {*pumps(tokens), *(("", unit) for unit in PUMPS)}:

        def text(size: int, before: str = before, unit: str = unit) -> Any:
            whole = before + unit * (size // len(unit)) + END
            return whole.encode("latin-1", "replace") if is_bytes else whole

        case = f"{method} {source!r} over {before!r} + {unit!r} * n"
        # A cubic one would take minutes at full length.
        assert seconds(pattern, method, text(500)) < 0.1, case
        if seconds(pattern, method, text(SHORT)) > 0.001:
            ratios = []
            for _ in range(3):
                long, short = (seconds(pattern, method, text(size)) for size in (LONG, SHORT))
                ratios.append(long / max(short, 1e-9))
            assert min(ratios) <= 8, case
