"""Small synthetic traces with known answers."""

from __future__ import annotations

import numpy as np

from foreshock.lab.spikebench.trace import Column, Trace

DENSE = (
    "loss",
    "gradient_norm",
    "update_norm",
    "second_moment",
    "lag_ratio",
    "decay_exponent",
    "preconditioned_square",
    "linear_change",
    "secant_ratio",
    "learning_rate",
    "update_rms",
)
SPARSE = (
    "stability_ratio",
    "stability_error",
    "gradient_ratio",
    "update_ratio",
    "alignment",
    "predicted_change",
    "sharpness",
    "batch_sharpness",
    "critical_rate",
    "kurtosis",
    "trial_change",
    "trial_linear",
)
PAIRS = ("pair_mean", "pair_square", "pair_along", "noise_factor")


def meta(**changes):
    """Return the description of a run."""
    kinds = ("probe", "pair", "sharpness", "batch_sharpness", "critical_rate", "kurtosis", "trial")
    return {
        "name": "synthetic",
        "family": "mlp",
        "seed": 0,
        "split": "development",
        "role": "spiky",
        "kind": "full",
        "language": False,
        "batch_size": 10,
        "steps": 600,
        "beta1": 0.9,
        "beta2": 0.999,
        "strides": dict.fromkeys(kinds, 10),
        "costs": dict.fromkeys(kinds, 2.0),
        **changes,
    }


def column(values, every=1, start=0):
    """Return values at every so many steps."""
    values = np.asarray(values, dtype=float)
    return Column(start + every * np.arange(values.size), values)


def trace(loss, columns=(), **changes):
    """Return a trace of these losses, one a step, and other columns."""
    return Trace(meta(steps=len(loss), **changes), {"loss": column(loss), **dict(columns)})


def spiky_loss(n=600, onsets=(200, 400), width=3, height=10.0):
    """Return ones with a few higher steps."""
    loss = np.ones(n)
    for onset in onsets:
        loss[onset : onset + width] = height
    return loss


def noisy_trace(n=400, seed=0, **changes):
    """Return a trace with every column filled with positive noise."""
    random = np.random.default_rng(seed)
    kind = changes.get("kind", "mini")
    columns = {name: column(np.exp(random.normal(size=n))) for name in DENSE}
    names = (*SPARSE, *PAIRS) if kind == "mini" else SPARSE
    columns |= {name: column(np.exp(random.normal(size=n // 5)), every=5) for name in names}
    columns["trial_linear"] = Column(columns["trial_linear"].steps, -columns["trial_linear"].values)
    return Trace(meta(steps=n, **{"kind": kind, **changes}), columns)
