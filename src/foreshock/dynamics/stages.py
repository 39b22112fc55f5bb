"""The five stages of a spike cycle, told from scalars of each step.

Stable decrease, decay of the preconditioner, onset, growth of the preconditioner, decay of the loss (Bai et
al. 2025, arXiv 2506.04805), as a state machine. Every evidence has two thresholds, one to believe it and
one to give it up, is averaged over a few steps, and a new stage must be seen several steps running: noise
does not flip it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Stage(StrEnum):
    """Where in the cycle a run, or one block of it, is."""

    STABLE_DECREASE = "stable_decrease"  # below the edge, v follows the squared gradient
    PRECONDITIONER_DECAY = "preconditioner_decay"  # below the edge, v is blind and decays
    ONSET = "onset"  # above the edge, v has not noticed
    PRECONDITIONER_GROWTH = "preconditioner_growth"  # above the edge, v grows
    LOSS_DECAY = "loss_decay"  # below the edge again, the loss returns to where it was


@dataclass(frozen=True)
class StageSignals:
    """What one step shows; NaN for what was not measured.

    Attributes:
        lag_ratio: Σg²/Σv̂.
        decay_exponent: log(Σv_t/Σv_{t−1})/log β₂.
        stability_ratio: The ratio whose edge is one; the last one measured holds.
        loss_growth: ln(L_t/L_{t−1}).
    """

    lag_ratio: float
    decay_exponent: float
    stability_ratio: float = math.nan
    loss_growth: float = math.nan


@dataclass(frozen=True)
class StageRules:
    """Thresholds; pairs are (give up, believe).

    Attributes:
        above_edge: Of the stability ratio. Overshoots are 1.01 to 1.07: the second must not exceed one.
        blind: Of the decay exponent, for "v decays". The exponent is near 1 − Σg²/Σv.
        growing: Of the decay exponent, for "v grows"; believed *below* the second.
        lag_ratio: Above it v is not blind, whatever the exponent says (v_t grows by itself while the bias
            correction is not over).
        recovered: ln of the loss over that at the crossing, below which it has returned.
        fallen: ln of the peak loss over the loss, above which a loss counts as having returned if v already
            decays again: a simulated quadratic may cross the edge at a loss of 1e-197, and never return to
            it.
        patience: Steps without a new low after which a loss counts as having returned as far as it will.
        memory: Steps over which exponent and lag ratio are averaged, ≥ 1.
        dwell: Steps running that must show another stage before it is entered, ≥ 1.
    """

    above_edge: tuple[float, float] = (0.99, 1.0)
    blind: tuple[float, float] = (0.3, 0.6)
    growing: tuple[float, float] = (0.5, 0.0)
    lag_ratio: float = 0.6
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
            raise ValueError("a pair is (give up, believe): the first must be the weaker evidence")
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
        lag_ratio: Averaged lag ratio.
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
    lag_ratio: float = math.nan
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


def next_stage(state: StageState, signals: StageSignals, rules: StageRules = _DEFAULT_RULES) -> StageState:
    """Return the state after one more step.

    Args:
        state: State so far.
        signals: What the step shows.
        rules: Thresholds.

    Example:
        >>> state = StageState()
        >>> for _ in range(3):
        ...     signals = StageSignals(lag_ratio=0.01, decay_exponent=0.99, stability_ratio=0.7)
        ...     state = next_stage(state, signals)
        >>> state.stage.value
        'preconditioner_decay'
    """
    seen = _weigh(state, signals, rules)
    target = _target(seen, rules)
    streak = seen.streak + 1 if target is seen.candidate else 1
    if target is seen.stage:
        return replace(seen, candidate=target, streak=streak, steps=seen.steps + 1)
    if streak < rules.dwell:
        return replace(seen, candidate=target, streak=streak, steps=seen.steps + 1)
    return replace(seen, stage=target, candidate=target, streak=streak, steps=1)


@dataclass
class StageTracker:
    """One state machine for each block, and one for the whole.

    Attributes:
        rules: Thresholds.
        states: State of each name.

    Example:
        >>> tracker = StageTracker()
        >>> tracker.update({"": StageSignals(1.0, -3.0, 0.2), "head": StageSignals(0.01, 0.99, 0.2)})
        {'': <Stage.STABLE_DECREASE: 'stable_decrease'>, 'head': <Stage.STABLE_DECREASE: 'stable_decrease'>}
    """

    rules: StageRules = _DEFAULT_RULES
    states: dict[str, StageState] = field(default_factory=dict)

    def update(self, signals: Mapping[str, StageSignals]) -> dict[str, Stage]:
        """Take one step's signals and return the stage of each name given.

        Args:
            signals: Of each parameter block, and of the whole under a name of its own such as ``""``.
        """
        for name, seen in signals.items():
            self.states[name] = next_stage(self.states.get(name, StageState()), seen, self.rules)
        return {name: self.states[name].stage for name in signals}


def _weigh(state: StageState, signals: StageSignals, rules: StageRules) -> StageState:
    exponent = _averaged(state.exponent, signals.decay_exponent, rules.memory)
    lag_ratio = _averaged(state.lag_ratio, signals.lag_ratio, rules.memory)
    ratio = signals.stability_ratio
    above = state.above if math.isnan(ratio) else ratio >= rules.above_edge[0 if state.above else 1]
    # Comparisons with NaN are false: what is not known is not believed.
    blind = exponent >= rules.blind[0 if state.blind else 1] and not lag_ratio > rules.lag_ratio
    growing = exponent < rules.growing[0 if state.growing else 1]
    settled = state.stage in (Stage.STABLE_DECREASE, Stage.PRECONDITIONER_DECAY)
    began = above and not state.above and settled
    growth = signals.loss_growth if math.isfinite(signals.loss_growth) else 0.0
    rise = 0.0 if began else state.rise + growth
    improved = above or rise < state.low
    return replace(
        state,
        exponent=exponent,
        lag_ratio=lag_ratio,
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
