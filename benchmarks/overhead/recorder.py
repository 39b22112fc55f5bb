"""Measure what a recorder costs at rest: its own time, by its own clock, and the memory of its snapshots.

Run from the root of the repository, on a machine that does little else::

    python -m benchmarks.overhead.recorder --case cnn-94k

Each training is that of `run`, on mini-batches, with a monitor that measures nothing. Whole steps with and
without a recorder are in the table that `run` makes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from benchmarks.overhead.cases import CASES, Case, Training
from benchmarks.overhead.measure import alternate
from benchmarks.overhead.watchers import Watcher, Watching

import foreshock


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


def measure(case: Case, steps: int) -> str:
    """Return in words what the recorder says of itself after a training.

    Args:
        case: What is trained.
        steps: Watched steps.
    """
    recorder, said = foreshock.Recorder(), []

    def open_(training: Training, folder: Path) -> Watching:
        given = training.model, training.optimizer, training.loss_fn
        monitor = foreshock.Monitor(*given, budget=0, run=folder, recorder=recorder)

        def close() -> None:
            said.append(str(recorder.summary()))  # before its memory is given back
            monitor.close()

        return Watching(monitor.observe, close)

    with tempfile.TemporaryDirectory() as folder:
        alternate(case, Watcher("recorder", open_, 0.0), Path(folder), full_batch=False, steps=steps)
    return said[0]


if __name__ == "__main__":
    main()
