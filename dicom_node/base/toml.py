"""Read a TOML file, and say in one line what is wrong with it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dicom_node.base.errors import ConfigurationError


def read(path: Path) -> dict[str, Any]:
    """Return what `path` says.

    Raises
    ------
    ConfigurationError
        The file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"{path}: {exc.strerror or exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path}: not TOML: {exc}") from exc


def explain(error: ValidationError, under: str = "") -> str:
    """Return every fault as ``key.path: what is wrong``, in one line that shows no value.

    Parameters
    ----------
    error : ValidationError
        What pydantic found.
    under : str
        The table that was validated, where it was not the whole file.
    """
    faults = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(str(part) for part in ((under,) if under else ()) + fault["loc"])
        what = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            what = "unknown key"
        faults.append(f"{where}: {what}" if where else what)
    return "; ".join(faults)
