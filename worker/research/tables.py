"""Reads a table as people have it: CSV of programs and of Excel, or JSON lines."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from dicom_node.base.errors import ConfigurationError

_MOST_BYTES = 200_000_000
_NAMES = {
    "sopinstanceuid": "sop_instance_uid",
    "sopuid": "sop_instance_uid",
    "filename": "file",
    "path": "file",
}
"""Spellings of columns, without blanks and underscores -> the name that they have here."""
_GUARDED = re.compile(r'="(.*)"|\'(.*)', re.DOTALL)


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table, with column names in lower case and values without padding.

    Comma, semicolon or tab; with or without a byte order mark; in UTF-8, UTF-16 or Windows-1252;
    Excel's first line ``sep=;`` and its guards of texts (``="1.20"``) are taken off.

    Raises
    ------
    ConfigurationError
        It cannot be read, or is not a table.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigurationError(f"{path}: over {_MOST_BYTES} bytes, not a table of labels")
        text = _decode_table(path.read_bytes())
    except OSError as exc:
        raise ConfigurationError(f"{path}: {exc.strerror or exc}") from exc
    if text.lstrip().startswith("{"):
        return _of_json_lines(path, text)
    return _of_csv(path, text)


def _decode_table(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _of_csv(path: Path, text: str) -> list[dict[str, str]]:
    lines = text.splitlines(keepends=True)
    delimiter = ""
    if lines and (found := re.fullmatch(r'"?sep=(.)"?', lines[0].strip("\r\n"))):
        delimiter, lines = found[1], lines[1:]
    while lines and not lines[0].strip():
        lines = lines[1:]
    if not lines:
        return []
    if "\0" in lines[0]:
        raise ConfigurationError(f"{path}: not a CSV file")
    delimiter = delimiter or max(",;\t", key=lines[0].count)
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc
    names = [_column_name(cell) for cell in rows[0]]
    if twice := {name for name in names if name and names.count(name) > 1}:
        raise ConfigurationError(f"{path}: two columns are called {', '.join(sorted(twice))}")
    return [
        {name: _cell_value(cell) for name, cell in zip(names, row, strict=False) if name}
        for row in rows[1:]
        if any(cell.strip() for cell in row)
    ]


def _of_json_lines(path: Path, text: str) -> list[dict[str, str]]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise ConfigurationError(f"{path}, line {number}: not JSON") from exc
        if not isinstance(row, dict):
            raise ConfigurationError(f"{path}, line {number}: not a JSON object")
        rows.append({_column_name(key): _plain_text(value) for key, value in row.items()})
    return rows


def _plain_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _column_name(cell: str) -> str:
    name = re.sub(r"[\s\-]+", "_", cell.strip().lower())
    return _NAMES.get(name.replace("_", ""), name)


def _cell_value(cell: str) -> str:
    cell = cell.strip(" \t\r\n\0\u00a0")
    if guarded := _GUARDED.fullmatch(cell):
        cell = guarded[1] if guarded[1] is not None else guarded[2]
    return cell.strip()
