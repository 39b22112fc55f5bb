"""The experiments at the middle scale: a deep Transformer, two language models, a CNN on 1,000 images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from foreshock.lab.reproduction.experiment import Experiment, OnStep, Outcome
from foreshock.lab.reproduction.figures import captions, draw_training
from foreshock.lab.reproduction.medium.longrun import LongPlan
from foreshock.lab.reproduction.medium.pattern import CLAIMS, medium_pattern
from foreshock.lab.reproduction.medium.recorded import count_spikes, record_long
from foreshock.lab.tasks import OptimizerConfig
from foreshock.lab.tasks.cifar_download import find_images

FULL, SHORT = "measured", "shorter"
"""Folders of the measured training and of that with a shorter memory, below that of a seed."""


@dataclass(frozen=True)
class MediumConfig:
    """Settings that all trainings at this scale have.

    Attributes:
        steps: Updates.
        learning_rate: η, after the warm-up.
        warmup_steps: Steps of the warm-up.
        beta1: β₁.
        beta2: β₂.
        shorter: β₂ of the training that is compared with.
        weight_decay: Decoupled decay of the matrices.
        batch_size: Examples in a batch.
        examples: Examples in the training set.
        probe_every: Steps between measurements of λ_max(Ĥ), a multiple of 10.
        direction_every: Steps between measurements of the curvature along the gradient.
        probe_examples: Examples of the fixed batch.
        events: Most spikes that are taken apart.
        device: "cpu", "cuda" or "auto".
    """

    steps: int = 2000
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    beta1: float = 0.9
    beta2: float = 0.999
    shorter: float = 0.9
    weight_decay: float = 1.0
    batch_size: int = 256
    examples: int = 2000
    probe_every: int = 20
    direction_every: int = 1
    probe_examples: int = 512
    events: int = 4
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If one is impossible.
        """
        if self.batch_size >= self.examples:
            raise ValueError(
                f"batch_size is {self.batch_size}, examples {self.examples}; a mini-batch must be smaller"
            )
        if not 0 < self.shorter < self.beta2:
            raise ValueError(f"shorter is {self.shorter}; it must be a β₂ below beta2, {self.beta2}")

    def plan(self, name: str, family: str, options: Mapping[str, Any]) -> LongPlan:
        """Return the training.

        Args:
            name: Its name.
            family: Family of the task.
            options: Options of the family.
        """
        optimizer = OptimizerConfig(
            "adamw",
            self.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            schedule="warmup" if self.warmup_steps else "constant",
            warmup_steps=self.warmup_steps,
        )
        return LongPlan(
            name=name,
            family=family,
            options=options,
            optimizer=optimizer,
            steps=self.steps,
            batch_size=self.batch_size,
            probe_every=self.probe_every,
            direction_every=self.direction_every,
            probe_examples=self.probe_examples,
            events=self.events,
            device=self.device,
        )


@dataclass(frozen=True)
class MediumTransformerConfig(MediumConfig):
    """Settings of the Transformer.

    Attributes:
        length: Symbols in a sequence.
        keys: Keys.
        layers: Blocks.
        width: Width of the residual stream.
        heads: Attention heads.
    """

    length: int = 9
    keys: int = 80
    layers: int = 8
    width: int = 128
    heads: int = 4


@dataclass(frozen=True)
class MediumLlmConfig(MediumConfig):
    """Settings of a language model.

    Attributes:
        unit: "byte" or "word".
        vocabulary: Number of words.
        length: Symbols in a sequence.
        layers: Blocks.
        width: Width of the residual stream.
        heads: Attention heads.
        text: A text file; None for the source of Python's standard library.
    """

    unit: str = "byte"
    vocabulary: int = 4000
    length: int = 64
    layers: int = 6
    width: int = 256
    heads: int = 8
    text: str | None = None


@dataclass(frozen=True)
class MediumCnnConfig(MediumConfig):
    """Settings of the CNN.

    Attributes:
        side: Height and width of the images, a multiple of 4.
        hidden: Units of the hidden layer.
        loss: "mse", squared error to the one-hot label summed over classes, or "ce".
        data: "cifar10", "digits" or "auto", as for `cnn` at CPU scale.
        path: Where the images are.
    """

    examples: int = 1000
    probe_examples: int = 1000
    side: int = 16
    hidden: int = 256
    loss: str = "mse"
    data: str = "auto"
    path: str | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If one is impossible.
        """
        super().__post_init__()
        if self.probe_examples < self.examples:
            raise ValueError(
                f"probe_examples is {self.probe_examples}, examples {self.examples}; the images are sorted "
                "by class, so that the first of them lack some classes: pass at least as many"
            )


def _transformer(config: MediumTransformerConfig) -> tuple[LongPlan, tuple[str, ...]]:
    options = {
        "sequences": config.examples,
        "masked": True,
        **{name: getattr(config, name) for name in ("length", "keys", "layers", "width", "heads")},
    }
    return config.plan("transformer, middle scale", "anchors", options), ()


def _llm(config: MediumLlmConfig) -> tuple[LongPlan, tuple[str, ...]]:
    options = {
        "architecture": "llama",
        "sequences": config.examples,
        "path": config.text,
        **{
            name: getattr(config, name)
            for name in ("unit", "vocabulary", "length", "layers", "width", "heads")
        },
    }
    text = Path(config.text).name if config.text else "source of the standard library of Python"
    return config.plan(f"llm, {config.unit}s, middle scale", "language", options), (f"Text: {text}.",)


def _cnn(config: MediumCnnConfig) -> tuple[LongPlan, tuple[str, ...]]:
    source = find_images(config.data, config.path)
    options = {
        "data": source.data,
        "path": source.path,
        "images": config.examples,
        "side": config.side,
        "pool": "average",
        "hidden": config.hidden,
        "loss": config.loss,
    }
    return config.plan("cnn, middle scale", "cnn", options), (source.notice,)


def _runner(
    plan_of: Callable[[Any], tuple[LongPlan, tuple[str, ...]]],
) -> Callable[[Any, int, Path, OnStep], Outcome]:
    """Return what runs one seed: the measured training, then the same one with a shorter memory."""

    def run(config: MediumConfig, seed: int, folder: Path, on_step: OnStep) -> Outcome:
        plan, notes = plan_of(config)
        recorded = record_long(plan, seed, folder / FULL, on_step=on_step)
        shorter, _ = plan_of(dataclasses.replace(config, beta2=config.shorter, shorter=config.shorter / 2))
        plain = count_spikes(shorter, seed, folder / SHORT, on_step=on_step)
        measured = medium_pattern(recorded, plain, beta2=config.shorter)
        return Outcome(measured, notes, recorded.seconds + plain.seconds)

    return run


def _experiment(
    name: str,
    title: str,
    setup: str,
    config: MediumConfig,
    plan_of: Callable[[Any], tuple[LongPlan, tuple[str, ...]]],
) -> Experiment:
    figure = f"{name}-medium"
    return Experiment(
        name=name,
        title=title,
        setup=setup,
        scales={"medium": config},
        run=_runner(plan_of),
        claims=CLAIMS,
        draw=lambda folder, target: draw_training(folder / FULL, target, figure),
        figures=captions(figure, spectra=False),
        resumable=True,
    )


MEDIUM: Mapping[str, Experiment] = MappingProxyType(
    {
        one.name: one
        for one in (
            _experiment(
                "transformer",
                "A Transformer of eight layers on composed anchor functions",
                "Nine symbols, four anchors with the shifts +5, +1, −2 and −8, the pairs of the third and "
                "the fourth kept out as the test, loss on the last position: so in the authors' code for "
                "anchor functions (github.com/xuzhiqin1990/anchor_function_pub, of arXiv 2401.08309). There "
                "the anchors precede the key, the model has 4 layers of width 400, and training clips ‖g‖ at "
                "1, with a warm-up and a cosine; here the key comes first, the sum is taken modulo the 80 "
                "keys, the model has 8 layers of width 128, η stays after the warm-up, and nothing clips. "
                "That the paper on spikes has 8 layers is recalled; its η, decay and batch size are not "
                "known to us. The curvature along the gradient is read at every second step.",
                MediumTransformerConfig(
                    steps=650,
                    learning_rate=1.5e-3,
                    examples=1000,
                    probe_every=30,
                    direction_every=2,
                    events=2,
                ),
                _transformer,
            ),
            _experiment(
                "llm",
                "A LLaMA-like model on bytes",
                "RMSNorm, rotary positions, SwiGLU, no biases, untied output: 6 layers of width 256, bytes "
                "of real text, 64 sequences of 64 that are seen again and again. The curvature along the "
                "gradient is read at every fourth step.",
                MediumLlmConfig(
                    steps=1000,
                    learning_rate=5e-3,
                    weight_decay=0.3,
                    batch_size=16,
                    examples=64,
                    probe_every=40,
                    direction_every=4,
                    probe_examples=64,
                    events=1,
                ),
                _llm,
            ),
            _experiment(
                "llm-words",
                "A LLaMA-like model on words",
                "As `llm` at this scale, with the 4,000 most frequent words in place of bytes. The curvature "
                "along the gradient is read at every fourth step.",
                MediumLlmConfig(
                    unit="word",
                    steps=600,
                    learning_rate=2e-3,
                    weight_decay=0.3,
                    batch_size=16,
                    examples=64,
                    probe_every=40,
                    direction_every=4,
                    probe_examples=64,
                    events=1,
                ),
                _llm,
            ),
            _experiment(
                "cnn",
                "A convolutional network on 1,000 images",
                "The convolutions of `cnn` at CPU scale and a hidden layer of 256, on 1,000 images of "
                "CIFAR-10 reduced to 16 × 16, in mini-batches of 500; squared error to the one-hot label "
                "summed over classes, no decay. Of 26 settings that were scanned on seed 0, over 1,400 to "
                "4,900 steps (one over 844), it is the one that spiked (twice). Those that did not: the "
                "same in batches of 250; in batches of 100 with η from 0.003 to 0.02, and decay 0.3 at "
                "0.01; in batches of 25 with η = 0.02; and, with a hidden layer of 32, 18 settings "
                "between batches of 50 and 250, η of 0.003 and 0.03, decay 0 and 1, on 16 × 16 or 32 × 32 "
                "pixels, with squared error or cross-entropy. A scan is `foreshock reproduce cnn --scale "
                "medium --seeds 1 --set events=0`, with `--set` for batch_size, learning_rate, "
                "weight_decay, hidden, side, loss and steps. The curvature along the gradient is read at "
                "every third step.",
                MediumCnnConfig(
                    steps=1400,
                    learning_rate=1e-2,
                    weight_decay=0.0,
                    batch_size=500,
                    examples=1000,
                    probe_every=30,
                    direction_every=3,
                    probe_examples=1000,
                    events=3,
                ),
                _cnn,
            ),
        )
    }
)
"""The experiments at the middle scale, by name."""
