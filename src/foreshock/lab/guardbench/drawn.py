"""Tasks that nobody chose: family, size, batch, learning rate and memory drawn at random.

Rules are made while looking at tasks, and tasks are chosen by whoever makes the rules. Of these only the
ranges were chosen: the usual learning rate of each family, up to five times of which is drawn, and sizes that
train in seconds. The seed of a draw is its split and number, so that the held-out ones were fixed without
being seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from foreshock.lab.spikebench.suite import DEVELOPMENT, HELD_OUT, RunConfig, adam, adamw, configure

_FULL_BATCH = 0.7  # share of the draws
_HIGHEST = 5.0  # × the usual learning rate
_BETA2 = (0.999, 0.999, 0.99, 0.9999)
_DECAY = 0.3  # of families that are trained with weight decay, times one half to two


@dataclass(frozen=True)
class Range:
    """From what the tasks of a family are drawn.

    Attributes:
        rate: The usual learning rate.
        steps: Number of steps.
        batch: Examples of a mini-batch.
        decays: Whether it is trained by AdamW with weight decay.
        options: Values of the family's options, each drawn with equal probability.
    """

    rate: float
    steps: int
    batch: int
    decays: bool = False
    options: Mapping[str, Sequence[Any]] = field(default_factory=dict)


_WIDTHS = (32, 48, 64)
RANGES: Mapping[str, Range] = {
    "mlp": Range(3e-3, 1800, 25, options={"target": ("sines", "quadratic"), "width": (50, 100, 200)}),
    "cnn": Range(3e-3, 675, 25, options={"loss": ("mse", "ce"), "activation": ("gelu", "relu")}),
    "transformer": Range(
        3e-3,
        525,
        10,
        decays=True,
        options={"loss": ("mse", "ce"), "vocabulary": (12, 16, 24), "length": (8, 10), "width": (24, 32)},
    ),
    "lstm": Range(3e-3, 750, 25, options={"hidden": (24, 32), "loss": ("mse", "ce")}),
    "pinn": Range(
        3e-3, 750, 32, options={"equation": ("poisson", "burgers"), "width": (24, 32), "layers": (2, 3)}
    ),
    "value": Range(1e-3, 1350, 25, options={"refresh": (50, 100), "width": _WIDTHS}),
    "residual": Range(3e-3, 750, 25, options={"width": _WIDTHS, "blocks": (2, 3, 4)}),
    "flow": Range(3e-3, 900, 10, options={"width": _WIDTHS}),
    "graph": Range(3e-3, 750, 20, options={"width": (24, 32), "layers": (2, 3)}),
    "coordinates": Range(3e-3, 900, 64, options={"width": _WIDTHS, "layers": (2, 3)}),
    "autoencoder": Range(3e-3, 1050, 25, options={"width": _WIDTHS, "code": (8, 16)}),
    "contrastive": Range(3e-3, 750, 20, decays=True, options={"width": _WIDTHS}),
    "gru": Range(3e-3, 525, 8, decays=True, options={"hidden": (32, 48)}),
    "statespace": Range(3e-3, 525, 8, decays=True, options={"hidden": (32, 48)}),
    "experts": Range(3e-3, 525, 8, decays=True, options={"width": (24, 32), "experts": (2, 4)}),
    "mixer": Range(3e-3, 525, 16, decays=True, options={"width": (24, 32)}),
}
"""What is drawn from, by family; language models and modular addition take too long."""

ROUNDS: Mapping[Literal["development", "held-out"], int] = {DEVELOPMENT: 2, HELD_OUT: 16}
"""How often each family is drawn."""

FIRST: Mapping[Literal["development", "held-out"], int] = {DEVELOPMENT: 0, HELD_OUT: 10000}
"""Number of the first draw. Held-out ones from 1000 on were scored with earlier rules, and are known."""


def drawn() -> tuple[RunConfig, ...]:
    """Return all draws of both splits.

    Example:
        >>> [config.name for config in drawn()][:2]
        ['mlp-drawn-000', 'cnn-drawn-001']
    """
    return tuple(config for split in ROUNDS for config in _draws(split))


def _draws(split: Literal["development", "held-out"]) -> Iterator[RunConfig]:
    for number in range(ROUNDS[split] * len(RANGES)):
        family = list(RANGES)[number % len(RANGES)]
        yield draw(family, split, FIRST[split] + number)


def draw(family: str, split: Literal["development", "held-out"], number: int) -> RunConfig:
    """Draw a task.

    Args:
        family: One of `RANGES`.
        split: The split that it is of.
        number: The seed of the draw.

    Example:
        >>> draw("mlp", "development", 7) == draw("mlp", "development", 7)
        True
    """
    given = RANGES[family]
    # A string is hashed to the same numbers in each version of Python; `choice` may change.
    uniform = random.Random(f"{split} {family} {number}").random  # noqa: S311

    def one_of(values: Sequence[Any]) -> Any:
        return values[int(uniform() * len(values))]

    rate = given.rate * _HIGHEST ** uniform()
    settings = {"betas": (0.9, one_of(_BETA2))}
    decay = _DECAY * 2 ** (2 * uniform() - 1)
    batch = None if uniform() < _FULL_BATCH else given.batch
    options = {name: one_of(values) for name, values in given.options.items()}
    optimizer = adamw(rate, decay, **settings) if given.decays else adam(rate, **settings)
    return configure(split, f"{family}-drawn-{number:03}", optimizer, batch, given.steps, **options)
