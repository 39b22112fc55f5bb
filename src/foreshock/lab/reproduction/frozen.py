r"""Is it v, or is it the landscape? λ_max with one of the two held at an earlier step.

Between a reference step t₀ and a later step t the stability ratio splits into

.. math:: \ln\frac{λ(D_t, H_t)}{λ(D_{t_0}, H_{t_0})}, \quad
    \ln\frac{λ(D_t, H_{t_0})}{λ(D_{t_0}, H_{t_0})} \text{ (only v moved)}, \quad
    \ln\frac{λ(D_{t_0}, H_t)}{λ(D_{t_0}, H_{t_0})} \text{ (only the landscape moved)}.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.curvature import loss_terms
from foreshock.eigen import StoppingRule, largest_eigenvalue
from foreshock.isolation import isolated
from foreshock.lab.reproduction.plan import Moment
from foreshock.operators import PreconditionedOperator, choose_backend, hessian_operator
from foreshock.preconditioner import read_preconditioner

# In mini-batches the window ends this many steps before the loss reaches 3 × its median: a loss that has left
# its level changes the landscape by itself.
_MARGIN = 10


@dataclass(frozen=True)
class Growth:
    """How ln λ_max(Ĥ) grew over a window, and its two parts.

    Attributes:
        step: Last step of the window.
        length: Its length in steps.
        total: Growth with both.
        preconditioner: Growth with H frozen at the start.
        landscape: Growth with D frozen at the start.
    """

    step: int
    length: int
    total: float
    preconditioner: float
    landscape: float

    @property
    def share(self) -> float:
        """The preconditioner's part of the sum of both parts, cut to [0, 1]; NaN where nothing grew."""
        own, other = max(self.preconditioner, 0.0), max(self.landscape, 0.0)
        return own / (own + other) if own + other > 0 else math.nan

    def parts(self) -> dict[str, float]:
        """Return the growth, its two parts and the share of the first, by name."""
        return {
            "total": self.total,
            "preconditioner": self.preconditioner,
            "landscape": self.landscape,
            "share": self.share,
        }


@dataclass(frozen=True)
class Point:
    """A point of a training: what λ_max(Ĥ) depends on there.

    Attributes:
        step: Its step.
        parameters: The parameters.
        scale_root: A^{1/2} of the step about to be taken, over all parameters.
    """

    step: int
    parameters: list[Tensor]
    scale_root: Tensor


class CauseWatch:
    """Split the growth of λ_max(Ĥ) over a window before each event.

    An event is, in full batch, a rise of λ_max(Ĥ) through 2/η. In mini-batches it is a loss (the mean of
    five) above 3 × the median of the 100 steps before; the window then ends at least 10 steps earlier,
    before the loss has left its level, which changes the landscape by itself.

    Args:
        whole: The whole training set, on which curvature is measured.
        window: Least length of the window; it is at most a quarter longer.
        full_batch: Which events count.
        start: First step that counts.
        limit: Most events.

    Attributes:
        growths: What was found.
    """

    def __init__(
        self, whole: Any, *, window: int = 40, full_batch: bool = True, start: int = 150, limit: int = 12
    ) -> None:
        self.growths: list[Growth] = []
        self._whole, self._window, self._full_batch = whole, window, full_batch
        self._start, self._limit = start, limit
        self._stride, self._margin = max(window // 4, 1), 0 if full_batch else _MARGIN
        self._points: deque[Point] = deque(maxlen=6 + -(-self._margin // self._stride))
        self._losses: deque[float] = deque(maxlen=105)
        self._armed = True

    def done(self) -> bool:
        """Return whether the most events were found."""
        return len(self.growths) >= self._limit

    def __call__(self, moment: Moment) -> None:
        """Look at one step."""
        if not self.done():
            if moment.step % self._stride == 0:
                self._points.append(point_of(moment))
            if self._happens(moment) and moment.step >= self._start:
                self._split(moment)
        self._losses.append(moment.loss)

    def _happens(self, moment: Moment) -> bool:
        high, low = self._level(moment)
        happens = self._armed and high
        self._armed = low if not self._armed else not high
        return happens

    def _level(self, moment: Moment) -> tuple[bool, bool]:
        """Return whether the signal is above its bar, and whether it is low enough to count anew."""
        if self._full_batch:
            return moment.ratio >= 1, moment.ratio < 0.99
        if len(self._losses) < 105:
            return False, True
        losses = np.array(self._losses)
        smooth, level = float(np.mean([*losses[-4:], moment.loss])), float(np.median(losses[:-5]))
        return smooth > 3 * level, smooth < 1.5 * level

    def _split(self, moment: Moment) -> None:
        now = self._last_until(moment.step - self._margin) if self._margin else point_of(moment)
        then = None if now is None else self._last_until(now.step - self._window)
        growth = None if now is None or then is None else split_growth(moment, self._whole, then, now)
        if growth is not None:
            self.growths.append(growth)

    def _last_until(self, step: int) -> Point | None:
        return next((point for point in reversed(self._points) if point.step <= step), None)


def point_of(moment: Moment) -> Point:
    """Keep what λ_max(Ĥ) of a moment depends on: the parameters, and the step size of each.

    Args:
        moment: Between ``backward()`` and ``step()``.
    """
    preconditioner = read_preconditioner(moment.optimizer)
    parameters = [parameter.detach().clone() for parameter in preconditioner.parameters]
    return Point(moment.step, parameters, preconditioner.scale_root())


def split_growth(moment: Moment, whole: Any, then: Point, now: Point) -> Growth | None:
    """Split the growth of ln λ_max(Ĥ) between two points of a training. Cost: four eigenvalues.

    Args:
        moment: Model, loss and optimizer of that training at any of its steps; they are left as they are.
        whole: The batch on which curvature is measured.
        then: The earlier point.
        now: The later one.

    Returns:
        The parts; None if one of the four eigenvalues is not positive, which leaves no logarithm.
    """
    with torch.no_grad():
        both_then, v_now, v_then, both_now = (
            _ratio(moment, whole, place, scale)
            for place, scale in ((then, then), (then, now), (now, then), (now, now))
        )
    if not min(both_then, v_now, v_then, both_now) > 0:
        return None
    return Growth(
        now.step,
        now.step - then.step,
        total=math.log(both_now / both_then),
        preconditioner=math.log(v_now / both_then),
        landscape=math.log(v_then / both_then),
    )


def _ratio(moment: Moment, batch: Any, place: Point, scale: Point) -> float:
    """Return λ_max of the Hessian at one point preconditioned by the step size of another."""
    preconditioner = read_preconditioner(moment.optimizer)
    parameters = preconditioner.parameters
    present = [parameter.detach().clone() for parameter in parameters]
    loss = loss_terms(moment.model, moment.loss_fn, batch)
    try:
        _move(parameters, place.parameters)
        with torch.enable_grad(), isolated(moment.model):
            choice = choose_backend(loss, parameters, model=moment.model)
            with hessian_operator(choice, loss, parameters, model=moment.model) as hessian:
                operator = PreconditionedOperator(
                    hessian, scale.scale_root, shift=preconditioner.coupled_decay(), sign=preconditioner.sign
                )
                # The same start each time, so that the four eigenvalues differ by operator alone.
                start = torch.randn(scale.scale_root.shape, generator=torch.Generator().manual_seed(0))
                rule = StoppingRule(relative_tolerance=0.01)
                return largest_eigenvalue(operator, start.to(scale.scale_root), rule).value
    finally:
        _move(parameters, present)


def _move(parameters: tuple[Tensor, ...], places: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, place in zip(parameters, places, strict=True):
            parameter.copy_(place)
