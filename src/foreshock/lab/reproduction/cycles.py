"""What runs of Adam on ½θ² show: spikes, their stages and period, the first crossing, the phase diagram."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from foreshock.dynamics import (
    PhaseDiagram,
    QuadraticRuns,
    Stage,
    StageEvidence,
    StageRules,
    StageState,
    find_excursions,
    next_stage,
    time_to_threshold,
)
from foreshock.lab.reproduction.patterns import median, rising_crossings

RISE = 10.0
"""A spike is an excursion above the edge in which g² grows by more than this factor."""

# g² below v/100 no longer holds v up: from here on v decays as β₂ᵗ.
_BLIND = 0.01
_CYCLE = (Stage.ONSET, Stage.PRECONDITIONER_GROWTH, Stage.LOSS_DECAY, Stage.PRECONDITIONER_DECAY)
Extended = NDArray[np.longdouble]


def judge_cycle(runs: QuadraticRuns) -> dict[str, float]:
    """Return spikes, their period and the share of cycles that go through the stages in order.

    Args:
        runs: Simulated runs; the first is judged.
    """
    ratio, second, squared = (
        column[:, 0] for column in (runs.stability_ratio, runs.second_moment, runs.squared_gradient)
    )
    excursions = find_excursions(ratio, second, squared)
    found = {"cross_to_growth": [e.growth - e.start for e in excursions]}
    found["cross_to_peak"] = [e.peak - e.start for e in excursions]
    starts = [excursion.start for excursion in excursions]
    stages = trace_stages(runs)
    ordered = [in_order(stages[begin:end]) for begin, end in itertools.pairwise(starts)]
    return {
        "spikes": float(count_spikes(runs, 0)),
        "period": median(np.diff(starts).astype(float).tolist()),
        **{name: median(list(map(float, steps))) for name, steps in found.items()},
        "peak_ratio": float(max((e.peak_ratio for e in excursions), default=math.nan)),
        "stages_in_order": float(np.mean(ordered)) if ordered else math.nan,
    }


def count_spikes(runs: QuadraticRuns, column: int) -> int:
    """Return the number of excursions above the edge in which g² grows by more than ten times.

    Args:
        runs: Simulated runs.
        column: Which of them.
    """
    columns = (runs.stability_ratio, runs.second_moment, runs.squared_gradient)
    excursions = find_excursions(*(values[:, column] for values in columns))
    return sum(excursion.log_magnification >= math.log(RISE) for excursion in excursions)


def trace_stages(runs: QuadraticRuns) -> list[Stage]:
    """Return the stage of the first run at each step.

    Args:
        runs: Simulated runs.
    """
    second, squared, loss = runs.second_moment[:, 0], runs.squared_gradient[:, 0], runs.loss[:, 0]
    state, stages = StageState(), []
    decays = np.diff(np.log(second), prepend=math.nan)
    growth = np.diff(np.log(loss), prepend=math.nan)
    unit = np.log(_shrink(second))
    for step in range(len(loss)):
        seen = StageEvidence(
            instant_lag=float(second[step] / squared[step]) if squared[step] > 0 else math.inf,
            decay_exponent=float(decays[step] / unit),
            stability_ratio=float(runs.stability_ratio[step, 0]),
            loss_growth=float(growth[step]),
        )
        state = next_stage(state, seen, StageRules())
        stages.append(state.stage)
    return stages


def _shrink(second: Extended) -> np.longdouble:
    """Return β₂, the strongest decay of v that was seen."""
    quotients = second[1:] / second[:-1]
    return np.longdouble(quotients.min())


def in_order(stages: list[Stage]) -> bool:
    """Return whether a stretch between crossings goes through onset, growth, loss decay and decay of v.

    Args:
        stages: Stage of each step, from one crossing up to the next.

    Example:
        >>> from foreshock.dynamics import Stage as S
        >>> cycle = [S.ONSET, S.PRECONDITIONER_GROWTH, S.LOSS_DECAY, S.PRECONDITIONER_DECAY]
        >>> in_order(cycle), in_order(cycle[::-1])
        (True, False)
    """
    wanted = iter(stages)
    return all(stage in wanted for stage in _CYCLE)


def judge_crossings(ratio: Extended) -> tuple[float, float]:
    """Return how often a ratio rises through one, and the median steps between.

    Args:
        ratio: Stability ratio of every step.
    """
    starts = rising_crossings(np.arange(ratio.size), ratio.astype(float))
    return float(len(starts)), median(np.diff(starts).astype(float).tolist())


def judge_first_crossing(runs: QuadraticRuns, column: int, *, beta2: float) -> dict[str, float]:
    """Compare the first crossing without momentum with its forecast from where g² no longer affects v.

    Args:
        runs: Simulated runs.
        column: The run without momentum.
        beta2: Its β₂.
    """
    ratio = runs.stability_ratio[:, column]
    corrected = runs.second_moment[:, column] / (1 - np.longdouble(beta2) ** np.arange(1, len(ratio) + 1))
    blind = int(np.argmax(runs.squared_gradient[:, column] < _BLIND * corrected))
    above = np.flatnonzero(ratio[blind:] >= 1)
    if not above.size or not above[0]:
        return {"first_crossing": math.nan, "first_crossing_error": math.nan}
    ahead = time_to_threshold(float(ratio[blind]), beta2=beta2, step=blind + 1)
    return {
        "first_crossing": float(blind + above[0]),
        "first_crossing_predicted": blind + ahead,
        "first_crossing_error": abs(ahead / float(above[0]) - 1),
    }


def judge_phases(phases: PhaseDiagram) -> dict[str, float]:
    """Return how well a boundary 1 − β₂ = C(1 − β₁) separates spiking pairs from others, and the best C.

    Args:
        phases: The phase diagram.
    """
    spiking = phases.crossings >= 2
    quotient = (1 - phases.beta2)[None, :] / (1 - phases.beta1)[:, None]
    factors = np.logspace(-1.5, 1.5, 121)
    agreement = [float(np.mean((quotient < factor) == spiking)) for factor in factors]
    best = int(np.argmax(agreement))
    return {
        "boundary_agreement": agreement[best],
        "boundary_factor": float(factors[best]),
        "spiking_share": float(spiking.mean()),
        "pairs": float(spiking.size),
    }
