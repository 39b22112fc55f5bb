"""A LLaMA-like Transformer on real text: spikes with a long and with shorter memories of v."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from foreshock.lab.reproduction.experiment import Claim, Experiment, OnStep, Outcome
from foreshock.lab.reproduction.figures import LLM_CAPTIONS, draw_memories
from foreshock.lab.reproduction.plan import Plan
from foreshock.lab.reproduction.recording import record
from foreshock.lab.spikebench.spikes import ground_truth
from foreshock.lab.spikebench.trace import Trace
from foreshock.lab.tasks import OptimizerConfig


@dataclass(frozen=True)
class LlmConfig:
    """Settings.

    Attributes:
        steps: Updates of each run.
        learning_rate: η of AdamW.
        beta1: β₁.
        beta2: β₂ of the run that is to spike.
        shorter: Values of β₂ to compare with.
        weight_decay: Decoupled decay of the matrices.
        batch_size: Sequences in a batch.
        sequences: Sequences cut from the text, seen again and again; None for fresh text at every step.
        length: Symbols in a sequence.
        layers: Blocks.
        width: Width of the residual stream.
        heads: Attention heads.
        unit: "byte" or "word".
        vocabulary: Number of words.
        text: A text file; None for the source of Python's standard library.
        direction_every: Steps between measurements of the directional curvature.
        device: "cpu", "cuda" or "auto".
    """

    steps: int = 900
    learning_rate: float = 5e-3
    beta1: float = 0.9
    beta2: float = 0.999
    shorter: tuple[float, ...] = (0.95,)
    weight_decay: float = 1.0
    batch_size: int = 8
    sequences: int | None = 32
    length: int = 16
    layers: int = 2
    width: int = 192
    heads: int = 6
    unit: str = "byte"
    vocabulary: int = 2000
    text: str | None = None
    direction_every: int = 20
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If one is impossible.
        """
        if not self.shorter or not all(0 < beta < self.beta2 for beta in self.shorter):
            raise ValueError(
                f"shorter is {self.shorter!r}; it must have values of β₂ below beta2, {self.beta2}"
            )
        self.plan(self.beta2)

    def plan(self, beta2: float) -> Plan:
        """Return the training with one β₂.

        Args:
            beta2: β₂.
        """
        return Plan(
            name=f"llm, β₂ = {beta2:g}",
            family="language",
            options={
                "architecture": "llama",
                "unit": self.unit,
                "vocabulary": self.vocabulary,
                "path": self.text,
                "sequences": self.sequences,
                "length": self.length,
                "layers": self.layers,
                "width": self.width,
                "heads": self.heads,
            },
            optimizer=OptimizerConfig(
                "adamw", self.learning_rate, betas=(self.beta1, beta2), weight_decay=self.weight_decay
            ),
            steps=self.steps,
            batch_size=self.batch_size,
            probe_every=10,
            sharpness_every=120,
            direction_every=self.direction_every,
            device=self.device,
        )


def run(config: LlmConfig, seed: int, folder: Path, on_step: OnStep) -> Outcome:
    """Train once with each β₂ and judge.

    Args:
        config: Settings.
        seed: Seed of the weights and of the batches.
        folder: Where the runs are kept.
        on_step: Called with steps done.
    """
    counts, measured = {}, {}
    for beta2 in (config.beta2, *config.shorter):
        trace = record(config.plan(beta2), seed, folder / f"beta2-{beta2:g}", on_step=on_step)
        spikes = ground_truth(trace)["3x"]
        counts[beta2] = len(spikes)
        measured[f"spikes at {beta2:g}"] = float(len(spikes))
        measured[f"highest spike at {beta2:g}"] = max((spike.height for spike in spikes), default=math.nan)
        measured[f"loss at {beta2:g}"] = _late_loss(trace)
    long = counts[config.beta2]
    most = max(counts[beta2] for beta2 in config.shorter)
    measured["spikes"] = float(long)
    measured["shorter_ratio"] = most / long if long else math.nan
    return Outcome(measured, (f"Text: {config.text or 'source of the standard library of Python'}.",))


def _late_loss(trace: Trace) -> float:
    """Return the geometric mean of the loss over the last quarter."""
    late = trace.column("loss").values[-(trace.column("loss").values.size // 4 or 1) :]
    return float(math.exp(sum(math.log(value) for value in late) / late.size))


CLAIMS = (
    Claim(
        "spikes",
        "Training a LLaMA-like model with β₂ = 0.999 spikes.",
        "spikes above 3 × the median with the largest β₂",
        "at least",
        1,
        1,
    ),
    Claim(
        "shorter_ratio",
        "A smaller β₂ has fewer spikes.",
        "most spikes with a smaller β₂ ÷ spikes with the largest",
        "at most",
        0.5,
        0.99,
    ),
)

EXPERIMENT = Experiment(
    name="llm",
    title="A LLaMA-like language model",
    setup="RMSNorm, rotary positions, SwiGLU, no biases, untied output; cross-entropy, AdamW, constant η, no "
    "clipping. At paper scale 12 layers of width 1,024 and 17,200 words, 187 M parameters, fresh text. At "
    "CPU scale 2 layers of width 192, 0.98 M parameters, on bytes of real text, 32 sequences seen again and "
    "again with decoupled decay 1: fresh text at that size did not spike at any learning rate we tried.",
    scales={
        "cpu": LlmConfig(),
        "paper": LlmConfig(
            steps=20_000,
            learning_rate=1e-3,
            shorter=(0.99, 0.95),
            weight_decay=0.1,
            batch_size=64,
            sequences=None,
            length=512,
            layers=12,
            width=1024,
            heads=16,
            unit="word",
            vocabulary=17_200,
            direction_every=20,
            device="auto",
        ),
    },
    run=run,
    claims=CLAIMS,
    draw=draw_memories,
    figures=LLM_CAPTIONS,
)
