"""A line of a log → a header or a record; None for what is neither.

Whoever wrote the line: what passes has values of the types that the rest of Foreshock takes, is nested no
deeper than it can follow, and has the names of the present schema.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from foreshock.runlog.encoding import NON_FINITE
from foreshock.runlog.rows import Shape

# Fields that are numbers, or null, in all that a report draws: a line that has something else there was
# damaged or written by hand, and one such line must not cost the reader all others.
_NUMBERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "step": ("loss", "instant_lag", "lag_ratio", "decay_exponent"),
        "curvature": (
            "stability_ratio",
            "error_bound",
            "gradient_stability_ratio",
            "update_stability_ratio",
            "alignment",
            "products",
            "seconds",
        ),
        "forecast": (
            "stability_ratio",
            "steps_to_instability",
            "interval_low",
            "interval_high",
            "mean_square_ratio",
            "typical_mean_square_ratio",
            "lag",
        ),
    }
)
LAST_STEP = 2**53
"""The largest step that a page can count to: its numbers are those of JavaScript."""
_DEPTH = 60
_WAYS = 100  # of which texts of a shape are numbers
_SHAPES = 10_000  # the shapes remembered: records have a few dozen, a file made to have more is read slowly
_WORDS: Mapping[str, float] = MappingProxyType(dict(NON_FINITE))


@dataclass(frozen=True, slots=True)
class Header:
    """A header.

    Attributes:
        row: Its fields; `schema` is a count and `meta` a mapping.
    """

    row: dict[str, Any]


class RowDecoder:
    """Decode lines; what was found out about the shape of one record holds for all others that have it."""

    def __init__(self) -> None:
        self._scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
        self._known: dict[tuple[str, tuple[str, ...], tuple[type, ...]], _Check] = {}

    def decode(self, line: bytes, *, old: bool) -> Header | tuple[Shape, dict[str, Any]] | None:
        """Return what a line holds: a header, or the shape of a record and its fields but the kind.

        None if it can't be read.

        Args:
            line: The line, with its line break.
            old: Whether a record may be of schema 1.
        """
        row = self._parse(line)
        if row is None:
            return None
        kind = row.pop("kind", None)
        if type(kind) is not str:
            return None
        if kind == "header":
            return Header(row) if _is_header(row) else None
        try:
            return self._row(kind, row, old=old)
        except (ValueError, OverflowError):  # nested too deep, or a number that no float can hold
            return None

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        if not line.endswith(b"\n"):
            return None
        try:
            text = line.decode()
            row, end = self._scan(text, 0)
            if end != len(text) - 1 and text[end:].strip():
                return None
            if b"\\u" in line and b"\\ud" in line.lower():
                # JSON can spell half of a surrogate pair, which no file and no terminal takes.
                row = json.loads(json.dumps(row, ensure_ascii=False).encode(errors="replace"))
        except (ValueError, RecursionError, StopIteration):
            return None
        return row if type(row) is dict else None

    def _row(self, kind: str, row: dict[str, Any], *, old: bool) -> tuple[Shape, dict[str, Any]] | None:
        check = self._check(kind, row)
        if not (check.fits and 0 <= row["step"] <= LAST_STEP):
            return None
        if check.plain and not old:
            return check.shape, row
        words = tuple(name for name in check.texts if row[name] in _WORDS)
        for name in words:
            row[name] = _WORDS[row[name]]
        if not all(name in words for name in check.numbers):
            return None
        changed = [name for name in check.integers if row[name].bit_length() >= 64]
        for name in changed:
            row[name] = float(row[name])
        for name in check.containers:
            row[name] = _decoded(row[name], _DEPTH)
        if check.containers and kind == "curvature" and not _are_blocks(row.get("blocks")):
            return None
        if kind == "event" and not all(is_count(row[name]) for name in ("count", "until") if name in row):
            return None
        if old:
            _upgrade_from_1(kind, row)
        if old or changed:
            return self._check(kind, row).shape, row
        shape = check.after.get(words)
        if shape is None:
            shape = self._check(kind, row).shape
            if len(check.after) < _WAYS:
                check.after[words] = shape
        return shape, row

    def _check(self, kind: str, row: Mapping[str, Any]) -> _Check:
        key = kind, tuple(row), tuple(map(type, row.values()))
        check = self._known.get(key)
        if check is None:
            check = _Check.of(Shape(*key))
            if len(self._known) < _SHAPES:
                self._known[key] = check
        return check


@dataclass(frozen=True, slots=True)
class _Check:
    """What has to be looked at in each record of a shape, and whether such records can be read at all.

    `numbers` are the texts that must stand for a number; `after` is the shape that records have once those
    texts are numbers that stand for one, by their names.
    """

    shape: Shape
    fits: bool
    plain: bool
    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    integers: tuple[str, ...]
    containers: tuple[str, ...]
    after: dict[tuple[str, ...], Shape]

    @classmethod
    def of(cls, shape: Shape) -> _Check:
        kind, types = shape.kind, dict(zip(shape.names, shape.types, strict=True))
        numbers = _NUMBERS.get(kind, ())
        fits = types.get("step") is int and kind not in _WORDS
        # A text may be one of the three that stand for a number.
        fits &= all(types.get(name, float) in (float, int, type(None), str) for name in numbers)
        fits &= kind != "alarm" or types.get("forecast", dict) in (dict, type(None))
        fits &= kind != "curvature" or types.get("blocks", list) in (list, type(None))
        of_type = {
            found: tuple(name for name, one in types.items() if one is found and name != "step")
            for found in (str, int, dict, list)
        }
        plain = not any(of_type.values())
        texts, containers = of_type[str], of_type[dict] + of_type[list]
        must = tuple(name for name in texts if name in numbers)
        return cls(shape, fits, plain, must, texts, of_type[int], containers, {})


def is_count(value: Any) -> bool:
    """Return whether a value is an integer that can be a step.

    Args:
        value: Anything.
    """
    return type(value) is int and 0 <= value <= LAST_STEP


def _is_header(row: Mapping[str, Any]) -> bool:
    try:
        _decoded(row, _DEPTH)
    except (ValueError, RecursionError):
        return False
    return is_count(row.get("schema")) and row["schema"] >= 1 and isinstance(row.get("meta"), dict)


def _are_blocks(blocks: Any) -> bool:
    return blocks is None or all(
        isinstance(block, dict) and "name" in block and "share" in block and _is_number(block["share"])
        for block in blocks
    )


def _is_number(value: Any) -> bool:
    # JSON's integers have no end; those that no float can hold are no measurement.
    return value is None or type(value) is float or (type(value) is int and value.bit_length() < 1024)


def _decoded(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _WORDS.get(value, value)
    if not isinstance(value, (dict, list)):
        return value
    if depth == 0:
        raise ValueError("a value is nested too deep")
    if isinstance(value, dict):
        return {key: _decoded(item, depth - 1) for key, item in value.items()}
    return [_decoded(item, depth - 1) for item in value]


def _upgrade_from_1(kind: str, row: dict[str, Any]) -> None:
    """Give a row of schema 1 the names and meanings of schema 2; see the table of this package.

    Which rows are of schema 1 shows in their fields; those of schema 2 stay as they are.
    """
    if kind == "step" and "lag_ratio" in row:
        ratio = row.pop("lag_ratio")
        row["instant_lag"] = None if ratio is None else 1 / ratio if ratio else math.inf
    elif kind in ("forecast", "alarm"):
        forecast = row if kind == "forecast" else row.get("forecast") or {}
        forecast.pop("reverse_lag", None)
        if "mean_square_ratio" in forecast and "typical_mean_square_ratio" not in forecast:
            # What now has that name can't be had from the geometric mean that was logged.
            forecast["typical_mean_square_ratio"] = forecast["mean_square_ratio"]
            forecast["mean_square_ratio"] = math.nan
    elif kind == "guard" and row.get("remedy") == "stand aside":
        row["remedy"] = "cooldown"
