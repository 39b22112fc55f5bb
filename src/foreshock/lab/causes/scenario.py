"""Trainings drawn at random, each with one thing done to it that makes its loss spike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from foreshock.explain import CAUSES, Name

# The last two take several times as long a step.
_FAMILIES = {"mlp": 0.3, "deep mlp": 0.3, "cnn": 0.2, "lstm": 0.1, "transformer": 0.1}
_SEED = 20_240_613

FRESH = 20
"""First held-out draw that was never scored: those before it were, with tests that have changed since."""


@dataclass(frozen=True)
class Scenario:
    """One training of the labelled set.

    Attributes:
        cause: What is done to it.
        index: Which draw of that cause; even ones are held out.
        attempt: How many draws before it did not spike.
        family: Architecture, a key of `networks`.
        seed: Of weights and batches.
        batch_size: Examples in a batch; None for all.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"``.
        lr: Learning rate at the start.
        betas: β₁ and β₂; of SGD the first is the momentum.
        eps: ε.
        steps: Number of steps.
        at: First step that differs.
        budget: What the monitor may spend.
        how: Numbers of what is done, by name.
    """

    cause: Name
    index: int
    attempt: int
    family: str
    seed: int
    batch_size: int | None
    optimizer: str
    lr: float
    betas: tuple[float, float]
    eps: float
    steps: int
    at: int
    budget: float
    how: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name that is unique in the set, and fit for a folder."""
        return f"{self.cause.replace(' ', '-')}-{self.index}"

    @property
    def split(self) -> str:
        """``held-out`` or ``development``, by the number of the draw."""
        return "held-out" if self.index % 2 == 0 else "development"

    def as_mapping(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def draw_scenario(cause: Name, index: int, attempt: int = 0) -> Scenario:
    """Return a training whose parameters are drawn at random; the same arguments give the same one.

    Args:
        cause: One of `foreshock.explain.CAUSES`.
        index: Which draw, ≥ 0.
        attempt: How many draws of this index did not spike.

    Raises:
        ValueError: If there is no such cause.

    Example:
        >>> one = draw_scenario("bad batch", 3)
        >>> one == draw_scenario("bad batch", 3), one.split
        (True, 'development')
    """
    if cause not in _DRAWS:
        raise ValueError(f"cause is {cause!r}; it must be one of {', '.join(_DRAWS)}")
    rng = np.random.default_rng((_SEED, CAUSES.index(cause), index, attempt))
    at = int(rng.integers(100, 201))
    common: dict[str, Any] = {
        "cause": cause,
        "index": index,
        "attempt": attempt,
        "family": str(rng.choice(list(_FAMILIES), p=list(_FAMILIES.values()))),
        "seed": int(rng.integers(2**31)),
        "batch_size": None if rng.random() < 0.25 else int(rng.choice([16, 32, 64])),
        "optimizer": str(rng.choice(["adam", "adamw"])),
        "lr": _log(rng, 5e-4, 3e-3),
        "betas": (0.9, float(rng.choice([0.95, 0.98, 0.99, 0.999]))),
        "eps": 1e-8,
        "at": at,
        "steps": at + (30 if cause.endswith("overflow") else 65),
        "budget": float(rng.choice([0.1, 0.2])),
    }
    return Scenario(**(common | _DRAWS[cause](rng)))


def _log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _lag(rng: np.random.Generator) -> dict[str, Any]:
    """Full batches and a long memory of v, at a rate that is safe for gradient descent."""
    family = str(rng.choice(["mlp", "cnn"]))
    low, high = (1e-2, 4e-2) if family == "mlp" else (3e-3, 1e-2)
    return {
        "family": family,
        "optimizer": "adam",
        "batch_size": None,
        "betas": (0.9, float(rng.choice([0.99, 0.995, 0.999]))),
        "lr": _log(rng, low, high),
        "at": 0,
        "steps": 800,
        "budget": 0.2,
    }


def _landscape(rng: np.random.Generator) -> dict[str, Any]:
    """A short memory of v or none, and a scale that is learned: the curvature is one over its square."""
    plain = rng.random() < 0.5
    momentum = float(rng.choice([0.0, 0.5, 0.9]))
    return {
        "family": str(rng.choice(["density mlp", "density deep mlp"])),
        "optimizer": "sgd" if plain else "adam",
        "betas": (momentum, 0.0) if plain else (0.9, float(rng.choice([0.9, 0.95]))),
        "batch_size": None,
        "lr": _log(rng, 0.04, 0.12) * (1 - 0.8 * momentum) if plain else _log(rng, 0.03, 0.1),
        "at": 0,
        "steps": 800,
        "budget": 0.2,
    }


def _noise(rng: np.random.Generator) -> dict[str, Any]:
    """Small batches of examples that differ, and a long memory of v."""
    family = str(rng.choice(["mlp", "deep mlp", "cnn"]))
    low, high = {"mlp": (1e-2, 5e-2), "deep mlp": (5e-3, 3e-2), "cnn": (3e-3, 1.5e-2)}[family]
    return {
        "family": family,
        "batch_size": int(rng.choice([8, 16])),
        "betas": (0.9, float(rng.choice([0.99, 0.999]))),
        "lr": _log(rng, low, high),
        "at": 0,
        "steps": 800,
        "budget": 0.2,
    }


def _rate(rng: np.random.Generator) -> dict[str, Any]:
    """A rate that jumps, a warm-up to too high a rate, or warm restarts."""
    kind = str(rng.choice(["jump", "warm-up", "restart"]))
    if kind == "jump":
        return {"how": {"kind": kind, "times": _log(rng, 8, 60)}}
    if kind == "warm-up":
        length = int(rng.integers(60, 160))
        return {
            "lr": _log(rng, 0.05, 0.5),
            "at": 0,
            "steps": length + 80,
            "how": {"kind": kind, "length": length},
        }
    period = int(rng.integers(100, 180))
    return {
        "lr": _log(rng, 0.01, 0.05),
        "at": period,
        "steps": period + 65,
        "how": {"kind": kind, "period": period},
    }


def _bad_batch(rng: np.random.Generator) -> dict[str, Any]:
    """One batch with some wrong labels, or damaged inputs."""
    size = int(rng.choice([16, 32, 64]))
    kind = str(rng.choice(["labels", "inputs"]))
    return {
        "batch_size": size,
        "how": {
            "kind": kind,
            "rows": int(rng.integers(1, size // 2)),
            "size": _log(rng, 20, 300) if kind == "labels" else _log(rng, 10, 100),
        },
    }


def _data(rng: np.random.Generator) -> dict[str, Any]:
    """From one step on other inputs, other targets, or both."""
    return {
        "how": {
            "inputs": float(rng.choice([0.0, 1.0])) * float(rng.uniform(1, 3)),
            "targets": float(rng.uniform(1.5, 6)),
        }
    }


def _shape(rng: np.random.Generator) -> dict[str, Any]:
    """Shorter sequences from one step on, or a batch of one or two examples."""
    if rng.random() < 0.6:
        return {
            "family": "lstm",
            "batch_size": int(rng.choice([32, 64])),
            "how": {"kind": "length", "rows": int(rng.integers(2, 5))},
        }
    return {
        "family": str(rng.choice(["mlp", "deep mlp", "cnn"])),
        "batch_size": 64,
        "how": {"kind": "size", "rows": int(rng.integers(1, 3)), "once": bool(rng.random() < 0.5)},
    }


def _lost_state(rng: np.random.Generator) -> dict[str, Any]:
    """Another optimizer, whose state was not loaded, or lacks v."""
    kind = "all" if rng.random() < 0.6 else "v"
    return {"lr": _log(rng, 1e-3, 1e-2), "betas": (0.9, 0.999), "how": {"kind": kind}}


def _parameters(rng: np.random.Generator) -> dict[str, Any]:
    """Layers that are trained only from one step on, often at a higher rate."""
    return {"how": {"times": _log(rng, 3, 60)}}


def _options(rng: np.random.Generator) -> dict[str, Any]:
    """Another β₂, ε or momentum in the middle of a run."""
    kind = str(rng.choice(["beta2", "eps", "momentum"]))
    if kind == "beta2":
        return {
            "betas": (0.9, 0.999),
            "lr": _log(rng, 2e-3, 1e-2),
            "how": {"kind": kind, "value": float(rng.choice([0.5, 0.8, 0.9]))},
        }
    if kind == "eps":
        return {
            "eps": _log(rng, 0.03, 0.3),
            "lr": _log(rng, 5e-3, 3e-2),
            "how": {"kind": kind, "value": 1e-8},
        }
    return {
        "optimizer": "sgd",
        "betas": (0.0, 0.0),
        "lr": _log(rng, 0.02, 0.1),
        "how": {"kind": kind, "value": float(rng.choice([0.98, 0.99, 0.995]))},
    }


def _forward(rng: np.random.Generator) -> dict[str, Any]:
    """A forward pass that overflows, or divides by zero."""
    return {"how": {"kind": str(rng.choice(["half", "exp", "zero"]))}}


def _gradient(rng: np.random.Generator) -> dict[str, Any]:
    """A gradient that overflows at a loss that is finite."""
    return {"how": {"kind": str(rng.choice(["root", "scale", "one"]))}}


_DRAWS: Mapping[str, Callable[[np.random.Generator], dict[str, Any]]] = MappingProxyType(
    {
        "preconditioner lag": _lag,
        "landscape": _landscape,
        "learning rate": _rate,
        "bad batch": _bad_batch,
        "data change": _data,
        "batch shape": _shape,
        "lost optimizer state": _lost_state,
        "parameters changed": _parameters,
        "options changed": _options,
        "forward overflow": _forward,
        "gradient overflow": _gradient,
        "gradient noise": _noise,
    }
)
