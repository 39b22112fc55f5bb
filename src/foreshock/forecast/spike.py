r"""What comes after the crossing: when the loss leaves its level, and how high it gets.

The part of the loss that lies along the top eigenvector q of the symmetric form is, on the quadratic model,

.. math:: L_q = \frac{(q^\top A^{1/2} g)^2}{2\,r},

r the stability ratio. Above the edge it grows by the square of the growth factor each step
(`foreshock.stability.growth_factor`) until g² has lifted v back (`foreshock.dynamics.severity`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from foreshock.dynamics import Drift, severity, steps_to_visible_spike
from foreshock.stability import growth_factor

_LEAST_SHARE = 1e-6
_VISIBLE = 3.0


@dataclass(frozen=True)
class SpikeSignals:
    """What is known of the deviation along the top eigenvector, and of v.

    Attributes:
        loss: The loss, > 0.
        excess_loss: L_q, the part of it along the top eigenvector.
        share: Share of the preconditioned squared gradient along it, in [0, 1]: the squared alignment.
        lag_ratio: Σg²/Σv̂.
        beta1: Decay of the first moment.
        direct_share: Share of the gradient itself in the momentum factor; 0 for Adam.
        beta2: Decay of v, in (0, 1).
    """

    loss: float
    excess_loss: float
    share: float
    lag_ratio: float
    beta1: float
    beta2: float
    direct_share: float = 0.0


@dataclass(frozen=True)
class Outlook:
    """The next spike, as far as the quadratic model sees it.

    Attributes:
        steps_to_spike: Steps until the loss exceeds 3 × its present level; infinity if it does not.
        height: Peak loss over the present one; NaN if it can't be told.
    """

    steps_to_spike: float
    height: float


def outlook(ratio: float, growth_rate: float, signals: SpikeSignals) -> Outlook:
    """Return what is to be expected of the next spike.

    Args:
        ratio: Stability ratio, λ_max(Ĥ)·η/2.
        growth_rate: Growth of ln(ratio) a step. What exceeds the decay of v is ascribed to landscape and
            schedule, and taken to go on.
        signals: The state of the deviation and of v.

    Returns:
        The outlook; NaN where the signals are missing or the ratio does not rise.

    Example:
        >>> signals = SpikeSignals(
        ...     loss=1.0, excess_loss=1e-4, share=0.5, lag_ratio=1e-3, beta1=0.9, beta2=0.999
        ... )
        >>> expected = outlook(1.0, 5e-4, signals)
        >>> round(expected.steps_to_spike), expected.height > 1
        (37, True)
    """
    nothing = Outlook(math.nan, math.nan)
    known = (ratio, growth_rate, *vars(signals).values())
    if not all(map(math.isfinite, known)) or not (ratio > 0 and 0 < signals.beta2 < 1):
        return nothing
    if not (signals.loss > 0 and signals.excess_loss > 0 and signals.lag_ratio > 0):
        return nothing
    drift = Drift(signals.beta2, growth_rate + 0.5 * math.log(signals.beta2))
    if ratio < 1 and not growth_rate > 0:
        return Outlook(math.inf, math.nan)

    def growth(at: float) -> float:
        factor = growth_factor(at, beta1=signals.beta1, direct_share=signals.direct_share)
        return max(factor, 1.0)  # Below the edge other directions and rounding keep the deviation alive.

    visible = max((_VISIBLE - 1) * signals.loss / signals.excess_loss, 1.0)
    steps = steps_to_visible_spike(ratio, drift=drift, growth_factor=growth, magnification=math.sqrt(visible))
    share = min(max(signals.share, _LEAST_SHARE), 1.0)
    expected = severity(ratio, lag_ratio=signals.lag_ratio, drift=drift, growth_factor=growth, share=share)
    # A double holds no more than e^709.
    risen = (
        math.exp(min(expected.log_magnification, 700.0)) if expected.steps_to_peak < math.inf else math.nan
    )
    return Outlook(steps, 1 + signals.excess_loss / signals.loss * (risen - 1))
