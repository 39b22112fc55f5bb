r"""Numbers of one observed step → what is wrong between training and `loss_fn`, if anything is.

A probe knows the loss and the gradient of `loss_fn` on the batch. Training has a loss of its own, and a
``.grad``. With k the quotient of the losses and f the projection g·g_p/‖g_p‖² of the gradients,

=============================  ==================================================================
k = f ≠ 1, same direction      the loss is a sum on one side and a mean on the other
k = 1, f a power of two        the scale of a gradient scaler was not passed
g = g_p + c·g of last time     ``zero_grad()`` is missing
v took up the present g        `observe` was called after ``optimizer.step()``
k ≠ 1, other direction         another batch, or another loss
=============================  ==================================================================

What a training may do to its gradients stays unreported: clipping of any kind, by norm or by value, for all
or for each tensor, makes coordinates smaller and turns none around.
"""

from __future__ import annotations

import math

import numpy as np

from foreshock.monitor.comparison import Comparison, Samples, Vector
from foreshock.monitor.findings import (
    Finding,
    eval_mode,
    forgotten_scale,
    missing_decay,
    no_gradient,
    no_zero_grad,
    observed_inside_accumulation,
    other_gradient,
    other_loss,
    other_value,
    piled_up,
    scaled_loss,
    scaled_twice,
    summed_parts,
)

_SAME_LOSS = 0.02  # relative: bfloat16 rounds to .004, and autocast may be missing on one side
_OTHER_LOSS = 0.05
_SAME_DIRECTION = 0.995  # cosine
_OTHER_DIRECTION = 0.95
_EXACT = 0.05  # relative misfit of an explanation that leaves nothing open, bfloat16 included
_POWER_OF_TWO = 0.005
_ROUNDING = 1e-3
_GRADIENT_SCALE = (
    8.0  # a scaler's scale is thousands; below this a factor is no evidence where losses are random
)
_RANDOM_FACTOR = 4.0
_RANDOM_COSINE = 0.5


def agrees(comparison: Comparison) -> bool:
    """Return whether loss and gradient of training are those of `loss_fn`, clipping aside.

    Args:
        comparison: The numbers.

    Example:
        >>> ones = np.ones(3)
        >>> agrees(Comparison(2.0, 2.0, 3.0, 3.0, 3.0, Samples(ones, ones, ones)))
        True
    """
    raw = comparison.factor * comparison.gradient_scale
    scaled_twice = comparison.gradient_scale >= _GRADIENT_SCALE and raw <= 1 + _POWER_OF_TWO
    return (
        comparison.finite
        and comparison.loss_difference <= _SAME_LOSS
        and comparison.squared_gradient > 0
        and _is_clipped(comparison)
        and not scaled_twice
    )


def classify(comparison: Comparison) -> Finding | None:
    """Return what is wrong at one step, or None if nothing is that the numbers can show.

    Args:
        comparison: The numbers.

    Example:
        Training minimises a sum over 64 examples, `loss_fn` returns their mean:

        >>> ones = np.ones(3)
        >>> found = classify(
        ...     Comparison(
        ...         128.0, 2.0, 64**2 * 3.0, 3.0, 64 * 3.0, Samples(64 * ones, ones, ones), examples=64
        ...     )
        ... )
        >>> found.name, found.factor
        ('sum or mean', 64.0)
    """
    if not comparison.finite:
        return None
    if comparison.squared_gradient == 0:
        return no_gradient(comparison)
    if comparison.random:
        return _classify_random(comparison)
    if agrees(comparison):
        return None
    if (accumulated := _accumulated(comparison)) is not None:
        return accumulated
    if comparison.cosine > _SAME_DIRECTION or (comparison.factor > 0 and _is_clipped(comparison)):
        return _same_direction(comparison)
    if abs(comparison.cosine) > _SAME_DIRECTION:
        return scaled_loss(comparison) if _goes_along(comparison) else None
    return _other_direction(comparison)


def is_after_step(samples: Samples) -> bool:
    """Return whether the optimizer's average has taken up the present ``.grad``, and not the one before.

    Args:
        samples: Coordinates of the gradients and of what the average took up; a probe isn't needed.

    Example:
        >>> present, before = np.array([1.0, 2.0, -1.0]), np.array([2.0, 1.0, 1.0])
        >>> is_after_step(Samples(present, present, present, before, absorbed=0.1 * abs(present)))
        True
        >>> is_after_step(Samples(present, present, present, before, absorbed=0.1 * abs(before)))
        False
    """
    if samples.absorbed is None:
        return False
    now = misfit(np.abs(samples.absorbed), np.abs(samples.gradient + samples.decay))
    if samples.previous is None:
        return now < _ROUNDING
    # In a calm full-batch run the two gradients are nearly the same: the better fit must be so by far.
    before = misfit(np.abs(samples.absorbed), np.abs(samples.previous + samples.decay))
    return now < 2 * _EXACT and before > max(5 * now, _ROUNDING)


def misfit(vector: Vector, model: Vector) -> float:
    """Return the sine of the angle between two vectors; NaN if one of them is zero.

    Args:
        vector: One vector.
        model: The other one.

    Example:
        >>> misfit(np.array([1.0, 0.0]), np.array([0.0, 2.0]))
        1.0
    """
    norms = float(np.linalg.norm(vector) * np.linalg.norm(model))
    if not norms > 0:
        return math.nan
    unit = model / np.linalg.norm(model)
    # The rest after projection, not √(1 − cos²), which has half the digits only.
    rest = vector - float(vector @ unit) * unit
    return float(np.linalg.norm(rest) / np.linalg.norm(vector))


def _is_clipped(comparison: Comparison) -> bool:
    """Return whether ``.grad`` is the gradient of `loss_fn`, or what clipping of some kind leaves of it."""
    if comparison.cosine > _SAME_DIRECTION:
        return comparison.factor <= 1.02
    gradient, probe = comparison.samples.gradient, comparison.samples.probe
    counts = np.abs(probe) > 1e-3 * np.sqrt(np.mean(probe**2))
    if not counts.any():
        return False
    quotients = gradient[counts] / probe[counts]
    return bool(np.mean((quotients >= -0.01) & (quotients <= 1.05)) > 0.995)


def _accumulated(comparison: Comparison) -> Finding | None:
    """Return what a gradient that still contains the last one says."""
    samples = comparison.samples
    if samples.previous is None or not np.any(samples.previous):
        return None
    rest = samples.gradient - samples.probe
    share = float(rest @ samples.previous / (samples.previous @ samples.previous))
    size = float(np.linalg.norm(samples.gradient))
    misfits = float(np.linalg.norm(rest - share * samples.previous)) / size
    # Of gradients that hardly change from step to step, a multiple of one explains as much as a sum of two.
    if not (
        0.05 < share < 1.05 and misfits < _EXACT and 3 * misfits < misfit(samples.gradient, samples.probe)
    ):
        return None
    if comparison.loss_difference > _OTHER_LOSS:
        return None
    if comparison.stepped is False:
        return observed_inside_accumulation()
    return no_zero_grad(share)


def _same_direction(comparison: Comparison) -> Finding | None:
    """Return what a factor on the gradient or on the loss says; the direction is that of `loss_fn`."""
    factor, scale = comparison.factor, comparison.gradient_scale
    if comparison.loss_difference <= _SAME_LOSS:
        if scale >= _GRADIENT_SCALE and factor * scale <= 1 + _POWER_OF_TWO:
            return scaled_twice(comparison)
        if comparison.parts > 1 and abs(factor / comparison.parts - 1) < _POWER_OF_TWO:
            return summed_parts(comparison)
        return forgotten_scale(comparison) if _is_power_of_two(factor) else None
    if comparison.loss_difference <= _OTHER_LOSS:
        return None
    return scaled_loss(comparison) if _goes_along(comparison) else other_value(comparison)


def _goes_along(comparison: Comparison) -> bool:
    """Return whether the gradient has the factor of the loss, or one that clipping made of it."""
    ratio, factor = comparison.loss_ratio, comparison.factor
    if abs(factor - 1) < 0.02:
        return False
    clipped = comparison.examples is not None and abs(ratio / comparison.examples - 1) < 0.01
    return abs(factor / ratio - 1) < 0.03 or (clipped and factor < ratio)


def _other_direction(comparison: Comparison) -> Finding | None:
    """Return what a gradient that points elsewhere says."""
    samples = comparison.samples
    differs = comparison.loss_difference > _OTHER_LOSS
    rest = samples.gradient - samples.probe
    if np.linalg.norm(rest) and misfit(rest, samples.parameter) < _EXACT:
        # Weight decay that is added to .grad by hand changes the gradient and not the loss.
        decay = float(rest @ samples.parameter / (samples.parameter @ samples.parameter))
        return missing_decay(comparison, decay) if comparison.loss_difference > _SAME_LOSS else None
    if not comparison.cosine < _OTHER_DIRECTION:
        return None
    if not differs and _is_noise(rest, samples.probe):
        return None
    if differs and comparison.eval_modules:
        return eval_mode(comparison)
    return other_loss(comparison) if differs else other_gradient(comparison)


def _is_noise(rest: Vector, probe: Vector) -> bool:
    """Return whether what was added to a gradient is as independent of it as noise, as for privacy."""
    norm = float(np.linalg.norm(probe))
    if not norm > 0:
        return True
    along = abs(float(rest @ probe)) / norm**2
    return along < 3 * float(np.linalg.norm(rest)) / (norm * math.sqrt(len(rest)))


def _classify_random(comparison: Comparison) -> Finding | None:
    """Return what no draw of random numbers explains: large factors, on the loss and on the gradient."""
    ratio, size, scale = comparison.loss_ratio, comparison.norm_ratio, comparison.gradient_scale
    if 1 / 1.5 < ratio < 1.5:
        if scale >= _GRADIENT_SCALE**2 and size * scale < _RANDOM_FACTOR:
            return scaled_twice(comparison)
        if size < _GRADIENT_SCALE:
            return None
        return _piled_up(comparison) or forgotten_scale(comparison)
    large = ratio > _RANDOM_FACTOR or 0 < ratio < 1 / _RANDOM_FACTOR
    alike = large and 1 / 1.5 < size / ratio < 1.5 and comparison.cosine > _RANDOM_COSINE
    return scaled_loss(comparison) if alike else None


def _piled_up(comparison: Comparison) -> Finding | None:
    samples = comparison.samples
    if samples.previous is None:
        return None
    new, probe = np.linalg.norm(samples.gradient - samples.previous), np.linalg.norm(samples.probe)
    if not (probe > 0 and 0.2 < new / probe < 5):
        return None
    return piled_up(comparison)


def _is_power_of_two(factor: float) -> bool:
    if not factor > 1.5:
        return False
    nearest = 2.0 ** round(math.log2(factor))
    return abs(factor / nearest - 1) < _POWER_OF_TWO
