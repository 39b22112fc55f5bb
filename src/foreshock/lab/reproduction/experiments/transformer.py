"""A Transformer on composed anchor functions, AdamW, mini-batches: the directional curvature step by step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foreshock.lab.reproduction.experiment import Claim, Experiment, OnStep, Outcome
from foreshock.lab.reproduction.figures import captions, draw_training
from foreshock.lab.reproduction.plan import Plan
from foreshock.lab.reproduction.recording import record
from foreshock.lab.reproduction.sustained import AROUND, SPECIFIC, SUSTAINED, direction_pattern
from foreshock.lab.spikebench.spikes import ground_truth
from foreshock.lab.tasks import OptimizerConfig


@dataclass(frozen=True)
class TransformerConfig:
    """Settings.

    Attributes:
        steps: Updates.
        learning_rate: η of AdamW.
        beta1: β₁.
        beta2: β₂.
        weight_decay: Decoupled decay of the matrices.
        batch_size: Sequences in a batch.
        sequences: Sequences in the training set.
        length: Symbols in a sequence.
        layers: Blocks.
        width: Width of the residual stream.
        heads: Attention heads.
        direction_every: Steps between measurements of the directional curvature.
        device: "cpu", "cuda" or "auto".
    """

    steps: int = 1200
    learning_rate: float = 5e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1.0
    batch_size: int = 32
    sequences: int = 300
    length: int = 6
    layers: int = 2
    width: int = 32
    heads: int = 4
    direction_every: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If one is impossible.
        """
        if self.batch_size >= self.sequences:
            raise ValueError(
                f"batch_size is {self.batch_size}, sequences {self.sequences}; a mini-batch must be smaller"
            )
        self.plan()

    def plan(self) -> Plan:
        """Return the training."""
        return Plan(
            name="transformer",
            family="anchors",
            options={
                "sequences": self.sequences,
                "length": self.length,
                "layers": self.layers,
                "width": self.width,
                "heads": self.heads,
            },
            optimizer=OptimizerConfig(
                "adamw",
                self.learning_rate,
                betas=(self.beta1, self.beta2),
                weight_decay=self.weight_decay,
            ),
            steps=self.steps,
            batch_size=self.batch_size,
            probe_every=10,
            sharpness_every=60,
            direction_every=self.direction_every,
            device=self.device,
        )


def run(config: TransformerConfig, seed: int, folder: Path, on_step: OnStep) -> Outcome:
    """Train and judge one seed.

    Args:
        config: Settings.
        seed: Seed of the weights and of the batches.
        folder: Where the run is kept.
        on_step: Called with steps done.
    """
    trace = record(config.plan(), seed, folder, on_step=on_step)
    return Outcome(direction_pattern(trace, ground_truth(trace)["3x"]))


CLAIMS = (
    Claim(
        "sustained_hits",
        "Spikes come with sustained crossings of the directional curvature gᵀĤg/‖g‖² of the batch.",
        f"share of spikes preceded within {AROUND} steps by {SUSTAINED} steps running above 2/η",
        "at least",
        0.9,
        0.5,
    ),
    *SPECIFIC,
)

EXPERIMENT = Experiment(
    name="transformer",
    title="A Transformer on composed anchor functions",
    setup="A key and two of four anchors hidden in a sequence of other keys; the answer is the key plus both "
    "shifts (after arXiv 2401.08309). Causal Transformer, cross-entropy, AdamW with decoupled decay, β = "
    "(0.9, 0.999), constant η, mini-batches without replacement. At paper scale 8 layers of width 320, 9.9 M "
    "parameters; at CPU scale 2 layers of width 32. η, decay and batch size are ours. The curvature is that "
    "of the batch of the step.",
    scales={
        "cpu": TransformerConfig(),
        "paper": TransformerConfig(
            steps=20_000,
            learning_rate=1e-3,
            batch_size=256,
            sequences=8000,
            length=9,
            layers=8,
            width=320,
            heads=8,
            direction_every=2,
            device="auto",
        ),
    },
    run=run,
    claims=CLAIMS,
    draw=lambda folder, target: draw_training(folder, target, "transformer"),
    figures=captions("transformer", spectra=False),
)
