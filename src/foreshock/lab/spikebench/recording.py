"""Train one configuration of the benchmark and record what every rule needs, in one pass.

Training is that of a plain loop: measurements leave it as it was, so that the spikes are those that a user
would see. Whatever is expensive is measured every few steps; what each measurement cost, as a multiple of one
forward and backward pass (F) and in seconds, goes into the trace.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from foreshock.demo.threads import one_thread
from foreshock.lab.spikebench.measurements import Measurements
from foreshock.lab.spikebench.suite import RunConfig
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.tasks import build_task
from foreshock.lab.tasks.optimization import build_optimizer, build_scheduler

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
        for step in range(config.steps):
            loss = recorder.train(step)
            if on_step is not None:
                on_step(step, loss)
            if not math.isfinite(loss):
                break
        return recorder.trace()


class _Recorder:
    """One run in progress."""

    def __init__(self, config: RunConfig, seed: int) -> None:
        self._config, self._seed = config, seed
        task = build_task(config.family, batch_size=config.batch_size, seed=seed, **config.options)
        self._task, self._batches = task, iter(task.batches)
        self._optimizer = build_optimizer(task.model, config.optimizer)
        self._scheduler = build_scheduler(self._optimizer, config.optimizer, config.steps)
        self._strides = MINI_STRIDES if config.batch_size is not None else FULL_STRIDES
        self._measurements = Measurements(task.model, task.loss_fn, self._optimizer)
        self._columns: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._passes: dict[str, list[float]] = defaultdict(list)

    def train(self, step: int) -> float:
        batch = next(self._batches)
        began = time.perf_counter()
        self._optimizer.zero_grad()
        loss: Tensor = self._task.loss_fn(self._task.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self._seconds["F"].append(time.perf_counter() - began)
        value = loss.item()
        self._keep(step, {"loss": value})
        if not math.isfinite(value):
            return value
        self._measurements.begin(step, batch, value)
        free = self._measurements.free()
        self._keep(step, free)
        for kind, stride in self._strides.items():
            if step % stride == 0 and kind != "trial":
                self._keep(step, self._timed(kind))
        self._optimizer.step()
        if step % self._strides["trial"] == 0:
            self._keep(step, {"trial_linear": free["linear_change"], **self._timed("trial")})
        if self._scheduler is not None:
            self._scheduler.step()
        return value

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

    def _keep(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._columns[name].append((step, value))

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
            "examples": self._task.examples,
            "steps": config.steps,
            "beta1": config.optimizer.betas[0],
            "beta2": config.optimizer.betas[1],
            "optimizer": dataclasses.asdict(config.optimizer),
            "strides": dict(self._strides),
            "costs": {kind: statistics.fmean(values) for kind, values in self._passes.items()},
            "seconds": seconds,
        }
