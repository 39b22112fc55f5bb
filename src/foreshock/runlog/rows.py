"""Records of one kind, kept by column: a million take a tenth of the memory of as many dictionaries."""

from __future__ import annotations

import copy as copying
import math
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from foreshock.runlog.numbers import as_number

# Records of one kind have few shapes. A file made to have many must not cost a column for each value.
_SHAPES = 100
_PENDING = 4096


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """What records that look alike have in common; the same object stands for all of them.

    Attributes:
        kind: Kind of the records.
        names: Names of their fields but the kind, in the order of the record.
        types: Types of the values.
    """

    kind: str
    names: tuple[str, ...]
    types: tuple[type, ...]


class Rows(Sequence[dict[str, Any]]):
    """Records of one kind: a sequence of dictionaries, made when they are asked for.

    Args:
        kind: Kind of the records.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._blocks: dict[Shape | None, _Block] = {}
        self._list: list[_Block] = []
        self._block, self._place = array("i"), array("q")

    def append(self, shape: Shape, row: Mapping[str, Any]) -> None:
        """Append a record.

        Args:
            shape: Names and types of its fields.
            row: The record without its kind; no integer in it has more than 64 bits.
        """
        block = self._blocks.get(shape) or self._new_block(shape)
        self._block.append(block.number)
        self._place.append(block.append(row))

    def has(self, shape: Shape) -> bool:
        """Return whether records of a shape have columns of their own.

        Args:
            shape: Names and types of their fields.
        """
        return shape in self._blocks

    def extend(self, shape: Shape, columns: Sequence[array[Any]]) -> None:
        """Append many records of one shape.

        Args:
            shape: Names and types of their fields.
            columns: Their fields, without those that are null; each of the type of its field.
        """
        block, count = self._blocks.get(shape) or self._new_block(shape), len(columns[0])
        self._block.extend(array("i", [block.number]) * count)
        self._place.extend(array("q", range(block.size, block.size + count)))
        block.extend(columns)

    def selected(self, order: NDArray[np.int64], *, copy: bool = False) -> Rows:
        """Return some of the records, in an order.

        Args:
            order: Their places, shape (n,).
            copy: Whether what is returned shares nothing with these rows, so that another thread may read it
                while records are appended to these.
        """
        found = Rows(self._kind)
        for name, code in (("_block", "i"), ("_place", "q")):
            values = np.frombuffer(getattr(self, name), dtype=code)[order]
            setattr(found, name, array(code, values.tobytes()))
        found._list = [block.copied() for block in self._list] if copy else self._list
        found._blocks = {block.shape: block for block in found._list}
        return found

    def followed_by(self, others: Rows) -> Rows:
        """Return these records and others after them; their columns are shared, not copied.

        Args:
            others: Records of the same kind.
        """
        found = Rows(self._kind)
        for block in (*self._list, *others._list):
            renumbered = copying.copy(block)
            renumbered.number = len(found._list)
            found._list.append(renumbered)
        found._place = self._place + others._place
        found._block = self._block + array("i", [number + len(self._list) for number in others._block])
        return found

    def numbers(self, name: str, *, start: int = 0) -> NDArray[np.float64]:
        """Return a field of all records as numbers, shape (n,); missing and null become NaN.

        Args:
            name: The field.
            start: Records before this place are left out.
        """
        return self._gathered(lambda block, places: block.numbers(name, places), start)

    def numbers_or_nan(self, name: str, *, start: int = 0) -> NDArray[np.float64]:
        """Return a field of all records as `numbers` does, with NaN also for what is no number.

        Args:
            name: The field; the reader need not have checked it.
            start: Records before this place are left out.
        """
        return self._gathered(lambda block, places: block.numbers_or_nan(name, places), start)

    def values(self, name: str, *, start: int = 0) -> list[Any]:
        """Return a field of all records as it was logged, None where it is missing.

        Args:
            name: The field.
            start: Records before this place are left out.
        """
        places = zip(self._block[start:], self._place[start:], strict=True)
        return [self._list[block].value(name, place) for block, place in places]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._block)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Return one record, or a list of some."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._list[self._block[index]].row(self._place[index], self._kind)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Return the records in order."""
        for block, place in zip(self._block, self._place, strict=True):
            yield self._list[block].row(place, self._kind)

    def __eq__(self, other: object) -> bool:
        """Return whether the records are those of another sequence."""
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return one line: how many records of which kind."""
        return f"<Rows: {len(self)} {self._kind}>"

    def _gathered(self, column: _Column, start: int) -> NDArray[np.float64]:
        """Return what each block has of a column at the places of its records, in their order."""
        found = np.full(len(self) - start, math.nan)
        blocks = np.frombuffer(self._block, dtype="i")[start:]
        places = np.frombuffer(self._place, dtype="q")[start:]
        for block in self._list:
            here = blocks == block.number
            if here.any():
                found[here] = column(block, places[here])
        return found

    def _new_block(self, shape: Shape) -> _Block:
        key = shape if len(self._blocks) < _SHAPES else None
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = _Block(len(self._list), key)
            self._list.append(block)
        return block


class _Block:
    """Records of one shape, a column a field; without a shape, whole records."""

    def __init__(self, number: int, shape: Shape | None) -> None:
        self.number, self.shape = number, shape
        self.size = 0
        self._whole: list[Mapping[str, Any]] | None = [] if shape is None else None
        pairs = () if shape is None else zip(shape.names, shape.types, strict=True)
        self._columns = {name: _column(kind) for name, kind in pairs}
        # Values of the last records: a column takes thousands at once in a fifth of the time.
        self._pending: list[tuple[Any, ...]] = []

    def append(self, row: Mapping[str, Any]) -> int:
        place = self.size
        self.size += 1
        if self._whole is not None:
            self._whole.append(row)
        else:
            self._pending.append(tuple(row.values()))
            if len(self._pending) >= _PENDING:
                self._take_pending()
        return place

    def extend(self, columns: Sequence[array[Any]]) -> None:
        self._take_pending()
        self.size += len(columns[0])
        present = (column for column in self._columns.values() if column is not None)
        for column, values in zip(present, columns, strict=True):
            column.extend(values)

    def row(self, place: int, kind: str) -> dict[str, Any]:
        if self._whole is not None:
            return {"kind": kind, **self._whole[place]}
        self._take_pending()
        row: dict[str, Any] = {"kind": kind}
        for name, column in self._columns.items():
            row[name] = None if column is None else column[place]
        return row

    def value(self, name: str, place: int) -> Any:
        """Return one field of one record; None where it is missing."""
        if self._whole is not None:
            return self._whole[place].get(name)
        self._take_pending()
        column = self._columns.get(name)
        return None if column is None else column[place]

    def numbers(self, name: str, places: NDArray[np.int64]) -> NDArray[np.float64] | float:
        """Return a field of the records at some places, NaN where it is missing or null."""
        self._take_pending()
        column = self._columns.get(name)
        if isinstance(column, array):
            return np.frombuffer(column, dtype=column.typecode)[places].astype(np.float64)
        if self._whole is not None:
            values = [self._whole[place].get(name) for place in places.tolist()]
        elif column is not None:
            values = [column[place] for place in places.tolist()]
        else:
            return math.nan
        return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)

    def copied(self) -> _Block:
        """Return the same records in columns of their own."""
        self._take_pending()
        block = _Block(self.number, self.shape)
        block.size = self.size
        block._whole = None if self._whole is None else self._whole[:]
        block._columns = {
            name: None if column is None else column[:] for name, column in self._columns.items()
        }
        return block

    def _take_pending(self) -> None:
        if not self._pending:
            return
        for column, values in zip(self._columns.values(), zip(*self._pending, strict=True), strict=True):
            if column is not None:
                column.extend(values)
        self._pending.clear()

    def numbers_or_nan(self, name: str, places: NDArray[np.int64]) -> NDArray[np.float64] | float:
        """Return a field as `numbers` does, with NaN also for what is no number."""
        if self._whole is not None:
            return np.array([as_number(self._whole[place].get(name)) for place in places.tolist()])
        # A column that is no array has no number in it.
        return self.numbers(name, places) if isinstance(self._columns.get(name), array) else math.nan


def _column(kind: type) -> array[Any] | list[Any] | None:
    """Return an empty column for values of a type; null needs none."""
    if kind is type(None):
        return None
    return array("d") if kind is float else array("q") if kind is int else []


def _same(one: Any, other: Any) -> bool:
    return bool(one == other)


_Column = Callable[[_Block, NDArray[np.int64]], NDArray[np.float64] | float]


class Records(dict[str, Any]):
    """Records by kind; there are none of a kind that never occurred."""

    def __missing__(self, kind: str) -> Rows:
        return Rows(kind)
