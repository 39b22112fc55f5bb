"""Time a training with and without a watcher, in alternation.

Two copies of one model and its optimizer see the same batches in one process, on one thread: some steps of
the copy that nobody watches, some of the watched one, and so on; which comes first changes from pair to
pair. A machine that slows down thus slows both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.overhead.cases import Batch, Case, Training, batches, two_copies
from benchmarks.overhead.watchers import Watcher, Watching, nobody

CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}


@dataclass
class Timings:
    """Seconds of every step, on one clock.

    Attributes:
        block: Consecutive watched steps.
        plain_block: Consecutive steps of the plain copy.
        plain: Steps of the plain copy.
        passes: Of each of them, the forward and the backward pass.
        base: Watched steps without what is called between backward and step: forward, backward, update.
        observe: What is called there.
    """

    block: int
    plain_block: int
    plain: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)
    observe: list[float] = field(default_factory=list)


def alternate(
    case: Case,
    watcher: Watcher,
    folder: Path,
    *,
    full_batch: bool,
    steps: int,
    copies: tuple[Training, Training] | None = None,
) -> dict[str, Timings]:
    """Train both copies and return their timings by clock.

    Args:
        case: What is trained.
        watcher: Who watches the second copy.
        folder: Where the watcher may write.
        full_batch: Whether every step sees the same data.
        steps: Watched steps; rounded up to whole blocks.
        copies: The plain and the watched training; made from the case if None.
    """
    plain, watched = two_copies(case) if copies is None else copies
    seen = batches(case, full_batch=full_batch)
    found = {clock: Timings(case.block, case.plain_block) for clock in CLOCKS}
    watching = watcher.open(watched, folder)
    try:
        for pair in range(-(-steps // case.block)):
            sides = [
                _Side(plain, nobody(), pair * case.plain_block, case.plain_block, is_watched=False),
                _Side(watched, watching, pair * case.block, case.block, is_watched=True),
            ]
            for side in sides if pair % 2 == 0 else reversed(sides):
                side.run(seen, found)
    finally:
        watching.close()
    return found


@dataclass(frozen=True)
class _Side:
    """One block of steps of one copy."""

    training: Training
    watching: Watching
    first: int
    count: int
    is_watched: bool

    def run(self, seen: Sequence[Batch], found: dict[str, Timings]) -> None:
        for step in range(self.first, self.first + self.count):
            marks = self._step(seen[step % len(seen)])
            for place, timings in enumerate(found.values()):
                began, passed, observed, ended = (mark[place] for mark in marks)
                if self.is_watched:
                    timings.observe.append(observed - passed)
                    timings.base.append(ended - began - (observed - passed))
                else:
                    timings.plain.append(ended - began)
                    timings.passes.append(passed - began)

    def _step(self, batch: Batch) -> list[tuple[float, ...]]:
        model, optimizer = self.training.model, self.training.optimizer
        marks = [_now()]
        optimizer.zero_grad()
        loss = self.training.loss_fn(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        marks.append(_now())
        self.watching.observe(batch, loss)
        marks.append(_now())
        optimizer.step()
        marks.append(_now())
        return marks


def _now() -> tuple[float, ...]:
    return tuple(clock() for clock in CLOCKS.values())
