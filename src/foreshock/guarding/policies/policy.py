"""The numbers of a step that a policy decides on, and what it may ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from foreshock.guarding.record import Remedy

Measure = Literal["secant", "norm", "preconditioned gradient", "pairs", "curvature", "forecast"]
"""What a policy needs to be measured."""

Direction = Literal["displacement", "gradient", "eigenvector"]
"""Along what v is raised: the last displacement, the step of the gradient alone, or the top eigenvector."""

# At β₂ = 0.999 the bias correction hides how few they are: v̂ of two gradients is as noisy as the gradients.
WARM_UP = 10
"""Updates at the start in which v averages too few gradients to be judged."""


@dataclass(frozen=True)
class GuardSignals:
    """The step about to be taken, as plain numbers; NaN where a number was not measured.

    Curvatures are multiples of the full-batch edge 2/η, step sizes and momentum folded in: one is the edge.

    Attributes:
        step: Updates that the guard saw before.
        updates: t ≥ 1, the number of this update as the optimizer counts.
        secant: dᵀΔg/(dᵀA⁻¹d), d the last displacement and Δg the change of the gradient along it. Below
            `Policy.exact_above` it may be an upper bound instead.
        squared_gradient: ‖g‖².
        preconditioned_gradient: gᵀD⁻¹g.
        lag: Largest V̂ over the mean ‖g‖² of 30 steps, of the last 50 steps, V the second moment as it would
            be without the guard.
        mean_square: Mean-square ratio from the pairs measured so far.
        curvature: λ_max, if it was measured for this very step.
        probability: That a spike begins within the horizon of a monitor's forecast. NaN where every step sees
            the same data: its curvature is measured there.
        growth: Smallest factor by which ‖g‖² grew in each of the last three steps.
        rise: ‖g‖² over its smallest value of the last eight steps.
        climb: The same; 1 below twice its mean of 30 steps.
        leap: ‖g‖² over its largest value of the last eight steps, both before clipping.
        surge: Whether ‖g‖² is at least twice what it was at any of the last eight steps.
        with_last: Cosine of the angle between g and the gradient of the last step; known where ‖g‖² grew by a
            quarter in both, and for eight steps after it doubled or v was raised along a direction.
        with_second_last: The same of the gradient two steps ago.
        noise: Median change of ln ‖g‖² from step to step, over 50 steps; known where ‖g‖² grew or surged.
        grown_ratio: Stability ratio that makes ‖g‖² grow by the last of these factors, see
            `foreshock.stability.growing_ratio`; NaN where it neither grew nor surged.
    """

    step: int
    updates: int
    secant: float = math.nan
    squared_gradient: float = math.nan
    preconditioned_gradient: float = math.nan
    lag: float = math.nan
    mean_square: float = math.nan
    curvature: float = math.nan
    probability: float = math.nan
    growth: float = math.nan
    rise: float = math.nan
    climb: float = math.nan
    leap: float = math.nan
    surge: bool = False
    with_last: float = math.nan
    with_second_last: float = math.nan
    noise: float = math.nan
    grown_ratio: float = math.nan


@dataclass(frozen=True)
class Decision:
    """What a policy asks for.

    Attributes:
        remedy: What to change, see `GuardAction`.
        factor: By how much, see `GuardAction`.
        reason: Why, in words.
        value: What was measured.
        threshold: What it was compared with.
        along: Of ``"raise along"``: whether along the last displacement, the step that the gradient alone
            would make, or the measured eigenvector.
    """

    remedy: Remedy
    factor: float
    reason: str
    value: float
    threshold: float
    along: Direction = "displacement"


class Policy(Protocol):
    """Decide, step by step, whether and how to act. Options are the fields of a dataclass."""

    @property
    def name(self) -> str:
        """Name in records."""

    @property
    def needs(self) -> frozenset[Measure]:
        """What has to be measured at the coming step; the lag is followed for whoever needs pairs."""

    @property
    def exact_above(self) -> float:
        """Secant curvature above which it has to be exact; an upper bound may be returned below."""

    @property
    def scales_decay(self) -> bool:
        """Whether decoupled weight decay shrinks with the steps that raising v shortens."""

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return what to do before the step is taken; nothing on most steps.

        Args:
            signals: The step about to be taken.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""


def secant_reason(signals: GuardSignals) -> str:
    """Return in words what the secant showed."""
    return f"the curvature along the last displacement is {signals.secant:.3g} of the edge"


def curvature_reason(signals: GuardSignals) -> str:
    """Return in words what a probe of the curvature showed."""
    return f"the preconditioned sharpness is {signals.curvature:.3g} of the edge"


def require_threshold(name: str, value: float, *, low: float, high: float) -> None:
    """Refuse an option outside of an open interval.

    Args:
        name: What the option is called.
        value: Its value.
        low: Lower end.
        high: Upper end.

    Raises:
        ValueError: If it lies outside, or is NaN.
    """
    if not low < value < high:
        raise ValueError(f"{name} is {value!r}; it must lie in ({low:g}, {high:g})")
