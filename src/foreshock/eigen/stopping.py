r"""When an eigensolver may stop: the nearer the value is to the threshold, the more accurate it must be.

A reading is used for two purposes, and each bounds its relative error e. Let d = \|ln(λ/threshold)\| be the
distance to the threshold.

- *When is the threshold reached?* With a slope s of ln λ, in k = d/s steps. An error e in ln λ shifts this by
  e/s, a fraction e/d of k. A crossing time that is accurate to a fraction φ therefore requires e ≤ φ·d.
- *How fast does the value rise?* The slope through m readings of error e, evenly spread over W steps, has the
  standard error √12·e/(W√m). Under pure decay of v the slope is s = −½ ln β₂ = 5·10⁻⁴ at β₂ = 0.999. To know
  it to within a half from m = 10 readings over W = 100 steps requires e ≤ ½·s·W·√m/√12 = 2.3 %. However far
  the threshold, with an error above `far_tolerance` = 2 % the forecast could not see the slope.

At the threshold the first bound is zero, which no solver meets. Overshoots of the edge are a few percent, so
an error of 0.5 % still separates its two sides:

.. math:: e(λ) = \min(\max(φ\,|\ln(λ/\text{threshold})|,\ \text{relative\_tolerance}),\ \text{far\_tolerance})

With φ = .1 the demand is at its tightest within 5 % of the threshold and at its loosest beyond 22 %.

The error of a Ritz value θ is estimated from its residual r. Some eigenvalue lies within r of θ, and if no
other lies within a gap, the error is only r²/gap (Kato and Temple; Parlett 1998, §11.5). But that eigenvalue
need not be the largest. A larger one λ stays hidden while the Ritz vector x has little of its eigenvector q,

.. math:: r \ge |q^\top(Sx - θx)| = (λ - θ)\,|q^\top x|,

so that its excess is at most r/\|qᵀx\|. Starts that are random have some of every eigenvector, and the solver
amplifies the larger ones: \|qᵀx\| is rarely small, but it is not one. Hence the error is *caution* × r.

What hides an eigenvalue is a close neighbour of which the start has many times as much. Further random
starts do not help against it, since they share the products that would have amplified the difference; caution
does. A single call from one random start takes thirty residuals. Probes start from the last eigenvectors, the
gradient and a random vector, and ten are enough for them (docs/benchmarks/errors.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_SHARE_OF_DISTANCE = 0.1  # φ: a crossing time is good to a tenth


@dataclass(frozen=True)
class StoppingRule:
    """When an eigensolver may stop.

    Attributes:
        relative_tolerance: Stop once the estimated error is at most this fraction of the eigenvalue, > 0.
        max_products: Stop after this many products in any case, ≥ 1; the result then says that it has not
            converged.
        threshold: The value to compare eigenvalues with, > 0: one for a stability ratio. Near it
            `relative_tolerance` applies, and farther away a larger error is allowed. None: the same
            tolerance everywhere.
        far_tolerance: The largest relative error that is allowed far from `threshold`, > 0. If it is less
            than `relative_tolerance`, the latter applies. Not used without `threshold`.
        caution: How many times the residual the error is taken to be, ≥ 1. With less than ten, solves are
            cheaper and more often wrong by more than their error.

    Example:
        >>> rule = StoppingRule(threshold=1.0)
        >>> [round(rule.tolerance(value), 4) for value in (0.3, 0.9, 0.99, 1.0, 1.1, 3.0)]
        [0.02, 0.0105, 0.005, 0.005, 0.0095, 0.02]
    """

    relative_tolerance: float = 5e-3
    max_products: int = 20
    threshold: float | None = None
    far_tolerance: float = 2e-2
    caution: float = 10.0

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a field lies outside its interval.
        """
        if not self.relative_tolerance > 0 or not self.max_products >= 1:
            raise ValueError(
                f"relative_tolerance is {self.relative_tolerance!r} and max_products is "
                f"{self.max_products!r}; the first must be positive and the second at least 1"
            )
        if self.threshold is not None and not 0 < self.threshold < math.inf:
            raise ValueError(
                f"threshold is {self.threshold!r}; it must be positive and finite, 1.0 for stability ratios, "
                "or None for the same tolerance everywhere"
            )
        if not self.far_tolerance > 0:
            raise ValueError(
                f"far_tolerance is {self.far_tolerance!r}; it must be positive, such as 0.02 for 2 %"
            )
        if not 1 <= self.caution < math.inf:
            raise ValueError(
                f"caution is {self.caution!r}; it must be at least 1, since an eigenvalue may lie a "
                "residual away: leave it at 10, or lower it where a hidden eigenvalue does no harm"
            )

    def tolerance(self, value: float) -> float:
        """Return the relative error that is allowed at an eigenvalue.

        Args:
            value: The present estimate of the eigenvalue.
        """
        if self.threshold is None:
            return self.relative_tolerance
        if not value > 0:
            return max(self.far_tolerance, self.relative_tolerance)
        distance = abs(math.log(value / self.threshold))
        return max(min(_SHARE_OF_DISTANCE * distance, self.far_tolerance), self.relative_tolerance)

    def allows(self, value: float, error: float) -> bool:
        """Return whether an eigenvalue with this estimated absolute error is accurate enough.

        Args:
            value: The Ritz value.
            error: Estimate of its absolute error, ≥ 0; NaN is never accurate enough.
        """
        scale = abs(value)
        # Of a value that is not positive only the distance to the threshold matters: near zero, a relative
        # tolerance of the value itself would take products without end.
        if self.threshold is not None and not value > 0:
            scale = max(scale, self.threshold)
        return error <= self.tolerance(value) * scale
