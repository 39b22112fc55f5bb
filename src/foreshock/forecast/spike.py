r"""What follows the crossing: when the loss leaves its level, and how high it gets.

The part of the loss that lies along the top eigenvector q of the symmetric form is, on the quadratic model,

.. math:: L_q = \frac{(q^\top A^{1/2} g)^2}{2\,r},

r the stability ratio. Above the edge it grows by the square of the growth factor each step
(`foreshock.stability.growth_factor`) until g² has lifted v back (`foreshock.dynamics.severity`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from foreshock.dynamics import Drift, severity, steps_to_visible_spike
from foreshock.dynamics.threshold import FURTHEST
from foreshock.forecast.record import EdgeReading
from foreshock.stability import growth_factor

_LEAST_SHARE = 1e-6
_VISIBLE = 3.0


@dataclass(frozen=True)
class Outlook:
    """The next spike, as far as the quadratic model sees it.

    Attributes:
        steps_to_spike: Steps until the loss exceeds 3 × its present level; infinity if it does not.
        height: Peak loss over the present one; NaN if unknown.
    """

    steps_to_spike: float
    height: float


def outlook(reading: EdgeReading, growth_rate: float, *, beta2: float) -> Outlook:
    """Return what is to be expected of the next spike.

    Args:
        reading: The stability ratio, the deviation along the top eigenvector and the lag of v.
        growth_rate: Growth of ln(ratio) a step. What exceeds the decay of v is ascribed to landscape and
            schedule, and taken to go on.
        beta2: Decay of v, in (0, 1).

    Returns:
        The outlook; NaN where the reading lacks something or the ratio does not rise.

    Example:
        >>> reading = EdgeReading(
        ...     1.0, learning_rate=1e-3, loss=1.0, excess_loss=1e-4, alignment=0.7, instant_lag=1e3, beta1=0.9
        ... )
        >>> expected = outlook(reading, 5e-4, beta2=0.999)
        >>> round(expected.steps_to_spike), expected.height > 1
        (37, True)
    """
    ratio, loss, excess = reading.stability_ratio, reading.loss, reading.excess_loss
    deviation = (excess, reading.alignment, reading.instant_lag, reading.beta1, reading.direct_share)
    if not all(map(math.isfinite, (ratio, growth_rate, loss, *deviation))):
        return Outlook(math.nan, math.nan)
    if not (0 < beta2 < 1 and min(ratio, loss, excess, reading.instant_lag) > 0):
        return Outlook(math.nan, math.nan)
    drift = Drift(beta2, growth_rate + 0.5 * math.log(beta2))
    # Neither model looks further than FURTHEST steps. Where even then the ratio is below one, walking through
    # all of them would find the same, in some sixty milliseconds at each reading of a calm run.
    if ratio < 1 and not growth_rate * FURTHEST > -math.log(ratio):
        return Outlook(math.inf, math.nan)

    def growth(at: float) -> float:
        factor = growth_factor(at, beta1=reading.beta1, direct_share=reading.direct_share)
        return max(factor, 1.0)  # Below the edge other directions and rounding keep the deviation alive.

    visible = max((_VISIBLE - 1) * loss / excess, 1.0)
    steps = steps_to_visible_spike(ratio, drift=drift, growth_factor=growth, magnification=math.sqrt(visible))
    # The squared cosine is the share of the preconditioned squared gradient along the top eigenvector.
    share = min(max(reading.alignment**2, _LEAST_SHARE), 1.0)
    expected = severity(
        ratio, instant_lag=reading.instant_lag, drift=drift, growth_factor=growth, share=share
    )
    # A double holds no more than e^709.
    risen = (
        math.exp(min(expected.log_magnification, 700.0)) if expected.steps_to_peak < math.inf else math.nan
    )
    return Outlook(steps, 1 + excess / loss * (risen - 1))


def measured_cause(*, preconditioner: float, landscape: float, since: int) -> str:
    """Say what made the ratio rise since it was last measured; empty if it did not rise.

    Args:
        preconditioner: Growth of ln(ratio) a step by v and the learning rate, the curvature along the top
            eigenvector held.
        landscape: Growth by that curvature.
        since: Step of the measurement.

    Example:
        >>> measured_cause(preconditioner=4e-4, landscape=1e-4, since=1200)
        'v explains 80% of the rise since step 1200: the preconditioner drives it'
        >>> measured_cause(preconditioner=-1e-4, landscape=3e-4, since=1200)
        'the landscape drives the rise since step 1200, while v counteracts'
    """
    whole = preconditioner + landscape
    if not whole > 0:
        return ""
    if preconditioner < 0:
        return f"the landscape drives the rise since step {since}, while v counteracts"
    if landscape < 0:
        return f"the preconditioner drives the rise since step {since}, while the landscape flattens"
    share = preconditioner / whole
    driver = "preconditioner" if share > 0.5 else "landscape"
    return f"v explains {share:.0%} of the rise since step {since}: the {driver} drives it"


def cause_hint(growth_rate: float, beta2: float) -> str:
    """Say how much of the rise pure decay of v would make: at most −½ ln β₂ a step."""
    if not growth_rate > 0:
        return ""
    decay = -0.5 * math.log(beta2)
    if growth_rate <= 1.5 * decay:
        return "no faster than v decays: the preconditioner may explain the rise"
    return f"{growth_rate / decay:.1f} × as fast as v can decay: landscape or schedule drive the rise"
