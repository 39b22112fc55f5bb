"""Records of one kind, kept by column: a million take a tenth of the memory of as many dictionaries."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

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

    def select(self, order: NDArray[np.int64]) -> None:
        """Keep some records only, in an order.

        Args:
            order: Their places, shape (n,).
        """
        for name, code in (("_block", "i"), ("_place", "q")):
            values = np.frombuffer(getattr(self, name), dtype=code)[order]
            setattr(self, name, array(code, values.tobytes()))

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a field of all records as numbers, shape (n,); missing and null become NaN.

        Args:
            name: The field.
        """
        return self._gathered(block.numbers(name) for block in self._list)

    def numbers_or_nan(self, name: str) -> NDArray[np.float64]:
        """Return a field of all records as `numbers` does, with NaN also for what is no number.

        Args:
            name: The field; the reader need not have checked it.
        """
        return self._gathered(block.numbers_or_nan(name) for block in self._list)

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

    def _gathered(self, columns: Iterable[NDArray[np.float64] | None]) -> NDArray[np.float64]:
        """Return what each block has in a column, in the order of the records; NaN for those of None."""
        found = np.full(len(self), math.nan)
        blocks, places = np.frombuffer(self._block, dtype="i"), np.frombuffer(self._place, dtype="q")
        for number, values in enumerate(columns):
            if values is not None:
                here = blocks == number
                found[here] = values[places[here]]
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
        self.number = number
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

    def row(self, place: int, kind: str) -> dict[str, Any]:
        if self._whole is not None:
            return {"kind": kind, **self._whole[place]}
        self._take_pending()
        row: dict[str, Any] = {"kind": kind}
        for name, column in self._columns.items():
            row[name] = None if column is None else column[place]
        return row

    def numbers(self, name: str) -> NDArray[np.float64] | None:
        self._take_pending()
        column = self._columns.get(name) if self._whole is None else [row.get(name) for row in self._whole]
        if column is None:
            return None
        if isinstance(column, array):
            return np.frombuffer(column, dtype=column.typecode).astype(np.float64)
        return np.array([math.nan if value is None else float(value) for value in column], dtype=np.float64)

    def _take_pending(self) -> None:
        if not self._pending:
            return
        for column, values in zip(self._columns.values(), zip(*self._pending, strict=True), strict=True):
            if column is not None:
                column.extend(values)
        self._pending.clear()

    def numbers_or_nan(self, name: str) -> NDArray[np.float64] | None:
        if self._whole is not None:
            return np.array([as_number(row.get(name)) for row in self._whole], dtype=np.float64)
        # A column that is no array has no number in it.
        return self.numbers(name) if isinstance(self._columns.get(name), array) else None


def as_number(value: Any) -> float:
    """Return a value of a log as a float; NaN for what is none.

    Args:
        value: Anything that JSON can hold.
    """
    if type(value) is float or (type(value) is int and value.bit_length() < 1024):
        return float(value)
    return math.nan


def _column(kind: type) -> array[Any] | list[Any] | None:
    """Return an empty column for values of a type; null needs none."""
    if kind is type(None):
        return None
    return array("d") if kind is float else array("q") if kind is int else []


def _same(one: Any, other: Any) -> bool:
    return bool(one == other)
