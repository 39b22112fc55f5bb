"""When a run is probed: at fixed steps, or as far as a budget of passes allows.

Where every step sees the same data there are three ways to a stability ratio, from the most expensive to the
cheapest: a probe finds the top eigenvector, a refresh measures the curvature along it again, and in between
the ratio is followed while v and the learning rate change. Where batches differ, what is measured is their
noise, and the curvature of one batch only now and then.

What measurements cost is counted in forward-backward passes, not timed: a count is the same on every machine
and on every rank, so that a run can be repeated, and ranks agree without asking each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from foreshock.curvature import ERROR_PER_STEP
from foreshock.forecast import Forecast, noise_interval
from foreshock.guarding.pair_prober import PAIR_INTERVAL

Measure = Literal["curvature", "refresh", "follow", "noise"]

CURVATURE_PROBE_INTERVAL = 50
"""Where batches differ: measurements of the noise from one probe of the curvature, expensive, to the next."""

SHORTEST = 20
"""The fewest steps from one measurement of the curvature to the next."""

_COSTS: Mapping[str, float] = {"curvature": 15.0, "refresh": 4.0, "noise": 2.0}  # F, until one was counted
_OPENING_DISTANCE: Mapping[str, int] = {"refresh": 15, "noise": 10}  # steps between those of the opening
_OPENING_NOISES = 3
_FOLLOWED_EVERY, _FOLLOWED_RARELY = 10, 25  # steps from one followed ratio to the next, and far from the edge
_FAR = 200  # steps to the edge
_AHEAD = 0.5  # share of the time to the edge after which the curvature is measured again
_LONGEST = 100  # and the most of them
_PROBED_AGAIN = 1000  # steps after which the top eigenvector is sought anew, though nothing asks for it
_DRIFT = 0.1  # of ln(ratio) between two measurements; where it is more the next one comes sooner

_ADVANCE = 10.0
"""Passes that measurements for a guard may cost before they are earned."""

OPENING = 50
"""Steps at the start of a run, whose measurements are paid over the steps that follow."""

_REPAYMENT = 0.2  # share of the budget that pays for the opening until it is paid


class PassBudget:
    r"""Passes that are earned with each step and spent by measurements.

    The first measurements cost the most (a cold start, the choice of a backend) and are needed at once. What
    they cost, C, is paid by a fifth of the budget b over the steps n that follow, so that after n steps

    .. math:: \text{spent} \le b\,n + \max(0,\; C - b\,n/5),

    which is at most b·n from n = 5C/b on.

    Args:
        passes_per_step: b, forward-backward passes a step, in [0, 1]; 0 allows nothing.

    Raises:
        ValueError: If it lies outside.

    Example:
        >>> budget = PassBudget(0.05)
        >>> budget.spend(30.0, opening=True)
        >>> budget.allows(4.0, step=80), budget.allows(4.0, step=105)
        (False, True)
    """

    def __init__(self, passes_per_step: float) -> None:
        if not 0 <= passes_per_step <= 1:
            raise ValueError(
                f"budget is {passes_per_step!r}; it is the number of forward-backward passes that probes may "
                "cost a step, in [0, 1]: 0.05 is one pass in twenty steps, 0 measures nothing. For more, "
                "probe at fixed steps with probe_every"
            )
        self.passes_per_step = passes_per_step
        self.spent = self._opening = 0.0
        self._opened_again = False
        self._first: int | None = None

    def begin(self, step: int) -> None:
        """Count steps from this one on; later calls change nothing.

        Args:
            step: Step number.
        """
        self._first = step if self._first is None else self._first

    def begin_again(self) -> None:
        """Pay the next measurement later, as those of the opening."""
        self._opened_again = True

    @property
    def in_opening_until(self) -> int:
        """The first step that is not of the opening."""
        return (self._first or 0) + OPENING

    @property
    def income(self) -> float:
        """Passes a step that are left while the opening is being paid."""
        return self.passes_per_step * (1 - _REPAYMENT)

    def allows(self, passes: float, *, step: int, advance: float = 0.0) -> bool:
        """Return whether a measurement can be paid for at a step.

        Args:
            passes: What it will cost.
            step: Step number.
            advance: Passes that may be spent before they are earned.
        """
        earned = self.passes_per_step * (step - (self._first or 0))
        owed = max(0.0, self._opening - _REPAYMENT * earned)
        return self.passes_per_step > 0 and self.spent + passes <= earned + owed + advance

    def spend(self, passes: float, *, opening: bool = False) -> None:
        """Account for a measurement.

        Args:
            passes: What it cost.
            opening: Whether it is of the opening.
        """
        self.spent += passes
        self._opening += passes if opening or self._opened_again else 0.0
        self._opened_again = False

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed budget needs, as plain values."""
        return {"spent": self.spent, "opening": self._opening, "first": self._first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.spent, self._opening, self._first = state["spent"], state["opening"], state["first"]


class ProbeSchedule:
    """Decide what to measure at a step: at fixed steps, or as far as a budget of passes allows.

    Args:
        budget: Forward-backward passes that measurements may cost a step, in [0, 1].
        every: Probe every so many steps instead, ≥ 1, whatever it costs.

    Attributes:
        budget: The passes.
        every: Steps between probes, where they are fixed.
        turned: Whether the top eigenvector seems to be another one by now, so that the next measurement of
            the curvature should search for it.
        drift: How fast a followed ratio goes wrong, relative, a step.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> schedule = ProbeSchedule(budget=0.05)
        >>> schedule.due(5, noisy=False, forecast=None, lag=1.0)
        'curvature'
        >>> schedule.spent("curvature", 30.0, step=5)
        >>> [schedule.due(step, noisy=False, forecast=None, lag=1.0) for step in (10, 15, 20)]
        [None, 'follow', 'refresh']
    """

    def __init__(self, *, budget: float = 0.05, every: int | None = None) -> None:
        self.budget = PassBudget(budget)
        if every is not None and not every >= 1:
            raise ValueError(f"probe_every is {every!r}; probe every 1 step or more, or None for a budget")
        self.every = every
        self._costs: dict[str, float] = dict(_COSTS)
        self._last: dict[str, int] = {}  # step of the last measurement of each type
        self._noises = 0
        self.drift = ERROR_PER_STEP
        self.turned = False

    def due(
        self,
        step: int,
        *,
        noisy: bool,
        forecast: Forecast | None,
        lag: float,
        deciding: bool = True,
        share: float | None = None,
    ) -> Measure | None:
        """Return what to measure at a step; None for nothing.

        Args:
            step: Step number.
            noisy: Whether batches differ and their noise can be measured.
            forecast: The last forecast, if there is one.
            lag: v above g²; NaN if unknown.
            deciding: Whether a measurement may come at this step if none is fixed for it.
            share: Mean-square ratio over that from which a guard acts, NaN if not known yet; None without a
                guard that acts on it.
        """
        self.budget.begin(step)
        if self.every is not None:
            last = self._last.get("any")
            if last is None or step // self.every > last // self.every:
                return "noise" if noisy else "curvature"
            return self._followed(step, forecast) if deciding and not noisy else None
        if not deciding or not self.budget.passes_per_step > 0:
            return None
        return self._noise_due(step, lag, share) if noisy else self._curvature_due(step, forecast)

    @property
    def accompanied(self) -> bool:
        """Whether the measurement of the noise that is due comes with a probe of the curvature."""
        return self.every is not None and self._noises % CURVATURE_PROBE_INTERVAL == 0

    @property
    def counts_passes(self) -> bool:
        """Whether a budget decides, rather than fixed steps."""
        return self.every is None

    @property
    def measures(self) -> bool:
        """Whether anything is ever measured."""
        return self.every is not None or self.budget.passes_per_step > 0

    def spent(self, measure: Measure, passes: float, *, step: int) -> None:
        """Account for a measurement.

        Args:
            measure: What was measured.
            passes: Forward-backward passes that it cost.
            step: Step number.
        """
        if measure != "follow":
            cold = measure == "curvature" and measure not in self._last
            if not cold:
                # Averaged: one refresh that had to seek the eigenvector makes not all of them expensive.
                self._costs[measure] += (passes - self._costs[measure]) / 2
            self.budget.spend(passes, opening=step < self.budget.in_opening_until)
            self._last["any"] = self._last[measure] = step
            self._noises += measure == "noise"
        if measure == "curvature":
            self.turned = False
        if measure != "noise":
            self._last["reading"] = step

    def restart(self) -> None:
        """Take what comes next for the opening of another run: what was known is of other parameters."""
        self.budget.begin_again()
        self._last.clear()

    def failed(self, measure: Measure, *, step: int) -> None:
        """Account for a measurement that failed, as if it had cost what it usually does.

        Args:
            measure: What was to be measured.
            step: Step number.
        """
        self.budget.spend(self._costs.get(measure, 0.0), opening=step < self.budget.in_opening_until)
        self._last["any"] = step
        self._last.pop("reading", None)  # what failed is not replaced by what was known before
        self.turned = self.turned or measure == "refresh"

    def learn_drift(self, followed: float, measured: float, *, steps: int) -> None:
        """Learn how fast a followed ratio goes wrong.

        Args:
            followed: What the ratio was thought to be.
            measured: What it turned out to be.
            steps: Steps since it was measured before.
        """
        if followed > 0 and measured > 0 and steps > 0:
            drift = abs(math.log(measured / followed)) / steps
            self.drift = max((self.drift + drift) / 2, ERROR_PER_STEP)

    def shortfall(self, *, noisy: bool, horizon: float) -> str:
        """Return in words that the budget can't keep a forecast alive, and what could; empty if it can.

        Args:
            noisy: Whether batches differ.
            horizon: Steps of the forecast.
        """
        if self.every is not None or not self.budget.passes_per_step > 0:
            return ""
        # Of a refresh what it costs in a calm run, not in the first steps, where the eigenvector turns fast.
        cost = self._costs["noise"] if noisy else _COSTS["refresh"]
        # Between two measurements a ratio is followed, for longer than the noise of batches stays known.
        longest = horizon if noisy else 2 * horizon
        every = cost / self.budget.income
        if every <= longest:
            return ""
        share = self.budget.income / self.budget.passes_per_step
        enough = math.ceil(1000 * cost / longest / share) / 1000
        return (
            f"budget={self.budget.passes_per_step:g} pays for a measurement every {every:.0f} steps, too "
            f"rarely for a horizon of {horizon:g} steps, so that the forecast will often be unknown: "
            f"choose {f'budget={enough:g}, or ' if enough <= 1 else ''}a longer horizon"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed schedule needs, as plain values."""
        return {
            "budget": self.budget.state_dict(),
            "costs": dict(self._costs),
            "last": dict(self._last),
            "noises": self._noises,
            "turned": self.turned,
            "drift": self.drift,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.budget.load_state_dict(state["budget"])
        self._costs, self._last = dict(state["costs"]), dict(state["last"])
        self._noises, self.turned = int(state["noises"]), bool(state["turned"])
        self.drift = float(state["drift"])

    def _noise_due(self, step: int, lag: float, share: float | None) -> Measure | None:
        since = step - self._last.get("noise", -math.inf)
        if self._noises < _OPENING_NOISES and step < self.budget.in_opening_until:
            return "noise" if since >= _OPENING_DISTANCE["noise"] else None
        # For a guard what is saved far from the edge is spent near it, and a little in advance: it acts on an
        # average of five, which a run that spikes early would have too late.
        wait = noise_interval(lag) if share is None else noise_interval(lag, every=PAIR_INTERVAL, ratio=share)
        advance = 0.0 if share is None else _ADVANCE
        affordable = self.budget.allows(self._costs["noise"], step=step, advance=advance)
        return "noise" if since >= wait and affordable else None

    def _curvature_due(self, step: int, forecast: Forecast | None) -> Measure | None:
        probed = self._last.get("curvature")
        if step < self.budget.in_opening_until:
            since = step - self._last.get("any", -math.inf)
            if probed is None:
                return "curvature"
            return "refresh" if since >= _OPENING_DISTANCE["refresh"] else self._followed(step, forecast)
        since = step - self._last.get("any", -math.inf)
        again = probed is None or self.turned or step - probed >= _PROBED_AGAIN
        if again and since >= SHORTEST and self.budget.allows(self._costs["curvature"], step=step):
            return "curvature"
        affordable = self.budget.allows(self._costs["refresh"], step=step)
        if probed is not None and since >= self._wait(forecast) and affordable:
            return "refresh"
        return self._followed(step, forecast)

    def _followed(self, step: int, forecast: Forecast | None) -> Measure | None:
        reading = self._last.get("reading")
        far = (
            forecast is not None and forecast.interval_low > _FAR and not step < self.budget.in_opening_until
        )
        every = _FOLLOWED_RARELY if far else _FOLLOWED_EVERY
        return "follow" if reading is not None and step - reading >= every else None

    def _wait(self, forecast: Forecast | None) -> float:
        # With a date its lower end counts too: a crossing that comes early must not be missed.
        if forecast is None or math.isnan(forecast.steps_to_instability):
            return SHORTEST
        ahead = min(forecast.steps_to_instability, forecast.interval_low)
        wait: float = min(_AHEAD * ahead, _DRIFT / self.drift, _LONGEST)
        return max(wait, SHORTEST)
