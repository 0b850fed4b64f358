"""Runs the notebooks of the manual, ``python -m tests.run_notebooks``; 1 where one fails."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

MANUAL = Path(__file__).resolve().parents[1] / "dicom_node" / "manual"


def main() -> int:
    """Run each notebook in a fresh kernel; its outputs are thrown away."""
    failed = 0
    for path in sorted(MANUAL.rglob("*.ipynb")):
        began = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        kept = [c for c in notebook.cells if c.cell_type == "code" and c.outputs]
        try:
            NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
        except CellExecutionError as exc:
            failed += 1
            print(exc)
        failed += bool(kept)
        note = "; has outputs: clear them" if kept else ""
        print(f"{path.relative_to(MANUAL)}: {time.monotonic() - began:.0f} s{note}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
