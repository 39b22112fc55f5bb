"""Run logs to report on: Adam on a noisy quadratic, probed and forecast as a monitor would."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from foreshock.forecast import EdgeReading, RunForecaster
from foreshock.runlog import Run, RunLogWriter, read_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SETTINGS = {"learning_rate": 0.3, "beta2": 0.99, "steps": 1200, "every": 5}


def write_run(folder: Path, *, seed: int = 0, curvature: bool = True, **settings: float) -> Path:
    """Write the log of a run that spikes by itself; return its folder."""
    eta, beta2, steps, every = (SETTINGS | settings).values()
    beta1, noise = 0.9, 1e-5
    random = np.random.default_rng(seed)
    meta = {
        "name": folder.name,
        "description": "Adam on a noisy quadratic",
        "optimizer": "Adam",
        "learning_rate": eta,
        "betas": [beta1, beta2],
        "parameters": 1,
    }
    writer = RunLogWriter(folder, meta=meta)
    forecaster = RunForecaster(beta2=beta2)
    theta, m, v = 0.3, 0.0, 0.03
    factor = (1 - beta1) / (1 + beta1)
    for step in range(int(steps)):
        g = theta + noise * random.standard_normal()
        previous, m, v = v, beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        ratio = factor * eta / (2 * math.sqrt(v)) * math.exp(0.002 * random.standard_normal())
        loss = (2e-5 + theta * theta) * math.exp(0.05 * random.standard_normal())
        writer.write("step", _step(step, loss, g, v, math.log(v / previous) / math.log(beta2)))
        forecaster.record_step(loss=loss, squared_gradient=g * g, second_moment=v)
        if curvature and step % int(every) == 0:
            alignment = abs(theta) / math.hypot(theta, 2e-4)
            writer.write("curvature", _reading(step, ratio, alignment))
            reading = EdgeReading(ratio, learning_rate=eta, alignment=alignment, loss=loss)
            forecaster.record_curvature(step, reading)
            writer.write("forecast", forecaster.forecast(step, constant=True))
        theta -= eta * m / math.sqrt(v)
    writer.close()
    return folder


def _step(step: int, loss: float, g: float, v: float, exponent: float) -> dict[str, float]:
    return {
        "step": step,
        "loss": loss,
        "gradient_norm": abs(g),
        "learning_rate": 0.3,
        "instant_lag": v / (g * g),
        "decay_exponent": exponent,
    }


def _reading(step: int, ratio: float, alignment: float) -> dict[str, object]:
    return {
        "step": step,
        "stability_ratio": ratio,
        "error_bound": 1e-3 * ratio,
        "preconditioned_sharpness": ratio * 2 / 0.3,
        "threshold": 2 / 0.3,
        "gradient_stability_ratio": ratio * alignment**2,
        "gradient_directional_curvature": None,
        "update_stability_ratio": ratio * alignment**3,
        "update_directional_curvature": None,
        "alignment": alignment,
        "predicted_loss_change": -1e-4,
        "products": 4,
        "converged": True,
        "backend": "autograd",
        "seconds": 0.01,
    }


@pytest.fixture(scope="session")
def spiky(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(write_run(tmp_path_factory.mktemp("runs") / "spiky"))


@pytest.fixture(scope="session")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(write_run(tmp_path_factory.mktemp("runs") / "blind", curvature=False))


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Run]:
    """Return a function that writes (kind, record) pairs as a log and reads it back."""

    def write(*rows: tuple[str, dict[str, object]], **meta: object) -> Run:
        writer = RunLogWriter(tmp_path / "hand-written", meta=meta)
        for kind, record in rows:
            writer.write(kind, record)
        writer.close()
        return read_run(tmp_path / "hand-written")

    return write
