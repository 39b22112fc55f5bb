r"""The directions along which v can be raised, and by how much.

With the shares w_i of the coordinates in dᵀA⁻¹d (or the squares of an eigenvector), Σw = 1, and r = w/max w,

.. math:: v_i ← v_i\,(1 + αr_i), \qquad \sum_i w_i\sqrt{1 + αr_i} = x

multiplies the denominator of the Rayleigh quotient by x (ε neglected), mostly by the coordinates that carry
the direction: the curvature along it falls by x. F(α) = (Σ w√(1 + αr))² − x² is increasing and concave:
Newton's method from 0 approaches the root from below without overshooting, and is exact at once where all
shares are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foreshock.guarding.displacement import Displacement
from foreshock.guarding.gradient_norms import fetch
from foreshock.guarding.parameters import Slot, columns
from foreshock.vectors import split

_TOLERANCE = 1e-6
_MOST_ITERATIONS = 60


def raise_factors(
    weights: Sequence[Tensor],
    factor: float,
    *,
    total: Callable[[Sequence[Sequence[float]]], list[float]] = columns,
    largest: Callable[[float], float] = float,
) -> list[Tensor]:
    """Return 1 + αr for every coordinate, by which to multiply v.

    Cost: one pass over the coordinates for each iteration, five to fifteen of them.

    Args:
        weights: Shares of the coordinates, up to a common factor, non-negative; tensors of any shapes.
        factor: x ≥ 1, by which the denominator is to grow.
        total: Adds up rows of sums, one row a tensor, over tensors and processes.
        largest: The largest value over processes.

    Returns:
        Tensors of the shapes of `weights`, each entry ≥ 1.

    Raises:
        ValueError: If `factor` is below one or not finite, or all weights vanish.

    Example:
        >>> [raised] = raise_factors([torch.tensor([1.0, 1.0])], 2.0)
        >>> raised.tolist()
        [4.0, 4.0]
    """
    if not 1 <= factor < math.inf:
        raise ValueError(f"factor is {factor!r}; v is only ever raised, by a finite factor of 1 or more")
    top = largest(max(fetch([w.max() for w in weights if w.numel()]), default=0.0))
    if not 0 < top < math.inf:
        raise ValueError(f"the largest weight is {top!r}; there is no direction to raise v along")
    # Relative to the largest, so that α is of the order of the factor, whatever the scale of the weights.
    relative = [weight / top for weight in weights]
    [whole] = total([[share] for share in fetch([r.sum(dtype=torch.float64) for r in relative])])
    alpha = 0.0
    for _ in range(_MOST_ITERATIONS):
        value, slope = (moment / whole for moment in total(_moments(relative, alpha)))
        step = (factor**2 - value**2) / (2 * value * slope)
        alpha += max(step, 0.0)  # from below, except for rounding at the root
        if not step > _TOLERANCE * alpha:
            break
    return [r.mul_(alpha).add_(1) for r in relative]


def find_directions(
    slots: Sequence[Slot], displacement: Displacement, *, vector: Tensor | None, parameters: Sequence[Tensor]
) -> dict[str, list[Tensor | None]]:
    """Return −d and g of each parameter, and the components of the eigenvector if one was measured.

    Args:
        slots: Parameters with a gradient and a state.
        displacement: The last step.
        vector: Eigenvector of the symmetric form, in the order of the trained parameters; None if unknown.
        parameters: All parameters of the optimizer.
    """
    directions: dict[str, list[Tensor | None]] = {
        "displacement": displacement.backs(slots),
        "gradient": [slot.used_gradient for slot in slots],
    }
    if vector is not None:
        trained = [p for p in parameters if p.requires_grad]
        parts = dict(zip(trained, split(vector, trained), strict=True))
        directions["eigenvector"] = [parts[slot.key] for slot in slots]
    return directions


def _moments(relative: Sequence[Tensor], alpha: float) -> list[tuple[float, float]]:
    """Return Σ r√(1 + αr) of each tensor, and its derivative by α."""
    values, slopes = [], []
    for r in relative:
        root = (r * alpha).add_(1).sqrt_()
        values.append((r * root).sum(dtype=torch.float64))
        slopes.append((r * r).div_(root).sum(dtype=torch.float64) / 2)
    fetched = fetch([*values, *slopes])
    return list(zip(fetched[: len(values)], fetched[len(values) :], strict=True))
