"""The free signals of each training step: what loss, gradients and optimizer state show without a probe."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.curvature import CurvatureReading, FollowedRatio, Prober
from foreshock.dynamics import SecondMomentSums, second_moment_lag
from foreshock.dynamics.signals import total
from foreshock.forecast import EdgeReading
from foreshock.monitor.following import FollowedSums, GradientSize
from foreshock.preconditioner import (
    Preconditioner,
    live_groups,
    read_gradient_norm,
    read_second_moment_sums,
    unwrap,
    updates_made,
)
from foreshock.representation import short_repr

_LONGEST_INTERVAL = 50
_READ_AFTER_FAILURE = 200
_REMEMBERED = 50  # steps whose gradients are known tensor by tensor
_TOLERANCE = 1e-2  # relative, of a norm that is given
_ERRORS_IN_BOUND = 10  # what a forecast takes for a bound is about ten times the error: see `crossing`


@dataclass(frozen=True)
class StepObservation:
    """The free signals of one training step.

    Attributes:
        step: Number of updates before this one.
        loss: The training loss.
        gradient_norm: ‖g‖ over all parameters of the optimizer, as it gets it: after clipping.
        learning_rate: The largest η of a parameter group.
        instant_lag: v above g² at this step, Σv̂/Σg²; infinity at a zero gradient, NaN without a second
            moment. The `lag` of a forecast looks at some dozens of steps.
        decay_exponent: log(Σv_t/Σv_{t−1})/log β₂.
        squared_gradient: Σg² over the coordinates that have a second moment, or over all if none has.
        second_moment: Σv̂ over them; NaN if none has.
        batch_size: Number of examples in the batch; None if unknown.
        batch_elements: Number of values in all tensors of the batch; None if it has none. Over `batch_size`
            it is the length of sequences, up to a factor.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    instant_lag: float
    decay_exponent: float
    squared_gradient: float
    second_moment: float
    batch_size: int | None = None
    batch_elements: int | None = None

    __repr__ = short_repr


class _Context(NamedTuple):
    """What the host knows of a step before anything is read back."""

    step: int
    learning_rate: float | Tensor
    batch_size: int | None
    batch_elements: int | None


class FreeSignals:
    """Take the free signals of step after step, between ``backward()`` and ``step()``.

    A step leaves its numbers on the device (`FollowedSums`): one norm of the gradients, or none if the
    training loop knows it, and no host read. `fetch` reads back what has gathered. The true Σv is read after
    1, 2, 4, … and then every 50 steps, and whenever something changed that the recursion can't know: other
    parameters have a gradient, β₂ is another one, a guard raised v. Where the recursion turns out not to hold
    (coupled weight decay adds to g; a state was loaded) the true sums are read at each step.

    Args:
        optimizers: The optimizers.
        weights: Where parameters are spread over processes, one over the number of those that have a copy, by
            identity; then all numbers but the loss are this process's part of sums over all.

    Attributes:
        updates: Number t of the update about to be taken, if this step was a true reading; else None.
        wrong_norm: The norm of ``.grad`` and the one that was given for it, if they differ by more than a
            hundredth; the given one is not used from then on.
    """

    def __init__(self, optimizers: Sequence[Optimizer], weights: Mapping[int, float] | None = None) -> None:
        self._optimizers, self._weights = tuple(optimizers), weights
        self._followed: FollowedSums | None = None
        self._ready: list[StepObservation] = []
        self._waiting: list[_Context] = []
        self._interval = 1  # steps from one true reading to the next
        self._reads_left = 0  # steps on which the true sums are read because the recursion failed
        # ‖g‖ of each tensor at the last steps, which came with the transfer: where a gradient jumped.
        self._tensor_norms: deque[tuple[int, Sequence[Tensor], tuple[float, ...]]] = deque(maxlen=_REMEMBERED)
        self.updates: int | None = None
        self.wrong_norm: tuple[float, float] | None = None

    def take(
        self,
        loss: Tensor | float,
        *,
        step: int,
        size: GradientSize,
        batch_size: int | None = None,
        batch_elements: int | None = None,
        reading: bool = True,
    ) -> None:
        """Take a step: leave its numbers on the device if they can be followed, read them else.

        Args:
            loss: Loss of the step, a scalar.
            step: Step number.
            size: What is known of the size of ``.grad``.
            batch_size: Number of examples in its batch.
            batch_elements: Number of values in its tensors.
            reading: Whether numbers are read back at this step anyway, so that a true reading that is due may
                be made. One that can't be put off is made at any step.
        """
        self.updates = None
        if self.wrong_norm is not None or self._weights is not None:
            size = GradientSize(scale=size.scale)
        # What can be followed is wrapped by nothing, so that its groups are the live ones.
        groups = (
            one.param_groups if self._followed is not None else live_groups(one) for one in self._optimizers
        )
        rates = [group["lr"] for members in groups for group in members]
        context = _Context(step, _largest(rates), batch_size, batch_elements)
        longer = not (reading or self._reads_left)
        if self._followed is not None and self._followed.take(loss, size, longer=longer):
            self._waiting.append(context)
            return
        self._gather()
        context = context._replace(learning_rate=float(context.learning_rate))
        # Of the step about to be taken: v_t with its present gradient, which the optimizer has not seen.
        scale, weights = size.scale, self._weights
        sums = read_second_moment_sums(self._optimizers, gradient_scale=scale, weights=weights)
        norm = read_gradient_norm(self._optimizers, gradient_scale=scale, weights=weights)
        self._ready.append(_observation(context, float(loss), norm, sums))
        self._compare(norm, size)
        self.updates = _updates_made(self._optimizers)
        self._follow(sums)

    def fetch(self) -> list[StepObservation]:
        """Return the steps since the last fetch, in order; one transfer for all that were followed."""
        self._gather()
        ready, self._ready = self._ready, []
        return ready

    def tensor_norms(self, step: int) -> tuple[Sequence[Tensor], tuple[float, ...], list[float]] | None:
        """Return the tensors, the norms of their gradients at a step, and the medians of the steps before.

        Args:
            step: A step that was fetched lately.

        Returns:
            None where single norms are unknown: one over all was given, or the true sums were read.
        """
        at = next((one for one in self._tensor_norms if one[0] == step), None)
        if at is None:
            return None
        _, parameters, norms = at
        before = [one[2] for one in self._tensor_norms if one[0] < step and len(one[2]) == len(norms)]
        usual = (
            [median(column) for column in zip(*before, strict=True)] if before else [math.nan] * len(norms)
        )
        return parameters, norms, usual

    def renumber(self, step: int) -> None:
        """Give the step that was read last another number.

        Args:
            step: Step number.
        """
        self._ready[-1] = replace(self._ready[-1], step=step)

    def refresh(self) -> None:
        """Read the true sums at the next step: v was changed from outside."""
        self._gather()
        self._followed = None

    def _gather(self) -> None:
        if self._followed is None or not self._waiting:
            return
        contexts, self._waiting = _with_plain_rates(self._waiting), []
        followed = self._followed
        for context, seen in zip(contexts, followed.fetch(), strict=True):
            self._ready.append(_observation(context, seen.loss, seen.norm, seen.sums))
            if seen.norms:
                self._tensor_norms.append((context.step, followed.parameters, seen.norms))
            if seen.sums is None:
                self._followed = None

    def _follow(self, sums: Sequence[SecondMomentSums]) -> None:
        """Follow the sums from here on by their recursion, unless it failed lately."""
        if self._followed is not None:
            # Trust has to be earned: each reading that the recursion foretold doubles the way to the next.
            agrees = self._followed.agrees(sums)
            self._interval = min(2 * self._interval, _LONGEST_INTERVAL) if agrees else 1
            self._reads_left = _READ_AFTER_FAILURE if agrees is False else max(self._reads_left - 1, 0)
        steps = 0 if self._reads_left else self._interval - 1
        self._followed = FollowedSums.start(self._optimizers, sums, steps=steps, weights=self._weights)

    def _compare(self, norm: float, size: GradientSize) -> None:
        if size.norm is None or not math.isfinite(norm):
            return
        given = size.seen_by_optimizer(float(size.norm))
        if not abs(given - norm) <= _TOLERANCE * norm:
            self.wrong_norm = norm, given


def _largest(rates: Sequence[float | Tensor]) -> float | Tensor:
    """Return the largest learning rate, a tensor if there are some: then it may lie on the device."""
    tensors = [one.detach().reshape(()) for one in rates if isinstance(one, Tensor)]
    known = max([one for one in rates if not isinstance(one, Tensor)], default=-math.inf)
    if not tensors:
        return float(known)
    # A new tensor, also of a single one: a schedule writes into its own.
    largest = torch.stack([one.to(tensors[0]) for one in tensors]).max()
    return largest.clamp(min=known) if known > -math.inf else largest


def _with_plain_rates(contexts: Sequence[_Context]) -> list[_Context]:
    """Return what the host knows of some steps, learning rates included; one transfer at most."""
    rates = [one.learning_rate for one in contexts]
    tensors = [one for one in rates if isinstance(one, Tensor)]
    if not tensors:
        return list(contexts)
    fetched = iter(torch.stack([one.to(tensors[0]) for one in tensors]).tolist())
    plain = [next(fetched) if isinstance(one, Tensor) else one for one in rates]
    return [one._replace(learning_rate=rate) for one, rate in zip(contexts, plain, strict=True)]


def _updates_made(optimizers: Sequence[Optimizer]) -> int | None:
    """Return the number of the update about to be taken: one above the largest count of any parameter.

    None where the optimizer counts none, or not in the states of its parameters.
    """
    kept = [state for one in optimizers for state in unwrap(one).state.values() if state]
    states = [state for state in kept if "step" in state]
    if kept and not states:
        return None
    if not states:
        known = any("betas" in group or "alpha" in group for one in optimizers for group in one.param_groups)
        return 1 if known else None
    return 1 + max(updates_made(states))


def _observation(
    context: _Context, loss: float, norm: float, sums: Sequence[SecondMomentSums] | None
) -> StepObservation:
    known = sums or ()
    lag = second_moment_lag(known)
    return StepObservation(
        step=context.step,
        loss=loss,
        gradient_norm=norm,
        learning_rate=float(context.learning_rate),
        instant_lag=lag.instant_lag,
        decay_exponent=lag.decay_exponent,
        # v and g² over the same coordinates, so that their quotient is one where v follows.
        squared_gradient=total([part.squared_gradient for part in known]) if known else norm * norm,
        second_moment=total([part.corrected for part in known]) if known else math.nan,
        batch_size=context.batch_size,
        batch_elements=context.batch_elements,
    )


SUMS = 4
"""Numbers of a step that are sums over parameters, see `sums_of`."""


def sums_of(seen: StepObservation, beta2: float | None) -> tuple[float, ...]:
    """Return what of a step's signals can be added up over processes that have parts of the parameters.

    Σg², Σg² over the coordinates with a second moment, Σv̂, and Σv of the step before in the same units.

    Args:
        seen: The signals of this process's part.
        beta2: β₂; None if there is none.
    """
    moment, decayed = seen.second_moment, 0.0
    if moment != 0:
        decayed = moment / (beta2 or math.nan) ** seen.decay_exponent
    return seen.gradient_norm**2, seen.squared_gradient, moment, decayed


def with_sums(seen: StepObservation, sums: Sequence[float], beta2: float | None) -> StepObservation:
    """Return a step's signals with sums over all processes; see `sums_of`.

    Args:
        seen: The signals of this process's part.
        sums: What `sums_of` returned, added up.
        beta2: β₂; None if there is none.
    """
    norm, squared, moment, before = sums
    exponent = seen.decay_exponent
    if beta2 is not None and moment > 0 and before > 0:
        exponent = math.log(moment / before) / math.log(beta2)
    return replace(
        seen,
        gradient_norm=math.sqrt(norm) if norm >= 0 else math.nan,
        squared_gradient=squared,
        second_moment=moment,
        instant_lag=moment / squared if squared > 0 else math.inf if squared == 0 else math.nan,
        decay_exponent=exponent,
    )


def edge_reading(
    seen: StepObservation,
    reading: CurvatureReading,
    preconditioner: Preconditioner,
    *,
    before: tuple[float, FollowedRatio] | None = None,
) -> EdgeReading:
    """Return the plain numbers of a reading and its step that a forecast takes.

    Args:
        seen: The free signals of the step.
        reading: The curvature at that step.
        preconditioner: The step about to be taken.
        before: The ratio as it was followed to this step, and the measurement that it was followed from.
    """
    since, preconditioner_growth, landscape_growth = None, math.nan, math.nan
    if before is not None:
        followed, last = before
        preconditioner_growth = _growth(last.ratio, followed, steps=seen.step - last.step)
        landscape_growth = _growth(followed, reading.stability_ratio, steps=seen.step - last.step)
        since = last.step if math.isfinite(preconditioner_growth + landscape_growth) else None
    return replace(
        _of_the_step(seen, reading.stability_ratio, preconditioner),
        relative_error=reading.relative_error,
        gradient_stability_ratio=reading.gradient_stability_ratio,
        predicted_loss_change=reading.predicted_loss_change,
        alignment=reading.alignment,
        excess_loss=reading.excess_loss,
        measured=seen.step,
        since=since,
        preconditioner_growth=preconditioner_growth,
        landscape_growth=landscape_growth,
    )


def followed_reading(
    seen: StepObservation, prober: Prober, preconditioner: Preconditioner, *, drift: float
) -> EdgeReading | None:
    """Return what a forecast takes of a ratio that was followed to a step; None if there is none, or no news.

    Args:
        seen: The free signals of the step.
        prober: The prober, which has the last measurement.
        preconditioner: The step about to be taken.
        drift: How fast a followed ratio goes wrong, relative, a step.
    """
    ratio, since = prober.follow(preconditioner), prober.measured
    # Without a second moment, and at the same learning rate, nothing has changed that could be followed.
    if ratio is None or since is None or ratio == since.ratio:
        return None
    age = seen.step - since.step
    slope = since.slope(preconditioner)
    return replace(
        _of_the_step(seen, ratio, preconditioner),
        excess_loss=slope**2 / (2 * ratio) if ratio > 0 else math.nan,
        relative_error=since.relative_error + drift * _ERRORS_IN_BOUND * age,
        measured=since.step,
        since=since.step,
        preconditioner_growth=_growth(since.ratio, ratio, steps=age),
    )


def _of_the_step(seen: StepObservation, ratio: float, preconditioner: Preconditioner) -> EdgeReading:
    """Return a reading with what it takes of its step, however the ratio was found."""
    recursion = preconditioner.recursion
    return EdgeReading(
        stability_ratio=ratio,
        learning_rate=preconditioner.largest_rate,
        instant_lag=seen.instant_lag,
        loss=seen.loss,
        beta1=recursion.decay,
        direct_share=recursion.direct,
    )


def _growth(before: float, after: float, *, steps: int) -> float:
    """Return the growth of the logarithm a step; NaN without one."""
    return math.log(after / before) / steps if before > 0 and after > 0 and steps > 0 else math.nan
