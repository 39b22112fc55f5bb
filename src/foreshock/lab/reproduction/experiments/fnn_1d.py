"""A tanh network with one hidden layer on sin x + sin 4x, full batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foreshock.lab.reproduction.curvatures import SpectrumWatch
from foreshock.lab.reproduction.experiment import Claim, Experiment, OnStep, Outcome
from foreshock.lab.reproduction.figures import captions, draw_training
from foreshock.lab.reproduction.patterns import full_batch_pattern
from foreshock.lab.reproduction.plan import Plan
from foreshock.lab.reproduction.recording import record
from foreshock.lab.tasks import OptimizerConfig


@dataclass(frozen=True)
class Fnn1dConfig:
    """Settings.

    Attributes:
        steps: Updates.
        learning_rate: η of Adam.
        beta1: β₁.
        beta2: β₂.
        width: Hidden units.
        points: Points on the grid of [−π, π].
        probe_every: Steps between measurements of λ_max(Ĥ).
        device: "cpu", "cuda" or "auto".
    """

    steps: int = 3000
    learning_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    width: int = 200
    points: int = 200
    probe_every: int = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If one is impossible.
        """
        self.plan()

    def plan(self) -> Plan:
        """Return the training."""
        return Plan(
            name="fnn-1d",
            family="mlp",
            options={"points": self.points, "width": self.width},
            optimizer=OptimizerConfig("adam", self.learning_rate, betas=(self.beta1, self.beta2)),
            steps=self.steps,
            probe_every=self.probe_every,
            sharpness_every=4 * self.probe_every,
            device=self.device,
        )


def run(config: Fnn1dConfig, seed: int, folder: Path, on_step: OnStep) -> Outcome:
    """Train and judge one seed.

    Args:
        config: Settings.
        seed: Seed of the weights.
        folder: Where the run is kept.
        on_step: Called with steps done.
    """
    watch = SpectrumWatch(folder, start=500)
    return Outcome(
        full_batch_pattern(record(config.plan(), seed, folder, watchers=(watch,), on_step=on_step))
    )


CLAIMS = (
    Claim(
        "direction_reached",
        "At each spike the curvature along the gradient has passed the threshold: gᵀĤg/‖g‖² > 2/η.",
        "share of spikes (> 3 × the median) that it preceded by at most 30 steps",
        "at least",
        0.99,
        0.9,
    ),
    Claim(
        "crossings_per_spike",
        "λ_max(Ĥ) passes 2/η more often than there are spikes.",
        "crossings of λ_max(Ĥ) ÷ spikes",
        "at least",
        1.1,
        1.0,
    ),
    Claim(
        "decay_exponent",
        "Before each spike v decays as β₂ᵗ.",
        "decay exponent of v, mean over the 40 steps before the crossing, median over spikes (1: pure decay)",
        "at least",
        0.9,
        0.7,
    ),
)

EXPERIMENT = Experiment(
    name="fnn-1d",
    title="A two-layer network in one dimension",
    setup="One hidden layer of tanh units (200; 1,000 at paper scale, the paper's width is not known to us), "
    "sin x + sin 4x on 200 points, mean squared error, full batch, Adam, η = 0.01, β = (0.9, 0.999), "
    "PyTorch's initial weights.",
    scales={
        "cpu": Fnn1dConfig(),
        "paper": Fnn1dConfig(steps=10_000, width=1000, probe_every=1, device="auto"),
    },
    run=run,
    claims=CLAIMS,
    draw=lambda folder, target: draw_training(folder, target, "fnn-1d", last=1500),
    figures=captions("fnn-1d"),
)
