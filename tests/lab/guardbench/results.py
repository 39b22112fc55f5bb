"""Made-up results for the tests of what comes after training."""

from __future__ import annotations


def result(method="adam", *, config="task", seed=0, start=0, spikes=(), loss=1.0, validation=1.0, **fields):
    """Return a result as `load_result` would."""
    return {
        "config": config,
        "seed": seed,
        "start": start,
        "method": method,
        "split": "development",
        "family": "mlp",
        "group": "full",
        "rate": "base",
        "steps": 300,
        "spikes": list(spikes),
        "worst_ratio": max(spikes, default=1.0),
        "mean_loss": loss,
        "mean_validation": validation,
        "last_validation": validation,
        "best_validation": validation,
        "diverged": False,
        "acted": None,
        "passes": 0.0,
        "seconds": 1.0,
        **fields,
    }
