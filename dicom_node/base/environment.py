"""Values of the environment over those of a file: ``CHEXFRACT_NODE__PORT`` for node.port."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from dicom_node.base.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import BaseModel


def prefix_of(model: type[BaseModel]) -> str:
    """Return what names of variables for a model of settings begin with; empty where none are."""
    return str(getattr(model, "ENVIRONMENT", ""))


def with_environment(model: type[BaseModel], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file with what the environment sets in its place.

    Raises
    ------
    ConfigurationError
        A variable that should hold a table holds something else.
    """
    if not any(_variables(model)):
        return dict(content)
    # Imported here: most nodes set nothing by the environment, and for reading it this library
    # takes a tenth of a command's time (it also knows three clouds and .env files).
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

    source = EnvSettingsSource(
        # it asks the class for its fields and nothing else
        cast("type[BaseSettings]", model),
        case_sensitive=False,
        env_prefix=prefix_of(model),
        env_nested_delimiter="__",
    )
    try:
        return _merged(content, source())
    except SettingsError as exc:
        raise ConfigurationError(f"environment: {str(exc).splitlines()[0]}") from exc


def _variables(model: type[BaseModel]) -> Iterator[str]:
    """Yield the variables that are for one of a model's tables."""
    if not (prefix := prefix_of(model).lower()):
        return
    for variable in os.environ:
        name = variable.lower()
        table = name.removeprefix(prefix).partition("__")[0]
        if name.startswith(prefix) and table in model.model_fields:
            yield variable


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return two nested tables as one; where both have a value it is that of `above`."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[name] = _merged(cast("Mapping[str, Any]", under), value) if both else value
    return merged
