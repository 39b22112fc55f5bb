"""Train a plan under a monitor, which keeps an ordinary run log, and gather what the claims are about."""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreshock.demo.threads import one_thread
from foreshock.lab.reproduction.curvatures import BatchDirection, block_levels
from foreshock.lab.reproduction.experiment import OnStep
from foreshock.lab.reproduction.plan import Moment, Plan, Watcher
from foreshock.lab.spikebench.measurements import Measurements
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.tasks import Step, Training
from foreshock.monitor.monitor import Monitor
from foreshock.preconditioner import read_preconditioner
from foreshock.runlog import read_run

TRACE = "trace.npz"
HORIZON = 50  # these runs spike every hundred steps or so: a longer horizon would always be true

_STEP = ("gradient_norm", "decay_exponent", "squared_gradient", "second_moment")
_CURVATURE = {
    "stability_ratio": "stability_ratio",
    "gradient_stability_ratio": "gradient_ratio",
    "update_stability_ratio": "update_ratio",
    "predicted_loss_change": "predicted_change",
    "alignment": "alignment",
}


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
    threads = one_thread() if plan.torch_device.type == "cpu" else contextlib.nullcontext()
    with threads, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recorder = _Recorder(plan, seed, folder, watchers)
        with recorder.monitor:
            for step in recorder.training.run(before_step=recorder.before_step):
                if on_step is not None:
                    on_step(step.index + 1, plan.steps)
    trace = recorder.trace()
    trace.save(folder / TRACE)
    return trace


class _Recorder:
    """One training in progress."""

    def __init__(self, plan: Plan, seed: int, folder: Path, watchers: tuple[Watcher, ...]) -> None:
        self._plan, self._seed, self._folder, self._watchers = plan, seed, folder, watchers
        self.training = training = Training(plan, seed)
        self._measurements = Measurements(training.model, training.loss_fn, training.optimizer)
        self._direction = BatchDirection(training.model, training.loss_fn)
        self._columns: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.monitor = Monitor(
            training.model,
            training.optimizer,
            training.loss_fn,
            run=folder,
            probe_every=plan.probe_every,
            horizon=HORIZON,
            full_batch=plan.full_batch,
            examples=training.task.examples,
            meta={"name": f"{plan.name}, seed {seed}", "seed": seed, "steps": plan.steps},
        )

    def before_step(self, step: Step) -> None:
        self._keep(step, {"loss": step.loss})
        forecast = self.monitor.observe(step.batch, step.loss)
        if not step.finite:
            return
        self._measure(step)
        training = self.training
        moment = Moment(
            step.index,
            step.loss,
            step.batch,
            forecast.stability_ratio,
            training.model,
            training.loss_fn,
            training.optimizer,
        )
        for watcher in self._watchers:
            watcher(moment)

    def _measure(self, step: Step) -> None:
        plan, training = self._plan, self.training
        if step.index % plan.sharpness_every == 0:
            self._measurements.begin(step.index, step.batch, step.loss)
            self._keep(step, self._measurements.measure("sharpness"))
        if step.index % plan.probe_every == 0:
            self._keep(step, block_levels(training.model, training.optimizer))
        if not plan.full_batch and step.index % plan.direction_every == 0:
            try:
                ratio = self._direction.measure(step.batch, read_preconditioner(training.optimizer))
            except FloatingPointError:
                ratio = math.nan
            self._keep(step, {"gradient_ratio": ratio})

    def trace(self) -> Trace:
        columns = {name: _column(points) for name, points in self._columns.items()}
        return Trace(self._meta(), logged_columns(self._folder) | columns)

    def _keep(self, step: Step, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._columns[name].append((step.index, value))

    def _meta(self) -> dict[str, Any]:
        plan = self._plan
        return {
            "name": plan.name,
            "family": plan.family,
            "seed": self._seed,
            "split": "development",
            "role": "spiky",
            "kind": plan.kind,
            "language": plan.language,
            "batch_size": plan.batch_size,
            "examples": self.training.task.examples,
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
            run.steps("forecast"), run.column("forecast", "typical_mean_square_ratio")
        )
    return columns


def _column(points: list[tuple[int, float]]) -> Column:
    steps, values = zip(*points, strict=True)
    return Column(np.asarray(steps), np.asarray(values))
