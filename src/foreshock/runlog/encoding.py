"""Records → lines of strict JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA = 2
NON_FINITE: tuple[tuple[str, float], ...] = (
    ("NaN", math.nan),
    ("Infinity", math.inf),
    ("-Infinity", -math.inf),
)
# What nests deeper, a container that holds itself above all, is kept as what it prints as.
_DEPTH = 50
_NUMBERS = frozenset((float, int))
_PLAIN = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def encode_row(kind: str, record: Mapping[str, Any] | DataclassInstance) -> bytes:
    r"""Return one line of the log, with its line break.

    Args:
        kind: Kind of the record.
        record: Its fields: a mapping or a dataclass instance of plain values.

    Example:
        >>> encode_row("step", {"step": 3, "loss": math.inf})
        b'{"kind":"step","step":3,"loss":"Infinity"}\n'
    """
    if isinstance(record, Mapping):
        return _encode({"kind": kind, **record})
    template, names, read = _template(kind, type(record))
    values = read(record)
    # Nearly every row is a step's, of numbers only: half of its time went into what isn't digits.
    if _NUMBERS.issuperset(map(type, values)):
        if not all(map(math.isfinite, values)):
            values = tuple(value if math.isfinite(value) else _Word(_word(value)) for value in values)
        return template % values
    return _encode({"kind": kind, **dict(zip(names, values, strict=True))})


def _encode(row: Mapping[str, Any]) -> bytes:
    try:
        # The encoder takes what is plain and refuses the rest: NaN, scalars of numpy, records inside,
        # containers that hold themselves.
        line = _PLAIN.encode(row)
    except (TypeError, ValueError, RecursionError):
        line = _PLAIN.encode(_plain(row, _DEPTH))
    return line.encode() + b"\n"


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class _Word(str):
    """A text that prints as JSON has it, in double quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f'"{self}"'


@lru_cache(maxsize=64)
def _template(
    kind: str, record: type[DataclassInstance]
) -> tuple[bytes, tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """Return the line of a record that has numbers only, the names of its fields, and what reads them."""
    names = _fields(record)
    words = [_PLAIN.encode(name).replace("%", "%%") for name in ("kind", kind, *names)]
    pairs = "".join(f",{name}:%a" for name in words[2:])
    return f"{{{words[0]}:{words[1]}{pairs}}}\n".encode(), names, _reader(names)


def _reader(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    # An attrgetter of one name returns no tuple, and one of none can't be made.
    return attrgetter(*names) if len(names) > 1 else lambda record: tuple(getattr(record, n) for n in names)


@lru_cache(maxsize=64)
def _fields(record: type[DataclassInstance]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(record))


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return _word(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if depth == 0:
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth - 1) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name), depth - 1) for name in _fields(type(value))}
    # Scalars of numpy and torch become numbers; of anything else the log keeps what it prints as.
    return _scalar(value, depth) if callable(getattr(value, "item", None)) else str(value)


def _scalar(value: Any, depth: int) -> Any:
    try:
        return _plain(value.item(), depth - 1)
    except (TypeError, ValueError, RuntimeError):  # an array of several numbers
        return str(value)
