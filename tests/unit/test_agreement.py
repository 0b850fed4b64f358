"""What readers say of results is counted by model and version, each result once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ledgers import NOW, on, reported

from dicom_node.settings import load
from dicom_node.store.ledger import Ledger


def test_the_last_judgement_of_each_result_counts(ledger: Ledger) -> None:
    assert ledger.results.agreement() == {}
    first, second, third = (reported(ledger, n, NOW + n) for n in range(3))
    on(ledger, NOW + 10).acts.judge(first.job, "agree", "a")
    on(ledger, NOW + 11).acts.judge(first.job, "disagree", "b")
    on(ledger, NOW + 12).acts.judge(second.job, "agree", "a")
    on(ledger, NOW + 13).acts.judge(second.job, "agree", "b")
    on(ledger, NOW + 14).acts.judge(third.job, "agree", "a")
    (versions,) = ledger.results.agreement().values()
    assert [(version.agree, version.disagree) for version in versions] == [(2, 1)]
    assert versions[0].share == pytest.approx(2 / 3)
    assert versions[0].model_version


def test_the_models_page_shows_it(ledger: Ledger, tmp_path: Path) -> None:
    from dicom_node.web.configuration import _model_rows

    config = tmp_path / "node.toml"
    config.write_text(f"[node]\ndata_dir = {json.dumps(str(tmp_path))}\n")
    on(ledger, NOW + 10).acts.judge(reported(ledger).job, "agree", "a")
    (model,) = _model_rows(load(config), ledger, [])
    assert [one.share for one in model["agreement"]] == [1.0]
