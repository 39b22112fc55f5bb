"""The files of other tools as rows: what was logged together, by name."""

from __future__ import annotations

import codecs
import csv
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foreshock.importers.records import tensorboard_rows, wandb_rows
from foreshock.runlog.folders import HEADER, rank_files

Rows = Iterator[dict[str, Any]]

_LONGEST_LINE = 2**20
_LARGEST_JSON = 2**29
_PATTERNS = ("trainer_state.json", "checkpoint-*/trainer_state.json", "events.out.tfevents.*", "*.wandb")
_TABLES = ("*.csv", "*.tsv", "*.jsonl", "*.ndjson", "*.db")
_FORMATS = "trainer_state.json, TensorBoard events, .wandb, a Trackio data base, .csv or .jsonl"
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS = (",", ";", "\t", "|")
_POINT = re.compile(r"\d\.\d")
_COMMA = re.compile(r"\s*[+-]?\d+,\d+(?:[eE][+-]?\d+)?\s*")


def find_source(source: Path) -> Path:
    """Return the file to read: the source itself, the newest one that its folder is known for, or its table.

    Args:
        source: A file, or the output folder of a training.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several tables, or it is a run of Foreshock itself.
    """
    if not source.is_dir():
        if not source.exists():
            raise FileNotFoundError(f"there is no {source}: give {_FORMATS}, or a folder that holds one")
        return source
    for pattern in _PATTERNS:
        found = [path for path in source.glob(pattern) if path.is_file()]
        if found:
            return max(found, key=lambda path: path.stat().st_mtime)
    if rank_files(source):
        raise ValueError(f"{source} is a run of Foreshock, which needs no import: foreshock report {source}")
    tables = sorted(path for pattern in _TABLES for path in source.glob(pattern) if path.is_file())
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables[:5])
        more = f" and {len(tables) - 5} more" if len(tables) > 5 else ""
        raise ValueError(f"{source} holds {len(tables)} files that could be meant, {names}{more}: name one")
    if tables:
        return tables[0]
    raise FileNotFoundError(f"{source} holds none of {', '.join((*_PATTERNS, *_TABLES))}: name the file")


def format_of(path: Path) -> str:
    """Return the format of a file, by its name and its first bytes.

    Args:
        path: The file.

    Raises:
        ValueError: If it is none that can be read.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(HEADER):
        raise ValueError(f"{path} is a log of Foreshock, which needs no import: foreshock report {path}")
    if head.startswith(b"SQLite format 3\0"):
        return "trackio"
    if "tfevents" in path.name:
        return "tensorboard"
    if path.suffix == ".wandb":
        return "wandb"
    known = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "trainer_state"}
    if path.suffix.lower() not in known:
        raise ValueError(f"the format of {path} is unknown: give {_FORMATS}")
    return known[path.suffix.lower()]


def rows_of(path: Path, kind: str, *, name: str | None = None) -> Rows:
    """Return the rows of a file, one after the other.

    Args:
        path: The file.
        kind: Its format, as `format_of` returns it.
        name: Which run of a data base that has several.

    Raises:
        ValueError: If the file is damaged, or of another format.
        ImportError: If a package that reads it is missing.
    """
    if kind == "trackio":
        return _trackio_rows(path, name)
    readers: dict[str, Callable[[Path], Rows]] = {
        "csv": _csv_rows,
        "jsonl": _jsonl_rows,
        "trainer_state": _trainer_rows,
        "tensorboard": tensorboard_rows,
        "wandb": wandb_rows,
    }
    return readers[kind](path)


def _encoding(path: Path) -> str:
    """Return how a text is encoded, by its first bytes: spreadsheets and PowerShell write UTF-16."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8-sig")


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding=_encoding(path), errors="replace", newline="") as file:
        while line := file.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise ValueError(f"{path} has a line of more than {_LONGEST_LINE} characters: no table")
            yield line.replace("\0", "")


def _csv_rows(path: Path) -> Rows:
    delimiter, with_comma = _form(path)
    lines = _lines(path)
    if next(_lines(path), "").startswith("sep="):
        next(lines)
    try:
        for row in csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True):
            found = {name.strip(): value for name, value in row.items() if isinstance(name, str)}
            yield {name: _with_point(value) for name, value in found.items()} if with_comma else found
    except csv.Error as error:
        raise ValueError(f"{path} can't be read as CSV: {error}") from error


def _form(path: Path) -> tuple[str, bool]:
    """Return what separates the columns of a table, and whether its numbers have a comma for a point.

    They have where the comma separates nothing and no number has a point, as in what a spreadsheet writes in
    half of Europe.
    """
    lines = _lines(path)
    head = next(lines, "")
    if head.startswith("sep=") and len(head) > len("sep="):  # a spreadsheet's own line
        delimiter = head[len("sep=")]
    else:
        delimiter = max(_DELIMITERS, key=head.count)
    return delimiter, delimiter != "," and not any(_POINT.search(line) for line in lines)


def _with_point(value: Any) -> Any:
    is_number = isinstance(value, str) and _COMMA.fullmatch(value)
    return value.replace(",", ".") if is_number else value


def _jsonl_rows(path: Path) -> Rows:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not line.endswith("\n"):
                return  # torn: it is being written
            raise ValueError(f"{path}, line {number}, is no JSON: {error}") from error
        if isinstance(row, dict):
            yield row


def _trainer_rows(path: Path) -> Rows:
    if path.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{path} has more than {_LARGEST_JSON >> 20} MiB: no trainer_state.json")
    try:
        state = json.loads(path.read_text(encoding=_encoding(path), errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    history = state.get("log_history") if isinstance(state, dict) else state
    if not isinstance(history, list):
        raise ValueError(f"{path} has no log_history: it is no trainer_state.json of transformers")
    yield from (row for row in history if isinstance(row, dict))


def _trackio_rows(path: Path, name: str | None) -> Rows:
    try:
        # Read only, so that a training that writes to it is not disturbed.
        base = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)
    except sqlite3.Error as error:
        raise ValueError(f"{path} can't be opened: {error}") from error
    try:
        names = [str(one) for (one,) in base.execute("SELECT DISTINCT run_name FROM metrics LIMIT 1000")]
        if name is None and len(names) > 1:
            raise ValueError(f"{path} has {len(names)} runs: choose one with --name: {', '.join(names[:20])}")
        if name is not None and name not in names:
            raise ValueError(f"{path} has no run {name!r}: it has {', '.join(names[:20]) or 'none'}")
        query = "SELECT step, metrics FROM metrics WHERE run_name = ? ORDER BY id"
        for step, text in base.execute(query, (name if name is not None else "".join(names),)):
            row = json.loads(text) if isinstance(text, (str, bytes)) else None
            if isinstance(row, dict):
                yield {**row, "step": step}
    except sqlite3.Error as error:
        raise ValueError(f"{path} is no data base of Trackio, or is damaged: {error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} holds metrics that are no JSON: {error}") from error
    finally:
        base.close()
