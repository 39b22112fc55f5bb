"""What goes into a forecast, and what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from foreshock.representation import changed, short_repr

State = Literal["unknown", "stable", "rising", "edge", "armed", "spike", "recovery"]
Level = Literal["watch", "alarm"]
Raised = Literal["", "watch", "alarm"]

# Chosen on the development runs of SpikeBench, where .5 to .7 serve alike.
NOISY_EDGE = 0.6
"""Edge of the *typical* mean-square ratio, below the one of theory: the noise has a heavy tail."""

FLAT = "the curvature is zero along what was the sharpest direction"
"""Basis of a forecast where the last measurement gave nothing that a forecast could follow."""

_DATED = 5  # horizons: beyond them a date without an upper end is only said by its lower one
_RECENT = 25  # steps: half the usual horizon, beyond which the age of a ratio is said beside it


@dataclass(frozen=True)
class EdgeReading:
    """What a forecast takes of one curvature reading and its step: plain numbers, named as where measured.

    Attributes:
        stability_ratio: λ_max(Ĥ)·η/2.
        learning_rate: η of the step.
        relative_error: Bound on the relative error of `stability_ratio`.
        gradient_stability_ratio: Gradient-directional curvature ·η/2.
        predicted_loss_change: Change of the loss in this step, by the second-order model.
        alignment: |cos| of the preconditioned gradient and the top eigenvector.
        excess_loss: L_q, the part of the loss that lies along the top eigenvector.
        instant_lag: Σv̂/Σg².
        loss: The loss.
        beta1: Decay of the first moment.
        direct_share: Share of the gradient itself in the momentum factor; 0 for Adam.
        measured: Step at which a Hessian product was made for it; None if that is the step of the reading.
        since: Step of the last measurement before that; None if unknown.
        preconditioner_growth: Growth of ln(ratio) a step since then that v and the learning rate made.
        landscape_growth: What the curvature along the top eigenvector made; NaN if it was not measured again.
    """

    stability_ratio: float
    learning_rate: float
    relative_error: float = 0.0
    gradient_stability_ratio: float = math.nan
    predicted_loss_change: float = math.nan
    alignment: float = math.nan
    excess_loss: float = math.nan
    instant_lag: float = math.nan
    loss: float = math.nan
    beta1: float = 0.0
    direct_share: float = 0.0
    measured: int | None = None
    since: int | None = None
    preconditioner_growth: float = math.nan
    landscape_growth: float = math.nan

    __repr__ = short_repr

    @property
    def growing(self) -> str:
        """What of the reading says that the loss is about to rise, in words; empty if nothing."""
        if self.gradient_stability_ratio >= 1:
            return f"the curvature along the gradient is {self.gradient_stability_ratio:.2f} of the edge"
        return "this step raises the loss of its own batch" if self.predicted_loss_change > 0 else ""


@dataclass(frozen=True)
class Forecast:
    """What is known about the next instability at one step.

    Attributes:
        step: Step from which times are counted.
        stability_ratio: λ_max(Ĥ)·η/2 at the last reading; NaN if there was none yet.
        steps_to_instability: Steps until the ratio reaches one; 0 at or above it, infinity if it does
            not rise, NaN if unknown.
        interval_low: Lower end of the 80 % interval of `steps_to_instability`.
        interval_high: Upper end; infinity if the rise itself is in doubt.
        growth_rate: Fitted growth of ln(ratio) a step; NaN if unknown.
        state: ``armed`` at or above one; ``edge`` if one is reached within the horizon; ``rising`` if the
            ratio surely grows, or reaches one where no visible rise of the loss is expected of it;
            ``recovery`` after a sudden fall, until there are enough new readings; ``spike`` while the loss
            has left its level; ``stable`` otherwise; ``unknown`` if the readings don't say, or are too old –
            which does not mean safe. Where batches differ, ``armed``: past the edge of
            `typical_mean_square_ratio` while v lags; ``rising``: past it while v follows g².
        basis: In words, what the forecast rests on, or what it lacks.
        mean_square_ratio: Stability ratio under the noise of mini-batches, in the mean square; one is the
            edge, as for `stability_ratio`. NaN before the fifth measurement after step 100, before which v
            averages too few gradients. The guard's is the same.
        typical_mean_square_ratio: Geometric mean of its last five single measurements, by which the state is
            judged; its edge is .6, because single measurements have a heavy tail. NaN if unknown.
        lag: v above g²: the largest Σv̂ over the mean ‖g‖² of 30 steps, of the last 50 steps; about one
            while v follows g², and NaN if unknown. What a guard raised v by is left out.
        steps_to_spike: Steps until the loss is expected to leave its level; infinity if none is expected,
            NaN if unknown.
        severity: Expected peak of the loss in the next spike, as a multiple of its level before; NaN if
            unknown.
        stage: Where in the cycle of a spike the run is, one of `foreshock.dynamics.Stage`; empty if unknown.
        cause_hint: In words, what drives the ratio; empty if unknown. A hint: only a test with one part
            frozen proves it.
        measured: Step of the last measurement that it rests on; None if there was none. In between the ratio
            is followed from v and the learning rate alone.
        doubt: In words, why the readings may be wrong: the loss or the gradient of training is not that of
            `loss_fn`, for example. Empty if nothing speaks against them.
        probability: That a spike, a loss above three times its level, begins within the horizon; NaN if
            unknown, and while one goes on. See `foreshock.forecast.probability`.
        probability_low: Lower end of its interval: on eight of ten runs the frequency of spikes lies in it.
        probability_high: Upper end.
        probability_within: The same probability for 10, 25, 50 and 100 steps; empty if unknown.
        horizon: Steps that `probability` speaks of; NaN if unknown.
        level: ``alarm`` from where the probability reached the threshold until it fell below half of it, or a
            spike began; ``watch`` with half these thresholds; empty otherwise.
    """

    step: int
    stability_ratio: float
    steps_to_instability: float
    interval_low: float
    interval_high: float
    growth_rate: float
    state: State
    basis: str
    mean_square_ratio: float = math.nan
    typical_mean_square_ratio: float = math.nan
    lag: float = math.nan
    steps_to_spike: float = math.nan
    severity: float = math.nan
    stage: str = ""
    cause_hint: str = ""
    measured: int | None = None
    doubt: str = ""
    probability: float = math.nan
    probability_low: float = math.nan
    probability_high: float = math.nan
    probability_within: Mapping[int, float] = field(default_factory=dict)
    horizon: float = math.nan
    level: Raised = ""

    __repr__ = short_repr

    def _repr_html_(self) -> str:
        from foreshock.cards import Card

        return Card(f"Forecast at step {self.step:,}: {self.level or self.state}", self._rows())._repr_html_()

    def _rows(self) -> tuple[tuple[str, str], ...]:
        spike = ""
        if not math.isnan(self.probability):
            spike = f"{self._probability} within {self.horizon:.0f} steps ({self._interval})"
        age = "" if self.age is None else f"{self.age:,} steps ago"
        return (
            ("a spike", spike),
            ("curvature", self._measured),
            ("measured", age),
            ("because", self.cause_hint or self.basis),
            ("doubt", self.doubt),
        )

    @property
    def age(self) -> int | None:
        """Steps since the last measurement; None if there was none."""
        return None if self.measured is None else self.step - self.measured

    @property
    def announces(self) -> bool:
        """Whether a spike is going on, or so probable that it is an alarm."""
        return self.level == "alarm" or self.state == "spike"

    @property
    def is_near_edge(self) -> bool:
        """Whether the edge is passed, or will be within the horizon."""
        return self.state in ("edge", "armed")

    def at(self, step: int) -> Forecast:
        """Return the same forecast, its times counted from a later step.

        Args:
            step: Where to count from.
        """
        passed = step - self.step
        if not passed:
            return self
        return changed(
            self,
            step=step,
            steps_to_instability=_counted_down(self.steps_to_instability, passed),
            interval_low=_counted_down(self.interval_low, passed),
            interval_high=_counted_down(self.interval_high, passed),
            steps_to_spike=_counted_down(self.steps_to_spike, passed),
        )

    def __str__(self) -> str:
        """Return one line for people."""
        if math.isnan(self.probability):
            return self._measured
        blind = ", from loss and gradient alone" if self.state == "unknown" else ""
        within = f"a spike within {self.horizon:.0f} steps: {self._probability} ({self._interval}){blind}"
        return f"{within}; {self._measured}"

    @property
    def _probability(self) -> str:
        return _percent(self.probability)

    @property
    def _interval(self) -> str:
        return f"{_percent(self.probability_low)}–{_percent(self.probability_high)}"

    @property
    def _measured(self) -> str:
        noisy = math.isfinite(self.typical_mean_square_ratio)
        if self.state == "unknown":
            # What was measured once and says nothing now was measured all the same.
            return f"{'nothing measured' if self.measured is None else 'state unknown'}: {self.basis}"
        if noisy:
            ratio = f"typical mean-square ratio {self.typical_mean_square_ratio:.2f} (edge {NOISY_EDGE:g})"
            return f"{ratio}{self._aged}, {self.state}: {self.basis}"
        if not math.isfinite(self.stability_ratio):
            return f"nothing measured: {self.basis}"
        return f"stability ratio {self.stability_ratio:.3f}{self._aged}, {self.state}{self._date}"

    @property
    def _aged(self) -> str:
        age = self.age
        return f", measured {age:,} steps ago" if age is not None and age > _RECENT else ""

    @property
    def _date(self) -> str:
        """When the edge is reached, as far as that is known: a guess beyond all evidence is none."""
        ahead, low, high = self.steps_to_instability, self.interval_low, self.interval_high
        if ahead == 0 and self.state == "edge":
            return ", unstable from about now on"  # the date has come since it was forecast
        if not (math.isfinite(ahead) and ahead > 0):
            return ""
        if low <= 0 and math.isinf(high):
            return ", no date yet"
        if ahead > _DATED * self.horizon and math.isinf(high):
            return f", unstable in {low:.0f} steps at the earliest"
        latest = "∞" if math.isinf(high) else f"{high:.0f}"
        return f", unstable in about {ahead:.0f} steps ({low:.0f}–{latest})"


def _counted_down(time: float, passed: int) -> float:
    return time if math.isnan(time) else max(time - passed, 0.0)


def _percent(share: float) -> str:
    """Return a probability in a column's width: what is not 0 or 1 is never said to be."""
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def unknown(step: int, basis: str, *, stability_ratio: float = math.nan) -> Forecast:
    """Return the forecast that says that nothing is known, and why.

    Args:
        step: Step it is made at.
        basis: What is missing.
        stability_ratio: The last measured ratio, if there is one.
    """
    nan = math.nan
    return Forecast(step, stability_ratio, nan, nan, nan, nan, "unknown", basis)
