"""Answers of pure functions, kept: schedules ask them about the same few images and reports.

Where ledgers are in memory, what depends on its arguments alone is worked out once in a process.
In files, and with PostgreSQL, all of it is worked out each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from dicom_node.flow import deliver, intake, repeat, result_check
from dicom_node.standard import header, uids
from dicom_node.store.ledger import jobs as ledger_jobs

MOST = 20_000
"""So many answers of one function are kept."""


@contextmanager
def kept_answers() -> Iterator[None]:
    """Ask each of these functions once about the same."""
    before = [(where, name, getattr(where, name)) for where, name, _ in _PLACES]
    for where, name, kept in _PLACES:
        setattr(where, name, kept)
    try:
        yield
    finally:
        for where, name, honest in before:
            setattr(where, name, honest)


def _kept(honest: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that knows what `honest` has answered; its arguments are values."""
    known: dict[Any, Any] = {}

    def ask(*about: Any) -> Any:
        found = known.get(about, known)
        if found is known:
            found = honest(*about)
            if len(known) >= MOST:
                known.clear()
            known[about] = found
        return found

    return ask


def _kept_header() -> Callable[..., Any]:
    honest = header.read_header
    known: dict[Any, dict[str, Any]] = {}

    def read(file: IO[bytes], *how: Any, **named: Any) -> dict[str, Any]:
        ways = tuple(
            tuple(way.values()) if isinstance(way, Mapping) else way
            for way in (*how, *named.values())
        )
        about = file.read(), ways, tuple(named)
        found = known.get(about)
        if found is None:
            file.seek(0)
            found = honest(file, *how, **named)
            if len(known) >= MOST:
                known.clear()
            known[about] = found
        return dict(found)

    return read


def _kept_order() -> Callable[..., Any]:
    honest = ledger_jobs.order_of
    known: dict[Any, Any] = {}

    def order_of(row: Any, shared: str | None) -> Any:
        about = row.order_id is None, row.report_order, shared
        found = known.get(about)
        if found is None:
            if len(known) >= MOST:
                known.clear()
            found = known[about] = honest(row, shared)
        return found

    return order_of


_READ = _kept_header()
_PLACES: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (intake, "read_header", _READ),
    (repeat, "read_header", _READ),
    (header, "read_header", _READ),
    (uids, "derived_uid", _kept(uids.derived_uid)),
    (deliver, "recast", _kept(deliver.recast)),
    (result_check, "_read_object", _kept(result_check._read_object)),
    (ledger_jobs, "order_of", _kept_order()),
)
