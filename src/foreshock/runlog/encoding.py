"""Records → lines of strict JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from functools import lru_cache
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
        row = {"kind": kind, **record}
    else:
        row = {"kind": kind, **{name: getattr(record, name) for name in _fields(type(record))}}
    try:
        # Nearly every row has finite numbers and short texts only, which the encoder takes as they are. It
        # refuses the rest: NaN, scalars of numpy, records inside, containers that hold themselves.
        line = _PLAIN.encode(row)
    except (TypeError, ValueError, RecursionError):
        line = _PLAIN.encode(_plain(row, _DEPTH))
    return line.encode() + b"\n"


@lru_cache(maxsize=64)
def _fields(record: type[DataclassInstance]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(record))


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
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
