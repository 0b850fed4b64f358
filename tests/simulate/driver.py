"""SQLAlchemy's statements as it puts them into words, executed by sqlite3 itself.

SQLAlchemy's own execution takes several times as long as SQLite in memory does, and a schedule
executes hundreds of statements. What is executed is the same to the letter: each kind of statement
is compiled once, by SQLAlchemy, and found again by the key by which SQLAlchemy finds it. Schedules
whose ledgers are in files, or in PostgreSQL, go by SQLAlchemy's whole way.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa

Source = tuple[str, str, int, int, Any]
"""Of one question mark: the two names of its value, its place in the statement's own values, its
place in a list of values (-1: it is not one of a list), and what makes the driver's value of it."""


class DirectConnection:
    """What the ledger asks of SQLAlchemy's connection.

    Parameters
    ----------
    whole : Connection
        SQLAlchemy's, on the same connection of the driver; for what is asked for rarely.
    """

    def __init__(self, whole: sa.Connection) -> None:
        self._whole = whole
        self.dialect = whole.dialect
        self.info: dict[Any, Any] = {}
        self.driver_connection: Any = whole.connection.driver_connection
        self.connection = self
        self.cursor = self.driver_connection.cursor
        self._compiled: dict[Any, Any] = {}
        self._kinds: dict[int, _Kind] = {}
        self._fixed: WeakKeyDictionary[Any, tuple[_Kind, Any]] = WeakKeyDictionary()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    def exec_driver_sql(self, statement: str, *parameters: Any) -> Any:
        """Execute words; no statistics are taken, for all statements were prepared again then."""
        if statement == "PRAGMA optimize":
            statement = "PRAGMA user_version"
        return self._whole.exec_driver_sql(statement, *parameters)

    def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Execute a statement, once or for each of a list of parameters."""
        is_list = isinstance(parameters, (list, tuple))
        rows = parameters if is_list else [parameters or {}]
        if not rows or (is_list and len(rows) > 1 and getattr(statement, "_returning", ())):
            return self._whole.execute(statement, parameters)
        found = self._kind_of(statement, rows[0])
        if found is None:
            return self._whole.execute(statement, parameters)
        kind, own = found
        if len(rows) > 1:
            words, _ = kind.words(rows[0], own)
            cursor = self.driver_connection.executemany(
                words, [kind.words(row, own)[1] for row in rows]
            )
            return Answer((), cursor.rowcount)
        cursor = self.driver_connection.execute(*kind.words(rows[0], own))
        if cursor.description is None:
            return Answer((), cursor.rowcount)
        return Answer(kind.rows(cursor), -1)

    def scalar(self, statement: Any, parameters: Any = None) -> Any:
        """Return the first value of an answer."""
        return self.execute(statement, parameters).scalar()

    def scalars(self, statement: Any, parameters: Any = None) -> Any:
        """Return the first value of each row of an answer."""
        return self.execute(statement, parameters).scalars()

    def _kind_of(self, statement: Any, parameters: Any) -> tuple[_Kind, Any] | None:
        """Return the kind of a statement and its own values; None for SQLAlchemy's whole way."""
        fixed = self._fixed.get(statement)
        if fixed is not None and (fixed[0].takes is None or fixed[0].takes == parameters.keys()):
            return fixed
        compiled, own, collected, _ = statement._compile_w_cache(
            self.dialect, compiled_cache=self._compiled, column_keys=sorted(parameters)
        )
        if collected or own is None or compiled.literal_execute_params:
            return None
        if compiled.insert_prefetch or compiled.update_prefetch:
            return None
        kind = self._kinds.get(id(compiled))
        if kind is None:
            takes = parameters.keys() if compiled.isinsert or compiled.isupdate else None
            kind = self._kinds[id(compiled)] = _Kind(compiled, takes)
        self._fixed[statement] = kind, own
        return kind, own


@sa.inspection._inspects(DirectConnection)
def _inspected(connection: DirectConnection) -> Any:
    return sa.inspect(connection._whole)


class _Kind:
    """One kind of statement, in the words of SQLite."""

    def __init__(self, compiled: Any, takes: Any) -> None:
        self._compiled = compiled
        self.takes = None if takes is None else set(takes)
        """The names of the parameters which it was compiled for, where that matters."""
        self._is_expanding = bool(compiled.post_compile_params)
        self._by_lengths: dict[tuple[int, ...], tuple[str, list[Source]]] = {}
        self._make: Callable[[Any], Any] | None = None
        self._places = {
            bind: place
            for place, original in enumerate(compiled.cache_key[1])
            for bind in compiled._cache_key_bind_match[0][original]
        }
        if not self._is_expanding:
            processors = compiled._bind_processors
            names = compiled.positiontup or ()
            self._whole = (
                compiled.string,
                [self._source(name, -1, processors.get(name)) for name in names],
            )

    def _source(self, name: str, place: int, process: Any) -> Source:
        bind = self._compiled.binds[name]
        return (bind.key, name, self._places.get(bind, -1), place, process)

    def words(self, given: Any, own: Any) -> tuple[str, list[Any]]:
        """Return the statement with its question marks, and their values."""
        words, sources = self._expanded(given, own) if self._is_expanding else self._whole
        values = []
        for key, name, place, item, process in sources:
            if key in given:
                value = given[key]
            elif name in given:
                value = given[name]
            elif place >= 0:
                value = own[place].effective_value
            else:
                value = self._compiled.binds[name].effective_value
            if item >= 0:
                value = value[item]
            values.append(value if process is None else process(value))
        return words, values

    def _expanded(self, given: Any, own: Any) -> tuple[str, list[Source]]:
        """Return the statement for lists of so many values as these."""
        compiled = self._compiled
        binds = sorted(compiled.post_compile_params, key=lambda bind: compiled.bind_names[bind])
        lists = [
            given[bind.key] if bind.key in given else self._own_value(bind, own) for bind in binds
        ]
        lengths = tuple(map(len, lists))
        if lengths not in self._by_lengths:
            whole = compiled.construct_params(given, extracted_parameters=own, escape_names=False)
            state = compiled._process_parameters_for_postcompile(whole)
            items = {
                item: (name, n)
                for name, made in state.parameter_expansion.items()
                for n, item in enumerate(made)
            }
            processors = {**compiled._bind_processors, **state.processors}
            sources = [
                self._source(*items.get(name, (name, -1)), processors.get(name))
                for name in state.positiontup
            ]
            self._by_lengths[lengths] = state.statement, sources
        return self._by_lengths[lengths]

    def _own_value(self, bind: Any, own: Any) -> Any:
        place = self._places.get(bind, -1)
        return own[place].effective_value if place >= 0 else bind.effective_value

    def rows(self, cursor: Any) -> list[Any]:
        """Return what a cursor has found, as rows with names."""
        found = cursor.fetchall()
        if not found:
            return found
        if self._make is None:
            self._make = self._row_maker(cursor)
        return list(map(self._make, found))

    def _row_maker(self, cursor: Any) -> Callable[[Any], Any]:
        compiled = self._compiled
        columns = compiled._result_columns
        names = [column[0] for column in cursor.description]
        processors = [None] * len(names)
        if columns and len(columns) == len(names) and not compiled._textual_ordered_columns:
            names = [column.keyname for column in columns]
            processors = [
                column.type._cached_result_processor(compiled.dialect, None) for column in columns
            ]
        kind = _row_type(tuple(names))
        if not any(processors):
            made: Callable[[Any], Any] = kind._make
            return made
        return lambda row: kind._make(
            [
                value if process is None else process(value)
                for value, process in zip(row, processors, strict=True)
            ]
        )


def _row_type(names: tuple[str, ...], _made: dict[Any, Any] = {}) -> Any:  # noqa: B006
    if names not in _made:

        class Row(namedtuple("Row", names, rename=True)):  # type: ignore[misc]
            __slots__ = ()

            @property
            def _mapping(self) -> dict[str, Any]:
                return dict(zip(names, self, strict=True))

        _made[names] = Row
    return _made[names]


class Answer:
    """What the ledger asks of SQLAlchemy's result."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> list[Any]:
        """Return all rows."""
        return list(self._rows)

    def first(self) -> Any:
        """Return the first row, None without any."""
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        """Return the only row."""
        (row,) = self._rows
        return row

    def one_or_none(self) -> Any:
        """Return the only row, None without any."""
        return self.one() if self._rows else None

    def scalar(self) -> Any:
        """Return the first value."""
        return self._rows[0][0] if self._rows else None

    def scalars(self) -> Answer:
        """Return the first value of each row."""
        return Answer([row[0] for row in self._rows], -1)
