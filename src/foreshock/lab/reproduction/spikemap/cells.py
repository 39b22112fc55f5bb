"""The cells of the map: which trainings it has, and in which order they are run."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal

from foreshock.lab.tasks import OptimizerConfig, TrainingConfig

BatchKind = Literal["full", "mini"]

MEMORIES = (0.95, 0.99, 0.999)
DECAYS = (0.0, 0.3)
BATCHES: tuple[BatchKind, ...] = ("full", "mini")


@dataclass(frozen=True)
class Kind:
    """One kind of network, of a size that trains in a second or two.

    Attributes:
        title: What it is, in a few words.
        family: Family of the task.
        options: Options of the family.
        mini: Examples in a mini-batch, about a quarter of the training set.
        steps: Updates of a training.
        rates: Learning rates, from one without spikes to one with many.
    """

    title: str
    family: str
    options: Mapping[str, Any]
    mini: int
    steps: int
    rates: tuple[float, ...]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "mlp": Kind(
            "MLP, sin x + sin 4x",
            "mlp",
            {"points": 100, "width": 100},
            mini=25,
            steps=2000,
            rates=(0.003, 0.01, 0.03, 0.1),
        ),
        "cnn": Kind(
            "CNN, digits",
            "cnn",
            {"images": 60, "pool": "average"},
            mini=15,
            steps=600,
            rates=(0.003, 0.01, 0.03, 0.1),
        ),
        "transformer": Kind(
            "Transformer, addition",
            "addition",
            {"modulus": 19, "width": 24, "heads": 2, "share": 0.6},
            mini=54,
            steps=700,
            rates=(0.001, 0.003, 0.01, 0.03),
        ),
        "lstm": Kind(
            "LSTM, digits",
            "lstm",
            {"examples": 60, "hidden": 24},
            mini=15,
            steps=600,
            rates=(0.003, 0.01, 0.03, 0.1),
        ),
    }
)
"""The kinds of networks by name."""


@dataclass(frozen=True)
class Cell:
    """One cell: a training but for its seed.

    Attributes:
        kind: A name in `KINDS`.
        batch: "full", or "mini" for about a quarter of the training set.
        beta2: β₂.
        decay: Decoupled weight decay, on matrices.
        rate: The learning rate η, constant.

    Example:
        >>> Cell("mlp", "full", 0.999, 0.0, 0.01).config().batch_size is None
        True
    """

    kind: str
    batch: BatchKind
    beta2: float
    decay: float
    rate: float

    @property
    def name(self) -> str:
        """Its name, unique among the cells."""
        return f"{self.kind}-{self.batch}-beta{self.beta2:g}-decay{self.decay:g}-rate{self.rate:g}"

    def config(self, *, steps: int | None = None) -> TrainingConfig:
        """Return what is trained.

        Args:
            steps: Updates; None for those of the kind.
        """
        return self.training(KINDS[self.kind], steps=steps)

    def training(self, kind: Kind, *, steps: int | None = None) -> TrainingConfig:
        """Return what is trained, of a kind that need not be one of the map.

        Args:
            kind: The kind of network.
            steps: Updates; None for those of the kind.
        """
        optimizer = OptimizerConfig(
            "adamw", self.rate, betas=(0.9, self.beta2), weight_decay=self.decay, schedule="constant"
        )
        return TrainingConfig(
            name=self.name,
            family=kind.family,
            optimizer=optimizer,
            steps=kind.steps if steps is None else steps,
            batch_size=None if self.batch == "full" else kind.mini,
            options=kind.options,
        )


def fingerprint(config: TrainingConfig, seed: int) -> str:
    """Return a hash of what a training depends on.

    Args:
        config: The training.
        seed: Its seed.
    """
    text = json.dumps([asdict(config), seed], sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def all_cells() -> list[Cell]:
    """Return all cells in the order in which they are run: mixed, so that each part of it covers the map.

    Example:
        >>> len(all_cells()), len(set(all_cells()))
        (192, 192)
    """
    cells = [
        Cell(kind, batch, beta2, decay, rate)
        for kind, batch, beta2, decay in itertools.product(KINDS, BATCHES, MEMORIES, DECAYS)
        for rate in KINDS[kind].rates
    ]
    return sorted(cells, key=lambda cell: hashlib.sha256(cell.name.encode()).hexdigest())
