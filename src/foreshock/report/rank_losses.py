r"""Where the loss of one rank is another than that of the others, by more than batches differ.

Each rank has batches of its own, so that losses differ always. In stretches of twenty steps, with
d = loss of a rank − median over ranks (of two or three: − that of the others),

.. math::
    z = \frac{\operatorname{median} d}{\sqrt{(1.25\,s/\sqrt n)^2 + b^2}}, \qquad
    z_t = \frac{d_t - \operatorname{median} d}{s},

with the robust deviation s of d about its median in the stretch (that of the five stretches around), over all
ranks, the standard error 1.25 s/√n of a median of n values, and b the robust deviation of median d between
ranks, where there are four or more: shards may be of different difficulty. A rank departs where |z| > 6 and
the difference is above a tenth of the loss, and at a single step where |z_t| > 12 and it is above half of it;
where such jumps are usual, only those of a rank that has three times as many as the others.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foreshock.spikes.calm import SIGMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

STRETCH = 20
"""Steps over which a shift is looked for."""
_SHIFT, _JUMP = 6.0, 12.0  # deviations
_SHIFT_SHARE, _JUMP_SHARE = 0.1, 0.5  # of the loss
_OF_MEDIAN = 1.2533  # standard error of a median over that of a mean, for a normal distribution
_FEWEST = 8  # steps of a stretch that can be judged
_BETWEEN_FROM = 4  # ranks from which their own spread is known
_AROUND = 2  # stretches before and after whose deviations count
_RARE, _MORE = 3, 3  # jumps that are all named; and how much more often than others a rank must have them


@dataclass(frozen=True)
class OddLoss:
    """Steps at which the loss of a rank departs from that of the others.

    Attributes:
        rank: Place of the rank among those that were given.
        first: First step.
        last: Last step.
        count: Number of steps that were compared from the first to the last.
        own: Median loss of the rank at these steps.
        others: Median loss of the others at these steps.
        deviations: Largest |z| of them.
    """

    rank: int
    first: int
    last: int
    count: int
    own: float
    others: float
    deviations: float


def odd_losses(steps: NDArray[np.int64], losses: NDArray[np.float64]) -> list[OddLoss]:
    """Return where the loss of one rank departs from that of the others, in order.

    Args:
        steps: Shape (t,), increasing.
        losses: Shape (ranks, t); what is missing or not finite is NaN.

    Example:
        >>> draw = np.random.default_rng(0)
        >>> losses = 2 + 0.1 * draw.normal(size=(4, 100))
        >>> odd_losses(np.arange(100), losses)
        []
        >>> losses[2, 60:] += 1
        >>> [one] = odd_losses(np.arange(100), losses)
        >>> (one.rank, one.first, one.last)
        (2, 60, 99)
    """
    compared = np.isfinite(losses).sum(axis=0) >= 2
    steps, losses = steps[compared], np.where(np.isfinite(losses), losses, np.nan)[:, compared]
    if losses.shape[0] < 2 or losses.shape[1] < _FEWEST:
        return []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of stretches in which a rank has no loss
        shifted, jumped, deviations = _flags(losses)
        flags = shifted | _unusual(jumped & ~shifted)
        found = [
            _stretch(steps, losses, rank, part, deviations)
            for rank in range(len(losses))
            for part in _runs(flags[rank])
        ]
    return sorted(found, key=lambda one: (one.first, one.rank))


def _unusual(jumped: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the jumps that are not usual in this run: few, or those of a rank that has many more."""
    numbers = np.array([sum(1 for _ in _runs(flags)) for flags in jumped])
    if numbers.sum() <= _RARE:
        return jumped
    others = (numbers.sum() - numbers) / (len(numbers) - 1)
    often = np.asarray(numbers > _MORE * (others + 1), dtype=np.bool_)
    return np.logical_and(jumped, often[:, None])


def _apart(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much each loss is above the median of all, or of the others."""
    if len(losses) >= _BETWEEN_FROM:
        apart: NDArray[np.float64] = losses - np.nanmedian(losses, axis=0)
        return apart
    # With the rank itself in it, the median of three is one of them, and differs from that one by nothing.
    others = [np.nanmedian(np.delete(losses, rank, axis=0), axis=0) for rank in range(len(losses))]
    return losses - np.stack(others)


def _flags(
    losses: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    """Return at which steps which rank is shifted, jumped, and by how many deviations, each (ranks, t)."""
    ranks, length = losses.shape
    parts = -(-length // STRETCH)
    padding = ((0, 0), (0, parts * STRETCH - length))
    # From here on of shape (ranks, stretches, steps of a stretch); what is not there is NaN.
    level, apart = (
        np.pad(of, padding, constant_values=math.nan).reshape(ranks, parts, STRETCH)
        for of in (losses, _apart(losses))
    )
    shift = np.nanmedian(apart, axis=2)
    left = apart - shift[..., None]
    scale = _around(SIGMA * np.nanmedian(np.abs(left), axis=(0, 2)))
    size = np.abs(np.nanmedian(level, axis=(0, 2)))
    number = np.isfinite(apart).sum(axis=2)
    error = _OF_MEDIAN * scale / np.sqrt(np.maximum(number, 1))
    if ranks >= _BETWEEN_FROM:
        between = SIGMA * np.nanmedian(np.abs(shift - np.nanmedian(shift, axis=0)), axis=0)
        error = np.hypot(error, between)
    z = np.nan_to_num(np.abs(shift) / np.maximum(error, math.ulp(0.0)))
    high = (z > _SHIFT) & (np.abs(shift) > _SHIFT_SHARE * size) & (number >= _FEWEST) & _is_the_odd_one(shift)
    each = np.nan_to_num(np.abs(left) / np.maximum(scale, math.ulp(0.0))[:, None])
    jumped = (each > _JUMP) & (np.abs(left) > _JUMP_SHARE * size[:, None]) & _is_the_odd_one(left)
    shifted = np.broadcast_to(high[..., None], left.shape)
    deviations = np.where(shifted, z[..., None], each)
    flat = (ranks, parts * STRETCH)
    return (
        shifted.reshape(flat)[:, :length],
        jumped.reshape(flat)[:, :length],
        deviations.reshape(flat)[:, :length],
    )


def _around(scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of each value and those around it, fewer at the ends."""
    padded = np.pad(scales, _AROUND, constant_values=math.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1)
    return np.asarray(np.nanmedian(windows, axis=1))


def _is_the_odd_one(apart: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rank it is: of two the higher one, as it can't be seen; of three the one furthest off."""
    if len(apart) >= _BETWEEN_FROM:
        return np.ones(apart.shape, dtype=np.bool_)
    size = apart if len(apart) == 2 else np.abs(apart)
    return np.asarray(size == np.nanmax(size, axis=0))


def _runs(flags: NDArray[np.bool_]) -> Iterator[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield slice(first, end)


def _stretch(
    steps: NDArray[np.int64],
    losses: NDArray[np.float64],
    rank: int,
    part: slice,
    deviations: NDArray[np.float64],
) -> OddLoss:
    others = np.delete(losses, rank, axis=0)[:, part]
    return OddLoss(
        rank=rank,
        first=int(steps[part][0]),
        last=int(steps[part][-1]),
        count=part.stop - part.start,
        own=float(np.nanmedian(losses[rank, part])),
        others=float(np.nanmedian(others)),
        deviations=float(deviations[rank, part].max()),
    )
