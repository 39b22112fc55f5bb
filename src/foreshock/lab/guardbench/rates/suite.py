"""The tasks whose learning rate is varied, and which methods are compared on them.

They are small and short: each is trained by some twenty methods at six rates from two seeds. All are tasks of
GuardBench with fewer steps, on the same side of its split, but for two: `mlp-deep` is `mlp-batch-25` with the
full batch, and in `language-tiny-fresh` no sequence is seen twice, under warm-up and cosine. Each has hidden
matrices, which Muon needs. Nothing was tuned on them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from foreshock.lab.guardbench.methods import PLAIN
from foreshock.lab.spikebench.suite import (
    DEVELOPMENT,
    HELD_OUT,
    RunConfig,
    adam,
    adamw,
    configure,
)

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Multiples of a task's base rate."""

COMPARED = (
    PLAIN,
    "amsgrad",
    "adopt",
    "soap",
    "muon",
    "kourkoutas-beta",
    "adam-mini",
    "beta2-half-life",
    "adagc",
    "clip-1",
    "zclip",
    "skip-step",
    "clip-update-norm",
    "gradient-stabilizer",
    "spectra",
    "qk-clip",
    "guard-auto",
    "guard-alone",
    "guard-muon",
)
"""Methods that are compared if none is named."""

_DEEP: dict[str, Any] = {"points": 50, "layers": 2, "width": 50}
_RULES: dict[str, Any] = {"vocabulary": 16, "length": 10, "width": 32}
_TEXT: dict[str, Any] = {"data": "text", "loss": "ce", "context": 4}
_TINY: dict[str, Any] = {"length": 16, "context": 8, "layers": 1, "width": 32, "heads": 2}
_FALLING: dict[str, Any] = {"schedule": "warmup-cosine", "warmup_steps": 50}

TASKS = (
    configure(DEVELOPMENT, "mlp-deep", adam(0.01), None, 1000, **_DEEP),
    configure(HELD_OUT, "cnn-ce-batch-16", adamw(3e-3, 0.1), 16, 500, loss="ce"),
    configure(DEVELOPMENT, "language-tiny", adamw(5e-3, 1.0), 8, 500, sequences=32, **_TINY),
    configure(HELD_OUT, "transformer-ce", adamw(3e-3, 0.3), None, 200, sequences=64, loss="ce", **_RULES),
    configure(HELD_OUT, "language-tiny-fresh", adamw(5e-3, 0.1, **_FALLING), 8, 500, sequences=None, **_TINY),
    configure(DEVELOPMENT, "mlp-batch-25", adam(0.01), 25, 1000, **_DEEP),
    configure(HELD_OUT, "lstm-text-batch-25", adam(3e-3), 25, 400, **_TEXT),
    configure(HELD_OUT, "pinn-burgers", adam(3e-3), None, 400, equation="burgers"),
)
"""The tasks at their base rates."""


def at_rate(task: RunConfig, factor: float) -> RunConfig:
    """Return a task at a multiple of its base rate, as ``NAME-xFACTOR``.

    Args:
        task: The task at its base rate.
        factor: The multiple, positive.

    Example:
        >>> at_rate(TASKS[0], 4.0).name, at_rate(TASKS[0], 4.0).optimizer.learning_rate
        ('mlp-deep-x4', 0.04)
    """
    optimizer = replace(task.optimizer, learning_rate=factor * task.optimizer.learning_rate)
    return replace(task, name=f"{task.name}-x{factor:g}", optimizer=optimizer)


def chosen_tasks(names: Collection[str] = (), *, split: str | None = None) -> tuple[RunConfig, ...]:
    """Return tasks by their names.

    Args:
        names: Their names; none for all.
        split: "development" or "held-out"; None for both.

    Raises:
        ValueError: If there is no such task in that half.

    Example:
        >>> [task.name for task in chosen_tasks(["mlp-deep"])]
        ['mlp-deep']
    """
    tasks = tuple(task for task in TASKS if split is None or task.split == split)
    for name in names:
        if name not in {task.name for task in tasks}:
            known = ", ".join(task.name for task in tasks)
            half = "" if split is None else f" in the {split} half"
            raise ValueError(f"there is no task {name!r}{half}; there are {known}")
    return tuple(task for task in tasks if not names or task.name in names)
