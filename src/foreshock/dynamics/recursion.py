r"""Optimizers on a quadratic with D frozen, as linear recursions.

Along one coordinate δ, with a curvature h_t (of H, or of D⁻¹H) that may differ from step to step,

.. math:: m_t = β\,m_{t-1} + γ h_t δ_t, \qquad δ_{t+1} = s\,δ_t - η\,(a h_t δ_t + b\,m_t).

Below the same symbols are `decay` β, `gain` γ, `direct` a, `averaged` b, and s is one minus `shrinkage`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class LinearRecursion:
    """Coefficients of one optimizer's linear recursion.

    Attributes:
        decay: β in [0, 1), the decay of m.
        gain: γ ≥ 0, the weight of the gradient in m.
        direct: a ≥ 0, the weight of the gradient itself in the step.
        averaged: b ≥ 0, the weight of m in the step.
        shrinkage: ηw in [0, 2): decoupled weight decay multiplies δ by s = 1 − ηw each step.

    Example:
        >>> LinearRecursion(decay=0.0, gain=1.0, direct=0.0, averaged=1.0) == gradient_descent_recursion()
        True
    """

    decay: float
    gain: float
    direct: float
    averaged: float
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a coefficient lies outside its interval.
        """
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay is {self.decay!r}; it must lie in [0, 1)")
        if not (self.gain >= 0 and self.direct >= 0 and self.averaged >= 0):
            weights = (self.gain, self.direct, self.averaged)
            raise ValueError(f"gain, direct and averaged are {weights}; none of them may be negative")
        if not 0 <= self.shrinkage < 2:
            raise ValueError(
                f"shrinkage is {self.shrinkage!r}; it must lie in [0, 2): from 2 on, weight decay alone "
                "makes the parameters grow"
            )

    @property
    def total(self) -> float:
        """The weight of the present gradient in the present step, a + bγ."""
        return self.direct + self.averaged * self.gain

    def with_decoupled_decay(self, shrinkage: float) -> LinearRecursion:
        """Return the same recursion with decoupled weight decay.

        Args:
            shrinkage: ηw in [0, 2).

        Raises:
            ValueError: If `shrinkage` lies outside its interval.
        """
        return replace(self, shrinkage=shrinkage)


def gradient_descent_recursion() -> LinearRecursion:
    """Return the recursion of gradient descent (h of H), or of RMSprop without momentum (h of D⁻¹H).

    Example:
        >>> gradient_descent_recursion().total
        1.0
    """
    return LinearRecursion(decay=0.0, gain=1.0, direct=0.0, averaged=1.0)


def adam_recursion(beta1: float, step: int | None = None) -> LinearRecursion:
    """Return the recursion of Adam's moving average, with h of D⁻¹H.

    Args:
        beta1: β₁ in [0, 1).
        step: Step number t ≥ 1 whose bias correction 1/(1 − β₁ᵗ) is held fixed; ``None`` for t → ∞.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> adam_recursion(0.5, step=1).averaged
        2.0
    """
    if step is not None and not step >= 1:
        raise ValueError(f"step is {step!r}; the first update of Adam is step 1")
    correction = 1.0 if step is None else 1 - beta1**step
    if not 0 < correction <= 1:
        raise ValueError(f"beta1 is {beta1!r}; it must lie in [0, 1)")
    return LinearRecursion(decay=beta1, gain=1 - beta1, direct=0.0, averaged=1 / correction)


def heavy_ball_recursion(
    momentum: float, *, dampening: float = 0.0, nesterov: bool = False
) -> LinearRecursion:
    """Return the recursion of ``torch.optim.SGD``, or of RMSprop with momentum (h of D⁻¹H).

    Heavy ball takes the step m ← μm + (1 − τ)g; torch's Nesterov step is g + μm.

    Args:
        momentum: μ in [0, 1).
        dampening: τ in [0, 1]; without momentum torch ignores it.
        nesterov: Whether the momentum is Nesterov's.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> heavy_ball_recursion(0.9).total
        1.0
    """
    if momentum == 0:
        return gradient_descent_recursion()
    direct, averaged = (1.0, momentum) if nesterov else (0.0, 1.0)
    return LinearRecursion(decay=momentum, gain=1 - dampening, direct=direct, averaged=averaged)


def nadam_recursion(beta1: float) -> LinearRecursion:
    """Return the recursion of NAdam once its momentum schedule is over, with h of D⁻¹H.

    The step is (1 − β₁)g + β₁m (Dozat 2016).

    Args:
        beta1: β₁ in [0, 1).

    Raises:
        ValueError: If `beta1` lies outside its interval.

    Example:
        >>> nadam_recursion(0.0).total
        1.0
    """
    # Dozat's μ_t tends to β₁ and the product of all μ to zero: a = 1 − β₁, b = β₁.
    return LinearRecursion(decay=beta1, gain=1 - beta1, direct=1 - beta1, averaged=beta1)
