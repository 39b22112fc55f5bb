"""Two trainings that spike by themselves, each with a guard and without, as a figure and a table.

Run it as ``python -m foreshock.lab.guardbench.illustration FILE``: it draws FILE and prints the table. The
full batch is guarded by the secant alone, mini-batches also by pairs of half-batch gradients. The figure
shows one training of each, the table counts over five from slightly different weights: near the edge rounding
alone leads to another run, on another processor too.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.demo.threads import one_thread
from foreshock.guarding import Guard, guard
from foreshock.lab.tasks import OptimizerConfig, Step, Training, TrainingConfig, perturb_weights
from foreshock.report.appearance import BLUE, QUIET, RED, dress, label
from foreshock.report.drawing import figure_class, save_figure
from foreshock.spikes import SpikeDefinition, detect_spikes

_STARTS = 5
_SMOOTHING = 5
_PASSES = 2  # of one measurement: two gradients of each half of a batch


@dataclass(frozen=True)
class GuardedRun:
    """The same training twice.

    Attributes:
        name: What is trained, in words.
        plain: Losses without a guard, shape (n,); of mini-batches their mean over five steps.
        guarded: Losses with one.
        acted: Steps on which the guard acted.
        share: Their share.
        passes: Forward and backward passes that measuring pairs took, per step.
    """

    name: str
    plain: NDArray[np.float64]
    guarded: NDArray[np.float64]
    acted: tuple[int, ...]
    share: float
    passes: float

    def spikes(self, factor: float) -> tuple[int, int]:
        """Return how many spikes exceed `factor` × the median of 100 steps, without and with the guard."""
        plain, guarded = (
            len(detect_spikes(range(len(one)), one.tolist(), SpikeDefinition(factor=factor)))
            for one in (self.plain, self.guarded)
        )
        return plain, guarded

    @property
    def loss_ratio(self) -> float:
        """Geometric mean of the loss over the second half of training, guarded ÷ plain."""
        half = len(self.plain) // 2
        return float(np.exp(np.log(self.guarded[half:]).mean() - np.log(self.plain[half:]).mean()))


def compare(
    name: str, *, batch_size: int | None, steps: int, seed: int = 0, start: int = 0, **options: Any
) -> GuardedRun:
    """Train a fully connected network with Adam at η = 0.01, with ``foreshock.guard(optimizer)`` and without.

    Args:
        name: What it is, in words.
        batch_size: Points in a batch; None for all.
        steps: Steps of training, at least 200.
        seed: Seed of the weights and of the order of the points.
        start: Number of the start; all but the first begin with weights × (1 + 1e-6 ε), ε normal.
        **options: Options of the family ``mlp``.
    """
    config = TrainingConfig(name, "mlp", OptimizerConfig("adam", 0.01), steps, batch_size, options)
    losses, watched, spent = [], None, 0
    for guarded in (False, True):
        training = Training(config, seed)
        perturb_weights(training.model, start)
        watched = guard(training.optimizer, max_actions=steps) if guarded else None
        trail, spent = _train(training, watched)
        smooth = np.ones(_SMOOTHING) / _SMOOTHING if batch_size is not None else np.ones(1)
        losses.append(np.convolve(trail, smooth)[:steps])
    actions = () if watched is None else watched.actions
    acted = tuple(dict.fromkeys(one.step for one in actions if one.changes_something))
    return GuardedRun(name, losses[0], losses[1], acted, len(acted) / steps, _PASSES * spent / steps)


def _train(training: Training, watched: Guard | None) -> tuple[list[float], int]:
    spent = 0

    def measure(step: Step) -> None:
        nonlocal spent
        if watched is not None:
            spent += watched.measure(training.model, training.loss_fn, step.batch)

    return [step.loss for step in training.run(before_step=measure)], spent


def draw(runs: Sequence[GuardedRun], path: str | os.PathLike[str]) -> Path:
    """Draw the losses of each run, one panel a run, with a mark where the guard acted.

    Args:
        runs: The runs.
        path: File to write, ``.svg`` or ``.png``.

    Raises:
        ImportError: If matplotlib is missing.
    """
    figure = figure_class()(figsize=(9, 2.6 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), 1, squeeze=False).ravel()
    for axis, run in zip(axes, runs, strict=True):
        axis.semilogy(run.plain, color=QUIET, linewidth=0.8, label="Adam")
        axis.semilogy(run.guarded, color=BLUE, linewidth=1.1, label="Adam, guarded")
        floor = min(run.plain.min(), run.guarded.min()) / 2
        axis.plot(run.acted, [floor] * len(run.acted), "|", color=RED, markersize=6, label="the guard acts")
        dress(axis)
        label(axis, x="step", y="training loss", title=run.name)
    axes[0].legend(frameon=False, fontsize=9, ncols=3, loc="upper right")
    return save_figure(figure, path)


def table(runs: Sequence[GuardedRun]) -> str:
    """Return the runs as a Markdown table, one row for all of a name.

    Spikes are added up; losses are averaged in the logarithm, shares and passes as they are.

    Args:
        runs: The runs.
    """
    lines = [
        "| | spikes > 3× | > 10× | loss ÷ Adam's | steps acted on | extra passes a step |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run.name for run in runs):
        alike = [run for run in runs if run.name == name]
        counts = (np.sum([run.spikes(factor) for run in alike], axis=0) for factor in (3.0, 10.0))
        low, high = ("{} → {}".format(*count) for count in counts)
        loss = math.exp(np.mean([math.log(run.loss_ratio) for run in alike]))
        share, passes = (
            float(np.mean([getattr(run, field) for run in alike])) for field in ("share", "passes")
        )
        lines.append(f"| {name} | {low} | {high} | {loss:.2f} | {share:.1%} | {passes:.2f} |")
    return "\n".join(lines) + "\n"


def main(path: str, *, steps: int = 3000) -> None:
    """Train, draw and print.

    Args:
        path: File of the figure.
        steps: Steps of each training.
    """
    deep = {"points": 50, "layers": 2, "width": 50}
    with one_thread():
        runs = [
            run
            for start in range(_STARTS)
            for run in (
                compare("Full batch", batch_size=None, steps=steps, start=start),
                compare("Mini-batches of 25 of 50 points", batch_size=25, steps=steps, start=start, **deep),
            )
        ]
    draw(runs[:2], path)
    sys.stdout.write(table(runs))


if __name__ == "__main__":
    main(sys.argv[1])
