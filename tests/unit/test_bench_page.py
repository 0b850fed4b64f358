"""The page of figures is made from what the benches write."""

from __future__ import annotations

from dataclasses import asdict

from tests.bench import page
from tests.bench.record import Row, machine, row


def found() -> dict:
    rows = [
        asdict(row("10 MB x 4, node", [100.0, 300.0, 200.0], "MB/s", "storescp", 250.0)),
        asdict(Row("idle node", "% of core", 1, 0.5, 0.5)),
    ]
    benches = {"receive": {"rows": rows, "text": ""}}
    return {"machine": machine(), "is_short": True, "benches": benches, "failed": ["soak"]}


def test_figures_stand_between_their_marks_and_nothing_else_changes() -> None:
    text = f"# Performance\n\nOwn words.\n\n{page.BEGIN}\nold\n{page.END}\n\nMore words.\n"
    new = page.written(text, found())
    assert "| 10 MB x 4, node | 200.00 MB/s | 300.00 | 3 | 0.80 of storescp |" in new
    assert "old" not in new
    assert new.startswith("# Performance\n\nOwn words.\n\n")
    assert new.endswith(f"{page.END}\n\nMore words.\n")
    assert "Not measured in this run: soak." in new
    assert page.written(new, found()) == new


def test_the_manual_has_the_marks() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert text.index(page.BEGIN) < text.index(page.END)
