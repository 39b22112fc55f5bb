"""One configuration of the benchmark: a run, at one of two learning rates, perhaps disturbed."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Literal

from foreshock.lab.spikebench.suite import RunConfig
from foreshock.lab.tasks.cifar import CIFAR10_VARIABLE


@dataclass(frozen=True)
class GuardConfig:
    """One configuration; with a seed and a method it is one training.

    Attributes:
        run: Task, optimizer, batch size, steps and side of the split.
        rate: Whether its learning rate is the task's base rate, or a multiple of it.
        precision: "bfloat16" trains the same float32 weights under autocast.
        outliers: Share of the batches that are corrupted; 0 for none.
    """

    run: RunConfig
    rate: Literal["base", "high"] = "base"
    precision: Literal["float32", "bfloat16"] = "float32"
    outliers: float = 0.0

    @property
    def name(self) -> str:
        """Unique name, usable as a file name."""
        return self.run.name

    @property
    def split(self) -> str:
        """Side of the split: "development" or "held-out"."""
        return self.run.split

    @property
    def group(self) -> str:
        """What is like a language model is "language"; else "full" batch or "mini"-batch."""
        return "language" if self.run.language else self.run.kind

    @property
    def family(self) -> str:
        """What results are put together by: control, outliers, bfloat16, or the family of the task."""
        if self.run.role == "control":
            return "control"
        if self.outliers:
            return "outliers"
        return self.precision if self.precision != "float32" else self.run.family

    @property
    def available(self) -> bool:
        """Whether its data set is on this machine."""
        return self.run.options.get("data") != "cifar10" or bool(os.environ.get(CIFAR10_VARIABLE))


def both_rates(run: RunConfig, *, times: float = 3.0) -> tuple[GuardConfig, GuardConfig]:
    """Return a run at its own learning rate and, as ``NAME-high``, at a multiple of it.

    Args:
        run: The run at the base rate.
        times: The multiple.
    """
    high = replace(run.optimizer, learning_rate=times * run.optimizer.learning_rate)
    fast = replace(run, name=f"{run.name}-high", optimizer=high)
    return GuardConfig(run), GuardConfig(fast, "high")


def alone(run: RunConfig, **changes: Any) -> tuple[GuardConfig]:
    """Return a run at one rate only.

    Args:
        run: The run.
        **changes: Other fields of the configuration.
    """
    return (GuardConfig(run, **changes),)
