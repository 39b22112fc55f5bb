"""Logs written by hand, with the numbers of one event each."""

from __future__ import annotations

import math

import numpy as np

from foreshock.runlog import RunLogWriter, read_run

STEPS, AT = 400, 250


def write(folder, *, loss, records=(), meta=None, every=1, **columns):
    """Write a log: a loss for each step, other columns as arrays or numbers, and more records."""
    log = RunLogWriter(folder, meta=meta)
    usual = {
        "gradient_norm": 1.0,
        "learning_rate": 1e-3,
        "instant_lag": 1.0,
        "decay_exponent": 0.0,
        "second_moment": 1.0,
        "squared_gradient": 1.0,
        "batch_size": 32,
        "batch_elements": 320,
    }
    columns = {name: np.broadcast_to(value, len(loss)) for name, value in (usual | columns).items()}
    rows = [
        (
            "step",
            {"step": every * step, "loss": float(value)}
            | {name: column[step].item() for name, column in columns.items()},
        )
        for step, value in enumerate(loss)
    ]
    every = sorted([*rows, *records], key=lambda pair: pair[1]["step"])
    log.write_many(every)
    log.close()
    return read_run(folder)


def calm(n=STEPS, level=1.0):
    """A loss with a little noise around a level."""
    return level * (1 + 0.01 * np.random.default_rng(0).standard_normal(n))


def grown(n=STEPS, at=AT, peak=20.0, over=15):
    """A loss that grows over some steps to a peak and falls back."""
    loss = calm(n)
    rise = np.geomspace(1.05, peak, over)
    loss[at : at + over] = rise
    loss[at + over : at + 2 * over] = rise[::-1]
    return loss


def grown_norm(n=STEPS, at=AT, over=15):
    """The gradient of such a loss, which grows before it."""
    norm = np.ones(n)
    norm[at - 5 : at + over] = np.geomspace(2, 40, over + 5)
    norm[at + over : at + 2 * over] = np.geomspace(40, 1, over)
    return norm


def ratio(step, value, **more):
    return "curvature", {"step": step, "stability_ratio": value, "error_bound": 0.01} | more


def growth(step, since, preconditioner, landscape):
    return "growth", {
        "step": step,
        "since": since,
        "preconditioner_growth": preconditioner,
        "landscape_growth": landscape,
    }


def change(step, what, before=None, after=None, names=()):
    return "change", {
        "step": step,
        "what": what,
        "before": before or {},
        "after": after or {},
        "names": list(names),
    }


NAN = math.nan
