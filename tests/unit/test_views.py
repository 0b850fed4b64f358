"""What leaves the store is typed: no mapping of anything, no row of the database."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

import pytest

import dicom_node.store
from dicom_node.store.ledger.views import DestinationState, View

LOOSE = re.compile(r"dict\[str, Any\]|\bRow\[|Mapping\[str, Any\]|^Any$")
"""Return types that say nothing about what is in them."""

INSIDE = ("dicom_node.store.migrations", "dicom_node.store.schema")
RENDERED = {
    "dicom_node.store.ledger.views.as_json",  # made for json.dumps
    "dicom_node.store.ledger.kept_results.load_result",  # JSON of a column, within the ledger
    "dicom_node.store.ledger.orders.load_own",
    "dicom_node.store.ledger.events.event_row",  # parameters of a statement, within the ledger
    "dicom_node.store.ledger.database.PreparedStatement.row",
    "dicom_node.store.ledger.database.Database.insert",
    "dicom_node.store.ledger.database.Database.detached",  # a driver's, for watches and turns
    "dicom_node.store.catalogue.Found.get",  # a pydicom data set
}
"""What is loose on purpose."""


def public_functions() -> Iterator[tuple[str, object]]:
    """Yield every public function and method of the store with its full name."""
    for found in pkgutil.walk_packages(dicom_node.store.__path__, "dicom_node.store."):
        if found.name.startswith(INSIDE):
            continue
        module = importlib.import_module(found.name)
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
                continue
            if inspect.isfunction(value) and "Connection" not in str(inspect.signature(value)):
                yield f"{module.__name__}.{name}", value
            elif inspect.isclass(value):
                for method, function in inspect.getmembers(value, inspect.isfunction):
                    if not method.startswith("_"):
                        yield f"{module.__name__}.{name}.{method}", function


def test_no_loose_mapping_leaves_the_store() -> None:
    functions = dict(public_functions())
    assert len(functions) > 100
    loose = {
        name
        for name, function in functions.items()
        if LOOSE.search(str(getattr(function, "__annotations__", {}).get("return", "")))
    }
    assert loose - RENDERED == set()


def kinds_of_views(of: type = View) -> Iterator[type]:
    """Yield every kind of view."""
    for kind in of.__subclasses__():
        yield kind
        yield from kinds_of_views(kind)


def test_each_field_of_a_view_has_a_type_that_says_something() -> None:
    kinds = list(dict.fromkeys(kinds_of_views()))
    assert len(kinds) > 20
    loose = [
        f"{kind.__name__}.{field.name}: {field.type}"
        for kind in kinds
        if is_dataclass(kind)
        for field in fields(kind)
        if re.search(r"\b(Any|object)\b", str(field.type))
    ]
    assert loose == []


def test_a_view_answers_by_attribute_only() -> None:
    view = DestinationState("archive", waiting=2)
    assert view.waiting == 2
    with pytest.raises(TypeError):
        view["waiting"]  # type: ignore[index]
