"""A tanh network on a quadratic form in 50 dimensions, full batch, and what a larger ε does to its spikes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foreshock.lab.reproduction.curvatures import SpectrumWatch
from foreshock.lab.reproduction.experiment import Claim, Experiment, OnStep, Outcome
from foreshock.lab.reproduction.figures import captions, draw_training
from foreshock.lab.reproduction.patterns import full_batch_pattern, rising_crossings
from foreshock.lab.reproduction.plan import Moment, Plan
from foreshock.lab.reproduction.recording import record
from foreshock.lab.spikebench.spikes import ground_truth
from foreshock.lab.tasks import OptimizerConfig


@dataclass(frozen=True)
class Fnn50dConfig:
    """Settings.

    Attributes:
        steps: Updates.
        learning_rate: η of Adam.
        beta1: β₁.
        beta2: β₂.
        large_epsilon: ε from the first crossing on in the second run.
        width: Units of each hidden layer.
        layers: Hidden layers.
        points: Examples.
        probe_every: Steps between measurements of λ_max(Ĥ).
        device: "cpu", "cuda" or "auto".
    """

    steps: int = 800
    learning_rate: float = 0.02
    beta1: float = 0.9
    beta2: float = 0.999
    large_epsilon: float = 0.1
    width: int = 100
    layers: int = 2
    points: int = 200
    probe_every: int = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If one is impossible.
        """
        if not self.large_epsilon > 0:
            raise ValueError(f"large_epsilon is {self.large_epsilon!r}; it must be positive, such as 0.1")
        self.plan()

    def plan(self) -> Plan:
        """Return the training."""
        return Plan(
            name="fnn-50d",
            family="mlp",
            options={
                "target": "quadratic",
                "points": self.points,
                "width": self.width,
                "layers": self.layers,
            },
            optimizer=OptimizerConfig("adam", self.learning_rate, betas=(self.beta1, self.beta2)),
            steps=self.steps,
            probe_every=self.probe_every,
            sharpness_every=4 * self.probe_every,
            device=self.device,
        )


class EpsilonSwitch:
    """Raise ε for good at the first crossing of λ_max(Ĥ) through 2/η.

    Args:
        epsilon: The new ε.
        start: First step that counts: Adam's first few steps may lie above the edge.
    """

    def __init__(self, epsilon: float, *, start: int = 20) -> None:
        self._epsilon, self._start, self._done = epsilon, start, False

    def __call__(self, moment: Moment) -> None:
        """Look at one step."""
        if not self._done and moment.step >= self._start and moment.ratio >= 1:
            self._done = True
            for group in moment.optimizer.param_groups:
                group["eps"] = self._epsilon


def run(config: Fnn50dConfig, seed: int, folder: Path, on_step: OnStep) -> Outcome:
    """Train twice, as it is and with ε raised at the first crossing, and judge.

    Args:
        config: Settings.
        seed: Seed of the weights.
        folder: Where the runs are kept.
        on_step: Called with steps done.
    """
    plan = config.plan()
    watch = SpectrumWatch(folder)
    plain = record(plan, seed, folder, watchers=(watch,), on_step=on_step)
    switch = EpsilonSwitch(config.large_epsilon)
    raised = record(plan, seed, folder / "large-epsilon", watchers=(switch,), on_step=on_step)
    ratio = raised.column("stability_ratio")
    last = plain.column("loss").values[-1], raised.column("loss").values[-1]
    measured = full_batch_pattern(plain) | {
        "spikes_with_large_epsilon": float(len(ground_truth(raised)["3x"])),
        "crossings_with_large_epsilon": float(len(rising_crossings(ratio.steps, ratio.values))),
        "lowest_loss": float(plain.column("loss").values.min()),
        "lowest_loss_with_large_epsilon": float(raised.column("loss").values.min()),
        "last_loss_ratio": float(last[1] / last[0]),
    }
    return Outcome(measured)


CLAIMS = (
    Claim(
        "landscape_share",
        "Before a spike λ_max(H) stays flat while λ_max(Ĥ) grows.",
        "growth of ln λ_max(H) ÷ growth of ln λ_max(Ĥ) over the 40 steps before the crossing, in modulus",
        "at most",
        0.2,
        0.5,
    ),
    Claim(
        "crossed",
        "λ_max(Ĥ) crosses 2/η before each spike.",
        "share of spikes that a crossing precedes by at most 150 steps",
        "at least",
        0.99,
        0.9,
    ),
    Claim(
        "lead",
        "The crossing comes some steps before the spike.",
        "median steps from the crossing to the loss at 3 × its median",
        "at least",
        5,
        1,
    ),
    Claim(
        "spikes_with_large_epsilon",
        "Raising ε to 0.1 removes the spikes.",
        "spikes left when ε is raised at the first crossing",
        "at most",
        0,
        0,
    ),
)

EXPERIMENT = Experiment(
    name="fnn-50d",
    title="A network in 50 dimensions",
    setup="f*(x) = wᵀx + xᵀdiag(v)x with standard normal w, v and x, 200 points, tanh, full batch, Adam, η = "
    "0.02, β = (0.9, 0.999). Two hidden layers of 100 units (of 1,000 at paper scale): with a single hidden "
    "layer of 1,000 and PyTorch's initial weights the loss falls to the end of float32 before λ_max(Ĥ) "
    "reaches 2/η.",
    scales={
        "cpu": Fnn50dConfig(),
        "paper": Fnn50dConfig(steps=2000, width=1000, probe_every=1, device="auto"),
    },
    run=run,
    claims=CLAIMS,
    draw=lambda folder, target: draw_training(folder, target, "fnn-50d"),
    figures=captions("fnn-50d"),
)
