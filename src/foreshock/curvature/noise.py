r"""The mean of the curvature and its variance from batch to batch, from the parts of one batch.

In mini-batch training λ_max(Ĥ) < 2/η does not imply stability: what decides is mean-square stability under a
*random* curvature (`foreshock.dynamics.mean_square_ratio`). The mean and the variance of that curvature along
a direction w are estimated from two halves of a batch, or from the micro-batches of an accumulation, without
any Hessian product. With S_j = A^{1/2}H_jA^{1/2} of part j, and h_j ≈ S_j w from two gradients,

.. math:: h_j = A^{1/2}\,[g_j(θ + ρA^{1/2}w) - g_j(θ)]/ρ, \qquad \bar h = \sum_j p_j h_j, \qquad
    μ = w^\top\bar h, \qquad σ^2 = \frac{1}{k - 1}\sum_j p_j\lVert h_j - \bar h\rVert^2,

where p_j is the share of part j in the batch. σ² is the variance of S_B w of the whole batch, unbiased if the
examples are independent. ρ is the length of the step about to be taken in the metric A⁻¹: the curvature is
averaged over the same distance as in training. After each measurement w moves towards h̄, by one step of a
power iteration that is spread over training: w ← w + 0.3·h̄/‖h̄‖, normalised.

Each part has random numbers of its own, the same ones at both points: batches differ in them too. Of a batch
of B examples instead of the usual B₀, σ² is B₀/B as large as usual; it is given for the usual size, as
σ²·B/B₀. Of a loss that is a sum, μ and σ² grow with B, and both are given times B₀/B.

Taking σ² from the products of successive whole batches instead would overestimate it, since the drift of w
and S from step to step would count as noise. The parts of one batch share both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from foreshock.curvature.weights import EXAMPLES, SUM, PartLosses, PartWeights
from foreshock.distributed import ALONE, Joint
from foreshock.distributed.joint import CURVATURES, GRADIENTS
from foreshock.dynamics import LinearRecursion, mean_square_ratio
from foreshock.isolation import RandomState
from foreshock.operators import Evaluation, GradientFunction, LossTerm, displaced, normalised_terms
from foreshock.operators.cost import GRADIENT_PASSES
from foreshock.preconditioner import Preconditioner
from foreshock.representation import short_repr
from foreshock.vectors import reciprocal, turned, unit

# Coordinates whose D is below this fraction of its root mean square are left out. D is near zero in rows of
# an embedding that were hardly ever used: A = cη/2D is unbounded there and would swamp mean and variance.
_LEAST_DENOMINATOR = 1e-3


@dataclass(frozen=True)
class NoiseReading:
    """The curvature along one direction and its variance from batch to batch, at one step.

    Curvatures are in multiples of the full-batch edge, step sizes of all parameter groups folded in.

    Attributes:
        step: Step of the reading.
        mean: μ, the curvature of the batch along w: a lower bound of its stability ratio.
        variance: σ² of S_B w between batches of the usual size, summed over all directions.
        variance_along: The part of σ² that lies along w.
        noise_factor: n/c, by which momentum discounts the mean curvature but not its noise: 19 at β₁ = 0.9.
        gradient_signal: ‖A^{1/2}E[g]‖², unbiased; it can be negative where noise dominates.
        gradient_noise: Variance of A^{1/2}g between batches of the usual size.
        loss_mismatch: Relative difference between the batch's loss and the weighted mean of its parts, NaN if
            it was not compared. Random numbers in the loss (dropout) make it differ from zero at random. If
            its mean is not small, the loss is not the mean of its parts (batch normalisation), and σ² is too
            large.
        parts: Number of parts k.
        seconds: Wall time of the measurement.
        passes: What the measurement cost in F, forward and backward passes of the batch: two of each part.
        examples: Number of examples of the batches that the variances are of; NaN if unknown.
        weighting: What the loss is a mean over, by its values: ``"examples"``, or ``"batch['labels'] !=
            -100"``; ``"sum"`` if it is a sum.
    """

    step: int
    mean: float
    variance: float
    variance_along: float
    noise_factor: float
    gradient_signal: float
    gradient_noise: float
    loss_mismatch: float
    parts: int
    seconds: float
    passes: float = math.nan
    examples: float = math.nan
    weighting: str = EXAMPLES

    __repr__ = short_repr

    def __str__(self) -> str:
        """Return one line for people."""
        return (
            f"step {self.step}: curvature {self.mean:.3g} of the edge, standard deviation between batches "
            f"{math.sqrt(max(self.variance, 0)):.3g}"
        )


def measure_noise(
    parts: Sequence[LossTerm],
    preconditioner: Preconditioner,
    *,
    step: int,
    direction: Tensor | None = None,
    model: nn.Module | None = None,
    loss: float = math.nan,
    weigh: Callable[[PartLosses], PartWeights] | None = None,
    keep: Callable[[Evaluation], None] | None = None,
    joint: Joint = ALONE,
) -> tuple[NoiseReading, Tensor]:
    """Measure the curvature along a direction, and its variance between batches, from the parts of a batch.

    Call it inside `isolated`. Cost: two gradients of each part, 2 F in all, and no Hessian product.

    Args:
        parts: The mean losses of at least two parts of the batch, weighted by their numbers of examples.
        preconditioner: The step about to be taken.
        step: Step number to put into the reading.
        direction: w of shape (n,), as returned by the last measurement; None for the preconditioned
            gradient. A vector of another size is ignored: the trained parameters have changed.
        model: The model that the loss evaluates, whose buffers are restored after each evaluation.
        loss: Loss of the whole batch, to compare the parts with; NaN if unknown.
        weigh: Returns how the parts make up the batch, from their losses; None for a mean that is weighted as
            `parts` says.
        keep: Called with loss and gradient of the whole batch, from those of its parts.
        joint: The processes that measure together. Of several, the numbers of the reading are summands: their
            sums over all processes are the reading of all parts.

    Returns:
        The reading, and the direction for the next measurement.

    Raises:
        ValueError: If there are fewer than two parts, or the step moves no parameter.
        FloatingPointError: If a gradient is not finite.

    Example:
        Half the batch has curvature 2 and half 6 along the only parameter; at η = 0.5 the ratios are half
        of 2/η = 4, so the mean is 1, and the variance of the mean of two such halves is 0.25:

        >>> from foreshock.preconditioner import read_preconditioner
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> parts = [LossTerm(lambda: (1 * weight**2).sum()), LossTerm(lambda: (3 * weight**2).sum())]
        >>> (2 * weight**2).sum().backward()
        >>> reading, _ = measure_noise(parts, read_preconditioner(optimizer), step=1)
        >>> round(reading.mean, 6), round(reading.variance, 6)
        (1.0, 0.25)
    """
    began = time.perf_counter()
    terms = normalised_terms(parts)
    if len(terms) < 2:
        raise ValueError(
            f"the batch has {len(terms)} part, which has no variance: pass at least two micro-batches, or a "
            "batch of at least two examples"
        )
    # In the coordinates of S a gradient g is A^{1/2}g.
    root = _trusted_root(preconditioner)
    measured = [_Part.start(term, preconditioner, model) for term in terms]
    losses = PartLosses(
        tuple(float(one.here.loss) for one in measured),
        tuple(term.weight for term in terms),
        loss,
        random=any(one.random for one in measured),
    )
    weights = PartWeights.of_mean(losses.shares) if weigh is None else weigh(losses)
    gradients = _Spread.of([one.here.gradient * root for one in measured], weights, joint, GRADIENTS)
    _require_finite(gradients.variance)
    if keep is not None:
        keep(_whole([one.here for one in measured], weights))
    w = None if direction is None or direction.shape != root.shape else unit(direction * (root > 0))
    w = unit(gradients.mean) if w is None else w
    length = _step_length(preconditioner, root)
    if w is None or not 0 < length < math.inf:
        raise ValueError(_unmoved(preconditioner))
    # One-sided differences, for the gradients here are known already. Over the length of a whole step their
    # truncation is wanted: training feels the same average of the curvature.
    with displaced(preconditioner.parameters, w * root, by=length):
        there = [one.gradient_at() for one in measured]
    products = [
        new.gradient.sub_(old.here.gradient).mul_(root).mul_(preconditioner.sign / length)
        for old, new in zip(measured, there, strict=True)
    ]
    curvature = _Spread.of(products, weights, joint, CURVATURES)
    _require_finite(curvature.variance)
    mean = float(torch.dot(w, curvature.mean))
    reading = NoiseReading(
        step=step,
        mean=mean / joint.size,
        variance=curvature.variance,
        variance_along=curvature.along(w),
        noise_factor=_noise_factor(preconditioner.recursion, mean),
        # E‖ḡ‖² = ‖E[g]‖² + variance, hence the difference.
        gradient_signal=float(gradients.mean @ gradients.mean) / joint.size - gradients.variance,
        gradient_noise=gradients.variance,
        loss_mismatch=joint.share * abs(weights.mismatch(losses)),
        parts=curvature.parts,
        seconds=time.perf_counter() - began,
        passes=2 * GRADIENT_PASSES,
    )
    return reading, turned(w, curvature.mean)


def at_usual_size(reading: NoiseReading, *, examples: float, usual: float) -> NoiseReading:
    """Return what a reading would be with batches of the usual size.

    Of a mean over B examples σ² is in proportion to 1/B, of a sum both μ and σ² are in proportion to B.

    Args:
        reading: A reading of a batch of another size.
        examples: B > 0, its number of examples.
        usual: B₀ > 0, that of the usual batch.

    Example:
        >>> reading = NoiseReading(1, 0.3, 0.01, 0.001, 19.0, 1e-3, 1e-2, 0.0, 2, 0.1)
        >>> round(at_usual_size(reading, examples=12, usual=16).variance, 6)
        0.0075
    """
    is_sum = reading.weighting == SUM
    factor = usual / examples if is_sum else examples / usual
    return replace(
        reading,
        mean=reading.mean * (factor if is_sum else 1.0),
        variance=reading.variance * factor,
        variance_along=reading.variance_along * factor,
        gradient_signal=reading.gradient_signal * (factor**2 if is_sum else 1.0),
        gradient_noise=reading.gradient_noise * factor,
        examples=usual,
    )


@dataclass(frozen=True)
class _Part:
    """The gradient of one part of a batch, with random numbers of its own that each evaluation repeats."""

    gradient_at: GradientFunction
    here: Evaluation
    random: bool

    @classmethod
    def start(cls, term: LossTerm, preconditioner: Preconditioner, model: nn.Module | None) -> _Part:
        """Evaluate a part, and leave the generators where the next part should go on."""
        after: list[RandomState] = []

        def closure() -> Tensor:
            loss = term.closure()
            if not after:  # the second evaluation draws the same numbers
                after.append(gradient_at.start.now(others=False))
            return loss

        alone = LossTerm(closure)
        gradient_at = GradientFunction((alone,), preconditioner.parameters, model)
        here = gradient_at()
        after[0].restore()
        return cls(gradient_at, here, random=not is_same_state(gradient_at.start, after[0]))


def is_same_state(one: RandomState, other: RandomState) -> bool:
    """Return whether no random number was drawn between two states of the generators.

    Args:
        one: The state before.
        other: The state after, of the same devices.
    """
    return (
        torch.equal(one.torch_cpu, other.torch_cpu)
        and all(torch.equal(state, other.torch_cuda[index]) for index, state in one.torch_cuda.items())
        and one.python == other.python
        and (
            one.numpy is other.numpy
            or all(np.array_equal(a, b) for a, b in zip(one.numpy, other.numpy, strict=True))
        )
    )


@dataclass(frozen=True)
class _Spread:
    """Weighted mean of the parts' vectors, and the variance of that mean between batches.

    Of several processes the mean is over the parts of all, `shares` are those in the whole, and each has its
    summand of the variance.
    """

    mean: Tensor
    vectors: list[Tensor]
    shares: tuple[float, ...]
    parts: int

    @classmethod
    def of(cls, vectors: list[Tensor], weights: PartWeights, joint: Joint, topic: int) -> _Spread:
        vectors = [joint.reduced(vector) for vector in vectors]
        if any(scale != 1 for scale in weights.scales):
            vectors = [vector * scale for vector, scale in zip(vectors, weights.scales, strict=True)]
        mean = vectors[0] * weights.shares[0]
        for vector, share in zip(vectors[1:], weights.shares[1:], strict=True):
            mean.add_(vector, alpha=share)
        mean, (parts,) = joint.mean(mean, len(vectors), topic=topic)
        return cls(mean, vectors, tuple(joint.share * share for share in weights.shares), round(parts))

    @cached_property
    def variance(self) -> float:
        apart = torch.empty_like(self.mean)
        return self._pooled(
            [
                float(torch.linalg.vector_norm(torch.sub(vector, self.mean, out=apart))) ** 2
                for vector in self.vectors
            ]
        )

    def along(self, direction: Tensor) -> float:
        middle = float(torch.dot(direction, self.mean))
        return self._pooled([(float(torch.dot(direction, v)) - middle) ** 2 for v in self.vectors])

    def _pooled(self, squares: list[float]) -> float:
        # A part with the share p of the batch deviates with the variance σ²/p, so each p·‖h − h̄‖² estimates
        # σ² but for the one degree of freedom that the mean takes.
        weighted = sum(share * square for share, square in zip(self.shares, squares, strict=True))
        return weighted / (self.parts - 1)


def _unmoved(preconditioner: Preconditioner) -> str:
    """Return why a step has no edge of stability."""
    if preconditioner.largest_rate > 0:
        return (
            "the step about to be taken has no finite length, though the learning rate is above 0: all "
            "gradients are zero, or the optimizer's second moment has overflowed, as in single precision "
            "after a gradient above 1.8e19: lower the learning rate, or leave out steps with such gradients"
        )
    return (
        "every learning rate is 0, or no parameter has a gradient, so this step moves nothing and has no "
        "edge of stability: measure between backward() and step(), at a learning rate above 0"
    )


def _require_finite(variance: float) -> None:
    if not math.isfinite(variance):
        raise FloatingPointError(
            "a gradient of a part of the batch is not finite: look for NaN or Inf in the batch and in the "
            "parameters, or for a loss that is not defined on a part of a batch"
        )


def _whole(parts: Sequence[Evaluation], weights: PartWeights) -> Evaluation:
    """Return loss and gradient of the whole batch."""
    gradient, loss = torch.zeros_like(parts[0].gradient), torch.zeros_like(parts[0].loss)
    for one, share, scale in zip(parts, weights.shares, weights.scales, strict=True):
        gradient.add_(one.gradient, alpha=share * scale)
        loss.add_(one.loss, alpha=share * scale)
    return Evaluation(loss, gradient)


def _trusted_root(preconditioner: Preconditioner) -> Tensor:
    root = preconditioner.scale_root()
    # Zero where nothing moves. Few passes, and none by a mask: this takes as long as a small gradient.
    denominator = reciprocal(root)
    denominator.mul_(denominator)
    moving = torch.count_nonzero(root)
    usual = torch.linalg.vector_norm(denominator) / moving.clamp(min=1).sqrt()
    return root.masked_fill(denominator < _LEAST_DENOMINATOR * usual, 0)


def _step_length(preconditioner: Preconditioner, root: Tensor) -> float:
    """Return √(uᵀA⁻¹u) of the step about to be taken."""
    return float(torch.linalg.vector_norm(reciprocal(root).mul_(preconditioner.descent())))


def _noise_factor(recursion: LinearRecursion, mean: float) -> float:
    """Return n/c, which depends on the mean only if the step has a share of the gradient itself."""
    # Beyond the edge the ratio is infinite and below zero not defined; between, n/c changes slowly.
    mean = min(max(mean, 1e-3), 1.0)
    ratio = mean_square_ratio(recursion, learning_rate=2.0, mean=mean, variance=1.0)
    return (ratio - mean) * mean
