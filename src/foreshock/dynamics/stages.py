"""The five stages of a spike cycle, recognised from scalars of each step.

Stable decrease, decay of the preconditioner, onset, growth of the preconditioner, decay of the loss (Bai et
al. 2025, arXiv 2506.04805), as a state machine. All evidence is averaged over a few steps and has two
thresholds, one to believe it and one to drop it, and a new stage must be seen several steps running: noise
does not flip it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from foreshock.representation import changed

_NAMES = ("stage", "candidate")


class Stage(StrEnum):
    """Where in the cycle a run, or one block of it, is."""

    STABLE_DECREASE = "stable_decrease"  # below the edge, v follows the squared gradient
    PRECONDITIONER_DECAY = "preconditioner_decay"  # below the edge, v is blind and decays
    ONSET = "onset"  # above the edge, v has not noticed
    PRECONDITIONER_GROWTH = "preconditioner_growth"  # above the edge, v grows
    LOSS_DECAY = "loss_decay"  # below the edge again, the loss returns to where it was


@dataclass(frozen=True)
class StageEvidence:
    """What one step shows of its stage; NaN for what was not measured.

    Attributes:
        instant_lag: Σv̂/Σg².
        decay_exponent: log(Σv_t/Σv_{t−1})/log β₂.
        stability_ratio: The ratio whose edge is one; the last one measured holds.
        loss_growth: ln(L_t/L_{t−1}).
    """

    instant_lag: float
    decay_exponent: float
    stability_ratio: float = math.nan
    loss_growth: float = math.nan


@dataclass(frozen=True)
class StageRules:
    """Thresholds; pairs are (drop, believe).

    Attributes:
        above_edge: Of the stability ratio. Overshoots are 1.01 to 1.07: the second must not exceed one.
        blind: Of the decay exponent, for "v decays". The exponent is near 1 − Σg²/Σv.
        growing: Of the decay exponent, for "v grows"; believed *below* the second.
        instant_lag: Below it v is not blind, whatever the exponent says (v_t grows by itself while the bias
            correction is not over).
        recovered: ln of the loss over that at the crossing, below which it has returned.
        fallen: ln of the peak loss over the loss, above which a loss counts as having returned if v already
            decays again: a simulated quadratic may cross the edge at a loss of 1e-197, and never return to
            it.
        patience: Steps without a new low after which a loss counts as having returned as far as it will.
        memory: Steps over which the exponent and g² over v are averaged, ≥ 1.
        dwell: Steps running that must show another stage before it is entered, ≥ 1.
    """

    above_edge: tuple[float, float] = (0.99, 1.0)
    blind: tuple[float, float] = (0.3, 0.6)
    growing: tuple[float, float] = (0.5, 0.0)
    instant_lag: float = 1 / 0.6
    recovered: float = 0.1
    fallen: float = 4.6
    patience: int = 20
    memory: float = 3.0
    dwell: int = 2

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a pair is in the wrong order or a length is below one.
        """
        ordered = (
            self.above_edge[0] <= self.above_edge[1]
            and self.blind[0] <= self.blind[1]
            and self.growing[0] >= self.growing[1]
        )
        if not ordered:
            raise ValueError("a pair is (drop, believe): the first must be the weaker evidence")
        if not (self.memory >= 1 and self.dwell >= 1 and self.patience >= 1):
            lengths = (self.memory, self.dwell, self.patience)
            raise ValueError(f"memory, dwell and patience are {lengths}; each must be at least 1")


@dataclass(frozen=True)
class StageState:
    """What the machine remembers; numbers only, so that it can be saved and resumed.

    Attributes:
        stage: Present stage.
        steps: Steps in it.
        candidate: Stage that the last steps showed.
        streak: How many of them running.
        exponent: Averaged decay exponent.
        instant_lag: Averaged instant lag, a harmonic mean: see `_averaged_lag`.
        above: Whether the ratio is believed above the edge.
        blind: Whether v is believed to decay.
        growing: Whether v is believed to grow.
        rise: ln of the loss over that at the last crossing from below.
        peak: Highest `rise` since then.
        low: Lowest `rise` since the ratio was last above the edge.
        stale: Steps since then without a new low.
    """

    stage: Stage = Stage.STABLE_DECREASE
    steps: int = 0
    candidate: Stage = Stage.STABLE_DECREASE
    streak: int = 0
    exponent: float = math.nan
    instant_lag: float = math.nan
    above: bool = False
    blind: bool = False
    growing: bool = False
    rise: float = 0.0
    peak: float = 0.0
    low: float = math.inf
    stale: int = 0

    def __post_init__(self) -> None:
        """Take the stages of a saved state, which are strings, as stages.

        Raises:
            ValueError: If one is not the name of a stage.
        """
        object.__setattr__(self, "stage", Stage(self.stage))
        object.__setattr__(self, "candidate", Stage(self.candidate))


_DEFAULT_RULES = StageRules()


def next_stage(state: StageState, seen: StageEvidence, rules: StageRules = _DEFAULT_RULES) -> StageState:
    """Return the state after one more step.

    Args:
        state: State so far.
        seen: What the step shows.
        rules: Thresholds.

    Example:
        >>> state = StageState()
        >>> for _ in range(3):
        ...     seen = StageEvidence(instant_lag=100.0, decay_exponent=0.99, stability_ratio=0.7)
        ...     state = next_stage(state, seen)
        >>> state.stage.value
        'preconditioner_decay'
    """
    state = _weigh(state, seen, rules)
    target = _target(state, rules)
    streak = state.streak + 1 if target is state.candidate else 1
    if target is state.stage or streak < rules.dwell:
        return changed(state, candidate=target, streak=streak, steps=state.steps + 1)
    return changed(state, stage=target, candidate=target, streak=streak, steps=1)


class StageTracker:
    """Follow one run through its stages.

    Example:
        >>> tracker = StageTracker()
        >>> for _ in range(4):
        ...     tracker.update(loss=1.0, instant_lag=100.0, decay_exponent=0.99, stability_ratio=0.7)
        >>> tracker.stage
        'preconditioner_decay'
    """

    def __init__(self) -> None:
        self._state = StageState()
        self._loss = math.nan
        self._known = False

    @property
    def stage(self) -> str:
        """The present stage; empty while no step had a decay exponent."""
        return self._state.stage.value if self._known else ""

    def update(
        self, *, loss: float, instant_lag: float, decay_exponent: float, stability_ratio: float
    ) -> None:
        """Take one step into account.

        Args:
            loss: Loss of the step.
            instant_lag: Σv̂/Σg².
            decay_exponent: log(Σv_t/Σv_{t−1})/log β₂; a step without it is skipped.
            stability_ratio: The last known ratio whose edge is one; NaN if there is none.
        """
        if math.isnan(decay_exponent):
            return
        known = 0 < loss < math.inf and self._loss > 0
        growth = math.log(loss) - math.log(self._loss) if known else math.nan
        evidence = StageEvidence(instant_lag, decay_exponent, stability_ratio, growth)
        self._state = next_stage(self._state, evidence)
        self._loss = loss if 0 < loss < math.inf else math.nan
        self._known = True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        state = {name: str(value) if name in _NAMES else value for name, value in vars(self._state).items()}
        return {"state": state, "loss": self._loss, "known": self._known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._state = StageState(**state["state"])
        self._loss, self._known = float(state["loss"]), bool(state["known"])


def _weigh(state: StageState, seen: StageEvidence, rules: StageRules) -> StageState:
    exponent = _averaged(state.exponent, seen.decay_exponent, rules.memory)
    lag = _averaged_lag(state.instant_lag, seen.instant_lag, rules.memory)
    ratio = seen.stability_ratio
    above = state.above if math.isnan(ratio) else ratio >= rules.above_edge[0 if state.above else 1]
    # Comparisons with NaN are false: what is not known is not believed.
    blind = exponent >= rules.blind[0 if state.blind else 1] and not lag < rules.instant_lag
    growing = exponent < rules.growing[0 if state.growing else 1]
    settled = state.stage in (Stage.STABLE_DECREASE, Stage.PRECONDITIONER_DECAY)
    began = above and not state.above and settled
    growth = seen.loss_growth if math.isfinite(seen.loss_growth) else 0.0
    rise = 0.0 if began else state.rise + growth
    improved = above or rise < state.low
    return changed(
        state,
        exponent=exponent,
        instant_lag=lag,
        above=above,
        blind=blind,
        growing=growing,
        rise=rise,
        peak=rise if began else max(rise, state.peak),
        low=math.inf if above else min(rise, state.low),
        stale=0 if improved else state.stale + 1,
    )


def _target(state: StageState, rules: StageRules) -> Stage:
    if state.above:
        return Stage.PRECONDITIONER_GROWTH if state.growing else Stage.ONSET
    in_spike = state.stage not in (Stage.STABLE_DECREASE, Stage.PRECONDITIONER_DECAY)
    returned = state.rise <= rules.recovered or (state.blind and state.peak - state.rise >= rules.fallen)
    if in_spike and not returned and state.stale < rules.patience:
        return Stage.LOSS_DECAY
    return Stage.PRECONDITIONER_DECAY if state.blind else Stage.STABLE_DECREASE


def _averaged(average: float, value: float, memory: float) -> float:
    if math.isnan(value) or math.isnan(average):
        return average if math.isnan(value) else value
    return average + (value - average) / memory


def _averaged_lag(average: float, value: float, memory: float) -> float:
    """Average g² over v, return v over g²: a step with hardly any gradient must not outweigh all others."""
    share = _averaged(_reciprocal(average), _reciprocal(value), memory)
    return _reciprocal(share)


def _reciprocal(value: float) -> float:
    return 1 / value if value else math.inf
