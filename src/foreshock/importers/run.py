"""Rows of another tool → a run log."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreshock.importers.columns import Columns, guess_columns
from foreshock.importers.files import Rows, find_source, format_of, rows_of
from foreshock.representation import short_line
from foreshock.runlog import RunLogWriter
from foreshock.runlog.decoding import is_count
from foreshock.words import count

_MOST_COLUMNS = 10_000
_MOST_ROWS = 5_000_000
_CHUNK = 1000
_SHOWN = 40  # characters of a step that is none


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        path: The run log.
        source: The file that was read.
        format: Its format.
        columns: The columns that were taken.
        steps: Steps that the run log has.
        replaced: Rows of a step that came again later, as after a resume: the last counts.
        without_loss: Rows without a loss, such as those of an evaluation.
        without_step: Rows with a loss whose step is no whole number from zero on: they are left out.
        odd_step: The first such step as it was logged; empty without one.
        names: All columns with numbers, the most frequent first.
    """

    path: Path
    source: Path
    format: str
    columns: Columns
    steps: int
    replaced: int
    without_loss: int
    without_step: int
    names: tuple[str, ...]
    odd_step: str = ""


def import_run(
    source: str | os.PathLike[str],
    run: str | os.PathLike[str],
    *,
    columns: Mapping[str, str | None] | None = None,
    name: str | None = None,
) -> Imported:
    r"""Import the log of another tool, so that `read_run`, the report and explanations work on it.

    The run has the loss of each step, and the learning rate and the gradient norm of that step if there are
    any. Curvature, lag and forecasts are absent.

    Args:
        source: ``trainer_state.json`` of transformers, an event file of TensorBoard, a ``.wandb`` file, a
            data base of Trackio, a CSV or JSONL file; or a folder that holds one. A table may be separated by
            commas, semicolons, tabs or bars, and be in UTF-16.
        run: Folder of the run log to make.
        columns: Names of ``loss``, ``step``, ``learning_rate`` and ``gradient_norm`` where they are not to be
            guessed.
        name: Which run of a data base that has several.

    Returns:
        What was imported, from which columns, and where the log is.

    Raises:
        OSError: If a file can't be read or written.
        ValueError: If the source is damaged or unknown, or has no training loss.
        ImportError: If a package that reads it is missing.

    Example:
        >>> import pathlib, tempfile, foreshock
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "log.csv").write_text("step,loss,lr\n0,2.5,0.1\n1,2.0,0.1\n")
        >>> import_run(folder / "log.csv", folder / "run").columns.learning_rate
        'lr'
        >>> foreshock.read_run(folder / "run").column("step", "loss").tolist()
        [2.5, 2.0]
    """
    path = find_source(Path(source))
    kind = format_of(path)
    counts = _count(rows_of(path, kind, name=name), path)
    chosen = guess_columns(counts, given=columns)
    values = _Values(chosen)
    for row in rows_of(path, kind, name=name):
        values.take(row)
    order = values.steps()
    if not order:
        raise ValueError(_why_none(path, chosen, values))
    meta = {"name": Path(run).name, "imported_from": path.name, "imported_format": kind}
    log = RunLogWriter(run, meta=meta)
    try:
        for begin in range(0, len(order), _CHUNK):
            log.write_many([("step", values.record(step)) for step in order[begin : begin + _CHUNK]])
    finally:
        log.close()
    return Imported(
        path=log.path,
        source=path,
        format=kind,
        columns=chosen,
        steps=len(order),
        replaced=values.with_loss - len(order),
        without_loss=values.without_loss,
        without_step=values.without_step,
        names=tuple(one for one, _ in counts.most_common()),
        odd_step=values.odd_step,
    )


def _why_none(path: Path, columns: Columns, values: _Values) -> str:
    """Return why nothing was imported."""
    if not values.without_step:
        return f"{path} has no row with both a loss ({columns.loss!r}) and a step ({columns.step!r})"
    rows = count(values.without_step, "row")
    return (
        f"{path} has {rows} with a loss ({columns.loss!r}), but no step ({columns.step!r}) that is a whole "
        f"number from 0 on: the first is {values.odd_step or 'empty'}; name another column with --step"
    )


def as_value(value: Any) -> float | None:
    """Return a logged value as a number; None if it is none. ``"NaN"`` is a number, an empty cell is none.

    Args:
        value: Anything.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return float(value) if value.bit_length() < 1024 else None
    if isinstance(value, float):
        return value
    if isinstance(value, str) and 0 < len(value) < 50:
        try:
            return float(value)
        except ValueError:
            return None
    return None


def _count(rows: Rows, path: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for number, row in enumerate(rows):
        if number == _MOST_ROWS:
            raise ValueError(f"{path} has more than {_MOST_ROWS} rows")
        for name, value in row.items():
            if as_value(value) is not None and (name in counts or len(counts) < _MOST_COLUMNS):
                counts[name] += 1
    return counts


class _Values:
    """The values of a run by step; what is logged in several rows of a step belongs together."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._by_step: dict[str, dict[int, float]] = {
            name: {} for name in ("loss", "learning_rate", "gradient_norm")
        }
        self.with_loss = self.without_loss = self.without_step = 0
        self.odd_step = ""

    def take(self, row: Mapping[str, Any]) -> None:
        found = {name: self._value(row, name) for name in self._by_step}
        has_loss = found["loss"] is not None
        self.without_loss += not has_loss
        step = self._step(row)
        if step is None:
            self.without_step += has_loss
            if has_loss and not self.odd_step:
                self.odd_step = short_line(str(row.get(self._columns.step or "") or ""))[:_SHOWN]
            return
        self.with_loss += has_loss
        for name, value in found.items():
            if value is not None:
                self._by_step[name][step] = value

    def _value(self, row: Mapping[str, Any], name: str) -> float | None:
        column = getattr(self._columns, name)
        return None if column is None else as_value(row.get(column))

    def _step(self, row: Mapping[str, Any]) -> int | None:
        if self._columns.step is None:
            return self.with_loss
        step = as_value(row.get(self._columns.step))
        whole = step is not None and math.isfinite(step) and step.is_integer() and is_count(int(step))
        return int(step) if whole and step is not None else None

    def steps(self) -> list[int]:
        """Return the steps that have a loss, in order."""
        return sorted(self._by_step["loss"])

    def record(self, step: int) -> dict[str, Any]:
        """Return what is known of a step, and nothing else."""
        known = {name: values[step] for name, values in self._by_step.items() if step in values}
        return {"step": step, **known}
