"""What is measured of a long training: λ_max(Ĥ), directions, mean-square ratio, lag, v by block."""

from __future__ import annotations

import contextlib
import math
from collections import deque

import numpy as np
from torch import Tensor

from foreshock.curvature import Prober
from foreshock.dynamics import mean_square_ratio
from foreshock.eigen import StoppingRule
from foreshock.lab.reproduction.curvatures import BatchDirection, block_levels
from foreshock.lab.reproduction.medium.longrun import Columns, LongPlan, LongRun
from foreshock.lab.tasks.task import Batch
from foreshock.preconditioner import Preconditioner, read_preconditioner
from foreshock.vectors import total_norm

_RULE = StoppingRule(relative_tolerance=0.02, threshold=1.0, max_products=8)
_BATCHES = 4  # batches that the noise is measured on: this one and those before
_SMOOTHED, _WINDOW = 5, 100


class Alarm:
    """Tell at which step a spike begins: the mean of five losses rises above 3 × its median.

    Args:
        start: First step that counts.
    """

    def __init__(self, *, start: int) -> None:
        self._start, self._seen, self._armed = start, 0, True
        self._recent: deque[float] = deque(maxlen=_SMOOTHED)
        self._before: deque[float] = deque(maxlen=_WINDOW)
        self.level = math.nan

    def push(self, loss: float) -> bool:
        """Take the loss of the next step, and return whether a spike begins there.

        Args:
            loss: The loss.
        """
        self._recent.append(loss)
        smooth, full = float(np.mean(self._recent)), len(self._before) == _WINDOW
        level = float(np.median(self._before)) if full else math.inf
        begins = self._armed and smooth > 3 * level and self._seen >= self._start
        if begins:
            self.level = level
        self._armed = not begins and (self._armed or smooth < 1.5 * level)
        self._before.append(smooth)
        self._seen += 1
        return begins


class Measuring:
    """Measure a training between ``backward()`` and ``step()``.

    λ_max(Ĥ) is that of a fixed batch, and of the batch of the step; the curvature along the gradient is that
    of the batch of the step. The mean-square ratio is taken along the top eigenvector of the fixed batch,
    with the variance of four batches.

    Args:
        run: The training.
        plan: Its strides.
        probe: The fixed batch.
        columns: Where it is written to, by name.
    """

    def __init__(self, run: LongRun, plan: LongPlan, probe: Batch, columns: Columns) -> None:
        self._run, self._plan, self._probe, self._columns = run, plan, probe, columns
        model, loss_fn = run.training.model, run.training.loss_fn
        self._fixed, self._batch = Prober(model, loss_fn), Prober(model, loss_fn)
        self._direction = BatchDirection(model, loss_fn)
        self.alarm = Alarm(start=max(plan.optimizer.warmup_steps, 0) + _WINDOW)
        for _, loss in columns.get("loss", []):
            self.alarm.push(loss)

    def look(self, step: int, loss: float) -> bool:
        """Measure a step, and return whether a spike begins there.

        Args:
            step: The step.
            loss: Its loss.
        """
        self._write(step, loss=loss)
        if math.isfinite(loss):
            self._write(step, **self._free())
            with contextlib.suppress(FloatingPointError):  # a product overflowed: there is no reading
                self._curvature(step)
        return self.alarm.push(loss)

    def _free(self) -> dict[str, float]:
        optimizer = self._run.training.optimizer
        gradients, moments = _gradients_and_moments(self._run)
        group = optimizer.param_groups[0]
        found = {"gradient_norm": float(total_norm(gradients)), "learning_rate": float(group["lr"])}
        if moments:
            found["raw_second_moment"] = float(total_norm(moments, order=1))
        return found

    def _curvature(self, step: int) -> None:
        plan, batch = self._plan, self._run.batch(step)
        probing, along = step % plan.probe_every == 0, step % plan.direction_every == 0
        if not probing and not along:
            return
        preconditioner = read_preconditioner(self._run.training.optimizer)
        if not preconditioner.largest_rate > 0:
            return
        if along:
            self._write(step, gradient_ratio=self._direction.measure(batch, preconditioner))
        if probing:
            self._write(step, **block_levels(self._run.training.model, self._run.training.optimizer))
            self._probed(step, batch, preconditioner)

    def _probed(self, step: int, batch: Batch, preconditioner: Preconditioner) -> None:
        fixed = self._fixed.probe(self._probe, preconditioner, step=step, stop=_RULE)
        self._write(
            step,
            stability_ratio=fixed.stability_ratio,
            fixed_gradient_ratio=fixed.gradient_stability_ratio,
            update_ratio=fixed.update_stability_ratio,
            alignment=fixed.alignment,
        )
        own = self._batch.probe(batch, preconditioner, step=step, stop=_RULE)
        self._write(
            step,
            batch_ratio=own.stability_ratio,
            batch_update_ratio=own.update_stability_ratio,
            predicted_change=own.predicted_loss_change,
        )
        vector = self._fixed.top_vector
        if vector is not None and step >= _BATCHES:
            self._write(step, mean_square_ratio=self._mean_square(step, vector, preconditioner))

    def _mean_square(self, step: int, vector: Tensor, preconditioner: Preconditioner) -> float:
        images = [
            self._direction.image(self._run.batch(at), preconditioner, vector)
            for at in range(step - _BATCHES + 1, step + 1)
        ]
        middle = sum(images[1:], images[0]) / len(images)
        mean = float(vector @ middle)
        if not mean > 0:
            return math.nan  # along a direction of negative curvature nothing oscillates
        variance = sum(float((image - middle).square().sum()) for image in images) / (len(images) - 1)
        return mean_square_ratio(preconditioner.recursion, learning_rate=2.0, mean=mean, variance=variance)

    def _write(self, step: int, **values: float) -> None:
        for name, value in values.items():
            self._columns.setdefault(name, []).append((step, float(value)))


def _gradients_and_moments(run: LongRun) -> tuple[list[Tensor], list[Tensor]]:
    optimizer = run.training.optimizer
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    moments = [
        optimizer.state[p]["exp_avg_sq"] for p in parameters if "exp_avg_sq" in optimizer.state.get(p, {})
    ]
    return [p.grad for p in parameters if p.grad is not None], moments
