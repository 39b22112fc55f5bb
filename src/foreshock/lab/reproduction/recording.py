"""Train a plan under a monitor, which keeps an ordinary run log, and gather what the claims are about."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from foreshock.demo.threads import one_thread
from foreshock.lab.reproduction.directions import BatchDirection, block_levels
from foreshock.lab.reproduction.experiment import OnStep
from foreshock.lab.reproduction.plan import Plan, to_device
from foreshock.lab.spikebench.measurements import Measurements
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.tasks import build_optimizer
from foreshock.monitor.monitor import Monitor
from foreshock.preconditioner import read_preconditioner
from foreshock.runlog import read_run

TRACE = "trace.npz"
HORIZON = 50

_STEP = ("gradient_norm", "decay_exponent", "squared_gradient", "second_moment")
_CURVATURE = {
    "stability_ratio": "stability_ratio",
    "gradient_stability_ratio": "gradient_ratio",
    "update_stability_ratio": "update_ratio",
    "predicted_loss_change": "predicted_change",
    "alignment": "alignment",
}


class Moment:
    """What a watcher sees of a step, between ``backward()`` and ``step()``.

    Attributes:
        step: Number of updates before this one.
        loss: Loss of the batch.
        batch: The batch.
        ratio: The last stability ratio that was measured; NaN before the first.
        model: The model.
        loss_fn: Its loss.
        optimizer: Its optimizer.
    """

    def __init__(
        self, step: int, loss: float, batch: Any, ratio: float, parts: tuple[nn.Module, Any, Optimizer]
    ) -> None:
        self.step, self.loss, self.batch, self.ratio = step, loss, batch, ratio
        self.model, self.loss_fn, self.optimizer = parts


Watcher = Callable[[Moment], None]


def record(
    plan: Plan,
    seed: int,
    folder: Path,
    *,
    watchers: tuple[Watcher, ...] = (),
    on_step: OnStep | None = None,
) -> Trace:
    """Train from the first to the last step, log the run in a folder and return what was measured.

    Args:
        plan: What to train.
        seed: Seed of the weights and of the order of the batches.
        folder: Folder of the run; an earlier run in it is replaced. The trace is kept there too.
        watchers: Called at every step after the monitor; one may change the optimizer's settings.
        on_step: Called with steps done and steps in all.

    Returns:
        The trace. A run whose loss is no longer finite ends there.
    """
    for log in folder.glob("rank*.jsonl"):
        log.unlink()
    threads = one_thread() if plan.place.type == "cpu" else contextlib.nullcontext()
    with threads, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recorder = _Recorder(plan, seed, folder, watchers)
        with recorder.monitor:
            for step in range(plan.steps):
                loss = recorder.train(step)
                if on_step is not None:
                    on_step(step + 1, plan.steps)
                if not math.isfinite(loss):
                    break
    trace = recorder.trace()
    trace.save(folder / TRACE)
    return trace


class _Recorder:
    """One training in progress."""

    def __init__(self, plan: Plan, seed: int, folder: Path, watchers: tuple[Watcher, ...]) -> None:
        self._plan, self._seed, self._folder, self._watchers = plan, seed, folder, watchers
        task = plan.build(seed)
        self._model, self._loss_fn, self._batches = task.model, task.loss_fn, iter(task.batches)
        self._optimizer = build_optimizer(task.model, plan.optimizer)
        self._fixed = to_device(next(self._batches), plan.place) if plan.full_batch else None
        self._measurements = Measurements(task.model, task.loss_fn, self._optimizer)
        self._direction = BatchDirection(task.model, task.loss_fn)
        self._columns: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._examples = task.examples
        self.monitor = Monitor(
            task.model,
            self._optimizer,
            task.loss_fn,
            run=folder,
            probe_every=plan.probe_every,
            horizon=HORIZON,
            full_batch=plan.full_batch,
            examples=task.examples,
            meta={"name": f"{plan.name}, seed {seed}", "seed": seed, "steps": plan.steps},
        )

    def train(self, step: int) -> float:
        batch = self._fixed if self._fixed is not None else to_device(next(self._batches), self._plan.place)
        self._optimizer.zero_grad()
        loss = self._loss_fn(self._model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.item())
        self._keep(step, {"loss": value})
        forecast = self.monitor.observe(batch, value)
        if not math.isfinite(value):
            return value
        self._measure(step, batch, value)
        parts = (self._model, self._loss_fn, self._optimizer)
        for watcher in self._watchers:
            watcher(Moment(step, value, batch, forecast.stability_ratio, parts))
        self._optimizer.step()
        return value

    def _measure(self, step: int, batch: Any, loss: float) -> None:
        plan = self._plan
        if step % plan.sharpness_every == 0:
            self._measurements.begin(step, batch, loss)
            self._keep(step, self._measurements.measure("sharpness"))
        if step % plan.probe_every == 0:
            self._keep(step, block_levels(self._model, self._optimizer))
        if not plan.full_batch and step % plan.direction_every == 0:
            try:
                ratio = self._direction.measure(batch, read_preconditioner(self._optimizer))
            except FloatingPointError:
                ratio = math.nan
            self._keep(step, {"gradient_ratio": ratio})

    def trace(self) -> Trace:
        columns = {name: _column(points) for name, points in self._columns.items()}
        return Trace(self._meta(), logged_columns(self._folder) | columns)

    def _keep(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._columns[name].append((step, value))

    def _meta(self) -> dict[str, Any]:
        plan = self._plan
        return {
            "name": plan.name,
            "family": plan.family,
            "seed": self._seed,
            "split": "development",
            "role": "spiky",
            "kind": "full" if plan.full_batch else "mini",
            "language": plan.family == "language",
            "batch_size": plan.batch_size,
            "examples": self._examples,
            "steps": plan.steps,
            "beta1": plan.optimizer.betas[0],
            "beta2": plan.optimizer.betas[1],
            "strides": {"probe": plan.probe_every, "sharpness": plan.sharpness_every},
            "costs": {},
        }


def logged_columns(folder: Path) -> dict[str, Column]:
    """Return the free signals and the curvature that a monitor logged, named as in a trace.

    Args:
        folder: Folder of the run.
    """
    run = read_run(folder)
    columns = {name: Column(run.steps("step"), run.column("step", name)) for name in _STEP}
    # A trace has the lag as Σg²/Σv̂, as those that were recorded earlier.
    columns["lag_ratio"] = Column(run.steps("step"), 1 / run.column("step", "instant_lag"))
    steps = run.steps("curvature")
    for name, known in _CURVATURE.items():
        columns[known] = Column(steps, run.column("curvature", name))
    noise = run.steps("noise")
    if noise.size:
        columns["mean_square_ratio"] = Column(
            run.steps("forecast"), run.column("forecast", "mean_square_ratio")
        )
    return columns


def _column(points: list[tuple[int, float]]) -> Column:
    steps, values = zip(*points, strict=True)
    return Column(np.asarray(steps), np.asarray(values))
