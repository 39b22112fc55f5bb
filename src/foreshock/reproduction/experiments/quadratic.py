"""½θ²: gradient descent, Adam, the five stages of a spike, and for which (β₁, β₂) there are any."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.dynamics import (
    AdamSettings,
    Quadratic,
    Stage,
    StageRules,
    StageSignals,
    StageState,
    find_excursions,
    next_stage,
    phase_diagram,
    simulate,
    time_to_threshold,
)
from foreshock.reproduction.claims import Claim
from foreshock.reproduction.episodes import rising_crossings
from foreshock.reproduction.experiment import Experiment, OnStep, Outcome
from foreshock.reproduction.figures.quadratic import CAPTIONS, draw
from foreshock.runlog import RunLogWriter
from foreshock.tasks.options import check_count

STARTS = (1.0, 0.5, 2.0)
"""Where θ starts for seeds 0, 1, 2: the problem has no randomness, only η/θ_0 matters."""

OTHER_PAIRS = ((0.0, 0.999), (0.9, 0.9), (0.9, 0.999))
"""Pairs (β₁, β₂) whose spikes are counted besides."""

_BLIND = 0.01
_CYCLE = (Stage.PRECONDITIONER_DECAY, Stage.ONSET, Stage.PRECONDITIONER_GROWTH, Stage.LOSS_DECAY)
_RISE = 10.0
Extended = NDArray[np.longdouble]


@dataclass(frozen=True)
class QuadraticConfig:
    """Settings.

    Attributes:
        steps: Updates of the single runs.
        learning_rate: η of gradient descent and of Adam.
        beta1: β₁ of the run whose cycle is judged.
        beta2: β₂ of both runs.
        grid: Values of β₁ and of β₂ in the phase diagram: grid² pairs, at least 100² for a claim.
        grid_steps: Updates of each pair.
    """

    steps: int = 20_000
    learning_rate: float = 0.15
    beta1: float = 0.9
    beta2: float = 0.99
    grid: int = 100
    grid_steps: int = 6000

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If one is impossible.
        """
        for name in ("steps", "grid", "grid_steps"):
            check_count(name, getattr(self, name), least=2)
        AdamSettings(self.learning_rate, beta1=self.beta1, beta2=self.beta2)


def run(config: QuadraticConfig, seed: int, folder: Path, on_step: OnStep) -> Outcome:
    """Run gradient descent and Adam from one start, and the phase diagram.

    Args:
        config: Settings.
        seed: Which of the starts.
        folder: Where log and arrays are kept.
        on_step: Called with steps done.
    """
    start = STARTS[seed % len(STARTS)]
    problem = Quadratic(1.0, start=start)
    pairs = [(config.beta1, config.beta2), (0.0, config.beta2), *OTHER_PAIRS]
    settings = AdamSettings(
        config.learning_rate, beta1=[pair[0] for pair in pairs], beta2=[pair[1] for pair in pairs]
    )
    runs = simulate(problem, settings, steps=config.steps, dtype=np.longdouble)
    on_step(1, 3)
    descent = start * np.abs(1 - np.longdouble(config.learning_rate)) ** np.arange(config.steps)
    phases = _phases(config)
    on_step(3, 3)
    _log(folder, config, seed, runs)
    np.savez_compressed(
        folder / "quadratic.npz",
        adam=_log10(runs.loss[:, 0]),
        descent=_log10(descent**2 / 2),
        ratio=runs.stability_ratio[:, 0].astype(float),
        v=_log10(runs.second_moment[:, 0]),
        g=_log10(runs.squared_gradient[:, 0]),
        beta1=phases.beta1,
        beta2=phases.beta2,
        crossings=phases.crossings,
        interval=phases.interval,
        learning_rate=config.learning_rate,
    )
    measured = _cycle(runs) | _first_crossing(config, runs) | judge_phases(phases)
    for column, (beta1, beta2) in enumerate(pairs[1:], start=1):
        crossings, period = _periods(runs.stability_ratio[:, column])
        measured[f"crossings ({beta1:g}, {beta2:g})"] = crossings
        measured[f"period ({beta1:g}, {beta2:g})"] = period
    measured["equal_spikes"] = float(count_spikes(runs, pairs.index((0.9, 0.9))))
    measured["gd_rises"] = float(np.sum(np.diff(descent**2) > 0))
    return Outcome(measured)


def _phases(config: QuadraticConfig) -> Any:
    # 1 − β from 1, excluded, to 10^−2.5: a slower v would not spike twice within the steps.
    gap = np.logspace(0, -2.5, config.grid + 1)[1:]
    return phase_diagram(
        (1 - gap).tolist(), (1 - gap).tolist(), learning_rate=config.learning_rate, steps=config.grid_steps
    )


def _cycle(runs: Any) -> dict[str, float]:
    """Return spikes, their period and the share of cycles that go through the stages in order."""
    ratio, second, squared = (
        column[:, 0] for column in (runs.stability_ratio, runs.second_moment, runs.squared_gradient)
    )
    excursions = find_excursions(ratio, second, squared)
    starts = [excursion.start for excursion in excursions]
    stages = trace_stages(runs)
    ordered = [in_order(stages[begin:end]) for begin, end in itertools.pairwise(starts)]
    return {
        "spikes": float(count_spikes(runs, 0)),
        "period": float(np.median(np.diff(starts))) if len(starts) > 1 else math.nan,
        "cross_to_growth": float(np.median([e.growth - e.start for e in excursions]))
        if excursions
        else math.nan,
        "cross_to_peak": float(np.median([e.peak - e.start for e in excursions])) if excursions else math.nan,
        "peak_ratio": float(max((e.peak_ratio for e in excursions), default=math.nan)),
        "stages_in_order": float(np.mean(ordered)) if ordered else math.nan,
    }


def count_spikes(runs: Any, column: int) -> int:
    """Return the number of excursions above the edge in which g² grows by more than ten times.

    Args:
        runs: Simulated runs.
        column: Which of them.
    """
    columns = (runs.stability_ratio, runs.second_moment, runs.squared_gradient)
    excursions = find_excursions(*(values[:, column] for values in columns))
    return sum(excursion.log_magnification >= math.log(_RISE) for excursion in excursions)


def trace_stages(runs: Any) -> list[Stage]:
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
        signals = StageSignals(
            lag_ratio=float(squared[step] / second[step]),
            decay_exponent=float(decays[step] / unit),
            stability_ratio=float(runs.stability_ratio[step, 0]),
            loss_growth=float(growth[step]),
        )
        state = next_stage(state, signals, StageRules())
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
    return all(stage in wanted for stage in (*_CYCLE[1:], _CYCLE[0]))


def _periods(ratio: Extended) -> tuple[float, float]:
    """Return how often a ratio rises through one, and the median steps between."""
    starts = rising_crossings(np.arange(ratio.size), ratio.astype(float))
    return float(len(starts)), float(np.median(np.diff(starts))) if len(starts) > 1 else math.nan


def _first_crossing(config: QuadraticConfig, runs: Any) -> dict[str, float]:
    """Predict the first crossing without momentum from the step at which v has become blind, and compare."""
    ratio = runs.stability_ratio[:, 1]
    corrected = runs.second_moment[:, 1] / (1 - np.longdouble(config.beta2) ** np.arange(1, config.steps + 1))
    blind = int(np.argmax(runs.squared_gradient[:, 1] < _BLIND * corrected))
    above = np.flatnonzero(ratio[blind:] >= 1)
    if not above.size or not above[0]:
        return {"first_crossing": math.nan, "first_crossing_error": math.nan}
    ahead = time_to_threshold(float(ratio[blind]), beta2=config.beta2, step=blind + 1)
    return {
        "first_crossing": float(blind + above[0]),
        "first_crossing_predicted": blind + ahead,
        "first_crossing_error": abs(ahead / float(above[0]) - 1),
    }


def judge_phases(phases: Any) -> dict[str, float]:
    """Return how well a boundary 1 − β₂ = C(1 − β₁) tells spiking pairs from others, and the best C.

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


def _log(folder: Path, config: QuadraticConfig, seed: int, runs: Any) -> None:
    """Write an ordinary run log of the Adam run."""
    meta = {"name": f"quadratic, seed {seed}", "steps": config.steps}
    writer = RunLogWriter(folder, meta=meta)
    correction = 1 - np.longdouble(config.beta2) ** np.arange(1, config.steps + 1)
    corrected = runs.second_moment[:, 0] / correction
    stride = max(config.steps // 4000, 1)
    for step in range(0, config.steps, stride):
        squared = runs.squared_gradient[step, 0]
        writer.write(
            "step",
            {
                "step": step,
                "loss": float(runs.loss[step, 0]),
                "gradient_norm": float(np.sqrt(squared)),
                "learning_rate": config.learning_rate,
                "lag_ratio": float(squared / corrected[step]),
                "squared_gradient": float(squared),
                "second_moment": float(corrected[step]),
            },
        )
        ratio = float(runs.stability_ratio[step, 0])
        writer.write("curvature", {"step": step, "stability_ratio": ratio, "error_bound": 0.0})
    writer.close()


def _log10(values: Extended) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.log10(values).astype(np.float64)


CLAIMS = (
    Claim(
        "gd_rises",
        "Gradient descent with the same learning rate descends smoothly on ½θ².",
        "steps at which gradient descent's loss rises",
        "at most",
        0,
        0,
    ),
    Claim(
        "spikes",
        "Adam spikes there although the landscape never changes.",
        f"spikes of g² by more than {_RISE:g}× from crossing to peak",
        "at least",
        2,
        1,
    ),
    Claim(
        "stages_in_order",
        "A spike has five stages: stable decrease, decay of the preconditioner, onset, its growth, decay of "
        "the loss.",
        "share of cycles between crossings in which the stages come in this order",
        "at least",
        0.95,
        0.7,
    ),
    Claim(
        "first_crossing_error",
        "Without momentum the first crossing comes when v, decaying as β₂ᵗ, lets λ_max(Ĥ) reach 2/η.",
        "relative error of the time to the first crossing, forecast under pure decay once g² < v/100",
        "at most",
        0.05,
        0.1,
    ),
    Claim(
        "equal_spikes",
        "With β₁ = β₂ = 0.9 there are no spikes.",
        f"spikes of g² by more than {_RISE:g}× from crossing to peak",
        "at most",
        0,
        0,
    ),
    Claim(
        "boundary_agreement",
        "Whether Adam spikes is decided by β₂ relative to β₁: spikes need a v slower than m.",
        "share of pairs (β₁, β₂) told right by the best boundary 1 − β₂ = C(1 − β₁)",
        "at least",
        0.95,
        0.85,
    ),
)

EXPERIMENT = Experiment(
    name="quadratic",
    title="A quadratic in one dimension",
    setup="½θ² in extended precision, ε = 0, η = 0.15, β = (0.9, 0.99); seeds are the starts θ₀ = 1, 0.5 and "
    "2. The phase diagram has 1 − β from 1 to 10⁻²·⁵ on logarithmic scales; a pair counts as spiking from "
    "two crossings on.",
    scales={
        "cpu": QuadraticConfig(),
        "paper": QuadraticConfig(steps=50_000, grid=200, grid_steps=20_000),
    },
    run=run,
    claims=CLAIMS,
    draw=draw,
    figures=CAPTIONS,
)
