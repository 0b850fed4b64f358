"""Say what a report of pip-audit (JSON) found; exit 1 when something shipped has a known fault.

pip-audit ends with 0 and "No known vulnerabilities" where its index knows none of the packages: so
what was looked up is counted here, and what was not is named.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

NOBODY = "pip-audit: NO INDEX ANSWERED, nothing was looked up"


def summary(report: dict[str, Any]) -> tuple[list[str], bool]:
    """Return lines for people, and whether a package has a known fault."""
    packages = report.get("dependencies", [])
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    faults = [
        f"{one['name']} {one['version']}: {fault['id']}"
        f" (fixed in {', '.join(fault['fix_versions']) or 'no version yet'})"
        for one in packages
        for fault in one.get("vulns", ())
    ]
    if len(skipped) == len(packages):
        return [NOBODY], False
    looked_up = len(packages) - len(skipped)
    lines = [*faults, f"pip-audit: {looked_up} packages looked up, {len(faults)} known faults"]
    if skipped:
        lines.append(f"pip-audit: NOT LOOKED UP: {', '.join(sorted(skipped))}")
    return lines, bool(faults)


def main(path: Path) -> int:
    """Print the summary of a report; one that is missing or cut off has looked up nothing."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = {}
    lines, has_faults = summary(report)
    print("\n".join(lines), file=sys.stderr)
    return int(has_faults)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
