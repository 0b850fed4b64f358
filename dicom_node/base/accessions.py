"""Reads a list of accession numbers, as both programs take it."""

from __future__ import annotations

import csv
from pathlib import Path

from dicom_node.base.errors import ConfigurationError


def read_accessions(table: Path) -> list[str]:
    """Return accession numbers: one a line, or the column accession_number of a CSV.

    Raises
    ------
    ConfigurationError
        It cannot be read or has none.
    """
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
        first = next((line for line in lines if line.strip()), "")
        delimiter = max(",;\t", key=first.count)
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if any(map(str.strip, row))]
    except (OSError, UnicodeError, csv.Error) as exc:
        raise ConfigurationError(f"--accessions: {table}: cannot be read as text") from exc
    column = 0
    if rows:
        head = [cell.strip().lower().replace(" ", "_") for cell in rows[0]]
        if "accession_number" in head:
            column, rows = head.index("accession_number"), rows[1:]
        elif len(head) > 1:
            raise ConfigurationError(f"--accessions: {table}: no column accession_number")
    numbers = [row[column].strip() for row in rows if len(row) > column and row[column].strip()]
    if not numbers:
        raise ConfigurationError(f"--accessions: {table}: no accession number in it")
    return list(dict.fromkeys(numbers))
