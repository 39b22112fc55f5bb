"""Run a training at the middle scale, or go on with it, and say what its spikes look like."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.demo.threads import one_thread
from foreshock.lab.reproduction.experiment import OnStep
from foreshock.lab.reproduction.medium.apart import FACTOR, Scene, take_apart
from foreshock.lab.reproduction.medium.longrun import CHECKPOINT, LongPlan, LongRun, Progress, train
from foreshock.lab.reproduction.medium.measuring import Measuring
from foreshock.lab.reproduction.recording import TRACE
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.tasks.training import to_device

EVENTS = "events.json"
_ACCURACY_BATCH = 1024

Event = Mapping[str, float]


@dataclass(frozen=True)
class Recorded:
    """A training at the middle scale.

    Attributes:
        trace: What was measured.
        events: The spikes that were taken apart.
        seconds: Processor time.
        accuracy: Share of the last position that the model predicts right in the end, of the training set
            and of what was held out; NaN without labels of that form.
    """

    trace: Trace
    events: Sequence[Event]
    seconds: float
    accuracy: tuple[float, float] = (math.nan, math.nan)


def record_long(plan: LongPlan, seed: int, folder: Path, *, on_step: OnStep) -> Recorded:
    """Train to the end, going on with what an interrupted process left in the folder.

    Args:
        plan: What to train.
        seed: Seed of the weights and of the batches.
        folder: Folder of the run.
        on_step: Called with steps done and steps in all.
    """
    if (folder / TRACE).exists() and (folder / EVENTS).exists():
        kept = json.loads((folder / EVENTS).read_text(encoding="utf-8"))
        events = [{name: _number(value) for name, value in event.items()} for event in kept["events"]]
        accuracy = (_number(kept["accuracy"][0]), _number(kept["accuracy"][1]))
        return Recorded(Trace.load(folder / TRACE), events, kept["seconds"], accuracy)
    folder.mkdir(parents=True, exist_ok=True)
    threads = one_thread() if plan.torch_device.type == "cpu" else contextlib.nullcontext()
    with threads, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recorded = _train(plan, seed, folder, on_step)
    _save(recorded, folder)
    return recorded


def _train(plan: LongPlan, seed: int, folder: Path, on_step: OnStep) -> Recorded:
    run, progress = LongRun(plan, seed), Progress.load(folder / CHECKPOINT)
    probe = plan.probe_batch(seed)
    measuring = Measuring(run, plan, probe, progress.columns)

    def apart(onset: int) -> dict[str, float]:
        return take_apart(Scene(run, probe, progress.columns, measuring.alarm.level), onset)

    for done in train(run, progress, folder / CHECKPOINT, look=measuring.look, take_apart=apart):
        on_step(done, plan.steps)
    trace = Trace(_meta(plan, seed, run), _columns(progress.columns, beta2=plan.optimizer.betas[1]))
    accuracies = (accuracy(run, probe), accuracy(run, run.training.task.validation))
    return Recorded(trace, progress.events, progress.seconds, accuracies)


def _save(recorded: Recorded, folder: Path) -> None:
    recorded.trace.save(folder / TRACE)
    kept = {
        "events": [{name: _plain(value) for name, value in event.items()} for event in recorded.events],
        "seconds": recorded.seconds,
        "accuracy": [_plain(value) for value in recorded.accuracy],
    }
    (folder / EVENTS).write_text(json.dumps(kept, indent=1), encoding="utf-8")
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _meta(plan: LongPlan, seed: int, run: LongRun) -> dict[str, Any]:
    return {
        "name": plan.name,
        "family": plan.family,
        "seed": seed,
        "split": "development",
        "role": "spiky",
        "kind": plan.kind,
        "language": plan.language,
        "batch_size": plan.batch_size,
        "examples": run.training.task.examples,
        "steps": plan.steps,
        "beta1": plan.optimizer.betas[0],
        "beta2": plan.optimizer.betas[1],
        "strides": {"probe": plan.probe_every},
        "costs": {},
        "parameters": sum(parameter.numel() for parameter in run.training.model.parameters()),
    }


def _columns(points: Mapping[str, Iterable[tuple[int, float]]], *, beta2: float) -> dict[str, Column]:
    """Return the columns, with what follows from ‖g‖ and v alone: Σv̂, g² over it, and the decay of v."""
    columns = {
        name: Column(np.array([step for step, _ in pairs]), np.array([value for _, value in pairs]))
        for name, pairs in ((name, list(pairs)) for name, pairs in points.items())
    }
    raw = columns.pop("raw_second_moment", None)
    if raw is None:
        return columns
    with np.errstate(divide="ignore", invalid="ignore"):
        corrected = raw.values / (1 - beta2 ** np.maximum(raw.steps, 1))
        gradient = columns["gradient_norm"].held(raw.steps)
        growth = np.diff(np.log(raw.values), prepend=math.nan) / math.log(beta2)
        columns["second_moment"] = Column(raw.steps, corrected)
        columns["lag_ratio"] = Column(raw.steps, gradient**2 / corrected)
        columns["decay_exponent"] = Column(raw.steps, growth)
    return columns


@torch.no_grad()
def accuracy(run: LongRun, batch: Any) -> float:
    """Return the share of examples whose last label the model predicts right; NaN without labels.

    Args:
        run: The training.
        batch: Inputs and labels; None if there are none.
    """
    if not isinstance(batch, tuple) or batch[1].is_floating_point():
        return math.nan
    inputs, labels = (tensor[:_ACCURACY_BATCH] for tensor in to_device(batch, _device(run)))
    scores: Tensor = run.training.model(inputs)
    if labels.ndim > 1:
        scores, labels = scores[:, -1], labels[:, -1]
    return float((scores.argmax(dim=-1) == labels).float().mean())


def _device(run: LongRun) -> torch.device:
    return next(run.training.model.parameters()).device


def count_spikes(plan: LongPlan, seed: int, folder: Path, *, on_step: OnStep) -> Recorded:
    """Train without any measurement but the loss.

    Args:
        plan: What to train.
        seed: Seed of the weights and of the batches.
        folder: Folder of the run.
        on_step: Called with steps done and steps in all.
    """
    never = plan.steps // 10 * 10 + 10
    bare = {name: getattr(plan, name) for name in plan.__dataclass_fields__}
    bare |= {"probe_every": never, "direction_every": never, "events": 0}
    return record_long(LongPlan(**bare), seed, folder, on_step=on_step)


def removed(peak: float) -> bool:
    """Return whether a branch has no spike above 3 × the level."""
    return peak < FACTOR


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{max(min(value, 1e300), -1e300):.5g}")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
