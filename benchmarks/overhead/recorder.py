"""Measure what a recorder costs at rest: by its own clock, and in whole steps beside a monitor without one.

Run from the root of the repository, on a machine that does little else::

    python -m benchmarks.overhead.recorder --case cnn-94k

Each training is that of `run`, on mini-batches. Two copies of it train in alternation in one process, both
with a monitor that measures nothing, and one with a recorder. What is compared is processor time, so that
others on the machine matter little: the median over blocks shows what a step without a snapshot costs more
– caches, attributes, the collector of garbage –, the mean counts the snapshots as well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from benchmarks.overhead.cases import CASES, Case, Training
from benchmarks.overhead.measure import Timings, alternate
from benchmarks.overhead.summary import blocks_of, with_intervals
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
        sys.stdout.flush()


def measure(case: Case, steps: int) -> str:
    """Return in words what a recorder costs.

    Args:
        case: What is trained.
        steps: Watched steps.
    """
    recorder, said = foreshock.Recorder(), list[str]()
    summary = lambda: said.append(str(recorder.summary()))  # noqa: E731 - before its memory is given back
    case = replace(case, plain_block=case.block)
    with tempfile.TemporaryDirectory() as folder:
        found = alternate(
            case,
            Watcher("recorder", _open(recorder, summary), 0.0),
            Path(folder),
            full_batch=False,
            steps=steps,
            beside=Watcher("monitor", _open(None, lambda: None), 0.0),
        )
    return f"{said[0]}; {compare(found['processor'])}"


def compare(timings: Timings) -> str:
    """Return in words what whole steps cost more, the first ones left out.

    Args:
        timings: Of both copies, in blocks of the same length.
    """
    blocks, first = blocks_of(timings)
    watched = np.add(timings.base, timings.observe).reshape(blocks, -1).sum(axis=1)
    plain = np.array(timings.plain).reshape(blocks, -1).sum(axis=1)
    watched, plain = watched[first:], plain[first:]

    def more(chosen: np.ndarray) -> tuple[float, float]:
        ratios = watched[chosen] / plain[chosen]
        return float(np.median(ratios)) - 1, float(watched[chosen].sum() / plain[chosen].sum()) - 1

    found = with_intervals(more, len(plain))
    words = [
        f"{value:+.2%} ({low:+.2%} to {high:+.2%}) in {name}"
        for (value, low, high), name in zip(found, ("the median block", "the mean"), strict=True)
    ]
    return f"whole steps beside a monitor without one, processor time: {', '.join(words)}"


def _open(
    recorder: foreshock.Recorder | None, before_close: Callable[[], object]
) -> Callable[[Training, Path], Watching]:
    def open_(training: Training, folder: Path) -> Watching:
        given = training.model, training.optimizer, training.loss_fn
        monitor = foreshock.Monitor(*given, budget=0, run=folder, recorder=recorder)

        def close() -> None:
            before_close()
            monitor.close()

        return Watching(monitor.observe, close)

    return open_


if __name__ == "__main__":
    main()
