"""The formulas of waiting, against the textbook's values and against one another."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import NOW, fresh, instance, on, post, result, route, taken

from dicom_node import cli
from dicom_node.operate.capacity import (
    ImageCosts,
    erlang_c,
    late_share,
    mean_wait,
    measured_costs,
    plan_capacity,
    servers_needed,
)
from dicom_node.store.ledger import Ledger


@pytest.mark.parametrize(
    ("servers", "load", "waits"),
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (5, 4.0, 0.5541), (10, 8.0, 0.4092), (3, 3.0, 1.0)],
)
def test_who_waits_is_what_tables_of_erlang_say(servers: int, load: float, waits: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(waits, abs=5e-5)


def test_one_server_is_the_formula_of_m_m_1() -> None:
    rate, service_s = 0.8, 1.0
    assert mean_wait(1, rate, service_s) == pytest.approx(0.8 * service_s / (1 - 0.8))
    assert late_share(1, rate, service_s, 10) == pytest.approx(0.8 * math.exp(-0.2 * 10))
    assert mean_wait(1, 2.0, 1.0) == math.inf


@settings(max_examples=50)
@given(st.floats(0.001, 300), st.floats(0.01, 20), st.floats(0.5, 600))
def test_the_fewest_servers_keep_the_promise_and_one_less_does_not(
    rate: float, service_s: float, wait_s: float
) -> None:
    servers = servers_needed(rate, service_s, wait_s)
    assert late_share(servers, rate, service_s, wait_s) <= 0.05
    if servers > 1:
        assert late_share(servers - 1, rate, service_s, wait_s) > 0.05


def test_a_country_needs_more_than_a_site_but_less_than_in_proportion() -> None:
    plans = {n: plan_capacity(n, ImageCosts()) for n in (1_000, 50_000, 5_000_000)}
    workers = {n: plan.stations[1].servers for n, plan in plans.items()}
    assert workers[1_000] == 1
    assert workers[1_000] <= workers[50_000] < workers[5_000_000] < 5_000 * workers[1_000]
    for plan in plans.values():
        assert all(station.busy <= 0.8 for station in plan.stations)


def test_a_batch_shares_the_time_of_its_model(tmp_path: Path) -> None:
    """Eight images of a batch of 4 s took half a second each of the GPU, not four."""
    ledger = Ledger.open(fresh(tmp_path))
    for n in range(1, 9):
        on(ledger, NOW).instances.receive(instance(n), [route()])
        ticket = taken(ledger)
        post(ledger, ticket, result(ticket, n, stages_ms={"model": 4000.0}, batch=8), NOW + 5)
    costs = measured_costs(ledger, ImageCosts())
    ledger.close()
    assert costs.model_s == pytest.approx(0.5)


def test_the_command_says_it_for_people_and_for_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["capacity", "--per-day", "50000", "--model-seconds", "2"]) == 0
    assert "images a day: 50,000" in capsys.readouterr().out
    assert cli.main(["capacity", "--per-day", "50000", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [station["station"] for station in shown["stations"]] == [
        "listeners",
        "workers",
        "couriers",
    ]
    assert cli.main(["capacity", "--per-day", "0"]) == 2
