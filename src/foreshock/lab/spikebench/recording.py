"""Train one configuration of the benchmark and record what every rule needs, in one pass.

Training is that of a plain loop: measurements leave it as it was, so that the spikes are those that a user
would see. Expensive quantities are measured every few steps. The cost of each measurement, as a multiple of
one forward and backward pass (F) and in seconds, is part of the trace.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from foreshock.demo.threads import one_thread
from foreshock.lab.spikebench.measurements import Measurements
from foreshock.lab.spikebench.suite import RunConfig
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.tasks import Step, Training

# Steps between measurements. λ_max must be followed closely where it decides (full batch); in mini-batches
# pairs of half-batches do, every ten steps as in the monitor while v lags. A trial is one forward pass.
FULL_STRIDES = {
    "probe": 4,
    "sharpness": 12,
    "batch_sharpness": 12,
    "critical_rate": 12,
    "kurtosis": 12,
    "trial": 3,
}
MINI_STRIDES = {
    "pair": 10,
    "probe": 30,
    "sharpness": 90,
    "batch_sharpness": 15,
    "critical_rate": 15,
    "kurtosis": 10,
    "trial": 3,
}


def record(config: RunConfig, seed: int, *, on_step: Callable[[int, float], None] | None = None) -> Trace:
    """Train one run from its first to its last step and return its trace.

    Args:
        config: The run.
        seed: Seed of the weights and of the order of the batches.
        on_step: Called with step and loss after every step.

    Returns:
        The trace. A run whose loss is no longer finite ends there.
    """
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recorder = _Recorder(config, seed)
        for step in recorder.run():
            if on_step is not None:
                on_step(step.index, step.loss)
        return recorder.trace()


class _Recorder:
    """One run in progress."""

    def __init__(self, config: RunConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        self._training = Training(config, seed)
        self._strides = FULL_STRIDES if config.full_batch else MINI_STRIDES
        self._measurements = Measurements(
            self._training.model, self._training.loss_fn, self._training.optimizer
        )
        self._columns: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._passes: dict[str, list[float]] = defaultdict(list)
        self._linear_change = math.nan

    def run(self) -> Iterator[Step]:
        return self._training.run(before_step=self._before_step, after_step=self._after_step)

    def _before_step(self, step: Step) -> None:
        self._seconds["F"].append(step.seconds)
        self._keep(step, {"loss": step.loss})
        if not step.finite:
            return
        self._measurements.begin(step.index, step.batch, step.loss)
        free = self._measurements.free()
        self._keep(step, free)
        self._linear_change = free["linear_change"]
        for kind, stride in self._strides.items():
            if step.index % stride == 0 and kind != "trial":
                self._keep(step, self._timed(kind))

    def _after_step(self, step: Step) -> None:
        if step.index % self._strides["trial"] == 0:
            self._keep(step, {"trial_linear": self._linear_change, **self._timed("trial")})

    def trace(self) -> Trace:
        columns = {
            name: Column(*map(list, zip(*points, strict=True)))  # type: ignore[arg-type]
            for name, points in self._columns.items()
        }
        return Trace(self._meta(), columns)

    def _timed(self, kind: str) -> Mapping[str, float]:
        began, before = time.perf_counter(), self._measurements.passes
        measured = self._measurements.measure(kind)
        self._seconds[kind].append(time.perf_counter() - began)
        self._passes[kind].append(self._measurements.passes - before)
        return measured

    def _keep(self, step: Step, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._columns[name].append((step.index, value))

    def _meta(self) -> dict[str, Any]:
        config = self._config
        seconds = {kind: statistics.median(values) for kind, values in self._seconds.items()}
        return {
            "name": config.name,
            "family": config.family,
            "seed": self._seed,
            "split": config.split,
            "role": config.role,
            "kind": config.kind,
            "language": config.language,
            "batch_size": config.batch_size,
            "examples": self._training.task.examples,
            "steps": config.steps,
            "beta1": config.optimizer.betas[0],
            "beta2": config.optimizer.betas[1],
            "optimizer": dataclasses.asdict(config.optimizer),
            "strides": dict(self._strides),
            "costs": {kind: statistics.fmean(values) for kind, values in self._passes.items()},
            "seconds": seconds,
        }
