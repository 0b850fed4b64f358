"""Say which packages of a release have a licence that is not on the list; exit 1 when one has."""

import json
import re
import sys
from pathlib import Path

PERMISSIVE = re.compile(
    r"apache|mit\b|bsd|isc|python software|psf|mozilla|mpl|unlicense|zlib|cc0|public domain|hpnd|"
    r"0bsd|boost|cnri",
    re.IGNORECASE,
)
ACCEPTED = {
    "psycopg": "LGPL: used as it is, by import",
    "psycopg-binary": "LGPL: used as it is, by import",
}
"""Packages with another licence that are shipped beside this one, never inside it, and why."""

OF_NVIDIA = ("nvidia-", "cuda-")
"""Libraries that torch's CUDA build brings, under NVIDIA's own terms; a CPU build has none."""


def refused(packages: list[dict[str, str]]) -> list[str]:
    """Return a line for each package whose licence nobody has accepted."""
    lines = []
    for package in packages:
        name, licence = package["Name"].lower().replace("_", "-"), package["License"]
        if name in ACCEPTED or name.startswith(OF_NVIDIA) or name == "chexfract-node":
            continue
        if not PERMISSIVE.search(licence) or re.search(r"\b(A|)GPL", licence):
            lines.append(f"{package['Name']} {package['Version']}: {licence}")
    return lines


if __name__ == "__main__":
    found = refused(json.loads(Path(sys.argv[1]).read_text()))
    print("\n".join(found) or "licences: all permissive or accepted", file=sys.stderr)
    sys.exit(bool(found))
