"""Logs that somebody damaged, by accident or on purpose: a seed makes the same ones each time."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Rows = list[bytes]
_RUNS = Path(__file__).parents[2] / "tests" / "runs"
# Records of kinds that the runs above don't have.
_MORE: tuple[dict[str, Any], ...] = (
    {"kind": "guard", "step": 30, "policy": "auto", "remedy": "cooldown", "reason": "too high"},
    {"kind": "event", "step": 31, "name": "non-finite loss", "message": "nan", "count": 3, "until": 33},
    {"kind": "noise", "step": 32, "mean": 0.4, "variance": 0.1, "noise_factor": 1.0},
    {"kind": "noise", "step": 40, "mean": 0.4, "variance": 0.1, "noise_factor": 1.0},
)
_TEXTS = (
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "../../../../etc/passwd",
    "\x1b]52;c;bWFsd2FyZQ==\x07\x1b[2J",
    "{{ 7 * 7 }}",
    "[/bold red]",
    "\ud800",
    "\u202etxt",
    "\x00",
    "a" * 5000,
    "NaN",
    "-Infinity",
    "header",
    "1e5",
    "",
)
_NUMBERS = (0, -1, 10**6, 2**31, 2**53, 2**53 + 1, 2**63, 10**30, 10**400, -(2**63), 1e308, 5e-324, 1.5)
_VALUES: tuple[Any, ...] = (None, True, [], {}, [1, 2], {"a": 1}, [[[]]], [{"name": 1}], *_TEXTS, *_NUMBERS)
_KINDS = ("header", "step", "curvature", "noise", "forecast", "alarm", "guard", "event")
_DEPTHS = (10, 59, 60, 61, 500, 990, 100_000)


def sound_log(schema: int) -> Rows:
    """Return the lines of a log that has each kind of record, short enough for thousands of reports.

    Args:
        schema: Schema of the log, 1 or 2.
    """
    header, *rows = (_RUNS / f"schema-{schema}.jsonl").read_bytes().splitlines(keepends=True)
    every = [row for row in rows if json.loads(row)["step"] < 60 or b'"kind":"step"' not in row]
    return [header, *every[:180], *(json.dumps(row).encode() + b"\n" for row in _MORE)]


def damaged(rows: Sequence[bytes], choose: random.Random) -> bytes:
    """Return a log with up to three kinds of damage.

    Args:
        rows: Lines of a sound log, the header first.
        choose: What draws the damage.
    """
    if choose.random() < 0.03:
        return bytes(choose.randrange(256) for _ in range(choose.choice((0, 1, 10, 2000))))
    found = list(rows)
    for _ in range(choose.choice((1, 1, 2, 3))):
        found = choose.choice(_DAMAGES)(found, choose) or found
    return b"".join(found)


def _edited(rows: Rows, place: int, edit: Callable[[dict[str, Any]], object]) -> None:
    try:
        row = json.loads(rows[place])
        edit(row)
        rows[place] = json.dumps(row).encode() + b"\n"
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError):
        pass  # a line that was damaged before


def _replace(row: dict[str, Any], choose: random.Random) -> None:
    """Replace, or take out, a field of a row, or one of a list or a mapping in it."""
    name = choose.choice(list(row))
    inner = row[name]
    if isinstance(inner, list) and inner and choose.random() < 0.5:
        inner = inner[0]
    if isinstance(inner, dict) and inner and choose.random() < 0.7:
        row, name = inner, choose.choice(list(inner))
    if choose.random() < 0.15:
        row.pop(name)
    else:
        row[name] = choose.choice(_VALUES)


def _fields(rows: Rows, choose: random.Random) -> Rows:
    for _ in range(choose.choice((1, 3, 20))):
        _edited(rows, choose.randrange(len(rows)), lambda row: _replace(row, choose))
    return rows


def _one_field_everywhere(rows: Rows, choose: random.Random) -> Rows:
    kind, value, names = choose.choice(_KINDS), choose.choice(_VALUES), []

    def edit(row: dict[str, Any]) -> None:
        if row["kind"] == kind:
            names.append(names[0] if names else choose.choice(list(row)))
            row[names[0]] = value

    for place in range(len(rows)):
        _edited(rows, place, edit)
    return rows


def _kinds(rows: Rows, choose: random.Random) -> Rows:
    for _ in range(choose.choice((1, 5))):
        kind = choose.choice((*_VALUES, *_KINDS))
        _edited(rows, choose.randrange(len(rows)), lambda row, kind=kind: row.update(kind=kind))
    return rows


def _steps(rows: Rows, choose: random.Random) -> Rows:
    same = choose.random() < 0.2
    for place in range(len(rows)) if same else choose.choices(range(len(rows)), k=choose.choice((1, 5, 50))):
        step = 7 if same else choose.choice((*_NUMBERS, *_VALUES, choose.randrange(10**15)))
        _edited(rows, place, lambda row, step=step: row.update(step=step))
    return rows


def _not_finite(rows: Rows, choose: random.Random) -> Rows:
    def edit(row: dict[str, Any]) -> None:
        for name in [name for name, value in row.items() if isinstance(value, float)]:
            row[name] = choose.choice(("NaN", "Infinity", "-Infinity", None))

    for place in range(len(rows)):
        if choose.random() < 0.3:
            _edited(rows, place, edit)
    return rows


def _order(rows: Rows, choose: random.Random) -> Rows:
    header, *rest = rows
    choose.shuffle(rest)
    return [header, *rest] if choose.random() < 0.7 else [*rest, header]


def _copies(rows: Rows, choose: random.Random) -> Rows:
    place, other = choose.randrange(len(rows)), choose.randrange(len(rows) + 1)
    return [*rows[:other], *[rows[place]] * choose.choice((1, 10)), *rows[other:]]


def _missing(rows: Rows, choose: random.Random) -> Rows:
    return [row for row in rows if choose.random() > choose.choice((0.02, 0.5))]


def _bytes(rows: Rows, choose: random.Random) -> Rows:
    content = bytearray(b"".join(rows))
    for _ in range(choose.choice((1, 5, 100)) if content else 0):
        content[choose.randrange(len(content))] = choose.randrange(256)
    return bytes(content).splitlines(keepends=True)


def _cut(rows: Rows, choose: random.Random) -> Rows:
    content = b"".join(rows)
    return content[: choose.randrange(len(content) + 1)].splitlines(keepends=True)


def _header(rows: Rows, choose: random.Random) -> Rows:
    _edited(rows, 0, lambda row: _replace(row, choose))
    name = choose.choice(("name", "description", "optimizer", "guard", "steps", "x<script>", "\x1b[2J"))
    _edited(rows, 0, lambda row: row["meta"].update({name: choose.choice(_VALUES)}))
    return rows


def _another_header(rows: Rows, choose: random.Random) -> Rows:
    place = choose.randrange(len(rows) + 1)
    header = choose.choice((rows[:1], [b'{"kind":"header","schema":1,"meta":{}}\n'], [rows[0][:-5] + b"\n"]))
    return [*rows[:place], *header, *rows[place:]]


def _nested(rows: Rows, choose: random.Random) -> Rows:
    depth = choose.choice(_DEPTHS)
    begin, end = choose.choice((("[", "]"), ('{"a":', "}")))
    line = choose.choice(
        (
            '{"kind":"step","step":1,"loss":%s}',
            '{"kind":"event","step":1,"name":"a","message":%s}',
            '{"kind":"alarm","step":1,"forecast":{"a":%s}}',
            '{"kind":"header","schema":2,"meta":{"a":%s}}',
            "%s",
        )
    )
    value = begin * depth + ("1" if begin != "[" else "") + end * depth
    place = choose.randrange(len(rows) + 1)
    return [*rows[:place], (line % value).encode() + b"\n", *rows[place:]]


def _twice_named(rows: Rows, choose: random.Random) -> Rows:
    line = b'{"kind":"step","step":1,"step":"x","loss":1,"loss":[1],"kind":"step"}\n'
    return [*rows[:1], line, *rows[1:]]


_DAMAGES: tuple[Callable[[Rows, random.Random], Rows], ...] = (
    _fields,
    _fields,
    _fields,
    _one_field_everywhere,
    _kinds,
    _steps,
    _not_finite,
    _order,
    _copies,
    _missing,
    _bytes,
    _cut,
    _header,
    _another_header,
    _nested,
    _twice_named,
)
