"""Long work shows a bar on a terminal and nothing in a pipe, where its output is for programs."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from dicom_node.operate import progress


def watched(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> io.StringIO:
    screen = io.StringIO()

    def console(**_: Any) -> Console:
        return Console(file=screen, force_terminal=is_terminal, width=80)

    monkeypatch.setattr(progress, "Console", console)
    return screen


def test_a_bar_is_drawn_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watched(monkeypatch, is_terminal=True)
    with progress.bar("reports", 7) as advance:
        advance(3)
    assert "reports" in screen.getvalue()
    assert "3/7" in screen.getvalue()


def test_a_pipe_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watched(monkeypatch, is_terminal=False)
    with progress.bar("reports", 7) as advance, progress.wait("a start"):
        advance(3)
    assert screen.getvalue() == ""


def test_what_is_waited_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watched(monkeypatch, is_terminal=True)
    with progress.wait("node and worker start"):
        pass
    assert "node and worker start" in screen.getvalue()
