"""½θ²: gradient descent, Adam, the five stages of a spike, and for which (β₁, β₂) there are any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreshock.demo.options import check_count
from foreshock.dynamics import (
    AdamSettings,
    PhaseDiagram,
    Quadratic,
    QuadraticRuns,
    phase_diagram,
    simulate,
)
from foreshock.lab.reproduction.cycles import (
    RISE,
    count_spikes,
    judge_crossings,
    judge_cycle,
    judge_first_crossing,
    judge_phases,
)
from foreshock.lab.reproduction.experiment import Claim, Experiment, OnStep, Outcome
from foreshock.lab.reproduction.figures import QUADRATIC_CAPTIONS, draw_quadratic
from foreshock.runlog import RunLogWriter

STARTS = (1.0, 0.5, 2.0)
"""Where θ starts for seeds 0, 1, 2: the problem has no randomness, only η/θ_0 matters."""

OTHER_PAIRS = ((0.0, 0.999), (0.9, 0.9), (0.9, 0.999))
"""Pairs (β₁, β₂) whose spikes are counted too."""

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
    _keep(folder, config, runs, phases, descent)
    measured = judge_cycle(runs) | judge_first_crossing(runs, 1, beta2=config.beta2) | judge_phases(phases)
    for column, (beta1, beta2) in enumerate(pairs[1:], start=1):
        crossings, period = judge_crossings(runs.stability_ratio[:, column])
        measured[f"crossings ({beta1:g}, {beta2:g})"] = crossings
        measured[f"period ({beta1:g}, {beta2:g})"] = period
    measured["equal_spikes"] = float(count_spikes(runs, pairs.index((0.9, 0.9))))
    measured["gd_rises"] = float(np.sum(np.diff(descent**2) > 0))
    return Outcome(measured)


def _phases(config: QuadraticConfig) -> PhaseDiagram:
    # 1 − β from 1, excluded, to 10^−2.5: a slower v would not spike twice within the steps.
    gap = np.logspace(0, -2.5, config.grid + 1)[1:]
    return phase_diagram(
        (1 - gap).tolist(), (1 - gap).tolist(), learning_rate=config.learning_rate, steps=config.grid_steps
    )


def _keep(
    folder: Path, config: QuadraticConfig, runs: QuadraticRuns, phases: PhaseDiagram, descent: Extended
) -> None:
    """Save what the figures are made of."""
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


def _log(folder: Path, config: QuadraticConfig, seed: int, runs: QuadraticRuns) -> None:
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
                "instant_lag": float(corrected[step] / squared) if squared > 0 else np.inf,
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
        f"spikes of g² by more than {RISE:g}× from crossing to peak",
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
        f"spikes of g² by more than {RISE:g}× from crossing to peak",
        "at most",
        0,
        0,
    ),
    Claim(
        "boundary_agreement",
        "Whether Adam spikes is decided by β₂ relative to β₁: spikes need a v slower than m.",
        "share of pairs (β₁, β₂) classified correctly by the best boundary 1 − β₂ = C(1 − β₁)",
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
    draw=draw_quadratic,
    figures=QUADRATIC_CAPTIONS,
)
