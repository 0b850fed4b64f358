"""The keys of a table as fields of a form or words of a command: kind, help, default; text to TOML.

Everything comes from the settings' classes: a new key has its field without further work.
"""

from __future__ import annotations

import json
import re
import tomllib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from dicom_node.base.errors import ConfigurationError
from dicom_node.base.json_schema import docstrings_of
from dicom_node.base.toml_edit import Values, render

FieldKind = Literal["text", "number", "flag", "choice", "list"]

EMPTY_LIST = "[]"
"""How a person writes a list without anything, where no text at all leaves the key out."""

_INTEGER, _DECIMAL = re.compile(r"[+-]?\d{1,15}"), re.compile(r"[+-]?\d{1,15}\.\d{1,15}")


@dataclass(frozen=True, slots=True)
class TableField:
    """One key of a table."""

    key: str
    """With dots: ``match.modality``."""
    kind: FieldKind
    help: str
    options: tuple[str, ...] = ()
    """Words that it may have; empty: any."""
    default: str = ""
    """As `text_of` writes it; empty where it is left out or needed."""
    is_needed: bool = False

    @property
    def way(self) -> tuple[str, ...]:
        """The key by its parts."""
        return tuple(self.key.split("."))


@lru_cache(maxsize=8)
def fields_of(model: type[BaseModel]) -> tuple[TableField, ...]:
    """Return the fields of a table's class and of the tables in it, in their order."""
    return tuple(_model_fields(model, ""))


def _model_fields(model: type[BaseModel], prefix: str) -> Iterator[TableField]:
    helps = {key: text for base in reversed(model.__mro__) for key, text in docstrings_of(base)}
    for name, info in model.model_fields.items():
        kind = _bare_type(info.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _model_fields(kind, f"{prefix}{name}.")
            continue
        is_needed = info.is_required()
        default = None if is_needed else info.get_default(call_default_factory=True)
        what, options = _field_kind(kind)
        shown = "" if default is None else text_of(_toml_value(default), ", ")
        text = helps.get(name, "").replace("``", "")
        yield TableField(f"{prefix}{name}", what, text, options, shown, is_needed)


def _field_kind(kind: Any) -> tuple[FieldKind, tuple[str, ...]]:
    if get_origin(kind) is tuple:
        inner = _bare_type(get_args(kind)[0])
        return "list", _literal_words(inner)
    if get_origin(kind) is Literal:
        return "choice", _literal_words(kind)
    if kind is bool:
        return "flag", ("true", "false")
    return ("number" if kind in (int, float) else "text"), ()


def _literal_words(kind: Any) -> tuple[str, ...]:
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


def _bare_type(annotation: Any) -> Any:
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, types.UnionType):
            annotation = next(part for part in get_args(annotation) if part is not type(None))
        else:
            return annotation


def _toml_value(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_toml_value(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def text_of(value: Any, separator: str = "\n") -> str:
    """Return a value as a person writes it in a field: a list by items, text without quotes."""
    if value is None:
        return ""
    if isinstance(value, list):
        items = [json.dumps(item) if item == "" else text_of(item) for item in value]
        return separator.join(items) if items else EMPTY_LIST
    return value if isinstance(value, str) else render(value)


def value_of(field: TableField, text: str, separator: str = "\n") -> Any:
    """Return what a person wrote in a field as TOML has it; None leaves the key out.

    What is not of the right kind stays text: the check of the whole file says what to write.
    """
    text = text.strip() if separator == "\n" else text
    if not text.strip():
        return None
    if field.kind == "list":
        return _list_items(text, separator)
    if field.kind == "flag":
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if field.kind == "number":
        bare = text.strip()
        if _INTEGER.fullmatch(bare):
            return int(bare)
        return float(bare) if _DECIMAL.fullmatch(bare) else bare
    return text


def _list_items(text: str, separator: str) -> Any:
    if text.lstrip().startswith("["):
        try:
            return tomllib.loads(f"x = {text.strip()}")["x"]
        except tomllib.TOMLDecodeError as exc:
            raise ConfigurationError(
                f"{text[:60]!r} is not a list; write {EMPTY_LIST} or items"
            ) from exc
    items = [part.strip() for part in text.replace("\r", "").split(separator)]
    return ["" if item == '""' else item for item in items if item]


def table_of(
    fields: Sequence[TableField], texts: Mapping[str, str], separator: str = "\n"
) -> Values:
    """Return the values of a table from the text of each field by its key."""
    values: Values = {}
    for field in fields:
        value = value_of(field, texts.get(field.key, ""), separator)
        if value is not None:
            put(values, field.way, value)
    return values


def put(values: Values, way: Sequence[str], value: Any) -> None:
    """Set a key of a table, or of a table in it; None removes it."""
    *outer, last = way
    for key in outer:
        inner = values.get(key)
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = inner
    if value is None:
        values.pop(last, None)
    else:
        values[last] = value


def texts_of(fields: Sequence[TableField], values: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each field for the values of a table."""
    return {field.key: text_of(look_up(values, field.way)) for field in fields}


def look_up(values: Any, way: Sequence[str]) -> Any:
    """Return the value of a key of a table, None without it."""
    for key in way:
        if not isinstance(values, Mapping) or key not in values:
            return None
        values = values[key]
    return values


def changed_by_words(
    fields: Sequence[TableField], values: Mapping[str, Any], words: Sequence[str]
) -> Values:
    """Return a table with other keys, each written ``KEY=VALUE``; ``KEY=`` removes one.

    Raises
    ------
    ConfigurationError
        A word is not of this form.
    """
    known = {field.key: field for field in fields}
    changed: Values = json.loads(json.dumps(values))
    for word in words:
        key, sign, text = word.partition("=")
        if not sign:
            raise ConfigurationError(f"{word[:60]!r}: write KEY=VALUE, such as host=10.0.0.7")
        # a key that is not known goes on to the check, which suggests one
        field = known.get(key, TableField(key, "text", ""))
        put(changed, field.way, value_of(field, text, ","))
    return changed
