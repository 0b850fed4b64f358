"""What a check found and what to do about it; both programs' `doctor` print it in one way."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dicom_node.base.errors import ConfigurationError, Unreachable

SIGNS = {"pass": "✓ PASS", "warn": "! WARN", "fail": "✗ FAIL"}
"""Symbol and word: colour alone tells nothing to many people."""

_COLOURS = {"pass": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a doctor's report."""

    name: str
    verdict: Literal["pass", "warn", "fail"]
    what: str
    advice: str = ""
    exit_code: int = 0
    """Of a failed check: 78 configuration, 69 unreachable, else 1."""


def passed(name: str, what: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, "pass", what)


def warned(name: str, what: str, advice: str) -> Check:
    """Return a check that found something to know before it becomes a fault."""
    return Check(name, "warn", what, advice)


def failed(name: str, what: str, advice: str, exit_code: int = 1) -> Check:
    """Return a check that found a fault."""
    return Check(name, "fail", what, advice, exit_code)


def exit_code(checks: Iterable[Check]) -> int:
    """Return what a program ends with: 0, or the first of 78, 69 and 1 that a fault calls for."""
    codes = {check.exit_code for check in checks if check.verdict == "fail"}
    for code in (ConfigurationError.exit_code, Unreachable.exit_code):
        if code in codes:
            return code
    return 1 if codes else 0


def show(checks: Sequence[Check], *, as_json: bool, **facts: Any) -> int:
    """Print the checks and return the exit code.

    Parameters
    ----------
    facts
        What the JSON holds beside them.
    """
    code = exit_code(checks)
    if as_json:
        shown = {**facts, "checks": [asdict(check) for check in checks], "exit_code": code}
        print(json.dumps(shown, ensure_ascii=False, default=str))
        return code
    if sys.stdout.isatty():
        _print_table(checks)
    else:
        _print_lines(checks)
    print(_summary_line(checks))
    return code


def _print_table(checks: Iterable[Check]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for check in checks:
        advice = f"\n→ {escape(check.advice)}" if check.advice else ""
        sign = f"[{_COLOURS[check.verdict]}]{SIGNS[check.verdict]}[/]"
        table.add_row(sign, escape(check.name), escape(check.what) + advice)
    Console().print(table)


def _print_lines(checks: Sequence[Check]) -> None:
    """Print one line per check and one per advice: what a file or a pipe can be searched for."""
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        print(f"{SIGNS[check.verdict]}  {check.name:{width}}  {check.what}")
        if check.advice:
            print(f"{'':8}{'':{width}}  → {check.advice}")


def _summary_line(checks: Sequence[Check]) -> str:
    counts = {verdict: sum(c.verdict == verdict for c in checks) for verdict in SIGNS}
    return f"{counts['pass']} passed, {counts['warn']} to know, {counts['fail']} failed"
