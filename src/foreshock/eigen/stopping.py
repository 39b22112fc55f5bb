r"""When an eigen-solver may stop: the nearer the threshold, the better it must know.

A reading is used in two ways, and each sets a bound on its relative error e. Write d = \|ln(λ/threshold)\|
for the distance to the threshold.

- *When is the threshold reached?* A straight line of slope s through ln λ says in k = d/s steps. An error e
  in ln λ shifts that by e/s, which relative to k is e/d: a crossing time good to a share φ takes e ≤ φ·d.
- *How fast does it rise?* The slope through m readings of error e, evenly spread over W steps, has the
  standard error √12·e/(W√m). For pure decay of v, s = −½ ln β₂ = 5·10⁻⁴ at β₂ = .999; to know it to a half
  from m = 10 readings over W = 100 steps takes e ≤ ½·s·W·√m/√12 = 2.3 %. However far the threshold, an
  error above `far_tolerance` = 2 % would leave the forecast without a slope.

At the threshold the first bound is zero, which no solver meets. Overshoots of the edge are a few percent,
so 0.5 % keeps its two sides apart:

.. math:: e(λ) = \min(\max(φ\,|\ln(λ/\text{threshold})|,\ \text{relative\_tolerance}),\ \text{far\_tolerance})

With φ = .1 the demand is at its tightest within 5 % of the threshold and at its loosest beyond 22 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_SHARE_OF_DISTANCE = 0.1


@dataclass(frozen=True)
class StoppingRule:
    """When an eigen-solver may stop.

    Attributes:
        relative_tolerance: Once the estimated error is below this fraction of θ, > 0. The overshoot above
            the edge is a few percent: an error of 0.5 % keeps the two sides of it apart.
        max_products: After this many products in any case, ≥ 1. Not converging is no error.
        threshold: The value on whose two sides different things happen, > 0: one for a stability ratio. With
            it, `relative_tolerance` is what is demanded near it, and more is allowed further away. None: the
            same tolerance everywhere.
        far_tolerance: The most that is allowed far from `threshold`; no less than `relative_tolerance`
            is ever used. Without `threshold`, not used.

    Example:
        >>> rule = StoppingRule(threshold=1.0)
        >>> [round(rule.tolerance(value), 4) for value in (0.3, 0.9, 0.99, 1.0, 1.1, 3.0)]
        [0.02, 0.0105, 0.005, 0.005, 0.0095, 0.02]
    """

    relative_tolerance: float = 5e-3
    max_products: int = 20
    threshold: float | None = None
    far_tolerance: float = 2e-2

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a field lies outside its interval.
        """
        if not self.relative_tolerance > 0 or not self.max_products >= 1:
            raise ValueError(
                f"relative_tolerance {self.relative_tolerance!r} must be positive and max_products "
                f"{self.max_products!r} at least 1"
            )
        if self.threshold is not None and not 0 < self.threshold < math.inf:
            raise ValueError(
                f"threshold is {self.threshold!r}; it must be positive and finite, 1.0 for stability ratios, "
                "or None for the same tolerance everywhere"
            )
        if not self.far_tolerance > 0:
            raise ValueError(f"far_tolerance is {self.far_tolerance!r}; it must be positive")

    def tolerance(self, value: float) -> float:
        """Return the relative error that is allowed at an eigenvalue.

        Args:
            value: The eigenvalue, as far as it is known.
        """
        if self.threshold is None:
            return self.relative_tolerance
        if not value > 0:
            return max(self.far_tolerance, self.relative_tolerance)
        distance = abs(math.log(value / self.threshold))
        return max(min(_SHARE_OF_DISTANCE * distance, self.far_tolerance), self.relative_tolerance)

    def allows(self, value: float, error: float) -> bool:
        """Return whether an eigenvalue with this estimated absolute error is good enough.

        A value that is not positive is compared with the threshold instead of with itself: what matters
        there is only that the threshold is far.

        Args:
            value: The Ritz value.
            error: Estimate of its absolute error, ≥ 0; NaN is never good enough.
        """
        scale = abs(value)
        if self.threshold is not None and not value > 0:
            scale = max(scale, self.threshold)
        return error <= self.tolerance(value) * scale
