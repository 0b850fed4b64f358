"""Prints how many phantoms are read rightly, by the whole path, when their pixels suffer a fault.

Run ``python tests/bench/pixel_faults.py [count]``: count phantoms (200) as DX Instances, changed as
``tests/unit/test_pixel_faults.py`` changes its panel, through reading, gate, tables and model.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from worker import settings
from worker.phantom.draw import phantom_findings
from worker.phantom.truth import text
from worker.research.evaluate import wilson
from worker.service.start import pipeline

PANEL = Path(__file__).resolve().parent.parent / "unit" / "test_pixel_faults.py"
BATCH = 20


def main(count: int) -> None:
    """Print the table."""
    spec = importlib.util.spec_from_file_location("panel", PANEL)
    assert spec is not None
    assert spec.loader is not None
    panel = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(panel)
    phantoms = [(i, text(phantom_findings(panel.SEED, i))) for i in range(count)]
    print("| Change | exact | % | 95 % interval |")
    print("|---|---|---|---|")
    with pipeline(settings.load(None)) as ready:
        for name, change in (panel.FAITHFUL | panel.FAULTS | panel.EXPOSURES).items():
            batches = [phantoms[at : at + BATCH] for at in range(0, count, BATCH)]
            right = sum(round(panel.exact(ready, batch, change) * len(batch)) for batch in batches)
            low, high = wilson(right, count) or (0.0, 1.0)
            shares = f"{100 * right / count:.1f} | {100 * low:.1f} to {100 * high:.1f}"
            print(f"| {name} | {right} of {count} | {shares} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
