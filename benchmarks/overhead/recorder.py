"""Measure what a recorder costs at rest: by its own clock, and in whole steps.

Run from the root of the repository::

    python -m benchmarks.overhead.recorder --case cnn-94k

A training of `run`, on mini-batches and at a tenth of its learning rate, so that there is no alarm. Blocks of
five steps with a snapshot in the first alternate with blocks without one, in **one** training: of two copies
in one process the slower one can be so by 3 %, whoever watches, for where their memory lies. So often
snapshots cost several percent, which is more than chance. What one costs in all – copies, what they displace
from the caches, the collector of garbage – is then divided by the steps from one to the next that a recorder
chooses for them, on a machine that does nothing else. All in processor time. At last a snapshot is written.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.overhead.cases import CASES, Batch, Case, Training, batches, two_copies
from benchmarks.overhead.summary import with_intervals

import foreshock

_BLOCK = 5  # steps; a snapshot in the first of them, or none
_WARM = 4  # pairs of blocks that are left out
AT_REST = 0.005
"""Part of the time that a recorder lets its snapshots take: half of `share`."""
_CALM = 0.1  # of the learning rate


class Switched(foreshock.Recorder):
    """A recorder that can be told to take no snapshots for some steps, and keeps the time of each."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.is_on, self.times = True, list[float]()

    def take(self, step: int, **about: Any) -> None:
        """Take a snapshot if one is due and it is switched on."""
        if self.is_on:
            before, began = self.summary().taken, time.process_time()
            super().take(step, **about)
            if self.summary().taken > before:
                self.times.append(time.process_time() - began)


@dataclass
class Run:
    """A training that is watched, step by step.

    Attributes:
        training: What is trained.
        seen: Its batches, in turn.
        monitor: Watches it.
        step: The next step.
    """

    training: Training
    seen: list[Batch]
    monitor: foreshock.Monitor
    step: int = field(default=0)

    def go_on(self, steps: int) -> float:
        """Train; return the processor time of it.

        Args:
            steps: How many steps.
        """
        optimizer, began = self.training.optimizer, time.process_time()
        for _ in range(steps):
            batch = self.seen[self.step % len(self.seen)]
            optimizer.zero_grad()
            loss = self.training.loss_fn(self.training.model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            self.monitor.observe(batch, loss)
            optimizer.step()
            self.step += 1
        return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=CASES, action="append", help="only this one; may be repeated")
    parser.add_argument("--steps", type=int, help="watched steps; as many as `run` takes if not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.case or CASES:
        sys.stdout.write(f"{name}: {measure(CASES[name], options.steps or CASES[name].steps)}\n")
        sys.stdout.flush()


def measure(case: Case, steps: int) -> str:
    """Return in words what a recorder costs.

    Args:
        case: What is trained.
        steps: Steps in blocks, half of them without snapshots.
    """
    with tempfile.TemporaryDirectory() as folder:
        recorder = Switched(every=_BLOCK)
        run = _begin(case, recorder, Path(folder, "run"))
        run.go_on(2 * _BLOCK)
        with_, without = [], []
        for pair in range(steps // (2 * _BLOCK)):
            for is_on in (True, False) if pair % 2 else (False, True):
                recorder.is_on = is_on
                (with_ if is_on else without).append(run.go_on(_BLOCK))
        size = recorder.summary().snapshot_bytes
        recorder.write(Path(folder), reason="to see what that takes")
        run.monitor.close()
        writing = recorder.summary().writing / len(recorder.summary().written)
    own = float(np.median(recorder.times[_WARM:]))
    words = in_words(np.array(with_[_WARM:]), np.array(without[_WARM:]), own=own)
    return f"a snapshot of {size / 2**20:.1f} MiB {words}; writing one takes a thread {1e3 * writing:.1f} ms"


def in_words(with_: np.ndarray, without: np.ndarray, *, own: float) -> str:
    """Return what a snapshot costs in whole steps, and what that is at rest.

    Args:
        with_: Seconds of blocks with a snapshot.
        without: Of those beside them.
        own: Seconds of a snapshot by itself.
    """
    step = float(without.mean()) / _BLOCK
    every = math.ceil(own / (AT_REST * step))

    def costs(chosen: np.ndarray) -> tuple[float, float]:
        longer = float((with_[chosen] - without[chosen]).mean())
        return 1e3 * longer, longer / (every * float(without[chosen].mean()) / _BLOCK)

    longer, share = with_intervals(costs, len(with_))
    return (
        f"takes {1e3 * own:.1f} ms by itself and makes a training {longer[0]:.1f} ms longer "
        f"({longer[1]:.1f} to {longer[2]:.1f}); at rest, one every {every} steps of {1e3 * step:.1f} ms, "
        f"that is {own / (every * step):.2%} and in all {share[0]:.2%} "
        f"({share[1]:.2%} to {share[2]:.2%}) of its time"
    )


def _begin(case: Case, recorder: foreshock.Recorder, folder: Path) -> Run:
    training, _ = two_copies(case)
    for group in training.optimizer.param_groups:
        group["lr"] *= _CALM
    given = training.model, training.optimizer, training.loss_fn
    monitor = foreshock.Monitor(*given, budget=0, run=folder, recorder=recorder)
    return Run(training, batches(case, full_batch=False), monitor)


if __name__ == "__main__":
    main()
