"""Makes numbers of the tables of a header, and of their entries what they mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from worker.image.header import BIG_ENDIAN, Header, Table

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Lut:
    """A usable table."""

    first: int
    """The first value mapped, as it is written: unsigned."""
    declared: int
    """Bits per entry, by the descriptor."""
    entries: Floats
    explanation: str = ""

    @property
    def bits(self) -> int:
        """Bits that the entries use."""
        return max(int(self.entries.max()).bit_length(), 1)

    @property
    def is_misdeclared(self) -> bool:
        """Whether the entries use other bits than the descriptor says."""
        return self.bits != self.declared

    def look_up(self, x: Floats, is_signed: bool) -> Floats:
        """Return the entries of values; those beyond the table take its ends."""
        # The descriptor's second value has the sign of what is mapped (PS3.3 C.11.1.1.1).
        first = self.first - 65536 if is_signed and self.first > 32767 else self.first
        index = np.rint(x - first).clip(0, self.entries.size - 1).astype(np.intp)
        return self.entries[index]


def luts(tables: tuple[Table | None, ...], head: Header) -> list[Lut | None]:
    """Return the tables in order; None for a table that is not usable."""
    is_big_endian = head.transfer_syntax == BIG_ENDIAN
    return [None if table is None else _usable_lut(table, is_big_endian) for table in tables]


def _usable_lut(table: Table, is_big_endian: bool) -> Lut | None:
    count = table.count
    if isinstance(table.content, bytes):
        if len(table.content) >= 2 * count:
            entries = np.frombuffer(table.content, ">u2" if is_big_endian else "<u2")
        elif table.declared > 8:
            return None  # fewer words than it says, not two entries in each
        else:
            # Eight bits per entry, two entries per word (PS3.3 C.11.1.1.1).
            even = table.content[: len(table.content) // 2 * 2]
            packed = np.frombuffer(even, np.uint8)
            entries = packed.reshape(-1, 2)[:, ::-1].reshape(-1) if is_big_endian else packed
    else:
        entries = np.asarray(table.content, np.float64) % 65536
        if count // 2 <= entries.size < count and table.declared <= 8:
            # The same two entries in a word, which pydicom has made a number of.
            low, high = entries % 256, entries // 256
            entries = np.column_stack([low, high]).reshape(-1)
    says_something = 1 <= table.declared <= 16 or entries.any()
    if entries.size < count or not says_something:
        return None
    return Lut(table.first, table.declared, entries[:count].astype(np.float64), table.explanation)
