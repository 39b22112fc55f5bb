"""What a monitor with a budget tells its forecaster in one run: recorded once, forecast from many times.

Training is not touched by a monitor, so that a run has the same spikes at each budget. The tape has what was
measured, when and at what cost; any forecaster that is fed from it sees what the product would have seen.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from foreshock.demo.threads import one_thread
from foreshock.dynamics import population_factor
from foreshock.forecast import EdgeReading, Forecast, RunForecaster
from foreshock.lab.spikebench.suite import RunConfig
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.tasks import Step, Training
from foreshock.monitor import Monitor

Call = tuple[str, list[Any]]


@dataclass(frozen=True)
class Tape:
    """One monitored run.

    Attributes:
        meta: What `Trace.meta` has, with ``budget`` and ``probe_every`` of the monitor, and ``passes``, what
            its measurements cost in forward and backward passes a step.
        calls: What the forecaster was told, in order: its method and its arguments.
        losses: Loss of each step, shape (steps,).
    """

    meta: Mapping[str, Any]
    calls: Sequence[Call]
    losses: Sequence[float]

    @property
    def trace(self) -> Trace:
        """The losses as a trace, from which the truth is taken."""
        return Trace(self.meta, {"loss": Column(np.arange(len(self.losses)), np.array(self.losses))})

    def play(self, run: RunForecaster) -> Iterator[Forecast]:
        """Tell a forecaster all that was recorded, and yield its forecast wherever the monitor asked for one.

        Args:
            run: A new forecaster.
        """
        for name, arguments in self.calls:
            if name == "forecast":
                step, constant, run.noise_expected = arguments
                yield run.forecast(step, constant=constant)
            elif name == "record_curvature":
                step, reading = arguments
                run.record_curvature(step, EdgeReading(**reading))
            elif name == "record_step":
                loss, square, moment, exponent = arguments
                run.record_step(
                    loss=loss, squared_gradient=square, second_moment=moment, decay_exponent=exponent
                )
            elif name == "record_noise":
                step, mean, variance, factor = arguments
                run.record_noise(step, mean=mean, variance=variance, noise_factor=factor)
            else:
                getattr(run, name)(*arguments)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a ``.json.gz``, which is there whole or not at all; its folder is made if missing."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"partial-{os.getpid()}-{target.name}")
        with gzip.open(partial, "wt", encoding="utf-8", compresslevel=6) as file:
            json.dump([dict(self.meta), self.calls, list(self.losses)], file, separators=(",", ":"))
        return partial.replace(target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tape:
        """Read what `save` wrote."""
        with gzip.open(path, "rt", encoding="utf-8") as file:
            meta, calls, losses = json.load(file)
        return cls(meta, [(name, arguments) for name, arguments in calls], losses)


def forecaster(meta: Mapping[str, Any]) -> RunForecaster:
    """Return a new forecaster for a run, one that forecasts no heights.

    Args:
        meta: Of its tape or trace.
    """
    beta2 = float(meta["beta2"])
    return _WithoutHeights(beta2=beta2 if 0 < beta2 < 1 else None)


class _WithoutHeights(RunForecaster):
    """A forecaster that leaves out the simulation of the next spike.

    It takes nine tenths of the time of a replay, and neither probabilities nor dates of crossings need it.
    """

    def _with_outlook(self, forecast: Forecast, reading: EdgeReading) -> Forecast:  # noqa: ARG002
        return forecast


def record_tape(
    config: RunConfig, seed: int, *, budget: float = 0.05, probe_every: int | None = None
) -> Tape:
    """Train one run under a monitor with its defaults, as a newcomer would, and return the tape.

    Args:
        config: The run.
        seed: Seed of the weights and of the order of the batches.
        budget: Passes a step of the monitor.
        probe_every: Steps between its probes, instead of the budget.
    """
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        training = Training(config, seed)
        losses: list[float] = []
        with _Listening(
            training.model, training.optimizer, training.loss_fn, budget=budget, probe_every=probe_every
        ) as monitor:

            def before_step(step: Step) -> None:
                losses.append(step.loss)
                monitor.observe(step.batch, step.loss)

            for _ in training.run(before_step=before_step):
                pass
        calls = monitor.calls
    return Tape(_meta(config, seed, training) | monitor.price(len(losses)), calls, losses)


class _Teller(RunForecaster):
    """A forecaster that keeps what it is told."""

    def __init__(self, **settings: Any) -> None:
        self.calls: list[Call] = []
        super().__init__(**settings)

    def record_step(
        self,
        *,
        loss: float,
        squared_gradient: float,
        second_moment: float,
        decay_exponent: float = math.nan,
        step: int | None = None,
    ) -> None:
        self.calls.append(("record_step", [loss, squared_gradient, second_moment, decay_exponent]))
        super().record_step(
            loss=loss,
            squared_gradient=squared_gradient,
            second_moment=second_moment,
            decay_exponent=decay_exponent,
            step=step,
        )

    def record_curvature(self, step: int, reading: EdgeReading, **settings: Any) -> None:
        self.calls.append(("record_curvature", [step, dataclasses.asdict(reading)]))
        super().record_curvature(step, reading, **settings)

    def record_noise(self, step: int, *, mean: float, variance: float, noise_factor: float) -> None:
        self.calls.append(("record_noise", [step, mean, variance, noise_factor]))
        super().record_noise(step, mean=mean, variance=variance, noise_factor=noise_factor)

    def mark_unavailable(self, step: int, why: str) -> None:
        self.calls.append(("mark_unavailable", [step, why]))
        super().mark_unavailable(step, why)

    def mark_doubtful(self, text: str) -> None:
        self.calls.append(("mark_doubtful", [text]))
        super().mark_doubtful(text)

    def forecast(self, step: int, *, constant: bool | None) -> Forecast:
        self.calls.append(("forecast", [step, constant, self.noise_expected]))
        return super().forecast(step, constant=constant)


class _Listening(Monitor):
    """A monitor whose forecaster keeps what it is told."""

    _forecasts_by = _Teller

    @property
    def calls(self) -> list[Call]:
        return cast(_Teller, self._run).calls

    def price(self, steps: int) -> dict[str, Any]:
        """Return what the measurements cost."""
        schedule = self._probes.schedule
        return {
            "budget": schedule.budget.passes_per_step,
            "probe_every": schedule.every,
            "passes": schedule.budget.spent / max(steps, 1),
        }


def _meta(config: RunConfig, seed: int, training: Training) -> dict[str, Any]:
    size, examples = config.batch_size, training.task.examples
    return {
        "name": config.name,
        "family": config.family,
        "seed": seed,
        "split": config.split,
        "role": config.role,
        "kind": config.kind,
        "language": config.language,
        "batch_size": size,
        "examples": examples,
        "population_factor": 1.0 if size is None else population_factor(size, examples),
        "steps": config.steps,
        "beta1": config.optimizer.betas[0],
        "beta2": config.optimizer.betas[1],
        "strides": {},
        "costs": {},
    }
