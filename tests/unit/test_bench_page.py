"""The page of figures is made from what the benches write."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from tests.bench import page
from tests.bench.__main__ import BENCHES, of_growth
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


def test_a_goal_is_met_or_names_what_stands_in_the_way() -> None:
    least = page.Goal("10 MB x 4", "receive", "10 MB x 4", 0.7, "the disk", True, "ratio")
    most = page.Goal("idle", "receive", "idle", 0.4, "loops look once a second")
    unknown = page.Goal("fill", "feed", "fill", 0.9, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "GOALS", (least, most, unknown))
        lines = list(page.goals(found()["benches"]))
    assert lines[2:] == [
        "| 10 MB x 4 | 0.8 | met |",
        "| idle | 0.5 | missed: loops look once a second |",
        "| fill | | not measured in this run |",
    ]


def test_each_goal_is_of_a_bench_and_says_what_stands_in_its_way() -> None:
    for goal in page.GOALS:
        assert goal.bench in BENCHES
        assert goal.obstacle


def test_growth_shows_the_largest_ledger() -> None:
    one = asdict(row("sqlite: claim", [1.0, 2.0, 3.0], "ms", "1,000 Instances", 1.6))
    rows = [one | {"size": size, "processor_ratio": 1.0} for size in (1000, 100000)]
    (found,) = of_growth({"rows": rows})
    assert (found.name, found.size, found.median) == ("sqlite: claim", 100000, 2.0)


def test_each_bench_of_the_page_has_a_limit_to_be_compared_with() -> None:
    assert set(BENCHES) <= set(page.LIMITS)
