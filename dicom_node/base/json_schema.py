"""JSON schemas of the configuration files, for editors; the code's docstrings explain the keys."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType
from typing import Any

from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def document(model: type[BaseModel], module: ModuleType) -> dict[str, Any]:
    """Return the schema of `model`, whose tables are classes of `module`."""
    schema: dict[str, Any] = model.model_json_schema()
    explain(schema.get("$defs", {}), module)
    return {"$schema": DIALECT, **schema}


def explain(tables: dict[str, Any], module: ModuleType) -> None:
    """Describe each key by the docstring below its field, in the class or in one it extends."""
    for name, table in tables.items():
        model = vars(module).get(name)
        for base in inspect.getmro(model) if inspect.isclass(model) else ():
            if base.__module__ != module.__name__:
                continue
            for field, text in docstrings_of(base):
                if field in table.get("properties", {}):
                    table["properties"][field].setdefault("description", text)


def docstrings_of(model: type) -> Iterator[tuple[str, str]]:
    """Yield each field of a class that has a docstring below it, with that."""
    if model.__module__.startswith(("pydantic", "builtins")):
        return
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    body = found.body if isinstance(found, ast.ClassDef) else []
    for field, below in pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            yield field.target.id, " ".join(str(below.value.value).split())
