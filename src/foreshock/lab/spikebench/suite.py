"""The runs of SpikeBench, and which of them rules may be developed on.

The split is by configuration and was fixed before any rule was tuned: every family, and the full batch as
well as mini-batches, has configurations on both sides. All spikes arise by themselves: stock optimizers,
no outliers, no changes in mid-run. Controls are the same tasks with a shorter memory of the second moment, a
tenth of the learning rate, or text that is never seen twice under warm-up and cosine.

The held-out half has been looked at. The *test* split is a suite of its own, of networks and losses that the
others have none of, to be scored once. Its rule: a family was trained at a learning rate that is usual for
small networks and, if nothing came, at three times that or with weight decay; a configuration was taken if
plain training spiked above 3 × the median of the 100 steps before, from two starts of at most three, with
seeds from 100 on, which are never scored. No forecast, rule or measurement was consulted. A search ended at
the first spike, so that the number of spikes is unknown. Controls are configurations of the split with a
tenth of the learning rate; each had no spike in 800 steps from one of these starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from foreshock.lab.tasks import OptimizerConfig, TrainingConfig
from foreshock.lab.tasks.cifar import CIFAR10_VARIABLE

SEEDS = (0, 1, 2)
"""Seeds of the full suite; the quick one uses the first."""

DEVELOPMENT: Literal["development"] = "development"
HELD_OUT: Literal["held-out"] = "held-out"
TEST: Literal["test"] = "test"


@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingConfig):
    """One configuration of a suite, of SpikeBench or GuardBench; with a seed it is one run.

    Attributes:
        split: "development", "held-out" or "test".
        role: "spiky", or "control" for runs that should have no spike.
        rate: Whether its learning rate is the task's base rate, or a multiple of it.
    """

    split: Literal["development", "held-out", "test"]
    role: Literal["spiky", "control"] = "spiky"
    rate: Literal["base", "high"] = "base"

    @property
    def group(self) -> str:
        """What is like a language model is "language"; else "full" batch or "mini"-batch."""
        return "language" if self.language else self.kind

    @property
    def category(self) -> str:
        """What GuardBench pools results by: control, outliers, bfloat16, or the family of the task."""
        if self.role == "control":
            return "control"
        if self.outliers:
            return "outliers"
        return self.precision if self.precision != "float32" else self.family

    @property
    def available(self) -> bool:
        """Whether its data set is on this machine."""
        return self.options.get("data") != "cifar10" or bool(os.environ.get(CIFAR10_VARIABLE))


def suite(size: str = "full") -> tuple[RunConfig, ...]:
    """Return the configurations of a suite.

    Args:
        size: "full", to be run with all of `SEEDS`; "quick", shorter runs for one seed; or "test", the
            test split, with all of `SEEDS`.

    Raises:
        ValueError: If there is no such suite.

    Example:
        >>> {config.split for config in suite("quick")} == {"development", "held-out"}
        True
    """
    if size not in _SUITES:
        raise ValueError(f"There is no suite {size!r}; there are {', '.join(map(repr, SUITES))}.")
    return _SUITES[size]


def configure(
    split: Literal["development", "held-out", "test"],
    name: str,
    optimizer: OptimizerConfig,
    batch_size: int | None,
    steps: int,
    /,
    role: Literal["spiky", "control"] = "spiky",
    **options: Any,
) -> RunConfig:
    """Return a configuration; the family is the first word of its name.

    Args:
        split: "development", "held-out" or "test".
        name: Its name.
        optimizer: Settings of the optimizer and its schedule.
        batch_size: Examples in a batch; None for the full batch.
        steps: Number of optimizer steps.
        role: "spiky", or "control" for runs that should have no spike.
        **options: The family's options.
    """
    return RunConfig(
        name=name,
        family=name.split("-", 1)[0],
        options=MappingProxyType(options),
        optimizer=optimizer,
        batch_size=batch_size,
        steps=steps,
        split=split,
        role=role,
    )


def adam(learning_rate: float, **settings: Any) -> OptimizerConfig:
    """Return settings of Adam."""
    return OptimizerConfig("adam", learning_rate, **settings)


def adamw(learning_rate: float, decay: float, **settings: Any) -> OptimizerConfig:
    """Return settings of AdamW with decoupled weight decay."""
    return OptimizerConfig("adamw", learning_rate, weight_decay=decay, **settings)


_SHORT = (0.9, 0.95)
_EQUAL = (0.95, 0.95)
_FRESH: dict[str, Any] = {"sequences": None}
_BARE: dict[str, Any] = {"sequences": None, "norm": "none", "layers": 4, "width": 48}
_TINY: dict[str, Any] = {"length": 16, "context": 8, "layers": 1, "width": 32, "heads": 2}
_WORDS: dict[str, Any] = {"unit": "word"}
_IMAGES: dict[str, Any] = {"images": 50, "side": 16, "pool": "average"}
_DEEP: dict[str, Any] = {"points": 50, "layers": 2, "width": 50}
_RULES: dict[str, Any] = {"vocabulary": 16, "length": 10, "width": 32}
_RISING: dict[str, Any] = {"schedule": "warmup", "warmup_steps": 100}
_FALLING: dict[str, Any] = {"schedule": "warmup-cosine", "warmup_steps": 100}

_LANGUAGE = (
    configure(DEVELOPMENT, "language-byte", adamw(3e-3, 0.3), 16, 1900),
    configure(HELD_OUT, "language-post-norm", adamw(3e-3, 0.3), 16, 1600, norm="post"),
    configure(HELD_OUT, "language-word", adamw(3e-3, 0.3), 8, 1300, **_WORDS),
    configure(DEVELOPMENT, "language-bare", adamw(1e-2, 0.1, **_RISING), 8, 700, **_BARE),
    configure(DEVELOPMENT, "language-tiny", adamw(5e-3, 1.0), 8, 1500, sequences=32, **_TINY),
    configure(HELD_OUT, "language-tiny-cosine", adamw(7e-3, 1.0, **_FALLING), 8, 1500, sequences=32, **_TINY),
    configure(
        DEVELOPMENT,
        "language-tiny-momentum",
        adamw(5e-3, 1.0, betas=(0.95, 0.999)),
        8,
        1500,
        sequences=32,
        **_TINY,
    ),
    configure(
        HELD_OUT,
        "language-tiny-short",
        adamw(5e-3, 1.0, betas=_SHORT),
        8,
        1000,
        sequences=32,
        **_TINY,
    ),
    configure(DEVELOPMENT, "addition-59", adamw(3e-3, 1.0), 256, 1400),
    configure(HELD_OUT, "addition-47", adamw(3e-3, 1.0), 128, 1400, modulus=47),
)
_MINI = (
    configure(DEVELOPMENT, "cnn-batch-25", adam(3e-3), 25, 3000, **_IMAGES),
    configure(HELD_OUT, "cnn-batch-10", adam(3e-3), 10, 3000, **_IMAGES),
    configure(DEVELOPMENT, "cnn-relu-batch-8", adam(0.01), 8, 2500, activation="relu"),
    configure(HELD_OUT, "cnn-ce-batch-16", adamw(0.01, 0.1), 16, 2500, loss="ce"),
    configure(DEVELOPMENT, "mlp-batch-25", adam(0.01), 25, 3000, **_DEEP),
    configure(HELD_OUT, "mlp-batch-10", adam(0.01, betas=(0.9, 0.9999)), 10, 3000, **_DEEP),
    configure(HELD_OUT, "mlp-no-momentum", adam(3e-3, betas=(0.0, 0.999)), 25, 3000, **_DEEP),
    configure(
        DEVELOPMENT, "transformer-ce-batch-16", adamw(5e-3, 0.5), 16, 1500, sequences=64, loss="ce", **_RULES
    ),
    configure(HELD_OUT, "transformer-batch-10", adam(5e-3), 10, 1500, **_RULES),
    configure(DEVELOPMENT, "lstm-batch-25", adam(0.01), 25, 3000),
    configure(HELD_OUT, "lstm-long-memory", adam(0.01, betas=(0.9, 0.9999)), 25, 2500),
    configure(HELD_OUT, "pinn-batch-32", adam(0.01), 32, 3000),
    configure(DEVELOPMENT, "pinn-fresh", adam(0.01), 32, 2200, points=None),
)
_WHOLE = (
    configure(DEVELOPMENT, "mlp-sines", adam(0.01), None, 4000),
    configure(HELD_OUT, "mlp-quadratic", adam(0.03), None, 2500, target="quadratic"),
    configure(HELD_OUT, "cnn-digits", adam(5e-3, schedule="cosine"), None, 1500),
    configure(DEVELOPMENT, "mlp-short", adam(0.01, betas=(0.9, 0.9)), None, 2000, layers=2, width=50),
    configure(DEVELOPMENT, "cnn-short", adam(0.01, betas=(0.9, 0.99)), None, 800),
    configure(HELD_OUT, "lstm-no-momentum", adam(3e-3, betas=(0.0, 0.99)), None, 1500),
    configure(DEVELOPMENT, "transformer-rules", adam(3e-3), None, 1200, **_RULES),
    configure(HELD_OUT, "lstm-digits", adam(0.01), None, 1600),
    configure(DEVELOPMENT, "pinn-poisson", adam(0.01, **_RISING), None, 1600),
    configure(HELD_OUT, "language-tiny-whole", adamw(5e-3, 1.0), None, 1000, sequences=16, **_TINY),
)
_CONTROLS = (
    configure(DEVELOPMENT, "mlp-sines-short", adam(0.01, betas=_SHORT), None, 3000, "control"),
    configure(HELD_OUT, "mlp-sines-equal", adam(0.01, betas=_EQUAL), None, 3000, "control"),
    configure(HELD_OUT, "mlp-batch-10-slow", adam(1e-3), 10, 3000, "control", **_DEEP),
    configure(DEVELOPMENT, "cnn-batch-25-slow", adam(3e-4), 25, 2000, "control", **_IMAGES),
    configure(HELD_OUT, "cnn-digits-slow", adam(5e-4), None, 1000, "control"),
    configure(HELD_OUT, "lstm-digits-short", adam(3e-3, betas=_SHORT), None, 1200, "control"),
    configure(HELD_OUT, "transformer-slow", adam(3e-4), None, 800, "control", **_RULES),
    configure(DEVELOPMENT, "lstm-batch-25-slow", adam(1e-3), 25, 2000, "control"),
    configure(HELD_OUT, "pinn-batch-32-slow", adam(1e-3), 32, 1500, "control"),
    configure(DEVELOPMENT, "language-fresh", adamw(3e-3, 0.1, **_FALLING), 8, 800, "control", **_FRESH),
    configure(
        HELD_OUT, "language-fresh-word", adamw(3e-3, 0.1, **_FALLING), 8, 500, "control", **_WORDS, **_FRESH
    ),
    configure(DEVELOPMENT, "addition-59-slow", adamw(3e-4, 1.0), 256, 600, "control"),
    configure(HELD_OUT, "language-tiny-slow", adamw(5e-4, 1.0), 8, 1000, "control", sequences=32, **_TINY),
)
_FULL = (*_LANGUAGE, *_MINI, *_WHOLE, *_CONTROLS)

_QUICK = (
    configure(DEVELOPMENT, "language-quick", adamw(5e-3, 1.0), 8, 1000, sequences=32, **_TINY),
    configure(HELD_OUT, "mlp-quick-batch-10", adam(0.01, betas=(0.9, 0.9999)), 10, 2500, **_DEEP),
    configure(DEVELOPMENT, "mlp-quick", adam(0.01), None, 2500),
    configure(HELD_OUT, "cnn-quick", adam(5e-3), None, 700),
    configure(HELD_OUT, "lstm-quick", adam(0.01), None, 1000),
    configure(DEVELOPMENT, "pinn-quick-fresh", adam(0.01), 32, 1400, points=None),
    configure(DEVELOPMENT, "cnn-quick-slow", adam(3e-4), 25, 600, "control", **_IMAGES),
    configure(HELD_OUT, "mlp-quick-equal", adam(0.01, betas=_EQUAL), None, 2000, "control"),
)

_FEW: dict[str, Any] = {"sequences": 16}
_TEST = (
    configure(TEST, "residual", adam(3e-3), None, 1200),
    configure(TEST, "flow", adam(0.01), None, 1500),
    configure(TEST, "flow-batch-10", adam(0.01), 10, 1800),
    configure(TEST, "graph-batch-20", adam(0.01), 20, 1800),
    configure(TEST, "coordinates", adam(3e-3), None, 1000),
    configure(TEST, "coordinates-batch-64", adam(3e-3), 64, 1500),
    configure(TEST, "coordinates-batch-32", adam(3e-3, betas=(0.9, 0.9999)), 32, 1500),
    configure(TEST, "autoencoder", adam(0.01), None, 1200, images=50, code=24),
    configure(TEST, "contrastive", adamw(0.01, 0.3), None, 1200),
    configure(TEST, "contrastive-batch-20", adamw(0.01, 0.3), 20, 1500),
    configure(TEST, "gru", adamw(0.01, 0.3), 8, 1500),
    configure(TEST, "statespace", adamw(0.01, 0.3), 8, 1500),
    configure(TEST, "experts", adamw(5e-3, 0.5), 8, 1500),
    configure(TEST, "experts-whole", adamw(5e-3, 0.5), None, 1000, **_FEW),
    configure(TEST, "mixer", adamw(5e-3, 0.5), 16, 1500),
    configure(TEST, "autoencoder-slow", adam(1e-3), None, 800, "control", images=50, code=24),
    configure(TEST, "flow-batch-10-slow", adam(1e-3), 10, 800, "control"),
    configure(TEST, "graph-batch-20-slow", adam(1e-3), 20, 800, "control"),
    configure(TEST, "coordinates-batch-64-slow", adam(3e-4), 64, 800, "control"),
    configure(TEST, "contrastive-batch-20-slow", adamw(1e-3, 0.3), 20, 800, "control"),
    configure(TEST, "gru-slow", adamw(1e-3, 0.3), 8, 800, "control"),
    configure(TEST, "mixer-slow", adamw(5e-4, 0.5), 16, 800, "control"),
)
_SUITES: Mapping[str, tuple[RunConfig, ...]] = MappingProxyType(
    {"full": _FULL, "quick": _QUICK, "test": _TEST}
)
SUITES = tuple(_SUITES)
"""Names of the suites."""
