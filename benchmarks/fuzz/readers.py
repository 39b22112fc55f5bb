"""What becomes of a damaged file in all that reads it: it is read, or refused in words."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from benchmarks.fuzz.logs import damaged, sound_log
from benchmarks.fuzz.pages import complaints, scripts_of
from benchmarks.fuzz.states import OPTIMIZERS, damaged_checkpoint, loss_fn, made, sound_checkpoint

from foreshock import preconditioned_sharpness
from foreshock.cli.checkpoints import Trainable, load_checkpoint
from foreshock.report import summarise, to_text, write_html, write_picture
from foreshock.runlog import Run, RunLogWriter, read_run

LARGEST_PAGE = 400_000
"""Bound on the bytes of a page of these logs, which have 200 records; 96,000 if nothing is damaged."""

_RESUMED = {"step": 10**6, "loss": 0.25}
# What ``foreshock curvature`` reports as one line.
_DOCUMENTED = (ImportError, OSError, TypeError, ValueError, RuntimeError, FloatingPointError)


_SQUARES = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "row_var", "col_var", "variance", "sum")
_MOMENTS = {*_SQUARES, "exp_avg", "momentum_buffer", "grad_avg"}


class BrokenPromiseError(AssertionError):
    """A file was read in another way than promised."""


class LogReader:
    """Read damaged logs in all ways that there are.

    Args:
        folder: Where files may be written.
        pages: Every so many logs a page is made.
        pictures: Every so many logs a picture is made.
    """

    def __init__(self, folder: Path, *, pages: int = 10, pictures: int = 100) -> None:
        self._folder, self._pages, self._pictures = folder, pages, pictures
        self._sound = [sound_log(schema) for schema in (1, 2)]
        self.counts: Counter[str] = Counter()
        self.largest = 0
        self._write(b"".join(self._sound[1]))
        self._scripts = scripts_of(self._page(read_run(folder)))

    def case(self, number: int) -> None:
        """Draw a log, and read it.

        Args:
            number: Number of the case: its seed.

        Raises:
            BrokenPromiseError: With what was promised and isn't so.
            Exception: Whatever escapes from a reader.
        """
        choose = random.Random(number)
        content = damaged(choose.choice(self._sound), choose)
        self._write(content)
        self.counts["logs"] += 1
        outcome = self._outcome(content, number)
        self.counts[f"logs {outcome}"] += 1

    def _write(self, content: bytes) -> None:
        (self._folder / "rank0.jsonl").write_bytes(content)

    def _outcome(self, content: bytes, number: int) -> str:
        try:
            run = read_run(self._folder)
        except ValueError as error:  # one line of the command
            _require(str(self._folder) in str(error), f"an error that does not name the file: {error}")
            return "refused"
        finally:
            if number % 3 == 0:
                self._resume()
        _require_order(run, content)
        text = to_text(summarise(run))
        _require(text.replace("\n", "").isprintable(), "a text with what a terminal obeys")
        if number % self._pages == 0:
            page = self._page(run)
            found = complaints(page, scripts=self._scripts)
            _require(not found, f"a page with {found[:3]}")
            _require(len(page) <= LARGEST_PAGE, f"a page of {len(page)} bytes")
            self.counts["pages"] += 1
            self.largest = max(self.largest, len(page))
        if number % self._pictures == 0:
            self._picture(run)
        return "read"

    def _picture(self, run: Run) -> None:
        try:
            write_picture(run, self._folder / "run.svg")
        except ValueError as error:  # one line of the command
            _require("no losses" in str(error), f"no picture: {error}")
        else:
            self.counts["pictures"] += 1

    def _page(self, run: Run) -> str:
        page = write_html([run], self._folder / "report.html").read_bytes()
        return page.decode()

    def _resume(self) -> None:
        """Go on with the run, as a monitor would after its state was loaded."""
        writer = RunLogWriter(self._folder)
        writer.resume(10**6)
        writer.write("step", _RESUMED)
        writer.close()
        written = read_run(writer.path) if _is_readable(writer.path) else None
        rows = [] if written is None else [row for row in written.records["step"] if row["step"] == 10**6]
        _require(written is None or _RESUMED | {"kind": "step"} in rows, "a resumed run without its new step")
        self.counts["logs resumed"] += 1
        if writer.path.parent != self._folder:
            writer.path.unlink()
            writer.path.parent.rmdir()


def _is_readable(path: Path) -> bool:
    try:
        read_run(path)
    except ValueError as error:  # of a newer schema
        _require("upgrade" in str(error), str(error))
        return False
    return True


def _require_order(run: Run, content: bytes) -> None:
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    known = run.skipped + run.obsolete + sum(map(len, run.records.values()))
    _require(known <= lines, f"{known} lines of {lines}")
    for kind, rows in run.records.items():
        steps = run.steps(kind)
        _require(bool((steps[1:] >= steps[:-1]).all()), f"records of {kind} out of order")
        _require([row["kind"] for row in rows] == [kind] * len(steps), f"records of {kind} that are not")
    repr(run).encode()


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise BrokenPromiseError(words)


class CheckpointReader:
    """Read damaged checkpoints as ``foreshock curvature`` does.

    Args:
        folder: Where files may be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "last.pt"
        self._sound = {name: sound_checkpoint(name) for name in OPTIMIZERS}
        self._batch = torch.linspace(-1, 1, 24).reshape(8, 3)
        self.counts: Counter[str] = Counter()

    def case(self, number: int) -> None:
        """Draw a checkpoint, read it, and measure with it if it was not refused.

        Args:
            number: Number of the case: its seed.

        Raises:
            BrokenPromiseError: If a number came of a state that no optimizer has.
            Exception: Whatever escapes, of a type that the command does not take for an error.
        """
        choose = random.Random(number)
        name = choose.choice(list(OPTIMIZERS))
        self._path.write_bytes(damaged_checkpoint(self._sound[name], choose))
        self.counts["checkpoints"] += 1
        model, optimizer = made(name)
        try:
            load_checkpoint(self._path, Trainable(model, loss_fn, optimizer))
        except (OSError, ValueError) as error:
            _require(str(self._path) in str(error), f"an error that does not name the file: {error}")
            self.counts["checkpoints refused"] += 1
            return
        self.counts["checkpoints read"] += 1
        try:
            reading = preconditioned_sharpness(model, optimizer, loss_fn, self._batch)
        except _DOCUMENTED:
            self.counts["checkpoints read, not measured"] += 1
            return
        _require(
            _is_sane(model, optimizer, self._sound[name]), f"{name}: a ratio of {reading.stability_ratio}"
        )


def _is_sane(model: torch.nn.Module, optimizer: torch.optim.Optimizer, sound: dict[str, Any]) -> bool:
    """Return whether weights and moments are finite, and second moments not negative."""
    values = [("weight", value) for value in model.state_dict().values()]
    for place, parameter in enumerate(optimizer.param_groups[0]["params"]):
        moments = sound["optimizer"]["state"][place].keys() & _MOMENTS
        values += [(name, optimizer.state[parameter][name]) for name in moments]
    return all(
        value.layout == torch.strided
        and bool(torch.isfinite(value).all())
        and (name not in _SQUARES or bool((value >= 0).all()))
        for name, value in values
    )
